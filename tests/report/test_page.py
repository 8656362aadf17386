"""The page as a file: what is in it, what never is, and how small it stays."""

import base64
import errno
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_audits import ATTACKS, big_audit, digits_audit, hostile_audit, make_audit, text_audit, variants
from PIL import Image

from datumwise.errors import DiskFull, ReadOnly
from datumwise.report.charts import NOWHERE, choose_points, quantise
from datumwise.report.notebook import (
    audit_html,
    audit_text,
    findings_html,
    findings_text,
    proof_html,
    proof_text,
)
from datumwise.report.page import render, write_page

VARIANTS = variants()


class Reader(HTMLParser):
    """Every element with its attributes, and the text of each element that has an id or is a script."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self._open = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in {"meta", "link", "input", "img", "br"}:
            self._open.append(attributes.get("id"))

    def handle_endtag(self, tag):
        if self._open:
            self._open.pop()

    def handle_data(self, data):
        for name in self._open:
            if name:
                self.text[name] = self.text.get(name, "") + data


def unpack(page):
    reader = Reader(page)
    facts = json.loads(reader.text["facts"])
    raw = zlib.decompress(base64.b64decode(reader.text["data"]))
    data = {}
    for name, (kind, offset, size) in facts["layout"].items():
        part = raw[offset : offset + size]
        data[name] = json.loads(part) if kind == "json" else np.frombuffer(part, kind)
    return facts, data


def test_heading_is_the_verdict_word_for_word():
    for audit in (digits_audit(), *VARIANTS.values()):
        assert Reader(render(audit)).text["verdict"] == audit.verdict


def test_every_point_travels_with_its_place_findings_and_label():
    audit = digits_audit()
    _, data = unpack(render(audit))
    rows = np.array([int(i) for i in data["ids"]])
    assert sorted(rows) == list(range(audit.n))
    np.testing.assert_array_equal(data["flags"], audit.map.flags[rows])
    np.testing.assert_array_equal(data["label"], audit.map.labels[rows])
    for axis, name in enumerate("xy"):
        true = audit.map.xy[rows, axis]
        back = true.min() + data[name] / (NOWHERE - 1) * np.ptp(true)
        assert abs(back - true).max() <= np.ptp(true) / NOWHERE


def test_evidence_stands_first_and_the_most_suspicious_leads():
    audit = digits_audit()
    _, data = unpack(render(audit))
    expected = [item.id for item in sorted(audit.evidence, key=lambda item: -item.suspicion)]
    assert data["ids"][: len(expected)] == expected
    assert len(data["evidence"]) == len(expected)
    ids = np.array(data["ids"])
    truth = {item.id: [str(audit.map.ids[row]) for row in item.neighbours] for item in audit.evidence}
    for p, line in enumerate(data["evidence"]):
        assert ids[line[4]].tolist() == truth[ids[p]]


def test_quantised_scores_are_off_by_half_a_step_at_most():
    values = np.random.default_rng(0).normal(size=1000) ** 3
    codes, low, high = quantise(values)
    assert abs(low + codes / (NOWHERE - 1) * (high - low) - values).max() <= (high - low) / (NOWHERE - 1) / 2 * 1.01
    codes, low, high = quantise(np.array([np.nan, np.inf, -np.inf]))
    assert codes.tolist() == [NOWHERE] * 3
    assert (low, high) == (0.0, 0.0)


def test_sample_keeps_every_finding_every_neighbour_and_every_class():
    audit = big_audit(9_000)
    rows, listed = choose_points(audit, limit=2_000, evidence=100)
    kept = set(rows.tolist())
    near = {row for item in listed for row in item.neighbours}
    assert len(rows) == len(kept) == 2_000
    assert set(np.flatnonzero(audit.map.flags)) <= kept
    assert near <= kept
    assert [item.row for item in listed] == rows[:100].tolist()
    rest = rows[audit.map.flags[rows] == 0]
    fair = np.setdiff1d(rest, list(near))
    share = np.bincount(audit.map.labels[fair], minlength=12) / len(fair)
    whole = np.bincount(audit.map.labels[audit.map.flags == 0], minlength=12) / (audit.map.flags == 0).sum()
    assert abs(share - whole).max() < 0.02


def test_a_sample_is_said_to_be_one(monkeypatch):
    monkeypatch.setattr("datumwise.report.page.choose_points", lambda audit: choose_points(audit, 3_000, 50))
    page = render(big_audit(9_000))
    assert re.search(r"The map shows all 3\d\d with a finding and a sample of 2,6\d\d of the other 8,6\d\d", page)
    assert re.search(r"Evidence is given for the 50 most suspicious of 3\d\d\.", page)


def test_nothing_in_the_page_can_be_fetched():
    for audit in (digits_audit(), text_audit(), hostile_audit()):
        for tag, attributes in Reader(render(audit)).elements:
            for name in ("src", "href", "action", "data", "srcset", "poster"):
                target = attributes.get(name)
                assert target is None or target.startswith(("#", "data:")), (tag, name, target)
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', render(audit)).group(1)
        for part in ("default-src 'none'", "img-src data: blob:", "script-src 'unsafe-inline'"):
            assert part in policy


@pytest.mark.parametrize("kind", ["text", "table"])
def test_hostile_text_stays_text(kind):
    reader = Reader(render(hostile_audit(kind)))
    tags = [tag for tag, _ in reader.elements]
    assert tags.count("script") == 5
    assert "img" not in tags
    assert not any(name.startswith("on") for _, attributes in reader.elements for name in attributes)
    assert "49" not in reader.text["verdict"].replace("7*7", "")
    assert ATTACKS[0] in reader.text["verdict"]


def test_a_megabyte_in_a_cell_does_not_reach_the_page():
    for kind in ("text", "table"):
        assert len(render(hostile_audit(kind))) < 1_000_000


def test_ids_are_carried_whole_even_where_they_are_shown_cut():
    audit = VARIANTS["plain"]
    ids = np.array([f"{'folder/' * 60}{i}" for i in range(audit.n)], dtype=object)
    _, data = unpack(render(replace(audit, map=replace(audit.map, ids=ids))))
    assert set(data["ids"]) == set(ids)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_edge_case_renders(name):
    facts, data = unpack(render(VARIANTS[name]))
    assert len(data["ids"]) == VARIANTS[name].n
    assert len(facts["findings"]) == len(VARIANTS[name].findings)


def test_missing_scores_and_places_are_marked_and_not_zero():
    audit = VARIANTS["NaN scores"]
    facts, data = unpack(render(audit))
    rows = np.array([int(i) for i in data["ids"]])
    nowhere = (data["x"] == NOWHERE) | (data["y"] == NOWHERE)
    np.testing.assert_array_equal(nowhere, ~np.isfinite(audit.map.xy[rows]).all(axis=1))
    for i, score in enumerate(facts["scores"]):
        known = np.isfinite(audit.map.scores[score["name"]][rows])
        np.testing.assert_array_equal(data[f"score{i}"] != NOWHERE, known)


def test_why_nothing_was_proved_is_said():
    assert "Nothing was proved: 80 datapoints are too few to hold any out" in render(VARIANTS["no proof"])


def test_planted_truth_is_shown_only_where_it_is_known():
    page = render(digits_audit())
    assert "Against what was planted" in page
    assert "Against what was planted" not in render(text_audit())
    finding = digits_audit().findings[0]
    assert f"{100 * finding.planted.recall:.1f}%" in page


def test_r_squared_is_not_written_as_a_percentage():
    page = render(VARIANTS["regression"])
    card = page[page.index('<section id="proof"') : page.index('<section id="findings"')]
    assert "R²" in card
    assert "%" not in card.replace("95%", "")
    assert "points" not in card.replace("datapoints", "")


def test_near_copies_are_marked_where_they_differ():
    audit = text_audit()
    _, data = unpack(render(audit))
    marked = 0
    for p, line in enumerate(data["evidence"]):
        keys = [audit.findings[k].key for k in line[0]]
        entry = data["texts"].get(str(p))
        if "near_duplicate" in keys and entry and len(entry) == 3:
            marked += "unexpected".startswith(entry[0][entry[1] : entry[2]][:7])
    assert marked >= 3


def test_two_thousand_pictures_stay_below_the_aim_and_fifty_thousand_points_below_the_limit():
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((96, 72)) for _ in range(40)]
    x = rng.normal(size=(2_000, 6))
    labels = rng.integers(0, 10, 2_000)
    audit = make_audit(
        x, labels, tuple("abcdefghij"), name="photos", kind="images", picture=lambda row: photos[row % 40],
        share=(0.04, 0.03, 0.01, 0.03, 0.01),
    )  # fmt: skip
    assert len(render(audit)) < 1_700_000
    assert len(render(digits_audit())) < 1_000_000
    big = big_audit()
    ids = np.array([f"{rng.integers(2**63):016x}" for _ in range(big.n)])
    assert len(render(replace(big, map=replace(big.map, ids=ids)))) < 3_000_000


def test_written_page_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "audit.html"
    path.write_text("old")
    assert write_page(VARIANTS["plain"], path) == path
    assert path.read_text("utf-8") == render(VARIANTS["plain"])
    assert [p.name for p in tmp_path.iterdir()] == ["audit.html"]


def test_same_audit_gives_the_same_bytes():
    assert render(digits_audit()) == render(digits_audit())


def test_assets_carry_their_licences():
    from importlib.resources import files

    assets = files("datumwise.report").joinpath("assets")
    head = assets.joinpath("echarts.min.js").read_text("utf-8")[:400]
    for name in re.findall(r"(?:LICENSE|NOTICE)\.\w+", head):
        assert len(assets.joinpath(name).read_text("utf-8")) > 100
    assert "Apache-2.0" in head


def test_text_summary_fits_eighty_columns_and_names_every_kind():
    for audit in (digits_audit(), text_audit(), *VARIANTS.values()):
        text = audit_text(audit)
        assert max(map(len, text.splitlines())) <= 80, audit.name
        for finding in audit.findings:
            assert f"{finding.count:,}" in findings_text(audit)
    assert "[+2.5, +5.8]   gain shown" in proof_text(digits_audit().proof)
    assert "too few to hold any out" in proof_text(VARIANTS["no proof"].proof)


def test_notebook_tables_hold_no_script_and_escape_the_data():
    for audit in (digits_audit(), hostile_audit(), hostile_audit("table"), *VARIANTS.values()):
        whole = audit_html(audit, "audit.html") + findings_html(audit) + proof_html(audit.proof)
        tags = {tag for tag, _ in Reader(whole).elements}
        assert "script" not in tags
        assert not tags & {"iframe", "object"}
        assert not any(name.startswith("on") for _, attributes in Reader(whole).elements for name in attributes)
        assert len(whole) < 60_000


def test_notebook_shows_the_labels_of_the_nearest_three():
    audit = digits_audit()
    worst = max(audit.evidence, key=lambda item: item.suspicion)
    row = findings_html(audit).split("<tbody>")[1].split("</tr>")[0]
    shown = re.findall(r"<bdi>(\d)</bdi>", row.split("<td>")[-1])
    assert shown == [audit.map.classes[audit.map.labels[near]] for near in worst.neighbours]


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, DiskFull), (errno.EROFS, ReadOnly)])
def test_a_page_that_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, number, error):
    def fails(self, data):
        self.touch()
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(error, match=r"page .*a\.html"):
        write_page(digits_audit(), tmp_path / "a.html")
    assert not list(tmp_path.iterdir())
