"""Does a written-out answer agree with the right one? Exact match after a trigger phrase, by number or by words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datumwise.errors import SchemaMismatch

__all__ = ["Matches", "exact_match", "number_in"]

TOLERANCE = 1e-9  # relative, of two numbers that agree
DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
NUMBER = rf"(?:[-+\u2212]\s?)?(?:[$€£¥]\s?)?[-+\u2212]?{DIGITS}"
FRACTION = re.compile(rf"(?P<top>{NUMBER})\s?(?:/\s?(?P<bottom>\d+(?:\.\d+)?))?\s?(?P<percent>%)?")


@dataclass(frozen=True)
class Matches:
    """Which answers are right, and in which one was found at all.

    Attributes
    ----------
    correct : bool (n,)
    found : bool (n,)
        Trigger and answer are there; what is not found is wrong.
    answers : tuple of n str
        What was read, empty where nothing was.
    """

    correct: np.ndarray
    found: np.ndarray
    answers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.correct.mean():.1%} of {len(self.correct):,} right; no answer found in {int((~self.found).sum()):,}"


def exact_match(
    texts: Sequence[str],
    golds: Sequence[str | float],
    trigger: str | None = "So the answer is",
    numeric: bool = True,
    stop: str | None = None,
) -> Matches:
    """Compare what follows the last trigger of each text with the right answer.

    Parameters
    ----------
    texts : sequence of n str
        As a model wrote them.
    golds : sequence of n str or numbers
    trigger : str or None
        Found whatever its case, last occurrence; None reads the whole text.
    numeric : bool, default True
        Compare numbers: the first one after the trigger, with sign, thousands separators and currency; a / b is divided,
        a percent sign and units are left out; equal to a relative 1e-9. Else words: lower case, without spaces around and
        without a final full stop.
    stop : str, optional
        The answer ends before it.

    Returns
    -------
    Matches

    Examples
    --------
    >>> found = exact_match(["… so the answer is -$1,200.", "So the answer is 3/4 cup", "no idea"], ["-1200", 0.75, 1])
    >>> found.correct.tolist(), found.found.tolist()
    ([True, True, False], [True, True, False])
    """
    if len(texts) != len(golds):
        raise SchemaMismatch(f"there are {len(texts):,} texts and {len(golds):,} right answers")
    correct, found, answers = [], [], []
    for text, gold in zip(texts, golds, strict=True):
        told = _after(text, trigger, stop)
        if numeric:
            number, wanted = None if told is None else number_in(told), number_in(str(gold))
            if wanted is None:
                raise SchemaMismatch(f"the right answer {gold!r} is no number", remedy="pass numeric=False")
            found.append(number is not None)
            correct.append(number is not None and abs(number - wanted) <= TOLERANCE * max(1.0, abs(wanted)))
            answers.append("" if number is None else f"{number:g}")
        else:
            word = "" if told is None else _plain(told)
            found.append(bool(word))
            correct.append(bool(word) and word == _plain(str(gold)))
            answers.append(word)
    return Matches(np.array(correct, dtype=bool), np.array(found, dtype=bool), tuple(answers))


def number_in(text: str) -> float | None:
    """The first number of a text, None without one.

    Examples
    --------
    >>> [number_in(t) for t in ("is 42 apples.", "−3", "$1,234.50", "3/4", "50%", "none", ".5", "1/0")]
    [42.0, -3.0, 1234.5, 0.75, 50.0, None, 0.5, None]
    """
    for match in FRACTION.finditer(text):
        value = float(re.sub(r"[^\d.]", "", match["top"])) * (-1 if re.search(r"[-\u2212]", match["top"]) else 1)
        if match["bottom"] is None:
            return value
        return value / float(match["bottom"]) if float(match["bottom"]) else None
    return None


def _after(text: str, trigger: str | None, stop: str | None) -> str | None:
    """What follows the last trigger, up to the stop; None without a trigger."""
    if trigger is not None:
        places = list(re.finditer(re.escape(trigger), text, flags=re.IGNORECASE))
        if not places:
            return None
        text = text[places[-1].end() :]
    return text.partition(stop)[0] if stop else text


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").strip().lower()
