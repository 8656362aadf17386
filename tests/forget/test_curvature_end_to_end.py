"""Claims about curvature edits of a language model that recites some of its training text: 1.2 M parameters, trained here."""

import numpy as np
import pytest
import torch

from datumwise.forget.coherent_step import coherent_edit, recited_share
from datumwise.forget.curvature_edit import CurvatureEdit
from datumwise.forget.low_rank_edit import RandomBasisEdit, TruncatedSVD
from datumwise.probe.kfac import KFAC
from datumwise.reproduce.memorised_topics import memorised_topics

LAYERS = "*.layers.(1|2|3).mlp.(gate|up)_proj"
PREFIX, SUFFIX = 24, 24  # tokens


def batches(ids, size=60):
    return [{"input_ids": part} for part in ids.split(size)]


def loss(model, ids):
    """Mean negative log-likelihood of a token, nats."""
    with torch.no_grad():
        total = sum(
            float(torch.nn.functional.cross_entropy(
                model(input_ids=part, use_cache=False).logits[:, :-1].flatten(0, 1), part[:, 1:].flatten(), reduction="sum"
            ))
            for part in ids.split(60)
        )  # fmt: skip
    return total / (len(ids) * (ids.shape[1] - 1))


@pytest.mark.slow
def test_flat_components_hold_the_recitation_of_a_small_language_model():
    torch.set_num_threads(1)
    world = memorised_topics(seed=0)
    model, sample = world.model, world.train[:300]
    memorised = batches(world.memorised[:, : PREFIX + SUFFIX])
    kfac = KFAC(model, LAYERS).fit(batches(world.train[:960]))
    base, base_sample = loss(model, world.held_out), loss(model, sample)

    def strict():
        return recited_share(model, memorised, prefix=PREFIX)

    def measured(edit):
        """Factor on held-out perplexity, strict recitation."""
        with edit.applied(model):
            return np.exp(loss(model, world.held_out) - base), strict()

    before = strict()
    assert before > 0.6

    # the edit at least halves recitation and leaves the model a language model
    shares = (0.9, 0.8, 0.65, 0.6, 0.55, 0.5, 0.4)
    edits = dict(zip(shares, CurvatureEdit(kfac).sweep(shares), strict=True))
    front = {rho: measured(edit) for rho, edit in edits.items()}
    assert front[0.5][1] <= before / 2
    assert front[0.5][0] < 1.4

    # at equal perplexity less is recited than with truncated SVD; a random basis of equal energy destroys the model
    svd = [measured(TruncatedSVD(LAYERS, rank)) for rank in (0.3, 0.2, 0.16, 0.12)]
    at = np.arange(1.12, 1.23, 0.02)
    ours, theirs = (np.interp(at, *zip(*points, strict=True)) for points in (list(front.values()), svd))
    assert np.mean(theirs - ours) > 0.02
    random = measured(RandomBasisEdit.like(edits[0.6], model))
    assert random[0] > front[0.6][0] + 0.15

    # its cost is known beforehand
    for rho, cost in zip((0.9, 0.8), CurvatureEdit(kfac).costs((0.9, 0.8), batches(sample)), strict=True):
        with edits[rho].applied(model):
            rise = loss(model, sample) - base_sample
        assert cost.mean == pytest.approx(rise, rel=0.1)
    cost = edits[0.9].plan(data=batches(world.held_out)).cost
    assert cost.mean == pytest.approx(np.log(front[0.9][0]), rel=0.4)

    # with examples, their recitation goes at hardly any cost
    given = batches(world.memorised[:32, : PREFIX + SUFFIX])
    coherent = coherent_edit(model, kfac, given, goal=0.1, prefix=PREFIX)
    assert coherent.after <= 0.1 < 0.6 < coherent.before
    assert measured(coherent)[0] < 1.03
    assert strict() == before
