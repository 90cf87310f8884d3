"""How much rain a sample should have: the reference of ``min_mass``."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xcvae.errors import MissingVariableError, explain
from xcvae.fields.grids import stretching
from xcvae.fields.spec import DataSpec, VariableSpec
from xcvae.fields.units import factor

__all__ = ["check_reference", "reference_fields"]


def reference_fields(block: xr.Dataset, spec: DataSpec, size: tuple[int, int]) -> np.ndarray:
    """Return the rain that members of each sample are compared with.

    That is the observed target where ``block`` has it, else the first aligned precipitation
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

    Raises
    ------
    MissingVariableError
        There is neither.
    """
    if spec.target in block:
        return np.asarray(block[spec.target].values)
    return _stretched(block, _rain_condition(block, spec), spec, size)


def check_reference(prepared: xr.Dataset, spec: DataSpec) -> None:
    """Make sure that there is something to compare the rain of members with.

    Raises
    ------
    MissingVariableError
        There is neither the target nor an aligned precipitation condition.
    UnitsError
        The condition is not in units that convert into those of the target.
    """
    if spec.target not in prepared:
        _scale(_rain_condition(prepared, spec), spec)


def _rain_condition(ds: xr.Dataset, spec: DataSpec) -> VariableSpec:
    for variable in spec.variables:
        if variable.precipitation and variable.aligned and variable.role == "condition":
            return variable
    raise MissingVariableError(
        explain(
            "min_mass",
            expected=f"the target '{spec.target}' or a precipitation condition that covers it, "
            "to know how much rain a sample should have",
            got=f"only {', '.join(map(str, ds.data_vars)) or 'no variables'}",
            remedy="Keep the target in the Dataset, or leave min_mass out.",
        )
    )


def _scale(variable: VariableSpec, spec: DataSpec) -> float:
    return factor(variable.units, spec.units, what=f"condition '{variable.name}'")


def _stretched(
    block: xr.Dataset, variable: VariableSpec, spec: DataSpec, size: tuple[int, int]
) -> np.ndarray:
    """Stretch a coarse condition onto the fine grid, in the units of the target."""
    rows, columns = stretching(block, variable, spec, size)
    fine = np.einsum("yi,sij,xj->syx", rows, block[variable.name].values, columns)
    return np.asarray(_scale(variable, spec) * fine)
