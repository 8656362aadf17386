"""Claims about splits by hardness: disjoint, of equal size, no group on both sides, repeatable."""

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch
from datumwise.probe.hardness_split import CUTOFFS, hardness_levels, split_by_hardness


def test_levels_are_cut_at_linear_quantiles_and_at_fixed_values():
    h = np.random.default_rng(0).normal(size=1000)
    level = hardness_levels(h)
    low, high = np.quantile(h, [0.3, 0.7])
    np.testing.assert_array_equal(level, np.where(h <= low, 0, np.where(h >= high, 2, 1)))
    assert np.bincount(level).tolist() == [300, 400, 300]
    assert hardness_levels(np.arange(3, 10), cutoffs=CUTOFFS["grade"]).tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_ties_go_into_a_level_together():
    h = np.r_[np.zeros(50), np.ones(20), np.full(30, 2)]
    assert np.bincount(hardness_levels(h)).tolist() == [50, 20, 30]  # more than 30 %, but none in two levels


@pytest.mark.parametrize("seed", range(5))
def test_train_and_test_share_nothing_and_have_equal_sizes(seed):
    rng = np.random.default_rng(seed)
    h = rng.integers(0, 9, 700).astype(float)
    split = split_by_hardness(h, n_train=60, n_test=40, random_state=seed)
    level = hardness_levels(h)
    tested = np.concatenate([split[f"test_{name}"] for name in ("easy", "medium", "hard")])
    assert len(np.unique(tested)) == 120
    for name in ("easy", "medium", "hard", "easy_and_hard", "all"):
        rows = split[f"train_{name}"]
        assert len(rows) == len(np.unique(rows)) == 60
        assert not np.isin(rows, tested).any()
    for i, name in enumerate(("easy", "medium", "hard")):
        assert (level[split[f"train_{name}"]] == i).all()
        assert (level[split[f"test_{name}"]] == i).all()
    assert np.bincount(level[split["train_easy_and_hard"]]).tolist() == [30, 0, 30]
    assert np.bincount(level[split["train_all"]]).tolist() == [20, 20, 20]


def test_the_default_test_is_a_quarter_of_the_smaller_level_and_pools_are_equal():
    h = np.r_[np.zeros(100), np.ones(50), np.full(200, 2)]
    split = split_by_hardness(h, cutoffs=(0, 2), random_state=0)
    assert len(split["test_easy"]) == len(split["test_hard"]) == 25
    assert len(split["train_easy"]) == len(split["train_hard"]) == 75
    whole = split_by_hardness(h, cutoffs=(0, 2), equalise=False, random_state=0)
    assert len(whole["train_easy"]) == 75
    assert len(whole["train_hard"]) == 175
    assert len(split_by_hardness(h, cutoffs=(0, 2), min_test=40, random_state=0)["test_hard"]) == 40


@pytest.mark.parametrize("seed", range(5))
def test_no_group_lies_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    h, groups = rng.normal(size=600), rng.integers(0, 150, 600)
    split = split_by_hardness(h, n_train=30, n_test=20, groups=groups, random_state=seed)
    train, test = (
        {g for name, rows in split.items() if name.startswith(side) for g in groups[rows]} for side in ("train", "test")
    )
    assert not train & test
    assert all(len(split[f"test_{level}"]) == 20 for level in ("easy", "medium", "hard"))


def test_with_strata_easy_and_hard_have_the_same_topics():
    rng = np.random.default_rng(0)
    topic = np.repeat(["biology", "physics"], 300)
    h = rng.normal(size=600) + 10 * (topic == "physics")  # without strata, hard is physics
    split = split_by_hardness(h, strata=topic, equalise=False, random_state=0)
    for level in ("easy", "hard"):
        rows = np.r_[split[f"train_{level}"], split[f"test_{level}"]]
        assert (topic[rows] == "physics").mean() == 0.5
    assert (topic[split_by_hardness(h, random_state=0)["train_hard"]] == "physics").all()


def test_a_seed_repeats_and_the_global_state_plays_no_part():
    h = np.arange(200.0)
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = split_by_hardness(h, random_state=5)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(9)  # noqa: NPY002
    two, other = split_by_hardness(h, random_state=5), split_by_hardness(h, random_state=6)
    for name, rows in one.items():
        np.testing.assert_array_equal(rows, two[name])
    assert any(not np.array_equal(rows, other[name]) for name, rows in one.items())


@pytest.mark.parametrize(
    ("h", "options", "kind", "sentence"),
    [
        (np.ones(10), {}, DatumwiseError, "all 10 datapoints have the value 1"),
        (np.r_[np.zeros(8), 1, 2], {}, DatumwiseError, "80% of the datapoints share the value 0"),
        (np.arange(9.0), {"cutoffs": (5, 2)}, DatumwiseError, "easy ends at 5, above 2"),
        (np.arange(9.0), {"cutoffs": (5, 5)}, DatumwiseError, "easy and hard"),
        (np.arange(9.0), {"easy": 0.7, "hard": 0.3}, DatumwiseError, "quantiles must rise"),
        (np.arange(40.0), {"n_train": 30}, DatumwiseError, "n_train = 30 and the smaller level has 9 datapoints"),
        (np.arange(40.0), {"n_test": 12}, DatumwiseError, "12 datapoints cannot be held out"),
        (np.arange(40.0), {"cutoffs": (-1, 30)}, EmptyData, "no datapoint is easy"),
        (np.r_[np.arange(9.0), np.nan], {}, NotFinite, "NaN in row 9"),
        (np.zeros((3, 2)), {}, SchemaMismatch, "one number a datapoint"),
        (np.arange(9.0), {"groups": np.zeros(3)}, SchemaMismatch, "3 groups"),
    ],
)
def test_bad_input_is_refused(h, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        split_by_hardness(h, random_state=0, **options)
