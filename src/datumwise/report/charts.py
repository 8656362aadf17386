"""What do the page's charts draw? Datapoints chosen, ordered and packed; one axis for all cards."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datumwise.report.result import Audit, Evidence, Finding, Interval, ProofCard

__all__ = ["NOWHERE", "choose_points", "glyphs", "interval_axis", "pack", "quantise", "score_names"]

MAX_POINTS = 50_000  # datapoints on the map
MAX_EVIDENCE = 600  # datapoints with their evidence
FEW_SCORES = 20_000  # above so many points only as many scores as MAX_SCORES travel
MAX_SCORES = 6
NOWHERE = 65_535  # the code of "no value" in every uint16 array

# the glyph of a kind of finding; the drawings are in assets/parts.js and templates/page.html
_GLYPHS = {
    "label_error": 0,  # ring
    "near_duplicate": 1,  # square
    "duplicate": 1,
    "outlier": 2,  # triangle
    "hard": 3,  # diamond
    "memorised": 4,  # cross
    "poisoned": 5,  # star
}
N_GLYPHS = 8


def choose_points(audit: Audit, limit: int = MAX_POINTS, evidence: int = MAX_EVIDENCE) -> tuple[np.ndarray, list[Evidence]]:
    """Rows that travel with the page, the most suspicious first, and the evidence about the first of them.

    Rows with evidence come first (at most ``evidence``, by their suspicion), then other rows with a finding,
    then the rest by the first score. If there are more than ``limit``, the rest is a sample drawn from every
    class in proportion, at least one a class where there is room; neighbours of the evidence are always kept.

    Returns
    -------
    rows : ndarray (m,) int64
        Each row once.
    listed : list of Evidence
        ``listed[i]`` is about ``rows[i]``.
    """
    flags = np.asarray(audit.map.flags)
    n = len(flags)
    one_each = {item.row: item for item in reversed(audit.evidence) if 0 <= item.row < n}
    by_suspicion = sorted(
        one_each.values(),
        key=lambda item: (-item.suspicion if math.isfinite(item.suspicion) else math.inf, item.row),
    )
    listed = by_suspicion[:evidence]
    first = [item.row for item in listed]
    score = _suspicion(audit)
    taken = np.zeros(n, bool)
    taken[first] = True
    flagged = np.flatnonzero((flags != 0) & ~taken)
    flagged = flagged[np.argsort(-score[flagged], kind="stable")][: max(0, limit - len(first))]
    taken[flagged] = True
    rest = np.flatnonzero(~taken)
    room = max(0, limit - len(first) - len(flagged))
    if len(rest) > room:
        shown = np.unique([near for item in listed for near in item.neighbours if 0 <= near < n]).astype(int)
        shown = shown[~taken[shown]]
        taken[shown] = True
        rest = np.concatenate([shown, _stratified(audit, np.flatnonzero(~taken), max(0, room - len(shown)))])
    rest = rest[np.argsort(-score[rest], kind="stable")]
    return np.concatenate([np.asarray(first, np.int64), flagged, rest]).astype(np.int64), listed


def glyphs(findings: Sequence[Finding]) -> list[int]:
    """The glyph of every finding: its kind's own, or the next one free; no two alike among the first eight.

    Examples
    --------
    >>> from types import SimpleNamespace as kind
    >>> glyphs([kind(key="outlier"), kind(key="mine"), kind(key="label_error"), kind(key="yours")])
    [2, 4, 0, 5]
    """
    known = {_GLYPHS[f.key] for f in findings if f.key in _GLYPHS}
    free = [g for g in (4, 5, 6, 7, 3, 2, 1, 0) if g not in known]
    given = iter(free + list(range(N_GLYPHS)) * (1 + len(findings) // N_GLYPHS))
    return [_GLYPHS[f.key] if f.key in _GLYPHS else next(given) for f in findings]


def quantise(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Numbers as uint16 steps between their smallest and largest; what is not finite becomes :data:`NOWHERE`.

    Returns
    -------
    codes : ndarray (n,) uint16
        0 is ``low``, 65,534 is ``high``.
    low, high : float
        0.0 and 0.0 when nothing is finite.

    Examples
    --------
    >>> codes, low, high = quantise(np.array([1.0, np.nan, 3.0, 2.0]))
    >>> codes.tolist(), low, high
    ([0, 65535, 65534, 32767], 1.0, 3.0)
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    codes = np.full(values.shape, NOWHERE, np.uint16)
    if not finite.any():
        return codes, 0.0, 0.0
    low, high = float(values[finite].min()), float(values[finite].max())
    span = high - low
    if span == 0 or not math.isfinite(span):
        codes[finite] = 0
        return codes, low, high if math.isfinite(span) else low
    codes[finite] = np.round((values[finite] - low) / span * (NOWHERE - 1)).astype(np.uint16)
    return codes, low, high


def score_names(audit: Audit, n_points: int) -> list[str]:
    """Scores that travel with the page: those that findings are ranked by first."""
    scores = audit.map.scores
    ranked = [f.score for f in audit.findings if f.score in scores]
    names = list(dict.fromkeys([*ranked, *scores]))
    return names if n_points <= FEW_SCORES else names[:MAX_SCORES]


def pack(arrays: Mapping[str, np.ndarray], texts: Mapping[str, Any]) -> tuple[bytes, dict[str, list[Any]]]:
    """Arrays and JSON values in one zlib stream, and where each lies in it: name -> [type, offset, bytes].

    Every array starts at a multiple of 8 bytes, little endian. JSON values are UTF-8; what has no UTF-8 form
    (a lone surrogate) becomes ``?``.
    """
    parts: list[bytes] = []
    where: dict[str, list[Any]] = {}
    offset = 0

    def put(name: str, kind: str, data: bytes) -> None:
        nonlocal offset
        where[name] = [kind, offset, len(data)]
        data += bytes(-len(data) % 8)
        parts.append(data)
        offset += len(data)

    for name, array in arrays.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        put(name, array.dtype.name, little.tobytes())
    for name, value in texts.items():
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        put(name, "json", text.encode("utf-8", "replace"))
    return zlib.compress(b"".join(parts), 9), where


def interval_axis(cards: Sequence[ProofCard]) -> tuple[float, float]:
    """One horizontal axis for all cards, so that they can be compared: the widest interval and a little air.

    Examples
    --------
    >>> from types import SimpleNamespace as any
    >>> row = any(score=Interval(0.93, 0.90, 0.95))
    >>> interval_axis([any(rows=[row])])
    (0.89, 0.96)
    """
    ends = [end for card in cards for row in card.rows for end in _finite(row.score)]
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    span = max(high - low, 1e-6 * max(abs(low), abs(high), 1e-6))
    step = _nice(span / 4)
    digits = max(0, -math.floor(math.log10(step)) + 1)
    return round(math.floor(low / step - 0.05) * step, digits), round(math.ceil(high / step + 0.05) * step, digits)


def _finite(interval: Interval) -> list[float]:
    return [v for v in (interval.low, interval.value, interval.high) if math.isfinite(v)]


def _nice(step: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return max(m for m in (1, 2, 5) if m * power <= step * (1 + 1e-9)) * power


def _suspicion(audit: Audit) -> np.ndarray:
    """The score that orders rows without evidence, (n,) float64; missing is last."""
    n = len(audit.map.flags)
    names = score_names(audit, n)
    if not names:
        return np.zeros(n)
    score = np.asarray(audit.map.scores[names[0]], np.float64)
    return np.where(np.isnan(score), -np.inf, score)


def _stratified(audit: Audit, rows: np.ndarray, size: int) -> np.ndarray:
    """``size`` of ``rows``, every class in proportion: shuffled, then taken at even steps class by class."""
    if size <= 0 or len(rows) == 0:
        return rows[:0]
    rows = np.random.default_rng(0).permutation(rows)
    rows = rows[np.argsort(np.asarray(audit.map.labels)[rows], kind="stable")]
    labels = np.asarray(audit.map.labels)[rows]
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])  # one of every class
    keep = starts[: size if len(starts) > size else None]
    others = np.setdiff1d(np.arange(len(rows)), keep, assume_unique=True)
    steps = (np.arange(size - len(keep)) + 0.5) * len(others) / max(size - len(keep), 1)
    return rows[np.concatenate([keep, others[steps.astype(int)]])]
