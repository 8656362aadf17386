"""What will a request for signals cost? Passes, layers, coverage, memory and time, before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from datumwise.errors import ModelMismatch, UnknownName

__all__ = ["SIGNALS", "Plan", "PlannedPass", "plan"]

# level 0: forward; 1: forward and backward; 2: after a level-1 statistic; 3: after a level-2 statistic
SIGNALS: dict[str, int] = {
    "labels": 0,
    "loss": 0,
    "logits": 0,
    "probs": 0,
    "nll": 0,
    "n_tokens": 0,
    "token_logprobs": 0,
    "entropy": 0,
    "margin": 0,
    "top_margin": 0,
    "el2n": 0,
    "embedding": 0,
    "last_grad_norm": 0,
    "texts": 0,
    "activations": 0,
    "activation_gram": 0,
    "logits_by_epoch": 0,
    "grad_norm": 1,
    "grad_index": 1,
    "grad_dot": 1,
    "mean_gradient": 1,
    "kfac": 1,
    "self_influence": 3,
    "flat_share": 2,
    "removed_energy": 2,
    "edit_sensitivity": 2,
    "input_curvature": 1,
    # of texts, from a causal language model alone
    "min_margin": 0,
    "least_confidence": 0,
    "greedy_nll": 0,
    "token_z": 0,
    "lm_el2n": 0,
    "truncated": 0,
    "prompt_nll": 0,
    "n_tokens_prompt": 0,
    "recited_run": 0,
    "recited": 0,
    "nll_alone": 0,
    "n_tokens_alone": 0,
    "complexity_logprobs": 0,
    "quality_logprobs": 0,
    "unieval_logprobs": 0,
    "automathtext_logprobs": 0,
    "perturbed_nll": 0,
    "subnetwork_confidence": 0,
}
LENS_NAMES = tuple(SIGNALS)[:11]
CURVATURE = ("flat_share", "removed_energy", "edit_sensitivity", "input_curvature")  # of a few layers, in passes of their own
STATISTICS = ("mean_gradient", "activation_gram", "kfac")  # of the whole data set, not columns
LANGUAGE_ONLY = tuple(SIGNALS)[tuple(SIGNALS).index("min_margin") :]
READ_ALONG = ("nll", "n_tokens", "token_logprobs", "entropy", "top_margin")  # from the same pass where one runs for others
# further forwards over the texts that a signal takes: the response alone, a question, 20 perturbed prompts, 10 sub-networks
FURTHER = {
    "nll_alone": 1,
    "recited": 1,
    "complexity_logprobs": 1,
    "quality_logprobs": 1,
    "unieval_logprobs": 3,
    "automathtext_logprobs": 2,
    "perturbed_nll": 20,
    "subnetwork_confidence": 10,
}
ASKED_APART = ("complexity_logprobs", "quality_logprobs", "unieval_logprobs", "automathtext_logprobs", "perturbed_nll")

# Estimated cost of a pass in plain forward-and-backward passes: means of the GPT-2-like and the ViT model of
# benchmarks/signals.py. Not measured there: mean_gradient (the arithmetic of the weight gradients), and the
# second and third pass of EK-FAC.
FORWARD, SKELETON, LENS = 0.34, 0.81, 0.05
EXTRA = {"grad_norm": 0.20, "grad_index": 0.22, "grad_dot": 0.28, "mean_gradient": 0.25, "kfac": 0.50}
SAMPLED = 0.74  # a second backward on the same forward, for labels drawn from the model
FACTORS, EIGENVALUES, SCORES = 1.65, 2.0, 2.0  # the three passes of EK-FAC
SOME_FACTORS = 1.25  # factors of the few layers that scores by curvature look at
INPUT_DRAWS = 11  # forwards and backwards of input_curvature


@dataclass(frozen=True)
class PlannedPass:
    """One streamed pass.

    Attributes
    ----------
    level : int
        0 forward only, 1 forward and backward, 2 and 3 after a statistic of the level before.
    objectives : tuple of str
        The backwards on each forward.
    signals : tuple of str
        What it gives.
    cost : float
        In plain forward-and-backward passes over the same data.
    """

    level: int
    objectives: tuple[str, ...]
    signals: tuple[str, ...]
    cost: float


@dataclass(frozen=True)
class Plan:
    """What a request for signals will do.

    Attributes
    ----------
    passes : tuple of PlannedPass
    layers : tuple of Layer
        What is captured (no layer for a forward-only plan).
    coverage : float
        Captured share of the trainable parameters, 0 to 1.
    missing : dict of parameter name to reason
    parameter_bytes : int
        The model itself.
    formed_bytes : int
        Most memory that formed gradients take.
    checkpoints : int
        How often the passes are run.
    """

    passes: tuple[PlannedPass, ...]
    layers: tuple[Any, ...] = ()
    coverage: float = 1.0
    missing: dict[str, str] = field(default_factory=dict)
    parameter_bytes: int = 0
    formed_bytes: int = 0
    checkpoints: int = 1

    @property
    def cost(self) -> float:
        """Estimated cost in plain forward-and-backward passes over the data."""
        return self.checkpoints * sum(p.cost for p in self.passes)

    def __str__(self) -> str:
        lines = []
        for number, one in enumerate(self.passes, 1):
            what = "forward" if not one.objectives else "forward + backward of " + ", ".join(one.objectives)
            lines.append(f"pass {number}  level {one.level}  {one.cost:4.2f} x  {what}: {', '.join(one.signals)}")
        if self.layers:
            kinds: dict[str, int] = {}
            for layer in self.layers:
                kinds[layer.kind] = kinds.get(layer.kind, 0) + 1
            found = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
            lines.append(f"layers  {len(self.layers)} captured ({found}), {100 * self.coverage:.1f}% of parameters")
        lines += [f"missing {name}: {why}" for name, why in self.missing.items()]
        lines.append(f"memory  model {_mib(self.parameter_bytes)}, formed gradients {_mib(self.formed_bytes)}")
        often = f", {self.checkpoints} checkpoints" if self.checkpoints > 1 else ""
        lines.append(f"cost    about {self.cost:.2f} x a plain training pass{often} (estimate)")
        return "\n".join(lines)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def wanted(want: str | Iterable[str]) -> list[str]:
    """The names asked for, without repeats; ``grad_index_norm`` comes with ``grad_index``.

    Raises
    ------
    UnknownName
        No such signal; names the nearest.
    """
    names = [want] if isinstance(want, str) else list(want)
    names = ["grad_index" if name == "grad_index_norm" else name for name in names]
    for name in names:
        if name not in SIGNALS:
            near = get_close_matches(name, SIGNALS, n=1, cutoff=0.0)
            raise UnknownName(f"there is no signal {name!r}", remedy=f"did you mean {near[0]!r}?")
    if not names:
        raise UnknownName("no signal was asked for", remedy=f"signals are {', '.join(SIGNALS)}")
    return list(dict.fromkeys(names))


def plan(
    model: Any,
    want: str | Iterable[str],
    *,
    modules: Any = None,
    measure: Any = None,
    target: Any = None,
    checkpoints: Sequence[Any] | None = None,
    losses: Any = None,
    fisher_labels: str | None = None,
) -> Plan:
    """The fewest passes that give the signals; runs nothing.

    One pass serves every need of its level and below.

    Parameters
    ----------
    model : torch.nn.Module
    want : str or iterable of str
        Names of :data:`SIGNALS`.
    modules : list of patterns, or function (name, module) -> bool, optional
    measure : function or "log_odds", optional
        Differentiated instead of the loss by the gradient signals.
    target : list of {parameter: gradient}, or "mean", optional
        For ``grad_dot``; "mean" takes the data set's own mean gradient, which costs a pass.
    checkpoints : sequence, optional
        Every pass is run for each.
    losses : function, optional
        One's own losses, from which no labels can be drawn.
    fisher_labels : {"sampled", "gold"}, optional
        Labels of ``kfac`` and ``self_influence``; drawn labels cost ``kfac`` a second backward.

    Returns
    -------
    Plan

    Raises
    ------
    UnknownName, ModelMismatch

    Examples
    --------
    >>> import torch
    >>> print(plan(torch.nn.Linear(4, 2), ["loss", "grad_norm"]))
    pass 1  level 1  1.06 x  forward + backward of loss: loss, grad_norm
    layers  1 captured (1 linear), 100.0% of parameters
    memory  model 0.0 MiB, formed gradients 0.0 MiB
    cost    about 1.06 x a plain training pass (estimate)
    """
    from datumwise.probe.torch_pass import CHUNK_BYTES, TorchPass

    names = wanted(want)
    own_mean = target == "mean" if isinstance(target, str) else False
    if "grad_dot" in names and target is None:
        raise ModelMismatch("grad_dot needs gradients to compare with", remedy='pass target=, or target="mean"')
    objective = "loss" if measure is None else "measure"
    labels = factor_labels(fisher_labels, losses)
    fisher = "sampled" if labels == "sampled" else "loss"
    passes: list[PlannedPass] = []
    influence = "self_influence" in names
    if "grad_dot" in names and own_mean:
        passes.append(_priced(["mean_gradient"], objective))
    names, spoken = split_language(names)
    curved = [name for name in names if name in CURVATURE]
    rest = [name for name in names if name != "self_influence" and name not in CURVATURE]
    if rest:
        passes.append(_priced(rest, objective, fisher, trick=measure == "log_odds" and losses is None))
    if spoken:
        passes.append(_spoken(spoken))
    if influence:
        passes.append(PlannedPass(1, (fisher,), ("activation and gradient covariances",), FACTORS))
        passes.append(PlannedPass(2, (fisher,), ("eigenvalues",), EIGENVALUES))
        passes.append(PlannedPass(3, ("loss",), ("self_influence",), SCORES))
    passes += _curved(curved, fisher)
    size = sum(p.nbytes for p in model.parameters())
    repeats = max(1, len(checkpoints or ()))
    if all(not p.objectives for p in passes):
        return Plan(tuple(passes), parameter_bytes=size, checkpoints=repeats)
    seen = TorchPass(model, [], modules=modules)
    missing = {k: v for k, v in seen.missing.items() if k not in seen.layers}
    shapes = [layer.shape for layer in seen.layers.values() if layer.shape]
    widest = max((4 * o * i for o, i in shapes), default=0)
    return Plan(
        passes=tuple(passes),
        layers=tuple(seen.layers.values()),
        coverage=seen.coverage,
        missing=missing,
        parameter_bytes=size,
        formed_bytes=min(max(CHUNK_BYTES, widest), 64 * widest),
        checkpoints=repeats,
    )


def split_language(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names for the streamed passes, and names for the pass of a language model over whole texts.

    Examples
    --------
    >>> split_language(["loss", "nll", "token_z"])
    (['loss'], ['nll', 'token_z'])
    >>> split_language(["loss", "nll"])
    (['loss', 'nll'], [])
    """
    if not any(name in LANGUAGE_ONLY for name in names):
        return list(names), []
    spoken = [name for name in names if name in LANGUAGE_ONLY or name in READ_ALONG]
    return [name for name in names if name not in spoken], spoken


