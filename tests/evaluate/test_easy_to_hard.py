"""Claims about training on easy and testing on hard."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
from datumwise.evaluate.easy_to_hard import easy_to_hard
from datumwise.evaluate.supervision_gap import supervision_gap_recovered
from datumwise.probe.multiple_choice import MultipleChoice, noisy_labels
from datumwise.probe.multiple_choice_probe import MultipleChoiceProbe
from datumwise.score.scores import Scores


def questions(n=600, m=4, d=8, seed=0):
    """The right choice lies further along one axis, less so the harder the question is."""
    rng = np.random.default_rng(seed)
    grade, gold = rng.integers(1, 4, n), rng.integers(0, m, n)
    H = rng.normal(size=(n, m, d))
    H[np.arange(n), gold, 0] += 4 / grade
    ids = [f"q{i}" for i in range(n)]
    return MultipleChoice(["?"] * n, [list("abcd"[:m])] * n, gold, ids, {"grade": grade.tolist()}, H)


PROBE = MultipleChoiceProbe(l2=0.01, penalty="squared")
OPTIONS = {"cutoffs": (1, 3), "n_train": 60, "n_test": 60, "seeds": 3}


def test_easy_labels_are_as_good_where_the_direction_is_the_same():
    found = easy_to_hard(questions(), PROBE, "grade", **OPTIONS)
    assert found.gap.defined
    assert found.gap.value > 0.8
    assert found.gap.unsupervised == 0.25  # chance, where nobody says otherwise
    assert found.accuracy["easy"]["easy"].value > found.accuracy["easy"]["hard"].value
    assert list(found.accuracy) == ["unsupervised", "easy", "medium", "hard"]
    assert found.hardness == {"easy": (1, 1), "medium": (2, 2), "hard": (3, 3)}


def test_easy_labels_are_worthless_where_the_direction_is_another():
    data = questions()
    H = data.features.copy()
    grade = np.array(data.facts["grade"])
    rows = np.flatnonzero(grade == 1)
    H[rows[:, None], np.arange(4), 0], H[rows[:, None], np.arange(4), 1] = H[rows][..., 1], H[rows][..., 0]
    found = easy_to_hard(data.with_features(H), PROBE, "grade", **OPTIONS)
    assert found.gap.value < 0.35
    assert found.gaps["medium"].value > 0.8


def test_the_gap_is_that_of_the_items_it_keeps():
    found = easy_to_hard(questions(), PROBE, "grade", **OPTIONS)
    again = supervision_gap_recovered(found.per_item["easy"], found.per_item["hard"], found.per_item["unsupervised"])
    assert again == found.gap
    assert found.per_item["easy"].shape == (60, 3)
    assert len(found.test_ids) == 60
    for level, matrix in found.per_item.items():
        np.testing.assert_allclose(matrix.mean(), found.accuracy[level]["hard"].value)


class Spy:
    """Remembers what it was shown; answers by the first choice."""

    def __init__(self):
        self.seen = []

    def choose(self, data, train, test, seed=0):
        self.seen.append((np.asarray(train), np.asarray(test), data.gold.copy(), seed))
        return np.eye(4)[np.zeros(len(test), int)]


def test_no_seed_trains_on_a_test_item_and_levels_keep_apart():
    spy, data = Spy(), questions()
    grade = np.array(data.facts["grade"])
    easy_to_hard(data, spy, "grade", levels=("easy", "hard", "easy_and_hard", "all"), unsupervised=np.zeros(600), **OPTIONS)
    tests = np.unique(np.concatenate([test for _, test, _, _ in spy.seen]))
    assert len(tests) == 180
    pools = {}
    for train, test, _, seed in spy.seen:
        assert len(train) == len(np.unique(train)) == 60
        assert not np.isin(train, tests).any()
        np.testing.assert_array_equal(np.sort(test), tests)
        pools.setdefault(tuple(np.bincount(grade[train], minlength=4)[1:]), []).append(seed)
    assert pools == {(60, 0, 0): [0, 1, 2], (0, 0, 60): [0, 1, 2], (30, 0, 30): [0, 1, 2], (20, 20, 20): [0, 1, 2]}


def test_noise_reaches_the_training_labels_of_its_level_and_never_a_test():
    spy, data = Spy(), questions()
    easy_to_hard(data, spy, "grade", levels=("easy", "hard"), noise={"hard": 1.0}, unsupervised=np.zeros(600), **OPTIONS)
    grade = np.array(data.facts["grade"])
    for train, test, gold, _ in spy.seen:
        np.testing.assert_array_equal(gold[test], data.gold[test])
        changed = (gold[train] != data.gold[train]).mean()
        assert changed == 0 if grade[train[0]] == 1 else 0.5 < changed < 0.95


@pytest.mark.parametrize(("m", "rate"), [(2, 0.4), (4, 0.2), (5, 1.0)])
def test_the_realised_flip_rate_is_p_m_minus_1_over_m(m, rate):
    gold = np.random.default_rng(0).integers(0, m, 20_000)
    noisy = noisy_labels(gold, m, rate, random_state=1)
    expected = rate * (m - 1) / m
    assert abs((noisy != gold).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)
    assert noisy.min() >= 0
    assert noisy.max() < m
    np.testing.assert_array_equal(noisy, noisy_labels(gold, m, rate, random_state=1))


def test_curves_hold_the_accuracy_on_hard_items_after_n_labels():
    found = easy_to_hard(questions(), PROBE, "grade", levels=("easy", "hard"), curve=(5, 20), **OPTIONS)
    assert {level: list(points) for level, points in found.curves.items()} == {"easy": [5, 20, 60], "hard": [5, 20, 60]}
    assert all(v.shape == (3,) for points in found.curves.values() for v in points.values())
    np.testing.assert_allclose(found.curves["hard"][60].mean(), found.accuracy["hard"]["hard"].value)
    assert found.curves["hard"][60].mean() > found.curves["hard"][5].mean()


def test_a_classifier_learns_from_features_and_classes():
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    grain = rng.integers(0, 9, len(X))
    noisy = X + rng.normal(size=X.shape) * grain[:, None]
    named = np.array(list("abcdefghij"))[y]
    found = easy_to_hard((noisy / 16, named), LogisticRegression(max_iter=500), grain, seeds=2)
    assert found.gap.unsupervised == pytest.approx(0.1)
    assert found.gap.low > 1  # clean pictures teach more, for noisy ones too
    assert found.accuracy["hard"]["easy"].value > found.accuracy["hard"]["hard"].value


def test_without_labels_may_be_a_learner_answers_or_chance():
    data = questions()
    spy = Spy()
    given = easy_to_hard(data, PROBE, "grade", unsupervised=spy, **OPTIONS)
    assert [len(train) for train, *_ in spy.seen] == [0]
    right = (data.gold == 0).astype(float)
    also = easy_to_hard(data, PROBE, "grade", unsupervised=right, **OPTIONS)
    np.testing.assert_array_equal(given.per_item["unsupervised"], also.per_item["unsupervised"])


def test_hardness_may_be_values_scores_or_a_measure_and_seeds_repeat():
    data = questions()
    grade = np.array(data.facts["grade"], dtype=float)
    a = easy_to_hard(data, PROBE, "grade", **OPTIONS)
    for h in (grade, Scores(data.ids, {"grade": grade})):
        assert easy_to_hard(data, PROBE, h, **OPTIONS).gap == a.gap
    assert easy_to_hard(data, PROBE, "grade", random_state=1, **OPTIONS).gap != a.gap


def test_it_prints_a_table_and_saves_as_json(tmp_path):
    found = easy_to_hard(questions(), PROBE, "grade", **OPTIONS)
    assert "trained on" in str(found)
    assert str(found).count("[") == 12
    saved = json.loads(found.to_json(tmp_path / "found.json"))
    assert saved == json.loads((tmp_path / "found.json").read_text())
    assert saved["accuracy"]["easy"]["hard"]["value"] == found.accuracy["easy"]["hard"].value
    flat = easy_to_hard(questions(), Spy(), "grade", **OPTIONS)
    assert not flat.gap.defined  # the first choice, whatever it was shown: hard labels bring nothing
    kept = json.loads(flat.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert kept["gap"]["value"] is None


def test_bad_input_is_refused():
    data = questions()
    h = np.array(data.facts["grade"], dtype=float)
    h[[3, 5]] = np.nan
    with pytest.raises(NotFinite, match="hardness is NaN for q3, q5"):
        easy_to_hard(data, PROBE, h, **OPTIONS)
    with pytest.raises(UnknownName, match="no level 'easiest'"):
        easy_to_hard(data, PROBE, "grade", levels=("easiest",), **OPTIONS)
    with pytest.raises(DatumwiseError, match="n_train = 500 and"):
        easy_to_hard(data, PROBE, "grade", **OPTIONS | {"n_train": 500})
    with pytest.raises(DatumwiseError, match="cannot be split: all 600"):
        easy_to_hard(data, PROBE, np.ones(600), n_train=60)
    with pytest.raises(SchemaMismatch, match="cannot learn from questions"):
        easy_to_hard(data, GaussianNB(), "grade", **OPTIONS)
    with pytest.raises(SchemaMismatch, match="needs a vector a choice"):
        easy_to_hard(MultipleChoice(data.questions, data.choices, data.gold, facts=data.facts), PROBE, "grade", **OPTIONS)
    with pytest.raises(SchemaMismatch, match="600 datapoints and hardness of shape"):
        easy_to_hard(data, PROBE, np.ones(3), **OPTIONS)
    with pytest.raises(SchemaMismatch, match=r"MultipleChoice or \(X, y\)"):
        easy_to_hard([1, 2], PROBE, "grade")
    with pytest.raises(DatumwiseError, match="seeds must be"):
        easy_to_hard(data, PROBE, "grade", **OPTIONS | {"seeds": 0})

    class Nothing:
        def choose(self, data, train, test, seed=0):
            return np.full((len(test), 4), np.nan)

    with pytest.raises(NotFinite, match="every probability of q"):
        easy_to_hard(data, Nothing(), "grade", **OPTIONS)
