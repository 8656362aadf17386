"""Where each datapoint lies on the map: t-SNE of some, all others among the nearest of those."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from datumwise.probe.neighbours import neighbours

__all__ = ["layout"]

ANCHORS = 2_500  # datapoints that t-SNE places itself: its time grows with their number
NEAREST = 5  # anchors whose mean places any other datapoint
PERPLEXITY = 30.0


def layout(embedding: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Two coordinates a datapoint, near where similar ones are.

    Parameters
    ----------
    embedding : ndarray of float, shape (n, d)
    seed : int

    Returns
    -------
    ndarray of float32, shape (n, 2)
        In 0..1. t-SNE (van der Maaten and Hinton, 2008) of at most 2,500 anchors started from their principal
        components; the others at the distance-weighted mean of their 5 nearest anchors.
    """
    embedding = np.asarray(embedding, np.float32)
    n = len(embedding)
    rng = np.random.default_rng(seed)
    anchors = np.sort(rng.choice(n, ANCHORS, replace=False)) if n > ANCHORS else np.arange(n)
    placed = _place_anchors(embedding[anchors], seed)
    if len(anchors) < n:
        distances, nearest = neighbours(embedding[anchors], k=NEAREST, queries=embedding)
        weights = 1 / (distances + 1e-3 * np.median(distances) + 1e-12)
        everyone = (weights[..., None] * placed[nearest]).sum(1) / weights.sum(1, keepdims=True)
        everyone[anchors] = placed
        placed = everyone
    low, high = placed.min(0), placed.max(0)
    return ((placed - low) / np.maximum(high - low, 1e-12)).astype(np.float32)


def _place_anchors(rows: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(rows) < 5 or rows.shape[1] < 2:
        flat = np.zeros((len(rows), 2))
        flat[:, : min(2, rows.shape[1])] = rows[:, :2]
        return flat
    if rows.shape[1] > 50:
        rows = PCA(min(50, len(rows)), random_state=seed).fit_transform(rows)
    with threadpool_limits(1):  # with more threads than free cores t-SNE becomes many times slower
        return TSNE(perplexity=min(PERPLEXITY, (len(rows) - 1) / 3), init="pca", random_state=seed, max_iter=500).fit_transform(
            rows
        )
