"""Which datapoints can a linear model tell from the embedding alone? AFLite's predictability and filter.

Sakaguchi et al., 2020, *WinoGrande*, AAAI, algorithm 1; Le Bras et al., 2020, *Adversarial Filters of Dataset
Biases*, ICML, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.probe.neighbours import finite_matrix
from datumwise.score.checks import class_labels, several_classes
from datumwise.score.declare import score

__all__ = ["Filtered", "aflite", "predictability"]


@dataclass(frozen=True)
class Filtered:
    """What AFLite keeps, and how the rest went.

    Attributes
    ----------
    keep : bool (n,)
    round : int64 (n,)
        Round in which a datapoint was removed, from 0; -1 for those kept.
    score : float64 (n,)
        Predictability when last measured, 0 to 1; NaN if the datapoint was never in a test split.
    """

    keep: np.ndarray = field(repr=False)
    round: np.ndarray = field(repr=False)
    score: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        return f"AFLite: {int(self.keep.sum()):,} of {len(self.keep):,} kept after {int(self.round.max()) + 1} rounds"


@score(
    needs=("embedding", "labels"),
    higher="more predictable from its embedding: easier, or biased",
    source="Sakaguchi et al., 2020, algorithm 1",
)
def predictability(
    embedding: np.ndarray,
    labels: np.ndarray,
    *,
    n_splits: int = 64,
    train_share: float = 0.8,
    alpha: float = 1.0,
    random_state: int = 0,
) -> np.ndarray:
    """How often do linear models that did not train on the datapoint predict its label from its embedding?

    Parameters
    ----------
    embedding : float (n, d)
    labels : int (n,)
    n_splits : int, default 64
        Random splits, each with a ridge regression on one-hot labels (published: a linear classifier).
    train_share : float, default 0.8
        Of a split.
    alpha : float, default 1.0
        Ridge penalty; the columns are standardised.
    random_state : int

    Returns
    -------
    float64 (n,)
        Right predictions over predictions, 0 to 1; NaN if the datapoint was in no test split.

    Examples
    --------
    >>> X = np.repeat([[0.0], [1.0]], 20, axis=0)
    >>> y = np.repeat([0, 1], 20)
    >>> y[0] = 1
    >>> predictability(X, y)[:3].tolist()
    [0.0, 1.0, 1.0]
    """
    X, labels = _checked(embedding, labels)
    return _predictability(X, labels, n_splits, train_share, alpha, np.random.default_rng(random_state))


def aflite(
    embedding: Any,
    labels: Any,
    n_to_keep: int,
    *,
    n_splits: int = 64,
    train_share: float = 0.8,
    tau: float = 0.75,
    k: int | None = None,
    alpha: float = 1.0,
    random_state: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Filtered:
    """Remove the most predictable datapoints round by round, so that what is left cannot be told by a shortcut.

    A round measures `predictability` among those left and removes the k highest above ``tau``; it is the last if
    fewer than k are above, or the target is reached.

    Parameters
    ----------
    embedding : float (n, d), finite
    labels : int (n,)
    n_to_keep : int
        The target size; more are kept if nothing predictable is left before.
    n_splits : int, default 64
    train_share : float, default 0.8
    tau : float, default 0.75
    k : int, optional
        n/20 by default.
    alpha : float, default 1.0
    random_state : None, int or Generator
    progress : callable, optional
        Called with (datapoints removed, to remove).

    Returns
    -------
    Filtered
        Ties in predictability go first to the lowest row.
    """
    X, labels = _checked(embedding, labels)
    n = len(X)
    if not 2 <= n_to_keep <= n:
        raise DatumwiseError(f"n_to_keep = {n_to_keep} of {n:,} datapoints", remedy=f"2 <= n_to_keep <= {n}")
    if not 0 <= tau <= 1:
        raise DatumwiseError(f"tau = {tau} is no share", remedy="0 <= tau <= 1")
    cut = max(1, n // 20) if k is None else k
    if cut < 1:
        raise DatumwiseError(f"k = {k} datapoints a round", remedy="k >= 1")
    rng = np.random.default_rng(random_state)
    removed = np.full(n, -1, np.int64)
    latest = np.full(n, np.nan)
    round_ = 0
    while (left := np.flatnonzero(removed < 0)).size > n_to_keep and len(np.unique(labels[left])) > 1:
        found = _predictability(X[left], labels[left], n_splits, train_share, alpha, rng)
        latest[left] = found
        order = np.argsort(-np.nan_to_num(found, nan=-1.0), kind="stable")
        above = int((found > tau).sum())
        going = left[order[: min(cut, above, len(left) - n_to_keep)]]
        removed[going] = round_
        round_ += 1
        if progress:
            progress(n - len(left) + len(going), n - n_to_keep)
        if above < cut:
            break
    return Filtered(removed < 0, removed, latest)


def _predictability(
    X: np.ndarray, labels: np.ndarray, n_splits: int, train_share: float, alpha: float, rng: np.random.Generator
) -> np.ndarray:
    n = len(X)
    size = round(train_share * n)
    if not (0 < train_share < 1 and 0 < size < n):
        raise DatumwiseError(f"train_share = {train_share} of {n} datapoints leaves one side empty", remedy="such as 0.8")
    if n_splits < 1 or not alpha > 0:
        raise DatumwiseError(f"n_splits = {n_splits}, alpha = {alpha}", remedy="n_splits >= 1 and alpha > 0")
    scale = X.std(axis=0)
    Z = np.column_stack([(X - X.mean(axis=0)) / np.where(scale > 0, scale, 1), np.ones(n)])
    one_hot = np.eye(int(labels.max()) + 1)[labels]
    whole, moment = Z.T @ Z + alpha * np.eye(Z.shape[1]), Z.T @ one_hot
    right, tested = np.zeros(n), np.zeros(n)
    for _ in range(n_splits):
        test = rng.permutation(n)[size:]
        held = Z[test]  # the smaller part: taken off the sums over all
        weights = np.linalg.solve(whole - held.T @ held, moment - held.T @ one_hot[test])
        right[test] += (held @ weights).argmax(axis=1) == labels[test]
        tested[test] += 1
    return right / np.where(tested > 0, tested, np.nan)


def _checked(embedding: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    X, labels = finite_matrix(embedding, "embedding").astype(np.float64), class_labels(labels)
    if len(X) != len(labels):
        raise SchemaMismatch(f"embedding has {len(X):,} rows and there are {len(labels):,} labels")
    several_classes(labels)
    return X, np.unique(labels, return_inverse=True)[1]
