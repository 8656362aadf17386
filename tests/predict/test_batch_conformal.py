"""Statements about a whole batch."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import LinearRegression, LogisticRegression, QuantileRegressor, Ridge

from datumwise.errors import DatumwiseError, LabelError, ModelMismatch, NotFinite, SchemaMismatch
from datumwise.predict.batch_bounds import batch_quantile_bound, batch_sum_bound
from datumwise.predict.batch_conformal import BatchConformal
from datumwise.predict.order_statistics import order_statistic_rank, rank_box_probability, rank_pmf, required_calibration_size
from datumwise.predict.outcome_bounds import outcome_band, outcome_quantile

LAWS = {
    "uniform": lambda rng, size: rng.random(size),
    "cauchy": lambda rng, size: rng.standard_cauchy(size),
    "skewed": lambda rng, size: rng.lognormal(0, 2, size),
    "tied": lambda rng, size: rng.integers(0, 4, size).astype(float),
    "constant": lambda rng, size: np.ones(size),
}


class First:
    """Predicts the first column."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(X, float)[:, 0]


class Scaled:
    """Predicts the first column, with the second as its standard deviation."""

    def predict(self, X: np.ndarray, return_std: bool = False) -> object:
        X = np.asarray(X, float)
        return (X[:, 0], X[:, 1]) if return_std else X[:, 0]


def at_least(frequency: float, level: float, repeats: int) -> bool:
    return frequency >= level - 3 * np.sqrt(level * (1 - level) / repeats)


def close(frequency: float, exact: float, repeats: int) -> bool:
    return abs(frequency - exact) < 4 * np.sqrt(exact * (1 - exact) / repeats)


# intervals


@pytest.mark.parametrize(("n", "m", "z"), [(50, 10, 9), (60, 20, 15), (95, 10, 10)])
def test_as_many_intervals_hold_as_promised_with_exactly_the_stated_probability(n: int, m: int, z: int) -> None:
    rng = np.random.default_rng(n)
    repeats = 4000
    s = np.abs(rng.standard_cauchy((repeats, n + m)))
    level, held = 0.0, 0
    for row in s:
        found = BatchConformal().calibrate_scores(row[:n]).predict_interval(m, alpha=0.1, min_covered=z)
        held += (row[n:] <= found.threshold).sum() >= z
        level = found.exact_level
    assert level == pytest.approx(rank_pmf(n, m, z)[: order_statistic_rank(n, m, z, 0.1)].sum())
    assert level >= 0.9
    assert close(held / repeats, level, repeats)


@pytest.mark.parametrize(("n", "m", "z"), [(60, 10, 9), (80, 20, 15)])
@pytest.mark.parametrize("side", ["both", "upper", "lower"])
def test_signed_intervals_hold_with_exactly_the_stated_probability_on_every_side(n: int, m: int, z: int, side: str) -> None:
    rng = np.random.default_rng(m)
    repeats = 3000
    x = rng.normal(size=(repeats, n + m, 1))
    r = rng.exponential(size=(repeats, n + m)) - 3 * (rng.random((repeats, n + m)) < 0.3)
    held, level = 0, 0.0
    for rows, y in zip(x, x[:, :, 0] + r, strict=True):
        model = BatchConformal(First(), score="signed").calibrate(rows[:n], y[:n])
        found = model.predict_interval(rows[n:], alpha=0.1, min_covered=z, side=side)
        held += found.covered(y[n:]).sum() >= z
        level = found.exact_level
    assert close(held / repeats, level, repeats)


@pytest.mark.parametrize("law", list(LAWS))
def test_promise_holds_for_skewed_heavy_tied_and_constant_scores(law: str) -> None:
    rng = np.random.default_rng(4)
    repeats, n, m = 1500, 60, 10
    s = LAWS[law](rng, (repeats, n + m))
    held = np.zeros(2)
    for row in s:
        for i, score in enumerate(("absolute", "signed")):
            found = (
                BatchConformal(First(), score=score)
                .calibrate(np.zeros((n, 1)), row[:n])
                .predict_interval(np.zeros((m, 1)), 0.1)
            )
            held[i] += found.covered(row[n:]).sum() >= 9
    assert at_least(held[0] / repeats, 0.9, repeats)
    assert at_least(held[1] / repeats, 0.9, repeats)


def test_interval_of_one_point_is_split_conformal() -> None:
    rng = np.random.default_rng(0)
    s = np.sort(rng.random(99))
    found = BatchConformal().calibrate_scores(s).predict_interval(1, alpha=0.1, delta=0)
    assert found.rank == 90
    assert found.threshold == s[89]


