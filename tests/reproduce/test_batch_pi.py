"""Batch PI: the published simulations keep their promise here, and the published scripts' defects are seen and not shared."""

import importlib.util
import json
import math
import re

import numpy as np
import pytest
from scipy.special import comb

from datumwise.errors import DatumwiseError, MissingExtra, SourceError, UnknownName
from datumwise.predict.batch_bounds import batch_sum_bound
from datumwise.predict.order_statistics import order_statistic_rank, rank_pmf
from datumwise.predict.rank_sum import rank_sum_pmf
from datumwise.progress import SILENT
from datumwise.reproduce import batch_pi, batch_pi_studies
from datumwise.reproduce.batch_pi_studies import (
    batch_coverage,
    counterfactual,
    diabetes_splits,
    disjoint_splits,
    fair_predictions,
    false_claims,
    iid_rank_levels,
    mean_bounds,
    read_predictions,
    simulation_1,
    simulation_selection,
)
from datumwise.reproduce.frame import reproduce


def published_rank(n, m, z, alpha):
    """The rank by plain binomial coefficients in floating point, as published."""
    total = comb(n + m, m)
    with np.errstate(invalid="ignore", over="ignore"):
        law = [comb(k + z - 2, z - 1) * comb(n + m - k - z + 1, m - z) / total for k in range(1, n + 2)]
    reached = np.flatnonzero(np.cumsum(law) >= 1 - alpha)
    return int(reached[0]) + 1 if len(reached) else None


# -------------------------------------------------------------------------------------------------- the simulations


def test_coverage_of_exchangeable_scores_is_the_exact_one():
    scores = np.random.default_rng(0).exponential(size=(20_000, 130))
    for c in batch_coverage(scores[:, :100], scores[:, 100:], [0.05, 0.1, 0.3]):
        assert abs(c.often - c.exact) < 4 * math.sqrt(c.exact * (1 - c.exact) / 20_000)
    plain, *batch = batch_coverage(scores[:, :100], scores[:, 100:], [0.05, 0.1, 0.3])
    assert plain.exact == pytest.approx(rank_pmf(100, 30, 27)[:91].sum())
    assert all(c.exact >= 1 - c.alpha for c in batch)
    assert plain.exact < 0.7


def test_the_sizes_of_the_paper_give_the_known_probabilities():
    found = batch_coverage(
        np.random.default_rng(0).random((2, 500)), np.random.default_rng(1).random((2, 100)), [0.05, 0.1, 0.2, 0.3]
    )
    # the drug-target files on disjoint splits: .586, .960, .911, .816, .711, each with an error below .008
    for c, seen in zip(found, (0.586, 0.960, 0.911, 0.816, 0.711), strict=True):
        assert abs(c.exact - seen) < 0.011


def test_simulation_1_keeps_its_promise_and_split_conformal_makes_none(monkeypatch):
    monkeypatch.setattr(batch_pi_studies, "TREES", 40)
    plain, *batch = simulation_1(trials=200, seed=1)
    assert abs(plain.covered.mean() - 0.9) < 0.012
    for c in (plain, *batch):
        assert abs(c.often - c.exact) < 4 * max(c.error, 0.008)
    widths = [c.width.mean() for c in (plain, *batch)]
    assert widths == sorted(widths)
    assert [c.alpha for c in batch] == [0.1, 0.05, 0.01]


def test_simulated_claims_are_false_as_often_as_the_law_says(monkeypatch):
    monkeypatch.setattr(batch_pi_studies, "TREES", 10)
    found = simulation_selection(n=300, m=30, trials=150, etas=(0, 3), seed=2)
    for s in found:
        assert abs(s.often - s.exact) < 4 * math.sqrt(s.exact * (1 - s.exact) / 150)
        assert s.exact <= 0.1
    assert found[1].true.mean() > found[0].true.mean()


def test_counterfactual_statements_hold_by_rejection_sampling():
    found = counterfactual(trials=60, alphas=(0.1, 0.3), seed=3)
    for name in ("median", "quartiles", "mean", "mean, shaped"):
        asked = 1 - found["alphas"]
        assert (found[name] >= asked - 4 * np.sqrt(asked * (1 - asked) / 60)).all()
    assert 60 < found["kept"][0] < 90  # of 200
    assert (found["shaped bound"] < found["bound"]).all()
    assert (found["bound"] < 1).all()


