"""phi_t^T (sum_i w_i phi_i phi_i^T / s + lambda I)^-1 phi_i for all queries t and datapoints i, rows in blocks.

With k numbers a row and n rows the smaller of a (k, k) and an (n, n) system is solved: they give the same answer,
(Phi^T W Phi + lambda I)^-1 Phi^T W^1/2 = Phi^T W^1/2 (W^1/2 Phi Phi^T W^1/2 + lambda I)^-1.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.linalg

from datumwise.errors import DatumwiseError, ModelMismatch
from datumwise.probe.attribution.index import StoredRows

__all__ = ["damping_of", "gram_of", "kernel_scores", "preconditioned", "solved"]

KERNEL_BYTES = 2**30  # rows held at once for the smaller system


def damping_of(damping: float | None, relative: float, mean_eigenvalue: float, what: str) -> float:
    """lambda: ``damping`` itself, or by default ``relative`` times the mean eigenvalue of the matrix.

    Raises
    ------
    DatumwiseError
        Below 0, or not finite.
    ModelMismatch
        The matrix's trace is not above 0, so that a share of it damps nothing.
    """
    if damping is not None:
        if not (np.isfinite(damping) and damping >= 0):
            raise DatumwiseError(f"damping is {damping}", remedy="it must be 0 or more")
        return float(damping)
    if not (np.isfinite(relative) and relative >= 0):
        raise DatumwiseError(f"relative_damping is {relative}", remedy="it must be 0 or more")
    if mean_eigenvalue <= 0:
        raise ModelMismatch(f"the mean eigenvalue of {what} is {mean_eigenvalue:.3g}", remedy="pass damping=")
    return relative * mean_eigenvalue


def gram_of(index: StoredRows, weights: np.ndarray | None = None) -> np.ndarray:
    """sum_i w_i phi_i phi_i^T, float64 (k, k); blocks are multiplied in the rows' own precision."""
    total = np.zeros((index.length, index.length))
    for at, rows in index.blocks():
        weighted = rows if weights is None else rows * weights[at, None].astype(rows.dtype)
        total += weighted.T @ rows
    return total


def solved(matrix: np.ndarray, right: np.ndarray, damping: float, what: str) -> np.ndarray:
    """(matrix + damping I)^-1 right, in float64: by Cholesky, or LDL^T where the matrix is not positive definite.

    Raises
    ------
    ModelMismatch
        The damped matrix is singular to working precision.
    """
    damped = matrix + damping * np.eye(len(matrix))
    with warnings.catch_warnings():
        warnings.simplefilter("error", scipy.linalg.LinAlgWarning)
        for kind in ("pos", "sym"):
            try:
                return scipy.linalg.solve(damped, right, assume_a=kind)
            except scipy.linalg.LinAlgWarning:
                break  # ill-conditioned
            except np.linalg.LinAlgError:
                continue  # not positive definite, or exactly singular
    raise ModelMismatch(
        f"{what} is singular with a damping of {damping:.3g}",
        remedy="raise damping=, or project the gradients to fewer numbers than there are datapoints",
    )


def preconditioned(
    index: StoredRows,
    queries: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    scale: float = 1.0,
    damping: float | None = None,
    relative: float,
    what: str,
) -> np.ndarray:
    """Scores (m, n), float64 for float64 rows, else float32.

    Parameters
    ----------
    index : StoredRows
        Rows phi_i, n of k numbers.
    queries : float (m, k)
    weights : float (n,), optional
        w_i of the matrix, 1 by default.
    scale : float
        s: the matrix is the weighted sum divided by it.
    damping, relative
        lambda, or its share of the mean eigenvalue that is not 0, trace / min(n, k).
    """
    n, k = len(index), index.length
    if n < k and n * k * 8 <= KERNEL_BYTES:
        rows = np.concatenate([block for _, block in index.blocks()])
        norms2 = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        trace = float(norms2.sum() if weights is None else norms2 @ weights) / scale
        lam = damping_of(damping, relative, trace / n, what)
        if lam > 0:
            return kernel_scores(rows @ rows.T, queries @ rows.T, weights, scale, lam, what)
    matrix = gram_of(index, weights) / scale
    lam = damping_of(damping, relative, float(np.trace(matrix)) / min(n, k), what)
    right = solved(matrix, queries.T.astype(np.float64), lam, what)
    out = np.empty((len(queries), n), queries.dtype)
    for at, rows in index.blocks():
        out[:, at] = right.T.astype(queries.dtype) @ rows.T.astype(queries.dtype, copy=False)
    return out


def kernel_scores(
    own: np.ndarray,
    cross: np.ndarray,
    weights: np.ndarray | None,
    scale: float,
    damping: float,
    what: str,
) -> np.ndarray:
    """The same from inner products alone, damping above 0: rows never enter.

    Parameters
    ----------
    own : float (n, n)
        <phi_i, phi_j>.
    cross : float (m, n)
        <phi_t, phi_i>.

    Notes
    -----
    Without weights Phi_t (Phi^T Phi / s + lambda)^-1 Phi^T = T (K / s + lambda)^-1, T = cross, K = own. With them
    (lambda + Phi^T W Phi / s)^-1 = (I - Phi^T S (s lambda + S K S)^-1 S Phi) / lambda, S = W^1/2 (Woodbury).
    """
    kind = cross.dtype
    own, cross = own.astype(np.float64), cross.astype(np.float64)
    if weights is None:  # symmetric, positive definite
        return (solved(own / scale, cross.T, damping, what).T).astype(kind, copy=False)
    root = np.sqrt(weights.astype(np.float64))
    inner = root[:, None] * own * root / scale
    fix = solved(inner, (root[:, None] * own) / scale, damping, what)
    return ((cross - (cross * root) @ fix) / damping).astype(kind, copy=False)
