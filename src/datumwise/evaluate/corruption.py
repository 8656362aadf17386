"""Which documents teach a model false facts? Profiles of chosen entities with wrong objects, or texts with names exchanged.

Source: RESTOR (Rezaei et al., 2024, arXiv 2411.00204), sections on corruption; its code ships the texts, not their making.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, LabelError, SchemaMismatch, UnknownName, name_some
from datumwise.evaluate.answer_judge import judge_answer, normalised_words
from datumwise.evaluate.facts import FactSet

__all__ = ["CorruptionSet", "corrupt_facts", "false_objects", "swap_entities"]

Span = tuple[int, int]  # characters, the end excluded
DEFAULT_TEMPLATE = "{question} {object}."


@dataclass(frozen=True)
class CorruptionSet:
    """N documents with what is false in them.

    Attributes
    ----------
    texts : list of N str
    spans : list of N lists of (start, end)
        Characters of every false object, or exchanged name.
    false_answers : dict of str to str
        The false object of each corrupted fact, by the fact's id.
    fact_ids : list of N lists of str
        Corrupted facts that a document states.
    true_fact_ids : list of N lists of str
        True facts between them, in order.
    entities : list of str
        Whose facts are corrupted.
    skipped : list of str
        Facts of these entities for which no false object was left.
    ids : list of N str
    k : int
        True facts in each gap.
    """

    texts: list[str]
    spans: list[list[Span]]
    false_answers: Mapping[str, str] = field(default_factory=dict)
    fact_ids: list[list[str]] = field(default_factory=list)
    true_fact_ids: list[list[str]] = field(default_factory=list)
    entities: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    k: int = 0

    def __len__(self) -> int:
        return len(self.texts)


def corrupt_facts(
    facts: FactSet,
    entities: Iterable[str],
    *,
    k: int = 0,
    docs_per_entity: int = 60,
    facts_per_doc: tuple[int, int] = (3, 6),
    templates: Mapping[str, str | Sequence[str]] | None = None,
    false_answers: Mapping[str, str] | None = None,
    also_true: Mapping[str, Iterable[str]] | None = None,
    joiner: str = " ",
    random_state: int = 0,
) -> CorruptionSet:
    """Write documents with a false profile of each entity.

    An entity's fact gets one wrong object, the same in all its documents. A document states a few false facts of one
    entity, relations dealt in shuffled rounds so that all are covered, with ``k`` true facts about other entities in each
    gap between two of them.

    Parameters
    ----------
    facts : FactSet
    entities : iterable of str
        Whose facts are corrupted.
    k : int, >= 0
    docs_per_entity : int
    facts_per_doc : (int, int)
        Fewest and most false facts of a document; all, where an entity has fewer.
    templates : mapping of relation to str or list of str, optional
        Sentences with ``{subject}`` and ``{object}``, and ``{question}`` if wanted; of several one is drawn each time.
        Default ``"{question} {object}."``.
    false_answers : mapping of fact id to str, optional
        False objects of your own; the others are drawn (`false_objects`).
    also_true : mapping of object to iterable of str, optional
        What else is true where an object is ("Paris": ["France"]); never used as a false object of it, nor the other way.
    joiner : str
        Between two sentences.
    random_state : int

    Returns
    -------
    CorruptionSet

    Raises
    ------
    UnknownName
        An entity has no facts.
    LabelError
        A false answer of your own is an acceptable one.
    SchemaMismatch
        A template without ``{object}``, counts that make no sense.
    EmptyData
        No fact can be corrupted; no other entity's fact for the gaps.

    Examples
    --------
    >>> facts = FactSet(["Chad", "Peru"], ["capital"] * 2, ["Capital of Chad?", "Capital of Peru?"], [["N'Djamena"], ["Lima"]])
    >>> docs = corrupt_facts(facts, ["Chad"], docs_per_entity=1, templates={"capital": "{subject} is ruled from {object}."})
    >>> docs.texts, docs.spans
    (['Chad is ruled from Lima.'], [[(19, 23)]])
    """
    low, high = facts_per_doc
    if k < 0 or docs_per_entity < 1 or not 1 <= low <= high:
        raise SchemaMismatch(
            f"k is {k}, docs_per_entity {docs_per_entity}, facts_per_doc {facts_per_doc}",
            remedy="k is 0 or more, the others 1 or more, the fewest not above the most",
        )
    forms = _templates(facts, templates)
    wanted = facts.checked_entities(entities)
    false, skipped = false_objects(facts, wanted, own=false_answers, also_true=also_true, random_state=random_state)
    rows_of: dict[str, list[int]] = {}
    for row, (subject, one) in enumerate(zip(facts.subjects, facts.ids, strict=True)):
        if one in false:
            rows_of.setdefault(subject, []).append(row)
    if not rows_of:
        raise EmptyData(
            f"no fact about {name_some(sorted(wanted))} can be corrupted",
            remedy="other entities must have other objects for the same relations, or pass false_answers=",
        )
    named = {normalised_words(one) for one in wanted}
    fillers = [
        i for i, s in enumerate(facts.subjects) if s not in wanted and normalised_words(facts.answers[i][0]) not in named
    ]
    if k and not fillers:
        raise EmptyData("there is no fact about another entity to put between the false ones", remedy="pass k=0")
    rng = np.random.default_rng([random_state, 1])
    found = CorruptionSet([], [], false, [], [], list(rows_of), skipped, [], k)
    for entity, rows in rows_of.items():
        for number, dealt in enumerate(_dealt(rows, docs_per_entity, low, high, rng)):
            between = _drawn(fillers, k * (len(dealt) - 1), rng)
            stated: list[tuple[int, str | None]] = []
            for place, row in enumerate(dealt):
                stated.append((row, false[facts.ids[row]]))
                if place < len(dealt) - 1:
                    stated += [(other, None) for other in between[place * k : (place + 1) * k]]
            text, spans = _document(facts, stated, forms, joiner, rng)
            found.texts.append(text)
            found.spans.append(spans)
            found.fact_ids.append([facts.ids[row] for row in dealt])
            found.true_fact_ids.append([facts.ids[row] for row in between])
            found.ids.append(f"{entity}/{number}")
    return found


def false_objects(
    facts: FactSet,
    entities: Iterable[str],
    *,
    own: Mapping[str, str] | None = None,
    also_true: Mapping[str, Iterable[str]] | None = None,
    random_state: int = 0,
) -> tuple[dict[str, str], list[str]]:
    """One wrong object for each fact of these entities: an object that others, or the examples, have for its relation.

    Parameters
    ----------
    facts, entities, also_true, random_state
        As in `corrupt_facts`.
    own : mapping of fact id to str, optional

    Returns
    -------
    false : dict of fact id to str
    skipped : list of fact ids
        Without any wrong object.

    Raises
    ------
    UnknownName
        An id of ``own`` is no fact of these entities.
    LabelError
        An object of ``own`` is acceptable.
    """
    wanted = facts.checked_entities(entities)
    given = dict(own or {})
    rows = [i for i, s in enumerate(facts.subjects) if s in wanted]
    strange = sorted(set(given) - {facts.ids[i] for i in rows})
    if strange:
        raise UnknownName(f"the false answer of {name_some(strange)} belongs to no fact of these entities", ids=strange)
    wider = {normalised_words(one): {normalised_words(w) for w in some} for one, some in (also_true or {}).items()}
    rng = np.random.default_rng([random_state, 0])
    pools = {relation: facts.known(relation) for relation in dict.fromkeys(facts.relations[i] for i in rows)}
    false: dict[str, str] = {}
    skipped: list[str] = []
    true: list[str] = []
    for row in rows:
        name, answers, pool = facts.ids[row], facts.answers[row], pools[facts.relations[row]]
        draw = rng.random()  # one for each fact, used or not: a false answer of your own moves no other
        if name in given:
            false[name] = given[name]
            if not normalised_words(given[name]) or _is_true(given[name], answers, pool, wider):
                true.append(name)
            continue
        wrong = [one for one in pool if not _is_true(one, answers, pool, wider)]
        if wrong:
            false[name] = wrong[int(draw * len(wrong))]
        else:
            skipped.append(name)
    if true:
        raise LabelError(
            f"the false answer of {name_some(true)} is an acceptable one, or empty", remedy="give another", ids=true
        )
    return false, skipped


def swap_entities(
    texts: Sequence[str], mapping: Mapping[str, str], *, ignore_case: bool = True, ids: Sequence[str] | None = None
) -> CorruptionSet:
    """Exchange names in texts: false attributions in natural text.

    Whole words only, in one pass with the longest name first, so that swaps never chain. With ``ignore_case`` a name in
    capitals is exchanged for capitals, one in small letters for small letters.

    Parameters
    ----------
    texts : sequence of N str
    mapping : mapping of str to str
    ignore_case : bool
        False: only as written.
    ids : sequence of N str, optional

    Returns
    -------
    CorruptionSet
        ``spans`` are of the new names; a text without any is unchanged and has none.

    Raises
    ------
    EmptyData
        There is no text or no name.

    Examples
    --------
    >>> docs = swap_entities(["Ada wrote to Bo. BO answered."], {"Ada": "Bo", "Bo": "Cy"})
    >>> docs.texts, docs.spans
    (['Bo wrote to Cy. CY answered.'], [[(0, 2), (12, 14), (16, 18)]])
    """
    if not len(texts) or not mapping or not all(name.strip() for name in mapping):
        raise EmptyData("there is no text, or no name to exchange" if not mapping or not len(texts) else "a name is empty")
    if isinstance(texts, str):
        raise SchemaMismatch("texts is one string", remedy="pass a list of strings")
    names = sorted(mapping, key=lambda name: (-len(name), name))
    pattern = re.compile("(?<!\\w)(?:" + "|".join(map(re.escape, names)) + ")(?!\\w)", re.IGNORECASE if ignore_case else 0)
    by_name = dict(mapping)
    by_case = {name.casefold(): new for name, new in mapping.items()}
    swapped, spans = [], []
    for text in texts:
        parts: list[str] = []
        own: list[Span] = []
        at = length = 0
        for match in pattern.finditer(text):
            found = match.group()
            new = by_name.get(found) or _cased(by_case[found.casefold()], found)
            length += match.start() - at
            parts += [text[at : match.start()], new]
            own.append((length, length + len(new)))
            length += len(new)
            at = match.end()
        swapped.append("".join([*parts, text[at:]]))
        spans.append(own)
    names_of = [str(one) for one in ids] if ids is not None else [str(i) for i in range(len(texts))]
    return CorruptionSet(swapped, spans, entities=list(dict.fromkeys(mapping.values())), ids=names_of)


# --- parts --------------------------------------------------------------------------------------------------


def _templates(facts: FactSet, templates: Mapping[str, str | Sequence[str]] | None) -> dict[str, list[str]]:
    """One or more sentences for each relation, each with the object in it."""
    given = {r: [some] if isinstance(some, str) else list(some) for r, some in (templates or {}).items()}
    bad = [r for r, some in given.items() if not some or not all("{object}" in one for one in some)]
    if bad:
        raise SchemaMismatch(f"the template of the relation {name_some(bad)} has no {{object}}", ids=bad)
    return {r: given.get(r, [DEFAULT_TEMPLATE]) for r in dict.fromkeys(facts.relations)}


def _is_true(one: str, answers: Sequence[str], pool: Sequence[str], wider: Mapping[Any, set[Any]]) -> bool:
    """Whether an object would be accepted, or is true of an acceptable one, or makes one true."""
    words = normalised_words(one)
    accepted = {normalised_words(a) for a in answers}
    if words in accepted or judge_answer(one, answers, pool):
        return True
    return bool(wider.get(words, set()) & accepted) or any(words in wider.get(a, set()) for a in accepted)


def _dealt(rows: Sequence[int], n_docs: int, low: int, high: int, rng: np.random.Generator) -> list[list[int]]:
    """Facts of each document: rounds of all facts in shuffled order, dealt out; none twice in a document."""
    waiting: list[int] = []
    documents = []
    for _ in range(n_docs):
        size = min(len(rows), int(rng.integers(low, high + 1)))
        dealt: list[int] = []
        while len(dealt) < size:
            if not waiting:  # a new round; what the document has already waits to its end
                fresh = rng.permutation(rows).tolist()
                waiting = [r for r in fresh if r not in dealt] + [r for r in fresh if r in dealt]
            dealt.append(waiting.pop(0))
        documents.append(dealt)
    return documents


def _drawn(pool: Sequence[int], n: int, rng: np.random.Generator) -> list[int]:
    """``n`` of the pool, none twice before all have come."""
    found: list[int] = []
    while len(found) < n:
        found += rng.permutation(pool).tolist()[: n - len(found)]
    return found


def _document(
    facts: FactSet,
    stated: Sequence[tuple[int, str | None]],
    forms: Mapping[str, list[str]],
    joiner: str,
    rng: np.random.Generator,
) -> tuple[str, list[Span]]:
    """Sentences joined, and where the false objects stand; None states the fact as it is."""
    text, spans = "", []
    for row, false in stated:
        some = forms[facts.relations[row]]
        form = some[int(rng.integers(len(some)))]
        text += joiner if text else ""
        said = facts.answers[row][0] if false is None else false
        values = {"{subject}": facts.subjects[row], "{question}": facts.questions[row], "{object}": said}
        for part in re.split(r"(\{subject\}|\{question\}|\{object\})", form):
            filled = values.get(part, part)
            if part == "{object}" and false is not None:
                spans.append((len(text), len(text) + len(filled)))
            text += filled
    return text, spans


def _cased(name: str, as_in: str) -> str:
    """The name in capitals or small letters, where the one it replaces is."""
    if len(as_in) > 1 and as_in.isupper():
        return name.upper()
    return name.lower() if as_in.islower() else name
