"""One step of negative preference optimisation: the reference as one cached number a sequence, against a second model.

    OMP_NUM_THREADS=1 python -P benchmarks/unlearn_step.py [--repeats 7]

The published way (Zhang et al., 2024, and open-unlearning after it) runs the frozen first model beside the trained one in every
step, both with `labels=`, so that transformers also computes a mean loss that nobody reads. Written out here from the formula.
Both get the same padded batches and start from the same weights, in turns. Losses and weights are asserted equal after every
run, CPU seconds of one thread, medians; the cache itself is filled outside of the step and its time printed.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from datumwise.forget.losses import npo_loss, sequence_nll
from datumwise.forget.reference import Reference, forward_logits_of
from datumwise.forget.sequences import Sequences
from datumwise.probe.collate import Encoded

BETA, RATE, CLIP = 0.1, 1e-5, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=192, help="longest text; the shortest has half of it")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=8192)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    first = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=options.vocabulary, hidden_size=options.hidden, intermediate_size=3 * options.hidden,
            num_hidden_layers=options.layers, num_attention_heads=8, tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip
    texts = made_texts(options.texts, options.tokens, options.vocabulary)
    batches = [np.arange(at, at + options.batch) for at in range(0, options.texts, options.batch)]

    began = time.process_time()
    nll_ref = Reference(first, {"forget": texts}).nll("forget")
    filling = time.process_time() - began
    ours: list[float] = []
    published: list[float] = []
    for _ in range(options.repeats):
        for seconds, step in ((ours, cached_step), (published, two_model_step)):
            model = copy.deepcopy(first)
            optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
            losses, began = [], time.process_time()
            for rows in batches:
                losses.append(step(model, first, texts, rows, nll_ref))
                torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            seconds.append((time.process_time() - began) / len(batches))
            if step is cached_step:
                expected = losses
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
    a, b = statistics.median(ours), statistics.median(published)
    n = sum(p.numel() for p in first.parameters())
    print(f"NPO, {n / 1e6:.1f} M parameters, batch {options.batch} of {options.tokens // 2} to {options.tokens} tokens")
    print(f"{'':24}{'CPU s a step':>14}{'models held':>14}")
    print(f"{'cached reference':24}{a:14.3f}{1:14}")
    print(f"{'two models (published)':24}{b:14.3f}{2:14}")
    print(f"ratio {a / b:.2f}; filling the cache once {filling:.2f} s ({filling / len(batches):.3f} s a batch); equal losses")
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, medians of {options.repeats}")


def made_texts(n: int, longest: int, vocabulary: int) -> Sequences:
    """Random token ids of several lengths."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, vocabulary, size=int(rng.integers(longest // 2, longest + 1))) for _ in range(n)]
    items = [Encoded(i, i.copy(), False) for i in ids]
    return Sequences(items, np.arange(n), [str(k) for k in range(n)], [], 0)


def cached_step(model: Any, first: Any, texts: Sequences, rows: np.ndarray, nll_ref: torch.Tensor) -> float:
    batch = texts.batch(rows)
    nll, _ = sequence_nll(forward_logits_of(model, batch), batch.labels)
    loss = npo_loss(nll, nll_ref[rows], BETA)
    loss.backward()
    return float(loss.detach())


def two_model_step(model: Any, first: Any, texts: Sequences, rows: np.ndarray, nll_ref: torch.Tensor) -> float:
    batch = texts.batch(rows)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.mask, "labels": batch.labels}
    own = summed_loss(model(**inputs).logits, batch.labels)
    with torch.no_grad():
        ref = summed_loss(first(**inputs).logits, batch.labels)
    loss = -torch.nn.functional.logsigmoid(BETA * (own - ref)).mean() * 2 / BETA
    loss.backward()
    return float(loss.detach())


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over each sequence, (B,), as the authors' code has it."""
    shifted = labels[..., 1:].contiguous()
    loss = torch.nn.CrossEntropyLoss(ignore_index=-100, reduction="none")
    return loss(logits[..., :-1, :].contiguous().transpose(-1, -2), shifted).sum(dim=-1)


if __name__ == "__main__":
    main()
