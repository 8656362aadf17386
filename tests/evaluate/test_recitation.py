from functools import cache

import numpy as np
import pytest
import torch
from tiny_language_models import tiny_gpt2, tiny_llama

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, NotFinite, SchemaMismatch
from datumwise.evaluate.recitation import recitation
from datumwise.evaluate.recitation_metrics import levenshtein, nested_prompts, recitation_metrics

PREFIX, SUFFIX = 10, 8


@cache
def world():
    """A tiny model that has learnt some of 24 random texts by heart, and those texts."""
    torch.manual_seed(0)
    texts = torch.randint(0, 256, (24, PREFIX + SUFFIX))
    texts[18:20, :14] = texts[:2, :14]  # deviate on the way
    texts[20:, 8:] = texts[2:6, 8:]  # another beginning of a text known by heart
    model = tiny_llama(1, scale=1.0)
    often = texts[:16]
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(90):
        optimiser.zero_grad()
        model(input_ids=often, labels=often, use_cache=False).loss.backward()
        optimiser.step()
    optimiser.zero_grad()
    return model.eval(), texts


def greedy(model, prompt, n):
    """Token by token, everything read anew."""
    tokens = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def by_hand(a, b):
    """Levenshtein distance of two sequences by the textbook's table."""
    d = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            d[i][j] = min(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return d[-1][-1]


# --- array metrics --------------------------------------------------------------------------------------


def test_levenshtein_equals_the_dynamic_programme_on_200_random_pairs():
    rng = np.random.default_rng(0)
    for length in (1, 5, 12):
        a, b = rng.integers(0, 4, (67, length)), rng.integers(0, 4, (67, max(1, length - 2)))
        assert levenshtein(a, b).tolist() == [by_hand(x, y) for x, y in zip(a, b, strict=True)]


def test_levenshtein_is_a_distance():
    rng = np.random.default_rng(1)
    a, b, c = rng.integers(0, 3, (3, 300, 9))
    ab, bc, ac = levenshtein(a, b), levenshtein(b, c), levenshtein(a, c)
    assert not levenshtein(a, a).any()
    assert (ab == levenshtein(b, a)).all()
    assert (ac <= ab + bc).all()
    assert levenshtein(a, np.zeros((300, 0), dtype=int)).tolist() == [9] * 300


def test_a_shift_by_one_token_is_near_in_edit_distance_and_far_token_by_token():
    gold = np.arange(48)[None]
    shifted = np.roll(gold, 1)
    found = recitation_metrics(shifted, gold)
    assert (shifted == gold).mean() == 0
    assert found.distance[0] == pytest.approx(2 / 48)
    assert found.loose[0]
    assert found.copy[0]
    assert not found.strict[0]


def test_strict_counts_as_loose_and_the_threshold_itself_is_loose():
    gold = np.tile(np.arange(48), (3, 1))
    written = gold.copy()
    written[1, :12] = 99  # similarity exactly 0.75
    written[2, :13] = 99
    found = recitation_metrics(written, gold)
    assert found.strict.tolist() == [True, False, False]
    assert found.loose.tolist() == [True, True, False]
    assert found.similarity.tolist() == pytest.approx([1.0, 0.75, 35 / 48])


def test_nested_prompts_are_those_of_the_definition():
    head, tail, t = list(range(30)), list(range(100, 125)), 20
    found = {(tuple(p.tolist()), at) for p, at in nested_prompts(head, tail, t)}
    whole = head + tail
    expected = {(tuple(whole[: 30 + i]), i) for i in range(1, t + 1)} | {(tuple(head[-m:]), 0) for m in range(t + 1, 30)}
    assert found == expected
    assert (tuple(head), 0) in {(tuple(p.tolist()), at) for p, at in nested_prompts(head, tail, t, unperturbed=True)}


def test_nested_prompts_always_leave_a_token_to_score():
    assert [at for _, at in nested_prompts([1, 2], [3, 4], 20)] == [1]
    assert nested_prompts([1, 2], [3], 20) == []


# --- the model ------------------------------------------------------------------------------------------


def test_strict_by_reading_equals_strict_by_writing_on_every_row():
    model, texts = world()
    found = recitation(model, texts, PREFIX, SUFFIX)
    written = np.array([greedy(model, row[:PREFIX], SUFFIX) for row in texts.tolist()])
    assert (found.generated == written).all()
    assert found.strict.tolist() == (written == texts[:, PREFIX:].numpy()).all(axis=1).tolist()
    assert 6 <= found.strict.sum() < 24  # some are recited and some are not
    assert ((found.matched_prefix > 0) & ~found.strict).any()  # and some deviate on the way
    runs = np.cumprod(written == texts[:, PREFIX:].numpy(), axis=1).sum(axis=1)
    assert found.matched_prefix.tolist() == runs.tolist()
    metrics = recitation_metrics(written, texts[:, PREFIX:].numpy())
    assert found.similarity.tolist() == metrics.similarity.tolist()


def test_reading_alone_writes_nothing_and_finds_the_same():
    model, texts = world()
    whole, read = recitation(model, texts, PREFIX, SUFFIX), recitation(model, texts, PREFIX, SUFFIX, similarity=False)
    assert read.generated is read.similarity is read.loose is None
    assert read.strict.tolist() == whole.strict.tolist()
    assert read.matched_prefix.tolist() == whole.matched_prefix.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(side):
    model, texts = world()
    whole = recitation(model, texts, PREFIX, SUFFIX)
    rows, mask = [], []
    for i, row in enumerate(texts):
        pad, ones = torch.full((i % 5,), 259), torch.ones(len(row), dtype=torch.int64)
        rows.append(torch.cat([pad, row] if side == "left" else [row, pad]))
        mask.append(torch.cat([torch.zeros_like(pad), ones] if side == "left" else [ones, torch.zeros_like(pad)]))
    found = recitation(model, rows, PREFIX, SUFFIX, attention_mask=mask)
    assert found.strict.tolist() == whole.strict.tolist()
    assert (found.generated == whole.generated).all()


def test_results_do_not_depend_on_the_batch_or_the_order():
    model, texts = world()
    whole = recitation(model, texts, PREFIX, SUFFIX, perturb=True, shift=3, ids=[f"t{i}" for i in range(24)])
    turned = recitation(model, texts.flip(0), PREFIX, SUFFIX, perturb=True, shift=3, tokens_per_batch=40)
    for name in ("strict", "matched_prefix", "similarity", "stress"):
        assert getattr(whole, name).tolist() == getattr(turned, name)[::-1].tolist()
    assert whole.ids.tolist()[:2] == ["t0", "t1"]


def test_stress_equals_every_nested_prompt_tried_by_hand():
    model, texts = world()
    t = 4
    found = recitation(model, texts[:8], PREFIX, SUFFIX, perturb=True, shift=t)
    for row, text in enumerate(texts[:8].tolist()):
        head, tail = text[:PREFIX], text[PREFIX:]
        runs = {}
        for prompt, at in nested_prompts(head, tail, t):
            written = greedy(model, prompt, SUFFIX - at)
            same = [a == b for a, b in zip(written, tail[at:], strict=True)]
            runs[at if at else len(prompt) - PREFIX] = same.index(False) if False in same else len(same)
        assert found.stress[row] == max(runs.values())
        if found.stress[row]:
            assert runs[found.stress_shift[row]] == found.stress[row]


def test_a_longer_prompt_uncovers_what_the_plain_prompt_hides():
    model, texts = world()
    found = recitation(model, texts, PREFIX, SUFFIX, perturb=True, shift=3)
    hidden = (found.matched_prefix == 0) & (found.stress > 0)
    assert hidden.any()


def test_the_model_is_as_it_was():
    model, texts = world()
    model.train()
    state = torch.random.get_rng_state()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    recitation(model, texts, PREFIX, SUFFIX, perturb=True)
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    model.eval()


def test_gpt2_recites_by_its_own_greedy_writing():
    model = tiny_gpt2(0)
    texts = torch.randint(0, 256, (5, 12), generator=torch.Generator().manual_seed(0))
    texts[0, 6:] = torch.tensor(greedy(model, texts[0, :6].tolist(), 6))
    found = recitation(model, texts, 6, 6)
    assert found.strict.tolist() == [True, False, False, False, False]
    assert (found.generated == [greedy(model, row[:6], 6) for row in texts.tolist()]).all()


def test_means_and_json_say_what_the_arrays_say():
    model, texts = world()
    found = recitation(model, texts, PREFIX, SUFFIX)
    told = found.as_dict()
    assert told["means"]["strict"] == found.strict.mean()
    assert told["means"]["loose"] == (found.similarity >= 0.75).mean()
    assert told["means"]["distance"] == pytest.approx(1 - found.similarity.mean())
    assert told["rows"]["strict"] == found.strict.tolist()
    assert f"strict {found.strict.mean():.3f}" in str(found)
    assert '"suffix": 8' in found.to_json()


def test_progress_ends_at_all_texts_read_and_written():
    model, texts = world()
    told = []
    recitation(model, texts, PREFIX, SUFFIX, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (48, 48)


# --- bad inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        ({"suffix": 9}, SchemaMismatch, r"0, 1, 2 and 21 more has 18 tokens, and a prefix of 10 and a suffix of 9 need 19"),
        ({"prefix": 0}, DatumwiseError, "prefix is 0 and suffix is 8: both must be 1 or more"),
        ({"loose": 1.5}, DatumwiseError, "a similarity of 1.5 cannot be asked for"),
        ({"ids": ["a"]}, SchemaMismatch, "1 ids were given for 24 texts"),
        ({"attention_mask": torch.ones(24, 3)}, SchemaMismatch, "attention_mask has another shape than input_ids"),
    ],
)
def test_a_bad_request_is_refused_in_one_sentence(change, kind, sentence):
    model, texts = world()
    with pytest.raises(kind, match=sentence):
        recitation(model, texts, **({"prefix": PREFIX, "suffix": SUFFIX} | change))


