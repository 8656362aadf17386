"""Characters and lines of texts, against counting one by one."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.probe import characters as module
from datumwise.probe.characters import character_counts, line_counts
from datumwise.probe.codepoints import CATEGORY, blocks, classes
from datumwise.probe.words import words

ALPHABET = "aZé1٣½ \t\n\r\x85.…!?-•*#$+'’”)_😀漢\u0301\ufe0f\ud800\u2028"


def test_classes_agree_with_the_unicode_database_for_every_character() -> None:
    table = classes()
    for point in [*range(0x3000), *range(0x1F600, 0x1F700), 0xE0001, 0x10FFFF, 0xD800]:
        character = chr(point)
        category = unicodedata.category(character)
        assert bool(table[point] & CATEGORY["letter"]) == category.startswith("L")
        assert bool(table[point] & CATEGORY["digit"]) == category.startswith("N")
        assert bool(table[point] & CATEGORY["mark"]) == category.startswith("M")
        assert bool(table[point] & CATEGORY["punctuation"]) == category.startswith("P")
        assert bool(table[point] & CATEGORY["symbol"]) == category.startswith("S")
        assert bool(table[point] & CATEGORY["space"]) == character.isspace()
        assert bool(table[point] & CATEGORY["upper"]) == (category in ("Lu", "Lt"))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text(alphabet=ALPHABET, max_size=40), min_size=1, max_size=6))
def test_characters_equal_a_count_one_by_one(texts: list[str]) -> None:
    counts = character_counts(words(texts))
    for row, text in enumerate(texts):
        categories = [unicodedata.category(c)[0] for c in text]
        assert counts.total[row] == len(text)
        assert counts.letters[row] == categories.count("L")
        assert counts.digits[row] == categories.count("N")
        assert counts.marks[row] == categories.count("M")
        assert counts.punctuation[row] == categories.count("P")
        assert counts.symbols[row] == categories.count("S")
        assert counts.upper[row] == sum(unicodedata.category(c) in ("Lu", "Lt") for c in text)
        assert counts.spaces[row] == sum(map(str.isspace, text))
        assert counts.hashes[row] == text.count("#")
        assert counts.ellipses[row] == text.count("…") + len(re.findall(r"\.{3,}", text))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(alphabet=ALPHABET, max_size=40), min_size=1, max_size=6))
def test_lines_equal_a_count_one_by_one(texts: list[str]) -> None:
    counts = line_counts(words(texts))
    for row, text in enumerate(texts):
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        assert counts.total[row] == len(lines)
        assert counts.ellipsis[row] == sum(line.endswith(("...", "…")) for line in lines)
        assert counts.terminal[row] == sum(bool(re.search(r"[.!?…][\"'”’»)]?$", line)) for line in lines)
        # a single "•" is no item, a dash needs white space behind it
        assert counts.bullets[row] == sum(bool(re.match(r"•.|[-*+]\s", line, re.DOTALL)) for line in lines)


@pytest.mark.parametrize("size", [1, 5])
def test_blocks_of_texts_change_no_count(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = words(["One.\n- two", "", "  \n ", "Thr33 #...", "\n"])
    whole = [character_counts(corpus), line_counts(corpus)]
    monkeypatch.setattr(module, "blocks", lambda texts: blocks(texts, size=size))
    for before, after in zip(whole, [character_counts(corpus), line_counts(corpus)], strict=True):
        assert {k: v.tolist() for k, v in vars(before).items()} == {k: v.tolist() for k, v in vars(after).items()}
