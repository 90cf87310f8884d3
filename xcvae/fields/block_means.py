"""Coarse rain that is the mean of blocks of fine pixels: whether it is, and which."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import ConfigError, explain
from xcvae.fields.dataspec import DataSpec, VariableSpec
from xcvae.fields.scaling import blocks_of
from xcvae.fields.units import to_units

__all__ = ["block_condition", "check_block_means", "kept_blocks", "repeated", "whole_blocks"]

#: Largest difference between block means of the target and the condition, as a share of the
#: larger of the block's rain and the wet threshold. Packed integers and float32 stay below it.
TOLERANCE = 0.02


def block_condition(spec: DataSpec) -> VariableSpec | None:
    """Return the condition that can be block means: the first aligned rain, if it is coarser."""
    for variable in spec.variables:
        if variable.aligned and variable.precipitation and variable.role == "condition":
            return variable if variable.shape != spec.shape else None
    return None


def whole_blocks(spec: DataSpec) -> int:
    """Pixels along a side of the blocks that the coarse rain stands for.

    Raises
    ------
    ConfigError
        If there is no coarse rain, or its cells do not hold whole square blocks of pixels.
    """
    variable = block_condition(spec)
    if variable is None:
        raise _not_blocks("no rain condition that is coarser than the target and covers its domain")
    (height, width), (rows, columns) = spec.shape, variable.shape
    if height % rows or width % columns or height // rows != width // columns:
        raise _not_blocks(f"{rows} x {columns} cells over {height} x {width} pixels")
    return height // rows


def check_block_means(prepared: xr.Dataset, spec: DataSpec) -> None:
    """Make sure that the coarse rain is the target's block means, in all samples.

    Raises
    ------
    ConfigError
        If the target has gaps, or a block mean differs from the condition.
    """
    variable, side = block_condition(spec), whole_blocks(spec)
    assert variable is not None
    names = [spec.target, variable.name]
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


def kept_blocks(
    prepared: xr.Dataset, spec: DataSpec, size: tuple[int, int], side: int
) -> VariableSpec:
    """Return the condition whose block means are kept, if its cells lie over the pixels as trained.

    Raises
    ------
    ConfigError
        If cells are not ``side`` pixels wide, or run the other way than the pixels.
    """
    variable = block_condition(spec)
    assert variable is not None
    cells = [prepared.sizes[dim] for dim in variable.dims]
    if [n * side for n in cells] != list(size):
        raise _not_blocks(f"{cells[0]} x {cells[1]} cells over {size[0]} x {size[1]} pixels")
    for own, fine in zip(variable.dims, (spec.y, spec.x), strict=True):
        if own in prepared.coords and fine in prepared.coords:
            ways = [float(prepared[d].values[-1] - prepared[d].values[0]) for d in (own, fine)]
            if ways[0] * ways[1] < 0:
                raise _not_blocks(f"cells along '{own}' that run against '{fine}'")
    return variable


def repeated(coarse: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Repeat coarse values (sample, rows, columns) over the pixels of their blocks.

    Raises
    ------
    ConfigError
        If the blocks are not whole.
    """
    rows, columns = coarse.shape[-2:]
    if size[0] % rows or size[1] % columns:
        raise _not_blocks(f"{rows} x {columns} cells over {size[0]} x {size[1]} pixels")
    return coarse.repeat(size[0] // rows, axis=-2).repeat(size[1] // columns, axis=-1)


def _not_blocks(got: str) -> ConfigError:
    return ConfigError(
        explain(
            "generator.constrain",
            expected="a condition that is the mean of whole square blocks of the target",
            got=got,
            remedy="Leave `constrain` out, or derive the condition with coarsen=.",
        )
    )
