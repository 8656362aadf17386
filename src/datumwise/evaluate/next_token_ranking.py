"""Does an edited model still rank next tokens as before? nDCG of its top ten against the unedited model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, MissingExtra, SchemaMismatch

__all__ = ["ndcg_at_k", "top_tokens"]

K = 10


def ndcg_at_k(base: Any, edited: Any, k: int = K) -> np.ndarray:
    """Normalised discounted cumulative gain of the edited model's ranking, position by position.

    Relevance of the base model's token of rank r is k - r, of any other 0; DCG = sum over ranks of relevance /
    log2(rank + 2).

    Parameters
    ----------
    base, edited : int (N, K), K >= k
        Tokens by falling probability, each once a row.
    k : int

    Returns
    -------
    float64 (N,)
        0 to 1; 1 where the rankings are the same.

    Raises
    ------
    SchemaMismatch

    References
    ----------
    Merullo et al., 2025, section 4.

    Examples
    --------
    >>> ndcg_at_k([[5, 6, 7]], [[5, 7, 6]], k=3).round(3).tolist()
    [0.973]
    """
    a, b = np.asarray(base), np.asarray(edited)
    if a.ndim != 2 or a.shape != b.shape or a.dtype.kind not in "iu" or b.dtype.kind not in "iu":
        raise SchemaMismatch(f"rankings of shape {a.shape} and {b.shape} do not fit together", remedy="give token ids (N, k)")
    if not 1 <= k <= a.shape[1]:
        raise DatumwiseError(f"k is {k} and the rankings have {a.shape[1]} tokens", remedy=f"choose 1 to {a.shape[1]}")
    relevance = k - np.arange(k, dtype=np.float64)
    discount = 1 / np.log2(np.arange(k) + 2)
    gain = np.zeros((len(a), k))
    for rank in range(k):  # of the base model's token
        gain += (b[:, :k] == a[:, rank : rank + 1]) * relevance[rank]
    return gain @ discount / (relevance @ discount)


def top_tokens(
    model: Any,
    input_ids: Any,
    k: int = K,
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The k likeliest next tokens at every position but each row's last.

    Parameters
    ----------
    model : causal language model
    input_ids : int (n, T)
        Token ids, without padding.
    k : int
    batch_size : int
        Rows of a batch.
    progress : callable (done, total), optional

    Returns
    -------
    int64 (n (T - 1), k)
        Row by row; kept from the unedited model they are the ``base`` of `ndcg_at_k`.

    Raises
    ------
    EmptyData, MissingExtra
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("rankings need torch and transformers", remedy="pip install 'datumwise[lm]'") from error
    from datumwise.probe.language_model import device_of, forward_logits, reading

    ids = torch.as_tensor(np.asarray(input_ids))
    if ids.ndim != 2 or not len(ids) or ids.shape[1] < 2:
        raise EmptyData(f"token ids of shape {tuple(ids.shape)} have no next token", remedy="give (n, T), T at least 2")
    found = []
    with reading(model):
        for start in range(0, len(ids), batch_size):
            batch = ids[start : start + batch_size].to(device_of(model))
            logits = forward_logits(model, batch, torch.ones_like(batch))
            found.append(logits[:, :-1].float().topk(k, dim=-1).indices.flatten(0, 1).cpu().numpy())
            if progress is not None:
                progress(start + len(batch), len(ids))
    return np.concatenate(found)
