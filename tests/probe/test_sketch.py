"""The projection is the matrix it says it is, keeps inner products, and is the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from datumwise.probe.sketch import Sjlt, gaussian, id_keys, mixed, name_key, uniform


def vectors(count: int, seed: int = 0) -> Tensor:
    return torch.randn(3, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 500])
def test_the_sketch_is_the_explicit_sparse_matrix(count: int) -> None:
    sketch = Sjlt(32, seed=5)
    x = vectors(count)
    S = sketch.explicit("w", count)
    assert torch.equal(S.abs().sum(0), torch.ones(count, dtype=torch.float64))  # one entry a column, +1 or -1
    assert torch.allclose(sketch("w", x), x @ S.T, atol=1e-12, rtol=0)


def test_a_table_is_sketched_like_its_dense_gradient() -> None:
    sketch = Sjlt(16, seed=1)
    rows = torch.tensor([[2, 0, 2], [5, 5, 1]])
    d = torch.randn(2, 3, 4, dtype=torch.float64)
    dense = torch.zeros(2, 6, 4, dtype=torch.float64)
    for n in range(2):
        for t in range(3):
            dense[n, rows[n, t]] += d[n, t]
    z = torch.zeros(2, 16, dtype=torch.float64)
    sketch.add_rows(z, "table", rows, d)
    assert torch.allclose(z, sketch("table", dense.flatten(1)), atol=1e-12, rtol=0)


def test_several_parameters_share_the_buckets_and_add_up() -> None:
    sketch = Sjlt(64)
    a, b = vectors(100), vectors(300, 1)
    z = torch.zeros(3, 64, dtype=torch.float64)
    sketch.add(z, "a", a)
    sketch.add(z, "b", b)
    assert torch.allclose(z, sketch("a", a) + sketch("b", b), atol=1e-12)


def structured(o: int, i: int) -> tuple[Tensor, Tensor]:
    """Two gradients of a layer with a few very large input dimensions, as language models have."""
    gen = torch.Generator().manual_seed(3)
    scale = torch.ones(i, dtype=torch.float64)
    scale[:2] = 12
    a = torch.randn(2, 5, i, generator=gen, dtype=torch.float64) * scale
    g = torch.randn(2, 5, o, generator=gen, dtype=torch.float64)
    a[1] = 0.6 * a[0] + 0.8 * a[1]
    g[1] = 0.6 * g[0] + 0.8 * g[1]
    w = torch.einsum("nto,nti->noi", g, a).flatten(1)
    return w[0] / w[0].norm(), w[1] / w[1].norm()


def test_inner_products_are_unbiased_and_their_error_is_one_over_root_length() -> None:
    length, seeds = 128, 2000
    plain = vectors(900)
    for x, y in (structured(24, 32), (plain[0], plain[1]), (plain[0].abs(), plain[1].abs())):
        x, y = x / x.norm(), y / y.norm()
        pair = torch.stack([x, y])
        found = np.array([float(z[0] @ z[1]) for z in (Sjlt(length, seed)("w", pair) for seed in range(seeds))])
        truth = float(x @ y)
        assert abs(found.mean() - truth) < 4 * found.std() / seeds**0.5
        own = float((x.square() * y.square()).sum())
        exact = ((1 + truth**2 - 2 * own) / length) ** 0.5  # of independent buckets and signs
        assert found.std() == pytest.approx(exact, rel=0.15)


def test_the_error_of_a_cosine_is_one_over_root_length() -> None:
    length = 256
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3000, generator=gen, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    errors = []
    for seed in range(5):
        z = Sjlt(length, seed)("w", x)
        z = z / z.norm(dim=1, keepdim=True)
        errors.append(((z @ z.T - x @ x.T)[~torch.eye(60, dtype=torch.bool)]).square())
    rmse = float(torch.cat(errors).mean().sqrt())
    assert rmse == pytest.approx(length**-0.5, rel=0.15)


def test_buckets_and_signs_are_known_constants() -> None:
    sketch = Sjlt(2048, seed=0)
    index = torch.tensor([0, 1, 2047, 2048, 100_000])
    first = sketch.buckets("w", index).tolist()
    assert first == Sjlt(2048, seed=0).buckets("w", index).tolist()
    assert first != Sjlt(2048, seed=1).buckets("w", index).tolist()
    assert first != sketch.buckets("v", index).tolist()
    assert name_key("w", 0) == 5773864506453024630  # a change would silently break stored indices


def splitmix64(x: int, key: int) -> int:
    """The hash in plain integers."""
    mask = (1 << 64) - 1
    z = (x * 0x9E3779B97F4A7C15 + key) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    return z - (1 << 64) if z >> 63 else z


def test_the_hash_is_splitmix64() -> None:
    values = [0, 1, 2, 12345, 2**40]
    for key in (0, 7, 2**63 + 11):
        assert mixed(torch.tensor(values), key).tolist() == [splitmix64(x, key) for x in values]


def test_signs_are_the_same_whether_kept_or_made_again() -> None:
    x = vectors(5000)
    assert torch.equal(Sjlt(64)("w", x), Sjlt(64, cache_limit=0)("w", x))


def test_uniform_numbers_are_uniform_and_gaussians_normal() -> None:
    u = uniform(mixed(torch.arange(20_000), 3)).numpy()
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(np.sort(u) - (np.arange(20_000) + 0.5) / 20_000).max() < 1.63 / 20_000**0.5  # Kolmogorov, 1%
    z = gaussian("w", 100, 200, 0, torch.zeros((), dtype=torch.float64))
    assert abs(float(z.mean())) < 4 / 20_000**0.5
    assert float(z.var()) == pytest.approx(1, abs=4 * (2 / 20_000) ** 0.5)
    assert float((z[:, :100] @ z[:, 100:].T / 100).std()) == pytest.approx(0.1, rel=0.15)


def test_ids_have_keys_of_their_text() -> None:
    assert id_keys(["3", "a"]).tolist() == id_keys([3, "a"]).tolist()
    assert len(set(id_keys(range(1000)).tolist())) == 1000
