"""What does a language model answer to a yes-or-no question about a datapoint? P(yes) against P(no).

Zhong et al., 2022, *Towards a Unified Multi-Dimensional Evaluator* (UniEval), section 3; Zhang et al., 2024,
*Autonomous Data Selection with Language Models for Mathematical Texts* (AutoMathText), eq. 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from datumwise.errors import SchemaMismatch
from datumwise.score.declare import score
from datumwise.score.scores import Scores

__all__ = [
    "automathtext",
    "probability_of_yes",
    "unieval_coherence",
    "unieval_naturalness",
    "unieval_understandability",
    "yes_no",
]

UNIEVAL = "Zhong et al., 2022, eq. 1, with a causal model"
AUTOMATHTEXT = "Zhang et al., 2024, eq. 1 and 2"


def probability_of_yes(logprobs: np.ndarray) -> np.ndarray:
    """P(yes) / (P(yes) + P(no)) of q questions.

    Parameters
    ----------
    logprobs : float (n, 2 q)
        Logits or log-probabilities: yes and no of the first question, of the second ...

    Returns
    -------
    float64 (n, q)
        0 to 1.

    Examples
    --------
    >>> probability_of_yes(np.log([[0.3, 0.1]])).round(6).tolist()
    [[0.75]]
    """
    values = np.asarray(logprobs, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] % 2 or not values.shape[1]:
        raise SchemaMismatch(f"the log-probabilities of yes and no have shape {values.shape}, not (n, 2 q)")
    return 1 / (1 + np.exp(np.clip(values[:, 1::2] - values[:, 0::2], -700, 700)))


@score(needs=("unieval_logprobs",), higher="a more natural response", source=UNIEVAL)
def unieval_naturalness(unieval_logprobs: np.ndarray) -> np.ndarray:
    """Is it a natural response in the dialogue, says the model? Probability of yes.

    Parameters
    ----------
    unieval_logprobs : float (n, 6)

    Returns
    -------
    float64 (n,)
        0 to 1.
    """
    return probability_of_yes(unieval_logprobs)[:, 0]


@score(needs=("unieval_logprobs",), higher="a more coherent response", source=UNIEVAL)
def unieval_coherence(unieval_logprobs: np.ndarray) -> np.ndarray:
    """Is it a coherent response to what was said before, says the model? Probability of yes.

    Parameters
    ----------
    unieval_logprobs : float (n, 6)

    Returns
    -------
    float64 (n,)
        0 to 1.
    """
    return probability_of_yes(unieval_logprobs)[:, 1]


@score(needs=("unieval_logprobs",), higher="a more understandable response", source=UNIEVAL)
def unieval_understandability(unieval_logprobs: np.ndarray) -> np.ndarray:
    """Is it an understandable response, says the model? Probability of yes.

    Parameters
    ----------
    unieval_logprobs : float (n, 6)

    Returns
    -------
    float64 (n,)
        0 to 1.
    """
    return probability_of_yes(unieval_logprobs)[:, 2]


@score(needs=("automathtext_logprobs",), higher="better mathematical text", source=AUTOMATHTEXT)
def automathtext(automathtext_logprobs: np.ndarray) -> np.ndarray:
    """Is it intelligent mathematics, and fit for teaching it, says the model? Product of both probabilities of yes.

    Parameters
    ----------
    automathtext_logprobs : float (n, 4)

    Returns
    -------
    float64 (n,)
        0 to 1.
    """
    return probability_of_yes(automathtext_logprobs).prod(axis=1)


def yes_no(
    model: Any,
    tokenizer: Any,
    questions: Mapping[str, str],
    *,
    answers: tuple[str, str] = ("Yes", "No"),
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **fields: Any,
) -> Scores:
    """Probability of yes of one's own questions about n datapoints.

    Parameters
    ----------
    model, tokenizer
    questions : mapping of name to template
        ``{field}`` stands for a datapoint's text; `datumwise.probe.questions` holds UniEval's and AutoMathText's.
    answers : (str, str)
        Words for yes and no; of one token or several.
    max_length, tokens_per_batch, ids, progress
        As in `datumwise.score.deita.deita_scores`.
    **fields : sequence of n str

    Returns
    -------
    Scores
        A column a question, 0 to 1; ``product`` of them where they are several; ``truncated``.
    """
    from datumwise.probe.questions import ask_words

    if not questions:
        raise SchemaMismatch("there is no question", remedy="give questions={name: template}")
    how: dict[str, Any] = {"max_length": max_length, "tokens_per_batch": tokens_per_batch, "ids": ids, "progress": progress}
    found = {name: ask_words(model, tokenizer, one, answers, **how, **fields) for name, one in questions.items()}
    values = {name: probability_of_yes(one.logprobs)[:, 0] for name, one in found.items()}
    if len(values) > 1:
        values["product"] = np.prod(list(values.values()), axis=0)
    truncated = np.any([one.truncated for one in found.values()], axis=0)
    n = len(truncated)
    return Scores(range(n) if ids is None else ids, {**values, "truncated": truncated}, higher=dict.fromkeys(values, "yes"))
