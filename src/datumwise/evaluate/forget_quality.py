"""Is a classifier as if it had never seen them? Its answers before and after forgetting, beside those of a retrained one.

Three questions: does it still answer the forgotten datapoints better than unseen ones (accuracy, and membership by loss: Yeom
et al., 2018), does it answer as the model that was trained without them does (agreement, Jensen-Shannon divergence), and what
else went (accuracy on retained and held-out datapoints). Each with a bootstrap interval over datapoints, paired between the
models, and each per datapoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, name_some
from datumwise.evaluate.datapoint_draws import DatapointDraws, places
from datumwise.evaluate.removal import Interval

__all__ = ["ForgetQuality", "QualityRow", "forget_quality"]

PARTS = ("forget", "retain", "test")
FLOOR = 1e-12  # probability floor of a loss
OFF = 1e-3  # a row of probabilities may miss 1 by this


@dataclass(frozen=True)
class QualityRow:
    """One model: "before", "after" or "retrained".

    Attributes
    ----------
    name : str
    accuracy : dict of "forget", "retain", "test" to Interval
        Shares.
    membership : Interval
        AUC of "member" by loss: P(a forgotten datapoint has a lower loss than a held-out one) + P(equal)/2. 0.5: the two cannot
        be told apart; 1: the forgotten ones are known by heart; below 0.5: they stand out as worse than unseen.
    agreement : dict of part to Interval, or None
        Share of datapoints that the model and the retrained one put in the same class; None without a retrained model.
    divergence : dict of part to Interval, or None
        Mean Jensen-Shannon divergence of the two models' probabilities, in bits: 0 the same, 1 nothing in common.
    """

    name: str
    accuracy: dict[str, Interval]
    membership: Interval
    agreement: dict[str, Interval] | None
    divergence: dict[str, Interval] | None


@dataclass(frozen=True)
class ForgetQuality:
    """What forgetting did to a classifier.

    Attributes
    ----------
    rows : tuple of QualityRow
        Before, after and, where there is one, retrained.
    left_over : Interval
        Membership of "after" minus that of "retrained" (without one: minus 0.5), paired. Above 0: still recognised; below:
        forgotten more than was never known.
    left_over_before : Interval
        The same of "before": what there was to forget.
    accuracy_gap : dict of part to Interval
        Accuracy of "after" minus "retrained" (without one: minus "before"), paired.
    verdict : {"as retrained", "still recognised", "over-forgotten", "nothing to tell"}
        By the interval of ``left_over``; "nothing to tell" where that contains 0 and so does the one of ``left_over_before``.
        Without a retrained model "as retrained" is called "as unseen".
    smallest_shown : float
        Half the width of the interval of ``left_over``: a smaller rest cannot be seen with so few datapoints.
    n : dict of part to int
    per_item : dict of str to ndarray
        Of the forgotten datapoints, in the order they were given: ``id``; ``loss_before``, ``loss_after`` (nats);
        ``rank_before``, ``rank_after``: share of held-out datapoints with a lower loss (0: better known than any unseen
        one), ties by half; ``correct_before``, ``correct_after``; and with a retrained model ``loss_retrained``,
        ``rank_retrained``, ``correct_retrained``, ``same_class`` and ``divergence`` of after and retrained.
    """

    rows: tuple[QualityRow, ...]
    left_over: Interval
    left_over_before: Interval
    accuracy_gap: dict[str, Interval]
    verdict: str
    smallest_shown: float
    n: dict[str, int]
    per_item: dict[str, np.ndarray] = field(repr=False)

    def row(self, name: str) -> QualityRow:
        """The row of "before", "after" or "retrained"."""
        return next(row for row in self.rows if row.name == name)

    def table(self) -> str:
        """Models by measures, as text."""
        heads = ["", *(f"accuracy {part}" for part in PARTS), "member AUC"]
        compared = self.rows[0].agreement is not None
        heads += ["agrees forget", "agrees test", "JS forget"] if compared else []
        cells = [heads]
        for row in self.rows:
            line = [row.name, *(_shown(row.accuracy[part], 100, 1) for part in PARTS), _shown(row.membership, 1, 3)]
            if row.agreement is not None and row.divergence is not None:
                line += [_shown(row.agreement[part], 100, 1) for part in ("forget", "test")]
                line += [_shown(row.divergence["forget"], 1, 4)]
            cells.append(line)
        widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
        lines = []
        for line in cells:
            first, *others = zip(line, widths, strict=True)
            lines.append("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]))
        against = "the retrained model's" if compared else "chance"
        left, was = _shown(self.left_over, 1, 3), _shown(self.left_over_before, 1, 3)
        lines += ["", f"{self.verdict}: member AUC minus {against} {left}, before forgetting {was}"]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "left_over": asdict(self.left_over),
            "left_over_before": asdict(self.left_over_before),
            "accuracy_gap": {part: asdict(gap) for part, gap in self.accuracy_gap.items()},
            "verdict": self.verdict,
            "smallest_shown": self.smallest_shown,
            "n": self.n,
            "per_item": {name: [str(i) for i in v] if name == "id" else v.tolist() for name, v in self.per_item.items()},
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """One JSON document, also written to ``path``."""
        text = json.dumps(self.to_dict(), ensure_ascii=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text


def forget_quality(
    before: Any,
    after: Any,
    retrained: Any,
    forget: Any,
    retain: Any,
    test: Any,
    *,
    y: Any,
    classes: Any = None,
    ids: Sequence[Any] | None = None,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> ForgetQuality:
    """Compare a classifier before and after forgetting with one that was trained without the forgotten datapoints.

    Parameters
    ----------
    before, after : float (n, C)
        Probabilities of the same n datapoints: all that ``forget``, ``retain`` and ``test`` point to.
    retrained : float (n, C) or None
        Of the model that was trained on ``retain`` alone. None: membership is held against 0.5, which is right only where
        forgotten and held-out datapoints are alike.
    forget, retain, test : int positions or bool (n,)
        Rows that were to be forgotten, rows that were kept, and rows that no model was trained on. No row is in two.
    y : (n,)
        Labels: class codes 0..C-1, or members of ``classes``.
    classes : (C,), optional
        Label of each column.
    ids : sequence (n,), optional
        Default: positions.
    n_bootstrap : int
        Draws of datapoints (percentile intervals; the same draw for all models, so that differences are paired).
    level : float
        Of the intervals.
    seed : int

    Returns
    -------
    ForgetQuality

    Raises
    ------
    SchemaMismatch
        Shapes differ, a row is not there, or is in two parts.
    EmptyData
        A part has no row.
    NotFinite
        A probability is NaN, infinite, or a row does not sum to 1.
    LabelError
        A label is no class.

    References
    ----------
    Yeom, Giacomelli, Fredrikson and Jha, *Privacy risk in machine learning*, CSF 2018 (membership by loss).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 300); known, unseen = np.eye(2)[y] * 0.9 + 0.05, rng.dirichlet([1, 1], 300)
    >>> part = np.arange(300) // 100
    >>> before = np.where((part < 2)[:, None], known, unseen)
    >>> after = np.where((part == 1)[:, None], known, unseen)
    >>> found = forget_quality(before, after, None, part == 0, part == 1, part == 2, y=y)
    >>> found.row("before").membership.value > 0.9, found.verdict
    (True, 'as unseen')
    """
    models = {"before": _probabilities(before, "before"), "after": _probabilities(after, "after")}
    if retrained is not None:
        models["retrained"] = _probabilities(retrained, "retrained")
    shapes = {p.shape for p in models.values()}
    if len(shapes) > 1:
        raise SchemaMismatch(f"the models' probabilities have the shapes {', '.join(map(str, sorted(shapes)))}")
    n, n_classes = models["before"].shape
    code = _codes(y, classes, n, n_classes)
    rows = {part: _rows(given, n, part) for part, given in zip(PARTS, (forget, retain, test), strict=True)}
    _apart(rows)
    names = np.arange(n) if ids is None else np.asarray(ids, dtype=object)
    if len(names) != n:
        raise SchemaMismatch(f"{len(names):,} ids were given for {n:,} datapoints")
    if not 0 < level < 1 or n_bootstrap < 1:
        raise DatumwiseError(f"level {level} of {n_bootstrap} draws is no interval", remedy="choose a level between 0 and 1")

    losses = {name: -np.log(np.maximum(p[np.arange(n), code], FLOOR)) for name, p in models.items()}
    right = {name: (p.argmax(1) == code).astype(float) for name, p in models.items()}
    reference = models.get("retrained")
    same: dict[str, np.ndarray] = {}
    apart: dict[str, np.ndarray] = {}
    if reference is not None:
        same = {name: (p.argmax(1) == reference.argmax(1)).astype(float) for name, p in models.items()}
        apart = {name: _jensen_shannon(p, reference) for name, p in models.items()}

    draws = DatapointDraws(rows, losses, n_bootstrap, level, seed)
    measures = {("right", name): v for name, v in right.items()}
    measures |= {("same", name): v for name, v in same.items()} | {("apart", name): v for name, v in apart.items()}
    means = {part: draws.means(part, measures) for part in PARTS}  # part -> measure -> (value, draws)
    members = draws.memberships()
    table = tuple(
        QualityRow(
            name,
            {part: draws.interval(*means[part]["right", name]) for part in PARTS},
            draws.interval(*members[name]),
            {part: draws.interval(*means[part]["same", name]) for part in PARTS} if reference is not None else None,
            {part: draws.interval(*means[part]["apart", name]) for part in PARTS} if reference is not None else None,
        )
        for name in models
    )
    anchor = members.get("retrained", (0.5, np.full(n_bootstrap, 0.5)))
    left, was = (draws.difference(members[name], anchor) for name in ("after", "before"))
    other = "retrained" if reference is not None else "before"
    gap = {part: draws.difference(means[part]["right", "after"], means[part]["right", other]) for part in PARTS}
    per_item = _per_item(names, rows, losses, right, same, apart)
    return ForgetQuality(
        rows=table,
        left_over=left,
        left_over_before=was,
        accuracy_gap=gap,
        verdict=_verdict(left, was, retrained=reference is not None),
        smallest_shown=(left.high - left.low) / 2,
        n={part: len(r) for part, r in rows.items()},
        per_item=per_item,
    )


def _verdict(left: Interval, was: Interval, *, retrained: bool) -> str:
    if left.low > 0:
        return "still recognised"
    if left.high < 0:
        return "over-forgotten"
    if was.low <= 0 <= was.high:
        return "nothing to tell"
    return "as retrained" if retrained else "as unseen"


def _jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(n,) divergence in bits, 0..1."""
    middle = (p + q) / 2

    def to_middle(a: np.ndarray) -> np.ndarray:
        ratio = np.divide(a, middle, out=np.ones_like(a), where=a > 0)
        return (a * np.log2(ratio)).sum(1)

    return np.clip((to_middle(p) + to_middle(q)) / 2, 0, 1)


