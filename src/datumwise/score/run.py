"""Scores of a ledger's datapoints: what they need in one probe of the model, all columns in one commit."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import ColumnExists, DatumwiseError, ModelMismatch, SchemaMismatch, UnknownName
from datumwise.probe.given import OF_THE_LEDGER, WITHOUT_MODEL
from datumwise.probe.given import given as ledger_signals
from datumwise.score.declare import Score, find, suggestion
from datumwise.score.scores import Scores

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["Plan", "plan", "run"]

EPOCHS = "logits_by_epoch"  # the one signal that checkpoints= is for


def run(
    ledger: Ledger,
    model: Any = None,
    names: str | Sequence[str] = (),
    *,
    folds: int = 5,
    seed: int = 0,
    engine: str = "local",
    overwrite: bool = True,
    plan_only: bool = False,
    signals: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **parameters: Any,
) -> Scores | Plan:
    """Compute scores and write them to the ledger.

    Parameters
    ----------
    ledger : Ledger
    model : torch.nn.Module or scikit-learn estimator, optional
        Whatever `datumwise.probe.signals` takes. None: for scores of the data alone (texts, words, features).
    names : str or sequence of str
        Scores, see `datumwise.methods()`.
    folds : int, default 5
        Of the cross-validation of a scikit-learn estimator.
    seed : int, default 0
    engine : "local" or "ray"
    overwrite : bool, default True
        Replace columns that an earlier run wrote. A column that came with the data is never replaced.
    plan_only : bool, default False
        Return the `Plan` and run nothing.
    signals : mapping of signal name to array, optional
        Known already: `Signals`, or arrays in ledger order (``TrainingDynamics.signals()``). Only the others
        are asked for.
    progress : callable (done, total), optional
    **parameters
        Keyword parameters of the scores (``k=10``) or of `datumwise.probe.signals` (``losses=...``;
        ``checkpoints=...`` is read by the scores of training dynamics only); a mapping under a score's name
        (``outlier_knn={"k": 20}``) sets that score's alone.

    Returns
    -------
    Scores
        Also on the ledger, a column a score, with provenance; `Plan` if ``plan_only``.

    Raises
    ------
    UnknownName
        No such score, or a parameter that none of them takes.
    ModelMismatch
        A score needs what only a model can say, and there is none.
    ColumnExists
        A column of this name came with the data, or exists and ``overwrite`` is False. Nothing was computed.
    """
    shared = {"folds": folds, "seed": seed}
    the_plan = plan(ledger, model, names, engine=engine, overwrite=overwrite, signals=signals, **shared, **parameters)
    if plan_only:
        return the_plan

    known, ids, made_by = _probed(the_plan, ledger, model, signals or {}, engine=engine, progress=progress, **shared)
    values = {entry.name: _evaluated(entry, known, the_plan.options[entry.name], ids) for entry in the_plan.scores}
    version = ledger.write(
        values,
        provenance=_provenance(the_plan, ledger, made_by, seed),
        ids=None if np.array_equal(ids, ledger.ids) else ids,
        overwrite=overwrite,
    )
    return Scores(ids, values, higher={s.name: s.higher for s in the_plan.scores}, version=version)


@dataclass(frozen=True)
class Plan:
    """What a run would do: which signals, by which passes, for which columns.

    Attributes
    ----------
    scores : tuple of Score
    needs : tuple of str
        Union of the signals they need.
    asked : tuple of str
        Those that are not known yet.
    options : mapping of score name to its keyword parameters
    signal_options : mapping
        Keyword parameters of `datumwise.probe.signals`.
    passes : str
        How the signals are obtained, in words.
    """

    scores: tuple[Score, ...]
    needs: tuple[str, ...]
    asked: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]] = field(repr=False)
    signal_options: Mapping[str, Any] = field(repr=False)
    passes: str

    def __str__(self) -> str:
        lines = [f"signals  {', '.join(self.needs)}"]
        lines += [f"passes   {line}" if i == 0 else f"         {line}" for i, line in enumerate(self.passes.splitlines())]
        for entry in self.scores:
            chosen = ", ".join(f"{k}={_brief(v)}" for k, v in self.options[entry.name].items() if v is not None)
            lines.append(f"column   {entry.name} from {', '.join(entry.needs)}{f' ({chosen})' if chosen else ''}")
        return "\n".join(lines)

    __repr__ = __str__


def plan(
    ledger: Ledger,
    model: Any = None,
    names: str | Sequence[str] = (),
    *,
    folds: int = 5,
    seed: int = 0,
    engine: str = "local",
    overwrite: bool = True,
    signals: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Plan:
    """What `run` would do with the same arguments; computes and writes nothing."""
    chosen = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    if not chosen:
        raise UnknownName("no score was named", remedy="`datumwise methods` lists them")
    scores = tuple(find(name) for name in chosen)
    _refuse_columns(ledger, chosen, overwrite)
    options, signal_options = _assigned(scores, {"folds": folds, "seed": seed}, parameters)
    needs = tuple(dict.fromkeys(need for entry in scores for need in entry.needs))
    asked = tuple(need for need in needs if need not in (signals or {}))
    if model is None:
        _refuse_without_model(scores, asked)
    passes = _passes(model, ledger, asked, folds, signal_options) if asked else "none: all is known"
    return Plan(scores, needs, asked, options, signal_options, passes)


def _refuse_columns(ledger: Ledger, names: Sequence[str], overwrite: bool) -> None:
    for name in names:
        if name not in ledger.schema.names:
            continue
        if ledger.provenance(name) is None:
            raise ColumnExists(
                f"column {name!r} came with the data and would be overwritten by the score of that name",
                remedy="give the column another name",
                column=name,
            )
        if not overwrite:
            raise ColumnExists(f"column {name!r} is on the ledger already", remedy="overwrite=True, or drop it", column=name)


def _assigned(
    scores: Sequence[Score], shared: Mapping[str, Any], parameters: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Keyword parameters of each score, and those of the probe; one that nobody takes is refused."""
    from datumwise import probe

    options = {s.name: {**s.parameters, **{k: v for k, v in shared.items() if k in s.parameters}} for s in scores}
    of_signals: dict[str, Any] = {}
    accepted = set(inspect.signature(probe.signals).parameters) - {
        "model",
        "data",
        "want",
        "progress",
        "engine",
        *shared,
    }
    for name, value in parameters.items():
        takers = [s for s in scores if name in s.parameters]
        for taker in takers:
            options[taker.name][name] = value
        if name in options and isinstance(value, Mapping):
            for key, own in value.items():
                _refuse_parameter(key, options[name], f"score {name!r}")
                options[name][key] = own
        elif name in accepted:
            of_signals[name] = value
        elif not takers:
            known = {k for s in scores for k in s.parameters} | accepted | set(options)
            _refuse_parameter(name, known, ", ".join(s.name for s in scores))
    return options, of_signals


