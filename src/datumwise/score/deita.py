"""How complex is an instruction, how good is its response? A language model's digit, 1 to 6, in expectation.

Liu et al., 2024, *What Makes Good Data for Alignment?* (DEITA), section 2.3 and its scorers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, NotFinite, SchemaMismatch, name_some
from datumwise.score.declare import score
from datumwise.score.scores import Scores

__all__ = ["deita", "deita_complexity", "deita_conversations", "deita_quality", "deita_scores", "expected_digit"]

SOURCE = "Liu et al., 2024, section 2.3"


def expected_digit(logprobs: np.ndarray) -> np.ndarray:
    """Sum of k times the softmax over the six digit tokens.

    Parameters
    ----------
    logprobs : float (n, 6)
        Logits or log-probabilities of the tokens "1" to "6".

    Returns
    -------
    float64 (n,)
        1 to 6.

    Examples
    --------
    >>> expected_digit(np.log([[1, 1, 1, 1, 1, 1], [0.1, 0, 0, 0, 0, 0.3]] + np.full((2, 6), 1e-12))).round(4).tolist()
    [3.5, 4.75]
    """
    logits = np.asarray(logprobs, dtype=np.float64)
    if logits.ndim != 2 or logits.shape[1] != 6:
        raise SchemaMismatch(f"the log-probabilities of the six digits have shape {logits.shape}, not (n, 6)")
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1)).tolist()
    if bad:
        raise NotFinite(f"the log-probability of a digit is NaN or infinite in row {name_some(bad)}", ids=bad)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p @ np.arange(1.0, 7.0) / p.sum(axis=1)


@score(needs=("complexity_logprobs",), higher="more complex instruction", source=SOURCE)
def deita_complexity(complexity_logprobs: np.ndarray) -> np.ndarray:
    """How complex is the instruction, in the model's own words? Expected digit, 1 to 6.

    Parameters
    ----------
    complexity_logprobs : float (n, 6)

    Returns
    -------
    float64 (n,)
        1 to 6.
    """
    return expected_digit(complexity_logprobs)


@score(needs=("quality_logprobs",), higher="better response", source=SOURCE)
def deita_quality(quality_logprobs: np.ndarray) -> np.ndarray:
    """How good is the response, in the model's own words? Expected digit, 1 to 6.

    Parameters
    ----------
    quality_logprobs : float (n, 6)

    Returns
    -------
    float64 (n,)
        1 to 6.
    """
    return expected_digit(quality_logprobs)


@score(needs=("complexity_logprobs", "quality_logprobs"), higher="more complex and better", source=SOURCE)
def deita(complexity_logprobs: np.ndarray, quality_logprobs: np.ndarray) -> np.ndarray:
    """Complexity of the instruction times quality of the response.

    Parameters
    ----------
    complexity_logprobs, quality_logprobs : float (n, 6)

    Returns
    -------
    float64 (n,)
        1 to 36.
    """
    return expected_digit(complexity_logprobs) * expected_digit(quality_logprobs)


def deita_scores(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    quality_model: Any = None,
    quality_tokenizer: Any = None,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Complexity, quality and their product, of n (prompt, response) pairs.

    Parameters
    ----------
    model, tokenizer
        Of complexity; of quality too unless ``quality_model`` is given (the published scorers are two models).
    prompts, responses : sequences of n str
    quality_model, quality_tokenizer : optional
    max_length : int, optional
        Longest question in tokens: the longest text of a longer one is cut at its end and the datapoint
        flagged. By default a question that does not fit the model is refused.
    tokens_per_batch, ids, progress
        As in `datumwise.score.language_model.lm`.

    Returns
    -------
    Scores
        ``deita_complexity``, ``deita_quality``, ``deita`` and ``truncated``.

    Raises
    ------
    ModelMismatch
        A digit is no token of the tokenizer: the published code then gives every datapoint 3.0.
    """
    from datumwise.probe.questions import DEITA_COMPLEXITY, DEITA_QUALITY, DIGITS, ask

    if len(prompts) != len(responses):
        raise SchemaMismatch(f"{len(prompts):,} prompts and {len(responses):,} responses differ in number")
    how: dict[str, Any] = {"max_length": max_length, "tokens_per_batch": tokens_per_batch, "ids": ids}
    told = [None, None] if progress is None else [lambda d, t: progress(d, 2 * t), lambda d, t: progress(t + d, 2 * t)]
    complexity = ask(model, tokenizer, DEITA_COMPLEXITY, DIGITS, prompt=prompts, progress=told[0], **how)
    judge = (model, tokenizer) if quality_model is None else (quality_model, quality_tokenizer or tokenizer)
    quality = ask(*judge, DEITA_QUALITY, DIGITS, prompt=prompts, response=responses, progress=told[1], **how)
    values = {
        "deita_complexity": expected_digit(complexity.logprobs),
        "deita_quality": expected_digit(quality.logprobs),
        "deita": deita(complexity.logprobs, quality.logprobs),
        "truncated": complexity.truncated | quality.truncated,
    }
    higher = {"deita_complexity": "more complex instruction", "deita_quality": "better response", "deita": "both"}
    return Scores(range(len(prompts)) if ids is None else ids, values, higher=higher)


def deita_conversations(
    model: Any, tokenizer: Any, conversations: Sequence[Sequence[tuple[str, str]]], **options: Any
) -> np.ndarray:
    """DEITA's score of whole conversations: complexity times quality of each turn, summed over the turns.

    Parameters
    ----------
    model, tokenizer
    conversations : sequence of n sequences of (prompt, response)
    **options
        Of `deita_scores`, but ``ids``.

    Returns
    -------
    float64 (n,)
        36 times the number of turns at most.

    Raises
    ------
    EmptyData
        A conversation without a turn.
    """
    lengths = np.array([len(turns) for turns in conversations], dtype=np.int64)
    bare = np.flatnonzero(lengths == 0).tolist()
    if bare or not len(lengths):
        where = f"conversation {name_some(bare)} has no turn" if bare else "there is no conversation"
        raise EmptyData(where, remedy="leave it out" if bare else None, ids=bare)
    prompts, responses = zip(*(turn for turns in conversations for turn in turns), strict=True)
    each = deita_scores(model, tokenizer, prompts, responses, **options)["deita"]
    return np.add.reduceat(each, np.cumsum(lengths) - lengths)
