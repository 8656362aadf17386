"""Which datapoints have, together, the mean of all? Herding."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from datumwise.errors import UnknownName
from datumwise.select.greedy import best_of
from datumwise.select.selector import Selector
from datumwise.select.similarity import OnTheFly

__all__ = ["Herding", "herd", "kernel_herd"]

METRICS = ("dot", "cosine_signed", "cosine_shifted", "rbf")


class Herding(Selector):
    """Keep datapoints whose mean follows the mean of all as closely as it can.

    w = mu; next = argmax_i <w, x_i>; then w becomes w + mu - x_next. With a kernel, <.,.> is the kernel and mu the
    mean embedding, so that more than the mean is matched.

    Parameters
    ----------
    n_to_select : int or float
    metric : {"dot", "cosine_signed", "cosine_shifted", "rbf"}, default "dot"
        "dot": plain herding of X. Else kernel herding, see `datumwise.select.similarity.KERNELS`.
    gamma : float, optional
        Of "rbf".
    replace : bool, default False
        Whether a datapoint may be chosen again. With ``True`` the error of the mean falls as 1/k; without, picks
        run out.
    progress : callable, optional
        Called with (chosen, k).

    Attributes
    ----------
    gains_ : float64 (k,)
        <w, x> of each pick.
    w_ : float64 (d,)
        w after the last pick: w_ - mu = k (mu - mean of the picks). Of metric "dot".

    Examples
    --------
    Picks on either side of the mean, 2, take turns:

    >>> import numpy as np
    >>> X = np.array([[4.0], [3.0], [2.5], [1.0], [-0.5]])
    >>> chosen = Herding(4).fit(X - 2).ranking_
    >>> chosen.tolist(), X[chosen].ravel().tolist()
    ([0, 4, 1, 3], [4.0, -0.5, 3.0, 1.0])

    References
    ----------
    Welling, 2009, *Herding Dynamical Weights to Learn*; Chen, Welling and Smola, 2010, *Super-Samples from Kernel
    Herding*.
    """

    takes: ClassVar[tuple[str, ...]] = ("X",)
    source: ClassVar[str] = "Welling, 2009; Chen, Welling and Smola, 2010"

    w_: np.ndarray

    def __init__(
        self,
        n_to_select: int | float,
        *,
        metric: str = "dot",
        gamma: float | None = None,
        replace: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.metric = metric
        self.gamma = gamma
        self.replace = replace
        self.progress = progress

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if self.metric not in METRICS:
            near = difflib.get_close_matches(str(self.metric), METRICS, n=1)
            raise UnknownName(
                f"there is no metric {self.metric!r} to herd by",
                remedy=f"did you mean {near[0]!r}?" if near else f"there are {', '.join(METRICS)}",
            )
        if self.metric == "dot":
            ranking, gains, self.w_ = herd(inputs["X"], k, replace=self.replace, progress=self.progress)
            return ranking, gains
        kernel = OnTheFly(inputs["X"], self.metric, self.gamma)
        return kernel_herd(kernel, k, replace=self.replace, progress=self.progress)


def herd(
    X: np.ndarray, k: int, *, replace: bool = False, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k picks, O(n d) each.

    Parameters
    ----------
    X : float (n, d)
    k : int
        With ``replace`` it may be more than n.
    replace : bool, default False
    progress : callable, optional

    Returns
    -------
    ranking : int64 (k,)
    gains : float64 (k,)
        <w, x> of each pick.
    w : float64 (d,)
        After the last pick.
    """
    X = np.asarray(X, dtype=np.float64)
    mean = X.mean(axis=0)
    w = mean.copy()
    open_ = np.ones(len(X), dtype=bool)
    ranking, gains = np.empty(k, np.int64), np.empty(k)
    scale = float(np.linalg.norm(X, axis=1).max() ** 2)
    for t in range(k):
        agreement = X @ w
        ranking[t] = row = best_of(np.where(open_, agreement, -np.inf), scale)
        gains[t] = agreement[row]
        w += mean - X[row]
        open_[row] = replace
        if progress is not None:
            progress(t + 1, k)
    return ranking, gains, w


def kernel_herd(
    kernel: OnTheFly, k: int, *, replace: bool = False, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """k picks by a kernel: <w, x_i> after t picks is (t + 1) mean_j K_ij - sum_s K_is.

    Parameters
    ----------
    kernel : Similarity
    k : int
    replace : bool, default False
    progress : callable, optional

    Returns
    -------
    ranking : int64 (k,)
    gains : float64 (k,)
    """
    mean = kernel.sums[0] / kernel.n
    agreement = mean.copy()
    scale = float(np.abs(kernel.diagonal).max())
    open_ = np.ones(kernel.n, dtype=bool)
    ranking, gains = np.empty(k, np.int64), np.empty(k)
    for t in range(k):
        ranking[t] = row = best_of(np.where(open_, agreement, -np.inf), scale)
        gains[t] = agreement[row]
        agreement += mean - kernel.rows(np.array([row]))[0]
        open_[row] = replace
        if progress is not None:
            progress(t + 1, k)
    return ranking, gains
