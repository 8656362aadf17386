"""How would the query's loss change if a datapoint were weighed up? Influence functions, g_t^T (H + lambda I)^-1 g_i.

Source: Koh and Liang, Understanding black-box predictions via influence functions, ICML 2017, eq. 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.probe.attribution.curvature import HESSIANS, Curvature, check_hessian
from datumwise.probe.attribution.gram import damping_of, kernel_scores, preconditioned, solved
from datumwise.probe.attribution.index import InMemory, StoredRows
from datumwise.probe.attribution.objective import ClassLoss, outputs_of
from datumwise.probe.attribution.problem import DIRECT_PARAMETERS, Problem
from datumwise.probe.attribution.projection import Exact, Projection, projection_of
from datumwise.probe.attribution.solvers import arnoldi, conjugate_gradients, lissa
from datumwise.probe.needs.dots import GradDot
from datumwise.probe.needs.rows import GradRows

__all__ = ["SOLVERS", "influence"]

SOLVERS = ("direct", "cg", "lissa", "arnoldi")
RELATIVE = 0.1  # damping, as a share of the mean eigenvalue
QUERY_BYTES = 2**29  # solved queries held at a time
PROBES = 16  # random vectors for the trace, where the matrix is not formed


def influence(
    problem: Problem,
    *,
    checkpoints: Sequence[Any] | None = None,
    hessian: str = "gauss_newton",
    solver: str | None = None,
    projection: Any = "auto",
    damping: float | None = None,
    relative_damping: float = RELATIVE,
    **settings: Any,
) -> np.ndarray:
    """g_t^T (H + lambda I)^-1 g_i, H the mean curvature of the training loss; a mean over checkpoints.

    Parameters
    ----------
    checkpoints
        The model's own weights by default.
    hessian : {"exact", "gauss_newton", "empirical_fisher"}
        Of the loss; the Gauss-Newton matrix is positive semidefinite, and for cross-entropy the Fisher
        information.
    solver : {"direct", "cg", "lissa", "arnoldi"}, optional
        "direct" forms the matrix (up to 5,000 parameters), or for the empirical Fisher the inner products of
        the training gradients (up to 20,000 datapoints of a model of any size); the default where it can, else
        "cg".
    projection : "auto", None, int or array (p, k)
        With a length or a matrix everything happens in the projected space (not with the exact Hessian).
    damping : float, optional
        lambda; default ``relative_damping`` times the mean eigenvalue of H.
    **settings
        Of the solver: ``tolerance``, ``max_iterations`` (cg); ``depth``, ``repeats``, ``scale`` (lissa);
        ``rank``, ``steps`` (arnoldi).

    Returns
    -------
    ndarray (m, n)
        Positive: more weight on the datapoint lowers the query's loss. Leaving it out raises the loss by about
        score / n.
    """
    check_hessian(hessian)
    if solver is not None and solver not in SOLVERS:
        raise UnknownName(f"there is no solver {solver!r}", remedy=f"choose {', '.join(SOLVERS)}")
    allowed = {"cg": {"tolerance", "max_iterations"}, "lissa": {"depth", "repeats", "scale"}, "arnoldi": {"rank", "steps"}}
    unused = sorted(set(settings) - allowed.get(solver or "cg", set()))
    if unused:
        raise DatumwiseError(f"{', '.join(unused)} is no setting of the solver {solver or 'cg'}")
    projected = projection_of(projection, None, problem.n_parameters, problem.seed)
    asked, sign = problem.asked()
    total: np.ndarray | float = 0.0
    used = 0
    for _ in problem.at(checkpoints):
        if solver in (None, "direct") and (hessian == "empirical_fisher" or not isinstance(projected, Exact)):
            part = _from_rows(problem, hessian, projected, asked, damping, relative_damping)
        elif not isinstance(projected, Exact):
            raise DatumwiseError(f"the solver {solver} works on whole gradients", remedy="leave out projection=")
        elif solver == "direct" or (solver is None and problem.n_parameters <= DIRECT_PARAMETERS):
            part = _direct(problem, hessian, projected, asked, damping, relative_damping)
        else:
            part = _solved(problem, hessian, solver or "cg", asked, damping, relative_damping, settings)
        total = total + sign * part
        used += 1
    assert isinstance(total, np.ndarray)
    return total / used


# --- the matrix is formed -------------------------------------------------------------------------------


def _direct(
    problem: Problem, hessian: str, exact: Projection, asked: Any, damping: float | None, relative: float
) -> np.ndarray:
    """p x p, solved for all queries; the datapoints' gradients meet the answers in one pass."""
    p = problem.n_parameters
    if p > DIRECT_PARAMETERS:
        raise DatumwiseError(
            f"the matrix of {p:,} parameters would take {p * p * 8 / 2**30:.1f} GiB",
            remedy='use solver="cg", projection=, or modules= for some layers',
        )
    H = exact_hessian(problem) if hessian == "exact" else gauss_newton(problem, exact)
    lam = damping_of(damping, relative, float(np.trace(H)) / p, f"the {hessian} Hessian")
    queries, _ = problem.rows(problem.test, exact, asked)
    X = solved(H, queries.T.astype(np.float64), lam, f"the {hessian} Hessian").T
    return _dots(problem, torch.from_numpy(X.astype(queries.dtype)))


