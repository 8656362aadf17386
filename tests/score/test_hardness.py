"""Claims about the measures of hardness: one worked record each."""

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, LabelError, NotFinite, SchemaMismatch, UnknownColumn, UnknownName
from datumwise.probe.multiple_choice import MultipleChoice
from datumwise.score.hardness import MEASURES, average_hardness, hardness, hardness_correlation, solution_sentences
from datumwise.score.irt import fit_irt
from datumwise.score.mdl_hardness import MDLHardness

RECORD = {
    "id": "q7",
    "question": "Which gas do plants take in?",
    "choices": ["oxygen", "CO₂ – naïve"],
    "answer": "CO₂ – naïve",
    "grade": "5",
    "college": "college",
    "difficulty": "Medium",
    "bloom": "Applying",
    "depth": "II",
    "decomposition": ["What is photosynthesis?", "What does it use?", "Is that a gas?"],
    "reasoning": "Plants use 3.5 units. They take in CO2! So it is CO2.",
}


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        ("grade", 5),
        ("college", 1),
        ("difficulty", 2),
        ("bloom", 3),
        ("depth", 2),
        ("question_words", 6),
        ("answer_chars", 11),  # characters, not the 16 bytes
        ("answer_words", 3),
        ("reasoning_words", 12),
        ("steps", 3),  # of the decomposition
    ],
)
def test_a_worked_record(measure, value):
    found = hardness([RECORD], measure)
    assert found[measure].tolist() == [value]
    assert found.ids.tolist() == ["q7"]
    assert found.higher[measure]


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ("difficulty", ["Low", "Medium", "High"]),
        ("bloom", ["Remembering", "Understanding", "Applying", "Analyzing", "Evaluating"]),
        ("depth", ["I", "II", "III"]),
    ],
)
def test_words_of_a_scale_are_1_2_3(measure, words):
    records = [RECORD | {"id": i, measure: word} for i, word in enumerate(words)]
    assert hardness(records, measure)[measure].tolist() == list(range(1, len(words) + 1))


def test_high_school_is_0_and_college_1():
    records = [RECORD | {"id": i, "college": w} for i, w in enumerate(["high school", "High_School", "College"])]
    assert hardness(records, "college")["college"].tolist() == [0, 0, 1]


def test_solution_sentences_are_capped_at_10():
    record = {key: value for key, value in RECORD.items() if key != "decomposition"}
    assert hardness([record], "steps")["steps"].tolist() == [3]
    long = record | {"reasoning": "\n".join(f"line {i}" for i in range(14)) + "\n#### 3"}
    assert hardness([long], "steps")["steps"].tolist() == [10]
    assert solution_sentences("\n".join(f"line {i}" for i in range(14)) + "\n#### 3") == 14


def test_an_unknown_level_word_is_refused_by_name_and_question():
    with pytest.raises(LabelError, match="bloom of q7 is 'Guessing', which is not one of remembering"):
        hardness([RECORD | {"bloom": "Guessing"}], "bloom")
    with pytest.raises(LabelError, match="grade of q7 is 'fifth', which is not a number"):
        hardness([RECORD | {"grade": "fifth"}], "grade")
    with pytest.raises(LabelError, match="difficulty of q7 is None"):
        hardness([RECORD | {"difficulty": None}], "difficulty")


def test_what_is_not_there_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'bloom'"):
        hardness([RECORD], "blom")
    with pytest.raises(UnknownColumn, match="no 'grade'"):
        hardness([{"question": "q", "answer": "a"}], "grade")
    with pytest.raises(UnknownColumn, match="neither steps"):
        hardness([{"question": "q", "answer": "a"}], "steps")
    with pytest.raises(UnknownColumn, match="mdl needs a vector a choice"):
        hardness([RECORD], "mdl")
    with pytest.raises(DatumwiseError, match="needs a causal language model"):
        hardness([RECORD], "nll")
    with pytest.raises(DatumwiseError, match="reasoning of 1 is missing"):
        hardness([RECORD | {"id": 0}, RECORD | {"id": 1, "reasoning": None}], "reasoning_words")
    with pytest.raises(SchemaMismatch, match="models x 1 questions"):
        hardness([RECORD], "irt", responses=np.zeros((3, 2)))


