"""The training record: what the observed rain looked like, in physical units, in a few numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Record", "bin_edges"]

BINS = 400


def bin_edges(wet_threshold: float) -> NDArray[np.float64]:
    """Edges of the record's bins: one for dry pixels, then about 3.5 % wide each."""
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
        How many samples, and how many valid pixels in all of them.
    mean, maximum, wet_fraction
        Over all valid pixels.
    masked
        Whether any target pixel was NaN.
    counts
        Pixels per bin of `bin_edges`.
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

    def quantile(self, q: float, *, wet: bool = False) -> float:
        """Quantile of all valid pixels, or of the wet ones, in `units`; exact to a bin (3.5 %).

        Examples
        --------
        >>> record = Record.of([np.array([0.0, 0.0, 1.0, 3.0])], units="mm h-1", wet_threshold=0.1)
        >>> round(record.quantile(1.0), 1), record.quantile(0.25)
        (3.0, 0.0)
        """
        edges = bin_edges(self.wet_threshold)
        counts = np.asarray(self.counts, float)
        if wet:
            counts = np.where(edges[:-1] >= 0.999 * self.wet_threshold, counts, 0.0)
        total = counts.sum()
        if total == 0:
            return 0.0
        place = int(np.searchsorted(np.cumsum(counts), q * total))
        return 0.0 if place == 0 else float(min(edges[min(place, BINS - 1) + 1], self.maximum))

    @classmethod
    def of(cls, blocks: Iterable[NDArray[Any]], *, units: str, wet_threshold: float) -> Record:
        """Read blocks of physical values (any shape, samples first, NaN = masked) in one pass."""
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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, for the model file."""
        return {**asdict(self), "counts": list(self.counts)}

    @classmethod
    def from_json(cls, text: dict[str, Any]) -> Record:
        """Undo `to_json`."""
        return cls(**{**text, "counts": tuple(text["counts"])})
