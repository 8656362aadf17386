"""A choice on a ledger: what the selector is given, what is written, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from datumwise import ingest
from datumwise.errors import ColumnExists, DatumwiseError, EmptyData, SchemaMismatch
from datumwise.ledger import Provenance
from datumwise.select.choose import choose
from datumwise.select.craig import Craig
from datumwise.select.qdit import QDIT
from datumwise.select.random_subset import RandomSubset
from datumwise.select.repr_filter import ReprFilter
from datumwise.select.selector import catalogue
from datumwise.select.top_k import TopK
from datumwise.select.weighted_sampling import WeightedSampling


@pytest.fixture
def ledger(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    columns = {"id": [f"d{i:02d}" for i in range(40)], "a": X[:, 0], "b": X[:, 1], "c": X[:, 2]}
    columns["kind"] = np.array(["x", "y"])[(np.arange(40) % 4 == 0).astype(int)]
    found = ingest(columns, out=tmp_path / "points", label="kind")
    scores = rng.random(40)
    scores[3] = np.nan
    found.write({"quality": scores}, provenance=Provenance("quality"))
    return found


def test_rank_and_gain_are_written_null_where_not_chosen(ledger):
    found = choose(ledger, TopK(5), by="quality")
    table = ledger.table(["id", "selected", "selected_gain", "quality"])
    rank = table["selected"].to_pylist()
    order = sorted((r, i) for i, r in enumerate(rank) if r is not None)
    assert [r for r, _ in order] == [1, 2, 3, 4, 5]
    assert [ledger.ids[i] for _, i in order] == found.ids.tolist()
    assert rank.count(None) == 35
    quality = np.array(table["quality"].to_pylist())
    assert found.ids.tolist() == ledger.ids[np.argsort(-np.nan_to_num(quality, nan=-9))[:5]].tolist()
    assert str(ledger.schema.field("selected").type) == "int32"
    assert found.left_out == {"without a value of quality": 1}
    made = ledger.provenance("selected")
    assert (made.kind, made.method, made.params["by"], made.params["of"]) == ("selection", "top_k", "quality", 39)
    assert made.reads == ["quality"]


def test_a_selector_that_weighs_writes_weights_and_the_next_one_takes_them_away(ledger):
    found = choose(ledger, Craig(4), inputs={"gradients": np.random.default_rng(1).normal(size=(40, 5))})
    weights = [w for w in ledger.table(["selected_weight"])["selected_weight"].to_pylist() if w is not None]
    assert sorted(weights) == sorted(found.weights.tolist())
    assert sum(weights) == 40
    choose(ledger, TopK(2), by="quality")
    assert "selected_weight" not in ledger.schema.names
    assert ledger.table(["selected"])["selected"].null_count == 38


def test_embeddings_come_from_a_column_else_from_the_features(ledger):
    by_features = choose(ledger, ReprFilter(8, threshold=0.5), by="quality")
    X = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)
    ledger.write({"embedding": X}, provenance=Provenance("made up"))
    by_column = choose(ledger, ReprFilter(8, threshold=0.5), by="quality")
    quality = ledger.array("quality")
    keep = np.flatnonzero(~np.isnan(quality))
    expected = keep[ReprFilter(8, threshold=0.5).fit(X[keep], scores=quality[keep]).ranking_]
    assert by_column.ids.tolist() == ledger.ids[expected].tolist()
    assert by_features.ids.tolist() != by_column.ids.tolist()


def test_a_condition_narrows_and_given_inputs_follow_it(ledger):
    scores = np.arange(40.0)
    found = choose(ledger, TopK(3), inputs={"scores": scores}, where="kind = 'y'", column="of_y")
    assert found.ids.tolist() == ["d36", "d32", "d28"]
    assert found.left_out == {"where the condition does not hold": 30}
    with pytest.raises(EmptyData, match="no datapoint to choose from"):
        choose(ledger, TopK(1), by="quality", where="a > 1000")


def test_classes_count_only_where_they_are_named(ledger):
    found = choose(ledger, TopK(8), by="quality", inputs={"y": "kind"})
    kinds = ledger.take(found.ids.tolist(), ["kind"])["kind"].to_pylist()
    assert kinds.count("y") == 2


def test_random_subsets_need_nothing_and_repeat(ledger):
    a = choose(ledger, RandomSubset(0.25, random_state=4))
    b = choose(ledger, RandomSubset(0.25, random_state=4))
    assert a.ids.tolist() == b.ids.tolist()
    assert ledger.provenance("selected").seed == 4


def test_a_choice_prints_and_saves(ledger):
    found = choose(ledger, WeightedSampling(12, random_state=0), by="quality")
    assert "12 of 39 datapoints chosen by weighted_sampling -> column selected" in str(found)
    assert "and 2 more" in str(found)
    assert json.loads(found.to_json())["ids"] == found.ids.tolist()


def test_what_is_missing_is_said(ledger, tmp_path):
    with pytest.raises(DatumwiseError, match=r"TopK chooses by a score: name its column with by="):
        choose(ledger, TopK(2))
    with pytest.raises(DatumwiseError, match=r"Craig needs gradients .* pass model="):
        choose(ledger, Craig(2))
    with pytest.raises(DatumwiseError, match="TopK takes no X: it takes scores, y"):
        choose(ledger, TopK(2), inputs={"X": np.ones((40, 2))})
    with pytest.raises(DatumwiseError, match="Craig chooses by no score"):
        choose(ledger, Craig(2), by="quality")
    with pytest.raises(SchemaMismatch, match="input scores has 3 rows for 40 datapoints"):
        choose(ledger, TopK(2), inputs={"scores": np.ones(3)})
    with pytest.raises(SchemaMismatch, match="column 'kind' is no column of numbers"):
        choose(ledger, TopK(2), by="kind")
    with pytest.raises(ColumnExists, match="column 'kind' came with the data"):
        choose(ledger, TopK(2), by="quality", column="kind")
    with pytest.raises(ColumnExists, match="column 'quality' is a finding"):
        choose(ledger, TopK(2), by="quality", column="quality")
    choose(ledger, TopK(2), by="quality")
    with pytest.raises(ColumnExists, match="on the ledger already"):
        choose(ledger, TopK(2), by="quality", overwrite=False)


def test_an_embedding_without_a_value_names_the_datapoints(ledger):
    X = np.ones((38, 2), np.float32)
    ledger.write({"embedding": X}, provenance=Provenance("made up"), ids=ledger.ids[:38].tolist())
    with pytest.raises(SchemaMismatch, match=r"column 'embedding' has no value in 2 of the datapoints \(d38, d39\)"):
        choose(ledger, QDIT(3), inputs={"scores": np.ones(40)})


def test_gradients_of_a_model_are_taken(ledger):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    from datumwise import probe

    model = torch.nn.Linear(3, 2)
    found = choose(ledger, Craig(3), model=model)
    assert ledger.provenance("selected").model.startswith("Linear:")
    signals = probe.signals(model, ledger, want=["grad_index"])
    gradients = signals["grad_index"].astype(np.float32) * signals["grad_index_norm"][:, None]
    assert found.ids.tolist() == signals.ids[Craig(3).fit(gradients).ranking_].tolist()


def test_every_selector_of_these_files_is_found_by_its_name():
    names = set(catalogue())
    assert {
        "ccs",
        "craig",
        "d2_pruning",
        "dataset_quantization",
        "glister",
        "grad_match",
        "mods",
        "qdit",
        "quantile_band",
        "random_subset",
        "repr_filter",
        "retrieve",
        "tagcos",
        "threshold",
        "top_k",
        "weighted_sampling",
    } <= names
