"""What keeps the rest of a model as it is while a part is forgotten: retain terms of Shi et al., 2024 (MUSE) and WMDP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from datumwise.forget.distribution_losses import kl_retain_loss, muse_logit_losses, top_k_retain_loss
from datumwise.forget.hidden_losses import embed_loss
from datumwise.forget.losses import ga_loss
from datumwise.forget.reference import Reference, forward_hidden, forward_logits_of
from datumwise.forget.sequences import Sequences
from datumwise.probe.language_model import device_of

__all__ = ["retain_loss"]


def retain_loss(
    term: str,
    model: Any,
    retain: Sequences,
    rows: Sequence[int] | np.ndarray,
    reference: Reference,
    options: Mapping[str, Any],
) -> torch.Tensor:
    """One of ``gdr``, ``klr`` and ``embed`` on some retained sequences, with its forward; Tensor ().

    Parameters
    ----------
    options : mapping
        ``layer`` of ``embed`` (default the last); ``variant="muse-logits"`` for ``klr`` as published.
    """
    batch = retain.batch(rows).to(device_of(model))
    if term == "embed":
        layer = int(options.get("layer", -1))
        return embed_loss(forward_hidden(model, batch, layer), reference.hidden("retain", rows, layer), batch.labels)
    logits = forward_logits_of(model, batch)
    if term == "gdr":
        return -ga_loss(logits, batch.labels)
    if options.get("variant") == "muse-logits":
        return muse_logit_losses(logits, reference.logits("retain", rows).to(logits.device))[1]
    if reference.top_k is not None:
        log_ref, tokens = reference.top("retain", rows)
        return top_k_retain_loss(logits, batch.labels, log_ref.to(logits.device), tokens.to(logits.device))
    return kl_retain_loss(logits, reference.logits("retain", rows).to(logits.device), batch.labels)
