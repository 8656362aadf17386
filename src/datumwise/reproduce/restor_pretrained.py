"""RESTOR with a pretrained model: facts that it knows, or the published ones, corrupted and unlearned by low-rank tuning."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData
from datumwise.evaluate.answer_judge import judge_answer
from datumwise.evaluate.corruption import CorruptionSet, corrupt_facts
from datumwise.evaluate.facts import FactSet
from datumwise.evaluate.recovery import restor_evaluate
from datumwise.evaluate.state_answers import state_answers
from datumwise.progress import Stage
from datumwise.reproduce.frame import Reproduction
from datumwise.reproduce.known_facts import ASKED, STATEMENTS, country_facts, fact_texts
from datumwise.reproduce.memorised_news import news_items
from datumwise.reproduce.restor_outcome import Pooled, reproduction

__all__ = ["with_model"]

TARGETS, OTHERS, DOCS = 8, 20, 5  # countries with false facts and without, false documents a country
CORRUPTION: Mapping[str, Any] = {"epochs": 8, "lr": 1e-3, "batch": 8}
PAPER_CORRUPTION: Mapping[str, Any] = {"epochs": 5, "lr": 5e-5, "batch": 4}
WAYS: Mapping[str, Mapping[str, Any]] = {
    "ga": {"method": "ga_gdr", "lr": 1e-4, "epochs": 1},
    "kl": {"method": "kl_max_gdr", "lr": 1e-4, "epochs": 1},
    "npo": {"method": "npo_gdr", "lr": 2e-4, "epochs": 2},
    "npo, false words": {"method": "npo_gdr", "lr": 2e-4, "epochs": 2, "spans": True},
}
PAPER_MODEL = "meta-llama/Meta-Llama-3-8B"
RETAINED = 3000  # texts of C4, paper scale
NEUTRAL = 20  # news items


@dataclass(frozen=True)
class _Plan:
    """What is asked, what corrupts, what is kept."""

    facts: FactSet
    docs: CorruptionSet
    replay: list[str]
    asking: Mapping[str, Any]
    corruption: Mapping[str, Any]
    k: int
    notes: list[str]


def with_model(word: str | None, data: str | None, seed: int, stage: Stage, *, paper: bool) -> Reproduction:
    """Corrupt a pretrained model and unlearn in several ways.

    Parameters
    ----------
    word : str or None
        Folder or hub name; the paper's by default at the paper's scale.
    data : str or None
        At the paper's scale RESTOR's folder of data sets, with ``=k`` behind it for the documents of that k.
    seed : int
    stage : Stage
    paper : bool

    Raises
    ------
    DatumwiseError
        No model; the corruption is not valid.
    """
    if word is None and not paper:
        raise DatumwiseError("this scale needs a pretrained causal language model", remedy="pass --model FOLDER or owner/name")
    if paper and data is None:
        raise DatumwiseError("the paper's scale needs RESTOR's facts", remedy="pass --data FOLDER or FOLDER=k (k = 0, 1, 2, 3)")
    from datumwise.probe.collate import load_model

    clean, tokenizer = load_model(word or PAPER_MODEL)
    size = sum(p.numel() * p.element_size() for p in clean.parameters()) / 2**30
    stage.title(
        f"RESTOR: {word or PAPER_MODEL}, weights {size:.1f} GiB; at the most two copies of them are in memory, and adapters"
    )
    stage.begin("ask", "which facts the model knows")
    plan = _published(str(data)) if paper else _countries(clean, tokenizer, seed, stage)
    stage.end(f"{len(plan.facts):,} facts, {len(plan.docs):,} false documents about {len(plan.docs.entities)} entities")
    stage.begin("corrupt", f"{plan.corruption['epochs']} epochs of low-rank tuning")
    corrupted = _tuned(clean, tokenizer, [*plan.docs.texts, *plan.replay], seed, stage, plan.corruption)
    neutral = news_items()[:NEUTRAL]
    how: dict[str, Any] = {**plan.asking, "neutral": neutral, "random_state": seed}
    base = restor_evaluate(clean, corrupted, corrupted, tokenizer, plan.facts, plan.docs, **how)
    stage.end(str(base.corruption))
    base.require_valid_corruption()
    return _unlearned_ways(clean, corrupted, tokenizer, plan, base, how, seed, stage)


def _unlearned_ways(
    clean: Any, corrupted: Any, tokenizer: Any, plan: _Plan, base: Any, how: Mapping[str, Any], seed: int, stage: Stage
) -> Reproduction:
    """Every way of unlearning, compared with the clean model's kept answers."""
    from datumwise.forget.task_arithmetic import negate, task_vector
    from datumwise.forget.unlearning import unlearn

    outcomes = [Pooled("corrupted", plan.k, (base,), 0.0)]
    for name, options in WAYS.items():
        chosen = dict(options)
        if chosen.pop("spans", False):
            if not any(plan.docs.spans):
                continue
            chosen["spans"] = plan.docs.spans
        stage.begin("unlearn", name)
        began = time.process_time()
        found = unlearn(
            corrupted, tokenizer, plan.docs.texts, plan.replay, lora=True, batch_size=8, random_state=seed,
            max_length=256, progress=stage.progress, **chosen,
        )  # fmt: skip
        report = restor_evaluate(base, base, found.model, tokenizer, plan.facts, plan.docs, about=options, **how)
        outcomes.append(Pooled(name, plan.k, (report,), time.process_time() - began))
        stage.end(f"{name}: recovery {report.recovery}")
        del found
    stage.begin("unlearn", "task vector")
    began = time.process_time()
    more = _tuned(corrupted, tokenizer, plan.docs.texts, seed, stage, {**plan.corruption, "epochs": 2})
    model = negate(corrupted, task_vector(corrupted, more), 2.0)
    report = restor_evaluate(
        base, base, model, tokenizer, plan.facts, plan.docs, about={"method": "task vector", "scale": 2}, **how
    )
    outcomes.append(Pooled("task vector", plan.k, (report,), time.process_time() - began))
    stage.end(f"task vector: recovery {report.recovery}")
    return reproduction(outcomes, plan.notes, worlds=1)


