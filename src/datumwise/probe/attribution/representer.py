"""Which training datapoints does a prediction rest on? Representer points: the last layer as a kernel machine.

Source: Yeh et al., Representer point selection for explaining deep neural networks, NeurIPS 2018, theorem 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from torch import Tensor

from datumwise.errors import DatumwiseError, ModelMismatch
from datumwise.probe.attribution.problem import Problem
from datumwise.probe.layers import reader_of
from datumwise.probe.losses import Forward
from datumwise.probe.needs import Need

__all__ = ["Representer", "fit_representer", "representer"]

L2 = 3e-3  # lambda, the published code's
TOLERANCE = 1e-10  # largest entry of the refit's gradient, relative to its start


def representer(
    problem: Problem,
    *,
    checkpoints: Sequence[Any] | None = None,
    damping: float | None = None,
    targets: str = "labels",
) -> np.ndarray:
    """alpha_i k(x_i, x_t) for the query's own label; a mean over checkpoints.

    Parameters
    ----------
    checkpoints
        The model's own weights by default; the last layer is refitted at each.
    damping : float, optional
        The refit's L2 weight lambda, above 0; 0.003 by default.
    targets : {"labels", "model"}
        What the last layer is refitted to: the labels, or the model's own probabilities (published).

    Returns
    -------
    ndarray (m, n)
        Positive: the datapoint raises the logit of the query's label (for a squared error: moves the output
        towards the query's target). Sums over n to that logit (to the output, with the sign of what is left).
    """
    total: np.ndarray | float = 0.0
    used = 0
    for _ in problem.at(checkpoints):
        found = fit_representer(problem, damping=damping, targets=targets)
        total = total + found.scores()
        used += 1
    assert isinstance(total, np.ndarray)
    return (total / used).astype(np.float64 if problem.dtype == torch.float64 else np.float32)


@dataclass(frozen=True)
class Representer:
    """A refitted last layer in both of its forms.

    Attributes
    ----------
    weight : float64 (K, d)
        With the bias as the last column, if the layer has one.
    alpha : float64 (n, K)
        -(1 / (2 lambda n)) dL/dz_i.
    train, test : float64 (n, d), (m, d)
        The last layer's inputs, with a constant 1 if it has a bias.
    labels : array (m,)
        Of the queries.
    kind : str
        The loss.
    """

    weight: np.ndarray
    alpha: np.ndarray
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    kind: str

    def outputs(self) -> np.ndarray:
        """The refitted outputs of the queries, (m, K)."""
        return self.test @ self.weight.T

    def scores(self) -> np.ndarray:
        """(m, n); see `representer`."""
        kernel = self.test @ self.train.T
        if self.kind == "cross_entropy":
            return kernel * self.alpha.T[self.labels.astype(np.int64)]
        if self.kind == "binary_cross_entropy":
            return kernel * self.alpha[:, 0] * (2 * self.labels.astype(np.float64)[:, None] - 1)
        side = np.sign(self.labels.astype(np.float64) - self.outputs()[:, 0])
        return kernel * self.alpha[:, 0] * side[:, None]


def fit_representer(problem: Problem, *, damping: float | None = None, targets: str = "labels") -> Representer:
    """Refit the last layer, min (1/n) sum_i L(W phi_i, y_i) + lambda ||W||^2, and write it as a sum over datapoints.

    Where the gradient is zero, 2 lambda W = -(1/n) sum_i dL/dz_i phi_i^T.

    Raises
    ------
    DatumwiseError
        lambda is not above 0.
    ModelMismatch
        Sequences, a loss of the caller's own, no linear last layer, or the refit did not converge.
    """
    if damping is not None and not (np.isfinite(damping) and damping > 0):
        raise DatumwiseError(f"damping is {damping}", remedy="the L2 weight of the refit must be above 0")
    if targets not in ("labels", "model"):
        raise DatumwiseError(f"targets is {targets!r}", remedy='choose "labels" or "model"')
    if not isinstance(problem.loss, str):
        raise ModelMismatch("the last layer is refitted to a loss by name, and this is a function of your own")
    lam = L2 if damping is None else damping
    parts: dict[str, list[Mapping[str, Any]]] = {"train": [], "test": []}
    for side, data in (("train", problem.train), ("test", problem.test)):
        need = HeadInputs(problem)
        problem.run(data, [need], parts[side].append)
    train, test = ({key: np.concatenate([c[key] for c in parts[side]]) for key in parts[side][0]} for side in parts)
    X, y, K = train["inputs"], train["labels"], train["outputs"].shape[1]
    goal = _goal(problem.loss, y, K)
    if targets == "model":
        z = train["outputs"]
        goal = np.exp(log_softmax(z, axis=1)) if problem.loss == "cross_entropy" else z
        goal = expit(z) if problem.loss == "binary_cross_entropy" else goal
    W = _refit(problem.loss, X, goal, lam)
    error = _mean_of(problem.loss, X @ W.T) - goal  # dL/dz
    alpha = -error / (2 * lam * len(X))
    return Representer(W, alpha, X, test["inputs"], test["labels"], problem.loss)


def _goal(loss: str, y: np.ndarray, K: int) -> np.ndarray:
    if loss == "cross_entropy":
        return np.eye(K)[y.astype(np.int64)]
    return y.astype(np.float64).reshape(len(y), -1)


def _mean_of(loss: str, z: np.ndarray) -> np.ndarray:
    """What the loss's gradient compares with the goal."""
    if loss == "cross_entropy":
        return np.exp(log_softmax(z, axis=1))
    return expit(z) if loss == "binary_cross_entropy" else z


