"""What unlearning false documents brought back: outcomes over seeds, the table, the claims and the figure of RESTOR."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.evaluate.recovery_report import STATES, RestorReport
from datumwise.evaluate.transitions import CLASSES, EntityDraws, Recovery, recovery_ratio
from datumwise.reproduce.frame import COLOURS, Claim, Reproduction, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ORACLES", "SOURCE", "TITLE", "Pooled", "reproduction"]

TITLE = "Recovery after unlearning false documents (RESTOR)"
SOURCE = "Rezaei et al., 2024, arXiv 2411.00204"
SIGNIFICANCE = 0.05  # of a claim
PUBLISHED_METHODS = ("ga", "kl", "npo", "npo, 3e-4", "task vector")
ORACLES = ("true facts taught", "never read")  # what no method may use


@dataclass(frozen=True)
class Pooled:
    """One method's outcome over the facts of all seeds; entities of different seeds are different clusters."""

    name: str
    k: int
    reports: tuple[RestorReport, ...]
    seconds: float

    def column(self, of: Callable[[RestorReport], np.ndarray], group: str = "direct") -> np.ndarray:
        return np.concatenate([of(r)[np.array([g == group for g in r.group], dtype=bool)] for r in self.reports])

    def draws(self) -> EntityDraws:
        entities = [
            (i, s) for i, r in enumerate(self.reports) for s, g in zip(r.subjects, r.group, strict=True) if g == "direct"
        ]
        return EntityDraws(entities, self.reports[0].n_bootstrap, 0)

    def right(self, state: str, group: str = "direct") -> np.ndarray:
        return self.column(lambda r: r.right[state], group)

    def false(self, state: str) -> np.ndarray:
        return self.column(lambda r: r.says_false[state])

    @property
    def recovery(self) -> Recovery:
        return recovery_ratio(self.draws(), *(self.right(s) for s in STATES))

    @property
    def truth_recovery(self) -> Recovery:
        truths = (self.column(lambda r, s=s: r.logprobs[s][:, 0]) for s in STATES)  # type: ignore[misc]
        return recovery_ratio(self.draws(), *truths, what="log-probability of the truth")

    @property
    def margin_recovery(self) -> Recovery:
        margins = (self.column(lambda r, s=s: r.logprobs[s][:, 0] - r.logprobs[s][:, 1]) for s in STATES)  # type: ignore[misc]
        return recovery_ratio(self.draws(), *margins, what="margin")

    @property
    def fluency(self) -> float:
        """Perplexity of neutral text over the corrupted model's, geometric mean over seeds."""
        pairs = [(r.neutral_perplexity["unlearned"], r.neutral_perplexity["corrupted"]) for r in self.reports]
        return math.exp(np.mean([math.log(a / b) for a, b in pairs if a and b])) if all(a and b for a, b in pairs) else math.nan

    def row(self) -> dict[str, Any]:
        recovery, margin = self.recovery, self.margin_recovery
        counts = {name: sum(r.counts()[name] for r in self.reports) for name in CLASSES}
        return {
            "k": self.k,
            "unlearned by": self.name,
            "right": float(self.right("unlearned").mean()),
            "false": float(self.false("unlearned").mean()),
            "right, others": float(self.right("unlearned", "other").mean()),
            "recovery": recovery.value,
            "from": recovery.low,
            "to": recovery.high,
            "margin recovery": margin.value,
            "truth recovery": self.truth_recovery.value,
            "restored": counts["restored"],
            "only forgotten": counts["forgotten_only"],
            "still false": counts["still_corrupted"],
            "perplexity ratio": self.fluency,
            "seconds": self.seconds,
        }


