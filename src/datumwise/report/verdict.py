"""The one sentence a manager can repeat, and the sentence below it: the same words in terminal, page and notebook."""

from __future__ import annotations

import math

from datumwise.evaluate.removal import Interval, Proof, ProofCard

__all__ = ["change", "signed", "verdict"]

MINUS = "\N{MINUS SIGN}"


def signed(value: float, metric: str) -> str:
    """A difference with its sign and a true minus: points of accuracy with one decimal, R² with three; zero has no sign.

    Examples
    --------
    >>> signed(0.04, "accuracy"), signed(-0.008, "accuracy"), signed(-0.0001, "accuracy"), signed(-0.031, "R²")
    ('+4.0', '\N{MINUS SIGN}0.8', '0.0', '\N{MINUS SIGN}0.031')
    """
    if not math.isfinite(value):
        return "not known"
    text = f"{100 * value:+.1f}" if metric == "accuracy" else f"{value:+.3f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("+-")


def change(difference: Interval, metric: str) -> str:
    """A difference with its interval in brackets.

    Examples
    --------
    >>> change(Interval(0.04, 0.025, 0.058), "accuracy")
    '+4.0 points [+2.5, +5.8]'
    """
    unit = " points" if metric == "accuracy" else ""
    low, high = signed(difference.low, metric), signed(difference.high, metric)
    return f"{signed(difference.value, metric)}{unit} [{low}, {high}]"


def verdict(n: int, flagged: int, proof: Proof) -> tuple[str, str]:
    """Headline and support of an audit.

    Parameters
    ----------
    n, flagged : int
        Datapoints audited, and how many carry at least one finding.
    proof : Proof

    Returns
    -------
    headline, support : str
    """
    look = (
        f"{flagged:,} of {n:,} datapoints deserve{'s' if flagged == 1 else ''} a look."
        if flagged
        else f"None of {n:,} datapoints stands out."
    )
    card = proof.primary
    if card is None:
        return look, proof.why_none
    return f"{look} {_effect(proof, card)}", _support(proof, card)


def _effect(proof: Proof, card: ProofCard) -> str:
    gain, metric = card.cleaned_minus_random, proof.metric
    size = f"{abs(100 * gain.value):.1f} points" if metric == "accuracy" else f"{abs(gain.value):.3f}"
    removing = f"Removing {proof.removed:,}"
    if card.verdict == "gain shown":
        return f"{removing} lifts held-out {metric} by {size}."
    if card.verdict == "harm shown":
        return f"{removing} lowers held-out {metric} by {size}."
    unit = " points" if metric == "accuracy" else ""
    return (
        f"{removing} changes nothing that {proof.held_out:,} held-out datapoints could show "
        f"({signed(gain.value, metric)}{unit}, {signed(gain.low, metric)} to {signed(gain.high, metric)})."
    )


def _support(proof: Proof, card: ProofCard) -> str:
    gain, metric = card.cleaned_minus_random, proof.metric
    first = (
        f"95% interval {signed(gain.low, metric)} to {signed(gain.high, metric)}, on {proof.held_out:,} held-out datapoints "
        f"never used for scoring, against random sets of the same size, with {card.learner}, named before the run."
    )
    others = [
        f"With {other.learner}: {change(other.cleaned_minus_random, metric)}, {other.verdict}."
        for other in proof.cards
        if not other.primary
    ]
    return " ".join([first, *others])
