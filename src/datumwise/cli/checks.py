"""``--fail-on "label_error > 2%"``: a check that a pipeline asks for."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datumwise.errors import UnknownName
from datumwise.readers.spelling import nearest

if TYPE_CHECKING:
    from datumwise.report.result import Audit

__all__ = ["Check", "checked", "parse_check", "refuse_unknown"]

OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
FORM = re.compile(r"\s*([A-Za-z_][\w -]*?)\s*(>=|<=|>|<)\s*([0-9]*\.?[0-9]+)\s*(%?)\s*")


@dataclass(frozen=True)
class Check:
    """Fails when the number of findings of a kind, or their share in percent, lies beyond a limit."""

    key: str
    sign: str
    limit: float
    percent: bool

    def fails(self, count: int, n: int) -> bool:
        """Whether ``count`` findings among ``n`` datapoints fail the check.

        Examples
        --------
        >>> Check("label_error", ">", 2.0, True).fails(49, 1321)
        True
        """
        value = 100 * count / n if self.percent else count
        return bool(OPERATORS[self.sign](value, self.limit))


def parse_check(text: str) -> Check:
    """A check as it is typed.

    Raises
    ------
    UnknownName

    Examples
    --------
    >>> parse_check("label-error > 2%")
    Check(key='label_error', sign='>', limit=2.0, percent=True)
    """
    match = FORM.fullmatch(text)
    if match is None:
        raise UnknownName(f"--fail-on {text!r} is no check", remedy="write one as 'label_error > 2%' or 'outlier >= 10'")
    key, sign, limit, percent = match.groups()
    return Check(key.strip().replace("-", "_").replace(" ", "_"), sign, float(limit), percent == "%")


def refuse_unknown(check: Check, kinds: Iterable[str]) -> None:
    """Refuse a check of a kind of finding that there is not; the nearest one is offered.

    Raises
    ------
    UnknownName
    """
    kinds = list(kinds)
    if check.key not in kinds:
        guess = nearest(check.key, kinds)
        raise UnknownName(
            f"--fail-on: there is no finding {check.key!r} ({', '.join(kinds)})",
            remedy=f"did you mean {guess}?" if guess else None,
        )


def checked(checks: Sequence[Check], audit: Audit) -> list[dict[str, Any]]:
    """Each check with what was found.

    Raises
    ------
    UnknownName
        A kind of finding that this audit did not look for.
    """
    found = {finding.key: finding.count for finding in audit.findings}
    results = []
    for check in checks:
        refuse_unknown(check, found)
        count = found[check.key]
        failed = check.fails(count, audit.n)
        limit = f"{check.limit:g}{'%' if check.percent else ''}"
        value = f"{100 * count / audit.n:.1f}%" if check.percent else f"{count:,}"
        said = f"{check.key} {check.sign} {limit}: {value}, {'failed' if failed else 'passed'}"
        results.append({"check": f"{check.key} {check.sign} {limit}", "count": count, "failed": failed, "said": said})
    return results
