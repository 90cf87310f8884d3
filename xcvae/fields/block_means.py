"""Coarse rain as the mean of blocks of fine pixels: checks, and the division of its cells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import ConfigError, MissingVariableError, UnitsError, warn_user
from xcvae.fields.axes import pixel_km
from xcvae.fields.cf import curvilinear_km, find_layout, find_target, is_rain, outline
from xcvae.fields.dataspec import DataSpec, Scales, VariableSpec
from xcvae.fields.describe import describe
from xcvae.fields.grids import divided_coords, stretch_known, stretching, warn_of_uneven
from xcvae.fields.sample_blocks import evenly_spaced
from xcvae.fields.scaling import blocks_of
from xcvae.fields.units import per, rain_scale, time_bounds, to_units, units_of
from xcvae.fields.validation import check_dataset

#: Largest difference between block means of the target and the condition, as a share of the
#: larger of the block's rain and the wet threshold. Packed integers and float32 stay below it.
TOLERANCE = 0.02
#: Ratio of the mean amounts from which a warning begins: models err by less.
APART = 6.0
#: Samples that are compared at most, and wet ones that are needed.
SAMPLES, WET = 96, 10
#: Rows and columns that are compared.
LINES = 16


def block_condition(spec: DataSpec) -> VariableSpec | None:
    """Return the condition that can be block means: the first aligned rain, if it is coarser."""
    variable = spec.rain_condition
    if variable is None or not variable.stretched or variable.gaps:
        return None
    return variable if variable.shape != spec.shape else None


def whole_blocks(spec: DataSpec) -> int:
    """Return the side, in pixels, of the blocks that the cells of the coarse rain cover.

    At a random scale it is the smallest one: every batch has its own.

    Raises
    ------
    ConfigError
        The coarse rain is missing, or its cells do not cover whole square blocks of pixels.
    """
    if spec.scales is not None and spec.random_scale:
        return spec.scales.factor[0]
    variable = block_condition(spec)
    if variable is None:
        raise _not_blocks("no rain condition that is coarser than the target and covers its domain")
    (height, width), (rows, columns) = spec.shape, variable.shape
    if height % rows or width % columns or height // rows != width // columns:
        raise _not_blocks(f"{rows} x {columns} cells over {height} x {width} pixels")
    return height // rows


def check_block_means(prepared: xr.Dataset, spec: DataSpec) -> None:
    """Refuse coarse rain that is not the block means of the target, in any sample.

    Raises
    ------
    ConfigError
        The target has missing pixels, or a block mean differs from the condition.
    """
    variable, side = block_condition(spec), whole_blocks(spec)
    assert variable is not None
    names = [spec.target] if spec.random_scale else [spec.target, variable.name]
    for part in blocks_of(prepared[names], spec):
        fine = np.asarray(part[spec.target].values, np.float64)
        if np.isnan(fine).any():
            raise _not_blocks("a target with missing pixels")
        if spec.derived == variable.name:
            continue
        count, height, width = fine.shape
        split = fine.reshape(count, height // side, side, width // side, side)
        means = split.mean(axis=(2, 4))
        coarse = np.asarray(to_units(part[variable.name], spec.units).values, np.float64)
        scale = np.maximum(np.maximum(means, coarse), spec.wet_threshold)
        worst = float((np.abs(means - coarse) / scale).max())
        if worst > TOLERANCE:
            raise _not_blocks(f"a block that differs from '{variable.name}' by {worst:.0%}")


def conserved_condition(
    prepared: xr.Dataset, spec: DataSpec, size: tuple[int, int], side: int
) -> VariableSpec:
    """Return the condition that is conserved, if its cells cover the pixels as in training.

    Raises
    ------
    ConfigError
        Cells are not ``side`` pixels wide, or their order is opposite to that of the pixels.
    """
    variable = block_condition(spec)
    assert variable is not None
    cells = [prepared.sizes[dim] for dim in variable.dims]
    if [n * side for n in cells] != list(size):
        raise _not_blocks(f"{cells[0]} x {cells[1]} cells over {size[0]} x {size[1]} pixels")
    for own, fine in zip(variable.dims, (spec.y, spec.x), strict=True):
        if own in prepared.coords and fine in prepared.coords:
            spans = [float(prepared[d].values[-1] - prepared[d].values[0]) for d in (own, fine)]
            if spans[0] * spans[1] < 0:
                raise _not_blocks(f"cells along '{own}' in the opposite order to '{fine}'")
    return variable


def repeated(coarse: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Repeat coarse values (sample, rows, columns) over the pixels of their blocks.

    Raises
    ------
    ConfigError
        A cell does not cover a whole number of pixels.
    """
    rows, columns = coarse.shape[-2:]
    if size[0] % rows or size[1] % columns:
        raise _not_blocks(f"{rows} x {columns} cells over {size[0]} x {size[1]} pixels")
    return coarse.repeat(size[0] // rows, axis=-2).repeat(size[1] // columns, axis=-1)


def at_scale(
    ds: xr.Dataset, scales: Scales, factor: int | None, *, observed: bool
) -> tuple[xr.Dataset, DataSpec]:
    """Bring rain on any grid into the form that a model of any factor samples from.

    Parameters
    ----------
    ds
        Coarse rain, which is divided; or observed rain, whose block means are the condition; or
        both.
    scales
        Ranges of the model.
    factor
        Pixels along a side of a coarse cell; None where two grids give it.
    observed
        The only rain of the Dataset is the observation.

    Returns
    -------
    xarray.Dataset
        The rain, on the fine grid or without it.
    DataSpec
        Of it: the target has the name and units of the rain.

    Warns
    -----
    UserWarning
        The factor or the pixels lie outside the ranges, the size of pixels is unknown, cells differ
        in size, or samples are days.

    Raises
    ------
    ConfigError
        No factor is given, or another than that of the grids.
    MissingVariableError
        The Dataset has no rain, or several fields of it on one grid.
    """
    check_dataset(ds)
    name = _rain(ds)
    coarse = _coarse_rain(ds, name)
    layout = find_layout(ds[name])
    side = curvilinear_km(ds[name], layout.y, layout.x)
    others = [str(key) for key, da in ds.data_vars.items() if da.ndim == 0]  # grid mappings
    bounds = time_bounds(ds, layout.sample)  # the duration of depths
    others += [bounds] if bounds else []
    if coarse is not None:
        converted = to_units(ds[coarse], units_of(ds[name]))  # one scaling serves both
        ds = ds[[name, coarse, *others]].assign({coarse: converted})
        spec = describe(ds, target=name, conditions=[coarse])
        warn_of_uneven(ds, (spec.y, spec.x))
        found = whole_blocks(spec)
        if factor not in (None, found):
            raise _factor(f"{factor}, and {found} pixels of {name!r} to a cell of {coarse!r}")
        factor = found
    else:
        _check_factor(factor)
        assert factor is not None
        ds = ds[[name, *others]]
        if observed:
            spec = describe(ds, target=name, coarsen=factor)
            warn_of_uneven(ds, (spec.y, spec.x))
        else:
            ds, spec = _divided(ds, name, factor)
            side = side and side / factor
    spacing = pixel_km(spec.axis(spec.y), spec.axis(spec.x)) or side
    # Frames in mm h-1 that were taken a day apart are no sums of days.
    daily = spec.daily and not per(spec.units, "hour")
    _warn_outside(scales, factor, spacing, daily=daily)
    return ds, replace(
        spec, scales=replace(scales, spacing=spacing or scales.pixel[0], fixed=factor)
    )


def _rain(ds: xr.Dataset) -> str:
    """Return the name of the rain on the finest grid."""
    try:
        return find_target(ds, None)
    except MissingVariableError as error:
        raise MissingVariableError.of(
            "Dataset",
            expected="one field of rain with a sample and two spatial dims",
            got="; ".join(outline(da) for da in ds.data_vars.values()) or "no variables",
            remedy="Select the rain, ds[['tp']], and give it units such as 'mm h-1'.",
        ) from error


def _coarse_rain(ds: xr.Dataset, name: str) -> str | None:
    """Return the name of rain on a coarser grid than that of the finest; None without."""
    fine = set(ds[name].dims)
    for key, da in ds.data_vars.items():
        other = len(da.dims) == len(fine) and set(da.dims) != fine
        if other and is_rain(da, by_rate=True):
            return str(key)
    return None


#: Words of a name that are wrong of the members: they lie on the fine grid.
_COARSE = re.compile(
    r"coarse|\b(low|lower)[- ]resolution|upscaled|aggregated|\b(block|area|cell)[- ](mean|average)|"
    r"\b(means?|averages?) (of|over)\b",
    re.IGNORECASE,
)


def _divided(ds: xr.Dataset, name: str, factor: int) -> tuple[xr.Dataset, DataSpec]:
    """Divide the cells of coarse rain: its dims become those of the fine grid."""
    layout = find_layout(ds[name])
    order, sides = (layout.sample, layout.y, layout.x), (1, factor, factor)
    size = {dim: ds.sizes[dim] * side for dim, side in zip(order, sides, strict=True)}
    coords = divided_coords(ds, (layout.y, layout.x), factor)
    own = {key: c for key, c in ds[name].coords.items() if not {layout.y, layout.x} & set(c.dims)}
    # Without memory and without gaps: only its form is described.
    nothing = np.broadcast_to(np.int8(0), [size[dim] for dim in order])
    attrs = _of_samples(ds[name].attrs, layout.sample)
    if _COARSE.search(str(attrs.get("long_name", ""))):
        attrs["long_name"] = f"rain at {factor} times the resolution"
    fine = xr.DataArray(nothing, dims=order, coords={**own, **coords}, name=name, attrs=attrs)
    bounds = time_bounds(ds, layout.sample)
    known = {bounds: ds.variables[bounds]} if bounds else {}
    spec = describe(fine.to_dataset().assign(known), target=name, coarsen=factor)
    coarse = ds[name].drop_vars([c for c in ds[name].coords if c not in own])
    coarse = coarse.rename({dim: f"{dim}_coarse" for dim in (layout.y, layout.x)})
    divided = xr.Dataset({f"{name}_coarse": coarse}, coords=coords, attrs=ds.attrs)
    others = {key: da for key, da in ds.data_vars.items() if da.ndim == 0}
    return divided.assign(others), spec


#: An entry of ``cell_methods``: names, the method and its qualifiers, a remark in brackets.
_METHOD = re.compile(r"((?:[\w.-]+:\s+)+)([^:()]+?)(?=\s*\(|\s+[\w.-]+:\s|\s*$)(\s*\([^)]*\))?")


def _of_samples(attrs: Mapping[str, Any], sample: str) -> dict[str, Any]:
    """Keep of ``cell_methods`` what is said of the samples; the cells are others.

    Examples
    --------
    >>> _of_samples({"cell_methods": "area: time: mean (interval: 1 h) lat: sum"}, "time")
    {'cell_methods': 'time: mean (interval: 1 h)'}
    """
    others = {key: value for key, value in attrs.items() if key != "cell_methods"}
    found = _METHOD.findall(str(attrs.get("cell_methods", "")))
    own = [f"{sample}: {method}{remark}" for names, method, remark in found
           if f"{sample}:" in names.split()]  # fmt: skip
    return {**others, "cell_methods": " ".join(own)} if own else others


def _check_factor(factor: object) -> None:
    whole = isinstance(factor, int | np.integer) and not isinstance(factor, bool)
    if not whole or int(factor) < 2:  # type: ignore[call-overload]
        raise _factor(repr(factor))


def _factor(got: str) -> ConfigError:
    return ConfigError.of(
        "factor",
        expected="the whole number of pixels along a side of a coarse cell, at least 2",
        got=got,
        remedy="For example factor=8, which divides each cell into 8 x 8 pixels; or rain on both "
        "grids, which diagnose needs.",
    )


def of_one_factor(factor: object) -> ConfigError:
    """Return the refusal of a factor for a model that has one."""
    return ConfigError.of(
        "factor",
        expected="a model of any factor, trained with coarsen={'factor': [2, 16]}",
        got=f"factor={factor!r} and a model of one factor",
        remedy="Leave it out: the factor of this model is that of its training.",
    )


def _warn_outside(scales: Scales, factor: int, spacing: float | None, *, daily: bool) -> None:
    """Warn in words of what the model has not seen in training."""
    notes = []
    low, high = scales.factor
    if not low <= factor <= high:
        notes.append(f"factor {factor}: the model was trained with {low} to {high}")
    least, most = scales.pixel
    if spacing is None:
        notes.append(
            "the size of the pixels is unknown, for lack of coordinates in degrees or a length, "
            f"and is taken as {least:.3g} km"
        )
    elif not 0.99 * least <= spacing <= 1.01 * most:
        notes.append(
            f"pixels of {spacing:.3g} km: the model was trained with {least:.3g} to {most:.3g} km"
        )
    if daily:
        notes.append("the samples are days: the model was trained with rain rates of minutes")
    for note in notes:
        warn_user(f"{note}. Compare members with observations.")


def _not_blocks(got: str) -> ConfigError:
    return ConfigError.of(
        "generator.constrain",
        expected="a condition that is the mean of whole square blocks of the target",
        got=got,
        remedy="Leave `constrain` out, or derive the condition with coarsen=.",
    )


def warn_of_amounts(prepared: xr.Dataset, spec: DataSpec) -> None:
    """Warn of coarse rain with many times the amounts of the target, or a small part of them.

    Compares means over some pixels of some samples; no more of lazy data is read.

    Parameters
    ----------
    prepared
        From `xcvae.fields.describe.prepare`, with the target.
    spec
        The one it was prepared for.
    """
    for variable in spec.variables:
        derived = variable.name == spec.derived
        rain = variable.precipitation and variable.role == "condition" and variable.sampled
        if not rain or derived or not variable.aligned or variable.pooled:
            continue
        try:
            scale = rain_scale(variable.units, spec.units, spec.step_seconds, what=variable.name)
        except UnitsError:  # a rate and a depth without a step
            continue
        ratio = _ratio(prepared, variable, spec, scale)
        if not 1 / APART < ratio < APART:
            more, factor = ("more", ratio) if ratio > 1 else ("less", 1 / ratio)
            times = f"{factor:.{0 if factor >= 10 else 1}f} times {more}"
            warn_user(
                f"{variable.name}: about {times} rain than "
                f"{spec.target!r} on average, at the same places and times. Check the units of "
                f"both ({variable.units!r} and {spec.units!r}), and the time that each amount "
                "stands for: 24 is a day and an hour, 1000 m and mm, 3600 an hour and a second.",
            )


def _ratio(prepared: xr.Dataset, variable: VariableSpec, spec: DataSpec, scale: float) -> float:
    """Return the mean of coarse rain over that of the target, 1 where too little is known."""
    rows = {spec.sample: evenly_spaced(prepared.sizes[spec.sample], SAMPLES)}
    part = prepared[[spec.target, variable.name]].isel(rows)
    lines = [evenly_spaced(part.sizes[dim], LINES) for dim in (spec.y, spec.x)]
    fine = part[spec.target].isel(dict(zip((spec.y, spec.x), lines, strict=True))).values
    coarse = np.asarray(part[variable.name].values, np.float32)
    if variable.stretched:
        size = (prepared.sizes[spec.y], prepared.sizes[spec.x])
        weights = stretching(prepared, variable, spec, size)
        places = (one[line] for one, line in zip(weights, lines, strict=True))
        coarse = stretch_known(coarse, *places)
    else:
        coarse = coarse[:, lines[0]][:, :, lines[1]]
    return _of_means(coarse.astype(np.float64) * scale, fine.astype(np.float64), spec.wet_threshold)


def _of_means(coarse: NDArray[np.float64], fine: NDArray[np.float64], wet: float) -> float:
    known = np.isfinite(coarse) & np.isfinite(fine)
    wettest = max(_wet_samples(one, known, wet) for one in (coarse, fine))
    if wettest < WET:
        return 1.0
    total, other = (float(np.sum(one, where=known)) for one in (coarse, fine))
    if not (total > 0 and other > 0):
        return 1.0
    return total / other


def _wet_samples(values: NDArray[np.float64], known: NDArray[np.bool_], wet: float) -> int:
    return int(((values >= wet) & known).any(axis=(1, 2)).sum())
