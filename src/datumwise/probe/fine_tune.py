"""How does a language model change when it is tuned on some texts? Low-rank adapters, added and taken away again.

Hu et al., 2022, *LoRA: Low-Rank Adaptation of Large Language Models*.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import EmptyData, MissingExtra, SchemaMismatch

if TYPE_CHECKING:
    import torch

    from datumwise.probe.collate import Encoded

__all__ = ["adapters", "descend", "fine_tuned", "token_logprobs"]

LAST_RATE = 0.1  # share of the learning rate that the linear decay ends at


@contextmanager
def fine_tuned(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    config: Any = None,
    epochs: int = 3,
    batch: int = 8,
    lr: float = 2e-4,
    weight_decay: float = 0.0,
    max_length: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Any]:
    """The model, tuned on n responses to their prompts; afterwards it is as it was, also after an error.

    Parameters
    ----------
    model, tokenizer : causal language model
    prompts, responses : sequences of n str
        Only the response's tokens are predicted.
    config : peft.LoraConfig, optional
        Default rank 16, alpha 32, dropout 0.1 on the family's query and value projections.
    epochs : int
    batch : int
        Texts an update, of similar length.
    lr, weight_decay : float
        Of AdamW; the rate falls linearly to a tenth.
    max_length : int, optional
        Longest prompt and response in tokens; the model's context by default.
    seed : int
        Of adapters, dropout and order.
    progress : callable (updates done, updates), optional

    Yields
    ------
    peft model

    Raises
    ------
    EmptyData, SchemaMismatch, MissingExtra
    """
    from datumwise.probe.collate import context_length, encode_texts

    if len(prompts) != len(responses):
        raise SchemaMismatch(f"{len(prompts):,} prompts and {len(responses):,} responses differ in number")
    if not len(prompts):
        raise EmptyData("there is nothing to fine-tune on")
    pairs = list(zip(prompts, responses, strict=True))
    items = encode_texts(tokenizer, pairs, max_length or context_length(model, tokenizer))
    with adapters(model, config, seed=seed) as tuned:
        descend(
            tuned,
            len(items),
            lambda rows: -token_logprobs(tuned, tokenizer, [items[i] for i in rows])[0].sum(),
            lr=lr, weight_decay=weight_decay, epochs=epochs, effective=batch, per_pass=batch, seed=seed, progress=progress,
        )  # fmt: skip
        tuned.eval()
        yield tuned


@contextmanager
def adapters(model: Any, config: Any = None, *, seed: int = 0) -> Iterator[Any]:
    """The model with fresh low-rank adapters, of which alone the weights are trained; gone afterwards.

    Parameters
    ----------
    model : transformers model
        Loaded in 8 or 4 bit (QLoRA), it is taken as it is.
    config : peft.LoraConfig, optional
    seed : int
        Of the adapters' first weights, and of whatever draws from torch's state inside (dropout).
    """
    import torch

    try:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    except ImportError as error:
        raise MissingExtra("fine-tuning adapters needs peft", remedy="pip install 'datumwise[lm]'") from error
    config = config or LoraConfig(r=16, lora_alpha=32, lora_dropout=0.1, task_type="CAUSAL_LM")
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    training = model.training
    with torch.random.fork_rng(devices=[]):  # adapters and dropout draw from torch's own state
        torch.manual_seed(seed)
        base = prepare_model_for_kbit_training(model) if getattr(model, "is_quantized", False) else model
        with warnings.catch_warnings():  # transformers deprecates what peft asks it
            warnings.simplefilter("ignore", FutureWarning)
            adapted = get_peft_model(base, config)
        try:
            yield adapted
        finally:
            adapted.unload()
            if hasattr(model, "peft_config"):
                del model.peft_config  # else the next adapter warns of a second one
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)
            model.train(training)


def descend(
    model: Any,
    n: int,
    loss: Callable[[Sequence[int]], torch.Tensor],
    *,
    lr: float,
    weight_decay: float,
    epochs: int,
    effective: int,
    per_pass: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """AdamW on the mean loss of ``effective`` items at a time, at a rate that falls linearly to a tenth.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters that require gradients are trained; left in training mode.
    n : int
        Items.
    loss : callable (items) -> Tensor ()
        Sum over some items.
    weight_decay : float
        Of matrices; none on vectors (norms and biases).
    effective, per_pass : int
        Items an update, and in one forward.
    seed : int
        Of the order.

    Returns
    -------
    list of float
        Mean loss of each update.
    """
    import torch

    updates = epochs * math.ceil(n / effective)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr)
    rng = np.random.default_rng(seed)
    losses: list[float] = []
    model.train()
    for _ in range(epochs):
        order = rng.permutation(n)
        for start in range(0, n, effective):
            for group in optimiser.param_groups:
                group["lr"] = lr * (1 - (1 - LAST_RATE) * len(losses) / updates)
            chosen = order[start : start + effective].tolist()
            total = 0.0
            for at in range(0, len(chosen), per_pass):
                part = loss(chosen[at : at + per_pass]) / len(chosen)
                part.backward()
                total += float(part.detach())
            optimiser.step()
            optimiser.zero_grad()
            losses.append(total)
            if progress is not None:
                progress(len(losses), updates)
    return losses


def token_logprobs(model: Any, tokenizer: Any, texts: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every predicted token, with gradient, and the text it belongs to: (M,) and (M,)."""
    import torch

    from datumwise.probe.collate import IGNORED, pad_right, padding_id
    from datumwise.probe.language_model import device_of

    device = device_of(model)
    ids, mask = pad_right([text.input_ids for text in texts], padding_id(tokenizer))
    labels, _ = pad_right([text.labels for text in texts], IGNORED)
    labels[mask == 0] = IGNORED
    labels = labels[:, 1:].to(device)
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[:, :-1]
    rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
    log_p = torch.log_softmax(logits[rows, columns].float(), dim=-1)
    return log_p.gather(1, labels[rows, columns][:, None])[:, 0], rows
