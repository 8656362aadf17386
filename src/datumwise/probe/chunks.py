"""How is one long text cut into pieces that a model can read, without losing or inventing a token?

Shi et al., 2024 (MUSE) cut running text into pieces of equal length; the last, shorter one is kept here as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName

__all__ = ["chunk_tokens", "document_means"]


def chunk_tokens(
    ids: Sequence[int], max_length: int, bos: int | None = None, *, tail: Literal["mask", "wrap"] = "mask"
) -> list[list[int]]:
    """Token ids cut into pieces of at most ``max_length``, each behind the begin token where there is one.

    Cutting token ids, not text, loses nothing: decoding and encoding again would not give the same tokens.

    Parameters
    ----------
    ids : sequence of int
        Of the whole text, without special tokens.
    max_length : int
        Tokens of a piece, the begin token among them.
    bos : int, optional
        Put in front of every piece.
    tail : {"mask", "wrap"}
        What becomes of the last piece when it is short: ``"mask"`` keeps it short, to be padded and masked; ``"wrap"`` fills it
        with the start of the first piece, its begin token included, as the published code of MUSE does.

    Returns
    -------
    list of list of int
        None is empty: a length that divides exactly leaves no empty last piece, and no text gives no piece.

    Raises
    ------
    DatumwiseError
        A piece would hold no token of the text.
    UnknownName
        ``tail`` is neither.

    Examples
    --------
    >>> chunk_tokens([1, 2, 3, 4, 5], 3, bos=0)
    [[0, 1, 2], [0, 3, 4], [0, 5]]
    >>> chunk_tokens([1, 2, 3, 4, 5], 3, bos=0, tail="wrap")
    [[0, 1, 2], [0, 3, 4], [0, 5, 0]]
    >>> chunk_tokens([1, 2, 3, 4], 2)
    [[1, 2], [3, 4]]
    """
    if tail not in ("mask", "wrap"):
        raise UnknownName(f"there is no tail {tail!r}", remedy="choose mask or wrap")
    head = [] if bos is None else [int(bos)]
    room = max_length - len(head)
    if room < 1:
        raise DatumwiseError(f"max_length is {max_length}", remedy=f"it must be {len(head) + 1} or more")
    tokens = [int(i) for i in ids]
    pieces = [head + tokens[start : start + room] for start in range(0, len(tokens), room)]
    if tail == "wrap" and pieces and len(pieces[-1]) < max_length:
        source = pieces[0]  # shorter than max_length only where it is the last piece itself: then it repeats
        lacking = max_length - len(pieces[-1])
        pieces[-1] = pieces[-1] + [source[i % len(source)] for i in range(lacking)]
    return pieces


def document_means(values: Sequence[float], n_tokens: Sequence[int], documents: Sequence[str]) -> dict[str, float]:
    """What was measured of pieces, as one value a document: the mean over its pieces, weighted by their tokens.

    Parameters
    ----------
    values : sequence of float, (n,)
        Means over the tokens of each piece.
    n_tokens : sequence of int, (n,)
        Tokens that each mean is over; a piece with none counts for nothing.
    documents : sequence of str, (n,)
        Which document each piece is of.

    Returns
    -------
    dict
        document -> mean, in order of appearance; nan for a document without tokens.

    Raises
    ------
    SchemaMismatch
        The three differ in number.

    Examples
    --------
    >>> document_means([2.0, 5.0, 1.0], [3, 1, 4], ["a", "a", "b"])
    {'a': 2.75, 'b': 1.0}
    """
    if not len(values) == len(n_tokens) == len(documents):
        raise SchemaMismatch(
            f"values, tokens and documents differ in number ({len(values):,}, {len(n_tokens):,} and {len(documents):,})"
        )
    names = list(dict.fromkeys(documents))
    place = {name: i for i, name in enumerate(names)}
    rows = np.array([place[name] for name in documents], dtype=np.int64)
    weights = np.asarray(n_tokens, dtype=np.float64)
    measured = np.where(weights > 0, np.asarray(values, dtype=np.float64), 0.0)
    total = np.bincount(rows, weights, minlength=len(names))
    summed = np.bincount(rows, weights * measured, minlength=len(names))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = summed / total
    return dict(zip(names, means.tolist(), strict=True))
