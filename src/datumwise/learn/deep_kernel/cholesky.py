"""Cholesky factors that do not fail on duplicate rows: the diagonal grows by powers of ten until the factor exists."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from datumwise.errors import NotFinite

__all__ = ["default_jitter", "guarded_cholesky", "lower_factor", "raw_factor"]

LARGEST = 1e-2  # relative jitter at which we give up
SMALLEST = {torch.float32: 1e-6, torch.float64: 1e-10}  # first relative jitter tried after a failure


def default_jitter(dtype: torch.dtype) -> float:
    """Relative jitter that a kernel matrix of this dtype gets: 1e-6 in float64, 1e-5 in float32.

    Parameters
    ----------
    dtype : torch.dtype

    Returns
    -------
    float
        To be multiplied by the mean of the diagonal.

    Examples
    --------
    >>> default_jitter(torch.float64), default_jitter(torch.float32)
    (1e-06, 1e-05)
    """
    return 1e-6 if dtype == torch.float64 else 1e-5


def guarded_cholesky(K: Tensor, *, jitter: float = 0.0) -> Tensor:
    """Lower-triangular L with L L^T = K + jitter mean(diag K) I.

    Where the factor does not exist, the jitter is multiplied by ten until it does (up to 1e-2), with a warning; gradients
    pass through what was added.

    Parameters
    ----------
    K : Tensor (..., P, P)
        Symmetric, positive semi-definite up to rounding.
    jitter : float, default 0
        Relative to the mean of the diagonal.

    Returns
    -------
    Tensor (..., P, P)

    Raises
    ------
    NotFinite
        K contains NaN or infinity, or is not positive definite with a jitter of 1e-2.

    Warns
    -----
    RuntimeWarning
        More jitter than asked for was needed. Python shows it once a call site.

    Examples
    --------
    >>> twins = torch.ones(2, 2, dtype=torch.float64)  # a datapoint and its duplicate: singular
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     L = guarded_cholesky(twins)
    >>> bool(torch.allclose(L @ L.T, twins, atol=1e-6)), len(caught)
    (True, 1)
    """
    L, info = torch.linalg.cholesky_ex(_plus_jitter(K, jitter))
    if not info.any():
        return L
    if not bool(torch.isfinite(K).all()):
        raise NotFinite(
            "a kernel matrix contains NaN or infinity",
            remedy="lower the learning rate, standardise the inputs, or compute in float64",
        )
    asked, jitter = jitter, max(jitter, SMALLEST.get(K.dtype, 1e-6) / 10)
    while jitter < LARGEST:
        jitter = min(10 * jitter, LARGEST)
        L, info = torch.linalg.cholesky_ex(_plus_jitter(K, jitter))
        if not info.any():
            warnings.warn(
                f"a kernel matrix was singular to rounding; its jitter was raised from {asked:g} to {jitter:g} of its diagonal",
                RuntimeWarning,
                stacklevel=2,
            )
            return L
    raise NotFinite(
        f"a kernel matrix is not positive definite, even with {LARGEST:g} of its mean diagonal added",
        remedy="compute in float64, or lower the learning rate",
    )


def _plus_jitter(K: Tensor, jitter: float) -> Tensor:
    if not jitter:
        return K
    diagonal = K.diagonal(dim1=-2, dim2=-1)
    return K + torch.diag_embed((jitter * diagonal.mean(-1, keepdim=True)).expand_as(diagonal))


def lower_factor(raw: Tensor) -> Tensor:
    """Lower-triangular matrix with a positive diagonal, from unconstrained numbers: S = tril(raw, -1) + diag(exp(diag raw)).

    Parameters
    ----------
    raw : Tensor (..., P, P)
        The upper triangle does not matter; zeros give the identity.

    Returns
    -------
    Tensor (..., P, P)

    Examples
    --------
    >>> lower_factor(torch.zeros(2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())


def raw_factor(S: Tensor) -> Tensor:
    """Inverse of :func:`lower_factor`.

    Parameters
    ----------
    S : Tensor (..., P, P)
        Lower-triangular with a positive diagonal.

    Returns
    -------
    Tensor (..., P, P)

    Examples
    --------
    >>> S = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    >>> bool(torch.allclose(lower_factor(raw_factor(S)), S))
    True
    """
    return S.tril(-1) + torch.diag_embed(S.diagonal(dim1=-2, dim2=-1).log())
