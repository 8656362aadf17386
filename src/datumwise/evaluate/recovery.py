"""Does unlearning bring lost knowledge back? Clean, corrupted and unlearned model compared fact by fact.

Source: RESTOR (Rezaei et al., 2024, arXiv 2411.00204). Classes of facts, recovery and its intervals are this project's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, MissingId, ModelMismatch, SchemaMismatch, UnknownName, name_some
from datumwise.evaluate.answer_judge import F1_FLOOR, WINDOW, Judge, find_answer, judge_by_name, normalised_words
from datumwise.evaluate.corruption import CorruptionSet
from datumwise.evaluate.facts import FactSet
from datumwise.evaluate.recovery_report import GROUPS, STATES, CorruptionCheck, RestorReport
from datumwise.evaluate.state_answers import Options, StateAnswers, option_lists, state_answers, tokenizer_fingerprint
from datumwise.evaluate.transitions import EntityDraws, Recovery, recovery_ratio, state_distance, transition_classes

__all__ = ["restor_evaluate"]

FLUENCY_LOST = 2.0  # perplexity of neutral text over the corrupted model's, above which fluency is lost
MOST_COLLATERAL = 0.25  # share of other facts that a valid corruption may cost


def restor_evaluate(
    clean: Any,
    corrupted: Any,
    unlearned: Any,
    tokenizer: Any,
    facts: FactSet,
    docs: CorruptionSet,
    *,
    neutral: Sequence[str] = (),
    n_shots: int = 5,
    n_random: int = 3,
    judge: str | Judge = "normalized",
    decode: str = "greedy",
    n_samples: int = 1,
    temperature: float = 1.0,
    style: str = "restor",
    max_new_tokens: int = 24,
    batch_size: int | None = None,
    n_bootstrap: int = 1000,
    repair: Sequence[str] | None = None,
    repair_options: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    require_valid: bool = False,
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> RestorReport:
    """Ask three models for the same facts: the one before bad data, the one after, and that with the bad data unlearned.

    Parameters
    ----------
    clean, corrupted, unlearned : causal language model, StateAnswers, or RestorReport
        Answers that were kept are not asked again; of a report, the state of the same name is taken. A model whose weights
        equal those of another state is not asked again either.
    tokenizer : fast tokenizer, or mapping of state to tokenizer
        Must be one and the same vocabulary.
    facts : FactSet
        Corrupted ones, and others to see what unlearning cost. No worked example is about a corrupted entity.
    docs : CorruptionSet
        What corrupted the model; its ``false_answers`` say which facts and how. Without any (`swap_entities`, or documents of
        others) every fact of its ``entities`` counts as corrupted, and nothing is said of false answers and margins.
    neutral : sequence of str
        Text that has nothing to do with the facts: without it nothing is said of fluency.
    n_shots, style
        As in `datumwise.evaluate.few_shot.few_shot_prompt`.
    n_random : int
        Other objects of the relation that are scored as options.
    judge : "normalized" or callable (question, output, answers) -> bool
        See `datumwise.evaluate.answer_judge.judge_answer`. Your own may accept the true and the false object at once.
    decode, n_samples, temperature, max_new_tokens, batch_size
        As in `datumwise.evaluate.state_answers.state_answers`. Of several samples, accuracy is the share of right ones, and a
        fact's class goes by the majority.
    n_bootstrap : int
        Draws of entities.
    repair : sequence of str, optional
        Texts that the unlearned model is tuned on before it is asked once more: the published pipeline repairs fluency so.
        The answers without repair are always there too.
    repair_options : mapping, optional
        Of `datumwise.probe.fine_tune.fine_tuned`; default 2 epochs at 2e-5 in batches of 16.
    about : mapping, optional
        Method and settings of the unlearning, kept in the report.
    require_valid : bool
        Refuse a corruption that did not take, or that cost other facts: see `RestorReport.corruption`.
    random_state : int
        Of random options, draws and samples.
    progress : callable (done, total), optional

    Returns
    -------
    RestorReport

    Raises
    ------
    EmptyData
        No fact of ``facts`` is corrupted, or a false answer's fact is missing.
    ModelMismatch
        States have different tokenizers or vocabularies; a prompt does not fit the context (its fact is named).
    SchemaMismatch
        Kept answers are to other questions; a relation without worked examples.
    DatumwiseError
        With ``require_valid``.
    """
    judge_name, own_judge = judge_by_name(judge)
    direct = {name: docs.false_answers[name] for name in facts.ids if name in docs.false_answers}
    targets = (
        set(direct) if docs.false_answers else {i for i, s in zip(facts.ids, facts.subjects, strict=True) if s in docs.entities}
    )
    if not targets:
        raise EmptyData(
            "none of the facts is corrupted", remedy="keep facts of docs.entities, or whose ids are in docs.false_answers"
        )
    lost = [name for name in docs.false_answers if name not in set(facts.ids)]
    options = option_lists(facts, direct, n_random=n_random, random_state=random_state)
    given = {"clean": clean, "corrupted": corrupted, "unlearned": unlearned}
    tokenizers = _tokenizers(tokenizer, given)
    corrupt = set(docs.entities) | {s for s, name in zip(facts.subjects, facts.ids, strict=True) if name in targets}
    how: dict[str, Any] = {
        "exclude": corrupt, "documents": docs.texts, "neutral": neutral, "n_shots": n_shots, "style": style, "decode": decode,
        "n_samples": n_samples, "temperature": temperature, "max_new_tokens": max_new_tokens,
        "batch_size": batch_size, "random_state": random_state,
    }  # fmt: skip
    ask = _Asking(facts, options, how)
    parts = len(STATES) + (repair is not None)
    states: dict[str, StateAnswers] = {}
    for number, name in enumerate(STATES):
        states[name] = ask(name, given[name], tokenizers.get(name), states, _part(progress, number, parts))
    _refuse_different(states)
    notes = [f"{len(lost):,} corrupted facts are not among the facts asked: {name_some(lost)}"] if lost else []
    kept: dict[str, Any] = {
        "judge": judge_name, "own_judge": own_judge, "n_bootstrap": n_bootstrap, "random_state": random_state, "notes": notes,
    }  # fmt: skip
    report = _compared(facts, direct, targets, corrupt, states, about=dict(about or {}), **kept)
    if require_valid:
        report.require_valid_corruption()
    if repair is None:
        return report
    mended = _repaired(unlearned, tokenizers.get("unlearned"), repair, repair_options, ask, states, _part(progress, 3, parts))
    told = {**dict(about or {}), "repair": {"texts": len(repair), **dict(repair_options or {})}}
    return replace(report, repaired=_compared(facts, direct, targets, corrupt, mended, about=told, **kept))


class _Asking:
    """Asks a state, or takes what it said before."""

    def __init__(self, facts: FactSet, options: Options, how: dict[str, Any]) -> None:
        self.facts, self.options, self.how = facts, options, how

    def __call__(
        self, name: str, state: Any, tokenizer: Any, others: Mapping[str, StateAnswers], progress: Any = None
    ) -> StateAnswers:
        if isinstance(state, RestorReport):
            state = state.states[name]
        if isinstance(state, StateAnswers):
            if state.ids != self.facts.ids or state.options != self.options:
                raise SchemaMismatch(
                    f"the kept answers of the {name} model are to other facts or options",
                    remedy="ask it again, or keep facts, documents, n_random and random_state as they were",
                )
            return state
        from datumwise.probe.fingerprint import model_fingerprint

        mark = model_fingerprint(state)
        for other in others.values():
            if other.model == mark and other.settings["random_state"] == self.how["random_state"]:
                return other
        return state_answers(state, tokenizer, self.facts, self.options, progress=progress, **self.how)


def _tokenizers(tokenizer: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer of each state that is to be asked; models with vocabularies of different sizes are refused."""
    if isinstance(tokenizer, Mapping) and not hasattr(tokenizer, "get_vocab"):
        unknown = sorted(set(tokenizer) - set(STATES))
        if unknown:
            raise UnknownName(f"there is no state {unknown[0]!r}", remedy=f"the states are {', '.join(STATES)}")
        each = dict(tokenizer)
    else:
        each = dict.fromkeys(STATES, tokenizer)
    models = {name: one for name, one in given.items() if not isinstance(one, StateAnswers | RestorReport)}
    bare = [name for name in models if each.get(name) is None]
    if bare:
        raise ModelMismatch(f"the {bare[0]} model has no tokenizer", remedy="pass tokenizer=")
    marks = {tokenizer_fingerprint(each[name]) for name in models}
    sizes = {name: getattr(getattr(one, "config", None), "vocab_size", None) for name, one in models.items()}
    known = {name: size for name, size in sizes.items() if size is not None}
    if len(marks) > 1 or len(set(known.values())) > 1:
        said = ", ".join(f"{name} {size:,} tokens" for name, size in known.items())
        raise ModelMismatch(
            f"the states have different tokenizers or vocabularies ({said})", remedy="compare models of one family"
        )
    return each


