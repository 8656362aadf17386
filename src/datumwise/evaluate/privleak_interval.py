"""How sure is PrivLeak? Its interval over texts, with the reference's own uncertainty in it."""

from __future__ import annotations

import math

import numpy as np

from datumwise.evaluate.paired import DRAWS, auc_draws, auc_interval, interval_of
from datumwise.evaluate.privleak import auc, privleak
from datumwise.evaluate.removal import Interval
from datumwise.evaluate.six_way_report import Reference

__all__ = ["even_reference", "privleak_interval"]

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def even_reference(m: int, n: int) -> Reference:
    """A(g) where no retrained model is at hand: 0.5, as of unseen texts that are split in m and n at random.

    The spread of such splits does not depend on the model: the variance of the AUC is (m + n + 1) / (12 m n) (Mann and Whitney,
    1947).

    Parameters
    ----------
    m, n : int
        Forget and holdout texts.

    Examples
    --------
    >>> even_reference(100, 100).interval.low.__round__(3)
    0.42
    """
    half = Z * _even_deviation(m, n)
    return Reference("split holdout", 0.5, Interval(0.5, max(0.0, 0.5 - half), min(1.0, 0.5 + half)))


def privleak_interval(
    forget: np.ndarray,
    holdout: np.ndarray,
    reference: Reference,
    reference_scores: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    n_draws: int = DRAWS,
    random_state: int = 0,
) -> tuple[float, Interval]:
    """PrivLeak with its 95 % interval: bootstrap of forget and of holdout texts.

    Parameters
    ----------
    forget : float (m,)
        Scores of the model, high where a text looks unseen.
    holdout : float (n,)
    reference : Reference
        An AUC of kind "split holdout" is drawn anew each time with its spread; a given one is taken as exact.
    reference_scores : (float (m,), float (n,)), optional
        The retrained model's scores of the same texts: the same texts are then drawn for both models. NaN where it has none;
        where lengths differ, the reference is drawn independently of the model.
    n_draws, random_state : int

    Returns
    -------
    value : float
        Per cent.
    interval : Interval
        Where the model's scores do not overlap (-100, or the upper bound) the far end is that of min(m, n) pairs of texts with
        no exception.
    """
    value = privleak(auc(forget, holdout), reference.auc)
    ends = auc_interval(forget, holdout, n_draws=n_draws, random_state=random_state)
    if ends.value in (0.0, 1.0):
        return value, Interval(value, *(privleak(end, reference.auc) for end in (ends.low, ends.high)))
    least = 0.5 / (len(forget) * len(holdout))  # a resampled reference is never nought
    of_reference: np.ndarray | float
    if reference_scores is not None:
        pair = tuple(np.asarray(scores, dtype=np.float64) for scores in reference_scores)
        if all(len(a) == len(b) and not np.isnan(a).any() for a, b in zip(pair, (forget, holdout), strict=True)):
            of_model, of_reference = auc_draws([(forget, holdout), (pair[0], pair[1])], n_draws, random_state)
        else:
            known = tuple(scores[~np.isnan(scores)] for scores in pair)
            of_model = auc_draws([(forget, holdout)], n_draws, random_state)[0]
            of_reference = auc_draws([(known[0], known[1])], n_draws, random_state + 1)[0]
    else:
        of_model = auc_draws([(forget, holdout)], n_draws, random_state)[0]
        of_reference = reference.auc
        if reference.kind == "split holdout":
            rng = np.random.default_rng([random_state, 1])
            of_reference = 0.5 + _even_deviation(len(forget), len(holdout)) * rng.standard_normal(n_draws)
    against = np.clip(of_reference, least, 1.0)
    return value, interval_of(value, 100 * (of_model - against) / against)


def _even_deviation(m: int, n: int) -> float:
    return math.sqrt((m + n + 1) / (12 * m * n))