def _refit(loss: str, X: np.ndarray, goal: np.ndarray, lam: float) -> np.ndarray:
    """W (K, d), in float64: closed form for squared errors, else Newton with conjugate gradients."""
    n, d = X.shape
    K = goal.shape[1]
    if loss == "squared_error":
        return np.linalg.solve(X.T @ X / n + 2 * lam * np.eye(d), X.T @ goal / n).T

    def value(w: np.ndarray) -> tuple[float, np.ndarray]:
        W = w.reshape(K, d)
        z = X @ W.T
        several = loss == "cross_entropy"
        losses = (-goal * log_softmax(z, axis=1) if several else np.logaddexp(0, z) - goal * z).sum(1)
        gradient = (_mean_of(loss, z) - goal).T @ X / n + 2 * lam * W
        return float(losses.mean() + lam * (W**2).sum()), gradient.ravel()

    def curved(w: np.ndarray, v: np.ndarray) -> np.ndarray:
        W, V = w.reshape(K, d), v.reshape(K, d)
        p, u = _mean_of(loss, X @ W.T), X @ V.T
        turned = p * u - p * (p * u).sum(1, keepdims=True) if loss == "cross_entropy" else p * (1 - p) * u
        return (turned.T @ X / n + 2 * lam * V).ravel()

    start = np.zeros(K * d)
    size = float(np.abs(value(start)[1]).max())
    w = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    for _ in range(50):  # Newton from a good start: quadratic convergence, by conjugate gradients
        gradient = value(w)[1]
        if np.abs(gradient).max() <= TOLERANCE * max(size, 1e-300):
            return w.reshape(K, d)
        w = w - _newton_step(lambda v, w=w: curved(w, v), gradient)
    raise ModelMismatch("the last layer's refit did not converge", remedy="raise damping=")


def _newton_step(product: Any, gradient: np.ndarray) -> np.ndarray:
    x = np.zeros_like(gradient)
    r = gradient.copy()
    p = r.copy()
    rr = float(r @ r)
    target = 1e-16 * rr
    for _ in range(len(gradient)):
        if rr <= target:
            break
        Ap = product(p)
        step = rr / float(p @ Ap)
        x += step * p
        r -= step * Ap
        new = float(r @ r)
        p = r + new / rr * p
        rr = new
    return x


class HeadInputs(Need):
    """Columns ``inputs`` (n, d) (with a constant 1 for a bias), ``outputs`` (n, K) and ``labels`` (n,), float64."""

    objective = None

    def __init__(self, problem: Problem) -> None:
        self._bias = {
            name: m.bias is not None
            for name, m in problem.model.named_modules()
            if (reader := reader_of(m)) is not None and reader.kind == "linear"
        }
        self.activations = tuple(self._bias)
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}
        self._found: dict[str, np.ndarray] = {}

    def activation(self, name: str, x: Any, output: Any) -> None:
        self._seen[name] = (x.detach(), output.detach())

    def forward(self, forward: Forward) -> None:
        output = getattr(forward.output, "logits", forward.output)
        if output.ndim > 2:
            raise ModelMismatch("representer points need one label a datapoint, not sequences")
        name = next((n for n, (_, out) in reversed(self._seen.items()) if torch.equal(out, output.detach())), None)
        if name is None:
            raise ModelMismatch("no linear layer of the model returns its outputs, so there is no last layer to refit")
        labels = forward.labels
        if labels is None:
            raise ModelMismatch("the batch has no targets", remedy="give batches (x, y)")
        inputs = self._seen[name][0].double().cpu().numpy().reshape(forward.n, -1)
        if self._bias[name]:
            inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
        z = output.detach().double().cpu().numpy().reshape(forward.n, -1)
        if labels.ndim == 1 and not labels.is_floating_point() and z.shape[1] > 1:
            labels = forward.targets  # refuses classes that the model does not have
        self._found = {"inputs": inputs, "outputs": z, "labels": labels.cpu().numpy()}
        self._seen = {}

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return self._found
