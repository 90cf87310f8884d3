"""Find where a condition lies under the target: aligned, regridded or pooled, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import DataError
from xcvae.fields.axes import Axis, covers, share_outside, stretch_weights, wrapped
from xcvae.fields.cf import Layout, find_axes, is_rain, positions
from xcvae.fields.grids import axis_in
from xcvae.fields.regridding.cells import Cells, cells_of
from xcvae.fields.regridding.projections import grid_mapping, same_projection
from xcvae.fields.regridding.weights import Method, weights
from xcvae.fields.units import is_precipitation

#: A grid with cells of less than this share of a pixel is averaged over the pixel.
FINER = 0.8
#: Widest target, in degrees from its middle, that conditions are regridded to.
WIDEST = 85.0


@dataclass(frozen=True)
class Place:
    """Place of a condition under the target.

    Attributes
    ----------
    dims
        Its (y, x) dims, empty for a number per sample.
    aligned, pooled, regrid, side
        As of `xcvae.fields.dataspec.VariableSpec`.
    reason
        Why it is not simply stretched along the axes of the target; empty if it is.
    """

    dims: tuple[str, ...]
    aligned: bool
    pooled: bool
    regrid: Method | None = None
    side: float | None = None
    reason: str = ""


def find_place(ds: xr.Dataset, da: xr.DataArray, field: xr.DataArray, layout: Layout) -> Place:
    """Find the place of a condition under the target.

    Parameters
    ----------
    ds
        The Dataset of both.
    da, field
        The condition and the target.
    layout
        Dims of the target.

    Raises
    ------
    DataError
        The condition has other dims than a map, or cannot be placed although it has a projection
        or 2-D coordinates.
    """
    others = {str(dim) for dim in da.dims} - {layout.sample}
    fine = (layout.y, layout.x)
    if not others:
        return Place((), aligned=False, pooled=True)
    if others == set(fine):
        return Place(fine, aligned=True, pooled=False)
    if len(others) != 2:
        raise DataError.of(
            str(da.name),
            expected=f"a map or a number per sample, dims ({layout.sample}, y, x) or "
            f"({layout.sample})",
            got=f"dims ({', '.join(map(str, da.dims))})",
            remedy="Give every level, or every number, a variable of its own.",
        )
    dims = find_axes(da, sample=layout.sample)
    pairs = [(axis_in(ds, o), axis_in(ds, f)) for o, f in zip(dims, fine, strict=True)]
    reason = _difference(ds, da, field, dims, pairs, fine)
    if reason:
        return _regridded(ds, da, field, dims, fine, reason)
    return _stretched(da, field, dims, pairs, fine)


def _difference(
    ds: xr.Dataset,
    da: xr.DataArray,
    field: xr.DataArray,
    dims: tuple[str, str],
    pairs: list[tuple[Axis, Axis]],
    fine: tuple[str, str],
) -> str:
    """Return why a condition cannot be stretched along the axes of the target; empty if it can."""
    own, wanted = positions(da, dims), positions(field, fine)
    # Numbers without units count cells, and say less than latitudes and longitudes.
    if own is not None and all(source.kind in ("none", "index", "plain") for source, _ in pairs):
        if wanted is None or not _edge_to_edge(own, wanted):
            return f"its 2-D latitudes and longitudes do not lie on {field.name!r} edge to edge"
    for own_dim, fine_dim, (source, target) in zip(dims, fine, pairs, strict=True):
        if source.counted:
            continue  # edge to edge
        values, _ = wrapped(source, target)
        if values is None or target.values is None:
            return (
                f"its {own_dim!r} ({source.kind}) is not comparable with {fine_dim!r} "
                f"({target.kind}) of {field.name!r}"
            )
    own_mapping, mapping = grid_mapping(ds, da), grid_mapping(ds, field)
    if not (own_mapping and mapping) and own is not None and wanted is not None:
        if _elsewhere(own, wanted, pairs):
            return f"its 2-D latitudes and longitudes lie elsewhere than its axes on {field.name!r}"
    if same_projection(own_mapping, mapping):
        return ""
    names = [str(each.get("grid_mapping_name")) for each in (own_mapping, mapping)]
    other = names[0] if names[0] != names[1] else f"{names[0]} with other parameters"
    return f"its projection ({other}) is not that of {field.name!r} ({names[1]})"


def _elsewhere(
    own: tuple[xr.DataArray, xr.DataArray],
    wanted: tuple[xr.DataArray, xr.DataArray],
    pairs: list[tuple[Axis, Axis]],
) -> bool:
    """Return True if axes that look alike belong to different places: they are two projections."""
    if any(source.counted or source.kind in ("latitude", "longitude") for source, _ in pairs):
        return False
    lines, inside = [], []
    for source, target in pairs:
        values, _ = wrapped(source, target)
        assert values is not None
        assert target.values is not None
        found = (values >= target.values.min()) & (values <= target.values.max())
        inside.append(found)
        lines.append(
            stretch_weights(target.values, len(target.values), values[found], int(found.sum()))
        ) if found.any() else None
    if len(lines) < 2:
        return False  # no centre of the condition within the target
    for mine, theirs in zip(own, wanted, strict=True):
        place = lines[0] @ np.asarray(theirs.values, float) @ lines[1].T
        values = np.asarray(mine.values, float)
        steps = [np.abs(np.diff(values, axis=axis)).max(initial=0.0) for axis in (0, 1)]
        apart = (values[np.ix_(*inside)] - place + 180.0) % 360.0 - 180.0
        if np.abs(apart).max() > max(*steps, 1e-6):
            return True
    return False


def _stretched(
    da: xr.DataArray,
    field: xr.DataArray,
    dims: tuple[str, str],
    pairs: list[tuple[Axis, Axis]],
    fine: tuple[str, str],
) -> Place:
    """Place a condition along axes that can be compared with those of the target."""
    sources, targets = [], []
    for own_dim, fine_dim, (source, target) in zip(dims, fine, pairs, strict=True):
        if source.counted:
            continue  # edge to edge
        values, _ = wrapped(source, target)
        assert values is not None
        assert target.values is not None
        if not covers(values, target.values):
            reason = f"it does not cover the target {field.name!r}: {own_dim!r} spans "
            reason += f"{_span(values)}, {fine_dim!r} {_span(target.values)}"
            return Place(dims, aligned=False, pooled=True, reason=reason)
        sources.append(values)
        targets.append(target.values)
    # Mostly elsewhere: what happens outside the target's box counts too.
    wide = bool(sources) and share_outside(sources, targets) > 0.5
    return Place(dims, aligned=True, pooled=wide)


def _span(values: NDArray[np.float64]) -> str:
    return f"{values.min():.6g} to {values.max():.6g}"


def _regridded(
    ds: xr.Dataset,
    da: xr.DataArray,
    field: xr.DataArray,
    dims: tuple[str, str],
    fine: tuple[str, str],
    reason: str,
) -> Place:
    """Place a condition by the latitudes and longitudes of its cells and of the target's."""
    mappings = [grid_mapping(ds, each) for each in (da, field)]
    own, target = cells_of(da, dims, mappings[0]), cells_of(field, fine, mappings[1])
    if isinstance(own, str) or isinstance(target, str):
        unknown = own if isinstance(own, str) else f"of {field.name!r}, {target}"
        kinds = [tuple(axis_in(ds, dim).kind for dim in each) for each in (dims, fine)]
        curved = positions(da, dims) is not None and kinds[0] != ("latitude", "longitude")
        # Numbers of two projections look alike, and must not be pooled.
        if curved or kinds[0] == kinds[1]:
            raise _not_placed(da, field, dims, f"{reason}; {unknown}")
        return Place(dims, aligned=False, pooled=True, reason=reason)
    if target.extent > WIDEST:
        wide = "the target covers half of the earth"
        raise _not_placed(da, field, dims, f"{reason}; {wide}")
    method = _method(da, own, target)
    share = float(np.mean(np.diff(weights(own, target, method).indptr) > 0))
    if share == 1.0:
        return Place(
            dims, aligned=True, pooled=False, regrid=method, side=own.side, reason=reason
        )
    if share > 0:
        raise DataError.of(
            str(da.name),
            expected=f"a condition that covers the target {str(field.name)!r}, or none of it",
            got=f"{share:.1%} of its pixels covered ({reason})",
            remedy="Cut the target to the area that the condition covers, or give more of the "
            "condition.",
        )
    reason = f"it lies elsewhere than the target {field.name!r}, and {reason}"
    return Place(dims, aligned=False, pooled=True, reason=reason)


