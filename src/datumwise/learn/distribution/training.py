"""Training on fresh simulated problems: prior from a family, state from the prior, data from the simulator.

Source: Whittle et al., Distribution Transformers, 2025, arXiv 2502.02463 (objective E[-log q(x)], the forward divergence up
to a constant). Ours: one-cycle rate, clipped norm, a start from the best linear-Gaussian likelihood, a count of failures.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.learn.gaussian_mixture import GaussianMixture

if TYPE_CHECKING:
    from datumwise.learn.distribution_transformer import DistributionTransformer

__all__ = ["Problems", "TrainingLog", "draw_problems", "held_out_nll", "train"]

WARM_UP = 0.05  # share of the steps in which the rate rises
CLIP = 1.0  # norm of the gradient
HELD_OUT = 512  # problems of the fixed set, for each of its numbers of data
CHECKS = 10  # times the fixed set is looked at
START_DRAWS = 8192  # draws that set units and the first sites
RIDGE = 1e-3  # least precision of a first site, in units of the state
SENSOR_DROPOUT = 0.2  # share of (problem, sensor) pairs without data, where sensors are named
MOST_FAILED = 0.5  # share of a batch

Simulator = Callable[[Tensor, int, torch.Generator], Any]


@dataclass(frozen=True)
class Problems:
    """B simulated problems.

    Attributes
    ----------
    prior : GaussianMixture
    parameters : Tensor (B, q) or None
        Of the prior, where the model learns mixtures for them.
    state : Tensor (B, d)
        Unconstrained.
    data : Tensor (B, N, width)
        Fused, zero where not seen.
    seen : Tensor of bool (B, N)
    ok : Tensor of bool (B,)
        False where the simulator gave NaN or infinity.
    """

    prior: GaussianMixture
    state: Tensor
    data: Tensor
    seen: Tensor
    ok: Tensor
    parameters: Tensor | None = None


@dataclass(frozen=True)
class TrainingLog:
    """What a training did.

    Attributes
    ----------
    head : str
    loss : list of float
        Mean negative log density of the true state, one a step (unconstrained space).
    held_out : list of (step, float)
        The same on a fixed set, before training and ten times along it.
    kept_step : int
        The last step, or 0 where training did not gain and the weights before it were put back.
    failed, samples : int
        Simulated problems that gave NaN or infinity and were left out, of how many.
    skipped : int
        Steps without update, for their gradient was not finite.
    seconds : float
    trials : mapping of head to float
        Held-out loss after the trial of every head, for ``head="auto"``.
    """

    head: str
    loss: list[float] = field(repr=False)
    held_out: list[tuple[int, float]]
    kept_step: int
    failed: int
    samples: int
    skipped: int
    seconds: float
    trials: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        tried = ", ".join(f"{head} {nll:.4f}" for head, nll in self.trials.items())
        kept = dict(self.held_out)[self.kept_step]
        which = "" if self.kept_step else " (the start: training gained nothing)"
        return (
            f"{self.head} head, {len(self.loss):,} steps in {self.seconds:.0f} s, held-out loss {kept:.4f}{which}, "
            f"{self.failed:,} of {self.samples:,} samples failed, {self.skipped:,} steps skipped"
            + (f" (trials: {tried})" if tried else "")
        )


def draw_problems(
    model: DistributionTransformer,
    simulator: Simulator,
    prior_family: Any,
    n: int,
    batch_size: int,
    generator: torch.Generator,
    *,
    dropout: float = 0.0,
) -> Problems:
    """Simulate ``batch_size`` problems of n data each (of every sensor).

    Parameters
    ----------
    model : DistributionTransformer
        Says what a state and a datum look like.
    simulator : callable
        (x (B, d), n, generator) -> data, or (data, mask).
    prior_family : PriorFamily
    n : int
    batch_size : int
    generator : torch.Generator
    dropout : float
        Probability that all data of a sensor are hidden.

    Returns
    -------
    Problems
    """
    like = next(model.parameters())
    if model.config["prior_parameters"]:
        drawn = prior_family.sample_parameters(batch_size, generator)
        prior, parameters = prior_family.mixture(*drawn), torch.stack(list(drawn), 1).to(like)
    else:
        prior, parameters = sample_family(prior_family, batch_size, generator), None
    prior = model.checked_prior(prior).to(dtype=like.dtype, device=like.device)
    state = prior.sample(1, generator)[0]
    given = simulator(model.transform.from_real(state), n, generator)
    data, mask = given if isinstance(given, tuple) else (given, None)
    fused, seen = model.sensors.fuse(data, mask, batch=batch_size, like=like, check=False)
    if len(fused) != batch_size:
        raise SchemaMismatch(f"the simulator gave data of {len(fused)} problems for {batch_size} states")
    if dropout and model.sensors.names is not None:
        n_flags = len(model.sensors.names)
        kept = torch.rand(batch_size, n_flags, generator=generator, device=generator.device) >= dropout
        seen = seen & (fused[..., -n_flags:] @ kept.to(fused)[..., None] > 0)[..., 0]
        fused = fused * seen[..., None]
    ok = fused.isfinite().flatten(1).all(1) & state.isfinite().all(1)
    if not bool(ok.all()):
        fused = torch.where(ok[:, None, None], fused, 0.0)
        state = torch.where(ok[:, None], state, 0.0)
    return Problems(prior, state, fused, seen, ok, parameters)


def sample_family(prior_family: Any, batch_size: int, generator: torch.Generator) -> GaussianMixture:
    """B priors of a family, which has ``sample(B, generator)`` or is callable itself."""
    prior = (prior_family.sample if hasattr(prior_family, "sample") else prior_family)(batch_size, generator)
    if not isinstance(prior, GaussianMixture) or len(prior) != batch_size:
        raise SchemaMismatch(f"the prior family gave {prior!r}", remedy=f"a GaussianMixture of B = {batch_size}")
    return prior


@torch.enable_grad()
def train(
    model: DistributionTransformer,
    simulator: Simulator,
    prior_family: Any,
    steps: int,
    *,
    batch_size: int,
    lr: float,
    n_obs: tuple[int, int],
    seed: int,
    sensor_dropout: float,
    progress: Callable[[int, int], None] | None,
) -> TrainingLog:
    """AdamW with a one-cycle rate on fresh problems; one number of data a batch, drawn from ``n_obs`` inclusive.

    Training must gain more than a standard error on the fixed set (paired), or the weights before it are put back: where the
    start is exact, as for a linear and Gaussian simulator, steps only add noise.
    """
    began = time.perf_counter()
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    generator = torch.Generator(device).manual_seed(seed)
    held_out = held_out_set(model, simulator, prior_family, n_obs, seed)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
    history: list[float] = []
    start, first_weights = held_out_losses(model, held_out), [p.detach().clone() for p in parameters]
    curve = [(0, start.nanmean().item())]
    failed = skipped = 0
    counts = torch.randint(n_obs[0], n_obs[1] + 1, (steps,), generator=torch.Generator().manual_seed(seed)).tolist()
    for step, n in enumerate(counts, 1):
        problems = draw_problems(model, simulator, prior_family, n, batch_size, generator, dropout=sensor_dropout)
        nll = losses(model, problems)
        good = problems.ok & nll.isfinite()
        n_good = int(good.sum())
        failed += batch_size - n_good
        if n_good < (1 - MOST_FAILED) * batch_size:
            raise NotFinite(
                f"{batch_size - n_good} of {batch_size} simulated problems failed at step {step}",
                remedy="look for NaN or infinity in what the simulator returns",
            )
        loss = torch.where(good, nll, 0.0).sum() / n_good
        optimizer.zero_grad()
        loss.backward()
        if bool(nn.utils.clip_grad_norm_(parameters, CLIP).isfinite()):
            optimizer.step()
        else:
            skipped += 1
        schedule.step()
        history.append(loss.item())
        if step == steps or step % max(1, steps // CHECKS) == 0:
            curve.append((step, held_out_nll(model, held_out)))
        if progress is not None:
            progress(step, steps)
    gain = start - held_out_losses(model, held_out)
    gain = gain[gain.isfinite()]
    learned = len(gain) > 1 and bool(gain.mean() > gain.std() / math.sqrt(len(gain)))
    if not learned:
        with torch.no_grad():
            for own, value in zip(parameters, first_weights, strict=True):
                own.copy_(value)
    if failed or skipped:
        warnings.warn(
            f"{failed:,} of {steps * batch_size:,} simulated problems failed and were left out, {skipped:,} steps were skipped",
            stacklevel=3,
        )
    seconds = time.perf_counter() - began
    return TrainingLog(model.head_name, history, curve, steps if learned else 0, failed, steps * batch_size, skipped, seconds)


def one_cycle(step: int, steps: int) -> float:
    """Share of the highest rate at a step: a straight rise over the first 5 %, then half a cosine down to almost nothing.

    Examples
    --------
    >>> [round(one_cycle(step, 40), 3) for step in (0, 1, 2, 21, 39)]
    [0.5, 1.0, 1.0, 0.5, 0.002]
    """
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def losses(model: DistributionTransformer, problems: Problems) -> Tensor:
    """Negative log posterior density of the true states (B,); with a prior embedding also the prior's, as published."""
    if problems.parameters is None:
        return -model.of_fused(problems.prior, problems.data, problems.seen).log_prob(problems.state)
    prior = model.checked_prior(problems.parameters)
    return -model.of_fused(prior, problems.data, problems.seen).log_prob(problems.state) - prior.log_prob(problems.state)


