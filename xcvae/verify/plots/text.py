"""What rain is shown in: units and amounts as people write them, labels of samples, classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xcvae.errors import MismatchError, UnitsError
from xcvae.fields.units import factor, is_daily

if TYPE_CHECKING:
    from xcvae.verify.pairing import MatchedPair

__all__ = [
    "amount",
    "class_edges",
    "coarse_rain",
    "display_factor",
    "display_units",
    "label_of",
    "labelled",
    "pretty",
]

HOURLY_CLASSES = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
DAILY_CLASSES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0)

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def coarse_rain(task: MatchedPair) -> xr.DataArray | None:
    """Return the coarse rain an ensemble was made from; None where the Dataset has none."""
    try:
        found = task.for_baselines()
    except MismatchError:
        return None  # a picture of the rest is still worth having
    return found[found.attrs["condition"]] if "condition" in found.attrs else None


def class_edges(observed: xr.DataArray, sample: str) -> tuple[float, ...]:
    """Lower ends of classes of intensity, in the units of the data; the first is zero."""
    shown = display_units(observed, sample)
    levels = DAILY_CLASSES if is_daily(observed, sample) else HOURLY_CLASSES
    scale = factor(shown, str(observed.attrs["units"]), what=str(observed.name))
    return tuple(float(f"{level * scale:.12g}") for level in levels)


def pretty(units: str) -> str:
    """Write units the way they are printed.

    Examples
    --------
    >>> pretty("mm h-1"), pretty("kg m-2 s-1"), pretty("1")
    ('mm h⁻¹', 'kg m⁻² s⁻¹', '')
    """
    if units == "1":
        return ""
    words = []
    for word in units.replace("**", "").replace("^", "").split():
        head = word.rstrip("-0123456789")
        words.append(head + word[len(head) :].translate(_SUPERSCRIPTS) if head else word)
    return " ".join(words)


def display_units(field: xr.DataArray, sample: str) -> str:
    """Choose mm h-1, mm d-1 or mm: what rain is shown in, whatever it is stored in.

    Parameters
    ----------
    field
        Rain with the attribute ``units`` and the dim ``sample``.
    sample
        Name of the sample dim.
    """
    units = str(field.attrs["units"])
    try:
        factor(units, "mm", what=str(field.name))
    except UnitsError:
        return "mm d-1" if is_daily(field, sample) else "mm h-1"
    return "mm"


def display_factor(field: xr.DataArray) -> float:
    """Return what turns values in the units of the data into those that are shown."""
    sample = str(field.dims[0])
    return factor(str(field.attrs["units"]), display_units(field, sample), what=str(field.name))


def amount(field: xr.DataArray, value: float) -> str:
    """Write an amount in the units of the data as people do."""
    units = display_units(field, str(field.dims[0]))
    return f"{value * display_factor(field):.4g} {pretty(units)}"


def labelled(text: str, units: str) -> str:
    """Write what an axis shows, with its units where it has any.

    Examples
    --------
    >>> labelled("observed", "mm h-1"), labelled("share of pixels", "1")
    ('observed [mm h⁻¹]', 'share of pixels')
    """
    printed = pretty(units)
    return f"{text} [{printed}]" if printed else text


def label_of(value: object, *, days: bool = False) -> str:
    """Write a sample label for a title: times to the minute, or to the day.

    Examples
    --------
    >>> time = np.datetime64("2018-05-17T14:25")
    >>> label_of(time), label_of(time, days=True)
    ('2018-05-17 14:25', '2018-05-17')
    """
    array = np.asarray(value)
    if array.dtype.kind == "M":
        return str(np.datetime_as_string(array, unit="D" if days else "m")).replace("T", " ")
    item = array.item()
    if hasattr(item, "strftime"):  # calendars of cftime
        return str(item.strftime("%Y-%m-%d" if days else "%Y-%m-%d %H:%M"))
    return str(item)
