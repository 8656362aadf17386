"""How many words do two texts have in common, in order? The longest common subsequence, bit-parallel.

Hyyrö, 2004, *Bit-parallel LCS-length Computation Revisited*: one machine word a token and 64 tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

__all__ = ["places", "subsequence_length"]


def places(reference: Iterable[Hashable]) -> dict[Hashable, int]:
    """Where each token stands in the reference: bit p is set where it is token p."""
    found: dict[Hashable, int] = {}
    for place, token in enumerate(reference):
        found[token] = found.get(token, 0) | 1 << place
    return found


def subsequence_length(candidate: Iterable[Hashable], where: dict[Hashable, int], length: int) -> int:
    """Length of the longest common subsequence of a candidate and a reference.

    Parameters
    ----------
    candidate : tokens
    where : dict
        `places` of the reference.
    length : int
        Tokens of the reference.

    Examples
    --------
    >>> subsequence_length("the cat sat".split(), places("the fat cat".split()), 3)
    2
    """
    every = (1 << length) - 1
    row = every
    for token in candidate:
        match = row & where.get(token, 0)
        if match:
            row = ((row + match) | (row - match)) & every
    return length - row.bit_count()
