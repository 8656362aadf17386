"""Pictures of batch statements: the fan of intervals, set sizes, selection curves, bands, bounds of one number.

Every function takes ``axes=None`` or matplotlib Axes, draws on them and returns them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import DatumwiseError, MissingExtra
from datumwise.predict.inputs import real_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from datumwise.predict.batch_bounds import BatchInterval
    from datumwise.predict.batch_results import BatchBand, BatchIntervals, BatchSets
    from datumwise.predict.selection import FalseClaimCurve, SelectionResult

__all__ = [
    "band_plot",
    "batch_bounds_plot",
    "false_claim_curve_plot",
    "interval_fan",
    "selection_curve",
    "set_sizes",
]

BLUE, RED, GREEN, VIOLET, OCHRE = "#2f5d8a", "#c8553d", "#5a8f69", "#8d6cab", "#b08a3c"  # those of the house's figures
INK, GREY, LINE = "#222222", "#9a9a9a", "#dddddd"
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # behind words that a line may cross
SHOWN = 300  # intervals drawn one by one; more are thinned evenly
INCHES = (7.0, 4.2)


def interval_fan(result: BatchIntervals, truth: Any = None, axes: Axes | None = None) -> Axes:
    """Intervals of a batch, sorted by prediction, with the truth where it is known.

    Parameters
    ----------
    result : BatchIntervals
        Of more than 300 intervals every so-manieth is drawn; all are counted.
    truth : float (m,), optional
    axes : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    DatumwiseError
        The intervals have no predictions: they were made for a number of datapoints.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from datumwise.predict.batch_conformal import BatchConformal
    >>> from sklearn.linear_model import LinearRegression
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.random((100, 1)), rng.random(100)
    >>> model = BatchConformal(LinearRegression().fit(x[:20], y[:20])).calibrate(x[20:90], y[20:90])
    >>> interval_fan(model.predict_interval(x[90:]), y[90:], axes=Figure().subplots()).get_title(loc="left")
    'promised: at least 9 of 10 hold, with probability 0.9; 9 do'
    """
    if not np.isfinite(result.prediction).all():
        raise DatumwiseError(
            "these intervals have no predictions to sort by", remedy="predict_interval of rows, not of their number"
        )
    axes = _axes(axes)
    order = np.argsort(result.prediction, kind="stable")
    m = len(order)
    covered = None if truth is None else result.covered(truth)
    if m > SHOWN:
        order = order[np.linspace(0, m - 1, SHOWN).round().astype(int)]
    at = np.arange(len(order))
    low, high = result.lower[order], result.upper[order]
    ends = [ends[np.isfinite(ends)] for ends in (low, high)]
    y = None if truth is None else real_column(truth, "truth")[order]
    seen = np.concatenate([*ends, result.prediction[order], [] if y is None else y])
    pad = 0.06 * (np.ptp(seen) or 1.0)
    floor, ceiling = seen.min() - pad, seen.max() + pad  # infinite ends run off the picture
    width = max(0.8, min(5.0, 260 / len(order)))
    axes.vlines(
        at, np.maximum(low, floor), np.minimum(high, ceiling), color=BLUE, alpha=0.30, linewidth=width, label="interval"
    )
    axes.plot(at, result.prediction[order], color=BLUE, linewidth=1.2, label="prediction")
    if y is not None and covered is not None:
        held = covered[order]
        size = max(6.0, min(22.0, 1800 / len(order)))
        axes.scatter(at[held], y[held], s=size, color=INK, linewidths=0, zorder=3, label="truth, held")
        axes.scatter(at[~held], y[~held], s=size * 1.8, color=RED, marker="D", linewidths=0, zorder=4, label="truth, missed")
    axes.set_ylim(floor, ceiling)
    axes.set_xlim(-1, len(order))
    axes.set_xlabel("datapoints of the batch, by prediction" + (f" ({len(order)} of {m:,} drawn)" if m > len(order) else ""))
    axes.set_ylabel("outcome")
    promised = f"promised: at least {result.min_covered:,} of {m:,} hold, with probability {1 - result.alpha:g}"
    found = "" if covered is None else f"; {int(covered.sum()):,} do"
    _title(axes, promised + found)
    _plain(axes)
    _legend(axes)
    return axes


def set_sizes(result: BatchSets, truth: Any = None, axes: Axes | None = None) -> Axes:
    """How many label sets have how many labels, and which of them miss the truth where it is known.

    Parameters as `interval_fan`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from datumwise.predict.batch_results import BatchSets
    >>> found = BatchSets(np.eye(3, dtype=bool), np.arange(3), np.arange(3), 2, 0.1, 50, 0.8, 47, 0.91)
    >>> axes = set_sizes(found, [0, 1, 0], axes=Figure().subplots())
    >>> [float(bar.get_height()) for bar in axes.patches]  # hold the truth, miss it
    [2.0, 1.0]
    """
    axes = _axes(axes)
    sizes, K = result.sizes, result.members.shape[1]
    most = int(sizes.max())
    at = np.arange(int(sizes.min()), most + 1)
    held = np.ones(len(sizes), bool) if truth is None else result.covered(truth)
    counts = np.bincount(sizes[held], minlength=most + 1)[at]
    missed = np.bincount(sizes[~held], minlength=most + 1)[at]
    axes.bar(at, counts, width=0.7, color=BLUE, label="hold the truth" if truth is not None else "label sets")
    if truth is not None:
        axes.bar(at, missed, width=0.7, bottom=counts, color=RED, label="miss it")
    tallest = int((counts + missed).max())
    for x, total in zip(at, counts + missed, strict=True):
        if total:
            axes.text(float(x), float(total) + 0.015 * tallest, f"{total:,}", ha="center", va="bottom", fontsize=9, color=INK)
    axes.set_ylim(0, tallest * 1.12)
    axes.set_xticks(at if len(at) <= 20 else at[:: len(at) // 10])
    axes.set_xlim(at[0] - 0.7, max(at[-1], at[0] + 3) + 0.7)
    axes.set_xlabel(f"labels in the set, of {K}")
    axes.set_ylabel("datapoints")
    promised = f"promised: at least {result.min_covered:,} of {len(sizes):,} hold, with probability {1 - result.alpha:g}"
    _title(axes, promised + ("" if truth is None else f"; {int(held.sum()):,} do"))
    _plain(axes)
    if truth is not None:
        _legend(axes)
    return axes


def selection_curve(result: SelectionResult, truth: Any = None, axes: Axes | None = None) -> Axes:
    """Points selected at every cutoff, the p-value of a score there, and the cutoff that was taken.

    Parameters
    ----------
    result : SelectionResult
    truth : bool (m,), optional
        Whether the claim is true, for each point; the false ones selected are then drawn too.
    axes : matplotlib Axes, optional
        The p-values get an axis of their own at the right.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from datumwise.predict.selection import select_count
    >>> found = select_count(np.linspace(-1, 1, 50), [0.5, 1.5, 2.0], alpha=0.1)
    >>> selection_curve(found, axes=Figure().subplots()).get_title(loc="left")
    'promised: at most 0 of the 2 selected are false, with probability 0.9'
    """
    axes = _axes(axes)
    scores = np.sort(result.scores)
    m = len(scores)
    low, high = _span(result.scores)
    axes.step(
        np.append(scores, high),
        np.append(m - np.arange(m), 0),
        where="pre",
        color=BLUE,
        linewidth=1.6,
        label="points above the cutoff",
    )
    if truth is not None:
        false = np.sort(result.scores[~np.asarray(truth, bool)])
        if len(false):
            steps = np.append(len(false) - np.arange(len(false)), 0)
            axes.step(
                np.r_[low, false, high],
                np.r_[len(false), steps],
                where="pre",
                color=RED,
                linewidth=1.4,
                label="of these, false claims",
            )
    grid = np.linspace(low, high, 400)
    nulls = np.sort(result.null_scores)
    p = (1 + len(nulls) - np.searchsorted(nulls, grid, side="left")) / (len(nulls) + 1)
    right = axes.twinx()
    right.plot(grid, p, color=OCHRE, linewidth=1.2, linestyle=(0, (4, 2)), label="p-value (right)")
    right.set_ylim(0, max(0.05, float(p.max())) * 1.06)
    right.set_ylabel("p-value", color=OCHRE)
    right.tick_params(axis="y", colors=OCHRE, length=3)
    for side in ("top", "left", "bottom"):
        right.spines[side].set_visible(False)
    right.spines["right"].set_color(LINE)
    count = int(result.selected.sum())
    if np.isfinite(result.cutoff):
        axes.axvline(result.cutoff, color=INK, linewidth=1)
        axes.axvspan(result.cutoff, high, color=GREEN, alpha=0.10, linewidth=0)
        near = result.cutoff > low + 0.75 * (high - low)
        text, away = f"cutoff {result.cutoff:.3g}\n{count:,} selected", "right" if near else "left"
        _note(axes, text, (result.cutoff, 0.62), (-6 if near else 6, 0), ha=away, va="center")
    axes.set_xlim(low, high)
    axes.set_ylim(0, m * 1.06)
    axes.set_xlabel("cutoff of the score")
    axes.set_ylabel("points")
    if result.control == "fdr":
        promised = f"expected share of false claims at most {result.alpha:g}; {count:,} selected"
    else:
        promised = f"at most {result.max_false} of the {count:,} selected are false, with probability {1 - result.alpha:g}"
    if truth is not None:
        promised += f"; {int((result.selected & ~np.asarray(truth, bool)).sum()):,} are"
    _title(axes, "promised: " + promised)
    _plain(axes)
    lines = [*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    axes.legend(handles=lines, frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(lines))
    return axes


def false_claim_curve_plot(curve: FalseClaimCurve, truth: Any = None, axes: Axes | None = None) -> Axes:
    """Points claimed against the upper bound of the false ones among them.

    Parameters
    ----------
    curve : FalseClaimCurve
    truth : bool (m,), optional
        Whether the claim is true: the false claims are then drawn too.
    axes : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from datumwise.predict.selection import false_claim_curve
    >>> curve = false_claim_curve(np.linspace(-1, 1, 50), [0.5, 1.5, 2.0], alpha=0.1)
    >>> false_claim_curve_plot(curve, axes=Figure().subplots()).get_ylabel()
    'false claims'
    """
    axes = _axes(axes)
    m = len(curve.scores)
    axes.plot([0, m], [0, m], color=GREY, linewidth=1, linestyle=(0, (2, 2)), label="all false")
    axes.step(curve.n_selected, curve.max_false, where="post", color=BLUE, linewidth=1.6, label="at most so many false")
    axes.fill_between(curve.n_selected, curve.max_false, step="post", color=BLUE, alpha=0.10, linewidth=0)
    if truth is not None:
        bad = curve.scores[~np.asarray(truth, bool)]
        found = len(bad) - np.searchsorted(np.sort(bad), curve.cutoffs, side="right")
        axes.step(curve.n_selected, found, where="post", color=RED, linewidth=1.4, label="false in truth")
    axes.set_xlim(0, m)
    axes.set_ylim(0, max(1.0, float(curve.max_false.max())) * 1.06)
    axes.set_xlabel("points claimed, the most promising first")
    axes.set_ylabel("false claims")
    _title(axes, f"promised at every cutoff together, with probability {1 - curve.alpha:g}")
    _plain(axes)
    _legend(axes, loc="upper left")
    return axes


def band_plot(band: BatchBand, truth: Any = None, axes: Axes | None = None) -> Axes:
    """Band of the batch's distribution function, and that of the truth where it is known.

    Parameters
    ----------
    band : BatchBand
    truth : float (m,), optional
        Outcomes, or scores, of the batch.
    axes : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from datumwise.predict.batch_conformal import BatchConformal
    >>> band = BatchConformal().calibrate_scores(np.linspace(0, 1, 101)).predict_band(5)
    >>> band_plot(band, axes=Figure().subplots()).get_xlabel()
    'score'
    """
    axes = _axes(axes)
    m = len(band)
    y = None if truth is None else np.sort(real_column(truth, "truth"))
    seen = np.concatenate([band.lower[np.isfinite(band.lower)], band.upper[np.isfinite(band.upper)], [] if y is None else y])
    low, high = _span(seen) if len(seen) else (0.0, 1.0)
    share = np.arange(m + 1) / m
    # the z-th smallest lies in [lower_z, upper_z]: the distribution function reaches z / m there
    late = np.clip(np.append(band.upper, high), low, high)
    early = np.clip(np.append(band.lower, high), low, high)
    grid = np.unique(np.concatenate([[low, high], late, early]))
    least = share[np.searchsorted(np.sort(late[:-1]), grid, side="right")]
    most = share[np.searchsorted(np.sort(early[:-1]), grid, side="right")]
    axes.fill_between(grid, least, most, step="post", color=BLUE, alpha=0.18, linewidth=0, label=f"band, {1 - band.alpha:g}")
    axes.step(grid, least, where="post", color=BLUE, linewidth=1.0)
    axes.step(grid, most, where="post", color=BLUE, linewidth=1.0)
    if y is not None:
        axes.step(
            np.concatenate([[low], y, [high]]),
            np.concatenate([[0], share[1:], [1]]),
            where="post",
            color=INK,
            linewidth=1.4,
            label="truth",
        )
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(band.of)
    axes.set_ylabel("share of the batch at or below")
    _title(axes, f"promised: all {m:,} sorted {band.of}s lie in the band, with probability {1 - band.alpha:g}")
    _plain(axes)
    _legend(axes, loc="upper left")
    return axes


def batch_bounds_plot(
    bounds: BatchInterval | Mapping[str, BatchInterval], truth: float | None = None, axes: Axes | None = None
) -> Axes:
    """Bounds of one number of the batch, several methods one below the other.

    Parameters
    ----------
    bounds : BatchInterval, or mapping of name to BatchInterval
        For example that of the rank sum beside that of the partition.
    truth : float, optional
        The number itself.
    axes : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from datumwise.predict.batch_bounds import batch_sum_bound
    >>> scores = np.linspace(0, 1, 100)
    >>> bounds = {name: batch_sum_bound(scores, 5, 0.2, method=name) for name in ("partition", "rank_sum")}
    >>> axes = batch_bounds_plot(bounds, truth=0.5, axes=Figure().subplots())
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['partition', 'rank_sum']
    """
    several = isinstance(bounds, Mapping)
    named = dict(bounds) if isinstance(bounds, Mapping) else {bounds.method: bounds}
    if not named:
        raise DatumwiseError("there are no bounds to draw")
    axes = _axes(axes, (7.0, 1.5 + 0.5 * len(named)))
    ends = np.array([[b.lower, b.upper] for b in named.values()])
    seen = np.append(ends[np.isfinite(ends)], [] if truth is None else truth)
    low, high = _span(seen) if len(seen) else (0.0, 1.0)
    room = 0.2 * (high - low)  # for the arrow of an end that is not bounded
    low, high = low - room * np.isneginf(ends).any(), high + room * np.isposinf(ends).any()
    for place, (a, b) in enumerate(ends):
        at = -place
        axes.hlines(at, max(a, low), min(b, high), color=BLUE, linewidth=3.5, alpha=0.85)
        for end, arrow in ((a, "<"), (b, ">")):
            if np.isfinite(end):
                axes.plot([end], [at], marker="|", markersize=13, markeredgewidth=2, color=BLUE)
                axes.annotate(
                    f"{end:.4g}",
                    (end, at),
                    xytext=(0, 9),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                    color=INK,
                    bbox=WHITE,
                )
            else:
                axes.plot([low if end < 0 else high], [at], marker=arrow, markersize=8, color=BLUE, clip_on=False)
    if truth is not None:
        axes.axvline(truth, color=RED, linewidth=1.4, zorder=0)
        right = truth > low + 0.85 * (high - low)
        _note(axes, "truth", (truth, 1), (-4 if right else 4, 0), ha="right" if right else "left", va="top", colour=RED)
    first = next(iter(named.values()))
    axes.set_yticks(-np.arange(len(named)), list(named))
    axes.set_ylim(-len(named) + 0.4, 0.8)
    axes.set_xlim(low, high)
    axes.set_xlabel(f"{first.statistic} of the batch")
    levels = {1 - b.alpha for b in named.values()}
    each = "each " if several and len(named) > 1 else ""
    _title(axes, f"{each}with probability {levels.pop():g}" if len(levels) == 1 else "at different levels")
    _plain(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=LINE, linewidth=0.7)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, pad=8)
    return axes


def _axes(axes: Axes | None, inches: tuple[float, float] = INCHES) -> Axes:
    if axes is not None:
        return axes
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtra("a picture needs matplotlib", remedy="pip install 'datumwise[reproduce]'") from error
    return plt.subplots(figsize=inches, layout="constrained")[1]


def _span(values: np.ndarray) -> tuple[float, float]:
    """Ends of an axis that shows all values with some room."""
    pad = 0.05 * (float(np.ptp(values)) or 1.0)
    return float(values.min()) - pad, float(values.max()) + pad


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10, color=INK)


def _legend(axes: Axes, loc: str | None = None) -> None:
    if loc is None:
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4)
    else:
        axes.legend(frameon=False, fontsize=9, loc=loc)


def _note(
    axes: Axes, text: str, at: tuple[float, float], away: tuple[float, float], *, ha: str, va: str, colour: str = INK
) -> None:
    """Words beside a place: x in data, y as a share of the axes."""
    axes.annotate(
        text,
        at,
        xycoords=("data", "axes fraction"),
        xytext=away,
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=9,
        color=colour,
    )
