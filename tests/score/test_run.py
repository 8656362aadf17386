"""A run asks the model once and writes everything in one commit, with where it came from."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_iris, make_regression
from sklearn.linear_model import LogisticRegression, Ridge

from datumwise import probe
from datumwise.errors import ColumnExists, LabelError, ModelMismatch, SchemaMismatch, UnknownName
from datumwise.ledger import create_ledger
from datumwise.score import declare, el2n, label_error, memorization, plan, run, score
from datumwise.score.knn_shapley import knn_shapley_crossed

FEATURES = ["a", "b", "c", "d"]


def iris(path, extra=None):
    X, y = load_iris(return_X_y=True)
    columns = {"id": [f"flower {i}" for i in range(150)]} | dict(zip(FEATURES, X.T, strict=True))
    table = pa.table(columns | {"species": np.array(["s", "v", "g"])[y]} | (extra or {}))
    roles = {"label": "species", "features": FEATURES}
    return create_ledger(path / "iris", iter(table.to_batches()), schema=table.schema, id_column="id", roles=roles)


@pytest.fixture
def ledger(tmp_path):
    return iris(tmp_path)


@pytest.fixture
def asked(monkeypatch):
    """What each call of `signals` wanted."""
    calls, real = [], probe.signals

    def signals(model, data, want, **options):
        calls.append(tuple(want))
        return real(model, data, want, **options)

    signals.__signature__ = __import__("inspect").signature(real)
    monkeypatch.setattr(probe, "signals", signals)
    return calls


NAMES = ["label_error", "el2n", "memorization", "knn_shapley"]


def test_values_are_those_of_the_functions_on_the_signals(ledger):
    model = LogisticRegression()
    known = probe.signals(model, ledger, ["probs", "probs_fit", "labels", "embedding"], folds=4, seed=1)
    found = run(ledger, model, NAMES, folds=4, seed=1)
    np.testing.assert_array_equal(found["label_error"], label_error(known["probs"], known["labels"]))
    np.testing.assert_array_equal(found["el2n"], el2n(known["probs"], known["labels"]))
    np.testing.assert_array_equal(found["memorization"], memorization(known["probs_fit"], known["probs"], known["labels"]))
    np.testing.assert_array_equal(
        found["knn_shapley"], knn_shapley_crossed(known["embedding"], known["labels"], folds=4, seed=1)
    )
    np.testing.assert_array_equal(found.ids, ledger.ids)


def test_the_model_is_asked_once_and_all_columns_are_one_version(ledger, asked):
    before = ledger.version
    found = run(ledger, LogisticRegression(), NAMES)
    assert asked == [("probs", "labels", "probs_fit", "embedding")]
    assert found.version == ledger.version == before + 1
    for name in NAMES:
        np.testing.assert_array_equal(ledger.array(name), found[name])


def test_a_column_says_where_it_comes_from(ledger):
    run(ledger, LogisticRegression(C=2), ["outlier_knn", "el2n"], folds=3, seed=7, k=4)
    made = ledger.provenance("outlier_knn")
    assert made.method == "outlier_knn"
    assert made.params == {"signals": ["embedding"], "folds": 3, "k": 4, "metric": None}
    assert made.reads == ["species", *FEATURES]
    assert made.seed == 7
    assert made.higher == "farther from all other datapoints"
    assert "Kuan and Mueller" in made.source
    assert ":" in made.model
    assert ledger.provenance("el2n").params == {"signals": ["probs", "labels"], "folds": 3}


def test_a_plan_runs_nothing(ledger, asked):
    class NeverFitted(LogisticRegression):
        def fit(self, X, y):
            raise AssertionError("fitted")

    before = ledger.version
    planned = run(ledger, NeverFitted(), NAMES, plan_only=True)
    assert "5 fits of NeverFitted" in str(planned)
    assert "column   el2n from probs, labels" in str(planned)
    assert str(planned) == str(plan(ledger, NeverFitted(), NAMES))
    assert "no fit" in str(plan(ledger, NeverFitted(), "outlier_knn"))
    assert asked == []
    assert ledger.version == before


def test_known_signals_are_not_asked_for_again(ledger, asked):
    known = probe.signals(LogisticRegression(), ledger, ["probs", "labels"])
    asked.clear()
    found = run(ledger, LogisticRegression(), ["el2n", "outlier_knn"], signals=known)
    assert asked == [("embedding",)]
    np.testing.assert_array_equal(found["el2n"], el2n(known["probs"], known["labels"]))
    asked.clear()
    run(ledger, None, "el2n", signals={"probs": known["probs"], "labels": known["labels"]})
    assert asked == []
    np.testing.assert_array_equal(ledger.array("el2n"), found["el2n"])


def test_the_seed_decides_the_folds_and_nothing_else_does(tmp_path):
    first, again, other = (
        run(iris(tmp_path / str(i)), LogisticRegression(), "el2n", seed=seed)["el2n"] for i, seed in enumerate([0, 0, 1])
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_an_option_under_a_scores_name_is_its_alone(ledger):
    found = run(ledger, LogisticRegression(), ["outlier_knn", "knn_shapley"], k=3, outlier_knn={"k": 20})
    assert ledger.provenance("outlier_knn").params["k"] == 20
    assert ledger.provenance("knn_shapley").params["k"] == 3
    assert found["outlier_knn"].shape == (150,)


def test_an_array_option_is_recorded_by_its_hash(ledger):
    X, y = np.zeros((4, 4)), np.array([0, 1, 2, 0])
    run(ledger, LogisticRegression(), "knn_shapley", X_val=X, y_val=y)
    recorded = ledger.provenance("knn_shapley").params
    assert recorded["X_val"]["shape"] == [4, 4]
    assert len(recorded["X_val"]["blake2b"]) == 16


def test_findings_are_replaced_but_never_a_column_that_came_with_the_data(tmp_path, asked):
    ledger = iris(tmp_path, extra={"loss": np.zeros(150)})
    run(ledger, LogisticRegression(), "el2n")
    first = ledger.array("el2n")
    run(ledger, LogisticRegression(), "el2n", seed=5)
    assert (ledger.array("el2n") != first).any()
    asked.clear()
    with pytest.raises(ColumnExists, match="'loss' came with the data"):
        run(ledger, LogisticRegression(), ["el2n", "loss"])
    with pytest.raises(ColumnExists, match="'el2n' is on the ledger already: overwrite=True"):
        run(ledger, LogisticRegression(), "el2n", overwrite=False)
    assert asked == []


def test_a_regression_is_scored_by_its_residuals(tmp_path):
    X, y = make_regression(200, 4, noise=5, random_state=0)
    y[:5] += 1000
    table = pa.table({"id": [str(i) for i in range(200)], "y": y} | dict(zip(FEATURES, X.T, strict=True)))
    ledger = create_ledger(
        tmp_path / "r", iter(table.to_batches()), schema=table.schema, id_column="id",
        roles={"label": "y", "features": FEATURES}, task="regression",
    )  # fmt: skip
    found = run(ledger, Ridge(), ["label_error_regression", "loss"])
    assert {i for i, _ in found.top("label_error_regression", 5)} == set("01234")


def test_a_torch_model_over_its_checkpoints(ledger, asked):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    checkpoints = [{k: v * f for k, v in model.state_dict().items()} for f in (1, 2, -1)]
    found = run(ledger, model, ["el2n", "aum", "forgetting"], checkpoints=checkpoints)
    assert asked == [("probs", "labels"), ("logits_by_epoch",)]
    logits = probe.signals(model, ledger, ["logits", "labels"])
    rows, labels = np.arange(150), logits["labels"]
    others = logits["logits"].astype(float)
    others[rows, labels] = -np.inf
    lead = logits["logits"][rows, labels] - others.max(axis=1)
    lowest = logits["logits"].astype(float)
    lowest[rows, labels] = np.inf
    behind = lowest.min(axis=1) - logits["logits"][rows, labels]  # of the weights times -1
    np.testing.assert_allclose(found["aum"], (3 * lead + behind) / 3, rtol=1e-4, atol=1e-5)
    assert len(ledger.provenance("aum").params["checkpoints"]) == 3
    asked.clear()
    run(ledger, model, ["aum"], checkpoints=checkpoints)
    assert asked == [("logits_by_epoch", "labels")]
    np.testing.assert_array_equal(ledger.array("aum"), found["aum"])


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        ("lable_error", {}, "did you mean 'label_error'"),
        ([], {}, "no score was named"),
        ("el2n", {"fold": 3}, "el2n takes no parameter 'fold'"),
        ("outlier_knn", {"kk": 3}, "did you mean 'k'"),
        ("outlier_knn", {"outlier_knn": {"metrik": "cosine"}}, "did you mean 'metric'"),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(ledger, asked, names, options, says):
    with pytest.raises(UnknownName, match=says):
        run(ledger, LogisticRegression(), names, **options)
    assert asked == []


def test_a_refusal_names_the_score_and_the_ids(ledger):
    known = probe.signals(LogisticRegression(), ledger, ["probs", "labels"])
    labels = known["labels"].copy()
    labels[3] = 9
    before = ledger.version
    with pytest.raises(LabelError, match="score 'el2n': labels of row 3 lie outside") as refusal:
        run(ledger, None, ["label_error", "el2n"][::-1], signals={"probs": known["probs"], "labels": labels})
    assert refusal.value.ids == ["flower 3"]
    assert ledger.version == before


def test_a_score_of_the_wrong_shape_is_refused(ledger, monkeypatch):
    monkeypatch.setattr(declare, "_declared", dict(declare.catalogue()))

    @score(needs=("labels",), higher="none", source="none")
    def too_short(labels):
        """Is this one number a datapoint?"""
        return np.zeros(3)

    with pytest.raises(SchemaMismatch, match=r"'too_short' gave an array of shape \(3,\)"):
        run(ledger, LogisticRegression(), "too_short")
    assert "too_short" not in ledger.schema.names


def test_a_new_score_needs_nothing_but_its_declaration(ledger, monkeypatch):
    monkeypatch.setattr(declare, "_declared", dict(declare.catalogue()))

    @score(needs=("probs",), higher="more in doubt", source="none")
    def doubt(probs, *, power=1.0):
        """How little does the model prefer its favourite class?"""
        return (1 - probs.max(axis=1)) ** power

    found = run(ledger, LogisticRegression(), "doubt", power=2.0)
    assert ledger.provenance("doubt").params["power"] == 2.0
    assert ((found["doubt"] >= 0) & (found["doubt"] <= 1)).all()


def test_scores_of_the_data_alone_need_no_model(ledger):
    found = run(ledger, names=["outlier_knn"])
    assert found.version == ledger.version
    assert ledger.provenance("outlier_knn").model == "none"
    assert np.isfinite(found["outlier_knn"]).all()


def test_what_only_a_model_can_say_is_refused_without_one(ledger):
    with pytest.raises(ModelMismatch, match="'el2n' needs probs, which only a model can say: pass a model"):
        run(ledger, names=["outlier_knn", "el2n"])
    assert "outlier_knn" not in ledger.refresh().schema.names
