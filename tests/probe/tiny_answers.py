"""A tiny language model of single characters, shared by tests of learners from questions."""

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from datumwise.probe.multiple_choice import MultipleChoice, Template

LETTERS = "abcdefgh?=;^"
PLAIN = Template(question="{question}=", answer="{answer}", between=";", lead="^")


def letters_tokenizer():
    raw = Tokenizer(models.WordLevel({c: i for i, c in enumerate(LETTERS)} | {"<pad>": 12, "<u>": 13}, unk_token="<u>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<u>", model_max_length=64)


def letters_model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=14, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=12,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()


def letters_questions(n=60, seed=0):
    """The right choice is one of a to d, the wrong one of e to h."""
    rng = np.random.default_rng(seed)
    pairs = np.column_stack([rng.integers(0, 4, n), rng.integers(4, 8, n)])
    questions = [LETTERS[a] + LETTERS[b] + "?" for a, b in pairs]
    gold = rng.integers(0, 2, n)
    choices = [[LETTERS[a], LETTERS[b]] if g == 0 else [LETTERS[b], LETTERS[a]] for (a, b), g in zip(pairs, gold, strict=True)]
    return MultipleChoice(questions, choices, gold, facts={"grade": rng.integers(0, 3, n).tolist()})
