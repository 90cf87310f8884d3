"""NetCDF files of ensembles: CF, packed without losing what members have beyond the record."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import xarray as xr

from xcvae.ensemble.sample import sample
from xcvae.errors import ConfigError, DataError, OutputExistsError, StoreError
from xcvae.pipeline import info


@pytest.fixture(scope="module")
def ensemble(few, model):
    return sample(few, model, members=range(3, 6), progress=False).load()


@pytest.mark.parametrize(
    ("by", "names"),
    [
        (None, ["pr.nc"]),
        ("realization", ["pr_r003.nc", "pr_r004.nc", "pr_r005.nc"]),
        ("time", None),
    ],
)
def test_files_hold_the_ensemble_within_half_a_step(by, names, ensemble, tmp_path):
    files = ensemble.cvae.to_netcdf(tmp_path / "files", by=by)
    if names is None:
        assert len(files) == 6
        assert files[0].name.startswith("pr_2")
    else:
        assert [file.name for file in files] == names
    assert sorted(tmp_path.rglob("*.nc")) == sorted(files)
    assert [path.name for path in tmp_path.iterdir()] == ["files"]
    parts = [xr.open_dataset(file) for file in files]
    both = (
        xr.concat(parts, by, data_vars="minimal", coords="minimal", compat="override")
        if by
        else parts[0]
    )
    step = max(float(part.pr.encoding["scale_factor"]) for part in parts)
    np.testing.assert_allclose(both.pr.values, ensemble.pr.values, rtol=0, atol=0.51 * step)
    assert ((both.pr.values == 0) == (ensemble.pr.values < 0.5 * step)).all()
    xr.testing.assert_equal(both.time, ensemble.time)
    assert both.realization.values.tolist() == [3, 4, 5]
    for part in parts:
        largest = float(part.pr.max())
        assert part.pr.encoding["scale_factor"] == pytest.approx(largest / 32767, rel=1e-5)


def test_file_is_cf_compressed_and_has_fill_values_only_where_needed(ensemble, tmp_path):
    masked = ensemble.copy(deep=True)
    masked.pr[:, :, 0, 0] = np.nan
    for name, ds in (("whole", ensemble), ("masked", masked)):
        (file,) = ds.cvae.to_netcdf(tmp_path / name)
        with netCDF4.Dataset(file) as raw:
            assert raw.Conventions.startswith("CF-1")
            assert raw["pr"].dtype == np.int16
            assert raw["pr"].filters()["zlib"]
            assert ("_FillValue" in raw["pr"].ncattrs()) == (name == "masked")
            for coordinate in ("time", "y", "x", "realization"):
                assert "_FillValue" not in raw[coordinate].ncattrs()
                assert raw[coordinate].units
            assert raw["pr"].units == "mm h-1"
            assert "valid_max" not in raw["pr"].ncattrs()
    with xr.open_dataset(file) as again:
        assert np.isnan(again.pr.values[:, :, 0, 0]).all()
        assert int(again.pr.isnull().sum()) == int(masked.pr.isnull().sum())


def test_members_beyond_the_record_are_not_cut(ensemble, few, tmp_path):
    heavy = ensemble.copy(deep=True)
    heavy.pr[0, 0, 0, 0] = 300.0  # the packing of the record would wrap it
    heavy.pr.encoding = {"dtype": "int16", "scale_factor": 0.001}
    files = heavy.cvae.to_netcdf(tmp_path / "nc", by="realization")
    assert float(xr.open_dataset(files[0]).pr.max()) == pytest.approx(300.0, rel=1e-6)
    assert xr.open_dataset(files[1]).pr.encoding["scale_factor"] < 0.005
    heavy.pr[0, 0, 0, 0] = 3000.0
    with pytest.warns(UserWarning, match="a tenth of the wet threshold"):
        (file,) = heavy.cvae.to_netcdf(tmp_path / "float")
    np.testing.assert_array_equal(xr.open_dataset(file).pr.values, heavy.pr.values)


def test_limits_of_values_are_not_those_of_packed_codes(few, tmp_path):
    """Readers that know CF took all codes above the largest valid amount as missing."""
    limits = {"valid_min": 0.0, "valid_max": 100.0, "valid_range": [0.0, 100.0]}
    observed = few[["pr"]].copy(deep=True)
    observed.pr.attrs |= limits
    (file,) = observed.cvae.to_netcdf(tmp_path / "packed")
    with netCDF4.Dataset(file) as raw:
        assert raw["pr"].dtype == np.int16
        assert np.ma.count_masked(raw["pr"][:]) == int(observed.pr.isnull().sum())
        assert float(raw["pr"][:].max()) == pytest.approx(float(observed.pr.max()), rel=1e-4)
    (file,) = observed.cvae.to_netcdf(tmp_path / "floats", pack=False)
    with netCDF4.Dataset(file) as raw:
        assert raw["pr"].valid_max == 100.0
    counts = observed.assign(pr=observed.pr.assign_attrs(scale_factor=0.1))
    with pytest.raises(DataError, match=r"decoded values.*scale_factor=0\.1"):
        counts.cvae.to_netcdf(tmp_path / "counts")
    assert not (tmp_path / "counts").exists()


def test_times_before_the_gregorian_calendar_are_written(few, tmp_path):
    """As those of the last millennium; xarray refuses them in the standard calendar."""
    times = np.array(["0850-01-01T06", "1500-03-01", "1582-10-15", "1990-06-01"], "datetime64[s]")
    old = few[["pr"]].isel(time=slice(4)).assign_coords(time=times)
    (file,) = old.cvae.to_netcdf(tmp_path / "nc")
    with netCDF4.Dataset(file) as raw:
        found = netCDF4.num2date(raw["time"][:], raw["time"].units, raw["time"].calendar)
    assert [f"{time:%Y-%m-%dT%H}" for time in found] == [str(time)[:13] for time in times]


def test_attributes_without_a_type_of_netcdf_and_missing_times_are_written(ensemble, tmp_path):
    given = {"checked": True, "parent": None, "options": {"a": 1}, "levels": [[1], [1, 2]]}
    one = ensemble.isel(time=[0], realization=[0]).assign_attrs(given)
    one = one.assign_coords(issued=("time", np.full(1, np.datetime64("NaT", "ns")), given))
    (file,) = one.cvae.to_netcdf(tmp_path / "nc")
    with xr.open_dataset(file) as again:
        for found in (again, again.issued):
            assert found.attrs["checked"] == 1
            assert found.attrs["options"] == '{"a": 1}'
            assert "parent" not in found.attrs
        assert np.isnat(again.issued.values).all()
    assert one.attrs["checked"] is True


def test_files_are_written_within_a_folder_that_exists(ensemble, tmp_path, monkeypatch):
    """The folder may be a mount, or the only one that the user may write to."""
    folder, renamed = tmp_path / "out", []
    folder.mkdir()
    link = os.link
    monkeypatch.setattr(os, "link", lambda a, b: renamed.append(a) or link(a, b))
    tmp_path.chmod(0o555)
    try:
        (file,) = ensemble.isel(time=[0]).cvae.to_netcdf(folder)
    finally:
        tmp_path.chmod(0o755)
    assert renamed
    assert all(folder in path.parents for path in renamed)
    assert sorted(path.name for path in folder.iterdir()) == ["README.txt", file.name]


def test_readme_describes_the_files_of_all_calls(ensemble, tmp_path):
    """It described those of the first call, and no others."""
    readme = tmp_path / "README.txt"
    ensemble.isel(time=[0]).cvae.to_netcdf(tmp_path)
    ensemble.cvae.to_netcdf(tmp_path, by="realization", pack=False)
    text = readme.read_text(encoding="utf-8")
    assert [text.count(name) for name in ("pr.nc to", "pr_r003.nc to")] == [1, 1]
    assert [text.count(words) for words in ("time 1,", "time 6,", "as float32")] == [1, 1, 1]
    (tmp_path / "pr.nc").unlink()
    ensemble.cvae.to_netcdf(tmp_path)
    text = readme.read_text(encoding="utf-8")
    assert [text.count(words) for words in ("pr.nc to", "time 1,", "time 6,")] == [1, 0, 2]
    # A text of somebody else stays as it is.
    readme.write_text("Mine.\n", encoding="utf-8")
    ensemble.cvae.to_netcdf(tmp_path, by="time")
    assert readme.read_text(encoding="utf-8") == "Mine.\n"


def test_unpacked_file_is_exact(ensemble, tmp_path):
    (file,) = ensemble.cvae.to_netcdf(tmp_path / "nc", pack=False)
    np.testing.assert_array_equal(xr.open_dataset(file).pr.values, ensemble.pr.values)


def test_lazy_and_stored_ensembles_are_written(few, model, ensemble, tmp_path):
    stored = sample(few, model, members=range(3, 6), store=tmp_path / "e.zarr", progress=False)
    (file,) = stored.cvae.to_netcdf(tmp_path / "nc", pack=False)
    np.testing.assert_array_equal(xr.open_dataset(file).pr.values, ensemble.pr.values)


def test_existing_files_and_wrong_arguments_are_refused(ensemble, tmp_path):
    for by in ("y", ["realization"]):
        with pytest.raises(ConfigError, match="None, 'realization' or 'time'"):
            ensemble.cvae.to_netcdf(tmp_path / "nc", by=by)
    (tmp_path / "nc").mkdir()
    (tmp_path / "nc" / "pr_r004.nc").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"pr_r004\.nc"):
        ensemble.cvae.to_netcdf(tmp_path / "nc", by="realization")
    assert [path.name for path in (tmp_path / "nc").iterdir()] == ["pr_r004.nc"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputExistsError, match="expected a folder, or a free name"):
        ensemble.cvae.to_netcdf(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    endless = ensemble.copy(deep=True)
    endless.pr[0, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match="infinite"):
        endless.cvae.to_netcdf(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("dim", ["realization", "time", "y"])
def test_ensembles_without_values_are_refused(ensemble, tmp_path, dim):
    with pytest.raises(DataError, match=f"at least one value.*{dim} 0"):
        ensemble.isel({dim: slice(0)}).cvae.to_netcdf(tmp_path / "files")
    assert not any(tmp_path.iterdir())


def test_augmented_samples_are_written_at_once(few, ensemble, tmp_path):
    both = few.cvae.augment(ensemble.chunk(time=4, realization=1))
    both.to_zarr(tmp_path / "own.zarr", zarr_format=3, consolidated=False)
    both.to_netcdf(tmp_path / "own.nc")
    written = few.cvae.augment(ensemble, store=tmp_path / "both.zarr", catalog=tmp_path / "c.yaml")
    xr.testing.assert_equal(written.load(), both.load())
    for opened in (
        xr.open_zarr(tmp_path / "own.zarr", consolidated=False),
        xr.open_dataset(tmp_path / "own.nc"),
    ):
        np.testing.assert_array_equal(opened.pr.values, both.pr.values)


def test_folder_of_files_describes_itself(ensemble, tmp_path):
    ensemble.cvae.to_netcdf(tmp_path / "nc", by="realization")
    text = info(str(tmp_path / "nc"))
    for words in ("3 NetCDF files", "pr [mm h-1]", "Licence: ", "pr_r003.nc"):
        assert words in text


WRITE = """
import os, sys
import xarray as xr
import xcvae
folder, dies_at, seen = sys.argv[2], int(sys.argv[3]), 0

