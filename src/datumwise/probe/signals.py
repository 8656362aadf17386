"""What does a model say of each datapoint? Named arrays, from the fewest streamed passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import ModelMismatch, UnknownName
from datumwise.probe.fingerprint import model_fingerprint
from datumwise.probe.plan import wanted

__all__ = ["Signals", "signals"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Signals(Mapping[str, Any]):
    """Named arrays aligned to :attr:`ids`.

    Attributes
    ----------
    ids : array (n,)
        Ledger ids, the batches' own ids, or running numbers.
    columns : dict of str to array (n, ...) or list of n arrays
    statistics : dict of str to array
        Of the whole data set: ``mean_gradient/PARAMETER``, ``activation_gram/MODULE`` and their counts.
    factors : KFAC or None
        The curvature's Kronecker factors, see :attr:`kfac`.
    parameters : dict
        What an index and its queries must agree on, and the model's fingerprint.
    """

    ids: np.ndarray
    columns: dict[str, Any]
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    factors: Any = None

    def __getitem__(self, name: str) -> Any:
        if name not in self.columns:
            raise UnknownName(f"there is no signal {name!r} here", remedy=f"there are {', '.join(self.columns)}")
        return self.columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __repr__(self) -> str:
        lines = [f"Signals of {len(self.ids):,} datapoints"]
        for name, values in self.columns.items():
            if isinstance(values, np.ndarray):
                lines.append(f"  {name:<18} {values.dtype!s:<8} {' x '.join(map(str, values.shape))}")
            else:
                lines.append(f"  {name:<18} ragged   {len(values)}")
        return "\n".join(lines)

    @property
    def kfac(self) -> Any:
        """The fitted :class:`~datumwise.probe.KFAC` of the data set, from the same pass as the columns."""
        if self.factors is None:
            raise UnknownName("the Kronecker factors were not asked for", remedy="add 'kfac' to want")
        return self.factors

    def mean_gradient(self) -> dict[str, Any]:
        """The data set's mean gradient by parameter name, as tensors: a ``target`` of another call."""
        import torch

        prefix = "mean_gradient/"
        found = {k[len(prefix) :]: torch.from_numpy(v) for k, v in self.statistics.items() if k.startswith(prefix)}
        if not found:
            raise UnknownName("the mean gradient was not asked for", remedy="add 'mean_gradient' to want")
        return found

    def check_index(self, other: Signals) -> None:
        """Refuse to compare gradient indices of another projection, seed or model.

        Raises
        ------
        ModelMismatch
        """
        for name in ("projection", "length", "seed", "model"):
            mine, others = self.parameters.get(name), other.parameters.get(name)
            if mine != others:
                raise ModelMismatch(
                    f"the two gradient indices differ in {name}: {mine} and {others}",
                    remedy="make both with the same model, projection= and seed=",
                )


