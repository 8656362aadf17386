"""The learning rate where nobody gives one: as published for 7 billion weights, larger for fewer."""

from types import SimpleNamespace

import pytest
import torch

from datumwise.forget.asked import default_rate


def model_of(n):
    return SimpleNamespace(parameters=lambda: [torch.empty(n, device="meta")])


@pytest.mark.parametrize(
    ("n", "rate"), [(7_000_000_000, 1e-5), (70_000_000_000, 1e-5), (134_500_000, 7.21e-5), (320_000, 1e-3)]
)
def test_the_rate_follows_the_root_of_the_number_of_weights_between_its_bounds(n, rate):
    assert default_rate(model_of(n)) == pytest.approx(rate, rel=1e-3)
