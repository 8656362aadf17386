"""How much of a model's behaviour on one datapoint lives where the loss is flat for all others? Scores by curvature.

Merullo et al., 2025, *From Memorization to Reasoning in the Spectrum of Loss Curvature*; Grosse et al., 2023, for
self-influence; Garg and Roy, 2023, for curvature at the input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import ModelMismatch, UnknownName
from datumwise.probe.collate import known_length, model_batches
from datumwise.probe.ekfac import fit_eigenvalues, inverse_eigenvalues
from datumwise.probe.input_curvature import DRAWS, input_curvature
from datumwise.probe.kept_pairs import KeptPairs, kept_pairs, project
from datumwise.probe.kfac import KFAC
from datumwise.probe.layers import reader_of
from datumwise.probe.losses import Forward, Losses, forward_of
from datumwise.probe.needs import Need
from datumwise.probe.needs.curvature_shares import FLAT, FlatShare, GradientShares
from datumwise.probe.swapped_weights import swapped, weight_matrix
from datumwise.probe.torch_pass import TorchPass

__all__ = ["CURVATURE_SCORES", "KEEP_MASS", "curvature_layers", "curvature_scores", "default_keep_mass"]

CURVATURE_SCORES = (
    "loss",
    "flat_share",
    "removed_energy",
    "self_influence",
    "grad_norm",
    "edit_sensitivity",
    "input_curvature",
)
KEEP_MASS = {"tokens": 0.7, "classes": 0.99}  # a converged classifier's spectrum is far steeper than a language model's
DEPTH = (0.6, 0.8)  # share of the depth at which a language model's blocks are looked at, as published


def curvature_scores(
    model: nn.Module,
    data: Any,
    kfac: KFAC,
    names: Sequence[str] = ("loss", "flat_share", "removed_energy", "edit_sensitivity"),
    *,
    keep_mass: float | None = None,
    edit: Any = None,
    flat: float = FLAT,
    eigenvalues: str = "kfac",
    damping: float = 0.1,
    draws: int = DRAWS,
    loss_fn: Losses | None = None,
    ids: Sequence[Any] | None = None,
    tokenizer: Any = None,
    collate: Callable[..., Any] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Any], dict[str, np.ndarray]]:
    """All scores in one reading of the data: one forward, one backward and one edited forward a batch, as asked for.

    Parameters
    ----------
    model : torch.nn.Module
    data : Ledger, iterable of batches, or (x, y) tensors
    kfac : KFAC
        Fitted, on ordinary data of the same kind.
    names : sequence of str
        Of `CURVATURE_SCORES`.
    keep_mass : float, optional
        Of the edit that ``removed_energy`` and ``edit_sensitivity`` look at; 0.7 for models of tokens, 0.99 for others
        by default.
    edit : object with ``applied(model)``, optional
        A context manager under which the model is edited, instead of that edit.
    flat : float
        Share of the input directions that ``flat_share`` calls flat.
    eigenvalues : {"kfac", "ekfac"}
        Of ``self_influence``; "ekfac" must have been fitted (`datumwise.probe.fit_eigenvalues`).
    damping : float
        Of ``self_influence``, as a share of the mean eigenvalue of a layer.
    draws : int
        Of ``input_curvature``.
    loss_fn, ids, tokenizer, collate, batch_size
        As of `KFAC.fit`. Gradients are of the given labels.
    seed : int
        Of ``input_curvature``.
    progress : callable (done, total), optional

    Returns
    -------
    ids : list of n
    columns : dict of str to float64 (n,)
        ``loss`` and ``edit_sensitivity`` are means over predicted tokens, in nats; ``grad_norm`` (of the layers of
        ``kfac``) and ``self_influence`` are of the summed loss.

    Raises
    ------
    UnknownName
        A score is not known.
    ModelMismatch
        The factors are of other layers, or have what an edit cannot use.
    """
    unknown = [name for name in names if name not in CURVATURE_SCORES]
    if unknown:
        raise UnknownName(f"there is no curvature score {unknown[0]!r}", remedy=f"there are {', '.join(CURVATURE_SCORES)}")
    kfac.model = model
    if keep_mass is None:
        keep_mass = default_keep_mass(model)
    edited = None
    if "edit_sensitivity" in names:
        edited = _Edited(model, edit, _edited_weights(model, kfac, keep_mass) if edit is None else None)
    needs, flat_need = _needs(kfac, names, keep_mass, flat, eigenvalues, damping)
    losses = _Losses()
    reading = {"ids": ids, "tokenizer": tokenizer, "collate": collate, "batch_size": batch_size}
    found: dict[str, list[np.ndarray]] = {name: [] for name in names if name != "input_curvature"}
    known: list[Any] = []
    parts = 1 + ("input_curvature" in names)
    total = parts * known_length(data, ids)
    if found:
        layers = set(kfac.factors_)
        run = TorchPass(
            model,
            [losses, *needs],
            losses=loss_fn,
            modules=(lambda name, module: name in layers) if any(n.objective for n in needs) else None,
            allow_partial=True,
            test=False,
        )
        with run:
            for some, batch in model_batches(data, model, **reading):
                columns = run.batch(batch, some)
                if edited is not None:
                    with _quiet(flat_need), edited.applied():
                        columns["edit_sensitivity"] = _mean_losses(model, batch, some, loss_fn) - columns["loss"]
                for name, values in found.items():
                    values.append(columns[name])
                known.extend(some)
                if progress is not None:
                    progress(len(known), total)
    columns = {name: np.concatenate(values) for name, values in found.items()}
    if "input_curvature" in names:
        read = len(known)
        tell = None if progress is None else lambda done, _: progress(read + done, total)
        columns["input_curvature"] = input_curvature(
            model, data, draws=draws, loss_fn=loss_fn, seed=seed, progress=tell, **reading
        )
        known = known or [one for some, _ in model_batches(data, model, **reading) for one in some]
    return known, {name: columns[name] for name in names}


def default_keep_mass(model: nn.Module) -> float:
    """0.7 for a model of tokens, 0.99 for any other."""
    return KEEP_MASS["tokens" if _of_tokens(model) else "classes"]


def curvature_layers(model: nn.Module) -> list[str]:
    """Layers whose curvature is looked at by default.

    Of a language model the widest layers of the MLPs (gate and up projections) in blocks from 60 to 80 % of the depth,
    where the paper edits; of any other model every Linear layer and convolution but the last, and without the first of
    several numbered blocks.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> curvature_layers(model)
    ['0', '2']
    """
    linear = {
        name: module
        for name, module in model.named_modules()
        if (reader := reader_of(module)) is not None
        and reader.kind in ("linear", "convolution")
        and getattr(module, "groups", 1) == 1
        and isinstance(getattr(module, "weight", None), Tensor)
        and module.weight.is_floating_point()
    }
    head = getattr(model, "get_output_embeddings", lambda: None)()
    names = [name for name, module in linear.items() if module is not head]
    if not names:
        raise ModelMismatch(f"{type(model).__name__} has no Linear layer or convolution whose curvature could be looked at")
    numbered = {name: int(found.group(1)) for name in names if (found := re.search(r"\.(\d+)\.", name))}
    if not _of_tokens(model):
        return [name for name in names[:-1] if numbered.get(name, 0) > 0] or names[:-1] or names
    if not numbered:
        return names[:-1] or names
    depth = max(numbered.values()) + 1
    first = min(depth - 1, int(DEPTH[0] * depth))
    inside = {name: block for name, block in numbered.items() if first <= block <= max(first, int(DEPTH[1] * depth) - 1)}
    widths = {name: _shape(linear[name])[0] for name in inside}
    mlp = [name for name in inside if re.search(r"mlp|ffn|feed_?forward|fc", name, re.IGNORECASE)] or list(inside)
    widest = max(widths[name] for name in mlp)
    return [name for name in mlp if widths[name] == widest]


def fitted(model: nn.Module, data: Any, *, ekfac: bool = False, **options: Any) -> KFAC:
    """Factors of `curvature_layers` (or of ``modules``), with corrected eigenvalues where asked for."""
    modules, labels, seed = options.pop("modules", None), options.pop("labels", "sampled"), options.pop("seed", 0)
    progress, share = options.pop("progress", None), options.pop("share", 1.0)
    double = any(p.dtype == torch.float64 for p in model.parameters())
    kfac = KFAC(
        model,
        curvature_layers(model) if modules is None else modules,
        labels,
        share=share,
        dtype=torch.float64 if double else torch.float32,
        random_state=seed,
    ).fit(data, progress=progress, **options)
    return fit_eigenvalues(kfac, data, **options) if ekfac else kfac


# --- what a pass takes ----------------------------------------------------------------------------------


class _Losses(Need):
    """Column ``loss`` (n,) float64: the mean over predicted tokens, or the loss itself."""

    objective = None

    def __init__(self) -> None:
        self._found = np.zeros(0)

    def forward(self, forward: Forward) -> None:
        self._found = _per_token(forward)

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return {"loss": self._found}


def _per_token(forward: Forward) -> np.ndarray:
    losses = forward.losses.detach().double()
    if forward.custom is None and forward.tokens:
        losses = losses / torch.bincount(forward.owners, minlength=forward.n)
    return losses.cpu().numpy()


def _mean_losses(model: nn.Module, batch: Any, ids: Sequence[Any], loss_fn: Losses | None) -> np.ndarray:
    with torch.no_grad():
        return _per_token(forward_of(model, batch, ids, loss_fn))


def _needs(
    kfac: KFAC, names: Sequence[str], keep_mass: float, flat: float, eigenvalues: str, damping: float
) -> tuple[list[Need], FlatShare | None]:
    flat_need = FlatShare(kfac, flat) if "flat_share" in names else None
    needs: list[Need] = [] if flat_need is None else [flat_need]
    if {"removed_energy", "self_influence", "grad_norm"} & set(names):
        kept = None
        if "removed_energy" in names:
            kept = {name: torch.from_numpy(pairs.mask()) for name, pairs in _kept(kfac, keep_mass).items()}
        inverse = inverse_eigenvalues(kfac, eigenvalues, damping) if "self_influence" in names else None
        needs.append(GradientShares(kfac, kept, inverse))
    return needs, flat_need


def _kept(kfac: KFAC, keep_mass: float) -> dict[str, KeptPairs]:
    """Which components of each layer an edit keeps."""
    return {name: kept_pairs(f.eigenvalues_G, f.eigenvalues_A, keep_mass) for name, f in kfac.factors_.items()}


def _edited_weights(model: nn.Module, kfac: KFAC, keep_mass: float) -> dict[str, Tensor]:
    """The weights (o, i) that keep ``keep_mass`` of the curvature."""
    if kfac.bias:
        raise ModelMismatch("an edit is of weights alone, and these factors count the bias", remedy="fit KFAC with bias=False")
    edited = {}
    for name, pairs in _kept(kfac, keep_mass).items():
        factor = kfac.factors_[name]
        weight = weight_matrix(model, name).to(factor.A)
        edited[name] = project(weight, factor.eigenvectors_A, factor.eigenvectors_G, pairs)
    return edited


class _Edited:
    """The model under an edit, as often as wanted."""

    def __init__(self, model: nn.Module, edit: Any, weights: Mapping[str, Tensor] | None) -> None:
        self.model, self.edit, self.weights = model, edit, weights

    def applied(self) -> AbstractContextManager[Any]:
        if self.weights is None:
            return self.edit.applied(self.model)
        return swapped(self.model, self.weights)


@contextmanager
def _quiet(need: FlatShare | None) -> Iterator[None]:
    """The edited forward is not listened to."""
    if need is not None:
        need.listening = False
    try:
        yield
    finally:
        if need is not None:
            need.listening = True


def _of_tokens(model: nn.Module) -> bool:
    """Whether the model predicts next tokens."""
    return bool(getattr(model, "can_generate", lambda: False)())


def _shape(module: nn.Module) -> tuple[int, int]:
    reader = reader_of(module)
    assert reader is not None
    shape = reader.shape(module)
    assert shape is not None
    return shape
