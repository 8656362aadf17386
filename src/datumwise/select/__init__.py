"""Which datapoints to keep under a budget: selectors that rank, deduplication, and pipelines on a ledger."""

from datumwise.select.ccs import CCS
from datumwise.select.choose import Choice, choose
from datumwise.select.cluster_picks import ClusterClip, ClusterPicks, SSLPrototypes
from datumwise.select.craig import Craig
from datumwise.select.d2_pruning import D2Pruning
from datumwise.select.d4 import D4
from datumwise.select.dataset_quantization import DatasetQuantization
from datumwise.select.disparity import Disparity
from datumwise.select.dpp import DPP, sample_k_dpp
from datumwise.select.dsir import DSIR
from datumwise.select.exact import exact
from datumwise.select.facility_location import FacilityLocation
from datumwise.select.feature_based import FeatureBased
from datumwise.select.gio import GIO, knn_divergence
from datumwise.select.glister import Glister
from datumwise.select.grad_match import GradMatch, matching_pursuit
from datumwise.select.graph_cut import GraphCut
from datumwise.select.greedy import SetFunction, maximise
from datumwise.select.groups import Groups
from datumwise.select.herding import Herding
from datumwise.select.instag import InsTag
from datumwise.select.k_center_greedy import KCenterGreedy
from datumwise.select.limited_lexical_similarity import LimitedLexicalSimilarity
from datumwise.select.log_det import DOptimal, LogDet
from datumwise.select.max_coverage import MaxCoverage
from datumwise.select.minhash import MinHashIndex, minhash, minhash_signatures
from datumwise.select.mixture import Mixture
from datumwise.select.mods import MODS
from datumwise.select.ordered_clustering import OrderedClustering
from datumwise.select.pipeline import Pipeline, PipelinePlan, PipelineRun
from datumwise.select.proxy import ProxyReport, proxy_report
from datumwise.select.qdit import QDIT
from datumwise.select.random_subset import RandomSubset
from datumwise.select.repr_filter import ReprFilter
from datumwise.select.retrieve import Retrieve
from datumwise.select.reverse_semantic_search import ReverseSemanticSearch
from datumwise.select.saturated_coverage import SaturatedCoverage
from datumwise.select.selector import Selector, catalogue, find
from datumwise.select.semantic import semantic
from datumwise.select.sensitivity_sampling import SensitivitySampling
from datumwise.select.simhash import simhash, simhash_fingerprints
from datumwise.select.similarity import KERNELS, similarity
from datumwise.select.skill_it import SkillIt, skill_graph
from datumwise.select.steps import Choose, Deduplicate, Filter, Score
from datumwise.select.substring import Repeats, repeated_substrings, substring
from datumwise.select.tagcos import TAGCOS
from datumwise.select.target_similarity import TargetSimilarity
from datumwise.select.top_k import QuantileBand, Threshold, TopK
from datumwise.select.weighted_sampling import WeightedSampling

__all__ = [
    "CCS",
    "D4",
    "DPP",
    "DSIR",
    "GIO",
    "KERNELS",
    "MODS",
    "QDIT",
    "TAGCOS",
    "Choice",
    "Choose",
    "ClusterClip",
    "ClusterPicks",
    "Craig",
    "D2Pruning",
    "DOptimal",
    "DatasetQuantization",
    "Deduplicate",
    "Disparity",
    "FacilityLocation",
    "FeatureBased",
    "Filter",
    "Glister",
    "GradMatch",
    "GraphCut",
    "Groups",
    "Herding",
    "InsTag",
    "KCenterGreedy",
    "LimitedLexicalSimilarity",
    "LogDet",
    "MaxCoverage",
    "MinHashIndex",
    "Mixture",
    "OrderedClustering",
    "Pipeline",
    "PipelinePlan",
    "PipelineRun",
    "ProxyReport",
    "QuantileBand",
    "RandomSubset",
    "Repeats",
    "ReprFilter",
    "Retrieve",
    "ReverseSemanticSearch",
    "SSLPrototypes",
    "SaturatedCoverage",
    "Score",
    "Selector",
    "SensitivitySampling",
    "SetFunction",
    "SkillIt",
    "TargetSimilarity",
    "Threshold",
    "TopK",
    "WeightedSampling",
    "catalogue",
    "choose",
    "exact",
    "find",
    "knn_divergence",
    "matching_pursuit",
    "maximise",
    "minhash",
    "minhash_signatures",
    "proxy_report",
    "repeated_substrings",
    "sample_k_dpp",
    "semantic",
    "simhash",
    "simhash_fingerprints",
    "similarity",
    "skill_graph",
    "substring",
]