def _refuse_parameter(name: str, known: Any, whose: str) -> None:
    if name not in known:
        raise UnknownName(
            f"{whose} takes no parameter {name!r}",
            remedy=suggestion(name, known) or f"there are {', '.join(sorted(known)) or 'none'}",
        )


def _refuse_without_model(scores: Sequence[Score], asked: Sequence[str]) -> None:
    for entry in scores:
        missing = [need for need in entry.needs if need in asked and need not in WITHOUT_MODEL]
        if missing:
            raise ModelMismatch(
                f"score {entry.name!r} needs {missing[0]}, which only a model can say",
                remedy="pass a model (--model), or signals= that hold it",
            )


def _passes(model: Any, ledger: Ledger, needs: Sequence[str], folds: int, options: Mapping[str, Any]) -> str:
    read = WITHOUT_MODEL if model is None else OF_THE_LEDGER
    needs = [need for need in needs if need not in read]
    if not needs:
        return "none: read from the ledger"
    if not hasattr(model, "named_parameters"):
        fitted = [need for need in needs if need not in ("labels", "target", "embedding")]
        what = f"{folds} fits of {type(model).__name__}, one a fold of {len(ledger):,} datapoints"
        return what if fitted else "no fit: columns and features only"
    from datumwise import probe

    taken = inspect.signature(probe.plan).parameters
    return str(probe.plan(model, needs, **{k: v for k, v in options.items() if k in taken}))


