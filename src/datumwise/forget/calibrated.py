"""Calibrated unlearning: every forgotten text becomes, token by token, as hard as a text that was never seen.

Gradient ascent and its kin push without a bound, or up to one that knows nothing of the text. What a membership test compares
is the losses of forgotten texts with those of unseen ones, so here those are matched. Each text to forget is paired with an
unseen one of its kind. The difficulties of its tokens, in order, are pulled to the difficulties of the other's tokens, in order
(the one-dimensional optimal transport between the two). Every Min-K% score and the mean loss are functions of that order, so
all are matched at once, and no model has to be retrained.

The difficulty of a token is minus its log odds, ``log((1 - p) / p)``. For a token that is not known it is the loss. For one
known by heart the loss is flat (its slope is 1 - p), and the log odds are as steep as anywhere: forgetting starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from datumwise.errors import DatumwiseError, EmptyData
from datumwise.forget.losses import predicted
from datumwise.forget.methods import Context, Method, register_method
from datumwise.forget.reference import forward_logits_of, resting
from datumwise.forget.sequences import Sequences
from datumwise.probe.language_model import device_of

__all__ = ["calibrated_loss", "pair_texts", "quantiles", "token_difficulty"]

REACH = 3.0  # nats from its target within which the pull on a token fades
BLOCK = 2000  # texts that are paired at once: pairing takes their number cubed
IN_FORWARD = 4  # unseen texts in a forward


def token_difficulty(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Minus the log odds of every label, in nats, and its sequence: float (M,), int64 (M,), in reading order.

    Parameters
    ----------
    logits : float (B, T, V)
        As the model gives them; the shift is made here.
    labels : int64 (B, T)
        -100 where a token does not count.

    Examples
    --------
    >>> import math, torch
    >>> difficulty, _ = token_difficulty(torch.zeros(1, 2, 5), torch.tensor([[0, 3]]))
    >>> bool(torch.isclose(difficulty[0], torch.tensor(math.log(4))))  # p = 1/5
    True
    """
    z, y, rows = predicted(logits, labels)
    own = z.gather(1, y[:, None])[:, 0]
    others = z.scatter(1, y[:, None], -torch.inf).logsumexp(dim=1)
    return others - own, rows


def quantiles(values: np.ndarray, n: int) -> np.ndarray:
    """Values at n evenly spaced ranks, ascending, float64 (n,); the sorted values themselves if there are n.

    Examples
    --------
    >>> quantiles(np.array([3.0, 1.0, 2.0]), 3).tolist(), quantiles(np.array([1.0, 3.0]), 4).tolist()
    ([1.0, 2.0, 3.0], [1.0, 1.5, 2.5, 3.0])
    """
    at = (np.arange(len(values)) + 0.5) / len(values)
    return np.interp((np.arange(n) + 0.5) / n, at, np.sort(values))


def calibrated_loss(
    logits: torch.Tensor, labels: torch.Tensor, wanted: Sequence[np.ndarray], reach: float = REACH
) -> torch.Tensor:
    """How far the tokens' difficulties are from those wanted, rank by rank: mean over tokens, then over sequences.

    ``huber(d_(k) - w_(k), reach) / reach``, with d_(k) the k-th smallest difficulty of a sequence: far from its target every
    token is pulled with strength 1, within ``reach`` in proportion to the distance.

    Parameters
    ----------
    logits : float (B, T, V)
    labels : int64 (B, T)
    wanted : sequence of B float arrays
        Difficulties of an unseen text, in any number and order.
    reach : float
        Nats.

    Returns
    -------
    Tensor ()
        0 where the difficulties are those wanted, whatever token has which.

    Raises
    ------
    DatumwiseError
        ``reach`` is not above 0.
    EmptyData
        No label counts.

    Examples
    --------
    >>> import torch
    >>> known = torch.tensor([[[9.0, 0.0], [0.0, 9.0], [0.0, 0.0]]])  # both tokens known by heart: difficulty -9
    >>> calibrated_loss(known, torch.tensor([[0, 0, 1]]), [np.array([-9.0, 0.0])], reach=1.0).item()
    4.25
    """
    if not reach > 0:
        raise DatumwiseError(f"reach is {reach}", remedy="it must be above 0")
    difficulty, rows = token_difficulty(logits, labels)
    losses = []
    for k, unseen in enumerate(wanted):
        own = difficulty[rows == k]
        if not len(own):
            raise EmptyData("a sequence of the batch has no label that counts", remedy="leave it out")
        target = torch.as_tensor(quantiles(unseen, len(own)), dtype=own.dtype, device=own.device)
        losses.append(torch.nn.functional.huber_loss(own.sort().values, target, delta=reach) / reach)
    return torch.stack(losses).mean()


