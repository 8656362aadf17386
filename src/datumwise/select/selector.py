"""What every selector has in common: what it takes, how many it may keep, and how it says what it chose."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator

from datumwise.errors import DatumwiseError, DuplicateId, EmptyData, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.probe.neighbours import finite_matrix

__all__ = ["INPUTS", "Selector", "budget", "catalogue", "find"]

INPUTS = {  # what a selector may take, a row (or item) a datapoint; `target*` is of another set
    "X": "embeddings, float (n, d)",
    "gradients": "projected gradients, float (n, p)",
    "scores": "one number a datapoint, float (n,)",
    "y": "labels, (n,)",
    "texts": "n strings",
    "tags": "n collections of tags",
    "cost": "cost of keeping a datapoint, float (n,) above 0",
    "target": "embeddings or gradients of the target set, float (m, d)",
    "target_y": "labels of the target set, (m,)",
    "target_texts": "strings of the target set",
    "strong": "embeddings of the same datapoints, changed strongly, float (n, d)",
    "necessity": "reward of the model's own answers, float (n,)",
}
MATRICES = ("X", "gradients", "target")
COLUMNS = ("scores", "cost")


class Selector(BaseEstimator):
    """Base of all selectors: ``fit`` chooses, and says in which order and what each pick added.

    A selector is a scikit-learn estimator whose options are arguments of ``__init__``. It implements
    ``_choose(n, k, **inputs)``; ``fit`` checks the inputs and sets the attributes.

    Attributes
    ----------
    takes : tuple of str
        Of the class: its inputs by name, of `INPUTS`; ``fit`` takes the first by position. A name that ends in
        ``?`` may be left out.
    source : str
        Of the class: paper, with equation or section.
    ranking_ : int64 (k,)
        Rows chosen, in the order chosen; ties go to the lowest row.
    gains_ : float64 (k,)
        What each pick added to the selector's objective.
    ids_ : array (k,)
        Ids of the rows chosen: row numbers if ``fit`` was given no ids.
    weights_ : float64 (k,)
        Weight of each pick, of selectors that weigh.
    n_seen_ : int
        Datapoints there were to choose from.
    """

    takes: ClassVar[tuple[str, ...]] = ("X",)
    source: ClassVar[str] = ""

    n_to_select: int | float
    ranking_: np.ndarray
    gains_: np.ndarray
    ids_: np.ndarray
    n_seen_: int

    def fit(self, first: Any, /, *, ids: Sequence[Any] | None = None, **given: Any) -> Self:
        """Choose.

        Parameters
        ----------
        first : array or sequence of n
            The first input in ``takes``.
        ids : sequence of n, optional
            Names of the datapoints, all different.
        **given
            The other inputs in ``takes``.

        Raises
        ------
        DatumwiseError
            NaN (the rows are named), inputs of different lengths, more to choose than there are, ids that repeat.
        """
        inputs = self._checked({self.takes[0].rstrip("?"): first} | given)
        n = len(inputs[self.takes[0].rstrip("?")])
        names = np.arange(n) if ids is None else _different(ids, n)
        k = budget(self.n_to_select, n)
        ranking, gains = self._choose(n, k, **inputs)
        self.ranking_ = np.asarray(ranking, dtype=np.int64)
        self.gains_ = np.asarray(gains, dtype=np.float64)
        self.ids_ = names[self.ranking_]
        self.n_seen_ = n
        return self

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Rows in the order chosen and their gains: at most k of n. May set further attributes (``weights_``)."""
        raise NotImplementedError

    @property
    def mask_(self) -> np.ndarray:
        """bool (n,): whether each datapoint was chosen."""
        mask = np.zeros(self.n_seen_, dtype=bool)
        mask[self.ranking_] = True
        return mask

    def _checked(self, given: dict[str, Any]) -> dict[str, Any]:
        name = type(self).__name__
        wanted = {one.rstrip("?"): one.endswith("?") for one in self.takes}
        for one in given:
            if one not in wanted:
                raise UnknownName(f"{name} takes no {one}=", remedy=f"it takes {', '.join(wanted)}")
        missing = [one for one, optional in wanted.items() if not optional and given.get(one) is None]
        if missing:
            raise DatumwiseError(f"{name} needs {missing[0]}: {INPUTS[missing[0]]}", remedy=f"fit(..., {missing[0]}=...)")
        checked = {one: _input(one, value) for one, value in given.items() if value is not None}
        first = next(iter(wanted))
        for one, value in checked.items():
            if not one.startswith("target") and len(value) != len(checked[first]):
                raise SchemaMismatch(f"{one} has {len(value):,} rows and {first} has {len(checked[first]):,}")
        return checked


