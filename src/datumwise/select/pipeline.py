"""Filter, leave out copies, score, choose: steps over a ledger that compute only what has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datumwise.errors import ColumnExists, DatumwiseError, LedgerChanged, UnknownName
from datumwise.select.steps import Choose, Found, Step
from datumwise.select.view import View, of_arrays, of_ledger

if TYPE_CHECKING:
    from datumwise.ledger import Ledger, Provenance

__all__ = ["Outcome", "Pipeline", "PipelinePlan", "PipelineRun"]

OVER = "over"  # parameter of a provenance: fingerprint of the rows and values that a step looked at


@dataclass(frozen=True)
class Outcome:
    """What became of one step, or would become."""

    name: str
    method: str
    action: str  # "computed", "added to" or "unchanged"
    n_in: int | None  # datapoints that reached it
    n_computed: int | None  # of which computed now; None where a plan cannot know
    n_out: int | None  # that go on
    why: str


@dataclass(frozen=True)
class PipelinePlan:
    """What a run would compute; prints as a table."""

    steps: tuple[Outcome, ...]

    def __str__(self) -> str:
        return _table(self.steps, "would compute")

    __repr__ = __str__


@dataclass(frozen=True)
class PipelineRun:
    """What a run did; prints as a table.

    Attributes
    ----------
    steps : tuple of Outcome
    ids : array (k,)
        Datapoints that all steps left; in the order chosen, if the last step chooses.
    version : int or None
        Ledger version that holds the columns.
    """

    steps: tuple[Outcome, ...]
    ids: np.ndarray = field(repr=False)
    version: int | None = None

    def to_json(self) -> str:
        """All of it as one JSON object."""
        steps = [asdict(step) for step in self.steps]
        return json.dumps({"steps": steps, "ids": [str(one) for one in self.ids], "version": self.version})

    def __str__(self) -> str:
        where = "" if self.version is None else f", ledger version {self.version}"
        return f"{_table(self.steps, 'computed')}\n{len(self.ids):,} datapoints are left{where}"

    __repr__ = __str__


class Pipeline:
    """Steps in a row; each sees the datapoints that the steps before it left, and is a column of the ledger.

    A second run computes what is new: values of new datapoints for steps that are rowwise, signatures of new
    datapoints, and the whole of a step only where the datapoints that reach it, or the values it reads, are others
    than last time. What a step did is told by the provenance of its column, so a run that was stopped goes on where
    it was; no state is kept elsewhere.

    Parameters
    ----------
    steps : sequence of Step
        `Filter`, `Deduplicate`, `Score`, `Choose`; names must differ.

    Examples
    --------
    >>> from datumwise.select.steps import Choose, Filter, Score
    >>> from datumwise.select.top_k import TopK
    >>> pipeline = Pipeline(
    ...     [
    ...         Score(lambda texts: [len(t.split()) for t in texts], "words", reads="text", rowwise=True),
    ...         Filter("words", at_least=2),
    ...         Choose(TopK(1), by="words"),
    ...     ]
    ... )
    >>> pipeline.fit_transform({"text": ["one", "two words", "three words here"]})["text"]
    ['three words here']
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        parts = tuple(part for step in steps for part in step.parts())
        if not parts:
            raise DatumwiseError("a pipeline has one step or more")
        names = [column for part in parts for column in part.columns()]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise DatumwiseError(f"two steps write the column {twice[0]!r}", remedy="give one of them another name=")
        self.steps = tuple(steps)
        self._parts = parts

    def __repr__(self) -> str:
        return f"Pipeline([{', '.join(map(repr, self.steps))}])"

    def plan(self, ledger: Ledger) -> PipelinePlan:
        """What `run` would compute now; nothing is computed or written.

        After a step that will be computed as a whole and leaves datapoints out, it is not known which are left; the
        steps behind it are listed as depending on that.
        """
        view, outcomes = of_ledger(ledger), []
        unsure = ""
        for part in self._parts:
            if unsure:
                outcomes.append(Outcome(part.name, part.method, "computed", None, None, None, f"depends on what {unsure}"))
                continue
            work = _work(part, view)
            n = len(view) if work.action == "computed" else len(work.todo)
            if not len(work.todo):
                left = part.keeps(_arrow(view, part.name)) if part.narrows else np.ones(len(view), bool)
                outcomes.append(Outcome(part.name, part.method, "unchanged", len(view), 0, int(left.sum()), work.why))
                view = view.only(view.rows[left])
                continue
            n_out = None if part.narrows else len(view)
            outcomes.append(Outcome(part.name, part.method, work.action, len(view), n, n_out, work.why))
            unsure = f"{part.name} leaves" if part.narrows else f"{part.name} will be"
        return PipelinePlan(tuple(outcomes))

    def run(self, ledger: Ledger, *, block: int = 10_000, progress: Callable[[int, int], None] | None = None) -> PipelineRun:
        """Compute what is missing, and write each step as it is done.

        Parameters
        ----------
        ledger : Ledger
        block : int, default 10,000
            Datapoints after which a rowwise step writes what it has: what a killed run has lost at most.
        progress : callable (steps done, steps), optional

        Returns
        -------
        PipelineRun

        Raises
        ------
        ColumnExists
            A column of a step's name came with the data, or was made by something else.
        LedgerChanged
            Datapoints came or went meanwhile; what is done is kept, run it again.
        """
        ledger.refresh()
        for part in self._parts:
            _refuse_foreign(part, ledger)
        view, outcomes, rows = of_ledger(ledger), [], ledger.row_ids
        for done, part in enumerate(self._parts):
            if not len(view):
                raise DatumwiseError(f"no datapoint is left for the step {part.name!r}", remedy="loosen the steps before it")
            work = _work(part, view)
            for todo in _blocks(work, block if part.rowwise else len(view)):
                some = view.only(todo)
                _write(part, ledger, view, some, part.found(some), work)
                if not np.array_equal(ledger.row_ids, rows):
                    raise LedgerChanged(f"datapoints of {ledger.name} came or went during the run", remedy="run it again")
                view = of_ledger(ledger).only(view.rows)
            if part.rowwise and len(work.todo) and not work.fresh:
                _restamp(part, ledger)
                view = of_ledger(ledger).only(view.rows)
            left = part.keeps(_arrow(view, part.name)) if part.narrows else np.ones(len(view), bool)
            computed = len(work.todo)
            action = work.action if computed else "unchanged"
            outcomes.append(Outcome(part.name, part.method, action, len(view), computed, int(left.sum()), work.why))
            view = view.only(view.rows[left])
            if progress is not None:
                progress(done + 1, len(self._parts))
        return PipelineRun(tuple(outcomes), _ranked(self._parts[-1], view), ledger.version)

    def fit_transform(self, data: Any) -> Any:
        """Run over plain arrays, or over a ledger.

        Parameters
        ----------
        data : Ledger, or mapping of str to array or list, all of one length
            ``id`` names the datapoints, ``text`` their texts, ``embedding`` where they sit.

        Returns
        -------
        dict of str to array or list
            The columns given and made, of the datapoints left; in the order chosen, if the last step chooses. Of a
            ledger: a `PipelineRun`.
        """
        if hasattr(data, "row_ids"):
            return self.run(data)
        arrays = dict(data)
        view = of_arrays(arrays)
        n, rows = len(view), view.rows
        for part in self._parts:
            if not len(rows):
                raise DatumwiseError(f"no datapoint is left for the step {part.name!r}", remedy="loosen the steps before it")
            clash = [name for name in part.columns() if name in data]
            if clash:
                raise ColumnExists(f"column {clash[0]!r} came with the data", remedy="give the step another name")
            view = of_arrays(arrays).only(rows)
            found = part.found(view)
            if part.narrows:
                values = found.columns[part.name]
                left = part.keeps(values if isinstance(values, pa.Array) else pa.array(values))
                rows = rows[left]
            for name, values in found.columns.items():
                arrays[name] = _spread(values, view.rows, n)
        if isinstance(self._parts[-1], Choose):
            rows = rows[np.argsort(np.asarray(arrays[self._parts[-1].name], np.float64)[rows], kind="stable")]
        return {
            name: values[rows] if isinstance(values, np.ndarray) else [values[i] for i in rows]
            for name, values in arrays.items()
        }