def pair_texts(forget: Sequences, holdout: Sequences, *, random_state: int = 0) -> np.ndarray:
    """The unseen text that each text to forget is to be like: rows of ``holdout``, int64 (n,).

    The best assignment by length, share of distinct tokens and mean rarity of the tokens (unigram surprisal over both sets),
    each in standard deviations of the unseen texts. No unseen text is taken twice while there are enough, so the difficulties
    of the forgotten texts come to be spread like those of unseen ones.

    Parameters
    ----------
    forget, holdout : Sequences
    random_state : int
        Of the blocks of 2,000 that larger sets are paired in.
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.bincount(np.concatenate([item.input_ids for part in (forget, holdout) for item in part.items]))
    own, unseen = _statistics(forget, counts), _statistics(holdout, counts)
    spread = np.maximum(unseen.std(axis=0), 1e-9)
    rng = np.random.default_rng([random_state, 11])
    n, m = len(own), len(unseen)
    pool = np.concatenate([rng.permutation(m) for _ in range(-(-n // m))])
    order = rng.permutation(n) if n > BLOCK else np.arange(n)
    blocks = -(-n // BLOCK)
    pairs = np.empty(n, dtype=np.int64)
    for rows, candidates in zip(np.array_split(order, blocks), np.array_split(pool, blocks), strict=True):
        distance = (((own[rows, None] - unseen[None, candidates]) / spread) ** 2).sum(axis=-1)
        _, chosen = linear_sum_assignment(distance)
        pairs[rows] = candidates[chosen]
    return pairs


def _statistics(texts: Sequences, counts: np.ndarray) -> np.ndarray:
    """Log of the number of labels, share of distinct tokens, mean surprisal of a token by ``counts``: float64 (n, 3)."""
    surprisal = -np.log(np.maximum(counts, 1) / counts.sum())
    found = [
        (np.log(n), len(np.unique(item.input_ids)) / len(item.input_ids), surprisal[item.input_ids].mean())
        for item, n in zip(texts.items, texts.n_tokens.tolist(), strict=True)
    ]
    return np.array(found)


# --- the method -----------------------------------------------------------------------------------------


@dataclass
class _Targets:
    """What each text is to be like: difficulties of its pair's tokens under the model as it is at the start of each epoch."""

    model: Any
    holdout: Sequences
    pairs: np.ndarray
    follow: bool
    difficulties: dict[int, np.ndarray]
    seen: int = 0  # texts since the start; a training goes on from a checkpoint at the start of an epoch only

    def of(self, rows: np.ndarray) -> list[np.ndarray]:
        if self.seen % len(self.pairs) == 0 and (self.follow or not self.difficulties):
            self.difficulties = difficulties(self.model, self.holdout, np.unique(self.pairs))
        self.seen += len(rows)
        return [self.difficulties[int(self.pairs[row])] for row in rows]


def difficulties(model: Any, texts: Sequences, rows: Sequence[int] | np.ndarray) -> dict[int, np.ndarray]:
    """Difficulties of the tokens of some texts, by row; dropout off."""
    found: dict[int, np.ndarray] = {}
    with torch.no_grad(), resting(model):
        for start in range(0, len(rows), IN_FORWARD):
            part = [int(row) for row in rows[start : start + IN_FORWARD]]
            batch = texts.batch(part).to(device_of(model))
            values, owners = token_difficulty(forward_logits_of(model, batch), batch.labels)
            for k, row in enumerate(part):
                found[row] = values[owners == k].double().cpu().numpy()
    return found


def _prepare(context: Context) -> _Targets:
    if context.holdout is None:
        raise EmptyData(
            "calibrated unlearning needs texts of the same kind that the model never saw",
            remedy="pass holdout=, other texts than those it will be tested on",
        )
    if not context.options["reach"] > 0:
        raise DatumwiseError(f"reach is {context.options['reach']}", remedy="it must be above 0")
    pairs = pair_texts(context.forget, context.holdout, random_state=context.random_state)
    found = {} if context.options["follow"] else difficulties(context.model, context.holdout, np.unique(pairs))
    return _Targets(context.model, context.holdout, pairs, bool(context.options["follow"]), found)


def _forget_loss(
    logits: torch.Tensor, labels: torch.Tensor, rows: np.ndarray, state: _Targets, options: Mapping[str, Any]
) -> torch.Tensor:
    return calibrated_loss(logits, labels, state.of(rows), float(options["reach"]))


CALIBRATED = register_method(
    Method(
        "calibrated",
        "datumwise",
        "token difficulties of each text towards those of an unseen text of its kind, rank by rank",
        _forget_loss,
        _prepare,
        retain="klr",
        defaults={"alpha": 7.0, "epochs": 5, "reach": REACH, "follow": True},
    ),
    replace=True,
)
