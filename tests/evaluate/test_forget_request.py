"""A removal request to an estimator, from ids on a ledger to a certificate; the estimator trained anew is the oracle."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression, Ridge

from datumwise.errors import ColumnExists, DatumwiseError, EmptyData, LabelError, MissingId, ModelMismatch, UnknownName
from datumwise.evaluate.forget_request import forget_datapoints
from datumwise.probe.features import features, on_rows
from datumwise.readers import ingest


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = np.where(x[:, 0] + 0.5 * rng.normal(size=400) > 0, "yes", "no")
    y[:30] = np.where(x[:30, 0] > 0, "no", "yes")
    table = {
        "id": [f"r{i:03d}" for i in range(400)],
        "a": x[:, 0],
        "b": x[:, 1],
        "c": x[:, 2],
        "y": y,
        "new": np.arange(400) >= 300,
    }
    return ingest(table, label="y", features=["a", "b", "c"], out=tmp_path / "rows")


def trained(ledger, estimator, without=()):
    view = features(ledger)
    use = np.array([i for i in range(300) if i not in set(without)])
    return on_rows(view, estimator).fit(view.X[use], ledger.array("y")[use]), view


GONE = [f"r{i:03d}" for i in range(30)]


def test_training_anew_is_exact_and_says_so(rows):
    model, view = trained(rows, ExtraTreesClassifier(20, random_state=0))
    never, _ = trained(rows, ExtraTreesClassifier(20, random_state=0), range(30))
    found = forget_datapoints(rows, model, ids=GONE, holdout="new")
    assert found.certificate.exact
    assert found.certificate.method == "retrain"
    assert np.array_equal(found.model.predict_proba(view.X), never.predict_proba(view.X))
    by_name = {one.name: one for one in found.certificate.criteria}
    assert by_name["answers unlike the model that never saw them"].after == 0
    assert by_name["recall of the forgotten"].before == 1.0  # trees know what they were grown on
    assert by_name["recall of the forgotten"].after < 0.5
    right = model.predict(view.X[300:]) == rows.array("y")[300:]
    assert by_name["accuracy of unseen datapoints"].before == right.mean()
    assert all(one.verdict == "forgotten" for one in found.certificate.datapoints if one.verdict)


def test_a_newton_step_ends_at_the_model_that_never_saw_them_and_is_not_called_exact(rows):
    model, view = trained(rows, LogisticRegression())
    never, _ = trained(rows, LogisticRegression(tol=1e-8), range(30))
    kept = copy.deepcopy(model)
    found = forget_datapoints(rows, model, ids=GONE, holdout="new", method="newton")
    assert not found.certificate.exact
    assert np.abs(found.model.predict_proba(view.X) - never.predict_proba(view.X)).max() < 0.02  # the scaler stays
    assert np.abs(kept.predict_proba(view.X) - never.predict_proba(view.X)).max() > 0.05
    assert np.array_equal(model.predict_proba(view.X), kept.predict_proba(view.X))
    card = found.certificate
    assert len({card.model_before, card.model_after, card.model_reference}) == 3
    assert any("scaling" in note for note in found.certificate.notes)


def test_losses_stand_on_the_ledger_beside_the_datapoints_of_the_request_only(rows):
    model, view = trained(rows, LogisticRegression())
    found = forget_datapoints(rows, model, where="id < 'r030'", holdout="new", name="gone")
    rows.refresh()
    assert found.columns == ("gone_before", "gone_after", "gone_never_saw")
    before = rows.array("gone_before")
    assert np.isfinite(before[:30]).all()
    assert np.isnan(before[30:]).all()
    code = np.searchsorted(model.classes_, rows.array("y")[:30])
    assert np.allclose(before[:30], -np.log(model.predict_proba(view.X[:30])[np.arange(30), code]))
    assert rows.provenance("gone_after").model == found.certificate.model_after
    assert found.certificate.ledger_version == 1
    again = forget_datapoints(rows, model, where="id < 'r030'", holdout="new", name="gone")
    assert again.certificate.ids_sha256 == found.certificate.ids_sha256


def test_without_unseen_datapoints_membership_is_named_as_not_tested(rows):
    found = forget_datapoints(rows, LogisticRegression(), ids=GONE, retain="not new")
    assert not any("membership" in one.name for one in found.certificate.criteria)
    assert any("none were held out" in one for one in found.certificate.not_tested)


def test_numbers_are_forgotten_too(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=200)
    y = 2 * x + 0.1 * rng.normal(size=200)
    y[:5] += 9
    ledger = ingest({"x": x, "y": y}, label="y", task="regression", out=tmp_path / "numbers")
    found = forget_datapoints(ledger, Ridge(), ids=list(ledger.ids[:5]), method="newton", retain="true")
    by_name = {one.name: one for one in found.certificate.criteria}
    assert by_name["answers unlike the model that never saw them"].after < 1e-6
    assert by_name["squared error of the forgotten, of the variance"].verdict == "forgotten"
    assert by_name["squared error of kept datapoints"].verdict == "kept"


def test_bad_requests_are_refused(rows, tmp_path):
    model = LogisticRegression()
    with pytest.raises(MissingId, match="2 ids are not on rows"):
        forget_datapoints(rows, model, ids=["r000", "nobody", "none"])
    with pytest.raises(DatumwiseError, match="say which datapoints"):
        forget_datapoints(rows, model)
    with pytest.raises(EmptyData, match="no datapoint is to be forgotten"):
        forget_datapoints(rows, model, where="a > 99")
    with pytest.raises(EmptyData, match="would be left"):
        forget_datapoints(rows, model, where="true")
    with pytest.raises(DatumwiseError, match="also held out"):
        forget_datapoints(rows, model, ids=["r399"], holdout="new")
    with pytest.raises(UnknownName, match="cannot forget by 'npo'"):
        forget_datapoints(rows, model, ids=GONE, method="npo")
    with pytest.raises(ModelMismatch, match="no attack 'int8' on an estimator"):
        forget_datapoints(rows, model, ids=GONE, attacks=["int8"])
    with pytest.raises(DatumwiseError, match="cannot forget"):
        forget_datapoints(rows, object(), ids=GONE)
    with pytest.raises(LabelError, match="one class only"):
        forget_datapoints(rows, model, where="y = 'no'")
    bare = ingest({"x": np.arange(20.0)}, out=tmp_path / "bare")
    with pytest.raises(LabelError, match="no label column"):
        forget_datapoints(bare, model, ids=list(bare.ids[:2]))
    taken = ingest(
        {"x": np.arange(20.0), "y": np.arange(20) % 2, "forgot_after": np.arange(20.0)}, label="y", out=tmp_path / "taken"
    )
    with pytest.raises(ColumnExists, match="came with the data"):
        forget_datapoints(taken, model, ids=list(taken.ids[:2]))
