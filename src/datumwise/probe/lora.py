"""How well does a language model answer after fine-tuning on n examples? Low-rank adapters: Hu et al., 2022.

Settings of Hase et al., 2024 (published code): rank 16 on query and value projections, softmax over the answers' summed
log-probabilities, 3 epochs and at least 10 updates. A base model that was loaded in 8 or 4 bit (QLoRA) is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, UnknownName
from datumwise.probe.fine_tune import adapters, descend, token_logprobs
from datumwise.probe.in_context import ICL
from datumwise.probe.multiple_choice import MultipleChoice, Template

if TYPE_CHECKING:
    import torch

__all__ = ["LoRALearner", "Schedule", "finetune_schedule"]

EFFECTIVE_BATCH = 50  # items an update, at most
EPOCHS = 3
MIN_UPDATES = 10


@dataclass(frozen=True)
class Schedule:
    """How often a fine-tuning run goes through its items.

    Attributes
    ----------
    epochs : int
    batch : int
        Texts (items x choices) in one forward pass.
    accumulation : int
        Forward passes an update.
    """

    epochs: int
    batch: int
    accumulation: int


def finetune_schedule(n: int, choices: int, batch: int = 8) -> Schedule:
    """Epochs, batch and accumulation for n items: updates of at most 50 items, 3 epochs, at least 10 updates.

    Parameters
    ----------
    n : int
        Training items.
    choices : int
        Choices of an item.
    batch : int
        Texts that fit in one forward pass.

    Examples
    --------
    >>> finetune_schedule(160, 4, 8)
    Schedule(epochs=3, batch=8, accumulation=25)
    >>> finetune_schedule(20, 1, 8)
    Schedule(epochs=10, batch=8, accumulation=2)
    """
    if min(n, choices, batch) < 1:
        raise DatumwiseError(f"a schedule needs n, choices and batch of at least 1; got {n}, {choices} and {batch}")
    effective = min(n, EFFECTIVE_BATCH)
    updates = math.ceil(n / effective)  # an epoch
    batch = min(batch, n * choices)
    return Schedule(
        epochs=max(EPOCHS, math.ceil(MIN_UPDATES / updates)),
        batch=batch,
        accumulation=max(1, effective // max(1, batch // choices)),
    )


class LoRALearner:
    """A learner that fine-tunes low-rank adapters; the base model is left as it was.

    Parameters
    ----------
    model, tokenizer : causal language model
    peft_config : peft.LoraConfig, optional
        Default rank 16, alpha 32, dropout 0.1 on the family's query and value projections.
    lr : float, default 1e-4
        Falls linearly to a tenth.
    weight_decay : float, default 1e-5
        None on vectors (norms and biases).
    batch : int, default 8
        Texts in one forward pass.
    epochs : int, optional
        Default by `finetune_schedule`.
    objective : {"choice", "language"}
        Softmax over the answers' scores; or the likelihood of reasoning and answer, where there is reasoning.
    template : Template
    normalise : {"sum", "token"}
        Of an answer's score, in training and in testing.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        peft_config: Any = None,
        *,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        batch: int = 8,
        epochs: int | None = None,
        objective: Literal["choice", "language"] = "choice",
        template: Template = Template(),  # noqa: B008 - frozen
        normalise: str = "sum",
    ) -> None:
        if objective not in ("choice", "language"):
            raise UnknownName(f"there is no objective {objective!r}", remedy="choose choice or language")
        if normalise not in ("sum", "token"):
            raise UnknownName(f"fine-tuning knows no normalisation {normalise!r}", remedy="choose sum or token")
        self.model = model
        self.tokenizer = tokenizer
        self.peft_config = peft_config
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch = batch
        self.epochs = epochs
        self.objective = objective
        self.template = template
        self.normalise = normalise
        self.losses_: list[float] = []

    def __repr__(self) -> str:
        return f"LoRALearner(lr={self.lr:g})"

    def choose(
        self,
        data: MultipleChoice,
        train: Any,
        test: Any,
        seed: int = 0,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Probabilities of the choices of ``test``, float64 (len(test), m), after fine-tuning on ``train``.

        Sets ``losses_``, the mean loss of each update. The adapters are removed afterwards, also on an error.
        """
        train = np.asarray(train, dtype=np.int64)
        if not len(train):
            raise EmptyData("there is nothing to fine-tune on")
        with adapters(self.model, self.peft_config, seed=seed) as adapted:
            self.losses_ = self._train(adapted, data, train, seed, progress)
            scorer = ICL(adapted, self.tokenizer, 0, template=self.template, normalise=self.normalise)
            return scorer.choose(data, [], test, seed)

    def unsupervised(self, data: MultipleChoice, test: Any) -> ICL:
        """The base model without examples."""
        return ICL(self.model, self.tokenizer, 0, template=self.template, normalise=self.normalise)

    def _train(
        self,
        model: Any,
        data: MultipleChoice,
        train: np.ndarray,
        seed: int,
        progress: Callable[[int, int], None] | None,
    ) -> list[float]:
        most = int(data.n_choices[train].max())
        plan = finetune_schedule(len(train), most, self.batch)
        items = [self._encoded(data, int(row)) for row in train]
        return descend(
            model,
            len(train),
            lambda rows: self._loss(model, [items[i] for i in rows]),
            lr=self.lr, weight_decay=self.weight_decay, epochs=plan.epochs if self.epochs is None else self.epochs,
            effective=min(len(train), EFFECTIVE_BATCH), per_pass=max(1, plan.batch // most), seed=seed, progress=progress,
        )  # fmt: skip

    def _encoded(self, data: MultipleChoice, row: int) -> tuple[list[Any], int]:
        """Token ids of an item's texts, only answers to be predicted, and the index of the right one."""
        from datumwise.probe.collate import context_length, encode_texts

        prompt = self.template.lead + self.template.prompt(data.questions[row])
        gold = int(data.gold[row])
        if self.objective == "language":
            worked = data.facts.get("reasoning")
            answer = data.choices[row][gold]
            told = [self.template.choice(answer) if worked is None else self.template.worked(worked[row], answer)]
            gold = 0
        else:
            told = [self.template.choice(c) for c in data.choices[row]]
        limit = context_length(self.model, self.tokenizer)
        return encode_texts(self.tokenizer, [(prompt, one) for one in told], limit), gold

    def _loss(self, model: Any, items: list[tuple[list[Any], int]]) -> torch.Tensor:
        """Sum over items of -log softmax of the right choice's score, or of -log p of the right text."""
        import torch

        texts = [text for own, _ in items for text in own]
        log_p, rows = token_logprobs(model, self.tokenizer, texts)
        if self.objective == "language":
            return -log_p.sum()
        scores = torch.zeros(len(texts), device=log_p.device).index_add(0, rows, log_p)
        if self.normalise == "token":
            scores = scores / torch.bincount(rows, minlength=len(texts))
        losses, at = [], 0
        for own, gold in items:
            losses.append(-torch.log_softmax(scores[at : at + len(own)], dim=0)[gold])
            at += len(own)
        return torch.stack(losses).sum()
