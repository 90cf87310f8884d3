"""The ladder: shapes on any grid, effects of latents, release to the prior, gradients."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from xcvae.generator.network import layers
from xcvae.generator.network.ladder import Ladder, Normal, level_sizes
from xcvae.generator.sampler import release_shares

LATENTS = (4, 3, 2, 1)


def network(pooled: int = 0) -> Ladder:
    torch.manual_seed(0)
    return Ladder(
        conditions=2, pooled=pooled, channels=(16, 16, 8, 8), latents=LATENTS, base=0, context=8
    )


def shaken(pooled: int = 0) -> Ladder:
    """Return a network without zero heads, as after some training."""
    net = network(pooled)
    with torch.no_grad():
        for weights in net.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return net


def noise(batch: int, size: tuple[int, int]) -> list[torch.Tensor]:
    sizes = level_sizes(size, len(LATENTS))
    return [torch.randn(batch, z, h, w) for z, (h, w) in zip(LATENTS, sizes, strict=True)]


@pytest.mark.parametrize("size", [(35, 53), (128, 128), (61, 47), (156, 132), (9, 8)])
def test_ladder_keeps_any_grid_size(size):
    c, x = torch.randn(2, 2, *size), torch.randn(2, 1, *size)
    drawn = shaken()(c, None, noise(2, size), x=x)
    assert drawn.output.shape == (2, 1, *size)
    assert [q.mu.shape[-2:] for q in drawn.posterior] == level_sizes(size, 4)


def test_untrained_ladder_returns_the_base_without_kl():
    c, x = torch.randn(2, 2, 20, 24), torch.randn(2, 1, 20, 24)
    drawn = network()(c, None, noise(2, (20, 24)), x=x)
    torch.testing.assert_close(drawn.output, c[:, :1])
    assert all(float(kl.detach().abs().max()) == 0 for kl in drawn.kl())


@pytest.mark.parametrize("level", range(4))
def test_latents_of_every_level_change_the_output(level):
    net, c, z = shaken(), torch.randn(1, 2, 32, 32), noise(1, (32, 32))
    with torch.no_grad():
        before = net(c, None, z).output
        z[level] = z[level] + 1
        assert float((net(c, None, z).output - before).abs().max()) > 1e-5


def test_ladder_gradients_reach_every_weight():
    net = shaken(pooled=5)
    c, x = torch.randn(2, 2, 32, 32), torch.randn(2, 1, 32, 32)
    drawn = net(c, torch.randn(2, 5), noise(2, (32, 32)), x=x)
    (drawn.output.square().mean() + torch.stack(drawn.kl()).sum()).backward()
    unreached = [
        n for n, w in net.named_parameters() if w.grad is None or not w.grad.abs().max() > 0
    ]
    assert unreached == []


def test_normal_kl_equals_torch():
    q = Normal(torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5))
    p = Normal(torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5))
    oracle = kl_divergence(
        TorchNormal(q.mu, q.log_sigma.exp()), TorchNormal(p.mu, p.log_sigma.exp())
    )
    torch.testing.assert_close(q.kl(p), oracle.flatten(1).sum(1))
    assert float(q.kl(p).min()) >= 0
    assert float(p.kl(p).abs().max()) == 0


def test_release_to_prior_replaces_whole_latents():
    torch.manual_seed(0)
    shape = (1, 2, 100, 100)
    prior = Normal(torch.zeros(shape), torch.zeros(shape))
    storm = Normal(torch.full(shape, 3.0), torch.full(shape, -2.0))
    order = torch.randn(shape)
    before = torch.zeros(shape, dtype=torch.bool)
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        path = storm.release_to_prior(prior, share, order)
        go = path.mu == 0
        assert float(go.float().mean()) == pytest.approx(share, abs=0.01)
        assert torch.equal(path.log_sigma == 0, go)  # never something in between
        assert bool((go | ~before).all())  # none is taken back
        before = go


def test_release_to_prior_is_calibrated_at_any_share():
    """The storm is as far from the members as they are from each other."""
    torch.manual_seed(0)
    prior = Normal(torch.zeros(1, 200_000), torch.zeros(1, 200_000))
    storm = torch.randn(1, 200_000)
    posterior = Normal(storm, torch.full_like(storm, -20.0))
    for share in (0.25, 0.5, 0.75):
        path = posterior.release_to_prior(prior, share, torch.randn(1, 200_000))
        members = torch.cat([path.sample(torch.randn(1, 200_000)) for _ in range(8)])
        spread = (9 / 8 * members.var(0).mean()).sqrt()
        error = (members.mean(0) - storm).square().mean().sqrt()
        assert float(spread / error) == pytest.approx(1, abs=0.02)


@torch.no_grad()
def test_descend_with_all_or_none_released_is_prior_or_posterior():
    net, c, x = shaken(), torch.randn(1, 2, 32, 32), torch.randn(1, 1, 32, 32)
    z = noise(1, (32, 32))
    posterior = net(c, None, z, x=x).output
    prior = net(c, None, z).output
    encoded = net.encode(c, None, x)
    torch.testing.assert_close(
        net.descend(encoded, z, released=release_shares(0, 4)).output, posterior
    )
    torch.testing.assert_close(net.descend(encoded, z, released=release_shares(1, 4)).output, prior)
    assert float((posterior - prior).abs().max()) > 1e-3


def test_sigma_is_that_of_the_distribution_times_factor_and_temperature():
    shape = (2, 3, 4, 5)
    one, deviates = Normal(torch.randn(shape), torch.randn(shape)), torch.randn(shape)
    wider = one.scale_sigma(1.5)
    assert torch.equal(wider.mu, one.mu)
    torch.testing.assert_close(wider.log_sigma.exp(), 1.5 * one.log_sigma.exp())
    expected = one.mu + 0.7 * 1.5 * one.log_sigma.exp() * deviates
    torch.testing.assert_close(wider.sample(deviates, temperature=0.7), expected)


@torch.no_grad()
def test_released_latents_are_those_of_calibrated_prior_draws():
    """The factors of sigma apply wherever a latent follows the prior, on each level its own."""
    net, size = shaken(), (35, 53)
    c, x, z = torch.randn(2, 2, *size), torch.randn(2, 1, *size), noise(2, size)
    plain = net(c, None, z).output
    net.sigma_factors = (2.0, 1.5, 0.8, 0.5)
    prior = net(c, None, z).output
    assert not torch.allclose(prior, plain)
    encoded = net.encode(c, None, x)
    released = net.descend(encoded, z, released=[1.0] * 4).output
    torch.testing.assert_close(released, prior)
    storm = net.descend(encoded, z, released=[0.0] * 4).output
    net.sigma_factors = (1.0,) * 4  # the posterior is as it was trained
    torch.testing.assert_close(net.descend(encoded, z).output, storm)


@torch.no_grad()
@pytest.mark.parametrize("coarse", [1, 2, 3])
def test_two_parts_of_the_ladder_are_the_whole(coarse):
    net, size = shaken(), (35, 53)
    net.sigma_factors = (2.0, 1.5, 0.8, 0.5)
    c, x, z = torch.randn(2, 2, *size), torch.randn(2, 1, *size), noise(2, size)
    encoded = net.encode(c, None, x)
    shares, order = [0.0, 0.3, 0.6, 1.0], noise(2, size)
    whole = net.descend(encoded, z, released=shares, order=order, temperature=0.9).output
    state = None
    for part in (slice(0, coarse), slice(coarse, 4)):
        piece = encoded.part(part.start, part.stop)
        assert (piece.first, len(piece.guides)) == (part.start, part.stop - part.start)
        state = net.descend(
            piece, z[part], released=shares[part], order=order[part], temperature=0.9, state=state
        ).output
    torch.testing.assert_close(state, whole)
    assert encoded.part(1, 4).part(coarse - 1, coarse).first == coarse


def test_release_shares_release_fine_levels_first():
    dial = [release_shares(s / 60, 6) for s in range(61)]
    assert dial[0] == [0.0] * 6
    assert dial[-1] == [1.0] * 6
    for low, high in pairwise(dial):
        assert all(b >= a for a, b in zip(low, high, strict=True))
        assert high == sorted(high)  # coarsest first: the finest is released most
        assert sum(0 < share < 1 for share in high) <= 1  # one level after the other
        assert max(b - a for a, b in zip(low, high, strict=True)) < 0.11  # no jump


@pytest.mark.parametrize("size", [(32, 32), (35, 53), (9, 8)])
def test_patch_shrinks_the_levels_and_keeps_the_size(size):
    torch.manual_seed(0)
    net = Ladder(conditions=2, pooled=0, channels=(8, 8), latents=(3, 5), base=0, patch=2)
    fine = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    assert net.shapes(*size)[-1] == (5, *fine)
    z = [torch.randn(2, *shape) for shape in net.shapes(*size)]
    c, x = torch.randn(2, 2, *size), torch.randn(2, 1, *size)
    drawn = net(c, None, z, x=x)
    torch.testing.assert_close(drawn.output, c[:, :1])  # untrained: the base, pixel by pixel
    assert drawn.posterior[-1].mu.shape == (2, 5, *fine)


def test_fold_repeats_the_last_pixels_at_an_odd_edge():
    maps = torch.arange(15.0).reshape(1, 1, 3, 5)
    wide = torch.nn.functional.pad(maps, (0, 1, 0, 1), mode="replicate")
    assert torch.equal(layers.fold(maps, 2), torch.nn.functional.pixel_unshuffle(wide, 2))
    assert layers.fold(maps, 2)[0, :, 1, 2].tolist() == [14.0] * 4


def test_unfold_inverts_fold():
    maps = torch.randn(2, 3, 7, 9)
    folded = layers.fold(maps, 2)
    assert folded.shape == (2, 12, 4, 5)
    torch.testing.assert_close(layers.unfold(folded, 2, (7, 9)), maps)


@torch.no_grad()
def test_pooled_conditions_change_the_output():
    net, c, z = shaken(pooled=5), torch.randn(1, 2, 32, 32), noise(1, (32, 32))
    a, b = (net(c, torch.full((1, 5), v), z).output for v in (0.0, 3.0))
    assert float((a - b).abs().max()) > 1e-4


@torch.no_grad()
def test_decode_of_posterior_means_equals_the_draw():
    net, c, x = shaken(), torch.randn(1, 2, 32, 32), torch.randn(1, 1, 32, 32)
    silent = [torch.zeros_like(level) for level in noise(1, (32, 32))]
    drawn = net(c, None, silent, x=x)
    again = net.decode(net.encode(c, None), [q.mu for q in drawn.posterior])
    torch.testing.assert_close(again, drawn.output)


@torch.no_grad()
def test_ladder_output_is_local():
    """A change far away has no effect: no operation uses whole maps."""
    net = shaken()
    c, z = torch.randn(1, 2, 16, 512), noise(1, (16, 512))
    far = c.clone()
    far[..., 480:] += 5
    difference = (net(c, None, z).output - net(far, None, z).output).abs()
    assert float(difference[..., 400:].max()) > 1e-3
    assert float(difference[..., :64].max()) == 0


def test_double_restores_odd_sizes_of_halve():
    maps = torch.arange(15.0).reshape(1, 1, 3, 5)
    small = layers.halve(maps)
    assert small.shape == (1, 1, 2, 3)
    assert float(small[0, 0, 1, 2]) == 14  # the corner averages what it has
    assert layers.double(small, (3, 5)).shape == maps.shape


def test_checkpointing_saves_memory_and_keeps_gradients() -> None:
    kept, gradients = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = Ladder(
            conditions=1,
            pooled=0,
            channels=[8, 8, 4],
            latents=[2, 2, 1],
            checkpointing=checkpointing,
        )
        # Layers that start at zero would hide missing gradients.
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        c, x = torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16)
        noise = [torch.randn(2, *shape) for shape in network.shapes(16, 16)]
        held: list[int] = []

        def hold(tensor: torch.Tensor, held: list[int] = held) -> torch.Tensor:
            held.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
            drawn = network(c, None, noise, x=x)
            (drawn.output.square().mean() + torch.stack(drawn.kl()).mean()).backward()
            gradients.append([w.grad for w in network.parameters()])
        kept.append(sum(held))
    torch.testing.assert_close(gradients[1], gradients[0])
    assert kept[1] < 0.6 * kept[0]


def test_separable_applies_to_the_finest_levels_only():
    def net(separable: int) -> Ladder:
        return Ladder(
            conditions=2, pooled=0, channels=(8, 8, 8), latents=(2, 2, 2), separable=separable
        )

    def kinds(blocks: list[nn.Module]) -> list[type]:
        return [type(block[0]) for block in blocks]

    mixed = net(2)
    plain, separable = layers.ResidualBlock, layers.SeparableBlock
    assert kinds([level.blocks for level in mixed.levels]) == [plain, separable, separable]
    for pyramid in (mixed.encode_condition, mixed.encode_target):
        # Finest first, and the finest level of a pyramid has no block.
        assert kinds(pyramid.blocks) == [separable, plain]
    weights = [sum(w.numel() for w in net(count).parameters()) for count in range(4)]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) == 4
