"""How does a request for signals of a torch module become passes? In memory, or onto the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from datumwise.errors import EmptyData, ModelMismatch, SourceError, UnknownName
from datumwise.probe.batches import DEFAULT_ROWS, Batches, auto_batch_size, by_length, is_ledger
from datumwise.probe.fingerprint import model_fingerprint
from datumwise.probe.layers import chosen
from datumwise.probe.needs import Need
from datumwise.probe.needs.activations import ActivationGram, Activations
from datumwise.probe.needs.dots import GradDot
from datumwise.probe.needs.index import KIND, GradIndex
from datumwise.probe.needs.last_layer import LastLayer
from datumwise.probe.needs.lens import LENS, Lens
from datumwise.probe.needs.mean_gradient import MeanGradient
from datumwise.probe.needs.norms import GradNorm
from datumwise.probe.plan import CURVATURE, STATISTICS, factor_labels, split_language
from datumwise.probe.signals import Signals
from datumwise.probe.torch_pass import TorchPass

if TYPE_CHECKING:
    import pyarrow as pa

    from datumwise.probe.kfac import KFAC

__all__ = ["Request", "run"]

JOURNAL_WINDOW = 8  # batches of a pass through the engine that are sorted by length, and kept, together


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`datumwise.probe.signals`, under the same names."""

    names: tuple[str, ...]
    losses: Any = None
    measure: Any = None
    modules: Any = None
    batch_size: int | str = "auto"
    projection: int = 2048
    fisher_labels: str | None = None
    kfac_positions: float = 1.0
    target: Any = None
    damping: float = 0.1
    keep_mass: float | None = None
    calibration: Any = None
    seed: int = 0
    collate: Any = None
    tokenizer: Any = None
    max_length: int | None = None
    engine: str = "local"
    store: bool = False
    overwrite: bool = False
    allow_partial: bool = False
    progress: Callable[[int, int], None] | None = None


def run(model: nn.Module, data: Any, request: Request, checkpoints: Sequence[Any] | None) -> Signals:
    """The signals of one model, or of each of its checkpoints, stacked."""
    if "logits_by_epoch" in request.names and checkpoints is None:
        raise ModelMismatch("logits_by_epoch needs checkpoints", remedy="pass checkpoints=[state_dict, ...]")
    if request.engine != "local":
        _refuse_engine(data, request)
    batches = batches_of(model, data, request)
    if checkpoints is None:
        return _one(model, batches, request)
    if request.store:
        raise ModelMismatch("columns of several checkpoints cannot be stored", remedy="leave out store=True")
    if "kfac" in request.names:
        raise ModelMismatch("kfac is of one set of weights", remedy="ask for it in a call for each checkpoint")
    by_checkpoint: list[Signals] = []
    names = tuple("logits" if name == "logits_by_epoch" else name for name in request.names)
    with _weights_kept(model):
        for checkpoint in checkpoints:
            _load(model, checkpoint)
            by_checkpoint.append(_one(model, batches, replace(request, names=names)))
    return _stacked(by_checkpoint, request.names)


def _refuse_engine(data: Any, request: Request) -> None:
    """Refuse what an engine of several processes cannot run."""
    if request.engine != "ray":
        raise UnknownName(f"there is no engine {request.engine!r}", remedy="engines are 'local' and 'ray'")
    if not is_ledger(data):
        raise ModelMismatch("the ray engine reads a ledger", remedy="ingest the data, or leave out engine=")
    here = [name for name in request.names if name == "self_influence" or name in CURVATURE]
    here += split_language(request.names)[1]
    if here:
        raise ModelMismatch(f"{here[0]} runs in this process only", remedy='ask for it with engine="local"')


def batches_of(model: nn.Module, data: Any, request: Request) -> Batches:
    """The data as batches, with the batch size decided."""
    rows = DEFAULT_ROWS if isinstance(request.batch_size, str) else request.batch_size
    if rows < 1:
        raise ModelMismatch(f"batch_size is {rows}", remedy="it must be 1 or more")
    if not is_ledger(data):
        return Batches(data, rows)
    from datumwise.probe.collate import collate_for

    if not len(data):
        raise EmptyData(f"{data.name} holds no datapoints", remedy="append some first")
    reads, collate = collate_for(data, model, tokenizer=request.tokenizer, collate=request.collate)
    collate = shortened(collate, request.max_length)
    batches = Batches(data, rows, reads, collate)
    if not isinstance(request.batch_size, str):
        return batches
    longest = next(by_length(next(iter(batches.windows())), reads, 4))
    size = auto_batch_size(model, lambda k: collate(longest.slice(0, k)), request.losses)
    return replace(batches, batch_size=size)


