"""Good, diverse and needed: the selection of MoDS, whose rewards a model of rewards gives."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import EmptyData, NotFinite, SchemaMismatch
from datumwise.select.selector import Selector

__all__ = ["MODS"]


class MODS(Selector):
    """Keep what is good; of it, seeds that cover the rest; then what the model tuned on the seeds still answers badly.

    Good: a reward of at least ``quality``. The seeds are chosen by k-center greedy on the embeddings. Once the
    model was tuned on the seeds and has answered all good prompts, give the rewards of its answers as
    ``necessity``: those below ``need`` are covered by k-center greedy in their turn.

    Parameters
    ----------
    n_to_select : int or float
        Seeds if no necessity is given; else seeds and what is added to them.
    n_seeds : int or float, optional
        Of ``n_to_select``, how many (or which share) are seeds; half by default.
    quality : float, default 0.0
        Least reward of the given answer.
    need : float, default 0.0
        The model needs a datapoint if its own answer has a reward below this.

    Attributes
    ----------
    gains_ : float64 (k,)
        Distance to the nearest one chosen before, in units of X; infinite for the first.
    stage_ : array (k,)
        "seed" or "needed".

    Notes
    -----
    ``fit(X, scores=, necessity=)``; all three are of the same datapoints. The first seed is the good datapoint
    nearest to the mean. Fewer than ``n_to_select`` are chosen where fewer are good, or needed.

    Examples
    --------
    >>> X = np.array([[0.0], [1.0], [10.0], [11.0], [5.0]])
    >>> reward = [1.0, 1.0, 1.0, 1.0, -1.0]
    >>> MODS(2).fit(X, scores=reward).ranking_.tolist()
    [1, 3]
    >>> found = MODS(3, n_seeds=2).fit(X, scores=reward, necessity=[2.0, 2.0, -3.0, 2.0, -3.0])
    >>> found.ranking_.tolist(), found.stage_.tolist()
    ([1, 3, 2], ['seed', 'seed', 'needed'])

    References
    ----------
    Du et al., 2023, *MoDS: Model-oriented Data Selection for Instruction Tuning*, section 3.
    """

    takes: ClassVar = ("X", "scores", "necessity?")
    source: ClassVar = "Du et al., 2023, section 3"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        n_seeds: int | float | None = None,
        quality: float = 0.0,
        need: float = 0.0,
    ) -> None:
        self.n_to_select = n_to_select
        self.n_seeds = n_seeds
        self.quality = quality
        self.need = need

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        from datumwise.select.selector import budget

        X, rewards = inputs["X"].astype(np.float64), inputs["scores"]
        good = np.flatnonzero(rewards >= self.quality)
        if not len(good):
            raise EmptyData(
                f"no reward is {self.quality} or more; they range from {rewards.min():.4g} to {rewards.max():.4g}",
                remedy="a lower quality=",
            )
        given = inputs.get("necessity")
        seeds = k if given is None else budget(self.n_seeds if self.n_seeds is not None else max(1, k // 2), k)
        ranking, gains = _covered(X, good, min(seeds, len(good)), np.empty(0, np.int64))
        stages = ["seed"] * len(ranking)
        if given is not None:
            necessity = np.asarray(given, dtype=np.float64)
            if necessity.shape != rewards.shape:
                raise SchemaMismatch(f"necessity has shape {necessity.shape} for {n:,} datapoints")
            if not np.isfinite(necessity[good]).all():
                raise NotFinite("necessity has NaN or infinity among the good datapoints", remedy="drop or fill these rows")
            needed = np.setdiff1d(good[necessity[good] < self.need], ranking)
            more, added = _covered(X, needed, min(k - len(ranking), len(needed)), ranking)
            ranking, gains = np.concatenate([ranking, more]), np.concatenate([gains, added])
            stages += ["needed"] * len(more)
        self.stage_ = np.array(stages)
        return ranking, gains


def _covered(X: np.ndarray, rows: np.ndarray, k: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k-center greedy among rows, given what is chosen already: farthest from it first, ties to the lowest row."""
    points = X[rows]
    nearest = np.full(len(rows), np.inf)
    for row in chosen:
        nearest = np.minimum(nearest, np.linalg.norm(points - X[row], axis=1))
    picked, gains = np.empty(k, np.int64), np.empty(k)
    for step in range(k):
        at_start = step == 0 and not len(chosen)
        first = np.linalg.norm(points - points.mean(axis=0), axis=1).argmin() if at_start else nearest.argmax()
        picked[step], gains[step] = rows[first], nearest[first]
        nearest = np.minimum(nearest, np.linalg.norm(points - points[first], axis=1))
        nearest[first] = -np.inf
    return picked, gains
