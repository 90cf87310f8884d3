"""Checks of values before anything is computed: refuse impossible ones, name doubtful ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import DataError, UnitsError, warn_user
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.sample_blocks import slabs, some_pixels
from xcvae.fields.units import (
    STEP,
    affine,
    default_wet_threshold,
    heaviest_rain,
    is_absolute,
)

Mask = Callable[[NDArray[Any]], NDArray[np.bool_]]

#: A mean above this share of the heaviest rain on earth has wrong units.
DELUGE = 0.05
#: Values outside their limits by less than this share of these are rounding of packed files.
ROUNDING = 1e-6
#: Attributes of packed values, and the numbers with which they change nothing.
UNPACKED = {"scale_factor": 1.0, "add_offset": 0.0}
#: Temperatures in K of the atmosphere, the sea and the ground lie between these, and so do
#: brightness temperatures of clouds.
COLDEST, HOTTEST = 100.0, 400.0

_TEMPERATURE_NAMES = re.compile(
    r"(t2m|2t|d2m|2d|tas|tasmin|tasmax|sst|tos|skt|mx2t|mn2t|tmin|tmax|temp|temperature|"
    r"ta?\d{2,4}|ta|ts|tg|tx|tn)([_\d].*)?",
    re.IGNORECASE,
)
# Differences of temperatures have units of temperature, too, and potential ones no upper limit.
_OTHER_TEMPERATURES = re.compile(
    r"anomal|differ|gradient|range|deviation|error|spread|tendenc|potential|theta|bias|increment|"
    r"depression|departure|excess|change|stability|index|lapse|trend|std|stddev|varian|uncertain|"
    r"\bdiff\b|\banom\b|_(diff|anom|range|bias|std)\b",
    re.IGNORECASE,
)
#: Rain is refused from this multiple of the heaviest on earth on.
BEYOND = 3.0
#: Usual fill values of predictors: refused where they lie far from all other values, as are
#: magnitudes from ABSURD on.
ABSURD = 1e9
FILLS = (
    -999.0, -999.9, -9999.0, -9999.9, -99999.0, -32767.0, -32768.0, -2147483647.0, -2147483648.0,
    -8888.0, 999.9, 9999.0, 9999.9, 99999.0, 32766.0, 32767.0, 65534.0, 65535.0, 2147483647.0,
    4294967295.0, 1e10, 1e15, 1e20, 1e30, 9.969209968386869e36, 3.4028234663852886e38,
)  # fmt: skip
#: Those of rain, which may be scaled counts.
RAIN_FILLS = (
    255.0, 999.0, 999.9, 9999.0, 9999.9, 99999.0, 32766.0, 32767.0, 65534.0, 65535.0, 327.67,
    655.35, 3276.7, 6553.5,
)  # fmt: skip


def check_dataset(ds: object) -> None:
    """Refuse anything but a Dataset.

    Raises
    ------
    DataError
        The object is not an xarray.Dataset.
    """
    if not isinstance(ds, xr.Dataset):
        raise DataError.of(
            "ds",
            expected="an xarray.Dataset",
            got=type(ds).__name__,
            remedy="Make one: da.to_dataset(name='pr'), or xr.Dataset({'pr': da}).",
        )


def check_numeric(da: xr.DataArray) -> None:
    """Refuse texts, dates and objects.

    Raises
    ------
    DataError
        The values are not real numbers (booleans pass).
    """
    if da.dtype.kind not in "biuf":
        raise DataError.of(
            str(da.name),
            expected="real numbers",
            got=f"type {da.dtype}",
            remedy="Convert it with astype('float32'), or leave it out.",
        )


def refuse_packed(da: xr.DataArray) -> None:
    """Refuse counts that were not decoded, in a variable and its coordinates; reads no values.

    Raises
    ------
    DataError
        An attribute ``scale_factor``, ``add_offset`` or ``_Unsigned`` says that values are packed.
        xarray moves it to the encoding when it decodes.
    """
    for field in (da, *da.coords.values()):
        attrs = field.attrs
        unsigned = {"true": "i", "false": "u"}.get(str(attrs.get("_Unsigned")).lower())
        found = [key for key, idle in UNPACKED.items() if not _is_idle(attrs.get(key, idle), idle)]
        found += ["_Unsigned"] if field.dtype.kind == unsigned else []
        if found:
            drop = f"del ds[{str(field.name)!r}].attrs[{found[0]!r}]"
            raise DataError.of(
                str(field.name),
                expected="decoded values",
                got=f"packed ones: attributes {', '.join(f'{k}={attrs[k]}' for k in found)}",
                remedy="Open the file with mask_and_scale=True (the default of xarray), or use "
                f"xr.decode_cf(ds). If they are decoded already, remove the attribute: {drop}.",
            )


def _is_idle(value: object, idle: float) -> bool:
    try:
        return bool((np.asarray(value, np.float64) == idle).all())
    except (TypeError, ValueError):
        return False


def check_rain(
    da: xr.DataArray, *, masked: bool = False, usual: float = 0.0, sample: str | None = None
) -> float:
    """Check that values can be rain: finite or NaN, not all NaN, not negative, no fill values.

    One pass, by blocks; lazy data is streamed.

    Parameters
    ----------
    da
        Rain, any dims and precipitation units. NaN is a mask. Negative values down to -1e-6 of
        the maximum are rounding and pass.
    masked
        All of it may be NaN.
    usual
        A typical maximum of such data, for parts without much rain.
    sample
        Name of the sample dim, whose times give the step of depths: values are compared with the
        heaviest rain on earth. None compares them with nothing.

    Returns
    -------
    float
        The maximum.

    Raises
    ------
    DataError
        Values are negative, infinite, all NaN, fill values or heavier than rain can be. Gives
        their number and the first position.
    """
    low, high, infinite, valid = _summary(da)
    if infinite:
        _refuse(da, np.isinf, "infinite", "Set them to NaN: ds.where(np.isfinite(ds[...])).")
    if not valid and not masked:
        raise DataError.of(
            str(da.name),
            expected="rain in at least one pixel of one sample",
            got=f"{da.size} values, all NaN",
            remedy="Check the mask; NaN also arise from joining fields with other coordinates.",
        )
    _refuse_declared_fill(da)
    units = str(da.attrs.get("units", ""))
    limit = -ROUNDING * np.fmax(abs(high), usual)
    if low < limit:
        _refuse(
            da,
            lambda values: values < limit,
            f"negative (minimum {low:.6g} {units}".rstrip() + ")",
            "Set fill values to NaN. Small ones, from interpolation or from differences of "
            f"accumulations, become zero by ds[{str(da.name)!r}].clip(min=0). Anomalies, dB and "
            "normalised values are not rain.",
            expected="rain of zero or more",
        )
    if sample is not None:
        _refuse_heavier(da, high, heaviest_rain(da, sample) * BEYOND)
        _refuse_known_fill(da, (high,), RAIN_FILLS)
    return float(high)


def _refuse_heavier(da: xr.DataArray, high: float, limit: float) -> None:
    if high > limit:
        _refuse(
            da,
            lambda values: values > limit,
            f"above (maximum {high:.6g})",
            f"Set fill values to NaN: ds[{str(da.name)!r}].where(ds[{str(da.name)!r}] < "
            f"{limit:.4g}), or correct the units (are "
            "values in mm?), or take differences of accumulations.",
            expected=f"rain of at most {limit:.4g} {da.attrs['units']}, three times the heaviest "
            "on earth; more are fill values or have wrong units",
        )


def _refuse_declared_fill(da: xr.DataArray) -> None:
    """Refuse values that an attribute declares as missing: they were read without masking."""
    for key in ("_FillValue", "missing_value"):
        fills = np.atleast_1d(np.asarray(da.attrs.get(key, ())))
        if fills.dtype.kind not in "iuf" or not np.isfinite(fills).any():
            continue
        equal = _equal_to(fills)
        if _summary(da, equal)[3]:
            _refuse(
                da,
                equal,
                f"equal to the attribute {key} ({da.attrs[key]})",
                "Open the file with mask_and_scale=True (the default of xarray), or use "
                "xr.decode_cf(ds).",
                expected="values without fill values",
            )


def refuse_fills(values: NDArray[Any], name: str, *, rain: bool) -> None:
    """Refuse usual fill values, far from all others, before averages hide them.

    Raises
    ------
    DataError
        The lowest or the highest value (sample, cell) is one.
    """
    da = xr.DataArray(values, dims=("sample", "cell"), name=name)
    low, high, _, _ = _summary(da)
    _refuse_known_fill(da, (low, high), (*FILLS, *RAIN_FILLS) if rain else FILLS)


def _refuse_known_fill(
    da: xr.DataArray, extremes: tuple[float, ...], known: tuple[float, ...]
) -> None:
    """Refuse an extreme that is a known fill value, or absurd, and lies far from all others."""
    for extreme in map(float, extremes):
        usual = bool(np.isclose(extreme, known, rtol=1e-6, atol=0).any())
        if not usual and abs(extreme) < ABSURD:
            continue
        equal = _equal_to(np.array([extreme]))
        low, high, _, _ = _summary(da, _not(equal))
        absurd = abs(extreme) >= ABSURD * max(abs(low), abs(high), 1e-30)
        far = max(low - extreme, extreme - high) > high - low or extreme < 0 <= low
        if far and (usual or absurd):
            name = f"ds[{str(da.name)!r}]"
            nearest_one = high if extreme > high else low
            between = f"{'<' if extreme > high else '>'} {(extreme + nearest_one) / 2:.4g}"
            _refuse(
                da,
                equal,
                f"equal to {extreme:.6g}, far from all others ({low:.6g} to {high:.6g})",
                f"It is a usual fill value: set it to NaN, {name}.where({name} {between}), then "
                "fill or drop the gaps.",
                expected="values without fill values",
            )


def _equal_to(numbers: NDArray[Any]) -> Mask:
    """Return a function that finds numbers up to rounding: data may be float32."""

    def equal(values: NDArray[Any]) -> NDArray[np.bool_]:
        each = [np.isclose(values, number, rtol=1e-6, atol=0) for number in numbers]
        return np.asarray(np.logical_or.reduce(each))

    return equal


def _not(mask: Mask) -> Mask:
    return lambda values: ~mask(values)


def _summary(da: xr.DataArray, where: Mask | None = None) -> NDArray[np.float64]:
    """Return minimum, maximum, and the numbers of infinite and of valid values, by blocks."""

    def summarise(values: NDArray[Any]) -> NDArray[np.float64]:
        return _extremes(values if where is None else values[where(values)])

    parts = _in_blocks(da, summarise)
    low, high = np.fmin.reduce(parts[:, 0]), np.fmax.reduce(parts[:, 1])
    return np.array([low, high, *parts[:, 2:].sum(axis=0)])


def _rain_doubts(da: xr.DataArray, sample: str, high: float, *, wet: float) -> list[str]:
    """Return reasons why rain can hardly be right, although no single value is impossible.

    Parameters
    ----------
    da
        Rain, sample dim and two others.
    sample
        Name of the sample dim.
    high
        Its maximum.
    wet
        Rain from which a pixel is wet, in its units.
    """
    few = some_pixels(da, sample)
    name = f"ds[{str(da.name)!r}]"
    doubts = [
        _amounts_doubt(da, sample, high, float(np.nanmean(few)) if np.isfinite(few).any() else 0.0),
        _valid_range_doubt(da, np.nan, high),  # negative rain is refused
    ]
    if 0 < high < wet:
        doubts.append(
            f"no pixel is wet: the maximum is {high:.4g}, and rain begins at {wet:.4g} "
            f"'{da.attrs['units']}'. Check the units (are values in m, or per second?)."
        )
    if _dry_is_missing(few):
        doubts.append(
            "no pixel is dry, and missing pixels change from sample to sample, as if dry ones had "
            f"been read as missing. If so, make them zero where the product has data: "
            f"{name}.fillna(0)."
        )
    return [text for text in [*doubts, accumulation_doubt(da, sample, few)] if text]


def accumulation_doubt(
    da: xr.DataArray, sample: str, few: NDArray[np.float64] | None = None
) -> str:
    """Return a warning of rain since the start of a run or day; empty for rain of each sample.

    Parameters
    ----------
    da
        Rain, sample dim and two others.
    sample
        Name of the sample dim.
    few
        Some of its pixels (sample, pixel), from `some_pixels`; read if not given.
    """
    if not _accumulates(some_pixels(da, sample) if few is None else few):
        return ""
    return (
        "values rise from sample to sample in all pixels, as if rain were accumulated since the "
        f"start of a run or day. Take differences first: ds[{str(da.name)!r}].diff({sample!r}), "
        "with its attributes, without those at resets."
    )


def _amounts_doubt(da: xr.DataArray, sample: str, high: float, mean: float) -> str:
    heaviest, units = heaviest_rain(da, sample), da.attrs["units"]
    if high <= heaviest and mean <= DELUGE * heaviest:
        return ""
    return (
        f"a maximum of {high:.4g} and a mean of {mean:.4g} '{units}' are much; the heaviest rain "
        f"on earth is about {heaviest:.3g}. Check the units (are values in mm?), and that no fill "
        "value is left."
    )


def _valid_range_doubt(da: xr.DataArray, low: float, high: float) -> str:
    """Compare the extremes of a variable with its attributes ``valid_min`` and ``valid_max``.

    These, and ``valid_range``, may count packed values or decoded ones.
    """
    name = f"ds[{str(da.name)!r}]"
    least, most = _valid_range(da)
    slack = ROUNDING * float(np.fmax(abs(low), abs(high)))
    if high > most + max(slack, ROUNDING * abs(most)):
        side, found, limit, sign = "largest", f"maximum {high:.4g} is above", most, "<="
    elif low < least - max(slack, ROUNDING * abs(least)):
        side, found, limit, sign = "smallest", f"minimum {low:.4g} is below", least, ">="
    else:
        return ""
    others = "larger" if side == "largest" else "smaller"
    return (
        f"the {found} the {side} valid value of its attributes, {limit:.4g}. If {others} ones "
        f"stand for missing, set them to NaN: {name}.where({name} {sign} {limit:.4g}); else remove "
        "the attribute, which is that of other values."
    )


def _valid_range(da: xr.DataArray) -> tuple[float, float]:
    """Return the widest range that the attributes allow; infinite without attributes."""
    scale, offset = (float(da.encoding.get(key) or idle) for key, idle in UNPACKED.items())
    both = _numbers(da.attrs, "valid_range")
    least = np.concatenate([_numbers(da.attrs, "valid_min"), both[:1]])
    most = np.concatenate([_numbers(da.attrs, "valid_max"), both[-1:]])
    return (
        float(np.min([least, least * scale + offset])) if least.size else -np.inf,
        float(np.max([most, most * scale + offset])) if most.size else np.inf,
    )


def _numbers(attrs: Mapping[Any, Any], key: str) -> NDArray[np.float64]:
    """Return the numbers of an attribute; none where it is text or missing."""
    given = np.ravel(attrs.get(key, ()))
    return given.astype(np.float64) if given.dtype.kind in "iuf" else np.empty(0)


def _temperature_doubt(da: xr.DataArray, low: float, high: float) -> str:
    """Compare the extremes of a temperature with those on earth: K and degC are confused.

    Units alone do not show a temperature: differences and indices of stability have them, too.
    """
    if not _is_temperature(da):
        return ""
    try:
        scale, offset = affine(str(da.attrs["units"]), "K", str(da.name))
    except UnitsError:
        return ""
    if high * scale + offset < COLDEST:
        found, wanted = f"below {COLDEST:g} K: values seem to be degrees Celsius", "degC"
    elif low * scale + offset > HOTTEST:
        found, wanted = f"above {HOTTEST:g} K: values seem to be kelvin", "K"
    else:
        return ""
    return (
        f"all temperatures are {found} with other units. Correct the attribute, "
        f"ds[{str(da.name)!r}].attrs['units'] = {wanted!r}; else data with the right units do not "
        "fit to these."
    )


def _is_temperature(da: xr.DataArray) -> bool:
    """Return True for a temperature, judged by its names."""
    standard, text = (str(da.attrs.get(key, "")) for key in ("standard_name", "long_name"))
    if _OTHER_TEMPERATURES.search(f"{da.name} {standard} {text}"):
        return False
    if standard:
        return standard.endswith("temperature")
    named = _TEMPERATURE_NAMES.fullmatch(str(da.name)) is not None
    return "temperature" in text.lower() or (named and not text)


def _dry_is_missing(few: NDArray[np.float64]) -> bool:
    """Return True if all values (sample, pixel) rain, and most pixels have values at times only."""
    known = np.isfinite(few)
    changing = known.any(axis=0) & ~known.all(axis=0)
    return bool(changing.mean() > 0.5 and known.sum() >= 100 and few[known].min() > 0)


def _accumulates(few: NDArray[np.float64]) -> bool:
    """Return True if values never fall in any pixel (sample, pixel), but for few common resets."""
    steps = np.diff(few, axis=0)
    size = np.nanmax(np.abs(steps), initial=0.0)
    rises, falls = ((sign * steps > 1e-6 * size).sum(axis=1) for sign in (1, -1))
    # Rain that comes and goes falls in some pixels at all steps; a reset is a fall in most.
    changing = rises + falls >= 4
    falling = changing & (falls > 0.005 * (rises + falls))
    few_resets = changing.sum() >= 12 and falling.sum() <= 0.3 * changing.sum()
    return bool(few_resets or ((rises >= 16).sum() >= 4 and not falling.any()))


def check_complete(
    da: xr.DataArray,
    *,
    fills: tuple[float, ...] = (),
    gaps: bool = False,
    missing: str | None = None,
    divided: bool = False,
) -> tuple[float, float]:
    """Check that a condition has a finite value everywhere, and no known fill values.

    Parameters
    ----------
    da
        A condition or static.
    fills
        Usual fill values of such data.
    gaps
        Values may be missing (NaN).
    missing
        The option of that name in training.
    divided
        It is coarse rain, whose cells a model of any factor divides: such models take no gaps.

    Returns
    -------
    low, high
        Minimum and maximum.

    Raises
    ------
    DataError
        Values are NaN, infinite or fill values. Gives their number and the first position: a
        sample that is missing as a whole comes from joining a condition with other samples.
    """
    low, high, infinite, valid = _summary(da)
    _refuse_declared_fill(da)
    if infinite or (valid < da.size and not gaps):
        option = "missing='mask', which fills gaps and gives the network a mask of what is known"
        advice = f"Train with {option}" if missing is None else "It had none in training"
        remedy = (
            f"{advice}; or fill them, ds[{str(da.name)!r}].fillna(value); or interpolate or drop "
            "them. A whole sample is missing if the condition had other labels than the target."
        )
        if divided:
            remedy = (
                "Every cell is divided, so every cell needs an amount: select a domain and samples "
                f"without gaps, or fill them, ds[{str(da.name)!r}].fillna(0), and remove the "
                "members there afterwards."
            )
        _refuse(
            da,
            lambda values: np.isinf(values) | (np.isnan(values) & (not gaps)),
            "missing or infinite",
            remedy,
        )
    if fills:
        _refuse_known_fill(da, (low, high), fills)
    return float(low), float(high)


def missing_samples(da: xr.DataArray, sample: str) -> tuple[int, bool]:
    """Return how many samples have no value at all, and if any value is missing; reads all."""
    if da.dtype.kind != "f":
        return 0, False
    others = [dim for dim in da.dims if dim != sample]
    known = da.notnull()
    found = xr.Dataset({"some": known.any(others), "every": known.all(others)}).compute()
    return int((~found.some).sum()) if sample in da.dims else 0, not bool(found.every.all())


def _extremes(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return minimum, maximum, and the numbers of infinite and of valid values; skips NaN."""
    if values.size == 0:
        return np.array([np.nan, np.nan, 0.0, 0.0])
    low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    infinite = np.isinf(values).sum() if np.isinf([low, high]).any() else 0
    return np.array([low, high, infinite, values.size - np.isnan(values).sum()], np.float64)


