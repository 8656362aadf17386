"""What do signals cost? Ratios to a plain forward and backward, on three models; norms against vmap(grad).

Run ``python benchmarks/signals.py``: one thread, CPU time, so that other work on the machine counts little.
Every row is the median of several rounds in which all ways take turns. Weights are random: nothing is
downloaded. The first batch's leak and coverage tests are left out of the ratios (they are paid once a pass)
and shown in a line of their own.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datumwise.probe.losses import forward_of
from datumwise.probe.needs import Need
from datumwise.probe.needs.dots import GradDot
from datumwise.probe.needs.index import GradIndex
from datumwise.probe.needs.kronecker import KroneckerFactors
from datumwise.probe.needs.lens import Lens
from datumwise.probe.needs.norms import GradNorm
from datumwise.probe.torch_pass import TorchPass

LENS_COLUMNS = ("loss", "entropy", "margin")
TEXT_COLUMNS = (*LENS_COLUMNS, "token_logprobs")


class Skeleton(Need):
    """Taps every layer and does nothing."""

    def wants(self, layer: Any) -> bool:
        return False


class BlockFactors(KroneckerFactors):
    """K-FAC factors of all but embeddings and the head tied to them, as curvature methods use them."""

    def wants(self, layer: Any) -> bool:
        return layer.kind in ("linear", "convolution") and len(layer.modules) == 1


def mlp(batch: int) -> tuple[nn.Module, list[Any]]:
    """64-256-256-10 on scikit-learn's digits."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    return model, [(x[s : s + batch], y[s : s + batch]) for s in range(0, len(x) - batch + 1, batch)]


def gpt2(batch: int = 16, batches: int = 2, attention: str = "sdpa") -> tuple[nn.Module, list[Any]]:
    """4 layers of 256 dimensions, a vocabulary of 4096, sequences of 128 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=4, n_embd=256, n_head=4, vocab_size=4096, n_positions=128, bos_token_id=0, eos_token_id=0,
        attn_implementation=attention,
    )  # fmt: skip
    ids = torch.randint(0, 4096, (batches, batch, 128))
    return GPT2LMHeadModel(config), [{"input_ids": i, "attention_mask": torch.ones_like(i)} for i in ids]


def vit(batch: int = 32, batches: int = 2, attention: str = "sdpa") -> tuple[nn.Module, list[Any]]:
    """ViT-tiny: 12 layers of 192 dimensions, 64 patches and a class token."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, image_size=32,
        patch_size=4, num_labels=10, attn_implementation=attention,
    )  # fmt: skip
    x = torch.randn(batches, batch, 3, 32, 32)
    y = torch.randint(0, 10, (batches, batch))
    return ViTForImageClassification(config), [{"pixel_values": a, "labels": b} for a, b in zip(x, y, strict=True)]


MODELS: dict[str, Callable[[], tuple[nn.Module, list[Any]]]] = {
    "MLP, batch 128": lambda: mlp(128),
    "MLP, batch 512": lambda: mlp(512),
    "GPT-2": gpt2,
    "ViT-tiny": vit,
}


def target_of(model: nn.Module) -> list[dict[str, Tensor]]:
    return [{name: torch.randn_like(p) for name, p in model.named_parameters()}]


def ways(model: nn.Module, text: bool) -> dict[str, list[Need]]:
    """Name of a row -> the needs of its pass."""
    lens = TEXT_COLUMNS if text else LENS_COLUMNS
    target = target_of(model)
    everything = [Lens(lens), GradNorm(), GradIndex(), GradDot(target)]
    return {
        "skeleton": [Skeleton()],
        "lens": [Skeleton(), Lens(lens)],
        "norms": [GradNorm()],
        "dots, 1 target": [GradDot(target)],
        "K-FAC factors": [BlockFactors(labels="gold")],
        "norms + index 2048": [GradNorm(), GradIndex()],
        "norms + index + dots": [GradNorm(), GradIndex(), GradDot(target)],
        "everything at level 1": [*everything, BlockFactors(labels="gold")],
        "same, K-FAC on 1/4 of the positions": [*everything, BlockFactors(labels="gold", share=0.25)],
    }


def plain(model: nn.Module, batches: list[Any]) -> None:
    """A training pass without an optimiser."""
    for batch in batches:
        model.zero_grad(set_to_none=True)
        forward_of(model, batch, range(batch_size(batch)), None).losses.sum().backward()


def forward_only(model: nn.Module, batches: list[Any]) -> None:
    with torch.no_grad():
        for batch in batches:
            _ = forward_of(model, batch, range(batch_size(batch)), None).losses


def batch_size(batch: Any) -> int:
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])


def seconds(function: Callable[[], Any]) -> float:
    """CPU seconds of this process: on one thread that is the time on a machine with nothing else to do."""
    start = time.process_time()
    function()
    return time.process_time() - start


def table(name: str, rounds: int) -> dict[str, float]:
    """Ratio to the plain pass of every way, medians over rounds."""
    torch.manual_seed(0)
    model, batches = MODELS[name]()
    model.eval()
    repeat = 8 if name.startswith("MLP") else 1
    passes = {way: TorchPass(model, needs) for way, needs in ways(model, name == "GPT-2").items()}
    times: dict[str, list[float]] = {way: [] for way in ("plain", "forward only", *passes)}
    trial = 0.0
    for one in passes.values():
        with one:
            trial = seconds(lambda one=one: one.batch(batches[0]))
            trial -= seconds(lambda one=one: one.batch(batches[0]))
    plain(model, batches)

    def steady(one: TorchPass) -> None:
        for _ in range(repeat):
            for batch in batches:
                one.batch(batch)

    for _ in range(rounds):
        times["plain"].append(seconds(lambda: [plain(model, batches) for _ in range(repeat)]))
        times["forward only"].append(seconds(lambda: [forward_only(model, batches) for _ in range(repeat)]))
        model.zero_grad(set_to_none=True)
        for way, one in passes.items():
            with one:
                times[way].append(seconds(lambda one=one: steady(one)))
    base = statistics.median(times["plain"])
    found = {way: statistics.median(t) / base for way, t in times.items()}
    found["first batch's tests, in batches"] = trial / (base / len(batches) / repeat)
    found["plain, ms a batch"] = 1000 * base / len(batches) / repeat
    return found


