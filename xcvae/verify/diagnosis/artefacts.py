"""Artefacts of the grid in members: repeating patterns, and deviations at the border.

The statistics of rain do not depend on the position in the grid. A pattern of a fixed period and
phase, such as a checkerboard of an upsampling layer or the outlines of the coarse cells, is a sharp
peak in the spectrum of the texture; folding the texture by candidate periods measures that peak
without the noise of storms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xcvae.verify.resampling import estimate

Array = NDArray[np.float64]

#: Candidate periods in pixels: strides of networks and widths of coarse cells.
PERIODS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
#: Number of repetitions on the map that a candidate period needs.
REPEATS = 6
#: Width of the border, and first and last pixel of the strip inside that it is compared with.
BORDER, INSIDE, DEPTH = 2, 4, 12
#: The shortest period with this share of the largest strength explains the pattern.
ALIKE = 0.6
#: Effective pixels per phase; the roughness of a phase then deviates by 6 % by chance.
PIXELS = 300.0
#: Samples with rain at their border needed for a comparison.
ENOUGH = 4


@dataclass(frozen=True)
class Artefacts:
    """Deviations of members from the observation that only the grid explains.

    The defaults are those of maps that are too small to measure them.

    Attributes
    ----------
    pattern
        Strength of the strongest pattern: excess roughness (or height) of the pixels of one phase
        over their surroundings, as a share of the mean roughness, less that of the observation.
    period
        Period of that pattern, in pixels; 0 if the maps are too small or too few.
    border_amount, border_texture
        Rain, and roughness, at the border over that further inside, as a factor of the same of
        the observation. NaN with too little rain.
    border_amount_error, border_texture_error
        Standard error of their logarithms, over samples.
    """

    pattern: float = 0.0
    period: int = 0
    border_amount: float = float("nan")
    border_amount_error: float = float("nan")
    border_texture: float = float("nan")
    border_texture_error: float = float("nan")


def artefacts_of(
    members: NDArray[Any], observed: NDArray[Any], dependence: Array | None = None
) -> Artefacts:
    """Measure artefacts in members (realization, sample, y, x).

    ``dependence`` is the autocorrelation of the samples, for standard errors.
    """
    drawn, truth = _patterns(members), _patterns(observed[None])
    excess = {p: drawn[p] - truth.get(p, 0.0) for p in drawn}
    strongest = max(excess.values(), default=0.0)
    # A pattern that repeats every 4 pixels repeats every 8 as well.
    period = min((p for p in excess if excess[p] >= ALIKE * strongest), default=0)
    amount, texture = _border(members, observed, dependence)
    return Artefacts(max(strongest, 0.0), period, *amount, *texture)


def _patterns(members: NDArray[Any]) -> dict[int, float]:
    """Return by period the strength of the pattern that both halves of the samples have.

    Even and odd samples are the halves. A chance pattern of storms does not appear in both.
    """
    halves = [_Texture.of(members[:, start::2]) for start in range(2)]
    pixels = min(half.pixels for half in halves)
    found = {}
    for period in PERIODS:
        if period * REPEATS <= min(members.shape[-2:]) and pixels >= PIXELS * period:
            first, second = (half.phases(period) for half in halves)
            same = np.where(first * second > 0, np.minimum(np.abs(first), np.abs(second)), 0.0)
            found[period] = float(same.max())
    return found


@dataclass(frozen=True)
class _Texture:
    """Sums over members and samples, (y, x), of the roughness and the height of pixels.

    Attributes
    ----------
    rough, bent
        Absolute and signed differences from the four neighbours.
    count
        Number of valid values.
    pixels
        Effective number of pixels that contribute to the roughness.
    """

    rough: Array
    bent: Array
    count: Array
    pixels: float

    @classmethod
    def of(cls, members: NDArray[Any]) -> _Texture:
        rough, bent, count = (np.zeros(members.shape[-2:]) for _ in range(3))
        squares = 0.0
        for maps in members:
            bend = _bend(maps)
            valid = np.isfinite(bend)
            bend = np.where(valid, bend, 0.0)
            rough += np.abs(bend).sum(axis=0)
            bent += bend.sum(axis=0)
            count += valid.sum(axis=0)
            squares += float((bend**2).sum())
        # Participation ratio: one dominant pixel counts as one.
        pixels = float(rough.sum()) ** 2 / squares if squares > 0 else 0.0
        return cls(rough, bent, count, pixels)

    def phases(self, period: int) -> Array:
        """Return the deviations of every phase of a period, in columns, rows and, for 2, both."""
        folded = [
            part
            for axis in (0, 1)
            for part in _folded(
                self.rough.sum(axis), self.bent.sum(axis), self.count.sum(axis), period
            )
        ]
        if period == 2:
            folded.append(np.array([_checkered(self.rough, self.bent)]))
        return np.concatenate(folded)


def _bend(maps: NDArray[Any]) -> Array:
    """Return each pixel less the mean of its four neighbours, without the border."""
    bend = np.full(maps.shape, np.nan)
    around = maps[:, 1:-1, :-2] + maps[:, 1:-1, 2:] + maps[:, :-2, 1:-1] + maps[:, 2:, 1:-1]
    bend[:, 1:-1, 1:-1] = maps[:, 1:-1, 1:-1] - around / 4
    return bend


def _folded(rough: Array, bent: Array, count: Array, period: int) -> tuple[Array, Array]:
    """Return the deviation of every phase from its surroundings, a window of one period.

    The first array is the excess roughness, at least zero; the second the height.
    """
    rough, bent = (np.divide(x, count, out=0 * x, where=count > 0) for x in (rough, bent))
    covered = np.convolve(count > 0, np.ones(period), "valid")
    # A running mean over one period removes the trend of where it rained.
    level = np.convolve(rough, np.ones(period) / period, "valid")
    inside = slice(period // 2, period // 2 + len(level))
    seen = (covered == period) & (level > 0)
    if seen.sum() < REPEATS * period - period:
        return np.zeros(period), np.zeros(period)
    phase = (np.arange(len(rough)) % period)[inside][seen]
    weights = np.bincount(phase, minlength=period)
    excess = np.bincount(phase, rough[inside][seen] / level[seen], period) / weights - 1
    height = np.bincount(phase, bent[inside][seen] / level[seen], period) / weights
    return np.maximum(excess, 0.0), height - height.mean()


def _checkered(rough: Array, bent: Array) -> float:
    """Return the excess height of the pixels of one colour of a checkerboard."""
    black = np.indices(rough.shape).sum(axis=0) % 2 == 0
    total = float(rough.sum())
    return float(bent[black].sum() - bent[~black].sum()) / total if total > 0 else 0.0


def _border(
    members: NDArray[Any], observed: NDArray[Any], dependence: Array | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return factors of amount and roughness at the border, with standard errors."""
    nothing = (float("nan"), float("nan"))
    if min(observed.shape[-2:]) < 2 * DEPTH:
        return nothing, nothing
    drawn = np.sum([_rings(maps) for maps in members], axis=0)
    truth = _rings(observed)
    found = []
    for kind in range(2):
        sums = np.concatenate([drawn[:, kind], truth[:, kind]], axis=1)
        enough = (truth[:, kind, 0] > 0).sum() >= ENOUGH and (sums.sum(axis=0) > 0).all()
        found.append(estimate(sums, _factor, dependence) if enough else None)
    amount, texture = (nothing if e is None else (float(np.exp(e[0])), e[1]) for e in found)
    return amount, texture


def _factor(sums: Array) -> float:
    border, inside, border_observed, inside_observed = sums
    return float(np.log(border / inside * inside_observed / border_observed))


def _rings(maps: NDArray[Any]) -> Array:
    """Return sums of rain and of roughness, at the border and inside: (sample, kind, strip)."""
    total = np.zeros((len(maps), 2, 2))
    for turned in (maps, maps[:, ::-1], np.swapaxes(maps, 1, 2), np.swapaxes(maps, 1, 2)[:, ::-1]):
        for number, (start, stop) in enumerate(((0, BORDER), (INSIDE, DEPTH))):
            strip = turned[:, start:stop]
            total[:, 0, number] += np.nansum(strip, axis=(1, 2), dtype=np.float64)
            # Steps along the border only: those across it mix border and inside.
            steps = np.abs(np.diff(strip, axis=2))
            total[:, 1, number] += np.nansum(steps, axis=(1, 2), dtype=np.float64)
    return total
