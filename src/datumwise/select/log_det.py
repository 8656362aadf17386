"""Which datapoints span the most volume? Log-determinants of a kernel, and D-optimal designs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from datumwise.errors import DatumwiseError, name_some
from datumwise.select.greedy import Found, SetFunction
from datumwise.select.set_selector import _SetSelector, _SimilaritySelector
from datumwise.select.similarity import SEMIDEFINITE, Similarity

__all__ = ["DOptimal", "DOptimalFunction", "LogDet", "LogDetFunction"]

NONE_LEFT = 1e-10  # share of the largest diagonal entry below which a datapoint adds no volume
NONE_LEFT_32 = 1e-5  # the same where the kernel is given in float32


class LogDet(_SimilaritySelector):
    """Keep the datapoints whose kernel matrix has the largest determinant.

    f(S) = log det(S_SS + reg I). Submodular, and monotone if reg >= 1. One row of an incremental Cholesky factor a
    pick: O(n k^2) time, O(n k) memory.

    Parameters
    ----------
    n_to_select : int or float
    reg : float, default 1.0
        Added to the diagonal; not negative. At 1 the gains are never negative.
    metric : str, default "cosine_shifted"
        A positive semi-definite kernel: "cosine_shifted", "cosine_signed", "dot", "rbf" or "precomputed". The
        clipped "cosine" is none.
    gamma, optimizer, max_cost, random_state, progress
        As in `FacilityLocation`.

    Examples
    --------
    >>> import numpy as np
    >>> chosen = LogDet(3, metric="dot").fit(np.array([[2.0, 0], [1.9, 0], [0, 1]]))
    >>> chosen.ranking_.tolist(), np.exp(chosen.gains_).round(2).tolist()
    ([0, 2, 1], [5.0, 2.0, 1.72])

    References
    ----------
    Chen, Zhang and Zhou, 2018, *Fast Greedy MAP Inference for Determinantal Point Process*, algorithm 1.
    """

    takes: ClassVar[tuple[str, ...]] = ("X", "cost?")
    source: ClassVar[str] = "Chen, Zhang and Zhou, 2018, algorithm 1"
    hold: ClassVar[bool] = False

    def __init__(
        self,
        n_to_select: int | float,
        *,
        reg: float = 1.0,
        metric: str = "cosine_shifted",
        gamma: float | None = None,
        optimizer: str | Callable[..., Found] = "lazy",
        max_cost: float | None = None,
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.reg = reg
        self.metric = metric
        self.gamma = gamma
        self.optimizer = optimizer
        self.max_cost = max_cost
        self.random_state = random_state
        self.progress = progress

    def _function(self, **inputs: Any) -> SetFunction:
        semidefinite(self.metric)
        return LogDetFunction(self._similarity(inputs["X"]), self.reg)


class LogDetFunction(SetFunction):
    """f(S) = log det(L_SS + reg I), L = diag(q) S diag(q).

    Parameters
    ----------
    S : Similarity
        Symmetric, positive semi-definite.
    reg : float, default 0
    quality : float (n,), above 0, optional
        q; None: 1.
    """

    def __init__(self, S: Similarity, reg: float = 0.0, quality: np.ndarray | None = None) -> None:
        if not reg >= 0:
            raise DatumwiseError(f"reg is {reg}", remedy="reg >= 0")
        self.S = S
        self.n = S.n
        self.reg = reg
        self.quality = np.ones(S.n) if quality is None else quality
        self.monotone = reg >= 1
        self.left = S.diagonal * self.quality**2 + reg  # d^2: what each row still adds to the volume
        coarse = S.rows(np.array([0])).dtype == np.float32
        self.least = (NONE_LEFT_32 if coarse else NONE_LEFT) * float(self.left.max())
        self.factor = np.empty((16, self.n))  # rows of the Cholesky factor, transposed; doubled when full
        self.size = 0

    def empty(self) -> Self:
        return type(self)(self.S, self.reg, self.quality)

    def track(self) -> bool:
        return True

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(np.where(self.left[candidates] > self.least, self.left[candidates], 0.0))

    def add(self, j: int) -> None:
        if not self.left[j] > self.least:
            raise DatumwiseError(
                f"the kernel has rank {self.size:,}, so no {self.size + 1:,} datapoints span a volume",
                remedy=f"n_to_select up to {self.size:,}, or metric='rbf', or reg above 0",
            )
        if self.size == len(self.factor):
            self.factor = np.concatenate([self.factor, np.empty_like(self.factor)])
        row = self.S.rows(np.array([j]))[0] * (self.quality * self.quality[j])
        known = self.factor[: self.size]
        row -= known[:, j] @ known
        row /= np.sqrt(self.left[j])  # e_i = (L_ji - <c_j, c_i>) / d_j
        self.factor[self.size] = row
        self.size += 1
        self.left -= row**2
        bad = np.flatnonzero(self.left < -100 * self.least)
        if len(bad):
            raise DatumwiseError(
                f"the kernel is not positive semi-definite: row {name_some(bad)} has a negative part left",
                remedy="give metric='cosine_shifted' or 'rbf', or a larger reg",
                ids=bad.tolist(),
            )


class DOptimal(_SetSelector):
    """Keep the datapoints whose gradients (or features) carry the most Fisher information: a D-optimal design.

    f(S) = log det(lam I + sum_{s in S} g_s g_s^T), less p log lam, which makes it 0 for no datapoint. Monotone and
    submodular; a pick is one rank-1 update, O(n p + p^2).

    Parameters
    ----------
    n_to_select : int or float
    lam : float, default 1.0
        Prior information; above 0. It has the unit of g^2.
    optimizer, max_cost, random_state, progress
        As in `FacilityLocation`.

    Examples
    --------
    A long gradient first; its twin then tells less than a short one that points elsewhere:

    >>> import numpy as np
    >>> chosen = DOptimal(2).fit(np.array([[3.0, 0.0], [2.9, 0.0], [0.0, 1.0]]))
    >>> chosen.ranking_.tolist(), np.exp(chosen.gains_).round(2).tolist()
    ([0, 2], [10.0, 2.0])

    References
    ----------
    Fedorov, 1972; Chaloner and Verdinelli, 1995, *Bayesian Experimental Design: A Review* (Bayesian D-optimality).
    """

    takes: ClassVar[tuple[str, ...]] = ("gradients", "cost?")
    source: ClassVar[str] = "Chaloner and Verdinelli, 1995 (Bayesian D-optimality)"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        lam: float = 1.0,
        optimizer: str | Callable[..., Found] = "lazy",
        max_cost: float | None = None,
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.lam = lam
        self.optimizer = optimizer
        self.max_cost = max_cost
        self.random_state = random_state
        self.progress = progress

    def _function(self, **inputs: Any) -> SetFunction:
        return DOptimalFunction(inputs["gradients"], self.lam)


class DOptimalFunction(SetFunction):
    """f(S) = log det(I + sum_{s in S} g_s g_s^T / lam).

    Parameters
    ----------
    G : float (n, p)
    lam : float
        Above 0.
    """

    def __init__(self, G: np.ndarray, lam: float = 1.0) -> None:
        if not lam > 0:
            raise DatumwiseError(f"lam is {lam}", remedy="lam > 0")
        self.G = G
        self.n = len(G)
        self.lam = lam
        self.inverse = np.eye(G.shape[1]) / lam
        self.leverage = np.einsum("ij,ij->i", G, G, dtype=np.float64) / lam  # g^T A^-1 g

    def empty(self) -> Self:
        return type(self)(self.G, self.lam)

    def track(self) -> bool:
        return True

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        return np.log1p(self.leverage[candidates])

    def add(self, j: int) -> None:
        direction = self.inverse @ self.G[j]  # Sherman and Morrison
        scale = 1.0 + float(self.G[j] @ direction)
        self.leverage -= (self.G @ direction) ** 2 / scale
        np.maximum(self.leverage, 0, out=self.leverage)
        self.inverse -= np.outer(direction, direction) / scale


def semidefinite(metric: str) -> None:
    """Refuse the metrics whose kernel may have negative eigenvalues; names that there are not go on to be refused."""
    if metric in ("cosine", "euclidean"):
        raise DatumwiseError(
            f"metric {metric!r} is not positive semi-definite, so it has no volume",
            remedy=f"give one of {', '.join(SEMIDEFINITE)}",
        )
