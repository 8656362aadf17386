"""Do attributions foresee what retraining does? The linear datamodelling score.

Park et al., 2023, *TRAK: Attributing Model Behavior at Scale*, ICML, definition 2.3.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, name_some
from datumwise.evaluate.removal import Interval

__all__ = ["LDS", "lds"]

LEVEL = 0.95
FEWEST_SUBSETS = 3  # below, a rank correlation is +-1 or undefined


@dataclass(frozen=True)
class LDS:
    """Rank correlation of predicted and retrained outputs, over random training subsets.

    Attributes
    ----------
    score : Interval
        Mean over the tests, -1 to 1, with its 95 % bootstrap interval over tests and subsets.
    per_test : tuple of float
        NaN for a test whose output (or prediction) never changes.
    n_tests : int
        Tests that count.
    n_subsets : int
    """

    score: Interval
    per_test: tuple[float, ...]
    n_tests: int
    n_subsets: int

    def __str__(self) -> str:
        s = self.score
        few = "" if self.n_subsets >= 50 else "; fewer than 50 subsets: a rough figure"
        return f"LDS {s.value:.3f} [{s.low:.3f}, {s.high:.3f}], {self.n_tests:,} tests, {self.n_subsets:,} subsets{few}"

    def to_json(self) -> str:
        """As JSON; NaN as null."""
        out = asdict(self)
        out["per_test"] = [None if np.isnan(v) else v for v in self.per_test]
        return json.dumps(out)


def lds(scores: Any, masks: Any, outputs: Any, *, n_bootstrap: int = 1000, random_state: Any = 0) -> LDS:
    """Linear datamodelling score of an attribution.

    For test t the prediction for subset S is the sum of ``scores[t, i]`` over i in S; the score is the mean over tests
    of Spearman's correlation, over subsets, with the outputs of models retrained on them.

    Parameters
    ----------
    scores : float (n_test, n_train)
        Higher: the training datapoint raises the output of the test. Give outputs of the same sense: margins for
        helpfulness, minus losses, not losses.
    masks : bool (M, n_train)
        Training subsets, M >= 50 halves for a figure worth reporting.
    outputs : float (M, n_test)
        Of the model retrained on each subset (the mean over seeds, best).
    n_bootstrap : int, default 1000
    random_state : None, int or Generator

    Returns
    -------
    LDS

    Raises
    ------
    SchemaMismatch, NotFinite, DatumwiseError
        Shapes that do not fit, NaN, or no test with a correlation.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth, masks = rng.normal(size=(3, 20)), rng.random((60, 20)) < 0.5
    >>> float(lds(truth, masks, masks @ truth.T).score.value)
    1.0
    """
    scores, masks, outputs = _checked(scores, masks, outputs)
    predicted = masks.astype(np.float64) @ scores.T
    ours, theirs = _ranks(predicted), _ranks(outputs)
    per_test = _weighted(ours, theirs, np.ones((1, len(masks))))[0]
    known = np.flatnonzero(~np.isnan(per_test))
    if len(known) == 0:
        raise DatumwiseError(
            "no test has a correlation: outputs or predictions never change", remedy="other subsets, or scores"
        )
    rng = np.random.default_rng(random_state)
    M, t = len(masks), len(known)
    draws = np.empty(n_bootstrap)
    for b in range(n_bootstrap):
        subsets = rng.multinomial(M, np.full(M, 1 / M))[None].astype(np.float64)
        tests = known[rng.integers(0, t, t)]
        draws[b] = np.nanmean(_weighted(ours[:, tests], theirs[:, tests], subsets))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if n_bootstrap else (np.nan, np.nan)
    value = float(per_test[known].mean())
    return LDS(Interval(value, float(low), float(high)), tuple(per_test.tolist()), t, M)


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=0), np.float64)


def _weighted(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(w, t): Pearson's correlation of the columns of a and b (M, t) under each row of weights (w, M)."""
    total = weight.sum(axis=1, keepdims=True)
    mean_a, mean_b = weight @ a / total, weight @ b / total
    cross = weight @ (a * b) / total - mean_a * mean_b
    spread = (weight @ a**2 / total - mean_a**2) * (weight @ b**2 / total - mean_b**2)
    return cross / np.sqrt(np.where(spread > 1e-12, spread, np.nan))


def _checked(scores: Any, masks: Any, outputs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, masks, outputs = np.asarray(scores, np.float64), np.asarray(masks), np.asarray(outputs, np.float64)
    fits = scores.ndim == masks.ndim == outputs.ndim == 2
    if not (fits and masks.shape == (len(outputs), scores.shape[1]) and outputs.shape[1] == len(scores)):
        raise SchemaMismatch(
            f"scores must be tests x training datapoints, masks subsets x training datapoints and outputs subsets x tests; "
            f"got {scores.shape}, {masks.shape} and {outputs.shape}"
        )
    if len(masks) < FEWEST_SUBSETS:
        raise DatumwiseError(f"{len(masks)} subsets have no rank correlation", remedy="50 at least")
    if not np.isin(np.unique(masks), (0, 1)).all():
        raise SchemaMismatch("masks must say in (1) or out (0)")
    for array, name, row in ((scores, "scores", "test"), (outputs, "outputs", "subset")):
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise NotFinite(f"{name} of {row} {name_some(bad)} have NaN or infinity", ids=bad.tolist())
    return scores, masks.astype(bool), outputs
