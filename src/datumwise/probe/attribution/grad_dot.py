"""Would a step on the datapoint lower the query's loss? Inner products and cosines of gradients.

Source: Pruthi et al., Estimating training data influence by tracing gradient descent, 2020, eq. 1 (TracInCP).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.probe.attribution.index import inner_products, store
from datumwise.probe.attribution.problem import Problem
from datumwise.probe.attribution.projection import Exact, projection_of
from datumwise.probe.tracin import tracin

__all__ = ["grad_cos", "grad_dot", "trace"]


def grad_dot(problem: Problem, **options: Any) -> np.ndarray:
    """<g_t, g_i>, of one set of weights or summed over checkpoints; options as of `trace`."""
    return trace(problem, **options)


def grad_cos(problem: Problem, **options: Any) -> np.ndarray:
    """The cosine of g_t and g_i, in -1..1 for one set of weights; options as of `trace`."""
    return trace(problem, cosine=True, **options)


def trace(
    problem: Problem,
    *,
    checkpoints: Sequence[Any] | None = None,
    weights: Sequence[float] | None = None,
    projection: Any = "auto",
    cosine: bool = False,
    index: str | Path | None = None,
) -> np.ndarray:
    """sum_c w_c <g_t, g_i>, exactly, or of projected gradients.

    Parameters
    ----------
    checkpoints, weights
        Weights of the model along training, and a number each (its learning rate); 1 by default.
    projection : "auto", None, int or array (p, k)
        "auto" and None: exact inner products, no gradient of a whole model is ever formed.
    cosine : bool
        Divide by both norms.
    index : path, optional
        Folder where the training rows are kept, for projected gradients.

    Returns
    -------
    ndarray (m, n)
        Positive: a step on the datapoint helps the query.
    """
    asked, sign = problem.asked()
    weights = [1.0] * len(checkpoints or [None]) if weights is None else list(weights)
    projected = projection_of(projection, None, problem.n_parameters, problem.seed)
    total: np.ndarray | float = 0.0
    for number in problem.at(checkpoints):
        if isinstance(projected, Exact) and index is None:
            part = tracin(
                problem.model,
                problem.train,
                problem.test,
                losses=problem.losses,
                measure=asked,
                modules=problem.modules,
                allow_partial=problem.allow_partial,
                tokenizer=problem.tokenizer,
                collate=problem.collate,
                batch_size=problem.batch_size,
                cosine=cosine,
                progress=problem.progress,
            )
        else:
            queries, _ = problem.rows(problem.test, projected, asked)
            rows = store(problem, projected, problem.losses, index, number, "loss")
            part = inner_products(rows, queries, cosine=cosine)
        total = total + sign * weights[number] * part
    assert isinstance(total, np.ndarray)
    return total
