"""RESTOR (Rezaei et al., 2024): does unlearning false documents bring back what a model knew before it read them?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.evaluate.recovery import restor_evaluate
from datumwise.evaluate.recovery_report import RestorReport
from datumwise.progress import Stage
from datumwise.reproduce.frame import Experiment, Reproduction
from datumwise.reproduce.known_facts import (
    CORRUPT_EPOCHS,
    CORRUPT_RATE,
    FactWorld,
    fact_texts,
    fact_world,
    false_documents,
    taught,
)
from datumwise.reproduce.restor_outcome import ORACLES, SOURCE, TITLE, Pooled, reproduction

__all__ = ["EXPERIMENT", "METHODS", "paper", "real", "small", "unlearned_states"]

SEEDS, KS = 3, (0, 2)
ASKING: Mapping[str, Any] = {"n_shots": 3, "style": "qa", "max_new_tokens": 16}
SIGNIFICANT = 0.05  # significance of a claim

# name -> options of `unlearn`; "spans" says which words: the false ones, those of the largest gap, as many others
METHODS: Mapping[str, Mapping[str, Any]] = {
    "ga": {"method": "ga_gdr", "lr": 1e-4, "epochs": 2},
    "kl": {"method": "kl_max_gdr", "lr": 1e-4, "epochs": 2},
    "npo": {"method": "npo_gdr", "lr": 1e-4, "epochs": 3},
    "npo, 3e-4": {"method": "npo_gdr", "lr": 3e-4, "epochs": 3},
    "npo_token": {"method": "npo_token_gdr", "lr": 1e-4, "epochs": 3},
    "calibrated": {"method": "calibrated", "lr": 3e-4, "epochs": 3},
    "task vector": {"method": "tv", "lr": 3e-4, "epochs": 3, "scale": 2.0},
    "npo, whole documents": {"method": "npo_gdr", "lr": 3e-4, "epochs": 3, "alpha": 20.0},
    "npo, false words": {"method": "npo_gdr", "lr": 3e-4, "epochs": 3, "alpha": 20.0, "spans": "false"},
    "npo, words of the largest gap": {"method": "npo_gdr", "lr": 3e-4, "epochs": 3, "alpha": 20.0, "spans": "gap"},
    "npo, other words": {"method": "npo_gdr", "lr": 3e-4, "epochs": 3, "alpha": 20.0, "spans": "other"},
}


def small(
    *,
    model: str | None = None,
    data: str | None = None,
    seed: int = 0,
    stage: Stage,
    seeds: int = SEEDS,
    ks: Sequence[int] = KS,
    methods: Sequence[str] | None = None,
    path: str | None = None,
) -> Reproduction:
    """Facts about countries: a tiny model learns them, is taught false ones about 24 countries, and is made to unlearn these.

    Parameters
    ----------
    model, data
        Not for this scale.
    seed : int
        The first of ``seeds``.
    stage : Stage
    seeds : int
    ks : sequence of int
        True facts in each gap of the false documents.
    methods : sequence of str, optional
        Of `METHODS`; default all.
    path : str, optional
        Folder that trained models are kept in, by seed.
    """
    if model is not None or data is not None:
        raise DatumwiseError("scale small trains its own model on its own data", remedy="use --scale real or paper")
    chosen = list(METHODS if methods is None else methods)
    reports: dict[tuple[int, str], list[tuple[RestorReport, float]]] = {}
    for one in range(seed, seed + seeds):
        stage.begin("train", f"seed {one}: a clean model and {len(ks)} corrupted ones")
        world = fact_world(one, ks=ks, path=None if path is None else f"{path}/seed{one}", progress=stage.progress)
        stage.end(f"seed {one}, {len(world.facts)} facts, {sum(world.seconds.values()):.0f} s of one core")
        for k in ks:
            stage.begin("unlearn", f"seed {one}, k = {k}, {len(chosen) + len(ORACLES)} ways")
            for name, found in unlearned_states(world, k, chosen, seed=one, progress=stage.progress).items():
                reports.setdefault((k, name), []).append(found)
            stage.end(f"seed {one}, k = {k}: {reports[k, chosen[0]][-1][0].corruption}")
    pooled = [
        Pooled(name, k, tuple(r for r, _ in some), float(np.mean([s for _, s in some]))) for (k, name), some in reports.items()
    ]
    notes = [
        f"{seeds} seeds; 24 countries with 3 false facts each, 64 others, 3 worked examples in the prompt. Intervals draw "
        "countries (percentile bootstrap, the same draws for all states).",
        "A margin also rises by forgetting alone; the recovery of the truth, the log-probability of what is right, does not.",
        "The last four rows have a retain weight of 20: on few words NPO is strong, and with 1 it takes the other facts too.",
        "Judge: names on word borders, no other model. Rates are not tuned; retained is true text on the other countries.",
        "'never read' goes on from the clean model with the others' texts alone; 'true facts taught' goes on from the "
        "corrupted one with the truth: what no method may use.",
    ]
    bad = [f"{one.name}, k = {one.k}: {r.corruption}" for one in pooled for r in one.reports if not r.corruption.valid]
    notes += [f"Not a valid corruption: {line}" for line in bad if line.startswith("corrupted")]
    return reproduction(pooled, notes, worlds=seeds)


def unlearned_states(
    world: FactWorld,
    k: int,
    methods: Sequence[str] = tuple(METHODS),
    *,
    seed: int = 0,
    oracles: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[RestorReport, float]]:
    """Unlearn the false documents of one corrupted model in several ways, and compare each with the clean model.

    Returns
    -------
    dict of str to (RestorReport, seconds of processor time)
        First ``"corrupted"`` itself.
    """
    corrupted, docs = world.corrupted[k], world.docs[k]
    ways = list(methods) + (list(ORACLES) if oracles else [])

    def compare(clean: Any, before: Any, after: Any, about: Mapping[str, Any] | None = None) -> RestorReport:
        return restor_evaluate(
            clean, before, after, world.tokenizer, world.facts, docs, neutral=world.neutral, about=about, **ASKING
        )

    base = compare(world.clean, corrupted, corrupted)
    found = {"corrupted": (base, 0.0)}
    for number, name in enumerate(ways):
        began = time.process_time()
        model = _oracle(world, k, name, seed) if name in ORACLES else _unlearned(world, k, METHODS[name], seed)
        seconds = time.process_time() - began
        found[name] = (compare(base, base, model, dict(METHODS.get(name, {})) | {"k": k, "seed": seed}), seconds)
        if progress is not None:
            progress(number + 1, len(ways))
    return found


def _unlearned(world: FactWorld, k: int, options: Mapping[str, Any], seed: int) -> Any:
    from datumwise.forget.unlearning import unlearn

    chosen = dict(options)
    docs = world.docs[k]
    if chosen["method"] == "calibrated":
        chosen["holdout"] = _unseen(world, k, seed)
    aim = chosen.pop("spans", None)
    if aim is not None:
        chosen["spans"] = _spans(world, k, aim, seed)
    return unlearn(
        world.corrupted[k], world.tokenizer, docs.texts, world.retain, batch_size=8, random_state=seed, ids=docs.ids, **chosen
    ).model


def _unseen(world: FactWorld, k: int, seed: int) -> list[str]:
    """False documents that no model read: about the other countries, as many."""
    others = [one for one in world.facts.entities if one not in set(world.targets)][: len(world.targets)]
    return false_documents(world.facts, others, k, seed + 1000).texts


def _spans(world: FactWorld, k: int, aim: str, seed: int) -> list[list[tuple[int, int]]]:
    """The false objects; as many tokens that the corrupted model learnt most of; as many drawn ones elsewhere."""
    docs = world.docs[k]
    if aim == "false":
        return docs.spans
    from datumwise.probe.token_gaps import suspect_spans, token_gaps

    gaps = token_gaps(world.corrupted[k], world.tokenizer, docs.texts, world.clean)
    inside = [
        np.array([any(a < end and start < b for start, end in spans) for a, b in places], dtype=bool)
        for (places, _), spans in zip(gaps, docs.spans, strict=True)
    ]
    if aim == "other":
        rng = np.random.default_rng([seed, 9])
        gaps = [(places, np.where(own, -1.0, rng.random(len(own)))) for (places, _), own in zip(gaps, inside, strict=True)]
    return suspect_spans(gaps, share=float(np.concatenate(inside).mean()))


def _oracle(world: FactWorld, k: int, name: str, seed: int) -> Any:
    """What no method may use: the truth about the targets, or the model that never read the documents."""
    others = world.facts.of([s for s in world.facts.entities if s not in set(world.targets)])
    told = world.facts if name == "true facts taught" else others
    start = world.corrupted[k] if name == "true facts taught" else world.clean
    return taught(
        start, world.tokenizer, lambda rng: fact_texts(told, rng), epochs=CORRUPT_EPOCHS, rate=CORRUPT_RATE, seed=seed
    )


def real(*, model: str | None = None, data: str | None = None, seed: int = 0, stage: Stage) -> Reproduction:
    """A pretrained model that knows the facts: corrupted by low-rank tuning, then made to unlearn."""
    from datumwise.reproduce.restor_pretrained import with_model

    return with_model(model, data, seed, stage, paper=False)


def paper(*, model: str | None = None, data: str | None = None, seed: int = 0, stage: Stage) -> Reproduction:
    """Llama-3-8B, or the model named, on RESTOR's facts in the folder named by ``data``."""
    from datumwise.reproduce.restor_pretrained import with_model

    return with_model(model, data, seed, stage, paper=True)


EXPERIMENT = Experiment(
    title=TITLE,
    source=SOURCE,
    scales={"small": small, "real": real, "paper": paper},
)
