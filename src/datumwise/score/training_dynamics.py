"""How did the model's opinion of each datapoint develop in training? Scores from logits by epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, name_some
from datumwise.score.checks import class_labels, finite_column, several_classes
from datumwise.score.declare import score
from datumwise.score.el2n import el2n
from datumwise.score.scores import Scores

__all__ = [
    "aum",
    "aum_threshold",
    "confidence",
    "correctness",
    "dynamics",
    "fake_class_labels",
    "forgetting",
    "threshold_closeness",
    "variability",
]


def dynamics(logits: Any, labels: Any, ids: Any = None) -> Scores:
    """Forgetting, confidence, variability, correctness and AUM, and EL2N after the last epoch.

    Parameters
    ----------
    logits : float array (E, n, K)
        After each of E epochs.
    labels : int array (n,)
    ids : array (n,), optional
        0..n-1 by default.

    Returns
    -------
    Scores
    """
    logits, labels = _checked(logits, labels)
    named = {f.__name__: f(logits, labels) for f in (forgetting, confidence, variability, correctness, aum)}
    named["el2n"] = el2n(_softmax(logits[-1]), labels)
    return Scores(np.arange(len(labels)) if ids is None else ids, named)


@score(
    needs=("logits_by_epoch", "labels"),
    higher="forgotten more often",
    source="Toneva et al., 2019, definition 1",
)
def forgetting(logits_by_epoch: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often was the datapoint right after one epoch and wrong after the next? Never right: infinity.

    Parameters
    ----------
    logits_by_epoch : float (E, n, K)
        The prediction is the argmax, ties to the lowest class.
    labels : int (n,)

    Returns
    -------
    float64 (n,)
        0 to (E - 1) / 2 rounded up, or inf.
    """
    right = _right(*_checked(logits_by_epoch, labels))
    events = np.count_nonzero(right[:-1] & ~right[1:], axis=0)
    return np.where(right.any(axis=0), events, np.inf)


