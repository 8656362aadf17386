"""One number a datapoint: pure functions from signals to scores, and the run that writes them to a ledger."""

from datumwise.score.confident_learning import confident_joint, confident_thresholds, find_label_issues
from datumwise.score.declare import Methods, Score, catalogue, find, methods, score
from datumwise.score.el2n import el2n
from datumwise.score.knn_shapley import knn_shapley
from datumwise.score.label_error_regression import label_error_regression
from datumwise.score.label_quality import (
    confidence_weighted_entropy,
    label_error,
    label_quality,
    normalized_margin,
    self_confidence,
)
from datumwise.score.memorization import memorization
from datumwise.score.near_duplicates import Duplicates, near_duplicates
from datumwise.score.outlier_knn import ood_knn, outlier_knn
from datumwise.score.run import Plan, plan, run
from datumwise.score.scores import Scores
from datumwise.score.thresholds import hard_points, near_duplicate_radius, outlier_threshold
from datumwise.score.training_dynamics import aum, confidence, correctness, dynamics, forgetting, variability

__all__ = [
    "Duplicates",
    "Methods",
    "Plan",
    "Score",
    "Scores",
    "aum",
    "catalogue",
    "confidence",
    "confidence_weighted_entropy",
    "confident_joint",
    "confident_thresholds",
    "correctness",
    "dynamics",
    "el2n",
    "find",
    "find_label_issues",
    "forgetting",
    "hard_points",
    "knn_shapley",
    "label_error",
    "label_error_regression",
    "label_quality",
    "memorization",
    "methods",
    "near_duplicate_radius",
    "near_duplicates",
    "normalized_margin",
    "ood_knn",
    "outlier_knn",
    "outlier_threshold",
    "plan",
    "run",
    "score",
    "self_confidence",
    "variability",
]
