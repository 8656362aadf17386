"""Are the posteriors right on average? Ranks of true states and coverage, on fresh simulated problems.

Source: Talts et al., Validating Bayesian inference algorithms with simulation-based calibration, 2018, arXiv 1804.06788.
A mixture's distribution function is known, so that a rank among infinitely many draws is had without drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

from datumwise.errors import DatumwiseError, MissingExtra
from datumwise.learn.distribution.training import Simulator, draw_problems
from datumwise.learn.gaussian_mixture import GaussianMixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from datumwise.learn.distribution_transformer import DistributionTransformer

__all__ = ["LEVELS", "Calibration", "calibrate", "calibration_of"]

LEVELS = (0.5, 0.8, 0.9, 0.95)
BINS = 20
DRAWS = 200  # of every posterior, for the rank of the true state's density where d > 1


@dataclass(frozen=True)
class Calibration:
    """Ranks and coverage of n problems.

    Attributes
    ----------
    ranks : ndarray of float (n, d)
        Posterior probability below the true state, coordinate by coordinate; uniform if calibrated.
    density_ranks : ndarray of float (n,)
        Posterior probability of states denser than the true one; uniform if the joint posterior is calibrated.
    coverage : list of dict
        ``level``, ``covered`` (share of problems and coordinates whose central interval holds the true value), ``error`` (its
        standard error under calibration), ``joint`` (share whose highest-density region holds the true state).
    p_values : ndarray of float (d,)
        Of the chi-square test that ranks are uniform over 20 bins.
    """

    ranks: np.ndarray = field(repr=False)
    density_ranks: np.ndarray = field(repr=False)
    coverage: list[dict[str, float]]
    p_values: np.ndarray

    def __str__(self) -> str:
        lines = [f"{len(self.ranks):,} problems; uniform ranks: p = {', '.join(f'{p:.3f}' for p in self.p_values)}"]
        lines += ["level  covered  joint  standard error"]
        lines += [f"{c['level']:5.2f}  {c['covered']:7.3f}  {c['joint']:5.3f}  {c['error']:14.3f}" for c in self.coverage]
        return "\n".join(lines)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Histograms of the ranks; the band holds 99 % of the bars under calibration.

        Raises
        ------
        MissingExtra
            matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise MissingExtra("a plot needs matplotlib", remedy="pip install 'datumwise[reproduce]'") from error
        axes = plt.subplots()[1] if axes is None else axes
        n = len(self.ranks)
        low, high = stats.binom.ppf([0.005, 0.995], n, 1 / BINS) * BINS / n
        axes.axhspan(low, high, color="#e8e8e8", lw=0)
        axes.axhline(1.0, color="#9a9a9a", lw=1)
        colours = ("#2f5d8a", "#c8553d", "#5a8f69", "#8d6cab", "#b08a3c")
        edges = np.linspace(0, 1, BINS + 1)
        for i, column in enumerate(self.ranks.T):
            height = np.histogram(column, edges)[0] * BINS / n
            label = f"coordinate {i}" if self.ranks.shape[1] > 1 else None
            axes.stairs(height, edges, color=colours[i % len(colours)], lw=1.6, label=label)
        axes.set(xlabel="rank of the true state", ylabel="density", xlim=(0, 1), ylim=(0, None))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if self.ranks.shape[1] > 1:
            axes.legend(frameon=False)
        return axes


@torch.no_grad()
def calibration_of(
    answers: Iterable[tuple[GaussianMixture, torch.Tensor]],
    *,
    levels: Sequence[float] = LEVELS,
    generator: torch.Generator | None = None,
) -> Calibration:
    """Ranks and coverage of posteriors beside the true states that the data came from.

    Parameters
    ----------
    answers : iterable of (GaussianMixture (B), Tensor (B, d))
        Posteriors and true states, both unconstrained.
    levels : sequence of float
        Of the intervals and regions.
    generator : torch.Generator, optional
        For the joint ranks where d > 1.

    Returns
    -------
    Calibration

    Examples
    --------
    >>> posterior = GaussianMixture(torch.ones(1000, 1), torch.zeros(1000, 1, 1), torch.ones(1000, 1, 1, 1))
    >>> true = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    >>> right, narrow = calibration_of([(posterior, true)]), calibration_of([(posterior, 2 * true)])
    >>> [round(r.coverage[2]["covered"], 2) for r in (right, narrow)]  # of 90 %
    [0.9, 0.59]
    """
    if not levels or any(not 0 < level < 1 for level in levels):
        raise DatumwiseError(f"levels are {list(levels)}", remedy="shares between 0 and 1")
    ranks: list[np.ndarray] = []
    dense: list[np.ndarray] = []
    for posterior, state in answers:
        each = [_cdf(posterior.marginal(i), state[:, i]) for i in range(posterior.dim)]
        ranks.append(torch.stack(each, 1).double().cpu().numpy())
        draws = posterior.sample(DRAWS, generator)
        denser = posterior.log_prob(draws) > posterior.log_prob(state)
        dense.append((denser.sum(0).double() + 0.5).cpu().numpy() / (DRAWS + 1))
    if not ranks:
        raise DatumwiseError("there is no problem to calibrate on", remedy="n >= 1")
    u, v = np.concatenate(ranks), np.concatenate(dense)
    coverage: list[dict[str, Any]] = [
        {
            "level": float(level),
            "covered": float((np.abs(u - 0.5) <= level / 2).mean()),
            "joint": float((v <= level).mean()),
            "error": float(np.sqrt(level * (1 - level) / len(u))),
        }
        for level in levels
    ]
    counts = [np.histogram(column, np.linspace(0, 1, BINS + 1))[0] for column in u.T]
    return Calibration(u, v, coverage, np.array([stats.chisquare(c).pvalue for c in counts]))


def _cdf(marginal: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    """P(X < x), kept within [0, 1] against rounding."""
    return marginal.cdf(x).clamp(0.0, 1.0)


def calibrate(
    model: DistributionTransformer,
    simulator: Simulator,
    prior_family: Any,
    n: int,
    n_obs: tuple[int, int],
    batch_size: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Calibration:
    """`calibration_of` the model's answers to n fresh problems; problems whose simulation failed are left out."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)

    def answers() -> Iterator[tuple[GaussianMixture, torch.Tensor]]:
        for start in range(0, n, batch_size):
            size = min(batch_size, n - start)
            number = n_obs[0] + (start // batch_size) % (n_obs[1] - n_obs[0] + 1)
            problems = draw_problems(model, simulator, prior_family, number, size, generator)
            posterior = model.of_fused(problems.prior, problems.data, problems.seen)
            yield posterior[problems.ok], problems.state[problems.ok]
            if progress is not None:
                progress(start + size, n)

    return calibration_of(answers(), generator=generator)