def test_mean_bounds_are_as_tight_as_they_were():
    """The table of section 3 within 6 %: a bound that is valid and too wide would pass every test of coverage."""
    known = {
        (40, 10, "U(0, 1)"): (0.705, 0.706, 1.0, 1.0, 0.617), (100, 20, "Beta(1, 6)"): (0.592, 0.229, None, None, 0.179),
        (100, 10, "Beta(1, 6)"): (0.625, 0.249, 0.206, 0.568, 0.194), (200, 10, "U(0, 1)"): (0.656, 0.658, 0.628, 0.990, 0.619),
    }  # fmt: skip
    rules = ("rank sum", "shaped", "partition", "Bonferroni", "oracle")
    for b in mean_bounds(list(known), trials=25, seed=4):
        expected = known[b.n, b.m, b.law][rules.index(b.rule)]
        if expected is not None:
            assert b.bound == pytest.approx(expected, rel=0.06)
        assert b.coverage >= 0.9 - 4 * 0.3 / math.sqrt(25)


def test_diabetes_splits_are_covered_as_often_as_the_law_says():
    plain, batch = diabetes_splits(trials=300, seed=5)
    assert batch.exact == pytest.approx(0.935, abs=5e-4)
    assert abs(batch.often - batch.exact) < 4 * math.sqrt(0.935 * 0.065 / 300)
    assert abs(plain.often - plain.exact) < 4 * math.sqrt(0.25 / 300)
    assert 1.05 < batch.width.mean() / plain.width.mean() < 1.2
    assert 184 < plain.width.mean() < 190  # of rows that the model has not seen; its own training rows give 181


def test_the_survey_is_whole_and_predicted_by_a_model_that_has_not_seen_it():
    y, prediction = fair_predictions(seed=0)
    assert len(y) == 5000
    assert len(np.unique(y)) == 7
    assert 0.4 < 1 - np.var(y - prediction) / np.var(y) < 0.95


# ----------------------------------------------------------------------------------- defects of the published scripts


@pytest.mark.parametrize(
    ("size", "budgets", "levels"),
    [
        ((40, 10), (272, 258, 242), (0.935, 0.878, 0.782)),
        ((20, 20), None, (0.890, 0.830, 0.736)),
        ((50, 40), None, (0.893, 0.833, 0.737)),
    ],
)
def test_independent_ranks_give_a_budget_that_is_too_small(size, budgets, levels):
    found = iid_rank_levels([size])
    assert [r.level for r in found] == pytest.approx(levels, abs=3e-3)
    assert all(r.level < r.claimed - 0.01 and r.published < r.ours for r in found)
    if budgets:
        assert tuple(r.published for r in found) == budgets
        assert tuple(r.ours for r in found) == (278, 263, 245)
    n, m = size
    ours = np.cumsum(rank_sum_pmf(n, m))
    assert all(ours[r.ours - m] >= r.claimed - 1e-12 > ours[r.ours - m - 1] for r in found)


def test_independent_ranks_are_seen_to_fall_short_in_a_simulation():
    """Ranks of real batches, against the published budget: exactly the level that the exact law gives it."""
    rng = np.random.default_rng(6)
    scores = rng.random((20_000, 40))
    order = scores.argsort(axis=1).argsort(axis=1)
    places = np.sort(order[:, 20:], axis=1)  # of 20 new scores among 40
    total = (places - np.arange(20) + 1).sum(axis=1)
    for r in iid_rank_levels([(20, 20)]):
        assert abs((total <= r.published).mean() - r.level) < 4 * math.sqrt(0.25 / 20_000)
        assert (total <= r.ours).mean() >= r.claimed - 4 * math.sqrt(0.25 / 20_000)


