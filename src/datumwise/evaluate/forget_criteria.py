"""Criteria of a removal from a classifier or a regressor: answers before and after, and those of one that never saw them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from datumwise.evaluate.criterion import Criterion, Datapoint
from datumwise.evaluate.datapoint_draws import DatapointDraws
from datumwise.evaluate.removal import Interval

__all__ = ["of_answers", "of_classes"]

Found = tuple[list[Criterion], list[Datapoint], dict[str, np.ndarray]]

FLOOR = 1e-12  # of a probability
DRAWS, LEVEL = 2_000, 0.95
TOLD = 0.05  # nats, or share of the spread: closer than that, a datapoint says nothing
PARTS = {"forget": "of the forgotten", "retain": "of kept datapoints", "test": "of unseen datapoints"}


def of_classes(
    answers: Mapping[str, np.ndarray],
    codes: np.ndarray,
    parts: Mapping[str, np.ndarray],
    names: np.ndarray,
    *,
    seed: int = 0,
) -> Found:
    """Recall, accuracy, membership and agreement of classifiers.

    Parameters
    ----------
    answers : mapping of "before", "after" and, where there is one, "never_saw" to float (n, C)
        Probabilities of the same n datapoints.
    codes : int (n,)
        Right column of each; one that no model knows may be any.
    parts : mapping of "forget", "retain", "test" to int
        Rows; ``test`` may be empty.
    names : (n_forget,)
        Ids of the datapoints to forget.
    seed : int
        Of the bootstrap over datapoints.

    Returns
    -------
    criteria : list of Criterion
    datapoints : list of Datapoint
    losses : dict of model to float64 (n_forget,)
        Cross-entropy of the given label, in nats.

    Examples
    --------
    >>> known, fair = np.array([[.99, .01]] * 4 + [[.6, .4]] * 4), np.full((8, 2), .5)
    >>> parts = {"forget": np.arange(4), "retain": np.arange(4, 6), "test": np.arange(6, 8)}
    >>> criteria, _, _ = of_classes({"before": known, "after": fair, "never_saw": fair}, np.zeros(8, int), parts, np.arange(4))
    >>> [(c.name, round(c.before, 2), c.after) for c in criteria if "membership" in c.name]
    [('membership by loss, beyond the model that never saw them', 0.5, 0.0)]
    """
    n = len(codes)
    loss = {name: -np.log(np.maximum(p[np.arange(n), codes], FLOOR)) for name, p in answers.items()}
    right = {name: (p.argmax(1) == codes).astype(float) for name, p in answers.items()}
    chosen = {name: p.argmax(1) for name, p in answers.items()}
    never = chosen.get("never_saw")
    unlike = None if never is None else {name: (one != never).astype(float) for name, one in chosen.items()}
    criteria = _shares(right, parts, "accuracy", seed)
    if len(parts["test"]):
        criteria.insert(1, _membership(loss, parts, seed))
    if unlike is not None:
        criteria.append(_unlike(unlike, parts, seed))
    return criteria, _datapoints(loss, parts["forget"], names, TOLD), {k: v[parts["forget"]] for k, v in loss.items()}


def of_answers(
    answers: Mapping[str, np.ndarray],
    y: np.ndarray,
    parts: Mapping[str, np.ndarray],
    names: np.ndarray,
    *,
    seed: int = 0,
    classes: bool = False,
) -> Found:
    """The same of models that give an answer and no probabilities: squared errors of numbers, or right and wrong of classes."""
    if classes:
        wrong = {name: (answer != y).astype(float) for name, answer in answers.items()}
        criteria = _shares({name: 1 - one for name, one in wrong.items()}, parts, "accuracy", seed)
    else:
        spread = float(np.var(y[parts["retain"]])) or 1.0
        wrong = {name: (answer - y) ** 2 / spread for name, answer in answers.items()}
        criteria = _shares(wrong, parts, "squared error", seed)
    if "never_saw" in answers:
        never = answers["never_saw"]
        if classes:
            unlike = {name: (answer != never).astype(float) for name, answer in answers.items()}
        else:
            unlike = {name: (answer - never) ** 2 / spread for name, answer in answers.items()}
        criteria.append(_unlike(unlike, parts, seed))
    return criteria, _datapoints(wrong, parts["forget"], names, TOLD), {k: v[parts["forget"]] for k, v in wrong.items()}


def _shares(measure: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray], what: str, seed: int) -> list[Criterion]:
    """A mean a part: of the forgotten, the kept and the unseen datapoints."""
    errors = what == "squared error"
    found = []
    for part, said in PARTS.items():
        if not len(parts[part]):
            continue
        draws = DatapointDraws({part: parts[part]}, {}, DRAWS, LEVEL, seed)
        means = draws.means(part, dict(measure))
        name = f"{what} {said}"
        if part == "forget":
            name = f"recall {said}" if not errors else f"squared error {said}, of the variance"
        found.append(
            Criterion(
                name,
                means["before"][0],
                means["after"][0],
                means["never_saw"][0] if "never_saw" in means else None,
                interval=_ends(draws.interval(*means["after"])),
                gap=_ends(draws.difference(means["after"], means["never_saw"])) if "never_saw" in means else None,
                # an error on what is forgotten is to be as that of the model that never saw it, neither lower nor far higher
                verdict=_as_reference(means, draws) if part == "forget" and errors else "",
                goal="forget" if part == "forget" else "keep low" if errors else "keep high",
                n=len(parts[part]),
                form=".3f",
            )
        )
    return found


def _as_reference(means: Mapping[str, tuple[float, np.ndarray]], draws: DatapointDraws) -> str:
    if "never_saw" not in means:
        return "not judged"
    gap = draws.difference(means["after"], means["never_saw"])
    return "forgotten" if gap.high >= 0 else "not forgotten"


def _membership(loss: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray], seed: int) -> Criterion:
    """How much more often than of a model that never saw them the loss tells the forgotten from unseen datapoints."""
    draws = DatapointDraws({"forget": parts["forget"], "test": parts["test"]}, dict(loss), DRAWS, LEVEL, seed)
    members = draws.memberships()
    compared = "never_saw" in members
    anchor = members["never_saw"] if compared else (0.5, np.full(DRAWS, 0.5))
    after = draws.difference(members["after"], anchor)
    return Criterion(
        "membership by loss, beyond " + ("the model that never saw them" if compared else "chance"),
        members["before"][0] - anchor[0],
        after.value,
        0.0 if compared else None,
        interval=_ends(after),
        goal="zero",
        # here above 0 is recognised: the AUC of "member" is of a lower loss
        verdict="within noise" if after.low <= 0 <= after.high else "still recognised" if after.value > 0 else "over-forgotten",
        n=len(parts["forget"]),
        form="+.3f",
    )


def _unlike(unlike: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray], seed: int) -> Criterion:
    rows = np.concatenate([parts["forget"], parts["test"]])
    draws = DatapointDraws({"all": rows}, {}, DRAWS, LEVEL, seed)
    means = draws.means("all", dict(unlike))
    interval = draws.interval(*means["after"])
    return Criterion(
        "answers unlike the model that never saw them",
        means["before"][0],
        means["after"][0],
        0.0,
        interval=_ends(interval),
        gap=_ends(interval),
        n=len(rows),
        form=".3f",
    )


def _datapoints(loss: Mapping[str, np.ndarray], rows: np.ndarray, names: np.ndarray, told: float) -> list[Datapoint]:
    """The losses of each, and whether it went at least half the way to the model that never saw it, where there is a way."""
    found = []
    for row, name in zip(rows, names, strict=True):
        values = {model: {"loss": float(one[row])} for model, one in loss.items()}
        verdict = ""
        if "never_saw" in loss:
            before, after, never = (float(loss[model][row]) for model in ("before", "after", "never_saw"))
            if never - before > told:
                verdict = "forgotten" if after - before >= (never - before) / 2 else "still recalled"
        found.append(Datapoint(str(name), values["before"], values["after"], values.get("never_saw", {}), verdict))
    return found


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high
