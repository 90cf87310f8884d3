"""Describe a Dataset for a model, and bring another Dataset into the form that was described."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import ConfigError, DataError, MismatchError, UnitsError, nearest, warn_user
from xcvae.fields.axes import pixel_km, wrapped
from xcvae.fields.cf import (
    Layout,
    check_name,
    curvilinear_km,
    describes_data,
    find_layout,
    find_target,
    is_rain,
    names_of,
    require,
)
from xcvae.fields.dataspec import DataSpec, Scales, VariableSpec, plain
from xcvae.fields.grids import axis_in, check_match, fine_coords, grid_size, refuse_text
from xcvae.fields.regridding.place import check_projection, find_place
from xcvae.fields.regridding.projections import grid_mapping
from xcvae.fields.regridding.regrid import regridded
from xcvae.fields.samples import check_same_samples, check_samples, warn_of_moments
from xcvae.fields.units import (
    default_drizzle_threshold,
    default_wet_threshold,
    exponents_of,
    is_daily,
    is_precipitation,
    per,
    step_of,
    to_units,
    units_of,
    with_duration,
)
from xcvae.fields.validation import (
    check_dataset,
    check_numeric,
    missing_samples,
    refuse_packed,
)


def describe(
    ds: xr.Dataset,
    *,
    target: str | None = None,
    conditions: Sequence[str] | str | None = None,
    statics: Sequence[str] | str | None = None,
    coarsen: int | Mapping[str, Sequence[float]] | None = None,
    spatial_dims: Sequence[str] | None = None,
    missing: str | None = None,
) -> DataSpec:
    """Find target, conditions, statics and grids of a Dataset. Reads coordinates, few values.

    Parameters
    ----------
    ds
        The target with dims (sample, y, x) in any order, conditions with the sample dim on grids
        of their own or without one, and statics on the target's grid. All with ``units``.
    target
        Name of the rain variable. None takes the only one on the finest grid.
    conditions
        None takes all other data variables that have the sample dim and units, but none if
        ``coarsen`` is given.
    statics
        Maps on the target's grid, with or without the sample dim.
    coarsen
        Derive a condition, ``<target>_coarse``, by means over blocks of so many pixels. A mapping
        has ranges: ``factor`` in pixels, and ``pixel``, the side of a pixel in km.
    spatial_dims
        Names of the target's (y, x) dims, if attributes and names do not identify them.
    missing
        ``"mask"``: conditions and statics may have missing values; all of them are read to find
        those that do. None refuses missing values, later.

    Raises
    ------
    MissingVariableError
        A name is not in the Dataset.
    UnitsError
        A variable has no units or unknown ones, or the target's are not of rain.
    DataError
        Dims, labels or types that do not fit.
    EmptySelectionError
        The Dataset has no samples.
    ConfigError
        No condition is left, or a variable is given twice.
    """
    check_dataset(ds)
    name = find_target(ds, target, spatial_dims=spatial_dims)
    field = ds[name]
    check_numeric(field)
    refuse_packed(field)
    units = units_of(field)
    _check_rain_units(name, units)
    layout = find_layout(field, spatial_dims=spatial_dims)
    refuse_text(ds, layout.y, layout.x)
    for each in (name, layout.sample, layout.y, layout.x):
        check_name(each, what=f"target {name!r}")
    check_samples(ds, layout.sample, augmented=True)
    shape = (field.sizes[layout.y], field.sizes[layout.x])
    filled = _check_missing(missing)
    scales, block = _scales(ds[name], coarsen, layout)
    named, maps = _names(ds, name, layout.sample, block, conditions=conditions, statics=statics)
    _check_alone(scales, [*named, *maps])
    variables = [_condition(ds, condition, layout, target=name) for condition in named]
    if block is not None:
        variables.append(_derived(field, layout, block, variables))
    variables += [_static(ds, static, layout) for static in maps]
    if filled:
        variables = [_with_gaps(ds, v, layout.sample) for v in variables]
    return DataSpec(
        target=name,
        units=units,
        attrs=plain(field.attrs),
        sample=layout.sample,
        y=layout.y,
        x=layout.x,
        shape=shape,
        variables=tuple(variables),
        coarsen=block if scales is None else None,
        scales=scales,
        missing=filled,
        mapping=plain(grid_mapping(ds, field)) if any(v.regrid for v in variables) else {},
        **_coordinates(ds, layout, variables, block),
        **_thresholds(ds, field, layout, variables),
    )


def _thresholds(
    ds: xr.Dataset, field: xr.DataArray, layout: Layout, variables: Sequence[VariableSpec]
) -> dict[str, Any]:
    """Return thresholds and step of the record, by their names in `DataSpec`."""
    sample = layout.sample
    observed = with_duration(ds, _observed(field, layout), sample)
    if is_daily(observed, sample):
        names = [v.name for v in variables if v.name in ds]
        warn_of_moments(ds, str(field.name), names, layout)
    return {
        "wet_threshold": default_wet_threshold(observed, sample),
        "drizzle_threshold": default_drizzle_threshold(observed, sample),
        "daily": is_daily(observed, sample),
        "step_seconds": step_of(observed, sample),
    }


#: Samples of lazy data that are searched for valid pixels before all are read.
FIRST = 8


def _observed(field: xr.DataArray, layout: Layout) -> xr.DataArray:
    """Return the samples with a valid pixel, of which the step is that of the rain.

    An outer merge of daily rain with 6-hourly predictors has three empty samples of four. Of lazy
    data some samples are read where the step matters, and all only if some of these are empty.
    """
    if field.dtype.kind != "f" or not all(field.shape):
        return field
    if not field.variable._in_memory:
        if is_daily(field, layout.sample) or per(units_of(field), "hour"):
            return field
        first = field.isel({layout.sample: slice(FIRST)})
        # Empty samples elsewhere change nothing, if these have the shortest step already.
        shortest = step_of(first, layout.sample) == step_of(field, layout.sample)
        if shortest and _valid(first, layout).all():
            return field
    valid = _valid(field, layout)
    count = int((~valid).sum())
    if count in (0, valid.size):
        return field  # a target without any observation is the name of what is drawn
    warn_user(
        f"{field.name}: {count} of {valid.size} samples have no valid pixel, as after an outer "
        f"merge; the step is that of the others. Drop them: "
        f"ds.dropna({layout.sample!r}, how='all', subset=[{str(field.name)!r}]).",
    )
    return field.isel({layout.sample: np.flatnonzero(valid)})


def _valid(field: xr.DataArray, layout: Layout) -> NDArray[np.bool_]:
    """Return for each sample if it has a valid pixel; most show one among a few pixels."""
    few = {dim: slice(None, None, max(1, field.sizes[dim] // 4)) for dim in (layout.y, layout.x)}
    found: NDArray[np.bool_] = field.isel(few).notnull().any((layout.y, layout.x)).values
    rest = np.flatnonzero(~found)
    if rest.size:
        found[rest] = field.isel({layout.sample: rest}).notnull().any((layout.y, layout.x)).values
    return found


def _coordinates(
    ds: xr.Dataset, layout: Layout, variables: Sequence[VariableSpec], coarsen: int | None
) -> dict[str, Any]:
    """Return coordinates of the grids of target and conditions, and their attributes, by dim."""
    dims = dict.fromkeys([layout.y, layout.x, *(d for v in variables for d in v.dims)])
    found = {d: ds[d].values.tolist() if d in ds.coords else None for d in dims}
    if coarsen is not None:
        # They are derived from the coordinates of the target, even if the Dataset has others.
        found |= dict.fromkeys((f"{layout.y}_coarse", f"{layout.x}_coarse"))
    attrs = {d: plain(ds[d].attrs) for d, values in found.items() if values is not None}
    return {"coordinates": found, "coordinate_attrs": attrs}


def _check_rain_units(name: str, units: str) -> None:
    if not is_precipitation(units):
        raise UnitsError.of(
            name,
            expected="units of precipitation, such as 'mm h-1', 'mm/day' or 'kg m-2 s-1'",
            got=repr(units),
            remedy=f"Name the rain variable as the target, or correct ds[{name!r}].attrs['units'].",
        )


def _scales(
    target: xr.DataArray, coarsen: int | Mapping[str, Sequence[float]] | None, layout: Layout
) -> tuple[Scales | None, int | None]:
    """Return the scales that a mapping asks for, and the (smallest) side of a block."""
    shape = (target.sizes[layout.y], target.sizes[layout.x])
    if not isinstance(coarsen, Mapping):
        _check_coarsen(coarsen, shape)
        return None, coarsen
    for key in coarsen:
        if key not in ("factor", "pixel"):
            raise ConfigError(f"coarsen: unknown key '{key}'. {nearest(key, ('factor', 'pixel'))}")
    axes = (axis_in(target.to_dataset(name="target"), dim) for dim in (layout.y, layout.x))
    spacing = pixel_km(*axes) or curvilinear_km(target, layout.y, layout.x)
    if spacing is None:
        raise ConfigError.of(
            "coarsen",
            expected="coordinates in km or degrees, which give the size of a pixel",
            got=f"none that can be measured along {layout.y!r} and {layout.x!r}",
            remedy="Assign coordinates with units: ds.assign_coords("
            f"{layout.y}=({layout.y!r}, values, {{'units': 'km'}})), or give a number of pixels.",
        )
    low, high = _range("factor", coarsen.get("factor", (2, 16)), 2)
    ends = _range("pixel", coarsen.get("pixel", (spacing, spacing)), 1e-3)
    scales = Scales((round(low), round(high)), ends, spacing)
    least, most = scales.multiples()
    scales = replace(scales, pixel=(least * spacing, most * spacing))
    whole = low.is_integer() and high.is_integer()
    if not whole or not scales.pairs(shape):
        raise ConfigError.of(
            "coarsen",
            expected="whole factors, and grids of two blocks or more along each side",
            got=f"factors from {low:g} to {high:g} on {shape[0]} x {shape[1]} pixels",
            remedy="Give smaller factors and pixels, such as {'factor': [2, 8], 'pixel': [1, 2]}.",
        )
    return scales, scales.factor[0]


def _range(key: str, ends: Any, least: float) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not least <= low <= high < math.inf:
        raise ConfigError.of(
            f"coarsen.{key}",
            expected=f"the smallest and the largest value, from {least:g}",
            got=repr(ends),
            remedy="For example {'factor': [2, 16], 'pixel': [1, 8]}; pixels in km.",
        )
    return low, high


def _check_alone(scales: Scales | None, names: Sequence[str]) -> None:
    if scales is not None and names:
        raise ConfigError.of(
            "coarsen",
            expected="no other conditions or statics, which have one resolution",
            got=", ".join(names),
            remedy="Leave them out, or give one factor, coarsen=8.",
        )


def _check_texts(ds: xr.Dataset, names: Sequence[str]) -> None:
    """Refuse variables whose names are numbers, which no file could hold."""
    for name in names:
        if name not in ds.variables:
            raise DataError.of(
                f"variable {name}",
                expected="a text as its name",
                got="another object of that name",
                remedy="Rename it: ds.rename({1: 'name'}).",
            )


def _check_coarsen(coarsen: int | None, shape: tuple[int, int]) -> None:
    if coarsen is None:
        return
    # The value may come from YAML, with any type.
    if type(coarsen) is not int or not 2 <= coarsen <= max(shape):
        raise ConfigError.of(
            "coarsen",
            expected=f"a whole number of pixels from 2 to {max(shape)}",
            got=repr(coarsen),
            remedy="Give the width of the blocks, in pixels of the target.",
        )


def _names(
    ds: xr.Dataset,
    target: str,
    sample: str,
    coarsen: int | None,
    *,
    conditions: Sequence[str] | str | None,
    statics: Sequence[str] | str | None,
) -> tuple[list[str], list[str]]:
    """Return the names of conditions and statics, each once and without the target."""
    maps = names_of("statics", statics)
    if conditions is not None:
        named = names_of("conditions", conditions)
    elif coarsen is not None:
        named = []
    else:
        named = [
            str(key)
            for key, da in ds.data_vars.items()
            if sample in da.dims and da.attrs.get("units") and str(key) not in maps
        ]
        _check_texts(ds, named)
        named.remove(target)
        named = [key for key in named if not _is_leak(ds[key], ds[target], sample)]
    taken = [target, *named, *maps] + ([f"{target}_coarse"] if coarsen is not None else [])
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise ConfigError.of(
            "conditions and statics",
            expected=f"other variables than the target {target!r}, each once",
            got=f"{', '.join(twice)} more than once",
            remedy="Leave out the repeated name, or coarsen, which makes a condition itself.",
        )
    if not named and coarsen is None:
        raise ConfigError.of(
            "conditions",
            expected="at least one variable",
            got="none",
            remedy="Name variables of the Dataset that have units, or give coarsen=12 to "
            "derive one from the target.",
        )
    return named, maps


#: Correlation with the target from which a field is a copy of it, in other units or scaled.
COPY = 0.999
#: Samples in which copies are looked for.
COMPARED = 4


def _is_leak(da: xr.DataArray, field: xr.DataArray, sample: str) -> bool:
    """Return True, with a warning, for what is made of the target: it is known with it only.

    Errors, counts and quality of a product lie on its own grid, and so do copies in other units.
    """
    if set(da.dims) != set(field.dims) or da.dtype.kind not in "biuf":
        return False
    reason = "it describes the observation" if describes_data(da) else ""
    if not reason and da.dtype.kind != "b" and _is_copy(da, field, sample):
        reason = f"it is {field.name!r} in another scale"
    name = str(da.name)
    if not reason and is_rain(da):
        warn_user(
            f"{name}: rain on the grid of the target {field.name!r}, taken as a condition. If it "
            "is of the same observation, the model learns to copy it: name the conditions then.",
        )
    if reason:
        warn_user(
            f"{name}: not taken as a condition, for {reason}. Name the conditions, "
            f"conditions=[{name!r}, ...], to take it nevertheless.",
        )
    return bool(reason)


def _is_copy(da: xr.DataArray, field: xr.DataArray, sample: str) -> bool:
    """Return True for a multiple of rain, or a linear function of its logarithm (reflectivity)."""
    some = {sample: slice(COMPARED)}
    one = np.asarray(da.transpose(*field.dims).isel(some).values, np.float64)
    rain = np.asarray(field.isel(some).values, np.float64)
    wet = np.isfinite(one) & np.isfinite(rain) & (rain > 0)
    one, rain = one[wet], rain[wet]
    if one.size < 3 or not (np.ptp(one) > 0 and np.ptp(rain) > 0):
        return False
    multiple = np.median(one / rain)
    # Copies of rain have its units, or none.
    scaled = is_precipitation(units_of(da)) or exponents_of(units_of(da)) == (0.0, 0.0, 0.0)
    if scaled and np.abs(one - multiple * rain).max() <= (1.0 - COPY) * np.abs(one).max():
        return True
    return bool(abs(np.corrcoef(one, np.log(rain))[0, 1]) > COPY)


def _condition(ds: xr.Dataset, name: str, layout: Layout, *, target: str) -> VariableSpec:
    da = require(ds, name, what="conditions")
    check_numeric(da)
    check_same_samples(ds, name, layout.sample)
    refuse_text(ds, *(str(dim) for dim in da.dims if dim != layout.sample))
    place = find_place(ds, da, ds[target], layout)
    units = units_of(da)
    # Named after the target (field_coarse of field), it is rain whatever the target is called.
    namesake = name.startswith(f"{target}_") and is_precipitation(units)
    rain = namesake or is_rain(da)
    projected = grid_mapping(ds, da) and grid_mapping(ds, ds[target])
    if place.reason and not place.aligned and (projected or rain):
        warn_user(
            f"{name}: {place.reason}. It is pooled, as a map that is not seen pixel by pixel, and "
            "ties the model to its domain. Cut the target to the area that it covers, or "
            "interpolate it to a grid that can be compared with the target's.",
        )
    return VariableSpec(
        name=name,
        units=units,
        dims=place.dims,
        shape=tuple(da.sizes[dim] for dim in place.dims),
        role="condition",
        aligned=place.aligned,
        pooled=place.pooled,
        precipitation=rain,
        sampled=True,
        regrid=place.regrid,
        side=place.side,
        reason=place.reason,
    )


def _static(ds: xr.Dataset, name: str, layout: Layout) -> VariableSpec:
    da = require(ds, name, what="statics")
    check_numeric(da)
    spatial = {str(dim) for dim in da.dims} - {layout.sample}
    if spatial != {layout.y, layout.x}:
        raise DataError.of(
            name,
            expected=f"a static on the target's grid, dims ({layout.y}, {layout.x})",
            got=f"dims ({', '.join(map(str, da.dims))})",
            remedy="Interpolate it to the target's grid, or give it as a condition.",
        )
    return VariableSpec(
        name=name,
        units=units_of(da),
        dims=(layout.y, layout.x),
        shape=(da.sizes[layout.y], da.sizes[layout.x]),
        role="static",
        aligned=True,
        pooled=False,
        precipitation=is_rain(da),
        sampled=layout.sample in da.dims,
    )


def _check_missing(missing: str | None) -> Literal["mask"] | None:
    if missing is None or missing == "mask":
        return missing  # type: ignore[return-value]  # narrowed by the comparison
    raise ConfigError.of(
        "missing",
        expected="'mask', or None to refuse missing values of conditions and statics",
        got=repr(missing),
        remedy="missing='mask' fills them and gives the network a mask of what is known.",
    )


def _with_gaps(ds: xr.Dataset, variable: VariableSpec, sample: str) -> VariableSpec:
    """Mark a condition or static with missing values; warn of samples that have none at all."""
    if variable.name not in ds.variables:
        return variable  # derived from the target, without gaps
    samples, gaps = missing_samples(ds[variable.name], sample)
    if samples and variable.shape:
        warn_user(
            f"{variable.name}: {samples} of {ds.sizes[sample]} samples have no value at all, as "
            "after an outer merge. The network learns what to draw without it.",
        )
    return replace(variable, gaps=gaps)


def _derived(
    field: xr.DataArray, layout: Layout, coarsen: int, conditions: Sequence[VariableSpec]
) -> VariableSpec:
    """Describe the condition that `prepare` makes by block means."""
    dims = (f"{layout.y}_coarse", f"{layout.x}_coarse")
    taken = [variable.name for variable in conditions if set(variable.dims) & set(dims)]
    if taken:
        raise ConfigError.of(
            "coarsen",
            expected=f"dims {dims[0]} and {dims[1]} to be free for the derived condition",
            got=f"them in {', '.join(taken)}",
            remedy="Rename the dims of these conditions, or leave coarsen out.",
        )
    return VariableSpec(
        name=f"{field.name}_coarse",
        units=units_of(field),
        dims=dims,
        shape=(-(-field.sizes[layout.y] // coarsen), -(-field.sizes[layout.x] // coarsen)),
        role="condition",
        aligned=True,
        pooled=False,
        precipitation=True,
        sampled=True,
    )


def prepare(
    ds: xr.Dataset, spec: DataSpec, *, need_target: bool, augmented: bool = False
) -> xr.Dataset:
    """Check a Dataset against a spec and bring it into its form. Lazy where ``ds`` is.

    Parameters
    ----------
    ds
        Has the variables of ``spec``. The condition that ``coarsen`` derives is made from the
        target; without a target, it is taken from ``ds``.
    spec
        From `xcvae.fields.describe.describe`, usually by way of a model.
    need_target
        The target is required. Otherwise it is used if it exists.
    augmented
        Samples may share a label, as in the result of `xcvae.augment`.

    Returns
    -------
    xarray.Dataset
        Target (sample, y, x), conditions (sample, their y, their x) or (sample,), statics (y, x)
        or (sample, y, x), each in the units of ``spec``. An aligned condition has coordinates,
        in the units of the target's, where it is to be stretched by them; it has none where it
        is laid on the target edge to edge.

    Raises
    ------
    MismatchError
        The Dataset does not belong to ``spec``: variables, dims, grid or units.
    UnitsError
        A variable has no units, or unknown ones.
    DataError, EmptySelectionError
        Samples are unsorted, repeated or missing.
    """
    check_dataset(ds)
    check_match(ds, spec, need_target=need_target)
    check_samples(ds, spec.sample, augmented=augmented)
    fields: dict[str, xr.DataArray] = {}
    ds = _as_variables(ds, spec)
    if spec.target in ds.variables:
        fields[spec.target] = _field(ds, spec.target, spec.units, (spec.sample, spec.y, spec.x))
    derive = spec.target in fields and spec.coarsen is not None
    fine = _fine_grid(ds, spec)
    for variable in spec.variables:
        if spec.target in fields and variable.name == spec.derived:
            continue
        dims = (spec.sample, *variable.dims) if variable.sampled else variable.dims
        one = _field(ds, variable.name, variable.units, dims)
        if variable.regrid:
            one = regridded(ds, one, variable, spec, fine)
        fields[variable.name] = one
    prepared = xr.Dataset(fields, attrs=ds.attrs)
    if spec.target not in fields:
        prepared = prepared.assign_coords(fine_coords(ds, spec))
    for variable in spec.variables:
        if variable.stretched and variable.name in ds and spec.target in ds:
            check_projection(ds, ds[variable.name], ds[spec.target])
    given = [v for v in spec.variables if v.name in fields and v.stretched]
    prepared = _in_frame(prepared, spec, given)
    return _with_block_means(prepared, spec) if derive else prepared


def _fine_grid(ds: xr.Dataset, spec: DataSpec) -> xr.DataArray:
    """Return a field on the target's grid, for its coordinates: the target, or an empty one."""
    if spec.target in ds.variables:
        return ds[spec.target]
    dims, shape = (spec.y, spec.x), (ds.sizes[spec.sample], *grid_size(ds, spec))
    known = {name: c for name, c in ds.coords.items() if set(dims) <= set(c.dims)}
    empty = xr.DataArray(np.broadcast_to(False, shape), dims=(spec.sample, *dims), name=spec.target)
    return empty.assign_coords(fine_coords(ds, spec) | known)


