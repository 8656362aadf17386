"""The steps of a pipeline: filter, leave out copies, score, choose. Each is a column, and says what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.select.choose import collect, fitted_to, provenance_of, reads_of, selection_columns
from datumwise.select.recorded import recorded
from datumwise.select.selector import Selector, snake_case
from datumwise.select.view import View

if TYPE_CHECKING:
    from datumwise.ledger import Provenance
    from datumwise.select.groups import Groups

__all__ = ["Choose", "Deduplicate", "Filter", "Found", "Score", "Step"]

KEPT, LEFT_OUT = "true: goes on to the next step", "false: left out"


@dataclass(frozen=True)
class Found:
    """What a step found, for the rows of its view.

    Attributes
    ----------
    columns : dict of str to array or Arrow array (m,)
    made : dict of str to Provenance
        Of some or all of the columns; the step's own for the others.
    """

    columns: dict[str, Any]
    made: dict[str, Provenance]


class Step:
    """One step: a pure function of the rows that the steps before it left.

    Attributes
    ----------
    name : str
        Of its main column.
    rowwise : bool
        Whether a datapoint's value depends on that datapoint alone; then only new ones are ever computed.
    narrows : bool
        Whether it leaves datapoints out.
    """

    name: str
    rowwise: bool = False
    narrows: bool = True
    source: str = ""
    higher: str = f"{KEPT}; {LEFT_OUT}"
    refers_to_ids: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        return snake_case(type(self).__name__)

    def parts(self) -> tuple[Step, ...]:
        """The steps it consists of."""
        return (self,)

    def columns(self) -> tuple[str, ...]:
        """Columns it writes; the first says that it was done."""
        return (self.name,)

    def described(self) -> dict[str, Any]:
        """Its options, as JSON can hold them."""
        raise NotImplementedError

    def reads(self, view: View) -> tuple[list[str], bool]:
        """Columns it depends on; and whether on their values in all rows, not only in those left."""
        raise NotImplementedError

    def found(self, view: View) -> Found:
        """Do it."""
        raise NotImplementedError

    def keeps(self, values: Any) -> np.ndarray:
        """bool (m,): which rows go on, given the main column's values (Arrow)."""
        return np.asarray(values.fill_null(False).to_numpy(zero_copy_only=False), bool)

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self.described().items() if v is not None)
        return f"{type(self).__name__}({options})"


class Filter(Step):
    """Keep the datapoints for which a condition holds, or whose column lies within bounds.

    Parameters
    ----------
    column : str, optional
        Column of numbers.
    at_least, below : float, optional
        Keep values in [at_least, below); a datapoint without a value is left out.
    where : str, optional
        SQL condition instead, over all columns of a ledger.
    name : str, default "kept"
        Column written: bool.
    """

    def __init__(
        self,
        column: str | None = None,
        *,
        at_least: float | None = None,
        below: float | None = None,
        where: str | None = None,
        name: str = "kept",
    ) -> None:
        if (column is None) == (where is None):
            raise DatumwiseError("a filter takes a column, or a condition", remedy="Filter('length', at_least=3)")
        if column is not None and at_least is None and below is None:
            raise DatumwiseError(f"the filter of {column!r} has no bounds", remedy="give at_least= or below=")
        self.column, self.at_least, self.below, self.where, self.name = column, at_least, below, where, name

    def described(self) -> dict[str, Any]:
        return {"column": self.column, "at_least": self.at_least, "below": self.below, "where": self.where}

    def reads(self, view: View) -> tuple[list[str], bool]:
        if self.column is not None:
            return [self.column], False
        names = view.names
        mentioned = [name for name in names if name.lower() in str(self.where).lower()]
        return [name for name in mentioned if name != self.name], False

    def found(self, view: View) -> Found:
        if self.column is not None:
            values = np.asarray(view.column(self.column))
            if values.dtype.kind not in "fiub" or values.ndim != 1:
                raise SchemaMismatch(f"column {self.column!r} is no column of numbers", remedy="filter with where=")
            values = values.astype(np.float64)
            keep = ~np.isnan(values)
            keep &= values >= (-np.inf if self.at_least is None else self.at_least)
            keep &= values < np.inf if self.below is None else values < self.below
            return Found({self.name: keep}, {})
        if view.ledger is None:
            raise SchemaMismatch("a condition in SQL works on a ledger, and plain arrays were given", remedy="give a column")
        holds = view.ledger.table(["id"], where=self.where)["id"].to_pylist()
        return Found({self.name: np.isin(view.ids.astype(str), np.asarray(holds, str))}, {})