def test_the_bounds_of_the_experiment_before_say_nothing_of_this_one():
    """The published script of five laws checks every law against bounds left over from the counterfactual mean."""
    rng = np.random.default_rng(7)
    left_over = counterfactual(trials=5, alphas=(0.2,), seed=8)["bound"][0]  # n about 37, m = 5, other scores
    means = rng.random((200, 10)).mean(axis=1)
    own = [
        batch_sum_bound(rng.random(40), 10, 0.2, side="upper", method="rank_sum", score_bounds=(0, 1)).upper for _ in range(200)
    ]
    assert (means <= left_over).all()  # 100 % whatever the level: it would hide any mistake
    assert 0.87 < np.mean(means <= own) < 1
    assert left_over > np.mean(own) + 0.1


def test_calibration_rows_and_batches_are_disjoint():
    """The published drug-target files hold the same rows twice; of its tests' rows 3 % are then calibration rows."""
    y = np.arange(300.0)
    ys, predictions = disjoint_splits(y, -y, 200, 50, 20)
    np.testing.assert_array_equal(ys, -predictions)
    assert all(len(np.unique(row)) == 250 for row in ys)
    with pytest.raises(DatumwiseError, match=re.escape("300 rows cannot be dealt to 280 and 50: at least 330 rows")):
        disjoint_splits(y, y, 280, 50, 1)


def test_published_ranks_equal_ours_until_their_coefficients_overflow():
    for n, m, z, alpha in ((200, 100, 90, 0.1), (500, 100, 90, 0.05), (40, 10, 5, 0.2)):
        assert published_rank(n, m, z, alpha) == order_statistic_rank(n, m, z, alpha)
    assert published_rank(2000, 500, 450, 0.1) is None  # C(2500, 500) is infinite in floats
    rank = order_statistic_rank(2000, 500, 450, 0.1)
    law = np.cumsum(rank_pmf(2000, 500, 450))
    assert law[rank - 1] >= 0.9 > law[rank - 2]


def test_a_rank_beyond_the_calibration_scores_is_infinity_and_no_missing_number():
    """The published drug-target script takes the (n + 1)-th of n scores; another stands 100,000 in for infinity."""
    scores = np.full((3, 30), 1e6)
    scores[:, :20] = np.arange(20.0)
    assert order_statistic_rank(20, 10, 10, 0.1) == 21
    _, batch = batch_coverage(scores[:, :20], scores[:, 20:], [0.1], delta=0.05)
    assert (batch.covered == 1).all()
    assert np.isinf(batch.width).all()


def test_published_selection_scores_lose_finds_where_predictions_are_negative():
    rng = np.random.default_rng(9)
    signal = rng.normal(size=(200, 350))
    y, prediction = signal + 0.5 * rng.normal(size=signal.shape), signal - 10  # all predictions are negative
    parts = (prediction[:, :300], y[:, :300], prediction[:, 300:], y[:, 300:])
    (ours,) = false_claims(*parts, 0.5, [2], 0.1)
    (theirs,) = false_claims(*parts, 0.5, [2], 0.1, published=True)
    (shifted,) = false_claims(parts[0] + 20, parts[1], parts[2] + 20, parts[3], 0.5, [2], 0.1, published=True)
    assert theirs.true.sum() == 0  # a true claim's score of 0 lies above every prediction
    assert ours.true.mean() > 5
    np.testing.assert_array_equal(ours.true, shifted.true)  # and for positive predictions both are the same
    assert ours.often <= 0.1 + 4 * ours.error


def test_a_prediction_at_the_cutoff_is_not_claimed():
    cal = np.tile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], (1, 1))
    batch = np.array([[9.0, 9.5]])
    (found,) = false_claims(cal, 0 * cal, batch, np.array([[1.0, 1.0]]), 0.5, [1], 0.2)
    rank = order_statistic_rank(9, 2, 1, 0.2)
    assert found.true.tolist() == [int((batch > rank).sum())]
    (found,) = false_claims(cal, 0 * cal, np.array([[float(rank)] * 2]), np.array([[1.0, 1.0]]), 0.5, [1], 0.2)
    assert found.true.tolist() == [0]


# -------------------------------------------------------------------------------------------------- the experiment


