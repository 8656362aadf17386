"""How diverse is a set of datapoints? Several measures of it at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, UnknownName
from datumwise.score.declare import suggestion
from datumwise.score.novelsum import novelsum
from datumwise.score.set_diversity import (
    cluster_inertia,
    convex_radius,
    knn_distance,
    mean_pairwise_distance,
    minimum_distance,
)
from datumwise.score.vendi import vendi

__all__ = ["diversity"]

OF_X: dict[str, Callable[[Any], float]] = {
    "vendi": vendi,
    "knn": lambda X: float(knn_distance(X, k=min(6, len(X) - 1)).mean()),
    "novelsum": novelsum,
    "mean_distance": mean_pairwise_distance,
    "min_distance": minimum_distance,
    "radius": convex_radius,
    "inertia": lambda X: cluster_inertia(X, max(1, min(200, len(X) // 2)), random_state=0),
}
OF_TEXTS = ("mtld",)


def diversity(
    X: Any = None,
    texts: Sequence[str] | None = None,
    metrics: Sequence[str] = ("vendi", "knn", "novelsum", "mtld"),
) -> dict[str, float]:
    """Measures of the diversity of a set; the larger, the more diverse.

    Parameters
    ----------
    X : float (n, d), optional
        Embeddings.
    texts : sequence of n str, optional
    metrics : sequence of str
        Of X: "vendi", "knn" (mean distance to the 6th nearest), "novelsum", "mean_distance", "min_distance",
        "radius", "inertia" (200 clusters, n / 2 if that is fewer). Of texts: "mtld" (mean over texts; NaN of those
        too short left out). Those whose input is not given are left out.

    Returns
    -------
    dict of str to float

    Raises
    ------
    UnknownName
        There is no such measure.
    DatumwiseError
        Neither X nor texts, or none of the measures is of what is given.

    Examples
    --------
    >>> import numpy as np
    >>> found = diversity(np.eye(7), ["the cat sat on the mat"], metrics=("vendi", "knn", "mtld"))
    >>> {name: round(value, 2) for name, value in found.items()}
    {'vendi': 7.0, 'knn': 1.0, 'mtld': 10.08}
    """
    for name in metrics:
        if name not in OF_X and name not in OF_TEXTS:
            known = (*OF_X, *OF_TEXTS)
            raise UnknownName(
                f"there is no measure {name!r} of diversity",
                remedy=suggestion(name, known) or f"there are {', '.join(known)}",
            )
    found: dict[str, float] = {}
    for name in metrics:
        if name in OF_X and X is not None:
            found[name] = OF_X[name](X)
        elif name in OF_TEXTS and texts is not None:
            found[name] = _mean_mtld(texts)
    if not found:
        raise DatumwiseError(
            f"{', '.join(metrics) or 'no measure'}: nothing given to measure", remedy="give X= (embeddings) or texts="
        )
    return found


def _mean_mtld(texts: Sequence[str]) -> float:
    from datumwise.probe.words import words
    from datumwise.score.lexical_diversity import mtld

    if isinstance(texts, str) or not len(texts):
        raise EmptyData("texts must be a list of at least one string")
    found = mtld(words(texts))
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
