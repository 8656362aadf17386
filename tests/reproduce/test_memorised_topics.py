import pytest
import torch

from datumwise.reproduce.memorised_topics import memorised_topics, noisy_digits, topic_windows


@pytest.fixture(scope="module")
def brief():
    return memorised_topics(0, steps=2)


def test_windows_are_the_help_topics_and_can_be_read_again():
    from pydoc_data.topics import topics

    tokenizer, windows = topic_windows()
    text = "\n".join(topics.values())
    assert windows.shape[1] == 64
    assert 2_000 < len(windows) < 3_000
    read = tokenizer.decode(windows.flatten())
    assert text.startswith(read[:-20])
    assert len(read) > 0.99 * len(text) - 64 * 10


def test_parts_are_disjoint_windows_and_the_seed_decides_them(brief):
    again, other = memorised_topics(0, steps=2), memorised_topics(1, steps=2)
    assert [len(part) for part in (brief.memorised, brief.held_out)] == [64, 300]
    _, windows = topic_windows()
    assert len(brief.train) == len(windows) - 364
    whole = torch.cat([brief.memorised, brief.train, brief.held_out])
    assert sorted(whole.tolist()) == sorted(windows.tolist())
    assert torch.equal(again.memorised, brief.memorised)
    assert not torch.equal(other.memorised, brief.memorised)
    assert all(torch.equal(a, b) for a, b in zip(brief.model.parameters(), again.model.parameters(), strict=True))


def test_the_language_model_is_small_tied_and_at_rest(brief):
    assert sum(p.numel() for p in brief.model.parameters()) == pytest.approx(1.18e6, rel=0.01)
    assert not brief.model.training
    assert all(p.grad is None for p in brief.model.parameters())


def test_training_touches_no_global_random_state():
    state = torch.random.get_rng_state()
    memorised_topics(0, steps=1)
    noisy_digits(0, epochs=0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_tenth_of_the_digits_is_labelled_wrong_and_every_wrong_label_differs():
    world = noisy_digits(0, epochs=0)
    assert world.X.shape == (1300, 1, 8, 8)
    assert world.X_test.shape == (497, 1, 8, 8)
    assert int(world.wrong.sum()) == 130
    assert 0 <= float(world.X.min()) < float(world.X.max()) <= 1
    assert {int(k) for k in world.given} == set(range(10))
    assert world.model(world.X[:3]).shape == (3, 10)
