"""What was asked of `unlearn`, checked at the door: the method, its options, the texts as token ids, the defaults taken."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch, UnknownName, name_some
from datumwise.forget.loss_methods import I_DO_NOT_KNOW
from datumwise.forget.methods import Method, find_method
from datumwise.forget.reference import decoder_layer
from datumwise.forget.sequences import Sequences, Spans, alternatives_of, encode_sequences
from datumwise.forget.texts import Texts, as_texts, refuse_overlap
from datumwise.forget.trained_copy import lora_config
from datumwise.probe.collate import context_length, padding_id, special_start

__all__ = ["Asked", "asked_for", "default_rate", "refuse_unnamed"]

LONGEST = 2048  # tokens of a sequence where the model reads more
RATE, RATE_AT, MOST = 1e-5, 7e9, 1e-3  # the published learning rate, weights of the model it is of, and the largest by default
ADAPTER_RATE, EPOCHS = 2e-4, 10
COMMON = ("noise", "layer", "variant")  # options of any method with a loss
TRAINING = ("lr", "epochs", "alpha", "gamma")  # of a method's defaults, those that are arguments of `unlearn`
ARGUMENTS = (*TRAINING, "batch_size", "max_length", "max_grad_norm", "inplace", "random_state", "device", "progress")


@dataclass(frozen=True)
class Asked:
    """A request that can be carried out.

    Attributes
    ----------
    way : Method
    term : str
        Retain term.
    alpha, gamma, lr : float
    epochs : int
    settings : dict
        Options of the method.
    texts, kept : Texts, and Texts or None
        To forget and to retain.
    forget : Sequences
    parts : dict of str to Sequences
        ``forget`` and, where given, ``retain``, ``holdout`` and ``alternatives``.
    used : dict
        All settings as numbers and names.
    notes, left_out : list of str
    """

    way: Method
    term: str
    alpha: float
    gamma: float
    lr: float
    epochs: int
    settings: dict[str, Any]
    texts: Texts
    kept: Texts | None
    parts: dict[str, Sequences]
    used: dict[str, Any]
    notes: list[str]
    left_out: list[str]

    @property
    def forget(self) -> Sequences:
        return self.parts["forget"]


def default_rate(model: Any) -> float:
    """The published 1e-5 of 7 billion weights; more, by the root of their number, for fewer; 1e-3 at most.

    Examples
    --------
    >>> import torch
    >>> default_rate(torch.nn.Linear(8, 8))
    0.001
    """
    n = sum(p.numel() for p in model.parameters())
    return float(np.clip(RATE * np.sqrt(RATE_AT / max(n, 1)), RATE, MOST))


def asked_for(
    model: Any,
    tokenizer: Any,
    forget: Any,
    retain: Any,
    *,
    method: str,
    alpha: float | None,
    gamma: float | None,
    beta: float | None,
    lr: float | None,
    epochs: int | None,
    batch_size: int,
    max_length: int | None,
    max_grad_norm: float | None,
    lora: Any,
    alternatives: Sequence[str] | None,
    spans: Spans | None,
    holdout: Any,
    random_state: int,
    ids: Sequence[Any] | None,
    accumulation: int,
    dropout: bool,
    reference_top_k: int | None,
    options: Mapping[str, Any],
) -> Asked:
    """Check a request and tokenise its texts; the arguments are those of `unlearn`.

    Raises
    ------
    EmptyData, SchemaMismatch, UnknownName, DatumwiseError, ModelMismatch, MissingExtra
    """
    way, suffix = find_method(method)
    for name, value, least in (
        ("batch_size", batch_size, 1), ("accumulation", accumulation, 1), ("epochs", epochs, 0), ("lr", lr, 0),
        ("max_length", max_length, 2), ("reference_top_k", reference_top_k, 1),
    ):  # fmt: skip
        if value is not None and not value >= least:
            raise DatumwiseError(f"{name} is {value}", remedy=f"it must be {least} or more")
    settings = _settings(way, options, beta, method)
    own = {name: settings.pop(name) for name in TRAINING if name in settings}
    lr = float(lr if lr is not None else own.get("lr", ADAPTER_RATE if lora else default_rate(model)))
    epochs = int(epochs if epochs is not None else own.get("epochs", EPOCHS))
    weights = {"alpha": alpha, "gamma": gamma}
    alpha, gamma = (float(own.get(name, 1.0) if value is None else value) for name, value in weights.items())

    texts = as_texts(forget, ids)
    kept = None if retain is None else as_texts(retain)
    unseen = None if holdout is None else as_texts(holdout)
    if kept is None and (suffix is not None or way.retain_required):
        raise EmptyData(f"{method} needs retain texts and none were given", remedy="pass retain=, or choose a method without")
    for name, other in (("retain", kept), ("holdout", unseen)):
        if other is not None:
            refuse_overlap(texts, other, name)
    longest, padding = _longest(model, tokenizer, max_length), padding_id(tokenizer)
    parts = {"forget": encode_sequences(tokenizer, texts, longest, padding=padding, spans=spans)}
    if way.run is None:
        for name, other in (("retain", kept), ("holdout", unseen)):
            if other is not None:
                parts[name] = encode_sequences(tokenizer, other, longest, padding=padding, name=name)
        if way.needs_alternative:
            lines = _alternative_lines(way.name, alternatives, texts, random_state)
            parts["alternatives"] = alternatives_of(tokenizer, parts["forget"], texts, lines, longest)
        elif alternatives is not None:
            raise UnknownName(f"{method} takes no alternatives", remedy="use dpo or idk_dpo")
    term = suffix or (way.retain if kept is not None else "none")
    _check_variant(method, way, term, settings)
    if way.reads == "hidden" or term == "embed":
        decoder_layer(model, int(settings.get("layer", -1)))
    used = {
        "method": method, "retain_term": term, "alpha": alpha, "gamma": gamma, "lr": lr, "epochs": epochs,
        "batch_size": batch_size, "accumulation": accumulation, "max_length": longest, "max_grad_norm": max_grad_norm,
        "random_state": random_state, "dropout": dropout, "reference_top_k": reference_top_k, "localised": spans is not None,
        "lora": _plain(lora_config(lora)) if lora else None, **settings,
    }  # fmt: skip
    left_out = [*texts.empty, *parts["forget"].left_out]
    notes = _notes(tokenizer, padding, parts["forget"], left_out)
    return Asked(way, term, alpha, gamma, lr, epochs, settings, texts, kept, parts, used, notes, left_out)


def refuse_unnamed(way: Method, given: Mapping[str, Any]) -> None:
    """Refuse arguments of `unlearn` that a method's function does not name.

    Raises
    ------
    UnknownName
    """
    unnamed = sorted(set(given) - set(_arguments(way)))
    if unnamed:
        raise UnknownName(f"{way.name} does not take {name_some(unnamed)}", remedy="leave it out, or use a method with a loss")


def _settings(way: Method, options: Mapping[str, Any], beta: float | None, method: str) -> dict[str, Any]:
    """The method's defaults under the user's options.

    Raises
    ------
    UnknownName
        An option that the method does not take.
    """
    asked = dict(options) | ({} if beta is None else {"beta": beta})
    known = set(way.defaults) | set(COMMON if way.run is None else _arguments(way))
    unknown = sorted(set(asked) - known)
    if unknown:
        own = sorted(known - set(ARGUMENTS) - set(COMMON))
        raise UnknownName(
            f"{method} has no option {name_some(unknown)}", remedy=f"it takes {', '.join(own)}" if own else "it takes none"
        )
    return dict(way.defaults) | asked


def _check_variant(method: str, way: Method, term: str, settings: Mapping[str, Any]) -> None:
    """Refuse a variant that neither the method nor its retain term has.

    Raises
    ------
    UnknownName
    """
    known = list(dict.fromkeys(("exact", *way.variants, *(("muse-logits",) if term == "klr" else ()))))
    if way.run is None and settings.get("variant", "exact") not in known:
        raise UnknownName(f"{method} has no variant {settings['variant']!r}", remedy=f"choose {' or '.join(known)}")


def _arguments(way: Method) -> list[str]:
    """Names that a method's function takes behind the model, the tokenizer and the texts."""
    assert way.run is not None
    named = list(inspect.signature(way.run).parameters.values())[4:]
    return [p.name for p in named if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _longest(model: Any, tokenizer: Any, max_length: int | None) -> int:
    readable = context_length(model, tokenizer)
    if max_length is None:
        return LONGEST if readable is None else min(LONGEST, readable)
    if readable is not None and max_length > readable:
        raise DatumwiseError(f"max_length is {max_length} and the model reads {readable} tokens", remedy="pass at most that")
    return max_length


def _alternative_lines(name: str, alternatives: Sequence[str] | None, texts: Texts, random_state: int) -> list[str]:
    """One response a datapoint: the user's, or drawn lines that say nothing is known."""
    if name == "idk_dpo":
        lines = list(I_DO_NOT_KNOW if alternatives is None else alternatives)
        if not lines:
            raise EmptyData("there is no line to draw from", remedy="leave alternatives out for the default ones")
        drawn = np.random.default_rng([random_state, 1]).integers(len(lines), size=len(texts))
        return [lines[int(k)] for k in drawn]
    if alternatives is None:
        raise EmptyData(
            f"{name} needs a response to give in place of each forgotten one", remedy="pass alternatives=, or use idk_dpo"
        )
    if len(alternatives) != len(texts):
        raise SchemaMismatch(f"there are {len(alternatives):,} alternatives for {len(texts):,} texts to forget")
    return list(alternatives)


def _notes(tokenizer: Any, padding: int, sequences: Sequences, left_out: Sequence[str]) -> list[str]:
    notes = []
    if getattr(tokenizer, "pad_token_id", None) is None:
        notes.append(f"the tokenizer has no padding token: {padding} fills up batches, and is masked by length")
    if not len(special_start(tokenizer)):
        notes.append("the tokenizer begins no text with a special token: the first token of each is not predicted")
    if left_out:
        notes.append(f"{len(left_out):,} texts have no token to predict and were left out ({name_some(left_out)})")
    cut = int(np.sum(np.bincount(sequences.document) > 1))
    if cut:
        notes.append(f"{cut:,} texts were longer than a sequence and are trained in pieces")
    return notes


def _plain(config: Any) -> dict[str, Any]:
    """A `LoraConfig` as numbers and names."""
    kept = {name: value for name, value in config.to_dict().items() if value not in (None, {}, [], False)}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in kept.items()}
