"""What does a model make of a text inside? Hidden states of chosen layers, a vector a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, UnknownName, name_some
from datumwise.probe.collate import IGNORED, Encoded, pad_right, padding_id
from datumwise.probe.language_model import (
    check_vocabulary,
    device_of,
    encoded_texts,
    forward_at,
    length_batches,
    reading,
    token_budget,
)

if TYPE_CHECKING:
    import torch

__all__ = ["hidden_states"]


def hidden_states(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str | tuple[str, str]],
    layers: Sequence[str | int] = ("middle", "last"),
    position: str = "last",
    *,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Hidden states of a transformers model at one position, or their mean, layers side by side.

    Parameters
    ----------
    model : transformers model
        Any that gives ``hidden_states``; it is put in evaluation mode and back.
    tokenizer : its tokenizer
    texts : sequence of n str or (prompt, response)
        A pair is tokenised apart and joined; ``"mean"`` is then over the response.
    layers : sequence of "middle", "last" or int
        Of the L states: the embeddings are state 0, the last layer's output is L - 1. "middle" is ceil(L / 2);
        numbers may be negative.
    position : {"last", "mean"}
        The last token's state, or the mean over the text's tokens.
    max_length : int, optional
        Longest text in tokens; by default what does not fit the model's context is cut there, at the right.
    tokens_per_batch : int, optional
    ids : sequence (n,), optional
    progress : callable (done, total), optional

    Returns
    -------
    float32 (n, len(layers) * d)

    Raises
    ------
    EmptyData
        No text, or one without a token (or without a response).
    ModelMismatch
        The model gives no hidden states, or has no such layer.
    NotFinite
        A state is NaN or infinite; names the texts.

    References
    ----------
    Hase et al., 2024, section 3 (linear probes on the middle and the last layer).
    """
    import torch

    if position not in ("last", "mean"):
        raise UnknownName(f"position is {position!r}", remedy="it is 'last' or 'mean'")
    if not len(texts):
        raise EmptyData("there is no text")
    names = list(ids) if ids is not None else list(range(len(texts)))
    encoded = encoded_texts(model, texts, tokenizer, max_length)
    bare = [name for name, one in zip(names, encoded, strict=True) if not (one.labels != IGNORED).any()]
    if bare:
        raise EmptyData(f"{name_some(bare)} has no token to take a state of", remedy="leave it out", ids=bare)
    check_vocabulary(model, [one.input_ids for one in encoded], names)
    device = device_of(model)
    found: np.ndarray | None = None
    done = 0
    with reading(model):
        for rows in length_batches([len(one.input_ids) for one in encoded], tokens_per_batch or token_budget(model)):
            input_ids, mask = pad_right([encoded[r].input_ids for r in rows], padding_id(tokenizer))
            wanted = _weights([encoded[r] for r in rows], position).to(device)
            none = torch.zeros(0, dtype=torch.int64, device=device)
            _, output = forward_at(model, input_ids.to(device), mask.to(device), none, none, hidden=True)
            states = getattr(output, "hidden_states", None)
            if states is None:
                raise ModelMismatch(f"{type(model).__name__} gives no hidden states", remedy="use a transformers model")
            parts = [torch.einsum("bt,btd->bd", wanted, states[k].float()) for k in _chosen(layers, len(states))]
            block = torch.cat(parts, dim=1).cpu().numpy()
            if found is None:
                found = np.zeros((len(texts), block.shape[1]), dtype=np.float32)
            found[rows] = block
            done += len(rows)
            if progress is not None:
                progress(done, len(texts))
    assert found is not None
    bad = [names[i] for i in np.flatnonzero(~np.isfinite(found).all(axis=1))]
    if bad:
        raise NotFinite(f"the hidden states of {name_some(bad)} are NaN or infinite", ids=bad)
    return found


def _weights(encoded: list[Encoded], position: str) -> torch.Tensor:
    """Weight of every position of a batch, float32 (B, T), each row summing to 1."""
    import torch

    weights = torch.zeros((len(encoded), max(len(one.input_ids) for one in encoded)))
    for row, one in enumerate(encoded):
        own = np.flatnonzero(one.labels != IGNORED)
        if position == "last":
            weights[row, own[-1]] = 1
        else:
            weights[row, own] = 1 / len(own)
    return weights


def _chosen(layers: Sequence[str | int], states: int) -> list[int]:
    """Indices into a model's states."""
    named = {"middle": math.ceil(states / 2), "last": states - 1}
    found = []
    for layer in [layers] if isinstance(layers, str | int) else layers:
        index = named.get(layer) if isinstance(layer, str) else layer
        if index is None or not -states <= index < states:
            raise ModelMismatch(
                f"the model has no layer {layer!r}", remedy=f"layers are 'middle', 'last' and 0 to {states - 1}"
            )
        found.append(index % states)
    if not found:
        raise UnknownName("no layer was named", remedy="layers=('middle', 'last')")
    return found