def shortened(collate: Callable[[Any], Any], limit: int | None) -> Callable[[Any], Any]:
    """``collate`` with token batches cut to ``limit`` positions."""
    if limit is None:
        return collate
    keys = ("input_ids", "attention_mask", "token_type_ids", "labels")

    def cut(rows: Any) -> Any:
        batch = collate(rows)
        if not isinstance(batch, Mapping):
            return batch
        return {k: v[:, :limit] if k in keys and v.ndim == 2 else v for k, v in batch.items()}

    return cut


def _one(model: nn.Module, batches: Batches, request: Request) -> Signals:
    """All passes for one set of weights."""
    target = request.target
    if "grad_dot" in request.names and isinstance(target, str):
        if target != "mean":
            raise ModelMismatch(f"target is {target!r}", remedy='it is a list of gradients, or "mean"')
        first = replace(request, names=("mean_gradient",), target=None, store=False)
        target = [_one(model, batches, first).mean_gradient()]
    streamed, spoken = split_language(request.names)
    curved = tuple(name for name in streamed if name in CURVATURE)
    plain = tuple(name for name in streamed if name not in ("self_influence", "texts", *CURVATURE))
    request = replace(request, target=target)
    parameters = {
        "projection": KIND,
        "length": request.projection,
        "seed": request.seed,
        "cosine_rmse": request.projection**-0.5,
        "model": model_fingerprint(model),
    }
    found = Signals(np.array([]), {}, {}, parameters)
    if plain:
        through_engine = request.store or request.engine != "local"
        found = (_stored if through_engine else _held)(model, batches, request, plain)
        found = replace(found, parameters=parameters)
    if spoken:
        found = _with_language(model, batches, request, spoken, found)
    if "self_influence" in request.names:
        found = _with_influence(model, batches, request, found)
    if curved:
        found = _with_curvature(model, batches, request, curved, found)
    if "texts" in request.names:
        found = _with_texts(batches, found)
    return found


def _with_language(model: nn.Module, batches: Batches, request: Request, names: list[str], found: Signals) -> Signals:
    """What a language model says of a ledger's texts; the sub-networks of any other model, of any data."""
    from datumwise.probe.language_signals import ledger_language_signals

    ledger = batches.data if is_ledger(batches.data) else None
    if names == ["subnetwork_confidence"] and (ledger is None or not _of_tokens(batches)):
        ids, columns = _subnetworks(model, batches, request)
    elif ledger is None or request.collate is not None:
        what = "a collate of one's own" if ledger is not None else "batches"
        raise ModelMismatch(
            f"{names[0]} is read off the texts of a ledger, not off {what}",
            remedy="ingest the texts, or call datumwise.probe.language_model.language_model_signals",
        )
    else:
        options: dict[str, Any] = {"tokenizer": request.tokenizer, "max_length": request.max_length, "seed": request.seed}
        ids = ledger.ids
        columns = ledger_language_signals(model, ledger, names, progress=request.progress, **options)
    if request.store:
        _store_language(model, batches, request, columns)
    return replace(found, ids=found.ids if len(found.ids) else ids, columns={**found.columns, **columns})


def _of_tokens(batches: Batches) -> bool:
    """Whether a ledger's batches are token sequences to be predicted, not texts with one label each."""
    from datumwise.probe.collate import TextCollate

    return isinstance(batches.collate, TextCollate) and batches.collate.causal


