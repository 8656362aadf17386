"""How are several aims weighed against each other? A weighted sum of set functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.select.greedy import Found, SetFunction
from datumwise.select.set_selector import _SetSelector

__all__ = ["Mixture", "MixtureFunction"]


class Mixture(_SetSelector):
    """Keep what is best for a weighted sum of the objectives of several selectors.

    f(S) = sum_m w_m f_m(S), w >= 0: submodular if all parts are, monotone if all parts are.

    Parameters
    ----------
    n_to_select : int or float
    parts : sequence of selectors
        Those that maximise a set function: `FacilityLocation`, `GraphCut`, `FeatureBased`, `LogDet`, ... Their own
        n_to_select, optimizer, costs and random_state are not used. All read the same X.
    part_weights : sequence of float, optional
        w, one a part, not negative; None: 1.
    optimizer : str or callable, optional
        None: "lazy", or "naive" if a part is not submodular.
    max_cost, random_state, progress
        As in `FacilityLocation`.

    Examples
    --------
    Facility location takes two that stand for two crowds; some disparity takes the one that is far from both:

    >>> import numpy as np
    >>> from datumwise.select.disparity import Disparity
    >>> from datumwise.select.facility_location import FacilityLocation
    >>> angle = np.radians([0, 10, 20, 60, 70, 80, 160])
    >>> X = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> FacilityLocation(2).fit(X).ranking_.tolist()
    [2, 5]
    >>> Mixture(2, [FacilityLocation(1), Disparity(1)], [1.0, 2.0]).fit(X).ranking_.tolist()
    [2, 6]

    References
    ----------
    Lin and Bilmes, 2012, *Learning Mixtures of Submodular Shells*.
    """

    takes: ClassVar[tuple[str, ...]] = ("X", "cost?")
    source: ClassVar[str] = "Lin and Bilmes, 2012"

    def __init__(
        self,
        n_to_select: int | float,
        parts: Sequence[_SetSelector] = (),
        part_weights: Sequence[float] | None = None,
        *,
        optimizer: str | Callable[..., Found] | None = None,
        max_cost: float | None = None,
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.parts = parts
        self.part_weights = part_weights
        self.optimizer = optimizer
        self.max_cost = max_cost
        self.random_state = random_state
        self.progress = progress

    def _checked(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if not self.parts:
            raise DatumwiseError("Mixture has no parts", remedy="parts=[FacilityLocation(1), Disparity(1)]")
        for part in self.parts:
            if not isinstance(part, _SetSelector) or part.takes[0] != "X":
                raise SchemaMismatch(
                    f"{type(part).__name__} cannot be part of a mixture",
                    remedy="parts maximise a set function of X, as FacilityLocation does",
                )
        if inputs.get("X") is None:
            return super()._checked(inputs)
        read = [part._checked({"X": inputs["X"]})["X"] for part in self.parts]  # each part refuses what it must
        if len({type(one) for one in read}) > 1:
            raise SchemaMismatch("some parts want a precomputed similarity and some X", remedy="give all parts the same")
        X = read[0]
        if isinstance(X, np.ndarray):
            return super()._checked(inputs)
        rest = super()._checked({**inputs, "X": np.zeros((len(X), 1), np.float32)})
        return {**rest, "X": X}

    def _function(self, **inputs: Any) -> SetFunction:
        return MixtureFunction([part._function(X=inputs["X"]) for part in self.parts], self.part_weights)


class MixtureFunction(SetFunction):
    """f(S) = sum_m w_m f_m(S).

    Parameters
    ----------
    parts : sequence of SetFunction
        Of the same rows.
    part_weights : sequence of float, optional
        Not negative, not all 0; None: 1.
    """

    def __init__(self, parts: Sequence[SetFunction], part_weights: Sequence[float] | None = None) -> None:
        weights = np.ones(len(parts)) if part_weights is None else np.asarray(part_weights, dtype=np.float64)
        if weights.shape != (len(parts),):
            raise SchemaMismatch(f"there are {weights.size:,} part_weights for {len(parts):,} parts")
        if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
            raise DatumwiseError(f"part_weights are {weights.tolist()}", remedy="0 or above, and one above 0")
        if len({part.n for part in parts}) != 1:
            raise SchemaMismatch(f"the parts are of {', '.join(f'{part.n:,}' for part in parts)} datapoints")
        self.parts = parts
        self.weights = weights
        self.n = parts[0].n
        self.submodular = all(part.submodular for part in parts)
        self.monotone = all(part.monotone for part in parts)

    def empty(self) -> Self:
        return type(self)([part.empty() for part in self.parts], self.weights.tolist())

    def track(self) -> bool:
        tracked = [part.track() for part in self.parts]  # each of them, also after one that does not
        return all(tracked)

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        found = np.zeros(len(candidates))
        for part, weight in zip(self.parts, self.weights, strict=True):
            found += weight * part.gains(candidates)
        return found

    def add(self, j: int) -> None:
        for part in self.parts:
            part.add(j)
