"""What a model says of each datapoint: losses, likelihoods, gradients, curvature, activations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# bound here and now, because these functions bear the names of their modules; none loads torch
from datumwise.probe.attribute import attribute
from datumwise.probe.generate import generate
from datumwise.probe.hidden_states import hidden_states
from datumwise.probe.plan import Plan, plan
from datumwise.probe.score_choices import next_token_logprobs, score_choices
from datumwise.probe.signals import Signals, signals

if TYPE_CHECKING:
    from datumwise.probe.chat import as_chat
    from datumwise.probe.dynamics import TrainingDynamics
    from datumwise.probe.ekfac import EKFAC
    from datumwise.probe.fine_tune import fine_tuned
    from datumwise.probe.hardness_split import split_by_hardness
    from datumwise.probe.in_context import ICL
    from datumwise.probe.kfac import KFAC
    from datumwise.probe.lora import LoRALearner, finetune_schedule
    from datumwise.probe.multiple_choice import MultipleChoice
    from datumwise.probe.multiple_choice_probe import MultipleChoiceProbe
    from datumwise.probe.words import Corpus

# public name -> module; loaded on first use, so that importing the room loads neither torch nor scikit-learn
_PUBLIC = {
    "Corpus": "words",
    "EKFAC": "ekfac",
    "ICL": "in_context",
    "KFAC": "kfac",
    "LoRALearner": "lora",
    "MultipleChoice": "multiple_choice",
    "MultipleChoiceProbe": "multiple_choice_probe",
    "TrainingDynamics": "dynamics",
    "as_chat": "chat",
    "fine_tuned": "fine_tune",
    "finetune_schedule": "lora",
    "split_by_hardness": "hardness_split",
}

__all__ = [
    "EKFAC",
    "ICL",
    "KFAC",
    "Corpus",
    "LoRALearner",
    "MultipleChoice",
    "MultipleChoiceProbe",
    "Plan",
    "Signals",
    "TrainingDynamics",
    "as_chat",
    "attribute",
    "fine_tuned",
    "finetune_schedule",
    "generate",
    "hidden_states",
    "next_token_logprobs",
    "plan",
    "score_choices",
    "signals",
    "split_by_hardness",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"datumwise.probe.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'datumwise.probe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
