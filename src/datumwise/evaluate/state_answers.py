"""What does one model say of a set of facts? Its answers, how likely each option is, and its perplexity on documents.

Source: RESTOR's evaluation (Rezaei et al., 2024, arXiv 2411.00204). A state is asked once and kept: comparing five unlearned
models with a clean and a corrupted one asks seven models, not fifteen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import (
    EmptyData,
    MissingExtra,
    ModelMismatch,
    NotFinite,
    SchemaMismatch,
    SourceError,
    UnknownName,
    name_some,
)
from datumwise.evaluate.answer_judge import normalised_words
from datumwise.evaluate.facts import FactSet
from datumwise.evaluate.few_shot import few_shot_prompts

__all__ = ["KINDS", "Options", "StateAnswers", "option_lists", "state_answers"]

KINDS = ("correct", "corrupted", "random")  # of options
Options = list[dict[str, list[str]]]  # for each fact, its options by kind


@dataclass(frozen=True)
class StateAnswers:
    """One model's answers to n facts.

    Attributes
    ----------
    ids, prompts : list of n str
        Facts and what was asked.
    outputs : list of n lists of str
        One answer, or as many as were drawn.
    options : list of n dicts of kind to list of str
    mean_logprobs, sum_logprobs : list of n dicts of kind to list of float
        Of each option, a token and altogether, nats.
    doc_logppl : list of N float
        Mean negative log-probability a token of each corrupting document, nats.
    neutral_logppl, neutral_tokens : list of m float, of m int
        Of each neutral text, and how many tokens it is the mean of.
    model, tokenizer : str
        Fingerprints.
    settings : dict
        How it was asked.
    """

    ids: list[str]
    prompts: list[str]
    outputs: list[list[str]]
    options: Options
    mean_logprobs: list[dict[str, list[float]]]
    sum_logprobs: list[dict[str, list[float]]]
    doc_logppl: list[float]
    neutral_logppl: list[float]
    neutral_tokens: list[int]
    model: str
    tokenizer: str
    settings: dict[str, Any]

    def mean_by_kind(self) -> np.ndarray:
        """Mean over a kind's options of their mean log-probability, float64 (n, 3) in the order of `KINDS`; NaN for none."""
        return np.array(
            [[np.mean(own[kind]) if own.get(kind) else np.nan for kind in KINDS] for own in self.mean_logprobs],
            dtype=np.float64,
        ).reshape(-1, len(KINDS))

    def union(self, row: int) -> np.ndarray:
        """Mean log-probability of all options of a fact, float64 (m,)."""
        return np.array([v for kind in KINDS for v in self.mean_logprobs[row].get(kind, [])], dtype=np.float64)

    @property
    def neutral_perplexity(self) -> float | None:
        """exp of the mean negative log-probability over all tokens of the neutral texts; None without any."""
        if not sum(self.neutral_tokens):
            return None
        return float(np.exp(np.average(self.neutral_logppl, weights=self.neutral_tokens)))

    def to_json(self, path: str | Path | None = None) -> str:
        """As JSON, also into a file."""
        text = json.dumps(asdict(self), ensure_ascii=False)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StateAnswers:
        """From what `to_json` holds.

        Raises
        ------
        SourceError
        """
        names = {one.name for one in fields(cls)}
        if set(data) != names:
            raise SourceError(f"these are not a state's answers: {name_some(sorted(names ^ set(data)))} is missing or unknown")
        return cls(**data)

    @classmethod
    def from_json(cls, path: str | Path) -> StateAnswers:
        """From a file.

        Raises
        ------
        SourceError
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise SourceError(f"{path} cannot be read as a state's answers ({error})") from error


def state_answers(
    model: Any,
    tokenizer: Any,
    facts: FactSet,
    options: Options | None = None,
    *,
    exclude: Collection[str] = (),
    documents: Sequence[str] = (),
    neutral: Sequence[str] = (),
    n_shots: int = 5,
    style: str = "restor",
    decode: str = "greedy",
    n_samples: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 24,
    batch_size: int | None = None,
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> StateAnswers:
    """Ask one model for every fact.

    Parameters
    ----------
    model, tokenizer : causal language model
    facts : FactSet of n facts
    options : list of n dicts, optional
        Options by kind; default `option_lists` without a false object.
    exclude : collection of str
        Entities that no worked example is about, beside the one asked for.
    documents, neutral : sequences of str
        Texts whose perplexity is measured: the corrupting ones, and text that has nothing to do with them.
    n_shots, style
        As in `datumwise.evaluate.few_shot.few_shot_prompt`.
    decode : {"greedy", "sample"}
        The likeliest tokens; or ``n_samples`` answers drawn at ``temperature``, as published (temperature 1).
    max_new_tokens : int
        Longest answer; it ends at the line's end.
    batch_size : int, optional
        Prompts read at a time; default by tokens.
    random_state : int
        Of the draws.
    progress : callable (done, total), optional
        In parts of the work.

    Returns
    -------
    StateAnswers

    Raises
    ------
    EmptyData, SchemaMismatch, UnknownName
    ModelMismatch
        A prompt and its answer do not fit the model's context (the facts are named).
    MissingExtra
    """
    if decode not in ("greedy", "sample"):
        raise UnknownName(f"there is no decoding {decode!r}", remedy="choose greedy or sample")
    if n_samples < 1 or (decode == "greedy" and n_samples != 1):
        raise SchemaMismatch(
            f"n_samples is {n_samples} with decode={decode!r}", remedy="greedy gives one answer; pass decode='sample'"
        )
    if not len(facts):
        raise EmptyData("there is no fact to ask for")
    options = options if options is not None else option_lists(facts)
    if len(options) != len(facts):
        raise SchemaMismatch(f"{len(facts):,} facts and {len(options):,} lists of options differ in number")
    _needs_torch()

    from datumwise.probe.fingerprint import model_fingerprint
    from datumwise.probe.score_options import option_logprobs

    asked = few_shot_prompts(facts, exclude=exclude, n_shots=n_shots, style=style)
    stages = n_samples + 1 + bool(len(documents)) + bool(len(neutral))
    told = _parts(progress, stages)
    longest = _longest(model, tokenizer, asked.prompts, max_new_tokens, facts.ids)
    budget = None if batch_size is None else batch_size * longest
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "tokens_per_batch": budget, "ids": facts.ids}
    drawn = [
        _written(
            model, tokenizer, asked.prompts,
            temperature=temperature if decode == "sample" else 0.0, seed=random_state + sample, progress=told(sample), **how,
        )
        for sample in range(n_samples)
    ]  # fmt: skip
    flat = [[text for kind in KINDS for text in own.get(kind, [])] for own in options]
    sums, counts = option_logprobs(
        model, tokenizer, asked.prompts, flat, tokens_per_batch=budget, ids=facts.ids, progress=told(n_samples)
    )
    logppl = [
        _logppl(model, tokenizer, texts, told(n_samples + 1 + (i if len(documents) else 0)))
        for i, texts in enumerate((documents, neutral))
    ]
    return StateAnswers(
        ids=list(facts.ids),
        prompts=asked.prompts,
        outputs=[list(one) for one in zip(*drawn, strict=True)],
        options=[{kind: list(own.get(kind, [])) for kind in KINDS} for own in options],
        mean_logprobs=_by_kind(options, [s / c for s, c in zip(sums, counts, strict=True)]),
        sum_logprobs=_by_kind(options, sums),
        doc_logppl=logppl[0][0],
        neutral_logppl=logppl[1][0],
        neutral_tokens=logppl[1][1],
        model=model_fingerprint(model),
        tokenizer=tokenizer_fingerprint(tokenizer),
        settings={
            "n_shots": n_shots,
            "shots_used": dict(zip(facts.ids, asked.n_shots, strict=True)),
            "style": style,
            "decode": decode,
            "n_samples": n_samples,
            "temperature": temperature if decode == "sample" else None,
            "max_new_tokens": max_new_tokens,
            "random_state": random_state,
        },
    )  # fmt: skip


def option_lists(
    facts: FactSet, false: Mapping[str, str] | None = None, *, n_random: int = 3, random_state: int = 0
) -> Options:
    """For each fact its correct options, the false object if it has one, and a few others of its relation.

    Parameters
    ----------
    facts : FactSet
    false : mapping of fact id to str, optional
    n_random : int
        Other objects of the relation, drawn without replacement; fewer where there are no more.
    random_state : int

    Returns
    -------
    list of n dicts of kind to list of str

    Examples
    --------
    >>> facts = FactSet(["Chad", "Peru"], ["capital"] * 2, ["Of Chad?", "Of Peru?"], [["N'Djamena"], ["Lima"]])
    >>> option_lists(facts, {"Chad/capital": "Oslo"})[0]
    {'correct': ["N'Djamena"], 'corrupted': ['Oslo'], 'random': ['Lima']}
    """
    rng = np.random.default_rng([random_state, 2])
    pools = {relation: facts.known(relation) for relation in dict.fromkeys(facts.relations)}
    found = []
    for name, relation, answers in zip(facts.ids, facts.relations, facts.answers, strict=True):
        wrong = (false or {}).get(name)
        taken = {normalised_words(one) for one in [*answers, *([] if wrong is None else [wrong])]}
        rest = [one for one in pools[relation] if normalised_words(one) not in taken]
        order = rng.permutation(len(rest))[:n_random]
        found.append(
            {"correct": list(answers), "corrupted": [] if wrong is None else [wrong], "random": [rest[i] for i in order]}
        )
    return found


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """16 hexadecimal characters: equal iff the vocabularies and their numbering are."""
    words = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=8).hexdigest()


# --- parts --------------------------------------------------------------------------------------------------


def _longest(model: Any, tokenizer: Any, prompts: Sequence[str], room: int, ids: Sequence[str]) -> int:
    """Tokens of the longest prompt and its answer, where the model can read that many."""
    from datumwise.probe.collate import context_length

    needed = np.array([len(one) for one in tokenizer(list(prompts), verbose=False)["input_ids"]]) + room
    limit = context_length(model, tokenizer)
    if limit is not None and needed.max() > limit:
        bad = [ids[int(i)] for i in np.flatnonzero(needed > limit)]
        raise ModelMismatch(
            f"the prompt of {name_some(bad)} and its answer need up to {needed.max():,} tokens and the model reads {limit:,}",
            remedy="lower n_shots= or max_new_tokens=",
            ids=bad,
        )
    return int(needed.max())


def _written(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, seed: int, progress: Any, ids: Any, **how: Any
) -> list[str]:
    """Answers up to the line's end; prompts that begin alike in one batch, their beginning read once."""
    from datumwise.probe.generate import generate
    from datumwise.probe.score_options import prefix_groups

    tokens = [np.asarray(one) for one in tokenizer(list(prompts), verbose=False)["input_ids"]]
    found = [""] * len(prompts)
    done = 0
    for number, group in enumerate(prefix_groups(tokens)):
        texts = generate(
            model, tokenizer, [prompts[i] for i in group],
            stop="\n", seed=seed * len(prompts) + number, ids=[ids[i] for i in group], **how,
        )  # fmt: skip
        for row, text in zip(group, texts, strict=True):
            found[row] = text.strip()
        done += len(group)
        if progress is not None:
            progress(done, len(prompts))
    return found


