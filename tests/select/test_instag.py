"""InsTag by hand and against the published loop."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError
from datumwise.select.instag import InsTag


def published(tags: list[set[str]], k: int) -> list[int]:
    """Algorithm 1: down the order of complexity, a round at a time."""
    left = sorted((row for row in range(len(tags)) if tags[row]), key=lambda row: (-len(tags[row]), row))
    chosen: list[int] = []
    while left and len(chosen) < k:
        seen: set[str] = set()
        taken = []
        for row in left:
            if not tags[row] <= seen:
                taken.append(row)
                seen |= tags[row]
        chosen += taken
        left = [row for row in left if row not in taken]
    return (chosen + [row for row in range(len(tags)) if not tags[row]])[:k]


def test_a_table_by_hand() -> None:
    tags = [["a"], ["a", "b"], ["c", "b", "c"], ["a", "b", "d"], [], ["d"]]
    # round 1: row 3 (a b d), row 2 (c is new; b c are 2 tags); round 2: row 1 (a b), row 5 (d); round 3: row 0; then row 4
    chosen = InsTag(6).fit(tags)
    assert chosen.ranking_.tolist() == [3, 2, 1, 5, 0, 4]
    assert chosen.gains_.tolist() == [3, 1, 2, 1, 1, 0]


@pytest.mark.parametrize("seed", range(8))
def test_the_order_equals_the_published_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tags = [set(rng.choice(list("abcdefg"), rng.integers(0, 5))) for _ in range(80)]
    assert InsTag(60).fit(tags).ranking_.tolist() == published(tags, 60)
    assert sorted(InsTag(80).fit(tags).ranking_.tolist()) == list(range(80))


def test_copies_ten_times_over_are_chosen_once_before_any_other_is_missing() -> None:
    tags = [[f"t{row % 5}", f"u{row % 5}"] for row in range(50)]
    assert sorted(InsTag(5).fit(tags).ranking_.tolist()) == [0, 1, 2, 3, 4]


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(DatumwiseError, match="row 1, 2 holds no collection of tags"):
        InsTag(1).fit([["a"], "b", 3])
    with pytest.raises(DatumwiseError, match="tags is empty"):
        InsTag(1).fit([])
