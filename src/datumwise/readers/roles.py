"""Which column is label, text, picture or id, and which are features: as asked, or where unambiguous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from datumwise.errors import SchemaMismatch, UnknownColumn, UnknownName
from datumwise.readers.images import is_picture
from datumwise.readers.shape import is_numeric_list
from datumwise.readers.spelling import listed, nearest

__all__ = ["Asked", "refuse_unknown", "settle_roles"]

LABEL_NAMES = ("label", "target", "y")
TEXT_NAMES = ("text",)
PAIR_NAMES = (("prompt", "response"), ("prompt", "completion"), ("instruction", "response"), ("question", "answer"))
IMAGE_NAMES = ("image",)
CATEGORIES = 100  # a text column with at most this many different values in its first rows is a category
TASKS = ("classification", "regression")


@dataclass(frozen=True)
class Asked:
    """The roles somebody named."""

    label: str | None = None
    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    image: str | None = None
    id: str | None = None
    features: str | Sequence[str] | None = None
    task: str | None = None


def settle_roles(asked: Asked, schema: pa.Schema, head: pa.Table, *, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Roles of the columns.

    Parameters
    ----------
    asked : Asked
        What somebody named; wins.
    schema : Schema
    head : Table
        The first rows, to tell categories from free text.
    name : str
        How error sentences call the source.
    given : mapping
        Roles the format itself settles.

    Returns
    -------
    dict
        Some of ``id``, ``label``, ``text``, ``prompt`` and ``response``, ``image`` (column names) and
        ``features`` (a list of columns, or one column of vectors).

    Raises
    ------
    UnknownColumn
        A named column is not there; the nearest one is offered.
    SchemaMismatch
        Two columns could be the label, a column cannot have the role it was given, or nothing tells what a
        datapoint is made of.
    """
    refuse_unknown(asked, schema, name=name)
    features = [asked.features] if isinstance(asked.features, str) else asked.features
    roles: dict[str, Any] = {}
    pair = _pair(asked, schema)
    for role, found in (
        ("id", asked.id or given.get("id") or _one_of(("id",), schema)),
        ("label", asked.label or given.get("label") or _label(schema, name)),
        ("text", asked.text or (None if pair else given.get("text") or _one_of(TEXT_NAMES, schema, _is_text))),
        ("prompt", pair and pair[0]),
        ("response", pair and pair[1]),
        ("image", asked.image or given.get("image") or _picture(schema)),
    ):
        if found:
            roles[role] = found
    _refuse_unfit(roles, schema)
    if features:
        roles["features"] = _as_role(list(features), schema)
    elif "features" in given:
        roles["features"] = given["features"]
    elif not {"text", "response", "image"} & set(roles):
        roles |= _made_of(schema, head, roles, name)
    return roles


def refuse_unknown(asked: Asked, schema: pa.Schema, *, name: str) -> None:
    """Refuse names of columns and tasks that there are not.

    Raises
    ------
    UnknownColumn, UnknownName
    """
    if asked.task is not None and asked.task not in TASKS:
        guess = nearest(asked.task, TASKS)
        raise UnknownName(
            f"there is no task {asked.task!r} ({', '.join(TASKS)})",
            remedy=f"did you mean task={guess!r}?" if guess else None,
        )
    for role in ("label", "text", "prompt", "response", "image", "id"):
        _refuse_unknown(getattr(asked, role), role, schema, name)
    features = [asked.features] if isinstance(asked.features, str) else asked.features
    for column in features or ():
        _refuse_unknown(column, "features", schema, name)


def _refuse_unknown(column: str | None, role: str, schema: pa.Schema, name: str) -> None:
    if column is None or column in schema.names:
        return
    guess = nearest(column, schema.names)
    raise UnknownColumn(
        f"column {column!r} is not in {name} (columns: {listed(schema.names)})",
        remedy=f"did you mean {role}={guess!r}?" if guess else None,
        column=column,
    )


def _refuse_unfit(roles: Mapping[str, Any], schema: pa.Schema) -> None:
    for role, fits, wanted in (
        (
            "label",
            lambda kind: not pat.is_nested(kind) and not pat.is_binary(kind),
            "a column of classes or numbers",
        ),
        ("text", _is_text, "a column of text"),
        ("prompt", _is_text, "a column of text"),
        ("response", _is_text, "a column of text"),
        ("id", lambda kind: not pat.is_nested(kind), "a column of text or whole numbers"),
    ):
        column = roles.get(role)
        if column and not fits(schema.field(column).type):
            raise SchemaMismatch(
                f"column {column!r} holds {schema.field(column).type} and cannot be the {role}",
                remedy=f"give {wanted}",
                column=column,
            )


