"""Exit codes, streams and sentences of the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest

from datumwise.cli import main
from datumwise.cli.app import COMMANDS

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "cli.schema.json").read_text())
TABLE = "id,text,label,stars\n" + "".join(f"r{i},a text of its own {i},{'ab'[i % 2]},{i}\n" for i in range(120))
HEAVY = {"torch", "pandas", "sklearn", "lance", "pyarrow", "duckdb", "numpy", "ray", "transformers"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("reviews.csv").write_text(TABLE)
    return tmp_path


def document(text: str) -> dict:
    """The one JSON document of ``text``, valid by the published schema."""
    assert text.count("\n") == 1
    found = json.loads(text)
    jsonschema.validate(found, SCHEMA)
    return found


REFUSALS = [
    (["ingst"], "error: there is no command 'ingst': did you mean ingest?"),
    (["xyz"], "error: there is no command 'xyz': commands are audit, ingest, score"),
    (["ingest"], "error: SOURCE is missing: datumwise ingest --help says more"),
    (
        ["ingest", "reviews.csv", "--lable", "x"],
        "error: datumwise ingest has no option --lable: did you mean --label?",
    ),
    (["ingest", "reviews.csv", "--label"], "error: --label needs a value: datumwise ingest --help says more"),
    (["ingest", "reviews.csv", "b"], "error: 'b' is one word too many: datumwise ingest --help says more"),
    (
        ["ingest", "reviews.csv", "--task", "regresion"],
        "error: --task 'regresion' is not one of its values: did you mean regression?",
    ),
    (["show", "x.ledger", "--limit", "ten"], "error: --limit 'ten' is not a whole number"),
    (["audit", "reviws.csv"], "error: no such file: reviws.csv: did you mean reviews.csv?"),
    (
        ["ingest", "reviews.csv", "--label", "lable"],
        "error: column 'lable' is not in reviews.csv (columns: id, text, label, stars): did you mean --label label?",
    ),
    (
        ["audit", "reviews.csv", "--label", "stars"],
        "error: column 'stars' has 120 different values in 120 rows, which is not a label: "
        "give a column of classes, or --task regression",
    ),
    (["audit", "reviews.csv", "--fail-on", "label"], "error: --fail-on 'label' is no check"),
    (
        ["audit", "reviews.csv", "--fail-on", "label_eror > 1"],
        "error: --fail-on: there is no finding 'label_eror'",
    ),
    (["audit", "reviews.csv", "--budget", "soon"], "error: --budget 'soon' is no length of time"),
    (
        ["audit", "reviews.csv", "--html", "reviews.csv"],
        "error: reviews.csv is there and is no page of datumwise",
    ),
    (["show", "none.ledger"], "error: none.ledger does not exist: make one with datumwise ingest"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSALS, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_refusal_is_one_line_on_stderr_and_exit_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith(sentence)
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert not list(Path().glob("*.ledger"))


@pytest.mark.parametrize("words", [["ingst"], ["ingest", "reviews.csv", "--label", "lable"], ["show", "x.ledger"]])
def test_with_json_a_refusal_is_one_document_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--json"]) == 2
    out, err = capsys.readouterr()
    error = document(out)["error"]
    assert err == f"error: {error['message']}\n"


def test_an_unknown_column_is_in_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    main(["ingest", "reviews.csv", "--label", "lable", "--json"])
    error = document(capsys.readouterr().out)["error"]
    assert (error["kind"], error["column"], error["remedy"]) == (
        "UnknownColumn",
        "lable",
        "did you mean --label label?",
    )


def test_a_bug_is_one_line_with_a_traceback_in_a_file_and_exit_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the engine\nis on fire")

    monkeypatch.setattr("datumwise.ledger.ledger.open_ledger", broken)
    assert main(["show", "a.ledger"]) == 70
    err = capsys.readouterr().err
    assert err.startswith("error: this is a fault of datumwise (RuntimeError: the engine); please report it with")
    assert err.count("\n") == 1
    (file,) = tmp_path.glob("datumwise-*.txt")
    assert "is on fire" in file.read_text()
    assert "command: datumwise show a.ledger" in file.read_text()


def test_a_missing_library_is_no_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lacking(*args: object, **kwargs: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("datumwise.ledger.ledger.open_ledger", lacking)
    assert main(["show", "a.ledger"]) == 2
    assert capsys.readouterr().err == "error: torch is not installed: pip install 'datumwise[lm]'\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_imported_and_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, name = COMMANDS[command][0].partition(":")
    function = getattr(import_module(f"datumwise.cli.{module}"), name)
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"Usage: datumwise {command}")
    documented = function.__doc__
    for parameter in function.__annotations__:
        if parameter not in ("return", "common"):
            assert f"\n    {parameter}\n" in documented
    assert all(f"--{word}" in out for word in ("json", "quiet"))


def test_help_names_every_command_and_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command, (_, summary, _) in COMMANDS.items():
        assert any(line.split()[:1] == [command] and summary in line for line in out.splitlines())


def test_options_of_the_audit_are_those_of_the_function() -> None:
    import inspect

    from datumwise.cli.audit import audit as command
    from datumwise.report import audit as function

    public = set(inspect.signature(function).parameters) - {"stage"}
    assert public <= set(inspect.signature(command).parameters)


def run_process(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("LANG", "LC_ALL", "NO_COLOR", "FORCE_COLOR")}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, env=env | environ, check=False)


@pytest.mark.parametrize("words", [["--help"], ["audit", "--help"], ["score", "--help"], ["--version"], ["ingst"]])
def test_asking_for_help_imports_nothing_heavy(words: list[str]) -> None:
    script = f"import sys; from datumwise.cli import main; main({words!r}); print(*sys.modules, file=sys.stderr)"
    done = run_process("-c", script)
    loaded = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}
    assert not loaded & HEAVY


def test_as_a_process_results_and_progress_go_separate_ways() -> None:
    done = run_process("-m", "datumwise", "ingest", "reviews.csv", LANG="C")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("  ok  ingest    120 rows -> reviews.ledger")
    assert "\x1b" not in done.stdout + done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert done.stdout.splitlines()[0] == "  ledger  reviews.ledger (version 1)"


def test_an_unwritable_folder_is_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "reviews.csv", "--out", "/proc/none/x"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
