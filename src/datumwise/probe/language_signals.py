"""Signals of a ledger's texts that only a causal language model gives: which are asked for, and who answers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import ModelMismatch, SchemaMismatch
from datumwise.probe.collate import context_length
from datumwise.probe.given import given
from datumwise.probe.language_model import LANGUAGE_SIGNALS, language_model_signals
from datumwise.probe.perturbed import perturbed_nll
from datumwise.probe.questions import AUTOMATHTEXT, DEITA_COMPLEXITY, DEITA_QUALITY, DIGITS, UNIEVAL, YES_NO, ask, ask_words
from datumwise.probe.subnetworks import subnetwork_likelihood

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["ledger_language_signals"]

CAPITALS = tuple(answer.upper() for answer in YES_NO)


def ledger_language_signals(
    model: Any,
    ledger: Ledger,
    names: Sequence[str],
    *,
    tokenizer: Any,
    max_length: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Signals of `datumwise.probe.plan.LANGUAGE_ONLY`, and those read along with them, in ledger order.

    Parameters
    ----------
    model : causal language model
    ledger : Ledger
        With a text role, or with prompt and response roles.
    names : sequence of str
    tokenizer : its tokenizer
    max_length : int, optional
        Longest text in tokens, questions included; what the model and the tokenizer can read by default. Longer
        ones are cut, a question in its longest field, and flagged in ``truncated`` where that is asked for.
    seed : int
        Of deleted words and of sub-networks.
    progress : callable (done, total), optional

    Returns
    -------
    dict of str to array (n, ...) or list of n arrays
    """
    if tokenizer is None:
        raise ModelMismatch("the ledger holds text and no tokenizer was given", remedy="pass tokenizer=")
    ids = ledger.ids.tolist()
    how: dict[str, Any] = {"ids": ids, "max_length": max_length, "progress": progress}
    pairs = not ledger.roles.get("text")
    asked = set(names)
    if pairs:
        both = given(ledger, ["prompts", "responses"])
        prompts, responses = both["prompts"], both["responses"]
        texts: Sequence[Any] = list(zip(prompts, responses, strict=True))
    else:
        texts = prompts = responses = given(ledger, ["texts"])["texts"]
        needy = asked & {"nll_alone", "n_tokens_alone", "prompt_nll", "n_tokens_prompt", "perturbed_nll", "unieval_logprobs"}
        needy |= asked & {"complexity_logprobs", "quality_logprobs"}
        if needy:
            which = next(name for name in names if name in needy)
            raise SchemaMismatch(
                f"{which} is told of prompts and responses, and {ledger.name} has one column of text",
                remedy="ingest the data with prompt= and response= (--prompt, --response)",
            )
    found: dict[str, Any] = {}
    read = [name for name in names if name in LANGUAGE_SIGNALS]
    if read:
        found |= language_model_signals(model, texts, read, tokenizer=tokenizer, **how)
    limit = max_length if max_length is not None else context_length(model, tokenizer)
    for name, questions, answers, fields in (
        ("complexity_logprobs", [DEITA_COMPLEXITY], DIGITS, {"prompt": prompts}),
        ("quality_logprobs", [DEITA_QUALITY], DIGITS, {"prompt": prompts, "response": responses}),
        ("unieval_logprobs", list(UNIEVAL.values()), YES_NO, {"prompt": prompts, "response": responses}),
        ("automathtext_logprobs", list(AUTOMATHTEXT.values()), CAPITALS, {"text": texts}),
    ):
        if name not in asked:
            continue
        if name == "automathtext_logprobs" and pairs:
            fields = {"text": given(ledger, ["texts"])["texts"]}
        asking = ask if answers is DIGITS else ask_words
        told = [asking(model, tokenizer, q, answers, **how | {"max_length": limit}, **fields) for q in questions]
        found[name] = np.concatenate([one.logprobs for one in told], axis=1)
        if "truncated" in found:
            found["truncated"] = found["truncated"] | np.any([one.truncated for one in told], axis=0)
    if "perturbed_nll" in asked:
        found["perturbed_nll"] = perturbed_nll(model, prompts, responses, tokenizer=tokenizer, seed=seed, **how)
    if "subnetwork_confidence" in asked:
        found["subnetwork_confidence"] = subnetwork_likelihood(model, texts, tokenizer=tokenizer, seed=seed, **how)
    return {name: found[name] for name in names}
