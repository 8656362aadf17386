"""Claims about the reproduction of easy-to-hard: a shrunken run, its data, and the layouts it reads."""

import csv
import json

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, SourceError, UnknownName
from datumwise.probe.hardness_split import CUTOFFS
from datumwise.probe.in_context import ICL
from datumwise.progress import SILENT
from datumwise.reproduce import easy_to_hard as experiment
from datumwise.reproduce.arithmetic import (
    CHARACTERS,
    SUMS,
    _pages,
    arithmetic_questions,
    carries,
    character_tokenizer,
    forgetful_sum,
    train_decoder,
)
from datumwise.reproduce.easy_to_hard import paper, real, small
from datumwise.reproduce.frame import reproduce
from datumwise.reproduce.question_sets import load_questions
from datumwise.score.hardness import hardness


def number(text):
    return int(text[::-1])


def test_questions_have_the_sum_the_forgetful_answer_and_near_misses():
    data = arithmetic_questions(50, seed=1)
    assert len(set(data.questions)) == len(data) == 150
    for i, question in enumerate(data.questions):
        a, b = (number(part) for part in question.rstrip("=").split("+"))
        options = [number(c) for c in data.choices[i]]
        assert options[data.gold[i]] == a + b
        assert len(set(options)) == 4
        assert forgetful_sum(a, b) in options
        assert data.facts["carries"][i] == carries(a, b)
        assert len(str(a)) == len(str(b)) == data.facts["grade"][i]
    assert np.bincount(data.gold, minlength=4).min() > 20  # the right choice stands anywhere
    plain = arithmetic_questions(50, seed=1, plain=True)
    assert plain.questions[0].startswith("What is ")
    assert [int(c) for c in plain.choices[7]] == [number(c) for c in data.choices[7]]


def test_pages_are_by_one_author_each():
    rng = np.random.default_rng(0)
    place = np.array([CHARACTERS.index(c) for c in "+=;^"])
    ids, answers = _pages(200, 0.5, place, rng)
    texts = ["".join(CHARACTERS[i] for i in row) for row in ids]
    authors = []
    for text in texts:
        assert text[0] == "^"
        sums = text[1:].rstrip(";").split(";")
        assert len(sums) == SUMS
        rights = set()
        for one in sums:
            asked, said = one.split("=")
            a, b = (number(part) for part in asked.split("+"))
            assert number(said) in (a + b, forgetful_sum(a, b))
            if carries(a, b):
                rights.add(number(said) == a + b)
        assert len(rights) <= 1
        authors += rights
    assert 0.4 < np.mean(authors) < 0.6
    told = "".join(c for c, wanted in zip(texts[0], answers, strict=True) if wanted)
    assert told == "".join(one.split("=")[1] + ";" for one in texts[0][1:].rstrip(";").split(";"))


def test_the_tokenizer_gives_a_token_a_character_and_back():
    tokenizer = character_tokenizer()
    text = "^7300+8500=59000;"
    ids = tokenizer(text)["input_ids"]
    assert [CHARACTERS[i] for i in ids] == list(text)
    assert tokenizer.decode(ids) == text


def test_training_is_repeatable_and_lowers_the_loss():
    import torch

    one, two = (train_decoder(seed=3, steps=3, pages=4, width=16) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    longer = train_decoder(seed=3, steps=40, pages=6, width=16)
    ids, answers = _pages(20, 0.5, np.array([CHARACTERS.index(c) for c in "+=;^"]), np.random.default_rng(0))

    def loss(model):
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.from_numpy(ids[:, :-1])).logits, dim=-1)
        gold = log_p.gather(2, torch.from_numpy(ids[:, 1:, None]))[..., 0]
        return -float(gold[:, answers[1:]].mean())

    assert loss(longer) < loss(one) - 0.2


@pytest.mark.slow
def test_a_shrunken_run_says_what_its_figures_say(tmp_path, monkeypatch):
    monkeypatch.setitem(
        experiment.EXPERIMENT.scales, "small", lambda **given: small(**given, seeds=2, n_train=24, n_test=40, steps=20)
    )
    found = reproduce("easy-to-hard", "small", out=tmp_path, seed=1)
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "result.json", "verdict.md", "figure.png", "figure.svg"}
    assert found.command == "datumwise reproduce easy-to-hard --scale small --seed 1"
    saved = json.loads((tmp_path / "result.json").read_text())
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert len(rows) == len(saved["rows"]) == 5
    for row, run in zip(saved["rows"], saved["details"]["runs"].values(), strict=True):
        assert row["easy"] == run["gap"]["easy"]
        assert row["gap recovered"] == (run["gap"]["value"] if run["gap"]["gap"] > 0 else None)
    digits = saved["rows"][-1]
    assert digits["no labels"] == pytest.approx(0.1)
    assert digits["hard"] > 0.2
    claims = {claim["claim"]: claim["holds"] for claim in saved["claims"]}
    ordered = [r["easy"] > r["no labels"] and (r["easy"] <= r["hard"] or r["easy = hard, p"] >= 0.05) for r in saved["rows"]]
    if claims["no labels < easy labels <= hard labels"]:  # of every setting with clean labels
        assert sum(ordered) >= 4
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "<text" in (tmp_path / "figure.svg").read_text()


