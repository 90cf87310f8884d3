"""Read and convert the units of fields, and the thresholds that depend on them."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError, UnitsError

_WATER = 1000.0  # density of liquid water in kg m-3
_FASTEST = 0.1  # m s-1: faster units than this, other than m s-1 itself, are those of wind

# Dimensions of pint, as (length, mass, time) exponents, of the four kinds of precipitation units.
Exponents = tuple[float, float, float]
DEPTH: Exponents = (1.0, 0.0, 0.0)
RATE: Exponents = (1.0, 0.0, -1.0)
MASS: Exponents = (-2.0, 1.0, 0.0)
FLUX: Exponents = (-2.0, 1.0, -1.0)
PRECIPITATION = (DEPTH, RATE)

#: Results of pint for frequent units, so that it need not be imported: their exponents, and one
#: of several equal spellings. `FACTORS` has the factors between some of them.
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

# Spellings of files that pint does not know or takes for something else (mb for millibarns, C for
# coulombs, 'deg C' for a product), in small letters. Parts of units are replaced first.
_PARTS = (
    (re.compile(r"\bdeg(?:ree)?s?\.?[ _](?:c|celsius)\b|[°º] ?c\b", re.IGNORECASE), "degC"),
    (re.compile(r"\bdeg(?:ree)?s?\.?[ _](?:k|kelvin)\b", re.IGNORECASE), "K"),
    (re.compile(r"\bdeg(?:ree)?s?\.?[ _](?:f|fahrenheit)\b|[°º] ?f\b", re.IGNORECASE), "degF"),
    (re.compile(r"\bKelvin\b"), "K"),
    (re.compile(r"\bmb\b"), "mbar"),
    (re.compile(r"\bgpdam\b"), "dam"),
    (re.compile(r" (?:of )?(?:liquid )?water equivalent\b| w\.? ?e\.?$", re.IGNORECASE), ""),
)
_ONE = re.compile(
    r"[-~]|none|unitless|fraction|proportion|numeric|index|[\[(]?0[-,]1[\])]?|"
    r"\(?codetable[\d.]*\)?"
)
_ALIASES = {
    **dict.fromkeys(("okta", "oktas", "octa", "octas"), "0.125"),
    **dict.fromkeys(("c", "celsius"), "degC"),
    **dict.fromkeys(("f", "fahrenheit"), "degF"),
    "k": "K",
    "pa": "Pa",
    "hpa": "hPa",
    "pvu": "1e-6 K m2 kg-1 s-1",
    "dbz": "dBZ",
}
_CELSIUS = re.compile(r"\b(?:degC|degree_celsius|celsius)\b", re.IGNORECASE)
# Pint multiplies by the hours: mm/3h would be three millimetre-hours.
_TIMES = r"(h|hr|hrs|hours?|min|minutes?|d|days?)"
_STEPS = re.compile(rf"/ ?(\d+) ?{_TIMES}\b", re.IGNORECASE)
# The same with an exponent: mm 3h-1 would be 3 mm h-1. The 2 of 'kg m-2 d-1' is none.
_STEP_POWERS = re.compile(
    rf"(?<![\w.^*-])(?!1 ?[a-z])(\d+) ?{_TIMES} ?(?:\^|\*\*)?-1\b", re.IGNORECASE
)


def _spelling(units: str) -> str:
    """Return units as pint writes them, or raise ValueError."""
    if _STEPS.search(units) or _STEP_POWERS.search(units):
        raise ValueError(f"{units!r} is ambiguous: {_suggested(units)!r}")
    for part, text in _PARTS:
        units = part.sub(text, units)
    key = units.lower().replace(" ", "")
    if not _CELSIUS.fullmatch(key):
        # In a gradient (degC/km) it is a difference, of which pint would make 274 K.
        units = _CELSIUS.sub("K", units)
    return "1" if _ONE.fullmatch(key) else _ALIASES.get(key, units)


@lru_cache(maxsize=256)
def parse(units: str) -> Any:
    """Return units as a pint quantity (``0.1 mm`` has a magnitude), or raise ValueError."""
    from cf_xarray.units import units as registry

    spelling = _spelling(units)
    if spelling == "dBZ" and "dBZ" not in registry:
        # A dimension of its own: converts to nothing else, as a logarithm must not.
        registry.define("dBZ = [reflectivity]")
    try:
        quantity: Any = registry(spelling)
        if isinstance(quantity, int | float):  # pint before 0.25 returns plain numbers
            quantity = registry.Quantity(quantity)
        if quantity.magnitude == 1:
            # Arithmetic would turn an offset unit (degC) into its base unit.
            quantity = registry.Quantity(1.0, quantity.units)
        magnitude = float(quantity.magnitude)
    except Exception as error:  # pint raises a dozen types, AssertionError and TypeError included
        raise ValueError(f"{units!r}: {error}") from error
    if not (magnitude > 0 and math.isfinite(magnitude)):
        raise ValueError(f"{units!r} is an expression, not a unit")
    return quantity


def quantity_of(units: str, what: str) -> Any:
    """Return the units of ``what`` as a pint quantity, or raise UnitsError."""
    try:
        return parse(units)
    except ValueError as error:
        raise UnitsError.of(
            what,
            expected="units such as 'mm h-1', 'mm/day', 'kg m-2 s-1', 'K' or '1'",
            got=f"{units!r}, which is not known",
            remedy=f"Correct them: ds[{what!r}].attrs['units'] = {_suggested(units)!r}.",
        ) from error


def _suggested(units: str) -> str:
    """Return the spelling that is meant, as far as it can be guessed."""
    for steps in (_STEPS, _STEP_POWERS):
        if steps.search(units):
            return steps.sub(r"/(\1 \2)", units)
    return "..."


def dimensions_of(quantity: Any) -> Exponents | None:
    """Return the exponents of length, mass and time, None with any other dimension."""
    exponents = dict(quantity.dimensionality)
    found = tuple(exponents.pop(f"[{name}]", 0) for name in ("length", "mass", "time"))
    return None if exponents else (found[0], found[1], found[2])


def as_depth(quantity: Any) -> Any:
    """Turn mass of water per area (and time) into depth (and rate); leave the rest."""
    if dimensions_of(quantity) in (MASS, FLUX):
        return quantity / quantity._REGISTRY.Quantity(_WATER, "kg m-3")
    return quantity


def verify(units: str, what: str) -> None:
    """Refuse unknown units with a UnitsError."""
    if units not in FREQUENT:
        quantity_of(units, what)


def exponents_of(units: str) -> Exponents | None:
    """Return exponents of length, mass and time, with mass of water per area as depth.

    None for units with any other dimension, and for unknown ones.
    """
    if units in FREQUENT:
        return FREQUENT[units][0]
    try:
        return dimensions_of(as_depth(parse(units)))
    except ValueError:
        return None


def is_rate(units: str) -> bool:
    """Return True for units of a rate, such as mm h-1; False for an amount, such as mm."""
    return exponents_of(units) == RATE


def per(units: str, period: Literal["day", "hour"]) -> bool:
    """Return True for units per day or per hour; False for unknown ones."""
    if units in FREQUENT:
        return FREQUENT[units][1].endswith(f" {period[0]}-1")
    try:
        return bool(dict(parse(units).unit_items()).get(period) == -1)
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
        raise UnitsError.of(
            what,
            expected=f"units that convert to {wanted!r}",
            got=repr(source),
            remedy=_conversion_remedy(start, end),
        )
    # Two points determine the line: units may differ by an offset too (degC and K).
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
    return "Check that this is the right variable, and correct its attribute 'units'."


_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")
DAILY_STEP = 20 * 3600.0  # seconds
#: Length of a month, in hours: the longest step of depths, where it is not known.
MONTH = 744.0
#: Seconds, as a step of monthly samples has.
SHORTEST_MONTH = 27.5 * 86400.0
#: Attributes of limits, in the units of the values (or of packed ones).
BOUNDS = ("valid_min", "valid_max", "valid_range", "actual_range")
#: Attribute of a field with the step of its record in seconds, see `step_of`.
STEP = "step_seconds"
#: Attribute of a field with the 99th percentile of its record, in the units of the field.
HEAVY = "record_p99"


def units_of(da: xr.DataArray) -> str:
    """Return the units of a variable; refuse one without.

    Raises
    ------
    UnitsError
        The attribute ``units`` is missing, blank or unknown.
    """
    units = str(da.attrs.get("units", "")).strip()
    if not units:
        raise UnitsError.of(
            str(da.name),
            expected="an attribute 'units'",
            got="none",
            remedy=f"Set ds[{str(da.name)!r}].attrs['units'] = 'mm h-1', or whatever it is "
            "in; a quantity without a dimension has units '1'.",
        )
    verify(units, str(da.name))
    return units


def factor(source: str, wanted: str, *, what: str) -> float:
    """Return the number by which values in ``source`` become values in ``wanted``.

    Parameters
    ----------
    source, wanted
        Units. Mass of water per area counts as depth: 1 kg m-2 = 1 mm.
    what
        The converted quantity, for the message.

    Returns
    -------
    float

    Raises
    ------
    UnitsError
        Units that are not known or do not convert into each other by multiplication, such as a
        rate and a depth. The message names both.

    Examples
    --------
    >>> round(factor("kg m-2 s-1", "mm h-1", what="pr"), 6)
    3600.0
    """
    scale, offset = affine(source, wanted, what)
    if offset:
        raise UnitsError.of(
            what,
            expected=f"units that convert to {wanted!r} by a factor",
            got=repr(source),
            remedy="They differ by an offset too: convert the values with to_units.",
        )
    return scale


def rain_factor(rate: str, wanted: str, step: float | None) -> float:
    """Return the factor from a rain rate to another rate, or to the depth that falls in a step.

    Parameters
    ----------
    rate, wanted
        Units.
    step
        Seconds between samples; None if unknown.

    Raises
    ------
    UnitsError
        The units do not convert, or a depth has no known step.

    Examples
    --------
    >>> rain_factor("mm h-1", "mm", 1800.0)
    0.5
    """
    if exponents_of(wanted) == exponents_of(rate):
        return factor(rate, wanted, what="rain")
    if step is None:
        raise UnitsError.of(
            "rain",
            expected=f"a rate, as the model has it in {rate!r}, or depths with times",
            got=f"{wanted!r} and no step between samples",
            remedy="Divide the depth by its duration, and give it units such as 'mm h-1'.",
        )
    hourly = factor(rate, "mm h-1", what="rain")
    return round(hourly * step / 3600.0 * factor("mm", wanted, what="rain"), 12)


def rain_scale(source: str, wanted: str, step: float | None, *, what: str) -> float:
    """Return the factor between two units of rain, also from a rate to a depth and back.

    Parameters
    ----------
    source, wanted
        Units of rates, of depths, or of one of each.
    step
        Seconds that a sample of either stands for; None if unknown. Those of months differ: from
        `SHORTEST_MONTH` on a rate and a depth do not convert.
    what
        The converted quantity, for the message.

    Raises
    ------
    UnitsError
        The units do not convert. The message names both.

    Examples
    --------
    >>> rain_scale("m", "mm/day", 3600.0, what="tp")
    24000.0
    """
    kinds = exponents_of(source), exponents_of(wanted)
    if step is None or not 0 < step < SHORTEST_MONTH or set(kinds) != {DEPTH, RATE}:
        return factor(source, wanted, what=what)
    if kinds[0] == RATE:
        return rain_factor(source, wanted, step)
    hourly = factor(source, "mm", what=what) * 3600.0 / step
    return float(f"{hourly * factor('mm h-1', wanted, what=what):.12g}")


def rain_converts(source: str, wanted: str, step: float | None) -> bool:
    """Return True if rain can be compared with that in other units; see `rain_scale`."""
    try:
        rain_scale(source, wanted, step, what="rain")
    except UnitsError:
        return False
    return True


def to_units(da: xr.DataArray, units: str) -> xr.DataArray:
    """Convert a variable, lazily where it is lazy.

    Parameters
    ----------
    da
        Any dims, with the attribute ``units``.
    units
        The units wanted.

    Returns
    -------
    xarray.DataArray
        Same dims and attributes, but ``units``, and without limits in other units.

    Raises
    ------
    UnitsError
        No, unknown, or not convertible units.
    """
    scale, offset = affine(units_of(da), units, str(da.name))
    attrs = {**da.attrs, "units": units}
    if scale != 1.0 or offset:
        attrs = {key: value for key, value in attrs.items() if key not in BOUNDS}
    if scale != 1.0:
        da = da * scale
    if offset:
        da = da + offset
    # Arithmetic carries attributes along, or drops them, by version and options of xarray.
    converted = da.copy(deep=False)
    converted.attrs = attrs
    return converted


def _is_number(value: object) -> bool:
    """Return True for numbers of Python and NumPy, not for bool."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def parse_quantity(value: str | float, *, units: str, what: str) -> float:
    """Read a quantity: ``"0.5 mm/day"``, or a number that is in ``units`` already.

    Returns
    -------
    float
        The value in ``units``.

    Raises
    ------
    UnitsError
        A text without units, or units that do not convert.
    ConfigError
        Not a finite number.

    Examples
    --------
    >>> parse_quantity("24 mm/day", units="mm h-1", what="threshold")
    1.0
    """
    if _is_number(value) and math.isfinite(cast("float", value)):
        return float(value)
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ConfigError.of(
            what,
            expected=f"a number in {units!r}, or a text with units such as '0.1 {units}'",
            got=repr(value),
            remedy="Write the number first, then a space and the units.",
        )
    number, source = match.groups()
    if not source:
        raise UnitsError.of(
            what,
            expected="a number followed by units",
            got=repr(value),
            remedy=f"Write '{number} {units}', or the number without quotes.",
        )
    try:
        scale = factor(source, units, what=what)
    except UnitsError as error:  # which names the attribute of a variable as the remedy
        raise UnitsError.of(
            what,
            expected=f"units that convert to {units!r} by a factor",
            got=repr(value),
            remedy=f"Correct the units in the text, or give a number in {units!r}.",
        ) from error
    # Rounding keeps 24 mm/day at 1 mm h-1, not at 0.9999999999999998.
    return float(f"{float(number) * scale:.12g}")


