"""Claims about the supervision gap recovered and about accuracy intervals over items and seeds."""

import numpy as np
import pytest
from scipy.optimize import brentq

from datumwise.errors import NotFinite, SchemaMismatch, UnknownName
from datumwise.evaluate.accuracy_interval import accuracy_interval, grid_draws, seed_variance
from datumwise.evaluate.supervision_gap import supervision_gap_recovered as sgr

ACCURACIES = (0.539, 0.678, 0.719)  # unsupervised, easy, hard, as in the published figures


@pytest.fixture(scope="module")
def lifts():
    skill, weight = np.polynomial.hermite_e.hermegauss(41)
    weight = weight / weight.sum()
    return [brentq(lambda x, a=a: weight @ (1 / (1 + np.exp(-skill - x))) - a, -5, 5) for a in ACCURACIES]


def drawn(rng, lifts, n=400, seeds=5):
    skill = rng.normal(size=(n, 1))
    return [(rng.random((n, seeds)) < 1 / (1 + np.exp(-skill - x))).astype(float) for x in lifts]


def test_the_two_way_interval_covers_and_is_narrower_than_the_grids(lifts):
    true = (ACCURACIES[1] - ACCURACIES[0]) / (ACCURACIES[2] - ACCURACIES[0])
    rng = np.random.default_rng(0)
    covered, ratios = 0, []
    for s in range(400):
        unsup, easy, hard = drawn(rng, lifts)
        found = sgr(easy, hard, unsup)
        covered += found.low <= true <= found.high
        if s < 25:
            grid = sgr(easy, hard, unsup, "grid", n_boot=2000, random_state=s)
            ratios.append((found.high - found.low) / (grid.high - grid.low))
    assert 0.925 <= covered / 400 <= 0.99
    assert 0.5 < np.mean(ratios) < 0.85


def test_the_interval_of_an_accuracy_covers_also_where_seeds_differ():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        skill, seed = rng.normal(size=(200, 1)), 0.5 * rng.normal(size=(1, 5))
        right = rng.random((200, 5)) < 1 / (1 + np.exp(-skill - seed - 0.5))
        found = accuracy_interval(right)
        covered += found.low <= 0.607 <= found.high  # E sigmoid(.5 + N(0, 1.25))
    assert 0.87 <= covered / 400 <= 0.985  # five seeds only: a little narrow; items alone cover about 0.65


def test_as_bad_as_none_is_0_as_good_as_hard_is_1(lifts):
    unsup, _, hard = drawn(np.random.default_rng(0), lifts)
    for method in ("two-way", "grid"):
        assert sgr(unsup, hard, unsup, method, n_boot=500, random_state=0).value == 0
        assert sgr(hard, hard, unsup, method, n_boot=500, random_state=0).value == 1
    one = sgr(hard, hard, unsup)
    assert one.p_easy_hard == 1
    assert one.low <= 1 <= one.high


def test_it_is_affine_invariant_and_swapping_easy_and_hard_inverts_it(lifts):
    unsup, easy, hard = drawn(np.random.default_rng(1), lifts)
    found = sgr(easy, hard, unsup)
    moved = sgr(2 * easy + 3, 2 * hard + 3, 2 * unsup + 3)
    np.testing.assert_allclose((moved.value, moved.low, moved.high), (found.value, found.low, found.high))
    np.testing.assert_allclose(sgr(hard, easy, unsup).value, 1 / found.value)


def test_it_is_not_defined_where_hard_labels_show_no_gain(lifts):
    rng = np.random.default_rng(2)
    unsup, easy, hard = drawn(rng, [lifts[0]] * 3, n=60)
    for method in ("two-way", "grid"):
        found = sgr(easy, hard, unsup, method, n_boot=2000, random_state=0)
        assert not found.defined
        assert np.isnan([found.value, found.low, found.high]).all()
        assert "holds 0" in found.reason
        assert found.gap_low < 0 < found.gap_high
    assert "not defined" in str(found)


def test_fieller_is_wider_above_and_agrees_with_the_delta_method_far_from_zero(lifts):
    unsup, easy, hard = drawn(np.random.default_rng(3), lifts, n=90, seeds=1)
    weak = sgr(easy, hard, unsup)
    if weak.defined:
        assert weak.high - weak.value > weak.value - weak.low  # a ratio's error is skewed
    unsup, easy, hard = drawn(np.random.default_rng(4), [0.0, 2.0, 3.0], n=4000)
    strong = sgr(easy, hard, unsup)
    from datumwise.evaluate import supervision_gap as module

    wanted, module.FIELLER = module.FIELLER, 1e9
    try:
        fieller = sgr(easy, hard, unsup)
    finally:
        module.FIELLER = wanted
    np.testing.assert_allclose((fieller.low, fieller.high), (strong.low, strong.high), atol=1e-3)


def test_p_values_and_the_smallest_gap_are_those_of_the_paired_differences():
    rng = np.random.default_rng(5)
    unsup, easy, hard = (rng.random(300) < p for p in (0.4, 0.6, 0.8))
    found = sgr(easy, hard, unsup)
    difference = hard.astype(float) - unsup
    error = difference.std(ddof=1) / np.sqrt(300)
    np.testing.assert_allclose(found.smallest_gap, 2.8 * error)
    np.testing.assert_allclose((found.gap_high - found.gap_low) / 2, 1.959964 * error, rtol=1e-6)
    assert found.p_easy_hard < 1e-4
    assert found.p_easy_unsupervised < 1e-4


