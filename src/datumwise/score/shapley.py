"""What does each row add, on the mean over the orders in which rows can join? Data Shapley and its kin.

Ghorbani and Zou, 2019, *Data Shapley: Equitable Valuation of Data for Machine Learning*, ICML, algorithm 1
(truncated Monte Carlo); Kwon and Zou, 2022, *Beta Shapley*, AISTATS, section 3 (weights by the size of the set).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.score.estimate import RunningMoments, Value, row_names
from datumwise.score.utility import Utility

__all__ = ["beta_shapley", "exact_semivalue", "semivalue_sizes", "tmc_shapley"]

MOST_EXACT = 20  # rows: 2^20 sets
LEAST_DRAWS = 30  # before a standard error is believed
TAIL = 1e-12  # probability of set sizes that are left out
SETS = 1 << 14  # asked of the utility at a time


def tmc_shapley(
    utility: Utility,
    *,
    n_permutations: int = 200,
    tolerance: float = 0.01,
    precision: float | None = None,
    antithetic: bool = False,
    random_state: Any = None,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Value:
    """Shapley values by truncated Monte Carlo over permutations.

    phi_i = E over permutations of v(those before i and i) - v(those before i). A permutation is left off at the
    first set whose utility is within ``tolerance`` of that of all rows: rows after it add nothing, as in
    algorithm 1 (their code waits for five such sets in a row).

    Parameters
    ----------
    utility : Utility
    n_permutations : int, default 200
        At most; fewer with ``precision``.
    tolerance : float, default 0.01
        Times abs(v(all)). 0: every permutation is walked to its end, and the values sum to v(all) - v(empty)
        exactly; otherwise to within ``tolerance``.
    precision : float, optional
        Stop once every standard error is at most this (after 30 draws).
    antithetic : bool, default False
        Walk every permutation backwards too and average the two: fewer draws, smaller errors (Mitchell et al.,
        2022, section 3.2).
    random_state : None, int or Generator
    ids : array (n,), optional
    progress : callable, optional
        Called with (permutations done, ``n_permutations``).

    Returns
    -------
    Value

    Examples
    --------
    >>> from datumwise.score.utility import GameUtility
    >>> glove = GameUtility(3, lambda masks: masks[:, 0] & (masks[:, 1] | masks[:, 2]))  # one left, two right gloves
    >>> tmc_shapley(glove, n_permutations=6000, random_state=0).values.round(2)
    array([0.67, 0.17, 0.16])
    """
    weights = np.ones(utility.n)
    return _by_permutations(
        "tmc", utility, weights, n_permutations, tolerance, precision, antithetic, random_state, ids, progress
    )


def beta_shapley(
    utility: Utility,
    *,
    alpha: float = 16.0,
    beta: float = 1.0,
    n_permutations: int = 200,
    tolerance: float = 0.01,
    precision: float | None = None,
    antithetic: bool = False,
    random_state: Any = None,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Value:
    """Beta Shapley values: marginal contributions to small sets count more (alpha > beta) or less.

    phi_i = sum over j of p_j E[v(S + i) - v(S) given |S| = j - 1], p_j the beta-binomial probability of j - 1
    successes in n - 1 with parameters (beta, alpha); Beta(1, 1) is Shapley, Beta(16, 1) the paper's best at finding
    mislabelled rows.

    Parameters
    ----------
    utility : Utility
    alpha, beta : float, default 16 and 1
    n_permutations, tolerance, precision, antithetic, random_state, ids, progress
        See `tmc_shapley`.

    Returns
    -------
    Value
    """
    sizes = semivalue_sizes(utility.n, "beta", alpha=alpha, beta=beta)
    weights = utility.n * sizes
    reach = int(np.searchsorted(np.cumsum(sizes), 1 - TAIL)) + 1
    return _by_permutations(
        "beta", utility, weights[:reach], n_permutations, tolerance, precision, antithetic, random_state, ids, progress
    )


def exact_semivalue(
    utility: Utility,
    *,
    semivalue: str = "shapley",
    alpha: float = 16.0,
    beta: float = 1.0,
    p: float = 0.5,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Value:
    """Values from the utilities of all 2^n sets, n <= 20.

    Parameters
    ----------
    utility : Utility
    semivalue : "shapley", "beta", "banzhaf" or "loo"
    alpha, beta : float
        Of "beta".
    p : float, default 0.5
        Of "banzhaf": the probability that a row is in a set.
    ids : array (n,), optional
    progress : callable, optional

    Returns
    -------
    Value
        Standard errors are 0.

    Raises
    ------
    DatumwiseError
        More than 20 rows.

    Examples
    --------
    >>> from datumwise.score.utility import GameUtility
    >>> glove = GameUtility(3, lambda masks: masks[:, 0] & (masks[:, 1] | masks[:, 2]))
    >>> (6 * exact_semivalue(glove).values).round(12).tolist()
    [4.0, 1.0, 1.0]
    """
    n = utility.n
    if n > MOST_EXACT:
        raise DatumwiseError(f"{n:,} rows have 2^{n} subsets", remedy=f"method='tmc'; exact is for <= {MOST_EXACT} rows")
    sizes = semivalue_sizes(n, semivalue, alpha=alpha, beta=beta, p=p)
    before = utility.calls
    worth = np.empty(1 << n)
    for start in range(0, 1 << n, SETS):
        codes = np.arange(start, min(start + SETS, 1 << n))
        worth[codes] = utility((codes[:, None] >> np.arange(n)) & 1)
        if progress:
            progress(int(codes[-1]) + 1, 1 << n)
    from scipy.special import comb

    size = np.zeros(1 << n, np.int64)
    for i in range(n):
        size[1 << i : 2 << i] = size[: 1 << i] + 1
    weight = sizes / comb(n - 1, np.arange(n))  # of one set of each size
    values = np.empty(n)
    for i in range(n):
        pairs = worth.reshape(-1, 2, 1 << i)
        smaller = size.reshape(-1, 2, 1 << i)[:, 0]
        values[i] = ((pairs[:, 1] - pairs[:, 0]) * weight[smaller]).sum()
    return Value("exact", values, np.zeros(n), utility.calls - before, 1 << n, row_names(ids, n))


def semivalue_sizes(n: int, semivalue: str, *, alpha: float = 16.0, beta: float = 1.0, p: float = 0.5) -> np.ndarray:
    """How likely the set that a row joins is to have 0, 1, ..., n - 1 rows; sums to 1.

    Parameters
    ----------
    n : int
        Rows.
    semivalue : "shapley", "beta", "banzhaf" or "loo"
    alpha, beta, p : float

    Returns
    -------
    float64 (n,)

    Examples
    --------
    >>> semivalue_sizes(3, "banzhaf").round(12).tolist()
    [0.25, 0.5, 0.25]
    """
    from scipy.stats import betabinom, binom

    sizes = np.arange(n)
    if semivalue == "shapley":
        return np.full(n, 1 / n)
    if semivalue == "beta":
        if not (alpha > 0 and beta > 0):
            raise DatumwiseError(f"Beta({alpha}, {beta}) is no distribution", remedy="both parameters above 0")
        return betabinom.pmf(sizes, n - 1, beta, alpha) if n > 1 else np.ones(1)
    if semivalue == "banzhaf":
        if not 0 < p < 1:
            raise DatumwiseError(f"p = {p} is no probability between 0 and 1", remedy="0 < p < 1")
        return binom.pmf(sizes, n - 1, p)
    if semivalue == "loo":
        return (sizes == n - 1).astype(np.float64)
    raise UnknownName(f"there is no semivalue {semivalue!r}", remedy="'shapley', 'beta', 'banzhaf' or 'loo'")


def _by_permutations(
    method: str,
    utility: Utility,
    weights: np.ndarray,
    n_permutations: int,
    tolerance: float,
    precision: float | None,
    antithetic: bool,
    random_state: Any,
    ids: Any,
    progress: Callable[[int, int], None] | None,
) -> Value:
    """Mean of weights[j] times the marginal contribution at place j, over random permutations."""
    if n_permutations < 2:
        raise DatumwiseError(f"{n_permutations} permutation has no standard error", remedy="n_permutations >= 2")
    if tolerance < 0:
        raise DatumwiseError(f"tolerance = {tolerance} lies below 0", remedy="tolerance >= 0")
    rng = np.random.default_rng(random_state)
    n, reach, before = utility.n, len(weights), utility.calls
    target = utility.full()
    found = RunningMoments(n)
    done = 0
    converged = None if precision is None else False
    per_draw = 2 if antithetic else 1
    step = max(1, utility.batch(reach) // per_draw)
    while done < n_permutations:
        draws = min(step, -(-(n_permutations - done) // per_draw))
        orders = rng.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
        both = np.concatenate([orders, orders[:, ::-1]]) if antithetic else orders
        walked = utility.prefixes(both[:, :reach], tolerance=tolerance * abs(target), target=target)
        added = np.zeros((len(both), n))
        np.put_along_axis(added, both[:, :reach], np.diff(walked, axis=1) * weights, axis=1)
        found.add((added[:draws] + added[draws:]) / 2 if antithetic else added)
        done += len(both)
        if progress:
            progress(min(done, n_permutations), n_permutations)
        if precision is not None and found.count >= LEAST_DRAWS and found.stderr.max() <= precision:
            converged = True
            break
    return Value(
        method,
        found.mean,
        found.stderr,
        utility.calls - before,
        done,
        row_names(ids, n),
        converged,
    )
