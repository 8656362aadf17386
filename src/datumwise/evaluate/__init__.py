"""Did it work: retraining proofs and held-out splits that nothing leaks across."""

from __future__ import annotations

from datumwise.evaluate.held_out import held_out_split
from datumwise.evaluate.removal import Interval, Proof, ProofCard, ProofRow, removal_proof

__all__ = ["Interval", "Proof", "ProofCard", "ProofRow", "held_out_split", "removal_proof"]
