"""What did the model say before it was trained? Its first weights, kept as few numbers as a method needs.

A sum of log-probabilities a sequence is computed once (NPO, DPO). Whole distributions and hidden states come from the first
weights again: the user's own model while a copy is trained, the model with its adapters off, or, only where neither is there,
a copy; or from the k likeliest tokens of every position, kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datumwise.errors import ModelMismatch
from datumwise.forget.distribution_losses import top_k_log_probs
from datumwise.forget.sequences import Batch
from datumwise.probe.language_model import device_of, forward_logits, language_model_signals

if TYPE_CHECKING:
    from datumwise.forget.sequences import Sequences

__all__ = ["Reference", "decoder_layer", "forward_hidden", "forward_logits_of", "measured_nll", "resting"]


class Reference:
    """The first weights' answers on the parts of the data (``"forget"``, ``"retain"``, ``"alternatives"``, ``"holdout"``).

    Parameters
    ----------
    model : torch.nn.Module
        Holds the first weights whenever ``held`` is entered; in evaluation mode.
    parts : dict of str to Sequences
    held : callable () -> context manager
        Makes the model hold them: adapters off, or nothing to do.
    top_k : int, optional
        Distributions are kept as so many tokens a label, and computed once.
    batch_size : int
        Sequences in a forward that fills a cache.
    """

    def __init__(
        self,
        model: Any,
        parts: Mapping[str, Sequences],
        *,
        held: Callable[[], AbstractContextManager[Any]] = nullcontext,
        top_k: int | None = None,
        batch_size: int = 4,
    ) -> None:
        self.model, self.parts, self.held, self.top_k, self.batch_size = model, dict(parts), held, top_k, batch_size
        self._nll: dict[str, torch.Tensor] = {}
        self._top: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def nll(self, part: str) -> torch.Tensor:
        """Minus the sum of the log-probabilities of each sequence's labels, float32 (n,) on the CPU; computed once."""
        if part not in self._nll:
            with self._holding():
                self._nll[part] = torch.from_numpy(measured_nll(self.model, self.parts[part])).float()
        return self._nll[part]

    def logits(self, part: str, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Logits of some sequences, float (B, T, V), padded as `Sequences.batch` pads them."""
        with self._holding(), torch.no_grad():
            return forward_logits_of(self.model, self.parts[part].batch(rows).to(device_of(self.model)))

    def hidden(self, part: str, rows: Sequence[int] | np.ndarray, layer: int) -> torch.Tensor:
        """Hidden states after a decoder layer, float (B, T, d)."""
        with self._holding(), torch.no_grad():
            return forward_hidden(self.model, self.parts[part].batch(rows).to(device_of(self.model)), layer)

    def top(self, part: str, rows: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """`top_k_log_probs` of some sequences: float (M, k + 1), int64 (M, k)."""
        if part not in self._top:
            self._top[part] = self._kept(part)
        chosen = [self._top[part][int(row)] for row in rows]
        return torch.cat([values for values, _ in chosen]), torch.cat([tokens for _, tokens in chosen])

    def fill(self, part: str) -> None:
        """Compute the likeliest tokens of a part now, while the model holds its first weights."""
        self._top[part] = self._kept(part)

    def _kept(self, part: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if self.top_k is None:
            raise ModelMismatch("no number of likeliest tokens was set", remedy="pass reference_top_k=")
        n, found = len(self.parts[part]), []
        for start in range(0, n, self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, n))
            batch = self.parts[part].batch(rows)
            values, tokens = top_k_log_probs(self.logits(part, rows), batch.labels.to(device_of(self.model)), self.top_k)
            counts = self.parts[part].n_tokens[rows].tolist()
            found += list(zip(values.cpu().split(counts), tokens.cpu().split(counts), strict=True))
        return found

    @contextmanager
    def _holding(self) -> Iterator[None]:
        with self.held(), resting(self.model):
            yield


@contextmanager
def resting(model: Any) -> Iterator[None]:
    """Evaluation mode inside (no dropout); each module's own mode as it was afterwards, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def measured_nll(model: Any, sequences: Sequences, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """Minus the sum of the log-probabilities of each sequence's labels, float64 (n,), dropout off.

    Raises
    ------
    NotFinite
        Names the documents.
    """
    names = [sequences.ids[int(d)] for d in sequences.document]
    return language_model_signals(model, sequences.items, ("nll",), ids=names, progress=progress)["nll"]


def forward_logits_of(model: Any, batch: Batch) -> torch.Tensor:
    """Logits (B, T, V) of a batch padded on the right.

    The mask is left out: in a causal model no real token sees the padding behind it, and attention is faster without.
    """
    return forward_logits(model, batch.input_ids, torch.ones_like(batch.mask))


def decoder_layer(model: Any, layer: int) -> torch.nn.Module:
    """The module of a decoder layer; negative numbers count from the last.

    Raises
    ------
    ModelMismatch
        The model has no list of layers, or no such layer.
    """
    config: Any = getattr(model, "config", None)
    n = getattr(config.get_text_config() if hasattr(config, "get_text_config") else config, "num_hidden_layers", None)
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) > 0 and (n is None or len(m) == n)]
    if not lists:
        raise ModelMismatch(f"{type(model).__name__} has no list of decoder layers", remedy="use a transformers decoder")
    layers = max(lists, key=len)
    if not -len(layers) <= layer < len(layers):
        raise ModelMismatch(f"the model has no layer {layer}", remedy=f"layers are 0 to {len(layers) - 1}; pass layer=")
    return layers[layer]


class _Reached(Exception):
    """The forward has reached the layer; the rest of it is not needed."""


def forward_hidden(model: Any, batch: Batch, layer: int) -> torch.Tensor:
    """Hidden states (B, T, d) after a decoder layer, with gradient; the layers behind it are not computed."""
    found: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    hook = decoder_layer(model, layer).register_forward_hook(keep)
    try:
        forward_logits_of(model, batch)
    except _Reached:
        return found[0]
    finally:
        hook.remove()
    raise ModelMismatch(f"the forward of {type(model).__name__} does not pass its layer {layer}")
