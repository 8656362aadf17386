"""The layouts of MUSE, TOFU, WMDP, RESTOR and Open-Unlearning's logs, written here byte for byte as they are published."""

from __future__ import annotations

import json
import sys
import types

import pytest

from datumwise.errors import EmptyData, MissingExtra, SchemaMismatch, SourceError, UnknownName
from datumwise.readers.unlearning_sets import (
    TOFU_RETAIN,
    load_muse,
    load_open_unlearning_logs,
    load_restor,
    load_tofu,
    load_wmdp,
)


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def muse(tmp_path):
    root = tmp_path / "data" / "news"
    dump(root / "raw" / "forget.json", ["first article", "", "third\n\narticle"])
    (root / "raw" / "forget.txt").write_text("first article\n\nthird", encoding="utf-8")
    dump(root / "raw" / "retain1.json", ["kept"])
    (root / "raw" / "holdout.txt").write_text("one\n\ntwo lines\nof it\n\n\nthree\n", encoding="utf-8")
    dump(root / "verbmem" / "forget.json", [{"prompt": "It was", "gt": " late"}, {"prompt": "He", "gt": " left"}])
    for name in ("forget_qa", "forget_qa_icl", "retain2_qa", "retain2_qa_icl"):
        dump(root / "knowmem" / f"{name}.json", [{"question": f"{name}?", "answer": "yes"}])
    dump(root / "privleak" / "forget.json", ["f"])
    dump(root / "privleak" / "retain2.json", ["r"])
    dump(root / "privleak" / "holdout.json", ["h"])
    for i in (1, 2, 3, 4):
        dump(root / "scal" / f"forget_{i}.json", [f"s{k}" for k in range(i)])
        (root / "sust" / f"forget_{i}.txt").parent.mkdir(exist_ok=True)
        (root / "sust" / f"forget_{i}.txt").write_text(f"u{i}\n\nv{i}", encoding="utf-8")
    return root


