"""Train a learner on the datapoints of a ledger, keep the model, and write what training says of each datapoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from datumwise.errors import ColumnExists, EmptyData, LabelError, ReadOnly, UnknownName
from datumwise.ledger.provenance import Provenance
from datumwise.probe.features import features, on_rows
from datumwise.probe.fingerprint import model_fingerprint
from datumwise.probe.given import places
from datumwise.probe.learners import learner as learner_by_name
from datumwise.probe.learners import learner_name

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["Learned", "learn"]

NEAREST = 3  # training datapoints that are named beside each
BLOCK = 4_000_000  # entries of the influence matrix held at once
SOURCES = {"deep kernel machine": "Yang et al., 2023"}
MOST = 20_000  # training datapoints up to which the influence of each on all is written


@dataclass(frozen=True)
class Learned:
    """A trained learner and what stands on the ledger.

    Attributes
    ----------
    learner : str
    model : estimator
        Takes rows as `datumwise.probe.features.features` reads them.
    trained, held_out : int
        Datapoints.
    metric : {"accuracy", "R²"}
    score : float
        Held out; NaN where nothing was.
    columns : tuple of str
    surprising : list of (id, float)
        Training datapoints that the learner predicts worst without them, in standard deviations; empty where it cannot say.
    path : Path or None
        Of the model.
    version : int
    """

    learner: str
    model: Any = field(repr=False)
    trained: int
    held_out: int
    metric: str
    score: float
    columns: tuple[str, ...]
    surprising: list[tuple[str, float]]
    path: Path | None
    version: int

    def as_dict(self) -> dict[str, Any]:
        """Everything but the model, as JSON can hold it."""
        return {
            "learner": self.learner,
            "trained": self.trained,
            "held_out": self.held_out,
            "metric": self.metric,
            "score": None if np.isnan(self.score) else self.score,
            "columns": list(self.columns),
            "surprising": [list(one) for one in self.surprising],
            "model": None if self.path is None else str(self.path),
            "version": self.version,
        }

    def to_json(self) -> str:
        """The same as one JSON object."""
        return json.dumps(self.as_dict())

    def __str__(self) -> str:
        held = f", held-out {self.metric} {self.score:.3f} on {self.held_out:,}" if self.held_out else ""
        return f"{self.learner} trained on {self.trained:,} datapoints{held}"


def learn(
    ledger: Ledger,
    learner: Any = "deep kernel machine",
    *,
    where: str | None = None,
    held_out: float = 0.25,
    out: str | Path | None = None,
    column: str = "learned",
    options: dict[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Learned:
    """Train a learner on the labelled datapoints of a ledger.

    Writes ``<column>_trained`` (what it was trained on: those may never calibrate a promise about it). Of a learner that
    knows in closed form what it would be without a datapoint (the deep kernel machine) also, for each datapoint it was
    trained on: ``_loo``, the prediction without it, ``_loo_std``, and ``_surprise``, how many standard deviations its label
    is off that; ``_influence``, by how much it moves the predictions of all in the mean; and ``_nearest``, which others
    make its prediction.

    Parameters
    ----------
    ledger : Ledger
    learner : str or estimator
        By name (`datumwise.probe.learners.learners`), or an unfitted scikit-learn estimator.
    where : str, optional
        SQL condition: only these datapoints are used.
    held_out : float
        Share that is kept for the score, in [0, 1).
    out : path, optional
        Write the model there (joblib), for ``datumwise predict --model``.
    column : str
        Prefix of the columns.
    options : dict, optional
        Parameters of the learner.
    seed : int
    progress : callable (done, total), optional

    Returns
    -------
    Learned

    Raises
    ------
    LabelError
        The ledger has no label.
    UnknownName
        No such learner, or it takes no such option.
    EmptyData
        Fewer than two datapoints to train on.

    Examples
    --------
    >>> import tempfile
    >>> from datumwise import ingest
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-2, 2, 120)
    >>> y = np.sin(2 * x) + 0.1 * rng.normal(size=120)
    >>> y[7] += 3  # one label is wrong
    >>> ledger = ingest({"x": x, "y": y}, label="y", task="regression", out=tempfile.mkdtemp() + "/waves")
    >>> found = learn(ledger, held_out=0.0, options={"n_inducing": 20, "max_iter": 100})
    >>> found.surprising[0][0] == ledger.ids[7]
    True
    """
    label = ledger.roles.get("label")
    if not label:
        raise LabelError(f"{ledger.name} has no label column", remedy="ingest the data with --label")
    if not 0 <= held_out < 1:
        raise LabelError(f"{held_out:g} is no share to hold out", remedy="give a number from 0 to below 1")
    classes = ledger.task != "regression"
    task = "classification" if classes else "regression"
    made = _with(learner_by_name(learner, task, seed=seed) if isinstance(learner, str) else learner, options or {})
    named = learner if isinstance(learner, str) else learner_name(made)
    view = features(ledger)
    y = ledger.array(label) if classes else np.asarray(ledger.array(label), np.float64)
    inside = places(ledger, where)
    held = np.random.default_rng(seed).permutation(inside)[: round(held_out * len(inside))]
    train = np.setdiff1d(inside, held)
    if len(train) < 2:
        raise EmptyData(f"{len(train):,} datapoints are too few to train on", remedy="a wider condition")

    model = on_rows(view, made)
    report = {f"{model.steps[-1][0]}__progress": progress} if progress and _reports(made) else {}
    model.fit(view.X[train], y[train], **report)
    score = float(model.score(view.X[held], y[held])) if len(held) else float("nan")
    path = None if out is None else _kept(model, Path(out))

    values: dict[str, Any] = {f"{column}_trained": np.isin(np.arange(len(y)), train)}
    higher: dict[str, str] = {}
    if not classes and hasattr(model[-1], "loo_predict"):
        found, higher = _findings(model, view.X[train], y[train], ledger.ids[train].astype(str), column)
        values |= {name: _everywhere(one, train, len(y)) for name, one in found.items()}
    params = {"learner": named, **{k: v for k, v in made.get_params(deep=False).items() if _plain(v)}}
    version = _write(ledger, values, higher, params, model_fingerprint(made), [*view.columns, label], column, seed)
    surprise = values.get(f"{column}_surprise")
    return Learned(
        named, model, len(train), len(held), "accuracy" if classes else "R²", score, tuple(values),
        [] if surprise is None else _most(ledger.ids, surprise), path, version,
    )  # fmt: skip


def _with(made: Any, options: dict[str, Any]) -> Any:
    known = made.get_params()
    wrong = [name for name in options if name not in known]
    if wrong:
        raise UnknownName(f"{type(made).__name__} takes no option {wrong[0]!r}", remedy=f"it takes {', '.join(sorted(known))}")
    return made.set_params(**options)


def _reports(made: Any) -> bool:
    import inspect

    return "progress" in inspect.signature(made.fit).parameters


def _kept(model: Any, path: Path) -> Path:
    import joblib

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        joblib.dump(model, path)
    except OSError as error:
        raise ReadOnly(f"the model {path} cannot be written ({error.strerror})", remedy="give another place") from error
    return path


def _findings(model: Any, X: np.ndarray, y: np.ndarray, ids: np.ndarray, column: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What the last layer says of each training datapoint, and what a higher value says."""
    rows, machine = model[:-1].transform(X), model[-1]
    loo, variance = machine.loo_predict()
    spread = np.sqrt(variance)
    near, _ = machine.neighbours(rows, k=min(NEAREST + 1, len(ids)))
    others = [[str(ids[j]) for j in row if j != i][:NEAREST] for i, row in enumerate(near)]
    found = {
        f"{column}_loo": loo,
        f"{column}_loo_std": spread,
        f"{column}_surprise": np.abs(y - loo) / spread,
        f"{column}_nearest": pa.array(others, pa.list_(pa.string())),
    }
    higher = {f"{column}_surprise": "label is farther from what the others say, in standard deviations"}
    if len(ids) <= MOST:
        block = max(1, BLOCK // len(ids))
        moved = [np.abs(machine.influence(rows[i : i + block])).sum(1) for i in range(0, len(ids), block)]
        found[f"{column}_influence"] = np.sum(moved, 0) / len(ids)
        higher[f"{column}_influence"] = "moves the predictions of the others more, in units of the label"
    return found, higher


def _everywhere(values: Any, rows: np.ndarray, n: int) -> Any:
    """Values of some rows among n: null, or NaN, elsewhere."""
    if isinstance(values, pa.Array):
        place = np.full(n, -1)
        place[rows] = np.arange(len(rows))
        return values.take(pa.array(place, pa.int64(), mask=place < 0))
    whole = np.full(n, np.nan)
    whole[rows] = values
    return whole


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _write(
    ledger: Ledger,
    values: dict[str, Any],
    higher: dict[str, str],
    params: dict[str, Any],
    model: str,
    reads: list[str],
    column: str,
    seed: int,
) -> int:
    given = {one.name for one in ledger.columns if one.provenance is None}
    for name in values:
        if name in given:
            raise ColumnExists(f"column {name!r} came with the data", remedy="give another name")
    ours = [f"{column}_{what}" for what in ("trained", "loo", "loo_std", "surprise", "nearest", "influence")]
    stale = [name for name in ours if name in ledger.schema.names and name not in values]
    source = SOURCES.get(params["learner"], "")

    def made(name: str) -> Provenance:
        what = name.removeprefix(f"{column}_")
        refers = what == "nearest"
        return Provenance(what, params, reads, model, seed, source, higher=higher.get(name, ""), refers_to_ids=refers)

    provenance = {name: made(name) for name in values}
    version = ledger.write(values, provenance=provenance, overwrite=True)
    return ledger.drop(stale) if stale else version


def _most(ids: np.ndarray, values: np.ndarray, k: int = 10) -> list[tuple[str, float]]:
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:k]
    return [(str(ids[i]), float(values[i])) for i in order if np.isfinite(values[i])]