def test_records_are_checked_at_the_door():
    with pytest.raises(LabelError, match="right choice of q7 is not among its choices"):
        MultipleChoice.from_records([RECORD | {"gold": 4}])
    with pytest.raises(LabelError, match="answer of q7 is not among its choices"):
        MultipleChoice.from_records([RECORD | {"answer": "tea"}])
    with pytest.raises(DatumwiseError, match="a choice of q7 is empty"):
        MultipleChoice.from_records([RECORD | {"choices": ["", "x"], "gold": 1}])


def test_mdl_and_irt_are_those_of_their_files():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 40)
    H = rng.normal(size=(40, 3, 5))
    data = MultipleChoice(["q"] * 40, [["a", "b", "c"]] * 40, gold, features=H)
    found = hardness(data, "mdl", sizes=(5, 20), n_boot=2, random_state=1)["mdl"]
    expected = MDLHardness("probe", sizes=(5, 20), n_boot=2, random_state=1).fit_score(H, gold)
    np.testing.assert_allclose(found, expected)
    answers = rng.random((30, 40)) < 0.5
    np.testing.assert_allclose(hardness(data, "irt", responses=answers)["irt"], fit_irt(answers).difficulty)


def test_models_are_averaged_raw_or_after_min_max():
    values = [[0.0, 1.0, 2.0], [10.0, 10.0, 20.0]]
    assert average_hardness(values).tolist() == [0, 0.25, 1]
    assert average_hardness(values, normalise=False).tolist() == [5, 5.5, 11]
    with pytest.raises(DatumwiseError, match="by model 1 is the same everywhere"):
        average_hardness([[0.0, 1.0], [3.0, 3.0]])


def test_the_correlation_of_measures_is_spearmans():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    columns = {"a": rng.integers(0, 4, 60), "b": rng.normal(size=60), "c": rng.integers(0, 9, 60)}
    names, matrix = hardness_correlation(columns)
    assert names == ["a", "b", "c"]
    np.testing.assert_allclose(matrix, spearmanr(np.column_stack(list(columns.values()))).statistic, atol=1e-12)
    with pytest.raises(NotFinite, match="measure b holds NaN"):
        hardness_correlation({"a": [1, 2], "b": [np.nan, 1]})


def test_every_measure_says_what_higher_means():
    assert len(set(MEASURES)) == len(MEASURES) >= 12


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=64)).eval()


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["<s>", "<u>", "which", "gas", "is", "this", "a", "b"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<u>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<u>", bos_token="<s>")


def brute(model, ids):
    import torch

    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    return -sum(float(log_p[t - 1, ids[t]]) for t in range(1, len(ids)))


@pytest.mark.parametrize(("part", "ids"), [("question", [2, 3, 4, 5]), ("answer", [6, 7])])
def test_the_likelihood_of_a_part_is_the_sum_over_its_tokens_after_a_beginning_of_text_token(model, tokenizer, part, ids):
    record = {"question": "which gas is this", "choices": ["a b", "b"], "gold": 0}
    found = hardness([record], "nll", model=model, tokenizer=tokenizer, part=part)["nll"]
    np.testing.assert_allclose(found, [brute(model, [0, *ids])], rtol=1e-5)


def test_zero_shot_is_one_minus_p_of_the_right_choice(model, tokenizer):
    from datumwise.probe.multiple_choice import Template

    record = {"question": "which gas", "choices": ["a", "b b"], "gold": 1}
    plain = Template(question="{question}", answer=" {answer}")
    found = hardness([record], "zero_shot", model=model, tokenizer=tokenizer, template=plain)["zero_shot"]
    whole, other = (brute(model, ids) - brute(model, [2, 3]) for ids in ([2, 3, 7, 7], [2, 3, 6]))
    np.testing.assert_allclose(found, [1 - np.exp(-whole) / (np.exp(-whole) + np.exp(-other))], rtol=1e-5)


def test_an_unknown_part_is_refused(model, tokenizer):
    with pytest.raises(UnknownName, match="no part 'title'"):
        hardness([RECORD], "nll", model=model, tokenizer=tokenizer, part="title")
