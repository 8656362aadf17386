"""Where do the sorted outcomes of a batch lie, given bounds of the sorted residuals? Quantiles and a band of y itself.

Derived here. With y_j = mu_j + r_j a bound of a quantile of r is none of the same quantile of y. But if T_(z') <= s, of the
sorted residuals T, then at most m - z' of the y_j exceed mu_j + s, and so y_(z) <= mu_(z + m - z') + s for every z <= z'.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.predict.batch_bounds import BatchInterval
from datumwise.predict.inputs import real_column
from datumwise.predict.order_statistics import check_alpha, order_statistic_rank, required_calibration_size, whole_number

__all__ = ["outcome_band", "outcome_quantile"]


def outcome_quantile(
    scores: Any,
    prediction: Any,
    z: int,
    alpha: float,
    *,
    side: Literal["both", "upper", "lower"] = "both",
    min_covered: int | tuple[int, int] | None = None,
    score_bounds: tuple[float, float] = (-np.inf, np.inf),
    allow_infinite: bool = False,
) -> BatchInterval:
    """Bounds of the z-th smallest outcome of a batch, from signed scores y - mu.

    Parameters
    ----------
    scores : float (n,)
        Of the calibration points.
    prediction : float (m,)
        mu of the batch.
    z : int
        1..m.
    alpha : float
        Half of it for each of two sides.
    side : {"both", "upper", "lower"}
    min_covered : int or (int, int), optional
        z' for both sides, or for the lower and the upper: how many points must keep to their own bound, at least z for the
        upper and m + 1 - z for the lower. Any choice made before seeing the calibration scores and the batch is valid. By
        default half way between the least and m, lowered where n is too small for it.
    score_bounds : (float, float)
        Values that scores cannot leave.
    allow_infinite : bool, default False

    Returns
    -------
    BatchInterval
        ``rank_budget`` holds the ranks of the calibration scores used; never exact: with z' < m or a prediction that is not
        constant it covers more often than 1 - alpha.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> mu = rng.normal(size=25)
    >>> found = outcome_quantile(rng.normal(size=200), mu, 13, alpha=0.1)
    >>> found.lower < float(np.median(mu + rng.normal(size=25))) < found.upper
    True
    """
    check_alpha(alpha)
    S, mu = np.sort(real_column(scores, "scores", infinite="yes")), np.sort(real_column(prediction, "prediction"))
    n, m = len(S), len(mu)
    whole_number(z, "z", 1, m)
    if side not in ("both", "upper", "lower"):
        raise DatumwiseError(f"there is no side {side!r}", remedy="choose both, upper or lower")
    of_lower, of_upper = min_covered if isinstance(min_covered, tuple) else (min_covered, min_covered)
    share = alpha / 2 if side == "both" else alpha
    low, high = score_bounds
    lower, upper = -np.inf, np.inf
    of_low: int | None = None
    of_high: int | None = None
    if side != "lower":
        upper, of_high = _upper(S, mu, z, share, of_upper, high, allow_infinite)
    if side != "upper":
        mirrored, k = _upper(-S[::-1], -mu[::-1], m + 1 - z, share, of_lower, -low, allow_infinite)
        lower, of_low = -mirrored, n + 1 - k
    name = f"order statistic {z} of {m}"
    return BatchInterval(lower, upper, name, float(alpha), n, m, "ranks of residuals", (of_low, of_high), False)


def outcome_band(band: Any, prediction: Any) -> np.ndarray:
    """Bounds of all sorted outcomes together, from a band of all sorted signed scores.

    Where A_i <= T_(i) <= B_i for every i: y_(z) <= mu_(z + m - i) + B_i for each i >= z, and y_(z) >= mu_(z - i + 1) + A_i
    for each i <= z. All hold at once, so the best of them is taken.

    Parameters
    ----------
    band : float (m, 2)
        A and B.
    prediction : float (m,)

    Returns
    -------
    float64 (m, 2)

    Notes
    -----
    O(m^2) time, O(m) memory.

    Examples
    --------
    >>> outcome_band([[-1.0, 0.5], [0.0, 2.0]], [10.0, 20.0]).tolist()
    [[9.0, 12.0], [19.0, 22.0]]
    """
    mu, ends = np.sort(real_column(prediction, "prediction")), np.asarray(band, np.float64)
    if ends.shape != (len(mu), 2):
        raise SchemaMismatch(f"{len(mu):,} predictions and a band of shape {ends.shape} do not fit together")
    A, B = ends[:, 0], ends[:, 1]
    m = len(mu)
    upper = np.array([(mu[z:][::-1] + B[z:]).min() for z in range(m)])
    lower = np.array([(mu[: z + 1][::-1] + A[: z + 1]).max() for z in range(m)])
    return np.column_stack([lower, upper])


def _upper(
    S: np.ndarray, mu: np.ndarray, z: int, alpha: float, least: int | None, limit: float, allow_infinite: bool
) -> tuple[float, int]:
    """Upper bound of y_(z), and the rank that it rests on."""
    n, m = len(S), len(mu)
    if least is not None:
        if not z <= whole_number(least, "min_covered", 1, m):
            raise DatumwiseError(f"min_covered = {least} is too small here", remedy=f"{z} <= min_covered <= {m}")
        k = order_statistic_rank(n, m, least, alpha)
    else:
        least = m - (m - z) // 2  # of sizes alone: the choice must not look at scores
        k = order_statistic_rank(n, m, least, alpha)
        while k > n and limit == np.inf and least > z:
            least -= 1
            k = order_statistic_rank(n, m, least, alpha)
    bound = float(S[k - 1]) if k <= n else limit
    if bound == np.inf and k > n:
        needed = required_calibration_size(m, alpha, z=least)
        if not allow_infinite:
            raise DatumwiseError(
                f"need n >= {needed:,}; got n = {n:,} calibration points",
                remedy="ask for one side, a larger alpha, or allow_infinite=True",
            )
        warnings.warn(f"need n >= {needed:,}, got n = {n:,}: the bound is infinite", UserWarning, stacklevel=3)
    return float(mu[z + m - least - 1] + bound), k
