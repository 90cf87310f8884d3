"""Files that a configuration names: patterns, joins, engines, groups, addresses."""

# ruff: noqa: E501  a row is a line; refused or right: both may serve

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xcvae import catalog, config, pipeline
from xcvae.cli import main
from xcvae.errors import XcvaeError

from .makers import Answer, AnyOf, case, either, rain, refused, right, times


def days(first: int, last: int, name: str = "pr", **options: Any) -> xr.Dataset:
    coords = {
        "time": times(30)[first:last],
        "lat": ("lat", 40 + 0.1 * np.arange(12), {"units": "degrees_north"}),
        "lon": ("lon", 5 + 0.1 * np.arange(12), {"units": "degrees_east"}),
    }
    field = rain(
        dims=("time", "lat", "lon"),
        shape=(last - first, 12, 12),
        coords={"time": coords["time"]},
        seed=first,
        **options,
    )
    return field.assign_coords(coords).rename(name).to_dataset()


def write(folder: Path, **parts: xr.Dataset) -> Path:
    """Write Datasets in the oldest netCDF format, which needs SciPy only."""
    for name, ds in parts.items():
        ds.to_netcdf(folder / f"{name}.nc", engine="scipy")
    return folder


def read(folder: Path, data: dict[str, Any], **train: Any) -> dict[str, Any]:
    """Open the data of a configuration; return facts."""
    content = {"data": data, "output": "out", "train": {"target": "pr", "coarsen": 4, **train}}
    parts = config.open_parts(config.parse(content, folder=folder))
    field = parts.train[parts.spec.target]
    return {
        "sizes": dict(field.sizes),
        "valid": float(field.notnull().mean()),
        "mean": float(field.mean(dtype=np.float64)),
        "target": parts.spec.target,
        "roles": [variable.name for variable in parts.spec.variables],
    }


def bounded(ds: xr.Dataset) -> xr.Dataset:
    """Give coordinates their bounds, as the archives of climate models do."""
    for dim, labels in dict(ds.indexes).items():
        half = timedelta(hours=12) if dim == "time" else 0.05
        ds = ds.assign(
            {f"{dim}_bnds": ((dim, "bnds"), np.stack([labels - half, labels + half], axis=1))}
        )
        ds[dim].attrs["bounds"] = f"{dim}_bnds"
    ds.time.encoding |= {"units": "hours since 2000-01-01", "dtype": "f8"}
    return ds


def lambert(ds: xr.Dataset) -> xr.Dataset:
    """Give coordinates attributes that are arrays, as many projections have them."""
    ds["time"].attrs["valid_range"] = np.array([0.0, 1e6])
    attrs = {"grid_mapping_name": "latitude_longitude", "towgs84": np.zeros(3)}
    return ds.assign_coords(crs=xr.DataArray(0, attrs=attrs))


THIRD = {"a": days(0, 10), "b": days(10, 20), "c": days(20, 30)}
WHOLE = {"time": 30, "lat": 12, "lon": 12}
MEAN = float(np.mean([ds.pr.mean(dtype=np.float64) for ds in THIRD.values()]))


def thirds(**changed: xr.Dataset) -> Callable[[Path], Path]:
    return lambda folder: write(folder, **{**THIRD, **changed})