def test_interval_of_every_score_is_the_set_of_outcomes_below_the_threshold() -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=260), rng.random(260) + 0.5])
    y = X[:, 0] + X[:, 1] * rng.normal(size=260)
    for score, model in (("absolute", First()), ("normalized", Scaled())):
        conformal = BatchConformal(model, score=score).calibrate(X[:200], y[:200])
        found = conformal.predict_interval(X[200:], alpha=0.1)
        k = order_statistic_rank(200, 60, 54, 0.1)
        half = np.sort(conformal.scores_)[k - 1] * (X[200:, 1] if score == "normalized" else 1.0)
        assert np.allclose(np.asarray(found), np.column_stack([X[200:, 0] - half, X[200:, 0] + half]))
        assert np.array_equal(found.prediction, X[200:, 0])
        assert found.min_covered == 54
        assert found[:, 1].shape == (60,)
        assert len(found) == 60
        assert found.shape == (60, 2)
        assert np.allclose(found.width, 2 * half)


def test_quantile_models_a_gaussian_process_and_a_callable_score_work() -> None:
    rng = np.random.default_rng(0)
    X = rng.random((330, 1))
    y = X[:, 0] + X[:, 0] * rng.normal(size=330)
    low, high = (QuantileRegressor(quantile=q, alpha=0).fit(X[:100], y[:100]) for q in (0.1, 0.9))
    process = GaussianProcessRegressor(RBF() + WhiteKernel(), random_state=0).fit(X[:100], y[:100])

    def ratio(model: object, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.abs(y - model.predict(X)) / X[:, 0]

    def inverse(model: object, X: np.ndarray, t: float) -> np.ndarray:
        return model.predict(X)[:, None] + t * X[:, [0]] * [-1, 1]

    line = LinearRegression().fit(X[:100], y[:100])
    for model in (
        BatchConformal((low, high), score="cqr"),
        BatchConformal(process, score="normalized"),
        BatchConformal(line, score=ratio, invert=inverse),
    ):
        found = model.calibrate(X[100:300], y[100:300]).predict_interval(X[300:], alpha=0.05, delta=0.2)
        assert found.covered(y[300:]).sum() >= 24
        assert np.isfinite(np.asarray(found)).all()
    assert np.allclose(found.width, 2 * found.threshold * X[300:, 0])
    with pytest.raises(DatumwiseError, match="needs invert="):
        BatchConformal(line, score=ratio).calibrate(X[100:300], y[100:300]).predict_interval(X[300:])
    with pytest.raises(SchemaMismatch, match="low and high ends"):
        BatchConformal(line, score=ratio, invert=lambda *_: np.zeros(30)).calibrate(X[100:300], y[100:300]).predict_interval(
            X[300:]
        )
    nan = BatchConformal(line, score=ratio, invert=lambda *_: np.full((30, 2), np.nan)).calibrate(X[100:300], y[100:300])
    with pytest.raises(NotFinite, match="invert gave NaN in row 0, 1, 2 and 27 more"):
        nan.predict_interval(X[300:])


def test_thresholds_of_an_interval_are_those_of_its_score() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 1)), rng.normal(size=120)
    model = BatchConformal(First(), score="signed").calibrate(x[:100], y[:100])
    S = np.concatenate([[-np.inf], np.sort(y[:100] - x[:100, 0]), [np.inf]])
    k = order_statistic_rank(100, 20, 16, 0.1)
    for side, low, high in (("both", (101 - k) // 2, (101 - k) // 2 + k), ("upper", 0, k), ("lower", 101 - k, 101)):
        found = model.predict_interval(x[100:], 0.1, min_covered=16, side=side)
        assert (found.lower_threshold, found.threshold) == (S[low], S[high])
        assert np.array_equal(found.upper, x[100:, 0] + S[high])
        bare = model.predict_interval(20, 0.1, min_covered=16, side=side)
        assert np.array_equal(np.asarray(bare), np.tile([S[low], S[high]], (20, 1)))


def test_increasing_transforms_of_scores_transform_every_order_statistic_bound() -> None:
    s = np.random.default_rng(0).normal(size=150)
    plain = BatchConformal(score="signed").calibrate_scores(s)
    cubed = BatchConformal(score="signed").calibrate_scores(s**3)
    for ask in (
        lambda b: np.asarray(b.predict_interval(10, 0.1)),
        lambda b: np.asarray(b.predict_band(10, 0.1)),
        lambda b: b.predict_batch(10, "median", 0.1).upper,
    ):
        assert np.array_equal(ask(cubed), ask(plain) ** 3)


def test_frames_give_their_index_as_ids_and_the_same_intervals_as_arrays() -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=150), "b": rng.normal(size=150)}, index=[f"row{i}" for i in range(150)])
    y = X["a"] + rng.normal(size=150)
    model = Ridge().fit(X[:50], y[:50])
    found = BatchConformal(model).calibrate(X[50:140], y[50:140]).predict_interval(X[140:], delta=0.2)
    assert found.ids.tolist() == [f"row{i}" for i in range(140, 150)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn misses the names
        plain = BatchConformal(model).calibrate(X[50:140].to_numpy(), y[50:140].to_numpy())
        same = plain.predict_interval(X[140:].to_numpy(), delta=0.2, ids=range(10, 20))
    assert np.array_equal(np.asarray(found), np.asarray(same))
    assert same.ids.tolist() == list(range(10, 20))
    assert plain.predict_interval(X[140:].to_numpy(), delta=0.2).ids.tolist() == list(range(10))


def test_intervals_do_not_depend_on_the_order_of_points() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 1))
    y = rng.normal(size=120)
    p, q = rng.permutation(100), rng.permutation(20)
    one = np.asarray(BatchConformal(First()).calibrate(x[:100], y[:100]).predict_interval(x[100:]))
    other = np.asarray(BatchConformal(First()).calibrate(x[:100][p], y[:100][p]).predict_interval(x[100:][q]))
    assert np.array_equal(one[q], other)


