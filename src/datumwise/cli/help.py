"""Help pages as plain text: two columns, no box, no cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datumwise.cli.terminal import Surface, columns, say, surface, wrapped

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel

__all__ = ["PlainHelp"]

WIDEST_NAME = 30  # columns; a longer name stands on a line of its own


class PlainHelp:
    """A Cyclopts help formatter."""

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        if not panel.entries:
            return
        to = surface(console.file)
        rows = [(_label(entry), _description(entry)) for entry in panel.entries]
        say([*_panel(str(panel.title), rows, to), ""], to)

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        text = _plain(usage)
        if text:
            to = surface(console.file)
            text = text if text.startswith("Usage:") else f"Usage: {text}"
            say([*wrapped(text, to.width), ""], to)

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        text = _plain(description)
        if text:
            to = surface(console.file)
            say([*(part for line in text.split("\n") for part in wrapped(line, to.width)), ""], to)


def _panel(title: str, rows: list[tuple[str, str]], to: Surface) -> list[str]:
    names = [columns(name) for name, _ in rows if columns(name) <= WIDEST_NAME]
    start = 2 + max(names, default=0) + 2
    room = None if to.width is None else max(to.width - start, 16)
    lines = [f"{title}:"]
    for name, text in rows:
        parts = wrapped(text, room)
        if columns(name) > WIDEST_NAME:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name}{' ' * (start - 2 - columns(name))}{parts.pop(0)}".rstrip())
        lines += [" " * start + part for part in parts]
    return lines


def _label(entry: Any) -> str:
    """``--label TEXT``, ``LEDGER``: the first name of each kind, with what it takes."""
    labels = entry.display_labels_with_metavar or entry.display_labels
    return ", ".join(_plain(label) for label in labels)


def _description(entry: Any) -> str:
    text = _plain(entry.description).replace("\n", " ")
    choices = getattr(entry, "choices", None)
    if choices:
        text += f" One of {', '.join(map(str, choices))}."
    default = getattr(entry, "default", None)
    if default not in (None, "", "False", "None"):
        text += f" Default {default}."
    if getattr(entry, "required", False):
        text += " Required."
    return text.strip()


def _plain(renderable: Any) -> str:
    """The text of what Cyclopts hands over, without style."""
    if renderable is None:
        return ""
    if hasattr(renderable, "plain"):
        return str(renderable.plain).strip()
    if hasattr(renderable, "__rich_console__"):
        import io

        from rich.console import Console

        buffer = io.StringIO()
        Console(file=buffer, width=10_000, no_color=True, highlight=False, markup=False).print(renderable, end="")
        return "\n".join(line.rstrip() for line in buffer.getvalue().strip().split("\n"))
    return str(renderable).strip()
