"""Units as they are found in files, and the thresholds that follow from units and steps."""

# ruff: noqa: E501  a row is a line; refused or right: both may serve

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.describe import prepare
from xcvae.fields.units import STEP, default_wet_threshold

from .conftest import trained
from .makers import admit, case, either, rain, refused, right, times, together, warned

#: Units of rain, the size of daily values in them, and one unit in millimetres (per day).
RAIN = [
    ("mm", 4.0, "mm"),
    ("mm/day", 4.0, "mm/day"),
    ("mm d-1", 4.0, "mm/day"),
    ("mm day-1", 4.0, "mm/day"),
    ("mm day**-1", 4.0, "mm/day"),
    ("mm/d", 4.0, "mm/day"),
    ("mm h-1", 0.2, "mm h-1"),
    ("mm/h", 0.2, "mm h-1"),
    ("mm hr-1", 0.2, "mm h-1"),
    ("mm/hr", 0.2, "mm h-1"),
    ("mm hour-1", 0.2, "mm h-1"),
    ("m", 4e-3, "m"),
    ("m s-1", 5e-8, "m s-1"),
    ("m s**-1", 5e-8, "m s-1"),
    ("kg m-2", 4.0, "mm"),
    ("kg m**-2", 4.0, "mm"),
    ("kg/m^2", 4.0, "mm"),
    ("kg m-2 s-1", 5e-5, "kg m-2 s-1"),
    ("kg m**-2 s**-1", 5e-5, "kg m-2 s-1"),
    ("kg/m2/s", 5e-5, "kg m-2 s-1"),
    ("kg m^-2 s^-1", 5e-5, "kg m-2 s-1"),
    ("cm", 0.4, "cm"),
    ("inch", 0.15, "inch"),
    ("in", 0.15, "inch"),
    ("inches/day", 0.15, "inch/day"),
    ("0.1 mm", 40.0, "0.1 mm"),
    ("mm s-1", 5e-5, "mm s-1"),
    ("millimeter", 4.0, "mm"),
    ("mm/month", 120.0, "mm/month"),
]


@pytest.mark.parametrize(("units", "size", "same"), RAIN, ids=[row[0] for row in RAIN])
def test_units_of_rain_are_read(units: str, size: float, same: str) -> None:
    field = rain(units=units, size=size)
    facts = admit(together(field))
    assert facts["units"] == units
    assert facts["maximum"] == pytest.approx(float(field.max()))
    reference = admit(together(rain(units=same, size=size)))
    assert facts["wet"] == pytest.approx(reference["wet"])


NOT_RAIN = [
    case("none", lambda: together(rain(units="")), refused("pr", "units", "attrs"), target="pr"),
    case("blank", lambda: together(rain(units=" ")), refused("pr", "units"), target="pr"),
    case("dBZ", lambda: together(rain(units="dBZ")), refused("pr", "dBZ"), target="pr"),
    case("K", lambda: together(rain(units="K")), refused("pr", "'K'", "units"), target="pr"),
    case("unknown word", lambda: together(rain(units="rainfall units")), refused("pr", "rainfall"), target="pr"),
    case("percent", lambda: together(rain(units="%")), refused("pr", "%"), target="pr"),
    case("1", lambda: together(rain(units="1")), refused("pr", "'1'"), target="pr"),
    case("counts", lambda: together(rain(units="counts")), refused("pr", "counts"), target="pr"),
    case("expression", lambda: together(rain(units="2*mm-")), refused("pr"), target="pr"),
    case(
        "mm/3h", lambda: together(rain(units="mm/3h")), refused("pr", r"mm/\(3 h\)|mm / \(3 h\)"),
        target="pr",
    ),
    case(
        "mm/6hr", lambda: together(rain(units="mm/6hr")), refused("pr", r"mm */ *\(6 *hr?\)"),
        target="pr",
    ),
    case("mm/(3 h)", lambda: together(rain(units="mm/(3 h)")), right(units="mm/(3 h)"), target="pr"),
    case(
        "m of water equivalent", lambda: together(rain(units="m of water equivalent", size=4e-3)),
        right(target="pr"), target="pr",
    ),
    case(
        "mm w.e.", lambda: together(rain(units="mm w.e.")),
        either(right(target="pr"), refused("pr", r"mm w\.e\.", "'mm")), target="pr",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), NOT_RAIN)
def test_units_that_are_not_of_rain_are_refused_with_a_remedy(make, answer, options):
    answer.check(lambda: admit(make(), **options))


