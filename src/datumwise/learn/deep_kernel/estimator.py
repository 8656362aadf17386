"""What the regressor and the classifier share: checks, the way from the prior to learned features, similarities, ids."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from datumwise.errors import (
    DatumwiseError,
    EmptyData,
    SchemaMismatch,
    UnknownName,
    name_some,
)
from datumwise.learn.deep_kernel.cholesky import default_jitter
from datumwise.learn.deep_kernel.inputs import (
    NUMBER,
    checked_ids,
    checked_kernel,
    checked_nu,
    one_each,
    refuse_not_finite,
    refuse_too_large,
)
from datumwise.learn.deep_kernel.kl import check_kl
from datumwise.learn.deep_kernel.sparse import Factors, Projection, SparseMachine
from datumwise.learn.deep_kernel.train import (
    blocks,
    inducing_rows,
    with_nus,
)

__all__ = ["DeepKernelEstimator", "Progress", "part_of"]

AUTO_INDUCING = 128  # inducing points, or all rows if there are fewer
DENSE_ROWS = 2_000  # most rows of a dense machine
FULL_BATCH_ROWS = 5_000  # above this, mini-batches
BATCH_SIZE = 1_024
NU_PATH = (float("inf"), 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)  # widths that nu="auto" tries, the prior first
NU_PATIENCE = 2  # widths in a row without a better held-out likelihood that end the search
NU_ROWS = 20  # below these nothing can be held out: the second width is taken
STAGE = 5  # features at one width get one STAGE-th of the steps of the prior
HELD_OUT = 0.2  # share of the rows that judges a width
INFINITY = float("inf")

Progress = Callable[[int, int], None] | None


class DeepKernelEstimator(BaseEstimator, ABC):
    """What regressor and classifier share: input checks, the machine, similarities, ids."""

    n_layers: int
    nu: Any
    kernel: Any
    ard: bool
    n_inducing: Any
    kl: str
    skr_gamma: float
    max_iter: int
    lr: float
    batch_size: int | None
    method: str
    hyperparameters: str
    optimizer: str
    inducing: str
    standardize: bool
    jitter: float | None
    dtype: str
    device: str
    warm_start: bool
    random_state: Any

    machine_: SparseMachine
    ids_: np.ndarray

    @abstractmethod
    def fit(self, X: Any, y: Any, ids: Any = None, progress: Progress = None) -> Self:
        """Train on rows (n, d) and targets (n,) or (n, C)."""

    @abstractmethod
    def _log_density(self, X: np.ndarray, y: np.ndarray) -> float:
        """Mean log density of held-out targets, which chooses nu."""

    @abstractmethod
    def _begin(self, X: np.ndarray) -> tuple[Tensor, Tensor]:
        """Rows (n, d) and targets as the machine takes them."""

    @abstractmethod
    def _train(
        self, machine: SparseMachine, rows: Tensor, targets: Tensor, steps: int, seed: int, progress: Progress
    ) -> list[float]:
        """Gradient steps; the objective per datapoint at each."""

    @abstractmethod
    def _first_order(self, machine: SparseMachine, rows: Tensor, targets: Tensor, steps: int) -> float:
        """One closed-form step of the features; its length."""

    @abstractmethod
    def _finish(self, machine: SparseMachine, rows: Tensor, targets: Tensor) -> float:
        """The output layer in closed form; the objective over all rows."""

    def gram(self, X: Any, X2: Any = None, layer: int = -1) -> np.ndarray:
        """How alike the model takes datapoints to be, after any layer.

        Parameters
        ----------
        X : array (n, d)
        X2 : array (n2, d), optional
            ``X`` itself by default.
        layer : int, default -1
            0: inputs (scaled); l: Gram matrix G_l that layer l learned; -1: the last.

        Returns
        -------
        float64 ndarray (n, n2)
            Unnormalised; positive semi-definite for ``X2=None``.

        Raises
        ------
        NotFittedError, NotFinite, UnknownName
            Before ``fit``; NaN; no such layer.
        """
        check_is_fitted(self)
        count = len(self.machine_.nus) + 1
        if not -count <= layer < count:
            raise UnknownName(f"there is no layer {layer}", remedy=f"choose 0 (inputs) to {count - 1}, or -1")
        rows, columns = self._project(X), None if X2 is None else self._project(X2)
        return self._cross(rows, columns, layer % count)

    def _cross(self, rows: list[Projection], columns: list[Projection] | None, which: int) -> np.ndarray:
        """Block ``which`` of `SparseMachine.cross` between two projected sets."""
        shape = [sum(len(p.k) for p in part) for part in (rows, columns or rows)]
        refuse_too_large(*shape)
        with torch.no_grad():
            matrix = [[self.machine_.cross(one, two)[which] for two in columns or rows] for one in rows]
            return torch.cat([torch.cat(line, 1) for line in matrix]).double().cpu().numpy()

    def _project(self, X: Any) -> list[Projection]:
        """New rows as the last layer sees them, in blocks."""
        return list(self._projections(self._new_rows(X)))

    def _projections(self, rows: Tensor) -> Iterator[Projection]:
        factors = self._factors()
        with torch.no_grad():
            for part in blocks(len(rows), len(self.machine_.Z)):
                yield self.machine_.project(rows[part], factors)

    def _factors(self) -> Factors:
        with torch.no_grad():
            return self.machine_.factors()

    def _new_rows(self, X: Any) -> Tensor:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype="numeric", ensure_all_finite=False)
        refuse_not_finite(X, "X")
        return self._tensor(X)

    def _tensor(self, X: np.ndarray) -> Tensor:
        standard = (np.asarray(X, dtype=np.float64) - self.X_mean_) / self.X_scale_
        return torch.as_tensor(standard, dtype=self.machine_.Z.dtype, device=self.machine_.Z.device)

    def _training_parts(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which rows, their A and k, block by block: of the datapoints that the model still knows."""
        factors = self._factors()
        with torch.no_grad():
            if self.machine_.dense:
                A, k = factors.L.T[:, self._kept], factors.K.diagonal()[self._kept]
                yield slice(0, len(k)), A, k
                return
            for part in blocks(len(self._X), len(self.machine_.Z)):
                found = self.machine_.project(self._tensor(self._X[part]), factors)
                yield part, found.A, found.k

    def _walk(self, X: np.ndarray, y: np.ndarray, ids: Any, noise: float | None, progress: Progress) -> None:
        """Refuse what cannot be done, lay out the machine and take it through all stages."""
        n = len(X)
        rng = np.random.default_rng(self.random_state)
        nus, kernels = self._checked(n)
        self.ids_ = checked_ids(ids, n)
        searched = 0
        if isinstance(self.nu, str):
            longest = sum(steps for _, steps, _ in self._stages([NU_PATH[-1]] * self.n_layers))
            nus = [self._chosen_nu(X, y, rng, part_of(progress, 0, 2 * longest))] * self.n_layers
            searched = 2 * longest
        self._X, self._kept = X.copy(), np.arange(n)
        self._scale_inputs(X)
        standard = (np.asarray(X, dtype=np.float64) - self.X_mean_) / self.X_scale_
        dense = self.n_inducing is None
        P = n if dense else min(n, AUTO_INDUCING) if self.n_inducing == "auto" else self.n_inducing
        Z = standard if dense else inducing_rows(standard, P, self.inducing, rng)
        before = getattr(self, "machine_", None) if self.warm_start else None
        stages = self._stages(nus) if before is None else self._stages(nus)[-1:]
        machine = self._laid_out(Z, kernels, noise) if before is None else self._continued(before, kernels, Z)
        self.machine_ = machine  # its dtype and device are those of the rows
        rows, targets = self._begin(X)
        total = sum(steps for _, steps, _ in stages)
        done, history = 0, []
        judge = getattr(self, "_judge", None)
        for widths, steps, what in stages:
            if what == "first_order":  # a step from the prior, whatever was learned before
                machine = with_nus(machine, [INFINITY] * self.n_layers)
            machine = with_nus(machine, widths)
            part = part_of(progress, max(searched - total, 0) + done, max(searched, total))
            if what == "first_order":
                self.first_order_length_ = self._first_order(machine, rows, targets, steps)
            else:
                machine.learn(what)
                history += self._train(machine, rows, targets, steps, int(rng.integers(2**31)), part)
            done += steps
            machine.learn("nothing")
            self.machine_ = machine
            if judge is not None:
                self._finish(machine, rows, targets)
                if judge(self, max(widths)):
                    return
        self._report(machine, history, self._finish(machine, rows, targets))

    def _stages(self, nus: list[float]) -> list[tuple[list[float], int, str]]:
        """Widths, steps and what is learned in them, one stage after the other; nus are approached from infinity."""
        prior, short = [INFINITY] * self.n_layers, max(self.max_iter // STAGE, min(self.max_iter, 1))
        finite = [nu for nu in nus if nu < INFINITY]
        searching = isinstance(self.nu, str) or hasattr(self, "_judge")
        if not finite or (self.hyperparameters == "joint" and self.method == "optimize" and not searching):
            return [(nus, self.max_iter, "all")]
        above = [nu for nu in NU_PATH[1:] if nu > min(finite)]
        if self.method == "first_order":  # always from the prior: only a search needs what lies between
            above = above if hasattr(self, "_judge") else []
        what = "first_order" if self.method == "first_order" else "features" if self.hyperparameters == "prior" else "all"
        path = [[max(nu, least) for nu in nus] for least in above] + [nus]
        return [(prior, self.max_iter, "all")] + [(widths, short, what) for widths in path]

    def _laid_out(self, Z: np.ndarray, kernels: list[str], noise: float | None) -> SparseMachine:
        dtype = getattr(torch, self.dtype)
        return SparseMachine(
            torch.as_tensor(Z, dtype=dtype, device=self.device),
            [INFINITY] * self.n_layers,
            kernels,
            ard=self.ard,
            jitter=default_jitter(dtype) if self.jitter is None else self.jitter,
            kl=self.kl,
            skr_gamma=self.skr_gamma,
            noise=noise,
            dense=self.n_inducing is None,
        )

    def _continued(self, before: SparseMachine, kernels: list[str], Z: np.ndarray) -> SparseMachine:
        """The machine of the last fit, if it fits."""
        dense = self.n_inducing is None
        same = before.Z.shape == Z.shape and before.Z.dtype == getattr(torch, self.dtype) and before.dense == dense
        if not same or before.kernels != kernels:
            raise SchemaMismatch(
                f"the last fit had {before.Z.shape[0]} inducing points of {before.Z.shape[1]} columns and other settings",
                remedy="keep n_inducing, n_layers, kernel and dtype, or set warm_start=False",
            )
        if dense:
            before.Z.data.copy_(torch.as_tensor(Z))
        return before

    def _checked(self, n: int) -> tuple[list[float], list[str]]:
        """Refuse settings that mean nothing; nu a layer, kernel a layer and one."""
        if n < 2:
            raise EmptyData(f"X has n_samples = {n}, and a kernel machine needs two", remedy="give more rows")
        for name, low in (("n_layers", 0), ("max_iter", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < low:
                raise DatumwiseError(f"{name} must be a whole number of at least {low}, not {value!r}")
        for name, choices in (
            ("method", ("optimize", "first_order")),
            ("dtype", ("float64", "float32")),
            ("optimizer", ("adam", "lbfgs")),
            ("inducing", ("random", "kmeans")),
            ("hyperparameters", ("prior", "joint")),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise UnknownName(f"there is no {name} {value!r}", remedy=f"choose {choices[0]!r} or {choices[1]!r}")
        if not (isinstance(self.lr, NUMBER) and self.lr > 0):
            raise DatumwiseError(f"lr must be positive, not {self.lr!r}")
        if not (isinstance(self.skr_gamma, NUMBER) and self.skr_gamma >= 0):
            raise DatumwiseError(
                f"skr_gamma must be at least 0, not {self.skr_gamma!r}", remedy="0 turns it off, 4 is published"
            )
        if self.jitter is not None and not self.jitter >= 0:
            raise DatumwiseError(f"jitter must be at least 0, not {self.jitter!r}")
        if self.batch_size is not None and (not isinstance(self.batch_size, int | np.integer) or self.batch_size < 1):
            raise DatumwiseError(f"batch_size must be a positive whole number, not {self.batch_size!r}")
        check_kl(self.kl, None)
        self._check_inducing(n)
        if self.optimizer == "lbfgs" and (self._rows_a_step(n) is not None or self.skr_gamma > 0):
            raise DatumwiseError(
                "L-BFGS needs the full batch and no random regularisation",
                remedy=f"optimizer='adam', or batch_size >= {n} and skr_gamma=0",
            )
        auto = isinstance(self.nu, str) and self.nu == "auto"
        nus = [INFINITY] * self.n_layers if auto else one_each("nu", self.nu, self.n_layers, checked_nu)
        return nus, one_each("kernel", self.kernel, self.n_layers + 1, checked_kernel)

    def _chosen_nu(self, X: np.ndarray, y: np.ndarray, rng: np.random.Generator, progress: Progress) -> float:
        """The nu that predicts held-out rows best, on a path from infinity downward; ``nu_path_`` keeps what was found."""
        self.nu_path_: list[tuple[float, float]] = []
        if self.n_layers == 0 or len(X) < NU_ROWS:
            return NU_PATH[1]
        order = rng.permutation(len(X))
        held, rest = np.split(order, [int(HELD_OUT * len(X))])
        if isinstance(self, ClassifierMixin):  # every class must be there to be learned
            first = order[np.unique(y[order], return_index=True)[1]]
            held, rest = np.setdiff1d(held, first), np.union1d(rest, first)
        P = self.n_inducing if self.n_inducing in (None, "auto") else min(self.n_inducing, len(rest))
        trial = clone(self).set_params(nu=NU_PATH[-1], n_inducing=P, random_state=int(rng.integers(2**31)), warm_start=False)

        def judge(fitted: Any, nu: float) -> bool:
            """Whether ``NU_PATIENCE`` widths in a row have brought nothing."""
            self.nu_path_.append((nu, fitted._log_density(X[held], y[held])))
            scores = [score for _, score in self.nu_path_]
            return len(scores) - 1 - int(np.argmax(scores)) >= NU_PATIENCE

        trial._judge = judge
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a column may be constant in the part
            trial.fit(X[rest], y[rest], progress=progress)
        return max(self.nu_path_, key=lambda pair: pair[1])[0]

    def _check_inducing(self, n: int) -> None:
        P = self.n_inducing
        if P is None:
            if n > DENSE_ROWS:
                raise DatumwiseError(
                    f"{n:,} rows are too many for a dense machine, which takes {DENSE_ROWS:,}",
                    remedy="give n_inducing, for example 256",
                )
        elif P != "auto":
            if not isinstance(P, int | np.integer) or P < 1:
                raise DatumwiseError(f"n_inducing must be a positive whole number, 'auto' or None (dense), not {P!r}")
            if n < P:
                raise DatumwiseError(
                    f"n_inducing = {P} is more than the {n} rows of X", remedy="at most one a row, 'auto', or None (dense)"
                )

    def _rows_a_step(self, n: int) -> int | None:
        """None: all of them."""
        if self.n_inducing is None and isinstance(self, RegressorMixin):
            return None
        size = self.batch_size if self.batch_size is not None else BATCH_SIZE if n > FULL_BATCH_ROWS else n
        return None if size >= n else int(size)

    def _scale_inputs(self, X: np.ndarray) -> None:
        self.X_mean_, self.X_scale_ = np.zeros(X.shape[1]), np.ones(X.shape[1])
        if not self.standardize:
            return
        X = np.asarray(X, dtype=np.float64)
        mean, scale = X.mean(0), X.std(0)
        constant = scale <= 1e-12 * np.abs(X).max(0)
        if constant.any():
            warnings.warn(
                f"columns {name_some(np.flatnonzero(constant))} of X never vary: they are centred, not scaled",
                UserWarning,
                stacklevel=4,
            )
        self.X_mean_, self.X_scale_ = mean, np.where(constant, 1.0, scale)

    def _report(self, machine: SparseMachine, history: list[float], objective: float) -> None:
        self.history_, self.n_iter_ = np.asarray(history), len(history)
        self.nu_ = np.asarray(machine.nus)
        self.kl_per_layer_ = np.array([kl.item() for kl in machine.kls()])
        self.elbo_ = objective
        self.n_clamped_ = int(machine.clamped)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        return tags


def part_of(progress: Progress, start: int, total: int) -> Progress:
    """Progress of a part that begins at ``start`` of ``total``; 0: of as many as the whole says."""
    if progress is None:
        return None
    report = progress
    return lambda done, count: report(start + done, total or count)
