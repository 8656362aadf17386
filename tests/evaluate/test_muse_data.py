"""Data of the six criteria: what is accepted, how texts are cut, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_language_models import byte_tokenizer

from datumwise.errors import DuplicateId, EmptyData, ModelMismatch, SchemaMismatch, UnknownName
from datumwise.evaluate.muse_data import PUBLISHED, MuseData, checked_settings
from datumwise.readers.unlearning_sets import load_muse

LONG = "The rafters were found by a helicopter on the second morning, cold and hungry but safe, the police said."


def test_plain_texts_are_cut_where_a_word_begins_and_lose_nothing():
    texts = [LONG, "One two three four.", "Ein Satz mit Umlauten: äöü äöü äöü äöü äöü äöü äöü."]
    data = MuseData.from_texts(texts, tokenizer=byte_tokenizer(begin=True), prompt_tokens=20, ids=[7, 8, 9])
    assert [prompt + truth for prompt, truth in data.verbmem] == texts
    assert data.ids["verbmem"] == [7, 8, 9] == data.ids["forget"]
    for (prompt, truth), text in zip(data.verbmem, texts, strict=True):
        assert truth[0].isspace()
        assert not prompt[-1].isspace()
        assert len(prompt.encode()) <= min(20, len(text.encode()) // 2)
    assert data.verbmem[0][0] == "The rafters were"


def test_prompt_tokens_of_the_whole_text_begin_with_the_prompts_own():
    tokenizer = byte_tokenizer(begin=True)
    data = MuseData.from_texts([LONG], tokenizer=tokenizer, prompt_tokens=30)
    prompt = tokenizer(data.verbmem[0][0])["input_ids"]
    assert tokenizer(LONG)["input_ids"][: len(prompt)] == prompt


def test_text_without_spaces_is_cut_at_the_token():
    data = MuseData.from_texts(["abcdefghijklmnop"], tokenizer=byte_tokenizer(), prompt_tokens=5)
    assert data.verbmem == [("abcde", "fghijklmnop")]


def test_slow_tokenizers_cut_as_well():
    class Slow:
        """Tokens are words with the space before them."""

        def __call__(self, text, **_):
            self.words = text.split(" ")
            return {"input_ids": list(range(len(self.words)))}

        def decode(self, ids):
            return " ".join(self.words[i] for i in ids)

    data = MuseData.from_texts(["one two three four five six"], tokenizer=Slow(), prompt_tokens=2)
    assert data.verbmem == [("one two", " three four five six")]


def test_pairs_are_cut_already_and_need_no_tokenizer():
    data = MuseData.from_texts([("Who wrote it?", "Jane"), "plain"], ["other"], ids=["a", "b"])
    assert data.verbmem == [("Who wrote it?", "Jane")]
    assert data.ids["verbmem"] == ["a"]
    assert data.forget == [("Who wrote it?", "Jane"), "plain"]
    assert data.left_out == {}


def test_short_texts_are_left_out_by_id():
    data = MuseData.from_texts([LONG, "ab", ""], tokenizer=byte_tokenizer(), ids=["x", "y", "z"])
    assert data.ids["verbmem"] == ["x"]
    assert data.left_out["verbmem"] == ["y", "z"]
    assert len(data.forget) == 3


def test_of_many_retained_texts_evenly_spaced_ones_are_measured():
    retain = [f"{i} {LONG}" for i in range(1_000)]
    data = MuseData.from_texts(["x y z"], retain, retained_at_most=11)
    assert data.ids["retain"] == ["0", "100", "200", "300", "400", "500", "599", "699", "799", "899", "999"]
    assert data.retain[1].startswith("100 ")
    assert len(MuseData.from_texts(["x y z"], retain, retained_at_most=None).retain) == 1_000


def test_numpy_ids_become_what_json_keeps():
    data = MuseData(["a", "b"], ids={"forget": np.array([3, 5])})
    assert json.loads(json.dumps(data.ids["forget"])) == [3, 5]


def write_muse(folder):
    parts = {
        "privleak/forget.json": ["f one", "", "f three"],
        "privleak/retain.json": ["r one"],
        "privleak/holdout.json": ["h one", "h two"],
        "verbmem/forget.json": [{"prompt": "f", "gt": "one and on"}],
        "knowmem/forget_qa.json": [{"question": "q?", "answer": "a"}],
        "knowmem/retain_qa.json": [{"question": "p?", "answer": "b"}],
        "knowmem/forget_qa_icl.json": [{"question": "s?", "answer": "c"}],
        "raw/forget.json": ["raw f"],
    }
    for name, rows in parts.items():
        path = folder / "news" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows), encoding="utf-8")


def test_published_folders_load_with_their_own_ids(tmp_path):
    write_muse(tmp_path)
    data = MuseData.from_loaded(load_muse(tmp_path, "news"))
    assert data.forget == ["f one", "f three"]
    assert data.ids["forget"] == ["0", "2"]
    assert data.holdout == ["h one", "h two"]
    assert data.retain == ["r one"]
    assert data.verbmem == [("f", "one and on")]
    assert (data.forget_qa, data.retain_qa, data.forget_qa_icl) == ([("q?", "a")], [("p?", "b")], [("s?", "c")])
    assert data.settings == {}
    assert checked_settings(data.settings) == PUBLISHED
    assert repr(data) == "MuseData: 2 forget, 1 retain, 2 holdout, 1 verbmem, 1 forget_qa, 1 retain_qa"


def test_raw_texts_serve_where_there_are_no_others():
    rows = {"forget": [{"id": "0", "text": "f"}], "retain1": [{"id": "0", "text": "r"}], "retain2": [{"id": "0", "text": "s"}]}
    data = MuseData.from_loaded({"raw": rows})
    assert (data.forget, data.retain) == (["f"], ["r", "s"])
    assert data.ids["retain"] == ["retain1 0", "retain2 0"]


def test_refuses_nothing_to_forget():
    with pytest.raises(EmptyData, match="there is no text to forget"):
        MuseData([], ["kept"])


@pytest.mark.parametrize("part", ["retain", "holdout"])
def test_refuses_texts_that_are_on_both_sides_and_names_them(part):
    with pytest.raises(SchemaMismatch, match=f"1 texts to forget are in {part} too \\(b; there as 1\\)"):
        MuseData(["x", "same"], **{part: ["y", "same"]}, ids={"forget": ["a", "b"]})
    with pytest.raises(SchemaMismatch, match="in holdout too"):
        MuseData(["x", "y"], holdout=["y", "x"])


def test_refuses_a_retained_text_that_would_not_be_measured_as_well():
    with pytest.raises(SchemaMismatch, match="in retain too"):
        MuseData.from_texts(["same"], ["a", "same", "b"], retained_at_most=2)


def test_refuses_questions_without_answer():
    rows = [{"question": "a", "answer": "b"}, {"question": "c"}, ("d", " ")]
    with pytest.raises(SchemaMismatch, match=r"2 items of forget_qa have no answer \(q2, q3\)"):
        MuseData(["x"], forget_qa=rows, ids={"forget_qa": ["q1", "q2", "q3"]})
    with pytest.raises(SchemaMismatch, match="1 items of verbmem have no gt"):
        MuseData(["x"], verbmem=[{"prompt": "p"}])
    with pytest.raises(SchemaMismatch, match="have no answer"):
        MuseData(["x"], retain_qa=["ab"])


def test_refuses_what_is_no_text():
    with pytest.raises(SchemaMismatch, match="item 1 of retain is int"):
        MuseData(["x"], ["a", 3])


def test_refuses_bad_ids():
    with pytest.raises(SchemaMismatch, match="forget has 1 items and 2 ids"):
        MuseData(["x"], ids={"forget": [1, 2]})
    with pytest.raises(DuplicateId, match=r"ids of forget occur twice \(1\)"):
        MuseData(["x", "y"], ids={"forget": [1, 1]})
    with pytest.raises(UnknownName, match="no part 'forgot'"):
        MuseData(["x"], ids={"forgot": [1]})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mink": 0.2}, "no setting 'mink'"),
        ({"prompt_style": "plain"}, "choose clean or muse"),
        ({"answer_length": "long"}, "choose published or truth"),
        ({"min_k": 0.0}, "min_k is 0.0"),
        ({"icl": -1}, "icl is -1"),
        ({"verbmem_tokens": 1}, "verbmem_tokens is 1"),
    ],
)
def test_refuses_settings_that_make_no_sense(settings, words):
    with pytest.raises((UnknownName, ModelMismatch), match=words):
        MuseData(["x"], settings=settings)


def test_refuses_prompts_of_no_token_and_unknown_parts():
    with pytest.raises(ModelMismatch, match="prompt_tokens is 0"):
        MuseData.from_texts(["x"], prompt_tokens=0)
    with pytest.raises(UnknownName, match="no part 'qa'"):
        MuseData.from_texts(["x"], qa=[("a", "b")])
