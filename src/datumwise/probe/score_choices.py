"""How likely is each answer to its prompt? Log-probabilities of choices, the prompt read once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.probe.collate import pad_right
from datumwise.probe.language_model import check_vocabulary, reading, token_budget
from datumwise.probe.shared_prefix import Context, read, read_prompts, tokenised_prompts

if TYPE_CHECKING:
    import torch

__all__ = ["NORMALISATIONS", "next_token_logprobs", "score_choices", "single_tokens"]

NORMALISATIONS = ("sum", "token", "char")


def score_choices(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    normalise: str = "sum",
    bos: bool | str = "auto",
    prefix: str = "",
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Log-probability of each choice after its prompt.

    Prompt and choices are tokenised apart and joined as token ids. A prompt is read once for all its
    choices; what all prompts have in common at the start, such as a ``prefix`` of k examples, once for all.

    Parameters
    ----------
    model : causal language model
    tokenizer : its tokenizer
    prompts : sequence of n str
    choices : sequence of n sequences of m_i str
        Answers as they are to follow the prompt, with their leading space if they need one.
    normalise : {"sum", "token", "char"}
        Sum over the answer's tokens; the same over the number of its tokens, or of its characters.
    bos : "auto", True or False
        A beginning-of-text token in front: as the tokenizer does by default, always, never.
    prefix : str
        In front of every prompt; tokenised with it.
    max_length : int, optional
        Longest prompt and choice in tokens; longer prompts lose their beginning. By default what does not
        fit the model's context is refused.
    tokens_per_batch : int, optional
        Padded tokens of a batch.
    ids : sequence (n,), optional
        Names for error sentences; row numbers by default.
    progress : callable (done, total), optional
        In prompts.

    Returns
    -------
    list of n float64 arrays (m_i,)
        Nats, <= 0.

    Raises
    ------
    SchemaMismatch
        Prompts and choices differ in number.
    EmptyData
        A prompt without choices or without a token, a choice without a token.
    ModelMismatch
        What does not fit the context, or token ids that the model has not.
    NotFinite
        A log-probability is NaN or infinite; names the rows.

    References
    ----------
    Hase et al., 2024, "The Unreasonable Effectiveness of Easy Training Data for Hard Tasks" (their positions
    count the padding; ours follow the mask).
    """
    if normalise not in NORMALISATIONS:
        raise UnknownName(f"normalise is {normalise!r}", remedy=f"it is one of {', '.join(NORMALISATIONS)}")
    if len(prompts) != len(choices):
        raise SchemaMismatch(f"{len(prompts):,} prompts and {len(choices):,} lists of choices differ in number")
    names = list(ids) if ids is not None else list(range(len(prompts)))
    answers = _tokenised_choices(tokenizer, choices, names)
    room = [max(len(one) for one in some) for some in answers]
    read_first = tokenised_prompts(
        model, tokenizer, prompts, prefix=prefix, bos=bos, room=room, max_length=max_length, ids=names
    )
    check_vocabulary(model, [np.concatenate(some) for some in answers], names)
    budget = tokens_per_batch or token_budget(model)
    found: list[np.ndarray] = [np.zeros(0)] * len(prompts)
    done = 0
    with reading(model):
        for rows, logits, context in read_prompts(model, read_first, budget):
            sums = _answers_after(model, [answers[r] for r in rows], logits, context, budget, read_first.pad)
            for row, own in zip(rows, sums, strict=True):
                found[row] = own
            done += len(rows)
            if progress is not None:
                progress(done, len(prompts))
    bad = [names[i] for i, own in enumerate(found) if not np.isfinite(own).all()]
    if bad:
        raise NotFinite(f"the log-probability of a choice of {name_some(bad)} is NaN or infinite", ids=bad)
    if normalise == "token":
        return [own / [len(one) for one in some] for own, some in zip(found, answers, strict=True)]
    if normalise == "char":
        return [own / [len(one) for one in some] for own, some in zip(found, choices, strict=True)]
    return found


def _tokenised_choices(tokenizer: Any, choices: Sequence[Sequence[str]], names: list[Any]) -> list[list[np.ndarray]]:
    """Token ids of every choice, each text once through the tokenizer."""
    if tokenizer is None:
        raise ModelMismatch("choices need a tokenizer", remedy="pass tokenizer=")
    if not len(choices):
        raise EmptyData("there is no prompt")
    single = [name for name, some in zip(names, choices, strict=True) if isinstance(some, str) or not len(some)]
    if single:
        raise EmptyData(f"{name_some(single)} has no list of choices", remedy="give each prompt one or more", ids=single)
    texts = list(dict.fromkeys(choice for some in choices for choice in some))
    ids = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False, verbose=False)["input_ids"]
    tokens = {text: np.asarray(one, dtype=np.int64) for text, one in zip(texts, ids, strict=True)}
    empty = [name for name, some in zip(names, choices, strict=True) if any(not len(tokens[choice]) for choice in some)]
    if empty:
        raise EmptyData(f"{name_some(empty)} has an empty choice", remedy="leave it out", ids=empty)
    return [[tokens[choice] for choice in some] for some in choices]


