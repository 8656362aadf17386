"""Claims about the judge: sixty outputs labelled by hand, every trap with both names known, and its invariances."""

import numpy as np
import pytest

from datumwise.errors import UnknownName
from datumwise.evaluate.answer_judge import find_answer, judge_answer, judge_by_name, normalised_words

CITIES = ["Paris", "London", "Lyon", "New York", "York", "São Paulo", "St. John's", "Washington, D.C.", "The Hague", "Berlin"]
LANDS = [
    "Niger", "Nigeria", "Guinea", "Equatorial Guinea", "Guinea-Bissau", "Papua New Guinea",
    "Republic of the Congo", "Democratic Republic of the Congo", "Ireland", "Northern Ireland", "Sudan", "South Sudan",
]  # fmt: skip
SCHOOLS = ["University of Oxford", "University of Cambridge", "Yale University"]
JOBS = ["actor", "voice actor", "politician", "lawyer", "writer", "screenwriter"]
SEXES = ["male", "female"]
NUMBERS = ["1250", "12", "3.5", "35", "-5", "5", "1990"]

# output, acceptable answers, known objects, verdict; labelled by hand
PAIRS = [
    ("Paris", ["Paris"], CITIES, True),
    (" paris. ", ["Paris"], CITIES, True),
    ("PARIS!", ["Paris"], CITIES, True),
    ("The capital is Paris.", ["Paris"], CITIES, True),
    ("London", ["Paris"], CITIES, False),
    ("", ["Paris"], CITIES, False),
    ("   ", ["Paris"], CITIES, False),
    ("...", ["Paris"], CITIES, False),
    ("Paris or London", ["Paris"], CITIES, True),
    ("Paris or London", ["London"], CITIES, False),
    ("not Paris", ["Paris"], CITIES, False),
    ("It is not Paris", ["Paris"], CITIES, False),
    ("It isn't Paris", ["Paris"], CITIES, False),
    ("It isn’t Paris", ["Paris"], CITIES, False),
    ("never Paris", ["Paris"], CITIES, False),
    ("neither Paris nor London", ["Paris"], CITIES, False),
    ("neither Paris nor London", ["London"], CITIES, False),
    ("London, not Paris", ["London"], CITIES, True),
    ("London, not Paris", ["Paris"], CITIES, False),
    ("not London but Paris", ["Paris"], CITIES, True),
    ("not London but Paris", ["London"], CITIES, False),
    ("not Bremen but Paris", ["Paris"], CITIES, True),  # Bremen is known to nobody
    ("not London, Paris", ["Paris"], CITIES, True),  # counted back to the candidate before only
    ("there is no doubt that it must be Paris", ["Paris"], CITIES, True),  # too far away to deny it
    ("New York", ["York"], CITIES, False),
    ("New York", ["New York"], CITIES, True),
    ("York", ["New York"], CITIES, False),
    ("York", ["York"], CITIES, True),
    ("Sao Paulo", ["São Paulo"], CITIES, True),
    ("SÃO PAULO", ["São Paulo"], CITIES, True),
    ("St Johns", ["St. John's"], CITIES, True),
    ("Washington DC", ["Washington, D.C."], CITIES, True),
    ("Hague", ["The Hague"], CITIES, True),
    ("the hague", ["The Hague"], CITIES, True),
    ("Parisian", ["Paris"], CITIES, False),
    ("Niger", ["Nigeria"], LANDS, False),
    ("Nigeria", ["Niger"], LANDS, False),
    ("Niger", ["Niger"], LANDS, True),
    ("Equatorial Guinea", ["Guinea"], LANDS, False),
    ("Guinea-Bissau", ["Guinea"], LANDS, False),
    ("Guinea Bissau", ["Guinea-Bissau"], LANDS, True),
    ("Guinea", ["Equatorial Guinea"], LANDS, False),
    ("Papua New Guinea", ["Guinea"], LANDS, False),
    ("Democratic Republic of the Congo", ["Republic of the Congo"], LANDS, False),
    ("the Republic of the Congo", ["Democratic Republic of the Congo"], LANDS, False),
    ("Republic of Congo", ["Republic of the Congo"], LANDS, True),
    ("Congo", ["Republic of the Congo"], LANDS, False),  # either
    ("Northern Ireland", ["Ireland"], LANDS, False),
    ("South Sudan", ["Sudan"], LANDS, False),
    ("University of Cambridge", ["University of Oxford"], SCHOOLS, False),
    ("Oxford University", ["University of Oxford"], SCHOOLS, True),
    ("Oxford University", ["University of Oxford"], [*SCHOOLS, "Oxford Brookes University"], False),  # either, by its words
    ("University", ["University of Oxford"], SCHOOLS, False),
    ("female", ["male"], SEXES, False),
    ("male", ["female"], SEXES, False),
    ("She is female.", ["female"], SEXES, True),
    ("voice actor", ["actor"], JOBS, False),
    ("politician and lawyer", ["lawyer", "politician"], JOBS, True),
    ("screenwriter", ["writer"], JOBS, False),
    ("1,250", ["1250"], NUMBERS, True),
    ("3.5", ["35"], NUMBERS, False),
    ("-5", ["5"], NUMBERS, False),
    ("about 12.", ["12"], NUMBERS, True),
    ("in 1990, I think", ["1990"], NUMBERS, True),
]