def _subnetworks(model: nn.Module, batches: Batches, request: Request) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Probability of the label by each sub-network of a classifier (n, S)."""
    from datumwise.probe.subnetworks import KEPT, subnetwork

    confidences = []
    for share in KEPT:
        with subnetwork(model, share, request.seed):
            one = _held(model, batches, replace(request, progress=None), ("probs", "labels"))
        confidences.append(one["probs"][np.arange(len(one.ids)), one["labels"]].astype(np.float64))
    return one.ids, {"subnetwork_confidence": np.stack(confidences, axis=1)}


def _store_language(model: nn.Module, batches: Batches, request: Request, columns: Mapping[str, Any]) -> None:
    from datumwise.ledger import Provenance

    ledger = batches.data
    values = {
        name: column if isinstance(column, np.ndarray) else _arrow(column, np.arange(len(column)))
        for name, column in columns.items()
    }
    provenance = {
        name: Provenance(
            method=f"signals.{name}",
            params={} if request.max_length is None else {"max_length": request.max_length},
            reads=list(batches.reads),
            model=model_fingerprint(model),
            seed=request.seed,
        )
        for name in columns
    }
    ledger.write(values, provenance=provenance, overwrite=request.overwrite)


def _with_texts(batches: Batches, found: Signals) -> Signals:
    """The ledger's own texts, for scores that compare a likelihood with what was said."""
    column = batches.data.roles.get("text") if is_ledger(batches.data) else None
    if not column:
        raise ModelMismatch("texts need a ledger with a text column", remedy="ingest the data with text=")
    return replace(found, ids=batches.data.ids, columns={**found.columns, "texts": batches.data.array(column)})


def needs_of(model: nn.Module, names: Sequence[str], request: Request) -> list[Need]:
    """The needs that answer to these names."""
    objective = "loss" if request.measure is None else "measure"
    needs: list[Need] = []
    lens = [name for name in names if name in LENS]
    if lens:
        needs.append(Lens(lens))
    last = [name for name in names if name in ("embedding", "last_grad_norm")]
    if last:
        needs.append(LastLayer(last, model))
    listening = [name for name in names if name in ("activations", "activation_gram")]
    if listening:
        if request.modules is None:
            raise ModelMismatch(f"{listening[0]} needs modules", remedy="pass modules=[names or patterns]")
        taken = [name for name, module in model.named_modules() if name and chosen(request.modules, name, module)]
        needs += [Activations(taken)] * ("activations" in names) + [ActivationGram(taken)] * ("activation_gram" in names)
    if "grad_norm" in names:
        needs.append(GradNorm(objective))
    if "grad_index" in names:
        needs.append(GradIndex(request.projection, request.seed, objective))
    if "grad_dot" in names:
        needs.append(GradDot(request.target, objective))
    if "mean_gradient" in names:
        needs.append(MeanGradient(objective))
    if "kfac" in names:
        needs.append(factors_of(model, request).need)
    return needs


def factors_of(model: nn.Module, request: Request) -> KFAC:
    """The Kronecker factors that the request asks for, not fitted yet."""
    from datumwise.probe.kfac import KFAC

    double = any(p.dtype == torch.float64 for p in model.parameters())
    return KFAC(
        model,
        request.modules,
        factor_labels(request.fisher_labels, request.losses),
        share=request.kfac_positions,
        dtype=torch.float64 if double else torch.float32,
        random_state=request.seed,
    )


def torch_pass(model: nn.Module, needs: Sequence[Need], request: Request) -> TorchPass:
    return TorchPass(
        model,
        needs,
        losses=request.losses,
        measure=request.measure,
        modules=request.modules,
        seed=request.seed,
        allow_partial=request.allow_partial,
    )


def _held(model: nn.Module, batches: Batches, request: Request, names: Sequence[str]) -> Signals:
    """One pass, its columns in memory, back in the order of the data."""
    needs = needs_of(model, names, request)
    ids: list[Any] = []
    found: dict[str, list[Any]] = {}
    total = len(batches.data) if is_ledger(batches.data) else 0
    with torch_pass(model, needs, request) as one:
        for batch_ids, batch in batches:
            for name, values in one.batch(batch, batch_ids).items():
                found.setdefault(name, []).append(values)
            ids.extend(batch_ids)
            if request.progress is not None:
                request.progress(len(ids), max(total, len(ids)))
    if not ids:
        raise EmptyData("there is no datapoint in the data")
    columns = {name: joined(parts) for name, parts in found.items()}
    factors = fitted_factors(model, request, needs)
    return _in_order(Signals(np.array(ids), columns, statistics_of(model, needs), factors=factors), batches)


