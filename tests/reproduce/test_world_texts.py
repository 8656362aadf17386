import importlib.util

import pytest
from small_world import needs_news

from datumwise.errors import MissingExtra
from datumwise.reproduce.world_texts import capital_facts, news_and_facts, news_items, sheets, world_texts

needs_news()


@pytest.mark.parametrize("seed", [0, 5])
def test_no_item_and_no_fact_is_in_two_parts(seed):
    texts = world_texts(seed)
    news = [item for name in ("forget", "retain", "calibration") for item in texts.news(name)] + texts.holdout
    assert len(set(news)) == len(news) == 24 + 24 + 48 + 48
    facts = [question for part in (texts.forget_qa, texts.retain_qa, texts.shots) for question, _ in part]
    assert len(set(facts)) == len(facts) == 34
    told = "".join(texts.retain + texts.calibration + texts.holdout)
    assert not any(question in told for question, _ in texts.forget_qa)


def test_items_begin_differently_and_have_at_most_fifty_words():
    items = news_items()
    assert len({" ".join(item.split()[:12]) for item in items}) == len(items) > 250
    assert max(len(item.split()) for item in items) == 50
    assert max(len(item.split()) for item in news_items(20)) == 20


def test_no_question_gives_its_answer_away():
    facts = capital_facts()
    assert len(facts) > 100
    assert not any(answer.lower() in question.lower() for question, answer in facts)


def test_the_same_seed_draws_the_same_and_another_draws_others():
    assert world_texts(1) == world_texts(1)
    assert len(set(world_texts(1).news("forget")) & set(world_texts(2).news("forget"))) < 8


def test_folds_are_disjoint_quarters_of_news_and_facts():
    texts = world_texts(0)
    folds = texts.folds(4)
    assert sorted(text for documents, _ in folds for text in documents) == sorted(texts.forget)
    assert sorted(qa for _, questions in folds for qa in questions) == sorted(texts.forget_qa)
    news = set(texts.news("forget"))
    assert [(sum(t in news for t in documents), len(documents), len(qa)) for documents, qa in folds] == [(6, 7, 4)] * 4


def test_facts_come_out_of_sheets_as_they_went_in():
    facts = capital_facts()[:10]
    news, found = news_and_facts(["Some news.", *sheets(facts)])
    assert news == ["Some news."]
    assert found == [f"Question: {question}\nAnswer: {answer}" for question, answer in facts]
    assert [len(news_and_facts([document])[1]) for document in sheets(facts)] == [4, 4, 2]


def test_without_gensim_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"come with gensim, which is not installed: pip install 'datumwise\[reproduce\]'"):
        news_items()
