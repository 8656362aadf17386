"""Which ways of unlearning a language model are there? One entry a method; others add theirs with `register_method`.

A name may end in ``_gdr``, ``_klr`` or ``_embed``: that retain term is added to the method's own loss (Shi et al., 2024, MUSE).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from datumwise.errors import DatumwiseError, UnknownName

if TYPE_CHECKING:
    import torch

    from datumwise.forget.reference import Reference
    from datumwise.forget.sequences import Sequences

__all__ = ["METHODS", "RETAIN_TERMS", "Context", "Method", "find_method", "register_method"]

RETAIN_TERMS = {
    "none": "nothing but the method's own loss",
    "gdr": "mean negative log-likelihood of the retained tokens (gradient descent on the retain set)",
    "klr": "mean KL(reference || model) over the retained tokens (Kullback-Leibler on the retain set)",
    "embed": "mean squared distance of the hidden states of the retained tokens from the reference's",
}


@dataclass(frozen=True)
class Context:
    """What a method's ``prepare`` is given, once, before the first step: the model still has its first weights.

    Attributes
    ----------
    model : torch.nn.Module
        The model that will be trained, in evaluation mode.
    tokenizer : transformers tokenizer
    forget : Sequences
        What is forgotten, tokenised: ``forget.items[row]`` is an `Encoded`, ``forget.document[row]`` the datapoint it is of.
    retain, holdout : Sequences or None
    alternatives : Sequences or None
        One for every row of ``forget``.
    reference : Reference
        ``nll(part)``, ``logits(part, rows)`` and ``hidden(part, rows, layer)`` of the first weights.
    options : dict
        The method's defaults under the user's options.
    random_state : int
    """

    model: Any
    tokenizer: Any
    forget: Sequences
    retain: Sequences | None
    holdout: Sequences | None
    alternatives: Sequences | None
    reference: Reference
    options: Mapping[str, Any]
    random_state: int = 0


def _nothing(context: Context) -> None:
    """No state."""
    return None


@dataclass(frozen=True)
class Method:
    """A way of unlearning, declared once: a loss for the training of `unlearn`, or a function that does it all.

    Attributes
    ----------
    name : str
    source, summary : str
        Where it is from; what it minimises, in one line.
    forget_loss : callable, optional
        ``forget_loss(logits, labels, rows, state, options) -> Tensor ()``, to be minimised. ``logits`` float (B, T, V) as the
        model gives them (hidden states (B, T, d) of layer ``options["layer"]`` where ``reads`` is ``"hidden"``); ``labels``
        int64 (B, T) with -100 where a token does not count, the shift is the loss's; ``rows`` int64 array (B,), which
        sequences of ``context.forget``. With ``needs_alternative`` also ``alternative=(logits, labels)``.
    prepare : callable, optional
        ``prepare(context) -> state``, once before training.
    run : callable, optional
        In place of a loss: ``run(model, tokenizer, forget, retain, **options) -> model``, with `Texts` (``.ids``, ``.items``),
        ``retain`` perhaps None. The options are the method's ``defaults`` under the user's, with ``lr``, ``epochs``,
        ``batch_size``, ``max_length``, ``max_grad_norm``, ``inplace``, ``random_state``, ``device`` and ``progress``; and
        ``alpha``, ``gamma``, ``beta``, ``lora``, ``holdout``, ``spans`` (as `unlearn` was given them) where the user gives them
        and the function names them. It must leave the model alone unless ``inplace``.
    needs_reference : {"none", "nll", "logits", "hidden"}
        What of the first weights is needed while training.
    needs_alternative : bool
        A response is needed that is to be given in place of the forgotten one.
    reads : {"logits", "hidden"}
    retain : str
        Retain term where the name has no suffix and retain texts are given.
    retain_required : bool
        There is no such method without retain texts.
    retain_weight : callable, optional
        ``retain_weight(weight, retain_loss, epoch, options) -> float``: after each step, the next weight of the retain term,
        which begins at ``alpha`` and is constant by default. Epochs count from 1.
    trains : callable, optional
        ``trains(parameter name, options) -> bool``: which parameters are trained; all by default.
    variants : tuple of str
        Beside ``"exact"``: how published codes have it, where that is another thing (``options["variant"]``).
    defaults : dict
        Of its options, and of ``lr``, ``epochs``, ``alpha`` and ``gamma`` where its source has its own.
    """

    name: str
    source: str
    summary: str
    forget_loss: Callable[..., torch.Tensor] | None = None
    prepare: Callable[[Context], Any] = _nothing
    run: Callable[..., Any] | None = None
    needs_reference: Literal["none", "nll", "logits", "hidden"] = "none"
    needs_alternative: bool = False
    reads: Literal["logits", "hidden"] = "logits"
    retain: str = "none"
    retain_required: bool = False
    retain_weight: Callable[[float, float, int, Mapping[str, Any]], float] | None = None
    trains: Callable[[str, Mapping[str, Any]], bool] | None = None
    variants: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.forget_loss is None) == (self.run is None):
            raise DatumwiseError(f"method {self.name} must have either forget_loss or run")
        if self.retain not in RETAIN_TERMS:
            raise UnknownName(f"there is no retain term {self.retain!r}", remedy=f"choose {', '.join(RETAIN_TERMS)}")


METHODS: dict[str, Method] = {}


def register_method(method: Method, *, replace: bool = False) -> Method:
    """Make a method known by its name.

    Raises
    ------
    DatumwiseError
        Another method has the name, and it is not to be replaced; or the name ends like a retain term.
    """
    if any(method.name.endswith(f"_{term}") for term in RETAIN_TERMS):
        raise DatumwiseError(f"{method.name} ends like a retain term", remedy=f"choose another end than {_suffixes()}")
    there = METHODS.get(method.name)
    if there is not None and not replace:
        raise DatumwiseError(f"there is a method {method.name} already ({there.source})", remedy="pass replace=True")
    METHODS[method.name] = method
    return method


def find_method(name: str) -> tuple[Method, str | None]:
    """The method of a name, and the retain term of the name's suffix (None without one).

    Raises
    ------
    UnknownName
        Lists the known ones.

    Examples
    --------
    >>> method, term = find_method("npo_klr")
    >>> method.name, term
    ('npo', 'klr')
    >>> find_method("npo_token")[1] is None
    True
    """
    if name in METHODS:
        return METHODS[name], None
    stem, _, suffix = name.rpartition("_")
    if stem in METHODS and suffix in RETAIN_TERMS and suffix != "none":
        if METHODS[stem].run is not None:
            raise UnknownName(f"{stem} has no loss that a retain term could be added to", remedy=f"use {stem}")
        return METHODS[stem], suffix
    raise UnknownName(
        f"there is no unlearning method {name!r}",
        remedy=f"known are {', '.join(sorted(METHODS))}; each with a loss also with {_suffixes()}",
    )


def _suffixes() -> str:
    return ", ".join(f"_{term}" for term in RETAIN_TERMS if term != "none")


# the methods of this package register themselves when imported; last, because they need what is above
import datumwise.forget.calibrated  # noqa: E402
import datumwise.forget.curvature_methods  # noqa: E402
import datumwise.forget.loss_methods  # noqa: E402
import datumwise.forget.weight_methods  # noqa: E402, F401