def _in_blocks(
    da: xr.DataArray, summarise: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[np.float64]:
    """Summarise all blocks, (block, values); chunks of lazy data in parallel."""
    if da.chunks is None:
        return np.stack([summarise(slab.values) for _, slab in slabs(da)])
    from dask.base import compute
    from dask.delayed import delayed

    parts = [delayed(summarise)(block) for block in da.data.to_delayed().ravel()]
    if not parts:
        return np.stack([summarise(np.empty(0, da.dtype))])
    return np.stack(compute(*parts))  # type: ignore[no-untyped-call]


def _refuse(
    da: xr.DataArray,
    bad: Mask,
    problem: str,
    remedy: str,
    *,
    expected: str = "finite values",
) -> None:
    """Count bad values, find the first, and raise DataError."""
    count, first = 0, ""
    for start, slab in slabs(da):
        wrong = bad(slab.values)
        if wrong.any() and not first:
            place = [int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape)]
            offset = [start, *[0] * (da.ndim - 1)][: da.ndim]
            first = _place(da, [i + j for i, j in zip(place, offset, strict=True)])
        count += int(wrong.sum())
    raise DataError.of(
        str(da.name),
        expected=expected,
        got=f"{count} of {da.size} {problem}, first at {first}",
        remedy=remedy,
    )


