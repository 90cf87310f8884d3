"""Tensors from Datasets: values, masks, crops, streaming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils._python_dispatch import TorchDispatchMode

from xcvae.errors import ConfigError, MismatchError
from xcvae.fields.batches import Batch, Batches, position_maps, rescaled
from xcvae.fields.describe import describe, prepare
from xcvae.fields.prefetch import pool_shape, streamed
from xcvae.fields.scaling import RainScaling, Scaling


def batches_of(ds: xr.Dataset, **names) -> Batches:
    spec = describe(ds, target="pr", **names)
    prepared = prepare(ds, spec, need_target=True)
    scaling, record = Scaling.fit(prepared, spec)
    return Batches(prepared, spec, scaling, masked=record.masked)


@pytest.fixture(scope="module")
def masked_daily() -> xr.Dataset:
    """Daily rain on islands, pressure over a far wider area, a scalar index, a map of heights."""
    rng = np.random.default_rng(0)
    rain = rng.gamma(0.3, 10, (20, 35, 53))
    rain[:, :10] = np.nan
    day = np.arange(20).astype("datetime64[D]").astype("datetime64[ns]")
    return xr.Dataset(
        {
            "pr": (("time", "y", "x"), rain, {"units": "mm d-1"}),
            "slp": (("time", "lat", "lon"), rng.normal(1e5, 500, (20, 11, 13)), {"units": "Pa"}),
            "nao": (("time",), rng.normal(size=20), {"units": "1"}),
            "height": (("y", "x"), rng.gamma(2, 200, (35, 53)), {"units": "m"}),
        },
        coords={
            "time": day,
            "y": ("y", np.arange(35.0) * 5000, {"units": "m", "axis": "Y"}),
            "x": ("x", np.arange(53.0) * 5000, {"units": "m", "axis": "X"}),
            "lat": ("lat", np.linspace(55, 30, 11), {"units": "degrees_north"}),
            "lon": ("lon", np.linspace(-15, 15, 13), {"units": "degrees_east"}),
        },
    )


def test_load_returns_the_values_of_the_dataset(test_radar):
    batch = batches_of(test_radar, conditions=["pr_coarse"]).load([3, 0])
    assert batch.c.shape == (2, 1, 156, 132)
    assert batch.pooled is None
    np.testing.assert_allclose(
        batch.x[:, 0], np.log1p(test_radar.pr.values[[3, 0]] / 0.1) / 2, atol=1e-5
    )
    # The stretched condition meets the block means at the centres of the blocks (between pixels).
    middle = np.expm1(2 * batch.c[0, 0].numpy()) * 0.1
    centre = (middle[17:19, 17:19]).mean()
    assert centre == pytest.approx(float(test_radar.pr_coarse[3, 1, 1]), rel=0.05, abs=0.01)


def test_load_returns_masks_positions_statics_and_pooled_conditions(masked_daily):
    batches = batches_of(masked_daily, conditions=["slp", "nao"], statics=["height"])
    batch = batches.load([0, 5])
    assert batch.pooled.shape == (2, 11 * 13 + 1)
    assert batch.c.shape == (2, 1 + 1 + 14, 35, 53)  # height, mask, positions
    assert not batch.mask[:, :, :10].any()
    assert batch.mask[:, :, 10:].all()
    assert float(batch.x[:, :, :10].abs().max()) == 0
    assert torch.isfinite(batch.c).all()
    assert torch.equal(batch.c[:, 1:2], batch.mask.float())
    cut = batch.crop(8, 5, 12, 20)
    for name in ("c", "x", "mask"):
        assert torch.equal(getattr(cut, name), getattr(batch, name)[..., 8:20, 5:25]), name
    assert cut.pooled is batch.pooled


def test_picked_and_joined_samples_keep_all_their_tensors(masked_daily):
    batches = batches_of(masked_daily, conditions=["slp", "nao"], statics=["height"])
    whole = replace(batches.load(slice(None)), side=4)
    picked = whole.take([7, 2, 2, 19])
    parts = [whole.take(range(10)), whole.take(range(10, 20))]
    gathered = Batch.gather(parts, [(0, 7), (0, 2), (0, 2), (1, 9)])
    joined = Batch.joined([whole.take([7, 2]), whole.take([2, 19])])
    assert len(picked) == 4
    for found in (picked, gathered, joined):
        assert found.side == 4
        for name in ("c", "pooled", "x", "mask"):
            expected = getattr(whole, name)[[7, 2, 2, 19]]
            assert torch.equal(getattr(found, name), expected), name
    assert not torch.equal(picked.pooled[0], picked.pooled[1])


def test_crop_and_turned_move_all_maps_alike(test_radar):
    batch = batches_of(test_radar, conditions=["pr_coarse"]).load([0])
    cut = batch.crop(12, 24, 48, 36)
    assert torch.equal(cut.x, batch.x[..., 12:60, 24:60])
    assert torch.equal(cut.c, batch.c[..., 12:60, 24:60])
    turned = cut.turned(rows=True, columns=False, transpose=True).packed()
    assert torch.equal(turned.x, cut.x.flip(-2).transpose(-1, -2))
    assert torch.equal(turned.mask, cut.mask.flip(-2).transpose(-1, -2))


@pytest.mark.parametrize(("multiple", "offset"), [(1, (0, 0)), (2, (1, 0)), (3, (0, 2))])
@pytest.mark.parametrize("corner", [(0, 0), (2, 1)])
def test_rescaled_is_made_of_the_means_of_its_blocks(multiple, offset, corner):
    rain = np.random.default_rng(0).gamma(0.5, 4.0, (2, 31, 45)).astype("float32")
    scaling = Scaling(RainScaling("mm h-1", 0.1), {})
    x = torch.from_numpy(scaling.target.normalise(rain))[:, None]
    batch = Batch(x[:, :0], None, x, torch.ones_like(x, dtype=torch.bool))
    ds = xr.Dataset({"pr": (("time", "y", "x"), rain, {"units": "mm h-1"})})
    ds = ds.assign_coords({d: (d, np.arange(ds.sizes[d]) * 1.0, {"units": "km"}) for d in "yx"})
    spec = describe(ds, target="pr", coarsen={"factor": [2, 4], "pixel": [1, 3]})
    found = rescaled(
        batch, spec, scaling, 4, multiple, conserves=True, offset=offset, corner=corner
    )

    def means(fields: np.ndarray, side: int) -> np.ndarray:
        rows, columns = (n // side for n in fields.shape[1:])
        blocks = fields[:, : rows * side, : columns * side]
        return blocks.reshape(2, rows, side, columns, side).mean(axis=(2, 4))

    pixels = means(rain[:, offset[0] :, offset[1] :], multiple)[:, corner[0] :, corner[1] :]
    coarse = means(pixels, 4)
    fine = pixels[:, : 4 * coarse.shape[1], : 4 * coarse.shape[2]]
    stretched = xr.DataArray(coarse, dims=("n", "y", "x")).interp(
        y=(np.arange(fine.shape[1]) + 0.5) / 4 - 0.5,
        x=(np.arange(fine.shape[2]) + 0.5) / 4 - 0.5,
        kwargs={"fill_value": None},
    )
    inside = np.s_[:, 2:-2, 2:-2]  # beyond the outer centres the outer value is kept
    physical = scaling.physical
    np.testing.assert_allclose(physical(found.x)[:, 0], fine, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        physical(found.c[:, 0])[inside], stretched.values[inside], rtol=1e-4, atol=1e-5
    )
    blocks = coarse.repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_allclose(physical(found.c[:, 1]), blocks, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.pooled[1], spec.scales.numbers(4, multiple), rtol=1e-6)
    assert found.side == 4


def test_position_maps_are_waves_of_three_lengths():
    maps = position_maps(5, 9)
    y, x = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 9), indexing="ij")
    expected = [y, x]
    for length in (1, 2, 4):
        for axis in (y, x):
            expected += [np.sin(np.pi * length * axis), np.cos(np.pi * length * axis)]
    np.testing.assert_allclose(maps, expected, atol=1e-5)


@pytest.mark.parametrize("chunks", [None, {"time": 7}])
def test_shuffled_yields_the_rows_of_a_part(train_radar, chunks):
    few = train_radar.isel(time=slice(40))
    batches = batches_of(few if chunks is None else few.chunk(chunks), conditions=["pr_coarse"])
    streams = [
        batches.shuffled(6, np.random.default_rng(0), part=part)
        for part in (slice(None), slice(2, 4))
    ]
    for _ in range(8):
        whole, part = (next(stream) for stream in streams)
        assert torch.equal(part.x, whole.x[2:4])
    for stream in streams:
        stream.close()


class Operations(TorchDispatchMode):
    """Writes down every operation of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() != "aten::lift_fresh":  # numpy's memory as a tensor
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rain", ["radar", "masked"])
def test_load_runs_no_operation_of_torch(rain, test_radar, masked_daily):
    if rain == "radar":
        batches = batches_of(test_radar, conditions=["pr_coarse"])
    else:
        batches = batches_of(masked_daily, conditions=["slp", "nao"], statics=["height"])
    with Operations() as seen:
        read = batches.load([0, 1])
        assert not seen.names  # an operation in the thread that reads stops those that train
        _ = read.x + 1
    assert seen.names == ["aten::add.Tensor"]


