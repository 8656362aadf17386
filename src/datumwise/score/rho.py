"""Which datapoints are still worth learning? Loss that can be reduced: the model's minus a reference's."""

from __future__ import annotations

import numpy as np

from datumwise.errors import SchemaMismatch
from datumwise.score.checks import finite_column
from datumwise.score.declare import score

__all__ = ["learnability", "reducible_loss"]


@score(
    needs=("loss", "reference_loss"),
    higher="learnable and not yet learnt: train on it",
    source="Mindermann et al., 2022, eq. 3 (RHO-LOSS)",
)
def reducible_loss(loss: np.ndarray, reference_loss: np.ndarray) -> np.ndarray:
    """How much more does the datapoint cost this model than a reference trained on other, clean data?

    High for what the model can still learn; about 0 for what it has learnt, and for noise, which costs both.

    Parameters
    ----------
    loss : float (n,)
        Of the model that is being trained, now.
    reference_loss : float (n,)
        Of a model trained on held-out data (the irreducible loss).

    Returns
    -------
    float64 (n,)
        In units of the loss.

    Examples
    --------
    >>> reducible_loss([2.0, 0.1, 3.0], [0.5, 0.1, 2.9]).round(3).tolist()  # to learn, learnt, noise
    [1.5, 0.0, 0.1]
    """
    loss, reference_loss = finite_column(loss, "loss"), finite_column(reference_loss, "reference_loss")
    if len(loss) != len(reference_loss):
        raise SchemaMismatch(f"{len(loss):,} losses and {len(reference_loss):,} reference losses do not fit together")
    return loss - reference_loss


def learnability(loss_before: np.ndarray, loss_after: np.ndarray) -> np.ndarray:
    """How much of its loss did a datapoint lose from an early to a late model? Evans et al., 2024, eq. 3 (JEST).

    Parameters
    ----------
    loss_before, loss_after : float (n,)
        Of the learner and of the pretrained reference.

    Returns
    -------
    float64 (n,)
        `reducible_loss` of the two.
    """
    return reducible_loss(loss_before, loss_after)
