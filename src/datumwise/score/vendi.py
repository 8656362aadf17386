"""How many different datapoints does a set hold, in effect? The Vendi score."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import eigvalsh

from datumwise.errors import DatumwiseError, SchemaMismatch, name_some
from datumwise.probe.neighbours import finite_matrix, row_norms
from datumwise.score.corpus_diversity import hill_number

__all__ = ["vendi"]

ROWS = 8192  # rows of X that are widened to float64 at once
DIAGONAL = 1e-3  # how far the similarity of a datapoint to itself may be from 1
ZERO = 1e-10  # eigenvalues of K / n below this are rounding


def vendi(X: Any, q: float = 1, *, precomputed: bool = False) -> float:
    """The effective number of different rows: 1 if all point one way, n if all are orthogonal.

    exp of the Renyi entropy of order q of the eigenvalues of K / n, K being the cosine similarity (signed) or a
    similarity of one's own. With more rows than columns the eigenvalues are those of the d x d Gram matrix: O(n d^2).

    Parameters
    ----------
    X : float (n, d), finite
        Rows need not have length 1; none may be 0. With ``precomputed``, K (n, n): symmetric, positive
        semi-definite, 1 on the diagonal.
    q : float, default 1
        Order, 0 to infinity: 0 counts directions, 1 is Shannon's, infinity sees the commonest direction only.
    precomputed : bool, default False

    Returns
    -------
    float
        1 to n.

    Raises
    ------
    DatumwiseError
        A row of zeros, a negative order, or a K that is not what it must be.

    Examples
    --------
    >>> import numpy as np
    >>> vendi(np.ones((5, 3))), round(vendi(np.eye(4)), 9), round(vendi([[1, 0], [1, 0], [0, 1]], q=2), 6)
    (1.0, 4.0, 1.8)

    References
    ----------
    Friedman and Dieng, 2023, *The Vendi Score*, definition 3.1; Pasarkar and Dieng, 2024, *Cousins of the Vendi
    Score* (order q).
    """
    X = finite_matrix(X, "K" if precomputed else "X")
    eigenvalues = eigvalsh(_kernel(X) if precomputed else _gram(X))
    if eigenvalues[0] < -1e-5:
        raise DatumwiseError("K is not positive semi-definite", remedy="give a kernel, such as a cosine")
    return hill_number(np.where(eigenvalues > ZERO, eigenvalues, 0.0), q)  # refuses an order below 0


def _gram(X: np.ndarray) -> np.ndarray:
    """X X^T / n or X^T X / n of rows of length 1, whichever is smaller."""
    n, width = X.shape
    norms = row_norms(X)
    zero = np.flatnonzero(norms == 0)
    if len(zero):
        raise DatumwiseError(
            f"row {name_some(zero)} of X is all zeros and has no direction", remedy="drop these rows", ids=zero.tolist()
        )
    if n <= width:
        unit = X / norms[:, None]
        return unit @ unit.T / n
    gram = np.zeros((width, width))
    for start in range(0, n, ROWS):
        unit = X[start : start + ROWS] / norms[start : start + ROWS, None]
        gram += unit.T @ unit
    return gram / n


def _kernel(K: np.ndarray) -> np.ndarray:
    if K.shape[0] != K.shape[1]:
        raise SchemaMismatch(f"K must be square; its shape is {K.shape}")
    off = np.flatnonzero(np.abs(np.diagonal(K) - 1) > DIAGONAL)
    if len(off):
        raise DatumwiseError(
            f"the similarity of row {name_some(off)} to itself is not 1",
            remedy="divide K by the square roots of its diagonal, on both sides",
            ids=off.tolist(),
        )
    if not np.allclose(K, K.T, atol=1e-5):
        raise DatumwiseError("K is not symmetric", remedy="give (K + K.T) / 2")
    return K.astype(np.float64) / len(K)