def _probed(
    the_plan: Plan, ledger: Ledger, model: Any, given: Mapping[str, Any], **how: Any
) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
    """All signals the scores need, the ids they belong to, and what made them: fingerprints, folds."""
    from datumwise import probe
    from datumwise.probe.fingerprint import model_fingerprint

    known = {need: given[need] for need in the_plan.needs if need in given}
    ids = np.asarray(getattr(given, "ids", ledger.ids)) if known else None
    made_by: dict[str, Any] = {"model": model_fingerprint(model)}
    if model is not None and not hasattr(model, "named_parameters"):
        made_by["folds"] = how["folds"]
    options = dict(the_plan.signal_options)
    of_ledger = [need for need in the_plan.asked if need in (WITHOUT_MODEL if model is None else OF_THE_LEDGER)]
    if of_ledger:
        if ids is not None and not np.array_equal(ids, ledger.ids):
            raise SchemaMismatch("the given signals belong to other datapoints than the ledger's, or another order")
        ids = ledger.ids
        known |= ledger_signals(ledger, of_ledger, seed=how["seed"])
    over_epochs = [need for need in the_plan.asked if need == EPOCHS]
    rest = [need for need in the_plan.asked if need != EPOCHS and need not in of_ledger]
    if set(rest) <= {"labels"} and (over_epochs or not rest):  # the labels come along with the epochs
        requests = [(over_epochs + rest, options)] if over_epochs else []
    else:
        of_one = {k: v for k, v in options.items() if k != "checkpoints"}
        requests = [(rest, of_one)] + ([(over_epochs, options)] if over_epochs else [])
    for want, chosen in requests:
        found = probe.signals(model, ledger, want=want, **how, **chosen)
        if ids is not None and not np.array_equal(ids, found.ids):
            raise SchemaMismatch("the given signals and those of the model belong to other datapoints, or another order")
        ids = np.asarray(found.ids)
        known.update({need: found[need] for need in want})
        named = found.parameters.get("model", made_by["model"])
        made_by |= {"model": named} if isinstance(named, str) else {"checkpoints": list(named)}
    if EPOCHS in known and "labels" in known and np.ndim(known["labels"]) == 2:
        known["labels"] = known["labels"][0]  # of each checkpoint, and all the same
    assert ids is not None
    return known, ids, made_by


def _evaluated(entry: Score, signals: Mapping[str, Any], options: Mapping[str, Any], ids: np.ndarray) -> np.ndarray:
    try:
        found = np.asarray(entry.function(*(signals[need] for need in entry.needs), **options))
    except DatumwiseError as error:
        named = type(error)(f"score {entry.name!r}: {error}", column=error.column, ids=_row_ids(error, ids))
        named.remedy = error.remedy
        raise named from error
    if found.shape != ids.shape or found.dtype.kind not in "fiub":
        raise SchemaMismatch(
            f"score {entry.name!r} gave an array of shape {found.shape} and type {found.dtype}",
            remedy=f"it must give one number for each of {len(ids):,} datapoints",
        )
    return found


def _row_ids(error: DatumwiseError, ids: np.ndarray) -> list[Any]:
    """Ids of the rows an array function complained of."""
    return [ids[i] for i in error.ids if isinstance(i, int) and 0 <= i < len(ids)]


def _provenance(the_plan: Plan, ledger: Ledger, made_by: Mapping[str, Any], seed: int) -> dict[str, Any]:
    from datumwise.ledger import Provenance

    roles = [c for role in ledger.roles.values() for c in ([role] if isinstance(role, str) else role)]
    reads = [c for c in dict.fromkeys(roles) if c in ledger.schema.names and c != "id"]
    probed = {k: _recorded(v) for k, v in the_plan.signal_options.items()}
    return {
        entry.name: Provenance(
            method=entry.name,
            params={"signals": list(entry.needs)}
            | probed
            | {k: v for k, v in made_by.items() if k != "model"}
            | {k: _recorded(v) for k, v in the_plan.options[entry.name].items() if k != "seed"},
            reads=reads,
            model=made_by["model"],
            seed=seed,
            source=entry.source,
            higher=entry.higher,
        )
        for entry in the_plan.scores
    }


def _recorded(value: Any) -> Any:
    """A parameter as JSON can hold it: arrays by shape and content hash, other objects by name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)) and len(value) <= 20:
        return [_recorded(v) for v in value]
    if isinstance(value, Mapping) and len(value) <= 20:
        return {str(k): _recorded(v) for k, v in value.items()}
    if isinstance(value, (np.ndarray, list, tuple)):
        array = np.ascontiguousarray(value)
        return {
            "shape": list(array.shape),
            "blake2b": hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest(),
        }
    return getattr(value, "__qualname__", type(value).__qualname__)


def _brief(value: Any) -> str:
    return f"array {value.shape}" if isinstance(value, np.ndarray) else str(value)
