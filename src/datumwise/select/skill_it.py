"""How much of each skill to train on next, when learning one helps another: Skill-it."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch

__all__ = ["SkillIt", "skill_graph"]


class SkillIt:
    """Mixture of skills by multiplicative weights on a graph of which skill helps which.

    p_{t+1,i} is proportional to exp(eta sum_{tau in the window} sum_j A_ij L_j(theta_tau)): a skill is trained on
    if it helps skills (itself included) whose loss is high.

    Parameters
    ----------
    adjacency : array (s, e)
        A_ij, how much training on skill i lowers the loss of skill j, 0 or above (`skill_graph`); the e skills
        measured may be others than the s skills trained on.
    eta : float, default 0.2
        Above 0.
    window : int or None, default 3
        Last losses that count; None: all.

    Attributes
    ----------
    weights_ : float64 (s,)
        Mixture to train on next; sums to 1. Before any loss is known: proportional to exp(eta sum_j A_ij).
    history_ : list of float64 (s,)
        The mixture before each update.

    Examples
    --------
    Skill 0 helps skill 2, whose loss is high:

    >>> mixture = SkillIt([[1.0, 0.0, 0.8], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], eta=1.0)
    >>> mixture.update([0.1, 0.1, 2.0]).round(2).tolist()
    [0.39, 0.08, 0.53]

    References
    ----------
    Chen et al., 2023, *Skill-it! A Data-Driven Skills Framework for Understanding and Training Language Models*,
    algorithm 1.
    """

    def __init__(self, adjacency: Any, *, eta: float = 0.2, window: int | None = 3) -> None:
        A = np.asarray(adjacency, dtype=np.float64)
        if A.ndim != 2 or not A.size:
            raise SchemaMismatch(f"adjacency must be skills x skills; its shape is {A.shape}")
        if not np.isfinite(A).all() or (A < 0).any():
            raise NotFinite("adjacency has NaN, infinity or a number below 0", remedy="clip it at 0; skill_graph does")
        if not eta > 0:
            raise DatumwiseError(f"eta is {eta}", remedy="give a rate above 0")
        if window is not None and window < 1:
            raise DatumwiseError(f"window is {window}", remedy="give 1 or more, or None for all")
        self.adjacency = A
        self.eta = eta
        self.window = window
        self.history_: list[np.ndarray] = []
        self._losses: list[np.ndarray] = []
        self.weights_ = softmax(eta * A.sum(axis=1))

    def update(self, losses: Any) -> np.ndarray:
        """The next mixture, float64 (s,), given the validation losses (e,) of the skills now."""
        now = np.asarray(losses, dtype=np.float64)
        if now.shape != self.adjacency.shape[1:]:
            raise SchemaMismatch(f"losses has shape {now.shape} for {self.adjacency.shape[1]} skills")
        if not np.isfinite(now).all():
            raise NotFinite(f"the loss of skill {int(np.flatnonzero(~np.isfinite(now))[0])} is NaN or infinite")
        self._losses.append(now)
        self.history_.append(self.weights_)
        recent = self._losses if self.window is None else self._losses[-self.window :]
        self.weights_ = softmax(self.eta * self.adjacency @ np.sum(recent, axis=0))
        return self.weights_

    def counts(self, n: int) -> np.ndarray:
        """int64 (s,): the mixture as numbers of datapoints that sum to n, by largest remainder."""
        quota = n * self.weights_
        found = np.floor(quota).astype(np.int64)
        found[np.argsort(-(quota - found), kind="stable")[: n - found.sum()]] += 1
        return found


def skill_graph(before: Any, after: Any, *, alone: Any = None) -> np.ndarray:
    """Which skill helps which, from losses of short training runs.

    Parameters
    ----------
    before : array (e,)
        Loss of each skill before training.
    after : array (s, e)
        ``after[i, j]``: loss of skill j after training on skill i; with ``alone`` given, on half i, half j.
    alone : array (e,), optional
        Loss of skill j after training on j alone for as long.

    Returns
    -------
    float64 (s, e)
        Without ``alone`` the approximate graph, A_ij = max(0, (before_j - after_ij) / before_j); with it,
        A_ij = max(0, (alone_j - after_ij) / alone_j): what i adds to training on j.

    References
    ----------
    Chen et al., 2023, algorithms 2 and 3.

    Examples
    --------
    >>> skill_graph([2.0, 1.0], [[1.0, 0.9], [2.5, 0.5]]).round(2).tolist()
    [[0.5, 0.1], [0.0, 0.5]]
    """
    base = np.asarray(before if alone is None else alone, dtype=np.float64)
    found = np.asarray(after, dtype=np.float64)
    if base.ndim != 1 or found.ndim != 2 or found.shape[1] != len(base):
        raise SchemaMismatch(f"after has shape {found.shape} for {base.shape} losses before")
    if not (np.isfinite(base).all() and np.isfinite(found).all()) or (base <= 0).any():
        raise NotFinite("a loss is NaN, infinite or (before training) not above 0")
    return np.maximum((base - found) / base, 0)
