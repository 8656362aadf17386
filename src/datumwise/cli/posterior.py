"""``datumwise posterior``: train a network from (prior, data) to posterior, and infer from the datapoints of a ledger."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datumwise.cli.interrupted import interrupted
from datumwise.cli.options import Common, names_of
from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import StageLines
from datumwise.cli.summary import shown_path
from datumwise.cli.terminal import Line, Surface, surface, table, wrapped

if TYPE_CHECKING:
    from datumwise.learn.posterior import Inferred
    from datumwise.ledger import Ledger

__all__ = ["posterior"]


def posterior(
    ledger: Path | None = None,
    /,
    *,
    task: str | None = None,
    model: Path | None = None,
    prior: str | None = None,
    columns: list[str] | None = None,
    where: str | None = None,
    refine: int = 0,
    out: Path | None = None,
    steps: int | None = None,
    name: str = "posterior",
    seed: int = 0,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Infer an unknown quantity from datapoints, and say which of them moved the answer.

    A distribution transformer is trained once for a family of priors and then answers any prior of the family and any
    datapoints in a millisecond. With --task alone it is trained (a minute or two) and kept. With a ledger it infers, and
    writes NAME_influence: the divergence, in nats, of the posterior with the datapoint from the one without.

    Parameters
    ----------
    ledger
        A row an observation.
    task
        What the data say of the unknown: conjugate, student, bernoulli, bimodal, plane, inverse-gamma, quantum,
        gp-hyperprior, lti-filter. It is trained where no --model is given, and its likelihood checks the answer.
    model
        A model that was trained before (a file that --out wrote).
    prior
        Of one number: weight:mean:sd, joined by commas, such as 0.5:-1:1,0.5:2:0.5. On the log scale where the unknown is
        positive, on the logit scale where it is a share.
    columns
        The numbers of an observation. Default the features.
    where
        Only datapoints for which this SQL condition holds.
    refine
        Rounds of refining by importance sampling (with --task).
    out
        Where to keep the trained model. Default TASK.safetensors.
    steps
        Of training; default the task's own.
    name
        Prefix of the column.
    seed
        Seed of everything random.
    """
    from datumwise.errors import DatumwiseError, MissingExtra

    if task is None and model is None:
        raise DatumwiseError("neither a task nor a model is named", remedy="--task conjugate, or --model FILE")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtra("a distribution transformer needs torch", remedy="pip install 'datumwise[learn]'") from error
    from datumwise.ledger import open_ledger

    known = _task(task)
    opened = None if ledger is None else open_ledger(ledger)
    if opened is not None and prior is None:
        raise DatumwiseError("no prior is given", remedy="--prior 1:0:2 is a normal distribution of mean 0 and sd 2")
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json)
    path = model or out or Path(f"{task}.safetensors")
    facts: dict[str, Any] = {"command": "posterior", "model": path, "task": task}
    try:
        if model is None:
            trained, facts["training"] = _train(known, path, steps, seed, stage)
        else:
            from datumwise.learn.distribution_transformer import DistributionTransformer

            trained = DistributionTransformer.load(model)
        if opened is None:
            return _trained(trained, facts)
        from datumwise.learn.posterior import infer, prior_of

        assert prior is not None
        stage.begin("infer", f"{opened.name}")
        found = infer(
            opened, trained, prior_of(prior), columns=names_of(columns), where=where, refine=refine, column=name, seed=seed,
            log_likelihood=None if known is None else known.log_likelihood,
        )  # fmt: skip
        stage.end(f"{found.n:,} datapoints -> {found.column}")
    except KeyboardInterrupt:
        return interrupted(stage, opened.path if opened else path)
    finally:
        stage.close()
    return _told(opened, found, facts)


def _task(name: str | None) -> Any:
    if name is None:
        return None
    from datumwise.errors import UnknownName
    from datumwise.learn.inference_tasks import TASKS

    if name not in TASKS:
        raise UnknownName(f"there is no task {name!r}", remedy=f"choose one of {', '.join(TASKS)}")
    return TASKS[name]


def _train(task: Any, path: Path, steps: int | None, seed: int, stage: StageLines) -> tuple[Any, dict[str, Any]]:
    """A trained model, kept at ``path``, and what there is to say of it."""
    model = task.model(seed=seed)
    stage.begin("train", task.title)
    log = model.fit(
        task.simulator, task.family, steps or task.steps, task.batch_size, task.lr, task.n_obs, seed, progress=stage.progress
    )
    stage.end(f"{task.title}, {model.n_parameters:,} parameters, {steps or task.steps:,} steps")
    stage.begin("check", "calibration")
    checked = model.calibration(task.simulator, task.family, 2000, seed=seed + 1)
    stage.end("calibration on 2,000 fresh problems")
    model.save(path)
    return model, {"steps": steps or task.steps, "seconds": log.seconds, "coverage": checked.coverage}


def _trained(model: Any, facts: dict[str, Any]) -> Outcome:
    path = facts["model"]
    if "training" not in facts:
        from datumwise.errors import DatumwiseError

        raise DatumwiseError("there is nothing to infer from", remedy="name a ledger, or train with --task alone")
    coverage = facts["training"]["coverage"]

    def lines(to: Surface) -> Sequence[str | Line]:
        rows = [[f"{one['level']:.0%}", f"{one['covered']:.1%}"] for one in coverage]
        return [
            f"  {model}",
            "",
            *table(["interval", "covers the truth"], rows, right=["interval", "covers the truth"], width=to.width),
            "",
            f"  model   {shown_path(path)}",
            f"  next    datumwise posterior LEDGER --task {facts['task']} --model {shown_path(path)} --prior 1:0:2",
        ]

    return Outcome(facts=facts, lines=lines)


def _told(ledger: Ledger, found: Inferred, facts: dict[str, Any]) -> Outcome:
    def lines(to: Surface) -> Sequence[str | Line]:
        rows = [
            [str(i), f"{mean:.4g}", f"{sd:.3g}", f"{low:.4g} to {high:.4g}"]
            for i, (mean, sd, (low, high)) in enumerate(zip(found.mean, found.sd, found.interval, strict=True))
        ]
        said: list[str | Line] = [f"  posterior given {found.n:,} datapoints", ""]
        said += table(["state", "mean", "sd", "90% interval"], rows, right=["state", "mean", "sd"], width=to.width)
        if found.answer.ess is not None and found.answer.khat is not None:
            good = "to be trusted" if float(found.answer.khat[0]) < 0.7 else "not to be trusted: refine, or train longer"
            said += [
                "",
                f"  effective share of draws {float(found.answer.ess[0]):.1%}, k-hat {float(found.answer.khat[0]):.2f}: {good}",
            ]
        for note in found.notes:
            said += [f"  {part}" for part in wrapped(note, None if to.width is None else max(to.width - 2, 16))]
        said += ["", *table(["id", "nats"], [[id, f"{value:.4g}"] for id, value in found.most], right=["nats"], width=to.width)]
        return [*said, "", f"  column  {found.column}", f"  ledger  {shown_path(ledger.path)} (version {found.version})"]

    return Outcome(facts={**facts, "ledger": ledger.path, **found.as_dict()}, lines=lines)