def is_precipitation(units: str) -> bool:
    """Return True for units of a rate or a depth of water (``mm h-1``, ``kg m-2``, ``m``).

    Not for those of distances and of wind: km, dam, km h-1, knots.
    """
    kind = exponents_of(units)
    if kind not in PRECIPITATION:
        return False
    if units in FREQUENT:
        return units != "km"
    size = as_depth(parse(units)).to_base_units().magnitude  # in m, or m s-1
    return bool(size == 1 or size < (_FASTEST if kind == RATE else 1.0))


def step_of(da: xr.DataArray, sample: str) -> float | None:
    """Return the step of the samples in seconds; None without times.

    The attribute `STEP` has precedence: a selection has the step of its record, and a depth its
    duration (`with_duration`). Else it is the shortest distance of two times, not the median,
    which is long in a selection of storms. Times may be lead times, or numbers with units such as
    ``hours since 2001-01-01``, not decoded.
    """
    if STEP in da.attrs:
        return float(da.attrs[STEP])
    if da.sizes.get(sample, 0) < 2 or sample not in da.coords:
        return None
    labels = da[sample].values
    if labels.dtype.kind in "mM":
        steps = (np.diff(np.unique(labels)) / np.timedelta64(1, "s")).tolist()
    elif isinstance(da.indexes.get(sample), xr.CFTimeIndex):
        steps = [(after - before).total_seconds() for before, after in pairwise(np.unique(labels))]
    else:
        unit = _undecoded(da[sample])
        steps = [] if unit is None else (np.diff(np.unique(labels)) * unit).tolist()
    # In an augmented Dataset samples share times.
    return min(steps, default=None)


