import numpy as np
import pytest
import torch
from tiny_language_models import log_softmax_of, tiny_llama

from datumwise.errors import EmptyData, NotFinite, SchemaMismatch, UnknownName
from datumwise.evaluate.next_token_ranking import ndcg_at_k, top_tokens
from datumwise.evaluate.perplexity import perplexity


def ids(n=5, T=9, seed=0):
    return torch.randint(0, 256, (n, T), generator=torch.Generator().manual_seed(seed))


def nll_by_hand(model, row):
    logs = log_softmax_of(model, row)
    return -sum(logs[t, row[t + 1]] for t in range(len(row) - 1))


def test_perplexity_is_the_exponential_of_the_mean_loss_of_a_token():
    model, tokens = tiny_llama(), ids()
    by_hand = np.array([nll_by_hand(model, row) for row in tokens.tolist()])
    found = perplexity(model, tokens, batch_size=2)
    assert np.allclose(found.nll, by_hand, rtol=1e-5)
    assert found.n_tokens.tolist() == [8] * 5
    assert found.value == pytest.approx(np.exp(by_hand.sum() / 40), rel=1e-5)


def test_batches_averaged_as_published_are_at_least_as_surprised_and_depend_on_their_size():
    model, tokens = tiny_llama(), ids(7)
    usual = perplexity(model, tokens)
    by_hand = np.array([nll_by_hand(model, row) for row in tokens.tolist()])
    for size in (1, 3, 7):
        found = perplexity(model, tokens, average="batch", batch_size=size)
        parts = [by_hand[s : s + size] for s in range(0, 7, size)]
        assert found.value == pytest.approx(np.mean([np.exp(p.sum() / (8 * len(p))) for p in parts]), rel=1e-5)
        assert 7 % size or found.value >= usual.value * (1 - 1e-6)  # Jensen, for batches of as many tokens
    assert perplexity(model, tokens, average="batch", batch_size=7).value == pytest.approx(usual.value, rel=1e-6)
    assert perplexity(model, tokens, average="batch", batch_size=1).value > 1.004 * usual.value


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_for_nothing(side):
    model, tokens = tiny_llama(), ids(4)
    padded, mask = torch.full((4, 13), 259), torch.zeros(4, 13, dtype=torch.int64)
    at = slice(4, 13) if side == "left" else slice(0, 9)
    padded[:, at], mask[:, at] = tokens, 1
    found = perplexity(model, padded, mask)
    assert np.allclose(found.nll, perplexity(model, tokens).nll, rtol=1e-5)
    assert found.n_tokens.tolist() == [8] * 4


def test_bad_texts_are_refused():
    model = tiny_llama()
    with pytest.raises(EmptyData, match="no token to predict"):
        perplexity(model, ids(3, 1))
    with pytest.raises(SchemaMismatch, match=r"token ids have shape \(5, 9\) and their mask \(5, 2\)"):
        perplexity(model, ids(), torch.ones(5, 2))
    with pytest.raises(UnknownName, match='it is "token" or "batch"'):
        perplexity(model, ids(), average="mean")
    with torch.no_grad():
        model.model.embed_tokens.weight[0] = torch.nan
    with pytest.raises(NotFinite, match="the loss of row 1 is not finite"):
        perplexity(model, torch.tensor([[1, 2, 3], [1, 0, 3]]))


# --- next-token ranking ---------------------------------------------------------------------------------


def test_ndcg_equals_scikit_learns_on_random_rankings():
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(0)
    for _ in range(50):
        base, edited = rng.permutation(14)[:10], rng.permutation(14)[:10]
        relevance = np.zeros(14)
        relevance[base] = 10 - np.arange(10)
        order = np.zeros(14)
        order[edited] = 10 - np.arange(10)  # scores by which the edited model ranks
        assert ndcg_at_k([base], [edited])[0] == pytest.approx(ndcg_score([relevance], [order], k=10))


def test_ndcg_is_one_for_the_same_ranking_and_zero_for_strangers():
    base = np.arange(30).reshape(3, 10)
    assert ndcg_at_k(base, base).tolist() == pytest.approx([1, 1, 1])
    assert ndcg_at_k(base, base + 100).tolist() == [0, 0, 0]
    assert 0 < ndcg_at_k(base, base[:, ::-1])[0] < 1


def test_top_tokens_are_of_every_position_but_the_last_row_by_row():
    model, tokens = tiny_llama(), ids(3, 6)
    found = top_tokens(model, tokens, 10, batch_size=2)
    by_hand = [np.argsort(-log_softmax_of(model, row)[:-1], axis=1)[:, :10] for row in tokens.tolist()]
    assert (found == np.concatenate(by_hand)).all()
    assert ndcg_at_k(found, found).mean() == pytest.approx(1)


def test_bad_rankings_are_refused():
    with pytest.raises(SchemaMismatch, match="do not fit together"):
        ndcg_at_k([[1, 2]], [[1, 2], [3, 4]])
    with pytest.raises(Exception, match="k is 3 and the rankings have 2 tokens: choose 1 to 2"):
        ndcg_at_k([[1, 2]], [[1, 2]], k=3)
    with pytest.raises(EmptyData, match="have no next token"):
        top_tokens(tiny_llama(), ids(2, 1))
