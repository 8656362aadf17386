"""Which labels are wrong, and how many of which class? Confident learning (Northcutt et al., 2021).

Paper: *Confident Learning: Estimating Uncertainty in Dataset Labels*, JAIR 70, sections 3.1 (count) and 3.2
(rank and prune). Conventions, tolerances and ties are those of cleanlab 2.9, so that both find the same
datapoints.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from datumwise.errors import UnknownName
from datumwise.score.checks import labelled_probabilities, several_classes
from datumwise.score.declare import score
from datumwise.score.label_quality import normalized_margin, self_confidence

__all__ = ["FILTERS", "confident_joint", "confident_thresholds", "find_label_issues", "label_issue"]

FILTERS = (
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_self_confidence",
    "low_normalized_margin",
)
OURS = "calibrated_margin"  # counts as the prune rules do, ranks as low_normalized_margin does; not in cleanlab
TOLERANCE = 1e-6  # two probabilities closer than this are equal
TINY = 1e-100  # floor of a divisor
ABSENT = 2  # threshold of a class without a label: no probability reaches it
BLOCK = 1 << 18  # probabilities looked at together (2 MiB): what is held beside the input


def find_label_issues(
    labels: Any,
    pred_probs: Any,
    filter_by: str = "prune_by_noise_rate",
    *,
    min_examples_per_class: int = 1,
) -> np.ndarray:
    """Flag the datapoints whose label is probably wrong.

    Parameters
    ----------
    labels : array (n,) of int in 0..K-1
        Given labels.
    pred_probs : float array (n, K)
        Class probabilities of a model that was not trained on the datapoint (out of fold). Rows sum to 1.
    filter_by : str
        Which datapoints, section 3.2 of the paper; C is `confident_joint`, calibrated in the first three
        rules:

        ==========================  ======================================================================
        ``prune_by_noise_rate``     of those labelled i, the C[i, j] largest p_j - p_i, for all j != i
        ``prune_by_class``          of those labelled i, the n_i - C[i, i] with the lowest p_i
        ``both``                    those that both rules above flag
        ``confident_learning``      the members of the off-diagonal of the uncalibrated C
        ``predicted_neq_given``     the label is not the most probable class
        ``low_self_confidence``     the m lowest p_y, m being the number that ``confident_learning`` flags
        ``low_normalized_margin``   the m lowest p_y - max_{j != y} p_j
        ``calibrated_margin``       as before with m = n - trace(C), C calibrated; not in cleanlab
        ==========================  ======================================================================

        The calibrated C counts also the errors among datapoints that the model is unsure of, and one ranking
        over all classes picks them better than one for every pair of classes: on digits with 12 % flips the
        last rule finds more of the flips than ``prune_by_noise_rate`` (recall 0.98 against 0.91) at little
        cost in precision (0.95 against 0.96); tests/score/test_confident_learning.py measures it. With a model
        that is often wrong it flags too many.
        Except by ``low_self_confidence`` and ``low_normalized_margin``, no datapoint is flagged whose label
        is the most probable class to within 1e-6.
    min_examples_per_class : int, default 1
        The first three rules leave at least so many datapoints of a class.

    Returns
    -------
    bool (n,)
        True: probably wrong.

    Raises
    ------
    LabelError, SchemaMismatch, NotFinite, DatumwiseError
        Labels outside 0..K-1 or all the same, lengths that differ, rows that are no probabilities.
    UnknownName
        No such rule.

    Examples
    --------
    >>> find_label_issues([0, 0, 0, 1, 1, 1],
    ...                   [[.9, .1], [.8, .2], [.1, .9], [.2, .8], [.1, .9], [.3, .7]]).tolist()
    [False, False, True, False, False, False]
    """
    if filter_by not in (*FILTERS, OURS):
        raise UnknownName(f"there is no filter_by {filter_by!r}", remedy=f"one of {', '.join((*FILTERS, OURS))}")
    labels, probs = labelled_probabilities(labels, pred_probs)
    several_classes(labels)

    if filter_by in ("low_self_confidence", "low_normalized_margin"):
        quality = self_confidence if filter_by == "low_self_confidence" else normalized_margin
        count = np.count_nonzero(_off_diagonal(labels, probs) & ~_label_is_likeliest(labels, probs))
        flag = np.zeros(len(labels), bool)
        flag[np.argsort(quality(probs, labels))[:count]] = True
        return flag

    if filter_by == OURS:
        joint = _calibrated(_confident_counts(labels, probs), labels)
        flag = np.zeros(len(labels), bool)
        flag[np.argsort(normalized_margin(probs, labels), kind="stable")[: joint.sum() - joint.trace()]] = True
    elif filter_by == "confident_learning":
        flag = _off_diagonal(labels, probs)
    elif filter_by == "predicted_neq_given":
        flag = probs.argmax(axis=1) != labels
    else:
        flag = _prune(labels, probs, filter_by, min_examples_per_class)
    return flag & ~_label_is_likeliest(labels, probs)


def confident_thresholds(labels: Any, pred_probs: Any) -> np.ndarray:
    """Mean probability t_k of class k over the datapoints labelled k (eq. 2 of the paper).

    Parameters
    ----------
    labels : array (n,) of int in 0..K-1
    pred_probs : float array (n, K)

    Returns
    -------
    float (K,)
        At least 2e-6; 2 for a class that no label names.

    Examples
    --------
    >>> confident_thresholds([0, 0, 1], [[.9, .1], [.7, .3], [.4, .6]]).round(6).tolist()
    [0.8, 0.6]
    """
    labels, probs = labelled_probabilities(labels, pred_probs)
    return _thresholds(labels, probs)


def confident_joint(labels: Any, pred_probs: Any, calibrate: bool = True) -> np.ndarray:
    """Counts C[i, j] of datapoints labelled i that confidently are of class j (eq. 1 and 3 of the paper).

    A datapoint is of class j with confidence if p_j >= t_j - 1e-6; with several such classes its most
    probable class counts, with none it is left out. Every diagonal entry is at least 1.

    Parameters
    ----------
    labels : array (n,) of int in 0..K-1
    pred_probs : float array (n, K)
    calibrate : bool, default True
        Scale row i to the number of datapoints labelled i and round so that rows keep their sums (eq. 3). The
        joint distribution of given and true label is then C / n, the prior of the true label its column sums.

    Returns
    -------
    int64 (K, K)
    """
    labels, probs = labelled_probabilities(labels, pred_probs)
    counts = _confident_counts(labels, probs)
    return _calibrated(counts, labels) if calibrate else counts


@score(
    needs=("probs", "labels"),
    higher="flagged: the label is probably wrong",
    source="Northcutt et al., 2021, section 3.2",
)
def label_issue(probs: np.ndarray, labels: np.ndarray, *, filter_by: str = "prune_by_noise_rate") -> np.ndarray:
    """Is the label probably wrong? The rule of confident learning, `find_label_issues`.

    Parameters
    ----------
    probs : float (n, K)
        Out-of-fold class probabilities.
    labels : int (n,)
    filter_by : str
        See `find_label_issues`.

    Returns
    -------
    bool (n,)
    """
    return find_label_issues(labels, probs, filter_by)


def _thresholds(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    K = probs.shape[1]
    given = probs[np.arange(len(labels)), labels][np.argsort(labels, kind="stable")]
    ends = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=K))])
    means = [given[a:b].mean() if b > a else ABSENT for a, b in itertools.pairwise(ends)]
    return np.clip(np.asarray(means), 2 * TOLERANCE, None)


def _row_blocks(probs: np.ndarray) -> Iterator[slice]:
    step = max(1, BLOCK // probs.shape[1])
    return (slice(start, start + step) for start in range(0, len(probs), step))


def _confident_class(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """int64 (n,): the class a datapoint is confidently of, -1 for none."""
    floor = _thresholds(labels, probs) - TOLERANCE
    guess = np.empty(len(labels), np.int64)
    for rows in _row_blocks(probs):
        confident = probs[rows] >= floor
        several = np.count_nonzero(confident, axis=1)
        guess[rows] = np.where(several > 1, probs[rows].argmax(axis=1), confident.argmax(axis=1))
        guess[rows][several == 0] = -1
    return guess


def _off_diagonal(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    guess = _confident_class(labels, probs)
    return (guess >= 0) & (guess != labels)


def _confident_counts(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    K = probs.shape[1]
    guess = _confident_class(labels, probs)
    sure = guess >= 0
    # laid out by columns as cleanlab's is: sums over it round alike, and so do entries that end in a half
    counts = np.bincount(guess[sure] * K + labels[sure], minlength=K * K).reshape(K, K).T
    np.fill_diagonal(counts, np.maximum(counts.diagonal(), 1))
    return counts


def _calibrated(counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    per_class = np.bincount(labels, minlength=len(counts))
    scaled = (counts.T / np.maximum(counts.sum(axis=1), TINY) * per_class).T
    scaled = scaled / max(scaled.sum(), TINY) * int(per_class.sum())
    return np.array([_round_to_sum(row) for row in scaled])


def _round_to_sum(row: np.ndarray) -> np.ndarray:
    """Round to integers that keep the sum: the entries nearest to the next integer give way."""
    whole = row.round()
    target = row.sum().round()
    while (missing := round(target - whole.sum())) != 0:
        order = np.argsort(row - whole)
        changed = order[::-1][:missing] if missing > 0 else order[:-missing]
        whole[changed] += np.sign(missing)
    return whole.astype(np.int64)


def _prune_counts(labels: np.ndarray, probs: np.ndarray, least: int) -> np.ndarray:
    """int64 (K, K): how many labelled i are to go as class j; the diagonal says how many stay, >= least."""
    joint = _calibrated(_confident_counts(labels, probs), labels)
    stay = np.maximum(joint.diagonal(), least)
    raised = stay - joint.diagonal()
    noisy = np.maximum(np.count_nonzero(joint, axis=1) - 1.0, 1.0)  # entries the raise is taken from
    counts = np.maximum(joint - (raised / noisy)[:, None], 0)
    np.fill_diagonal(counts, stay)
    return counts.astype(np.int64)


def _prune(labels: np.ndarray, probs: np.ndarray, rule: str, least: int) -> np.ndarray:
    counts = _prune_counts(labels, probs, least)
    by_class = np.zeros(len(labels), bool)
    by_rate = np.zeros(len(labels), bool)
    order = np.argsort(labels, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(counts)))])
    for i in np.flatnonzero(np.diff(ends) > max(least, 1)):
        members = order[ends[i] : ends[i + 1]]
        given = probs[members, i]
        if rule != "prune_by_noise_rate":
            going = len(members) - counts[i, i]
            by_class[members[np.argsort(given)[: max(going, 0)]]] = True
        if rule != "prune_by_class":
            for j in np.flatnonzero(counts[i]):
                if j != i:
                    margin = probs[members, j] - given
                    by_rate[members[np.argsort(-margin)[: counts[i, j]]]] = True
    return {"prune_by_class": by_class, "prune_by_noise_rate": by_rate, "both": by_class & by_rate}[rule]


def _label_is_likeliest(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    likeliest = np.empty(len(labels), bool)
    for rows in _row_blocks(probs):
        favoured = probs[rows].copy()
        favoured[np.arange(len(favoured)), labels[rows]] += TOLERANCE
        likeliest[rows] = favoured.argmax(axis=1) == labels[rows]
    return likeliest
