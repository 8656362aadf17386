"""Learned similarities with calibrated uncertainty: deep kernel machines of tables as scikit-learn estimators.

Yang, Robeyns, Milsom, Anson, Schoots and Aitchison, 2023, *A theory of representation learning gives a deep generalisation of
kernel methods*, ICML (arXiv 2108.13097).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from datumwise.errors import (
    DatumwiseError,
    EmptyData,
    LabelError,
    MissingId,
    name_some,
)
from datumwise.learn.deep_kernel.class_output import ClassOutput, normal_draws
from datumwise.learn.deep_kernel.estimator import FULL_BATCH_ROWS, INFINITY, DeepKernelEstimator, Progress
from datumwise.learn.deep_kernel.inputs import (
    NUMBER,
    check_targets,
    checked_k,
    refuse_not_finite,
    refuse_too_large,
    to_numpy,
)
from datumwise.learn.deep_kernel.last_layer import LastLayer, forget, influence, leave_one_out, nearest, smoother
from datumwise.learn.deep_kernel.sparse import Projection, SparseMachine, collapsed_bound
from datumwise.learn.deep_kernel.train import (
    blocks,
    first_order_step,
    regression_gradient,
    regression_objective,
    stream_statistics,
    train_classes,
    train_regression,
)

__all__ = ["DeepKernelMachineClassifier", "DeepKernelMachineRegressor"]


class DeepKernelMachineRegressor(RegressorMixin, DeepKernelEstimator):
    """Regression with learned similarities, a calibrated spread and an exact account of every training datapoint.

    Each of L layers has a Gram matrix G_l (how alike are two datapoints?), and training maximises

        log N(y; 0, K(G_L) + s2 I) - sum_l nu_l KL(G_l || K(G_{l-1})),

    so nu is one dial from a plain Gaussian process (infinite) to a learner of features (small). With inducing points the
    output layer is integrated out in closed form, and cost is linear in the number of rows.

    Parameters
    ----------
    n_layers : int, default 2
        L; 0 is a Gaussian process.
    nu : "auto", float or sequence of float, default "auto"
        In [0, inf], one or one a layer; inf learns no features. It means the same in dense and sparse machines and for every
        n. "auto": the one of inf, 100, 30, 10, 3, 1, 0.3, 0.1 that predicts a held-out fifth of the rows best; the path ends
        after two without gain, then all rows walk it to the chosen one.
    kernel : str or sequence of str, default "arccos"
        "linear", "arccos", "gaussian", "sqexp" or "heaviside"; one, or one more than layers.
    ard : bool, default True
        Learn a scale for every column.
    n_inducing : "auto", int or None, default "auto"
        Inducing points; "auto": 128, or all rows if there are fewer; None: dense, at most 2,000 rows.
    noise : "learn" or float, default "learn"
        Noise variance, in units of y squared.
    kl : {"exact", "taylor"}
    skr_gamma : float, default 0
        Stochastic kernel regularisation: 4 is published for images; 0 turns it off.
    max_iter : int, default 500
        Gradient steps; those of the prior where features follow.
    lr : float, default 0.02
        Of Adam, falling to 0 along a cosine.
    batch_size : int, optional
        Rows a step; None: all of at most 5,000, else 1,024.
    method : {"optimize", "first_order"}
        "first_order": train the prior (nu infinite), then learn features in one closed-form step, right to order 1 / nu.
    hyperparameters : {"prior", "joint"}
        "prior": scales, noise, kernels and inducing inputs are learned with nu infinite (``max_iter`` steps); then features
        alone, on the path of "auto" down to nu, a fifth of the steps at each. "joint": everything together, as published; it
        fits more closely and overfits noisy tables, whose noise variance it drives to zero.
    optimizer : {"adam", "lbfgs"}
    inducing : {"random", "kmeans"}
        Rows drawn at random, or centres, to start from.
    standardize : bool, default True
        Columns of X and y to mean 0 and standard deviation 1; constant columns are only centred.
    jitter : float, optional
        Added to kernel matrices, relative to their mean diagonal; None: 1e-6, in float32 1e-5.
    dtype : {"float64", "float32"}
    device : str, default "cpu"
    warm_start : bool, default False
        Start from the last fit and take the last stage alone: for a sweep of nu from infinity downward.
    random_state : int, Generator or None

    Attributes
    ----------
    elbo_ : float
        The objective at the end, over all rows, in units of the standardised y.
    kl_per_layer_ : ndarray (L,)
        KL(G_l || K_l): how much each layer learned; 0 where it is pinned.
    nu_ : ndarray (L,)
    nu_path_ : list of (float, float)
        For ``nu="auto"``: each nu with its held-out mean log density, in units of the standardised y, less a constant.
    noise_ : float, or ndarray (C,)
        Noise variance in units of y squared.
    ids_ : ndarray (n,)
        Of the training datapoints, in the order of all results.
    history_ : ndarray
        Objective per datapoint at every step.
    n_iter_ : int
    n_clamped_ : int
        Conditional variances that rounding had made negative.
    machine_ : SparseMachine
    last_layer_ : LastLayer

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-2, 2, (60, 1))
    >>> y = np.sign(X[:, 0]) + 0.1 * rng.normal(size=60)
    >>> pinned, learned = (
    ...     DeepKernelMachineRegressor(n_layers=1, nu=nu, n_inducing=10, max_iter=100, lr=0.05, random_state=0).fit(X, y)
    ...     for nu in (float("inf"), 0.1)
    ... )
    >>> learned.elbo_ > pinned.elbo_, bool(learned.kl_per_layer_[0] > 0)
    (True, True)
    >>> mean, std = learned.predict([[1.0]], return_std=True)
    >>> round(mean[0]), bool(std[0] < 0.3)
    (1, True)
    """

    last_layer_: LastLayer

    def __init__(
        self,
        n_layers: int = 2,
        nu: float | Sequence[float] | str = "auto",
        kernel: str | Sequence[str] = "arccos",
        ard: bool = True,
        n_inducing: int | str | None = "auto",
        noise: float | str = "learn",
        kl: str = "exact",
        skr_gamma: float = 0,
        max_iter: int = 500,
        lr: float = 0.02,
        batch_size: int | None = None,
        method: str = "optimize",
        *,
        hyperparameters: str = "prior",
        optimizer: str = "adam",
        inducing: str = "random",
        standardize: bool = True,
        jitter: float | None = None,
        dtype: str = "float64",
        device: str = "cpu",
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_layers = n_layers
        self.nu = nu
        self.kernel = kernel
        self.ard = ard
        self.n_inducing = n_inducing
        self.noise = noise
        self.kl = kl
        self.skr_gamma = skr_gamma
        self.max_iter = max_iter
        self.lr = lr
        self.batch_size = batch_size
        self.method = method
        self.optimizer = optimizer
        self.hyperparameters = hyperparameters
        self.inducing = inducing
        self.standardize = standardize
        self.jitter = jitter
        self.dtype = dtype
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state

    def fit(self, X: Any, y: Any, ids: Any = None, progress: Progress = None) -> Self:
        """Train.

        Parameters
        ----------
        X : array or tensor (n, d), finite
        y : array or tensor (n,) or (n, C), finite
        ids : sequence (n,), optional
            Names of the rows in all results; 0, 1, ... by default.
        progress : callable (done, total), optional
            Steps.

        Raises
        ------
        NotFinite, SchemaMismatch, EmptyData, UnknownName, DuplicateId, DatumwiseError
        """
        check_targets(X, y)
        X, y = validate_data(
            self, X, y, dtype="numeric", y_numeric=True, multi_output=True, ensure_all_finite=False, ensure_min_samples=1
        )
        refuse_not_finite(X, "X")
        y = np.asarray(y, dtype=np.float64)
        self._flat = y.ndim == 1
        self._y = y.reshape(len(y), -1).copy()
        self.y_mean_, self.y_scale_ = np.zeros(self._y.shape[1]), np.ones(self._y.shape[1])
        if self.standardize and len(y) > 1:
            scale = self._y.std(0)
            self.y_mean_ = self._y.mean(0)
            self.y_scale_ = np.where(scale > 1e-12 * np.abs(self._y).max(0), scale, 1.0)
        self._walk(X, y, ids, self._fixed_noise(), progress)
        return self

    def _begin(self, X: np.ndarray) -> tuple[Tensor, Tensor]:
        return self._tensor(X), self._targets(self._y)

    def _train(
        self, machine: SparseMachine, rows: Tensor, targets: Tensor, steps: int, seed: int, progress: Progress
    ) -> list[float]:
        return train_regression(
            machine,
            rows,
            targets,
            max_iter=steps,
            lr=self.lr,
            batch_size=self._rows_a_step(len(rows)),
            optimizer=self.optimizer,
            seed=seed,
            progress=progress,
        )

    def _first_order(self, machine: SparseMachine, rows: Tensor, targets: Tensor, steps: int) -> float:
        machine.learn("features")
        return first_order_step(
            machine,
            lambda: regression_gradient(machine, rows, targets),
            lambda: self._objective(machine, rows, targets),
        )

    def _finish(self, machine: SparseMachine, rows: Tensor, targets: Tensor) -> float:
        """Put the last layer in place; the objective."""
        with torch.no_grad():
            statistics = stream_statistics(machine, machine.factors(), rows, targets)
            noise = machine.noise.detach()
            self.last_layer_ = LastLayer.of(statistics, noise)
            self.noise_ = self._unflatten(noise.item() * self.y_scale_**2, 0)
            return (collapsed_bound(statistics, noise) - machine.penalty()).item()

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """Mean of y, and its spread with the noise in it.

        Parameters
        ----------
        X : array (m, d)
        return_std : bool
            Also the standard deviation of y, the shape of the mean.
        return_cov : bool
            Also the covariance of y, (m, m), or (m, m, C).

        Returns
        -------
        float64 ndarray (m,) or (m, C), or a pair
        """
        if return_std and return_cov:
            raise DatumwiseError("at most one of return_std and return_cov can be asked for")
        projections = self._project(X)
        layer = self.last_layer_
        with torch.no_grad():
            found = [layer.predict(p.A, p.k) for p in projections]
            mean = self._in_units(torch.cat([mean for mean, _ in found]))
            if return_std:
                variance = torch.cat([variance for _, variance in found]) + layer.noise
                return mean, self._unflatten(np.sqrt(to_numpy(variance)[:, None] * self.y_scale_**2), 1)
            if not return_cov:
                return mean
            K = torch.as_tensor(self._cross(projections, None, -1), dtype=layer.noise.dtype, device=layer.noise.device)
            A = torch.cat([p.A for p in projections], 1)
            covariance = layer.covariance(A, A, K)
            covariance.diagonal().copy_(torch.cat([variance for _, variance in found]) + layer.noise)
        return mean, self._unflatten(to_numpy(covariance)[:, :, None] * self.y_scale_**2, 2)

    def loo_predict(self) -> tuple[np.ndarray, np.ndarray]:
        """Prediction of every training datapoint by a last layer that has not seen it, in closed form.

        Layers below, inducing points, scales and the standardisation have seen it.

        Returns
        -------
        mean : float64 ndarray (n,) or (n, C)
        variance : float64 ndarray of the same shape
            Of y: the noise is in it.
        """
        check_is_fitted(self)
        layer = self.last_layer_
        found = [leave_one_out(layer, A, k, self._targets(self._y[part])) for part, A, k in self._training_parts()]
        mean = self._in_units(torch.cat([mean for mean, _ in found]))
        variance = to_numpy(torch.cat([variance for _, variance in found]) + layer.noise)
        return mean, self._unflatten(variance[:, None] * self.y_scale_**2, 1)

    def influence(self, X: Any) -> np.ndarray:
        """By how much each training datapoint moves each prediction: with it minus without it, in units of y.

        Exact for the last layer: refitting it without the datapoint gives the same difference. Layers below, inducing points,
        scales and the standardisation stay.

        Parameters
        ----------
        X : array (m, d)

        Returns
        -------
        float64 ndarray (n, m) or (n, m, C)
            Rows in the order of ``ids_``.
        """
        star = self._star(X)
        refuse_too_large(len(self._X), star.shape[1])
        parts = [influence(self.last_layer_, star, A, self._targets(self._y[part])) for part, A, _ in self._training_parts()]
        return self._unflatten(to_numpy(torch.cat(parts)) * self.y_scale_, 2)

    def neighbours(self, X: Any, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Which training datapoints make each prediction, and with which weight?

        The mean is a weighted sum of training targets (standardised ones): these are the k weights of largest magnitude.

        Parameters
        ----------
        X : array (m, d)
        k : int, default 5

        Returns
        -------
        ids : ndarray (m, k)
        weights : float64 ndarray (m, k)
            Signed; over all datapoints they sum to 1 or less where the data are dense.
        """
        star = self._star(X)
        checked_k(k, len(self._X))
        indices, values = nearest((smoother(self.last_layer_, star, A) for _, A, _ in self._training_parts()), k)
        return self.ids_[indices.cpu().numpy()], to_numpy(values)

    def forget(self, ids: Any, refit: bool = False) -> Self:
        """Remove training datapoints, in place.

        ``refit=False``: the last layer becomes exactly what it would be without them (a downdate, one rank a datapoint); layers
        below, inducing points, scales and the standardisation remember. ``refit=True``: train anew on the others.

        Parameters
        ----------
        ids : sequence
            Of ``ids_``.
        refit : bool

        Raises
        ------
        MissingId
            An id is not among the training datapoints.
        EmptyData
            Nothing would be left.
        """
        check_is_fitted(self)
        rows = self._rows_of(ids)
        keep = np.ones(len(self._X), dtype=bool)
        keep[rows] = False
        if keep.sum() < 2:
            raise EmptyData("fewer than two datapoints would be left", remedy="keep at least two")
        X, y, names = self._X[keep], self._y[keep], self.ids_[keep]
        if refit:
            return self.fit(X, y[:, 0] if self._flat else y, ids=names)
        with torch.no_grad():
            for part, A, k in self._training_parts():
                gone = torch.as_tensor(~keep[part], device=A.device)
                if gone.any():
                    targets = self._targets(self._y[part])[gone]
                    self.last_layer_ = forget(self.last_layer_, A[:, gone], k[gone], targets)
            bound = collapsed_bound(self.last_layer_.statistics, self.last_layer_.noise)
            self.elbo_ = (bound - self.machine_.penalty()).item()
        self._X, self._y, self.ids_, self._kept = X, y, names, self._kept[keep]
        return self

    def _log_density(self, X: np.ndarray, y: np.ndarray) -> float:
        """Mean log predictive density, in units of the standardised y."""
        mean, std = self.predict(X, return_std=True)
        z = (y - mean) / std
        return float(np.mean(-0.5 * z**2 - np.log(std / (self.y_scale_[0] if self._flat else self.y_scale_))))

    def _objective(self, machine: SparseMachine, rows: Tensor, targets: Tensor) -> float:
        with torch.no_grad():
            if len(rows) <= FULL_BATCH_ROWS:
                return regression_objective(machine, rows, targets).item()
            statistics = stream_statistics(machine, machine.factors(), rows, targets)
            return (collapsed_bound(statistics, machine.noise) - machine.penalty()).item()

    def _fixed_noise(self) -> float | None:
        """In units of the standardised y."""
        if self.noise == "learn":
            return None
        if isinstance(self.noise, str) or not (isinstance(self.noise, NUMBER) and 0 < self.noise < INFINITY):
            raise DatumwiseError(f"noise must be 'learn' or a positive variance, not {self.noise!r}")
        if len(np.unique(self.y_scale_)) > 1:
            raise DatumwiseError("one fixed noise cannot hold for outputs of different scales", remedy="standardize=False")
        return float(self.noise) / float(self.y_scale_[0]) ** 2

    def _targets(self, y: np.ndarray) -> Tensor:
        like = self.machine_.Z
        return torch.as_tensor((y - self.y_mean_) / self.y_scale_, dtype=like.dtype, device=like.device)

    def _in_units(self, mean: Tensor) -> np.ndarray:
        return self._unflatten(to_numpy(mean) * self.y_scale_ + self.y_mean_, 1)

    def _unflatten(self, values: np.ndarray, axis: int) -> Any:
        """Without the axis of outputs if y had none."""
        if not self._flat:
            return values
        return values.take(0, axis) if axis else float(values[0])

    def _star(self, X: Any) -> Tensor:
        return torch.cat([p.A for p in self._project(X)], 1)

    def _rows_of(self, ids: Any) -> np.ndarray:
        places = {name: row for row, name in enumerate(self.ids_.tolist())}
        wanted = np.atleast_1d(np.asarray(ids)).tolist()
        missing = [name for name in wanted if name not in places]
        if missing:
            raise MissingId(f"no training datapoint has the id {name_some(missing)}", ids=missing)
        return np.array([places[name] for name in wanted], dtype=np.int64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class DeepKernelMachineClassifier(ClassifierMixin, DeepKernelEstimator):
    """Classification with learned similarities and probabilities that average over what the model is unsure of.

    As `DeepKernelMachineRegressor`, with a softmax over C latent outputs, whose inducing values have a Gaussian posterior that
    is trained along (whitened, one covariance for all classes).

    Parameters
    ----------
    n_layers, nu, kernel, ard, n_inducing, kl, skr_gamma, max_iter, lr, batch_size, method
        As in `DeepKernelMachineRegressor`.
    hyperparameters, inducing, standardize, jitter, dtype, device, warm_start, random_state
        As in `DeepKernelMachineRegressor`.
    n_samples : int, default 64
        Draws of the latent outputs for three classes or more; two need none (quadrature).

    Attributes
    ----------
    classes_ : ndarray (C,)
    elbo_, kl_per_layer_, nu_, ids_, history_, n_iter_, n_clamped_, machine_
        As in `DeepKernelMachineRegressor`.
    output_ : ClassOutput

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(80, 2))
    >>> y = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    >>> model = DeepKernelMachineClassifier(nu=10, n_inducing=20, max_iter=100, lr=0.05, random_state=0).fit(X, y)
    >>> model.predict([[1.0, 1.0], [-1.0, 1.0]]).tolist()
    ['same', 'other']
    """

    output_: ClassOutput
    optimizer = "adam"  # the bound is random for three classes or more
    _seed: int

    def __init__(
        self,
        n_layers: int = 2,
        nu: float | Sequence[float] | str = "auto",
        kernel: str | Sequence[str] = "arccos",
        ard: bool = True,
        n_inducing: int | str | None = "auto",
        kl: str = "exact",
        skr_gamma: float = 0,
        max_iter: int = 500,
        lr: float = 0.02,
        batch_size: int | None = None,
        method: str = "optimize",
        n_samples: int = 64,
        *,
        hyperparameters: str = "prior",
        inducing: str = "random",
        standardize: bool = True,
        jitter: float | None = None,
        dtype: str = "float64",
        device: str = "cpu",
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_layers = n_layers
        self.nu = nu
        self.kernel = kernel
        self.ard = ard
        self.n_inducing = n_inducing
        self.kl = kl
        self.skr_gamma = skr_gamma
        self.max_iter = max_iter
        self.lr = lr
        self.batch_size = batch_size
        self.method = method
        self.n_samples = n_samples
        self.hyperparameters = hyperparameters
        self.inducing = inducing
        self.standardize = standardize
        self.jitter = jitter
        self.dtype = dtype
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state

    def fit(self, X: Any, y: Any, ids: Any = None, progress: Progress = None) -> Self:
        """Train.

        Parameters
        ----------
        X : array or tensor (n, d), finite
        y : sequence (n,)
            Class labels, two different ones at least.
        ids : sequence (n,), optional
        progress : callable (done, total), optional
            Steps.

        Raises
        ------
        NotFinite, SchemaMismatch, EmptyData, LabelError, UnknownName, DuplicateId, DatumwiseError
        """
        check_targets(X, y)
        X, y = validate_data(self, X, y, dtype="numeric", ensure_all_finite=False, ensure_min_samples=1, multi_output=True)
        refuse_not_finite(X, "X")
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise LabelError(f"y has one class only, {self.classes_[0]!r}", remedy="give datapoints of two classes")
        if not isinstance(self.n_samples, int | np.integer) or self.n_samples < 1:
            raise DatumwiseError(f"n_samples must be a positive whole number, not {self.n_samples!r}")
        self._codes = codes
        self._walk(X, y, ids, 1.0, progress)
        return self

    def _begin(self, X: np.ndarray) -> tuple[Tensor, Tensor]:
        machine, C = self.machine_, len(self.classes_)
        P = len(machine.Z)
        before = getattr(self, "output_", None) if self.warm_start else None
        if before is None or before.m.shape != (P, C):
            self.output_ = ClassOutput(P, C, dtype=machine.Z.dtype, device=machine.Z.device)
        self._seed = int(np.random.default_rng(self.random_state).integers(2**31))
        return self._tensor(X), torch.as_tensor(self._codes, device=machine.Z.device)

    def _train(
        self, machine: SparseMachine, rows: Tensor, targets: Tensor, steps: int, seed: int, progress: Progress
    ) -> list[float]:
        return train_classes(
            machine,
            self.output_,
            rows,
            targets,
            max_iter=steps,
            lr=self.lr,
            n_samples=self.n_samples,
            batch_size=self._rows_a_step(len(rows)),
            seed=seed,
            progress=progress,
        )

    def _first_order(self, machine: SparseMachine, rows: Tensor, targets: Tensor, steps: int) -> float:
        machine.learn("features")
        length = first_order_step(
            machine,
            lambda: self._bound(machine, rows, targets, backward=True),
            lambda: self._bound(machine, rows, targets),
        )
        machine.learn("nothing")
        self._train(machine, rows, targets, steps, self._seed + 1, None)
        return length

    def _finish(self, machine: SparseMachine, rows: Tensor, targets: Tensor) -> float:
        return self._bound(machine, rows, targets)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class, (m, C) float64, columns in the order of ``classes_``."""
        projections = self._project(X)
        draws = self._draws(self.machine_.Z)
        with torch.no_grad():
            found = [self._mean_softmax(p, draws) for p in projections]
        probabilities = to_numpy(torch.cat(found))
        return probabilities / probabilities.sum(1, keepdims=True)

    def _mean_softmax(self, p: Projection, draws: Tensor) -> Tensor:
        mean, variance = self.output_(p.A, p.k)
        return self.output_.probabilities(mean, variance, draws)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row, (m,)."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def decision_function(self, X: Any) -> np.ndarray:
        """Mean latent outputs (m, C); for two classes the second minus the first, (m,)."""
        projections = self._project(X)
        with torch.no_grad():
            mean = to_numpy(torch.cat([self.output_(p.A, p.k)[0] for p in projections]))
        return mean[:, 1] - mean[:, 0] if mean.shape[1] == 2 else mean

    def neighbours(self, X: Any, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Which training datapoints does the model take to be most like each row?

        Parameters
        ----------
        X : array (m, d)
        k : int, default 5

        Returns
        -------
        ids : ndarray (m, k)
        similarities : float64 ndarray (m, k)
            Correlation of the latent outputs under the learned kernel, largest magnitude first.
        """
        star = self._project(X)
        checked_k(k, len(self._X))
        spread = torch.cat([p.k for p in star]).sqrt()

        def parts() -> Iterator[Tensor]:
            with torch.no_grad():
                for train in self._projections(self._tensor(self._X)):
                    block = torch.cat([self.machine_.cross(p, train)[-1] for p in star])
                    yield block / spread[:, None] / train.k.sqrt()

        indices, values = nearest(parts(), k)
        return self.ids_[indices.cpu().numpy()], to_numpy(values)

    def _log_density(self, X: np.ndarray, y: np.ndarray) -> float:
        """Mean log-probability of the right class."""
        probabilities = self.predict_proba(X)[np.arange(len(X)), np.searchsorted(self.classes_, y)]
        return float(np.mean(np.log(np.maximum(probabilities, 1e-300))))

    def _bound(self, machine: SparseMachine, rows: Tensor, codes: Tensor, *, backward: bool = False) -> float:
        """Bound on the log-likelihood of all rows minus penalties, streamed; ``backward`` leaves its gradient in ``.grad``."""
        output, draws, total = self.output_, self._draws(rows), 0.0
        with torch.set_grad_enabled(backward):
            for part in [slice(None)] if machine.dense else blocks(len(rows), len(machine.Z)):
                A, k = machine.training_rows(rows[part], machine.factors())
                fit = output.log_likelihood(A, k, codes[part], draws).sum()
                if backward:
                    fit.backward()
                total += fit.item()
            return total - (output.kl() + machine.penalty()).item()

    def _draws(self, like: Tensor) -> Tensor:
        C = len(self.classes_)
        return normal_draws(self.n_samples if C > 2 else 1, C, self._seed, dtype=like.dtype, device=like.device)
