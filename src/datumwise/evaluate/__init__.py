"""Did it work? Removals, selections, promises and attributions put to the test; forgetting measured, attacked and certified."""

from datumwise.evaluate.accuracy_interval import accuracy_interval
from datumwise.evaluate.answer_judge import judge_answer
from datumwise.evaluate.attack_report import AttackReport
from datumwise.evaluate.attacks import ATTACKS, attack
from datumwise.evaluate.brittleness import Brittleness, brittleness
from datumwise.evaluate.certificate import Certificate
from datumwise.evaluate.certify import certify
from datumwise.evaluate.corruption import CorruptionSet, corrupt_facts, swap_entities
from datumwise.evaluate.criterion import Criterion
from datumwise.evaluate.easy_to_hard import EasyToHard, easy_to_hard
from datumwise.evaluate.exact_match import Matches, exact_match
from datumwise.evaluate.facts import FactSet
from datumwise.evaluate.few_shot import few_shot_prompt
from datumwise.evaluate.forget_quality import ForgetQuality, forget_quality
from datumwise.evaluate.forget_request import Forgotten, forget_datapoints
from datumwise.evaluate.forget_test import ForgetTest, forget_test
from datumwise.evaluate.forgetting_loops import disjoint_folds, nested_folds, scalability, sustainability
from datumwise.evaluate.forgetting_run import ForgettingRun
from datumwise.evaluate.held_out import held_out_split
from datumwise.evaluate.label_budget import BuyAdvice, LearningCurve, budget_curve, buy_advice, fit_learning_curve
from datumwise.evaluate.lds import LDS, lds
from datumwise.evaluate.membership import MEMBERSHIP, membership_auc, membership_scores
from datumwise.evaluate.memorization_auc import MemorizationAUC, memorization_auc
from datumwise.evaluate.muse_data import MuseData
from datumwise.evaluate.next_token_ranking import ndcg_at_k
from datumwise.evaluate.noisy_label_auc import NoisyLabels, noisy_label_auc
from datumwise.evaluate.paired import PairedTest, paired_test
from datumwise.evaluate.perplexity import Perplexity, perplexity
from datumwise.evaluate.pipeline import scoring
from datumwise.evaluate.privleak import auc, min_k_score, privleak
from datumwise.evaluate.rank_stability import RankAgreement, RankStability, rank_agreement, rank_stability
from datumwise.evaluate.recitation import Recitation, recitation
from datumwise.evaluate.recitation_metrics import levenshtein, nested_prompts, recitation_metrics
from datumwise.evaluate.recovery import restor_evaluate
from datumwise.evaluate.recovery_report import RestorReport
from datumwise.evaluate.removal import Interval, Proof, ProofCard, ProofRow, removal_proof
from datumwise.evaluate.removal_curves import RemovalCurves, removal_curves
from datumwise.evaluate.rouge import rouge_l
from datumwise.evaluate.selection_report import SelectionReport, selection_report
from datumwise.evaluate.six_way import six_way
from datumwise.evaluate.six_way_report import SixWayReport
from datumwise.evaluate.stop_at import StopAt, pick_first, stop_at
from datumwise.evaluate.supervision_gap import SupervisionGap, supervision_gap_recovered
from datumwise.evaluate.transitions import transition_classes

__all__ = [
    "ATTACKS",
    "LDS",
    "MEMBERSHIP",
    "AttackReport",
    "Brittleness",
    "BuyAdvice",
    "Certificate",
    "CorruptionSet",
    "Criterion",
    "EasyToHard",
    "FactSet",
    "ForgetQuality",
    "ForgetTest",
    "ForgettingRun",
    "Forgotten",
    "Interval",
    "LearningCurve",
    "Matches",
    "MemorizationAUC",
    "MuseData",
    "NoisyLabels",
    "PairedTest",
    "Perplexity",
    "Proof",
    "ProofCard",
    "ProofRow",
    "RankAgreement",
    "RankStability",
    "Recitation",
    "RemovalCurves",
    "RestorReport",
    "SelectionReport",
    "SixWayReport",
    "StopAt",
    "SupervisionGap",
    "accuracy_interval",
    "attack",
    "auc",
    "brittleness",
    "budget_curve",
    "buy_advice",
    "certify",
    "corrupt_facts",
    "disjoint_folds",
    "easy_to_hard",
    "exact_match",
    "few_shot_prompt",
    "fit_learning_curve",
    "forget_datapoints",
    "forget_quality",
    "forget_test",
    "held_out_split",
    "judge_answer",
    "lds",
    "levenshtein",
    "membership_auc",
    "membership_scores",
    "memorization_auc",
    "min_k_score",
    "ndcg_at_k",
    "nested_folds",
    "nested_prompts",
    "noisy_label_auc",
    "paired_test",
    "perplexity",
    "pick_first",
    "privleak",
    "rank_agreement",
    "rank_stability",
    "recitation",
    "recitation_metrics",
    "removal_curves",
    "removal_proof",
    "restor_evaluate",
    "rouge_l",
    "scalability",
    "scoring",
    "selection_report",
    "six_way",
    "stop_at",
    "supervision_gap_recovered",
    "sustainability",
    "swap_entities",
    "transition_classes",
]