def audit(event, arguments):
    global seen
    if event == "os.link" and folder in str(arguments):
        seen += 1
        if seen == dies_at:
            os.kill(os.getpid(), 9)

sys.addaudithook(audit)
xr.open_dataset(sys.argv[1]).cvae.to_netcdf(folder, by="realization")
"""


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("dies_at", [1, 3])
def test_folders_of_killed_calls_are_removed_by_the_next_one(ensemble, tmp_path, exists, dies_at):
    source, folder = tmp_path / "ensemble.nc", tmp_path / "out"
    ensemble.to_netcdf(source)
    if exists:
        folder.mkdir()
    mine = {".out.new-0123456789ab", ".files.new-0123456789ab"}  # without a lock of xcvae
    for name in mine:
        (tmp_path / name).mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", WRITE, str(source), str(folder), str(dies_at)], check=False
    )
    assert killed.returncode == -9
    left = [path for path in tmp_path.rglob(".*") if path.is_dir() and path.name not in mine]
    assert len(left) == 1
    written = ensemble.isel(realization=[2]).cvae.to_netcdf(folder)
    assert [path.name for path in written] == ["pr.nc"]
    assert {path.name for path in tmp_path.rglob(".*")} == mine


def test_files_that_appear_meanwhile_are_not_replaced(ensemble, tmp_path):
    """Another process with the same folder may be faster."""
    folder = tmp_path / "out"

    def appears(block):
        folder.mkdir(exist_ok=True)
        (folder / "pr.nc").write_text("of another process")
        return block

    lazy = ensemble.chunk(time=1).map_blocks(appears, template=ensemble.chunk(time=1))
    with pytest.raises(OutputExistsError, match=r"pr\.nc.*another process"):
        lazy.cvae.to_netcdf(folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "pr.nc"]
    assert (folder / "pr.nc").read_text() == "of another process"


def test_files_that_cannot_be_written_are_an_error_in_words(ensemble, tmp_path):
    """As on a full disk: the netCDF library says 'NetCDF: HDF error' then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(StoreError, match=r"pr\.nc: expected a disk .*MB of free space"):
            ensemble.cvae.to_netcdf(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(tmp_path.iterdir())


def test_some_missing_times_and_bounds_are_written(few, model, tmp_path):
    edges = np.stack([few.time.values, few.time.values + np.timedelta64(1, "h")], axis=-1)
    edges[1] = np.datetime64("NaT")
    ds = few.assign_coords(peak=("time", edges[:, 1]), time_bnds=(("time", "bnds"), edges))
    ds["time"].attrs["bounds"] = "time_bnds"
    (file,) = sample(ds, model, members=1, progress=False).cvae.to_netcdf(tmp_path)
    with xr.open_dataset(file) as written:
        for name in ("time", "time_bnds", "peak"):
            np.testing.assert_array_equal(written[name], ds[name])
