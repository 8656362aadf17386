"""Influence with a closed form for each layer: the mean of the inverses instead of the inverse of the mean.

Source: Kwon et al., DataInf: efficiently estimating data influence in LoRA-tuned LLMs and diffusion models,
ICLR 2024, eq. 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, ModelMismatch
from datumwise.probe.attribution.problem import Problem
from datumwise.probe.gradient import Grad, Layer
from datumwise.probe.losses import Forward
from datumwise.probe.needs import Need

__all__ = ["datainf"]

RELATIVE = 0.1  # lambda_l as a share of the mean squared gradient entry of layer l, as published
QUERY_BYTES = 2**29  # queries' gradients held at a time


def datainf(
    problem: Problem,
    *,
    checkpoints: Sequence[Any] | None = None,
    damping: float | None = None,
    relative_damping: float = RELATIVE,
) -> np.ndarray:
    """sum over layers l of g_t^T [(1/n) sum_j (g_j g_j^T + lambda_l I)^-1] g_i; a mean over checkpoints.

    By Sherman and Morrison the bracket times g_t is (1 / (n lambda_l)) sum_j (g_t - g_j <g_j, g_t> / (lambda_l +
    ||g_j||^2)): a pass for the norms, one to gather the sums, one for the products. A layer's bias counts with
    its weight.

    Parameters
    ----------
    checkpoints
        The model's own weights by default.
    damping : float, optional
        lambda, one for all layers, above 0. Default: ``relative_damping`` times a layer's mean squared gradient
        entry.

    Returns
    -------
    ndarray (m, n)
        Positive: more weight on the datapoint helps the query.
    """
    if damping is not None and not (np.isfinite(damping) and damping > 0):
        raise DatumwiseError(f"damping is {damping}", remedy="DataInf divides by it: it must be above 0")
    if not (np.isfinite(relative_damping) and relative_damping > 0):
        raise DatumwiseError(f"relative_damping is {relative_damping}", remedy="it must be above 0")
    asked, sign = problem.asked()
    block = max(1, QUERY_BYTES // (problem.n_parameters * torch.zeros((), dtype=problem.dtype).element_size()))
    total: np.ndarray | float = 0.0
    used = 0
    for _ in problem.at(checkpoints):
        norms = LayerNorms()
        problem.run(problem.train, [norms], losses=problem.losses)
        lambdas = _lambdas(norms, damping, relative_damping)
        held = Queries()
        problem.run(problem.test, [held], losses=asked, batch_size=min(block, problem.batch_size))
        parts = []
        for start in range(0, held.count, block):
            queries = {name: rows[start : start + block] for name, rows in held.joined().items()}
            mean = MeanInverse(queries, lambdas)
            problem.run(problem.train, [mean], losses=problem.losses)
            parts.append(_products(problem, mean.solved(norms.count)))
        total = total + sign * np.concatenate(parts)
        used += 1
    assert isinstance(total, np.ndarray)
    return total / used


def _products(problem: Problem, vectors: Mapping[str, Tensor]) -> np.ndarray:
    """Inner products (q, n) of the training gradients with ``vectors``."""
    columns: list[np.ndarray] = []
    problem.run(problem.train, [LayerProducts(vectors)], lambda found: columns.append(found["products"]), problem.losses)
    return np.concatenate(columns).T


def _lambdas(norms: LayerNorms, damping: float | None, relative: float) -> dict[str, float]:
    lambdas = {}
    for name, squares in norms.totals.items():
        mean = float(squares) / (norms.count * norms.sizes[name])
        if damping is None and mean <= 0:
            raise ModelMismatch(f"every gradient of layer {name} is zero", remedy="pass damping=, or leave it out of modules=")
        lambdas[name] = relative * mean if damping is None else damping
    return lambdas


def flat(grad: Grad) -> Tensor:
    """All of a layer's gradient, (n, size): the matrix, then its vectors by name."""
    parts = [grad.W.flatten(1)] if grad.has_matrix and grad.layer.weight else []
    parts += [grad.vectors[name] for name in sorted(grad.vectors)]
    return torch.cat(parts, dim=1)


class LayerNorms(Need):
    """Sum of the squared gradients of each layer, the number of datapoints and each layer's size."""

    covers_all = True

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.sizes: dict[str, int] = {}
        self.count = 0

    def begin(self, layers: Mapping[str, Layer]) -> None:
        self.sizes = {name: layer.count for name, layer in layers.items()}

    def forward(self, forward: Forward) -> None:
        self.count += forward.n

    def layer(self, name: str, grad: Grad) -> None:
        batch = grad.norm2().double().sum()
        self.totals[name] = self.totals[name] + batch if name in self.totals else batch


class Queries(Need):
    """Each layer's gradients, kept: name to (m, size)."""

    covers_all = True

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}
        self.count = 0

    def forms(self, layer: Layer) -> bool:
        return layer.shape is not None

    def forward(self, forward: Forward) -> None:
        self.count += forward.n

    def layer(self, name: str, grad: Grad) -> None:
        self.parts.setdefault(name, []).append(flat(grad).clone())

    def joined(self) -> dict[str, Tensor]:
        return {name: torch.cat(parts) for name, parts in self.parts.items()}


class MeanInverse(Need):
    """sum_j g_j <g_j, g_t> / (lambda + ||g_j||^2) of each query and layer."""

    covers_all = True

    def __init__(self, queries: Mapping[str, Tensor], lambdas: Mapping[str, float]) -> None:
        self.queries = queries
        self.lambdas = lambdas
        self.sums = {name: torch.zeros_like(rows) for name, rows in queries.items()}

    def forms(self, layer: Layer) -> bool:
        return layer.shape is not None

    def layer(self, name: str, grad: Grad) -> None:
        if name not in self.queries or name not in self.lambdas:
            return
        rows = flat(grad)
        products = (self.queries[name] @ rows.T) / (self.lambdas[name] + rows.square().sum(1))
        self.sums[name].addmm_(products, rows)

    def solved(self, n: int) -> dict[str, Tensor]:
        """The bracket times each query's gradient, layer by layer."""
        return {
            name: (self.queries[name] - self.sums[name] / n) / self.lambdas[name] for name in self.sums if name in self.lambdas
        }


class LayerProducts(Need):
    """Column ``products`` (n, q): inner products with given vectors, summed over layers."""

    covers_all = True

    def __init__(self, vectors: Mapping[str, Tensor]) -> None:
        self.vectors = vectors
        self._sums = torch.zeros(0)

    def forms(self, layer: Layer) -> bool:
        return layer.shape is not None

    def forward(self, forward: Forward) -> None:
        like = next(iter(self.vectors.values()))
        self._sums = like.new_zeros(forward.n, len(like))

    def layer(self, name: str, grad: Grad) -> None:
        if name in self.vectors:
            self._sums[grad.at] += flat(grad) @ self.vectors[name].T

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return {"products": self._sums.cpu().numpy()}