KNOWN = [
    "K", "kelvin", "degC", "degrees Celsius", "Celsius", "C", "celsius", "degF", "Pa", "hPa", "mb", "mbar",
    "millibars", "m s-1", "m s**-1", "m/s", "knots", "m", "km", "m2 s-2", "m**2 s**-2", "J kg-1",
    "J kg**-1", "W m-2", "W m**-2", "J m**-2", "kg kg-1", "kg kg**-1", "g kg-1", "g/kg", "%", "1",
    "percent", "dimensionless", "m3 m-3", "m**3 m**-3", "s-1", "s**-1", "Pa s-1", "Pa s**-1",
    "degree", "degrees", "radian", "K m**2 kg**-1 s**-1", "kg m-2", "ppm", "days", "dam",
    "deg C", "deg K", "10^-5 s^-1", "psu", "m^2/s^2", "W/m^2", "m/s^2",
]  # fmt: skip
FOUND = [
    "-", "unitless", "fraction", "(0 - 1)", "~", "Kelvin", "octas", "okta", "oktas",
    "m of water equivalent", "gpdam", "dBZ", "none", "None", "0-1", "[0-1]", "index", "code table",
    "(Code table 4.222)", "Degrees_Celsius", "Proportion", "Numeric", "PVU",
]  # fmt: skip


@pytest.mark.parametrize(
    "units",
    [*KNOWN, *FOUND],
)
def test_units_of_predictors_are_read_as_they_are_found(units: str) -> None:
    ds = together(rain())
    ds.t.attrs["units"] = units
    facts = admit(ds)
    assert facts["roles"] == {"t": "pooled"}
    np.testing.assert_array_equal(facts["ready"].t.values, ds.t.values)


#: Units of a model's data, units of other data, and the value there of 1 here.
SAME = [
    ("K", "degC", -272.15),
    ("Pa", "hPa", 0.01),
    ("1", "%", 100.0),
    ("m2 s-2", "J kg-1", 1.0),
    ("kg kg-1", "g kg-1", 1000.0),
    ("m s-1", "m s**-1", 1.0),
    ("m", "gpm", 1.0),
    ("hPa", "mb", 1.0),
    ("Pa s-1", "mb/s", 0.01),
    ("K", "deg K", 1.0),
    ("K", "degrees Celsius", -272.15),
    ("K", "C", -272.15),
    ("K m-1", "deg C/km", 1000.0),
    ("K m-1", "degC km-1", 1000.0),
    ("m", "gpdam", 0.1),
    ("K", "Kelvin", 1.0),
    ("1", "fraction", 1.0),
    ("1", "(0 - 1)", 1.0),
    ("1", "-", 1.0),
    ("%", "fraction", 0.01),
    ("1", "octas", 8.0),
    ("m", "m of water equivalent", 1.0),
    ("degC", "deg C", 1.0),
    ("K m2 kg-1 s-1", "PVU", 1e6),
]


@pytest.mark.parametrize(("here", "elsewhere", "value"), SAME)
def test_equal_units_of_predictors_convert(here: str, elsewhere: str, value: float) -> None:
    ds = together(rain())
    ds["t"] = ds.t.copy(data=np.ones(6)).assign_attrs(units=here)
    spec = admit(ds)["spec"]
    other = ds.assign(t=ds.t.copy(data=np.full(6, value)).assign_attrs(units=elsewhere))
    np.testing.assert_allclose(prepare(other, spec, need_target=True).t, 1.0, rtol=1e-6)


# --- thresholds --------------------------------------------------------------------------------

#: Step, units, drizzle and wet thresholds: 0.1 mm/h (0.1 mm/day for days), and 0.1 (1).
STEPS = [
    ("min", "mm h-1", 0.1, 0.1),
    ("5min", "mm h-1", 0.1, 0.1),
    ("h", "mm h-1", 0.1, 0.1),
    ("6h", "mm h-1", 0.1, 0.1),
    ("D", "mm h-1", 0.1 / 24, 1 / 24),
    ("D", "mm/day", 0.1, 1.0),
    ("D", "kg m-2 s-1", 0.1 / 86400, 1 / 86400),
    ("h", "kg m-2 s-1", 0.1 / 3600, 0.1 / 3600),
    ("h", "mm/day", 2.4, 2.4),
    ("h", "mm", 0.1, 0.1),
    ("h", "m", 1e-4, 1e-4),
    ("D", "mm", 0.1, 1.0),
    ("D", "kg m-2", 0.1, 1.0),
    ("5min", "mm", 0.1 / 12, 0.1 / 12),
    ("10min", "mm", 0.1 / 6, 0.1 / 6),
    ("15min", "kg m-2", 0.025, 0.025),
    ("min", "0.1 mm", 1 / 60, 1 / 60),
    ("3h", "mm", 0.3, 0.3),
    ("6h", "m", 6e-4, 6e-4),
]


@pytest.mark.parametrize(
    ("freq", "units", "drizzle", "wet"),
    STEPS,
    ids=[f"{row[1]} every {row[0]}" for row in STEPS],
)
def test_default_thresholds_follow_units_and_step(freq, units, drizzle, wet):
    ds = together(rain(coords={"time": times(24, freq)}, units=units, size=wet))
    right(drizzle=float(drizzle), wet=float(wet)).check(lambda: admit(ds))


def _merged(join: str) -> xr.Dataset:
    day = rain(coords={"time": times(8)})
    hours = xr.DataArray(np.arange(32.0), {"time": times(32, "6h")}, "time", "t", {"units": "K"})
    return xr.merge([day, hours], join=join)


