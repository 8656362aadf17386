"""Easy-to-hard generalisation (Hase et al., 2024): are labels of easy questions as good as labels of hard ones?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.evaluate.easy_to_hard import EasyToHard, easy_to_hard
from datumwise.evaluate.label_budget import BuyAdvice, buy_advice
from datumwise.probe.hardness_split import CUTOFFS
from datumwise.probe.in_context import ICL
from datumwise.probe.multiple_choice import MultipleChoice, Template, choice_features
from datumwise.probe.multiple_choice_probe import MultipleChoiceProbe
from datumwise.progress import Stage
from datumwise.reproduce.arithmetic import TEMPLATE, arithmetic_questions, character_tokenizer, train_decoder
from datumwise.reproduce.frame import COLOURS, Claim, Experiment, Reproduction, plain_axes
from datumwise.reproduce.question_sets import QUESTION_SETS, load_questions
from datumwise.score.hardness import hardness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "paper", "real", "small"]

SOURCE = "Hase et al., 2024, arXiv 2401.06751"
CURVE = (10, 40)  # labels, besides n_train
HARD_PRICE = 4.0  # a label of a hard item over one of an easy item, for the advice
HARD_NOISE = 0.3  # share of hard labels that are replaced, for the noisy comparison
PUBLISHED = "70 to 100 %"
LORA_RATE = 1e-3  # tiny decoder: 30 updates must do


def small(
    *,
    model: str | None = None,
    data: str | None = None,
    seed: int = 0,
    stage: Stage,
    seeds: int = 5,
    n_train: int = 160,
    n_test: int = 300,
    steps: int | None = None,
) -> Reproduction:
    """Sums answered by a tiny decoder that is trained here, and digits under pixel noise; minutes on one core.

    Parameters
    ----------
    model, data
        Not for this scale.
    seed : int
    stage : Stage
    seeds : int
        Of every learner.
    n_train, n_test : int
        Labels and test items a level.
    steps : int, optional
        Training steps of the decoder.
    """
    from datumwise.probe.lora import LoRALearner

    if model is not None or data is not None:
        raise DatumwiseError("scale small trains its own model on its own data", remedy="use --scale real or paper")
    stage.begin("train", "tiny decoder, sums by two authors")
    options: dict[str, Any] = {} if steps is None else {"steps": steps}
    decoder, tokenizer = train_decoder(seed=seed, progress=stage.progress, **options), character_tokenizer()
    stage.end(f"decoder, {sum(p.numel() for p in decoder.parameters()):,} parameters")
    questions = arithmetic_questions(n_train + n_test, seed=seed)
    questions = questions.with_features(choice_features(decoder, tokenizer, questions, template=TEMPLATE))
    zero_shot = ICL(decoder, tokenizer, 0, template=TEMPLATE)
    unsupervised = _right(zero_shot, questions)
    probe = MultipleChoiceProbe(l2=0.01, penalty="squared")
    lora = LoRALearner(decoder, tokenizer, template=TEMPLATE, lr=LORA_RATE, batch=200)
    common: dict[str, Any] = {"hardness": "grade", "cutoffs": (2, 4), "n_test": n_test, "seeds": seeds, "random_state": seed}
    common |= {"unsupervised": unsupervised, "n_train": n_train}
    curve = tuple(n for n in CURVE if n < n_train)
    runs: dict[str, Callable[..., EasyToHard]] = {
        "sums, 10 examples in the prompt": partial(
            easy_to_hard, questions, ICL(decoder, tokenizer, 10, template=TEMPLATE), **common
        ),
        "sums, LoRA": partial(easy_to_hard, questions, lora, **common, curve=curve),
        f"sums, LoRA, {HARD_NOISE:.0%} of hard labels replaced": partial(
            easy_to_hard, questions, lora, **common, levels=("easy", "hard"), curve=curve, noise={"hard": HARD_NOISE}
        ),
        "sums, linear probe": partial(easy_to_hard, questions, probe, **common),
        "digits under noise, logistic regression": partial(_digits, n_train, seeds, seed),
    }
    found = _measured(runs, stage)
    advice = {
        name: buy_advice(
            result.curves,
            {"easy": 1.0, "hard": HARD_PRICE},
            float(n_train),
            baseline=result.gap.unsupervised,
            random_state=seed,
        )
        for name, result in found.items()
        if result.curves
    }
    notes = [
        "Sums: the decoder has read as many pages by an author who forgets every carry as by a careful one; without labels "
        "it hesitates between them.",
        "Hardness is the number of digits (2, 3, 4), known by construction. Accuracies are on four-digit sums with four "
        "choices, among them what the forgetful author says.",
        "LoRA learns with a rate of 1e-3, not the published 1e-4: the decoder is tiny. The probe reads the published states "
        "(middle and last layer, last token) with a squared penalty.",
        "Digits: hardness is the pixel noise; without labels is chance.",
        f"Every accuracy is on the same {n_test} hard items over {seeds} seeds (digits: "
        f"{found['digits under noise, logistic regression'].n_test}); intervals count items and seeds.",
    ]
    return _reproduction(found, advice, notes, primary="sums, 10 examples in the prompt")


def real(*, model: str | None = None, data: str | None = None, seed: int = 0, stage: Stage) -> Reproduction:
    """Sums in plain English answered by a pretrained language model: by examples in the prompt and by a linear probe."""
    decoder, tokenizer = _pretrained(model)
    questions = arithmetic_questions(260, seed=seed, plain=True) if data is None else load_questions(data)
    return _with_model(decoder, tokenizer, {data or "sums": questions}, seed, stage, n_train=160, n_test=100)


def paper(*, model: str | None = None, data: str | None = None, seed: int = 0, stage: Stage) -> Reproduction:
    """ARC, MMLU-STEM-5, StrategyQA and GSM8k with the paper's models, by hub name or path."""
    decoder, tokenizer = _pretrained(model)
    sets = {word: load_questions(word) for word in ([data] if data else QUESTION_SETS)}
    return _with_model(decoder, tokenizer, sets, seed, stage, n_train=160, n_test=None)


