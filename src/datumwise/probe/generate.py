"""What does a causal language model answer? The likeliest tokens, one by one, for many prompts at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import ModelMismatch, NotFinite, name_some
from datumwise.probe.language_model import device_of, reading, token_budget
from datumwise.probe.shared_prefix import Context, Prompts, read, read_prompts, tokenised_prompts

if TYPE_CHECKING:
    import torch

__all__ = ["continued", "generate"]

SHRINK = 0.75  # share of rows still writing below which the others are dropped from the batch


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: str | Sequence[str] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    bos: bool | str = "auto",
    prefix: str = "",
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """The model's answer to each prompt: greedy, or drawn.

    What all prompts have in common at the start is read once; an answer depends neither on the batch it was
    written in nor on the other prompts.

    Parameters
    ----------
    model : causal language model
    tokenizer : its tokenizer
    prompts : sequence of n str
    max_new_tokens : int, >= 1
        Longest answer.
    stop : str or sequence of str, optional
        An answer ends before the first of these; always at the model's end-of-text token.
    temperature : float
        0 (default) takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
    seed : int
        Of the draws, which depend on seed, row and position only.
    bos, prefix, max_length, tokens_per_batch, ids, progress
        As in `datumwise.probe.score_choices.score_choices`.

    Returns
    -------
    list of n str
        Without the prompt, without special tokens.

    Raises
    ------
    ModelMismatch
        Prompt and answer do not fit the context; ``max_new_tokens`` or ``temperature`` make no sense.
    NotFinite
        The model's logits are NaN.
    """
    if max_new_tokens < 1:
        raise ModelMismatch(f"max_new_tokens is {max_new_tokens}", remedy="it must be 1 or more")
    if not (np.isfinite(temperature) and temperature >= 0):
        raise ModelMismatch(f"temperature is {temperature}", remedy="it must be 0 or more")
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    if not all(stops):
        raise ModelMismatch("a stop string is empty", remedy="leave it out")
    encoded = tokenised_prompts(
        model, tokenizer, prompts, prefix=prefix, bos=bos, room=max_new_tokens, max_length=max_length, ids=ids
    )
    ends = _end_tokens(model, tokenizer)
    draws = None
    if temperature > 0:
        draws = np.stack([np.random.default_rng([seed, row]).random(max_new_tokens) for row in range(len(prompts))])

    def text_of(tokens: Sequence[int]) -> str:
        return tokenizer.decode(list(tokens), skip_special_tokens=True)

    def ended(tokens: list[int]) -> bool:
        return tokens[-1] in ends or (bool(stops) and any(one in text_of(tokens) for one in stops))

    answers = continued(
        model,
        encoded,
        max_new_tokens,
        ended=ended,
        temperature=temperature,
        draws=draws,
        tokens_per_batch=tokens_per_batch,
        progress=progress,
    )
    texts = [text_of(tokens) for tokens in answers]
    for one in stops:
        texts = [text.partition(one)[0] for text in texts]
    return texts


def continued(
    model: Any,
    prompts: Prompts,
    n_tokens: int,
    *,
    ended: Callable[[list[int]], bool] | None = None,
    temperature: float = 0.0,
    draws: np.ndarray | None = None,
    tokens_per_batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Token ids that the model writes after each prompt.

    Parameters
    ----------
    model : causal language model
    prompts : Prompts
    n_tokens : int
        Most tokens of an answer.
    ended : callable (tokens) -> bool, optional
        Whether an answer that ends in these is complete; never by default.
    temperature, draws
        Above 0, ``draws`` (n, n_tokens) in 0..1 choose the tokens.

    Returns
    -------
    list of n lists of int
    """
    answers: list[list[int]] = [[] for _ in range(len(prompts))]
    done = 0
    with reading(model):
        for rows, logits, context in read_prompts(model, prompts, tokens_per_batch or token_budget(model)):
            _write_on(model, context, logits, rows, answers, prompts, n_tokens, ended, temperature, draws)
            done += len(rows)
            if progress is not None:
                progress(done, len(prompts))
    return answers


def _write_on(
    model: Any,
    context: Context,
    logits: torch.Tensor,
    rows: list[int],
    answers: list[list[int]],
    prompts: Prompts,
    n_tokens: int,
    ended: Callable[[list[int]], bool] | None,
    temperature: float,
    draws: np.ndarray | None,
) -> None:
    """Write the answers of one batch; rows that have ended are dropped once they are many."""
    import torch

    device = device_of(model)
    writing = np.ones(len(rows), dtype=bool)
    for step in range(n_tokens):
        if bool(torch.isnan(logits).any()):
            bad = [prompts.names[rows[i]] for i in torch.isnan(logits).any(dim=1).nonzero()[:, 0].tolist()]
            raise NotFinite(f"the model's logits are NaN after {name_some(bad)}", ids=bad)
        chosen = _chosen(logits, None if draws is None else draws[rows, step], temperature)
        for i in np.flatnonzero(writing):
            own = answers[rows[i]]
            own.append(int(chosen[i]))
            writing[i] = ended is None or not ended(own)
        if not writing.any() or step == n_tokens - 1:
            return
        if writing.mean() < SHRINK:
            keep = np.flatnonzero(writing)
            context, rows, chosen = context.take(keep.tolist()), [rows[i] for i in keep], chosen[keep]
            writing = np.ones(len(rows), dtype=bool)
        input_ids = torch.as_tensor(chosen, dtype=torch.int64, device=device)[:, None]
        logits, context = read(model, context, input_ids, torch.ones_like(input_ids))


def _chosen(logits: torch.Tensor, u: np.ndarray | None, temperature: float) -> np.ndarray:
    """Next token ids (B,): the likeliest, or where the cumulative probability passes ``u`` (B,)."""
    import torch

    if u is None:
        return logits.float().argmax(dim=1).cpu().numpy()
    cumulative = torch.softmax(logits.double() / temperature, dim=1).cumsum(dim=1)
    at = torch.as_tensor(u, device=logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp_max(logits.shape[1] - 1).cpu().numpy()


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """End-of-text tokens, by the tokenizer and by the model's own configuration."""
    found: set[int] = set()
    for owner in (tokenizer, getattr(model, "config", None), getattr(model, "generation_config", None)):
        ends = getattr(owner, "eos_token_id", None)
        found |= set(ends) if isinstance(ends, (list, tuple)) else {ends} if isinstance(ends, int) else set()
    return found
