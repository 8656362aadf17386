"""What does a language model answer to a fixed question about each datapoint? Log-probabilities of the answers.

A question is a template; what is the same for all datapoints is read by the model once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import numpy as np

from datumwise.errors import ModelMismatch, SchemaMismatch, name_some
from datumwise.probe.score_choices import next_token_logprobs, score_choices

__all__ = [
    "AUTOMATHTEXT",
    "DEITA_COMPLEXITY",
    "DEITA_QUALITY",
    "DIGITS",
    "UNIEVAL",
    "YES_NO",
    "Answers",
    "ask",
    "ask_words",
]

DIGITS = ("1", "2", "3", "4", "5", "6")
DEITA_COMPLEXITY = (
    "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
    "##Query: {prompt}  \n##Complexity: "
)
DEITA_QUALITY = (
    "You are a helpful assistant. Please identify the quality score of the Response corresponding to the Question. \n"
    " #Question#:\n{prompt}\n#Response#:\n{response} \n##Quality: "
)

# UniEval's questions on dialogue. Its own model is an encoder-decoder that reads them with separators of its
# own; a causal model reads lines, and the answer follows the last one.
YES_NO = ("Yes", "No")
UNIEVAL = {
    "naturalness": "question: Is this a natural response in the dialogue?\nresponse: {response}\nanswer:",
    "coherence": (
        "question: Is this a coherent response given the dialogue history?\nresponse: {response}\n"
        "dialogue history: {prompt}\nanswer:"
    ),
    "understandability": "question: Is this an understandable response in the dialogue?\nresponse: {response}\nanswer:",
}
_MATHEMATICS = (
    "You are equipped with extensive expertise in mathematics and coding, and skilled in complex reasoning and "
    "problem-solving. In the following task, I will present a text excerpt from a website. Your role is to evaluate "
    "whether this text exhibits mathematical intelligence and if it is suitable for educational purposes in "
    "mathematics. Please respond with only YES or NO.\n\n{question} Respond with YES or NO.\n\nText: {text}\n\nAnswer:"
)
AUTOMATHTEXT = {
    "intelligence": _MATHEMATICS.replace("{question}", "Does the text exhibit elements of mathematical intelligence?"),
    "education": _MATHEMATICS.replace(
        "{question}", "Is the text suitable for educational purposes for students in the field of mathematics?"
    ),
}


@dataclass(frozen=True)
class Answers:
    """Attributes
    ----------
    logprobs : ndarray of float64 (n, k)
        Of each answer right after the question, nats.
    truncated : ndarray of bool (n,)
        Whose texts were cut to fit.
    """

    logprobs: np.ndarray
    truncated: np.ndarray


def ask(
    model: Any,
    tokenizer: Any,
    template: str,
    answers: Sequence[str],
    *,
    max_length: int | None = None,
    bos: bool | str = "auto",
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **fields: Sequence[str],
) -> Answers:
    """Log-probabilities of single-token answers right after one question about each of n datapoints.

    Parameters
    ----------
    model, tokenizer, bos, tokens_per_batch, ids, progress
        As in `datumwise.probe.score_choices.next_token_logprobs`.
    template : str
        With ``{name}`` for every field.
    answers : sequence of k str
        Single tokens.
    max_length : int, optional
        Longest question in tokens. Longer ones lose the end of their longest field, never of the template,
        and are flagged. By default they are refused where they do not fit the model.
    **fields : sequence of n str
        What goes into the template.

    Returns
    -------
    Answers

    Raises
    ------
    SchemaMismatch
        The fields are not those of the template, or differ in number.
    ModelMismatch
        An answer is not one token; a question does not fit.
    """
    prompts, cut = _questions(tokenizer, template, fields, max_length, bos)
    found = next_token_logprobs(
        model, tokenizer, prompts, answers, bos=bos, tokens_per_batch=tokens_per_batch, ids=ids, progress=progress
    )
    return Answers(found, cut)


def ask_words(
    model: Any,
    tokenizer: Any,
    template: str,
    answers: Sequence[str],
    *,
    max_length: int | None = None,
    bos: bool | str = "auto",
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **fields: Sequence[str],
) -> Answers:
    """The same of answers that are words: one token or several, and each with a space in front.

    A tokenizer that marks the beginning of a word by itself (SentencePiece) gets the words as they stand.

    Parameters
    ----------
    model, tokenizer, template, max_length, bos, tokens_per_batch, ids, progress, **fields
        As in `ask`.
    answers : sequence of k str

    Returns
    -------
    Answers
    """
    words = [_as_word(tokenizer, answer) for answer in answers]
    room = max(len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words)
    prompts, cut = _questions(tokenizer, template, fields, None if max_length is None else max_length - room, bos)
    choices = [words] * len(prompts)
    found = score_choices(
        model, tokenizer, prompts, choices, bos=bos, tokens_per_batch=tokens_per_batch, ids=ids, progress=progress
    )
    return Answers(np.array(found), cut)


def _as_word(tokenizer: Any, answer: str) -> str:
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    marks_itself = bool(ids) and str(tokenizer.convert_ids_to_tokens(ids[:1])[0]).startswith("\u2581")
    return answer if marks_itself else f" {answer}"


def _questions(
    tokenizer: Any, template: str, fields: Mapping[str, Sequence[str]], max_length: int | None, bos: bool | str
) -> tuple[list[str], np.ndarray]:
    """The filled-in templates, and whose fields were cut to fit."""
    named = list(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name is not None))
    missing = [name for name in named if name not in fields]
    if missing or not named:
        what = f"has a field {missing[0]} that was not given" if missing else "has no field"
        raise SchemaMismatch(f"the question {what}", remedy="write {name} and give name=[...]")
    lengths = sorted({len(fields[name]) for name in named})
    if len(lengths) > 1:
        raise SchemaMismatch(f"the fields of a question differ in number ({name_some(lengths)})")
    texts = {name: list(fields[name]) for name in named}
    cut = np.zeros(lengths[0], dtype=bool)
    if max_length is not None:
        cut = _shorten(tokenizer, template, texts, max_length, bos)
    prompts = [template.format(**dict(zip(named, row, strict=True))) for row in zip(*texts.values(), strict=True)]
    return prompts, cut


def _shorten(tokenizer: Any, template: str, texts: dict[str, list[str]], limit: int, bos: bool | str) -> np.ndarray:
    """Cut the longest field of each question that is too long, in place; which questions those are."""

    def counted(some: Sequence[str]) -> list[int]:
        encoded = tokenizer(list(some), add_special_tokens=False, verbose=False)["input_ids"] if some else []
        return [len(one) for one in encoded]

    rows = list(zip(*texts.values(), strict=True))
    front = 0 if bos is False else 1
    cut = np.zeros(len(rows), dtype=bool)
    for i, size in enumerate(counted([template.format(**dict(zip(texts, row, strict=True))) for row in rows])):
        over = size + front - limit
        while over > 0:
            cut[i] = True
            sizes = counted([own[i] for own in texts.values()])
            name = list(texts)[int(np.argmax(sizes))]
            if not max(sizes):
                raise ModelMismatch(f"the question alone is longer than {limit} tokens", remedy="raise max_length=")
            ids = tokenizer(texts[name][i], add_special_tokens=False, verbose=False)["input_ids"]
            shorter = tokenizer.decode(ids[: max(0, len(ids) - over)], skip_special_tokens=False)
            texts[name][i] = shorter if len(shorter) < len(texts[name][i]) else texts[name][i][:-1]
            over = counted([template.format(**{key: own[i] for key, own in texts.items()})])[0] + front - limit
    return cut
