"""Threshold of the tail: a given amount, or a quantile of wet pixels of a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

import xcvae
from xcvae.plugins import (
    Metric,
    in_range,
    parse_quantity,
    threshold_in,
    wet_threshold_in,
)

__all__ = ["Array", "TailMetric", "observed_quantile"]

Array = npt.NDArray[Any]

WIDTH = 0.002
"""Relative width of the bins of amounts: the precision of a quantile."""
BINS = 8000
"""Number of bins, from the wet threshold to nearly ten million times its value."""
BLOCK = 64 * 2**20
"""Bytes of observations that are read at a time."""


@dataclass(frozen=True)
class TailMetric(Metric):
    """Base of the metrics of rain at or above a threshold.

    Parameters
    ----------
    threshold
        Start of the tail: "20 mm/day", or a number in the units of the data. With None it is a
        quantile of a record.
    quantile
        Level of that quantile, of wet pixels.
    model
        Path of a model file, for the quantile of its training record (exact to 3.5 %). With None
        the quantile is that of the scored observations (exact to 0.2 %), which are read twice.
    """

    threshold: str | float | None = None
    quantile: float = 0.95
    model: str | None = None

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        in_range(self, "quantile", 0, 1)
        in_range(self, "threshold", above=0)

    def limit(self, observed: xr.DataArray) -> float:
        """Return the threshold of the tail in the units of the data.

        Parameters
        ----------
        observed
            All samples, dims (sample, y, x), with ``units``.
        """
        if self.threshold is not None:
            return threshold_in(observed, self.threshold)
        if self.model is None:
            return observed_quantile(observed, self.quantile)
        record = xcvae.load(self.model).record
        value = f"{record.quantile(self.quantile, wet=True)!r} {record.units}"
        return parse_quantity(value, units=str(observed.attrs["units"]), what="training record")


def observed_quantile(observed: xr.DataArray, quantile: float) -> float:
    """Return a quantile of the wet pixels, as the lower end of a bin 0.2 % wide.

    Parameters
    ----------
    observed
        Dims (sample, y, x), with ``units``, in memory or lazy. NaN is ignored.
    quantile
        From 0 to 1.

    Returns
    -------
    float
        In the units of the data; the wet threshold if no pixel is wet.
    """
    wet = wet_threshold_in(observed, None)
    counts = np.zeros(BINS, np.int64)
    for values in _blocks(observed):
        amounts = values[values >= wet]
        bins = np.clip(np.log(amounts / wet) / WIDTH, 0, BINS - 1).astype(np.int64)
        counts += np.bincount(bins, minlength=BINS)
    if not counts.any():
        return wet
    place = np.searchsorted(np.cumsum(counts), quantile * counts.sum())
    return float(wet * np.exp(WIDTH * min(int(place), BINS - 1)))


def _blocks(observed: xr.DataArray) -> Iterator[Array]:
    sample, count = observed.dims[0], observed.shape[0]
    step = max(1, BLOCK // max(1, observed.nbytes // max(1, count)))
    for first in range(0, count, step):
        yield np.asarray(observed.isel({sample: slice(first, first + step)}).values)
