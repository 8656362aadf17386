"""Gradients that are kept: short rows on disk, made once, asked again and again, never held in memory.

A row is stored as a float16 row of length 1 and its norm as float32, because raw gradients span too many
decades for float16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datumwise.errors import DatumwiseError, ModelMismatch, SchemaMismatch, SourceError
from datumwise.probe.attribution.problem import Problem
from datumwise.probe.attribution.projection import Projection
from datumwise.probe.fingerprint import model_fingerprint
from datumwise.probe.losses import Losses
from datumwise.probe.needs.rows import Direction, GradRows

__all__ = ["GradientIndex", "InMemory", "LedgerIndex", "StoredRows", "inner_products", "nearest", "store"]

BLOCK = 4096  # rows read, turned to float32 and multiplied at a time
META = "index.json"
FORMAT = "datumwise-gradient-index-1"


class StoredRows(Protocol):
    """Rows (n, k) that can be gone through in blocks."""

    def __len__(self) -> int: ...

    @property
    def length(self) -> int:
        """k."""

    @property
    def value(self) -> np.ndarray:
        """The objective of each row, (n,)."""

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, np.ndarray]]:
        """Which rows, and the rows themselves, (b, k)."""


class InMemory:
    """Rows as an array."""

    def __init__(self, rows: np.ndarray, value: np.ndarray) -> None:
        self.rows = rows
        self.value = value

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def length(self) -> int:
        return self.rows.shape[1]

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(self.rows), size):
            at = slice(start, min(start + size, len(self.rows)))
            yield at, self.rows[at]


class GradientIndex:
    """A folder of rows: ``rows.f16`` (n, k), ``norm.f32`` and ``value.f32`` (n,), and ``index.json``.

    The folder counts as an index once ``index.json`` is there, which is written last: what a killed run left is
    made anew.

    Parameters
    ----------
    path : str or Path
        An existing one.

    Attributes
    ----------
    parameters : dict
        Projection, length, seed, the model's fingerprint and what was differentiated.

    Raises
    ------
    SourceError
        There is no index, or its files do not fit together.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with GradientIndex.writer(folder, 3, {"seed": 0}) as index:
    ...     index.append(np.eye(3)[:2] * [[2.0], [5.0]], np.zeros(2))
    >>> inner_products(GradientIndex(folder), np.array([[1.0, 1.0, 0.0]])).tolist()
    [[2.0, 5.0]]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / META).is_file():
            raise SourceError(f"there is no gradient index at {path}", remedy="make one with attribute(..., index=path)")
        meta = json.loads((self.path / META).read_text())
        if meta.get("format") != FORMAT:
            raise SourceError(f"the gradient index at {path} has the format {meta.get('format')!r}")
        self.n, self._length, self.parameters = int(meta["n"]), int(meta["length"]), dict(meta["parameters"])
        sizes = {"rows.f16": 2 * self.n * self._length, "norm.f32": 4 * self.n, "value.f32": 4 * self.n}
        for name, size in sizes.items():
            if not (self.path / name).is_file() or (self.path / name).stat().st_size != size:
                raise SourceError(f"{name} of the gradient index at {path} is cut short or missing", remedy="make it anew")
        self.rows = np.memmap(self.path / "rows.f16", np.float16, "r", shape=(self.n, self._length))
        self.norm = np.fromfile(self.path / "norm.f32", np.float32)
        self.value = np.fromfile(self.path / "value.f32", np.float32)

    def __len__(self) -> int:
        return self.n

    @property
    def length(self) -> int:
        return self._length

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, self.n, size):
            at = slice(start, min(start + size, self.n))
            yield at, self.rows[at].astype(np.float32) * self.norm[at, None]

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Refuse to answer queries of another projection, seed, model or objective.

        Raises
        ------
        ModelMismatch
        """
        for name in sorted(set(parameters) | set(self.parameters)):
            mine, asked = self.parameters.get(name), parameters.get(name)
            if mine != asked:
                raise ModelMismatch(
                    f"the gradient index at {self.path} was made with {name} {mine} and is asked with {asked}",
                    remedy="make an index of its own in another folder",
                )

    @staticmethod
    def writer(path: str | Path, length: int, parameters: Mapping[str, Any]) -> Writer:
        """An index being made: a context with ``append(rows (b, k), value (b,))``."""
        return Writer(Path(path), length, parameters)


class Writer:
    """Appends rows to the files of a `GradientIndex`; a context that did not end well leaves no index."""

    def __init__(self, path: Path, length: int, parameters: Mapping[str, Any]) -> None:
        self.path, self.length, self.parameters, self.n = path, length, dict(parameters), 0

    def __enter__(self) -> Writer:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / META).unlink(missing_ok=True)
        self._files = {name: (self.path / name).open("wb") for name in ("rows.f16", "norm.f32", "value.f32")}
        return self

    def append(self, rows: np.ndarray, value: np.ndarray) -> None:
        """Add rows (b, k) and their values (b,)."""
        norm = np.linalg.norm(rows, axis=1)
        unit = rows / np.maximum(norm, np.finfo(np.float32).tiny)[:, None]
        self._files["rows.f16"].write(unit.astype(np.float16).tobytes())
        self._files["norm.f32"].write(norm.astype(np.float32).tobytes())
        self._files["value.f32"].write(np.asarray(value, np.float32).tobytes())
        self.n += len(rows)

    def __exit__(self, kind: object, *rest: object) -> None:
        for file in self._files.values():
            file.close()
        if kind is None:
            meta = {"format": FORMAT, "n": self.n, "length": self.length, "parameters": self.parameters}
            (self.path / META).write_text(json.dumps(meta, indent=1))


class LedgerIndex:
    """The ``grad_index`` and ``grad_index_norm`` columns of a ledger, which `datumwise.probe.signals` stores.

    Parameters
    ----------
    ledger : Ledger
    column : str
    """

    def __init__(self, ledger: Any, column: str = "grad_index") -> None:
        self.ledger, self.column = ledger, column
        names = [c.name for c in ledger.columns]
        for name in (column, f"{column}_norm"):
            if name not in names:
                raise SchemaMismatch(
                    f"{ledger.name} has no column {name}",
                    remedy='signals(model, ledger, ["grad_index"], store=True) writes it',
                    column=name,
                )
        self._n = len(ledger)
        first = next(iter(ledger.batches([column], batch_size=1)))
        self._length = len(first.column(column)[0])

    def __len__(self) -> int:
        return self._n

    @property
    def length(self) -> int:
        return self._length

    @property
    def value(self) -> np.ndarray:
        return np.zeros(self._n, np.float32)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, np.ndarray]]:
        start = 0
        for record in self.ledger.batches([self.column, f"{self.column}_norm"], batch_size=size):
            flat = record.column(self.column).flatten().to_numpy(zero_copy_only=False)
            rows = flat.reshape(record.num_rows, -1).astype(np.float32)
            norm = record.column(f"{self.column}_norm").to_numpy(zero_copy_only=False).astype(np.float32)
            at = slice(start, start + record.num_rows)
            start = at.stop
            yield at, rows * norm[:, None]


# --- making and asking ----------------------------------------------------------------------------------


def store(
    problem: Problem,
    projection: Projection,
    losses: Losses | None,
    path: str | Path | None,
    number: int,
    objective: str,
    direction: Direction | None = None,
    settings: Mapping[str, Any] | None = None,
) -> StoredRows:
    """Rows of the training data at the model's present weights: in memory, or in the index at ``path``.

    An index that is there and was made of the same model, projection and objective is used as it is, without a
    pass over the training data.

    Parameters
    ----------
    number : int
        Of the checkpoint; each has a folder of its own.
    objective : str
        What ``losses`` is, kept with the index.
    settings : mapping, optional
        What else rows and queries must agree on.
    """
    if path is None:
        return InMemory(*problem.rows(problem.train, projection, losses, direction))
    projection.begin(problem.sizes)
    folder = Path(path) / f"checkpoint-{number}"
    parameters = {
        **projection.parameters,
        "model": model_fingerprint(problem.model),
        "objective": objective,
        "loss": problem.loss if isinstance(problem.loss, str) else getattr(problem.loss, "__qualname__", "a function"),
        "parameters": list(problem.sizes),
        **(settings or {}),
    }
    if not (folder / META).is_file():
        with GradientIndex.writer(folder, projection.length, parameters) as writer:
            problem.run(
                problem.train,
                [GradRows(projection, problem.sizes, direction)],
                lambda columns: writer.append(columns["rows"], columns["value"]),
                losses,
            )
    index = GradientIndex(folder)
    index.check(parameters)
    return index


def inner_products(index: StoredRows, queries: np.ndarray, *, cosine: bool = False) -> np.ndarray:
    """<q_t, row_i> or their cosines, (m, n), a block of rows at a time; a zero row has cosine 0.

    Parameters
    ----------
    index : StoredRows
    queries : float array (m, k)
    """
    queries = _checked(index, queries)
    if cosine:
        queries = _unit(queries)
    out = np.empty((len(queries), len(index)), queries.dtype)
    for at, rows in index.blocks():
        out[:, at] = queries @ (_unit(rows) if cosine else rows).T.astype(queries.dtype, copy=False)
    return out


def nearest(index: StoredRows, queries: np.ndarray, k: int, *, cosine: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the largest inner products with each query, largest first, ties to the lowest row.

    Nothing of size (m, n) is formed: a block at a time is merged into the best so far.

    Returns
    -------
    rows : int64 (m, k)
    products : float (m, k)
    """
    queries = _checked(index, queries)
    if not 1 <= k <= len(index):
        raise DatumwiseError(f"the {k} nearest of {len(index):,} rows were asked for", remedy="1 <= k <= rows")
    if cosine:
        queries = _unit(queries)
    m = len(queries)
    best = np.empty((m, 0), queries.dtype)
    which = np.empty((m, 0), np.int64)
    for at, rows in index.blocks():
        products = queries @ (_unit(rows) if cosine else rows).T.astype(queries.dtype, copy=False)
        best = np.concatenate([best, products], axis=1)
        which = np.concatenate([which, np.broadcast_to(np.arange(at.start, at.stop), products.shape)], axis=1)
        # stable: of equals the lower row, which is the earlier column, stays in front through every merge
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, which = np.take_along_axis(best, order, 1), np.take_along_axis(which, order, 1)
    return which, best


def _checked(index: StoredRows, queries: np.ndarray) -> np.ndarray:
    queries = np.asarray(queries)
    queries = queries if queries.dtype == np.float64 else queries.astype(np.float32)
    if queries.ndim != 2 or queries.shape[1] != index.length:
        raise SchemaMismatch(f"queries of shape {queries.shape} were put to an index of rows of {index.length:,} numbers")
    return queries


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1).astype(rows.dtype)
