"""Claims about minimum-description-length hardness."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import GaussianNB

from datumwise.errors import DatumwiseError, LabelError, NotFinite, SchemaMismatch, UnknownName
from datumwise.probe.multiple_choice_probe import MultipleChoiceProbe
from datumwise.probe.softmax_fits import fit_softmax
from datumwise.score.mdl_hardness import MDLHardness


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    flipped = rng.random(len(y)) < 0.1
    return X / 16, np.where(flipped, (y + rng.integers(1, 10, len(y))) % 10, y), flipped


def choices(n=90, m=4, d=6, seed=0):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, m, n)
    H = rng.normal(size=(n, m, d))
    H[np.arange(n), gold] += rng.normal(size=d)
    return H, gold


def test_one_boot_of_one_size_is_one_minus_p_of_one_fit():
    H, y = choices()
    order = np.arange(60)[None]
    found = MDLHardness("probe", sizes=(40,), n_boot=1, order=order, random_state=0)
    h = found.fit(H[:60], y[:60]).score_samples(H[60:], y[60:])
    probe = MultipleChoiceProbe(solver="adamw", random_state=0).fit(H[:40], y[:40])
    p = probe.predict_proba(H[60:])[np.arange(30), y[60:]]
    np.testing.assert_allclose(h, 1 - p, atol=1e-12)
    nll = MDLHardness("probe", sizes=(40,), n_boot=1, order=order, form="nll", random_state=0)
    np.testing.assert_allclose(nll.fit(H[:60], y[:60]).score_samples(H[60:], y[60:]), -np.log(p), atol=1e-10)
    assert np.isnan(found.standard_error_).all()


@pytest.mark.parametrize("shape", ["choices", "classes"])
@pytest.mark.parametrize("penalty", ["norm", "squared"])
@pytest.mark.parametrize("solver", ["sgd", "adamw"])
def test_fits_in_one_program_equal_fits_one_by_one(shape, penalty, solver):
    rng = np.random.default_rng(1)
    H, y = choices(seed=3)
    if shape == "classes":
        H = H[:, 0] + 2 * np.eye(6)[y]
    members = np.zeros((7, 90), dtype=bool)
    for f, n in enumerate((5, 5, 20, 20, 60, 60, 90)):
        members[f, rng.permutation(90)[:n]] = True
    options = {"penalty": penalty, "solver": solver, "l2": 0.1, "n_classes": 4}
    together = fit_softmax(H, y, members, **options).predict_proba(H)
    for f in range(7):
        alone = fit_softmax(H, y, members[[f]], **options).predict_proba(H)
        np.testing.assert_allclose(together[..., f], alone[..., 0], atol=1e-10)


def torch_loop(H, y, rows, w, *, sgd, epochs=100, lr=0.05, l2=1.0):
    """The published loop: autograd, torch's optimiser, scheduler and gradient clipping, one fit."""
    import torch

    H, y = torch.tensor(H[rows]), torch.tensor(y[rows])
    flat = H.reshape(-1, H.shape[-1])
    Z = (H - flat.mean(0)) / flat.std(0)
    w = torch.tensor(w, requires_grad=True)
    optimiser = torch.optim.SGD([w], lr=lr) if sgd else torch.optim.AdamW([w], lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda e: 1 - 0.9 * e / epochs)
    for _ in range(epochs):
        optimiser.zero_grad()
        (torch.nn.functional.cross_entropy(Z @ w, y) + l2 * w.norm()).backward()
        torch.nn.utils.clip_grad_norm_([w], 1.0)
        optimiser.step()
        schedule.step()
    return w.detach().numpy()


@pytest.mark.parametrize("solver", ["sgd", "adamw"])
def test_the_closed_form_program_equals_autograd_fit_by_fit(solver):
    H, y = choices(n=120, seed=5)
    rng = np.random.default_rng(0)
    sizes = (5, 20, 120)
    members = np.zeros((3, 120), dtype=bool)
    for f, n in enumerate(sizes):
        members[f, rng.permutation(120)[:n]] = True
    start = rng.uniform(-0.4, 0.4, (6, 1, 3))
    found = fit_softmax(H, y, members, solver=solver, l2=0.2, start=start)
    for f in range(3):
        expected = torch_loop(H, y, np.flatnonzero(members[f]), start[:, 0, f], sgd=solver == "sgd", l2=0.2)
        np.testing.assert_allclose(found.weights[:, 0, f], expected, atol=1e-10)


