"""How likely is each text to a causal language model? Token log-likelihoods, forward only.

Texts are sorted by length and batched by a budget of tokens; of a batch's logits only what a text's answer
needs is kept, so memory is bounded by the batch and never by the number of texts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, UnknownName, name_some
from datumwise.probe.collate import IGNORED, Encoded, context_length, encode_texts, pad_right, padding_id

if TYPE_CHECKING:
    import torch

__all__ = ["LANGUAGE_SIGNALS", "TokenLens", "language_model_signals", "token_lens"]

LANGUAGE_SIGNALS = (
    "token_logprobs",
    "nll",
    "mean_nll",
    "n_tokens",
    "entropy",
    "margin",
    "truncated",
)
LOGITS_PER_BATCH = 2**26  # numbers: 256 MiB of float32 logits a batch
LOGITS_PER_BLOCK = 2**23  # numbers: 32 MiB of log-probabilities at a time


def language_model_signals(
    model: Any,
    texts: Sequence[str | tuple[str, str] | Encoded],
    want: Iterable[str] = ("token_logprobs", "nll", "n_tokens"),
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Level-0 signals of a causal language model over n texts, in the order of the texts.

    Parameters
    ----------
    model : torch.nn.Module
        Called on ``input_ids`` and ``attention_mask``; returns logits (B, T, V) or an object with
        ``.logits``. Put in evaluation mode and back.
    texts : sequence of n
        Strings; (prompt, response) pairs, of which only the response counts; or `Encoded` token ids whose
        labels of -100 do not count.
    want : iterable of str
        Of `LANGUAGE_SIGNALS`.
    tokenizer : transformers tokenizer
        Needed for strings and pairs.
    max_length : int, optional
        Longest text in tokens, default what model and tokenizer can read. Longer ones are cut there and
        flagged in ``truncated``, which is always returned.
    tokens_per_batch : int, optional
        Padded tokens in a batch; default: as many as keep the logits below 256 MiB.
    ids : sequence (n,), optional
        Names for error sentences; row numbers by default.
    progress : callable (done, total), optional
        Called with the number of texts done after each batch.

    Returns
    -------
    dict
        ``token_logprobs``: list of n float32 arrays (n_tokens,), log p of each predicted token in nats; the
        first token of a text has no context and is not predicted. ``n_tokens`` int64 (n,): predicted
        tokens. ``nll`` float64 (n,): minus the sum of the log-probabilities; ``mean_nll``: per predicted
        token. ``entropy`` and ``margin`` float64 (n,): mean over predicted tokens of the entropy of the
        next-token distribution (nats) and of the log-probability of the likeliest token minus that of the
        second. Means are NaN for a text without a predicted token. ``truncated`` bool (n,).

    Raises
    ------
    UnknownName, EmptyData
        A signal is not known; there is no text.
    ModelMismatch
        The model's output is not (B, T, V), or a token id is outside of its vocabulary.
    NotFinite
        A text's log-likelihood is NaN or infinite; names the texts.
    """
    import torch

    wanted = {want} if isinstance(want, str) else set(want)
    unknown = sorted(wanted - set(LANGUAGE_SIGNALS))
    if unknown:
        raise UnknownName(
            f"a language model gives no signal {name_some(unknown)}",
            remedy=f"it gives {', '.join(LANGUAGE_SIGNALS)}",
        )
    if not len(texts):
        raise EmptyData("there is no text to score")
    encoded = _encoded(model, texts, tokenizer, max_length)
    names = list(ids) if ids is not None else list(range(len(encoded)))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    _check_vocabulary(model, encoded, names)

    n = len(encoded)
    logprobs: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * n
    sums = {name: np.zeros(n) for name in ("entropy", "margin") if name in wanted}
    pad = padding_id(tokenizer)
    done = 0
    with _evaluating(model), torch.inference_mode():
        for rows in _length_batches(encoded, tokens_per_batch or _budget(model)):
            input_ids, mask = pad_right([encoded[r].input_ids for r in rows], pad)
            labels, _ = pad_right([encoded[r].labels for r in rows], IGNORED)
            logits = forward_logits(model, input_ids.to(device), mask.to(device))
            lens = token_lens(logits, labels.to(device), with_spread=bool(sums))
            for row, own in zip(rows, lens.by_datapoint(len(rows)), strict=True):
                logprobs[row] = lens.logprobs[own]
                for name in sums:
                    sums[name][row] = getattr(lens, name)[own].sum(dtype=np.float64)
            done += len(rows)
            if progress is not None:
                progress(done, n)

    counts = np.array([len(values) for values in logprobs], dtype=np.int64)
    nll = np.array([-values.sum(dtype=np.float64) + 0.0 for values in logprobs])
    if not np.isfinite(nll).all():
        bad = [names[i] for i in np.flatnonzero(~np.isfinite(nll))]
        raise NotFinite(f"the model's log-likelihood is NaN or infinite for {name_some(bad)}", ids=bad)
    per_token = 1 / np.where(counts > 0, counts, np.nan)
    signals: dict[str, Any] = {"token_logprobs": logprobs, "nll": nll, "mean_nll": nll * per_token}
    signals["n_tokens"] = counts
    signals |= {name: total * per_token for name, total in sums.items()}
    signals["truncated"] = np.array([e.truncated for e in encoded])
    return {name: signals[name] for name in LANGUAGE_SIGNALS if name in wanted or name == "truncated"}


