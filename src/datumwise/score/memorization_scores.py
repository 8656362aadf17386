"""Which datapoints has a model learnt by heart? Scores from the curvature of its loss, with the loss itself beside them.

Merullo et al., 2025, *From Memorization to Reasoning in the Spectrum of Loss Curvature*, and what replications found: the
share of activation energy in flat directions tells recited texts apart, the loss under a mild edit mislabelled images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import EmptyData, MissingExtra, SchemaMismatch
from datumwise.score.scores import Scores

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["DIRECTIONS", "MemorizationScores", "given_loss", "memorization_scores"]

SOURCES = {
    "loss": "the model's own loss",
    "flat_share": "Merullo et al., 2025, figure 2; a label-free share of activation energy",
    "flat_share_given_loss": "Merullo et al., 2025, figure 2; residual after regression on the loss",
    "removed_energy": "Merullo et al., 2025, eq. 3",
    "self_influence": "Koh and Liang, 2017, eq. 2; Grosse et al., 2023, section 3.2",
    "grad_norm": "Paul et al., 2021",
    "edit_sensitivity": "Merullo et al., 2025, section 4",
    "input_curvature": "Garg and Roy, 2023, eq. 5",
}
DIRECTIONS = {
    "loss": "predicted worse: mislabelled if high, perhaps recited if low",
    "flat_share": "more of its activation in directions that ordinary data hardly use: recited text",
    "flat_share_given_loss": "the same, more than its loss explains",
    "removed_energy": "more of its gradient in components that an edit removes",
    "self_influence": "stands alone: mislabelled or rare if high; recited text is low",
    "grad_norm": "pushes the weights harder: mislabelled if high; recited text is low",
    "edit_sensitivity": "suffers more from the edit: learnt by heart",
    "input_curvature": "loss bends sharply around it: learnt by heart, or on a border",
}
DEGREE = 2  # of the polynomial in the rank of the loss


class MemorizationScores(Scores):
    """Scores by name, aligned to ``ids``; `higher` says what a high value of each means.

    Attributes
    ----------
    parameters : dict
        What the scores were computed with; goes into the provenance of a ledger's columns.
    model : str
        Fingerprint.
    """

    def __init__(self, ids: Any, values: Mapping[str, np.ndarray], *, parameters: Mapping[str, Any], model: str) -> None:
        super().__init__(ids, values, higher={name: DIRECTIONS[name] for name in values})
        self.parameters = dict(parameters)
        self.model = model

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
        """Write every score but the loss to a ledger, as `Scores.write`; the provenance is filled in.

        The ``loss`` column of a ledger is a sum over tokens and is left as it is.
        """
        version = ledger.version
        for name in self:
            if name == "loss":
                continue
            one = Scores(self.ids, {name: self[name]}, higher={name: self.higher[name]})
            version = one.write(
                ledger,
                method=method or name,
                params=dict(self.parameters) | dict(params or {}),
                model=model or self.model,
                seed=self.parameters.get("seed") if seed is None else seed,
                source=source or SOURCES[name],
                reads=reads,
                overwrite=overwrite,
            )
        self.version = version
        return version


def memorization_scores(
    model: Any,
    data: Any,
    kfac: Any = None,
    scores: Sequence[str] = ("flat_share", "self_influence", "removed_energy", "loss"),
    *,
    calibration: Any = None,
    keep_mass: float | None = None,
    edit: Any = None,
    flat: float = 0.6,
    eigenvalues: str = "kfac",
    damping: float = 0.1,
    draws: int = 10,
    loss_fn: Any = None,
    ids: Sequence[Any] | None = None,
    tokenizer: Any = None,
    collate: Callable[..., Any] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> MemorizationScores:
    """How much of the model's behaviour on each datapoint lives in directions that almost nothing else uses?

    ``flat_share`` costs one forward, ``removed_energy``, ``self_influence`` and ``grad_norm`` one backward more,
    ``edit_sensitivity`` a second forward, ``input_curvature`` ``draws + 1`` forwards and backwards. Batches are read once
    for all of them.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers causal language model, an image classifier, any module with Linear layers or convolutions.
    data : Ledger, iterable of batches, or (x, y) tensors
        The datapoints to score.
    kfac : KFAC, optional
        Fitted on ordinary data. Without it factors are fitted to ``calibration`` (default: ``data``), on the layers that
        `datumwise.probe.curvature_scores.curvature_layers` names.
    scores : sequence of str
        flat_share, removed_energy, self_influence, grad_norm, edit_sensitivity, input_curvature, loss. The loss is always
        given too, and with ``flat_share`` what of it the loss does not explain, ``flat_share_given_loss``.
    calibration : as ``data``, optional
    keep_mass : float, optional
        Curvature mass that the edit of ``removed_energy`` and ``edit_sensitivity`` keeps: 0.7 for models of tokens and a
        mild 0.99 for others by default.
    edit : CurvatureEdit, optional
        Or anything with a context manager ``applied(model)``, instead of that edit.
    flat : float
        Share of the input directions, by count, that are called flat.
    eigenvalues : {"kfac", "ekfac"}
        Of ``self_influence``.
    damping : float
        Of ``self_influence``, as a share of a layer's mean eigenvalue.
    draws : int
        Of ``input_curvature``.
    loss_fn, ids, tokenizer, collate, batch_size
        As of `datumwise.probe.KFAC.fit`.
    seed : int
        Of factors fitted here and of the draws.
    progress : callable (done, total), optional

    Returns
    -------
    MemorizationScores
        ``top(name, k)``, ``write(ledger)``, a printed table. ``loss`` and ``edit_sensitivity`` are per predicted token.

    Raises
    ------
    UnknownName, ModelMismatch, NotFinite, EmptyData, MissingExtra

    Notes
    -----
    A low loss often tells as much: texts repeated in training are predicted best. So the loss is printed beside every
    score, and `datumwise.evaluate.memorization_auc` compares at equal loss.

    Examples
    --------
    >>> import torch
    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> x = torch.randn(200, 8) * torch.tensor([3.0] * 4 + [0.1] * 4)  # half of the inputs hardly vary
    >>> x[7] = torch.tensor([0.0] * 4 + [2.0] * 4)  # but for this one
    >>> model = torch.nn.Linear(8, 2)
    >>> memorization_scores(model, (x, (x[:, 0] > 0).long()), scores=["flat_share"]).top("flat_share", 1)[0][0]
    7
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtra("scores by curvature need torch", remedy="pip install 'datumwise[lm]'") from error
    from datumwise.probe.curvature_scores import curvature_scores, default_keep_mass, fitted
    from datumwise.probe.fingerprint import model_fingerprint

    chosen = [name for name in dict.fromkeys(scores) if name != "flat_share_given_loss"]
    if "flat_share_given_loss" in scores and "flat_share" not in chosen:
        chosen.append("flat_share")
    reading: dict[str, Any] = {"tokenizer": tokenizer, "collate": collate, "batch_size": batch_size, "loss_fn": loss_fn}
    if kfac is None:
        own = {} if calibration is not None else {"ids": ids}
        labels = "sampled" if loss_fn is None else "gold"
        where = data if calibration is None else calibration
        kfac = fitted(model, where, ekfac=eigenvalues == "ekfac", labels=labels, seed=seed, **reading, **own)
    keep_mass = default_keep_mass(model) if keep_mass is None else keep_mass
    names, columns = curvature_scores(
        model,
        data,
        kfac,
        [*dict.fromkeys([*chosen, "loss"])],
        keep_mass=keep_mass,
        edit=edit,
        flat=flat,
        eigenvalues=eigenvalues,
        damping=damping,
        draws=draws,
        ids=ids,
        seed=seed,
        progress=progress,
        **reading,
    )
    ordered = {}
    for name in [*chosen, *([] if "loss" in chosen else ["loss"])]:
        ordered[name] = columns[name]
        if name == "flat_share" and len(names) > DEGREE + 1:
            ordered["flat_share_given_loss"] = given_loss(columns["flat_share"], columns["loss"])
    parameters = {
        "layers": sorted(kfac.factors_),
        "positions": kfac.positions,
        "labels": kfac.labels,
        "keep_mass": None if edit is not None else keep_mass,
        "flat": flat,
        "eigenvalues": eigenvalues,
        "damping": damping,
        "draws": draws,
        "seed": seed,
    }
    return MemorizationScores(names, ordered, parameters=parameters, model=model_fingerprint(model))


