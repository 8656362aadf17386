"""How do texts that begin alike share the reading of their beginning? By its keys and values, computed once.

A `Context` is what a batch of rows has read so far. Reading on extends it, taking rows repeats or drops
them: a prompt read once serves all its answers, k examples read once serve a whole test set.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, UnknownName, name_some
from datumwise.probe.collate import context_length, pad_right, padding_id
from datumwise.probe.language_model import check_vocabulary, device_of, forward_at, takes

if TYPE_CHECKING:
    import torch

__all__ = ["Context", "Prompts", "common_start", "read", "read_prompts", "tokenised_prompts"]

CACHE_BYTES = 2**28  # keys and values of a batch of contexts: 256 MiB
PLAIN_LAYERS = ("DynamicLayer",)  # layers that keep every key; others (windows, recurrent states) are read anew


@dataclass(frozen=True)
class Context:
    """What B rows have read so far.

    Attributes
    ----------
    tokens : Tensor int64 (B, S)
        Token ids, padding among them.
    mask : Tensor int64 (B, S)
        1 on real positions. Padding may lie anywhere: positions are counted over real tokens.
    past : transformers cache or None
        Keys and values of all S positions; None where the model keeps none, and everything is read again.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    past: Any = None

    @classmethod
    def empty(cls, model: Any, rows: int = 1) -> Context:
        import torch

        nothing = torch.zeros((rows, 0), dtype=torch.int64, device=device_of(model))
        return cls(nothing, nothing)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def width(self) -> int:
        """Positions read, S."""
        return self.tokens.shape[1]

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one position's keys and values in one row; 0 without a cache."""
        if self.past is None or not self.tokens.numel():
            return 0
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.past.layers) // self.tokens.numel()

    def take(self, rows: torch.Tensor | Sequence[int]) -> Context:
        """These rows, repeated or dropped as named; the context itself stays as it is."""
        import torch

        index = torch.as_tensor(rows, dtype=torch.int64, device=self.tokens.device)
        past = self.past
        if past is not None:
            past = copy.copy(past)
            past.layers = [copy.copy(layer) for layer in past.layers]  # reading on replaces keys, never writes into them
            past.batch_select_indices(index)
        return Context(self.tokens[index], self.mask[index], past)

    def rows_that_fit(self, width: int, limit: int) -> int:
        """Rows, at most ``limit``, of ``width`` further positions whose keys and values stay below `CACHE_BYTES`."""
        row = self.bytes_per_token * (self.width + width)
        return max(1, min(limit, CACHE_BYTES // row if row else limit))


def read(
    model: Any,
    context: Context,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    rows: torch.Tensor | None = None,
    columns: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Context]:
    """Read T further positions; logits at M of them.

    Parameters
    ----------
    model : causal language model
        In evaluation mode, gradients off.
    context : Context of B rows
    input_ids, mask : Tensor int64 (B, T)
        Padding may stand anywhere.
    rows, columns : Tensor int64 (M,), optional
        Where logits are wanted, in ``input_ids``; default: each row's last real position (M = B).

    Returns
    -------
    logits : Tensor (M, V)
    Context
        With the new positions.
    """
    import torch

    if rows is None or columns is None:
        rows = torch.arange(len(input_ids), device=input_ids.device)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        columns = (mask * places).argmax(dim=1) if input_ids.shape[1] else rows.new_zeros(len(rows))
    whole = torch.cat([context.mask, mask], dim=1)
    tokens = torch.cat([context.tokens, input_ids], dim=1)
    keeps = takes(model, "past_key_values") and takes(model, "use_cache")
    if context.width and context.past is None:
        logits, _ = forward_at(model, tokens, whole, rows, columns + context.width)
        return logits, Context(tokens, whole)
    # `take` without rows shares the layers' tensors but not the layers: the given context is not extended
    past = context.take(torch.arange(len(context))).past if context.past is not None else None
    logits, output = forward_at(model, input_ids, whole, rows, columns, past=past, use_cache=keeps)
    return logits, Context(tokens, whole, _plain(getattr(output, "past_key_values", None)))


def _plain(past: Any) -> Any:
    """The cache if every layer of it keeps every key, else None."""
    layers = getattr(past, "layers", None)
    if not layers or not hasattr(past, "batch_select_indices"):
        return None
    return past if all(type(layer).__name__ in PLAIN_LAYERS for layer in layers) else None


# --- prompts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts and how many tokens all of them begin with.

    Attributes
    ----------
    tokens : list of n int64 arrays (T_i,), T_i >= 1
    shared : int
        Tokens that all have in common at the start, less than the shortest T_i: each keeps one of its own.
    cut : ndarray of bool (n,)
        Whose beginning was cut off to fit ``max_length``.
    pad : int
    names : list of n, for error sentences
    """

    tokens: list[np.ndarray]
    shared: int
    cut: np.ndarray
    pad: int
    names: list[Any]

    def __len__(self) -> int:
        return len(self.tokens)


def tokenised_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    prefix: str = "",
    bos: bool | str = "auto",
    room: int | Sequence[int] = 0,
    max_length: int | None = None,
    ids: Sequence[Any] | None = None,
) -> Prompts:
    """``prefix + prompt`` as token ids, with room for what is to follow.

    Prefix and prompt are tokenised as one string, as they stand; what is shared is found among the token
    ids, so that sharing never changes a token.

    Parameters
    ----------
    model, tokenizer
    prompts : sequence of n str
    prefix : str
    bos : "auto", True or False
        One beginning-of-text token in front: where the tokenizer puts one by itself, always, or never. A
        prompt that begins with it already gets no second one.
    room : int, or sequence of n int
        Tokens that follow each prompt.
    max_length : int, optional
        Longest prompt and continuation in tokens: longer prompts lose their beginning (but for the
        beginning-of-text token). By default they are refused where they do not fit the model.
    ids : sequence (n,), optional

    Raises
    ------
    EmptyData
        No prompt, or one without a token.
    ModelMismatch
        No tokenizer, no beginning-of-text token, a prompt that is too long, a token id the model has not.
    """
    if tokenizer is None:
        raise ModelMismatch("prompts need a tokenizer", remedy="pass tokenizer=")
    if isinstance(prompts, str):
        raise ModelMismatch("prompts is one string", remedy="pass a list of strings")
    if not len(prompts):
        raise EmptyData("there is no prompt")
    names = list(ids) if ids is not None else list(range(len(prompts)))
    start = _start(tokenizer, bos)
    texts = [prefix + prompt for prompt in prompts]
    encoded = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False, verbose=False)["input_ids"]
    tokens = [
        np.array(([start] if start is not None and one[:1] != [start] else []) + list(one), dtype=np.int64) for one in encoded
    ]
    bare = [name for name, one in zip(names, tokens, strict=True) if not len(one)]
    if bare:
        raise EmptyData(
            f"the prompt of {name_some(bare)} has no token for an answer to follow",
            remedy="pass bos=True where the tokenizer has a beginning-of-text token, or leave these out",
            ids=bare,
        )
    rooms = np.broadcast_to(np.asarray(room, dtype=np.int64), len(tokens))
    tokens, cut = _fitted(tokens, rooms, max_length, context_length(model, tokenizer), start, names)
    check_vocabulary(model, tokens, names)
    return Prompts(tokens, common_start(tokens), cut, padding_id(tokenizer), names)


def _start(tokenizer: Any, bos: bool | str) -> int | None:
    """The beginning-of-text token to put in front, if one is to be."""
    token = getattr(tokenizer, "bos_token_id", None)
    if bos == "auto":
        by_itself = list(tokenizer("", verbose=False)["input_ids"])
        return token if token is not None and by_itself[:1] == [token] else None
    if not isinstance(bos, bool):
        raise UnknownName(f"bos is {bos!r}", remedy="it is 'auto', True or False")
    if bos and token is None:
        raise ModelMismatch("the tokenizer has no beginning-of-text token", remedy="leave out bos=True")
    return token if bos else None


def _fitted(
    tokens: list[np.ndarray],
    room: np.ndarray,
    max_length: int | None,
    context: int | None,
    start: int | None,
    names: list[Any],
) -> tuple[list[np.ndarray], np.ndarray]:
    """Prompts cut at their beginning to ``max_length``, or refused where the model's context is too short."""
    lengths = np.array([len(one) for one in tokens])
    limit = max_length if max_length is not None else context
    if limit is None:
        return tokens, np.zeros(len(tokens), dtype=bool)
    over = lengths + room > limit
    keep = limit - room
    tight = over & (keep < (1 if start is None else 2))
    refused = tight if max_length is not None else over
    if refused.any():
        bad = [names[i] for i in np.flatnonzero(refused)]
        longest = int((lengths + room)[refused].max())
        raise ModelMismatch(
            f"the prompt of {name_some(bad)} and what follows it need up to {longest:,} tokens and {limit:,} can be read",
            remedy="shorten them, or pass max_length= to cut prompts at their beginning",
            ids=bad,
        )
    head = 0 if start is None else 1
    short = [
        np.concatenate([one[:head], one[len(one) - (int(k) - head) :]]) if long else one
        for one, long, k in zip(tokens, over, keep, strict=True)
    ]
    return short, over


def common_start(tokens: Sequence[np.ndarray]) -> int:
    """How many tokens all rows have in common at the start, one less than the shortest row at most.

    Examples
    --------
    >>> common_start([np.array([5, 6, 7, 1]), np.array([5, 6, 2]), np.array([5, 6, 7])])
    2
    >>> common_start([np.array([5, 6])])
    1
    """
    most = min(len(one) for one in tokens) - 1
    block = np.stack([one[:most] for one in tokens])
    alike = (block == block[0]).all(axis=0)
    return int(most if alike.all() else np.argmin(alike))


def read_prompts(
    model: Any, prompts: Prompts, tokens_per_batch: int, rows: int = 1
) -> Iterator[tuple[list[int], Any, Context]]:
    """Read all prompts in batches of about equal length, their common beginning once.

    Parameters
    ----------
    model : in evaluation mode, gradients off
    prompts : Prompts
    tokens_per_batch : int
        Padded tokens of a batch.

    Yields
    ------
    rows : list of int (B,)
        Which prompts.
    logits : Tensor (B, V)
        After each prompt's last token.
    Context of B rows
    """
    import torch

    device = device_of(model)
    base = Context.empty(model)
    if prompts.shared and len(prompts) > 1:
        first = torch.from_numpy(prompts.tokens[0][None, : prompts.shared]).to(device)
        _, base = read(model, base, first, torch.ones_like(first))
    rest = [one[base.width :] for one in prompts.tokens]
    order = np.argsort([-len(one) for one in rest], kind="stable")
    at = 0
    while at < len(order):
        width = len(rest[order[at]])
        size = base.rows_that_fit(width, max(1, tokens_per_batch // width))
        chosen = order[at : at + size].tolist()
        input_ids, mask = pad_right([rest[r] for r in chosen], prompts.pad)
        context = base.take([0] * len(chosen))
        yield chosen, *read(model, context, input_ids.to(device), mask.to(device))
        at += size
