"""Which texts has a model seen? Every common membership score of a text, each high where the text looks unseen.

Shi et al., 2024 (MUSE's list and orientation); Carlini et al., 2021, section 5.2 (zlib, lower case, reference model); Zhang et
al., 2025 (Min-K%++); Wang et al., 2024 (gradient norm).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.evaluate.muse_data import Text
from datumwise.evaluate.paired import DRAWS, auc_interval
from datumwise.evaluate.privleak import min_k_score
from datumwise.evaluate.removal import Interval
from datumwise.score.min_k import min_k_plus_plus

__all__ = ["MEMBERSHIP", "membership_auc", "membership_scores"]

SHARES = (5, 10, 20, 30, 40, 50, 60)  # per cent of a text's tokens
PLUS_PLUS = 20  # per cent: as published
MEMBERSHIP = (
    "PPL",
    "PPL/lower",
    "PPL/zlib",
    "PPL/ref",
    *(f"Min-{share}%" for share in SHARES),
    f"Min-{PLUS_PLUS}%++",
    "GradNorm",
)
COSTLY = ("GradNorm",)  # needs a backward for every text: only where it is asked for


def membership_scores(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Text],
    *,
    reference: Any = None,
    names: Iterable[str] | None = None,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Membership scores of n texts, from one forward each (and one of the lower-cased text).

    Parameters
    ----------
    model : causal language model
    tokenizer : its tokenizer
    texts : sequence of n str or (prompt, response)
        Of a pair the response is scored.
    reference : causal language model, optional
        Of the same vocabulary, that saw neither kind of text: gives ``PPL/ref``.
    names : iterable of str, optional
        Of `MEMBERSHIP`; all but ``GradNorm`` by default (and ``PPL/ref`` with a reference only).
    max_length, tokens_per_batch, ids
        As in `datumwise.probe.language_model.language_model_signals`.
    progress : callable (texts read, all), optional
        A text that is read twice counts twice.

    Returns
    -------
    dict of str to float64 (n,)
        Higher looks more unseen; NaN for a text without a predicted token. ``PPL``: mean negative log-likelihood, nats a token
        (not its exponential, whatever the name says); ``PPL/lower``, ``PPL/ref``: over that of the lower-cased text, over that
        of the reference model; ``PPL/zlib``: over the bytes of the compressed text; ``Min-K%``: minus the mean log-probability
        of the least likely K % of the tokens, one at least; ``Min-20%++``: the same of standardised log-probabilities;
        ``GradNorm``: Euclidean norm of the gradient of the mean negative log-likelihood by all parameters.

    Raises
    ------
    UnknownName
        There is no such score.
    ModelMismatch
        ``PPL/ref`` is asked for without a reference, or its vocabulary is another one.
    EmptyData, NotFinite
    """
    from datumwise.probe.language_model import language_model_signals

    asked = _named(names, reference)
    if not len(texts):
        raise EmptyData("there is no text to score")
    if reference is not None and _size(reference) != _size(model):
        raise ModelMismatch(
            f"the reference has a vocabulary of {_size(reference):,} and the model one of {_size(model):,}",
            remedy="compare models that share a tokenizer",
        )
    lowered = "PPL/lower" in asked
    n, passes = len(texts), 1 + lowered + ("PPL/ref" in asked) + ("GradNorm" in asked)
    done = 0

    def part() -> Callable[[int, int], None] | None:
        nonlocal done
        before, done = done, done + n
        return None if progress is None else lambda at, _: progress(before + at, passes * n)

    how: dict[str, Any] = {"tokenizer": tokenizer, "max_length": max_length, "tokens_per_batch": tokens_per_batch, "ids": ids}
    want = {"mean_nll"} | ({"token_z"} if f"Min-{PLUS_PLUS}%++" in asked else set())
    want |= {"token_logprobs"} if any(name.startswith("Min-") and name.endswith("%") for name in asked) else set()
    read = language_model_signals(model, texts, want, **how, progress=part())
    loss = read["mean_nll"]
    found: dict[str, np.ndarray] = {}
    for name in asked:
        if name == "PPL":
            found[name] = loss
        elif name == "PPL/lower":
            lower: list[Text] = [t.lower() if isinstance(t, str) else (t[0].lower(), t[1].lower()) for t in texts]
            found[name] = _over(loss, language_model_signals(model, lower, ("mean_nll",), **how, progress=part())["mean_nll"])
        elif name == "PPL/zlib":
            sizes = [len(zlib.compress((t if isinstance(t, str) else t[1]).encode())) for t in texts]
            found[name] = loss / np.array(sizes, dtype=np.float64)
        elif name == "PPL/ref":
            other = language_model_signals(reference, texts, ("mean_nll",), **how, progress=part())
            found[name] = _over(loss, other["mean_nll"])
        elif name == "GradNorm":
            found[name] = _gradient_norms(model, tokenizer, texts, max_length, tokens_per_batch, part())
        elif name.endswith("++"):
            found[name] = -min_k_plus_plus(read["token_z"], share=PLUS_PLUS / 100)
        else:
            found[name] = min_k_score(read["token_logprobs"], int(name[4:-1]) / 100)
    return found