def _per_item(
    names: np.ndarray,
    rows: dict[str, np.ndarray],
    losses: dict[str, np.ndarray],
    right: dict[str, np.ndarray],
    same: dict[str, np.ndarray],
    apart: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    forget, test = rows["forget"], rows["test"]
    found: dict[str, np.ndarray] = {"id": names[forget]}
    for name, loss in losses.items():
        _, below, up_to = places(loss[test], loss[forget])
        found[f"loss_{name}"] = loss[forget]
        found[f"rank_{name}"] = (below + up_to) / (2 * len(test))
        found[f"correct_{name}"] = right[name][forget].astype(bool)
    if same:
        found["same_class"] = same["after"][forget].astype(bool)
        found["divergence"] = apart["after"][forget]
    return found


# --- what can be wrong ------------------------------------------------------------------------------------------------------


def _probabilities(given: Any, name: str) -> np.ndarray:
    """float64 (n, C) of rows that sum to 1, or a refusal; (n,) is the probability of the second of two classes."""
    p = np.asarray(given, float)
    if p.ndim == 1:
        p = np.stack([1 - p, p], axis=1)
    if p.ndim != 2 or p.shape[1] < 2:
        raise SchemaMismatch(f"the probabilities of {name!r} have shape {p.shape}, expected (n, classes)")
    bad = np.flatnonzero(~np.isfinite(p).all(1))
    if len(bad):
        raise NotFinite(f"the probabilities of {name!r} hold NaN or infinity in row {name_some(bad)}", ids=bad.tolist())
    off = np.flatnonzero((p < -OFF).any(1) | (np.abs(p.sum(1) - 1) > OFF))
    if len(off):
        raise NotFinite(
            f"row {name_some(off)} of {name!r} is no distribution (it sums to {p[off[0]].sum():.4g})",
            remedy="give probabilities, not scores",
            ids=off.tolist(),
        )
    return np.maximum(p, 0) / np.maximum(p, 0).sum(1, keepdims=True)


def _codes(y: Any, classes: Any, n: int, n_classes: int) -> np.ndarray:
    """int (n,): column of each label."""
    labels = np.asarray(y)
    if labels.shape != (n,):
        raise SchemaMismatch(f"y has shape {labels.shape} for {n:,} datapoints")
    names = np.arange(n_classes) if classes is None else np.asarray(classes)
    if len(names) != n_classes:
        raise SchemaMismatch(f"{len(names)} classes were given for {n_classes} columns")
    column = {name: at for at, name in enumerate(names.tolist())}
    code = np.array([column.get(label, -1) for label in labels.tolist()])
    if (code < 0).any():
        unknown = np.unique(labels[code < 0])
        raise LabelError(f"label {name_some(unknown)} is no class", remedy=f"the classes are {name_some(names, shown=10)}")
    return code


def _rows(given: Any, n: int, part: str) -> np.ndarray:
    """Positions of a part, as given by positions or a mask."""
    rows = np.asarray(list(given) if isinstance(given, range | set | frozenset) else given)
    if rows.dtype == bool and rows.shape == (n,):
        rows = np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise SchemaMismatch(f"{part} must be positions or a mask of {n:,}; got shape {rows.shape} of {rows.dtype}")
    if not rows.size:
        raise EmptyData(f"{part} has no datapoint")
    bad = rows[(rows < 0) | (rows >= n)]
    if len(bad):
        raise SchemaMismatch(f"{part} has rows that are not among the {n:,}: {name_some(bad)}", ids=bad.tolist())
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise SchemaMismatch(f"{part} has row {name_some(values[counts > 1])} twice")
    return rows


def _apart(rows: dict[str, np.ndarray]) -> None:
    for a, b in (("forget", "retain"), ("forget", "test"), ("retain", "test")):
        both = np.intersect1d(rows[a], rows[b])
        if len(both):
            raise SchemaMismatch(f"row {name_some(both)} is in both {a} and {b}", ids=both.tolist())


def _shown(interval: Interval, factor: float, digits: int) -> str:
    low, value, high = (f"{factor * v:.{digits}f}" for v in (interval.low, interval.value, interval.high))
    return f"{value} [{low}, {high}]"
