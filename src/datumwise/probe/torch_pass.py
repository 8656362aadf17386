"""One streamed forward and backward that serves every need at once.

>>> import torch
>>> from datumwise.probe.needs.norms import GradNorm
>>> model = torch.nn.Linear(3, 2)
>>> x, y = torch.eye(3), torch.tensor([0, 1, 0])
>>> with TorchPass(model, [GradNorm()]) as run:
...     columns = run.batch((x, y), ids=["a", "b", "c"])
>>> columns["grad_norm"].shape
(3,)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import ModelMismatch, name_some
from datumwise.probe.batches import moved
from datumwise.probe.capture import Capture
from datumwise.probe.gradient import Grad, Layer, batch_gradient
from datumwise.probe.layers import Modules, spots_of
from datumwise.probe.losses import Forward, Losses, checked, forward_of, size_of
from datumwise.probe.needs import Need
from datumwise.probe.tap import first_tensor

__all__ = ["OBJECTIVES", "TorchPass", "choose_form"]

OBJECTIVES = ("loss", "sampled", "measure")
CHUNK_BYTES = 16 << 20  # formed gradients of one layer held at a time
TRIAL_ROWS = 3  # datapoints of the first batch that the leak and coverage tests use
CHECKED_PARAMETERS = 250_000_000  # captured scalars whose batch gradient the coverage test compares

Measure = Callable[[nn.Module, Any], Tensor]


class TorchPass:
    """A model made ready for passes; use it as a context, then call :meth:`batch` for each batch.

    Inside the context the model is in evaluation mode with every parameter frozen; flags, modes and hooks are
    put back on leaving, also after an error, and no ``.grad`` is touched.

    Parameters
    ----------
    model : Module
    needs : sequence of Need
    losses : function (model, batch) -> Tensor (n,), optional
        One loss for each datapoint; cross-entropy, or the sum over tokens of a language model, by default.
    measure : function (model, batch) -> Tensor (n,), or "log_odds", optional
        What needs with ``objective="measure"`` differentiate; the loss by default.
    modules : list of patterns or function (name, module) -> bool, optional
        Which modules to capture; every one with trainable parameters by default.
    seed : int
        Of the sampled labels.
    allow_partial : bool
        Accept that some trainable parameters cannot be captured.
    test : bool
        Run the leak and coverage tests on a few datapoints of the first batch.
    chunk_bytes : int
        Bound on the formed gradients of one layer.
    """

    def __init__(
        self,
        model: nn.Module,
        needs: Sequence[Need],
        *,
        losses: Losses | None = None,
        measure: Measure | str | None = None,
        modules: Modules = None,
        seed: int = 0,
        allow_partial: bool = False,
        test: bool = True,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.model: nn.Module = getattr(model, "_orig_mod", model)  # under torch.compile
        self.needs = list(needs)
        self._device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self.losses = losses
        self.measure = measure
        self.seed = seed
        self.allow_partial = allow_partial
        self.chunk_bytes = chunk_bytes
        self.layers, self._spots, self.missing = spots_of(self.model, modules)
        self._raw = self._raw_parameters()
        self._capture: Capture | None = None
        self._test = test
        self._begun = False
        self._stack = ExitStack()
        self._plan: dict[str, tuple[list[Need], list[Need], str | None]] = {}

    def _raw_parameters(self) -> dict[str, tuple[nn.Module, str]]:
        """Parameters of shape (1, ...) that no reader knows: replaced by one copy for each datapoint."""
        found: dict[str, tuple[nn.Module, str]] = {}
        for name in [k for k, why in self.missing.items() if "is not read by" in why]:
            parent, _, attribute = name.rpartition(".")
            module = self.model.get_submodule(parent)
            parameter = module._parameters[attribute]
            assert parameter is not None
            if parameter.ndim >= 2 and parameter.shape[0] == 1:
                found[name] = (module, attribute)
                self.layers[name] = Layer(name, "raw", (parent,), vectors=(name,), count=parameter.numel())
        return found

    @property
    def objectives(self) -> list[str]:
        """The backwards that the needs ask for, in a fixed order."""
        asked = {need.objective for need in self.needs}
        return [o for o in OBJECTIVES if o in asked]

    @property
    def coverage(self) -> float:
        """Captured share of the trainable parameters of the chosen modules, by count."""
        sizes = {name: p.numel() for name, p in self.model.named_parameters()}
        captured = sum(layer.count for layer in self.layers.values())
        return captured / max(1, captured + sum(sizes[name] for name in self.missing if name not in self._raw))

    def __enter__(self) -> TorchPass:
        with ExitStack() as stack:
            trainable = [p for p in self.model.parameters() if p.requires_grad]
            if self.objectives:
                if not trainable:
                    raise ModelMismatch(
                        "no parameter of the model requires a gradient",
                        remedy="call model.requires_grad_(True), or unfreeze the layers to look at",
                    )
                self._capture = stack.enter_context(Capture(self.model, self.layers, self._spots, self._raw))
            else:
                from datumwise.probe.tap import frozen

                stack.enter_context(frozen(self.model))
            self._listen(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self._capture = None

    def _listen(self, stack: ExitStack) -> None:
        """Forward hooks for the needs that look at activations."""
        wanted: dict[str, list[Need]] = {}
        for need in self.needs:
            for name in need.activations:
                wanted.setdefault(name, []).append(need)
        for name, needs in wanted.items():

            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any, *, to: Any = (name, needs)) -> None:
                if self._capture is not None and not self._capture._forward:
                    return  # repeated by gradient checkpointing
                with torch.no_grad():
                    for need in to[1]:
                        need.activation(to[0], first_tensor(args, kwargs), output)

            stack.callback(self.model.get_submodule(name).register_forward_hook(hook, with_kwargs=True).remove)

    def batch(self, batch: Any, ids: Sequence[Any] | None = None) -> dict[str, Any]:
        """Run one batch.

        Parameters
        ----------
        batch : (x, y) or dict of tensors
        ids : sequence (n,), optional
            Names of the datapoints for errors and for the sampled labels; 0 .. n - 1 by default.

        Returns
        -------
        dict of str to array (n, ...) or list of n arrays

        Raises
        ------
        ModelMismatch, NotFinite
        """
        n = size_of(batch)
        ids = range(n) if ids is None else ids
        if len(ids) != n:
            raise ModelMismatch(f"{len(ids)} ids for a batch of {n} datapoints")
        batch = moved(batch, self._device)
        if self._capture is None:
            self._begin()
            with torch.no_grad():
                self._forward(batch, ids)
        else:
            if self._test and (n > 1 or not self._begun):
                self._trial(batch, ids)
                self._test = n == 1
            self._begin()
            self._forward_and_backward(self._capture, batch, ids)
        columns: dict[str, Any] = {}
        for need in self.needs:
            columns.update(need.end_batch(ids))
        return columns

    def _begin(self) -> None:
        if self._begun:
            return
        for need in self.needs:
            need.begin(self.layers)
        for name, layer in self.layers.items():
            takers = [n for n in self.needs if n.objective is not None and n.wants(layer)]
            formed = any(n.forms(layer) for n in takers)
            whole = [n for n in takers if n.whole]
            self._plan[name] = (whole, [n for n in takers if not n.whole], "materialised" if formed else None)
        self._begun = True

    def _forward(self, batch: Any, ids: Sequence[Any]) -> Forward:
        forward = forward_of(self.model, batch, ids, self.losses)
        with torch.no_grad():
            for need in self.needs:
                need.forward(forward)
        return forward

    def _forward_and_backward(self, capture: Capture, batch: Any, ids: Sequence[Any]) -> None:
        with capture.batch(len(ids)), torch.enable_grad():
            forward = forward_of(self.model, batch, ids, self.losses)
            factor = self._loss_per_measure(forward)
            names = [o for o in self.objectives if factor is None or o != "loss"]
            values = {name: self._objective(name, forward) for name in names}
            with torch.no_grad():
                for need in self.needs:
                    need.forward(forward)
            for name, value in values.items():
                receive = self._receiver(name, forward, factor if name == "measure" else None)
                capture.backward(value, receive, retain=name != names[-1])

    def _objective(self, name: str, forward: Forward) -> Tensor:
        if name == "sampled":
            return forward.sampled(self.seed)
        if name == "loss" or self.measure is None:
            return forward.losses
        if self.measure == "log_odds":
            return checked(forward.log_odds(), forward.ids, "measure")
        assert callable(self.measure)
        return checked(self.measure(self.model, forward.batch), forward.ids, "measure")

    def _loss_per_measure(self, forward: Forward) -> Tensor | None:
        """-(1 - p), where the gradient of the loss is this times that of f = log(p / (1 - p)); else None.

        Then one backward serves needs of both objectives. Only with one label a datapoint.
        """
        both = {"loss", "measure"} <= set(self.objectives) and self.measure == "log_odds"
        if not both or forward.custom is not None or forward.tokens:
            return None
        log_p = forward.log_probs.detach().gather(1, forward.targets[:, None])[:, 0]
        return log_p.expm1()

    def _receiver(self, objective: str, forward: Forward, factor: Tensor | None) -> Callable[[Layer, Grad], None]:
        """Hands a layer's gradient to the needs of an objective; scaled, to those of the loss too."""
        positions, unpadded = forward.positions, forward.unpadded

        def hand_over(needs: Sequence[Need], name: str, grad: Grad) -> None:
            scaled: Grad | None = None
            for need in needs:
                if need.objective == objective:
                    need.layer(name, grad)
                elif factor is not None and need.objective == "loss":
                    scaled = scaled or grad.scaled(factor[grad.at])
                    need.layer(name, scaled)

        def receive(layer: Layer, grad: Grad) -> None:
            whole, pieces, form = self._plan[layer.name]
            if not whole and not pieces:
                return
            if len(grad.outers) + len(grad.lookups) == 1:
                shape = (grad.outers[0].a if grad.outers else grad.lookups[0].ids).shape[:2]
                grad.positions = positions if positions is not None and positions.shape == shape else None
                grad.unpadded = unpadded if unpadded is not None and unpadded.shape == shape else None
            grad.form = form or choose_form(grad)
            hand_over(whole, layer.name, grad)
            if pieces:
                for piece in grad.pieces(self.chunk_bytes):
                    hand_over(pieces, layer.name, piece)

        return receive

    # --- the first batch ------------------------------------------------------------------------------------

    def _trial(self, batch: Any, ids: Sequence[Any]) -> None:
        """Leak test and coverage test on a few datapoints; learns each layer's input rank and sharing.

        Raises
        ------
        ModelMismatch
            Datapoints see each other, or trainable parameters are not captured although a need covers them
            all.
        """
        capture = self._capture
        assert capture is not None
        rows, k = first_rows(batch, len(ids), TRIAL_ROWS)
        ids = ids[:k]
        self._fit_raw(capture, rows, ids)
        capture.inputs = {}
        leaks, sums, norms = self._observe(capture, rows, ids)
        inputs, capture.inputs = capture.inputs, None
        for name in [name for name in leaks if self._is_range(name, inputs)]:
            for module in self.layers[name].modules:  # positions 0..T-1 that happen to be as many as datapoints
                capture.layout[module] = "one row for all"
            leaks, sums, norms = self._observe(capture, rows, ids)
        if leaks:
            raise ModelMismatch(
                f"datapoints of a batch see each other in layer {leaks[0]}",
                remedy="one datapoint's loss must not depend on the others (batch norm on batch statistics?)",
            )
        self._compare(capture, rows, ids, sums, norms)
        self._learn(capture, inputs)
        if self.missing and not self.allow_partial and any(need.covers_all for need in self.needs):
            share = 100 * self.coverage
            why = next(iter(self.missing.values()))
            raise ModelMismatch(
                f"{name_some(self.missing)} cannot be captured ({why}), {share:.1f}% of the parameters can",
                remedy="pass allow_partial=True, choose modules=, or register a reader (probe.layers.layer)",
            )

    def _fit_raw(self, capture: Capture, rows: Any, ids: Sequence[Any]) -> None:
        """Give up raw parameters whose copies for each datapoint do not broadcast in this model."""
        for name in list(capture.raw):
            every, capture.raw = capture.raw, {name: capture.raw[name]}
            try:
                with capture.batch(len(ids)), torch.no_grad():
                    forward_of(self.model, rows, ids, self.losses)
                capture.raw = every
            except RuntimeError:
                capture.raw = {k: v for k, v in every.items() if k != name}
                self.missing[name] = "its copies for each datapoint do not broadcast"
                self._raw.pop(name, None)
                self.layers.pop(name)
                capture.layers.pop(name)
        for name in capture.raw:
            self.missing.pop(name, None)

    def _observe(
        self, capture: Capture, rows: Any, ids: Sequence[Any]
    ) -> tuple[list[str], dict[str, Tensor], dict[str, float]]:
        """Layers where another row hears the first datapoint's loss; sums of gradients; of squared norms."""
        leaks: list[str] = []
        sums: dict[str, Tensor] = {}
        norms: dict[str, float] = {}

        def leak(layer: Layer, grad: Grad) -> None:
            if grad.n == 1:
                return
            others = grad.rows(slice(1, grad.n))
            parts = [u.g for u in others.outers] + [u.d for u in others.lookups] + list(others.vectors.values())
            if any(bool((p != 0).any()) for p in parts):
                leaks.append(layer.name)

        def total(layer: Layer, grad: Grad) -> None:
            grad.form = "ghost"
            norms[layer.name] = float(grad.norm2().sum())
            for name, vector in grad.vectors.items():
                sums[name] = vector.sum(0)
            if layer.weight:
                sums[layer.weight] = batch_gradient(grad)

        with capture.batch(len(ids)), torch.enable_grad():
            losses = forward_of(self.model, rows, ids, self.losses).losses
            capture.backward(losses[:1], leak, retain=True)
            if not leaks:
                capture.backward(losses, total)
        return leaks, sums, norms

    def _is_range(self, name: str, inputs: Mapping[str, Tensor]) -> bool:
        layer = self.layers[name]
        return layer.kind == "embedding" and all(inputs[m].ndim == 1 for m in layer.modules if m in inputs)

    def _compare(
        self,
        capture: Capture,
        rows: Any,
        ids: Sequence[Any],
        sums: Mapping[str, Tensor],
        norms: Mapping[str, float],
    ) -> None:
        """Check that captured gradients add up to autograd's; drop what does not, and what is never used."""
        parameters = dict(self.model.named_parameters())
        expected = [name for layer in self.layers.values() if layer.kind != "raw" for name in layer.parameters]
        looked, budget = list(self.missing), CHECKED_PARAMETERS
        for name in expected:
            budget -= parameters[name].numel()
            if budget >= 0:
                looked.append(name)
        truth = self._true_gradients(capture, rows, ids, {name: parameters[name] for name in looked})
        scale = float(sum(norms.values())) ** 0.5
        for name in list(self.missing):
            found = truth[name]
            if found is None or not bool(found.any()):
                del self.missing[name]  # the loss does not depend on it
        wrong: dict[str, str] = {}
        for layer in self.layers.values():
            for name in (p for p in layer.parameters if p in truth):
                want, got = truth[name], sums.get(name)
                zero = torch.zeros(())
                want = zero if want is None else layer.matrix(want) if name == layer.weight else want.flatten()
                got = zero if got is None else got
                half = parameters[name].dtype in (torch.float16, torch.bfloat16)
                limit = (5e-2 if half else 1e-3) * max(float(want.norm()), 1e-3 * scale)
                if float((got - want.to(got.dtype)).norm()) > limit:
                    wrong[name] = "it is also used outside its module's forward"
        for name in wrong:
            layer = next(v for v in self.layers.values() if name in v.parameters)
            for parameter in layer.parameters:
                self.missing[parameter] = wrong[name]
            del self.layers[layer.name]
            capture.layers.pop(layer.name)

    def _true_gradients(
        self, capture: Capture, rows: Any, ids: Sequence[Any], parameters: Mapping[str, Tensor]
    ) -> dict[str, Tensor | None]:
        """autograd's gradient of the summed loss for some parameters; their ``.grad`` is put back."""
        before = {name: p.grad for name, p in parameters.items()}
        try:
            for p in parameters.values():
                p.grad = None
                p.requires_grad_(True)
            with capture.batch(len(ids)), torch.enable_grad():
                forward_of(self.model, rows, ids, self.losses).losses.sum().backward()
            return {name: p.grad for name, p in parameters.items()}
        finally:
            for name, p in parameters.items():
                p.grad = before[name]
                p.requires_grad_(False)

    def _learn(self, capture: Capture, inputs: Mapping[str, Tensor]) -> None:
        """Note which layers see one position a datapoint and which are fed by the same tensor."""
        first: dict[tuple[int, str], str] = {}
        spots = {spot.name: spot for spot in self._spots}
        for module in capture.order:
            spot, x = spots[module], inputs[module]
            layer = self.layers.get(spot.layer)
            if layer is None or not layer.shape:
                continue
            alone = len(layer.modules) == 1 and capture.order.count(module) == 1
            single = alone and spot.reader.single(spot.module, x) and capture.layout.get(module, "rows") == "rows"
            fed = first.setdefault((id(x), spot.reader.kind), layer.name) if alone else layer.name
            self.layers[layer.name] = replace(layer, single=single, shares_input_with=fed)
        capture.layers = dict(self.layers)


def choose_form(grad: Grad) -> str:
    """The cheapest form for norms: factored for one position, ghost where T (o + i) <= o i, for tables."""
    if not grad.outers or len(grad.lookups) > 0:
        return "ghost"
    use = grad.outers[0]
    t, i = use.a.shape[1:]
    o = use.g.shape[2]
    if t == 1 and len(grad.outers) == 1:
        return "factored"
    return "ghost" if t * (o + i) <= o * i else "materialised"


def first_rows(batch: Any, n: int, k: int) -> tuple[Any, int]:
    """The first ``k`` datapoints of a batch, or all of it if it holds things that cannot be cut."""

    def cut(x: Any) -> Any:
        return x[:k] if isinstance(x, Tensor | np.ndarray) and x.ndim and len(x) == n else x

    if isinstance(batch, Mapping):
        return {key: cut(value) for key, value in batch.items()}, min(k, n)
    if isinstance(batch, tuple | list):
        return tuple(cut(value) for value in batch), min(k, n)
    if isinstance(batch, Tensor):
        return batch[:k], min(k, n)
    return batch, n