def test_smaller_alpha_or_delta_never_narrows() -> None:
    model = BatchConformal().calibrate_scores(np.random.default_rng(0).random(400))
    levels = [model.predict_interval(20, alpha=a, delta=0.2).threshold for a in (0.3, 0.1, 0.05, 0.01)]
    shares = [model.predict_interval(20, alpha=0.1, delta=d).threshold for d in (0.5, 0.2, 0.1, 0.05, 0.0)]
    assert levels == sorted(levels)
    assert shares == sorted(shares)


def test_share_that_may_miss_is_counted_without_rounding_errors() -> None:
    model = BatchConformal().calibrate_scores(np.random.default_rng(0).random(400))
    assert model.predict_interval(10, delta=0.7).min_covered == 3  # ceil(0.3 * 10) is 4 in floats
    assert [model.predict_interval(10, delta=d / 10).min_covered for d in range(10)] == [10 - d for d in range(10)]
    assert model.predict_interval(100, delta=0.29).min_covered == 71


def test_published_level_on_diabetes_with_ridge() -> None:
    # measured beforehand: .913 and .940 of batches of 100 reach 90 % from 142 calibration points (exact .935), split .54-.58
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    rng = np.random.default_rng(0)
    held, split = [], []
    for _ in range(300):
        order = rng.permutation(442)
        train, calibration, batch = order[:200], order[200:342], order[342:]
        model = BatchConformal(Ridge(0.1).fit(X[train], y[train])).calibrate(X[calibration], y[calibration])
        found = model.predict_interval(X[batch], alpha=0.1, delta=0.1)
        held.append(found.covered(y[batch]).sum() >= 90)
        one = np.sort(model.scores_)[128]  # ceil(143 * 0.9)
        split.append((np.abs(y[batch] - found.prediction) <= one).sum() >= 90)
    assert found.exact_level == pytest.approx(0.93515, abs=1e-5)
    assert close(np.mean(held), found.exact_level, 300)
    assert np.mean(split) < 0.7


# label sets


@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
@pytest.mark.parametrize("randomize", [True, False])
def test_as_many_label_sets_hold_as_promised(score: str, randomize: bool) -> None:
    rng = np.random.default_rng(6)
    repeats, n, m = 600, 80, 20

    class Wrong:
        """Probabilities that are far too sure."""

        classes_ = np.array(["a", "b", "c", "d"])

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            p = np.exp(3 * X)
            return p / p.sum(axis=1, keepdims=True)

    held = 0
    for repeat in range(repeats):
        X = rng.normal(size=(n + m, 4))
        p = np.exp(X).cumsum(axis=1)
        y = Wrong.classes_[(p / p[:, [-1]] < rng.random((n + m, 1))).sum(axis=1)]
        model = BatchConformal(Wrong(), score=score, random_state=repeat, randomize=randomize).calibrate(X[:n], y[:n])
        found = model.predict_set(X[n:], alpha=0.1, delta=0.2)
        held += found.covered(y[n:]).sum() >= 16
        assert found.sizes.min() >= 1
    assert at_least(held / repeats, 0.9, repeats)


def test_label_sets_are_the_labels_below_the_threshold_with_names_and_ids() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = np.array(["red", "blue", "green"])[(X[:, 0] + rng.normal(size=400) > 0).astype(int) + (X[:, 1] > 0.5)]
    model = BatchConformal(LogisticRegression().fit(X[:100], y[:100]), score="lac").calibrate(X[100:350], y[100:350])
    found = model.predict_set(X[350:], alpha=0.1, delta=0.1, ids=np.arange(350, 400))
    p = model.estimator.predict_proba(X[350:])
    k = order_statistic_rank(250, 50, 45, 0.1)
    assert found.threshold == np.sort(model.scores_)[k - 1]
    assert np.array_equal(found.members, 1 - p <= found.threshold)
    assert np.array_equal(np.asarray(found), found.members)
    assert found.labels()[0] == found.classes[found.members[0]].tolist()
    assert found.ids[0] == 350
    assert len(found) == 50
    assert np.array_equal(
        found.covered(y[350:]), [truth in labels for truth, labels in zip(y[350:], found.labels(), strict=True)]
    )


def test_empty_sets_are_filled_unless_allowed() -> None:
    class Sure:
        classes_ = np.array([0, 1])

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return np.column_stack([X[:, 0], 1 - X[:, 0]])

    calibration = np.full((100, 1), 0.99)
    model = BatchConformal(Sure(), score="lac").calibrate(calibration, np.zeros(100, int))
    doubt = np.full((5, 1), 0.6)
    assert model.predict_set(doubt, allow_empty=True, delta=0.2).sizes.tolist() == [0] * 5
    assert model.predict_set(doubt, delta=0.2).labels() == [[0]] * 5