def _method(da: xr.DataArray, own: Cells, target: Cells) -> Method:
    """Choose means over areas for rain and for finer grids, interpolation for all others."""
    rain = is_rain(da) or is_precipitation(str(da.attrs.get("units", "")).strip() or "?")
    return "conservative" if rain or own.side < FINER * target.side else "bilinear"


def _not_placed(
    da: xr.DataArray, field: xr.DataArray, dims: tuple[str, str], reason: str
) -> DataError:
    coords = [str(n) for n, each in da.coords.items() if set(dims) == set(map(str, each.dims))]
    drop = f" If its edges are those of the target, drop its coordinates: ds.drop_vars({coords})."
    return DataError.of(
        str(da.name),
        expected=f"a grid that can be regridded to that of {str(field.name)!r}, by grid_mapping or "
        "2-D latitudes and longitudes of both",
        got=reason,
        remedy="Give both fields 2-D coordinates 'lat' and 'lon' or a grid mapping (projections "
        "need pip install 'xcvae[grids]'), or regrid it to the target's grid, for example with "
        f"xESMF.{drop if coords else ''}",
    )


def check_projection(ds: xr.Dataset, da: xr.DataArray, field: xr.DataArray) -> None:
    """Refuse to compare the numbers of two projections, or of two rotated poles.

    Raises
    ------
    DataError
        Both fields have a grid mapping, and these differ.
    """
    own, wanted = grid_mapping(ds, da), grid_mapping(ds, field)
    if same_projection(own, wanted):
        return
    raise DataError.of(
        str(da.name),
        expected=f"the projection of {str(field.name)!r}, grid_mapping_name "
        f"{wanted.get('grid_mapping_name')!r}, as in training",
        got=f"another one, {own.get('grid_mapping_name')!r}, or other parameters of it",
        remedy="Regrid it to the grid that it had in training, or train a model on these data, "
        "which regrids it by itself.",
    )


def _edge_to_edge(
    own: tuple[xr.DataArray, xr.DataArray], fine: tuple[xr.DataArray, xr.DataArray]
) -> bool:
    """Return True if coarse cells lie where they do on a fine grid with the same edges."""
    # The weights that stretch a map, from fine to coarse, give the places of these cells.
    rows, columns = (
        stretch_weights(None, n, None, m) for n, m in zip(fine[0].shape, own[0].shape, strict=True)
    )
    places = [rows @ np.asarray(each.values, float) @ columns.T for each in fine]
    latitude = own[0].values - places[0]
    longitude = (own[1].values - places[1] + 180.0) % 360.0 - 180.0
    steps = [np.abs(np.diff(each.values, axis=axis)) for each in own for axis in (0, 1)]
    widest = max(float(step.max(initial=0.0)) for step in steps)
    return bool(max(np.abs(latitude).max(), np.abs(longitude).max()) <= 0.5 * widest)
