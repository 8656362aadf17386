"""From the words of a command line to an exit code: parse, run, print; a fault becomes one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from datumwise.cli.outcome import Outcome, document
from datumwise.cli.terminal import Line, say, surface

__all__ = ["BUG", "INTERRUPTED", "REFUSED", "run"]

REFUSED, BUG, INTERRUPTED = 2, 70, 130


def run(argv: Sequence[str]) -> int:
    """Run the command that ``argv`` names; see `datumwise.cli.main` for the codes."""
    words = list(argv)
    if words == ["--version"]:
        from datumwise._version import __version__

        return _printed(Outcome(lines=lambda to: [__version__]), as_json=False)
    as_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
    try:
        outcome = _called(words)
        return _printed(outcome, as_json)
    except BrokenPipeError:  # the reader has seen enough: `datumwise sql … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _refused({"kind": "Interrupted", "message": "interrupted", "remedy": None}, as_json, INTERRUPTED)
    except Misused as error:
        return _refused(error.said, as_json, REFUSED)
    except Exception as error:
        from datumwise.cli.refusals import bug_report, refusal_of

        said = refusal_of(error)
        if said is not None:
            return _refused(said, as_json, REFUSED)
        sentence, path = bug_report(error, words)
        return _refused({"kind": "Bug", "message": sentence, "remedy": None, "traceback": path}, as_json, BUG)


class Misused(Exception):
    """The words of the command line make no command; ``said`` is the ``error`` object."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(said["message"])
        self.said = said


def _called(words: list[str]) -> Outcome:
    from cyclopts import CycloptsError

    from datumwise.cli.app import COMMANDS, app
    from datumwise.cli.refusals import usage_sentence

    root = app()
    try:
        result = root(words)
    except CycloptsError as error:
        raise Misused(usage_sentence(error, COMMANDS)) from None
    return result if isinstance(result, Outcome) else Outcome()


def _printed(outcome: Outcome, as_json: bool) -> int:
    out, err = surface(sys.stdout), surface(sys.stderr)
    if as_json:
        if outcome.facts:
            sys.stdout.write(document(outcome.facts) + "\n")
            sys.stdout.flush()
    else:
        say(outcome.lines(out), out)
    say(outcome.notes, err)
    return outcome.code


def _refused(said: dict[str, Any], as_json: bool, code: int) -> int:
    message = " ".join(str(said["message"]).split())
    if as_json:
        error = {"kind": said["kind"], "message": message, "column": None, "ids": [], "remedy": None} | said
        sys.stdout.write(document({"error": error | {"message": message}}) + "\n")
        sys.stdout.flush()
    to = surface(sys.stderr)
    say([Line(f"error: {message}" if code != INTERRUPTED else message, "red")], to)
    return code
