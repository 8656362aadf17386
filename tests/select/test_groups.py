"""Groups: connection, the rule of what is kept, and how it is told."""

from __future__ import annotations

import numpy as np
import pytest
from dedup_cases import components

from datumwise.errors import DatumwiseError
from datumwise.select.groups import connected, group_pairs, share


def test_groups_are_the_connected_components() -> None:
    rng = np.random.default_rng(0)
    for n_pairs in (0, 1, 20, 60):
        pairs = rng.integers(0, 50, (n_pairs, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        assert connected(50, pairs).tolist() == components(50, [tuple(p) for p in pairs.tolist()])


def test_a_copy_of_a_copy_is_in_the_group_and_exactly_one_of_a_group_is_kept() -> None:
    found = group_pairs(6, [[0, 1], [1, 2], [4, 5]], [0.9, 0.8, 0.7], rule="r")
    assert found.labels.tolist() == [0, 0, 0, -1, 1, 1]
    assert found.keep.tolist() == [True, False, False, True, True, False]
    assert found.kept_by.tolist() == [0, 0, 0, 3, 4, 4]
    assert (found.n_groups, found.n_left_out, found.sizes.tolist()) == (2, 3, [3, 2])
    assert found.members(0).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("keep", "kept"), [("first", [0, 4]), ("longest", [2, 4]), ([0, 5, 1, 0, 2, 3], [1, 5]), (np.zeros(6), [0, 4])]
)
def test_what_is_kept_follows_the_rule_and_ties_go_to_the_lowest_row(keep: object, kept: list[int]) -> None:
    pairs = [[0, 1], [1, 2], [4, 5]]
    found = group_pairs(6, pairs, [1, 1, 1], rule="r", keep=keep, lengths=np.array([1, 1, 2, 9, 3, 3]))
    assert sorted({*found.kept_by[[0, 1, 2, 4, 5]].tolist()}) == kept
    assert np.array_equal(found.keep, found.kept_by == np.arange(6))


def test_pairs_come_once_in_order_with_their_similarity() -> None:
    found = group_pairs(4, [[3, 2], [1, 0], [2, 3]], [0.5, 0.6, 0.5], rule="r")
    assert found.pairs.tolist() == [[0, 1], [2, 3]]
    assert found.similarity.tolist() == [0.6, 0.5]


def test_similarity_to_the_kept_one_is_measured_where_no_pair_says_it() -> None:
    pairs, values = [[0, 1], [1, 2]], [0.9, 0.8]
    measured = group_pairs(3, pairs, values, rule="r", between=lambda a, b: np.full(len(a), 0.25))
    assert measured.similarity_to_kept.tolist() == [1.0, 0.9, 0.25]
    unknown = group_pairs(3, pairs, values, rule="r")
    assert np.isnan(unknown.similarity_to_kept[2])
    assert unknown.why(2) == "2 is left out for 0, to which it is connected through others: r; kept: the first"


def test_it_prints_the_biggest_groups_and_says_why() -> None:
    ids = [f"d{i}" for i in range(40)]
    pairs = [[0, i] for i in range(1, 6)] + [[10 + 2 * i, 11 + 2 * i] for i in range(12)]
    found = group_pairs(40, pairs, [0.8] * 17, rule="r", ids=ids)
    lines = str(found).splitlines()
    assert lines[0] == "17 of 40 datapoints left out: 13 groups (r; kept: the first)"
    assert lines[2] == "   6  d0    d1, d2, d3 and 2 more           0.80"
    assert lines[-1] == "and 3 more groups"
    assert found.why(0) == "d0 is kept, of 6 that are similar: r; kept: the first"
    assert found.why(6) == "d6 is kept: nothing is similar to it"
    assert found.why(11) == "d11 is left out for d10, to which it is 0.80 similar: r; kept: the first"
    assert found.ids_kept.tolist() == [i for i, keep in zip(ids, found.keep.tolist(), strict=True) if keep]


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(DatumwiseError, match="id a comes more than once"):
        group_pairs(3, [], [], rule="r", ids=["a", "b", "a"])
    with pytest.raises(DatumwiseError, match="2 ids for 3 datapoints"):
        group_pairs(3, [], [], rule="r", ids=["a", "b"])
    with pytest.raises(DatumwiseError, match="no rule 'best'"):
        group_pairs(3, [], [], rule="r", keep="best")
    with pytest.raises(DatumwiseError, match="no rule 'longest' of what to keep here"):
        group_pairs(3, [], [], rule="r", keep="longest")
    with pytest.raises(DatumwiseError, match="keep has NaN or infinity in row 1"):
        group_pairs(3, [], [], rule="r", keep=[0.0, np.nan, 1.0])
    with pytest.raises(DatumwiseError, match="keep is no list of 3 numbers"):
        group_pairs(3, [], [], rule="r", keep=["a", "b", "c"])
    with pytest.raises(DatumwiseError, match="there is no row 3"):
        group_pairs(3, [], [], rule="r").why(3)
    for value in (0, -0.1, 1.1, float("nan"), True, "0.5"):
        with pytest.raises(DatumwiseError, match="threshold is"):
            share(value, "threshold")
