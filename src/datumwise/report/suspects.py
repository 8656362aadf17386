"""From signals to suspects: which datapoints deserve a look, which of them a cleaned set leaves out, and by what rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from datumwise import score
from datumwise.score.declare import find
from datumwise.score.thresholds import residual_threshold

__all__ = ["KINDS", "Kind", "Rule", "Suspects", "suspects"]

FILTER = "calibrated_margin"  # as many as the calibrated joint says, by the lowest margin
HARD_SHARE = 0.03  # of the datapoints without another finding: the hardest 3 %
MEMORISED = 0.75  # probability of the given label gained by having seen the datapoint

# score that says how hard a datapoint is -> what to call it, best first
HARDNESS = {
    "el2n": "EL2N",
    "label_error_regression": "robust residual, out of fold",
    "mean_nll": "negative log-likelihood a token",
}


@dataclass(frozen=True)
class Kind:
    """What a kind of finding is, whatever the data."""

    key: str
    title: str
    removed: bool  # whether the cleaned set leaves it out


# In order of seriousness; the position is the bit in Audit.map.flags.
KINDS = (
    Kind("label_error", "label errors", removed=True),
    Kind("near_duplicate", "near duplicates", removed=True),
    Kind("outlier", "outliers", removed=True),
    Kind("hard", "hard, kept", removed=False),
    Kind("memorised", "memorised, kept", removed=False),
)


@dataclass(frozen=True)
class Rule:
    """How a kind of finding was told: by which score, from which value on, in words."""

    score: str  # a declared score, and the ledger column it is ranked by
    method: str  # as people call it
    words: str  # the threshold in words
    threshold: float = float("nan")  # in units of the score; NaN where the rule is not a threshold


@dataclass(frozen=True)
class Suspects:
    """What was found about n datapoints.

    Attributes
    ----------
    scores : dict of str to ndarray of float, shape (n,)
        By name of the declared score.
    flags : dict of str to ndarray of bool, shape (n,)
        By key of :data:`KINDS`; a kind that was not looked for is absent.
    rules : dict of str to Rule
        By key of :data:`KINDS`.
    copy_of : ndarray of int, shape (n,)
        The near copy that is kept instead of this datapoint; -1 where it is kept itself.
    groups : int
        Groups of near copies.
    """

    scores: dict[str, np.ndarray] = field(repr=False)
    flags: dict[str, np.ndarray] = field(repr=False)
    rules: dict[str, Rule]
    copy_of: np.ndarray = field(repr=False)
    groups: int

    @property
    def flagged(self) -> np.ndarray:
        """Bool (n,): at least one finding."""
        return np.any(list(self.flags.values()), axis=0)

    @property
    def removed(self) -> np.ndarray:
        """Bool (n,): left out by the cleaned set. Of near copies one stays, unless it is a suspect for another reason."""
        reasons = [self.flags[k.key] for k in KINDS if k.removed and k.key != "near_duplicate" and k.key in self.flags]
        return np.any([self.copy_of >= 0, *reasons], axis=0)


def suspects(signals: Mapping[str, np.ndarray], *, metric: str) -> Suspects:
    """Look for every kind of finding that the signals at hand allow.

    Parameters
    ----------
    signals : mapping of str to ndarray
        ``embedding`` (n, d) always. Of a classifier ``probs``, ``probs_fit`` (n, K) and ``labels`` (n,) too; of a regressor
        ``residual`` (n,); of a language model ``nll``, ``n_tokens`` and ``predicted_texts`` (n,).
    metric : str
        Of the embedding: ``"euclidean"`` or ``"cosine"``.

    Returns
    -------
    Suspects
    """
    scores = _scores(signals, metric)
    flags: dict[str, np.ndarray] = {}
    rules: dict[str, Rule] = {}
    n = len(signals["embedding"])

    if "probs" in signals:
        flags["label_error"] = score.find_label_issues(signals["labels"], signals["probs"], filter_by=FILTER)
        rules["label_error"] = Rule("label_error", "confident learning", "lowest margins, as many as the estimated noise")
    elif "residual" in signals:
        far_off = residual_threshold(n)
        flags["label_error"] = scores["label_error_regression"] > far_off
        words = f"over {far_off:.2f} robust standard deviations"
        rules["label_error"] = Rule("label_error_regression", "robust residual, out of fold", words, far_off)

    doubt = scores.get("label_error", scores.get("label_error_regression", np.zeros(n)))
    copies = score.near_duplicates(signals["embedding"], metric=metric, priority=-doubt)
    flags["near_duplicate"] = copies.flag
    scores["near_duplicate"] = copies.score  # the declared score, of neighbours that are looked up already
    copy_of = _copy_of(copies.groups, copies.kept)
    words = f"nearer than {copies.radius:.3g} and out of proportion to its own neighbourhood"
    rules["near_duplicate"] = Rule("near_duplicate", "distance to the nearest neighbour", words)

    far = score.outlier_threshold(scores["outlier_knn"])
    flags["outlier"] = scores["outlier_knn"] > far
    rules["outlier"] = Rule("outlier_knn", "mean distance to 10 neighbours", f"over {far:.2f} times the median", far)

    name = next((name for name in HARDNESS if name in scores), None)
    if name is not None:
        others = np.any(list(flags.values()), axis=0)
        flags["hard"] = score.hard_points(_known(scores[name]), others, share=HARD_SHARE)
        least = float(scores[name][flags["hard"]].min(initial=np.inf))
        words = f"highest {HARD_SHARE:.0%} without another finding"
        rules["hard"] = Rule(name, HARDNESS[name], words, least if np.isfinite(least) else float("nan"))
    if "memorization" in scores:
        gone = flags["label_error"] | flags["outlier"]
        flags["memorised"] = (scores["memorization"] > MEMORISED) & ~gone
        words = f"seen minus unseen over {MEMORISED:g}, and neither label error nor outlier"
        rules["memorised"] = Rule("memorization", "probability of the given label, seen minus unseen", words, MEMORISED)
    if "zlib_ratio" in scores:
        high = score.outlier_threshold(_known(scores["zlib_ratio"]))
        flags["memorised"] = scores["zlib_ratio"] > high
        words = f"over {high:.2f} bits of zlib a bit of the model"
        rules["memorised"] = Rule("zlib_ratio", "zlib entropy over the model's", words, high)
    return Suspects(scores, flags, rules, copy_of, copies.n_groups)


# declared scores that an audit computes, each where the signals it needs are at hand
SCORES = (
    "label_error", "normalized_margin", "el2n", "loss", "memorization", "label_error_regression",
    "outlier_knn", "mean_nll", "zlib_ratio",
)  # fmt: skip


def _scores(signals: Mapping[str, np.ndarray], metric: str) -> dict[str, np.ndarray]:
    found = {}
    for declared in map(find, SCORES):
        if all(need in signals for need in declared.needs):
            options = {"metric": metric} if "metric" in declared.parameters else {}
            found[declared.name] = declared.function(*(signals[need] for need in declared.needs), **options)
    return found


def _copy_of(groups: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kept member of each datapoint's group, int (n,); -1 for those that are kept or in no group."""
    keeper = np.full(groups.max(initial=-1) + 1, -1)
    keeper[groups[kept & (groups >= 0)]] = np.flatnonzero(kept & (groups >= 0))
    copy_of = np.full(len(groups), -1)
    gone = ~kept
    copy_of[gone] = keeper[groups[gone]]
    return copy_of


def _known(values: np.ndarray) -> np.ndarray:
    """Scores with NaN (nothing to compute from) as the lowest, so that they are never a finding."""
    return np.where(np.isnan(values), np.nanmin(values, initial=np.inf), values)
