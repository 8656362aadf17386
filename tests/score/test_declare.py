"""A score is found by its declaration; a wrong declaration is refused."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.score import catalogue, find, methods, score
from datumwise.score import declare as module

OURS = {
    "aum", "confidence", "confidence_weighted_entropy", "correctness", "el2n", "forgetting", "grand",
    "knn_shapley",
    "label_error", "label_error_regression", "label_issue", "loss", "memorization", "near_duplicate",
    "normalized_margin", "outlier_knn", "self_confidence", "self_influence", "variability",
}  # fmt: skip


@pytest.fixture
def declared(monkeypatch):
    """A catalogue that a test may add to."""
    monkeypatch.setattr(module, "_declared", dict(catalogue()))


def test_the_catalogue_holds_every_score_of_the_room():
    assert set(catalogue()) >= OURS
    assert [s.name for s in methods()] == sorted(s.name for s in methods())


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_score_says_what_it_answers_where_it_comes_from_and_what_it_takes(name):
    entry = find(name)
    assert entry.summary.endswith(("?", ".", ")", "`", "|", "y", "infinity")) or "?" in entry.summary
    assert "?" in entry.summary
    assert entry.source
    assert entry.higher
    assert entry.room == "score"
    text = inspect.getdoc(entry.function)
    for section in ("Parameters\n----------", "Returns\n-------"):
        assert section in text, section
    for parameter in inspect.signature(entry.function).parameters:
        assert parameter in text, parameter


def test_the_function_stays_what_it_was(declared):
    def doubled(loss):
        """Twice the loss?"""
        return 2 * loss

    assert score(needs=("loss",), higher="worse", source="none")(doubled) is doubled
    assert find("doubled").function is doubled
    assert doubled(np.array([1.0])) == 2


def test_a_second_score_of_one_name_is_refused(declared):
    with pytest.raises(DatumwiseError, match=r"'el2n' is declared already, in datumwise\.score\.el2n"):

        @score(needs=("loss",), higher="worse", source="none")
        def el2n(loss):
            return loss


def test_loading_a_module_again_is_no_second_declaration(declared):
    entry = find("el2n")
    score(needs=entry.needs, higher=entry.higher, source=entry.source)(entry.function)


@pytest.mark.parametrize("needs", [(), ("a",), ("a", "b", "c")])
def test_needs_that_the_function_does_not_take_are_refused(needs, declared):
    with pytest.raises(DatumwiseError, match="function takes probs, labels"):

        @score(needs=needs, higher="worse", source="none")
        def odd(probs, labels, k=3):
            return probs


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="no score 'lable_error': did you mean 'label_error'"):
        find("lable_error")
    with pytest.raises(UnknownName, match="`datumwise methods` lists them"):
        find("xxxxxxx")


class Point:
    value = "elsewhere:scores"

    def __init__(self, load):
        self.load = load


def test_scores_of_installed_packages_are_found_and_broken_ones_named(declared, monkeypatch):
    def load():
        @score(needs=("loss",), higher="worse", source="none")
        def from_elsewhere(loss):
            return loss

    def broken():
        raise ImportError("no module named gone")

    monkeypatch.setattr(module, "_loaded", [])
    monkeypatch.setattr(module, "entry_points", lambda group: [Point(load), Point(broken)])
    with pytest.warns(UserWarning, match="elsewhere:scores could not be loaded: no module named gone"):
        found = catalogue()
    assert "from_elsewhere" in found


def test_the_list_of_methods_prints_as_a_table():
    text = repr(methods())
    line = next(row for row in text.splitlines() if row.startswith("el2n"))
    assert "probs, labels" in line
    assert len(text.splitlines()) == len(methods())
    assert "<table>" in methods()._repr_html_()