@dataclass(frozen=True)
class _Work:
    """What a step has to do: rows of the source, and why."""

    todo: np.ndarray
    action: str
    why: str
    made: Provenance
    fresh: bool  # the column is written anew


def _work(part: Step, view: View) -> _Work:
    """Which rows a step has to compute, told by the provenance of its column."""
    ledger = view.ledger
    assert ledger is not None
    over = None
    reads, every_row = part.reads(view)
    if not part.rowwise:
        over = view.fingerprint(reads, every_row=every_row)
    made = _provenance(part, reads, over)
    if any(name not in ledger.schema.names for name in part.columns()):
        return _Work(view.rows, "computed", "not computed yet", made, True)
    before = ledger.provenance(part.name)
    if before is None or before.params.get("step") != made.params["step"]:
        return _Work(view.rows, "computed", "its options have changed", made, True)
    if not part.rowwise:
        if before.params.get(OVER) == over:
            return _Work(view.rows[:0], "unchanged", "what it looks at is as it was", made, False)
        return _Work(view.rows, "computed", "the datapoints or values it looks at have changed", made, True)
    missing = np.isin(ledger.row_ids[view.rows], np.concatenate([ledger.missing(name) for name in part.columns()]))
    edited = np.isin(view.ids, _edited(ledger, before, reads)) & ~missing
    why = "every datapoint has its value" if not (missing | edited).any() else f"{int(missing.sum()):,} without a value"
    why += f", {int(edited.sum()):,} edited" if edited.any() else ""
    return _Work(view.rows[missing | edited], "added to", why, made, False)


