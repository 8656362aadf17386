"""Claims about which eigenvector pairs are kept, against sorting all of them and against the whole Fisher matrix."""

import numpy as np
import pytest
import torch

import datumwise.probe.largest_products as largest_products
from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
from datumwise.probe.kept_pairs import (
    edit_weight,
    from_coefficients,
    kept_mask,
    kept_pairs,
    project,
    select_pairs,
    to_coefficients,
)


def sorted_all(lam, mu, keep_mass):
    """The definition: a stable sort of all products and a running sum."""
    products = np.outer(lam, mu).ravel()
    order = np.argsort(-products, kind="stable")
    n = min(int(np.searchsorted(np.cumsum(products[order]), keep_mass * lam.sum() * mu.sum())) + 1, len(products))
    mask = np.zeros(len(products), dtype=bool)
    mask[order[:n]] = True
    return n, products[order[n - 1]], mask.reshape(len(lam), len(mu))


def spectra(kind, rng):
    o, i = rng.integers(1, 30, 2)
    if kind == "distinct":
        return np.sort(rng.exponential(size=o))[::-1], np.sort(rng.exponential(size=i))[::-1]
    if kind == "small integers":  # ties within and across rows, and zeros
        lam, mu = (np.sort(rng.integers(0, 4, size=n).astype(float))[::-1] for n in (o, i))
        lam[0], mu[0] = lam[0] + 1, mu[0] + 1
        return lam, mu
    if kind == "steep":
        return 10.0 ** -np.arange(o), 10.0 ** -np.arange(i)
    return np.ones(o), np.ones(i)


@pytest.mark.parametrize("sorted_at_once", [1, 10, 8192])
@pytest.mark.parametrize("kind", ["distinct", "small integers", "steep", "all equal"])
def test_pairs_are_those_of_sorting_all_products(kind, sorted_at_once, monkeypatch):
    monkeypatch.setattr(largest_products, "SORTED_AT_ONCE", sorted_at_once)
    rng = np.random.default_rng(0)
    for _ in range(80):
        lam, mu = spectra(kind, rng)
        keep_mass = rng.uniform(0.01, 0.99)
        n, threshold, mask = sorted_all(lam, mu, keep_mass)
        if kind == "steep":  # products of powers of ten tie but for rounding, so the sum decides which
            n = select_pairs(lam, mu, keep_mass)[0]
            assert np.outer(lam, mu)[kept_mask(lam, mu, keep_mass)].sum() >= keep_mass * lam.sum() * mu.sum() * (1 - 1e-12)
            continue
        assert select_pairs(lam, mu, keep_mass) == (n, threshold)
        np.testing.assert_array_equal(kept_mask(lam, mu, keep_mass), mask)


def test_kept_mass_is_the_share_asked_for_within_one_pair_and_grows_with_it():
    lam, mu = np.arange(1, 300) ** -0.6, np.arange(1, 200) ** -0.9
    total, before = lam.sum() * mu.sum(), 0
    for keep_mass in np.linspace(0.01, 0.99, 50):
        pairs = kept_pairs(lam, mu, keep_mass)
        exact = np.outer(lam, mu)[pairs.mask()].sum() / total
        assert pairs.mass == pytest.approx(exact, rel=1e-12)
        assert keep_mass * (1 - 1e-12) <= pairs.mass < keep_mass + pairs.threshold / total
        assert pairs.n_pairs >= before
        before = pairs.n_pairs


def test_one_keeps_everything_and_next_to_nothing_keeps_the_largest_pair():
    lam, mu = np.array([3.0, 1.0, 0.0]), np.array([2.0, 1.0, 0.0, 0.0])
    assert kept_pairs(lam, mu, 1).everything
    assert kept_pairs(lam, mu, 1).n_pairs == 12
    tiny = kept_pairs(lam, mu, 1e-12)
    assert (tiny.n_pairs, tiny.ranks, tiny.mask()[0, 0]) == (1, (1, 1), True)
    assert not kept_mask(lam, mu, 1 - 1e-12)[2].any()  # no curvature, nothing to keep it for