def test_randomised_sets_repeat_with_their_seed_and_draw_anew_for_the_batch() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    y = (X[:, 0] + rng.normal(size=300) > 0).astype(int)
    fitted = LogisticRegression().fit(X[:50], y[:50])
    one = BatchConformal(fitted, score="aps", random_state=1).calibrate(X[50:250], y[50:250])
    two = BatchConformal(fitted, score="aps", random_state=1).calibrate(X[50:250], y[50:250])
    assert np.array_equal(one.scores_, two.scores_)
    assert np.array_equal(one.predict_set(X[250:]).members, two.predict_set(X[250:]).members)
    # the draws of calibration are not used again for a batch: the same rows get other scores
    found = one.predict_set(X[50:250], allow_empty=True)
    assert not np.array_equal(found.covered(y[50:250]), one.scores_ <= found.threshold)


def test_sets_that_would_hold_everything_are_refused_or_come_with_a_warning() -> None:
    X = np.random.default_rng(0).normal(size=(100, 2))
    y = (X[:, 0] > 0).astype(int)
    model = BatchConformal(LogisticRegression().fit(X, y), score="lac").calibrate(X[:20], y[:20])
    with pytest.raises(DatumwiseError, match="need n >= 90; got n = 20"):
        model.predict_set(X[:10], delta=0)
    with pytest.warns(UserWarning, match="says nothing"):
        assert model.predict_set(X[:10], delta=0, allow_infinite=True).members.all()


# numbers of the batch


def test_mean_and_sum_of_outcomes_are_the_mean_of_predictions_plus_the_bound_of_residuals() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(310, 1)) * 5
    y = x[:, 0] + rng.normal(size=310)
    model = BatchConformal(First(), score="signed").calibrate(x[:300], y[:300])
    for statistic, scale in (("mean", 1.0), ("sum", 10.0)):
        of_scores = batch_sum_bound(y[:300] - x[:300, 0], 10, 0.1, statistic=statistic)
        found = model.predict_batch(x[300:], statistic, 0.1)
        centre = x[300:, 0].mean() * scale
        assert (found.lower, found.upper) == pytest.approx((of_scores.lower + centre, of_scores.upper + centre))
        assert found.of == "outcome"
        assert model.predict_batch(x[300:], statistic, 0.1, about="score").upper == of_scores.upper
        assert model.predict_batch(10, statistic, 0.1).upper == of_scores.upper
    absolute = BatchConformal(First()).calibrate(x[:300], y[:300]).predict_batch(x[300:], "mean", 0.1, side="upper")
    assert absolute.of == "score"
    assert absolute.lower == 0.0
    assert absolute.statistic == "mean"


@pytest.mark.parametrize("law", ["uniform", "cauchy", "skewed", "tied"])
@pytest.mark.parametrize("method", ["partition", "rank_sum", "shaped"])
def test_bounds_of_the_mean_outcome_hold(law: str, method: str) -> None:
    rng = np.random.default_rng(8)
    repeats, n, m = 500, 60, 3
    mu = rng.normal(size=(repeats, n + m, 1))
    r = LAWS[law](rng, (repeats, n + m))
    reference = LAWS[law](rng, 500) if method == "shaped" else None
    held = 0
    for x, residual in zip(mu, r, strict=True):
        y = x[:, 0] + residual
        model = BatchConformal(First(), score="signed").calibrate(x[:n], y[:n])
        found = model.predict_batch(x[n:], "mean", 0.1, method=method, reference_scores=reference)
        held += found.lower <= y[n:].mean() <= found.upper
    assert at_least(held / repeats, 0.9, repeats)


@pytest.mark.parametrize("statistic", ["median", ("quantile", 0.9), ("quantile", 0.25)])
@pytest.mark.parametrize("min_covered", [None, 13])
@pytest.mark.parametrize("law", ["uniform", "cauchy", "tied"])
def test_bounds_of_a_quantile_of_outcomes_hold(statistic: object, min_covered: int | None, law: str) -> None:
    rng = np.random.default_rng(9)
    repeats, n, m = 500, 200, 15
    z = {"median": 8, ("quantile", 0.9): 14, ("quantile", 0.25): 4}[statistic]
    least = None if min_covered is None else (max(min_covered, 16 - z), max(min_covered, z))
    mu = rng.normal(size=(repeats, n + m, 1)) * rng.choice([0.0, 0.3, 3.0], size=(repeats, 1, 1))
    held = 0
    for x, residual in zip(mu, LAWS[law](rng, (repeats, n + m)), strict=True):
        y = x[:, 0] + residual
        model = BatchConformal(First(), score="signed").calibrate(x[:n], y[:n])
        found = model.predict_batch(x[n:], statistic, 0.1, min_covered=least)
        held += found.lower <= np.sort(y[n:])[z - 1] <= found.upper
    assert at_least(held / repeats, 0.9, repeats)


