"""Labels of samples: checks, texts, numbers, their fingerprint, and the choice of heavy ones."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import (
    ConfigError,
    DataError,
    EmptySelectionError,
    MissingVariableError,
    nearest,
    warn_user,
)
from xcvae.fields.cf import Layout, find_axes, find_layout, find_target, is_rain
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.sample_blocks import block_slices, slabs
from xcvae.fields.units import (
    DEPTH,
    STEP,
    default_wet_threshold,
    exponents_of,
    parse_quantity,
    step_of,
    units_of,
    with_duration,
)
from xcvae.fields.validation import accumulation_doubt, check_dataset, refuse_packed

#: Seconds of a day.
DAY = 86400.0
#: Coordinate along the samples of an augmented Dataset.
MEMBER = "realization"

#: Logarithmic bins of wet values, from the wet threshold up: 0.06 % wide, five decades.
_BINS, _DECADES = 20_000, 5.0
#: Calendars of which xarray decodes dates as datetime64.
_WORLD = ("standard", "gregorian", "proleptic_gregorian")


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
        Labels are repeated, missing, or neither text nor rising (names the first), or members of
        another model have the name of those that are drawn.
    """
    if sample not in ds.sizes:
        raise MissingVariableError.of(
            "sample dimension",
            expected=f"a dimension {sample!r}",
            got="none",
            remedy=nearest(sample, ds.sizes),
        )
    if augmented and sample == MEMBER:
        raise DataError.of(
            f"dimension {sample!r}",
            expected="samples along a dimension of another name: this one has the members",
            got=f"{ds.sizes[sample]} samples",
            remedy=f"Rename it: ds.rename({sample}='sample').",
        )
    if ds.sizes[sample] == 0:
        raise EmptySelectionError.of(
            "Dataset",
            expected="at least one sample",
            got=f"none along {sample!r}",
            remedy="Check the selection: no sample met its condition.",
        )
    _check_members(ds, sample)
    if sample not in ds.coords:
        return
    _check_labels(ds, sample, augmented=augmented)


def _check_members(ds: xr.Dataset, sample: str) -> None:
    """Refuse members of other models along the samples under the name of those that are drawn.

    In the result of `xcvae.augment`, real samples have the number -1.
    """
    if MEMBER not in ds.coords or ds[MEMBER].dims != (sample,):
        return
    member, stacked = ds[MEMBER], ds.indexes.get(sample)
    level = stacked is not None and stacked.nlevels > 1 and MEMBER in stacked.names
    if not level and member.dtype.kind in "iuf" and bool((member < 0).any()):
        return
    raise DataError.of(
        f"coordinate {MEMBER!r} along {sample!r}",
        expected="the members of an augmented Dataset, in which real samples have the number -1",
        got=f"a level of {sample!r}" if level else f"from {member.values[0]}, and none below 0",
        remedy="If it numbers members of another model, rename it, before stacking: "
        f"ds.rename({MEMBER}='driver'); if all samples are synthetic, add real ones.",
    )


def _check_labels(ds: xr.Dataset, sample: str, *, augmented: bool) -> None:
    """Check that labels are known and distinct, and rise."""
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
    ordered = isinstance(index, xr.CFTimeIndex) or index.inferred_type not in ("string", "mixed")
    if ordered and not index.is_monotonic_increasing:
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
        f"ds.isel({sample}=ds[{sample!r}].notnull()).",
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


