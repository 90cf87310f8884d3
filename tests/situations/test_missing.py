"""Missing values of conditions and statics: refused, or filled with a mask for the network."""

# ruff: noqa: E501  a row is a line

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.config.load import parse
from xcvae.errors import ConfigError, DataError, EmptySelectionError
from xcvae.fields.batches import Batches
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.describe import describe, prepare
from xcvae.fields.scaling import Scaling
from xcvae.fields.validation import check_values
from xcvae.pipeline import check

from . import makers
from .conftest import trained

LAT, LON = makers.axis("lat", 46.05, 0.1, 12), makers.axis("lon", 7.05, 0.1, 12)


def rain() -> xr.DataArray:
    return makers.rain(dims=("time", "lat", "lon"), coords={"lat": LAT, "lon": LON})


def field(name: str, y: xr.DataArray, x: xr.DataArray, units: str = "K") -> xr.DataArray:
    values = 280 + np.random.default_rng(2).normal(size=(6, y.size, x.size)).astype("f4")
    coords = {"time": makers.times(), y.name: y, x.name: x}
    return xr.DataArray(values, coords, ("time", y.name, x.name), name, {"units": units})


def coarse(name="sst", **options) -> xr.DataArray:
    y, x = makers.axis(f"lat_{name}", 46.0, 0.4, 4), makers.axis(f"lon_{name}", 7.0, 0.4, 4)
    return field(name, y, x, **options)


def ocean() -> xr.DataArray:
    """A curvilinear grid around the target with land in its corner, as of an ocean model."""
    j, i = np.meshgrid(np.arange(14) * 0.15, np.arange(16) * 0.15, indexing="ij")
    places = {
        "nav_lat": (("y_o", "x_o"), 45.7 + j + 0.05 * i, makers.DEGREES["lat"]),
        "nav_lon": (("y_o", "x_o"), 6.6 + i - 0.05 * j, makers.DEGREES["lon"]),
    }
    values = 280 + np.random.default_rng(3).normal(size=(6, 14, 16)).astype("f4")
    sst = xr.DataArray(
        values, {"time": makers.times()}, ("time", "y_o", "x_o"), "sst", {"units": "K"}
    )
    return without(sst.assign_coords(places), y_o=slice(0, 8), x_o=slice(0, 8))


def without(da: xr.DataArray, **where) -> xr.DataArray:
    """Set a part to NaN."""
    values = da.values.copy()
    values[tuple(where.get(dim, slice(None)) for dim in da.dims)] = np.nan
    return da.copy(data=values)


def index() -> xr.DataArray:
    values = np.linspace(-1, 1, 6)
    return without(
        xr.DataArray(values, {"time": makers.times()}, ("time",), "nao", {"units": "1"}), time=2
    )


def elsewhere() -> xr.DataArray:
    y, x = makers.axis("lat_p", 20.0, 2.0, 5), makers.axis("lon_p", -40.0, 2.0, 5)
    return without(field("psl", y, x, units="Pa"), lat_p=0)


def land() -> xr.DataArray:
    z = field("z", LAT, LON, units="m").isel(time=0, drop=True)
    return without(z, lat=slice(0, 3))


GAPS = {
    "on the target's grid": (lambda: without(field("tas", LAT, LON), lat=0), {}),
    "coarse": (lambda: without(coarse(), lat_sst=0, lon_sst=0), {}),
    "in some samples": (lambda: without(coarse(), time=slice(0, 2), lat_sst=0), {}),
    "curvilinear ocean": (ocean, {}),
    "pooled map": (elsewhere, {}),
    "a number per sample": (index, {}),
    "coarse rain": (lambda: without(abs(coarse("pr_c", units="mm/day") - 280).assign_attrs(units="mm/day"), lat_pr_c=0), {}),
    "static": (land, {"statics": ["z"], "coarsen": 4}),
}  # fmt: skip


def of(name: str) -> tuple[xr.Dataset, dict]:
    make, options = GAPS[name]
    return makers.together(rain(), make()), options


@pytest.mark.parametrize("name", GAPS)
def test_gaps_are_refused_by_default_and_the_message_names_the_option(name):
    ds, options = of(name)
    answer = makers.refused("missing", "missing='mask'")
    answer.check(lambda: makers.admit(ds, target="pr", **options))


def batch_of(ds: xr.Dataset, **options):
    spec = describe(ds, target="pr", missing="mask", **options)
    ready = prepare(ds, spec, need_target=True)
    check_values(ready, spec)
    scaling, _ = Scaling.fit(ready, spec)
    return spec, ready, Batches(ready, spec, scaling).load(slice(None))


@pytest.mark.parametrize(
    "name",
    [
        "on the target's grid",
        "coarse",
        "in some samples",
        "curvilinear ocean",
        "coarse rain",
        "static",
    ],
)
def test_the_network_sees_no_gap_and_where_it_was(name):
    ds, options = of(name)
    spec, ready, batch = batch_of(ds, **options)
    (variable,) = [v for v in spec.variables if v.gaps]
    aligned = [v for v in spec.variables if v.aligned]
    maps = batch.c.numpy()
    values, known = maps[:, aligned.index(variable)], maps[:, len(aligned)]
    assert np.isfinite(maps).all()
    assert set(np.unique(known)) == {0.0, 1.0}
    assert (values[known == 0] == 0).all()
    # What is known has the values that it has without gaps in other places.
    if name == "on the target's grid":
        np.testing.assert_array_equal(known, ready.tas.notnull().values)


