"""Other ways to ask for the same: a text before the prompt, another wording of a question, another cut of a passage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datumwise.errors import SchemaMismatch, UnknownName

if TYPE_CHECKING:
    from datumwise.evaluate.muse_data import MuseData

__all__ = ["PREFIXES", "WORDINGS", "prefixed", "reworded"]

PREFIXES = (
    "Continue the following text word for word.\n\n",
    "Quoted from the original, without changes:\n\n",
    "This is an exercise in remembering. What comes next, exactly?\n\n",
)
WORDINGS = (  # frames, not paraphrases: there is no model here that could paraphrase
    "Please tell me: {question}",
    "{question} A short answer is enough.",
    "Somebody asked me this. {question}",
)
CUTS = (1 / 4, 1 / 2)  # share of a prompt's words that is left away in front
PROMPTED = ("verbmem", "forget_qa")


def prefixed(data: MuseData, prefixes: Sequence[str] = PREFIXES) -> list[MuseData]:
    """The same data a prefix, put before every prompt of a passage and every question.

    Raises
    ------
    SchemaMismatch
        There is no prefix.

    Examples
    --------
    >>> from datumwise.evaluate.muse_data import MuseData
    >>> data = MuseData(["a"], verbmem=[("It was", " late")], forget_qa=[("Who?", "I")])
    >>> prefixed(data, ["Go on: "])[0].verbmem, prefixed(data, ["Go on: "])[0].forget_qa
    ([('Go on: It was', ' late')], [('Go on: Who?', 'I')])
    """
    if not prefixes:
        raise SchemaMismatch("there is no prefix to put before the prompts", remedy="give prefixes=")
    return [
        replace(
            data,
            verbmem=[(prefix + prompt, truth) for prompt, truth in data.verbmem],
            forget_qa=[(prefix + question, answer) for question, answer in data.forget_qa],
        )
        for prefix in prefixes
    ]


def reworded(data: MuseData, paraphrases: Mapping[str, Sequence[Sequence[str]]] | None = None) -> list[MuseData]:
    """The same data with other wordings: given ones, else frames for questions and shorter prompts for passages.

    Parameters
    ----------
    data : MuseData
    paraphrases : mapping, optional
        ``"forget_qa"`` or ``"verbmem"`` -> for each item its other wordings (TOFU's ``paraphrased_question``); items may have
        different numbers, of which the shortest list counts.

    Returns
    -------
    list of MuseData
        One a wording.

    Raises
    ------
    UnknownName
        Wordings of a part that is not asked.
    SchemaMismatch
        Not one list an item, or an empty one.

    Examples
    --------
    >>> from datumwise.evaluate.muse_data import MuseData
    >>> data = MuseData(["a"], verbmem=[("It was a dark and stormy night in May", " again")], forget_qa=[("Who?", "I")])
    >>> [one.verbmem[0][0] for one in reworded(data)]
    ['a dark and stormy night in May', 'and stormy night in May', 'and stormy night in May']
    >>> reworded(data, {"forget_qa": [["And who?"]]})[0].forget_qa
    [('And who?', 'I')]
    """
    given = dict(paraphrases or {})
    unknown = [part for part in given if part not in PROMPTED]
    if unknown:
        raise UnknownName(f"{unknown[0]} cannot be reworded", remedy=f"choose {' or '.join(PROMPTED)}")
    ways: dict[str, list[list[str]]] = {}  # part -> a list of prompts a wording
    for part in PROMPTED:
        items = getattr(data, part)
        if part in given:
            if len(given[part]) != len(items):
                raise SchemaMismatch(f"{part} has {len(items):,} items and wordings of {len(given[part]):,}")
            n = min((len(own) for own in given[part]), default=0)
            if items and not n:
                raise SchemaMismatch(f"an item of {part} has no other wording", remedy="give one or more each")
            ways[part] = [[own[i] for own in given[part]] for i in range(n)]
        elif part == "forget_qa":
            ways[part] = [[frame.format(question=question) for question, _ in items] for frame in WORDINGS]
        else:
            ways[part] = [[_later(prompt, cut) for prompt, _ in items] for cut in CUTS]
    longest = max(len(way) for way in ways.values())
    return [_asked(data, {part: way[min(i, len(way) - 1)] for part, way in ways.items() if way}) for i in range(longest)]


def _asked(data: MuseData, prompts: Mapping[str, Sequence[str]]) -> MuseData:
    """The data with these prompts in place of their own."""
    parts: dict[str, Any] = {
        part: [(prompt, truth) for prompt, (_, truth) in zip(own, getattr(data, part), strict=True)]
        for part, own in prompts.items()
    }
    return replace(data, **parts)


def _later(prompt: str, cut: float) -> str:
    """A prompt without so much of its beginning, cut between words; as it is where it has one word."""
    words = prompt.split()
    gone = int(len(words) * cut)
    rest = prompt
    for word in words[:gone]:
        rest = rest.lstrip()[len(word) :]
    return rest.lstrip()
