"""How does an audit become one HTML file that loads nothing? Templates, scripts and data, all inlined."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import DiskFull, ReadOnly
from datumwise.report.charts import (
    NOWHERE,
    choose_points,
    glyphs,
    interval_axis,
    pack,
    quantise,
    score_names,
)
from datumwise.report.result import Audit, Evidence, ForgetTest, Interval, Promise
from datumwise.report.sprite import BYTE_LIMIT, Sprite, make_sprite
from datumwise.report.verdict import signed

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["clip", "count", "render", "write_page"]

PAGE_LIMIT = 3_000_000  # bytes of the whole file
EXCERPT = 240  # characters of a text
CELL = 80  # characters of a table cell
N_CELLS = 6
EXTRA_ROWS = 2_000  # rows without evidence that still show their picture or text
EXTRA_TEXT = 400_000  # characters of those texts
LIST_LENGTH = 36  # datapoints in the list beside the map
SCRIPTS = ("data.js", "geometry.js", "parts.js", "charts.js", "page.js")

_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_POINTS = re.compile(r"[+−-]?\d+(?:\.\d+)? points?")


def write_page(audit: Audit, path: str | Path) -> Path:
    """Write the page of an audit; readers of ``path`` see the old file or the whole new one, never half.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    DiskFull, ReadOnly
        Nothing is left behind.
    """
    path = Path(path)
    page = render(audit).encode("utf-8")
    written = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        written.write_bytes(page)
        return written.replace(path)
    except OSError as error:
        written.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left for the page {path}", remedy="free some space, or give another place") from error
        raise ReadOnly(f"the page {path} cannot be written ({error.strerror})", remedy="give another place") from error


def render(audit: Audit) -> str:
    """The page of an audit: one HTML document that loads nothing.

    Parameters
    ----------
    audit : Audit
        What was found. Its texts may hold anything: they are escaped in the page and never read as markup.

    Returns
    -------
    str
        At most about 3 MB: pictures, then texts of unsuspicious rows, give way first, and the page says so.
    """
    rows, listed = choose_points(audit)
    point = {int(row): p for p, row in enumerate(rows)}
    names = score_names(audit, len(rows))
    order = _by_importance(rows, listed)
    texts, excerpts = _texts(audit, listed, order, point)
    arrays, scores = _arrays(audit, rows, names)
    rough = 720_000 + int(1.4 * sum(a.nbytes for a in arrays.values())) + 12 * len(rows)
    room = min(BYTE_LIMIT, max(150_000, int((PAGE_LIMIT - rough) / 1.34)))
    sprite = _sprite(audit, listed, order, point, room)
    arrays["tile"] = np.array([sprite.tiles.get(int(row), NOWHERE) for row in rows], np.uint16)
    arrays["size"] = sprite.sizes
    data, layout = pack(
        arrays,
        {
            "ids": [str(audit.map.ids[row]) for row in rows],
            "evidence": [_evidence(item, audit, point) for item in listed],
            "texts": texts,
        },
    )
    facts = {
        "name": clip(audit.name),
        "kind": audit.kind,
        "n": audit.n,
        "layout": layout,
        "classes": [clip(str(name), CELL) for name in audit.map.classes],
        "scores": scores,
        "findings": [
            {
                "title": clip(f.title),
                "bit": f.bit,
                "glyph": g,
                "score": f.score,
                "threshold": _number(f.threshold),
            }
            for f, g in zip(audit.findings, glyphs(audit.findings), strict=True)
        ],
        "sprite": {
            "mime": sprite.mime,
            "side": sprite.side,
            "columns": sprite.columns,
            "lines": sprite.lines,
            "pixelated": sprite.pixelated,
        },
        "chosen": [{"title": clip(one.name), "score": names.index(one.name)} for one in audit.chosen if one.name in names],
        "proof": _proof(audit),
    }
    return (
        _templates()
        .get_template("page.html")
        .render(
            audit=audit,
            glyphs=glyphs(audit.findings),
            facts=_script_json(facts),
            data=_base64(data),
            sprite=sprite,
            headline=_headline(audit),
            notes=_notes(audit, rows, listed, sprite, excerpts),
            shown_chosen={one.name for one in audit.chosen if one.name in names},
            has_labels=bool(audit.map.classes) or any(item.given is not None for item in listed),
            n_listed=len(listed),
            n_flagged=int(np.count_nonzero(audit.map.flags)),
            day=_day(audit.created),
            style=_asset("page.css"),
            echarts=_asset("echarts.min.js"),
            script="\n".join(_asset(name) for name in SCRIPTS),
        )
    )


def clip(text: str, limit: int = EXCERPT) -> str:
    """The first ``limit`` characters, without control characters or lone surrogates, an ellipsis where cut.

    Examples
    --------
    >>> clip("a\\x00b", 10), clip("0123456789", 5)
    ('a�b', '0123…')
    """
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    Examples
    --------
    >>> count(1, "datapoint"), count(1321, "datapoint"), count(2, "class", "classes")
    ('1 datapoint', '1,321 datapoints', '2 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(fraction: float) -> str:
    """A fraction as a percentage with one decimal.

    Examples
    --------
    >>> percent(0.93), percent(float("nan"))
    ('93.0%', 'not known')
    """
    return f"{100 * fraction:.1f}%".replace("-", "−") if math.isfinite(fraction) else "not known"


def figure(value: float, metric: str) -> str:
    """A score as its metric is written: accuracy as a percentage, R² with three decimals."""
    if metric == "accuracy":
        return percent(value)
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else "not known"


def range_of(interval: Interval, metric: str) -> str:
    """The ends of an interval of differences, in words."""
    return f"{signed(interval.low, metric)} to {signed(interval.high, metric)}"


def curve(values: Sequence[float]) -> str:
    """Points of a polyline through values, 100 wide and 32 high, the least at the bottom.

    Examples
    --------
    >>> curve([0.0, 1.0, 4.0])
    '0.0,31.0 50.0,23.5 100.0,1.0'
    """
    low, high = min(values), max(values)
    step = 100 / max(1, len(values) - 1)
    return " ".join(f"{i * step:.1f},{31 - 30 * (v - low) / ((high - low) or 1):.1f}" for i, v in enumerate(values))


def bars(counts: Sequence[int]) -> str:
    """Path of a small histogram, one wide a bin and 10 high; what is not empty can be seen.

    Examples
    --------
    >>> bars([4, 0, 1])
    'M0 10v-10.0h1v10.0zM2 10v-2.5h1v2.5z'
    """
    most = max(counts)
    heights = [max(0.4, 10 * n / most) if n else 0 for n in counts]
    return "".join(f"M{i} 10v-{h:.1f}h1v{h:.1f}z" for i, h in enumerate(heights) if h)


def short(value: float) -> str:
    """A score in three digits.

    Examples
    --------
    >>> short(0.0123456), short(-12345.6), short(float("nan"))
    ('0.0123', '−1.23e+04', '–')
    """
    return f"{value:.3g}".replace("-", "−", 1) if math.isfinite(value) else "–"


def promise_axis(promise: Promise) -> tuple[float, float]:
    """Ends of the axis of the promises: from a whole ten percent below the least figure to all."""
    rows = [*promise.points, *promise.batches]
    ends = [end for row in rows for end in (row.promised, row.measured.low, row.one_point) if math.isfinite(end)]
    return max(0.0, math.floor(10 * min(ends) - 1e-9) / 10), 1.0


def forget_axis(test: ForgetTest, measured: str) -> tuple[float, float]:
    """Ends of the axis of one measure of the forget test: whole tenths around all that is drawn."""
    found = [getattr(row, measured) for row in test.rows]
    known = [end for one in found for end in (one.value, one.low, one.high) if math.isfinite(end)]
    low, high = math.floor(10 * min(known) - 1e-9) / 10, math.ceil(10 * max(known) + 1e-9) / 10
    return (max(0.0, low), min(1.0, high)) if test.metric == "accuracy" else (low, high)


def seconds(value: float) -> str:
    """A length of time.

    Examples
    --------
    >>> seconds(0.0123), seconds(4.2), seconds(61)
    ('12 ms', '4.2 s', '61 s')
    """
    if not math.isfinite(value):
        return "not timed"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def place(value: float, low: float, high: float) -> float:
    """Where a value lies between two ends, in percent with two decimals.

    Examples
    --------
    >>> place(0.9, 0.6, 1.0)
    75.0
    """
    return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)


def whole_percent(fraction: float) -> str:
    """A fraction that was promised, without needless decimals.

    Examples
    --------
    >>> whole_percent(0.9), whole_percent(0.975)
    ('90%', '97.5%')
    """
    return f"{100 * fraction:.4g}%"


def size(value: float) -> str:
    """Classes in a set, or the length of an interval.

    Examples
    --------
    >>> size(1.0), size(181.3), size(1234.5), size(float("inf"))
    ('1.00', '181', '1,234', 'no bound')
    """
    return (f"{value:,.0f}" if value >= 100 else f"{value:#.3g}") if math.isfinite(value) else "no bound"


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("datumwise.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"clip": clip, "percent": percent, "curve": curve, "bars": bars, "short": short, "size": size}
    environment.filters["whole_percent"] = whole_percent
    environment.globals |= {"count": count, "figure": figure, "gain": signed, "range_of": range_of}
    environment.globals |= {"promise_axis": promise_axis, "forget_axis": forget_axis, "place": place, "seconds": seconds}
    return environment


@cache
def _asset(name: str) -> str:
    return files("datumwise.report").joinpath("assets", name).read_text("utf-8")


def _by_importance(rows: np.ndarray, listed: Sequence[Evidence]) -> list[int]:
    """Rows with evidence, then their neighbours, then the rest as ordered."""
    first = [item.row for item in listed]
    near = [row for item in listed for row in item.neighbours]
    return list(dict.fromkeys([*first, *near, *(int(row) for row in rows)]))


def _arrays(audit: Audit, rows: np.ndarray, names: Sequence[str]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Position, findings, label and scores of every point, and each score's name and range."""
    xy = np.asarray(audit.map.xy, np.float64).reshape(-1, 2)[rows]
    xy[~np.isfinite(xy).all(axis=1)] = np.nan
    x, y = (_centred(*quantise(axis)) for axis in xy.T)
    labels = np.asarray(audit.map.labels, np.int64)[rows]
    arrays = {
        "x": x,
        "y": y,
        "flags": np.asarray(audit.map.flags)[rows].astype(np.uint8),
        "label": np.where((labels >= 0) & (labels < NOWHERE), labels, NOWHERE).astype(np.uint16),
    }
    scores = []
    for i, name in enumerate(names):
        arrays[f"score{i}"], low, high = quantise(np.asarray(audit.map.scores[name])[rows])
        scores.append({"name": name, "low": low, "high": high})
    return arrays, scores


