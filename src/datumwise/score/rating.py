"""How good is a response, asked of a chat model? A number on a scale, read from its answer.

Chen et al., 2024, *AlpaGasus: Training a Better Alpaca with Fewer Data*, section 2.2 and appendix A.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.probe.chat import as_chat
from datumwise.score.scores import Scores

__all__ = ["ALPAGASUS", "first_number", "rate"]

ALPAGASUS = """We would like to request your feedback on the performance of AI assistant in response to the instruction \
and the given input displayed following.

Instruction: {prompt}

Response: {response}

Please rate according to the {dimension} of the response to the instruction and the input. Each assistant receives a \
score on a scale of {low:g} to {high:g}, where a higher score indicates higher level of the {dimension}. Please first \
output a single line containing value indicating the scores. In the subsequent line, please provide a comprehensive \
explanation of your evaluation, avoiding any potential bias."""

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w])")


def rate(
    judge: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    dimension: str = "accuracy",
    scale: tuple[float, float] = (0.0, 5.0),
    template: str = ALPAGASUS,
    name: str = "rating",
    batch_size: int = 64,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Ratings of n responses by a chat model; AlpaGasus keeps those of at least 4.5.

    Parameters
    ----------
    judge : callable, or (model, tokenizer)
        See `datumwise.probe.chat.as_chat`.
    prompts, responses : sequences of n str
    dimension : str
        What is rated: accuracy, helpfulness ...
    scale : (low, high)
        Numbers outside of it are not ratings.
    template : str
        With ``{prompt}`` and ``{response}``, and as needed ``{dimension}``, ``{low}``, ``{high}``.
    name : str
        Of the score.
    batch_size : int
        Messages a call of the judge.
    ids : sequence (n,), optional
    progress : callable (done, total), optional

    Returns
    -------
    Scores
        ``name`` float (n,), NaN where the answer holds no number on the scale, and ``{name}_unread`` 0 or 1 (n,).

    Raises
    ------
    EmptyData, SchemaMismatch
        No pair; prompts and responses differ in number; the judge's answers do.

    Examples
    --------
    >>> strict = lambda messages: ["4.5\\nsound" if "Paris" in m else "no idea" for m in messages]
    >>> found = rate(strict, ["Capital of France?"] * 2, ["Paris", "Lyon"])
    >>> found["rating"].tolist(), found["rating_unread"].tolist()
    ([4.5, nan], [0.0, 1.0])
    """
    if len(prompts) != len(responses):
        raise SchemaMismatch(f"{len(prompts):,} prompts and {len(responses):,} responses differ in number")
    if not len(prompts):
        raise EmptyData("there is no response to rate")
    if not scale[0] < scale[1]:
        raise DatumwiseError(f"a scale from {scale[0]:g} to {scale[1]:g} has no room", remedy="give (low, high)")
    ask = as_chat(judge)
    ratings = np.full(len(prompts), np.nan)
    for start in range(0, len(prompts), batch_size):
        pairs = list(zip(prompts[start : start + batch_size], responses[start : start + batch_size], strict=True))
        messages = [template.format(prompt=p, response=r, dimension=dimension, low=scale[0], high=scale[1]) for p, r in pairs]
        ratings[start : start + len(pairs)] = [first_number(answer, *scale) for answer in ask(messages)]
        if progress is not None:
            progress(start + len(pairs), len(prompts))
    return Scores(
        np.arange(len(prompts)) if ids is None else ids,
        {name: ratings, f"{name}_unread": np.isnan(ratings).astype(np.float64)},
        higher={name: f"better {dimension}, says the judge", f"{name}_unread": "the answer held no rating"},
    )


def first_number(answer: str, low: float, high: float) -> float:
    """The first number of an answer that lies on the scale; NaN without one.

    "4/5" and "4 out of 5" are 4; digits inside of words are no numbers.

    Examples
    --------
    >>> first_number("Score: 4/5", 0, 5), first_number("GPT4 says 9, I say 3.5", 0, 5), first_number("good", 0, 5)
    (4.0, 3.5, nan)
    """
    found = (float(match) for match in _NUMBER.findall(answer))
    return next((number for number in found if low <= number <= high), float("nan"))
