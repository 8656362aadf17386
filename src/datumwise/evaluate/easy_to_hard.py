"""Are easy labels as good as hard ones? Train on each level of hardness, test on all, and say what part of the gain is kept.

Hase et al., 2024. Train and test sets share nothing; Easy, Hard and Unsupervised are measured on the same hard items.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from sklearn.base import clone

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.evaluate.accuracy_interval import accuracy_interval
from datumwise.evaluate.exact_match import exact_match
from datumwise.evaluate.removal import Interval
from datumwise.evaluate.supervision_gap import SupervisionGap, supervision_gap_recovered
from datumwise.probe.hardness_split import LEVELS, split_by_hardness
from datumwise.probe.multiple_choice import MultipleChoice, noisy_labels
from datumwise.probe.multiple_choice_probe import MultipleChoiceProbe
from datumwise.score.hardness import hardness as measured_hardness
from datumwise.score.scores import Scores

__all__ = ["EasyToHard", "Learner", "easy_to_hard"]

TRAIN = (*LEVELS, "easy_and_hard", "all")
UNSUPERVISED = "unsupervised"
MOST_TESTED = 500  # items of a level, as published


class Learner(Protocol):
    """What `easy_to_hard` asks of a learner of texts; `ICL` and `LoRALearner` are two."""

    def choose(self, data: MultipleChoice, train: Any, test: Any, seed: int = 0) -> np.ndarray:
        """Probabilities of the choices of ``test``, float (len(test), m), learnt from ``train``."""


@dataclass(frozen=True)
class EasyToHard:
    """What was measured.

    Attributes
    ----------
    accuracy : dict of train level to dict of test level to Interval
        Train level "unsupervised" is without labels; "easy_and_hard" and "all" are mixtures.
    gap : SupervisionGap
        Supervision gap recovered by easy labels, on hard items.
    gaps : dict of train level to SupervisionGap
        The same by every other level: how it falls as training and test move apart.
    per_item : dict of train level to float (n, seeds)
        Right or wrong on each hard test item.
    test_ids : list of n
        Ids of the hard test items, the rows of ``per_item``.
    curves : dict of train level to dict of n to float (seeds,)
        Accuracy on the hard items after n labels.
    n_train, n_test : int
        Labels a level; hard test items.
    noise : dict of train level to float
        Share of labels that were replaced.
    hardness : dict of level to (float, float)
        Smallest and largest hardness of the level's training pool.
    learner : str
    """

    accuracy: dict[str, dict[str, Interval]]
    gap: SupervisionGap
    gaps: dict[str, SupervisionGap]
    per_item: dict[str, np.ndarray] = field(repr=False)
    test_ids: list[Any] = field(repr=False)
    curves: dict[str, dict[int, np.ndarray]] = field(repr=False)
    n_train: int
    n_test: int
    noise: dict[str, float]
    hardness: dict[str, tuple[float, float]]
    learner: str

    def __str__(self) -> str:
        tests = [level for level in LEVELS if any(level in row for row in self.accuracy.values())]
        width = 24
        lines = [f"{self.learner}: {self.n_train:,} labels a level, accuracy on", ""]
        lines.append(f"{'trained on':<16}" + "".join(f"{level:>{width}}" for level in tests))
        for level, row in self.accuracy.items():
            cells = [f"{row[t].value:.3f} [{row[t].low:.3f}, {row[t].high:.3f}]" if t in row else "-" for t in tests]
            lines.append(f"{level.replace('_', ' '):<16}" + "".join(f"{cell:>{width}}" for cell in cells))
        return "\n".join([*lines, "", str(self.gap)])

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        return {
            "learner": self.learner,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "noise": self.noise,
            "hardness": {level: list(ends) for level, ends in self.hardness.items()},
            "accuracy": {a: {b: asdict(i) for b, i in row.items()} for a, row in self.accuracy.items()},
            "gap": _plain(self.gap.as_dict()),
            "gaps": {level: _plain(gap.as_dict()) for level, gap in self.gaps.items()},
            "curves": {a: {str(n): v.tolist() for n, v in row.items()} for a, row in self.curves.items()},
            "test_ids": [str(i) for i in self.test_ids],
            "per_item": {level: matrix.tolist() for level, matrix in self.per_item.items()},
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """One JSON document, also written to ``path``."""
        text = json.dumps(self.as_dict(), ensure_ascii=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text


def easy_to_hard(
    data: MultipleChoice | tuple[Any, Any],
    learner: Any,
    hardness: Any,
    levels: Sequence[str] = LEVELS,
    n_train: int = 160,
    seeds: int = 5,
    *,
    unsupervised: Any = None,
    easy: float = 0.3,
    hard: float = 0.7,
    cutoffs: tuple[float, float] | None = None,
    n_test: int | None = None,
    strata: Any = None,
    groups: Any = None,
    noise: Mapping[str, float] | None = None,
    curve: Sequence[int] = (),
    method: Literal["two-way", "grid"] = "two-way",
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> EasyToHard:
    """Train on easy, medium and hard datapoints, as many of each, and compare on tests of every level.

    Parameters
    ----------
    data : MultipleChoice, or (X, y) with float (n, d) and labels (n,)
    learner : ICL, LoRALearner, MultipleChoiceProbe, or scikit-learn classifier
        Anything with ``choose`` (see `Learner`) for texts; the probe reads ``data.features``; a classifier is for (X, y).
        One with ``random_state`` gets another each seed.
    hardness : float (n,), Scores with one column, or the name of a measure of `datumwise.score.hardness.hardness`
        Best not by the learner itself: that is circular.
    levels : sequence of str
        To train on, of "easy", "medium", "hard", "easy_and_hard" and "all"; easy and hard are always among them.
    n_train : int, default 160
        Labels of each level; every seed draws its own out of the level's pool.
    seeds : int, default 5
    unsupervised : optional
        What happens without labels: a learner with ``choose`` (called with no training rows), or float (n,) or
        (n, columns) right or wrong of every datapoint. Default: the learner's own zero-shot answers, where it has them,
        else chance: one over the number of choices (or classes).
    easy, hard, cutoffs, strata, groups
        See `datumwise.probe.hardness_split.split_by_hardness`.
    n_test : int, optional
        Test items a level; default a quarter of the smaller level, at most 500.
    noise : mapping of level to float, optional
        Share of each level's labels that is replaced by a draw among all choices: {"hard": 0.2}.
    curve : sequence of int
        Numbers of labels at which easy and hard training are measured too, on hard items.
    method : {"two-way", "grid"}
        Of the intervals.
    random_state : int
        Of the split; a seed s trains with random_state + s.
    progress : callable (runs done, runs in all), optional

    Returns
    -------
    EasyToHard

    Raises
    ------
    DatumwiseError
        What `split_by_hardness` and the learner refuse; NaN hardness, listed by id.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_digits(return_X_y=True)
    >>> grain = np.random.default_rng(0).integers(0, 9, len(X))              # how noisy each picture is
    >>> noisy = X + np.random.default_rng(1).normal(size=X.shape) * grain[:, None]
    >>> found = easy_to_hard((noisy / 16, y), LogisticRegression(), grain, seeds=3)
    >>> found.gap.defined, bool(found.gap.low > 1)                           # clean pictures teach more, for noisy ones too
    (True, True)
    """
    unknown = [level for level in levels if level not in TRAIN]
    if unknown:
        raise UnknownName(f"there is no level {unknown[0]!r}", remedy=f"choose of {', '.join(TRAIN)}")
    if seeds < 1:
        raise DatumwiseError(f"seeds must be at least 1; got {seeds}")
    task = _task(data)
    h = _hardness_of(hardness, data, task.ids)
    split = split_by_hardness(
        h, easy, hard, cutoffs=cutoffs, n_test=_capped(n_test, h, easy, hard, cutoffs, strata), strata=strata, groups=groups,
        equalise=False, random_state=random_state,
    )  # fmt: skip
    trained = [level for level in TRAIN if level in levels or level in ("easy", "hard")]
    tests = [level for level in LEVELS if len(split[f"test_{level}"])]
    tested = np.concatenate([split[f"test_{level}"] for level in tests])
    place = np.cumsum([0, *(len(split[f"test_{level}"]) for level in tests)])
    pools = {level: _pool(split, level) for level in trained}
    _enough(split, trained, max([n_train, *curve]))
    rates = {level: float((noise or {}).get(level, 0.0)) for level in trained}

    jobs = [(level, n_train, s) for level in trained for s in range(seeds)]
    jobs += [(level, n, s) for level in ("easy", "hard") for n in curve if n != n_train for s in range(seeds)]
    results: dict[tuple[str, int], list[np.ndarray]] = {}
    hard_at = tests.index("hard")
    for done, (level, n, s) in enumerate(jobs, 1):
        rng = np.random.default_rng([random_state, s, TRAIN.index(level)])
        rows = _drawn(pools[level], n, rng)
        on = tested if n == n_train else split["test_hard"]
        labels = noisy_labels(task.gold, task.n_choices, rates[level], rng)
        right = task.correct(learner, rows, labels, on, random_state + s)
        results.setdefault((level, n), []).append(right)
        if progress is not None:
            progress(done, len(jobs))
    matrices = {level: np.stack(results[level, n_train], axis=1) for level in trained}
    matrices = {UNSUPERVISED: task.without_labels(unsupervised, learner, tested), **matrices}

    def part(matrix: np.ndarray, level: int) -> np.ndarray:
        return matrix[place[level] : place[level + 1]]

    accuracy = {
        level: {test: accuracy_interval(part(m, t), method, random_state=random_state) for t, test in enumerate(tests)}
        for level, m in matrices.items()
    }
    on_hard = {level: part(m, hard_at) for level, m in matrices.items()}
    gaps = {
        level: supervision_gap_recovered(
            on_hard[level], on_hard["hard"], on_hard[UNSUPERVISED], method, random_state=random_state
        )
        for level in trained
        if level != "hard"
    }
    curves: dict[str, dict[int, np.ndarray]] = {}
    if curve:
        for level in ("easy", "hard"):
            points = {n: np.array([r.mean() for r in results[level, n]]) for n in curve if n != n_train}
            points[n_train] = on_hard[level].mean(axis=0)
            curves[level] = dict(sorted(points.items()))
    ends = {level: (float(h[r].min()), float(h[r].max())) for level in LEVELS if len(r := split[f"train_{level}"])}
    return EasyToHard(
        accuracy,
        gaps["easy"],
        gaps,
        on_hard,
        task.ids[split["test_hard"]].tolist(),
        curves,
        n_train,
        len(split["test_hard"]),
        {level: rate for level, rate in rates.items() if rate},
        ends,
        _name(learner),
    )


class _Texts:
    """Multiple choice, or answers to be written out."""

    def __init__(self, data: MultipleChoice) -> None:
        self.data = data
        self.ids, self.gold, self.n_choices = data.ids, data.gold, data.n_choices

    def correct(self, learner: Any, rows: np.ndarray, labels: np.ndarray, on: np.ndarray, seed: int) -> np.ndarray:
        data = self.data.with_gold(np.where(np.isin(np.arange(len(labels)), rows), labels, self.gold))
        if getattr(learner, "reasoning", False):
            told = learner.write(data, rows, on, seed)
            golds = [self.data.answers[i] for i in on]
            return exact_match(told, golds, learner.trigger).correct.astype(np.float64)
        if isinstance(learner, MultipleChoiceProbe):
            if data.features is None:
                raise SchemaMismatch("the probe needs a vector a choice", remedy="data.with_features(choice_features(...))")
            H, present = np.asarray(data.features), data.present
            probe = clone(learner).set_params(random_state=seed).fit(H[rows], data.gold[rows], present[rows])
            probs = probe.predict_proba(H[on], present[on])
        elif hasattr(learner, "choose"):
            probs = np.asarray(learner.choose(data, rows, on, seed))
        else:
            raise SchemaMismatch(
                f"{_name(learner)} cannot learn from questions", remedy="use ICL, LoRALearner or MultipleChoiceProbe, or (X, y)"
            )
        empty = np.flatnonzero(np.isnan(probs).all(axis=1))
        if len(empty):
            named = self.ids[on][empty].tolist()
            raise NotFinite(f"every probability of {name_some(named)} is NaN", ids=named)
        return (np.nanargmax(probs, axis=1) == self.gold[on]).astype(np.float64)

    def without_labels(self, given: Any, learner: Any, on: np.ndarray) -> np.ndarray:
        if given is None and hasattr(learner, "unsupervised"):
            given = learner.unsupervised(self.data, on)
        if hasattr(given, "choose") and not isinstance(given, np.ndarray):  # arrays have a choose of another meaning
            return self.correct(given, np.zeros(0, dtype=np.int64), self.gold, on, 0)[:, None]
        return _without_labels(given, self.n_choices, on)


class _Table:
    """Features and classes."""

    def __init__(self, X: Any, y: Any) -> None:
        self.X, y = np.asarray(X), np.asarray(y)
        if y.ndim != 1 or len(y) != len(self.X):
            raise SchemaMismatch(f"X has {len(self.X):,} rows and y the shape {y.shape}")
        self.classes, self.gold = np.unique(y, return_inverse=True)
        self.ids = np.arange(len(y))
        self.n_choices = np.full(len(y), len(self.classes))

    def correct(self, learner: Any, rows: np.ndarray, labels: np.ndarray, on: np.ndarray, seed: int) -> np.ndarray:
        if not hasattr(learner, "fit"):
            raise SchemaMismatch(f"{_name(learner)} cannot learn from (X, y)", remedy="use a scikit-learn classifier")
        model = clone(learner)
        own = {name: seed for name in model.get_params() if name.split("__")[-1] == "random_state"}
        model.set_params(**own).fit(self.X[rows], labels[rows])
        return (model.predict(self.X[on]) == self.gold[on]).astype(np.float64)

    def without_labels(self, given: Any, learner: Any, on: np.ndarray) -> np.ndarray:
        return _without_labels(given, self.n_choices, on)


def _task(data: Any) -> Any:
    if isinstance(data, MultipleChoice):
        return _Texts(data)
    if isinstance(data, tuple) and len(data) == 2:
        return _Table(*data)
    raise SchemaMismatch(f"data must be MultipleChoice or (X, y); got {type(data).__name__}")


def _without_labels(given: Any, n_choices: np.ndarray, on: np.ndarray) -> np.ndarray:
    """float (len(on), columns): as given, or chance."""
    if given is None:
        return (1 / n_choices[on])[:, None]
    right = np.asarray(given, dtype=np.float64)
    if len(right) != len(n_choices):
        raise SchemaMismatch(f"unsupervised has {len(right):,} rows for {len(n_choices):,} datapoints")
    return right[on] if right.ndim == 2 else right[on][:, None]


def _hardness_of(hardness: Any, data: Any, ids: np.ndarray) -> np.ndarray:
    if isinstance(hardness, str):
        if not isinstance(data, MultipleChoice):
            raise SchemaMismatch("a measure by name is of questions", remedy="pass the values for (X, y)")
        hardness = measured_hardness(data, hardness)
    if isinstance(hardness, Scores):
        if len(hardness) != 1:
            raise SchemaMismatch(f"hardness must be one score; got {', '.join(hardness)}")
        hardness = next(iter(hardness.values()))
    h = np.asarray(hardness, dtype=np.float64)
    if h.shape != ids.shape:
        raise SchemaMismatch(f"there are {len(ids):,} datapoints and hardness of shape {h.shape}")
    bad = ids[np.isnan(h)].tolist()
    if bad:
        raise NotFinite(f"hardness is NaN for {name_some(bad)}", remedy="leave these out", ids=bad)
    return h


def _capped(
    n_test: int | None, h: np.ndarray, easy: float, hard: float, cutoffs: tuple[float, float] | None, strata: Any
) -> int | None:
    """Default test size: a quarter of the smaller level, at most 500."""
    from datumwise.probe.hardness_split import TEST_SHARE, hardness_levels

    if n_test is not None:
        return n_test
    level = hardness_levels(h, easy, hard, cutoffs=cutoffs, strata=strata)
    smaller = int(min((level == 0).sum(), (level == 2).sum()))
    return min(MOST_TESTED, max(1, int(TEST_SHARE * smaller))) if smaller else None


def _pool(split: dict[str, np.ndarray], level: str) -> list[np.ndarray]:
    """What a level's labels are drawn from, in equal parts."""
    parts = {"easy_and_hard": ("easy", "hard"), "all": LEVELS}.get(level, (level,))
    return [split[f"train_{name}"] for name in parts if len(split[f"train_{name}"])]


def _drawn(pool: list[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` rows in random order, as many of each part (one more of the first ones)."""
    sizes = [n // len(pool) + (i < n % len(pool)) for i in range(len(pool))]
    return rng.permutation(np.concatenate([rng.permutation(p)[:k] for p, k in zip(pool, sizes, strict=True)]))


def _enough(split: dict[str, np.ndarray], trained: Sequence[str], n: int) -> None:
    for level in trained:
        if level in LEVELS and len(split[f"train_{level}"]) < n:
            raise DatumwiseError(
                f"n_train = {n:,} and {len(split[f'train_{level}']):,} {level} datapoints are left after the test",
                remedy="train or test on fewer, or leave the level out",
            )


def _name(learner: Any) -> str:
    text = repr(learner)
    return text if len(text) <= 60 and "\n" not in text and " object at " not in text else type(learner).__name__


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in values.items()}
