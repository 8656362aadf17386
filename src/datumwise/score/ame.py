"""What does a row add to random sets of several densities? The average marginal effect, by sparse regression.

Lin et al., 2022, *Measuring the Effect of Training Data on Deep Learning Predictions via Randomized Experiments*,
ICML, section 3 (AME) and eq. 2 (the design that makes it a regression coefficient).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.score.estimate import Value, row_names
from datumwise.score.utility import Utility

__all__ = ["ame"]

SETS = 256  # asked of the utility at a time
FOLDS = 5  # of the cross-validated penalty
PATH = 0.02  # smallest penalty tried, over the one at which nothing is left; below, a fit takes seconds


def ame(
    utility: Utility,
    *,
    n_subsets: int = 1000,
    densities: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    penalty: float | None = None,
    debias: bool = True,
    random_state: Any = None,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Value:
    """AME_i = mean over densities q of E[v(S + i) - v(S)], each other row being in S with probability q.

    Each of M sets draws its q, then its rows. With x_i = 1/(q c) for a member and -1/((1 - q) c) for another row,
    c² = mean of 1/(q (1 - q)), the columns have mean 0, variance 1 and no correlation, and AME_i is c times the
    coefficient of x_i in the regression of v on x: a LASSO, as most rows hardly matter.

    Parameters
    ----------
    utility : Utility
    n_subsets : int, default 1000
        M; with s rows that matter, O(s log n) will do.
    densities : sequence of float, default 0.2, 0.4, 0.6, 0.8
    penalty : float, optional
        Of the LASSO, in units of the utility; by 5-fold cross-validation by default.
    debias : bool, default True
        Add x_i'(v - x beta)/M to the shrunken coefficients (Javanmard and Montanari, 2014, eq. 5, with the known
        covariance I): unbiased, with a standard error that holds. False: the published coefficients, exact zeros
        among them; the standard errors are still those of the unbiased ones.
    random_state : None, int or Generator
    ids : array (n,), optional
    progress : callable, optional
        Called with (sets done, ``n_subsets``).

    Returns
    -------
    Value

    Examples
    --------
    >>> from datumwise.score.utility import GameUtility
    >>> game = GameUtility(6, lambda masks: masks @ np.array([1.0, 0, 0, -2, 0, 0]))
    >>> ame(game, n_subsets=4000, random_state=0).values.round(1) + 0.0
    array([ 1.,  0.,  0., -2.,  0.,  0.])
    """
    q = np.asarray(densities, np.float64)
    if q.ndim != 1 or len(q) == 0 or not np.all((q > 0) & (q < 1)):
        raise DatumwiseError(f"densities = {densities} are no probabilities between 0 and 1", remedy="such as (0.2, 0.8)")
    if n_subsets < 4 * FOLDS:
        raise DatumwiseError(f"{n_subsets} subsets are too few for a regression", remedy=f"n_subsets >= {4 * FOLDS}")
    rng = np.random.default_rng(random_state)
    n, before = utility.n, utility.calls
    scale = np.sqrt(np.mean(1 / (q * (1 - q))))  # c
    design = np.empty((n_subsets, n), np.float32 if n_subsets * n > 1 << 24 else np.float64)
    worth = np.empty(n_subsets)
    for start in range(0, n_subsets, SETS):
        rows = slice(start, min(start + SETS, n_subsets))
        density = rng.choice(q, size=rows.stop - start)[:, None]
        masks = rng.random((rows.stop - start, n)) < density
        design[rows] = np.where(masks, 1 / density, -1 / (1 - density)) / scale
        worth[rows] = utility(masks)
        if progress:
            progress(rows.stop, n_subsets)
    level = worth.mean()
    coefficients = _lasso(design, worth - level, penalty, rng)
    residual = worth - level - design @ coefficients
    moments = design * residual[:, None]
    shift = moments.mean(axis=0)
    stderr = scale * np.sqrt(((moments - shift) ** 2).sum(axis=0) / (n_subsets - 1) / n_subsets)
    values = scale * (coefficients + shift if debias else coefficients)
    return Value("ame", values, stderr, utility.calls - before, n_subsets, row_names(ids, n))


def _lasso(design: np.ndarray, worth: np.ndarray, penalty: float | None, rng: np.random.Generator) -> np.ndarray:
    from sklearn.linear_model import Lasso, LassoCV
    from sklearn.model_selection import KFold

    if np.ptp(worth) == 0:
        return np.zeros(design.shape[1])
    if penalty is not None:
        return Lasso(alpha=penalty, fit_intercept=False, max_iter=10_000).fit(design, worth).coef_.astype(np.float64)
    folds = KFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    fitted = LassoCV(cv=folds, fit_intercept=False, alphas=30, eps=PATH, max_iter=10_000).fit(design, worth)
    return np.asarray(fitted.coef_, np.float64)