def _answers_after(
    model: Any, answers: list[list[np.ndarray]], logits: torch.Tensor, context: Context, budget: int, pad: int
) -> list[np.ndarray]:
    """Summed log-probabilities of the answers of a batch's prompts: first tokens from ``logits``, the rest read on."""
    import torch

    device = logits.device
    counts = [len(some) for some in answers]
    flat = [one for some in answers for one in some]
    prompt_of = np.repeat(np.arange(len(answers)), counts)
    firsts = torch.tensor([int(one[0]) for one in flat], device=device)
    first = torch.log_softmax(logits.float(), dim=-1)[torch.from_numpy(prompt_of).to(device), firsts]
    total = first.double().cpu().numpy()
    longer = np.array([k for k, one in enumerate(flat) if len(one) > 1], dtype=np.int64)
    order = longer[np.argsort([-len(flat[k]) for k in longer], kind="stable")]
    at = 0
    while at < len(order):
        width = len(flat[order[at]]) - 1
        size = context.rows_that_fit(width, max(1, budget // width))
        chosen = order[at : at + size]
        input_ids, mask = pad_right([flat[k][:-1] for k in chosen], pad)
        targets, _ = pad_right([flat[k][1:] for k in chosen], pad)
        input_ids, mask, targets = input_ids.to(device), mask.to(device), targets.to(device)
        rows, columns = mask.nonzero(as_tuple=True)
        rest, _ = read(model, context.take(prompt_of[chosen].tolist()), input_ids, mask, rows, columns)
        log_p = torch.log_softmax(rest.float(), dim=-1).gather(1, targets[rows, columns][:, None])[:, 0]
        sums = torch.zeros(len(chosen), dtype=torch.float64, device=device).index_add_(0, rows, log_p.double())
        total[chosen] += sums.cpu().numpy()
        at += size
    return np.split(total, np.cumsum(counts)[:-1])


def next_token_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    tokens: Sequence[str],
    *,
    bos: bool | str = "auto",
    prefix: str = "",
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Log-probability of each of k single tokens right after each prompt.

    Parameters
    ----------
    model, tokenizer, prompts, bos, prefix, max_length, tokens_per_batch, ids, progress
        As in `score_choices`.
    tokens : sequence of k str
        Each exactly one token of the tokenizer.

    Returns
    -------
    float64 (n, k)
        Nats; of the whole vocabulary, so a row's probabilities sum to less than 1.

    Raises
    ------
    ModelMismatch
        A string is not one token, two strings are the same token.
    """
    import torch

    wanted = single_tokens(tokenizer, tokens)
    encoded = tokenised_prompts(model, tokenizer, prompts, prefix=prefix, bos=bos, max_length=max_length, ids=ids)
    found = np.zeros((len(prompts), len(wanted)))
    done = 0
    with reading(model):
        for rows, logits, _ in read_prompts(model, encoded, tokens_per_batch or token_budget(model)):
            log_p = torch.log_softmax(logits.float(), dim=-1)[:, torch.as_tensor(wanted, device=logits.device)]
            found[rows] = log_p.double().cpu().numpy()
            done += len(rows)
            if progress is not None:
                progress(done, len(prompts))
    bad = [encoded.names[i] for i in np.flatnonzero(~np.isfinite(found).all(axis=1))]
    if bad:
        raise NotFinite(f"the log-probability of a token after {name_some(bad)} is NaN or infinite", ids=bad)
    return found


def single_tokens(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """The token id of each string.

    A string is one token if the tokenizer makes one of it, or if its vocabulary holds it as it stands (a
    SentencePiece tokenizer puts a space mark in front of a lone "1").

    Raises
    ------
    ModelMismatch
        A string is not one token, or two are the same one.
    """
    if tokenizer is None:
        raise ModelMismatch("tokens need a tokenizer", remedy="pass tokenizer=")
    if not len(tokens):
        raise EmptyData("there is no token to look for")
    unknown = getattr(tokenizer, "unk_token_id", None)
    vocabulary = tokenizer.get_vocab()
    found = []
    for text in tokens:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) != 1 or ids[0] == unknown:
            if text not in vocabulary or vocabulary[text] == unknown:
                what = "no token" if not ids or unknown in ids else f"{len(ids)} tokens"
                raise ModelMismatch(f"{text!r} is {what} of this tokenizer, not one", remedy="give single tokens")
            ids = [vocabulary[text]]
        found.append(int(ids[0]))
    if len(set(found)) < len(found):
        twice = [text for text, one in zip(tokens, found, strict=True) if found.count(one) > 1]
        raise ModelMismatch(f"{', '.join(map(repr, twice))} are the same token of this tokenizer")
    return found
