"""Datasets of any dims, orders, labels, types, chunks and attributes: read, or an XcvaeError."""

# ruff: noqa: E501, PT017  a row is a line; refused or right: both may serve

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xcvae.errors import XcvaeError
from xcvae.fields.units import factor

from .makers import admit, axis, predictor, rain, seen, together

NAMES = [
    "y",
    "x",
    "lat",
    "lon",
    "time",
    "rlat",
    "rlon",
    "level",
    "band",
    "realization",
    "number",
    "a b",
    "ny",
    "1",
]
UNITS = [
    "mm/day", "mm h-1", "kg m-2 s-1", "m", "mm", "K", "1", "", "-", "%", "degC", "furlong", "dBZ", "mm/3h",
    "degrees_north", "degrees_east", "days since 2000-01-01", "m s-1", "2", "0", "mm mm mm", "\x00", "µm", "é",
]  # fmt: skip
STANDARD = [
    "",
    "unknown",
    "latitude",
    "longitude",
    "precipitation_flux",
    "time",
    "projection_x_coordinate",
    "air_temperature",
]
DTYPES = ["f4", "f8", "f2", ">f4", "i2", "i4", "u1", "?", "i8"]
ODD = ["U3", "O", "M8[s]", "m8[s]", "c8", "S2"]


#: Texts and objects as coordinates of a grid are rows of test_grids.py until they are refused; so
#: are grids without rows, and a variable with the name of the condition that coarsen derives.
NUMERIC = [*["none", "numbers", "cells"] * 3, "random", "NaN", "equal"]
LABELS = [*NUMERIC, *["days", "seconds", "noleap"] * 3, "names", "objects"]


@st.composite
def labels(draw: st.DrawFn, n: int, kinds: list[str]) -> Any:  # noqa: C901, PLR0911  a table
    """Labels of a dim, in order or not, or none."""
    kind = draw(st.sampled_from(kinds))
    if kind == "none":
        return None
    if kind == "days":
        return pd.date_range("2001", periods=n).values.astype(
            draw(st.sampled_from(["M8[ns]", "M8[us]", "M8[s]"]))
        )
    if kind == "seconds":
        return np.datetime64("2001-01-01", "ns") + np.arange(n) * np.timedelta64(
            draw(st.integers(0, 10**5)), "s"
        )
    if kind == "numbers":
        return draw(st.floats(-1e3, 1e3)) + np.arange(n) * draw(
            st.sampled_from([0.1, 1.0, -0.5, 5e3, 0.0])
        )
    if kind == "cells":
        return np.arange(n)
    if kind == "names":
        return [f"n{i}" for i in range(n)]
    if kind == "noleap":
        return xr.date_range("2001-02-26", periods=n, calendar="noleap", use_cftime=True)
    if kind == "random":
        return np.array(draw(st.lists(st.floats(-400, 400), min_size=n, max_size=n)))
    if kind == "NaN":
        return np.full(n, np.nan)
    if kind == "equal":
        return np.zeros(n)
    return np.array([object() for _ in range(n)], dtype=object)


@st.composite
def attributes(draw: st.DrawFn, units: st.SearchStrategy[str]) -> dict[str, Any]:
    attrs: dict[str, Any] = {"units": draw(units)}
    for key, pool in {
        "standard_name": STANDARD, "long_name": ["rain", "precipitable water", "", "Total precipitation"],
        "axis": ["Y", "X", "T", "Q", ""], "grid_mapping": ["crs", "nothing"], "bounds": ["b"],
        "_FillValue": [-9999.0, float("nan")], "odd": [object(), {"a": np.arange(2)}, b"x", 1j],
    }.items():  # fmt: skip
        if draw(st.integers(0, 3)) == 0:
            attrs[key] = draw(st.sampled_from(pool))
    return attrs


@st.composite
def fields(draw: st.DrawFn, sizes: dict[str, int]) -> xr.Variable:
    """A variable on some of the dims, often a good one."""
    dims = draw(st.permutations(list(sizes)))[: draw(st.sampled_from([3, 3, 3, 2, 4, 1, 0]))]
    shape = [sizes[dim] for dim in dims]
    dtype = draw(st.sampled_from(DTYPES * 3 + ODD))
    values: Any = np.random.default_rng(draw(st.integers(0, 99))).gamma(0.5, 4, shape)
    if draw(st.integers(0, 4)) == 0:
        bad = draw(st.sampled_from([np.nan, np.inf, -1.0, -9999.0, 1e36]))
        values = np.where(values > 3, bad, values)
    with np.errstate(all="ignore"):
        values = np.nan_to_num(values) if np.dtype(dtype).kind not in "fcO" else values
        values = values.astype(dtype)
    return xr.Variable(dims, values, draw(attributes(st.sampled_from(UNITS))))


