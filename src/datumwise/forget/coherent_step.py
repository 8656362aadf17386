"""How are given sequences forgotten by one step? All their margins lowered at once, in directions that others hardly use.

Where a label-free curvature edit removes every flat component, this one moves the weights against the summed gradient of the
margins of what is to be forgotten, inside the flat components alone. Recitation is spread redundantly over them, so the step
reaches sequences of the same kind that it was not given.

Source: public replication notes on Merullo et al., From memorization to reasoning in the spectrum of loss curvature, 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, UnknownName
from datumwise.forget.curvature_edit import CurvatureEdit
from datumwise.forget.edit_cost import trainable
from datumwise.forget.weight_edit import WeightEdit, unwrapped
from datumwise.probe.collate import IGNORED, model_batches
from datumwise.probe.kept_pairs import project
from datumwise.probe.kfac import KFAC
from datumwise.probe.layers import reader_of
from datumwise.probe.losses import Forward, forward_of
from datumwise.probe.tap import frozen

__all__ = ["CoherentEdit", "coherent_edit", "recited_share"]

FIRST_NORM, LAST_NORM = 2.0**-9, 1.0  # of the search, as shares of a weight's norm
HALVINGS = 6  # of the last interval
COUNTED = ("sequence", "token")


class CoherentEdit(WeightEdit):
    """W - norm ||W|| D / ||D|| of each layer, with a direction D each.

    Attributes
    ----------
    directions : dict of layer name to Tensor (o, i)
        Of norm 1.
    norm : float
        Length of the step as a share of ||W||.
    before, after : float or None
        Share of the targets that the model says, unedited and edited; None where the norm was given and not measured.
    """

    def __init__(
        self, directions: Mapping[str, Tensor], norm: float, before: float | None = None, after: float | None = None
    ) -> None:
        super().__init__()
        self.directions = dict(directions)
        self.norm = norm
        self.before = before
        self.after = after

    def names(self, model: nn.Module) -> list[str]:
        return list(self.directions)

    def edited(self, name: str, W: Tensor) -> Tensor:
        D = self.directions[name]
        if D.shape != W.shape:
            raise ModelMismatch(f"the direction of {name} is {tuple(D.shape)}, the model's weight {tuple(W.shape)}")
        return W - self.norm * torch.linalg.vector_norm(W) * D.to(W)

    def at(self, norm: float) -> CoherentEdit:
        """The same directions, another length."""
        return CoherentEdit(self.directions, norm, self.before)


def coherent_edit(
    model: nn.Module,
    kfac: KFAC,
    targets: Any,
    *,
    norm: float | None = None,
    goal: float = 0.1,
    counted: str = "sequence",
    keep_mass: float = 0.6,
    bulk_only: bool = True,
    layers: str | Sequence[str] | Callable[[str], bool] | None = None,
    prefix: int = 0,
    forgotten: Callable[[nn.Module], bool] | None = None,
    tokenizer: Any = None,
    collate: Callable[..., Any] | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> CoherentEdit:
    """One step against the margins of given datapoints, in the flat components of some layers' weights.

    D = U_G ((1 - M) * U_G^T (sum of the margins' gradients) U_A) U_A^T; a margin is log p(gold) minus the largest other
    log p of a position. The model is not changed: apply what is returned.

    Parameters
    ----------
    model : torch.nn.Module
    kfac : KFAC
        Fitted on what must be kept.
    targets : Ledger, iterable of batches, or (x, y) tensors
        As of `KFAC.fit`: what is to be forgotten. Labels of -100 leave positions out, as do the first ``prefix`` tokens of
        each text. Gone through several times; an iterator is held as a list.
    norm : float, optional
        Length of the step as a share of ||W||, above 0. By default the smallest (to about 2 %) that reaches the goal is
        searched; 0 where the model does as it is.
    goal : float
        Largest share of the targets that may still be said, 0 to 1.
    counted : {"sequence", "token"}
        What the share is of: datapoints of which every target is the model's first choice, or single targets.
    keep_mass : float
        rho: M keeps the components with that share of the curvature from being moved.
    bulk_only : bool
        False: move along the whole gradient.
    layers
        As of `CurvatureEdit`.
    prefix : int
    forgotten : callable (model) -> bool, optional
        Another goal: whether the edited model has forgotten enough.
    tokenizer, collate, batch_size
        As of `KFAC.fit`.
    progress : callable (done, total), optional
        Measurements of the search, at most 17.

    Raises
    ------
    DatumwiseError
        A number is out of range; even a step as long as the weights does not reach the goal.
    EmptyData
        There is no target.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(200, 4), torch.randint(2, (200,))
    >>> model = nn.Linear(4, 2)
    >>> kfac = KFAC(model).fit([(x, y)])
    >>> said = model(x[:1]).argmax(1)
    >>> edit = coherent_edit(model, kfac, [(x[:1], said)], goal=0.0, bulk_only=False)
    >>> edit.before, edit.after
    (1.0, 0.0)
    """
    if counted not in COUNTED:
        raise UnknownName(f"there is no share of {counted!r}", remedy=f"choose {' or '.join(COUNTED)}")
    if not 0 <= goal < 1:
        raise DatumwiseError(f"goal is {goal}", remedy="choose a share from 0, below 1")
    if norm is not None and not norm > 0:
        raise DatumwiseError(f"norm is {norm}", remedy="choose a share of the weights' norm above 0")
    options = {"tokenizer": tokenizer, "collate": collate, "batch_size": batch_size}
    if isinstance(targets, Iterator):
        targets = list(targets)
    gradients = _margin_gradients(unwrapped(model), kfac, targets, layers, prefix, options)
    if bulk_only:
        edit = CurvatureEdit(kfac, keep_mass, layers=layers)
        gradients = {name: _flat_part(edit, name, gradient) for name, gradient in gradients.items()}
    directions = {name: D / torch.linalg.vector_norm(D) for name, D in gradients.items() if bool(D.any())}
    if not directions:
        raise DatumwiseError("the margins have no gradient in these components", remedy="lower keep_mass, or take more layers")
    if norm is not None:
        return CoherentEdit(directions, norm)

    def share(edited: nn.Module) -> float:
        return recited_share(edited, targets, counted=counted, prefix=prefix, **options)

    before = share(model)
    reached = forgotten or (lambda edited: share(edited) <= goal)
    found = _shortest(CoherentEdit(directions, 0.0, before), model, reached, progress)
    with found.applied(model):
        found.after = share(model)
    return found


def recited_share(model: nn.Module, data: Any, *, counted: str = "sequence", prefix: int = 0, **options: Any) -> float:
    """Share of the datapoints whose every target (or of the targets) is the model's first choice, 0..1, teacher forced.

    With greedy decoding that is the share recited word for word: the model goes on with the target as long as it has said it.

    Parameters
    ----------
    model, data, counted, prefix
        As of `coherent_edit`.
    **options
        ``tokenizer``, ``collate``, ``batch_size``.
    """
    said, of = 0, 0
    inner = unwrapped(model)
    with frozen(inner), torch.no_grad():
        for names, batch in model_batches(data, inner, **options):
            forward = forward_of(inner, _suffix(batch, prefix), names, None)
            right = forward.log_probs.argmax(1) == forward.targets
            if counted == "token":
                said, of = said + int(right.sum()), of + len(right)
                continue
            wrong = torch.zeros(forward.n, dtype=torch.long, device=right.device).index_add(0, forward.owners, (~right).long())
            there = torch.bincount(forward.owners, minlength=forward.n) > 0
            said, of = said + int((there & (wrong == 0)).sum()), of + int(there.sum())
    if not of:
        raise EmptyData("no position has a target", remedy="give labels, or a shorter prefix")
    return said / of


def _margin_gradients(
    model: nn.Module, kfac: KFAC, targets: Any, layers: Any, prefix: int, options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Gradient (o, i) of the sum of all margins, float32 at least, by layer."""
    names = CurvatureEdit(kfac, 1.0, layers=layers).names(model)
    modules = {name: model.get_submodule(name) for name in names}
    weights = [module._parameters["weight"] for module in modules.values()]
    totals: list[Tensor] = []
    seen = 0
    with frozen(model), trainable(model, modules), torch.enable_grad():
        for ids, batch in model_batches(targets, model, **options):
            forward = forward_of(model, _suffix(batch, prefix), ids, None)
            seen += len(forward.targets)
            if not len(forward.targets):
                continue
            found = torch.autograd.grad(_margins(forward).sum(), [w for w in weights if w is not None], allow_unused=True)
            parts = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True) if w is not None]
            parts = [g.float() if g.dtype != torch.float64 else g for g in parts]
            totals = parts if not totals else [a + b for a, b in zip(totals, parts, strict=True)]
    if not seen:
        raise EmptyData("no position has a target", remedy="give labels, or a shorter prefix")
    gradients = {}
    for (name, module), total in zip(modules.items(), totals, strict=True):
        reader = reader_of(module)
        assert reader is not None
        gradients[name] = total.T if reader.transposed else total.flatten(1)
    return gradients


