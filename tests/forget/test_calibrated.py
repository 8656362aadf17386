import itertools
import math

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.evaluate.privleak import min_k_score
from datumwise.forget import calibrated
from datumwise.forget.annealed import annealed
from datumwise.forget.calibrated import calibrated_loss, pair_texts, quantiles, token_difficulty
from datumwise.forget.reinforce import reinforced
from datumwise.forget.sequences import encode_sequences
from datumwise.forget.texts import as_texts
from datumwise.forget.unlearning import unlearn
from datumwise.probe.language_model import language_model_signals

WORDS = "amber birch cedar delta ember fjord grove heron inlet jetty knoll larch mossy north otter pearl quill raven".split()  # noqa: SIM905


def texts(n, seed, length=5):
    rng = np.random.default_rng(seed)
    return [" ".join(WORDS[k] for k in rng.integers(len(WORDS), size=length)) for _ in range(n)]


def encoded(items):
    return encode_sequences(byte_tokenizer(begin=True), as_texts(items), 200, padding=0)


# --- difficulties -------------------------------------------------------------------------------------------


def test_difficulty_is_minus_the_log_odds_of_every_label():
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 11, dtype=torch.float64) * 4
    labels = torch.randint(11, (3, 6))
    labels[0, 3] = labels[2, 5] = -100
    found, rows = token_difficulty(logits, labels)
    wanted, owners = [], []
    for b, t in itertools.product(range(3), range(5)):
        if labels[b, t + 1] != -100:
            p = torch.softmax(logits[b, t], dim=0)[labels[b, t + 1]].item()
            wanted.append(math.log((1 - p) / p))
            owners.append(b)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9)
    assert rows.tolist() == owners


def test_a_token_known_by_heart_is_pulled_as_hard_as_any_other():
    logits = torch.zeros(1, 2, 5)
    logits[0, 0, 3] = 25.0  # p = 1 - 4 exp(-25): its loss has a slope of 5e-11
    logits.requires_grad_()
    token_difficulty(logits, torch.tensor([[0, 3]]))[0].sum().backward()
    assert logits.grad[0, 0, 3].item() == pytest.approx(-1.0)
    assert logits.grad[0, 0].sum().item() == pytest.approx(0.0, abs=1e-6)


def test_for_a_token_that_is_not_known_difficulty_is_the_loss():
    logits = torch.zeros(1, 2, 5)
    logits[0, 0, 3] = -12.0
    labels = torch.tensor([[0, 3]])
    loss = -torch.log_softmax(logits[0, 0], dim=0)[3]
    assert token_difficulty(logits, labels)[0].item() == pytest.approx(loss.item(), abs=1e-5)


def test_quantiles_of_as_many_values_are_the_values_and_of_others_lie_between_them():
    rng = np.random.default_rng(1)
    values = rng.normal(size=9)
    np.testing.assert_array_equal(quantiles(values, 9), np.sort(values))
    np.testing.assert_array_equal(quantiles(rng.permutation(values), 5), quantiles(values, 5))
    more = quantiles(values, 40)
    assert (np.diff(more) >= 0).all()
    assert values.min() <= more[0] <= more[-1] <= values.max()
    assert more.mean() == pytest.approx(values.mean(), abs=0.1)


# --- the loss -----------------------------------------------------------------------------------------------


def some_logits(seed=2, B=2, T=7, V=9):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(V, (B, T), generator=generator)
    return torch.randn(B, T, V, generator=generator, dtype=torch.float64) * 3, labels


def test_loss_is_the_huber_distance_of_sorted_difficulties():
    logits, labels = some_logits()
    labels[1, 4:] = -100
    wanted = [np.array([4.0, -1.0, 2.0, 9.0, 0.0, 5.0]), np.array([3.0, 6.0])]
    difficulty, rows = token_difficulty(logits, labels)
    by_hand = []
    for k, unseen in enumerate(wanted):
        own = sorted(difficulty[rows == k].tolist())
        parts = []
        for d, w in zip(own, quantiles(unseen, len(own)), strict=True):
            gap = abs(d - w)
            parts.append((0.5 * gap**2 if gap <= 3 else 3 * (gap - 1.5)) / 3)
        by_hand.append(np.mean(parts))
    assert calibrated_loss(logits, labels, wanted, 3.0).item() == pytest.approx(np.mean(by_hand), rel=1e-12)