def test_extreme_scales_do_not_change_the_choice():
    lam, mu = np.arange(1, 40) ** -1.0, np.arange(1, 50) ** -2.0
    expected = kept_mask(lam, mu, 0.7)
    for a, b in ((2.0**-700, 2.0**-700), (2.0**900, 2.0**100), (2.0**-900, 2.0**900)):
        np.testing.assert_array_equal(kept_mask(lam * a, mu * b, 0.7), expected)
        assert kept_pairs(lam * a, mu * b, 0.7).mass == kept_pairs(lam, mu, 0.7).mass
    np.testing.assert_array_equal(kept_mask(lam * 0.3, mu * 7.7, 0.7), expected)


def test_marginal_rule_keeps_the_leading_directions_of_each_side():
    lam, mu = np.array([5.0, 3.0, 2.0]), np.array([6.0, 2.0, 1.0, 1.0])
    pairs = kept_pairs(lam, mu, (0.7, 0.5), rule="marginal")
    np.testing.assert_array_equal(pairs.mask(), [[True, True, False, False], [False] * 4, [False] * 4])
    assert pairs.ranks == (2, 1)
    assert pairs.mass == pytest.approx(0.8 * 0.5)
    assert kept_pairs(lam, mu, 1.0, rule="marginal").everything


@pytest.mark.parametrize("keep_mass", [0.3, 0.6, 0.9])
def test_bulk_from_a_share_to_one_is_the_product_rule_and_bands_add_up(keep_mass):
    rng = np.random.default_rng(1)
    lam, mu = np.sort(rng.exponential(size=20))[::-1], np.sort(rng.exponential(size=15))[::-1]
    product = kept_mask(lam, mu, keep_mass)
    np.testing.assert_array_equal(kept_mask(lam, mu, rule="bulk", band=(keep_mass, 1)), product)
    bands = [(0, 0.2), (0.2, keep_mass), (keep_mass, 1)]
    removed = np.stack([~kept_mask(lam, mu, rule="bulk", band=band) for band in bands])
    np.testing.assert_array_equal(removed.sum(0), 1)
    products = np.outer(lam, mu)
    for (low, high), gone in zip(bands, removed, strict=True):
        order = np.argsort(-products.ravel(), kind="stable")
        before = np.concatenate([[0], np.cumsum(products.ravel()[order])[:-1]]) / products.sum()
        np.testing.assert_array_equal(gone.ravel()[order], (before >= low) & (before < high))


def factors(o, i, seed=0):
    rng = np.random.default_rng(seed)
    a, g = rng.normal(size=(40, i)) * rng.uniform(0.1, 2, i), rng.normal(size=(40, o)) * rng.uniform(0.1, 2, o)
    return rng.normal(size=(o, i)), a.T @ a / 40, g.T @ g / 40


