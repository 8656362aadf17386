"""A model as if it had never seen them: unlearning of language models and classifiers, curvature edits, exact removal."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datumwise.forget.coherent_step import CoherentEdit, coherent_edit
    from datumwise.forget.curvature_edit import CurvatureEdit
    from datumwise.forget.distribution_losses import (
        kl_max_loss,
        kl_retain_loss,
        kl_uniform_loss,
        muse_logit_losses,
        pdu_loss,
        restor_kl_loss,
        undial_loss,
    )
    from datumwise.forget.edit_cost import EditCost, predicted_cost
    from datumwise.forget.hidden_losses import embed_loss, rmu_loss
    from datumwise.forget.linear_removal import (
        LinearRemoval,
        linear_removal,
        newton_logistic,
        remove_from_logistic,
        remove_from_ridge,
    )
    from datumwise.forget.losses import (
        ceu_loss,
        dpo_loss,
        ga_loss,
        npo_batch_loss,
        npo_loss,
        npo_token_loss,
        satimp_loss,
        sequence_nll,
        simnpo_loss,
        wga_loss,
    )
    from datumwise.forget.low_rank_edit import RandomBasisEdit, TruncatedSVD
    from datumwise.forget.methods import METHODS, Method, find_method, register_method
    from datumwise.forget.modules import MODULE_METHODS, ModuleUnlearning, unlearn_module
    from datumwise.forget.newton import NewtonRemoval, newton_removal
    from datumwise.forget.retrain import retrained, trained_module
    from datumwise.forget.sisa import Sisa, SisaForgetting
    from datumwise.forget.subnet_mask import balanced_subnet
    from datumwise.forget.synaptic_dampening import ssd
    from datumwise.forget.task_arithmetic import negate, task_vector
    from datumwise.forget.texts import as_texts
    from datumwise.forget.uld import ULDModel, train_assistant
    from datumwise.forget.unlearning import UnlearnResult, unlearn
    from datumwise.forget.whp import WHPModel
    from datumwise.probe.kept_pairs import edit_weight, select_pairs

# public name -> module; loaded on first use, so that importing the room does not load torch
_PUBLIC = {
    "METHODS": "datumwise.forget.methods",
    "MODULE_METHODS": "datumwise.forget.modules",
    "CoherentEdit": "datumwise.forget.coherent_step",
    "CurvatureEdit": "datumwise.forget.curvature_edit",
    "EditCost": "datumwise.forget.edit_cost",
    "LinearRemoval": "datumwise.forget.linear_removal",
    "Method": "datumwise.forget.methods",
    "ModuleUnlearning": "datumwise.forget.modules",
    "NewtonRemoval": "datumwise.forget.newton",
    "RandomBasisEdit": "datumwise.forget.low_rank_edit",
    "Sisa": "datumwise.forget.sisa",
    "SisaForgetting": "datumwise.forget.sisa",
    "TruncatedSVD": "datumwise.forget.low_rank_edit",
    "ULDModel": "datumwise.forget.uld",
    "UnlearnResult": "datumwise.forget.unlearning",
    "WHPModel": "datumwise.forget.whp",
    "as_texts": "datumwise.forget.texts",
    "balanced_subnet": "datumwise.forget.subnet_mask",
    "ceu_loss": "datumwise.forget.losses",
    "coherent_edit": "datumwise.forget.coherent_step",
    "dpo_loss": "datumwise.forget.losses",
    "edit_weight": "datumwise.probe.kept_pairs",
    "embed_loss": "datumwise.forget.hidden_losses",
    "find_method": "datumwise.forget.methods",
    "ga_loss": "datumwise.forget.losses",
    "kl_max_loss": "datumwise.forget.distribution_losses",
    "kl_retain_loss": "datumwise.forget.distribution_losses",
    "kl_uniform_loss": "datumwise.forget.distribution_losses",
    "linear_removal": "datumwise.forget.linear_removal",
    "muse_logit_losses": "datumwise.forget.distribution_losses",
    "negate": "datumwise.forget.task_arithmetic",
    "newton_logistic": "datumwise.forget.linear_removal",
    "newton_removal": "datumwise.forget.newton",
    "npo_batch_loss": "datumwise.forget.losses",
    "npo_loss": "datumwise.forget.losses",
    "npo_token_loss": "datumwise.forget.losses",
    "pdu_loss": "datumwise.forget.distribution_losses",
    "predicted_cost": "datumwise.forget.edit_cost",
    "register_method": "datumwise.forget.methods",
    "remove_from_logistic": "datumwise.forget.linear_removal",
    "remove_from_ridge": "datumwise.forget.linear_removal",
    "restor_kl_loss": "datumwise.forget.distribution_losses",
    "retrained": "datumwise.forget.retrain",
    "rmu_loss": "datumwise.forget.hidden_losses",
    "satimp_loss": "datumwise.forget.losses",
    "select_pairs": "datumwise.probe.kept_pairs",
    "sequence_nll": "datumwise.forget.losses",
    "simnpo_loss": "datumwise.forget.losses",
    "ssd": "datumwise.forget.synaptic_dampening",
    "task_vector": "datumwise.forget.task_arithmetic",
    "train_assistant": "datumwise.forget.uld",
    "trained_module": "datumwise.forget.retrain",
    "undial_loss": "datumwise.forget.distribution_losses",
    "unlearn": "datumwise.forget.unlearning",
    "unlearn_module": "datumwise.forget.modules",
    "wga_loss": "datumwise.forget.losses",
}

__all__ = [
    "METHODS",
    "MODULE_METHODS",
    "CoherentEdit",
    "CurvatureEdit",
    "EditCost",
    "LinearRemoval",
    "Method",
    "ModuleUnlearning",
    "NewtonRemoval",
    "RandomBasisEdit",
    "Sisa",
    "SisaForgetting",
    "TruncatedSVD",
    "ULDModel",
    "UnlearnResult",
    "WHPModel",
    "as_texts",
    "balanced_subnet",
    "ceu_loss",
    "coherent_edit",
    "dpo_loss",
    "edit_weight",
    "embed_loss",
    "find_method",
    "ga_loss",
    "kl_max_loss",
    "kl_retain_loss",
    "kl_uniform_loss",
    "linear_removal",
    "muse_logit_losses",
    "negate",
    "newton_logistic",
    "newton_removal",
    "npo_batch_loss",
    "npo_loss",
    "npo_token_loss",
    "pdu_loss",
    "predicted_cost",
    "register_method",
    "remove_from_logistic",
    "remove_from_ridge",
    "restor_kl_loss",
    "retrained",
    "rmu_loss",
    "satimp_loss",
    "select_pairs",
    "sequence_nll",
    "simnpo_loss",
    "ssd",
    "task_vector",
    "train_assistant",
    "trained_module",
    "undial_loss",
    "unlearn",
    "unlearn_module",
    "wga_loss",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'datumwise.forget' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