def _margins(forward: Forward) -> Tensor:
    """log p(gold) - max other log p of each target, differentiable (N,)."""
    log_probs, gold = forward.log_probs, forward.targets[:, None]
    return log_probs.gather(1, gold)[:, 0] - log_probs.scatter(1, gold, -torch.inf).amax(1)


def _flat_part(edit: CurvatureEdit, name: str, gradient: Tensor) -> Tensor:
    """The gradient without the components that carry the curvature."""
    basis = edit._basis(name)
    return gradient - project(gradient, basis.inputs.vectors, basis.outputs.vectors, edit.pairs(name))


def _suffix(batch: Any, prefix: int) -> Any:
    """The batch with labels that leave out the first ``prefix`` tokens of each text."""
    if not prefix:
        return batch
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        raise ModelMismatch("a prefix is for texts", remedy="leave prefix= out")
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    seen = torch.ones_like(ids) if mask is None else mask.long()
    labels = batch.get("labels", ids)
    return {**batch, "labels": labels.masked_fill(seen.cumsum(1) <= prefix, IGNORED)}


def _shortest(
    edit: CoherentEdit,
    model: nn.Module,
    reached: Callable[[nn.Module], bool],
    progress: Callable[[int, int], None] | None,
) -> CoherentEdit:
    """The shortest step that reaches the goal: doubled until it does, then the last interval halved."""
    done = 0
    most = 11 + HALVINGS

    def reaches(norm: float) -> bool:
        nonlocal done
        with edit.at(norm).applied(model):
            answer = reached(model)
        done += 1
        if progress is not None:
            progress(done, most)
        return answer

    if reaches(0.0):
        return edit.at(0.0)
    low, high = 0.0, FIRST_NORM
    while not reaches(high):
        low, high = high, 2 * high
        if high > LAST_NORM:
            raise DatumwiseError(
                "a step as long as the weights themselves does not reach the goal",
                remedy="take more layers, a lower keep_mass, or bulk_only=False",
            )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return edit.at(high)
