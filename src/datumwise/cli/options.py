"""Options that mean the same in every command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cyclopts import Parameter

__all__ = ["Common", "key_values", "names_of", "seconds_of"]


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


def key_values(words: Sequence[str] | None) -> dict[str, Any]:
    """``key=value`` words; a value is what JSON reads, else text.

    Examples
    --------
    >>> key_values(["gamma=0.5", "combine=product", "bands=[14, 9]", "alpha=null"])
    {'gamma': 0.5, 'combine': 'product', 'bands': [14, 9], 'alpha': None}
    """
    import json

    from datumwise.errors import DatumwiseError

    found: dict[str, Any] = {}
    for word in words or ():
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise DatumwiseError(f"--option {word!r} is no key=value", remedy="--option gamma=0.5")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


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