def with_duration(ds: xr.Dataset, field: xr.DataArray, sample: str) -> xr.DataArray:
    """Give depths the duration that the bounds of their times have, as the attribute `STEP`.

    Every third of the sums of five minutes is still one of five minutes. Bounds that do not
    contain their times, as means over them do not, and unequal ones (months, rain since the start
    of a forecast) say nothing.

    Parameters
    ----------
    ds
        Has the bounds, such as ``time_bnds``; they may be among the coordinates.
    field
        Rain of the Dataset. Rates are returned as they are.
    sample
        Name of the sample dim.
    """
    if STEP in field.attrs or exponents_of(units_of(field)) != DEPTH:
        return field
    name = time_bounds(ds, sample)
    seconds = None if name is None else _duration(ds[sample], ds[name])
    return field if seconds is None else field.assign_attrs({STEP: seconds})


def time_bounds(ds: xr.Dataset, sample: str) -> str | None:
    """Return the variable with the bounds of the samples' times; None without one."""
    labels = ds.variables.get(sample, xr.Variable((), 0))
    name = str(labels.attrs.get("bounds", labels.encoding.get("bounds", "")))
    found = name in ds.variables and ds[name].ndim == 2 and ds[name].dims[0] == sample
    return name if found and ds[name].shape[1] == 2 else None


