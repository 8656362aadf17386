"""How sharply does the loss bend in each layer's weights? Kronecker-factored approximate curvature.

For a layer y = W a with output gradients g, the Fisher block of W is approximated by G (x) A, A = E[a a^T]
and G = E[g g^T] over positions (Martens and Grosse, 2015). With A = U_A diag(mu) U_A^T and G = U_G
diag(lam) U_G^T its eigenvectors are the rank-one matrices u_i v_j^T and its eigenvalues lam_i mu_j.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, UnknownName, name_some
from datumwise.probe.batches import moved
from datumwise.probe.collate import known_length, model_batches
from datumwise.probe.layers import reader_of
from datumwise.probe.losses import Losses, size_of
from datumwise.probe.needs.kronecker import KroneckerFactors
from datumwise.probe.torch_pass import TorchPass

__all__ = ["KFAC", "Factor", "Spectrum", "matching_names"]

FLOAT64_EIGH = 4096  # widest matrix whose eigenvectors are computed in float64
OPTIONS = ("labels", "factors", "bias", "positions", "share", "random_state")


@dataclass(frozen=True)
class Spectrum:
    """A symmetric matrix and, when asked for, its eigenvectors, descending; eigenvalues are at least 0."""

    matrix: Tensor

    @cached_property
    def _pair(self) -> tuple[Tensor, Tensor]:
        wide = len(self.matrix) > FLOAT64_EIGH
        exact = self.matrix.to(torch.float32 if wide else torch.float64)
        values, vectors = torch.linalg.eigh((exact + exact.T) / 2)
        return values.flip(0).clamp_min(0).to(self.matrix.dtype), vectors.flip(1).to(self.matrix.dtype).contiguous()

    @property
    def values(self) -> Tensor:
        return self._pair[0]

    @property
    def vectors(self) -> Tensor:
        return self._pair[1]


@dataclass
class Factor:
    """Curvature of one layer's weight W (o, i); with ``bias`` its bias is column i + 1.

    Attributes
    ----------
    spectrum_A, spectrum_G : Spectrum
        Of A (i, i) and G (o, o), means over positions.
    n_positions : int
    bias : bool
    corrected : Tensor (o, i) or None
        EK-FAC eigenvalues Lambda_ij, the mean over datapoints of the squared gradient in the eigenbasis.
    input_of : str
        Name of the first layer fed the same tensor, whose ``spectrum_A`` this is too.
    """

    spectrum_A: Spectrum
    spectrum_G: Spectrum
    n_positions: int
    bias: bool = False
    corrected: Tensor | None = None
    input_of: str = ""

    @property
    def A(self) -> Tensor:
        return self.spectrum_A.matrix

    @property
    def G(self) -> Tensor:
        return self.spectrum_G.matrix

    @property
    def eigenvalues_A(self) -> Tensor:
        """mu, descending (i,)."""
        return self.spectrum_A.values

    @property
    def eigenvectors_A(self) -> Tensor:
        """U_A, columns in the order of mu (i, i)."""
        return self.spectrum_A.vectors

    @property
    def eigenvalues_G(self) -> Tensor:
        """lam, descending (o,)."""
        return self.spectrum_G.values

    @property
    def eigenvectors_G(self) -> Tensor:
        """U_G, columns in the order of lam (o, o)."""
        return self.spectrum_G.vectors

    def eigenvalues(self, kind: str = "ekfac") -> Tensor:
        """Eigenvalues (o, i) of the block: Lambda (``"ekfac"``) or lam_i mu_j (``"kfac"``).

        A position's scale for ``"kfac"``, a datapoint's for ``"ekfac"``; they agree for one position a
        datapoint.
        """
        if kind == "kfac":
            return torch.outer(self.eigenvalues_G, self.eigenvalues_A)
        if kind != "ekfac":
            raise UnknownName(f"there are no {kind} eigenvalues", remedy="choose ekfac or kfac")
        if self.corrected is None:
            raise ModelMismatch(
                "the factors have no EK-FAC eigenvalues yet",
                remedy="call ekfac.fit_eigenvalues(kfac, data) first",
            )
        return self.corrected


class KFAC:
    """Kronecker factors of the Fisher information of chosen layers, from one pass over the data.

    Parameters
    ----------
    model : torch.nn.Module
    modules : str, sequence of str, or callable (name, module) -> bool, optional
        Layers by glob patterns with ``(a|b)``, applied to the end of the dotted name, for example
        ``"*.mlp.(gate|up)_proj"``. Default: every Linear, Conv1D of transformers and convolution that
        requires a gradient, but the output head of a language model, tied matrices and grouped
        convolutions.
    labels : {"sampled", "gold"}
        Loss of labels drawn from the model's own softmax, one draw a position, seeded by
        (``random_state``, the datapoint's id), which gives the Fisher; or of the given labels (empirical
        Fisher).
    factors : {"kfac", "coupled"}
        Plain factors, or A_c = E[||g||^2 a a^T] and G_c = E[||a||^2 g g^T].
    bias : bool
        Append a constant 1 to the inputs of a layer with a bias.
    positions : {"supervised", "all"}
        Positions of a sequence that have a target, or all that are not padding.
    share : float
        Each position counts with this probability, above 0 to 1: A and G are means over many positions, so a
        quarter of them costs little accuracy and saves three quarters of the work. The draw depends on
        (``random_state``, the datapoint's id, the position).
    dtype : torch.dtype
        Of the factors and eigenvectors; sums are float64.
    device : torch.device, optional
        Where the factors are kept, by default the model's.
    random_state : int
        Seed of the sampled labels and positions.

    Attributes
    ----------
    factors_ : dict of str to Factor
    n_datapoints_ : int

    References
    ----------
    Martens and Grosse, Optimizing neural networks with Kronecker-factored approximate curvature, ICML 2015.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> batches = [(torch.randn(8, 3), torch.randint(2, (8,)))]
    >>> kfac = KFAC(model, bias=True).fit(batches)
    >>> {name: (tuple(f.A.shape), tuple(f.G.shape)) for name, f in kfac.factors_.items()}
    {'0': ((4, 4), (4, 4)), '2': ((5, 5), (2, 2))}
    """

    def __init__(
        self,
        model: nn.Module | None,
        modules: str | Sequence[str] | Callable[[str, nn.Module], bool] | None = None,
        labels: str = "sampled",
        factors: str = "kfac",
        *,
        bias: bool = False,
        positions: str = "supervised",
        share: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        random_state: int = 0,
    ) -> None:
        _choice("labels", labels, ("sampled", "gold"))
        _choice("factors", factors, ("kfac", "coupled"))
        _choice("positions", positions, ("supervised", "all"))
        if not 0 < share <= 1:
            raise DatumwiseError(f"a share of {share} of the positions was asked for", remedy="choose one above 0, at most 1")
        self.model = model
        self.modules = modules
        self.labels = labels
        self.factors = factors
        self.bias = bias
        self.positions = positions
        self.share = share
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self._names = None if model is None else _layer_names(model, modules)
        self._sums = self._empty()
        self._factors: dict[str, Factor] | None = None
        self._given = 0
        self._tested = False

    def _empty(self) -> KroneckerFactors:
        return KroneckerFactors(
            labels=self.labels,
            positions=self.positions,
            coupled=self.factors == "coupled",
            bias=self.bias,
            share=self.share,
            seed=self.random_state,
            names=self._names,
        )

    @property
    def need(self) -> KroneckerFactors:
        """What a :class:`~datumwise.probe.torch_pass.TorchPass` asks for these factors, beside other needs."""
        return self._sums

    def take(self, need: KroneckerFactors) -> KFAC:
        """Fitted by what a pass summed up for a :attr:`need` of the same settings; refuses what `fit` refuses."""
        self._sums, self._factors, self._tested = need, None, True
        self._check()
        return self

    # --- learning ---------------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        loss_fn: Losses | None = None,
        max_positions: int | None = None,
        *,
        ids: Sequence[Any] | None = None,
        tokenizer: Any = None,
        collate: Callable[..., Any] | None = None,
        batch_size: int = 32,
        progress: Callable[[int, int], None] | None = None,
    ) -> KFAC:
        """Learn the factors of a data set, from scratch.

        Parameters
        ----------
        data : Ledger, iterable of batches, or (x, y) tensors
            Batches are ``(x, y)``, tensors, or dicts with ``input_ids`` or what the model is called with.
        loss_fn : callable (model, batch) -> Tensor (n,) or (n, T), optional
            One loss a datapoint (or a position; summed); needs ``labels="gold"``.
        max_positions : int, optional
            Stop after the batch that reaches so many positions.
        ids : sequence (n,), optional
            Ids of the datapoints, default a ledger's own or 0..n-1: they seed the sampled labels.
        tokenizer, collate, batch_size
            For a ledger, see `collate_for`.
        progress : callable (done, total), optional
            Total 0 where it is not known beforehand.

        Returns
        -------
        KFAC
            Itself.

        Raises
        ------
        ModelMismatch
            A layer never ran, or is used outside of its module; datapoints of a batch see each other.
        NotFinite
            A factor has NaN or infinite values; names factor, layer and batch.
        EmptyData
            There was no batch.
        """
        self._sums, self._factors, self._given, self._tested = self._empty(), None, 0, False
        batches = model_batches(data, self._model, ids=ids, tokenizer=tokenizer, collate=collate, batch_size=batch_size)
        total = known_length(data, ids)
        with self._pass(loss_fn, self._sums) as run:
            for names, batch in batches:
                run.batch(batch, names)
                if progress is not None:
                    progress(self._sums.n_datapoints, total)
                if max_positions is not None and self._most_positions() >= max_positions:
                    break
        self._check()
        return self

    def partial_fit(self, batch: Any, ids: Sequence[Any] | None = None, loss_fn: Losses | None = None) -> KFAC:
        """Add one batch; without ids the datapoints are numbered on from those seen so far."""
        if ids is None:
            ids = range(self._given, self._given + size_of(batch))
        self._given += len(ids)
        self._factors = None
        with self._pass(loss_fn, self._sums) as run:
            run.batch(_on_device(batch, self._model), list(ids))
        self._tested = True
        return self

    def merge(self, other: KFAC) -> KFAC:
        """Add the sums of a KFAC of the same settings over other datapoints; Lambda must be fitted again."""
        for option in OPTIONS:
            mine, theirs = getattr(self, option), getattr(other, option)
            if mine != theirs:
                raise ModelMismatch(f"factors of {option}={mine!r} and {option}={theirs!r} cannot be merged")
        self._sums.merge(other._sums.state())
        self._factors = None
        return self

    @property
    def _model(self) -> nn.Module:
        if self.model is None:
            raise ModelMismatch("these factors were given without a model", remedy="set kfac.model first")
        return self.model

    def _pass(self, loss_fn: Losses | None, need: Any, *, test: bool | None = None) -> TorchPass:
        """A pass over the chosen layers for one need."""
        names = set(self._names if self._names is not None else self.factors_)
        return TorchPass(
            self._model,
            [need],
            losses=None if loss_fn is None else _summed(loss_fn),
            modules=lambda name, module: name in names,
            seed=self.random_state,
            allow_partial=True,
            test=not self._tested if test is None else test,
        )

    def _most_positions(self) -> int:
        return max((total.count for total in self._sums.G.values()), default=0)

    def _check(self) -> None:
        """Every chosen layer ran and was captured; warn where there are fewer positions than dimensions."""
        if not self._sums.n_datapoints:
            raise EmptyData("there is no datapoint to learn the factors from")
        silent = [name for name in self._names or [] if name not in self._sums.G]
        if silent:
            raise ModelMismatch(
                f"layer {name_some(silent)} never ran or is used outside of its module",
                remedy="leave it out of modules=",
            )
        empty = [name for name in self._names or [] if not self._sums.G[name].count]
        if empty:
            raise EmptyData(f"no position of layer {name_some(empty)} was drawn", remedy="take a larger share, or more data")
        poor = [name for name, f in self.factors_.items() if f.n_positions < max(len(f.A), len(f.G))]
        if poor:
            counts = self.factors_[poor[0]].n_positions
            warnings.warn(
                f"rank deficient: {name_some(poor)} saw {counts:,} positions, fewer than its dimensions; the "
                "spectrum below that is noise",
                stacklevel=3,
            )

    # --- what was learnt --------------------------------------------------------------------------------

    @property
    def n_datapoints_(self) -> int:
        return self._sums.n_datapoints

    @property
    def factors_(self) -> dict[str, Factor]:
        """Factors by layer name, means over positions; layers fed the same tensor share one A."""
        if self._factors is None:
            self._factors = self._divided()
        return self._factors

    def _divided(self) -> dict[str, Factor]:
        sums = self._sums
        spectra: dict[tuple[str, bool], Spectrum] = {}
        factors = {}
        for name in sorted(sums.G, key=list(sums.leader).index):
            leader, bias = sums.leader[name], sums.has_bias[name]
            total, count = sums.A[leader], sums.G[name].count
            if total.count != count:
                raise ModelMismatch(f"layers {leader} and {name} share an input and saw other positions")
            if (leader, bias) not in spectra:
                spectra[leader, bias] = Spectrum(self._placed(total.matrix(bias) / count))
            G = Spectrum(self._placed(sums.G[name].matrix(False) / count))
            factors[name] = Factor(spectra[leader, bias], G, count, bias, input_of=leader)
        return factors

    def _placed(self, matrix: Tensor) -> Tensor:
        return matrix.to(device=self.device or matrix.device, dtype=self.dtype)

    @classmethod
    def from_factors(
        cls,
        factors: Mapping[str, tuple[Tensor, Tensor]],
        n_positions: int,
        *,
        model: nn.Module | None = None,
        bias: bool = False,
        **options: Any,
    ) -> KFAC:
        """From given means: ``{layer: (A, G)}`` over ``n_positions`` positions, as factor files hold them."""
        kfac = cls(model, modules=list(factors) if model is not None else None, bias=bias, **options)
        state: dict[str, np.ndarray] = {"n_datapoints": np.array(n_positions)}
        for name, (A, G) in factors.items():
            A = torch.as_tensor(A).double() * n_positions
            width = len(A) - bias
            parts = {
                "A": (A[:width, :width], A[:width, -1]),
                "G": (torch.as_tensor(G).double() * n_positions, None),
            }
            for factor, (total, first) in parts.items():
                state[f"{factor}/{name}"] = total.cpu().numpy()
                kept = first if bias and first is not None else torch.zeros(len(total))
                state[f"{factor}.first/{name}"] = kept.double().cpu().numpy()
                state[f"{factor}.mass/{name}"] = np.array([n_positions, n_positions])
            state[f"leader/{name}"] = np.frombuffer(name.encode(), dtype=np.uint8)
            state[f"bias/{name}"] = np.array(bias)
        kfac._sums.load_state(state)
        return kfac

    def state_dict(self) -> dict[str, Any]:
        """Settings, sums and EK-FAC eigenvalues, as plain numbers, strings and numpy arrays."""
        options = {option: getattr(self, option) for option in OPTIONS}
        corrected = {
            name: f.corrected.cpu().numpy().copy() for name, f in (self._factors or {}).items() if f.corrected is not None
        }
        return {"options": options, "sums": self._sums.state(), "corrected": corrected}

    def load_state_dict(self, state: Mapping[str, Any]) -> KFAC:
        """Take over what `state_dict` gave; refuses another setting."""
        for option, value in state["options"].items():
            if getattr(self, option) != value:
                raise ModelMismatch(f"the saved factors have {option}={value!r}, this KFAC {option}={getattr(self, option)!r}")
        self._sums.load_state(state["sums"])
        missing = sorted(set(self._names or []) - set(self._sums.G))
        if missing:
            raise ModelMismatch(f"the saved factors have no layer {name_some(missing)}")
        self._check_shapes()
        self._factors = None
        for name, values in state["corrected"].items():
            self.factors_[name].corrected = self._placed(torch.from_numpy(values))
        return self

    def _check_shapes(self) -> None:
        """Refuse sums that are not of this model's layers."""
        for name in self._names or []:
            module = self._model.get_submodule(name)
            reader = reader_of(module)
            assert reader is not None
            shape, leader = reader.shape(module), self._sums.leader[name]
            saved = len(self._sums.G[name].total), len(self._sums.A[leader].total)
            if saved != shape:
                raise ModelMismatch(f"saved factors of {name} are of a weight {saved}, the model's is {shape}")


# --- which layers ---------------------------------------------------------------------------------------


def _layer_names(model: nn.Module, modules: Any) -> list[str]:
    """Names of the layers to take, in the model's order.

    Raises
    ------
    UnknownName
        No layer matches a pattern; names near ones.
    ModelMismatch
        A chosen weight is shared between modules, or quantised.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if (reader := reader_of(module)) is not None and reader.kind in ("linear", "convolution")
    }
    users = _users(model)
    if modules is None:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        names = [
            name
            for name, module in layers.items()
            if module is not head
            and module.weight.requires_grad
            and len(users[id(module.weight)]) == 1
            and getattr(module, "groups", 1) == 1
        ]
        if not names:
            raise ModelMismatch(
                f"{type(model).__name__} has no Linear or convolution whose weight requires a gradient",
                remedy="unfreeze the layers to look at, or name them in modules=",
            )
        return names
    if callable(modules):
        names = [name for name, module in layers.items() if modules(name, module)]
        if not names:
            raise UnknownName("no Linear or convolution is chosen by modules=")
    else:
        names = matching_names([modules] if isinstance(modules, str) else list(modules), list(layers))
    for name in names:
        _check_layer(name, layers[name], users[id(layers[name].weight)])
    return names


def _check_layer(name: str, module: Any, users: list[str]) -> None:
    if len(users) > 1:
        others = [user for user in users if user != name]
        raise ModelMismatch(
            f"the weight of {name} is tied to {name_some(others)}, so it has no Kronecker factors of its own",
            remedy="leave it out of modules=",
        )
    if not module.weight.is_floating_point():
        raise ModelMismatch(f"the weight of {name} is quantised ({module.weight.dtype})", remedy="load it in float")
    if not module.weight.requires_grad:
        raise ModelMismatch(f"the weight of {name} is frozen", remedy=f"call {name}.weight.requires_grad_(True)")


def _users(model: nn.Module) -> dict[int, list[str]]:
    """Names of the modules that use each weight, by its identity."""
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            users.setdefault(id(weight), []).append(name)
    return users


def matching_names(patterns: list[str], names: list[str]) -> list[str]:
    """Names that end with a match of any glob pattern; ``(a|b)`` is either."""
    taken: set[str] = set()
    for pattern in patterns:
        tail = re.compile(r"(?:.*\.)?" + _glob(pattern))
        hits = [name for name in names if tail.fullmatch(name)]
        if not hits:
            near = get_close_matches(pattern, names, n=5, cutoff=0.0)
            raise UnknownName(f"no layer matches {pattern!r}", remedy=f"there are {', '.join(near)}")
        taken.update(hits)
    return [name for name in names if name in taken]


def _glob(pattern: str) -> str:
    known = {"*": ".*", "?": ".", "(": "(?:", ")": ")", "|": "|"}
    return "".join(known.get(character) or re.escape(character) for character in pattern)


# --- small things ---------------------------------------------------------------------------------------


def _summed(loss_fn: Losses) -> Losses:
    """Losses a position summed to losses a datapoint."""

    def losses(model: nn.Module, batch: Any) -> Tensor:
        values = loss_fn(model, batch)
        return values.flatten(1).sum(1) if isinstance(values, Tensor) and values.ndim > 1 else values

    return losses


def _on_device(batch: Any, model: nn.Module) -> Any:
    return moved(batch, next((p.device for p in model.parameters()), torch.device("cpu")))


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DatumwiseError(f"{name}={value!r} is not known", remedy=f"choose {' or '.join(allowed)}")