def _as_variables(ds: xr.Dataset, spec: DataSpec) -> xr.Dataset:
    """Make coordinates that the model uses (an index along time) variables like all others."""
    used = [spec.target, *(variable.name for variable in spec.variables)]
    return ds.reset_coords([name for name in used if name in ds.coords and name not in ds.dims])


def _field(ds: xr.Dataset, name: str, units: str, dims: tuple[str, ...]) -> xr.DataArray:
    da = ds[name]
    check_numeric(da)
    units_of(da)
    try:
        da = to_units(da, units)
    except UnitsError as error:
        raise MismatchError(f"The Dataset does not belong to the model. {error}") from error
    return da.transpose(*dims)


def _in_frame(prepared: xr.Dataset, spec: DataSpec, conditions: list[VariableSpec]) -> xr.Dataset:
    """Give the grids of aligned conditions the target's units, or no coordinates."""
    pairs = {
        own: fine
        for variable in conditions
        for own, fine in zip(variable.dims, (spec.y, spec.x), strict=True)
        if own not in (spec.y, spec.x) and own in prepared.coords
    }
    for own, fine in pairs.items():
        values, order = wrapped(axis_in(prepared, own), axis_in(prepared, fine))
        if values is None:
            prepared = prepared.drop_vars(own)
            continue
        prepared = prepared if order is None else prepared.isel({own: order})
        attrs = {k: v for k, v in prepared[own].attrs.items() if k != "units"}
        attrs |= {k: v for k, v in prepared[fine].attrs.items() if k == "units"}
        prepared = prepared.assign_coords({own: (own, values, attrs)})
    return prepared


