"""The fine grid: its match with training, its position, and the stretching of coarse fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import (
    DataError,
    EmptySelectionError,
    MismatchError,
    MissingVariableError,
    nearest,
    warn_user,
)
from xcvae.fields.axes import (
    Axis,
    axis_of,
    in_frame_of,
    pixel_km,
    sides_km,
    stretch,
    stretch_weights,
)
from xcvae.fields.dataspec import DataSpec, VariableSpec
from xcvae.fields.samples import labels_of
from xcvae.fields.units import rain_scale
from xcvae.fields.validation import refuse_packed

#: Relative difference up to which two spacings of one kind, or two ratios of grids, are the same.
TOLERANCE = 0.01
#: Ratio of cell sizes in kilometres up to which patterns are those of the training grid (0.01
#: degrees are 1.1 by 0.6 to 1.1 km), and from which on they are not.
CLOSE, FAR = 1.25, 2.0


def axis_in(ds: xr.Dataset, dim: str) -> Axis:
    """Return the axis of a Dataset along a dim.

    Raises
    ------
    DataError
        The coordinate is text, or does not rise or fall throughout.
    """
    if dim not in ds.coords:
        return Axis("none", None)
    refuse_text(ds, dim)
    return axis_of(dim, np.asarray(ds[dim].values, np.float64), ds[dim].attrs)


def refuse_text(ds: xr.Dataset, *dims: str) -> None:
    """Refuse coordinates of a grid that are text, as '-120 °E', or other than numbers.

    Raises
    ------
    DataError
        The values of a coordinate are not numbers.
    """
    for dim in dims:
        if dim not in ds.coords or ds[dim].dtype.kind in "biuf" or not ds[dim].size:
            continue
        values = ds[dim].values
        number, text = True, isinstance(values.flat[0], str)
        try:
            np.asarray(values, np.float64)
        except (TypeError, ValueError):
            number = False
        if number and not text:
            continue  # numbers as objects
        digits = ".str.extract(r'([-+.\\d]+)', dim=None)" if text and not number else ""
        signs = ", with a minus for degrees west and south" if digits else ""
        raise DataError.of(
            dim,
            expected="numbers as the coordinate of a grid",
            got=f"{ds[dim].dtype} such as {str(values.flat[0])!r}",
            remedy=f"Convert it, ds.assign_coords({dim}=ds[{dim!r}]{digits}.astype(float)){signs}, "
            f"or leave it out, ds.drop_vars({dim!r}).",
        )


def check_match(ds: xr.Dataset, spec: DataSpec, *, need_target: bool) -> None:
    """Check that a Dataset matches the training Dataset of a model; reads no values.

    A model without maps of another area may be used on another grid: cells of about the same size
    in kilometres, same number of target pixels to a condition's pixel.

    Warns
    -----
    UserWarning
        Cells differ from those of training by more than a quarter.

    Raises
    ------
    MismatchError
        Variables are missing, dims differ, or the model cannot be used on the grid.
    DataError
        Attributes say that values are packed, or a grid has coordinates that are not numbers.
    EmptySelectionError
        A variable has no cells.
    """
    expected = _expected_dims(ds, spec, need_target=need_target)
    for name, dims in expected.items():
        _check_variable(ds, name, dims, spec.sample)
        refuse_packed(ds[name])
    size = grid_size(ds, spec)
    if spec.located:
        _check_same_domain(ds, spec, size)
        return
    doubts = [_check_spacing(ds, spec, dims) for dims in _grids(spec)]
    if any(doubts):
        warn_user(next(filter(None, doubts)))
    for variable in spec.variables:
        if not (variable.shape and variable.name in expected):
            continue
        if variable.role == "static" or variable.regrid:
            continue
        for own, trained, n, n_trained in zip(
            variable.dims, variable.shape, size, spec.shape, strict=True
        ):
            if not _same_ratio(n_trained, trained, n, ds.sizes[own]):
                raise MismatchError.of(
                    variable.name,
                    expected=f"{n_trained / trained:.4g} target pixels to one of its pixels "
                    f"along {own!r}, as in the training data",
                    got=f"{n} to {ds.sizes[own]}, which is {n / ds.sizes[own]:.4g}",
                    remedy="Cut target and condition to the same area, and keep their resolutions.",
                )


def _grids(spec: DataSpec) -> list[tuple[str, str]]:
    """Return the dims (y, x) of the target's grid and of those of maps, each once."""
    maps = [(v.dims[0], v.dims[1]) for v in spec.variables if len(v.dims) == 2]
    return list(dict.fromkeys([(spec.y, spec.x), *maps]))


