"""Does a model know a text by heart? What it writes, greedily, after the text's first tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import ModelMismatch
from datumwise.probe.generate import continued
from datumwise.probe.language_model import RECITED_AFTER, RECITED_TOKENS
from datumwise.probe.shared_prefix import Prompts, common_start

__all__ = ["recitation"]


def recitation(
    model: Any,
    tokens: Sequence[np.ndarray],
    *,
    after: int = RECITED_AFTER,
    n_tokens: int = RECITED_TOKENS,
    pad: int = 0,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Share of the next tokens that the model reproduces when it writes on from the first ones.

    The model writes freely: after a deviation it goes on from its own token, as the published measure has it,
    so a token counts where both happen to agree again. Reading the text instead (teacher forcing) gives the
    same up to the first deviation, and no more.

    Parameters
    ----------
    model : causal language model
    tokens : sequence of n int64 arrays
        Token ids of the texts.
    after : int
        M: how many tokens the model is given.
    n_tokens : int
        N: how many it is to reproduce; fewer where a text is shorter than M + N.
    pad : int
    tokens_per_batch, ids, progress
        As in `datumwise.probe.language_model.language_model_signals`.

    Returns
    -------
    float64 (n,)
        0 to 1; NaN for texts of M tokens or fewer.

    References
    ----------
    Biderman et al., 2023, "Emergent and Predictable Memorization in Large Language Models", eq. 1.
    """
    if after < 1 or n_tokens < 1:
        raise ModelMismatch(f"after is {after} and n_tokens is {n_tokens}", remedy="both must be 1 or more")
    found = np.full(len(tokens), np.nan)
    rows = [row for row, one in enumerate(tokens) if len(one) > after]
    if not rows:
        return found
    names = list(ids) if ids is not None else list(range(len(tokens)))
    starts = [np.asarray(tokens[row][:after], dtype=np.int64) for row in rows]
    prompts = Prompts(starts, common_start(starts), np.zeros(len(rows), dtype=bool), pad, [names[row] for row in rows])
    answers = continued(model, prompts, n_tokens, tokens_per_batch=tokens_per_batch, progress=progress)
    for row, answer in zip(rows, answers, strict=True):
        true = tokens[row][after : after + n_tokens]
        found[row] = float(np.mean(np.array(answer[: len(true)]) == true))
    return found
