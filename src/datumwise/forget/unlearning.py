"""Make a language model forget some texts: any method of `METHODS`, full weights or adapters, every datapoint followed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import NotFinite
from datumwise.forget.asked import Asked, asked_for, refuse_unnamed
from datumwise.forget.checkpoint import run_signature
from datumwise.forget.methods import Context
from datumwise.forget.reference import Reference, measured_nll, resting
from datumwise.forget.sequences import Spans
from datumwise.forget.trained_copy import adapted, copied, merged, shake, trained_parameters
from datumwise.forget.training import Optimizer, Plan, Run, train
from datumwise.probe.fingerprint import model_fingerprint

__all__ = ["UnlearnResult", "unlearn"]


@dataclass(frozen=True)
class UnlearnResult:
    """A model that was made to forget, and what every datapoint to forget went through.

    Attributes
    ----------
    model : torch.nn.Module
    history : list of dict
        One a step: ``epoch`` and ``step`` from 1, ``loss``, ``forget``, ``retain``, ``retain_weight``, ``grad_norm`` before
        clipping, and on request ``forget_grad_norm`` and ``retain_grad_norm``.
    per_datapoint_nll : float64 (n, epochs + 1)
        Mean negative log-likelihood a token (nats) of each document of ``ids`` before and after every epoch; of one in several
        pieces the mean over all its tokens. Two columns, before and after, for methods that are not trained step by step.
    ids : list of str, (n,)
        In the order of the data.
    stopped_epoch : int
        Epochs that were done.
    stopped : bool
        ``stop`` said so; False: all epochs were done.
    seconds : float
        Wall time of training and measuring.
    method : str
    options : dict
        All settings, as they were used.
    left_out : list of str
        Ids that could not be used: an empty text, or no token to predict.
    notes : list of str
        Defaults that were taken where the tokenizer or the data left something open.
    """

    model: Any = field(repr=False)
    history: list[dict[str, Any]] = field(repr=False)
    per_datapoint_nll: np.ndarray = field(repr=False)
    ids: list[str] = field(repr=False)
    stopped_epoch: int
    seconds: float
    method: str
    options: dict[str, Any] = field(repr=False)
    stopped: bool = False
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def merged(self) -> Any:
        """The model with its adapters added to the weights, on memory of its own.

        With ``lora`` the model shares its other weights with the one that was given: its own ``merge_and_unload`` would change
        both.
        """
        return merged(self.model)


def unlearn(
    model: Any,
    tokenizer: Any,
    forget: Any,
    retain: Any = None,
    *,
    method: str = "calibrated",
    alpha: float | None = None,
    gamma: float | None = None,
    beta: float | None = None,
    lr: float | None = None,
    epochs: int | None = None,
    batch_size: int = 4,
    max_length: int | None = None,
    max_grad_norm: float | None = 1.0,
    lora: Any = None,
    stop: Callable[[Any, int], bool] | None = None,
    callbacks: Sequence[Callable[[Any, int, np.ndarray], None]] = (),
    alternatives: Sequence[str] | None = None,
    spans: Spans | None = None,
    holdout: Any = None,
    inplace: bool = False,
    checkpoint: str | Path | None = None,
    random_state: int = 0,
    device: Any = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    accumulation: int = 1,
    dropout: bool = False,
    reference_top_k: int | None = None,
    log_gradients: bool = False,
    optimizer: Optimizer | None = None,
    **options: Any,
) -> UnlearnResult:
    """Minimise ``gamma * forget loss + alpha * retain term`` by AdamW at a constant rate, or run a method of another kind.

    Parameters
    ----------
    model : transformers causal language model, or one of peft's
        May be placed on several devices. Not changed unless ``inplace``.
    tokenizer : its tokenizer
    forget, retain : Ledger, list of str, of (prompt, response) or of dicts, table, file or hub name
        See `as_texts`. Of a pair only the response's tokens count.
    method : str
        A name of `METHODS`; with the end ``_gdr``, ``_klr`` or ``_embed`` the retain term is added (or takes the place of the
        method's own): ``"npo_klr"``.
    alpha, gamma : float, optional
        Weights of the retain term and of the forget loss; 1, unless the method has its own.
    beta : float, optional
        The method's own.
    lr, epochs : optional
        The method's own, else 10 epochs at a rate by the number of weights: 1e-5 for 7 billion, as published, 7e-5 for 135
        million, 1e-3 for the smallest; 2e-4 with ``lora``.
    batch_size : int
        Sequences in a forward; beside each batch to forget stands one of as many to retain, drawn in shuffled rounds.
    max_length : int, optional
        Longest sequence in tokens, by default what the model reads, at most 2,048. Longer documents are cut in pieces on token
        ids, and reported as one.
    max_grad_norm : float, optional
        The gradient is shortened to it; None never.
    lora : True, dict or peft.LoraConfig, optional
        Train adapters alone (True: rank 16, alpha 32, all linear layers). The reference is the model with adapters off, so the
        weights are there once; the returned model shares them with the given one (see `UnlearnResult.merged`).
    stop : callable (model, epoch) -> bool, optional
        After every epoch; True ends the training there.
    callbacks : sequence of callable (model, epoch, nll float64 (n,))
        After every epoch.
    alternatives : sequence of str, optional
        For ``dpo`` one response a datapoint, to be given in place of the forgotten one. For ``idk_dpo`` lines to draw from, by
        default `I_DO_NOT_KNOW`.
    spans : sequence of n lists of (start, end), optional
        Characters of each text (of each response) that are to be forgotten; all other tokens are read but not counted.
    holdout : as ``forget``, optional
        Texts of the same kind that no model saw, for methods that aim at their likelihood.
    inplace : bool
        Train the given model itself.
    checkpoint : path, optional
        Folder that the state is kept in after every epoch. Called again with the same folder, an interrupted run goes on from
        there and ends with the same weights as one that was not interrupted; a finished one is given back.
    random_state : int
        Of order, adapters, dropout, noise and drawn alternatives; torch's own state is not touched.
    device : torch.device or str, optional
        Where to train; by default where the model is.
    ids : sequence (n,), optional
        Of the datapoints to forget, in place of the data's own.
    progress : callable (steps done, steps), optional
    accumulation : int
        Forwards an update: the mean over their batches.
    dropout : bool
        Train with the model's dropout; off by default, so that the first step compares a model with itself.
    reference_top_k : int, optional
        For ``_klr``: keep the reference's so many likeliest tokens a label in memory in place of computing it anew every step.
    log_gradients : bool
        Also record the lengths of the forget and the retain gradients.
    optimizer : callable (list of Parameter) -> torch.optim.Optimizer, optional
        In place of AdamW without weight decay.
    **options
        Of the method (its ``defaults``), and ``noise`` (first weights shaken by so many standard deviations), ``layer`` (of
        ``_embed``), ``variant="muse-logits"`` (``npo`` and ``_klr`` as MUSE's code has them).

    Returns
    -------
    UnlearnResult

    Raises
    ------
    EmptyData
        Nothing to forget, or no retain texts where the method needs them.
    SchemaMismatch
        A text or id to forget is also to be retained or held out.
    NotFinite
        The loss became NaN or infinite: the step and the ids are named, the last good weights are restored, and the error's
        ``result`` holds them.
    UnknownName, ModelMismatch, DatumwiseError

    Examples
    --------
    >>> from transformers import AutoModelForCausalLM, AutoTokenizer  # doctest: +SKIP
    >>> result = unlearn(model, tokenizer, ["a secret text"], retain=["a public text"], method="npo_klr")  # doctest: +SKIP
    >>> result.per_datapoint_nll.shape  # doctest: +SKIP
    (1, 11)
    """
    began = time.perf_counter()
    asked = asked_for(
        model, tokenizer, forget, retain, method=method, alpha=alpha, gamma=gamma, beta=beta, lr=lr, epochs=epochs,
        batch_size=batch_size, max_length=max_length, max_grad_norm=max_grad_norm, lora=lora, alternatives=alternatives,
        spans=spans, holdout=holdout, random_state=random_state, ids=ids, accumulation=accumulation, dropout=dropout,
        reference_top_k=reference_top_k, options=options,
    )  # fmt: skip
    if asked.way.run is not None:
        given = {
            "alpha": alpha, "gamma": gamma, "lora": lora, "holdout": holdout, "spans": spans, "alternatives": alternatives,
            "stop": stop, "callbacks": callbacks or None, "checkpoint": checkpoint,
        }  # fmt: skip
        extra = {name: value for name, value in given.items() if value is not None}
        return _run(model, tokenizer, asked, extra, inplace=inplace, device=device, progress=progress, began=began)
    signature = ""
    if checkpoint is not None:
        tokens = [t for part in asked.parts.values() for item in part.items for t in (item.input_ids, item.labels)]
        settled = {name: value for name, value in asked.used.items() if name != "epochs"}
        signature = run_signature(settled, asked.forget.ids, model_fingerprint(model), *tokens)
    way, settings = asked.way, asked.settings
    with ExitStack() as stack:
        if lora:
            trained: Any = adapted(model, lora, inplace=inplace, seed=random_state)
        else:
            trained = model if inplace else copied(model)
        if device is not None and not getattr(trained, "hf_device_map", None):
            trained.to(device)
        _put_back(stack, trained, trained if lora else model)
        wanted = partial(_wanted, way.trains, settings) if way.trains is not None and not lora else None
        parameters = trained_parameters(trained, wanted)
        for name, p in trained.named_parameters():
            p.requires_grad_(name in parameters)
        stack.enter_context(resting(trained))
        reference = _reference(trained, model, asked, reference_top_k, inplace=inplace, lora=bool(lora))
        context = Context(
            trained, tokenizer, asked.forget, asked.parts.get("retain"), asked.parts.get("holdout"),
            asked.parts.get("alternatives"), reference, {**settings, "alpha": asked.alpha, "gamma": asked.gamma}, random_state,
        )  # fmt: skip
        state = way.prepare(context)
        plan = Plan(
            way, asked.term, asked.alpha, asked.gamma, context.options, asked.lr, asked.epochs, batch_size, accumulation,
            max_grad_norm, dropout, log_gradients, optimizer,
        )  # fmt: skip
        if settings.get("noise") and asked.epochs:
            shake(parameters, float(settings["noise"]), seed=random_state)
        prepared = time.perf_counter() - began
        try:
            run = train(
                trained, parameters, context, state, plan, stop=stop, callbacks=callbacks,
                checkpoint=None if checkpoint is None else Path(checkpoint), signature=signature, progress=progress,
            )  # fmt: skip
        except NotFinite as error:
            reached = getattr(error, "run", None)
            if reached is not None:
                error.result = _result(trained, asked, reached, prepared)  # type: ignore[attr-defined]
            raise
    return _result(trained, asked, run, prepared)


def _run(
    model: Any,
    tokenizer: Any,
    asked: Asked,
    extra: Mapping[str, Any],
    *,
    inplace: bool,
    device: Any,
    progress: Callable[[int, int], None] | None,
    began: float,
) -> UnlearnResult:
    """A method that is a function: measured before and after."""
    way = asked.way
    assert way.run is not None
    refuse_unnamed(way, extra)
    before = asked.forget.by_document(measured_nll(model, asked.forget))
    used = asked.used
    trained = way.run(
        model, tokenizer, asked.texts, asked.kept, lr=asked.lr, epochs=asked.epochs, batch_size=used["batch_size"],
        max_length=used["max_length"], max_grad_norm=used["max_grad_norm"], random_state=used["random_state"],
        inplace=inplace, device=device, progress=progress, **{**asked.settings, **extra},
    )  # fmt: skip
    after = asked.forget.by_document(measured_nll(trained, asked.forget))
    run = Run([], [before, after], asked.alpha, asked.epochs)
    return _result(trained, asked, run, time.perf_counter() - began)


def _result(trained: Any, asked: Asked, run: Run, prepared: float) -> UnlearnResult:
    return UnlearnResult(
        trained, run.history, np.stack(run.nll, axis=1), asked.forget.ids, run.epoch, prepared + run.seconds,
        asked.used["method"], asked.used, run.stopped, asked.left_out, asked.notes,
    )  # fmt: skip


def _wanted(trains: Callable[[str, Mapping[str, Any]], bool], settings: Mapping[str, Any], name: str) -> bool:
    return trains(name, settings)


def _put_back(stack: ExitStack, trained: Any, model: Any) -> None:
    """Afterwards, also after an error: gradients gone, and which parameters ask for them as in ``model`` before."""
    flags = {name: p.requires_grad for name, p in model.named_parameters()}

    def back() -> None:
        for name, p in trained.named_parameters():
            p.grad = None
            p.requires_grad_(flags.get(name, p.requires_grad))

    stack.callback(back)


def _reference(trained: Any, model: Any, asked: Asked, top_k: int | None, *, inplace: bool, lora: bool) -> Reference:
    """The model that holds the first weights while another is trained; a copy only where there is no other way."""
    published = asked.settings.get("variant", "exact") == "muse-logits"
    kept = None if published else top_k
    term, size = asked.term, asked.used["batch_size"]
    again = asked.way.needs_reference in ("logits", "hidden") or published or term == "embed" or (term == "klr" and not kept)
    if lora:
        reference = Reference(trained, asked.parts, held=trained.disable_adapter, top_k=kept, batch_size=size)
    elif not inplace:
        reference = Reference(model, asked.parts, held=nullcontext, top_k=kept, batch_size=size)
    else:
        frozen = copied(model).requires_grad_(False) if again else model
        reference = Reference(frozen, asked.parts, top_k=kept, batch_size=size)
    if kept and term == "klr":
        reference.fill("retain")
    return reference
