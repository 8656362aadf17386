"""Python code, by counting what a reader counts."""

from __future__ import annotations

import ast
import inspect
import warnings

import numpy as np
import pytest

from datumwise.probe.words import words
from datumwise.score import code_quality as room
from datumwise.score.code_quality import (
    code_facts,
    code_parses,
    comment_ratio,
    cyclomatic_complexity,
    docstring_ratio,
    max_line_length,
    max_nesting,
    mean_identifier_length,
    mean_line_length,
)

CODE = '''"""About."""
# a note
def area(width, height):  # in metres
    "Multiply."
    if width < 0 or height < 0:
        raise ValueError
    elif width == 0:
        return 0
    total = [w * h for w in range(width) if w for h in range(height)]
    while total and width:
        try:
            width -= 1
        except KeyError:
            assert height
    return 1 if total else 0
'''
BROKEN = "def f(x) return x"
NAN = float("nan")


def test_counts_of_a_known_function() -> None:
    facts = code_facts(CODE)
    assert facts.parses
    assert facts.comments == len("# a note") + len("# in metres")
    assert facts.docstrings == len("About.") + len("Multiply.")
    assert (facts.documented, facts.documentable) == (2, 2)
    # if, or, elif; two fors and an if of the comprehension; while, and; except; assert; conditional expression
    assert facts.branches == 3 + 3 + 2 + 1 + 1 + 1
    # area, width, height, total, w, h, width (bound again)
    assert (facts.identifiers, facts.identifier_characters) == (7, 4 + 5 + 6 + 5 + 1 + 1 + 5)
    assert facts.nesting == 3  # def, while, try; elif is as deep as its if


def test_columns_of_known_texts() -> None:
    corpus = words([CODE, BROKEN, "", "x = 1"])
    assert code_parses(corpus).tolist() == pytest.approx([1, 0, NAN, 1], nan_ok=True)
    assert cyclomatic_complexity(corpus).tolist() == pytest.approx([12, NAN, NAN, 1], nan_ok=True)
    assert max_nesting(corpus).tolist() == pytest.approx([3, NAN, NAN, 0], nan_ok=True)
    assert docstring_ratio(corpus).tolist() == pytest.approx([1, NAN, NAN, 0], nan_ok=True)
    assert mean_identifier_length(corpus).tolist() == pytest.approx([27 / 7, NAN, NAN, 1], nan_ok=True)
    visible = sum(len(line.strip()) for line in CODE.split("\n"))
    assert comment_ratio(corpus).tolist() == pytest.approx([19 / visible, NAN, NAN, 0], nan_ok=True)
    longest = max(map(len, CODE.split("\n")))
    assert max_line_length(corpus).tolist() == pytest.approx([longest, len(BROKEN), NAN, 5], nan_ok=True)
    assert mean_line_length(words(["ab\n\nabcd"])).tolist() == [3]


def test_a_hash_in_a_string_is_no_comment() -> None:
    assert code_facts("x = '# no'  # yes").comments == len("# yes")


def test_match_and_elif_nest_as_they_are_read() -> None:
    chain = "if a:\n    pass\n" + "elif b:\n    pass\n" * 50
    assert (code_facts(chain).nesting, code_facts(chain).branches) == (1, 51)
    inside = "if a:\n    pass\nelse:\n    for b in c:\n        pass\n"
    assert code_facts(inside).nesting == 2
    assert code_facts("match x:\n    case 1:\n        pass\n    case _:\n        pass").branches == 2


def test_modules_of_this_package_parse_and_the_tree_agrees() -> None:
    source = inspect.getsource(room)
    facts = code_facts(source)
    tree = ast.parse(source)
    scopes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert facts.documentable == len(scopes) + 1
    assert facts.documented == sum(ast.get_docstring(node) is not None for node in [tree, *scopes])
    assert 0 < comment_ratio(words([source]))[0] < 0.2


@pytest.mark.parametrize("text", ["x = '\x00'", "(" * 5000, "-" * 100_000 + "1", "x = \ud800", "if x:\n\tpass\n        y"])
def test_hostile_code_does_not_parse_and_does_no_harm(text: str) -> None:
    assert not code_facts(text).parses


def test_deep_code_is_walked_without_recursion_and_warnings_stay_inside() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert code_facts("x = '\\d' is 'y'").parses
    assert code_facts("x = " + "+".join(["a"] * 500)).parses


def test_every_column_of_nothing_is_nan() -> None:
    for name in room.__all__:
        if name not in ("CodeFacts", "code_facts"):
            assert np.isnan(getattr(room, name)(words(["", "  \n"]))).all(), name
