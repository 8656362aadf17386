"""What a run of scores gives back: named arrays beside the ids they belong to."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import MissingExtra, SchemaMismatch, UnknownName
from datumwise.score.declare import suggestion

if TYPE_CHECKING:
    import pandas as pd

    from datumwise.ledger import Ledger

__all__ = ["Scores"]

SHOWN = 10  # datapoints in the printed table
WIDTH = 80  # columns of the printed table


class Scores(Mapping[str, np.ndarray]):
    """A mapping from the name of a score to its array (n,), aligned to ``ids``.

    Parameters
    ----------
    ids : array (n,)
        Ids of the datapoints.
    values : mapping of str to array (n,)
    higher : mapping of str to str, optional
        What a higher value says.
    version : int, optional
        Ledger version that holds the columns; None if they were not written.

    Examples
    --------
    >>> found = Scores(["a", "b", "c"], {"el2n": np.array([0.1, 1.2, 0.4])})
    >>> found.top("el2n", 2)
    [('b', 1.2), ('c', 0.4)]
    >>> found["el2n"].max()
    np.float64(1.2)
    """

    def __init__(
        self,
        ids: Any,
        values: Mapping[str, np.ndarray],
        *,
        higher: Mapping[str, str] | None = None,
        version: int | None = None,
    ) -> None:
        self.ids = np.asarray(ids)
        self.higher = dict(higher or {})
        self.version = version
        self._values = {name: np.asarray(column) for name, column in values.items()}
        for name, column in self._values.items():
            if column.shape != self.ids.shape:
                raise SchemaMismatch(f"score {name!r} has shape {column.shape} for {len(self.ids):,} datapoints")

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._values:
            raise UnknownName(
                f"there is no score {name!r} here",
                remedy=suggestion(name, self) or f"there are {', '.join(self)}",
            )
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """The array of this name, or ``default``."""
        return self._values.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def top(self, name: str, k: int = 10) -> list[tuple[Any, float]]:
        """The k datapoints with the highest values: (id, value), ties in ledger order, NaN left out."""
        order = self._descending(name)[:k]
        return [(i, v) for i, v in zip(self.ids[order].tolist(), self[name][order].tolist(), strict=True)]

    def to_pandas(self) -> pd.DataFrame:
        """A frame with the ids as index and a column a score."""
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra("to_pandas needs pandas", remedy="pip install 'datumwise[tabular]'") from error
        return pandas.DataFrame(dict(self), index=pandas.Index(self.ids, name="id"))

    def write(
        self,
        ledger: Ledger,
        *,
        method: str | None = None,
        params: Mapping[str, Any] | None = None,
        model: str | None = None,
        seed: int | None = None,
        source: str = "",
        reads: Sequence[str] = (),
        overwrite: bool = True,
    ) -> int:
        """Write every score to a ledger, as a column of its name.

        Parameters
        ----------
        ledger : Ledger
            Must hold the ids; its other datapoints read null.
        method, params, model, seed, source, reads
            Of the `datumwise.ledger.Provenance`; the method is the score's name by default.
        overwrite : bool, default True
            Replace columns that an earlier run wrote.

        Returns
        -------
        int
            The new version of the ledger.

        Raises
        ------
        MissingId, ColumnExists
        """
        from datumwise.ledger import Provenance

        made = {
            name: Provenance(
                method=method or name, params=dict(params or {}), reads=list(reads), model=model, seed=seed, source=source,
                higher=self.higher.get(name, ""),
            )
            for name in self
        }  # fmt: skip
        names = [str(one) for one in self.ids.tolist()]
        aligned = len(names) == len(ledger) and bool((np.asarray(names, object) == ledger.ids.astype(object)).all())
        self.version = ledger.write(dict(self), provenance=made, ids=None if aligned else names, overwrite=overwrite)
        return self.version

    def _descending(self, name: str) -> np.ndarray:
        column = self[name].astype(np.float64)
        order = np.argsort(-column, kind="stable")
        return order[~np.isnan(column[order])]

    def _rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and the datapoints highest in the first score."""
        if not self:
            return ["id"], []
        order = self._descending(next(iter(self)))[:SHOWN]
        columns = [[_cell(v) for v in self[name][order]] for name in self]
        return ["id", *self], [list(row) for row in zip(map(str, self.ids[order]), *columns, strict=True)]

    def __repr__(self) -> str:
        head, rows = self._rows()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        fits = int(np.searchsorted(np.cumsum([w + 2 for w in widths]), WIDTH + 2, side="right"))
        lines = ["  ".join(c.rjust(w) for c, w in zip(row[:fits], widths, strict=False)) for row in [head, *rows]]
        if fits < len(head):
            lines.append(f"not shown: {', '.join(head[fits:])}")
        if not self:
            return f"no scores of {len(self.ids):,} datapoints"
        written = "" if self.version is None else f", ledger version {self.version}"
        title = f"{len(self)} scores of {len(self.ids):,} datapoints{written}; highest {head[1]} first"
        return "\n".join([title, *lines])

    def _repr_html_(self) -> str:
        head, rows = self._rows()
        titles = "".join(f'<th title="{html.escape(self.higher.get(h, ""))}">{html.escape(h)}</th>' for h in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        return f"<table><tr>{titles}</tr>{body}</table><p>{len(rows)} of {len(self.ids):,} datapoints</p>"


def _cell(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return f"{float(value):.4g}"
