"""What a ledger says of each datapoint before any model is asked: texts, their words, labels, features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import LabelError, SchemaMismatch, name_some

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = [
    "COMPONENTS",
    "OF_THE_LEDGER",
    "WITHOUT_MODEL",
    "embedding",
    "embeddings",
    "given",
    "joined",
    "places",
    "text_columns",
    "texts",
]

OF_THE_LEDGER = (
    "texts",
    "predicted_texts",
    "prompts",
    "responses",
    "words",
    "prompt_words",
    "response_words",
)  # whoever the model is
WITHOUT_MODEL = (*OF_THE_LEDGER, "labels", "embedding")  # what is there if there is no model
COMPONENTS = {"table": 64, "images": 64, "text": 128}  # most directions of an embedding, by the kind of data


def given(ledger: Ledger, want: Iterable[str], *, seed: int = 0) -> dict[str, Any]:
    """Signals that need no model, in ledger order.

    Parameters
    ----------
    ledger : Ledger
    want : iterable of str
        Of `WITHOUT_MODEL`.
    seed : int
        Of the projection of wide features.

    Returns
    -------
    dict
        ``texts``: list of n str, the text or prompt and response with a line break between; ``predicted_texts``: what a
        language model's likelihood is of, the text or the response; ``prompts`` and ``responses``: lists of n str;
        ``words``, ``prompt_words``, ``response_words``: their `datumwise.probe.words.Corpus`, each made once;
        ``labels`` int64 (n,): classes numbered in sorted order; ``embedding`` float (n, d): see `embedding`.

    Raises
    ------
    SchemaMismatch
        The ledger has no column of that role.
    LabelError
        A label is missing; the ids are named.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(want):
        if name == "labels":
            found[name] = _labels(ledger)
        elif name == "embedding":
            found[name] = embedding(ledger, seed=seed)
        elif name.endswith("words"):
            from datumwise.probe.words import words

            source = {"words": "texts", "prompt_words": "prompts", "response_words": "responses"}[name]
            if source not in found:
                found[source] = _texts(ledger, source)
            found[name] = words(found[source])
        elif name not in found:
            found[name] = _texts(ledger, name)
    return found


def embedding(ledger: Ledger, *, seed: int = 0) -> np.ndarray:
    """Where each datapoint sits by its own features: float (n, d).

    Numbers standardised and categories one-hot, pixels, or latent semantic analysis of texts; the leading 64
    (texts: 128) directions where there are more.
    """
    return embeddings(ledger, seed=seed)[0]


def embeddings(ledger: Ledger, *others: Ledger, seed: int = 0) -> list[np.ndarray]:
    """`embedding` of a ledger, and other ledgers in the same space: what turns rows into numbers is fitted to the first.

    Raises
    ------
    SchemaMismatch
        Another ledger holds another kind of data, or lacks a feature.
    """
    from datumwise.probe.features import embed, features

    read = features(ledger)
    fitted = embed(read.transform, read.X, n_components=COMPONENTS[read.kind], seed=seed)
    rows = [read.X]
    for other in others:
        rows.append(features(other, like=read).X)
    found = [fitted.transform(X) for X in rows]
    return [np.asarray(X.toarray() if hasattr(X, "toarray") else X) for X in found]


def places(ledger: Ledger, where: str | None) -> np.ndarray:
    """Places, in ledger order, of the datapoints for which an SQL condition holds: int (k,), ascending; all without one."""
    if where is None:
        return np.arange(len(ledger))
    names = ledger.table(["id"], where=where)["id"].to_pylist()
    return np.flatnonzero(np.isin(ledger.ids.astype(str), np.asarray(names, str)))


def text_columns(ledger: Ledger) -> list[str]:
    """Columns that a datapoint's text is made of: one, or prompt and response; none without text."""
    roles = ledger.roles
    if roles.get("text"):
        return [roles["text"]]
    return [roles["prompt"], roles["response"]] if roles.get("response") else []


def texts(ledger: Ledger) -> list[str]:
    """The text of every datapoint, in ledger order: see `given`."""
    return _texts(ledger, "texts")


def _texts(ledger: Ledger, which: str) -> list[str]:
    """Texts of a role; a null counts as empty."""
    roles = ledger.roles
    if which == "predicted_texts":
        which = "responses" if roles.get("response") and not roles.get("text") else "texts"
    if which != "texts" and not (roles.get("prompt") and roles.get("response")):
        raise SchemaMismatch(
            f"{ledger.name} has no prompts and responses",
            remedy="ingest the data with prompt= and response= (--prompt, --response)",
        )
    if which != "texts":
        return _column(ledger, roles["prompt" if which == "prompts" else "response"])
    if roles.get("text"):
        return _column(ledger, roles["text"])
    if roles.get("response"):
        pairs = zip(_column(ledger, roles["prompt"]), _column(ledger, roles["response"]), strict=True)
        return [joined(prompt, response) for prompt, response in pairs]
    raise SchemaMismatch(f"{ledger.name} has no column of text", remedy="ingest the data with text= (--text)")


def joined(prompt: str, response: str) -> str:
    """Prompt and response as one text.

    Examples
    --------
    >>> joined("How many?", "Three."), joined("", "Three.")
    ('How many?\\nThree.', 'Three.')
    """
    return f"{prompt}\n{response}" if prompt else response


def _column(ledger: Ledger, name: str) -> list[str]:
    return [str(text or "") for text in ledger.table([name])[name].to_pylist()]


def _labels(ledger: Ledger) -> np.ndarray:
    column = ledger.roles.get("label")
    if not column:
        raise SchemaMismatch(f"{ledger.name} has no label column", remedy="ingest the data with label= (--label)")
    values = ledger.table([column])[column]
    missing = ledger.ids[np.asarray(values.is_null())]
    if len(missing):
        raise LabelError(f"no label in {len(missing):,} rows ({name_some(missing)})", remedy="label or drop them")
    return np.unique(np.asarray(values.to_pylist()), return_inverse=True)[1].astype(np.int64)
