"""D4: SemDeDup at a share, clusters anew, far from the centres."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError
from datumwise.select.d4 import D4
from datumwise.select.semantic import semantic, unit_rows


def blobs(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.eye(4)
    return np.vstack([c + 0.15 * rng.normal(size=(40, 4)) for c in centres])


def test_with_one_cluster_it_is_semdedup_and_then_the_farthest_from_the_mean() -> None:
    X = np.vstack([blobs(), blobs()[:60] + 1e-4])  # 60 near copies of 160
    chosen = D4(30, dedup_share=160 / 220, n_clusters=1).fit(X)
    kept = semantic(X, 1e-4, n_clusters=1).keep
    assert np.array_equal(chosen.deduplicated_, kept)
    rows = np.flatnonzero(kept)
    U = unit_rows(X[rows])
    centre = U.mean(axis=0) / np.linalg.norm(U.mean(axis=0))
    expected = rows[np.argsort(U @ centre, kind="stable")[:30]]
    assert chosen.ranking_.tolist() == expected.tolist()
    np.testing.assert_allclose(chosen.gains_, np.sort(1 - U @ centre)[::-1][:30], atol=1e-9)


def test_copies_ten_times_over_are_chosen_once_at_most() -> None:
    X = np.repeat(blobs(1)[:40], 10, axis=0)
    chosen = D4(20, dedup_share=0.1, n_clusters=3).fit(X)
    assert len(np.unique(chosen.ranking_ // 10)) == 20


def test_it_repeats_itself_and_keeps_no_fewer_than_asked() -> None:
    X = blobs(2)
    assert np.array_equal(D4(20).fit(X).ranking_, D4(20).fit(X).ranking_)
    assert D4(150).fit(X).deduplicated_.sum() == 150
    assert D4(20).fit(X).deduplicated_.sum() == 120


def test_bad_inputs_are_refused() -> None:
    for value in (0, 1.5, -1):
        with pytest.raises(DatumwiseError, match="dedup_share is"):
            D4(1, dedup_share=value).fit(np.eye(3))
    with pytest.raises(DatumwiseError, match="clusters were asked"):
        D4(1, n_clusters=0).fit(np.eye(3))
