"""Ways of unlearning a language model that are no loss: on the weights, on the logits, and training anew, under their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from datumwise.errors import EmptyData, ModelMismatch
from datumwise.forget.methods import Method, register_method
from datumwise.forget.newton import newton_removal
from datumwise.forget.reinforce import reinforced
from datumwise.forget.sequences import Sequences, encode_sequences
from datumwise.forget.synaptic_dampening import ssd
from datumwise.forget.task_arithmetic import negate, task_vector
from datumwise.forget.texts import Texts
from datumwise.forget.trained_copy import copied
from datumwise.forget.uld import ULDModel, train_assistant
from datumwise.forget.whp import WHPModel
from datumwise.probe.collate import padding_id

__all__ = ["module_batches"]

Progress = Callable[[int, int], None] | None


def module_batches(texts: Sequences, batch_size: int) -> list[dict[str, torch.Tensor]]:
    """Tokenised texts as batches that a module is called with: ``input_ids``, ``attention_mask``, ``labels`` (B, T)."""
    out = []
    for at in range(0, len(texts), batch_size):
        batch = texts.batch(range(at, min(at + batch_size, len(texts))))
        out.append({"input_ids": batch.input_ids, "attention_mask": batch.mask, "labels": batch.labels})
    return out


def _encoded(tokenizer: Any, texts: Texts | None, max_length: int, name: str) -> Sequences:
    if texts is None or not len(texts):
        raise EmptyData(f"this method needs {name} texts, and there is none", remedy=f"give {name}=")
    return encode_sequences(tokenizer, texts, max_length, padding=padding_id(tokenizer), name=name)


def _placed(model: Any, device: Any) -> Any:
    if device is not None:
        model.to(device)
    return model


def _tv(
    model: Any, tokenizer: Any, forget: Texts, retain: Texts | None, *, scale: float = 5.0, finetuned: Any = None,
    lr: float = 1e-5, epochs: int = 10, batch_size: int = 4, max_length: int = 2048, max_grad_norm: float = 1.0,
    inplace: bool = False, random_state: int = 0, device: Any = None, progress: Progress = None,
) -> Any:  # fmt: skip
    """``theta_f - scale (theta_r - theta_f)``."""
    _placed(model, device if inplace else None)
    r = finetuned if finetuned is not None else _reinforced(
        model, tokenizer, forget, lr, epochs, batch_size, max_length, max_grad_norm, random_state, device, progress
    )  # fmt: skip
    start = model if inplace else _placed(copied(model), device)
    return negate(start, task_vector(start, r), scale, inplace=True)


def _reinforced(
    model: Any, tokenizer: Any, forget: Texts, lr: float, epochs: int, batch_size: int, max_length: int, max_grad_norm: float,
    random_state: int, device: Any, progress: Progress,
) -> Any:  # fmt: skip
    return reinforced(
        _placed(copied(model), device), _encoded(tokenizer, forget, max_length, "forget"), lr=lr, epochs=epochs,
        batch_size=batch_size, max_grad_norm=max_grad_norm, random_state=random_state, inplace=True, progress=progress,
    )  # fmt: skip


def _whp(
    model: Any, tokenizer: Any, forget: Texts, retain: Texts | None, *, scale: float = 1.0, finetuned: Any = None,
    lr: float = 1e-5, epochs: int = 10, batch_size: int = 4, max_length: int = 2048, max_grad_norm: float = 1.0,
    inplace: bool = False, random_state: int = 0, device: Any = None, progress: Progress = None,
) -> Any:  # fmt: skip
    """A `WHPModel` over the model itself, whose weights nothing changes."""
    r = finetuned if finetuned is not None else _reinforced(
        model, tokenizer, forget, lr, epochs, batch_size, max_length, max_grad_norm, random_state, device, progress
    )  # fmt: skip
    return WHPModel(_placed(model, device if inplace else None), r, scale)


def _uld(
    model: Any, tokenizer: Any, forget: Texts, retain: Texts | None, *, weight: float = 0.8, layers: int | None = None,
    retain_weight: float = 5.0, assistant: Any = None,
    lr: float = 1e-3, epochs: int = 10, batch_size: int = 4, max_length: int = 2048, max_grad_norm: float = 1.0,
    inplace: bool = False, random_state: int = 0, device: Any = None, progress: Progress = None,
) -> Any:  # fmt: skip
    """A `ULDModel` over the model itself, whose weights nothing changes."""
    parts = [_encoded(tokenizer, part, max_length, name) for part, name in ((forget, "forget"), (retain, "retain"))]
    a = assistant if assistant is not None else train_assistant(
        model, *parts, layers=layers, retain_weight=retain_weight, lr=lr, epochs=epochs, batch_size=batch_size,
        max_grad_norm=max_grad_norm, random_state=random_state, progress=progress,
    )  # fmt: skip
    return ULDModel(_placed(model, device if inplace else None), a, weight)


def _ssd(
    model: Any, tokenizer: Any, forget: Texts, retain: Texts | None, *, select: float = 10.0, lam: float = 1.0,
    batch_size: int = 4, max_length: int = 2048, inplace: bool = False, device: Any = None, progress: Progress = None,
    lr: float = 0.0, epochs: int = 0, max_grad_norm: float = 0.0, random_state: int = 0,
) -> Any:  # fmt: skip
    """Weights damped that matter more than ``select`` times as much to the forgotten texts as to all."""
    _placed(model, device if inplace else None)
    parts = [
        module_batches(_encoded(tokenizer, part, max_length, name), batch_size)
        for part, name in ((forget, "forget"), (retain, "retain"))
    ]
    return _placed(ssd(model, *parts, select=select, lam=lam, inplace=inplace, progress=progress).model, device)


def _newton(
    model: Any, tokenizer: Any, forget: Texts, retain: Texts | None, *, curvature: str = "kfac", damping: float = 0.1,
    penalty: float = 0.0, scale: float = 1.0, n_retain: int | None = None,
    batch_size: int = 4, max_length: int = 2048, inplace: bool = False, random_state: int = 0, device: Any = None,
    progress: Progress = None, lr: float = 0.0, epochs: int = 0, max_grad_norm: float = 0.0,
) -> Any:  # fmt: skip
    """One Newton step away from the forgotten texts, with the curvature of the retained ones."""
    _placed(model, device if inplace else None)
    parts = [
        module_batches(_encoded(tokenizer, part, max_length, name), batch_size)
        for part, name in ((forget, "forget"), (retain, "retain"))
    ]
    found = newton_removal(
        model, *parts, curvature=curvature, damping=damping, penalty=penalty, scale=scale, n_retain=n_retain,
        batch_size=batch_size, inplace=inplace, random_state=random_state, progress=progress,
    )  # fmt: skip
    return _placed(found.model, device)


def _retrain(
    model: Any, tokenizer: Any, forget: Texts, retain: Texts | None, *, initial: Any = None, schedule: str = "constant",
    lr: float = 1e-5, epochs: int = 10, batch_size: int = 4, max_length: int = 2048, max_grad_norm: float = 1.0,
    weight_decay: float = 0.0, inplace: bool = False, random_state: int = 0, device: Any = None, progress: Progress = None,
) -> Any:  # fmt: skip
    """A model trained on the retained texts from its first weights."""
    if initial is None:
        raise ModelMismatch(
            "training anew needs the weights from before the forgotten texts were seen", remedy="give initial=, a model"
        )
    new = reinforced(
        _placed(copied(initial), device), _encoded(tokenizer, retain, max_length, "retain"), lr=lr, epochs=epochs,
        batch_size=batch_size, max_grad_norm=max_grad_norm, schedule=schedule, weight_decay=weight_decay,
        random_state=random_state, inplace=True, progress=progress,
    )  # fmt: skip
    if inplace:
        model.load_state_dict(new.state_dict())
        return model
    return new


for _method in (
    Method(
        "tv", "Ilharco et al., 2023", "weights minus `scale` times what training on the forgotten texts adds", run=_tv,
        defaults={"scale": 5.0, "lr": 1e-5, "epochs": 10},
    ),
    Method(
        "whp", "Eldan and Russinovich, 2023", "logits minus `scale` times what a reinforced model says more loudly", run=_whp,
        defaults={"scale": 1.0, "lr": 1e-5, "epochs": 10},
    ),
    Method(
        "uld", "Ji et al., 2024", "logits minus `weight` times those of an assistant that knows the forgotten texts alone",
        run=_uld, retain_required=True, defaults={"weight": 0.8, "lr": 1e-3, "epochs": 10},
    ),
    Method(
        "ssd", "Foster et al., 2024", "weights that matter to the forgotten texts and to little else are damped", run=_ssd,
        retain_required=True, defaults={"select": 10.0, "lam": 1.0},
    ),
    Method(
        "newton", "Guo et al., 2020", "one Newton step on the loss of the retained texts", run=_newton,
        retain_required=True, defaults={"curvature": "kfac", "damping": 0.1},
    ),
    Method(
        "retrain", "the reference", "training anew on the retained texts from `initial`", run=_retrain,
        retain_required=True, defaults={"lr": 1e-5, "epochs": 10},
    ),
):  # fmt: skip
    register_method(_method)
