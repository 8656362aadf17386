"""How likely is each option after its prompt, read as one text? Tokenised jointly, prompts that begin alike read once.

Source: the logit analysis of RESTOR (Rezaei et al., 2024). Unlike `datumwise.probe.score_choices`, which joins token ids,
prompt and option are one string here, and the tokenizer's offsets say where the option begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.probe.language_model import reading, token_budget
from datumwise.probe.score_choices import _answers_after
from datumwise.probe.shared_prefix import Prompts, common_start, read_prompts, tokenised_prompts

__all__ = ["option_logprobs", "prefix_groups", "score_options"]

SHARED = 0.5  # least share of a prompt's tokens that a group has in common, for it to be read once


def score_options(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    joiner: str = " ",
    normalise: str = "token",
    bos: bool | str = "auto",
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Mean log-probability of each option's tokens after its prompt.

    ``prompt + joiner + option`` is tokenised as one string. A token belongs to the option if it ends after the prompt's last
    character, so a token that holds the joiner, or the prompt's end and the option's beginning, counts. Prompts that share
    most of their beginning are read together: what they share once, the rest of a prompt once for all its options.

    Parameters
    ----------
    model : causal language model
    tokenizer : its fast tokenizer
    prompts : sequence of n str
        Without a space at their end.
    options : sequence of n sequences of m_i str
        m_i = 0 is allowed.
    joiner : str
    normalise : {"token", "sum"}
        Mean over the option's tokens, as published, or their sum: the two rank short and long options differently.
    bos : "auto", True or False
        As in `datumwise.probe.score_choices.score_choices`.
    tokens_per_batch : int, optional
    ids : sequence (n,), optional
        Names for error sentences; row numbers by default.
    progress : callable (prompts done, prompts), optional

    Returns
    -------
    list of n float64 arrays (m_i,)
        Nats, <= 0.

    Raises
    ------
    SchemaMismatch
        Prompts and options differ in number.
    EmptyData
        No prompt, an empty option, or one that adds no token.
    ModelMismatch
        The tokenizer gives no offsets; prompt and option do not fit the model's context; token ids it has not.
    NotFinite
        A log-probability is NaN or infinite.

    Notes
    -----
    A model with equal logits gives ``-log V`` for every option.
    """
    if normalise not in ("token", "sum"):
        raise UnknownName(f"normalise is {normalise!r}", remedy="it is token or sum")
    sums, counts = option_logprobs(
        model,
        tokenizer,
        prompts,
        options,
        joiner=joiner,
        bos=bos,
        tokens_per_batch=tokens_per_batch,
        ids=ids,
        progress=progress,
    )
    return sums if normalise == "sum" else [total / n for total, n in zip(sums, counts, strict=True)]


