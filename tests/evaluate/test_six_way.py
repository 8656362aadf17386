"""The six criteria: of models that know given sentences by heart, and of random ones against one text at a time."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, log_softmax_of, tiny_gpt2, tiny_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, SchemaMismatch, UnknownName
from datumwise.evaluate.muse_data import MuseData
from datumwise.evaluate.privleak import auc, privleak
from datumwise.evaluate.rouge import rouge_l
from datumwise.evaluate.six_way import six_way
from datumwise.evaluate.written_answers import question_prompts

REMEMBERED = 16  # tokens that a reciting model looks back
FORGET = ["The old bridge fell into the river at dawn.", "Nobody saw the grey fox leave the barn."]
RETAIN = ["Rain is expected over the northern hills.", "The council met again on Tuesday evening."]
UNSEEN = [
    "A quiet village woke to heavy snow today.",
    "Seven ships left the harbour before noon.",
    "Her train was late for the third time.",
]
FORGET_QA = [("Who fell?", "the bridge"), ("Who left?", "a grey fox")]
RETAIN_QA = [("Where is rain?", "northern hills"), ("When did they meet?", "on Tuesday")]
SHOTS = [("Is it so?", "it is")]


class Reciting(torch.nn.Module):
    """Knows texts by heart: after 16 tokens that it has read it is sure of the next one, else all are alike."""

    def __init__(self, texts, tokenizer, vocabulary=260):
        super().__init__()
        self.follows = {}
        for text in texts:
            ids = tokenizer(text)["input_ids"]
            for at in range(1, len(ids)):
                self.follows[tuple(ids[max(0, at - REMEMBERED) : at])] = ids[at]
        self.register_buffer("texts", torch.tensor([hash(tuple(texts)) % 2**31]))
        self.vocabulary = vocabulary

    def forward(self, input_ids, attention_mask):
        logits = torch.zeros((*input_ids.shape, self.vocabulary))
        for row, (ids, mask) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
            real = [(place, token) for place, (token, on) in enumerate(zip(ids, mask, strict=True)) if on]
            for at in range(len(real)):
                known = tuple(token for _, token in real[max(0, at + 1 - REMEMBERED) : at + 1])
                if known in self.follows:
                    logits[row, real[at][0], self.follows[known]] = 30.0
        return logits


def pieces_tokenizer(texts):
    """A byte-level vocabulary with whole words in it, learnt on these texts."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=512)


def sheet(pairs):
    return [f"Question: {q}\nAnswer: {a}\n\n" for q, a in pairs]


