"""Scores and their inversions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from datumwise.errors import DatumwiseError
from datumwise.predict.scores import (
    LABEL_SCORES,
    REGRESSION_SCORES,
    label_scores,
    label_sets,
    regression_scores,
    score_intervals,
    score_limits,
)


def predicted(score: str, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    mu = rng.normal(size=n)
    if score == "cqr":
        return np.column_stack([mu - rng.random(n), mu + rng.random(n)]), None
    return mu, rng.random(n) + 0.1 if score == "normalized" else None


@pytest.mark.parametrize("score", REGRESSION_SCORES)
def test_interval_holds_exactly_the_outcomes_whose_score_is_at_most_the_threshold(score: str) -> None:
    rng = np.random.default_rng(0)
    mu, scale = predicted(score, rng, 40)
    ends = score_intervals(score, 0.7, mu, scale)
    for y in np.linspace(-4, 4, 201):
        inside = (ends[:, 0] <= y) & (y <= ends[:, 1])
        assert np.array_equal(inside, regression_scores(score, np.full(40, y), mu, scale) <= 0.7)


def test_regression_scores_are_their_formulas() -> None:
    y, mu = np.array([1.0, -2.0]), np.array([3.0, -2.5])
    assert regression_scores("absolute", y, mu).tolist() == [2.0, 0.5]
    assert regression_scores("signed", y, mu).tolist() == [-2.0, 0.5]
    assert regression_scores("normalized", y, mu, [4.0, 0.25]).tolist() == [0.5, 2.0]
    assert regression_scores("cqr", y, [[0.0, 3.0], [-1.0, 0.0]]).tolist() == [-1.0, 1.0]


def test_signed_interval_has_two_thresholds_and_infinite_ends() -> None:
    assert score_intervals("signed", np.inf, [1.0], lower_threshold=-2.0).tolist() == [[-1.0, np.inf]]
    assert score_intervals("absolute", np.inf, [1.0]).tolist() == [[-np.inf, np.inf]]
    with pytest.raises(DatumwiseError, match="only score 'signed' has two"):
        score_intervals("absolute", 1.0, [1.0], lower_threshold=0.0)


def test_cqr_interval_that_a_negative_threshold_empties_is_its_middle() -> None:
    assert score_intervals("cqr", -2.0, [[0.0, 1.0], [0.0, 10.0]]).tolist() == [[0.5, 0.5], [2.0, 8.0]]


def by_definition(score: str, p: np.ndarray, label: int, u: float, penalty: float, free: int) -> float:
    if score == "lac":
        return 1 - p[label]
    better = [k for k in range(len(p)) if p[k] > p[label] or (p[k] == p[label] and k < label)]
    mass = sum(p[k] for k in better) + p[label] - u * p[label]
    return mass + (penalty * max(0, len(better) + 1 - free) if score == "raps" else 0.0)


@pytest.mark.parametrize("score", LABEL_SCORES)
@pytest.mark.parametrize("random", [False, True])
def test_label_scores_equal_their_definition_label_by_label(score: str, random: bool) -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(6), size=50)
    p[:10] = np.round(p[:10] * 8) / 8 + 1e-9  # ties
    p /= p.sum(axis=1, keepdims=True)
    u = rng.random(50) if random else np.zeros(50)
    found = label_scores(score, p, uniform=u if random else None, penalty=0.1, free_rank=2)
    shift = 0.0 if score == "lac" else u
    for i in range(50):
        for k in range(6):
            assert found[i, k] == pytest.approx(by_definition(score, p[i], k, np.broadcast_to(shift, 50)[i], 0.1, 2), abs=1e-12)
    low, high = score_limits(score, 6, penalty=0.1, free_rank=2)
    assert low <= found.min()
    assert found.max() <= high


def test_randomised_aps_of_the_true_label_is_uniform_where_the_probabilities_are_true() -> None:
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.full(5, 0.3), size=20_000)
    y = (p.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    found = label_scores("aps", p, uniform=rng.random(20_000))[np.arange(20_000), y]
    assert kstest(found, "uniform").pvalue > 0.01
    plain = label_scores("aps", p)[np.arange(20_000), y]
    assert kstest(plain, "uniform").pvalue < 1e-6  # without the draws it is stochastically larger


def test_label_sets_hold_the_labels_at_or_below_the_threshold_and_are_filled_only_if_empty() -> None:
    table = np.array([[0.2, 0.5, 0.9], [0.6, 0.4, 0.7]])
    assert label_sets(table, 0.5).tolist() == [[True, True, False], [False, True, False]]
    assert label_sets(table, 0.3).tolist() == [[True, False, False], [False, True, False]]
    assert label_sets(table, 0.3, allow_empty=True).tolist() == [[True, False, False], [False, False, False]]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: regression_scores("huber", [1.0], [1.0]), "there is no score 'huber'"),
        (lambda: regression_scores("absolute", [1.0, np.nan, np.nan], [1.0, 1.0, 1.0]), "y has NaN in 2 rows: 1, 2"),
        (lambda: regression_scores("absolute", [1.0], [np.inf]), "prediction has NaN or infinity in 1 row: 0"),
        (lambda: regression_scores("absolute", [1.0], [1.0, 2.0]), "1 outcomes and 2 predictions do not fit"),
        (lambda: regression_scores("absolute", [[1.0]], [1.0]), "one number a datapoint; got shape"),
        (lambda: regression_scores("normalized", [1.0, 2.0], [1.0, 2.0], [1.0, 0.0]), "scale is not above 0 in row 1"),
        (lambda: regression_scores("normalized", [1.0], [1.0]), "'normalized' needs scale"),
        (lambda: regression_scores("normalized", [1.0], [1.0], [1.0, 2.0]), "1 predictions and 2 scales"),
        (lambda: regression_scores("absolute", [1.0], [1.0], [1.0]), "'absolute' takes no scale"),
        (lambda: regression_scores("cqr", [1.0], [1.0]), "low and a high quantile"),
        (lambda: label_scores("abs", [[0.5, 0.5]]), "there is no label score 'abs'"),
        (lambda: label_scores("lac", [[0.5, 0.6], [0.5, 0.5]]), "not probabilities in row 0"),
        (lambda: label_scores("lac", [[1.1, -0.1]]), "not probabilities in row 0"),
        (lambda: label_scores("lac", [[0.5, np.nan]]), "NaN or infinity in row 0"),
        (lambda: label_scores("lac", [[1.0]]), "two classes are needed"),
        (lambda: label_scores("lac", [0.5, 0.5]), "datapoints x classes"),
        (lambda: label_scores("aps", [[0.5, 0.5]], uniform=[2.0]), "one draw from"),
        (lambda: label_scores("raps", [[0.5, 0.5]], penalty=-1.0), "both must be >= 0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, sentence: str) -> None:
    with pytest.raises(DatumwiseError, match=sentence):
        call()
