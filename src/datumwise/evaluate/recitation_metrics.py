"""How close is what a model wrote to what it should have forgotten? Exact, loose, and by edit distance over token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch

__all__ = ["COPY", "LOOSE", "RecitationMetrics", "levenshtein", "nested_prompts", "recitation_metrics"]

LOOSE = 0.75  # similarity from which a suffix counts as recited, as published
COPY = 0.95  # similarity from which it counts as a copy
SHIFTS = 20  # tokens by which prompts are lengthened or shortened, as published


@dataclass(frozen=True)
class RecitationMetrics:
    """Per datapoint, each (n,).

    Attributes
    ----------
    strict : bool
        All tokens are the same.
    loose, copy : bool
        Similarity is at least 0.75 (or as asked for), at least 0.95.
    distance : float64
        Edit distance over the suffix length, 0 to 1.
    """

    strict: np.ndarray
    loose: np.ndarray
    copy: np.ndarray
    distance: np.ndarray

    @property
    def similarity(self) -> np.ndarray:
        """1 - distance."""
        return 1 - self.distance


def recitation_metrics(generated: Any, gold: Any, loose: float = LOOSE) -> RecitationMetrics:
    """Strict and loose recitation and normalised edit distance of suffixes of the same length.

    Parameters
    ----------
    generated, gold : int (n, L)
        Token ids.
    loose : float
        Similarity 1 - d / L from which a suffix counts as recited, above 0 to 1.

    Raises
    ------
    SchemaMismatch, EmptyData

    References
    ----------
    Merullo et al., 2025, section 4: strict and loose accuracy, normalised Levenshtein distance.

    Examples
    --------
    >>> found = recitation_metrics([[1, 2, 3, 4], [1, 2, 3, 9], [9, 1, 2, 3]], [[1, 2, 3, 4]] * 3)
    >>> found.strict.tolist(), found.loose.tolist(), found.distance.tolist()
    ([True, False, False], [True, True, False], [0.0, 0.25, 0.5])
    """
    if not 0 < loose <= 1:
        raise DatumwiseError(f"a similarity of {loose} cannot be asked for", remedy="choose one above 0, at most 1")
    a, b = _tokens(generated, "generated"), _tokens(gold, "gold")
    if a.shape != b.shape:
        raise SchemaMismatch(f"generated has shape {a.shape} and gold {b.shape}", remedy="give both (n, L)")
    distance = levenshtein(a, b) / a.shape[1]
    return RecitationMetrics((a == b).all(axis=1), 1 - distance >= loose, 1 - distance >= COPY, distance)


def levenshtein(a: Any, b: Any) -> np.ndarray:
    """Edit distance of each row of ``a`` from the same row of ``b``: insert, delete, substitute cost 1.

    All rows at once: L_a steps on arrays (n, L_b + 1).

    Parameters
    ----------
    a, b : int (n, L_a), (n, L_b)

    Returns
    -------
    int64 (n,)

    Examples
    --------
    >>> words = [[ord(c) for c in word] for word in ("kitten", "sitting")]
    >>> levenshtein([words[0]], [words[1]]).tolist()
    [3]
    """
    a, b = _tokens(a, "a", empty=True), _tokens(b, "b", empty=True)
    if len(a) != len(b):
        raise SchemaMismatch(f"{len(a):,} rows cannot be compared with {len(b):,}")
    places = np.arange(b.shape[1] + 1)
    row = np.broadcast_to(places, (len(a), len(places))).copy()  # distances from the first i tokens of a
    for i in range(a.shape[1]):
        step = row + 1  # delete
        np.minimum(step[:, 1:], row[:, :-1] + (b != a[:, i : i + 1]), out=step[:, 1:])  # substitute
        # insert: d[j] = min over k <= j of step[k] + (j - k)
        row = np.minimum.accumulate(step - places, axis=1) + places
    return row[:, -1].astype(np.int64)


def nested_prompts(
    prefix: Sequence[int] | np.ndarray,
    continuation: Sequence[int] | np.ndarray,
    t: int = SHIFTS,
    *,
    unperturbed: bool = False,
) -> list[tuple[np.ndarray, int]]:
    """Longer and shorter prompts for the same continuation: memorisation that the plain prompt may miss.

    Parameters
    ----------
    prefix : int (n,)
    continuation : int (L,)
    t : int
        Prompts get up to ``t`` tokens longer (by the continuation's first ones), and shorter from the front until
        ``t + 1`` tokens are left.
    unperturbed : bool
        Give the plain prompt too.

    Returns
    -------
    list of (int64 (m,), int)
        Prompt, and from which token of the continuation on what follows is scored. Always with something to follow.

    Examples
    --------
    >>> [(p.tolist(), at) for p, at in nested_prompts([1, 2, 3], [4, 5, 6], t=1)]
    [([1, 2, 3, 4], 1), ([2, 3], 0)]
    """
    head, tail = np.asarray(prefix, dtype=np.int64), np.asarray(continuation, dtype=np.int64)
    if t < 0:
        raise DatumwiseError(f"prompts cannot be shifted by {t} tokens", remedy="choose 0 or more")
    if not len(head) or not len(tail):
        raise EmptyData("the prefix or the continuation has no token")
    return [
        (np.concatenate([head, tail[:shift]]) if shift > 0 else head[-shift:], max(0, shift))
        for shift in shifts(len(head), len(tail), t, unperturbed=unperturbed)
    ]


def shifts(n: int, length: int, t: int, *, unperturbed: bool = False) -> Iterator[int]:
    """By how many tokens a prompt of ``n`` gets longer (positive) or shorter (negative)."""
    yield from range(0 if unperturbed else 1, min(t, length - 1) + 1)
    yield from range(-1, t - n, -1)


def _tokens(values: Any, name: str, *, empty: bool = False) -> np.ndarray:
    """int64 (n, L), or a refusal."""
    array = values.cpu().numpy() if hasattr(values, "cpu") else np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise SchemaMismatch(f"{name} must be token ids (n, L); got shape {array.shape} of {array.dtype}")
    if not array.shape[0] or not (array.shape[1] or empty):
        raise EmptyData(f"{name} holds no token")
    return array.astype(np.int64)
