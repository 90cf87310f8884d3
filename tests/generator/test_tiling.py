"""Domains drawn in tiles equal those drawn in one piece."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from xcvae.errors import ConfigError
from xcvae.fields.batches import Batch
from xcvae.fields.scaling import RainScaling, Scaling
from xcvae.generator.network.architecture import Architecture
from xcvae.generator.network.constraint import BlockMeans
from xcvae.generator.network.ladder import Encoded, Ladder
from xcvae.generator.noise import Address, Window, normal_maps
from xcvae.generator.sampler import FieldSampler, release_shares
from xcvae.generator.splitting import Split, Tile, reach, rise_reach, split_domain, tile_size
from xcvae.generator.tiling import SMALL_MAP, Domain, DrawBatch

CPU = torch.device("cpu")
RAIN = RainScaling("mm h-1", 0.1)
SIZE = (150, 118)  # neither even halves nor a multiple of a tile
PARTS = {
    "plain": {},
    "patched": {"patch": 2},
    "deep": {"channels": (12, 12, 10, 8, 8), "latents": (2, 2, 2, 2, 1), "patch": 2, "blocks": 2},
    "pooled": {"pooled": 5, "context": 6, "seed": 2},
    "one level": {"channels": (8,), "latents": (2,)},
    "separable": {"patch": 2, "separable": 2},
}


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """In float32, whose rounding is far below the tolerance of these tests."""
    monkeypatch.setenv("XCVAE_PRECISION", "float32")


def ladder(*, channels=(12, 12, 8), latents=(3, 2, 1), seed=0, **options) -> Ladder:
    """Return a ladder with random weights, also in layers that start at zero."""
    options = {"conditions": 2, "pooled": 0, "base": 0, **options}
    network = Ladder(channels=channels, latents=latents, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 20
        with torch.no_grad():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * 0.6 / math.sqrt(fan)
            )
    return network


def maps(size=SIZE, *, samples=2, conditions=2, pooled=0, side=0) -> Batch:
    rng = torch.Generator().manual_seed(1)
    c = torch.rand(samples, conditions, *size, generator=rng)
    if side:
        coarse = torch.rand(samples, 1, size[0] // side, size[1] // side, generator=rng) - 0.3
        blocks = coarse.clamp(min=0).repeat_interleave(side, -2).repeat_interleave(side, -1)
        c = torch.cat([c, blocks], 1)
    mask = torch.rand(samples, 1, *size, generator=rng) > 0.02
    flat = 0.1 * torch.randn(samples, pooled, generator=rng) if pooled else None
    return Batch(c, flat, torch.rand(samples, 1, *size, generator=rng) * mask, mask)


def members(network: Ladder, batch: Batch, tile, *, spread=None, count=2, **how):
    sampler = FieldSampler(network, Scaling(RAIN, {}), CPU)
    mode = "prior" if spread is None else "posterior"
    addresses = [[Address(0, s, m, mode) for s in "ab"[: len(batch)]] for m in range(count)]
    released = None if spread is None else release_shares(spread, len(network.latents))
    return sampler.draw(batch, addresses, released=released, temperature=1.0, tile=tile, **how)


def distance(one, other) -> float:
    """Largest difference, as a share of the largest value."""
    assert np.array_equal(np.isnan(one), np.isnan(other))
    assert 1 < np.nanmax(one) < 500  # some rain, without an overflow
    return float(np.nanmax(np.abs(one - other)) / np.nanmax(one))


@pytest.mark.parametrize("spread", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("parts", PARTS)
def test_tiled_draw_equals_whole_draw(parts, spread):
    options = PARTS[parts]
    network, batch = ladder(**options), maps(pooled=options.get("pooled", 0))
    whole = members(network, batch, None, spread=spread)
    for tile in [(48, 48), (37, 118), (150, 20)]:
        assert distance(whole, members(network, batch, tile, spread=spread)) < 1e-5, tile


@pytest.mark.parametrize("parts", ["deep", "pooled", "one level"])
def test_tiled_posterior_means_equal_those_of_one_piece(parts):
    options = PARTS[parts]
    network, batch = ladder(**options), maps(pooled=options.get("pooled", 0))
    sampler, tile = FieldSampler(network, Scaling(RAIN, {}), CPU), (48, 48)
    one, tiled = (sampler.deviations(batch, tile=t) for t in (None, tile))
    for level, other in zip(one, tiled, strict=True):
        np.testing.assert_allclose(level, other, atol=1e-4)
    one, tiled = (sampler.levels(batch, tile=t) for t in (None, tile))
    assert [r.kl for r in tiled] == pytest.approx([r.kl for r in one], rel=1e-4)
    one, tiled = (sampler.reconstruct(batch, [1, 0], tile=t) for t in (None, tile))
    assert distance(one, tiled) < 1e-5


@pytest.mark.parametrize("spread", [None, 0.5])
def test_tiled_draw_keeps_block_means_across_cuts(spread):
    """Blocks of 6 pixels do not fit into tiles of 40, nor into cells of the seam."""
    network = ladder(conditions=3, patch=2, constraint=BlockMeans(RAIN, 6))
    batch = maps((150, 120), side=6)
    whole = members(network, batch, None, spread=spread)
    tiled = members(network, batch, (40, 40), spread=spread)
    assert distance(whole, tiled) < 1e-5
    wanted = RAIN.physical(batch.c[:, -1]).numpy()
    blocks = (2, 2, 25, 6, 20, 6)
    whole_blocks = ~np.isnan(tiled).reshape(blocks).any((3, 5))
    means = tiled.reshape(blocks).mean((3, 5))[whole_blocks]
    given = np.broadcast_to(wanted[None, :, ::6, ::6], whole_blocks.shape)[whole_blocks]
    np.testing.assert_allclose(means, given, rtol=1e-4, atol=1e-4)


def test_tiled_draw_does_not_depend_on_other_members():
    network, batch = ladder(patch=2), maps()
    several = members(network, batch, (48, 48), spread=0.5, count=5)
    alone = members(network, batch.take([0]), (48, 48), spread=0.5, count=1)
    assert np.array_equal(several[:1, :1], alone, equal_nan=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tile", [None, (48, 48)])
def test_draw_has_the_same_bits_in_threads_and_with_little_memory(monkeypatch, tile, precision):
    monkeypatch.setenv("XCVAE_PRECISION", precision)
    network, batch = ladder(**PARTS["deep"]), maps()
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # in float32 it decides on last digits
    try:
        one = members(network, batch, tile, spread=0.5, count=11)
        threads = members(network, batch, tile, spread=0.5, count=11, threads=4)
        assert np.array_equal(one, threads, equal_nan=True)
        assert torch.get_num_threads() == 1
        # One member at a time, and no features stored.
        monkeypatch.setenv("XCVAE_MEMORY", "1 B")
        little = members(network, batch, tile, spread=0.5, count=11, threads=4)
        assert np.array_equal(one, little, equal_nan=True)
    finally:
        torch.set_num_threads(torch_threads)


def test_draws_at_a_time_share_the_threads_for_tiles():
    network, batch = ladder(patch=2), maps(samples=1)
    one = members(network, batch, (24, 24))
    active, seen, lock = [0], [], threading.Lock()

    def note(change: int) -> None:
        with lock:
            active[0] += change
            seen.append(active[0])
        time.sleep(0.001)

    stem = network.encode_condition.stem
    stem.register_forward_pre_hook(lambda *_: note(1))
    stem.register_forward_hook(lambda *_: note(-1))
    with ThreadPoolExecutor(3) as pool:
        draws = list(pool.map(lambda _: members(network, batch, (24, 24), threads=2), range(3)))
    assert max(seen) == 2
    for other in draws:
        assert np.array_equal(one, other, equal_nan=True)


def test_a_member_alone_has_the_bits_of_a_batch():
    """Kernels for a single small map round differently: such levels are drawn twice."""
    network = ladder(channels=(64, 64), latents=(4, 4), patch=2)
    batch = maps((40, 40), samples=1)
    encoded = whole_domain(network, (40, 40)).encode(batch, 0, posterior=False)
    windows = [Window(level, shape) for level, shape in enumerate(network.shapes(40, 40))]
    eight = DrawBatch([Address(0, "a", m, "prior") for m in range(8)], None, 1.0, CPU)
    together = eight.descend(network, Encoded.join([encoded] * 8), windows)
    alone = eight.of(slice(3, 4)).descend_alone(network, encoded, windows)
    assert torch.equal(alone, together[3:4])


def test_features_of_a_tile_are_encoded_once_for_all_members():
    network, batch = ladder(patch=2), maps(samples=1)
    split = split_domain(network, SIZE, (48, 48), posterior=False)
    seen = []
    network.encode_condition.stem.register_forward_pre_hook(lambda *_: seen.append(1))
    members(network, batch, (48, 48), count=5)
    assert len(seen) == len(split.tiles)


def test_tile_as_large_as_the_domain_changes_nothing():
    network, batch = ladder(), maps((40, 30))
    whole = members(network, batch, None)
    assert np.array_equal(whole, members(network, batch, (40, 64)), equal_nan=True)


def whole_domain(network: Ladder, size) -> Domain:
    return Domain(network, CPU, size, Split.whole(network, size))


def halves(network: Ladder, size, *, fine: int, halo: int) -> Domain:
    """The domain cut once, in the middle of its columns."""
    rows, width = slice(0, size[0]), size[1]
    middle = width // 2
    tiles = (
        Tile((rows, slice(0, middle)), (rows, slice(0, middle + halo))),
        Tile((rows, slice(middle, width)), (rows, slice(middle - halo, width))),
    )
    cell = network.patch * 2**fine
    split = Split(fine, cell, halo, tiles, margins=(halo,) * fine, step=cell)
    return Domain(network, CPU, size, split)


def drawn(domain, batch, spread, encoded=None):
    posterior = spread is not None
    released = release_shares(spread, 3) if posterior else None
    one = DrawBatch([Address(0, "a", 0, "prior")], released, 1.0, CPU)
    encoded = encoded or domain.encode(batch, 0, posterior=posterior)
    out = np.empty(batch.c.shape[-2:], np.float32)

    def write(place, _, values):
        out[place] = values[0, 0].numpy()

    domain.draw(batch, [0], {0: encoded}, one, write)
    return out


def depth(one, other) -> int:
    """Return the largest distance from the middle column at which two maps differ."""
    columns = np.flatnonzero((np.abs(one - other) > 1e-5).any(0))
    middle = one.shape[1] // 2
    return int(np.where(columns < middle, middle - columns, columns - middle + 1).max(initial=0))


@pytest.mark.parametrize("spread", [None, 0.5])
@pytest.mark.parametrize("fine", [1, 2])
@pytest.mark.parametrize("parts", [{}, {"patch": 2, "blocks": 2}, {"separable": 2}])
def test_reach_is_the_receptive_field(parts, fine, spread):
    """Without a halo, values are wrong as far from the cut as `reach` says, and no farther."""
    network, size = ladder(**parts), (32, 256)
    batch = maps(size, samples=1)
    whole = drawn(whole_domain(network, size), batch, spread)
    right = halves(network, size, fine=fine, halo=128)
    encoded = right.encode(batch, 0, posterior=spread is not None)
    np.testing.assert_allclose(drawn(right, batch, spread, encoded), whole, atol=1e-5)
    cut = drawn(halves(network, size, fine=fine, halo=0), batch, spread, encoded)
    far = network.patch * reach(network, fine, posterior=spread is not None)
    assert far / 2 < depth(cut, whole) <= far


@pytest.mark.parametrize("fine", [1, 2])
def test_rise_reach_is_the_receptive_field_of_features(fine):
    network, size = ladder(), (32, 256)
    batch = maps(size, samples=1)
    seams = [
        halves(network, size, fine=fine, halo=halo).encode(batch, 0, posterior=True)
        for halo in (0, 128)
    ]
    for maps_of in (lambda encoded: encoded.guides, lambda encoded: encoded.features):
        cut, whole = (maps_of(encoded)[-1][0].abs().sum(0).numpy() for encoded in seams)
        far = rise_reach(network, fine)[fine]
        assert far - 1 <= depth(cut, whole) <= far


@pytest.mark.parametrize("posterior", [False, True])
@pytest.mark.parametrize("tile", [(64, 64), (100, 37), (1000, 50), (16, 16)])
@pytest.mark.parametrize("side", [0, 12])
def test_split_domain_covers_the_domain_once_with_halos(tile, side, posterior):
    size = (516, 708)
    keep = BlockMeans(RAIN, side) if side else None
    network = ladder(conditions=3, **{**PARTS["deep"], "constraint": keep})
    split = split_domain(network, size, tile, posterior=posterior)
    seen = np.zeros(size, int)
    for one in split.tiles:
        seen[one.core] += 1
        for core, window, length, most in zip(one.core, one.window, size, tile, strict=True):
            assert core.stop - core.start <= most
            assert core.start % split.cell == 0
            assert window.start == 0 or core.start - window.start >= split.halo
            assert window.stop == length or window.stop - core.stop >= split.halo
            assert not side or (window.start % side == 0 and window.stop % side == 0)
    assert (seen == 1).all()


def test_tile_windows_have_the_noise_of_the_domain():
    network, size = ladder(**PARTS["deep"]), (300, 260)
    split = split_domain(network, size, (64, 64), posterior=True)
    tiles = Domain(network, CPU, size, split)
    here = [Address(3, "a", 1, "prior")]
    for level, shape in enumerate(network.shapes(*size)):
        (whole,) = normal_maps(here, [Window(level, shape)], device=CPU)
        for one in split.tiles:
            for window in tiles.windows(one):
                if window.level == level:
                    (part,) = normal_maps(here, [window], device=CPU)
                    top, left = window.origin
                    _, height, width = window.shape
                    cut = whole[..., top : top + height, left : left + width]
                    assert torch.equal(part, cut)


def test_tiled_draw_limits_the_largest_map():
    network, size = ladder(**PARTS["deep"]), (512, 512)
    split = split_domain(network, size, (128, 128), posterior=True)
    largest = max(math.prod(tile.shape) for tile in split.tiles) // network.patch**2
    assert largest < 512 * 512 // network.patch**2 // 4
    largest = max(largest, (512 // split.cell) ** 2)
    assert largest < 512 * 512 // network.patch**2 // 3
    seen = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    members(network, maps(size, samples=1), (128, 128), spread=0.5, count=1)
    assert max(shape[-1] * shape[-2] for shape in seen) == largest
    large = [shape[0] for shape in seen if shape[-1] * shape[-2] > SMALL_MAP]
    assert set(large) == {1}


def test_split_domain_coarsens_the_seam_for_larger_domains():
    network = ladder(**PARTS["deep"])
    fine = [
        split_domain(network, (side, side), (128, 128), posterior=False, seam=0).fine
        for side in (130, 512, 4096, 2**15)
    ]
    assert fine == sorted(fine)
    assert fine[0] == 1
    assert fine[-1] == 4


DOMAIN, DEEP = {"lat": 300, "lon": 200}, Architecture((8, 8, 8), (2, 2, 2), patch=2)


@pytest.mark.parametrize(
    ("tile", "size"),
    [
        (None, None),
        ({"lat": 64}, (64, 200)),
        ({"lon": 64, "lat": 400}, (300, 64)),
        ({"lon": 200, "lat": 301}, None),
        ({"lat": 4, "lon": 4}, (4, 4)),
    ],
)
def test_tile_size_by_dims(tile, size):
    assert tile_size(tile, DOMAIN, DEEP) == size


def test_tile_size_refuses_unknown_dims_and_small_tiles():
    with pytest.raises(ConfigError, match=r"tile\['y'\]: expected the dims of the maps, lat and"):
        tile_size({"y": 64}, DOMAIN, DEEP)
    with pytest.raises(ConfigError, match=r"tile\['lon'\]: expected at least 4 pixels.*got 3"):
        tile_size({"lon": 3}, DOMAIN, DEEP)
