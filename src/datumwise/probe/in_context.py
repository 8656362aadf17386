"""How well does a language model answer after k solved examples? In-context learning, the examples read once for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, name_some
from datumwise.probe.multiple_choice import MultipleChoice, Template

__all__ = ["ICL", "choice_probabilities"]

MAX_NEW_TOKENS = 256  # of an answer that is written out


class ICL:
    """A learner that learns from k examples in its prompt.

    Parameters
    ----------
    model, tokenizer : causal language model
    k : int, default 10
        Examples; the published number is 10, or 8 with reasoning.
    template : Template
    normalise : {"sum", "token", "char"}
        Of a choice's log-probability; longer answers lose under "sum".
    reasoning : bool, default False
        Answers are written out after reasoning (the fact ``reasoning`` of the examples) and compared by exact match,
        instead of choices being scored.
    trigger : str
        What the answer follows where it is written out.
    max_new_tokens : int
    instruction : str
        In front of a written-out answer where there is no example: "let's think step by step".

    Attributes
    ----------
    shots_ : int
        Examples that were in the last prompt: whole ones are dropped from the front where the context is too short.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        k: int = 10,
        *,
        template: Template = Template(),  # noqa: B008 - frozen
        normalise: str = "sum",
        reasoning: bool = False,
        trigger: str = "So the answer is",
        max_new_tokens: int = MAX_NEW_TOKENS,
        instruction: str = " Let's think step by step.",
    ) -> None:
        if k < 0:
            raise DatumwiseError(f"k must be at least 0; got {k}")
        self.model = model
        self.tokenizer = tokenizer
        self.k = k
        self.template = template
        self.normalise = normalise
        self.reasoning = reasoning
        self.trigger = trigger
        self.max_new_tokens = max_new_tokens
        self.instruction = instruction
        self.shots_ = 0

    def __repr__(self) -> str:
        return f"ICL(k={self.k})"

    def choose(
        self,
        data: MultipleChoice,
        train: Any,
        test: Any,
        seed: int = 0,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Probabilities of the choices of ``test`` after k examples out of ``train``.

        Parameters
        ----------
        data : MultipleChoice
        train, test : int arrays
            Rows; ``train`` may be empty: zero-shot.
        seed : int
            Draws and orders the examples.
        progress : callable (done, total), optional

        Returns
        -------
        float64 (len(test), m)
            Softmax over an item's choices; 0 where there is none.
        """
        from datumwise.probe.score_choices import score_choices

        test = np.asarray(test)
        prompts = [self.template.prompt(data.questions[i]) for i in test]
        choices = [[self.template.choice(c) for c in data.choices[i]] for i in test]
        longest = max((p + max(own, key=len) for p, own in zip(prompts, choices, strict=True)), key=len)
        prefix = self._prefix(data, train, seed, longest)
        scores = score_choices(
            self.model,
            self.tokenizer,
            prompts,
            choices,
            normalise=self.normalise,
            prefix=prefix,
            ids=data.ids[test].tolist(),
            progress=progress,
        )
        return choice_probabilities(scores, int(data.n_choices.max()), ids=data.ids[test])

    def write(
        self,
        data: MultipleChoice,
        train: Any,
        test: Any,
        seed: int = 0,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """Answers to ``test`` written out after k worked examples out of ``train``, greedily."""
        from datumwise.probe.generate import generate

        test = np.asarray(test)
        asked = "" if len(train) and self.k else self.instruction
        prompts = [self.template.prompt(data.questions[i]) + asked for i in test]
        longest = max(prompts, key=len)
        prefix = self._prefix(data, train, seed, longest, after=self.max_new_tokens)
        return generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=self.max_new_tokens,
            stop=self.template.between or None,
            prefix=prefix,
            ids=data.ids[test].tolist(),
            progress=progress,
        )

    def unsupervised(self, data: MultipleChoice, test: Any) -> ICL:
        """The same model without examples."""
        return ICL(
            self.model,
            self.tokenizer,
            0,
            template=self.template,
            normalise=self.normalise,
            reasoning=self.reasoning,
            trigger=self.trigger,
            max_new_tokens=self.max_new_tokens,
            instruction=self.instruction,
        )

    def _prefix(self, data: MultipleChoice, train: Any, seed: int, longest: str, after: int = 0) -> str:
        """Lead and examples, as many as leave room for the longest item."""
        from datumwise.probe.collate import context_length

        train = np.asarray(train, dtype=np.int64)
        rng = np.random.default_rng(seed)
        drawn = rng.permutation(train)[: self.k]
        worked = data.facts.get("reasoning") if self.reasoning else None
        if self.reasoning and worked is None and len(drawn):
            raise EmptyData("the questions carry no reasoning to show", remedy="give facts={'reasoning': [...]}")
        answers = data.answers
        examples = [self.template.example(data.questions[i], answers[i], None if worked is None else worked[i]) for i in drawn]
        limit = context_length(self.model, self.tokenizer)
        if limit is not None and examples:
            pieces = [self.template.lead, longest, *examples]
            ids = self.tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
            lengths = [len(own) for own in ids]
            room = limit - after - lengths[0] - lengths[1] - 2 - len(examples)  # a token a seam may be added or lost
            while examples and sum(lengths[-len(examples) :]) > room:
                examples = examples[1:]
        self.shots_ = len(examples)
        return self.template.lead + "".join(examples)


def choice_probabilities(scores: list[np.ndarray], width: int, ids: Any = None) -> np.ndarray:
    """Softmax of the log-probabilities of each item's choices, float64 (n, width), 0 beyond an item's choices.

    Raises
    ------
    NotFinite
        All choices of an item have probability NaN or 0; names the items.

    Examples
    --------
    >>> choice_probabilities([np.log([0.2, 0.2]), np.log([0.1, 0.1, 0.2])], 3)
    array([[0.5 , 0.5 , 0.  ],
           [0.25, 0.25, 0.5 ]])
    """
    out = np.zeros((len(scores), width))
    bad = [i for i, own in enumerate(scores) if np.isnan(own).any() or not np.isfinite(own).any()]
    if bad:
        named = bad if ids is None else np.asarray(ids)[bad].tolist()
        raise NotFinite(f"no choice of {name_some(named)} has a probability", ids=named)
    for i, own in enumerate(scores):
        p = np.exp(own - own.max())
        out[i, : len(own)] = p / p.sum()
    return out
