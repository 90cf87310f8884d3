"""Values that cannot be rain, or what they seem to be: packed counts, fills, accumulations."""

# ruff: noqa: E501  a row is a line; refused or right: both may serve

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import DataError
from xcvae.fields.describe import describe, prepare
from xcvae.fields.scaling import Scaling
from xcvae.fields.validation import check_values

from . import makers

# --- packing -----------------------------------------------------------------------------------

ATTRS = {
    "scale_factor": {"scale_factor": 0.01},
    "add_offset": {"add_offset": 3.0},
    "both": {"scale_factor": 0.01, "add_offset": 3.0},
    "_FillValue": {"_FillValue": -32768},
    "missing_value": {"missing_value": -9999.0},
    "_Unsigned": {"_Unsigned": "true"},
}


def packed(attrs: dict[str, object], where: str) -> xr.Dataset:
    """A file that was read with mask_and_scale=False: int16, with its attributes."""
    lat, lon = makers.axis("lat", 45, 0.1, 12), makers.axis("lon", 5, 0.1, 12)
    ds = makers.together(
        makers.rain(dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon}),
        makers.predictor(lat, lon),
    )
    if where in ("pr", "t"):
        ds[where] = ds[where].round().astype("int16")
    ds[where].attrs |= attrs
    return ds


def _packing(name: str, where: str):
    if name == "_Unsigned":
        answer = makers.either(
            makers.refused(where, "mask_and_scale|decode"), makers.right(target="pr")
        )
    elif name in ("_FillValue", "missing_value"):
        answer = makers.either(
            makers.refused(where, name, "mask_and_scale|decode|where"), makers.right(valid=1.0)
        )
    else:
        answer = makers.refused(where, *ATTRS[name], "mask_and_scale", "decode")
    return makers.case(f"{name} on {where}", lambda: packed(ATTRS[name], where), answer)


@pytest.mark.parametrize(
    ("make", "answer", "options"),
    [_packing(name, where) for name in ATTRS for where in ("pr", "t")]
    + [
        _packing(name, where) for name in ("scale_factor", "add_offset") for where in ("lat", "lon")
    ],
)
def test_packed_counts_are_decoded_or_refused(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))


# --- fill values -------------------------------------------------------------------------------

#: Fill value, and where it is the usual one.
FILLS = {
    9.96921e36: "netCDF float",
    1e20: "CMIP",
    1e30: "models",
    3.4e38: "GeoTIFF",
    1.0e15: "NASA",
    65535.0: "uint16",
    32767.0: "int16",
    2147483647.0: "int32",
    -9999.0: "ASCII",
    -999.9: "gauges",
    -32768.0: "int16, negative",
    -3.4e38: "GeoTIFF, negative",
    -2147483647.0: "int32, negative",
    -1.0: "RADOLAN",
}
UNITS = {"mm/day": 4.0, "mm h-1": 1.0, "m s-1": 1e-8, "kg m-2 s-1": 1e-4, "m": 4e-3, "mm": 1.0}


def filled(fill: float, units: str) -> xr.Dataset:
    field = makers.rain(
        units=units,
        size=UNITS[units],
        coords={"time": makers.times(6, "D" if "d" in units else "h")},
    )
    field[2:, 0, :3] = fill
    return makers.together(field)


def _fill(fill: float, units: str):
    answer = makers.refused("pr", r"\b12\b", "time=2001-01-0", "fill|_FillValue|missing")
    return makers.case(f"{fill:g} in {units}", lambda: filled(fill, units), answer)


@pytest.mark.parametrize(
    ("make", "answer", "options"),
    [_fill(fill, "mm/day") for fill in FILLS]
    # Counts that a factor made smaller than a cloudburst.
    + [_fill(fill, "mm h-1") for fill in (255.0, 999.0, 9999.0, 327.67, 655.35, 3276.7, 6553.5)]
    + [
        _fill(fill, units)
        for fill in (9.96921e36, 1e20, 65535.0)
        for units in UNITS
        if units != "mm/day"
    ],
)
def test_fill_values_in_rain_are_refused(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))


