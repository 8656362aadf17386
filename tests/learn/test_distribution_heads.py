"""Claims about the heads: what a site is, what a fresh one does, and what no data change."""

import math

import pytest
import torch

from datumwise.learn.distribution.heads import HEADS, DatumSites, DirectHead, SiteHead, TokenHead
from datumwise.learn.distribution.network import ComponentNetwork
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.linear_gaussian import gmm_posterior
from datumwise.learn.prior_families import GMMFamily

DOUBLE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def perturbed(module, seed=0, scale=0.3):
    """The module in float64 with every weight moved: zero-initialised maps would pass anything."""
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p += scale * torch.randn(p.shape, generator=generator(seed + p.numel()), dtype=DOUBLE)
    return module


def inputs(B, C, N, d, p=2, D=8, seed=1):
    prior = GMMFamily(n_components=C, dim=d, dtype=DOUBLE).sample(B, generator(seed))
    draw = [
        torch.randn(*shape, generator=generator(seed + i), dtype=DOUBLE)
        for i, shape in enumerate([(B, C, D), (B, N, D), (B, N, p)])
    ]
    return prior, *draw, torch.ones(B, N, dtype=torch.bool)


def log_sites(head, tokens, raw, tilt, x, seen):
    """log of the factor of every component at x (S, B, d), from the formula of `SiteHead`: (S, B, C)."""
    d = head.state_dim
    out = torch.zeros(x.shape[0], x.shape[1], tokens.shape[1], dtype=DOUBLE)
    for b in range(x.shape[1]):
        for k in range(tokens.shape[1]):
            c = head.correct(tokens[b, k])
            shift = head.state_scale * c[1:-1]
            number = int(seen[b].sum())
            out[:, b, k] += (1 - math.exp(-number)) * c[-1] + (tilt[b, k] if tilt is not None else 0.0)
            for i in range(raw.shape[2]):
                if not seen[b, i]:
                    continue
                own = raw[b, k if raw.shape[1] > 1 else 0, i]
                F, at, w = own[: d * d].reshape(d, d), own[d * d : -1], own[-1].exp()
                z = (x[:, b] - shift - head.state_shift) / head.state_scale
                out[:, b, k] -= 0.5 * c[0].exp() * w * (z @ F - at).square().sum(-1)
    return out


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("kind", ["site", "token"])
def test_a_posterior_is_the_prior_times_its_sites(kind, d):
    prior, tokens, memory, data, seen = inputs(2, 3, 4, d)
    seen[0, 2:] = False
    head = perturbed(HEADS[kind](2, d, 8))
    head.state_shift.copy_(torch.linspace(0.5, 1.0, d))
    head.state_scale.copy_(torch.linspace(1.5, 2.0, d))
    answer = head(prior, tokens, memory, data, seen)
    raw, tilt = head.sites(data)[:, None], None
    if kind == "token":
        pair = torch.nn.functional.gelu(head.pair_component(tokens)[:, :, None] + head.pair_datum(memory)[:, None])
        bend = head.pair(pair)
        raw, tilt = raw + bend[..., :-1], (bend[..., -1] * seen[:, None]).sum(-1)
    x = torch.randn(50, 2, d, generator=generator(7), dtype=DOUBLE)
    product = torch.logsumexp(prior.log_weights + prior.component_log_prob(x) + log_sites(head, tokens, raw, tilt, x, seen), -1)
    apart = product - answer.log_prob(x)  # a constant: the log evidence
    assert torch.allclose(apart, apart[:1].expand_as(apart), atol=1e-9)


@pytest.mark.parametrize("kind", ["site", "token"])
@pytest.mark.parametrize("d", [1, 2])
def test_no_data_and_hidden_data_return_the_prior_to_the_last_bit(kind, d):
    prior, tokens, memory, data, seen = inputs(2, 3, 4, d)
    head = perturbed(HEADS[kind](2, d, 8))
    for N in (0, 4):
        answer = head(prior, tokens, memory[:, :N], data[:, :N] * 0, torch.zeros_like(seen[:, :N]))
        for name in ("log_weights", "means", "scale_tril"):
            assert torch.equal(getattr(answer, name), getattr(prior, name))


@pytest.mark.parametrize("kind", ["site", "token"])
def test_sites_move_with_the_units_of_the_state(kind):
    prior, tokens, memory, data, seen = inputs(2, 3, 4, 2)
    head = perturbed(HEADS[kind](2, 2, 8))
    near = head(prior, tokens, memory, data, seen)
    shift, scale = torch.tensor([100.0, -40.0], dtype=DOUBLE), torch.tensor([7.0, 0.2], dtype=DOUBLE)
    head.state_shift.copy_(shift)
    head.state_scale.copy_(scale)
    moved = prior.affine(torch.diag(scale), shift)
    far = head(moved, tokens, memory, data, seen)
    assert torch.allclose(far.weights, near.weights, atol=1e-8)
    assert torch.allclose(far.mean, shift + scale * near.mean, atol=1e-7)
    assert torch.allclose(far.scale_tril, scale[:, None] * near.scale_tril, atol=1e-8)


