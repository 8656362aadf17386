"""The posterior of an unknown quantity, given the datapoints of a ledger, and which of them moved it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datumwise.errors import ColumnExists, DatumwiseError, EmptyData, NotFinite, SchemaMismatch, name_some
from datumwise.learn.distribution_transformer import DistributionTransformer, Posterior
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.ledger.provenance import Provenance
from datumwise.probe.fingerprint import model_fingerprint

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["Inferred", "infer", "prior_of"]

SOURCE = "Whittle et al., 2025"


@dataclass(frozen=True)
class Inferred:
    """A posterior and what stands on the ledger.

    Attributes
    ----------
    prior, posterior : GaussianMixture
        Of one problem, over the unconstrained state.
    answer : Posterior
        With its diagnostics.
    n : int
        Datapoints.
    mean, sd : list of float (d,)
        Of the state within its support, from draws.
    interval : list of (float, float)
        Central 90 % of each coordinate, from draws.
    column : str
        KL(posterior || posterior without the datapoint), in nats.
    most : list of (id, float)
        The datapoints that moved the posterior most.
    notes : tuple of str
    version : int
    """

    prior: GaussianMixture
    posterior: GaussianMixture
    answer: Posterior
    n: int
    mean: list[float]
    sd: list[float]
    interval: list[tuple[float, float]]
    column: str
    most: list[tuple[str, float]]
    notes: tuple[str, ...]
    version: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        diagnostics = {
            name: None if value is None else float(value[0])
            for name, value in (
                ("ess", self.answer.ess),
                ("khat", self.answer.khat),
                ("log_evidence", self.answer.log_evidence),
            )
        }
        return {
            "datapoints": self.n,
            "mean": self.mean,
            "sd": self.sd,
            "interval": [list(one) for one in self.interval],
            "in_family": bool(self.answer.in_family[0]),
            **diagnostics,
            "prior": self.prior.as_dict(),
            "posterior": self.posterior.as_dict(),
            "column": self.column,
            "most": [list(one) for one in self.most],
            "notes": list(self.notes),
            "version": self.version,
        }

    def to_json(self) -> str:
        """The same as one JSON object."""
        return json.dumps(self.as_dict())


def infer(
    ledger: Ledger,
    model: DistributionTransformer,
    prior: GaussianMixture,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    log_likelihood: Any = None,
    refine: int = 0,
    column: str = "posterior",
    seed: int = 0,
) -> Inferred:
    """Infer a model's unknown state from datapoints, and write how much each of them moves the posterior.

    Parameters
    ----------
    ledger : Ledger
        A row an observation.
    model : DistributionTransformer
        Trained.
    prior : GaussianMixture
        Of one problem; brought to the model's number of components.
    columns : sequence of str, optional
        The numbers of an observation, in the model's order; default the ledger's features.
    where : str, optional
        SQL condition: only these datapoints are observed.
    log_likelihood : callable, optional
        As `DistributionTransformer.posterior` takes it; gives effective sample size, k-hat and evidence.
    refine : int
        Rounds of importance refinement; needs the likelihood.
    column : str
        Prefix of the column written, ``<column>_influence``.
    seed : int

    Returns
    -------
    Inferred

    Raises
    ------
    SchemaMismatch
        The columns are not as many numbers as the model observes.
    NotFinite
        A value is missing, NaN or infinite.
    EmptyData
        No datapoint is left.
    """
    import warnings

    roles = ledger.roles.get("features") or []
    columns = list(columns or ([roles] if isinstance(roles, str) else roles))
    wanted = model.config["obs_dim"]
    if not isinstance(wanted, int):
        raise SchemaMismatch("the model has several sensors, which a ledger's rows do not name", remedy="call its posterior()")
    if len(columns) != wanted:
        raise SchemaMismatch(
            f"the model observes {wanted} numbers a datapoint and {len(columns)} columns were given ({name_some(columns)})",
            remedy="name them with --columns, in the model's order",
        )
    table = ledger.table(["id", *columns], where=where)
    ids = [str(one) for one in table["id"].to_pylist()]
    if not ids:
        raise EmptyData("no datapoint is left to learn from", remedy="a wider condition")
    data = np.column_stack([np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64) for name in columns])
    wrong = np.flatnonzero(~np.isfinite(data).all(1))
    if len(wrong):
        bad = [ids[i] for i in wrong]
        raise NotFinite(
            f"{len(bad):,} observations are missing or not finite ({name_some(bad)})", remedy="leave them out", ids=bad
        )
    given = [one.name for one in ledger.columns if one.name == f"{column}_influence" and one.provenance is None]
    if given:
        raise ColumnExists(f"column {given[0]!r} came with the data", remedy="give another name")

    like = model.datum_shift
    own = prior.to(dtype=like.dtype, device=like.device)
    own = own.split(model.n_components) if own.n_components < model.n_components else own.reduce(model.n_components)
    observed = torch.as_tensor(data, dtype=like.dtype, device=like.device)[None]
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        options = {"log_likelihood": log_likelihood, "refine": refine} if log_likelihood is not None else {}
        answer = model.posterior(own, observed, generator=generator, **options)
        influence = model.datapoint_influence(own, observed, ids=ids).double().cpu().numpy()
    draws = answer.sample(20_000, torch.Generator().manual_seed(seed))[:, 0].double().cpu()
    ends = torch.quantile(draws, torch.tensor([0.05, 0.95], dtype=draws.dtype), dim=0)
    provenance = Provenance(
        "datapoint_influence", {"columns": columns, "prior": prior.as_dict()}, reads=columns, model=model_fingerprint(model),
        seed=seed, source=SOURCE, higher="moves the posterior more, in nats",
    )  # fmt: skip
    name = f"{column}_influence"
    whole = len(ids) == len(ledger)
    if not whole and name in ledger.schema.names:
        ledger.drop(name)
    version = ledger.write({name: influence}, provenance=provenance, ids=None if whole else ids, overwrite=True)
    order = np.argsort(-influence, kind="stable")[:10]
    return Inferred(
        own, answer.mixture, answer, len(ids), draws.mean(0).tolist(), draws.std(0).tolist(),
        [(float(low), float(high)) for low, high in ends.T], name, [(ids[i], float(influence[i])) for i in order],
        tuple(dict.fromkeys(str(one.message) for one in said)), version,
    )  # fmt: skip


def prior_of(words: str) -> GaussianMixture:
    """A mixture of one dimension from words: ``weight:mean:sd``, joined by commas.

    Raises
    ------
    DatumwiseError

    Examples
    --------
    >>> prior_of("1:0:2,1:4:1").mean
    tensor([[2.]], dtype=torch.float64)
    """
    parts = [part.split(":") for part in words.split(",")]
    try:
        weight, mean, sd = np.array([[float(value) for value in part] for part in parts]).T
    except ValueError:
        raise DatumwiseError(
            f"prior {words!r} is not read", remedy="say weight:mean:sd, joined by commas: 0.5:-1:1,0.5:2:0.5"
        ) from None
    if not ((weight > 0).all() and (sd > 0).all() and np.isfinite([weight, mean, sd]).all()):
        raise DatumwiseError(f"prior {words!r} has a weight or a standard deviation that is not positive")
    tensor = torch.as_tensor
    return GaussianMixture(tensor(weight / weight.sum())[None], tensor(mean)[None, :, None], tensor(sd)[None, :, None, None])
