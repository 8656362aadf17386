"""One number a datapoint: pure functions from signals to scores, and the run that writes them to a ledger."""

from datumwise.score.aflite import Filtered, aflite, predictability
from datumwise.score.ame import ame
from datumwise.score.banzhaf import banzhaf
from datumwise.score.bradley_terry import Strengths, bradley_terry, elo
from datumwise.score.bs_detector import bs_detector
from datumwise.score.characters import (
    alphabetic_word_ratio,
    alphanumeric_ratio,
    bullet_line_ratio,
    digit_ratio,
    ellipsis_line_ratio,
    mean_word_length,
    punctuation_ratio,
    special_ratio,
    stop_word_ratio,
    symbol_word_ratio,
    terminal_line_ratio,
    uppercase_ratio,
    whitespace_ratio,
)
from datumwise.score.class_wise_shapley import class_wise_shapley
from datumwise.score.code_quality import (
    code_parses,
    comment_ratio,
    cyclomatic_complexity,
    docstring_ratio,
    max_line_length,
    max_nesting,
    mean_identifier_length,
    mean_line_length,
)
from datumwise.score.confident_learning import confident_joint, confident_thresholds, find_label_issues
from datumwise.score.corpus_diversity import (
    compression_ratio,
    distinct_n,
    entropy,
    hill_number,
    homogenization,
    ngram_entropy,
    rouge_l,
    self_bleu,
    self_bleu_of_each,
    simpson,
)
from datumwise.score.crowdlab import Consensus, crowdlab, majority_vote
from datumwise.score.data_oob import data_oob
from datumwise.score.data_quality_index import data_quality_index
from datumwise.score.datamodels import Datamodels, datamodels
from datumwise.score.dawid_skene import DawidSkene, dawid_skene
from datumwise.score.declare import Methods, Score, catalogue, find, methods, score
from datumwise.score.deita import deita, deita_complexity, deita_conversations, deita_quality, deita_scores
from datumwise.score.diversity import diversity
from datumwise.score.dsdm import dsdm
from datumwise.score.edit_sensitivity import edit_sensitivity, removed_energy
from datumwise.score.el2n import el2n
from datumwise.score.error_norm import error_norm
from datumwise.score.estimate import Value
from datumwise.score.flat_share import flat_share, flat_share_given_loss
from datumwise.score.grand import grand
from datumwise.score.hardness import average_hardness, hardness, hardness_correlation, solution_sentences
from datumwise.score.ifd import ifd
from datumwise.score.input_curvature import input_curvature
from datumwise.score.instruct_mining import InstructMining
from datumwise.score.irt import IRT, fit_irt
from datumwise.score.knn_shapley import knn_shapley, knn_shapley_crossed
from datumwise.score.label_error_regression import label_error_regression
from datumwise.score.label_quality import (
    confidence_weighted_entropy,
    label_error,
    label_quality,
    normalized_margin,
    self_confidence,
)
from datumwise.score.language_model import lm
from datumwise.score.lava import lava
from datumwise.score.learning_complexity import learning_complexity
from datumwise.score.leave_one_out import leave_one_out
from datumwise.score.lexical_diversity import (
    corrected_ttr,
    dugast,
    hdd,
    herdan,
    maas,
    mattr,
    msttr,
    mtld,
    root_ttr,
    summer,
    ttr,
    vocd_d,
    yule_k,
)
from datumwise.score.likelihood import mean_nll, perplexity, perplexity_alone, zlib_ratio
from datumwise.score.loss import loss
from datumwise.score.mates import Mates, mates, measured_influence
from datumwise.score.mdl_hardness import MDLHardness, mdl_hardness
from datumwise.score.memorization import memorization
from datumwise.score.memorization_scores import MemorizationScores, memorization_scores
from datumwise.score.min_k import min_k, min_k_plus_plus
from datumwise.score.near_duplicates import Duplicates, near_duplicates
from datumwise.score.non_iid import NonIID, non_iid, order_independence
from datumwise.score.novelsum import novelsum, novelty
from datumwise.score.ood_entropy import ood_entropy
from datumwise.score.outlier_knn import ood_knn, outlier_knn
from datumwise.score.pca_row_variance import pca_row_variance
from datumwise.score.prompt_uncertainty import prompt_uncertainty
from datumwise.score.quality_classifier import QualityClassifier
from datumwise.score.qurating import qurating
from datumwise.score.rating import rate
from datumwise.score.rating_curation import CuratedRatings, curate_ratings, transition_matrix
from datumwise.score.readability import (
    ari,
    coleman_liau,
    dale_chall,
    flesch_kincaid_grade,
    flesch_reading_ease,
    gunning_fog,
    lix,
    rix,
    smog,
)
from datumwise.score.recitation import recitation, recited_run
from datumwise.score.relevance import cosine_relevance, ngram_overlap
from datumwise.score.repetition import (
    duplicate_5gram_ratio,
    duplicate_6gram_ratio,
    duplicate_7gram_ratio,
    duplicate_8gram_ratio,
    duplicate_9gram_ratio,
    duplicate_10gram_ratio,
    duplicate_line_character_ratio,
    duplicate_line_ratio,
    duplicate_ngram_ratio,
    duplicate_paragraph_character_ratio,
    duplicate_paragraph_ratio,
    top_2gram_ratio,
    top_3gram_ratio,
    top_4gram_ratio,
    top_ngram_ratio,
)
from datumwise.score.reward import reward
from datumwise.score.rho import learnability, reducible_loss
from datumwise.score.run import Plan, plan, run
from datumwise.score.scores import Scores
from datumwise.score.self_influence import self_influence
from datumwise.score.set_diversity import cluster_inertia, convex_radius, knn_distance, mean_pairwise_distance, minimum_distance
from datumwise.score.shapley import beta_shapley, exact_semivalue, tmc_shapley
from datumwise.score.spelling import oov_ratio
from datumwise.score.subset_influence import SubsetInfluence, subset_influence
from datumwise.score.text import text
from datumwise.score.text_size import (
    mean_sentence_length,
    n_characters,
    n_lines,
    n_sentences,
    n_syllables,
    n_types,
    n_words,
    response_prompt_ratio,
)
from datumwise.score.thresholds import hard_points, near_duplicate_radius, outlier_threshold
from datumwise.score.training_dynamics import (
    aum,
    aum_threshold,
    confidence,
    correctness,
    dynamics,
    fake_class_labels,
    forgetting,
    threshold_closeness,
    variability,
)
from datumwise.score.transferred_shapley import TransferredShapley, transferred_shapley
from datumwise.score.uncertainty import (
    least_confidence,
    min_token_margin,
    prediction_entropy,
    prediction_margin,
    sequence_least_confidence,
    token_entropy,
    token_least_confidence,
    token_margin,
)
from datumwise.score.utility import Utility, utility
from datumwise.score.value import value
from datumwise.score.vendi import vendi
from datumwise.score.volume import volume
from datumwise.score.yes_no import automathtext, unieval_coherence, unieval_naturalness, unieval_understandability, yes_no