def exact_hessian(problem: Problem) -> np.ndarray:
    """The Hessian of the mean training loss, float64 (p, p), from products with the unit vectors."""
    product = Curvature(problem, "exact")
    eye = torch.eye(product.p, dtype=problem.dtype)
    H = product(eye.to(next(problem.model.parameters()).device)).double().cpu().numpy()
    return (H + H.T) / 2


def gauss_newton(problem: Problem, projection: Projection) -> np.ndarray:
    """The Gauss-Newton matrix of the mean training loss, float64, of projected or whole gradients."""
    _, batch = next(iter(problem.batches(problem.train)))
    classes = 1 if problem.loss == "binary_cross_entropy" else outputs_of(problem.model, batch, problem.loss).shape[1]
    projection.begin(problem.sizes)
    H = np.zeros((projection.length, projection.length))
    count = 0
    for label in range(classes):

        def add(columns: Any) -> None:
            nonlocal count, H
            rows = columns["rows"]
            H += rows.T @ rows
            count += len(rows)

        problem.run(problem.train, [GradRows(projection, problem.sizes)], add, ClassLoss(label, problem.loss))
    return H / (count / classes)


# --- rows, or their inner products ----------------------------------------------------------------------


def _from_rows(
    problem: Problem, hessian: str, projected: Projection, asked: Any, damping: float | None, relative: float
) -> np.ndarray:
    """The empirical Fisher from inner products alone, or either matrix in the projected space."""
    what = f"the {hessian} Hessian"
    if hessian == "exact":
        raise DatumwiseError("the exact Hessian has no projection", remedy=f"leave out projection=, or use {HESSIANS[1]}")
    if isinstance(projected, Exact) and damping != 0:
        own, cross = problem.kernels(problem.losses, asked)
        n = len(own)
        lam = damping_of(damping, relative, float(np.trace(own, dtype=np.float64)) / (n * min(n, problem.n_parameters)), what)
        return kernel_scores(own, cross, None, n, lam, what)
    train, queries = (problem.rows(problem.train, projected, problem.losses), problem.rows(problem.test, projected, asked)[0])
    rows: StoredRows = InMemory(*train)
    if hessian == "empirical_fisher":
        return preconditioned(rows, queries, scale=len(rows), damping=damping, relative=relative, what=what)
    H = gauss_newton(problem, projected)
    lam = damping_of(damping, relative, float(np.trace(H)) / len(H), what)
    X = solved(H, queries.T.astype(np.float64), lam, what)
    return X.T.astype(queries.dtype) @ train[0].T