def _pretrained(word: str | None) -> tuple[Any, Any]:
    if word is None:
        raise DatumwiseError("this scale needs a pretrained causal language model", remedy="pass --model FOLDER or owner/name")
    from datumwise.probe.collate import load_model

    return load_model(word)


def _with_model(
    decoder: Any,
    tokenizer: Any,
    sets: Mapping[str, MultipleChoice],
    seed: int,
    stage: Stage,
    *,
    n_train: int,
    n_test: int | None,
) -> Reproduction:
    """Both learners on every question set, hardness as published where the set carries it."""
    runs: dict[str, Callable[..., EasyToHard]] = {}
    for word, questions in sets.items():
        name = word.partition("=")[0]
        measure, cutoffs = _published_hardness(name, questions)
        h = hardness(questions, measure)[measure]
        common: dict[str, Any] = {"hardness": h, "cutoffs": cutoffs, "n_test": n_test, "random_state": seed}
        written = int(questions.n_choices.max()) == 1
        k = 8 if written or name == "strategyqa" else 10
        icl = ICL(decoder, tokenizer, k, template=Template(), reasoning=written)
        size = min(n_train, _smallest_pool(h, cutoffs, n_test))
        runs[f"{name}, {k} examples in the prompt"] = partial(easy_to_hard, questions, icl, **common, n_train=size)
        if not written:
            runs[f"{name}, linear probe"] = partial(_probed, decoder, tokenizer, questions, common, size)
    found = _measured(runs, stage)
    read = {word: _published_hardness(word.partition("=")[0], questions)[0] for word, questions in sets.items()}
    notes = ["Hardness: " + "; ".join(f"{word}: {measure}" for word, measure in read.items())]
    return _reproduction(found, {}, notes, primary=next(iter(found)))


def _probed(
    decoder: Any,
    tokenizer: Any,
    questions: MultipleChoice,
    common: Mapping[str, Any],
    n_train: int,
    progress: Callable[[int, int], None] | None = None,
) -> EasyToHard:
    features = choice_features(decoder, tokenizer, questions)
    unsupervised = _right(ICL(decoder, tokenizer, 0), questions)
    probe = MultipleChoiceProbe(l2=0.01, penalty="squared")
    return easy_to_hard(
        questions.with_features(features), probe, unsupervised=unsupervised, n_train=n_train, progress=progress, **common
    )


def _published_hardness(name: str, questions: MultipleChoice) -> tuple[str, tuple[float, float] | None]:
    """Measure and cut-offs; without the published fact, question words by quantiles."""
    if name == "sums":
        return "grade", (2, 4)
    if name == "arc" and "grade" in questions.facts:
        return "grade", CUTOFFS["grade"]
    if name == "mmlu":
        return "college", CUTOFFS["college"]
    if name == "strategyqa" and all(questions.facts.get("decomposition", [None])):
        return "steps", CUTOFFS["strategyqa_steps"]
    if name == "gsm8k":
        return "steps", CUTOFFS["gsm8k_steps"]
    return "question_words", None


