"""Terminals and pipes to print on, and an audit with the figures of the specification's example."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from datumwise.cli.terminal import Surface, surface
from datumwise.report.result import (
    Audit,
    Evidence,
    Finding,
    Interval,
    MapData,
    Pass,
    Planted,
    Proof,
    ProofCard,
    ProofRow,
)

UTF8 = {"LANG": "en_GB.UTF-8", "TERM": "xterm"}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return True


class Pipe(Terminal):
    def isatty(self) -> bool:
        return False


def terminal(width: int, monkeypatch: object = None, **environ: str) -> Surface:
    to = surface(Terminal(), {**UTF8, **environ})
    return Surface(to.stream, to.live, to.colour, to.utf8, width)


def pipe(**environ: str) -> Surface:
    return surface(Pipe(), {**UTF8, **environ})


def example_audit(ledger: Path = Path("digits-demo.ledger"), **changes: object) -> Audit:
    """The first example of the specification: 1,321 digits."""

    def interval(value: float, low: float, high: float) -> Interval:
        return Interval(value, low, high)

    nearest = ProofCard(
        learner="1-NN",
        primary=True,
        rows=(
            ProofRow("all", 1321, interval(0.930, 0.906, 0.952)),
            ProofRow("random", 1243, interval(0.930, 0.907, 0.951)),
            ProofRow("cleaned", 1243, interval(0.970, 0.956, 0.984)),
        ),
        cleaned_minus_random=interval(0.040, 0.025, 0.058),
        cleaned_minus_all=interval(0.040, 0.025, 0.058),
        verdict="gain shown",
        smallest_gain=0.016,
        seeds=20,
    )
    linear = ProofCard(
        learner="logistic regression",
        primary=False,
        rows=nearest.rows,
        cleaned_minus_random=interval(0.003, -0.008, 0.014),
        cleaned_minus_all=interval(0.003, -0.008, 0.014),
        verdict="no gain shown",
        smallest_gain=0.011,
        seeds=20,
    )

    def finding(key: str, bit: int, count: int, removed: int, detail: str, planted: Planted | None) -> Finding:
        return Finding(key, key, bit, count, removed, key, 0.5, "rule", "method", "probs", "source", detail, planted)

    def evidence(row: int, id: str, kind: str, sentence: str) -> Evidence:
        return Evidence(row, id, (kind,), "1", "8", sentence, (0, 1), 0.01, 1.0 - row / 10)

    facts = {
        "name": "demo",
        "kind": "images",
        "n": 1321,
        "version": 7,
        "ledger": ledger,
        "created": "2026-11-22T12:00:00+00:00",
        "seconds": 24.8,
        "cores": 2,
        "command": "datumwise audit",
        "verdict": "139 of 1,321 datapoints deserve a look. Removing 78 lifts held-out accuracy by 4.0 points.",
        "support": "95% interval +2.5 to +5.8.",
        "proof": Proof("accuracy", 500, 78, (nearest, linear)),
        "findings": (
            finding("label_error", 1, 49, 49, "", Planted(64, 46, 49)),
            finding("near_duplicate", 2, 48, 24, "24 groups", Planted(24, 24, 48)),
            finding("outlier", 4, 7, 7, "", Planted(12, 7, 7)),
            finding("hard", 8, 37, 0, "kept", None),
            finding("poisoned", 16, 0, 0, "", Planted(0, 0, 0)),
        ),
        "evidence": (
            evidence(0, "0270", "label_error", "given 1, looks like 8 (0.99)"),
            evidence(1, "1297", "near_duplicate", "copy of 0114"),
            evidence(2, "0645", "outlier", "10-neighbour distance 1.9"),
            evidence(3, "0557", "hard", "given 3, EL2N 1.21"),
        ),
        "passes": (
            Pass("ingest", "1,321 rows -> digits-demo.ledger", 0.4),
            Pass("probe", "probabilities (5 folds), embedding (32)", 6.1),
        ),
        "map": MapData(
            ids=np.array(["0270", "1297", "0645", "0557"]),
            xy=np.zeros((4, 2), np.float32),
            flags=np.zeros(4, np.uint8),
            labels=np.zeros(4, np.int64),
            classes=tuple(map(str, range(10))),
            scores={},
        ),
        "limits": (),
        "versions": {"datumwise": "0.1.0"},
    }
    return Audit(**(facts | changes))