def held_out_set(
    model: DistributionTransformer, simulator: Simulator, prior_family: Any, n_obs: tuple[int, int], seed: int
) -> list[Problems]:
    """A fixed set with the fewest, the middle and the most data, from a generator of its own."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed + 2**31)
    numbers = sorted({n_obs[0], sum(n_obs) // 2, n_obs[1]})
    return [draw_problems(model, simulator, prior_family, n, HELD_OUT, generator) for n in numbers]


def held_out_nll(model: DistributionTransformer, held_out: list[Problems]) -> float:
    """Mean negative log density of the true states of a fixed set, in the unconstrained space."""
    return held_out_losses(model, held_out).nanmean().item()


@torch.no_grad()
def held_out_losses(model: DistributionTransformer, held_out: list[Problems]) -> Tensor:
    """Negative log density of every true state of a fixed set, float64 (n,); NaN where the problem failed."""
    found = []
    for problems in held_out:
        prior = problems.prior if problems.parameters is None else model.checked_prior(problems.parameters)
        nll = -model.of_fused(prior, problems.data, problems.seen).log_prob(problems.state).double()
        found.append(torch.where(problems.ok & nll.isfinite(), nll, math.nan))
    return torch.cat(found)


@torch.no_grad()
def start_from_moments(
    model: DistributionTransformer, simulator: Simulator, prior_family: Any, n_obs: tuple[int, int], seed: int
) -> None:
    """Units of states, data and components, and sites of the linear-Gaussian likelihood that fits best.

    Regression of a datum y on the state x gives y ~ N(a + B x, R); with L L' = B' R^-1 B the site of y is
    exp(-|L' x - L^-1 B' R^-1 (y - a)|^2 / 2), which is where the shared sites start. A simulator that is linear and Gaussian is
    met before the first step.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed + 2**30)
    problems = draw_problems(model, simulator, prior_family, max(1, n_obs[1]), START_DRAWS, generator)
    state, data, seen = problems.state[problems.ok], problems.data[problems.ok], problems.seen[problems.ok]
    if len(state) < 2:
        raise NotFinite("nearly all simulated problems failed", remedy="look for NaN or infinity in what the simulator returns")
    model.set_units(problems.prior, state, data[seen])
    if problems.parameters is not None:
        assert model.core.embedding is not None
        logs = problems.parameters.log()
        model.core.embedding.shift.copy_(logs.mean(0))
        model.core.embedding.scale.copy_(logs.std(0).clamp_min(1e-6))
    sites = getattr(model.core.head, "sites", None)
    if sites is None:
        return
    d, width = model.state_dim, data.shape[-1]
    z = (state - model.core.head.state_shift) / model.core.head.state_scale
    names = model.sensors.names or (None,)
    numbers = sum(model.sensors.dims)
    sites.linear.weight.zero_()
    sites.linear.bias.zero_()
    before = 0
    for i, (_, p) in enumerate(zip(names, model.sensors.dims, strict=True)):
        flag = slice(numbers + i, numbers + i + 1) if model.sensors.names else None
        own = seen if flag is None else seen & (data[..., flag] > 0)[..., 0]
        rows, columns = own.nonzero(as_tuple=True)
        slots = slice(before, before + p)
        before += p
        if len(rows) < 10 * (p + d):
            continue
        y = (data[rows, columns] - model.datum_shift)[:, slots] / model.datum_scale[slots]
        factor, gain, offset = _linear_gaussian(z[rows], y)
        bias = torch.cat([factor.flatten(), -gain @ offset, factor.new_zeros(1)])
        sites.linear.weight[d * d : d * d + d, slots] = gain
        if flag is None:
            sites.linear.bias.copy_(bias)
        else:
            sites.linear.weight[:, numbers + i] = bias
    assert width == model.sensors.width


