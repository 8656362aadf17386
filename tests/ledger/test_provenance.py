"""Provenance survives JSON and tells apart what is not the same quantity."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from datumwise import __version__
from datumwise.errors import SchemaMismatch
from datumwise.ledger import Provenance
from datumwise.ledger.provenance import of_field, with_provenance

MADE = Provenance("el2n", {"folds": 5, "b": [1, 2]}, reads=["x"], model="ab", seed=0, refers_to_ids=True)


def test_json_round_trip_also_through_a_field() -> None:
    assert Provenance.from_json(MADE.to_json()) == MADE
    field = with_provenance(pa.field("s", pa.float32(), metadata={b"other": b"kept"}), MADE)
    assert of_field(field) == MADE
    assert field.metadata[b"other"] == b"kept"
    assert of_field(pa.field("x", pa.int8())) is None
    assert MADE.package == __version__


def test_numpy_parameters_become_plain_and_others_are_refused() -> None:
    made = Provenance("m", {"a": np.float32(0.5), "b": np.arange(3), "c": {2, 1}, "d": (1, 2)})
    assert json.loads(made.to_json())["params"] == {"a": 0.5, "b": [0, 1, 2], "c": [1, 2], "d": [1, 2]}
    assert made.agrees(Provenance.from_json(made.to_json()))
    with pytest.raises(SchemaMismatch, match="a parameter of a provenance is a object, which JSON cannot hold"):
        Provenance("m", {"a": object()}).to_json()


def test_fields_of_a_newer_version_are_ignored() -> None:
    text = json.dumps({**json.loads(MADE.to_json()), "later": 1})
    assert Provenance.from_json(text) == MADE


@pytest.mark.parametrize("change", [{"method": "x"}, {"params": {"folds": 6}}, {"model": "cd"}, {"seed": 1}])
def test_what_decides_decides(change: dict) -> None:
    assert not MADE.agrees(replace(MADE, **change))


def test_what_does_not_decide_does_not() -> None:
    assert MADE.agrees(replace(MADE.stamped(7), package="9", higher="x", reads=[]))
    assert MADE.stamped(7).ledger_version == 7
    assert MADE.stamped(7).time.endswith("+00:00")