MERGED = [
    case("inner", lambda: _merged("inner"), right(daily=True, drizzle=0.1, wet=1.0)),
    case(
        "outer",
        lambda: _merged("outer"),
        either(warned("pr", "24 of 32|NaN|empty", daily=True, drizzle=0.1, wet=1.0), refused("pr", "24 of 32|NaN|empty")),
    ),
    case("selection of days", lambda: together(rain(coords={"time": times(24)}).isel(time=[0, 9, 23])), right(daily=True)),
    case("one day", lambda: together(rain(coords={"time": times(1)})), right(daily=True, wet=1.0)),
    case("one hour in mm/h", lambda: together(rain(coords={"time": times(1)}, units="mm h-1")), right(daily=False, wet=0.1)),
    case("numbers as labels", lambda: together(rain(coords={"time": np.arange(6) * 3})), right(daily=True)),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), MERGED)
def test_the_step_is_that_of_observed_samples(make, answer, options):
    answer.check(lambda: admit(make(), **options))


@pytest.mark.parametrize(
    ("freq", "units", "size", "choice", "threshold"),
    [
        ("h", "mm h-1", 1.0, slice(12, None, 24), 5.0),
        ("D", "kg m-2 s-1", 1e-4, [3], 20 / 86400),
        ("5min", "mm", 0.1, slice(None, None, 12), 5 / 12),
        ("5min", "mm", 0.1, [3], 5 / 12),
    ],
)
def test_default_thresholds_of_scores_are_those_of_the_record(freq, units, size, choice, threshold):
    pr = rain(coords={"time": times(48, freq)}, units=units, size=size)
    ds = pr.to_dataset()
    model = trained(ds, coarsen=4)
    for chosen in (ds, ds.isel(time=choice)):
        ens = xcvae.sample(chosen, model, members=2, progress=False)
        card = xcvae.evaluate(chosen, ens, metrics=["csi"], baselines=[], progress=False)
        assert card.csi.attrs["threshold"] == pytest.approx(threshold)


@pytest.mark.parametrize(
    ("freq", "units", "choice", "threshold"),
    [
        ("h", "mm h-1", slice(12, None, 24), 5.0),
        ("h", "mm h-1", slice(None), 5.0),
        ("D", "mm h-1", slice(None), 20 / 24),
        ("D", "kg m-2 s-1", [3], 20 / 86400),
        ("h", "kg m-2 s-1", [3], 5 / 3600),
        ("D", "mm", [3], 20.0),
        ("D", "mm/day", [3], 20.0),
    ],
)
def test_default_thresholds_of_forecasts_without_a_record(freq, units, choice, threshold):
    pr = rain(coords={"time": times(96, freq)}, units=units, size=1e-3).isel(time=choice)
    ens = pr.expand_dims(realization=2).assign_attrs(pr.attrs).to_dataset()
    card = xcvae.evaluate(pr.to_dataset(), ens, metrics=["csi"], baselines=[], progress=False)
    assert card.csi.attrs["threshold"] == pytest.approx(threshold)


@pytest.mark.parametrize("units", ["mm h-1", "kg m-2 s-1", "mm"])
@pytest.mark.parametrize(
    "choice", [slice(None, None, 24), slice(12, None, 24), slice(None, None, 6), [30]]
)
def test_a_selection_of_a_record_has_the_default_thresholds_of_the_record(units, choice):
    """Without a record in the ensemble, the step was that of the samples that were scored."""
    pr = rain(coords={"time": times(96, "h")}, units=units, size=1e-3)
    members = pr.expand_dims(realization=2).assign_attrs(pr.attrs).to_dataset()
    options = {"metrics": ["csi"], "baselines": [], "progress": False}
    whole = xcvae.evaluate(pr.to_dataset(), members, **options)
    part = xcvae.evaluate(pr.to_dataset(), members.isel(time=choice), **options)
    assert part.csi.attrs["threshold"] == whole.csi.attrs["threshold"]


def test_daily_rates_at_noon_are_days_in_training():
    """As of CMIP; as hours, most of the drawn rain was drizzle and set to zero."""
    days = rain(coords={"time": times(9, "D") + np.timedelta64(12, "h")}, units="mm h-1")
    assert admit(together(days))["spec"].wet_threshold == pytest.approx(1 / 24)


def test_a_spec_of_an_older_file_keeps_its_thresholds():
    spec = admit(together(rain(coords={"time": times(24, "5min")}, units="mm", size=0.1)))["spec"]
    content = {**spec.to_json(), "wet_threshold": 0.1}
    del content["step_seconds"]
    older = DataSpec.from_json(content)
    assert older.wet_threshold == 0.1
    field = xr.DataArray(
        np.ones(2), dims="time", name="pr", attrs={"units": "mm", STEP: older.step}
    )
    assert default_wet_threshold(field, "time") == 0.1
    assert older.to_json() == content
