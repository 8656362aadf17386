"""What is written where: colours, twins, widths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminals import UTF8, Pipe, Terminal, pipe, terminal

from datumwise.cli.terminal import Line, columns, one_line, say, surface, table, wrapped

ESCAPE = "\x1b"


def said(to: object, *lines: str | Line) -> str:
    say(lines, to)
    return to.stream.getvalue()


def test_a_terminal_has_colour_and_a_pipe_has_none() -> None:
    assert ESCAPE in said(terminal(80), Line("error: x", "red"))
    assert said(pipe(), Line("error: x", "red")) == "error: x\n"


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_and_dumb_terminals_get_no_escape_code(environ: dict[str, str]) -> None:
    assert said(terminal(80, **environ), Line("error: x", "bold red")) == "error: x\n"


@pytest.mark.parametrize(
    "environ",
    [{"LANG": "C"}, {"LANG": "en_GB.UTF-8", "LC_ALL": "POSIX"}, {}, {"LC_CTYPE": "C.UTF-8", "LANG": "C"}],
)
def test_signs_have_ascii_twins_where_the_locale_is_not_utf8(environ: dict[str, str]) -> None:
    to = surface(Terminal(), environ)
    assert said(to, "a → b −1 × 2 …") == "a -> b -1 x 2 ...\n"
    assert to.symbols.ok == "ok"


def test_what_an_encoding_lacks_is_escaped_and_never_refused() -> None:
    assert said(surface(Terminal("ascii"), UTF8), "日本 ok") == "\\u65e5\\u672c ok\n"


def test_pipes_have_no_width() -> None:
    assert pipe().width is None
    assert surface(Pipe(), UTF8).live is False


def test_control_characters_of_the_data_cannot_steer_the_terminal() -> None:
    assert ESCAPE not in one_line("a\x1b[2Jb\r\nc\u202e")
    assert table(["a"], [["x\x1b]0;title\x07"]])[1] == "  x\\x1b]0;title\\x07"


words = st.text(alphabet="abc日 ", min_size=0, max_size=60)


@given(words, st.integers(2, 30))
def test_wrapping_loses_no_letter_and_keeps_the_width(text: str, width: int) -> None:
    parts = wrapped(text, width)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(columns(part) <= width for part in parts) or columns(text) <= width


@given(
    st.lists(st.tuples(st.text("xy", min_size=1, max_size=12), words), min_size=1, max_size=5),
    st.integers(40, 120),
)
def test_a_table_keeps_every_cell_and_the_width(rows: list[tuple[str, str]], width: int) -> None:
    lines = table(["name", "what"], rows, width=width)
    assert all(columns(line) <= width for line in lines)
    letters = lambda text: sorted("".join(text.split()))  # noqa: E731
    assert letters("".join(lines)) == letters("namewhat" + "".join(a + b for a, b in rows))


def test_a_name_is_never_cut_however_narrow_the_terminal() -> None:
    name = "a_very_long_name_of_a_column_that_nobody_should_cut"
    assert any(name in line for line in table(["name", "what"], [[name, "some words here"]], width=40))


def test_wide_characters_count_twice() -> None:
    assert table(["a", "b"], [["日本", "x"], ["ab", "y"]], indent=0) == ["a     b", "日本  x", "ab    y"]
