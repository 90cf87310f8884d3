"""Scores of structure in time: metrics of sequences of consecutive samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError
from xcvae.fields.sample_blocks import consecutive, segments
from xcvae.fields.samples import times_of
from xcvae.fields.units import parse_quantity
from xcvae.metrics.metric import Metric, SampleSums, Stats, ratio, wet_threshold_in
from xcvae.metrics.pairs import matched
from xcvae.metrics.sample import Array, SampleFields
from xcvae.metrics.spatial import decibels
from xcvae.registry.components import Range

LONGEST = 24
"""Samples of a sequence at most, but for long lags: its members are in memory together."""


@dataclass(frozen=True, eq=False)
class SequenceFields:
    """The members and the observations of consecutive samples.

    Attributes
    ----------
    samples
        The fields of each sample, in the order of time.
    """

    samples: Sequence[SampleFields]

    @cached_property
    def valid(self) -> Array:
        """The mask of the pixels that count at all times, (y, x)."""
        return np.asarray(np.logical_and.reduce([one.valid for one in self.samples]))

    @cached_property
    def truth(self) -> Array:
        """The valid pixels of the observations, (time, P)."""
        return np.stack([one.observed[self.valid] for one in self.samples])

    @cached_property
    def members(self) -> Array:
        """The valid pixels of every member, (time, M, P)."""
        return np.stack([one.forecast[:, self.valid] for one in self.samples])

    @property
    def weights(self) -> Array | float:
        """The weights of the valid pixels, (P,); 1 where all are equal."""
        area = self.samples[0].area
        return 1.0 if area is None else area[self.valid]


@dataclass(frozen=True)
class SequenceMetric(Metric):
    """Base of metrics of consecutive samples; their function takes `SequenceFields`.

    Attributes
    ----------
    exact
        Sequences have the length that is asked for, or do not count.
    """

    exact: ClassVar[bool] = False

    def length(self, step: float) -> int:
        """Return the most samples of a sequence, for samples that are ``step`` seconds apart."""
        return LONGEST

    def statistics(
        self,
        forecast: xr.DataArray,
        observed: xr.DataArray,
        *,
        spatial_dims: Sequence[str] | None = None,
    ) -> dict[str, xr.DataArray]:
        """Return the sums of every sequence, labelled by its first sample; see `Metric`."""
        pair = matched(forecast, observed, spatial_dims=spatial_dims)
        times = np.array(times_of(pair.observed, pair.sample), np.int64)
        step, runs = consecutive(times)
        parts = segments(runs, self.length(step / 1e6), exact=self.exact)
        statistic: Any = self.bind(pair.observed)
        samples = list(pair)
        rows = [statistic(SequenceFields([samples[i] for i in part])) for part in parts]
        labels = pair.observed[pair.sample][[int(part[0]) for part in parts]]
        found = {}
        for name in rows[0]:
            values = np.stack([np.asarray(row[name], dtype=np.float64) for row in rows])
            dims = [pair.sample, *(f"{name}_{i}" for i in range(1, values.ndim))]
            found[name] = xr.DataArray(values, {pair.sample: labels}, dims, name=name)
        return found


def steps_of(lag: str | int, observed: xr.DataArray) -> int:
    """Return a lag in samples: a number of them, or a duration such as "15 min".

    Raises
    ------
    ConfigError
        The duration is no multiple of the step of the samples.
    """
    if isinstance(lag, int):
        return lag
    seconds = parse_quantity(lag, units="s", what="lag")
    times = np.array(times_of(observed, str(observed.dims[0])), np.int64)
    step = consecutive(times)[0] / 1e6
    steps = seconds / step if step else 0.0
    if steps < 1 or abs(steps - round(steps)) > 1e-6:
        raise ConfigError.of(
            "lag",
            expected=f"a multiple of the step of the samples, {step:g} s",
            got=repr(lag),
            remedy="Give a number of samples, such as 1, or a multiple of the step.",
        )
    return round(steps)


def _rest(field: Array, valid: Array, side: int) -> Array:
    """Subtract means over blocks of side x side pixels; (..., y, x), 0 where not valid."""
    starts = [np.arange(0, size, side) for size in valid.shape]

    def summed(maps: Array) -> Array:
        rows = np.add.reduceat(maps, starts[0], axis=-2, dtype=np.float64)
        return np.asarray(np.add.reduceat(rows, starts[1], axis=-1))

    counts = np.maximum(summed(valid.astype(np.float64)), 1.0)
    means = summed(np.where(valid, field, 0.0)) / counts
    rows, columns = (np.arange(size) // side for size in valid.shape)
    return np.where(valid, field - means[..., rows[:, None], columns], 0.0)


def lagged_products(sequence: SequenceFields, *, lag: int, block: int) -> dict[str, Array]:
    """Sum products of the fine structure of samples at a lag, and their squares."""
    sums = dict.fromkeys(
        ("generated", "generated_first", "generated_second", "truth", "truth_first",
         "truth_second"), 0.0
    )  # fmt: skip
    rests: list[tuple[Array, Array]] = []
    area = sequence.samples[0].area
    for one in sequence.samples:
        now = _rest(one.forecast, sequence.valid, block), _rest(one.observed, sequence.valid, block)
        rests.append(now)
        if len(rests) > lag:
            for name, first, second in zip(
                ("generated", "truth"), rests[-lag - 1], now, strict=True
            ):
                weighted = (first, second) if area is None else (first * area, second * area)
                sums[name] += float(np.vdot(weighted[0], second))
                sums[f"{name}_first"] += float(np.vdot(weighted[0], first))
                sums[f"{name}_second"] += float(np.vdot(weighted[1], second))
            rests[-lag - 1] = now  # free the memory of what no later sample needs
    return {name: np.asarray(value) for name, value in sums.items()}


def _correlation(stats: Stats, name: str) -> Array:
    first, second = (np.asarray(stats[f"{name}_{end}"]) for end in ("first", "second"))
    return ratio(stats[name], np.sqrt(first * second))


@dataclass(frozen=True)
class LagCorrelation(SequenceMetric):
    """Correlation of the fine structure of consecutive samples of a member; ideal: as observed.

    The fine structure is what means over blocks of pixels do not tell. Members that are drawn for
    each time by itself have almost none: they flicker.

    Parameters
    ----------
    lag
        Distance of the samples: a number of them, or a duration such as "15 min".
    block
        Side of the blocks in pixels.
    """

    lag: str | Annotated[int, Range(1)] = 1
    block: Annotated[int, Range(2)] = 12

    long_name = "correlation of fine structure in time"
    better = 1.0
    limits = (-1.0, 1.0)
    sums = SampleSums(lagged_products)

    def length(self, step: float) -> int:
        """Return the most samples of a sequence: four times the lag or more, to lose few pairs."""
        lag = self.lag if isinstance(self.lag, int) else 0
        if not lag and step:
            lag = round(parse_quantity(self.lag, units="s", what="lag") / step)
        return max(LONGEST, 4 * lag)

    def bound_parameters(self, observed: xr.DataArray) -> dict[str, Any]:
        """Return the parameters with the lag in samples."""
        return super().bound_parameters(observed) | {"lag": steps_of(self.lag, observed)}

    def finish(self, stats: Stats) -> Array:
        """Correlate the members."""
        return _correlation(stats, "generated")

    def best(self, stats: Stats) -> str | float:
        """Return the correlation of the observations."""
        observed = float(_correlation(stats, "truth"))
        return observed if np.isfinite(observed) else self.better


def spells(sequence: SequenceFields, *, threshold: float) -> dict[str, Array]:
    """Count wet and dry pixels that have a successor, and those that change with it."""
    weights = sequence.weights
    found: dict[str, Array] = {}
    shares = {"generated": 1.0 / sequence.members.shape[1], "truth": 1.0}
    for name, fields in (("generated", sequence.members), ("truth", sequence.truth)):
        wet = fields >= threshold
        before, after = wet[:-1], wet[1:]
        for kind, state in (("wet", before), ("dry", ~before)):
            changes = state & (after != before)
            found[f"{name}_{kind}"] = np.asarray((state * weights).sum() * shares[name])
            found[f"{name}_{kind}_ends"] = np.asarray((changes * weights).sum() * shares[name])
    return found


@dataclass(frozen=True)
class _Spell(SequenceMetric):
    """Base of the lengths of spells: samples in a state, over the number of times that it ends."""

    threshold: str | float | None = None

    better = 1.0
    limits = (0.0, np.inf)
    sums = SampleSums(spells)

    def bound_parameters(self, observed: xr.DataArray) -> dict[str, Any]:
        """Return the parameters with the threshold in the units of the data."""
        threshold = wet_threshold_in(observed, self.threshold)
        return super().bound_parameters(observed) | {"threshold": threshold}

    def _of(self, stats: Stats, kind: str) -> Array:
        lengths = [
            ratio(stats[f"{name}_{kind}"], stats[f"{name}_{kind}_ends"])
            for name in ("generated", "truth")
        ]
        return ratio(*lengths)


@dataclass(frozen=True)
class WetSpell(_Spell):
    """Mean length of the wet spells of a pixel, generated over observed.

    A spell that the end of a sequence cuts counts with the samples that it has.

    Parameters
    ----------
    threshold
        Rain from which a pixel is wet; by default 0.1 mm h-1, for daily data 1 mm d-1.
    """

    long_name = "length of wet spells over the observed"

    def finish(self, stats: Stats) -> Array:
        """Divide the lengths."""
        return self._of(stats, "wet")


@dataclass(frozen=True)
class DrySpell(_Spell):
    """Mean length of the dry spells of a pixel, generated over observed; see `WetSpell`.

    Parameters
    ----------
    threshold
        As for `WetSpell`.
    """

    long_name = "length of dry spells over the observed"

    def finish(self, stats: Stats) -> Array:
        """Divide the lengths."""
        return self._of(stats, "dry")


def spectra_in_time(sequence: SequenceFields, *, samples: int) -> dict[str, Array]:
    """Sum the power by frequency of the series of all pixels; zero for shorter sequences."""
    frequencies = samples // 2
    if len(sequence.samples) != samples:
        return {name: np.zeros(frequencies) for name in ("generated", "truth")}
    weights = sequence.weights
    count = sequence.members.shape[1]
    return {
        name: (np.abs(np.fft.rfft(fields, axis=0)[1:]) ** 2 * weights)
        .reshape(frequencies, -1)
        .sum(axis=1)
        / (count if name == "generated" else 1)
        for name, fields in (("generated", sequence.members), ("truth", sequence.truth))
    }


@dataclass(frozen=True)
class TemporalSpectrum(SequenceMetric):
    """Mean distance of power spectra in time, in decibels, from the series of all pixels.

    Mean over frequencies above 0 of ``|10 log10(P_gen / P_obs)|``, with P added up over pixels,
    members and sequences. Sequences that are shorter do not count.

    Parameters
    ----------
    samples
        Consecutive samples of a sequence.
    """

    samples: Annotated[int, Range(4)] = 12

    exact = True
    long_name = "mean log distance of power spectra in time"
    better = "lower"
    limits = (0.0, np.inf)
    units = "dB"
    sums = SampleSums(spectra_in_time)

    def length(self, step: float) -> int:
        """Return the samples of a sequence."""
        return self.samples

    def finish(self, stats: Stats) -> Array:
        """Compare the spectra; NaN without a sequence of that length, or without rain."""
        generated, observed = (np.asarray(stats[key]) for key in ("generated", "truth"))
        return decibels(generated, observed)
