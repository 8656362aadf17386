"""Small models and brute-force curvature: one backward a datapoint, in float64."""

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Linear(4, 3)).double()


def convolutional():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 3)
    ).double()


def gpt2(vocabulary=13):
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=vocabulary, n_embd=8, n_layer=2, n_head=2, n_positions=16, resid_pdrop=0.3, embd_pdrop=0.3)
    return GPT2LMHeadModel(config).double()


def llama(vocabulary=13):
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
    )
    return LlamaForCausalLM(config).double()


def vectors(n=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def pictures(n=7):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 2, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def texts(n=6, side="right", vocabulary=13, longest=9):
    """Token ids of different lengths; padding holds junk."""
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(vocabulary, (n, longest), generator=generator)
    mask = torch.zeros(n, longest, dtype=torch.long)
    rows = []
    for row in range(n):
        length = longest - row % 4
        rows.append(torch.randint(vocabulary, (length,), generator=generator))
        at = slice(0, length) if side == "right" else slice(longest - length, longest)
        ids[row, at], mask[row, at] = rows[-1], 1
    return {"input_ids": ids, "attention_mask": mask}, rows


def linear_layers(model):
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, (nn.Linear, nn.Conv2d)) or type(m).__name__ == "Conv1D"
        if name != "lm_head"
    }


def brute(model, examples, loss_of):
    """For each layer and example: inputs (T, i), output gradients (T, o) and the weight's gradient (o, i)."""
    model.eval()
    found = {name: [] for name in linear_layers(model)}
    for example in examples:
        seen, handles = {}, []
        for name, module in linear_layers(model).items():

            def hook(module, args, output, name=name, seen=seen):
                output.retain_grad()
                seen[name] = (args[0].detach(), output)

            handles.append(module.register_forward_hook(hook))
        model.zero_grad()
        loss_of(model, example).backward()
        for handle in handles:
            handle.remove()
        for name, (x, output) in seen.items():
            module = linear_layers(model)[name]
            weight = module.weight.grad.clone()
            if isinstance(module, nn.Conv2d):
                a = nn.functional.unfold(x, module.kernel_size, 1, module.padding, module.stride)[0].T
                g = output.grad[0].flatten(1).T
                weight = weight.flatten(1)
            else:
                a, g = x.reshape(-1, x.shape[-1]), output.grad.reshape(-1, output.shape[-1])
                weight = weight.T if type(module).__name__ == "Conv1D" else weight
            found[name].append((a, g, weight))
    model.zero_grad(set_to_none=True)
    return found


def class_loss(model, example):
    x, label = example
    return nn.functional.cross_entropy(model(x[None]), label[None], reduction="sum")


def text_loss(model, ids):
    logits = model(input_ids=ids[None]).logits[0]
    return nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")


def with_one(a):
    return torch.cat([a, a.new_ones(len(a), 1)], dim=1)