@pytest.mark.parametrize("form", ["confidence", "nll"])
def test_flipped_labels_are_hard(digits, form):
    X, y, flipped = digits
    h = MDLHardness(form=form, random_state=0).fit(X[:1000], y[:1000]).score_samples(X[1000:], y[1000:])
    assert roc_auc_score(flipped[1000:], h) > 0.9


def test_flipped_labels_are_hard_to_a_scikit_learn_classifier_and_when_crossfitted(digits):
    X, y, flipped = digits
    found = MDLHardness(LogisticRegression(), sizes=(20, 80, 340), n_boot=2, random_state=0).fit(X[:1000], y[:1000])
    assert roc_auc_score(flipped[1000:], found.score_samples(X[1000:], y[1000:])) > 0.9
    half = np.arange(0, len(X), 3)
    h = MDLHardness(sizes=(20, 80, 340), n_boot=2, random_state=0).fit_score(X[half], y[half])
    assert roc_auc_score(flipped[half], h) > 0.9


def test_a_datapoint_is_expected_more_after_900_than_after_20(digits):
    X, y, _ = digits
    found = MDLHardness(random_state=0, n_boot=2).fit(X[:1000], y[:1000])
    found.score_samples(X[1000:], y[1000:])
    assert found.sizes_ == (5, 20, 80, 340, 900)
    assert found.learning_curve_[4] > found.learning_curve_[1] + 0.2


def test_sizes_beyond_the_fitting_set_are_skipped():
    H, y = choices()
    assert MDLHardness(sizes=(5, 20, 340), random_state=0).fit(H, y).sizes_ == (5, 20)


def test_permuted_rows_have_permuted_scores():
    H, y = choices()
    found = MDLHardness(sizes=(5, 20), random_state=0).fit(H[:60], y[:60])
    order = np.random.default_rng(0).permutation(30)
    h = found.score_samples(H[60:], y[60:])
    np.testing.assert_allclose(found.score_samples(H[60:][order], y[60:][order]), h[order], atol=1e-12)


def test_no_datapoint_is_scored_by_a_fit_that_was_trained_on_it():
    H, y = choices()
    H[0] = H[0][::-1] * 40  # an outlier that every fit it is in would follow
    order = np.stack([np.r_[0, np.arange(1, 90)], np.arange(90)[::-1]])
    found = MDLHardness("probe", sizes=(30,), n_boot=2, order=order, random_state=0).fit(H, y, ids=np.arange(90))
    h = found.score_samples(H, y, ids=np.arange(90))
    single = MDLHardness("probe", sizes=(30,), n_boot=2, order=order, random_state=0).fit(H, y)
    each = single._gold_probability(single._fits, H, y)
    np.testing.assert_allclose(h[0], 1 - each[1, 0])  # row 0 is only in the first fit
    np.testing.assert_allclose(h[89], 1 - each[0, 89])
    np.testing.assert_allclose(h[45], 1 - each[:, 45].mean())
    everywhere = np.tile(np.arange(90), (2, 1))
    found = MDLHardness("probe", sizes=(30,), n_boot=2, order=everywhere, random_state=0).fit(H, y, ids=np.arange(90))
    with pytest.raises(DatumwiseError, match="every fit was trained on 0, 1, 2 and 27 more"):
        found.score_samples(H, y, ids=np.arange(90))


def test_crossfitting_never_lets_a_label_reach_its_own_score():
    H, y = choices(seed=2)
    one = MDLHardness(sizes=(20,), n_boot=2, random_state=0).fit_score(H, y)
    changed = y.copy()
    changed[7] = (changed[7] + 1) % 4
    options = {"sizes": (20,), "n_boot": 2, "random_state": 0}
    other = MDLHardness(**options)
    both = np.stack([other.fit_score(H, np.where(np.arange(90) == 7, g, changed)) for g in range(4)])
    np.testing.assert_allclose((1 - both[:, 7]).sum(), 1, atol=1e-9)  # the four labels' p are of the same fits
    assert one.shape == (90,)