def through_float32(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign_coords(lat=ds.lat.astype("f4"), lon=ds.lon.astype("f4"))


PATTERN = {"path": "*.nc"}
JOINED = [
    case("one file", thirds(), right(sizes={**WHOLE, "time": 10}, valid=1.0), data={"path": "a.nc"}),
    case("a pattern", thirds(), right(sizes=WHOLE, valid=1.0, mean=MEAN), data=PATTERN),
    case("a pattern of folders", lambda folder: thirds()(_folder(folder / "2001")), right(sizes=WHOLE, mean=MEAN), data={"path": "**/*.nc"}),
    case("a Zarr store", lambda folder: THIRD["a"].to_zarr(folder / "a.zarr", consolidated=False), right(valid=1.0, target="pr"), data={"path": "a.zarr"}),
    case("a pattern of Zarr stores", lambda folder: [ds.to_zarr(folder / f"{n}.zarr", consolidated=False) for n, ds in THIRD.items()],
         right(sizes=WHOLE, mean=MEAN), data={"path": "*.zarr"}),
    case("names in no order of time", lambda folder: write(folder, a=THIRD["b"], b=THIRD["a"], c=THIRD["c"]), right(sizes=WHOLE, mean=MEAN), data=PATTERN),
    case("latitudes through float32", thirds(b=through_float32(THIRD["b"])),
         either(right(sizes=WHOLE, valid=1.0, mean=MEAN), refused(r"b\.nc", "lat")), data=PATTERN),
    case("another grid", thirds(b=THIRD["b"].assign_coords(lat=THIRD["b"].lat + 0.05)), refused(r"b\.nc", "lat"), data=PATTERN),
    case("another size", thirds(b=THIRD["b"].isel(lon=slice(0, 11))), refused(r"b\.nc", "lon"), data=PATTERN),
    case("another name", thirds(b=THIRD["b"].rename(pr="precip")), refused(r"b\.nc", "pr"), data=PATTERN),
    case("other units", thirds(b=THIRD["b"].assign(pr=(THIRD["b"].pr / 86400).assign_attrs(units="kg m-2 s-1"))),
         either(right(sizes=WHOLE, mean=MEAN), refused(r"b\.nc", "units")), data=PATTERN),
    case("latitudes falling in one", thirds(b=THIRD["b"].isel(lat=slice(None, None, -1))),
         either(right(sizes=WHOLE, valid=1.0, mean=MEAN), refused(r"b\.nc", "lat")), data=PATTERN),
    case("days twice", thirds(b=days(8, 20)), refused(r"b\.nc|overlap|time", "time"), data=PATTERN),
    case("texts as labels", lambda folder: write(folder, **{n: ds.assign_coords(time=[f"storm {n}{i}" for i in range(10)]) for n, ds in THIRD.items()}),
         right(sizes=WHOLE, valid=1.0, mean=MEAN), data=PATTERN),
    case("a store without any day", lambda folder: [ds.to_zarr(folder / f"{n}.zarr", consolidated=False) for n, ds in {**THIRD, "b": days(0, 0)}.items()],
         refused(r"b\.zarr", "time", "Leave it out"), data={"path": "*.zarr"}),
    case("another calendar", thirds(b=THIRD["b"].assign_coords(time=xr.date_range("2001-01-11", periods=10, calendar="noleap", use_cftime=True))),
         refused(r"b\.nc", "time|calendar"), data=PATTERN),
    case("a file that is none", lambda folder: (thirds()(folder) / "b.nc").write_text("404 not found"),
         refused("b.nc", "open"), data=PATTERN),
    case("an empty file", lambda folder: (thirds()(folder) / "b.nc").write_bytes(b""), refused("b.nc", "open"),
         data=PATTERN),
    case("nothing", thirds(), refused("data.path", "x.nc", "relative"), data={"path": "x.nc"}),
    case("a folder of files", thirds(), refused("data.path", r"\*"),
         data={"path": "."}),
    case("one variable per file", lambda folder: write(folder, a=days(0, 10), t=days(10, 20, "t", units="K").assign_coords(time=times(30)[:10])),
         right(sizes={**WHOLE, "time": 10}, roles=["t"]), data=PATTERN, coarsen=None),
    case("one variable per file, with bounds", lambda folder: write(folder, a=bounded(days(0, 10)), t=bounded(days(0, 10, "t", units="K"))),
         right(sizes={**WHOLE, "time": 10}, roles=["t"]), data=PATTERN, coarsen=None),
    case("one variable per file, attributes that are arrays",
         lambda folder: write(folder, a=lambert(days(0, 10)), t=lambert(days(0, 10, "t", units="K"))),
         right(sizes={**WHOLE, "time": 10}, roles=["t"]), data=PATTERN, coarsen=None),
    case("rename", lambda folder: write(folder, a=days(0, 10).rename(pr="RAINNC")), right(target="pr"), data={"path": "a.nc", "rename": {"RAINNC": "pr"}}),
    case("rename of nothing", thirds(), refused("data.rename", "'rr'", "Valid names"), data={"path": "a.nc", "rename": {"rr": "pr"}}),
    case("home", thirds(), right(valid=1.0), data={"path": "~/a.nc"}),
    case("environment variable", thirds(), right(valid=1.0), data={"path": "$ARCHIVE/a.nc"}),
    case("engine", thirds(), right(valid=1.0), data={"path": "a.nc", "engine": "scipy"}),
    case("engine that is not installed", thirds(), refused("engine", "nosuch", "install|Valid|engines"),
         data={"path": "a.nc", "engine": "nosuch"}),
    case("group of a Zarr store", lambda folder: THIRD["a"].to_zarr(folder / "a.zarr", group="Grid", consolidated=False), right(valid=1.0),
         data={"path": "a.zarr", "group": "/Grid"}),
    case("group not named", lambda folder: THIRD["a"].to_zarr(folder / "a.zarr", group="Grid", consolidated=False), refused("group", "Grid"),
         data={"path": "a.zarr"}),
    case("split that selects nothing", thirds(), refused("data.test.time", "2031", "labels"), data={"path": "a.nc", "test": {"time": 2031}}),
    case("split by a range", thirds(), right(sizes={**WHOLE, "time": 5}), data={"path": "*.nc", "train": {"time": ["2001-01-03", "2001-01-07"]}}),
    case("split by an unknown coordinate", thirds(), refused("data.train", "'season'", "Valid names"), data={"path": "a.nc", "train": {"season": "DJF"}}),
    case("unknown key", thirds(), refused("data", "'paths'", "Did you mean 'path'"), data={"paths": "a.nc"}),
    case("no source", thirds(), refused("source of the data", "path"), data={}),
    case("two sources", thirds(), refused("source of the data", "tutorial and path"), data={"path": "a.nc", "tutorial": "radklim"}),
]  # fmt: skip


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(("make", "answer", "options"), JOINED)
def test_files_are_joined_or_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    make: Any,
    answer: Answer | AnyOf,
    options: dict[str, Any],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ARCHIVE", str(tmp_path))
    make(tmp_path)
    answer.check(lambda: read(tmp_path, **options))


# --- addresses ---------------------------------------------------------------------------------


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Address of a local HTTP server with a Zarr store and a file."""
    THIRD["a"].to_zarr(tmp_path / "a.zarr", consolidated=True, zarr_format=2)
    THIRD["a"].to_netcdf(tmp_path / "a.nc", engine="scipy")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["a.zarr", "a.nc"])
def test_addresses_of_http_are_opened(served: str, tmp_path: Path, name: str) -> None:
    pytest.importorskip("aiohttp")
    right(valid=1.0).check(lambda: read(tmp_path, {"path": f"{served}/{name}"}))


def test_stores_in_memory_are_opened(tmp_path: Path) -> None:
    import fsspec
    import zarr

    store = zarr.storage.FsspecStore.from_url("memory://archive/a.zarr")
    THIRD["a"].to_zarr(store, consolidated=False)
    try:
        right(valid=1.0).check(lambda: read(tmp_path, {"path": "memory://archive/a.zarr"}))
    finally:
        fsspec.filesystem("memory").rm("/archive", recursive=True)


@pytest.mark.parametrize(
    "address", ["s3://bucket/a.zarr", "gs://bucket/a.zarr", "https://example.invalid/a.zarr"]
)
def test_addresses_that_cannot_be_opened_are_named_as_they_are(
    tmp_path: Path, address: str
) -> None:
    with pytest.raises(XcvaeError) as caught:
        read(tmp_path, {"path": address})
    assert address in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def condition(first: int, last: int, **options: Any) -> xr.Dataset:
    """A temperature on a coarse grid, under the names that the target's grid has."""
    coords = {"time": times(30)[first:last]}
    field = rain(dims=("time", "lat", "lon"), shape=(last - first, 3, 3), units="K", coords=coords)
    return field.assign_coords(
        lat=("lat", 40.15 + 0.4 * np.arange(3), {"units": "degrees_north"}),
        lon=("lon", 5.15 + 0.4 * np.arange(3), {"units": "degrees_east"}),
    ).to_dataset(name="t")


GRID = {"lat": "lat_gcm", "lon": "lon_gcm"}
TARGET, GCM = {"path": ["a.nc", "b.nc"]}, {"path": "t.nc", "rename": GRID}


@pytest.mark.parametrize(
    ("files", "sources", "answer"),
    [
        ({"t": condition(0, 20)}, [TARGET, GCM], right(sizes={**WHOLE, "time": 20}, roles=["t"])),
        ({"t": condition(5, 30)}, [TARGET, GCM], right(sizes={**WHOLE, "time": 15}, valid=1.0)),
        ({"t": condition(0, 20)}, [TARGET, {"path": "t.nc"}], refused(r"sources\[1\]", "lat", "rename")),
        ({"t": condition(20, 30)}, [TARGET, GCM], refused(r"sources\[1\]", "time")),
        ({"t": condition(0, 10).isel(time=slice(None, None, -1))}, [TARGET, GCM], right(sizes={**WHOLE, "time": 10}, valid=1.0)),
        ({"t": condition(0, 10).isel(time=[0, *range(10)])}, [TARGET, GCM], refused(r"sources\[1\]", "drop_duplicates")),
        ({"t": condition(0, 20).isel(time=slice(None, None, 2))}, [TARGET, GCM], refused("time", "one step")),
        ({"t": condition(0, 20).assign_coords(time=times(20) + np.timedelta64(12, "h"))}, [TARGET, GCM], refused(r"T12:00 to ", "times of day", "floor")),
        ({"t": condition(0, 20).convert_calendar("360_day", align_on="date")}, [TARGET, GCM], refused("360_day", "convert_calendar")),
        ({"t": condition(0, 20)}, [TARGET, {**GCM, "rename": {**GRID, "t": "pr"}}], refused("pr", "rename")),
        ({"t": condition(0, 20)}, [TARGET, {**GCM, "rename": {"T": "t"}}], refused(r"sources\[1\]\.rename", "'T'")),
        ({}, [], refused("sources", "path")),
    ],
)  # fmt: skip
def test_sources_are_merged_or_refused_by_name(
    tmp_path: Path, files: Any, sources: Any, answer: Answer
) -> None:
    write(tmp_path, **THIRD, **files)
    answer.check(lambda: read(tmp_path, {"sources": sources}, coarsen=None))


def test_a_renamed_grid_mapping_stays_that_of_its_fields(tmp_path: Path) -> None:
    first, second = days(0, 10), condition(0, 10)
    for i, ds in enumerate((first, second)):
        ds["crs"] = ((), 0, {"grid_mapping_name": "latitude_longitude", "earth_radius": 6.3e6 + i})
        ds[["pr", "t"][i]].attrs["grid_mapping"] = "crs"
    write(tmp_path, a=first, t=second)
    renamed = {"path": "t.nc", "rename": {**GRID, "crs": "crs_2"}}
    data = config.parse({
        "data": {"sources": [{"path": "a.nc"}, renamed]}, "output": "out",
        "train": {"target": "pr", "conditions": ["t"]},
    }, folder=tmp_path)  # fmt: skip
    ds = config.open_parts(data).train
    mappings = {
        name: ds[name].attrs.get("grid_mapping") or ds[name].encoding["grid_mapping"]
        for name in ("pr", "t")
    }
    assert mappings == {"pr": "crs", "t": "crs_2"}


def test_references_of_kerchunk_are_opened(tmp_path: Path) -> None:
    THIRD["a"].to_zarr(tmp_path / "a.zarr", consolidated=False, zarr_format=2)
    refs: dict[str, Any] = {}
    for path in sorted((tmp_path / "a.zarr").rglob("*")):
        if path.is_file():
            text = path.name.startswith(".z")
            key = path.relative_to(tmp_path / "a.zarr").as_posix()
            refs[key] = path.read_text() if text else [str(path)]
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "refs": refs}))
    facts = right(valid=1.0, sizes={**WHOLE, "time": 10})
    facts.check(lambda: read(tmp_path, {"path": "a.json", "engine": "kerchunk"}))


