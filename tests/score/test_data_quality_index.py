"""The parts of the data quality index, against their definitions over all pairs."""

from __future__ import annotations

import importlib
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from datumwise.errors import LabelError, NotFinite, SchemaMismatch
from datumwise.probe import neighbours as near
from datumwise.probe.sentences import split_sentences
from datumwise.probe.words import words
from datumwise.score.data_quality_index import HIGHER, WordSpace, data_quality_index

TEXTS = [
    "A man sleeps. The man dreams of a dog.",
    "A woman sleeps. She dreams.",
    "Nobody sleeps here tonight",
    "",
    "A man sleeps. The man dreams of a dog.",
    "Dogs run fast over the green field! They never stop. Nobody knows why.",
    "word",
]
LABELS = [0, 0, 1, 1, 0, 2, 2]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (a, b))
    return a @ b.T


def test_vocabulary_is_standardised() -> None:
    found = data_quality_index(TEXTS)["dqi_vocabulary"]
    sizes = np.array([len(set(text.lower().replace(".", "").replace("!", "").split())) for text in TEXTS])
    assert found == pytest.approx((sizes - sizes.mean()) / sizes.std())
    assert data_quality_index(["a b", "c d"])["dqi_vocabulary"].tolist() == [0, 0]


def test_ngram_frequency_is_the_mean_of_standardised_counts() -> None:
    corpus = words(TEXTS)
    found = data_quality_index(corpus, ngrams=(1, 2))["dqi_ngram_frequency"]
    values: list[list[float]] = [[] for _ in TEXTS]
    for n in (1, 2):
        grams = [[tuple(corpus.tokens(i)[j : j + n]) for j in range(len(corpus.tokens(i)) - n + 1)] for i in range(len(TEXTS))]
        counts = Counter(gram for one in grams for gram in one)
        spread = np.array(list(counts.values()))
        for i, one in enumerate(grams):
            values[i] += [(counts[gram] - spread.mean()) / spread.std() for gram in one]
    expected = [np.mean(one) if one else np.nan for one in values]
    assert found == pytest.approx(np.array(expected), nan_ok=True)


@pytest.mark.parametrize("given", [False, True])
def test_similarities_are_the_largest_over_all_pairs(given: bool) -> None:
    rng = np.random.default_rng(0)
    test = ["Nobody sleeps", "A green dog of unheard colours"]
    space = WordSpace(words(TEXTS), 128, 0)
    a = rng.normal(size=(7, 5)) if given else space.sentences(space.corpus)
    b = rng.normal(size=(2, 5)) if given else space.sentences(words(test))
    options = {"embedding": a, "test_embedding": b} if given else {"test": test}
    found = data_quality_index(TEXTS, **options)
    inside, across = cosines(a, a), cosines(a, b)
    np.fill_diagonal(inside, -2)
    expected, to_test = inside.max(axis=1), across.max(axis=1)
    if not given:
        expected[3] = to_test[3] = np.nan
        assert expected[0] == pytest.approx(1)  # row 4 says the same
    assert found["dqi_inter_similarity"] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert found["dqi_test_similarity"] == pytest.approx(to_test, abs=1e-6, nan_ok=True)


def test_means_over_pairs_of_words_and_sentences_equal_the_pairs() -> None:
    corpus = words(TEXTS)
    space = WordSpace(corpus, 128, 0)
    found = data_quality_index(TEXTS)
    for i, text in enumerate(TEXTS):
        codes = corpus.codes[corpus.offsets[i] : corpus.offsets[i + 1]]
        pairs = [float(space.unit[v] @ space.unit[w]) for v, w in combinations(codes, 2)]
        assert found["dqi_word_similarity"][i] == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)
        vectors = space.sentences(words(split_sentences(text))) if text else np.zeros((0, 1))
        similar = cosines(vectors, vectors)[np.triu_indices(len(vectors), 1)]
        expected = similar.mean() if len(similar) else np.nan
        assert found["dqi_intra_similarity"][i] == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_a_second_part_takes_the_place_of_the_sentences() -> None:
    corpus = words(["a man sleeps", "a dog runs", "empty"])
    found = data_quality_index(corpus, second=["a man sleeps", "of another kind", ""])["dqi_intra_similarity"]
    assert found[0] == pytest.approx(1)
    assert np.isnan(found[1:]).all()  # no word of theirs is in the space


def test_label_ngrams_are_the_share_of_the_most_frequent_label() -> None:
    found = data_quality_index(TEXTS, labels=LABELS, ngrams=(1,))["dqi_label_ngrams"]
    sets = [set(words([text]).tokens(0)) for text in TEXTS]
    for i, one in enumerate(sets):
        shares = []
        for word in one:
            labels = Counter(LABELS[j] for j, other in enumerate(sets) if word in other)
            if sum(labels.values()) > 1:
                shares.append(max(labels.values()) / sum(labels.values()))
        assert found[i] == pytest.approx(np.mean(shares) if shares else np.nan, nan_ok=True)


def test_a_planted_giveaway_stands_out() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    texts = [" ".join(f"w{code}" for code in rng.integers(0, 30, 8)) for _ in range(200)]
    planted = np.flatnonzero(labels == 1)[:20]
    for row in planted:
        texts[row] = "never not never not"
    found = data_quality_index(texts, labels=labels)["dqi_label_ngrams"]
    assert found[planted].min() == 1 > np.delete(found, planted).max()


def test_large_vocabularies_are_compressed_and_repeat_themselves() -> None:
    rng = np.random.default_rng(1)
    texts = [" ".join(f"w{code}" for code in rng.integers(0, 300, 12)) for _ in range(150)]
    first, second = (data_quality_index(texts, dim=16, random_state=3) for _ in range(2))
    assert WordSpace(words(texts), 16, 3).words.shape == (300, 16)
    for name in first:
        assert first[name] == pytest.approx(second[name], abs=1e-9, nan_ok=True)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("datumwise.score.data_quality_index")  # the function bears its name
    whole = data_quality_index(TEXTS, test=["a dog"])
    monkeypatch.setattr(module, "WORD_ROWS", 2)
    monkeypatch.setattr(near, "BLOCK", 8)
    cut = data_quality_index(TEXTS, test=["a dog"])
    for name in whole:
        assert cut[name] == pytest.approx(whole[name], abs=1e-12, nan_ok=True)


def test_columns_say_what_higher_means_and_one_sample_has_no_other() -> None:
    found = data_quality_index(["one text alone"], ids=["a"], labels=[0], test=["one"])
    assert set(found) == set(HIGHER) == set(found.higher)
    assert np.isnan(found["dqi_inter_similarity"]).all()
    assert found.ids.tolist() == ["a"]


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"labels": [0]}, SchemaMismatch, "1 labels and 7 texts differ in number"),
        ({"labels": [0, 1, -1, 0, 0, 0, 0]}, LabelError, "labels of row 2 lie below 0"),
        ({"second": ["a"]}, SchemaMismatch, "second has 1 texts for 7"),
        ({"embedding": np.ones((3, 2))}, SchemaMismatch, "embedding has 3 rows for 7 texts"),
        ({"embedding": np.full((7, 2), np.nan)}, NotFinite, "embedding has NaN or infinity in row 0, 1, 2"),
        ({"embedding": np.ones((7, 2)), "test": ["a"]}, SchemaMismatch, "the test texts have no embedding of that encoder"),
        ({"test_embedding": np.ones((7, 2))}, SchemaMismatch, "test_embedding was given without embedding"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, kind: type, sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        data_quality_index(TEXTS, **options)
