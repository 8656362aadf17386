"""Which of two texts is better, asked of a chat model in both orders; a strength a text from all the answers.

Wettig et al., 2024, *QuRating: Selecting High-Quality Data for Training Language Models*, sections 2 and 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData
from datumwise.probe.chat import as_chat
from datumwise.score.bradley_terry import bradley_terry
from datumwise.score.scores import Scores

__all__ = ["CRITERIA", "qurating"]

CRITERIA = {  # Wettig et al., 2024, section 3.1
    "writing_style": "has a more polished and beautiful writing style",
    "facts_and_trivia": "contains more facts and trivia; prefer specific facts and obscure trivia over more common knowledge",
    "educational_value": "has more educational value, e.g. it includes clear explanations, step-by-step reasoning, or "
    "questions and answers",
    "required_expertise": "requires greater expertise and prerequisite knowledge to understand it",
}
TEMPLATE = """Compare two text excerpts and choose the text which {criterion}.
Aspects that should NOT influence your judgement: which language the text is written in, the length of the text, the \
order in which the texts are presented.
The texts are similar in length. If you are unsure, choose the text that is better on balance.

Option A:
{a}

Option B:
{b}

Now you have to choose between either A or B. Respond only with a single word."""

_CHOICE = re.compile(r"\b(?:option\s+)?([AB])\b")


def qurating(
    judge: Any,
    texts: Sequence[str],
    criterion: str = "educational_value",
    *,
    n_pairs: int | None = None,
    template: str = TEMPLATE,
    ridge: float = 1e-3,
    batch_size: int = 64,
    ids: Sequence[Any] | None = None,
    random_state: int | np.random.Generator | None = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Strength of n texts by a criterion, from a judge's choices between pairs.

    Every pair is asked in both orders, so that a judge who prefers the first text says nothing about either.

    Parameters
    ----------
    judge : callable, or (model, tokenizer)
        See `datumwise.probe.chat.as_chat`.
    texts : sequence of n str, n >= 2
    criterion : str
        Of `CRITERIA`, or a sentence that completes "choose the text which ...".
    n_pairs : int, optional
        Pairs asked; default 5 n, at most all. Every text takes part in some.
    template : str
        With ``{criterion}``, ``{a}`` and ``{b}``.
    ridge : float
        Penalty that keeps texts that always win or lose finite, see `bradley_terry`.
    batch_size : int
        Messages a call of the judge.
    ids : sequence (n,), optional
    random_state : int, Generator or None
        Of the pairs.
    progress : callable (done, total), optional

    Returns
    -------
    Scores
        ``qurating`` and ``qurating_stderr`` float (n,), in logits; ``qurating_unread``, answers about the text that
        chose neither. Draw a subset with `datumwise.select.WeightedSampling`.

    Raises
    ------
    EmptyData, DatumwiseError
        Fewer than two texts; no answer could be read.

    Examples
    --------
    >>> def longer(messages):
    ...     pairs = [m.split("Option A:")[1].split("Now you")[0].split("Option B:") for m in messages]
    ...     return ["A" if len(a.strip()) > len(b.strip()) else "B" for a, b in pairs]
    >>> found = qurating(longer, ["a", "abc", "ab", "abcd"], n_pairs=6)
    >>> found["qurating"].argsort().tolist()
    [0, 2, 1, 3]
    """
    n = len(texts)
    if n < 2:
        raise EmptyData(f"{n} text has nothing to be compared with", remedy="give two or more")
    ask = as_chat(judge, max_new_tokens=8)
    pairs = _pairs(n, n_pairs, np.random.default_rng(random_state))
    said = CRITERIA.get(criterion, criterion)
    asked = np.vstack([pairs, pairs[:, ::-1]])
    first_won = np.full(len(asked), np.nan)
    for start in range(0, len(asked), batch_size):
        some = asked[start : start + batch_size]
        answers = ask([template.format(criterion=said, a=texts[a], b=texts[b]) for a, b in some.tolist()])
        first_won[start : start + len(some)] = [_chose_first(answer) for answer in answers]
        if progress is not None:
            progress(start + len(some), len(asked))
    read = ~np.isnan(first_won)
    if not read.any():
        raise DatumwiseError("the judge chose neither A nor B in any answer", remedy="it must answer with one of the letters")
    unread = np.bincount(asked[~read].ravel(), minlength=n)
    won = first_won[read] == 1
    first, second = asked[read].T
    found = bradley_terry(np.where(won, first, second), np.where(won, second, first), n, ridge=ridge)
    return Scores(
        np.arange(n) if ids is None else ids,
        {"qurating": found.scores, "qurating_stderr": found.stderr, "qurating_unread": unread.astype(np.float64)},
        higher={"qurating": f"{criterion.replace('_', ' ')}, says the judge"},
    )


def _pairs(n: int, n_pairs: int | None, rng: np.random.Generator) -> np.ndarray:
    """Different pairs (m, 2): a ring through all texts, so that they can all be compared, then others at random."""
    order = rng.permutation(n)
    ring = np.sort(np.column_stack([order, np.roll(order, -1)])[: n if n > 2 else 1], axis=1)
    wanted = min(5 * n if n_pairs is None else max(n_pairs, len(ring)), n * (n - 1) // 2)
    codes = np.unique(ring[:, 0] * n + ring[:, 1])
    while len(codes) < wanted:
        a, b = rng.integers(0, n, (2, 2 * (wanted - len(codes)) + 8))
        low, high = np.minimum(a, b)[a != b], np.maximum(a, b)[a != b]
        fresh = np.setdiff1d(low * n + high, codes)
        codes = np.concatenate([codes, rng.permutation(fresh)[: wanted - len(codes)]])
    pairs = np.column_stack([codes // n, codes % n])
    flip = rng.random(len(pairs)) < 0.5
    return np.where(flip[:, None], pairs[:, ::-1], pairs)


def _chose_first(answer: str) -> float:
    """1 for A, 0 for B, NaN for neither."""
    found = _CHOICE.search(answer.strip().upper().replace("OPTION", "option"))
    return float("nan") if found is None else float(found.group(1) == "A")
