"""What does a model write after a passage's beginning, and after a question? MUSE's two tests of memory, greedy.

Shi et al., 2024, *MUSE*, section 3: verbatim and knowledge memorisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.evaluate.muse_data import Pair

__all__ = ["Written", "answered", "question_prompts", "recited"]

STOPS = ("\n\n", "\nQuestion", "Question:")  # what ends an answer


@dataclass(frozen=True)
class Written:
    """What was written, and what would be right.

    Attributes
    ----------
    texts, truths : list of n str
    cut : ndarray of bool (n,)
        Whose prompt lost its beginning.
    """

    texts: list[str]
    truths: list[str]
    cut: np.ndarray


def recited(
    model: Any,
    tokenizer: Any,
    passages: Sequence[Pair],
    n_tokens: int,
    *,
    to_truth: bool = False,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """What is written after each prompt, and the true continuation.

    As published, ``n_tokens`` are written and the truth is cut to as many token ids, a beginning-of-text token counted: one
    real token less with tokenizers that put one.

    Parameters
    ----------
    model, tokenizer
    passages : sequence of n (prompt, truth)
    n_tokens : int
    to_truth : bool
        What is written is cut to as many tokens as its truth has: writing on after the truth's end is then no mistake.
    max_length, tokens_per_batch, ids, progress
        As in `datumwise.probe.generate.generate`.

    Returns
    -------
    Written
    """
    from datumwise.probe.generate import _end_tokens, continued
    from datumwise.probe.shared_prefix import tokenised_prompts

    encoded = [one[:n_tokens] for one in tokenizer([truth for _, truth in passages], verbose=False)["input_ids"]]
    lengths = [n_tokens] * len(passages)
    if to_truth:
        special = set(tokenizer.all_special_ids)
        lengths = [max(1, sum(token not in special for token in one)) for one in encoded]
    most = max(lengths)
    starts = [prompt for prompt, _ in passages]
    prompts = tokenised_prompts(model, tokenizer, starts, room=most, max_length=max_length, ids=ids)
    ends = _end_tokens(model, tokenizer)
    answers = continued(
        model,
        prompts,
        most,
        ended=lambda tokens: tokens[-1] in ends,
        tokens_per_batch=tokens_per_batch,
        progress=progress,
    )
    return Written(
        [tokenizer.decode(one[:n], skip_special_tokens=True) for one, n in zip(answers, lengths, strict=True)],
        [tokenizer.decode(one, skip_special_tokens=True) for one in encoded],
        prompts.cut,
    )


def answered(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Pair],
    shots: Sequence[Pair] = (),
    *,
    n_tokens: int = 32,
    style: str = "clean",
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """The answer to each question, up to a blank line or the next question; the solved ones are read once for all.

    Parameters
    ----------
    model, tokenizer
    questions, shots : sequence of (question, answer)
    n_tokens : int
        Longest answer.
    style : {"clean", "muse"}
        See `question_prompts`.
    max_length, tokens_per_batch, ids, progress
        As in `datumwise.probe.generate.generate`.

    Returns
    -------
    Written
    """
    from datumwise.probe.generate import generate
    from datumwise.probe.shared_prefix import tokenised_prompts

    prefix, prompts = question_prompts(questions, shots, style=style)
    how: dict[str, Any] = {"prefix": prefix, "max_length": max_length, "ids": ids}
    cut = tokenised_prompts(model, tokenizer, prompts, room=n_tokens, **how).cut
    how |= {"tokens_per_batch": tokens_per_batch, "progress": progress}
    texts = generate(model, tokenizer, prompts, max_new_tokens=n_tokens, stop=STOPS, **how)
    return Written(texts, [answer for _, answer in questions], cut)


def question_prompts(questions: Sequence[Pair], shots: Sequence[Pair] = (), *, style: str = "clean") -> tuple[str, list[str]]:
    """What stands before all questions, and each question as the model is asked it.

    Parameters
    ----------
    questions, shots : sequence of (question, answer)
    style : {"clean", "muse"}
        "muse" leaves the published space after ``Answer:``. Byte-level vocabularies spell " Paris" as one token, so a model
        that has read "Answer: Paris" never saw that space alone, and may know the answer and not give it.

    Returns
    -------
    prefix : str
    prompts : list of str

    Examples
    --------
    >>> question_prompts([("Who?", "I")], [("Where?", "Here")])
    ('Question: Where?\\nAnswer: Here\\n\\n', ['Question: Who?\\nAnswer:'])
    """
    prefix = "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in shots)
    space = " " if style == "muse" else ""
    return prefix, [f"Question: {question}\nAnswer:{space}" for question, _ in questions]
