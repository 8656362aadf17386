"""What an audit found, as plain frozen data: the terminal, the page, the notebook and ``--json`` all read this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from datumwise.evaluate.batch_coverage import Promise, PromiseRow
from datumwise.evaluate.forget_test import ForgetRow, ForgetTest
from datumwise.evaluate.removal import Interval, Proof, ProofCard, ProofRow

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = [
    "Audit",
    "Chosen",
    "Evidence",
    "Finding",
    "ForgetRow",
    "ForgetTest",
    "Interval",
    "MapData",
    "Pass",
    "Planted",
    "Promise",
    "PromiseRow",
    "Promised",
    "Proof",
    "ProofCard",
    "ProofRow",
    "Requested",
    "ScoreColumn",
]


@dataclass(frozen=True)
class Planted:
    """How a kind of finding did on faults that were planted and recorded."""

    planted: int
    right: int  # planted and found
    found: int

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        return self.right / self.planted if self.planted else float("nan")


@dataclass(frozen=True)
class Finding:
    """One kind of finding: how many, by what rule, and where it comes from."""

    key: str  # "label_error", "near_duplicate", "outlier", "hard", "memorised"
    title: str  # "label errors"
    bit: int  # its bit in MapData.flags
    count: int
    removed: int  # how many of them the cleaned set leaves out (0: kept on purpose)
    score: str  # the ledger column it is ranked by
    threshold: float  # in units of that column; NaN where the rule is not a threshold
    rule: str  # the threshold in words
    method: str
    reads: str  # signals
    source: str
    detail: str = ""  # "24 groups", "kept"
    planted: Planted | None = None


@dataclass(frozen=True)
class Evidence:
    """Why one datapoint is listed. ``row`` indexes MapData and the picture and text look-ups."""

    row: int
    id: str
    kinds: tuple[str, ...]  # keys of Finding, most serious first
    given: str | None
    suggested: str | None
    sentence: str
    neighbours: tuple[int, ...]  # rows, nearest first
    p_given: float  # probability of the given label, out of fold; NaN without labels
    suspicion: float  # for the order "most suspicious first"


@dataclass(frozen=True)
class Pass:
    """A stage of the audit as it ran."""

    stage: str  # "ingest", "probe", "score", "prove"
    what: str
    seconds: float


@dataclass(frozen=True)
class MapData:
    """Every datapoint of the audit, for the map and the histogram.

    ``ids`` (n,) str, ``xy`` (n, 2) float32, ``flags`` (n,) uint8 bit set of findings, ``labels`` (n,) int codes into
    ``classes`` (-1: none), ``scores`` name -> (n,) float32 with NaN for "not computed".
    """

    ids: np.ndarray
    xy: np.ndarray
    flags: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    scores: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ScoreColumn:
    """A score on the ledger, and how its values are spread."""

    name: str
    method: str
    higher: str  # what a higher value says
    source: str
    computed: int  # datapoints that have one
    low: float
    median: float
    high: float
    counts: tuple[int, ...]  # in bins of equal width from low to high


@dataclass(frozen=True)
class Chosen:
    """A selection on the ledger."""

    name: str
    method: str
    options: str
    source: str
    n: int  # chosen
    of: int  # datapoints there were
    gains: tuple[float, ...]  # objective along the picks; empty where none was kept
    classes: tuple[tuple[str, int, int], ...]  # class, chosen of it, there were; empty without classes
    sentence: str = ""  # how it did against random subsets of its size, where that was measured


@dataclass(frozen=True)
class Promised:
    """What was promised about a batch of datapoints, and stands on the ledger."""

    name: str  # prefix of its columns
    learner: str
    batch: int  # datapoints
    calibrated: int
    statements: tuple[str, ...]
    measured: str = ""  # what became of it, where the batch has labels


@dataclass(frozen=True)
class Requested:
    """Datapoints that a model was made to forget."""

    name: str  # prefix of the columns
    n: int  # datapoints
    digest: str  # SHA-256 of their sorted ids
    version: int  # ledger version that the ids were read from
    method: str
    exact: bool  # trained anew without them
    created: str  # ISO time
    certificate: str  # file
    criteria: tuple[tuple[str, str, str, str, str], ...]  # criterion, before, after, never saw them, verdict


@dataclass(frozen=True, repr=False)
class Audit:
    """Everything an audit found. Prints as a summary, in a notebook too; ``.to_html(path)`` writes the page."""

    name: str
    kind: str  # "images", "text", "table"
    n: int
    version: int  # ledger version
    ledger: Path
    created: str  # ISO time
    seconds: float
    cores: int
    command: str  # the exact command that makes this again
    verdict: str  # the one sentence, same words everywhere
    support: str  # the sentence below it
    proof: Proof
    findings: tuple[Finding, ...]
    evidence: tuple[Evidence, ...]
    passes: tuple[Pass, ...]
    map: MapData
    limits: tuple[str, ...]  # a sentence for each limit of this run
    versions: Mapping[str, str]  # package -> version
    refused: Mapping[str, str] = field(default_factory=dict)  # id -> why it could not be read
    picture: Callable[[int], Image | None] | None = None  # row -> picture as given
    text: Callable[[int], str | None] | None = None  # row -> full text
    cells: Callable[[int], list[tuple[str, str, float]]] | None = None  # row -> (column, value, unusualness), worst first
    promise: Promise | None = None  # None without labels, and where too few are held out
    forget: ForgetTest | None = None  # None without labels, and where nothing is to be removed
    scores: tuple[ScoreColumn, ...] = ()  # every score on the ledger
    chosen: tuple[Chosen, ...] = ()  # every selection on the ledger, the latest first
    promised: tuple[Promised, ...] = ()  # every promise about a batch of its datapoints, the latest first
    requests: tuple[Requested, ...] = ()  # every removal from a model that was asked for, the latest first

    def to_html(self, path: str | Path) -> Path:
        """Write the self-contained page; returns its path."""
        from datumwise.report.page import write_page

        return write_page(self, path)

    def __repr__(self) -> str:
        from datumwise.report.notebook import audit_text

        return audit_text(self)

    def _repr_html_(self) -> str:
        from datumwise.report.notebook import audit_html

        return audit_html(self)
