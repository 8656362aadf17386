"""Questions with several answers, of which one is right: the data that hardness, learners and their evaluation share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from datumwise.errors import DatumwiseError, DuplicateId, EmptyData, LabelError, SchemaMismatch, UnknownColumn, name_some

__all__ = ["MultipleChoice", "Template", "choice_features", "noisy_labels"]

KNOWN = ("id", "question", "choices", "gold", "answer")  # fields of a record that are not facts


@dataclass(frozen=True)
class Template:
    """How a question, its answer and further examples become text.

    The space before an answer belongs to the answer: prompt and answer are tokenised apart, and a word after a space is
    another token than a word after a prompt that ends in one.

    Attributes
    ----------
    question, answer : str
        With ``{question}`` and ``{answer}``.
    between : str
        After each example.
    lead : str
        In front of everything.
    reasoning, conclusion : str
        Before worked reasoning, and between it and the answer, where answers are written out.

    Examples
    --------
    >>> Template().prompt("2 + 2?")
    'Q: 2 + 2?\\nA:'
    >>> Template().example("2 + 2?", "4")
    'Q: 2 + 2?\\nA: 4\\n\\n'
    """

    question: str = "Q: {question}\nA:"
    answer: str = " {answer}"
    between: str = "\n\n"
    lead: str = ""
    reasoning: str = " {reasoning}"
    conclusion: str = "\nSo the answer is {answer}"

    def prompt(self, question: str) -> str:
        """What the answer follows."""
        return self.question.replace("{question}", question)

    def choice(self, answer: str) -> str:
        """The answer as it follows the prompt."""
        return self.answer.replace("{answer}", answer)

    def worked(self, reasoning: str, answer: str) -> str:
        """Reasoning and conclusion as they follow the prompt."""
        said = self.reasoning.replace("{reasoning}", reasoning)
        return said + self.conclusion.replace("{answer}", answer)

    def example(self, question: str, answer: str, reasoning: str | None = None) -> str:
        """A question with its answer, and what separates it from the next."""
        told = self.choice(answer) if reasoning is None else self.worked(reasoning, answer)
        return self.prompt(question) + told + self.between


@dataclass(frozen=True)
class MultipleChoice:
    """n questions, the choices of each, the right one, and what is known of them.

    Attributes
    ----------
    questions : sequence of n str
    choices : sequence of n sequences of str
        At least two a question, unless the answer is to be written out: then one, the right answer.
    gold : int64 (n,)
        Index of the right choice.
    ids : array (n,)
        0..n-1 by default.
    facts : mapping of str to sequence of n
        ``grade``, ``difficulty``, ``bloom``, ``reasoning``, ``topic`` …
    features : float (n, m, d) or None
        A vector a choice (`datumwise.probe.choice_features`); m is the largest number of choices.

    Examples
    --------
    >>> data = MultipleChoice(["2 + 2 = ?", "1 + 1 = ?"], [["3", "4"], ["2", "1"]], [1, 0], facts={"grade": [2, 1]})
    >>> data.answers
    ['4', '2']
    >>> data.take([1]).questions
    ('1 + 1 = ?',)
    """

    questions: Sequence[str]
    choices: Sequence[Sequence[str]]
    gold: Any
    ids: Any = None
    facts: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    features: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        n = len(self.questions)
        if not n:
            raise EmptyData("there is no question")
        ids = np.arange(n) if self.ids is None else np.asarray(self.ids)
        gold = np.asarray(self.gold)
        columns = {"choices": self.choices, "gold": gold, "ids": ids, **self.facts}
        for name, column in columns.items():
            if len(column) != n:
                raise SchemaMismatch(f"there are {n:,} questions and {len(column):,} {name}")
        if len(np.unique(ids)) != n:
            values, counts = np.unique(ids, return_counts=True)
            twice = values[counts > 1]
            raise DuplicateId(f"id {name_some(twice)} occurs more than once", ids=twice.tolist())
        choices = tuple(tuple(own) for own in self.choices)
        empty = [i for i, own in zip(ids, choices, strict=True) if not own or any(not str(c).strip() for c in own)]
        if empty:
            raise DatumwiseError(
                f"a choice of {name_some(empty)} is empty", remedy="leave it out, or write the answer", ids=empty
            )
        if gold.dtype.kind not in "iu":
            raise LabelError(f"gold must be whole numbers, the index of the right choice; the type is {gold.dtype}")
        counts = np.array([len(own) for own in choices])
        bad = np.flatnonzero((gold < 0) | (gold >= counts))
        if len(bad):
            raise LabelError(
                f"the right choice of {name_some(ids[bad])} is not among its choices (index {gold[bad[0]]} of "
                f"{counts[bad[0]]})",
                ids=ids[bad].tolist(),
            )
        if self.features is not None and self.features.shape[:2] != (n, counts.max()):
            raise SchemaMismatch(
                f"features must be {n:,} items x {counts.max()} choices x dimensions; got {self.features.shape}"
            )
        object.__setattr__(self, "questions", tuple(self.questions))
        object.__setattr__(self, "choices", choices)
        object.__setattr__(self, "gold", gold.astype(np.int64))
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "facts", dict(self.facts))

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def n_choices(self) -> np.ndarray:
        """int64 (n,): choices of each question."""
        return np.array([len(own) for own in self.choices], dtype=np.int64)

    @property
    def present(self) -> np.ndarray:
        """bool (n, m): which choices there are."""
        counts = self.n_choices
        return np.arange(counts.max()) < counts[:, None]

    @property
    def answers(self) -> list[str]:
        """The right choice of each question."""
        return [own[g] for own, g in zip(self.choices, self.gold, strict=True)]

    def fact(self, name: str) -> Sequence[Any]:
        """A column of facts.

        Raises
        ------
        UnknownColumn
        """
        if name not in self.facts:
            raise UnknownColumn(f"the questions carry no {name!r}", remedy=f"they carry {', '.join(self.facts) or 'nothing'}")
        return self.facts[name]

    def take(self, rows: Any) -> Self:
        """These questions, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        features = None if self.features is None else self.features[rows]
        choices = [self.choices[i] for i in rows]
        if features is not None:
            features = features[:, : max((len(own) for own in choices), default=0)]
        return replace(
            self,
            questions=[self.questions[i] for i in rows],
            choices=choices,
            gold=self.gold[rows],
            ids=self.ids[rows],
            facts={name: [column[i] for i in rows] for name, column in self.facts.items()},
            features=features,
        )

    def with_gold(self, gold: Any) -> Self:
        """The same questions with other labels."""
        return replace(self, gold=np.asarray(gold))

    def with_features(self, features: np.ndarray) -> Self:
        """The same questions with a vector a choice, float (n, m, d)."""
        return replace(self, features=features)

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> Self:
        """From dictionaries with ``question``, ``choices`` and ``gold`` (or ``answer``: the right choice's text).

        ``id`` is optional, every other field becomes a fact; one that a record lacks is None there. A record without
        choices has its answer as the only one.

        Raises
        ------
        LabelError
            An answer is not among its choices.
        """
        rows = list(records)
        ids = [row.get("id", i) for i, row in enumerate(rows)]
        lacking = [i for i, row in zip(ids, rows, strict=True) if "question" not in row]
        if lacking:
            raise SchemaMismatch(f"record {name_some(lacking)} has no question", ids=lacking)
        choices = [list(row["choices"]) if row.get("choices") is not None else [row.get("answer", "")] for row in rows]
        gold, unknown = [], []
        for i, row, own in zip(ids, rows, choices, strict=True):
            if row.get("gold") is not None:
                gold.append(int(row["gold"]))
            elif row.get("answer") in own:
                gold.append(own.index(row["answer"]))
            else:
                unknown.append(i)
        if unknown:
            raise LabelError(f"the answer of {name_some(unknown)} is not among its choices", ids=unknown)
        names = list(dict.fromkeys(name for row in rows for name in row if name not in KNOWN))
        facts = {name: [row.get(name) for row in rows] for name in names}
        return cls([row["question"] for row in rows], choices, gold, ids, facts)


