"""Where would Adam step after one datapoint's gradient? Entry by entry, from the optimiser's own moments.

Source: Xia et al., LESS: selecting influential data for targeted instruction tuning, ICML 2024, section 2.2 and
its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, ModelMismatch, NotFinite, name_some

__all__ = ["AdamDirection"]


@dataclass
class AdamDirection:
    """G = m' / sqrt(v' + eps), m' = beta1 m + (1 - beta1) g, v' = beta2 v + (1 - beta2) g^2.

    Parameters
    ----------
    moments : mapping of parameter name to (m, v)
        Tensors of the parameter's shape; a parameter that is not named counts as 0, 0.
    steps : int
        Steps taken so far, for the textbook's bias correction.
    eps_inside : bool
        True: as LESS's published code, eps inside the root and no bias correction. False: the textbook,
        (m' / (1 - beta1^t)) / (sqrt(v' / (1 - beta2^t)) + eps) with t = steps + 1.

    Examples
    --------
    >>> direction = AdamDirection({})
    >>> float(direction("w", torch.ones(1, 1, dtype=torch.float64)))  # 0.1 / sqrt(0.001 + 1e-8)
    3.16226...
    """

    moments: Mapping[str, tuple[Tensor, Tensor]]
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_inside: bool = True
    steps: int = 0
    _kept: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, name: str, rows: Tensor) -> Tensor:
        """Of the gradients (n, size) of one parameter."""
        m, v = self._moments(name, rows)
        # on one buffer each: these are as large as the formed gradients
        second = rows.square().mul_(1 - self.beta2)
        first = rows * (1 - self.beta1)
        if m is not None and v is not None:
            first += self.beta1 * m
            second += self.beta2 * v
        if self.eps_inside:
            return first.div_(second.add_(self.eps).sqrt_())
        t = self.steps + 1
        first /= 1 - self.beta1**t
        return first.div_(second.div_(1 - self.beta2**t).sqrt_().add_(self.eps))

    def _moments(self, name: str, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if name not in self.moments:
            return None, None
        if name not in self._kept or self._kept[name][0].dtype != like.dtype:
            m, v = self.moments[name]
            self._kept[name] = (m.detach().flatten().to(like), v.detach().flatten().to(like))
        return self._kept[name]

    @classmethod
    def of(cls, state: Any, model: nn.Module, **settings: Any) -> AdamDirection:
        """From an Adam or AdamW optimiser, its ``state_dict()``, or ``{parameter name: (m, v)}``.

        A state dict holds numbers instead of names: they are taken as the model's trainable parameters in
        order, which is how optimisers are made; the shapes are compared.

        Raises
        ------
        ModelMismatch
            It is no state of Adam, or of other parameters.
        """
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if isinstance(state, torch.optim.Optimizer):
            by_id = {id(p): name for name, p in named.items()}
            held = [p for group in state.param_groups for p in group["params"]]
            found = {by_id[id(p)]: state.state[p] for p in held if id(p) in by_id and p in state.state}
            settings = _settings(state.param_groups[0]) | settings
        elif isinstance(state, Mapping) and "param_groups" in state and "state" in state:
            numbers = [n for group in state["param_groups"] for n in group["params"]]
            if len(numbers) != len(named):
                raise ModelMismatch(
                    f"the optimiser's state is of {len(numbers)} parameters, the model has {len(named)} trainable ones",
                    remedy="give {parameter name: (m, v)}",
                )
            found = {name: state["state"][n] for n, name in zip(numbers, named, strict=True) if n in state["state"]}
            settings = _settings(state["param_groups"][0]) | settings
        elif isinstance(state, Mapping):
            found = {name: {"exp_avg": _pair(name, pair)[0], "exp_avg_sq": pair[1]} for name, pair in state.items()}
        else:
            raise ModelMismatch(
                f"adam is a {type(state).__name__}", remedy="give the optimiser, its state_dict() or {parameter name: (m, v)}"
            )
        if not found:
            raise ModelMismatch("the optimiser holds no moments", remedy="take it after a step of training")
        unknown = sorted(set(found) - set(named))
        if unknown:
            raise ModelMismatch(f"adam names parameters that are not trainable here, {name_some(unknown)}")
        steps = 0
        moments = {}
        for name, entry in found.items():
            if "exp_avg" not in entry or "exp_avg_sq" not in entry:
                raise ModelMismatch(f"the optimiser's state of {name} has no exp_avg and exp_avg_sq: it is not Adam's")
            m, v = (torch.as_tensor(entry[key]) for key in ("exp_avg", "exp_avg_sq"))
            if m.shape != named[name].shape or v.shape != named[name].shape:
                raise ModelMismatch(f"the moments of {name} have shape {tuple(m.shape)}, not {tuple(named[name].shape)}")
            if not bool(torch.isfinite(m).all() and torch.isfinite(v).all()) or bool((v < 0).any()):
                raise NotFinite(f"the moments of {name} are not finite, or its second moment is below 0")
            moments[name] = (m, v)
            steps = max(steps, int(entry.get("step", 0)))
        return cls(moments, **({"steps": steps} | settings))


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """The optimiser's own betas and eps."""
    betas = group.get("betas", (0.9, 0.999))
    return {"beta1": float(betas[0]), "beta2": float(betas[1]), "eps": float(group.get("eps", 1e-8))}


def _pair(name: str, pair: Any) -> Any:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DatumwiseError(f"adam[{name!r}] is not a pair (m, v)", remedy="give both moments of every parameter")
    return pair
