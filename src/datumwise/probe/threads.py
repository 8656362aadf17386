"""How many threads should linear algebra use? One where products are small: more would only wait for one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits

__all__ = ["few_threads"]

LARGE = 20_000_000  # numbers in the training rows from which on a second thread pays


@contextmanager
def few_threads(X: Any) -> Iterator[None]:
    """BLAS on one thread while a learner is fitted to ``X`` (n, d), unless that is large."""
    size = getattr(X, "size", 0)
    if size >= LARGE:
        yield
        return
    with threadpool_limits(1, "blas"):
        yield
