"""Claims about learning from examples in the prompt."""

import numpy as np
import pytest
import torch
from tiny_answers import LETTERS, PLAIN, letters_model, letters_questions, letters_tokenizer

from datumwise.errors import DatumwiseError, EmptyData, NotFinite
from datumwise.probe.in_context import ICL, choice_probabilities
from datumwise.probe.multiple_choice import MultipleChoice


@pytest.fixture(scope="module")
def lm():
    return letters_model(), letters_tokenizer()


def by_hand(model, text, choices):
    """Softmax over the choices' summed log-probabilities, each a full forward pass."""
    scores = []
    for choice in choices:
        ids = [LETTERS.index(c) for c in text + choice]
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
        scores.append(sum(float(log_p[t - 1, ids[t]]) for t in range(len(text), len(ids))))
    p = np.exp(np.array(scores) - max(scores))
    return p / p.sum()


@pytest.mark.parametrize("k", [0, 3])
def test_a_shared_prefix_equals_full_forward_passes(lm, k):
    model, tokenizer = lm
    data = letters_questions()
    learner = ICL(model, tokenizer, k, template=PLAIN)
    found = learner.choose(data, np.arange(40), np.arange(40, 60), seed=4)
    drawn = np.random.default_rng(4).permutation(np.arange(40))[:k]
    prefix = "^" + "".join(f"{data.questions[i]}={data.answers[i]};" for i in drawn)
    for row, i in enumerate(range(40, 60)):
        expected = by_hand(model, f"{prefix}{data.questions[i]}=", data.choices[i])
        np.testing.assert_allclose(found[row], expected, atol=1e-4)
    assert learner.shots_ == k


def test_permuted_choices_have_permuted_probabilities_and_missing_ones_0(lm):
    data = letters_questions(12)
    rows = np.arange(12)
    learner = ICL(*lm, 0, template=PLAIN)
    p = learner.choose(data, [], rows)
    turned = MultipleChoice(data.questions, [own[::-1] for own in data.choices], 1 - data.gold)
    np.testing.assert_allclose(learner.choose(turned, [], rows), p[:, ::-1], atol=1e-6)
    more = [(*own, "h?") if i == 3 else own for i, own in enumerate(data.choices)]
    wide = learner.choose(MultipleChoice(data.questions, more, data.gold), [], rows)
    assert (wide[np.arange(12) != 3, 2] == 0).all()
    assert wide[3, 2] > 0
    np.testing.assert_allclose(wide.sum(axis=1), 1)


def test_examples_that_do_not_fit_are_dropped_whole_from_the_front(lm):
    model, tokenizer = lm
    data = letters_questions()
    learner = ICL(model, tokenizer, 30, template=PLAIN)
    prefix = learner._prefix(data, np.arange(40), 0, "ab?=c")
    drawn = np.random.default_rng(0).permutation(np.arange(40))[:30]
    told = [f"{data.questions[i]}={data.answers[i]};" for i in drawn]
    assert 0 < learner.shots_ < 30
    assert prefix == "^" + "".join(told[-learner.shots_ :])
    assert len(prefix) + 5 <= 64
    learner.choose(data, np.arange(40), np.arange(40, 60))


def test_the_seed_draws_the_examples(lm):
    data = letters_questions()
    learner = ICL(*lm, 3, template=PLAIN)
    a, b, c = (learner.choose(data, np.arange(40), [50, 51], seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)


def test_labels_of_the_examples_are_those_of_the_data(lm):
    data = letters_questions()
    learner = ICL(*lm, 3, template=PLAIN)
    other = data.with_gold(1 - data.gold)
    assert learner._prefix(data, np.arange(9), 0, "") != learner._prefix(other, np.arange(9), 0, "")


def test_reasoning_is_shown_and_answers_are_written_out(lm):
    data = MultipleChoice(["ab?", "cd?", "ef?"], [["a"], ["c"], ["e"]], [0, 0, 0], facts={"reasoning": ["aa", "cc", "ee"]})
    learner = ICL(*lm, 2, template=PLAIN, reasoning=True, max_new_tokens=4)
    assert learner._prefix(data, [0], 0, "") == "^ab?= aa\nSo the answer is a;"
    told = learner.write(data, [0, 1], [2])
    assert len(told) == 1
    assert len(told[0]) <= 4
    bare = MultipleChoice(["ab?", "cd?"], [["a"], ["c"]], [0, 0])
    with pytest.raises(EmptyData, match="carry no reasoning"):
        learner.write(bare, [0], [1])


def test_bad_input_is_refused(lm):
    with pytest.raises(DatumwiseError, match="k must be"):
        ICL(*lm, -1)
    with pytest.raises(NotFinite, match="no choice of b has a probability"):
        choice_probabilities([np.zeros(2), np.array([np.nan, 0.0])], 2, ids=["a", "b"])
