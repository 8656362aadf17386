"""How many datapoints a prediction hangs on, where the answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.evaluate.brittleness import brittleness

# a vote: each test has supporters (+1) and opponents (-1) among 40 datapoints, right while the sum is above 0
RNG = np.random.default_rng(0)
VOTES = np.zeros((6, 40))
for t, lead in enumerate([1, 2, 4, 8, 16, -1]):
    order = RNG.permutation(40)
    VOTES[t, order[:20]] = 1
    VOTES[t, order[20 : 40 - lead if lead > 0 else 40]] = -1
    if lead < 0:
        VOTES[t, order[:3]] = 0


def right(masks: np.ndarray) -> np.ndarray:
    return masks @ VOTES.T > 0


def test_the_smallest_number_is_the_lead_of_the_vote():
    found = brittleness(VOTES, right, k=[1, 2, 3, 4, 8, 12, 16, 20])
    assert found.smallest == (1, 2, 4, 8, 16, -2)
    assert found.n_tests == 5
    assert found.flipped == (0.2, 0.4, 0.4, 0.6, 0.8, 0.8, 1.0, 1.0)
    assert found.median == 4


def test_random_removal_flips_fewer():
    found = brittleness(VOTES, right, k=[1, 2, 4, 8])
    assert found.flipped_at_random[-1] < found.flipped[-1]
    assert sum(found.flipped_at_random) < sum(found.flipped)


def test_wrong_scores_flip_fewer_than_right_ones():
    good, bad = brittleness(VOTES, right), brittleness(-VOTES, right)
    assert bad.flipped[-1] == 0
    assert good.flipped[-1] > 0.5
    assert bad.median == np.inf


def test_only_helpful_datapoints_are_removed():
    seen = []

    def watched(masks: np.ndarray) -> np.ndarray:
        seen.append(masks)
        return np.ones((len(masks), 1), bool)

    brittleness([[3.0, 2.0, -1.0, -2.0, 0.0]], watched, k=[1, 3])
    assert seen[1].tolist() == [[False, True, True, True, True]]
    assert seen[2].tolist() == [[False, False, True, True, True]]  # two helpful ones, not three


def test_batches_change_nothing_and_it_saves_and_prints():
    one, two = brittleness(VOTES, right, batch=1), brittleness(VOTES, right, batch=64)
    assert one == two
    assert json.loads(one.to_json())["k"] == [1, 2, 4, 8]
    assert "removed  flipped   random" in str(one)


@pytest.mark.parametrize(
    ("scores", "options", "error", "says"),
    [
        (VOTES * np.nan, {}, NotFinite, "scores of test 0, 1, 2"),
        (VOTES[0], {}, SchemaMismatch, "tests x training datapoints"),
        (VOTES, {"k": [2, 1]}, DatumwiseError, r"k = \[2, 1\] of 40"),
        (VOTES, {"k": [40]}, DatumwiseError, "1 <= k < 40"),
        (VOTES[:3], {}, SchemaMismatch, r"right\(\) must give bool"),
    ],
)
def test_bad_input_is_refused(scores, options, error, says):
    with pytest.raises(error, match=says):
        brittleness(scores, right, **options)
