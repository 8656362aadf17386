"""Which model said this? A short name for a model's exact weights and settings, kept with every finding."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

__all__ = ["model_fingerprint"]

BYTES = 8  # length of a fingerprint: 16 hexadecimal characters


def model_fingerprint(model: Any, *, fitted: bool = False) -> str:
    """Fingerprint of a model: equal iff class, settings and (for torch) every parameter and buffer are equal.

    Parameters
    ----------
    model : torch.nn.Module, scikit-learn estimator, str or None
        A string (a hub name or a path) stands for itself. An estimator counts with its parameters, not with
        what it learnt: it is fitted anew for every fold.
    fitted : bool
        What an estimator learnt counts too.

    Returns
    -------
    str
        Class name, ``:``, 16 hexadecimal characters of BLAKE2b; None gives ``"none"``.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> model_fingerprint(Ridge(alpha=2)) == model_fingerprint(Ridge(alpha=2.0).fit([[1.0], [2.0]], [0, 1]))
    False
    >>> model_fingerprint(Ridge(alpha=2)) == model_fingerprint(Ridge(alpha=2).fit([[1.0], [2.0]], [0, 1]))
    True
    >>> learnt = [Ridge().fit([[1.0], [2.0]], y) for y in ([0, 1], [0, 1], [0, 2])]
    >>> [model_fingerprint(one, fitted=True) == model_fingerprint(learnt[0], fitted=True) for one in learnt]
    [True, True, False]
    >>> model_fingerprint(Ridge()).split(":")[0]
    'Ridge'
    """
    if model is None:
        return "none"
    digest = hashlib.blake2b(digest_size=BYTES)
    digest.update(f"{type(model).__module__}.{type(model).__qualname__}".encode())
    if isinstance(model, str):
        digest.update(model.encode())
    elif hasattr(model, "state_dict"):
        _add_module(digest, model)
    else:
        _add_value(digest, model)
        if fitted:
            import joblib

            digest.update(joblib.hash(model).encode())
    return f"{type(model).__name__}:{digest.hexdigest()}"


def _add_module(digest: Any, model: Any) -> None:
    """Structure (``repr``), the config, and each tensor's name, type, shape and bytes."""
    import torch

    digest.update(repr(model).encode())
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "to_json_string"):
        digest.update(config.to_json_string().encode())
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            digest.update(f"{name}={tensor!r}".encode())
            continue
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _add_value(digest: Any, value: Any) -> None:
    """An estimator's parameters, recursively; arrays by their bytes; anything else by type and ``repr``."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        digest.update(f"{type(value).__module__}.{type(value).__qualname__}(".encode())
        for name, parameter in sorted(value.get_params(deep=False).items()):
            digest.update(name.encode())
            _add_value(digest, parameter)
        digest.update(b")")
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, (list, tuple)):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        for item in value:
            _add_value(digest, item)
    elif isinstance(value, dict):
        digest.update(f"dict{len(value)}".encode())
        for key in sorted(value, key=repr):
            digest.update(repr(key).encode())
            _add_value(digest, value[key])
    elif callable(value) and hasattr(value, "__qualname__"):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
    else:
        digest.update(f"{type(value).__name__}={value!r}".encode())
