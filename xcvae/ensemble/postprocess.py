"""What happens to drawn rain before it is handed over: thresholds and caps, in physical units.

A post-processor is a component that takes one block of members, dims (realization, sample, y, x)
with ``units``, and returns it changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, UnitsError, explain
from xcvae.fields.spec import DataSpec
from xcvae.fields.units import parse_quantity, units_of
from xcvae.registry import Component

__all__ = [
    "Clip",
    "Context",
    "NotPhysicalError",
    "Postprocessor",
    "Round",
    "Threshold",
    "physical_units",
]


class NotPhysicalError(UnitsError, TypeError):
    """Something without units, such as a bare array or a tensor, was given as a field."""


@dataclass(frozen=True)
class Context:
    """What a post-processor may know besides the field.

    Parameters
    ----------
    spec
        What the model knows about the data: units, wet threshold, daily or not.
    mode
        ``"prior"`` or ``"posterior"``.
    inputs
        The conditions of the samples in the block, dims as in ``spec.variables``, in physical
        units. Without variables where there is nothing to say.
    """

    spec: DataSpec
    mode: str
    inputs: xr.Dataset = field(default_factory=xr.Dataset)


class Postprocessor(Protocol):
    """The shape of every post-processor."""

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        """Return the field changed: same dims, shape and units."""
        ...


@dataclass(frozen=True)
class Threshold(Component):
    """Set what is below a value to exactly zero: drizzle that no gauge would report.

    Parameters
    ----------
    value
        A quantity with units (``"0.1 mm h-1"``), or a number in the units of the field.
    """

    value: str | float

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        """Return the field with values below the threshold set to 0; NaN stays NaN.

        Raises
        ------
        UnitsError
            The field has no units, or they do not convert into those of the threshold.
        """
        limit = _in_units_of(field, self.value, "threshold, parameter 'value'")
        # NumPy's where takes a quarter of the time that xarray's does.
        return field.copy(data=np.where(field.data < limit, field.dtype.type(0), field.data))


@dataclass(frozen=True)
class Clip(Component):
    """Cap values at a physical maximum (and, if wanted, lift them to a minimum).

    Parameters
    ----------
    maximum, minimum
        A quantity with units (``"200 mm/day"``), or a number in the units of the field.
    """

    maximum: str | float
    minimum: str | float | None = None

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        """Return the field within [minimum, maximum]; NaN stays NaN.

        Raises
        ------
        UnitsError
            The field has no units, or they do not convert into those of the limits.
        ComponentError
            The minimum is above the maximum.
        """
        high = _in_units_of(field, self.maximum, "clip, parameter 'maximum'")
        low = None
        if self.minimum is not None:
            low = _in_units_of(field, self.minimum, "clip, parameter 'minimum'")
            if low > high:
                raise ComponentError(
                    explain(
                        "clip, parameter 'minimum'",
                        expected=f"at most the maximum, {high:g} {field.attrs['units']}",
                        got=f"{low:g} {field.attrs['units']}",
                        remedy="Exchange the two, or leave the minimum out.",
                    )
                )
        return field.clip(min=low, max=high, keep_attrs=True)


@dataclass(frozen=True)
class Round(Component):
    """Report rain in the steps of the instrument, as the record that it is compared with does.

    A radar product that stores multiples of 0.12 mm h-1 has no 0.15: without this, the smallest
    observed value alone sets draws and observations apart in a Kolmogorov-Smirnov test.

    Parameters
    ----------
    step
        A quantity with units (``"0.12 mm h-1"``), or a number in the units of the field.
    """

    step: str | float

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        """Return the field in multiples of the step; NaN stays NaN.

        Raises
        ------
        UnitsError
            The field has no units, or they do not convert into those of the step.
        ComponentError
            The step is not positive.
        """
        step = _in_units_of(field, self.step, "round, parameter 'step'")
        if step <= 0:
            raise ComponentError(
                explain(
                    "round, parameter 'step'",
                    expected="more than 0",
                    got=repr(self.step),
                    remedy="Give the resolution of the record, such as '0.12 mm h-1'.",
                )
            )
        steps = np.round(field.data / step)
        return field.copy(data=(steps * step).astype(field.dtype))


def _in_units_of(field: object, value: str | float, what: str) -> float:
    return parse_quantity(value, units=physical_units(field), what=what)


def physical_units(field: object) -> str:
    """Return the units of a physical field.

    Raises
    ------
    NotPhysicalError
        It is not a DataArray.
    UnitsError
        It has no units, or unknown ones.
    """
    if not isinstance(field, xr.DataArray):
        raise NotPhysicalError(
            explain(
                "field",
                expected="an xarray.DataArray with physical values and units",
                got=type(field).__name__,
                remedy="Arrays and tensors say nothing about their units: wrap the physical "
                "values in a DataArray with attrs={'units': 'mm h-1'} or the like.",
            )
        )
    return units_of(field)
