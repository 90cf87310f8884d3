"""Trouble on the way: it is named, the rest is done, nothing is listed, and the exit code says it.

The runs are processes of their own, with real limits and real permissions.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
import xarray as xr

from xcvae.ensemble import catalog
from xcvae.ensemble.sample import sample
from xcvae.ensemble.store import open_store
from xcvae.ensemble.store.base import regions_of
from xcvae.ensemble.store.local import FileLedger, LocalRegionWriter
from xcvae.ensemble.store.write import Task, draw_and_write
from xcvae.errors import StoreError
from xcvae.generator.model import load

RUN = """
import sys
import xarray as xr, xcvae
ds = xr.open_zarr(sys.argv[1], consolidated=False).load()
xcvae.sample(ds, sys.argv[2], members=4, seed=7, chunks={"realization": 2, "time": 2},
             postprocess=[], store=sys.argv[3], catalog=sys.argv[4], progress=False)
"""
DROP_BOUNDING, OVERRIDE = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


@pytest.fixture
def data(few, tmp_path):
    # One dry storm, whose chunks are far smaller than those of the others.
    ds = few.drop_encoding().copy(deep=True)
    ds.pr[0:2] = 0.0
    ds.to_zarr(tmp_path / "data.zarr", consolidated=False)
    return ds


@pytest.fixture
def run(data, model, tmp_path):
    """Run the same sampling in a process, perhaps under a handicap."""
    folder = tmp_path / "out"
    folder.mkdir()

    def call(handicap=None) -> subprocess.CompletedProcess[str]:
        arguments = [tmp_path / "data.zarr", model.path, folder / "e.zarr", folder / "c.yaml"]
        return subprocess.run(
            [sys.executable, "-c", RUN, *map(str, arguments)],
            capture_output=True, text=True, check=False, preexec_fn=handicap,
        )  # fmt: skip

    call.folder = folder
    call.lazy = sample(
        data, model, members=4, seed=7, postprocess=[], chunks={"realization": 2, "time": 2}
    )
    return call


def assert_completed(run):
    done = run()
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(open_store(run.folder / "e.zarr").pr, run.lazy.pr)
    assert catalog.names(run.folder / "c.yaml") == ["e"]


def assert_unfinished(run, done, *words):
    assert done.returncode == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert not (run.folder / "e.zarr").exists()
    assert not (run.folder / "c.yaml").exists()


def chunk_sizes(folder: Path) -> list[int]:
    return sorted(p.stat().st_size for p in (folder / "pr" / "c").rglob("*") if p.is_file())


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        subprocess.run(["rm", "-r", str(path)], check=True)


def test_file_size_limit_fails_large_regions_only(run):
    assert run().returncode == 0
    sizes = chunk_sizes(run.folder / "e.zarr")
    assert sizes[0] < sizes[-1]
    clear(run.folder)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[-1] - 1, sizes[-1] - 1))

    done = run(limited)
    left = len([size for size in sizes if size < sizes[-1]])
    assert_unfinished(run, done, f"got {left} done, {6 - left} failed", "File too large", "region")
    assert len(chunk_sizes(run.folder / "e.zarr.partial")) == left
    assert_completed(run)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
def test_full_disk_keeps_completed_regions(run):
    def mount(*options: str) -> int:
        command = ["mount", *options, str(run.folder)]
        return subprocess.run(command, check=False).returncode

    if mount("-t", "tmpfs", "-o", "size=8m", "tmpfs"):
        pytest.skip("file systems cannot be mounted here")
    try:
        assert run().returncode == 0
        sizes = chunk_sizes(run.folder / "e.zarr")
        room = os.statvfs(run.folder)
        needed = (room.f_blocks - room.f_bfree) * room.f_bsize
        clear(run.folder)
        mount("-o", f"remount,size={(needed - sum(sizes) // 2) // 4096 * 4096}")
        done = run()
        assert_unfinished(run, done, "No space left on device", "failed", "repeat the call")
        assert 0 < len(chunk_sizes(run.folder / "e.zarr.partial")) < 6
        # Grown: what was done is kept, the rest is drawn.
        mount("-o", "remount,size=8m")
        assert_completed(run)
    finally:
        subprocess.run(["umount", str(run.folder)], check=True)


def test_missing_permission_is_reported(run):
    def mortal() -> None:
        if os.geteuid() == 0:  # root may write everywhere, but for this
            ctypes.CDLL(None).prctl(DROP_BOUNDING, OVERRIDE, 0, 0, 0)

    run.folder.chmod(0o500)
    try:
        done = run(mortal)
        assert_unfinished(run, done, "permission")
    finally:
        run.folder.chmod(0o700)
    assert_completed(run)


def test_nan_from_model_fails_region(data, model, tmp_path):
    broken = load(model.path)
    options = {"members": 2, "chunks": {"time": 1}, "store": tmp_path / "e.zarr", "progress": False}
    with torch.no_grad():
        next(broken.network.parameters()).fill_(float("nan"))
    broken.path = None
    with pytest.raises(StoreError, match=r"0 done, 6 failed") as raised:
        sample(data, broken, **options)
    label = np.datetime_as_string(data.time.values[0], unit="s")
    assert f"realization 0 of sample {label}: expected numbers" in str(raised.value)
    assert "1728 pixels that are NaN or infinite" in str(raised.value)
    assert not (tmp_path / "e.zarr").exists()


def test_masked_pixels_pass_and_infinite_values_fail_region(few, model, tmp_path):
    hole = few.copy(deep=True)
    hole.pr[:, :5, :7] = np.nan

    def with_infinity(field, context):
        here = (field.time == few.time.values[3]) & (field.realization == 1)
        return field.where(~here, np.inf) if field.values.any() else field

    options = {"members": 2, "chunks": {"time": 1}, "progress": False}
    ens = sample(hole, model, store=tmp_path / "h.zarr", **options)
    np.testing.assert_array_equal(np.isnan(ens.pr[0]), np.isnan(hole.pr))
    with xr.set_options(keep_attrs=True), pytest.raises(StoreError) as raised:
        sample(hole, model, store=tmp_path / "p.zarr", postprocess=[with_infinity], **options)
    label = np.datetime_as_string(few.time.values[3], unit="s")
    assert "got 5 done, 1 failed" in str(raised.value)
    assert f"realization 1 of sample {label}: expected numbers" in str(raised.value)


def test_invalid_sample_of_lazy_data_fails_its_region_only(few, model, tmp_path):
    invalid = few.copy(deep=True)
    invalid.pr[4, 3, 3] = -1.0
    options = {
        "mode": "posterior", "members": 2, "seed": 7, "chunks": {"time": 1}, "progress": False,
        "store": tmp_path / "e.zarr", "catalog": tmp_path / "c.yaml",
    }  # fmt: skip
    with pytest.raises(StoreError, match=r"got 5 done, 1 failed:\n  region 4 .*negative"):
        sample(invalid.chunk({"time": 1}), model, **options)
    assert not (tmp_path / "c.yaml").exists()
    part = open_store(tmp_path / "e.zarr", incomplete=True)
    valid = [0, 1, 2, 3, 5]
    lazy = sample(few.isel(time=valid), model, **{**options, "store": None, "catalog": None})
    np.testing.assert_array_equal(part.pr.isel(time=valid), lazy.pr)


def test_drawing_stops_after_three_disk_errors_in_a_row(few, model, tmp_path):
    drawn = []

    def losing(field, context):
        if field.values.any():
            drawn.append(field.time.values[0])
            # The array's metadata go: as if the disk had.
            (tmp_path / "e.zarr.partial/pr/ledger/run.json").unlink(missing_ok=True)
        return field

    options = {"members": 2, "chunks": {"time": 1}, "store": tmp_path / "e.zarr", "progress": False}
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(StoreError, match="0 done, 3 failed") as raised,
    ):
        sample(few, model, postprocess=[losing], **options)
    assert "3 not tried after trouble with the disk" in str(raised.value)
    assert len(drawn) == 3


def test_written_region_ends_a_row_of_disk_errors(tmp_path):
    """Two errors, a success, two errors: no region is left untried."""
    ledger = FileLedger(tmp_path / "pr")
    ledger.start({})
    writer = LocalRegionWriter(ledger.array, (1, 1), ledger.metadata()["token"])

    class Constant:
        def draw_region(self, region):
            return np.ones((1, 1, 4, 4), "float32"), {}

    states = []
    for region in regions_of((1, 1), (1, 5, 4, 4)):
        here = writer if region.number == 2 else replace(writer, array=tmp_path / "nowhere")
        states.append(draw_and_write(Task(Constant(), here, region, "one call")).state)
    assert states == ["failed", "failed", "done", "failed", "failed"]
