"""Options as JSON can hold them, so that a ledger can say with what a column was made, and whether that has changed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from datumwise.probe.fingerprint import model_fingerprint

__all__ = ["recorded"]

SHOWN = 20  # entries of a list or mapping that are kept as they are


def recorded(value: Any) -> Any:
    """An option for a provenance: plain values as they are, arrays, functions and models by a fingerprint.

    A function counts with its code and what it closes over, so that a changed function is another function.

    Examples
    --------
    >>> recorded({"k": np.int64(3), "names": ("a", "b")})
    {'k': 3, 'names': ['a', 'b']}
    >>> recorded(lambda text: len(text)) == recorded(lambda text: len(text) + 1)
    False
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)) and len(value) <= SHOWN:
        return [recorded(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): recorded(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "blake2b": _digest(np.ascontiguousarray(value).tobytes())}
    if isinstance(value, (list, tuple)):
        return {"length": len(value), "blake2b": _digest(repr(value).encode())}
    if isinstance(value, functools.partial):
        return [recorded(value.func), recorded(list(value.args)), recorded(value.keywords)]
    code = getattr(value, "__code__", None)
    if code is not None:
        closed = [recorded(cell.cell_contents) for cell in value.__closure__ or ()]
        constants = [one if not hasattr(one, "co_code") else one.co_code.hex() for one in code.co_consts]
        content = repr((code.co_code.hex(), constants, code.co_names, recorded(value.__defaults__), closed))
        return f"{value.__module__}.{value.__qualname__}:{_digest(content.encode())}"
    if hasattr(value, "get_params") and not isinstance(value, type):
        return {type(value).__qualname__: recorded(value.get_params(deep=False))}
    if hasattr(value, "state_dict"):
        return model_fingerprint(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
