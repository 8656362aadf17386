"""A chat model is asked in its own template; a function is asked as it is; both give one text a message."""

from __future__ import annotations

import pytest
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import ModelMismatch, SchemaMismatch
from datumwise.probe.chat import as_chat
from datumwise.probe.generate import generate


def test_a_model_is_asked_in_its_template():
    model, tokenizer = tiny_llama(), byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    asked = as_chat((model, tokenizer), max_new_tokens=6)(["hello", "a longer message"])
    direct = generate(
        model, tokenizer, ["[user]hello[assistant]", "[user]a longer message[assistant]"], max_new_tokens=6, bos=False
    )
    assert asked == direct


def test_without_a_template_the_message_is_the_prompt():
    model, tokenizer = tiny_llama(), byte_tokenizer()
    assert as_chat((model, tokenizer), max_new_tokens=5)(["hello"]) == generate(model, tokenizer, ["hello"], max_new_tokens=5)


@pytest.mark.parametrize("wrong", [lambda m: "one", lambda m: [*m, "more"], lambda m: [1] * len(m)])
def test_answers_that_are_not_one_text_a_message_are_refused(wrong):
    with pytest.raises(SchemaMismatch, match="did not give one text for each of 2 messages"):
        as_chat(wrong)(["a", "b"])


@pytest.mark.parametrize("judge", ["gpt", 3, tiny_llama()])
def test_what_cannot_be_asked_is_refused(judge):
    with pytest.raises(ModelMismatch, match=r"cannot be asked: give \(model, tokenizer\), or a function"):
        as_chat(judge)
