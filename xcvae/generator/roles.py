"""Names of variables and dims as roles: a description of data renamed, by hand or by roles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError, DataError, MissingVariableError, nearest
from xcvae.fields.axes import pixel_km
from xcvae.fields.cf import find_axes, find_layout, find_target, is_rain
from xcvae.fields.dataspec import DataSpec, VariableSpec, plain
from xcvae.fields.grids import axis_in, pixel_size


def renamed(spec: DataSpec, names: Mapping[str, str]) -> DataSpec:
    """Return a description of the same data under other names.

    Parameters
    ----------
    spec
        What a model knows about its data.
    names
        New names of variables and dims, by old name. The condition that ``coarsen`` derives is
        named after the target; under a name of its own, it is a variable of the data.

    Raises
    ------
    ConfigError
        An old name is unknown, or two variables or dims get the same name.
    """
    variables = {spec.target, *(v.name for v in spec.variables)}
    dims = {spec.sample, *spec.coordinates}
    for name in names:
        if name not in variables | dims:
            raise ConfigError(f"rename: unknown name '{name}'. {nearest(name, variables | dims)}")
    given, coarsen = dict(names), spec.coarsen
    derived, named = spec.derived, f"{names.get(spec.target, spec.target)}_coarse"
    if derived is not None and names.get(derived, named) != named:
        coarsen = None
    elif derived is not None:
        for name in (spec.target, spec.y, spec.x):
            given.setdefault(f"{name}_coarse", f"{given.get(name, name)}_coarse")
    for kind in (variables, dims):
        _check_unique(kind, given)

    def new(name: str) -> str:
        return given.get(name, name)

    return replace(
        spec,
        target=new(spec.target),
        sample=new(spec.sample),
        y=new(spec.y),
        x=new(spec.x),
        coordinates={new(dim): values for dim, values in spec.coordinates.items()},
        coordinate_attrs={new(dim): attrs for dim, attrs in spec.coordinate_attrs.items()},
        variables=tuple(
            replace(v, name=new(v.name), dims=tuple(map(new, v.dims))) for v in spec.variables
        ),
        coarsen=coarsen,
    )


def _check_unique(old: set[str], names: Mapping[str, str]) -> None:
    new = [names.get(name, name) for name in sorted(old)]
    twice = sorted({name for name in new if new.count(name) > 1})
    if twice:
        raise ConfigError.of(
            "rename",
            expected="a different name for each",
            got=f"{', '.join(twice)} more than once",
            remedy="Rename both, or neither.",
        )


def names_in(ds: xr.Dataset, spec: DataSpec) -> dict[str, str]:
    """Find the variables and dims of a Dataset that have the roles of a model's.

    The target is the rain on the finest grid, its dims are found by CF attributes and conventional
    names, and the rain condition is coarser rain. Other variables keep their names.

    Parameters
    ----------
    ds
        Data of any origin.
    spec
        What the model knows about its data.

    Returns
    -------
    dict
        Names in the Dataset by those of the model, where they differ; empty if the Dataset has the
        model's names, or no rain that could be meant.
    """
    rain = [str(name) for name, da in ds.data_vars.items() if is_rain(da, by_rate=True)]
    condition = spec.rain_condition
    target: str | None = spec.target
    if target not in ds.variables:
        target = _target_in(ds, spec, rain)
    found: dict[str, str] = {}
    if target is not None:
        found |= _dims_of(ds[target], spec)
        found[spec.target] = target
    derived = condition is not None and condition.name == spec.derived and target is not None
    if condition is not None and not derived:
        found |= _condition_in(ds, condition, spec, [name for name in rain if name != target])
    return {old: new for old, new in found.items() if old != new}


def _target_in(ds: xr.Dataset, spec: DataSpec, rain: list[str]) -> str | None:
    """Return the rain that has the role of the target; None for data with conditions only."""
    condition = spec.rain_condition
    if condition is not None and len(rain) == 1 and _is_condition(ds[rain[0]], condition, spec):
        return None
    try:
        return find_target(ds, None)
    except (DataError, MissingVariableError):
        return None


def _is_condition(da: xr.DataArray, condition: VariableSpec, spec: DataSpec) -> bool:
    """Return True for rain with the condition's name, or with cells of about its size."""
    if da.name == condition.name:
        return True
    try:
        dims = find_axes(da)
    except DataError:
        return False
    y, x = (axis_in(da.to_dataset(name="rain"), dim) for dim in dims)
    side, fine = pixel_km(y, x), pixel_size(spec)
    if not side or not fine or not condition.shape:
        return False
    coarse = fine * np.sqrt(np.prod(spec.shape) / np.prod(condition.shape))
    return bool(abs(np.log(side / coarse)) < abs(np.log(side / fine)))


def _dims_of(da: xr.DataArray, spec: DataSpec) -> dict[str, str]:
    if set(da.dims) == {spec.sample, spec.y, spec.x}:
        return {}
    try:
        layout = find_layout(da)
    except DataError:
        return {}
    return {spec.sample: layout.sample, spec.y: layout.y, spec.x: layout.x}


def _condition_in(
    ds: xr.Dataset, condition: VariableSpec, spec: DataSpec, rain: list[str]
) -> dict[str, str]:
    """Return the names of a rain condition and of its dims."""
    name = condition.name if condition.name in ds.variables else rain[0] if len(rain) == 1 else None
    if name is None:
        return {}
    wanted = {spec.sample, *condition.dims}
    if set(ds[name].dims) == wanted:
        return {condition.name: name}
    try:
        layout = find_layout(ds[name])
    except DataError:
        return {condition.name: name}
    own = zip((spec.sample, *condition.dims), (layout.sample, layout.y, layout.x), strict=True)
    return {condition.name: name, **dict(own)}


def described_as(spec: DataSpec, ds: xr.Dataset) -> DataSpec:
    """Return a description whose target has the attributes that it has in a Dataset."""
    if spec.target not in ds.variables:
        return spec
    return replace(spec, attrs=plain(ds[spec.target].attrs))
