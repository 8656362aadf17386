"""What is to be forgotten, and what kept: texts or (prompt, response) pairs with ids, from whatever holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datumwise.errors import DuplicateId, EmptyData, SchemaMismatch, name_some
from datumwise.ledger import Ledger
from datumwise.readers.unlearning_texts import ID_NAMES, load_texts

__all__ = ["Text", "Texts", "as_texts", "refuse_overlap"]

Text = str | tuple[str, str]  # a text, or a prompt with the response that counts


@dataclass(frozen=True)
class Texts:
    """Texts and their ids, in the order of the data.

    Attributes
    ----------
    ids : list of str, (n,)
        The data's own ids, else positions in the data (a row left out for being empty leaves a gap).
    items : list of n str or (prompt, response)
    named : bool
        The ids are the data's own, not positions.
    empty : list of str
        Ids of rows that were left out because their text is empty.
    """

    ids: list[str]
    items: list[Text]
    named: bool = False
    empty: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)


def as_texts(data: Any, ids: Sequence[Any] | None = None) -> Texts:
    """Texts with ids from a `Ledger`, a list of str, of (prompt, response) or of dicts, a table, a file or a hub name.

    Parameters
    ----------
    data : Ledger, Texts, sequence, table, path or str
        A ledger gives the column of its role ``text``, else its roles ``prompt`` and ``response``, and its ids. All else is
        read by `datumwise.readers.unlearning_texts.load_texts`.
    ids : sequence (n,), optional
        In place of the data's own: one for every row.

    Raises
    ------
    EmptyData
        There is no text.
    SchemaMismatch
        The ledger has no text; ids and rows differ in number.
    DuplicateId, SourceError, UnknownName

    Examples
    --------
    >>> as_texts(["the cat sat", "", "a dog ran"]).ids
    ['0', '2']
    >>> as_texts([{"id": "q7", "question": "Where?", "answer": "Oslo"}])
    Texts(ids=['q7'], items=[('Where?', 'Oslo')], named=True, empty=())
    """
    if isinstance(data, Texts):
        texts, rows = data, [*data.ids]
    elif isinstance(data, Ledger):
        texts, rows = _of_ledger(data)
    else:
        texts, rows = _read(data)
    if ids is None:
        return texts
    given = [str(i) for i in ids]
    if len(given) != len(rows):
        raise SchemaMismatch(f"there are {len(given):,} ids for {len(rows):,} texts")
    twice = sorted(i for i, count in Counter(given).items() if count > 1)
    if twice:
        raise DuplicateId(f"ids occur twice ({name_some(twice)})", remedy="make them unique", ids=twice)
    new = dict(zip(rows, given, strict=True))
    return Texts([new[i] for i in texts.ids], texts.items, True, tuple(new.get(i, i) for i in texts.empty))


def _read(data: Any) -> tuple[Texts, list[str]]:
    """Texts from anything but a ledger, and the names of all rows, also of those without text."""
    if isinstance(data, Sequence) and not isinstance(data, str):
        if not len(data):
            raise EmptyData("there is no text", remedy="give at least one")
        key = next((k for k in ID_NAMES if isinstance(data[0], Mapping) and k in data[0]), None)
        kept = load_texts(list(data))
        rows = [str(row[key]) for row in data] if key is not None else [str(i) for i in range(len(data))]
    else:
        key = next((k for k in ID_NAMES if k in list(getattr(data, "columns", ()))), None)
        kept = load_texts(data)
        rows = [row["id"] for row in kept]
    items: list[Text] = [row["text"] if "text" in row else (row["prompt"], row["response"]) for row in kept]
    names = [row["id"] for row in kept]
    gone = set(rows) - set(names)
    return Texts(names, items, key is not None, tuple(i for i in rows if i in gone)), rows


def _of_ledger(ledger: Ledger) -> tuple[Texts, list[str]]:
    roles = ledger.roles
    columns = [str(roles[role]) for role in (("text",) if roles.get("text") else ("prompt", "response")) if roles.get(role)]
    if len(columns) < (1 if roles.get("text") else 2):
        raise SchemaMismatch(
            f"the ledger {ledger.name} names neither text nor prompt and response",
            remedy="say which when ingesting (text=, or prompt= and response=)",
        )
    ids = [str(i) for i in ledger.ids]
    if not ids:
        raise EmptyData(f"the ledger {ledger.name} holds no datapoint")
    cells = [[cell or "" for cell in ledger.table([name]).column(name).to_pylist()] for name in columns]
    items: list[Text] = list(cells[0]) if len(cells) == 1 else list(zip(cells[0], cells[1], strict=True))
    full = [bool(cell.strip()) for cell in cells[-1]]
    if not any(full):
        raise EmptyData(f"every text of the ledger {ledger.name} is empty")
    kept = [(i, item) for i, item, there in zip(ids, items, full, strict=True) if there]
    empty = tuple(i for i, there in zip(ids, full, strict=True) if not there)
    return Texts([i for i, _ in kept], [item for _, item in kept], True, empty), ids


def refuse_overlap(forget: Texts, other: Texts, name: str) -> None:
    """Refuse a text, or an id of the data's own, that is both to be forgotten and in ``other``.

    Raises
    ------
    SchemaMismatch
        Names the ids of ``forget``.
    """
    there = {_key(item) for item in other.items}
    shared = [i for i, item in zip(forget.ids, forget.items, strict=True) if _key(item) in there]
    if shared:
        raise SchemaMismatch(
            f"{len(shared):,} of the texts to forget are also in {name} ({name_some(shared)})",
            remedy=f"take them out of {name}",
            ids=shared,
        )
    if forget.named and other.named:
        known = set(other.ids)
        shared = [i for i in forget.ids if i in known]
        if shared:
            raise SchemaMismatch(
                f"{len(shared):,} of the ids to forget are also in {name} ({name_some(shared)})",
                remedy=f"take them out of {name}",
                ids=shared,
            )


def _key(item: Text) -> Text:
    return item.strip() if isinstance(item, str) else (item[0].strip(), item[1].strip())
