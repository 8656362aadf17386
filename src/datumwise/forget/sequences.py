"""How do texts become what a language model trains on? Token ids, long documents in pieces, labels only where asked.

A document that is longer than the model may read is several sequences; what is reported is one number a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, SchemaMismatch, name_some
from datumwise.forget.texts import Text, Texts
from datumwise.probe.chunks import chunk_tokens
from datumwise.probe.collate import IGNORED, Encoded, encode_texts, pad_right, special_start

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "Sequences", "alternatives_of", "encode_sequences"]

Spans = Sequence[Sequence[tuple[int, int]]]  # of each text, characters (start, end) that count


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right: ``input_ids``, ``mask`` (1 on real positions) and ``labels`` int64 (B, T)."""

    input_ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    def to(self, device: Any) -> Batch:
        return Batch(self.input_ids.to(device), self.mask.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Sequences:
    """Tokenised documents, a long one in several pieces.

    Attributes
    ----------
    items : list of n Encoded
        The pieces.
    document : int64 array (n,)
        Row of ``ids`` that each piece is of.
    ids : list of str, (m,)
        The documents, in the order of the data; those that could not be used are not among them.
    left_out : list of str
        Ids of documents without a token to predict (fewer than two tokens, or no token in a span).
    padding : int
        Token that fills up a batch; masked.
    """

    items: list[Encoded]
    document: np.ndarray
    ids: list[str]
    left_out: list[str]
    padding: int

    def __len__(self) -> int:
        return len(self.items)

    @property
    def n_tokens(self) -> np.ndarray:
        """Predicted tokens of each piece, int64 (n,)."""
        return np.array([int((item.labels[1:] != IGNORED).sum()) for item in self.items], dtype=np.int64)

    def names(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Ids of the documents of some pieces, none twice."""
        return list(dict.fromkeys(self.ids[int(self.document[int(row)])] for row in rows))

    def batch(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """Some pieces as tensors on the CPU."""
        chosen = [self.items[int(row)] for row in rows]
        ids, mask = pad_right([item.input_ids for item in chosen], self.padding)
        labels, _ = pad_right([item.labels for item in chosen], IGNORED)
        return Batch(ids, mask, labels.masked_fill(mask == 0, IGNORED))

    def by_document(self, nll: np.ndarray) -> np.ndarray:
        """Mean negative log-likelihood a token of each document, float64 (m,), from the sums ``nll`` (n,) of its pieces."""
        m = len(self.ids)
        return np.bincount(self.document, nll, minlength=m) / np.bincount(self.document, self.n_tokens, minlength=m)


def encode_sequences(
    tokenizer: Any, texts: Texts, max_length: int, *, padding: int, spans: Spans | None = None, name: str = "forget"
) -> Sequences:
    """Tokenise documents and cut those that are longer than ``max_length`` tokens.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    texts : Texts
    max_length : int
        Tokens of a piece, special tokens at the start of every piece among them.
    padding : int
    spans : sequence of m lists of (start, end), optional
        Characters of each text (of the response, in a pair) that count: a token counts when it overlaps one. All others get
        the label -100. Needs a fast tokenizer.
    name : str
        Of the data in error sentences.

    Raises
    ------
    EmptyData
        No document has a token to predict.
    SchemaMismatch
        Spans and texts differ in number, or a span lies outside of its text.
    ModelMismatch
        Spans with a tokenizer that gives no offsets.
    """
    encoded = encode_texts(tokenizer, texts.items)
    if spans is not None:
        if len(spans) != len(texts):
            raise SchemaMismatch(f"there are spans of {len(spans):,} texts for {len(texts):,} texts")
        encoded = [
            Encoded(item.input_ids, _within(tokenizer, text, item, own, i), False)
            for item, text, own, i in zip(encoded, texts.items, spans, texts.ids, strict=True)
        ]
    head = special_start(tokenizer)
    items: list[Encoded] = []
    document: list[int] = []
    ids: list[str] = []
    left_out: list[str] = []
    for i, item in zip(texts.ids, encoded, strict=True):
        pieces = [piece for piece in _pieces(item, head, max_length) if (piece.labels[1:] != IGNORED).any()]
        if not pieces:
            left_out.append(i)
            continue
        items += pieces
        document += [len(ids)] * len(pieces)
        ids.append(i)
    if not items:
        raise EmptyData(
            f"no text of {name} has a token to predict ({name_some(left_out)})", remedy="give texts of two tokens or more"
        )
    return Sequences(items, np.array(document, dtype=np.int64), ids, left_out, padding)


def _pieces(item: Encoded, head: np.ndarray, max_length: int) -> list[Encoded]:
    """The sequence in pieces of at most ``max_length`` tokens, the tokenizer's first tokens before each."""
    if len(item.input_ids) <= max_length:
        return [item]
    k = len(head) if np.array_equal(item.input_ids[: len(head)], head) else 0
    positions = chunk_tokens(range(k, len(item.input_ids)), max_length - k)
    lead, masked = item.input_ids[:k], np.full(k, IGNORED)
    return [
        Encoded(np.concatenate([lead, item.input_ids[at]]), np.concatenate([masked, item.labels[at]]), False)
        for at in positions
    ]


def _within(tokenizer: Any, text: Text, item: Encoded, spans: Sequence[tuple[int, int]], name: str) -> np.ndarray:
    """Labels int64 (T,) of the tokens that overlap a span, -100 elsewhere."""
    counted = text if isinstance(text, str) else text[1]
    bad = [(start, end) for start, end in spans if not 0 <= start < end <= len(counted)]
    if bad:
        raise SchemaMismatch(f"span {bad[0]} of {name} is not inside its text of {len(counted):,} characters", ids=[name])
    if not getattr(tokenizer, "is_fast", False):
        raise ModelMismatch("spans need a tokenizer that gives offsets", remedy="load it with use_fast=True")
    offsets = tokenizer(counted, add_special_tokens=isinstance(text, str), return_offsets_mapping=True, verbose=False)
    places = np.asarray(offsets["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    inside = np.zeros(len(places), dtype=bool)
    for start, end in spans:
        inside |= (places[:, 0] < end) & (places[:, 1] > start)
    labels = np.full(len(item.labels), IGNORED, dtype=np.int64)
    tail = slice(len(labels) - len(places), None)
    labels[tail] = np.where(inside, item.labels[tail], IGNORED)
    return labels


def alternatives_of(tokenizer: Any, forget: Sequences, texts: Texts, lines: Sequence[str], max_length: int) -> Sequences:
    """What is to be said in place of each forgotten sequence: the same prompt, another response.

    Parameters
    ----------
    forget : Sequences
        Of ``texts``.
    lines : sequence of str, (m,)
        Another response for every document of ``texts``. A text without a prompt is replaced as a whole.
    max_length : int
        A prompt that leaves no room loses its first tokens.

    Returns
    -------
    Sequences
        Row i stands beside row i of ``forget``.
    """
    prompts = {i: "" if isinstance(item, str) else item[0] for i, item in zip(texts.ids, texts.items, strict=True)}
    said = dict(zip(texts.ids, lines, strict=True))
    pairs: list[str | tuple[str, str]] = [(prompts[i], said[i]) if prompts[i] else said[i] for i in forget.ids]
    k = len(special_start(tokenizer))
    whole = []
    for i, item in zip(forget.ids, encode_texts(tokenizer, pairs), strict=True):
        over = len(item.input_ids) - max_length
        if over > 0:
            keep = np.r_[:k, k + over : len(item.input_ids)]
            item = Encoded(item.input_ids[keep], item.labels[keep], True)
        if not (item.labels[1:] != IGNORED).any():
            raise SchemaMismatch(f"the alternative of {i} has no token to predict", remedy="give longer ones", ids=[i])
        whole.append(item)
    return Sequences([whole[d] for d in forget.document], forget.document, forget.ids, [], forget.padding)
