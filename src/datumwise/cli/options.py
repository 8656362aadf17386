"""Options that mean the same in every command."""

from __future__ import annotations

from dataclasses import dataclass

from cyclopts import Parameter

__all__ = ["Common", "names_of", "seconds_of"]


@Parameter(name="*", group="Output")
@dataclass(frozen=True)
class Common:
    """How results are written.

    Parameters
    ----------
    json
        Write one JSON document to stdout instead of text, also for errors.
    quiet
        No progress on stderr.
    """

    json: bool = False
    quiet: bool = False


def names_of(text: str | list[str] | None) -> list[str] | None:
    """Names given one by one or with commas.

    Examples
    --------
    >>> names_of(["a,b", "c"])
    ['a', 'b', 'c']
    >>> names_of(None) is None
    True
    """
    if text is None:
        return None
    words = [text] if isinstance(text, str) else text
    return [name.strip() for word in words for name in word.split(",") if name.strip()]


def seconds_of(text: str | None) -> float | None:
    """A length of time: ``90``, ``90s``, ``5m``, ``1.5h``.

    Raises
    ------
    DatumwiseError

    Examples
    --------
    >>> seconds_of("5m"), seconds_of("90"), seconds_of(None)
    (300.0, 90.0, None)
    """
    if text is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    number = text[:-1] if unit else text
    try:
        seconds = float(number) * (unit or 1)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        from datumwise.errors import DatumwiseError

        raise DatumwiseError(f"--budget {text!r} is no length of time", remedy="give 90s, 5m or 1.5h")
    return seconds