def condition(fill: float, units: str, typical: float) -> xr.Dataset:
    lat, lon = makers.axis("lat", 45, 0.1, 12), makers.axis("lon", 5, 0.1, 12)
    field = makers.predictor(lat, lon, units=units)
    values = np.random.default_rng(1).normal(typical, abs(typical) / 100 + 1, field.shape)
    field = field.copy(data=values)
    field[0, 0, :3] = fill
    return makers.together(
        makers.rain(dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon}), field
    )


def _fill_in_condition(fill: float, units: str, typical: float):
    return makers.case(
        f"{fill:g} in {units}", lambda: condition(fill, units, typical),
        makers.refused("t", r"\b3\b", "fill|_FillValue|missing"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "answer", "options"),
    [
        _fill_in_condition(fill, *row)
        for fill in (-9999.0, 1e20, 9.96921e36, -32768.0, 3.4e38, -1e30, -999.0, 9.999e20)
        for row in (("K", 280.0), ("Pa", 1e5), ("m s-1", 0.0), ("1", 0.5), ("m2 s-2", 5e4))
    ],
)
def test_fill_values_in_conditions_are_refused(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))


OTHER_FILLS = [
    makers.case("in a static", lambda: makers.together(makers.rain()).assign(z=(("y", "x"), np.where(np.eye(12) > 0, -9999.0, np.arange(12.0)), {"units": "m"})),
         makers.refused("z", "12 of 144", "fill"), statics=["z"]),
    makers.case("in a number per sample", lambda: makers.together(makers.rain()).assign(t=("time", [1.0, 2, -9999, 4, 5, 6], {"units": "K"})),
         makers.refused("t", "1 of 6", "fill")),
    makers.case("declared, small", lambda: makers.together(makers.rain()).pipe(lambda d: d.assign(pr=d.pr.where(d.pr > 0.5, 3.5).assign_attrs(d.pr.attrs, _FillValue=3.5))),
         makers.refused("pr", "_FillValue", "mask_and_scale")),
    makers.case("declared, in a condition", lambda: makers.together(makers.rain()).assign(t=("time", [1, 2, 7, 4, 5, 6], {"units": "K", "missing_value": 7})),
         makers.refused("t", "missing_value", "1 of 6")),
    makers.case("in chunks", lambda: filled(65535.0, "mm/day").chunk(time=2, x=5), makers.refused("pr", r"\b12\b", "fill")),
    makers.case("0 K", lambda: makers.together(makers.rain()).assign(t=("time", [280.0, 281, 0, 279, 283, 282], {"units": "K"})),
         makers.refused("t", "1 of 6", "fill")),
    makers.case("below zero, among heights of a wide range", lambda: makers.together(makers.rain()).assign(t=("time", [0.0, 2e4, -9999, 4e4, 5e4, 6], {"units": "m"})),
         makers.refused("t", "1 of 6", "fill")),
    makers.case("9999 next to other values", lambda: makers.together(makers.rain()).assign(t=("time", [0.0, 2500, 5000, 7500, 9999, 9000], {"units": "m"})),
         makers.right(target="pr")),
    makers.case("0 degC", lambda: makers.together(makers.rain()).assign(t=("time", [8.0, 9, 0, 8, 9, 9], {"units": "degC"})),
         makers.right(target="pr")),
    makers.case("a mask of 0 and 255", lambda: makers.together(makers.rain()).assign(z=(("y", "x"), 255.0 * np.eye(12), {"units": "1"})),
         makers.right(roles={"t": "pooled", "z": "static"}), statics=["z"]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), OTHER_FILLS)
def test_fill_values_in_other_places(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))


# --- real extremes -----------------------------------------------------------------------------

#: Records of the World Meteorological Organization and of radar: step, units, largest value.
CLOUDBURSTS = [
    ("D", "mm/day", 1825.0),
    ("D", "mm", 1825.0),
    ("D", "m", 1.825),
    ("D", "kg m-2 s-1", 1825 / 86400),
    ("h", "mm h-1", 401.0),
    ("h", "mm", 401.0),
    ("h", "mm/day", 9624.0),
    ("min", "mm", 38.0),
    ("min", "mm h-1", 2280.0),
    ("5min", "mm", 63.0),
    ("5min", "mm h-1", 756.0),
    ("MS", "mm", 9300.0),
    ("MS", "mm/day", 300.0),
]


