"""What a command hands back: lines for people, one document for programs, and an exit code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datumwise.cli.terminal import Line, Surface

__all__ = ["FORMAT", "Outcome", "document", "plain"]

FORMAT = 1  # version of the --json documents


@dataclass(frozen=True)
class Outcome:
    """Result of a command.

    Attributes
    ----------
    facts : mapping
        Fields of the ``--json`` document.
    lines : callable
        ``lines(surface)``: the same for people, laid out for a surface.
    code : int
        Exit code.
    notes : sequence of str
        Lines for stderr, after the result.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: Callable[[Surface], Sequence[str | Line]] = lambda to: []
    code: int = 0
    notes: Sequence[str | Line] = ()


def document(facts: Mapping[str, Any]) -> str:
    """One JSON document, versioned.

    Examples
    --------
    >>> document({"rows": 3, "threshold": float("nan")})
    '{"datumwise": 1, "rows": 3, "threshold": null}'
    """
    import json

    return json.dumps({"datumwise": FORMAT, **plain(facts)}, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """A value as JSON knows it: NaN and infinity become null, bytes their number, times ISO, arrays lists."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None  # false for NaN and the infinities
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)
