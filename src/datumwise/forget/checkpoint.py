"""A training that was interrupted goes on as if it had not been: weights, optimiser and history after every epoch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from datumwise.errors import ModelMismatch, SourceError

__all__ = ["Saved", "load_checkpoint", "run_signature", "save_checkpoint"]

STATE = "state.json"
SEPARATOR = "::"  # between a parameter's name and what the optimiser keeps of it


@dataclass(frozen=True)
class Saved:
    """Where a training stood after an epoch."""

    epoch: int
    stopped: bool
    seconds: float
    history: list[dict[str, Any]]
    nll: list[list[float]]
    weights: dict[str, torch.Tensor]
    optimiser: dict[str, torch.Tensor]


def run_signature(*parts: Any) -> str:
    """Name of a run: equal for equal settings, texts and first weights."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def save_checkpoint(
    folder: Path,
    signature: str,
    *,
    epoch: int,
    stopped: bool,
    seconds: float,
    history: Sequence[Mapping[str, Any]],
    nll: Sequence[np.ndarray],
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write a state; what is there before stays whole until it is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, moments = f"weights-{epoch}.safetensors", f"optimizer-{epoch}.safetensors"
    save_file({name: p.detach().cpu().contiguous() for name, p in parameters.items()}, folder / weights)
    kept = {
        f"{name}{SEPARATOR}{key}": value.detach().cpu().contiguous()
        for name, p in parameters.items()
        for key, value in optimiser.state.get(p, {}).items()
        if isinstance(value, torch.Tensor)
    }
    save_file(kept, folder / moments)
    state = {
        "signature": signature,
        "epoch": epoch,
        "stopped": stopped,
        "seconds": seconds,
        "history": [dict(record) for record in history],
        "nll": [each.tolist() for each in nll],
        "weights": weights,
        "optimizer": moments,
    }
    beside = folder / f"{STATE}.next"
    beside.write_text(json.dumps(state), encoding="utf-8")
    os.replace(beside, folder / STATE)
    for old in [*folder.glob("weights-*.safetensors"), *folder.glob("optimizer-*.safetensors")]:
        if old.name not in (weights, moments):
            old.unlink()


def load_checkpoint(folder: Path, signature: str | None = None) -> Saved | None:
    """The state in a folder, None if there is none.

    Raises
    ------
    ModelMismatch
        It is of another run (other settings, texts or first weights).
    SourceError
        It cannot be read.
    """
    place = folder / STATE
    if not place.exists():
        return None
    try:
        state = json.loads(place.read_text(encoding="utf-8"))
        weights, moments = load_file(folder / state["weights"]), load_file(folder / state["optimizer"])
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"the checkpoint {folder.name} cannot be read", remedy="remove the folder to begin anew") from error
    if signature is not None and state["signature"] != signature:
        raise ModelMismatch(
            f"the checkpoint {folder.name} is of another run (other settings, texts or first weights)",
            remedy="give another folder, or remove this one",
        )
    return Saved(state["epoch"], state["stopped"], state["seconds"], state["history"], state["nll"], weights, moments)


def put_weights(parameters: Mapping[str, torch.nn.Parameter], weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into the parameters of the same names."""
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(weights[name])


def put_moments(
    parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer, moments: Mapping[str, torch.Tensor]
) -> None:
    """Give the optimiser back what it kept of each parameter."""
    for name, p in parameters.items():
        prefix = f"{name}{SEPARATOR}"
        own = {key.removeprefix(prefix): value for key, value in moments.items() if key.startswith(prefix)}
        if own:
            optimiser.state[p] = {key: value.to(p.device) if value.ndim else value.clone() for key, value in own.items()}
