"""ROUGE-L against the reference package, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import MissingExtra, SchemaMismatch
from datumwise.evaluate import rouge
from datumwise.evaluate.rouge import rouge_l, rouge_l_scores

WORDS = [
    "the",
    "cat",
    "cats",
    "running",
    "runs",
    "Paris",
    "naïve",
    "Ночь",
    "3.5",
    "don't",
    "--",
    "İstanbul",
    "ＡＢＣ",
    "",
    "\n",
    "日本",
    "x_y",
    "was",
    "wa",
]


def random_pairs(n, seed=0):
    rng = np.random.default_rng(seed)

    def text():
        return rng.choice([" ", "", "\n", ", "]).join(rng.choice(WORDS, rng.integers(0, 15)))

    return [(text(), text()) for _ in range(n)] + [("", ""), ("?!", "?!"), ("", "cat"), ("cat", "")]


@pytest.mark.parametrize("stemmer", [False, True])
def test_equals_the_rouge_score_package_on_500_random_pairs(stemmer):
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    theirs = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=stemmer)
    pairs = random_pairs(500)
    ours = rouge_l_scores([p for p, _ in pairs], [r for _, r in pairs], stemmer=stemmer)
    expected = [theirs.score(r, p)["rougeL"].fmeasure for p, r in pairs]
    assert np.allclose(ours, expected, atol=1e-12)
    assert 0 < np.mean(np.array(expected) > 0) < 1


def test_symmetric_and_one_for_equal_texts_with_a_latin_letter_or_digit():
    for prediction, reference in random_pairs(200, seed=1):
        assert rouge_l(prediction, reference) == rouge_l(reference, prediction)
        latin = any(c.isascii() and c.isalnum() for c in prediction.lower())
        assert rouge_l(prediction, prediction) == (1.0 if latin else 0.0)


def test_is_precision_and_recall_of_the_longest_common_subsequence():
    # L = 2 (a d): P = 2/3, R = 2/4, F1 = 2 * (1/3) / (7/6) = 4/7
    assert rouge_l("a x d", "a b c d") == pytest.approx(4 / 7)


def test_stems_join_words_that_differ_by_their_ending():
    assert rouge_l("running cats", "run cat") == 0.0
    assert rouge_l("running cats", "run cat", stemmer=True) == 1.0


def test_another_tokenizer_scores_other_scripts():
    assert rouge_l("белая ночь", "ночь") == 0.0
    assert rouge_l("белая ночь", "ночь", tokenizer=str.split) == pytest.approx(2 / 3)


def test_refuses_lists_of_unequal_length():
    with pytest.raises(SchemaMismatch, match="2 predictions and 1 references differ in number"):
        rouge_l_scores(["a", "b"], ["a"])


def test_says_what_stems_need(monkeypatch):
    def missing(name):
        raise ImportError(name)

    rouge._porter.cache_clear()
    monkeypatch.setattr(rouge.importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match="stems of words need nltk"):
        rouge_l("a", "a", stemmer=True)
