"""How far can a response be trusted? Does the model say the same again, and does it stand by it?

Chen and Mueller, 2024, *Quantifying Uncertainty in Answers from any Language Model and Enhancing their Trustworthiness*
(BSDetector), section 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.probe.chat import as_chat
from datumwise.score.scores import Scores

__all__ = ["Contradiction", "bs_detector"]

Contradiction = Callable[[Sequence[str], Sequence[str]], Any]  # n answers, n references -> probability of contradiction

CERTAIN = """Question: {prompt}, Proposed Answer: {response}. Is the proposed answer: (A) Correct (B) Incorrect (C) I am \
not sure. The output should strictly use the following template: answer: [one letter choice among A, B, C]"""
REALLY = """Question: {prompt}, Proposed Answer: {response}. Are you really sure the proposed answer is correct? Choose \
again: (A) Correct (B) Incorrect (C) I am not sure. The output should strictly use the following template: answer: [one \
letter choice among A, B, C]"""
SAID = {"A": 1.0, "B": 0.0, "C": 0.5}

_LETTER = re.compile(r"answer\s*:\s*\(?\[?\s*([ABC])\b|^\s*\(?([ABC])\)?\s*[.)]?\s*$|\(([ABC])\)", re.IGNORECASE)


def bs_detector(
    judge: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    contradiction: Contradiction | None = None,
    n_samples: int = 5,
    beta: float = 0.7,
    alpha: float = 0.8,
    temperature: float = 1.0,
    batch_size: int = 64,
    ids: Sequence[Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Confidence in n responses: beta O + (1 - beta) S.

    O, observed consistency: the judge answers the prompt ``n_samples`` times anew; each answer agrees with the response by
    alpha (1 - p) + (1 - alpha) e, where p is the probability that they contradict each other, the mean over both orders,
    and e is 1 if they are the same text. S, self-reflection: the mean of what the judge says of the response when asked
    twice: correct 1, not sure 0.5, incorrect 0.

    Parameters
    ----------
    judge : callable, or (model, tokenizer)
        See `datumwise.probe.chat.as_chat`. A function must draw its answers itself; a transformers model draws at
        ``temperature``.
    prompts, responses : sequences of n str
    contradiction : callable (answers, references) -> (n,), optional
        Probability that an answer contradicts a reference, from a model of natural language inference. Without it only the
        same text agrees (alpha is then 0).
    n_samples : int, default 5
    beta : float, default 0.7
    alpha : float, default 0.8
    temperature : float, default 1.0
    batch_size : int
        Messages a call of the judge.
    ids : sequence (n,), optional
    seed : int
    progress : callable (done, total), optional

    Returns
    -------
    Scores
        ``bs_confidence``, ``bs_consistency``, ``bs_reflection`` float (n,), 0 to 1; NaN where no reflection could be read.

    Raises
    ------
    EmptyData, SchemaMismatch, DatumwiseError

    Examples
    --------
    >>> def sure(messages):
    ...     return ["answer: A" if "Proposed" in m and "4" in m else "answer: B" if "Proposed" in m else "4" for m in messages]
    >>> found = bs_detector(sure, ["2 + 2?", "2 + 2?"], ["4", "5"])
    >>> found["bs_confidence"].tolist()
    [1.0, 0.0]
    """
    if len(prompts) != len(responses):
        raise SchemaMismatch(f"{len(prompts):,} prompts and {len(responses):,} responses differ in number")
    if not len(prompts):
        raise EmptyData("there is no response to judge")
    for name, value in (("beta", beta), ("alpha", alpha)):
        if not 0 <= value <= 1:
            raise DatumwiseError(f"{name} is {value}", remedy="it lies between 0 and 1")
    if n_samples < 1:
        raise DatumwiseError(f"n_samples is {n_samples}", remedy="it must be 1 or more")
    ask = as_chat(judge, max_new_tokens=16)
    agreed = np.zeros(len(prompts))
    said = np.zeros((len(prompts), 2))
    done, total = 0, len(prompts) * (n_samples + 2)

    def told(step: int) -> None:
        nonlocal done
        done += step
        if progress is not None:
            progress(done, total)

    for sample in range(n_samples):
        draw = as_chat(judge, temperature=temperature, seed=seed + sample)
        for start in range(0, len(prompts), batch_size):
            at = slice(start, start + batch_size)
            agreed[at] += _agreement(draw(prompts[at]), responses[at], contradiction, alpha)
            told(len(prompts[at]))
    for turn, template in enumerate((CERTAIN, REALLY)):
        for start in range(0, len(prompts), batch_size):
            at = slice(start, start + batch_size)
            pairs = zip(prompts[at], responses[at], strict=True)
            said[at, turn] = [_letter(a) for a in ask([template.format(prompt=p, response=r) for p, r in pairs])]
            told(len(prompts[at]))
    consistency = agreed / n_samples
    read = ~np.isnan(said)
    reflection = np.where(read, said, 0).sum(axis=1) / np.where(read.any(axis=1), read.sum(axis=1), np.nan)
    return Scores(
        np.arange(len(prompts)) if ids is None else ids,
        {
            "bs_confidence": beta * consistency + (1 - beta) * reflection,
            "bs_consistency": consistency,
            "bs_reflection": reflection,
        },
        higher=dict.fromkeys(("bs_confidence", "bs_consistency", "bs_reflection"), "response more to be trusted"),
    )


def _agreement(
    answers: Sequence[str], references: Sequence[str], contradiction: Contradiction | None, alpha: float
) -> np.ndarray:
    same = np.array([_plain(a) == _plain(r) for a, r in zip(answers, references, strict=True)], dtype=np.float64)
    if contradiction is None:
        return same
    p = (np.asarray(contradiction(answers, references), float) + np.asarray(contradiction(references, answers), float)) / 2
    if p.shape != same.shape or not ((p >= 0) & (p <= 1)).all():
        raise SchemaMismatch(
            f"contradiction= gave an array of shape {p.shape} for {len(same):,} pairs, or values outside of 0 to 1",
            remedy="it must give one probability a pair",
        )
    return alpha * (1 - p) + (1 - alpha) * same


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def _letter(answer: str) -> float:
    found = _LETTER.search(answer)
    return SAID[next(letter for letter in found.groups() if letter).upper()] if found else float("nan")
