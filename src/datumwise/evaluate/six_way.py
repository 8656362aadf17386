"""Has a language model forgotten what it was to forget, and nothing else? MUSE's criteria of one model, in one call.

Shi et al., 2024, *MUSE: Machine Unlearning Six-Way Evaluation for Language Models*, section 3: verbatim memorisation, knowledge
memorisation, privacy leakage, utility. Scalability and sustainability are these for several requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, SchemaMismatch, UnknownName, name_some
from datumwise.evaluate.muse_data import MuseData, Pair, Text, checked_settings
from datumwise.evaluate.paired import DRAWS, auc_interval, mean_interval
from datumwise.evaluate.privleak import auc, min_k_score, privleak
from datumwise.evaluate.privleak_interval import even_reference, privleak_interval
from datumwise.evaluate.removal import Interval
from datumwise.evaluate.rouge import rouge_l_scores, rouge_words
from datumwise.evaluate.six_way_report import MEASURES, Comparison, Items, Reference, SixWayReport
from datumwise.evaluate.text_logprobs import text_logprobs
from datumwise.evaluate.written_answers import Written, answered, recited
from datumwise.probe.collate import context_length
from datumwise.probe.fingerprint import model_fingerprint

__all__ = ["CRITERIA", "Comparison", "Items", "Reference", "SixWayReport", "six_way"]

CRITERIA = ("verbmem", "knowmem", "privleak", "utility")
MORE = ("retain_verbmem",)
NEEDS = {
    "verbmem": "passages to recite (verbmem)",
    "knowmem": "questions on what is to be forgotten (forget_qa)",
    "privleak": "texts that no model has seen (holdout)",
    "utility": "questions on what is to be kept (retain_qa)",
    "retain_verbmem": "passages of kept texts (retain_verbmem)",
}


def six_way(
    model: Any,
    tokenizer: Any,
    data: MuseData,
    *,
    criteria: Sequence[str] = CRITERIA,
    retrain: Any = None,
    min_k: float | None = None,
    icl: int | None = None,
    verbmem_tokens: int | None = None,
    knowmem_tokens: int | None = None,
    prompt_style: str | None = None,
    stemmer: bool | None = None,
    answer_length: str | None = None,
    word_tokenizer: Callable[[str], Sequence[Any]] | None = None,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    n_draws: int = DRAWS,
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SixWayReport:
    """Measure a model by MUSE's criteria.

    Texts are read once, in batches, for privacy leakage and losses; solved questions in front of every question are read once
    for all; answers are written greedily, many at a time. Scores do not depend on the batch.

    Parameters
    ----------
    model : causal language model
        As it is: its weights, mode and settings stay.
    tokenizer : its tokenizer
    data : MuseData
        A criterion whose data are missing is not measured, and the report says so.
    criteria : sequence of str
        Of verbmem, knowmem, privleak, utility and retain_verbmem (passages of kept texts recited). ``utility`` also gives the
        loss on kept and on unseen texts, ``privleak`` that on texts to forget; without questions on what is to be kept, those
        losses are what is known of the utility.
    retrain : causal language model, SixWayReport, float or None
        Of a model that was trained without the texts to forget: itself (it reads forget and holdout texts), its report on the
        same data, or its AUC in the orientation of `datumwise.evaluate.privleak`. None: 0.5 with its uncertainty, noted.
    min_k, icl, verbmem_tokens, knowmem_tokens, prompt_style, stemmer, answer_length : optional
        See `datumwise.evaluate.muse_data.PUBLISHED`; by default what the data say, else as published.
    word_tokenizer : callable (str) -> sequence, optional
        Words for ROUGE-L; by default runs of Latin letters and digits.
    max_length : int, optional
        Most tokens that are read at a time, by default what the model can read. Longer texts are read in pieces (noted) and
        told of as one; prompts lose their beginning (noted), and where this is not given are refused instead.
    tokens_per_batch : int, optional
        As in `datumwise.probe.language_model.language_model_signals`.
    n_draws, random_state : int
        Of the bootstrap.
    progress : callable (texts and prompts done, all), optional

    Returns
    -------
    SixWayReport

    Raises
    ------
    UnknownName
        A criterion or a setting is not known.
    ModelMismatch
        ``max_length`` is more than the model can read, or a prompt does not fit.
    NotFinite
        The reference's AUC is 0, or the model's likelihoods are not finite.
    SchemaMismatch
        The reference's report is of other data or of another Min-K.
    EmptyData
        Nothing could be measured.
    """
    began = time.process_time()
    given = {
        "min_k": min_k,
        "icl": icl,
        "verbmem_tokens": verbmem_tokens,
        "knowmem_tokens": knowmem_tokens,
        "prompt_style": prompt_style,
        "stemmer": stemmer,
        "answer_length": answer_length,
    }
    settings = checked_settings(data.settings | {name: value for name, value in given.items() if value is not None})
    asked = _asked(criteria)
    limit = context_length(model, tokenizer)
    if max_length is not None and limit is not None and max_length > limit:
        raise ModelMismatch(f"max_length is {max_length:,} and the model reads {limit:,} tokens", remedy="lower max_length")
    run = _Run(tokenizer, settings, word_tokenizer, max_length, tokens_per_batch, n_draws, random_state)
    parts = _parts(data, asked)
    run.tell(progress, data, asked, parts, retrain)
    reference = _reference(run, data, retrain, asked)
    if parts:
        _read_texts(run, model, data, parts, asked)
    if "privleak" in asked:
        _privacy(run, reference)
    for name, passages in (("verbmem", data.verbmem), ("retain_verbmem", data.retain_verbmem)):
        if name in asked:
            run.missing[name] = NEEDS[name]
            if passages:
                _recite(run, model, name, passages, data.ids[name])
    for name, part, shots in (("knowmem", "forget_qa", data.forget_qa_icl), ("utility", "retain_qa", data.retain_qa_icl)):
        if name in asked:
            run.missing[name] = NEEDS[name]
            if questions := getattr(data, part):
                _ask(run, model, name, questions, shots, data.ids[part])
    if not run.per_item:
        raise EmptyData("nothing could be measured", remedy=f"the data hold no {'; no '.join(NEEDS[name] for name in asked)}")
    for part, ids in data.left_out.items():
        if part in asked:
            run.notes.append(f"{len(ids):,} texts are too short to be cut into prompt and continuation ({name_some(ids)})")
    return SixWayReport(
        {name: run.values[name] for name in MEASURES if name in run.values},
        {name: run.intervals[name] for name in MEASURES if name in run.intervals},
        run.per_item,
        run.auc,
        reference[0] if run.auc is not None and reference is not None else None,
        settings,
        {name: f"no {why}" if why in NEEDS.values() else why for name, why in run.missing.items() if name not in run.values},
        run.notes,
        model_fingerprint(model),
        time.process_time() - began,
    )


# --- one run --------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """How a model is measured, and what has been found so far."""

    tokenizer: Any
    settings: dict[str, Any]
    word_tokenizer: Callable[[str], Sequence[Any]] | None
    max_length: int | None
    tokens_per_batch: int | None
    n_draws: int
    random_state: int
    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    per_item: dict[str, Items] = field(default_factory=dict)
    auc: float | None = None
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    progress: Callable[[int, int], None] | None = None
    done: int = 0
    total: int = 0

    def tell(
        self,
        progress: Callable[[int, int], None] | None,
        data: MuseData,
        asked: Sequence[str],
        parts: Sequence[str],
        retrain: Any,
    ) -> None:
        texts = sum(len(getattr(data, part)) for part in parts)
        if hasattr(retrain, "parameters") and "privleak" in asked:
            texts += len(data.forget) + len(data.holdout)
        items = {"verbmem": data.verbmem, "retain_verbmem": data.retain_verbmem}
        items |= {"knowmem": data.forget_qa, "utility": data.retain_qa}
        self.progress, self.total = progress, texts + sum(len(items.get(name, ())) for name in asked)

    def part(self, n: int) -> Callable[[int, int], None] | None:
        """Progress of the next n items."""
        before, self.done = self.done, self.done + n
        told = self.progress
        return None if told is None else lambda done, _: told(before + min(done, n), self.total)

    def how(self, ids: Sequence[Any], n: int) -> dict[str, Any]:
        """How the next n items are read."""
        return {
            "max_length": self.max_length,
            "tokens_per_batch": self.tokens_per_batch,
            "ids": ids,
            "progress": self.part(n),
        }

    def put(self, name: str, items: Items) -> None:
        measure = MEASURES[name]
        ends = mean_interval(items.score, bounds=measure.bounds, n_draws=self.n_draws, random_state=self.random_state)
        self.per_item[name], self.values[name] = items, ends.value * measure.scale
        self.intervals[name] = Interval(*(measure.scale * end for end in (ends.value, ends.low, ends.high)))


def _asked(criteria: Sequence[str]) -> list[str]:
    names = [criteria] if isinstance(criteria, str) else list(criteria)
    for name in names:
        if name not in (*CRITERIA, *MORE):
            raise UnknownName(f"there is no criterion {name!r}", remedy=f"criteria are {', '.join((*CRITERIA, *MORE))}")
    if not names:
        raise EmptyData("no criterion is asked for", remedy=f"criteria are {', '.join((*CRITERIA, *MORE))}")
    return names


def _parts(data: MuseData, asked: Sequence[str]) -> list[str]:
    """Which texts are read."""
    readers = {"forget": {"privleak"}, "retain": {"utility"}, "holdout": {"privleak", "utility"}}
    return [part for part, criteria in readers.items() if criteria & set(asked) and getattr(data, part)]


def _reference(
    run: _Run, data: MuseData, retrain: Any, asked: Sequence[str]
) -> tuple[Reference, tuple[np.ndarray, np.ndarray] | None] | None:
    """A(g) and, where known item by item, the retrained model's scores of forget and holdout texts. Refused before the work."""
    if "privleak" not in asked or not data.holdout:
        return None
    if retrain is None:
        found = even_reference(len(data.forget), len(data.holdout))
        run.notes.append(
            "no retrained model was given: the AUC of a model that never saw the texts is taken to be 0.5, "
            f"{found.interval.low:.2f} to {found.interval.high:.2f} with so few texts; it is another where forget and holdout "
            "texts are not of one kind"
        )
        return found, None
    if isinstance(retrain, (int, float, np.floating)):
        value = float(retrain)
        _usable(value)
        return Reference("given", value, Interval(value, value, value)), None
    if isinstance(retrain, SixWayReport):
        other = retrain.settings.get("min_k")
        if other != run.settings["min_k"]:
            raise SchemaMismatch(
                f"the reference's report has min_k {other} and this one {run.settings['min_k']}", remedy="measure both alike"
            )
        kind, pair = "report", _of_report(retrain, data)
    else:
        found_scores = {name: scores for name, (_, scores, _) in _scored(run, retrain, data, ["forget", "holdout"]).items()}
        kind, pair = "retrained model", (found_scores["forget"], found_scores["holdout"])
    forget, holdout = (scores[~np.isnan(scores)] for scores in pair)
    value = auc(forget, holdout)
    _usable(value)
    ends = auc_interval(forget, holdout, n_draws=run.n_draws, random_state=run.random_state)
    return Reference(kind, value, ends), pair


