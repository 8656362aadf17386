"""Does what was forgotten come back? Relearning from a few texts, weights in few bits, other prompts.

Hu et al., 2024, *Jogging the Memory of Unlearned Models Through Targeted Relearning Attacks*; Zhang et al., 2025, *Catastrophic
Failure of LLM Unlearning via Quantization*; Patil et al., 2024, *Can Sensitive Information Be Deleted From LLMs?* A model that
never saw the texts also says more when it is attacked; given one, it is attacked alike, and only what goes beyond it counts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch, UnknownName
from datumwise.evaluate.attack_prompts import PREFIXES, prefixed, reworded
from datumwise.evaluate.attack_report import AttackReport, row_of
from datumwise.evaluate.rounded_weights import rounded

if TYPE_CHECKING:
    from datumwise.evaluate.muse_data import MuseData
    from datumwise.evaluate.six_way_report import SixWayReport

__all__ = ["ATTACKS", "attack", "relearned"]

ATTACKS: Mapping[str, str] = {
    "relearn": "trained again on some of what was to be forgotten, and measured on the rest",
    "int8": "weights of linear layers stored in 8 bit",
    "int4": "weights of linear layers stored in 4 bit",
    "prefix": "a text before every prompt, the best of several",
    "paraphrase": "other wordings of every prompt, the best of several",
}
WEIGHTS_ONLY = ("relearn", "int8", "int4")  # attacks under which likelihoods can change
RELEARN: Mapping[str, Any] = {"weights": "adapters", "epochs": 3, "lr": 2e-4, "batch": 4, "config": None, "max_length": None}


def attack(
    model: Any,
    tokenizer: Any,
    data: MuseData,
    *,
    kinds: Sequence[str] = tuple(ATTACKS),
    criteria: Sequence[str] = ("verbmem", "knowmem", "privleak"),
    before: SixWayReport | None = None,
    unattacked: SixWayReport | None = None,
    reference: Any = None,
    relearn_texts: Sequence[str] | None = None,
    relearn_share: float = 0.25,
    relearn: Mapping[str, Any] | None = None,
    prefixes: Sequence[str] = PREFIXES,
    paraphrases: Mapping[str, Sequence[Sequence[str]]] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> AttackReport:
    """Attack a model that was made to forget, and measure again what was to be forgotten.

    Parameters
    ----------
    model : causal language model
        As it was, afterwards.
    tokenizer : its tokenizer
    data : MuseData
    kinds : sequence of str
        Of `ATTACKS`.
    criteria : sequence of str
        Of verbmem, knowmem, privleak; the last only where an attack changes the weights. Those without data are left out.
    before, unattacked : SixWayReport, optional
        Of the model before the removal (for the table), and of this one without an attack (measured here if not given).
    reference : causal language model, optional
        Never saw the texts; attacked alike.
    relearn_texts : sequence of str, optional
        What it is trained on again: public texts on the same matter, say; by default a random ``relearn_share`` of the texts
        to forget, whose own items are then not measured.
    relearn : mapping, optional
        ``weights`` "adapters" (low-rank, the model stays in place) or "all" (stronger; a second copy of the model),
        ``epochs``, ``lr``, ``batch``, ``config`` (peft), ``max_length``.
    prefixes, paraphrases
        See `datumwise.evaluate.attack_prompts`; of several prompts the best answer of each item counts.
    evaluation : mapping, optional
        Further arguments of `six_way`.
    random_state : int
        Of the texts that are trained on again, of the training and of the intervals.
    progress : callable (measurements done, all), optional

    Returns
    -------
    AttackReport

    Raises
    ------
    UnknownName
        An attack or a criterion is not known.
    EmptyData
        Nothing is left to measure.
    """
    unknown = [kind for kind in kinds if kind not in ATTACKS]
    if unknown:
        raise UnknownName(f"there is no attack {unknown[0]!r}", remedy=f"choose {', '.join(ATTACKS)}")
    wrong = [name for name in criteria if name not in ("verbmem", "knowmem", "privleak")]
    if wrong:
        raise UnknownName(
            f"{wrong[0]!r} is no criterion of what is to be forgotten", remedy="choose verbmem, knowmem, privleak"
        )
    if not kinds:
        raise EmptyData("no attack is asked for", remedy=f"choose {', '.join(ATTACKS)}")
    from datumwise.evaluate.six_way import six_way

    asked = dict(evaluation or {})
    leak = None if unattacked is None or unattacked.reference is None else unattacked.reference.auc
    plan = [_Attack(kind, tokenizer, relearn, random_state) for kind in kinds]
    taught, without = _to_relearn(data, relearn_texts, relearn_share, random_state) if "relearn" in kinds else ([], data)
    datas = {
        kind: [without] if kind == "relearn" else prefixed(data, prefixes) if kind == "prefix"
        else reworded(data, paraphrases) if kind == "paraphrase" else [data]
        for kind in kinds
    }  # fmt: skip
    total = (
        sum(len(datas[kind]) for kind in kinds) * (1 if reference is None else 2) + (unattacked is None) + ("relearn" in kinds)
    )
    done = 0

    def measured(one: Any, on: MuseData, wanted: Sequence[str], a_reference: Any) -> SixWayReport | None:
        nonlocal done
        wanted = [name for name in wanted if _has_data(on, name)]
        report = six_way(one, tokenizer, on, criteria=wanted, retrain=a_reference, **asked) if wanted else None
        done += 1
        if progress is not None:
            progress(done, total)
        return report

    if unattacked is None:
        unattacked = measured(model, data, criteria, reference)
        if unattacked is None:
            raise EmptyData(
                "nothing of what is to be forgotten can be measured", remedy="give passages, questions or holdout texts"
            )
        leak = None if unattacked.reference is None else unattacked.reference.auc
    rows = []
    for one in plan:
        wanted = [name for name in criteria if name != "privleak" or one.kind in WEIGHTS_ONLY]
        plain = unattacked if one.kind != "relearn" else measured(model, without, wanted, leak)
        found: list[list[SixWayReport]] = []
        for victim in (reference, model):  # the reference first: its AUC is what the other's leakage is measured against
            if victim is None:
                continue
            with one.on(victim, taught) as attacked:
                against = found[0][0].auc if found and found[0] else leak
                reports = [measured(attacked, on, wanted, against) for on in datas[one.kind]]
            found.append([report for report in reports if report is not None])
        for name in wanted:
            of_reference = found[0] if reference is not None else []
            row = row_of(one.kind, name, before, plain, found[-1], of_reference, random_state=random_state)
            if row is not None:
                rows.append(replace(row, note=_note(one.kind, name, datas[one.kind], taught, relearn_texts, paraphrases)))
    if not rows:
        raise EmptyData("nothing of what is to be forgotten can be measured under attack", remedy="give passages or questions")
    return AttackReport(tuple(rows), attacked_reference=reference is not None, relearned=tuple(i for i, _ in taught))


@contextmanager
def relearned(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    weights: str = "adapters",
    epochs: int = 3,
    lr: float = 2e-4,
    batch: int = 4,
    config: Any = None,
    max_length: int | None = None,
    random_state: int = 0,
) -> Iterator[Any]:
    """The model, trained again on some texts; afterwards it is as it was.

    Parameters
    ----------
    model, tokenizer : causal language model
    texts : sequence of str
    weights : {"adapters", "all"}
        Low-rank adapters, taken away again; or every weight of a copy.
    epochs, batch : int
    lr : float
        Falls linearly to a tenth.
    config : peft.LoraConfig, optional
    max_length : int, optional
        Tokens.
    random_state : int

    Yields
    ------
    model

    Raises
    ------
    UnknownName, EmptyData, DatumwiseError
    """
    if weights not in ("adapters", "all"):
        raise UnknownName(f"there are no weights {weights!r} to train", remedy="choose adapters or all")
    if not len(texts):
        raise EmptyData("there is no text to learn again")
    if epochs < 1 or not lr > 0:
        raise DatumwiseError(f"learning again takes {epochs} epochs at a rate of {lr}", remedy="both must be above 0")
    from datumwise.probe.fine_tune import descend, fine_tuned, token_logprobs

    blank = [""] * len(texts)
    if weights == "adapters":
        with fine_tuned(
            model, tokenizer, blank, list(texts), config=config, epochs=epochs, batch=batch, lr=lr, max_length=max_length,
            seed=random_state,
        ) as tuned:  # fmt: skip
            yield tuned
        return
    import torch

    from datumwise.probe.collate import context_length, encode_texts

    items = encode_texts(tokenizer, list(zip(blank, texts, strict=True)), max_length or context_length(model, tokenizer))
    tuned = copy.deepcopy(model).requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        descend(
            tuned,
            len(items),
            lambda rows: -token_logprobs(tuned, tokenizer, [items[i] for i in rows])[0].sum(),
            lr=lr, weight_decay=0.0, epochs=epochs, effective=batch, per_pass=batch, seed=random_state,
        )  # fmt: skip
    yield tuned.eval()


class _Attack:
    """One kind of attack, put on a model and taken off again."""

    def __init__(self, kind: str, tokenizer: Any, relearn: Mapping[str, Any] | None, random_state: int) -> None:
        unknown = [name for name in relearn or {} if name not in RELEARN]
        if unknown:
            raise UnknownName(f"relearning has no option {unknown[0]!r}", remedy=f"choose {', '.join(RELEARN)}")
        self.kind, self.tokenizer = kind, tokenizer
        self.options = dict(RELEARN) | dict(relearn or {}) | {"random_state": random_state}

    def on(self, model: Any, taught: Sequence[tuple[Any, str]]) -> Any:
        """A context manager that gives the attacked model."""
        if self.kind == "relearn":
            return relearned(model, self.tokenizer, [text for _, text in taught], **self.options)
        if self.kind.startswith("int"):
            return rounded(model, int(self.kind[3:]))
        return nullcontext(model)


def _to_relearn(
    data: MuseData, texts: Sequence[str] | None, share: float, random_state: int
) -> tuple[list[tuple[Any, str]], MuseData]:
    """(id, text) to learn again, and the data without what those give away."""
    if texts is None:
        if not 0 < share < 1:
            raise DatumwiseError(f"relearn_share is {share}", remedy="a share of the texts to forget, between 0 and 1")
        n = len(data.forget)
        if n < 2:
            raise EmptyData("one text to forget cannot be both learnt again and measured", remedy="give relearn_texts=")
        rows = np.random.default_rng(random_state).choice(n, min(n - 1, max(1, round(share * n))), replace=False)
        chosen = [(data.ids["forget"][i], _whole(data.forget[i])) for i in sorted(rows.tolist())]
    else:
        chosen = [(f"given {i}", text) for i, text in enumerate(texts)]
        if not chosen:
            raise EmptyData("there is no text to learn again", remedy="give relearn_texts=")
    gone, told = {i for i, _ in chosen}, [text for _, text in chosen]
    same_ids = set(data.ids["verbmem"]) <= set(data.ids["forget"])  # passages cut from the texts keep their ids
    kept = {
        "forget": [row for row, i in enumerate(data.ids["forget"]) if i not in gone],
        "verbmem": [
            row
            for row, (i, (_, truth)) in enumerate(zip(data.ids["verbmem"], data.verbmem, strict=True))
            if not (same_ids and i in gone) and not any(truth.strip() in text for text in told)
        ],
        "forget_qa": [
            row for row, (question, _) in enumerate(data.forget_qa) if not any(question.strip() in text for text in told)
        ],
    }
    if not kept["forget"]:
        raise SchemaMismatch("every text to forget is learnt again: nothing is left to measure", remedy="learn fewer again")
    ids = data.ids | {part: [data.ids[part][row] for row in rows] for part, rows in kept.items()}
    parts: dict[str, Any] = {part: [getattr(data, part)[row] for row in rows] for part, rows in kept.items()}
    return chosen, replace(data, **parts, ids=ids)


def _whole(text: Any) -> str:
    return text if isinstance(text, str) else text[0] + text[1]


def _has_data(data: MuseData, criterion: str) -> bool:
    return bool({"verbmem": data.verbmem, "knowmem": data.forget_qa, "privleak": data.holdout}[criterion])


def _note(
    kind: str,
    criterion: str,
    datas: Sequence[MuseData],
    taught: Sequence[Any],
    given: Sequence[str] | None,
    paraphrases: Mapping[str, Any] | None,
) -> str:
    if kind == "relearn":
        what = "given texts" if given is not None else "of the texts to forget"
        return f"{len(taught):,} {what} learnt again, the others measured"
    if kind.startswith("int"):
        return "weights of linear layers rounded, one scale a row; embeddings and output layer as they are"
    own = kind == "paraphrase" and {"verbmem": "verbmem", "knowmem": "forget_qa"}[criterion] not in (paraphrases or {})
    frames = (
        "" if not own else ", each shorter than the passage's" if criterion == "verbmem" else ", frames around each question"
    )
    return f"the best of {len(datas):,} prompts{frames}"
