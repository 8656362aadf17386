"""How likely is every token of a text, however long the text is? Long ones are read in pieces and told of as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["text_logprobs"]


def text_logprobs(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str | tuple[str, str]],
    *,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Log-probabilities of the tokens that count, of n texts.

    Parameters
    ----------
    model : causal language model
    tokenizer : its tokenizer
    texts : sequence of n str or (prompt, response)
        Of a pair only the response's tokens count.
    max_length : int, optional
        Most tokens of a piece, by default what model and tokenizer read. Every piece but the first begins with the
        tokenizer's special start, or else with the last token before it, so that no token goes unpredicted.
    tokens_per_batch, ids : optional
        As in `datumwise.probe.language_model.language_model_signals`.
    progress : callable (texts done, all), optional

    Returns
    -------
    logprobs : list of n float32 arrays
        Nats; empty for a text without a predicted token.
    in_pieces : ndarray of bool (n,)
        Which texts were longer than ``max_length``.
    """
    from datumwise.probe.collate import context_length, encode_texts, special_start
    from datumwise.probe.language_model import language_model_signals

    limit = max_length if max_length is not None else context_length(model, tokenizer)
    start = special_start(tokenizer)
    pieces, owners = [], []
    for row, encoded in enumerate(encode_texts(tokenizer, texts)):
        for piece in _pieces(encoded, limit, start):
            pieces.append(piece)
            owners.append(row)
    names = [(range(len(texts)) if ids is None else ids)[row] for row in owners]
    told = None if progress is None else lambda done, total: progress(len(texts) * done // total, len(texts))
    found = language_model_signals(
        model, pieces, ("token_logprobs",), tokenizer=tokenizer, max_length=limit, tokens_per_batch=tokens_per_batch,
        ids=names, progress=told,
    )["token_logprobs"]  # fmt: skip
    parts: list[list[np.ndarray]] = [[] for _ in texts]
    for row, logprobs in zip(owners, found, strict=True):
        parts[row].append(logprobs)
    return [np.concatenate(own) for own in parts], np.array([len(own) > 1 for own in parts])


def _pieces(encoded: Any, limit: int | None, start: np.ndarray) -> Iterator[Any]:
    from datumwise.probe.collate import IGNORED, Encoded

    ids, labels = encoded.input_ids, encoded.labels
    if limit is None or len(ids) <= limit:
        yield encoded
        return
    yield Encoded(ids[:limit], labels[:limit], False)
    at = limit
    while at < len(ids):
        head = start if 0 < len(start) < limit else ids[at - 1 : at]
        stop = at + max(1, limit - len(head))
        yield Encoded(
            np.concatenate([head, ids[at:stop]]), np.concatenate([np.full(len(head), IGNORED), labels[at:stop]]), False
        )
        at = stop
