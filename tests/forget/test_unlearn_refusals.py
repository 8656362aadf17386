"""What cannot be done as asked is refused in one sentence."""

from __future__ import annotations

import pytest
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, SchemaMismatch, UnknownName
from datumwise.forget.unlearning import unlearn

MODEL, TOKENIZER = tiny_llama(0), byte_tokenizer(begin=True)
FORGET, RETAIN = ["a secret", "the code"], ["water boils"]


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"forget": []}, EmptyData, "there is no text: give at least one"),
        ({"forget": ["", " "]}, EmptyData, "every text of the data is empty"),
        ({"method": "ga_gdr"}, EmptyData, "ga_gdr needs retain texts and none were given: pass retain=, or choose a method"),
        ({"method": "npo_klr"}, EmptyData, "npo_klr needs retain texts"),
        ({"method": "rmu"}, EmptyData, "rmu needs retain texts"),
        (
            {"retain": ["the code"]},
            SchemaMismatch,
            r"1 of the texts to forget are also in retain \(1\): take them out of retain",
        ),
        ({"holdout": ["a secret"]}, SchemaMismatch, r"1 of the texts to forget are also in holdout \(0\)"),
        (
            {"method": "nope"},
            UnknownName,
            "there is no unlearning method 'nope': known are calibrated, ceu, coherent, curvature, dpo, ga, ",
        ),
        ({"max_length": 999}, DatumwiseError, "max_length is 999 and the model reads 256 tokens: pass at most that"),
        ({"max_length": 1}, DatumwiseError, "max_length is 1: it must be 2 or more"),
        ({"epochs": -1}, DatumwiseError, "epochs is -1: it must be 0 or more"),
        ({"lr": -1e-3}, DatumwiseError, "lr is -0.001: it must be 0 or more"),
        ({"lr": float("nan")}, DatumwiseError, "lr is nan: it must be 0 or more"),
        ({"batch_size": 0}, DatumwiseError, "batch_size is 0: it must be 1 or more"),
        ({"method": "npo", "delta": 1.0}, UnknownName, "npo has no option delta: it takes beta"),
        ({"beta": 0.1}, UnknownName, "ga has no option beta: it takes none"),
        ({"method": "npo", "beta": 0.0}, DatumwiseError, "beta is 0.0: it must be above 0"),
        ({"method": "npo", "variant": "best"}, UnknownName, "npo has no variant 'best': choose exact or muse-logits"),
        ({"method": "kl_max", "variant": "best"}, UnknownName, "kl_max has no variant 'best': choose exact or published"),
        (
            {"method": "ga_klr", "retain": RETAIN, "variant": "best"},
            UnknownName,
            "ga_klr has no variant 'best': choose exact or muse-logits",
        ),
        ({"variant": "muse-logits"}, UnknownName, "ga has no variant 'muse-logits': choose exact"),
        ({"method": "dpo"}, EmptyData, "dpo needs a response to give in place of each forgotten one: pass alternatives="),
        ({"method": "dpo", "alternatives": ["no"]}, SchemaMismatch, "there are 1 alternatives for 2 texts to forget"),
        ({"method": "idk_dpo", "alternatives": []}, EmptyData, "there is no line to draw from"),
        ({"alternatives": ["no", "no"]}, UnknownName, "ga takes no alternatives: use dpo or idk_dpo"),
        ({"method": "rmu", "retain": RETAIN}, ModelMismatch, "the model has no layer 7: layers are 0 to 1; pass layer="),
        (
            {"method": "rmu", "retain": RETAIN, "layer": 0, "parameters": "nothing"},
            ModelMismatch,
            "no parameter of LlamaForCausalLM is to be trained: pass parameters='all', another layer, or lora=True",
        ),
        ({"spans": [[(0, 1)]]}, SchemaMismatch, "there are spans of 1 texts for 2 texts"),
    ],
    ids=str,
)
def test_bad_requests_are_refused(options, error, sentence):
    arguments = {"forget": FORGET, "method": "ga", "epochs": 1, "lr": 1e-3, **options}
    with pytest.raises(error, match=sentence):
        unlearn(MODEL, TOKENIZER, **arguments)


def test_what_was_taken_where_nothing_was_said_is_noted():
    result = unlearn(MODEL, byte_tokenizer(), ["x", "two words", "", "y" * 40], method="ga", epochs=0, max_length=30)
    assert result.left_out == ["2", "0"]
    assert result.ids == ["1", "3"]
    assert result.notes == [
        "the tokenizer has no padding token: 0 fills up batches, and is masked by length",
        "the tokenizer begins no text with a special token: the first token of each is not predicted",
        "2 texts have no token to predict and were left out (2, 0)",
        "1 texts were longer than a sequence and are trained in pieces",
    ]
    assert unlearn(MODEL, TOKENIZER, FORGET, method="ga", epochs=0).options["max_length"] == 256
