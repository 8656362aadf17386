"""What the attribution tests share: brute gradients as matrices, closed-form regressions, a small language model."""

import torch
from curvature import gpt2
from torch import nn


def matrix_of(model, losses):
    """One gradient a loss, flat in the order of the trainable parameters, float64 (n, p)."""
    model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)])
        )
    return torch.stack(rows).detach().numpy()


def class_losses(model, X, y):
    return nn.functional.cross_entropy(model(X), y, reduction="none")


def log_odds(model, X, y):
    p = model(X).softmax(1).gather(1, y[:, None])[:, 0]
    return torch.log(p / (1 - p))


def own_probability(model, X, y):
    return model(X).softmax(1).gather(1, y[:, None])[:, 0].detach().numpy()


def hessian_of(model, total):
    """The exact Hessian of a scalar by one backward a parameter, (p, p)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    g = torch.cat([v.flatten() for v in torch.autograd.grad(total, parameters, create_graph=True)])
    rows = [torch.cat([v.flatten() for v in torch.autograd.grad(entry, parameters, retain_graph=True)]) for entry in g]
    return torch.stack(rows).detach().numpy()


def linear_regression(n=30, d=4, seed=0):
    """A least-squares fit as a torch module, its data and queries."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = X @ torch.randn(d, generator=generator, dtype=torch.float64) + torch.randn(n, generator=generator, dtype=torch.float64)
    model = nn.Linear(d, 1).double()
    ones = torch.cat([X, torch.ones(n, 1, dtype=torch.float64)], 1)
    fitted = torch.linalg.lstsq(ones, y[:, None]).solution[:, 0]
    with torch.no_grad():
        model.weight.copy_(fitted[None, :-1])
        model.bias.copy_(fitted[-1:])
    return model, (X, y), (torch.randn(5, d, generator=generator, dtype=torch.float64), torch.zeros(5, dtype=torch.float64))


def logistic_regression(n=60, d=3, seed=0):
    """A fit of one logit without a bias, to machine precision, its data and queries."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = (X[:, 0] + torch.randn(n, generator=generator, dtype=torch.float64) > 0).long()
    w = torch.zeros(d, dtype=torch.float64)
    for _ in range(30):  # Newton
        p = torch.sigmoid(X @ w)
        w = w - torch.linalg.solve(X.T @ (X * (p * (1 - p))[:, None]), X.T @ (p - y))
    model = nn.Linear(d, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(w[None])
    test = torch.randn(4, d, generator=generator, dtype=torch.float64)
    return model, (X, y), (test, torch.tensor([0, 1, 1, 0]))


def conversations(n=5, seed=3, vocabulary=13, longest=8):
    """Token batches of prompts and responses: labels of -100 on prompts and padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (n, longest), generator=generator)
    mask, labels = torch.ones_like(ids), ids.clone()
    for row in range(n):
        labels[row, : 2 + row % 3] = -100
        end = longest - row % 2
        mask[row, end:] = 0
        labels[row, end:] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def response_losses(model, batch):
    """Sum of the cross-entropies of the response's tokens, and how many there are, written as loops."""
    logits = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    sums, counts = [], []
    for n, labels in enumerate(batch["labels"]):
        at = [t for t in range(len(labels) - 1) if labels[t + 1] != -100]
        sums.append(sum(-logits[n, t].log_softmax(0)[labels[t + 1]] for t in at))
        counts.append(len(at))
    return torch.stack(sums), torch.tensor(counts)


def with_adapters():
    """A tiny GPT-2 with LoRA on its attention, both sides of the adapters away from zero."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(gpt2(), LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model
