"""Which datapoints are copies of one another, to the byte or but for case, punctuation and spaces?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch, name_some
from datumwise.select.groups import Groups, Keep, group_pairs

__all__ = ["exact", "normalised"]

PUNCTUATION = re.compile(r"[^\w\s]+|_+")


def exact(
    values: Sequence[str] | Sequence[bytes] | np.ndarray,
    *,
    normalise: bool = False,
    keep: Keep = "first",
    ids: Sequence[Any] | None = None,
) -> Groups:
    """Group equal texts, equal bytes, or equal rows of an array.

    Parameters
    ----------
    values : list of str, list of bytes, or array (n, ...)
        Rows of an array are equal if their bytes are: NaN equals the same NaN, 0.0 does not equal -0.0.
    normalise : bool, default False
        Compare texts by `normalised`: case, punctuation, kinds of space and compatible characters do not count.
    keep : "first", "longest" or float array, default "first"
        Which copy is kept; the longest before it is normalised.
    ids : sequence, optional
        Names of the datapoints.

    Returns
    -------
    Groups
        ``pairs`` has each copy with the first of its group, at similarity 1.

    Raises
    ------
    DatumwiseError
        No value, rows that are neither text nor bytes (they are named), ids that repeat.

    Examples
    --------
    >>> exact(["Yes.", "no", "yes", "Yes."]).kept_by.tolist()
    [0, 1, 2, 0]
    >>> exact(["Yes.", "no", "yes", "Yes."], normalise=True).kept_by.tolist()
    [0, 1, 0, 0]
    """
    items, lengths = _items(values, normalise)
    first: dict[Any, int] = {}
    of = np.fromiter((first.setdefault(item, row) for row, item in enumerate(items)), np.int64, len(items))
    copies = np.flatnonzero(of != np.arange(len(of)))
    pairs = np.column_stack([of[copies], copies])
    rule = "equal but for case, punctuation and spaces" if normalise else "equal"
    one = np.ones(len(copies))
    return group_pairs(
        len(of), pairs, one, rule=rule, keep=keep, lengths=lengths, ids=ids, between=lambda rows, _: np.ones(len(rows))
    )


def normalised(text: str) -> str:
    """A text without what copying often changes: compatible characters unified (NFKC), case folded, punctuation
    dropped, runs of white space one space.

    Examples
    --------
    >>> normalised("  The ﬁrst:\\n“Yes”!")
    'the first yes'
    """
    return " ".join(PUNCTUATION.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())


def _items(values: Any, normalise: bool) -> tuple[list[Any], np.ndarray]:
    if isinstance(values, np.ndarray) and values.dtype != object and values.dtype.kind not in "US":
        if normalise:
            raise SchemaMismatch("only texts can be normalised", remedy="leave normalise out")
        if values.ndim == 0 or not len(values):
            raise EmptyData("there is no value to compare")
        rows = np.ascontiguousarray(values).reshape(len(values), -1)
        return [row.tobytes() for row in rows], np.full(len(rows), rows.shape[1])
    if isinstance(values, str | bytes):
        raise SchemaMismatch("values must be a list of texts or of bytes")
    items = list(values)
    if not items:
        raise EmptyData("there is no value to compare")
    kind: type = bytes if isinstance(items[0], bytes) and not normalise else str
    bad = [row for row, item in enumerate(items) if not isinstance(item, kind)]
    if bad:
        what = "bytes" if kind is bytes else "text"
        raise SchemaMismatch(f"row {name_some(bad)} holds no {what}", remedy="drop or fill these rows", ids=bad)
    lengths = np.fromiter(map(len, items), np.int64, len(items))
    if not isinstance(normalise, bool):
        raise DatumwiseError(f"normalise is {normalise!r}", remedy="say True or False")
    return ([normalised(item) for item in items] if normalise else items), lengths