def reproduction(pooled: Sequence[Pooled], notes: Sequence[str], *, worlds: int) -> Reproduction:
    """Table, claims, verdict and figure."""
    by = {(one.k, one.name): one for one in pooled}
    rows = []
    for k in dict.fromkeys(one.k for one in pooled):
        base = by[k, "corrupted"]
        clean = {
            "k": k, "unlearned by": "clean model", "right": float(base.right("clean").mean()),
            "false": float(base.false("clean").mean()), "right, others": float(base.right("clean", "other").mean()),
        }  # fmt: skip
        rows += [clean] + [one.row() for one in pooled if one.k == k]
    claims = _claims(by)
    first = next(iter(dict.fromkeys(one.k for one in pooled)))
    base = by[first, "corrupted"]
    tried = [one for (k, name), one in by.items() if k == first and name not in ("corrupted", *ORACLES)]
    best = max(tried, key=lambda one: one.recovery.value if one.recovery.defined else -math.inf)
    lost = [one.name for one in tried if one.fluency > 2]
    verdict = (
        f"k = {first}: reading the false documents took right answers on what they are about from "
        f"{base.right('clean').mean():.0%} to {base.right('corrupted').mean():.0%} and brought "
        f"{base.false('corrupted').mean():.0%} false ones. Most came back by {best.name}: recovery "
        f"{best.recovery}; false answers then {best.false('unlearned').mean():.0%}."
    )
    if lost:
        verdict += f" Fluency was lost by {', '.join(lost)}."
    details = {
        f"k={k}, {name}": {
            "recovery": one.recovery.to_dict(),
            "margin_recovery": one.margin_recovery.to_dict(),
            "truth_recovery": one.truth_recovery.to_dict(),
            "corruption": [str(r.corruption) for r in one.reports],
            "confidence_auc": [r.confidence_auc for r in one.reports],
            "settings": one.reports[0].about,
        }
        for (k, name), one in by.items()
    }
    return Reproduction(
        name="restor", title=TITLE, source=SOURCE, rows=rows, claims=claims, verdict=verdict, notes=list(notes),
        draw=partial(_draw, list(pooled), first), details={"seeds": worlds, "runs": details},
    )  # fmt: skip


def _claims(by: Mapping[tuple[int, str], Pooled]) -> list[Claim]:
    ks = sorted({k for k, _ in by})
    low = ks[0]

    def told(name: str) -> str:
        return f"{name} {by[low, name].recovery.value:.2f}" if by[low, name].recovery.defined else f"{name} undefined"

    names = [n for n in PUBLISHED_METHODS if (low, n) in by]
    claims = []
    weak = [n for n in ("ga", "kl") if (low, n) in by]
    if weak:
        some = [by[low, n].recovery for n in weak]
        holds = bool(all(one.high < 0.5 for one in some)) if all(one.defined for one in some) else None
        shares = ", ".join(f"{n} {one}" for n, one in zip(weak, some, strict=True))
        claims.append(Claim("GA and KL forget and do not restore (recovery clearly below a half)", "abstract", shares, holds))
    npos = [n for n in ("npo", "npo, 3e-4") if (low, n) in by]
    if weak and npos:
        ours = " ".join(("in order:", ", ".join(told(n) for n in names)))
        claims.append(Claim("NPO recovers more than GA and KL", "consistently", ours, _above(by, low, npos, weak)))
    if len(ks) > 1:
        pairs = [(by[low, n].recovery, by[ks[-1], n].recovery) for n in names if (ks[-1], n) in by]
        pairs = [(a, b) for a, b in pairs if a.defined and b.defined]
        falls = sum(b.value < a.value for a, b in pairs)
        claims.append(
            Claim(
                f"recovery drops when unrelated text is mixed into the documents (k = {low} against {ks[-1]})",
                "yes",
                f"in {falls} of {len(pairs)} methods",
                falls > len(pairs) / 2 if pairs else None,
            )
        )
    aims = ("npo, false words", "npo, whole documents", "npo, other words")
    if all((low, n) in by for n in aims):
        ours = "; ".join(f"{n}: {by[low, n].recovery}, false answers {by[low, n].false('unlearned').mean():.0%}" for n in aims)
        holds = _above(by, low, aims[:1], aims[1:2])
        claims.append(Claim("aiming at the false words restores more than unlearning whole documents", "abstract", ours, holds))
    tried = [one for (k, n), one in by.items() if k == low and n not in ("corrupted", *ORACLES)]
    gone = [one.false("corrupted").mean() - one.false("unlearned").mean() for one in tried]
    back = [one.right("unlearned").mean() - one.right("corrupted").mean() for one in tried]
    claims.append(
        Claim(
            "forgetting is easier than restoring: more false answers go than right ones come back",
            "abstract",
            f"in {sum(a > b for a, b in zip(gone, back, strict=True))} of {len(tried)} methods; at the most {max(gone):.0%} of "
            f"the answers stop being false, {max(back):.0%} become right",
            bool(sum(a > b for a, b in zip(gone, back, strict=True)) > len(tried) / 2),
        )
    )
    aucs = [_confidence(one) for (k, n), one in by.items() if k == low and n not in ("corrupted", *ORACLES)]
    shown = [one for one in aucs if one is not None]
    claims.append(
        Claim(
            "how confidently the clean model held a fact predicts whether it comes back",
            "yes",
            "AUC " + ", ".join(f"{auc:.2f}" for auc, _ in shown) if shown else "too few facts came back",
            None if not shown else bool(sum(auc > 0.5 and p < SIGNIFICANCE for auc, p in shown) > len(shown) / 2),
        )
    )
    return claims


