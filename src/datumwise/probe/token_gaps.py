"""Which words of a document has a model learnt from it? Its tokens' log-probabilities beside those of a model that has not.

What is learnt by heart, and only there, is what unlearning should aim at: `suspect_spans` are what
``unlearn(..., spans=)`` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, SchemaMismatch, UnknownName
from datumwise.probe.collate import Encoded, special_start

__all__ = ["suspect_spans", "token_gaps"]

Span = tuple[int, int]


def token_gaps(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    reference: Any,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probability of every token under a model less that under another.

    Parameters
    ----------
    model : causal language model
        That was trained on the texts.
    tokenizer : fast tokenizer
    texts : sequence of n str
    reference : causal language model, or sequence of n float arrays
        That was not: the model before, an older release, one trained without these texts; or its log-probabilities, such as
        the mean over models of which each left a part of the texts out.
    progress : callable (texts done, texts), optional

    Returns
    -------
    list of n pairs
        Characters int64 (T, 2), the end excluded, and gaps float64 (T,) in nats, of each text's tokens that are predicted.

    Raises
    ------
    EmptyData
        There is no text.
    ModelMismatch
        The tokenizer gives no offsets.
    SchemaMismatch
        Given log-probabilities are of other tokens.
    """
    from datumwise.probe.language_model import language_model_signals

    if not len(texts):
        raise EmptyData("there is no text")
    if not getattr(tokenizer, "is_fast", False):
        raise ModelMismatch("spans need a tokenizer that gives offsets", remedy="pass its fast version")
    start = special_start(tokenizer)
    read = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    encoded = []
    for ids in read["input_ids"]:
        tokens = np.concatenate([start, np.asarray(ids, dtype=np.int64)])
        encoded.append(Encoded(tokens, tokens.copy(), False))
    ask = ("token_logprobs", "n_tokens")

    def logprobs(one: Any, first: int) -> list[np.ndarray]:
        told = None if progress is None else lambda done, total: progress(first * total + done, 2 * total)
        return language_model_signals(one, encoded, ask, tokenizer=tokenizer, progress=told)["token_logprobs"]

    own = logprobs(model, 0)
    other = logprobs(reference, 1) if hasattr(reference, "parameters") else [np.asarray(one) for one in reference]
    if [len(one) for one in own] != [len(one) for one in other]:
        raise SchemaMismatch(
            "the reference's log-probabilities are of other tokens", remedy="one for each token after the first"
        )
    found = []
    for offsets, a, b in zip(read["offset_mapping"], own, other, strict=True):
        places = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)[len(offsets) - len(a) :]
        found.append((places, a.astype(np.float64) - b.astype(np.float64)))
    return found


def suspect_spans(
    gaps: Sequence[tuple[np.ndarray, np.ndarray]], *, share: float | None = None, nats: float | None = None
) -> list[list[Span]]:
    """The tokens that a model learnt most of, as characters; neighbours are joined.

    Parameters
    ----------
    gaps : list of n pairs
        Of `token_gaps`.
    share : float, optional
        Of all tokens of all texts, those with the largest gaps.
    nats : float, optional
        In place of it: every token with at least this gap.

    Returns
    -------
    list of n lists of (start, end)

    Raises
    ------
    UnknownName
        Neither or both of ``share`` and ``nats``.

    Examples
    --------
    >>> places = np.array([[0, 4], [4, 10], [10, 14], [14, 15]])
    >>> suspect_spans([(places, np.array([0.1, 3.0, 5.0, 0.0]))], share=0.5)
    [[(4, 14)]]
    """
    if (share is None) == (nats is None):
        raise UnknownName("give either share or nats")
    if share is not None and not 0 < share <= 1:
        raise SchemaMismatch(f"share is {share:g}", remedy="it is above 0 and at most 1")
    every = np.concatenate([one for _, one in gaps]) if len(gaps) else np.zeros(0)
    if not len(every):
        return [[] for _ in gaps]
    floor = nats if nats is not None else np.sort(every)[::-1][max(0, round(float(share or 0) * len(every)) - 1)]
    found = []
    for places, values in gaps:
        spans: list[Span] = []
        for row in np.flatnonzero(values >= floor):
            begin, end = int(places[row, 0]), int(places[row, 1])
            if spans and begin <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            elif end > begin:
                spans.append((begin, end))
        found.append(spans)
    return found
