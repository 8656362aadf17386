"""The entry to all indicators of texts."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from datumwise.errors import DuplicateId, EmptyData, SchemaMismatch, UnknownName
from datumwise.probe import words as tokeniser
from datumwise.probe.words import words
from datumwise.score.declare import catalogue
from datumwise.score.text import DEFAULT, GROUPS, text

TEXTS = ["The cat sat. The dog ran.", "", "word", "漢字かな交じり文", "😀🎉", "A b c\n- d\n- d", "x" * 5000, "\x00\ud800"]


def test_the_default_is_every_group_but_code_each_column_once() -> None:
    found = text(TEXTS)
    assert list(found) == [name for group in DEFAULT for name in GROUPS[group]]
    assert all(found[name].shape == (len(TEXTS),) and found[name].dtype == np.float64 for name in found)
    assert all(found.higher[name] == catalogue()[name].higher for name in found)
    assert found["flesch_reading_ease"][0] == pytest.approx(119.19)


def test_no_indicator_of_any_text_is_infinite_and_an_empty_text_has_only_counts() -> None:
    found = text(TEXTS, ["default", "code"])
    for name in found:
        assert not np.isinf(found[name]).any(), name
    counted = {name for name in found if not np.isnan(found[name][1])}
    assert counted == {"n_characters", "n_words", "n_types", "n_sentences", "n_lines", "n_syllables"}
    assert all(found[name][1] == 0 for name in counted)


def test_a_text_scores_the_same_alone_and_among_others() -> None:
    together = text(TEXTS, ["default", "code"])
    for row, one in enumerate(TEXTS):
        alone = text([one], ["default", "code"])
        for name in set(together) - {"oov_ratio"}:  # which asks what the others say
            assert alone[name][0] == pytest.approx(together[name][row], nan_ok=True, rel=1e-12), name


@pytest.mark.parametrize("tokens", [1, 7])
def test_texts_scored_in_parts_score_the_same(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = text(TEXTS, ["default", "code", "self_bleu"])
    monkeypatch.setattr(importlib.import_module("datumwise.score.text"), "TOKENS", tokens)
    parts = text(TEXTS, ["default", "code", "self_bleu"])
    for name in whole:
        assert parts[name].tolist() == pytest.approx(whole[name].tolist(), nan_ok=True, rel=1e-12), name


def test_groups_names_and_a_ready_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = words(TEXTS)
    monkeypatch.setattr(tokeniser, "blocks", None)  # nothing is tokenised again
    found = text(corpus, ["ttr", "diversity", "n_words"], ids=list("abcdefgh"))
    assert list(found)[:2] == ["ttr", "root_ttr"]
    assert list(found)[-1] == "n_words"
    assert found.ids.tolist() == list("abcdefgh")


def test_parameters_reach_the_scores_that_take_them() -> None:
    found = text(["a b a b a b a"], ["mattr", "msttr", "hdd"], window=2, sample_size=3)
    assert found["mattr"].tolist() == [1.0]
    assert not np.isnan(found["hdd"][0])


def test_a_score_of_texts_that_is_in_no_group_can_be_named() -> None:
    assert text(["a b c", "a b d"], "self_bleu")["self_bleu"][0] > 0


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ((["a", None],), SchemaMismatch, r"texts has no string in row 1 \(NoneType\): drop or fill these rows"),
        (([],), EmptyData, "texts is empty"),
        (("abc",), SchemaMismatch, "texts must be a list of strings, not one string"),
        ((["a"], "tttr"), UnknownName, "there is no score 'tttr' of texts alone: did you mean 'ttr'"),
        ((["a"], "el2n"), UnknownName, "there is no score 'el2n' of texts alone"),
        ((["a"], []), UnknownName, "no score was named"),
        ((["a"], "ttr", ["x", "y"]), SchemaMismatch, "there are 2 ids for 1 texts"),
        ((["a", "b"], "ttr", ["x", "x"]), DuplicateId, "id x comes more than once"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments: tuple, kind: type, sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        text(*arguments)


def test_a_parameter_nobody_takes_is_refused() -> None:
    with pytest.raises(UnknownName, match="none of these scores takes a parameter 'windo': did you mean 'window'"):
        text(["a"], windo=3)