def _provenance(part: Step, reads: Sequence[str], over: str | None) -> Provenance:
    from datumwise.ledger import Provenance

    params = {"step": part.described()} | ({} if over is None else {OVER: over})
    kind = "selection" if part.narrows else "finding"
    return Provenance(
        part.method, json.loads(json.dumps(params)), list(reads), source=part.source, higher=part.higher, kind=kind
    )


def _edited(ledger: Ledger, before: Provenance, reads: Sequence[str]) -> list[str]:
    """Ids of datapoints whose values in these columns are others than when the step was computed.

    Where that version was purged this cannot be told, and none is named.
    """
    import lance

    from datumwise.ledger import open_ledger
    from datumwise.ledger.read import scan

    since = before.ledger_version
    if since is None or since == ledger.version or not reads:
        return []
    try:
        old = open_ledger(ledger.path, version=since)
    except UnknownName:
        return []
    marked: list[str] = []
    for batch in scan(lance.dataset(ledger.uri), ["id", "_row_last_updated_at_version"]):
        late = pc.greater(batch["_row_last_updated_at_version"], since)
        marked += batch["id"].filter(late).to_pylist()
    there = set(old.ids.tolist())
    both = [one for one in marked if one in there]
    columns = [name for name in reads if name in old.schema.names and name in ledger.schema.names]
    if not both or not columns:
        return []
    was, now = old.take(both, columns), ledger.take(both, columns)
    differ = np.zeros(len(both), bool)
    for name in columns:
        if not was[name].combine_chunks().equals(now[name].combine_chunks()):
            pairs = zip(was[name].to_pylist(), now[name].to_pylist(), strict=True)
            differ |= np.array([repr(a) != repr(b) for a, b in pairs])
    return [one for one, other in zip(both, differ, strict=True) if other]


def _write(part: Step, ledger: Ledger, view: View, some: View, found: Found, work: _Work) -> None:
    made = {name: _joined(part, name, found.made.get(name), work.made) for name in found.columns}
    stale = [f"{part.name}_weight"] if isinstance(part, Choose) else []
    if work.fresh and len(some) == len(view) and not part.rowwise:
        n = view.n_source
        values = {name: _spread_arrow(column, some.rows, n) for name, column in found.columns.items()}
        ledger.write(values, provenance=made, overwrite=True)
        gone = [name for name in stale if name in ledger.schema.names and name not in values]
        if gone:
            ledger.drop(gone)
        return
    first_block = some.rows[0] == work.todo[0]
    if work.fresh and first_block:
        old = [name for name in part.columns() if name in ledger.schema.names]
        if old:
            ledger.drop(old)
    ledger.write(found.columns, provenance=made, ids=some.ids.tolist(), overwrite=True)