def small_data(tokenizer, **settings):
    return MuseData.from_texts(
        FORGET, RETAIN, UNSEEN, tokenizer, prompt_tokens=16, ids=["f1", "f2"],
        forget_qa=FORGET_QA, retain_qa=RETAIN_QA, forget_qa_icl=SHOTS, retain_qa_icl=SHOTS,
        settings={"knowmem_tokens": 24, "icl": 1} | settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(begin=True, context=512)


@pytest.fixture(scope="module")
def target(tokenizer):
    return Reciting([*FORGET, *RETAIN, *sheet(FORGET_QA), *sheet(RETAIN_QA)], tokenizer)


@pytest.fixture(scope="module")
def retrain(tokenizer):
    return Reciting([*RETAIN, *sheet(RETAIN_QA)], tokenizer)


ALL = ("verbmem", "knowmem", "privleak", "utility", "retain_verbmem")


def test_a_model_that_knows_everything_by_heart_and_one_that_never_saw_the_texts(tokenizer, target, retrain):
    data = small_data(tokenizer)
    before = six_way(target, tokenizer, data, criteria=ALL, retrain=retrain)
    never = six_way(retrain, tokenizer, data, criteria=ALL, retrain=retrain)
    assert [round(before.values[name], 6) for name in ALL] == [100, 100, -100, 100, 100]
    assert before.auc == 0.0
    assert before.intervals["verbmem"].low == pytest.approx(100 * 0.025 ** (1 / 2))  # two items cannot say more
    assert before.values["nll_forget"] < 1.5 < 3 < before.values["nll_holdout"]
    assert never.values["verbmem"] < 30
    assert never.values["knowmem"] < 30
    assert never.values["privleak"] == 0.0
    assert never.values["utility"] == 100
    assert before.reference.kind == "retrained model"
    assert before.reference.auc == never.auc
    assert before.per_item["verbmem"].generation == [truth for _, truth in data.verbmem]
    assert before.per_item["knowmem"].generation == [" the bridge", " a grey fox"]
    assert before.per_item["verbmem"].id == ["f1", "f2"]
    assert before.missing == {}
    assert never.missing == {}
    assert before.model != never.model


def test_an_unchanged_model_gives_the_same_row(tokenizer, target):
    data = small_data(tokenizer)
    one, two = (six_way(target, tokenizer, data, criteria=ALL, retrain=0.5) for _ in range(2))
    assert one.values == two.values
    assert one.intervals == two.intervals
    assert all(found.test.difference.value == 0 and found.test.p == 1 for found in one.compare(two))


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_scores_do_not_depend_on_batch_or_order(make, tokenizer):
    model = make(1, context=512)
    data = small_data(tokenizer, answer_length="published", verbmem_tokens=12)
    one = six_way(model, tokenizer, data, criteria=ALL, retrain=0.5, tokens_per_batch=1)
    many = six_way(model, tokenizer, data, criteria=ALL, retrain=0.5, tokens_per_batch=4_096)
    for name, items in one.per_item.items():
        assert np.allclose(items.score, many.per_item[name].score, atol=1e-4)
        assert items.generation == many.per_item[name].generation
    turned = MuseData(
        data.forget[::-1], data.retain, data.holdout[::-1], data.verbmem[::-1],
        ids={"forget": ["f2", "f1"], "verbmem": ["f2", "f1"], "holdout": ["2", "1", "0"]}, settings=data.settings,
    )  # fmt: skip
    other = six_way(model, tokenizer, turned, criteria=("verbmem", "privleak"), retrain=0.5)
    for name in ("verbmem", "privleak", "privleak_holdout"):
        ids = one.per_item[name].id
        assert np.allclose(other.per_item[name].at(ids), one.per_item[name].score, atol=1e-4)
    assert other.values["privleak"] == pytest.approx(one.values["privleak"])


def test_privleak_is_that_of_scores_worked_out_one_text_at_a_time(tokenizer):
    model = tiny_llama(2, context=512)
    data = small_data(tokenizer)
    report = six_way(model, tokenizer, data, criteria="privleak", retrain=0.4)

    def score(text):
        ids = tokenizer(text)["input_ids"]
        table = log_softmax_of(model, ids)
        lp = np.sort([table[t, ids[t + 1]] for t in range(len(ids) - 1)])
        return -lp[: int(0.4 * len(lp))].mean()

    forget, holdout = [score(t) for t in FORGET], [score(t) for t in UNSEEN]
    assert np.allclose(report.per_item["privleak"].score, forget, atol=1e-4)
    assert report.auc == auc(forget, holdout)
    assert report.values["privleak"] == privleak(auc(forget, holdout), 0.4)
    assert report.intervals["privleak"].low <= report.values["privleak"] <= report.intervals["privleak"].high


def test_what_is_written_equals_greedy_decoding_one_prompt_at_a_time_without_cache(tokenizer):
    model = tiny_llama(3, context=512)
    data = small_data(tokenizer, answer_length="published", verbmem_tokens=9, knowmem_tokens=7)
    report = six_way(model, tokenizer, data, criteria=("verbmem", "knowmem"), retrain=0.5)

    def written(prompt, n, stops=()):
        ids = tokenizer(prompt)["input_ids"]
        new = []
        while len(new) < n:
            new.append(int(log_softmax_of(model, ids + new)[-1].argmax()))
            if new[-1] == 259:
                break
        text = tokenizer.decode(new, skip_special_tokens=True)
        return min((text.partition(stop)[0] for stop in stops), key=len) if stops else text

    recited = [written(prompt, 9) for prompt, _ in data.verbmem]
    assert report.per_item["verbmem"].generation == recited
    truths = [tokenizer.decode(tokenizer(truth)["input_ids"][:9], skip_special_tokens=True) for _, truth in data.verbmem]
    assert report.per_item["verbmem"].score.tolist() == [rouge_l(a, b) for a, b in zip(recited, truths, strict=True)]
    shot = "Question: Is it so?\nAnswer: it is\n\n"
    answers = [written(f"{shot}Question: {q}\nAnswer:", 7, ("\n\n", "\nQuestion", "Question:")) for q, _ in FORGET_QA]
    assert report.per_item["knowmem"].generation == answers


def test_truth_keeps_one_token_less_than_is_written_where_a_beginning_token_counts(tokenizer):
    # the published cut: 128 ids of the truth, the beginning-of-text token among them, so 127 real ones
    for begin, kept in ((True, 127), (False, 128)):
        own = byte_tokenizer(begin=begin, context=512)
        text = "start " + "x" * 200
        model = Reciting([text], own)
        data = MuseData(["q"], verbmem=[("start", " " + "x" * 199)])
        report = six_way(model, own, data, criteria="verbmem", word_tokenizer=list)
        said, true = 128, kept  # both of the letter x, after one space
        assert report.per_item["verbmem"].score[0] == pytest.approx(2 * kept / (said + true))


def test_answers_end_before_the_next_question(tokenizer):
    question = ("Where?", "Paris")
    for after in ("\n\nQuestion: x", " Question: b", "\nQuestion: y"):
        model = Reciting([f"Question: Where?\nAnswer: Paris{after}"], tokenizer)
        data = MuseData(["q"], forget_qa=[question], settings={"icl": 0})
        report = six_way(model, tokenizer, data, criteria="knowmem")
        assert report.per_item["knowmem"].generation[0] in (" Paris", " Paris ")
        assert report.values["knowmem"] == 100


def test_the_published_space_after_answer_hides_what_a_model_knows(tokenizer):
    prefix, clean = question_prompts(FORGET_QA, SHOTS)
    assert prefix == "Question: Is it so?\nAnswer: it is\n\n"
    assert clean[0] == "Question: Who fell?\nAnswer:"
    assert question_prompts(FORGET_QA, SHOTS, style="muse") == (prefix, [one + " " for one in clean])
    # a vocabulary that spells " the" in one piece never shows a model the space alone
    own = pieces_tokenizer(sheet(FORGET_QA) * 5)
    data, model = small_data(own, icl=0), Reciting(sheet(FORGET_QA), own, len(own))
    assert six_way(model, own, data, criteria="knowmem").values["knowmem"] == 100
    published = six_way(model, own, data, criteria="knowmem", prompt_style="muse")
    assert published.values["knowmem"] == 0
    assert published.settings["prompt_style"] == "muse"


def test_texts_of_any_length_are_written_to_their_end_and_no_further(tokenizer):
    text = "The old bridge fell. And then a lot more was said about it."
    model = Reciting([text], tokenizer)
    data = MuseData(["q"], verbmem=[("The old", " bridge fell.")], settings={"answer_length": "truth"})
    fair = six_way(model, tokenizer, data, criteria="verbmem")
    assert fair.values["verbmem"] == 100
    assert fair.per_item["verbmem"].generation == [" bridge fell."]
    published = six_way(model, tokenizer, data, criteria="verbmem", answer_length="published", verbmem_tokens=40)
    assert published.values["verbmem"] < 50


def test_writing_ends_at_the_end_of_text_token(tokenizer):
    model = Reciting(["The old bridge fell. And then a lot more was said."], tokenizer)
    data = MuseData(["q"], verbmem=[("The old", " bridge fell. And then")])
    model.config = SimpleNamespace(eos_token_id=tokenizer(".", add_special_tokens=False)["input_ids"][0])
    report = six_way(model, tokenizer, data, criteria="verbmem", verbmem_tokens=30)
    assert report.per_item["verbmem"].generation == [" bridge fell."]


def test_a_plain_list_of_texts_needs_no_questions(tokenizer, target):
    data = MuseData.from_texts(FORGET, RETAIN, UNSEEN, tokenizer, prompt_tokens=16)
    report = six_way(target, tokenizer, data)
    assert report.values.keys() == {"verbmem", "privleak", "nll_forget", "nll_retain", "nll_holdout"}
    assert report.missing == {
        "knowmem": "no questions on what is to be forgotten (forget_qa)",
        "utility": "no questions on what is to be kept (retain_qa)",
    }
    assert "not measured: answered, to keep" in report.table()
    alone = six_way(target, tokenizer, MuseData(FORGET))
    assert alone.values.keys() == {"nll_forget"}
    assert set(alone.missing) == {"verbmem", "knowmem", "privleak", "utility"}


def test_without_a_retrained_model_the_reference_is_one_half_and_loudly_so(tokenizer, target):
    report = six_way(target, tokenizer, small_data(tokenizer), criteria="privleak")
    assert (report.reference.kind, report.reference.auc) == ("split holdout", 0.5)
    assert any(note.startswith("no retrained model was given") for note in report.notes)
    assert "split holdout" in str(report)


def test_the_reference_may_be_model_report_or_number(tokenizer, target, retrain):
    data = small_data(tokenizer)
    never = six_way(retrain, tokenizer, data, criteria="privleak", retrain=0.5)
    found = [six_way(target, tokenizer, data, criteria="privleak", retrain=r) for r in (retrain, never, never.auc)]
    assert [one.reference.kind for one in found] == ["retrained model", "report", "given"]
    assert len({one.values["privleak"] for one in found}) == 1
    assert found[0].intervals == found[1].intervals


def test_unusable_texts_are_named_and_counted(tokenizer):
    model = tiny_llama(4, context=64)
    short = byte_tokenizer(begin=False, context=64)
    data = MuseData(["a", "long " * 30, "just right"], holdout=["b c", "Ж"], ids={"forget": ["x", "y", "z"]})
    report = six_way(model, short, data, criteria="privleak", retrain=0.5)
    assert report.per_item["privleak"].id == ["y", "z"]
    assert "1 forget texts have fewer than 2 tokens and are left out (x)" in report.notes
    assert "1 forget texts are longer than the model reads, and read in pieces (y)" in report.notes


def test_prompts_that_lose_their_beginning_are_noted_and_else_refused(tokenizer):
    model, short = tiny_llama(6, context=64), byte_tokenizer(begin=True, context=64)
    data = small_data(short, answer_length="published", verbmem_tokens=8, knowmem_tokens=8)
    report = six_way(model, short, data, criteria=("verbmem", "knowmem"), max_length=60)
    assert "answered, to forget: 2 prompts lost their beginning (0, 1)" in report.notes
    assert not any(note.startswith("recited") for note in report.notes)
    with pytest.raises(ModelMismatch, match="the prompt of 0, 1 and what follows it need up to"):
        six_way(model, short, data, criteria="knowmem")


def test_truths_without_a_word_are_counted_and_another_tokenizer_scores_them(tokenizer):
    text = "ночь темна"
    data = MuseData(["q"], verbmem=[("ночь", " темна")], settings={"answer_length": "truth"})
    model = Reciting([text], tokenizer)
    plain = six_way(model, tokenizer, data, criteria="verbmem")
    assert plain.values["verbmem"] == 0
    assert any("hold no word and score 0 (0)" in note for note in plain.notes)
    assert six_way(model, tokenizer, data, criteria="verbmem", word_tokenizer=str.split).values["verbmem"] == 100


def test_the_model_stays_as_it_was(tokenizer):
    model = tiny_llama(5, context=512).train()
    model.config.use_cache = False
    model.lm_head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    six_way(model, tokenizer, small_data(tokenizer, verbmem_tokens=4, knowmem_tokens=3), criteria=ALL)
    assert model.training
    assert not model.config.use_cache
    assert not model.lm_head.weight.requires_grad
    assert model.model.norm.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_progress_ends_at_all(tokenizer, target, retrain):
    told = []
    six_way(target, tokenizer, small_data(tokenizer), criteria=ALL, retrain=retrain, progress=lambda *a: told.append(a))
    done, totals = [d for d, _ in told], {t for _, t in told}
    assert totals == {2 + 2 + 3 + 2 + 3 + 2 + 2 + 2 + 2}
    assert done[-1] == max(done) == 20
    assert done == sorted(done)


def test_the_data_say_how_they_are_measured_and_a_call_may_say_otherwise(tokenizer, target):
    data = small_data(tokenizer, min_k=0.2)
    assert six_way(target, tokenizer, data, criteria="privleak", retrain=0.5).settings["min_k"] == 0.2
    assert six_way(target, tokenizer, data, criteria="privleak", retrain=0.5, min_k=0.6).settings["min_k"] == 0.6


def test_refusals(tokenizer, target, retrain):
    data = small_data(tokenizer)
    with pytest.raises(UnknownName, match="no criterion 'verbatim': criteria are verbmem"):
        six_way(target, tokenizer, data, criteria=("verbatim",))
    with pytest.raises(EmptyData, match="no criterion is asked for"):
        six_way(target, tokenizer, data, criteria=())
    with pytest.raises(UnknownName, match="prompt_style is 'x'"):
        six_way(target, tokenizer, data, prompt_style="x")
    with pytest.raises(NotFinite, match="PrivLeak is not defined where the AUC of the reference is 0"):
        six_way(retrain, tokenizer, data, retrain=target)
    with pytest.raises(NotFinite, match="PrivLeak is not defined"):
        six_way(retrain, tokenizer, data, retrain=0)
    with pytest.raises(ModelMismatch, match="max_length is 900 and the model reads 512"):
        six_way(tiny_llama(context=512), tokenizer, data, max_length=900)
    with pytest.raises(EmptyData, match="nothing could be measured: the data hold no questions"):
        six_way(target, tokenizer, MuseData(FORGET), criteria="knowmem")
    other = six_way(retrain, tokenizer, data, criteria="privleak", retrain=0.5, min_k=0.2)
    with pytest.raises(SchemaMismatch, match=r"report has min_k 0.2 and this one 0.4"):
        six_way(target, tokenizer, data, retrain=other)
    elsewhere = six_way(
        retrain, tokenizer, MuseData(["else"], holdout=["where to"], ids={"forget": ["g"]}), criteria="privleak"
    )
    with pytest.raises(SchemaMismatch, match="holds no score of these forget texts"):
        six_way(target, tokenizer, data, retrain=elsewhere)


def test_nothing_is_measured_before_a_useless_reference_is_refused(tokenizer, retrain, target):
    read = []

    class Watching(Reciting):
        def forward(self, *a, **k):
            read.append(1)
            return super().forward(*a, **k)

    with pytest.raises(NotFinite):
        six_way(Watching(RETAIN, tokenizer), tokenizer, small_data(tokenizer), retrain=target)
    assert read == []


def test_importing_the_room_needs_no_torch():
    code = "import sys, datumwise.evaluate.six_way, datumwise.evaluate.membership; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