def _centred(codes: np.ndarray, low: float, high: float) -> np.ndarray:
    """Codes as they are, or in the middle of the map when all coordinates are the same."""
    return np.where(codes == NOWHERE, codes, np.uint16(NOWHERE // 2)) if low == high else codes


def _evidence(item: Evidence, audit: Audit, point: dict[int, int]) -> list[Any]:
    """One line of the table as the script reads it."""
    keys = [f.key for f in audit.findings]
    return [
        [keys.index(kind) for kind in item.kinds if kind in keys],
        None if item.given is None else clip(item.given, CELL),
        None if item.suggested is None else clip(item.suggested, CELL),
        clip(item.sentence, 2 * EXCERPT),
        [point[row] for row in item.neighbours if row in point][:3],
        _number(item.p_given),
    ]


def _texts(audit: Audit, listed: Sequence[Evidence], order: Sequence[int], point: dict[int, int]) -> tuple[dict[int, Any], int]:
    """Excerpts or cells by point: of the evidence, its neighbours and, while there is room, of others."""
    if audit.text is not None:
        partner = {item.row: item.neighbours[0] for item in listed if _is_copy(item)}
        read: Callable[[int], Any] = lambda row: _excerpt(audit, row, partner.get(row))  # noqa: E731
    elif audit.cells is not None:
        read = lambda row: _cells(audit, row)  # noqa: E731
    else:
        return {}, 0
    needed = {row for item in listed for row in (item.row, *item.neighbours)}
    texts: dict[int, Any] = {}
    room, extra = EXTRA_TEXT, 0
    for row in order:
        if row not in point:
            continue
        if row not in needed:
            if room <= 0 or extra >= EXTRA_ROWS:
                break
            extra += 1
        value = read(row)
        if value is not None:
            texts[point[row]] = value
            room -= 0 if row in needed else len(str(value))
    return texts, len(texts)


def _is_copy(item: Evidence) -> bool:
    return bool(item.neighbours) and any("duplicate" in kind for kind in item.kinds)


def _excerpt(audit: Audit, row: int, partner: int | None) -> list[Any] | None:
    """[text] or, for a near copy, [text, start, end]: where it differs from the other, in UTF-16 units."""
    assert audit.text is not None
    text = audit.text(row)
    if text is None:
        return None
    other = audit.text(partner) if partner is not None else None
    if other is None or other == text:
        return [clip(text)]
    start, end = _differs(text[: 4 * EXCERPT], other[: 4 * EXCERPT])
    skip = 0 if start < EXCERPT - 60 else start - 60  # characters left out before the difference
    shown = clip(("…" if skip else "") + text[skip : skip + EXCERPT + 1])
    shift = skip - (1 if skip else 0)
    start, end = (min(max(at - shift, 0), len(shown)) for at in (start, end))
    units = [len(shown[:at].encode("utf-16-le", "replace")) // 2 for at in (start, end)]
    return [shown, *units] if 0 < end - start <= len(shown) // 2 else [shown]


def _differs(text: str, other: str) -> tuple[int, int]:
    """The part of ``text`` between what both begin with and what both end with, widened to whole words.

    Examples
    --------
    >>> text = "the film was great fun"
    >>> a, b = _differs(text, "the film was no fun")
    >>> text[a:b]
    'great'
    """
    length = min(len(text), len(other))
    start = next((i for i in range(length) if text[i] != other[i]), length)
    tail = next((i for i in range(length - start) if text[-1 - i] != other[-1 - i]), length - start)
    end = len(text) - tail
    start = text.rfind(" ", 0, start) + 1
    stop = text.find(" ", end)
    return start, len(text) if stop < 0 else stop


def _cells(audit: Audit, row: int) -> list[list[Any]]:
    """[[column, value, unusualness]] of the most unusual cells of a row."""
    assert audit.cells is not None
    return [
        [clip(str(name), CELL), clip(str(value), CELL), _number(score)] for name, value, score in audit.cells(row)[:N_CELLS]
    ]


def _sprite(audit: Audit, listed: Sequence[Evidence], order: Sequence[int], point: dict[int, int], room: int) -> Sprite:
    """Thumbnails of the evidence, its neighbours and, if pictures are tiny, of other rows."""
    if audit.picture is None:
        return Sprite()
    near = {row for item in listed for row in (item.row, *item.neighbours)} or set(order[:LIST_LENGTH])
    rows = [row for row in order if row in near and row in point]
    sprite = make_sprite(audit.picture, rows, limit=room)
    others = [row for row in order if row not in near][:EXTRA_ROWS]
    if sprite.mime != "image/png" or sprite.left_out or not others:
        return sprite
    return replace(make_sprite(audit.picture, [*rows, *others], limit=room // 2), left_out=0)


def _proof(audit: Audit) -> dict[str, Any]:
    """What the interval charts draw."""
    metric = audit.proof.metric
    low, high = interval_axis(audit.proof.cards)
    cards = [
        [
            {
                "name": clip(row.name, 20),
                "n": row.n,
                "text": figure(row.score.value, metric),
                "at": [_number(v) for v in (row.score.low, row.score.value, row.score.high)],
            }
            for row in card.rows
        ]
        for card in audit.proof.cards
    ]
    return {"percent": metric == "accuracy", "low": low, "high": high, "cards": cards}


def _headline(audit: Audit) -> list[tuple[str, bool]]:
    """The verdict in pieces, and which of them is the gain that was shown."""
    verdict = clip(audit.verdict, 600)
    card = audit.proof.primary
    found = _POINTS.search(verdict) if card is not None and card.verdict == "gain shown" else None
    if found is None:
        return [(verdict, False)]
    return [(verdict[: found.start()], False), (found.group(), True), (verdict[found.end() :], False)]


def _notes(audit: Audit, rows: np.ndarray, listed: Sequence[Evidence], sprite: Sprite, n_texts: int) -> list[str]:
    """What this page leaves out, one sentence each."""
    n, flags = len(audit.map.flags), np.asarray(audit.map.flags)
    notes = []
    if len(rows) < n:
        flagged, shown = int(np.count_nonzero(flags)), int(np.count_nonzero(flags[rows]))
        which = f"all {flagged:,} with a finding" if shown == flagged else f"the {shown:,} most suspicious of {flagged:,}"
        notes.append(
            f"The map shows {which} and a sample of {len(rows) - shown:,} of the other {n - flagged:,}, "
            "drawn from every class in proportion."
        )
    if len(listed) < len(audit.evidence):
        notes.append(f"Evidence is given for the {len(listed):,} most suspicious of {len(audit.evidence):,}.")
    if sprite.left_out:
        notes.append(f"{count(sprite.left_out, 'picture')} left out to keep this file small.")
    if not listed and n:
        notes.append("No datapoint has a finding, so the list shows the highest scores.")
    return notes


def _day(created: str) -> str:
    """An ISO time as a date people read.

    Examples
    --------
    >>> _day("2026-11-22T20:48:34+00:00")
    '22 Nov 2026'
    """
    try:
        day = datetime.fromisoformat(created)
    except ValueError:
        return clip(created, 40)
    return f"{day.day} {_MONTHS[3 * day.month - 3 : 3 * day.month]} {day.year}"


def _number(value: float) -> float | None:
    """A number that JSON can hold, with 6 digits; ``None`` for NaN and infinity."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode("ascii")