def _restamp(part: Step, ledger: Ledger) -> None:
    """Write a rowwise step's columns again as they are: their provenance then tells of the ledger as it is now."""
    table = ledger.table(part.columns())
    made = {name: replace(_made(ledger, name), ledger_version=None, time="") for name in part.columns()}
    values = {name: table[name].combine_chunks() for name in part.columns()}
    ledger.write(values, provenance=made, overwrite=True)


def _made(ledger: Ledger, name: str) -> Provenance:
    made = ledger.provenance(name)
    assert made is not None
    return made


def _joined(part: Step, name: str, found: Provenance | None, own: Provenance) -> Provenance:
    """What the computation says of itself, and what the pipeline needs to know."""
    refers = name in part.refers_to_ids
    if found is None:
        return replace(own, refers_to_ids=refers)
    return replace(found, params={**found.params, **own.params}, kind=own.kind, ledger_version=None, time="")


def _refuse_foreign(part: Step, ledger: Ledger) -> None:
    """A step replaces what a pipeline made; a score also the same score from elsewhere."""
    for name in part.columns():
        if name not in ledger.schema.names:
            continue
        made = ledger.provenance(name)
        if made is not None and ("step" in made.params or not part.narrows):
            continue
        what = "came with the data" if made is None else f"was made by {made.method}, not by a pipeline"
        raise ColumnExists(f"column {name!r} {what}", remedy="give the step another name, or drop the column", column=name)


def _blocks(work: _Work, size: int) -> list[np.ndarray]:
    return [work.todo[start : start + size] for start in range(0, len(work.todo), max(size, 1))]


def _arrow(view: View, name: str) -> pa.Array:
    ledger = view.ledger
    assert ledger is not None
    return ledger.table([name])[name].combine_chunks().take(pa.array(view.rows))


def _ranked(last: Step, view: View) -> np.ndarray:
    if not isinstance(last, Choose) or not len(view):
        return view.ids
    return view.ids[np.argsort(np.asarray(view.column(last.name)), kind="stable")]


def _spread_arrow(values: Any, rows: np.ndarray, n: int) -> pa.Array:
    """Values of some rows as a column of n, null elsewhere."""
    from datumwise.select.view import pa_column

    column = values if isinstance(values, pa.Array) else pa_column(values)
    if len(rows) == n:
        return column
    at = np.full(n, -1)
    at[rows] = np.arange(len(rows))
    return column.take(pa.array(at, mask=at < 0))


def _spread(values: Any, rows: np.ndarray, n: int) -> Any:
    """Values of some rows among n in memory: NaN, False or None elsewhere."""
    if isinstance(values, pa.Array):
        if pa.types.is_string(values.type):
            found: list[Any] = [None] * n
            for row, value in zip(rows.tolist(), values.to_pylist(), strict=True):
                found[row] = value
            return found
        values = values.to_numpy(zero_copy_only=False)
    values = np.asarray(values)
    if values.dtype.kind in "iu" and len(rows) < n and values.ndim == 1:
        values = values.astype(np.float64)
    empty = np.nan if values.dtype.kind == "f" else None if values.dtype == object else 0
    out = np.full((n, *values.shape[1:]), empty, values.dtype)
    out[rows] = values
    return out


def _table(steps: Sequence[Outcome], heading: str) -> str:
    head = ("step", "method", "of", heading, "left", "why")
    cells = [
        (s.name, s.method, *("?" if n is None else f"{n:,}" for n in (s.n_in, s.n_computed, s.n_out)), f"{s.action}: {s.why}")
        for s in steps
    ]
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(6)]
    lines = []
    for row in [head, *cells]:
        parts = [row[i].rjust(widths[i]) if 2 <= i <= 4 else row[i].ljust(widths[i]) for i in range(6)]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)