def seen(batches: Batches, count: int, seed: int = 0, **options: int) -> list[float]:
    stream = batches.shuffled(4, np.random.default_rng(seed), **options)
    sums = [float(v) for _ in range(count) for v in next(stream).x.sum(dim=(1, 2, 3))]
    stream.close()
    return sums


@pytest.mark.parametrize("chunks", [None, {"time": 5}])
def test_shuffled_yields_every_sample_once_per_epoch(train_radar, chunks):
    few = train_radar.isel(time=slice(0, 40), y=slice(0, 24), x=slice(0, 24))[["pr", "pr_coarse"]]
    few = few.isel(y_coarse=slice(0, 2), x_coarse=slice(0, 2))
    few = few if chunks is None else few.chunk(chunks)
    batches = batches_of(few, conditions=["pr_coarse"])
    assert batches.lazy == (chunks is not None)
    batches.keep()
    order = seen(batches, 10)
    wanted = (np.log1p(few.pr.values / 0.1) / 2).sum(axis=(1, 2))
    np.testing.assert_allclose(sorted(order), np.sort(wanted), rtol=1e-3, atol=1e-3)
    assert order != sorted(order)
    assert np.abs(np.array(order) - wanted).max() > 1


@pytest.mark.parametrize("chunks", [None, {"time": 5}])
def test_shuffled_keeps_the_tensors_of_a_sample_together(masked_daily, chunks):
    """A condition and a mask that differ from sample to sample, too."""
    local = masked_daily.nao * masked_daily.pr.mean("time").fillna(0)
    ds = masked_daily.assign(
        pr=masked_daily.pr.where(masked_daily.y / 5000 != 12 + masked_daily.nao.rank("time")),
        local=local.transpose("time", "y", "x").assign_attrs(units="1"),
    )
    batches = batches_of(
        ds if chunks is None else ds.chunk(chunks),
        conditions=["slp", "nao", "local"],
        statics=["height"],
    )
    stored = batches.load(slice(None))
    stream = batches.shuffled(4, np.random.default_rng(0))
    for batch in (next(stream) for _ in range(5)):
        for row in range(4):
            [at] = [n for n in range(20) if torch.equal(stored.x[n], batch.x[row])]
            for name in ("c", "pooled", "x", "mask"):
                assert torch.equal(getattr(batch, name)[row], getattr(stored, name)[at]), name
    stream.close()


