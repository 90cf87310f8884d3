"""The contract of a metric: sums over samples, and one formula that turns the sums into a score."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError
from xcvae.fields.units import HEAVY, default_wet_threshold, is_daily, parse_quantity
from xcvae.metrics.pairs import matched
from xcvae.metrics.sample import Array, SampleFields
from xcvae.registry import Component

Stats = Mapping[str, Array]
"""Sums over samples by name. Leading axes (for example resamples) are kept by every formula."""


class Statistic(Hashable, Protocol):
    """Sums over the pixels of one sample; equal statistics are computed once and shared.

    One with the attribute ``by_piece = False`` is added up over all samples at once: its sums are
    too large to be kept for resampling.
    """

    def __call__(self, maps: SampleFields, /) -> dict[str, Array]:
        """Return scalars or vectors by name, to be added up over samples."""
        ...


@dataclass(frozen=True)
class SampleSums:
    """The statistic of all built-in metrics: a function of one sample, and its parameters.

    Two with the same function and parameters are equal, so that the metrics that need them share
    one computation. A bound parameter is an attribute too: ``sums.threshold``.

    Attributes
    ----------
    function
        Takes the fields of one sample, and the parameters by name; returns sums by name.
    parameters
        Names and values in the order of the function, numbers in the units of the data; empty in
        the declaration of a metric.

    Examples
    --------
    >>> def exceedances(sample, *, threshold):
    ...     return {"count": (sample.members >= threshold).sum()}
    >>> SampleSums(exceedances).bind(threshold=5.0) == SampleSums(exceedances).bind(threshold=5.0)
    True
    """

    function: Callable[..., dict[str, Array]]
    parameters: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameters that the function takes."""
        return tuple(inspect.signature(self.function).parameters)[1:]

    def bind(self, **parameters: Any) -> SampleSums:
        """Return the sums with the parameters that the function takes; others are left out."""
        return replace(self, parameters=tuple((name, parameters[name]) for name in self.names))

    def __call__(self, sample: SampleFields, /) -> dict[str, Array]:
        """Return the sums of one sample.

        Raises
        ------
        ComponentError
            The function returns something else.
        """
        sums = self.function(sample, **dict(self.parameters))
        if not isinstance(sums, dict):
            raise ComponentError.of(
                f"sums of a metric, {self.function.__qualname__}",
                expected="to return a dict of sums by name",
                got=type(sums).__name__,
                remedy="Return a dict from the function of SampleSums.",
            )
        return sums

    def __getattr__(self, name: str) -> Any:
        """Return a bound parameter."""
        # Not self.parameters: while pickle makes an instance, it has no attributes yet.
        for key, value in vars(self).get("parameters", ()):
            if key == name:
                return value
        raise AttributeError(f"{type(self).__name__} has no parameter '{name}'")


