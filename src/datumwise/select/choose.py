"""Let a selector choose among the datapoints of a ledger, and keep what it chose as columns of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from sklearn.base import clone

from datumwise.errors import ColumnExists, DatumwiseError, EmptyData, MissingId, SchemaMismatch, name_some
from datumwise.probe.given import places
from datumwise.select.random_subset import RandomSubset
from datumwise.select.recorded import recorded
from datumwise.select.selector import INPUTS, Selector, snake_case
from datumwise.select.view import View, of_ledger

if TYPE_CHECKING:
    from datumwise.ledger import Ledger, Provenance

__all__ = ["Choice", "choose", "collect", "fitted_to", "provenance_of", "reads_of", "selection_columns"]

EMBEDDING, GRADIENTS = "embedding", "grad_index"  # columns that inputs are read from where a ledger has them
SHOWN = 10  # picks that are printed


@dataclass(frozen=True)
class Choice:
    """What a selector chose, in the order chosen; prints the first picks.

    Attributes
    ----------
    method : str
        Selector, in the field's spelling.
    column : str
        Column with the rank, 1 to k, null where not chosen; ``<column>_gain`` beside it, and ``<column>_weight``
        of a selector that weighs.
    ids : array (k,)
    gains : float64 (k,)
    weights : float64 (k,) or None
    n_seen : int
        Datapoints there were to choose from.
    left_out : dict of str to int
        Datapoints that were not, and why.
    version : int
        Ledger version that holds the columns.
    """

    method: str
    column: str
    ids: np.ndarray = field(repr=False)
    gains: np.ndarray = field(repr=False)
    weights: np.ndarray | None = field(repr=False)
    n_seen: int
    left_out: dict[str, int]
    version: int

    def __len__(self) -> int:
        return len(self.ids)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "method": self.method,
            "column": self.column,
            "chosen": len(self),
            "of": self.n_seen,
            "left_out": self.left_out,
            "version": self.version,
            "ids": [str(one) for one in self.ids],
            "gains": self.gains.tolist(),
            "weights": None if self.weights is None else self.weights.tolist(),
        }

    def to_json(self) -> str:
        """The same as one JSON object."""
        return json.dumps(self.as_dict())

    def __str__(self) -> str:
        head = f"{len(self):,} of {self.n_seen:,} datapoints chosen by {self.method} -> column {self.column}"
        lines = [f"{head}, ledger version {self.version}"]
        lines += [f"left out: {n:,} {why}" for why, n in self.left_out.items()]
        shown = [str(one) for one in self.ids[:SHOWN]]
        width = max(map(len, [*shown, "id"]))
        weighed = self.weights is not None
        lines.append(f"{'rank':>4}  {'id':<{width}}  {'gain':>10}" + ("      weight" if weighed else ""))
        for place, name in enumerate(shown):
            line = f"{place + 1:>4}  {name:<{width}}  {self.gains[place]:>10.4g}"
            lines.append(line + (f"  {self.weights[place]:>10.4g}" if self.weights is not None else ""))
        return "\n".join(lines + ([f"and {len(self) - SHOWN:,} more"] if len(self) > SHOWN else []))


def choose(
    ledger: Ledger,
    selector: Selector,
    *,
    by: str | None = None,
    model: Any = None,
    column: str = "selected",
    inputs: Mapping[str, Any] | None = None,
    where: str | None = None,
    seed: int = 0,
    signal_options: Mapping[str, Any] | None = None,
    overwrite: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Choice:
    """Give a selector what it takes from a ledger, and write its choice.

    What a selector takes is read from ``inputs``; else embeddings come from the column ``embedding``, from the
    ``model`` or from the ledger's own features; gradients from the column ``grad_index`` or from the model; scores
    from the column ``by``; labels from the ledger's label; texts from its text. Optional inputs (labels, for a
    choice class by class; a target set) are taken from ``inputs`` alone.

    Parameters
    ----------
    ledger : Ledger
    selector : Selector
        Not changed: a clone is fitted.
    by : str, optional
        Column of scores. Datapoints that have none (null or NaN) cannot be chosen.
    model : optional
        Whatever `datumwise.probe.signals` takes, for embeddings or gradients.
    column : str, default "selected"
        Name of the columns written.
    inputs : mapping of str to array or column name, optional
        By the names in ``selector.takes``; arrays are in ledger order (those of the target set are as they are).
    where : str, optional
        SQL condition: only these datapoints can be chosen.
    seed : int, default 0
        Of the projection of wide features, and of the model's signals.
    signal_options : mapping, optional
        Further options of `datumwise.probe.signals` (``tokenizer``, ``losses``, ``batch_size``).
    overwrite : bool, default True
        Replace the columns of an earlier choice of this name.
    progress : callable (done, total), optional
        Of the model's pass.

    Returns
    -------
    Choice

    Raises
    ------
    DatumwiseError
        The selector needs something the ledger does not have; the sentence says what.
    ColumnExists
        A column of this name came with the data.

    Examples
    --------
    >>> import tempfile
    >>> from datumwise import ingest
    >>> from datumwise.select import find
    >>> rows = {"id": [f"d{i}" for i in range(6)], "quality": np.array([1.0, 5.0, 3.0, 2.0, 6.0, 4.0])}
    >>> ledger = ingest(rows, out=tempfile.mkdtemp() + "/notes")
    >>> print(choose(ledger, find("top_k")(2), by="quality"))
    2 of 6 datapoints chosen by top_k -> column selected, ledger version 2
    rank  id        gain
       1  d4           6
       2  d1           5
    >>> ledger.sql("select id from ledger where selected is not null order by selected")["id"].to_pylist()
    ['d4', 'd1']
    """
    _refuse_column(ledger, column, overwrite)
    view = of_ledger(ledger)
    left_out = {}
    if where is not None:
        inside = places(ledger, where)
        left_out["where the condition does not hold"] = len(ledger) - len(inside)
        view = view.only(inside)
    if not len(view):
        raise EmptyData("there is no datapoint to choose from", remedy="a wider condition")
    found, view, without = collect(
        view,
        selector,
        by=by,
        model=model,
        inputs=inputs,
        seed=seed,
        signal_options=signal_options,
        progress=progress,
    )
    left_out |= without
    fitted = fitted_to(selector, found)
    made = provenance_of(fitted, view, by=by, model=model, inputs=inputs, where=where, seed=seed)
    values = selection_columns(fitted, view.rows, len(ledger), column)
    version = ledger.write(values, provenance=made, overwrite=overwrite)
    stale = f"{column}_weight"
    if stale not in values and stale in ledger.schema.names:
        version = ledger.drop(stale)
    return Choice(
        snake_case(type(selector).__name__),
        column,
        view.ids[fitted.ranking_],
        fitted.gains_,
        getattr(fitted, "weights_", None),
        len(view),
        {why: n for why, n in left_out.items() if n},
        version,
    )


def collect(
    view: View,
    selector: Selector,
    *,
    by: str | None = None,
    model: Any = None,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    signal_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], View, dict[str, int]]:
    """What a selector takes, for the rows of a view that have it.

    Returns
    -------
    inputs : dict of str to array
    view : View
        The rows left: those with a score.
    left_out : dict of str to int
        How many were not, and why.
    """
    given = dict(inputs or {})
    wanted = {name.rstrip("?"): not name.endswith("?") for name in selector.takes}
    strange = [name for name in given if name not in wanted]
    if strange:
        raise DatumwiseError(f"{type(selector).__name__} takes no {strange[0]}", remedy=f"it takes {', '.join(wanted)}")
    if by is not None:
        if "scores" not in wanted:
            raise DatumwiseError(f"{type(selector).__name__} chooses by no score", remedy="leave out by=")
        given.setdefault("scores", by)
    left_out: dict[str, int] = {}
    if isinstance(given.get("scores"), str):
        values = _numbers(view, given["scores"])
        undefined = ~np.isfinite(values)
        if undefined.all():
            raise EmptyData(f"column {given['scores']!r} has no value for any datapoint", remedy="compute the score first")
        if undefined.any():
            left_out[f"without a value of {given['scores']}"] = int(undefined.sum())
            view = view.only(view.rows[~undefined])
    found = {}
    for name, needed in wanted.items():
        if name in given:
            found[name] = _given(view, name, given[name])
        elif needed:
            options = {**(signal_options or {}), "seed": seed, "progress": progress}
            found[name] = _derived(view, name, selector, model, options)
    return found, view, left_out


def reads_of(
    view: View, selector: Selector, *, by: str | None, inputs: Mapping[str, Any] | None, model: Any = None
) -> tuple[list[str], bool]:
    """Columns that a choice depends on, and whether on those of all rows (features are fitted to all)."""
    named = [value for value in (inputs or {}).values() if isinstance(value, str)]
    named += [by] if by is not None else []
    everything = False
    for taken in selector.takes:
        name = taken.rstrip("?")
        if taken.endswith("?") or name in (inputs or {}) or name == "scores":
            continue
        column = {"X": EMBEDDING, "gradients": GRADIENTS}.get(name)
        if model is None and (column in view.names or name in view.names):
            named.append(str(column if column in view.names else name))
        elif view.ledger is not None:
            named += [c for r in view.ledger.roles.values() for c in ([r] if isinstance(r, str) else r) if c != "id"]
            everything = True
    return list(dict.fromkeys(named)), everything


def selection_columns(fitted: Selector, seen: np.ndarray, n: int, column: str) -> dict[str, pa.Array]:
    """Rank, gain (and weight) of n rows, null where not chosen; ``seen`` are the rows the selector was given."""
    rows = seen[fitted.ranking_]
    rank = np.zeros(n, np.int32)
    rank[rows] = np.arange(1, len(rows) + 1)
    absent = rank == 0
    found = {column: pa.array(rank, mask=absent)}
    numbers = {f"{column}_gain": fitted.gains_}
    if hasattr(fitted, "weights_"):
        numbers[f"{column}_weight"] = fitted.weights_
    for name, values in numbers.items():
        spread = np.zeros(n)
        spread[rows] = values
        found[name] = pa.array(spread, mask=absent)
    return found


def provenance_of(
    fitted: Selector,
    view: View,
    *,
    by: str | None,
    model: Any,
    inputs: Mapping[str, Any] | None,
    where: str | None,
    seed: int,
    **further: Any,
) -> Provenance:
    """What made a choice."""
    from datumwise.ledger import Provenance
    from datumwise.probe.fingerprint import model_fingerprint

    options = {name: recorded(value) for name, value in fitted.get_params(deep=False).items() if name != "random_state"}
    chosen_seed = fitted.get_params(deep=False).get("random_state")
    asked = {"by": by, "where": where, "inputs": recorded(dict(inputs or {})), "features_seed": seed}
    return Provenance(
        method=snake_case(type(fitted).__name__),
        params=options | {k: v for k, v in asked.items() if v not in (None, {})} | {"of": len(view)} | further,
        reads=reads_of(view, fitted, by=by, inputs=inputs, model=model)[0],
        model=None if model is None else model_fingerprint(model),
        seed=int(chosen_seed) if isinstance(chosen_seed, (int, np.integer)) else None,
        source=fitted.source,
        higher="chosen later (rank), or added more (gain)",
        kind="selection",
    )


def fitted_to(selector: Selector, found: Mapping[str, Any]) -> Selector:
    """A clone of the selector, fitted to inputs by name."""
    first, *rest = [name.rstrip("?") for name in selector.takes]
    fitted: Selector = clone(selector)
    return fitted.fit(found[first], **{name: found[name] for name in rest if name in found})


def _given(view: View, name: str, value: Any) -> Any:
    """An input that was named: a column, or an array in the order of the source."""
    if isinstance(value, str):
        return _whole(view, view.column(value), value)
    if name.startswith("target"):
        return value
    total = view.n_source
    if len(value) != total:
        raise SchemaMismatch(f"input {name} has {len(value):,} rows for {total:,} datapoints")
    return value[view.rows] if isinstance(value, np.ndarray) else [value[i] for i in view.rows]


def _derived(view: View, name: str, selector: Selector, model: Any, options: Mapping[str, Any]) -> Any:
    """An input that was not named, from where a source has it."""
    column = {"X": EMBEDDING, "gradients": GRADIENTS}.get(name)
    there = column if column in view.names else name if name in view.names else None
    if there is not None and model is None:
        return _whole(view, view.column(there), there)
    if name == "y" and isinstance(selector, RandomSubset) and not selector.stratified:
        return np.zeros(len(view), np.int8)
    ledger = view.ledger
    if name == "scores":
        raise DatumwiseError(f"{type(selector).__name__} chooses by a score", remedy="name its column with by= (--by)")
    if ledger is None:
        raise DatumwiseError(f"{type(selector).__name__} needs {name}: {INPUTS.get(name, name)}", remedy=f"give it as {name!r}")
    if name in ("X", "gradients") and model is not None:
        return _of_model(view, name, model, options)
    from datumwise.probe import given as of_ledger_itself

    if name == "X":
        return of_ledger_itself.embedding(ledger, seed=options["seed"])[view.rows]
    if name == "texts":
        return view.texts()
    if name == "y" and ledger.roles.get("label"):
        return _whole(view, view.column(ledger.roles["label"]), ledger.roles["label"])
    how = "pass model= (--model), whose gradients are taken" if name == "gradients" else f"inputs={{{name!r}: ...}}"
    raise DatumwiseError(
        f"{type(selector).__name__} needs {name} ({INPUTS.get(name, name)}), which {ledger.name} does not have", remedy=how
    )


def _of_model(view: View, name: str, model: Any, options: Mapping[str, Any]) -> np.ndarray:
    """Embeddings, or projected gradients with their length, from one pass of the model."""
    from datumwise import probe

    want = ["embedding"] if name == "X" else ["grad_index"]
    signals = probe.signals(model, view.ledger, want=want, **options)
    found = np.asarray(signals[want[0]], dtype=np.float32)
    if name == "gradients":
        found = found * np.asarray(signals["grad_index_norm"], dtype=np.float32)[:, None]
    place = {one: i for i, one in enumerate(np.asarray(signals.ids).tolist())}
    absent = [one for one in view.ids.tolist() if one not in place]
    if absent:
        raise MissingId(f"the model said nothing of {len(absent):,} datapoints ({name_some(absent)})", ids=absent)
    return found[[place[one] for one in view.ids.tolist()]]


def _whole(view: View, values: Any, name: str) -> Any:
    """A column that must have a value in every row; ids without one are named."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        gaps = np.isnan(values) if values.ndim == 1 else np.isnan(values).any(axis=1)
    elif isinstance(values, np.ndarray) and values.dtype == object:
        gaps = np.array([value is None for value in values])
    else:
        return values
    if gaps.any():
        ids = view.ids[gaps].tolist()
        raise SchemaMismatch(
            f"column {name!r} has no value in {len(ids):,} of the datapoints ({name_some(ids)})",
            remedy="compute or fill what is missing, or leave them out with where=",
            column=name,
            ids=ids,
        )
    return values


def _numbers(view: View, name: str) -> np.ndarray:
    values = np.asarray(view.column(name))
    if values.ndim != 1 or values.dtype.kind not in "fiub":
        raise SchemaMismatch(f"column {name!r} is no column of numbers", remedy="choose by a score", column=name)
    return values.astype(np.float64)


def _refuse_column(ledger: Ledger, name: str, overwrite: bool) -> None:
    for one in (name, f"{name}_gain", f"{name}_weight"):
        if one not in ledger.schema.names:
            continue
        made = ledger.provenance(one)
        if made is None or made.kind != "selection":
            what = "came with the data" if made is None else "is a finding"
            raise ColumnExists(f"column {one!r} {what}", remedy="give the choice another name", column=one)
        if not overwrite:
            raise ColumnExists(f"column {one!r} is on the ledger already", remedy="overwrite=True", column=one)
