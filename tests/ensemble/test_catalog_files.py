"""The catalogs of the repository say what is needed to use them rightly. Nothing goes online."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import intake
import numpy as np
import pytest
import xarray as xr
import yaml
from intake.readers.datatypes import GRIB2, HDF5
from intake.readers.readers import OpenFilesReader, XArrayDatasetReader

from xcvae.ensemble import catalog
from xcvae.fields.units import is_precipitation

FOLDER = Path(__file__).parents[2] / "catalogs"
PUBLIC = FOLDER / "public.yaml"
SOURCES = ("aorc", "chirps", "era5", "imerg", "mrms", "mrms_files")
KEYS = (
    "description", "variable", "units", "provider", "license", "citation", "doi",
    "documentation", "access", "needs", "note",
)  # fmt: skip
SCHEMES = {
    "aorc": "s3://",
    "chirps": "https://",
    "era5": "gs://",
    "imerg": "abfs://",
    "mrms": "https://",
    "mrms_files": "s3://",
}


def test_index_lists_every_other_catalog():
    others = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "index")
    assert catalog.names(FOLDER / "index.yaml") == others
    everything = catalog.search(FOLDER / "index.yaml")
    assert everything == [*(f"public/{name}" for name in SOURCES), "tutorial/radklim"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_catalog_file_has_no_dangling_references(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["version"] == 2
    assert content["metadata"]["description"]
    assert set(content["aliases"].values()) <= set(content["entries"])
    used = set(re.findall(r"\{data\((\w+)\)\}", str(content["entries"])))
    assert used <= set(content["data"]) | set(content["entries"])
    assert set(content["data"]) <= used


def test_public_catalog_has_all_sources():
    assert catalog.names(PUBLIC) == sorted(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_public_entry_names_provider_license_and_access(name):
    metadata = catalog.metadata_of(PUBLIC, name)
    assert set(metadata) == set(KEYS)
    for key in set(KEYS) - {"needs"}:
        assert isinstance(metadata[key], str), key
        assert metadata[key].strip(), key
    assert metadata["needs"]
    assert is_precipitation(metadata["units"])
    assert re.fullmatch(r"10\.\d{4,}/\S+", metadata["doi"])
    assert metadata["documentation"].startswith("https://")


@pytest.mark.parametrize("name", SOURCES)
def test_intake_resolves_address_of_public_entry(name):
    reader = intake.open_catalog(str(PUBLIC))[name]
    url = reader.data.url
    assert SCHEMES[name] in url
    assert "{" not in url
    if name == "mrms_files":
        assert reader.output_instance == "fsspec.core:OpenFiles"
        return
    assert reader.output_instance == "xarray:Dataset"
    assert reader.kwargs["engine"] == ("h5netcdf" if name == "chirps" else "zarr")


def test_public_entry_takes_years_and_times():
    public = intake.open_catalog(str(PUBLIC))
    assert public(year=1999)["chirps"].data.url.endswith("chirps-v2.0.1999.days_p05.nc")
    assert public(year=1999)["aorc"].data.url.endswith("/1999.zarr")
    mrms = public(day="20240101", time="000200")["mrms_files"].data.url
    assert mrms.endswith("/20240101/MRMS_PrecipRate_00.00_20240101-000200.grib2.gz")


def test_tutorial_entry_opens_as_float32():
    ds = catalog.open_entry(FOLDER / "index.yaml", "tutorial/radklim")
    assert ds.pr.dtype == ds.pr_coarse.dtype == "float32"
    assert ds.pr.units == catalog.metadata_of(FOLDER / "tutorial.yaml", "radklim")["units"]


def test_mrms_entry_decompresses_files(tmp_path):
    (tmp_path / "one.grib2.gz").write_bytes(gzip.compress(b"GRIB"))
    entry = intake.open_catalog(str(PUBLIC)).get_entity("mrms_files")
    options = {key: value for key, value in entry.kwargs.items() if key not in ("args", "anon")}
    reader = OpenFilesReader(GRIB2(str(tmp_path / "one.grib2.gz")), **options)
    with reader.read()[0] as stream:
        assert stream.read() == b"GRIB"


def test_chirps_entry_opens_cached_file_lazily(tmp_path):
    days = xr.Dataset({"precip": ("time", np.arange(40.0), {"units": "mm/day"})})
    days.to_netcdf(tmp_path / "days.nc", engine="scipy")
    entry = intake.open_catalog(str(PUBLIC)).get_entity("chirps")
    # As the entry does it, but for the library: h5netcdf is not asked for by the tests.
    options = {key: v for key, v in entry.kwargs.items() if key != "args"} | {"engine": "scipy"}
    reader = XArrayDatasetReader(HDF5(f"simplecache::file://{tmp_path}/days.nc"), **options)
    opened = reader.read()
    assert opened.precip.chunks == ((16, 16, 8),)
    np.testing.assert_array_equal(opened.precip, np.arange(40.0))
