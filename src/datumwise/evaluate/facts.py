"""Which facts is a model asked for, and which answers are right? Subjects, relations, questions and acceptable objects.

The layout is RESTOR's (Rezaei et al., 2024, arXiv 2411.00204): facts by entity and relation, worked examples by relation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from datumwise.errors import DuplicateId, EmptyData, SchemaMismatch, SourceError, UnknownColumn, UnknownName, name_some

__all__ = ["FactSet", "Shot", "as_shot"]


class Shot(NamedTuple):
    """A worked example of a relation."""

    question: str
    answer: str
    entity: str = ""


@dataclass(frozen=True)
class FactSet:
    """n facts: (subject, relation, acceptable objects), each with its question.

    Attributes
    ----------
    subjects, relations, questions : list of n str
    answers : list of n lists of str
        Acceptable objects, one or more; the first is how the fact is stated.
    context : dict of str to list of Shot
        Worked examples of each relation, in order.
    ids : list of n str
        Default ``subject/relation``.

    Examples
    --------
    >>> rows = {
    ...     "country": ["France", "Chad"], "what": ["capital", "capital"], "is": ["Paris", "N'Djamena"],
    ... }
    >>> facts = FactSet.from_frame(
    ...     rows, subject="country", relation="what", object="is", question={"capital": "The capital of {subject}?"}
    ... )
    >>> facts.questions
    ['The capital of France?', 'The capital of Chad?']
    >>> facts.ids[0], facts.known("capital")
    ('France/capital', ['Paris', "N'Djamena"])
    """

    subjects: list[str]
    relations: list[str]
    questions: list[str]
    answers: list[list[str]]
    context: Mapping[str, list[Shot]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.ids:
            object.__setattr__(self, "ids", [f"{s}/{r}" for s, r in zip(self.subjects, self.relations, strict=False)])
        _refuse_wrong(self)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def entities(self) -> list[str]:
        """Every subject once, in order."""
        return list(dict.fromkeys(self.subjects))

    def known(self, relation: str) -> list[str]:
        """Every object that any fact or worked example has for a relation, once, in order."""
        said = [a for r, some in zip(self.relations, self.answers, strict=True) if r == relation for a in some]
        return list(dict.fromkeys(said + [shot.answer for shot in self.context.get(relation, ())]))

    def take(self, rows: Sequence[int] | np.ndarray) -> FactSet:
        """These facts, with all worked examples; a bool array of n chooses too."""
        index = np.arange(len(self))[np.asarray(rows)] if len(rows) else np.zeros(0, dtype=np.int64)

        def of(column: list[Any]) -> list[Any]:
            return [column[i] for i in index]

        return FactSet(of(self.subjects), of(self.relations), of(self.questions), of(self.answers), self.context, of(self.ids))

    def of(self, entities: Iterable[str]) -> FactSet:
        """Facts of these entities.

        Raises
        ------
        UnknownName
            An entity has no fact here.
        """
        wanted = self.checked_entities(entities)
        return self.take(np.array([s in wanted for s in self.subjects], dtype=bool))

    def checked_entities(self, entities: Iterable[str]) -> set[str]:
        """The entities as a set, each of which has a fact."""
        if isinstance(entities, str):
            entities = [entities]
        wanted = list(entities)
        missing = [one for one in wanted if one not in set(self.subjects)]
        if missing:
            near = get_close_matches(str(missing[0]), self.entities, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else "name subjects of the facts"
            raise UnknownName(f"no fact is about {name_some(missing)}", remedy=remedy, ids=missing)
        return set(wanted)

    def with_shots(self, entities: Iterable[str]) -> FactSet:
        """The facts of these entities become worked examples, in front of those that are there, and are asked no more."""
        chosen = self.checked_entities(entities)
        context: dict[str, list[Shot]] = {}
        for subject, relation, question, answers in zip(
            self.subjects, self.relations, self.questions, self.answers, strict=True
        ):
            if subject in chosen:
                context.setdefault(relation, []).append(Shot(question, answers[0], subject))
        for relation, shots in self.context.items():
            context[relation] = context.get(relation, []) + list(shots)
        rest = self.take(np.array([s not in chosen for s in self.subjects], dtype=bool))
        return FactSet(rest.subjects, rest.relations, rest.questions, rest.answers, context, rest.ids)

    def tuning_split(self, share: float = 0.1, *, random_state: int = 0) -> tuple[FactSet, FactSet]:
        """A share of the facts for choosing settings, and the others for the test, as published (10 % and 90 %).

        Returns
        -------
        tuning, test : FactSet
        """
        if not 0 < share < 1:
            raise SchemaMismatch(f"share is {share:g}", remedy="it lies between 0 and 1")
        order = np.random.default_rng(random_state).permutation(len(self))
        n = max(1, round(share * len(self)))
        return self.take(np.sort(order[:n])), self.take(np.sort(order[n:]))

    # --- files and frames ---------------------------------------------------------------------------------

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        subject: str,
        relation: str,
        object: str,
        question: str | Mapping[str, str] | Callable[[str, str], str],
        context: Mapping[str, Sequence[Any]] | None = None,
    ) -> Self:
        """Facts from a table, one row a (subject, relation, object); rows of one subject and relation are one fact.

        Parameters
        ----------
        frame : pandas or pyarrow table, or mapping of column to list
        subject, relation, object : str
            Columns; an object may be a list of acceptable ones.
        question : str, mapping or callable (subject, relation) -> str
            A column; or a template with ``{subject}`` for each relation.
        context : mapping of relation to sequence of Shot, optional

        Raises
        ------
        UnknownColumn, SchemaMismatch, EmptyData
        """
        subjects, relations = ([str(v) for v in _column(frame, name)] for name in (subject, relation))
        asked: list[str]
        if isinstance(question, str):
            asked = [str(v) for v in _column(frame, question)]
        elif callable(question):
            asked = [question(s, r) for s, r in zip(subjects, relations, strict=True)]
        else:
            without = sorted(set(relations) - set(question))
            if without:
                raise SchemaMismatch(f"there is no question for the relation {name_some(without)}", ids=without)
            asked = [question[r].replace("{subject}", s) for s, r in zip(subjects, relations, strict=True)]
        merged: dict[tuple[str, str], tuple[str, list[str]]] = {}
        for key, one, value in zip(zip(subjects, relations, strict=True), asked, _column(frame, object), strict=True):
            said = [value] if isinstance(value, str) else [] if _missing(value) else value
            answers = merged.setdefault(key, (one, []))[1]
            answers += [text for text in map(str, np.atleast_1d(np.asarray(said, dtype="O"))) if text not in answers]
        return cls(
            [s for s, _ in merged],
            [r for _, r in merged],
            [one for one, _ in merged.values()],
            [some for _, some in merged.values()],
            {r: [as_shot(one) for one in some] for r, some in (context or {}).items()},
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Facts as RESTOR's file holds them.

        Parameters
        ----------
        data : mapping
            ``{"dset": {entity: {relation: {"question", "answers"}}}, "context": {relation: [{"question", "answer",
            "entity"}]}}``.

        Raises
        ------
        SchemaMismatch
            The layout is another one.
        """
        try:
            rows = [
                (entity, relation, fact["question"], fact["answers"])
                for entity, some in data["dset"].items()
                for relation, fact in some.items()
            ]
            context = {r: [as_shot(one) for one in some] for r, some in data.get("context", {}).items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise SchemaMismatch(
                f"the facts do not have RESTOR's layout ({error!r})",
                remedy='it is {"dset": {entity: {relation: {"question", "answers"}}}, "context": {relation: [...]}}',
            ) from error
        columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
        answers = [[some] if isinstance(some, str) else [str(a) for a in some] for some in columns[3]]
        return cls(columns[0], columns[1], columns[2], answers, context)

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Facts from a file in RESTOR's layout.

        Raises
        ------
        SourceError, SchemaMismatch
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SourceError(f"{path} cannot be read as JSON ({error})") from error
        return cls.from_dict(data)

    def to_dict(self) -> dict[str, Any]:
        """In RESTOR's layout; ids are not kept."""
        dset: dict[str, dict[str, Any]] = {}
        for s, r, q, a in zip(self.subjects, self.relations, self.questions, self.answers, strict=True):
            dset.setdefault(s, {})[r] = {"question": q, "answers": list(a)}
        return {"dset": dset, "context": {r: [shot._asdict() for shot in some] for r, some in self.context.items()}}


def _refuse_wrong(facts: FactSet) -> None:
    """Columns of one length, ids once, every fact with a subject, a question and an answer."""
    columns = ("subjects", "relations", "questions", "answers")
    sizes = {name: len(getattr(facts, name)) for name in columns} | {"ids": len(facts.ids)}
    if len(set(sizes.values())) > 1:
        raise SchemaMismatch("the facts' columns differ in length: " + ", ".join(f"{k} {v:,}" for k, v in sizes.items()))
    twice = [one for one, n in zip(*np.unique(np.array(facts.ids, dtype=str), return_counts=True), strict=True) if n > 1]
    if twice:
        raise DuplicateId(f"the fact {name_some(twice)} occurs twice", remedy="merge its answers", ids=twice)
    mute = [i for i, some in zip(facts.ids, facts.answers, strict=True) if isinstance(some, str) or not _said(some)]
    if mute:
        raise EmptyData(
            f"the fact {name_some(mute)} has no list of answers", remedy="give one or more, or leave it out", ids=mute
        )
    bare = [i for i, s, q in zip(facts.ids, facts.subjects, facts.questions, strict=True) if not (s.strip() and q.strip())]
    if bare:
        raise EmptyData(f"the fact {name_some(bare)} has no subject or no question", ids=bare)


def _said(answers: Sequence[str]) -> bool:
    return len(answers) > 0 and all(isinstance(a, str) and a.strip() for a in answers)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def as_shot(one: Any) -> Shot:
    """A worked example from a mapping, a tuple or a Shot."""
    if isinstance(one, Mapping):
        return Shot(one["question"], one["answer"], one.get("entity", ""))
    return Shot(*one)


def _column(frame: Any, name: str) -> list[Any]:
    try:
        column = frame[name]
    except KeyError as error:
        raise UnknownColumn(f"there is no column {name}", column=name) from error
    return column.to_pylist() if hasattr(column, "to_pylist") else list(column)
