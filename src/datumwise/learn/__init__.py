"""Learners: deep kernel machines, distribution transformers, and what they are built from."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from datumwise.learn.on_ledger import Learned, learn

if TYPE_CHECKING:
    from datumwise.learn.convolutional_deep_kernel_machine import ConvolutionalDeepKernelMachineClassifier
    from datumwise.learn.deep_kernel.blocks import FeaturesToGram, GramLayer, GramNorm, KernelMap, Output
    from datumwise.learn.deep_kernel.dense import dkm_objective, first_order_gram, nngp_gram, optimise_grams
    from datumwise.learn.deep_kernel.kl import kl_gaussian
    from datumwise.learn.deep_kernel.structmat import StructMat
    from datumwise.learn.deep_kernel_machine import DeepKernelMachineClassifier, DeepKernelMachineRegressor
    from datumwise.learn.distribution_transformer import DistributionTransformer, Posterior
    from datumwise.learn.exact_posteriors import gp_hyperprior_predictive, inverse_gamma_posterior
    from datumwise.learn.gaussian_mixture import GaussianMixture
    from datumwise.learn.importance import importance_sample, pareto_khat
    from datumwise.learn.inference_tasks import TASKS, InferenceTask
    from datumwise.learn.linear_gaussian import FilterResult, gmm_posterior, linear_gaussian_filter, site_update
    from datumwise.learn.posterior import Inferred, infer, prior_of
    from datumwise.learn.prior_families import BetaFamily, GammaFamily, GMMFamily, InverseGammaFamily
    from datumwise.learn.quantum import quantum_log_likelihood

# public name -> module; loaded on first use, so that importing the room does not load torch
_PUBLIC = {
    "BetaFamily": "prior_families",
    "ConvolutionalDeepKernelMachineClassifier": "convolutional_deep_kernel_machine",
    "DeepKernelMachineClassifier": "deep_kernel_machine",
    "DeepKernelMachineRegressor": "deep_kernel_machine",
    "DistributionTransformer": "distribution_transformer",
    "FeaturesToGram": "deep_kernel.blocks",
    "FilterResult": "linear_gaussian",
    "GMMFamily": "prior_families",
    "GammaFamily": "prior_families",
    "GaussianMixture": "gaussian_mixture",
    "GramLayer": "deep_kernel.blocks",
    "GramNorm": "deep_kernel.blocks",
    "InferenceTask": "inference_tasks",
    "Inferred": "posterior",
    "InverseGammaFamily": "prior_families",
    "KernelMap": "deep_kernel.blocks",
    "Output": "deep_kernel.blocks",
    "Posterior": "distribution_transformer",
    "StructMat": "deep_kernel.structmat",
    "TASKS": "inference_tasks",
    "dkm_objective": "deep_kernel.dense",
    "first_order_gram": "deep_kernel.dense",
    "gmm_posterior": "linear_gaussian",
    "gp_hyperprior_predictive": "exact_posteriors",
    "importance_sample": "importance",
    "infer": "posterior",
    "inverse_gamma_posterior": "exact_posteriors",
    "kl_gaussian": "deep_kernel.kl",
    "linear_gaussian_filter": "linear_gaussian",
    "nngp_gram": "deep_kernel.dense",
    "optimise_grams": "deep_kernel.dense",
    "pareto_khat": "importance",
    "prior_of": "posterior",
    "quantum_log_likelihood": "quantum",
    "site_update": "linear_gaussian",
}

__all__ = [
    "TASKS",
    "BetaFamily",
    "ConvolutionalDeepKernelMachineClassifier",
    "DeepKernelMachineClassifier",
    "DeepKernelMachineRegressor",
    "DistributionTransformer",
    "FeaturesToGram",
    "FilterResult",
    "GMMFamily",
    "GammaFamily",
    "GaussianMixture",
    "GramLayer",
    "GramNorm",
    "InferenceTask",
    "Inferred",
    "InverseGammaFamily",
    "KernelMap",
    "Learned",
    "Output",
    "Posterior",
    "StructMat",
    "dkm_objective",
    "first_order_gram",
    "gmm_posterior",
    "gp_hyperprior_predictive",
    "importance_sample",
    "infer",
    "inverse_gamma_posterior",
    "kl_gaussian",
    "learn",
    "linear_gaussian_filter",
    "nngp_gram",
    "optimise_grams",
    "pareto_khat",
    "prior_of",
    "quantum_log_likelihood",
    "site_update",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"datumwise.learn.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'datumwise.learn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
