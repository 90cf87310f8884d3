"""What a metric is: sums over samples, and one formula that turns the sums into a number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError
from xcvae.fields.units import default_wet_threshold, parse_quantity
from xcvae.metrics.pairs import Array, Maps, matched
from xcvae.registry import Component

__all__ = ["Metric", "Skill", "Statistic", "Stats", "ratio", "threshold_in", "wet_threshold_in"]

Stats = Mapping[str, Array]
"""Sums over samples by name. Leading axes (for example resamples) are kept by every formula."""


class Statistic(Hashable, Protocol):
    """Sums over the pixels of one sample; equal statistics are computed once and shared.

    One with the attribute ``by_piece = False`` is added up over all samples at once: its sums are
    too large to be kept for resampling.
    """

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Return scalars or vectors by name, to be added up over samples."""
        ...


@dataclass(frozen=True)
class Metric(Component):
    """Base of the built-in metrics, and of any metric that wants intervals at no cost.

    A metric says what to add up over the pixels of a sample (`bind`) and what to make of the
    sums (`finish`). So an ensemble of any size is scored block by block, in bounded memory,
    and a bootstrap only reweighs sums.

    Attributes
    ----------
    long_name : str
        What it measures, in a few words.
    better : str or float
        "lower", "higher" or the ideal value.
    units : str or None
        Units of the score; None stands for those of the data.
    limits : tuple of two floats
        What the score cannot be below or above.
    """

    long_name: ClassVar[str]
    better: ClassVar[str | float]
    units: ClassVar[str | None] = "1"
    limits: ClassVar[tuple[float, float]] = (-np.inf, np.inf)

    @abstractmethod
    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums that this metric needs, with thresholds in the units of the data.

        Parameters
        ----------
        observed
            All observed samples (not a block of them): defaults may depend on the time step.
            Dims (sample, y, x); only labels and attributes are read.
        """

    @abstractmethod
    def finish(self, stats: Stats) -> Array:
        """Turn sums over samples into the score, keeping leading axes."""

    def best(self, stats: Stats) -> str | float:
        """Return "lower", "higher" or the ideal value, which may depend on what was observed."""
        return self.better

    def statistics(
        self,
        forecast: xr.DataArray,
        observed: xr.DataArray,
        *,
        spatial_dims: Sequence[str] | None = None,
    ) -> dict[str, xr.DataArray]:
        """Return the sums over pixels of every sample.

        Parameters
        ----------
        forecast
            Dims (realization, sample, y, x).
        observed
            Dims (sample, y, x).
        spatial_dims
            The names of (y, x) where attributes and names do not tell.

        Returns
        -------
        dict of str to DataArray
            Each with the sample dimension first.

        Raises
        ------
        UnitsError, MismatchError, DataError
            As in `xcvae.metrics.pairs.matched`.
        """
        pair = matched(forecast, observed, spatial_dims=spatial_dims)
        statistic = self.bind(pair.observed)
        rows = [statistic(maps) for maps in pair]
        labels = {k: c for k, c in pair.observed.coords.items() if c.dims == (pair.sample,)}
        found = {}
        for name in rows[0]:
            values = np.stack([np.asarray(row[name], dtype=np.float64) for row in rows])
            dims = [pair.sample, *(f"{name}_{i}" for i in range(1, values.ndim))]
            found[name] = xr.DataArray(values, dims=dims, coords=labels, name=name)
        return found

    def __call__(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Return the score over all samples as a scalar with units, long_name and better."""
        stats = self.statistics(forecast, observed)
        sums = {name: da.values.sum(axis=0) for name, da in stats.items()}
        attrs = {
            "units": str(observed.attrs["units"]) if self.units is None else self.units,
            "long_name": self.long_name,
            "better": self.best(sums),
        }
        return xr.DataArray(self.finish(sums), attrs=attrs)


@dataclass(frozen=True)
class Skill(Metric):
    """Base of metrics that compare with a baseline on the same samples.

    Parameters
    ----------
    against
        Name of the baseline. `xcvae.evaluate` scores it even where it is not listed.
    """

    against: str = "bilinear"

    better: ClassVar[str | float] = "higher"
    limits: ClassVar[tuple[float, float]] = (-np.inf, 1.0)

    @abstractmethod
    def absolute(self, stats: Stats) -> Array:
        """Turn sums over samples into the score that is compared; lower must be better."""

    def finish(self, stats: Stats) -> Array:
        """Refuse: there is no skill without the sums of the baseline.

        Raises
        ------
        ComponentError
            Always.
        """
        raise ComponentError(
            f"{self.long_name}: a skill needs the baseline '{self.against}'. "
            "Use xcvae.evaluate, which draws it."
        )

    def finish_against(self, stats: Stats, reference: Stats) -> Array:
        """Return the share of the baseline's score that is saved."""
        return 1.0 - ratio(self.absolute(stats), self.absolute(reference))


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide; NaN where the denominator is zero, for there is nothing to score."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def wet_threshold_in(observed: xr.DataArray, value: str | float | None) -> float:
    """Return a wet threshold in the units of the data; by default 0.1 mm h-1, daily 1 mm d-1."""
    if value is None:
        return default_wet_threshold(observed, str(observed.dims[0]))
    return threshold_in(observed, value)


def threshold_in(observed: xr.DataArray, value: str | float) -> float:
    """Return a quantity such as "5 mm h-1" as a number in the units of the data."""
    return parse_quantity(value, units=str(observed.attrs["units"]), what="threshold")
