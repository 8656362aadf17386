"""Picks from clusters: as many of each as asked, and those asked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.select.cluster_picks import ClusterClip, ClusterPicks, SSLPrototypes, allotment, cluster_clip, clusters

SIZES = (60, 30, 10)


def blobs(seed=0):
    rng = np.random.default_rng(seed)
    return np.repeat(np.eye(3) * 20, SIZES, axis=0) + rng.normal(size=(100, 3))


def per_cluster(rows):
    return np.bincount(np.repeat(np.arange(3), SIZES)[rows], minlength=3).tolist()


def test_clusters_are_found_numbered_by_lowest_row_with_their_distances():
    X = blobs()
    labels, distances = clusters(X, 3, random_state=0)
    assert labels.tolist() == np.repeat(np.arange(3), SIZES).tolist()
    for c in range(3):
        centre = X[labels == c].mean(axis=0)
        np.testing.assert_allclose(distances[labels == c], np.linalg.norm(X[labels == c] - centre, axis=1), atol=1e-9)


def test_shares_are_balanced_or_in_proportion():
    X = blobs()
    assert per_cluster(ClusterPicks(12, n_clusters=3, random_state=0).fit(X).ranking_) == [4, 4, 4]
    assert per_cluster(ClusterPicks(50, n_clusters=3, random_state=0).fit(X).ranking_) == [20, 20, 10]
    proportional = ClusterPicks(20, n_clusters=3, share="proportional", random_state=0).fit(X)
    assert per_cluster(proportional.ranking_) == [12, 6, 2]
    assert per_cluster(proportional.ranking_[:10]) == [6, 3, 1]  # a head of it too


def test_uniform_draws_follow_the_multinomial_until_a_cluster_is_used_up():
    rng = np.random.default_rng(0)
    drawn = np.sum([allotment(np.array([500, 500, 500]), 9, "uniform", rng) for _ in range(2000)], axis=0)
    assert chisquare(drawn).pvalue > 1e-3
    for _ in range(50):
        quota = allotment(np.array([2, 100, 0]), 60, "uniform", rng)
        assert quota.tolist() == [2, 58, 0]


def test_allotments_sum_to_k_and_fit():
    rng = np.random.default_rng(1)
    for share in ("balanced", "proportional", "uniform"):
        for _ in range(100):
            sizes = rng.integers(0, 20, size=6)
            k = int(rng.integers(0, sizes.sum() + 1))
            quota = allotment(sizes, k, share, rng)
            assert quota.sum() == k
            assert (quota <= sizes).all()
            assert (quota >= 0).all()
    assert allotment(np.array([5, 5, 5]), 8, "balanced").tolist() == [3, 3, 2]
    assert allotment(np.array([5, 9, 7]), 8, "balanced").tolist() == [2, 3, 3]  # the larger ones take what is over


@pytest.mark.parametrize("pick", ["nearest", "farthest"])
def test_nearest_and_farthest_are_those(pick):
    X = blobs()
    found = ClusterPicks(9, n_clusters=3, pick=pick, random_state=0).fit(X)
    for c in range(3):
        rows = np.flatnonzero(found.labels_ == c)
        order = rows[np.argsort(found.distances_[rows])]
        wanted = order[:3] if pick == "nearest" else order[::-1][:3]
        assert found.ranking_[found.labels_[found.ranking_] == c].tolist() == wanted.tolist()
    assert found.labels_[found.ranking_[:3]].tolist() == [0, 1, 2]
    assert found.gains_.round(3).tolist() == [1.0] * 3 + [0.5] * 3 + [0.333] * 3


def test_random_picks_repeat_with_their_seed():
    X = blobs()
    runs = [ClusterPicks(9, n_clusters=3, random_state=seed).fit(X).ranking_.tolist() for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_prototypes_are_the_farthest_or_the_nearest():
    X = blobs()
    hard = SSLPrototypes(100, n_clusters=3, random_state=0).fit(X)
    unit = X / np.linalg.norm(X, axis=1)[:, None]
    centres = np.stack([unit[hard.labels_ == c].mean(axis=0) for c in range(3)])
    wanted = np.linalg.norm(unit - centres[hard.labels_], axis=1)
    np.testing.assert_allclose(hard.gains_, np.sort(wanted)[::-1], atol=1e-9)
    easy = SSLPrototypes(100, keep="easy", n_clusters=3, random_state=0).fit(X)
    assert easy.ranking_.tolist() == hard.ranking_[::-1].tolist()


def test_cluster_clip_draws_clusters_uniformly_and_clips():
    labels = np.repeat([0, 1, 2], SIZES)
    early = [cluster_clip(labels, 30, max_repeats=3, random_state=seed) for seed in range(200)]
    assert chisquare(np.bincount(labels[np.concatenate(early)])).pvalue > 1e-3
    drawn = cluster_clip(labels, 250, max_repeats=3, random_state=0)
    times = np.bincount(drawn, minlength=100)
    assert times.max() == 3
    assert (times[labels == 2] == 3).all()  # the small cluster is used up
    assert np.bincount(cluster_clip(labels, 300, max_repeats=3, random_state=0)).tolist() == [3] * 100
    found = ClusterClip(40, n_clusters=3, random_state=0).fit(blobs())
    assert found.gains_.sum() == len(set(found.ranking_))


def test_copies_make_fewer_clusters_without_a_warning(recwarn):
    labels = clusters(np.ones((20, 2)), 4, random_state=0)[0]
    assert labels.tolist() == [0] * 20
    assert not recwarn.list


def test_what_cannot_be_is_refused():
    X = blobs()
    with pytest.raises(UnknownName, match="there is no share 'balance': did you mean 'balanced'"):
        ClusterPicks(3, share="balance").fit(X)
    with pytest.raises(UnknownName, match="there is no pick 'near': did you mean 'nearest'"):
        ClusterPicks(3, pick="near").fit(X)
    with pytest.raises(UnknownName, match="there is no keep 'x': there are hard, easy"):
        SSLPrototypes(3, keep="x").fit(X)
    with pytest.raises(DatumwiseError, match="101 clusters were asked of 100 datapoints"):
        ClusterPicks(3, n_clusters=101).fit(X)
    with pytest.raises(DatumwiseError, match="7 draws of 3 datapoints need more than 2 repeats"):
        cluster_clip(np.zeros(3, int), 7, max_repeats=2)
    with pytest.raises(DatumwiseError, match="max_repeats is 0"):
        ClusterClip(3, max_repeats=0).fit(X)
