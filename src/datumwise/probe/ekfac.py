"""How much would a datapoint's own loss, or another's, change if it were left out? Influence by EK-FAC.

The Kronecker factors give the eigenbasis of a layer's curvature, a second pass the curvature Lambda along
each of its directions (George et al., 2018), a third the datapoints' gradients in that basis (Grosse et
al., 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import ModelMismatch
from datumwise.probe.collate import known_length, model_batches
from datumwise.probe.gradient import Grad, Layer
from datumwise.probe.kfac import KFAC, Factor
from datumwise.probe.losses import Forward, Losses
from datumwise.probe.needs import Need

__all__ = ["EKFAC", "fit_eigenvalues", "influence", "self_influence"]

CHUNK_BYTES = 2**20  # rotated gradients formed at a time: what fits into a core's cache
QUERY_BYTES = 2**29  # preconditioned gradients of queries held at a time


class EKFAC(KFAC):
    """Kronecker factors with corrected eigenvalues: two passes over the data, then scores.

    Parameters
    ----------
    As of `KFAC`.

    References
    ----------
    George et al., Fast approximate natural gradient descent in a Kronecker-factored eigenbasis, NeurIPS 2018.
    Grosse et al., Studying large language model generalization with influence functions, 2023.

    Examples
    --------
    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> x = torch.randn(200, 4)
    >>> y = (x[:, 0] > 0).long()
    >>> x[7], y[7] = torch.tensor([3.0, 0, 0, 0]), 0  # far on the side of class 1
    >>> model = torch.nn.Linear(4, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[-2.0, 0, 0, 0], [2.0, 0, 0, 0]]))
    >>> scores = EKFAC(model, bias=True).fit((x, y)).self_influence((x, y))
    >>> int(scores.argmax())
    7
    """

    def fit(self, data: Any, loss_fn: Losses | None = None, max_positions: int | None = None, **options: Any) -> EKFAC:
        """Learn factors and eigenvalues; arguments as of `KFAC.fit`. The data are read twice."""
        progress = options.pop("progress", None)
        super().fit(data, loss_fn, max_positions, progress=progress, **options)
        fit_eigenvalues(self, data, loss_fn, max_datapoints=self.n_datapoints_, **options)
        return self

    def self_influence(self, data: Any, **options: Any) -> np.ndarray:
        """`self_influence` of each datapoint with these factors, float64 (n,)."""
        return self_influence(self._model, data, kfac=self, **options)

    def influence(self, queries: Any, data: Any, **options: Any) -> np.ndarray:
        """`influence` of each datapoint on each query, float32 (q, n)."""
        return influence(self, queries, data, **options)


def fit_eigenvalues(
    kfac: KFAC,
    data: Any,
    loss_fn: Losses | None = None,
    *,
    max_datapoints: int | None = None,
    **options: Any,
) -> KFAC:
    """Correct the eigenvalues of fitted factors: Lambda_ij = mean over datapoints of (U_G^T W_n U_A)_ij^2.

    W_n is a datapoint's gradient, summed over its positions before it is squared; of the labels that the
    factors were fitted on (sampled or gold).

    Parameters
    ----------
    kfac : KFAC
        Fitted. Its factors' ``corrected`` is set.
    data : as of `KFAC.fit`
    max_datapoints : int, optional
        Stop after the batch that reaches so many.
    **options
        ``ids``, ``tokenizer``, ``collate``, ``batch_size`` as of `KFAC.fit`.

    Returns
    -------
    KFAC
        The same object.
    """
    need = CorrectedEigenvalues(kfac)
    with kfac._pass(loss_fn, need, test=False) as run:
        for names, batch in model_batches(data, kfac._model, **options):
            run.batch(batch, names)
            if max_datapoints is not None and need.n_datapoints >= max_datapoints:
                break
    for name, total in need.totals.items():
        kfac.factors_[name].corrected = kfac._placed(total / need.n_datapoints)
    return kfac


def self_influence(
    model: nn.Module,
    data: Any,
    *,
    kfac: KFAC | None = None,
    eigenvalues: str = "ekfac",
    damping: float = 0.1,
    loss_fn: Losses | None = None,
    ids: Sequence[Any] | None = None,
    tokenizer: Any = None,
    collate: Callable[..., Any] | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
    **settings: Any,
) -> np.ndarray:
    """Influence of each datapoint on its own loss: g^T (F + damping)^-1 g, block by block.

    Parameters
    ----------
    model : torch.nn.Module
    data : Ledger, iterable of batches, or (x, y) tensors
    kfac : KFAC, optional
        Fitted factors; without them they are learnt from ``data`` first, with ``settings`` of `KFAC`.
    eigenvalues : {"ekfac", "kfac"}
        Corrected eigenvalues, or lam_i mu_j (a position's scale).
    damping : float
        Added to the eigenvalues of each layer, as a share of their mean.
    loss_fn, ids, tokenizer, collate, batch_size
        As of `KFAC.fit`. Gradients are of the given labels, whatever labels the factors are of.
    progress : callable (done, total), optional
        Datapoints of the last pass; total 0 where it is not known beforehand.
    seed : int
        ``random_state`` of factors that are learnt here.

    Returns
    -------
    ndarray of float64 (n,)
        At least 0, in the order of the data; larger: the datapoint stands alone. Layers add up.

    References
    ----------
    Koh and Liang, 2017; Grosse et al., 2023, section 2.
    """
    options = {"ids": ids, "tokenizer": tokenizer, "collate": collate, "batch_size": batch_size}
    if kfac is None:
        kfac = KFAC(model, **settings, random_state=seed).fit(data, loss_fn, **options)
        if eigenvalues == "ekfac":
            fit_eigenvalues(kfac, data, loss_fn, **options)
    elif settings:
        raise TypeError(f"settings {sorted(settings)} have no use with fitted factors")
    kfac.model = model
    need = SelfInfluence(kfac, inverse_eigenvalues(kfac, eigenvalues, damping))
    total = known_length(data, ids)
    scores = []
    with kfac._pass(loss_fn, need, test=False) as run:
        for names, batch in model_batches(data, model, **options):
            scores.append(run.batch(batch, names)["self_influence"])
            if progress is not None:
                progress(sum(map(len, scores)), total)
    return np.concatenate(scores)


def influence(
    kfac: KFAC,
    queries: Any,
    data: Any,
    *,
    eigenvalues: str = "ekfac",
    damping: float = 0.1,
    relative: bool = True,
    loss_fn: Losses | None = None,
    measure: Losses | None = None,
    query_bytes: int = QUERY_BYTES,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> np.ndarray:
    """Influence of each datapoint on each query: g_q^T (F + damping)^-1 g_n, block by block.

    Parameters
    ----------
    kfac : KFAC
        Fitted, with eigenvalues of the kind asked for.
    queries, data : as ``data`` of `self_influence`
        The data are read once for every ``query_bytes`` of the queries' gradients.
    eigenvalues, damping, loss_fn
        As of `self_influence`.
    relative : bool
        False: ``damping`` is added as it is, not times a layer's mean eigenvalue.
    measure : callable (model, batch) -> Tensor (q,), optional
        What is asked of the queries instead of their loss.
    query_bytes : int
        Memory for the queries' gradients.
    progress : callable (done, total), optional
        Datapoints, once for every block of queries; total 0 where it is not known beforehand.

    Returns
    -------
    ndarray of float32 (q, n), float64 for a float64 model
        Positive: a step that lowers the datapoint's loss lowers the query's too.
    """
    inverse = inverse_eigenvalues(kfac, eigenvalues, damping, relative=relative)
    n, done = known_length(data, options.get("ids")), 0
    size = sum(weights.numel() * weights.element_size() for weights in inverse.values())
    block = max(1, query_bytes // size)
    rows = []
    for held in _query_blocks(kfac, queries, inverse, measure or loss_fn, block, options):
        need = Products(kfac, held)
        columns = []
        with kfac._pass(loss_fn, need, test=False) as run:
            for names, batch in model_batches(data, kfac._model, **options):
                columns.append(run.batch(batch, names)["influence"])
                done += len(names)
                if progress is not None:
                    progress(done, max(n, done) if n else 0)
        rows.append(np.concatenate(columns).T)
    return np.ascontiguousarray(np.concatenate(rows))


def _query_blocks(
    kfac: KFAC,
    queries: Any,
    inverse: Mapping[str, Tensor],
    loss_fn: Losses | None,
    block: int,
    options: Mapping[str, Any],
) -> Iterator[dict[str, Tensor]]:
    """Preconditioned gradients of about ``block`` queries at a time: layer to (q, o, i)."""
    options = {k: v for k, v in options.items() if k != "ids"} | {"batch_size": min(block, options.get("batch_size", 32))}
    held: list[dict[str, Tensor]] = []
    count = 0
    for names, batch in model_batches(queries, kfac._model, **options):
        need = Preconditioned(kfac, inverse)
        with kfac._pass(loss_fn, need, test=False) as run:
            run.batch(batch, names)
        held.append(need.rows)
        count += len(names)
        if count >= block:
            yield _stacked(held)
            held, count = [], 0
    if held:
        yield _stacked(held)


def _stacked(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def inverse_eigenvalues(kfac: KFAC, kind: str, damping: float, *, relative: bool = True) -> dict[str, Tensor]:
    """1 / (eigenvalue + damping * mean eigenvalue) of each layer, (o, i); not ``relative``: + damping itself.

    Raises
    ------
    ModelMismatch
        A layer's curvature is zero everywhere and there is nothing to divide by.
    """
    inverse = {}
    for name, factor in kfac.factors_.items():
        values = factor.eigenvalues(kind)
        damped = values + (damping * values.mean() if relative else damping)
        if not bool((damped > 0).all()):
            raise ModelMismatch(
                f"the curvature of layer {name} is zero in some direction and damping is {damping}",
                remedy="use damping above 0, or leave the layer out",
            )
        inverse[name] = 1 / damped
    return inverse


# --- gradients in the eigenbasis ------------------------------------------------------------------------


class _Rotated(Need):
    """Base of the needs that read gradients in the eigenbasis of their layer."""

    whole = True

    def __init__(self, kfac: KFAC) -> None:
        self.factors = kfac.factors_
        self.n = 0
        fed = [factor.input_of for factor in self.factors.values()]
        self._shared = {name for name in fed if fed.count(name) > 1}
        self._inputs: dict[str, tuple[Tensor, Tensor]] = {}

    def wants(self, layer: Layer) -> bool:
        return layer.name in self.factors

    def forward(self, forward: Forward) -> None:
        self.n = forward.n
        self._inputs.clear()

    def sides(self, grad: Grad, factor: Factor) -> tuple[Tensor, Tensor]:
        """g U_G (n, T, o) and a U_A (n, T, i); the latter once for layers fed the same tensor."""
        g, a = grad.g, grad.a
        rotated_g = g @ factor.eigenvectors_G.to(g)
        known = self._inputs.get(factor.input_of)
        if known is not None and known[0] is factor.eigenvectors_A:
            return rotated_g, known[1]
        basis = factor.eigenvectors_A.to(a)
        rotated_a = a @ basis[:-1] + basis[-1] if factor.bias else a @ basis
        if factor.input_of in self._shared:
            self._inputs[factor.input_of] = (factor.eigenvectors_A, rotated_a)
        return rotated_g, rotated_a

    def pieces(self, grad: Grad, factor: Factor) -> Iterator[tuple[slice, Tensor]]:
        """U_G^T W U_A of some datapoints at a time, (m, o, i), ours to change.

        Positions are rotated before they are summed where T (o^2 + i^2) < o i (o + i), else their sum is.
        """
        n, T, o = grad.g.shape
        i = grad.a.shape[2] + factor.bias
        step = max(1, CHUNK_BYTES // (o * i * grad.g.element_size()))
        tokens_first = positions_that_pay(o, i) > T
        if tokens_first:
            g, a = self.sides(grad, factor)
        else:
            g, a = grad.g, grad.a
            U_G, U_A = factor.eigenvectors_G.to(g), factor.eigenvectors_A.to(a)
        for start in range(0, n, step):
            at = slice(start, min(n, start + step))
            W = torch.bmm(g[at].mT, a[at])
            if not tokens_first:
                if factor.bias:
                    W = torch.cat([W, g[at].sum(1)[:, :, None]], dim=2)
                W = U_G.T @ (W @ U_A)
            yield at, W


def positions_that_pay(o: int, i: int) -> float:
    """Up to how many positions it is cheaper to rotate each than to rotate their summed gradient (o, i)."""
    return o * i * (o + i) / (o * o + i * i)


class CorrectedEigenvalues(_Rotated):
    """Sum over datapoints of their squared gradient in the eigenbasis, float64 (o, i) a layer."""

    def __init__(self, kfac: KFAC) -> None:
        super().__init__(kfac)
        self.objective = "sampled" if kfac.labels == "sampled" else "loss"
        self.totals: dict[str, Tensor] = {}
        self.n_datapoints = 0

    def layer(self, name: str, grad: Grad) -> None:
        factor = self.factors[name]
        if grad.g.shape[1] == 1:
            g, a = self.sides(grad, factor)
            batch = g[:, 0].square().T @ a[:, 0].square()
        else:
            batch = grad.g.new_zeros(len(factor.G), len(factor.A))
            for _, W in self.pieces(grad, factor):
                if len(W) == 1:
                    batch.addcmul_(W[0], W[0])
                else:
                    batch += W.square_().sum(0)
        if name not in self.totals:
            self.totals[name] = batch.double()
        else:
            self.totals[name] += batch

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        self.n_datapoints += len(ids)
        return {}

    def state(self) -> dict[str, np.ndarray]:
        totals = {f"Lambda/{name}": total.cpu().numpy().copy() for name, total in self.totals.items()}
        return totals | {"n_datapoints": np.array(self.n_datapoints)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.totals, self.n_datapoints = {}, 0
        self.merge(state)

    def merge(self, other: Mapping[str, np.ndarray]) -> None:
        for key, value in other.items():
            name = key.partition("/")[2]
            if name:
                total = torch.from_numpy(np.asarray(value, dtype=np.float64)).to(self.factors[name].A.device)
                self.totals[name] = self.totals[name] + total if name in self.totals else total.clone()
        self.n_datapoints += int(other["n_datapoints"])


class SelfInfluence(_Rotated):
    """Column ``self_influence`` (n,) float64: sum over layers of sum_ij W~_ij^2 / (Lambda_ij + damping)."""

    def __init__(self, kfac: KFAC, inverse: Mapping[str, Tensor]) -> None:
        super().__init__(kfac)
        self.inverse = inverse
        self._scores = torch.zeros(0, dtype=torch.float64)

    def forward(self, forward: Forward) -> None:
        super().forward(forward)
        self._scores = torch.zeros(forward.n, dtype=torch.float64)

    def layer(self, name: str, grad: Grad) -> None:
        factor, weights = self.factors[name], self.inverse[name].to(grad.g)
        if grad.g.shape[1] == 1:  # never forms W
            g, a = self.sides(grad, factor)
            own = ((g[:, 0].square() @ weights) * a[:, 0].square()).sum(1)
        else:
            own = grad.g.new_empty(grad.n)
            for at, W in self.pieces(grad, factor):
                own[at] = W.square_().flatten(1) @ weights.flatten()
        self._scores += own.double().cpu()

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return {"self_influence": self._scores.numpy()}


class Preconditioned(_Rotated):
    """Keeps W~ / (Lambda + damping) of each datapoint of a batch, (n, o, i) a layer."""

    def __init__(self, kfac: KFAC, inverse: Mapping[str, Tensor]) -> None:
        super().__init__(kfac)
        self.inverse = inverse
        self.rows: dict[str, Tensor] = {}

    def layer(self, name: str, grad: Grad) -> None:
        weights = self.inverse[name].to(grad.g)
        self.rows[name] = torch.cat([W * weights for _, W in self.pieces(grad, self.factors[name])])

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        for name, weights in self.inverse.items():  # a layer the loss does not reach
            self.rows.setdefault(name, weights.new_zeros(len(ids), *weights.shape))
        return {}


class Products(_Rotated):
    """Column ``influence`` (n, q), in the precision of the model: inner products with the queries' preconditioned gradients."""

    def __init__(self, kfac: KFAC, queries: Mapping[str, Tensor]) -> None:
        super().__init__(kfac)
        self.queries = {name: rows.flatten(1) for name, rows in queries.items()}
        self._sums = torch.zeros(0)

    def forward(self, forward: Forward) -> None:
        super().forward(forward)
        like = next(iter(self.queries.values()))
        self._sums = like.new_zeros(forward.n, len(like))

    def layer(self, name: str, grad: Grad) -> None:
        for at, W in self.pieces(grad, self.factors[name]):
            self._sums[at] += W.flatten(1) @ self.queries[name].to(W).T

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return {"influence": self._sums.cpu().numpy()}
