"""The audit on a terminal, letter by letter."""

from __future__ import annotations

from pathlib import Path

import pytest
from terminals import example_audit, pipe, terminal

from datumwise.cli.outcome import document
from datumwise.cli.summary import audit_facts, summary
from datumwise.cli.terminal import Line, Surface
from datumwise.report.result import Interval, Proof, ProofCard, ProofRow

PIPED = """\
datumwise audit  demo: 1,321 pictures, 10 classes, faults planted

  ok  ingest    1,321 rows -> digits-demo.ledger                       0.4 s
  ok  probe     probabilities (5 folds), embedding (32)                6.1 s

  139 of 1,321 datapoints deserve a look. Removing 78 lifts held-out accuracy by 4.0 points.

  finding         found  planted  right  worst
  label error        49       64     46  0270  given 1, looks like 8 (0.99)
  near duplicate     48       24     24  1297  copy of 0114, 24 groups
  outlier             7       12      7  0645  10-neighbour distance 1.9
  hard, kept         37        -      -  0557  given 3, EL2N 1.21
  poisoned            0        0      0  -

  Proof   held-out accuracy on 500 datapoints, 95% interval, 1-NN
    all        1,321   93.0%  [90.6, 95.2]
    random     1,243   93.0%  [90.7, 95.1]
    cleaned    1,243   97.0%  [95.6, 98.4]
    cleaned - random   +4.0 points  [+2.5, +5.8]   gain shown
    with logistic regression: +0.3 points [-0.8, +1.4], no gain shown

  report  digits-demo.html (1.0 MB)
  ledger  digits-demo.ledger (version 7)
  next    datumwise show digits-demo.ledger 0270"""

AT_60 = """\

  139 of 1,321 datapoints deserve a look. Removing 78 lifts
  held-out accuracy by 4.0 points.

  finding         found  planted  right  worst
  label error        49       64     46  0270  given 1,
                                         looks like 8 (0.99)
  near duplicate     48       24     24  1297  copy of 0114,
                                         24 groups
  outlier             7       12      7  0645  10-neighbour
                                         distance 1.9
  hard, kept         37        -      -  0557  given 3, EL2N
                                         1.21
  poisoned            0        0      0  -

  Proof   held-out accuracy on 500 datapoints, 95% interval,
          1-NN
    all        1,321   93.0%  [90.6, 95.2]
    random     1,243   93.0%  [90.7, 95.1]
    cleaned    1,243   97.0%  [95.6, 98.4]
    cleaned − random   +4.0 points  [+2.5, +5.8]
       gain shown
    with logistic regression: +0.3 points [−0.8, +1.4], no
    gain shown
"""


@pytest.fixture(autouse=True)
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "digits-demo.html"
    path.write_bytes(b"x" * 1_000_000)
    return path


def text(to: Surface, page: Path | None, *, stages: bool = False, **changes: object) -> str:
    lines = summary(example_audit(**changes), to, page=page, checks=[], stages=stages)
    return "\n".join(line.text if isinstance(line, Line) else line for line in lines)


def test_piped_it_is_the_text_of_the_specification(page: Path) -> None:
    assert text(pipe(), page, stages=True) == PIPED


def test_at_60_columns_nothing_is_cut(page: Path) -> None:
    assert text(terminal(60), page).startswith(AT_60)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost(page: Path, width: int) -> None:
    shown = text(terminal(width), page)
    assert max(len(line) for line in shown.splitlines()) <= width
    plain = text(pipe(), page).replace("-0.8", "−0.8").replace("cleaned - random", "cleaned − random")
    assert shown.split() == plain.split()


def test_at_120_columns_it_is_the_piped_text_with_true_minus_signs(page: Path) -> None:
    piped = text(pipe(), page).replace("cleaned - random", "cleaned − random").replace("[-0.8", "[−0.8")
    assert text(terminal(120), page) == piped


def test_no_proof_says_why() -> None:
    shown = text(pipe(), None, proof=Proof("accuracy", 0, 0, (), "There are no labels."))
    assert "  Proof   There are no labels.\n" in shown


def test_r_squared_is_no_percentage() -> None:
    level = Interval(0.5, 0.4, 0.6)
    change = Interval(-0.02, -0.03, 0.0)
    rows = tuple(ProofRow(name, 10, level) for name in ("all", "random", "cleaned"))
    card = ProofCard("ridge regression", True, rows, change, change, "harm shown", 0.01, 5)
    shown = text(pipe(), None, proof=Proof("R²", 50, 3, (card,)))
    assert "    all        10   0.500  [0.400, 0.600]\n" in shown
    assert "    cleaned - random   -0.020  [-0.030, +0.000]   harm shown\n" in shown


def test_without_planted_faults_there_is_no_column_for_them() -> None:
    findings = tuple(type(f)(**{**vars(f), "planted": None}) for f in example_audit().findings)
    shown = text(pipe(), None, findings=findings)
    assert "  finding         found  worst\n" in shown


def test_unreadable_datapoints_are_named() -> None:
    shown = text(pipe(), None, refused={f"{i}.png": "empty file" for i in range(5)})
    assert "5 could not be read: 0.png (empty file), 1.png (empty file), 2.png (empty file) and 2 more" in shown


def test_facts_are_json_even_where_numbers_are_not(page: Path) -> None:
    import json

    findings = tuple(type(f)(**{**vars(f), "threshold": float("nan")}) for f in example_audit().findings)
    facts = json.loads(document(audit_facts(example_audit(findings=findings), page=page, checks=[])))
    assert facts["findings"][0]["threshold"] is None
    assert facts["evidence"][0]["neighbours"] == ["0270", "1297"]
