"""Bayesian posteriors in about a millisecond, for any prior of a family and any number of datapoints, after one training.

Source: Whittle, Ziomek, Rawling and Osborne, Distribution Transformers, 2025, arXiv 2502.02463.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, SchemaMismatch, SourceError, UnknownName
from datumwise.learn.distribution.calibration import Calibration, calibrate
from datumwise.learn.distribution.heads import HEADS, Head
from datumwise.learn.distribution.influence import drop_one_divergence
from datumwise.learn.distribution.network import ComponentNetwork
from datumwise.learn.distribution.observations import Sensors
from datumwise.learn.distribution.prior_embedding import PriorEmbedding
from datumwise.learn.distribution.training import (
    SENSOR_DROPOUT,
    Simulator,
    TrainingLog,
    check_training,
    held_out_nll,
    held_out_set,
    start_from_moments,
    train,
)
from datumwise.learn.gaussian_mixture import GaussianMixture, component_features
from datumwise.learn.linear_gaussian import FilterResult
from datumwise.learn.prior_families import FamilyCheck, FeatureRange
from datumwise.learn.transforms import Transform, transform_of

__all__ = ["DistributionTransformer", "Posterior"]

UNTRAINED = -1
TRIALS = 5  # head="auto" tries every head for a fifth of the steps
FORMAT = "datumwise.DistributionTransformer 1"


@dataclass(frozen=True)
class Posterior:
    """Answer to one prior and its data, for B problems.

    Attributes
    ----------
    mixture : GaussianMixture
        Over t = T(x), the unconstrained state.
    ess : Tensor (B,) or None
        Effective share of draws from the mixture, within (0, 1], when weighted by prior times likelihood; None without a
        likelihood.
    khat : Tensor (B,) or None
        Pareto tail index of these weights; above .7 the mixture misses mass.
    log_evidence : Tensor (B,) or None
        Importance estimate of log p(data).
    in_family : Tensor of bool (B,)
        False where the prior lies beyond what training saw.
    z_scores : Tensor (B, K, F)
        Features of the prior's components, in standard deviations of what training saw.
    transform : Transform
    """

    mixture: GaussianMixture
    ess: Tensor | None
    khat: Tensor | None
    log_evidence: Tensor | None
    in_family: Tensor
    z_scores: Tensor
    transform: Transform

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws (n, B, d) within the support."""
        return self.transform.from_real(self.mixture.sample(n, generator))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x (..., B, d) within the support, Jacobian included; outside it is refused."""
        t = self.transform.to_real(x)
        return self.mixture.log_prob(t) - self.transform.log_abs_det(t)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Central interval of one coordinate, (B,) twice, within the support; needs d = 1."""
        low, high = self.mixture.interval(level)
        low, high = (self.transform.from_real(end[:, None])[:, 0] for end in (low, high))
        return low, high


class Core(nn.Module):
    """Network and head, which can be chosen after the model is made."""

    def __init__(self, config: Mapping[str, Any], width: int) -> None:
        super().__init__()
        d, d_model = config["state_dim"], config["d_model"]
        self.network = ComponentNetwork(
            1 + d + d * (d + 1) // 2,
            width,
            d_model=d_model,
            nhead=config["nhead"],
            num_layers=config["num_layers"],
            feedforward=config["feedforward"],
            children=config["children"],
        )
        self.head: Head = HEADS[config["head"]](width, d, d_model)
        self.embedding: PriorEmbedding | None = None
        if config["prior_parameters"]:
            self.embedding = PriorEmbedding(config["prior_parameters"], config["n_components"], d, 2 * d_model)


