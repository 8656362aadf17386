"""Selectors by gradients and by quality with coverage, against brute force and closed forms."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import nnls

from datumwise.errors import DatumwiseError, EmptyData, LabelError, SchemaMismatch, UnknownName
from datumwise.select.covering import cosine_columns, cover_greedily, nearness_columns
from datumwise.select.craig import Craig
from datumwise.select.dataset_quantization import DatasetQuantization, quantization_bins
from datumwise.select.glister import Glister
from datumwise.select.grad_match import GradMatch, matching_pursuit
from datumwise.select.last_layer import mean_gradient, one_hot, probabilities, with_ones
from datumwise.select.mods import MODS
from datumwise.select.proxy import proxy_report
from datumwise.select.qdit import QDIT
from datumwise.select.retrieve import Retrieve
from datumwise.select.skill_it import SkillIt, skill_graph
from datumwise.select.tagcos import TAGCOS

# ---------------------------------------------------------------- GradMatch


def official_omp(A, b, budget, lam=1.0):
    """The official loop, in numpy: one system solved anew a pick."""
    chosen, free = [], np.ones(A.shape[1], bool)
    residual = b.copy()
    for i in range(budget):
        projections = A.T @ residual
        index = np.flatnonzero(free)[np.argmax(projections[free])]
        free[index] = False
        chosen.append(int(index))
        S = A[:, chosen].T
        M = S @ S.T + lam * np.eye(len(chosen))
        x = projections[[index]] / (A[:, index] @ A[:, index]) if i == 0 else np.linalg.lstsq(M, S @ b, rcond=None)[0]
        residual = b - S.T @ x
    return chosen, nnls(M, S @ b)[0]


@pytest.mark.parametrize("scale", [0.1, 1.0])  # short gradients: that the first weight has no ridge decides the second pick
@pytest.mark.parametrize("seed", range(5))
def test_pursuit_takes_what_the_official_loop_takes(seed, scale):
    rng = np.random.default_rng(seed)
    G = scale * (rng.normal(size=(120, 30)) + 0.5)
    expected, weights = official_omp(G.T, G.sum(0), 40)
    found = GradMatch(40, variant="published").fit(G)
    assert found.ranking_.tolist() == expected
    np.testing.assert_allclose(found.weights_, weights, atol=1e-6)


def test_orthonormal_gradients_give_support_and_weights_back():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    weights = np.array([5.0, 4.0, 3.0])
    found = GradMatch(3, lam=1e-13).fit(Q, target=(weights @ Q[[7, 2, 9]])[None] / 12)
    assert found.ranking_.tolist() == [7, 2, 9]
    np.testing.assert_allclose(found.weights_, weights, atol=1e-10)


def test_exact_weights_are_the_best_not_negative_ones_and_the_published_are_not():
    # published: NNLS of the normal equations minimises ||M x - c||, another norm
    worse = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        G = rng.normal(size=(30, 6))
        b = G[:4].sum(0) + rng.normal(size=6)
        picked, _, exact = matching_pursuit(G, b, 12, lam=0.5)
        _, _, published = matching_pursuit(G, b, 12, lam=0.5, variant="published")

        def objective(w, G=G, b=b, picked=picked):
            return ((G[picked].T @ w - b) ** 2).sum() + 0.5 * (w**2).sum()

        stacked = np.vstack([G[picked].T, np.sqrt(0.5) * np.eye(12)])
        np.testing.assert_allclose(objective(exact), nnls(stacked, np.r_[b, np.zeros(12)])[1] ** 2, rtol=1e-9)
        assert (exact >= 0).all()
        assert objective(exact) <= objective(published) + 1e-9
        worse += objective(published) > objective(exact) + 1e-6
    assert worse >= 2


def test_gains_are_the_falls_of_the_ridge_objective():
    rng = np.random.default_rng(3)
    G, b, lam = rng.normal(size=(25, 8)), rng.normal(size=8), 0.7
    picked, gained, _ = matching_pursuit(G, b, 10, lam=lam)
    values = [b @ b]
    for m in range(1, 11):
        S = G[picked[:m]]
        c = S @ b
        values.append(b @ b - c @ np.linalg.solve(S @ S.T + lam * np.eye(m), c))
    np.testing.assert_allclose(gained, -np.diff(values), atol=1e-9)


def test_a_budget_of_one_and_dependent_gradients_without_ridge():
    # published (torch branch): a budget of one ends in an undefined name
    G = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    assert GradMatch(1).fit(G).ranking_.tolist() == [1]
    found = GradMatch(3, lam=0.0).fit(G)
    assert found.ranking_.tolist() == [1, 2]  # row 0 depends on row 1
    np.testing.assert_allclose(found.weights_, [1.5, 1.0])


def test_matching_by_class_matches_each_class():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [30, 10])
    G = rng.normal(size=(40, 5)) + 3 * y[:, None]
    found = GradMatch(8).fit(G, y=y)
    assert np.bincount(y[found.ranking_]).tolist() == [6, 2]
    alone = GradMatch(6).fit(G[:30])
    assert found.ranking_[y[found.ranking_] == 0].tolist() == alone.ranking_.tolist()


def test_gradient_inputs_are_checked():
    with pytest.raises(SchemaMismatch, match="target has 2 columns and gradients has 3"):
        GradMatch(1).fit(np.ones((4, 3)), target=np.ones((1, 2)))
    with pytest.raises(UnknownName, match="variant is 'paper'"):
        GradMatch(1, variant="paper").fit(np.ones((4, 3)))
    with pytest.raises(DatumwiseError, match=r"lam is -1"):
        GradMatch(1, lam=-1.0).fit(np.ones((4, 3)))


def test_tagcos_matches_inside_clusters():
    rng = np.random.default_rng(0)
    G = np.repeat(8 * np.eye(3), [60, 30, 10], axis=0) + 0.3 * rng.normal(size=(100, 3))
    found = TAGCOS(10, n_clusters=3, random_state=0).fit(G)
    assert np.bincount(np.repeat([0, 1, 2], [60, 30, 10])[found.ranking_]).tolist() == [6, 3, 1]
    np.testing.assert_allclose(found.weights_ @ G[found.ranking_], G.sum(0), rtol=0.05)


# ---------------------------------------------------------------- CRAIG, QDIT


def naive_cover(S, k, bonus):
    best, chosen, gains = np.zeros(len(S)), [], []
    for _ in range(k):
        gain = np.maximum(S - best[:, None], 0).sum(0) + bonus
        gain[chosen] = -np.inf
        i = int(gain.argmax())
        chosen.append(i)
        gains.append(gain[i])
        best = np.maximum(best, S[:, i])
    return chosen, gains


@pytest.mark.parametrize("seed", range(4))
def test_lazy_covering_equals_naive_covering(seed):
    rng = np.random.default_rng(seed)
    X, bonus = rng.normal(size=(90, 3)), rng.random(90) * 5 * (seed % 2)
    for columns in (cosine_columns(X), nearness_columns(X)):
        S = columns(np.arange(90)).T
        expected, gains = naive_cover(S, 30, bonus)
        ranking, found = cover_greedily(columns, 90, 30, bonus)
        assert ranking.tolist() == expected
        np.testing.assert_allclose(found, gains, rtol=1e-10)
        assert (np.diff(found) <= 1e-9).all()


def test_columns_made_one_by_one_give_the_same_choice(monkeypatch):
    X = np.random.default_rng(0).normal(size=(150, 4))
    held = Craig(20).fit(X)
    monkeypatch.setattr("datumwise.select.covering.HELD", 0)
    found = Craig(20).fit(X)
    assert found.ranking_.tolist() == held.ranking_.tolist()
    assert found.weights_.tolist() == held.weights_.tolist()


def test_craig_is_within_its_bound_of_the_best_subset_and_weighs_by_cluster_size():
    rng = np.random.default_rng(2)
    G = rng.normal(size=(11, 2))
    d = np.sqrt(((G[:, None] - G[None]) ** 2).sum(-1))
    S = d.max() - d

    def value(rows):
        return S[:, list(rows)].max(1).sum()

    best = max(value(rows) for rows in combinations(range(11), 3))
    found = Craig(3).fit(G)
    assert value(found.ranking_) >= (1 - 1 / np.e) * best
    np.testing.assert_allclose(found.gains_.sum(), value(found.ranking_))
    nearest = d[:, found.ranking_].argmin(1)
    assert found.weights_.tolist() == np.bincount(nearest, minlength=3).tolist()
    assert found.weights_.sum() == 11


def test_craig_and_qdit_take_one_of_ten_copies():
    base = np.random.default_rng(0).normal(size=(15, 6))
    X = np.repeat(base, 10, axis=0)
    for chosen in (Craig(15).fit(X).ranking_, QDIT(15, alpha=1.0).fit(X, scores=np.ones(150)).ranking_):
        assert len(set((chosen // 10).tolist())) == 15


def test_craig_is_facility_location_on_its_similarity():
    from datumwise.select.facility_location import FacilityLocation

    G = np.random.default_rng(0).normal(size=(200, 6))
    S = nearness_columns(G)(np.arange(200))
    expected, found = FacilityLocation(40, metric="precomputed").fit(S), Craig(40).fit(G)
    assert found.ranking_.tolist() == expected.ranking_.tolist()
    np.testing.assert_allclose(found.gains_, expected.gains_)


def test_craig_permutes_with_its_rows():
    rng = np.random.default_rng(0)
    G, order = rng.normal(size=(40, 5)), rng.permutation(40)
    assert order[Craig(10).fit(G[order]).ranking_].tolist() == Craig(10).fit(G).ranking_.tolist()


def test_qdit_runs_from_the_best_to_the_widest():
    rng = np.random.default_rng(0)
    X, scores = rng.normal(size=(120, 4)), rng.random(120)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    S = np.maximum(unit @ unit.T, 0)
    quality, coverage = [], []
    for alpha in (0.0, 0.3, 0.6, 1.0):
        chosen = QDIT(12, alpha=alpha).fit(X, scores=scores).ranking_
        quality.append(scores[chosen].sum())
        coverage.append(S[:, chosen].max(1).sum())
    assert quality == sorted(quality, reverse=True)
    assert coverage == sorted(coverage)
    assert sorted(QDIT(12, alpha=0.0).fit(X, scores=scores).ranking_) == sorted(np.argsort(-scores)[:12])
    raw = QDIT(12, alpha=0.4, normalise=False).fit(X, scores=scores)
    expected, gains = naive_cover(0.4 * S, 12, 0.6 * scores)
    assert raw.ranking_.tolist() == expected
    np.testing.assert_allclose(raw.gains_, gains)


# ---------------------------------------------------------------- dataset quantization


def test_quantization_bins_equal_the_formula_of_the_paper():
    X = np.random.default_rng(0).normal(size=(24, 3))
    d = ((X[:, None] - X[None]) ** 2).sum(-1)
    bins, left = np.full(24, 3), list(range(24))
    for number in range(3):
        inside = []
        for _ in range(6):
            rest = [p for p in left if p not in inside]
            value = {k: d[k, inside].sum() - d[k, rest].sum() for k in rest}
            inside.append(max(value, key=lambda k: (value[k], -k)))
        bins[inside] = number
        left = [p for p in left if p not in inside]
    assert quantization_bins(X, 4).tolist() == bins.tolist()


def test_every_bin_gives_the_same_number_and_every_class_its_share():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(103, 4)), np.repeat([0, 1], [73, 30])
    found = DatasetQuantization(50, n_bins=5, random_state=0).fit(X)
    assert np.bincount(found.bins_[found.ranking_]).tolist() == [10] * 5
    assert np.ptp(np.bincount(found.bins_)) <= 1
    chosen = DatasetQuantization(20, n_bins=5, random_state=0).fit(X, y=y).ranking_
    assert np.bincount(y[chosen]).tolist() == [14, 6]


# ---------------------------------------------------------------- GLISTER, RETRIEVE


def loss(theta, H, codes):
    return -np.log(probabilities(theta, H)[np.arange(len(H)), codes]).mean()


def test_last_layer_gradient_is_that_of_the_cross_entropy():
    # published (DeepCore): softmax of softmax, whose gradient is another
    rng = np.random.default_rng(0)
    H, codes, theta = with_ones(rng.normal(size=(20, 3))), rng.integers(0, 4, 20), rng.normal(size=(4, 4))
    found = mean_gradient(theta, H, one_hot(codes, 4))
    for i, j in ((0, 0), (2, 3), (3, 1)):
        step = np.zeros_like(theta)
        step[i, j] = 1e-6
        slope = (loss(theta + step, H, codes) - loss(theta - step, H, codes)) / 2e-6
        np.testing.assert_allclose(found[i, j], slope, atol=1e-8)


def test_glister_gains_are_the_falls_of_the_validation_loss_for_a_small_step():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    V, v = rng.normal(size=(40, 4)), np.r_[0, 1, 2, rng.integers(0, 3, 37)]
    theta = rng.normal(size=(3, 5))
    found = Glister(10, eta=1e-5, coef=theta).fit(X, y=y, target=V, target_y=v)
    H, now = with_ones(X), theta.copy()
    residual = probabilities(theta, H) - one_hot(y, 3)
    for row, gain in zip(found.ranking_, found.gains_, strict=True):
        after = now - 1e-5 * np.outer(residual[row], H[row])
        fall = loss(now, with_ones(V), v) - loss(after, with_ones(V), v)
        np.testing.assert_allclose(gain, fall, rtol=1e-2)
        now = after
    brute = [np.outer(residual[i], H[i]).ravel() @ mean_gradient(theta, with_ones(V), one_hot(v, 3)).ravel() for i in range(60)]
    assert found.ranking_[0] == int(np.argmax(brute))


def test_glister_steps_down_the_loss_between_picks():
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(30, 3)), rng.integers(0, 2, 30)
    V, v = rng.normal(size=(25, 3)), np.r_[0, 1, rng.integers(0, 2, 23)]
    H, W, now, expected = with_ones(X), with_ones(V), np.zeros((2, 4)), []
    residual = probabilities(now, H) - one_hot(y, 2)
    for _ in range(15):
        G = mean_gradient(now, W, one_hot(v, 2))
        gain = np.array([np.outer(residual[i], H[i]).ravel() @ G.ravel() for i in range(30)])
        gain[expected] = -np.inf
        expected.append(int(gain.argmax()))
        now = now - 0.5 * np.outer(residual[expected[-1]], H[expected[-1]])
    assert Glister(15, eta=0.5).fit(X, y=y, target=V, target_y=v).ranking_.tolist() == expected


def test_glister_refreshed_never_is_the_order_of_one_gradient():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 3)), rng.integers(0, 2, 50)
    once = Glister(20, refresh=50).fit(X, y=y)
    assert (np.diff(once.gains_) <= 1e-15).all()
    assert once.ranking_.tolist() != Glister(20, refresh=1, eta=1.0).fit(X, y=y).ranking_.tolist()


def test_glister_and_retrieve_say_what_they_lack():
    X = np.ones((4, 2))
    with pytest.raises(LabelError, match="one class only"):
        Glister(1).fit(X, y=[0, 0, 0, 0])
    with pytest.raises(DatumwiseError, match="the target set has no labels"):
        Glister(1).fit(X, y=[0, 1, 0, 1], target=X)
    with pytest.raises(LabelError, match="target_y has the label 7"):
        Glister(1).fit(X, y=[0, 1, 0, 1], target=X, target_y=[0, 1, 7, 0])
    with pytest.raises(SchemaMismatch, match=r"coef has shape \(2, 2\)"):
        Glister(1, coef=np.ones((2, 2))).fit(X, y=[0, 1, 0, 1])
    with pytest.raises(DatumwiseError, match=r"labelled set .* has no labels"):
        Retrieve(1).fit(X, target=X)


def test_retrieve_passes_over_what_the_model_is_not_sure_of():
    rng = np.random.default_rng(0)
    centres = np.repeat([[-3.0, 0.0], [3.0, 0.0]], 40, axis=0)
    X = np.vstack([centres + rng.normal(size=(80, 2)), 0.01 * rng.normal(size=(20, 2))])  # the last 20 lie between
    labelled, labels = np.array([[-3.0, 0.0], [-2.0, 1.0], [3.0, 0.0], [2.0, 1.0]]), ["a", "a", "b", "b"]
    found = Retrieve(30, confidence=0.8).fit(X, target=labelled, target_y=labels)
    positive = found.ranking_[found.gains_ > 0]
    every = Retrieve(100, confidence=0.8).fit(X, target=labelled, target_y=labels)
    assert (every.gains_[every.ranking_ >= 80] == 0).all()
    assert len(positive) >= 20
    assert positive.max() < 80
    assert (found.pseudo_labels_[:40] == "a").mean() > 0.95


# ---------------------------------------------------------------- MoDS, Skill-it, proxies


def test_mods_covers_the_good_and_then_the_needed():
    rng = np.random.default_rng(0)
    X, reward, need = rng.normal(size=(80, 3)), rng.normal(size=80), rng.normal(size=80)
    seeds = MODS(10).fit(X, scores=reward)
    assert (reward[seeds.ranking_] >= 0).all()
    assert set(seeds.stage_) == {"seed"}
    good = np.flatnonzero(reward >= 0)
    d = np.linalg.norm(X[good][:, None] - X[seeds.ranking_][None], axis=-1).min(1)
    assert d.max() <= seeds.gains_[-1] + 1e-12  # greedy: what is left is nearer than the last pick was
    both = MODS(20, n_seeds=10).fit(X, scores=reward, necessity=need)
    assert both.ranking_[:10].tolist() == seeds.ranking_.tolist()
    assert (need[both.ranking_[10:]] < 0).all()
    assert (reward[both.ranking_] >= 0).all()
    with pytest.raises(EmptyData, match=r"no reward is 9.0 or more"):
        MODS(2, quality=9.0).fit(X, scores=reward)


def test_skill_graph_and_mixture_follow_their_formulas():
    A = skill_graph([2.0, 4.0], [[1.0, 4.0], [2.0, 1.0]])
    assert A.tolist() == [[0.5, 0.0], [0.0, 0.75]]
    assert skill_graph([2.0, 4.0], [[1.0, 1.0], [1.0, 1.0]], alone=[1.0, 2.0]).tolist() == [[0.0, 0.5], [0.0, 0.5]]
    mixture = SkillIt(A, eta=0.5, window=2)
    losses = [np.array([1.0, 2.0]), np.array([0.5, 2.5]), np.array([0.2, 3.0])]
    for one in losses:
        mixture.update(one)
    expected = np.exp(0.5 * A @ (losses[1] + losses[2]))
    np.testing.assert_allclose(mixture.weights_, expected / expected.sum())
    assert mixture.counts(101).sum() == 101
    assert len(mixture.history_) == 3
    with pytest.raises(DatumwiseError, match="the loss of skill 1 is NaN"):
        mixture.update([1.0, np.nan])


def test_a_perfect_proxy_agrees_and_an_independent_one_does_so_by_chance():
    rng = np.random.default_rng(0)
    full = rng.normal(size=400)
    same = proxy_report(full**3, full, n_bootstrap=50, random_state=0)
    assert same.spearman == pytest.approx(1.0)
    assert all(a.overlap == 1 for a in same.agreement)
    other = proxy_report(rng.normal(size=400), full, n_bootstrap=200, random_state=0)
    assert other.spearman_low < 0 < other.spearman_high
    assert "both choose" in str(other)
    reverse = proxy_report(-full, full, n_bootstrap=20, random_state=0)
    assert reverse.spearman == pytest.approx(-1.0)
    with pytest.raises(DatumwiseError, match="NaN or infinite in row 2"):
        proxy_report([1.0, 2.0, np.nan], [1.0, 2.0, 3.0])