def test_options_of_the_engine_reach_it(tmp_path: Path) -> None:
    write(tmp_path, **THIRD)
    source = {"path": "a.nc", "engine": "scipy", "backend_kwargs": {"mmap": False}}
    for data in (source, {"sources": [source]}):
        right(sizes={**WHOLE, "time": 10}).check(partial(read, tmp_path, data))
    with pytest.raises(XcvaeError, match=r"a\.nc: TypeError: .*filter_by"):
        read(tmp_path, {**source, "backend_kwargs": {"filter_by": {}}})
    with pytest.raises(XcvaeError, match=r"backend_kwargs: .*belongs to `path`"):
        read(tmp_path, {"tutorial": "radklim", "backend_kwargs": {"mmap": False}})


def test_addresses_of_results_and_options_of_local_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path, **THIRD)
    with pytest.raises(XcvaeError, match="output: expected the path of a local file"):
        config.parse({"data": {"path": "a.nc"}, "output": "s3://bucket/out"})
    with pytest.raises(XcvaeError, match=r"data\.storage_options: .*the local path"):
        read(tmp_path, {"path": "a.nc", "storage_options": {"anon": True}})
    with pytest.raises(XcvaeError, match=r"engine: .*belongs to `path`"):
        read(tmp_path, {"tutorial": "radklim", "engine": "zarr"})


