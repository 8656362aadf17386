"""How many of the least valuable datapoints is it best to drop? Shapley values of a proxy, cut at its peak.

Schoch, Mishra and Ji, 2023, *Data Selection for Fine-tuning Large Language Models Using Transferred Shapley Values*,
ACL student workshop, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.score.estimate import Value, row_names
from datumwise.score.shapley import tmc_shapley
from datumwise.score.utility import Utility, utility

__all__ = ["TransferredShapley", "transferred_shapley"]


@dataclass(frozen=True)
class TransferredShapley:
    """Values by a cheap proxy and the subset it does best on; to be used by the model that is dear.

    Attributes
    ----------
    value : Value
    keep : bool (n,)
        Datapoints left at the peak of the proxy's validation score.
    removed : int64 (c,)
        Datapoints removed at each point of the curve.
    curve : float64 (c,)
        The proxy's validation score there.
    """

    value: Value
    keep: np.ndarray = field(repr=False)
    removed: np.ndarray = field(repr=False)
    curve: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        best = int(self.curve.argmax())
        return (
            f"keep {int(self.keep.sum()):,} of {len(self.keep):,}: the proxy scores {self.curve[best]:.4f}, "
            f"{self.curve[0]:.4f} with all\n{self.value}"
        )


def transferred_shapley(
    X: Any,
    y: Any,
    X_val: Any,
    y_val: Any,
    proxy: Any = None,
    *,
    n_chains: int = 1,
    chain_share: float = 1.0,
    n_permutations: int = 200,
    tolerance: float = 0.01,
    step: int | None = None,
    most: float = 0.9,
    scoring: Callable[[Any, np.ndarray, np.ndarray], float] | None = None,
    n_jobs: int | None = None,
    random_state: Any = None,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> TransferredShapley:
    """TMC-Shapley on a proxy, the lowest dropped until its validation score is at its peak.

    Parameters
    ----------
    X, y, X_val, y_val, scoring, n_jobs
        See `datumwise.score.utility.utility`. The peak is chosen on these validation rows: judge it on others.
    proxy : None, "ridge", "knn" or estimator
        What is cheap to train, on embeddings for texts.
    n_chains : int, default 1
        Sampling chains, each on a random ``chain_share`` of the rows; a row's value is the mean over its chains
        (their section 3.2, for sets too large for one).
    chain_share : float, default 1.0
    n_permutations, tolerance
        Of a chain, see `tmc_shapley`.
    step : int, optional
        Datapoints dropped between two points of the curve; n/50 by default.
    most : float, default 0.9
        Share of the datapoints that may be dropped.
    random_state : None, int or Generator
    ids : array (n,), optional
    progress : callable, optional
        Called with (chains and curve points done, in all).

    Returns
    -------
    TransferredShapley
        Ties at the peak keep the most datapoints.
    """
    if n_chains < 1 or not 0 < chain_share <= 1 or (n_chains == 1 and chain_share < 1):
        raise DatumwiseError(
            f"{n_chains} chains of a share of {chain_share} leave datapoints without a value",
            remedy="more chains, or a share of 1",
        )
    if not 0 <= most < 1:
        raise DatumwiseError(f"most = {most} would drop everything", remedy="0 <= most < 1")
    game = utility(X, y, X_val, y_val, proxy, scoring=scoring, n_jobs=n_jobs)
    n = game.n
    cut = max(1, n // 50) if step is None else step
    removed = np.arange(0, int(most * n) + 1, cut)
    rng = np.random.default_rng(random_state)
    work = n_chains + len(removed)
    found = _chains(
        game,
        X,
        y,
        X_val,
        y_val,
        proxy,
        n_chains,
        chain_share,
        n_permutations,
        tolerance,
        scoring,
        n_jobs,
        rng,
        ids,
        progress,
        work,
    )
    order = np.argsort(found.values, kind="stable")
    masks = np.ones((len(removed), n), bool)
    for mask, count in zip(masks, removed, strict=True):
        mask[order[:count]] = False
    before = game.calls
    curve = game(masks)
    if progress:
        progress(work, work)
    calls = found.utility_calls + game.calls - before
    value = Value("transferred_shapley", found.values, found.stderr, calls, found.draws, found.ids)
    return TransferredShapley(value, masks[curve.argmax()], removed, curve)


def _chains(
    game: Utility,
    X: Any,
    y: Any,
    X_val: Any,
    y_val: Any,
    proxy: Any,
    n_chains: int,
    chain_share: float,
    n_permutations: int,
    tolerance: float,
    scoring: Any,
    n_jobs: int | None,
    rng: np.random.Generator,
    ids: Any,
    progress: Callable[[int, int], None] | None,
    work: int,
) -> Value:
    """Values averaged over chains; with one chain of all rows it is `tmc_shapley`."""
    if n_chains == 1:
        found = tmc_shapley(game, n_permutations=n_permutations, tolerance=tolerance, random_state=rng, ids=ids)
        if progress:
            progress(1, work)
        return found
    n = game.n
    X, y = np.asarray(X), np.asarray(y)
    total, count, squares, within = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    calls = draws = 0
    size = max(2, round(chain_share * n))
    for chain in range(n_chains):
        rows = np.sort(rng.permutation(n)[:size])
        part = utility(X[rows], y[rows], X_val, y_val, proxy, scoring=scoring, n_jobs=n_jobs)
        one = tmc_shapley(part, n_permutations=n_permutations, tolerance=tolerance, random_state=rng)
        total[rows] += one.values
        squares[rows] += one.values**2
        within[rows] += one.stderr**2
        count[rows] += 1
        calls, draws = calls + one.utility_calls, draws + one.draws
        if progress:
            progress(chain + 1, work)
    if (count == 0).any():
        raise DatumwiseError(
            f"{int((count == 0).sum()):,} datapoints are in none of the {n_chains} chains",
            remedy="more chains, or a larger share",
        )
    mean = total / count
    several = np.maximum(squares - count * mean**2, 0) / np.maximum(count - 1, 1) / count  # between chains
    stderr = np.sqrt(np.where(count > 1, np.maximum(several, within / count**2), within))
    return Value("tmc", mean, stderr, calls, draws, row_names(ids, n))
