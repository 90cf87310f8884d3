"""Describe a Dataset for a model: what is the target, what else is there, and on which grids."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from xcvae.errors import ConfigError, DataError, UnitsError, explain
from xcvae.fields.axes import covers, in_frame_of, share_outside
from xcvae.fields.cf import Layout, find_axes, find_layout, find_target, is_rain, require
from xcvae.fields.dataspec import DataSpec, VariableSpec, plain
from xcvae.fields.grids import axis_in
from xcvae.fields.prepare import prepare
from xcvae.fields.units import (
    default_drizzle_threshold,
    default_wet_threshold,
    is_daily,
    is_precipitation,
    units_of,
)
from xcvae.fields.validation import check_dataset, check_numeric, check_same_samples, check_samples

__all__ = ["DataSpec", "VariableSpec", "describe", "prepare"]


def describe(
    ds: xr.Dataset,
    *,
    target: str | None = None,
    conditions: Sequence[str] | str | None = None,
    statics: Sequence[str] | str | None = None,
    coarsen: int | None = None,
    spatial_dims: Sequence[str] | None = None,
) -> DataSpec:
    """Find out what is what in a Dataset. Reads coordinates, no values.

    Parameters
    ----------
    ds : xarray.Dataset
        The target with dims (sample, y, x) in any order, conditions with the sample dim on grids
        of their own or without one, and statics on the target's grid. All with ``units``.
    target : str, optional
        Name of the rain variable. None takes the only one on the finest grid.
    conditions : list of str, optional
        None takes all other data variables that have the sample dim and units, but none if
        ``coarsen`` is given.
    statics : list of str, optional
        Maps on the target's grid, with or without the sample dim.
    coarsen : int, optional
        Derive a condition, ``<target>_coarse``, by means over blocks of so many pixels.
    spatial_dims : (str, str), optional
        Names of the target's (y, x) dims, where attributes and names do not tell.

    Raises
    ------
    MissingVariableError
        A name is not in the Dataset.
    UnitsError
        A variable has no units or unknown ones, or the target's are not of rain.
    DataError
        Dims, labels or types that do not fit.
    EmptySelectionError
        There are no samples.
    ConfigError
        There is no condition, or a variable is given twice.
    """
    check_dataset(ds)
    name = find_target(ds, target, spatial_dims=spatial_dims)
    field = ds[name]
    check_numeric(field)
    units = units_of(field)
    _check_rain_units(name, units)
    layout = find_layout(field, spatial_dims=spatial_dims)
    check_samples(ds, layout.sample, augmented=True)
    shape = (field.sizes[layout.y], field.sizes[layout.x])
    _check_coarsen(coarsen, shape)
    named, maps = _names(
        ds,
        name,
        sample=layout.sample,
        conditions=conditions,
        statics=statics,
        coarsen=coarsen,
    )
    variables = [_condition(ds, condition, layout, target=name) for condition in named]
    if coarsen is not None:
        variables.append(_derived(field, layout, coarsen, variables))
    variables += [_static(ds, static, layout) for static in maps]
    dims = dict.fromkeys([layout.y, layout.x, *(d for v in variables for d in v.dims)])
    coordinates = {d: ds[d].values.tolist() if d in ds.coords else None for d in dims}
    if coarsen is not None:
        # These come and go with the target's: they are not the Dataset's, even if it has some.
        coordinates |= dict.fromkeys((f"{layout.y}_coarse", f"{layout.x}_coarse"))
    return DataSpec(
        target=name,
        units=units,
        attrs=plain(field.attrs),
        sample=layout.sample,
        y=layout.y,
        x=layout.x,
        shape=shape,
        coordinates=coordinates,
        variables=tuple(variables),
        coarsen=coarsen,
        wet_threshold=default_wet_threshold(field, layout.sample),
        drizzle_threshold=default_drizzle_threshold(field, layout.sample),
        daily=is_daily(field, layout.sample),
        coordinate_attrs={d: plain(ds[d].attrs) for d, v in coordinates.items() if v is not None},
    )


def _check_rain_units(name: str, units: str) -> None:
    if not is_precipitation(units):
        raise UnitsError(
            explain(
                name,
                expected="units of precipitation, such as 'mm h-1', 'mm/day' or 'kg m-2 s-1'",
                got=repr(units),
                remedy=f"Name the rain variable as the target, or correct "
                f"ds[{name!r}].attrs['units'].",
            )
        )


def _check_coarsen(coarsen: int | None, shape: tuple[int, int]) -> None:
    if coarsen is None:
        return
    # A caller's YAML may hold anything.
    if type(coarsen) is not int or not 2 <= coarsen <= max(shape):
        raise ConfigError(
            explain(
                "coarsen",
                expected=f"a whole number of pixels from 2 to {max(shape)}",
                got=repr(coarsen),
                remedy="Give the width of the blocks, in pixels of the target.",
            )
        )


def _names(
    ds: xr.Dataset,
    target: str,
    *,
    sample: str,
    conditions: Sequence[str] | str | None,
    statics: Sequence[str] | str | None,
    coarsen: int | None,
) -> tuple[list[str], list[str]]:
    """Names of conditions and statics, each once and none the target."""
    maps = [statics] if isinstance(statics, str) else list(statics or ())
    if isinstance(conditions, str):
        named = [conditions]
    elif conditions is not None:
        named = list(conditions)
    elif coarsen is not None:
        named = []
    else:
        named = [
            str(key)
            for key, da in ds.data_vars.items()
            if sample in da.dims and da.attrs.get("units") and str(key) not in maps
        ]
        named.remove(target)
    taken = [target, *named, *maps] + ([f"{target}_coarse"] if coarsen is not None else [])
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise ConfigError(
            explain(
                "conditions and statics",
                expected=f"other variables than the target {target!r}, each once",
                got=f"{', '.join(twice)} more than once",
                remedy="Leave out the repeated name, or coarsen, which makes a condition itself.",
            )
        )
    if not named and coarsen is None:
        raise ConfigError(
            explain(
                "conditions",
                expected="at least one variable",
                got="none",
                remedy="Name variables of the Dataset that have units, or give coarsen=12 to "
                "derive one from the target.",
            )
        )
    return named, maps


def _condition(ds: xr.Dataset, name: str, layout: Layout, *, target: str) -> VariableSpec:
    da = require(ds, name, what="conditions")
    check_numeric(da)
    check_same_samples(ds, name, layout.sample)
    dims, aligned, pooled = _place(ds, da, layout)
    units = units_of(da)
    # Named after the target (field_coarse of field), it is rain whatever the target is called.
    namesake = name.startswith(f"{target}_") and is_precipitation(units)
    return VariableSpec(
        name=name,
        units=units,
        dims=dims,
        shape=tuple(da.sizes[dim] for dim in dims),
        role="condition",
        aligned=aligned,
        pooled=pooled,
        precipitation=namesake or is_rain(da),
        sampled=True,
    )


def _static(ds: xr.Dataset, name: str, layout: Layout) -> VariableSpec:
    da = require(ds, name, what="statics")
    check_numeric(da)
    spatial = {str(dim) for dim in da.dims} - {layout.sample}
    if spatial != {layout.y, layout.x}:
        raise DataError(
            explain(
                name,
                expected=f"a static on the target's grid, dims ({layout.y}, {layout.x})",
                got=f"dims ({', '.join(map(str, da.dims))})",
                remedy="Interpolate it to the target's grid, or give it as a condition.",
            )
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


def _place(ds: xr.Dataset, da: xr.DataArray, layout: Layout) -> tuple[tuple[str, ...], bool, bool]:
    """Say where a condition is: (its y and x dims, aligned, pooled)."""
    others = {str(dim) for dim in da.dims} - {layout.sample}
    if not others:
        return (), False, True
    if others == {layout.y, layout.x}:
        return (layout.y, layout.x), True, False
    if len(others) != 2:
        raise DataError(
            explain(
                str(da.name),
                expected=f"a map or a number per sample, dims ({layout.sample}, y, x) or "
                f"({layout.sample})",
                got=f"dims ({', '.join(map(str, da.dims))})",
                remedy="Give every level, or every number, a variable of its own.",
            )
        )
    dims = find_axes(da, sample=layout.sample)
    sources, targets = [], []
    for own, fine in zip(dims, (layout.y, layout.x), strict=True):
        source, target = axis_in(ds, own), axis_in(ds, fine)
        if source.counted:
            continue  # edge to edge
        values = in_frame_of(source, target)
        if values is None or target.values is None or not covers(values, target.values):
            return dims, False, True
        sources.append(values)
        targets.append(target.values)
    # Mostly elsewhere: what happens outside the target's box counts too.
    wide = bool(sources) and share_outside(sources, targets) > 0.5
    return dims, True, wide


def _derived(
    field: xr.DataArray, layout: Layout, coarsen: int, conditions: Sequence[VariableSpec]
) -> VariableSpec:
    """Describe the condition that `prepare` makes by block means."""
    dims = (f"{layout.y}_coarse", f"{layout.x}_coarse")
    taken = [variable.name for variable in conditions if set(variable.dims) & set(dims)]
    if taken:
        raise ConfigError(
            explain(
                "coarsen",
                expected=f"dims {dims[0]} and {dims[1]} to be free for the derived condition",
                got=f"them in {', '.join(taken)}",
                remedy="Rename the dims of these conditions, or leave coarsen out.",
            )
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
