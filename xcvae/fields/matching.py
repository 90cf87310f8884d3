"""Whether a Dataset belongs to a model: its variables, dims and grids."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from xcvae.errors import MismatchError, explain, nearest
from xcvae.fields.alignment import Axis, axis_of, in_frame_of
from xcvae.fields.dataspec import DataSpec

__all__ = ["TOLERANCE", "axis_in", "check_match", "grid_size", "moved"]

TOLERANCE = 0.01  # by which grid spacings and their ratios may differ, relative


def axis_in(ds: xr.Dataset, dim: str) -> Axis:
    """Return the axis of a Dataset along a dim."""
    if dim not in ds.coords:
        return Axis("none", None)
    return axis_of(dim, ds[dim].values, ds[dim].attrs)


def check_match(ds: xr.Dataset, spec: DataSpec, *, need_target: bool) -> None:
    """Check that a Dataset has what a model was trained on; reads no values.

    A model without maps of another area may be used on another grid of the same kind: same
    spacing (within 1 %), same number of target pixels to a condition's pixel.

    Raises
    ------
    MismatchError
        Variables are missing, dims differ, or the grid is not one that the model can be used on.
    """
    expected = _expected_dims(ds, spec, need_target=need_target)
    for name, dims in expected.items():
        _check_variable(ds, name, dims)
    size = grid_size(ds, spec)
    if spec.located:
        _check_same_domain(ds, spec, size)
        return
    for dim in spec.coordinates:
        _check_spacing(ds, spec, dim)
    for variable in spec.variables:
        if variable.role == "static" or not variable.shape or variable.name not in expected:
            continue
        for own, trained, n, n_trained in zip(
            variable.dims, variable.shape, size, spec.shape, strict=True
        ):
            if not _same_ratio(n_trained, trained, n, ds.sizes[own]):
                raise MismatchError(
                    explain(
                        variable.name,
                        expected=f"{n_trained / trained:.4g} target pixels to one of its pixels "
                        f"along {own!r}, as in the training data",
                        got=f"{n} to {ds.sizes[own]}, which is {n / ds.sizes[own]:.4g}",
                        remedy="Cut target and condition to the same area, and keep their "
                        "resolutions.",
                    )
                )


def _expected_dims(
    ds: xr.Dataset, spec: DataSpec, *, need_target: bool
) -> dict[str, tuple[str, ...]]:
    """Names of the variables that must be in the Dataset, and their dims."""
    expected: dict[str, tuple[str, ...]] = {}
    if need_target or spec.target in ds.variables:
        expected[spec.target] = (spec.sample, spec.y, spec.x)
    for variable in spec.variables:
        if variable.name == spec.derived and spec.target in expected:
            continue
        samples = (spec.sample,) if variable.sampled else ()
        expected[variable.name] = (*samples, *variable.dims)
    return expected


def _check_variable(ds: xr.Dataset, name: str, dims: tuple[str, ...]) -> None:
    if name not in ds.variables:
        raise MismatchError(
            explain(
                "Dataset",
                expected=f"variable {name!r}, which the model was trained with",
                got="none of that name",
                remedy=f"Add it, or rename: ds.rename(old={name!r}). {nearest(name, ds.data_vars)}",
            )
        )
    if set(ds[name].dims) != set(dims):
        raise MismatchError(
            explain(
                name,
                expected=f"dims ({', '.join(dims)}), as in the training data",
                got=f"({', '.join(map(str, ds[name].dims))})",
                remedy="Rename or select dims: ds.rename(...), ds.isel(...).",
            )
        )


def grid_size(ds: xr.Dataset, spec: DataSpec) -> tuple[int, int]:
    """Return the size (y, x) of the fine grid, also where only coarse conditions tell."""
    height, width = _size_by_conditions(ds, spec)
    return ds.sizes.get(spec.y, height), ds.sizes.get(spec.x, width)


def _size_by_conditions(ds: xr.Dataset, spec: DataSpec) -> tuple[int, int]:
    for variable in spec.variables:
        if variable.aligned and variable.role == "condition" and variable.name in ds.variables:
            ratio = spec.coarsen if variable.name == spec.derived else None
            sizes = [
                n if count == ds.sizes[dim] else _stretched(n, count, ds.sizes[dim], ratio)
                for dim, n, count in zip(variable.dims, spec.shape, variable.shape, strict=True)
            ]
            return sizes[0], sizes[1]
    return spec.shape


def _stretched(n: int, count: int, other: int, ratio: int | None) -> int:
    """Size of a fine axis over ``other`` coarse cells, if ``n`` lie over ``count``."""
    if ratio is None and _same_ratio(n, count, -(-n // count) * count, count):
        ratio = -(-n // count)
    return other * ratio if ratio is not None else round(other * n / count)


def _same_ratio(n: int, count: int, other_n: int, other_count: int) -> bool:
    """Whether two pairs of fine and coarse sizes have the same ratio.

    An odd size ends in a partial block, count = ceil(n / ratio), so that the sizes tell the ratio
    to an interval: they agree when a whole number lies in both.
    """
    if abs((other_n / other_count) / (n / count) - 1) <= TOLERANCE:
        return True
    low = max(n / count, other_n / other_count)
    high = min(_upper(n, count), _upper(other_n, other_count))
    return math.ceil(low - 1e-9) < high


def _upper(n: int, count: int) -> float:
    return n / (count - 1) if count > 1 else math.inf


def _check_spacing(ds: xr.Dataset, spec: DataSpec, dim: str) -> None:
    trained, found = spec.axis(dim), axis_in(ds, dim)
    if (
        trained.values is None
        or found.values is None
        or {"plain", "index"}
        & {
            trained.kind,
            found.kind,
        }
    ):
        # Numbers without units: nothing that could be compared.
        return
    same = trained.kind == found.kind
    # Two blocks, the second partial, do not tell how far apart blocks are.
    few = dim not in (spec.y, spec.x) and min(len(trained.values), len(found.values)) < 3
    if same and few:
        return
    if same and (np.isnan(trained.spacing) or np.isnan(found.spacing)):
        return
    if not same or abs(found.spacing / trained.spacing - 1) > TOLERANCE:
        raise MismatchError(
            explain(
                dim,
                expected=f"a grid spacing of {_spacing(trained)}, as in the training data",
                got=_spacing(found),
                remedy="Interpolate the Dataset to that spacing, or train a model on this grid.",
            )
        )


def _spacing(axis: Axis) -> str:
    unit = "m" if axis.kind == "length" else f"degrees ({axis.kind})"
    return f"{axis.spacing:.6g} {unit}"


def moved(found: Axis, trained: Axis) -> bool:
    """Whether an axis lies elsewhere than in training: comparable, of one length, not equal."""
    values = in_frame_of(found, trained)
    if values is None or trained.values is None or len(values) != len(trained.values):
        return False
    spacing = trained.spacing / trained.metres if len(values) > 1 else 1.0
    return not np.allclose(values, trained.values, rtol=0, atol=TOLERANCE * spacing)


def _check_same_domain(ds: xr.Dataset, spec: DataSpec, size: tuple[int, int]) -> None:
    sizes = {spec.y: (spec.shape[0], size[0]), spec.x: (spec.shape[1], size[1])}
    for variable in spec.variables:
        for dim, n in zip(variable.dims, variable.shape, strict=True):
            sizes.setdefault(dim, (n, ds.sizes.get(dim, n)))
    for dim, (trained, found) in sizes.items():
        elsewhere = moved(axis_in(ds, dim), spec.axis(dim))
        if trained != found or elsewhere:
            raise MismatchError(
                explain(
                    dim,
                    expected=f"the {trained} cells of the training grid: the model has a "
                    "condition from another area, which ties it to its domain",
                    got="other coordinates" if elsewhere else f"{found} cells",
                    remedy="Give the whole training domain, or train a model on this one.",
                )
            )