def _refuse_different(states: Mapping[str, StateAnswers]) -> None:
    """Kept and new answers must be to the same prompts, with the same tokenizer, and as many a fact."""
    first = states["clean"]
    for name, state in states.items():
        if state.tokenizer != first.tokenizer:
            raise ModelMismatch(
                f"the {name} and the clean model have different tokenizers", remedy="compare models of one family"
            )
        if state.prompts != first.prompts or {len(o) for o in state.outputs} != {len(o) for o in first.outputs}:
            raise SchemaMismatch(
                f"the {name} and the clean model were asked differently",
                remedy="ask all with the same n_shots, style and samples",
            )


def _repaired(
    unlearned: Any,
    tokenizer: Any,
    texts: Sequence[str],
    options: Mapping[str, Any] | None,
    ask: _Asking,
    states: Mapping[str, StateAnswers],
    progress: Any,
) -> dict[str, StateAnswers]:
    """The states with the unlearned model's answers after a light tuning on other text; the model is left as it was."""
    if isinstance(unlearned, StateAnswers | RestorReport):
        raise ModelMismatch("kept answers cannot be repaired", remedy="pass the unlearned model itself")
    from datumwise.probe.fine_tune import fine_tuned

    settings = {"epochs": 2, "batch": 16, "lr": 2e-5, **dict(options or {})}
    with fine_tuned(unlearned, tokenizer, [""] * len(texts), list(texts), **settings) as mended:
        return {**states, "unlearned": ask("unlearned", mended, tokenizer, {}, progress)}


