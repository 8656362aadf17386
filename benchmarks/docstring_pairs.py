"""Real texts on every machine: the docstrings of installed packages, as (first line, rest) pairs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
import warnings

PACKAGES = ("numpy", "scipy", "sklearn", "pandas", "json", "email", "asyncio", "logging", "unittest", "urllib", "concurrent")


def docstring_pairs(n: int, *, most: int = 600, least: int = 80, seed: int = 0) -> tuple[list[str], list[str]]:
    """n instruction-like first lines and what follows them, cut at ``most`` characters.

    Parameters
    ----------
    n : int
    most, least : int
        Characters of the rest.
    seed : int
        Of the draw.
    """
    found: dict[str, tuple[str, str]] = {}
    for package in PACKAGES:
        for module in _modules(package):
            for name, one in inspect.getmembers(module, lambda x: inspect.isroutine(x) or inspect.isclass(x)):
                text = inspect.getdoc(one) or ""
                first, _, rest = text.partition("\n")
                rest = rest.strip()[:most]
                if len(rest) >= least and 15 <= len(first) <= 200 and first not in found:
                    found[first] = (f"Document {getattr(one, '__module__', package)}.{name}: {first}\n", rest)
    pairs = sorted(found.values())
    if len(pairs) < n:
        raise SystemExit(f"only {len(pairs)} docstrings were found, {n} were asked for")
    chosen = random.Random(seed).sample(pairs, n)
    return [prompt for prompt, _ in chosen], [rest for _, rest in chosen]


def _modules(package: str) -> list[object]:
    """A package and its public modules, one level down, that can be imported."""
    try:
        root = importlib.import_module(package)
    except ImportError:
        return []
    modules = [root]
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
