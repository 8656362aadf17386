"""Which documents taught a model its wrong answer? Attribution of what it says to what it was trained on.

Then these alone need unlearning: ``unlearn(model, tokenizer, [docs.texts[i] for i in sources.behind(0.1)])``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, SchemaMismatch

__all__ = ["AnswerSources", "answer_sources"]


@dataclass(frozen=True)
class AnswerSources:
    """How far each of N documents made a model give each of n answers.

    Attributes
    ----------
    scores : float32 (n, N)
        Larger: the document made the answer likelier.
    ids : list of N str
    method : str
    """

    scores: np.ndarray
    ids: list[str]
    method: str

    def top(self, answer: int, k: int = 10) -> list[tuple[str, float]]:
        """The ``k`` documents that most made an answer likelier, and their scores."""
        order = np.argsort(-self.scores[answer], kind="stable")[:k]
        return [(self.ids[i], float(self.scores[answer, i])) for i in order]

    def behind(self, share: float) -> np.ndarray:
        """Rows, sorted, of the documents behind all answers together: this share, by the sum of standardised scores."""
        if not 0 < share <= 1:
            raise SchemaMismatch(f"share is {share:g}", remedy="it is above 0 and at most 1")
        deviation = self.scores.std(axis=1, keepdims=True)
        standard = (self.scores - self.scores.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1)
        n = max(1, round(share * self.scores.shape[1]))
        return np.sort(np.argsort(-standard.sum(axis=0), kind="stable")[:n])


def answer_sources(
    model: Any,
    tokenizer: Any,
    documents: Sequence[str],
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    method: str = "grad_cos",
    ids: Sequence[Any] | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> AnswerSources:
    """Score every training document for every answer that a model gave.

    Parameters
    ----------
    model, tokenizer : causal language model
    documents : sequence of N str
        What it was trained on; others among them are fine.
    prompts, answers : sequences of n str
        What was asked, and what the model said: the answer follows after a space.
    method : str
        Of `datumwise.probe.attribute.attribute`. The cosine of gradients costs one pass and does not favour long documents.
    ids : sequence (N,), optional
        Of the documents.
    batch_size : int
    progress : callable (done, total), optional
    **options
        Of the method.

    Returns
    -------
    AnswerSources

    Raises
    ------
    EmptyData, SchemaMismatch
    """
    from datumwise.probe.attribute import attribute
    from datumwise.probe.collate import context_length, encode_texts

    if len(prompts) != len(answers):
        raise SchemaMismatch(f"{len(prompts):,} prompts and {len(answers):,} answers differ in number")
    if not len(documents) or not len(prompts):
        raise EmptyData("there is no document" if not len(documents) else "there is no answer to trace")
    limit = context_length(model, tokenizer)
    pairs = [(prompt, f" {answer}") for prompt, answer in zip(prompts, answers, strict=True)]
    train = _batches(tokenizer, encode_texts(tokenizer, list(documents), limit), batch_size)
    test = _batches(tokenizer, encode_texts(tokenizer, pairs, limit), batch_size)
    scores = attribute(model, train, test, method=method, batch_size=batch_size, progress=progress, **options)
    names = [str(one) for one in (ids if ids is not None else range(len(documents)))]
    return AnswerSources(scores, names, method)


def _batches(tokenizer: Any, items: Sequence[Any], size: int) -> list[dict[str, Any]]:
    """Right-padded batches with their labels."""
    from datumwise.probe.collate import IGNORED, pad_right, padding_id

    found = []
    for start in range(0, len(items), size):
        some = items[start : start + size]
        ids, mask = pad_right([one.input_ids for one in some], padding_id(tokenizer))
        labels = pad_right([one.labels for one in some], IGNORED)[0]
        found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return found
