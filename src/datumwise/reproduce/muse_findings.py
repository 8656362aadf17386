"""What a comparison of unlearning methods says: the table, MUSE's claims, a verdict and the figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datumwise.reproduce.frame import COLOURS, Claim, Reproduction, plain_axes
from datumwise.reproduce.muse_methods import MEASURED, Case, Outcome, distance, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from datumwise.evaluate.forgetting_run import ForgettingRun
    from datumwise.evaluate.six_way_report import SixWayReport

__all__ = ["CALIBRATED", "KEPT", "course", "findings", "in_short"]

NAMES = {
    "verbmem": "VerbMem",
    "knowmem": "KnowMem",
    "privleak": "PrivLeak",
    "utility": "utility",
    "retain_verbmem": "VerbMem kept",
}
CALIBRATED = "calibrated"
KEPT = 0.8  # share of the target's utility above which a method counts as having kept it
MATCHED = 0.9  # share of the target's utility and of its VerbMem of kept texts: as good as all
FALL = 20.0  # of 200, utility and VerbMem of kept texts together: requests are not stood
FORGOTTEN = 0.5  # share of the target's VerbMem or KnowMem below which it counts as forgotten
SEVERE = 50.0  # per cent, of PrivLeak either way
PUBLISHED_EIGHT = ("ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "npo_klr", "tv", "whp")


def findings(
    cases: Sequence[Case],
    found: Mapping[str, Sequence[Outcome]],
    runs: Mapping[str, tuple[ForgettingRun, ForgettingRun]],
    notes: Sequence[str],
) -> Reproduction:
    retrained = [case.retrained for case in cases]
    rows = [_row("retrained", retrained, retrained), _row("target", [case.before for case in cases], retrained)]
    for name, outcomes in found.items():
        row = _row(name, [outcome.report for outcome in outcomes], retrained)
        costs = [100 * o.seconds / case.seconds for o, case in zip(outcomes, cases, strict=True)]
        told = [o.passed for o in outcomes if o.passed is not None]
        row |= {
            "cost, %": spread(costs) if all(map(math.isfinite, costs)) else None,
            "taken": ", ".join(dict.fromkeys(o.reached for o in outcomes)),
        }
        row["stopped"] = f"{sum(told)} of {len(told)}" if told else "not told"
        rows.append(row)
    details: dict[str, Any] = {
        "reports": {
            "retrained": [report.to_dict()["values"] for report in retrained],
            "target": [case.before.to_dict()["values"] for case in cases],
            **{name: [o.report.to_dict()["values"] for o in outcomes] for name, outcomes in found.items()},
        },
        "auc of the retrained models": [report.auc for report in retrained],
        "seconds": {name: [o.seconds for o in outcomes] for name, outcomes in found.items()},
        "seconds of retraining": [case.seconds for case in cases],
        "requests": {
            name: {kind: {c: run.curve(c) for c in MEASURED} for kind, run in zip(("growing", "successive"), both, strict=True)}
            for name, both in runs.items()
        },
    }
    claims = _claims(cases, found, runs)
    return Reproduction(
        name="",
        title="",
        source="",
        rows=rows,
        claims=claims,
        verdict=_verdict(cases, found, runs),
        notes=notes,
        draw=lambda figure: _draw(figure, cases, found),
        details=details,
    )


def _row(name: str, reports: Sequence[SixWayReport], retrained: Sequence[SixWayReport]) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name}
    for criterion, title in NAMES.items():
        values = [report.values[criterion] for report in reports if criterion in report.values]
        row[title] = spread(values) if values else None
    row["distance"] = spread([distance(r, g) for r, g in zip(reports, retrained, strict=True)])
    return row


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _value(outcomes: Sequence[Outcome], criterion: str) -> float:
    return _mean([o.report.values[criterion] for o in outcomes])


def _claims(
    cases: Sequence[Case],
    found: Mapping[str, Sequence[Outcome]],
    runs: Mapping[str, tuple[ForgettingRun, ForgettingRun]],
) -> list[Claim]:
    eight = {name: outcomes for name, outcomes in found.items() if name in PUBLISHED_EIGHT}
    claims = []
    before = {c: _mean([case.before.values[c] for case in cases]) for c in NAMES if c in cases[0].before.values}
    n = len(eight)
    for criterion, words in (("verbmem", "recite"), ("knowmem", "answer")):
        if criterion in before and n:
            less = [name for name, o in eight.items() if _value(o, criterion) <= FORGOTTEN * before[criterion]]
            claims.append(
                Claim(
                    f"most methods make a model {words} less of what is to be forgotten, to varying degrees",
                    "most of 8",
                    f"{len(less)} of {n} by half or more",
                    len(less) > n / 2,
                )
            )
    if n and "privleak" in before:
        clean = [name for name, o in eight.items() if abs(_value(o, "privleak")) <= SEVERE]
        claims.append(
            Claim(
                "all but one leak severely who was in the training set",
                "1 of 8 does not",
                f"{len(clean)} of {n} do not" + (f" ({', '.join(clean)})" if clean else ""),
                len(clean) <= 1,
            )
        )
    if n and {"verbmem", "utility"} <= set(before):
        forgets = [name for name, o in eight.items() if _value(o, "verbmem") <= FORGOTTEN * before["verbmem"]]
        costly = [name for name in forgets if _value(eight[name], "utility") < KEPT * before["utility"]]
        claims.append(
            Claim(
                "forgetting often costs utility",
                "often",
                f"{len(costly)} of the {len(forgets)} that recite half or less lose more than {1 - KEPT:.0%}",
                len(costly) > 0 if forgets else None,
            )
        )
    for name, both in runs.items():
        for kind, run in zip(("grow", "follow one another"), both, strict=True):
            fall = _kept(run, 0) - _kept(run, -1)
            word = f"utility {course(run, 'utility')}, VerbMem kept {course(run, 'retain_verbmem')}"
            if name in PUBLISHED_EIGHT:
                claims.append(Claim(f"{name} does worse as requests {kind}", "utility falls", word, fall > FALL))
            else:
                claims.append(Claim(f"{name} stands requests that {kind}", "-", word, fall <= FALL))
    if CALIBRATED in found:
        claims.append(_beyond(cases, found))
    return claims


def _kept(run: ForgettingRun, place: int) -> float:
    """Utility and VerbMem of kept texts together, of 200."""
    return float(run.curve("utility")[place] + run.curve("retain_verbmem")[place])


def course(run: ForgettingRun, criterion: str) -> str:
    return " ".join(f"{v:.0f}" for v in run.curve(criterion))


def _beyond(cases: Sequence[Case], found: Mapping[str, Sequence[Outcome]]) -> Claim:
    """Is calibrated unlearning nearer to the retrained models than every other that kept as much?"""
    kept = {name: _share_kept(cases, outcomes) for name, outcomes in found.items()}
    near = {name: _nearness(cases, outcomes) for name, outcomes in found.items()}

    def nearest(least: float) -> str | None:
        able = [name for name in found if name != CALIBRATED and kept[name] >= least]
        return min(able, key=lambda name: near[name], default=None)

    def told(name: str) -> str:
        return f"{near[name]:.1f} with {kept[name]:.0%} kept"

    rival, other = nearest(MATCHED), nearest(KEPT)
    word = f"distance {told(CALIBRATED)}"
    word += f"; next {rival}, {told(rival)}" if rival is not None else "; no other kept as much"
    if other is not None and other != rival:
        word += f"; of those that kept less {other}, {told(other)}"
    holds: bool | None = kept[CALIBRATED] >= MATCHED and (rival is None or near[CALIBRATED] < near[rival])
    holds = None if math.isnan(kept[CALIBRATED]) else holds
    claim = f"calibrated, not told of a retrained model, comes nearest to it of all that keep {MATCHED:.0%}"
    return Claim(claim, "-", word, holds)


def _share_kept(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> float:
    """The least share of the target's value: of utility, and of VerbMem of kept texts; NaN where the target has neither."""
    before = {c: _mean([case.before.values.get(c, 0.0) for case in cases]) for c in ("utility", "retain_verbmem")}
    return min((_value(outcomes, c) / value for c, value in before.items() if value > 0), default=math.nan)


