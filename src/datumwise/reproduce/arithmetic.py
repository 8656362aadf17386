"""Sums that a tiny decoder answers: a benchmark whose hardness is known, on one core in two minutes.

The decoder is trained on pages of sums. Some pages are by a careful author; others by one who forgets every carry, a mistake
children make: 37 + 58 = 85. The decoder learns both. Which one to be is what supervision has to say: without labels it
hesitates between them, and a few right sums, or a linear direction in its states, can settle it. Numbers are written with
the lowest digit first and padded with zeros, so that a carry is always known when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from datumwise.probe.multiple_choice import MultipleChoice, Template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["DIGITS", "TEMPLATE", "arithmetic_questions", "carries", "character_tokenizer", "forgetful_sum", "train_decoder"]

DIGITS = 4  # of the longest number
CHARACTERS = "0123456789+=;^"
TEMPLATE = Template(question="{question}", answer="{answer}", between=";", lead="^")
CARELESS = 0.5  # share of pages by the author who forgets carries
SUMS = 12  # on a page: ten examples, a question, and one to spare
SHARES = (0.05, 0.15, 0.3, 0.5)  # of sums in training by number of digits, for a long one has more to learn
WIDTH, LAYERS, HEADS = 64, 3, 4
PAGES, STEPS, RATE = 6, 2800, 3e-3


def arithmetic_questions(n: int, digits: tuple[int, ...] = (2, 3, 4), *, seed: int = 0, plain: bool = False) -> MultipleChoice:
    """Sums of two numbers with four choices each: the sum, what the forgetful author says, and near misses.

    Parameters
    ----------
    n : int
        Questions for each number of digits, no two alike.
    digits : tuple of int
        Digits of the longer number.
    seed : int
    plain : bool, default False
        Written as people do, for a language model of people's texts; else as the tiny decoder reads.

    Returns
    -------
    MultipleChoice
        Facts: ``grade`` (digits of the longer number), ``carries``.
    """
    rng = np.random.default_rng(seed)
    questions, choices, gold, facts = [], [], [], {"grade": [], "carries": []}  # type: ignore[var-annotated]
    seen: set[tuple[int, int]] = set()
    for grade in digits:
        wanted = len(questions) + n
        while len(questions) < wanted:
            a, b = (int(v) for v in rng.integers(10 ** (grade - 1), 10**grade, 2))
            if (a, b) in seen:
                continue
            seen.add((a, b))
            options = _options(a, b, rng)
            order = rng.permutation(len(options))
            written = [_written(v, DIGITS) for v in (a, b)]
            questions.append(f"What is {a} + {b}?" if plain else f"{written[0]}+{written[1]}=")
            choices.append([str(options[i]) if plain else _written(options[i], DIGITS + 1) for i in order])
            gold.append(int(np.flatnonzero(order == 0)[0]))
            facts["grade"].append(grade)
            facts["carries"].append(carries(a, b))
    return MultipleChoice(questions, choices, gold, facts=facts)


def carries(a: int, b: int) -> int:
    """Carries in adding two numbers by hand.

    Examples
    --------
    >>> carries(37, 58), carries(12, 34), carries(999, 1)
    (1, 0, 3)
    """
    count = carry = 0
    while a or b or carry:
        carry = int(a % 10 + b % 10 + carry > 9)
        count += carry
        a, b = a // 10, b // 10
    return count


def forgetful_sum(a: int, b: int) -> int:
    """The sum with every carry forgotten.

    Examples
    --------
    >>> forgetful_sum(37, 58), forgetful_sum(12, 34)
    (85, 46)
    """
    total, place = 0, 1
    while a or b:
        total += (a % 10 + b % 10) % 10 * place
        a, b, place = a // 10, b // 10, place * 10
    return total


def _options(a: int, b: int, rng: np.random.Generator) -> list[int]:
    """The sum first, then three others: the forgetful one, +-1, +-10, two digits swapped."""
    right = a + b
    digits = list(str(right))
    i = int(rng.integers(0, max(1, len(digits) - 1)))
    if len(digits) > 1:
        digits[i], digits[i + 1] = digits[i + 1], digits[i]
    near = [right + 1, right - 1, right + 10, right - 10, int("".join(digits))]
    rng.shuffle(near)
    options = list(dict.fromkeys(v for v in [right, forgetful_sum(a, b), *near] if v >= 0))
    return options[:4]


def _written(number: int, width: int) -> str:
    """Lowest digit first, zeros behind.

    Examples
    --------
    >>> _written(37, 4)
    '7300'
    """
    return str(number)[::-1].ljust(width, "0")


def character_tokenizer() -> PreTrainedTokenizerFast:
    """A token a character; ``^`` begins a page."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {c: i for i, c in enumerate(CHARACTERS)} | {"<pad>": len(CHARACTERS), "<unk>": len(CHARACTERS) + 1}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", model_max_length=512)


def train_decoder(
    *,
    seed: int = 0,
    steps: int = STEPS,
    pages: int = PAGES,
    width: int = WIDTH,
    careless: float = CARELESS,
    progress: Callable[[int, int], None] | None = None,
) -> PreTrainedModel:
    """A three-layer decoder trained on pages of sums, predicting the answers.

    Parameters
    ----------
    seed : int
        Of the weights and of the pages.
    steps, pages : int
        Updates, and pages in each.
    width : int
        Of the hidden states.
    careless : float
        Share of pages by the author who forgets carries.
    progress : callable (step, steps), optional
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(CHARACTERS) + 2,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=len(CHARACTERS),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    place = np.array([CHARACTERS.index(c) for c in "+=;^"])
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 30) * (1 - 0.95 * max(0.0, (step / steps - 0.1) / 0.9))
        ids, wanted = (torch.from_numpy(part) for part in _pages(pages, careless, place, rng))
        logits = model(ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, wanted[1:]].flatten(0, 1), ids[:, 1:][:, wanted[1:]].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps)
    return model.eval()


def _pages(n: int, careless: float, place: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Token ids int64 (n, T) of pages of sums, all alike in shape, and which positions are answers (T,)."""
    digits = rng.choice(np.arange(1, DIGITS + 1), (n, SUMS), p=SHARES)
    low = np.where(digits == 1, 0, 10 ** (digits - 1))
    numbers = rng.integers(low[..., None], (10**digits)[..., None], (n, SUMS, 2))
    powers = 10 ** np.arange(DIGITS + 1)
    parts = numbers[..., None] // powers % 10  # digits, lowest first: (n, SUMS, 2, DIGITS + 1)
    right = numbers.sum(axis=-1)[..., None] // powers % 10
    forgetful = parts.sum(axis=2) % 10
    by_careless = (rng.random(n) < careless)[:, None, None]
    answers = np.where(by_careless, forgetful, right)
    plus, equals, end, start = (np.full((n, SUMS, 1), p) for p in place)
    sums = np.concatenate([parts[:, :, 0, :DIGITS], plus, parts[:, :, 1, :DIGITS], equals, answers, end], axis=2)
    ids = np.concatenate([start[:, 0], sums.reshape(n, -1)], axis=1)
    one = np.r_[np.zeros(2 * DIGITS + 2, dtype=bool), np.ones(DIGITS + 2, dtype=bool)]
    return np.ascontiguousarray(ids), np.r_[False, np.tile(one, SUMS)]
