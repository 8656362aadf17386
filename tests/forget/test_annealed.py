import math

import pytest
import torch

from datumwise.errors import DatumwiseError
from datumwise.forget.annealed import annealed


def rates(optimiser, weight, n):
    found = []
    for _ in range(n):
        weight.grad = torch.ones_like(weight)
        optimiser.step()
        found.append(optimiser.param_groups[0]["lr"])
    return found


def test_rate_is_a_half_cosine_from_all_to_a_tenth_and_stays_there():
    weight = torch.nn.Parameter(torch.zeros(3))
    found = rates(annealed(0.5, 11)([weight]), weight, 13)
    wanted = [0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi * k / 10)) / 2) for k in range(11)]
    assert found[:11] == pytest.approx(wanted)
    assert found[11:] == pytest.approx([0.05, 0.05])


def test_updates_are_those_of_adamw_without_decay_at_that_rate():
    mine, theirs = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    first, second = annealed(0.1, 5, last=1.0)([mine]), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0)
    for k in range(5):
        mine.grad = theirs.grad = torch.tensor([1.0, -0.5 * k])
        first.step()
        second.step()
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_an_optimiser_that_is_given_back_its_moments_goes_on_at_the_rate_it_stopped_at():
    weight = torch.nn.Parameter(torch.zeros(2))
    whole = rates(annealed(1.0, 8)([weight]), weight, 8)
    first = torch.nn.Parameter(torch.zeros(2))
    before = annealed(1.0, 8)([first])
    half = rates(before, first, 4)
    again = annealed(1.0, 8)([first])
    again.state[first] = dict(before.state[first])
    assert half + rates(again, first, 4) == whole


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"steps": 0}, {"last": 1.5}, {"lr": math.nan}])
def test_numbers_that_make_no_sense_are_refused(bad):
    with pytest.raises(DatumwiseError, match=r"lr is .*: lr above 0, steps 1 or more, last 0 to 1"):
        annealed(**({"lr": 1e-3, "steps": 4} | bad))