@pytest.mark.parametrize(
    ("freq", "units", "value"),
    CLOUDBURSTS,
    ids=[f"{r[2]:g} {r[1]} every {r[0]}" for r in CLOUDBURSTS],
)
def test_the_heaviest_rain_on_earth_is_taken(freq: str, units: str, value: float) -> None:
    field = makers.rain(coords={"time": makers.times(6, freq)}, units=units, size=value / 400)
    field = field.clip(max=value)
    field[3, 5, 5] = value
    makers.right(maximum=float(np.float32(value))).check(
        lambda: makers.admit(makers.together(field))
    )


@pytest.mark.parametrize(("units", "typical", "extreme"), [
    ("Pa", 101300.0, 87000.0), ("K", 280.0, 184.0), ("m s-1", 5.0, 113.0), ("kg kg-1", 0.005, 0.03),
    ("J kg-1", 100.0, 9000.0), ("1", 0.01, 1.0), ("m2 s-2", 54000.0, 47000.0), ("m", 300.0, 8848.0),
])  # fmt: skip
def test_the_extremes_of_predictors_are_taken(units: str, typical: float, extreme: float) -> None:
    ds = condition(extreme, units, typical)
    makers.right(roles={"t": "aligned"}).check(lambda: makers.admit(ds))


# --- what it seems to be -----------------------------------------------------------------------


def changed(change, **options) -> xr.Dataset:
    field = makers.rain(**options)
    attrs = field.attrs
    return makers.together(change(field).rename("pr").assign_attrs(attrs))


