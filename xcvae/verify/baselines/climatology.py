"""Climatology: observed fields of other times, optionally of the same season."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr

from xcvae.errors import DataError, MismatchError
from xcvae.fields.axes import same_axis
from xcvae.fields.cf import require
from xcvae.fields.samples import labels_of
from xcvae.fields.units import to_units
from xcvae.files import expanded, is_url
from xcvae.metrics.pairs import REALIZATION
from xcvae.metrics.sample import Array
from xcvae.registry import Component, Range
from xcvae.verify.baselines.interpolation import as_members, random_stream


class RecordParameter:
    """A Dataset as the parameter of a component: its text is one line, and Dask does not open it.

    Parameters
    ----------
    dataset
        The record.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self.dataset = dataset

    def __str__(self) -> str:
        sizes = ", ".join(f"{dim} {size}" for dim, size in self.dataset.sizes.items())
        return f"Dataset with {', '.join(map(str, self.dataset.data_vars))} ({sizes})"


@dataclass(frozen=True)
class Climatology(Component):
    """Fields of a record, drawn at random: the reference for a forecast without skill.

    The members of a sample are different fields of the record, as long as it has enough. The field
    with the sample's own label and its neighbours, which are nearly copies, are never drawn: those
    less than about the root of the record's length away, as the blocks of the scorecard's
    intervals. If samples are times this is a distance in time, in median steps of the record, and
    holds for a sample outside the record too; else it is a distance in positions of the record.
    Draws are a function of seed, label and record, whatever the chunks.

    Parameters
    ----------
    record
        Dataset with the target (name, grid; units that convert), or the path of a Zarr store or
        NetCDF file; usually the training record of the model. None takes the other evaluated
        samples, so that the baseline knows more of their climate than a model could.
    window
        Width, in days, of the season to draw from, centred on the day of the year of the sample;
        None draws from the whole year. The samples have to be times.
    """

    record: xr.Dataset | RecordParameter | str | None = None
    window: Annotated[float | None, Range(high=366, above=0)] = None

    def __post_init__(self) -> None:
        if isinstance(self.record, xr.Dataset):
            object.__setattr__(self, "record", RecordParameter(self.record))
        super().__post_init__()

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Draw members: dims (realization, sample, y, x); lazy if the target is.

        Raises
        ------
        MissingVariableError, UnitsError, MismatchError
            The record differs from the target in names, units or grid.
        DataError
            The record has no field to draw for some sample, or a season is requested for samples
            that are not times.
        """
        observed = dataset[dataset.attrs["target"]]
        record = self._record(observed)
        sample, *spatial = (str(dim) for dim in observed.dims)
        chosen = self._rows(observed, record, members, seed, _observed_pixels(record))
        rows = xr.DataArray(chosen, dims=(sample, REALIZATION))
        if observed.chunks:
            rows = rows.chunk({sample: observed.chunksizes[sample]})
        fields = xr.apply_ufunc(
            _taken,
            rows,
            kwargs={"source": RecordParameter(record.to_dataset(name="field"))},
            input_core_dims=[[REALIZATION]],
            output_core_dims=[[REALIZATION, *spatial]],
            dask="parallelized",
            output_dtypes=[record.dtype],
            dask_gufunc_kwargs={"output_sizes": {dim: observed.sizes[dim] for dim in spatial}},
        )
        return as_members(fields, observed, units=str(record.attrs["units"]))

    def can_draw(self, observed: xr.DataArray) -> bool:
        """Return True if the record has a field to draw for every sample."""
        try:
            self._rows(observed, self._record(observed), 1, 0)
        except (DataError, MismatchError):
            return False
        return True

    def _record(self, observed: xr.DataArray) -> xr.DataArray:
        """Return the fields to draw from, in the units and on the grid of the target."""
        if self.record is None:
            return observed
        given = self.record
        found = given.dataset if isinstance(given, RecordParameter) else _opened(str(given))
        field = require(found, str(observed.name), what="record of the baseline 'climatology'")
        if set(field.dims) != set(observed.dims):
            raise _mismatch(f"the dims {', '.join(map(str, observed.dims))}", field.dims)
        field = to_units(field, str(observed.attrs["units"])).transpose(*observed.dims)
        for dim in observed.dims[1:]:
            labelled = dim in field.coords and dim in observed.coords
            same = field.sizes[dim] == observed.sizes[dim]
            if not same or (
                labelled and not same_axis(np.asarray(field[dim]), np.asarray(observed[dim]))
            ):
                raise _mismatch(f"the target's axis '{dim}'", f"another of {field.sizes[dim]}")
        return field

    def _rows(
        self,
        observed: xr.DataArray,
        record: xr.DataArray,
        members: int,
        seed: int,
        pixels: Array | None = None,
    ) -> Array:
        """Choose fields of the record by position, (sample, realization).

        Those with most ``pixels`` if they are enough, or else those with any: what one member
        lacks is not scored.
        """
        sample = str(observed.dims[0])
        labels, known = labels_of(observed, sample), labels_of(record, sample)
        block = max(1, min(round(len(known) ** 0.5), len(known) // 2))
        distance_from = _distances(observed, record, sample)
        days = [_days(field, sample) if self.window else None for field in (observed, record)]
        rows = np.empty((len(labels), members), np.int64)
        for i, label in enumerate(labels):
            free = distance_from(i) >= block
            if days[0] is not None and days[1] is not None:
                away = np.abs(days[1] - days[0][i])
                free &= np.minimum(away, 365.25 - away) <= float(self.window or 0) / 2
            if pixels is not None:
                complete, some = free & (pixels == pixels.max()), free & (pixels > 0)
                free = complete if complete.sum() >= members else some if some.any() else free
            random = random_stream(seed, "climatology", label)
            rows[i] = _drawn(np.flatnonzero(free), members, random)
        return rows


def _observed_pixels(record: xr.DataArray) -> Array | None:
    """Return the number of finite pixels of each field; None for numbers that are always finite."""
    if record.dtype.kind != "f":
        return None
    return np.asarray(record.count(record.dims[1:]).values)


def _distances(observed: xr.DataArray, record: xr.DataArray, sample: str) -> Callable[[int], Array]:
    """Return a function from a sample to its distance in steps from all fields of the record."""
    origin = record[sample].values[0]
    try:
        times, known = (_seconds(field[sample].values, origin) for field in (observed, record))
    except (AttributeError, TypeError):
        # No times, or of different calendars: positions in the record, if the sample has one.
        order = np.arange(record.sizes[sample])
        positions = {label: i for i, label in enumerate(labels_of(record, sample))}
        own = [positions.get(label, -np.inf) for label in labels_of(observed, sample)]
        return lambda i: np.abs(order - own[i])
    steps = np.diff(np.unique(known))
    step = float(np.median(steps)) if steps.size else 1.0
    return lambda i: np.abs(known - times[i]) / step


def _seconds(times: Array, origin: Any) -> Array:
    """Return seconds since a time; times of cftime calendars are objects."""
    if np.issubdtype(times.dtype, np.datetime64):
        return np.asarray((times - origin) / np.timedelta64(1, "s"), np.float64)
    return np.array([(time - origin).total_seconds() for time in times.tolist()])


def _drawn(candidates: Array, members: int, random: np.random.Generator) -> Array:
    """Draw without replacement, and once all candidates are drawn, with replacement."""
    if candidates.size == 0:
        raise DataError.of(
            "baseline 'climatology'",
            expected="fields to draw for every sample, apart from itself and its neighbours",
            got="none for some sample",
            remedy="Give a longer record, or a wider window.",
        )
    rows = random.permutation(candidates)[:members]
    return np.concatenate([rows, random.choice(candidates, members - rows.size)])


def _days(field: xr.DataArray, sample: str) -> Array:
    try:
        return np.asarray(field[sample].dt.dayofyear.values, np.float64)
    except (AttributeError, TypeError) as error:
        raise DataError.of(
            "baseline 'climatology', parameter 'window'",
            expected="samples that are times",
            got=f"'{sample}' of type {field[sample].dtype}",
            remedy="Leave out the window, or give the samples times as labels.",
        ) from error


def _taken(rows: Array, *, source: RecordParameter) -> Array:
    """Read fields by position: (..., members) to (..., members, y, x)."""
    field = source.dataset["field"]
    wanted, inverse = np.unique(rows, return_inverse=True)
    # Each Dask task reads a lazy record itself, whole blocks of samples at a time.
    values = field.isel({field.dims[0]: wanted}).compute(scheduler="synchronous").values
    return np.asarray(values[inverse.reshape(rows.shape)])


def _opened(given: str) -> xr.Dataset:
    path = given if is_url(given) else str(expanded(given))
    stored = Path(path).is_dir()
    found: xr.Dataset = xr.open_zarr(path, consolidated=False) if stored else xr.open_dataset(path)
    return found


def _mismatch(expected: str, got: object) -> MismatchError:
    return MismatchError.of(
        "record of the baseline 'climatology'",
        expected=expected,
        got=got,
        remedy="Give a record of the same variable on the grid of the target.",
    )
