"""The loss's curvature as something that multiplies: Hessian, Gauss-Newton and empirical Fisher, never formed.

Source: Pearlmutter, Fast exact multiplication by the Hessian, 1994; Schraudolph, Fast curvature matrix-vector
products, 2002.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from datumwise.errors import UnknownName
from datumwise.probe.attribution.objective import Outputs
from datumwise.probe.attribution.problem import Problem
from datumwise.probe.losses import forward_of

__all__ = ["HESSIANS", "Curvature", "check_hessian"]

HESSIANS = ("exact", "gauss_newton", "empirical_fisher")
FORMED_BYTES = 2**28  # of the right-hand sides differentiated at once


def check_hessian(hessian: str) -> str:
    """``hessian`` if there is one of that name.

    Raises
    ------
    UnknownName
    """
    if hessian not in HESSIANS:
        raise UnknownName(f"there is no hessian {hessian!r}", remedy=f"choose {', '.join(HESSIANS)}")
    return hessian


@dataclass
class Curvature:
    """Mean over the training data of the chosen curvature of the loss, as a product with vectors.

    Parameters
    ----------
    problem : Problem
    kind : {"exact", "gauss_newton", "empirical_fisher"}
        The empirical Fisher is the mean of the outer products of the datapoints' gradients.
    """

    problem: Problem
    kind: str
    _batches: list[tuple[int, Any]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        check_hessian(self.kind)
        self._batches = [(len(ids), batch) for ids, batch in self.problem.batches(self.problem.train)]

    @property
    def n(self) -> int:
        return sum(size for size, _ in self._batches)

    @property
    def p(self) -> int:
        return self.problem.n_parameters

    def __call__(self, V: Tensor) -> Tensor:
        """The product with each row of ``V`` (q, p), over all the training data."""
        with self.ready():
            return torch.stack([self.of_batch(number, V) * size for number, size in enumerate(self.sizes)]).sum(0) / self.n

    @property
    def sizes(self) -> list[int]:
        """Datapoints of each batch."""
        return [size for size, _ in self._batches]

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The model in evaluation mode, differentiable twice; modes and flags are put back."""
        model = self.problem.model
        modes = {module: module.training for module in model.modules()}
        flags = {p: p.requires_grad for p in model.parameters()}
        wanted = set(map(id, self.problem.parameters.values()))
        try:
            model.eval()
            for p in flags:
                p.requires_grad_(id(p) in wanted)
            with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():  # fused attention has no second derivative
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for p, flag in flags.items():
                p.requires_grad_(flag)

    def of_batch(self, number: int, V: Tensor) -> Tensor:
        """The product with each row of ``V`` (q, p) over one batch, a mean over its datapoints; inside `ready`."""
        _, batch = self._batches[number]
        step = max(1, FORMED_BYTES // (self.p * V.element_size()))
        parts = [self._of_batch(batch, number, V[start : start + step]) for start in range(0, len(V), step)]
        return torch.cat(parts)

    def _of_batch(self, batch: Any, number: int, V: Tensor) -> Tensor:
        size = self._batches[number][0]
        parameters = list(self.problem.parameters.values())
        if self.kind == "exact":
            losses = forward_of(self.problem.model, batch, range(size), self.problem.losses).losses
            g = self._flat(torch.autograd.grad(losses.sum(), parameters, create_graph=True, allow_unused=True))
            return self._rows(g, V) / size
        if self.kind == "gauss_newton":
            outputs = Outputs(self.problem.model, batch, self._loss)
            z = outputs.z
            Jv = self._pushed(z, V)
            with torch.no_grad():
                turned = torch.stack([outputs.curved(row) for row in Jv])
            return self._pulled(z, turned) / size
        losses = forward_of(self.problem.model, batch, range(size), self.problem.losses).losses
        products = self._pushed(losses, V)  # <g_i, v>
        return self._pulled(losses, products) / size

    @property
    def _loss(self) -> Any:
        return self.problem.loss

    def _flat(self, gradients: Any) -> Tensor:
        """One vector (p,) of gradients by parameter, zero where the objective does not depend on one."""
        parameters = self.problem.parameters.values()
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(gradients, parameters, strict=True)]
        )

    def _rows(self, g: Tensor, V: Tensor) -> Tensor:
        """d<g, v>/d theta for each row v, (q, p)."""
        parameters = list(self.problem.parameters.values())
        if not g.requires_grad:
            return torch.zeros_like(V)
        found = torch.autograd.grad(g, parameters, V.to(g), is_grads_batched=True, allow_unused=True)
        return self._flat_rows(found, V)

    def _flat_rows(self, found: Any, V: Tensor) -> Tensor:
        rows = [
            V.new_zeros(len(V), p.numel()) if f is None else f.reshape(len(V), -1).to(V)
            for f, p in zip(found, self.problem.parameters.values(), strict=True)
        ]
        return torch.cat(rows, dim=1)

    def _pushed(self, z: Tensor, V: Tensor) -> Tensor:
        """J v for each row, (q, *z.shape): the gradient of the linear map u -> J^T u."""
        parameters = list(self.problem.parameters.values())
        u = torch.zeros_like(z, requires_grad=True)
        pulled = self._flat(torch.autograd.grad(z, parameters, u, create_graph=True, allow_unused=True))
        return torch.autograd.grad(pulled, u, V.to(pulled), is_grads_batched=True)[0].detach()

    def _pulled(self, z: Tensor, U: Tensor) -> Tensor:
        """J^T u for each of U (q, *z.shape), (q, p)."""
        parameters = list(self.problem.parameters.values())
        found = torch.autograd.grad(z, parameters, U, is_grads_batched=True, allow_unused=True)
        return self._flat_rows(found, U.new_zeros(len(U), self.p))
