"""What one signal takes from a pass: small classes that never see the model.

A need is told the layers once (:meth:`Need.begin`), sees each batch's forward (:meth:`Need.forward`), each
layer's gradient (:meth:`Need.layer`), and answers with columns at the end of the batch
(:meth:`Need.end_batch`). What adds up over the data set is its :meth:`Need.state`; states of two shards are
joined by :meth:`Need.merge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from datumwise.probe.gradient import Grad, Layer
    from datumwise.probe.losses import Forward

__all__ = ["Need"]


class Need:
    """Base of all needs: asks for nothing, answers with nothing.

    Attributes
    ----------
    objective : {"loss", "sampled", "measure"} or None
        The backward this need listens to; None: the forward is enough.
    whole : bool
        True: :meth:`layer` gets each layer's gradient of the whole batch, once. False: perhaps in groups of
        datapoints (``grad.at`` says which), so that formed matrices stay small.
    covers_all : bool
        True: the need is only right if every trainable parameter is captured.
    activations : sequence of str
        Modules whose input and output :meth:`activation` wants to see.
    """

    objective: str | None = "loss"
    whole: bool = False
    covers_all: bool = False
    activations: Sequence[str] = ()

    def begin(self, layers: Mapping[str, Layer]) -> None:
        """Called once, before the first batch, with every captured layer."""

    def wants(self, layer: Layer) -> bool:
        """Whether :meth:`layer` is to be called for this layer."""
        return self.objective is not None

    def forms(self, layer: Layer) -> bool:
        """Whether this need reads ``grad.W`` of this layer (then the pass keeps to the materialised form)."""
        return False

    def forward(self, forward: Forward) -> None:
        """Called after each forward, without gradients."""

    def activation(self, name: str, x: Any, output: Any) -> None:
        """Called in each forward for the modules named in :attr:`activations`."""

    def layer(self, name: str, grad: Grad) -> None:
        """Called inside the backward, without gradients. Never change ``grad.g`` or ``grad.W`` in place."""

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        """The batch's columns: name to an array (n, ...), or to a list of n arrays."""
        return {}

    def settle(self) -> None:
        """Called where the state may be saved, so that saving it changes no bit of what follows."""

    def state(self) -> dict[str, np.ndarray]:
        """What adds up over datapoints so far."""
        return {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a saved state."""

    def merge(self, other: Mapping[str, np.ndarray]) -> None:
        """Add the state of another shard of the data."""