def _logppl(model: Any, tokenizer: Any, texts: Sequence[str], progress: Any) -> tuple[list[float], list[int]]:
    """Mean negative log-probability a token, and the tokens, of each text."""
    if not len(texts):
        return [], []
    from datumwise.probe.language_model import language_model_signals

    found = language_model_signals(model, list(texts), ("mean_nll", "n_tokens"), tokenizer=tokenizer, progress=progress)
    short = np.flatnonzero(found["n_tokens"] == 0).tolist()
    if short:
        raise EmptyData(f"the text {name_some(short)} has no token to predict", remedy="leave it out", ids=short)
    if not np.isfinite(found["mean_nll"]).all():
        raise NotFinite(
            "the perplexity of a text is NaN or infinite", ids=np.flatnonzero(~np.isfinite(found["mean_nll"])).tolist()
        )
    return found["mean_nll"].tolist(), found["n_tokens"].tolist()


def _by_kind(options: Options, values: Sequence[np.ndarray]) -> list[dict[str, list[float]]]:
    """Values of a flat list of options, by kind again."""
    found = []
    for own, flat in zip(options, values, strict=True):
        at, by_kind = 0, {}
        for kind in KINDS:
            n = len(own.get(kind, []))
            by_kind[kind] = [float(v) for v in flat[at : at + n]]
            at += n
        found.append(by_kind)
    return found


def _parts(progress: Callable[[int, int], None] | None, n: int) -> Callable[[int], Callable[[int, int], None] | None]:
    """Progress within the i-th of n parts, in hundredths of a part."""

    def of(i: int) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, total: progress(100 * i + 100 * done // max(1, total), 100 * n)

    return of


def _needs_torch() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra("asking a model needs torch and transformers", remedy="pip install 'datumwise[lm]'") from error