@pytest.mark.parametrize("chunks", [None, {"time": 20}])
def test_shuffled_depends_on_its_generator(train_radar, chunks):
    few = train_radar.isel(time=slice(0, 20), y=slice(0, 24), x=slice(0, 24))[["pr", "pr_coarse"]]
    few = few.isel(y_coarse=slice(0, 2), x_coarse=slice(0, 2))
    # A single read: only the picks out of it can differ.
    batches = batches_of(few if chunks is None else few.chunk(chunks), conditions=["pr_coarse"])
    orders = [seen(batches, 5, seed) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


def test_streamed_reads_pools_in_the_order_of_its_generator():
    def reads(seed: int) -> list[int]:
        starts: list[int] = []
        rooms = {"count": 40, "size": 2, "sample_bytes": 1, "pool_bytes": 2}

        def load(rows: slice) -> list[int]:
            starts.append(rows.start)
            return list(range(rows.start, rows.stop))

        def gather(pool: list[list[int]], places: list[tuple[int, int]]) -> list[int]:
            return [pool[number][row] for number, row in places]

        stream = streamed(load, gather, rng=np.random.default_rng(seed), **rooms)
        rows = [row for _ in range(20) for row in next(stream)]
        stream.close()
        assert sorted(rows) == list(range(40))  # an epoch
        return starts[:40]

    assert reads(0) == reads(0)
    assert reads(0) != reads(1) != reads(2)


@pytest.mark.parametrize("past", [3, 14])
@pytest.mark.parametrize("chunks", [None, {"time": 5}])
def test_shuffled_skips_past_batches(train_radar, chunks, past):
    """In the middle of an epoch or of a pool, without reading what is past."""
    few = train_radar.isel(time=slice(0, 40), y=slice(0, 24), x=slice(0, 24))[["pr", "pr_coarse"]]
    few = few.isel(y_coarse=slice(0, 2), x_coarse=slice(0, 2))
    batches = batches_of(few if chunks is None else few.chunk(chunks), conditions=["pr_coarse"])
    room = 16 * batches.nbytes // 40
    whole = seen(batches, 20, pool_bytes=room)
    stream = batches.shuffled(4, np.random.default_rng(0), past=past, pool_bytes=room)
    read, load = [], batches.load
    batches.load = lambda rows: read.append(rows) or load(rows)
    rest = [float(v) for _ in range(20 - past) for v in next(stream).x.sum(dim=(1, 2, 3))]
    stream.close()
    assert rest == whole[4 * past :]
    if chunks is None:
        assert len(read) == 20 - past


def test_pools_are_bounded_in_bytes_and_hold_a_batch(train_radar):
    few = train_radar.isel(time=slice(0, 40), y=slice(0, 24), x=slice(0, 24))[["pr", "pr_coarse"]]
    few = few.isel(y_coarse=slice(0, 2), x_coarse=slice(0, 2)).chunk({"time": 5})
    batches = batches_of(few, conditions=["pr_coarse"])
    assert pool_shape(4, 10**12) == (1, 4)
    assert pool_shape(4, 1000) == (64, 8)
    read, load = [], batches.load
    batches.load = lambda rows: read.append(rows.stop - rows.start) or load(rows)
    room = 12 * batches.nbytes // 40
    stream = batches.shuffled(4, np.random.default_rng(0), pool_bytes=room)
    assert [len(next(stream)) for _ in range(12)] == [4] * 12
    stream.close()
    assert set(read) == {1}


def test_shuffled_raises_errors_of_the_reader_thread(train_radar):
    few = train_radar.isel(time=slice(0, 8)).chunk({"time": 4})
    spec = describe(few, target="pr", conditions=["pr_coarse"])
    prepared = prepare(few, spec, need_target=True)
    scaling, _ = Scaling.fit(prepared, spec)

    def broken(block: np.ndarray) -> np.ndarray:
        raise OSError("disk gone")

    lost = prepared.assign(
        pr=prepared.pr.copy(data=prepared.pr.data.map_blocks(broken, dtype="f4"))
    )
    with pytest.raises(OSError, match="disk gone"):
        seen(Batches(lost, spec, scaling), 1)


def test_batches_without_target_refuse_a_mask_of_another_domain(masked_daily):
    spec = describe(masked_daily, target="pr", conditions=["slp"])
    scaling, _ = Scaling.fit(prepare(masked_daily, spec, need_target=True), spec)
    bare = prepare(masked_daily.drop_vars("pr"), spec, need_target=False)
    valid = np.ones((35, 53), bool)
    valid[:10] = False
    batch = Batches(bare, spec, scaling, masked=True, valid=valid).load([0, 1])
    assert batch.x is None
    assert batch.mask.shape == (2, 1, 35, 53)
    assert int(batch.mask.sum()) == 2 * 25 * 53
    with pytest.raises(MismatchError, match="mask"):
        Batches(bare, spec, scaling, masked=True, valid=valid[:20])
    elsewhere = bare.assign_coords(y=("y", bare.y.values + 1e6, bare.y.attrs))
    with pytest.raises(MismatchError, match="mask"):
        Batches(elsewhere, spec, scaling, masked=True, valid=valid)


def test_shuffled_fills_the_share_of_heavy_samples(train_radar):
    batches = batches_of(train_radar.isel(time=slice(0, 60)), conditions=["pr_coarse"])
    batches.keep()

    def rain(batch):
        return batches.scaling.physical(batch.x).mean(dim=(1, 2, 3))

    amounts = rain(batches.load(slice(None)))
    limit = float(amounts.sort().values[-6])
    stream = batches.shuffled(8, np.random.default_rng(0), 0.5)
    for _ in range(7):
        assert int((rain(next(stream)) >= limit * 0.999).sum()) >= 4
    lazy = batches_of(
        train_radar.isel(time=slice(0, 20)).chunk({"time": 5}), conditions=["pr_coarse"]
    )
    with pytest.raises(ConfigError, match="memory"):
        next(lazy.shuffled(4, np.random.default_rng(0), 0.5))


def test_shuffled_never_counts_masked_samples_as_heavy(train_radar):
    """A sample without any valid pixel has no rain; ten of twenty are masked."""
    ds = train_radar.isel(time=slice(0, 20)).copy()
    ds["pr"] = ds.pr.where(ds.time.isin(ds.time[::2]))
    with pytest.warns(UserWarning, match="10 of 20 samples have no valid pixel"):
        stream = batches_of(ds, coarsen=12).shuffled(4, np.random.default_rng(0), 1.0)
    assert all(next(stream).mask.all() for _ in range(5))