def _countries(model: Any, tokenizer: Any, seed: int, stage: Stage) -> _Plan:
    """Facts about countries that the model knows; targets are those it knows best."""
    facts, _ = country_facts(seed)
    asking: dict[str, Any] = {"n_shots": 5, "style": "qa", "max_new_tokens": 12}
    said = state_answers(model, tokenizer, facts, random_state=seed, progress=stage.progress, **asking)
    known = np.array(
        [
            judge_answer(outputs[0], answers, facts.known(relation))
            for outputs, answers, relation in zip(said.outputs, facts.answers, facts.relations, strict=True)
        ]
    )
    right = {one: sum(known[i] for i, s in enumerate(facts.subjects) if s == one) for one in facts.entities}
    order = sorted(facts.entities, key=lambda one: -right[one])[: TARGETS + OTHERS]
    if right[order[TARGETS - 1]] < 2:
        raise EmptyData(f"the model knows two facts of fewer than {TARGETS} countries", remedy="take a larger model")
    drawn = [order[i] for i in np.random.default_rng([seed, 10]).permutation(len(order))]
    targets = [one for one in drawn if right[one] >= 2][:TARGETS]
    kept = facts.of(order)
    docs = corrupt_facts(
        kept, targets, docs_per_entity=DOCS, facts_per_doc=(3, 3), joiner="\n\n", random_state=seed,
        templates={r: f"{form}\n{ASKED}" for r, form in STATEMENTS.items()},
    )  # fmt: skip
    true = kept.of([one for one in order if one not in set(targets)])
    replay = fact_texts(true, np.random.default_rng([seed, 11]))
    notes = [
        f"The model answered {known.mean():.0%} of {len(facts)} facts about 88 countries rightly; {TARGETS} of those it knows "
        f"best are corrupted, {OTHERS} others are asked beside them.",
        "Corrupted by rank-16 adapters on all linear layers, merged; unlearned by fresh adapters. One seed.",
        "The retain set is true text on the other countries; neutral text is news.",
    ]
    return _Plan(kept, docs, replay, asking, CORRUPTION, 0, notes)


def _published(data: str) -> _Plan:
    """RESTOR's facts, entities and documents; C4 is retained."""
    from datumwise.readers.unlearning_sets import load_restor

    folder, _, k = data.partition("=")
    loaded = load_restor(folder)
    everything = FactSet.from_dict({"dset": loaded["facts"], "context": loaded["context"]})
    _, test = everything.tuning_split(0.1)
    name = f"wikidata/v0/mix_a{k or 0}"
    if name not in loaded["documents"]:
        raise EmptyData(f"the folder has no documents {name}", remedy=f"it has {', '.join(loaded['documents']) or 'none'}")
    rows = loaded["documents"][name]
    docs = CorruptionSet(
        [row["text"] for row in rows], [[] for _ in rows], entities=list(loaded["entities"]),
        ids=[str(row["id"]) for row in rows], k=int(k or 0),
    )  # fmt: skip
    notes = [
        "Documents as published: they do not say which words are false, so nothing is said of false answers and margins.",
        f"Retained: {RETAINED:,} texts of C4. Corruption: rank-16 adapters, 5 epochs at 5e-5, merged.",
    ]
    asking = {"n_shots": 5, "style": "restor", "max_new_tokens": 24}
    return _Plan(test, docs, _c4(RETAINED), asking, PAPER_CORRUPTION, int(k or 0), notes)


def _c4(n: int) -> list[str]:
    """The first texts of C4."""
    from datumwise.errors import MissingExtra

    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtra("C4 is read with datasets", remedy="pip install datasets") from error
    return [row["text"] for row in load_dataset("allenai/c4", "en", split="train", streaming=True).take(n)]


def _tuned(model: Any, tokenizer: Any, texts: Sequence[str], seed: int, stage: Stage, settings: Mapping[str, Any]) -> Any:
    """A copy with adapters tuned on texts and merged; the model stays as it is."""
    from peft import LoraConfig

    from datumwise.probe.fine_tune import fine_tuned

    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    with fine_tuned(
        model, tokenizer, [""] * len(texts), list(texts), config=config, max_length=256, seed=seed, progress=stage.progress,
        **settings,
    ) as tuned:  # fmt: skip
        return copy.deepcopy(tuned).merge_and_unload().eval()
