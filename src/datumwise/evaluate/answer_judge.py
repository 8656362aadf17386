"""Does what a model wrote count as this answer? By names on word borders, among all objects known for the relation.

RESTOR asks GPT-3.5 (Rezaei et al., 2024). This judge needs no other model: it compares the output with every object that
could be meant, so that "Equatorial Guinea" is never taken for "Guinea".
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from datumwise.errors import UnknownName

__all__ = ["F1_FLOOR", "NEGATIONS", "Judgement", "find_answer", "judge_answer", "judge_by_name", "normalised_words"]

Judge = Callable[[str, str, Sequence[str]], bool]  # question, output, acceptable answers

F1_FLOOR = 0.6  # least token-F1 of an output that names no object on word borders
WINDOW = 3  # words before a name in which a negation denies it
NEGATIONS = frozenset({"not", "no", "never", "neither", "nor", "isnt", "arent", "wasnt", "cannot"})
CONTRAST = "but"  # ends a negation: "not Lyon but Paris"
ARTICLES = frozenset({"a", "an", "the"})
# letters that do not come apart into a letter and an accent
LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe", "þ": "th", "ı": "i"})
JOINED = str.maketrans("", "", "'’‘`´ʼʹ′")
WORD = re.compile(r"(?<![\w,.])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\w,])|(?<!\w)-?\d+(?:\.\d+)*(?!\w)|\w+")


@dataclass(frozen=True)
class Judgement:
    """Which object an output names.

    Attributes
    ----------
    answer : str or None
        The object as it was given; None where the output names none.
    how : {"named", "similar", "denied", "none", "empty"}
        Named on word borders; by token-F1; only with a negation; not at all; nothing written.
    score : float
        1 for a name, else the token-F1, 0 to 1.
    """

    answer: str | None
    how: str
    score: float


def judge_answer(output: str, answers: Sequence[str], known: Iterable[str] = ()) -> bool:
    """Whether an output gives one of the acceptable answers.

    Both sides are normalised (`normalised_words`). Names are looked for on word borders, the longest winning where they
    overlap; a name with a negation among the three words before it does not count; the earliest name that counts is the
    answer. An output without any name or negation is the object of highest token-F1, if that is 0.6 or more and no other
    object ties.

    Parameters
    ----------
    output : str
    answers : sequence of str
        Acceptable objects.
    known : iterable of str
        Every object known for the relation: what else could be meant.

    Returns
    -------
    bool

    Examples
    --------
    >>> judge_answer("It is Paris.", ["Paris"], known=["London", "Paris"])
    True
    >>> judge_answer("London, not Paris", ["Paris"], known=["London", "Paris"])
    False
    >>> judge_answer("Equatorial Guinea", ["Guinea"], known=["Guinea", "Equatorial Guinea"])
    False
    """
    accepted = {normalised_words(a) for a in answers}
    found = find_answer(output, [*answers, *known])
    return found.answer is not None and normalised_words(found.answer) in accepted


def find_answer(output: str, objects: Iterable[str]) -> Judgement:
    """Which of the objects an output names; see `judge_answer`. Independent of the objects' order.

    Examples
    --------
    >>> find_answer("not Paris but Lyon", ["Lyon", "Paris"])
    Judgement(answer='Lyon', how='named', score=1.0)
    >>> find_answer("University Oxford", ["University of Oxford", "University of Cambridge"])
    Judgement(answer='University of Oxford', how='similar', score=0.8)
    """
    words = normalised_words(output)
    if not words:
        return Judgement(None, "empty", 0.0)
    names: dict[tuple[str, ...], str] = {}
    for one in sorted(objects):
        names.setdefault(normalised_words(one), one)
    names.pop((), None)
    places = _places(words, names)
    before = 0
    for start, end in places:
        window = words[max(before, start - WINDOW) : start]
        if CONTRAST in window:
            window = window[len(window) - 1 - window[::-1].index(CONTRAST) :]
        if not NEGATIONS.intersection(window):
            return Judgement(names[words[start:end]], "named", 1.0)
        before = end
    if places or NEGATIONS.intersection(words):
        return Judgement(None, "denied" if places else "none", 0.0)
    scores = sorted(((_token_f1(words, name), one) for name, one in names.items()), reverse=True)
    if not scores or scores[0][0] < F1_FLOOR or (len(scores) > 1 and scores[1][0] == scores[0][0]):
        return Judgement(None, "none", scores[0][0] if scores else 0.0)
    return Judgement(scores[0][1], "similar", scores[0][0])


@lru_cache(maxsize=65_536)
def normalised_words(text: str) -> tuple[str, ...]:
    """The words of a text as they are compared.

    NFKC and casefold; accents off; apostrophes and full stops removed; other punctuation separates; articles dropped unless
    nothing else remains. Numbers keep their sign and decimal point and lose the commas between thousands.

    Examples
    --------
    >>> normalised_words("The U.S.A.'s “São Tomé–Príncipe”")
    ('usas', 'sao', 'tome', 'principe')
    >>> normalised_words("1,250.5 or -3"), normalised_words("The")
    (('1250.5', 'or', '-3'), ('the',))
    """
    plain = unicodedata.normalize("NFKC", text).casefold().translate(LETTERS)
    plain = "".join(c for c in unicodedata.normalize("NFD", plain) if not unicodedata.combining(c)).translate(JOINED)
    plain = re.sub(r"(?<!\d)\.|\.(?!\d)", "", plain).replace("_", " ")
    words = tuple(word.replace(",", "") if word[-1].isdigit() else word for word in WORD.findall(plain))
    kept = tuple(word for word in words if word not in ARTICLES)
    return kept or words


def judge_by_name(name: str | Judge) -> tuple[str, Judge | None]:
    """A judge's name, and the function where it is the user's own (None: `judge_answer`).

    Raises
    ------
    UnknownName
    """
    if callable(name):
        return getattr(name, "__qualname__", type(name).__name__), name
    if name != "normalized":
        raise UnknownName(f"there is no judge {name!r}", remedy="choose 'normalized', or pass judge(question, output, answers)")
    return name, None


def _places(words: tuple[str, ...], names: Iterable[tuple[str, ...]]) -> list[tuple[int, int]]:
    """Where names stand in the words, (start, end) in order; of overlapping ones the longest, then the earliest."""
    wanted = set(names)
    lengths = sorted({len(name) for name in wanted}, reverse=True)
    taken = [False] * len(words)
    found = []
    for length in lengths:
        for start in range(len(words) - length + 1):
            end = start + length
            if words[start:end] in wanted and not any(taken[start:end]):
                taken[start:end] = [True] * length
                found.append((start, end))
    return sorted(found)


def _token_f1(one: Sequence[str], other: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over words, each as often as it occurs on both sides."""
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))