# --- torch.func.vmap(grad) ------------------------------------------------------------------------------


def vmap_norms(model: nn.Module, batch: Any) -> Tensor:
    """Gradient norms with one gradient a datapoint, all parameters at once."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], one: Any) -> Tensor:
        if isinstance(one, dict):
            inputs = {k: v[None] for k, v in one.items() if k != "labels"}
            if "input_ids" in inputs:
                inputs = {"input_ids": inputs["input_ids"], "use_cache": False}
            logits = torch.func.functional_call(model, (parameters, buffers), (), inputs).logits[0]
            if "input_ids" in one:
                return F.cross_entropy(logits[:-1], one["input_ids"][1:], reduction="sum")
            return F.cross_entropy(logits[None], one["labels"][None])
        logits = torch.func.functional_call(model, (parameters, buffers), (one[0][None],))
        return F.cross_entropy(logits, one[1][None])

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch)
    return torch.stack([g.flatten(1).square().sum(1) for g in grads.values()]).sum(0).sqrt()


PEER_MODELS = {
    "MLP, batch 128": lambda: mlp(128),
    "GPT-2": lambda: gpt2(attention="eager"),
    "ViT-tiny": lambda: vit(attention="eager"),
}


def peer(name: str, rounds: int) -> dict[str, float]:
    """Norms by vmap(grad) and by us, as ratios to the plain pass; both must agree."""
    torch.manual_seed(0)
    theirs, batches = PEER_MODELS[name]()
    torch.manual_seed(0)
    model, _ = MODELS[name]()
    model.load_state_dict(theirs.state_dict())
    model.eval(), theirs.eval()
    batch = batches[0]
    one = TorchPass(model, [GradNorm()])
    times: dict[str, list[float]] = {"plain": [], "vmap": [], "ours": []}
    with one:
        ours = one.batch(batch)["grad_norm"]
    error = float(np.max(np.abs(vmap_norms(theirs, batch).numpy() / ours - 1)))
    if error > 1e-4:
        raise SystemExit(f"{name}: norms differ by {error:.1e}")
    repeat = 8 if name.startswith("MLP") else 1
    for _ in range(rounds):
        times["plain"].append(seconds(lambda: [plain(model, [batch]) for _ in range(repeat)]))
        model.zero_grad(set_to_none=True)
        times["vmap"].append(seconds(lambda: [vmap_norms(theirs, batch) for _ in range(repeat)]))
        with one:
            times["ours"].append(seconds(lambda: [one.batch(batch) for _ in range(repeat)]))
    base = statistics.median(times["plain"])
    found = {way: statistics.median(t) / base for way, t in times.items()}
    return {**found, "difference": error}


def memory(way: str) -> float:
    """Peak resident memory above the start, MiB, of a GPT-2 batch of 32; in its own process, on Linux."""
    torch.manual_seed(0)
    model, batches = gpt2(batch=32, batches=1, attention="eager" if way == "vmap" else "sdpa")
    model.eval()
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # forget the peak so far
    before = status("VmRSS")
    if way == "plain":
        plain(model, batches)
    elif way == "vmap":
        vmap_norms(model, batches[0])
    else:
        needs = ways(model, text=True)["norms" if way == "norms" else "everything at level 1"]
        with TorchPass(model, needs, test=False) as one:
            one.batch(batches[0])
    return (status("VmHWM") - before) / 1024


def status(entry: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(entry))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--memory", help="measure one way and print MiB (used by the benchmark itself)")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    if options.memory:
        print(memory(options.memory))
        return
    torch.set_num_threads(1)
    machine = f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    print(f"ratios to a plain forward + backward ({machine}; CPU time, medians of {options.rounds})\n")
    tables = {name: table(name, options.rounds) for name in options.models}
    rows = list(next(iter(tables.values())))
    print(f"{'':<36}" + "".join(f"{name:>16}" for name in tables))
    for row in rows:
        print(f"{row:<36}" + "".join(f"{found[row]:>16.2f}" for found in tables.values()))
    report: dict[str, Any] = {"machine": machine, "ratios": tables}
    if not options.no_peers:
        print("\nnorms against torch.func.vmap(grad)")
        report["vmap"] = {}
        for name in (name for name in PEER_MODELS if name in options.models):
            found = report["vmap"][name] = peer(name, options.rounds)
            print(
                f"{name:<16} vmap {found['vmap']:6.2f}   ours {found['ours']:6.2f}   "
                f"{found['vmap'] / found['ours']:5.1f} x   agree to {found['difference']:.0e}"
            )
        peaks = {}
        for way in ("plain", "vmap", "norms", "everything"):
            done = subprocess.run([sys.executable, __file__, "--memory", way], capture_output=True, text=True, check=True)
            peaks[way] = float(done.stdout.split()[-1])
        report["peak MiB, GPT-2, batch of 32"] = peaks
        peak = ", ".join(f"{k} {v:.0f} MiB" for k, v in peaks.items())
        print(f"peak memory, GPT-2, a batch of 32: {peak}")
    if options.json:
        with open(options.json, "w") as out:
            json.dump(report, out, indent=1)


if __name__ == "__main__":
    main()
