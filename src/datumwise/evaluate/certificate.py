"""What was asked to be forgotten, what was done, what was measured, what it cost and what was not tested: one record.

It reports measurements and says so; that a method is exact is a property of the method and stands in a word of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from datumwise._version import __version__
from datumwise.errors import DuplicateId, EmptyData, SchemaMismatch, SourceError, name_some
from datumwise.evaluate.certificate_text import as_html, as_markdown, as_table
from datumwise.evaluate.criterion import Criterion, Datapoint, finite

__all__ = ["Certificate", "Criterion", "Datapoint", "ids_sha256"]

FORMAT = 1  # of the JSON
LIBRARIES = ("torch", "transformers", "peft", "numpy")
NOT_EXACT = "Approximate: what stands here was measured on these datapoints; it is no proof that no trace is left."
EXACT = "Exact: the model is the one that training without these datapoints gives."


@dataclass(frozen=True)
class Certificate:
    """The record of one removal from one model. Make it with `Certificate.of`.

    Attributes
    ----------
    request : str
        What was asked, in the asker's words.
    ids : tuple of str
        The datapoints; may be left out of what is written, where ids are personal data themselves.
    n_ids : int
    ids_sha256 : str
        Of the sorted ids, one a line: whoever holds the list can check that it is this one.
    ledger : str
        Name, empty where the datapoints were given by hand.
    ledger_version : int or None
    method : str
    options : mapping
        All that it was run with.
    exact : bool
        Whether the method gives the very model that training without the datapoints gives.
    model_before, model_after, model_reference : str
        Fingerprints (`datumwise.probe.fingerprint.model_fingerprint`); the reference is a model that never saw the
        datapoints, empty where there was none.
    criteria : tuple of Criterion
    attacks : tuple of Criterion
        The same measured again under attack: relearning, rounded weights, other prompts.
    datapoints : tuple of Datapoint
    traded : tuple of str
        What it cost: one sentence each.
    not_tested : tuple of str
        What might have been measured and was not: one phrase each.
    notes : tuple of str
        Anything else that a reader must know: fallbacks used, items left out.
    data : str
        Where the bytes of the datapoints still are, or that they were purged.
    seconds : float or None
        Of the removal.
    created : str
        ISO 8601, UTC.
    versions : mapping of str to str
        Of this package, Python and the libraries used.
    """

    request: str
    ids: tuple[str, ...]
    n_ids: int
    ids_sha256: str
    method: str
    exact: bool
    model_before: str
    model_after: str
    model_reference: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    criteria: tuple[Criterion, ...] = ()
    attacks: tuple[Criterion, ...] = ()
    datapoints: tuple[Datapoint, ...] = ()
    traded: tuple[str, ...] = ()
    not_tested: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ledger: str = ""
    ledger_version: int | None = None
    data: str = ""
    seconds: float | None = None
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        request: str,
        ids: Iterable[Any],
        *,
        method: str,
        model_before: Any,
        model_after: Any,
        model_reference: Any = None,
        exact: bool = False,
        options: Mapping[str, Any] | None = None,
        criteria: Sequence[Criterion] = (),
        attacks: Sequence[Criterion] = (),
        datapoints: Sequence[Datapoint] = (),
        not_tested: Sequence[str] = (),
        notes: Sequence[str] = (),
        ledger: str = "",
        ledger_version: int | None = None,
        data: str = "",
        seconds: float | None = None,
    ) -> Certificate:
        """A certificate of now: the digest, what was traded and what was not tested are worked out here.

        Parameters
        ----------
        ids : iterable
            Unique, at least one.
        model_before, model_after, model_reference : model or str
            A str is a fingerprint already.
        options : mapping, optional
            Values that JSON does not know are written as their ``repr``.
        not_tested : sequence of str
            Beside what the criteria themselves show to be missing.

        Raises
        ------
        EmptyData
            No ids, or no criterion was measured.
        DuplicateId
        SchemaMismatch
            A per-datapoint row of an id that is not in the request.

        Examples
        --------
        >>> recall = Criterion("verbatim recall", 0.62, 0.09, 0.08, interval=(0.06, 0.12))
        >>> loss = Criterion("held-out loss", 2.31, 2.43, 2.30, interval=(2.40, 2.46), goal="keep low")
        >>> card = Certificate.of("author asked", ["a", "b"], method="npo_klr", model_before="M:1", model_after="M:2",
        ...                       criteria=[recall, loss])
        >>> print(card.table())  # doctest: +NORMALIZE_WHITESPACE
                            before   after   never saw   verdict
          verbatim recall     0.62    0.09        0.08   forgotten
          held-out loss       2.31    2.43        2.30   worse
        >>> card.traded
        ('held-out loss rose from 2.31 to 2.43',)
        >>> Certificate.from_json(card.to_json()) == card
        True
        """
        names = [str(i) for i in ids]
        if not names:
            raise EmptyData("a certificate needs the ids of what was forgotten")
        twice = [i for i, times in Counter(names).items() if times > 1]
        if twice:
            raise DuplicateId(f"ids of the request occur twice ({name_some(twice)})", remedy="give each once", ids=twice)
        if not any(c.after is not None for c in criteria):
            raise EmptyData("a certificate needs at least one criterion that was measured", remedy="run six_way first")
        known = set(names)
        foreign = [row.id for row in datapoints if row.id not in known]
        if foreign:
            raise SchemaMismatch(f"{len(foreign):,} datapoints are not in the request ({name_some(foreign)})", ids=foreign)
        missing = [c.name for c in criteria if c.after is None]
        if not any(c.reference is not None for c in criteria):
            missing.append("a model that never saw them: none was given")
        if not attacks:
            missing.append("relearning, rounding of the weights, other prompts: no attack was run")
        return cls(
            request=request,
            ids=tuple(names),
            n_ids=len(names),
            ids_sha256=ids_sha256(names),
            method=method,
            exact=bool(exact),
            model_before=_fingerprint(model_before),
            model_after=_fingerprint(model_after),
            model_reference=_fingerprint(model_reference),
            options=_plain(dict(options or {})),
            criteria=tuple(criteria),
            attacks=tuple(attacks),
            datapoints=tuple(datapoints),
            traded=tuple(_traded(criteria)),
            not_tested=tuple(dict.fromkeys([*missing, *not_tested])),
            notes=tuple(notes),
            ledger=ledger,
            ledger_version=ledger_version,
            data=data,
            seconds=finite(seconds),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=_versions(),
        )

    @property
    def verdict(self) -> str:
        """One sentence: how many criteria came out as hoped, and which did not."""
        judged = [c for c in self.criteria if c.good is not None]
        bad = [c.name for c in judged if not c.good]
        if not judged and self.exact:
            return "Measured; the method is exact, so there is nothing to judge it by but itself."
        if not judged:
            return "Measured, but not judged: there is no model that never saw them to compare with."
        if not bad:
            return f"All {len(judged)} criteria that could be judged came out as hoped."
        if len(bad) == len(judged):
            return f"None of the {len(judged)} criteria came out as hoped: {', '.join(bad)}."
        return f"{len(judged) - len(bad)} of {len(judged)} criteria came out as hoped; not so {', '.join(bad)}."

    @property
    def standing(self) -> str:
        """The sentence that says exact or approximate."""
        return EXACT if self.exact else NOT_EXACT

    def table(self, *, ascii_only: bool = False) -> str:
        """The criteria as the terminal prints them, the last column at the end so that nothing is cut."""
        return as_table([*self.criteria, *self.attacks], ascii_only=ascii_only)

    def to_markdown(self) -> str:
        """The whole record as Markdown: at most a hundred datapoints, those not forgotten first."""
        return as_markdown(self)

    def to_json(self, path: str | Path | None = None, *, with_ids: bool = True) -> str:
        """The record as JSON, written to ``path`` where one is given.

        With ``with_ids=False`` the ids and the per-datapoint rows, which may be personal data themselves, are left out;
        their number and digest stay.
        """
        kept = self if with_ids else replace(self, ids=(), datapoints=())
        text = json.dumps({"datumwise": FORMAT, "kind": "certificate", **asdict(kept)}, ensure_ascii=False, indent=1)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Certificate:
        """From `to_json`'s text, or a file of it.

        Raises
        ------
        SourceError
            No such file, or no JSON.
        SchemaMismatch
            No certificate, or its ids do not give its digest: it was changed.
        """
        text = str(source)
        name = "the certificate"
        if not text.lstrip().startswith("{"):
            name = Path(source).name
            try:
                text = Path(source).read_text(encoding="utf-8")
            except OSError as error:
                raise SourceError(f"there is no certificate {source}", remedy="check the path") from error
        try:
            fact = json.loads(text)
        except ValueError as error:
            raise SourceError(f"{name} is not JSON") from error
        if not isinstance(fact, dict) or fact.get("kind") != "certificate":
            raise SchemaMismatch(f"{name} is no certificate")
        if fact.get("datumwise") != FORMAT:
            raise SchemaMismatch(f"{name} has format {fact.get('datumwise')}, which this version does not read")
        try:
            lists: dict[str, Any] = {key: tuple(fact[key]) for key in ("ids", "traded", "not_tested", "notes")}
            lists |= {key: tuple(_criterion(one) for one in fact[key]) for key in ("criteria", "attacks")}
            lists["datapoints"] = tuple(Datapoint(**one) for one in fact["datapoints"])
            own = {key: value for key, value in fact.items() if key not in ("datumwise", "kind")}
            read = cls(**(own | lists))
        except (KeyError, TypeError) as error:
            raise SchemaMismatch(f"{name} is no whole certificate ({error})") from error
        if read.ids and (ids_sha256(read.ids) != read.ids_sha256 or len(read.ids) != read.n_ids):
            raise SchemaMismatch(f"the ids of {name} do not give its SHA-256", remedy="it was changed after it was written")
        return read

    def __str__(self) -> str:
        head = f"{self.n_ids:,} ids, {self.method}{', exact' if self.exact else ''}, sha256 {self.ids_sha256[:12]}"
        return f"certificate  {head}\n{self.table()}\n  {self.verdict}"

    def _repr_html_(self) -> str:
        return as_html(self)


def ids_sha256(ids: Iterable[Any]) -> str:
    """SHA-256 of the sorted ids, one a line, as `purge`'s receipt has it.

    Examples
    --------
    >>> ids_sha256(["b", "a"]) == ids_sha256(["a", "b"]) != ids_sha256(["a"])
    True
    """
    return hashlib.sha256("\n".join(sorted(map(str, ids))).encode()).hexdigest()


def _traded(criteria: Sequence[Criterion]) -> list[str]:
    """What was to be kept and was not: one sentence each."""
    told = []
    for c in criteria:
        if not c.goal.startswith("keep") or c.verdict != "worse" or c.after is None:
            continue
        way = "fell" if c.goal == "keep high" else "rose"
        since = c.before if c.before is not None else c.reference
        told.append(f"{c.name} {way} from {c.figure(since)} to {c.figure(c.after)}")
    return told


def _criterion(fact: Mapping[str, Any]) -> Criterion:
    ends = {key: None if fact[key] is None else tuple(fact[key]) for key in ("interval", "gap", "change")}
    return Criterion(**{**fact, **ends})


def _fingerprint(model: Any) -> str:
    if model is None or isinstance(model, str):
        return model or ""
    from datumwise.probe.fingerprint import model_fingerprint

    return model_fingerprint(model)


def _plain(value: Any) -> Any:
    """As JSON knows it; what it does not know, as its ``repr``."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return getattr(value, "__qualname__", None) or repr(value)


def _versions() -> dict[str, str]:
    found = {"datumwise": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
