"""Scores of trained networks and verdicts on differences between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from xcvae.metrics.events import CSI, SEDI
from xcvae.metrics.maps import Array
from xcvae.verify.intervals import LEVEL, interval, pieces_of
from xcvae.verify.mixtures import Fields
from xcvae.verify.trials import COUNTS

__all__ = ["HELPS", "HURTS", "NOTHING", "SCORES", "UNSCORED", "Paired", "paired", "scored"]

#: The verdicts. The last: there are too few events for an interval.
HELPS, NOTHING, HURTS, UNSCORED = "helps", "no evidence", "hurts", "too few events"


class Paired(NamedTuple):
    """A difference of scores and its 95 % interval."""

    difference: float
    low: float
    high: float

    def verdict(self, better: str) -> str:
        """Say in words whether it is an improvement, where ``better`` is "higher" or "lower"."""
        if not np.isfinite(self.low + self.high):
            return UNSCORED
        if self.low <= 0 <= self.high:
            return NOTHING
        return HELPS if (self.difference > 0) == (better == "higher") else HURTS


def _named(sums: Array) -> dict[str, Array]:
    return {name: sums[..., place] for place, name in enumerate(COUNTS)}


def _csi(sums: Array) -> Array:
    return CSI().finish(_named(sums))


def _sedi(sums: Array) -> Array:
    return SEDI().finish(_named(sums))


def _tail_mae(sums: Array) -> Array:
    return np.asarray(sums[..., -1] / sums[..., :-1].sum(axis=-1))


#: By name: the score of sums (..., count), what it is, and which sign is an improvement.
SCORES: dict[str, tuple[Any, str, str]] = {
    "csi": (_csi, CSI.long_name, "higher"),
    "sedi": (_sedi, SEDI.long_name, "higher"),
    "tail_mae": (_tail_mae, "mean absolute error above the threshold", "lower"),
}


def scored(
    counts: Array, test: Fields, labels: Mapping[str, list[Any]], limits: Array
) -> xr.Dataset:
    """Turn counts (loss, recipe, seed, sample, level, count) into scores and verdicts."""
    units = test.scaling.units
    dims, shape = tuple(labels), tuple(len(one) for one in labels.values())
    found: dict[str, Any] = {}
    for score, (finish, long_name, better) in SCORES.items():
        about = {"long_name": long_name, "units": units if score == "tail_mae" else "1"}
        values = finish(counts.sum(axis=3)).mean(axis=2)
        bounds = np.full((3, *shape), np.nan)
        verdicts = np.full(shape, "", dtype=object)
        for place in np.ndindex(shape):
            loss, recipe, level = place
            if recipe > 0:
                both = counts[loss, [recipe, 0], :, :, level]
                one = paired(both[0], both[1], finish, test.order)
                bounds[(slice(None), *place)] = one
                verdicts[place] = one.verdict(better)
        found[score] = dims, values, {**about, "better": better}
        for name, array in zip(("difference", "low", "high"), bounds, strict=True):
            found[f"{score}_{name}"] = dims, array, about
        found[f"{score}_verdict"] = dims, verdicts.astype(str)
    threshold = ("level", limits, {"units": units, "long_name": "event: this or more"})
    return xr.Dataset(
        found, {**labels, "threshold": threshold}, {"seeds": counts.shape[2], "interval": LEVEL}
    )


def paired(own: Array, base: Array, score: Any, order: Array) -> Paired:
    """Compare two sets of counts (seed, sample, count): difference with its 95 % interval."""
    pieces = pieces_of(np.zeros(own.shape[1], int), order)
    sums = np.zeros((2, pieces.count, own.shape[0], own.shape[2]))
    for side, counts in zip(sums, (own, base), strict=True):
        np.add.at(side, pieces.of_sample, counts.swapaxes(0, 1))

    def finish(add: Any) -> Array:
        return np.asarray((score(add(sums[0])) - score(add(sums[1]))).mean(axis=-1))

    value, low, high = interval(finish, pieces.groups[0])
    by_seed = score(own.sum(axis=1)) - score(base.sum(axis=1))
    n = by_seed.size
    seeds = float(stdtrit(n - 1, (1 + LEVEL) / 2) * by_seed.std(ddof=1) / np.sqrt(n))
    return Paired(
        value,
        value - float(np.hypot(value - low, seeds)),
        value + float(np.hypot(high - value, seeds)),
    )
