"""How badly does an answer miss? One number a datapoint, and back: every answer that misses by no more than a threshold.

Sources: absolute and normalized residuals, Lei et al., 2018, section 2 and 5.2; cqr, Romano et al., 2019, eq. 6; lac,
Sadinle et al., 2019; aps, Romano et al., 2020, eq. 7; raps, Angelopoulos et al., 2021, eq. 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, LabelError, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.predict.inputs import real_column

__all__ = [
    "LABEL_SCORES",
    "REGRESSION_SCORES",
    "label_scores",
    "label_sets",
    "regression_scores",
    "score_intervals",
    "score_limits",
]

REGRESSION_SCORES = ("absolute", "signed", "normalized", "cqr")
LABEL_SCORES = ("lac", "aps", "raps")
SUM_TOLERANCE = 1e-3  # of a row of probabilities
PENALTY = 0.01  # lambda of raps, a label beyond the free ones
FREE_RANK = 5  # k_reg of raps


def regression_scores(score: str, y: Any, prediction: Any, scale: Any = None) -> np.ndarray:
    """Score of each observed outcome; higher is worse.

    Parameters
    ----------
    score : {"absolute", "signed", "normalized", "cqr"}
        |y - mu|; y - mu; |y - mu| / sigma; max(low - y, y - high), below 0 inside the two predicted quantiles.
    y : float (n,)
    prediction : float (n,), or (n, 2) for "cqr"
        mu, or the low and the high quantile.
    scale : float (n,), optional
        sigma > 0, for "normalized".

    Returns
    -------
    float64 (n,)

    Raises
    ------
    UnknownName, SchemaMismatch, NotFinite, DatumwiseError
        No such score; shapes that do not fit; NaN; a scale that is not above 0.

    Examples
    --------
    >>> regression_scores("absolute", [1.0, 5.0], [2.0, 2.0]).tolist()
    [1.0, 3.0]
    >>> regression_scores("normalized", [1.0, 5.0], [2.0, 2.0], scale=[0.5, 3.0]).tolist()
    [2.0, 1.0]
    """
    outcome = real_column(y, "y")
    centre, scale = _predicted(score, prediction, scale)
    if len(centre) != len(outcome):
        raise SchemaMismatch(f"{len(outcome):,} outcomes and {len(centre):,} predictions do not fit together")
    if score == "cqr":
        return np.maximum(centre[:, 0] - outcome, outcome - centre[:, 1])
    residual = outcome - centre
    if score == "signed":
        return residual
    return np.abs(residual) if scale is None else np.abs(residual) / scale


def score_intervals(
    score: str, threshold: float, prediction: Any, scale: Any = None, *, lower_threshold: float | None = None
) -> np.ndarray:
    """The outcomes whose score is at most the threshold, as closed intervals.

    Parameters
    ----------
    score : {"absolute", "signed", "normalized", "cqr"}
    threshold : float
        May be infinite.
    prediction : float (m,), or (m, 2) for "cqr"
    scale : float (m,), optional
        For "normalized".
    lower_threshold : float, optional
        For "signed": the outcomes whose score is also at least this; minus infinity by default.

    Returns
    -------
    float64 (m, 2)
        Low and high end. Where a negative threshold of "cqr" leaves no outcome the interval is the middle alone.

    Examples
    --------
    >>> score_intervals("absolute", 1.5, [2.0, 10.0]).tolist()
    [[0.5, 3.5], [8.5, 11.5]]
    >>> score_intervals("signed", 1.0, [2.0], lower_threshold=-3.0).tolist()
    [[-1.0, 3.0]]
    """
    centre, scale = _predicted(score, prediction, scale)
    if lower_threshold is not None and score != "signed":
        raise DatumwiseError(f"score {score!r} has no lower threshold", remedy="only score 'signed' has two")
    if score == "signed":
        below = -np.inf if lower_threshold is None else lower_threshold
        return np.column_stack([centre + below, centre + threshold])
    if score != "cqr":
        half = threshold if scale is None else threshold * scale
        return np.column_stack([centre - half, centre + half])
    ends = np.column_stack([centre[:, 0] - threshold, centre[:, 1] + threshold])
    crossed = ends[:, 0] > ends[:, 1]
    ends[crossed] = ends[crossed].mean(axis=1, keepdims=True)
    return ends


def label_scores(
    score: str, probs: Any, *, uniform: Any = None, penalty: float = PENALTY, free_rank: int = FREE_RANK
) -> np.ndarray:
    """Score of every label of every datapoint; higher is less credible.

    With the labels of a row sorted by falling probability (ties to the lower column), label k at place r:

        lac   1 - p_k
        aps   p_(1) + ... + p_(r) - u p_(r)
        raps  aps + penalty * max(0, r - free_rank)

    Parameters
    ----------
    score : {"lac", "aps", "raps"}
    probs : float (n, K)
        Rows sum to 1.
    uniform : float (n,), optional
        u in [0, 1], one draw a datapoint: sets of smaller mean size. 0 by default, which is deterministic.
    penalty : float, default 0.01
        lambda >= 0 of raps.
    free_rank : int, default 5
        k_reg >= 0 of raps: labels without penalty.

    Returns
    -------
    float64 (n, K)

    Raises
    ------
    UnknownName, SchemaMismatch, NotFinite, LabelError, DatumwiseError
        No such score; not a matrix; NaN; fewer than two columns; rows that are no probabilities.

    Examples
    --------
    >>> label_scores("lac", [[0.7, 0.2, 0.1]]).round(3).tolist()
    [[0.3, 0.8, 0.9]]
    >>> label_scores("aps", [[0.2, 0.7, 0.1]]).round(3).tolist()
    [[0.9, 0.7, 1.0]]
    """
    if score not in LABEL_SCORES:
        raise UnknownName(f"there is no label score {score!r}", remedy=f"choose one of {', '.join(LABEL_SCORES)}")
    p = _probabilities(probs)
    if score == "lac":
        return 1.0 - p
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=1)
    mass = np.minimum(np.cumsum(ranked, axis=1), 1.0)
    if uniform is not None:
        draws = real_column(uniform, "uniform")
        if len(draws) != len(p) or draws.min() < 0 or draws.max() > 1:
            raise DatumwiseError("uniform must be one draw from [0, 1] a datapoint")
        mass = np.maximum(mass - draws[:, None] * ranked, 0.0)
    if score == "raps":
        if not (np.isfinite(penalty) and penalty >= 0 and free_rank >= 0):
            raise DatumwiseError(f"penalty = {penalty}, free_rank = {free_rank}", remedy="both must be >= 0")
        mass = mass + penalty * np.maximum(0, np.arange(1, p.shape[1] + 1) - free_rank)
    found = np.empty_like(mass)
    np.put_along_axis(found, order, mass, axis=1)
    return found


def label_sets(scores: Any, threshold: float, *, allow_empty: bool = False) -> np.ndarray:
    """Labels whose score is at most the threshold.

    Parameters
    ----------
    scores : float (m, K)
        Of `label_scores`.
    threshold : float
    allow_empty : bool, default False
        Where no label qualifies, leave the set empty instead of holding the label of the lowest score. An empty set is
        wrong for certain, and to fill it can only raise the coverage.

    Returns
    -------
    bool (m, K)

    Examples
    --------
    >>> label_sets([[0.3, 0.8, 0.9], [0.6, 0.65, 0.75]], 0.5).tolist()
    [[True, False, False], [True, False, False]]
    >>> label_sets([[0.3, 0.8, 0.9], [0.6, 0.65, 0.75]], 0.5, allow_empty=True).sum(axis=1).tolist()
    [1, 0]
    """
    table = np.asarray(scores, np.float64)
    members = table <= threshold
    if not allow_empty:
        empty = np.flatnonzero(~members.any(axis=1))
        members[empty, table[empty].argmin(axis=1)] = True
    return members


def score_limits(
    score: str, n_classes: int | None = None, *, penalty: float = PENALTY, free_rank: int = FREE_RANK
) -> tuple[float, float]:
    """Lowest and highest value that a score can take.

    Examples
    --------
    >>> score_limits("absolute"), score_limits("lac")
    ((0.0, inf), (0.0, 1.0))
    """
    if score in ("absolute", "normalized"):
        return 0.0, np.inf
    if score in ("lac", "aps"):
        return 0.0, 1.0
    if score == "raps" and n_classes is not None:
        return 0.0, 1.0 + penalty * max(0, n_classes - free_rank)
    return -np.inf, np.inf


def _predicted(score: str, prediction: Any, scale: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Prediction and scale, checked, of the shapes that the score needs."""
    if score not in REGRESSION_SCORES:
        raise UnknownName(f"there is no score {score!r}", remedy=f"choose one of {', '.join(REGRESSION_SCORES)}")
    if (scale is None) == (score == "normalized"):
        need = "needs" if scale is None else "takes no"
        raise SchemaMismatch(f"score {score!r} {need} scale", remedy="scale belongs to score 'normalized'")
    if score == "cqr":
        ends = np.asarray(prediction, np.float64)
        if ends.ndim != 2 or ends.shape[1] != 2:
            raise SchemaMismatch(f"score 'cqr' needs a low and a high quantile a datapoint; got shape {ends.shape}")
        return np.column_stack([real_column(ends[:, 0], "low quantile"), real_column(ends[:, 1], "high quantile")]), None
    centre = real_column(prediction, "prediction")
    if scale is None:
        return centre, None
    sigma = real_column(scale, "scale")
    if len(sigma) != len(centre):
        raise SchemaMismatch(f"{len(centre):,} predictions and {len(sigma):,} scales do not fit together")
    bad = np.flatnonzero(sigma <= 0)
    if len(bad):
        raise DatumwiseError(
            f"scale is not above 0 in row {name_some(bad)}", remedy="add a floor to the standard deviation", ids=bad.tolist()
        )
    return centre, sigma


def _probabilities(probs: Any) -> np.ndarray:
    """float64 (n, K), K >= 2, rows summing to 1."""
    p = np.asarray(probs)
    if p.ndim != 2 or p.dtype.kind not in "fiub":
        raise SchemaMismatch(f"probs must be numbers, datapoints x classes; got shape {p.shape} of {p.dtype}")
    if p.shape[1] < 2:
        raise LabelError(f"probs has {p.shape[1]} class", remedy="two classes are needed")
    p = p.astype(np.float64)
    total = p.sum(axis=1)
    bad = np.flatnonzero(~np.isfinite(total))
    if len(bad):
        raise NotFinite(f"probs has NaN or infinity in row {name_some(bad)}", ids=bad.tolist())
    bad = np.flatnonzero((np.abs(total - 1) > SUM_TOLERANCE) | (p.min(axis=1, initial=0.0) < -1e-6))
    if len(bad):
        raise DatumwiseError(
            f"probs are not probabilities in row {name_some(bad)}",
            remedy="each row must be >= 0 and sum to 1 (a softmax of logits does)",
            ids=bad.tolist(),
        )
    return p
