"""Commands on a real ledger: text, documents, files."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_iris
from terminals import example_audit

from datumwise.cli import main
from datumwise.readers import ingest

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "cli.schema.json").read_text())


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)
    bunch = load_iris()
    ids = [f"i{k:03d}" for k in range(150)]
    columns = {name: bunch.data[:, i] for i, name in enumerate("abcd")}
    return ingest({"id": np.array(ids), **columns, "y": bunch.target_names[bunch.target]}, out="iris")


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(words)) == code, capsys.readouterr().err
    return capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict:
    text = run(capsys, *words, "--json", code=code)
    assert text.count("\n") == 1
    found = json.loads(text)
    jsonschema.validate(found, SCHEMA)
    return found


def test_show_lists_columns_with_their_roles(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "show", "iris.ledger")
    assert out.startswith("iris  150 datapoints, version 1\n")
    assert "  y       label     string  -\n" in out
    assert [c["name"] for c in facts(capsys, "show", "iris.ledger")["columns"]] == [
        "id",
        "a",
        "b",
        "c",
        "d",
        "y",
    ]


def test_show_a_datapoint_and_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "  y       given  setosa\n" in run(capsys, "show", "iris.ledger", "i001")
    assert facts(capsys, "show", "iris.ledger", "i001")["datapoint"]["y"] == "setosa"
    assert facts(capsys, "show", "iris.ledger", "nope", code=2)["error"]["ids"] == ["nope"]


def test_sql_prints_and_writes(capsys: pytest.CaptureFixture[str]) -> None:
    query = "select y, count(*) as n from ledger group by y order by y"
    assert run(capsys, "sql", "iris.ledger", query) == (
        "  y            n\n  setosa      50\n  versicolor  50\n  virginica   50\n"
    )
    assert facts(capsys, "sql", "iris.ledger", query)["rows"][0] == ["setosa", 50]
    for suffix in ("parquet", "csv", "jsonl"):
        run(capsys, "sql", "iris.ledger", query, "--to", f"t.{suffix}")
        run(capsys, "sql", "iris.ledger", query, "--to", f"t.{suffix}", code=2)
        run(capsys, "sql", "iris.ledger", query, "--to", f"t.{suffix}", "--force")
    assert pq.read_table("t.parquet")["n"].to_pylist() == [50, 50, 50]
    assert json.loads(Path("t.jsonl").read_text().splitlines()[0]) == {"y": "setosa", "n": 50}


@pytest.mark.parametrize("query", ["selec", "select * from read_text('/etc/hostname')", "delete from ledger"])
def test_sql_that_may_not_be_is_refused(capsys: pytest.CaptureFixture[str], query: str) -> None:
    assert facts(capsys, "sql", "iris.ledger", query, code=2)["error"]["message"]


def test_export_writes_the_rows_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "export", "iris.ledger", "o.jsonl", "--columns", "id,y", "--where", "y = 'setosa'") == (
        "  50 rows -> o.jsonl\n"
    )
    rows = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    assert rows[0] == {"id": "i000", "y": "setosa"}
    main(["export", "iris.ledger", "o.jsonl"])
    assert "--force" in capsys.readouterr().err


def test_history_can_be_named_compared_and_brought_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "tag", "iris.ledger", "first") == "  version 1 is called first\n"
    assert run(capsys, "delete", "iris.ledger", "i001", "i002").startswith("  2 datapoints deleted (version 2)")
    assert facts(capsys, "diff", "iris.ledger", "first")["deleted"] == ["i001", "i002"]
    assert "datapoints deleted      2  i001, i002" in run(capsys, "diff", "iris.ledger", "first")
    assert run(capsys, "restore", "iris.ledger", "first") == "  version 3 is version first again\n"
    found = facts(capsys, "versions", "iris.ledger")
    assert [v["rows"] for v in found["versions"]] == [150, 148, 150]
    assert "first" in run(capsys, "versions", "iris.ledger")
    assert run(capsys, "tag", "iris.ledger", "first", "--remove") == "  tag first removed\n"


def test_purge_asks_for_yes_names_the_tag_in_the_way_and_gives_a_receipt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["delete", "iris.ledger", "i001", "--purge"])
    assert "--yes" in capsys.readouterr().err
    run(capsys, "tag", "iris.ledger", "keep")
    assert main(["delete", "iris.ledger", "i001", "--purge", "--yes"]) == 2
    assert "datumwise tag LEDGER keep --remove" in capsys.readouterr().err
    run(capsys, "tag", "iris.ledger", "keep", "--remove")
    receipt = facts(capsys, "delete", "iris.ledger", "i001", "--purge", "--yes")["receipt"]
    assert receipt["ids"] == ["i001"]
    assert facts(capsys, "show", "iris.ledger")["rows"] == 149


def test_ids_come_from_a_file_too(capsys: pytest.CaptureFixture[str]) -> None:
    Path("ids.csv").write_text("id\ni001\ni002\n")
    assert facts(capsys, "delete", "iris.ledger", "@ids.csv")["deleted"] == 2


def test_score_writes_columns_and_says_what_higher_means(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("score", "iris.ledger", "--names", "label_error,el2n", "--model", "logistic-regression")
    assert "Nothing was run." in run(capsys, *words, "--plan")
    assert facts(capsys, "show", "iris.ledger")["version"] == 1
    out = run(capsys, *words)
    assert out.splitlines()[0].split() == [
        "score",
        "datapoints",
        "least",
        "median",
        "most",
        "higher",
        "means",
    ]
    worst = facts(capsys, "show", "iris.ledger", "--by", "label_error", "--limit", "3")
    values = [row[worst["columns"].index("label_error")] for row in worst["rows"]]
    assert values == sorted(values, reverse=True)
    assert len(values) == 3


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("nope", "there is no learner 'nope'"),
        ("nope.joblib", "no such file: nope.joblib"),
        ("nope:x", "there is no module 'nope'"),
        ("math:nope", "module 'math' has no 'nope'"),
        (".", "holds no model"),
    ],
)
def test_a_model_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str], model: str, sentence: str) -> None:
    assert main(["score", "iris.ledger", "--names", "el2n", "--model", model]) == 2
    assert sentence in capsys.readouterr().err


def test_models_load_from_files_and_modules() -> None:
    import joblib
    from sklearn.tree import DecisionTreeClassifier

    from datumwise.cli.models import load_model

    joblib.dump(DecisionTreeClassifier(max_depth=3), "tree.joblib")
    assert load_model("tree.joblib", task=None, seed=0)[0].max_depth == 3
    built = load_model("sklearn.tree:DecisionTreeClassifier", task=None, seed=0)[0]
    assert isinstance(built, DecisionTreeClassifier)


def test_methods_are_listed_and_narrowed(capsys: pytest.CaptureFixture[str]) -> None:
    every = facts(capsys, "methods")["methods"]
    some = facts(capsys, "methods", "--needs", "probs")["methods"]
    assert 0 < len(some) < len(every)
    assert all("probs" in one["needs"] for one in some)
    assert f"{len(some)} of {len(every)} shown" in run(capsys, "methods", "--needs", "probs")


def test_ingesting_again_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text("a,y\n1.5,u\n2.5,v\n")
    assert facts(capsys, "ingest", "t.csv")["reopened"] is False
    assert facts(capsys, "ingest", "t.csv")["reopened"] is True
    main(["ingest", "t.csv"])
    assert "same source, same rows (version 1)" in capsys.readouterr().err


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch, ledger: object) -> dict:
    """The audit and its page replaced by quick ones; returns what the audit was called with."""
    import datumwise.report as room

    called: dict = {}

    def audit(source: object, *, stage: object, **options: object) -> object:
        called.update(options, source=source)
        stage.begin("ingest", "x")
        stage.end("150 rows -> iris.ledger")
        return example_audit(Path("iris.ledger").resolve())

    def write_page(audit: object, path: Path) -> None:
        path.write_text("<!doctype html><title>datumwise</title>")

    monkeypatch.setattr(room, "audit", audit, raising=False)
    monkeypatch.setattr(room, "write_page", write_page, raising=False)
    return called


def test_audit_passes_its_options_on(capsys: pytest.CaptureFixture[str], audited: dict) -> None:
    out = run(
        capsys, "audit", "iris.ledger", "--label", "y", "--features", "a,b", "--held-out", "0.3",
        "--seed", "3", "--folds", "4", "--learner", "extra trees", "--model", "logistic-regression",
    )  # fmt: skip
    assert out.startswith("datumwise audit  demo: 1,321 pictures, 10 classes, faults planted\n")
    assert "  report  iris.html (39 B)\n" in out or "  report  iris.html (0 kB)\n" in out
    assert (audited["label"], audited["features"], audited["held_out"], audited["seed"]) == (
        "y",
        ["a", "b"],
        0.3,
        3,
    )
    assert (audited["folds"], audited["learner"]) == (4, "extra trees")
    assert type(audited["model"]).__name__ == "Pipeline"


def test_audit_as_a_document(capsys: pytest.CaptureFixture[str], audited: dict) -> None:
    found = facts(capsys, "audit", "iris.ledger")
    assert found["verdict"].startswith("139 of 1,321 datapoints")
    assert found["page"].endswith("iris.html")


@pytest.mark.parametrize(
    ("check", "code"),
    [("label_error > 2%", 1), ("label_error > 4%", 0), ("outlier >= 7", 1), ("near duplicate < 10", 0)],
)
def test_fail_on_decides_the_exit_code(capsys: pytest.CaptureFixture[str], audited: dict, check: str, code: int) -> None:
    found = facts(capsys, "audit", "iris.ledger", "--fail-on", check, code=code)
    assert found["checks"][0]["failed"] is bool(code)
    assert f"  check   {found['checks'][0]['said']}\n" in run(capsys, "audit", "iris.ledger", "--fail-on", check, code=code)


def test_a_page_is_written_again_but_no_foreign_file(capsys: pytest.CaptureFixture[str], audited: dict) -> None:
    run(capsys, "audit", "iris.ledger")
    run(capsys, "audit", "iris.ledger")
    Path("iris.html").write_text("my notes")
    run(capsys, "audit", "iris.ledger", code=2)
    assert Path("iris.html").read_text() == "my notes"
    run(capsys, "audit", "iris.ledger", "--force")


def interrupt_after(rows: int, ledger: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit that is interrupted in its probe, with ``rows`` rows in the journal."""
    import datumwise.report as room
    from datumwise.ledger import Journal

    def audit(source: object, *, stage: object, **options: object) -> None:
        stage.begin("probe", "likelihoods")
        if rows:
            journal = Journal(ledger.path / "journal" / "key")
            journal.write(np.arange(rows, dtype=np.uint64), {"nll": np.zeros(rows)})
        stage.progress(rows, 150)
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "audit", audit, raising=False)


