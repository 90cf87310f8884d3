"""Choosing samples by their labels, as a configuration writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xcvae.config.schema import Selection
from xcvae.errors import (
    ConfigError,
    EmptySelectionError,
    MissingVariableError,
    explain,
    nearest,
)

__all__ = ["select"]


def select(ds: xr.Dataset, selection: Selection, sample: str, where: str) -> xr.Dataset:
    """Choose samples by their labels.

    Parameters
    ----------
    ds
        The data.
    selection
        By coordinate along the sample dim: a value (``split: 0``; ``time: 2005`` is the whole
        year), a list of values, for times a pair [first, last], or ``{start, stop, step}``.
        All must hold; steps are taken last.
    sample
        Name of the sample dim.
    where
        What it is called in messages.

    Raises
    ------
    MissingVariableError
        There is no such coordinate.
    ConfigError
        A value that cannot be looked up.
    EmptySelectionError
        No sample is left.
    """
    keep = np.ones(ds.sizes[sample], dtype=bool)
    step = 1
    for name, wanted in selection.items():
        labels = _labels(ds, name, sample, where)
        if isinstance(wanted, Mapping):
            step *= _step(wanted, f"{where}.{name}")
        matched = _matches(labels, wanted, f"{where}.{name}")
        if not matched.any():
            raise EmptySelectionError(
                explain(
                    f"{where}.{name}",
                    expected=f"labels from {labels.min()} to {labels.max()}",
                    got=repr(wanted),
                    remedy="Choose values that occur in the data.",
                )
            )
        keep &= matched
    positions = np.flatnonzero(keep)[::step]
    if not len(positions):
        raise EmptySelectionError(
            explain(
                where,
                expected="at least one sample",
                got=f"none that fits {selection!r}",
                remedy="Each of these holds somewhere, but not all for the same sample.",
            )
        )
    return ds.isel({sample: positions})


def _labels(ds: xr.Dataset, name: str, sample: str, where: str) -> Any:
    """Return a coordinate along the samples as a pandas index."""
    along = [str(c) for c, coord in ds.coords.items() if coord.dims == (sample,)]
    if name not in along:
        raise MissingVariableError(
            explain(
                where,
                expected=f"names of coordinates along '{sample}'",
                got=repr(name),
                remedy=nearest(name, along),
            )
        )
    return ds[name].to_index()


def _matches(labels: Any, wanted: object, where: str) -> np.ndarray:
    times = hasattr(labels, "year")
    if isinstance(wanted, Mapping):
        return _between(labels, wanted.get("start"), wanted.get("stop"), times, where)
    values = wanted if isinstance(wanted, list) else [wanted]
    if not times:
        return np.asarray(labels.isin(values))
    if len(values) == 2:
        return _between(labels, values[0], values[1], times, where)
    found = [_between(labels, value, value, times, where) for value in values]
    return np.asarray(np.any(found, axis=0))


def _between(labels: Any, start: object, stop: object, times: bool, where: str) -> np.ndarray:
    """Say which labels lie in [start, stop]; a time such as "2005-03" covers the whole month."""
    bounds = [None if b is None else str(b) if times else b for b in (start, stop)]
    if not times:
        try:
            after = True if start is None else labels >= start
            before = True if stop is None else labels <= stop
        except TypeError as error:
            raise _unreadable(where, bounds, labels) from error
        return np.broadcast_to(np.logical_and(after, before), len(labels))
    labels = labels.rename("label")
    positions = xr.DataArray(np.arange(len(labels)), {"label": labels}, "label")
    try:
        inside = positions.sel(label=slice(*bounds)).values
    except (KeyError, ValueError, TypeError) as error:
        raise _unreadable(where, bounds, labels) from error
    return np.isin(positions.values, inside)


def _unreadable(where: str, bounds: list[Any], labels: Any) -> ConfigError:
    return ConfigError(
        explain(
            where,
            expected=f"labels such as {labels[0]}, in ascending order",
            got=f"from {bounds[0]!r} to {bounds[1]!r}",
            remedy="Write times as 2005, 2005-03 or 2005-03-01T12:00.",
        )
    )


def _step(wanted: Mapping[str, Any], where: str) -> int:
    valid = ("start", "stop", "step")
    for key in wanted:
        if key not in valid:
            raise ConfigError(f"{where}: unknown key '{key}'. {nearest(str(key), valid)}")
    step = wanted.get("step", 1)
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise ConfigError(
            explain(
                f"{where}.step",
                expected="an integer >= 1",
                got=repr(step),
                remedy="8 takes every 8th sample.",
            )
        )
    return step
