"""What would the weights be had the loss never had these datapoints in it? One Newton step away from them.

``theta <- theta + (H_R + d I)^-1 grad L_F |F| / |R|`` with mean losses: exact for a quadratic loss at its minimum (Guo et al.,
2020, eq. 2; Koh and Liang, 2017). A penalty of fixed size beside a SUM of losses counts as ``penalty / |R|`` in H_R, or the
result is wrong. Not the Hessian of the whole data: that is the influence function's first-order answer, which falls short by
the share of what is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, ModelMismatch, NotFinite, UnknownName, name_some
from datumwise.forget.fisher_diagonal import fisher_diagonal, mean_gradient
from datumwise.forget.module_data import ModuleData, datapoint_losses, module_data
from datumwise.forget.trained_copy import copied
from datumwise.probe.kfac import KFAC
from datumwise.probe.losses import Losses

__all__ = ["CURVATURES", "NewtonRemoval", "newton_removal"]

CURVATURES = {
    "hessian": "the Hessian of the mean loss, by conjugate gradients on products with it",
    "diagonal": "the mean squared gradient of each weight (empirical Fisher diagonal)",
    "kfac": "Kronecker-factored Fisher of the layers that have one; other parameters stay",
}


@dataclass(frozen=True)
class NewtonRemoval:
    """What `newton_removal` did.

    Attributes
    ----------
    model : torch.nn.Module
    moved : float
        Norm of the step over all parameters.
    residual : float
        Of the linear system, relative to its right side; 0 where it is solved in closed form.
    iterations : int
        Of conjugate gradients.
    untouched : tuple of str
        Trainable parameters that the curvature does not cover.
    """

    model: Any
    moved: float
    residual: float
    iterations: int
    untouched: tuple[str, ...]


def newton_removal(
    model: nn.Module,
    forget: Any,
    retain: Any,
    *,
    curvature: str = "hessian",
    damping: float,
    penalty: float = 0.0,
    loss_fn: Losses | None = None,
    n_retain: int | None = None,
    scale: float = 1.0,
    tol: float = 1e-8,
    max_iterations: int = 200,
    kfac: KFAC | None = None,
    batch_size: int = 32,
    tokenizer: Any = None,
    collate: Any = None,
    inplace: bool = False,
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NewtonRemoval:
    """Remove datapoints from a trained module by one step of Newton.

    Parameters
    ----------
    model : torch.nn.Module
        At (or near) a minimum of the loss over ``forget`` and ``retain`` together. Parameters that require a gradient move.
    forget, retain : ledger, (x, y) tensors, or batches
        ``retain`` may be a sample of what is kept; then say ``n_retain``.
    curvature : {"hessian", "diagonal", "kfac"}
        See `CURVATURES`.
    damping : float
        d, at least 0. A network's Hessian has negative directions: too little damping is refused. In units of the mean loss's
        curvature a weight.
    penalty : float
        Lambda of ``lambda |theta|^2 / 2`` beside the SUM of losses, of all trainable parameters.
    loss_fn : callable (model, batch) -> Tensor (B,), optional
        One loss a datapoint; cross-entropy (a sum over a text's tokens) by default. Needed for regressions.
    n_retain : int, optional
        Number of retained datapoints; by default those given.
    scale : float
        Factor of the step.
    tol, max_iterations
        Of conjugate gradients: relative residual, and products with the Hessian (each passes over ``retain`` once).
    kfac : KFAC, optional
        Fitted on retained data; by default fitted here, with labels drawn from the model.
    batch_size : int
    inplace : bool
    random_state : int
        Of the labels that K-FAC draws.
    progress : callable (done, total), optional
        Iterations, or datapoints.

    Returns
    -------
    NewtonRemoval

    Raises
    ------
    UnknownName, DatumwiseError, EmptyData
    ModelMismatch
        A direction of negative curvature: more damping is needed.
    NotFinite
        A loss, or the step, is not finite.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(60, 3, dtype=torch.float64); y = x @ torch.tensor([[1.0], [2.0], [0.5]]).double() + torch.randn(60, 1)
    >>> def ridge(x, y):
    ...     model = torch.nn.Linear(3, 1, bias=False).double()
    ...     with torch.no_grad():
    ...         model.weight.copy_(torch.linalg.solve(x.T @ x + 0.5 * torch.eye(3), x.T @ y).T)
    ...     return model
    >>> half_squares = lambda model, batch: 0.5 * (model(batch[0]) - batch[1]).square().sum(1)
    >>> found = newton_removal(ridge(x, y), (x[:9], y[:9]), (x[9:], y[9:]), damping=0, penalty=0.5, loss_fn=half_squares)
    >>> torch.allclose(found.model.weight, ridge(x[9:], y[9:]).weight, atol=1e-8)
    True
    """
    if curvature not in CURVATURES:
        raise UnknownName(f"there is no curvature {curvature!r}", remedy=f"choose {', '.join(CURVATURES)}")
    if damping < 0 or penalty < 0:
        raise DatumwiseError(f"damping is {damping} and penalty {penalty}", remedy="both must be 0 or more")
    options = {"tokenizer": tokenizer, "collate": collate, "batch_size": batch_size}
    gone = module_data(forget, model, "forget", **options)
    kept = module_data(retain if retain is not None else (), model, "retain", **options)
    n_kept = len(kept) if n_retain is None else int(n_retain)
    if n_kept < 1:
        raise DatumwiseError(f"n_retain is {n_retain}", remedy="give the number of retained datapoints")
    pull = {name: g * (scale * len(gone) / n_kept) for name, g in mean_gradient(model, gone, loss_fn).items()}
    shift = damping + penalty / n_kept
    residual, iterations = 0.0, 0
    if curvature == "hessian":
        step, residual, iterations = _by_conjugate_gradients(model, kept, pull, shift, loss_fn, tol, max_iterations, progress)
    elif curvature == "diagonal":
        bend = fisher_diagonal(model, kept, loss_fn, progress)
        step = {name: g / (bend[name].to(g.device) + shift).clamp_min(torch.finfo(g.dtype).tiny) for name, g in pull.items()}
    else:
        step = _by_kfac(model, kept, pull, shift, kfac, loss_fn, random_state, progress)
    bad = [name for name, value in step.items() if not torch.isfinite(value).all()]
    if bad:
        raise NotFinite(f"the step of {name_some(bad)} is not finite", remedy="take more damping")
    new = model if inplace else copied(model)
    moved = 0.0
    untouched = []
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            if name in step:
                moved += float(step[name].square().sum())
                parameter.add_(step[name].to(parameter))
            elif parameter.requires_grad:
                untouched.append(name)
    return NewtonRemoval(new, moved**0.5, residual, iterations, tuple(untouched))


# --- the Hessian ------------------------------------------------------------------------------------------------------------


def _by_conjugate_gradients(
    model: nn.Module,
    data: ModuleData,
    pull: dict[str, Tensor],
    shift: float,
    loss_fn: Losses | None,
    tol: float,
    max_iterations: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Tensor], float, int]:
    """(H + shift I)^-1 pull, its relative residual and the number of products with H."""
    names = list(pull)
    right = _flat(pull, names)
    size = float(right.norm())
    if size == 0:
        return {name: torch.zeros_like(value) for name, value in pull.items()}, 0.0, 0
    x, r = torch.zeros_like(right), right.clone()
    p, rr = r.clone(), float(r @ r)
    done = 0
    with _twice_differentiable(model, names) as parameters:
        for _ in range(max_iterations):
            if rr**0.5 <= tol * size:
                break
            bent = _product(model, data, parameters, names, p, loss_fn) + shift * p
            curve = float(p @ bent)
            done += 1
            if not curve > 0:
                raise ModelMismatch(
                    f"the loss of what is retained bends down along a direction (curvature {curve / float(p @ p):.3g})",
                    remedy="take more damping, or curvature='diagonal' or 'kfac', which never do",
                )
            step = rr / curve
            x += step * p
            r -= step * bent
            rr, before = float(r @ r), rr
            p = r + (rr / before) * p
            if progress is not None:
                progress(done, max_iterations)
    out, at = {}, 0
    for name in names:
        out[name] = x[at : at + pull[name].numel()].reshape(pull[name].shape)
        at += pull[name].numel()
    return out, rr**0.5 / size, done


def _product(
    model: nn.Module, data: ModuleData, parameters: list[Tensor], names: list[str], v: Tensor, loss_fn: Losses | None
) -> Tensor:
    """Hessian of the mean loss times v, float64 (P,): gradient of (gradient . v), batch by batch."""
    pieces, at = [], 0
    for p in parameters:
        pieces.append(v[at : at + p.numel()].reshape(p.shape).to(p))
        at += p.numel()
    total = torch.zeros_like(v)
    for rows, batch in data.straight():
        loss = datapoint_losses(model, batch, [data.ids[row] for row in rows], loss_fn).sum()
        first = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        along = sum((g * piece).sum() for g, piece in zip(first, pieces, strict=True) if g is not None and g.requires_grad)
        if isinstance(along, Tensor):
            second = torch.autograd.grad(along, parameters, allow_unused=True)
            filled = [torch.zeros_like(p) if g is None else g for g, p in zip(second, parameters, strict=True)]
            total += torch.cat([g.reshape(-1) for g in filled]).to(total)
    return total / len(data)


def _flat(values: dict[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([values[name].reshape(-1) for name in names])


@contextmanager
def _twice_differentiable(model: nn.Module, names: list[str]) -> Iterator[list[Tensor]]:
    """The named parameters of the model in evaluation mode, with attention whose second derivative there is."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    modes = [(module, module.training) for module in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.eval()
        named = dict(model.named_parameters())
        for p, _ in wanted:
            p.requires_grad_(False)
        for name in names:
            named[name].requires_grad_(True)
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            yield [named[name] for name in names]
    finally:
        for p, flag in wanted:
            p.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


# --- K-FAC ------------------------------------------------------------------------------------------------------------------


def _by_kfac(
    model: nn.Module,
    data: ModuleData,
    pull: dict[str, Tensor],
    shift: float,
    kfac: KFAC | None,
    loss_fn: Losses | None,
    random_state: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Tensor]:
    """U_G [(U_G^T g U_A) / (T lam mu + shift)] U_A^T a layer; T positions a datapoint, as its Fisher is their sum."""
    if kfac is None:
        labels = "sampled" if loss_fn is None else "gold"
        kfac = KFAC(model, labels=labels, bias=True, random_state=random_state)
        given = [batch for _, batch in data.straight()]
        kfac.fit(given, loss_fn, ids=data.ids, progress=progress)
    step = {}
    for layer, factor in kfac.factors_.items():
        dot = f"{layer}." if layer else ""  # a model that is one layer has the name ""
        weight, bias = f"{dot}weight", f"{dot}bias"
        if weight not in pull:
            continue
        module = model.get_submodule(layer)
        o, width = len(factor.G), len(factor.A)
        shape = pull[weight].shape
        g = pull[weight].T if _transposed(module) else pull[weight].reshape(o, -1)
        has_bias = factor.bias and bias in pull
        g = torch.cat([g, pull[bias][:, None].to(g)], 1) if has_bias else g
        if g.shape != (o, width):
            raise ModelMismatch(f"the factors of {layer} are of a weight ({o}, {width}), the model's is {tuple(g.shape)}")
        U_G, U_A = factor.eigenvectors_G.to(g), factor.eigenvectors_A.to(g)
        positions = factor.n_positions / max(1, kfac.n_datapoints_)
        values = positions * factor.eigenvalues("kfac").to(g) + shift
        whole = U_G @ ((U_G.T @ g @ U_A) / values.clamp_min(torch.finfo(g.dtype).tiny)) @ U_A.T
        inner = whole[:, :-1] if has_bias else whole
        step[weight] = _back(module, inner, shape)
        if has_bias:
            step[bias] = whole[:, -1]
    if not step:
        raise ModelMismatch("none of the factors is of a trainable layer of the model", remedy="fit the KFAC on this model")
    return step


def _transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def _back(module: nn.Module, matrix: Tensor, shape: torch.Size) -> Tensor:
    return matrix.T.reshape(shape) if _transposed(module) else matrix.reshape(shape)
