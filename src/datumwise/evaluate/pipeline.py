"""Scores as a step of a pipeline: what binds the runs of `datumwise.score` to the steps of `datumwise.select`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from datumwise.score import run
from datumwise.select.steps import Score

__all__ = ["scoring"]


def scoring(names: str | Sequence[str], model: Any = None, *, rowwise: bool = False, **options: Any) -> Score:
    """A step that computes declared scores, see `datumwise.methods`.

    Parameters
    ----------
    names : str or sequence of str
        Scores, and the columns they write.
    model : optional
        Whatever `datumwise.probe.signals` takes.
    rowwise : bool, default False
        Each value depends on its datapoint and the model alone (a text's indicators, what a trained model says of a
        datapoint), so new datapoints are scored by themselves. Not so for cross-validation and for neighbours.
    **options
        Of `datumwise.score.run`.

    Returns
    -------
    Score

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> scoring("label_error", LogisticRegression(), folds=3).names
    ('label_error',)
    """
    chosen = (names,) if isinstance(names, str) else tuple(names)
    return Score(partial(_run, names=list(chosen), model=model, **options), chosen, rowwise=rowwise)


def _run(ledger: Any, *, names: list[str], model: Any, **options: Any) -> Any:
    return run(ledger, model, names, **options)