def membership_auc(
    forget: Mapping[str, Any], holdout: Mapping[str, Any], *, n_draws: int = DRAWS, random_state: int = 0
) -> dict[str, Interval]:
    """How well each score tells texts to forget from texts that no model has seen.

    Parameters
    ----------
    forget, holdout : mapping of str to float (m,), (n,)
        `membership_scores` of both; NaN does not count.
    n_draws, random_state : int

    Returns
    -------
    dict of str to Interval
        P(a forget text scores higher), with its 95 % interval: 0 where all forget texts are recognised, 0.5 where none is. The
        area under the curve with members as the positive class is 1 minus this.

    Raises
    ------
    SchemaMismatch
        The two share no score.
    EmptyData
        A score is NaN throughout.

    Examples
    --------
    >>> membership_auc({"PPL": [1.0, 2.0]}, {"PPL": [3.0, 2.0]})["PPL"].value
    0.125
    """
    shared = [name for name in forget if name in holdout]
    if not shared:
        raise SchemaMismatch("forget and holdout texts share no score", remedy="ask for the same names of both")
    found = {}
    for name in shared:
        pair = [np.asarray(side[name], dtype=np.float64) for side in (forget, holdout)]
        kept = [scores[~np.isnan(scores)] for scores in pair]
        found[name] = auc_interval(kept[0], kept[1], n_draws=n_draws, random_state=random_state)
    return found


def _named(names: Iterable[str] | None, reference: Any) -> list[str]:
    if names is None:
        return [name for name in MEMBERSHIP if name not in COSTLY and (name != "PPL/ref" or reference is not None)]
    asked = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in asked:
        if name not in MEMBERSHIP:
            raise UnknownName(f"there is no membership score {name!r}", remedy=f"scores are {', '.join(MEMBERSHIP)}")
    if "PPL/ref" in asked and reference is None:
        raise ModelMismatch("PPL/ref compares with a reference model and none is given", remedy="pass reference=")
    return asked


def _size(model: Any) -> int:
    return int(getattr(getattr(model, "config", None), "vocab_size", 0) or 0)


def _over(loss: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.divide(loss, other, out=np.full(len(loss), np.nan), where=other > 0)


def _gradient_norms(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Text],
    max_length: int | None,
    tokens_per_batch: int | None,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Norm of each text's gradient of its mean loss, all parameters, a backward a batch."""
    import torch

    from datumwise.probe.collate import IGNORED, pad_right, padding_id
    from datumwise.probe.language_model import device_of, encoded_texts, length_batches, token_budget
    from datumwise.probe.signals import signals

    encoded = encoded_texts(model, texts, tokenizer, max_length)
    counts = np.array([np.count_nonzero(one.labels[1:] != IGNORED) for one in encoded])
    device, norms, done = device_of(model), np.full(len(texts), np.nan), 0
    lengths = np.where(counts > 0, [len(one.input_ids) for one in encoded], 0)
    for rows in length_batches(lengths.tolist(), tokens_per_batch or token_budget(model)):
        input_ids, mask = pad_right([encoded[r].input_ids for r in rows], padding_id(tokenizer))
        labels, _ = pad_right([encoded[r].labels for r in rows], IGNORED)
        batch = {"input_ids": input_ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
        with torch.enable_grad():
            found = signals(model, [batch], ["grad_norm"])
        norms[rows] = np.asarray(found["grad_norm"], dtype=np.float64) / counts[rows]  # of the sum, to that of the mean
        done += len(rows)
        if progress is not None:
            progress(done, len(texts))
    bad = np.flatnonzero((counts > 0) & ~np.isfinite(norms)).tolist()
    if bad:
        raise NotFinite(f"the gradient of text {name_some(bad)} is not finite", ids=bad)
    return norms
