"""How hard is each item for a population of respondents? Item response theory by marginal maximum likelihood.

One- and two-parameter logistic models, P(right) = sigmoid(a_j (theta_i - b_j)), theta ~ N(0, 1): Bock and Aitkin, 1981.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch, UnknownName, name_some

__all__ = ["IRT", "fit_irt"]

PRIOR_LOG_A = 0.5  # standard deviation of log a: keeps the slope of an item with little information finite
PRIOR_B = 3.0  # standard deviation of b: keeps items that everybody, or nobody, gets right finite
NEWTON = 10  # steps of an M-step, at most
BLOCK = 2**23  # numbers of a respondents x nodes block


@dataclass(frozen=True)
class IRT:
    """A fitted model of k items and n respondents.

    Attributes
    ----------
    difficulty : float64 (k,)
        b_j, on the scale of ability, mean 0: the ability at which the item is right half the time.
    discrimination : float64 (k,)
        a_j > 0; all the same in the 1PL.
    ability : float64 (n,)
        Posterior mean of theta_i on the same scale.
    extreme : bool (k,)
        Items that all respondents answered alike: their difficulty is the prior's.
    rounds : int
        EM rounds.
    converged : bool
    """

    difficulty: np.ndarray
    discrimination: np.ndarray
    ability: np.ndarray
    extreme: np.ndarray
    rounds: int
    converged: bool

    def __str__(self) -> str:
        low, middle, high = np.quantile(self.difficulty, (0, 0.5, 1))
        return (
            f"{len(self.difficulty):,} items, {len(self.ability):,} respondents: difficulty {low:.2f} to {high:.2f}, median "
            f"{middle:.2f}; {int(self.extreme.sum())} answered alike by all; {self.rounds} rounds"
            f"{'' if self.converged else ', not converged'}"
        )


def fit_irt(
    responses: Any,
    model: Literal["1pl", "2pl"] = "2pl",
    *,
    nodes: int = 41,
    max_rounds: int = 500,
    tolerance: float = 1e-4,
    progress: Callable[[int, int], None] | None = None,
) -> IRT:
    """Difficulty, discrimination and ability from right and wrong answers, by EM over Gauss-Hermite nodes.

    Parameters
    ----------
    responses : float (n, k)
        1 right, 0 wrong, NaN not asked; a row a respondent (model), a column an item.
    model : {"1pl", "2pl"}
        One slope for all items, or one each.
    nodes : int, default 41
        Nodes of the quadrature over ability.
    max_rounds : int, default 500
    tolerance : float, default 1e-4
        Stop when no parameter moves further.
    progress : callable (round, max_rounds), optional

    Returns
    -------
    IRT

    Raises
    ------
    SchemaMismatch, DatumwiseError
        Not a matrix; an answer that is not 0, 1 or NaN; an item or respondent without an answer.

    Notes
    -----
    The location is fixed afterwards: difficulties have mean 0, and abilities move with them.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> b = np.linspace(-2, 2, 40)
    >>> right = rng.random((300, 40)) < 1 / (1 + np.exp(b - rng.normal(size=(300, 1))))
    >>> bool(np.corrcoef(fit_irt(right, "1pl").difficulty, b)[0, 1] > 0.98)
    True
    """
    if model not in ("1pl", "2pl"):
        raise UnknownName(f"there is no model {model!r}", remedy="choose 1pl or 2pl")
    X = np.asarray(responses)
    if X.ndim != 2 or X.dtype.kind not in "fiub":
        raise SchemaMismatch(f"responses must be numbers, respondents x items; got shape {X.shape} of {X.dtype}")
    if not X.size:
        raise EmptyData("responses are empty")
    X = X.astype(np.float64)
    asked = ~np.isnan(X)
    odd = np.flatnonzero((asked & (X != 0) & (X != 1)).any(axis=0))
    if len(odd):
        raise DatumwiseError(f"answers to item {name_some(odd)} are neither 0 nor 1", ids=odd.tolist())
    for axis, what in ((0, "item"), (1, "respondent")):
        empty = np.flatnonzero(~asked.any(axis=axis))
        if len(empty):
            raise DatumwiseError(f"{what} {name_some(empty)} has no answer", ids=empty.tolist())

    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    log_weights = np.log(weights / weights.sum())
    right = np.where(asked, X, 0.0)
    complete = bool(asked.all())
    seen = None if complete else asked.astype(np.float64)
    share = (right.sum(axis=0) + 0.5) / (asked.sum(axis=0) + 1)
    slope = np.ones(X.shape[1])
    intercept = np.log(share / (1 - share))  # c_j = -a_j b_j
    converged, rounds = False, 0
    while not converged and rounds < max_rounds:
        rounds += 1
        counts, hits, _ = _expectation(right, seen, slope, intercept, points, log_weights)
        new_slope, new_intercept = _maximisation(counts, hits, slope, intercept, points, shared=model == "1pl")
        change = max(np.abs(new_slope - slope).max(), np.abs(new_intercept - intercept).max())
        slope, intercept = new_slope, new_intercept
        converged = bool(change < tolerance)
        if progress is not None:
            progress(rounds, max_rounds)
    ability = _expectation(right, seen, slope, intercept, points, log_weights)[2]
    difficulty = -intercept / slope
    centre = difficulty.mean()
    total = right.sum(axis=0)
    extreme = (total == 0) | (total == asked.sum(axis=0))
    return IRT(difficulty - centre, slope, ability - centre, extreme, rounds, converged)


def _expectation(
    right: np.ndarray,
    seen: np.ndarray | None,
    slope: np.ndarray,
    intercept: np.ndarray,
    points: np.ndarray,
    log_weights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected answers n_jq (k, Q) and right answers r_jq (k, Q) at each node, and posterior means (n,)."""
    logits = np.multiply.outer(slope, points) + intercept[:, None]  # (k, Q)
    log_wrong = -np.logaddexp(0, logits)
    n, (k, Q) = len(right), logits.shape
    counts, hits = np.zeros((k, Q)), np.zeros((k, Q))
    means = np.empty(n)
    step = max(1, BLOCK // Q)
    for start in range(0, n, step):
        part = slice(start, start + step)
        # log p(answers | node) = sum over items asked of x * logit + log(1 - p)
        log_joint = right[part] @ logits + log_weights
        log_joint += log_wrong.sum(axis=0) if seen is None else seen[part] @ log_wrong
        log_joint -= log_joint.max(axis=1, keepdims=True)
        posterior = np.exp(log_joint)
        posterior /= posterior.sum(axis=1, keepdims=True)
        hits += right[part].T @ posterior
        counts += posterior.sum(axis=0) if seen is None else seen[part].T @ posterior
        means[part] = posterior @ points
    return counts, hits, means


def _maximisation(
    counts: np.ndarray, hits: np.ndarray, slope: np.ndarray, intercept: np.ndarray, points: np.ndarray, *, shared: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Newton steps in (log a, c), all items at once; the 1PL has one log a."""
    log_a, c = np.log(slope), intercept.copy()
    for _ in range(NEWTON):
        a = np.exp(log_a)
        p = 1 / (1 + np.exp(-(np.multiply.outer(a, points) + c[:, None])))
        residual = hits - counts * p
        information = counts * p * (1 - p)
        theta_residual, theta_information = residual @ points, information @ points
        d_c = residual.sum(axis=1) - c / PRIOR_B**2
        d_a = a * theta_residual
        h_cc = information.sum(axis=1) + 1 / PRIOR_B**2
        h_ac = a * theta_information
        h_aa = a**2 * (information @ points**2)  # expected information of log a
        if shared:
            gradient = d_a.sum() - log_a[0] / PRIOR_LOG_A**2
            schur = h_aa.sum() + 1 / PRIOR_LOG_A**2 - (h_ac**2 / h_cc).sum()
            step_a = np.full(len(a), (gradient - (h_ac * d_c / h_cc).sum()) / schur)
        else:
            gradient = d_a - log_a / PRIOR_LOG_A**2
            step_a = (gradient - h_ac * d_c / h_cc) / (h_aa + 1 / PRIOR_LOG_A**2 - h_ac**2 / h_cc)
        step_a = np.clip(step_a, -0.5, 0.5)
        step_c = np.clip((d_c - h_ac * step_a) / h_cc, -1, 1)
        log_a, c = log_a + step_a, c + step_c
        if max(np.abs(step_a).max(), np.abs(step_c).max()) < 1e-6:
            break
    return np.exp(log_a), c
