"""Easy, medium and hard datapoints by a measure of hardness, and train and test sets of one size that nothing leaks across.

Hase et al., 2024, section 4.1. All draws come from one generator; the global numpy state is neither read nor changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, name_some

__all__ = ["CUTOFFS", "LEVELS", "hardness_levels", "split_by_hardness"]

LEVELS = ("easy", "medium", "hard")
CUTOFFS = {  # (easy at most, hard at least) of the human measures, as published
    "grade": (5, 8),
    "difficulty": (1, 3),
    "bloom": (2, 4),
    "college": (0, 1),
    "strategyqa_steps": (2, 4),
    "gsm8k_steps": (4, 7),
}
TEST_SHARE = 0.25  # of the smaller of the easy and the hard level


def hardness_levels(
    h: Any, easy: float = 0.3, hard: float = 0.7, *, cutoffs: tuple[float, float] | None = None, strata: Any = None
) -> np.ndarray:
    """Level of each datapoint: 0 easy (h <= lo), 1 medium, 2 hard (h >= hi).

    Parameters
    ----------
    h : float (n,)
        Higher is harder.
    easy, hard : float
        Quantiles lo and hi (linear interpolation), taken inside each stratum. With ties a level can hold more than its share.
    cutoffs : (lo, hi), optional
        Fixed values instead of quantiles; see `CUTOFFS`.
    strata : (n,), optional
        Topics. With quantiles inside each, easy and hard have the same topics, and hardness is not topic in disguise.

    Returns
    -------
    int64 (n,)

    Raises
    ------
    DatumwiseError
        lo > hi; or lo = hi, so that ties would put a datapoint into both levels.
    NotFinite
        A hardness is NaN; names the rows.
    """
    h = _hardness(h)
    if cutoffs is not None:
        low, high = cutoffs
        if low > high:
            told = f"cutoffs: easy ends at {low}, above {high}, where hard begins"
            raise DatumwiseError(told, remedy="give (lo, hi), lo < hi")
        if low == high:
            raise DatumwiseError(f"cutoffs: at {low}, a datapoint would be easy and hard", remedy="give (lo, hi), lo < hi")
        return _levels(h, low, high)
    if not 0 <= easy < hard <= 1:
        raise DatumwiseError(f"quantiles must rise from 0 to 1; got easy = {easy}, hard = {hard}")
    strata = np.zeros(len(h), dtype=np.int64) if strata is None else np.asarray(strata)
    if len(strata) != len(h):
        raise SchemaMismatch(f"there are {len(h):,} values of hardness and {len(strata):,} strata")
    levels = np.empty(len(h), dtype=np.int64)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        low, high = np.quantile(h[rows], [easy, hard])
        if low == high:
            where = "" if len(rows) == len(h) else f" in stratum {stratum}"
            tied = float((h[rows] == low).mean())
            raise DatumwiseError(
                f"hardness cannot be split{where}: {tied:.0%} of the datapoints share the value {low:g}, at which easy would "
                f"end and hard begin",
                remedy="give cutoffs=(lo, hi), or a finer measure",
            )
        levels[rows] = _levels(h[rows], low, high)
    return levels


def split_by_hardness(
    h: Any,
    easy: float = 0.3,
    hard: float = 0.7,
    *,
    cutoffs: tuple[float, float] | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    min_test: int = 1,
    equalise: bool = True,
    strata: Any = None,
    groups: Any = None,
    random_state: Any = None,
) -> dict[str, np.ndarray]:
    """Train pools and test sets of each level: the test sets are drawn first, and nothing of them is trained on.

    Parameters
    ----------
    h, easy, hard, cutoffs, strata
        See `hardness_levels`.
    n_train : int, optional
        Datapoints in each train pool; default as many as the smallest level leaves.
    n_test : int, optional
        Datapoints in each test set; default a quarter of the smaller of the easy and hard levels, at least ``min_test``.
    equalise : bool, default True
        Pools of one size, so that levels are compared at one price; else each level's own whole rest.
    groups : (n,), optional
        Datapoints of one group (one document, near copies) never lie on both sides.
    random_state : int, Generator or None

    Returns
    -------
    dict of str to int64 arrays, rows in random order
        ``train_easy``, ``train_medium``, ``train_hard``, ``train_easy_and_hard`` (half of each), ``train_all`` (a third of
        each); ``test_easy``, ``test_medium``, ``test_hard``. A level without datapoints has empty arrays.

    Raises
    ------
    DatumwiseError
        A level is too small for what is asked.

    Examples
    --------
    >>> split = split_by_hardness(np.arange(100.0), random_state=0)
    >>> {name: len(rows) for name, rows in split.items() if "medium" not in name}
    {'test_easy': 7, 'test_hard': 7, 'train_easy': 23, 'train_hard': 23, 'train_easy_and_hard': 23, 'train_all': 23}
    >>> bool(split["train_easy"].max() < split["test_hard"].min())
    True
    """
    level = hardness_levels(h, easy, hard, cutoffs=cutoffs, strata=strata)
    n = len(level)
    group = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if len(group) != n:
        raise SchemaMismatch(f"there are {n:,} values of hardness and {len(group):,} groups")
    rng = np.random.default_rng(random_state)
    members = {name: rng.permutation(np.flatnonzero(level == i)) for i, name in enumerate(LEVELS)}
    for name in ("easy", "hard"):
        if not len(members[name]):
            raise EmptyData(f"no datapoint is {name}", remedy="move the cut-offs")
    smaller = min(len(members["easy"]), len(members["hard"]))
    wanted = max(int(TEST_SHARE * smaller), min_test, 1) if n_test is None else int(n_test)
    if wanted < 1:
        raise DatumwiseError(f"n_test must be at least 1; got {n_test}")

    tested = np.zeros(group.max() + 1, dtype=bool)  # groups of which something is tested
    split: dict[str, np.ndarray] = {}
    for name in ("hard", "easy", "medium"):
        rows = members[name]
        if name == "medium" and len(rows) < wanted:
            split[f"test_{name}"] = rows[:0]
            continue
        split[f"test_{name}"] = _whole_groups(rows, group, tested, wanted, name)
    pools = {name: rows[~tested[group[rows]]] for name, rows in members.items()}
    rest = min(len(pools["easy"]), len(pools["hard"]))
    size = rest if n_train is None else int(n_train)
    if size < 1 or size > rest:
        raise DatumwiseError(
            f"n_train = {size:,} and the smaller level has {rest:,} datapoints left after {wanted:,} for the test",
            remedy="train or test on fewer",
        )
    taken = {name: pool[:size] if equalise or n_train is not None else pool for name, pool in pools.items()}
    out = {f"test_{name}": split[f"test_{name}"] for name in LEVELS}
    out |= {f"train_{name}": pool for name, pool in taken.items()}
    halves = [pools["easy"][: size - size // 2], pools["hard"][: size // 2]]
    out["train_easy_and_hard"] = rng.permutation(np.concatenate(halves))
    third = size // 3 if len(pools["medium"]) >= size // 3 else 0
    of_hard = (size - third) // 2
    thirds = [pools["easy"][: size - third - of_hard], pools["medium"][:third], pools["hard"][:of_hard]]
    out["train_all"] = rng.permutation(np.concatenate(thirds))
    return out


def _whole_groups(rows: np.ndarray, group: np.ndarray, tested: np.ndarray, wanted: int, name: str) -> np.ndarray:
    """``wanted`` of ``rows``, from groups that are tested already first; marks the groups that are drawn on."""
    if len(rows) <= wanted:
        raise DatumwiseError(
            f"{wanted:,} datapoints cannot be held out for the test: there are {len(rows):,} {name} ones",
            remedy="test on fewer, or move the cut-offs",
        )
    already = tested[group[rows]]
    ordered = np.concatenate([rows[already], rows[~already]])
    chosen = ordered[:wanted]
    tested[group[chosen]] = True
    return chosen


def _levels(h: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.where(h <= low, 0, np.where(h >= high, 2, 1))


def _hardness(h: Any) -> np.ndarray:
    h = np.asarray(h)
    if h.ndim != 1 or h.dtype.kind not in "fiub":
        raise SchemaMismatch(f"hardness must be one number a datapoint; got shape {h.shape} of {h.dtype}")
    if not len(h):
        raise EmptyData("hardness is empty")
    h = h.astype(np.float64)
    bad = np.flatnonzero(np.isnan(h))
    if len(bad):
        raise NotFinite(f"hardness is NaN in row {name_some(bad)}", remedy="leave these rows out", ids=bad.tolist())
    if (h == h[0]).all():
        raise DatumwiseError(f"hardness cannot be split: all {len(h):,} datapoints have the value {h[0]:g}")
    return h
