"""The unlearning methods that are a loss: gradient ascent, preference, distribution and representation methods.

Defaults are those of the sources, made for models of billions of weights; small models need rates of 1e-4 to 1e-3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from datumwise.forget import distribution_losses as distributions
from datumwise.forget import losses
from datumwise.forget.hidden_losses import control_vector, rmu_loss
from datumwise.forget.methods import Context, Method, register_method
from datumwise.forget.reference import Reference, decoder_layer

__all__ = ["I_DO_NOT_KNOW"]

Options = Mapping[str, Any]
Rows = np.ndarray

# what a model may say in place of what it has forgotten; drawn per datapoint
I_DO_NOT_KNOW = (
    "I don't know.",
    "I do not know the answer to that.",
    "I'm not sure about this one.",
    "I have no information on that.",
    "That is something I don't know.",
    "I'm afraid I can't answer that.",
    "I can't say, I know nothing about it.",
    "I'm not familiar with that.",
    "Sorry, I don't have an answer.",
    "I was never told about this.",
    "My knowledge doesn't cover that.",
    "I couldn't tell you.",
    "I don't have any details on this.",
    "I'd have to look that up.",
    "That's beyond what I know.",
    "I haven't learned anything about that topic.",
    "Unfortunately, I don't know.",
    "I have no idea, to be honest.",
    "I don't have a reliable answer to give.",
    "There is nothing I can tell you about that.",
)


# --- likelihoods of sequences -------------------------------------------------------------------------------


def _ga(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    return losses.ga_loss(logits, labels)


def _npo_prepare(context: Context) -> Reference | torch.Tensor:
    """One number a sequence; the whole reference where logits are compared, as published."""
    published = context.options["variant"] == "muse-logits"
    return context.reference if published else context.reference.nll("forget")


def _npo(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    if isinstance(state, Reference):
        return distributions.muse_logit_losses(logits, _reference_logits(state, rows, logits), options["beta"])[0]
    nll, _ = losses.sequence_nll(logits, labels)
    return losses.npo_loss(nll, state[rows].to(nll.device), options["beta"])


def _npo_token(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    return losses.npo_token_loss(logits, _reference_logits(state, rows, logits), labels, options["beta"])


def _npo_batch(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    return losses.npo_batch_loss(logits, _reference_logits(state, rows, logits), labels, options["beta"])


def _simnpo(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    nll, n_tokens = losses.sequence_nll(logits, labels)
    return losses.simnpo_loss(nll, n_tokens, options["beta"], options["delta"])


def _dpo_prepare(context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    return context.reference.nll("forget"), context.reference.nll("alternatives")


def _dpo(
    logits: torch.Tensor,
    labels: torch.Tensor,
    rows: Rows,
    state: Any,
    options: Options,
    *,
    alternative: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    nll, _ = losses.sequence_nll(logits, labels)
    nll_alt, _ = losses.sequence_nll(*alternative)
    forget_ref, alt_ref = (each[rows].to(nll.device) for each in state)
    return losses.dpo_loss(nll_alt, alt_ref, nll, forget_ref, options["beta"])


def _wga(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    return losses.wga_loss(logits, labels, options["beta"])


def _satimp(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    return losses.satimp_loss(logits, labels, options["beta1"], options["beta2"])


def _ceu(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    return losses.ceu_loss(logits, labels, options["skip"])


# --- whole distributions ------------------------------------------------------------------------------------


def _the_reference(context: Context) -> Reference:
    return context.reference


def _undial(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    return distributions.undial_loss(logits, _reference_logits(state, rows, logits), labels, options["beta"])


def _kl_max(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    logits_ref = _reference_logits(state, rows, logits)
    if options["variant"] == "published":
        return -distributions.restor_kl_loss(logits, logits_ref)
    return distributions.kl_max_loss(logits, logits_ref, labels)


def _kl_uniform(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    return distributions.kl_uniform_loss(logits, labels)


def _pdu(logits: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    return distributions.pdu_loss(logits, labels)


def _pdu_weight(weight: float, retain_loss: float, epoch: int, options: Options) -> float:
    """The price of a nat: ``lambda <- max(0, lambda + eta (L_r - eps))`` once the warm-up is over."""
    if epoch <= options["warm_up"]:
        return weight
    return max(0.0, weight + options["eta"] * (retain_loss - options["epsilon"]))


# --- hidden states ------------------------------------------------------------------------------------------


def _rmu_prepare(context: Context) -> torch.Tensor:
    """The direction, times its strength: a number, or 5 times the mean length of the forget texts' states."""
    layer = int(context.options["layer"])
    decoder_layer(context.model, layer)
    first = context.reference.hidden("forget", [0], layer)
    strength = context.options["strength"]
    if strength == "adaptive":
        lengths, counts = 0.0, 0
        for row in range(len(context.forget)):
            states = context.reference.hidden("forget", [row], layer)[0]
            counted = states[torch.from_numpy(context.forget.items[row].labels != -100)]
            lengths += float(counted.float().norm(dim=-1).sum())
            counts += len(counted)
        strength = context.options["adaptive_factor"] * lengths / counts
    return float(strength) * control_vector(first.shape[-1], random_state=context.random_state)


