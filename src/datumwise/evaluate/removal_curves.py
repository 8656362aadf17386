"""Does dropping what has low value help, and dropping what has high value hurt? Curves, against random order.

The removal and addition experiments of Ghorbani and Zou, 2019, section 4, as OpenDataVal (Jiang et al., 2023) has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.score.checks import finite_column
from datumwise.score.utility import utility

__all__ = ["Curve", "RemovalCurves", "removal_curves"]

ORDERS = ("remove lowest", "remove highest", "add highest", "add lowest")


@dataclass(frozen=True)
class Curve:
    """Held-out score along a growing share of the datapoints removed (or added).

    Attributes
    ----------
    values : str
        Whose values.
    order : str
        "remove lowest", "remove highest", "add highest", "add lowest".
    score : tuple of float
        At each share; mean over the seeds.
    stderr : tuple of float
        Over the seeds; 0 with one.
    area : float
        Mean of the score minus that of the random order, over the shares: above 0, better than random.
    """

    values: str
    order: str
    score: tuple[float, ...]
    stderr: tuple[float, ...]
    area: float


@dataclass(frozen=True)
class RemovalCurves:
    """All curves of one data set and learner.

    Attributes
    ----------
    share : tuple of float
        Of the datapoints removed (or added).
    curves : tuple of Curve
    random_removal, random_addition : tuple of float
        Mean score over random orders.
    random_removal_sd, random_addition_sd : tuple of float
        Standard deviation over random orders: one curve of values should leave this band to be believed.
    n_random, n_seeds : int
    """

    share: tuple[float, ...]
    curves: tuple[Curve, ...]
    random_removal: tuple[float, ...]
    random_removal_sd: tuple[float, ...]
    random_addition: tuple[float, ...]
    random_addition_sd: tuple[float, ...]
    n_random: int
    n_seeds: int

    def curve(self, order: str, values: str | None = None) -> Curve:
        """The curve of an order, of the first values unless named."""
        for found in self.curves:
            if found.order == order and values in (None, found.values):
                return found
        raise DatumwiseError(f"there is no curve {order!r} of {values!r}", remedy=f"orders are {', '.join(ORDERS)}")

    def __str__(self) -> str:
        shown = np.unique(np.linspace(0, len(self.share) - 1, min(6, len(self.share))).round().astype(int))
        head = f"{'':<32}" + "".join(f"{self.share[i]:>8.0%}" for i in shown) + "    vs random"
        rows = [
            f"{c.values + ', ' + c.order:<32}" + "".join(f"{c.score[i]:8.3f}" for i in shown) + f"{c.area:>+12.4f}"
            for c in self.curves
        ]
        for name, line in (("random removal", self.random_removal), ("random addition", self.random_addition)):
            rows.append(f"{name:<32}" + "".join(f"{line[i]:8.3f}" for i in shown))
        return "\n".join([head, *rows])

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


def removal_curves(
    values: Any,
    X: Any,
    y: Any,
    X_test: Any,
    y_test: Any,
    model: Any = None,
    *,
    shares: Sequence[float] | None = None,
    n_random: int = 20,
    n_seeds: int = 1,
    scoring: Callable[[Any, np.ndarray, np.ndarray], float] | None = None,
    n_jobs: int | None = None,
    random_state: Any = 0,
    progress: Callable[[int, int], None] | None = None,
) -> RemovalCurves:
    """Retrain along the order of the values, both ways, and along random orders.

    Parameters
    ----------
    values : float (n,), or mapping of name to float (n,)
        Data values, higher is worth more; ties go to the lowest row.
    X, y, X_test, y_test
        Training and test rows, see `datumwise.score.utility.utility`. Test rows that the values never saw.
    model : None, "ridge", "knn" or estimator
        Another than the one that the values were made with shows whether they transfer.
    shares : sequence of float, optional
        Ascending, 0 <= share < 1; 0, 5 %, ..., 95 % by default.
    n_random : int, default 20
        Random orders.
    n_seeds : int, default 1
        Refits of an estimator that has a ``random_state``, each with another.
    scoring, n_jobs
        Of an estimator.
    random_state : None, int or Generator
    progress : callable, optional
        Called with (orders done, in all).

    Returns
    -------
    RemovalCurves
        An addition curve at share 0 is the score of no rows: a guess (see `Utility.empty`).
    """
    named = dict(values) if isinstance(values, Mapping) else {"values": values}
    columns = {name: finite_column(column, f"values of {name}") for name, column in named.items()}
    share = np.arange(20) / 20 if shares is None else np.asarray(shares, np.float64)
    if share.ndim != 1 or len(share) == 0 or (np.diff(share) <= 0).any() or share[0] < 0 or share[-1] >= 1:
        raise DatumwiseError(f"shares = {np.asarray(shares).tolist()}", remedy="ascending, 0 <= share < 1")
    if n_random < 2 or n_seeds < 1:
        raise DatumwiseError(f"n_random = {n_random}, n_seeds = {n_seeds}", remedy="n_random >= 2 and n_seeds >= 1")
    rng = np.random.default_rng(random_state)
    games = [utility(X, y, X_test, y_test, each, scoring=scoring, n_jobs=n_jobs) for each in _reseeded(model, n_seeds, rng)]
    n = games[0].n
    for name, column in columns.items():
        if len(column) != n:
            raise SchemaMismatch(f"{len(column):,} values of {name} and {n:,} training rows do not fit together")
    count = np.round(share * n).astype(np.int64)
    total = 4 * len(columns) + 2 * n_random
    done = 0

    def walked(order: np.ndarray, remove: bool) -> np.ndarray:
        nonlocal done
        place = np.empty(n, np.int64)
        place[order] = np.arange(n)
        masks = (place >= count[:, None]) if remove else (place < count[:, None])
        found = np.array([game(masks) for game in games])
        done += 1
        if progress:
            progress(done, total)
        return found

    chance = [rng.permutation(n) for _ in range(n_random)]
    removal = np.array([walked(order, True).mean(axis=0) for order in chance])
    addition = np.array([walked(order, False).mean(axis=0) for order in chance])
    curves = []
    for name, column in columns.items():
        up, down = np.argsort(column, kind="stable"), np.argsort(-column, kind="stable")
        for order, rows, remove in zip(ORDERS, (up, down, down, up), (True, True, False, False), strict=True):
            found = walked(rows, remove)
            error = found.std(axis=0, ddof=1) / np.sqrt(n_seeds) if n_seeds > 1 else np.zeros(len(share))
            area = float((found.mean(axis=0) - (removal if remove else addition).mean(axis=0)).mean())
            curves.append(Curve(name, order, _floats(found.mean(axis=0)), _floats(error), area))
    return RemovalCurves(
        _floats(share),
        tuple(curves),
        _floats(removal.mean(axis=0)),
        _floats(removal.std(axis=0, ddof=1)),
        _floats(addition.mean(axis=0)),
        _floats(addition.std(axis=0, ddof=1)),
        n_random,
        n_seeds,
    )


def _reseeded(model: Any, n_seeds: int, rng: np.random.Generator) -> list[Any]:
    if n_seeds == 1:
        return [model]
    random = (
        []
        if model is None or isinstance(model, str)
        else [name for name in model.get_params(deep=True) if name.split("__")[-1] == "random_state"]
    )
    if not random:
        raise DatumwiseError("the model has no random_state: refits are all alike", remedy="n_seeds=1")
    from sklearn.base import clone

    return [clone(model).set_params(**dict.fromkeys(random, int(seed))) for seed in rng.integers(0, 2**31 - 1, n_seeds)]


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
