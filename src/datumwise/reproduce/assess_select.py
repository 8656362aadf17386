"""What do scores find, and does a selection beat a random one? The survey's questions, on data that ship.

"Data Tsunami": *A Survey on Data Assessment and Selection for Instruction Tuning*, 2024, arXiv 2408.02085.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from datumwise.errors import DatumwiseError
from datumwise.probe.fine_tune import fine_tuned
from datumwise.progress import Stage
from datumwise.reproduce.docstrings import docstrings
from datumwise.reproduce.frame import COLOURS, Claim, Experiment, Reproduction, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT"]

FLIPPED = 0.10  # share of labels moved to another class
SPLITS = 10  # of the digits, for every comparison with random subsets
HELD_OUT = 500
BUDGETS = (0.05, 0.10, 0.20, 0.50)  # share of the 1,297 training digits that is kept
RANDOM = 10  # subsets of each size and split
EPOCHS = 20  # of the learner whose dynamics are recorded
TARGET = "scipy.stats"  # module whose docstrings are the target
POOL, ASKED = 400, 100  # docstrings to choose from, and held out, at the real scale
SHARE, TUNING_EPOCHS = 0.125, 2
TARGETS = 150  # of its docstrings that say what is wanted; the others are hidden in the pool


# --- small -----------------------------------------------------------------------------------------------


def small(*, model: str | None, data: str | None, seed: int, stage: Stage) -> Reproduction:
    """Digits with flipped labels; subsets of digits; docstrings of one package among others."""
    found = _step(stage, "faults", "ten scores of flipped labels", lambda: _faults(seed))
    kept = _step(stage, "subsets", f"{len(_selectors(0))} selectors at {len(BUDGETS)} budgets", lambda: _subsets(seed, stage))
    near = _step(stage, "target", f"docstrings of {TARGET}", lambda: _target(seed))
    rows = [{"question": "flipped labels, AUC", **row} for row in _interval_rows(found)]
    for budget in BUDGETS:
        rows += [
            {"question": f"digits, keep {budget:.0%}: points over random", "method": name, **_interval(values[budget])}
            for name, values in kept.items()
        ]
    rows += [{"question": f"share of {TARGET} among the chosen", **row} for row in _interval_rows(near)]
    low = BUDGETS[0]
    best = max(found, key=lambda name: float(np.mean(found[name])))
    ahead = [n for n, v in kept.items() if _interval(v[low])["low"] > 0]
    everywhere = [n for n, v in kept.items() if all(_interval(v[b])["low"] > 0 for b in BUDGETS)]
    hardest = _interval(kept["hardest first"][low])
    strata, d2 = _interval(kept["CCS"][low]), _interval(kept["D2 pruning"][low])
    claims = [
        Claim(
            "scores of training dynamics and confident learning find flipped labels",
            "AUC above 0.95 on 10 % flips",
            f"best {best} {np.mean(found[best]):.3f}; {sum(np.mean(v) > 0.95 for v in found.values())} of {len(found)} above",
            bool(np.mean(found[best]) > 0.95),
        ),
        Claim(
            "at high pruning rates, keeping the hardest is worse than random (Zheng et al., 2023, figure 1)",
            "below random at 80 % pruning and more",
            f"{hardest['mean']:+.1f} points [{hardest['low']:+.1f}, {hardest['high']:+.1f}] at {1 - low:.0%}",
            hardest["high"] < 0,
        ),
        Claim(
            "coverage mends it: strata of the score (CCS) do not lose to random",
            "above random at every rate",
            f"{strata['mean']:+.1f} [{strata['low']:+.1f}, {strata['high']:+.1f}] at {1 - low:.0%}",
            strata["low"] > 0 if strata["low"] > 0 or strata["high"] < 0 else None,
        ),
        Claim(
            "so does passing messages between neighbours (D2 pruning)",
            "above random at every rate",
            f"{d2['mean']:+.1f} [{d2['low']:+.1f}, {d2['high']:+.1f}] at {1 - low:.0%}",
            d2["low"] > 0 if d2["low"] > 0 or d2["high"] < 0 else None,
        ),
        Claim(
            "random selection is almost all you need (Xia et al., 2024, arXiv 2410.09335)",
            "few methods beat it at scale",
            f"{len(ahead)} of {len(kept)} beat it keeping {low:.0%}, {len(everywhere)} at every budget",
            None,
        ),
        Claim(
            "importance resampling finds the target's domain (DSIR)",
            "far above random",
            f"{np.mean(near['DSIR']):.2f} of the chosen, random {np.mean(near['random']):.2f}",
            bool(np.min(near["DSIR"]) > np.max(near["random"])),
        ),
    ]
    said = " and ".join(ahead) if len(ahead) < 3 else ", ".join(ahead[:-1]) + " and " + ahead[-1]
    verdict = (
        f"Of flipped labels, {best} finds most (AUC {np.mean(found[best]):.3f}). Keeping {low:.0%} of the digits, "
        f"{said or 'nothing'} {'beats' if len(ahead) == 1 else 'beat'} random subsets as large, and keeping the hardest "
        f"costs {-hardest['mean']:.1f} points. What beats random at every budget: {', '.join(everywhere) or 'nothing'}."
    )
    return Reproduction(
        name="", title="", source="", rows=rows, claims=claims, verdict=verdict, draw=lambda figure: _draw(figure, found, kept),
        notes=[
            f"Digits of scikit-learn: {SPLITS} splits into 1,297 to choose from and {HELD_OUT} held out; {RANDOM} random "
            "subsets a split and budget; logistic regression. Intervals: Student's t over the splits, 95 %.",
            "Hardness is EL2N out of fold on the pool, embeddings are pixels. Larger models and noisy pools may differ: run "
            "`selection_report` on yours.",
        ],
        details={"faults": found, "subsets": {n: {str(b): v for b, v in d.items()} for n, d in kept.items()}, "target": near},
    )  # fmt: skip


# --- real ------------------------------------------------------------------------------------------------


def real(*, model: str | None, data: str | None, seed: int, stage: Stage) -> Reproduction:
    """A pretrained model is tuned on an eighth of a pool of docstrings, chosen by its own scores or at random."""
    from datumwise.probe.collate import load_model

    if model is None:
        raise DatumwiseError("the real scale tunes a pretrained language model", remedy="name its folder with --model")
    stage.begin("model", f"loading {model}")
    base, tokenizer = load_model(model, "causal-lm")
    stage.end(f"{sum(p.numel() for p in base.parameters()):,} parameters")
    texts = docstrings(POOL + ASKED, least=150, most=350, seed=seed)
    pool, asked = slice(0, POOL), slice(POOL, POOL + ASKED)
    scores = _lm_scores(base, tokenizer, texts.prompts[pool], texts.responses[pool], stage)
    arms = _arms(scores, len(texts.prompts[pool]), seed)
    before = _asked(base, tokenizer, texts.prompts[asked], texts.responses[asked])
    after: dict[str, np.ndarray] = {}
    for done, (name, rows) in enumerate(arms.items()):
        stage.begin("tune", f"{name}, {len(rows)} of {POOL} ({done + 1} of {len(arms)})")
        with fine_tuned(
            base, tokenizer, [texts.prompts[i] for i in rows], [texts.responses[i] for i in rows],
            epochs=TUNING_EPOCHS, batch=4, seed=seed, progress=stage.progress,
        ) as tuned:  # fmt: skip
            after[name] = _asked(tuned, tokenizer, texts.prompts[asked], texts.responses[asked])
        stage.end(f"{name}: {after[name].mean():.4f} nats a token held out")
    by_chance = np.mean([v for name, v in after.items() if name.startswith("random")], axis=0)
    table: list[dict[str, Any]] = [
        {"tuned on": "nothing", "nats a token": float(before.mean()), "better than random by": None, "low": None, "high": None}
    ]
    for name, values in after.items():
        gain = _interval(by_chance - values)
        table.append(
            {"tuned on": name, "nats a token": float(values.mean()), "better than random by": gain["mean"],
             "low": gain["low"], "high": gain["high"]}
        )  # fmt: skip
    chosen = [row for row in table[1:] if not row["tuned on"].startswith("random")]
    ahead = [row["tuned on"] for row in chosen if row["low"] > 0]
    behind = [row["tuned on"] for row in chosen if row["high"] < 0]
    ifd = next(row for row in chosen if row["tuned on"].startswith("IFD"))
    claims = [
        Claim(
            "instruction-following difficulty chooses better than chance (Superfiltering)",
            "5 to 15 % chosen beat all of Alpaca",
            f"{ifd['better than random by']:+.4f} nats a token [{ifd['low']:+.4f}, {ifd['high']:+.4f}]",
            None if ifd["low"] <= 0 <= ifd["high"] else ifd["low"] > 0,
        ),
        Claim(
            "random selection is almost all you need (Xia et al., 2024)",
            "few methods beat it",
            f"{len(ahead)} of {len(chosen)} beat it, {len(behind)} lose to it",
            len(ahead) <= len(chosen) / 2,
        ),
    ]
    verdict = (
        f"Tuned on {round(SHARE * POOL)} of {POOL} docstrings, {', '.join(ahead) or 'no score'} beats random ones as large "
        f"on {ASKED} held out; {', '.join(behind) or 'none'} loses to them."
    )
    return Reproduction(
        name="", title="", source="", rows=table, claims=claims, verdict=verdict,
        draw=lambda figure: _draw_real(figure, table),
        notes=[
            f"LoRA of rank 16, {TUNING_EPOCHS} epochs; loss on the response's tokens. Intervals: Student's t over the held-out "
            "docstrings, against the mean of the random arms on the same docstrings.",
        ],
        details={"scores": {k: v.tolist() for k, v in scores.items()}, "arms": {k: v.tolist() for k, v in arms.items()}},
    )  # fmt: skip


def paper(*, model: str | None, data: str | None, seed: int, stage: Stage) -> Reproduction:
    """What the papers used, named: nothing of it ships."""
    raise DatumwiseError(
        "the paper's scale needs Alpaca-52k (tatsu-lab/alpaca), LLaMA-7B (huggyllama/llama-7b) and four 80 GB accelerators",
        remedy="choose by `datumwise score` and `datumwise select` on your ledger, tune with your own trainer, and compare "
        "with `--scale real --model PATH` first",
    )


def _lm_scores(base: Any, tokenizer: Any, prompts: list[str], responses: list[str], stage: Stage) -> dict[str, np.ndarray]:
    from datumwise.probe.hidden_states import hidden_states
    from datumwise.score.language_model import lm

    stage.begin("score", f"{len(prompts)} docstrings")
    found = lm(base, tokenizer, prompts, responses, ("ppl", "ifd"), progress=stage.progress)
    whole = [p + r for p, r in zip(prompts, responses, strict=True)]
    states = hidden_states(base, tokenizer, whole, layers=("middle",), position="mean", progress=stage.progress)
    stage.end("perplexity, instruction-following difficulty, hidden states")
    return {"ppl": np.asarray(found["ppl"]), "ifd": np.asarray(found["ifd"]), "states": states - states.mean(axis=0)}


def _arms(scores: Mapping[str, np.ndarray], n: int, seed: int) -> dict[str, np.ndarray]:
    """Name -> rows to tune on."""
    from datumwise.select.facility_location import FacilityLocation
    from datumwise.select.top_k import QuantileBand, TopK

    k = round(SHARE * n)
    rng = np.random.default_rng(seed)
    return {
        **{f"random {i + 1}": rng.choice(n, k, replace=False) for i in range(3)},
        "IFD, highest below 1": TopK(k, below=1.0).fit(scores["ifd"]).ranking_,
        "perplexity, lowest": TopK(k, highest=False).fit(scores["ppl"]).ranking_,
        "perplexity, middle": QuantileBand(k, band="middle").fit(scores["ppl"]).ranking_,
        "facility location on hidden states": FacilityLocation(k).fit(scores["states"]).ranking_,
    }


def _asked(model: Any, tokenizer: Any, prompts: list[str], responses: list[str]) -> np.ndarray:
    """Nats a token of each held-out response."""
    from datumwise.probe.language_model import language_model_signals

    pairs = list(zip(prompts, responses, strict=True))
    return np.asarray(language_model_signals(model, pairs, ("mean_nll",), tokenizer=tokenizer)["mean_nll"])


def _draw_real(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    axes = figure.subplots()
    shown = list(reversed(rows[1:]))
    at = np.arange(len(shown))
    middle = np.array([row["better than random by"] for row in shown])
    half = middle - np.array([row["low"] for row in shown])
    colours = [COLOURS[2] if row["low"] > 0 else COLOURS[1] if row["high"] < 0 else "#8a8a8a" for row in shown]
    axes.barh(at, middle, color=colours, height=0.6)
    axes.errorbar(middle, at, xerr=half, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
    axes.set_yticks(at, [row["tuned on"] for row in shown])
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_xlabel("held-out nats a token saved, against the mean of the random arms")
    plain_axes(axes)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.grid(axis="y", visible=False)


# --- parts of the small one ------------------------------------------------------------------------------


def _step(stage: Stage, name: str, what: str, run: Callable[[], Any]) -> Any:
    stage.begin(name, what)
    found = run()
    stage.end(what)
    return found


def _interval(values: Any) -> dict[str, float]:
    """Mean over the splits and its 95 % interval."""
    values = np.asarray(values, float)
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return {"mean": float(values.mean()), "low": float(values.mean() - half), "high": float(values.mean() + half)}


def _interval_rows(found: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    return [{"method": name, **_interval(values)} for name, values in found.items()]


def _faults(seed: int) -> dict[str, list[float]]:
    """AUC of ten scores against the labels that were flipped, one a draw of the flips."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    from datumwise import score
    from datumwise.evaluate.noisy_label_auc import noisy_label_auc
    from datumwise.probe.estimators import estimator_signals
    from datumwise.score.data_oob import data_oob
    from datumwise.score.knn_shapley import knn_shapley_crossed
    from datumwise.score.mdl_hardness import MDLHardness

    X, clean = load_digits(return_X_y=True)
    X = X / 16
    found: dict[str, list[float]] = {}
    for draw in range(SPLITS // 2):
        rng = np.random.default_rng([seed, draw])
        flipped = np.zeros(len(X), bool)
        flipped[rng.choice(len(X), round(FLIPPED * len(X)), replace=False)] = True
        y = np.where(flipped, (clean + rng.integers(1, 10, len(X))) % 10, clean)
        asked = estimator_signals(LogisticRegression(max_iter=300), X, y, ("probs", "loss"), folds=5, seed=seed)
        over = _by_epoch(X, y, seed + draw)
        scores = {
            "label error (confident learning)": score.label_error(asked["probs"], y),
            "EL2N, out of fold": score.el2n(asked["probs"], y),
            "confidence-weighted entropy": -score.confidence_weighted_entropy(asked["probs"], y),
            "MDL hardness": MDLHardness(random_state=seed).fit_score(X, y),
            "area under the margin": -score.aum(over, y),
            "forgetting": np.minimum(score.forgetting(over, y), EPOCHS),
            "confidence (cartography)": -score.confidence(over, y),
            "kNN-Shapley": -knn_shapley_crossed(X, y),
            "Data-OOB": -data_oob(X, y, n_models=100, random_state=seed).values,
            "outlier (10 nearest)": score.ood_knn(X),
        }
        for name, values in scores.items():
            found.setdefault(name, []).append(noisy_label_auc(values, flipped, higher_is_noisier=True).auc.value)
    return found


def _by_epoch(X: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Logits (E, n, K) of a linear learner after each of its passes over the data."""
    from sklearn.linear_model import SGDClassifier

    learner = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, random_state=seed)
    logits = []
    for _ in range(EPOCHS):
        learner.partial_fit(X, y, classes=np.arange(10))
        logits.append(learner.decision_function(X))
    return np.stack(logits)


def _selectors(k: int) -> dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]]:
    """Name -> function of (X, labels, hardness) to the rows chosen."""
    from datumwise.select.ccs import CCS
    from datumwise.select.cluster_picks import ClusterPicks
    from datumwise.select.d2_pruning import D2Pruning
    from datumwise.select.facility_location import FacilityLocation
    from datumwise.select.herding import Herding
    from datumwise.select.k_center_greedy import KCenterGreedy
    from datumwise.select.top_k import TopK

    return {
        "facility location": lambda X, y, hard: FacilityLocation(k).fit(X).ranking_,
        "k-center": lambda X, y, hard: KCenterGreedy(k).fit(X).ranking_,
        "herding": lambda X, y, hard: Herding(k).fit(X).ranking_,
        "cluster picks": lambda X, y, hard: ClusterPicks(k, random_state=0).fit(X).ranking_,
        "D2 pruning": lambda X, y, hard: D2Pruning(k).fit(X, scores=hard).ranking_,
        "CCS": lambda X, y, hard: CCS(k, beta=0.1, random_state=0).fit(hard).ranking_,
        "hardest first": lambda X, y, hard: TopK(k).fit(hard).ranking_,
        "easiest first": lambda X, y, hard: TopK(k, highest=False).fit(hard).ranking_,
    }


def _subsets(seed: int, stage: Stage) -> dict[str, dict[float, list[float]]]:
    """Points of held-out accuracy over the mean of random subsets: selector -> budget -> one a split."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    from datumwise import score
    from datumwise.probe.estimators import estimator_signals

    X, y = load_digits(return_X_y=True)
    found: dict[str, dict[float, list[float]]] = {}
    for split in range(SPLITS):
        A, B, a, b = train_test_split(X / 16, y, test_size=HELD_OUT, random_state=1000 * seed + split, stratify=y)
        asked = estimator_signals(LogisticRegression(max_iter=300), A, a, ("probs",), folds=5, seed=seed)
        hard = score.el2n(asked["probs"], a)
        rng = np.random.default_rng([seed, split])

        def accuracy(rows: np.ndarray, A: np.ndarray = A, a: np.ndarray = a, B: np.ndarray = B, b: np.ndarray = b) -> float:
            if len(np.unique(a[rows])) < 2:
                return float((b == a[rows][0]).mean())
            return float(LogisticRegression(max_iter=300).fit(A[rows], a[rows]).score(B, b))

        for budget in BUDGETS:
            k = round(budget * len(A))
            by_chance = np.mean([accuracy(rng.choice(len(A), k, replace=False)) for _ in range(RANDOM)])
            for name, choose in _selectors(k).items():
                gain = 100 * (accuracy(choose(A, a, hard)) - by_chance)
                found.setdefault(name, {}).setdefault(budget, []).append(float(gain))
        stage.progress(split + 1, SPLITS)
    return found


def _target(seed: int) -> dict[str, list[float]]:
    """Share of the target's docstrings among as many chosen as the pool hides; one a draw of the target set."""
    from datumwise.select.dsir import DSIR

    texts = docstrings(least=400, most=2000)
    whole = [f"{p} {r}" for p, r in zip(texts.prompts, texts.responses, strict=True)]
    wanted = np.array([module.startswith(TARGET) for module in texts.modules])
    found: dict[str, list[float]] = {"DSIR": [], "similarity to the target": [], "random": []}
    for draw in range(SPLITS // 2):
        rng = np.random.default_rng([seed, draw])
        shown = rng.choice(np.flatnonzero(wanted), min(TARGETS, int(wanted.sum()) // 2), replace=False)
        pool = np.setdiff1d(np.arange(len(whole)), shown)
        hidden = wanted[pool]
        k = int(hidden.sum())
        raw, target = [whole[i] for i in pool], [whole[i] for i in shown]
        found["DSIR"].append(
            float(hidden[DSIR(k, min_tokens=0, random_state=draw).fit(raw, target_texts=target).ranking_].mean())
        )
        found["similarity to the target"].append(float(hidden[_nearest(raw, target, k)].mean()))
        found["random"].append(float(hidden[rng.choice(len(pool), k, replace=False)].mean()))
    return found


def _nearest(raw: Sequence[str], target: Sequence[str], k: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    from datumwise.select.target_similarity import TargetSimilarity

    embed = make_pipeline(TfidfVectorizer(sublinear_tf=True), TruncatedSVD(100, random_state=0))
    X = embed.fit_transform(raw)
    return TargetSimilarity(k).fit(X, target=embed.transform(target)).ranking_


def _draw(figure: Figure, found: Mapping[str, Sequence[float]], kept: Mapping[str, Mapping[float, Sequence[float]]]) -> None:
    figure.set_size_inches(10.5, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    order = sorted(found, key=lambda name: float(np.mean(found[name])))
    middle = [_interval(found[name]) for name in order]
    left.barh(order, [m["mean"] for m in middle], color=COLOURS[0], height=0.62)
    left.errorbar(
        [m["mean"] for m in middle], range(len(order)), xerr=[m["high"] - m["mean"] for m in middle],
        fmt="none", ecolor="#222222", elinewidth=1, capsize=2,
    )  # fmt: skip
    left.set_xlim(0.5, 1.0)
    left.set_xlabel("AUC for 10 % flipped labels, digits")
    plain_axes(left)
    left.grid(axis="x", color="#dddddd", linewidth=0.7)
    left.grid(axis="y", visible=False)
    styles = [(colour, line) for line in ("-", "--") for colour in COLOURS]
    for (name, values), (colour, line) in zip(kept.items(), styles, strict=False):
        middle = [_interval(values[b]) for b in BUDGETS]
        at = [100 * b for b in BUDGETS]
        right.plot(at, [m["mean"] for m in middle], line, color=colour, marker="o", markersize=4, label=name)
        right.fill_between(at, [m["low"] for m in middle], [m["high"] for m in middle], color=colour, alpha=0.10, linewidth=0)
    right.axhline(0, color="#222222", linewidth=1)
    right.set_xscale("log")
    right.set_xticks([100 * b for b in BUDGETS], [f"{100 * b:g} %" for b in BUDGETS])
    right.minorticks_off()
    right.set_xlabel("share of the digits kept")
    right.set_ylabel("points of accuracy over random subsets")
    right.legend(fontsize=8, frameon=False, ncols=2)
    plain_axes(right)


EXPERIMENT = Experiment(
    title="Which scores find what, and which selections beat random",
    source="Data Tsunami survey, 2024, arXiv 2408.02085",
    scales={"small": small, "real": real, "paper": paper},
)
