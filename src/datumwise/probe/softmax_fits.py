"""Many linear softmax models over shared features in one program: every fit is a column of one matrix product.

The features are never copied per fit: a fit's own normalisation z = (h - mean) / scale is folded into its weights, so that
an epoch of all F fits is one product with (d, F) weights forwards and one with its transpose backwards. The gradient of the
mean negative log-likelihood is the closed form (P - onehot).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datumwise.errors import DatumwiseError, UnknownName

__all__ = ["PENALTIES", "SOLVERS", "SoftmaxFits", "fit_softmax"]

SOLVERS = ("sgd", "adamw", "lbfgs")
PENALTIES = ("norm", "squared")
CONSTANT = 1e-6  # standard deviation from which down a feature is constant and says nothing
LAST_RATE = 0.1  # share of the learning rate that the linear decay ends at
WEIGHT_DECAY = 0.01  # decoupled, of "adamw"
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # of "adamw"
BLOCK = 2**24  # numbers of logits held at once when predicting


@dataclass(frozen=True)
class SoftmaxFits:
    """F fitted models over the same features.

    Attributes
    ----------
    weights : float (d, C, F)
        On normalised features; C is 1 where a model scores choices by one shared vector, else the number of classes.
    bias : float (C, F)
        0 where a model scores choices.
    mean, inverse_scale : float (d, F)
        Of each fit's own training rows; ``inverse_scale`` is 0 for a feature that is constant there.
    present : bool (C, F)
        Classes that occur in a fit's training rows; the others have probability 0.
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    inverse_scale: np.ndarray
    present: np.ndarray

    def predict_proba(self, H: np.ndarray, choices: np.ndarray | None = None) -> np.ndarray:
        """Probabilities (M, m, F) for choices H (M, m, d), or (M, C, F) for datapoints H (M, d).

        ``choices`` bool (M, m) says which choices there are; the others get 0.
        """
        d, C, F = self.weights.shape
        effective = self.weights * self.inverse_scale[:, None]
        centre = self.mean.mean(axis=1)  # far from 0, products would lose digits
        offset = self.bias - np.einsum("df,dcf->cf", self.mean - centre[:, None], effective)
        effective = np.ascontiguousarray(effective.reshape(d, C * F))
        width = H.shape[1] if H.ndim == 3 else C
        out = np.empty((len(H), width, F), dtype=self.weights.dtype)
        step = max(1, BLOCK // (width * F))
        for start in range(0, len(H), step):
            part = slice(start, start + step)
            logits = ((H[part].reshape(-1, d) - centre) @ effective).reshape(-1, width, F)
            if H.ndim == 2:
                logits = logits + offset
                logits[:, ~self.present] = -np.inf
            elif choices is not None:
                logits[~choices[part]] = -np.inf
            out[part] = _softmax(logits)
        return out


def fit_softmax(
    H: np.ndarray,
    y: np.ndarray,
    members: np.ndarray,
    *,
    n_classes: int | None = None,
    choices: np.ndarray | None = None,
    l2: float | np.ndarray = 1.0,
    penalty: Literal["norm", "squared"] = "norm",
    solver: Literal["sgd", "adamw", "lbfgs"] = "adamw",
    epochs: int = 100,
    lr: float = 0.05,
    clip: float = 1.0,
    start: np.ndarray | None = None,
) -> SoftmaxFits:
    """Fit F models, each to its own subset of the rows, in one batched program.

    A fit minimises the mean over its rows of -log p(y) plus ``l2 ||w||`` ("norm", as published, not squared) or
    ``l2 ||w||^2`` ("squared"); a bias, of classes only, is not penalised. Full batch; the learning rate falls linearly to a
    tenth, a step an epoch; the gradient is clipped per fit, never over the fits together.

    Parameters
    ----------
    H : float (N, m, d) or (N, d)
        Features of m choices, scored by one weight vector without bias; or of datapoints, scored by class.
    y : int (N,)
        Right choice, or class.
    members : bool (F, N)
        Rows that each fit trains on.
    n_classes : int, optional
        Needed for features of datapoints.
    choices : bool (N, m), optional
        Which choices there are; default all.
    l2 : float or float (F,)
    penalty, solver, epochs, lr, clip
        "lbfgs" fits one after the other to the optimum, in float64, and needs no lr and no clip.
    start : float (d, C, F), optional
        Default 0, where the norm's gradient is taken as 0.

    Returns
    -------
    SoftmaxFits
    """
    for value, known, name in ((penalty, PENALTIES, "penalty"), (solver, SOLVERS, "solver")):
        if value not in known:
            raise UnknownName(f"there is no {name} {value!r}", remedy=f"choose one of {', '.join(known)}")
    if np.min(l2) < 0 or not np.all(np.isfinite(l2)):
        raise DatumwiseError(f"l2 must be finite and at least 0; got {l2}")
    members = np.asarray(members, dtype=bool)
    F = len(members)
    counts = members.sum(axis=1)
    if not counts.all():
        raise DatumwiseError(f"fit {int(np.flatnonzero(counts == 0)[0])} of {F} has no training row")
    by_choice = H.ndim == 3
    d, C = H.shape[-1], 1 if by_choice else int(n_classes or y.max() + 1)
    used = members.any(axis=0)
    H, y, members = H[used], y[used], members[:, used]  # rows in no fit cost nothing
    choices = None if choices is None else choices[used]
    dtype = H.dtype if H.dtype == np.float32 and solver != "lbfgs" else np.dtype(np.float64)
    centre = H.reshape(-1, d).mean(axis=0, dtype=np.float64)  # far from 0, products would lose digits
    mean, inverse = _normalisation(H, members, choices)
    present = np.ones((1, F), dtype=bool) if by_choice else _occurring(y, members, C)
    problem = _Problem(
        rows=np.ascontiguousarray(H.reshape(-1, d) - centre, dtype=dtype),
        onehot=(np.arange(H.shape[1] if by_choice else C) == y[:, None])[:, :, None].astype(dtype),
        shares=(members / counts[:, None]).T[:, None].astype(dtype),
        mean=(mean - centre[:, None]).astype(dtype),
        inverse=inverse.astype(dtype),
        missing=_missing(choices, present, by_choice),
        l2=np.broadcast_to(np.asarray(l2, dtype=dtype), (F,)),
        penalty=penalty,
        by_choice=by_choice,
    )
    weights = np.zeros((d, C, F), dtype=dtype) if start is None else np.array(start, dtype=dtype).reshape(d, C, F)
    bias = np.zeros((C, F), dtype=dtype)
    if solver == "lbfgs":
        weights, bias = _lbfgs(problem, weights, bias)
    else:
        weights, bias = _descend(problem, weights, bias, adamw=solver == "adamw", epochs=epochs, lr=lr, clip=clip)
    return SoftmaxFits(weights, bias, mean.astype(dtype), problem.inverse, present)


@dataclass(frozen=True)
class _Problem:
    """What every epoch reads: rows (N * m or N, d), shares (N, 1, F) = membership / number of members, and the rest."""

    rows: np.ndarray
    onehot: np.ndarray
    shares: np.ndarray
    mean: np.ndarray
    inverse: np.ndarray
    missing: np.ndarray | None
    l2: np.ndarray
    penalty: str
    by_choice: bool

    def probabilities(self, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
        d, C, F = weights.shape
        effective = weights * self.inverse[:, None]
        logits = (self.rows @ effective.reshape(d, C * F)).reshape(len(self.onehot), self.onehot.shape[1], F)
        if not self.by_choice:  # between choices, the mean's share is the same and cancels
            logits += bias - np.einsum("df,dcf->cf", self.mean, effective)
        if self.missing is not None:
            logits[np.broadcast_to(self.missing, logits.shape)] = -np.inf
        return _softmax(logits)

    def gradient(self, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the penalised loss, by weights (d, C, F) and bias (C, F)."""
        return self._gradient(weights, self.probabilities(weights, bias))

    def _gradient(self, weights: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        d, C, F = weights.shape
        error = (probs - self.onehot) * self.shares  # (N, m or C, F)
        by_weight = (self.rows.T @ error.reshape(len(self.rows), C * F)).reshape(d, C, F)
        by_bias = np.zeros((C, F), dtype=weights.dtype)
        if not self.by_choice:
            by_bias = error.sum(axis=0)
            by_weight -= self.mean[:, None] * by_bias
        by_weight *= self.inverse[:, None]
        if self.penalty == "squared":
            by_weight += 2 * self.l2 * weights
        else:
            norm = np.sqrt(np.einsum("dcf,dcf->f", weights, weights))
            by_weight += self.l2 * weights / np.where(norm > 0, norm, 1)  # at 0 the subgradient 0
        return by_weight, by_bias

    def loss(self, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Loss (F,) and its gradient."""
        probs = self.probabilities(weights, bias)
        gold = np.einsum("ncf,nco->nf", probs, self.onehot)
        nll = -(np.log(np.maximum(gold, np.finfo(probs.dtype).tiny)) * self.shares[:, 0]).sum(axis=0)
        squares = np.einsum("dcf,dcf->f", weights, weights)
        return nll + self.l2 * (squares if self.penalty == "squared" else np.sqrt(squares)), *self._gradient(weights, probs)


def _descend(
    problem: _Problem, weights: np.ndarray, bias: np.ndarray, *, adamw: bool, epochs: int, lr: float, clip: float
) -> tuple[np.ndarray, np.ndarray]:
    """``epochs`` full-batch steps of all fits together."""
    parameters = [weights, bias]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    for epoch in range(epochs):
        rate = lr * (1 - (1 - LAST_RATE) * epoch / epochs)
        gradients = problem.gradient(*parameters)
        length = np.sqrt(sum(np.square(g).reshape(-1, g.shape[-1]).sum(axis=0) for g in gradients))
        shrink = np.minimum(1, clip / (length + 1e-6))
        for i, gradient in enumerate(gradients):
            gradient *= shrink
            if not adamw:
                parameters[i] -= rate * gradient
                continue
            parameters[i] *= 1 - rate * WEIGHT_DECAY
            first[i] += (1 - BETA_1) * (gradient - first[i])
            second[i] += (1 - BETA_2) * (gradient**2 - second[i])
            root = np.sqrt(second[i]) / np.sqrt(1 - BETA_2 ** (epoch + 1))
            parameters[i] -= rate / (1 - BETA_1 ** (epoch + 1)) * first[i] / (root + EPSILON)
    return parameters[0], parameters[1]


def _lbfgs(problem: _Problem, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every fit to its optimum, one after the other."""
    from dataclasses import replace

    from scipy.optimize import minimize

    d, C, F = weights.shape
    for f in range(F):
        member = problem.shares[:, 0, f] > 0
        rows = problem.rows.reshape(len(member), -1, d)[member].reshape(-1, d)
        missing = problem.missing
        if missing is not None:
            missing = missing[..., [f]] if missing.shape[-1] == F and not problem.by_choice else missing[member]
        own = replace(
            problem,
            rows=rows,
            onehot=problem.onehot[member],
            shares=problem.shares[member][..., [f]],
            mean=problem.mean[:, [f]],
            inverse=problem.inverse[:, [f]],
            missing=missing,
            l2=problem.l2[[f]],
        )

        def value(flat: np.ndarray, own: _Problem = own) -> tuple[float, np.ndarray]:
            loss, by_weight, by_bias = own.loss(flat[: d * C].reshape(d, C, 1), flat[d * C :].reshape(C, 1))
            return float(loss[0]), np.concatenate([by_weight.ravel(), by_bias.ravel()])

        begin = np.concatenate([weights[..., f].ravel(), bias[:, f]])
        found = minimize(value, begin, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-9, "ftol": 0})
        weights[..., f] = found.x[: d * C].reshape(d, C)
        bias[:, f] = found.x[d * C :]
    return weights, bias


def _normalisation(H: np.ndarray, members: np.ndarray, choices: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 / unbiased standard deviation (d, F) of each fit's training rows, items and choices together."""
    d = H.shape[-1]
    by_choice = H.ndim == 3
    rows = H.reshape(-1, d).astype(np.float64)
    centre = rows.mean(axis=0)
    rows = rows - centre  # sums of squares lose digits far from 0
    weight = np.ones((len(H), H.shape[1] if by_choice else 1)) if choices is None else choices.astype(np.float64)
    rows = rows.reshape(len(H), -1, d)
    inside = members.astype(np.float64)
    count = np.maximum(inside @ weight.sum(axis=1), 1)
    mean = inside @ np.einsum("nmd,nm->nd", rows, weight) / count[:, None]
    squares = inside @ np.einsum("nmd,nmd,nm->nd", rows, rows, weight)
    variance = np.maximum(squares - count[:, None] * mean**2, 0) / np.maximum(count - 1, 1)[:, None]
    scale = np.sqrt(variance)
    # a feature that is constant in training says nothing; dividing by a tiny floor would let it drown all others elsewhere
    least = CONSTANT + 4 * np.finfo(H.dtype).eps * np.abs(centre)
    inverse = np.where(scale > least, 1 / np.maximum(scale, np.finfo(float).tiny), 0)
    return (mean + centre).T, inverse.T


def _occurring(y: np.ndarray, members: np.ndarray, n_classes: int) -> np.ndarray:
    """bool (C, F): classes among each fit's training rows."""
    onehot = (np.arange(n_classes) == y[:, None]).astype(np.float64)
    return (members.astype(np.float64) @ onehot).T > 0


def _missing(choices: np.ndarray | None, present: np.ndarray, by_choice: bool) -> np.ndarray | None:
    """Where logits are minus infinity: (N, m, 1) or (1, C, F), None where nowhere."""
    if by_choice:
        return None if choices is None or choices.all() else ~choices[:, :, None]
    return None if present.all() else ~present[None]


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the middle axis, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits
