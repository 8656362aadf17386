"""scikit-learn bunches: ``load_digits()``, ``load_iris()``, ``fetch_20newsgroups()`` and their like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from datumwise.errors import SourceError
from datumwise.readers.arrays import as_column
from datumwise.readers.frames import read_arrow, read_pandas
from datumwise.readers.images import encoded
from datumwise.readers.source import Source

__all__ = ["read_bunch"]


def read_bunch(bunch: Any, *, name: str) -> Source:
    """A bunch with ``data`` and, as a rule, ``target``.

    ``target`` becomes column `label`: the names of the classes where there are ``target_names``, else its
    values; floats without names mean regression. ``feature_names`` name the columns, unless there are
    ``images``: those become pictures, and ``data`` one column `x` of vectors.

    Raises
    ------
    SourceError
        The bunch has no ``data``.
    """
    data, target = bunch.get("data"), bunch.get("target")
    if data is None:
        raise SourceError(f"the bunch has no data (it has {', '.join(bunch)})", remedy="give one with data and target")
    roles: dict[str, Any] = {}
    if isinstance(data, list):
        columns = {"text": pa.array([str(text) for text in data], pa.string())}
        roles["text"] = "text"
    elif hasattr(data, "columns"):
        columns = _columns_of(data, name)
        roles["features"] = list(columns)
    else:
        columns, roles = _numbers(bunch, data)
    task = None
    if target is not None:
        columns["label"], task = _target(np.asarray(target), bunch.get("target_names"))
        roles["label"] = "label"
    source = read_arrow(pa.table(columns), name=name)
    return Source(**{**vars(source), "roles": roles, "task": task})


def _columns_of(frame: Any, name: str) -> dict[str, Any]:
    table = pa.Table.from_batches(list(read_pandas(frame, name=name).batches()))
    return {column: table.column(column) for column in table.column_names}


def _numbers(bunch: Any, data: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    if hasattr(data, "toarray"):
        raise SourceError("the bunch's data is sparse", remedy="give (data.toarray(), target)")
    data = np.asarray(data)
    pictures = bunch.get("images")
    if pictures is not None and len(pictures) == len(data):
        shade = np.asarray(pictures, dtype=np.float64)
        top = shade.max() or 1.0
        columns = {
            "image": pa.array([encoded(np.rint(255 * one / top).astype(np.uint8)) for one in shade], pa.large_binary()),
            "x": as_column("x", data),
        }
        return columns, {"image": "image", "features": "x"}
    names = [str(feature) for feature in bunch.get("feature_names", [])]
    if len(names) == data.shape[1] == len(set(names)) and "label" not in names:
        return {feature: pa.array(data[:, i]) for i, feature in enumerate(names)}, {"features": names}
    return {"x": as_column("x", data)}, {"features": "x"}


def _target(target: np.ndarray, names: Any) -> tuple[pa.Array, str | None]:
    if target.ndim != 1:
        raise SourceError(
            f"the bunch's target has {target.shape[1]} columns",
            remedy="give (data, target[:, 0]) for one of them",
        )
    codes = target.dtype.kind in "iu" or (target.dtype.kind == "f" and np.all(target == np.rint(target)))
    if names is not None and len(names) > 1 and codes and target.min() >= 0 and target.max() < len(names):
        return pa.array([str(names[int(code)]) for code in target], pa.string()), "classification"
    if target.dtype.kind == "f":
        return pa.array(target), "regression"
    return as_column("label", target), None