__all__ = [
    "IRT",
    "Consensus",
    "CuratedRatings",
    "Datamodels",
    "DawidSkene",
    "Duplicates",
    "Filtered",
    "InstructMining",
    "MDLHardness",
    "Mates",
    "MemorizationScores",
    "Methods",
    "NonIID",
    "Plan",
    "QualityClassifier",
    "Score",
    "Scores",
    "Strengths",
    "SubsetInfluence",
    "TransferredShapley",
    "Utility",
    "Value",
    "aflite",
    "alphabetic_word_ratio",
    "alphanumeric_ratio",
    "ame",
    "ari",
    "aum",
    "aum_threshold",
    "automathtext",
    "average_hardness",
    "banzhaf",
    "beta_shapley",
    "bradley_terry",
    "bs_detector",
    "bullet_line_ratio",
    "catalogue",
    "class_wise_shapley",
    "cluster_inertia",
    "code_parses",
    "coleman_liau",
    "comment_ratio",
    "compression_ratio",
    "confidence",
    "confidence_weighted_entropy",
    "confident_joint",
    "confident_thresholds",
    "convex_radius",
    "corrected_ttr",
    "correctness",
    "cosine_relevance",
    "crowdlab",
    "curate_ratings",
    "cyclomatic_complexity",
    "dale_chall",
    "data_oob",
    "data_quality_index",
    "datamodels",
    "dawid_skene",
    "deita",
    "deita_complexity",
    "deita_conversations",
    "deita_quality",
    "deita_scores",
    "digit_ratio",
    "distinct_n",
    "diversity",
    "docstring_ratio",
    "dsdm",
    "dugast",
    "duplicate_5gram_ratio",
    "duplicate_6gram_ratio",
    "duplicate_7gram_ratio",
    "duplicate_8gram_ratio",
    "duplicate_9gram_ratio",
    "duplicate_10gram_ratio",
    "duplicate_line_character_ratio",
    "duplicate_line_ratio",
    "duplicate_ngram_ratio",
    "duplicate_paragraph_character_ratio",
    "duplicate_paragraph_ratio",
    "dynamics",
    "edit_sensitivity",
    "el2n",
    "ellipsis_line_ratio",
    "elo",
    "entropy",
    "error_norm",
    "exact_semivalue",
    "fake_class_labels",
    "find",
    "find_label_issues",
    "fit_irt",
    "flat_share",
    "flat_share_given_loss",
    "flesch_kincaid_grade",
    "flesch_reading_ease",
    "forgetting",
    "grand",
    "gunning_fog",
    "hard_points",
    "hardness",
    "hardness_correlation",
    "hdd",
    "herdan",
    "hill_number",
    "homogenization",
    "ifd",
    "input_curvature",
    "knn_distance",
    "knn_shapley",
    "knn_shapley_crossed",
    "label_error",
    "label_error_regression",
    "label_quality",
    "lava",
    "learnability",
    "learning_complexity",
    "least_confidence",
    "leave_one_out",
    "lix",
    "lm",
    "loss",
    "maas",
    "majority_vote",
    "mates",
    "mattr",
    "max_line_length",
    "max_nesting",
    "mdl_hardness",
    "mean_identifier_length",
    "mean_line_length",
    "mean_nll",
    "mean_pairwise_distance",
    "mean_sentence_length",
    "mean_word_length",
    "measured_influence",
    "memorization",
    "memorization_scores",
    "methods",
    "min_k",
    "min_k_plus_plus",
    "min_token_margin",
    "minimum_distance",
    "msttr",
    "mtld",
    "n_characters",
    "n_lines",
    "n_sentences",
    "n_syllables",
    "n_types",
    "n_words",
    "near_duplicate_radius",
    "near_duplicates",
    "ngram_entropy",
    "ngram_overlap",
    "non_iid",
    "normalized_margin",
    "novelsum",
    "novelty",
    "ood_entropy",
    "ood_knn",
    "oov_ratio",
    "order_independence",
    "outlier_knn",
    "outlier_threshold",
    "pca_row_variance",
    "perplexity",
    "perplexity_alone",
    "plan",
    "predictability",
    "prediction_entropy",
    "prediction_margin",
    "prompt_uncertainty",
    "punctuation_ratio",
    "qurating",
    "rate",
    "recitation",
    "recited_run",
    "reducible_loss",
    "removed_energy",
    "response_prompt_ratio",
    "reward",
    "rix",
    "root_ttr",
    "rouge_l",
    "run",
    "score",
    "self_bleu",
    "self_bleu_of_each",
    "self_confidence",
    "self_influence",
    "sequence_least_confidence",
    "simpson",
    "smog",
    "solution_sentences",
    "special_ratio",
    "stop_word_ratio",
    "subset_influence",
    "summer",
    "symbol_word_ratio",
    "terminal_line_ratio",
    "text",
    "threshold_closeness",
    "tmc_shapley",
    "token_entropy",
    "token_least_confidence",
    "token_margin",
    "top_2gram_ratio",
    "top_3gram_ratio",
    "top_4gram_ratio",
    "top_ngram_ratio",
    "transferred_shapley",
    "transition_matrix",
    "ttr",
    "unieval_coherence",
    "unieval_naturalness",
    "unieval_understandability",
    "uppercase_ratio",
    "utility",
    "value",
    "variability",
    "vendi",
    "vocd_d",
    "volume",
    "whitespace_ratio",
    "yes_no",
    "yule_k",
    "zlib_ratio",
]
