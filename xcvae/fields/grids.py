"""The fine grid: where it lies when only coarse fields are given, and how these are stretched."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.fields.alignment import Axis, axis_of, in_frame_of, stretch_weights
from xcvae.fields.dataspec import DataSpec, VariableSpec
from xcvae.fields.matching import TOLERANCE, axis_in, grid_size, moved

__all__ = ["fine_coords", "stretching"]


def stretching(
    prepared: xr.Dataset, variable: VariableSpec, spec: DataSpec, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights along y and x that stretch an aligned condition onto the fine grid.

    Parameters
    ----------
    prepared : xarray.Dataset
        From `xcvae.fields.spec.prepare`: coordinates on both sides are in the same units.
    variable : VariableSpec
        The condition.
    spec : DataSpec
        Names the dims of the fine grid.
    size : (int, int)
        Of the fine grid.
    """
    weights = []
    for own, fine, n in zip(variable.dims, (spec.y, spec.x), size, strict=True):
        known = own in prepared.coords and fine in prepared.coords
        weights.append(
            stretch_weights(
                np.asarray(prepared[own].values, np.float64) if known else None,
                prepared.sizes[own],
                np.asarray(prepared[fine].values, np.float64) if known else None,
                n,
            )
        )
    return weights[0], weights[1]


def fine_coords(ds: xr.Dataset, spec: DataSpec) -> dict[str, xr.DataArray]:
    """Coordinates of the fine grid of a Dataset without the target, by dim, those that are known.

    They are those of the Dataset where it has them; those of the training grid where the
    conditions lie as in training; else pixels of the training grid's spacing under the first
    condition. Where nothing tells, there are none: conditions are laid edge to edge.
    """
    found: dict[str, xr.DataArray] = {}
    for place, (dim, n) in enumerate(zip((spec.y, spec.x), grid_size(ds, spec), strict=True)):
        coordinate = ds[dim] if dim in ds.coords else _coordinate(ds, spec, place, n)
        if coordinate is not None:
            found[dim] = coordinate
    return found


def _coordinate(ds: xr.Dataset, spec: DataSpec, place: int, n: int) -> xr.DataArray | None:
    """Find where ``n`` pixels along y (place 0) or x (1) lie, None where nothing tells."""
    dim = (spec.y, spec.x)[place]
    trained = spec.grid_coords.get(dim)
    if trained is None:
        return None
    coarse = _coarse_dims(ds, spec, place)
    if n == spec.shape[place] and all(_unmoved(ds, spec, own, place) for own in coarse):
        return trained
    values = _under(axis_in(ds, coarse[0]), spec.axis(dim), n) if coarse else None
    if values is None:
        return None
    return xr.DataArray(values, dims=dim, name=dim, attrs=trained.attrs)


def _coarse_dims(ds: xr.Dataset, spec: DataSpec, place: int) -> list[str]:
    """Dims of the aligned conditions that are there and have a grid of their own."""
    dims = [
        variable.dims[place]
        for variable in spec.variables
        if variable.aligned and variable.role == "condition" and variable.name in ds.variables
    ]
    return [dim for dim in dict.fromkeys(dims) if dim not in (spec.y, spec.x)]


def _unmoved(ds: xr.Dataset, spec: DataSpec, own: str, place: int) -> bool:
    """Whether cells of a condition lie where they lay in training."""
    found, trained = axis_in(ds, own), _trained_axis(spec, own, place)
    if found.counted or trained.counted:
        # A model that is tied to its domain is not used on another one.
        return spec.located or (found.counted and trained.counted)
    return in_frame_of(found, trained) is not None and not moved(found, trained)


def _trained_axis(spec: DataSpec, own: str, place: int) -> Axis:
    """Return the axis of a condition in training, also of the one made by block means."""
    fine = (spec.y, spec.x)[place]
    pixels = spec.coordinates.get(fine)
    if spec.coarsen is None or own != f"{fine}_coarse" or pixels is None:
        return spec.axis(own)
    starts = range(0, len(pixels), spec.coarsen)
    means = [float(np.mean(pixels[start : start + spec.coarsen])) for start in starts]
    return axis_of(own, np.array(means), spec.coordinate_attrs.get(fine, {}))


def _under(coarse: Axis, trained: Axis, n: int) -> NDArray[np.float64] | None:
    """Centres of ``n`` pixels under the cells of a condition, in the units of the trained axis.

    None where cells do not hold whole numbers of pixels, or pixels of another size than trained.
    """
    if in_frame_of(coarse, trained) is None or coarse.values is None or trained.values is None:
        return None
    cells = coarse.values * (coarse.metres / trained.metres)
    if n % len(cells) or len(trained.values) < 2:
        return None
    ratio = n // len(cells)
    step = float(trained.values[1] - trained.values[0]) * ratio
    gaps = np.diff(cells) if len(cells) > 1 else np.array([step])
    at = (np.arange(n) + 0.5) / ratio - 0.5
    # Beyond the outer centres the outer gaps go on.
    low = np.clip(np.floor(at).astype(int), 0, len(gaps) - 1)
    values: NDArray[np.float64] = cells[low] + (at - low) * gaps[low]
    spacing = np.abs(np.diff(values)).max() * trained.metres
    return values if abs(spacing / trained.spacing - 1) <= TOLERANCE else None