def test_bound_of_an_outcome_quantile_is_an_order_statistic_of_the_points_own_bounds() -> None:
    rng = np.random.default_rng(0)
    r, mu = rng.normal(size=300), rng.normal(size=12)
    S = np.sort(r)
    for z in (2, 6, 9):
        for least in (9, 10, 12):
            k = order_statistic_rank(300, 12, least, 0.1)
            own = np.sort(mu + S[k - 1])  # at most 12 - least outcomes exceed theirs
            up = outcome_quantile(r, mu, z, 0.1, side="upper", min_covered=least)
            assert up.upper == own[z + 12 - least - 1]
            assert (up.lower, up.rank_budget) == (-np.inf, (None, k))
            mirror = outcome_quantile(-r, -mu, 13 - z, 0.1, side="lower", min_covered=least)
            assert mirror.lower == -up.upper
            two = outcome_quantile(r, mu, z, 0.2, min_covered=(12, least))
            assert two.upper == up.upper
            assert two.lower == outcome_quantile(r, mu, z, 0.1, side="lower", min_covered=12).lower


def test_points_that_must_keep_to_their_bounds_are_half_way_unless_n_is_too_small() -> None:
    rng = np.random.default_rng(0)
    r, mu = rng.normal(size=300), rng.normal(size=21)
    assert outcome_quantile(r, mu, 11, 0.1).upper == outcome_quantile(r, mu, 11, 0.1, min_covered=16).upper
    few = r[:10]
    most = max(z for z in range(11, 22) if order_statistic_rank(10, 21, z, 0.05) <= 10)
    assert most < 16
    assert outcome_quantile(few, mu, 11, 0.1).upper == outcome_quantile(few, mu, 11, 0.1, min_covered=(11, most)).upper
    with pytest.raises(DatumwiseError, match="need n >= "):
        outcome_quantile(few, mu, 20, 0.1)
    with pytest.warns(UserWarning, match="the bound is infinite"):
        assert outcome_quantile(few, mu, 20, 0.1, side="upper", allow_infinite=True).upper == np.inf
    assert outcome_quantile(few, mu, 20, 0.1, side="upper", score_bounds=(-9, 9)).upper == np.sort(mu)[19] + 9
    with pytest.raises(DatumwiseError, match="min_covered = 10 is too small"):
        outcome_quantile(r, mu, 11, 0.1, side="upper", min_covered=10)
    with pytest.raises(DatumwiseError, match="there is no side 'left'"):
        outcome_quantile(r, mu, 11, 0.1, side="left")  # type: ignore[arg-type]


def test_bound_of_an_outcome_quantile_is_exact_where_predictions_are_constant() -> None:
    rng = np.random.default_rng(0)
    n, m, z, repeats = 60, 15, 8, 4000
    r = rng.exponential(size=(repeats, n + m))
    T = np.sort(r[:, n:], axis=1)[:, z - 1]
    mu = np.full(m, 5.0)
    found = [outcome_quantile(row[:n], mu, z, 0.1, min_covered=z) for row in r]
    above = order_statistic_rank(n, m, z, 0.05)
    below = order_statistic_rank(n, m, z, 0.05, "lower")
    exact = rank_pmf(n, m, z)[below:above].sum()
    held = np.mean([(b.lower <= t + 5) & (t + 5 <= b.upper) for b, t in zip(found, T, strict=True)])
    assert close(held, exact, repeats)


def test_quantile_of_scores_is_the_exact_one_of_ranks() -> None:
    s = np.random.default_rng(0).random(100)
    model = BatchConformal().calibrate_scores(s)
    for statistic, z in (
        ("median", 10),
        (("quantile", 0.9), 18),
        (("quantile", 0.05), 1),
        (("quantile", 0.33), 7),
        (("quantile", 1.0), 20),
    ):
        direct = batch_quantile_bound(s, 20, z, 0.2, score_bounds=(0.0, np.inf), side="upper")
        assert model.predict_batch(20, statistic, 0.2, side="upper").upper == direct.upper
    assert model.predict_batch(20, "median").statistic == "median"


def test_statistic_that_is_given_as_a_function_holds_in_both_directions() -> None:
    rng = np.random.default_rng(0)
    s = rng.random(63)
    model = BatchConformal(score_bounds=(0, 1)).calibrate_scores(s[:60])
    up = model.predict_batch(3, lambda t, axis=-1: np.max(t, axis=axis), 0.2, direction="increasing", side="upper")
    down = model.predict_batch(3, lambda t, axis=-1: -np.max(t, axis=axis), 0.2, direction="decreasing", side="lower")
    assert up.upper == pytest.approx(-down.lower)
    held = 0
    for row in rng.random((1000, 63)):
        model = BatchConformal(score_bounds=(0, 1)).calibrate_scores(row[:60])
        found = model.predict_batch(3, lambda t, axis=-1: np.prod(1 + t, axis=axis), 0.2, direction="increasing")
        held += found.lower <= np.prod(1 + row[60:]) <= found.upper
    assert at_least(held / 1000, 0.8, 1000)
    with pytest.raises(DatumwiseError, match="needs its direction"):
        model.predict_batch(3, np.max)
    with pytest.raises(DatumwiseError):
        model.predict_batch(3, lambda t: float(np.std(t)), direction="increasing")