def heavy(
    ds: xr.Dataset,
    *,
    target: str | None = None,
    threshold: str | float | None = None,
    quantile: float | None = None,
    extent: float = 0.02,
    spatial_dims: Sequence[str] | None = None,
) -> xr.DataArray:
    """Find the samples with heavy rain over a part of the domain, not in a single pixel.

    Parameters
    ----------
    ds
        Has the target.
    target
        Name of the rain variable; None takes the only one on the finest grid.
    threshold
        Rain from which a pixel is heavy: ``"20 mm/day"``, or a number in the target's units. None
        takes ``quantile`` of the wet values of ``ds``.
    quantile
        Between 0 and 1, instead of ``threshold``; 0.95 without either. Found to 0.1 %, the same for
        lazy data.
    extent
        Least share of the valid pixels of a sample that must be heavy, above 0 up to 1.
    spatial_dims
        Names of the target's (y, x) dims, if attributes and names do not identify them.

    Returns
    -------
    xarray.DataArray
        True for heavy samples, dims (sample,); use it as ``ds.isel(time=xcvae.heavy(ds))``. The
        attributes have the threshold that was used.

    Raises
    ------
    ConfigError
        A parameter out of range, or both a threshold and a quantile.
    EmptySelectionError
        The Dataset has no samples, or no wet pixel for the quantile.
    DataError, MissingVariableError, UnitsError
        As for training.
    """
    check_dataset(ds)
    if threshold is not None and quantile is not None:
        raise ConfigError.of(
            "quantile",
            expected="none beside a threshold: both say from which rain on a pixel is heavy",
            got=f"threshold={threshold!r} and quantile={quantile!r}",
            remedy="Leave one of them out.",
        )
    quantile = 0.95 if quantile is None else quantile
    _check_share("quantile", quantile, open_end=True)
    _check_share("extent", extent, open_end=False)
    da = ds[find_target(ds, target, spatial_dims=spatial_dims)]
    refuse_packed(da)
    units = units_of(da)
    layout = find_layout(da, spatial_dims=spatial_dims)
    check_samples(ds, layout.sample)
    da = da.transpose(layout.sample, layout.y, layout.x)
    if threshold is None:
        da = with_duration(ds, da, layout.sample)
        limit = _wet_quantile(da, default_wet_threshold(da, layout.sample), quantile)
    else:
        limit = _positive(threshold, units)
    shares = np.concatenate([_share(values, limit) for _, values in slabs(da)])
    coords = {layout.sample: da[layout.sample]} if layout.sample in da.coords else {}
    return xr.DataArray(
        shares >= extent,
        dims=layout.sample,
        coords=coords,
        name="heavy",
        attrs={
            "long_name": f"at least {limit:.4g} {units} in {extent:.4g} of the valid pixels",
            "units": "1",
            "threshold": limit,
            "threshold_units": units,
            "extent": extent,
        },
    )


def _positive(threshold: str | float, units: str) -> float:
    limit = parse_quantity(threshold, units=units, what="threshold")
    if limit <= 0:
        raise ConfigError.of(
            "threshold",
            expected="an amount above 0",
            got=repr(threshold),
            remedy="Rain of 0 and more falls everywhere: give '5 mm h-1', or leave it out.",
        )
    return limit


def _check_share(name: str, value: object, *, open_end: bool) -> None:
    number = float(value) if isinstance(value, int | float | np.number) else 0.0
    if not (0 < number < 1 or (number == 1 and not open_end)):
        raise ConfigError.of(
            name,
            expected=f"a share above 0 and {'below' if open_end else 'up to'} 1",
            got=repr(value),
            remedy="0.02 means two percent.",
        )


def _share(slab: xr.DataArray, limit: float) -> NDArray[np.float64]:
    """Return the share of the valid pixels at or above a limit; 0 for a sample without any."""
    values = slab.values
    valid = np.isfinite(values).sum(axis=(1, 2))
    above = (values >= limit).sum(axis=(1, 2))
    share: NDArray[np.float64] = above / np.maximum(valid, 1)
    return share


def _wet_quantile(da: xr.DataArray, wet: float, quantile: float) -> float:
    """Return a quantile of the wet values, from a histogram: chunks make no difference."""
    counts = np.zeros(_BINS, np.int64)
    for _, slab in slabs(da):
        values = slab.values.astype(np.float64)
        values = values[np.isfinite(values) & (values >= wet)]
        bins = np.log10(values / wet) * (_BINS / _DECADES)
        counts += np.bincount(np.minimum(bins.astype(np.int64), _BINS - 1), minlength=_BINS)
    total = counts.sum()
    if total == 0:
        raise EmptySelectionError.of(
            "heavy",
            expected=f"a pixel of at least {wet:.4g} {da.attrs['units']}",
            got="none in the Dataset",
            remedy="Check the units, or give a threshold.",
        )
    # The lower edge: all values of the bin are heavy, also if many are equal.
    found = int(np.searchsorted(np.cumsum(counts), quantile * total))
    return float(wet * 10 ** (min(found, _BINS - 1) * _DECADES / _BINS))