def _label(schema: pa.Schema, name: str) -> str | None:
    found = [column for column in schema.names if column.casefold() in LABEL_NAMES]
    if len(found) > 1:
        choices = " or ".join(f"label={column!r}" for column in found)
        raise SchemaMismatch(
            f"{len(found)} columns of {name} could be the label ({', '.join(found)})",
            remedy=f"give {choices}",
        )
    return found[0] if found else None


def _one_of(names: Sequence[str], schema: pa.Schema, fits: Any = None) -> str | None:
    found = [c for c in schema.names if c.casefold() in names and (fits is None or fits(schema.field(c).type))]
    return found[0] if len(found) == 1 else None


def _pair(asked: Asked, schema: pa.Schema) -> tuple[str, str] | None:
    """Columns of prompts and responses: as asked, or two of text that are called so."""
    if asked.prompt and asked.response:
        return asked.prompt, asked.response
    if asked.prompt or asked.response:
        lone, other = ("prompt", "response") if asked.prompt else ("response", "prompt")
        raise SchemaMismatch(f"a {lone} column was named and no {other} column", remedy=f"give {other}= too (--{other})")
    if asked.text:
        return None
    for names in PAIR_NAMES:
        found = [_one_of((name,), schema, _is_text) for name in names]
        if found[0] and found[1]:
            return found[0], found[1]
    return None


def _picture(schema: pa.Schema) -> str | None:
    found = [field.name for field in schema if is_picture(field.type)]
    if len(found) == 1:
        return found[0]
    return _one_of(IMAGE_NAMES, schema, lambda kind: pat.is_binary(kind) or pat.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return pat.is_string(kind) or pat.is_large_string(kind)


def _as_role(features: list[str], schema: pa.Schema) -> str | list[str]:
    vectors = [column for column in features if is_numeric_list(schema.field(column).type)]
    if vectors and len(features) > 1:
        raise SchemaMismatch(
            f"column {vectors[0]!r} holds vectors and cannot be one feature among others",
            remedy=f"give features={vectors[0]!r} alone, or single columns only",
            column=vectors[0],
        )
    for column in features:
        kind = schema.field(column).type
        if not (vectors or pat.is_primitive(kind) or _is_text(kind)) or pat.is_temporal(kind):
            raise SchemaMismatch(
                f"column {column!r} holds {kind} and cannot be a feature",
                remedy="give columns of numbers or categories",
                column=column,
            )
    return features[0] if vectors else features


def _made_of(schema: pa.Schema, head: pa.Table, roles: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Features of a table; or the one column that can only be the text; or the one column of vectors."""
    rest = [field for field in schema if field.name not in roles.values()]
    numbers = [f.name for f in rest if _is_number(f.type) or (_is_text(f.type) and _is_category(head, f.name))]
    if numbers:
        return {"features": numbers}
    vectors = [field.name for field in rest if is_numeric_list(field.type)]
    texts = [field.name for field in rest if _is_text(field.type)]
    if len(texts) == 1 and not vectors:
        return {"text": texts[0]}
    if len(vectors) == 1 and not texts:
        return {"features": vectors[0]}
    if not texts and not vectors:
        raise SchemaMismatch(
            f"{name} holds no text, picture or feature (columns: {listed(schema.names)})",
            remedy="give a source with a column of one of them",
        )
    choices = [f"text={column!r}" for column in texts] + [f"features={column!r}" for column in vectors]
    raise SchemaMismatch(
        f"{len(choices)} columns of {name} could be what a datapoint is made of ({listed(texts + vectors)})",
        remedy=f"give {' or '.join(choices[:4])}",
    )


def _is_number(kind: pa.DataType) -> bool:
    return pat.is_integer(kind) or pat.is_floating(kind) or pat.is_boolean(kind)


def _is_category(head: pa.Table, column: str) -> bool:
    values = head.column(column)
    different = pc.count_distinct(values).as_py()
    return 0 < different <= CATEGORIES and different <= max(10, head.num_rows // 2)
