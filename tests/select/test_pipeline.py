"""A pipeline computes what is new, and nothing else; what it finds is what a run from scratch would find."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from datumwise import ingest
from datumwise.errors import ColumnExists, DatumwiseError, SchemaMismatch, UnknownName
from datumwise.ledger import Provenance, open_ledger
from datumwise.select.minhash import minhash_signatures
from datumwise.select.pipeline import Pipeline
from datumwise.select.repr_filter import ReprFilter
from datumwise.select.steps import Choose, Deduplicate, Filter, Score
from datumwise.select.top_k import TopK

WORDS = ["red", "green", "blue", "stone", "river", "cloud", "tree", "bird", "wind", "lamp", "iron", "salt"]


def sentences(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 30))) for _ in range(n)]


def notes(path, texts, start=0):
    return ingest({"id": [f"n{start + i:03d}" for i in range(len(texts))], "text": texts}, out=path / "notes", text="text")


def more(texts, start):
    return pa.table({"id": [f"n{start + i:03d}" for i in range(len(texts))], "text": texts})


class Counted:
    """A function that notes of how many datapoints it was asked."""

    def __init__(self, function):
        self.function, self.asked = function, []
        self.fails_at = None
        self.__qualname__ = f"counted {function.__qualname__}"

    def __call__(self, values):
        self.asked.append(len(values))
        if len(self.asked) == self.fails_at:
            raise RuntimeError("the lights went out")
        return self.function(values)


def lengths(texts):
    return np.array([float(len(text.split())) for text in texts])


def sizes(ledger):
    return {"size": np.array([len(t) for t in ledger.table(["text"])["text"].to_pylist()], float)}


def centred(values):
    return values - np.mean(values)


def signed(texts):
    return minhash_signatures(list(texts), num_perm=32, ngram=2)


def grouped(signatures):
    from datumwise.select.steps import _minhash_groups

    return _minhash_groups(signatures, threshold=0.6, num_perm=32, ngram=2)


def steps():
    """The pipeline of these tests, and its counting functions."""
    counters = {"length": Counted(lengths), "signature": Counted(signed), "centred": Counted(centred)}
    made = Pipeline(
        [
            Score(counters["length"], "length", reads="text", rowwise=True),
            Filter("length", at_least=5, name="long"),
            Deduplicate(grouped, reads="text", signature=counters["signature"], name="unique"),
            Score(counters["centred"], "centred", reads="length"),
            Choose(TopK(7), by="centred"),
        ]
    )
    return made, counters


COLUMNS = ["id", "length", "long", "unique", "unique_of", "centred", "selected", "selected_gain"]


def fresh_run(tmp_path, texts, ids=None):
    rows = {"id": ids or [f"n{i:03d}" for i in range(len(texts))], "text": texts}
    ledger = ingest(rows, out=tmp_path / "fresh", text="text", overwrite=True)
    steps()[0].run(ledger)
    return ledger.table(COLUMNS).to_pydict()


def texts_with_copies(n=60):
    found = sentences(n)
    found[10] = found[3]
    found[20] = found[3]
    return found


def test_every_step_is_a_column_with_its_provenance(tmp_path):
    ledger = notes(tmp_path, texts_with_copies())
    run = steps()[0].run(ledger)
    table = ledger.table(COLUMNS).to_pydict()
    assert table["length"] == lengths(texts_with_copies()).tolist()
    assert table["long"] == [n >= 5 for n in table["length"]]
    assert table["unique_of"][10] == "n003"
    assert (table["unique"][3], table["unique"][10]) == (True, False)
    left = [i for i in range(60) if table["unique"][i]]
    np.testing.assert_allclose([table["centred"][i] for i in left], centred(np.array([table["length"][i] for i in left])))
    assert all(table["centred"][i] is None for i in range(60) if i not in left)
    ranked = sorted((r, i) for r, i in zip(table["selected"], table["id"], strict=True) if r is not None)
    assert [i for _, i in ranked] == run.ids.tolist()
    assert [ledger.provenance(c).kind for c in ("length", "long", "unique", "selected")] == ["finding"] + ["selection"] * 3
    assert ledger.provenance("unique_of").refers_to_ids
    assert ledger.provenance("selected").method == "top_k"


def test_a_second_run_computes_nothing_and_says_so(tmp_path):
    ledger = notes(tmp_path, texts_with_copies())
    pipeline, counters = steps()
    first = pipeline.run(ledger)
    asked = {name: list(counter.asked) for name, counter in counters.items()}
    version = ledger.version
    again = pipeline.run(ledger)
    assert {name: counter.asked for name, counter in counters.items()} == asked
    assert ledger.version == version
    assert [step.action for step in again.steps] == ["unchanged"] * 6
    assert [step.n_computed for step in again.steps] == [0] * 6
    assert again.ids.tolist() == first.ids.tolist()
    assert [step.action for step in pipeline.plan(ledger).steps] == ["unchanged"] * 6


def test_rows_that_arrive_are_the_only_ones_computed_and_the_result_is_that_of_a_fresh_run(tmp_path):
    every = texts_with_copies(80)
    every[70] = every[5]  # a copy of an old one among the new
    every[71] = every[72]
    ledger = notes(tmp_path, every[:60])
    pipeline, counters = steps()
    pipeline.run(ledger)
    n_long = int((lengths(every[60:]) >= 5).sum())
    ledger.append(more(every[60:], 60))
    plan = pipeline.plan(ledger)
    assert (plan.steps[0].action, plan.steps[0].n_computed) == ("added to", 20)
    run = pipeline.run(ledger)
    assert counters["length"].asked == [60, 20]
    assert counters["signature"].asked[1:] == [n_long]
    assert (run.steps[0].n_computed, run.steps[2].n_computed) == (20, n_long)
    assert ledger.table(COLUMNS).to_pydict() == fresh_run(tmp_path, every)


def test_rows_that_leave_cost_no_value_and_the_result_is_that_of_a_fresh_run(tmp_path):
    every = texts_with_copies(60)
    ledger = notes(tmp_path, every)
    pipeline, counters = steps()
    pipeline.run(ledger)
    gone = [0, 3, 17, 40]  # 3 is the one kept in place of 10 and 20
    ledger.delete([f"n{i:03d}" for i in gone])
    run = pipeline.run(ledger)
    assert counters["length"].asked == [60]
    assert len(counters["signature"].asked) == 1
    kept = [i for i in range(60) if i not in gone]
    assert ledger.table(COLUMNS).to_pydict() == fresh_run(tmp_path, [every[i] for i in kept], [f"n{i:03d}" for i in kept])
    assert run.steps[0].action == "unchanged"


def test_a_datapoint_that_was_edited_is_computed_again_once(tmp_path):
    every = texts_with_copies(40)
    ledger = notes(tmp_path, every)
    pipeline, counters = steps()
    pipeline.run(ledger)
    every[7] = "salt iron lamp wind bird tree cloud river stone blue green red and more of it"
    ledger.write({"text": [every[7]]}, provenance=Provenance("mended"), ids=["n007"], overwrite=True)
    run = pipeline.run(ledger)
    assert counters["length"].asked == [40, 1]
    assert run.steps[0].why == "0 without a value, 1 edited"
    assert ledger.table(COLUMNS).to_pydict() == fresh_run(tmp_path, every)
    pipeline.run(ledger)
    assert counters["length"].asked == [40, 1]


def test_a_whole_step_is_done_again_when_a_text_it_reads_has_changed(tmp_path):
    ledger = notes(tmp_path, ["red stone", "blue river", "tree bird"])
    pipeline = Pipeline([Deduplicate("exact", reads="text")])
    pipeline.run(ledger)
    ledger.write({"text": ["red stone"]}, provenance=Provenance("mended"), ids=["n002"], overwrite=True)
    assert pipeline.plan(ledger).steps[0].why == "the datapoints or values it looks at have changed"
    pipeline.run(ledger)
    assert ledger.table(["unique_of"])["unique_of"].to_pylist() == [None, None, "n000"]


def test_changed_options_recompute_that_step_and_what_depends_on_it(tmp_path):
    ledger = notes(tmp_path, texts_with_copies())
    steps()[0].run(ledger)
    other, others = steps()
    other._parts[1].at_least = 10
    plan = other.plan(ledger)
    assert [s.action for s in plan.steps][:2] == ["unchanged", "computed"]
    assert plan.steps[1].why == "its options have changed"
    assert "depends on what long leaves" in str(plan)
    run = other.run(ledger)
    assert others["length"].asked == others["signature"].asked == []
    assert [s.action for s in run.steps] == ["unchanged", "computed", "unchanged", "computed", "computed", "computed"]


def test_after_a_purge_no_value_is_computed_again(tmp_path):
    ledger = notes(tmp_path, texts_with_copies())
    pipeline, counters = steps()
    pipeline.run(ledger)
    ledger.delete(["n003"], purge=True, yes=True)
    pipeline.run(ledger)
    assert counters["length"].asked == [60]
    assert len(counters["signature"].asked) == 1
    assert ledger.table(["unique_of"])["unique_of"].to_pylist()[9:10] == [None]  # n010 was a copy of what is gone


def test_a_changed_function_is_another_step(tmp_path):
    ledger = notes(tmp_path, sentences(10))
    Pipeline([Score(lambda texts: [len(t) for t in texts], "size", reads="text", rowwise=True)]).run(ledger)
    same = Pipeline([Score(lambda texts: [len(t) for t in texts], "size", reads="text", rowwise=True)]).run(ledger)
    assert same.steps[0].action == "unchanged"
    found = Pipeline([Score(lambda texts: [len(t) + 1 for t in texts], "size", reads="text", rowwise=True)]).run(ledger)
    assert found.steps[0].why == "its options have changed"
    assert ledger.array("size").tolist() == [len(t) + 1 for t in sentences(10)]


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    every = sentences(50)
    ledger = notes(tmp_path, every)
    fragile = Counted(lengths)
    fragile.fails_at = 3

    def step():
        return Pipeline([Score(fragile, "length", reads="text", rowwise=True), Choose(TopK(3), by="length")])

    with pytest.raises(RuntimeError, match="lights"):
        step().run(ledger, block=10)
    ledger = open_ledger(ledger.path)
    assert len(ledger.missing("length")) == 30
    run = step().run(ledger, block=10)
    assert fragile.asked == [10, 10, 10, 10, 10, 10]
    assert run.steps[0].n_computed == 30
    assert ledger.array("length").tolist() == lengths(every).tolist()


def test_plain_arrays_give_what_a_ledger_gives(tmp_path):
    every = texts_with_copies()
    found = steps()[0].fit_transform({"id": np.array([f"n{i:03d}" for i in range(60)]), "text": every})
    ledger = notes(tmp_path, every)
    run = steps()[0].run(ledger)
    assert found["id"].tolist() == run.ids.tolist()
    assert found["selected"].tolist() == list(range(1, 8))
    assert found["text"] == [every[int(i[1:])] for i in found["id"]]


def test_minhash_is_a_step_of_its_own_and_exact_another():
    every = texts_with_copies()
    for step in (Deduplicate("minhash", threshold=0.9, ngram=2), Deduplicate("exact")):
        found = Pipeline([step]).fit_transform({"text": every})
        assert len(found["text"]) == 58
        assert len(set(found["text"])) == 58


def test_conditions_in_sql_and_embeddings_of_texts(tmp_path):
    ledger = notes(tmp_path, texts_with_copies())
    pipeline = Pipeline(
        [
            Score(lengths, "length", reads="texts", rowwise=True),
            Filter(where="length >= 5 and text like '%river%'"),
            Choose(ReprFilter(6, threshold=0.8), by="length"),
        ]
    )
    run = pipeline.run(ledger)
    texts = ledger.take(run.ids.tolist(), ["text"])["text"].to_pylist()
    assert all("river" in text for text in texts)
    assert pipeline.run(ledger).steps[2].action == "unchanged"
    ledger.append(more(["river " * 40], 60))
    assert pipeline.run(ledger).ids[0] == "n060"


def test_scores_of_the_catalogue_are_steps(tmp_path):
    from sklearn.linear_model import LogisticRegression

    from datumwise.evaluate.pipeline import scoring

    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    ids = [f"p{i}" for i in range(60)]
    ledger = ingest({"id": ids, "a": X[:, 0], "b": X[:, 1], "y": (X[:, 0] > 0).astype(int)}, out=tmp_path / "p", label="y")
    pipeline = Pipeline(
        [Filter("b", below=1.0), scoring(["label_error", "el2n"], LogisticRegression(), folds=3), Choose(TopK(5), by="el2n")]
    )
    run = pipeline.run(ledger)
    kept = X[:, 1] < 1
    assert (~np.isnan(ledger.array("el2n")) == kept).all()  # of those the filter left, and of no others
    assert ledger.provenance("el2n").higher
    assert ledger.provenance("el2n").params["folds"] == 3
    assert [s.action for s in pipeline.run(ledger).steps] == ["unchanged"] * 3
    assert len(run.ids) == 5
    apart = ingest(
        {"id": np.array(ids)[kept], "a": X[kept, 0], "b": X[kept, 1], "y": (X[kept, 0] > 0).astype(int)},
        out=tmp_path / "q",
        label="y",
    )
    expected = scoring("el2n", LogisticRegression(), folds=3).compute(apart)["el2n"]
    np.testing.assert_allclose(ledger.array("el2n")[kept], expected)


def test_rowwise_scores_of_the_catalogue_are_computed_of_new_datapoints_alone(tmp_path):
    every = sentences(30)
    ledger = notes(tmp_path, every[:20])
    scored = Counted(sizes)
    pipeline = Pipeline([Score(scored, "size", rowwise=True)])
    pipeline.run(ledger)
    ledger.append(more(every[20:], 20))
    pipeline.run(ledger)
    assert scored.asked == [20, 10]
    assert ledger.array("size").tolist() == [len(t) for t in every]


def test_runs_and_plans_print_and_save(tmp_path):
    ledger = notes(tmp_path, texts_with_copies())
    pipeline, _ = steps()
    assert "not computed yet" in str(pipeline.plan(ledger))
    run = pipeline.run(ledger)
    assert "7 datapoints are left, ledger version" in str(run)
    assert json.loads(run.to_json())["ids"] == run.ids.tolist()
    assert "Filter(column='length', at_least=5)" in repr(pipeline)


def test_what_cannot_be_done_is_said(tmp_path):
    ledger = notes(tmp_path, sentences(8))
    with pytest.raises(ColumnExists, match="column 'text' came with the data"):
        Pipeline([Filter("length", at_least=1, name="text")]).run(ledger)
    with pytest.raises(DatumwiseError, match="two steps write the column 'kept'"):
        Pipeline([Filter("a", below=1), Filter("b", below=1)])
    with pytest.raises(DatumwiseError, match="the filter of 'a' has no bounds"):
        Filter("a")
    with pytest.raises(DatumwiseError, match="no datapoint is left for the step 'selected'"):
        Pipeline([Score(lengths, "length", reads="text"), Filter("length", below=0), Choose(TopK(1), by="length")]).run(ledger)
    with pytest.raises(SchemaMismatch, match="gave 1 values of 'size' for 8 datapoints"):
        Pipeline([Score(lambda texts: [1.0], "size", reads="text")]).run(ledger)
    with pytest.raises(UnknownName, match="there is no deduplication 'fuzzy'"):
        Deduplicate("fuzzy")
    with pytest.raises(DatumwiseError, match="input 'scores' is an array, which does not follow"):
        Choose(TopK(1), inputs={"scores": np.ones(3)})
    with pytest.raises(DatumwiseError, match="a pipeline has one step or more"):
        Pipeline([])
