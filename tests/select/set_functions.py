"""Set functions by their definition, evaluated from scratch: what the greedy gains of every selector must add up to."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import scipy.sparse as sp

from datumwise.select.disparity import DisparityFunction
from datumwise.select.facility_location import FacilityLocationFunction
from datumwise.select.feature_based import FeatureBasedFunction
from datumwise.select.graph_cut import GraphCutFunction
from datumwise.select.greedy import SetFunction
from datumwise.select.log_det import DOptimalFunction, LogDetFunction
from datumwise.select.max_coverage import MaxCoverageFunction
from datumwise.select.mixture import MixtureFunction
from datumwise.select.saturated_coverage import SaturatedCoverageFunction
from datumwise.select.similarity import given

PHI = {"sqrt": np.sqrt, "log1p": np.log1p, "sigmoid": lambda x: x / (1 + x), "min": lambda x: np.minimum(x, 1)}


def kernel(n, seed=0, dim=5):
    """Symmetric, semi-definite, positive, of full rank."""
    X = np.random.default_rng(seed).normal(size=(n, dim))
    return np.exp(-((X[:, None] - X) ** 2).sum(axis=2) / 4)


def counts(n, seed=0, dim=7):
    return np.random.default_rng(seed).poisson(0.6, size=(n, dim)).astype(float)


def value(name, S, X, chosen):
    """f(chosen) from its definition."""
    s = list(chosen)
    if not s:
        return 0.0
    D = 1 - S
    pairs = [D[a, b] for a, b in combinations(s, 2)]
    if name == "facility_location":
        return S[:, s].max(axis=1).sum()
    if name.startswith("graph_cut"):
        return float(name.split("_")[-1]) * S[:, s].sum() - S[np.ix_(s, s)].sum()
    if name == "saturated_coverage":
        return np.minimum(S[:, s].sum(axis=1), 0.1 * S.sum(axis=1)).sum()
    if name.startswith("feature"):
        return PHI[name.split("_")[-1]](X[s].sum(axis=0)).sum()
    if name == "max_coverage":
        return float((X[s] > 0).any(axis=0).sum())
    if name == "log_det":
        return np.linalg.slogdet(S[np.ix_(s, s)] + np.eye(len(s)))[1]
    if name == "d_optimal":
        return np.linalg.slogdet(np.eye(X.shape[1]) + X[s].T @ X[s] / 0.5)[1]
    if name == "disparity_sum":
        return float(sum(pairs))
    if name == "disparity_min":
        return float(min(pairs, default=0.0))
    if name == "disparity_min_sum":
        return sum(min(D[a, b] for b in s if b != a) for a in s) if len(s) > 1 else 0.0
    return 2 * value("facility_location", S, X, s) + 0.5 * value("feature_sqrt", S, X, s)


def function(name, S, X):
    made = {
        "facility_location": lambda: FacilityLocationFunction(given(S)),
        "graph_cut_2": lambda: GraphCutFunction(given(S), 2),
        "graph_cut_0.7": lambda: GraphCutFunction(given(S), 0.7),
        "saturated_coverage": lambda: SaturatedCoverageFunction(given(S), 0.1),
        "max_coverage": lambda: MaxCoverageFunction(sp.csr_array(X)),
        "log_det": lambda: LogDetFunction(given(S), 1.0),
        "d_optimal": lambda: DOptimalFunction(X, 0.5),
        "disparity_sum": lambda: DisparityFunction(given(S), "sum"),
        "disparity_min": lambda: DisparityFunction(given(S), "min"),
        "disparity_min_sum": lambda: DisparityFunction(given(S), "min_sum"),
        "mixture": lambda: MixtureFunction([FacilityLocationFunction(given(S)), FeatureBasedFunction(X)], [2.0, 0.5]),
    }
    return made[name]() if name in made else FeatureBasedFunction(X, name.split("_")[-1])


class FromScratch(SetFunction):
    """A set function that knows its definition only: asked anew for every gain."""

    def __init__(self, name, S, X):
        self.name, self.S, self.X = name, S, X
        self.n = len(S)
        self.monotone = name != "graph_cut_0.7"
        self.chosen = []
        self.asked = 0

    def gains(self, candidates):
        self.asked += len(candidates)
        now = value(self.name, self.S, self.X, self.chosen)
        return np.array([value(self.name, self.S, self.X, [*self.chosen, j]) - now for j in candidates])

    def add(self, j):
        self.chosen.append(int(j))

    def empty(self):
        return FromScratch(self.name, self.S, self.X)


SUBMODULAR = [
    "facility_location",
    "graph_cut_2",
    "graph_cut_0.7",
    "saturated_coverage",
    "feature_sqrt",
    "feature_log1p",
    "feature_sigmoid",
    "feature_min",
    "max_coverage",
    "log_det",
    "d_optimal",
    "mixture",
]
DISPARITY = ["disparity_sum", "disparity_min", "disparity_min_sum"]
