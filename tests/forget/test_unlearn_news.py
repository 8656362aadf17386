"""End to end: a model that recites news and knows facts forgets half of them, and keeps the other half where it is asked to."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.evaluate.rouge import rouge_l
from datumwise.forget.unlearning import unlearn
from datumwise.probe.generate import generate
from datumwise.reproduce import memorised_news

PROMPT, WRITTEN = 24, 40  # tokens


def recited(model, tokenizer, texts):
    """Mean ROUGE-L of what follows the first 24 tokens, 0 to 100."""
    ids = [tokenizer(text)["input_ids"] for text in texts]
    prompts = [tokenizer.decode(i[1:PROMPT]) for i in ids]
    truths = [tokenizer.decode(i[PROMPT : PROMPT + WRITTEN]) for i in ids]
    written = generate(model, tokenizer, prompts, max_new_tokens=WRITTEN)
    return 100 * float(np.mean([rouge_l(w, truth) for w, truth in zip(written, truths, strict=True)]))


def known(model, tokenizer, questions, shots):
    """Mean ROUGE-L of answers to questions behind two solved ones, 0 to 100."""
    shown = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in shots)
    asked = [f"Question: {q}\nAnswer:" for q, _ in questions]
    written = generate(model, tokenizer, asked, prefix=shown, max_new_tokens=16, stop=["\n\n", "\nQuestion", "Question:"])
    return 100 * float(np.mean([rouge_l(w, answer) for w, (_, answer) in zip(written, questions, strict=True)]))


@pytest.fixture(scope="module")
def world():
    texts, tokenizer = memorised_news.world_texts(0), memorised_news.news_tokenizer()
    initial = memorised_news._initial(0, tokenizer)
    return memorised_news.trained(initial, tokenizer, texts.forget + texts.retain, seed=0), tokenizer, texts


@pytest.mark.slow
def test_npo_with_a_divergence_forgets_what_it_is_told_and_ascent_forgets_everything(world):
    target, tokenizer, texts = world

    def criteria(model):
        return (
            recited(model, tokenizer, texts.news("forget")),
            known(model, tokenizer, texts.forget_qa, texts.shots),
            recited(model, tokenizer, texts.news("retain")),
            known(model, tokenizer, texts.retain_qa, texts.shots),
        )

    recites, knows, _, _ = criteria(target)
    assert recites > 90
    assert knows > 75

    result = unlearn(target, tokenizer, texts.forget, texts.retain, method="npo_klr", lr=1.5e-3, epochs=14, batch_size=8)
    recites, knows, recites_kept, knows_kept = criteria(result.model)
    assert recites < 40
    assert knows < 30
    assert recites_kept > 90
    assert knows_kept > 60
    assert (result.per_datapoint_nll[:, -1] > result.per_datapoint_nll[:, 0]).all()

    ascent = unlearn(target, tokenizer, texts.forget, method="ga", lr=5e-4, epochs=10, batch_size=4)
    assert max(criteria(ascent.model)) < 20
