"""Stage lines on stderr: one a stage when it is done; a bar meanwhile if it takes more than two seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from datumwise.cli.terminal import Line, Surface, columns, say, wrapped

__all__ = ["Budget", "BudgetSpent", "StageLines", "clock"]

PATIENCE = 2.0  # s until a bar appears
REDRAW = 0.1  # s between two drawings
REPORT_EVERY = 10.0  # s between two lines where nothing can be drawn again
NAME_WIDTH = 10
WHAT_WIDTH = 51
BAR = 20


class BudgetSpent(KeyboardInterrupt):
    """The time that was allowed is over; what is done is kept, as after an interruption."""


@dataclass
class Budget:
    """Seconds that a command may take, from now on; None is any number."""

    seconds: float | None
    now: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._end = None if self.seconds is None else self.now() + self.seconds

    def check(self) -> None:
        """Stop when the time is over.

        Raises
        ------
        BudgetSpent
        """
        if self._end is not None and self.now() > self._end:
            raise BudgetSpent


class StageLines:
    """Prints the stages of a run; a `datumwise.progress.Stage`.

    Parameters
    ----------
    to : Surface
        Where lines go (stderr).
    quiet : bool
        Print nothing, but keep count.
    budget : Budget
        Checked at every step.
    now : callable
        Clock, in seconds.
    """

    def __init__(
        self,
        to: Surface,
        *,
        quiet: bool = False,
        budget: Budget | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._to, self._quiet, self._now = to, quiet, now
        self._budget = budget or Budget(None)
        self._drawn = 0  # columns of the line that is being drawn again
        self.name: str | None = None  # of the stage that runs
        self.what = ""
        self.done = self.total = 0
        self._begun = self._last = self._first = now()
        self._done_first = 0
        self._told = False  # whether the stage that runs has told of progress yet

    def title(self, text: str) -> None:
        self._say([f"datumwise audit  {text}", ""])

    def begin(self, name: str, what: str) -> None:
        self.name, self.what = name, what
        self.done = self.total = self._done_first = 0
        self._told = False
        self._begun = self._last = self._first = self._now()
        self._budget.check()

    def progress(self, done: int, total: int) -> None:
        now = self._now()
        if not self._told:
            self._told = True
            self._first, self._done_first = (
                now,
                done,
            )  # what was done before, by an earlier run, took no time now
        self.done, self.total = done, total
        self._budget.check()
        if self._quiet:
            return
        if not self._to.live:
            if now - self._last >= REPORT_EVERY:
                self._last = now
                self._say([self._bar(now, width=None)])
            return
        if now - self._begun >= PATIENCE and now - self._last >= REDRAW:
            self._last = now
            self._draw(self._bar(now, width=self._to.width))

    def end(self, what: str) -> None:
        seconds = self._now() - self._begun
        name, self.name = self.name or "", None
        self._clear()
        self._say(self.line(name, what, seconds))
        self._budget.check()

    def close(self) -> None:
        """Remove what is drawn, before anything else is written."""
        self._clear()

    def line(self, name: str, what: str, seconds: float) -> list[str | Line]:
        """The line of a finished stage; it wraps on a narrow terminal."""
        what = what.replace(f"{os.getcwd()}{os.sep}", "")
        if self._to.width is not None:
            what = what.replace("->", self._to.symbols.arrow)
        front = f"  {self._to.symbols.ok}  {name:<{NAME_WIDTH}}"
        took = clock(seconds)
        room = None if self._to.width is None else max(self._to.width - len(front) - len(took) - 2, 16)
        parts = wrapped(what, room)
        end = WHAT_WIDTH if room is None else min(WHAT_WIDTH, room)
        gap = " " * max(end - columns(parts[0]), 0)
        return [f"{front}{parts[0]}{gap}  {took}", *(" " * len(front) + part for part in parts[1:])]

    def _bar(self, now: float, *, width: int | None) -> str:
        front = f"      {self.name or '':<{NAME_WIDTH}}{self.what}  "
        if not self.total:
            return f"{front}{self.done:,}"
        share = min(self.done / self.total, 1.0)
        filled = int(share * BAR)
        bar = f"[{'#' * filled}{'-' * (BAR - filled)}]  "
        count = f"{self.done:,}/{self.total:,}  {min(round(100 * share), 99 if share < 1 else 100)}%"
        left = ""
        if self.done > self._done_first and now > self._first:
            seconds = (self.total - self.done) * (now - self._first) / (self.done - self._done_first)
            left = f"  {int(seconds) // 60}:{int(seconds) % 60:02d} left"
        for text in (f"{front}{bar}{count}{left}", f"{front}{count}{left}", f"{front}{count}"):
            if width is None or columns(text) < width:
                return text
        return f"      {self.name or '':<{NAME_WIDTH}}{count}"

    def _draw(self, text: str) -> None:
        """Over the line before, without an escape code."""
        pad = " " * max(self._drawn - columns(text), 0)
        self._to.stream.write(f"\r{text}{pad}")
        self._to.stream.flush()
        self._drawn = columns(text)

    def _clear(self) -> None:
        if self._drawn:
            self._to.stream.write("\r" + " " * self._drawn + "\r")
            self._to.stream.flush()
            self._drawn = 0

    def _say(self, lines: list[str | Line] | list[str]) -> None:
        if not self._quiet:
            say(lines, self._to)


def clock(seconds: float) -> str:
    """Seconds as people say them, seven columns.

    Examples
    --------
    >>> clock(0.41), clock(41.2), clock(192)
    ('  0.4 s', '   41 s', '   3:12')
    """
    if seconds < 20:
        return f"{seconds:5.1f} s"
    if seconds < 120:
        return f"{seconds:5.0f} s"
    return f"{int(seconds) // 60:>4}:{int(seconds) % 60:02d}"