def joined(parts: list[Any]) -> Any:
    """Batches of one column as one: arrays concatenated, ragged lists chained."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [row for part in parts for row in part]


def _in_order(found: Signals, batches: Batches) -> Signals:
    """Columns of a ledger back in ledger order (rows were sorted by length)."""
    if not is_ledger(batches.data):
        return found
    place = {one: i for i, one in enumerate(found.ids.tolist())}
    ids = batches.data.ids
    order = np.array([place[one] for one in ids.tolist()])
    columns = {k: v[order] if isinstance(v, np.ndarray) else [v[i] for i in order] for k, v in found.columns.items()}
    return replace(found, ids=ids, columns=columns)


def fitted_factors(model: nn.Module, request: Request, needs: Sequence[Need]) -> KFAC | None:
    """What the pass summed up for ``kfac``, as a KFAC."""
    from datumwise.probe.needs.kronecker import KroneckerFactors

    for need in needs:
        if isinstance(need, KroneckerFactors):
            return factors_of(model, request).take(need)
    return None


def statistics_of(model: nn.Module, needs: Sequence[Need]) -> dict[str, np.ndarray]:
    """What the needs summed up, by signal name."""
    found: dict[str, np.ndarray] = {}
    for need in needs:
        if isinstance(need, MeanGradient):
            shapes = {name: p.shape for name, p in model.named_parameters()}
            found |= {f"mean_gradient/{k}": v.numpy() for k, v in need.mean(shapes).items()}
        elif isinstance(need, ActivationGram):
            found |= {f"activation_gram/{k}": v for k, v in need.state().items()}
    return found


# --- on the ledger ------------------------------------------------------------------------------------------


class LedgerPass:
    """A pass as the engine wants it: a window of ledger rows in, columns in the rows' order out.

    Rows are sorted by length and cut into batches inside the window. ``prefix`` is put before every name.
    """

    def __init__(self, model: nn.Module, request: Request, names: Sequence[str], batches: Batches, prefix: str = "") -> None:
        self.prefix = prefix
        self.needs = needs_of(model, names, request)
        self.run = torch_pass(model, self.needs, request)
        self.batches = batches

    def __call__(self, window: pa.RecordBatch) -> dict[str, Any]:
        found: dict[str, list[Any]] = {}
        place: list[str] = []
        assert self.batches.collate is not None
        for rows in by_length(window, self.batches.reads, self.batches.batch_size):
            ids = rows.column("id").to_pylist()
            place.extend(ids)
            for name, values in self.run.batch(self.batches.collate(rows), ids).items():
                found.setdefault(name, []).append(values)
        for need in self.needs:
            need.settle()
        at = {one: i for i, one in enumerate(place)}
        order = np.array([at[one] for one in window.column("id").to_pylist()])
        return {self.prefix + name: _arrow(joined(parts), order) for name, parts in found.items()}


class SummingPass(LedgerPass):
    """The same for needs that sum something up over the data set."""

    def state(self) -> dict[str, np.ndarray]:
        return {f"{i}/{k}": v for i, need in enumerate(self.needs) for k, v in need.state().items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        for i, need in enumerate(self.needs):
            need.load_state(_own(state, i))

    def merge(self, other: Mapping[str, np.ndarray]) -> None:
        for i, need in enumerate(self.needs):
            need.merge(_own(other, i))


def _own(state: Mapping[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
    prefix = f"{i}/"
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


class Worker:
    """Makes the pass once in each worker of the Ray engine; the model travels with it."""

    per_worker = True

    def __init__(self, kind: type[LedgerPass], *arguments: Any) -> None:
        self.kind = kind
        self.stateful = issubclass(kind, SummingPass)
        self.arguments = arguments

    def __call__(self) -> LedgerPass:
        made = self.kind(*self.arguments)
        made.run.__enter__()  # the worker's own copy of the model: never given back
        return made


def _stored(model: nn.Module, batches: Batches, request: Request, names: Sequence[str]) -> Signals:
    """One pass through the engine: journalled, resumable, committed as ledger columns.

    Without ``store`` the columns have names of their own on the ledger and are dropped once they are read.
    """
    from datumwise.engine import run_pass
    from datumwise.ledger import Provenance

    if not is_ledger(batches.data):
        raise ModelMismatch("only signals of a ledger can be stored", remedy="leave out store=True, or ingest the data")
    ledger = batches.data
    fingerprint = model_fingerprint(model)
    prefix = "" if request.store else f"signal_{fingerprint[:8]}_"
    fields = _fields(model, batches, request, names, prefix)
    deciding = {
        "losses": _called(request.losses),
        "measure": _called(request.measure),
        "modules": _called(request.modules),
        **({} if request.max_length is None else {"max_length": request.max_length}),
    }
    made = {
        f.name: Provenance(
            method=f"signals.{f.name.removeprefix(prefix)}",
            params={
                **deciding,
                **({"projection": request.projection} if f.name.startswith(f"{prefix}grad_index") else {}),
                **({"target": _hashed(request.target)} if f.name == f"{prefix}grad_dot" else {}),
            },
            reads=list(batches.reads),
            model=fingerprint,
            seed=request.seed,
        )
        for f in fields
    }
    kind = SummingPass if any(name in STATISTICS for name in names) else LedgerPass
    travelling = replace(request, progress=None)
    worker = Worker(kind, model, travelling, names, replace(batches, data=None), prefix)
    here = kind(model, travelling, names, batches, prefix)
    summed = {
        **deciding,
        "seed": request.seed,
        "kfac": [request.fisher_labels, request.kfac_positions] if "kfac" in names else None,
    }
    options: dict[str, Any] = {
        "reads": list(dict.fromkeys(["id", *batches.reads])),
        "writes": fields,
        "provenance": made,
        "batch_size": JOURNAL_WINDOW * batches.batch_size,
        "engine": request.engine,
        "key_extra": f"signals of {fingerprint} for {', '.join(names)} by {summed}",
        "overwrite": request.overwrite or not request.store,
        "progress": request.progress,
    }
    if request.engine == "local":
        with here.run:
            done = run_pass(ledger, here, **options)
    else:
        done = run_pass(ledger, worker, **options)
        if isinstance(here, SummingPass) and done.state is not None:
            here.load_state(done.state)
    columns = {f.name.removeprefix(prefix): ledger.array(f.name) for f in fields}
    if fields and not request.store:
        ledger.drop([f.name for f in fields])
    factors = fitted_factors(model, request, here.needs)
    return Signals(ledger.ids, columns, statistics_of(model, here.needs), factors=factors)


def _fields(model: nn.Module, batches: Batches, request: Request, names: Sequence[str], prefix: str) -> list[pa.Field]:
    """The Arrow fields of the columns, learnt from a batch of two rows."""
    import pyarrow as pa

    rows = next(iter(batches.windows())).slice(0, 2)
    trial = LedgerPass(model, request, [name for name in names if name not in STATISTICS], batches, prefix)
    with trial.run:
        columns = trial(rows)
    return [pa.field(name, _arrow_type(values)) for name, values in columns.items()]


def _arrow_type(values: Any) -> Any:
    import pyarrow as pa

    if isinstance(values, pa.Array):
        return values.type
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.list_(kind, values.shape[1]) if values.ndim == 2 else kind


def _arrow(values: Any, order: np.ndarray) -> Any:
    """A column for the ledger: float16 widened (SQL cannot read it), ragged lists as Arrow lists."""
    import pyarrow as pa

    if isinstance(values, np.ndarray):
        return (values.astype(np.float32) if values.dtype == np.float16 else values)[order]
    return pa.array([values[i] for i in order], type=pa.list_(pa.float32()))


def _hashed(target: Sequence[Mapping[str, torch.Tensor]]) -> str:
    """16 hexadecimal digits of the gradients of a target: columns of different ones are never mistaken."""
    digest = blake2b(digest_size=8)
    for one in target:
        for name, tensor in sorted(one.items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().double().contiguous().numpy().tobytes())
        digest.update(b";")
    return digest.hexdigest()


def _called(function: Any) -> Any:
    """A caller's function, by name, for the record."""
    if function is None or isinstance(function, str):
        return function
    if callable(function):
        return f"{function.__module__}.{function.__qualname__}" if hasattr(function, "__qualname__") else repr(type(function))
    return list(function)


