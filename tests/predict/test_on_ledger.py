"""Promises about datapoints of a ledger are kept there, hold for the batch, and are written beside each of its datapoints."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from datumwise.errors import ColumnExists, DatumwiseError, EmptyData, LabelError, ModelMismatch, SchemaMismatch
from datumwise.ledger import open_ledger
from datumwise.predict.on_ledger import promise, told_apart
from datumwise.probe.features import features
from datumwise.readers import ingest

N, NEW = 500, 60


def numbers(seed=0, n=N):
    rng = np.random.default_rng(seed)
    x, site = rng.normal(size=n), rng.integers(0, 2, n)
    y = 2 * x + rng.normal(size=n) * np.where(site == 1, 3.0, 1.0)
    return {"x": x, "site": np.array(["north", "south"])[site], "y": y, "new": np.arange(n) >= n - NEW}


@pytest.fixture
def doses(tmp_path):
    return ingest(
        numbers(seed=1) | {"row": np.arange(N)}, label="y", features=["x", "site"], task="regression", out=tmp_path / "doses"
    )


def kinds(n=400, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = np.array(["cat", "dog", "owl"])[np.argmax(np.c_[x, np.zeros(n)] + 0.5 * rng.normal(size=(n, 3)), 1)]
    return {"a": x[:, 0], "b": x[:, 1], "kind": y, "new": np.arange(n) >= n - 50}


def test_intervals_are_written_beside_the_batch_alone_with_where_they_came_from(doses):
    found = promise(doses, where="new", alpha=0.2, delta=0.1)
    rows = open_ledger(doses.path).table(["id", "y", "new", *found.columns])
    new = np.asarray(rows["new"].to_pylist())
    for name in found.columns:
        assert (~np.asarray(rows[name].is_null()) == new).all(), name
    lower, upper, y = (rows[name].to_numpy()[new] for name in ("promise_lower", "promise_upper", "y"))
    assert int(((lower <= y) & (y <= upper)).sum()) == found.measured["covered"] >= 54
    made = open_ledger(doses.path).provenance("promise_lower")
    assert (made.method, made.params["alpha"], made.params["m"], made.params["n"]) == ("batch_conformal", 0.2, 60, 220)
    assert found.statements == ("with probability at least 0.8, at least 54 of these 60 intervals hold the truth (n = 220)",)
    assert open_ledger(doses.path).metadata["promises"]["promise"]["statements"] == list(found.statements)


def test_a_fitted_model_lets_every_other_labelled_datapoint_calibrate(doses):
    x = np.asarray(doses.array("x"), float)[:, None]
    frame = pd.DataFrame({"x": x[:50, 0]})
    fitted = LinearRegression().fit(frame, np.asarray(doses.array("y"))[:50])
    found = promise(doses, fitted, where="new", labelled="row >= 50")
    assert (found.trained, found.calibrated) == (0, N - NEW - 50)
    np.testing.assert_allclose(found.coverage.prediction, fitted.predict(pd.DataFrame({"x": x[-NEW:, 0]})))


def test_promises_hold_as_often_as_they_say_over_many_data_sets(tmp_path, monkeypatch):
    monkeypatch.setattr("datumwise.predict.on_ledger.told_apart", lambda *given: None)  # only the time
    kept, median = [], []
    for seed in range(40):
        data = numbers(seed, 160)
        ledger = ingest(data, label="y", features=["x"], task="regression", out=tmp_path / f"d{seed}")
        found = promise(ledger, Ridge(), where="new", alpha=0.2, delta=0.1, statistic="median", seed=seed)
        kept.append(found.measured["covered"] >= 54)
        median.append(found.statistic.lower <= np.median(data["y"][-NEW:]) <= found.statistic.upper)
    error = np.sqrt(0.16 / 40)
    assert np.mean(kept) >= 0.8 - 3 * error
    assert np.mean(median) >= 0.8 - 3 * error


def test_label_sets_and_claims_of_classes_and_another_ledger_as_the_batch(tmp_path):
    whole = kinds(seed=1)
    old = {name: values[:-50] for name, values in whole.items() if name != "new"}
    new = {name: values[-50:] for name, values in whole.items() if name in ("a", "b")}
    ledger = ingest(old, label="kind", out=tmp_path / "old")
    batch = ingest(new, features=["a", "b"], out=tmp_path / "fresh")
    found = promise(ledger, LogisticRegression(), batch=batch, alpha=0.1, delta=0.1, positive="cat", max_false=3)
    rows = open_ledger(batch.path).table(list(found.columns))
    sets, chosen = rows["promise_set"].to_pylist(), rows["promise_selected"].to_pylist()
    truth = whole["kind"][-50:]
    assert sum(t in s for t, s in zip(truth, sets, strict=True)) >= 45
    assert sum(chosen) > 5
    assert sum(c and t != "cat" for c, t in zip(chosen, truth, strict=True)) <= 3
    assert found.measured == {}  # the batch has no labels
    assert not any(name.startswith("promise") for name in open_ledger(ledger.path).schema.names)


def test_groups_get_what_their_own_datapoints_allow(doses):
    found = promise(doses, where="new", by="site", statistic="mean", side="upper", alpha=0.3)
    rows = open_ledger(doses.path).table(["site", "promise_lower", "promise_upper"], where="new").to_pandas()
    widths = (rows.promise_upper - rows.promise_lower).groupby(rows.site).agg(["min", "max"])
    assert widths.loc["south", "min"] > 1.5 * widths.loc["north", "max"]  # the south is three times as noisy
    assert any(line.startswith("north: with probability at least 0.7") for line in found.statements)
    assert [bound["group"] for bound in found.as_dict()["bounds"]] == ["north", "south"]


def test_made_again_another_way_it_replaces_what_it_wrote_and_never_what_was_given(doses):
    promise(doses, where="new", above=1.0, max_false=20, alpha=0.3)
    found = promise(doses, where="new", delta=0.3)
    names = open_ledger(doses.path).schema.names
    assert "promise_selected" not in names
    assert set(found.columns) <= set(names)
    data = numbers() | {"x_lower": np.zeros(N)}
    ledger = ingest(data, label="y", features=["x"], task="regression", out=doses.path.parent / "taken")
    with pytest.raises(ColumnExists, match="column 'x_lower' came with the data: give the promise another name"):
        promise(ledger, where="new", column="x")


def test_a_category_nobody_has_seen_is_said(tmp_path):
    old, new = numbers(), {"x": np.zeros(60), "site": np.array(["north"] * 58 + ["moon"] * 2)}
    ledger = ingest({k: old[k] for k in ("x", "site", "y")}, label="y", task="regression", out=tmp_path / "old")
    batch = ingest(new, features=["x", "site"], out=tmp_path / "fresh")
    found = promise(ledger, batch=batch)
    assert found.notes[0] == "2 of the batch hold a category that was never seen before: promises do not speak of such"


def test_a_batch_from_elsewhere_is_said_and_one_drawn_alike_is_not(doses):
    assert promise(doses, where="new").notes == ()
    (note,) = promise(doses, where="x > 0.8").notes
    assert note.startswith(
        "these datapoints are not drawn like those that calibrate (a classifier tells them from the others with an AUC"
    )


def test_batches_drawn_alike_are_rarely_told_apart(doses):
    view, rng = features(doses), np.random.default_rng(0)
    found = []
    for seed in range(15):
        order = rng.permutation(N)
        found.append(told_apart(view, order[60:260], view.X[order[:60]], seed))
    assert sum(one is not None for one in found) <= 1


def test_a_batch_from_elsewhere_is_promised_approximately(doses):
    found = promise(doses, Ridge(), where="x > 0.5", shifted=True, delta=0.3)
    assert "promises are approximate" in found.notes[0]
    assert found.calibrated < 200


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({}, DatumwiseError, "which datapoints are the batch is not said"),
        ({"where": "x > 100"}, EmptyData, "the batch is empty: a wider condition"),
        ({"where": "new", "labelled": "x > 100"}, EmptyData, "0 labelled datapoints are too few to train on"),
        ({"where": "new", "model": LogisticRegression()}, ModelMismatch, "LogisticRegression is a classifier and the labels"),
        ({"where": "new", "delta": 0.0, "alpha": 0.05}, DatumwiseError, "need n >= .*; got n = 220"),
        ({"where": "new", "alpha": 1.5}, DatumwiseError, "alpha"),
        ({"where": "new", "positive": "cat"}, DatumwiseError, "positive"),
        (
            {"where": "new", "model": LinearRegression().fit(np.zeros((3, 7)), np.zeros(3))},
            ModelMismatch,
            "fitted on 7 features",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(doses, change, error, sentence):
    before = doses.version
    with pytest.raises(error, match=sentence):
        promise(doses, **change)
    assert open_ledger(doses.path).version == before


def test_ledgers_that_do_not_fit_are_refused(doses, tmp_path):
    with pytest.raises(SchemaMismatch, match="other lacks column site: ingest both with the same columns"):
        promise(doses, batch=ingest({"x": np.zeros(5)}, features=["x"], out=tmp_path / "other"))
    with pytest.raises(LabelError, match="other has no label column"):
        promise(open_ledger(tmp_path / "other"), where="x = 0")
