"""Claims about fine-tuning adapters on questions."""

import numpy as np
import pytest
import torch
from tiny_answers import PLAIN, letters_model, letters_questions, letters_tokenizer

from datumwise.errors import DatumwiseError, EmptyData, UnknownName
from datumwise.probe.in_context import ICL
from datumwise.probe.lora import LoRALearner, Schedule, finetune_schedule


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((160, 4, 8), Schedule(3, 8, 25)),
        ((20, 1, 8), Schedule(10, 8, 2)),
        ((1, 4, 8), Schedule(10, 4, 1)),
        ((50, 4, 8), Schedule(10, 8, 25)),
        ((51, 4, 8), Schedule(5, 8, 25)),
        ((160, 16, 8), Schedule(3, 8, 50)),
    ],
)
def test_the_schedule_has_the_published_answers(given, expected):
    assert finetune_schedule(*given) == expected
    n = given[0]
    assert expected.epochs * -(-n // min(n, 50)) >= 10


def test_a_schedule_of_nothing_is_refused():
    with pytest.raises(DatumwiseError, match="at least 1"):
        finetune_schedule(0, 4, 8)


@pytest.fixture(scope="module")
def lm():
    return letters_model(), letters_tokenizer()


def test_it_learns_from_40_questions_what_the_base_model_does_not_know(lm):
    model, tokenizer = lm
    data = letters_questions(140)
    test = np.arange(40, 140)
    learner = LoRALearner(model, tokenizer, lr=2e-2, batch=100, epochs=30, template=PLAIN)
    before = {name: p.clone() for name, p in model.named_parameters()}
    zero = learner.unsupervised(data, test).choose(data, [], test).argmax(1) == data.gold[test]
    tuned = learner.choose(data, np.arange(40), test, seed=0).argmax(1) == data.gold[test]
    assert tuned.mean() > zero.mean() + 0.2
    assert learner.losses_[-1] < 0.7 * learner.losses_[0]
    assert len(learner.losses_) == 30
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()  # the adapters are gone
    assert all(torch.equal(before[name], p) and p.requires_grad for name, p in after.items())
    assert not hasattr(model, "peft_config")
    again = ICL(model, tokenizer, 0, template=PLAIN).choose(data, [], test).argmax(1) == data.gold[test]
    np.testing.assert_array_equal(zero, again)


def test_before_the_first_update_the_loss_is_that_of_zero_shot(lm):
    model, tokenizer = lm
    data = letters_questions(20)
    rows = np.arange(20)
    from peft import LoraConfig

    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    for normalise in ("sum", "token"):
        learner = LoRALearner(model, tokenizer, config, epochs=1, batch=6, template=PLAIN, normalise=normalise)
        learner.choose(data, rows, rows[:2])
        p = ICL(model, tokenizer, 0, template=PLAIN, normalise=normalise).choose(data, [], rows)[rows, data.gold]
        np.testing.assert_allclose(learner.losses_, [-np.log(p).mean()], rtol=1e-4)  # accumulated over parts of the batch


def test_the_language_objective_is_the_likelihood_of_the_right_text(lm):
    model, tokenizer = lm
    data = letters_questions(10)
    from peft import LoraConfig

    config = LoraConfig(r=4, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=["q_proj"])
    learner = LoRALearner(model, tokenizer, config, epochs=1, objective="language", template=PLAIN)
    learner.choose(data, np.arange(10), [0, 1])
    from datumwise.probe.score_choices import score_choices

    right = score_choices(model, tokenizer, ["^" + q + "=" for q in data.questions], [[a] for a in data.answers])
    np.testing.assert_allclose(learner.losses_, [-np.mean(right)], rtol=1e-4)


def test_a_seed_repeats_and_the_global_state_of_torch_plays_no_part(lm):
    data = letters_questions(20)
    learner = LoRALearner(*lm, lr=1e-2, epochs=2, template=PLAIN)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    a = learner.choose(data, np.arange(10), np.arange(10, 20), seed=3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    np.testing.assert_array_equal(a, learner.choose(data, np.arange(10), np.arange(10, 20), seed=3))
    assert not np.allclose(a, learner.choose(data, np.arange(10), np.arange(10, 20), seed=4))


def test_the_base_model_is_restored_after_an_error(lm):
    model, tokenizer = lm
    names = [name for name, _ in model.named_parameters()]

    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        LoRALearner(model, tokenizer, template=PLAIN).choose(letters_questions(9), [0, 1], [2], progress=stop)
    assert [name for name, _ in model.named_parameters()] == names


def test_bad_input_is_refused(lm):
    with pytest.raises(UnknownName, match="no objective 'rank'"):
        LoRALearner(*lm, objective="rank")
    with pytest.raises(UnknownName, match="no normalisation 'char'"):
        LoRALearner(*lm, normalise="char")
    with pytest.raises(EmptyData, match="nothing to fine-tune on"):
        LoRALearner(*lm).choose(letters_questions(5), [], [1])
