"""Do the values find the wrong labels? AUC with its interval, and F1 of the cut that the values suggest themselves.

The measures of OpenDataVal (Jiang et al., 2023, NeurIPS, section 4.1); the AUC's variance by DeLong, DeLong and
Clarke-Pearson, 1988, Biometrics 44.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datumwise.errors import LabelError, SchemaMismatch
from datumwise.evaluate.removal import Interval
from datumwise.score.checks import finite_column

__all__ = ["NoisyLabels", "noisy_label_auc", "two_means_cut"]

Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True)
class NoisyLabels:
    """How well values tell wrong labels.

    Attributes
    ----------
    auc : Interval
        Probability that a wrong label is valued below a right one (ties one half), with its 95 % interval.
    f1, precision, recall : float
        Of flagging the lower of two clusters of values.
    f1_at_random : float
        Expected of a random flag on as many.
    cut : float
        Values below it are flagged; above it if higher is noisier.
    flagged, noisy, n : int
    higher_is_noisier : bool
    """

    auc: Interval
    f1: float
    precision: float
    recall: float
    f1_at_random: float
    cut: float
    flagged: int
    noisy: int
    n: int
    higher_is_noisier: bool = False

    def __str__(self) -> str:
        a = self.auc
        side = "above" if self.higher_is_noisier else "below"
        return (
            f"AUC {a.value:.3f} [{a.low:.3f}, {a.high:.3f}]; flagging the {self.flagged:,} {side} {self.cut:.4g}: "
            f"F1 {self.f1:.3f} (random {self.f1_at_random:.3f}), precision {self.precision:.3f}, recall {self.recall:.3f}; "
            f"{self.noisy:,} of {self.n:,} labels are wrong"
        )

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


def noisy_label_auc(values: Any, noisy: Any, *, higher_is_noisier: bool = False) -> NoisyLabels:
    """Compare values with the labels known to be wrong.

    Parameters
    ----------
    values : float (n,), finite
        Data values: low for wrong labels.
    noisy : bool (n,)
        Which labels are wrong.
    higher_is_noisier : bool, default False
        The values are scores of suspicion (self-influence, `label_error`).

    Returns
    -------
    NoisyLabels

    Raises
    ------
    LabelError
        No label is wrong, or all are.
    NotFinite, SchemaMismatch

    Examples
    --------
    >>> print(noisy_label_auc([0.1, 0.9, 0.8, 0.2, 0.7], [True, False, False, True, False]))
    AUC 1.000 [1.000, 1.000]; flagging the 2 below 0.7: F1 1.000 (random 0.400), precision 1.000, recall 1.000;
    2 of 5 labels are wrong
    """
    values, noisy = finite_column(values, "values"), np.asarray(noisy)
    if noisy.shape != values.shape or noisy.dtype != bool:
        raise SchemaMismatch(f"noisy must be bool ({len(values):,},); got {noisy.dtype} {noisy.shape}")
    if noisy.all() or not noisy.any():
        raise LabelError(f"{'every' if noisy.all() else 'no'} label is wrong: there is nothing to tell apart")
    low = -values if higher_is_noisier else values
    cut = two_means_cut(low)
    flag = low < cut
    hits = int((flag & noisy).sum())
    precision, recall = hits / max(int(flag.sum()), 1), hits / int(noisy.sum())
    share = noisy.mean()
    return NoisyLabels(
        auc=_auc(low[noisy], low[~noisy]),
        f1=2 * hits / int(flag.sum() + noisy.sum()),
        precision=precision,
        recall=recall,
        f1_at_random=float(2 * flag.sum() * share / (flag.sum() + noisy.sum())),
        cut=float(-cut if higher_is_noisier else cut),
        flagged=int(flag.sum()),
        noisy=int(noisy.sum()),
        n=len(values),
        higher_is_noisier=higher_is_noisier,
    )


def two_means_cut(values: Any) -> float:
    """Where exact 2-means cuts a line: the smallest value of the upper cluster; what is below is the lower one.

    OpenDataVal runs Lloyd's iterations from random starts; on a line the best of all cuts is found by sorting.

    Parameters
    ----------
    values : float (n,), finite

    Returns
    -------
    float
        -inf if all values are equal.

    Examples
    --------
    >>> two_means_cut([0.0, 0.1, 5.0, 5.1, 4.9])
    4.9
    """
    line = np.sort(finite_column(values, "values"))
    n = len(line)
    if line[0] == line[-1]:
        return float("-inf")
    left = np.cumsum(line - line.mean())[:-1]  # centred: sums of large equal numbers would cancel
    size = np.arange(1, n)
    between = left**2 * n / (size * (n - size))  # sum of squares between two clusters
    between[line[1:] == line[:-1]] = -np.inf  # equal values stay together
    return float(line[int(between.argmax()) + 1])


def _auc(noisy: np.ndarray, clean: np.ndarray) -> Interval:
    """P(noisy < clean) with DeLong's normal interval."""
    from scipy.stats import rankdata

    a, b = len(noisy), len(clean)
    rank = rankdata(np.concatenate([noisy, clean]))
    above = (rank[a:] - rankdata(clean)) / a  # of each clean value: share of the noisy ones below
    below = 1 - (rank[:a] - rankdata(noisy)) / b
    auc = float(above.mean())
    variance = (above.var(ddof=1) / b if b > 1 else 0.0) + (below.var(ddof=1) / a if a > 1 else 0.0)
    half = Z * float(np.sqrt(variance))
    return Interval(auc, max(0.0, auc - half), min(1.0, auc + half))
