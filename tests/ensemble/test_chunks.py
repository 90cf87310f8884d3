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

from xcvae.ensemble.store.base import CHUNK_BYTES, differences, plan_chunks, regions_of
from xcvae.ensemble.store.local import FileLedger
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


@pytest.mark.parametrize(
    ("members", "samples", "side", "expected"),
    [
        (16, 100, 100, (16, 12)),  # 200 maps of 40 kB are 8 MB
        (4, 100, 1000, (2, 1)),  # of 4 MB each
        (4, 100, 3000, (1, 1)),  # a map is larger
        (4, 10, 10, (4, 10)),
        (500, 100, 100, (200, 1)),
    ],
)
def test_chunks_are_all_members_of_as_many_samples_as_make_eight_megabytes(
    members, samples, side, expected
):
    found = plan_chunks(None, sizes=(members, samples, side, side), sample="time")
    assert found == expected
    assert found[0] * found[1] * 4 * side**2 <= max(CHUNK_BYTES, 4 * side**2)


def test_identities_differ_also_in_what_one_of_them_lacks():
    assert differences({}, {"cap": 3.0}) == ["cap (stored: None, requested: 3.0)"]
    assert differences({"cap": 3.0}, {}) == ["cap (stored: 3.0, requested: None)"]
    assert differences({"a": 1, "b": 2}, {"b": 2, "a": 1}) == []


def test_a_ledger_that_is_opened_again_is_not_sealed_and_has_the_kept_entries_alone(tmp_path):
    array = tmp_path / "e.zarr" / "pr"
    array.mkdir(parents=True)
    ledger = FileLedger(array)
    ledger.start({"run": {}})
    entries = {n: {"region": n, "state": "done", "bytes": n} for n in range(4)}
    for entry in entries.values():
        ledger.record(entry)
    assert not ledger.sealed
    ledger.seal()
    assert ledger.sealed
    assert ledger.entries() == entries
    kept = {n: entries[n] for n in (0, 2)}
    ledger.reopen(kept)
    assert not ledger.sealed
    assert FileLedger(array).entries() == kept
