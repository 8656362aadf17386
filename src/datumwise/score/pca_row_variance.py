"""How much does a datapoint stand out along the main directions of the data? The diversity step of LIFT."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from datumwise.probe.neighbours import finite_matrix
from datumwise.score.declare import score

__all__ = ["pca_row_variance"]


@score(needs=("embedding",), higher="more unlike the common run", source="Xu et al., 2023 (LIFT), section 2.2")
def pca_row_variance(embedding: np.ndarray, n_components: int = 32, seed: int = 0) -> np.ndarray:
    """Mean square of a datapoint's coordinates in the leading principal components: their variance about the data's mean.

    LIFT keeps the datapoints of highest row variance, then of these the ones that a chat model rates highest
    (`datumwise.score.rate`).

    About the row's own mean, as published, the variance would depend on the signs of the components, which are
    arbitrary.

    Parameters
    ----------
    embedding : float (n, d)
    n_components : int, default 32
        At most min(n, d).
    seed : int

    Returns
    -------
    float64 (n,)
        >= 0, in squared units of the embedding.

    Examples
    --------
    >>> pca_row_variance(np.array([[0.0, 0], [0.1, 0], [0, 0.1], [9, 3]])).argmax()
    np.int64(3)
    """
    X = finite_matrix(embedding, "embedding").astype(np.float64)
    width = max(1, min(n_components, *X.shape))
    return (PCA(width, random_state=seed).fit_transform(X) ** 2).mean(axis=1)
