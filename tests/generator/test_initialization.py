"""Initial weights of a ladder: the information in its latents before any training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from xcvae.generator.network.initialization import details, initialize
from xcvae.generator.network.ladder import Drawn, Ladder
from xcvae.generator.network.layers import fold

SIZE = 32


def initialized(
    patch: int,
    *,
    base: int | None = 0,
    latents: tuple[int, ...] = (3, 3, 4),
    separable: int = 0,
) -> Ladder:
    torch.manual_seed(0)
    net = Ladder(
        conditions=2, pooled=0, channels=(12, 16, 16), latents=latents, base=base, patch=patch,
        separable=separable,
    )  # fmt: skip
    initialize(net)
    return net


def reconstructed(net: Ladder, x: torch.Tensor, c: torch.Tensor) -> Drawn:
    """The posterior's mean, decoded."""
    quiet = [torch.zeros(len(x), *shape) for shape in net.shapes(*x.shape[-2:])]
    with torch.no_grad():
        drawn: Drawn = net(c, None, quiet, x=x)
    return drawn


def fields() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    rough = torch.randn(2, 1, SIZE, SIZE)
    x = F.avg_pool2d(rough, 5, stride=1, padding=2) + 0.2 * rough
    smooth = F.interpolate(F.avg_pool2d(x, 8), scale_factor=8, mode="bilinear")
    return x, torch.cat([smooth, torch.randn_like(x)], dim=1)


@pytest.mark.parametrize("patch", [2, 4])
def test_initialize_passes_details_of_squares_through(patch):
    x, c = fields()
    latents = (3, 3, patch**2)
    torch.manual_seed(0)
    net = Ladder(conditions=2, pooled=0, channels=(12, 16, 32), latents=latents, patch=patch)
    initialize(net)
    basis = details(patch)
    found = torch.einsum("ns,bshw->bnhw", basis, fold(reconstructed(net, x, c).output, patch))
    torch.testing.assert_close(found, torch.einsum("ns,bshw->bnhw", basis, fold(x, patch)))


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("base", [0, None])
@pytest.mark.parametrize("separable", [0, 3])
def test_initialize_reconstructs_better_than_the_condition(patch, base, separable):
    x, c = fields()
    output = reconstructed(initialized(patch, base=base, separable=separable), x, c).output
    without = 0 if base is None else c[:, :1]
    assert float((output - x).square().mean()) < 0.7 * float((without - x).square().mean())


def test_initialize_makes_every_level_informative():
    x, c = fields()
    drawn = reconstructed(initialized(2), x, c)
    for level, (q, p) in enumerate(zip(drawn.posterior, drawn.prior, strict=True)):
        count = 4 if level == 2 else 1
        information = (q.mu - p.mu).square().mean(dim=(0, 2, 3))
        assert (information[:count] > 1e-3).all()
        assert (q.log_sigma[:, :count] < -1).all()
        assert not information[count:].any()


@pytest.mark.parametrize(("base", "carried"), [(0, False), (None, True)])
def test_initialize_carries_the_mean_in_the_coarsest_latent_without_a_base(base, carried):
    net = initialized(1, base=base)
    c = torch.zeros(1, 2, SIZE, SIZE)
    drawn = reconstructed(net, torch.ones(1, 1, SIZE, SIZE), c)
    inside = drawn.posterior[0].mu[0, 0, 1:-1, 1:-1]
    assert bool((inside.abs() > 0.5).all()) is carried
    assert bool((inside.abs() < 1e-5).all()) is not carried


def test_initialize_lets_gradients_reach_every_level():
    x, c = fields()
    net = initialized(2)
    quiet = [torch.zeros(len(x), *shape) for shape in net.shapes(SIZE, SIZE)]
    (net(c, None, quiet, x=x).output - x).square().mean().backward()
    for level in net.levels:
        assert float(level.posterior.weight.grad.abs().sum()) > 0
        assert float(level.inject.weight.grad.abs().sum()) > 0


def test_initialize_leaves_narrow_networks_unchanged():
    torch.manual_seed(0)
    net = Ladder(conditions=1, pooled=0, channels=(1, 4), latents=(1, 1), patch=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    initialize(net)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_initialize_uses_the_smoothest_details_first():
    net = initialized(2, latents=(1, 1, 2))
    assert net.levels[-1].inject.weight[:, 1].count_nonzero() == 1
    torch.testing.assert_close(net.head.weight[:, 1, 1, 1], details(2)[0])
    assert net.head.weight[:, 2].count_nonzero() == 0