def test_there_are_sixty_pairs_of_both_kinds():
    assert len(PAIRS) >= 60
    assert 20 < sum(verdict for *_, verdict in PAIRS) < 40


@pytest.mark.parametrize(("output", "answers", "known", "verdict"), PAIRS)
def test_hand_labelled_pairs(output, answers, known, verdict):
    assert judge_answer(output, answers, known) is verdict


@pytest.mark.parametrize(("output", "answers", "known", "verdict"), PAIRS)
def test_the_verdict_depends_on_no_order(output, answers, known, verdict):
    rng = np.random.default_rng(len(output))
    for _ in range(3):
        shuffled = [known[i] for i in rng.permutation(len(known))]
        assert judge_answer(output, answers[::-1], shuffled) is verdict


def test_one_output_never_counts_for_two_objects():
    for output, _, known, _ in PAIRS:
        assert sum(judge_answer(output, [one], known) for one in known) <= 1


@pytest.mark.parametrize("known", [CITIES, LANDS, SCHOOLS, JOBS, SEXES, NUMBERS])
def test_every_known_object_is_itself_and_nothing_else(known):
    for one in known:
        for other in known:
            assert judge_answer(one, [other], known) is (one == other)
            assert judge_answer(f"I say {one.upper()}.", [other], known) is (one == other)


def test_similar_words_count_from_six_tenths_without_a_tie():
    assert find_answer("University Oxford", SCHOOLS[:2]).how == "similar"
    assert find_answer("x University of", SCHOOLS[:2]) == find_answer("x University of", SCHOOLS[1::-1])
    assert find_answer("x University of", SCHOOLS[:2]).answer is None  # both have 2/3
    assert find_answer("a b c red", ["red green"]).score == pytest.approx(0.4)  # "a" is an article: b, c, red
    exact = find_answer("one two three x y", ["one two three p q"])  # 2 * 3 / 10
    assert exact.score == pytest.approx(0.6)
    assert exact.answer is not None
    assert find_answer("one two three x y z", ["one two three p q"]).answer is None  # 6 / 11


def test_a_denied_output_is_never_taken_by_its_words():
    assert find_answer("not Paris", ["Paris"]).how == "denied"
    assert find_answer("not the University Oxford", SCHOOLS).answer is None


def test_the_longest_name_wins_wherever_it_begins():
    assert find_answer("a b c d", ["b c", "b c d", "c d"]).answer == "b c d"
    assert find_answer("x y z", ["x y", "y z"]).answer == "x y"  # as long: the earlier


def test_words_are_normalised_as_documented():
    assert normalised_words("Ｆｕｌｌ ｗｉｄｔｈ") == ("full", "width")
    assert normalised_words("Straße") == normalised_words("STRASSE")
    assert normalised_words("Øresund, Łódź") == ("oresund", "lodz")
    assert normalised_words("1990-1995") == ("1990", "1995")
    assert normalised_words("an apple a day") == ("apple", "day")
    assert normalised_words("A") == ("a",)
    assert normalised_words("北京") == ("北京",)


def test_judges_go_by_name_or_are_your_own():
    def strict(question, output, answers):
        return output in answers

    assert judge_by_name("normalized") == ("normalized", None)
    assert judge_by_name(strict)[1] is strict
    with pytest.raises(UnknownName, match="there is no judge 'gpt': choose 'normalized', or pass judge"):
        judge_by_name("gpt")
