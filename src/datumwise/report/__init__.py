"""The audit and its page."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datumwise.report.page import render, write_page
    from datumwise.report.read import read_audit
    from datumwise.report.result import Audit
    from datumwise.report.run import audit

_PUBLIC = {"Audit": "result", "audit": "run", "read_audit": "read", "render": "page", "write_page": "page"}

__all__ = ["Audit", "audit", "read_audit", "render", "write_page"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'datumwise.report' has no attribute {name!r}")
    return getattr(import_module(f"datumwise.report.{_PUBLIC[name]}"), name)
