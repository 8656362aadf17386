"""What part of the gain from hard labels do easy labels bring? Hase et al., 2024, section 4: supervision gap recovered.

SGR = (Easy - Unsupervised) / (Hard - Unsupervised), three accuracies on the same hard test items.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import norm

from datumwise.errors import SchemaMismatch, UnknownName
from datumwise.evaluate.accuracy_interval import METHODS, correct_matrix, grid_draws, seed_variance

__all__ = ["SupervisionGap", "supervision_gap_recovered"]

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
FIELLER = 4.0  # standard errors of Hard - Unsupervised below which the delta method is not trusted
POWER = 2.8  # standard errors of a difference that 80 % power at 5 % asks for: 1.96 + 0.84


@dataclass(frozen=True)
class SupervisionGap:
    """Supervision gap recovered, and what it is made of.

    Attributes
    ----------
    value, low, high : float
        The ratio with its 95 % interval; 1 easy labels are as good as hard ones, 0 no better than none. NaN if not defined.
    defined : bool
        False where hard labels bring no gain that these items show: the interval of Hard - Unsupervised holds 0.
    reason : str
        Why not, or an empty string.
    unsupervised, easy, hard : float
        Accuracies.
    gap, gap_low, gap_high : float
        Hard - Unsupervised with its 95 % interval.
    p_easy_hard, p_easy_unsupervised : float
        Two-sided p-values of Easy = Hard and of Easy = Unsupervised, paired over items.
    smallest_gap : float
        Smallest difference of Hard and Unsupervised that these items show with a power of 80 % (2.8 standard errors).
    n_items : int
    method : str
    """

    value: float
    low: float
    high: float
    defined: bool
    reason: str
    unsupervised: float
    easy: float
    hard: float
    gap: float
    gap_low: float
    gap_high: float
    p_easy_hard: float
    p_easy_unsupervised: float
    smallest_gap: float
    n_items: int
    method: str

    def __str__(self) -> str:
        head = f"supervision gap recovered {self.value:.2f} ({self.low:.2f} to {self.high:.2f})"
        if not self.defined:
            head = f"supervision gap recovered: not defined ({self.reason})"
        return (
            f"{head}; accuracy on {self.n_items:,} hard items: unsupervised {self.unsupervised:.3f}, easy labels "
            f"{self.easy:.3f}, hard labels {self.hard:.3f}"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def supervision_gap_recovered(
    easy: Any,
    hard: Any,
    unsup: Any,
    method: Literal["two-way", "grid"] = "two-way",
    n_boot: int = 10_000,
    random_state: Any = None,
    *,
    paired: bool = True,
) -> SupervisionGap:
    """Supervision gap recovered with a 95 % interval.

    Parameters
    ----------
    easy, hard, unsup : float (n, seeds) or (n,)
        1 right, 0 wrong, NaN not measured, on the same n hard items, in one order; each may have its own seeds.
    method : {"two-way", "grid"}
        "two-way": variance of items (and what is left) by the covariance of the item means, plus the variance that seeds
        add; interval by the delta method, or by Fieller's theorem where Hard - Unsupervised is below 4 of its standard
        errors. "grid": the published bootstrap, rows jointly and columns independently, which is too wide where seeds are
        independent given the items.
    n_boot : int
        Draws of "grid".
    random_state : int, Generator or None
    paired : bool, default True
        False: the three were measured on different items.

    Returns
    -------
    SupervisionGap

    Raises
    ------
    SchemaMismatch
        The matrices have different numbers of items.

    Notes
    -----
    With accuracies near .55, .68 and .72 on 400 items the interval is about +-.28 wide.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> skill = rng.normal(size=(400, 1))
    >>> unsup, easy, hard = (rng.random((400, 5)) < 1 / (1 + np.exp(-skill - lift)) for lift in (0.0, 1.0, 1.4))
    >>> found = supervision_gap_recovered(easy, hard, unsup)
    >>> found.defined, bool(found.low < 0.75 < found.high)
    (True, True)
    """
    if method not in METHODS:
        raise UnknownName(f"there is no method {method!r}", remedy="choose two-way or grid")
    given = {"unsup": unsup, "easy": easy, "hard": hard}
    heights = {name: len(np.asarray(m)) for name, m in given.items() if np.ndim(m)}
    if paired and len(set(heights.values())) > 1:
        raise SchemaMismatch(
            f"unsup, easy and hard must be of the same items; they have {', '.join(f'{n:,}' for n in heights.values())}",
            remedy="test all three on the same items, or pass paired=False",
        )
    full = [_checked(m, name) for name, m in given.items()]
    means = np.array([np.nanmean(m) for m in full])  # unsupervised, easy, hard
    V = _covariance(full, paired)
    one, two, three = np.eye(3)
    gap = float(means[2] - means[0])
    gap_error = _error(three - one, V)
    p_easy_hard, p_easy_unsup = (
        float(2 * norm.sf(_ratio(abs(float(means @ c)), _error(c, V)))) for c in (two - three, two - one)
    )
    gap_low, gap_high = gap - Z * gap_error, gap + Z * gap_error
    draws = None
    if method == "grid":
        if not paired:
            raise SchemaMismatch("method='grid' resamples items jointly", remedy="use method='two-way' for different items")
        draws = grid_draws(full, n_boot, np.random.default_rng(random_state))
        gap_low, gap_high = _quantiles(draws[2] - draws[0])
    defined = not (gap_low <= 0 <= gap_high)
    value = low = high = float("nan")
    reason = ""
    if not defined:
        reason = f"hard minus unsupervised is {gap:+.3f}, 95% interval {gap_low:+.3f} to {gap_high:+.3f}, which holds 0"
    elif draws is not None:
        value = float((means[1] - means[0]) / gap)
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = _quantiles((draws[1] - draws[0]) / (draws[2] - draws[0]))
    else:
        value = float((means[1] - means[0]) / gap)
        low, high = _ratio_interval(value, gap, gap_error, V)
    return SupervisionGap(
        value,
        low,
        high,
        defined,
        reason,
        float(means[0]),
        float(means[1]),
        float(means[2]),
        gap,
        gap_low,
        gap_high,
        p_easy_hard,
        p_easy_unsup,
        POWER * gap_error,
        len(full[2]),
        method,
    )


def _checked(matrix: Any, name: str) -> np.ndarray:
    correct_matrix(matrix, name)  # refuses what is no matrix; its rows stay, for the items must stay aligned
    full = np.asarray(matrix, dtype=np.float64)
    full = full[:, None] if full.ndim == 1 else full
    return full[:, ~np.isnan(full).all(axis=0)]


def _covariance(matrices: list[np.ndarray], paired: bool) -> np.ndarray:
    """(3, 3) of the three accuracies: items and residual by the item means, and what seeds add on the diagonal."""
    T = len(matrices)
    V = np.zeros((T, T))
    with np.errstate(invalid="ignore"):
        items = [np.nansum(m, axis=1) / (~np.isnan(m)).sum(axis=1) for m in matrices]
    for s in range(T):
        for t in range(s, T):
            if s != t and not paired:
                continue
            both = ~np.isnan(items[s]) & ~np.isnan(items[t])
            n = int(both.sum())
            if n > 1:
                a, b = items[s][both], items[t][both]
                V[s, t] = V[t, s] = float(((a - a.mean()) * (b - b.mean())).sum()) / (n - 1) / n
        V[s, s] += seed_variance(correct_matrix(matrices[s], "matrix"))
    return V


def _ratio_interval(r: float, gap: float, gap_error: float, V: np.ndarray) -> tuple[float, float]:
    """Of (Easy - Unsup) / (Hard - Unsup): delta method, or Fieller's where the denominator is not far from 0."""
    if gap_error == 0 or abs(gap) >= FIELLER * gap_error:
        gradient = np.array([-(1 - r), 1.0, -r]) / gap
        half = Z * _error(gradient, V)
        return r - half, r + half
    numerator, denominator = np.array([-1.0, 1.0, 0.0]), np.array([-1.0, 0.0, 1.0])
    top = r * gap
    a = gap**2 - Z**2 * denominator @ V @ denominator  # > 0: the denominator's interval does not hold 0
    b = top * gap - Z**2 * numerator @ V @ denominator
    c = top**2 - Z**2 * numerator @ V @ numerator
    root = float(np.sqrt(max(b**2 - a * c, 0.0)))
    return float((b - root) / a), float((b + root) / a)


def _error(contrast: np.ndarray, V: np.ndarray) -> float:
    return float(np.sqrt(max(contrast @ V @ contrast, 0.0)))


def _ratio(a: float, b: float) -> float:
    """a / b, where 0 / 0 is 0."""
    return float("inf") if b == 0 and a > 0 else a / b if b else 0.0


def _quantiles(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws[np.isfinite(draws)], (0.025, 0.975))
    return float(low), float(high)
