"""How can a model stop reciting without a list of what it recites? Its weights lose their components of little curvature.

What many datapoints use bends the loss sharply; what few use lies in flat directions. In the eigenbasis of a layer's Kronecker
factors (`datumwise.probe.kfac`) a weight is kept on the pairs of directions that carry most of the curvature and set to zero on
the rest. Recitation is suppressed, not erased: fine-tuning can bring it back.

Source: Merullo et al., From memorization to reasoning in the spectrum of loss curvature, 2025, arXiv 2510.24256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, ModelMismatch, NotFinite, UnknownName
from datumwise.forget.edit_cost import EditCost, predicted_cost, predicted_costs
from datumwise.forget.weight_edit import EditPlan, WeightEdit, differences, unwrapped
from datumwise.probe.kept_pairs import RULES, KeepMass, KeptPairs, from_coefficients, kept_pairs, to_coefficients
from datumwise.probe.kfac import KFAC, Spectrum, matching_names

__all__ = ["CurvatureEdit", "basis_of"]

KEEP_MASSES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.997, 0.999)


class CurvatureEdit(WeightEdit):
    """Keep of each weight the eigenvector pairs that carry a share of the layer's curvature.

    W_edited = U_G (M * U_G^T W U_A) U_A^T with the mask M of `datumwise.probe.kept_pairs.kept_pairs`.

    Parameters
    ----------
    kfac : KFAC
        Fitted on what must be kept: text (or images) that the model should go on handling well. With ``bias=True`` the part
        of A that belongs to the weight is used; biases are never edited.
    keep_mass : float, pair of floats, or dict of pattern to either
        rho in (0, 1]: 1 leaves a layer as it is. A pair is (input, output), for the marginal rule. A dict gives each of its
        patterns a share and edits the layers that match one (the first that matches counts). Good values depend on the model:
        compare edits at equal perplexity, not at equal rho, and search 1 - rho on a log scale for converged classifiers.
    rule : {"product", "marginal", "bulk"}
    band : (low, high), optional
        For the bulk rule.
    layers : str, sequence of str, or callable (name) -> bool, optional
        Layers by patterns as of `KFAC`, default all that have factors. Those at 60 to 80 % of the depth of a language model
        (gate and up projections) are where the source edits.

    Raises
    ------
    UnknownName
        No such rule; a pattern matches no layer with factors.
    DatumwiseError
        A share is not in (0, 1].
    NotFinite
        A factor has NaN or infinite values.

    Examples
    --------
    Half of the inputs hardly vary, so their column is flat and goes:

    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(200, 2) * torch.tensor([1.0, 0.01])
    >>> model = nn.Linear(2, 2, bias=False)
    >>> edit = CurvatureEdit(KFAC(model).fit([(x, torch.randint(2, (200,)))]), keep_mass=0.9)
    >>> with edit.applied(model), torch.no_grad():
    ...     print(model.weight.abs() > 0.02)
    tensor([[ True, False],
            [ True, False]])
    """

    def __init__(
        self,
        kfac: KFAC,
        keep_mass: KeepMass | Mapping[str, KeepMass] = 0.6,
        *,
        rule: str = "product",
        band: tuple[float, float] | None = None,
        layers: str | Sequence[str] | Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__()
        if rule not in RULES:
            raise UnknownName(f"there is no rule {rule!r}", remedy=f"choose {', '.join(RULES)}")
        self.kfac = kfac
        self.keep_mass = keep_mass
        self.rule = rule
        self.band = band
        self.layers = layers
        self._shares = _shares(list(kfac.factors_), keep_mass, layers)
        self._bases: dict[str, _Basis] = {}
        self._pairs: dict[str, KeptPairs] = {}
        self._held: dict[str, tuple[Tensor, Tensor]] | None = None  # weight and its coefficients, while sweeping
        for name, share in self._shares.items():
            kept_pairs([1.0], [1.0], share, rule=rule, band=band)  # refuses a bad share before any eigenvector is computed
            _check_finite(kfac, name)

    def pairs(self, name: str) -> KeptPairs:
        """Which eigenvector pairs of a layer stay."""
        if name not in self._pairs:
            basis = self._basis(name)
            try:
                self._pairs[name] = kept_pairs(
                    basis.outputs.values, basis.inputs.values, self._shares[name], rule=self.rule, band=self.band
                )
            except DatumwiseError as error:
                raise type(error)(f"{error}, in layer {name}") from None
        return self._pairs[name]

    def names(self, model: nn.Module) -> list[str]:
        return list(self._shares)

    def edited(self, name: str, W: Tensor) -> Tensor:
        basis, pairs = self._basis(name), self.pairs(name)
        if W.shape != pairs.shape:
            raise ModelMismatch(f"factors of {name} are of a weight {pairs.shape}, the model's is {tuple(W.shape)}")
        if pairs.everything:
            return W
        return from_coefficients(self._coefficients(name, W, basis), basis.inputs.vectors, basis.outputs.vectors, pairs)

    def described(self, name: str) -> dict[str, Any]:
        pairs = self.pairs(name)
        return {"kept_pairs": pairs.n_pairs, "kept_mass": pairs.mass, "ranks": pairs.ranks}

    def plan(self, model: nn.Module | None = None, data: Any = None, **options: Any) -> EditPlan:
        """What the edit would do, before it is done.

        Parameters
        ----------
        model : torch.nn.Module, optional
            Default the model of the factors; not touched.
        data : as of `KFAC.fit`, optional
            Predict the increase of the loss on these, in one pass.
        **options
            Of `datumwise.forget.edit_cost.predicted_cost`.

        Returns
        -------
        EditPlan
            ``plan[layer]``, ``plan.energy_moved``, ``plan.cost``; prints as a table.
        """
        model = self._model(model)
        plan = super().plan(model)
        if data is None:
            return plan
        return replace(plan, cost=predicted_cost(unwrapped(model), differences(self, model), data, **options))

    def apply(self, model: nn.Module | None = None) -> nn.Module:
        """As of `WeightEdit.apply`; by default on the model of the factors."""
        return super().apply(self._model(model))

    def restore(self, model: nn.Module | None = None) -> nn.Module:
        """As of `WeightEdit.restore`; by default on the model of the factors."""
        return super().restore(self._model(model))

    def applied(self, model: nn.Module | None = None) -> AbstractContextManager[nn.Module]:
        """As of `WeightEdit.applied`; by default on the model of the factors."""
        return super().applied(self._model(model))

    def at(self, keep_mass: KeepMass | Mapping[str, KeepMass]) -> CurvatureEdit:
        """The same edit with another share kept; eigenvectors are not computed again."""
        other = CurvatureEdit(self.kfac, keep_mass, rule=self.rule, band=self.band, layers=self.layers)
        other._bases, other._held = self._bases, self._held
        return other

    def sweep(self, keep_masses: Sequence[KeepMass]) -> Iterator[CurvatureEdit]:
        """This edit for one share after another: weights are rotated into the eigenbasis once, then only back.

        Holds the rotated weights, and copies to know them by, while it runs. Each edit is to be applied to the same unedited
        model, and taken back before the next.
        """
        shared = self.at(self.keep_mass)
        shared._held = {}
        for keep_mass in keep_masses:
            yield shared.at(keep_mass)

    def costs(
        self, keep_masses: Sequence[KeepMass], data: Any, model: nn.Module | None = None, **options: Any
    ) -> list[EditCost]:
        """Predicted increase of the loss for each of several shares, from one pass; arguments as of `predicted_costs`."""
        model = self._model(model)
        changes = [differences(edit, model) for edit in self.sweep(keep_masses)]
        return predicted_costs(unwrapped(model), changes, data, **options)

    def within(
        self,
        max_cost: float,
        data: Any,
        model: nn.Module | None = None,
        *,
        keep_masses: Sequence[float] = KEEP_MASSES,
        **options: Any,
    ) -> CurvatureEdit:
        """The strongest edit of a grid that is predicted to cost at most so much.

        Parameters
        ----------
        max_cost : float
            Nats of a position's mean loss, above 0: 0.05 is about 5 % of perplexity.
        data, model, **options
            As of `costs`.
        keep_masses : sequence of float
            Grid of shares, in any order.

        Raises
        ------
        DatumwiseError
            Even the mildest costs more.
        """
        grid = sorted(keep_masses)
        costs = [cost.mean for cost in self.costs(grid, data, model, **options)]
        for keep_mass, cost in zip(grid, costs, strict=True):
            if cost <= max_cost:
                return self.at(keep_mass)
        raise DatumwiseError(
            f"keeping {grid[-1]} of the curvature is predicted to cost {costs[-1]:.3g} nats, more than {max_cost}",
            remedy="allow more, or add shares nearer to 1 to keep_masses",
        )

    def _model(self, model: nn.Module | None) -> nn.Module:
        if model is not None:
            return model
        if self.kfac.model is None:
            raise ModelMismatch("these factors were given without a model", remedy="pass the model to edit")
        return self.kfac.model

    def _basis(self, name: str) -> _Basis:
        if name not in self._bases:
            self._bases[name] = basis_of(self.kfac, name)
        return self._bases[name]

    def _coefficients(self, name: str, W: Tensor, basis: _Basis) -> Tensor:
        if self._held is not None and name in self._held and torch.equal(self._held[name][0], W):
            return self._held[name][1]
        coefficients = to_coefficients(W, basis.inputs.vectors, basis.outputs.vectors)
        if self._held is not None:
            self._held[name] = (W.clone(), coefficients)
        return coefficients


@dataclass(frozen=True)
class _Basis:
    """Spectra of a layer's inputs and output gradients."""

    inputs: Spectrum
    outputs: Spectrum


