"""How is a model asked for a fact? After worked examples of the relation, none of them about the entity that is asked for.

Source: RESTOR's evaluation (Rezaei et al., 2024, arXiv 2411.00204): the first five examples in order.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from datumwise.errors import SchemaMismatch, UnknownName, name_some
from datumwise.evaluate.facts import FactSet, Shot, as_shot

__all__ = ["STYLES", "FewShotPrompts", "few_shot_prompt", "few_shot_prompts"]

# style -> (worked example, question); the answer follows after a space and ends at the line's end
STYLES = {
    "restor": ("{question} {answer}\n", "{question}"),
    "qa": ("Question: {question}\nAnswer: {answer}\n\n", "Question: {question}\nAnswer:"),
}


def few_shot_prompt(
    shots: Sequence[Any], question: str, *, exclude: str | Collection[str] = (), n_shots: int = 5, style: str = "restor"
) -> str:
    """The first worked examples that are not about an excluded entity, then the question.

    Parameters
    ----------
    shots : sequence of Shot, or of mappings with ``question``, ``answer`` and ``entity``
    question : str
    exclude : str or collection of str
        Entities whose examples are left out: the one asked for, and those with false facts.
    n_shots : int, >= 0
        Fewer where there are no more.
    style : {"restor", "qa"}
        As published, a line ``question answer`` each; or blocks of ``Question:`` and ``Answer:``.

    Returns
    -------
    str
        Without a space at the end: the answer follows as ``" " + answer``.

    Examples
    --------
    >>> shots = [Shot("Capital of Chad?", "N'Djamena", "Chad"), Shot("Capital of Mali?", "Bamako", "Mali")]
    >>> few_shot_prompt(shots, "Capital of Chad?", exclude="Chad")
    'Capital of Mali? Bamako\\nCapital of Chad?'
    >>> few_shot_prompt(shots, "Capital of Peru?", n_shots=1, style="qa")
    "Question: Capital of Chad?\\nAnswer: N'Djamena\\n\\nQuestion: Capital of Peru?\\nAnswer:"
    """
    return _prompt(_chosen(shots, exclude, n_shots), question, style)


@dataclass(frozen=True)
class FewShotPrompts:
    """Prompts of n facts, and how many worked examples each has."""

    prompts: list[str]
    n_shots: list[int]


def few_shot_prompts(
    facts: FactSet, *, exclude: Collection[str] = (), n_shots: int = 5, style: str = "restor"
) -> FewShotPrompts:
    """The prompt of every fact; its own subject is always excluded.

    Raises
    ------
    SchemaMismatch
        There is no worked example of a relation.

    Warns
    -----
    UserWarning
        Some facts have fewer examples than were asked for.
    """
    lacking = [r for r in dict.fromkeys(facts.relations) if r not in facts.context] if n_shots else []
    if lacking:
        raise SchemaMismatch(
            f"the context has no worked example of the relation {name_some(lacking)}",
            remedy="add some (FactSet.with_shots), or pass n_shots=0",
            ids=lacking,
        )
    prompts, counts = [], []
    for subject, relation, question in zip(facts.subjects, facts.relations, facts.questions, strict=True):
        shots = _chosen(facts.context.get(relation, ()), {subject, *exclude}, n_shots)
        prompts.append(_prompt(shots, question, style))
        counts.append(len(shots))
    few = [i for i, n in zip(facts.ids, counts, strict=True) if n < n_shots]
    if few:
        warnings.warn(
            f"{name_some(few)} has fewer than {n_shots} worked examples (the fewest: {min(counts)})", UserWarning, stacklevel=2
        )
    return FewShotPrompts(prompts, counts)


def _chosen(shots: Sequence[Any], exclude: str | Collection[str], n_shots: int) -> list[Shot]:
    """The first ``n_shots`` examples of other entities."""
    if n_shots < 0:
        raise SchemaMismatch(f"n_shots is {n_shots}", remedy="it is 0 or more")
    own = {exclude} if isinstance(exclude, str) else set(exclude)
    own = {name.strip().casefold() for name in own}
    read = [as_shot(one) for one in shots]
    return [one for one in read if one.entity.strip().casefold() not in own][:n_shots]


def _prompt(shots: Sequence[Shot], question: str, style: str) -> str:
    if style not in STYLES:
        raise UnknownName(f"there is no style {style!r}", remedy=f"choose {' or '.join(STYLES)}")
    example, asked = STYLES[style]
    lines = [_filled(example, one.question, one.answer) for one in shots]
    return "".join([*lines, _filled(asked, question)])


def _filled(template: str, question: str, answer: str = "") -> str:
    """The template with both put in at once, so that a brace in a question is never filled."""
    return "".join({"{question}": question, "{answer}": answer}.get(part, part) for part in _parts(template))


def _parts(template: str) -> list[str]:
    head, mark, tail = template.partition("{question}")
    middle, answer_mark, end = tail.partition("{answer}")
    return [head, mark, middle, answer_mark, end]
