"""Find where a condition lies under the target: aligned, regridded or pooled, and why."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import DataError
from xcvae.fields.axes import Axis, covers, share_outside, stretch_weights, wrapped
from xcvae.fields.cf import Layout, combine_remedy, find_axes, positions
from xcvae.fields.grids import axis_in
from xcvae.fields.regridding.cells import cells_of
from xcvae.fields.regridding.projections import grid_mapping, same_projection
from xcvae.fields.regridding.regrid import method_for
from xcvae.fields.regridding.weights import Method, weights

Positions = tuple[xr.DataArray, xr.DataArray]

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
            remedy=combine_remedy(da)
            or "Give every level, or every number, a variable of its own.",
        )
    pair = _Pair(ds, da, field, find_axes(da, sample=layout.sample), fine)
    reason = _difference(pair)
    return _regridded(pair, reason) if reason else _stretched(pair)


@dataclass(frozen=True)
class _Pair:
    """A condition and the target, with their (y, x) dims."""

    ds: xr.Dataset
    da: xr.DataArray
    field: xr.DataArray
    dims: tuple[str, str]
    fine: tuple[str, str]

    @cached_property
    def axes(self) -> list[tuple[Axis, Axis]]:
        """Axes of the condition and of the target, along y and x."""
        pairs = zip(self.dims, self.fine, strict=True)
        return [(axis_in(self.ds, own), axis_in(self.ds, fine)) for own, fine in pairs]

    @cached_property
    def positions(self) -> tuple[Positions | None, Positions | None]:
        """Latitudes and longitudes of the cells of both; None where they are not given."""
        return positions(self.da, self.dims), positions(self.field, self.fine)

    @cached_property
    def mappings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Grid mappings of both."""
        return grid_mapping(self.ds, self.da), grid_mapping(self.ds, self.field)


def _difference(pair: _Pair) -> str:
    """Return why a condition cannot be stretched along the axes of the target; empty if it can."""
    target = repr(pair.field.name)
    # Numbers without units count cells, and say less than latitudes and longitudes.
    if all(source.kind in ("none", "index", "plain") for source, _ in pair.axes):
        own, wanted = pair.positions
        if own is not None and (wanted is None or not _edge_to_edge(own, wanted)):
            return f"its 2-D latitudes and longitudes do not lie on {target} edge to edge"
    for own_dim, fine_dim, (source, fine) in zip(pair.dims, pair.fine, pair.axes, strict=True):
        if source.counted:
            continue  # edge to edge
        values, _ = wrapped(source, fine)
        if values is None or fine.values is None:
            kinds = f"its {own_dim!r} ({source.kind}) is not comparable with {fine_dim!r}"
            return f"{kinds} ({fine.kind}) of {target}"
    if not all(pair.mappings) and _elsewhere(pair):
        return f"its latitudes and longitudes lie elsewhere than its axes on {target}"
    if same_projection(*pair.mappings):
        return ""
    names = [str(each.get("grid_mapping_name")) for each in pair.mappings]
    other = names[0] if names[0] != names[1] else f"{names[0]} with other parameters"
    return f"its projection ({other}) is not that of {target} ({names[1]})"


def _elsewhere(pair: _Pair) -> bool:
    """Return True if axes that look alike belong to different places: they are two projections."""
    degrees = ("latitude", "longitude")
    if any(source.counted or source.kind in degrees for source, _ in pair.axes):
        return False
    own, wanted = pair.positions
    if own is None or wanted is None:
        return False
    inside, lines = [], []
    for source, target in pair.axes:
        values, _ = wrapped(source, target)
        assert values is not None
        assert target.values is not None
        inside.append((values >= target.values.min()) & (values <= target.values.max()))
        centres = values[inside[-1]]
        if not centres.size:
            return False  # no centre of the condition within the target
        lines.append(stretch_weights(target.values, len(target.values), centres, len(centres)))
    for mine, theirs in zip(own, wanted, strict=True):
        values = np.asarray(mine.values, float)
        place = lines[0] @ np.asarray(theirs.values, float) @ lines[1].T
        steps = [np.abs(np.diff(values, axis=axis)).max(initial=0.0) for axis in (0, 1)]
        apart = (values[np.ix_(*inside)] - place + 180.0) % 360.0 - 180.0
        if np.abs(apart).max() > max(*steps, 1e-6):
            return True
    return False


def _stretched(pair: _Pair) -> Place:
    """Place a condition along axes that can be compared with those of the target."""
    sources, targets = [], []
    for own_dim, fine_dim, (source, target) in zip(pair.dims, pair.fine, pair.axes, strict=True):
        if source.counted:
            continue  # edge to edge
        values, _ = wrapped(source, target)
        assert values is not None
        assert target.values is not None
        if not covers(values, target.values):
            reason = f"it does not cover the target {pair.field.name!r}: {own_dim!r} spans "
            reason += f"{_span(values)}, {fine_dim!r} {_span(target.values)}"
            return Place(pair.dims, aligned=False, pooled=True, reason=reason)
        sources.append(values)
        targets.append(target.values)
    # Mostly elsewhere: what happens outside the target's box counts too.
    wide = bool(sources) and share_outside(sources, targets) > 0.5
    return Place(pair.dims, aligned=True, pooled=wide)


def _span(values: NDArray[np.float64]) -> str:
    return f"{values.min():.6g} to {values.max():.6g}"


def _regridded(pair: _Pair, reason: str) -> Place:
    """Place a condition by the latitudes and longitudes of its cells and of the target's."""
    target_name = repr(pair.field.name)
    own = cells_of(pair.da, pair.dims, pair.mappings[0])
    target = cells_of(pair.field, pair.fine, pair.mappings[1])
    if isinstance(own, str) or isinstance(target, str):
        unknown = own if isinstance(own, str) else f"of {target_name}, {target}"
        kinds, fine_kinds = zip(*((own.kind, fine.kind) for own, fine in pair.axes), strict=True)
        curved = pair.positions[0] is not None and kinds != ("latitude", "longitude")
        # Numbers of two projections look alike, and must not be pooled.
        if curved or kinds == fine_kinds:
            raise _not_placed(pair, f"{reason}; {unknown}")
        return Place(pair.dims, aligned=False, pooled=True, reason=reason)
    if target.extent > WIDEST:
        raise _not_placed(pair, f"{reason}; the target covers half of the earth")
    method = method_for(pair.da, own, target)
    share = float(np.mean(np.diff(weights(own, target, method).indptr) > 0))
    if share == 0:
        reason = f"it lies elsewhere than the target {target_name}, and {reason}"
        return Place(pair.dims, aligned=False, pooled=True, reason=reason)
    if share < 1:
        raise DataError.of(
            str(pair.da.name),
            expected=f"a condition that covers the target {target_name}, or none of it",
            got=f"{share:.1%} of its pixels covered ({reason})",
            remedy="Cut the target to the area that the condition covers, or give more of the "
            "condition.",
        )
    return Place(pair.dims, aligned=True, pooled=False, regrid=method, side=own.side, reason=reason)


def _not_placed(pair: _Pair, reason: str) -> DataError:
    own = set(pair.dims)
    coords = [str(n) for n, each in pair.da.coords.items() if own == set(map(str, each.dims))]
    drop = f" If its edges are those of the target, drop its coordinates: ds.drop_vars({coords})."
    return DataError.of(
        str(pair.da.name),
        expected=f"a grid that can be regridded to that of {str(pair.field.name)!r}, by "
        "grid_mapping or 2-D latitudes and longitudes of both",
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


def _edge_to_edge(own: Positions, fine: Positions) -> bool:
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
