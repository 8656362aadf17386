"""An AdamW whose rate falls as it goes: what a model forgets and keeps at once is settled by the noise of the last steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from datumwise.errors import DatumwiseError

__all__ = ["annealed"]

LAST = 0.1  # share of the rate that is left at the end


def annealed(lr: float, steps: int, *, last: float = LAST) -> Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]:
    """For ``unlearn(optimizer=...)``: AdamW without weight decay, its rate a half cosine from ``lr`` to ``last * lr``.

    The optimiser counts its updates by its own state, so a training that goes on from a checkpoint goes on at the rate it
    stopped at.

    Parameters
    ----------
    lr : float, above 0
    steps : int, at least 1
        Updates of the whole training: epochs times batches an epoch.
    last : float, 0 to 1

    Raises
    ------
    DatumwiseError

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(()))
    >>> optimiser = annealed(1.0, 3)([weight])
    >>> for _ in range(3):
    ...     weight.grad = torch.ones(())
    ...     optimiser.step()
    ...     print(round(optimiser.param_groups[0]["lr"], 3))
    1.0
    0.55
    0.1
    """
    if not lr > 0 or steps < 1 or not 0 <= last <= 1:
        raise DatumwiseError(f"lr is {lr}, steps {steps}, last {last}", remedy="lr above 0, steps 1 or more, last 0 to 1")

    def make(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return _Annealed(list(parameters), lr, steps, last)

    return make


class _Annealed(torch.optim.AdamW):
    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, steps: int, last: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=0.0)
        self.top, self.steps, self.last = lr, steps, last

    def step(self, closure: Any = None) -> Any:
        done = max((int(state["step"]) for state in self.state.values() if "step" in state), default=0)
        share = min(1.0, done / max(1, self.steps - 1))
        rate = self.top * (self.last + (1 - self.last) * (1 + math.cos(math.pi * share)) / 2)
        for group in self.param_groups:
            group["lr"] = rate
        return super().step(closure)
