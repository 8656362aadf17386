"""Which texts repeat long passages of others, and which passages?

A passage is repeated if all its windows of ``min_tokens`` tokens are: windows are compared for all texts at once by
hashes of doubled length, O(N log min_tokens), and equal hashes token by token (the passages are those of the
suffix array of Lee et al., "Deduplicating training data makes language models better", 2022, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.words import Corpus
from datumwise.select.groups import Groups, Keep, group_pairs, named, share
from datumwise.select.shared_keys import ranges
from datumwise.select.shingles import Texts, as_corpus, mixed

__all__ = ["Repeats", "repeated_substrings", "substring"]

FEW = 16  # texts with the same window of which all pairs are measured; of more, each with the first and the one before
WINDOWS = 1 << 16  # windows whose tokens are compared at a time
SHOWN = 10


@dataclass(frozen=True)
class Repeats:
    """Passages that stand elsewhere too, in an earlier text or earlier in the same one.

    Attributes
    ----------
    row : int64 (s,)
        Text of each passage, ascending.
    start, stop : int64 (s,)
        Its tokens, from ``start`` to before ``stop``: at least ``min_tokens`` of them.
    of_row, of_start : int64 (s,)
        Where its first ``min_tokens`` tokens stand first.
    covered : float64 (n,)
        Share of each text's tokens in such passages: what cutting them out would remove. 0 for an empty text.
    min_tokens : int
    ids : array (n,)
    """

    row: np.ndarray = field(repr=False)
    start: np.ndarray = field(repr=False)
    stop: np.ndarray = field(repr=False)
    of_row: np.ndarray = field(repr=False)
    of_start: np.ndarray = field(repr=False)
    covered: np.ndarray = field(repr=False)
    min_tokens: int
    ids: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.row)

    def __str__(self) -> str:
        texts = f"{len(np.unique(self.row)):,} of {len(self.ids):,} texts"
        noun = "passage" if len(self) == 1 else "passages"
        head = f"{len(self):,} repeated {noun} of {self.min_tokens} tokens or more, in {texts}"
        if not len(self):
            return head
        lines = [("tokens", "in", "from", "stands first in", "from")]
        for s in np.argsort(self.start - self.stop, kind="stable")[:SHOWN]:
            mine, first = self.ids[self.row[s]], self.ids[self.of_row[s]]
            size = self.stop[s] - self.start[s]
            lines.append((f"{size:,}", str(mine), f"{self.start[s]:,}", str(first), f"{self.of_start[s]:,}"))
        a, b, c, d, e = (max(len(line[i]) for line in lines) for i in range(5))
        table = [f"{v:>{a}}  {w:<{b}}  {x:>{c}}  {y:<{d}}  {z:>{e}}" for v, w, x, y, z in lines]
        return "\n".join([head, *table])


def repeated_substrings(texts: Texts, min_tokens: int = 50, *, ids: Sequence[Any] | None = None) -> Repeats:
    """Passages of ``min_tokens`` tokens or more that stand in an earlier text too, or earlier in the same.

    Parameters
    ----------
    texts : list of str, list of lists of tokens, or Corpus
    min_tokens : int, default 50
        Lee et al. chose 50 tokens of their subword vocabulary; here tokens are words.
    ids : sequence, optional
        Names of the texts.

    Returns
    -------
    Repeats

    Examples
    --------
    >>> found = repeated_substrings(["x a b c d y", "p a b c d q", "a b c"], min_tokens=3)
    >>> list(zip(found.row.tolist(), found.start.tolist(), found.stop.tolist(), found.of_row.tolist()))
    [(1, 1, 5, 0), (2, 0, 3, 0)]
    >>> found.covered.round(2).tolist()
    [0.0, 0.67, 1.0]
    """
    corpus = as_corpus(texts)
    names = named(ids, len(corpus))
    windows = _Windows.of(corpus, min_tokens)
    copies = windows.at[windows.first != windows.at]
    first = windows.first[windows.first != windows.at]
    inside = _covered(len(corpus.codes), copies, min_tokens)
    lengths = np.diff(corpus.offsets)
    # passages of neighbouring texts touch, and must not run into one another
    begins = np.zeros(len(inside) + 1, bool)
    begins[corpus.offsets] = True
    edge = np.flatnonzero(inside & (begins[:-1] | ~np.concatenate([[False], inside[:-1]])))
    ends = np.flatnonzero(inside & (begins[1:] | ~np.concatenate([inside[1:], [False]]))) + 1
    rows = np.searchsorted(corpus.offsets, edge, side="right") - 1
    source = first[np.searchsorted(copies, edge)]  # a passage begins with a window
    of_rows = np.searchsorted(corpus.offsets, source, side="right") - 1
    held = np.bincount(rows, weights=ends - edge, minlength=len(corpus))
    covered = np.divide(held, lengths, out=np.zeros(len(corpus)), where=lengths > 0)
    return Repeats(
        rows,
        edge - corpus.offsets[rows],
        ends - corpus.offsets[rows],
        of_rows,
        source - corpus.offsets[of_rows],
        covered,
        min_tokens,
        names,
    )


def substring(
    texts: Texts,
    threshold: float = 0.8,
    min_tokens: int = 50,
    *,
    keep: Keep = "longest",
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Groups:
    """Group texts of which one mostly consists of passages of the other.

    Parameters
    ----------
    texts : list of str, list of lists of tokens, or Corpus
    threshold : float in (0, 1], default 0.8
        Containment: the larger of the shares of the two texts' tokens that lie in passages they have in common.
    min_tokens : int, default 50
        Shortest passage that counts.
    keep : "first", "longest" or float array, default "longest"
        Which of a group is kept: the longest contains the others.
    ids : sequence, optional
        Names of the datapoints.
    progress : callable, optional
        Told (pairs of texts measured, pairs).

    Returns
    -------
    Groups
        ``similarity`` is the containment. Of a window that stands in more than 16 texts, each is measured
        against the first text and the one before it.

    Examples
    --------
    >>> substring(["x a b c d y", "a b c d", "a b z c d"], min_tokens=3).kept_by.tolist()
    [0, 0, 2]
    """
    threshold = share(threshold, "threshold")
    corpus = as_corpus(texts)
    windows = _Windows.of(corpus, min_tokens)
    rows = np.searchsorted(corpus.offsets, windows.at, side="right") - 1
    pairs = _candidates(windows.first, rows, len(corpus))
    values = windows.containment(corpus, progress)(pairs[:, 0], pairs[:, 1])
    near = values >= threshold
    rule = f"at least {threshold:g} of one in passages of {min_tokens} tokens or more of the other"
    lengths = np.diff(corpus.offsets)
    between = windows.containment(corpus)
    return group_pairs(len(corpus), pairs[near], values[near], rule=rule, keep=keep, lengths=lengths, ids=ids, between=between)


@dataclass(frozen=True)
class _Windows:
    """Windows that stand more than once."""

    at: np.ndarray  # int64 (m,) place among all tokens, ascending
    first: np.ndarray  # int64 (m,) first place of an equal window, <= at
    size: int

    @classmethod
    def of(cls, corpus: Corpus, size: int) -> _Windows:
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise DatumwiseError(f"min_tokens is {size!r}", remedy="give a whole number of 1 or more")
        codes = corpus.codes
        if len(codes) < size:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), size)
        hashes = _window_hashes(codes, size)
        lengths = np.diff(corpus.offsets)
        left = np.repeat(corpus.offsets[1:], lengths) - np.arange(len(codes))
        at = np.flatnonzero(left[: len(hashes)] >= size)
        hashes = hashes[at]
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        new = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, bool)
        run = np.cumsum(new) - 1
        starts = np.flatnonzero(new)
        repeated = np.diff(np.append(starts, len(ordered)))[run] > 1
        first = at[order[starts]][run]
        at, first = at[order][repeated], first[repeated]
        same = _equal(codes, at, first, size)  # two hashes of 64 bits may be equal by chance
        at, first = at[same], first[same]
        back = np.argsort(at)
        return cls(at[back], first[back], size)

    def containment(
        self, corpus: Corpus, progress: Callable[[int, int], None] | None = None
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """A function of two arrays of rows: larger of the shares of the two texts' tokens in windows they share."""
        lengths = np.diff(corpus.offsets)
        bounds = np.searchsorted(self.at, corpus.offsets)  # windows of each text
        counts = np.diff(bounds)

        def share_of(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
            mine, pair = ranges(bounds[rows], counts[rows])
            theirs, their_pair = ranges(bounds[others], counts[others])
            n = len(corpus.codes)
            common = np.isin(pair * n + self.first[mine], their_pair * n + self.first[theirs])
            at, pair = self.at[mine[common]], pair[common]
            # windows that overlap cover a token once: each reaches to the next, and no farther than its end
            reach = np.minimum(np.diff(at, append=0), self.size)
            reach[np.concatenate([pair[1:] != pair[:-1], [True]]) if len(pair) else slice(0)] = self.size
            covered = np.bincount(pair, weights=reach, minlength=len(rows))
            return np.divide(covered, lengths[rows], out=np.zeros(len(rows)), where=lengths[rows] > 0)

        def measured(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
            found = np.empty(len(rows))
            work = np.cumsum(counts[rows] + counts[others]) // WINDOWS
            cuts = np.append(np.flatnonzero(np.diff(work, prepend=-1)), len(rows))
            for start, stop in pairwise(cuts):
                i, j = rows[start:stop], others[start:stop]
                found[start:stop] = np.maximum(share_of(i, j), share_of(j, i))
                if progress is not None:
                    progress(int(stop), len(rows))
            return found

        return measured


def _window_hashes(codes: np.ndarray, size: int) -> np.ndarray:
    """uint64 (N - size + 1,): hash of every run of ``size`` tokens; that of 2m tokens from two of m."""
    hashes, length = mixed(codes.astype(np.uint64) + np.uint64(1)), 1
    while length < size:
        shift = min(length, size - length)  # the last step overlaps
        hashes = mixed(hashes[:-shift] * np.uint64(0x9E3779B97F4A7C15) + hashes[shift:])
        length += shift
    return hashes


def _equal(codes: np.ndarray, at: np.ndarray, first: np.ndarray, size: int) -> np.ndarray:
    found = np.empty(len(at), bool)
    windows = np.lib.stride_tricks.sliding_window_view(codes, size)
    for start in range(0, len(at), WINDOWS):
        span = slice(start, start + WINDOWS)
        found[span] = (windows[at[span]] == windows[first[span]]).all(axis=1)
    return found


def _covered(n: int, at: np.ndarray, size: int) -> np.ndarray:
    """bool (n,): whether a token lies in one of the windows."""
    change = np.zeros(n + 1, np.int64)
    np.add.at(change, at, 1)
    np.add.at(change, at + size, -1)
    return np.cumsum(change)[:n] > 0


def _candidates(first: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """int64 (p, 2): pairs of texts that share a window, each once."""
    together = np.unique(first * n + rows)  # each text once a window
    first, rows = together // n, together % n
    starts = np.flatnonzero(np.concatenate([[True], first[1:] != first[:-1]])) if len(first) else np.empty(0, np.int64)
    sizes = np.diff(np.append(starts, len(first)))
    lead = np.repeat(starts, sizes)
    pairs = [rows[lead] * n + rows, rows[:-1] * n + rows[1:] if len(rows) else np.empty(0, np.int64)]
    within = lead[1:] == lead[:-1] if len(rows) else np.empty(0, bool)
    pairs[1] = pairs[1][within]
    few = np.repeat(sizes <= FEW, sizes)
    for step in range(2, FEW):
        ok = few[step:] & (lead[step:] == lead[:-step])
        pairs.append((rows[:-step] * n + rows[step:])[ok])
    codes = np.unique(np.concatenate(pairs))
    found = np.column_stack([codes // n, codes % n])
    return found[found[:, 0] != found[:, 1]]