# --- the matrix is only multiplied with -----------------------------------------------------------------


def _solved(
    problem: Problem, hessian: str, solver: str, asked: Any, damping: float | None, relative: float, settings: Any
) -> np.ndarray:
    product = Curvature(problem, hessian)
    what = f"the {hessian} Hessian"
    like = torch.zeros(1, dtype=problem.dtype, device=next(problem.model.parameters()).device)
    lam = damping if damping is not None else None
    if lam is None or lam < 0:
        lam = damping_of(damping, relative, 1.0 if damping is not None else _mean_eigenvalue(product, like, problem.seed), what)
    if solver == "arnoldi":
        return _in_eigenbasis(problem, product, like, asked, lam, settings)
    out = []
    for queries in _query_blocks(problem, asked, like):
        if solver == "cg":
            X = conjugate_gradients(lambda V: product(V) + lam * V, queries, **settings)
        else:
            with product.ready():
                X = lissa(
                    product.of_batch,
                    queries,
                    n_batches=len(product.sizes),
                    damping=lam,
                    seed=problem.seed,
                    **settings,
                )
        out.append(_dots(problem, X))
    return np.concatenate(out)


def _in_eigenbasis(problem: Problem, product: Curvature, like: Tensor, asked: Any, damping: float, settings: Any) -> np.ndarray:
    """sum_k <u_k, g_t> <u_k, g_i> / (lambda_k + damping) over the leading eigenvectors; the rest is dropped."""
    values, vectors = arnoldi(product, product.p, like, seed=problem.seed, **settings)
    inverse = values + damping
    train = _dots(problem, vectors)
    queries = _dots(problem, vectors, of="test", losses=asked)
    return queries.T @ (train / inverse.cpu().numpy()[:, None])


def _mean_eigenvalue(product: Curvature, like: Tensor, seed: int) -> float:
    """trace / p by Hutchinson's estimator with random signs."""
    generator = torch.Generator().manual_seed(seed)
    V = (torch.randint(2, (PROBES, product.p), generator=generator) * 2 - 1).to(like)
    return float((V * product(V)).sum(1).double().mean()) / product.p


def _query_blocks(problem: Problem, asked: Any, like: Tensor) -> Iterator[Tensor]:
    """Gradients of the queries (q, p), as many at a time as memory is set aside for."""
    block = max(1, QUERY_BYTES // (problem.n_parameters * like.element_size()))
    waiting: list[tuple[list[Any], Any]] = []

    def gradients() -> Tensor:
        parts: list[np.ndarray] = []
        need = GradRows(Exact(), problem.sizes)
        problem.run([batch for _, batch in waiting], [need], lambda columns: parts.append(columns["rows"]), asked)
        waiting.clear()
        return torch.from_numpy(np.concatenate(parts)).to(like.device)

    for ids, batch in problem.batches(problem.test, min(block, problem.batch_size)):
        waiting.append((ids, batch))
        if sum(len(own) for own, _ in waiting) >= block:
            yield gradients()
    if waiting:
        yield gradients()


def _dots(problem: Problem, X: Tensor, of: str = "train", losses: Any = None) -> np.ndarray:
    """<x, g_i> for each row of ``X`` (q, p) and each datapoint, (q, n), in one pass."""
    shapes = {name: p.shape for name, p in problem.parameters.items()}
    pieces = dict(zip(problem.sizes, X.split(list(problem.sizes.values()), dim=1), strict=True))
    targets = [{name: rows[q].reshape(shapes[name]) for name, rows in pieces.items()} for q in range(len(X))]
    parts: list[np.ndarray] = []
    data = problem.train if of == "train" else problem.test
    objective = problem.losses if of == "train" else losses
    problem.run(data, [GradDot(targets)], lambda columns: parts.append(columns["grad_dot"]), objective)
    return np.concatenate(parts).T.astype(X.cpu().numpy().dtype)