def test_seeds_that_disagree_widen_the_interval(lifts):
    _, _, hard = drawn(np.random.default_rng(6), lifts)
    shaky = hard.copy()
    shaky[:, 0], shaky[:, 1] = 0, 1
    assert seed_variance(shaky) > 50 * seed_variance(hard) >= 0
    assert accuracy_interval(shaky).high - accuracy_interval(shaky).low > 0.5
    assert accuracy_interval(hard[:, :1]).high > accuracy_interval(hard).high - 0.1


def test_seeds_add_their_variance_to_that_of_the_items_once_for_each_matrix():
    rng = np.random.default_rng(12)
    unsup, easy, hard = ((rng.random((300, 4)) < p + 0.15 * rng.normal(size=(1, 4))).astype(float) for p in (0.3, 0.5, 0.7))
    items = np.var(hard.mean(axis=1) - unsup.mean(axis=1), ddof=1) / 300
    assert seed_variance(hard) > items
    expected = 2.8 * np.sqrt(items + seed_variance(hard) + seed_variance(unsup))
    np.testing.assert_allclose(sgr(easy, hard, unsup).smallest_gap, expected)
    half = 1.959964 * np.sqrt(np.var(hard.mean(axis=1), ddof=1) / 300 + seed_variance(hard))
    found = accuracy_interval(hard)
    np.testing.assert_allclose(found.high - found.value, half, rtol=1e-5)


def test_seed_variance_is_the_textbook_two_way_analysis():
    rng = np.random.default_rng(7)
    M = rng.random((30, 4)) + rng.normal(size=(1, 4))
    rows, columns = M.mean(1, keepdims=True), M.mean(0, keepdims=True)
    ms_columns = 30 * ((columns - M.mean()) ** 2).sum() / 3
    ms_residual = ((M - rows - columns + M.mean()) ** 2).sum() / (29 * 3)
    np.testing.assert_allclose(seed_variance(M), (ms_columns - ms_residual) / 120)


def official_grid(matrices, n_boot, rng):
    """The published loop: rows jointly, columns of each matrix independently, gathered and averaged."""
    n = len(matrices[0])
    out = np.empty((len(matrices), n_boot))
    for b in range(n_boot):
        rows = rng.integers(0, n, n)
        for t, M in enumerate(matrices):
            out[t, b] = np.nanmean(M[rows][:, rng.integers(0, M.shape[1], M.shape[1])])
    return out


def test_grid_draws_have_the_distribution_of_the_published_loop():
    rng = np.random.default_rng(8)
    A, B = (rng.random((60, 3)) < 0.6).astype(float), (rng.random((60, 5)) < 0.4).astype(float)
    A[3, 1] = B[7, :2] = np.nan
    ours = grid_draws([A, B], 20_000, np.random.default_rng(0))
    loop = official_grid([A, B], 4_000, np.random.default_rng(1))
    np.testing.assert_allclose(ours.mean(1), loop.mean(1), atol=0.004)
    np.testing.assert_allclose(np.cov(ours), np.cov(loop), rtol=0.1, atol=2e-4)
    np.testing.assert_allclose(np.quantile(ours, [0.025, 0.975], axis=1), np.quantile(loop, [0.025, 0.975], axis=1), atol=0.012)


def test_grid_draws_are_the_means_of_what_was_drawn():
    M = np.random.default_rng(9).random((5, 1))
    draws = grid_draws([M, M], 50, np.random.default_rng(3))
    np.testing.assert_allclose(draws[0], draws[1], atol=1e-6)  # the same rows for both
    assert draws.min() >= M.min() - 1e-6
    assert draws.max() <= M.max() + 1e-6
    np.testing.assert_array_equal(draws, grid_draws([M, M], 50, np.random.default_rng(3)))


def test_nan_cells_are_left_out(lifts):
    unsup, easy, hard = drawn(np.random.default_rng(10), lifts)
    holes = [np.where(np.random.default_rng(i).random(m.shape) < 0.1, np.nan, m) for i, m in enumerate((unsup, easy, hard))]
    a, b = sgr(easy, hard, unsup), sgr(holes[1], holes[2], holes[0])
    assert abs(a.value - b.value) < 0.2
    assert 0.9 < (b.high - b.low) / (a.high - a.low) < 1.3
    column = np.column_stack([hard, np.full(400, np.nan)])
    np.testing.assert_allclose(sgr(easy, column, unsup).value, a.value)
    assert accuracy_interval(column) == accuracy_interval(hard)


def test_different_items_are_paired_only_when_they_are_not():
    rng = np.random.default_rng(11)
    unsup, easy, hard = (rng.random((n, 3)) < p for n, p in ((300, 0.4), (250, 0.6), (280, 0.8)))
    with pytest.raises(SchemaMismatch, match="they have 300, 250, 280"):
        sgr(easy, hard, unsup)
    assert sgr(easy, hard, unsup, paired=False).defined


def test_bad_input_is_refused():
    right = np.ones((4, 2))
    with pytest.raises(UnknownName, match="no method 'jackknife'"):
        sgr(right, right, right, "jackknife")
    with pytest.raises(UnknownName, match="no method"):
        accuracy_interval(right, "jackknife")
    with pytest.raises(NotFinite, match="easy is NaN throughout"):
        sgr(right * np.nan, right, right)
    with pytest.raises(NotFinite, match="infinite in row 1"):
        accuracy_interval(np.array([1, np.inf, 0]))
    with pytest.raises(SchemaMismatch, match="items x seeds"):
        accuracy_interval(np.ones((2, 2, 2)))
    with pytest.raises(SchemaMismatch, match="different items"):
        sgr(right, right, right, "grid", paired=False)