def choice_features(
    model: Any,
    tokenizer: Any,
    data: MultipleChoice,
    *,
    template: Template = Template(),
    layers: Sequence[str | int] = ("middle", "last"),
    position: str = "last",
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Hidden states of question + choice: a vector a choice, for `MultipleChoiceProbe`.

    Parameters
    ----------
    model, tokenizer : causal language model
    data : MultipleChoice
    template : Template
    layers : sequence of "middle", "last" or int
        Side by side; see `datumwise.probe.hidden_states.hidden_states`.
    position : {"last", "mean"}
        The last token's states, as published, or the mean over the choice's tokens.
    cache : path of a folder, optional
        Keeps the states as float16, by a hash of model, layers and texts, and reads them from there the next time.
    progress : callable (done, total), optional

    Returns
    -------
    float32 (n, m, d), or float16 with ``cache``
        0 where an item has no m-th choice.
    """
    from datumwise.probe.hidden_states import hidden_states

    texts = [
        (template.lead + template.prompt(q), template.choice(c))
        for q, own in zip(data.questions, data.choices, strict=True)
        for c in own
    ]
    path = None if cache is None else _cache_file(Path(cache), model, (*layers, position), texts)
    if path is not None and path.exists():
        return np.load(path, mmap_mode="r")
    flat = hidden_states(model, tokenizer, texts, layers, position, progress=progress)
    present = data.present
    features = np.zeros((*present.shape, flat.shape[1]), dtype=np.float32 if path is None else np.float16)
    features[present] = flat
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, features)
    return features


def _cache_file(folder: Path, model: Any, layers: Sequence[str | int], texts: Sequence[tuple[str, str]]) -> Path:
    from datumwise.probe.fingerprint import model_fingerprint

    digest = hashlib.sha256(repr((model_fingerprint(model), tuple(layers), list(texts))).encode())
    return folder / f"choice-features-{digest.hexdigest()[:32]}.npy"


def noisy_labels(gold: Any, n_choices: Any, rate: float, random_state: Any = None) -> np.ndarray:
    """Replace each label with probability ``rate`` by a uniform draw over all its choices, the right one included.

    The share of labels that change is therefore ``rate (m - 1) / m`` with m choices.

    Parameters
    ----------
    gold : int (n,)
    n_choices : int or int (n,)
    rate : float
        0 to 1.
    random_state : int, Generator or None

    Returns
    -------
    int64 (n,)

    Examples
    --------
    >>> changed = noisy_labels(np.zeros(4000, int), 4, 0.2, random_state=0) != 0
    >>> round(float(changed.mean()), 2)                  # 0.2 x 3/4
    0.15
    """
    if not 0 <= rate <= 1:
        raise DatumwiseError(f"a noise rate of {rate} is no probability", remedy="give 0 to 1")
    gold = np.asarray(gold, dtype=np.int64)
    rng = np.random.default_rng(random_state)
    replaced = rng.random(len(gold)) < rate
    drawn = (rng.random(len(gold)) * np.asarray(n_choices)).astype(np.int64)
    return np.where(replaced, drawn, gold)
