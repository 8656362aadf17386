"""What would smaller models say? Sub-networks of a trained one, by masks over its hidden weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import ModelMismatch
from datumwise.probe.language_model import language_model_signals

if TYPE_CHECKING:
    import torch

__all__ = ["KEPT", "subnetwork", "subnetwork_likelihood"]

KEPT = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)  # share of the weights that each sub-network keeps


@contextmanager
def subnetwork(model: Any, keep: float, seed: int = 0) -> Iterator[None]:
    """The model with a share of its hidden weights inside, the whole model again afterwards.

    Of every matrix but the embeddings and the output layer, entries are kept with probability ``keep`` and
    divided by it; the mask depends on seed, share and the parameter's name only, and is the same for every datapoint.

    Parameters
    ----------
    model : torch.nn.Module
    keep : float
        0 < keep <= 1; 1 leaves the model as it is.
    seed : int

    Raises
    ------
    ModelMismatch
        ``keep`` is no share, or the model has no hidden matrix.
    """
    import torch

    if not 0 < keep <= 1:
        raise ModelMismatch(f"a sub-network cannot keep {keep} of the weights", remedy="it keeps a share, 0 < keep <= 1")
    hidden = _hidden_matrices(model)
    if not hidden:
        raise ModelMismatch(f"{type(model).__name__} has no hidden layer to take weights from", remedy="use a deeper model")
    before = {name: parameter.detach().clone() for name, parameter in hidden.items()}
    try:
        with torch.no_grad():
            for name, parameter in hidden.items():
                draw = np.random.default_rng([seed, round(1e6 * keep), *name.encode()])
                mask = torch.from_numpy(draw.random(tuple(parameter.shape), dtype=np.float32) < keep)
                parameter.mul_(mask.to(parameter.device) / keep)
        yield
    finally:
        with torch.no_grad():
            for name, parameter in hidden.items():
                parameter.copy_(before[name])


def _hidden_matrices(model: Any) -> dict[str, torch.Tensor]:
    """Parameters with two axes or more between input and output: no embeddings, not the output layer."""
    import torch

    layers = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), torch.nn.Parameter) and module.weight.ndim > 1
    }
    inputs = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    last = head.weight if head is not None else next(reversed(layers.values()), None)
    return {name: w for name, w in layers.items() if w is not last and id(w) not in inputs}


def subnetwork_likelihood(
    model: Any,
    texts: Sequence[Any],
    *,
    tokenizer: Any = None,
    keep: Sequence[float] = KEPT,
    seed: int = 0,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """1 / perplexity of each text to each of S sub-networks of a causal language model.

    Parameters
    ----------
    model, texts, tokenizer, max_length, tokens_per_batch, ids, progress
        As in `datumwise.probe.language_model.language_model_signals`.
    keep : sequence of S floats
        Share of the weights that each keeps.
    seed : int

    Returns
    -------
    float64 (n, S)
        0 to 1, the geometric mean of the tokens' probabilities; NaN for a text without a predicted token.
    """
    found = np.empty((len(texts), len(keep)))
    for s, share in enumerate(keep):
        told = None if progress is None else lambda done, total, s=s: progress(s * total + done, len(keep) * total)
        with subnetwork(model, share, seed):
            read = language_model_signals(
                model,
                texts,
                ["mean_nll"],
                tokenizer=tokenizer,
                max_length=max_length,
                tokens_per_batch=tokens_per_batch,
                ids=ids,
                progress=told,
            )
        found[:, s] = np.exp(-read["mean_nll"])
    return found