# --- a configuration from the data -------------------------------------------------------------


def test_init_writes_a_configuration_that_opens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, **THIRD)
    file = tmp_path / "config.yaml"
    paths = [str(tmp_path / f"{name}.nc") for name in THIRD]
    try:
        status = main(["init", *paths, "--output", str(file)])
    except SystemExit as error:
        pytest.fail(f"exit {error.code}: {capsys.readouterr().err[-200:]}")
    assert status == 0
    text = file.read_text(encoding="utf-8")
    assert "# " in text
    parts = config.open_parts(config.load(file))
    assert parts.spec.target == "pr"
    assert parts.test is not None
    assert parts.train.time.max() < parts.test.time.min()


def test_init_replaces_no_file(tmp_path: Path) -> None:
    write(tmp_path, **THIRD)
    file = tmp_path / "config.yaml"
    file.write_text("mine: 1\n")
    try:
        status = main(["init", str(tmp_path / "a.nc"), "--output", str(file)])
    except SystemExit as error:
        pytest.fail(f"exit {error.code}")
    assert status == 1
    assert file.read_text() == "mine: 1\n"


def test_init_says_what_it_could_not_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a=days(0, 10).assign(rr=days(0, 10).pr))
    try:
        main(["init", str(tmp_path / "a.nc")])
    except SystemExit as error:
        pytest.fail(f"exit {error.code}")
    text = capsys.readouterr().out
    assert "pr" in text
    assert "rr" in text