def _usable(value: float) -> None:
    privleak(0.5, value)


def _of_report(report: SixWayReport, data: MuseData) -> tuple[np.ndarray, np.ndarray]:
    """The reference's scores of this run's texts, NaN where it left one out."""
    found = []
    for name, part in (("privleak", "forget"), ("privleak_holdout", "holdout")):
        known = report.per_item.get(name)
        where = {} if known is None else dict(zip(known.id, known.score, strict=True))
        scores = np.array([where.get(i, np.nan) for i in data.ids[part]], dtype=np.float64)
        if np.isnan(scores).all():
            raise SchemaMismatch(
                f"the reference's report holds no score of these {part} texts", remedy="measure both models on the same data"
            )
        found.append(scores)
    return found[0], found[1]


def _scored(
    run: _Run, model: Any, data: MuseData, parts: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each part: mean loss (n,), Min-K% score (n,), read in pieces (n,); NaN for texts without a predicted token."""
    texts: list[Text] = [text for part in parts for text in getattr(data, part)]
    logprobs, in_pieces = text_logprobs(
        model,
        run.tokenizer,
        texts,
        **run.how([f"{part} {i}" for part in parts for i in data.ids[part]], len(texts)),
    )
    loss = np.array([-one.mean(dtype=np.float64) if len(one) else np.nan for one in logprobs]) + 0.0
    scores, split = min_k_score(logprobs, run.settings["min_k"]), {}
    at = 0
    for part in parts:
        here = slice(at, at + len(getattr(data, part)))
        split[part] = (loss[here], scores[here], in_pieces[here])
        at = here.stop
    return split


def _read_texts(run: _Run, model: Any, data: MuseData, parts: Sequence[str], asked: Sequence[str]) -> None:
    """Losses and Min-K% scores."""
    for part, (loss, scores, in_pieces) in _scored(run, model, data, parts).items():
        ids = data.ids[part]
        short = [i for i, value in zip(ids, loss, strict=True) if np.isnan(value)]
        if short:
            run.notes.append(f"{len(short):,} {part} texts have fewer than 2 tokens and are left out ({name_some(short)})")
        if in_pieces.any():
            long = [i for i, one in zip(ids, in_pieces, strict=True) if one]
            run.notes.append(
                f"{len(long):,} {part} texts are longer than the model reads, and read in pieces ({name_some(long)})"
            )
        kept = np.flatnonzero(~np.isnan(loss))
        if not len(kept):
            continue
        names = [ids[i] for i in kept]
        if part == "forget" or "utility" in asked:
            run.put(f"nll_{part}", Items(names, loss[kept]))
        if part != "retain" and "privleak" in asked:
            run.per_item["privleak" if part == "forget" else "privleak_holdout"] = Items(names, scores[kept])


def _privacy(run: _Run, reference: tuple[Reference, tuple[np.ndarray, np.ndarray] | None] | None) -> None:
    """PrivLeak of the scores that are there."""
    run.missing["privleak"] = NEEDS["privleak"]
    mine, held = run.per_item.get("privleak"), run.per_item.get("privleak_holdout")
    if reference is None or mine is None or held is None:
        return
    known, scores = reference
    run.auc = auc(mine.score, held.score)
    run.values["privleak"], run.intervals["privleak"] = privleak_interval(
        mine.score, held.score, known, scores, n_draws=run.n_draws, random_state=run.random_state
    )


def _recite(run: _Run, model: Any, name: str, passages: Sequence[Pair], ids: Sequence[Any]) -> None:
    to_truth = run.settings["answer_length"] == "truth"
    written = recited(
        model, run.tokenizer, passages, run.settings["verbmem_tokens"], to_truth=to_truth, **run.how(ids, len(passages))
    )
    _judge(run, name, written, ids)


def _ask(run: _Run, model: Any, name: str, questions: Sequence[Pair], shots: Sequence[Pair], ids: Sequence[Any]) -> None:
    wanted, settings = run.settings["icl"], run.settings
    if len(shots) < wanted:
        run.notes.append(f"{MEASURES[name].name}: {len(shots)} solved questions are there of {wanted}")
    written = answered(
        model,
        run.tokenizer,
        questions,
        shots[:wanted],
        n_tokens=settings["knowmem_tokens"],
        style=settings["prompt_style"],
        **run.how(ids, len(questions)),
    )
    _judge(run, name, written, ids)


def _judge(run: _Run, name: str, written: Written, ids: Sequence[Any]) -> None:
    split, said = run.word_tokenizer or rouge_words, MEASURES[name].name
    bare = [i for i, truth in zip(ids, written.truths, strict=True) if not len(split(truth))]
    if bare:
        run.notes.append(
            f"{said}: {len(bare):,} true texts hold no word and score 0 ({name_some(bare)}); "
            "word_tokenizer= splits other scripts"
        )
    if written.cut.any():
        long = [i for i, one in zip(ids, written.cut, strict=True) if one]
        run.notes.append(f"{said}: {len(long):,} prompts lost their beginning ({name_some(long)})")
    stemmer = run.settings["stemmer"]
    scores = rouge_l_scores(written.texts, written.truths, stemmer=stemmer, tokenizer=run.word_tokenizer)
    run.put(name, Items(list(ids), scores, written.texts))
