"""Distribution transformers (Whittle et al., 2025): posteriors in milliseconds for any prior of a family, beside exact ones."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from datumwise.errors import DatumwiseError, MissingExtra, SourceError
from datumwise.progress import Stage
from datumwise.reproduce.frame import COLOURS, Claim, Experiment, Reproduction, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "paper", "small"]

SOURCE = "Whittle et al., 2025, arXiv 2502.02463"
PUBLISHED = "abstract"  # the tables and figures of the paper could not be read
STEPS = {  # of training, for about three minutes of one core in all
    "conjugate": 300,
    "student": 1000,
    "bernoulli": 300,
    "bimodal": 900,
    "plane": 600,
    "inverse-gamma": 300,
    "quantum": 900,
    "gp-hyperprior": 900,
    "lti-filter": 150,
}
LINEAR = ("conjugate", "lti-filter")  # linear and Gaussian: a fixed update is exact
PROBLEMS = 300
CALIBRATED = 4000
IMPORTANCE_DRAWS = 10_000
BATCH = 2000
FEW = 60  # problems that importance sampling is tried on
# annual flow of the Nile at Aswan, 10^8 m^3, 1871 to 1970 (Cobb, 1978)
NILE = (
    1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960, 1180, 799, 958, 1140, 1100, 1210,
    1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694, 940, 833, 701, 916, 692, 1020, 1050, 969, 831, 726, 456, 824, 702,
    1120, 1100, 832, 764, 821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759, 781, 865, 845, 944, 984, 897, 822, 1010, 771,
    676, 649, 846, 812, 742, 801, 1040, 860, 874, 848, 890, 744, 749, 838, 1050, 918, 986, 797, 923, 975, 815, 1020, 906, 901,
    1170, 912, 746, 919, 718, 714, 740,
)  # fmt: skip
NILE_LEVEL, NILE_NOISE = 1469.1, 15099.0  # variances of the local level model
# the authors' configurations: d_model, nhead, layers, feed-forward, steps, batch, rate
OFFICIAL: Mapping[str, Mapping[str, Any]] = {
    "conjugate": {"d_model": 32, "nhead": 8, "feedforward": 2048, "steps": 1000, "batch": 5000, "lr": 1e-3},
    "inverse-gamma": {"d_model": 64, "nhead": 8, "feedforward": 2048, "steps": 5000, "batch": 2000, "lr": 1e-3},
    "quantum": {"d_model": 64, "nhead": 8, "feedforward": 2048, "steps": 5000, "batch": 2000, "lr": 1e-3},
    "gp-hyperprior": {"d_model": 256, "nhead": 16, "feedforward": 5096, "steps": 30_000, "batch": 1000, "lr": 1e-4},
    "lti-filter": {"d_model": 32, "nhead": 8, "feedforward": 2048, "steps": 2000, "batch": 5000, "lr": 1e-3},
}
OFFICIAL_LAYERS = 6


@dataclass(frozen=True)
class Found:
    """One task: its row, and what the figure and the claims need."""

    row: dict[str, Any]
    model: Any
    swapped: float  # share of problems that another problem's prior answers worse, NaN where not measured


def small(
    *,
    model: str | None = None,
    data: str | None = None,
    seed: int = 0,
    stage: Stage,
    steps: float = 1.0,
    problems: int = PROBLEMS,
    calibrated: int = CALIBRATED,
    tasks: Sequence[str] = tuple(STEPS),
) -> Reproduction:
    """Nine inference problems, trained here for seconds to half a minute each, and a filter of the Nile; minutes on one core.

    Parameters
    ----------
    model, data
        Not for this scale.
    seed : int
    stage : Stage
    steps : float
        Times the steps of training.
    problems, calibrated : int
        Of the divergences and of the coverage.
    tasks : sequence of str
        Of `TASKS`; the Nile needs "conjugate".
    """
    _needs_torch()
    if model is not None or data is not None:
        raise DatumwiseError("scale small simulates its own problems", remedy="use --scale paper for a task by name")
    found = {}
    for name in tasks:
        stage.begin("train", name)
        found[name] = _measured(name, max(1, round(steps * STEPS[name])), {}, 256, None, seed, problems, calibrated, stage)
        row = found[name].row
        stage.end(f"{name}: KL {row['KL, few data']:.4f} and {row['KL, most data']:.4f}, {row['ms, one']:.1f} ms")
    stage.begin("filter", "the Nile")
    nile = _nile(found["conjugate"].model)
    stage.end(f"off by {nile['rmse']:.1%} of the filtered standard deviation")
    notes = [
        "KL: nats from the exact posterior (mixture or quadrature; Gaussian process: mean log ratio of densities at true "
        f"states), mean over {problems} fresh problems with the fewest and the most data trained with; of one fixed "
        "update and of the prior with the most.",
        "One fixed update: the linear-Gaussian likelihood that fits the simulator best, which is where training starts; the "
        "statistical linearisation of an extended Kalman filter.",
        f"IS, importance sampling: {IMPORTANCE_DRAWS:,} draws of the prior; mean off is the root mean square distance of the "
        "posterior mean from the exact one, in exact standard deviations.",
        f"ms in a batch: of {BATCH:,} problems. Timings are of this machine and its load.",
        "Non-Gaussian priors (Beta, inverse gamma) are five Gaussians each, and the exact posterior is of these.",
    ]
    return _reproduction(found, nile, notes)


def paper(
    *, model: str | None = None, data: str | None = None, seed: int = 0, stage: Stage, steps: float = 1.0
) -> Reproduction:
    """One official configuration (direct head, six layers, published steps and batches) on one task; hours to days on a CPU.

    Parameters
    ----------
    model
        Not used: nothing pretrained is published.
    data : str
        One of conjugate, inverse-gamma, quantum, gp-hyperprior, lti-filter.
    seed : int
    stage : Stage
    steps : float
        Times the published steps.
    """
    _needs_torch()
    if data is None or data not in OFFICIAL:
        raise SourceError(
            "scale paper trains one official configuration at a time" + ("" if data is None else f", and {data!r} is none"),
            remedy=f"pass --data with one of {', '.join(OFFICIAL)}",
        )
    official = OFFICIAL[data]
    options = {"head": "direct", "children": 1, "num_layers": OFFICIAL_LAYERS}
    options |= {key: official[key] for key in ("d_model", "nhead", "feedforward")}
    stage.begin("train", f"{data}, official configuration")
    count = max(1, round(steps * official["steps"]))
    found = {data: _measured(data, count, options, official["batch"], official["lr"], seed, PROBLEMS, CALIBRATED, stage)}
    stage.end(f"KL {found[data].row['KL, few data']:.4f} and {found[data].row['KL, most data']:.4f}")
    notes = [
        "Official sizes, steps, batches and rate; ours: pre-norm, one-cycle rate, residual head, any number of data, and a "
        "family of priors with log-uniform standard deviations where the published one inverts Wishart draws.",
    ]
    return _reproduction(found, None, notes)


def _needs_torch() -> None:
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("distribution transformers need torch", remedy="pip install 'datumwise[learn]'")


def _measured(
    name: str,
    steps: int,
    options: Mapping[str, Any],
    batch_size: int,
    lr: float | None,
    seed: int,
    problems: int,
    calibrated: int,
    stage: Stage,
) -> Found:
    """Train on one task and measure it."""
    import torch

    from datumwise.learn.inference_tasks import TASKS

    task = TASKS[name]
    model = task.model(seed=seed, **options)
    common: dict[str, Any] = {"n_obs": task.n_obs, "seed": seed}
    log = model.fit(
        task.simulator, task.family, steps, batch_size=batch_size, lr=lr or task.lr, progress=stage.progress, **common
    )
    fixed = task.model(head="site", children=1)
    fixed.fit(task.simulator, task.family, 1, lr=1e-12, batch_size=8, **common)
    row: dict[str, Any] = {"task": f"{name}: {task.title}", "head": model.head_name, "training, s": log.seconds, "steps": steps}
    with torch.no_grad():
        for word, n in (("few", task.n_obs[0]), ("most", task.n_obs[1])):
            prior, x, data = task.problems(problems, n, seed=seed + 1000)
            answer = model(prior, data)
            own = task.divergence(prior, x, data, answer)
            row[f"KL, {word} data"] = float(own.mean())
        row["KL, one fixed update"] = float(task.divergence(prior, x, data, fixed(prior, data)).mean())
        row["KL, prior"] = float(task.divergence(prior, x, data, prior).mean())
        swapped = math.nan
        if task.log_evidence is None:
            other = model(prior[torch.arange(problems).roll(1)], data)
            swapped = float((task.divergence(prior, x, data, other) > own).double().mean())
    ninety = model.calibration(task.simulator, task.family, calibrated, seed=seed + 1).coverage[2]
    row["coverage of 90 %"] = ninety["covered"]
    row |= _importance(task, prior[:FEW], _first(data, FEW), model)
    row |= _timings(task, model, seed)
    empty = model(prior)
    grid = prior.sample(50, torch.Generator().manual_seed(seed))
    row["N = 0, off"] = float((empty.log_prob(grid) - prior.log_prob(grid)).abs().max().detach())
    return Found(row, model, swapped)


def _importance(task: Any, prior: Any, data: Any, model: Any) -> dict[str, Any]:
    """Error of posterior means against quadrature, ours and by draws of the prior, and what these take; d = 1 only."""
    import torch

    from datumwise.learn.importance import importance_sample
    from datumwise.learn.quadrature import quadrature_posterior

    blank = {"mean off, sd": None, "IS mean off, sd": None, "IS, ms": None}
    if task.state_dim > 1:
        return blank
    wide = {k: v.double() for k, v in data.items()} if isinstance(data, dict) else data.double()
    with torch.no_grad():
        answer = model(prior, data)
        exact = quadrature_posterior(prior, task.log_likelihood, wide, support=task.support, also=answer)
    sd = exact.covariance[:, 0].sqrt()
    one = _first(data, 1)
    draw = partial(importance_sample, n=IMPORTANCE_DRAWS, support=task.support)
    sampled = draw(prior, prior, task.log_likelihood, data)
    seconds = _median_seconds(lambda: draw(prior[0], prior[0], task.log_likelihood, one))

    def off(mean: Any) -> float:
        return float(((mean.double() - exact.mean) / sd).square().mean().sqrt())

    return dict(zip(blank, (off(answer.mean), off(sampled.mean), 1e3 * seconds), strict=True))


def _first(data: Any, n: int) -> Any:
    """The first n problems."""
    return {name: part[:n] for name, part in data.items()} if isinstance(data, dict) else data[:n]


def _timings(task: Any, model: Any, seed: int) -> dict[str, float]:
    """Milliseconds of one posterior alone and of one in a batch, with the most data trained with."""
    import torch

    prior, _, data = task.problems(BATCH, task.n_obs[1], seed=seed + 2)
    first = _first(data, 1)
    with torch.inference_mode():
        alone = _median_seconds(lambda: model(prior[0], first))
        batch = _median_seconds(lambda: model(prior, data), 3)
    return {"ms, one": 1e3 * alone, "ms, in a batch": 1e3 * batch / BATCH}


def _median_seconds(call: Any, repeats: int = 11) -> float:
    call()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return sorted(found)[repeats // 2]


def _nile(model: Any) -> dict[str, Any]:
    """The local level of the Nile, filtered by the conjugate model in units of its noise, beside the exact filter."""
    import torch

    from datumwise.learn.gaussian_mixture import GaussianMixture
    from datumwise.learn.linear_gaussian import linear_gaussian_filter

    scale = math.sqrt(NILE_NOISE)
    series = ((torch.tensor(NILE, dtype=torch.float32) - 900.0) / scale)[:, None, None]
    one = torch.ones(1, 1)
    motion = (one, torch.zeros(1), torch.full((1, 1), NILE_LEVEL / NILE_NOISE))
    start = GaussianMixture(torch.ones(1), torch.full((1, 1), 100.0 / scale), torch.full((1, 1, 1), math.sqrt(1e5) / scale))
    prior = start.split(3)
    exact = linear_gaussian_filter(prior, series, one, one, motion)
    began = time.perf_counter()
    ours = model.filter(prior, series, motion)
    seconds = time.perf_counter() - began
    sd = exact.covs[:, 0, 0].sqrt()
    return {
        "rmse": float(((ours.means - exact.means)[:, 0] / sd[:, None]).square().mean().sqrt()),
        "seconds": seconds,
        "exact": (900.0 + scale * exact.means[:, 0, 0]).tolist(),
        "ours": (900.0 + scale * ours.means[:, 0, 0]).tolist(),
        "sd": (scale * ours.covs[:, 0, 0, 0].sqrt()).tolist(),
    }


def _reproduction(found: Mapping[str, Found], nile: Mapping[str, Any] | None, notes: Sequence[str]) -> Reproduction:
    rows = [f.row for f in found.values()]
    slowest = max(row["ms, one"] for row in rows)
    batched = max(row["ms, in a batch"] for row in rows)
    rest = {name: f.row for name, f in found.items() if name not in LINEAR}
    better = [n for n, row in rest.items() if row["KL, most data"] < row["KL, one fixed update"]]
    swaps = {name: f.swapped for name, f in found.items() if not math.isnan(f.swapped)}
    learned = {name: f.row["KL, most data"] / f.row["KL, prior"] for name, f in found.items()}
    claims = [
        Claim(
            "a posterior takes milliseconds, not minutes",
            f"minutes to milliseconds ({PUBLISHED})",
            f"{slowest:.1f} ms alone at most, {1e3 * batched:.0f} us in a batch",
            slowest < 100,
        ),
        Claim(
            "as good as other approximations, or better",
            f"on par or better ({PUBLISHED})",
            f"nearer to the exact posterior than one fixed update in {len(better)} of {len(rest)} tasks that are not "
            "linear and Gaussian",
            len(better) == len(rest) if rest else None,
        ),
        Claim(
            "the prior may change at run time",
            f"yes ({PUBLISHED})",
            "another problem's prior gives a worse answer in "
            + (
                f"{min(swaps.values()):.1%} of problems at least (50 % if priors were ignored)"
                if swaps
                else "no problem measured"
            ),
            min(swaps.values()) > 0.9 if swaps else None,
        ),
    ]
    if nile is not None:
        claims.append(
            Claim(
                "posteriors serve as priors of the next datum",
                f"sequential inference ({PUBLISHED})",
                f"100 years of the Nile: off by {nile['rmse']:.1%} of the exact filter's standard deviation",
                nile["rmse"] < 0.1,
            )
        )
    worst = max(learned, key=lambda name: learned[name])
    verdict = (
        f"After {sum(row['training, s'] for row in rows):.0f} s of training in all, {len(rows)} families of problems are "
        f"answered in {slowest:.1f} ms or less each ({1e3 * batched:.0f} us in a batch). Between prior and exact posterior, at "
        f"most {learned[worst]:.1%} of the way in nats is left ({worst})"
        + (f"; coverage of 90 % intervals lies between {_span(rows)}." if rows else ".")
    )
    details: dict[str, Any] = {"rows": [dict(row) for row in rows], "swapped": swaps}
    if nile is not None:
        details["nile"] = dict(nile)
    return Reproduction(
        name="distribution-transformer",
        title=EXPERIMENT.title,
        source=SOURCE,
        rows=rows,
        claims=claims,
        verdict=verdict,
        notes=notes,
        draw=partial(_draw, {name: f.row for name, f in found.items()}, nile),
        details=details,
    )


def _span(rows: Sequence[Mapping[str, Any]]) -> str:
    covered = [row["coverage of 90 %"] for row in rows]
    return f"{min(covered):.1%} and {max(covered):.1%}"


def _draw(rows: Mapping[str, Mapping[str, Any]], nile: Mapping[str, Any] | None, figure: Figure) -> None:
    """Nats from the exact posterior, on a logarithmic axis, and the filtered Nile."""
    figure.set_size_inches(10.0 if nile else 6.4, max(2.4, 1.0 + 0.34 * len(rows)))
    panels = figure.subplots(1, 2, width_ratios=(1.15, 1)) if nile else [figure.subplots()]
    left = panels[0]
    marks = (
        ("KL, prior", "prior", "#9a9a9a", "|"),
        ("KL, one fixed update", "one fixed update", COLOURS[4], "D"),
        ("KL, most data", "this network", COLOURS[0], "o"),
    )
    places = list(range(len(rows)))
    floor = 1e-5
    for y, row in enumerate(rows.values()):
        left.plot([max(row["KL, most data"], floor), row["KL, prior"]], [y, y], color="#d5d5d5", lw=1.2, zorder=1)
    for key, label, colour, mark in marks:
        values = [max(row[key], floor) for row in rows.values()]
        left.plot(values, places, mark, color=colour, ms=9 if mark == "|" else 5.5, mew=2 if mark == "|" else 0.5, label=label)
    left.set_xscale("log")
    left.set_yticks(places, list(rows))
    left.invert_yaxis()
    left.set_xlabel("nats from the exact posterior, most data")
    plain_axes(left)
    left.grid(axis="y", visible=False)
    left.grid(axis="x", color="#dddddd", linewidth=0.7)
    left.legend(loc="lower center", bbox_to_anchor=(0.42, 1.0), ncols=3, frameon=False, fontsize=9, handletextpad=0.3)
    if not nile:
        return
    right = panels[1]
    years = list(range(1871, 1871 + len(NILE)))
    mean, sd = nile["ours"], nile["sd"]
    low, high = ([m + side * 1.645 * s for m, s in zip(mean, sd, strict=True)] for side in (-1, 1))
    right.plot(years, NILE, ".", color="#9a9a9a", ms=4, label="flow")
    right.fill_between(years, low, high, color=COLOURS[0], alpha=0.15, lw=0, label="90 % of the level")
    right.plot(years, mean, color=COLOURS[0], lw=2.2, label="this network")
    right.plot(years, nile["exact"], "--", color=COLOURS[1], lw=1.2, label="exact filter")
    right.set_ylabel("Nile at Aswan, 10$^8$ m$^3$ a year")
    plain_axes(right)
    right.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=4,
        frameon=False,
        fontsize=9,
        handlelength=1.2,
        columnspacing=1.0,
        handletextpad=0.4,
    )


EXPERIMENT = Experiment(
    "Posteriors in milliseconds, for any prior of a family",
    SOURCE,
    {"small": small, "paper": paper},
)