def _duration(labels: xr.DataArray, bounds: xr.DataArray) -> float | None:
    """Return the length of all bounds in seconds; None if they differ, or are none of the times."""
    start, end = bounds.values.T
    unit = _undecoded(labels)
    try:
        inside = bool(((start <= labels.values) & (labels.values <= end)).all())
        if labels.dtype.kind in "mM":
            sizes = (end - start) / np.timedelta64(1, "s")
        elif unit is None:
            sizes = np.array([one.total_seconds() for one in end - start])
        else:
            sizes = (end - start) * unit
    except (TypeError, AttributeError):  # bounds in another form than the times
        return None
    if not (sizes.size and inside and sizes.min() > 0 and np.ptp(sizes) <= 0.01 * sizes.max()):
        return None
    return round(float(np.median(sizes)), 3)


def _undecoded(labels: xr.DataArray) -> float | None:
    """Return the seconds of the unit of times that are numbers still; None for other labels."""
    unit, since, _ = str(labels.attrs.get("units", "")).partition(" since ")
    if labels.dtype.kind not in "iuf" or not since:
        return None
    try:
        return factor(unit, "s", what=str(labels.name))
    except UnitsError:
        return None


def is_daily(da: xr.DataArray, sample: str) -> bool:
    """Return True if the samples are days (or longer), not hours or minutes.

    Decided by the step (`step_of`), at least 20 hours; without one by the units: per day or not.

    Parameters
    ----------
    da
        Has the dim ``sample`` and the attribute ``units``.
    sample
        Name of the sample dim.
    """
    step = step_of(da, sample)
    return per(units_of(da), "day") if step is None else step >= DAILY_STEP


