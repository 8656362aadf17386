"""The sentence says what was measured: a gain, nothing, harm, or that nothing could be proved."""

from datumwise.evaluate.removal import Interval, Proof, ProofCard
from datumwise.report.verdict import verdict


def _proof(gain, tag, metric="accuracy"):
    card = ProofCard("nearest neighbour", True, (), Interval(*gain), Interval(*gain), tag, 0.01, 20)
    return Proof(metric, 500, 78, (card,))


def test_gain_null_and_harm_are_said_in_the_same_place():
    gain = verdict(1321, 139, _proof((0.04, 0.025, 0.058), "gain shown"))
    assert gain[0] == "139 of 1,321 datapoints deserve a look. Removing 78 lifts held-out accuracy by 4.0 points."
    assert gain[1].startswith("95% interval +2.5 to +5.8, on 500 held-out datapoints")
    null = verdict(1321, 139, _proof((0.003, -0.008, 0.014), "no gain shown"))
    assert null[0].endswith("changes nothing that 500 held-out datapoints could show (+0.3 points, −0.8 to +1.4).")
    harm = verdict(1321, 139, _proof((-0.02, -0.03, -0.01), "harm shown"))
    assert harm[0].endswith("Removing 78 lowers held-out accuracy by 2.0 points.")


def test_no_proof_says_why_and_no_finding_says_so():
    why = "there are no labels, so nothing can be retrained"
    assert verdict(10, 0, Proof("accuracy", 0, 0, (), why)) == ("None of 10 datapoints stands out.", why)
    assert verdict(10, 1, Proof("accuracy", 0, 0, (), why))[0] == "1 of 10 datapoints deserves a look."


def test_r_squared_is_not_called_points():
    assert verdict(9, 3, _proof((0.04, 0.02, 0.06), "gain shown", "R²"))[0].endswith("lifts held-out R² by 0.040.")
