"""A removal request to a scikit-learn estimator: trained anew without them, which is exact, or edited by Newton steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from datumwise.errors import LabelError, ModelMismatch, UnknownName
from datumwise.evaluate.criterion import Criterion
from datumwise.evaluate.forget_criteria import of_answers, of_classes
from datumwise.evaluate.removed import Removed, Request
from datumwise.forget.linear_removal import linear_removal
from datumwise.probe.features import features, on_rows
from datumwise.probe.fingerprint import model_fingerprint
from datumwise.probe.learners import learner_name

__all__ = ["forget_rows"]

STEPS = 4  # of Newton
METHODS = ("retrain", "newton")


def forget_rows(
    asked: Request,
    model: Any,
    tokenizer: Any = None,
    *,
    method: str | None = None,
    reference: Any = None,
    attacks: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
    inplace: bool = False,
    checkpoint: str | Path | None = None,
) -> Removed:
    """See `datumwise.evaluate.forget_request.forget_datapoints`; the reference is trained here unless it is given.

    Raises
    ------
    LabelError
        The ledger has no label, or a class would be gone.
    ModelMismatch
        ``newton`` of anything but a linear model, or of an estimator that was fitted on other columns.
    UnknownName
    """
    method = method or "retrain"
    if method not in METHODS:
        raise UnknownName(f"an estimator cannot forget by {method!r}", remedy=f"choose {' or '.join(METHODS)}")
    if attacks:
        raise ModelMismatch(f"there is no attack {attacks[0]!r} on an estimator", remedy="leave out --attacks")
    ledger = asked.ledger
    label = ledger.roles.get("label")
    if not label:
        raise LabelError(f"{ledger.name} has no label column", remedy="ingest the data with --label")
    classes = ledger.task != "regression"
    view = features(ledger)
    y = np.asarray(ledger.array(label)) if classes else np.asarray(ledger.array(label), np.float64)
    kept = asked.retain
    trained = np.sort(np.concatenate([kept, asked.forget]))
    if classes and len(np.unique(y[kept])) < 2:
        raise LabelError("what is left has one class only", remedy="forget fewer datapoints")

    stage = asked.stage
    fitted = _is_fitted(model)
    before = model if fitted else on_rows(view, model)
    if not fitted:
        stage.begin("train", learner_name(model))
        before.fit(view.X[trained], y[trained])
        stage.end(f"{learner_name(model)} on {len(trained):,} datapoints")
    _check_rows(before, view.X[kept[:1]])
    fingerprints = {"before": model_fingerprint(before, fitted=True)}

    stage.begin("forget", method)
    begun = time.perf_counter()
    exact = method == "retrain"
    notes: list[str] = []
    if exact:
        after = clone(before).fit(view.X[kept], y[kept])
    else:
        after, notes = _newton(before, view.X[trained], y[trained], np.isin(trained, asked.forget), options or {})
    seconds = time.perf_counter() - begun
    stage.end(f"{len(asked.forget):,} datapoints by {method}")

    fingerprints["after"] = model_fingerprint(after, fitted=True)

    stage.begin("check", "against a model that never saw them")
    if reference is None:
        reference = after if exact else clone(before).fit(view.X[kept], y[kept])
    fingerprints["never_saw"] = model_fingerprint(reference, fitted=True)
    if inplace and model is before:
        model.__dict__.update(copy.deepcopy(after).__dict__)
        after = model
    models = {"before": before, "after": after, "never_saw": reference}
    names = asked.ids[asked.forget]
    parts = {"forget": asked.forget, "retain": kept, "test": asked.unseen}
    if classes and hasattr(before, "predict_proba"):
        order = np.unique(y)
        answers = {name: _probabilities(one, view.X, order) for name, one in models.items()}
        criteria, datapoints, losses = of_classes(answers, np.searchsorted(order, y), parts, names, seed=asked.seed)
    else:
        answers = {name: np.asarray(one.predict(view.X)) for name, one in models.items()}
        criteria, datapoints, losses = of_answers(answers, y, parts, names, seed=asked.seed, classes=classes)
    stage.end(f"{len(criteria)} criteria")
    missing = [] if len(asked.unseen) else ["whether they are told from datapoints the model never saw: none were held out"]
    attacked: list[Criterion] = []
    return Removed(
        after, reference, fingerprints, method, _said(options or {}, method), exact, seconds,
        criteria, datapoints, losses, attacked, missing, notes,
    )  # fmt: skip


def _newton(model: Any, X: Any, y: np.ndarray, gone: np.ndarray, options: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """A copy of a linear model, at the end of whatever turns rows into numbers, with the rows removed."""
    after = copy.deepcopy(model)
    holder, last = None, after
    while isinstance(last, Pipeline):  # a pipeline may end in another
        X = last[:-1].transform(X) if len(last.steps) > 1 else X
        holder, last = last, last.steps[-1][1]
    edited = linear_removal(last, X, y, np.flatnonzero(gone), **{"steps": STEPS, **options}).model
    if holder is None:
        return edited, []
    holder.steps[-1] = (holder.steps[-1][0], edited)
    return after, ["What turns rows into numbers (imputing, scaling) was fitted with the datapoints and was left as it is."]


def _is_fitted(model: Any) -> bool:
    try:
        check_is_fitted(model)
    except NotFittedError:
        return False
    return True


def _check_rows(model: Any, row: Any) -> None:
    try:
        model.predict(row)
    except (ValueError, TypeError) as error:
        raise ModelMismatch(
            f"the {learner_name(model)} cannot read a row of the ledger ({str(error).splitlines()[0]})",
            remedy="give one that was trained on this ledger",
        ) from error


def _probabilities(model: Any, X: Any, order: np.ndarray) -> np.ndarray:
    """float64 (n, C) in the order of ``order``; a class that the model does not know has probability 0."""
    found = np.zeros((len(X), len(order)))
    found[:, np.searchsorted(order, model.classes_)] = model.predict_proba(X)
    return found


def _said(options: Mapping[str, Any], method: str) -> dict[str, Any]:
    return {"steps": STEPS, **options} if method == "newton" else dict(options)