def _spoken(names: Sequence[str]) -> PlannedPass:
    """The pass of a language model over whole texts, with its estimated cost."""
    apart = (*ASKED_APART, "subnetwork_confidence")
    first = 1 if any(name not in apart for name in names) else 0
    forwards = first + sum(FURTHER.get(name, 0) for name in names)
    return PlannedPass(0, (), tuple(names), round(FORWARD * forwards + LENS, 2))


def _curved(names: Sequence[str], fisher: str) -> list[PlannedPass]:
    """The passes of the scores by curvature: factors first, then all that looks at them, then the input's own."""
    passes = []
    looking = tuple(name for name in names if name != "input_curvature")
    if looking:
        backward = "removed_energy" in looking
        cost = (1 + LENS if backward else FORWARD) + FORWARD * ("edit_sensitivity" in looking)
        passes.append(PlannedPass(1, (fisher,), ("activation and gradient covariances of some layers",), SOME_FACTORS))
        passes.append(PlannedPass(2, ("loss",) if backward else (), looking, round(cost, 2)))
    if "input_curvature" in names:
        passes.append(PlannedPass(1, ("loss",), ("input_curvature",), float(INPUT_DRAWS)))
    return passes


def factor_labels(asked: str | None, losses: Any) -> str:
    """Labels of curvature factors: as asked for, else drawn from the model; given ones with one's own losses."""
    return asked or ("sampled" if losses is None else "gold")


def _priced(names: Sequence[str], objective: str, fisher: str = "loss", *, trick: bool = False) -> PlannedPass:
    """One pass for these signals, with its estimated cost."""
    backward = [name for name in names if SIGNALS[name] == 1]
    asked = {fisher if name == "kfac" else objective for name in backward}
    objectives = tuple(o for o in ("loss", "sampled", "measure") if o in asked)
    cost = (SKELETON if backward else FORWARD) + (LENS if set(names) & set(LENS_NAMES) else 0.0)
    shared = trick and {"loss", "measure"} <= asked  # one is a multiple of the other
    cost += sum(EXTRA[name] for name in backward) + SAMPLED * max(0, len(objectives) - 1 - shared)
    return PlannedPass(1 if backward else 0, objectives, tuple(names), round(cost, 2))