class Score(Step):
    """Compute one number (or vector) a datapoint, or several.

    Parameters
    ----------
    compute : callable
        With ``reads``: takes these columns by position, of the rows to compute; else takes a ledger of these rows
        (``functools.partial(datumwise.score.run, model=..., names=...)``). Returns an array (m,) or (m, d), or a
        mapping from name to array.
    names : str or sequence of str
        Columns it makes.
    reads : str or sequence of str, optional
        Columns it takes; ``"texts"`` is the text of each datapoint, by the ledger's roles.
    rowwise : bool, default False
        A datapoint's values depend on that datapoint alone (and on the model): new datapoints are computed by
        themselves, and the others never again.
    higher, source : str
        For the provenance, where ``compute`` writes none itself.
    """

    narrows = False

    def __init__(
        self,
        compute: Callable[..., Any],
        names: str | Sequence[str],
        *,
        reads: str | Sequence[str] | None = None,
        rowwise: bool = False,
        higher: str = "",
        source: str = "",
    ) -> None:
        self.compute = compute
        self.names = (names,) if isinstance(names, str) else tuple(names)
        if not self.names:
            raise DatumwiseError("a score step makes no column", remedy="name the columns it makes")
        self.name = self.names[0]
        self.taken = None if reads is None else [reads] if isinstance(reads, str) else list(reads)
        self.rowwise = rowwise
        self.higher = higher
        self.source = source

    def columns(self) -> tuple[str, ...]:
        return self.names

    def described(self) -> dict[str, Any]:
        return {"compute": recorded(self.compute), "names": list(self.names), "reads": self.taken, "rowwise": self.rowwise}

    def reads(self, view: View) -> tuple[list[str], bool]:
        if self.taken is None:
            return _role_columns(view), False
        named = [name for name in self.taken if name != "texts"]
        return named + (_text_columns(view) if "texts" in self.taken else []), False

    def found(self, view: View) -> Found:
        made: dict[str, Provenance] = {}
        if self.taken is not None:
            values = self.compute(*(view.texts() if name == "texts" else view.column(name) for name in self.taken))
            columns = self._named(values, len(view))
        else:
            with view.as_ledger() as ledger:
                values = self.compute(ledger)
                columns = self._named(self._in_order(values, view), len(view))
                ledger.refresh()
                for name in columns:
                    written = ledger.provenance(name) if name in ledger.schema.names else None
                    if written is not None and written.method != self.method:
                        made[name] = written
        return Found(columns, made)

    def _in_order(self, values: Any, view: View) -> Any:
        """Scores carry ids of their own, which may come in another order."""
        ids = getattr(values, "ids", None)
        if ids is None or np.array_equal(np.asarray(ids), view.ids):
            return values
        place = {one: i for i, one in enumerate(np.asarray(ids).tolist())}
        if set(place) != set(view.ids.tolist()):
            raise SchemaMismatch(f"score step {self.name!r} was asked of {len(view):,} datapoints and gave {len(place):,}")
        order = [place[one] for one in view.ids.tolist()]
        return {name: np.asarray(values[name])[order] for name in values}

    def _named(self, values: Any, m: int) -> dict[str, Any]:
        if not isinstance(values, Mapping):
            values = {self.name: values}
        lacking = [name for name in self.names if name not in values]
        if lacking:
            raise UnknownName(f"score step {self.name!r} made no column {lacking[0]!r}", remedy=f"it made {', '.join(values)}")
        found = {name: np.asarray(values[name]) for name in self.names}
        for name, column in found.items():
            if len(column) != m:
                raise SchemaMismatch(f"score step gave {len(column):,} values of {name!r} for {m:,} datapoints")
        return found


