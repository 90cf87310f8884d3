"""The training record: statistics of the observed rain in physical units, and thumbnails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import ConfigError
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.sample_blocks import block_slices, evenly_spaced
from xcvae.fields.samples import label_codes, storms_of

#: Cells along a side of a thumbnail.
CELLS = 8
#: Largest number of stored thumbnails and label codes, evenly spaced: 256 and 128 kB.
MAPS, LABELS = 2048, 16384
#: A cell counts as wet from this multiple of the wet threshold on; with fewer wet cells than this
#: share, a field has too little rain to be distinguished from others.
WET_CELL, RAINY = 0.5, 0.1
AT_ONCE = 64

Distances = NDArray[np.float64]


def shrink(fields: NDArray[Any], wet_threshold: float) -> NDArray[np.float16]:
    """Return means over 8 x 8 cells of fields (..., y, x), as ``log1p(mean / wet_threshold)``.

    Returns
    -------
    array of float16
        (..., cells); NaN for a cell without valid pixels. Fields of fewer than 8 pixels along a
        side have as many cells.
    """
    valid = np.isfinite(fields)
    sums, counts = (_blocks(part) for part in (np.where(valid, fields, 0.0), valid))
    with np.errstate(invalid="ignore"):
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        small = np.log1p(np.maximum(means, 0.0) / wet_threshold)
    return small.reshape(*fields.shape[:-2], -1).astype(np.float16)


def _blocks(fields: NDArray[Any]) -> NDArray[np.float64]:
    sums = fields.astype(np.float64)
    for axis in (-2, -1):
        length = fields.shape[axis]
        starts = np.linspace(0, length, min(CELLS, length) + 1).round().astype(int)[:-1]
        sums = np.add.reduceat(sums, starts, axis=axis)
    return sums


def rainy(maps: NDArray[Any]) -> NDArray[np.bool_]:
    """Return True for thumbnails (n, cells) with enough rain to be distinguished from others.

    The share of wet cells counts, among those with valid pixels.
    """
    wet, known = maps > np.log1p(WET_CELL), np.isfinite(maps)
    return np.asarray(wet.sum(axis=1) >= RAINY * np.maximum(known.sum(axis=1), 1))


def distances(maps: NDArray[Any], others: NDArray[Any]) -> Distances:
    """Return distances of thumbnails (n, cells) from others (m, cells): (n, m).

    The root of the squared differences over the larger of both norms, over the cells that both
    have: 0 for a copy, 1 for maps without common rain.
    """
    here, there = (np.nan_to_num(m.astype(np.float64)) for m in (maps, others))
    seen, known = (np.isfinite(m).astype(np.float64) for m in (maps, others))
    first, second = here**2 @ known.T, seen @ (there**2).T
    apart = np.maximum(first + second - 2 * here @ there.T, 0.0)
    return np.asarray(np.sqrt(apart / np.maximum(np.maximum(first, second), 1e-12)))


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Small maps of training fields, and codes of the training samples' labels.

    Attributes
    ----------
    maps
        From `shrink`, (n, cells), in the order of the record; evenly spaced if there were more.
    labels
        From `label_codes`, evenly spaced if there were more; empty if samples had no labels.
    samples
        Number of observed samples in the record.
    """

    maps: NDArray[np.float16]
    labels: NDArray[np.int64]
    samples: int

    def wettest(self, shape: tuple[int, int], count: int = 6) -> list[NDArray[np.float64]]:
        """Return maps (y, x) of a few wet samples, wettest first, for the size of their grid.

        Parameters
        ----------
        shape
            Pixels along (y, x) of the training grid.
        count
            Maps at most.
        """
        means = np.nan_to_num(np.nanmean(self.maps.astype(np.float64), axis=1))
        # Apart in rank: neighbours in time are nearly the same.
        order = np.argsort(-means, kind="stable")[:: max(1, len(means) // (3 * count))][:count]
        rows, columns = (min(CELLS, size) for size in shape)
        return [self.maps[one].astype(np.float64).reshape(rows, columns) for one in order]

    @classmethod
    def of(cls, prepared: xr.Dataset, spec: DataSpec) -> Thumbnails:
        """Shrink a prepared training set; lazy data is streamed."""
        observed = storms_of(prepared, spec.sample)[1]
        return cls.of_field(
            prepared[spec.target].isel({spec.sample: observed}), spec.sample, spec.wet_threshold
        )

    @classmethod
    def of_field(
        cls,
        rain: xr.DataArray,
        sample: str,
        wet_threshold: float,
        *,
        maps: int = MAPS,
        labels: int = LABELS,
    ) -> Thumbnails:
        """Shrink rain, dims (sample, y, x), in the units of the threshold.

        At most ``maps`` maps and ``labels`` labels are stored.
        """
        count = rain.sizes[sample]
        picked = evenly_spaced(count, maps)
        shrunk = [
            shrink(np.asarray(rain.isel({sample: picked[some]}).values), wet_threshold)
            for some in block_slices(len(picked), AT_ONCE)
        ]
        codes = label_codes(rain, sample)
        return cls(np.concatenate(shrunk), codes[evenly_spaced(len(codes), labels)], count)


BINS = 400
#: Largest number of sample maxima of a condition that a record stores, their share of the samples,
#: and the least number that a return level is fitted to.
LARGEST, TAIL, FITTED = 256, 0.1, 10
#: Limits of the shape of the fitted distribution: few maxima decide on it.
SHAPES = (-0.5, 0.5)


def bin_edges(wet_threshold: float) -> NDArray[np.float64]:
    """Return the edges of the record's bins: one for dry pixels, then about 3.5 % wide each."""
    return np.concatenate([[0.0], wet_threshold * np.geomspace(0.1, 1e5, BINS)])


@dataclass(frozen=True)
class Record:
    """Distribution of the rain a model was trained on.

    Attributes
    ----------
    units
        Units of every physical number here.
    wet_threshold
        A pixel with at least this much counts as wet.
    samples, pixels
        Number of samples, and of valid pixels in all of them.
    mean, maximum, wet_fraction
        Over all valid pixels.
    masked
        True if any target pixel was NaN.
    counts
        Pixels per bin of `bin_edges`.
    conditions
        Sample maxima of each coarse rain condition, by name, in the condition's units: the largest
        tenth, in falling order. Empty in older files.
    """

    units: str
    wet_threshold: float
    samples: int
    pixels: int
    mean: float
    maximum: float
    wet_fraction: float
    masked: bool
    counts: tuple[int, ...]
    conditions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def quantile(self, q: float, *, wet: bool = False) -> float:
        """Return a quantile of all valid pixels, or of the wet ones, in `units`; exact to 3.5 %.

        Examples
        --------
        >>> record = Record.of([np.array([0.0, 0.0, 1.0, 3.0])], units="mm h-1", wet_threshold=0.1)
        >>> round(record.quantile(1.0), 1), record.quantile(0.25)
        (3.0, 0.0)
        """
        edges = bin_edges(self.wet_threshold)
        counts = np.asarray(self.counts, float)
        if wet:
            # The threshold lies within a bin: of its pixels those are wet that no other bin has.
            first = int(np.searchsorted(edges, self.wet_threshold, side="right")) - 1
            counts[:first] = 0.0
            wet_pixels = round(self.wet_fraction * self.pixels)
            counts[first] = max(0.0, wet_pixels - counts[first + 1 :].sum())
        total = counts.sum()
        if total == 0:
            return 0.0
        place = int(np.searchsorted(np.cumsum(counts), q * total))
        return 0.0 if place == 0 else float(min(edges[min(place, BINS - 1) + 1], self.maximum))

    def return_level(self, name: str, period: float) -> float:
        """Return the amount that a coarse rain condition exceeds once in a period, on average.

        A generalized Pareto distribution is fitted to the largest tenth of the sample maxima, by
        L-moments (Hosking and Wallis 1987, https://doi.org/10.1080/00401706.1987.10488243).
        Neighbouring samples count as one each: an hour of heavy rain in 5-minute steps is twelve.

        Parameters
        ----------
        name
            The condition.
        period
            In lengths of the record, such as 10 for ten times as many samples.

        Raises
        ------
        ConfigError
            The model file is an older one, or the record too short for a fit.
        """
        largest = np.sort(self.conditions.get(name, ()))[::-1]
        if len(largest) < FITTED:
            raise ConfigError.of(
                "period",
                expected=f"a record with {FITTED} sample maxima of '{name}' or more, for a fit",
                got=f"{len(largest)} in the model",
                remedy="Give an amount, level='40 mm h-1', or a factor; models of older versions "
                "have no maxima: train again.",
            )
        excess = largest[:-1] - largest[-1]
        return float(largest[-1] + _pareto_quantile(excess, period * len(excess)))

    @classmethod
    def of(cls, blocks: Iterable[NDArray[Any]], *, units: str, wet_threshold: float) -> Record:
        """Summarise blocks of physical values (any shape, samples first, NaN = masked)."""
        edges = bin_edges(wet_threshold)
        counts = np.zeros(BINS, np.int64)
        samples = pixels = wet = 0
        total = maximum = 0.0
        masked = False
        for block in blocks:
            values = block[np.isfinite(block)].astype(np.float64)
            samples += len(block)
            pixels += values.size
            masked |= values.size < block.size
            wet += int((values >= wet_threshold).sum())
            total += float(values.sum())
            maximum = max(maximum, float(values.max(initial=0.0)))
            inside = np.clip(values, 0.0, edges[-1])
            counts += np.histogram(inside, edges)[0]
        share = max(pixels, 1)
        return cls(
            units=units,
            wet_threshold=wet_threshold,
            samples=samples,
            pixels=pixels,
            mean=total / share,
            maximum=maximum,
            wet_fraction=wet / share,
            masked=masked,
            counts=tuple(int(n) for n in counts),
        )

    def converted(self, units: str, ratio: float) -> Record:
        """Return the record in other units, of which ``ratio`` make one of its own."""
        return replace(
            self,
            units=units,
            wet_threshold=self.wet_threshold * ratio,
            mean=self.mean * ratio,
            maximum=self.maximum * ratio,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, for the model file."""
        content = {**asdict(self), "counts": list(self.counts)}
        if not self.conditions:
            del content["conditions"]  # as in older files, whose content stays the same
        return content

    @classmethod
    def from_json(cls, text: dict[str, Any]) -> Record:
        """Restore from the result of `to_json`."""
        conditions = {name: tuple(values) for name, values in text.get("conditions", {}).items()}
        return cls(**{**text, "counts": tuple(text["counts"]), "conditions": conditions})


def largest_of(maxima: Sequence[float] | NDArray[Any]) -> tuple[float, ...]:
    """Return the sample maxima that a record stores: the largest tenth, in falling order.

    Examples
    --------
    >>> largest_of(range(200))[:3], len(largest_of(range(200))), len(largest_of([1.0, 2.0]))
    ((199.0, 198.0, 197.0), 20, 2)
    """
    falling = np.sort(np.asarray(maxima, np.float64))[::-1]
    # Of a short record more than a tenth, so that there is something to fit.
    count = min(LARGEST, max(round(TAIL * falling.size), 2 * FITTED))
    return tuple(falling[:count].tolist())


def _pareto_quantile(excess: NDArray[np.float64], count: float) -> float:
    """Fit a generalized Pareto distribution to excesses, and return its value of 1 in ``count``."""
    rising = np.sort(excess)
    n = rising.size
    mean = float(rising.mean())
    # Second L-moment: half the expected difference of two excesses.
    second = float((2 * np.arange(1, n + 1) - n - 1) @ rising) / (n * (n - 1))
    if second <= 0:
        return mean  # all are equal
    shape = float(np.clip(2.0 - mean / second, *SHAPES))
    scale = mean * (1.0 - shape)
    if abs(shape) < 1e-6:
        return scale * float(np.log(count))
    return scale / shape * float(count**shape - 1.0)
