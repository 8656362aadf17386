"""Does unlearning stand larger requests, and one request after another? MUSE's last two criteria, resumable.

Shi et al., 2024 (MUSE), section 3: scalability (C5) unlearns nested forget sets of growing size, each from the first model;
sustainability (C6) unlearns disjoint ones in sequence, each from what the one before left, which is also its reference.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from datumwise.errors import EmptyData, MissingExtra, SchemaMismatch, name_some
from datumwise.evaluate.forgetting_run import ForgettingRun, Step, step_fact, step_of
from datumwise.evaluate.six_way_report import SixWayReport

if TYPE_CHECKING:
    from datumwise.evaluate.muse_data import MuseData

__all__ = ["disjoint_folds", "nested_folds", "scalability", "sustainability"]

WEIGHTS, STEP = "model.safetensors", "step.json"
StopFor = Callable[[int, "MuseData"], Callable[[Any, int], bool]]


def scalability(
    model: Any,
    tokenizer: Any,
    folds: Sequence[Any],
    retain: Any = None,
    *,
    data: MuseData | Sequence[MuseData],
    method: str = "calibrated",
    retrain: Any = None,
    criteria: Sequence[str] = ("verbmem", "knowmem", "privleak", "utility"),
    evaluation: Mapping[str, Any] | None = None,
    stop_for: StopFor | None = None,
    folder: str | Path | None = None,
    measure_start: bool = True,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ForgettingRun:
    """Criterion C5: unlearn nested forget sets of growing size, each from the model as it is given.

    Parameters
    ----------
    model : causal language model
        Left as it is.
    tokenizer : its tokenizer
    folds : sequence of text collections
        Nested: every text of one is in the next (see `nested_folds`). Each is anything that `unlearn` takes.
    retain : text collection, optional
    data : MuseData, or one a fold
        What each model is measured on.
    method : str
        See `datumwise.forget.methods.METHODS`.
    retrain : model, SixWayReport, float, or one a fold
        See `six_way`.
    criteria, evaluation
        Of `six_way`, and its further arguments.
    stop_for : callable (fold from 1, its data) -> stop, optional
        A stopping rule for each fold, as of `stop_at`.
    folder : str or Path, optional
        Every finished request is kept there; started again with the same arguments the run goes on where it stopped, inside a
        request too. Another run's folder is refused.
    measure_start : bool
        Measure the model before any request as well.
    progress : callable (requests done, all), optional
    **options
        Of `unlearn`.

    Returns
    -------
    ForgettingRun

    Raises
    ------
    EmptyData, SchemaMismatch
        No folds; they are not nested; numbers differ; the folder holds another run.
    """
    return _run(
        "scalability", model, tokenizer, folds, retain, data, method, retrain, criteria, evaluation, stop_for, folder,
        measure_start, progress, options,
    )  # fmt: skip


def sustainability(
    model: Any,
    tokenizer: Any,
    folds: Sequence[Any],
    retain: Any = None,
    *,
    data: MuseData | Sequence[MuseData],
    method: str = "calibrated",
    retrain: Any = None,
    criteria: Sequence[str] = ("verbmem", "knowmem", "privleak", "utility"),
    evaluation: Mapping[str, Any] | None = None,
    stop_for: StopFor | None = None,
    folder: str | Path | None = None,
    measure_start: bool = True,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ForgettingRun:
    """Criterion C6: unlearn pairwise disjoint forget sets, one after the other.

    Request i starts from the model that request i - 1 left, and that model is its reference (as in the published code): a
    method that keeps near its reference is allowed to drift from the first model. Arguments as of `scalability`.

    Parameters
    ----------
    folds : sequence of text collections
        No text is in two of them (see `disjoint_folds`).

    Returns
    -------
    ForgettingRun
    """
    return _run(
        "sustainability", model, tokenizer, folds, retain, data, method, retrain, criteria, evaluation, stop_for, folder,
        measure_start, progress, options,
    )  # fmt: skip


def nested_folds(items: Sequence[Any], n_folds: int = 4, *, random_state: int = 0) -> list[list[Any]]:
    """Nested sets of 1/n, 2/n ... n/n of the items, drawn once.

    Examples
    --------
    >>> [len(fold) for fold in nested_folds(range(10), 4)]
    [3, 5, 8, 10]
    """
    parts = disjoint_folds(items, n_folds, random_state=random_state)
    return [[item for part in parts[: i + 1] for item in part] for i in range(n_folds)]


def disjoint_folds(items: Sequence[Any], n_folds: int = 4, *, random_state: int = 0) -> list[list[Any]]:
    """The items dealt at random into n sets of the same size, or one more.

    Raises
    ------
    EmptyData
        There are fewer items than sets.

    Examples
    --------
    >>> [len(fold) for fold in disjoint_folds(range(10), 4)]
    [3, 2, 3, 2]
    """
    items = list(items)
    if n_folds < 1 or len(items) < n_folds:
        raise EmptyData(f"{len(items)} items make no {n_folds} sets")
    order = np.random.default_rng(random_state).permutation(len(items))
    ends = [round(len(items) * i / n_folds + 1e-9) for i in range(n_folds + 1)]
    return [[items[i] for i in order[start:end]] for start, end in itertools.pairwise(ends)]


def _run(
    kind: Literal["scalability", "sustainability"],
    model: Any,
    tokenizer: Any,
    folds: Sequence[Any],
    retain: Any,
    data: MuseData | Sequence[MuseData],
    method: str,
    retrain: Any,
    criteria: Sequence[str],
    evaluation: Mapping[str, Any] | None,
    stop_for: StopFor | None,
    folder: str | Path | None,
    measure_start: bool,
    progress: Callable[[int, int], None] | None,
    options: Mapping[str, Any],
) -> ForgettingRun:
    from datumwise.evaluate.six_way import six_way
    from datumwise.forget.unlearning import unlearn
    from datumwise.probe.fingerprint import model_fingerprint

    texts = [_texts(fold) for fold in folds]
    _refuse_folds(kind, texts)
    measured_on = _one_each(data, len(folds), "data")
    references = _one_each(retrain, len(folds), "retrain")
    if taken := sorted({"stop", "checkpoint", "inplace"} & set(options)):
        raise SchemaMismatch(f"{taken[0]} cannot be given to a run of requests", remedy="give stop_for= or folder=")
    asked = {"criteria": list(criteria)} | dict(evaluation or {})
    first = model_fingerprint(model)
    place = None if folder is None else Path(folder)
    if place is not None:
        _claim(place, _made_of(kind, method, first, texts, _texts(retain) if retain is not None else [], asked, options))
    start = None
    if measure_start:
        start = _kept(place, "start.json", lambda: six_way(model, tokenizer, measured_on[0], retrain=references[0], **asked))
    current, name = model, first
    steps: list[Step] = []
    for i, fold in enumerate(folds):
        began_from, named = (model, first) if kind == "scalability" else (current, name)
        here = None if place is None else place / f"request{i + 1}"
        if here is not None and (here / STEP).is_file():
            step = step_of(json.loads((here / STEP).read_text(encoding="utf-8")))
            current = _loaded(model, here / WEIGHTS) if kind == "sustainability" else None
        else:
            stop = None if stop_for is None else stop_for(i + 1, measured_on[i])
            began = time.perf_counter()
            result = unlearn(
                began_from, tokenizer, fold, retain, method=method, stop=stop,
                checkpoint=None if here is None else here / "checkpoint", **options,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            current = result.merged() if hasattr(result.model, "peft_config") else result.model  # the next has no adapters
            report = six_way(current, tokenizer, measured_on[i], retrain=references[i], **asked)
            step = Step(
                i + 1, len(texts[i]), named, named, model_fingerprint(current), report, result.stopped_epoch, seconds
            )  # fmt: skip
            if here is not None:
                _keep(here, step, current, weights=kind == "sustainability")
                shutil.rmtree(here / "checkpoint", ignore_errors=True)  # of this request, which is done
        name = step.result
        steps.append(step)
        if progress is not None:
            progress(i + 1, len(folds))
    return ForgettingRun(kind, method, start, tuple(steps), current)


def _refuse_folds(kind: str, texts: Sequence[Sequence[Any]]) -> None:
    if not texts:
        raise EmptyData("there is no forget set", remedy="give folds=, see nested_folds and disjoint_folds")
    empty = [i + 1 for i, fold in enumerate(texts) if not fold]
    if empty:
        raise EmptyData(f"forget set {empty[0]} is empty")
    for i, (fold, following) in enumerate(itertools.pairwise(texts), 1):
        if kind == "scalability" and (lost := set(fold) - set(following)):
            raise SchemaMismatch(f"forget set {i} is not inside forget set {i + 1}: {len(lost):,} texts are missing there")
    if kind == "sustainability":
        owner: dict[Any, int] = {}
        for i, fold in enumerate(texts, 1):
            shared = [text for text in fold if owner.setdefault(text, i) != i]
            if shared:
                raise SchemaMismatch(
                    f"forget sets {owner[shared[0]]} and {i} share {len(shared):,} texts", remedy="a text is forgotten once"
                )


def _texts(fold: Any) -> list[Any]:
    """The texts of a fold, as `unlearn` reads them."""
    from datumwise.forget.texts import as_texts

    return list(as_texts(fold).items) if not (isinstance(fold, Sequence) and not fold) else []


def _one_each(value: Any, n: int, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return [value] * n
    if len(value) != n:
        raise SchemaMismatch(f"there are {n} forget sets and {len(value)} {name}", remedy="give one for all, or one each")
    return list(value)


# --- a run on disk ---------------------------------------------------------------------------------------


def _made_of(
    kind: str, method: str, model: str, texts: Sequence[Any], retain: Any, asked: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    digest = lambda value: hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]  # noqa: E731
    facts = {"kind": kind, "method": method, "model": model, "folds": digest(texts), "retain": digest(retain)}
    told = {f"option {key}": _repr(value) for key, value in sorted(options.items()) if key != "progress"}
    return facts | told | {f"measured {key}": _repr(value) for key, value in sorted(asked.items())}


def _repr(value: Any) -> str:
    return getattr(value, "__qualname__", None) or repr(value)


def _claim(place: Path, facts: Mapping[str, Any]) -> None:
    """Make the folder this run's, or refuse another's."""
    path = place / "run.json"
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        differs = [key for key in {**there, **facts} if there.get(key) != facts.get(key)]
        if differs:
            raise SchemaMismatch(
                f"folder {place.name} holds another run ({name_some(differs)} differ)", remedy="give another folder"
            )
        return
    place.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(dict(facts), ensure_ascii=False, indent=1))


def _kept(place: Path | None, name: str, measure: Callable[[], SixWayReport]) -> SixWayReport:
    """A report from the folder, or measured now and put there."""
    if place is None:
        return measure()
    if not (place / name).is_file():
        _write(place / name, measure().to_json())
    return SixWayReport.from_json(place / name)


def _keep(here: Path, step: Step, model: Any, *, weights: bool) -> None:
    """The weights first, then the step: a step that is there is whole."""
    here.mkdir(parents=True, exist_ok=True)
    if weights:
        try:
            from safetensors.torch import save_model
        except ImportError as error:
            raise MissingExtra("keeping models needs safetensors", remedy="pip install 'datumwise[lm]'") from error
        save_model(model, str(here / f".{WEIGHTS}"))
        (here / f".{WEIGHTS}").replace(here / WEIGHTS)
    _write(here / STEP, json.dumps(step_fact(step), ensure_ascii=False, indent=1, allow_nan=False))


def _loaded(model: Any, path: Path) -> Any:
    from safetensors.torch import load_model

    from datumwise.forget.trained_copy import merged

    fresh = merged(model)
    load_model(fresh, str(path))
    return fresh


def _write(path: Path, text: str) -> None:
    written = path.with_name(f".{path.name}")
    written.write_text(text, encoding="utf-8")
    written.replace(path)
