"""Selections with few false claims."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, DuplicateId, ModelMismatch, SchemaMismatch
from datumwise.predict.batch_bounds import cdf_band
from datumwise.predict.batch_conformal import BatchConformal
from datumwise.predict.order_statistics import (
    order_statistic_rank,
    rank_box_probability,
    rank_pmf,
    required_calibration_size,
)
from datumwise.predict.selection import (
    conformal_p_values,
    false_claim_curve,
    null_scores,
    select_count,
    select_fdr,
)


class First:
    """Predicts the first column."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(X)[:, 0]


def claims(rng: np.random.Generator, size: tuple[int, ...], model: str) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and whether the claim is true."""
    mu = rng.normal(-1.0, 1.0, size=size)  # most of them negative
    if model == "good":
        return mu, mu + 0.3 * rng.normal(size=size) > 0
    if model == "useless":
        return mu, rng.random(size) < 0.5
    if model == "rounded":
        return np.round(mu), mu + 0.3 * rng.normal(size=size) > 0
    return mu, np.zeros(size, bool)  # "hopeless": every claim is false


@pytest.mark.parametrize("model", ["good", "useless", "rounded"])
@pytest.mark.parametrize(("n", "m", "eta"), [(200, 10, 0), (100, 20, 2), (60, 20, 5)])
def test_more_false_claims_than_allowed_are_as_seldom_as_promised(model: str, n: int, m: int, eta: int) -> None:
    rng = np.random.default_rng(n + eta)
    mu, true = claims(rng, (2000, n + m), model)
    V = np.where(true, -np.inf, mu)
    broken = 0
    for v, t, good in zip(V[:, :n], mu[:, n:], true[:, n:], strict=True):
        found = select_count(v, t, 0.2, eta)
        broken += (found.selected & ~good).sum() > eta
    assert broken / 2000 <= 0.2 + 3 * np.sqrt(0.16 / 2000)


@pytest.mark.parametrize(("n", "m", "eta"), [(95, 10, 0), (100, 20, 2), (60, 20, 5)])
def test_level_is_the_exact_one_where_every_claim_is_false_and_predictions_are_negative(n: int, m: int, eta: int) -> None:
    rng = np.random.default_rng(n)
    mu = -1 - rng.random((6000, n + m))
    k = order_statistic_rank(n, m, m - eta, 0.1)
    assert k <= n
    exact = rank_pmf(n, m, m - eta)[k:].sum()
    broken = np.mean([select_count(v, t, 0.1, eta).selected.sum() > eta for v, t in zip(mu[:, :n], mu[:, n:], strict=True)])
    assert abs(broken - exact) < 4 * np.sqrt(exact * (1 - exact) / 6000)


def test_published_scores_select_nothing_where_predictions_are_negative() -> None:
    # mu * 1{y <= c} lets every true claim score 0, above all predictions
    rng = np.random.default_rng(0)
    mu, true = claims(rng, (600,), "good")
    mu = mu - mu.max() - 1
    V, published = np.where(true, -np.inf, mu), mu * ~true
    t = mu[500:]
    ours = select_count(V[:500], t, 0.1, 3)
    assert ours.selected.sum() > 5
    assert not select_count(published[:500], t, 0.1, 3).selected.any()


def test_an_outcome_at_its_threshold_makes_the_claim_false_on_both_sides() -> None:
    assert null_scores([1.0, 2.0], [5.0, 5.1], 5.0).tolist() == [1.0, -np.inf]
    assert null_scores([1.0, 2.0], [5.0, 4.9], 5.0, side="below").tolist() == [-1.0, -np.inf]


def test_cutoff_is_the_order_statistic_and_ids_come_back_aligned() -> None:
    V = np.random.default_rng(0).normal(size=100)
    t = np.array([0.0, 9.0, 5.0])
    found = select_count(V, t, 0.1, 1, ids=["a", "b", "c"])
    assert found.cutoff == np.sort(V)[order_statistic_rank(100, 3, 2, 0.1) - 1]
    assert found.selected_ids.tolist() == ["b", "c"]
    assert "at most 1 claim is false" in found.statement
    assert "no claim is false" in str(select_count(V, t, 0.1))


def test_a_point_exactly_at_the_cutoff_is_not_selected() -> None:
    V = np.arange(100.0)
    cutoff = select_count(V, [0.0, 1.0, 2.0], 0.1, 1).cutoff
    assert select_count(V, [cutoff, cutoff + 1e-9, 0.0], 0.1, 1).selected.tolist() == [False, True, False]


def test_more_false_claims_allowed_or_a_larger_alpha_never_select_fewer() -> None:
    rng = np.random.default_rng(0)
    mu, true = claims(rng, (340,), "useless")
    V, t = np.where(true, -np.inf, mu)[:300], mu[300:]
    counts = [select_count(V, t, 0.1, eta).selected.sum() for eta in range(2, 40)]
    assert counts == sorted(counts)
    levels = [select_count(V, t, alpha, 5).selected.sum() for alpha in (0.01, 0.05, 0.1, 0.3)]
    assert levels == sorted(levels)


def test_p_values_are_counts() -> None:
    rng = np.random.default_rng(0)
    V = np.where(rng.random(50) < 0.3, -np.inf, rng.integers(-5, 5, 50))
    t = rng.integers(-6, 6, 30).astype(float)
    assert conformal_p_values(V, t).tolist() == [(1 + (x <= V).sum()) / 51 for x in t]


def test_p_value_of_a_false_claim_is_small_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(1)
    mu, true = claims(rng, (40_000, 20), "good")
    V = np.where(true, -np.inf, mu)
    p = (1 + (V[:, :19] >= mu[:, 19:]).sum(axis=1)) / 20
    for level in (0.05, 0.1, 0.5):
        assert np.mean((p <= level) & ~true[:, 19]) <= level + 4 * np.sqrt(level / 40_000)


@pytest.mark.parametrize("model", ["good", "useless", "hopeless", "rounded"])
def test_share_of_false_claims_is_on_average_below_alpha_under_fdr_control(model: str) -> None:
    rng = np.random.default_rng(3)
    mu, true = claims(rng, (1500, 239), model)
    V = np.where(true, -np.inf, mu)
    shares = []
    for v, t, good in zip(V[:, :199], mu[:, 199:], true[:, 199:], strict=True):
        chosen = select_fdr(v, t, 0.2).selected
        shares.append((chosen & ~good).sum() / max(1, chosen.sum()))
    error = np.std(shares) / np.sqrt(1500)
    assert np.mean(shares) <= 0.2 + 3 * error
    if model == "hopeless":  # the level is met exactly where all claims are false and (n + 1) alpha / m is whole
        assert abs(np.mean(shares) - 0.2) < 4 * error


def test_benjamini_hochberg_by_brute_force() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        V, t = np.round(rng.normal(size=40), 1), np.round(rng.normal(1, 1, size=12), 1)
        found = select_fdr(V, t, 0.3)
        p = found.p_values
        sizes = [r for r in range(13) if r == 0 or (p <= 0.3 * r / 12 + 1e-12).sum() >= r]
        assert np.array_equal(found.selected, p <= 0.3 * max(sizes) / 12 + 1e-12 if max(sizes) else np.zeros(12, bool))
        assert np.array_equal(found.selected, t >= found.cutoff)


@pytest.mark.parametrize("model", ["good", "hopeless", "rounded"])
def test_false_claims_stay_below_their_bounds_at_every_cutoff_together(model: str) -> None:
    rng = np.random.default_rng(7)
    mu, true = claims(rng, (1200, 120), model)
    V = np.where(true, -np.inf, mu)
    kept = 0
    for v, t, good in zip(V[:, :100], mu[:, 100:], true[:, 100:], strict=True):
        curve = false_claim_curve(v, t, 0.1)
        false = (t[~good][:, None] > curve.cutoffs).sum(axis=0)
        kept += bool((false <= curve.max_false).all())
    assert kept / 1200 >= 0.9 - 3 * np.sqrt(0.09 / 1200)
    if model == "hopeless":  # nothing is given away where every claim is false and scores are continuous
        ranks = np.minimum(cdf_band(np.arange(1.0, 101.0), 20, 0.1, side="upper")[:, 1], 101).astype(int)
        exact = rank_box_probability(100, 20, np.ones(20, int), ranks)
        assert 0.9 <= exact < 0.92
        assert abs(kept / 1200 - exact) < 4 * np.sqrt(exact * (1 - exact) / 1200)


def test_curve_is_monotone_counts_right_and_beats_no_single_statement() -> None:
    rng = np.random.default_rng(0)
    mu, true = claims(rng, (560,), "good")
    V, t = np.where(true, -np.inf, mu)[:500], mu[500:]
    curve = false_claim_curve(V, t, 0.1)
    assert (np.diff(curve.cutoffs) < 0).all()
    assert (np.diff(curve.n_selected) >= 0).all()
    assert (np.diff(curve.max_false) >= 0).all()
    assert (np.diff(curve.max_false) <= np.diff(curve.n_selected)).all()
    assert np.array_equal(curve.n_selected, [(t > c).sum() for c in curve.cutoffs])
    assert curve.n_selected[-1] == 60
    for eta in (2, 5, 10):  # the price of looking
        chosen = curve.n_selected[curve.max_false <= eta].max()
        assert chosen <= select_count(V, t, 0.1, eta).selected.sum()
    assert curve.at_most(1.0).all()
    for share in (0.2, 0.4):
        picked = curve.at_most(share)
        i = np.flatnonzero(curve.n_selected == picked.sum())
        assert curve.max_false[i].min() <= share * max(1, picked.sum())
    assert not false_claim_curve(V[:20], t, 0.1).at_most(0.0).any()


def test_selection_of_a_calibrated_model_is_that_of_its_predictions_both_ways() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(560, 1))
    y = x[:, 0] + rng.normal(size=560) / 2
    model = BatchConformal(First()).calibrate(x[:500], y[:500])
    found = model.select(x[500:], 0.5, alpha=0.1, max_false=3)
    direct = select_count(np.where(y[:500] > 0.5, -np.inf, x[:500, 0]), x[500:, 0], 0.1, 3)
    assert np.array_equal(found.selected, direct.selected)
    assert found.cutoff == direct.cutoff
    assert found.selected.any()
    mirrored = BatchConformal(First()).calibrate(-x[:500], -y[:500]).select(-x[500:], -0.5, 0.1, 3, side="below")
    assert np.array_equal(mirrored.selected, found.selected)
    assert np.array_equal(
        model.select(x[500:], 0.5, 0.2, control="fdr").selected, select_fdr(direct.null_scores, x[500:, 0], 0.2).selected
    )
    curve = model.select_curve(x[500:], 0.5, 0.1)
    assert np.array_equal(curve.max_false, false_claim_curve(direct.null_scores, x[500:, 0], 0.1).max_false)


def test_own_thresholds_select_by_margin() -> None:
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(800):
        x = rng.normal(size=(120, 1))
        y, c = x[:, 0] + rng.normal(size=120), rng.normal(size=120)
        model = BatchConformal(First()).calibrate(x[:100], y[:100])
        found = model.select(x[100:], c[100:], 0.2, 2, calibration_threshold=c[:100])
        assert np.array_equal(found.selected, x[100:, 0] - c[100:] > found.cutoff)
        broken += (y[100:] <= c[100:])[found.selected].sum() > 2
    assert broken / 800 <= 0.2 + 3 * np.sqrt(0.16 / 800)
    kept = BatchConformal(First(), random_state=0)
    kept.calibrate(x[:100], y[:100], shift_weights=rng.random(100), bound=1.0)
    rows = kept.kept_
    direct = select_count(np.where(y[rows] > c[rows], -np.inf, x[rows, 0] - c[rows]), x[100:, 0] - c[100:], 0.2, 4)
    assert kept.select(x[100:], c[100:], 0.2, 4, calibration_threshold=c[:100]).cutoff == direct.cutoff
    one = model.select(x[100:], 0.3, 0.2, 2)
    many = model.select(x[100:], np.full(20, 0.3), 0.2, 2, calibration_threshold=np.full(100, 0.3))
    assert np.array_equal(one.selected, many.selected)


def test_classifier_claims_a_label() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 1))
    y = np.where(x[:, 0] + rng.normal(size=1200) / 2 > 0, "good", "bad")
    model = BatchConformal(LogisticRegression().fit(x[:100], y[:100]), score="lac").calibrate(x[100:1100], y[100:1100])
    found = model.select(x[1100:], positive="good", alpha=0.1, max_false=5)
    assert found.selected.sum() > 20
    assert (y[1100:][found.selected] == "bad").sum() <= 5
    assert np.allclose(found.scores, model.estimator.predict_proba(x[1100:])[:, 1])
    assert np.array_equal(np.isneginf(found.null_scores), y[100:1100] == "good")
    with pytest.raises(ModelMismatch, match="labels have no threshold"):
        model.select(x[1100:], 0.5)
    with pytest.raises(DatumwiseError, match="does not know the label 'fine'"):
        model.select(x[1100:], positive="fine")
    with pytest.raises(DatumwiseError, match="both given"):
        model.select(x[1100:], 0.5, positive="good")


def test_nothing_below_the_needed_size_and_something_at_it() -> None:
    rng = np.random.default_rng(0)
    need = required_calibration_size(10, 0.1)
    assert need == 90
    with pytest.raises(DatumwiseError, match="need n >= 90; got n = 89"):
        select_count(rng.normal(size=89), rng.normal(size=10), 0.1)
    assert np.isfinite(select_count(rng.normal(size=90), rng.normal(size=10), 0.1).cutoff)
    with pytest.warns(UserWarning, match="nothing is selected"):
        assert not select_count(rng.normal(size=89), np.full(10, 99.0), 0.1, allow_infinite=True).selected.any()
    with pytest.raises(DatumwiseError, match="need n >= 9; got n = 8"):
        select_fdr(rng.normal(size=8), rng.normal(size=10), 0.1)
    assert select_fdr(rng.normal(size=9), np.full(10, 99.0), 0.1).selected.all()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda V, t: select_count(V, t, 1.0), "alpha"),
        (lambda V, t: select_fdr(V, t, 0.0), "alpha"),
        (lambda V, t: select_count(V, t, 0.1, 5), "max_false"),
        (lambda V, t: select_count(V, t, 0.1, -1), "max_false"),
        (lambda V, t: select_count(np.append(V, np.nan), t, 0.1, 1), "calibration scores has NaN in 1 row: 100"),
        (lambda V, t: select_count(np.append(V, np.inf), t, 0.1, 1), "calibration scores has NaN or infinity in 1 row: 100"),
        (lambda V, t: select_count(V, np.append(t, -np.inf), 0.1, 1), "test scores has NaN or infinity"),
        (lambda V, t: select_count(V, [], 0.1, 1), "test scores is empty"),
        (lambda V, t: null_scores(V, V[1:], 0.0), "100 predictions and 99 outcomes"),
        (lambda V, t: null_scores(V, V, np.nan), "threshold has NaN"),
        (lambda V, t: null_scores(V, V, [0.0, 1.0]), "thresholds of shape"),
        (lambda V, t: null_scores(V, V, 0.0, side="over"), "choose above or below"),
        (lambda V, t: false_claim_curve(V, t, 0.1).at_most(2.0), "share"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, sentence: str) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DatumwiseError, match=sentence):
        call(rng.normal(size=100), rng.normal(size=5))


def test_bad_questions_to_a_calibrated_model_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(100, 1))
    model = BatchConformal(First()).calibrate(x, x[:, 0])
    with pytest.raises(DatumwiseError, match="needs a threshold"):
        model.select(x[:5])
    with pytest.raises(SchemaMismatch, match="several thresholds need calibration_threshold"):
        model.select(x[:5], np.zeros(5))
    with pytest.raises(SchemaMismatch, match="100 calibration points and thresholds of shape"):
        model.select(x[:5], np.zeros(5), calibration_threshold=np.zeros(99))
    with pytest.raises(DatumwiseError, match="there is no control 'fwer'"):
        model.select(x[:5], 0.0, control="fwer")
    with pytest.raises(DuplicateId, match="ids occur twice: a"):
        model.select(x[:5], 0.0, max_false=1, ids=list("abcda"))
    with pytest.raises(SchemaMismatch, match="5 datapoints and ids of shape"):
        model.select(x[:5], 0.0, max_false=1, ids=list("abcd"))
    with pytest.raises(SchemaMismatch, match="it uses y"):
        BatchConformal().calibrate_scores(x[:, 0] ** 2).select(5, 0.0)
    with pytest.raises(ModelMismatch, match="needs a classifier"):
        model.select(x[:5], positive=1)
