"""Coarse rain as the mean of blocks of fine pixels: checks, and repetition over the blocks."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import ConfigError
from xcvae.fields.dataspec import DataSpec, VariableSpec
from xcvae.fields.scaling import blocks_of
from xcvae.fields.units import to_units

#: Largest difference between block means of the target and the condition, as a share of the
#: larger of the block's rain and the wet threshold. Packed integers and float32 stay below it.
TOLERANCE = 0.02


def block_condition(spec: DataSpec) -> VariableSpec | None:
    """Return the condition that can be block means: the first aligned rain, if it is coarser."""
    for variable in spec.variables:
        if variable.aligned and variable.precipitation and variable.role == "condition":
            whole = variable.stretched and not variable.gaps
            return variable if whole and variable.shape != spec.shape else None
    return None


def whole_blocks(spec: DataSpec) -> int:
    """Return the side, in pixels, of the blocks that the cells of the coarse rain cover.

    Raises
    ------
    ConfigError
        The coarse rain is missing, or its cells do not cover whole square blocks of pixels.
    """
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


def _not_blocks(got: str) -> ConfigError:
    return ConfigError.of(
        "generator.constrain",
        expected="a condition that is the mean of whole square blocks of the target",
        got=got,
        remedy="Leave `constrain` out, or derive the condition with coarsen=.",
    )
