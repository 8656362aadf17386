"""From which value on is a score a finding? Rules that stay quiet where there is nothing to find.

Each rule says how often it errs when the data hold no fault; the tests measure it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.score.checks import finite_column

__all__ = [
    "copy_radii",
    "hard_points",
    "intrinsic_dimension",
    "near_duplicate_radius",
    "outlier_threshold",
    "residual_threshold",
]

SHARE = {
    "cosine": 0.13,
    "euclidean": 0.36,
}  # of the median nearest distance; 0.36^2 = 0.13: cosine distances are squares
NORMAL = 1.4826  # standard deviation of a normal over its median absolute deviation, 1 / Phi^-1(3/4)
HARD_SHARE = 0.03


def outlier_threshold(distance: Any, z: float = 3.5) -> float:
    """Distance above which a datapoint is an outlier: median + z robust deviations of the log distance.

    The deviation is 1.4826 times the median excess of the upper half, so that a long right tail widens it
    (after Rousseeuw and Croux, 1993, section 1). Datapoints at distance 0 are left out.

    Parameters
    ----------
    distance : float (n,), >= 0
        Mean distance to the nearest neighbours, e.g. `outlier_knn`, in any unit.
    z : float, default 3.5

    Returns
    -------
    float
        In the unit of ``distance``; infinity if there is no spread to judge by. Of 2,000 normal or uniform
        datapoints in 5 to 64 dimensions it flags at most 4; in two dimensions 1 %, the rim of the cloud.

    Examples
    --------
    >>> distance = np.exp(np.linspace(-1, 1, 101))
    >>> float(np.log(outlier_threshold(distance)).round(2))
    2.65
    """
    distance = finite_column(distance, "distance")
    logs = np.log(distance[distance > 0])
    if len(logs) == 0:
        return float("inf")
    median = np.median(logs)
    above = logs[logs > median] - median
    return float(np.exp(median + z * NORMAL * np.median(above))) if len(above) else float("inf")


def near_duplicate_radius(distances: Any, metric: str) -> float:
    """Distance below which two datapoints are near copies, from all distances to nearest neighbours.

    A share of the median nearest distance, the smaller of 0.13 (cosine; Euclidean 0.36, which is the same in
    squares) and the share below which one of n ordinary datapoints is expected: where they lie as a Poisson
    process of intrinsic dimension m, P(nearest < share * median) = 1 - 2^(-share^m). In two dimensions that
    is 0.03, not 0.36.

    Parameters
    ----------
    distances : float (n, k), ascending along rows
        To the k nearest others.
    metric : "cosine" or "euclidean"

    Returns
    -------
    float
        In the unit of the distances.
    """
    distances = _ascending(distances)
    n = len(distances)
    share = SHARE[metric]
    dimension = intrinsic_dimension(distances)
    if n > 1 and np.isfinite(dimension):
        share = min(share, float(-np.log2(1 - 1 / n)) ** (1 / dimension))
    return share * float(np.median(distances[:, 0]))


def copy_radii(distances: Any) -> np.ndarray:
    """For each datapoint: how near another must be to be out of proportion to its own neighbourhood.

    A tight cluster is not a set of copies. For a Poisson process P(d_1 < share * d_k) is about (k - 1)
    share^m; the share is where that is 1 / n. Where the k-th neighbour is a copy too nothing is out of
    proportion.

    Parameters
    ----------
    distances : float (n, k), ascending along rows

    Returns
    -------
    float64 (n,)
        In the unit of the distances; infinity for k < 3, too few to know a neighbourhood.
    """
    distances = _ascending(distances)
    n, k = distances.shape
    dimension = intrinsic_dimension(distances)
    if k < 3 or not np.isfinite(dimension):
        return np.full(n, np.inf)
    return distances[:, -1] * (1 / (n * (k - 1))) ** (1 / dimension)


def intrinsic_dimension(distances: Any) -> float:
    """How many directions the data fill, from two nearest neighbours: ln 2 / median of ln(d_2 / d_1).

    TwoNN (Facco et al., 2017, eq. 5: ln(d_2 / d_1) is exponential with rate m), by its median, which copies
    don't move.

    Parameters
    ----------
    distances : float (n, k), ascending along rows
        In squares (as cosine distances are) the answer is half of the dimension.

    Returns
    -------
    float
        > 0; infinity where most datapoints have two nearest neighbours at one distance, or k = 1.
    """
    distances = _ascending(distances)
    apart = distances[:, 0] > 0
    if distances.shape[1] < 2 or not apart.any():
        return float("inf")
    median = float(np.median(np.log(distances[apart, 1] / distances[apart, 0])))
    return float(np.log(2) / median) if median > 0 else float("inf")


def residual_threshold(n: int) -> float:
    """Standardised residual above which a target is suspect: 3.5, or more where n normals would exceed it.

    The larger of 3.5 (Iglewicz and Hoaglin, 1993, section 3.3) and the z at which half a false alarm is
    expected of n normal residuals, Phi^-1(1 - 1 / (4 n)).

    Examples
    --------
    >>> residual_threshold(100), round(residual_threshold(1_000_000), 2)
    (3.5, 5.03)
    """
    from scipy.special import ndtri

    return max(3.5, float(-ndtri(0.25 / max(n, 1))))


def hard_points(score: Any, flagged: Any, share: float = HARD_SHARE) -> np.ndarray:
    """The hardest of the datapoints that nothing else was found about.

    Parameters
    ----------
    score : float (n,), finite
        Higher is harder.
    flagged : bool (n,)
        Those with another finding; they are not counted.
    share : float, default 0.03
        Of the unflagged, rounded down; none that is not above their median.

    Returns
    -------
    bool (n,)
        Ties go to the lowest index.

    Examples
    --------
    >>> hard_points([9.0, 1.0, 5.0, 2.0], [True, False, False, False], share=0.34).tolist()
    [False, False, True, False]
    """
    score = finite_column(score, "score")
    flagged = np.asarray(flagged, bool)
    if flagged.shape != score.shape:
        raise SchemaMismatch(f"{len(score):,} scores and flags of shape {flagged.shape} do not fit together")
    if not 0 <= share <= 1:
        raise DatumwiseError(f"share = {share} is no share", remedy="0 <= share <= 1")
    free = np.flatnonzero(~flagged)
    hard = np.zeros(len(score), bool)
    if len(free):
        hardest = free[np.argsort(-score[free], kind="stable")[: int(share * len(free))]]
        hard[hardest] = score[hardest] > np.median(score[free])
    return hard


def _ascending(distances: Any) -> np.ndarray:
    distances = np.asarray(distances, np.float64)
    if distances.ndim != 2 or distances.size == 0:
        raise SchemaMismatch(f"distances must be datapoints x neighbours; the shape is {distances.shape}")
    return distances
