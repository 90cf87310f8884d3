"""Members that evolve in time: the same values whichever other times are drawn, and how."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import dask
import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.ensemble.request import SampleRequest
from xcvae.ensemble.sample import sample
from xcvae.errors import ConfigError

TIMESCALES = ["2h", "30 min", "10 min", 0]
MADE = {"members": 3, "seed": 7, "progress": False}
COHERENT = {**MADE, "temporal": "coherent", "timescales": TIMESCALES}


@pytest.fixture(scope="module")
def sequence() -> xr.Dataset:
    """Six consecutive frames of 48 x 36 km, target only."""
    ds = xcvae.tutorial.open_dataset("radklim-sequence").drop_dims(["y_coarse", "x_coarse"])
    return ds.isel(time=slice(6), y=slice(48, 96), x=slice(48, 84)).load()


@pytest.fixture(scope="module", params=["prior", "posterior"])
def how(request) -> dict[str, object]:
    spread = {"spread": 0.6} if request.param == "posterior" else {}
    return {**COHERENT, "mode": request.param, **spread}


@pytest.fixture(scope="module")
def drawn(sequence, model, how):
    return sample(sequence, model, **how).pr.values


def test_one_time_alone_and_any_subset_equal_the_whole(sequence, model, how, drawn):
    for times in ([3], [0, 5], [1, 2, 4]):
        part = sample(sequence.isel(time=times), model, **how).pr.values
        np.testing.assert_array_equal(part, drawn[:, times])


@pytest.mark.parametrize(
    "plan",
    [("synchronous", {"time": 1}), ("threads", {"realization": 1, "time": 4})],
)
def test_chunks_and_threads_do_not_matter(sequence, model, how, drawn, tmp_path, *, plan):
    scheduler, chunks = plan
    with dask.config.set(scheduler=scheduler):
        ens = sample(sequence, model, chunks=chunks, store=tmp_path / "e.zarr", **how)
    np.testing.assert_array_equal(ens.pr.values, drawn)
    assert xcvae.verify_store(tmp_path / "e.zarr", ds=sequence, model=model, progress=False).ok


RUN = """
import json, sys
import xarray as xr, xcvae
ds = xr.open_zarr(sys.argv[1], consolidated=False).load()
xcvae.sample(ds, sys.argv[2], chunks={"time": 1}, store=sys.argv[3], **json.loads(sys.argv[4]))
"""


def test_killed_run_is_completed_with_the_same_values(sequence, model, tmp_path):
    how = {**COHERENT, "mode": "prior"}
    data, store = tmp_path / "data.zarr", tmp_path / "e.zarr"
    sequence.drop_encoding().to_zarr(data, consolidated=False)
    arguments = [str(data), str(model.path), str(store), json.dumps(how)]
    with subprocess.Popen([sys.executable, "-c", RUN, *arguments]) as running:
        while running.poll() is None and not list(tmp_path.glob("e.zarr.partial/pr/c/*/*")):
            time.sleep(0.005)
        running.kill()
    assert not store.exists()
    ds = xr.open_zarr(data, consolidated=False).load()
    ens = sample(ds, model, chunks={"time": 1}, store=store, **how)
    np.testing.assert_array_equal(ens.pr.values, sample(sequence, model, **how).pr.values)


@pytest.mark.parametrize(
    "plan",
    [(slice(3), slice(3, 6)), (slice(3), slice(None)), (slice(3), slice(1, 6))],
    ids=["new ones", "all", "some of both"],
)
def test_appended_times_equal_those_of_one_call(sequence, model, how, drawn, tmp_path, *, plan):
    store = tmp_path / "e.zarr"
    first, given = plan
    sample(sequence.isel(time=first), model, store=store, **how)
    ens = sample(sequence.isel(time=given), model, store=store, resume="append", **how)
    position = [sequence.indexes["time"].get_loc(one) for one in ens.time.values]
    assert sorted(position) == list(range(6))
    np.testing.assert_array_equal(ens.pr.values, drawn[:, position])
    assert xcvae.verify_store(store, ds=sequence, model=model, progress=False).ok


def test_tiles_differ_by_rounding(sequence, model, how, drawn):
    tiled = sample(sequence.isel(time=[2]), model, tile={"y": 24, "x": 20}, **how).pr.values
    np.testing.assert_allclose(tiled, drawn[:, [2]], atol=2e-3, rtol=1e-3)


def test_times_of_any_resolution_and_calendar_of_the_world_are_equal(sequence, model, drawn, how):
    short = sequence.isel(time=[0, 3])
    for unit in ("s", "us"):
        times = short.time.values.astype(f"datetime64[{unit}]")
        part = sample(short.assign_coords(time=times), model, **how).pr.values
        np.testing.assert_array_equal(part, drawn[:, [0, 3]])
    pytest.importorskip("cftime")
    other = short.convert_calendar("proleptic_gregorian", use_cftime=True)
    np.testing.assert_array_equal(sample(other, model, **how).pr.values, drawn[:, [0, 3]])


@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_model_calendars_evolve(sequence, model, calendar):
    pytest.importorskip("cftime")
    times = xr.date_range(
        "2001-02-27T23:00", periods=6, freq="25min", calendar=calendar, use_cftime=True
    )
    ds = sequence.assign_coords(time=times)
    whole = sample(ds, model, **COHERENT).pr.values
    part = sample(ds.isel(time=[1, 4]), model, **COHERENT).pr.values
    np.testing.assert_array_equal(part, whole[:, [1, 4]])


def test_members_of_neighbouring_times_are_alike(sequence, model):
    def lag_one(**options):
        values = sample(sequence, model, **{**MADE, "members": 6, **options}).pr.values
        rest = (values - values.mean(axis=0)).reshape(6, 6, -1)
        return np.mean([np.corrcoef(m[:-1].ravel(), m[1:].ravel())[0, 1] for m in rest])

    frozen = {"temporal": "coherent", "timescales": [1e9] * 4}
    assert lag_one() < 0.25
    assert lag_one(**COHERENT | {"members": 6}) > lag_one() + 0.2
    assert lag_one(**frozen) > 0.8


def test_independent_members_are_those_of_calls_without_the_option(sequence, model):
    plain = sample(sequence, model, **MADE)
    named = sample(sequence, model, temporal="independent", **MADE)
    np.testing.assert_array_equal(plain.pr.values, named.pr.values)
    assert "temporal" not in json.loads(plain.attrs["xcvae"])


def test_provenance_and_ledger_have_the_options(sequence, model, tmp_path):
    ens = sample(sequence, model, store=tmp_path / "e.zarr", **COHERENT)
    record = json.loads(ens.attrs["xcvae"])
    expected = {"temporal": "coherent", "timescales": [7200.0, 1800.0, 600.0, 0.0]}
    assert expected.items() <= record.items()
    assert expected.items() <= record["identity"].items()


def test_samples_without_times_are_refused(sequence, model):
    for ds in (sequence.drop_vars("time"), sequence.assign_coords(time=list("abcdef"))):
        with pytest.raises(ConfigError, match=r"'time': expected times .*temporal='independent'"):
            sample(ds, model, **COHERENT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temporal": "smooth"}, "temporal: expected 'independent' or 'coherent'"),
        ({"timescales": [1]}, "timescales: expected None with temporal='independent'"),
        ({"temporal": "coherent", "timescales": "1h"}, "timescales: expected a list"),
        ({"temporal": "coherent", "timescales": ["1 km"]}, "timescales: expected units"),
        ({"temporal": "coherent", "timescales": [-1]}, "timescales: expected a number >= 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SampleRequest(**options)


def test_number_of_timescales_is_that_of_the_levels(sequence, model):
    with pytest.raises(ConfigError, match="expected 4 durations, one per level"):
        sample(sequence, model, temporal="coherent", timescales=[1, 2], **MADE)


def test_model_without_timescales_is_refused_with_a_remedy(sequence, model):
    older = xcvae.load(model.path)
    older.training.pop("timescales", None)
    with pytest.raises(ConfigError, match=r"got one without.*Give 4 durations"):
        sample(sequence, older, temporal="coherent", **MADE)
