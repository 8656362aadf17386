"""``datumwise forget``: a request by file, a certificate that can be checked, a model that is kept, data that are erased."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import joblib
import jsonschema
import numpy as np
import pytest

from datumwise.cli import main
from datumwise.evaluate.certificate import Certificate
from datumwise.ledger import open_ledger
from datumwise.readers import ingest

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "cli.schema.json").read_text())
GONE = [f"r{i:03d}" for i in range(20)]
FORGET = ("forget", "rows.ledger", "--model", "logistic-regression", "--holdout", "new")


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(260, 2))
    y = (x[:, 0] > 0).astype(int)
    y[:20] = 1 - y[:20]
    ids = np.array([f"r{i:03d}" for i in range(260)])
    table = {"id": ids, "a": x[:, 0], "b": x[:, 1], "y": y, "new": np.arange(260) >= 200}
    ingest(table, label="y", features=["a", "b"], out="rows")
    Path("remove.csv").write_text("id,why\n" + "".join(f"{one},asked\n" for one in GONE))


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(list(words)) == code, capsys.readouterr()
    return capsys.readouterr()


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    found = json.loads(run(capsys, *words, "--json")[0])
    jsonschema.validate(found, SCHEMA)
    return found


def test_a_request_by_file_gives_a_model_and_a_certificate_of_exactly_those_ids(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, *FORGET, "--ids", "remove.csv", "--request", "ticket 12")
    card = Certificate.from_json(Path("rows-forgot/certificate.json"))
    assert sorted(card.ids) == GONE
    assert card.ids_sha256 == hashlib.sha256("\n".join(GONE).encode()).hexdigest() == found["certificate"]["ids_sha256"]
    assert (card.request, card.exact, card.ledger, card.ledger_version) == ("ticket 12", True, "rows", 1)
    assert joblib.load("rows-forgot/model.joblib").predict_proba is not None
    assert card.ids_sha256 in Path("rows-forgot/certificate.md").read_text()
    assert "<html" in Path("rows-forgot/certificate.html").read_text()
    ledger = open_ledger("rows")
    assert np.isfinite(ledger.array("forgot_after")[:20]).all()
    assert ledger.metadata["requests"]["forgot"]["digest"] == card.ids_sha256
    assert "r003" not in json.dumps(ledger.metadata["requests"])


def test_the_terminal_shows_before_after_and_never_saw(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *FORGET, "--ids", ",".join(GONE), "--method", "newton")
    head = next(line for line in out.splitlines() if "before" in line)
    assert head.split() == ["before", "after", "never", "saw", "verdict"]
    assert any(line.strip().startswith("accuracy of unseen datapoints") and line.endswith("kept") for line in out.splitlines())
    assert "not tested" in out
    assert "certificate  rows-forgot/certificate.json  (20 ids, sha256" in out


def test_ids_can_be_left_out_and_their_digest_stays(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *FORGET, "--ids", "remove.csv", "--without-ids")
    for name in ("certificate.json", "certificate.md", "certificate.html"):
        assert "r003" not in Path("rows-forgot", name).read_text()
    card = Certificate.from_json(Path("rows-forgot/certificate.json"))
    assert card.n_ids == 20
    assert card.ids_sha256 == hashlib.sha256("\n".join(GONE).encode()).hexdigest()


def test_purging_erases_the_datapoints_after_the_certificate_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *FORGET, "--ids", "remove.csv", "--purge", code=2)
    assert len(open_ledger("rows")) == 260
    run(capsys, *FORGET, "--ids", "remove.csv", "--purge", "--yes")
    assert len(open_ledger("rows")) == 240
    assert Certificate.from_json(Path("rows-forgot/certificate.json")).data.startswith("erased from rows.ledger")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ids", "r001,nobody"), "1 ids are not on rows (nobody)"),
        ((), "say which datapoints are to be forgotten"),
        (("--where", "a > 99"), "no datapoint is to be forgotten"),
        (("--ids", "remove.csv", "--method", "npo"), "cannot forget by 'npo'"),
    ],
)
def test_bad_requests_are_one_sentence_and_change_nothing(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    _, err = run(capsys, *FORGET, *words, code=2)
    assert said in err
    assert open_ledger("rows").version == 1
    assert not Path("rows-forgot").exists()


def test_a_folder_with_a_certificate_is_not_overwritten_unless_forced(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *FORGET, "--ids", "remove.csv")
    _, err = run(capsys, *FORGET, "--ids", "remove.csv", code=2)
    assert "holds a certificate already" in err
    run(capsys, *FORGET, "--ids", "remove.csv", "--force")
