"""How much does a reward model like a response? MoDS keeps the liked, and among them what the model still lacks.

Du, Zong and Zhang, 2023, *MoDS: Model-oriented Data Selection for Instruction Tuning*, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, SchemaMismatch, name_some
from datumwise.score.scores import Scores

__all__ = ["reward"]


def reward(
    judge: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    max_length: int | None = None,
    batch_size: int = 16,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Reward of n responses.

    Parameters
    ----------
    judge : callable, or (model, tokenizer)
        A function from n prompts and n responses to n numbers, or a transformers model of sequence classification with one
        output (``AutoModelForSequenceClassification``) and its tokenizer. With a chat template a pair is read as a turn of
        user and assistant, else as a pair of sentences.
    prompts, responses : sequences of n str
    max_length : int, optional
        Longest pair in tokens; default what the tokenizer says. Longer ones are cut.
    batch_size : int
    ids : sequence (n,), optional
    progress : callable (done, total), optional

    Returns
    -------
    Scores
        ``reward`` float (n,), in the model's own unit.

    Raises
    ------
    EmptyData, SchemaMismatch, ModelMismatch, NotFinite

    Examples
    --------
    >>> reward(lambda prompts, responses: [len(r) for r in responses], ["a", "b"], ["x", "xyz"])["reward"].tolist()
    [1.0, 3.0]
    """
    if len(prompts) != len(responses):
        raise SchemaMismatch(f"{len(prompts):,} prompts and {len(responses):,} responses differ in number")
    if not len(prompts):
        raise EmptyData("there is no response to judge")
    judged = _of_model(judge[0], judge[1], max_length) if isinstance(judge, tuple) else judge
    if not callable(judged):
        raise ModelMismatch(
            f"a judge of type {type(judge).__name__} cannot be asked",
            remedy="give (model, tokenizer), or a function (prompts, responses) -> numbers",
        )
    # by length, so that a batch holds little padding
    order = np.argsort([-len(p) - len(r) for p, r in zip(prompts, responses, strict=True)], kind="stable").tolist()
    values = np.full(len(prompts), np.nan)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        found = np.asarray(judged([prompts[i] for i in rows], [responses[i] for i in rows]), dtype=np.float64)
        if found.shape != (len(rows),):
            raise SchemaMismatch(f"the judge gave an array of shape {found.shape} for {len(rows):,} pairs")
        values[rows] = found
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order))
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise NotFinite(f"the reward of row {name_some(bad)} is NaN or infinite", ids=bad.tolist())
    return Scores(np.arange(len(prompts)) if ids is None else ids, {"reward": values}, higher={"reward": "liked more"})


def _of_model(model: Any, tokenizer: Any, max_length: int | None) -> Callable[[list[str], list[str]], np.ndarray]:
    import torch

    labels = getattr(getattr(model, "config", None), "num_labels", None)
    if labels != 1:
        raise ModelMismatch(f"the reward model has {labels} outputs", remedy="give a sequence classifier with num_labels=1")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:  # a causal model finds its last token by it
        model.config.pad_token_id = tokenizer.pad_token_id
    device = next(model.parameters()).device

    def judged(prompts: list[str], responses: list[str]) -> np.ndarray:
        cut = {"truncation": True, "padding": True, "return_tensors": "pt", "max_length": max_length}
        if getattr(tokenizer, "chat_template", None):
            turns = [
                [{"role": "user", "content": p}, {"role": "assistant", "content": r}]
                for p, r in zip(prompts, responses, strict=True)
            ]
            texts = [tokenizer.apply_chat_template(turn, tokenize=False) for turn in turns]
            batch = tokenizer(texts, add_special_tokens=False, **cut)
        else:
            batch = tokenizer(prompts, responses, **cut)
        was = model.training
        model.eval()
        try:
            with torch.inference_mode():
                return model(**batch.to(device)).logits[:, 0].float().cpu().numpy()
        finally:
            model.train(was)

    return judged
