"""One way to ask a chat model, whoever it is: a function of the user's, or a transformers model with its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datumwise.errors import ModelMismatch, SchemaMismatch

__all__ = ["Chat", "as_chat"]

Chat = Callable[[Sequence[str]], Sequence[str]]  # n messages of a user -> n answers


def as_chat(judge: Any, *, max_new_tokens: int = 256, temperature: float = 0.0, seed: int = 0) -> Chat:
    """A function from messages to answers.

    Parameters
    ----------
    judge : callable, or (model, tokenizer)
        A function that takes n messages and returns n answers (an API client, a served model), or a causal language
        model of transformers with its tokenizer, whose chat template is used where it has one.
    max_new_tokens, temperature, seed
        Of a transformers model; greedy by default.

    Returns
    -------
    callable
        Refuses, by `SchemaMismatch`, answers that are not as many as the messages or not text.

    Raises
    ------
    ModelMismatch
        ``judge`` is neither.

    Examples
    --------
    >>> as_chat(lambda messages: [m.upper() for m in messages])(["yes"])
    ['YES']
    """
    if isinstance(judge, tuple) and len(judge) == 2 and hasattr(judge[0], "parameters"):
        return _transformers(*judge, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    if not callable(judge) or hasattr(judge, "parameters"):
        raise ModelMismatch(
            f"a judge of type {type(judge).__name__} cannot be asked",
            remedy="give (model, tokenizer), or a function from a list of messages to a list of answers",
        )

    def ask(messages: Sequence[str]) -> list[str]:
        answers = judge(list(messages))
        if isinstance(answers, str) or len(answers) != len(messages) or not all(isinstance(a, str) for a in answers):
            raise SchemaMismatch(
                f"the judge did not give one text for each of {len(messages):,} messages",
                remedy="it must take a list of strings and return a list of as many",
            )
        return list(answers)

    return ask


def _transformers(model: Any, tokenizer: Any, **options: Any) -> Chat:
    from datumwise.probe.generate import generate

    def ask(messages: Sequence[str]) -> list[str]:
        if getattr(tokenizer, "chat_template", None):
            turns = [[{"role": "user", "content": message}] for message in messages]
            prompts = [tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in turns]
            return generate(model, tokenizer, prompts, bos=False, **options)  # the template says where a text begins
        return generate(model, tokenizer, list(messages), **options)

    return ask
