"""What happens to drawn rain before it is handed over: thresholds and caps, in physical units.

A post-processor is a component that takes one block of members, dims (realization, sample, y, x)
with ``units``, and returns it changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, UnitsError, explain
from xcvae.fields.describe import DataSpec
from xcvae.fields.units import parse_quantity, units_of
from xcvae.registry import Component, build, call, describe

__all__ = [
    "ChangeStats",
    "Clip",
    "Context",
    "NotPhysicalError",
    "Postprocessor",
    "Round",
    "Threshold",
    "apply_chain",
    "build_chain",
    "describe_chain",
    "dry_run",
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


@dataclass(frozen=True)
class ChangeStats:
    """What one post-processor changed; adds up over blocks.

    Parameters
    ----------
    pixels
        Number of pixels whose value was changed (for ``threshold``: set to zero).
    mass
        Sum over pixels of the values before minus after, in the units of the field.
    of_pixels, of_mass
        Number of valid pixels, and their sum, before the change.
    """

    pixels: int = 0
    mass: float = 0.0
    of_pixels: int = 0
    of_mass: float = 0.0

    def __add__(self, other: ChangeStats) -> ChangeStats:
        """Join the counts of two blocks."""
        return ChangeStats(
            self.pixels + other.pixels,
            self.mass + other.mass,
            self.of_pixels + other.of_pixels,
            self.of_mass + other.of_mass,
        )

    def to_json(self) -> dict[str, float]:
        """Return the counts and their shares of the whole (0 of nothing is 0)."""
        return {
            "pixels": self.pixels,
            "pixels_share": self.pixels / self.of_pixels if self.of_pixels else 0.0,
            "mass": self.mass,
            "mass_share": self.mass / self.of_mass if self.of_mass else 0.0,
        }


def build_chain(postprocess: object, spec: DataSpec) -> tuple[Postprocessor, ...]:
    """Build the post-processors of an ensemble.

    Parameters
    ----------
    postprocess
        None for the default (threshold at the drizzle threshold of the data), or one component
        or a sequence of components, each given as a name, a dict or an instance. An empty
        sequence leaves the draws as they are.
    spec
        What the model knows about the data.

    Raises
    ------
    ComponentError
        A component or one of its parameters is unknown or wrong.
    """
    if postprocess is None:
        postprocess = Threshold(f"{spec.drizzle_threshold!r} {spec.units}")
    if not isinstance(postprocess, list | tuple):
        postprocess = [postprocess]
    return tuple(build("postprocessor", one) for one in postprocess)


def dry_run(chain: Iterable[Postprocessor], context: Context, shape: tuple[int, int]) -> None:
    """Run the chain on one dry map: wrong units and broken plugins show before any drawing.

    Raises
    ------
    UnitsError, ComponentError
        As :func:`apply_chain` raises them.
    """
    spec = context.spec
    dims = ("realization", spec.sample, spec.y, spec.x)
    values = np.zeros((1, 1, *shape), "float32")
    dry = xr.DataArray(values, dims=dims, name=spec.target, attrs={"units": spec.units})
    apply_chain(dry, chain, context)


def describe_chain(
    chain: Iterable[Postprocessor], removed: Sequence[ChangeStats] | None
) -> list[dict[str, Any]]:
    """Describe each post-processor with its parameters and what it removed (None: not known)."""
    chain = tuple(chain)
    counts = [one.to_json() for one in removed] if removed is not None else [None] * len(chain)
    return [
        {**describe("postprocessor", one), "removed": count}
        for one, count in zip(chain, counts, strict=True)
    ]


def apply_chain(
    field: xr.DataArray, chain: Iterable[Postprocessor], context: Context
) -> tuple[xr.DataArray, tuple[ChangeStats, ...]]:
    """Apply post-processors in their order.

    Parameters
    ----------
    field
        Physical values with ``units``, dims (realization, sample, y, x).
    chain
        Post-processors, as :func:`build_chain` returns them.
    context
        What they may know besides the field.

    Returns
    -------
    xarray.DataArray, tuple of Removed
        The field after the last one, and what each one changed.

    Raises
    ------
    UnitsError
        The field has no units.
    NotPhysicalError
        The field is not a DataArray.
    ComponentError
        A post-processor failed, or returned something else than a field of the same dims, shape
        and units.
    """
    physical_units(field)
    removed = []
    for one in chain:
        after = call("postprocessor", one, field, context)
        _check_kept(one, field, after)
        removed.append(_count(field.values, after.values))
        field = after
    return field, tuple(removed)


def _check_kept(one: Postprocessor, before: xr.DataArray, after: object) -> None:
    """A post-processor changes values, never what they mean."""
    expected = _signature(before)
    if isinstance(after, xr.DataArray):
        got = _signature(after)
        if got == expected:
            return
    else:
        got = type(after).__name__
    raise ComponentError(
        explain(
            f"post-processor '{describe('postprocessor', one)['name']}'",
            expected=f"to return a DataArray like the one it got, {expected}",
            got=got,
            remedy="Return the field with its values changed, and keep dims and attrs "
            "(xarray: keep_attrs=True).",
        )
    )


def _signature(field: xr.DataArray) -> str:
    return f"dims {dict(field.sizes)}, units {field.attrs.get('units')!r}"


def _count(before: np.ndarray, after: np.ndarray) -> ChangeStats:
    """Count what changed between two arrays of the same shape; NaN is no pixel."""
    # Map by map: a map stays in the cache, a block does not.
    size = before.shape[-2] * before.shape[-1]
    maps = zip(before.reshape(-1, size), after.reshape(-1, size), strict=True)
    return sum((_count_map(one, other) for one, other in maps), start=ChangeStats())


def _count_map(before: np.ndarray, after: np.ndarray) -> ChangeStats:
    mass = float(before.sum(dtype="float64"))
    if np.isnan(mass):
        valid = ~np.isnan(before)
        before, after = before[valid], after[valid]
        mass = float(before.sum(dtype="float64"))
    return ChangeStats(
        pixels=int(np.count_nonzero(before != after)),
        mass=mass - float(after.sum(dtype="float64")),
        of_pixels=before.size,
        of_mass=mass,
    )
