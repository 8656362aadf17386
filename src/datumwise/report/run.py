"""What is wrong with which datapoint, why, and does removing it help? The main job, from a source to a result."""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import ColumnExists
from datumwise.evaluate import Proof, removal_proof
from datumwise.evaluate.batch_coverage import SMALLEST, Promise, batch_coverage
from datumwise.evaluate.forget_test import ForgetTest, forget_test
from datumwise.evaluate.removal import ProofCard
from datumwise.probe.features import on_rows
from datumwise.probe.given import given, text_columns
from datumwise.probe.learners import default_prober, learner, learner_name
from datumwise.progress import SILENT, Stage
from datumwise.readers import ingest
from datumwise.report.columns import write_columns
from datumwise.report.demo import planted_digits
from datumwise.report.layout import layout
from datumwise.report.result import Audit, Pass
from datumwise.report.subject import Subject, refuse_not_fitting, refuse_small_classes, subject_of
from datumwise.report.suspects import Suspects, suspects

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["audit"]

RANDOM_SETS = 20  # as large as the cleaned set
LARGE, RANDOM_SETS_LARGE = 20_000, 5  # training rows from which on fewer are drawn
SECOND = {"nearest neighbour": ("logistic regression", "ridge regression")}  # shown beside the primary learner
AGREEMENT = 0.8  # share of labels below which a sentence warns of the models that judge them
VERSIONS = ("datumwise", "numpy", "scikit-learn", "pylance", "torch", "transformers")


def audit(
    source: Any = None,
    *,
    label: str | None = None,
    text: str | None = None,
    prompt: str | None = None,
    response: str | None = None,
    image: str | None = None,
    id: str | None = None,
    features: str | Sequence[str] | None = None,
    model: Any = None,
    learner: str = "nearest neighbour",
    task: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    folds: int = 5,
    held_out: float | str | None = None,
    force: bool = False,
    max_length: int | None = None,
    stage: Stage | None = None,
) -> Audit:
    """Find suspected label errors, near copies, outliers, hard and memorised datapoints, and prove what removal does.

    Parameters
    ----------
    source : path or object, optional
        Anything `datumwise.ingest` takes. Default: handwritten digits that ship, with faults planted and recorded.
    label, text, prompt, response, image, id : str, optional
        Columns of that role, where they do not go without saying (see `datumwise.ingest`).
    features : str or sequence of str, optional
        Columns that a learner of a table sees.
    model : optional
        Whose answers are read: a scikit-learn estimator (cross-validated), a torch module (as it is), ``(model, tokenizer)``,
        or the name or folder of a transformers model. Default: extra trees and nearest neighbours for tables and pictures,
        logistic regression for text. Likelihoods of text without labels need a causal language model.
    learner : str
        The learner that the verdict is about, named before the run: "nearest neighbour", "logistic regression" (or "ridge
        regression" for numbers), "extra trees", "gradient boosting".
    task : {"classification", "regression"}, optional
    out : path, optional
        The ledger; default the source's name with ``.ledger`` in the working directory.
    seed : int
    folds : int
        Of the cross-validation that asks about each datapoint models that never saw it.
    held_out : float or str, optional
        Share to hold out for the proof (default 0.25 and at most 5,000 datapoints), or a column of true and false.
    force : bool
        Replace a ledger that was made from another source.
    max_length : int, optional
        Longest text in tokens, for a language model.
    stage : Stage, optional
        Told of progress.

    Returns
    -------
    Audit
        Prints as a summary; ``.to_html(path)`` writes the page. Everything found is on the ledger too.

    Raises
    ------
    DatumwiseError
        For anything wrong with the source, its columns, its labels or the model, in one sentence.
    """
    from datumwise.report.read import read_audit

    command = _command(locals())
    steps = Steps(stage or SILENT)
    with steps("ingest", "reading") as done:
        if source is None:
            held_out = held_out or "held_out"
            ledger = ingest(
                planted_digits(seed), name="digits-demo", label="label", image="image", id="id", out=out, overwrite=force
            )
        else:
            ledger = ingest(
                source, label=label, text=text, prompt=prompt, response=response, image=image, id=id, features=features,
                task=task, out=out, overwrite=force, progress=steps.stage.progress,
            )  # fmt: skip
        done(f"{len(ledger):,} rows -> {ledger.path.name}")

    answers, cut = _model_answers(ledger, model, max_length, seed, steps)
    subject = subject_of(ledger, task=task, vectors=answers.get("embedding"), held_out=held_out, seed=seed)
    signals = _signals(ledger, subject, answers, model, folds, seed, steps)
    with steps("score", "label errors, near copies, outliers") as done:
        found = suspects(signals, metric=subject.metric)
        done(", ".join(kind.replace("_", " ") for kind in found.flags))
    proof = _prove(subject, found, model, learner, seed, steps)
    promise = _promise(subject, found, model, seed, steps)
    forgotten = _forget(ledger, subject, found, seed, steps)
    with steps("write", "map and columns") as done:
        _write(ledger, subject, found, signals, model, seed, folds)
        done(f"{ledger.path.name} (version {ledger.refresh().version})")
    limits = (*_disagreement(signals), *cut, *subject.limits)
    _record(ledger, replace(subject, limits=limits), found, proof, promise, forgotten, steps, command, source is None)
    return read_audit(ledger.refresh())