def test_texts_the_model_cannot_read_are_refused():
    model, _ = world()
    with pytest.raises(EmptyData, match="no text to recite"):
        recitation(model, [], 2, 2)
    with pytest.raises(ModelMismatch, match="prefix and suffix are 300 tokens and the model reads 256"):
        recitation(model, torch.zeros(1, 300, dtype=torch.int64), 200, 100)
    with pytest.raises(ModelMismatch, match="vocabulary of 260"):
        recitation(model, torch.full((1, 10), 400), 4, 4)
    with pytest.raises(SchemaMismatch, match="the text of 0 is not a row of token ids"):
        recitation(model, [[0.5, 1.0, 2.0]], 1, 1)


def test_a_model_that_says_nan_is_refused_by_name():
    model = tiny_llama(0)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = torch.nan
    texts = torch.tensor([[1, 2, 3, 4], [1, 7, 3, 4]])
    with pytest.raises(NotFinite, match="logits are NaN in b"):
        recitation(model, texts, 2, 2, ids=["a", "b"])


def test_metrics_refuse_what_does_not_fit():
    with pytest.raises(SchemaMismatch, match=r"generated has shape \(1, 2\) and gold \(1, 3\)"):
        recitation_metrics([[1, 2]], [[1, 2, 3]])
    with pytest.raises(SchemaMismatch, match="must be token ids"):
        recitation_metrics([["a"]], [["b"]])
    with pytest.raises(DatumwiseError, match="a similarity of 0 cannot"):
        recitation_metrics([[1]], [[1]], loose=0)
    with pytest.raises(DatumwiseError, match="cannot be shifted by -1"):
        nested_prompts([1], [2], -1)