def warn_of_duration(ds: xr.Dataset, spec: DataSpec) -> None:
    """Warn of depths that grow from sample to sample, or of another duration than in the training.

    The duration is known from the bounds of times, or where times are closer than the training's
    step; times further apart may be those of a selection.
    """
    names = [spec.target, *(v.name for v in spec.variables if v.precipitation)]
    for name in names:
        if name not in ds.data_vars or spec.sample not in ds[name].dims:
            continue
        if exponents_of(units_of(ds[name])) != DEPTH:
            continue
        # The only rain of the caller's Dataset has its own name there.
        own = spec.target if spec.scales is not None and name == spec.derived else name
        if doubt := accumulation_doubt(ds[name].rename(own), spec.sample):
            warn_user(f"{own}: {doubt}")
        field = with_duration(ds, ds[name], spec.sample)
        found, known = step_of(field, spec.sample), spec.step_seconds
        if found is None or known is None or abs(found - known) <= 0.2 * known:
            continue
        if STEP in field.attrs or found < known:
            warn_user(
                f"{name}: depths of {found / 60:g} minutes, but the model was trained with those "
                f"of {known / 60:g} minutes, which it draws. Sum them up over that time, or train "
                "a model of rates, which have no duration.",
            )


def warn_of_moments(ds: xr.Dataset, target: str, names: Sequence[str], layout: Layout) -> None:
    """Warn of conditions at one moment of the days whose rain is to be drawn.

    6-hourly fields that are merged with daily rain keep the values of one hour, without a word.
    """
    sample = layout.sample
    found = {name: _moment(ds[name], sample) for name in names}
    found = {name: reason for name, reason in found.items() if reason}
    amounts = {name for name in found if _is_amount(ds[name])}
    for few, kind, call in (
        ([name for name in found if name not in amounts], "mean", "mean()"),
        ([name for name in found if name in amounts], "sum", "sum(skipna=False)"),
    ):
        if few:
            reasons = ", ".join(f"{name} ({found[name]})" for name in few)
            warn_user(
                f"{reasons}: one moment for the rain of a whole day. Take {kind}s of the days "
                f"before the fields are joined with {target!r}: predictors.resample({sample}="
                f"'1D').{call}, or several hours as variables of their own. If they are {kind}s "
                f"already, say so: ds[{few[0]!r}].attrs['cell_methods'] = '{sample}: {kind}'.",
            )


def _is_amount(da: xr.DataArray) -> bool:
    """Return True for rain in units of a depth, which adds up."""
    return exponents_of(units_of(da)) == DEPTH and is_rain(da)


def _moment(da: xr.DataArray, sample: str) -> str:
    """Return how a variable is known to be instantaneous; "" if it is not."""
    methods = str(da.attrs.get("cell_methods", ""))
    if any(word in methods for word in ("mean", "sum", "maximum", "minimum")):
        return ""
    step = _step_in_file(da, sample)
    if step is not None and step < DAY / 2:
        return f"every {step / 3600:g} h in its file"
    instant = "point" in methods.split() or da.attrs.get("GRIB_stepType") == "instant"
    return "instantaneous" if instant else ""


def _step_in_file(da: xr.DataArray, sample: str) -> float | None:
    """Return the step, in seconds, of the file that a selected variable was read from."""
    source, shape = str(da.encoding.get("source", "")), da.encoding.get("original_shape", ())
    if len(shape) != da.ndim or sample not in da.dims or not Path(source).is_file():
        return None
    axis = da.dims.index(sample)
    if shape[axis] <= da.sizes[sample]:
        return None
    # The Dataset has other labels than the file: those of what the variable was joined with.
    with (
        contextlib.suppress(OSError, ValueError, KeyError),
        xr.open_dataset(source, chunks=None) as file,
    ):
        for one in file.variables.values():
            if one.shape == tuple(shape):
                return step_of(file[str(one.dims[axis])], str(one.dims[axis]))
    return None


