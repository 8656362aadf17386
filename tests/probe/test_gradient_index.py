"""Claims about gradients that are kept on disk: asked again without another pass, refused where they do not fit."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from curvature import mlp, vectors

from datumwise.errors import DatumwiseError, ModelMismatch, SchemaMismatch, SourceError
from datumwise.ledger import create_ledger, open_ledger
from datumwise.probe import signals
from datumwise.probe.attribute import attribute
from datumwise.probe.attribution.index import GradientIndex, InMemory, LedgerIndex, inner_products, nearest

TRAIN, TEST = vectors(40), vectors(5, seed=1)


class NeverRead:
    """Training data that must not be gone through again."""

    def __iter__(self):
        raise AssertionError("the training data were read again")


@pytest.mark.parametrize("method", ["trak", "grad_dot", "grad_cos", "tracin"])
def test_a_stored_index_gives_the_scores_of_memory_and_is_never_made_twice(method, tmp_path):
    model = mlp().float()
    held = attribute(model, TRAIN, TEST, method=method, projection=32)
    first = attribute(model, TRAIN, TEST, method=method, projection=32, index=tmp_path)
    assert np.abs(first - held).max() < 0.01 * np.abs(held).max()  # float16 rows
    again = attribute(model, NeverRead(), (TEST[0][2:], TEST[1][2:]), method=method, projection=32, index=tmp_path)
    np.testing.assert_allclose(again, first[2:], rtol=1e-4, atol=1e-6)


def test_rows_of_less_are_kept_with_the_moments_they_were_made_of(tmp_path):
    model = mlp().float()
    moments = {n: (torch.zeros_like(p), torch.ones_like(p)) for n, p in model.named_parameters()}
    first = attribute(model, TRAIN, TEST, method="less", adam=moments, index=tmp_path)
    np.testing.assert_allclose(
        attribute(model, NeverRead(), TEST, method="less", adam=moments, index=tmp_path), first, rtol=1e-5
    )
    others = {n: (m, 2 * v) for n, (m, v) in moments.items()}
    with pytest.raises(ModelMismatch, match="was made with adam"):
        attribute(model, TRAIN, TEST, method="less", adam=others, index=tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"projection": 16}, "was made with length 32 and is asked with 16"),
        ({"seed": 1}, "was made with seed 0 and is asked with 1"),
        ({"method": "grad_dot"}, "was made with objective log_odds and is asked with loss"),
        ({"modules": ["4"]}, "was made with parameters"),
    ],
)
def test_an_index_of_another_projection_seed_model_or_objective_is_refused(change, sentence, tmp_path):
    model = mlp().float()
    options = {"method": "trak", "projection": 32, "index": tmp_path}
    attribute(model, TRAIN, TEST, **options)
    with pytest.raises(ModelMismatch, match=sentence):
        attribute(model, TRAIN, TEST, **(options | change))
    with torch.no_grad():
        model[0].weight.add_(1)
    with pytest.raises(ModelMismatch, match="was made with model"):
        attribute(model, TRAIN, TEST, **options)


def test_each_checkpoint_has_an_index_of_its_own(tmp_path):
    model, other = mlp().float(), mlp().float()
    with torch.no_grad():
        other[0].weight.mul_(2)
    states = [{k: v.clone() for k, v in m.state_dict().items()} for m in (model, other)]
    options = {"projection": 64, "checkpoints": states}
    held = attribute(model, TRAIN, TEST, **options)
    stored = attribute(model, TRAIN, TEST, index=tmp_path, **options)
    assert np.abs(stored - held).max() < 0.01 * np.abs(held).max()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-0", "checkpoint-1"]


def test_a_killed_run_leaves_no_index_and_the_next_makes_it_anew(tmp_path):
    model = mlp().float()

    def dying():
        yield TRAIN[0][:10].float(), TRAIN[1][:10]
        raise KeyboardInterrupt

    class Dying:
        __iter__ = staticmethod(dying)

    with pytest.raises(KeyboardInterrupt):
        attribute(model, Dying(), TEST, projection=32, index=tmp_path)
    with pytest.raises(SourceError, match="there is no gradient index"):
        GradientIndex(tmp_path / "checkpoint-0")
    scores = attribute(model, TRAIN, TEST, projection=32, index=tmp_path)
    assert scores.shape == (5, 40)


def test_files_that_were_cut_short_are_noticed(tmp_path):
    attribute(mlp().float(), TRAIN, TEST, projection=32, index=tmp_path)
    file = tmp_path / "checkpoint-0" / "norm.f32"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(SourceError, match=r"norm.f32 of the gradient index at .* is cut short or missing"):
        GradientIndex(tmp_path / "checkpoint-0")


def test_a_memory_map_is_read_in_blocks_and_gives_back_what_was_written(tmp_path):
    rows = np.random.default_rng(0).normal(size=(100, 8)) * 10.0 ** np.arange(-6, 4, 0.1)[:, None]
    rows[3] = 0
    with GradientIndex.writer(tmp_path, 8, {}) as writer:
        for start in range(0, 100, 30):
            writer.append(rows[start : start + 30], np.arange(start, min(start + 30, 100)))
    index = GradientIndex(tmp_path)
    assert isinstance(index.rows, np.memmap)
    back = np.concatenate([block for _, block in index.blocks(7)])
    assert (np.abs(back - rows) <= 1e-3 * np.linalg.norm(rows, axis=1, keepdims=True)).all()
    assert index.value.tolist() == list(range(100))


@pytest.mark.parametrize("cosine", [False, True])
def test_the_nearest_are_those_of_the_whole_matrix_with_ties_to_the_lowest_row(cosine, monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, size=(500, 3)).astype(np.float64)  # many ties
    queries = rng.integers(-2, 3, size=(7, 3)).astype(np.float64)
    index = InMemory(rows, np.zeros(500))
    blocks = InMemory.blocks
    monkeypatch.setattr(InMemory, "blocks", lambda self, size=64: blocks(self, 64))
    products = inner_products(index, queries, cosine=cosine)
    expected = np.stack([np.lexsort((np.arange(500), -row)) for row in products])[:, :20]
    which, values = nearest(index, queries, 20, cosine=cosine)
    assert np.array_equal(which, expected)
    np.testing.assert_allclose(values, np.take_along_axis(products, expected, 1))


def test_gradient_columns_of_a_ledger_answer_queries_too(tmp_path):
    model = mlp().float()
    X, y = TRAIN[0].float().numpy(), TRAIN[1].numpy()
    names = [f"x{j}" for j in range(5)]
    schema = pa.schema([("id", pa.string()), *((name, pa.float32()) for name in names), ("y", pa.int64())])
    columns = [pa.array([f"r{i:02d}" for i in range(40)]), *(pa.array(X[:, j]) for j in range(5)), pa.array(y)]
    roles = {"id": "id", "label": "y", "features": names}
    rows = iter([pa.record_batch(columns, schema=schema)])
    ledger = create_ledger(tmp_path / "table", rows, schema=schema, id_column="id", roles=roles)
    with pytest.raises(SchemaMismatch, match="has no column grad_index"):
        LedgerIndex(ledger)
    signals(model, ledger, ["grad_index"], projection=32, store=True)
    held = signals(model, (TRAIN[0].float(), TRAIN[1]), ["grad_index"], projection=32)
    whole = held["grad_index"].astype(np.float32) * held["grad_index_norm"][:, None]
    index = LedgerIndex(open_ledger(ledger.path))
    assert (len(index), index.length) == (40, 32)
    np.testing.assert_allclose(inner_products(index, whole[:3]), whole[:3] @ whole.T, rtol=2e-3, atol=1e-3)


def test_queries_of_another_length_and_too_many_neighbours_are_refused():
    index = InMemory(np.eye(4), np.zeros(4))
    with pytest.raises(SchemaMismatch, match=r"queries of shape \(2, 3\) were put to an index of rows of 4 numbers"):
        inner_products(index, np.ones((2, 3)))
    with pytest.raises(DatumwiseError, match="the 5 nearest of 4 rows"):
        nearest(index, np.ones((1, 4)), 5)