HOURLY = {"coords": {"time": makers.times(48, "h")}, "units": "mm", "size": 0.3}
SEEMS = [
    makers.case("accumulated through the run", lambda: changed(lambda f: f.cumsum("time"), **HOURLY),
         makers.either(makers.warned("pr", "accumul", "diff"), makers.refused("pr", "accumul", "diff"))),
    makers.case("accumulated through each day", lambda: changed(lambda f: f.groupby("time.day").cumsum().assign_coords(time=f.time), **HOURLY),
         makers.either(makers.warned("pr", "accumul"), makers.refused("pr", "accumul"))),
    makers.case("accumulated, mostly dry, in chunks", lambda: changed(lambda f: f.where(f > 0.5, 0).cumsum("time"), **HOURLY).chunk(time=1),
         makers.warned("pr", "accumul", "diff")),
    makers.case("metres that are millimetres, light", lambda: makers.together(makers.rain(units="m", size=0.4)), makers.warned("pr", "'m'", "mm")),
    makers.case("hours that rise by chance in some pixels", lambda: changed(lambda f: f.isel(time=slice(0, 3)), **HOURLY), makers.right()),
    makers.case("metres that are millimetres", lambda: makers.together(makers.rain(units="m", size=4.0)),
         makers.either(makers.warned("pr", "'?m'?", "mm"), makers.refused("pr", "mm"))),
    makers.case("mm/day that are mm/s", lambda: makers.together(makers.rain(units="kg m-2 s-1", size=4.0)),
         makers.either(makers.warned("pr", "mm"), makers.refused("pr", "mm"))),
    makers.case("m that are m/day, fine", lambda: makers.together(makers.rain(units="m", size=4e-3)), makers.right(daily=True)),
    makers.case("mm that are metres", lambda: makers.together(makers.rain(units="mm", size=4e-3)), makers.warned("pr", "no pixel is wet", "'mm'", "units")),
    makers.case("dry pixels that were read as missing", lambda: changed(lambda f: f.where(f > 1.0)), makers.warned("pr", "no pixel is dry", r"fillna\(0\)")),
    makers.case("dry pixels and a mask that moves", lambda: changed(lambda f: f.where(f > 1.0, 0.0).where((f.x + f.time.dt.day) % 3 > 0), coords={"x": np.arange(12.0)}), makers.right(target="pr")),
    makers.case("missing values above valid_max", lambda: changed(lambda f: f.where(f < 10, 250.0)).pipe(lambda d: d.assign(pr=d.pr.assign_attrs(valid_max=200.0))),
         makers.warned("pr", "250", "largest valid value", "200")),
    makers.case("missing values above valid_range, of counts", lambda: changed(lambda f: f.where(f < 10, 250.0)).pipe(lambda d: d.assign(pr=d.pr.assign_attrs(valid_range=[0, 20000]))).pipe(lambda d: (d.pr.encoding.update(scale_factor=0.01), d)[1]),
         makers.right(target="pr")),
    makers.case("negative rain", lambda: changed(lambda f: f - 1.0),
         makers.refused("pr", "negative", r"clip\(min=0\)")),
    makers.case("anomalies", lambda: changed(lambda f: f - f.mean("time")), makers.refused("pr", "negative", "anomal")),
    makers.case("normalised", lambda: changed(lambda f: (f - f.mean()) / f.std()), makers.refused("pr", "negative", "normali")),
    makers.case("rounding below zero", lambda: changed(lambda f: f.where(f > 0.1, -1e-7)), makers.right(target="pr")),
    makers.case("NaN at sea", lambda: changed(lambda f: f.where(f.x > 2), coords={"x": np.arange(12.0)}), makers.right(valid=0.75)),
    makers.case("all NaN", lambda: changed(lambda f: f * np.nan), makers.refused("pr", "all NaN", "mask")),
    makers.case("infinite", lambda: changed(lambda f: f.where(f < 10, np.inf)), makers.refused("pr", "infinite", "isfinite")),
    makers.case("dry throughout", lambda: changed(lambda f: f * 0), makers.right(maximum=0.0)),
    makers.case("whole numbers", lambda: changed(lambda f: f.round().astype("int16")), makers.right(target="pr")),
    makers.case("unsigned", lambda: changed(lambda f: f.round().astype("uint8")), makers.right(target="pr")),
    makers.case("float64", lambda: changed(lambda f: f.astype("float64")), makers.right(target="pr")),
    makers.case("float16", lambda: changed(lambda f: f.astype("float16")), makers.right(target="pr")),
    makers.case("big endian", lambda: changed(lambda f: f.astype(">f4")), makers.right(target="pr")),
    makers.case("text", lambda: changed(lambda f: f.astype(str)), makers.refused("pr", "astype"), target="pr"),
    makers.case("objects", lambda: changed(lambda f: f.astype(object)), makers.refused("pr", "astype"), target="pr"),
    makers.case("complex", lambda: changed(lambda f: f.astype(complex)), makers.refused("pr", "real"), target="pr"),
    makers.case("truth values", lambda: changed(lambda f: f > 1), makers.either(makers.right(), makers.refused("pr", "bool"))),
    makers.case("timedelta (read with the units 'days')", lambda: changed(lambda f: f.astype("timedelta64[s]")),
         makers.refused("pr", "timedelta"), target="pr"),
    makers.case("dates", lambda: changed(lambda f: f.astype("datetime64[s]")), makers.refused("pr", "datetime"), target="pr"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), SEEMS)
def test_values_that_are_not_amounts_of_rain(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))


# --- gaps in conditions ------------------------------------------------------------------------


def _gaps(choose, units: str = "K") -> xr.Dataset:
    ds = condition(280.0, units, 280.0)
    return ds.assign(t=choose(ds.t).assign_attrs(ds.t.attrs))


GAPS = [
    makers.case("sea surface temperature", lambda: _gaps(lambda t: t.where(t.lon > 5.5)),
         makers.refused("t", "missing", "mask|fill")),
    makers.case("one missing sample", lambda: _gaps(lambda t: t.where(t.time != t.time[2])),
         makers.refused("t", "144 of 864", "labels")),
    makers.case("infinite", lambda: _gaps(lambda t: t.where(t.lon > 5.5, np.inf)), makers.refused("t", "infinite")),
    makers.case("a number that is missing", lambda: makers.together(makers.rain()).assign(t=("time", [1, 2, np.nan, 4, 5, 6], {"units": "K"})),
         makers.refused("t", "1 of 6", "time=2001-01-03")),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), GAPS)
def test_gaps_in_conditions_are_refused_with_what_helps(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))


# --- the step of the record --------------------------------------------------------------------