def _place(da: xr.DataArray, position: list[int]) -> str:
    """Return the labels of a position, or the index along a dim without labels."""
    return ", ".join(
        f"{dim}={da[dim].values[i] if dim in da.coords else i}"
        for dim, i in zip(da.dims, position, strict=True)
    )


#: Rain of a heavy shower, in multiples of the wet threshold: in a block without rain, rounding
#: errors are compared with it.
SHOWER = 1000.0


def check_values(prepared: xr.Dataset, spec: DataSpec, *, masked: bool = False) -> None:
    """Check that conditions and statics are complete, and that values of rain can be rain.

    One pass or two over each variable; lazy data is streamed.

    Parameters
    ----------
    prepared
        From `xcvae.fields.describe.prepare`, or some of its variables.
    spec
        The one it was prepared for.
    masked
        The target may be NaN throughout, as in a block of samples that all lie in a mask.

    Raises
    ------
    DataError
        A condition or static is NaN or infinite somewhere, rain (target or condition) is
        negative or infinite, or the target is all NaN. Gives number and first position.
    """
    for variable in spec.variables:
        gaps = variable.gaps
        # Block means of the target are complete by construction.
        if variable.name not in prepared or (
            variable.name == spec.derived and spec.target in prepared
        ):
            continue
        field = _with_step(prepared[variable.name], spec)
        fills = () if variable.precipitation else FILLS + (0.0,) * is_absolute(variable.units)
        divided = variable.name == spec.derived and spec.scales is not None
        if divided:  # the only rain of the caller's Dataset, under its own name
            own = {f"{dim}_coarse": dim for dim in (spec.y, spec.x)}
            field = field.rename({k: v for k, v in own.items() if k in field.dims})
            field = field.rename(spec.target)
        extremes = check_complete(
            field, fills=fills, gaps=gaps, missing=spec.missing, divided=divided
        )
        if variable.precipitation:
            usual = SHOWER * default_wet_threshold(field, spec.sample)
            check_rain(field, masked=gaps, usual=usual, sample=spec.sample)
        # Blocks of samples differ in their extremes, not in their units.
        doubts = [] if masked else [_valid_range_doubt(field, *extremes)]
        if variable.precipitation and variable.sampled and not masked:
            doubts.append(accumulation_doubt(field, spec.sample))
        _warn(field, [*doubts, _temperature_doubt(field, *extremes)])
    if spec.target in prepared:
        field = _with_step(prepared[spec.target], spec)
        usual = SHOWER * spec.wet_threshold
        high = check_rain(field, masked=masked, usual=usual, sample=spec.sample)
        if not masked:
            _warn(field, _rain_doubts(field, spec.sample, high, wet=spec.wet_threshold))