def _compared(
    facts: FactSet,
    false: Mapping[str, str],
    targets: Collection[str],
    corrupt: Collection[str],
    states: Mapping[str, StateAnswers],
    *,
    judge: str,
    own_judge: Judge | None,
    n_bootstrap: int,
    random_state: int,
    about: dict[str, Any],
    notes: list[str],
) -> RestorReport:
    """Judge all answers and set the states beside each other."""
    group = np.array(
        [
            GROUPS[0] if name in targets else GROUPS[1] if subject in corrupt else GROUPS[2]
            for name, subject in zip(facts.ids, facts.subjects, strict=True)
        ]
    )
    judged = {name: _judged(facts, false, state, own_judge) for name, state in states.items()}
    right = {name: one[0] for name, one in judged.items()}
    wrong = {name: one[1] for name, one in judged.items()}
    logprobs = {name: state.mean_by_kind() for name, state in states.items()}
    classes = transition_classes(
        right["clean"] > 0.5, right["corrupted"] > 0.5, right["unlearned"] > 0.5, wrong["unlearned"] > 0.5
    )
    draws = {}
    for name in (*GROUPS, "all"):
        rows = np.flatnonzero(group == name) if name != "all" else np.arange(len(facts))
        if len(rows):
            draws[name] = (rows, EntityDraws([facts.subjects[i] for i in rows], n_bootstrap, random_state))
    by_group = {name: {s: d.mean(right[s][rows]) for s in STATES} for name, (rows, d) in draws.items()}
    rows, direct = draws["direct"]
    margins = {s: logprobs[s][rows, 0] - logprobs[s][rows, 1] for s in STATES}
    known = right["clean"][rows] > 0.5
    same = states["clean"].model == states["corrupted"].model
    recoveries = {
        "recovery": recovery_ratio(direct, *(right[s][rows] for s in STATES)),
        "margin_recovery": recovery_ratio(direct, *(margins[s] for s in STATES), what="margin"),
        "truth_recovery": recovery_ratio(direct, *(logprobs[s][rows, 0] for s in STATES), what="log-probability of the truth"),
        "known_recovery": recovery_ratio(
            direct, *(np.where(known, right[s][rows], np.nan) for s in STATES), what="accuracy on what the clean model knows"
        ),
    }
    if same:
        recoveries = {name: _identical(one) for name, one in recoveries.items()}
    perplexity = {name: state.neutral_perplexity for name, state in states.items()}
    before, after = perplexity["corrupted"], perplexity["unlearned"]
    lost = None if before is None or after is None else after > FLUENCY_LOST * before
    if lost is None:
        notes = [*notes, "nothing is said of fluency: no neutral text was given"]
    return RestorReport(
        ids=list(facts.ids), subjects=list(facts.subjects), relations=list(facts.relations), group=group.tolist(),
        false_answers=dict(false), states=dict(states), right=right, says_false=wrong,
        named={name: one[2] for name, one in judged.items()}, classes=classes, logprobs=logprobs,
        distance=np.array([state_distance(states["clean"].union(i), states["unlearned"].union(i)) for i in range(len(facts))]),
        accuracy_by_group=by_group, false_rate={s: direct.mean(wrong[s][rows]) for s in STATES},
        corruption=_checked_corruption(right, wrong, draws, bool(false)), neutral_perplexity=perplexity, fluency_lost=lost,
        chance=_chance(facts, rows), confidence_auc=_confidence(logprobs["clean"][rows, 0], right, rows),
        judge={"name": judge, "f1_floor": F1_FLOOR, "negation_window": WINDOW} if own_judge is None else {"name": judge},
        n_bootstrap=n_bootstrap, random_state=random_state, about=about, notes=notes, recovery=recoveries["recovery"],
        margin_recovery=recoveries["margin_recovery"], truth_recovery=recoveries["truth_recovery"],
        known_recovery=recoveries["known_recovery"],
    )  # fmt: skip


