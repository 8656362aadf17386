"""How a function becomes a score that catalogue, command line and report find: it is declared, once."""

from __future__ import annotations

import difflib
import html
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, TypeVar

from datumwise.errors import DatumwiseError, UnknownName

__all__ = ["Methods", "Score", "catalogue", "find", "methods", "score", "suggestion"]

GROUP = "datumwise.scores"  # entry-point group by which other packages add theirs
F = TypeVar("F", bound=Callable[..., Any])

_declared: dict[str, Score] = {}
_loaded: list[bool] = []  # not empty once every module and entry point has been imported


@dataclass(frozen=True)
class Score:
    """A declared score: a pure function from signals to one number a datapoint.

    Attributes
    ----------
    name : str
        The ledger column it writes.
    function : callable
        Takes the signals in ``needs`` by position, then keyword parameters; returns an array (n,).
    needs : tuple of str
        Names of signals, see `datumwise.probe.signals`.
    higher : str
        What a higher value says: "more likely mislabelled".
    source : str
        Paper and equation or section.
    summary : str
        First line of the docstring.
    room : str
        Part of datumwise, or other package, that declares it.
    parameters : mapping of str to default
        Keyword parameters.
    """

    name: str
    function: Callable[..., Any] = field(repr=False)
    needs: tuple[str, ...]
    higher: str
    source: str
    summary: str
    room: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


def score(*, needs: Iterable[str], higher: str, source: str, name: str | None = None) -> Callable[[F], F]:
    """Declare a function as a score; the function itself stays as it is.

    Parameters
    ----------
    needs : iterable of str
        Signals, in the order of the function's first parameters.
    higher : str
        What a higher value says.
    source : str
        Paper, with equation or section.
    name : str, optional
        Name and ledger column; the function's name by default.

    Raises
    ------
    DatumwiseError
        Another function has declared this name, or the function does not take what it needs.

    Examples
    --------
    >>> @score(needs=("probs",), higher="more in doubt", source="Shannon, 1948, section 6", name="doc_doubt")
    ... def doubt(probs):
    ...     \"\"\"How little does the model prefer its favourite class?\"\"\"
    ...     return 1 - probs.max(axis=1)
    >>> find("doc_doubt").summary
    'How little does the model prefer its favourite class?'
    """
    wanted = (needs,) if isinstance(needs, str) else tuple(needs)

    def declare(function: F) -> F:
        entry = _described(function, name or function.__name__, wanted, higher, source)
        earlier = _declared.get(entry.name)
        if earlier is not None and _origin(earlier.function) != _origin(function):
            raise DatumwiseError(
                f"a score {entry.name!r} is declared already, in {earlier.function.__module__}",
                remedy="give the new one another name",
            )
        _declared[entry.name] = entry
        return function

    return declare


def catalogue() -> dict[str, Score]:
    """Every declared score by name, in alphabetical order: this package's and those of installed ones."""
    if not _loaded:
        import datumwise.score as room

        for module in pkgutil.iter_modules(room.__path__):
            importlib.import_module(f"{room.__name__}.{module.name}")
        for point in entry_points(group=GROUP):
            _load(point)
        _loaded.append(True)
    return dict(sorted(_declared.items()))


def find(name: str) -> Score:
    """The score of this name.

    Raises
    ------
    UnknownName
        There is none; the remedy names the most similar.
    """
    known = catalogue()
    if name not in known:
        raise UnknownName(
            f"there is no score {name!r}",
            remedy=suggestion(name, known) or "`datumwise methods` lists them",
        )
    return known[name]


def methods() -> Methods:
    """Every score there is, as a table: `datumwise methods`."""
    return Methods(catalogue().values())


class Methods(list[Score]):
    """A list of `Score` that prints as a table."""

    def __repr__(self) -> str:
        name = max((len(s.name) for s in self), default=0)
        needs = max((len(", ".join(s.needs)) for s in self), default=0)
        lines = [f"{s.name:<{name}}  {', '.join(s.needs):<{needs}}  {s.summary}" for s in self]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = ("score", "what it answers", "needs", "higher means", "source")
        rows = [(s.name, s.summary, ", ".join(s.needs), s.higher, s.source) for s in self]
        cells = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows
        )
        return f"<table><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr>{cells}</table>"


def suggestion(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'?"`` if a known name is similar, else an empty string.

    Examples
    --------
    >>> suggestion("lable_error", ["label_error", "el2n"])
    "did you mean 'label_error'?"
    >>> suggestion("zzz", ["label_error"])
    ''
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def _described(function: Callable[..., Any], name: str, needs: tuple[str, ...], higher: str, source: str) -> Score:
    taken = inspect.signature(function).parameters
    required = [p for p, v in taken.items() if v.default is v.empty and v.kind is not v.VAR_KEYWORD]
    if not needs or len(required) != len(needs):
        raise DatumwiseError(
            f"score {name!r} needs {', '.join(needs) or 'nothing'}, but its function takes {', '.join(required) or 'nothing'}",
            remedy="one parameter a signal, and a default for every other one",
        )
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    parts = function.__module__.split(".")
    room = parts[1] if parts[0] == "datumwise" and len(parts) > 1 else parts[0]
    parameters = {p: v.default for p, v in taken.items() if v.default is not v.empty}
    return Score(name, function, needs, higher, source, summary, room, parameters)


def _origin(function: Callable[..., Any]) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def _load(point: Any) -> None:
    """Import one entry point; a broken package must not take the catalogue with it, nor fail in silence."""
    try:
        point.load()
    except DatumwiseError:
        raise
    except Exception as error:
        warnings.warn(f"scores of {point.value} could not be loaded: {error}", stacklevel=3)
