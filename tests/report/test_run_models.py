"""The audit asks a torch or transformers model in one pass, and says what that model could not do."""

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import datumwise as dw
from datumwise.errors import ModelMismatch
from datumwise.report import audit

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = {"animals": ["cat", "dog", "horse", "bird", "hay"], "money": ["bank", "bond", "share", "rate", "market"]}


def _texts(n=120):
    rng = np.random.default_rng(0)
    topics = np.asarray(["animals", "money"])[np.arange(n) % 2]
    return pd.DataFrame(
        {"text": [" ".join(rng.choice(WORDS[t], rng.integers(4, 9))) + f" n{i}" for i, t in enumerate(topics)], "topic": topics}
    )


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(_texts().text, trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>"]))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<pad>")


def test_labelled_texts_are_compared_by_an_encoder_from_a_folder(tmp_path, tokenizer):
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **SMALL)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    found = audit(_texts(), label="topic", model=tmp_path / "bert", out=tmp_path / "a")
    ledger = dw.open_ledger(found.ledger)
    assert ledger.array("embedding").shape == (120, 16)
    assert ledger.provenance("embedding").model
    assert {f.key for f in found.findings} >= {"label_error", "near_duplicate", "outlier"}
    assert f"--model {tmp_path / 'bert'}" in found.command


def test_texts_without_labels_get_likelihoods_and_the_cut_ones_are_counted(tmp_path, tokenizer):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=32, num_key_value_heads=2, pad_token_id=1, **SMALL
    )
    frame = _texts()[["text"]]
    frame.loc[5, "text"] = " ".join(["cat"] * 50)
    found = audit(frame, model=(transformers.LlamaForCausalLM(config), tokenizer), out=tmp_path / "a")
    ledger = dw.open_ledger(found.ledger)
    assert (ledger.array("mean_nll") > 0).all()
    assert "1 text is longer than 32 tokens and was read up to there." in found.limits
    assert {f.key for f in found.findings} == {"near_duplicate", "outlier", "hard", "memorised"}


def test_a_second_run_asks_the_model_only_about_what_is_missing(tmp_path, tokenizer):
    class Counting(torch.nn.Module):
        asked = 0

        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(4, 3)

        def forward(self, x):
            Counting.asked += len(x)
            return self.inner(x)

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 4)).astype(np.float32), np.arange(90) % 3
    model = Counting()
    first = audit((X, y), model=model, out=tmp_path / "a")
    at_first, Counting.asked = Counting.asked, 0
    again = audit((X, y), model=model, out=tmp_path / "a")
    assert Counting.asked < at_first / 2
    np.testing.assert_array_equal(first.map.flags, again.map.flags)
    assert any("agree with only" in limit for limit in again.limits)  # labels are random here


def test_a_model_with_too_few_answers_is_refused(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), np.arange(60) % 5
    with pytest.raises(ModelMismatch, match="5 classes and the model answers with 3"):
        audit((X, y), model=torch.nn.Linear(4, 3), out=tmp_path / "a")
