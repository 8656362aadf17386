"""How did the model's answer on each datapoint move while it learnt? Logits kept epoch by epoch.

Source: training dynamics as in Swayamdipta et al. (2020), Toneva et al. (2019), Pleiss et al. (2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from datumwise.errors import (
    DatumwiseError,
    LabelError,
    MissingId,
    ModelMismatch,
    NotFinite,
    UnknownName,
    name_some,
)

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["TrainingDynamics"]

COLUMNS = ("logits_by_epoch", "loss_by_epoch", "margin_by_epoch", "correct_by_epoch")


class TrainingDynamics:
    """Logits of each datapoint at each epoch, recorded from any training loop.

    Parameters
    ----------
    datapoints : int or sequence of str (n,)
        How many datapoints there are, or their ids.
    labels : array-like (n,) of int, optional
        Class codes, if they are known beforehand; otherwise `record` takes them.

    Examples
    --------
    >>> dynamics = TrainingDynamics(["a", "b", "c"])
    >>> dynamics.record(["c", "a"], [[0.0, 2.0], [1.0, 0.0]], labels=[1, 1])
    >>> dynamics.end_epoch()
    >>> dynamics.logits.shape, dynamics.margins.round(1).tolist()
    ((1, 3, 2), [[-1.0, nan, 2.0]])
    """

    def __init__(self, datapoints: int | Sequence[str], *, labels: Any = None) -> None:
        if isinstance(datapoints, (int, np.integer)):
            self.n = int(datapoints)
            self.ids: np.ndarray | None = None
            self._position: dict[str, int] = {}
        else:
            self.ids = np.asarray([str(i) for i in datapoints])
            self.n = len(self.ids)
            self._position = {i: row for row, i in enumerate(self.ids.tolist())}
            if len(self._position) != self.n:
                raise DatumwiseError("an id occurs twice", remedy="give each datapoint an id of its own")
        if self.n < 1:
            raise DatumwiseError("there is no datapoint to follow")
        self.labels = np.full(self.n, -1, dtype=np.int64)
        self._epochs: list[np.ndarray] = []
        self._open = False
        self._width: int | None = None
        if labels is not None:
            self._set_labels(np.arange(self.n), labels)

    def record(self, datapoints: Any, logits: Any, labels: Any = None, epoch: int | None = None) -> None:
        """Keep the logits of some datapoints at the present epoch, or at a named one.

        Parameters
        ----------
        datapoints : sequence (b,)
            Ids if the object was made with ids, else row numbers.
        logits : tensor or array (b, K)
            Scores before the softmax, any float type, any device; detached and copied as float32. A row
            recorded twice in an epoch keeps the last.
        labels : array-like (b,) of int, optional
            Class codes in 0..K-1; must not change between records.
        epoch : int, optional
            Epoch from 0; default: the one that is open. Naming a later one leaves the epochs between as NaN.
        """
        rows = self._rows(datapoints)
        values = _float32(logits)
        if values.ndim != 2 or len(values) != len(rows):
            raise ModelMismatch(f"logits have shape {values.shape} for {len(rows)} datapoints, not (n, classes)")
        if self._width not in (None, values.shape[1]):
            raise ModelMismatch(f"logits have {values.shape[1]} classes, earlier ones had {self._width}")
        if not np.isfinite(values).all():
            bad = [self._name(r) for r in rows[~np.isfinite(values).all(axis=1)]]
            raise NotFinite(f"logits are NaN or infinite for {name_some(bad)}", ids=bad)
        self._width = values.shape[1]
        if self.labels.max() >= self._width:
            largest = int(self.labels.max())
            raise LabelError(f"label code {largest} is not among the {self._width} classes of the logits")
        if labels is not None:
            self._set_labels(rows, labels)
        if epoch is None:
            epoch = len(self._epochs) - 1 if self._open else len(self._epochs)
        if epoch < 0:
            raise DatumwiseError(f"epoch is {epoch}, the first is 0")
        while len(self._epochs) <= epoch:
            self._epochs.append(np.full((self.n, self._width), np.nan, dtype=np.float32))
            self._open = True
        self._epochs[epoch][rows] = values

    def end_epoch(self) -> None:
        """Close the open epoch: the next record begins a new one. An epoch with no record is kept as NaN."""
        if not self._open and self._width is not None:
            self._epochs.append(np.full((self.n, self._width), np.nan, dtype=np.float32))
        self._open = False

    @property
    def n_epochs(self) -> int:
        return len(self._epochs)

    @property
    def logits(self) -> np.ndarray:
        """Logits, float32 (E, n, K); NaN where a datapoint was not recorded."""
        if not self._epochs:
            raise DatumwiseError("nothing was recorded", remedy="call record(ids, logits) in the training loop")
        return np.stack(self._epochs)

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy in nats, float32 (E, n); NaN where logits or label are missing."""
        logits = self.logits
        return self._masked(logsumexp(logits, axis=2) - self._own(logits)).astype(np.float32)

    @property
    def margins(self) -> np.ndarray:
        """Logit of the label minus the largest other logit, float32 (E, n)."""
        logits = self.logits
        if logits.shape[2] < 2:
            raise ModelMismatch("a margin needs at least two classes and the logits have one")
        own = self._own(logits)
        others = logits.copy()
        others[:, np.arange(self.n), np.maximum(self.labels, 0)] = -np.inf
        return self._masked(own - others.max(axis=2))

    @property
    def correct(self) -> np.ndarray:
        """1 where the largest logit is the label's (ties: lowest class), else 0 or NaN; float32 (E, n)."""
        logits = self.logits
        missing = np.isnan(logits).any(axis=2)
        hit = np.where(missing[..., None], 0, logits).argmax(axis=2) == self.labels
        return np.where(missing, np.nan, self._masked(hit.astype(np.float32))).astype(np.float32)

    def signals(self) -> dict[str, np.ndarray]:
        """The arrays that scores ask for: ``logits_by_epoch`` float32 (E, n, K) and ``labels`` int64 (n,)."""
        self._check_labels()
        return {"logits_by_epoch": self.logits, "labels": self.labels.copy()}

    def write(self, ledger: Ledger, names: Iterable[str] = COLUMNS[1:], *, overwrite: bool = False) -> int:
        """Write findings to a ledger, one fixed-size list a datapoint.

        Parameters
        ----------
        ledger : Ledger
            Holds every recorded id; without ids, it must have n rows, in the order of the row numbers.
        names : iterable of str
            Of ``logits_by_epoch`` (n, E * K, epoch by epoch), ``loss_by_epoch`` (n, E),
            ``margin_by_epoch`` (n, E), ``correct_by_epoch`` (n, E).

        Returns
        -------
        int
            The ledger's new version.
        """
        from datumwise.ledger import Provenance

        values, provenance = {}, {}
        for name in names:
            values[name] = self._column(name)
            provenance[name] = Provenance(
                method="TrainingDynamics",
                params={"epochs": self.n_epochs, "classes": self._width},
                reads=[],
                model=None,
                seed=None,
                source="Swayamdipta et al., 2020",
            )
        if self.ids is None and len(ledger) != self.n:
            raise DatumwiseError(f"{self.n:,} datapoints were followed and the ledger holds {len(ledger):,}")
        ids = None if self.ids is None else self.ids
        return ledger.write(values, provenance=provenance, ids=ids, overwrite=overwrite)

    def _column(self, name: str) -> np.ndarray:
        if name == "logits_by_epoch":
            return np.ascontiguousarray(self.logits.transpose(1, 0, 2)).reshape(self.n, -1)
        arrays = {"loss_by_epoch": "losses", "margin_by_epoch": "margins", "correct_by_epoch": "correct"}
        if name not in arrays:
            raise UnknownName(f"training dynamics have no column {name}", remedy=f"choose of {', '.join(COLUMNS)}")
        return np.ascontiguousarray(getattr(self, arrays[name]).T)

    def _own(self, logits: np.ndarray) -> np.ndarray:
        self._check_labels()
        return logits[:, np.arange(self.n), np.maximum(self.labels, 0)]

    def _masked(self, values: np.ndarray) -> np.ndarray:
        """`values` (E, n) with NaN where a datapoint has no label."""
        return np.where(self.labels[None, :] < 0, np.float32(np.nan), values)

    def _check_labels(self) -> None:
        if (self.labels < 0).all():
            raise LabelError("no labels were recorded", remedy="pass labels= to TrainingDynamics or to record")

    def _set_labels(self, rows: np.ndarray, labels: Any) -> None:
        codes = labels.detach().cpu().numpy() if hasattr(labels, "detach") else np.asarray(labels)
        if codes.shape != (len(rows),) or codes.dtype.kind not in "iub":
            raise LabelError("labels must be one integer class code per datapoint")
        codes = codes.astype(np.int64)
        wrong = (codes < 0) | ((codes >= self._width) if self._width is not None else False)
        if wrong.any():
            raise LabelError(f"label codes {name_some(codes[wrong])} are not among the classes of the logits")
        changed = (self.labels[rows] >= 0) & (self.labels[rows] != codes)
        if changed.any():
            bad = [self._name(r) for r in rows[changed]]
            raise LabelError(f"the label of {name_some(bad)} changed between two records", ids=bad)
        self.labels[rows] = codes

    def _rows(self, datapoints: Any) -> np.ndarray:
        given = datapoints.detach().cpu().numpy() if hasattr(datapoints, "detach") else datapoints
        values = np.atleast_1d(np.asarray(given))
        if self.ids is None:
            if values.dtype.kind not in "iu":
                raise MissingId("datapoints are row numbers here", remedy="give TrainingDynamics the ids")
            outside = (values < 0) | (values >= self.n)
            if outside.any():
                raise MissingId(f"row {name_some(values[outside])} is outside of the {self.n:,} datapoints")
            return values.astype(np.int64)
        missing = [str(i) for i in values.tolist() if str(i) not in self._position]
        if missing:
            raise MissingId(f"{name_some(missing)} is not among the {self.n:,} datapoints", ids=missing)
        return np.array([self._position[str(i)] for i in values.tolist()], dtype=np.int64)

    def _name(self, row: int) -> str:
        return str(row) if self.ids is None else str(self.ids[row])


def _float32(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    return np.array(values, dtype=np.float32)
