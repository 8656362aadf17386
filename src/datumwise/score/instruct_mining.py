"""How good is an instruction for tuning, told from cheap indicators? A linear rule, fitted to losses that were measured.

Cao et al., 2024, *Instruction Mining: Instruction Data Selection for Tuning Large Language Models*, section 2.2, eq. 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName, name_some

__all__ = ["InstructMining"]


class InstructMining:
    """Log loss of a tuned model, explained by the mean indicators of the subset that it was tuned on.

    Fitted once on m subsets (mean indicators, and the loss on held-out data of a model tuned on each), it then scores
    single datapoints: minus the predicted log loss.

    Attributes
    ----------
    names_ : tuple of str
        Indicators, in the order of ``coef_``.
    coef_ : float64 (q,)
        Change of the log loss a standard deviation of the indicator (over the subsets).
    stderr_ : float64 (q,)
        Of ``coef_``, ordinary least squares.
    intercept_ : float
    r_squared_ : float

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> reward, length = rng.normal(size=(2, 60))
    >>> losses = np.exp(1.0 - 0.3 * reward + 0.01 * rng.normal(size=60))
    >>> rule = InstructMining().fit({"reward": reward, "length": length}, losses)
    >>> rule.score_samples({"reward": [0.0, 2.0], "length": [0.0, 0.0]}).round(1).tolist()
    [-1.0, -0.4]
    """

    names_: tuple[str, ...]
    coef_: np.ndarray
    stderr_: np.ndarray
    intercept_: float
    r_squared_: float

    def fit(self, indicators: Mapping[str, Any], losses: Any) -> Self:
        """Fit by least squares.

        Parameters
        ----------
        indicators : mapping of name to float (m,)
            Means over each of m subsets.
        losses : float (m,), above 0
            Of the model tuned on each.

        Raises
        ------
        SchemaMismatch, NotFinite, DatumwiseError
            Lengths differ; NaN; fewer subsets than indicators + 2, a loss that is not above 0, an indicator that does not
            vary or follows from the others.
        """
        names = tuple(indicators)
        X, y = self._matrix(indicators, names), np.asarray(losses, dtype=np.float64)
        m, q = X.shape
        if y.shape != (m,):
            raise SchemaMismatch(f"there are losses of shape {y.shape} for {m:,} subsets")
        if not (np.isfinite(y) & (y > 0)).all():
            bad = np.flatnonzero(~(np.isfinite(y) & (y > 0)))
            raise DatumwiseError(f"the loss of subset {name_some(bad)} is not above 0", ids=bad.tolist())
        if m < q + 2:
            raise DatumwiseError(f"{m} subsets cannot tell {q} indicators apart", remedy=f"give at least {q + 2}")
        centre, spread = X.mean(axis=0), X.std(axis=0)
        flat = [name for name, s in zip(names, spread, strict=True) if s == 0]
        if flat:
            raise DatumwiseError(f"indicator {name_some(flat)} is the same in every subset", remedy="leave it out")
        Z = np.column_stack([(X - centre) / spread, np.ones(m)])
        found, _, rank, _ = np.linalg.lstsq(Z, np.log(y), rcond=None)
        if rank < q + 1:
            raise DatumwiseError("the indicators follow from one another", remedy="leave one of them out")
        rest = np.log(y) - Z @ found
        self.names_, self.coef_, self.intercept_ = names, found[:-1], float(found[-1])
        variance = rest @ rest / (m - q - 1) * np.linalg.inv(Z.T @ Z)
        self.stderr_ = np.sqrt(np.diag(variance)[:-1])
        self.r_squared_ = float(1 - rest @ rest / ((np.log(y) - np.log(y).mean()) ** 2).sum())
        self._centre, self._spread = centre, spread
        return self

    def score_samples(self, indicators: Mapping[str, Any]) -> np.ndarray:
        """Minus the predicted log loss, float64 (n,): higher is better. NaN where an indicator is NaN."""
        if not hasattr(self, "coef_"):
            raise DatumwiseError("this rule was not fitted yet", remedy="call fit(indicators, losses) first")
        missing = [name for name in self.names_ if name not in indicators]
        if missing:
            raise UnknownName(f"indicator {missing[0]!r} is missing", remedy=f"the rule reads {', '.join(self.names_)}")
        X = self._matrix(indicators, self.names_, finite=False)
        return -((X - self._centre) / self._spread @ self.coef_ + self.intercept_)

    @staticmethod
    def _matrix(indicators: Mapping[str, Any], names: tuple[str, ...], *, finite: bool = True) -> np.ndarray:
        columns = [np.asarray(indicators[name], dtype=np.float64) for name in names]
        if not columns or any(c.ndim != 1 or len(c) != len(columns[0]) for c in columns):
            raise SchemaMismatch("the indicators are not columns of one length", remedy="give name -> numbers (n,)")
        X = np.column_stack(columns)
        if finite and not np.isfinite(X).all():
            bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
            raise NotFinite(f"an indicator of row {name_some(bad)} is NaN or infinite", ids=bad.tolist())
        return X
