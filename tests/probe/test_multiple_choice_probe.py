"""Claims about the linear probe over choices."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from datumwise.errors import DatumwiseError, LabelError, NotFinite, SchemaMismatch, UnknownName
from datumwise.probe.multiple_choice_probe import MultipleChoiceProbe


def items(n=200, m=4, d=6, seed=0):
    rng = np.random.default_rng(seed)
    H, w = rng.normal(size=(n, m, d)), rng.normal(size=d)
    logits = H @ w
    gold = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return H, gold


@pytest.mark.parametrize("solver", ["sgd", "adamw", "lbfgs"])
def test_what_all_choices_of_an_item_share_changes_nothing(solver):
    H, y = items()
    shared = np.random.default_rng(1).normal(size=(200, 1, 2))
    probe = MultipleChoiceProbe(solver=solver, penalty="squared", random_state=0)
    a = probe.fit(H, y).predict_proba(H)
    constant = np.concatenate([H, np.broadcast_to(shared, (200, 4, 2))], axis=2)
    w = np.r_[probe.coef_ / probe.scale_, 3.0, -2.0]
    logits = constant @ w
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(a, p / p.sum(axis=1, keepdims=True), atol=1e-10)


def test_with_a_squared_penalty_lbfgs_is_at_the_unique_optimum():
    H, y = items()
    one = MultipleChoiceProbe(l2=0.05, penalty="squared", solver="lbfgs", random_state=0).fit(H, y)
    two = MultipleChoiceProbe(l2=0.05, penalty="squared", solver="lbfgs", random_state=1).fit(H, y)
    np.testing.assert_allclose(one.coef_, two.coef_, atol=1e-6)
    Z = (H - one.mean_) / one.scale_
    error = one.predict_proba(H) - np.eye(4)[y]
    gradient = np.einsum("nmd,nm->d", Z, error) / 200 + 2 * 0.05 * one.coef_
    assert np.linalg.norm(gradient) < 1e-6


@pytest.mark.parametrize("l2", [0.003, 0.1])
def test_two_choices_are_logistic_regression_on_the_difference(l2):
    H, y = items(m=2)
    probe = MultipleChoiceProbe(l2=l2, penalty="squared", solver="lbfgs", random_state=0).fit(H, y)
    Z = (H - probe.mean_) / probe.scale_
    model = LogisticRegression(C=1 / (2 * l2 * 200), fit_intercept=False, tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(probe.coef_, model.fit(Z[:, 0] - Z[:, 1], y == 0).coef_[0], atol=1e-3)


def test_a_large_penalty_leaves_every_choice_alike():
    H, y = items()
    for penalty in ("norm", "squared"):
        probe = MultipleChoiceProbe(l2=1e4, penalty=penalty, solver="lbfgs", random_state=0).fit(H, y)
        np.testing.assert_allclose(probe.predict_proba(H), 0.25, atol=1e-3)


def test_the_norm_penalty_is_the_norm_not_its_square():
    H, y = items()
    probe = MultipleChoiceProbe(l2=0.05, penalty="norm", solver="lbfgs", random_state=0).fit(H, y)
    Z = (H - probe.mean_) / probe.scale_
    gradient = np.einsum("nmd,nm->d", Z, probe.predict_proba(H) - np.eye(4)[y]) / 200
    np.testing.assert_allclose(gradient, -0.05 * probe.coef_ / np.linalg.norm(probe.coef_), atol=1e-6)


def test_normalisation_is_over_training_items_and_choices_together_with_the_unbiased_deviation():
    H, y = items()
    probe = MultipleChoiceProbe(random_state=0).fit(H[:50], y[:50])
    flat = H[:50].reshape(-1, 6)
    np.testing.assert_allclose(probe.mean_, flat.mean(axis=0))
    np.testing.assert_allclose(probe.scale_, flat.std(axis=0, ddof=1))


def test_normalisation_keeps_its_digits_far_from_zero():
    H, y = items()
    for dtype, offset in ((np.float64, 1e7), (np.float32, 1e2)):
        near = MultipleChoiceProbe(l2=0.05, random_state=0).fit(H.astype(dtype), y)
        far = MultipleChoiceProbe(l2=0.05, random_state=0).fit((H + offset).astype(dtype), y)
        np.testing.assert_allclose(near.coef_, far.coef_, atol=1e-4)
        np.testing.assert_allclose(near.predict_proba(H), far.predict_proba(H + offset), atol=1e-4)


def test_permuted_choices_have_permuted_probabilities():
    H, y = items()
    order = np.array([2, 0, 3, 1])
    a = MultipleChoiceProbe(random_state=0).fit(H, y).predict_proba(H)
    b = MultipleChoiceProbe(random_state=0).fit(H[:, order], np.argsort(order)[y]).predict_proba(H[:, order])
    np.testing.assert_allclose(a[:, order], b, atol=1e-12)


def test_a_missing_choice_has_probability_0_and_no_part_in_the_fit():
    H, y = items(m=3)
    wide = np.concatenate([H, np.full((200, 1, 6), np.nan)], axis=1)
    mask = np.tile([True, True, True, False], (200, 1))
    narrow = MultipleChoiceProbe(random_state=0).fit(H, y)
    probe = MultipleChoiceProbe(random_state=0).fit(wide, y, mask)
    np.testing.assert_allclose(probe.coef_, narrow.coef_, atol=1e-12)
    p = probe.predict_proba(wide, mask)
    assert (p[:, 3] == 0).all()
    np.testing.assert_allclose(p[:, :3], narrow.predict_proba(H), atol=1e-12)


def test_equal_seeds_agree_and_different_starts_differ():
    H, y = items()
    a, b, c = (MultipleChoiceProbe(random_state=s).fit(H, y).coef_ for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_float32_features_are_kept_and_agree():
    H, y = items()
    probe = MultipleChoiceProbe(l2=0.05, random_state=0).fit(H.astype(np.float32), y)
    assert probe.coef_.dtype == np.float32
    np.testing.assert_allclose(probe.coef_, MultipleChoiceProbe(l2=0.05, random_state=0).fit(H, y).coef_, atol=1e-4)


def test_bad_input_is_refused():
    H, y = items()
    with pytest.raises(SchemaMismatch, match="items x choices x features"):
        MultipleChoiceProbe().fit(H[:, 0], y)
    with pytest.raises(LabelError, match="right choice of item 5 is not among its choices"):
        MultipleChoiceProbe().fit(H, np.where(np.arange(200) == 5, 4, y))
    mask = np.ones((200, 4), bool)
    mask[5, y[5]] = False
    with pytest.raises(LabelError, match="right choice of item 5"):
        MultipleChoiceProbe().fit(H, y, mask)
    mask[5] = [True, False, False, False]
    with pytest.raises(LabelError, match="item 5 has fewer than two choices"):
        MultipleChoiceProbe().fit(H, y, mask)
    H[7, 2, 1] = np.inf
    with pytest.raises(NotFinite, match="row 7"):
        MultipleChoiceProbe().fit(H, y)
    H[7, 2, 1] = 0
    with pytest.raises(UnknownName, match="no solver 'newton'"):
        MultipleChoiceProbe(solver="newton").fit(H, y)
    with pytest.raises(DatumwiseError, match="l2 must be"):
        MultipleChoiceProbe(l2=-1).fit(H, y)
    with pytest.raises(SchemaMismatch, match="fitted to 6 features"):
        MultipleChoiceProbe().fit(H, y).predict_proba(H[:, :, :3])
