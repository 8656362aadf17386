"""Which training examples would Adam learn the target from? LESS: cosines of Adam steps and target gradients.

Source: Xia et al., LESS: selecting influential data for targeted instruction tuning, ICML 2024, definition 3.1,
and its code (moments without bias correction, eps inside the root).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datumwise.errors import DatumwiseError, ModelMismatch
from datumwise.probe.attribution.index import inner_products, store
from datumwise.probe.attribution.problem import Problem
from datumwise.probe.attribution.projection import projection_of
from datumwise.probe.needs.adam import AdamDirection

__all__ = ["less", "subtask_max", "subtask_mean"]

LENGTH = 8192  # of a projected gradient, as published


def less(
    problem: Problem,
    *,
    adam: Any,
    checkpoints: Sequence[Any] | None = None,
    weights: Sequence[float] | None = None,
    projection: Any = "auto",
    adam_eps_inside: bool = True,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    index: str | Path | None = None,
) -> np.ndarray:
    """sum_c w_c cos(g_t, Gamma_i), Gamma_i Adam's step from datapoint i at checkpoint c (see `AdamDirection`).

    Parameters
    ----------
    adam : optimiser, its ``state_dict()`` or {parameter: (m, v)}; a list of them, one a checkpoint
        The moments at the checkpoint.
    checkpoints
        Weights along the warm-up training, the trainable parameters alone if that is what was saved.
    weights : sequence of float, optional
        Mean learning rate of each checkpoint's epoch; normalised to sum to 1. Equal by default.
    projection : "auto", None, int or array (p, k)
        "auto": 8,192 numbers, or the gradient itself where that is no longer.
    adam_eps_inside : bool
        As published: m' / sqrt(v' + eps) without bias correction. False: the textbook's Adam.
    betas, eps
        Of the optimiser; its own where ``adam`` says, else (0.9, 0.999) and 1e-8.
    index : path, optional
        Folder where the training rows are kept.

    Returns
    -------
    ndarray (m, n)
        In -1..1; positive: an Adam step on the datapoint lowers the query's loss. The queries' side is the plain
        gradient.
    """
    states = list(adam) if isinstance(adam, list | tuple) else [adam]
    count = len(checkpoints) if checkpoints is not None else 1
    if len(states) != count:
        raise ModelMismatch(f"{len(states)} states of Adam for {count} checkpoints", remedy="give one a checkpoint")
    shares = _normalised(weights, count)
    settings: dict[str, Any] = {"eps_inside": adam_eps_inside}
    if betas is not None:
        settings |= {"beta1": betas[0], "beta2": betas[1]}
    if eps is not None:
        settings["eps"] = eps
    asked, sign = problem.asked()
    projected = projection_of(projection, LENGTH, problem.n_parameters, problem.seed)
    total: np.ndarray | float = 0.0
    for number in problem.at(checkpoints):
        direction = AdamDirection.of(states[number], problem.model, **settings)
        kept = {"adam": _named(direction)}
        rows = store(problem, projected, problem.losses, index, number, "adam", direction, kept)
        queries, _ = problem.rows(problem.test, projected, asked)
        total = total + sign * float(shares[number]) * inner_products(rows, queries, cosine=True)
    assert isinstance(total, np.ndarray)
    return total


def subtask_mean(scores: np.ndarray, groups: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
    """Mean over the queries (shots) of each subtask, (g, n), and the subtasks in the order they first come.

    Parameters
    ----------
    scores : float (m, n)
    groups : sequence of m
        Subtask of each query.
    """
    groups = list(groups)
    if len(groups) != len(scores):
        raise DatumwiseError(f"{len(groups):,} groups for {len(scores):,} queries", remedy="name one for each query")
    names = list(dict.fromkeys(groups))
    number = np.array([names.index(g) for g in groups])
    total = np.zeros((len(names), scores.shape[1]), scores.dtype)
    np.add.at(total, number, scores)
    return total / np.bincount(number)[:, None].astype(scores.dtype), names


def subtask_max(scores: np.ndarray, groups: Sequence[Any]) -> np.ndarray:
    """LESS's selection score (n,): the mean over a subtask's shots, the largest over subtasks.

    Examples
    --------
    >>> subtask_max(np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 9.0]]), ["a", "a", "b"]).tolist()
    [2.0, 9.0]
    """
    return subtask_mean(scores, groups)[0].max(axis=0)


def _normalised(weights: Sequence[float] | None, count: int) -> np.ndarray:
    shares = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(shares) != count:
        raise DatumwiseError(f"{len(shares)} weights for {count} checkpoints")
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise DatumwiseError(f"the checkpoints' weights are {shares.tolist()}", remedy="give learning rates above 0")
    return shares / shares.sum()


def _named(direction: AdamDirection) -> str:
    """A short name of the moments and settings, kept with an index."""
    from hashlib import blake2b

    digest = blake2b(f"{direction.beta1} {direction.beta2} {direction.eps} {direction.eps_inside}".encode(), digest_size=8)
    if not direction.eps_inside:
        digest.update(str(direction.steps).encode())
    for name, (m, v) in sorted(direction.moments.items()):
        digest.update(name.encode())
        for tensor in (m, v):
            digest.update(tensor.detach().to(torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()
