"""What a removal request asks, and what came of it, whatever kind of model was asked to forget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.evaluate.criterion import Criterion, Datapoint

if TYPE_CHECKING:
    from datumwise.ledger import Ledger
    from datumwise.progress import Stage

__all__ = ["Removed", "Request"]


@dataclass(frozen=True)
class Request:
    """Rows of a ledger.

    Attributes
    ----------
    ledger : Ledger
    version : int
        That the rows were read from.
    ids : ndarray of str (n,)
        Of all rows.
    forget, retain, unseen : ndarray of int
        Rows to forget, to keep, and that the model never saw; no row is in two.
    stage : Stage
    seed : int
    """

    ledger: Ledger
    version: int
    ids: np.ndarray
    forget: np.ndarray
    retain: np.ndarray
    unseen: np.ndarray
    stage: Stage
    seed: int


@dataclass(frozen=True)
class Removed:
    """The model afterwards and all that was measured.

    Attributes
    ----------
    model : the model afterwards
    reference : a model that never saw the datapoints, or None
    fingerprints : dict of "before", "after", "never_saw" to str
    method : str
    options : dict
    exact : bool
    seconds : float
        Of the removal alone.
    criteria, attacks : sequence of Criterion
    datapoints : sequence of Datapoint
        Of the request, in its order.
    losses : dict of "before", "after", "never_saw" to float64 (n_forget,)
    not_tested, notes : sequence of str
    """

    model: Any
    reference: Any
    fingerprints: dict[str, str]
    method: str
    options: dict[str, Any]
    exact: bool
    seconds: float
    criteria: Sequence[Criterion]
    datapoints: Sequence[Datapoint]
    losses: dict[str, np.ndarray]
    attacks: Sequence[Criterion] = ()
    not_tested: Sequence[str] = field(default=())
    notes: Sequence[str] = field(default=())
