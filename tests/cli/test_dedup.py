"""``datumwise dedup``: what it finds, what it writes, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from terminals import pipe

from datumwise.cli.dedup import dedup
from datumwise.cli.options import Common
from datumwise.cli.outcome import Outcome
from datumwise.cli.terminal import say
from datumwise.errors import DatumwiseError
from datumwise.ledger import Ledger, open_ledger
from datumwise.readers import ingest

QUIET = Common(quiet=True)


def base_texts(n: int = 12) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(f"w{c}" for c in rng.integers(0, 500, 80)) for _ in range(n)]


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.chdir(tmp_path)
    texts = base_texts()
    texts += [texts[3], texts[5] + " and some more", texts[3].upper() + "!"]
    ids = [f"d{row:02d}" for row in range(len(texts))]
    columns = {"id": np.array(ids), "text": np.array(texts, object), "liked": np.arange(15.0)}
    return ingest(columns, out="texts", text="text")


def told(outcome: Outcome) -> str:
    to = pipe()
    say(outcome.lines(to), to)
    return to.stream.getvalue()  # type: ignore[attr-defined]


def written(path: Path) -> dict[str, tuple[str, float]]:
    rows = open_ledger(path).table(["id", "duplicate_of", "duplicate_similarity"]).to_pylist()
    assert all((row["duplicate_of"] is None) == (row["duplicate_similarity"] is None) for row in rows)
    return {row["id"]: (row["duplicate_of"], row["duplicate_similarity"]) for row in rows if row["duplicate_of"]}


@pytest.mark.parametrize(
    ("method", "found"),
    [
        ("exact", {"d12": "d03"}),
        ("minhash", {"d12": "d03", "d13": "d05", "d14": "d03"}),
        ("simhash", {"d12": "d03", "d13": "d05", "d14": "d03"}),
        ("substring", {"d12": "d03", "d05": "d13", "d14": "d03"}),
        ("semantic", {"d12": "d03", "d13": "d05", "d14": "d03"}),
    ],
)
def test_every_method_writes_who_is_kept_in_whose_place(ledger: Ledger, method: str, found: dict[str, str]) -> None:
    more = {"threshold": 0.85} if method in ("simhash", "semantic") else {}
    keep = "first" if method == "semantic" else None
    outcome = dedup(ledger.path, method=method, keep=keep, common=QUIET, **more)  # type: ignore[arg-type]
    rows = written(ledger.path)
    assert {id: kept for id, (kept, _) in rows.items()} == found
    assert all(more.get("threshold", 0.7) <= similarity <= 1 for _, similarity in rows.values())
    assert outcome.facts["left_out"] == len(found)
    assert outcome.facts["rows"] == 15
    assert outcome.code == 0


def test_the_table_names_the_biggest_groups(ledger: Ledger) -> None:
    assert told(dedup(ledger.path, common=QUIET)) == (
        "  3 of 15 datapoints say the same as another, in 2 groups\n"
        "  Jaccard similarity of 5-grams at least 0.7, exact; kept: the first\n"
        "\n"
        "  size  least similar  kept  duplicates\n"
        "     3           1.00  d03   d12, d14\n"
        "     2           0.96  d05   d13\n"
        "\n"
        "  ledger  texts.ledger (version 2), columns duplicate_of and duplicate_similarity\n"
        '  next    datumwise export texts.ledger FILE --where "duplicate_of is null"\n'
    )


@pytest.mark.parametrize(
    ("keep", "found"),
    [
        ("first", {"d12": "d03", "d13": "d05", "d14": "d03"}),
        ("longest", {"d12": "d03", "d05": "d13", "d14": "d03"}),
        ("liked", {"d03": "d14", "d12": "d14", "d05": "d13"}),
    ],
)
def test_keep_names_a_rule_or_a_column(ledger: Ledger, keep: str, found: dict[str, str]) -> None:
    dedup(ledger.path, keep=keep, common=QUIET)
    assert {id: kept for id, (kept, _) in written(ledger.path).items()} == found


def test_the_columns_say_how_they_were_made_and_that_they_name_ids(ledger: Ledger) -> None:
    dedup(ledger.path, threshold=0.6, ngram=3, keep="liked", common=QUIET)
    of, similarity = (open_ledger(ledger.path).provenance(name) for name in ("duplicate_of", "duplicate_similarity"))
    assert of is not None
    assert similarity is not None
    assert of.refers_to_ids
    assert not similarity.refers_to_ids
    assert of.method == "dedup:minhash"
    assert of.params == {"method": "minhash", "threshold": 0.6, "ngram": 3, "keep": "liked"}
    assert of.reads == ["text"]


def test_a_purge_blanks_the_id_that_was_purged(ledger: Ledger) -> None:
    dedup(ledger.path, common=QUIET)
    opened = open_ledger(ledger.path)
    opened.delete(ids=["d03"], purge=True, yes=True)
    left = {row["id"]: row["duplicate_of"] for row in opened.table(["id", "duplicate_of"]).to_pylist()}
    assert left["d12"] is None
    assert left["d13"] == "d05"


def test_run_again_it_replaces_what_it_wrote_and_what_is_kept_has_no_duplicates(ledger: Ledger) -> None:
    dedup(ledger.path, method="exact", common=QUIET)
    dedup(ledger.path, common=QUIET)
    assert len(written(ledger.path)) == 3
    opened = open_ledger(ledger.path)
    opened.delete(where="duplicate_of is not null")
    outcome = dedup(ledger.path, common=QUIET)
    assert outcome.facts["left_out"] == 0
    assert "next" not in told(outcome)


def test_prompts_and_responses_are_compared_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    questions, answers = np.array(["q one", "q one", "q two"], object), np.array(["a", "b", "a"], object)
    opened = ingest({"id": np.array(["x", "y", "z"]), "q": questions, "a": answers}, out="pairs", prompt="q", response="a")
    assert dedup(opened.path, method="exact", common=QUIET).facts["left_out"] == 0


def test_tables_have_exact_and_semantic_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 4))
    X[20], X[21] = X[3], X[4] + 1e-4
    columns = {"id": np.array([f"r{row:02d}" for row in range(30)]), **dict(zip("abcd", X.T, strict=True))}
    opened = ingest(columns, out="table")
    dedup(opened.path, method="exact", common=QUIET)
    assert {id: kept for id, (kept, _) in written(opened.path).items()} == {"r20": "r03"}
    dedup(opened.path, method="semantic", threshold=0.999999, keep="first", common=QUIET)
    assert {id: kept for id, (kept, _) in written(opened.path).items()} == {"r20": "r03", "r21": "r04"}
    with pytest.raises(DatumwiseError, match="table has no text"):
        dedup(opened.path, common=QUIET)


def test_what_cannot_be_done_is_refused(ledger: Ledger) -> None:
    for options, sentence in (
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": 0.0, "method": "semantic"}, "threshold is 0.0"),
        ({"method": "exact", "threshold": 0.9}, "--threshold means nothing to --method exact"),
        ({"method": "semantic", "ngram": 3}, "--ngram means nothing to --method semantic"),
        ({"normalise": True}, "--normalise means nothing to --method minhash"),
        ({"keep": "text"}, "column 'text' holds no numbers"),
        ({"keep": "best"}, "best"),
        ({"method": "semantic", "keep": "longest"}, "embeddings have no length"),
    ):
        with pytest.raises(DatumwiseError, match=sentence):
            dedup(ledger.path, common=QUIET, **options)  # type: ignore[arg-type]
    assert open_ledger(ledger.path).version == 1


def test_texts_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    questions, answers = np.array(["a b", None, "c d"], object), np.array(["a", "b", "a"], object)
    opened = ingest({"id": np.array(["x", "y", "z"]), "q": questions, "a": answers}, out="holes", prompt="q", response="a")
    with pytest.raises(DatumwiseError, match="datapoint y has no text"):
        dedup(opened.path, common=QUIET)
