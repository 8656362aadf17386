"""Batch predictive inference (Lee et al., 2024): what can be promised of a whole batch of predictions at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import DatumwiseError, SourceError, UnknownName
from datumwise.progress import Stage
from datumwise.reproduce.batch_pi_studies import (
    Coverage,
    MeanBound,
    RankLevel,
    Selections,
    batch_coverage,
    counterfactual,
    diabetes_splits,
    disjoint_splits,
    fair_predictions,
    false_claims,
    iid_rank_levels,
    mean_bounds,
    read_predictions,
    simulation_1,
    simulation_selection,
)
from datumwise.reproduce.frame import COLOURS, Claim, Experiment, Reproduction, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "paper", "small"]

SOURCE = "Lee, Tchetgen Tchetgen & Dobriban, 2024, arXiv 2409.13990"
NEEDED = "--data dti=FILE.csv with the columns y and prediction, one row a drug-target pair the model was not fitted on"
GREY = "#9a9a9a"
ALPHAS = (0.05, 0.1, 0.2, 0.3)
ETAS = (0, 3, 5)
# The authors' scripts as they are, 500 trials: mean coverage, share of batches covered as asked, width
PUBLISHED_SIMULATION = {
    None: (0.9018, 0.600, 19.16),
    0.1: (0.936, 0.878, 22.13),
    0.05: (0.946, 0.936, 23.36),
    0.01: (0.965, 0.986, 26.54),
}
# Their files of drug-target pairs on disjoint random splits (as they come, calibration and test rows are the same)
PUBLISHED_DTI = {None: 0.586, 0.05: 0.960, 0.1: 0.911, 0.2: 0.816, 0.3: 0.711}
PUBLISHED_DTI_CLAIMS = {0: (0.093, 1.3), 3: (0.088, 7.4), 5: (0.094, 10.1)}
THRESHOLD_DTI = 7.0
THRESHOLD_FAIR = 12.0  # years of marriage


def small(
    *,
    model: str | None = None,
    data: str | None = None,
    seed: int = 0,
    stage: Stage,
    trials: int = 500,
    splits: int = 1000,
    repeats: int = 200,
) -> Reproduction:
    """The published simulations, and two real data sets that ship with scikit-learn and statsmodels; minutes on one core.

    Parameters
    ----------
    model, data
        Not for this scale.
    seed : int
    stage : Stage
    trials : int
        Of every simulation.
    splits : int
        Of every real data set.
    repeats : int
        Of each setting of the bounds on a mean.
    """
    if model is not None or data is not None:
        raise DatumwiseError("scale small draws its own data and fits its own models", remedy="use --scale paper for --data")
    coverage, selections, rest = _simulations(trials, repeats, seed, stage)
    stage.begin("split", "diabetes, ridge regression, n = 142, m = 100")
    coverage["diabetes"] = diabetes_splits(trials=splits, seed=seed, progress=stage.progress)
    stage.end(_told(coverage["diabetes"]))
    stage.begin("split", "years of marriage, 5,000 rows, n = 500 and 2,000, m = 100")
    y, prediction = fair_predictions(seed)
    coverage["marriage"], selections["marriage"] = _splits(y, prediction, THRESHOLD_FAIR, splits, seed)
    stage.end(_told(coverage["marriage"]))
    return _reproduction(coverage, selections, seed=seed, **rest)


def paper(
    *,
    model: str | None = None,
    data: str | None = None,
    seed: int = 0,
    stage: Stage,
    trials: int = 500,
    splits: int = 4000,
    repeats: int = 400,
) -> Reproduction:
    """The published simulations, and drug-target interaction: predictions of any model, read from a CSV file.

    Parameters
    ----------
    model
        Not used: the file holds predictions.
    data : str
        ``dti=FILE.csv``, columns ``y`` and ``prediction``. The published rows are the affinities (log scale) of the
        authors' repository; calibration rows and batches are dealt from them at random, disjoint.
    seed, stage, trials, splits, repeats
        As `small`.
    """
    name, _, path = (data or "").partition("=")
    if not data or (name == "dti" and not path):
        raise SourceError("this scale needs predictions of drug-target interactions", remedy=NEEDED)
    if name != "dti":
        raise UnknownName(f"there is no data set {name!r} here", remedy=NEEDED)
    y, prediction = read_predictions(path)
    if len(y) < 2100:
        raise SourceError(f"{path} has {len(y):,} rows", remedy="at least 2,100: 2,000 of calibration and 100 of a batch")
    coverage, selections, rest = _simulations(trials, repeats, seed, stage)
    stage.begin("split", f"drug-target pairs, {len(y):,} rows, n = 500 and 2,000, m = 100")
    coverage["dti"], selections["dti"] = _splits(y, prediction, THRESHOLD_DTI, splits, seed)
    stage.end(_told(coverage["dti"]))
    return _reproduction(coverage, selections, seed=seed, **rest)


def _simulations(
    trials: int, repeats: int, seed: int, stage: Stage
) -> tuple[dict[str, list[Coverage]], dict[str, list[Selections]], dict[str, Any]]:
    stage.begin("simulate", "intervals of a random forest, n = 200, m = 100")
    coverage = {"simulation": simulation_1(trials=trials, seed=seed, progress=stage.progress)}
    stage.end(_told(coverage["simulation"]))
    stage.begin("simulate", "claims of a random forest, n = 1,000, m = 100")
    selections = {"simulation": simulation_selection(trials=trials, seed=seed, progress=stage.progress)}
    worst = max(s.often for s in selections["simulation"])
    stage.end(f"more false claims than allowed in at most {worst:.1%} of batches")
    stage.begin("simulate", "counterfactual median, quartiles and mean")
    counter = counterfactual(trials=trials, seed=seed, progress=stage.progress)
    stage.end(f"median covered in {counter['median'][2]:.1%} of batches at 90 %")
    stage.begin("simulate", "five bounds on a batch mean")
    bounds = mean_bounds(trials=repeats, seed=seed, progress=stage.progress)
    stage.end(f"{len(bounds)} bounds")
    return coverage, selections, {"counter": counter, "bounds": bounds, "levels": iid_rank_levels(), "trials": trials}


def _splits(
    y: np.ndarray, prediction: np.ndarray, threshold: float, splits: int, seed: int
) -> tuple[list[Coverage], list[Selections]]:
    """PAC coverage at n = 500 and claims at n = 2,000, batches of 100."""
    ys, ps = disjoint_splits(y, prediction, 500, 100, splits, seed)
    scores = np.abs(ys - ps)
    coverage = batch_coverage(scores[:, :500], scores[:, 500:], ALPHAS)
    ys, ps = disjoint_splits(y, prediction, 2000, 100, splits, seed + 1)
    claims = false_claims(ps[:, :2000], ys[:, :2000], ps[:, 2000:], ys[:, 2000:], threshold, ETAS, 0.1)
    return coverage, claims


def _told(coverage: Sequence[Coverage]) -> str:
    return "; ".join(f"{_rule(c)}: {c.often:.3f} of batches covered as asked" for c in coverage[:2])


def _rule(c: Coverage) -> str:
    return c.rule if c.alpha is None else f"{c.rule}, alpha = {c.alpha:g}"


def _reproduction(
    coverage: Mapping[str, list[Coverage]],
    selections: Mapping[str, list[Selections]],
    *,
    counter: Mapping[str, np.ndarray],
    bounds: Sequence[MeanBound],
    levels: Sequence[RankLevel],
    trials: int,
    seed: int,
) -> Reproduction:
    rows = [*_coverage_rows(coverage), *_selection_rows(selections), *_counter_rows(counter)]
    rows += [
        {
            "study": f"mean of {b.m} scores, n = {b.n}, {b.law}",
            "rule": b.rule,
            "asked": 0.9,
            "here": b.coverage,
            "width or bound": b.bound,
        }
        for b in bounds
    ]
    rows += [
        {
            "study": f"published budget of ranks, n = {r.n}, m = {r.m}",
            "rule": f"{r.published} (exact law: {r.ours})",
            "asked": r.claimed,
            "exact": r.level,
        }
        for r in levels
    ]
    details = {
        "coverage": {
            name: [{"rule": _rule(c), "covered": c.covered, "often": c.often, "exact": c.exact} for c in found]
            for name, found in coverage.items()
        },
        "counterfactual": {name: value.tolist() for name, value in counter.items()},
    }
    return Reproduction(
        name="batch-pi",
        title=EXPERIMENT.title,
        source=SOURCE,
        rows=rows,
        claims=_claims(coverage, selections, counter, bounds, levels, trials),
        verdict=_verdict(coverage, selections, bounds, levels),
        notes=_notes(coverage, counter, trials),
        draw=partial(_draw, dict(coverage), dict(selections), dict(counter), list(bounds), list(levels)),
        details=details,
    )


def _coverage_rows(coverage: Mapping[str, list[Coverage]]) -> list[dict[str, Any]]:
    rows = []
    for name, found in coverage.items():
        published = {"simulation": {a: v[1] for a, v in PUBLISHED_SIMULATION.items()}, "dti": PUBLISHED_DTI}.get(name, {})
        for c in found:
            rows.append(
                {
                    "study": f"90 of 100 intervals, {name}",
                    "rule": _rule(c),
                    "asked": None if c.alpha is None else 1 - c.alpha,
                    "published": published.get(c.alpha),
                    "here": c.often,
                    "error": c.error,
                    "exact": c.exact,
                    "mean coverage": float(c.covered.mean()),
                    "width or bound": float(c.width.mean()),
                }
            )
    return rows


def _selection_rows(selections: Mapping[str, list[Selections]]) -> list[dict[str, Any]]:
    rows = []
    for name, found in selections.items():
        published = PUBLISHED_DTI_CLAIMS if name == "dti" else {}
        for s in found:
            rows.append(
                {
                    "study": f"claims, {name}",
                    "rule": f"more than {s.eta} false",
                    "asked": s.alpha,
                    "published": published.get(s.eta, (None, None))[0],
                    "here": s.often,
                    "error": s.error,
                    "exact": s.exact,
                    "true claims": float(s.true.mean()),
                    "false claims": float(s.false.mean()),
                }
            )
    return rows


def _counter_rows(counter: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    rows = []
    for name in ("median", "quartiles", "mean", "mean, shaped"):
        for alpha in (0.05, 0.1, 0.2):
            i = int(np.argmin(np.abs(counter["alphas"] - alpha)))
            row: dict[str, Any] = {"study": "counterfactual", "rule": name, "asked": 1 - alpha, "here": float(counter[name][i])}
            if name.startswith("mean"):
                row["width or bound"] = float(counter["bound" if name == "mean" else "shaped bound"][i])
            rows.append(row)
    return rows


def _claims(
    coverage: Mapping[str, list[Coverage]],
    selections: Mapping[str, list[Selections]],
    counter: Mapping[str, np.ndarray],
    bounds: Sequence[MeanBound],
    levels: Sequence[RankLevel],
    trials: int,
) -> list[Claim]:
    plain, *batch = coverage["simulation"]
    shares = " / ".join(f"{c.often:.3f}" for c in batch)
    published = " / ".join(f"{PUBLISHED_SIMULATION[c.alpha][1]:.3f}" for c in batch)
    ratios = " / ".join(f"{c.width.mean() / plain.width.mean():.2f}" for c in batch)
    there = " / ".join(f"{PUBLISHED_SIMULATION[c.alpha][2] / PUBLISHED_SIMULATION[None][2]:.2f}" for c in batch)
    claims = [
        Claim(
            "split conformal at 90 % covers 90 % on average, but 90 of a batch of 100 far less often than that",
            "0.902 on average, 0.600 of batches",
            f"{plain.covered.mean():.3f} on average, {plain.often:.3f} of batches",
            abs(plain.covered.mean() - 0.9) < 0.01 and plain.often < 0.75,
        ),
        Claim(
            "batch PI covers at least 90 of 100 in at least 90 / 95 / 99 % of batches",
            published,
            shares + f" (exact {' / '.join(f'{c.exact:.3f}' for c in batch)})",
            all(c.often >= 1 - float(c.alpha or 0) - 3 * c.error for c in batch),
        ),
        Claim(
            "its price is width, over that of split conformal",
            there,
            ratios,
            all(c.width.mean() > plain.width.mean() for c in batch),
        ),
    ]
    for name, found in coverage.items():
        if name == "simulation":
            continue
        asked = [c for c in found if c.alpha is not None]
        claims.append(
            Claim(
                f"the same on real data ({name}), split conformal first",
                " / ".join(f"{PUBLISHED_DTI[c.alpha]:.3f}" for c in found) if name == "dti" else "not in the paper",
                " / ".join(f"{c.often:.3f}" for c in found),
                all(c.often >= 1 - float(c.alpha or 0) - 3 * c.error for c in asked),
            )
        )
    for name, claimed in selections.items():
        allowed = ", ".join(str(s.eta) for s in claimed)
        there = " / ".join(f"{PUBLISHED_DTI_CLAIMS[s.eta][0]:.3f}" for s in claimed) if name == "dti" else "at most 0.1, a plot"
        claims.append(
            Claim(
                f"more than {allowed} false claims in at most 10 % of batches ({name})",
                there,
                " / ".join(f"{s.often:.3f}" for s in claimed),
                all(s.often <= s.alpha + 3 * s.error for s in claimed),
            )
        )
    levels_asked = 1 - counter["alphas"]
    error = np.sqrt(levels_asked * (1 - levels_asked) / trials)
    for name, be in (("median", "is"), ("quartiles", "are"), ("mean", "is")):
        claims.append(
            Claim(
                f"the counterfactual {name} {be} covered at every level from 80 to 95 %",
                "yes, a plot",
                " / ".join(f"{v:.3f}" for v in counter[name][::-1]),
                bool((counter[name] >= levels_asked - 3 * error).all()),
            )
        )
    first = levels[:3]
    claims.append(
        Claim(
            "the published script's budget for a mean has the level it claims (n = 40, m = 10)",
            " / ".join(f"{r.claimed:.2f}" for r in first),
            " / ".join(f"{r.level:.3f}" for r in first),
            all(r.level >= r.claimed - 1e-3 for r in levels),
        )
    )
    return claims


def _verdict(
    coverage: Mapping[str, list[Coverage]],
    selections: Mapping[str, list[Selections]],
    bounds: Sequence[MeanBound],
    levels: Sequence[RankLevel],
) -> str:
    plain, batch = coverage["simulation"][:2]
    real = {
        name: (found[0].often, next(c.often for c in found if c.alpha == 0.1))
        for name, found in coverage.items()
        if name != "simulation"
    }
    beside = "; ".join(f"{name}: {split:.1%} against {whole:.1%}" for name, (split, whole) in real.items())
    kept = all(s.often <= s.alpha + 3 * s.error for found in selections.values() for s in found)
    skewed = {b.rule: b.bound for b in bounds if (b.n, b.m, b.law) == (100, 10, "Beta(1, 6)")}
    level = levels[0]
    sentences = [
        f"A 90 % split conformal interval covers {plain.covered.mean():.1%} of points, but 90 of a batch of 100 in only "
        f"{plain.often:.1%} of batches; batch PI at alpha = 0.1 does so in {batch.often:.1%} (exactly {batch.exact:.1%}), with "
        f"intervals {batch.width.mean() / plain.width.mean() - 1:.0%} wider.",
        f"On real data ({beside}).",
        "Selections keep their promise within sampling error: more false claims than allowed in at most a tenth of the batches."
        if kept
        else "Selections do not keep their promise.",
    ]
    if skewed:
        sentences.append(
            f"For the mean of 10 skewed scores (n = 100) the paper's rank sum gives {skewed['rank sum']:.3f}, a rank function "
            f"shaped like the scores {skewed['shaped']:.3f}, a partition of the calibration rows {skewed['partition']:.3f}; "
            f"the true quantile is {skewed['oracle']:.3f}."
        )
    sentences.append(
        f"The published script for means is wrong: its {level.claimed:.0%} budget has the level {level.level:.1%} "
        f"(n = {level.n}, m = {level.m})."
    )
    return " ".join(sentences)


def _notes(coverage: Mapping[str, list[Coverage]], counter: Mapping[str, np.ndarray], trials: int) -> list[str]:
    notes = [
        "Published figures of the simulation are the authors' R scripts, run as they are (500 trials, one draw of the "
        "coefficients). The model is theirs, its coefficients are drawn anew and the forest is scikit-learn's: probabilities "
        "are to be compared, widths only as ratios.",
        "Exact: the probability for scores without ties. It depends on n, m and the rank alone, on no model and no data.",
        f"Counterfactual: rejection keeps {counter['kept'][0]:.0f} of 200 and {counter['kept'][1]:.0f} of 100 calibration rows "
        f"on average; {trials} trials.",
        "The probabilities are over calibration rows and batch together, not given one calibration set.",
    ]
    if "marriage" in coverage:
        notes.append(
            "Marriage: the 1978 survey of statsmodels' `fair`; years of marriage, in seven values, from the other answers. "
            f"Claims: more than {THRESHOLD_FAIR:g} years."
        )
    if "dti" in coverage:
        notes.append("Drug-target pairs: published figures are the authors' files on 4,000 disjoint random splits.")
    return notes


def _draw(
    coverage: Mapping[str, list[Coverage]],
    selections: Mapping[str, list[Selections]],
    counter: Mapping[str, np.ndarray],
    bounds: Sequence[MeanBound],
    levels: Sequence[RankLevel],
    figure: Figure,
) -> None:
    figure.set_size_inches(12.4, 7.6)
    figure.set_layout_engine("constrained", wspace=0.05, hspace=0.06)
    panels = figure.subplots(2, 3)
    draws: dict[str, Callable[[Axes], None]] = {
        "Share of a batch of 100 that is covered": partial(_draw_batches, coverage["simulation"]),
        "At least 90 of 100 covered: how often": partial(_draw_levels, coverage),
        "More than eta false claims: how often": partial(_draw_claims, selections),
        "Counterfactual, by rejection sampling": partial(_draw_counterfactual, counter),
        "Upper bound on a batch mean, at 90 %": partial(_draw_means, bounds),
        "Published script for means: its true level": partial(_draw_budget, levels),
    }
    for axes, (title, draw) in zip(panels.flat, draws.items(), strict=True):
        draw(axes)
        axes.set_title(title, loc="left", fontsize=10.5)
        plain_axes(axes)


def _draw_batches(found: Sequence[Coverage], axes: Axes) -> None:
    edges = (np.arange(76, 102) - 0.5).tolist()
    for c, colour in ((found[0], GREY), (found[1], COLOURS[0])):
        label = f"{_rule(c)}: 90 or more in {c.often:.0%}"
        axes.hist(np.clip(100 * c.covered, 76, 100), edges, color=colour, alpha=0.6, label=label)
    top = axes.get_ylim()[1]
    axes.vlines(89.5, 0, top, color="#333333", lw=1, ls="--")
    axes.set_ylim(0, top * 1.22)
    axes.set_xlabel("covered of 100")
    axes.set_ylabel("batches")
    axes.legend(frameon=False, fontsize=8, loc="upper left", borderaxespad=0.1)


def _draw_levels(coverage: Mapping[str, list[Coverage]], axes: Axes) -> None:
    axes.plot([0.68, 1], [0.68, 1], color=GREY, lw=1, ls="--", label="as promised")
    for (name, found), colour, marker in zip(coverage.items(), COLOURS, "osD^v", strict=False):
        batch = [c for c in found if c.alpha is not None]
        asked = [1 - float(c.alpha or 0) for c in batch]
        axes.errorbar(asked, [c.often for c in batch], [2 * c.error for c in batch], fmt=marker, ms=5, color=colour, label=name)
        axes.axhline(found[0].often, color=colour, lw=0.9, alpha=0.7)
    top = max(found[0].often for found in coverage.values())
    axes.text(0.685, top + 0.012, "split conformal at 90 %", fontsize=8, color="#333333")
    axes.set_xlabel("promised, 1 - alpha")
    axes.set_ylabel("share of batches")
    axes.set_ylim(0.5, 1.02)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _draw_claims(selections: Mapping[str, list[Selections]], axes: Axes) -> None:
    axes.axhline(0.1, color=GREY, lw=1, ls="--")
    for place, ((name, found), colour, marker) in enumerate(zip(selections.items(), COLOURS, "osD^v", strict=False)):
        eta = np.array([s.eta for s in found]) + 0.15 * place
        axes.errorbar(eta, [s.often for s in found], [2 * s.error for s in found], fmt=marker, ms=5, color=colour, label=name)
        for s in found:
            at = (s.eta, 0.008 + 0.012 * place)
            axes.annotate(f"{s.true.mean():.0f}", at, ha="center", fontsize=8, color=colour)
    axes.text(-0.2, 0.036, "true claims of 100, mean:", fontsize=8, color="#333333")
    axes.set_xlabel("eta, false claims allowed")
    axes.set_ylabel("share of batches")
    axes.set_ylim(0, 0.16)
    axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)


def _draw_counterfactual(counter: Mapping[str, np.ndarray], axes: Axes) -> None:
    asked = 1 - counter["alphas"]
    axes.plot([0.79, 0.96], [0.79, 0.96], color=GREY, lw=1, ls="--", label="as promised")
    for name, colour, marker in zip(("median", "quartiles", "mean"), COLOURS, "osD", strict=False):
        axes.plot(asked, counter[name], marker=marker, ms=5, lw=1.2, color=colour, label=name)
    axes.set_xlabel("promised, 1 - alpha")
    axes.set_ylabel("share of trials covered")
    axes.set_yticks(np.arange(0.8, 1.0, 0.05).tolist())
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _draw_means(bounds: Sequence[MeanBound], axes: Axes) -> None:
    settings = list(dict.fromkeys((b.n, b.m, b.law) for b in bounds))
    looks = {
        "oracle": ("|", "#333333"), "partition": ("^", COLOURS[2]), "shaped": ("D", COLOURS[1]),
        "rank sum": ("o", COLOURS[0]), "Bonferroni": ("x", GREY),
    }  # fmt: skip
    for rule, (marker, colour) in looks.items():
        own = [b for b in bounds if b.rule == rule]
        places = [settings.index((b.n, b.m, b.law)) for b in own]
        look: dict[str, Any] = {"ms": 11 if marker == "|" else 6, "mew": 1.6, "color": colour, "clip_on": False}
        if rule == "rank sum":
            look["mfc"] = "none"  # it may lie on another
        axes.plot([b.bound for b in own], places, marker, label=rule, ls="none", **look)
    axes.set_yticks(range(len(settings)), [f"n {n}, m {m}\n{law}" for n, m, law in settings], fontsize=8)
    axes.set_ylim(len(settings) - 0.5, -1.7)
    axes.set_xlim(0, 1)
    axes.set_xlabel("mean bound (1 says nothing)")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", columnspacing=1.2, handletextpad=0.2, borderaxespad=0.1)


def _draw_budget(levels: Sequence[RankLevel], axes: Axes) -> None:
    sizes = list(dict.fromkeys((r.n, r.m) for r in levels))
    for i, claimed in enumerate(dict.fromkeys(r.claimed for r in levels)):
        own = [r for r in levels if r.claimed == claimed]
        places = np.arange(len(own)) + (i - 1) * 0.25
        axes.bar(places, [r.level for r in own], 0.21, color=COLOURS[i], label=f"{claimed:.0%} claimed")
        axes.hlines([claimed] * len(own), places - 0.12, places + 0.12, color="#333333", lw=1.4)
    axes.set_xticks(range(len(sizes)), [f"n {n}, m {m}" for n, m in sizes])
    axes.set_ylim(0.6, 1.03)
    axes.set_ylabel("level (line: claimed)")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", columnspacing=0.8, handlelength=1.2, borderaxespad=0.1)


EXPERIMENT = Experiment(
    "What can be promised of a whole batch of predictions?",
    SOURCE,
    {"small": small, "paper": paper},
)
