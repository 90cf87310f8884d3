"""Text of figures: units and amounts in print, labels of samples, classes of amounts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xcvae.errors import DataError, MismatchError
from xcvae.fields.units import converts, factor, is_daily, step_of

if TYPE_CHECKING:
    from xcvae.verify.pairing import MatchedPair


HOURLY_CLASSES = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
DAILY_CLASSES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0)

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def coarse_rain(match: MatchedPair) -> xr.DataArray | None:
    """Return the coarse rain that an ensemble was drawn from; None if the Dataset lacks it."""
    try:
        found = match.for_baselines()
    except MismatchError:
        return None  # the rest of the figure is still useful
    return found[found.attrs["condition"]] if "condition" in found.attrs else None


def class_edges(observed: xr.DataArray, sample: str) -> tuple[float, ...]:
    """Return the lower ends of classes of amounts, in the units of the data; the first is zero."""
    shown = display_units(observed, sample)
    levels = DAILY_CLASSES if is_daily(observed, sample) else HOURLY_CLASSES
    scale = factor(shown, str(observed.attrs["units"]), what=str(observed.name))
    return tuple(float(f"{level * scale:.12g}") for level in levels)


def pretty(units: str) -> str:
    """Write units with superscripts.

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
    """Return the units of rain in figures: mm h-1, mm d-1 or mm, whatever the data have.

    Parameters
    ----------
    field
        Rain with the attribute ``units`` and the dim ``sample``.
    sample
        Name of the sample dim.
    """
    if converts(str(field.attrs["units"]), "mm"):
        return "mm"
    return "mm d-1" if is_daily(field, sample) else "mm h-1"


def per_step(field: xr.DataArray, sample: str, units: str) -> str:
    """Return the units of rain in a figure with the step of a depth: mm d-1, mm h-1, mm in 5 min.

    Parameters
    ----------
    field, sample
        As for `display_units`.
    units
        From `display_units`.
    """
    step = step_of(field, sample)
    if units != "mm" or step is None:
        return units
    if is_daily(field, sample):
        return "mm d-1" if step <= 1.5 * 86400 else units
    return "mm h-1" if step == 3600 else f"mm in {step / 60:g} min"


def display_factor(field: xr.DataArray) -> float:
    """Return the factor from the units of the data to those of figures."""
    sample = str(field.dims[0])
    return factor(str(field.attrs["units"]), display_units(field, sample), what=str(field.name))


def amount(field: xr.DataArray, value: float) -> str:
    """Write an amount, given in the units of the data, with the units of figures."""
    units = display_units(field, str(field.dims[0]))
    return f"{value * display_factor(field):.4g} {pretty(units)}"


def labelled(text: str, units: str) -> str:
    """Write an axis label, with units unless they are 1.

    Examples
    --------
    >>> labelled("observed", "mm h-1"), labelled("share of pixels", "1")
    ('observed [mm h⁻¹]', 'share of pixels')
    """
    printed = pretty(units)
    return f"{text} [{printed}]" if printed else text


def label_of(value: object, *, days: bool = False) -> str:
    """Write the label of a sample: times to the minute, or to the day.

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


def chosen_members(members: int | Sequence[int], size: int) -> list[int]:
    """Return the positions of the members that a figure shows.

    Parameters
    ----------
    members
        A number of members, the first ones, or their positions.
    size
        Number of members of the ensemble.

    Raises
    ------
    DataError
        None are chosen, or one that does not exist.
    """
    if isinstance(members, int | np.integer):
        chosen = list(range(min(int(members), size)))
    else:
        given: object = members
        chosen = list(given) if isinstance(given, Iterable) else []
    if not chosen or not all(m in range(-size, size) and m is not True for m in chosen):
        raise DataError.of(
            "members",
            expected=f"at least one of the {size} members, counted from 0",
            got=repr(members),
            remedy="Give a number of members, or a list of positions.",
        )
    return [int(m) for m in chosen]