def test_a_selection_is_checked_with_the_step_of_its_record() -> None:
    """What five minutes cannot bring, a month could: days of the record do not say so."""
    field = makers.rain(
        dims=("time", "y", "x"), coords={"time": makers.times(40, "5min")}, units="mm"
    )
    spec = describe(makers.together(field), target="pr")
    some = makers.together(field).isel(time=slice(None, None, 20))
    bad = some.pr.copy(data=some.pr.values + 800.0)  # possible in 100 minutes
    check_values(prepare(some, spec, need_target=True), spec)
    with pytest.raises(DataError, match="pr: expected rain of at most"):
        check_values(prepare(some.assign(pr=bad), spec, need_target=True), spec)


def late_merge() -> xr.Dataset:
    """Days of rain, then predictors every six hours: empty samples far from the first ones."""
    field = makers.rain(coords={"time": makers.times(24, "D")}, units="mm")
    extra = makers.times(24, "D")[20] + np.array([6, 12, 18], "timedelta64[h]")
    both = np.sort(np.concatenate([field.time.values, extra]))
    number = xr.DataArray(np.linspace(270.0, 280.0, len(both)), {"time": both}, ("time",), "t")
    return xr.Dataset({"pr": field.reindex(time=both), "t": number.assign_attrs(units="K")})


@pytest.mark.parametrize("chunks", [None, {"time": 5}, {"time": 1, "y": 3}])
def test_empty_samples_far_from_the_first_ones_are_no_part_of_the_step(chunks) -> None:
    ds = late_merge() if chunks is None else late_merge().chunk(chunks)
    with pytest.warns(UserWarning, match="3 of 27 samples have no valid pixel"):
        spec = describe(ds)
    assert spec.daily
    assert spec.step == 86400.0


def test_empty_samples_of_lazy_data_are_named_when_all_are_read() -> None:
    ds = makers.together(makers.rain(coords={"time": makers.times(24, "D")}))
    ds["pr"] = ds.pr.where(ds.time != ds.time[20])
    lazy = ds.chunk(time=6)
    spec = describe(lazy)  # the step is known without reading all
    with pytest.warns(UserWarning, match=r"1 of 24 samples have no valid pixel.*dropna"):
        Scaling.fit(prepare(lazy, spec, need_target=True), spec)


# --- predictors --------------------------------------------------------------------------------


def with_numbers(values: list[float], name: str = "t", units: str = "K", **attrs: object):
    """Rain, and a predictor with a number per sample."""
    return makers.together(
        makers.rain(), xr.DataArray(values, dims="time", name=name, attrs={"units": units, **attrs})
    )


CELSIUS, KELVIN = [-3.0, 25, 4, 7, 9, 11], [270.0, 298, 277, 280, 282, 284]
PREDICTORS = [
    makers.case("K that are degC", lambda: with_numbers(CELSIUS, "t850"), makers.warned("t850", "degrees Celsius", r"\['t850'\].*'degC'")),
    makers.case("degC that are K", lambda: with_numbers(KELVIN, "t2m", "degC", long_name="2 metre temperature"), makers.warned("t2m", "kelvin", "= 'K'")),
    makers.case("degC", lambda: with_numbers(CELSIUS, "t850", "degC"), makers.right()),
    makers.case("an index of stability", lambda: with_numbers(CELSIUS, "kx", long_name="K index"), makers.right()),
    makers.case("differences of temperature", lambda: with_numbers(CELSIUS, "tas", long_name="temperature anomaly"), makers.right()),
    makers.case("above valid_max", lambda: with_numbers([*KELVIN[:5], 350], valid_max=340.0), makers.warned("t", "maximum 350", "largest valid value", "340")),
    makers.case("below valid_min", lambda: with_numbers([0.4, -0.1, 0.2, 0.3, 0.5, 1.0], "rh", "1", valid_range=[0.0, 1.0]), makers.warned("rh", "minimum -0.1", "smallest valid value", ">= 0")),
    makers.case("within limits, as text", lambda: with_numbers(KELVIN, valid_min=0.0, valid_max="high"), makers.right()),
    makers.case("limits of counts", lambda: with_numbers(KELVIN, valid_range=[-32766, 32766]), makers.right()),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), PREDICTORS)
def test_predictors_are_compared_with_their_units_and_limits(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))
