"""IFD of instruction pairs: datumwise against the loop of Superfiltering's script, one text at a time.

    OMP_NUM_THREADS=1 python benchmarks/ifd.py [--n 200] [--repeats 3] [--model FOLDER_OR_GGUF]

The loop does what the published ``data_analysis.py`` does for each pair: tokenise the response, one forward with
labels; tokenise prompt + response as one string, find the response in it by a textual search, count the prompt's
tokens, one forward with the prompt's labels masked; exp of both mean losses. It lives in this file, since the script
needs a CUDA device and files of its own. Without --model, a GPT-2 of 2 layers, 64 wide, random weights, with a
tokenizer of 4,096 byte pairs trained on the texts: what is timed is the work around the model. Values are asserted
equal before anything is printed; the ratio is of CPU seconds, medians of alternating runs.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datumwise.reproduce.docstrings import docstrings
from datumwise.score.language_model import lm

LENGTH = 1024  # tokens: the script's default


def published(model: Any, tokenizer: Any, prompts: list[str], responses: list[str], max_length: int) -> np.ndarray:
    """The script's IFD, pair by pair."""
    ratios = []
    for prompt, response in zip(prompts, responses, strict=True):
        length = tokenizer.encode(prompt, return_tensors="pt", truncation=True, max_length=max_length).shape[1]
        alone = whole_text(model, tokenizer, response, max_length - length + 1)
        given = part_text(model, tokenizer, prompt + response, response, max_length)
        ratios.append(np.exp(given) / np.exp(alone))
    return np.array(ratios)


def whole_text(model: Any, tokenizer: Any, text: str, max_length: int) -> float:
    input_ids = tokenizer.encode(text, return_tensors="pt", truncation=True, max_length=max_length)
    with torch.no_grad():
        return model(input_ids, labels=input_ids.contiguous()).loss.item()


def part_text(model: Any, tokenizer: Any, text: str, target: str, max_length: int) -> float:
    input_ids = tokenizer.encode(text, return_tensors="pt", truncation=True, max_length=max_length)
    start = len(tokenizer.encode(text[: text.rfind(target)]))
    labels = input_ids.clone()
    labels[0, :start] = -100
    with torch.no_grad():
        return model(input_ids, labels=labels).loss.item()


def tiny(texts: list[str]) -> tuple[Any, Any]:
    """A small GPT-2 and byte pairs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, show_progress=False))
    config = GPT2Config(vocab_size=4096, n_embd=64, n_layer=2, n_head=4, n_positions=LENGTH, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval(), PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--characters", type=int, default=600, help="longest response")
    parser.add_argument("--model", help="folder or GGUF file of a causal language model")
    options = parser.parse_args()
    texts = docstrings(options.n, most=options.characters)
    prompts, responses = texts.prompts, texts.responses
    if options.model:
        from datumwise.probe.collate import load_model

        model, tokenizer = load_model(options.model, "causal-lm")
    else:
        model, tokenizer = tiny(prompts + responses)

    def ours() -> np.ndarray:
        return lm(model, tokenizer, prompts, responses, "ifd", max_length=LENGTH)["ifd"]

    def theirs() -> np.ndarray:
        return published(model, tokenizer, prompts, responses, LENGTH)

    seconds: dict[str, list[float]] = {"datumwise": [], "published": []}
    wall: dict[str, list[float]] = {"datumwise": [], "published": []}
    values: dict[str, np.ndarray] = {}
    for repeat in range(options.repeats):
        order = [("datumwise", ours), ("published", theirs)]
        for name, function in order if repeat % 2 == 0 else order[::-1]:
            start, clock = time.process_time(), time.perf_counter()
            values[name] = function()
            seconds[name].append(time.process_time() - start)
            wall[name].append(time.perf_counter() - clock)
    same = [
        tokenizer.encode(p + r) == tokenizer.encode(p) + tokenizer.encode(r) for p, r in zip(prompts, responses, strict=True)
    ]
    difference = float(np.nanmax(np.abs(values["datumwise"] / values["published"] - 1)[same]))
    assert difference < 1e-4, f"the values differ by {difference:.1e} of themselves"

    lengths = [len(tokenizer.encode(p + r)) for p, r in zip(prompts, responses, strict=True)]
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    what = Path(options.model).name if options.model else "GPT-2, 2 layers, 64 wide, 4,096 byte pairs"
    print(f"IFD of {options.n:,} pairs, {sum(lengths):,} tokens (median {statistics.median(lengths):.0f}), {what}")
    print(f"{'':12}{'CPU s':>9}{'wall s':>9}")
    for name, value in medians.items():
        spread = f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f} in {options.repeats} runs"
        print(f"{name:12}{value:9.2f}{statistics.median(wall[name]):9.2f}  ({spread})")
    ratio = medians["published"] / medians["datumwise"]
    print(f"ratio of CPU seconds {ratio:.2f} x; largest relative difference {difference:.1e}")
    print(f"{options.n - sum(same)} pairs whose joint tokenisation merges across the seam, not compared")
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} thread, {platform.machine()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