def _grids(folder: Path) -> list[str]:
    write(folder, **THIRD, t=condition(0, 30))
    return ["a.nc", "b.nc", "c.nc", "t.nc"]


def _entry(folder: Path) -> list[str]:
    days(0, 20).to_zarr(folder / "a.zarr", consolidated=False)
    catalog.append(folder / "catalog.yaml", "rain", folder / "a.zarr", {})
    return ["catalog.yaml:rain"]


def _without_times(folder: Path) -> list[str]:
    write(folder, a=days(0, 10).drop_vars("time"))
    return ["a.nc"]


def _years(folder: Path) -> list[str]:
    write(_folder(folder / "data"), pr_2001=days(0, 10), pr_2002=days(10, 30))
    (folder / "data" / "notes.txt").write_text("rain")
    return ["data"]


def _climate_model(folder: Path) -> list[str]:
    """Write rain of a regional model and pressure of a global one, as archives have them."""
    times = xr.date_range("2041-01-01 12:00", periods=10, calendar="360_day", use_cftime=True)
    grid = days(0, 10).rename(lat="rlat", lon="rlon")
    lat, lon = xr.broadcast(grid.rlat, grid.rlon)
    grid = grid.assign_coords(time=times, lat=lat, lon=lon.assign_attrs(units="degrees_east"))
    grid.rlat.attrs, grid.rlon.attrs = (
        {"standard_name": "grid_latitude"},
        {"standard_name": "grid_longitude"},
    )
    other = condition(0, 10).assign_coords(time=times)
    write(folder, rain=bounded(grid), pressure=bounded(other.isel(time=slice(9))).rename(t="psl"))
    return ["rain.nc", "pressure.nc"]


