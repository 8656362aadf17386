"""Promises about new datapoints: batch predictive inference, conformal sets, selection with few false claims."""

from datumwise.predict.adapters import AdaptedScores, adapt_scores, batch_predict, conformal_predict, predict_at
from datumwise.predict.batch_bounds import (
    BatchInterval,
    batch_function_bound,
    batch_quantile_bound,
    batch_sum_bound,
    cdf_band,
    quartile_box,
)
from datumwise.predict.batch_conformal import BatchConformal
from datumwise.predict.batch_plan import BatchPlan, batch_plan
from datumwise.predict.batch_results import BatchBand, BatchBound, BatchIntervals, BatchSets
from datumwise.predict.groups import GroupedStatements, MondrianBatchConformal
from datumwise.predict.max_sum import max_fold, max_sum, min_sum
from datumwise.predict.on_ledger import LedgerPromise, promise
from datumwise.predict.order_statistics import (
    order_statistic_rank,
    rank_box_probability,
    rank_pmf,
    required_calibration_size,
)
from datumwise.predict.outcome_bounds import outcome_band, outcome_quantile
from datumwise.predict.rank_sum import draw_ranks, rank_sum_pmf, rank_sum_quantile, shaped_ranks
from datumwise.predict.scores import label_scores, regression_scores
from datumwise.predict.selection import (
    FalseClaimCurve,
    SelectionResult,
    conformal_p_values,
    false_claim_curve,
    select_count,
    select_fdr,
)
from datumwise.predict.shift import ShiftWeights, estimate_weights, reject_to_target
from datumwise.predict.split_conformal import (
    SplitConformalClassifier,
    SplitConformalRegressor,
    conformal_rank,
    conformal_threshold,
)

__all__ = [
    "AdaptedScores",
    "BatchBand",
    "BatchBound",
    "BatchConformal",
    "BatchInterval",
    "BatchIntervals",
    "BatchPlan",
    "BatchSets",
    "FalseClaimCurve",
    "GroupedStatements",
    "LedgerPromise",
    "MondrianBatchConformal",
    "SelectionResult",
    "ShiftWeights",
    "SplitConformalClassifier",
    "SplitConformalRegressor",
    "adapt_scores",
    "batch_function_bound",
    "batch_plan",
    "batch_predict",
    "batch_quantile_bound",
    "batch_sum_bound",
    "cdf_band",
    "conformal_p_values",
    "conformal_predict",
    "conformal_rank",
    "conformal_threshold",
    "draw_ranks",
    "estimate_weights",
    "false_claim_curve",
    "label_scores",
    "max_fold",
    "max_sum",
    "min_sum",
    "order_statistic_rank",
    "outcome_band",
    "outcome_quantile",
    "predict_at",
    "promise",
    "quartile_box",
    "rank_box_probability",
    "rank_pmf",
    "rank_sum_pmf",
    "rank_sum_quantile",
    "regression_scores",
    "reject_to_target",
    "required_calibration_size",
    "select_count",
    "select_fdr",
    "shaped_ranks",
]