def signals(
    model: Any,
    data: Any,
    want: str | Iterable[str] = ("loss", "grad_norm", "grad_index"),
    *,
    losses: Any = None,
    measure: Any = None,
    modules: Any = None,
    batch_size: int | str = "auto",
    projection: int = 2048,
    fisher_labels: str | None = None,
    checkpoints: Sequence[Any] | None = None,
    kfac_positions: float = 1.0,
    target: Any = None,
    damping: float = 0.1,
    keep_mass: float | None = None,
    calibration: Any = None,
    seed: int = 0,
    collate: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    engine: str = "local",
    store: bool = False,
    overwrite: bool = False,
    allow_partial: bool = False,
    folds: int = 5,
    progress: Progress | None = None,
) -> Signals:
    """Ask a model about every datapoint, in the fewest passes (see :func:`datumwise.probe.plan`).

    Parameters
    ----------
    model : torch.nn.Module or scikit-learn estimator
        A module is put in evaluation mode and its parameters are frozen for the pass; all flags are put back.
        An estimator is never changed: clones are fitted by cross-validation.
    data : Ledger, (x, y), dict of tensors, Dataset, DataLoader or list of batches
        Torch batches are (x, y) or dictionaries; an ``id`` entry names the datapoints.
    want : str or iterable of str
        Names of :data:`datumwise.probe.plan.SIGNALS`; for estimators also ``probs_fit``, ``pred``,
        ``residual`` ...
    losses : function (model, batch) -> Tensor (n,), optional
        One differentiable loss for each datapoint. Default: cross-entropy for logits (n, K) and labels; the
        sum over supervised next tokens for a causal language model.
    measure : function (model, batch) -> Tensor (n,), or "log_odds", optional
        Differentiated instead of the loss by ``grad_norm``, ``grad_index``, ``grad_dot`` and
        ``mean_gradient``.
    modules : list of patterns, or function (name, module) -> bool, optional
        Which modules' parameters count (and whose activations are given); all by default.
    batch_size : int or "auto"
        Datapoints a batch; "auto" measures two small batches and fills half of the free memory at most.
    projection : int
        Length of the ``grad_index`` rows; the error of a cosine is 1/sqrt(projection).
    fisher_labels : {"sampled", "gold"}, optional
        Labels of ``kfac`` and of the curvature factors that ``self_influence`` rests on; drawn from the model
        by default (for ``kfac`` by a second backward), the given ones with a ``losses`` of your own.
    kfac_positions : float
        Share of the positions that ``kfac`` is a mean over, drawn by (seed, id, position); all by default.
    checkpoints : sequence of state_dicts or paths, optional
        Every column gets a leading axis (E, n, ...); the model's own weights are put back.
    target : list of {parameter: gradient}, or "mean", optional
        ``grad_dot`` (n, q) is taken with these; "mean" is the data set's own mean gradient.
    damping : float
        Of ``self_influence``, relative to the mean eigenvalue of a layer.
    keep_mass : float, optional
        Curvature mass kept by the edit that ``removed_energy`` and ``edit_sensitivity`` look at: 0.7 for models of
        tokens, 0.99 for others by default.
    calibration : as ``data``, optional
        Ordinary data from which ``flat_share``, ``removed_energy`` and ``edit_sensitivity`` learn which directions are
        flat; by default ``data``.
    seed : int
        Of the projection, the sampled labels and the folds.
    collate : function (RecordBatch) -> batch, optional
        From ledger rows to the model's batch; by the ledger's roles by default.
    tokenizer : optional
        For ledgers of text.
    max_length : int, optional
        Most tokens of a text; the model's context by default.
    engine : {"local", "ray"}
        Where the passes over a ledger run: in this process, or in a pool of Ray actors (not those of
        ``self_influence`` and the scores by curvature). Both give the same bits with one thread a process.
    store : bool
        Keep the columns on the ledger (``grad_index`` as float32), journalled and resumable; else in memory
        only.
    overwrite : bool
        Replace columns that are on the ledger already.
    allow_partial : bool
        Accept gradients that lack parameters that cannot be captured.
    folds : int
        Of the cross-validation of an estimator.
    progress : function (done, total), optional

    Returns
    -------
    Signals

    Raises
    ------
    UnknownName, ModelMismatch, NotFinite, EmptyData

    Examples
    --------
    >>> import torch
    >>> x, y = torch.eye(4), torch.tensor([0, 1, 1, 0])
    >>> found = signals(torch.nn.Linear(4, 2), (x, y), ["loss", "grad_norm"])
    >>> found
    Signals of 4 datapoints
      loss               float64  4
      grad_norm          float64  4
    """
    if not hasattr(model, "named_parameters"):
        if engine != "local":
            raise ModelMismatch(f"a {type(model).__name__} is cross-validated in this process only", remedy="leave out engine=")
        return _of_estimator(model, data, want, folds=folds, seed=seed, progress=progress)
    from datumwise.probe.torch_signals import Request, run

    names = wanted(want)
    if "grad_dot" in names and target is None:
        raise ModelMismatch("grad_dot needs gradients to compare with", remedy='pass target=, or target="mean"')
    if fisher_labels not in (None, "gold", "sampled"):
        raise UnknownName(f"fisher_labels is {fisher_labels!r}", remedy='it is "gold" or "sampled"')
    request = Request(
        names=tuple(names),
        losses=losses,
        measure=measure,
        modules=modules,
        batch_size=batch_size,
        projection=projection,
        fisher_labels=fisher_labels,
        kfac_positions=kfac_positions,
        target=target,
        damping=damping,
        keep_mass=keep_mass,
        calibration=calibration,
        seed=seed,
        collate=collate,
        tokenizer=tokenizer,
        max_length=max_length,
        engine=engine,
        store=store,
        overwrite=overwrite,
        allow_partial=allow_partial,
        progress=progress,
    )
    return run(model, data, request, checkpoints)


def _of_estimator(
    model: Any, data: Any, want: str | Iterable[str], *, folds: int, seed: int, progress: Progress | None
) -> Signals:
    """Cross-validated signals of an estimator, on (X, y) or on a ledger with features and a label."""
    from datumwise.probe.estimators import estimator_signals

    names = [want] if isinstance(want, str) else list(want)
    if isinstance(data, tuple) and len(data) == 2:
        X, y = data
        columns = estimator_signals(model, X, y, names, folds=folds, seed=seed, progress=progress)
        ids = np.arange(len(next(iter(columns.values()))))
        return Signals(ids, columns, parameters={"seed": seed, "folds": folds, "model": model_fingerprint(model)})
    if not hasattr(data, "roles"):
        raise ModelMismatch(
            f"signals of a {type(model).__name__} need (X, y) or a ledger, not {type(data).__name__}",
            remedy="pass data=(X, y)",
        )
    from sklearn.base import clone
    from sklearn.pipeline import Pipeline, make_pipeline

    from datumwise.probe.features import features

    label = data.roles.get("label")
    if not label:
        raise ModelMismatch(f"{data.name} has no label column", remedy="ingest the data with label=")
    read = features(data)
    if not isinstance(model, Pipeline):
        model = make_pipeline(clone(read.transform), model)
    columns = estimator_signals(
        model, read.X, data.array(label), names, folds=folds, seed=seed, ids=list(data.ids), progress=progress
    )
    return Signals(data.ids, columns, parameters={"seed": seed, "folds": folds, "model": model_fingerprint(model)})