def test_loss_and_gradient_are_zero_where_the_difficulties_are_those_wanted_in_any_order():
    logits, labels = some_logits()
    logits.requires_grad_()
    difficulty, rows = token_difficulty(logits, labels)
    rng = np.random.default_rng(0)
    wanted = [rng.permutation(difficulty[rows == k].detach().numpy()) for k in range(2)]
    loss = calibrated_loss(logits, labels, wanted)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-20)
    assert logits.grad.abs().max().item() < 1e-12


def test_far_from_its_target_each_token_is_pulled_with_one_over_the_number_of_tokens():
    logits, labels = some_logits(B=1)
    logits.requires_grad_()
    calibrated_loss(logits, labels, [np.full(6, 50.0)]).backward()
    for t in range(6):
        assert logits.grad[0, t, labels[0, t + 1]].item() == pytest.approx(1 / 6)


def test_a_text_at_its_target_has_every_min_k_score_of_the_unseen_one():
    logits, labels = some_logits(B=1, T=30)
    with_grad = logits.clone().requires_grad_()
    unseen = np.random.default_rng(4).gamma(2.0, 2.0, size=29)  # losses of an unseen text
    odds = np.log(np.expm1(unseen))
    optimiser = torch.optim.Adam([with_grad], lr=0.1)
    for _ in range(600):
        optimiser.zero_grad()
        calibrated_loss(with_grad, labels, [odds]).backward()
        optimiser.step()
    lp = torch.log_softmax(with_grad.detach()[0, :-1], dim=-1).gather(1, labels[0, 1:, None])[:, 0].numpy()
    for k in (0.05, 0.2, 0.4, 0.6, 1.0):
        assert min_k_score(lp, k) == pytest.approx(min_k_score(-unseen, k), abs=0.02)


def test_padding_behind_a_sequence_changes_nothing():
    logits, labels = some_logits()
    wanted = [np.arange(6.0), np.arange(3.0)]
    wide = torch.cat([logits, torch.full((2, 5, 9), 7.0, dtype=torch.float64)], dim=1)
    padded = torch.cat([labels, torch.full((2, 5), -100)], dim=1)
    assert calibrated_loss(wide, padded, wanted).item() == calibrated_loss(logits, labels, wanted).item()


@pytest.mark.parametrize("reach", [0.0, -1.0, math.nan])
def test_a_reach_that_is_not_above_zero_is_refused(reach):
    with pytest.raises(DatumwiseError, match=r"reach is .*: it must be above 0"):
        calibrated_loss(*some_logits(), [np.zeros(1), np.zeros(1)], reach)


def test_a_sequence_without_a_label_is_refused():
    logits, labels = some_logits()
    labels[1] = -100
    with pytest.raises(EmptyData, match="a sequence of the batch has no label that counts"):
        calibrated_loss(logits, labels, [np.zeros(1), np.zeros(1)])


# --- pairs --------------------------------------------------------------------------------------------------


def test_pairs_have_the_least_total_distance_of_all_assignments():
    lengths = np.random.default_rng(9).integers(2, 14, size=(2, 6)).tolist()
    forget, holdout = (encoded([texts(1, 10 * k + i, n)[0] for i, n in enumerate(row)]) for k, row in enumerate(lengths))
    counts = np.bincount(np.concatenate([item.input_ids for part in (forget, holdout) for item in part.items]))
    own, unseen = (calibrated._statistics(part, counts) for part in (forget, holdout))
    distance = (((own[:, None] - unseen[None]) / unseen.std(axis=0)) ** 2).sum(axis=-1)
    pairs = pair_texts(forget, holdout)
    least = min(distance[np.arange(6), list(order)].sum() for order in itertools.permutations(range(6)))
    assert sorted(pairs.tolist()) == list(range(6))
    assert distance[np.arange(6), pairs].sum() == pytest.approx(least)


def test_texts_are_paired_with_their_kind():
    forget = encoded(texts(6, 1, 3) + texts(6, 2, 14))
    holdout = encoded(texts(10, 3, 14) + texts(10, 4, 3))
    pairs = pair_texts(forget, holdout)
    assert len(set(pairs.tolist())) == 12
    assert (pairs[:6] >= 10).all()
    assert (pairs[6:] < 10).all()


