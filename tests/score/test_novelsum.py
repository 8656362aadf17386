"""NovelSum is its formula; its published variant counts each datapoint as its own nearest."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.score.declare import find
from datumwise.score.novelsum import novelsum, novelty

module = importlib.import_module("datumwise.score.novelsum")  # the room's name is the function


def data(n=50, d=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def by_definition(X, pool, k=10, alpha=0.5, beta=1.0, itself=False):
    norms = np.linalg.norm(X, axis=1)
    D = 1 - X @ X.T / np.outer(norms, norms)
    found = []
    for i in range(len(X)):
        d = np.sort(np.delete(D[i], i))
        d = np.append(0.0, d) if itself else d
        r = np.arange(1.0, len(d) + 1) ** -beta
        squared = np.sort(((np.unique(pool, axis=0) - X[i]) ** 2).sum(axis=1))
        squared = squared[1:] if squared[0] == 0 or itself else squared
        found.append((squared[:k].mean() + 1e-9) ** -alpha * (r * d).sum() / r.sum())
    return np.array(found)


@pytest.mark.parametrize("options", [{}, {"k": 3, "density_power": 0.25}, {"proximity_power": 2}, {"proximity_power": 0}])
def test_novelty_is_the_formula(options, monkeypatch):
    monkeypatch.setattr(module, "CELLS", 180)
    X = data()
    short = {"density_power": "alpha", "proximity_power": "beta"}
    wanted = by_definition(X, X, **{short.get(name, name): value for name, value in options.items()})
    np.testing.assert_allclose(novelty(X, **options), wanted, rtol=1e-5)
    assert novelsum(X, **options) == pytest.approx(wanted.mean(), rel=1e-5)


@pytest.mark.parametrize("inside", [True, False])
def test_a_reference_pool_gives_the_density(inside):
    pool = data(80, seed=1)
    X = pool[:20] if inside else data(20, seed=2)
    np.testing.assert_allclose(novelty(X, reference=pool), by_definition(X, pool), rtol=1e-5)


def test_published_variant_takes_a_datapoint_for_its_own_nearest():
    """A defect against the text: weight 1 goes to a distance that is always 0. It also skips the nearest point of
    the reference where the datapoint is not in it."""
    X, pool = data(), data(80, seed=1)
    published = novelty(X, reference=pool, variant="published")
    np.testing.assert_allclose(published, by_definition(X, pool, itself=True), rtol=1e-5)
    assert (published < novelty(X, reference=pool)).all()


def test_copies_in_the_pool_do_not_make_it_denser():
    X = data()
    np.testing.assert_allclose(novelty(X, reference=np.repeat(X, 3, axis=0)), novelty(X), rtol=1e-9)


def test_copies_in_the_set_lower_its_value():
    X = data()
    values = [novelsum(np.repeat(X[:m], 48 // m, axis=0), X) for m in (3, 6, 12, 24, 48)]
    assert (np.diff(values) > 0).all()


def test_order_of_rows_and_turning_change_nothing():
    X = data()
    order = np.random.default_rng(3).permutation(50)
    turn = np.linalg.qr(data(6, 6, 4))[0]
    np.testing.assert_allclose(novelty(X[order] @ turn), novelty(X)[order], rtol=1e-4)


def test_it_is_declared_and_tells_how_far_it_is():
    assert find("novelty").needs == ("embedding",)
    seen = []
    novelty(data(), progress=lambda done, n: seen.append((done, n)))
    assert seen[-1] == (50, 50)


def test_what_cannot_be_is_refused():
    with pytest.raises(DatumwiseError, match="one datapoint is new to nothing"):
        novelty([[1.0, 2.0]])
    with pytest.raises(UnknownName, match="there is no variant 'old': give 'exact' or 'published'"):
        novelty(data(), variant="old")
    with pytest.raises(SchemaMismatch, match="the reference has 3 columns and the embedding has 6"):
        novelty(data(), reference=np.eye(3))
    with pytest.raises(DatumwiseError, match="the reference holds one point only"):
        novelty(data(), reference=np.ones((5, 6)))
