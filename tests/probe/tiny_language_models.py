"""Causal language models of a few thousand weights, and a byte tokenizer, for tests."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 256
BEGIN = "<s>"


def byte_tokenizer(*, begin=False, context=CONTEXT):
    """One token a byte (ids 0..255), no padding token; with ``begin`` every text starts with ``<s>`` (256)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate(alphabet)}
    if begin:
        vocabulary[BEGIN] = len(vocabulary)
    raw = Tokenizer(models.BPE(vocabulary, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import decoders

    raw.decoder = decoders.ByteLevel()
    options = {}
    if begin:
        raw.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, vocabulary[BEGIN])])
        options = {"bos_token": BEGIN}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=context, **options)


def tiny_llama(seed=0, *, scale=3.0, context=CONTEXT):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, tie_word_embeddings=False, eos_token_id=259,
    )  # fmt: skip
    return sharpened(LlamaForCausalLM(config), scale)


def tiny_gpt2(seed=0, *, scale=3.0, context=CONTEXT):
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=260, n_embd=32, n_layer=2, n_head=4, n_positions=context, eos_token_id=259, bos_token_id=259)
    return sharpened(GPT2LMHeadModel(config), scale)


def sharpened(model, scale):
    """Larger weights, so that what a model says depends on what it has read."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return model.eval()


def log_softmax_of(model, ids):
    """float64 log-probabilities (T, V) of the token after each of ``ids``, one text, no cache."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([list(ids)]), use_cache=False).logits[0].double(), dim=-1).numpy()


class Uncached(torch.nn.Module):
    """A causal model that keeps no keys and names no output layer: only ids and mask go in."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, input_ids, attention_mask):
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        return self.inner(input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False).logits
