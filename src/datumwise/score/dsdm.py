"""Which training datapoints does the model need for the target task? DsDm: TRAK on the target set, averaged.

Engstrom, Feldmann and Madry, 2024, *DsDm: Model-Aware Dataset Selection with Datamodels*, ICML, section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["dsdm"]


def dsdm(model: Any, train: Any, target: Any, **options: Any) -> np.ndarray:
    """How much each training datapoint is predicted to help on the target set: the mean of TRAK's scores over it.

    Keep the datapoints with the largest values: by the linear datamodel they make the training set of their size with
    the best mean margin on the target.

    Parameters
    ----------
    model : torch.nn.Module
    train : Ledger, (X, y), DataLoader or list of batches
        n datapoints to choose from.
    target : as ``train``
        Examples of what the model shall be good at.
    **options
        Of `datumwise.probe.attribute` with ``method="trak"``: ``checkpoints``, ``projection``, ``damping``,
        ``tokenizer`` ...; another ``method`` may be named.

    Returns
    -------
    float64 (n,)
        Higher: helps the target more. Below 0: harms it.

    Raises
    ------
    UnknownName, ModelMismatch, NotFinite, EmptyData, SchemaMismatch

    Examples
    --------
    >>> import torch
    >>> X, y = torch.tensor([[2.0, 0], [1, 0], [-1, 0], [-2, 0]]), torch.tensor([1, 0, 0, 0])
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
    >>> (dsdm(model, (X, y), (X[[0, 3]], y[[0, 3]])) > 0).tolist()  # the second point has a wrong label
    [True, False, True, True]
    """
    from datumwise.probe.attribute import attribute

    return attribute(model, train, target, **options).mean(axis=0, dtype=np.float64)
