"""What a terminal, a pipe or a log can show, and lines and tables laid out for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TextIO

__all__ = ["ASCII", "UNICODE", "Line", "Surface", "Symbols", "say", "surface", "table", "wrapped"]


@dataclass(frozen=True)
class Symbols:
    """Signs that have an ASCII twin."""

    ok: str
    arrow: str
    minus: str


ASCII = Symbols(ok="ok", arrow="->", minus="-")
UNICODE = Symbols(ok="✓ ", arrow="→", minus="−")
COERCED = ("C.UTF-8", "C.utf8", "UTF-8")  # PEP 538
TWINS = str.maketrans({"→": "->", "−": "-", "–": "-", "×": "x", "²": "2", "✓": "ok", "…": "..."})


class Line(NamedTuple):
    """A line with a style of its own: ``"bold"``, ``"red"``, ``"green"``, ``"dim"``."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Surface:
    """What one stream can show.

    Attributes
    ----------
    stream : text stream
    live : bool
        A terminal whose lines can be drawn again.
    colour : bool
        Escape codes may be written.
    utf8 : bool
        Signs beyond ASCII can be shown.
    width : int or None
        Columns of the terminal; None for pipes and files, where nothing is wrapped.
    """

    stream: TextIO
    live: bool
    colour: bool
    utf8: bool
    width: int | None

    @property
    def symbols(self) -> Symbols:
        return UNICODE if self.utf8 and self.width is not None else ASCII


def surface(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Surface:
    """What ``stream`` can show.

    ``NO_COLOR`` (any value) and ``TERM=dumb`` mean no escape code at all; ``TERM=dumb`` also no line drawn
    again; a locale that is not UTF-8 means ASCII.
    """
    terminal = stream.isatty()
    dumb = environ.get("TERM") == "dumb"
    width = max(shutil.get_terminal_size((80, 24)).columns, 40) if terminal else None
    return Surface(
        stream=stream,
        live=terminal and not dumb,
        colour=terminal and not dumb and not environ.get("NO_COLOR"),
        utf8=_is_utf8(stream, environ),
        width=width,
    )


def _is_utf8(stream: TextIO, environ: Mapping[str, str]) -> bool:
    encoding = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
    if encoding != "utf8":
        return False
    set_to = [environ.get(key, "") for key in ("LC_ALL", "LC_CTYPE", "LANG")]
    if set_to[1] in COERCED:  # Python itself sets this in the C locale, and speaks UTF-8; the terminal may not
        set_to[1] = ""
    locale = next((value for value in set_to if value), None)
    if locale is None:
        return os.name == "nt"
    return "utf" in locale.lower()


def say(lines: Iterable[str | Line], to: Surface) -> None:
    """Write lines; what cannot be encoded is written as an escape, never refused."""
    for line in lines:
        text, style = (line.text, line.style) if isinstance(line, Line) else (line, "")
        if not to.utf8:
            text = text.translate(TWINS)
        encoding = getattr(to.stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, errors="backslashreplace").decode(encoding)
        if style and to.colour:
            from rich.console import Console
            from rich.text import Text

            console = Console(file=to.stream, force_terminal=True, highlight=False, soft_wrap=True)
            console.print(Text(text, style=style))
        else:
            to.stream.write(text + "\n")
    to.stream.flush()


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    width: int | None = None,
    indent: int = 2,
) -> list[str]:
    """Aligned columns, two spaces apart.

    No cell is ever cut. Where a terminal is too narrow, the last column wraps below itself.

    Parameters
    ----------
    header : sequence of str
    rows : iterable of sequences
        One cell a column; None prints as ``-``.
    right : iterable of str
        Columns set flush right (numbers).
    width : int, optional
        Columns of the terminal; None wraps nothing.
    indent : int, default 2

    Examples
    --------
    >>> print(*table(["name", "n"], [["a", 1], ["bc", 20]], right=["n"], indent=0), sep="\\n")
    name   n
    a      1
    bc    20
    """
    cells = [["-" if cell is None else one_line(cell) for cell in row] for row in rows]
    lines = [list(header), *cells]
    widths = [max(columns(line[i]) for line in lines) for i in range(len(header))]
    flush_right = set(right)
    start = indent + sum(w + 2 for w in widths[:-1])  # where the last column begins
    room = None if width is None else max(width - start, 0)
    out = []
    for line in lines:
        front = " " * indent
        for i, cell in enumerate(line[:-1]):
            pad = " " * (widths[i] - columns(cell))
            front += (pad + cell if header[i] in flush_right else cell + pad) + "  "
        last = line[-1]
        if header[-1] in flush_right:
            out.append((front + " " * (widths[-1] - columns(last)) + last).rstrip())
            continue
        if room is not None and room < min(widths[-1], 16):  # too narrow for a column: below the row
            out.append(front.rstrip())
            out += [" " * (indent + 4) + part for part in wrapped(last, max((width or 0) - indent - 4, 16))]
            continue
        parts = wrapped(last, room)
        out.append((front + parts[0]).rstrip())
        out += [" " * start + part for part in parts[1:]]
    return out


def wrapped(text: str, width: int | None) -> list[str]:
    """Text in lines of at most ``width`` columns, broken between words; a longer word is broken, not cut.

    Examples
    --------
    >>> wrapped("given 1, looks like 8", 12)
    ['given 1,', 'looks like 8']
    >>> wrapped("abcdef", 4)
    ['abcd', 'ef']
    """
    if width is None or columns(text) <= width:
        return [text]
    lines = [""]
    for word in text.split(" "):
        candidate = f"{lines[-1]} {word}" if lines[-1] else word
        if columns(candidate) <= width:
            lines[-1] = candidate
            continue
        while columns(word) > width:
            head = _head(word, width)
            lines.append(head)
            word = word[len(head) :]
        lines.append(word)
    return [line for line in lines if line] or [""]


def one_line(cell: object) -> str:
    """A value on one line: control characters cannot steer the terminal.

    Examples
    --------
    >>> one_line("a\\nb\\x1b[31m")
    'a b\\\\x1b[31m'
    """
    text = str(cell).replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def columns(text: str) -> int:
    """Columns a text takes on a terminal: wide characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _head(word: str, width: int) -> str:
    taken = 0
    for i, character in enumerate(word):
        taken += columns(character)
        if taken > width:
            return word[: max(i, 1)]
    return word
