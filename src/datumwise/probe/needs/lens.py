"""What does the model answer, how likely is the label, how sure is it? All of it from one forward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datumwise.probe.losses import Forward
from datumwise.probe.needs import Need

__all__ = ["LENS", "Lens"]


class Lens(Need):
    """Columns read off the logits.

    With one label a datapoint every column is that label's; for sequences of tokens ``nll`` is a sum over the
    supervised tokens and ``entropy``, ``margin``, ``top_margin`` are means over them.

    Parameters
    ----------
    columns : collection of str
        Of :data:`LENS`: ``labels`` (n,) int64; ``loss`` (n,) float64; ``logits``, ``probs`` (n, K) float32;
        ``nll`` (n,) float64; ``n_tokens`` (n,) int64; ``token_logprobs`` n arrays of float32; ``entropy``
        (n,) in nats; ``margin`` (n,), probability of the label minus the best other, -1 to 1; ``top_margin``
        (n,), best minus second-best probability, 0 to 1; ``el2n`` (n,), length of probs minus one-hot label,
        0 to sqrt 2.
    """

    objective = None

    def __init__(self, columns: Collection[str]) -> None:
        self.columns = [c for c in LENS if c in columns]
        self._found: dict[str, Any] = {}

    def forward(self, forward: Forward) -> None:
        self._found = {name: LENS[name](forward) for name in self.columns}

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return self._found


def _labels(f: Forward) -> np.ndarray:
    return f.targets.cpu().numpy()


def _loss(f: Forward) -> np.ndarray:
    return f.losses.detach().double().cpu().numpy()


def _logits(f: Forward) -> np.ndarray:
    return f.logits.detach().float().cpu().numpy()


def _probs(f: Forward) -> np.ndarray:
    return f.log_probs.detach().exp().float().cpu().numpy()


def _nll(f: Forward) -> np.ndarray:
    return _per_datapoint(f, -_gold(f))


def _n_tokens(f: Forward) -> np.ndarray:
    return torch.bincount(f.owners, minlength=f.n).cpu().numpy()


def _token_logprobs(f: Forward) -> list[np.ndarray]:
    rows = _gold(f).float().cpu().numpy()
    return np.split(rows, np.cumsum(_n_tokens(f))[:-1])


def _entropy(f: Forward) -> np.ndarray:
    log_p = f.log_probs.detach()
    return _mean(f, -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(1))


def _margin(f: Forward) -> np.ndarray:
    return _mean(f, _gold(f).exp() - f.others.exp())


def _top_margin(f: Forward) -> np.ndarray:
    best = f.log_probs.detach().topk(2, dim=1).values.exp()
    return _mean(f, best[:, 0] - best[:, 1])


def _el2n(f: Forward) -> np.ndarray:
    p = f.log_probs.detach().exp()
    p.scatter_add_(1, f.targets[:, None], torch.full_like(p[:, :1], -1.0))
    return _mean(f, torch.linalg.vector_norm(p, dim=1))


def _gold(f: Forward) -> Tensor:
    """log-probability of each row's target."""
    return f.log_probs.detach().gather(1, f.targets[:, None])[:, 0]


def _per_datapoint(f: Forward, rows: Tensor) -> np.ndarray:
    total = torch.zeros(f.n, dtype=torch.float64, device=rows.device).index_add_(0, f.owners, rows.double())
    return total.cpu().numpy()


def _mean(f: Forward, rows: Tensor) -> np.ndarray:
    """Mean over a datapoint's rows; NaN for a sequence without a supervised token."""
    count = _n_tokens(f)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _per_datapoint(f, rows) / count


LENS: dict[str, Callable[[Forward], Any]] = {
    "labels": _labels,
    "loss": _loss,
    "logits": _logits,
    "probs": _probs,
    "nll": _nll,
    "n_tokens": _n_tokens,
    "token_logprobs": _token_logprobs,
    "entropy": _entropy,
    "margin": _margin,
    "top_margin": _top_margin,
    "el2n": _el2n,
}
