"""``datumwise select``: what is chosen is on the ledger, what is printed is what was chosen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datumwise.cli import main
from datumwise.ledger import Provenance, open_ledger
from datumwise.readers import ingest


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)
    from sklearn.datasets import load_iris

    bunch = load_iris()
    columns = {name: bunch.data[:, i] for i, name in enumerate("abcd")}
    ids = np.array([f"i{k:03d}" for k in range(150)])
    made = ingest({"id": ids, **columns, "y": bunch.target_names[bunch.target]}, out="iris")
    made.write({"quality": np.arange(150) % 60 / 60.0}, provenance=Provenance("quality"))
    return made


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(words)) == code, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_first_picks_and_the_next_command_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "select", "iris.ledger", "--method", "top_k", "--n", "12", "--by", "quality")
    lines = out.splitlines()
    assert lines[0] == "  12 of 150 datapoints chosen by top_k"
    assert lines[2].split() == ["rank", "id", "gain", "y"]
    assert lines[3].split() == ["1", "i059", "0.9833", "versicolor"]
    assert "  and 2 more" in lines
    assert lines[-1].endswith('datumwise export iris.ledger selected.parquet --where "selected is not null"')
    table = open_ledger("iris").sql("select id from ledger where selected is not null order by selected")
    assert table["id"].to_pylist()[:2] == ["i059", "i119"]


def test_the_next_command_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "select", "iris.ledger", "--method", "top_k", "--share", "0.1", "--by", "quality", "--name", "best")
    out = run(capsys, "export", "iris.ledger", "best.parquet", "--where", "best is not null")
    assert "15 rows" in out


def test_options_reach_the_selector(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("select", "iris.ledger", "--method", "d2_pruning", "--n", "5", "--by", "quality")
    found = json.loads(run(capsys, *words, "--option", "gamma=2.5", "--option", "combine=product", "--json"))
    assert found["method"] == "d2_pruning"
    assert found["chosen"] == len(found["ids"]) == len(found["gains"]) == 5
    params = open_ledger("iris").provenance("selected").params
    assert (params["gamma"], params["combine"]) == (2.5, "product")


def test_classes_keep_their_shares_and_seeds_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("select", "iris.ledger", "--method", "ccs", "--n", "30", "--by", "quality", "--by-class", "--json")
    first = json.loads(run(capsys, *words, "--seed", "3"))
    again = json.loads(run(capsys, *words, "--seed", "3"))
    other = json.loads(run(capsys, *words, "--seed", "4"))
    assert first["ids"] == again["ids"] != other["ids"]
    labels = open_ledger("iris").take(first["ids"], ["y"])["y"].to_pylist()
    assert sorted(map(labels.count, set(labels))) == [10, 10, 10]


def test_a_report_compares_with_random_subsets(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("select", "iris.ledger", "--method", "repr_filter", "--n", "20", "--by", "quality", "--report")
    out = run(capsys, *words)
    assert "random subsets a size" in out
    assert "held-out accuracy" in open_ledger("iris").metadata["selections"]["selected"]["sentence"]
    assert any(line.split()[:1] == ["repr_filter"] and "random" in line for line in out.splitlines())
    found = json.loads(run(capsys, *words, "--json"))["report"]
    assert found["held_out"] in range(36, 40)
    assert [row["name"] for row in found["rows"]] == ["all", "random", "repr_filter"]
    assert found["rows"][2]["verdict"] in ("beats random", "no better than random", "worse than random")


def test_a_condition_and_a_threshold_need_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("select", "iris.ledger", "--method", "threshold", "--by", "quality", "--option", "at_least=0.9")
    found = json.loads(run(capsys, *words, "--where", "y = 'setosa'", "--json", code=2))
    assert "no score is within the bounds" in found["error"]["message"]
    found = json.loads(run(capsys, *words, "--where", "y = 'versicolor'", "--json"))
    assert found["chosen"] == 6
    assert found["left_out"] == {"where the condition does not hold": 100}


def test_the_selectors_are_listed_with_the_scores(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "methods", "--room", "select", "--search", "CCS")
    assert "ccs" in out
    found = json.loads(run(capsys, "methods", "--json"))["methods"]
    ccs = next(one for one in found if one["name"] == "ccs")
    assert ccs["parameters"]["n_strata"] == 50
    assert ccs["needs"] == ["scores", "y"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "top_k", "--by", "quality"], "how many datapoints is not said"),
        (["--method", "top_k", "--n", "5", "--share", "0.1", "--by", "quality"], "how many datapoints is not said"),
        (["--method", "top_k", "--share", "1.5", "--by", "quality"], "--share is 1.5"),
        (["--method", "topk", "--n", "5"], "did you mean 'top_k'?"),
        (["--method", "top_k", "--n", "5"], "name its column with by= (--by)"),
        (["--method", "top_k", "--n", "5", "--by", "nope"], "there is no column 'nope'"),
        (["--method", "top_k", "--n", "500", "--by", "quality"], "500 datapoints were asked of 150"),
        (["--method", "top_k", "--n", "5", "--by", "quality", "--option", "k=3"], "top_k takes no option 'k'"),
        (["--method", "top_k", "--n", "5", "--by", "quality", "--option", "below"], "is no key=value"),
        (["--method", "top_k", "--n", "5", "--by", "quality", "--name", "y"], "column 'y' came with the data"),
        (["--method", "repr_filter", "--n", "5", "--by", "quality", "--by-class"], "does not choose class by class"),
        (["--method", "threshold", "--n", "5", "--by", "quality"], "threshold has no budget"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert main(["select", "iris.ledger", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert open_ledger("iris").version == 2


@pytest.fixture
def targets() -> None:
    from sklearn.datasets import load_iris

    X = load_iris().data[:50]  # setosa alone
    ingest({"id": np.array([f"t{k}" for k in range(50)]), **{name: X[:, i] for i, name in enumerate("abcd")}}, out="wanted")
    texts = [f"the petals of flower {k} are red and long" for k in range(30)]
    others = [f"invoice number {k} is due on monday morning" for k in range(30)]
    ingest({"id": np.array([f"p{k}" for k in range(60)]), "text": np.array(texts + others)}, out="pool")
    ingest({"id": np.array([f"w{k}" for k in range(9)]), "text": np.array(texts[:9])}, out="wishes")


@pytest.mark.usefixtures("targets")
def test_a_target_is_read_in_the_space_of_the_pool(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("select", "iris.ledger", "--method", "target_similarity", "--n", "40", "--target", "wanted.ledger", "--json")
    labels = open_ledger("iris").take(json.loads(run(capsys, *words))["ids"], ["y"])["y"].to_pylist()
    assert labels.count("setosa") == 40


@pytest.mark.usefixtures("targets")
def test_texts_like_those_wanted_are_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("select", "pool.ledger", "--method", "dsir", "--n", "20", "--option", "min_tokens=0", "--target", "wishes.ledger")
    found = json.loads(run(capsys, *words, "--json"))
    assert sum(int(one[1:]) < 30 for one in found["ids"]) >= 18


@pytest.mark.usefixtures("targets")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pool.ledger", "--method", "dsir", "--n", "5"], "DSIR needs a target set: --target LEDGER"),
        (["iris.ledger", "--method", "herding", "--n", "5", "--target", "wanted.ledger"], "takes no target set here"),
        (["iris.ledger", "--method", "target_similarity", "--n", "5", "--target", "pool.ledger"], "ingest both with the same"),
    ],
)
def test_a_target_that_is_missing_or_of_another_kind_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main(["select", *words]) == 2
    assert sentence in capsys.readouterr().err
