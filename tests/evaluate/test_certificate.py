"""A certificate says what was measured, in words that claim no more, and survives being written and read."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace

import pytest

from datumwise.errors import DuplicateId, EmptyData, SchemaMismatch, SourceError, UnknownName
from datumwise.evaluate.certificate import Certificate, ids_sha256
from datumwise.evaluate.criterion import Criterion, Datapoint, judge

RECALL = Criterion("verbatim recall", 0.62, 0.09, 0.08, interval=(0.06, 0.12), gap=(-0.02, 0.04), n=40)
LEAK = Criterion("privacy leakage", -100.0, -2.3, 0.0, interval=(-9.0, 4.0), goal="zero", form="+.1f", n=40)
UTILITY = Criterion("knowledge kept", 0.90, 0.71, 0.88, interval=(0.65, 0.77), goal="keep high", n=100)


def certificate(**changes):
    given = {
        "method": "npo_klr", "model_before": "Llama:0001", "model_after": "Llama:0002", "model_reference": "Llama:0003",
        "criteria": [RECALL, LEAK, UTILITY], "options": {"lr": 1e-5, "lora": None, "layers": (1, 2)}, "ledger": "notes.lance",
        "ledger_version": 12, "data": "still in notes.lance", "seconds": 41.0,
        "datapoints": [
            Datapoint("b", {"loss": 0.2}, {"loss": 3.1}, {"loss": 3.0}, "forgotten"),
            Datapoint("a", {"loss": 0.1, "recall": 1.0}, {"loss": 0.9, "recall": math.nan}, {}, "still recalled"),
        ],
    }  # fmt: skip
    return Certificate.of("author <kim> asked | by letter", ["b", "a", "c"], **(given | changes))


def test_digest_is_that_of_the_sorted_ids_one_a_line():
    assert certificate().ids_sha256 == hashlib.sha256(b"a\nb\nc").hexdigest()
    assert ids_sha256([3, 10]) == hashlib.sha256(b"10\n3").hexdigest()


def test_json_gives_the_same_certificate_back_from_text_and_from_file(tmp_path):
    card = certificate(attacks=[replace(RECALL, name="verbatim recall after relearning", after=0.5, interval=None, verdict="")])
    assert Certificate.from_json(card.to_json(tmp_path / "c.json")) == card
    assert Certificate.from_json(tmp_path / "c.json") == card
    fact = json.loads(card.to_json())
    assert (fact["datumwise"], fact["kind"], fact["options"]["layers"]) == (1, "certificate", [1, 2])
    assert "NaN" not in card.to_json()
    assert fact["datapoints"][1]["after"] == {"loss": 0.9}


def test_ids_can_be_left_out_and_their_digest_stays():
    text = certificate().to_json(with_ids=False)
    card = Certificate.from_json(text)
    assert card.ids == ()
    assert card.datapoints == ()
    assert card.n_ids == 3
    assert card.ids_sha256 == certificate().ids_sha256


def test_a_changed_list_of_ids_is_noticed():
    fact = json.loads(certificate().to_json())
    fact["ids"][0] = "d"
    with pytest.raises(SchemaMismatch, match="the ids of the certificate do not give its SHA-256: it was changed"):
        Certificate.from_json(json.dumps(fact))


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("{", SourceError, "the certificate is not JSON"),
        ('{"kind": "report"}', SchemaMismatch, "the certificate is no certificate"),
        ('{"kind": "certificate", "datumwise": 9}', SchemaMismatch, "has format 9"),
        ('{"kind": "certificate", "datumwise": 1}', SchemaMismatch, "is no whole certificate"),
        ("nowhere.json", SourceError, "there is no certificate nowhere.json"),
    ],
)
def test_what_is_no_certificate_is_refused(text, kind, sentence):
    with pytest.raises(kind, match=sentence):
        Certificate.from_json(text)


def test_requests_that_make_no_certificate_are_refused():
    with pytest.raises(EmptyData, match="needs the ids"):
        Certificate.of("r", [], method="ga", model_before="a", model_after="b", criteria=[RECALL])
    with pytest.raises(DuplicateId, match=r"ids of the request occur twice \(a\)"):
        Certificate.of("r", ["a", "b", "a"], method="ga", model_before="a", model_after="b", criteria=[RECALL])
    with pytest.raises(EmptyData, match="at least one criterion that was measured"):
        certificate(criteria=[replace(RECALL, after=None)])
    with pytest.raises(SchemaMismatch, match=r"1 datapoints are not in the request \(z\)"):
        certificate(datapoints=[Datapoint("z")])
    with pytest.raises(UnknownName, match="criterion x has the goal 'up'"):
        Criterion("x", 1, 1, goal="up")


def test_what_was_traded_and_what_was_not_tested_are_said():
    card = certificate()
    assert card.traded == ("knowledge kept fell from 0.90 to 0.71",)
    assert card.not_tested == ("relearning, rounding of the weights, other prompts: no attack was run",)
    bare = certificate(
        criteria=[replace(RECALL, reference=None, gap=None, verdict=""), Criterion("privacy leakage", None, None)]
    )
    assert bare.not_tested[:2] == ("privacy leakage", "a model that never saw them: none was given")
    assert bare.traded == ()
    assert bare.verdict == "Measured, but not judged: there is no model that never saw them to compare with."
    assert card.verdict == "2 of 3 criteria came out as hoped; not so knowledge kept."
    assert certificate(attacks=[RECALL]).not_tested == ()


def test_a_ledger_and_versions_and_time_are_kept():
    card = certificate()
    assert card.versions["datumwise"]
    assert card.versions["numpy"]
    assert card.created.endswith("+00:00")
    assert (card.ledger, card.ledger_version) == ("notes.lance", 12)


def test_fingerprints_are_taken_of_models():
    from sklearn.linear_model import Ridge

    card = certificate(model_before=Ridge(alpha=1), model_after=Ridge(alpha=2), model_reference=None)
    assert card.model_before.startswith("Ridge:")
    assert card.model_before != card.model_after
    assert card.model_reference == ""


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    "write", [str, Certificate.table, Certificate.to_markdown, Certificate.to_json, Certificate._repr_html_]
)
def test_no_form_of_it_ever_promises_removal(write, exact):
    said = write(certificate(exact=exact, attacks=[RECALL])).lower()
    assert not any(word in said for word in ("guarantee", "certified", "fully removed", "completely", "erased from the model"))


def test_exact_and_approximate_have_a_sentence_each():
    assert "Exact: " in certificate(exact=True).to_markdown()
    assert "no proof that no trace is left" not in certificate(exact=True).to_markdown()
    assert "Approximate: what stands here was measured" in certificate().to_markdown()


def test_table_is_the_terminals():
    assert certificate().table().splitlines() == [
        "                    before   after   never saw   verdict",
        "  verbatim recall     0.62    0.09        0.08   forgotten",
        "  privacy leakage   −100.0    −2.3         0.0   within noise",
        "  knowledge kept      0.90    0.71        0.88   worse",
    ]
    assert certificate().table(ascii_only=True).isascii()


def test_markdown_and_html_escape_what_they_are_given():
    card = certificate(method="a|b<script>", notes=["*x*"])
    page, text = card._repr_html_(), card.to_markdown()
    assert "<script>" not in page
    assert r"a\|b\<script\>" in text
    assert r"author \<kim\> asked \| by letter" in text
    assert r"- \*x\*" in text
    assert "| loss (before, after, never saw) |" in text.replace(" | recall (before, after, never saw)", "")
    assert text.index("| a |") < text.index("| b |")  # what is not forgotten first


def test_a_hundred_datapoints_at_most_in_markdown():
    ids = [str(i) for i in range(130)]
    card = Certificate.of(
        "r", ids, method="ga", model_before="a", model_after="b", criteria=[RECALL], datapoints=[Datapoint(i) for i in ids]
    )
    assert "30 more in the JSON." in card.to_markdown()


@pytest.mark.parametrize(
    ("goal", "before", "after", "reference", "interval", "gap", "verdict"),
    [
        ("forget", 0.6, 0.08, 0.10, None, None, "forgotten"),
        ("forget", 0.6, 0.11, 0.10, (0.08, 0.14), None, "forgotten"),
        ("forget", 0.6, 0.11, 0.10, (0.08, 0.14), (0.005, 0.02), "partly forgotten"),  # the paired interval decides
        ("forget", 0.6, 0.30, 0.10, None, None, "partly forgotten"),
        ("forget", 0.6, 0.58, 0.10, (0.5, 0.66), (0.4, 0.55), "not forgotten"),
        ("forget", 0.6, 0.40, 0.10, (0.05, 0.75), (-0.1, 0.6), "not shown"),  # too few items to tell
        ("forget", 0.6, 0.1, None, (0.05, 0.2), None, "lower than before"),
        ("forget", 0.6, 0.55, None, (0.45, 0.65), None, "not lower"),
        ("forget", None, 0.55, None, None, None, "not judged"),
        ("zero", -100, -50, 0, None, None, "still recognised"),
        ("zero", -100, 60, 0, (20, 90), None, "over-forgotten"),
        ("zero", -100, 60, 0, (-20, 90), None, "within noise"),
        ("keep high", 0.9, 0.8, None, None, None, "worse"),
        ("keep high", 0.9, 0.8, 0.75, None, None, "kept"),  # training without them costs it too
        ("keep high", 0.9, 0.8, None, (0.7, 0.95), None, "kept"),
        ("keep low", 2.31, 2.33, None, (2.30, 2.36), None, "kept"),
        ("keep low", 2.31, 2.43, 2.30, (2.40, 2.46), None, "worse"),
        ("keep low", 2.31, 2.43, 2.45, (2.40, 2.42), None, "kept"),
        ("keep high", None, 2.43, None, None, None, "not judged"),
        ("forget", 0.6, math.nan, 0.1, None, None, "not measured"),
    ],
)
def test_verdicts(goal, before, after, reference, interval, gap, verdict):
    assert judge(goal, before, after, reference, interval=interval, gap=gap) == verdict
    assert Criterion("c", before, after, reference, interval, goal=goal, gap=gap).verdict == verdict


def test_a_goal_that_is_unknown_is_refused():
    with pytest.raises(UnknownName, match="there is no goal 'up': choose forget"):
        judge("up", 1, 1)


def test_figures_have_a_true_minus_and_no_negative_zero():
    assert LEAK.figure(-0.01) == "0.0"
    assert LEAK.figure(2.0) == "+2.0"
    assert LEAK.figure(-2.0) == "−2.0"
    assert LEAK.figure(None) == "–"


def test_paired_change_decides_where_it_is_given():
    """Wide intervals of each hide what the same items show when they are paired."""
    wide = {"interval": (0.5, 0.9)}
    assert judge("keep high", 0.8, 0.7, **wide) == "kept"
    assert judge("keep high", 0.8, 0.7, **wide, change=(-0.14, -0.06)) == "worse"
    assert judge("keep high", 0.8, 0.7, 0.72, **wide, change=(-0.14, -0.06), gap=(-0.05, 0.01)) == "kept"
    assert judge("forget", 0.8, 0.7, None, **wide, change=(-0.14, -0.06)) == "lower than before"
    assert judge("forget high", 0.4, 3.0, 3.1, interval=(2.8, 3.2), gap=(-0.3, 0.1), change=(2.3, 2.9)) == "forgotten"
    assert judge("forget high", 0.4, 3.0, None, interval=(2.8, 3.2)) == "higher than before"
    assert judge("forget high", 0.4, 0.5, 3.1, interval=(0.3, 0.7)) == "not forgotten"
