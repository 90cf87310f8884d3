"""Checks of labels and values that must hold before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import DataError, EmptySelectionError, MissingVariableError, nearest
from xcvae.fields.cf import find_axes
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.sample_blocks import slabs
from xcvae.fields.units import default_wet_threshold

#: Negative values smaller than this share of the maximum are rounding of packed files.
ROUNDING = 1e-6
#: Attributes of packed values, and the numbers with which they change nothing.
UNPACKED = {"scale_factor": 1.0, "add_offset": 0.0}
#: Coordinate along the samples of an augmented Dataset.
MEMBER = "realization"


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


def check_name(name: str) -> None:
    """Refuse the name of a variable or dimension that would be a path in a store.

    Raises
    ------
    DataError
        It has a slash, or is ``.`` or ``..``.
    """
    if "/" in name or name in ("", ".", ".."):
        plain = name.strip("./").replace("/", "_") or "pr"
        raise DataError.of(
            f"variable {name!r}",
            expected="a name without '/', other than '.' and '..': stores make paths of names",
            got=repr(name),
            remedy=f"Rename it: ds.rename({{{name!r}: {plain!r}}}).",
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


def check_samples(ds: xr.Dataset, sample: str, *, augmented: bool = False) -> None:
    """Check that a Dataset has samples, each label once, and in order if labels have one.

    Parameters
    ----------
    ds
        Any variables.
    sample
        Name of the sample dim.
    augmented
        Accept the result of `xcvae.augment` too: its coordinate ``realization`` distinguishes the
        samples of a label, and labels rise within each realization.

    Raises
    ------
    MissingVariableError
        The Dataset has no such dim.
    EmptySelectionError
        It has no samples.
    DataError
        Labels are repeated, missing, or neither text nor rising. Names the first.
    """
    if sample not in ds.sizes:
        raise MissingVariableError.of(
            "sample dimension",
            expected=f"a dimension {sample!r}",
            got="none",
            remedy=nearest(sample, ds.sizes),
        )
    if ds.sizes[sample] == 0:
        raise EmptySelectionError.of(
            "Dataset",
            expected="at least one sample",
            got=f"none along {sample!r}",
            remedy="Check the selection: no sample met its condition.",
        )
    if sample not in ds.coords:
        return
    index = ds[sample].to_index()
    _refuse_labels(sample, ds[sample].isnull().values, index, "missing (NaN)")
    member, repeated = np.zeros(len(index), int), index.duplicated()
    if augmented and MEMBER in ds.coords and ds[MEMBER].dims == (sample,):
        member = ds[MEMBER].values
        label, _ = index.factorize()
        pair = label * (np.ptp(member) + 1) + member - member.min()
        repeated = np.ones(len(index), bool)
        repeated[np.unique(pair, return_index=True)[1]] = False
    _refuse_labels(sample, np.asarray(repeated), index, "repeated")
    # The order of names and of stacked labels means nothing.
    if index.inferred_type not in ("string", "mixed") and not index.is_monotonic_increasing:
        steps = np.asarray(index[1:] < index[:-1]) & (member[1:] == member[:-1])
        _refuse_labels(sample, np.concatenate([[False], steps]), index, "before the one it follows")


def _refuse_labels(sample: str, bad: NDArray[np.bool_], index: Any, problem: str) -> None:
    if not bad.any():
        return
    place = int(np.argmax(bad))
    unique = f"ds.drop_duplicates({sample!r})"
    raise DataError.of(
        sample,
        expected="sample labels that rise, each once",
        got=f"{int(bad.sum())} {problem}, first {index[place]!s} at position {place}",
        remedy=f"Sort or drop labels: ds.sortby({sample!r}), {unique}, "
        f"ds.dropna({sample!r}, subset=[...]).",
    )


def check_same_samples(ds: xr.Dataset, name: str, sample: str) -> None:
    """Check that a condition has the target's samples.

    Raises
    ------
    DataError
        Its samples are missing or along another dim. Names the first labels that differ.
    """
    da = ds[name]
    if sample in da.dims:
        return
    own = _sample_dim(da)
    remedy = f"A map that is the same for all samples is a static: statics=[{name!r}]."
    got = "none"
    if own is not None:
        got = f"dimension {own!r} of length {da.sizes[own]}"
        remedy = f"Select the same samples, then ds.rename_dims({own}={sample!r}) on the condition."
        if own in da.coords and sample in ds.coords:
            got += f", {_first_difference(da[own].values, ds[sample].values)}"
    raise DataError.of(
        name,
        expected=f"the target's samples, dimension {sample!r} of length {ds.sizes[sample]}",
        got=got,
        remedy=remedy,
    )


def _sample_dim(da: xr.DataArray) -> str | None:
    try:
        spatial = find_axes(da)
    except DataError:
        spatial = ("", "")
    others = [str(dim) for dim in da.dims if dim not in spatial]
    return others[0] if len(others) == 1 else None


def _first_difference(own: NDArray[Any], wanted: NDArray[Any]) -> str:
    for place, (left, right) in enumerate(zip(own, wanted, strict=False)):
        if left != right:
            return f"first difference at position {place}: {left!s} instead of {right!s}"
    return "labels equal up to the end of the shorter one"


def check_rain(da: xr.DataArray, *, masked: bool = False, usual: float = 0.0) -> None:
    """Check that values can be rain: finite or NaN, not all NaN, not negative.

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

    Raises
    ------
    DataError
        Values are negative, infinite or all NaN. Gives their number and the first position.
    """
    statistics = _in_blocks(da, _extremes)
    low, high = np.fmin.reduce(statistics[:, 0]), np.fmax.reduce(statistics[:, 1])
    infinite, valid = statistics[:, 2].sum(), statistics[:, 3].sum()
    if infinite:
        _refuse(da, np.isinf, "infinite", "Set them to NaN: ds.where(np.isfinite(ds[...])).")
    if not valid and not masked:
        raise DataError.of(
            str(da.name),
            expected="rain in at least one pixel of one sample",
            got=f"{da.size} values, all NaN",
            remedy="Check the mask; NaN also arise from joining fields with other coordinates.",
        )
    limit = -ROUNDING * np.fmax(abs(high), usual)
    if low < limit:
        _refuse(
            da,
            lambda values: values < limit,
            f"negative (minimum {low:.6g} {da.attrs.get('units', '')}".rstrip() + ")",
            "Pass physical rain, not anomalies, dB or normalised values; set fill values to NaN.",
        )


def check_complete(da: xr.DataArray) -> None:
    """Check that a condition has a finite value everywhere.

    Raises
    ------
    DataError
        Values are NaN or infinite. Gives their number and the first position: a sample that is
        missing as a whole comes from joining a condition with other samples.
    """
    if _in_blocks(da, lambda values: np.array([(~np.isfinite(values)).sum()])).sum():
        _refuse(
            da,
            lambda values: ~np.isfinite(values),
            "missing or infinite",
            "Interpolate or drop them; a whole sample is missing if the condition had other "
            "labels than the target.",
        )


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
    return np.stack(compute(*parts))  # type: ignore[no-untyped-call]


def _refuse(
    da: xr.DataArray, bad: Callable[[NDArray[Any]], NDArray[np.bool_]], problem: str, remedy: str
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
        expected="rain of zero or more" if "negative" in problem else "finite values",
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
        # Block means of the target are complete by construction.
        if variable.name not in prepared or (
            variable.name == spec.derived and spec.target in prepared
        ):
            continue
        field = prepared[variable.name]
        check_complete(field)
        if variable.precipitation:
            check_rain(field, usual=SHOWER * default_wet_threshold(field, spec.sample))
    if spec.target in prepared:
        check_rain(prepared[spec.target], masked=masked, usual=SHOWER * spec.wet_threshold)


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
