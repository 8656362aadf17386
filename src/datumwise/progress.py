"""How a long run tells whoever watches where it is: a protocol that any room can take; it imports none."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["SILENT", "Silent", "Stage"]


@runtime_checkable
class Stage(Protocol):
    """Receives the stages of a run, one after the other, never nested.

    A run calls ``title`` at most once and before the first stage, then for each stage ``begin``, any number
    of ``progress``, and ``end``. A stage that was begun and not ended was interrupted.
    """

    def title(self, text: str) -> None:
        """What is being worked on: ``"demo: 1,321 digits, 10 classes, faults planted"``."""

    def begin(self, name: str, what: str) -> None:
        """A stage starts: ``name`` is one word (``"probe"``), ``what`` its subject (``"likelihoods"``)."""

    def progress(self, done: int, total: int) -> None:
        """``done`` of ``total`` units (datapoints, models) of the stage that was begun last are finished."""

    def end(self, what: str) -> None:
        """The stage is finished: ``what`` came of it (``"probabilities (5 folds), embedding (32)"``)."""


class Silent:
    """A stage that tells nobody.

    Examples
    --------
    >>> isinstance(SILENT, Stage)
    True
    """

    def title(self, text: str) -> None:
        return None

    def begin(self, name: str, what: str) -> None:
        return None

    def progress(self, done: int, total: int) -> None:
        return None

    def end(self, what: str) -> None:
        return None


SILENT = Silent()