def storms_of(ds: xr.Dataset, sample: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Number the storms of an augmented Dataset; in any other, every sample is one.

    Returns
    -------
    array of int, array of bool
        For each sample the number of its storm, which it shares with the samples of its label, in
        the order of the labels; and whether it is observed, not synthetic.
    """
    if MEMBER not in ds.coords or ds[MEMBER].dims != (sample,):
        return np.arange(ds.sizes[sample]), np.ones(ds.sizes[sample], np.bool_)
    _, storm = np.unique(ds[sample].values, return_inverse=True)
    return storm, np.asarray(ds[MEMBER].values < 0)


def labels_of(ds: xr.Dataset | xr.DataArray, sample: str) -> list[str]:
    """Return the text of each sample label: the address of its noise.

    Times are written to the second in ISO format, everything else as ``str``. A dimension without
    a coordinate has its positions as labels.

    Parameters
    ----------
    ds
        Anything with the sample dimension.
    sample
        Its name.

    Examples
    --------
    >>> labels_of(xr.Dataset(coords={"day": ["a", "b"]}), "day")
    ['a', 'b']
    """
    # Indexing by name gives 0, 1, 2, ... for a dim without a coordinate. One sample has no dim.
    values = np.atleast_1d(ds[sample].values)
    if np.issubdtype(values.dtype, np.datetime64):
        return [str(text) for text in np.datetime_as_string(values, unit="s")]
    return [
        value.isoformat() if hasattr(value, "isoformat") else str(value)
        for value in values.tolist()
    ]


def label_keys(ds: xr.Dataset | xr.DataArray, sample: str) -> Any:
    """Return the sample labels as a pandas index in which equal times are equal.

    Times are datetime64 where the calendar is that of the world: also Python datetimes, times of
    a zone (as UTC), ``cftime`` dates of the calendars ``standard`` and ``proleptic_gregorian``,
    and numbers with the attribute ``units`` (undecoded). A store may return them in another form
    than they had. Everything else is as it is.

    Examples
    --------
    >>> days = xr.DataArray([1, 2], dims="day", attrs={"units": "days since 2000-01-01"})
    >>> label_keys(days.assign_coords(day=days), "day")[0].isoformat()
    '2000-01-02T00:00:00'
    """
    labels = ds[sample]
    if labels.dtype.kind in "iuf" and " since " in str(labels.attrs.get("units", "")):
        attrs = {key: labels.attrs[key] for key in ("units", "calendar") if key in labels.attrs}
        # Units that cannot be decoded (months) are not decoded after a store either.
        with contextlib.suppress(ValueError, OverflowError):
            numbers = xr.Variable(sample, labels.values, attrs)
            labels = xr.decode_cf(xr.Dataset(coords={sample: numbers}))[sample]
    index = labels.to_index()
    first = index[0] if len(index) else None
    zoned = getattr(index, "tz", None) or (isinstance(first, datetime) and index.dtype.kind != "M")
    if zoned or getattr(first, "calendar", None) in _WORLD:
        return index_of([_in_utc(label) for label in index])
    return index


def of_pandas(what: str, given: Any, samples: Any) -> Any:
    """Return a series of pandas as an array, with its labels if these are labels of samples.

    Parameters
    ----------
    what
        The argument, for the message.
    given
        A series, or another array of pandas; anything else is returned as it is.
    samples
        Index of the samples; None without labels.

    Raises
    ------
    DataError
        A label of the series occurs more than once.
    """
    if isinstance(given, xr.DataArray) or not hasattr(given, "to_numpy"):
        return given
    index, values = getattr(given, "index", None), given.to_numpy()
    if values.ndim != 1 or index is None or samples is None:
        return values
    known = samples.isin(index)
    # Numbers may count from elsewhere: those of a series are from 0 unless others are given.
    if not (known.all() or (known.any() and index.dtype.kind not in "iu")):
        return values
    if not index.is_unique:
        raise DataError.of(
            what,
            expected=f"one value for each label along '{samples.name}'",
            got=f"a series with labels that repeat, such as {index[index.duplicated()][0]}",
            remedy="Drop them: series[~series.index.duplicated()].",
        )
    return xr.DataArray(values, {samples.name: index}, [samples.name], given.name)


def times_of(ds: xr.Dataset | xr.DataArray, sample: str, *, otherwise: str = "") -> list[int]:
    """Return the time of each sample label in microseconds since 1970, in its own calendar.

    Times of day of any resolution and calendar, of a zone (as UTC), undecoded numbers with the
    attribute ``units``, and lead times (timedelta) count.

    Parameters
    ----------
    ds
        Anything with the sample dimension.
    sample
        Its name.
    otherwise
        An alternative to times, for the remedy in the error.

    Raises
    ------
    ConfigError
        The labels are no times.

    Examples
    --------
    >>> days = xr.date_range("2000-02-28", periods=2, calendar="noleap", use_cftime=True)
    >>> [t // 86_400_000_000 for t in times_of(xr.Dataset(coords={"day": days}), "day")]
    [11008, 11009]
    """
    index: Any = label_keys(ds, sample) if sample in ds.coords else np.empty(0)
    if hasattr(index, "to_timestamp"):  # periods
        index = index.to_timestamp()
    kind = index.dtype.kind
    if kind in "mM" and not index.hasnans:
        return [int(one) for one in index.values.astype(f"{kind}8[us]").astype(np.int64)]
    if hasattr(index, "calendar") and len(index):
        origin = index[0].replace(year=1970, month=1, day=1, hour=0, minute=0, second=0)
        origin = origin.replace(microsecond=0)
        return [(one - origin) // timedelta(microseconds=1) for one in index]
    raise ConfigError.of(
        f"dimension '{sample}'",
        expected="times as labels of the samples",
        got=f"labels of type {index.dtype}" if sample in ds.coords else "no labels",
        remedy=f"Give the samples their times, ds.assign_coords({sample}=...){otherwise}.",
    )


def index_of(times: Any) -> Any:
    """Return a pandas index of times: numpy ones, or texts in ISO format."""
    labels = np.array(times, "datetime64[us]")
    return xr.DataArray(labels, dims="label", coords={"label": labels}).to_index()


def _in_utc(label: Any) -> np.datetime64:
    if getattr(label, "tzinfo", None) is not None:
        label = label.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(label.isoformat(), "us")


def label_codes(ds: xr.Dataset | xr.DataArray, sample: str) -> NDArray[np.int64]:
    """Return a hash of every label: the same in any Dataset, without a way back to the label.

    Empty for a dimension without a coordinate, or with one that only counts: positions do not
    identify samples.

    Examples
    --------
    >>> days = xr.Dataset(coords={"day": ["a", "b"]})
    >>> bool((label_codes(days, "day")[1:] == label_codes(days.isel(day=[1]), "day")).all())
    True
    >>> label_codes(xr.Dataset(coords={"day": [0, 1]}), "day")
    array([], dtype=int64)
    """
    if sample not in ds.coords or ds[sample].dtype.kind in "iu":
        return np.empty(0, np.int64)
    texts = (text.encode() for text in labels_of(ds, sample))
    digests = (hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), np.int64)


#: Samples that a fingerprint reads at once.
SAMPLES_AT_ONCE = 64


def fingerprint(prepared: xr.Dataset, spec: DataSpec, *, target_values: bool) -> str:
    """Return a hash of everything in the data that an ensemble depends on.

    Parameters
    ----------
    prepared
        From :func:`xcvae.fields.describe.prepare`: labels, grid, conditions, perhaps the target.
        Values of Dask arrays are read in blocks of samples.
    spec
        What the model knows about the data.
    target_values
        Include the values of the target; otherwise only its missing pixels count.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    digest.update("\n".join(labels_of(prepared, spec.sample)).encode())
    for name in sorted(map(str, prepared.coords)):
        if prepared[name].dtype.kind in "iuf" and spec.sample not in prepared[name].dims:
            _add(digest, name, prepared[name].values)
    for name in sorted(map(str, prepared.data_vars)):
        for number, values in enumerate(_sample_blocks(prepared[name], spec.sample)):
            if name != spec.target or target_values:
                _add(digest, name, values)
            elif np.isnan(values).any():
                # Without missing pixels the hash is that of data without the target.
                _add(digest, f"{name} {number}", np.packbits(np.isnan(values)))
    return digest.hexdigest()[:32]


def _sample_blocks(variable: xr.DataArray, sample: str) -> Iterator[np.ndarray]:
    if sample not in variable.dims:
        yield np.asarray(variable.values)
        return
    for block in block_slices(variable.sizes[sample], SAMPLES_AT_ONCE):
        yield np.asarray(variable.isel({sample: block}).values)


def _add(digest: Any, name: str, values: np.ndarray) -> None:
    digest.update(f"{name} {values.shape} {values.dtype}".encode())
    digest.update(np.ascontiguousarray(values).tobytes())