def _expected_dims(
    ds: xr.Dataset, spec: DataSpec, *, need_target: bool
) -> dict[str, tuple[str, ...]]:
    """Return the dims of the variables that the Dataset must have, by name."""
    expected: dict[str, tuple[str, ...]] = {}
    if need_target or spec.target in ds.variables:
        expected[spec.target] = (spec.sample, spec.y, spec.x)
    for variable in spec.variables:
        if variable.name == spec.derived and spec.target in expected:
            continue
        samples = (spec.sample,) if variable.sampled else ()
        expected[variable.name] = (*samples, *variable.dims)
    return expected


def _check_variable(ds: xr.Dataset, name: str, dims: tuple[str, ...], sample: str) -> None:
    if name not in ds.variables:
        raise MismatchError.of(
            "Dataset",
            expected=f"variable {name!r}, which the model was trained with",
            got="no such variable",
            remedy=f"Add it, rename it, ds.rename(old={name!r}), or give the model the names of "
            f"the data, model.rename_for(ds). {nearest(name, ds.data_vars)}",
        )
    if set(ds[name].dims) != set(dims):
        raise MismatchError.of(
            name,
            expected=f"dims ({', '.join(dims)}), as in the training data",
            got=f"({', '.join(map(str, ds[name].dims))})",
            remedy="Rename or select dims: ds.rename(...), ds.isel(...).",
        )
    empty = [dim for dim in dims if ds.sizes[dim] == 0 and dim != sample]
    if empty:
        raise EmptySelectionError.of(
            name,
            expected="at least one cell along each dim",
            got=f"none along {', '.join(empty)}",
            remedy="Check the selection: a slice of falling coordinates runs from high to low.",
        )
    for dim in dims:
        if dim != sample:
            axis_in(ds, dim)


def grid_size(ds: xr.Dataset, spec: DataSpec) -> tuple[int, int]:
    """Return the size (y, x) of the fine grid, inferred from coarse conditions if need be."""
    height, width = _size_by_conditions(ds, spec)
    return ds.sizes.get(spec.y, height), ds.sizes.get(spec.x, width)


def _size_by_conditions(ds: xr.Dataset, spec: DataSpec) -> tuple[int, int]:
    for variable in spec.variables:
        if _is_on_grid(ds, variable):
            ratio = spec.coarsen if variable.name == spec.derived else None
            sizes = [
                n if count == ds.sizes[dim] else _stretched(n, count, ds.sizes[dim], ratio)
                for dim, n, count in zip(variable.dims, spec.shape, variable.shape, strict=True)
            ]
            return sizes[0], sizes[1]
    return spec.shape


def _is_on_grid(ds: xr.Dataset, variable: VariableSpec) -> bool:
    """Return True for an aligned condition of the Dataset; one that is derived may be another."""
    name = variable.name
    wanted = variable.stretched and name in ds.variables
    return wanted and set(variable.dims) <= set(ds[name].dims)


