"""Claims about which labels to buy."""

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.evaluate.label_budget import LearningCurve, budget_curve, buy_advice, fit_learning_curve

N = (10, 20, 40, 80, 160)


@pytest.mark.parametrize("true", [LearningCurve(0.9, 1.2, 0.5), LearningCurve(0.7, 0.4, 0.2), LearningCurve(0.6, 0.0, 0.1)])
def test_an_exact_curve_is_recovered(true):
    found = fit_learning_curve(N, true.at(N))
    np.testing.assert_allclose(found.at([5, 500]), true.at([5, 500]), atol=1e-6)


def test_a_falling_curve_is_fitted_by_its_mean_and_no_curve_promises_more_than_all():
    assert fit_learning_curve(N, [0.7, 0.68, 0.66, 0.65, 0.64]).beta == 0
    steep = fit_learning_curve((10, 20), [0.2, 0.99])
    assert steep.alpha <= 1
    assert steep.at(10**9) <= 1
    assert steep.at(1) >= 0


def test_a_budget_buys_fewer_of_what_costs_more():
    curves = {"easy": LearningCurve(0.8, 1, 0.5), "hard": LearningCurve(0.9, 1, 0.5)}
    found = budget_curve(curves, {"easy": 1, "hard": 4}, [3, 400])
    np.testing.assert_allclose(found["easy"], curves["easy"].at([3, 400]))
    np.testing.assert_allclose(found["hard"], [np.nan, 0.9 - 100**-0.5])


def test_the_advice_turns_with_the_price():
    rng = np.random.default_rng(0)
    easy, hard = LearningCurve(0.80, 1.0, 0.5), LearningCurve(0.88, 1.0, 0.5)
    measured = {name: {n: c.at(n) + 0.005 * rng.normal(size=5) for n in N} for name, c in (("easy", easy), ("hard", hard))}
    cheap = buy_advice(measured, {"easy": 1, "hard": 1}, 160, random_state=0)
    dear = buy_advice(measured, {"easy": 1, "hard": 16}, 160, random_state=0)
    assert (cheap.level, dear.level) == ("hard", "easy")
    assert dear.labels == {"easy": 160, "hard": 10}
    assert cheap.share["hard"] > 0.95
    assert dear.share["easy"] > 0.95
    assert sum(dear.share.values()) == pytest.approx(1)
    assert "label easy items" in str(dear)
    assert buy_advice(measured, {"easy": 1, "hard": 500}, 160, random_state=0).level == "easy"


def test_a_level_without_doubt_wins_every_draw_and_ties_are_shared():
    same = {n: [0.5, 0.5] for n in N}
    assert buy_advice({"easy": same, "hard": same}, {"easy": 1, "hard": 1}, 50, random_state=0).share == {
        "easy": 0.5,
        "hard": 0.5,
    }


def test_bad_input_is_refused():
    with pytest.raises(SchemaMismatch, match="two numbers of labels"):
        fit_learning_curve([10], [0.5])
    with pytest.raises(NotFinite, match="holds NaN"):
        fit_learning_curve([10, 20], [0.5, np.nan])
    points = {"easy": {10: [0.5], 20: [0.6]}}
    with pytest.raises(DatumwiseError, match="'easy' has no price"):
        buy_advice(points, {}, 5)
    with pytest.raises(DatumwiseError, match="must be above 0; got 0"):
        buy_advice(points, {"easy": 0}, 5)
    with pytest.raises(DatumwiseError, match="buys no label"):
        buy_advice(points, {"easy": 10}, 5)
    with pytest.raises(DatumwiseError, match="a budget must be"):
        buy_advice(points, {"easy": 10}, 0)
