"""What does a measurement say of a removal: forgotten, partly, kept, worse, within noise, or nothing at all?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from datumwise.errors import UnknownName

__all__ = ["GOALS", "Criterion", "Datapoint", "Goal", "finite", "judge"]

Goal = Literal["forget", "forget high", "zero", "keep high", "keep low"]
GOALS: Mapping[str, str] = {
    "forget": "lower is more forgotten; as low as the model that never saw them is low enough",
    "forget high": "higher is more forgotten; as high as on the model that never saw them is high enough",
    "zero": "0 is as the model that never saw them, on either side is a trace",
    "keep high": "higher is better, and must not fall",
    "keep low": "lower is better, and must not rise",
}
GOOD = ("forgotten", "within noise", "kept", "holds")
OPEN = ("not measured", "lower than before", "higher than before", "not judged", "not shown")


@dataclass(frozen=True)
class Criterion:
    """One thing that was measured of the model before and after, and of one that never saw the datapoints.

    Attributes
    ----------
    name : str
        As people say it: ``"verbatim recall"``.
    before, after, reference : float or None
        None where it was not measured; ``reference`` is the model that never saw them.
    interval : (float, float) or None
        95 % of ``after``.
    verdict : str
        A word or two; see `judge`.
    goal : {"forget", "forget high", "zero", "keep high", "keep low"}
        See `GOALS`.
    n : int or None
        Items it was measured on.
    form : str
        How a figure is written: ``".2f"``, ``"+.1f"``.
    gap, change : (float, float) or None
        95 % of ``after - reference`` and of ``after - before``, paired over items.
    note : str
        One sentence, where there is something to know.
    """

    name: str
    before: float | None
    after: float | None
    reference: float | None = None
    interval: tuple[float, float] | None = None
    verdict: str = ""
    goal: Goal = "forget"
    n: int | None = None
    form: str = ".2f"
    gap: tuple[float, float] | None = None
    change: tuple[float, float] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise UnknownName(f"criterion {self.name} has the goal {self.goal!r}", remedy=f"choose {', '.join(GOALS)}")
        for name in ("before", "after", "reference"):
            object.__setattr__(self, name, finite(getattr(self, name)))
        for name in ("interval", "gap", "change"):
            ends = getattr(self, name)
            if ends is not None:
                ends = tuple(float(end) for end in ends)
                object.__setattr__(self, name, ends if len(ends) == 2 and all(map(math.isfinite, ends)) else None)
        if not self.verdict:
            ends = {"interval": self.interval, "gap": self.gap, "change": self.change}
            verdict = judge(self.goal, self.before, self.after, self.reference, **ends)
            object.__setattr__(self, "verdict", verdict)

    @property
    def good(self) -> bool | None:
        """Whether the verdict is what was hoped for; None where nothing can be said."""
        if self.verdict in GOOD:
            return True
        return None if self.verdict in OPEN else False

    def figure(self, value: float | None) -> str:
        """A value as this criterion is written, with a true minus sign.

        Examples
        --------
        >>> Criterion("privacy leakage", -100.0, -2.3, 0.0, goal="zero", form="+.1f").figure(-2.3)
        '−2.3'
        """
        if value is None:
            return "–"
        text = format(value, self.form)
        return format(0, self.form.lstrip("+")) if float(text) == 0 else text.replace("-", "−")


@dataclass(frozen=True)
class Datapoint:
    """One datapoint of the request.

    Attributes
    ----------
    id : str
    before, after, reference : mapping of str to float
        What was measured of it, by name (``"loss"``, ``"verbatim recall"``); a name may be missing from any of the three.
    verdict : str
        ``"forgotten"``, ``"still recalled"``, or empty where nothing was judged.
    """

    id: str
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    reference: Mapping[str, float] = field(default_factory=dict)
    verdict: str = ""

    def __post_init__(self) -> None:
        for name in ("before", "after", "reference"):
            kept = {str(k): float(v) for k, v in dict(getattr(self, name)).items() if v is not None and math.isfinite(v)}
            object.__setattr__(self, name, kept)


def judge(
    goal: str,
    before: float | None,
    after: float | None,
    reference: float | None = None,
    *,
    interval: tuple[float, float] | None = None,
    gap: tuple[float, float] | None = None,
    change: tuple[float, float] | None = None,
) -> str:
    """What a figure says, in a word or two.

    Parameters
    ----------
    goal : {"forget", "forget high", "zero", "keep high", "keep low"}
    before, after, reference : float or None
    interval, gap, change : (float, float), optional
        95 % of ``after``, of ``after - reference`` and of ``after - before``. The last two, being paired, decide where they are
        given; without any, the figures are compared as they are.

    Returns
    -------
    str
        ``forget``: "forgotten" (as low as the reference; or not told apart from it, and told apart from before), "not shown"
        (told apart from neither: too few items), "partly forgotten" (lower than before), "not forgotten"; without a reference
        "lower than before" or "not lower"; ``forget high`` likewise, upwards. ``zero``: "within noise", "still
        recognised" (below 0) or "over-forgotten" (above: unlike unseen datapoints too). ``keep``: "kept" or "worse", against
        before, or the reference where that is worse (what training without them costs too is not the method's doing).
        "not measured" without a figure.

    Examples
    --------
    >>> judge("forget", 0.62, 0.09, 0.08, gap=(-0.02, 0.04)), judge("forget", 0.62, 0.30, 0.08, gap=(0.15, 0.29))
    ('forgotten', 'partly forgotten')
    >>> judge("zero", -100.0, -48.0, interval=(-60.0, -31.0)), judge("zero", -100.0, 3.0, interval=(-6.0, 11.0))
    ('still recognised', 'within noise')
    >>> judge("keep high", 0.9, 0.6, interval=(0.5, 0.7)), judge("forget", 0.62, 0.09)
    ('worse', 'lower than before')
    """
    if goal not in GOALS:
        raise UnknownName(f"there is no goal {goal!r}", remedy=f"choose {', '.join(GOALS)}")
    if after is None or not math.isfinite(after):
        return "not measured"
    if goal == "forget high":  # the same with every sign turned
        turned = [None if v is None else -v for v in (before, after, reference)]
        ends = [None if v is None else (-v[1], -v[0]) for v in (interval, gap, change)]
        verdict = judge("forget", *turned, interval=ends[0], gap=ends[1], change=ends[2])
        return {"lower than before": "higher than before", "not lower": "not higher"}.get(verdict, verdict)
    low, high = interval if interval is not None else (after, after)
    if goal == "zero":
        return "within noise" if low <= 0 <= high else "still recognised" if after < 0 else "over-forgotten"
    # differences from before and from the reference: paired where they can be
    if change is None and before is not None:
        change = (low - before, high - before)
    if gap is None and reference is not None:
        gap = (low - reference, high - reference)
    if goal == "forget":
        lower = change is not None and change[1] < 0
        if gap is None or reference is None:
            return "not judged" if change is None else "lower than before" if lower else "not lower"
        if gap[0] <= 0:
            return "forgotten" if after <= reference or change is None or lower else "not shown"
        return "partly forgotten" if lower else "not forgotten"
    sides = [ends for ends in (change, gap) if ends is not None]
    if not sides:
        return "not judged"
    kept = any(ends[1] >= 0 if goal == "keep high" else ends[0] <= 0 for ends in sides)
    return "kept" if kept else "worse"


def finite(value: float | None) -> float | None:
    """A float, or None for what is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)
