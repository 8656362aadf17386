"""The Vendi score is the effective number of different rows."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.score.corpus_diversity import hill_number
from datumwise.score.vendi import vendi

ORDERS = [0, 0.1, 0.5, 1, 2, 5, 300, np.inf]


def rows(n=30, d=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize("q", ORDERS)
def test_identical_rows_count_as_one_and_orthogonal_as_all(q):
    assert vendi(np.ones((7, 3)), q) == pytest.approx(1)
    assert vendi(np.ones((3, 7)), q) == pytest.approx(1)
    assert vendi(3 * np.eye(6), q) == pytest.approx(6)
    assert vendi(np.repeat(np.eye(4), 5, axis=0), q) == pytest.approx(4)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
@pytest.mark.parametrize("q", ORDERS)
def test_score_is_the_definition(shape, q):
    X = rows(*shape)
    unit = X / np.linalg.norm(X, axis=1)[:, None]
    eigenvalues = np.clip(np.linalg.eigvalsh(unit @ unit.T / len(X)), 0, None)
    eigenvalues = eigenvalues[eigenvalues > 1e-12]
    if q == 1:
        wanted = np.exp(-(eigenvalues * np.log(eigenvalues)).sum())
    elif np.isinf(q):
        wanted = 1 / eigenvalues.max()
    else:
        wanted = np.exp(np.log((eigenvalues**q).sum()) / (1 - q))
    assert vendi(X, q) == pytest.approx(wanted, rel=1e-9)
    assert vendi(unit @ unit.T, q, precomputed=True) == pytest.approx(wanted, rel=1e-6)


def test_order_one_and_infinity_are_limits():
    X = rows()
    assert vendi(X, 1 + 1e-6) == pytest.approx(vendi(X, 1), rel=1e-5)
    assert vendi(X, 1 - 1e-6) == pytest.approx(vendi(X, 1), rel=1e-5)
    assert vendi(X, 2000) == pytest.approx(vendi(X, np.inf), rel=1e-2)


def test_score_falls_with_the_order():
    scores = [vendi(rows(), q) for q in ORDERS]
    assert (np.diff(scores) <= 1e-9).all()


def test_rotation_scale_and_order_of_rows_change_nothing():
    X = rows()
    turn = np.linalg.qr(rows(8, 8, 1))[0]
    rng = np.random.default_rng(2)
    moved = (X @ turn * rng.uniform(0.1, 9, size=(30, 1)))[rng.permutation(30)]
    assert vendi(moved) == pytest.approx(vendi(X), rel=1e-10)


def test_blocks_of_rows_add_up(monkeypatch):
    X = rows(100, 6).astype(np.float32)
    whole = vendi(X)
    monkeypatch.setattr(importlib.import_module("datumwise.score.vendi"), "ROWS", 7)  # the room's name is the function
    assert vendi(X) == pytest.approx(whole, rel=1e-9)


def test_hill_numbers_of_known_shares():
    p = np.array([0.5, 0.25, 0.25])
    assert hill_number(p, 0) == pytest.approx(3)
    assert hill_number(p, 1) == pytest.approx(2**1.5)
    assert hill_number(p, 2) == pytest.approx(1 / 0.375)
    assert hill_number(p, np.inf) == pytest.approx(2)


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(DatumwiseError, match="row 1 of X is all zeros and has no direction: drop these rows"):
        vendi([[1.0, 0], [0, 0]])
    with pytest.raises(NotFinite, match="X has NaN or infinity in row 0"):
        vendi([[np.nan, 0]])
    with pytest.raises(DatumwiseError, match="q is -1: it is 0 or more"):
        vendi(rows(), -1)
    with pytest.raises(SchemaMismatch, match=r"K must be square; its shape is \(30, 8\)"):
        vendi(rows(), precomputed=True)
    with pytest.raises(DatumwiseError, match="the similarity of row 1 to itself is not 1"):
        vendi(np.diag([1.0, 2.0]), precomputed=True)
    with pytest.raises(DatumwiseError, match="K is not symmetric"):
        vendi([[1.0, 0.5], [0.1, 1.0]], precomputed=True)
    with pytest.raises(DatumwiseError, match="K is not positive semi-definite"):
        vendi([[1.0, -0.9, 0.9], [-0.9, 1.0, 0.9], [0.9, 0.9, 1.0]], precomputed=True)