def _judged(
    facts: FactSet, false: Mapping[str, str], state: StateAnswers, judge: Judge | None
) -> tuple[np.ndarray, np.ndarray, list[list[str | None]]]:
    """Share of a fact's answers that are right, share that say the false object, float64 (n,); and the objects named."""
    if state.ids != facts.ids:
        raise MissingId("the answers are to other facts")
    right, wrong = np.zeros(len(facts)), np.zeros(len(facts))
    named: list[list[str | None]] = []
    pools = {r: facts.known(r) for r in dict.fromkeys(facts.relations)}
    for i, (name, outputs) in enumerate(zip(facts.ids, state.outputs, strict=True)):
        lie = [false[name]] if name in false else []
        if judge is not None:
            right[i] = np.mean([bool(judge(facts.questions[i], one, facts.answers[i])) for one in outputs])
            wrong[i] = np.mean([bool(lie) and bool(judge(facts.questions[i], one, lie)) for one in outputs])
            named.append([None] * len(outputs))
            continue
        accepted = {normalised_words(a) for a in facts.answers[i]}
        denied = {normalised_words(one) for one in lie}
        objects = [*facts.answers[i], *pools[facts.relations[i]], *lie]
        found = [find_answer(one, objects).answer for one in outputs]
        words = [None if one is None else normalised_words(one) for one in found]
        right[i] = np.mean([one in accepted for one in words])
        wrong[i] = np.mean([one in denied for one in words])
        named.append(found)
    return right, wrong, named


def _checked_corruption(
    right: Mapping[str, np.ndarray],
    wrong: Mapping[str, np.ndarray],
    draws: Mapping[str, tuple[np.ndarray, EntityDraws]],
    said: bool,
) -> CorruptionCheck:
    """Whether right answers went, false ones came, and others stayed, beyond two standard errors over entities."""
    rows, direct = draws["direct"]

    def clearly(change: np.ndarray) -> bool:
        error = float(np.nanstd(direct.means(change), ddof=1))
        return bool(change.mean() > 0 and change.mean() >= 2 * error)

    others, _ = draws.get("other", (None, None))
    before = None if others is None else float(right["clean"][others].mean())
    after = None if others is None else float(right["corrupted"][others].mean())
    reasons = []
    if not clearly(right["clean"][rows] - right["corrupted"][rows]):
        reasons.append("right answers about corrupted facts did not clearly fall")
    if said and not clearly(wrong["corrupted"][rows] - wrong["clean"][rows]):
        reasons.append("false answers did not clearly rise")
    if before is not None and after is not None and before - after > MOST_COLLATERAL:
        reasons.append(f"more than {MOST_COLLATERAL:.0%} of the other facts went too")
    return CorruptionCheck(
        tuple(float(right[s][rows].mean()) for s in STATES[:2]),  # type: ignore[arg-type]
        tuple(float(wrong[s][rows].mean()) for s in STATES[:2]),  # type: ignore[arg-type]
        (before, after),
        "; ".join(reasons),
    )


def _chance(facts: FactSet, rows: np.ndarray) -> float:
    """Accuracy on these facts of who always says a relation's most frequent answer."""
    common: dict[str, tuple[str, ...]] = {}
    for relation in dict.fromkeys(facts.relations):
        said = [a[0] for r, a in zip(facts.relations, facts.answers, strict=True) if r == relation]
        said += [shot.answer for shot in facts.context.get(relation, ())]
        common[relation] = Counter(map(normalised_words, said)).most_common(1)[0][0]
    hits = [common[facts.relations[i]] in {normalised_words(a) for a in facts.answers[i]} for i in rows]
    return float(np.mean(hits))


def _confidence(clean: np.ndarray, right: Mapping[str, np.ndarray], rows: np.ndarray) -> tuple[float, int, int]:
    """How well the clean model's log-probability of the truth tells lost facts that came back from the others: AUC, numbers."""
    lost = (right["clean"][rows] > 0.5) & (right["corrupted"][rows] <= 0.5) & np.isfinite(clean)
    back = right["unlearned"][rows] > 0.5
    yes, no = clean[lost & back], clean[lost & ~back]
    if not len(yes) or not len(no):
        return math.nan, len(yes), len(no)
    higher = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    return float(higher), len(yes), len(no)


def _identical(one: Recovery) -> Recovery:
    reason = "the clean and the corrupted model have identical weights"
    return replace(one, value=math.nan, low=math.nan, high=math.nan, reason=reason)


def _part(progress: Callable[[int, int], None] | None, number: int, parts: int) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(1000 * number + 1000 * done // max(1, total), 1000 * parts)