def _above(by: Mapping[tuple[int, str], Pooled], k: int, better: Sequence[str], worse: Sequence[str]) -> bool | None:
    """Whether the best of the first recovers clearly more than the best of the others; None where it cannot be told."""
    first, rest = ([by[k, n].recovery for n in some] for some in (better, worse))
    if not all(one.defined for one in [*first, *rest]):
        return None
    best, other = max(first, key=lambda one: one.value), max(rest, key=lambda one: one.value)
    return True if best.low > other.high else False if best.value <= other.value else None


def _confidence(one: Pooled) -> tuple[float, float] | None:
    """AUC of the clean model's log-probability of the truth for "came back", over lost facts, and its one-sided p."""
    from scipy.stats import mannwhitneyu

    lost = (one.right("clean") > 0.5) & (one.right("corrupted") <= 0.5)
    back = one.right("unlearned")[lost] > 0.5
    confidence = one.column(lambda r: r.logprobs["clean"][:, 0])[lost]
    if min(back.sum(), (~back).sum()) < 3:
        return None
    test = mannwhitneyu(confidence[back], confidence[~back], alternative="greater")
    return float(test.statistic / (back.sum() * (~back).sum())), float(test.pvalue)


def _draw(pooled: Sequence[Pooled], k: int, figure: Figure) -> None:
    """Right and false answers after each method, between the levels of the corrupted and the clean model."""
    some = [one for one in pooled if one.k == k and one.name not in ("corrupted", *ORACLES)]
    base = next(one for one in pooled if one.k == k and one.name == "corrupted")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = np.arange(len(some))[::-1]
    left.barh(places + 0.2, [one.right("unlearned").mean() for one in some], 0.36, color=COLOURS[0], label="right")
    left.barh(places - 0.2, [one.false("unlearned").mean() for one in some], 0.36, color=COLOURS[1], label="false")
    for value, style, word in ((base.right("clean").mean(), "-", "clean"), (base.right("corrupted").mean(), ":", "corrupted")):
        left.axvline(value, color=COLOURS[0], linestyle=style, linewidth=1.2, label=f"right, {word} model")
    left.axvline(base.false("corrupted").mean(), color=COLOURS[1], linestyle=":", linewidth=1.2, label="false, corrupted model")
    left.set_yticks(places, [one.name for one in some])
    left.set_xlabel("share of answers on corrupted facts")
    left.legend(frameon=False, fontsize=7)
    found = [one.recovery for one in some]
    values = np.array([one.value for one in found])
    ends = np.abs(np.array([[one.value - one.low, one.high - one.value] for one in found]).T)
    right.errorbar(values, places, xerr=ends, fmt="o", color="#333333", markersize=4, linewidth=1.2)
    for at in (0, 1):
        right.axvline(at, color="#999999", linewidth=0.8)
    right.set_xlabel("recovery (0 none, 1 all)")
    for axes in (left, right):
        plain_axes(axes)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
