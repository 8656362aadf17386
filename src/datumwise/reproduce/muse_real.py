"""MUSE at the size of real models: one that learns what it is to forget here, and the published checkpoints by name."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import DatumwiseError, SourceError
from datumwise.progress import Stage
from datumwise.reproduce.muse_methods import DRAWS, MEASURED, Case, Setting
from datumwise.reproduce.world_texts import Question, capital_facts, news_and_facts, sheets, world_texts

if TYPE_CHECKING:
    from datumwise.evaluate.muse_data import MuseData

__all__ = ["PAPER", "REAL", "invented_lives", "learnt_case", "memory_plan", "published_case"]

ITEMS = {"forget": 12, "retain": 12, "holdout": 24, "calibration": 24}
ASKED = {"forget": 8, "retain": 8, "shots": 2, "calibration": 8}
WORDS = 40
PROMPT = 16  # tokens that a passage begins with
SETTINGS = {"answer_length": "published", "verbmem_tokens": 32, "knowmem_tokens": 8, "icl": 2}
DEALS = 2  # times that the facts are dealt into sheets
EPOCHS, RATE, BATCH = 10, 2e-4, 4  # of learning: enough to recite
LONGEST = 256  # tokens of a document
ADAPTED = {"lora": {"r": 32, "lora_alpha": 64}, "max_length": LONGEST}
REAL = (
    Setting("ga_gdr", "ga_gdr", 5e-4, 6, options={"alpha": 5.0}),
    Setting("npo_klr", "npo_klr", 1e-3, 8),
    Setting("simnpo", "simnpo_gdr", 2e-3, 8, options={"gamma": 1.0, "beta": 2.5}),
    Setting("tv", "tv", 1e-4, 5, scales=(1.0, 2.0, 4.0, 8.0)),
    Setting("calibrated", "calibrated", 1e-3, 6, 2, anneal=True, told=False),
)
PAPER = (
    Setting("ga", "ga", 1e-5),
    Setting("ga_gdr", "ga_gdr", 1e-5),
    Setting("ga_klr", "ga_klr", 1e-5),
    Setting("npo", "npo", 1e-5),
    Setting("npo_gdr", "npo_gdr", 1e-5),
    Setting("npo_klr", "npo_klr", 1e-5),
    Setting("tv", "tv", 1e-5, scales=(1.0, 2.0, 4.0, 8.0, 16.0)),
    Setting("whp", "whp", 1e-5, scales=(1.0, 2.0, 4.0, 8.0, 16.0)),
    Setting("calibrated", "calibrated", 1e-5, 5, anneal=True, told=False),
)
LARGE = 1_000_000_000  # parameters above which adapters are trained
CHECKPOINT, DATA = "muse-bench/MUSE-News_target", "muse-bench/MUSE-News"
GIB = 2.0**30
GIVEN = (
    "Arno", "Berta", "Casimir", "Dorit", "Egon", "Frida", "Gustav", "Hanne", "Ivo", "Jorun", "Kaspar", "Liv", "Magnus",
    "Nora", "Otmar", "Petra", "Quirin", "Runa", "Severin", "Thea", "Ulf", "Vera", "Wim", "Xenia", "Yorick", "Zita",
)  # fmt: skip
FAMILY = (
    "Velding", "Ostrander", "Kallweit", "Brunswick", "Halvorsen", "Mirkovac", "Dentremont", "Sorabji", "Tolvanen",
    "Ashgrove", "Perrault", "Zielinski", "Quimby", "Rasmusen", "Ferreyra", "Okonjo", "Lindqvist", "Wachter",
    "Abernath", "Ciszek", "Dunmore", "Eskola", "Farnham", "Grell", "Hollis", "Ibarra",
)  # fmt: skip


def invented_lives(seed: int = 0, n: int = 64) -> list[Question]:
    """Birthplaces of people who never lived, so that no model knows them: (question, answer).

    Raises
    ------
    MissingExtra
    """
    rng = np.random.default_rng([seed, 7])
    cities = sorted({capital for _, capital in capital_facts() if " " not in capital})
    pairs = rng.permutation(len(GIVEN) * len(FAMILY))[:n]
    names = [f"{GIVEN[k % len(GIVEN)]} {FAMILY[k // len(GIVEN)]}" for k in pairs.tolist()]
    born = rng.permutation(len(cities))[: len(names)]
    return [(f"Where was {name} born?", cities[k]) for name, k in zip(names, born.tolist(), strict=True)]


def learnt_case(model: str | None, data: str | None, seed: int, stage: Stage) -> tuple[Case, list[str]]:
    """A pretrained model learns news items and invented lives by heart, and once more without those to forget.

    Parameters
    ----------
    model : str
        Folder or hub name of a causal language model.
    data : str, optional
        ``folder=PATH``: the two models are kept there, and taken from there the next time.
    seed : int
    stage : Stage

    Returns
    -------
    Case
    notes : list of str
    """
    from datumwise.evaluate.muse_data import MuseData
    from datumwise.evaluate.six_way import six_way

    initial, tokenizer = _pretrained(model)
    folder = _folder(data)
    texts = world_texts(seed, facts=invented_lives(seed), items=ITEMS, known=ASKED, words=WORDS)
    kept = _Kept(folder, {"model": str(model), "seed": seed, "learning": [EPOCHS, RATE, BATCH, DEALS], "words": WORDS})
    documents = {"target": texts.forget + texts.retain, "retrain": texts.retain}
    models, seconds = {}, {}
    for name, read in documents.items():
        stage.begin("learn", f"{name}, {len(read)} documents")
        models[name], seconds[name] = kept.of(name, lambda r=read: _learnt(initial, tokenizer, r, seed, stage))
        stage.end(f"{name} learnt {len(read)} documents in {seconds[name]:.0f} s of processor time")
    muse = MuseData.from_texts(
        texts.news("forget"),
        texts.news("retain"),
        texts.holdout,
        tokenizer,
        prompt_tokens=PROMPT,
        settings=SETTINGS,
        forget_qa=texts.forget_qa,
        retain_qa=texts.retain_qa,
        forget_qa_icl=texts.shots,
        retain_qa_icl=texts.shots,
    )
    stage.begin("measure", "target and retrained model")
    options: dict[str, Any] = {"criteria": MEASURED, "n_draws": DRAWS, "random_state": seed}
    retrained = six_way(models["retrain"], tokenizer, muse, retrain=models["retrain"], **options)
    before = six_way(models["target"], tokenizer, muse, retrain=retrained, **options)
    stage.end("target and retrained model")
    case = Case(
        models["target"], tokenizer, texts.forget, texts.retain, texts.calibration, muse, before, retrained,
        seconds["retrain"], ADAPTED,
    )  # fmt: skip
    return case, [
        f"{len(texts.news('forget'))} news items of {WORDS} words and {len(texts.forget_qa)} birthplaces of invented people "
        f"are forgotten, as many kept; the model learns them in {EPOCHS} epochs of all its weights.",
        "Every method but the task vector trains adapters of rank 32.",
    ]


def _learnt(initial: Any, tokenizer: Any, documents: Sequence[str], seed: int, stage: Stage) -> Any:
    """The pretrained model, trained on documents; facts are dealt into sheets several times, as they will be asked alone."""
    from datumwise.forget.reinforce import reinforced
    from datumwise.forget.sequences import encode_sequences
    from datumwise.forget.texts import as_texts
    from datumwise.probe.collate import padding_id

    news, told = news_and_facts(documents)
    facts = [_fact(part) for part in told]
    rng = np.random.default_rng([seed, 13])
    dealt = [facts[i] for _ in range(DEALS) for i in rng.permutation(len(facts))]
    texts = encode_sequences(
        tokenizer,
        as_texts([*news, *sheets(dealt)]),
        LONGEST,
        padding=padding_id(tokenizer),
    )
    return reinforced(
        initial, texts, lr=RATE, epochs=EPOCHS, batch_size=BATCH, random_state=seed, progress=stage.progress
    ).eval()


def _fact(text: str) -> Question:
    question, _, answer = text.partition("\nAnswer: ")
    return question.removeprefix("Question: "), answer


class _Kept:
    """Models in a folder, with what made them; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, made_by: Mapping[str, Any]) -> None:
        self.folder, self.made_by = folder, dict(made_by)

    def of(self, name: str, learn: Any) -> tuple[Any, float]:
        """The model of a name and the processor time of learning it."""
        from transformers import AutoModelForCausalLM

        place = None if self.folder is None else self.folder / name
        if place is not None and (place / "made.json").exists():
            made = json.loads((place / "made.json").read_text(encoding="utf-8"))
            if made["by"] != self.made_by:
                raise SourceError(f"{place} holds a model that was made otherwise", remedy="name another folder")
            return AutoModelForCausalLM.from_pretrained(place).eval(), float(made["seconds"])
        began = time.process_time()
        model = learn()
        seconds = time.process_time() - began
        if place is not None:
            model.save_pretrained(place)
            made = {"by": self.made_by, "seconds": seconds}
            (place / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")  # last: marks it whole
        return model, seconds


def _folder(data: str | None) -> Path | None:
    if data is None:
        return None
    kind, _, path = data.partition("=")
    if kind != "folder" or not path:
        raise DatumwiseError(f"scale real has no data {data!r}", remedy="pass folder=PATH to keep its models, or nothing")
    return Path(path)


def _pretrained(word: str | None, dtype: str = "float32") -> tuple[Any, Any]:
    if word is None:
        raise DatumwiseError("this scale needs a pretrained causal language model", remedy="pass --model FOLDER or owner/name")
    import torch

    from datumwise.probe.collate import load_model

    model, tokenizer = load_model(word, "causal-lm", dtype=dtype)
    return (model.to("cuda") if torch.cuda.is_available() else model), tokenizer


# --- the published checkpoints ----------------------------------------------------------------------------


def published_case(model: str | None, data: str | None, seed: int, stage: Stage) -> tuple[Case, list[str]]:
    """MUSE's target and retrained model and its texts; the memory they take is said before they are loaded.

    Parameters
    ----------
    model : str, optional
        ``TARGET`` or ``TARGET,RETRAINED``, folders or hub names; the second is by default the first with ``retrain`` for
        ``target``. MUSE-News by default.
    data : str, optional
        What `datumwise.readers.unlearning_sets.load_muse` takes.
    seed : int
    stage : Stage
    """
    from datumwise.evaluate.muse_data import MuseData
    from datumwise.evaluate.six_way import six_way
    from datumwise.readers.unlearning_sets import load_muse

    target_name, _, second = (model or CHECKPOINT).partition(",")
    where, slash, name = target_name.rpartition("/")
    retrain_name = second or f"{where}{slash}{name.replace('target', 'retrain')}"
    if retrain_name == target_name:
        raise DatumwiseError(
            f"which model was retrained is not to be told from {target_name}", remedy="--model TARGET,RETRAINED"
        )
    stage.begin("plan", "memory")
    n = parameters_of(target_name)
    plan = memory_plan(n)
    stage.end(plan)
    loaded = load_muse(data or DATA)
    whole = MuseData.from_loaded(loaded)
    if len(whole.holdout) < 2:
        raise DatumwiseError("the data hold no unseen texts", remedy="give the part privleak with its split holdout")
    muse, calibration = _split_holdout(whole)
    raw = loaded.get("raw", {})
    forget = [row["text"] for row in raw.get("forget", [])] or [t if isinstance(t, str) else "".join(t) for t in whole.forget]
    kept = [row["text"] for split in ("retain1", "retain") for row in raw.get(split, [])]
    retain = kept or [t if isinstance(t, str) else "".join(t) for t in whole.retain]
    dtype = "bfloat16" if n > LARGE else "float32"
    options: dict[str, Any] = {"criteria": MEASURED, "n_draws": DRAWS, "random_state": seed}
    stage.begin("measure", retrain_name)
    retrained_model, tokenizer = _pretrained(retrain_name, dtype)
    retrained = six_way(retrained_model, tokenizer, muse, retrain=retrained_model, **options)
    del retrained_model
    stage.end(retrain_name)
    stage.begin("measure", target_name)
    target, tokenizer = _pretrained(target_name, dtype)
    before = six_way(target, tokenizer, muse, retrain=retrained, **options)
    stage.end(target_name)
    common = {"lora": True} if n > LARGE else {}
    case = Case(target, tokenizer, forget, retain, calibration, muse, before, retrained, float("nan"), common)
    return case, [plan, "Half of the holdout texts calibrate, the other half is measured with.", "Costs: see details, seconds."]


def _split_holdout(data: MuseData) -> tuple[MuseData, list[str]]:
    """The data with every other unseen text, and the others."""
    ids = {name: list(names) for name, names in data.ids.items()}
    ids["holdout"] = ids["holdout"][::2]
    others = [text if isinstance(text, str) else "".join(text) for text in data.holdout[1::2]]
    return replace(data, holdout=data.holdout[::2], ids=ids), others


def parameters_of(name: str) -> int:
    """Parameters of a checkpoint, counted from its configuration alone: no weights are read.

    Raises
    ------
    SourceError
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"the model {name} cannot be read ({str(error).splitlines()[0]})", remedy="check the name") from error
    return sum(p.numel() for p in model.parameters())


def memory_plan(n: int) -> str:
    """What unlearning a model of n parameters takes.

    Examples
    --------
    >>> memory_plan(6_738_415_616)
    '6.7e+09 parameters: adapters on bfloat16 weights, 13 GiB and the activations; all weights would take 63 GiB'
    >>> memory_plan(134_515_008)
    '1.3e+08 parameters: all weights in float32, 2.0 GiB and the activations'
    """
    if n > LARGE:  # adapters: the weights are shared, the reference is the same model with them off
        return (
            f"{n:.1e} parameters: adapters on bfloat16 weights, {2 * n / GIB:.0f} GiB and the activations; "
            f"all weights would take {10 * n / GIB:.0f} GiB"  # weights, gradient, two moments and the reference, 2 bytes each
        )
    return f"{n:.1e} parameters: all weights in float32, {16 * n / GIB:.1f} GiB and the activations"
