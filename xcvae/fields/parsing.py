"""Units as pint sees them, with one thing added: water has a depth.

The registry is that of cf-xarray, which reads what CF and UDUNITS files contain (``mm d-1``,
``m**2 s**-2``, ``kg m-2 s-1``). Mass of liquid water per area counts as depth, 1 kg m-2 = 1 mm.
pint takes most of a second to load: it is imported when the first units are read that are not among
the few that are met every day.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from xcvae.errors import UnitsError, explain

__all__ = ["DEPTH", "PRECIPITATION", "affine", "exponents_of", "per_day", "verify"]

_WATER = 1000.0  # density of liquid water in kg m-3

# Dimensions of pint, as (length, mass, time) exponents, of the four ways to give precipitation.
Exponents = tuple[float, float, float]
DEPTH: Exponents = (1.0, 0.0, 0.0)
RATE: Exponents = (1.0, 0.0, -1.0)
MASS: Exponents = (-2.0, 1.0, 0.0)
FLUX: Exponents = (-2.0, 1.0, -1.0)
PRECIPITATION = (DEPTH, RATE)

#: What pint says of units met every day, so that it need not be asked: their exponents, one of
#: several equal spellings, and the factors between them.
FREQUENT: dict[str, tuple[Exponents, str]] = {
    "m": (DEPTH, "m"),
    "km": (DEPTH, "km"),
    "mm": (DEPTH, "mm"),
    "mm h-1": (RATE, "mm h-1"),
    "mm/h": (RATE, "mm h-1"),
    "mm d-1": (RATE, "mm d-1"),
    "mm day-1": (RATE, "mm d-1"),
    "mm/day": (RATE, "mm d-1"),
}
FACTORS = {("km", "m"): 1000.0}


@lru_cache(maxsize=256)
def parse(units: str) -> Any:
    """Return units as a pint quantity (``0.1 mm`` has a magnitude), or raise ValueError."""
    from cf_xarray.units import units as registry

    try:
        quantity = registry(units)
        if quantity.magnitude == 1:
            # Not by way of arithmetic, which turns an offset unit (degC) into its base unit.
            quantity = registry.Quantity(1.0, quantity.units)
        magnitude = float(quantity.magnitude)
    except Exception as error:  # pint raises a dozen types, AssertionError and TypeError included
        raise ValueError(f"{units!r}: {error}") from error
    if not (magnitude > 0 and math.isfinite(magnitude)):
        raise ValueError(f"{units!r} is an expression, not a unit")
    return quantity


def quantity_of(units: str, what: str) -> Any:
    """Units of ``what`` as a pint quantity; UnitsError if there are no such units."""
    try:
        return parse(units)
    except ValueError as error:
        raise UnitsError(
            explain(
                what,
                expected="units such as 'mm h-1', 'mm/day', 'kg m-2 s-1', 'K' or '1'",
                got=f"{units!r}, which is not known",
                remedy=f"Correct them: ds[{what!r}].attrs['units'] = '...'.",
            )
        ) from error


def dimensions_of(quantity: Any) -> Exponents | None:
    """Exponents of length, mass and time, None if anything else is in it."""
    exponents = dict(quantity.dimensionality)
    found = tuple(exponents.pop(f"[{name}]", 0) for name in ("length", "mass", "time"))
    return None if exponents else (found[0], found[1], found[2])


def as_depth(quantity: Any) -> Any:
    """Turn mass of water per area (and time) into depth (and rate); leave the rest."""
    if dimensions_of(quantity) in (MASS, FLUX):
        return quantity / quantity._REGISTRY.Quantity(_WATER, "kg m-3")
    return quantity


def verify(units: str, what: str) -> None:
    """Raise UnitsError if there are no such units."""
    if units not in FREQUENT:
        quantity_of(units, what)


def exponents_of(units: str) -> Exponents | None:
    """Exponents of length, mass and time, mass of water per area being a depth.

    None for any other units, and for what are none.
    """
    if units in FREQUENT:
        return FREQUENT[units][0]
    try:
        return dimensions_of(as_depth(parse(units)))
    except ValueError:
        return None


def per_day(units: str) -> bool:
    """Whether units are per day; False for what are none."""
    if units in FREQUENT:
        return FREQUENT[units][1].endswith(" d-1")
    try:
        return bool(dict(parse(units).unit_items()).get("day") == -1)
    except ValueError:
        return False


def affine(source: str, wanted: str, what: str) -> tuple[float, float]:
    """Return (scale, offset): wanted = scale * source + offset, or raise UnitsError."""
    if (source, wanted) in FACTORS:
        return FACTORS[source, wanted], 0.0
    if source in FREQUENT and wanted in FREQUENT and FREQUENT[source] == FREQUENT[wanted]:
        return 1.0, 0.0
    start, end = quantity_of(source, what), quantity_of(wanted, what)
    if source == wanted:
        return 1.0, 0.0
    if dimensions_of(start) is not None:
        start, end = as_depth(start), as_depth(end)
    if start.dimensionality != end.dimensionality:
        raise UnitsError(
            explain(
                what,
                expected=f"units that convert to {wanted!r}",
                got=repr(source),
                remedy=_conversion_remedy(start, end),
            )
        )
    # Two points determine the line; offsets (degC to K) are not a matter of multiplication.
    points = start._REGISTRY.Quantity(np.array([0.0, 1.0]) * start.magnitude, start.units)
    zero, one = (points.to(end.units).magnitude / end.magnitude).tolist()
    offset = zero if abs(zero) > 1e-12 * abs(one) else 0.0
    return one - offset, offset


def _conversion_remedy(start: Any, end: Any) -> str:
    if {dimensions_of(start), dimensions_of(end)} == {DEPTH, RATE}:
        return (
            "One is a depth and the other a rate: divide the depth by the length of its "
            "accumulation period, or multiply the rate by it, and set the new units."
        )
    return "Check which variable this is, and its attribute 'units'."
