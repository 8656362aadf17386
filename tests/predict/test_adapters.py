"""Scores of MAPIE and crepes objects: the same numbers, the same intervals, and a batch guarantee on top."""

import re
import sys

import numpy as np
import pytest
from crepes import ConformalClassifier, ConformalPredictiveSystem, ConformalRegressor, WrapClassifier, WrapRegressor
from crepes.extras import DifficultyEstimator, hinge
from mapie.classification import CrossConformalClassifier
from mapie.classification import SplitConformalClassifier as MapieClassifier
from mapie.conformity_scores import AbsoluteConformityScore, RAPSConformityScore, ResidualNormalisedScore
from mapie.regression import ConformalizedQuantileRegressor, CrossConformalRegressor, JackknifeAfterBootstrapRegressor
from mapie.regression import SplitConformalRegressor as MapieRegressor
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression, QuantileRegressor

from datumwise.errors import DatumwiseError, MissingExtra, ModelMismatch, NotFinite, SchemaMismatch, UnknownName
from datumwise.predict.adapters import adapt_scores, batch_predict, conformal_predict, predict_at
from datumwise.predict.order_statistics import order_statistic_rank, rank_pmf
from datumwise.predict.split_conformal import conformal_threshold


def drawn(n, seed=0):
    """Noise that grows with the first column."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    return x, 20 + x[:, 0] - 2 * x[:, 1] + (0.2 + np.abs(x[:, 0])) * rng.normal(size=n)


X, Y = drawn(600)
TRAIN, CAL, NEW = slice(0, 150), slice(150, 450), slice(450, 600)
MODEL = LinearRegression().fit(X[TRAIN], Y[TRAIN])


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order][:, 16:32] / 16, y[order]
    return LogisticRegression(max_iter=500).fit(x[:400], y[:400]), x[400:1000], y[400:1000], x[1000:], y[1000:]


def quantiles(prefit=True):
    fits = [QuantileRegressor(quantile=q, alpha=0).fit(X[TRAIN], Y[TRAIN]) for q in (0.05, 0.95, 0.5)]
    return ConformalizedQuantileRegressor(fits, confidence_level=0.9, prefit=prefit).conformalize(X[CAL], Y[CAL])


# ----------------------------------------------------------------------------------------------------- scores out


def test_mapie_split_scores_are_the_absolute_residuals():
    adapted = adapt_scores(MapieRegressor(MODEL).conformalize(X[CAL], Y[CAL]))
    np.testing.assert_allclose(adapted.scores, np.abs(Y[CAL] - MODEL.predict(X[CAL])))
    assert (adapted.method, adapted.score_bounds, adapted.exact) == (
        "MAPIE SplitConformalRegressor, Absolute", (0.0, np.inf), True)  # fmt: skip


def test_signed_mapie_scores_keep_their_sign_and_know_no_bounds():
    adapted = adapt_scores(
        MapieRegressor(MODEL, conformity_score=AbsoluteConformityScore(sym=False)).conformalize(X[CAL], Y[CAL])
    )
    np.testing.assert_allclose(adapted.scores, Y[CAL] - MODEL.predict(X[CAL]))
    assert adapted.score_bounds == (-np.inf, np.inf)


def test_rows_that_mapies_residual_model_was_fitted_on_are_left_out():
    score = ResidualNormalisedScore(split_size=0.4, random_state=0)
    mapie = MapieRegressor(MODEL, conformity_score=score).conformalize(X[CAL], Y[CAL])
    assert np.isnan(mapie.conformity_scores).sum() == 120
    assert len(adapt_scores(mapie).scores) == 180


def test_cqr_scores_are_the_larger_of_the_two_violations():
    mapie = quantiles()
    low, high, _ = mapie._mapie_quantile_regressor.estimators_
    expected = np.maximum(low.predict(X[CAL]) - Y[CAL], Y[CAL] - high.predict(X[CAL]))
    adapted = adapt_scores(mapie)
    np.testing.assert_allclose(adapted.scores, expected)
    assert adapted.scores.min() < 0
    assert adapted.score_bounds[0] == -np.inf


def test_out_of_fold_scores_are_taken_only_as_approximate():
    cross = CrossConformalRegressor(LinearRegression(), cv=5).fit_conformalize(X[CAL], Y[CAL])
    bootstrap = JackknifeAfterBootstrapRegressor(LinearRegression(), resampling=20, random_state=0).fit_conformalize(
        X[CAL], Y[CAL]
    )
    for predictor in (cross, bootstrap):
        with pytest.raises(ModelMismatch, match="out of fold: each comes from another model"):
            adapt_scores(predictor)
        adapted = adapt_scores(predictor, allow_approximate=True)
        assert not adapted.exact
        np.testing.assert_array_equal(adapted.scores, predictor.conformity_scores)


def test_lac_scores_equal_ours_and_cross_conformal_ones_are_approximate(digits):
    model, x_cal, y_cal, _, _ = digits
    adapted = adapt_scores(MapieClassifier(model, conformity_score="lac").conformalize(x_cal, y_cal))
    np.testing.assert_allclose(adapted.scores, 1 - model.predict_proba(x_cal)[np.arange(len(y_cal)), y_cal])
    assert adapted.score_bounds == (0.0, 1.0)
    cross = CrossConformalClassifier(LogisticRegression(max_iter=500), cv=3, random_state=0).fit_conformalize(x_cal, y_cal)
    assert not adapt_scores(cross, allow_approximate=True).exact


def test_raps_scores_hold_the_penalty_that_mapies_property_leaves_out(digits):
    model, x_cal, y_cal, x_new, _ = digits
    raps = MapieClassifier(model, confidence_level=0.9, conformity_score=RAPSConformityScore(0.3), random_state=1)
    raps.conformalize(x_cal, y_cal)
    with pytest.raises(ModelMismatch, match="call predict_set once"):
        adapt_scores(raps)
    raps.predict_set(x_new)
    function = raps._mapie_classifier.conformity_score_function_
    adapted = adapt_scores(raps)
    assert (adapted.scores > raps.conformity_scores.ravel() + 1e-9).any()
    assert conformal_threshold(adapted.scores, 0.1) == pytest.approx(float(function.quantiles_[0]), abs=1e-12)
    assert adapted.scores.max() <= adapted.score_bounds[1]


def test_raps_with_several_levels_is_refused(digits):
    model, x_cal, y_cal, x_new, _ = digits
    raps = MapieClassifier(model, confidence_level=[0.8, 0.9], conformity_score="raps", random_state=1).conformalize(
        x_cal, y_cal
    )
    raps.predict_set(x_new)
    with pytest.raises(ModelMismatch, match="holds 2 penalties"):
        adapt_scores(raps)


def test_crepes_scores_come_with_their_groups(digits):
    wrapped = WrapRegressor(MODEL).calibrate(X[CAL], Y[CAL], mc=lambda x: x[:, 1] > 0)
    adapted = adapt_scores(wrapped)
    np.testing.assert_allclose(adapted.scores, np.abs(Y[CAL] - MODEL.predict(X[CAL])))
    np.testing.assert_array_equal(adapted.group, X[CAL][:, 1] > 0)
    assert adapted.score_bounds == (0.0, np.inf)
    model, x_cal, y_cal, _, _ = digits
    by_class = adapt_scores(WrapClassifier(model).calibrate(x_cal, y_cal, class_cond=True))
    np.testing.assert_allclose(by_class.scores, hinge(model.predict_proba(x_cal), model.classes_, y_cal))
    np.testing.assert_array_equal(by_class.group, y_cal)
    plain = adapt_scores(ConformalClassifier().fit(by_class.scores))
    assert plain.group is None
    assert plain.score_bounds == (-np.inf, np.inf)


def test_subclasses_of_known_predictors_are_known():
    class Mine(MapieRegressor):
        pass

    assert len(adapt_scores(Mine(MODEL).conformalize(X[CAL], Y[CAL])).scores) == 300


# ----------------------------------------------------------------------------- intervals at a threshold of one's own


@pytest.mark.parametrize("score", ["absolute", "gamma", "residual_normalized"])
def test_mapies_own_threshold_gives_mapies_own_intervals(score):
    kept = ResidualNormalisedScore(random_state=0) if score == "residual_normalized" else score
    mapie = MapieRegressor(MODEL, confidence_level=0.87, conformity_score=kept)
    if score == "gamma":
        with pytest.raises(ModelMismatch, match="tell the two sides apart"):
            predict_at(mapie.conformalize(X[CAL], Y[CAL]), X[NEW], 0.1)
        return
    mapie.conformalize(X[CAL], Y[CAL])
    _, expected = mapie.predict_interval(X[NEW])
    found = predict_at(mapie, X[NEW], conformal_threshold(adapt_scores(mapie).scores, 0.13))
    np.testing.assert_allclose(found, expected[:, :, 0], rtol=1e-12)


def test_cqrs_own_threshold_gives_its_own_intervals():
    mapie = quantiles()
    _, expected = mapie.predict_interval(X[NEW], symmetric_correction=True)
    found = predict_at(mapie, X[NEW], conformal_threshold(adapt_scores(mapie).scores, 0.1))
    np.testing.assert_allclose(found, expected[:, :, 0], rtol=1e-10)


def test_crepes_own_threshold_gives_its_own_intervals_also_normalized():
    difficulty = DifficultyEstimator().fit(X[TRAIN], residuals=Y[TRAIN] - MODEL.predict(X[TRAIN]))
    for de in (None, difficulty):
        wrapped = WrapRegressor(MODEL).calibrate(X[CAL], Y[CAL], de=de)
        found = predict_at(wrapped, X[NEW], conformal_threshold(adapt_scores(wrapped).scores, 0.13))
        np.testing.assert_allclose(found, wrapped.predict_int(X[NEW], confidence=0.87), rtol=1e-12)


def test_label_sets_at_the_own_threshold_are_the_peers_or_within_them(digits):
    model, x_cal, y_cal, x_new, _ = digits
    wrapped = WrapClassifier(model).calibrate(x_cal, y_cal)
    theirs = wrapped.predict_set(x_new, confidence=0.93, smoothing=False, labels=False).astype(bool)
    ours = predict_at(wrapped, x_new, conformal_threshold(adapt_scores(wrapped).scores, 0.07))
    np.testing.assert_array_equal(ours[theirs.any(axis=1)], theirs[theirs.any(axis=1)])
    for score in ("lac", "aps", "raps"):
        mapie = MapieClassifier(model, confidence_level=0.93, conformity_score=score, random_state=2).conformalize(x_cal, y_cal)
        theirs = mapie.predict_set(x_new)[1][:, :, 0]
        ours = predict_at(mapie, x_new, conformal_threshold(adapt_scores(mapie).scores, 0.07))
        assert ours.any(axis=1).all()
        if score == "raps":  # MAPIE keeps the label that crosses the threshold by its penalty alone
            assert not (ours & ~theirs).any()
            assert (theirs.sum(axis=1) - ours.sum(axis=1)).max() <= 1
        else:
            np.testing.assert_array_equal(ours[theirs.any(axis=1)], theirs[theirs.any(axis=1)])


def test_an_infinite_threshold_takes_all(digits):
    model, x_cal, y_cal, x_new, _ = digits
    assert np.isinf(predict_at(MapieRegressor(MODEL).conformalize(X[CAL], Y[CAL]), X[NEW], np.inf)).all()
    assert predict_at(MapieClassifier(model).conformalize(x_cal, y_cal), x_new, np.inf).all()


# ------------------------------------------------------------------------------------------------ batch statements


def test_batch_intervals_use_the_batch_rank_of_the_peers_scores():
    mapie = quantiles()
    rank = order_statistic_rank(300, 150, 135, 0.1)
    threshold = np.sort(adapt_scores(mapie).scores)[rank - 1]
    np.testing.assert_array_equal(batch_predict(mapie, X[NEW], 0.1), predict_at(mapie, X[NEW], threshold))
    np.testing.assert_array_equal(batch_predict(mapie, X[NEW], 0.1, min_covered=135), batch_predict(mapie, X[NEW], 0.1))
    wider = batch_predict(mapie, X[NEW], 0.1, min_covered=148)
    assert (np.diff(wider) > np.diff(batch_predict(mapie, X[NEW], 0.1))).all()


def test_batch_conformal_takes_adapted_scores_with_their_bounds():
    from datumwise.predict.batch_conformal import BatchConformal

    mapie = MapieRegressor(MODEL).conformalize(X[CAL], Y[CAL])
    adapted = adapt_scores(mapie)
    batch = BatchConformal(score_bounds=adapted.score_bounds).calibrate_scores(adapted.scores)
    threshold = batch.predict_interval(150, alpha=0.1, delta=0.1).threshold
    np.testing.assert_array_equal(batch_predict(mapie, X[NEW], 0.1), predict_at(mapie, X[NEW], threshold))
    own = BatchConformal(MODEL).calibrate(X[CAL], Y[CAL]).predict_interval(X[NEW], alpha=0.1, delta=0.1)
    np.testing.assert_allclose(batch_predict(mapie, X[NEW], 0.1), np.column_stack([own.lower, own.upper]), rtol=1e-12)


def test_batches_are_covered_as_often_as_the_law_says_where_one_point_intervals_are_not():
    n, m, z = 80, 20, 18
    k = order_statistic_rank(n, m, z, 0.1)
    exact = rank_pmf(n, m, z)[:k].sum()
    batch, one = [], []
    for seed in range(300):
        x, y = drawn(n + m, seed + 1)
        wrapped = WrapRegressor(MODEL).calibrate(x[:n], y[:n])
        for found, interval in ((batch, batch_predict(wrapped, x[n:], 0.1)), (one, wrapped.predict_int(x[n:], confidence=0.9))):
            found.append(((interval[:, 0] <= y[n:]) & (y[n:] <= interval[:, 1])).sum() >= z)
    assert abs(np.mean(batch) - exact) < 4 * np.sqrt(exact * (1 - exact) / 300)
    assert np.mean(one) < 0.8


def test_label_sets_hold_the_batch_guarantee_too(digits):
    model, x_cal, y_cal, x_new, y_new = digits
    mapie = MapieClassifier(model).conformalize(x_cal, y_cal)
    kept = []
    for seed in range(60):
        rows = np.random.default_rng(seed).choice(len(x_new), 50, replace=False)
        kept.append(batch_predict(mapie, x_new[rows], 0.1)[np.arange(50), y_new[rows]].sum() >= 45)
    assert np.mean(kept) > 0.8  # one calibration set: near .9, dependent


def test_a_batch_too_large_for_the_calibration_rows_is_refused_with_the_number_needed():
    wrapped = WrapRegressor(MODEL).calibrate(X[CAL], Y[CAL])
    with pytest.raises(
        DatumwiseError, match=re.escape("no finite bound for 150 of 150 rows at alpha = 0.1: need n >= 1350; got n = 300")
    ):
        batch_predict(wrapped, X[NEW], 0.1, delta=0.0)
    assert order_statistic_rank(1350, 150, 150, 0.1) == 1350


# --------------------------------------------------------------------------------------------- one call for a method


@pytest.mark.parametrize("method", ["cv+", "jackknife+", "cqr", "mondrian"])
def test_each_method_covers_new_rows(method):
    split = method in ("cqr", "mondrian")
    x, y = drawn(700, 9)
    options = {"X_cal": x[60:200], "y_cal": y[60:200]} if split else {}
    if method == "mondrian":
        options["group"] = lambda rows: rows[:, 0] > 0
    fitted_on = slice(0, 60) if split else slice(0, 80)
    estimator = QuantileRegressor(alpha=0) if method == "cqr" else LinearRegression()
    interval = conformal_predict(method, estimator, x[fitted_on], y[fitted_on], x[200:], 0.1, random_state=0, **options)
    covered = ((interval[:, 0] <= y[200:]) & (y[200:] <= interval[:, 1])).mean()
    assert interval.shape == (500, 2)
    assert 0.84 < covered < 0.96


def test_cv_plus_equals_its_definition():
    from sklearn.model_selection import KFold

    x, y = drawn(45, 3)
    found = conformal_predict("cv+", LinearRegression(), x[:40], y[:40], x[40:], 0.2, folds=4, random_state=7)
    residual, prediction = np.empty(40), np.empty((5, 40))
    seed = int(np.random.default_rng(7).integers(2**31 - 1))
    for train, held in KFold(4, shuffle=True, random_state=seed).split(x[:40]):
        model = LinearRegression().fit(x[train], y[train])
        residual[held] = np.abs(y[held] - model.predict(x[held]))
        prediction[:, held] = model.predict(x[40:])[:, None]
    upper = np.sort(prediction + residual, axis=1)[:, 33 - 1]  # ceil(.8 * 41) = 33
    lower = np.sort(prediction - residual, axis=1)[:, 8 - 1]  # floor(.2 * 41) = 8
    np.testing.assert_allclose(found, np.column_stack([lower, upper]), rtol=1e-12)


def test_cqr_corrects_both_ends_alike_unless_told_otherwise():
    rows = {"X_cal": X[CAL], "y_cal": Y[CAL]}
    fits = [QuantileRegressor(quantile=q, alpha=0).fit(X[TRAIN], Y[TRAIN]) for q in (0.05, 0.95)]
    bare = np.column_stack([fit.predict(X[NEW]) for fit in fits])
    for symmetric in (True, False):
        found = conformal_predict(
            "cqr", QuantileRegressor(alpha=0), X[TRAIN], Y[TRAIN], X[NEW], 0.1, symmetric=symmetric, **rows
        )
        moved = np.abs(found - bare).mean(axis=0)
        assert (abs(moved[0] - moved[1]) < 1e-6) == symmetric


def test_raps_sets_cover_and_equal_mapies(digits):
    _, x_cal, y_cal, x_new, y_new = digits
    estimator = LogisticRegression(max_iter=500)
    sets = conformal_predict(
        "raps", estimator, x_cal[:200], y_cal[:200], x_new, 0.1, X_cal=x_cal[200:], y_cal=y_cal[200:], random_state=3
    )
    fitted = LogisticRegression(max_iter=500).fit(x_cal[:200], y_cal[:200])
    seed = int(np.random.default_rng(3).integers(2**31 - 1))
    mapie = MapieClassifier(fitted, confidence_level=0.9, conformity_score="raps", random_state=seed).conformalize(
        x_cal[200:], y_cal[200:]
    )
    np.testing.assert_array_equal(sets, mapie.predict_set(x_new)[1][:, :, 0])
    assert sets[np.arange(len(y_new)), y_new].mean() > 0.87


def test_whole_n_plus_1_times_alpha_counts_as_whole_in_both_libraries():
    x = np.zeros((99, 1))
    y = np.arange(1.0, 100.0)
    zero = {"X_cal": x, "y_cal": y, "group": lambda rows: rows[:, 0]}
    found = conformal_predict("mondrian", LinearRegression(), [[0.0], [0.0]], [0.0, 0.0], x[:1], 0.1, **zero)
    assert found.tolist() == [[-90.0, 90.0]]  # crepes by itself: 91


def test_a_group_that_calibration_has_not_seen_is_refused():
    rows = {"X_cal": X[CAL], "y_cal": Y[CAL], "group": lambda x: np.where(x[:, 1] > 50, "far", "near")}
    far = np.array([[0.0, 60.0], [0.0, 0.0]])
    with pytest.raises(DatumwiseError, match="no calibration row is of group far"):
        conformal_predict("mondrian", LinearRegression(), X[TRAIN], Y[TRAIN], far, 0.1, **rows)


def test_a_group_with_too_few_calibration_rows_is_refused():
    rows = {"X_cal": X[CAL], "y_cal": Y[CAL], "group": lambda x: x[:, 1] > np.sort(X[CAL][:, 1])[-5]}
    with pytest.raises(DatumwiseError, match=re.escape("too few calibration rows for alpha = 0.1: need n >= 9 in every group")):
        conformal_predict("mondrian", LinearRegression(), X[TRAIN], Y[TRAIN], X[CAL], 0.1, **rows)


def test_the_estimator_given_is_not_fitted():
    estimator = LinearRegression()
    conformal_predict("cv+", estimator, X[TRAIN], Y[TRAIN], X[NEW], 0.1, random_state=0)
    conformal_predict(
        "mondrian", estimator, X[TRAIN], Y[TRAIN], X[NEW], 0.1, X_cal=X[CAL], y_cal=Y[CAL], group=lambda x: x[:, 0] > 0
    )
    assert not hasattr(estimator, "coef_")


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("method", "library"), [("cv+", "mapie"), ("cqr", "mapie"), ("raps", "mapie"), ("mondrian", "crepes")])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, method, library):
    monkeypatch.setitem(sys.modules, library, None)
    options = {} if method == "cv+" else {"X_cal": X[CAL], "y_cal": Y[CAL]}
    if method == "mondrian":
        options["group"] = lambda x: x[:, 0] > 0
    with pytest.raises(MissingExtra, match=re.escape("pip install 'datumwise[predict]'")):
        conformal_predict(method, LinearRegression(), X[TRAIN], Y[TRAIN], X[NEW], 0.1, **options)


def fit_two(method, **options):
    return conformal_predict(method, LinearRegression(), X[:2], Y[:2], X[:1], **options)


def batch_of_150(**options):
    return batch_predict(WrapRegressor(MODEL).calibrate(X[CAL], Y[CAL]), X[NEW], **options)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: adapt_scores(LinearRegression()), UnknownName, "LinearRegression is no conformal predictor known here"),
        (lambda: adapt_scores(MapieRegressor(MODEL)), ModelMismatch, "conformalize or calibrate it first"),
        (lambda: adapt_scores(WrapRegressor(MODEL)), ModelMismatch, "conformalize or calibrate it first"),
        (lambda: adapt_scores(ConformalRegressor()), ModelMismatch, "conformalize or calibrate it first"),
        (lambda: adapt_scores(ConformalPredictiveSystem().fit(np.ones(3))), UnknownName, "crepes' ConformalPredictiveSystem"),
        (lambda: predict_at(ConformalRegressor().fit(np.ones(3)), X[NEW], 1.0), UnknownName, "holds no estimator"),
        (lambda: predict_at(WrapRegressor(MODEL).calibrate(X[CAL], Y[CAL]), X[NEW], np.nan), NotFinite, "threshold is NaN"),
        (lambda: predict_at(CrossConformalRegressor().fit_conformalize(X, Y), X, 1.0), UnknownName, "threshold of one's own"),
        (lambda: batch_of_150(delta=1.0), DatumwiseError, "in 1..150, not 0"),
        (lambda: batch_of_150(alpha=2.0), DatumwiseError, "alpha = 2.0"),
        (lambda: fit_two("conformal"), UnknownName, "there is no method 'conformal'"),
        (lambda: fit_two("cv+", alpha=0.0), DatumwiseError, "alpha = 0.0"),
        (lambda: fit_two("cv+", X_cal=X, y_cal=Y), SchemaMismatch, "cv+ takes no calibration rows of its own"),
        (lambda: fit_two("cqr", X_cal=X), SchemaMismatch, "cqr needs calibration rows of its own"),
        (lambda: fit_two("mondrian", X_cal=X, y_cal=Y), SchemaMismatch, "mondrian needs group"),
        (lambda: fit_two("cv+", group=len), SchemaMismatch, "cv+ takes no group"),
        (lambda: fit_two("cv+", folds=1), DatumwiseError, "2 rows cannot be dealt to 1 folds"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()
