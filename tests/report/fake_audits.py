"""Audits made up from real and drawn data, without a ledger or a model pass: what the page is tested with."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datumwise.report.result import (
    Audit,
    Chosen,
    Evidence,
    Finding,
    ForgetRow,
    ForgetTest,
    Interval,
    MapData,
    Pass,
    Planted,
    Promise,
    Promised,
    PromiseRow,
    Proof,
    ProofCard,
    ProofRow,
    Requested,
    ScoreColumn,
)


def make_proof(metric: str = "accuracy", n: int = 1321, removed: int = 78) -> Proof:
    def card(learner: str, primary: bool, values: list[float], gain: float, verdict: str) -> ProofCard:
        names = ("all", "random", "cleaned")
        rows = tuple(
            ProofRow(name, n if name == "all" else n - removed, Interval(v, v - 0.023, v + 0.02))
            for name, v in zip(names, values, strict=True)
        )
        return ProofCard(
            learner,
            primary,
            rows,
            Interval(gain, gain - 0.015, gain + 0.018),
            Interval(gain, gain - 0.016, gain + 0.02),
            verdict,
            0.0165,
            10,
        )

    return Proof(
        metric,
        500,
        removed,
        (
            card("nearest neighbour", True, [0.93, 0.93, 0.97], 0.04, "gain shown"),
            card("logistic regression", False, [0.948, 0.949, 0.952], 0.003, "no gain shown"),
        ),
    )


def make_promise(task: str = "classification", learner: str = "extra trees") -> Promise:
    def row(promised: float, value: float, size: float, *more: float) -> PromiseRow:
        return PromiseRow(promised, Interval(value, value - 0.03, min(1.0, value + 0.02)), size, *more)

    points = (row(0.9, 0.912, 1.04), row(0.95, 0.948, 1.2), row(0.99, 1.0, float("inf")))
    batches = (row(0.9, 0.914, 1.13, 18, 0.68), row(0.9, 0.93, 1.41, 19, 0.4), row(0.9, 0.92, 2.2, 20, 0.12))
    return Promise(task, learner, 250, 250, 20, 500, points, batches)


def make_forget(metric: str = "accuracy", learner: str = "logistic regression") -> ForgetTest:
    def row(name: str, recalled: float, held: float, told: float) -> ForgetRow:
        return ForgetRow(
            name, Interval(recalled, recalled - 0.05, recalled + 0.06), Interval(held, held - 0.02, held + 0.02), told
        )

    rows = (row("before", 0.19, 0.948, 0.076), row("after", 0.13, 0.966, 0.057), row("never saw them", 0.13, 0.966, 0.057))
    return ForgetTest(learner, "4 Newton steps", metric, 197, 1136, 500, rows, 1.0, 0.001, 0.09, 0.24, "807b361ed10c" * 5, 1)


def make_request(name: str = "forgot") -> Requested:
    rows = (("verbatim recall", "0.62", "0.09", "0.08", "forgotten"), ("held-out loss", "2.31", "2.33", "–", "kept"))
    return Requested(name, 40, "7c1e" * 16, 12, "npo_klr", False, "2026-11-23T06:00:00+00:00", f"{name}/certificate.json", rows)


KINDS = {
    "label_error": Finding(
        "label_error",
        "label errors",
        0,
        0,
        0,
        "label_error",
        0.62,
        "0.62, from the class means",
        "confident learning, 5 folds",
        "probabilities",
        "Northcutt et al., 2021",
    ),
    "near_duplicate": Finding(
        "near_duplicate",
        "near duplicates",
        1,
        0,
        0,
        "near_duplicate",
        float("nan"),
        "closer than 0.25 × the median",
        "nearest neighbour distance",
        "embedding",
        "",
        "24 groups",
    ),
    "outlier": Finding(
        "outlier",
        "outliers",
        2,
        0,
        0,
        "outlier",
        1.55,
        "above Q3 + 3 IQR",
        "mean distance to 10 neighbours",
        "embedding",
        "Ramaswamy et al., 2000",
    ),
    "hard": Finding(
        "hard",
        "hard",
        3,
        0,
        0,
        "el2n",
        1.1,
        "hardest 3% of the rest",
        "EL2N",
        "probabilities",
        "Paul et al., 2021",
        "kept",
    ),
    "memorised": Finding(
        "memorised",
        "memorised",
        4,
        0,
        0,
        "memorisation",
        0.8,
        "0.8",
        "in-fold minus out-of-fold probability",
        "probabilities",
        "Feldman and Zhang, 2020",
    ),
}


def make_audit(
    x: np.ndarray,
    labels: np.ndarray | None,
    classes: tuple[str, ...],
    *,
    name: str,
    kind: str,
    planted: bool = False,
    xy: np.ndarray | None = None,
    share: tuple[float, ...] = (0.037, 0.036, 0.006, 0.028, 0.02),
    seed: int = 0,
    **more: Any,
) -> Audit:
    """Findings drawn from distances and a nearest-class-mean model: crude, but all from ``x``."""
    n = len(x)
    rng = np.random.default_rng(seed)
    x = np.asarray(x, np.float64)
    if xy is None:
        xy = _plane(x)
    step = rng.choice(n, min(n, 400), replace=False)
    gram = -2 * x @ x[step].T + (x**2).sum(1)[:, None] + (x[step] ** 2).sum(1)
    gram[step, np.arange(len(step))] = np.inf
    order = np.argsort(gram, axis=1)[:, :3]
    near = step[order]
    distance = np.sqrt(np.maximum(np.take_along_axis(gram, order, 1), 0))
    scores: dict[str, np.ndarray] = {}
    given_p = np.full(n, np.nan)
    guess = np.zeros(n, int)
    if labels is not None and len(classes):
        means = np.stack([x[labels == c].mean(0) if (labels == c).any() else x.mean(0) for c in range(len(classes))])
        square = ((x[:, None] - means) ** 2).sum(2) if n * len(classes) < 3_000_000 else -2 * x @ means.T + (means**2).sum(1)
        logits = -square / max(0.06 * float(np.median(square)), 1e-9)
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        given_p = p[np.arange(n), labels]
        guess = p.argmax(1)
        scores["label_error"] = (1 - given_p).astype(np.float32)
        scores["el2n"] = np.sqrt(((p - np.eye(len(classes))[labels]) ** 2).sum(1)).astype(np.float32)
    scores["outlier"] = distance.mean(1).astype(np.float32) if n > 3 else np.zeros(n, np.float32)
    scores["near_duplicate"] = (-distance[:, 0] if n > 1 else np.zeros(n)).astype(np.float32)
    flags = np.zeros(n, np.uint8)
    kinds = [k for k in KINDS.values() if k.score in scores or k.key == "memorised"]
    findings = []
    for finding, part in zip(KINDS.values(), share, strict=True):
        if finding not in kinds:
            continue
        score = scores.get(finding.score, rng.random(n) if part else np.zeros(n))
        count = round(part * n)
        rows = np.argsort(-score)[:count]
        if finding.key == "hard":
            free = np.flatnonzero(flags == 0)
            rows = free[np.argsort(-score[free])][:count]
        flags[rows] |= 1 << finding.bit
        cut = float(score[rows].min()) if len(rows) and np.isfinite(finding.threshold) else finding.threshold
        detail = f"{count // 2} groups" if finding.key == "near_duplicate" else finding.detail
        findings.append(
            Finding(
                finding.key,
                finding.title,
                finding.bit,
                count,
                0 if finding.key == "hard" else count,
                finding.score,
                cut,
                finding.rule,
                finding.method,
                finding.reads,
                finding.source,
                detail,
                Planted(64, round(0.94 * count), count) if planted and finding.key != "hard" else None,
            )
        )
    evidence = []
    for row in np.flatnonzero(flags):
        kinds_here = tuple(f.key for f in findings if flags[row] >> f.bit & 1)
        given = classes[labels[row]] if labels is not None and len(classes) else None
        suggested = classes[guess[row]] if "label_error" in kinds_here and guess[row] != labels[row] else None
        sentence = {
            "label_error": f"model gives {classes[guess[row]] if classes else ''} a probability of "
            f"{1 - given_p[row]:.2f}, the given label {given_p[row]:.2f}",
            "near_duplicate": f"copy of {near[row, 0]:04d}, distance {distance[row, 0]:.2f}" if n > 1 else "",
            "outlier": f"10-neighbour distance {scores['outlier'][row]:.1f}",
            "hard": f"EL2N {scores.get('el2n', flags)[row]:.2f}, among the hardest 3%; the label looks right, so it is kept",
            "memorised": "known by heart: 0.99 in the folds that saw it, 0.08 in those that did not",
        }[kinds_here[0]]
        evidence.append(
            Evidence(
                int(row),
                f"{row:04d}",
                kinds_here,
                given,
                suggested,
                sentence,
                tuple(int(r) for r in near[row]) if n > 3 else (),
                float(given_p[row]),
                float(sum(s[row] for s in scores.values())),
            )
        )
    evidence.sort(key=lambda item: -item.suspicion)
    removed = sum(f.removed for f in findings)
    base: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "n": n,
        "version": 7,
        "ledger": Path(f"{name}.ledger"),
        "created": "2026-11-22T20:48:34+00:00",
        "seconds": 41.3,
        "cores": 2,
        "command": f"datumwise audit {name} --seed 0",
        "verdict": f"{len(evidence):,} of {n:,} datapoints deserve a look. "
        f"Removing {removed:,} lifts held-out accuracy by 4.0 points.",
        "support": "95% interval +2.5 to +5.8, on 500 held-out datapoints never used for scoring, against "
        "random subsets of the same size, with the nearest-neighbour learner you named. One of two learners "
        "shows the gain: logistic regression averages label noise away.",
        "proof": make_proof(n=n, removed=removed),
        "findings": tuple(findings),
        "evidence": tuple(evidence),
        "passes": (
            Pass("ingest", f"{n:,} rows", 0.4),
            Pass("probe", "probabilities (5 folds), embedding (32)", 6.1),
            Pass("score", "label error, EL2N, duplicates, outliers", 1.2),
            Pass("prove", "12 models trained anew", 9.8),
        ),
        "map": MapData(
            np.array([f"{i:04d}" for i in range(n)]),
            xy.astype(np.float32),
            flags,
            labels if labels is not None else np.full(n, -1),
            classes,
            scores,
        ),
        "limits": (
            "Probabilities come from 5 folds of one learner: what it cannot learn looks like a label error.",
            "The proof speaks of these two learners and this held-out set, not of every model.",
        ),
        "versions": {"datumwise": "0.1.0", "python": "3.11.9", "numpy": "2.4.6", "scikit-learn": "1.9.1"},
    }
    return Audit(**(base | more))


def _plane(x: np.ndarray) -> np.ndarray:
    """The first two principal components."""
    x = x - x.mean(0)
    if len(x) < 2 or x.shape[1] < 2:
        return np.zeros((len(x), 2))
    _, _, axes = np.linalg.svd(x[:3000], full_matrices=False)
    xy = np.zeros((len(x), 2))
    xy[:, : min(2, len(axes))] = x @ axes[:2].T
    return xy


@cache
def digits_audit(map_by: str = "pca") -> Audit:
    """1,321 digits, 5 % of the labels moved on by one to nine, 12 pictures of noise."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = np.random.default_rng(0)
    x, y = data.data[:1321].copy(), data.target[:1321].copy()
    flip = rng.choice(len(y), 64, replace=False)
    y[flip] = (y[flip] + rng.integers(1, 10, 64)) % 10
    x[rng.choice(len(y), 12, replace=False)] = rng.integers(0, 17, (12, 64))
    xy = None
    if map_by == "tsne":
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            xy = TSNE(init="pca", random_state=0, max_iter=500).fit_transform(x)
    shades = np.clip(255 - x * 255 / 16, 0, 255).astype(np.uint8).reshape(-1, 8, 8)
    return make_audit(
        x,
        y,
        tuple("0123456789"),
        name="digits-demo",
        kind="images",
        planted=True,
        xy=xy,
        picture=lambda row: Image.fromarray(shades[row]),
    )


