"""How does each training datapoint bear on each query? Ten methods of attribution behind one function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, NotFinite, UnknownName, name_some

__all__ = ["METHODS", "attribute"]

# method -> file of probe/attribution that has a function of this name, and its options' source
METHODS: dict[str, tuple[str, str]] = {
    "trak": ("trak", "trak"),
    "less": ("less", "less"),
    "tracin": ("grad_dot", "trace"),
    "grad_dot": ("grad_dot", "trace"),
    "grad_cos": ("grad_dot", "trace"),
    "influence": ("influence", "influence"),
    "ekfac": ("kronecker", "kronecker"),
    "kfac": ("kronecker", "kronecker"),
    "datainf": ("datainf", "datainf"),
    "representer": ("representer", "representer"),
}
OF_THE_METHOD: dict[str, dict[str, Any]] = {
    "ekfac": {"eigenvalues": "ekfac"},
    "kfac": {"eigenvalues": "kfac"},
    "grad_cos": {"cosine": True},
}
OF_THE_SOLVER = ("tolerance", "max_iterations", "depth", "repeats", "scale", "rank", "steps")


def attribute(
    model: Any,
    train: Any,
    test: Any,
    loss: str | Callable[..., Any] = "cross_entropy",
    method: str = "trak",
    *,
    checkpoints: Sequence[Any] | None = None,
    projection: Any = "auto",
    damping: float | None = None,
    hessian: str | None = None,
    measure: str | Callable[..., Any] | None = None,
    groups: Sequence[Any] | None = None,
    modules: Any = None,
    allow_partial: bool = False,
    tokenizer: Any = None,
    collate: Callable[..., Any] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> np.ndarray:
    """Scores of every training datapoint for every query. **Larger: more helpful.**

    =============  ==========================================================================================
    method         score of query t and datapoint i
    =============  ==========================================================================================
    trak           phi_t^T (Phi^T Phi + lambda)^-1 phi_i (1 - p_i), of projected gradients of the log-odds
    less           cosine of the query's gradient with Adam's step from the datapoint; needs ``adam=``
    tracin         sum over checkpoints of w_c <g_t, g_i>
    grad_dot       <g_t, g_i>, exact
    grad_cos       their cosine
    influence      g_t^T (H + lambda)^-1 g_i; ``hessian``, and ``solver`` = "direct", "cg", "lissa", "arnoldi"
    ekfac, kfac    the same with a layer's curvature as a Kronecker product
    datainf        the same with a closed form for each layer
    representer    alpha_i k(x_i, x_t) of the last layer, refitted
    =============  ==========================================================================================

    Parameters
    ----------
    model : torch.nn.Module
        Trainable parameters count, of LoRA models (peft) the adapters alone. It is put back as it was.
    train, test : (X, y), Ledger, DataLoader, Dataset or list of batches
        n datapoints and m queries. Batches are (x, y) or dictionaries as transformers models take them; a causal
        language model's loss is the sum over the supervised tokens (``labels`` of -100 are none).
    loss : {"cross_entropy", "squared_error", "binary_cross_entropy"} or callable (model, batch) -> Tensor (n,)
    method : str
    checkpoints : sequence of state dicts or files of them, optional
        Weights along training, or of an ensemble; the trainable parameters alone will do. Scores are averaged,
        of tracin, grad_dot and grad_cos summed with ``weights``.
    projection : "auto", None, int or array (p, k)
        Numbers kept of a gradient, by a hashed sign projection that is never stored, or a matrix of your own,
        one row a trainable scalar in the order of ``model.named_parameters()``. "auto" is the method's own:
        2,048 for trak, 8,192 for less (none where the model has fewer parameters), none for the others.
    damping : float, optional
        lambda itself. Default: the share ``relative_damping`` of the matrix's mean eigenvalue.
    hessian : {"exact", "gauss_newton", "empirical_fisher"}, optional
        Of influence, ekfac and kfac; "gauss_newton" by default.
    measure : "loss", "log_odds" or callable (model, batch) -> Tensor (m,), optional
        What is asked of the queries; a callable's values count as better when larger. Default: the log-odds for
        trak, the loss for the others.
    groups : sequence of m, optional
        Subtask of each query: the answer is the mean over a subtask's queries, (g, n), subtasks in the order
        they first come. LESS's selection score is its ``.max(axis=0)``.
    modules : list of patterns, or function (name, module) -> bool, optional
        Which modules' parameters count.
    allow_partial : bool
        Accept that some trainable parameters cannot be captured.
    tokenizer, collate
        For a ledger.
    batch_size : int
        Datapoints a batch of what is cut here; changes no score.
    seed : int
        Of the projection, sampled labels and random starts.
    progress : callable (done, total), optional
        Datapoints gone through; total 0 where it is not known beforehand.
    **options
        Of the method, see the functions in ``datumwise.probe.attribution``: ``weights`` (tracin, less),
        ``adam``, ``adam_eps_inside`` (less), ``gram``, ``threshold`` (trak), ``solver`` and its settings
        (influence), ``factors`` (ekfac), ``relative_damping``; ``index`` = a folder (trak, less, tracin, grad_dot,
        grad_cos): the training rows are kept there and used by the next call.

    Returns
    -------
    ndarray (m, n), or (g, n) with groups
        float32, float64 for a float64 model.

    Raises
    ------
    UnknownName, ModelMismatch, NotFinite, EmptyData, SchemaMismatch, DatumwiseError

    Examples
    --------
    Which of four points taught a classifier about a fifth? Those beside it with its label.

    >>> import torch
    >>> X, y = torch.tensor([[2.0, 0], [1, 0], [-1, 0], [-2, 0]]), torch.tensor([1, 0, 0, 0])
    >>> model = torch.nn.Linear(2, 2)
    >>> scores = attribute(model, (X, y), (torch.tensor([[3.0, 0]]), torch.tensor([1])), method="grad_dot")
    >>> (scores > 0).tolist()
    [[True, False, True, True]]
    """
    name = _known(method)
    function, accepted = _function(name)
    chosen: dict[str, Any] = dict(options)
    for key, value in (("checkpoints", checkpoints), ("damping", damping), ("hessian", hessian)):
        if value is not None:
            chosen[key] = value
    if not (isinstance(projection, str) and projection == "auto"):
        chosen["projection"] = projection
    _check_options(name, chosen, accepted)

    from datumwise.probe.attribution.less import subtask_mean
    from datumwise.probe.attribution.problem import Problem, check_checkpoints

    if "checkpoints" in chosen:
        chosen["checkpoints"] = check_checkpoints(checkpoints)
    if name == "representer" and measure is not None:
        raise DatumwiseError("representer points are of the query's own label", remedy="leave out measure=")
    _check_weights(chosen)
    problem = Problem(
        model,
        train,
        test,
        loss=loss,
        measure=measure if measure is not None else "log_odds" if name == "trak" else "loss",
        modules=modules,
        allow_partial=allow_partial,
        tokenizer=tokenizer,
        collate=collate,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    scores = np.ascontiguousarray(function(problem, **chosen, **OF_THE_METHOD.get(name, {})))
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise NotFinite(f"the scores of query {name_some(bad)} are not finite", remedy="raise damping=", ids=bad.tolist())
    return scores if groups is None else subtask_mean(scores, groups)[0]


def _known(method: str) -> str:
    if method not in METHODS:
        near = get_close_matches(str(method), METHODS, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"choose {', '.join(METHODS)}"
        raise UnknownName(f"there is no method {method!r}", remedy=remedy)
    return method


def _function(name: str) -> tuple[Callable[..., np.ndarray], list[str]]:
    """The method's function and the names of its options."""
    file, function = METHODS[name]
    found = getattr(import_module(f"datumwise.probe.attribution.{file}"), function)
    parameters = inspect.signature(found).parameters.values()
    accepted = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in OF_THE_METHOD.get(name, {})]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        accepted += OF_THE_SOLVER
    return found, accepted


def _check_options(name: str, chosen: dict[str, Any], accepted: list[str]) -> None:
    hidden = OF_THE_METHOD.get(name, {}).keys() | ({"cosine"} if METHODS[name][1] == "trace" else set())
    for option in chosen:
        if option in hidden or option not in accepted:
            offered = [a for a in accepted if a not in hidden]
            near = get_close_matches(option, offered, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"its options are {', '.join(offered)}"
            raise UnknownName(f"the method {name} has no option {option!r}", remedy=remedy)
    if name == "less" and "adam" not in chosen:
        raise DatumwiseError(
            "less needs the optimiser's moments at the checkpoints",
            remedy="pass adam= the AdamW optimiser, its state_dict() or {parameter: (m, v)}",
        )


def _check_weights(chosen: dict[str, Any]) -> None:
    weights, checkpoints = chosen.get("weights"), chosen.get("checkpoints")
    if weights is None:
        return
    count = 1 if checkpoints is None else len(checkpoints)
    if len(weights) != count:
        raise DatumwiseError(f"{len(weights)} weights for {count} checkpoints", remedy="give one number a checkpoint")
    if not np.isfinite(np.asarray(weights, dtype=np.float64)).all():
        raise DatumwiseError("the checkpoints' weights have NaN or infinity")