def option_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    joiner: str = " ",
    bos: bool | str = "auto",
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Summed log-probability of each option after its prompt, and its number of tokens; see `score_options`.

    Returns
    -------
    sums : list of n float64 arrays (m_i,)
        Nats, <= 0.
    n_tokens : list of n int64 arrays (m_i,)
    """
    if len(prompts) != len(options):
        raise SchemaMismatch(f"{len(prompts):,} prompts and {len(options):,} lists of options differ in number")
    names = list(ids) if ids is not None else list(range(len(prompts)))
    joint = _joint(model, tokenizer, prompts, options, joiner, bos, names)
    sums = [np.zeros(len(some)) for some in options]
    counts = [np.zeros(len(some), dtype=np.int64) for some in options]
    budget = tokens_per_batch or token_budget(model)
    done = 0
    with reading(model):
        for group in prefix_groups(joint.contexts.tokens):
            part = [joint.contexts.tokens[i] for i in group]
            named = [joint.contexts.names[i] for i in group]
            contexts = replace(joint.contexts, tokens=part, shared=common_start(part), names=named)
            for rows, logits, context in read_prompts(model, contexts, budget):
                answers = [joint.answers[group[r]] for r in rows]
                totals = _answers_after(model, answers, logits, context, budget, contexts.pad)
                for row, own, tokens in zip(rows, totals, answers, strict=True):
                    for (item, column), value, one in zip(joint.places[group[row]], own, tokens, strict=True):
                        sums[item][column] = value
                        counts[item][column] = len(one)
            done += len(group)
            if progress is not None:
                progress(done * len(prompts) // len(joint.contexts), len(prompts))
    bad = [names[i] for i, own in enumerate(sums) if not np.isfinite(own).all()]
    if bad:
        raise NotFinite(f"the log-probability of an option of {name_some(bad)} is NaN or infinite", ids=bad)
    return sums, counts


def prefix_groups(tokens: Sequence[np.ndarray], share: float = SHARED) -> list[list[int]]:
    """Rows that begin alike: neighbours in the order of their tokens that share at least this part of both.

    Parameters
    ----------
    tokens : sequence of n int arrays (T_i,)
    share : float
        0 puts all rows together, above 1 each by itself.

    Returns
    -------
    list of lists of int
        A partition of the rows; the largest groups need not come first.

    Examples
    --------
    >>> rows = [np.array([1, 2, 3, 4]), np.array([9, 9]), np.array([1, 2, 3, 5])]
    >>> prefix_groups(rows)
    [[0, 2], [1]]
    """
    order = sorted(range(len(tokens)), key=lambda i: tokens[i].tolist())
    groups: list[list[int]] = []
    shared = 0
    for row in order:
        if groups:
            first = tokens[groups[-1][0]]
            least = min(len(first), len(tokens[row]))
            differ = np.flatnonzero(first[:least] != tokens[row][:least])
            alike = min(int(differ[0]) if len(differ) else least, shared)
            if alike >= share * max(len(tokens[row]), len(first)):
                groups[-1].append(row)
                shared = alike
                continue
        groups.append([row])
        shared = len(tokens[row])
    return groups


@dataclass(frozen=True)
class _Joint:
    """Distinct contexts, the option tokens that follow each, and which (item, option) these are."""

    contexts: Prompts
    answers: list[list[np.ndarray]]
    places: list[list[tuple[int, int]]]


def _joint(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    joiner: str,
    bos: bool | str,
    names: list[Any],
) -> _Joint:
    """Every prompt with every option as tokens, cut at the first token that ends after the prompt."""
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        raise ModelMismatch("options need a tokenizer that gives offsets", remedy="pass its fast version")
    empty = [name for name, some in zip(names, options, strict=True) if isinstance(some, str) or not all(some)]
    if empty:
        raise EmptyData(f"{name_some(empty)} has an empty option, or no list of options", ids=empty)
    items = [(i, j) for i, some in enumerate(options) for j in range(len(some))]
    if not items:
        raise EmptyData("there is no prompt with an option")
    texts = [prompts[i] + joiner + options[i][j] for i, j in items]
    owners = [names[i] for i, _ in items]
    whole = tokenised_prompts(model, tokenizer, texts, bos=bos, ids=owners)
    offsets = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    rows_of: dict[bytes, int] = {}
    contexts: list[np.ndarray] = []
    answers: list[list[np.ndarray]] = []
    places: list[list[tuple[int, int]]] = []
    bare = []
    for (i, j), tokens, spans in zip(items, whole.tokens, offsets, strict=True):
        ends = np.array([end for _, end in spans], dtype=np.int64)
        at = len(tokens) - len(ends) + int((ends <= len(prompts[i])).sum())
        if not 0 < at < len(tokens):
            bare.append(names[i])
            continue
        key = tokens[:at].tobytes()
        if key not in rows_of:
            rows_of[key] = len(contexts)
            contexts.append(tokens[:at])
            answers.append([])
            places.append([])
        answers[rows_of[key]].append(tokens[at:])
        places[rows_of[key]].append((i, j))
    if bare:
        bare = list(dict.fromkeys(bare))
        raise EmptyData(
            f"an option of {name_some(bare)} has no token of its own, or none before it",
            remedy="pass bos=True where the prompt is empty, or leave these out",
            ids=bare,
        )
    own = [names[some[0][0]] for some in places]
    first = Prompts(contexts, common_start(contexts), np.zeros(len(contexts), dtype=bool), whole.pad, own)
    return _Joint(first, answers, places)
