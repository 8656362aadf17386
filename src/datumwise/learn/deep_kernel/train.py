"""Training of deep kernel machines: full batch, mini-batches linear in n, L-BFGS, or one first-order step of the features.

Yang et al., 2023 (arXiv 2108.13097); mini-batches as in Hensman, Fusi and Lawrence, 2013, *Gaussian processes for big data*,
with q(u) held at its optimum for running statistics of the data instead of learned by gradient.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datumwise.errors import NotFinite
from datumwise.learn.deep_kernel.cholesky import guarded_cholesky, raw_factor
from datumwise.learn.deep_kernel.class_output import ClassOutput, normal_draws
from datumwise.learn.deep_kernel.sparse import Factors, SparseMachine, Statistics, collapsed_bound

__all__ = [
    "Posterior",
    "best_posterior",
    "blocks",
    "expected_log_likelihood",
    "first_order_step",
    "inducing_rows",
    "regression_gradient",
    "regression_objective",
    "stream_statistics",
    "train_classes",
    "train_regression",
    "with_nus",
]

Progress = Callable[[int, int], None] | None
ENTRIES = 1 << 20  # entries of a (T, P) block that is streamed, 8 MiB each in float64
MEMORY = 20  # mini-batches that the running statistics remember at most
WARM_UP = 8  # mini-batches that they start from
MOST_FAILURES = 20  # steps in a row with no finite gradient after which training stops
HALVINGS = 30  # of a first-order step that does not raise the objective


class Posterior(NamedTuple):
    """q(v_c) = N(m_c, cov) of the whitened inducing outputs."""

    m: Tensor  # (P, C)
    cov: Tensor  # (P, P)
    kl: Tensor  # () sum over the outputs of KL(q || N(0, I))


def train_regression(
    machine: SparseMachine,
    X: Tensor,
    y: Tensor,
    *,
    max_iter: int,
    lr: float,
    batch_size: int | None = None,
    optimizer: str = "adam",
    seed: int = 0,
    progress: Progress = None,
) -> list[float]:
    """Maximise the collapsed objective J over everything that the machine learns, in place.

    Parameters
    ----------
    machine : SparseMachine
    X : Tensor (n, d)
    y : Tensor (n, C)
    max_iter : int
        Gradient steps (for ``optimizer="lbfgs"`` iterations).
    lr : float
        Adam's, falling to 0 along a cosine.
    batch_size : int, optional
        Rows a step; None: all.
    optimizer : {"adam", "lbfgs"}
        L-BFGS needs the full batch.
    seed : int
        Of the batches' order and of the stochastic kernel regularisation.
    progress : callable (done, total), optional

    Returns
    -------
    list of float
        Objective per datapoint before each step; its unbiased estimate, for fixed q, with mini-batches.

    Examples
    --------
    >>> X = torch.linspace(-2, 2, 50, dtype=torch.float64)[:, None]
    >>> machine = SparseMachine(X[::5], [1.0], ["arccos"] * 2)
    >>> history = train_regression(machine, X, torch.sin(3 * X), max_iter=30, lr=0.05)
    >>> history[-1] > history[0] + 0.5
    True
    """
    n = len(X)
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in machine.parameters() if p.requires_grad]
    if optimizer == "lbfgs":
        return _lbfgs(parameters, lambda: -regression_objective(machine, X, y) / n, max_iter, progress)
    if batch_size is None or batch_size >= n:
        noisy = generator if machine.skr_gamma > 0 else None
        return _adam(parameters, lambda _: -regression_objective(machine, X, y, noisy) / n, max_iter, lr, progress)
    return _adam(parameters, _MiniBatches(machine, X, y, batch_size, generator), max_iter, lr, progress)


def train_classes(
    machine: SparseMachine,
    output: ClassOutput,
    X: Tensor,
    codes: Tensor,
    *,
    max_iter: int,
    lr: float,
    n_samples: int = 64,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> list[float]:
    """Maximise the bound on the class log-likelihood over machine and output, in place.

    Parameters
    ----------
    machine, output : SparseMachine, ClassOutput
    X : Tensor (n, d)
    codes : int64 Tensor (n,)
        0, ..., C - 1.
    max_iter, lr, batch_size, seed, progress
        As in :func:`train_regression`.
    n_samples : int
        Draws of the latent outputs; new ones every step; two classes need none.

    Returns
    -------
    list of float
        Bound per datapoint (its estimate) before each step.

    Examples
    --------
    >>> X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    >>> machine, output = SparseMachine(X[::8], [1.0], ["arccos"] * 2), ClassOutput(5, 2, dtype=torch.float64)
    >>> history = train_classes(machine, output, X, (X[:, 0] > 0).long(), max_iter=40, lr=0.05)
    >>> round(history[0], 1), history[-1] > -0.4
    (-1.1, True)
    """
    n, C = len(X), output.m.shape[1]
    generator = torch.Generator().manual_seed(seed)
    order = _order(n, n if batch_size is None else min(batch_size, n), generator)
    noisy = generator if machine.skr_gamma > 0 else None
    fixed = None
    if not any(p.requires_grad for p in machine.parameters()):  # the output alone is trained
        with torch.no_grad():
            fixed = machine.factors()

    def loss(step: int) -> Tensor:
        factors = machine.factors(noisy) if fixed is None else fixed
        rows = next(order)
        A, k = machine.training_rows(X[rows], factors)
        if machine.dense:
            A, k = A[:, rows], k[rows]
        draws = normal_draws(n_samples if C > 2 else 1, C, seed + step, dtype=X.dtype, device=X.device)
        fit = output.log_likelihood(A, k, codes[rows], draws).mean()
        return -fit + (output.kl() + machine.penalty()) / n

    parameters = [p for module in (machine, output) for p in module.parameters() if p.requires_grad]
    return _adam(parameters, loss, max_iter, lr, progress)


def regression_objective(machine: SparseMachine, X: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """J = collapsed log-likelihood bound - sum_l nu_l KL_l, on all rows at once, ().

    Examples
    --------
    Inducing points at the datapoints: the bound is the log-evidence.

    >>> X = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    >>> machine = SparseMachine(X, [], ["sqexp"], jitter=0.0)
    >>> covariance = machine.factors().K + machine.noise * torch.eye(3)
    >>> normal = torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance)
    >>> bool(torch.isclose(regression_objective(machine, X, X), normal.log_prob(X[:, 0])))
    True
    """
    A, k = machine.training_rows(X, machine.factors(generator))
    return collapsed_bound(Statistics.of(A, k, y), machine.noise) - machine.penalty()


def regression_gradient(machine: SparseMachine, X: Tensor, y: Tensor, *, block: int | None = None) -> Tensor:
    """J and its exact gradient in two streamed passes, memory bounded by the block; gradients are left in ``.grad``.

    The first pass collects statistics and the best q(u); at that q the uncollapsed bound touches the collapsed one, so the
    second pass adds up its gradient, a block at a time (envelope theorem).

    Parameters
    ----------
    machine : SparseMachine
    X, y : Tensor (n, d), (n, C)
    block : int, optional
        Rows at a time.

    Returns
    -------
    Tensor ()
        J, detached.

    Examples
    --------
    >>> X = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    >>> machine = SparseMachine(X[:3], [1.0], ["arccos"] * 2)
    >>> J = regression_gradient(machine, X, X.square(), block=2)
    >>> streamed = machine.Z.grad.clone()
    >>> machine.zero_grad()
    >>> whole = regression_objective(machine, X, X.square())
    >>> whole.backward()
    >>> bool(torch.isclose(J, whole)), bool(torch.allclose(streamed, machine.Z.grad))
    (True, True)
    """
    with torch.no_grad():
        factors = machine.factors()
        statistics = stream_statistics(machine, factors, X, y, block=block)
        q = best_posterior(statistics, machine.noise)
        J = collapsed_bound(statistics, machine.noise) - machine.penalty()
    for rows in [slice(None)] if machine.dense else blocks(len(X), len(machine.Z), block):
        # the walk of the inducing points is repeated a block: cheaper than keeping every block's graph
        A, k = machine.training_rows(X[rows], machine.factors())
        expected_log_likelihood(A, k, y[rows], machine.noise, q).sum().backward()
    penalty = -machine.penalty()
    if penalty.requires_grad:
        penalty.backward()
    return J


def stream_statistics(
    machine: SparseMachine, factors: Factors, X: Tensor, y: Tensor, *, block: int | None = None
) -> Statistics:
    """Statistics of all rows, a block at a time; memory O(block P + P^2).

    Examples
    --------
    >>> X = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    >>> machine = SparseMachine(X[:3], [1.0], ["arccos"] * 2)
    >>> with torch.no_grad():
    ...     factors = machine.factors()
    ...     one, many = (stream_statistics(machine, factors, X, X, block=size) for size in (7, 2))
    >>> one.n == many.n, bool(torch.allclose(one.Phi, many.Phi))
    (True, True)
    """
    if machine.dense:
        return Statistics.of(*machine.training_rows(X, factors), y)
    parts = (Statistics.of(*machine.training_rows(X[rows], factors), y[rows]) for rows in blocks(len(X), len(machine.Z), block))
    total = next(parts)
    for part in parts:
        total = total.plus(part)
    return total


def best_posterior(statistics: Statistics, noise: Tensor) -> Posterior:
    """The q(v) that maximises the bound: cov = (I + Phi / s2)^-1, m = cov b / s2.

    Examples
    --------
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> q = best_posterior(Statistics(one, one, one.sum(), 0 * one.sum(), 1), one.sum())
    >>> round(q.m.item(), 6), round(q.cov.item(), 6)
    (0.5, 0.5)
    """
    Phi, b = statistics.Phi, statistics.b
    P, C = b.shape
    LQ = guarded_cholesky(torch.eye(P, dtype=Phi.dtype, device=Phi.device) + Phi / noise)
    cov = torch.cholesky_inverse(LQ)
    m = torch.cholesky_solve(b, LQ) / noise
    kl = 0.5 * C * (cov.diagonal().sum() - P) + C * LQ.diagonal().log().sum() + 0.5 * m.square().sum()
    return Posterior(m, cov, kl)


def expected_log_likelihood(A: Tensor, k: Tensor, y: Tensor, noise: Tensor, q: Posterior) -> Tensor:
    """E_q[log N(y_t; f_t, s2)] of every datapoint, summed over outputs, (T,).

    Examples
    --------
    >>> one = torch.ones(1, 1)
    >>> q = Posterior(0 * one, 0 * one, one.sum())
    >>> round(expected_log_likelihood(one, one[0], 0 * one, one.sum(), q).item(), 4)  # the density of N(0, 1) at 0
    -0.9189
    """
    C = y.shape[1]
    variance = (k - A.square().sum(0)).clamp_min(0) + (A * (q.cov @ A)).sum(0)
    error = (y - A.T @ q.m).square().sum(1)
    return -0.5 * (C * torch.log(2 * math.pi * noise) + (error + C * variance) / noise)


def first_order_step(machine: SparseMachine, gradient: Callable[[], object], objective: Callable[[], float]) -> float:
    """One closed-form step of feature learning from the prior, in place: G_l = K_l + (2 / nu_l) K_l g_l K_l + O(nu^-2).

    With G = L M L^T and H = L^T g L, g = d log-likelihood / dG at S = I, stationarity is M^-1 = I - 2 H / nu. M = I + 2 H / nu
    agrees with M = (I - 2 H / nu)^-1 to first order; along an eigenvector of H that grows we take the one, along one that
    shrinks the other, so M is positive definite for every nu. The step is halved until the objective does not fall.

    Parameters
    ----------
    machine : SparseMachine
        With S = I in all layers.
    gradient : callable () -> object
        Puts the gradient of the log-likelihood (the penalty's is 0 at S = I) into ``.grad``.
    objective : callable () -> float
        J as the machine stands.

    Returns
    -------
    float
        Length of the step that was taken: 1, 1/2, 1/4, ... or 0.

    Examples
    --------
    >>> X = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
    >>> y, machine = torch.sign(X), SparseMachine(X[::2], [100.0], ["arccos"] * 2)
    >>> first_order_step(
    ...     machine, lambda: regression_gradient(machine, X, y), lambda: regression_objective(machine, X, y).item()
    ... )
    1.0
    >>> machine.kls()[0].item() > 0
    True
    """
    if not machine.whitened:
        return 0.0
    machine.zero_grad()
    gradient()
    directions = []
    for raw, nu in zip(machine.whitened, filter(math.isfinite, machine.nus), strict=True):
        slope = torch.zeros_like(raw) if raw.grad is None else raw.grad
        H = 0.5 * (slope.tril() + slope.tril(-1).T)  # dJ = <slope, dS> = <H, dM> with dM = dS + dS^T
        values, vectors = torch.linalg.eigh(H)
        directions.append((2 * values / max(nu, torch.finfo(raw.dtype).tiny), vectors))
    machine.zero_grad()
    start, length = objective(), 1.0
    for _ in range(HALVINGS):
        with torch.no_grad():
            for raw, (values, vectors) in zip(machine.whitened, directions, strict=True):
                step = (length * values).clamp(-1e6, 1e6)
                M = (vectors * torch.where(step >= 0, 1 + step, 1 / (1 - step))) @ vectors.T
                raw.copy_(raw_factor(guarded_cholesky(M)))
        try:
            reached = objective()
        except NotFinite:
            reached = -math.inf
        if reached >= start:
            return length
        length /= 2
    with torch.no_grad():
        for raw in machine.whitened:
            raw.zero_()
    return 0.0


def with_nus(machine: SparseMachine, nus: Sequence[float]) -> SparseMachine:
    """The same machine with other widths: hyper-parameters and learned layers stay, a layer that was pinned starts at S = I.

    Examples
    --------
    >>> machine = SparseMachine(torch.eye(2), [float("inf")], ["arccos"] * 2)
    >>> len(machine.whitened), len(with_nus(machine, [1.0]).whitened)
    (0, 1)
    """
    other = SparseMachine(
        machine.Z.detach(),
        nus,
        machine.kernels,
        jitter=machine.jitter,
        kl=machine.kl,
        skr_gamma=machine.skr_gamma,
        dense=machine.dense,
    )
    other.noise_floor = machine.noise_floor
    other.learned = {name for name in machine.learned if not name.startswith("whitened")}
    other.learn("all")
    held = dict(zip([i for i, nu in enumerate(machine.nus) if math.isfinite(nu)], machine.whitened, strict=True))
    free = [i for i, nu in enumerate(nus) if math.isfinite(nu)]
    with torch.no_grad():
        for name in ("log_scales", "log_input_bias", "log_weights", "log_biases", "log_noise"):
            getattr(other, name).copy_(getattr(machine, name))
        for layer, raw in zip(free, other.whitened, strict=True):
            if layer in held:
                raw.copy_(held[layer])
    return other


def inducing_rows(X: np.ndarray, P: int, init: str, rng: np.random.Generator) -> np.ndarray:
    """Inducing inputs to start from.

    Parameters
    ----------
    X : float ndarray (n, d)
    P : int
        At most n.
    init : {"random", "kmeans"}
        Distinct rows drawn at random, or centres of k-means (of at most 100 P rows).
    rng : numpy Generator

    Returns
    -------
    ndarray (P, d)

    Examples
    --------
    >>> X = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> sorted(inducing_rows(X, 2, "kmeans", np.random.default_rng(0))[:, 0].round(2).tolist())
    [0.05, 5.05]
    """
    n = len(X)
    if init == "random" or n == P:
        return X[np.sort(rng.choice(n, P, replace=False))]
    from sklearn.cluster import KMeans

    sample = X if n <= 100 * P else X[np.sort(rng.choice(n, 100 * P, replace=False))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct rows than centres: duplicates are centres too
        return KMeans(P, n_init=1, max_iter=30, random_state=int(rng.integers(2**31))).fit(sample).cluster_centers_


def blocks(n: int, P: int, block: int | None = None) -> Iterator[slice]:
    """Slices of n rows, so long that a (T, P) matrix stays within bounds.

    Examples
    --------
    >>> list(blocks(5, 3, block=2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = block or max(256, ENTRIES // P)
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


class _MiniBatches:
    """Loss of a mini-batch at the q that is best for running statistics of earlier ones.

    q is a constant of the step, so the gradient is that of an unbiased estimate of the bound at this q; statistics are per
    datapoint and forget slowly, because the features that they are in move with the machine.
    """

    def __init__(self, machine: SparseMachine, X: Tensor, y: Tensor, size: int, generator: torch.Generator) -> None:
        self.machine, self.X, self.y, self.size, self.generator = machine, X, y, size, generator
        self.order = _order(len(X), size, generator)
        self.running: Statistics | None = None
        self.seen = 0

    def __call__(self, step: int) -> Tensor:
        machine, n = self.machine, len(self.X)
        if self.running is None:
            with torch.no_grad():
                factors = machine.factors()
                warm = torch.randperm(n, generator=self.generator)[: WARM_UP * self.size].to(self.X.device)
                first = stream_statistics(machine, factors, self.X[warm], self.y[warm])
                self.running, self.seen = first.scaled(n), WARM_UP
        noise = machine.noise
        with torch.no_grad():
            q = best_posterior(self.running, noise)
        rows = next(self.order)
        noisy = self.generator if machine.skr_gamma > 0 else None
        A, k = machine.training_rows(self.X[rows], machine.factors(noisy))
        y = self.y[rows]
        with torch.no_grad():
            self._remember(Statistics.of(A, k, y))
        return -expected_log_likelihood(A, k, y, noise, q).mean() + (q.kl + machine.penalty()) / n

    def _remember(self, batch: Statistics) -> None:
        """Weight 1 / (batches seen), at least 1 / MEMORY."""
        self.seen += 1
        assert self.running is not None
        self.running = self.running.towards(batch, max(1 / self.seen, 1 / MEMORY))


def _order(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of one mini-batch after the other, every row once an epoch; whole batches only."""
    if size >= n:
        every = torch.arange(n)
        while True:
            yield every
    while True:
        shuffled = torch.randperm(n, generator=generator)
        for start in range(0, n - size + 1, size):
            yield shuffled[start : start + size]


def _adam(
    parameters: Sequence[Tensor], loss: Callable[[int], Tensor], steps: int, lr: float, progress: Progress
) -> list[float]:
    """Adam with a cosine; a step whose loss or gradient is not finite is taken back and the next is half as long."""
    optimiser = torch.optim.Adam(parameters, lr=lr)
    history: list[float] = []
    good = [p.detach().clone() for p in parameters]
    failures, shrink = 0, 1.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = shrink * lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        value = _finite_backward(loss, step, parameters)
        if value is None:
            failures += 1
            shrink /= 2
            with torch.no_grad():
                for p, kept in zip(parameters, good, strict=True):
                    p.copy_(kept)
            optimiser.state.clear()
            if failures >= MOST_FAILURES:
                warnings.warn(
                    f"training stopped at step {step} of {steps}: the gradient is not finite", RuntimeWarning, stacklevel=3
                )
                break
        else:
            failures = 0
            history.append(-value)
            with torch.no_grad():
                for p, kept in zip(parameters, good, strict=True):
                    kept.copy_(p)
            optimiser.step()
        if progress is not None:
            progress(step + 1, steps)
    if history and _finite_backward(loss, steps, parameters) is None:
        with torch.no_grad():  # the very last step led nowhere
            for p, kept in zip(parameters, good, strict=True):
                p.copy_(kept)
    for p in parameters:
        p.grad = None
    return history


def _finite_backward(loss: Callable[[int], Tensor], step: int, parameters: Sequence[Tensor]) -> float | None:
    """Loss with its gradient in place, or None where either is not finite."""
    try:
        value = loss(step)
    except NotFinite:
        return None
    if not math.isfinite(value.item()):
        return None
    value.backward()
    total = sum(float(p.grad.abs().sum()) for p in parameters if p.grad is not None)
    return value.item() if math.isfinite(total) else None


def _lbfgs(parameters: Sequence[Tensor], loss: Callable[[], Tensor], steps: int, progress: Progress) -> list[float]:
    """L-BFGS with a strong Wolfe line search, ten iterations at a time."""
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=10, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-9, tolerance_change=1e-12
    )
    history: list[float] = []

    def closure() -> Tensor:
        optimiser.zero_grad()
        try:
            value = loss()
        except NotFinite:
            value = sum((p.sum() * 0.0 for p in parameters), torch.tensor(1e10, dtype=parameters[0].dtype))
        value.backward()
        return value.detach()

    best, kept = math.inf, [p.detach().clone() for p in parameters]
    for done in range(0, steps, 10):
        optimiser.param_groups[0]["max_iter"] = min(10, steps - done)
        value = float(optimiser.step(closure))
        history.append(-value)
        now = float(closure())
        if now < best:
            best, kept = now, [p.detach().clone() for p in parameters]
        if progress is not None:
            progress(min(done + 10, steps), steps)
        if not math.isfinite(now) or abs(value - now) < 1e-10:
            break
    with torch.no_grad():
        for p, value_kept in zip(parameters, kept, strict=True):
            p.copy_(value_kept)
            p.grad = None
    return [*history, -best]