def test_a_subset_without_a_class_gives_it_no_probability():
    X = np.array([[0.0], [0.1], [1.0], [1.1], [5.0], [5.1]])
    y = np.array([0, 0, 1, 1, 2, 2])
    order = np.array([[0, 2, 1, 3, 4, 5]])
    for estimator in (None, GaussianNB()):
        found = MDLHardness(estimator, sizes=(4,), n_boot=1, order=order).fit(X, y)
        assert found.score_samples(X, y)[4:].tolist() == [1, 1]
        found = MDLHardness(estimator, sizes=(4,), n_boot=1, order=order, form="nll").fit(X, y)
        np.testing.assert_allclose(found.score_samples(X, y)[4:], -np.log(1e-6))
    alone = MDLHardness(GaussianNB(), sizes=(1,), n_boot=1, order=order).fit(X, y)
    assert alone.score_samples(X, y).tolist() == [0, 0, 1, 1, 1, 1]


def test_a_feature_that_is_constant_in_training_says_nothing_later():
    H, y = choices(n=40)
    H[:20, :, 0] = 0.0
    wild = H.copy()
    wild[20:, :, 0] = 1e6 * np.random.default_rng(0).normal(size=(20, 4))
    options = {"sizes": (20,), "n_boot": 1, "random_state": 0}
    plain, loud = (MDLHardness(**options).fit(A[:20], y[:20]).score_samples(A[20:], y[20:]) for A in (H, wild))
    np.testing.assert_allclose(plain, loud)


def test_equal_seeds_agree_and_the_global_state_is_neither_read_nor_changed():
    H, y = choices()
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    a = MDLHardness(sizes=(20,), random_state=3).fit(H, y).score_samples(H, y)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(a, MDLHardness(sizes=(20,), random_state=3).fit(H, y).score_samples(H, y))
    assert not np.array_equal(a, MDLHardness(sizes=(20,), random_state=4).fit(H, y).score_samples(H, y))


def test_bad_input_is_refused():
    H, y = choices()
    nan = H.copy()
    nan[3, 1, 0] = np.nan
    with pytest.raises(NotFinite, match="row 3"):
        MDLHardness().fit(nan, y)
    with pytest.raises(LabelError, match="right choice of item 2 is not among its choices"):
        MDLHardness().fit(H, np.where(np.arange(90) == 2, 9, y))
    with pytest.raises(UnknownName, match="no form 'bits'"):
        MDLHardness(form="bits").fit(H, y)
    with pytest.raises(DatumwiseError, match="no size"):
        MDLHardness(sizes=(340,)).fit(H, y)
    with pytest.raises(SchemaMismatch, match="2 permutations"):
        MDLHardness(sizes=(5,), n_boot=2, order=np.zeros((2, 90), int)).fit(H, y)
    with pytest.raises(SchemaMismatch, match="features of choices"):
        MDLHardness(GaussianNB()).fit(H, y)
    with pytest.raises(LabelError, match="is not among those fitted"):
        MDLHardness(sizes=(5,)).fit(H[:, 0], y % 2).score_samples(H[:, 0], y)
    with pytest.raises(LabelError, match="two classes are needed"):
        MDLHardness(sizes=(5,)).fit(H[:, 0], y * 0)
    with pytest.raises(DatumwiseError, match="call fit first"):
        MDLHardness().score_samples(H, y)


def test_probabilities_that_are_all_nan_are_refused():
    class Nothing(GaussianNB):
        def predict_proba(self, X):
            return np.full((len(X), 4), np.nan)

    H, y = choices()
    with pytest.raises(NotFinite, match="every probability"):
        MDLHardness(Nothing(), sizes=(60,), n_boot=1, random_state=0).fit(H[:, 0], y).score_samples(H[:, 0], y)
