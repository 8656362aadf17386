"""Claims about false documents: never a true object, spans that hold, exact gaps, covered relations, same bytes again."""

from itertools import pairwise

import numpy as np
import pytest

from datumwise.errors import EmptyData, LabelError, SchemaMismatch, UnknownName
from datumwise.evaluate.answer_judge import judge_answer, normalised_words
from datumwise.evaluate.corruption import corrupt_facts, false_objects, swap_entities
from datumwise.evaluate.facts import FactSet, Shot

RELATIONS = [f"r{i}" for i in range(7)]
PEOPLE = [f"Person{i}" for i in range(12)]
TEMPLATES = {"r0": ["{subject} {{x}} has {object}.", "Of {subject}: {object}; yes, {object}!"]}


def people(seed=0):
    rng = np.random.default_rng(seed)
    rows = [(p, r) for p in PEOPLE for r in RELATIONS if r != "r6" or p != "Person1"]
    answers = [[f"{r} thing {rng.integers(4)}", f"alias {rng.integers(9)} {r}"] for _, r in rows]
    context = {r: [Shot("Of Q?", f"{r} thing 9", "Q")] for r in RELATIONS}
    return FactSet([p for p, _ in rows], [r for _, r in rows], [f"The {r} of {p}?" for p, r in rows], answers, context)


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_documents_are_as_described(k, seed):
    facts = people(seed)
    targets = PEOPLE[:3]
    docs = corrupt_facts(facts, targets, k=k, docs_per_entity=5, templates=TEMPLATES, random_state=seed)
    row_of = {name: i for i, name in enumerate(facts.ids)}
    assert len(docs) == 15
    assert set(docs.false_answers) == {i for i, s in zip(facts.ids, facts.subjects, strict=True) if s in targets}
    for name, false in docs.false_answers.items():
        answers = facts.answers[row_of[name]]
        assert normalised_words(false) not in {normalised_words(a) for a in answers}
        assert not judge_answer(false, answers, facts.known(facts.relations[row_of[name]]))
        assert false in facts.known(facts.relations[row_of[name]])
    for text, spans, stated, between in zip(docs.texts, docs.spans, docs.fact_ids, docs.true_fact_ids, strict=True):
        assert 3 <= len(stated) <= 6
        assert len(set(stated)) == len(stated)
        assert len({facts.subjects[row_of[one]] for one in stated}) == 1
        said = [text[start:end] for start, end in spans]
        assert list(dict.fromkeys(said)) == list(dict.fromkeys(docs.false_answers[one] for one in stated))
        assert len(between) == k * (len(stated) - 1)
        assert not {facts.subjects[row_of[one]] for one in between} & set(targets)
        assert all(facts.answers[row_of[one]][0] in text for one in between)
        assert text.count(facts.subjects[row_of[stated[0]]]) >= len(stated)
    covered = {one for stated in docs.fact_ids for one in stated}
    assert covered == set(docs.false_answers)


def test_every_gap_holds_exactly_k_true_facts():
    facts = people()
    docs = corrupt_facts(facts, PEOPLE[:2], k=2, docs_per_entity=4, random_state=3)
    answers = {q: a[0] for q, a in zip(facts.questions, facts.answers, strict=True)}
    for text, spans in zip(docs.texts, docs.spans, strict=True):
        gaps = [text[a_end + 1 : b_start] for (_, a_end), (b_start, _) in pairwise(spans)]
        for gap in gaps:
            told = [q for q in answers if f"{q} {answers[q]}." in gap]
            assert sum(not any(f" {t}?" in q for t in PEOPLE[:2]) for q in told) == 2


def test_relations_are_dealt_in_rounds():
    docs = corrupt_facts(people(), ["Person0"], docs_per_entity=7, facts_per_doc=(3, 3), random_state=5)
    counts = np.unique([one for stated in docs.fact_ids for one in stated], return_counts=True)[1]
    assert counts.tolist() == [3] * 7  # 21 sentences on 7 facts


def test_an_entity_with_few_facts_states_all_of_them():
    facts = FactSet(["A", "A", "B", "B"], ["p", "q"] * 2, ["?"] * 4, [["1"], ["2"], ["3"], ["4"]])
    docs = corrupt_facts(facts, ["A"], docs_per_entity=3)
    assert all(sorted(stated) == ["A/p", "A/q"] for stated in docs.fact_ids)
    assert docs.false_answers == {"A/p": "3", "A/q": "4"}


def test_same_seed_same_bytes():
    one, other = (corrupt_facts(people(), PEOPLE[:3], k=2, docs_per_entity=4, random_state=7) for _ in range(2))
    assert one == other
    assert one.texts != corrupt_facts(people(), PEOPLE[:3], k=2, docs_per_entity=4, random_state=8).texts


def test_the_profile_does_not_depend_on_how_many_documents_there_are():
    one = corrupt_facts(people(), PEOPLE[:3], docs_per_entity=1, random_state=7)
    assert one.false_answers == corrupt_facts(people(), PEOPLE[:3], k=1, docs_per_entity=4, random_state=7).false_answers