def test_band_of_scores_holds_with_the_probability_of_its_box() -> None:
    rng = np.random.default_rng(0)
    n, m, repeats = 150, 25, 3000
    s = rng.random((repeats, n + m))
    held = 0
    for row in s:
        band = BatchConformal(score="signed", score_bounds=(0, 1)).calibrate_scores(row[:n]).predict_band(m, 0.1)
        held += band.covered(row[n:])
    padded = np.concatenate([[0], np.sort(s[-1, :n]), [1]])
    a = np.searchsorted(padded, band.lower) + 1
    b = np.searchsorted(padded, band.upper)
    exact = rank_box_probability(n, m, a, np.minimum(b, n + 1))
    assert 0.9 <= exact < 0.92
    assert close(held / repeats, exact, repeats)


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
def test_band_of_outcomes_holds_and_is_the_best_of_its_rules(spread: float) -> None:
    rng = np.random.default_rng(1)
    n, m, repeats = 100, 12, 600
    held = 0
    for _ in range(repeats):
        x = spread * rng.normal(size=(n + m, 1))
        y = x[:, 0] + rng.exponential(size=n + m)
        model = BatchConformal(First(), score="signed").calibrate(x[:n], y[:n])
        band = model.predict_band(x[n:], 0.1)
        held += band.covered(y[n:])
    assert at_least(held / repeats, 0.9, repeats)
    scores = np.asarray(model.predict_band(x[n:], 0.1, about="score"))
    mu = np.sort(x[n:, 0])
    for z in range(1, m + 1):
        assert band.upper[z - 1] == min(mu[z + m - i - 1] + scores[i - 1, 1] for i in range(z, m + 1))
        assert band.lower[z - 1] == max(mu[z - i] + scores[i - 1, 0] for i in range(1, z + 1))
    assert (band.lower[1:] >= band.lower[:-1]).all()
    assert (band.upper[1:] >= band.upper[:-1]).all()
    if spread == 0:  # then outcomes and scores are the same
        assert np.allclose(np.asarray(band), scores + mu[0])


def test_outcome_band_bounds_every_arrangement_of_residuals() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        mu, T = rng.normal(size=6), np.sort(rng.normal(size=6))
        band = np.column_stack([np.sort(T - rng.random(6)), np.sort(T + rng.random(6))])
        found = outcome_band(band, mu)
        for _ in range(20):
            y = np.sort(mu + rng.permutation(T))
            assert (found[:, 0] <= y).all()
            assert (y <= found[:, 1]).all()


def test_shift_of_outcomes_moves_every_bound_by_as_much() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(230, 1)), rng.normal(size=230)
    plain = BatchConformal(First(), score="signed").calibrate(x[:200], y[:200])
    moved = BatchConformal(First(), score="signed").calibrate(x[:200], y[:200] + 7)
    for ask in (
        lambda b: b.predict_batch(x[225:], "mean", 0.1).upper,
        lambda b: b.predict_batch(x[200:], "median", 0.1).lower,
        lambda b: b.predict_interval(x[200:], 0.1).upper[3],
        lambda b: b.predict_band(x[200:], 0.1).lower[9],
    ):
        assert ask(moved) == pytest.approx(ask(plain) + 7)


# planning, and what is refused


def test_plan_says_what_the_methods_then_do() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1))
    model = BatchConformal(First(), score="signed").calibrate(x, x[:, 0] + rng.normal(size=300))
    for m in (5, 20, 60, 100):
        plan = model.plan(m, alpha=0.1, delta=0.1, max_false=1)
        asked = {
            "predict_interval(X, alpha, delta)": lambda m=m: model.predict_interval(m, 0.1, 0.1, side="upper"),
            "predict_interval(X, alpha, delta=0)": lambda m=m: model.predict_interval(m, 0.1, 0.0, side="upper"),
            "predict_batch(X, 'median', alpha)": lambda m=m: model.predict_batch(m, "median", 0.1),
            "predict_batch(X, 'mean', alpha)": lambda m=m: model.predict_batch(m, "mean", 0.1),
            "predict_batch(X, 'mean', alpha, side='upper')": lambda m=m: model.predict_batch(m, "mean", 0.1, side="upper"),
            "select(X, threshold, alpha, max_false)": lambda m=m: model.select(x[:m], 0.0, 0.1, 1),
        }
        for one in plan.statements:
            if one.how not in asked:
                continue
            if one.possible:
                asked[one.how]()
            else:
                with pytest.raises(DatumwiseError, match=f"need n >= {one.needed:,}"):
                    asked[one.how]()
    assert str(plan).startswith("n = 300 calibration points, a batch of 100")