def _stretched(n: int, count: int, other: int, ratio: int | None) -> int:
    """Return the size of a fine axis over ``other`` coarse cells, if ``n`` lie over ``count``."""
    if ratio is None and _same_ratio(n, count, -(-n // count) * count, count):
        ratio = -(-n // count)
    return other * ratio if ratio is not None else round(other * n / count)


def _same_ratio(n: int, count: int, other_n: int, other_count: int) -> bool:
    """Return True if two pairs of fine and coarse sizes have the same ratio.

    An odd size ends in a partial block, count = ceil(n / ratio), so that the sizes determine the
    ratio to an interval: they agree if a whole number lies in both.
    """
    if abs((other_n / other_count) / (n / count) - 1) <= TOLERANCE:
        return True
    low = max(n / count, other_n / other_count)
    high = min(_upper(n, count), _upper(other_n, other_count))
    return math.ceil(low - 1e-9) < high


def _upper(n: int, count: int) -> float:
    return n / (count - 1) if count > 1 else math.inf


def _check_spacing(ds: xr.Dataset, spec: DataSpec, dims: tuple[str, str]) -> str:
    """Compare the spacing along the dims (y, x) of a grid with that of training, in kilometres.

    Returns
    -------
    str
        Text of a warning; empty if cells are of about the same size.
    """
    trained, found = [spec.axis(dim) for dim in dims], [axis_in(ds, dim) for dim in dims]
    # From two blocks, the second partial, the distance of blocks cannot be inferred.
    coarse = dims != (spec.y, spec.x)
    other = [
        place
        for place, (one, here) in enumerate(zip(trained, found, strict=True))
        if _comparable(one, here, coarse=coarse) and not _same_spacing(one, here)
    ]
    if not other:
        return ""
    place = other[0]
    sizes = _size_along(trained, other), _size_along(found, other)
    apart = sizes[0] / sizes[1] if sizes[0] and sizes[1] else math.inf
    if not 1 / FAR < apart < FAR:
        raise MismatchError.of(
            dims[place],
            expected=f"a grid spacing of {_spacing(trained, place)}, as in the training data",
            got=_spacing(found, place),
            remedy="Interpolate the Dataset to that spacing, or train a model on this grid.",
        )
    if 1 / CLOSE < apart < CLOSE:
        return ""
    return (
        f"{' and '.join(dims)}: cells of {sizes[1]:.3g} km, and the model was trained with "
        f"{sizes[0]:.3g} km: the patterns of its members are of that scale."
    )


def _comparable(trained: Axis, found: Axis, *, coarse: bool) -> bool:
    """Return True for axes with units; numbers without units cannot be compared."""
    if trained.values is None or found.values is None:
        return False
    if {"plain", "index"} & {trained.kind, found.kind}:
        return False
    few = coarse and min(len(trained.values), len(found.values)) < 3
    return not (trained.kind == found.kind and few)


def _same_spacing(trained: Axis, found: Axis) -> bool:
    if trained.kind != found.kind:
        return False
    unknown = np.isnan(trained.spacing) or np.isnan(found.spacing)
    return bool(unknown or abs(found.spacing / trained.spacing - 1) <= TOLERANCE)


def pixel_size(spec: DataSpec) -> float | None:
    """Return the side of the pixels of a training grid in kilometres; None if it is not known."""
    return pixel_km(spec.axis(spec.y), spec.axis(spec.x))


def _size_along(axes: Sequence[Axis], places: Sequence[int]) -> float | None:
    """Return the side of cells in km: of some axes (0 is y, 1 is x) the geometric mean."""
    sides = sides_km(axes[0], axes[1])
    known = [side for place in places if (side := sides[place]) is not None]
    return math.prod(known) ** (1 / len(known)) if known else None


def _spacing(axes: Sequence[Axis], place: int) -> str:
    axis = axes[place]
    if axis.kind == "length":
        return f"{axis.spacing:.6g} m"
    side = sides_km(axes[0], axes[1])[place]
    about = "" if side is None else f", about {side:.3g} km"
    return f"{axis.spacing:.6g} degrees ({axis.kind}){about}"


def warn_of_uneven(ds: xr.Dataset, dims: tuple[str, str]) -> None:
    """Warn of a grid along whose dims (y, x) cells differ in size by more than a quarter."""
    for dim in dims:
        _warn_of_uneven(dim, axis_in(ds, dim))


def _warn_of_uneven(dim: str, axis: Axis) -> None:
    if axis.unevenness > CLOSE:
        warn_user(
            f"{dim}: the distance of neighbours varies, {_uneven(axis)}, and maps are taken as "
            f"cells of one size. {_even_remedy(dim)}",
        )


def _uneven(axis: Axis) -> str:
    assert axis.values is not None
    steps = np.abs(np.diff(axis.values))
    place = int(steps.argmax())
    between = f"{axis.values[place]:.6g} and {axis.values[place + 1]:.6g}"
    return f"{steps.min():.4g} to {steps.max():.4g} (between {between})"


def _even_remedy(dim: str) -> str:
    return f"If rows are missing, select the part without gaps; else ds.interp({dim}=...)."


def moved(found: Axis, trained: Axis) -> bool:
    """Return True for an axis moved since training: comparable, equally long, not equal."""
    values = in_frame_of(found, trained)
    if values is None or trained.values is None or len(values) != len(trained.values):
        return False
    spacing = trained.spacing / trained.metres if len(values) > 1 else 1.0
    return not np.allclose(values, trained.values, rtol=0, atol=TOLERANCE * spacing)


def _check_same_domain(ds: xr.Dataset, spec: DataSpec, size: tuple[int, int]) -> None:
    sizes = {spec.y: (spec.shape[0], size[0]), spec.x: (spec.shape[1], size[1])}
    for variable in spec.variables:
        if variable.regrid:
            continue  # it may have margins of any width
        for dim, n in zip(variable.dims, variable.shape, strict=True):
            sizes.setdefault(dim, (n, ds.sizes.get(dim, n)))
    for dim, (trained, found) in sizes.items():
        elsewhere = moved(axis_in(ds, dim), spec.axis(dim))
        if trained != found or elsewhere:
            raise MismatchError.of(
                dim,
                expected=f"the {trained} cells of the training grid: the model has a "
                "condition from another area, which ties it to its domain",
                got="other coordinates" if elsewhere else f"{found} cells",
                remedy="Give the whole training domain, or train a model on this one.",
            )


def stretching(
    prepared: xr.Dataset, variable: VariableSpec, spec: DataSpec, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weights along y and x that stretch an aligned condition onto the fine grid.

    Parameters
    ----------
    prepared
        From `xcvae.fields.describe.prepare`: coordinates on both sides are in the same units.
    variable
        The condition.
    spec
        Has the names of the dims of the fine grid.
    size
        Size of the fine grid.
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


def stretch_known(
    values: NDArray[Any], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Stretch maps (sample, y, x) with gaps; NaN where less than half of a pixel is known.

    What is known keeps its weights: a gap does not spread over its neighbours.
    """
    known = ~np.isnan(values)
    share, total = (
        stretch(part.astype(np.float32), rows, columns)
        for part in (known, np.where(known, values, 0.0))
    )
    result = np.full(total.shape, np.nan, np.float32)
    np.divide(total, share, out=result, where=share >= 0.5)
    return result


def fine_coords(ds: xr.Dataset, spec: DataSpec) -> dict[str, xr.DataArray]:
    """Return the coordinates of the fine grid of a Dataset without the target, by dim.

    They are those of the Dataset, if it has them; those of the training grid, if the conditions
    lie as in training; else pixels of the training grid's spacing under the first condition. A
    dim without any of these is left out: its conditions are laid edge to edge.
    """
    found: dict[str, xr.DataArray] = {}
    for place, (dim, n) in enumerate(zip((spec.y, spec.x), grid_size(ds, spec), strict=True)):
        coordinate = ds[dim] if dim in ds.coords else _coordinate(ds, spec, place, n)
        if coordinate is not None:
            found[dim] = coordinate
    return found


def _coordinate(ds: xr.Dataset, spec: DataSpec, place: int, n: int) -> xr.DataArray | None:
    """Locate ``n`` pixels along y (place 0) or x (1); None if they cannot be located."""
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
    """Return the dims of the aligned conditions that have a grid of their own."""
    dims = [variable.dims[place] for variable in spec.variables if _is_on_grid(ds, variable)]
    return [dim for dim in dict.fromkeys(dims) if dim not in (spec.y, spec.x)]


def _unmoved(ds: xr.Dataset, spec: DataSpec, own: str, place: int) -> bool:
    """Return True if the cells of a condition lie as in training."""
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
    """Return centres of ``n`` pixels under the cells of a condition, in units of the trained axis.

    None if cells do not cover whole numbers of pixels, or pixels of another size than trained.
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
    # Beyond the outer centres, the outer gaps are continued.
    low = np.clip(np.floor(at).astype(int), 0, len(gaps) - 1)
    values: NDArray[np.float64] = cells[low] + (at - low) * gaps[low]
    spacing = Axis(trained.kind, values, trained.metres).spacing
    return values if abs(spacing / trained.spacing - 1) <= TOLERANCE else None


def divided_coords(ds: xr.Dataset, dims: tuple[str, str], factor: int) -> dict[str, xr.DataArray]:
    """Return the coordinates of a grid whose cells are divided into ``factor`` each way.

    Along each dim the edges of the cells stay where they are. Maps of latitude and longitude are
    interpolated, and continued at the edges. A dim with a single cell has no known width: it gets
    no coordinate.

    Parameters
    ----------
    ds
        Dataset with the coarse grid.
    dims
        Its dims (y, x), which are also those of the fine grid.
    factor
        Pixels along a side of a cell.

    Raises
    ------
    DataError
        Some cells along a dim are at least twice as large as others: rows are missing, or the edges
        of the cells cannot be inferred.

    Warns
    -----
    UserWarning
        Cells differ in size by more than a quarter.
    """
    found: dict[str, xr.DataArray] = {}
    for name, coordinate in ds.coords.items():
        if not set(coordinate.dims) <= set(dims) or not coordinate.ndim:
            continue
        if coordinate.dtype.kind not in "iuf" or min(coordinate.shape) < 2:
            continue
        values = np.asarray(coordinate.values, np.float64)
        hint = str(coordinate.attrs.get("standard_name", name)).lower()
        for axis in range(values.ndim):
            if hint.startswith("lon"):  # 359.5, 0.5: the cells are neighbours
                values = np.unwrap(values, axis=axis, period=360.0)
            if name in dims:
                _check_cells(str(name), Axis("", values))
            if coordinate.ndim == 1:
                values = _divided_axis(values, factor)
            else:
                values = _continued(values, factor, axis)
        attrs = {key: v for key, v in coordinate.attrs.items() if key != "bounds"}
        found[str(name)] = xr.DataArray(values, dims=coordinate.dims, name=name, attrs=attrs)
    return found


def _check_cells(dim: str, axis: Axis) -> None:
    """Warn of uneven cells; refuse those whose edges cannot lie midway between centres."""
    if axis.unevenness > FAR * (1 - TOLERANCE):
        raise DataError.of(
            dim,
            expected="cells of about one size, to be divided into pixels",
            got=f"distances of {_uneven(axis)}",
            remedy=_even_remedy(dim),
        )
    _warn_of_uneven(dim, axis)


def _divided_axis(centres: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Return the centres of the parts of cells, whose edges lie midway between centres.

    Examples
    --------
    >>> _divided_axis(np.array([2.0, 1.0]), 2)
    array([2.25, 1.75, 1.25, 0.75])
    """
    gaps = np.diff(centres)
    inner = centres[:-1] + gaps / 2
    edges = np.concatenate([[centres[0] - gaps[0] / 2], inner, [centres[-1] + gaps[-1] / 2]])
    parts = (np.arange(factor) + 0.5) / factor
    divided: NDArray[np.float64] = (edges[:-1, None] + np.diff(edges)[:, None] * parts).ravel()
    return divided


def _continued(values: NDArray[np.float64], factor: int, axis: int) -> NDArray[np.float64]:
    """Interpolate a map between the centres of cells along an axis, and beyond the outer ones."""
    count = values.shape[axis]
    at = (np.arange(count * factor) + 0.5) / factor - 0.5
    low = np.clip(np.floor(at).astype(int), 0, count - 2)
    shape = [1] * values.ndim
    shape[axis] = -1
    share = (at - low).reshape(shape)
    first, second = np.take(values, low, axis), np.take(values, low + 1, axis)
    between: NDArray[np.float64] = first + share * (second - first)
    return between


def reference_fields(block: xr.Dataset, spec: DataSpec, size: tuple[int, int]) -> NDArray[Any]:
    """Return the reference rain of each sample, which ``min_mass`` is a share of.

    This is the target of samples that were observed, else the first aligned precipitation
    condition, stretched onto the fine grid.

    Parameters
    ----------
    block
        Prepared samples, in memory.
    spec
        What the model knows about the data.
    size
        Rows and columns of the fine grid.

    Returns
    -------
    numpy.ndarray
        (sample, y, x) in the units of the target.
    """
    if spec.target not in block:
        return _stretched_rain(block, spec, size)
    reference = np.array(block[spec.target].values)
    unobserved = np.isnan(reference).all(axis=(1, 2))
    if unobserved.any():
        reference[unobserved] = _stretched_rain(block.isel({spec.sample: unobserved}), spec, size)
    return reference


def check_reference(prepared: xr.Dataset, spec: DataSpec) -> None:
    """Check that the samples have a reference for the rain of members.

    Lazy observations are read if the model has no rain condition that could stand in for them.

    Raises
    ------
    MissingVariableError
        Some samples have neither an observation nor an aligned precipitation condition.
    UnitsError
        The condition is not in units that convert into those of the target.
    """
    target, known = prepared.get(spec.target), spec.rain_condition
    got = f"only {', '.join(map(str, prepared.data_vars)) or 'no variables'}"
    if target is not None:
        if known and not target.variable._in_memory:
            return  # samples without an observation are seen when they are drawn
        observed = target.notnull().any((spec.y, spec.x)).compute().values
        if observed.all():
            return
        first = labels_of(prepared, spec.sample)[int(np.argmin(observed))]
        got = f"{int((~observed).sum())} samples without any, first {first}"
    if known is None:
        raise MissingVariableError.of(
            "min_mass",
            expected=f"an observation of '{spec.target}' in every sample, or a precipitation "
            "condition that covers it, to know how much rain a sample should have",
            got=got,
            remedy="Keep the target in the Dataset and leave such samples out, or min_mass.",
        )
    _scale(known, spec)


def _scale(variable: VariableSpec, spec: DataSpec) -> float:
    what = f"condition '{variable.name}'"
    return rain_scale(variable.units, spec.units, spec.step_seconds, what=what)


def _stretched_rain(block: xr.Dataset, spec: DataSpec, size: tuple[int, int]) -> NDArray[Any]:
    """Stretch the first coarse rain onto the fine grid, in the units of the target."""
    variable = spec.rain_condition
    assert variable is not None
    fine = block[variable.name].values
    if variable.stretched:
        rows, columns = stretching(block, variable, spec, size)
        fine = (stretch_known if variable.gaps else stretch)(fine, rows, columns)
    return np.asarray(_scale(variable, spec) * fine)
