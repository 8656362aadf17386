"""One-point conformal prediction: the rank is exact, never clamped, and both peers agree on the same scores."""

import re
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, QuantileRegressor

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, UnknownName
from datumwise.predict.order_statistics import order_statistic_rank
from datumwise.predict.split_conformal import (
    SplitConformalClassifier,
    SplitConformalRegressor,
    conformal_rank,
    conformal_threshold,
)

ALPHAS = (0.01, 0.05, 0.1, 0.2)


def line(n, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    return x, x[:, 0] - 2 * x[:, 1] + noise * rng.standard_t(3, size=n)


@pytest.fixture(scope="module")
def digits():
    """Probabilities of a mediocre classifier: calibration rows, their labels, new rows, theirs."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order][:, 16:32] / 16, y[order]
    model = LogisticRegression(max_iter=500).fit(x[:400], y[:400])
    return model, x[400:1000], y[400:1000], x[1000:], y[1000:]


# ---------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("alpha", ALPHAS)
def test_rank_is_the_case_m_1_of_the_batch_rank_for_every_n(alpha):
    for side in ("upper", "lower"):
        ours = [conformal_rank(n, alpha, side) for n in range(1, 201)]
        assert ours == [order_statistic_rank(n, 1, 1, alpha, side) for n in range(1, 201)]


@pytest.mark.parametrize(("percent", "alpha"), [(1, 0.01), (5, 0.05), (10, 0.1), (20, 0.2), (29, 0.29), (45, 0.45)])
def test_rank_equals_whole_number_arithmetic_where_floats_round_wrongly(percent, alpha):
    for n in range(0, 1000):
        assert conformal_rank(n, alpha) == -((n + 1) * (100 - percent) // -100)
        assert conformal_rank(n, alpha, "lower") == (n + 1) * percent // 100


def test_probability_of_the_rank_is_at_least_the_level_and_of_the_rank_below_it_less():
    for n in range(1, 120):
        for alpha in ALPHAS:
            k = conformal_rank(n, alpha)  # a new score has each of the n + 1 places with equal probability
            assert k / (n + 1) >= 1 - alpha - 1e-12
            assert (k - 1) / (n + 1) < 1 - alpha


def test_rank_n_plus_1_is_infinite_and_never_the_largest_score():
    with pytest.raises(
        DatumwiseError, match=re.escape("8 calibration scores give no finite bound at alpha = 0.1: need n >= 9; got n = 8")
    ):
        conformal_threshold(np.arange(8.0), 0.1)
    with pytest.warns(UserWarning, match="need n >= 9; got n = 8; the bound is infinite"):
        assert conformal_threshold(np.arange(8.0), 0.1, allow_infinite=True) == np.inf
    with pytest.warns(UserWarning, match="infinite"):
        assert conformal_threshold(np.arange(8.0), 0.1, side="lower", allow_infinite=True) == -np.inf
    assert conformal_threshold(np.arange(9.0), 0.1) == 8.0
    assert conformal_threshold(np.arange(9.0), 0.1, side="lower") == 0.0


def test_coverage_of_the_threshold_is_exact_over_permutations():
    rng = np.random.default_rng(1)
    scores = rng.random((20_000, 31))
    k = conformal_rank(30, 0.2)
    inside = (scores[:, -1] <= np.sort(scores[:, :30], axis=1)[:, k - 1]).mean()
    expected = k / 31
    assert abs(inside - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)


# ----------------------------------------------------------------------------------------------------- regression


def test_intervals_are_the_prediction_plus_and_minus_the_order_statistic():
    x, y = line(300)
    model = LinearRegression().fit(x[:100], y[:100])
    scores = np.abs(y[100:250] - model.predict(x[100:250]))
    interval = SplitConformalRegressor(model).calibrate(x[100:250], y[100:250]).predict_interval(x[250:], 0.1)
    bound = np.sort(scores)[136 - 1]  # ceil(151 * .9) = 136
    np.testing.assert_array_equal(interval, model.predict(x[250:])[:, None] + [-bound, bound])


def test_a_regressor_that_answers_with_a_column_matrix_is_understood():
    x, y = line(120)
    flat, matrix = LinearRegression().fit(x[:60], y[:60]), LinearRegression().fit(x[:60], y[:60, None])
    assert matrix.predict(x).shape == (120, 1)
    intervals = [SplitConformalRegressor(m).calibrate(x[60:100], y[60:100]).predict_interval(x[100:]) for m in (flat, matrix)]
    np.testing.assert_allclose(*intervals)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [150, 151, 199])
def test_absolute_and_signed_intervals_equal_mapie(alpha, n):
    from mapie.conformity_scores import AbsoluteConformityScore
    from mapie.regression import SplitConformalRegressor as Mapie

    x, y = line(100 + n + 40)
    model = LinearRegression().fit(x[:100], y[:100])
    cal, new = slice(100, 100 + n), slice(100 + n, None)
    for score, theirs in (("absolute", "absolute"), ("signed", AbsoluteConformityScore(sym=False))):
        if score == "signed" and n // 2 < 1 / alpha:
            continue  # MAPIE refuses
        mapie = Mapie(model, confidence_level=1 - alpha, conformity_score=theirs).conformalize(x[cal], y[cal])
        _, expected = mapie.predict_interval(x[new])
        found = SplitConformalRegressor(model, score).calibrate(x[cal], y[cal]).predict_interval(x[new], alpha)
        np.testing.assert_allclose(found, expected[:, :, 0], rtol=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [150, 151, 203])  # (n + 1) alpha is not whole, see the test on whole ones
def test_absolute_and_normalized_intervals_equal_crepes(alpha, n):
    from crepes import ConformalRegressor

    rng = np.random.default_rng(2)
    residual, sigma = rng.standard_t(3, size=n), rng.uniform(0.5, 2, size=n)
    prediction, scale = rng.normal(size=30), rng.uniform(0.5, 2, size=30)
    plain = SplitConformalRegressor().calibrate_scores(np.abs(residual))
    expected = ConformalRegressor().fit(residual).predict_int(prediction, confidence=1 - alpha)
    np.testing.assert_allclose(plain.intervals(prediction, alpha), expected, rtol=1e-12)
    scaled = SplitConformalRegressor(score="normalized").calibrate_scores(np.abs(residual) / sigma)
    expected = ConformalRegressor().fit(residual, sigmas=sigma).predict_int(prediction, sigmas=scale, confidence=1 - alpha)
    np.testing.assert_allclose(scaled.intervals(prediction, alpha, scale=scale), expected, rtol=1e-12)


def test_crepes_is_a_rank_too_wide_where_n_plus_1_times_alpha_is_whole():
    from crepes import ConformalRegressor

    scores = np.arange(1.0, 100.0)  # n = 99, (n + 1) * .1 = 10 exactly: the rank is 90
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = ConformalRegressor().fit(scores).predict_int(np.zeros(1), confidence=0.9)
        ours = SplitConformalRegressor().calibrate_scores(scores).intervals([0.0], 0.1)
    assert ours.tolist() == [[-90.0, 90.0]]
    assert theirs.tolist() == [[-91.0, 91.0]]  # int((1 - .9) * 100) is 9
    with pytest.warns(UserWarning, match="too small"):  # and n = 9 gives no bound where there is one
        assert np.isinf(ConformalRegressor().fit(scores[:9]).predict_int(np.zeros(1), confidence=0.9)).all()
    assert SplitConformalRegressor().calibrate_scores(scores[:9]).intervals([0.0], 0.1).tolist() == [[-9.0, 9.0]]


def test_mapie_is_a_rank_too_wide_where_n_plus_1_times_the_level_rounds_up():
    from mapie.regression import SplitConformalRegressor as Mapie

    class Zero(LinearRegression):
        def predict(self, X):
            return np.zeros(len(X))

    x, y = np.zeros((99, 1)), np.arange(1.0, 100.0)
    model = Zero().fit(x, y)
    _, theirs = Mapie(model, confidence_level=0.55).conformalize(x, y).predict_interval(x[:1])
    ours = SplitConformalRegressor(model).calibrate(x, y).predict_interval(x[:1], 0.45)
    assert ours[0, 1] == 55.0
    assert theirs[0, 1, 0] == 56.0  # .55 * 100 is 55.00000000000001


def test_normalized_scores_take_the_estimators_own_deviation():
    x, y = line(90, noise=0.3)
    model = GaussianProcessRegressor(alpha=0.1).fit(x[:40], y[:40])
    interval = SplitConformalRegressor(model, "normalized").calibrate(x[40:80], y[40:80]).predict_interval(x[80:], 0.1)
    mean, deviation = model.predict(x, return_std=True)
    bound = np.sort(np.abs(y - mean)[40:80] / deviation[40:80])[37 - 1]
    np.testing.assert_allclose(interval, mean[80:, None] + bound * deviation[80:, None] * [-1, 1])


def test_quantile_intervals_equal_mapies_symmetric_cqr():
    from mapie.regression import ConformalizedQuantileRegressor

    class Quantiles:
        def __init__(self, low, high):
            self.low, self.high = low, high

        def predict(self, X):
            return np.column_stack([self.low.predict(X), self.high.predict(X)])

    x, y = line(260)
    fits = [QuantileRegressor(quantile=q, alpha=0).fit(x[:100], y[:100]) for q in (0.05, 0.95, 0.5)]
    mapie = ConformalizedQuantileRegressor(fits, confidence_level=0.9, prefit=True).conformalize(x[100:250], y[100:250])
    _, expected = mapie.predict_interval(x[250:], symmetric_correction=True)
    ours = SplitConformalRegressor(Quantiles(*fits[:2]), "cqr").calibrate(x[100:250], y[100:250])
    np.testing.assert_allclose(ours.predict_interval(x[250:], 0.1), expected[:, :, 0], rtol=1e-10)


def test_one_sided_intervals_spend_alpha_on_their_side():
    conformal = SplitConformalRegressor(score="signed").calibrate_scores(np.arange(-50.0, 49.0))  # n = 99
    assert conformal.intervals([0.0], 0.1, side="upper").tolist() == [[-np.inf, 39.0]]  # S_(90)
    assert conformal.intervals([0.0], 0.1, side="lower").tolist() == [[-41.0, np.inf]]  # S_(10)
    assert conformal.intervals([0.0], 0.1).tolist() == [[-46.0, 44.0]]  # S_(5), S_(95)


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "zeros", "poisson"])
def test_intervals_cover_whatever_the_law_of_the_residuals(draw):
    rng = np.random.default_rng(3)
    many = {
        "normal": lambda s: rng.normal(size=s),
        "standard_cauchy": lambda s: rng.standard_cauchy(size=s),
        "zeros": np.zeros,
        "poisson": lambda s: rng.poisson(1.0, size=s).astype(float),
    }[draw]((4000, 41))
    k = conformal_rank(40, 0.1)
    covered = np.abs(many[:, -1]) <= np.sort(np.abs(many[:, :40]), axis=1)[:, k - 1]
    assert covered.mean() >= 0.9 - 3 * np.sqrt(0.09 / 4000)


def test_bounds_do_not_depend_on_the_order_of_calibration_rows():
    rng = np.random.default_rng(4)
    scores, group = rng.exponential(size=200), rng.integers(0, 4, size=200)
    order = rng.permutation(200)
    first = SplitConformalRegressor().calibrate_scores(scores, group)
    second = SplitConformalRegressor().calibrate_scores(scores[order], group[order])
    np.testing.assert_array_equal(first.intervals(np.zeros(4), group=range(4)), second.intervals(np.zeros(4), group=range(4)))


def test_a_smaller_alpha_never_gives_a_narrower_interval():
    conformal = SplitConformalRegressor().calibrate_scores(np.random.default_rng(5).exponential(size=333))
    widths = [np.ptp(conformal.intervals([0.0], alpha)) for alpha in np.linspace(0.01, 0.9, 60)]
    assert (np.diff(widths) <= 0).all()


# ------------------------------------------------------------------------------------------------------- Mondrian


def test_mondrian_intervals_equal_each_group_alone_and_crepes():
    from crepes import ConformalRegressor

    rng = np.random.default_rng(6)
    residual = rng.normal(size=400)
    group = rng.choice(["north", "south", "east"], size=400, p=[0.5, 0.3, 0.2])
    residual[group == "south"] *= 5
    new = rng.choice(["north", "south", "east"], size=50)
    found = SplitConformalRegressor().calibrate_scores(np.abs(residual), group).intervals(np.zeros(50), 0.13, group=new)
    for name in np.unique(new):
        alone = SplitConformalRegressor().calibrate_scores(np.abs(residual[group == name])).intervals([0.0], 0.13)
        assert (found[new == name] == alone).all()
    expected = ConformalRegressor().fit(residual, bins=group).predict_int(np.zeros(50), bins=new, confidence=0.87)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_group_without_calibration_rows_gets_no_interval_where_crepes_gives_a_point():
    from crepes import ConformalRegressor

    residual, group = np.arange(1.0, 41.0), np.repeat(["a", "b"], 20)
    theirs = ConformalRegressor().fit(residual, bins=group).predict_int(np.full(1, 7.0), bins=np.array(["c"]), confidence=0.9)
    assert theirs.tolist() == [[0.0, 0.0]]  # not even around the prediction 7
    ours = SplitConformalRegressor().calibrate_scores(residual, group)
    with pytest.raises(DatumwiseError, match=re.escape("0 calibration scores of group c give no finite bound")):
        ours.intervals([7.0, 7.0], 0.1, group=["c", "a"])
    with pytest.warns(UserWarning, match="group c"):
        interval = ours.intervals([7.0, 7.0], 0.1, group=["c", "a"], allow_infinite=True)
    assert interval.tolist() == [[-np.inf, np.inf], [7.0 - 19, 7.0 + 19]]


def test_groups_hold_coverage_where_one_threshold_for_all_fails():
    rng = np.random.default_rng(7)
    scale = np.array([0.2, 3.0])
    inside = np.zeros((2, 2))
    for _ in range(300):
        group = rng.integers(0, 2, size=260)
        y = rng.normal(size=260) * scale[group]
        mondrian = SplitConformalRegressor().calibrate_scores(np.abs(y[:160]), group[:160])
        pooled = SplitConformalRegressor().calibrate_scores(np.abs(y[:160]))
        for row, interval in enumerate(
            (mondrian.intervals(np.zeros(100), 0.1, group=group[160:]), pooled.intervals(np.zeros(100), 0.1))
        ):
            covered = (interval[:, 0] <= y[160:]) & (y[160:] <= interval[:, 1])
            inside[row] += [covered[group[160:] == g].mean() for g in (0, 1)]
    mondrian, pooled = inside / 300
    assert (np.abs(mondrian - 0.905) < 0.015).all()
    assert pooled[0] > 0.99
    assert pooled[1] < 0.83


# ------------------------------------------------------------------------------------------------- classification


def test_lac_sets_equal_mapie_and_crepes_and_hold_the_label(digits):
    from crepes import ConformalClassifier
    from crepes.extras import hinge
    from mapie.classification import SplitConformalClassifier as Mapie

    model, x_cal, y_cal, x_new, y_new = digits
    conformal = SplitConformalClassifier(model).calibrate(x_cal, y_cal)
    for alpha in (0.07, 0.2):
        ours = conformal.predict_set(x_new, alpha, allow_empty=True)
        mapie = Mapie(model, confidence_level=1 - alpha, conformity_score="lac").conformalize(x_cal, y_cal)
        np.testing.assert_array_equal(ours, mapie.predict_set(x_new)[1][:, :, 0])
        crepes = ConformalClassifier().fit(hinge(model.predict_proba(x_cal), model.classes_, y_cal))
        theirs = crepes.predict_set(hinge(model.predict_proba(x_new)), confidence=1 - alpha, smoothing=False)
        np.testing.assert_array_equal(ours, theirs.astype(bool))
        hit = ours[np.arange(len(y_new)), y_new].mean()
        assert abs(hit - (1 - alpha)) < 4 * np.sqrt(alpha * (1 - alpha) * (1 / len(y_new) + 1 / len(y_cal)))


def test_aps_sets_equal_mapies_randomized_ones_on_the_same_scores_and_draws(digits):
    from mapie.classification import SplitConformalClassifier as Mapie

    from datumwise.predict.scores import label_scores

    model, x_cal, y_cal, x_new, _ = digits
    mapie = Mapie(model, confidence_level=0.9, conformity_score="aps", random_state=5).conformalize(x_cal, y_cal)
    _, theirs = mapie.predict_set(x_new, conformity_score_params={"include_last_label": "randomized"})
    draws = np.random.RandomState(5).uniform(size=len(x_new))
    cal_draws = np.random.RandomState(5).uniform(size=len(x_cal))
    own = label_scores("aps", model.predict_proba(x_cal), uniform=cal_draws)[np.arange(len(y_cal)), y_cal]
    np.testing.assert_allclose(own, mapie.conformity_scores.ravel(), atol=1e-12)
    threshold = conformal_threshold(mapie.conformity_scores.ravel(), 0.1)
    ours = label_scores("aps", model.predict_proba(x_new), uniform=draws) <= threshold
    np.testing.assert_array_equal(ours, theirs[:, :, 0])
    assert (~ours.any(axis=1)).sum() > 0  # MAPIE's may be empty


@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
@pytest.mark.parametrize("randomized", [False, True])
def test_sets_are_never_empty_by_default_and_only_then_hold_one_more(digits, score, randomized):
    model, x_cal, y_cal, x_new, y_new = digits
    conformal = SplitConformalClassifier(model, score, randomized=randomized, random_state=0).calibrate(x_cal, y_cal)
    plain = conformal.predict_set(x_new, 0.45, allow_empty=True)
    filled = conformal.predict_set(x_new, 0.45)
    empty = ~plain.any(axis=1)
    assert empty.any()
    assert filled.any(axis=1).all()
    np.testing.assert_array_equal(filled[~empty], plain[~empty])
    likeliest = model.predict_proba(x_new)[empty].argmax(axis=1)
    np.testing.assert_array_equal(filled[empty], np.eye(10, dtype=bool)[likeliest])
    assert filled[np.arange(len(y_new)), y_new].mean() >= plain[np.arange(len(y_new)), y_new].mean()


@pytest.mark.parametrize("score", ["aps", "raps"])
def test_randomized_sets_cover_by_as_much_as_asked_and_are_smaller(digits, score):
    model, x_cal, y_cal, x_new, y_new = digits
    x, y = np.concatenate([x_cal, x_new]), np.concatenate([y_cal, y_new])
    probs = model.predict_proba(x)
    rng = np.random.default_rng(8)
    hits, sizes = {False: [], True: []}, {False: [], True: []}
    for _ in range(60):
        order = rng.permutation(len(x))
        cal, new = order[:600], order[600:]
        for randomized in hits:
            conformal = SplitConformalClassifier(score=score, randomized=randomized, random_state=rng)
            sets = conformal.calibrate_probabilities(probs[cal], y[cal]).sets(probs[new], 0.2, allow_empty=True)
            hits[randomized].append(sets[np.arange(len(new)), y[new]].mean())
            sizes[randomized].append(sets.sum(axis=1).mean())
    assert abs(np.mean(hits[True]) - 0.8) < 0.01
    assert np.mean(sizes[True]) < np.mean(sizes[False])


def test_the_same_seed_gives_the_same_sets_and_calibration_draws_are_others(digits):
    model, x_cal, y_cal, x_new, _ = digits

    def sets(seed):
        return SplitConformalClassifier(model, "aps", randomized=True, random_state=seed).calibrate(x_cal, y_cal)

    np.testing.assert_array_equal(sets(3).predict_set(x_new, 0.2), sets(3).predict_set(x_new, 0.2))
    assert (sets(3).predict_set(x_new, 0.2) != sets(4).predict_set(x_new, 0.2)).any()
    conformal = sets(3)
    assert (
        conformal._label_scores(model.predict_proba(x_cal), "calibrate")
        != conformal._label_scores(model.predict_proba(x_cal), "predict")
    ).any()


def test_raps_cuts_the_long_tails_of_aps(digits):
    model, x_cal, y_cal, x_new, _ = digits
    aps = SplitConformalClassifier(model, "aps").calibrate(x_cal, y_cal).predict_set(x_new, 0.05)
    raps = SplitConformalClassifier(model, "raps", penalty=0.5, free_rank=2).calibrate(x_cal, y_cal).predict_set(x_new, 0.05)
    assert raps.sum(axis=1).max() < aps.sum(axis=1).max()


def test_class_conditional_sets_equal_crepes_and_each_class_alone(digits):
    from crepes import WrapClassifier

    model, x_cal, y_cal, x_new, _ = digits
    conformal = SplitConformalClassifier(model, class_conditional=True).calibrate(x_cal, y_cal)
    ours = conformal.predict_set(x_new, 0.13, allow_empty=True)
    crepes = WrapClassifier(model).calibrate(x_cal, y_cal, class_cond=True)
    theirs = crepes.predict_set(x_new, confidence=0.87, smoothing=False, labels=False)
    np.testing.assert_array_equal(ours, theirs.astype(bool))
    probs = model.predict_proba(x_cal)
    for k in range(10):
        own = 1 - probs[y_cal == k, k]
        np.testing.assert_array_equal(ours[:, k], 1 - model.predict_proba(x_new)[:, k] <= conformal_threshold(own, 0.13))


def test_labels_may_be_words_and_groups_split_them():
    x, _ = load_wine(return_X_y=True)
    names = load_wine().target_names[load_wine().target]
    order = np.random.default_rng(0).permutation(len(x))
    x, names = x[order][:, :3], names[order]
    model = LogisticRegression(max_iter=2000).fit(x[:60], names[:60])
    strong = x[:, 0] > 13
    conformal = SplitConformalClassifier(model, "aps").calibrate(x[60:140], names[60:140], group=strong[60:140])
    sets = conformal.predict_set(x[140:], 0.1, group=strong[140:])
    assert conformal.classes_.tolist() == ["class_0", "class_1", "class_2"]
    for flag in (True, False):
        alone = SplitConformalClassifier(model, "aps").calibrate(
            x[60:140][strong[60:140] == flag], names[60:140][strong[60:140] == flag]
        )
        np.testing.assert_array_equal(sets[strong[140:] == flag], alone.predict_set(x[140:][strong[140:] == flag], 0.1))


def test_too_few_rows_give_all_labels_only_when_asked():
    conformal = SplitConformalClassifier().calibrate_scores([0.1, 0.2])
    with pytest.raises(DatumwiseError, match="need n >= 9; got n = 2"):
        conformal.sets([[0.9, 0.1]], 0.1)
    with pytest.warns(UserWarning, match="infinite"):
        assert conformal.sets([[0.9, 0.1]], 0.1, allow_infinite=True).all()


# ------------------------------------------------------------------------------------------------------ refusals


def test_prediction_before_calibration_is_refused_as_scikit_learn_does():
    with pytest.raises(NotFittedError, match="this SplitConformalRegressor is not calibrated"):
        SplitConformalRegressor().intervals([0.0])
    with pytest.raises(NotFittedError, match="this SplitConformalClassifier is not calibrated"):
        SplitConformalClassifier(LogisticRegression()).predict_set([[0.0]])


def test_estimators_can_be_cloned():
    model = clone(SplitConformalClassifier(LogisticRegression(), "raps", penalty=0.2, class_conditional=True))
    assert model.get_params()["penalty"] == 0.2
    assert not hasattr(model, "scores_")


def nine(**options):
    """Nine scores of 1: enough for alpha = 0.1."""
    return SplitConformalRegressor(**options).calibrate_scores(np.ones(9))


def scored(group, n=9):
    return SplitConformalRegressor().calibrate_scores(np.ones(n), group)


def labelled(probs, y, *, classes=None, **options):
    return SplitConformalClassifier(**options).calibrate_probabilities(probs, y, classes=classes)


HALF = [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: conformal_rank(10, 0.0), DatumwiseError, "alpha = 0.0"),
        (lambda: conformal_rank(10, 1.0), DatumwiseError, "alpha = 1.0"),
        (lambda: conformal_rank(-1, 0.1), DatumwiseError, "n must be >= 0, not -1"),
        (lambda: conformal_rank(10, 0.1, "left"), UnknownName, "there is no side 'left'"),
        (lambda: conformal_threshold([0.1, np.nan, np.nan], 0.4), NotFinite, "NaN in 2 rows: 1, 2"),
        (lambda: conformal_threshold([], 0.4), EmptyData, "scores is empty"),
        (lambda: conformal_threshold([[0.1]], 0.4), SchemaMismatch, "one number a datapoint"),
        (lambda: SplitConformalRegressor().calibrate_scores([1, -2]), DatumwiseError, "absolute scores cannot be negative"),
        (lambda: nine(score="ratio"), UnknownName, "there is no score 'ratio'"),
        (lambda: SplitConformalRegressor().calibrate([[0]], [0]), DatumwiseError, "there is no estimator to predict with"),
        (lambda: nine().intervals([0.0], side="upper"), DatumwiseError, "do not know the two sides apart"),
        (lambda: nine(score="signed").intervals([0.0], side="left"), UnknownName, "there is no side 'left'"),
        (lambda: scored([0] * 8), SchemaMismatch, "group must be one label a row"),
        (lambda: scored([0, np.nan], 2), NotFinite, "group of row 1 is missing"),
        (lambda: scored(["a", None], 2), NotFinite, "group of row 1 is missing"),
        (lambda: scored([0] * 9).intervals([0.0]), SchemaMismatch, "calibrated with groups and asked without"),
        (lambda: nine().intervals([0.0], group=[0]), SchemaMismatch, "calibrated without groups and asked with"),
        (lambda: nine(score="normalized").intervals([0.0], scale=[0.0]), DatumwiseError, "scale is not above 0 in row 0"),
        (lambda: nine(score="normalized").intervals([0.0]), SchemaMismatch, "needs scale"),
        (lambda: labelled(HALF, [0], score="margin"), UnknownName, "there is no label score 'margin'"),
        (lambda: labelled([[0.5, 0.6]], [0]), DatumwiseError, "not probabilities in row 0"),
        (lambda: labelled(HALF, [2]), LabelError, "the classifier knows no class 2"),
        (lambda: labelled(HALF, [0, 1]), SchemaMismatch, "labels of shape"),
        (lambda: labelled(HALF, [0], classes=[1, 2, 3]), SchemaMismatch, "classes of shape"),
        (lambda: labelled(HALF * 9, [0] * 9).sets([[0.2, 0.3, 0.5]]), SchemaMismatch, "on 2 classes and asked for 3"),
        (lambda: labelled(HALF, [0], class_conditional=True).calibrate_scores([0.1]), SchemaMismatch, "needs the labels"),
        (lambda: SplitConformalClassifier(class_conditional=True).calibrate_probabilities(HALF, [0], [0]), SchemaMismatch,
         "groups by class already"),
        (lambda: SplitConformalClassifier().calibrate([[0.0]], [0]), DatumwiseError, "there is no estimator"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()
