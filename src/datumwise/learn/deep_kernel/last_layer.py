"""What is exact in the last layer of a deep kernel machine: prediction, leave-one-out, influence, removal, neighbours.

With the representation fixed the output layer is Bayesian linear regression on a_i = L^-1 k_i: v ~ N(0, I), y_i = a_i^T v + e.
Its posterior precision is Q = I + sum_i a_i a_i^T / s2, so leaving a datapoint out is a change of rank one (Sherman and
Morrison, 1950, *Adjustment of an inverse matrix corresponding to a change in one element of a given matrix*).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from datumwise.learn.deep_kernel.cholesky import guarded_cholesky
from datumwise.learn.deep_kernel.sparse import Statistics

__all__ = ["LastLayer", "forget", "influence", "leave_one_out", "nearest", "smoother"]

LEVERAGE = 1 - 1e-12  # a datapoint whose leverage is above this alone decides its fitted value


@dataclass(frozen=True)
class LastLayer:
    """Posterior of the output layer.

    Attributes
    ----------
    statistics : Statistics
        Of the datapoints it knows.
    noise : Tensor ()
        s2.
    LQ : Tensor (P, P)
        Cholesky factor of Q.
    weights : Tensor (P, C)
        Posterior mean of v.

    Examples
    --------
    >>> A, y = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [3.0]])
    >>> layer = LastLayer.of(Statistics.of(A, A.square().sum(0), y), torch.tensor(1.0))
    >>> mean, variance = layer.predict(torch.ones(1, 1), torch.ones(1))  # two observations of one number, prior N(0, 1)
    >>> round(mean.item(), 4), round(variance.item(), 4)
    (1.3333, 0.3333)
    """

    statistics: Statistics
    noise: Tensor
    LQ: Tensor
    weights: Tensor

    @classmethod
    def of(cls, statistics: Statistics, noise: Tensor) -> LastLayer:
        """Posterior given the statistics of the datapoints and the noise variance."""
        Phi = statistics.Phi
        LQ = guarded_cholesky(torch.eye(len(Phi), dtype=Phi.dtype, device=Phi.device) + Phi / noise)
        return cls(statistics, noise, LQ, torch.cholesky_solve(statistics.b, LQ) / noise)

    def whiten(self, A: Tensor) -> Tensor:
        """LQ^-1 A, (P, T)."""
        return torch.linalg.solve_triangular(self.LQ, A, upper=False)

    def predict(self, A: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (T, C) and latent variance (T,) at A (P, T), k (T,); add the noise for y."""
        variance = (k - A.square().sum(0)).clamp_min(0) + self.whiten(A).square().sum(0)
        return A.T @ self.weights, variance

    def covariance(self, A: Tensor, A2: Tensor, K: Tensor) -> Tensor:
        """Latent covariance (T, T2), given the last kernel K (T, T2) between the two sets."""
        return K - A.T @ A2 + self.whiten(A).T @ self.whiten(A2)


def smoother(layer: LastLayer, A_star: Tensor, A: Tensor) -> Tensor:
    """Weights c of the training targets in each prediction: mean f_* = sum_i c_{*i} y_i.

    Parameters
    ----------
    layer : LastLayer
    A_star : Tensor (P, m)
        Where to predict.
    A : Tensor (P, n)
        The datapoints.

    Returns
    -------
    Tensor (m, n)

    Examples
    --------
    >>> A, y = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [3.0]])
    >>> layer = LastLayer.of(Statistics.of(A, A.square().sum(0), y), torch.tensor(1.0))
    >>> [round(c, 4) for c in smoother(layer, torch.ones(1, 1), A)[0].tolist()]
    [0.3333, 0.3333]
    """
    return layer.whiten(A_star).T @ layer.whiten(A) / layer.noise


