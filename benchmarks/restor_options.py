"""Log-probabilities of answer options in few-shot prompts: datumwise against one forward an option, as published.

    OMP_NUM_THREADS=1 python -P benchmarks/restor_options.py [--facts 120] [--repeats 3]

The published way (RESTOR's logit analysis) is written out below: every option of every fact is one forward of its own over
the whole prompt, in a batch of one. Both get the same model, facts and options; the figures are asserted equal to 1e-4 before
anything is timed, in CPU seconds of one thread, medians of alternating runs. Memory is
what a run adds to a process of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from datumwise.probe.score_options import score_options

RELATIONS = ("capital", "currency", "language", "continent", "neighbour", "president")


def one_forward_an_option(model: Any, tokenizer: Any, prompts: list[str], options: list[list[str]]) -> list[np.ndarray]:
    """Mean log-probability of an option's tokens: the joined text alone, the tokens that end behind the prompt."""
    found = []
    for prompt, some in zip(prompts, options, strict=True):
        values = []
        for option in some:
            encoded = tokenizer(f"{prompt} {option}", return_offsets_mapping=True, return_tensors="pt")
            ends = encoded["offset_mapping"][0, :, 1]
            with torch.no_grad():
                logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits[0]
            log_p = torch.log_softmax(logits[:-1], dim=-1)
            own = (ends[1:] > len(prompt)).nonzero()[:, 0]
            values.append(float(log_p[own, encoded["input_ids"][0, own + 1]].double().mean()))
        found.append(np.array(values))
    return found


def task(n: int) -> tuple[list[str], list[list[str]], list[str]]:
    """n facts of six relations, five worked examples each, four options of one to four words."""
    rng = np.random.default_rng(0)
    syllables = ["ka", "lo", "mi", "ren", "tu", "sha", "vo", "pel", "dri", "on"]

    def name() -> str:
        return "".join(rng.choice(syllables, rng.integers(2, 5))).capitalize()

    shots = {r: "".join(f"What is the {r} of {name()}? {name()}\n" for _ in range(5)) for r in RELATIONS}
    prompts, options = [], []
    for i in range(n):
        relation = RELATIONS[i % len(RELATIONS)]
        prompts.append(f"{shots[relation]}What is the {relation} of {name()}?")
        options.append([" ".join(name() for _ in range(rng.integers(1, 5))) for _ in range(4)])
    return prompts, options, list(shots.values())


def build(texts: list[str]) -> tuple[Any, Any]:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>"]
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(texts, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", model_max_length=512)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=344, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=512, initializer_range=0.1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--facts", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    prompts, choices, texts = task(options.facts)
    model, tokenizer = build(texts)
    ways = {
        "one forward an option": lambda: one_forward_an_option(model, tokenizer, prompts, choices),
        "datumwise": lambda: score_options(model, tokenizer, prompts, choices),
    }
    first = {name: way() for name, way in ways.items()}
    gap = max(float(np.abs(a - b).max()) for a, b in zip(*first.values(), strict=True))
    assert gap < 1e-4, f"the options' log-probabilities differ by {gap}"
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    read = {name: positions(model, way) for name, way in ways.items()}
    memory = {name: peak(way) for name, way in ways.items()}
    median = {name: statistics.median(some) for name, some in seconds.items()}
    print(f"{options.facts} facts, 5 worked examples, 4 options each; largest difference {gap:.1e}")
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    for name in ways:
        print(f"{name:24s} {median[name]:8.2f} s   {read[name]:>9,} token positions   {memory[name]:6.1f} MiB")
    ours, theirs = median["datumwise"], median["one forward an option"]
    print(f"ratio                    {theirs / ours:8.1f} x")


def positions(model: Any, way: Any) -> int:
    """Token positions that go through the model."""
    seen = []
    hook = model.get_input_embeddings().register_forward_hook(lambda module, given, output: seen.append(given[0].numel()))
    way()
    hook.remove()
    return sum(seen)


def peak(way: Any) -> float:
    """MiB that a run adds to the resident memory of a process of its own."""
    read, write = os.pipe()
    if os.fork() == 0:
        before = resident()
        way()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        os.write(write, str(max(0.0, most - before)).encode())
        os._exit(0)
    os.wait()
    return float(os.read(read, 64))


def resident() -> float:
    """MiB of this process that are in memory now."""
    with open("/proc/self/statm") as source:
        return int(source.read().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
