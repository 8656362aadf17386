"""Claims about selection by predicted influence: DsDm and MATES."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.probe.attribute import attribute
from datumwise.score.dsdm import dsdm
from datumwise.score.mates import mates, measured_influence


def learnt(n=60, seed=0):
    """A classifier of two clouds, a fifth of whose training labels are wrong."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    X = torch.randn(n, 3, generator=generator, dtype=torch.float64) + 2.0 * (2 * y - 1)[:, None]
    wrong = torch.arange(n) < n // 5
    given = torch.where(wrong, 1 - y, y)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(X), given).backward()
        optimiser.step()
    model.zero_grad(set_to_none=True)
    return model, (X, given), (X[40:], y[40:]), wrong.numpy()


def test_dsdm_is_the_mean_of_trak_over_the_target_and_ranks_wrong_labels_last():
    model, train, target, wrong = learnt()
    values = dsdm(model, train, target)
    np.testing.assert_allclose(values, attribute(model, train, target, method="trak").mean(0))
    assert values[wrong].max() < np.median(values[~wrong])
    np.testing.assert_allclose(
        dsdm(model, train, target, method="grad_dot"), attribute(model, train, target, method="grad_dot").mean(0)
    )


def test_measured_influence_of_a_small_step_is_the_product_of_gradients():
    model, (X, y), target, _ = learnt()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tries = [(X[i : i + 1], y[i : i + 1]) for i in range(12)]
    seen = []
    gains = measured_influence(
        model, tries, [target], learning_rate=1e-5, progress=lambda done, total: seen.append((done, total))
    )
    products = attribute(model, (X[:12], y[:12]), target, method="grad_dot").mean(0)
    np.testing.assert_allclose(gains / 1e-5, products, rtol=1e-3, atol=1e-6)
    assert seen[-1] == (12, 12)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_mates_predicts_what_was_not_tried_and_says_how_well():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6))
    truth = X @ rng.normal(size=6)
    rows = rng.choice(300, 60, replace=False)
    found = mates(X, rows, truth[rows] + 0.2 * rng.normal(size=60))
    rest = np.setdiff1d(np.arange(300), rows)
    assert np.corrcoef(found.values[rest], truth[rest])[0, 1] > 0.97
    assert found.agreement > 0.9
    noise = mates(X, rows, rng.normal(size=60))
    assert noise.agreement < 0.4
    again = mates(X, rows, truth[rows], regressor=LinearRegression())
    np.testing.assert_allclose(again.values, truth, atol=1e-10)


def test_agreement_is_of_held_out_rows_and_repeatable():
    X, y = np.eye(30), np.arange(30.0)  # nothing can be foreseen, though everything can be memorised
    found = mates(X, range(30), y, regressor=LinearRegression())
    np.testing.assert_allclose(found.values, y, atol=1e-10)
    assert found.agreement < 0.2
    assert mates(X, range(30), y, random_state=3).agreement == mates(X, range(30), y, random_state=3).agreement


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"rows": [0, 1, 2, 2]}, DatumwiseError, "row 2 is named twice"),
        ({"rows": [0, 1, 2, 9]}, DatumwiseError, "row 9 is not among the 6 datapoints"),
        ({"rows": [0, 1, 2]}, SchemaMismatch, "3 rows were tried and 4 influences were given"),
        ({"rows": [0.5, 1, 2, 3]}, SchemaMismatch, "rows must be row numbers"),
        ({"influence": [0, np.nan, 1, 2]}, NotFinite, "influence has NaN or infinity in row 1"),
        ({"features": np.full((6, 2), np.nan)}, NotFinite, "features"),
        ({"folds": 9}, DatumwiseError, "4 influences cannot be dealt to 9 folds"),
    ],
)
def test_mates_refuses_what_does_not_fit(options, kind, sentence):
    given = {"features": np.arange(12.0).reshape(6, 2), "rows": [0, 1, 2, 3], "influence": [0.0, 1, 2, 3], "folds": 2} | options
    with pytest.raises(kind, match=sentence):
        mates(given.pop("features"), given.pop("rows"), given.pop("influence"), **given)


def test_measuring_without_a_step_or_a_reference_is_refused():
    model, (X, y), target, _ = learnt(10)
    with pytest.raises(DatumwiseError, match="the learning rate is 0"):
        measured_influence(model, [(X, y)], [target], learning_rate=0)
    with pytest.raises(DatumwiseError, match="nothing to measure it by"):
        measured_influence(model, [(X, y)], [], learning_rate=0.1)