def test_few_unseen_texts_are_shared_evenly_and_many_texts_are_paired_in_blocks(monkeypatch):
    forget, holdout = encoded(texts(23, 1)), encoded(texts(5, 2))
    used = np.bincount(pair_texts(forget, holdout), minlength=5)
    assert used.min() >= 4
    assert used.max() <= 5
    monkeypatch.setattr(calibrated, "BLOCK", 6)
    blocks = pair_texts(forget, encoded(texts(40, 3)), random_state=1)
    assert len(set(blocks.tolist())) == 23
    np.testing.assert_array_equal(blocks, pair_texts(forget, encoded(texts(40, 3)), random_state=1))


# --- the method ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known():
    """A tiny model that knows six texts to forget and six to keep by heart, and twelve texts that it never saw."""
    forget, retain, holdout = texts(6, 10), texts(6, 11), texts(12, 12)
    model = reinforced(tiny_llama(3, scale=1.0), encoded(forget + retain), lr=1e-2, epochs=60, batch_size=6)
    return model, forget, retain, holdout


def nll(model, items):
    sums = language_model_signals(model, items, ("nll",), tokenizer=byte_tokenizer(begin=True))["nll"]
    return sums / [len(text) for text in items]


HOW = {"method": "calibrated", "lr": 5e-3, "batch_size": 3, "epochs": 12}


def test_forgotten_texts_become_as_hard_as_unseen_ones_and_kept_texts_stay(known):
    model, forget, retain, holdout = known
    unseen = nll(model, holdout)
    assert nll(model, forget).max() < 0.5 < 2 < unseen.mean()
    result = unlearn(model, byte_tokenizer(begin=True), forget, retain, holdout=holdout[:6], **HOW)
    after, others = nll(result.model, forget), nll(result.model, holdout[6:])
    assert abs(after.mean() - others.mean()) < 0.25 * others.mean()
    assert nll(result.model, retain).max() < 1.0
    np.testing.assert_allclose(nll(model, holdout), unseen)  # the model itself is as it was


def test_targets_follow_the_model_once_an_epoch_or_stay(known, monkeypatch):
    model, forget, retain, holdout = known
    calls = []
    measure = calibrated.difficulties

    def spied(model, texts, rows):
        calls.append(len(rows))
        return measure(model, texts, rows)

    monkeypatch.setattr(calibrated, "difficulties", spied)
    for follow, times in ((True, 3), (False, 1)):
        calls.clear()
        how = HOW | {"epochs": 3, "follow": follow}
        unlearn(model, byte_tokenizer(begin=True), forget, retain, holdout=holdout, **how)
        assert calls == [6] * times


def test_an_interrupted_run_ends_with_the_weights_of_a_whole_one(known, tmp_path):
    model, forget, retain, holdout = known
    how = HOW | {"epochs": 4, "holdout": holdout, "optimizer": annealed(5e-3, 8)}
    whole = unlearn(model, byte_tokenizer(begin=True), forget, retain, **how)
    stopped = []

    def interrupt(model, epoch, nll):
        stopped.append(epoch)
        if epoch == 3 and len(stopped) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unlearn(model, byte_tokenizer(begin=True), forget, retain, checkpoint=tmp_path / "run", callbacks=[interrupt], **how)
    again = unlearn(model, byte_tokenizer(begin=True), forget, retain, checkpoint=tmp_path / "run", **how)
    for (name, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_without_unseen_texts_it_is_refused_and_unseen_texts_are_not_those_to_forget(known):
    model, forget, retain, _ = known
    with pytest.raises(EmptyData, match="needs texts of the same kind that the model never saw: pass holdout="):
        unlearn(model, byte_tokenizer(begin=True), forget, retain, **HOW)
    with pytest.raises(SchemaMismatch, match="holdout"):
        unlearn(model, byte_tokenizer(begin=True), forget, retain, holdout=[*texts(3, 20), forget[2]], **HOW)
    with pytest.raises(DatumwiseError, match="reach is 0: it must be above 0"):
        unlearn(model, byte_tokenizer(begin=True), forget, retain, holdout=texts(6, 20), reach=0, **HOW)


def test_only_the_response_of_a_pair_counts(known):
    model, _, retain, _ = known
    pairs = [("Who? ", text) for text in texts(4, 30)]
    unseen = [("Who? ", text) for text in texts(4, 31)]
    result = unlearn(model, byte_tokenizer(begin=True), pairs, retain, holdout=unseen, **(HOW | {"epochs": 1}))
    assert result.per_datapoint_nll.shape == (4, 2)
    assert np.isfinite(result.per_datapoint_nll).all()
