"""``sample(tile=...)``: members equal those of one piece, and a store records its tiles."""

from __future__ import annotations

import itertools
import json
import math
import threading

import dask
import numpy as np
import pytest
import torch
import xarray as xr

import xcvae
from xcvae.ensemble.sample import sample
from xcvae.ensemble.verify_store import verify_store
from xcvae.errors import ConfigError, OutputExistsError
from xcvae.generator.memory import available_memory, check_room

TILE = {"y": 16, "x": 20}
ASKED = {"members": 3, "seed": 2, "postprocess": [], "progress": False}


def far(one: xr.Dataset, other: xr.Dataset) -> float:
    """Largest difference, as a share of the largest value."""
    assert float(one.pr.max()) > 1
    return float(np.abs(one.pr - other.pr).max() / one.pr.max())


@pytest.fixture(scope="module")
def constrained(storms):
    return xcvae.train(
        storms,
        target="pr",
        coarsen=12,
        fit={"max_steps": 20, "batch_size": 4, "crop": 24, "validations": 1},
        generator={"channels": [12, 12, 8], "latents": [2, 2, 1], "constrain": True, "patch": 2},
        device="cpu",
        progress=False,
    )


@pytest.mark.parametrize("how", [{}, {"mode": "posterior", "spread": 0.5}])
@pytest.mark.parametrize("tile", [TILE, {"x": 13}])
def test_tiled_members_equal_those_of_one_piece(few, model, how, tile):
    one = sample(few, model, **ASKED, **how)
    assert far(one, sample(few, model, tile=tile, **ASKED, **how)) < 1e-4


@pytest.mark.parametrize("how", [{}, {"mode": "posterior", "spread": 0.5}])
def test_tiled_members_keep_their_block_means(few, constrained, how):
    one = sample(few, constrained, **ASKED, **how)
    tiled = sample(few, constrained, tile=TILE, **ASKED, **how)
    assert far(one, tiled) < 1e-4
    means = [ds.pr.coarsen(y=12, x=12).mean() for ds in (tiled, few)]
    xr.testing.assert_allclose(*xr.broadcast(*means), rtol=1e-3, atol=1e-3)


def test_tiled_members_do_not_depend_on_chunks(few, model):
    how = {"mode": "posterior", "spread": 0.5, "tile": TILE, **ASKED}
    one = sample(few, model, chunks={"realization": 3, "time": 6}, **how)
    other = sample(few, model, chunks={"realization": 1, "time": 2}, **how)
    np.testing.assert_array_equal(one.pr.values, other.pr.values)
    some = sample(few.isel(time=[4]), model, **how)
    np.testing.assert_array_equal(one.pr.values[:, [4]], some.pr.values)


def test_tiling_keeps_the_mask(few, model):
    masked = few.assign(pr=few.pr.where(few.x > few.x[7]))
    how = {"mode": "posterior", **ASKED}
    one, tiled = (sample(masked, model, tile=t, **how) for t in (None, TILE))
    np.testing.assert_array_equal(np.isnan(one.pr), np.isnan(tiled.pr))
    assert far(one, tiled) < 1e-4


def test_store_records_its_tiles_and_refuses_others(few, model, tmp_path):
    store = tmp_path / "e.zarr"
    ens = sample(few, model, tile=TILE, store=store, **ASKED)
    assert json.loads(ens.attrs["xcvae"])["identity"]["tile"] == TILE
    assert verify_store(store, ds=few, model=model, postprocess=[]).ok
    again = sample(few, model, tile=TILE, store=store, **ASKED)
    xr.testing.assert_identical(again, ens)
    for other in (None, {"y": 16}):
        with pytest.raises(OutputExistsError, match="tile"):
            sample(few, model, tile=other, store=store, **ASKED)


def test_tile_larger_than_the_domain_has_no_effect(few, model, tmp_path):
    store = tmp_path / "e.zarr"
    one = sample(few, model, store=store, **ASKED)
    same = sample(few, model, tile={"y": 256, "x": 256}, store=store, **ASKED)
    xr.testing.assert_identical(same, one)


def repeated(ds: xr.Dataset, side: int) -> xr.Dataset:
    """Return a sample, repeated to a square of ``side`` pixels."""
    cells = {d: [k % ds.sizes[d] for k in range(side)] for d in ("y", "x")}
    return ds.isel({"time": [0], **cells}).drop_vars(list(cells))


@pytest.mark.filterwarnings("ignore:a map of 276 by 276 pixels in one piece")
def test_automatic_tiles_are_those_of_the_store(few, model, tmp_path, monkeypatch):
    """Tiles follow from the memory, but those of a store are never changed."""
    large, little = repeated(few, 276), "10 MB"
    for before, after, tile in ((None, little, None), (little, None, {"y": 256, "x": 256})):
        store = tmp_path / f"{before}.zarr"
        draws = []
        for memory in (before, after):
            monkeypatch.setenv("XCVAE_MEMORY", memory or "40 GB")
            draws.append(sample(large, model, tile="auto", store=store, **ASKED))
        xr.testing.assert_identical(*draws)
        assert json.loads(draws[0].attrs["xcvae"])["identity"]["tile"] == tile
    replaced = sample(large, model, tile="auto", store=store, resume="restart", **ASKED)
    assert json.loads(replaced.attrs["xcvae"])["identity"]["tile"] is None


def test_automatic_tile_is_one_piece_for_small_maps(few, model):
    one, auto = (sample(few, model, tile=tile, **ASKED) for tile in (None, "auto"))
    np.testing.assert_array_equal(one.pr, auto.pr)
    assert "tile" not in json.loads(auto.attrs["xcvae"])