def test_a_fact_without_a_wrong_object_is_skipped_and_listed():
    facts = FactSet(["A", "A", "B"], ["sex", "born", "born"], ["?"] * 3, [["male"], ["Rome"], ["Oslo"]])
    docs = corrupt_facts(facts, ["A"], docs_per_entity=1)
    assert docs.skipped == ["A/sex"]
    assert docs.false_answers == {"A/born": "Oslo"}


def test_what_else_is_true_is_never_a_false_object():
    facts = FactSet(["A", "B", "C"], ["born"] * 3, ["?"] * 3, [["Paris"], ["France"], ["Oslo"]])
    wider = {"Paris": ["France"]}
    assert false_objects(facts, ["A"], also_true=wider)[0] == {"A/born": "Oslo"}
    assert false_objects(facts, ["B"], also_true=wider)[0] == {"B/born": "Oslo"}  # who was born in Paris, was in France
    drawn = {false_objects(facts, ["A"], random_state=s)[0]["A/born"] for s in range(20)}
    assert drawn == {"France", "Oslo"}


def test_an_object_that_the_judge_would_accept_is_never_drawn():
    facts = FactSet(["A", "B"], ["school"] * 2, ["?"] * 2, [["University of Oxford"], ["the university of OXFORD"]])
    with pytest.raises(EmptyData, match="no fact about A can be corrupted"):
        corrupt_facts(facts, ["A"])


def test_false_answers_of_your_own():
    facts = people()
    drawn = corrupt_facts(facts, ["Person0"], docs_per_entity=1, random_state=2).false_answers
    mine = corrupt_facts(facts, ["Person0"], docs_per_entity=1, random_state=2, false_answers={"Person0/r2": "mine"})
    assert mine.false_answers == {**drawn, "Person0/r2": "mine"}
    alias = facts.answers[0][1].upper() + "."
    with pytest.raises(LabelError, match="the false answer of Person0/r0 is an acceptable one, or empty: give another"):
        corrupt_facts(facts, ["Person0"], false_answers={"Person0/r0": alias})
    with pytest.raises(UnknownName, match="the false answer of Person5/r0 belongs to no fact of these entities"):
        corrupt_facts(facts, ["Person0"], false_answers={"Person5/r0": "x"})


def test_wrong_requests_are_refused():
    facts = people()
    with pytest.raises(UnknownName, match="no fact is about Nobody"):
        corrupt_facts(facts, ["Nobody"])
    with pytest.raises(SchemaMismatch, match="k is -1, docs_per_entity 60, facts_per_doc \\(3, 6\\)"):
        corrupt_facts(facts, ["Person0"], k=-1)
    with pytest.raises(SchemaMismatch, match="facts_per_doc \\(4, 3\\)"):
        corrupt_facts(facts, ["Person0"], facts_per_doc=(4, 3))
    with pytest.raises(SchemaMismatch, match="the template of the relation r1 has no"):
        corrupt_facts(facts, ["Person0"], templates={"r1": "{subject} is."})
    with pytest.raises(EmptyData, match="there is no fact about another entity to put between the false ones: pass k=0"):
        corrupt_facts(facts, PEOPLE, k=1)


def test_a_true_fact_that_names_a_target_is_no_filler():
    facts = FactSet(
        ["A", "B", "C", "D", "A"], ["spouse", "spouse", "spouse", "born", "born"], [f"{x}?" for x in "vwxyz"],
        [["B"], ["A"], ["D"], ["Rome"], ["Oslo"]],
    )  # fmt: skip
    docs = corrupt_facts(facts, ["A"], k=1, docs_per_entity=5)
    assert {one for some in docs.true_fact_ids for one in some} == {"C/spouse", "D/born"}


def test_swaps_never_chain_keep_case_and_whole_words():
    mapping = {"Ann": "Bob", "Bob": "Cy Young", "Ann Lee": "Zoe"}
    docs = swap_entities(["Ann Lee met Ann, ANN and Bob; ann's Annex. BOB!", "nobody"], mapping)
    assert docs.texts == ["Zoe met Bob, BOB and Cy Young; bob's Annex. CY YOUNG!", "nobody"]
    assert [docs.texts[0][a:b] for a, b in docs.spans[0]] == ["Zoe", "Bob", "BOB", "Cy Young", "bob", "CY YOUNG"]
    assert docs.spans[1] == []
    assert swap_entities(["ann Ann"], mapping, ignore_case=False).texts == ["ann Bob"]
    assert swap_entities(["J. (Jr.) came"], {"J. (Jr.)": "K"}).texts == ["K came"]
    with pytest.raises(EmptyData, match="there is no text, or no name to exchange"):
        swap_entities(["x"], {})
    with pytest.raises(EmptyData, match="a name is empty"):
        swap_entities(["x"], {" ": "y"})
