"""Chunk files are those that Zarr would write, byte by byte."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
import zarr

from xcvae.ensemble.store.base import regions_of
from xcvae.ensemble.store.zarr_format import array_encoding, encode_chunk, write_chunk
from xcvae.errors import MismatchError
from xcvae.files import remove

SHAPE, CHUNKS = (5, 7, 12, 9), (2, 3)


@pytest.fixture
def values():
    rain = np.random.default_rng(0).gamma(0.1, 10.0, SHAPE).astype("float32")
    rain[0, :3] = 0.0
    rain[:, :, :2] = np.nan
    return rain


def template(path, values):
    shape = (*CHUNKS, *SHAPE[2:])
    ds = xr.Dataset({"pr": (("realization", "time", "y", "x"), values)}).chunk(
        dict(zip(("realization", "time", "y", "x"), shape, strict=True))
    )
    ds.to_zarr(
        path,
        compute=False,
        consolidated=False,
        zarr_format=3,
        encoding={"pr": array_encoding(shape)},
    )
    return path / "pr"


def test_chunk_bytes_equal_those_written_by_zarr(values, tmp_path):
    ours, theirs = (template(tmp_path / name, values) for name in ("ours", "theirs"))
    array = zarr.open_array(theirs, mode="r+", config={"write_empty_chunks": True})
    for region in regions_of(CHUNKS, SHAPE):
        part = slice(*region.realizations), slice(*region.samples)
        array[part] = values[part]
        # A view that lies in memory in another order is written like any other.
        mine = np.asfortranarray(values[part])
        file, content = encode_chunk(region, CHUNKS, mine)
        write_chunk(ours, file, content)
        assert (theirs / file).read_bytes() == content
    assert sorted(p.relative_to(ours) for p in ours.rglob("*")) == sorted(
        p.relative_to(theirs) for p in theirs.rglob("*")
    )
    np.testing.assert_array_equal(zarr.open_array(ours, mode="r")[:], values)


def test_encode_chunk_refuses_values_of_another_size(values):
    region = next(regions_of(CHUNKS, SHAPE))
    with pytest.raises(MismatchError, match="expected 2 realizations of 3 samples, got values of"):
        encode_chunk(region, CHUNKS, values[:2, :2])


def test_chunk_of_a_missing_array_makes_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_chunk(tmp_path / "e.zarr.partial/pr", "c/0/1/0/0", b"late")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["renamed", "removed"])
def test_worker_that_writes_on_does_not_make_the_folder_again(tmp_path, end):
    """Write in a thread while the store gets its name, or is replaced."""
    working, final = tmp_path / "e.zarr.partial", tmp_path / "e.zarr"
    for trial in range(20):
        (working / "pr").mkdir(parents=True)
        started = threading.Event()

        def write_on(started=started):
            for number in itertools.count():
                write_chunk(working / "pr", f"c/{number}/0/0/0", b"late")
                started.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write_on)
            assert started.wait(60)
            time.sleep(0.0005 * trial)
            working.rename(final)
            if end == "removed":
                remove(final)
            assert isinstance(writing.exception(60), FileNotFoundError)
        assert not working.exists()
        remove(final)


def test_chunk_whose_name_is_a_folder_leaves_no_file(tmp_path):
    (tmp_path / "c/0/0/0/0/in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_chunk(tmp_path, "c/0/0/0/0", b"rain")
    assert [p.name for p in (tmp_path / "c/0/0/0").iterdir()] == ["0"]
