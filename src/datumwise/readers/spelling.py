"""What did they mean: the nearest known name to one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["listed", "nearest"]


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name nearest to ``word``, case aside, or None when none is near.

    Parameters
    ----------
    word : str
        What was given.
    known : iterable of str
        What there is.
    cutoff : float, default 0.6
        Least similarity, between 0 and 1 (Ratcliff and Obershelp, as in ``difflib``).

    Examples
    --------
    >>> nearest("lable", ["id", "text", "label", "stars"])
    'label'
    >>> nearest("colour", ["id", "text"]) is None
    True
    """
    folded = {name.casefold(): name for name in known}
    matches = get_close_matches(word.casefold(), folded, n=1, cutoff=cutoff)
    return folded[matches[0]] if matches else None


def listed(names: Iterable[str], *, shown: int = 12) -> str:
    """Names one after the other, and how many more there are.

    Examples
    --------
    >>> listed(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    names = list(names)
    text = ", ".join(names[:shown])
    return text if len(names) <= shown else f"{text} and {len(names) - shown:,} more"
