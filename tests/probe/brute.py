"""The oracle of the gradient tests: one `autograd.grad` a datapoint, and the small models it is asked of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datumwise.probe.gradient import Grad, Layer
from datumwise.probe.needs import Need


def gradients(model: nn.Module, losses: Tensor) -> dict[str, Tensor]:
    """Parameter name -> (n, *shape) gradients of each loss; zero where a loss does not depend on it."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows: dict[str, list[Tensor]] = {name: [] for name in named}
    for loss in losses:
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        for (name, p), g in zip(named.items(), found, strict=True):
            rows[name].append(torch.zeros_like(p) if g is None else g)
    return {name: torch.stack(parts) for name, parts in rows.items()}


def norms(grads: dict[str, Tensor]) -> Tensor:
    """Euclidean norm of each datapoint's gradient."""
    return torch.stack([g.flatten(1).square().sum(1) for g in grads.values()]).sum(0).sqrt()


def class_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of each row."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def token_losses(model: nn.Module, batch: dict[str, Tensor], **inputs: Tensor) -> Tensor:
    """Sum of the next-token cross-entropies of each sequence, written as loops."""
    logits = model(**batch, use_cache=False, **inputs).logits
    ids, mask = batch["input_ids"], batch["attention_mask"]
    return torch.stack(
        [
            sum(
                F.cross_entropy(logits[n, t], ids[n, t + 1], reduction="sum")
                for t in range(ids.shape[1] - 1)
                if mask[n, t] and mask[n, t + 1]
            )
            for n in range(len(ids))
        ]
    )


class Everything(Need):
    """Keeps every layer's gradient in full: parameter name -> (n, *shape)."""

    def __init__(self, model: nn.Module, objective: str = "loss") -> None:
        self.objective = objective
        self.shapes = {name: p.shape for name, p in model.named_parameters()}
        self.found: dict[str, list[Tensor]] = {}
        self.norm2: Tensor | float = 0.0

    def forms(self, layer: Layer) -> bool:
        return True

    def layer(self, name: str, grad: Grad) -> None:
        for parameter, vector in grad.vectors.items():
            self._keep(parameter, vector)
        if grad.layer.weight:
            w = grad.W.mT if grad.layer.transposed else grad.W
            self._keep(grad.layer.weight, w)

    def _keep(self, name: str, rows: Tensor) -> None:
        self.found.setdefault(name, []).append(rows.reshape(len(rows), *self.shapes[name]).clone())

    def gradients(self) -> dict[str, Tensor]:
        return {name: torch.cat(parts) for name, parts in self.found.items()}


# --- models -------------------------------------------------------------------------------------------------


class Positions(nn.Module):
    """Token and position embeddings; the positions are looked up once for the whole batch."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 6, padding_idx=0)
        self.places = nn.Embedding(8, 6)
        self.shape = shape
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        at = torch.arange(x.shape[1])
        h = self.tokens(x) + self.places(at[None] if self.shape == "row" else at)
        return self.head(torch.tanh(h).mean(1))


class Thrice(nn.Module):
    """One module called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.norm(self.inner(x)))
        return self.head(x.mean(1) if x.ndim == 3 else x)


class Tied(nn.Module):
    """A next-token model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.middle = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(torch.tanh(self.middle(self.tokens(input_ids)).cumsum(1)))


class Raw(nn.Module):
    """Parameters of shape (1, ...) that no module owns."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 1, 5))
        self.places = nn.Parameter(torch.randn(1, 5, 5))
        self.body = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(torch.tanh(self.body(x))[:, 0] + x.mean(1))


class Flat(nn.Module):
    """Datapoints and positions in one leading dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.flatten(0, 1))
        return self.head(torch.tanh(h).unflatten(0, x.shape[:2]).mean(1))


class Lora(nn.Module):
    """A frozen layer with a trainable low-rank update."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(5, 6).requires_grad_(False)
        self.A = nn.Linear(5, 2, bias=False)
        self.B = nn.Linear(2, 6, bias=False)
        self.head = nn.Linear(6, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.base(x) + self.B(self.A(x))))


class Checkpointed(nn.Module):
    """Blocks that are computed again in the backward."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Linear(5, 6)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 7), nn.ReLU(inplace=True), nn.LayerNorm(7), nn.Linear(7, 6)) for _ in range(2)
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x.mean(1))


class Seen(nn.Sequential):
    """Averages over positions, whichever of them there are, then a head."""

    def forward(self, x: Tensor) -> Tensor:
        *body, head = self
        for module in body:
            x = module(x)
        while x.ndim > 2:
            x = x.mean(1) if x.ndim == 3 else x.flatten(1, 2)
        return head(x)


class Images(nn.Sequential):
    """Convolutions, averaged over pixels, then a head."""

    def forward(self, x: Tensor) -> Tensor:
        *body, head = self
        for module in body:
            x = module(x)
        return head(x.flatten(2).mean(2))
