"""What does a causal language model say of prompts and responses? All its scores, from one batched pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import SchemaMismatch, UnknownName
from datumwise.score.declare import find, suggestion
from datumwise.score.scores import Scores

__all__ = ["METRICS", "lm"]

# name of a metric -> the declared score it is
METRICS = {
    "ppl": "perplexity",
    "ppl_alone": "perplexity_alone",
    "ifd": "ifd",
    "mink": "min_k",
    "mink++": "min_k_plus_plus",
    "entropy": "token_entropy",
    "margin": "token_margin",
    "min_margin": "min_token_margin",
    "least_confidence": "token_least_confidence",
    "sequence_least_confidence": "sequence_least_confidence",
    "el2n": "error_norm",
    "mean_nll": "mean_nll",
    "recited": "recitation",
    "recited_run": "recited_run",
}


def lm(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | None,
    responses: Sequence[str],
    metrics: str | Sequence[str] = ("ppl", "ifd", "mink", "entropy", "margin"),
    *,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores of n responses to their prompts, by a causal language model.

    Prompt and response are tokenised apart and joined without anything in between; a chat template is the
    caller's to put into them.

    Parameters
    ----------
    model : causal language model
    tokenizer : its tokenizer
    prompts : sequence of n str, or None
        None: the responses are texts by themselves, and there is no ``ifd`` and no ``ppl_alone``.
    responses : sequence of n str
    metrics : sequence of str
        ``ppl`` (given the prompt), ``ppl_alone``, ``ifd``, ``mink``, ``mink++``, ``entropy``, ``margin``,
        ``min_margin``, ``least_confidence``, ``sequence_least_confidence``, ``el2n``, ``mean_nll``,
        ``recited``, ``recited_run``; each is the declared score of `METRICS`.
    max_length : int, optional
        Longest prompt and response in tokens, by default what model and tokenizer can read.
    batch_tokens : int, optional
        Padded tokens of a batch; by default 1,024 on a processor, 16,384 on a device, fewer where the vocabulary
        is so large that a batch's logits would take more than 256 MiB or 2 GiB.
    ids : sequence (n,), optional
    progress : callable (done, total), optional

    Returns
    -------
    Scores
        A column a metric, NaN where the response has no predicted token; and of bool ``truncated`` (the
        response was cut, in every forward at the same token) and ``empty`` (it has no token that is predicted).

    Raises
    ------
    UnknownName
        No such metric.
    SchemaMismatch
        Prompts and responses differ in number.
    EmptyData, ModelMismatch, NotFinite
        See `datumwise.probe.language_model.language_model_signals`.
    """
    from datumwise.probe.language_model import language_model_signals

    names = [metrics] if isinstance(metrics, str) else list(dict.fromkeys(metrics))
    for name in names:
        if name not in METRICS:
            remedy = suggestion(name, METRICS) or f"there are {', '.join(METRICS)}"
            raise UnknownName(f"a language model has no metric {name!r}", remedy=remedy)
    if prompts is not None and len(prompts) != len(responses):
        raise SchemaMismatch(f"{len(prompts):,} prompts and {len(responses):,} responses differ in number")
    scores = {name: find(METRICS[name]) for name in names}
    texts: Sequence[Any] = responses if prompts is None else list(zip(prompts, responses, strict=True))
    needs = {need for one in scores.values() for need in one.needs}
    found = language_model_signals(
        model,
        texts,
        needs | {"n_tokens"},
        tokenizer=tokenizer,
        max_length=max_length,
        tokens_per_batch=batch_tokens,
        ids=ids,
        progress=progress,
    )
    values: dict[str, np.ndarray] = {name: one.function(*(found[need] for need in one.needs)) for name, one in scores.items()}
    values |= {"truncated": found["truncated"], "empty": found["n_tokens"] == 0}
    return Scores(range(len(responses)) if ids is None else ids, values, higher={n: s.higher for n, s in scores.items()})
