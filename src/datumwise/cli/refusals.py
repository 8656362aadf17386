"""Errors as people at a command line read them: one sentence, what to type instead, an exit code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from datumwise.errors import DatumwiseError
from datumwise.readers.spelling import nearest

__all__ = ["as_flags", "bug_report", "refusal_of", "usage_sentence"]

EXTRAS = {
    "torch": ("torch", "lm"),
    "transformers": ("transformers", "lm"),
    "datasets": ("datasets", "lm"),
    "pandas": ("pandas", "tabular"),
    "polars": ("polars", "tabular"),
    "ray": ("ray", "ray"),
}


def as_flags(sentence: str) -> str:
    """Python arguments in a remedy as the flags that mean the same.

    Examples
    --------
    >>> as_flags("did you mean label='label'?")
    'did you mean --label label?'
    >>> as_flags("overwrite=True replaces it, out='...' keeps both")
    '--force replaces it, --out ... keeps both'
    >>> as_flags("give text='a b' or features='x'")
    "give --text 'a b' or --features x"
    """
    sentence = re.sub(r"\b(pass )?overwrite=True\b", "--force", sentence)
    sentence = re.sub(r"\byes=True\b", "--yes", sentence)
    sentence = re.sub(r"\b(?:ledger\.)?untag\('([^']*)'\)", r"datumwise tag LEDGER \1 --remove", sentence)
    sentence = sentence.replace("datumwise.ingest", "datumwise ingest")
    return re.sub(r"\b([a-z_]+)=('((?:[^'\\]|\\.)*)'|\"([^\"]*)\")", _flag, sentence)


def _flag(match: re.Match[str]) -> str:
    value = match[3] if match[3] is not None else match[4]
    shown = value if value == "..." else shlex.quote(value)
    return f"--{match[1].replace('_', '-')} {shown}"


def refusal_of(error: BaseException) -> dict[str, Any] | None:
    """The ``error`` object of an exception that is the user's to mend, or None for a fault of ours."""
    if isinstance(error, DatumwiseError):
        said = error.as_dict()
        message = str(error)
        if error.remedy:
            flags = as_flags(error.remedy)
            message = f"{message.removesuffix(error.remedy)}{flags}"
            said |= {"remedy": flags}
        return said | {"message": message}
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in EXTRAS:
        library, extra = EXTRAS[(error.name or "").partition(".")[0]]
        return _said("MissingExtra", f"{library} is not installed", f"pip install 'datumwise[{extra}]'")
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return _said("SourceError", f"{error.filename}: {error.strerror.lower()}", None)
    if isinstance(error, MemoryError):
        return _said("MemoryError", "there is not enough memory", "give fewer rows, or a smaller --batch-size")
    return None


def _said(kind: str, message: str, remedy: str | None) -> dict[str, Any]:
    text = f"{message}: {remedy}" if remedy else message
    return {"kind": kind, "message": text, "column": None, "ids": [], "remedy": remedy}


def usage_sentence(error: Any, commands: Iterable[str]) -> dict[str, Any]:
    """What is wrong with the words of a command line.

    Parameters
    ----------
    error : cyclopts.CycloptsError
    commands : iterable of str
        Known commands. Cyclopts would import all of them for its own sentence.
    """
    chain: Sequence[str] = error.command_chain or ()
    command = " ".join(chain)
    more = f"datumwise {command + ' ' if command else ''}--help says more"
    kind = type(error).__name__
    if kind == "UnknownCommandError":
        word = error.unused_tokens[0]
        guess = nearest(word, commands)
        remedy = f"did you mean {guess}?" if guess else f"commands are {', '.join(commands)}"
        return _said("UsageError", f"there is no command {word!r}", remedy)
    if kind == "UnknownOptionError":
        word = (error.token.keyword or error.token.value).partition("=")[0]
        known = {name for argument in error.argument_collection for name in argument.names if argument.parse}
        guess = nearest(word, sorted(known), cutoff=0.6)
        where = f"datumwise {command}" if command else "datumwise"
        return _said("UsageError", f"{where} has no option {word}", f"did you mean {guess}?" if guess else more)
    if kind in ("UnusedCliTokensError", "ArgumentOrderError"):
        words = error.unused_tokens or [getattr(error, "token", "")]
        return _said("UsageError", f"{' '.join(map(str, words))!r} is one word too many", more)
    if kind in ("MissingArgumentError", "ConsumeMultipleError"):
        name = error.keyword or (error.argument.name if error.argument else "an argument")
        if not name.startswith("-"):
            return _said("UsageError", f"{name.upper()} is missing", more)
        given = error.argument is not None and error.argument.tokens
        return _said("UsageError", f"{name} needs a value" if given or error.keyword else f"{name} is missing", more)
    if kind == "CoercionError" and error.token is not None:
        word = error.token.value
        flag = error.token.keyword or (error.argument.name.lstrip("-").upper() if error.argument else "")
        choices = _choices(error.target_type)
        if choices:
            guess = nearest(word, choices)
            remedy = f"did you mean {guess}?" if guess else f"choose one of {', '.join(choices)}"
        else:
            remedy = more
        wanted = "one of its values" if choices else _wanted(error.target_type)
        return _said("UsageError", f"{flag} {word!r} is not {wanted}", remedy)
    if kind == "RepeatArgumentError":
        return _said("UsageError", f"{error.token.keyword} is given twice", "give it once")
    text = str(error).strip().splitlines()[0].rstrip(".")
    return _said("UsageError", text[:1].lower() + text[1:], more)


def _choices(target: Any) -> list[str]:
    from typing import Literal, get_args, get_origin

    if get_origin(target) is Literal:
        return [str(value) for value in get_args(target)]
    return [choice for part in get_args(target) for choice in _choices(part)]


def _wanted(target: Any) -> str:
    return {int: "a whole number", float: "a number"}.get(target, f"a {getattr(target, '__name__', target)}")


def bug_report(error: BaseException, argv: Sequence[str]) -> tuple[str, str]:
    """Write the traceback to a file; returns the sentence and the file's path."""
    import platform
    import tempfile
    import traceback

    from datumwise._version import __version__

    text = "".join(traceback.format_exception(error))
    head = f"datumwise {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    with tempfile.NamedTemporaryFile(
        "w", prefix="datumwise-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as handle:
        handle.write(f"{head}command: {shlex.join(['datumwise', *argv])}\n\n{text}")
    said = str(error).strip().splitlines()
    first = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    return (
        f"this is a fault of datumwise ({first}); please report it with the file {handle.name}",
        handle.name,
    )