WORDS = {
    "positive": "a warm funny film with splendid acting that never loses its way and leaves you smiling",
    "negative": "a dull slow muddle whose plot goes nowhere while the actors look as bored as we felt",
    "mixed": "handsome pictures and one fine scene cannot quite hide that nobody wrote an ending",
}


@cache
def text_audit(n: int = 900) -> Audit:
    rng = np.random.default_rng(1)
    classes = tuple(WORDS)
    labels = rng.integers(0, 3, n)
    wrong = rng.random(n) < 0.06
    texts, counts = [], np.zeros((n, 60))
    vocabulary = sorted({word for line in WORDS.values() for word in line.split()})
    place = {word: i for i, word in enumerate(vocabulary)}
    for i in range(n):
        topic = (labels[i] + 1) % 3 if wrong[i] else labels[i]
        chosen = rng.choice(WORDS[classes[topic]].split(), rng.integers(12, 70))
        if i % 40 == 39:
            chosen = texts[-1].split()
            chosen[len(chosen) // 2] = "unexpectedly"
        texts.append(" ".join(map(str, chosen)))
        for word in chosen:
            if word in place:
                counts[i, place[word]] += 1
    counts /= counts.sum(1, keepdims=True)
    return make_audit(10 * counts, labels, classes, name="reviews", kind="text", text=lambda row: texts[row])


@cache
def table_audit() -> Audit:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    z = (data.data - data.data.mean(0)) / data.data.std(0)

    def cells(row: int) -> list[tuple[str, str, float]]:
        order = np.argsort(-abs(z[row]))
        return [(str(data.feature_names[j]), f"{data.data[row, j]:.4g}", float(abs(z[row, j]))) for j in order]

    return make_audit(z, data.target, ("malignant", "benign"), name="breast-cancer", kind="table", cells=cells)


def big_audit(n: int = 60_000, seed: int = 3) -> Audit:
    """Many points, cheaply drawn: for the budget, the sample and the lasso."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 12, n)
    centres = rng.normal(0, 6, (12, 2))
    xy = centres[labels] + rng.normal(size=(n, 2))
    return make_audit(
        np.c_[xy, rng.normal(size=(n, 2))],
        labels,
        tuple(f"class {i}" for i in range(12)),
        name="many",
        kind="table",
        xy=xy,
        share=(0.02, 0.01, 0.002, 0.01, 0.0),
    )


ATTACKS = (
    "<img src=x onerror=window.hacked=1>",
    "</script><script>window.hacked=1</script>",
    "\u202eevil\u202c {{ 7*7 }} <!-- ]]> \x00 \ud800 &amp; ' \"",
    "<svg onload=window.hacked=1>",
    "=cmd|'/C calc'!A0, \n\"quoted\"",
    "javascript:window.hacked=1",
)


def hostile_audit(kind: str = "text") -> Audit:
    """Attacks in every place where text of the data or of the user can stand, and a megabyte in one."""
    rng = np.random.default_rng(5)
    n = 60
    bad = [ATTACKS[i % len(ATTACKS)] for i in range(n)]
    classes = tuple(ATTACKS[:3])
    audit = make_audit(
        rng.normal(size=(n, 4)),
        rng.integers(0, 3, n),
        classes,
        name=ATTACKS[1],
        kind=kind,
        share=(0.3, 0.2, 0.1, 0.1, 0.1),
    )
    ids = np.array([f"{attack}{i}" for i, attack in enumerate(bad)], dtype=object)
    scores = {f"{ATTACKS[0]}{i}": values for i, values in enumerate(audit.map.scores.values())}
    evidence = tuple(replace(item, id=ids[item.row], sentence=bad[item.row], suggested=ATTACKS[0]) for item in audit.evidence)
    findings = tuple(
        replace(
            f,
            title=ATTACKS[i % 6],
            rule=ATTACKS[1],
            method=ATTACKS[2],
            reads=ATTACKS[3],
            source=ATTACKS[5],
            detail=ATTACKS[0],
        )
        for i, f in enumerate(audit.findings)
    )
    cards = tuple(replace(card, learner=ATTACKS[1], verdict=ATTACKS[0]) for card in audit.proof.cards)
    return replace(
        audit,
        verdict=" ".join(ATTACKS),
        support=ATTACKS[1],
        command=ATTACKS[0],
        created=ATTACKS[3],
        evidence=evidence,
        findings=findings,
        proof=replace(audit.proof, cards=cards),
        promise=make_promise(learner=ATTACKS[1]),
        forget=make_forget(learner=ATTACKS[1]),
        requests=(make_request(ATTACKS[0]),),
        promised=(Promised(ATTACKS[0], ATTACKS[1], 3, 7, ATTACKS, ATTACKS[2]),),
        map=replace(audit.map, ids=ids, scores=scores),
        passes=(Pass(ATTACKS[0], ATTACKS[1], 1.0),),
        limits=ATTACKS,
        versions={ATTACKS[0]: ATTACKS[1]},
        refused={ATTACKS[0]: ATTACKS[1], ATTACKS[2]: ATTACKS[3]},
        text=(lambda row: bad[row] + "x" * (1_000_000 if row == audit.evidence[0].row else 0)) if kind == "text" else None,
        cells=(lambda row: [(bad[row], bad[row] + "y" * 1_000_000, float("nan"))] * 9) if kind == "table" else None,
    )


def chosen_audit() -> Audit:
    """The plain audit with a selection: datapoints 70, 61, 52 ... in this order."""
    plain = variants()["plain"]
    rank = np.full(80, np.nan)
    rank[np.arange(70, 0, -9)] = np.arange(1, 9)
    some, none = (int(np.isfinite(rank[plain.map.labels == k]).sum()) for k in (1, 0))
    classes = (("no", none, int((plain.map.labels == 0).sum())), ("yes", some, int((plain.map.labels == 1).sum())))
    core = Chosen("core", "facility_location", "metric=cosine", "Nemhauser et al., 1978", 8, 80, (3.0, 5.0, 5.5), classes)
    name, values = next(iter(plain.map.scores.items()))
    low, middle, high = np.quantile(values, (0, 0.5, 1)).tolist()
    spread = ScoreColumn(name, name, "worse", "", 80, low, middle, high, tuple(np.histogram(values, 24)[0].tolist()))
    doses = Promised("doses", "ridge", 40, 120, ("at least 36 of these 40 intervals hold the truth",), "37 of 40 were covered")
    drawn = replace(plain.map, scores={**plain.map.scores, "core": rank})
    return replace(
        plain,
        name="chosen",
        map=drawn,
        chosen=(core,),
        scores=(spread,),
        promise=make_promise(),
        promised=(doses,),
        forget=make_forget(),
        requests=(make_request(),),
    )


def variants() -> dict[str, Audit]:
    """Small audits at the edges of what an audit can be."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(80, 5))
    two = rng.integers(0, 2, 80)
    words = tuple(f"kind {i}" for i in range(200))
    no_proof = Proof("accuracy", 0, 0, (), "80 datapoints are too few to hold any out")
    plain = make_audit(x, two, ("no", "yes"), name="plain", kind="table", share=(0.1, 0.1, 0.05, 0.1, 0.05))
    none = make_audit(x, two, ("no", "yes"), name="none", kind="table", share=(0, 0, 0, 0, 0))
    regression = make_audit(x, None, (), name="houses", kind="table", share=(0, 0.1, 0.1, 0, 0))
    targets = tuple(
        replace(item, given=f"{item.row * 1.5:.1f}", suggested="12.0", p_given=float("nan")) for item in regression.evidence
    )
    nan = {name: np.where(np.arange(80) % 2, np.nan, values) for name, values in plain.map.scores.items()}
    nan["nothing"] = np.full(80, np.nan)
    nan["constant"] = np.full(80, 3.0)
    nan["infinite"] = np.where(np.arange(80) % 3, np.inf, -np.inf)
    return {
        "plain": plain,
        "no proof": replace(plain, proof=no_proof),
        "no findings": replace(none, verdict="No datapoint deserves a look."),
        "no kinds": replace(none, findings=(), map=replace(none.map, scores={})),
        "regression": replace(
            regression,
            evidence=targets,
            proof=make_proof("R²", 80, 9),
            promise=make_promise("regression"),
            forget=make_forget("R²", "ridge regression"),
        ),
        "no labels": replace(regression, proof=no_proof),
        "one class": make_audit(x, np.zeros(80, int), ("only",), name="one", kind="table", share=(0, 0.1, 0.1, 0.1, 0)),
        "one row": replace(
            make_audit(x[:1], two[:1], ("no", "yes"), name="one row", kind="table", share=(0, 0, 0, 0, 0)),
            proof=no_proof,
        ),
        "200 classes": make_audit(
            rng.normal(size=(600, 5)),
            rng.integers(0, 200, 600),
            words,
            name="many",
            kind="table",
            share=(0.1, 0.1, 0.05, 0.1, 0.05),
        ),
        "NaN scores": replace(
            plain,
            map=replace(
                plain.map,
                scores=nan,
                xy=np.where(np.arange(160).reshape(80, 2) % 7 == 0, np.nan, plain.map.xy),
            ),
            evidence=tuple(replace(item, suspicion=float("nan"), p_given=float("nan")) for item in plain.evidence),
        ),
    }