def _rmu(hidden: torch.Tensor, labels: torch.Tensor, rows: Rows, state: Any, options: Options) -> torch.Tensor:
    return rmu_loss(hidden, labels, state)


def _rmu_trains(name: str, options: Options) -> bool:
    """``parameters="all"``, a regular expression, or by default the MLP's output of the layer and the two before it."""
    pattern = options["parameters"]
    if pattern == "all":
        return True
    if pattern is None:
        layers = "|".join(str(k) for k in range(max(0, int(options["layer"]) - 2), int(options["layer"]) + 1))
        pattern = rf"(^|\.)(layers|h)\.({layers})\.mlp\.(down_proj|c_proj)\.weight$"
    return re.search(pattern, name) is not None


def _reference_logits(reference: Reference, rows: Rows, like: torch.Tensor) -> torch.Tensor:
    return reference.logits("forget", rows).to(like.device)


MUSE = "Shi et al., 2024 (MUSE)"
NPO = "Zhang et al., 2024"
RESTOR = "Rezaei et al., 2025 (RESTOR)"
BUILT_IN = (
    Method("ga", MUSE, "gradient ascent: minus the mean nll of the tokens", _ga),
    Method(
        "grad_diff", "Liu et al., 2022", "gradient ascent, and descent on the retain texts", _ga,
        retain="gdr", retain_required=True,
    ),
    Method(
        "npo", NPO, "a preference against the sequence, bounded below: softplus of beta times the log ratio", _npo,
        _npo_prepare, needs_reference="nll", variants=("muse-logits",), defaults={"beta": 0.1, "variant": "exact"},
    ),
    Method(
        "npo_token", RESTOR, "NPO of every token by itself", _npo_token, _the_reference,
        needs_reference="logits", defaults={"beta": 0.1},
    ),
    Method(
        "npo_batch", RESTOR, "NPO of the token mean of a batch, as published", _npo_batch, _the_reference,
        needs_reference="logits", defaults={"beta": 0.1},
    ),
    Method(
        "simnpo", "Fan et al., 2024", "NPO by the mean nll a token, without a reference", _simnpo,
        retain="gdr", defaults={"beta": 4.5, "delta": 0.0, "gamma": 0.125, "alpha": 1.0},
    ),
    Method(
        "dpo", "Rafailov et al., 2023", "a preference for an alternative response over the forgotten one", _dpo, _dpo_prepare,
        needs_reference="nll", needs_alternative=True, defaults={"beta": 0.1},
    ),
    Method(
        "idk_dpo", "Maini et al., 2024 (TOFU)", "a preference for 'I don't know' over the forgotten response", _dpo,
        _dpo_prepare, needs_reference="nll", needs_alternative=True, defaults={"beta": 0.1},
    ),
    Method(
        "undial", "Dong et al., 2024", "towards the first weights' answer with the true token's logit lowered", _undial,
        _the_reference, needs_reference="logits", defaults={"beta": 10.0, "lr": 1e-4},
    ),
    Method(
        "ceu", "Yang, 2025 (CE-U)", "towards the model's own answer without the true token", _ceu, defaults={"skip": 1}
    ),
    Method(
        "wga", "Wang et al., 2025", "gradient ascent weighted by the token's probability", _wga,
        retain="gdr", defaults={"beta": 1.0, "epochs": 5},
    ),
    Method(
        "satimp", "Yang et al., 2025", "gradient ascent weighted by saturation and importance", _satimp,
        retain="gdr", defaults={"beta1": 5.0, "beta2": 1.0, "gamma": 0.1, "alpha": 1.0},
    ),
    Method(
        "rmu", "Li et al., 2024 (WMDP)", "hidden states towards a random direction", _rmu, _rmu_prepare,
        needs_reference="hidden", reads="hidden", retain="embed", retain_required=True, trains=_rmu_trains,
        defaults={"layer": 7, "strength": 2.0, "adaptive_factor": 5.0, "parameters": None},
    ),
    Method(
        "pdu", "Entesari et al., 2025", "flat logits, under a bound on the retain loss (primal-dual)", _pdu,
        retain="gdr", retain_required=True, retain_weight=_pdu_weight,
        defaults={"epsilon": 0.0, "eta": 1.0, "warm_up": 5},
    ),
    Method(
        "kl_max", RESTOR, "away from the first weights' answers: minus KL(model || first weights)", _kl_max, _the_reference,
        needs_reference="logits", variants=("published",), defaults={"noise": 1e-3, "variant": "exact"},
    ),
    Method("kl_uniform", RESTOR, "towards the uniform distribution, bounded", _kl_uniform),
)  # fmt: skip
for _method in BUILT_IN:
    register_method(_method)
