"""Ratings are what the judge said, whoever the judge is; what cannot be read is NaN and flagged."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.score.rating import ALPAGASUS, first_number, rate


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("4.5\nBecause", 4.5),
        ("Score: 3/5.", 3.0),
        ("I give it -1, no, 2", 2.0),
        ("7", np.nan),
        ("GPT4 v2", np.nan),
        ("", np.nan),
    ],
)
def test_the_first_number_on_the_scale_counts(answer, number):
    np.testing.assert_equal(first_number(answer, 0, 5), number)


def test_every_pair_is_asked_once_in_order_and_in_batches():
    asked = []

    def judge(messages):
        asked.append(list(messages))
        return [str(len(m) % 6) for m in messages]

    prompts, responses = [f"q{i}" for i in range(5)], ["r" * i for i in range(5)]
    done = []
    found = rate(judge, prompts, responses, batch_size=2, progress=lambda d, t: done.append((d, t)))
    assert [len(batch) for batch in asked] == [2, 2, 1]
    assert done == [(2, 5), (4, 5), (5, 5)]
    flat = [message for batch in asked for message in batch]
    said = [
        ALPAGASUS.format(prompt=p, response=r, dimension="accuracy", low=0, high=5)
        for p, r in zip(prompts, responses, strict=True)
    ]
    assert flat == said
    assert found["rating"].tolist() == [len(m) % 6 for m in said]


def test_braces_in_a_response_are_not_a_template():
    seen = []
    rate(lambda m: seen.extend(m) or ["1"] * len(m), ["{0}"], ["def f(): return {x}"])
    assert "{0}" in seen[0]
    assert "{x}" in seen[0]


def test_bad_input_is_refused():
    with pytest.raises(EmptyData, match="no response to rate"):
        rate(lambda m: m, [], [])
    with pytest.raises(SchemaMismatch, match="2 prompts and 1 responses"):
        rate(lambda m: m, ["a", "b"], ["c"])
    with pytest.raises(SchemaMismatch, match="did not give one text for each of 1 messages"):
        rate(lambda m: "4", ["a"], ["b"])
    with pytest.raises(DatumwiseError, match="a scale from 5 to 0 has no room"):
        rate(lambda m: m, ["a"], ["b"], scale=(5, 0))
