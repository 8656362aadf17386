"""Influence with a layer's curvature as a Kronecker product: EK-FAC and K-FAC.

Source: Grosse et al., Studying large language model generalization with influence functions, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.attribution.curvature import check_hessian
from datumwise.probe.attribution.problem import Problem
from datumwise.probe.ekfac import fit_eigenvalues
from datumwise.probe.ekfac import influence as kronecker_influence
from datumwise.probe.kfac import KFAC

__all__ = ["ekfac", "kfac"]

LABEL_DRAWS = 3  # of the Fisher's labels: one draw's noise is of the size of what tells methods apart
RELATIVE = 0.1  # damping, as a share of a layer's mean eigenvalue, as in Grosse et al.


def ekfac(problem: Problem, **options: Any) -> np.ndarray:
    """Influence with eigenvalues corrected to the datapoints' own; options as of `kronecker`."""
    return kronecker(problem, "ekfac", **options)


def kfac(problem: Problem, **options: Any) -> np.ndarray:
    """Influence with products of the factors' eigenvalues; options as of `kronecker`."""
    return kronecker(problem, "kfac", **options)


def kronecker(
    problem: Problem,
    eigenvalues: str,
    *,
    checkpoints: Sequence[Any] | None = None,
    hessian: str | None = None,
    damping: float | None = None,
    relative_damping: float = RELATIVE,
    factors: KFAC | None = None,
    bias: bool = True,
    positions: str = "supervised",
    label_draws: int = LABEL_DRAWS,
) -> np.ndarray:
    """g_t^T (F + lambda_l I)^-1 g_i, layer by layer, F in Kronecker factors; a mean over checkpoints.

    Only Linear layers and convolutions count, not a language model's output head nor its embeddings.

    Parameters
    ----------
    checkpoints
        The model's own weights by default; factors are learnt at each.
    hessian : {"gauss_newton", "empirical_fisher"}, optional
        Fisher of labels drawn from the model (the default, where the loss is cross-entropy), or of the given
        labels (the default for another loss).
    damping : float, optional
        lambda, one for all layers; default ``relative_damping`` times each layer's mean eigenvalue.
    factors : KFAC, optional
        Fitted, for EK-FAC with eigenvalues; nothing is learnt then.
    bias : bool
        Count the layers' biases.
    positions : {"supervised", "all"}
        As of `KFAC`.
    label_draws : int, default 3
        How often labels are drawn from the model for each datapoint; the factors are means over the draws.

    Returns
    -------
    ndarray (m, n)
        Positive: more weight on the datapoint helps the query. Leaving it out costs about score / n.
    """
    if damping is not None and not (np.isfinite(damping) and damping >= 0):
        raise DatumwiseError(f"damping is {damping}", remedy="it must be 0 or more")
    if not (np.isfinite(relative_damping) and relative_damping >= 0):
        raise DatumwiseError(f"relative_damping is {relative_damping}", remedy="it must be 0 or more")
    if hessian is None:
        hessian = "gauss_newton" if problem.losses is None else "empirical_fisher"
    if check_hessian(hessian) == "exact":
        raise DatumwiseError("the exact Hessian has no Kronecker factors", remedy='use method="influence"')
    if hessian == "gauss_newton" and problem.losses is not None:
        raise DatumwiseError(
            "labels can be drawn from the model for cross-entropy only", remedy='use hessian="empirical_fisher"'
        )
    if label_draws < 1:
        raise DatumwiseError(f"label_draws is {label_draws}", remedy="it must be 1 or more")
    if factors is not None and checkpoints is not None:
        raise DatumwiseError("factors are of one set of weights", remedy="leave out checkpoints= or factors=")
    stream: dict[str, Any] = {
        "tokenizer": problem.tokenizer,
        "collate": problem.collate,
        "batch_size": problem.batch_size,
    }
    asked, sign = problem.asked()
    total: np.ndarray | float = 0.0
    used = 0
    for _ in problem.at(checkpoints):
        fitted = factors
        if fitted is None:
            settings = {"bias": bias, "positions": positions, "dtype": problem.dtype}
            labels = "sampled" if hessian == "gauss_newton" else "gold"
            draws = [problem.seed + draw for draw in range(label_draws if labels == "sampled" else 1)]
            fitted = _factors(problem, labels, draws, settings, stream)
            if eigenvalues == "ekfac":
                _correct(fitted, problem, draws, stream)
        else:
            fitted.model = problem.model
        part = kronecker_influence(
            fitted,
            problem.test,
            problem.train,
            eigenvalues=eigenvalues,
            damping=relative_damping if damping is None else damping,
            relative=damping is None,
            loss_fn=problem.losses,
            measure=asked,
            progress=problem.progress,
            **stream,
        )
        total = total + sign * part
        used += 1
    assert isinstance(total, np.ndarray)
    return total / used


def _factors(problem: Problem, labels: str, draws: Sequence[int], settings: dict[str, Any], stream: dict[str, Any]) -> KFAC:
    """Factors of every draw of the labels, summed up."""
    total: KFAC | None = None
    for draw in draws:
        one = KFAC(problem.model, problem.modules, labels, random_state=draw, **settings)
        one.fit(problem.train, problem.losses, **stream)
        one.random_state = draws[0]  # the sums of all draws belong together
        total = one if total is None else total.merge(one)
    assert total is not None
    return total


def _correct(fitted: KFAC, problem: Problem, draws: Sequence[int], stream: dict[str, Any]) -> None:
    """Eigenvalues as a mean over as many draws again, of which the eigenbasis knows nothing.

    On the labels that the basis was fitted to, its first directions look sharper and its last ones flatter than they are,
    and the scores foresee retraining less well.
    """
    sums: dict[str, Any] = {}
    for draw in draws:
        fitted.random_state = draw + len(draws)
        fit_eigenvalues(fitted, problem.train, problem.losses, **stream)
        for name, factor in fitted.factors_.items():
            if factor.corrected is not None:
                sums[name] = sums.get(name, 0) + factor.corrected
    fitted.random_state = draws[0]
    for name, total in sums.items():
        fitted.factors_[name].corrected = total / len(draws)