def test_an_interrupted_audit_says_what_is_kept_and_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ledger: object
) -> None:
    interrupt_after(100, ledger, monkeypatch)
    words = ["audit", "iris.ledger", "--label", "y"]
    monkeypatch.setattr("sys.argv", ["datumwise", *words])
    assert main(words) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "interrupted: 100 of 150 datapoints probed are kept (iris.ledger, version 1)\n"
        "to go on:  datumwise audit iris.ledger --label y\n"
    )


def test_an_interrupted_audit_is_a_document_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ledger: object
) -> None:
    interrupt_after(0, ledger, monkeypatch)
    found = facts(capsys, "audit", "iris.ledger", code=130)
    assert found["error"]["message"] == "interrupted: what was finished before is kept (iris.ledger, version 1)"


def test_interrupted_before_anything_was_written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("t.csv").write_text("a,y\n1.5,u\n2.5,v\n")

    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("datumwise.ledger.ledger.create_ledger", stopped)
    assert main(["ingest", "t.csv"]) == 130
    assert capsys.readouterr().err.startswith("interrupted: nothing was written\n")
    assert not Path("t.ledger").exists()


@pytest.mark.parametrize(("screen", "terminal", "opened"), [("1", True, True), ("", True, False), ("1", False, False)])
def test_the_page_is_opened_only_where_somebody_sits_at_a_screen(
    monkeypatch: pytest.MonkeyPatch, screen: str, terminal: bool, opened: bool
) -> None:
    import sys
    import webbrowser

    from datumwise.cli.audit import show

    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or True)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", screen)
    assert show(Path("a b.html")) is opened
    assert [one.endswith("/a%20b.html") for one in asked] == [True] * opened
