"""Claims about the baselines of curvature edits."""

import pytest
import torch
from torch import nn

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.forget.low_rank_edit import RandomBasisEdit, TruncatedSVD, random_orthonormal
from datumwise.probe.swapped_weights import weight_matrix


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 12), nn.Tanh(), nn.Conv2d(2, 6, 2))


@pytest.mark.parametrize("rank", [0.25, 3])
def test_truncation_is_the_nearest_matrix_of_its_rank(rank):
    model = two_layers()
    edit = TruncatedSVD(["0", "2"], rank)
    for name, new in edit.weights(model).items():
        W = weight_matrix(model, name)
        full = min(W.shape)
        r = rank if rank == 3 else round(rank * full)
        assert int(torch.linalg.matrix_rank(new)) == r
        rest = torch.linalg.svdvals(W)[r:].square().sum()
        torch.testing.assert_close((new - W).square().sum(), rest, rtol=1e-4, atol=1e-6)
    with TruncatedSVD("0", 1.0).applied(model):
        assert TruncatedSVD("0", 1.0).plan(model).energy_moved == 0


def test_random_bases_keep_the_energy_asked_for_within_one_component():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 40), nn.Tanh(), nn.Conv2d(20, 30, 2))
    for share in (0.2, 0.6, 0.95):
        edit = RandomBasisEdit(share, layers=["0", "2"], random_state=4)
        plan = edit.plan(model)
        for name in plan:
            assert 1 - plan[name].energy_moved == pytest.approx(share, abs=0.02)
            assert 1 - plan[name].energy_moved >= share - 1e-5
    assert torch.equal(edit.weights(model)["0"], RandomBasisEdit(0.95, ["0"], random_state=4).weights(model)["0"])
    assert not torch.equal(edit.weights(model)["0"], RandomBasisEdit(0.95, ["0"], random_state=5).weights(model)["0"])


def test_like_another_edit_keeps_as_much_of_each_weight():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 40), nn.Tanh(), nn.Conv2d(20, 30, 2))
    other = TruncatedSVD(["0", "2"], 0.5)
    plan, like = other.plan(model), RandomBasisEdit.like(other, model).plan(model)
    assert list(plan) == list(like)
    for name in plan:
        assert like[name].energy_moved == pytest.approx(plan[name].energy_moved, abs=0.02)


def test_random_rotations_are_orthonormal_and_uniform():
    generator = torch.Generator().manual_seed(0)
    Q = random_orthonormal(5, generator)
    torch.testing.assert_close(Q.T @ Q, torch.eye(5, dtype=torch.float64))
    first = torch.stack([random_orthonormal(3, generator)[:, 0] for _ in range(2000)])
    assert first.mean(0).abs().max() < 4 / (3 * 2000) ** 0.5
    torch.testing.assert_close(first.T @ first / 2000, torch.eye(3, dtype=torch.float64) / 3, rtol=0, atol=0.03)


def test_bad_input_is_refused():
    for rank in (0, 0.0, 1.5, -2, True, "half"):
        with pytest.raises(DatumwiseError, match=r"rank is .*: choose a share above 0, at most 1.0, or a number from 1"):
            TruncatedSVD("0", rank)
    with pytest.raises(UnknownName, match="no layer matches '7': there are"):
        TruncatedSVD("7", 0.5).plan(two_layers())
    with pytest.raises(UnknownName, match="no Linear or convolution is chosen by layers="):
        TruncatedSVD(lambda name: False, 0.5).plan(two_layers())
    with pytest.raises(DatumwiseError, match="kept_energy is 0: choose a share above 0, at most 1"):
        RandomBasisEdit({"0": 0})
    with pytest.raises(DatumwiseError, match="kept_energy is one share with layers=, or a dict of layers without"):
        RandomBasisEdit(0.5)
