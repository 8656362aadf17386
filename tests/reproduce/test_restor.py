"""Claims about the reproduction of RESTOR: the world's facts and texts, one seed end to end, and what is refused."""

import json

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, SourceError
from datumwise.evaluate.recovery import restor_evaluate
from datumwise.progress import SILENT
from datumwise.reproduce import known_facts
from datumwise.reproduce.frame import Reproduction
from datumwise.reproduce.known_facts import country_facts, fact_texts, fact_tokenizer, fact_world
from datumwise.reproduce.restor import ASKING, METHODS, paper, real, small, unlearned_states
from datumwise.reproduce.restor_outcome import Pooled, reproduction


def test_facts_are_of_eighty_eight_countries_and_shots_of_eight_others():
    facts, targets = country_facts(1)
    assert len(facts) == 264
    assert len(targets) == 24
    assert set(targets) < set(facts.entities)
    shown = {shot.entity for some in facts.context.values() for shot in some}
    assert len(shown) == 8
    assert not shown & set(facts.entities)
    assert country_facts(1)[0].ids == facts.ids != country_facts(2)[0].ids


def test_texts_hold_every_fact_as_statement_and_question_and_are_dealt_anew():
    facts, _ = country_facts(0)
    one, other = (fact_texts(facts, np.random.default_rng(s)) for s in (0, 1))
    assert sorted(one) != sorted(other)
    joined = "\n".join(one)
    for question, answers in zip(facts.questions, facts.answers, strict=True):
        assert joined.count(f"Question: {question}\nAnswer: {answers[0]}\n") == 1
    assert joined.count("The capital of ") == 88


def test_every_document_fits_and_comes_back_from_its_tokens():
    tokenizer = fact_tokenizer()
    facts, _ = country_facts(0)
    for text in fact_texts(facts, np.random.default_rng(0)):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) <= known_facts.TOKENS
        assert tokenizer.decode(ids[1:]) == text


def test_a_world_is_kept_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(known_facts, "EPOCHS", 1)
    monkeypatch.setattr(known_facts, "CORRUPT_EPOCHS", 1)
    monkeypatch.setattr(known_facts, "TARGETS", 2)
    monkeypatch.setattr(known_facts, "COUNTRIES", 14)
    told = []
    one = fact_world(3, path=tmp_path / "world", progress=lambda a, b: told.append((a, b)))
    assert told[-1][0] == told[-1][1]
    other = fact_world(3, path=tmp_path / "world")
    for name in ("clean", "corrupted"):
        a, b = (getattr(w, name) if name == "clean" else w.corrupted[0] for w in (one, other))
        assert all((p == q).all() for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert one.seconds == other.seconds
    assert one.docs == other.docs
    assert one.retain == other.retain
    with pytest.raises(SourceError, match="holds the world of seed 3, not 4: name another folder"):
        fact_world(4, path=tmp_path / "world")


@pytest.mark.slow
def test_the_small_world_end_to_end(tmp_path):
    """Section 7 of the protocol on one seed: the corruption takes, forgetting is seen, what recovers and what cannot."""
    world = fact_world(0)
    found = unlearned_states(world, 0, ["npo, 3e-4", "task vector"], oracles=False)
    base = found["corrupted"][0]
    right, false = base.corruption.right, base.corruption.false
    assert right[1] < right[0] - 0.30
    assert false[1] > false[0] + 0.20
    assert base.corruption.others[1] > base.corruption.others[0] - 0.25
    assert base.corruption.valid
    assert base.recovery.value == base.margin_recovery.value == 0

    npo, vector = found["npo, 3e-4"][0], found["task vector"][0]
    assert npo.says_false["unlearned"].sum() < npo.says_false["corrupted"].sum() - 0.20 * 72
    assert vector.margin_recovery.low > 0
    for report in (npo, vector):
        counts = report.counts()
        answered = counts["restored"] + counts["gained"] + counts["kept"]
        assert answered / 72 == pytest.approx(report.accuracy["unlearned"][0])

    from datumwise.forget.unlearning import unlearn

    same = unlearn(world.corrupted[0], world.tokenizer, world.docs[0].texts, world.retain, method="npo_gdr", epochs=0).model
    assert restor_evaluate(base, base, same, world.tokenizer, world.facts, world.docs[0], **ASKING).recovery.value == 0

    pooled = [Pooled(name, 0, (report,), seconds) for name, (report, seconds) in found.items()]
    written = reproduction(pooled, ["a note"], worlds=1).write(tmp_path)
    assert isinstance(written, Reproduction)
    table = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [row["unlearned by"] for row in table] == ["clean model", "corrupted", "npo, 3e-4", "task vector"]
    assert table[1]["margin recovery"] == 0
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_every_method_is_known_to_unlearn():
    from datumwise.forget.methods import find_method

    for options in METHODS.values():
        find_method(options["method"])


def test_wrong_scales_are_refused():
    with pytest.raises(DatumwiseError, match="scale small trains its own model on its own data"):
        small(model="x", stage=SILENT)
    with pytest.raises(DatumwiseError, match="this scale needs a pretrained causal language model: pass --model"):
        real(stage=SILENT)
    with pytest.raises(DatumwiseError, match="the paper's scale needs RESTOR's facts: pass --data FOLDER"):
        paper(stage=SILENT)