def basis_of(kfac: KFAC, name: str) -> _Basis:
    """Spectra of A (without the constant of a bias) and G of a layer."""
    factor = kfac.factors_[name]
    inputs = Spectrum(factor.A[:-1, :-1].contiguous()) if factor.bias else factor.spectrum_A
    return _Basis(inputs, factor.spectrum_G)


def _shares(
    known: list[str], keep_mass: KeepMass | Mapping[str, KeepMass], layers: str | Sequence[str] | Callable[[str], bool] | None
) -> dict[str, KeepMass]:
    """What is kept of each layer, in the order of the factors."""
    if callable(layers):
        names = [name for name in known if layers(name)]
        if not names:
            raise UnknownName("no layer with factors is chosen by layers=")
    else:
        names = known if layers is None else matching_names([layers] if isinstance(layers, str) else list(layers), known)
    if not isinstance(keep_mass, Mapping):
        return dict.fromkeys(names, keep_mass)
    shares: dict[str, KeepMass] = {}
    for pattern, share in keep_mass.items():
        for name in matching_names([pattern], names):
            shares.setdefault(name, share)
    return {name: shares[name] for name in names if name in shares}


def _check_finite(kfac: KFAC, name: str) -> None:
    factor = kfac.factors_[name]
    for which, matrix in (("A", factor.A), ("G", factor.G)):
        if not bool(torch.isfinite(matrix).all()):
            raise NotFinite(f"factor {which} of {name} has non-finite values", remedy="fit the factors again")