@pytest.mark.parametrize("name", ["pooled map", "a number per sample"])
def test_gaps_of_pooled_conditions_have_a_mask_too(name):
    ds, _ = of(name)
    spec, ready, batch = batch_of(ds)
    (variable,) = spec.variables
    raw = ready[variable.name].values.reshape(6, -1)
    values, known = np.split(batch.pooled.numpy(), 2, axis=1)
    np.testing.assert_array_equal(known, np.isfinite(raw))
    assert (values[known == 0] == 0).all()


def test_a_gap_does_not_spread_when_it_is_stretched():
    whole, ds = makers.together(rain(), coarse()), of("coarse")[0]
    spec, _, batch = batch_of(ds)
    _, _, complete = batch_of(whole)
    far = np.s_[:, 0, 8:, 8:]  # beyond the four cells around the gap
    scaled, other = batch.c.numpy()[far], complete.c.numpy()[far]
    # Mean and deviation differ by the missing cell; the pattern does not.
    assert np.corrcoef(scaled.ravel(), other.ravel())[0, 1] > 1 - 1e-6
    assert batch.c.numpy()[:, 1].mean() > 0.9
    assert spec.variables[0].gaps


def test_without_gaps_nothing_changes():
    ds = makers.together(rain(), coarse())
    assert describe(ds, missing="mask").variables == describe(ds).variables
    one, other = (trained(ds, missing=missing) for missing in (None, "mask"))
    for name, weights in one.network.state_dict().items():
        np.testing.assert_array_equal(weights, other.network.state_dict()[name])
    assert "missing" not in one.spec.to_json()


def test_samples_without_any_value_are_named():
    ds = makers.together(rain(), without(coarse(), time=slice(1, 3)))
    with pytest.warns(UserWarning, match="sst: 2 of 6 samples have no value at all"):
        describe(ds, missing="mask")


@pytest.fixture(scope="module")
def masked():
    """Data with three kinds of gaps, and a model of them."""
    parts = [GAPS[name][0]() for name in ("coarse", "a number per sample", "pooled map")]
    ds = makers.together(rain(), *parts)
    return ds, trained(ds, missing="mask")


def drawn(ds, model, **options):
    return xcvae.sample(ds, model, members=2, device="cpu", progress=False, **options).pr.values


def test_members_are_complete_and_do_not_depend_on_chunks(masked):
    ds, model = masked
    members = drawn(ds, model)
    assert np.isfinite(members).all()
    np.testing.assert_array_equal(drawn(ds.chunk(time=1, lat_sst=2), model), members)
    np.testing.assert_array_equal(drawn(ds.isel(time=[2]), model), members[:, [2]])


@pytest.mark.parametrize("lazy", [False, True])
def test_a_gap_in_coarse_rain_leaves_members_complete(tmp_path, lazy):
    """Of a sample with a gap, the known cells say how heavy its pixels may be."""
    heavy = coarse("tp", units="mm day-1")
    heavy = (
        (heavy - 278).clip(0).assign_attrs(units="mm day-1", standard_name="lwe_precipitation_rate")
    )
    ds = makers.together(rain(), without(heavy, time=2, lat_tp=0, lon_tp=0))
    model = trained(ds, missing="mask")
    assert model.spec.variables[0].precipitation
    members = drawn(ds.chunk(time=1) if lazy else ds, model)
    assert np.isfinite(members).all()
    # The pixels of a sample whose known cells are twice the record may have twice as much.
    much = ds.assign(tp=(2 * ds.tp).assign_attrs(ds.tp.attrs))
    limits = model.limits(prepare(much, model.spec, need_target=False))
    assert limits[2] > 1.2 * model.limits(prepare(ds, model.spec, need_target=False))[2]


def test_the_option_travels_with_the_model(masked, tmp_path):
    ds, model = masked
    model.save(tmp_path / "m.xcvae")
    again = xcvae.load(tmp_path / "m.xcvae")
    assert again.spec.missing == "mask"
    assert DataSpec.from_json(again.spec.to_json()) == model.spec
    np.testing.assert_array_equal(drawn(ds, again), drawn(ds, model))


def test_gaps_that_training_did_not_have_are_refused(masked):
    ds = makers.together(rain(), coarse())
    model = trained(ds, missing="mask")
    with pytest.raises(DataError, match=r"sst: .*It had none in training"):
        drawn(of("coarse")[0], model)


def test_a_mask_does_not_admit_fill_values_or_infinity(masked):
    ds, model = masked
    for value in (-9999.0, np.inf):
        bad = ds.assign(sst=ds.sst.fillna(value))
        with pytest.raises(DataError, match="sst"):
            drawn(bad, model)


@pytest.mark.filterwarnings("ignore:sst. 6 of 6 samples")
def test_a_condition_of_gaps_only_is_refused():
    none = (coarse() * np.nan).assign_attrs(units="K")
    with pytest.raises((DataError, EmptySelectionError), match="sst"):
        trained(makers.together(rain(), none), missing="mask")


def test_unknown_answers_to_gaps_are_refused():
    with pytest.raises(ConfigError, match=r"missing: expected 'mask'.*got 'fill'"):
        trained(makers.together(rain(), coarse()), missing="fill")


def test_yaml_has_the_same_option(tmp_path):
    of("coarse")[0].to_netcdf(tmp_path / "data.nc")
    content = {
        "data": {"path": "data.nc", "train": {"time": {"stop": "2001-01-04"}}, "test": {"time": {"start": "2001-01-05"}}},
        "output": "run",
        "train": {"target": "pr", "missing": "mask", "generator": makers.SMALLEST},
        "sample": [{"name": "prior", "members": 2}],
    }  # fmt: skip
    assert "gaps filled and masked" in check(parse(content, folder=tmp_path))
    del content["train"]["missing"]
    with pytest.raises(DataError, match="missing='mask'"):
        check(parse(content, folder=tmp_path))