def _threshold(da: xr.DataArray, sample: str, *, hourly: float, daily: float) -> float:
    units, step = units_of(da), step_of(da, sample)
    days = is_daily(da, sample)
    period, value = ("d-1", daily) if days else ("h-1", hourly)
    if exponents_of(units) == DEPTH:
        # A depth is the rate times the step; a step of 20 to 36 hours is a day.
        periods = 1.0 if step is None else max(1, round(step / 86400)) if days else step / 3600
        period, value = "", value * periods
    return parse_quantity(f"{value:.12g} mm {period}", units=units, what=str(da.name))


def default_wet_threshold(da: xr.DataArray, sample: str) -> float:
    """Return the rain from which a pixel counts as wet, in the units of ``da``.

    0.1 mm h-1, or 1 mm d-1 for daily data (see `is_daily`); for depths this times the step.

    Raises
    ------
    UnitsError
        The units are not those of precipitation.
    """
    return _threshold(da, sample, hourly=0.1, daily=1.0)


def default_drizzle_threshold(da: xr.DataArray, sample: str) -> float:
    """Return the rain below which the default post-processor sets zero, in the units of ``da``.

    0.1 mm h-1, or 0.1 mm d-1 for daily data; as in `default_wet_threshold` otherwise.
    """
    return _threshold(da, sample, hourly=0.1, daily=0.1)


def heaviest_rain(da: xr.DataArray, sample: str) -> float:
    """Return about the heaviest rain on earth, in the units of a field.

    Depths grow with the root of their duration (World Meteorological Organization: 38 mm in a
    minute, 401 mm in an hour, 1825 mm in a day, 9.3 m in a month). Rates per day are means over a
    day, unless samples are less than a day apart; other rates may be those of a minute. The
    attribute `STEP` has precedence over the times of the samples.
    """
    units, hours = units_of(da), _step_hours(da, sample)
    if exponents_of(units) == DEPTH:
        hours = MONTH if np.isnan(hours) else max(hours, 1 / 60)
        return parse_quantity(f"{500 * hours**0.5:.6g} mm", units=units, what=str(da.name))
    if per(units, "day") and not hours < 20:
        return parse_quantity("6000 mm d-1", units=units, what=str(da.name))
    return parse_quantity("4000 mm h-1", units=units, what=str(da.name))


def _step_hours(da: xr.DataArray, sample: str) -> float:
    """Return the step of the record, or the shortest between samples; NaN without times."""
    step = step_of(da, sample)
    return float("nan") if step is None else step / 3600


def is_absolute(units: str) -> bool:
    """Return True for units of temperatures above absolute zero (K, not degC) or of pressure."""
    return any(converts(units, unit) for unit in ("K", "Pa"))


def converts(units: str, wanted: str) -> bool:
    """Return True if units convert by a factor: a rate does not to a depth, nor degC to K."""
    try:
        return factor(units, wanted, what="units") > 0
    except UnitsError:
        return False