def leave_one_out(layer: LastLayer, A: Tensor, k: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction of each datapoint by a last layer that has not seen it.

    With leverage h_i = c_ii and fitted mean m_i: mean (m_i - h_i y_i) / (1 - h_i), latent variance
    k_i - |a_i|^2 + s2 h_i / (1 - h_i).

    Parameters
    ----------
    layer : LastLayer
        Which has seen them all.
    A, k, y : Tensor (P, T), (T,), (T, C)
        Some or all of its datapoints.

    Returns
    -------
    mean : Tensor (T, C)
    variance : Tensor (T,)
        Latent; add the noise for y.

    Examples
    --------
    >>> A, y = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [3.0]])
    >>> layer = LastLayer.of(Statistics.of(A, A.square().sum(0), y), torch.tensor(1.0))
    >>> mean, variance = leave_one_out(layer, A, torch.ones(2), y)
    >>> [round(v, 4) for v in [*mean[:, 0].tolist(), *variance.tolist()]]  # half of the other, which is all there is
    [1.5, 0.5, 0.5, 0.5]
    """
    h = _leverage(layer, A)
    mean = (A.T @ layer.weights - h[:, None] * y) / (1 - h)[:, None]
    return mean, (k - A.square().sum(0)).clamp_min(0) + layer.noise * h / (1 - h)


def influence(layer: LastLayer, A_star: Tensor, A: Tensor, y: Tensor) -> Tensor:
    """By how much does each datapoint move each prediction? f_* - f_*^(-i) = c_{*i} (y_i - m_i) / (1 - h_i), exactly.

    Parameters
    ----------
    layer : LastLayer
    A_star : Tensor (P, m)
    A, y : Tensor (P, n), (n, C)

    Returns
    -------
    Tensor (n, m, C)

    Examples
    --------
    >>> A, y = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [3.0]])
    >>> layer = LastLayer.of(Statistics.of(A, A.square().sum(0), y), torch.tensor(1.0))
    >>> [round(v, 4) for v in influence(layer, torch.ones(1, 1), A, y).flatten().tolist()]  # 4 / 3 against 3 / 2 and 1 / 2
    [-0.1667, 0.8333]
    """
    residual = (y - A.T @ layer.weights) / (1 - _leverage(layer, A))[:, None]
    return smoother(layer, A_star, A).T[:, :, None] * residual[:, None, :]


def forget(layer: LastLayer, A: Tensor, k: Tensor, y: Tensor) -> LastLayer:
    """The last layer as if it had never seen these datapoints: a downdate of Q, one rank a datapoint.

    The representation that A, k are in stays as it is.

    Parameters
    ----------
    layer : LastLayer
    A, k, y : Tensor (P, T), (T,), (T, C)
        Datapoints that it has seen.

    Returns
    -------
    LastLayer

    Examples
    --------
    >>> A, y = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [3.0]])
    >>> layer = LastLayer.of(Statistics.of(A, A.square().sum(0), y), torch.tensor(1.0))
    >>> round(forget(layer, A[:, :1], torch.ones(1), y[:1]).weights.item(), 4)
    1.5
    """
    return LastLayer.of(layer.statistics.plus(Statistics.of(A, k, y), -1), layer.noise)


def nearest(parts: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Columns of largest magnitude in each row of a matrix that comes in blocks of columns.

    Parameters
    ----------
    parts : iterable of Tensor (m, T)
        Blocks of columns from left to right.
    k : int
        At most the number of columns.

    Returns
    -------
    indices : int64 Tensor (m, k)
    values : Tensor (m, k)
        Signed, largest magnitude first.

    Examples
    --------
    >>> indices, values = nearest([torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0]])], k=2)
    >>> indices.tolist(), values.tolist()
    ([[1, 2]], [[-3.0, 2.0]])
    """
    values: Tensor | None = None
    indices: Tensor | None = None
    start = 0
    for part in parts:
        numbers = torch.arange(start, start + part.shape[1], device=part.device).expand(part.shape)
        start += part.shape[1]
        if values is not None and indices is not None:
            part, numbers = torch.cat([values, part], 1), torch.cat([indices, numbers], 1)
        order = part.abs().argsort(dim=1, descending=True, stable=True)[:, :k]
        values, indices = part.gather(1, order), numbers.gather(1, order)
    assert values is not None
    assert indices is not None
    return indices, values


def _leverage(layer: LastLayer, A: Tensor) -> Tensor:
    """h_i = a_i^T Q^-1 a_i / s2, (T,), below 1."""
    return (layer.whiten(A).square().sum(0) / layer.noise).clamp_max(LEVERAGE)
