"""A model, what it was trained on and what is asked: one object that every method of attribution goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, NotFinite, SchemaMismatch, SourceError, name_some
from datumwise.probe.attribution.objective import LogOdds, loss_by_name
from datumwise.probe.attribution.projection import Projection
from datumwise.probe.batches import is_ledger
from datumwise.probe.collate import known_length, model_batches
from datumwise.probe.layers import Modules
from datumwise.probe.losses import Losses
from datumwise.probe.needs import Need
from datumwise.probe.needs.rows import Direction, GradRows
from datumwise.probe.torch_pass import TorchPass
from datumwise.probe.tracin import tracin

__all__ = ["DIRECT_PARAMETERS", "KERNEL_ROWS", "Problem", "Rows"]

DIRECT_PARAMETERS = 5_000  # up to which p x p matrices and (n, p) rows are formed unasked
KERNEL_ROWS = 20_000  # training datapoints up to which their n x n inner products are formed

Rows = tuple[np.ndarray, np.ndarray]  # (n, k) rows and (n,) values of the objective


@dataclass
class Problem:
    """What all methods share.

    Parameters
    ----------
    model : torch.nn.Module
    train, test : Ledger, (X, y), DataLoader or list of batches
    loss : str or callable
        Of `objective.LOSSES`, or (model, batch) -> Tensor (n,).
    measure : "loss", "log_odds" or callable
        Of the queries; all but the loss count as better when larger.
    """

    model: nn.Module
    train: Any
    test: Any
    loss: str | Losses = "cross_entropy"
    measure: str | Losses = "loss"
    modules: Modules = None
    allow_partial: bool = False
    tokenizer: Any = None
    collate: Callable[..., Any] | None = None
    batch_size: int = 64
    seed: int = 0
    progress: Callable[[int, int], None] | None = None
    _done: int = field(default=0, init=False)
    _expected: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ModelMismatch(f"the model is a {type(self.model).__name__}, not a torch module")
        if self.batch_size < 1:
            raise DatumwiseError(f"batch_size is {self.batch_size}", remedy="it must be 1 or more")
        self.model = getattr(self.model, "_orig_mod", self.model)
        self.losses = loss_by_name(self.loss)
        self.train = _data(self.train, "train", self.model)
        self.test = _data(self.test, "test", self.model)

    # --- the parameters ---------------------------------------------------------------------------------

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Captured parameters in the model's order, with their number of scalars."""
        layers = TorchPass(self.model, [], modules=self.modules).layers
        captured = {name for layer in layers.values() for name in layer.parameters}
        return {name: p.numel() for name, p in self.model.named_parameters() if name in captured}

    @property
    def n_parameters(self) -> int:
        return sum(self.sizes.values())

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The captured parameters themselves, in the model's order."""
        return {name: p for name, p in self.model.named_parameters() if name in self.sizes}

    @property
    def dtype(self) -> torch.dtype:
        """float64 if the model is, else float32."""
        first = next((p.dtype for p in self.model.parameters()), torch.float32)
        return torch.float64 if first == torch.float64 else torch.float32

    # --- what is differentiated -------------------------------------------------------------------------

    def asked(self) -> tuple[Losses | None, float]:
        """What is differentiated for the queries, and the sign that makes larger scores more helpful."""
        if self.measure == "loss":
            return self.losses, 1.0
        if self.measure == "log_odds":
            return LogOdds(self.loss), -1.0
        if callable(self.measure):
            return self.measure, -1.0
        raise DatumwiseError(f"measure is {self.measure!r}", remedy='choose "loss", "log_odds" or a function (model, batch)')

    # --- passes -----------------------------------------------------------------------------------------

    def expect(self, train: int = 0, test: int = 0) -> None:
        """Announce passes over the training data and the queries, for ``progress``."""
        lengths = (known_length(self.train), known_length(self.test))
        self._expected += train * lengths[0] + test * lengths[1]
        if not all(length or not passes for passes, length in zip((train, test), lengths, strict=True)):
            self._expected = 0

    def batches(self, data: Any, batch_size: int | None = None) -> Iterator[tuple[list[Any], Any]]:
        """Batches on the model's device, each with its ids; counts them for ``progress``."""
        options = {"tokenizer": self.tokenizer, "collate": self.collate, "batch_size": batch_size or self.batch_size}
        for ids, batch in model_batches(data, self.model, **options):
            yield ids, batch
            self._done += len(ids)
            if self.progress is not None:
                self.progress(self._done, max(self._expected, self._done) if self._expected else 0)

    def run(
        self,
        data: Any,
        needs: Sequence[Need],
        each: Callable[[Mapping[str, Any]], None] | None = None,
        losses: Losses | None = None,
        batch_size: int | None = None,
    ) -> None:
        """One pass; ``each`` gets the columns of every batch."""
        with TorchPass(
            self.model, needs, losses=losses, modules=self.modules, allow_partial=self.allow_partial, seed=self.seed
        ) as run:
            for ids, batch in self.batches(data, batch_size):
                if isinstance(losses, LogOdds):
                    losses.ids = ids
                columns = run.batch(batch, ids)
                if each is not None:
                    each(columns)

    def rows(self, data: Any, projection: Projection, losses: Losses | None = None, direction: Direction | None = None) -> Rows:
        """Gradients of ``losses`` as rows (n, k), and the values of ``losses`` (n,)."""
        parts: list[Mapping[str, Any]] = []
        self.run(data, [GradRows(projection, self.sizes, direction)], parts.append, losses)
        return np.concatenate([c["rows"] for c in parts]), np.concatenate([c["value"] for c in parts])

    def kernels(self, losses: Losses | None, asked: Losses | None) -> tuple[np.ndarray, np.ndarray]:
        """Exact inner products of whole gradients: of ``losses`` with itself (n, n), and ``asked`` with it (m, n).

        Raises
        ------
        DatumwiseError
            More than 20,000 training datapoints.
        """
        options: dict[str, Any] = {
            "losses": losses,
            "modules": self.modules,
            "allow_partial": self.allow_partial,
            "tokenizer": self.tokenizer,
            "collate": self.collate,
            "batch_size": self.batch_size,
        }
        cross = tracin(self.model, self.train, self.test, measure=asked, progress=self.progress, **options)
        n = cross.shape[1]
        if n > KERNEL_ROWS:
            raise DatumwiseError(
                f"the inner products of {n:,} training gradients would take {8 * n * n / 2**30:.0f} GiB",
                remedy="pass projection=, or a solver",
            )
        return tracin(self.model, self.train, self.train, **options), cross

    # --- checkpoints ------------------------------------------------------------------------------------

    @contextmanager
    def _own_weights(self) -> Iterator[None]:
        before = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        try:
            yield
        finally:
            self.model.load_state_dict(before)

    def at(self, checkpoints: Sequence[Any] | None) -> Iterator[int]:
        """Load one checkpoint after the other and give its number; the model's own weights come back."""
        if checkpoints is None:
            yield 0
            return
        with self._own_weights():
            for number, checkpoint in enumerate(checkpoints):
                load(self.model, checkpoint, number)
                yield number


def check_checkpoints(checkpoints: Any) -> Sequence[Any] | None:
    """A list of state dicts or files, or None; one state dict by itself is a mistake.

    Raises
    ------
    EmptyData, ModelMismatch
    """
    if checkpoints is None:
        return None
    if isinstance(checkpoints, Mapping | str | Path):
        raise ModelMismatch("checkpoints is a single checkpoint", remedy="give a list of them")
    checkpoints = list(checkpoints)
    if not checkpoints:
        raise EmptyData("there is no checkpoint in checkpoints", remedy="leave it out to use the model's own weights")
    return checkpoints


def load(model: nn.Module, checkpoint: Any, number: int = 0) -> None:
    """Load a state dict, or a file of one: of the whole model, or of its trainable parameters alone (LoRA).

    Raises
    ------
    ModelMismatch
        Names or shapes that are not the model's, or a trainable parameter without a value.
    SourceError
        There is no such file.
    """
    state = _state(checkpoint)
    own = model.state_dict()
    if hasattr(model, "peft_config") and state and not set(state) <= set(own):
        state = {_with_adapter(model, name, own): value for name, value in state.items()}
    what = f"checkpoint {number}"
    unknown = sorted(set(state) - set(own))
    if unknown:
        raise ModelMismatch(f"{what} holds {name_some(unknown)}, which the model does not")
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    lacking = [name for name in trainable if name not in state]
    if lacking:
        raise ModelMismatch(f"{what} lacks the trainable {name_some(lacking)}", remedy="save model.state_dict()")
    for name, value in state.items():
        if tuple(value.shape) != tuple(own[name].shape):
            raise ModelMismatch(f"{what} has {name} of shape {tuple(value.shape)}, the model {tuple(own[name].shape)}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NotFinite(f"{what} has NaN or infinity in {name}")
    model.load_state_dict(state, strict=False)


def _with_adapter(model: nn.Module, name: str, own: Mapping[str, Tensor]) -> str:
    """peft saves ``...lora_A.weight`` where the model says ``...lora_A.default.weight``."""
    if name in own:
        return name
    for adapter in getattr(model, "peft_config", {}):
        stem, _, leaf = name.rpartition(".")
        if f"{stem}.{adapter}.{leaf}" in own:
            return f"{stem}.{adapter}.{leaf}"
    return name


def _state(checkpoint: Any) -> dict[str, Tensor]:
    if isinstance(checkpoint, str | Path):
        path = Path(checkpoint)
        if not path.is_file():
            raise SourceError(f"there is no checkpoint {path}")
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, Mapping):
        raise ModelMismatch(f"a checkpoint is a {type(checkpoint).__name__}", remedy="give state dicts or files of them")
    return dict(checkpoint)


