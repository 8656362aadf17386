"""Which characters is a text made of? Code points of many texts in flat blocks, and their Unicode classes.

Classes are general categories of the Unicode Character Database (Unicode Standard, section 4.5), in the version of
the Python that runs.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from datumwise.errors import EmptyData, SchemaMismatch, name_some

__all__ = ["CATEGORY", "Block", "blocks", "checked_texts", "classes"]

BLOCK = 1 << 21  # code points held at a time (8 MiB as uint32)
CODE_POINTS = 0x110000
ASSIGNED = (range(0x34000), range(0xE0000, 0xE0200))  # where Unicode has characters; the rest is unassigned or private
SPACES = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85"  # control characters that `str.isspace` calls white space

# bits of the class of a code point
LETTER, DIGIT, UPPER, MARK, PUNCTUATION, SYMBOL, SPACE, UNDERSCORE = (1 << i for i in range(8))
CATEGORY = {
    "letter": LETTER,  # L*
    "digit": DIGIT,  # N*: digits and other numerals
    "upper": UPPER,  # Lu, Lt
    "mark": MARK,  # M*: accents, vowel signs
    "punctuation": PUNCTUATION,  # P*
    "symbol": SYMBOL,  # S*: currency, mathematics, emoji
    "space": SPACE,  # what `str.isspace` says
    "underscore": UNDERSCORE,
}
BITS = {"L": LETTER, "N": DIGIT, "M": MARK, "P": PUNCTUATION, "S": SYMBOL, "Z": SPACE, "C": 0}


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive texts as code points, a line feed behind each.

    Attributes
    ----------
    first, stop : int
        The texts are ``texts[first:stop]``.
    string : str
        The texts, joined.
    points : uint32 (c,)
        Its code points.
    starts : int64 (stop - first + 1,)
        Text ``first + i`` is ``points[starts[i] : starts[i + 1] - 1]``.
    """

    first: int
    stop: int
    string: str
    points: np.ndarray
    starts: np.ndarray


def blocks(texts: Sequence[str], *, lower: bool = False, size: int = BLOCK) -> Iterator[Block]:
    """The texts in blocks of about ``size`` code points; a longer text is a block of its own.

    Parameters
    ----------
    texts : sequence of str
    lower : bool
        Lower-cased (`str.lower`).
    size : int
        Code points.

    Yields
    ------
    Block
        Every text is in exactly one, in order.

    Examples
    --------
    >>> [(b.first, b.stop, b.string) for b in blocks(["Ab", "", "c"], lower=True)]
    [(0, 3, 'ab\\n\\nc\\n')]
    """
    lengths = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
    ends = np.cumsum(lengths)
    first = 0
    while first < len(texts):
        before = ends[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + size, side="right")))
        some = texts[first:stop]
        if lower:
            some = [text.lower() for text in some]
        string = "\n".join(some) + "\n"
        points = np.frombuffer(string.encode("utf-32-le", "surrogatepass"), np.uint32)
        starts = np.zeros(stop - first + 1, np.int64)
        np.cumsum(np.fromiter(map(len, some), np.int64, len(some)) + 1, out=starts[1:])
        yield Block(first, stop, string, points, starts)
        first = stop


@lru_cache(maxsize=1)
def classes() -> np.ndarray:
    """uint8 (1,114,112,): the class of every code point, a sum of bits of `CATEGORY`.

    Examples
    --------
    >>> [name for name, bit in CATEGORY.items() if classes()[ord("É")] & bit]
    ['letter', 'upper']
    """
    table = np.zeros(CODE_POINTS, np.uint8)
    for span in ASSIGNED:
        categories = [unicodedata.category(chr(point)) for point in span]
        bits = {name: BITS[name[0]] | (UPPER if name in ("Lu", "Lt") else 0) for name in set(categories)}
        table[span.start : span.stop] = [bits[name] for name in categories]
    table[[ord(character) for character in SPACES]] = SPACE
    table[ord("_")] |= UNDERSCORE
    table.flags.writeable = False
    return table


def checked_texts(texts: Sequence[str], name: str = "texts") -> list[str]:
    """``texts`` as a list of str, or a refusal that names the rows.

    Raises
    ------
    SchemaMismatch
        One string instead of a list, or rows that hold none.
    EmptyData
        No text.

    Examples
    --------
    >>> checked_texts(["a", None])
    Traceback (most recent call last):
    datumwise.errors.SchemaMismatch: texts has no string in row 1 (NoneType): drop or fill these rows
    """
    if isinstance(texts, (str, bytes)):
        raise SchemaMismatch(f"{name} must be a list of strings, not one string", remedy=f"[{name}] is a list of one")
    found = list(texts)
    if not found:
        raise EmptyData(f"{name} is empty")
    wrong = [row for row, text in enumerate(found) if not isinstance(text, str)]
    if wrong:
        raise SchemaMismatch(
            f"{name} has no string in row {name_some(wrong)} ({type(found[wrong[0]]).__name__})",
            remedy="drop or fill these rows",
            ids=wrong,
        )
    return found