@pytest.mark.parametrize(("m", "z", "alpha"), [(10, 9, 0.1), (20, 20, 0.2), (5, 3, 0.05)])
def test_needed_size_in_the_refusal_is_the_smallest_that_is_not_refused(m: int, z: int, alpha: float) -> None:
    rng = np.random.default_rng(0)
    for score in ("absolute", "signed"):
        with pytest.raises(DatumwiseError, match="need n >= ") as refusal:
            BatchConformal(score=score).calibrate_scores(rng.random(2)).predict_interval(m, alpha, min_covered=z)
        need = int(str(refusal.value).split("need n >= ")[1].split(";")[0].replace(",", ""))
        if score == "absolute":
            assert need == required_calibration_size(m, alpha, z=z)
        found = BatchConformal(score=score).calibrate_scores(rng.random(need)).predict_interval(m, alpha, min_covered=z)
        assert np.isfinite(np.asarray(found)).all()
        with pytest.raises(DatumwiseError, match=f"got n = {need - 1}"):
            BatchConformal(score=score).calibrate_scores(rng.random(need - 1)).predict_interval(m, alpha, min_covered=z)


def test_rank_beyond_the_last_score_is_never_clamped_to_it() -> None:
    with pytest.warns(UserWarning, match="the bound says nothing"):
        found = (
            BatchConformal(First())
            .calibrate(np.zeros((5, 1)), np.arange(5.0))
            .predict_interval(np.zeros((3, 1)), 0.1, allow_infinite=True)
        )
    assert np.isinf(np.asarray(found)).all()
    limited = BatchConformal(First(), score_bounds=(0, 9)).calibrate(np.zeros((5, 1)), np.arange(5.0))
    assert limited.predict_interval(np.zeros((3, 1)), 0.1).upper.tolist() == [9.0] * 3


def calibrated(score: str = "absolute") -> BatchConformal:
    rng = np.random.default_rng(0)
    return BatchConformal(First(), score=score).calibrate(np.zeros((99, 1)), np.abs(rng.normal(size=99)))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda b: b.predict_interval(5, 0.0), "alpha"),
        (lambda b: b.predict_interval(5, 1.2), "alpha"),
        (lambda b: b.predict_interval(5, "high"), "alpha"),
        (lambda b: b.predict_interval(0), "m must be >= 1"),
        (lambda b: b.predict_interval(np.zeros((0, 1))), "the batch has no datapoint"),
        (lambda b: b.predict_interval(2.5), "the rows of a batch or their number"),
        (lambda b: b.predict_interval(5, delta=1.0), "no share of a batch"),
        (lambda b: b.predict_interval(5, delta=-0.1), "no share of a batch"),
        (lambda b: b.predict_interval(10, delta=1 - 1e-12), "leaves none to hold"),
        (lambda b: b.predict_interval(5, min_covered=6), "min_covered"),
        (lambda b: b.predict_interval(5, min_covered=0), "min_covered"),
        (lambda b: b.predict_interval(5, side="left"), "there is no side 'left'"),
        (lambda b: b.predict_interval(5, side="upper"), "use score='signed'"),
        (lambda b: b.predict_set(np.zeros((5, 1))), "use predict_interval"),
        (lambda b: b.predict_interval(np.full((5, 1), np.nan)), "prediction has NaN in 5 rows: 0, 1, 2 and 2 more"),
        (lambda b: b.predict_batch(5, "mode"), "there is no statistic 'mode'"),
        (lambda b: b.predict_batch(5, ("quantile", 1.5)), "0 < p <= 1"),
        (lambda b: b.predict_batch(5, side="left"), "there is no side 'left'"),
        (lambda b: b.predict_batch(5, method="magic"), "there is no method 'magic'"),
        (lambda b: b.predict_batch(5, direction="increasing"), "direction belongs to a callable"),
        (lambda b: b.predict_batch(5, fold=np.maximum), "has no option fold"),
        (lambda b: b.predict_batch(5, about="y"), "there is no about 'y'"),
        (lambda b: b.predict_batch(5, about="outcome"), "it takes score='signed'"),
        (lambda b: b.predict_batch(5, "median", reference_scores=[1.0]), "a mean or a sum only"),
        (lambda b: b.predict_batch(50, "mean", 0.01), "need n >= 9,950"),
        (lambda b: b.predict_interval(5).covered(np.zeros(4)), "5 intervals and 4 outcomes"),
        (lambda b: b.predict_band(5).covered(np.zeros(4)), "of 5 values, not 4"),
        (lambda b: b.plan(0), "m"),
        (lambda b: b.plan(5, delta=1.0), "no share of a batch"),
    ],
)
def test_bad_questions_are_refused_in_one_sentence(call, sentence: str) -> None:
    with pytest.raises(DatumwiseError, match=sentence):
        call(calibrated())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: BatchConformal().calibrate_scores([1.0, np.nan, np.nan]), "2 of 3 scores are NaN"),
        (lambda: BatchConformal().calibrate_scores([]), "there are no (calibration )?scores"),
        (lambda: BatchConformal().calibrate_scores([[1.0]]), "one number a row"),
        (lambda: BatchConformal().calibrate_scores([1.0, -1.0]), "1 scores lie outside score_bounds"),
        (lambda: BatchConformal(score_bounds=(0, 1)).calibrate_scores([0.5, 3.0]), "outside score_bounds"),
        (lambda: BatchConformal(score_bounds=(1, 0)).calibrate_scores([0.5]), "low < high"),
        (lambda: BatchConformal(score_bounds=3).calibrate_scores([0.5]), "low < high"),
        (lambda: BatchConformal(score="huber").calibrate_scores([0.5]).predict_interval(np.zeros((1, 1))), "no score 'huber'"),
        (lambda: BatchConformal().calibrate(np.zeros((3, 1)), np.zeros(3)), "there is no estimator"),
        (lambda: BatchConformal(First()).calibrate(np.zeros((3, 1)), np.zeros(4)), "3 calibration points and y of shape"),
        (lambda: BatchConformal(First()).calibrate(np.zeros((3, 1)), [1.0, np.nan, 2.0]), "y has NaN in 1 row: 1"),
        (lambda: BatchConformal(First(), score="lac").calibrate(np.zeros((3, 1)), [0, 1, 0]), "has no predict_proba"),
        (lambda: BatchConformal(Scaled(), "normalized").calibrate(np.zeros((3, 2)), np.zeros(3)), "add a floor"),
        (
            lambda: BatchConformal(LogisticRegression().fit([[0], [1]], [0, 1])).calibrate([[0], [1]], [0, 1]),
            "this is a classifier",
        ),
    ],
)
def test_bad_calibration_is_refused_in_one_sentence(call, sentence: str) -> None:
    with pytest.raises(DatumwiseError, match=sentence):
        call()


