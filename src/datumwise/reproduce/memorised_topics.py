"""Small models that know some of their data by heart: a language model of Python's help topics, digits under label noise."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datumwise.errors import MissingExtra

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["NoisyDigits", "World", "memorised_topics", "noisy_digits", "topic_windows"]

WINDOW = 64  # tokens
VOCABULARY = 1024
MEMORISED, HELD_OUT = 64, 300  # windows; the rest is train
STEPS, BATCH, REPEATED = 500, 16, 6  # of a batch's windows so many are repeated ones: 47 exposures each
RATE, WARM_UP, LAST = 2e-3, 50, 0.05
NOISE, TEST = 0.1, 497  # share of labels that are wrong; test images
EPOCHS, IMAGES = 50, 64  # of the digits; images a batch


@dataclass(frozen=True)
class World:
    """A language model that recites some windows of its training text.

    Attributes
    ----------
    model : LlamaForCausalLM
        1.18 M parameters, evaluation mode.
    tokenizer : PreTrainedTokenizerFast
        Byte-level BPE of 1,024 tokens.
    memorised : Tensor int64 (64, 64)
        Windows that were repeated in training.
    train : Tensor int64 (about 2,120, 64)
        Windows seen three or four times at most.
    held_out : Tensor int64 (300, 64)
        Never seen.
    seconds : float
        CPU time of training.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    memorised: torch.Tensor
    train: torch.Tensor
    held_out: torch.Tensor
    seconds: float


@dataclass(frozen=True)
class NoisyDigits:
    """A small vision transformer that has learnt wrong labels by heart.

    Attributes
    ----------
    model : torch.nn.Module
        Images (n, 1, 8, 8) to logits (n, 10), evaluation mode; layers ``blocks.0.fc1`` to ``blocks.3.fc2``.
    X, X_test : Tensor float32 (1,300, 1, 8, 8), (497, 1, 8, 8)
        scikit-learn's handwritten digits, 0 to 1.
    given : Tensor int64 (1,300,)
        Labels it was trained on; a tenth is wrong.
    true, y_test : Tensor int64
        True labels.
    wrong : Tensor bool (1,300,)
        Where ``given`` is not ``true``.
    seconds : float
        CPU time of training.
    """

    model: torch.nn.Module
    X: torch.Tensor
    given: torch.Tensor
    true: torch.Tensor
    X_test: torch.Tensor
    y_test: torch.Tensor
    seconds: float

    @property
    def wrong(self) -> torch.Tensor:
        return self.given != self.true


def memorised_topics(seed: int = 0, *, steps: int = STEPS, progress: Callable[[int, int], None] | None = None) -> World:
    """Train the language model: about 90 s on one core.

    The text is ``pydoc_data.topics``, 465 kB of technical English that every Python brings. Each batch of 16 windows of
    64 tokens holds 6 of the 64 repeated ones.

    Parameters
    ----------
    seed : int
        Of the split, the weights and the batches.
    steps : int
    progress : callable (step, steps), optional

    Raises
    ------
    MissingExtra
        torch or transformers is not installed.
    """
    _need_transformers()
    import torch

    tokenizer, windows = topic_windows()
    generator = torch.Generator().manual_seed(seed)
    windows = windows[torch.randperm(len(windows), generator=generator)]
    memorised, held_out, train = windows.split([MEMORISED, HELD_OUT, len(windows) - MEMORISED - HELD_OUT])
    began = time.process_time()
    model = _language_model(seed)
    groups = [_epochs(len(train), BATCH - REPEATED, generator), _epochs(MEMORISED, REPEATED, generator)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    model.train()
    for step in range(steps):
        _set_rate(optimiser, RATE, step, steps)
        batch = torch.cat([train[next(groups[0])], memorised[next(groups[1])]])
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps)
    optimiser.zero_grad()
    return World(model.eval(), tokenizer, memorised, train, held_out, time.process_time() - began)


def topic_windows() -> tuple[PreTrainedTokenizerFast, torch.Tensor]:
    """Tokenizer trained on Python's help topics, and the topics as windows int64 (about 2,490, 64) in their order."""
    from pydoc_data.topics import topics

    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = "\n".join(topics.values())
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw.train_from_iterator(
        topics.values(), trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    )
    tokens = torch.tensor(raw.encode(text).ids)
    whole = len(tokens) // WINDOW * WINDOW
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=2 * WINDOW), tokens[:whole].view(-1, WINDOW)


def noisy_digits(seed: int = 0, *, epochs: int = EPOCHS, progress: Callable[[int, int], None] | None = None) -> NoisyDigits:
    """Train the vision transformer until it gives the wrong labels: about 30 s on one core.

    Parameters
    ----------
    seed : int
        Of the split, the wrong labels, the weights and the batches.
    epochs : int
    progress : callable (epoch, epochs), optional

    Raises
    ------
    MissingExtra
        torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("this world needs torch", remedy="pip install 'datumwise[lm]'")
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    X = (torch.from_numpy(images).float() / 16).view(-1, 1, 8, 8)[order]
    y = torch.from_numpy(labels).long()[order]
    X, X_test, true, y_test = X[TEST:], X[:TEST], y[TEST:], y[:TEST]
    at = torch.randperm(len(X), generator=generator)[: int(NOISE * len(X))]
    given = true.clone()
    given[at] = (true[at] + torch.randint(1, 10, (len(at),), generator=generator)) % 10
    began = time.process_time()
    model = _vision_transformer(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    batches = -(-len(X) // IMAGES)
    rows = _epochs(len(X), IMAGES, generator)
    for step in range(epochs * batches):
        _set_rate(optimiser, 1e-3, step, epochs * batches)
        at = next(rows)
        loss = torch.nn.functional.cross_entropy(model(X[at]), given[at])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if progress is not None and (step + 1) % batches == 0:
            progress((step + 1) // batches, epochs)
    optimiser.zero_grad()
    return NoisyDigits(model.eval(), X, given, true, X_test, y_test, time.process_time() - began)


def _need_transformers() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        raise MissingExtra("this world needs torch and transformers", remedy="pip install 'datumwise[lm]'")


def _language_model(seed: int) -> PreTrainedModel:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2 * WINDOW,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _vision_transformer(seed: int, width: int = 64, depth: int = 4, heads: int = 4) -> torch.nn.Module:
    """Patches of 2 x 2 pixels and a class token through four pre-norm blocks, 203,000 parameters."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            seen = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + self.out(seen)
            return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))

    class VisionTransformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, width, 2, 2)
            self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))
            self.places = nn.Parameter(0.02 * torch.randn(1, 17, width))
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patches(x).flatten(2).mT
            x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.places
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)[:, 0])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer()


def _epochs(n: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Rows of one batch after another, without end: every row once before any row again."""
    import torch

    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < size:
            left = torch.cat([left, torch.randperm(n, generator=generator)])
        rows, left = left[:size], left[size:]
        yield rows


def _set_rate(optimiser: Any, rate: float, step: int, steps: int) -> None:
    """Linear warm-up, then a cosine to a twentieth."""
    after = max(0.0, (step + 1 - WARM_UP) / max(1, steps - WARM_UP))
    factor = min(1.0, (step + 1) / WARM_UP) * (LAST + (1 - LAST) * (1 + math.cos(math.pi * after)) / 2)
    for group in optimiser.param_groups:
        group["lr"] = rate * factor
