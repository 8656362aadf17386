"""What a model says of each datapoint: losses, likelihoods, gradients, curvature, activations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# bound here and now, because these functions bear the names of their modules; neither loads torch
from datumwise.probe.plan import Plan, plan
from datumwise.probe.signals import Signals, signals

if TYPE_CHECKING:
    from datumwise.probe.dynamics import TrainingDynamics
    from datumwise.probe.ekfac import EKFAC
    from datumwise.probe.kfac import KFAC

# public name -> module; loaded on first use, so that importing the room loads no torch
_PUBLIC = {"EKFAC": "ekfac", "KFAC": "kfac", "TrainingDynamics": "dynamics"}

__all__ = ["EKFAC", "KFAC", "Plan", "Signals", "TrainingDynamics", "plan", "signals"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"datumwise.probe.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'datumwise.probe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
