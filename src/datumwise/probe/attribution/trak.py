"""How would the model's margin on a query move if a datapoint left? TRAK: a kernel machine of gradients.

Source: Park et al., TRAK: attributing model behavior at scale, ICML 2023, eq. 13 and 17.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from datumwise.errors import DatumwiseError, ModelMismatch
from datumwise.probe.attribution.gram import damping_of, kernel_scores, preconditioned
from datumwise.probe.attribution.index import store
from datumwise.probe.attribution.objective import LogOdds
from datumwise.probe.attribution.problem import DIRECT_PARAMETERS, Problem
from datumwise.probe.attribution.projection import Exact, projection_of
from datumwise.probe.losses import Forward
from datumwise.probe.needs import Need

__all__ = ["soft_thresholded", "trak"]

WHAT = "the Gram matrix of the projected gradients"
LENGTH = 2048  # of a projected gradient, as published
RELATIVE = 0.3  # damping, as a share of the Gram matrix's mean eigenvalue that is not 0


def trak(
    problem: Problem,
    *,
    checkpoints: Sequence[Any] | None = None,
    projection: Any = "auto",
    damping: float | None = None,
    relative_damping: float = RELATIVE,
    gram: str = "plain",
    threshold: float = 0.0,
    index: str | Path | None = None,
) -> np.ndarray:
    """tau(t, i) = mean_c [phi_t^T (Phi^T Phi + lambda I)^-1 phi_i] mean_c [1 - p_i].

    phi is the projected gradient of f = log(p / (1 - p)), p the probability of the datapoint's own label.

    Parameters
    ----------
    checkpoints
        c: members of an ensemble, or one run's; the two factors are averaged apart, as published.
    projection : "auto", None, int or array (p, k)
        "auto": 2,048 numbers, or the gradient itself where that is no longer. None: the gradient itself; of a
        large model only the inner products are formed, exactly, for up to 20,000 datapoints.
    damping : float, optional
        lambda, 0 or more; 0 only where k <= n. Default: ``relative_damping`` times the mean
        eigenvalue that is not 0, trace / min(n, k).
    gram : {"plain", "weighted"}
        "weighted": Phi^T diag(p (1 - p)) Phi, the Hessian of logistic regression. Published: plain.
    threshold : float
        Scores are moved this much towards 0 (soft thresholding), after the mean over checkpoints.
    index : path, optional
        Folder where the training rows are kept; another call with other queries uses them.

    Returns
    -------
    ndarray (m, n)
        Positive: training on the datapoint raises the query's margin. About how much leaving it out would
        lower it.
    """
    if gram not in ("plain", "weighted"):
        raise DatumwiseError(f"gram is {gram!r}", remedy='choose "plain" or "weighted"')
    projected = projection_of(projection, LENGTH, problem.n_parameters, problem.seed)
    asked, sign = problem.asked()
    scores, wrong, used = np.zeros(()), np.zeros(()), 0
    for number in problem.at(checkpoints):
        if isinstance(projected, Exact) and index is None and problem.n_parameters > DIRECT_PARAMETERS:
            part, value = _from_kernel(problem, asked, damping, relative_damping, gram)
        else:
            rows = store(problem, projected, LogOdds(problem.loss), index, number, "log_odds")
            queries, _ = problem.rows(problem.test, projected, asked)
            value = rows.value.astype(np.float64)
            weights = _variance(value) if gram == "weighted" else None
            part = preconditioned(rows, queries, weights=weights, damping=damping, relative=relative_damping, what=WHAT)
        scores = scores + part
        wrong = wrong + expit(-value)  # 1 - p, without cancellation
        used += 1
    tau = (-sign / used**2) * scores * wrong
    return soft_thresholded(tau.astype(part.dtype), threshold)


def _variance(log_odds: np.ndarray) -> np.ndarray:
    """p (1 - p)."""
    return expit(log_odds) * expit(-log_odds)


def _from_kernel(
    problem: Problem, asked: Any, damping: float | None, relative: float, gram: str
) -> tuple[np.ndarray, np.ndarray]:
    """The same from inner products of whole gradients, which are never formed; and the log-odds (n,)."""
    margin = LogOdds(problem.loss)
    values: list[np.ndarray] = []
    problem.run(problem.train, [Values()], lambda columns: values.append(columns["value"]), margin)
    value = np.concatenate(values).astype(np.float64)
    weights = _variance(value) if gram == "weighted" else None
    own, cross = problem.kernels(margin, asked)
    mean = float((np.diag(own) if weights is None else np.diag(own) * weights).sum(dtype=np.float64)) / len(own)
    lam = damping_of(damping, relative, mean, WHAT)
    if lam == 0:
        raise ModelMismatch(f"{WHAT} is singular: there are more parameters than datapoints", remedy="raise damping=")
    return kernel_scores(own, cross, weights, 1.0, lam, WHAT), value


class Values(Need):
    """Column ``value`` (n,): the objective, from the forward alone."""

    objective = None

    def __init__(self) -> None:
        self._value = np.zeros(0)

    def forward(self, forward: Forward) -> None:
        self._value = forward.losses.detach().cpu().numpy()

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return {"value": self._value}


def soft_thresholded(scores: np.ndarray, threshold: float) -> np.ndarray:
    """sign(s) max(|s| - threshold, 0)."""
    if not (np.isfinite(threshold) and threshold >= 0):
        raise DatumwiseError(f"threshold is {threshold}", remedy="it must be 0 or more")
    if threshold == 0:
        return scores
    return np.sign(scores) * np.maximum(np.abs(scores) - np.asarray(threshold, scores.dtype), 0)
