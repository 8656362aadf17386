"""Which datapoints are good and unlike each other, by a determinantal point process?"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import eigh

from datumwise.errors import DatumwiseError, UnknownName, name_some
from datumwise.select.greedy import maximise
from datumwise.select.log_det import LogDetFunction, semidefinite
from datumwise.select.set_selector import _SimilaritySelector
from datumwise.select.similarity import DENSE, Given, Similarity, features

__all__ = ["DPP", "log_elementary", "sample_k_dpp"]

METHODS = ("map", "sample")
RANK = 1e-10  # share of the largest eigenvalue below which one is 0
RANK_32 = 1e-5  # the same where the kernel is held in float32


class DPP(_SimilaritySelector):
    """Keep a subset by a k-DPP: a subset is the likelier, the larger det L_SS, so good and diverse.

    L = diag(q) S diag(q) with quality q and similarity S. Either the greedy approximation of the likeliest subset,
    O(n k^2), or an exact random draw: P(S) = det L_SS / sum of that over all subsets of size k.

    Parameters
    ----------
    n_to_select : int or float
    method : {"map", "sample"}, default "map"
    metric : str, default "cosine_shifted"
        A positive semi-definite kernel, as in `LogDet`.
    gamma : float, optional
        Of metric "rbf".
    random_state : int, Generator or None
        Of "sample".
    progress : callable, optional
        Called with (chosen, k).

    Notes
    -----
    ``fit(X, scores=q)``: q above 0; without, 1. A draw with a kernel of few features (the cosines and "dot") costs
    O(n d^2), with another O(n^3), refused above 20,000 datapoints.

    Attributes
    ----------
    gains_ : float64 (k,)
        log det L of the picks up to this one, less that before it. A draw is ordered as drawn.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0], [1, 0.05], [0, 1]])
    >>> DPP(2, metric="dot").fit(X, scores=[1.0, 1.2, 0.5]).ranking_.tolist()
    [1, 2]

    References
    ----------
    Chen, Zhang and Zhou, 2018, algorithm 1 (map); Kulesza and Taskar, 2011, *k-DPPs* (sample); 2012,
    *Determinantal Point Processes for Machine Learning*, section 3.3 (few features).
    """

    takes: ClassVar[tuple[str, ...]] = ("X", "scores?")
    source: ClassVar[str] = "Chen, Zhang and Zhou, 2018, algorithm 1; Kulesza and Taskar, 2011"
    hold: ClassVar[bool] = False

    def __init__(
        self,
        n_to_select: int | float,
        *,
        method: str = "map",
        metric: str = "cosine_shifted",
        gamma: float | None = None,
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.method = method
        self.metric = metric
        self.gamma = gamma
        self.random_state = random_state
        self.progress = progress

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if self.method not in METHODS:
            near = difflib.get_close_matches(str(self.method), METHODS, n=1)
            raise UnknownName(
                f"there is no method {self.method!r}", remedy=f"did you mean {near[0]!r}?" if near else "'map' or 'sample'"
            )
        semidefinite(self.metric)
        quality = np.ones(n) if inputs.get("scores") is None else inputs["scores"]
        low = np.flatnonzero(quality <= 0)
        if len(low):
            raise DatumwiseError(
                f"quality is not above 0 in row {name_some(low)}", remedy="give np.exp(scores)", ids=low.tolist()
            )
        X = inputs["X"]
        if self.method == "map":
            return maximise(LogDetFunction(self._similarity(X), 0.0, quality), k, progress=self.progress)
        narrow = None if isinstance(X, Given) else features(X, self.metric)
        if narrow is not None and narrow.shape[1] < n:
            values, vectors = _from_features(narrow * quality[:, None])
        else:
            values, vectors = _from_kernel(self._similarity(X), quality)
        return sample_k_dpp(values, vectors, k, random_state=self.random_state, progress=self.progress)


def sample_k_dpp(
    values: np.ndarray,
    vectors: np.ndarray,
    k: int,
    *,
    random_state: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """An exact draw from the k-DPP of L = V diag(values) V^T.

    Parameters
    ----------
    values : float64 (r,), above 0
    vectors : float64 (n, r)
        V, orthonormal columns.
    k : int
        At most r.
    random_state : int, Generator or None
    progress : callable, optional

    Returns
    -------
    ranking : int64 (k,)
        In the order drawn.
    gains : float64 (k,)
        log det L of the picks up to this one, less that before it.

    Raises
    ------
    DatumwiseError
        k is more than the rank of L.
    """
    if k > len(values):
        raise DatumwiseError(
            f"the kernel has rank {len(values):,}, so no {k:,} datapoints can be drawn",
            remedy=f"n_to_select up to {len(values):,}, or metric='rbf'",
        )
    rng = np.random.default_rng(random_state)
    left = vectors[:, _eigenvectors(np.log(values), k, rng)]  # (n, k): a projection DPP has exactly k datapoints
    chance = np.einsum("ij,ij->i", left, left)
    factor = np.empty((k, len(vectors)))  # Cholesky of the projection, by the rows drawn
    kernel = np.empty((k, k))
    ranking = np.empty(k, np.int64)
    for t in range(k):
        chance = np.maximum(chance, 0)
        chance[ranking[:t]] = 0
        ranking[t] = row = int(rng.choice(len(chance), p=chance / chance.sum()))
        factor[t] = (left @ left[row] - factor[:t, row] @ factor[:t]) / np.sqrt(chance[row])
        chance = chance - factor[t] ** 2
        kernel[t, : t + 1] = kernel[: t + 1, t] = (vectors[ranking[: t + 1]] * values) @ vectors[row]
        if progress is not None:
            progress(t + 1, k)
    return ranking, 2 * np.log(np.diagonal(np.linalg.cholesky(kernel)))


def log_elementary(log_values: np.ndarray, k: int) -> np.ndarray:
    """float64 (k + 1, r + 1): log of the elementary symmetric polynomial of degree l in the first m values.

    e_l(m) = e_l(m - 1) + value_m e_{l-1}(m - 1), in logarithms, so that nothing overflows.

    Examples
    --------
    >>> np.exp(log_elementary(np.log([1.0, 2.0, 3.0]), 2)[:, -1]).round(6).tolist()
    [1.0, 6.0, 11.0]
    """
    table = np.full((k + 1, len(log_values) + 1), -np.inf)
    table[0] = 0.0
    for m, value in enumerate(log_values, start=1):
        table[1:, m] = np.logaddexp(table[1:, m - 1], value + table[:-1, m - 1])
    return table


def _eigenvectors(log_values: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k of r eigenvectors, a set J with probability proportional to the product of its eigenvalues."""
    table = log_elementary(log_values, k)
    chosen: list[int] = []
    wanted = k
    for m in range(len(log_values), 0, -1):
        if wanted == 0:
            break
        if np.log(rng.random()) < log_values[m - 1] + table[wanted - 1, m - 1] - table[wanted, m]:
            chosen.append(m - 1)
            wanted -= 1
    return np.array(chosen)


def _from_features(B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positive eigenvalues and eigenvectors of B B^T, from those of B^T B."""
    values, dual = eigh(B.T @ B)
    kept = values > RANK * values[-1]
    return values[kept], B @ dual[:, kept] / np.sqrt(values[kept])


def _from_kernel(S: Similarity, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if S.n > DENSE:
        raise DatumwiseError(
            f"an exact draw from {S.n:,} datapoints needs {S.n:,} x {S.n:,} numbers",
            remedy="give metric='cosine_shifted' (few features), or method='map'",
        )
    held = S.rows(np.arange(S.n))
    L = held * np.outer(quality, quality)
    values, vectors = eigh(L)
    limit = RANK_32 if held.dtype == np.float32 else RANK
    if values[0] < -100 * limit * values[-1]:
        raise DatumwiseError("the kernel is not positive semi-definite", remedy="give metric='cosine_shifted' or 'rbf'")
    kept = values > limit * values[-1]
    return values[kept], vectors[:, kept]
