"""The page of a certificate: all of the record, no script, nothing loaded, nothing read as markup."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from datumwise.errors import DiskFull, ReadOnly
from datumwise.evaluate.certificate import Certificate
from datumwise.evaluate.criterion import Criterion, Datapoint
from datumwise.report.certificate import IDS, ROWS, axis, render_certificate, write_certificate

HOSTILE = "</td><script>alert(1)</script>\u202e\x00<img src=x onerror=y>"


def certificate(**changes):
    recall = Criterion("verbatim recall", 0.92, 0.11, 0.10, (0.08, 0.15), n=40)
    leak = Criterion("privacy leakage", -99.8, -48.1, 0.0, (-61.0, -33.5), goal="zero", form="+.1f", note="a note on it")
    rows = [
        Datapoint("b", {"loss": 0.1}, {"loss": 3.0}, {}, "forgotten"),
        Datapoint("a", {}, {"loss": 0.2}, {}, "still likely"),
    ]
    given = {
        "criteria": [recall, leak], "datapoints": rows,
        "attacks": [replace(recall, name="recall, in 4 bit", after=0.5, verdict="comes back", note="unattacked 0.10")],
        "method": "npo_klr", "model_before": "M:1", "model_after": "M:2", "model_reference": "M:3", "options": {"lr": 1e-5},
        "ledger": "notes.lance", "ledger_version": 12, "data": "still in notes.lance", "seconds": 41.2,
    }  # fmt: skip
    return Certificate.of("author asked", ["a", "b", "c"], **(given | changes))


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_page_holds_the_whole_record():
    card = certificate()
    text = re.sub(r"\s+", " ", Elements(render_certificate(card)).text)
    for part in (
        card.verdict, card.standing, "author asked", card.ids_sha256, "notes.lance, version 12", "npo_klr, 41 s", "M:1",
        "M:2", "M:3", "lr 1e-05", "verbatim recall", "0.08 to 0.15", "−48.1", "still recognised", "comes back", "a note on it",
        "unattacked 0.10",
        "still in notes.lance", "still likely", "3 ids", "Measured again under attack", "40 items",
    ):  # fmt: skip
        assert part in text, part
    assert text.rindex("still likely") < text.rindex("forgotten The ids")  # what is not forgotten first


def test_page_loads_and_runs_nothing():
    page = render_certificate(certificate())
    elements = Elements(page).found
    assert not {"script", "img", "iframe", "object", "form"} & {tag for tag, _ in elements}
    assert not [a for _, attributes in elements for a in attributes if a.startswith("on")]
    links = [attributes.get("href") or attributes.get("src") for _, attributes in elements]
    assert {link for link in links if link} == {"data:,"}
    assert "url(" not in page
    policy = next(a["content"] for tag, a in elements if tag == "meta" and a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_hostile_texts_stay_texts():
    card = certificate(
        method=HOSTILE, options={HOSTILE: HOSTILE}, ledger=HOSTILE, data=HOSTILE, notes=[HOSTILE], not_tested=[HOSTILE],
        criteria=[Criterion(HOSTILE, 1.0, 0.5, None, note=HOSTILE)], datapoints=[], model_before=HOSTILE,
    )  # fmt: skip
    for page in (render_certificate(card), render_certificate(replace(card, request=HOSTILE, created=HOSTILE))):
        elements = Elements(page).found
        assert not {"script", "img"} & {tag for tag, _ in elements}
        assert "\x00" not in page


def test_parts_that_are_not_there_are_not_drawn():
    bare = certificate(
        attacks=[], datapoints=[], criteria=[Criterion("recall", None, 0.5)], model_reference=None, ledger="", data=""
    )
    text = Elements(render_certificate(bare)).text
    assert "under attack" not in text
    assert "Datapoint by datapoint" not in text
    assert "none, ids given by hand" in text
    assert "there was none here" in text
    assert "The ids" not in Elements(render_certificate(Certificate.from_json(bare.to_json(with_ids=False)))).text


def test_page_of_a_large_request_stays_small():
    ids = [f"id-{i:06d}" for i in range(20_000)]
    rows = [Datapoint(i, {"loss": 0.1}, {"loss": 2.0}, {"loss": 2.0}, "forgotten") for i in ids]
    card = Certificate.of(
        "r", ids, method="ga", model_before="a", model_after="b", criteria=[Criterion("c", 1, 0.5)], datapoints=rows
    )
    page = render_certificate(card)
    assert len(page) < 1_000_000
    assert f"{20_000 - ROWS:,} more in the JSON." in page
    assert f"{20_000 - IDS:,} more in the JSON." in page


@pytest.mark.parametrize(
    ("one", "ends"),
    [
        (Criterion("c", 0.2, 0.9), (0.0, 1.0)),
        (Criterion("c", 62.0, 9.0), (0.0, 100.0)),
        (Criterion("c", 2.3, 8.2, goal="keep low"), (0.0, 9.0)),
        (Criterion("c", -20.0, 3.0, goal="zero"), (-100.0, 100.0)),
        (Criterion("c", -20.0, 130.0, goal="zero"), (-130.0, 130.0)),
        (Criterion("c", -0.2, 0.1, goal="zero"), (-1.0, 1.0)),
        (Criterion("c", None, None), (0.0, 1.0)),
        (Criterion("c", 0.0, -0.5, goal="keep high"), (-0.5, 1.0)),
    ],
)
def test_axis_holds_all_that_is_drawn(one, ends):
    assert axis(one) == ends


def test_file_is_the_whole_page_or_the_old_one(tmp_path, monkeypatch):
    path = write_certificate(certificate(), tmp_path / "c.html")
    first = path.read_bytes()
    assert first.startswith(b"<!doctype html>")

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFull, match="no space left for the page"):
        write_certificate(certificate(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["c.html"]
    assert path.read_bytes() == first
    monkeypatch.undo()
    with pytest.raises(ReadOnly, match=r"the page .* cannot be written \(No such file or directory\)"):
        write_certificate(certificate(), tmp_path / "no" / "c.html")
