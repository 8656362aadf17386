"""Leave-one-out, influence, removal and neighbours against refits of the last layer."""

import numpy as np
import pytest
import torch

from datumwise.errors import EmptyData, MissingId
from datumwise.learn.deep_kernel.last_layer import LastLayer, forget, influence, leave_one_out, nearest, smoother
from datumwise.learn.deep_kernel.sparse import Statistics
from datumwise.learn.deep_kernel_machine import DeepKernelMachineRegressor

NOISE = torch.tensor(0.3, dtype=torch.float64)


def layer_of(A, k, y):
    return LastLayer.of(Statistics.of(A, k, y), NOISE)


@pytest.fixture
def points():
    rng = torch.Generator().manual_seed(0)
    A = torch.randn(4, 11, generator=rng, dtype=torch.float64)
    k = A.square().sum(0) + torch.rand(11, generator=rng, dtype=torch.float64)
    return A, k, torch.randn(11, 2, generator=rng, dtype=torch.float64)


def without(i, *arrays):
    keep = [j for j in range(arrays[1].shape[0]) if j != i]
    return [a[:, keep] if a is arrays[0] else a[keep] for a in arrays]


def test_prediction_is_bayesian_linear_regression(points):
    A, k, y = points
    layer = layer_of(A, k, y)
    cov = torch.linalg.inv(torch.eye(4) + A @ A.T / NOISE)
    mean, variance = layer.predict(A, k)
    assert torch.allclose(mean, A.T @ cov @ A @ y / NOISE, atol=1e-12)
    assert torch.allclose(variance, k - A.square().sum(0) + (A * (cov @ A)).sum(0), atol=1e-12)


def test_smoother_times_targets_is_the_prediction(points):
    A, k, y = points
    layer, star = layer_of(A, k, y), A[:, :3] + 0.5
    assert torch.allclose(smoother(layer, star, A) @ y, layer.predict(star, k[:3])[0], atol=1e-12)


def test_leave_one_out_equals_a_refit_without_the_point(points):
    A, k, y = points
    mean, variance = leave_one_out(layer_of(A, k, y), A, k, y)
    for i in range(11):
        m, v = layer_of(*without(i, A, k, y)).predict(A[:, i : i + 1], k[i : i + 1])
        assert torch.allclose(mean[i], m[0], atol=1e-10)
        assert torch.allclose(variance[i], v[0], atol=1e-10)


def test_influence_equals_the_change_of_a_refit(points):
    A, k, y = points
    layer, star, prior = layer_of(A, k, y), A[:, :3] - 1.0, torch.full((3,), 9.0).double()
    found = influence(layer, star, A, y)
    for i in range(11):
        refit = layer_of(*without(i, A, k, y))
        assert torch.allclose(found[i], layer.predict(star, prior)[0] - refit.predict(star, prior)[0], atol=1e-10)


def test_forgetting_equals_a_refit_and_forgetting_everything_leaves_the_prior(points):
    A, k, y = points
    layer = layer_of(A, k, y)
    keep = [0, 1, 2, 7, 8, 9, 10]
    left, refit = forget(layer, A[:, 3:7], k[3:7], y[3:7]), layer_of(A[:, keep], k[keep], y[keep])
    assert torch.allclose(left.weights, refit.weights, atol=1e-10)
    assert torch.allclose(left.LQ, refit.LQ, atol=1e-10)
    assert left.statistics.n == 7
    nothing = forget(layer, A, k, y)
    assert nothing.weights.abs().max() < 1e-12
    assert torch.allclose(nothing.predict(A, k)[1], k, atol=1e-12)


def test_nearest_over_blocks_equals_a_sort_of_the_whole():
    matrix = torch.randn(5, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    indices, values = nearest(matrix.split(7, dim=1), 6)
    order = matrix.abs().argsort(dim=1, descending=True)[:, :6]
    assert torch.equal(indices, order)
    assert torch.equal(values, matrix.gather(1, order))


# ---- through the estimator -------------------------------------------------------------------------------------------------


def fitted(n_inducing=12, outputs=1, ids=None, **options):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3)) * [1.0, 10.0, 0.1] + 5
    Y = np.column_stack([np.sin(X[:, 0]) * 20 + 3, X[:, 1] ** 2])[:, :outputs] + rng.normal(size=(40, outputs))
    settings = {"nu": 3.0, "max_iter": 20, "random_state": 0} | options
    model = DeepKernelMachineRegressor(n_inducing=n_inducing, **settings).fit(X, Y[:, 0] if outputs == 1 else Y, ids=ids)
    return model, X, Y[:, 0] if outputs == 1 else Y


def refit_last_layer(model, keep):
    """A last layer that knows the rows ``keep`` alone, with A and k of every training row."""
    parts = list(model._training_parts())
    A, k = torch.cat([A for _, A, _ in parts], 1), torch.cat([k for *_, k in parts])
    layer = LastLayer.of(Statistics.of(A[:, keep], k[keep], model._targets(model._y)[keep]), model.last_layer_.noise)
    return layer, A, k