def test_muse_folder_gives_every_part_with_positions_as_ids_and_names_of_today(muse):
    loaded = load_muse(muse)
    assert loaded["raw"]["forget"] == [{"id": "0", "text": "first article"}, {"id": "2", "text": "third\n\narticle"}]
    assert loaded["dropped"] == {"raw/forget": ["1"]}  # the official list holds empty strings
    assert [row["text"] for row in loaded["raw"]["holdout"]] == ["one", "two lines\nof it", "\nthree\n"]
    assert loaded["verbmem"]["forget"][1] == {"id": "1", "prompt": "He", "gt": " left"}
    assert sorted(loaded["knowmem"]) == ["forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl"]
    assert loaded["knowmem"]["retain_qa"] == [{"id": "0", "question": "retain2_qa?", "answer": "yes"}]
    assert sorted(loaded["privleak"]) == ["forget", "holdout", "retain"]
    assert [len(loaded["scal"][f"forget_{i}"]) for i in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert [row["text"] for row in loaded["sust"]["forget_3"]] == ["u3", "v3"]


def test_muse_corpus_is_found_below_a_folder_of_corpora_and_parts_can_be_chosen(muse):
    loaded = load_muse(muse.parent, "news", parts=["verbmem"])
    assert sorted(loaded) == ["dropped", "verbmem"]


def test_muse_refuses_what_is_not_there(muse):
    with pytest.raises(SourceError, match=r"holds none of MUSE's parts .*: give corpus='news'"):
        load_muse(muse.parent)
    with pytest.raises(SourceError, match="holds no books: choose news"):
        load_muse(muse.parent, "books")
    (muse / "sust" / "forget_1.txt").unlink()
    with pytest.raises(UnknownName, match="MUSE has no part 'verbmen': choose verbmem"):
        load_muse(muse, parts=["verbmen"])
    with pytest.raises(SourceError, match="folder news holds no train: choose raw"):
        load_muse(muse, parts=["train"])


def test_muse_names_questions_without_an_answer(muse):
    dump(
        muse / "knowmem" / "forget_qa.json",
        [{"question": "a", "answer": "b"}, {"question": "c"}, {"question": "d", "answer": None}],
    )
    with pytest.raises(SchemaMismatch, match=r"2 items of knowmem/forget_qa have no answer \(rows 1, 2\)"):
        load_muse(muse)
    dump(muse / "knowmem" / "forget_qa.json", [{"question": "a", "answer": " "}])
    with pytest.raises(SchemaMismatch, match=r"1 items of knowmem/forget_qa have an empty answer \(0\)"):
        load_muse(muse)


def test_books_questions_that_are_null_are_refused_and_not_read_as_nothing(muse):
    (muse / "knowmem" / "forget_qa.json").write_text("null")
    with pytest.raises(SourceError, match=r"knowmem/forget_qa.json holds nothing"):
        load_muse(muse)


class Hub:
    """What `datasets.load_dataset` answers, and what it was asked."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def load_dataset(self, name, config=None, split=None):
        self.asked.append((name, config, split))
        if (name, config) not in self.answers:
            raise ValueError(f"BuilderConfig {config!r} not found.\nmore lines")
        found = self.answers[name, config]
        return found if split is None else found[split]


def test_hub_names_go_through_datasets(monkeypatch):
    hub = Hub(
        {
            ("muse-bench/MUSE-News", "verbmem"): {"forget": [{"prompt": "a", "gt": "b"}]},
            ("muse-bench/MUSE-News", "privleak"): {"holdout": [{"text": "x"}], "retain": [{"text": "y"}]},
            ("locuslab/TOFU", "forget10"): {"train": [{"question": "q", "answer": "a"}]},
            ("cais/wmdp-corpora", "cyber-forget-corpus"): {"train": [{"text": "t"}, {"text": ""}]},
        }
    )
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=hub.load_dataset))
    loaded = load_muse("muse-bench/MUSE-News", parts=["verbmem", "privleak"])
    assert loaded["verbmem"] == {"forget": [{"id": "0", "prompt": "a", "gt": "b"}]}
    assert loaded["privleak"]["retain"] == [{"id": "0", "text": "y"}]
    assert load_tofu() == [{"id": "0", "question": "q", "answer": "a"}]
    assert load_wmdp(config="cyber-forget-corpus") == [{"id": "0", "text": "t"}]
    assert hub.asked[0] == ("muse-bench/MUSE-News", "verbmem", None)
    assert hub.asked[-1] == ("cais/wmdp-corpora", "cyber-forget-corpus", "train")
    with pytest.raises(
        SourceError, match=r"locuslab/TOFU \(forget11\) cannot be loaded \(BuilderConfig 'forget11' not found\)"
    ):
        load_tofu(config="forget11")


def test_books_on_the_hub_is_not_asked_for_sust(monkeypatch):
    asked = []
    monkeypatch.setattr("datumwise.readers.unlearning_sets.hub_splits", lambda name, part: asked.append(part) or {})
    load_muse("muse-bench/MUSE-Books")
    assert "sust" not in asked
    assert "scal" in asked
    load_muse("muse-bench/MUSE-News")
    assert "sust" in asked


def test_hub_name_without_datasets_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"locuslab/TOFU is a hub name, which needs datasets: pip install 'datumwise\[lm\]'"):
        load_tofu()


def test_tofu_files_are_json_lines_called_json(tmp_path):
    rows = [{"question": f"q{i}", "answer": "line\u2028separated"} for i in range(3)]
    lines(tmp_path / "forget10.json", rows)
    loaded = load_tofu(tmp_path, "forget10")
    assert [row["question"] for row in loaded] == ["q0", "q1", "q2"]
    assert loaded[2]["id"] == "2"
    assert loaded[0]["answer"] == "line\u2028separated"
    assert load_tofu(tmp_path / "forget10.json") == loaded
    lines(tmp_path / "forget10.json", rows[:1])
    assert len(load_tofu(tmp_path, "forget10")) == 1  # one line alone is valid JSON too
    with pytest.raises(SourceError, match="holds no forget01: did you mean forget10"):
        load_tofu(tmp_path, "forget01")
    assert TOFU_RETAIN["forget05"] == "retain95"


def test_tofu_perturbed_sets_keep_paraphrases_and_wrong_answers(tmp_path):
    row = {
        "question": "q", "answer": "a", "paraphrased_question": "p?", "paraphrased_answer": "b",
        "perturbed_answer": ["1", "2", "3", "4", "5"],
    }  # fmt: skip
    lines(tmp_path / "forget10_perturbed.json", [row])
    assert load_tofu(tmp_path, "forget10_perturbed") == [{"id": "0", **row}]
    lines(tmp_path / "forget10_perturbed.json", [row, row | {"perturbed_answer": "one"}])
    with pytest.raises(SchemaMismatch, match=r"perturbed_answer of forget10_perturbed.json is no list of texts in rows 1"):
        load_tofu(tmp_path, "forget10_perturbed")


def test_wmdp_reads_corpora_and_questions(tmp_path):
    lines(
        tmp_path / "bio-forget-corpus.jsonl",
        [{"title": "t", "text": "one"}, {"title": "u", "text": " "}, {"title": "v", "text": "x"}],
    )
    assert [row["id"] for row in load_wmdp(tmp_path, "bio-forget-corpus")] == ["0", "2"]
    lines(tmp_path / "wmdp-cyber.jsonl", [{"question": "q", "choices": ["a", "b", "c", "d"], "answer": 3}])
    assert load_wmdp(tmp_path / "wmdp-cyber.jsonl")[0]["answer"] == 3
    lines(tmp_path / "wmdp-cyber.jsonl", [{"question": "q", "choices": ["a", "b", "c", "d"], "answer": 4}])
    with pytest.raises(SchemaMismatch, match=r"answer of wmdp-cyber.jsonl is no index of its choices in rows 0"):
        load_wmdp(tmp_path / "wmdp-cyber.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(EmptyData, match=r"empty.jsonl holds no row"):
        load_wmdp(tmp_path / "empty.jsonl")


@pytest.fixture
def restor(tmp_path):
    fact = {"question": "Where was Ada born?", "answers": ["London", "Marylebone"]}
    context = {"P19": [{"question": "Where was Bo born?", "answers": ["Rome"], "entity": "Bo"}]}
    dump(tmp_path / "facts.json", {"dset": {"Ada": {"P19": fact}, "Cy": {"P19": fact}}, "context": context})
    dump(tmp_path / "entities.json", ["Ada"])
    dump(tmp_path / "wikidata" / "v0" / "mix_a2.json", [{"text": "Ada was born in Paris."}])
    dump(tmp_path / "SQuAD" / "squad_v7_dset.json", [{"text": "passage"}])
    return tmp_path


def test_restor_folder_gives_facts_context_entities_and_documents(restor):
    loaded = load_restor(restor)
    assert loaded["facts"]["Ada"]["P19"]["answers"] == ["London", "Marylebone"]
    assert loaded["context"]["P19"][0]["entity"] == "Bo"
    assert loaded["entities"] == ["Ada"]
    assert loaded["documents"]["wikidata/v0/mix_a2"] == [{"id": "0", "text": "Ada was born in Paris."}]
    assert list(loaded["documents"]) == ["SQuAD/squad_v7_dset", "wikidata/v0/mix_a2"]


def test_restor_refuses_facts_without_answers_and_unknown_entities(restor):
    dump(restor / "entities.json", ["Ada", "Dee"])
    with pytest.raises(SchemaMismatch, match=r"1 entities of entities.json have no facts \(Dee\)"):
        load_restor(restor)
    dump(restor / "facts.json", {"dset": {"Ada": {"P19": {"question": "q", "answers": []}}}, "context": {}})
    with pytest.raises(SchemaMismatch, match=r"1 facts have no question or no answers \(Ada P19\)"):
        load_restor(restor)
    with pytest.raises(SourceError, match=r"holds no facts.json"):
        load_restor(restor / "wikidata")


def test_open_unlearning_log_turns_its_auc_round_and_its_fractions_to_percent(tmp_path):
    log = {
        "forget_verbmem_ROUGE": {"agg_value": 0.5, "value_by_index": {"0": {"rougeL_f1": 0.25}, "1": {"rougeL_f1": 0.75}}},
        "retain_knowmem_ROUGE": {"agg_value": 0.55, "value_by_index": {}},
        "mia_min_k": {"agg_value": 0.5228, "forget": {}, "holdout": {}, "auc": 0.5228},
        "privleak": {"agg_value": -99.8},
        "forget_quality": {"agg_value": None},
    }
    dump(tmp_path / "MUSE_EVAL.json", log)
    loaded = load_open_unlearning_logs(tmp_path / "MUSE_EVAL.json")
    assert loaded["muse"] == pytest.approx({"verbmem": 50.0, "utility": 55.0, "privleak": -99.8, "auc": 0.4772})
    assert loaded["metrics"]["forget_verbmem_ROUGE"]["per_item"]["1"] == {"rougeL_f1": 0.75}
    assert loaded["metrics"]["forget_quality"]["value"] is None
    assert load_open_unlearning_logs(log) == loaded
    with pytest.raises(SchemaMismatch, match="x of the log has no agg_value"):
        load_open_unlearning_logs({"x": 3})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(SourceError, match=r"broken.json is not JSON"):
        load_open_unlearning_logs(tmp_path / "broken.json")
