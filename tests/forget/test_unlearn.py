"""Training to forget: against a loop written out by hand, and what must not change."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_gpt2, tiny_llama

from datumwise.forget.reference import Reference, measured_nll
from datumwise.forget.sequences import encode_sequences
from datumwise.forget.texts import Texts, as_texts
from datumwise.forget.training import retain_rows
from datumwise.forget.unlearning import unlearn
from datumwise.probe.fine_tune import descend, token_logprobs

TOKENIZER = byte_tokenizer(begin=True)
FORGET = ["a secret of the house", "the code is 1234", "it was hidden in the attic", "nobody knows why", "they left"]
RETAIN = ["water boils when hot", "cats purr", "the sun is a star", "snow falls in winter on the hills", "one and one"]
FAST = {"lr": 1e-2, "batch_size": 2, "random_state": 3}


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def by_hand(model, method_loss, *, retain=None, epochs=2, batch=2, seed=3, lr=1e-2, clip=1.0):
    """One text at a time, without padding; the losses of a batch are joined by ``method_loss``."""
    model, ref = copy.deepcopy(model), model
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    encoded = [torch.tensor(TOKENIZER(text)["input_ids"]) for text in FORGET]
    kept = [torch.tensor(TOKENIZER(text)["input_ids"]) for text in RETAIN]

    def logprobs(m, ids):
        return torch.log_softmax(m(ids[None], use_cache=False).logits[0, :-1].double(), dim=-1)

    place = 0
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(encoded))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            own = [logprobs(model, encoded[i]).gather(1, encoded[i][1:, None])[:, 0] for i in rows]
            with torch.no_grad():
                first = [logprobs(ref, encoded[i]).gather(1, encoded[i][1:, None])[:, 0] for i in rows]
            loss = method_loss(own, first)
            if retain is not None:
                chosen = retain_rows(len(kept), place, len(rows), seed)
                place += len(rows)
                pairs = []
                for i in chosen:
                    with torch.no_grad():
                        p_ref = logprobs(ref, kept[i])
                    pairs.append((logprobs(model, kept[i]), p_ref, kept[i][1:]))
                loss = loss + retain(pairs)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimiser.step()
    return state_of(model)


@pytest.fixture(scope="module")
def knowing():
    """A model that knows the texts by heart."""
    model = tiny_llama(0, scale=1.0)
    items = encode_sequences(TOKENIZER, as_texts(FORGET + RETAIN), 64, padding=0)
    descend(
        model,
        len(items),
        lambda rows: -token_logprobs(model, TOKENIZER, [items.items[i] for i in rows])[0].sum() / 30,
        lr=1e-2, weight_decay=0.0, epochs=80, effective=5, per_pass=5,
    )  # fmt: skip
    return model.eval()


def ascent(own, first):
    return torch.cat(own).mean()


def npo(own, first):
    ratio = torch.stack([a.sum() - b.sum() for a, b in zip(own, first, strict=True)])
    return (2 / 0.1 * torch.log1p(torch.exp(0.1 * ratio))).mean()


def descent(pairs):
    return -torch.cat([p.gather(1, y[:, None])[:, 0] for p, _, y in pairs]).mean()


def divergence(pairs):
    return torch.cat([(ref.exp() * (ref - p)).sum(-1) for p, ref, _ in pairs]).mean()


@pytest.mark.parametrize(
    ("method", "forget", "retain"),
    [("ga", ascent, None), ("ga_gdr", ascent, descent), ("npo", npo, None), ("npo_klr", npo, divergence)],
)
def test_training_equals_a_loop_written_by_hand(method, forget, retain):
    """Padded batches, cached references and two backward passes against single texts and one loss."""
    model = tiny_llama(0)
    result = unlearn(model, TOKENIZER, FORGET, RETAIN, method=method, epochs=2, **FAST)
    expected = by_hand(model, forget, retain=retain)
    for name, value in result.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=3e-4, msg=name)


def test_the_given_model_is_left_as_it_was_and_so_is_the_worlds_chance():
    model = tiny_gpt2(0).train()  # it has dropout
    model.transformer.h[0].eval()
    frozen = model.transformer.wpe.weight
    frozen.requires_grad_(False)
    before, modes = state_of(model), [m.training for m in model.modules()]
    torch.manual_seed(11)
    expected = torch.random.get_rng_state()
    result = unlearn(model, byte_tokenizer(), FORGET, RETAIN, method="npo_klr", epochs=1, dropout=True, **FAST)
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert same(before, state_of(model))
    assert [m.training for m in model.modules()] == modes == [m.training for m in result.model.modules()]
    assert not frozen.requires_grad
    assert all(p.requires_grad for name, p in model.named_parameters() if "wpe" not in name)
    assert [p.requires_grad for p in result.model.parameters()] == [p.requires_grad for p in model.parameters()]
    assert torch.equal(result.model.transformer.wpe.weight, frozen)  # what asked for no gradient was not trained
    assert not same(before, state_of(result.model))
    assert all(p.grad is None for m in (model, result.model) for p in m.parameters())
    assert result.model.config.use_cache == model.config.use_cache
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_inplace_trains_the_given_model_to_the_same_weights():
    model = tiny_llama(0)
    for method in ("npo_klr", "npo_token_embed"):
        apart = unlearn(model, TOKENIZER, FORGET, RETAIN, method=method, epochs=2, **FAST)
        own = copy.deepcopy(model)
        result = unlearn(own, TOKENIZER, FORGET, RETAIN, method=method, epochs=2, inplace=True, **FAST)
        assert result.model is own
        assert same(state_of(apart.model), state_of(own))


def test_no_epochs_change_no_bit():
    model = tiny_llama(0)
    for method in ("npo", "kl_max"):
        result = unlearn(model, TOKENIZER, FORGET, method=method, epochs=0)
        assert same(state_of(model), state_of(result.model))
        assert result.per_datapoint_nll.shape == (5, 1)
        assert result.history == []


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    model = tiny_llama(0)
    first, again = (unlearn(model, TOKENIZER, FORGET, method="ga", epochs=1, **FAST) for _ in range(2))
    other = unlearn(model, TOKENIZER, FORGET, method="ga", epochs=1, **{**FAST, "random_state": 4})
    assert same(state_of(first.model), state_of(again.model))
    assert not same(state_of(first.model), state_of(other.model))


def test_datapoints_are_followed_under_their_ids_in_their_order():
    model = tiny_llama(0)
    result = unlearn(model, TOKENIZER, FORGET, method="ga", epochs=3, ids=list("abcde"), **FAST)
    assert result.ids == list("abcde")
    assert result.per_datapoint_nll.shape == (5, 4)
    encoded = encode_sequences(TOKENIZER, as_texts(FORGET), 64, padding=0)
    for column, m in ((0, model), (3, result.model)):
        np.testing.assert_array_equal(result.per_datapoint_nll[:, column], encoded.by_document(measured_nll(m, encoded)))
    turned = unlearn(model, TOKENIZER, FORGET[::-1], method="ga", epochs=0, ids=list("edcba"))
    np.testing.assert_allclose(turned.per_datapoint_nll[::-1, 0], result.per_datapoint_nll[:, 0], rtol=1e-6)
    assert (np.diff(result.per_datapoint_nll.mean(axis=0)) > 0).all()
    assert [record["step"] for record in result.history] == list(range(1, 10))
    assert [record["epoch"] for record in result.history] == [1] * 3 + [2] * 3 + [3] * 3
    assert result.stopped_epoch == 3
    assert not result.stopped


def test_retained_texts_come_round_before_any_comes_again():
    rows = np.concatenate([retain_rows(5, start, 2, 0) for start in range(0, 20, 2)])
    assert all(sorted(rows[k : k + 5]) == list(range(5)) for k in range(0, 20, 5))
    np.testing.assert_array_equal(rows, retain_rows(5, 0, 20, 0))
    assert not np.array_equal(rows[:5], rows[5:10])


def test_npo_asks_the_first_weights_once_for_one_number_a_sequence():
    model, calls = tiny_llama(0), []
    hook = model.register_forward_hook(lambda m, *_: calls.append(1) if m is model else None)  # not of copies
    unlearn(model, TOKENIZER, FORGET, RETAIN, method="npo_gdr", epochs=3, **FAST)
    hook.remove()
    assert len(calls) == 1  # five short texts in one batch


def test_likeliest_tokens_in_memory_replace_the_first_weights():
    model = tiny_llama(0)
    options = {"method": "ga_klr", "epochs": 1, "batch_size": 2, "optimizer": lambda weights: torch.optim.SGD(weights, lr=0.1)}
    exact = unlearn(model, TOKENIZER, FORGET, RETAIN, **options)
    calls = []
    hook = model.register_forward_hook(lambda m, *_: calls.append(1) if m is model else None)  # not of copies
    kept = unlearn(model, TOKENIZER, FORGET, RETAIN, reference_top_k=260, **options)
    hook.remove()
    assert len(calls) == 3  # batches that filled the cache
    for name, value in kept.model.state_dict().items():
        torch.testing.assert_close(value, exact.model.state_dict()[name], rtol=0, atol=1e-5)
    few = unlearn(model, TOKENIZER, FORGET, RETAIN, reference_top_k=2, **options)
    assert 0 < few.history[1]["retain"] < exact.history[1]["retain"]
    own = copy.deepcopy(model)
    unlearn(own, TOKENIZER, FORGET, RETAIN, reference_top_k=260, inplace=True, **options)
    assert same(state_of(own), state_of(kept.model))


def test_stop_ends_after_the_epoch_it_says_and_sees_the_model_at_rest():
    seen = []

    def stop(model, epoch):
        seen.append((epoch, model.training))
        return epoch == 2

    told = []
    result = unlearn(
        tiny_gpt2(0), byte_tokenizer(), FORGET, method="ga", epochs=5, stop=stop, dropout=True,
        callbacks=[lambda model, epoch, nll: told.append((epoch, nll))], **FAST,
    )  # fmt: skip
    assert seen == [(1, False), (2, False)]
    assert result.stopped
    assert result.stopped_epoch == 2
    assert result.per_datapoint_nll.shape == (5, 3)
    assert [epoch for epoch, _ in told] == [1, 2]
    np.testing.assert_array_equal(told[1][1], result.per_datapoint_nll[:, 2])


def test_both_gradients_are_measured_on_request():
    model = tiny_llama(0)
    options = {"epochs": 1, "lr": 0.0, "batch_size": 5}
    result = unlearn(model, TOKENIZER, FORGET, RETAIN, method="npo_gdr", alpha=3.0, gamma=0.5, log_gradients=True, **options)
    record = result.history[0]
    alone = unlearn(model, TOKENIZER, FORGET, RETAIN, method="npo_gdr", alpha=0.0, gamma=0.5, **options).history[0]
    kept = unlearn(model, TOKENIZER, FORGET, RETAIN, method="npo_gdr", alpha=3.0, gamma=0.0, **options).history[0]
    assert record["forget_grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
    assert record["retain_grad_norm"] == pytest.approx(kept["grad_norm"], rel=1e-4)
    assert record["loss"] == pytest.approx(0.5 * record["forget"] + 3 * record["retain"], rel=1e-6)
    assert record["forget"] == pytest.approx(20 * math.log(2), rel=1e-5)  # the first weights


def test_accumulated_batches_are_one_batch_for_means_over_sequences():
    model = tiny_llama(0)
    options = {"method": "npo_klr", "gamma": 0.5, "epochs": 2, "lr": 1e-4, "random_state": 3}
    whole = unlearn(model, TOKENIZER, FORGET, RETAIN[:1], batch_size=4, **options)
    parts = unlearn(model, TOKENIZER, FORGET, RETAIN[:1], batch_size=2, accumulation=2, **options)
    assert [r["step"] for r in parts.history] == [r["step"] for r in whole.history] == [1, 2, 3, 4]
    for name in ("loss", "grad_norm"):
        assert [r[name] for r in parts.history] == pytest.approx([r[name] for r in whole.history], rel=1e-3)


def test_only_spans_are_forgotten():
    model = tiny_llama(0)
    text = "the capital of Peru is Oslo and rivers run"
    span = (text.index("Oslo"), text.index("Oslo") + 4)
    result = unlearn(model, TOKENIZER, [text], method="ga", spans=[[span]], epochs=1, lr=0.0)
    ids = torch.tensor([TOKENIZER(text)["input_ids"]])
    with torch.no_grad():
        log_p = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
    assert result.history[0]["forget"] == pytest.approx(log_p[span[0] : span[1]].mean().item(), rel=1e-5)
    assert result.per_datapoint_nll[0, 0] == pytest.approx(-log_p[span[0] : span[1]].mean().item(), rel=1e-5)
    assert result.options["localised"]


def test_of_a_pair_only_the_response_is_forgotten():
    model = tiny_llama(0)
    result = unlearn(model, TOKENIZER, [("Where? ", "Oslo")], method="ga", epochs=1, lr=0.0)
    ids = torch.tensor([TOKENIZER("Where? Oslo")["input_ids"]])
    with torch.no_grad():
        log_p = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
    assert result.history[0]["forget"] == pytest.approx(log_p[-4:].mean().item(), rel=1e-5)


# --- methods ----------------------------------------------------------------------------------------------------


def test_preferring_the_forgotten_response_itself_changes_nothing():
    model = tiny_llama(0)
    pairs = [("Where? ", "in Oslo"), ("Who? ", "the king")]
    result = unlearn(model, TOKENIZER, pairs, method="dpo", alternatives=["in Oslo", "the king"], epochs=2, **FAST)
    assert result.history[0]["forget"] == pytest.approx(20 * math.log(2), rel=1e-6)
    for name, value in result.model.state_dict().items():  # two forwards of the same numbers: no more than rounding
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=1e-5)


def test_preferring_another_response_makes_it_likelier_than_the_forgotten_one():
    model = tiny_llama(0)
    pairs, other = [("Where? ", "in Oslo"), ("Who? ", "the king")], ["nowhere", "nobody"]
    result = unlearn(model, TOKENIZER, pairs, method="dpo", alternatives=other, epochs=8, **FAST)
    alternatives = encode_sequences(
        TOKENIZER, Texts(["0", "1"], list(zip(["Where? ", "Who? "], other, strict=True))), 64, padding=0
    )
    gained = measured_nll(model, alternatives) - measured_nll(result.model, alternatives)
    lost = result.per_datapoint_nll[:, -1] - result.per_datapoint_nll[:, 0]
    assert (gained > 0).all()
    assert (lost > 0).all()


def test_i_do_not_know_is_drawn_once_a_datapoint_by_the_seed():
    model = tiny_llama(0)
    runs = [
        unlearn(model, TOKENIZER, FORGET, method="idk_dpo", epochs=1, lr=1e-3, batch_size=5, random_state=seed).model
        for seed in (0, 0, 1)
    ]
    assert same(state_of(runs[0]), state_of(runs[1]))
    assert not same(state_of(runs[0]), state_of(runs[2]))


def test_representation_steering_changes_the_matched_weights_only():
    model = tiny_llama(0)
    before = state_of(model)
    result = unlearn(model, TOKENIZER, FORGET, RETAIN, method="rmu", layer=0, epochs=2, **FAST)
    changed = {name for name, value in result.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"model.layers.0.mlp.down_proj.weight"}
    assert result.history[-1]["forget"] < result.history[0]["forget"]
    assert result.history[0]["retain"] == 0
    both = unlearn(model, TOKENIZER, FORGET, RETAIN, method="rmu", layer=1, epochs=1, **FAST)
    changed = {name for name, value in both.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"model.layers.{k}.mlp.down_proj.weight" for k in (0, 1)}
    whole = unlearn(model, TOKENIZER, FORGET, RETAIN, method="rmu", layer=0, parameters="all", epochs=1, **FAST)
    assert not torch.equal(whole.model.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_adaptive_steering_is_five_times_as_long_as_the_forget_texts_states():
    model = tiny_llama(0)
    kept = {"epochs": 1, "lr": 0.0, "batch_size": 5, "layer": 1}
    adaptive = unlearn(model, TOKENIZER, FORGET, RETAIN, method="rmu", strength="adaptive", **kept).history[0]["forget"]
    lengths = []
    for text in FORGET:
        with torch.no_grad():
            states = model.model(torch.tensor([TOKENIZER(text)["input_ids"]]), output_hidden_states=True)
        taken = []
        hook = model.model.layers[1].register_forward_hook(
            lambda m, i, o, taken=taken: taken.append(o[0] if isinstance(o, tuple) else o)
        )
        with torch.no_grad():
            model(torch.tensor([TOKENIZER(text)["input_ids"]]))
        hook.remove()
        lengths.append(taken[0][0].norm(dim=-1))
        del states
    strength = 5 * torch.cat(lengths).mean().item()
    fixed = unlearn(model, TOKENIZER, FORGET, RETAIN, method="rmu", strength=strength, **kept).history[0]["forget"]
    assert adaptive == pytest.approx(fixed, rel=1e-4)


def test_the_price_of_retaining_rises_after_the_warm_up():
    result = unlearn(
        tiny_llama(0), TOKENIZER, FORGET, RETAIN, method="pdu", epochs=3, warm_up=1, epsilon=0.5, eta=2.0, alpha=1.5, **FAST
    )
    used = [record["retain_weight"] for record in result.history]
    assert used[:4] == [1.5] * 4
    for record, following in zip(result.history[3:], used[4:], strict=False):
        assert following == max(0.0, record["retain_weight"] + 2.0 * (record["retain"] - 0.5))
    slack = unlearn(tiny_llama(0), TOKENIZER, FORGET, RETAIN, method="pdu", epochs=1, warm_up=0, epsilon=1e6, **FAST)
    assert slack.history[1]["retain_weight"] == 0


def test_divergence_ascent_needs_a_push_to_start():
    model = tiny_llama(0)
    still = unlearn(model, TOKENIZER, FORGET, method="kl_max", noise=0.0, epochs=1, lr=0.0, batch_size=5)
    assert still.history[0]["forget"] == 0
    assert still.history[0]["grad_norm"] < 1e-5
    pushed = unlearn(model, TOKENIZER, FORGET, method="kl_max", epochs=3, **FAST)
    assert pushed.history[0]["forget"] < 0
    assert pushed.history[-1]["forget"] < 10 * pushed.history[0]["forget"]
    published = unlearn(
        model, TOKENIZER, FORGET, method="kl_max", variant="published", noise=0.0, epochs=1, lr=0.0, batch_size=5
    )
    assert published.history[0]["grad_norm"] > 0.01


def test_the_losses_of_muses_code_are_there_for_comparison_only():
    model = tiny_llama(0)
    kept = {"epochs": 1, "lr": 0.0, "batch_size": 5, "log_gradients": True}
    exact = unlearn(model, TOKENIZER, FORGET, RETAIN, method="npo_klr", **kept).history[0]
    published = unlearn(model, TOKENIZER, FORGET, RETAIN, method="npo_klr", variant="muse-logits", **kept).history[0]
    assert exact["retain"] == pytest.approx(0, abs=1e-5)
    assert exact["forget_grad_norm"] > 10 * published["forget_grad_norm"]  # not summed over a sequence, spread over all words
    assert published["retain_grad_norm"] > 10 * exact["retain_grad_norm"]  # at the first weights its slope is not 0


@pytest.mark.parametrize(
    "method", ["undial", "ceu", "wga_gdr", "satimp_gdr", "simnpo_klr", "kl_uniform", "npo_batch", "grad_diff"]
)
def test_every_loss_makes_the_forgotten_texts_harder_and_keeps_the_others(knowing, method):
    result = unlearn(knowing, TOKENIZER, FORGET, RETAIN, method=method, epochs=6, **{**FAST, "lr": 3e-3})
    before, after = result.per_datapoint_nll[:, 0], result.per_datapoint_nll[:, -1]
    assert before.mean() < 0.3
    assert (after > before).all()
    if result.options["retain_term"] != "none":
        kept = encode_sequences(TOKENIZER, as_texts(RETAIN), 64, padding=0)
        assert kept.by_document(measured_nll(result.model, kept)).mean() < after.mean()


def test_a_retain_term_of_ones_own_is_taken_only_where_there_are_retain_texts():
    with_texts = unlearn(tiny_llama(0), TOKENIZER, FORGET, RETAIN, method="simnpo", epochs=0)
    without = unlearn(tiny_llama(0), TOKENIZER, FORGET, method="simnpo", epochs=1, **FAST)
    assert with_texts.options["retain_term"] == "gdr"
    assert without.options["retain_term"] == "none"
    assert with_texts.options["gamma"] == 0.125
    assert "retain" not in without.history[0]


def test_the_reference_is_asked_for_the_rows_it_is_given():
    model = tiny_llama(0)
    sequences = encode_sequences(TOKENIZER, as_texts(FORGET), 64, padding=0)
    reference = Reference(model, {"forget": sequences}, top_k=3, batch_size=2)
    one = [reference.top("forget", [k]) for k in (4, 1)]
    both = reference.top("forget", [4, 1])
    torch.testing.assert_close(both[0], torch.cat([values for values, _ in one]))
    assert torch.equal(both[1], torch.cat([tokens for _, tokens in one]))
    np.testing.assert_allclose(reference.nll("forget"), measured_nll(model, sequences), rtol=1e-6)
