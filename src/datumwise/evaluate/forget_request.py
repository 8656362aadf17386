"""A removal request: ids of a ledger, a model that was trained on them, a model that is as if it had never seen them.

What kind of model it is decides how: a causal language model is trained against its texts (`datumwise.forget.unlearn`), a torch
classifier likewise (`datumwise.forget.unlearn_module`), a scikit-learn estimator is trained anew, which is exact, or edited by
Newton steps. What was measured, what it cost and what was not tested goes into a certificate, and onto the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from datumwise.errors import ColumnExists, DatumwiseError, EmptyData, MissingId, name_some
from datumwise.evaluate.certificate import Certificate
from datumwise.evaluate.removed import Removed, Request
from datumwise.ledger.provenance import Provenance
from datumwise.probe.given import places
from datumwise.progress import SILENT, Stage

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["Forgotten", "forget_datapoints"]

WRITTEN = ("before", "after", "never_saw")  # loss of each datapoint of the request, by model
HIGHER = "the model finds the datapoint less likely"


@dataclass(frozen=True)
class Forgotten:
    """What a request came to.

    Attributes
    ----------
    model : the model afterwards
    certificate : Certificate
    columns : tuple of str
        Written on the ledger.
    version : int
        Of the ledger.
    """

    model: Any
    certificate: Certificate
    columns: tuple[str, ...]
    version: int

    def __str__(self) -> str:
        return str(self.certificate)


def forget_datapoints(
    ledger: Ledger,
    model: Any,
    tokenizer: Any = None,
    *,
    ids: Sequence[Any] | None = None,
    where: str | None = None,
    method: str | None = None,
    retain: str | None = None,
    holdout: str | None = None,
    reference: Any = None,
    attacks: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    name: str = "forgot",
    request: str = "",
    inplace: bool = False,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    stage: Stage | None = None,
) -> Forgotten:
    """Make a model forget datapoints of a ledger, measure how well, and certify what was measured.

    Parameters
    ----------
    ledger : Ledger
        That the model was trained on: texts, prompts and responses, pictures, or rows with labels.
    model : transformers causal language model, torch module, or scikit-learn estimator
        Not changed unless ``inplace``. An estimator that is not fitted is fitted first, on all but the held-out rows.
    tokenizer : optional
        Of a model that reads text.
    ids : sequence, optional
        The datapoints; or ``where``.
    where : str, optional
        SQL condition instead.
    method : str, optional
        Of `datumwise.forget.METHODS` (default "calibrated"), of `datumwise.forget.unlearn_module` (default "grad_diff"), or
        "retrain" (default, exact) or "newton" of an estimator.
    retain : str, optional
        SQL condition: what is to be kept; default everything else.
    holdout : str, optional
        SQL condition: datapoints that the model never saw. Without them privacy leakage is not measured.
    reference : optional
        A model of the same kind that was trained without the datapoints. An estimator's is trained here.
    attacks : sequence of str
        Of `datumwise.evaluate.attacks`: measure again after relearning, rounding of the weights, with other prompts.
    options : mapping, optional
        Of the method: ``lr``, ``epochs``, ``batch_size``, ``lora``, ``alpha`` ...
    name : str
        Prefix of the columns that are written: ``_before``, ``_after`` and, with a reference, ``_never_saw`` (the datapoint's
        loss), of the datapoints of the request.
    request : str
        What was asked, in the asker's words; for the certificate.
    inplace : bool
    checkpoint : path, optional
        Folder in which training keeps its state; a run that was interrupted goes on from there.
    seed : int
    stage : Stage, optional
        Told of progress.

    Returns
    -------
    Forgotten

    Raises
    ------
    MissingId
        An id is not on the ledger.
    EmptyData
        Nothing is to be forgotten, or nothing would be left.
    DatumwiseError
        ``ids`` and ``where`` both, or neither; anything wrong with the model.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.linear_model import LogisticRegression
    >>> from datumwise import ingest
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(300, 2)); y = (x[:, 0] > 0).astype(int); y[:20] = 1 - y[:20]
    >>> ledger = ingest({"a": x[:, 0], "b": x[:, 1], "y": y}, label="y", out=tempfile.mkdtemp() + "/rows")
    >>> gone = list(ledger.ids[:20])
    >>> found = forget_datapoints(ledger, LogisticRegression(), ids=gone, method="newton")
    >>> found.certificate.exact, found.certificate.n_ids
    (False, 20)
    >>> found.columns
    ('forgot_before', 'forgot_after', 'forgot_never_saw')
    """
    asked = _request(ledger, ids, where, retain, holdout, stage or SILENT, seed)
    given = {one.name for one in ledger.columns if one.provenance is None}
    for what in WRITTEN:
        if f"{name}_{what}" in given:
            raise ColumnExists(f"column {name}_{what!s} came with the data", remedy="give another name")
    removed = _remover(model, tokenizer, ledger)(
        asked, model, tokenizer, method=method, reference=reference, attacks=tuple(attacks), options=dict(options or {}),
        inplace=inplace, checkpoint=checkpoint,
    )  # fmt: skip
    certificate = Certificate.of(
        request or "removal of the datapoints named here",
        [str(one) for one in asked.ids[asked.forget]],
        method=removed.method,
        exact=removed.exact,
        options=removed.options,
        model_before=removed.fingerprints["before"],
        model_after=removed.fingerprints["after"],
        model_reference=removed.fingerprints.get("never_saw", ""),
        criteria=removed.criteria,
        attacks=removed.attacks,
        datapoints=removed.datapoints,
        not_tested=removed.not_tested,
        notes=removed.notes,
        ledger=ledger.name,
        ledger_version=asked.version,
        data=f"still in {ledger.path.name}, version {asked.version}",
        seconds=removed.seconds,
    )
    columns, version = _write(ledger, asked, removed, name, seed)
    return Forgotten(removed.model, certificate, columns, version)


def _request(
    ledger: Ledger,
    ids: Sequence[Any] | None,
    where: str | None,
    retain: str | None,
    holdout: str | None,
    stage: Stage,
    seed: int,
) -> Request:
    """The rows to forget, to keep and never seen, or a refusal."""
    if (ids is None) == (where is None):
        raise DatumwiseError("say which datapoints are to be forgotten", remedy="by ids, or by a condition, not both")
    ledger.refresh()
    known = ledger.ids.astype(str)
    if ids is None:
        forget = places(ledger, where)
    else:
        wanted = np.unique(np.asarray([str(one) for one in ids], dtype=str))
        order = np.argsort(known)
        at = np.searchsorted(known, wanted, sorter=order)
        there = (at < len(known)) & (known[order[np.minimum(at, len(known) - 1)]] == wanted)
        if not there.all():
            bad = wanted[~there].tolist()
            raise MissingId(f"{len(bad):,} ids are not on {ledger.name} ({name_some(bad)})", ids=bad)
        forget = np.sort(order[at])
    if not len(forget):
        raise EmptyData("no datapoint is to be forgotten", remedy="a wider condition, or some ids")
    unseen = places(ledger, holdout) if holdout else np.array([], np.int64)
    both = np.intersect1d(forget, unseen)
    if len(both):
        raise DatumwiseError(
            f"{len(both):,} datapoints to forget are also held out as never seen ({name_some(known[both].tolist())})",
            remedy="narrow --holdout",
            ids=known[both].tolist(),
        )
    kept = np.setdiff1d(places(ledger, retain), np.concatenate([forget, unseen]))
    if not len(kept):
        raise EmptyData("no datapoint would be left", remedy="forget fewer, or widen --retain")
    return Request(ledger, ledger.version, known, forget, kept, unseen, stage, seed)


def _remover(model: Any, tokenizer: Any, ledger: Ledger) -> Callable[..., Removed]:
    """What removes datapoints from a model of this kind; language models and modules bring torch with them."""
    if hasattr(model, "fit") and hasattr(model, "get_params"):
        from datumwise.evaluate.forget_rows import forget_rows

        return forget_rows
    if not hasattr(model, "named_parameters"):
        raise DatumwiseError(f"a {type(model).__name__} cannot forget", remedy="give a torch module or an estimator")
    if hasattr(model, "generate") and tokenizer is not None and not ledger.roles.get("label"):
        from datumwise.evaluate.forget_texts import forget_texts

        return forget_texts
    from datumwise.evaluate.forget_module import forget_module

    return forget_module


def _write(ledger: Ledger, asked: Request, removed: Removed, name: str, seed: int) -> tuple[tuple[str, ...], int]:
    """Losses of the request's datapoints, by model; null elsewhere."""
    values = {}
    for what, losses in removed.losses.items():
        whole = np.full(len(asked.ids), np.nan)
        whole[asked.forget] = losses
        values[f"{name}_{what}"] = pa.array(whole, pa.float64(), from_pandas=True)
    stale = [one for what in WRITTEN if (one := f"{name}_{what}") in ledger.schema.names and one not in values]
    params, models = {"method": removed.method}, removed.fingerprints
    made = {
        f"{name}_{what}": Provenance(f"loss {what}", params, [], models[what], seed, higher=HIGHER) for what in removed.losses
    }
    version = ledger.write(values, provenance=made, overwrite=True) if values else ledger.version
    if stale:
        version = ledger.drop(stale)
    return tuple(values), version