# --- data at the door -----------------------------------------------------------------------------------


def _data(data: Any, what: str, model: nn.Module) -> Any:
    """The data in a form that can be gone through again; arrays in the model's precision, without NaN."""
    if data is None:
        raise EmptyData(f"{what} is empty", remedy="give (X, y), batches or a ledger")
    if is_ledger(data):
        if not len(data):
            raise EmptyData(f"{what} is empty: {data.name} holds no datapoints")
        return data
    if isinstance(data, Iterator):
        data = list(data)
    if isinstance(getattr(data, "sampler", None), torch.utils.data.RandomSampler):
        raise ModelMismatch(
            f"{what} is a DataLoader that shuffles: its order changes from pass to pass, and a score has no owner",
            remedy="make it with shuffle=False",
        )
    if isinstance(data, tuple) and len(data) == 2 and all(_array_like(v) for v in data):
        return _pair(data, what, model)
    if hasattr(data, "__len__") and not len(data):
        raise EmptyData(f"{what} is empty", remedy="give (X, y), batches or a ledger")
    return data


def _array_like(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray) or hasattr(value, "__array__"):
        return True
    return isinstance(value, list) and bool(value) and isinstance(value[0], int | float | list)


def _pair(data: Any, what: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    X, y = (v if isinstance(v, Tensor) else torch.as_tensor(np.asarray(v)) for v in data)
    if not len(X):
        raise EmptyData(f"{what} is empty", remedy="give (X, y), batches or a ledger")
    if len(X) != len(y):
        raise SchemaMismatch(f"{what} has {len(X):,} rows of X and {len(y):,} labels")
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for name, values in (("X", X), ("y", y)):
        if values.is_floating_point():
            bad = (~torch.isfinite(values).reshape(len(values), -1).all(1)).nonzero()[:, 0].tolist()
            if bad:
                raise NotFinite(f"{name} of {what} has NaN or infinity in row {name_some(bad)}", ids=bad)
    X, y = (v.to(kind) if v.is_floating_point() else v for v in (X, y))
    return X, y
