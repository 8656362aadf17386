"""How likely are measurements of a two-level quantum system, given its Hamiltonian? In closed form, noise included.

H = delta X + (1 - delta) Z with the Pauli matrices X and Z; exp(-i t H) = cos(w t) I - i sin(w t) / w H with
w = sqrt(delta^2 + (1 - delta)^2), because H^2 = w^2 I. Whittle et al., 2025, arXiv 2502.02463 (quantum experiment).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, name_some

__all__ = ["quantum_log_likelihood", "quantum_probability"]


def quantum_probability(
    delta: Tensor, times: Tensor, states: Tensor, *, time_sd: Tensor | float = 0.0, state_sd: Tensor | float = 0.0
) -> Tensor:
    """P(outcome 1) = E |<0| exp(-i t H) psi>|^2.

    With psi = (a, b) real and v = (1 - delta, delta), the amplitude is a cos(w t) - i sin(w t) (v' psi) / w, so

        P = E[a^2] E[cos^2 w t] + v' E[psi psi'] v E[sin^2 w t] / w^2

    For t ~ N(t0, s^2), E[cos^2 w t] = (1 + exp(-2 w^2 s^2) cos 2 w t0) / 2. For psi the direction of a draw from
    N(psi0, r^2 I), E[psi psi'] = I/2 + (1 - (1 - e^-c) / c) (psi0 psi0' / |psi0|^2 - I/2) with c = |psi0|^2 / (2 r^2)
    (projected normal). The published likelihood averages ten random draws of t and psi instead.

    Parameters
    ----------
    delta : float (...)
    times : float (..., N)
    states : float (..., N, 2)
        Real initial states; normalised here.
    time_sd : float or float (..., N), default 0
        s.
    state_sd : float or float (..., N), default 0
        r, relative to a normalised state.

    Returns
    -------
    float (..., N)

    Raises
    ------
    SchemaMismatch, DatumwiseError
        Shapes that do not fit; a state that is zero.

    Examples
    --------
    >>> zero = torch.tensor([[1.0, 0.0]])
    >>> quantum_probability(torch.tensor(0.0), torch.tensor([1.0]), zero).item()  # |0> is an eigenstate of Z
    1.0
    >>> round(quantum_probability(torch.tensor(1.0), torch.tensor([torch.pi / 2]), zero).item(), 6)  # and X flips it
    0.0
    """
    if states.shape[-1:] != (2,) or times.shape[-1:] != states.shape[-2:-1]:
        raise SchemaMismatch(
            f"times {tuple(times.shape)} and states {tuple(states.shape)} do not fit", remedy="(N,) and (N, 2)"
        )
    size = torch.linalg.vector_norm(states, dim=-1)
    if not bool((size > 0).all()):
        raise DatumwiseError(f"initial state {name_some((~(size > 0)).flatten().nonzero().flatten().tolist())} is zero or NaN")
    a, b = (states / size.unsqueeze(-1)).unbind(-1)
    spread = torch.as_tensor(state_sd, dtype=delta.dtype, device=delta.device).square()
    c = 0.5 / spread.clamp_min(1e-30)
    kept = 1 + torch.expm1(-c) / c  # 1 - (1 - e^-c) / c: 1 without noise, 0 with nothing but noise
    aa, ab = 0.5 + kept * (a * a - 0.5), kept * a * b
    delta = delta.unsqueeze(-1)
    rest = 1 - delta
    w_square = delta.square() + rest.square()
    w = w_square.sqrt()
    wobble = (-2 * w_square * torch.as_tensor(time_sd, dtype=delta.dtype, device=delta.device).square()).exp()
    cos_square = 0.5 * (1 + wobble * (2 * w * times).cos())
    form = rest.square() * aa + 2 * rest * delta * ab + delta.square() * (1 - aa)
    return (aa * cos_square + form * (1 - cos_square) / w_square).clamp(0, 1)


def quantum_log_likelihood(
    delta: Any,
    times: Any,
    states: Any,
    outcomes: Any,
    *,
    time_sd: Tensor | float = 0.0,
    state_sd: Tensor | float = 0.0,
) -> Tensor:
    """Log likelihood of N binary measurements.

    Parameters
    ----------
    delta : float (G,) or (...)
    times : float (N,) or (..., N)
        In units of hbar over energy.
    states : float (N, 2)
        Real initial states; normalised here.
    outcomes : (N,) or (..., N)
        1: found in |0>; 0: not.
    time_sd, state_sd : float, default 0
        Noise of times and states, integrated out exactly; see `quantum_probability`.

    Returns
    -------
    float (G,) or (...)
        Minus infinity where an outcome is impossible.

    Raises
    ------
    NotFinite, SchemaMismatch, DatumwiseError
        NaN, shapes that do not fit, outcomes other than 0 and 1.

    Examples
    --------
    >>> grid = torch.tensor([0.1, 0.5, 0.9])
    >>> times, states = torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> quantum_log_likelihood(grid, times, states, torch.tensor([0, 1])).argmax().item()
    2
    """
    delta, times, states, outcomes = (torch.as_tensor(t) for t in (delta, times, states, outcomes))
    dtype = delta.dtype if delta.is_floating_point() else torch.get_default_dtype()
    delta, times, states, outcomes = (t.to(dtype) for t in (delta, times, states, outcomes))
    for name, values in (("delta", delta), ("times", times), ("states", states), ("outcomes", outcomes)):
        if not bool(values.isfinite().all()):
            raise NotFinite(f"{name} hold NaN or infinity")
    if not bool(((outcomes == 0) | (outcomes == 1)).all()):
        raise DatumwiseError(
            "outcomes are 0 or 1", ids=((outcomes != 0) & (outcomes != 1)).flatten().nonzero().flatten().tolist()
        )
    if outcomes.shape[-1:] != times.shape[-1:]:
        raise SchemaMismatch(f"{tuple(outcomes.shape)} outcomes at {tuple(times.shape)} times")
    p = quantum_probability(delta, times, states, time_sd=time_sd, state_sd=state_sd)
    return (torch.xlogy(outcomes, p) + torch.special.xlog1py(1 - outcomes, -p)).sum(-1)
