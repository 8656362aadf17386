"""Reducible loss."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import NotFinite, SchemaMismatch
from datumwise.score import find
from datumwise.score.rho import learnability, reducible_loss


def test_it_is_the_loss_over_the_references():
    np.testing.assert_allclose(reducible_loss([2.0, 0.5], [0.5, 0.75]), [1.5, -0.25])
    np.testing.assert_allclose(learnability([2.0, 0.5], [0.5, 0.75]), [1.5, -0.25])


def test_it_is_declared_with_both_losses():
    assert find("reducible_loss").needs == ("loss", "reference_loss")


def test_bad_input_is_refused():
    with pytest.raises(SchemaMismatch, match="2 losses and 1 reference losses"):
        reducible_loss([1.0, 2.0], [1.0])
    with pytest.raises(NotFinite, match="reference_loss has NaN or infinity in row 1"):
        reducible_loss([1.0, 2.0], [1.0, np.nan])
