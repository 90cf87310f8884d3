"""Traces of a network in its maps: patterns that repeat with the grid, and odd borders.

Rain does not know where pixel 0 is. A pattern of a fixed period and phase, such as a checkerboard
of an upsampling layer or the outlines of the coarse cells, is a sharp peak in the spectrum of the
texture; folding the texture by candidate periods measures that peak without the noise of storms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xcvae.verify.resampling import estimate

__all__ = ["Artefacts", "artefacts_of"]

Array = NDArray[np.float64]

#: Periods that are tried, in pixels: strides of networks and widths of coarse cells.
PERIODS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
#: A period is tried where the map has so many of it at least.
REPEATS = 6
#: Pixels at the border that are compared with those inside, up to the third number.
BORDER, INSIDE, DEPTH = 2, 4, 12
#: A period explains a pattern if it has so much of the strength of the strongest.
ALIKE = 0.6
#: Pixels per phase that share the roughness: by chance they deviate by 6 %.
PIXELS = 300.0
#: Samples with rain on their border that a comparison takes.
ENOUGH = 4


@dataclass(frozen=True)
class Artefacts:
    """How members differ from the observation where only the grid can be the reason.

    Attributes
    ----------
    pattern
        Excess of the strongest pattern: how much rougher (or higher) than their surroundings
        pixels of one phase are, as a share of the mean roughness, beyond what the observation has.
    period
        Of that pattern, in pixels; 0 if none could be looked for.
    border_amount, border_texture
        Rain, and roughness, at the border over that further inside, as a factor of the same of
        the observation. NaN where there is too little to compare.
    border_amount_error, border_texture_error
        Standard error of their logarithms, over samples.
    """

    pattern: float = 0.0
    period: int = 0
    border_amount: float = float("nan")
    border_amount_error: float = float("nan")
    border_texture: float = float("nan")
    border_texture_error: float = float("nan")


def artefacts_of(members: NDArray[Any], observed: NDArray[Any]) -> Artefacts:
    """Look for traces of the grid in members (realization, sample, y, x)."""
    drawn, truth = _patterns(members), _patterns(observed[None])
    excess = {p: drawn[p] - truth.get(p, 0.0) for p in drawn}
    strongest = max(excess.values(), default=0.0)
    # What repeats every 4 pixels does so every 8 as well.
    period = min((p for p in excess if excess[p] >= ALIKE * strongest), default=0)
    amount, texture = _border(members, observed)
    return Artefacts(max(strongest, 0.0), period, *amount, *texture)


def _patterns(members: NDArray[Any]) -> dict[int, float]:
    """Strength of the pattern of each period that can be told: the same in both halves.

    Samples are dealt out in turn. What storms do by chance they do not do twice.
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
    """Sums over members and samples, (y, x): how rough, how far above the surroundings."""

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
        # How many pixels share the roughness: what outdoes all others counts alone.
        pixels = float(rough.sum()) ** 2 / squares if squares > 0 else 0.0
        return cls(rough, bent, count, pixels)

    def phases(self, period: int) -> Array:
        """Deviations of every phase of a period, in columns and rows; for 2 in both as well."""
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
    """Each pixel less the mean of its four neighbours, without the border; (sample, y, x)."""
    bend = np.full(maps.shape, np.nan)
    around = maps[:, 1:-1, :-2] + maps[:, 1:-1, 2:] + maps[:, :-2, 1:-1] + maps[:, 2:, 1:-1]
    bend[:, 1:-1, 1:-1] = maps[:, 1:-1, 1:-1] - around / 4
    return bend


def _folded(rough: Array, bent: Array, count: Array, period: int) -> tuple[Array, Array]:
    """Deviation of every phase from the surroundings of a window of one period.

    Of the roughness, where only more than usual counts, and of the height.
    """
    rough, bent = (np.divide(x, count, out=0 * x, where=count > 0) for x in (rough, bent))
    covered = np.convolve(count > 0, np.ones(period), "valid")
    # A window of one period, as centred as can be; the trend of where it rained goes with it.
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
    """How much higher the pixels of one colour of a checkerboard are than the others."""
    black = np.indices(rough.shape).sum(axis=0) % 2 == 0
    total = float(rough.sum())
    return float(bent[black].sum() - bent[~black].sum()) / total if total > 0 else 0.0


def _border(
    members: NDArray[Any], observed: NDArray[Any]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Factors of the amount and of the roughness at the border, with standard errors."""
    nothing = (float("nan"), float("nan"))
    if min(observed.shape[-2:]) < 2 * DEPTH:
        return nothing, nothing
    drawn = np.sum([_rings(maps) for maps in members], axis=0)
    truth = _rings(observed)
    found = []
    for kind in range(2):
        sums = np.concatenate([drawn[:, kind], truth[:, kind]], axis=1)
        enough = (truth[:, kind, 0] > 0).sum() >= ENOUGH and (sums.sum(axis=0) > 0).all()
        found.append(estimate(sums, _factor) if enough else None)
    amount, texture = (nothing if e is None else (float(np.exp(e[0])), e[1]) for e in found)
    return amount, texture


def _factor(sums: Array) -> float:
    border, inside, border_observed, inside_observed = sums
    return float(np.log(border / inside * inside_observed / border_observed))


def _rings(maps: NDArray[Any]) -> Array:
    """Sums of rain and of roughness, at the border and inside: (sample, kind, place)."""
    total = np.zeros((len(maps), 2, 2))
    for turned in (maps, maps[:, ::-1], np.swapaxes(maps, 1, 2), np.swapaxes(maps, 1, 2)[:, ::-1]):
        for place, (start, stop) in enumerate(((0, BORDER), (INSIDE, DEPTH))):
            strip = turned[:, start:stop]
            total[:, 0, place] += np.nansum(strip, axis=(1, 2), dtype=np.float64)
            # Along the border only: steps across it are those between the two places.
            steps = np.abs(np.diff(strip, axis=2))
            total[:, 1, place] += np.nansum(steps, axis=(1, 2), dtype=np.float64)
    return total