def given_loss(values: Any, loss: Any) -> np.ndarray:
    """What of a score the loss does not explain: its residual after a quadratic regression on the rank of the loss.

    Parameters
    ----------
    values : float (n,)
    loss : float (n,)
        A datapoint's; a mean over tokens for texts. Datapoints of NaN in either stay NaN and count for nothing.

    Returns
    -------
    float64 (n,)
        Mean 0.

    Raises
    ------
    SchemaMismatch, EmptyData

    Examples
    --------
    >>> loss = np.arange(8.0)
    >>> given_loss(3 - loss / 7 + np.array([0, 0, 0, 1, 0, 0, 0, 0]), loss).argmax()
    np.int64(3)
    """
    y, x = np.asarray(values, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if y.ndim != 1 or y.shape != x.shape:
        raise SchemaMismatch(f"scores of shape {y.shape} and losses of shape {x.shape} do not fit together")
    known = np.flatnonzero(np.isfinite(y) & np.isfinite(x))
    if len(known) <= DEGREE + 1:
        raise EmptyData(f"a regression on the loss needs {DEGREE + 2} datapoints and {len(known)} are known")
    order = np.unique(x[known], return_inverse=True)[1]
    counts = np.bincount(order)
    rank = (np.cumsum(counts) - counts / 2)[order] / len(known) - 0.5  # mid-ranks, -0.5 to 0.5
    design = np.stack([rank**power for power in range(DEGREE + 1)], axis=1)
    fit = np.linalg.lstsq(design, y[known], rcond=None)[0]
    found = np.full(len(y), np.nan)
    found[known] = y[known] - design @ fit
    return found
