"""Claims about exact inner products of gradients, against autograd in float64."""

import numpy as np
import pytest
import torch
from curvature import class_loss, convolutional, gpt2, llama, mlp, pictures, text_loss, texts, vectors
from torch import nn

from datumwise.errors import DatumwiseError
from datumwise.probe.tracin import tracin


def gradients(model, examples, loss_of):
    model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(loss_of(model, e), parameters) for e in examples]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def normalised():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.mark.parametrize(
    ("make", "data", "loss_of", "rtol"),
    [
        (mlp, vectors, class_loss, 1e-6),
        (normalised, vectors, class_loss, 1e-6),
        (convolutional, pictures, class_loss, 1e-6),
        (gpt2, texts, text_loss, 1e-6),
        (llama, texts, text_loss, 1e-4),
    ],
)
@pytest.mark.parametrize("query_bytes", [2**29, 6000])
def test_products_of_all_parameters_equal_autograd(make, data, loss_of, rtol, query_bytes, monkeypatch):
    if query_bytes == 6000:
        monkeypatch.setattr("datumwise.probe.tracin.CHUNK_BYTES", 1000)  # few datapoints' matrices at a time
    model, whole = make(), data()
    examples = whole[1] if loss_of is text_loss else list(zip(*whole, strict=True))
    batches = [whole[0]] if loss_of is text_loss else [whole]
    G = gradients(model, examples, loss_of)
    products = tracin(model, batches, batches, query_bytes=query_bytes)
    exact = (G @ G.T).numpy()
    np.testing.assert_allclose(products, exact, rtol=rtol, atol=rtol * np.abs(exact).max())


def test_rows_are_queries_and_columns_are_datapoints():
    model, (x, y) = mlp(), vectors()
    whole = tracin(model, (x, y), (x, y))
    part = tracin(model, (x, y), (x[[2, 5]], y[[2, 5]]), batch_size=4)
    assert part.shape == (2, 11)
    np.testing.assert_allclose(part, whole[[2, 5]], rtol=1e-5)


def test_checkpoints_add_up_with_their_weights_and_the_models_own_come_back():
    model, other, (x, y) = mlp(), mlp(), vectors()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    states = [model.state_dict(), other.state_dict()]
    states = [{k: v.clone() for k, v in state.items()} for state in states]
    both = tracin(model, (x, y), (x, y), checkpoints=states, weights=[0.5, 2.0])
    expected = 0.5 * tracin(model, (x, y), (x, y)) + 2.0 * tracin(other, (x, y), (x, y))
    np.testing.assert_allclose(both, expected, rtol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with pytest.raises(RuntimeError):
        tracin(model, (x, y), (x, y), checkpoints=[states[1], {"no": x}])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with pytest.raises(DatumwiseError, match="1 weights for 2 checkpoints"):
        tracin(model, (x, y), (x, y), checkpoints=states, weights=[1.0])


def test_a_measure_of_the_queries_may_differ_from_the_loss():
    model, (x, y) = mlp(), vectors()

    def first_logit(model, batch):
        return model(batch[0])[:, 0]

    products = tracin(model, (x, y), (x[:3], y[:3]), measure=first_logit)
    F = gradients(model, list(x[:3]), lambda model, x: model(x[None])[0, 0])
    G = gradients(model, list(zip(x, y, strict=True)), class_loss)
    np.testing.assert_allclose(products, F @ G.T, rtol=1e-5, atol=1e-6)
