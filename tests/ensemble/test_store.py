"""A store under its name is finished; an interrupted one goes on, another one is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

from xcvae.ensemble.postprocess import Context
from xcvae.ensemble.regions import plan_chunks, regions_of
from xcvae.ensemble.sampling import sample
from xcvae.ensemble.store import open_store
from xcvae.errors import ConfigError, DataError, OutputExistsError, StoreError
from xcvae.registry import Component


class PowerCutError(Exception):
    """What stops a run in these tests."""


@dataclass(frozen=True)
class Fuse(Component):
    """A post-processor that fails on one storm for as long as a file exists."""

    storm: str
    file: str

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        here = np.datetime64(self.storm) in field["time"].values
        if here and field.values.any() and Path(self.file).exists():
            raise PowerCutError
        return field


@pytest.fixture
def asked(few, tmp_path):
    """Six regions, the fifth of which fails while the fuse file exists."""
    fuse = tmp_path / "fuse"
    fuse.touch()
    return {
        "members": 4,
        "seed": 7,
        "chunks": {"realization": 2, "time": 2},
        "postprocess": [Fuse(str(few.time.values[3]), str(fuse))],
        "store": tmp_path / "e.zarr",
        "progress": False,
    }


def interrupt(few, model, asked):
    with dask.config.set(scheduler="synchronous"), pytest.raises(PowerCutError):
        sample(few, model, **asked)


def mend(asked):
    Path(asked["postprocess"][0].file).unlink()


def chunk_files(folder):
    return {p.relative_to(folder): p for p in (folder / "pr" / "c").rglob("*") if p.is_file()}


def test_an_interrupted_store_is_not_there_and_says_so(few, model, asked):
    interrupt(few, model, asked)
    assert not asked["store"].exists()
    with pytest.raises(StoreError, match=r"an unfinished one.*goes on where it stopped"):
        open_store(asked["store"])


def test_an_interrupted_run_goes_on_and_ends_like_an_uninterrupted_one(few, model, asked, tmp_path):
    interrupt(few, model, asked)
    partial = tmp_path / "e.zarr.partial" / "ensemble.zarr"
    done = {name: p.stat().st_mtime_ns for name, p in chunk_files(partial).items()}
    assert 0 < len(done) < 6
    mend(asked)
    resumed = sample(few, model, **asked)
    kept = {
        name: p.stat().st_mtime_ns
        for name, p in chunk_files(asked["store"]).items()
        if name in done
    }
    assert kept == done
    whole = sample(few, model, **{**asked, "store": tmp_path / "whole.zarr"})
    np.testing.assert_array_equal(resumed.pr.values, whole.pr.values)
    told = [json.loads(ens.attrs["xcvae"]) for ens in (resumed, whole)]
    assert told[0] == told[1]
    assert not (tmp_path / "e.zarr.partial").exists()


def test_a_region_is_done_only_with_its_marker(few, model, asked, tmp_path):
    interrupt(few, model, asked)
    working = tmp_path / "e.zarr.partial"
    marker = min((working / "regions").iterdir())
    marker.unlink()
    array = zarr.open_array(working / "ensemble.zarr" / "pr", mode="r+")
    array[:2, :2] = -1.0
    mend(asked)
    assert float(sample(few, model, **asked).pr.min()) >= 0.0


def test_a_run_that_was_begun_keeps_its_spread(storms, model, asked, tmp_path):
    dialled = {**asked, "mode": "posterior", "diversity": 0.15}
    few = storms.isel(time=slice(0, 30, 5))
    fuse = Path(asked["postprocess"][0].file)
    fuse.unlink()
    lazy = sample(few, model, **{**dialled, "store": None})
    spread = json.loads(lazy.attrs["xcvae"])["spread"]
    finished = sample(few, model, **dialled)
    assert json.loads(finished.attrs["xcvae"])["spread"] == spread
    np.testing.assert_array_equal(finished.pr.values, lazy.pr.values)


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"chunks": {"realization": 1}}, {"members": 5}], ids=str
)
def test_a_begun_run_of_another_kind_is_refused_and_kept(few, model, asked, tmp_path, change):
    (key,) = change
    interrupt(few, model, asked)
    before = sorted(p.name for p in (tmp_path / "e.zarr.partial" / "regions").iterdir())
    with pytest.raises(OutputExistsError, match=rf"e\.zarr\.partial.*{key} \(there"):
        sample(few, model, **{**asked, **change})
    assert sorted(p.name for p in (tmp_path / "e.zarr.partial" / "regions").iterdir()) == before
    mend(asked)
    restarted = sample(few, model, **{**asked, **change}, resume="restart")
    lazy = sample(few, model, **{**asked, **change, "store": None})
    np.testing.assert_array_equal(restarted.pr.values, lazy.pr.values)


def test_what_is_no_run_of_ours_is_refused_and_kept(few, model, asked, tmp_path):
    mend(asked)
    for name in ("e.zarr", "e.zarr.partial"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "thesis.txt").write_text("years of work")
        with pytest.raises(OutputExistsError, match="no xcvae ensemble"):
            sample(few, model, **asked)
        assert (folder / "thesis.txt").exists()
        shutil.rmtree(folder)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_was_stopped_before_it_said_what_it_is_starts_over(
    few, model, asked, tmp_path, resume
):
    mend(asked)
    working = tmp_path / "e.zarr.partial"
    working.mkdir()
    (working / "run.json.tmp").write_text('{"run": {"model')
    ens = sample(few, model, **asked, resume=resume)
    lazy = sample(few, model, **{**asked, "store": None})
    np.testing.assert_array_equal(ens.pr.values, lazy.pr.values)
    assert not working.exists()


def test_stacked_samples_are_refused_before_anything_is_written(few, model, asked, tmp_path):
    mend(asked)
    plain = {**asked, "postprocess": None, "chunks": None}
    labels = {"run": ("time", [0, 0, 0, 1, 1, 1]), "step": ("time", [0, 1, 2] * 2)}
    stacked = few.drop_vars("time").assign_coords(labels).set_index(time=["run", "step"])
    lazy = sample(stacked, model, **{**plain, "store": None})
    assert lazy.indexes["time"].names == ["run", "step"]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"stacked from run, step.*ds\.reset_index\('time'\)"):
        sample(stacked, model, **plain)
    assert sorted(tmp_path.iterdir()) == before
    ens = sample(stacked.reset_index("time"), model, **plain)
    assert ens.step.values.tolist() == [0, 1, 2] * 2


def test_what_cannot_be_begun_leaves_nothing_behind(few, model, asked, tmp_path):
    mend(asked)
    odd = few.assign_coords(note=("time", np.array([{"a": 1}] * 6, dtype=object)))
    with pytest.raises((TypeError, ValueError)):
        sample(odd, model, **asked)
    assert list(tmp_path.iterdir()) == []
    assert sample(few, model, **asked).sizes["realization"] == 4


def test_resume_false_wants_a_new_store(few, model, asked, tmp_path):
    mend(asked)
    sample(few, model, **asked)
    with pytest.raises(OutputExistsError, match="resume=False"):
        sample(few, model, **asked, resume=False)
    sample(few, model, **{**asked, "store": tmp_path / "new.zarr"}, resume=False)


def test_dry_regions_are_written_too(few, model, asked):
    mend(asked)
    dry = {**asked, "postprocess": [{"name": "threshold", "value": "1000 mm h-1"}]}
    ens = sample(few, model, **dry)
    assert float(ens.pr.max()) == 0.0
    assert len(chunk_files(asked["store"])) == 6


def test_the_store_is_zarr_3_with_the_chunks_asked_for(few, model, asked):
    mend(asked)
    ens = sample(few, model, **asked)
    assert ens.pr.chunks[:2] == ((2, 2), (2, 2, 2))
    meta = json.loads((asked["store"] / "pr" / "zarr.json").read_text())
    assert meta["zarr_format"] == 3
    assert [codec["name"] for codec in meta["codecs"]] == ["bytes", "zstd"]
    assert not (asked["store"] / "regions").exists()
    assert not any(coord.chunks for coord in ens.coords.values())


def test_text_labels_and_scalar_coordinates_survive(few, model, asked):
    mend(asked)
    named = few.assign_coords(station=("time", [f"s{i}" for i in range(6)]), height=2.0, crs=0)
    ens = sample(named, model, **asked)
    assert ens.station.values.tolist() == named.station.values.tolist()
    assert float(ens.height) == 2.0
    assert (
        ens.time.equals(named.time.drop_vars("station"))
        or (ens.time.values == named.time.values).all()
    )


def test_a_cluster_writes_the_same(few, model, asked, tmp_path):
    distributed = pytest.importorskip("distributed")
    mend(asked)
    plain = {**asked, "postprocess": None}
    lazy = sample(few, model, **{**plain, "store": None})
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        ens = sample(few, model, **plain)
    np.testing.assert_array_equal(ens.pr.values, lazy.pr.values)


def test_regions_cover_every_member_of_every_sample_once():
    shape, chunks = (5, 7, 2, 2), (2, 3)
    count = np.zeros(shape[:2], int)
    regions = list(regions_of(chunks, shape))
    for region in regions:
        count[slice(*region.realizations), slice(*region.samples)] += 1
    assert (count == 1).all()
    assert [region.number for region in regions] == list(range(9))


@pytest.mark.parametrize("sizes", [(16, 123, 156, 132), (64, 491, 128, 128), (4, 3, 2000, 2000)])
def test_default_chunks_hold_all_members_of_a_sample_and_some_megabytes(sizes):
    members, samples = plan_chunks(None, sizes=sizes, sample="time")
    size = 4 * members * samples * sizes[2] * sizes[3]
    assert size <= 8e6 or members == samples == 1
    assert size >= 3e6 or (members, samples) == sizes[:2]
    assert members == sizes[0] or samples == 1


def test_chunks_are_never_larger_than_the_ensemble():
    asked = {"realization": 100, "time": 100}
    assert plan_chunks(asked, sizes=(4, 3, 8, 8), sample="time") == (4, 3)
    with pytest.raises(ConfigError, match="x"):
        plan_chunks({"x": 4}, sizes=(4, 3, 8, 8), sample="time")