ROWS = {
    "arc": [
        {"id": f"a{i}", "question": f"Which is {i}?", "choices": {"text": ["x", "y"], "label": ["A", "B"]},
         "answerKey": "AB"[i % 2], "grade": 3 + i % 6}
        for i in range(60)
    ],
    "mmlu": [
        {"question": f"What is {i}?", "choices": ["p", "q", "r", "s"], "answer": i % 4,
         "subject": ("college_physics", "high_school_biology", "philosophy")[i % 3]}
        for i in range(90)
    ],
    "strategyqa": [
        {"qid": f"s{i}", "question": f"Is it {i}?", "answer": bool(i % 2), "decomposition": ["a?"] * (2 + i % 4),
         "facts": ["One.", "Two."]}
        for i in range(60)
    ],
    "gsm8k": [
        {"question": f"{i} and {i}?", "answer": "\n".join(["so"] * (3 + i % 6)) + f"\n#### {2 * i}"} for i in range(60)
    ],
}  # fmt: skip


@pytest.fixture
def files(tmp_path):
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_published_layouts_become_multiple_choice_with_their_hardness(files):
    arc = load_questions(f"arc={files / 'arc.jsonl'}")
    assert (arc.choices[0], arc.gold[:4].tolist(), arc.ids[1]) == (("x", "y"), [0, 1, 0, 1], "a1")
    assert sorted(set(hardness(arc, "grade")["grade"])) == [3, 4, 5, 6, 7, 8]
    mmlu = load_questions(f"mmlu={files / 'mmlu.jsonl'}")
    assert len(mmlu) == 60  # philosophy is no STEM
    assert set(mmlu.facts["topic"]) == {"physics", "biology"}
    assert hardness(mmlu, "college")["college"][:2].tolist() == [1, 0]
    strategy = load_questions(f"strategyqa={files / 'strategyqa.jsonl'}")
    assert strategy.answers[:2] == ["no", "yes"]
    assert hardness(strategy, "steps")["steps"][:4].tolist() == [2, 3, 4, 5]
    gsm = load_questions(f"gsm8k={files / 'gsm8k.jsonl'}")
    assert gsm.answers[7] == "14"
    assert hardness(gsm, "steps")["steps"][:6].tolist() == [3, 4, 5, 6, 7, 8]
    assert CUTOFFS["gsm8k_steps"] == (4, 7)


def test_question_sets_that_cannot_be_read_are_refused(files):
    with pytest.raises(UnknownName, match="no question set 'trivia'"):
        load_questions("trivia")
    with pytest.raises(SourceError, match="no such file"):
        load_questions("arc=/no/such/file.jsonl")
    (files / "broken.jsonl").write_text("{")
    with pytest.raises(SourceError, match="neither JSON nor JSONL"):
        load_questions(f"arc={files / 'broken.jsonl'}")


def test_a_scale_that_needs_a_model_says_so_and_small_takes_none():
    for run in (real, paper):
        with pytest.raises(DatumwiseError, match="pass --model"):
            run(stage=SILENT)
    with pytest.raises(DatumwiseError, match="trains its own model"):
        small(model="x", stage=SILENT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arc", "gsm8k"])
def test_the_papers_code_path_runs_on_a_local_model_and_file(files, name, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.train_from_iterator(
        ["Which is it?"], trainers.BpeTrainer(vocab_size=300, initial_alphabet=raw.pre_tokenizer.alphabet())
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=None)
    config = LlamaConfig(vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    folder = files / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    monkeypatch.setitem(ICL.__init__.__kwdefaults__, "max_new_tokens", 4)
    found = paper(model=str(folder), data=f"{name}={files / name}.jsonl", stage=SILENT)
    assert len(found.rows) == (1 if name == "gsm8k" else 2)
    assert found.rows[0]["task and learner"] == f"{name}, {8 if name == 'gsm8k' else 10} examples in the prompt"
    assert "Hardness" in found.notes[0]