def test_map_without_room_for_one_piece_is_warned_of(few, model, monkeypatch):
    monkeypatch.setenv("XCVAE_MEMORY", "250 kB")
    with pytest.warns(UserWarning, match=r"map of 48 by 36 pixels in one piece .* tile='auto'"):
        sample(few, model, **ASKED)


def test_map_far_beyond_the_memory_is_refused(model):
    """The system would kill the process, without a word; machines of a cluster are not known."""
    cpu = torch.device("cpu")
    free = available_memory(cpu)
    # A member in tiles takes 16 bytes per pixel and more, in one piece three times that.
    for pixels, tiled, remedy in (
        (free / 48, False, r"in one piece\. Draw it in tiles: tile='auto'"),
        (free / 8, False, r"in one piece\. Draw parts of the domain"),
        (free / 8, True, r"in tiles\. Draw parts of the domain"),
    ):
        size = (math.ceil(math.sqrt(pixels)),) * 2
        with pytest.raises(ConfigError, match=f"free memory, .* GB, got at least .* GB {remedy}"):
            check_room(size, model.architecture, cpu, tiled=tiled)
        if not tiled:
            with pytest.warns(UserWarning, match="in one piece takes about"):
                check_room(size, model.architecture, cpu, tiled=tiled, elsewhere=True)
    check_room((math.ceil(math.sqrt(free / 48)),) * 2, model.architecture, cpu, tiled=True)


def test_room_is_needed_only_for_what_is_drawn(few, model, tmp_path, monkeypatch):
    """A finished store opens on any machine, and who has other memory says so."""
    store = tmp_path / "finished.zarr"
    finished = sample(few, model, store=store, **ASKED)
    monkeypatch.setenv("XCVAE_MEMORY", "1 kB")
    for resume in (True, "append"):
        again = sample(few, model, store=store, resume=resume, **ASKED)
        xr.testing.assert_identical(again, finished)
    more = {**ASKED, "members": 5}
    for how in ({}, {"store": tmp_path / "new.zarr"}, {"store": store, "resume": "append"}):
        with pytest.raises(ConfigError, match=r"fits into .* memory.*set XCVAE_MEMORY"):
            sample(few, model, **more, **how)
    monkeypatch.setenv("XCVAE_MEMORY", "1 GB")
    assert sample(few, model, store=store, resume="append", **more).sizes["realization"] == 5


def test_tiles_in_a_store_have_the_bits_of_a_lazy_draw(few, model, tmp_path):
    how = {"mode": "posterior", "tile": TILE, **ASKED}
    lazy = sample(few, model, **how)
    with dask.config.set(scheduler="threads", num_workers=3):
        store = sample(few, model, store=tmp_path / "e.zarr", chunks={"time": 1}, **how)
    np.testing.assert_array_equal(lazy.pr, store.pr)


def test_regions_in_tiles_are_drawn_at_a_time(few, model, tmp_path):
    """One draw alone leaves cores without work, where it waits for its last tile."""
    how, one = {"tile": TILE, "chunks": {"realization": 1}, **ASKED}, few.isel(time=[0])
    lazy, threads = sample(one, model, **how), torch.get_num_threads()
    both, calls = threading.Barrier(2), itertools.count()

    def meet(*_) -> None:
        if next(calls) < 2:
            both.wait(timeout=10)

    hook = model.network.levels[0].prior.register_forward_pre_hook(meet)
    try:
        torch.set_num_threads(2)
        with dask.config.set(scheduler="threads", num_workers=2):
            store = sample(one, model, store=tmp_path / "e.zarr", **how)
    finally:
        hook.remove()
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(lazy.pr, store.pr)


def test_diversity_is_solved_for_with_tiles(few, model):
    how = {"mode": "posterior", "diversity": 0.15, **ASKED}
    found = [
        json.loads(sample(few, model, tile=tile, **how).attrs["xcvae"])["spread"]
        for tile in (None, TILE)
    ]
    assert found[0] == pytest.approx(found[1], abs=0.01)


def test_accessor_passes_tile_on(few, model):
    one = few.cvae.sample(model, tile=TILE, **ASKED)
    np.testing.assert_array_equal(one.pr, sample(few, model, tile=TILE, **ASKED).pr)


@pytest.mark.parametrize("tile", [None, TILE])
@pytest.mark.parametrize("how", [{}, {"mode": "posterior", "min_mass": 0.2}])
def test_regions_with_members_of_one_sample_read_and_encode_it_once(
    few, model, tmp_path, tile, how
):
    """Large maps have a region for each member."""
    reads, passes = [], []
    lazy = few.isel(time=[4]).chunk()
    lazy["pr"] = lazy.pr.copy(data=lazy.pr.data.map_blocks(lambda x: reads.append(1) or x))
    handle = model.networks[0].encode_condition.stem.register_forward_hook(
        lambda *_: passes.append(1)
    )

    def draw(members: int, name: str) -> tuple[xr.Dataset, int, int]:
        reads.clear()
        passes.clear()
        options = {**ASKED, **how, "members": members, "tile": tile}
        chunks = {"realization": 1, "time": 1}
        ens = sample(lazy, model, chunks=chunks, store=tmp_path / name, **options)
        return ens, len(reads), len(passes)

    try:
        one, *once = draw(1, "one.zarr")
        several, *same = draw(4, "several.zarr")
    finally:
        handle.remove()
    assert same == once
    np.testing.assert_array_equal(several.pr[:1], one.pr)
    whole = sample(few, model, **{**ASKED, **how, "members": 4, "tile": tile})
    np.testing.assert_array_equal(several.pr, whole.pr[:, [4]])
