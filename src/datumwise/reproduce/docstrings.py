"""Real texts that every machine has: the docstrings of installed packages, as (first line, rest) pairs with their origin."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datumwise.errors import EmptyData

__all__ = ["PACKAGES", "Docstrings", "docstrings"]

PACKAGES = ("numpy", "scipy", "sklearn", "json", "email", "asyncio", "logging", "unittest", "urllib", "concurrent")


@dataclass(frozen=True)
class Docstrings:
    """n prompts, responses and the module each came from."""

    prompts: list[str]
    responses: list[str]
    modules: list[str]


def docstrings(
    n: int | None = None,
    *,
    packages: Sequence[str] = PACKAGES,
    least: int = 80,
    most: int = 600,
    seed: int = 0,
) -> Docstrings:
    """Docstrings of public functions and classes, each first line once.

    Parameters
    ----------
    n : int, optional
        How many, drawn at random; all by default, in order of their prompts.
    packages : sequence of str
        Read where they are installed, with their public modules one level down.
    least, most : int
        Characters of a response; longer ones are cut, shorter ones left out.
    seed : int
        Of the draw.

    Raises
    ------
    EmptyData
        Fewer than n were found.
    """
    found: dict[str, tuple[str, str, str]] = {}
    for package in packages:
        for module in _modules(package):
            for name, one in inspect.getmembers(module, lambda x: inspect.isroutine(x) or inspect.isclass(x)):
                first, _, rest = (inspect.getdoc(one) or "").partition("\n")
                rest = rest.strip()[:most]
                if len(rest) >= least and 15 <= len(first) <= 200 and first not in found:
                    origin = str(getattr(one, "__module__", None) or package)
                    found[first] = (f"Document {origin}.{name}: {first}\n", rest, origin)
    rows = sorted(found.values())
    if n is not None and n > len(rows):
        raise EmptyData(f"only {len(rows):,} docstrings were found, {n:,} were asked for", remedy="install more packages")
    if n is not None:
        rows = [rows[i] for i in np.random.default_rng(seed).choice(len(rows), n, replace=False)]
    prompts, responses, modules = ([row[i] for row in rows] for i in range(3))
    return Docstrings(prompts, responses, modules)


def _modules(package: str) -> list[object]:
    """A package and its public modules, one level down, that can be imported."""
    try:
        root = importlib.import_module(package)
    except ImportError:
        return []
    modules: list[object] = [root]
    for info in pkgutil.iter_modules(getattr(root, "__path__", [])):
        if info.name.startswith("_") or info.name in ("tests", "conftest"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                modules.append(importlib.import_module(f"{package}.{info.name}"))
        except ImportError:
            continue
    return modules