def _two_rotated_grids(folder: Path) -> list[str]:
    """Write rain of two regional models, each with maps of latitude and longitude."""
    fine = days(0, 10).rename(lat="rlat", lon="rlon")
    fine.rlat.attrs, fine.rlon.attrs = (
        {"standard_name": f"grid_{name}", "units": "degrees"} for name in ("latitude", "longitude")
    )
    coarse = fine.coarsen(rlat=3, rlon=3).mean()
    coarse.pr.attrs = fine.pr.attrs
    for ds in (fine, coarse):
        lat, lon = xr.broadcast(ds.rlat + 10, ds.rlon + 20)
        ds.coords["lat"] = lat.assign_attrs(units="degrees_north")
        ds.coords["lon"] = lon.assign_attrs(units="degrees_east")
    write(folder, cpm=fine, rcm=coarse)
    return ["cpm.nc", "rcm.nc"]


def _valid_time(folder: Path) -> list[str]:
    write(folder, obs=days(0, 10), era=condition(0, 10).rename(time="valid_time"))
    return ["obs.nc", "era.nc"]


def _one_name(folder: Path) -> list[str]:
    coarse = condition(0, 10).rename(t="pr")
    coarse.pr.attrs = days(0, 10).pr.attrs
    write(folder, gcm=coarse, obs=days(0, 10))
    return ["obs.nc", "gcm.nc"]


def _statics(folder: Path) -> list[str]:
    whole = xr.concat(list(THIRD.values()), "time")
    elevation = (("lat", "lon"), np.ones((12, 12)), {"units": "m"})
    write(folder, a=whole.assign(orog=elevation, count=whole.pr.drop_attrs()))
    return ["a.nc"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_grids, ["t.nc: another grid, so lat is renamed lat_2", 't [K]: aligned by its coord', "step 1 d"]),
        (_entry, ['"name": "rain"', "coarsen: 4", "To decide: nothing"]),
        (_without_times, ["splits: time has no labels", "validation: 0.15"]),
        (_years, ['path: "data/pr_*.nc"', "time: 2001-01-01 to 2001-01-30, step 1 d"]),
        (_climate_model, ["calendar 360_day", '"rename": {"lat": "lat_2", "lon": "lon_2"}', 'conditions: ["psl"]']),
        (_two_rotated_grids, ["rcm.nc: another grid, so lat is renamed lat_2", 'conditions: ["pr_2"]', "aligned by its coord"]),
        (_valid_time, ["era.nc: its samples are along valid_time, so valid_time is renamed time", 'conditions: ["t"]']),
        (_one_name, ["gcm.nc: another field, so pr is renamed pr_2", 'conditions: ["pr_2"]']),
        (_statics, ['statics: ["orog"]', "count: left out", "pr (time, lat, lon) [mm/day], rates"]),
    ],
)  # fmt: skip
def test_the_configuration_of_init_passes_the_check(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], list[str]],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", *make(tmp_path), "--output", "config.yaml"]) == 0
    text = Path("config.yaml").read_text(encoding="utf-8")
    for word in words:
        assert word in text
    assert main(["run", "config.yaml", "--check"]) == 0
    assert "configuration and data are fine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("x.nc", "^DATA: .* matches nothing"),
        (".", "target: .* rain"),
        ("/", r"^DATA: .* /\*\.nc"),
        ("empty", "^DATA: .* the folder .*, which is empty"),
        ("t.nc", "target: .* rain"),
        ("text.nc", r"begins with b'404 not found': neither NetCDF nor HDF5\. Get or write"),
    ],
)
def test_init_refuses_what_cannot_be_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, t=condition(0, 10))
    (tmp_path / "empty").mkdir()
    if data == "text.nc":
        (tmp_path / data).write_text("404 not found")
    with pytest.raises(XcvaeError, match=words):
        pipeline.propose([data], tmp_path)


