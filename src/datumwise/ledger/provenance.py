"""Where a finding came from: one JSON string in the field metadata of its column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from datumwise._version import __version__
from datumwise.errors import SchemaMismatch

__all__ = ["KEY", "Provenance", "of_field", "with_provenance"]

KEY = b"datumwise"  # of the field metadata (a finding) and of the schema metadata (the ledger)
_DECIDING = ("method", "params", "model", "seed")  # two columns that agree in these hold the same quantity


@dataclass(frozen=True)
class Provenance:
    """What made a column, with what, from what and when.

    Parameters
    ----------
    method : str
        Name of the score, signal or act that made the values.
    params : dict
        Its parameters; must survive JSON (NumPy scalars and arrays are turned into Python's).
    reads : list of str
        Columns it read.
    model : str, optional
        Fingerprint of the model that was asked.
    seed : int, optional
        Seed of whatever was random.
    source : str
        The publication.
    higher : str
        What a higher value means, in words: ``"more likely mislabelled"``.
    refers_to_ids : bool
        The values name other datapoints; a purge blanks those that name a purged one.
    kind : {"finding", "selection"}
    package : str
        Version of datumwise that wrote it (filled in).
    ledger_version : int, optional
        Version of the ledger it was computed from (filled in by the write).
    time : str
        When it was written, ISO 8601 in UTC (filled in by the write).

    Examples
    --------
    >>> made = Provenance("el2n", {"folds": 5}, reads=["x", "y"], model="3f2a", seed=0)
    >>> Provenance.from_json(made.to_json()) == made
    True
    >>> made.agrees(Provenance("el2n", {"folds": 10}, model="3f2a", seed=0))
    False
    """

    method: str
    params: dict[str, Any] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    model: str | None = None
    seed: int | None = None
    source: str = ""
    higher: str = ""
    refers_to_ids: bool = False
    kind: str = "finding"
    package: str = __version__
    ledger_version: int | None = None
    time: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, default=_plain)

    @classmethod
    def from_json(cls, text: str | bytes) -> Provenance:
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})

    def agrees(self, other: Provenance) -> bool:
        """Whether both describe the same quantity: method, parameters, model and seed are equal."""
        mine, others = json.loads(self.to_json()), json.loads(other.to_json())
        return all(mine[name] == others[name] for name in _DECIDING)

    def stamped(self, ledger_version: int) -> Provenance:
        """The same, with the ledger's version and the time of now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(self, ledger_version=ledger_version, time=now)


def of_field(arrow_field: pa.Field) -> Provenance | None:
    """Provenance of a column, None where the user gave the column."""
    text = (arrow_field.metadata or {}).get(KEY)
    return Provenance.from_json(text) if text else None


def with_provenance(arrow_field: pa.Field, provenance: Provenance) -> pa.Field:
    """The field, carrying the provenance in its metadata."""
    return arrow_field.with_metadata({**(arrow_field.metadata or {}), KEY: provenance.to_json().encode()})


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise SchemaMismatch(
        f"a parameter of a provenance is a {type(value).__name__}, which JSON cannot hold",
        remedy="give numbers, strings, lists or dicts",
    )