@pytest.mark.parametrize("keep_mass", [0.2, 0.6, 0.9, 0.99])
def test_edit_is_the_projection_on_the_top_eigenvectors_of_the_whole_fisher_block(keep_mass):
    W, A, G = factors(12, 7)
    values, vectors = np.linalg.eigh(np.kron(G, A))  # acts on W flattened by rows
    values, vectors = values[::-1], vectors[:, ::-1]
    n = int(np.searchsorted(np.cumsum(values), keep_mass * values.sum())) + 1
    expected = vectors[:, :n] @ (vectors[:, :n].T @ W.ravel())
    np.testing.assert_allclose(edit_weight(W, A, G, keep_mass), expected.reshape(12, 7), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_all_mass_gives_the_weight_back(dtype, tolerance):
    W, A, G = (torch.from_numpy(x).to(dtype) for x in factors(12, 7))
    torch.testing.assert_close(edit_weight(W, A, G, 1.0), W, rtol=tolerance, atol=0)
    almost = edit_weight(W, A, G, 1 - 1e-9)  # goes through the eigenbasis
    assert (almost - W).norm() / W.norm() < tolerance * 10 + 1e-4


def test_editing_twice_changes_nothing_more():
    W, A, G = factors(12, 7)
    for options in ({"keep_mass": 0.6}, {"keep_mass": (0.8, 0.7), "rule": "marginal"}, {"rule": "bulk", "band": (0.3, 0.6)}):
        once = edit_weight(W, A, G, **options)
        assert np.abs(once - W).max() > 0.1
        np.testing.assert_allclose(edit_weight(once, A, G, **options), once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("keep_mass", [0.4, 0.8])
def test_scale_of_the_factors_has_no_effect_and_rotations_rotate_the_edit(keep_mass):
    W, A, G = factors(12, 7)
    expected = edit_weight(W, A, G, keep_mass)
    np.testing.assert_allclose(edit_weight(W, 3e-5 * A, 70.0 * G, keep_mass), expected, rtol=0, atol=1e-12)
    rng = np.random.default_rng(3)
    for R, S in (
        (np.eye(7)[rng.permutation(7)], np.eye(12)[rng.permutation(12)]),
        (np.linalg.qr(rng.normal(size=(7, 7)))[0], np.linalg.qr(rng.normal(size=(12, 12)))[0]),
    ):
        turned = edit_weight(S @ W @ R.T, R @ A @ R.T, S @ G @ S.T, keep_mass)
        np.testing.assert_allclose(turned, S @ expected @ R.T, rtol=0, atol=1e-10)


def test_sides_are_not_interchangeable():
    W, A, G = factors(6, 6)
    assert np.abs(edit_weight(W, A, G, 0.6) - edit_weight(W, G, A, 0.6)).max() > 0.1
    np.testing.assert_allclose(edit_weight(W.T, G, A, 0.6), edit_weight(W, A, G, 0.6).T, rtol=0, atol=1e-12)


def test_coefficients_give_what_the_projection_gives_and_kinds_are_kept():
    W, A, G = (torch.from_numpy(x) for x in factors(9, 11))
    U_A, U_G = (torch.linalg.eigh(x)[1].flip(1) for x in (A, G))
    values = [torch.linalg.eigvalsh(x).flip(0) for x in (G, A)]
    for options in ({"keep_mass": 0.5}, {"rule": "bulk", "band": (0.2, 0.5)}):
        pairs = kept_pairs(*values, **options)
        C = to_coefficients(W, U_A, U_G)
        expected = U_G @ (C * torch.from_numpy(pairs.mask())) @ U_A.T
        torch.testing.assert_close(project(W, U_A, U_G, pairs), expected)
        torch.testing.assert_close(from_coefficients(C, U_A, U_G, pairs), expected)
    assert isinstance(kept_mask(*values, 0.5), torch.Tensor)
    assert isinstance(edit_weight(W.numpy(), A.numpy(), G.numpy()), np.ndarray)
    assert edit_weight(W.bfloat16(), A, G).dtype == torch.bfloat16


def test_slightly_negative_eigenvalues_count_as_zero():
    lam, mu = np.array([4.0, 1.0, -1e-7]), np.array([3.0, 1.0, -1e-6])
    assert select_pairs(lam, mu, 0.99) == select_pairs(lam.clip(0), mu.clip(0), 0.99)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: select_pairs([1.0], [1.0], 0), DatumwiseError, "keep_mass is 0: choose a share above 0, at most 1"),
        (lambda: select_pairs([1.0], [1.0], 1.1), DatumwiseError, "keep_mass is 1.1"),
        (lambda: select_pairs([1.0], [1.0], float("nan")), DatumwiseError, "keep_mass is nan"),
        (lambda: select_pairs([1.0, 2.0], [1.0], 0.5), DatumwiseError, "the eigenvalues lam do not descend"),
        (lambda: select_pairs([0.0, 0.0], [1.0], 0.5), DatumwiseError, "all eigenvalues lam are zero"),
        (lambda: select_pairs([1.0], [np.nan], 0.5), NotFinite, "mu has eigenvalues that are not finite"),
        (lambda: select_pairs([], [1.0], 0.5), SchemaMismatch, "lam has shape"),
        (lambda: kept_pairs([1.0], [1.0], (0.5, 0.5)), DatumwiseError, "a pair of keep_mass is for the marginal rule"),
        (lambda: kept_pairs([1.0], [1.0], rule="saliency"), UnknownName, "there is no rule 'saliency': choose product"),
        (lambda: kept_pairs([1.0], [1.0], rule="bulk"), DatumwiseError, "the bulk rule needs a band"),
        (lambda: kept_pairs([1.0], [1.0], rule="bulk", band=(0.5, 0.5)), DatumwiseError, "band is .0.5, 0.5."),
        (lambda: edit_weight(np.ones((2, 3)), np.eye(2), np.eye(3)), SchemaMismatch, "W, A and G have shapes"),
        (
            lambda: edit_weight(np.ones((2, 2)), np.full((2, 2), np.nan), np.eye(2)),
            NotFinite,
            "factor A has non-finite values",
        ),
    ],
)
def test_bad_input_is_refused(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