@pytest.fixture
def quick(monkeypatch):
    """The forest and the counterfactual trials as small as they can be."""
    monkeypatch.setattr(batch_pi_studies, "TREES", 3)
    monkeypatch.setattr(batch_pi, "counterfactual", lambda **o: counterfactual(**{**o, "trials": 4}))
    settings = [(40, 10, "Beta(1, 6)"), (100, 10, "Beta(1, 6)")]
    monkeypatch.setattr(batch_pi, "mean_bounds", lambda **o: mean_bounds(settings, **o))


@pytest.mark.slow
def test_small_writes_a_table_a_figure_and_a_verdict(quick, tmp_path):
    found = batch_pi.small(seed=0, stage=SILENT, trials=60, splits=60, repeats=2).write(tmp_path)
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["claims"][0]["claim"].startswith("split conformal at 90 % covers 90 % on average")
    claims = {c["claim"]: c for c in saved["claims"]}
    published = next(c for name, c in claims.items() if "published script's budget" in name)
    assert published["holds"] is False
    assert published["ours"] == "0.934 / 0.878 / 0.782"
    batch = next(row for row in saved["rows"] if row["rule"] == "batch PI, alpha = 0.1")
    assert batch["published"] == 0.878
    assert batch["exact"] == pytest.approx(0.9020, abs=1e-4)
    assert {row["study"] for row in saved["rows"]} >= {"claims, marriage", "90 of 100 intervals, diabetes", "counterfactual"}
    assert "On real data (diabetes:" in found.verdict
    assert (tmp_path / "figure.png").stat().st_size > 20_000
    assert "At least 90 of 100 covered" in (tmp_path / "figure.svg").read_text()


def test_paper_reads_predictions_of_drug_target_pairs(quick, tmp_path):
    rng = np.random.default_rng(10)
    y = rng.normal(7, 1, size=2400)
    path = tmp_path / "pairs.csv"
    path.write_text("prediction,y\n" + "\n".join(f"{p},{v}" for p, v in zip(y + rng.normal(size=2400), y, strict=True)))
    found = batch_pi.paper(data=f"dti={path}", seed=0, stage=SILENT, trials=20, splits=40, repeats=3)
    dti = [row for row in found.rows if row["study"] == "90 of 100 intervals, dti"]
    assert [row["published"] for row in dti] == [0.586, 0.960, 0.911, 0.816, 0.711]
    assert [round(row["exact"], 3) for row in dti] == [0.585, 0.956, 0.905, 0.808, 0.702]
    assert any(row["study"] == "claims, dti" and row["published"] == 0.088 for row in found.rows)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (None, SourceError, "--data dti=FILE.csv with the columns y and prediction"),
        ("dti", SourceError, "needs predictions of drug-target interactions"),
        ("davis=x.csv", UnknownName, "there is no data set 'davis' here"),
        ("dti=nowhere.csv", SourceError, "cannot read nowhere.csv"),
    ],
)
def test_paper_says_what_it_needs(data, error, words):
    with pytest.raises(error, match=re.escape(words)):
        reproduce("batch-pi", "paper", data=data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("y,p\n1,2\n", "has no column prediction"),
        ("y,prediction\n1,2\n3,x\n", "column prediction of"),
        ("y,prediction\n1,nan\n", "column prediction of"),
        ("y,prediction\n", "column y of"),
    ],
)
def test_a_table_that_is_no_table_of_predictions_is_refused(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=words):
        read_predictions(path)


def test_a_short_table_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("y,prediction\n" + "1,2\n" * 100)
    with pytest.raises(SourceError, match="100 rows: at least 2,100"):
        batch_pi.paper(data=f"dti={path}", stage=SILENT)


def test_small_takes_no_data():
    with pytest.raises(DatumwiseError, match="use --scale paper"):
        reproduce("batch-pi", data="dti=x.csv")


def test_the_survey_needs_statsmodels(monkeypatch):
    monkeypatch.setattr(
        batch_pi_studies, "find_spec", lambda name: None if name == "statsmodels" else importlib.util.find_spec(name)
    )
    with pytest.raises(MissingExtra, match=re.escape("pip install 'datumwise[reproduce]'")):
        fair_predictions()