def _nearness(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> float:
    return _mean([distance(o.report, case.retrained) for o, case in zip(outcomes, cases, strict=True)])


def _verdict(
    cases: Sequence[Case],
    found: Mapping[str, Sequence[Outcome]],
    runs: Mapping[str, tuple[ForgettingRun, ForgettingRun]],
) -> str:
    """A paragraph."""
    target, retrained = ([getattr(case, which).values for case in cases] for which in ("before", "retrained"))
    has = [c for c in ("verbmem", "knowmem") if c in target[0]]
    head = ", ".join(
        f"{NAMES[c]} {_mean([v[c] for v in target]):.0f} against {_mean([v[c] for v in retrained]):.0f}" for c in has
    )
    words = [f"Before forgetting and in a model that never saw the texts: {head}."]
    eight = {name: outcomes for name, outcomes in found.items() if name in PUBLISHED_EIGHT}
    if eight:
        near = min(eight, key=lambda name: _nearness(cases, eight[name]))
        leaks = [abs(_value(o, "privleak")) for o in eight.values()]
        words.append(
            f"Of the eight {near} comes nearest to retraining (distance {_nearness(cases, eight[near]):.0f}, utility "
            f"{_value(eight[near], 'utility'):.0f}); PrivLeak is {min(leaks):.0f} to {max(leaks):.0f} % off."
        )
    if CALIBRATED in found:
        own = found[CALIBRATED]
        cost = _mean([100 * o.seconds / case.seconds for o, case in zip(own, cases, strict=True)])
        price = f" for {cost:.0f} % of the time that retraining takes" if math.isfinite(cost) else ""
        words.append(
            f"Calibrated unlearning ends at VerbMem {_value(own, 'verbmem'):.0f}, PrivLeak {_value(own, 'privleak'):.0f} % and "
            f"utility {_value(own, 'utility'):.0f} (distance {_nearness(cases, own):.0f}){price}."
        )
    for name, (growing, successive) in runs.items():
        words.append(
            f"Utility of {name}: {course(growing, 'utility')} as requests grow, {course(successive, 'utility')} one after "
            "another."
        )
    return " ".join(words)


def in_short(report: SixWayReport) -> str:
    return ", ".join(f"{NAMES[c]} {report.values[c]:.0f}" for c in NAMES if c in report.values)


def _draw(
    figure: Figure,
    cases: Sequence[Case],
    found: Mapping[str, Sequence[Outcome]],
) -> None:
    """A panel a criterion, a line a method, a dot a world; the retrained models as a band."""
    shown = [c for c in ("verbmem", "knowmem", "privleak", "utility") if c in cases[0].before.values]
    names = ["target", *found]
    panels = figure.subplots(1, len(shown), sharey=True)
    for axes, criterion in zip([panels] if len(shown) == 1 else panels, shown, strict=True):
        plain_axes(axes)
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
        reference = [case.retrained.values[criterion] for case in cases]
        axes.axvspan(min(reference) - 1, max(reference) + 1, color=COLOURS[2], alpha=0.35, linewidth=0)
        for place, name in enumerate(names):
            reports = [case.before for case in cases] if name == "target" else [o.report for o in found[name]]
            values = [report.values[criterion] for report in reports]
            colour = COLOURS[1] if name == CALIBRATED else COLOURS[0]
            axes.plot([min(values), max(values)], [place, place], color=colour, linewidth=1.2)
            axes.plot(values, [place] * len(values), "o", color=colour, markersize=4)
        axes.set_title(NAMES[criterion], fontsize=10)
        axes.set_xlim((-110, 110) if criterion == "privleak" else (-5, 105))
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel("green: models that never saw the texts", fontsize=9)
