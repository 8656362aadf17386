"""Ids are stable: they depend on what a datapoint is, not on how its source was cut or encoded."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.errors import DuplicateId, MissingId
from datumwise.ledger.ids import (
    Seen,
    content_hash,
    content_ids,
    find_duplicates,
    given_ids,
    id_keys,
    refuse_duplicates,
)

ROWS = {
    "n": [1, 2, None, -4],
    "f": [0.5, -0.0, float("nan"), None],
    "s": ["a", None, "", "ü"],
    "v": [[1.0, 2.0], [3.0, 4.0], None, [0.0, 0.0]],
    "t": pa.array([0, 1, None, 3], pa.timestamp("us", "UTC")),
    "r": [{"a": 1}, None, {"a": None}, {"a": 3}],
    "b": [True, False, None, True],
    "y": [b"\x00", b"", None, b"\x01\x02"],
}
BATCH = pa.record_batch({**ROWS, "v": pa.array(ROWS["v"], pa.list_(pa.float32(), 2))})


def test_hash_is_the_published_one_for_a_plain_row() -> None:
    # written down once: a change of the hash would rename every datapoint of every ledger
    batch = pa.record_batch({"x": [1, 2], "text": ["one", "two"]})
    assert [f"{h:016x}" for h in content_hash(batch)] == ["a0e2ccca060b0880", "551529e93c9de566"]


def test_hash_does_not_depend_on_batches_column_order_or_encoding() -> None:
    whole = content_hash(BATCH)
    assert len(set(whole.tolist())) == 4
    pieces = np.concatenate([content_hash(BATCH.slice(i, 1)) for i in range(4)])
    np.testing.assert_array_equal(pieces, whole)
    turned = BATCH.select(list(reversed(BATCH.schema.names)))
    np.testing.assert_array_equal(content_hash(turned), whole)
    other = pa.record_batch(
        {
            "n": BATCH["n"].cast(pa.int16()),
            "f": BATCH["f"].cast(pa.float32()),  # 0.5 and 0 are exact in both
            "s": BATCH["s"].dictionary_encode(),
            "v": BATCH["v"].cast(pa.list_(pa.float64(), 2)),
            "t": BATCH["t"].cast(pa.timestamp("ms", "UTC"), safe=False),
            "r": BATCH["r"],
            "b": BATCH["b"],
            "y": BATCH["y"].cast(pa.large_binary()),
        }
    )
    assert content_hash(other)[0] == content_hash(pa.record_batch({**ROWS, "v": BATCH["v"]}).slice(0, 1))[0]
    assert content_hash(other.select(["n", "f", "s", "b", "y"])).tolist() == (
        content_hash(BATCH.select(["n", "f", "s", "b", "y"])).tolist()
    )


def test_hash_tells_apart_what_is_different() -> None:
    def one(**columns: object) -> int:
        return int(content_hash(pa.record_batch({k: [v] for k, v in columns.items()}))[0])

    assert one(a="x", b="yz") != one(a="xy", b="z")
    assert one(a="1") != one(a=1)
    assert one(a=1, b=2) != one(a=2, b=1)
    assert one(a=1) != one(b=1)
    assert one(f=0.0) == one(f=-0.0)
    null = pa.record_batch({"a": pa.array([None, 0], pa.int64())})
    assert len(set(content_hash(null).tolist())) == 2


def test_where_an_image_lies_is_not_what_it_is() -> None:
    a = pa.record_batch({"image": [b"png"], "image_path": ["a/1.png"]})
    b = pa.record_batch({"image": [b"png"], "image_path": ["b/2.png"]})
    assert content_hash(a) == content_hash(b)


@given(st.lists(st.lists(st.integers(0, 30), max_size=40), max_size=12))
@settings(max_examples=100, deadline=None)
def test_occurrence_numbers_equal_a_counter(chunks: list[list[int]]) -> None:
    seen, counter = Seen(), Counter[int]()
    for chunk in chunks:
        expected = []
        for key in chunk:
            counter[key] += 1
            expected.append(counter[key])
        assert seen.add(np.array(chunk, np.uint64)).tolist() == expected


def test_exact_copies_are_numbered_in_the_order_they_come() -> None:
    batch = pa.record_batch({"x": [1, 2, 1, 1]})
    seen = Seen()
    first, second = content_ids(batch, seen).to_pylist(), content_ids(batch.slice(1, 2), seen).to_pylist()
    a, b = first[0], first[1]
    assert first == [a, b, f"{a}-2", f"{a}-3"]
    assert second == [f"{b}-2", f"{a}-4"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, 2]), ["1", "2"]),
        (pa.array([1.0, 2.0]), ["1", "2"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([1.5, 2.0]), ["1.5", "2"]),
    ],
)
def test_given_ids_become_text(column: pa.Array, expected: list[str]) -> None:
    assert given_ids(column, "id").to_pylist() == expected


def test_null_or_empty_id_is_refused_with_its_row_number() -> None:
    with pytest.raises(MissingId, match=r"column 'doc' has no value in 2 rows \(row 101, 102\)") as caught:
        given_ids(pa.array(["a", None, ""]), "doc", first_row=100)
    assert caught.value.ids == [101, 102]


def test_duplicates_are_named() -> None:
    ids = pa.array(["a", "b", "a", "c", "b"])
    assert find_duplicates(ids) == ["a", "b"]
    assert find_duplicates(pa.array(["a", "b"])) == []
    with pytest.raises(DuplicateId, match=r"2 ids occur twice in the source \(a, b\)"):
        refuse_duplicates(find_duplicates(ids), "in the source")


@given(st.lists(st.text(max_size=40), max_size=40), st.integers(0, 5), st.integers(0, 40))
def test_keys_are_equal_where_ids_are_and_do_not_depend_on_slices(names: list[str], first: int, n: int) -> None:
    ids = pa.array(names, pa.string())
    keys = id_keys(ids).tolist()
    assert len(set(keys)) == len(set(names)) == len(set(zip(keys, names, strict=True)))
    assert id_keys(ids.slice(first, n)).tolist() == keys[first : first + n]


def test_keys_of_ids_that_are_nearly_alike_differ_in_half_of_their_bits() -> None:
    """Every place in a long id counts, and so does its length."""
    base = "n01440764/ILSVRC2012_val_00000293"
    names = [base, *(base[:i] + chr(ord(base[i]) ^ 1) + base[i + 1 :] for i in range(len(base))), base + "\0", base[:-1]]
    keys = id_keys(pa.array(names))
    assert len(set(keys.tolist())) == len(names)
    bits = [int(key ^ keys[0]).bit_count() for key in keys[1:]]
    assert 24 < np.mean(bits) < 40
    assert min(bits) > 10
    many = id_keys(pa.array([f"row{i:08d}" for i in range(300_000)]))
    assert len(np.unique(many)) == len(many)
    assert np.bincount(many >> np.uint64(56), minlength=256).min() > 1000  # of 1,172 expected; spread 34