@pytest.mark.parametrize("kind", ["site", "token"])
def test_a_fresh_site_takes_the_datum_for_the_state_plus_noise(kind):
    prior = GMMFamily(dim=2, dtype=DOUBLE).sample(4, generator())
    y = torch.randn(4, 1, 2, generator=generator(1), dtype=DOUBLE)
    head = HEADS[kind](2, 2, 8).double()
    seen = torch.ones(4, 1, dtype=torch.bool)
    answer = head(prior, torch.zeros(4, 3, 8, dtype=DOUBLE), torch.zeros(4, 1, 8, dtype=DOUBLE), y, seen)
    eye = torch.eye(2, dtype=DOUBLE)
    exact, _ = gmm_posterior(prior, eye, eye, y[:, 0])
    assert torch.allclose(answer.means, exact.means, atol=1e-10)
    assert torch.allclose(answer.log_weights, exact.log_weights, atol=1e-10)


def test_a_site_linear_in_the_datum_holds_a_row_of_a_regression():
    sites = DatumSites(3, 2, 8).double()
    with torch.no_grad():  # F = [h, 0], c = (y, 0)
        sites.linear.bias.zero_()
        sites.linear.weight.zero_()
        sites.linear.weight[0, 0] = sites.linear.weight[2, 1] = sites.linear.weight[4, 2] = 1.0
    head = SiteHead(3, 2, 8).double()
    head.sites = sites
    prior = GMMFamily(dim=2, dtype=DOUBLE).sample(2, generator())
    data = torch.randn(2, 1, 3, generator=generator(1), dtype=DOUBLE)
    seen = torch.ones(2, 1, dtype=torch.bool)
    answer = head(prior, torch.zeros(2, 3, 8, dtype=DOUBLE), torch.zeros(2, 1, 8, dtype=DOUBLE), data, seen)
    exact, _ = gmm_posterior(prior, data[:, :, :2], torch.eye(1, dtype=DOUBLE), data[:, 0, 2:])
    assert torch.allclose(answer.mean, exact.mean, atol=1e-10)
    assert torch.allclose(answer.covariance, exact.covariance, atol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_fresh_direct_head_returns_the_prior_and_a_moved_one_a_proper_mixture(d):
    prior, tokens, memory, data, seen = inputs(3, 2, 4, d)
    fresh = DirectHead(2, d, 8).double()(prior, tokens, memory, data, seen)
    assert torch.allclose(fresh.means, prior.means)
    assert torch.allclose(fresh.scale_tril, prior.scale_tril)
    answer = perturbed(DirectHead(2, d, 8))(prior, tokens, memory, data, seen)
    GaussianMixture(None, answer.means, answer.scale_tril, log_weights=answer.log_weights)  # checks all
    assert not torch.allclose(answer.means, prior.means)


@pytest.mark.parametrize("kind", ["site", "token"])
def test_corrections_of_any_size_stay_finite(kind):
    prior, tokens, memory, data, seen = inputs(2, 3, 4, 1)
    head = perturbed(HEADS[kind](2, 1, 8), scale=30.0)
    answer = head(prior, tokens, memory, data, seen)
    assert answer.log_weights.isfinite().any(-1).all()
    assert answer.means.isfinite().all()
    assert (answer.scale_tril > 0).all()


def test_token_head_without_its_pair_is_the_site_head():
    prior, tokens, memory, data, seen = inputs(2, 3, 4, 1)
    token = perturbed(TokenHead(2, 1, 8))
    torch.nn.init.zeros_(token.pair.weight)
    torch.nn.init.zeros_(token.pair.bias)
    site = SiteHead(2, 1, 8).double()
    site.load_state_dict({name: t for name, t in token.state_dict().items() if not name.startswith("pair")})
    assert torch.equal(token(prior, tokens, memory, data, seen).means, site(prior, tokens, memory, data, seen).means)


def network(children=1, seed=0):
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    made = perturbed(ComponentNetwork(3, 2, d_model=8, nhead=2, num_layers=2, feedforward=16, children=children))
    torch.random.set_rng_state(torch_state)
    return made


def test_children_are_told_apart_and_follow_their_component():
    one = network(children=2)
    prior = torch.randn(2, 3, 3, generator=generator(), dtype=DOUBLE)
    data, seen = torch.randn(2, 4, 2, generator=generator(1), dtype=DOUBLE), torch.ones(2, 4, dtype=torch.bool)
    tokens = one(prior, data, seen)[0]
    assert tokens.shape == (2, 6, 8)
    assert not torch.allclose(tokens[:, 0], tokens[:, 1])
    turned = one(prior[:, [2, 0, 1]], data, seen)[0]
    assert torch.allclose(turned, tokens[:, [4, 5, 0, 1, 2, 3]], atol=1e-12)


def test_the_number_of_data_reaches_the_tokens():
    one = network()
    prior = torch.randn(1, 3, 3, generator=generator(), dtype=DOUBLE)
    datum = torch.randn(1, 1, 2, generator=generator(1), dtype=DOUBLE)
    one.null.data.copy_(one.datum(torch.cat([datum, torch.zeros(1, 1, 1, dtype=DOUBLE)], -1))[0, 0])  # attention cannot tell
    once = one(prior, datum, torch.ones(1, 1, dtype=torch.bool))[0]
    again = one(prior, datum.expand(1, 5, 2), torch.ones(1, 5, dtype=torch.bool))[0]
    assert (once - again).abs().max() > 1e-4