def _smallest_pool(h: np.ndarray, cutoffs: tuple[float, float] | None, n_test: int | None) -> int:
    """Labels that every level can give once the test is drawn."""
    from datumwise.probe.hardness_split import TEST_SHARE, hardness_levels

    counts = np.bincount(hardness_levels(h, cutoffs=cutoffs), minlength=3)
    held = int(TEST_SHARE * min(counts[0], counts[2])) + 1 if n_test is None else n_test
    return max(1, int(min(counts[counts > 0])) - held)


def _digits(n_train: int, seeds: int, seed: int, progress: Callable[[int, int], None] | None = None) -> EasyToHard:
    """Handwritten digits with up to 8 of 16 grey levels of noise: the noise is the hardness."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    grain = rng.integers(0, 9, len(X))
    noisy = X + rng.normal(size=X.shape) * grain[:, None]
    learner = LogisticRegression(max_iter=1000)
    return easy_to_hard((noisy / 16, y), learner, grain, n_train=n_train, seeds=seeds, random_state=seed, progress=progress)


def _right(learner: ICL, questions: MultipleChoice) -> np.ndarray:
    """float (n,): right or wrong on every question without labels."""
    rows = np.arange(len(questions))
    return (learner.choose(questions, [], rows).argmax(axis=1) == questions.gold).astype(np.float64)


def _measured(runs: Mapping[str, Callable[..., EasyToHard]], stage: Stage) -> dict[str, EasyToHard]:
    found = {}
    for name, run in runs.items():
        stage.begin("measure", name)
        found[name] = run(progress=stage.progress)
        gap = found[name].gap
        stage.end(f"{name}: {gap.value:.0%} recovered" if gap.defined and gap.gap > 0 else f"{name}: no gap shown")
    return found


def _reproduction(
    found: Mapping[str, EasyToHard], advice: Mapping[str, BuyAdvice], notes: Sequence[str], *, primary: str
) -> Reproduction:
    rows = []
    for name, result in found.items():
        gap = result.gap
        recovered = (gap.value, gap.low, gap.high) if gap.gap > 0 else (np.nan,) * 3  # a share of a loss says nothing
        row: dict[str, Any] = {"task and learner": name, "no labels": gap.unsupervised, "easy": gap.easy}
        row["medium"] = result.accuracy["medium"]["hard"].value if "medium" in result.accuracy else None
        row |= {
            "hard": gap.hard,
            **dict(zip(("gap recovered", "from", "to"), recovered, strict=True)),
            "labels": result.n_train,
        }
        rows.append(row | {"test items": gap.n_items, "easy = hard, p": gap.p_easy_hard})
    clean = {name: result for name, result in found.items() if not result.noise}
    defined = {name: r.gap for name, r in clean.items() if r.gap.defined and r.gap.gap > 0}
    ordered = [
        name
        for name, g in defined.items()
        if g.easy > g.unsupervised and g.p_easy_unsupervised < 0.05 and (g.easy <= g.hard or g.p_easy_hard >= 0.05)
    ]
    shares = ", ".join(f"{g.value:.0%}" for g in defined.values())
    claims = [
        Claim(
            "easy labels recover most of what hard labels bring on hard items",
            PUBLISHED,
            shares or "no gap shown",
            all(g.value >= 0.7 for g in defined.values()) if defined else None,
        ),
        Claim(
            "no labels < easy labels <= hard labels",
            "all settings",
            f"{len(ordered)} of {len(clean)} settings",
            len(ordered) == len(clean),
        ),
        Claim(
            "generalisation clearly shrinks as training and test move apart (2511.21692)",
            "often limited",
            ", ".join(
                f"medium {r.gaps['medium'].value:.0%}, easy {r.gap.value:.0%}"
                for name, r in clean.items()
                if name in defined and "medium" in r.gaps
            )
            or "not measured",
            _shrinks(clean),
        ),
    ]
    if advice:
        told = "; ".join(f"{name}: {a.level} ({a.share[a.level]:.0%} of draws)" for name, a in advice.items())
        claims.append(
            Claim(
                f"easy data can be the better buy where a hard label costs {HARD_PRICE:g} times as much, or is noisier",
                "yes",
                told,
                any(a.level == "easy" for a in advice.values()),
            )
        )
    details = {
        "runs": {name: result.as_dict() | {"per_item": None} for name, result in found.items()},
        "advice": {name: vars(a) for name, a in advice.items()},
    }
    return Reproduction(
        name="easy-to-hard",
        title=EXPERIMENT.title,
        source=SOURCE,
        rows=rows,
        claims=claims,
        verdict=_verdict(clean, ordered, primary),
        notes=notes,
        draw=partial(_draw, dict(found)),
        details=details,
    )


def _shrinks(found: Mapping[str, EasyToHard]) -> bool | None:
    """Whether easy labels recover clearly less than medium ones in most settings where both are defined."""
    some = [r for r in found.values() if r.gap.defined and r.gap.gap > 0 and "medium" in r.gaps]
    pairs = [(r.gaps["medium"], r.gap) for r in some]
    return None if not pairs else sum(easy.high < medium.value for medium, easy in pairs) > len(pairs) / 2


def _verdict(found: Mapping[str, EasyToHard], ordered: Sequence[str], primary: str) -> str:
    gap = found[primary].gap
    if gap.defined:
        first = (
            f"{primary[0].upper()}{primary[1:]}: easy labels recover {gap.value:.0%} ({gap.low:.0%} to {gap.high:.0%}) of what "
            f"hard labels bring over no labels ({gap.unsupervised:.3f} without, {gap.easy:.3f} with easy, {gap.hard:.3f} with "
            f"hard labels, on {gap.n_items:,} hard items)."
        )
    else:
        first = f"{primary[0].upper()}{primary[1:]}: nothing is said, for {gap.reason}."
    if ordered:
        second = f"No labels < easy <= hard stands in {len(ordered)} of {len(found)} settings: {'; '.join(ordered)}."
    else:
        second = f"No labels < easy <= hard stands in none of {len(found)} settings."
    above = [name for name, r in found.items() if r.gap.defined and r.gap.easy > r.gap.hard and r.gap.p_easy_hard < 0.05]
    third = f" Easy labels are better than hard ones, beyond chance, in: {'; '.join(above)}." if above else ""
    lost = [name for name, r in found.items() if r.gap.gap_high < 0]
    fourth = f" Even hard labels are worse than none in: {'; '.join(lost)}." if lost else ""
    return f"{first} {second}{third}{fourth}"


def _draw(found: Mapping[str, EasyToHard], figure: Figure) -> None:
    """Accuracy on hard items by what was trained on; beside it, learning curves where they were measured."""
    curves = {name: result for name, result in found.items() if result.curves}
    height = 1.1 + 0.85 * len(found)
    figure.set_size_inches(10.0 if curves else 7.0, max(height, 3.2))
    panels = figure.subplots(1, 2, width_ratios=(1.5, 1)) if curves else [figure.subplots()]
    left = panels[0]
    kinds = (("unsupervised", "no labels", "#9a9a9a"), ("easy", "easy labels", COLOURS[0]), ("hard", "hard labels", COLOURS[1]))
    for i, (level, label, colour) in enumerate(kinds):
        places = np.arange(len(found)) + (i - 1) * 0.26
        cells = [result.accuracy[level]["hard"] for result in found.values()]
        values = np.array([c.value for c in cells])
        ends = np.array([[c.value - c.low, c.high - c.value] for c in cells]).T
        left.barh(places, values, 0.24, xerr=ends, color=colour, label=label, error_kw={"elinewidth": 1, "ecolor": "#333333"})
    left.set_yticks(np.arange(len(found)), [name.replace(", ", "\n", 1) for name in found])
    left.invert_yaxis()
    left.set_xlim(0, 1)
    left.set_xlabel("accuracy on hard items")
    plain_axes(left)
    left.grid(axis="y", visible=False)
    left.grid(axis="x", color="#dddddd", linewidth=0.7)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    if not curves:
        return
    right = panels[1]
    for result in curves.values():
        style = "--" if result.noise else "-"
        for level, colour in (("easy", COLOURS[0]), ("hard", COLOURS[1])):
            if result.noise and level not in result.noise:
                continue  # the same as without noise
            points = result.curves[level]
            label = f"{level} labels" + (f", {result.noise[level]:.0%} replaced" if level in result.noise else "")
            right.plot(list(points), [v.mean() for v in points.values()], style, marker="o", ms=4, color=colour, label=label)
    right.axhline(next(iter(curves.values())).gap.unsupervised, color="#9a9a9a", lw=1)
    right.set_xscale("log")
    ticks = list(next(iter(curves.values())).curves["easy"])
    right.set_xticks(ticks, [str(n) for n in ticks])
    right.minorticks_off()
    right.set_xlabel("labels (LoRA on sums)")
    right.set_ylabel("accuracy on hard items")
    plain_axes(right)
    right.legend(frameon=False, fontsize=9)


EXPERIMENT = Experiment(
    "Are easy labels as good as hard ones for hard questions?",
    SOURCE,
    {"small": small, "real": real, "paper": paper},
)