def test_init_names_calendars_that_differ(tmp_path: Path) -> None:
    coarse = condition(0, 10).rename(t="pr").convert_calendar("noleap", use_cftime=True)
    coarse.pr.attrs = days(0, 10).pr.attrs
    write(tmp_path, gcm=coarse, obs=days(0, 10))
    with pytest.raises(XcvaeError, match=r"calendar noleap.*convert_calendar\('proleptic"):
        pipeline.propose([str(tmp_path / f"{name}.nc") for name in ("obs", "gcm")], tmp_path)


def test_init_names_fields_along_other_times(tmp_path: Path) -> None:
    forecast = condition(0, 10).rename(t="t2m", time="valid_time").assign_coords(time=times(1)[0])
    write(tmp_path, obs=days(0, 10), forecast=forecast)
    files = [str(tmp_path / f"{name}.nc") for name in ("obs", "forecast")]
    text = pipeline.propose(files, tmp_path)
    assert "t2m: left out; its samples are along valid_time, those of pr along time" in text


def test_init_leaves_out_a_climatology_along_times_of_its_own(tmp_path: Path) -> None:
    past = condition(0, 10).rename(t="normal", time="month")
    past = past.assign_coords(month=past.month - np.timedelta64(7300, "D"))
    write(tmp_path, obs=days(0, 10), past=past)
    files = [str(tmp_path / f"{name}.nc") for name in ("obs", "past")]
    text = pipeline.propose(files, tmp_path)
    assert "normal: left out; its samples are along month, those of pr along time" in text


def test_init_lists_doubts_about_amounts(tmp_path: Path) -> None:
    whole = xr.concat(list(THIRD.values()), "time")
    coarse = whole.pr.coarsen(lat=3, lon=3).mean() / 24
    coarse = coarse.assign_attrs(whole.pr.attrs).to_dataset(name="tp")
    write(tmp_path, obs=whole, era=coarse)
    text = pipeline.propose([str(tmp_path / f"{name}.nc") for name in ("obs", "era")], tmp_path)
    assert "times less rain than 'pr' on average" in text
    total = whole.pr.cumsum("time").assign_attrs(units="mm").assign_coords(time=whole.time)
    write(tmp_path, runs=whole.assign(pr=total))
    text = pipeline.propose([str(tmp_path / "runs.nc")], tmp_path)
    assert "#   pr: values rise from sample to sample" in text


def test_files_with_times_that_are_no_labels_are_joined_as_the_remedy_says(tmp_path: Path) -> None:
    """As WRF writes them: XTIME along Time."""
    runs = {
        name: ds.rename_dims(time="Time").reset_index("time").rename_vars(time="XTIME")
        for name, ds in THIRD.items()
    }
    write(tmp_path, **runs)
    with pytest.raises(XcvaeError, match=r"'Time' has no labels.*concat_dim='Time'.*Time='XTIME'"):
        read(tmp_path, {"path": "*.nc"})
    files = sorted(tmp_path.glob("*.nc"))
    options = {"combine": "nested", "concat_dim": "Time", "engine": "scipy"}
    with xr.open_mfdataset(files, **options) as ds:
        whole = ds.swap_dims(Time="XTIME").load()
    np.testing.assert_array_equal(whole.XTIME, times(30))