def budget(n_to_select: int | float, n: int) -> int:
    """How many of n: a whole number as it is, a share in (0, 1) rounded, at least 1.

    Raises
    ------
    DatumwiseError
        Below 1, or more than there are.

    Examples
    --------
    >>> budget(3, 10), budget(0.25, 10), budget(0.01, 10)
    (3, 2, 1)
    """
    whole = isinstance(n_to_select, (int, np.integer)) and not isinstance(n_to_select, bool)
    share = isinstance(n_to_select, (float, np.floating)) and 0 < n_to_select < 1
    if share:
        return max(1, round(float(n_to_select) * n))
    if not whole and not (isinstance(n_to_select, (float, np.floating)) and float(n_to_select).is_integer()):
        raise DatumwiseError(f"n_to_select is {n_to_select!r}", remedy="give a whole number, or a share between 0 and 1")
    if not 1 <= n_to_select <= n:
        raise DatumwiseError(f"{int(n_to_select):,} datapoints were asked of {n:,}", remedy=f"n_to_select from 1 to {n:,}")
    return int(n_to_select)


def catalogue() -> dict[str, type[Selector]]:
    """Every selector by its name in the field's spelling (``facility_location``), in alphabetical order."""
    import datumwise.select as room

    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{module.name}")
    found: dict[str, type[Selector]] = {}
    waiting = [Selector]
    while waiting:
        for one in waiting.pop().__subclasses__():
            waiting.append(one)
            if not one.__name__.startswith("_") and one.__module__.startswith(room.__name__):
                found[snake_case(one.__name__)] = one
    return dict(sorted(found.items()))


def find(name: str) -> type[Selector]:
    """The selector of this name, ``facility_location`` or ``FacilityLocation``.

    Raises
    ------
    UnknownName
        There is none; the remedy names the most similar.
    """
    import difflib

    known = catalogue()
    wanted = name if name in known else snake_case(name)
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        raise UnknownName(
            f"there is no selector {name!r}",
            remedy=f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}",
        )
    return known[wanted]


def snake_case(name: str) -> str:
    """The name of a class as a command line spells it.

    Examples
    --------
    >>> snake_case("FacilityLocation"), snake_case("KCenterGreedy"), snake_case("DSIR"), snake_case("D2Pruning")
    ('facility_location', 'k_center_greedy', 'dsir', 'd2_pruning')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _input(name: str, value: Any) -> Any:
    if name in MATRICES:
        return finite_matrix(value, name)
    if name in COLUMNS:
        column = np.asarray(value, dtype=np.float64)
        if column.ndim != 1:
            raise SchemaMismatch(f"{name} must be one number a datapoint; the shape is {column.shape}")
        bad = np.flatnonzero(~np.isfinite(column))
        if len(bad):
            raise NotFinite(
                f"{name} has NaN or infinity in row {name_some(bad)}", remedy="drop or fill these rows", ids=bad.tolist()
            )
        if name == "cost" and (column <= 0).any():
            low = np.flatnonzero(column <= 0)
            raise DatumwiseError(f"cost is not above 0 in row {name_some(low)}", ids=low.tolist())
        return _not_empty(column, name)
    if name == "y":
        return _not_empty(np.asarray(value), name)
    items = list(value)
    if isinstance(value, str) or (name.endswith("texts") and not all(isinstance(item, str) for item in items)):
        raise SchemaMismatch(f"{name} must be a list of strings")
    return _not_empty(items, name)


def _not_empty(values: Any, name: str) -> Any:
    if not len(values):
        raise EmptyData(f"{name} is empty")
    return values


def _different(ids: Sequence[Any], n: int) -> np.ndarray:
    names = np.asarray(ids)
    if len(names) != n:
        raise SchemaMismatch(f"there are {len(names):,} ids for {n:,} datapoints")
    kept, counts = np.unique(names, return_counts=True)
    if len(kept) < n:
        twice = kept[counts > 1]
        raise DuplicateId(f"id {name_some(twice)} comes more than once", ids=twice.tolist())
    return names