# --- curvature and checkpoints ------------------------------------------------------------------------------


def _with_influence(model: nn.Module, batches: Batches, request: Request, found: Signals) -> Signals:
    """EK-FAC self-influence: three passes of its own (factors, eigenvalues, scores)."""
    from datumwise.probe.ekfac import self_influence

    ledger = is_ledger(batches.data)
    labels = factor_labels(request.fisher_labels, request.losses)
    values = self_influence(
        model,
        batches.data if ledger else _Unnamed(batches),
        damping=request.damping,
        loss_fn=request.losses,
        tokenizer=request.tokenizer,
        collate=batches.collate if ledger else None,
        batch_size=batches.batch_size,
        progress=_telling(request.progress),
        labels=labels,
        modules=request.modules,
        seed=request.seed,
    )
    ids = found.ids if len(found.ids) else batches.data.ids if ledger else np.arange(len(values))
    if request.store:
        params = {"damping": request.damping, "labels": request.fisher_labels}
        _store_columns(model, batches, request, {"self_influence": values}, params)
    return replace(found, ids=ids, columns={**found.columns, "self_influence": values})


def _with_curvature(model: nn.Module, batches: Batches, request: Request, names: Sequence[str], found: Signals) -> Signals:
    """Scores by curvature: a pass for the factors of some layers, one for the scores, and the input's own."""
    from datumwise.probe.curvature_scores import curvature_scores, default_keep_mass, fitted
    from datumwise.probe.kfac import KFAC

    ledger = is_ledger(batches.data)
    reading: dict[str, Any] = {
        "loss_fn": request.losses,
        "tokenizer": request.tokenizer,
        "collate": batches.collate if ledger else None,
        "batch_size": batches.batch_size,
    }
    data = batches.data if ledger else _Unnamed(batches)
    kfac = KFAC.from_factors({}, 1)
    if any(name != "input_curvature" for name in names):
        calibrating, how = data, reading
        if request.calibration is not None:
            own = batches_of(model, request.calibration, replace(request, batch_size=batches.batch_size))
            calibrating, how = request.calibration, reading | {"collate": own.collate}
        kfac = fitted(
            model,
            calibrating,
            **how,
            modules=request.modules,
            labels=factor_labels(request.fisher_labels, request.losses),
            share=request.kfac_positions,
            seed=request.seed,
        )
    keep_mass = default_keep_mass(model) if request.keep_mass is None else request.keep_mass
    known, columns = curvature_scores(
        model, data, kfac, names, keep_mass=keep_mass, seed=request.seed, progress=_telling(request.progress), **reading
    )
    ids = found.ids if len(found.ids) else batches.data.ids if ledger else np.asarray(known)
    if request.store:
        params = {"keep_mass": keep_mass, "labels": request.fisher_labels, "layers": sorted(kfac.factors_)}
        _store_columns(model, batches, request, columns, params)
    return replace(found, ids=ids, columns={**found.columns, **columns})