@score(
    needs=("logits_by_epoch", "labels"),
    higher="easier to learn",
    source="Swayamdipta et al., 2020, section 2",
)
def confidence(logits_by_epoch: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What probability had the given label, on the mean over epochs?

    Parameters
    ----------
    logits_by_epoch : float (E, n, K)
    labels : int (n,)

    Returns
    -------
    float64 (n,)
        0 to 1.
    """
    return _gold(*_checked(logits_by_epoch, labels)).mean(axis=0)


@score(
    needs=("logits_by_epoch", "labels"),
    higher="more ambiguous",
    source="Swayamdipta et al., 2020, section 2",
)
def variability(logits_by_epoch: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much did the probability of the given label move? Population standard deviation over epochs.

    Parameters
    ----------
    logits_by_epoch : float (E, n, K)
    labels : int (n,)

    Returns
    -------
    float64 (n,)
        0 to 0.5.
    """
    return _gold(*_checked(logits_by_epoch, labels)).std(axis=0)


@score(
    needs=("logits_by_epoch", "labels"),
    higher="easier to learn",
    source="Swayamdipta et al., 2020, section 2",
)
def correctness(logits_by_epoch: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """After what share of the epochs was the datapoint predicted right?

    Parameters
    ----------
    logits_by_epoch : float (E, n, K)
    labels : int (n,)

    Returns
    -------
    float64 (n,)
        0 to 1.
    """
    return _right(*_checked(logits_by_epoch, labels)).mean(axis=0)


@score(
    needs=("logits_by_epoch", "labels"),
    higher="more ambiguous: right about as often as wrong",
    source="Swayamdipta et al., 2020, released code (threshold_closeness)",
)
def threshold_closeness(logits_by_epoch: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How close to one half was the share of epochs after which the datapoint was predicted right? c (1 - c).

    Parameters
    ----------
    logits_by_epoch : float (E, n, K)
    labels : int (n,)

    Returns
    -------
    float64 (n,)
        0 to 0.25.
    """
    share = correctness(logits_by_epoch, labels)
    return share * (1 - share)


@score(
    needs=("logits_by_epoch", "labels"),
    higher="label more likely right",
    source="Pleiss et al., 2020, eq. 2",
)
def aum(logits_by_epoch: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By how much did the given label's logit lead the best other's? The mean over epochs.

    Parameters
    ----------
    logits_by_epoch : float (E, n, K)
    labels : int (n,)

    Returns
    -------
    float64 (n,)
        In logits; negative: another class led.
    """
    logits, labels = _checked(logits_by_epoch, labels)
    rows = np.arange(len(labels))
    total = np.zeros(len(labels))
    for epoch in logits:  # one epoch at a time: (n, K) is held, not (E, n, K)
        others = epoch.astype(np.float64)
        total += others[rows, labels]
        others[rows, labels] = -np.inf
        total -= others.max(axis=1)
    return total / len(logits)


def fake_class_labels(labels: Any, *, n_classes: int | None = None, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels to train with once more, some of them of a class that does not exist: what mislabelled looks like.

    Pleiss et al., 2020, section 3.2: n/(K + 1) datapoints at random get the label K. Train a model of K + 1 classes
    on them, and give the AUM of those datapoints to `aum_threshold`; a second run with the fake class on others
    judges the datapoints that had it in the first.

    Parameters
    ----------
    labels : int (n,)
    n_classes : int, optional
        K; the largest label + 1 by default.
    random_state : None, int or Generator

    Returns
    -------
    labels : int64 (n,)
    fake : bool (n,)
        Which have the fake class.

    Examples
    --------
    >>> relabelled, fake = fake_class_labels([0, 1, 2, 0, 1, 2, 0, 1], random_state=0)
    >>> int(fake.sum()), set(relabelled[fake].tolist())
    (2, {3})
    """
    labels = class_labels(labels)
    several_classes(labels)
    K = int(labels.max()) + 1 if n_classes is None else n_classes
    beyond = np.flatnonzero(labels >= K)
    if len(beyond):
        raise LabelError(f"labels of row {name_some(beyond)} lie outside 0..{K - 1}", ids=beyond.tolist())
    chosen = np.random.default_rng(random_state).permutation(len(labels))[: len(labels) // (K + 1)]
    if len(chosen) == 0:
        raise EmptyData(f"{len(labels)} datapoints are too few to spare one for a fake class", remedy=f"at least {K + 1}")
    fake = np.zeros(len(labels), bool)
    fake[chosen] = True
    return np.where(fake, K, labels), fake


def aum_threshold(aum: Any, fake: Any, percentile: float = 99.0) -> float:
    """AUM below which a label is taken to be wrong: the 99th percentile of the datapoints of the fake class.

    Parameters
    ----------
    aum : float (n,)
        `aum` of a model trained with the labels of `fake_class_labels`.
    fake : bool (n,)
    percentile : float, default 99
        Of the fake class, interpolated linearly.

    Returns
    -------
    float
        In logits. A datapoint with a real label and a lower AUM is suspect.

    Examples
    --------
    >>> aum_threshold([-3.0, -1.0, 2.0, 5.0], [True, True, False, False], percentile=50)
    -2.0
    """
    aum, fake = finite_column(aum, "aum"), np.asarray(fake, bool)
    if fake.shape != aum.shape:
        raise SchemaMismatch(f"{len(aum):,} values of aum and fake of shape {fake.shape} do not fit together")
    if not fake.any():
        raise EmptyData("no datapoint has the fake class", remedy="train with the labels of fake_class_labels")
    if not 0 <= percentile <= 100:
        raise DatumwiseError(f"percentile = {percentile} is no percentile", remedy="0 to 100")
    return float(np.percentile(aum[fake], percentile))


def _checked(logits: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits), class_labels(labels)
    if logits.ndim != 3 or logits.shape[1] != len(labels) or logits.shape[0] == 0 or logits.dtype.kind not in "fiu":
        raise SchemaMismatch(
            f"logits_by_epoch must be epochs x {len(labels):,} datapoints x classes; got {logits.shape} of {logits.dtype}"
        )
    if logits.shape[2] < 2:
        raise LabelError(f"logits_by_epoch has {logits.shape[2]} class", remedy="two classes are needed")
    beyond = np.flatnonzero(labels >= logits.shape[2])
    if len(beyond):
        raise LabelError(
            f"labels of row {name_some(beyond)} lie outside 0..{logits.shape[2] - 1}, the classes of logits_by_epoch",
            ids=beyond.tolist(),
        )
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=(0, 2)))
    if len(bad):
        raise NotFinite(f"logits_by_epoch has NaN or infinity in row {name_some(bad)}", ids=bad.tolist())
    return logits, labels


def _right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool (E, n): predicted as labelled."""
    return np.stack([epoch.argmax(axis=1) == labels for epoch in logits])


def _gold(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 (E, n): probability of the label."""
    return np.stack([_softmax(epoch)[np.arange(len(labels)), labels] for epoch in logits])


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
