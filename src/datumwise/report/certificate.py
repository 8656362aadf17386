"""How does a certificate of removal become one HTML file that loads nothing, runs nothing and prints on paper?"""

from __future__ import annotations

import errno
import json
import math
import os
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datumwise.errors import DiskFull, ReadOnly
from datumwise.evaluate.certificate_text import measured_names, worst_first
from datumwise.report.page import clip, count, place, seconds, short

if TYPE_CHECKING:
    from jinja2 import Environment

    from datumwise.evaluate.certificate import Certificate
    from datumwise.evaluate.criterion import Criterion

__all__ = ["render_certificate", "write_certificate"]

ROWS = 500  # datapoints with figures
IDS = 5_000  # ids that are listed


def write_certificate(card: Certificate, path: str | Path) -> Path:
    """Write the page of a certificate; readers of ``path`` see the old file or the whole new one, never half.

    Returns
    -------
    Path

    Raises
    ------
    DiskFull, ReadOnly
        Nothing is left behind.
    """
    path = Path(path)
    written = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        written.write_bytes(render_certificate(card).encode("utf-8"))
        return written.replace(path)
    except OSError as error:
        written.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left for the page {path}", remedy="free some space, or give another place") from error
        raise ReadOnly(f"the page {path} cannot be written ({error.strerror})", remedy="give another place") from error


def render_certificate(card: Certificate) -> str:
    """The page of a certificate: one HTML document without script, whose texts are never read as markup."""
    ordered = worst_first(card.datapoints)
    return (
        _templates()
        .get_template("certificate.html")
        .render(
            card=card,
            style=files("datumwise.report").joinpath("assets", "page.css").read_text("utf-8"),
            day=_day(card.created),
            options=[(key, value if isinstance(value, str) else json.dumps(value)) for key, value in card.options.items()],
            names=measured_names(card.datapoints),
            datapoints=ordered[:ROWS],
            left=max(0, len(ordered) - ROWS),
            ids=sorted(card.ids)[:IDS],
            ids_left=max(0, len(card.ids) - IDS),
            notes=[(c.name, c.note) for c in card.criteria if c.note],
        )
    )


def axis(one: Criterion) -> tuple[float, float]:
    """Ends of the axis of a criterion: 0 in the middle for what should be 0, else from 0 to 1, 100 or just beyond all.

    Examples
    --------
    >>> from datumwise.evaluate.criterion import Criterion
    >>> axis(Criterion("recall", 0.62, 0.09)), axis(Criterion("leak", -80.0, 3.0, goal="zero"))
    ((0.0, 1.0), (-100.0, 100.0))
    >>> axis(Criterion("loss", 2.31, 2.43, goal="keep low"))
    (0.0, 3.0)
    """
    ends = [v for v in (one.before, one.after, one.reference, *(one.interval or ())) if v is not None]
    widest = max([abs(v) for v in ends], default=1.0)
    if one.goal == "zero":
        return (-widest, widest) if widest > 100 else (-100.0, 100.0) if widest > 1 else (-1.0, 1.0)
    top = 1.0 if widest <= 1 else float(math.ceil(widest)) if widest <= 10 else max(100.0, widest)
    return min([0.0, *ends]), top


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("datumwise.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"clip": clip, "short": _short}
    environment.globals |= {"axis": axis, "count": count, "place": place, "seconds": seconds, "tag": _tag}
    return environment


def _tag(one: Criterion) -> str:
    return "none" if one.good is None else "gain" if one.good else "harm"


def _short(value: float | None) -> str:
    return "–" if value is None else short(value)


def _day(created: str) -> str:
    """As people write a day; what is no time is shown as it is."""
    try:
        moment: Any = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y}, {moment:%H:%M} UTC"