class Deduplicate(Step):
    """Leave out copies, and say of which datapoint each is one.

    Parameters
    ----------
    group : "minhash", "exact" or callable, default "minhash"
        A callable takes the values (or signatures) of the rows and returns `Groups`.
    reads : str, optional
        Column whose values are compared; the text, by the ledger's roles, if none is named.
    signature : callable, optional
        values (m,) -> signatures (m, s), a row a datapoint; they are kept as a column, and made for new datapoints
        only. "minhash" brings its own.
    name : str, default "unique"
        Column written: bool; ``<name>_of`` is the id of the datapoint that is kept in place of a copy.
    **options
        Of `datumwise.select.minhash.minhash` (``threshold``, ``num_perm``, ``ngram``, ``bands``, ``seed``) or of
        `datumwise.select.exact.exact` (``normalise``).
    """

    def __init__(
        self,
        group: str | Callable[..., Groups] = "minhash",
        *,
        reads: str | None = None,
        signature: Callable[..., np.ndarray] | None = None,
        name: str = "unique",
        **options: Any,
    ) -> None:
        self.group, self.taken, self.name, self.options = group, reads or "texts", name, options
        self.signature = signature
        self.refers_to_ids = (f"{name}_of",)
        if group == "minhash":
            signing = {k: options[k] for k in ("num_perm", "ngram", "family", "seed") if k in options}
            self.signature = partial(_minhash_signatures, **signing)
            self._grouped: Callable[..., Groups] = partial(_minhash_groups, **options)
            self.source = "Broder, 1997"
        elif group == "exact":
            self._grouped = partial(_exact, **options)
        elif callable(group):
            self._grouped = partial(group, **options) if options else group
        else:
            raise UnknownName(f"there is no deduplication {group!r}", remedy="say 'minhash', 'exact', or give a function")

    def parts(self) -> tuple[Step, ...]:
        if self.signature is None:
            return (self,)
        signing = Score(
            self.signature, f"{self.name}_signature", reads=self.taken, rowwise=True, higher="a signature", source=self.source
        )
        return (signing, _Grouping(self))

    def columns(self) -> tuple[str, ...]:
        return (self.name, f"{self.name}_of")

    def described(self) -> dict[str, Any]:
        return {"group": recorded(self.group), "reads": self.taken, "options": recorded(self.options) or None}

    def reads(self, view: View) -> tuple[list[str], bool]:
        return (_text_columns(view) if self.taken == "texts" else [self.taken]), False

    def found(self, view: View) -> Found:
        return self.groups_of(view, view.texts() if self.taken == "texts" else view.column(self.taken))

    def groups_of(self, view: View, values: Any) -> Found:
        """The two columns."""
        groups = self._grouped(values)
        ids = [str(one) for one in view.ids]
        of = [None if kept else ids[by] for kept, by in zip(groups.keep, groups.kept_by.tolist(), strict=True)]
        return Found({self.name: np.asarray(groups.keep), f"{self.name}_of": pa.array(of, pa.string())}, {})


class _Grouping(Deduplicate):
    """Deduplication of signatures that are there."""

    def __init__(self, whole: Deduplicate) -> None:
        self.__dict__.update(whole.__dict__)

    @property
    def method(self) -> str:
        return "deduplicate"

    def parts(self) -> tuple[Step, ...]:
        return (self,)

    def reads(self, view: View) -> tuple[list[str], bool]:
        return [f"{self.name}_signature"], False

    def found(self, view: View) -> Found:
        return self.groups_of(view, view.column(f"{self.name}_signature"))


