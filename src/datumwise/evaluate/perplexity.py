"""How surprised is a language model by held-out text? The usual perplexity, and the one averaged over batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, MissingExtra, NotFinite, SchemaMismatch, UnknownName, name_some

__all__ = ["Perplexity", "perplexity"]

AVERAGES = ("token", "batch")


@dataclass(frozen=True)
class Perplexity:
    """What a model says of texts.

    Attributes
    ----------
    value : float
        At least 1.
    average : str
    nll : float64 (n,)
        Nats, summed over a row's predicted tokens.
    n_tokens : int64 (n,)
        Predicted tokens of a row.
    """

    value: float
    average: str
    nll: np.ndarray
    n_tokens: np.ndarray

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        over = "tokens" if self.average == "token" else "batches"
        return f"perplexity {self.value:.3f} over {int(self.n_tokens.sum()):,} tokens, averaged over {over}"


def perplexity(
    model: Any,
    input_ids: Any,
    attention_mask: Any = None,
    *,
    average: str = "token",
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Perplexity of next tokens.

    Parameters
    ----------
    model : causal language model
    input_ids : int (n, T)
    attention_mask : int (n, T), optional
        0 on padding, on either side.
    average : {"token", "batch"}
        "token": exp of the mean loss over tokens. "batch": the mean over batches of exp(mean loss of the batch), as the
        curvature paper's code has it: larger where batches have as many tokens, and it depends on ``batch_size``
        (published with 128).
    batch_size : int
        Rows of a batch.
    progress : callable (done, total), optional

    Returns
    -------
    Perplexity

    Raises
    ------
    EmptyData, NotFinite, SchemaMismatch, UnknownName, MissingExtra
    """
    if average not in AVERAGES:
        raise UnknownName(f"average is {average!r}", remedy='it is "token" or "batch"')
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("perplexity needs torch and transformers", remedy="pip install 'datumwise[lm]'") from error
    from datumwise.probe.language_model import device_of, forward_logits, reading

    ids = torch.as_tensor(np.asarray(input_ids)).long()
    mask = torch.ones_like(ids) if attention_mask is None else torch.as_tensor(np.asarray(attention_mask)).long()
    if ids.ndim != 2 or mask.shape != ids.shape:
        raise SchemaMismatch(f"token ids have shape {tuple(ids.shape)} and their mask {tuple(mask.shape)}")
    known = mask[:, 1:] * mask[:, :-1]
    if not bool(known.any()):
        raise EmptyData("there is no token to predict", remedy="give rows of at least two tokens")
    nll = np.zeros(len(ids))
    batches = []
    with reading(model):
        for start in range(0, len(ids), batch_size):
            at = slice(start, start + batch_size)
            batch, seen, counted = (x[at].to(device_of(model)) for x in (ids, mask, known))
            logits = forward_logits(model, batch, seen)[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")
            nll[at] = torch.where(counted.bool(), losses, 0.0).double().sum(1).cpu().numpy()
            if int(counted.sum()):
                batches.append(nll[at].sum() / int(counted.sum()))
            if progress is not None:
                progress(start + len(batch), len(ids))
    bad = np.flatnonzero(~np.isfinite(nll)).tolist()
    if bad:
        raise NotFinite(f"the loss of row {name_some(bad)} is not finite", ids=bad)
    n_tokens = known.sum(1).numpy()
    mean = np.exp(nll.sum() / n_tokens.sum()) if average == "token" else np.mean(np.exp(batches))
    return Perplexity(float(mean), average, nll, n_tokens)
