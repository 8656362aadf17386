"""Which rank-one components of a weight matrix carry the loss curvature? Pairs of eigenvectors, kept by mass.

With Kronecker factors A = U_A diag(mu) U_A^T of a layer's inputs and G = U_G diag(lam) U_G^T of its output gradients, the
curvature along u_i v_j^T is lam_i mu_j. Both spectra descend, so the kept pairs of row i are its first columns: a whole mask is
one number a row, and nothing of the size of the matrix is sorted.

Source: Merullo et al., From memorization to reasoning in the spectrum of loss curvature, 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
from datumwise.probe.largest_products import Steps, is_tensor, scaled, smallest_kept, spectrum

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "RULES",
    "KeepMass",
    "KeptPairs",
    "edit_weight",
    "from_coefficients",
    "kept_mask",
    "kept_pairs",
    "project",
    "select_pairs",
    "to_coefficients",
]

RULES = ("product", "marginal", "bulk")

KeepMass = float | tuple[float, float]
ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, "Tensor")


@dataclass(frozen=True)
class KeptPairs:
    """The kept pairs of a layer: of row i (output direction i) the columns before ``head[i]`` and from ``tail[i]`` on.

    Attributes
    ----------
    head : ndarray int64 (o,)
    tail : ndarray int64 (o,)
        i (the number of columns) everywhere but for the bulk rule.
    n_columns : int
        i.
    threshold : float
        Smallest kept product of the product rule; 0 for other rules.
    mass : float
        Share of the curvature on the kept pairs, 0..1.
    """

    head: np.ndarray
    tail: np.ndarray
    n_columns: int
    threshold: float
    mass: float

    @property
    def n_pairs(self) -> int:
        """Kept pairs."""
        return int(self.head.sum() + (self.n_columns - self.tail).sum())

    @property
    def shape(self) -> tuple[int, int]:
        """(o, i)."""
        return len(self.head), self.n_columns

    @property
    def share(self) -> float:
        """Kept pairs over all pairs, 0..1."""
        return self.n_pairs / (len(self.head) * self.n_columns)

    @property
    def everything(self) -> bool:
        """Whether all pairs are kept."""
        return bool((self.head >= self.tail).all())

    @property
    def ranks(self) -> tuple[int, int]:
        """Input and output directions with a kept pair: the rank (at most) of what is left."""
        if (self.tail < self.n_columns).any():
            rows = (self.head > 0) | (self.tail < self.n_columns)
            return max(int(self.head.max()), self.n_columns - int(self.tail.min())), int(rows.sum())
        return int(self.head.max()), int((self.head > 0).sum())

    def mask(self) -> np.ndarray:
        """bool (o, i)."""
        column = np.arange(self.n_columns)
        return (column < self.head[:, None]) | (column >= self.tail[:, None])


def select_pairs(lam: Any, mu: Any, keep_mass: float) -> tuple[int, float]:
    """The fewest pairs, largest products first, that carry a share of the curvature.

    By bisection on the threshold: counting the pairs above one costs a binary search a row, so no array of all products is
    formed (2.2, 2.3 and section 6 of the method).

    Parameters
    ----------
    lam : array or Tensor (o,)
        Eigenvalues of G, descending; negative ones (rounding) count as 0.
    mu : array or Tensor (i,)
        Eigenvalues of A, descending.
    keep_mass : float
        rho in (0, 1]; 1 keeps every pair, also those without curvature.

    Returns
    -------
    n_pairs : int
        Of the smallest set whose products reach ``keep_mass`` times their total.
    threshold : float
        The smallest kept product. Pairs equal to it are kept in row-major order until there are ``n_pairs``.

    Raises
    ------
    DatumwiseError
        ``keep_mass`` is outside of (0, 1], a spectrum does not descend or has no mass.
    NotFinite
        An eigenvalue is NaN or infinite.

    Examples
    --------
    >>> select_pairs([4.0, 1.0], [3.0, 1.0], 0.6)  # products 12, 4, 3, 1 of 20
    (1, 12.0)
    >>> select_pairs([4.0, 1.0], [3.0, 1.0], 0.7)
    (2, 4.0)
    """
    lam, mu = spectrum(lam, "lam"), spectrum(mu, "mu")
    _check_share(keep_mass)
    if keep_mass == 1:
        return len(lam) * len(mu), float(lam[-1] * mu[-1])
    lam, lam_scale = scaled(lam, "lam")
    mu, mu_scale = scaled(mu, "mu")
    n_pairs, threshold = _selected(lam, mu, keep_mass)
    return n_pairs, float(np.ldexp(threshold, lam_scale + mu_scale))


def kept_pairs(
    lam: Any,
    mu: Any,
    keep_mass: KeepMass = 0.6,
    *,
    rule: str = "product",
    band: tuple[float, float] | None = None,
) -> KeptPairs:
    """The pairs that an edit keeps.

    Parameters
    ----------
    lam, mu : array or Tensor (o,), (i,)
        Eigenvalues of G and of A, descending.
    keep_mass : float, or (input, output) pair of floats for the marginal rule
        In (0, 1]. Of the products together, or of either spectrum alone. Unused by the bulk rule.
    rule : {"product", "marginal", "bulk"}
        Largest products; the first directions of each side; or all but the pairs in ``band``.
    band : (low, high), optional
        For the bulk rule: the pairs are removed whose cumulative mass before them, as a share of the total, is in
        [low, high). ``(keep_mass, 1)`` is the product rule.

    Raises
    ------
    DatumwiseError, NotFinite
        As of `select_pairs`; ``band`` is missing, or not 0 <= low < high <= 1.
    UnknownName
        No such rule.

    Examples
    --------
    >>> kept_pairs([4.0, 1.0], [3.0, 1.0], 0.7).mask()
    array([[ True,  True],
           [False, False]])
    >>> kept_pairs([4.0, 1.0], [3.0, 1.0], rule="bulk", band=(0.5, 0.9)).mask()
    array([[ True, False],
           [False,  True]])
    """
    lam, mu = spectrum(lam, "lam"), spectrum(mu, "mu")
    o, i = len(lam), len(mu)
    whole = np.full(o, i)
    if rule == "product":
        head, threshold = _staircase(lam, mu, _one_share(keep_mass))
        return KeptPairs(head, whole, i, threshold, _mass(lam, mu, head, whole))
    if rule == "marginal":
        inputs, outputs = keep_mass if isinstance(keep_mass, tuple | list) else (keep_mass, keep_mass)
        columns, rows = _rank(mu, inputs), _rank(lam, outputs)
        head = np.where(np.arange(o) < rows, columns, 0)
        return KeptPairs(head, whole, i, 0.0, _mass(lam, mu, head, whole))
    if rule == "bulk":
        low, high = _band(band)
        head = np.zeros(o, dtype=np.int64) if low == 0 else _staircase(lam, mu, low)[0]
        tail = _staircase(lam, mu, high)[0]
        return KeptPairs(head, tail, i, 0.0, _mass(lam, mu, head, tail))
    raise UnknownName(f"there is no rule {rule!r}", remedy=f"choose {', '.join(RULES)}")


def kept_mask(
    lam: Any, mu: Any, keep_mass: KeepMass = 0.6, *, rule: str = "product", band: tuple[float, float] | None = None
) -> Any:
    """The mask M of the pairs that an edit keeps, bool (o, i); arguments as of `kept_pairs`.

    A Tensor on the device of ``mu`` where ``mu`` is one, else an array.

    Examples
    --------
    >>> kept_mask([4.0, 1.0], [3.0, 1.0], 0.99).sum()
    np.int64(4)
    """
    mask = kept_pairs(lam, mu, keep_mass, rule=rule, band=band).mask()
    if not is_tensor(mu):
        return mask
    import torch

    return torch.from_numpy(mask).to(mu.device)


def edit_weight(
    W: ArrayOrTensor,
    A: ArrayOrTensor,
    G: ArrayOrTensor,
    keep_mass: KeepMass = 0.6,
    rule: str = "product",
    *,
    band: tuple[float, float] | None = None,
) -> ArrayOrTensor:
    """A weight without its components of little curvature: U_G (M * U_G^T W U_A) U_A^T.

    Parameters
    ----------
    W : array or Tensor (o, i)
    A : array or Tensor (i, i)
        Second moment of the layer's inputs, of any scale; symmetric.
    G : array or Tensor (o, o)
        Second moment of its output gradients.
    keep_mass, rule, band
        As of `kept_pairs`.

    Returns
    -------
    array or Tensor (o, i)
        As ``W``; computed in its precision, in float32 at least.

    Raises
    ------
    SchemaMismatch
        The shapes do not fit.
    NotFinite
        A factor has NaN or infinite values.

    Examples
    --------
    >>> W = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> edit_weight(W, np.diag([3.0, 1.0]), np.diag([4.0, 1.0]), 0.7)
    array([[1., 2.],
           [0., 0.]])
    """
    import torch

    from datumwise.probe.kfac import Spectrum

    tensors = [torch.as_tensor(x) for x in (W, A, G)]
    weight, inputs, outputs = tensors
    if weight.ndim != 2 or inputs.shape != (weight.shape[1],) * 2 or outputs.shape != (weight.shape[0],) * 2:
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
        raise SchemaMismatch(f"W, A and G have shapes {shapes}, not (o, i), (i, i) and (o, o)")
    for name, factor in (("A", inputs), ("G", outputs)):
        if not bool(torch.isfinite(factor).all()):
            raise NotFinite(f"factor {name} has non-finite values")
    exact = weight.dtype if weight.dtype in (torch.float32, torch.float64) else torch.float32
    spectra = [Spectrum(x.to(exact)) for x in (inputs, outputs)]
    pairs = kept_pairs(spectra[1].values, spectra[0].values, keep_mass, rule=rule, band=band)
    edited = project(weight.to(exact), spectra[0].vectors, spectra[1].vectors, pairs).to(weight.dtype)
    return edited if is_tensor(W) else edited.numpy()  # type: ignore[return-value]


def to_coefficients(W: Tensor, U_A: Tensor, U_G: Tensor) -> Tensor:
    """C = U_G^T W U_A, Tensor (o, i): a weight in the basis of its eigenvector pairs.

    Parameters
    ----------
    W : Tensor (o, i)
    U_A, U_G : Tensor (i, i), (o, o)
        Eigenvectors in columns, in the order of their descending eigenvalues.
    """
    return U_G.to(W).T @ W @ U_A.to(W)


def from_coefficients(C: Tensor, U_A: Tensor, U_G: Tensor, pairs: KeptPairs) -> Tensor:
    """U_G (M * C) U_A^T, Tensor (o, i): the weight on the kept pairs alone."""
    import torch

    rows, columns = _extent(pairs)
    head, tail = (torch.from_numpy(np.ascontiguousarray(x[:rows])).to(C.device) for x in (pairs.head, pairs.tail))
    column = torch.arange(columns, device=C.device)
    kept = C[:rows, :columns] * ((column < head[:, None]) | (column >= tail[:, None]))
    return U_G[:, :rows].to(C) @ kept @ U_A[:, :columns].to(C).T


def project(W: Tensor, U_A: Tensor, U_G: Tensor, pairs: KeptPairs) -> Tensor:
    """W on the kept pairs alone, Tensor (o, i), in the precision of ``W``; ``W`` itself where all are kept.

    Only the directions that some kept pair has are rotated.
    """
    if pairs.everything:
        return W
    rows, columns = _extent(pairs)
    U_A, U_G = U_A[:, :columns], U_G[:, :rows]
    return from_coefficients(to_coefficients(W, U_A, U_G), U_A, U_G, pairs)


def _extent(pairs: KeptPairs) -> tuple[int, int]:
    """Leading rows and columns outside of which no pair is kept."""
    if (pairs.tail < pairs.n_columns).any():
        return pairs.shape
    return int((pairs.head > 0).sum()), int(pairs.head.max())


# --- how many of a row ---------------------------------------------------------------------------------


def _selected(lam: np.ndarray, mu: np.ndarray, keep_mass: float) -> tuple[int, float]:
    """`select_pairs` of spectra of moderate scale and a share below 1."""
    few, many = (lam, mu) if len(lam) <= len(mu) else (mu, lam)  # one search a row of the shorter side
    return smallest_kept(few, Steps(many), keep_mass * float(lam.sum()) * float(mu.sum()))


def _staircase(lam: np.ndarray, mu: np.ndarray, keep_mass: float) -> tuple[np.ndarray, float]:
    """Kept columns of each row, int64 (o,), ties in row-major order; and the smallest kept product."""
    _check_share(keep_mass)
    if keep_mass == 1:
        return np.full(len(lam), len(mu)), float(lam[-1] * mu[-1])
    lam, lam_scale = scaled(lam, "lam")
    mu, mu_scale = scaled(mu, "mu")
    n_pairs, at = _selected(lam, mu, keep_mass)
    threshold = float(np.ldexp(at, lam_scale + mu_scale))
    steps = Steps(mu)
    more = steps.counts(steps.reached(lam, np.nextafter(at, np.inf)))
    ties = steps.counts(steps.reached(lam, at)) - more
    left = n_pairs - int(more.sum()) - (np.cumsum(ties) - ties)
    return more + np.clip(left, 0, ties), threshold


def _rank(values: np.ndarray, keep_mass: float) -> int:
    """Smallest number of leading eigenvalues with that share of their sum."""
    _check_share(keep_mass)
    if keep_mass == 1:
        return len(values)
    cumulative = np.cumsum(scaled(values, "a factor")[0])
    return min(int(np.searchsorted(cumulative, keep_mass * cumulative[-1])) + 1, len(values))


def _mass(lam: np.ndarray, mu: np.ndarray, head: np.ndarray, tail: np.ndarray) -> float:
    """Share of the products on the kept pairs."""
    if not lam[0] or not mu[0]:
        return 1.0
    lam, mu = scaled(lam, "lam")[0], scaled(mu, "mu")[0]
    cumulative = np.concatenate([[0.0], np.cumsum(mu)])
    total = float(lam.sum()) * cumulative[-1]
    kept = lam @ (cumulative[head] + cumulative[-1] - cumulative[tail])
    return min(1.0, float(kept) / total)


# --- what comes in --------------------------------------------------------------------------------------


def _one_share(keep_mass: Any) -> float:
    if isinstance(keep_mass, Sequence):
        raise DatumwiseError("a pair of keep_mass is for the marginal rule", remedy='pass one number, or rule="marginal"')
    return keep_mass


def _check_share(keep_mass: Any) -> None:
    if not isinstance(keep_mass, int | float | np.number) or not 0 < keep_mass <= 1:
        raise DatumwiseError(f"keep_mass is {keep_mass!r}", remedy="choose a share above 0, at most 1")


def _band(band: tuple[float, float] | None) -> tuple[float, float]:
    if band is None:
        raise DatumwiseError("the bulk rule needs a band", remedy="pass band=(low, high), shares of the mass")
    low, high = band
    if not 0 <= low < high <= 1:
        raise DatumwiseError(f"band is ({low}, {high})", remedy="choose 0 <= low < high <= 1")
    return low, high
