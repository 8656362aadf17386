"""Claims about contexts: what was read once is read for all."""

import numpy as np
import pytest
import torch
from tiny_language_models import Uncached, byte_tokenizer, log_softmax_of, tiny_gpt2, tiny_llama

from datumwise.probe import language_model
from datumwise.probe.language_model import reading
from datumwise.probe.score_choices import score_choices
from datumwise.probe.shared_prefix import Context, common_start, read


@pytest.fixture(params=[tiny_llama, tiny_gpt2, lambda: Uncached(tiny_gpt2())], ids=["llama", "gpt2", "uncached"])
def model(request):
    return request.param()


def tensors(rows, side):
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), 9), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        at = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, at], mask[i, at] = torch.tensor(row), 1
    return ids, mask


@pytest.mark.parametrize("side", ["right", "left"])
def test_reading_in_pieces_with_padding_in_between_equals_reading_whole(model, side):
    first, second = [[1, 2, 3, 4], [5, 6]], [[7], [8, 9, 10]]
    with reading(model):
        _, context = read(model, Context.empty(model, 2), *tensors(first, "right"))
        logits, context = read(model, context, *tensors(second, side))
        again, _ = read(model, context.take([1, 1, 0]), *tensors([[11], [12], [11]], side))
    for row in range(2):
        whole = log_softmax_of(getattr(model, "inner", model), first[row] + second[row])[-1]
        np.testing.assert_allclose(torch.log_softmax(logits[row].double(), -1), whole, atol=1e-4)
    for out, (row, token) in zip(again, [(1, 11), (1, 12), (0, 11)], strict=True):
        whole = log_softmax_of(getattr(model, "inner", model), [*first[row], *second[row], token])[-1]
        np.testing.assert_allclose(torch.log_softmax(out.double(), -1), whole, atol=1e-4)


def test_reading_on_leaves_the_context_as_it_was(model):
    with reading(model):
        _, context = read(model, Context.empty(model), *tensors([[1, 2, 3]], "right"))
        once, _ = read(model, context, *tensors([[4, 5]], "right"))
        read(model, context, *tensors([[6]], "right"))
        twice, _ = read(model, context, *tensors([[4, 5]], "right"))
    assert context.width == 3
    torch.testing.assert_close(once, twice)


def test_a_common_beginning_goes_through_the_model_once(monkeypatch):
    model, tokenizer = tiny_llama(), byte_tokenizer()
    seen = []
    original = language_model._called

    def counted(model, input_ids, *rest, **options):
        seen.append(input_ids.numel())
        return original(model, input_ids, *rest, **options)

    monkeypatch.setattr(language_model, "_called", counted)
    prompts = ["p" * 100 + f" {i}:" for i in range(20)]
    score_choices(model, tokenizer, prompts, [["ab", "cd", "ef"]] * 20, prefix="examples " * 8)
    assert sum(seen) < 72 + 100 + 20 * (4 + 3 * 2) + 20


def test_the_output_layer_is_computed_where_it_is_asked_for_and_nowhere_else():
    model = tiny_llama()
    rows = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[:-1].numel()))
    text = language_model.Encoded(np.arange(60), np.where(np.arange(60) < 50, -100, np.arange(60)), False)
    language_model.language_model_signals(model, [text], ["nll"])
    assert rows == [10]


def test_a_common_start_leaves_every_row_a_token_of_its_own():
    rows = [np.array(row) for row in ([1, 2, 3], [1, 2], [1, 2, 4, 5])]
    assert common_start(rows) == 1
    assert common_start([np.array([3, 1]), np.array([2, 1])]) == 0
    assert common_start([np.array([3])]) == 0