@st.composite
def datasets(draw: st.DrawFn) -> xr.Dataset:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    if draw(st.integers(0, 4)):
        names = list(dict.fromkeys(["time", "y", "x", *names]))
    sizes = {name: draw(st.sampled_from([1, 2, 4, 5, 6, 0])) for name in names}
    if draw(st.integers(0, 3)):
        sizes = {name: max(4, size) for name, size in sizes.items()}
    sizes = {
        name: size if name in ("time", "level") else max(1, size) for name, size in sizes.items()
    }
    coords: dict[str, Any] = {}
    for name, n in sizes.items():
        own = draw(labels(n, LABELS if name == "time" else NUMERIC))
        if own is not None:
            coords[name] = xr.Variable(name, own, draw(attributes(st.sampled_from(UNITS))))
    count = draw(st.integers(0, 4))
    pool = ["pr", "t", "rain", "pr_gcm", "time_bnds", "lat2", "crs", "Grid/pr"]
    chosen = draw(st.lists(st.sampled_from(pool), min_size=count, max_size=count, unique=True))
    ds = xr.Dataset({name: draw(fields(sizes)) for name in chosen}, coords)
    if {"time", "y", "x"} <= set(sizes) and draw(st.integers(0, 3)):
        # Most Datasets have rain, so that what comes after it is seen too.
        shape = draw(st.permutations(["time", "y", "x"]))
        values = np.random.default_rng(1).gamma(0.5, 4, [sizes[dim] for dim in shape]).astype("f4")
        ds["pr"] = xr.Variable(
            shape, values, {"units": draw(st.sampled_from(["mm/day", "kg m-2", "m s-1"]))}
        )
        number = (
            "time",
            np.arange(float(sizes["time"])),
            {"units": draw(st.sampled_from(UNITS[:8]))},
        )
        ds = ds if "t" in ds else ds.assign(t=number)
    if draw(st.booleans()) and ds.data_vars:
        numeric = [name for name, da in ds.data_vars.items() if da.dtype.kind != "O"]
        ds = ds.assign(
            {
                n: ds[n].chunk({d: draw(st.sampled_from([1, 2, -1])) for d in ds[n].dims})
                for n in numeric
            }
        )
    return ds


OPTIONS = st.fixed_dictionaries(
    {
        "target": st.sampled_from([*[None, "pr"] * 5, "rain", "nothing", "time"]),
        "conditions": st.sampled_from([*[None, ["t"]] * 4, "t", [], ["pr_gcm"], ["time"]]),
        "statics": st.sampled_from([*[None] * 8, ["lat2"], "t"]),
        "coarsen": st.sampled_from([*[None, 2, 3] * 3, 100, 0]),
        "spatial_dims": st.sampled_from(
            [*[None] * 8, ("y", "x"), ("x", "y"), ("lat", "lon"), ("y", "y")]
        ),
    }
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(datasets(), OPTIONS)
def test_any_dataset_is_read_without_change_or_refused_by_xcvae(
    ds: xr.Dataset, options: dict[str, Any]
) -> None:
    before = ds.copy(deep=True)
    attrs = {name: dict(v.attrs) for name, v in ds.variables.items()}
    try:
        facts = admit(ds, **options)
    except XcvaeError as error:
        assert len(str(error)) > 20
    else:
        spec, ready = facts["spec"], facts["ready"]
        field = ds[spec.target].transpose(spec.sample, spec.y, spec.x)
        np.testing.assert_array_equal(ready[spec.target].values, field.values)
        for variable in spec.variables:
            if variable.name == spec.derived:
                continue
            own = ds[variable.name].transpose(*ready[variable.name].dims)
            np.testing.assert_array_equal(ready[variable.name].values, own.values)
        if spec.sample in ds.coords:
            np.testing.assert_array_equal(ready[spec.sample].values, ds[spec.sample].values)
    # The Dataset of the caller is as it was.
    assert before.sizes == ds.sizes
    for name, variable in ds.variables.items():
        assert variable.attrs == attrs[name] or "odd" in attrs[name] or "_FillValue" in attrs[name]
        if variable.dtype.kind != "O":
            np.testing.assert_array_equal(variable.values, before[name].values)


PLACES = st.tuples(
    st.permutations(["time", "lat", "lon"]), st.sampled_from([1, -1]), st.sampled_from([1, -1])
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    PLACES,
    PLACES,
    st.sampled_from(["mm/day", "mm h-1", "kg m-2 s-1", "m s-1"]),
    st.sampled_from([0.0, 360.0, -360.0]),
)
def test_order_direction_units_and_turns_do_not_change_what_is_read(
    one: Any, other: Any, units: str, turn: float
) -> None:
    lat, lon = axis("lat", 45.05, 0.1, 10), axis("lon", 5.05, 0.1, 12)
    pr = rain(dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon})
    t = predictor(axis("lat_c", 44.5, 0.5, 5), axis("lon_c", 4.5, 0.5, 5))
    reference = admit(together(pr, t))
    pr = (pr * factor("mm/day", units, what="pr")).assign_attrs(units=units)
    changed = pr.isel(lat=slice(None, None, one[1]), lon=slice(None, None, one[2])).transpose(
        *one[0]
    )
    moved = t.isel(lat_c=slice(None, None, other[1]), lon_c=slice(None, None, other[2]))
    moved = moved.assign_coords(lon_c=moved.lon_c + turn).transpose(
        *(d if d == "time" else f"{d}_c" for d in other[0])
    )
    facts = admit(together(changed, moved))
    assert facts["dims"] == reference["dims"]
    assert facts["roles"] == reference["roles"]
    np.testing.assert_allclose(facts["wet"], reference["wet"] * factor("mm/day", units, what="pr"))
    found = seen(facts, "t")[:, :: one[1], :: one[2]]
    np.testing.assert_allclose(found, seen(reference, "t"), rtol=1e-6)
