"""Which weights are trained, on which copy? The user's model stays as it is; adapters share its weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from datumwise.errors import MissingExtra, ModelMismatch

__all__ = ["adapted", "copied", "has_adapters", "lora_config", "merged", "shake", "trained_parameters"]

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
NOISE_OF_ZEROS = 0.02  # standard deviation that a matrix of zeros (an adapter's second) is taken to have


def has_adapters(model: Any) -> bool:
    """Whether the model is one of peft's, or carries adapters of its own."""
    return bool(getattr(model, "peft_config", None))


def copied(model: Any, *, share: bool = False) -> Any:
    """A copy of the model; with ``share`` its parameters are other objects over the same memory, and frozen.

    Raises
    ------
    ModelMismatch
        The model cannot be copied.
    """
    memo: dict[int, Any] = {}
    if share:
        for p in model.parameters():
            own = type(p) is torch.nn.Parameter  # quantised parameters carry more than their numbers: those are shared whole
            memo[id(p)] = torch.nn.Parameter(p.detach(), requires_grad=False) if own else p
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ModelMismatch(
            f"{type(model).__name__} cannot be copied ({str(error).splitlines()[0]})",
            remedy="pass inplace=True, or lora=True, which leaves the weights alone",
        ) from error


def lora_config(lora: Any) -> Any:
    """A `peft.LoraConfig` from True (rank 16, alpha 32, all linear layers), a dict of its arguments, or itself.

    Raises
    ------
    MissingExtra
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtra("adapters need peft", remedy="pip install 'datumwise[lm]'") from error
    if lora is True:
        return LoraConfig(**LORA)
    return LoraConfig(**(LORA | dict(lora))) if isinstance(lora, Mapping) else lora


def adapted(model: Any, lora: Any, *, inplace: bool, seed: int) -> Any:
    """The model with fresh adapters; unless ``inplace`` a copy that shares the weights, so nothing is held twice.

    Raises
    ------
    ModelMismatch
        The model has adapters already.
    """
    from peft import get_peft_model

    if has_adapters(model):
        raise ModelMismatch(
            "the model has adapters already", remedy="merge them first (merge_and_unload), or train them with lora=None"
        )
    base = model if inplace else copied(model, share=True)
    with forked(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers deprecates what peft asks it
        torch.manual_seed(seed)
        return get_peft_model(base, lora_config(lora))


def forked(model: Any) -> Any:
    """Context in which torch's random state may be set, on the processor and on the devices of the model."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    return torch.random.fork_rng(devices=devices)


def trained_parameters(model: Any, wanted: Callable[[str], bool] | None) -> dict[str, torch.nn.Parameter]:
    """The parameters to train by name: those wanted that already ask for gradients, or all (of adapters: theirs) if none does.

    Raises
    ------
    ModelMismatch
        There are none, or some are offloaded or hold integers.
    """
    named = dict(model.named_parameters())
    chosen = {name: p for name, p in named.items() if p.requires_grad}
    if not chosen:
        adapter = has_adapters(model)
        chosen = {name: p for name, p in named.items() if p.is_floating_point() and (not adapter or "lora_" in name)}
    if wanted is not None:
        chosen = {name: p for name, p in named.items() if wanted(name)}
    if not chosen:
        raise ModelMismatch(
            f"no parameter of {type(model).__name__} is to be trained",
            remedy="pass parameters='all', another layer, or lora=True",
        )
    away = [name for name, p in chosen.items() if p.device.type == "meta"]
    if away:
        raise ModelMismatch(
            f"{len(away):,} parameters are offloaded and cannot be trained", remedy="load the model without offloading"
        )
    whole = [name for name, p in chosen.items() if not p.is_floating_point()]
    if whole:
        raise ModelMismatch(f"{len(whole):,} parameters are quantised and cannot be trained", remedy="pass lora=True")
    return chosen


def merged(model: Any) -> Any:
    """A model of its own with the adapters added to the weights; the given one, and what it shares, stays as it is."""
    alone = copy.deepcopy(model)
    return alone.merge_and_unload() if has_adapters(alone) else alone


def shake(parameters: Mapping[str, torch.nn.Parameter], noise: float, *, seed: int) -> None:
    """Add normal noise of ``noise`` times each parameter's standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters.values():
            spread = float(p.float().std(unbiased=False)) or NOISE_OF_ZEROS
            p.add_((noise * spread * torch.randn(p.shape, generator=generator)).to(p))