@pytest.mark.parametrize("n_inducing", [12, None])
@pytest.mark.parametrize("outputs", [1, 2])
def test_loo_of_the_estimator_equals_refits_in_units_of_y(n_inducing, outputs):
    model, _, _ = fitted(n_inducing, outputs)
    mean, variance = model.loo_predict()
    for i in (0, 17, 39):
        layer, A, k = refit_last_layer(model, [j for j in range(40) if j != i])
        m, v = layer.predict(A[:, i : i + 1], k[i : i + 1])
        assert np.allclose(mean[i], m.numpy().ravel() * model.y_scale_ + model.y_mean_, atol=1e-8)
        assert np.allclose(variance[i], (v + layer.noise).numpy() * model.y_scale_**2, rtol=1e-8)
    assert mean.shape == variance.shape == ((40,) if outputs == 1 else (40, 2))


@pytest.mark.parametrize("n_inducing", [12, None])
def test_influence_of_the_estimator_is_what_forget_then_does(n_inducing):
    model, X, _ = fitted(n_inducing)
    new = X[:5] + 0.3
    before, moved = model.predict(new), model.influence(new)
    assert moved.shape == (40, 5)
    model.forget([7])
    assert np.allclose(before - model.predict(new), moved[7], atol=1e-8)


@pytest.mark.parametrize("n_inducing", [12, None])
def test_forget_is_exact_at_the_fixed_representation_in_one_call_or_many(n_inducing):
    model, X, _ = fitted(n_inducing, ids=[f"row{i}" for i in range(40)])
    layer, A, k = refit_last_layer(model, list(range(5, 40)))
    expected = layer.predict(A, k)
    model.forget(["row0", "row1"]).forget(["row4", "row3", "row2"])
    assert model.ids_.tolist() == [f"row{i}" for i in range(5, 40)]
    assert torch.allclose(model.last_layer_.predict(A, k)[0], expected[0], atol=1e-8)
    assert torch.allclose(model.last_layer_.predict(A, k)[1], expected[1], atol=1e-8)
    assert model.loo_predict()[0].shape == (35,)
    assert model.influence(X[:2]).shape == (35, 2)
    assert set(model.neighbours(X[:3], 4)[0].ravel()) <= set(model.ids_)


def test_forget_with_refit_is_a_fit_that_never_saw_the_rows():
    model, X, y = fitted(ids=[f"row{i}" for i in range(40)])
    model.forget(["row2", "row9"], refit=True)
    keep = [i for i in range(40) if i not in (2, 9)]
    other = DeepKernelMachineRegressor(n_inducing=12, nu=3.0, max_iter=20, random_state=0).fit(X[keep], y[keep])
    assert np.array_equal(model.predict(X), other.predict(X))
    assert model.ids_.tolist() == [f"row{i}" for i in keep]


def test_what_cannot_be_forgotten_is_refused():
    model, *_ = fitted()
    with pytest.raises(MissingId, match=r"no training datapoint has the id 99, 100"):
        model.forget([99, 3, 100])
    with pytest.raises(EmptyData, match="fewer than two datapoints would be left"):
        model.forget(range(40))
    assert len(model.ids_) == 40


def test_neighbours_are_the_largest_weights_and_weights_times_targets_the_prediction():
    model, X, y = fitted(ids=np.arange(40) + 100)
    new = X[:6] + 0.1
    ids, weights = model.neighbours(new, 40)
    standard = (y - model.y_mean_) / model.y_scale_
    mean = (weights * standard[ids - 100]).sum(1) * model.y_scale_[0] + model.y_mean_[0]
    assert np.allclose(mean, model.predict(new), atol=1e-8)
    assert (np.diff(np.abs(weights), axis=1) <= 1e-12).all()
    top, some = model.neighbours(new, 3)
    assert np.array_equal(top, ids[:, :3])
    assert np.allclose(some, weights[:, :3])


def test_many_rows_are_streamed_and_give_the_same(monkeypatch):
    from datumwise.learn.deep_kernel import train

    model, X, _ = fitted()
    whole = [
        model.predict(X, return_std=True),
        model.loo_predict(),
        model.neighbours(X, 3),
        (model.influence(X), model.gram(X)),
    ]
    real = train.blocks
    monkeypatch.setattr("datumwise.learn.deep_kernel.estimator.blocks", lambda n, P, block=None: real(n, P, 7))
    again = [
        model.predict(X, return_std=True),
        model.loo_predict(),
        model.neighbours(X, 3),
        (model.influence(X), model.gram(X)),
    ]
    for a, b in zip(whole, again, strict=True):
        assert np.allclose(a[0], b[0], atol=1e-9)
        assert np.allclose(a[1], b[1], atol=1e-9)