def _warn(field: xr.DataArray, doubts: Iterable[str]) -> None:
    for text in filter(None, doubts):
        warn_user(f"{field.name}: {text}")


def _with_step(field: xr.DataArray, spec: DataSpec) -> xr.DataArray:
    """Give a field the step of the record: a selection of its samples has a longer one."""
    step = spec.step_seconds
    return field if step is None else field.assign_attrs({STEP: step})


def check_observed(prepared: xr.Dataset, spec: DataSpec) -> None:
    """Check that every sample has a valid pixel of the target.

    Raises
    ------
    DataError
        A sample has none. Names the first.
    """
    empty = ~prepared[spec.target].notnull().any((spec.y, spec.x)).values
    if not empty.any():
        return
    label = prepared[spec.sample].values[int(np.argmax(empty))]
    raise DataError.of(
        f"{spec.target}, {spec.sample} {label}",
        expected="an observed field: a valid pixel in every sample",
        got=f"NaN throughout in {int(empty.sum())} of {empty.size} samples",
        remedy="Leave these samples out, or draw them with mode='prior', which needs no "
        "observation.",
    )


def is_placeholder(target: xr.DataArray, spec: DataSpec) -> bool:
    """Return True for a target that is NaN throughout: a name without observations.

    Reads chunk by chunk, up to the first valid pixel.
    """
    if bool(target.isel({spec.sample: 0}).notnull().any()):
        return False
    start = 0
    for length in target.chunksizes.get(spec.sample, (1,) * target.sizes[spec.sample]):
        block = target.isel({spec.sample: slice(start, start + length)})
        if bool(block.notnull().any()):
            return False
        start += length
    return True