class DistributionTransformer(nn.Module):
    """A network from (prior, data) to posterior, all as Gaussian mixtures; trained once for a family of priors.

    Parameters
    ----------
    state_dim : int
        d, of the unknown state x.
    n_components : int
        K, of every prior.
    obs_dim : int, or mapping of str to int
        Numbers of a datum; of several kinds of datum (sensors) by name.
    d_model, nhead, num_layers : int
    feedforward : int, optional
        2 d_model by default.
    head : {"token", "site", "direct", "auto"}
        "site": every datum is a Gaussian factor, gated by each component; for likelihoods near Gaussian, returns the prior
        without data. "token": every component and datum have a factor; for any other likelihood, with the same promise.
        "direct": a residual on the prior's parameters, without promise. "auto": `fit` tries them for a fifth of the steps
        each on the same seeds and keeps the one of least held-out loss.
    children : int
        Components that each component of the prior may become: 2 or more where posteriors of one component have several
        modes or skew. The posterior then has K children components.
    support : {"real", "positive", "unit"}, tuple of these, or Transform
        Of the state; priors and posteriors are mixtures over the unconstrained state (x, log x, logit x).
    prior_parameters : int
        Of priors that are not mixtures but named by positive parameters (a Gamma, Beta or the like): a network then learns
        K Gaussians for them, by the prior loss, and every prior may be given as a tensor (B, prior_parameters) as well.
    seed : int
        Of the first weights.

    Raises
    ------
    UnknownName, SchemaMismatch, DatumwiseError

    Examples
    --------
    >>> from datumwise.learn.inference_tasks import TASKS
    >>> task = TASKS["conjugate"]
    >>> model = task.model()
    >>> log = model.fit(task.simulator, task.family, steps=20, batch_size=64, n_obs=(1, 5), seed=0)
    >>> prior = GaussianMixture(torch.tensor([[0.4, 0.3, 0.3]]), torch.tensor([[[0.0], [-2.0], [3.0]]]), torch.ones(1, 3, 1, 1))
    >>> data = torch.tensor([[[2.8], [3.1]]])
    >>> answer, exact = model.posterior(prior, data), task.exact(prior, data)
    >>> exact.kl(answer.mixture).item() < 0.01 < 1 < exact.kl(prior).item()
    True
    """

    datum_shift: Tensor
    datum_scale: Tensor
    slots: Tensor
    prior_shift: Tensor
    prior_scale: Tensor
    family_low: Tensor
    family_high: Tensor
    family_mean: Tensor
    family_sd: Tensor
    trained_n: Tensor

    def __init__(
        self,
        state_dim: int,
        n_components: int,
        obs_dim: int | Mapping[str, int],
        d_model: int = 32,
        nhead: int = 4,
        num_layers: int = 2,
        head: str = "token",
        support: Any = "real",
        *,
        feedforward: int | None = None,
        children: int = 1,
        prior_parameters: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {
            "state_dim": state_dim,
            "n_components": n_components,
            "d_model": d_model,
            "nhead": nhead,
            "num_layers": num_layers,
            "children": children,
        }.items():
            if not isinstance(value, int) or value < 1:
                raise SchemaMismatch(f"{name} is {value!r}", remedy="an int of at least 1")
        if d_model % nhead:
            raise SchemaMismatch(f"d_model {d_model} is not a multiple of nhead {nhead}")
        if head not in (*HEADS, "auto"):
            raise UnknownName(f"no head {head!r}", remedy=f"one of {', '.join(HEADS)}, auto")
        self.sensors = Sensors.of(obs_dim)
        self.transform = transform_of(support)
        self.config: dict[str, Any] = {
            "state_dim": state_dim,
            "n_components": n_components,
            "obs_dim": self.sensors.as_dims(),
            "d_model": d_model,
            "nhead": nhead,
            "num_layers": num_layers,
            "head": head,
            "support": support,
            "feedforward": feedforward or 2 * d_model,
            "children": children,
            "prior_parameters": prior_parameters,
            "seed": seed,
        }
        self.log: TrainingLog | None = None
        numbers, width = sum(self.sensors.dims), self.sensors.width
        n_features = 1 + state_dim + state_dim * (state_dim + 1) // 2
        self.register_buffer("datum_shift", torch.zeros(width))
        self.register_buffer("datum_scale", torch.ones(width))
        self.register_buffer("slots", _slots(self.sensors, numbers, width))
        self.register_buffer("prior_shift", torch.zeros(n_features))
        self.register_buffer("prior_scale", torch.ones(n_features))
        self.register_buffer("family_low", torch.full((n_features,), -math.inf))
        self.register_buffer("family_high", torch.full((n_features,), math.inf))
        self.register_buffer("family_mean", torch.zeros(n_features))
        self.register_buffer("family_sd", torch.ones(n_features))
        self.register_buffer("trained_n", torch.tensor([UNTRAINED, UNTRAINED]))
        if head != "auto":
            self._build(head)

    def _build(self, head: str) -> None:
        """Network and head of fresh weights, by the model's own seed."""
        self.config["head"] = head
        like = self.datum_shift
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config["seed"])
            self.core = Core(self.config, self.sensors.width).to(dtype=like.dtype, device=like.device)

    # ------------------------------------------------------------------ what it is

    @property
    def state_dim(self) -> int:
        """d"""
        return self.config["state_dim"]

    @property
    def n_components(self) -> int:
        """K"""
        return self.config["n_components"]

    @property
    def n_children(self) -> int:
        """Components of the posterior for each of the prior."""
        return self.config["children"]

    @property
    def head_name(self) -> str:
        """``"auto"`` until `fit` has chosen."""
        return self.config["head"]

    @property
    def n_parameters(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def __repr__(self) -> str:
        return (
            f"DistributionTransformer(d={self.state_dim}, K={self.n_components}, data={self.sensors.as_dims()}, "
            f"head={self.head_name!r}, {self.n_parameters:,} parameters)"
        )

    # ------------------------------------------------------------------ the network

    def forward(self, prior: GaussianMixture, data: Any = None, mask: Any = None) -> GaussianMixture:
        """Posterior mixtures.

        Parameters
        ----------
        prior : GaussianMixture, or Tensor (B, prior_parameters)
            Of K components in d dimensions, over the unconstrained state; B = 1 is shown to all data.
        data : Tensor (B, N, p), or mapping of sensor to such, or None
            Any N, also 0; B = 1 is shown to all priors.
        mask : Tensor of bool (B, N), or mapping of sensor to such, optional
            True where a datum was seen.

        Returns
        -------
        GaussianMixture
            Of K children components, in the model's dtype.

        Raises
        ------
        SchemaMismatch, NotFinite, UnknownName
        """
        prior, fused, seen = self._inputs(prior, data, mask)
        return self.of_fused(prior, fused, seen)

    def of_fused(self, prior: GaussianMixture, fused: Tensor, seen: Tensor) -> GaussianMixture:
        """`forward` of checked inputs: prior (B), fused data (B, N, width), seen (B, N)."""
        features = (component_features(prior) - self.prior_shift) / self.prior_scale
        data = (fused - self.datum_shift) / self.datum_scale
        if self.sensors.names is not None:
            data = data * (fused[..., -len(self.sensors.names) :] @ self.slots)
        data = data * seen[..., None]
        tokens, memory = self.core.network(features, data, seen)
        return self.core.head(_parted(prior, self.n_children), tokens, memory, data, seen)

    def checked_prior(self, prior: Any) -> GaussianMixture:
        """The prior as a mixture, if it fits the model; parameters (B, q) go through the embedding.

        Raises
        ------
        SchemaMismatch
        """
        if isinstance(prior, Tensor) and self.config["prior_parameters"]:
            assert self.core.embedding is not None
            return self.core.embedding(prior.to(self.datum_shift))
        if not isinstance(prior, GaussianMixture):
            raise SchemaMismatch(
                f"the prior is a {type(prior).__name__}", remedy="GaussianMixture.from_distribution or from_samples make one"
            )
        if prior.dim != self.state_dim:
            raise SchemaMismatch(f"the prior has d = {prior.dim} and the model {self.state_dim}")
        if prior.n_components != self.n_components:
            way = "split" if prior.n_components < self.n_components else "reduce"
            raise SchemaMismatch(
                f"the prior has K = {prior.n_components} and the model {self.n_components}",
                remedy=f"prior.{way}({self.n_components}) has the model's K",
            )
        return prior

    def _inputs(self, prior: Any, data: Any, mask: Any) -> tuple[GaussianMixture, Tensor, Tensor]:
        """Checked, of one B, in the model's dtype and on its device."""
        if self.head_name == "auto":
            raise DatumwiseError("head='auto' has not been chosen yet", remedy="call fit first")
        like = self.datum_shift
        prior = self.checked_prior(prior).to(dtype=like.dtype, device=like.device)
        fused, seen = self.sensors.fuse(data, mask, batch=len(prior), like=like)
        B = max(len(prior), len(fused)) if len(prior) and len(fused) else 0
        if len(prior) not in (1, B) or len(fused) not in (1, B):
            raise SchemaMismatch(
                f"{len(prior)} priors and data of {len(fused)} problems", remedy="the same B, or one of them 1"
            )
        if len(prior) != B:
            prior = prior[[0] * B]
        return prior, fused.expand(B, -1, -1), seen.expand(B, -1)

    # ------------------------------------------------------------------ training

    def fit(
        self,
        simulator: Simulator,
        prior_family: Any,
        steps: int = 1000,
        batch_size: int = 256,
        lr: float = 2e-3,
        n_obs: tuple[int, int] = (1, 5),
        seed: int = 0,
        *,
        sensor_dropout: float = SENSOR_DROPOUT,
        progress: Callable[[int, int], None] | None = None,
    ) -> TrainingLog:
        """Train on simulated problems; again calls go on from the weights that are there.

        Parameters
        ----------
        simulator : callable
            (x (B, d), n, generator) -> data (B, n, p), or a mapping of sensor to such; or (data, mask).
            x lies within the support.
        prior_family : PriorFamily, or callable
            ``sample(B, generator)``, or (B, generator), gives a GaussianMixture.
        steps, batch_size : int
        lr : float
            Highest rate of the one-cycle schedule.
        n_obs : (int, int)
            Fewest and most data a problem, inclusive; one number a batch.
        seed : int
        sensor_dropout : float
            Share of (problem, sensor) pairs without data, where sensors are named.
        progress : callable (done, total), optional

        Returns
        -------
        TrainingLog
            Also kept as ``log``.

        Raises
        ------
        NotFinite
            More than half of a batch failed.
        SchemaMismatch, DatumwiseError

        Warns
        -----
        UserWarning
            Some samples failed; the log says how many.
        """
        n_obs = (int(n_obs[0]), int(n_obs[1])) if len(n_obs) == 2 else n_obs
        check_training(steps, batch_size, lr, n_obs, sensor_dropout)
        options: dict[str, Any] = {"batch_size": batch_size, "lr": lr, "n_obs": n_obs, "sensor_dropout": sensor_dropout}
        trials: dict[str, float] = {}
        total, done = steps, 0
        if self.head_name == "auto":
            trial_steps = max(1, steps // TRIALS)
            total = steps + len(HEADS) * trial_steps
            held_out = None
            for head in HEADS:
                trial = DistributionTransformer(**self.config | {"head": head}).to(self.datum_shift)
                start_from_moments(trial, simulator, prior_family, n_obs, seed)
                held_out = held_out or held_out_set(trial, simulator, prior_family, n_obs, seed)
                train(
                    trial, simulator, prior_family, trial_steps, seed=seed, progress=_part_of(progress, done, total), **options
                )
                trials[head] = held_out_nll(trial, held_out)
                done += trial_steps
            self._build(min(trials, key=lambda head: trials[head]))
        if int(self.trained_n[0]) == UNTRAINED:
            start_from_moments(self, simulator, prior_family, n_obs, seed)
        log = train(self, simulator, prior_family, steps, seed=seed, progress=_part_of(progress, done, total), **options)
        old = self.trained_n.tolist()
        low = n_obs[0] if old[0] == UNTRAINED else min(old[0], n_obs[0])
        self.trained_n.copy_(torch.tensor([low, max(old[1], n_obs[1])]))
        self.log = replace(log, trials=trials)
        return self.log

    @torch.no_grad()
    def set_units(self, prior: GaussianMixture, state: Tensor, data: Tensor) -> None:
        """Take units and the bounds of the family from draws of training.

        Parameters
        ----------
        prior : GaussianMixture
            Of many problems.
        state : Tensor (n, d)
        data : Tensor (m, width)
            Fused, seen data.
        """
        for part in (self.core.head, self.core.embedding):
            if part is not None:
                part.state_shift.copy_(state.mean(0))
                part.state_scale.copy_(_spread(state))
        features = component_features(prior).flatten(0, 1)
        self.prior_shift.copy_(features.mean(0))
        self.prior_scale.copy_(_spread(features))
        numbers = sum(self.sensors.dims)
        for i, own in enumerate(self.slots):
            rows = data if self.sensors.names is None else data[data[:, numbers + i] > 0]
            at = own[:numbers].nonzero().flatten()
            if len(rows) > 1:
                self.datum_shift[at] = rows[:, at].mean(0)
                self.datum_scale[at] = _spread(rows[:, at])
        found = FeatureRange.of(prior)
        for name in ("low", "high", "mean", "sd"):
            self.get_buffer(f"family_{name}").copy_(getattr(found, name))

    @property
    def family(self) -> FeatureRange:
        """Where the components of the training priors lie; `FeatureRange.check` compares another prior."""
        return FeatureRange(self.family_low, self.family_high, self.family_mean, self.family_sd)

    # ------------------------------------------------------------------ answers

    def posterior(
        self,
        prior: GaussianMixture,
        data: Any = None,
        mask: Any = None,
        *,
        log_likelihood: Callable[..., Tensor] | None = None,
        refine: int = 0,
        draws: int = 2000,
        generator: torch.Generator | None = None,
    ) -> Posterior:
        """Posterior, and whether it is to be trusted.

        Parameters
        ----------
        prior, data, mask
            As for `forward`.
        log_likelihood : callable, optional
            (x (S, B, d), data) -> (S, B), or (x, data, mask) where a mask is given; x lies within the support. Gives the
            effective sample size, k-hat and the evidence.
        refine : int
            Rounds of refitting the mixture to its own weighted draws; needs ``log_likelihood``.
        draws : int
            Of the mixture, for both.
        generator : torch.Generator, optional
            Of the draws; a fixed one by default.

        Returns
        -------
        Posterior

        Warns
        -----
        UserWarning
            More data than trained with, or a prior outside the family, with its z-scores.
        """
        prior, fused, seen = self._inputs(prior, data, mask)
        if refine and log_likelihood is None:
            raise DatumwiseError("refine needs a likelihood", remedy="pass log_likelihood")
        with torch.inference_mode():
            answer = self.of_fused(prior, fused, seen)
        mixture = GaussianMixture(
            None, answer.means.clone(), answer.scale_tril.clone(), log_weights=answer.log_weights.clone(), validate_args=False
        )
        check = self.family.check(prior)
        self._warn(check, seen)
        known: dict[str, Any] = {"in_family": check.in_family, "z_scores": check.z, "transform": self.transform}
        if log_likelihood is None:
            return Posterior(mixture, None, None, None, **known)
        from datumwise.learn.importance import importance_sample, refine_mixture

        own = _bound(log_likelihood, data, mask)
        options: dict[str, Any] = {"n": draws, "support": self.transform, "generator": generator}
        for _ in range(refine):
            mixture = refine_mixture(mixture, prior, own, **options)
        weighted = importance_sample(mixture, prior, own, **options)
        return Posterior(mixture, weighted.ess / draws, weighted.khat, weighted.log_evidence, **known)

    def _warn(self, check: FamilyCheck, seen: Tensor) -> None:
        if not bool(check.in_family.all()):
            warnings.warn(check.sentence(), stacklevel=3)
        most = int(self.trained_n[1])
        count = int(seen.sum(1).max()) if seen.numel() else 0
        if most != UNTRAINED and count > most:
            warnings.warn(f"{count:,} data and the model was trained with at most {most:,}", stacklevel=3)

    def filter(
        self,
        prior: GaussianMixture,
        series: Any,
        transition: Any = None,
        mask: Any = None,
        *,
        log_likelihood: Callable[..., Tensor] | None = None,
        draws: int = 2000,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> FilterResult:
        """Filter B series: each posterior, moved, is the next prior. No motion before the first datum.

        Parameters
        ----------
        prior : GaussianMixture
            Of the first state; B = 1 is shown to all series.
        series : Tensor (T, B, p), or mapping of sensor to such
        transition : (A (d, d), b (d,) or None, Q (d, d) or None), or callable GaussianMixture -> GaussianMixture, optional
            x' = A x + b + e, e ~ N(0, Q), over the unconstrained state. A callable may be nonlinear.
        mask : Tensor of bool (T, B), or mapping of sensor to such, optional
            True where a datum was seen; without any, the state only moves.
        log_likelihood : callable, optional
            (x (S, B, d), data (B, 1, p)[, mask]) -> (S, B), of one time; gives the log likelihood of the series.
        draws, generator
            For that estimate.
        progress : callable (done, total), optional

        Returns
        -------
        FilterResult
            ``loglik`` is an importance estimate, None without ``log_likelihood``.
        """
        steps, data, masks = self._series(series, mask)
        state = self.checked_prior(prior).to(self.datum_shift)
        mixtures: list[GaussianMixture] = []
        loglik: Tensor | None = None
        for t in range(steps):
            if t and transition is not None:
                state = transition(state) if callable(transition) else state.affine(*transition)
            at, hidden = _at(data, t), _at(masks, t)
            state, fused, seen = self._inputs(state, at, hidden)
            with torch.inference_mode():
                after = self.of_fused(state, fused, seen)
                after = after.reduce(self.n_components)
                after = _where(seen.any(1), after, state)
            after = GaussianMixture(
                None, after.means.clone(), after.scale_tril.clone(), log_weights=after.log_weights.clone(), validate_args=False
            )
            if log_likelihood is not None:
                step = self._evidence(after, state, log_likelihood, at, hidden, seen, draws, generator)
                loglik = step if loglik is None else loglik + step
            state = after
            mixtures.append(state)
            if progress is not None:
                progress(t + 1, steps)
        return FilterResult.of(mixtures, loglik)

    def _series(self, series: Any, mask: Any) -> tuple[int, Any, Any]:
        """Number of times, data and masks."""
        parts = list(series.values()) if isinstance(series, Mapping) else [series]
        shapes = [tuple(torch.as_tensor(part).shape) for part in parts]
        if not parts or any(len(shape) != 3 for shape in shapes) or len({shape[:2] for shape in shapes}) != 1:
            raise SchemaMismatch(f"a series of shape {shapes}", remedy="(T, B, p), the same T and B for all sensors")
        if not shapes[0][0]:
            raise SchemaMismatch("a series of no data cannot be filtered")
        for given in [] if mask is None else (mask.values() if isinstance(mask, Mapping) else [mask]):
            if tuple(torch.as_tensor(given).shape) != shapes[0][:2]:
                raise SchemaMismatch(f"a mask of shape {tuple(torch.as_tensor(given).shape)} for a series of {shapes[0][:2]}")
        return shapes[0][0], series, mask

    def _evidence(
        self,
        after: GaussianMixture,
        before: GaussianMixture,
        log_likelihood: Callable[..., Tensor],
        data: Any,
        mask: Any,
        seen: Tensor,
        draws: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        """log p(y_t | past) by importance sampling from the posterior; 0 where nothing was seen."""
        from datumwise.learn.importance import importance_sample

        own = _bound(log_likelihood, data, mask)
        seen_any = seen.any(1)

        def likelihood(x: Tensor, _: Any) -> Tensor:
            return torch.where(seen_any, own(x, _), 0.0)

        weighted = importance_sample(after, before, likelihood, n=draws, support=self.transform, generator=generator)
        return torch.where(seen_any, weighted.log_evidence, 0.0)

    def datapoint_influence(
        self, prior: GaussianMixture, data: Any, ids: Sequence[Any] | None = None, mask: Any = None
    ) -> Tensor:
        """KL(posterior || posterior without the datum), for every datum of one problem, in one batched pass.

        Parameters
        ----------
        prior : GaussianMixture
            B = 1.
        data : Tensor (1, N, p) or (N, p), or mapping of sensor to such
        ids : sequence, optional
            Of the N data (sensors one after the other); only their number is checked.
        mask : Tensor of bool (1, N), or mapping, optional

        Returns
        -------
        Tensor (N,)
            In nats, aligned to ``ids``.
        """
        if not isinstance(data, Mapping) and torch.as_tensor(data).dim() == 2:
            data = torch.as_tensor(data)[None]
        prior, fused, seen = self._inputs(prior, data, mask)
        if len(fused) != 1:
            raise SchemaMismatch(f"{len(fused)} problems", remedy="one prior and its data at a time")
        if ids is not None and len(ids) != fused.shape[1]:
            raise SchemaMismatch(f"{len(ids)} ids for {fused.shape[1]} data")
        return drop_one_divergence(self, prior, fused, seen)

    def calibration(
        self,
        simulator: Simulator,
        prior_family: Any,
        n: int = 2000,
        *,
        n_obs: int | tuple[int, int] | None = None,
        batch_size: int = 1000,
        seed: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> Calibration:
        """Simulation-based calibration: ranks of true states and coverage, on n fresh problems.

        Parameters
        ----------
        simulator, prior_family
            As for `fit`.
        n : int
            Problems.
        n_obs : int or (int, int), optional
            Data a problem; the numbers trained with by default.
        batch_size : int
            One number of data a batch.
        seed : int
        progress : callable (done, total), optional

        Returns
        -------
        Calibration
            Ranks are uniform only where the answers are very good: a divergence of KL nats adds up to 2 n KL to the
            chi-square statistic.
        """
        if self.head_name == "auto":
            raise DatumwiseError("head='auto' has not been chosen yet", remedy="call fit first")
        if n < 1 or batch_size < 1:
            raise DatumwiseError(f"{n} problems in batches of {batch_size}", remedy="at least 1")
        numbers = self.trained_n.tolist() if n_obs is None else [n_obs, n_obs] if isinstance(n_obs, int) else list(n_obs)
        if not 0 <= numbers[0] <= numbers[1]:
            raise DatumwiseError(f"n_obs is {n_obs}", remedy="a number of data, or (fewest, most); fit sets the default")
        return calibrate(self, simulator, prior_family, n, (numbers[0], numbers[1]), batch_size, seed, progress)

    # ------------------------------------------------------------------ on disk

    def save(self, path: str | Path) -> None:
        """Write weights, units and configuration into one safetensors file.

        Raises
        ------
        DatumwiseError
            The head is not chosen yet, or the support is a Transform of the caller's.
        """
        from safetensors.torch import save_file

        if self.head_name == "auto":
            raise DatumwiseError("head='auto' has not been chosen yet", remedy="call fit first")
        try:
            config = json.dumps(self.config)
        except TypeError as error:
            raise DatumwiseError(
                "a support that is no name cannot be saved", remedy="use real, positive, unit or a tuple of them"
            ) from error
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(state, path, metadata={"format": FORMAT, "config": config})

    @classmethod
    def load(cls, path: str | Path) -> DistributionTransformer:
        """What `save` wrote.

        Raises
        ------
        SourceError
            No such file, or another format.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as source:
                metadata = source.metadata() or {}
                state = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise SourceError(f"{path} cannot be read as a distribution transformer ({error})") from error
        if metadata.get("format") != FORMAT:
            raise SourceError(f"{path} holds no distribution transformer", remedy="use a file that save wrote")
        config = json.loads(metadata["config"])
        if isinstance(config["support"], list):
            config["support"] = tuple(config["support"])
        model = cls(**config).to(state["datum_shift"].dtype)
        model.load_state_dict(state)
        return model


def _slots(sensors: Sensors, numbers: int, width: int) -> Tensor:
    """1 where a fused datum of each sensor (S, width) holds its numbers and its flag."""
    if sensors.names is None:
        return torch.ones(1, width)
    slots = torch.zeros(len(sensors.names), width)
    before = 0
    for i, p in enumerate(sensors.dims):
        slots[i, before : before + p] = 1.0
        slots[i, numbers + i] = 1.0
        before += p
    return slots


def _parted(prior: GaussianMixture, children: int) -> GaussianMixture:
    """The same density, every component written as ``children`` equal ones."""
    if children == 1:
        return prior
    return GaussianMixture(
        None,
        prior.means.repeat_interleave(children, 1),
        prior.scale_tril.repeat_interleave(children, 1),
        log_weights=(prior.log_weights - math.log(children)).repeat_interleave(children, 1),
        validate_args=False,
    )


def _spread(values: Tensor) -> Tensor:
    """Standard deviation of each column, 1 where it hardly varies."""
    sd = values.std(0) if len(values) > 1 else torch.ones_like(values[0])
    return torch.where(sd > 1e-6 * (1 + values.mean(0).abs()), sd, 1.0)


def _where(choose: Tensor, yes: GaussianMixture, no: GaussianMixture) -> GaussianMixture:
    """Row by row, one mixture or the other."""
    if bool(choose.all()):
        return yes
    return GaussianMixture(
        None,
        torch.where(choose[:, None, None], yes.means, no.means),
        torch.where(choose[:, None, None, None], yes.scale_tril, no.scale_tril),
        log_weights=torch.where(choose[:, None], yes.log_weights, no.log_weights),
        validate_args=False,
    )


def _at(series: Any, t: int) -> Any:
    """Time t of a series (T, B, ...) as data (B, 1, ...)."""
    if series is None:
        return None
    if isinstance(series, Mapping):
        return {name: torch.as_tensor(values)[t][:, None] for name, values in series.items()}
    return torch.as_tensor(series)[t][:, None]


def _bound(log_likelihood: Callable[..., Tensor], data: Any, mask: Any) -> Callable[[Tensor, Any], Tensor]:
    """(x, _) -> log likelihood of these data, and of the mask where there is one."""
    if mask is None:
        return lambda x, _: log_likelihood(x, data)
    return lambda x, _: log_likelihood(x, data, mask)


def _part_of(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int, int], None] | None:
    """Progress of one training among several."""
    return None if progress is None else lambda done, _: progress(before + done, total)
