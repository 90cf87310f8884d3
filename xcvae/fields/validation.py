"""Checks of labels and values that must hold before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import (
    DataError,
    EmptySelectionError,
    MissingVariableError,
    explain,
    nearest,
)
from xcvae.fields.cf import find_axes
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.units import default_wet_threshold

__all__ = [
    "MEMBER",
    "check_complete",
    "check_dataset",
    "check_numeric",
    "check_observed",
    "check_rain",
    "check_same_samples",
    "check_samples",
    "check_values",
    "is_placeholder",
]


#: Negative values smaller than this share of the maximum are rounding of packed files.
ROUNDING = 1e-6
#: Coordinate along the samples of an augmented Dataset.
MEMBER = "realization"
_SLAB = 8_000_000  # values looked at at a time


def check_dataset(ds: object) -> None:
    """Refuse anything but a Dataset.

    Raises
    ------
    DataError
        It is not an xarray.Dataset.
    """
    if not isinstance(ds, xr.Dataset):
        raise DataError(
            explain(
                "ds",
                expected="an xarray.Dataset",
                got=type(ds).__name__,
                remedy="Make one: da.to_dataset(name='pr'), or xr.Dataset({'pr': da}).",
            )
        )


def check_numeric(da: xr.DataArray) -> None:
    """Refuse texts, dates and objects.

    Raises
    ------
    DataError
        The values are no real numbers (truth values pass).
    """
    if da.dtype.kind not in "biuf":
        raise DataError(
            explain(
                str(da.name),
                expected="real numbers",
                got=f"type {da.dtype}",
                remedy="Convert it with astype('float32'), or leave it out.",
            )
        )


def check_samples(ds: xr.Dataset, sample: str, *, augmented: bool = False) -> None:
    """Check that there are samples, each label once, and in order where labels have one.

    Parameters
    ----------
    ds : xarray.Dataset
        Any variables.
    sample : str
        Name of the sample dim.
    augmented : bool
        Take what `xcvae.augment` returns too: its coordinate ``realization`` tells the samples of
        a label apart, and labels rise within each realization.

    Raises
    ------
    MissingVariableError
        There is no such dim.
    EmptySelectionError
        It has no samples.
    DataError
        Labels that are repeated, missing, or neither text nor rising. Says which.
    """
    if sample not in ds.sizes:
        raise MissingVariableError(
            explain(
                "sample dimension",
                expected=f"a dimension {sample!r}",
                got="none",
                remedy=nearest(sample, ds.sizes),
            )
        )
    if ds.sizes[sample] == 0:
        raise EmptySelectionError(
            explain(
                "Dataset",
                expected="at least one sample",
                got=f"none along {sample!r}",
                remedy="Check the selection that made it: is its condition ever true?",
            )
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
    raise DataError(
        explain(
            sample,
            expected="sample labels that rise, each once",
            got=f"{int(bad.sum())} {problem}, first {index[place]!s} at position {place}",
            remedy=f"Put it in order: ds.sortby({sample!r}), {unique}, "
            f"ds.dropna({sample!r}, subset=[...]).",
        )
    )


def check_same_samples(ds: xr.Dataset, name: str, sample: str) -> None:
    """Check that a condition has the target's samples.

    Raises
    ------
    DataError
        It has none, or they are along another dim. Names the first labels that differ.
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
    raise DataError(
        explain(
            name,
            expected=f"the target's samples, dimension {sample!r} of length {ds.sizes[sample]}",
            got=got,
            remedy=remedy,
        )
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
    return "labels equal as far as they go"


def check_rain(da: xr.DataArray, *, masked: bool = False, usual: float = 0.0) -> None:
    """Check that values can be rain: finite or NaN, not all NaN, not negative.

    One pass, by blocks; lazy data is streamed and never held whole.

    Parameters
    ----------
    da : xarray.DataArray
        Rain, any dims and precipitation units. NaN is a mask. Negative values down to -1e-6 of
        the maximum are rounding and pass.
    masked : bool
        All of it may be NaN.
    usual : float
        A maximum that data of this kind has, for parts without much rain.

    Raises
    ------
    DataError
        Negative or infinite values, or nothing but NaN. Says how many, and where the first is.
    """
    statistics = _in_blocks(da, _extremes)
    low, high = np.fmin.reduce(statistics[:, 0]), np.fmax.reduce(statistics[:, 1])
    infinite, valid = statistics[:, 2].sum(), statistics[:, 3].sum()
    if infinite:
        _refuse(da, np.isinf, "infinite", "Set them to NaN: ds.where(np.isfinite(ds[...])).")
    if not valid and not masked:
        raise DataError(
            explain(
                str(da.name),
                expected="rain in at least one pixel of one sample",
                got=f"{da.size} values, all NaN",
                remedy="Check the mask, and whether coordinates matched when it was put together.",
            )
        )
    limit = -ROUNDING * np.fmax(abs(high), usual)
    if low < limit:
        _refuse(
            da,
            lambda values: values < limit,
            f"negative (minimum {low:.6g} {da.attrs.get('units', '')}".rstrip() + ")",
            "Is it an anomaly, in dB or normalised? Give physical rain; set a fill value to NaN.",
        )


def check_complete(da: xr.DataArray) -> None:
    """Check that a condition has a finite value everywhere.

    Raises
    ------
    DataError
        NaN or infinite values. Says how many, and where the first is: a sample that is missing
        altogether comes from joining a condition on other samples.
    """
    if _in_blocks(da, lambda values: np.array([(~np.isfinite(values)).sum()])).sum():
        _refuse(
            da,
            lambda values: ~np.isfinite(values),
            "missing or infinite",
            "Interpolate or drop them; a whole sample is missing where the condition had other "
            "labels than the target.",
        )


def _extremes(values: NDArray[Any]) -> NDArray[np.float64]:
    """Minimum, maximum, number of infinite and of valid values; NaN-skipping."""
    if values.size == 0:
        return np.array([np.nan, np.nan, 0.0, 0.0])
    low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    infinite = np.isinf(values).sum() if np.isinf([low, high]).any() else 0
    return np.array([low, high, infinite, values.size - np.isnan(values).sum()], np.float64)


def _in_blocks(
    da: xr.DataArray, summarise: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[np.float64]:
    """Summaries of all blocks, (block, values); the chunks of lazy data in parallel."""
    if da.chunks is None:
        return np.stack([summarise(slab.values) for _, slab in _slabs(da)])
    from dask.base import compute
    from dask.delayed import delayed

    parts = [delayed(summarise)(block) for block in da.data.to_delayed().ravel()]
    return np.stack(compute(*parts))  # type: ignore[no-untyped-call]


def _slabs(da: xr.DataArray) -> Iterator[tuple[int, xr.DataArray]]:
    """Cut a field along its first dim; yields (start, slab)."""
    if da.ndim == 0:
        yield 0, da
        return
    step = max(1, _SLAB // max(1, da.size // max(1, da.shape[0])))
    for start in range(0, da.shape[0], step):
        yield start, da[start : start + step]


def _refuse(
    da: xr.DataArray, bad: Callable[[NDArray[Any]], NDArray[np.bool_]], problem: str, remedy: str
) -> None:
    """Count bad values, find the first, and raise DataError."""
    count, first = 0, ""
    for start, slab in _slabs(da):
        wrong = bad(slab.values)
        if wrong.any() and not first:
            place = [int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape)]
            offset = [start, *[0] * (da.ndim - 1)][: da.ndim]
            first = _place(da, [i + j for i, j in zip(place, offset, strict=True)])
        count += int(wrong.sum())
    raise DataError(
        explain(
            str(da.name),
            expected="rain of zero or more" if "negative" in problem else "finite values",
            got=f"{count} of {da.size} {problem}, first at {first}",
            remedy=remedy,
        )
    )


def _place(da: xr.DataArray, position: list[int]) -> str:
    """Labels of a position, or the index where a dim has none."""
    return ", ".join(
        f"{dim}={da[dim].values[i] if dim in da.coords else i}"
        for dim, i in zip(da.dims, position, strict=True)
    )


#: A heavy shower is so many times the wet threshold; a dry block still has its rounding errors.
SHOWER = 1000.0


def check_values(prepared: xr.Dataset, spec: DataSpec, *, masked: bool = False) -> None:
    """Check that conditions and statics are complete, and that rain can be rain.

    One pass or two over each variable; lazy data is streamed.

    Parameters
    ----------
    prepared : xarray.Dataset
        From `xcvae.fields.describe.prepare`, or some of its variables.
    spec : DataSpec
        The one it was prepared for.
    masked : bool
        The target may be NaN throughout, as in a block of samples that all lie in a mask.

    Raises
    ------
    DataError
        A condition or static that is NaN or infinite somewhere; rain (target or condition) that
        is negative or infinite; a target that is all NaN. Says how many, and where the first is.
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
        A sample without any. Names the first.
    """
    empty = ~prepared[spec.target].notnull().any((spec.y, spec.x)).values
    if not empty.any():
        return
    label = prepared[spec.sample].values[int(np.argmax(empty))]
    raise DataError(
        explain(
            f"{spec.target}, {spec.sample} {label}",
            expected="an observed field: a valid pixel in every sample",
            got=f"NaN throughout in {int(empty.sum())} of {empty.size} samples",
            remedy="Leave these samples out, or draw them with mode='prior', which needs no "
            "observation.",
        )
    )


def is_placeholder(target: xr.DataArray, spec: DataSpec) -> bool:
    """Whether a target is NaN throughout: no observation, only a name.

    Reads no further than to the first valid pixel, chunk by chunk.
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
