"""How much hangs on single words of the instruction? Likelihood of the response after words were taken out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from datumwise.errors import ModelMismatch, SchemaMismatch
from datumwise.probe.language_model import language_model_signals

__all__ = ["DELETIONS", "SHARE", "perturbed_nll", "with_words_deleted"]

DELETIONS = 20  # perturbed instructions a datapoint: Kung et al., 2023, section 3.2
SHARE = 0.2  # of the words that each loses
WORD = re.compile(r"\s*\S+")


def perturbed_nll(
    model: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    tokenizer: Any,
    n_perturbations: int = DELETIONS,
    share: float = SHARE,
    seed: int = 0,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Negative log-likelihood a token of each response after k prompts that lack random words.

    Parameters
    ----------
    model, tokenizer, max_length, tokens_per_batch, ids, progress
        As in `datumwise.probe.language_model.language_model_signals`.
    prompts, responses : sequences of n str
    n_perturbations : int
        k.
    share : float
        Of a prompt's words that are deleted, 0 to 1.
    seed : int
        The draws depend on it and on the prompt's own text only.

    Returns
    -------
    float64 (n, k)
        Nats; NaN for a response without a predicted token.

    References
    ----------
    Kung et al., 2023, "Active Instruction Tuning", section 3.2.
    """
    if len(prompts) != len(responses):
        raise SchemaMismatch(f"{len(prompts):,} prompts and {len(responses):,} responses differ in number")
    if n_perturbations < 1:
        raise ModelMismatch(f"n_perturbations is {n_perturbations}", remedy="it must be 1 or more")
    names = list(ids) if ids is not None else list(range(len(prompts)))
    pairs = [
        (with_words_deleted(prompt, share, (seed, k)), response)
        for prompt, response in zip(prompts, responses, strict=True)
        for k in range(n_perturbations)
    ]
    read = language_model_signals(
        model,
        pairs,
        ["mean_nll"],
        tokenizer=tokenizer,
        max_length=max_length,
        tokens_per_batch=tokens_per_batch,
        ids=[name for name in names for _ in range(n_perturbations)],
        progress=progress,
    )
    return read["mean_nll"].reshape(len(prompts), n_perturbations)


def with_words_deleted(text: str, share: float, seed: Sequence[int]) -> str:
    """``text`` without round(share * words) of its words, at least one where there are two or more.

    Examples
    --------
    >>> with_words_deleted("write a short poem about rain", 0.5, (0, 0))
    'poem about rain'
    >>> with_words_deleted("rain", 0.5, (0, 0))
    'rain'
    """
    if not 0 <= share <= 1:
        raise ModelMismatch(f"a share of {share} of the words cannot be deleted", remedy="it is 0 to 1")
    words = WORD.findall(text)
    gone = min(len(words) - 1, max(1, round(share * len(words)))) if share > 0 else 0
    if gone < 1:
        return text
    key = int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
    draw = np.random.default_rng([*seed, key])
    lost = set(draw.choice(len(words), size=gone, replace=False).tolist())
    head, tail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return head + "".join(word for i, word in enumerate(words) if i not in lost).lstrip() + tail