def _linear_gaussian(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best y ~ N(a + B x, R): L with L L' = B' R^-1 B (nearly), gain G = L^-1 B' R^-1 (d, p), and a (p,)."""
    x64, y64 = x.double(), y.double()
    design = torch.cat([torch.ones_like(x64[:, :1]), x64], 1)
    fit = torch.linalg.lstsq(design, y64).solution  # (1 + d, p)
    rest = y64 - design @ fit
    a, B = fit[0], fit[1:].T
    p, d = B.shape
    R = rest.T @ rest / len(x) + 1e-6 * torch.eye(p, dtype=B.dtype, device=B.device)
    weight = torch.linalg.solve(R, B).T  # B' R^-1, (d, p)
    factor = torch.linalg.cholesky(weight @ B + RIDGE * torch.eye(d, dtype=B.dtype, device=B.device))
    gain = torch.linalg.solve_triangular(factor, weight, upper=False)
    return factor.to(x.dtype), gain.to(x.dtype), a.to(x.dtype)


def check_training(steps: int, batch_size: int, lr: float, n_obs: tuple[int, int], sensor_dropout: float) -> None:
    """Refuse numbers that cannot be trained with."""
    if steps < 1 or batch_size < 2:
        raise DatumwiseError(f"{steps} steps of {batch_size} problems", remedy="steps >= 1 and batch_size >= 2")
    if not lr > 0:
        raise DatumwiseError(f"lr is {lr}", remedy="a positive rate, such as 2e-3")
    if len(n_obs) != 2 or not 0 <= n_obs[0] <= n_obs[1]:
        raise DatumwiseError(f"n_obs is {n_obs}", remedy="(fewest, most), both inclusive")
    if not 0 <= sensor_dropout < 1:
        raise DatumwiseError(f"sensor_dropout is {sensor_dropout}", remedy="0 <= share < 1")
