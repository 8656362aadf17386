"""Which rows are similar, of those that share a key? The verified half of locality-sensitive hashing.

Every band of a MinHash signature and every block of a SimHash is a key: rows with the same key are candidates,
and each candidate pair is measured once (Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets*, section 3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from datumwise.select.groups import Similarity, connected

__all__ = ["ranges", "similar_rows"]

BUCKET = 32  # rows of one key of which all pairs are measured; of more, as many as connect them
PAIRS = 1 << 18  # measured at a time


def similar_rows(
    keys: Iterable[tuple[np.ndarray, np.ndarray]],
    n: int,
    similarity: Similarity,
    threshold: float,
    *,
    progress: Callable[[int, int], None] | None = None,
    bands: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows that share a key and are similar.

    Parameters
    ----------
    keys : iterable of (rows int64 (m,), key uint64 (m,))
        One a band. Rows that are not named share nothing.
    n : int
        Rows there are.
    similarity : callable
        ``similarity(rows, other_rows)`` -> float64, symmetric.
    threshold : float
        Pairs at least so similar are found.
    progress : callable, optional
        Told (bands done, ``bands``).

    Returns
    -------
    pairs : int64 (p, 2)
        i < j, ascending. All that share a key, save for keys of more than 32 rows: there, enough pairs to connect
        what all pairs would connect.
    similarity : float64 (p,)

    Notes
    -----
    In a bucket of more than 32 rows, members are found breadth first: each newly found member is compared with
    those not found yet, so a bucket of g near copies costs about g comparisons and never more than g^2 / 2.
    """
    seen = np.empty(0, np.int64)  # i * n + j of what was measured, ascending
    found, values = [np.empty(0, np.int64)], [np.empty(0)]
    for done, (rows, key) in enumerate(keys, start=1):
        order = np.lexsort((rows, key))
        rows, key = rows[order], key[order]
        starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else np.empty(0, np.int64)
        sizes = np.diff(np.append(starts, len(key)))
        small = (sizes > 1) & (sizes <= BUCKET)
        new = np.setdiff1d(_all_pairs(rows, starts[small], sizes[small], n), seen, assume_unique=False)
        measured = _measured(new, n, similarity)
        seen = _merged(seen, new)
        found.append(new[measured >= threshold])
        values.append(measured[measured >= threshold])
        big = sizes > BUCKET
        if big.any():
            labels = connected(n, _split(np.concatenate(found), n))
            for start, size in zip(starts[big], sizes[big], strict=True):
                pairs, measured = _connecting(rows[start : start + size], labels, n, similarity, threshold)
                found.append(pairs)
                values.append(measured)
        if progress is not None:
            progress(done, max(bands, done))
    together, first = np.unique(np.concatenate(found), return_index=True)
    return _split(together, n), np.concatenate(values)[first]


def _all_pairs(rows: np.ndarray, starts: np.ndarray, sizes: np.ndarray, n: int) -> np.ndarray:
    """int64, ascending, each once: i * n + j of all pairs i < j within the runs of ``rows``; rows of a run ascend."""
    pairs = [np.empty(0, np.int64)]
    for step in range(1, int(sizes.max(initial=1))):
        reach = sizes > step
        left = ranges(starts[reach], sizes[reach] - step)[0]
        pairs.append(rows[left] * n + rows[left + step])
    return np.unique(np.concatenate(pairs))


def ranges(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """start, start + 1, ... for each start, ``length`` of them, one after the other; and which start each is of.

    Examples
    --------
    >>> [array.tolist() for array in ranges(np.array([5, 0]), np.array([2, 3]))]
    [[5, 6, 0, 1, 2], [0, 0, 1, 1, 1]]
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + lengths, lengths), np.repeat(np.arange(len(lengths)), lengths)


def _measured(codes: np.ndarray, n: int, similarity: Similarity) -> np.ndarray:
    values = np.empty(len(codes))
    for start in range(0, len(codes), PAIRS):
        some = codes[start : start + PAIRS]
        values[start : start + PAIRS] = similarity(some // n, some % n)
    return values


def _merged(sorted_codes: np.ndarray, more: np.ndarray) -> np.ndarray:
    together = np.concatenate([sorted_codes, more])
    together.sort(kind="stable")  # two runs: one merge
    return together


def _split(codes: np.ndarray, n: int) -> np.ndarray:
    return np.column_stack([codes // n, codes % n])


def _connecting(
    rows: np.ndarray, labels: np.ndarray, n: int, similarity: Similarity, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that connect what is similar in one bucket; what ``labels`` connects already is not measured again."""
    codes: list[np.ndarray] = []
    values: list[np.ndarray] = []
    rest = rows
    while len(rest) > 1:
        frontier, rest = [int(rest[0])], rest[1:]
        while frontier and len(rest):
            row = frontier.pop()
            known = (labels[rest] == labels[row]) & (labels[row] >= 0)
            if known.any():
                frontier.extend(rest[known].tolist())
                rest = rest[~known]
                if not len(rest):
                    break
            measured = similarity(np.full(len(rest), row), rest)
            near = measured >= threshold
            others = rest[near]
            codes.append(np.minimum(row, others) * n + np.maximum(row, others))
            values.append(measured[near])
            frontier.extend(others.tolist())
            rest = rest[~near]
    empty = [np.empty(0, np.int64)], [np.empty(0)]
    return np.concatenate(codes or empty[0]), np.concatenate(values or empty[1])