def _telling(progress: Callable[[int, int], None] | None) -> Callable[[int, int | None], None] | None:
    """A progress function for passes that may not know how many datapoints there are."""
    return None if progress is None else lambda done, total: progress(done, total or done)


class _Unnamed:
    """Batches without their ids, as often as wanted."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return (batch for _, batch in self._batches)


def _store_columns(
    model: nn.Module, batches: Batches, request: Request, columns: Mapping[str, Any], params: Mapping[str, Any]
) -> None:
    from datumwise.ledger import Provenance

    provenance = {
        name: Provenance(
            method=f"signals.{name}",
            params={**params, "modules": _called(request.modules)},
            reads=list(batches.reads),
            model=model_fingerprint(model),
            seed=request.seed,
        )
        for name in columns
    }
    batches.data.write(dict(columns), provenance=provenance, overwrite=request.overwrite)


# --- checkpoints --------------------------------------------------------------------------------------------


@contextmanager
def _weights_kept(model: nn.Module) -> Iterator[None]:
    """The model's own weights are put back, also after an error."""
    before = {k: v.detach().clone() for k, v in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(before)


def _load(model: nn.Module, checkpoint: Any) -> None:
    """Load a state dict, or a .safetensors or torch file of one."""
    state = checkpoint
    if isinstance(checkpoint, str | Path):
        path = Path(checkpoint)
        if not path.is_file():
            raise SourceError(f"there is no checkpoint {path}")
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ModelMismatch(f"a checkpoint does not fit the model, {str(error).splitlines()[0]}") from error


def _stacked(found: list[Signals], names: Sequence[str]) -> Signals:
    """Signals of E checkpoints with a leading axis (E, n, ...); ragged columns as lists of E lists."""
    if not found:
        raise EmptyData("there is no checkpoint in checkpoints")
    first = found[0]
    columns: dict[str, Any] = {}
    for name, values in first.columns.items():
        every = [one.columns[name] for one in found]
        columns[name] = np.stack(every) if isinstance(values, np.ndarray) else every
    if "logits_by_epoch" in names:
        columns["logits_by_epoch"] = columns["logits"]
        if "logits" not in names:
            del columns["logits"]
    statistics = {k: np.stack([one.statistics[k] for one in found]) for k in first.statistics}
    parameters = {**first.parameters, "model": [one.parameters["model"] for one in found]}
    return Signals(first.ids, columns, statistics, parameters)