class Choose(Step):
    """Let a selector choose, as `datumwise.select.choose.choose` does.

    Parameters
    ----------
    selector : Selector
    by : str, optional
        Column of scores.
    model : optional
        For embeddings or gradients.
    inputs : mapping of str to column name or array, optional
        Arrays are of a target set only: those of the datapoints belong on the ledger.
    name : str, default "selected"
        Columns written: ``<name>``, ``<name>_gain``, and ``<name>_weight`` of a selector that weighs.
    seed : int, default 0
        Of the projection of features.
    """

    higher = "chosen later (rank), or added more (gain)"

    def __init__(
        self,
        selector: Selector,
        *,
        by: str | None = None,
        model: Any = None,
        inputs: Mapping[str, Any] | None = None,
        name: str = "selected",
        seed: int = 0,
    ) -> None:
        for key, value in (inputs or {}).items():
            if not isinstance(value, str) and not key.startswith("target"):
                raise DatumwiseError(
                    f"input {key!r} is an array, which does not follow datapoints that come and go",
                    remedy="write it to the ledger and name the column",
                )
        self.selector, self.by, self.model, self.inputs, self.name, self.seed = selector, by, model, inputs, name, seed

    @property
    def method(self) -> str:
        return snake_case(type(self.selector).__name__)

    def columns(self) -> tuple[str, ...]:
        return (self.name, f"{self.name}_gain")

    def described(self) -> dict[str, Any]:
        return {
            "selector": recorded(self.selector),
            "by": self.by,
            "model": recorded(self.model),
            "inputs": recorded(dict(self.inputs or {})) or None,
        }

    def reads(self, view: View) -> tuple[list[str], bool]:
        return reads_of(view, self.selector, by=self.by, inputs=self.inputs, model=self.model)

    def found(self, view: View) -> Found:
        given, left, _ = collect(view, self.selector, by=self.by, model=self.model, inputs=self.inputs, seed=self.seed)
        fitted = fitted_to(self.selector, given)
        made = provenance_of(fitted, left, by=self.by, model=self.model, inputs=self.inputs, where=None, seed=self.seed)
        place = np.searchsorted(view.rows, left.rows)
        columns = selection_columns(fitted, place, len(view), self.name)
        return Found(columns, {name: replace(made) for name in columns})

    def keeps(self, values: Any) -> np.ndarray:
        return np.asarray(values.is_valid().to_numpy(zero_copy_only=False), bool)


def _role_columns(view: View) -> list[str]:
    if view.ledger is None:
        return view.names
    found = [c for r in view.ledger.roles.values() for c in ([r] if isinstance(r, str) else r)]
    return [c for c in dict.fromkeys(found) if c != "id" and c in view.names]


def _text_columns(view: View) -> list[str]:
    if view.ledger is None:
        return ["text"]
    from datumwise.probe.given import text_columns

    return text_columns(view.ledger)


def _minhash_signatures(texts: Sequence[str], **options: Any) -> np.ndarray:
    from datumwise.select.minhash import minhash_signatures

    return minhash_signatures(list(texts), **options)


def _minhash_groups(
    signatures: np.ndarray,
    *,
    threshold: float = 0.7,
    num_perm: int = 128,
    ngram: int = 5,
    bands: tuple[int, int] | None = None,
    family: str = "affine",
    seed: int = 1,
) -> Groups:
    """Groups of texts by their signatures alone."""
    from datumwise.select.minhash import MinHashIndex, band_shape

    shape = band_shape(threshold, num_perm) if bands is None else bands
    prints = np.ascontiguousarray(signatures, np.uint32)
    lengths = np.full(len(prints), -1)
    return MinHashIndex(prints, lengths, threshold, ngram, shape, family, seed).groups(verify="signature")


def _exact(values: Any, **options: Any) -> Groups:
    from datumwise.select.exact import exact

    return exact(values, **options)
