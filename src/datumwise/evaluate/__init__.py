"""Did it work? Proof of a removal or a selection, data values and attributions put to the test, easy-to-hard generalisation."""

from datumwise.evaluate.accuracy_interval import accuracy_interval
from datumwise.evaluate.brittleness import Brittleness, brittleness
from datumwise.evaluate.easy_to_hard import EasyToHard, easy_to_hard
from datumwise.evaluate.exact_match import Matches, exact_match
from datumwise.evaluate.held_out import held_out_split
from datumwise.evaluate.label_budget import BuyAdvice, LearningCurve, budget_curve, buy_advice, fit_learning_curve
from datumwise.evaluate.lds import LDS, lds
from datumwise.evaluate.noisy_label_auc import NoisyLabels, noisy_label_auc
from datumwise.evaluate.pipeline import scoring
from datumwise.evaluate.rank_stability import RankAgreement, RankStability, rank_agreement, rank_stability
from datumwise.evaluate.removal import Interval, Proof, ProofCard, ProofRow, removal_proof
from datumwise.evaluate.removal_curves import RemovalCurves, removal_curves
from datumwise.evaluate.selection_report import SelectionReport, selection_report
from datumwise.evaluate.supervision_gap import SupervisionGap, supervision_gap_recovered

__all__ = [
    "LDS",
    "Brittleness",
    "BuyAdvice",
    "EasyToHard",
    "Interval",
    "LearningCurve",
    "Matches",
    "NoisyLabels",
    "Proof",
    "ProofCard",
    "ProofRow",
    "RankAgreement",
    "RankStability",
    "RemovalCurves",
    "SelectionReport",
    "SupervisionGap",
    "accuracy_interval",
    "brittleness",
    "budget_curve",
    "buy_advice",
    "easy_to_hard",
    "exact_match",
    "fit_learning_curve",
    "held_out_split",
    "lds",
    "noisy_label_auc",
    "rank_agreement",
    "rank_stability",
    "removal_curves",
    "removal_proof",
    "scoring",
    "selection_report",
    "supervision_gap_recovered",
]