def test_labels_that_the_model_does_not_know_are_named() -> None:
    model = LogisticRegression().fit([[0.0], [1.0]], ["a", "b"])
    conformal = BatchConformal(model, score="lac")
    with pytest.raises(LabelError, match="does not know the label of row 1"):
        conformal.calibrate([[0.0], [1.0]], ["a", "c"])
    x = np.random.default_rng(0).random((50, 1))
    conformal.calibrate(x, np.where(x[:, 0] > 0.5, "b", "a"))
    with pytest.raises(LabelError, match="does not know the label of row 0"):
        conformal.predict_set(x[:5], delta=0.2).covered(["z"] * 5)
    with pytest.raises(ModelMismatch, match="use predict_set"):
        conformal.predict_interval(x[:5])
    with pytest.raises(SchemaMismatch, match="not their number"):
        conformal.predict_set(5)


def test_rank_function_cannot_be_shaped_by_the_calibration_scores() -> None:
    s = np.random.default_rng(0).random(40)
    model = BatchConformal(score_bounds=(0, 1)).calibrate_scores(s)
    for leak in (s, s[::-1].tolist(), model.scores_, model.scores_[::2], np.concatenate([s, [0.123]])):
        with pytest.raises(DatumwiseError, match="calibration scores"):
            model.predict_batch(10, "mean", 0.1, side="upper", reference_scores=leak)
    model.predict_batch(10, "mean", 0.1, side="upper", reference_scores=np.random.default_rng(1).random(40))


def test_nothing_is_predicted_before_calibration() -> None:
    for call in (
        lambda b: b.predict_interval(5),
        lambda b: b.predict_batch(5),
        lambda b: b.predict_band(5),
        lambda b: b.select(np.zeros((5, 1)), 0.0),
        lambda b: b.plan(5),
        lambda b: b.subset([0]),
    ):
        with pytest.raises(NotFittedError, match="not calibrated"):
            call(BatchConformal(First()))


def test_parameters_are_scikit_learns_and_a_clone_is_not_calibrated() -> None:
    model = BatchConformal(Ridge(), score="signed", random_state=3).calibrate_scores([1.0, 2.0])
    copy = clone(model)
    assert copy.get_params()["score"] == "signed"
    assert not hasattr(copy, "scores_")


def test_callable_statistic_of_signed_scores_must_say_that_it_speaks_of_scores() -> None:
    model = calibrated("signed")
    with pytest.raises(DatumwiseError, match="say about='score'"):
        model.predict_batch(np.zeros((3, 1)), np.max, 0.2, direction="increasing")
    assert model.predict_batch(np.zeros((3, 1)), np.max, 0.2, direction="increasing", about="score").of == "score"


def test_statements_say_what_is_promised() -> None:
    model = calibrated("signed")
    assert (
        str(model.predict_interval(10))
        == "with probability at least 0.9, at least 9 of these 10 intervals hold the truth (n = 99)"
    )
    found = model.predict_batch(3, "mean", 0.2, side="upper")
    assert str(found).startswith("with probability at least 0.8, the mean of the 3 scores is at most")
    assert "between" in str(model.predict_batch(3, "median", 0.2))
    assert "all 4 sorted scores" in str(model.predict_band(4))
