"""A weighted subset whose gradient is that of all: orthogonal matching pursuit on gradients."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.select.per_class import class_by_class
from datumwise.select.selector import Selector

__all__ = ["GradMatch", "matching_pursuit"]

DEPENDENT = 1e-10  # a gradient this much of which (relative) is new to the chosen adds a direction


class GradMatch(Selector):
    """Choose datapoints and weights so that the weighted sum of their gradients is the gradient of all.

    Orthogonal matching pursuit: the gradient with the largest inner product with what is still unexplained is
    taken, the weights of all taken are solved anew (ridge), and so on; the last weights are not negative.

    Parameters
    ----------
    n_to_select : int or float
    lam : float, default 1.0
        Ridge on the weights, in units of a squared gradient.
    variant : "exact" or "published", default "exact"
        Final weights: the exact one minimises ||G^T w - b||^2 + lam ||w||^2 over w >= 0; the published one solves
        the normal equations by non-negative least squares, which is another answer where a weight hits 0.

    Attributes
    ----------
    weights_ : float64 (k,)
        Not negative; 0 for a pick that the others made needless.
    gains_ : float64 (k,)
        How much the pick lowers the ridge objective. (They need not fall.)

    Notes
    -----
    ``fit(gradients, target=, y=)``: b is the sum of the gradients, or n times the mean of the rows of ``target``
    (gradients of a validation set). With ``y`` every class is matched by itself. O(k n p) time, and
    O(n p + k (p + k)) memory: each pick adds one vector of an orthonormal basis, no system is solved anew. The
    step after the first pick uses the first weight without ridge, as published.

    Examples
    --------
    >>> G = np.eye(4)
    >>> found = GradMatch(2, lam=1e-12).fit(G, target=[[0.0, 0.75, 0.5, 0.0]])
    >>> found.ranking_.tolist(), found.weights_.round(6).tolist()
    ([1, 2], [3.0, 2.0])

    References
    ----------
    Killamsetty et al., 2021, *GRAD-MATCH: Gradient Matching based Data Subset Selection*, algorithm 2.
    """

    takes: ClassVar = ("gradients", "target?", "y?")
    source: ClassVar = "Killamsetty et al., 2021, algorithm 2"

    weights_: np.ndarray

    def __init__(self, n_to_select: int | float, *, lam: float = 1.0, variant: str = "exact") -> None:
        self.n_to_select = n_to_select
        self.lam = lam
        self.variant = variant

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if self.variant not in ("exact", "published"):
            raise UnknownName(f"variant is {self.variant!r}", remedy="say 'exact' or 'published'")
        gradients, target = inputs["gradients"].astype(np.float64), inputs.get("target")
        if target is not None and target.shape[1] != gradients.shape[1]:
            raise SchemaMismatch(f"target has {target.shape[1]} columns and gradients has {gradients.shape[1]}")
        weights = np.zeros(n)

        def matched(rows: np.ndarray, share: int) -> tuple[np.ndarray, np.ndarray]:
            G = gradients[rows]
            b = G.sum(axis=0) if target is None else len(rows) * target.mean(axis=0, dtype=np.float64)
            picked, gained, found = matching_pursuit(G, b, share, lam=self.lam, variant=self.variant)
            weights[rows[picked]] = found
            return picked, gained

        ranking, gains = class_by_class(inputs.get("y"), n, k, matched)
        self.weights_ = weights[ranking]
        return ranking, gains


def matching_pursuit(
    G: np.ndarray, b: np.ndarray, k: int, *, lam: float = 1.0, variant: str = "exact"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Up to k rows of G, and weights w >= 0 for them, with a small ||G^T w - b||^2 + lam ||w||^2.

    Each row taken becomes a column (g, sqrt(lam) e) of a tall matrix whose orthonormal basis is kept (Gram-Schmidt,
    done twice, which is enough; Giraud et al., 2005), so that the residual of the ridge solution is one
    subtraction a pick.

    Parameters
    ----------
    G : float64 (n, p)
    b : float64 (p,)
    k : int
        At most n.
    lam : float
        At least 0. With 0, gradients that depend on those taken are passed over, and fewer than k may be taken.
    variant : "exact" or "published"

    Returns
    -------
    picked : int64 (m,), m <= k
    gained : float64 (m,)
        Fall of the ridge objective, not negative.
    weights : float64 (m,)
    """
    if lam < 0:
        raise DatumwiseError(f"lam is {lam}", remedy="give 0 or more")
    n, p = G.shape
    basis = np.zeros((k, p))  # first p entries of each orthonormal vector; the other k lie in `lower`
    lower = np.zeros((k, k))
    triangle = np.zeros((k, k))  # R of the QR decomposition, as rows: G_S G_S^T + lam I = triangle triangle^T
    z = np.zeros(k)  # coordinates of b in the basis
    squares = np.einsum("ij,ij->i", G, G)
    free = np.ones(n, bool)
    residual, explained = b.copy(), b.copy()  # what the pick looks at, and that of the ridge solution
    picked: list[int] = []
    while len(picked) < k and free.any():
        row = int(np.argmax(np.where(free, G @ residual, -np.inf)))
        free[row] = False
        m = len(picked)
        new, ridge = G[row].copy(), np.zeros(k)
        ridge[m] = np.sqrt(lam)
        for _ in range(2):
            along = basis[:m] @ new + lower[:m, :m] @ ridge[:m]
            new -= along @ basis[:m]
            ridge[:m] -= along @ lower[:m, :m]
            triangle[m, :m] += along
        pivot = np.sqrt(new @ new + ridge @ ridge)
        if pivot <= DEPENDENT * np.sqrt(squares[row]) or pivot == 0:
            triangle[m] = 0
            continue
        triangle[m, m] = pivot
        basis[m], lower[m] = new / pivot, ridge / pivot
        z[m] = basis[m] @ b
        explained -= z[m] * basis[m]
        picked.append(row)
        unridged = m == 0 and squares[row] > 0  # published: the weight of the first pick alone has no ridge
        residual = b - (G[row] @ b / squares[row]) * G[row] if unridged else explained.copy()
    m = len(picked)
    return np.array(picked, np.int64), z[:m] ** 2, _weights(triangle[:m, :m], z[:m], variant)


def _weights(triangle: np.ndarray, z: np.ndarray, variant: str) -> np.ndarray:
    """Not negative w with the least ||triangle^T w - z||: the ridge objective, up to a constant."""
    if not len(z):
        return z.copy()
    w = solve_triangular(triangle, z, lower=True, trans="T")
    if (w >= 0).all():
        return w
    if variant == "published":
        return nnls(triangle @ triangle.T, triangle @ z)[0]
    return nnls(triangle.T, z)[0]
