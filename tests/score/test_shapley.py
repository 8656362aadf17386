"""Shapley values and their kin against the definition, order by order and set by set."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import beta as beta_function
from scipy.special import comb
from value_cases import random_game, semivalue_by_sets, shapley_by_permutations, three_blobs

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.score import knn_shapley
from datumwise.score.shapley import beta_shapley, exact_semivalue, semivalue_sizes, tmc_shapley
from datumwise.score.utility import GameUtility, utility

X, Y, _ = three_blobs(30, 0, spread=2.0)
X_VAL, Y_VAL, _ = three_blobs(60, 1, spread=2.0)


def test_exact_equals_all_permutations():
    game, worth = random_game(6)
    np.testing.assert_allclose(exact_semivalue(game).values, shapley_by_permutations(worth, 6), atol=1e-12)


def test_exact_values_sum_to_what_all_rows_add():
    game, worth = random_game(10, 1)
    assert exact_semivalue(game).values.sum() == pytest.approx(worth[-1] - worth[0], abs=1e-12)


def test_a_dummy_is_worth_nothing_and_equals_are_worth_the_same():
    game = GameUtility(5, lambda masks: np.sqrt(masks[:, [0, 1, 2]].sum(axis=1)) * masks[:, 3])  # row 4 never counts
    values = exact_semivalue(game).values
    assert abs(values[4]) < 1e-14
    np.testing.assert_allclose(values[:3], values[0], atol=1e-14)


def test_the_value_of_a_sum_of_games_is_the_sum_of_the_values():
    (one, a), (two, b) = random_game(7, 1), random_game(7, 2)
    both = GameUtility(7, lambda masks: (a + 2 * b)[masks @ (1 << np.arange(7))])
    np.testing.assert_allclose(
        exact_semivalue(both).values, exact_semivalue(one).values + 2 * exact_semivalue(two).values, atol=1e-12
    )


def test_exact_counts_every_set_but_the_empty_one_once():
    game, _ = random_game(8)
    found = exact_semivalue(game)
    assert (found.utility_calls, found.draws) == (255, 256)
    assert not found.stderr.any()


@pytest.mark.parametrize(("a", "b"), [(16.0, 1.0), (1.0, 16.0), (4.0, 2.0)])
def test_exact_beta_has_the_weights_of_kwon_and_zou(a, b):
    """Their eq. 5: w(j) = n B(j + beta - 1, n - j + alpha)/B(alpha, beta), j = |S| + 1, over n."""
    game, worth = random_game(7, 3)
    expected = semivalue_by_sets(worth, 7, lambda size: beta_function(size + b, 7 - size - 1 + a) / beta_function(a, b))
    np.testing.assert_allclose(exact_semivalue(game, semivalue="beta", alpha=a, beta=b).values, expected, atol=1e-12)


def test_beta_one_one_is_shapley():
    game, _ = random_game(8)
    np.testing.assert_allclose(
        exact_semivalue(game, semivalue="beta", alpha=1, beta=1).values, exact_semivalue(game).values, atol=1e-12
    )
    one = beta_shapley(game, alpha=1, beta=1, n_permutations=50, tolerance=0, random_state=0)
    two = tmc_shapley(game, n_permutations=50, tolerance=0, random_state=0)
    np.testing.assert_allclose(one.values, two.values, atol=1e-12)


def test_exact_banzhaf_weighs_all_sets_alike():
    game, worth = random_game(7, 4)
    expected = semivalue_by_sets(worth, 7, lambda size: 2.0**-6)
    np.testing.assert_allclose(exact_semivalue(game, semivalue="banzhaf").values, expected, atol=1e-12)
    weighted = semivalue_by_sets(worth, 7, lambda size: 0.3**size * 0.7 ** (6 - size))
    np.testing.assert_allclose(exact_semivalue(game, semivalue="banzhaf", p=0.3).values, weighted, atol=1e-12)


def test_exact_leave_one_out_is_the_last_marginal():
    game, worth = random_game(6)
    expected = [worth[-1] - worth[63 - (1 << i)] for i in range(6)]
    np.testing.assert_allclose(exact_semivalue(game, semivalue="loo").values, expected, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 40, 1000])
@pytest.mark.parametrize("semivalue", ["shapley", "beta", "banzhaf", "loo"])
def test_sizes_are_a_distribution(n, semivalue):
    sizes = semivalue_sizes(n, semivalue)
    assert sizes.shape == (n,)
    assert sizes.min() >= 0
    assert sizes.sum() == pytest.approx(1, abs=1e-9)


def test_exact_knn_values_equal_the_closed_form():
    game = utility(X[:10], Y[:10], X_VAL, Y_VAL, "knn", k=3)
    np.testing.assert_allclose(exact_semivalue(game).values, knn_shapley(X[:10], Y[:10], X_VAL, Y_VAL, 3), atol=1e-12)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(
    ("sampled", "exact"),
    [
        (tmc_shapley, {}),
        (beta_shapley, {"semivalue": "beta"}),
    ],
)
def test_sampled_values_lie_within_four_standard_errors_of_the_exact(sampled, exact, antithetic):
    game, _ = random_game(9, 5)
    found = sampled(game, n_permutations=3000, tolerance=0, antithetic=antithetic, random_state=0)
    truth = exact_semivalue(game, **exact).values
    assert found.stderr.min() > 0
    assert (np.abs(found.values - truth) < 4 * found.stderr).all()


def test_sampled_values_of_many_rows_agree_with_the_closed_form():
    found = tmc_shapley(utility(X, Y, X_VAL, Y_VAL, "knn"), n_permutations=2000, tolerance=0, random_state=1)
    z = (found.values - knn_shapley(X, Y, X_VAL, Y_VAL)) / found.stderr
    assert np.abs(z).max() < 4
    assert 0.7 < z.std() < 1.3


def test_intervals_cover_the_exact_value_as_often_as_they_say():
    game, _ = random_game(6, 6)
    truth = exact_semivalue(game).values
    inside = 0
    for seed in range(300):
        low, high = tmc_shapley(game, n_permutations=40, tolerance=0, random_state=seed).interval(0.9)
        inside += ((low <= truth) & (truth <= high)).sum()
    assert 0.86 < inside / (300 * 6) < 0.93  # normal intervals of 40 draws: a little short of 0.9


def test_whole_permutations_share_out_exactly_what_all_rows_add():
    game = utility(X, Y, X_VAL, Y_VAL)
    found = tmc_shapley(game, n_permutations=20, tolerance=0, random_state=0)
    assert found.values.sum() == pytest.approx(game.full() - game.empty, abs=1e-12)


def test_truncation_loses_no_more_than_its_tolerance_and_saves_calls():
    whole = tmc_shapley(utility(X, Y, X_VAL, Y_VAL), n_permutations=50, tolerance=0, random_state=0)
    game = utility(X, Y, X_VAL, Y_VAL)
    cut = tmc_shapley(game, n_permutations=50, tolerance=0.05, random_state=0)
    assert abs(cut.values.sum() - (game.full() - game.empty)) <= 0.05 * game.full()
    assert cut.utility_calls < 0.9 * whole.utility_calls
    assert whole.utility_calls == 50 * 30 + 1


def test_beta_of_small_sets_walks_only_as_far_as_its_weights_reach():
    game, _ = random_game(10)
    wide = GameUtility(400, lambda masks: np.minimum(masks.sum(axis=1), 3.0))
    found = beta_shapley(wide, alpha=64, beta=1, n_permutations=4, tolerance=0, random_state=0)
    assert found.utility_calls < 0.6 * 4 * 400
    assert game.n == 10


def test_antithetic_orders_are_surer_for_the_same_number_of_walks():
    game = utility(X, Y, X_VAL, Y_VAL, "knn")
    plain, paired = (tmc_shapley(game, n_permutations=400, tolerance=0, antithetic=a, random_state=0) for a in (False, True))
    assert paired.draws == plain.draws
    assert (paired.stderr**2).mean() < 0.9 * (plain.stderr**2).mean()


def test_precision_stops_the_walks_and_says_so():
    game = utility(X, Y, X_VAL, Y_VAL, "knn")
    reached = tmc_shapley(game, n_permutations=5000, tolerance=0, precision=0.01, random_state=0)
    assert reached.converged
    assert reached.draws < 5000
    assert reached.stderr.max() <= 0.01
    missed = tmc_shapley(game, n_permutations=40, precision=1e-9, random_state=0)
    assert missed.converged is False
    assert tmc_shapley(game, n_permutations=2, random_state=0).converged is None


def test_a_seed_repeats_and_the_global_state_is_left_alone():
    game, _ = random_game(6)
    np.random.seed(0)  # noqa: NPY002 - the global state is what is watched here
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = (tmc_shapley(game, n_permutations=10, random_state=3).values for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_progress_ends_with_all_permutations():
    game, _ = random_game(5)
    seen = []
    tmc_shapley(game, n_permutations=10, random_state=0, progress=lambda *at: seen.append(at))
    assert seen[-1] == (10, 10)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda g: exact_semivalue(GameUtility(21, lambda m: m.sum(axis=1))), r"21 rows have 2\^21 subsets: method='tmc'"),
        (lambda g: tmc_shapley(g, n_permutations=1), "1 permutation has no standard error"),
        (lambda g: tmc_shapley(g, tolerance=-1), "tolerance = -1 lies below 0"),
        (lambda g: beta_shapley(g, alpha=0), r"Beta\(0, 1.0\) is no distribution"),
        (lambda g: exact_semivalue(g, semivalue="banzhaf", p=1.0), "p = 1.0 is no probability"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(call, says):
    with pytest.raises(DatumwiseError, match=says):
        call(random_game(4)[0])


def test_an_unknown_semivalue_is_refused():
    with pytest.raises(UnknownName, match="no semivalue 'owen'"):
        semivalue_sizes(3, "owen")


def test_sizes_of_beta_follow_the_binomial_formula():
    n, a, b = 9, 3.0, 2.0
    j = np.arange(n)
    expected = comb(n - 1, j) * beta_function(j + b, n - 1 - j + a) / beta_function(a, b)
    np.testing.assert_allclose(semivalue_sizes(n, "beta", alpha=a, beta=b), expected, atol=1e-14)