@dataclass(frozen=True)
class TokenLens:
    """What a batch's logits say at its M predicted positions, in row-major order.

    Attributes
    ----------
    datapoint : ndarray of int64 (M,)
        Row of the batch.
    position : ndarray of int64 (M,)
        Position of the predicted token in its row.
    logprobs : ndarray of float32 (M,)
        Log-probability of the predicted token, nats.
    entropy, margin : ndarray of float32 (M,), or None
    """

    datapoint: np.ndarray
    position: np.ndarray
    logprobs: np.ndarray
    entropy: np.ndarray | None
    margin: np.ndarray | None

    def by_datapoint(self, n: int) -> list[slice]:
        """The stretch of each of the batch's n rows."""
        ends = np.searchsorted(self.datapoint, np.arange(n + 1)).tolist()
        return [slice(a, b) for a, b in pairwise(ends)]


def token_lens(logits: torch.Tensor, labels: torch.Tensor, *, with_spread: bool = False) -> TokenLens:
    """Log-probability (and entropy, margin) at the predicted positions: one float32 ``log_softmax``.

    Parameters
    ----------
    logits : Tensor (B, T, V)
        Position t answers for token t + 1.
    labels : Tensor int64 (B, T)
        Token ids, -100 where a token is not predicted; the first column never is.
    with_spread : bool
        Also entropy and margin.
    """
    import torch

    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        given, asked = tuple(logits.shape), tuple(labels.shape)
        raise ModelMismatch(
            f"the model gives logits of shape {given} for token ids of shape {asked}",
            remedy="a causal language model gives (texts, tokens, vocabulary)",
        )
    rows, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    targets = labels[rows, columns + 1]
    chosen, entropy, margin = [], [], []
    block = max(1, LOGITS_PER_BLOCK // logits.shape[2])
    for start in range(0, len(rows), block):
        at = slice(start, start + block)
        log_probs = torch.log_softmax(logits[rows[at], columns[at]].float(), dim=-1)
        chosen.append(log_probs.gather(1, targets[at, None])[:, 0])
        if with_spread:
            entropy.append(torch.special.entr(log_probs.exp()).sum(dim=1))
            top = log_probs.topk(min(2, log_probs.shape[1]), dim=1).values
            margin.append(top[:, 0] - top[:, -1])
    return TokenLens(
        rows.cpu().numpy(),
        (columns + 1).cpu().numpy(),
        _joined(chosen),
        _joined(entropy) if with_spread else None,
        _joined(margin) if with_spread else None,
    )


def _joined(blocks: list[torch.Tensor]) -> np.ndarray:
    import torch

    return torch.cat(blocks).cpu().numpy() if blocks else np.zeros(0, dtype=np.float32)


def forward_logits(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Logits (B, T, V), whichever side the padding is on: positions count from the first real token."""
    accepted = _accepted(model)
    inputs: dict[str, Any] = {"attention_mask": attention_mask}
    if "position_ids" in accepted and not bool(attention_mask[:, 0].all()):
        inputs["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    output = model(input_ids, **{k: v for k, v in inputs.items() if k in accepted})
    logits = getattr(output, "logits", output)
    if not hasattr(logits, "ndim"):
        raise ModelMismatch(f"{type(model).__name__} returns {type(output).__name__}, which has no logits")
    return logits


def _accepted(model: Any) -> set[str]:
    """Keyword arguments that the model's forward names."""
    return set(inspect.signature(model.forward).parameters)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode inside; each module's own mode as it was afterwards, also on an error."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _encoded(
    model: Any, texts: Sequence[str | tuple[str, str] | Encoded], tokenizer: Any, max_length: int | None
) -> list[Encoded]:
    if max_length is None:
        max_length = context_length(model, tokenizer)
    plain = [text for text in texts if not isinstance(text, Encoded)]
    if plain and tokenizer is None:
        raise ModelMismatch("texts need a tokenizer", remedy="pass tokenizer= or Encoded token ids")
    fresh = iter(encode_texts(tokenizer, plain, max_length) if plain else [])
    return [_shortened(t, max_length) if isinstance(t, Encoded) else next(fresh) for t in texts]


def _shortened(text: Encoded, max_length: int | None) -> Encoded:
    if max_length is None or len(text.input_ids) <= max_length:
        return text
    return Encoded(text.input_ids[:max_length], text.labels[:max_length], True)


def _check_vocabulary(model: Any, encoded: list[Encoded], names: list[Any]) -> None:
    """Refuse token ids that the model has no embedding for: torch's own message names neither id nor text."""
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is None:
        return
    bad = [name for name, e in zip(names, encoded, strict=True) if len(e.input_ids) and e.input_ids.max() >= size]
    if bad:
        raise ModelMismatch(
            f"the tokenizer gives token ids that the model's vocabulary of {size:,} does not have ({name_some(bad)})",
            remedy="use the model's own tokenizer",
            ids=bad,
        )


def _budget(model: Any) -> int:
    """Padded tokens a batch so that its logits stay below `LOGITS_PER_BATCH` numbers."""
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None) or 2**16
    return max(1, LOGITS_PER_BATCH // int(vocabulary))


def _length_batches(encoded: list[Encoded], tokens_per_batch: int) -> Iterator[list[int]]:
    """Rows by decreasing length (the largest batch first: if memory is short, it is short at once)."""
    lengths = np.array([len(e.input_ids) for e in encoded])
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(lengths[order[start]]))
        yield order[start : start + size].tolist()
        start += size