@dataclass
class Steps:
    """Tells a stage what runs and keeps what each step took."""

    stage: Stage
    started: float = field(default_factory=time.perf_counter)
    passes: list[Pass] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str, what: str) -> Iterator[Any]:
        begun = time.perf_counter()
        said = [what]
        self.stage.begin(name, what)
        yield said.append
        self.stage.end(said[-1])
        self.passes.append(Pass(name, said[-1], time.perf_counter() - begun))


def _model_answers(
    ledger: Ledger, model: Any, max_length: int | None, seed: int, steps: Steps
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a torch or transformers model says of every datapoint, in one pass, and what it could not read.

    Nothing for scikit-learn estimators.
    """
    if model is None or _is_estimator(model):
        return {}, ()
    from datumwise import probe
    from datumwise.probe.collate import load_model

    labelled = bool(ledger.roles.get("label"))
    text = bool(text_columns(ledger))
    tokenizer = None
    if isinstance(model, str | Path):
        kind = ("encoder" if labelled else "causal-lm") if text else "image-classification"
        with steps("model", f"loading {Path(model).name}"):
            model, tokenizer = load_model(model, kind)
    elif isinstance(model, tuple):
        model, tokenizer = model
    want = ("embedding",) if labelled or not text else ("embedding", "nll", "n_tokens")
    with steps("probe", ", ".join(want)) as done:
        ask = partial(
            probe.signals, model, ledger, want, tokenizer=tokenizer, max_length=max_length, seed=seed,
            store=True, progress=steps.stage.progress,
        )  # fmt: skip
        try:
            answers = ask()  # fills what is missing, and goes on where a run was stopped
        except ColumnExists:
            answers = ask(overwrite=True)  # another model's answers were there
        done(f"{', '.join(want)} of {type(model).__name__}")
    cut = _cut_texts(ledger, model, tokenizer, max_length) if text else ()
    return {name: answers[name] for name in want}, cut


def _cut_texts(ledger: Ledger, model: Any, tokenizer: Any, max_length: int | None) -> tuple[str, ...]:
    """A sentence about texts that are longer than the model can read, or none."""
    from datumwise.probe.collate import context_length, encode_texts

    limit = max_length or context_length(model, tokenizer)
    if limit is None:
        return ()
    columns = text_columns(ledger)
    rows = (zip(*(batch[c].to_pylist() for c in columns), strict=True) for batch in ledger.batches(columns))
    some_texts = ([row[0] if len(row) == 1 else row for row in some] for some in rows)
    cut = sum(one.truncated for some in some_texts for one in encode_texts(tokenizer, some, limit))
    if not cut:
        return ()
    some, read = (f"{cut:,} text is", "was read") if cut == 1 else (f"{cut:,} texts are", "were read")
    return (f"{some} longer than {limit:,} tokens and {read} up to there.",)


def _signals(
    ledger: Ledger,
    subject: Subject,
    answers: Mapping[str, Any],
    model: Any,
    folds: int,
    seed: int,
    steps: Steps,
) -> dict[str, Any]:
    """The signals that the scores read, of the audited rows."""
    train = subject.train
    signals = {name: values[train] for name, values in answers.items()}
    signals["embedding"] = subject.embedding[train]
    if "nll" in signals:
        signals["predicted_texts"] = given(ledger, ["predicted_texts"])["predicted_texts"]
    if subject.task is None:
        if _is_estimator(model):
            refuse_not_fitting(model, None)
        return signals
    from datumwise.probe.estimators import estimator_signals

    refuse_small_classes(subject, folds, ledger.roles["label"])
    if _is_estimator(model):
        refuse_not_fitting(model, subject.task)
        prober = on_rows(subject, model)
    else:
        prober = on_rows(subject, default_prober(subject.kind, subject.task, seed=seed))
    want = ("labels", "probs", "probs_fit", "loss") if subject.task == "classification" else ("residual", "pred")
    with steps("probe", f"predictions ({folds} folds)") as done:
        assert subject.y is not None
        signals |= estimator_signals(
            prober, subject.X[train], subject.y[train], want,
            folds=folds, seed=seed, ids=subject.ids[train], progress=steps.stage.progress,
        )  # fmt: skip
        what = "probabilities" if subject.task == "classification" else "predictions"
        done(f"{what} ({folds} folds), embedding ({subject.embedding.shape[1]})")
    return signals


def _is_estimator(model: Any) -> bool:
    return hasattr(model, "fit") and hasattr(model, "get_params")


def _disagreement(signals: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence where the models that were asked are too weak to judge labels, or none."""
    if "probs" not in signals:
        return ()
    agreed = float((signals["probs"].argmax(1) == signals["labels"]).mean())
    if agreed >= AGREEMENT:
        return ()
    return (
        f"The models that were asked agree with only {agreed:.0%} of the labels, so their doubts say as much about them as "
        "about the labels: name a better one (--model).",
    )


def _prove(subject: Subject, found: Suspects, model: Any, primary: str, seed: int, steps: Steps) -> Proof:
    """Retrain on all, on random sets and on the cleaned set."""
    removed = found.removed
    if subject.task is None:
        return Proof(
            "accuracy",
            0,
            int(removed.sum()),
            (),
            "There are no labels, so there is no held-out accuracy to prove anything with.",
        )
    metric = "accuracy" if subject.task == "classification" else "R²"
    if not removed.any():
        why = "Nothing is to be removed, so there is nothing to prove."
        return Proof(metric, len(subject.held), 0, (), why)
    assert subject.y is not None
    train, held = subject.train, subject.held
    second = _second(primary, subject.task)
    on_embedding = {name: learner(name, subject.task, seed=seed) for name in dict.fromkeys([primary, second])}
    runs: list[tuple[np.ndarray, dict[str, Any]]] = [(subject.embedding, on_embedding)]
    if _is_estimator(model):  # the user's own learner, on the rows themselves, is what the verdict is about
        runs = [
            (subject.X, {learner_name(model): on_rows(subject, model)}),
            (subject.embedding, {primary: on_embedding[primary]}),
        ]
    sets = RANDOM_SETS if len(train) < LARGE else RANDOM_SETS_LARGE
    cards: list[ProofCard] = []
    with steps("prove", "retraining") as done:
        for X, learners in runs:
            proof = removal_proof(
                X[train], subject.y[train], X[held], subject.y[held], removed, learners,
                n_random=sets, seed=seed, progress=steps.stage.progress,
            )  # fmt: skip
            cards += proof.cards
        done(f"{sets} random sets beside the cleaned one, {len(cards)} learners")
    cards = [ProofCard(**{**vars(card), "primary": i == 0}) for i, card in enumerate(cards)]
    return Proof(metric, len(held), int(removed.sum()), tuple(cards))


def _promise(subject: Subject, found: Suspects, model: Any, seed: int, steps: Steps) -> Promise | None:
    """What the learner that was asked, trained on the cleaned set, can promise about the held-out datapoints."""
    if subject.task is None or len(subject.held) < SMALLEST:
        return None
    assert subject.y is not None
    classes = subject.task == "classification"
    own = _is_estimator(model) and (not classes or hasattr(model, "predict_proba"))
    asked = model if own else default_prober(subject.kind, subject.task, seed=seed)
    kept = subject.train[~found.removed]
    with steps("promise", "held-out batches") as done:
        fitted = on_rows(subject, asked).fit(subject.X[kept], subject.y[kept])
        rows = subject.X[subject.held]
        if classes:
            predicted = np.zeros((len(rows), len(subject.classes)))
            predicted[:, fitted.classes_] = fitted.predict_proba(rows)  # a class that was removed whole keeps probability 0
        else:
            predicted = fitted.predict(rows)
        promise = batch_coverage(subject.y[subject.held], predicted, learner=learner_name(asked), seed=seed)
        what = "sets" if classes else "intervals"
        done(f"conformal {what}, {promise.calibration:,} + {promise.tested:,} held out, batches of {promise.batch}")
    return promise


def _forget(ledger: Ledger, subject: Subject, found: Suspects, seed: int, steps: Steps) -> ForgetTest | None:
    """Whether a linear model on the embedding can forget what is removed, as if it had never seen it."""
    train, removed = subject.train, found.removed
    if subject.task is None or not removed.any() or not len(subject.held):
        return None
    assert subject.y is not None
    y = subject.y
    if subject.task == "classification" and len(np.unique(y[train[~removed]])) < 2:
        return None
    with steps("forget", "linear model") as done:
        tested = forget_test(
            subject.embedding[train], y[train], subject.embedding[subject.held], y[subject.held], removed,
            ids=subject.ids[train], version=ledger.refresh().version, seed=seed,
        )  # fmt: skip
        done(f"{tested.forgotten:,} datapoints, {tested.method or 'not tried'}")
    return tested


def _second(primary: str, task: str) -> str:
    linear = "logistic regression" if task == "classification" else "ridge regression"
    return "nearest neighbour" if primary.replace("-", " ") == linear else linear


def _write(
    ledger: Ledger,
    subject: Subject,
    found: Suspects,
    signals: dict[str, Any],
    model: Any,
    seed: int,
    folds: int,
) -> None:
    from datumwise.probe.neighbours import neighbours

    E = signals["embedding"]
    _, nearest = neighbours(E, k=min(10, len(E) - 1), metric=subject.metric)
    write_columns(
        ledger, subject, found, signals,
        nearest=nearest, xy=layout(E, seed=seed), model=_model_name(model, subject), seed=seed, params={"folds": folds},
    )  # fmt: skip


def _model_name(model: Any, subject: Subject) -> str:
    if model is None:
        return learner_name(default_prober(subject.kind, subject.task)) if subject.task else "none"
    if isinstance(model, tuple):
        model = model[0]
    return str(model) if isinstance(model, str | Path) else learner_name(model)


def _record(
    ledger: Ledger,
    subject: Subject,
    found: Suspects,
    proof: Proof,
    promise: Promise | None,
    forgotten: ForgetTest | None,
    steps: Steps,
    command: str,
    demo: bool,
) -> None:
    """What the page needs beyond the columns, as one JSON fact about the ledger."""
    ledger.set_metadata(
        audit={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - steps.started, 2),
            "cores": os.cpu_count(),
            "command": command,
            "kind": subject.kind,
            "task": subject.task,
            "classes": list(subject.classes),
            "rules": {key: asdict(rule) for key, rule in found.rules.items()},
            "groups": found.groups,
            "proof": proof.as_dict(),
            "promise": None if promise is None else promise.as_dict(),
            "forget": None if forgotten is None else forgotten.as_dict(),
            "passes": [asdict(one) for one in steps.passes],
            "limits": list(subject.limits),
            "planted": demo,
            "versions": _versions(),
        }
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _command(arguments: Mapping[str, Any]) -> str:
    """The command line that does the same again."""
    words = ["datumwise", "audit"]
    source = arguments["source"]
    if source is not None:
        words.append(str(source) if isinstance(source, str | Path) else "…")
    defaults = {"learner": "nearest neighbour", "folds": 5}
    for name in (
        "label",
        "text",
        "prompt",
        "response",
        "image",
        "id",
        "features",
        "model",
        "learner",
        "task",
        "folds",
        "held_out",
        "max_length",
    ):
        value = arguments[name]
        if value is None or value == defaults.get(name):
            continue
        values = [value] if isinstance(value, str) or not isinstance(value, list | tuple) else value
        words += [
            f"--{name.replace('_', '-')}",
            ",".join(v if isinstance(v, str) else str(v) if not _is_estimator(v) else learner_name(v) for v in values),
        ]
    words += ["--seed", str(arguments["seed"])]
    return shlex.join(words).replace("'…'", "…")