def _with_block_means(prepared: xr.Dataset, spec: DataSpec) -> xr.Dataset:
    """Derive the coarse condition from the target: NaN-skipping means over blocks of pixels.

    A partial block at an odd edge averages what it has, and so does its coordinate. A block
    without any valid pixel (sea) gets the mean of the sample's other blocks, a sample without
    any gets zero: a condition has no gaps, and these pixels are masked in the target.
    """
    assert spec.coarsen is not None
    assert spec.derived is not None
    counted = {
        dim: np.arange(prepared.sizes[dim])
        for dim in (spec.y, spec.x)
        # Laid edge to edge, a partial block would count as a whole one.
        if dim not in prepared.coords and prepared.sizes[dim] % spec.coarsen
    }
    prepared = prepared.assign_coords(counted)
    target = prepared[spec.target]
    # The labels of samples are those of the Dataset; stacked ones can only go as a whole.
    other = [name for name in target.coords if name not in (spec.y, spec.x)]
    target = target.drop_vars(other).astype(np.result_type(target.dtype, np.float32), copy=False)
    blocks = target.coarsen({spec.y: spec.coarsen, spec.x: spec.coarsen}, boundary="pad")
    count = blocks.count()
    coarse = blocks.sum() / count.where(count > 0)
    coarse = coarse.fillna(coarse.mean((spec.y, spec.x))).fillna(0.0).astype(target.dtype)
    coarse = coarse.rename({dim: f"{dim}_coarse" for dim in (spec.y, spec.x)})
    attrs = {key: target.attrs[key] for key in ("standard_name", "units") if key in target.attrs}
    text = f"means of {spec.target} over blocks of {spec.coarsen} x {spec.coarsen} pixels"
    return prepared.assign({spec.derived: coarse.assign_attrs(attrs, long_name=text)})