@dataclass(frozen=True)
class Metric(Component):
    """Base of the built-in metrics, and of any metric that wants intervals at no cost.

    A metric declares what to add up over the pixels of a sample (`sums`) and what to make of the
    totals (`quotient` or `finish`). So an ensemble of any size is scored block by block, in
    bounded memory, and a bootstrap only reweighs sums.

    Attributes
    ----------
    long_name
        The quantity that it measures, in a few words.
    better
        "lower", "higher" or the ideal value.
    units
        Units of the score; None stands for those of the data.
    limits
        The lowest and the highest score that is possible.
    sums
        The sums over the pixels of one sample. Its function takes parameters of the metric by
        name.
    quotient
        The names of two sums: the score is the first over the second. Any other formula goes into
        `finish`.
    """

    long_name: ClassVar[str]
    better: ClassVar[str | float]
    units: ClassVar[str | None] = "1"
    limits: ClassVar[tuple[float, float]] = (-np.inf, np.inf)
    sums: ClassVar[SampleSums]
    quotient: ClassVar[tuple[str, str]]

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums that this metric needs, with thresholds in the units of the data.

        Parameters
        ----------
        observed
            All observed samples (not a block of them): defaults may depend on the time step.
            Dims (sample, y, x); only labels and attributes are read.
        """
        return self.sums.bind(**self.bound_parameters(observed))

    def bound_parameters(self, observed: xr.DataArray) -> dict[str, Any]:
        """Return the parameters by name, quantities as numbers in the units of the data."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def finish(self, stats: Stats) -> Array:
        """Turn sums over samples into the score, keeping leading axes."""
        return self._quotient(stats)

    def _quotient(self, stats: Stats) -> Array:
        numerator, denominator = self.quotient
        if not {numerator, denominator} <= stats.keys():
            raise ComponentError.of(
                f"{type(self).__name__}.quotient",
                expected=f"two of the sums {', '.join(stats)}",
                got=f"{numerator!r} and {denominator!r}",
                remedy="Name sums that the function of `sums` returns.",
            )
        return ratio(stats[numerator], stats[denominator])

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
        forecast, observed, spatial_dims
            As for `xcvae.metrics.pairs.matched`.

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
        rows = [statistic(sample) for sample in pair]
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

    better = "higher"
    limits = (-np.inf, 1.0)

    def absolute(self, stats: Stats) -> Array:
        """Turn sums over samples into the score that is compared; lower must be better."""
        return self._quotient(stats)

    def finish(self, stats: Stats) -> Array:
        """Refuse: a skill needs the sums of the baseline too.

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


Over = Literal["sample", "record"]
"""The samples of one call of a metric that is no `Metric`: its attribute ``over``.

"sample", the default: the average of the scores of samples is the score of all of them. "record":
it needs all samples at once, as return levels, annual maxima and correlations in time do.
"""


def over_of(name: str, metric: object) -> Over:
    """Return what a metric declares in its attribute ``over``; "sample" without one.

    Raises
    ------
    ComponentError
        It declares anything else.
    """
    declared: Over = getattr(metric, "over", "sample")
    if declared not in get_args(Over):
        raise ComponentError.of(
            f"metric '{name}', attribute 'over'",
            expected="'sample' (scores of samples are averaged) or 'record' (all at once)",
            got=repr(declared),
            remedy='Set over = "record" if the score needs all samples at once.',
        )
    return declared


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide; NaN where the denominator is zero: nothing was scored."""
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


def event_threshold_in(observed: xr.DataArray, value: str | float | None) -> float:
    """Return a threshold in the units of the data; by default 5 mm h-1, of days 20 mm d-1."""
    if value is not None:
        return threshold_in(observed, value)
    sample = str(observed.dims[0])
    # The default wet threshold knows rates from depths: 0.1 mm (h-1), for days 1 mm (d-1).
    multiple = 20.0 if is_daily(observed, sample) else 50.0
    exact = multiple * default_wet_threshold(observed, sample)
    return parse_quantity(float(f"{exact:.12g}"), units=observed.attrs["units"], what="threshold")


def heavy_threshold_in(observed: xr.DataArray, value: str | float | None) -> float:
    """Return a threshold of heavy rain; by default the 99th percentile of the training record.

    `xcvae.evaluate` reads it from the attributes of the ensemble. Without a record, or where rain
    is so rare that the percentile is dry, it is the default of `event_threshold_in`.
    """
    if value is None and HEAVY in observed.attrs:
        known = float(observed.attrs[HEAVY])
        if known >= default_wet_threshold(observed, str(observed.dims[0])):
            return known
    return event_threshold_in(observed, value)


def cap_in(observed: xr.DataArray, value: str | float | None) -> float | None:
    """Return a cap of the product in the units of the data; None for None.

    Raises
    ------
    ComponentError
        It is not above zero, so that no amount would be left to score.
    """
    if value is None:
        return None
    cap = parse_quantity(value, units=str(observed.attrs["units"]), what="cap")
    if cap <= 0:
        raise ComponentError.of(
            "cap",
            expected="an amount above 0",
            got=repr(value),
            remedy="Give the largest amount that the product has, such as '53.8 mm h-1'.",
        )
    return cap


def threshold_in(observed: xr.DataArray, value: str | float) -> float:
    """Return a quantity such as "5 mm h-1" as a number in the units of the data."""
    return parse_quantity(value, units=str(observed.attrs["units"]), what="threshold")
