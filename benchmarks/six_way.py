"""MUSE's criteria of one model: datumwise against the published way, written out here, on the same texts and questions.

    OMP_NUM_THREADS=1 python -P benchmarks/six_way.py [--world FOLDER] [--model FOLDER] [--repeats 3]

The published way reads every text twice (as it is and in lower case) by itself, collects log-probabilities token by token,
writes one continuation and one answer at a time with ``model.generate``, reading the ten solved questions anew for each, and
scores with the ``rouge_score`` package. Texts are 72 news items that come with gensim, questions are capitals.

``--world`` keeps the small model between runs (see `datumwise.reproduce.memorised_news`), which is else trained first, some
50 s; ``--model`` takes another causal language model instead. Each side runs in a process of its own, alternating; medians of
CPU seconds. Scores are asserted equal to 1e-4 and what is written to the letter.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from typing import Any

import numpy as np

SHARES = (5, 10, 20, 30, 40, 50, 60)
TEXTS, PASSAGES, QUESTIONS, SHOTS = 72, 24, 24, 10
WRITTEN, ANSWERED = 40, 32  # tokens
STAGES = ("Min-40% alone", "all membership scores", "verbatim and knowledge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--world", help="folder that the small model is kept in")
    parser.add_argument("--model", help="folder or name of another causal language model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--side", choices=("ours", "published"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(one_side(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if not options.model:
            options.world = options.world or folder
            load(options)  # trains it once
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "published": []}
        for _ in range(options.repeats):
            for side, found in runs.items():
                command = [sys.executable, "-P", __file__, "--side", side, "--questions", str(options.questions)]
                command += ["--model", options.model] if options.model else ["--world", options.world]
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                found.append(json.loads(answer.stdout.splitlines()[-1]))
    ours, published = runs["ours"][0], runs["published"][0]
    worst = 0.0
    for name, scores in published["scores"].items():
        a, b = np.array(ours["scores"][name]), np.array(scores)
        worst = max(worst, float(np.abs(a - b).max()))
        assert np.allclose(a, b, rtol=1e-4, atol=1e-4), f"{name} differs by {np.abs(a - b).max()}"
    assert ours["written"] == published["written"], "what is written differs"
    assert np.allclose(ours["rouge"], published["rouge"], atol=1e-9)

    print(f"{TEXTS} texts, {PASSAGES} passages ({WRITTEN} tokens), {options.questions} questions after {SHOTS} solved ones")
    print(f"{'CPU s':28}{'datumwise':>12}{'published':>12}{'ratio':>8}")
    for stage in STAGES:
        a, b = (statistics.median(run["seconds"][stage] for run in runs[side]) for side in ("ours", "published"))
        print(f"{stage:28}{a:12.3f}{b:12.3f}{b / a:7.1f}x")
    a, b = (statistics.median(run["peak"] for run in runs[side]) for side in ("ours", "published"))
    print(f"{'peak memory, MiB':28}{a:12.0f}{b:12.0f}")
    import torch
    import transformers

    print(f"largest difference of a score {worst:.1e}; every text written is the same ({len(ours['written'])})")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {platform.machine()}")


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    if options.model:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(options.model, dtype="float32")
        return model.eval(), AutoTokenizer.from_pretrained(options.model)
    from datumwise.reproduce.memorised_news import memorised_news

    world = memorised_news(0, path=options.world)
    return world.target, world.tokenizer


def one_side(options: argparse.Namespace) -> dict[str, Any]:
    from datumwise.reproduce.memorised_news import capital_facts, news_items

    model, tokenizer = load(options)
    texts, facts = news_items()[:TEXTS], capital_facts()
    passages = [(" ".join(t.split()[:15]), " " + " ".join(t.split()[15:])) for t in texts[:PASSAGES]]
    shots, questions = facts[:SHOTS], facts[SHOTS : SHOTS + options.questions]
    found: dict[str, Any] = {"seconds": {}}
    (ours_scores if options.side == "ours" else published_scores)(
        model, tokenizer, texts
    )  # imports, and memory that is taken once
    start = time.process_time()
    alone = (ours_min_k if options.side == "ours" else published_scores)(model, tokenizer, texts)  # it has no other way
    found["seconds"][STAGES[0]] = time.process_time() - start
    start = time.process_time()
    found["scores"] = (ours_scores if options.side == "ours" else published_scores)(model, tokenizer, texts)
    found["seconds"][STAGES[1]] = time.process_time() - start
    assert np.allclose(alone["Min-40%"], found["scores"]["Min-40%"], atol=1e-5)
    start = time.process_time()
    write = ours_written if options.side == "ours" else published_written
    found["written"], found["rouge"] = write(model, tokenizer, passages, shots, questions)
    found["seconds"][STAGES[2]] = time.process_time() - start
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


# --- datumwise ------------------------------------------------------------------------------------------


def ours_min_k(model: Any, tokenizer: Any, texts: list[str]) -> dict[str, list[float]]:
    from datumwise.evaluate.membership import membership_scores

    return {"Min-40%": membership_scores(model, tokenizer, texts, names="Min-40%")["Min-40%"].tolist()}


def ours_scores(model: Any, tokenizer: Any, texts: list[str]) -> dict[str, list[float]]:
    from datumwise.evaluate.membership import MEMBERSHIP, membership_scores

    names = [n for n in MEMBERSHIP if n != "PPL/ref" and not n.endswith("++") and n != "GradNorm"]
    return {name: scores.tolist() for name, scores in membership_scores(model, tokenizer, texts, names=names).items()}


def ours_written(model: Any, tokenizer: Any, passages: list, shots: list, questions: list) -> tuple[list[str], list[float]]:
    from datumwise.evaluate.muse_data import MuseData
    from datumwise.evaluate.six_way import six_way

    settings = {"verbmem_tokens": WRITTEN, "knowmem_tokens": ANSWERED, "icl": SHOTS, "prompt_style": "muse"}
    data = MuseData(["-"], verbmem=passages, forget_qa=questions, forget_qa_icl=shots, settings=settings)
    report = six_way(model, tokenizer, data, criteria=("verbmem", "knowmem"))
    items = [report.per_item[name] for name in ("verbmem", "knowmem")]
    return [t for one in items for t in one.generation or []], [float(s) for one in items for s in one.score]


# --- as published ---------------------------------------------------------------------------------------


def published_scores(model: Any, tokenizer: Any, texts: list[str]) -> dict[str, list[float]]:
    import torch

    def read(text: str) -> tuple[float, list[float]]:
        ids = torch.tensor(tokenizer.encode(text)).unsqueeze(0)
        with torch.no_grad():
            outputs = model(ids, labels=ids)
        logprobs = torch.nn.functional.log_softmax(outputs.logits, dim=-1)
        return float(outputs.loss), [logprobs[0, i, token].item() for i, token in enumerate(ids[0][1:])]

    found: dict[str, list[float]] = {}
    for text in texts:
        loss, all_logprobs = read(text)
        lower, _ = read(text.lower())
        scores = {"PPL": loss, "PPL/lower": loss / lower, "PPL/zlib": loss / len(zlib.compress(bytes(text, "utf-8")))}
        for share in SHARES:
            scores[f"Min-{share}%"] = float(-np.mean(np.sort(all_logprobs)[: int(len(all_logprobs) * share / 100 + 1e-9)]))
        for name, score in scores.items():
            found.setdefault(name, []).append(score)
    return found


def published_written(
    model: Any, tokenizer: Any, passages: list, shots: list, questions: list
) -> tuple[list[str], list[float]]:
    import torch
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=False)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    plain = {"do_sample": False, "repetition_penalty": 1.0, "pad_token_id": pad}

    def write(prompt: str, n: int) -> str:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, **plain)
        return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)

    written, rouge = [], []
    for prompt, truth in passages:
        written.append(write(prompt, WRITTEN))
        cut = tokenizer.decode(tokenizer(truth).input_ids[:WRITTEN], skip_special_tokens=True)
        rouge.append(scorer.score(cut, written[-1])["rougeL"].fmeasure)
    before = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in shots)
    for question, answer in questions:
        said = write(f"{before}Question: {question}\nAnswer: ", ANSWERED)
        for stop in ("\n\n", "\nQuestion", "Question:"):
            said = said.partition(stop)[0]
        written.append(said)
        rouge.append(scorer.score(answer, said)["rougeL"].fmeasure)
    return written, rouge


if __name__ == "__main__":
    main()
