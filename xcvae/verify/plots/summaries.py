"""Data of an ensemble's figures, accumulated in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.metrics.calibration import RankDeviation
from xcvae.metrics.distribution import KS
from xcvae.metrics.metric import Statistic
from xcvae.metrics.pairs import Maps
from xcvae.metrics.sample import Array, pixel_scores
from xcvae.metrics.spatial import ring_powers
from xcvae.registry import build
from xcvae.verify.accumulate import BLOCK_BYTES, ScoredSource, accumulate_statistics
from xcvae.verify.baselines.runner import BaselineRunner
from xcvae.verify.grouping import group_samples
from xcvae.verify.pairing import MatchedPair, pair_up
from xcvae.verify.plots.text import class_edges, coarse_rain, display_factor, display_units
from xcvae.verify.resampling import Sums
from xcvae.verify.scorecard import components_by_name

OWN = "members"
"""Name of the ensemble among the sources."""
BINS = 11
"""Number of bins of forecast probabilities; fewer with less than ten members."""
SEED = 0
"""Seed of baselines that draw random members."""


@dataclass(frozen=True)
class _MemberSpectra:
    """Power by wavenumber of every member and of the observation."""

    by_piece: ClassVar[bool] = False

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        # One mask for all: a gap in only one of them would count as structure.
        valid = maps.valid
        forecast = np.where(valid, maps.forecast, 0.0)
        observed = np.where(valid, maps.observed, 0.0)
        return {"members": ring_powers(forecast), "observed": ring_powers(observed[None])[0]}


@dataclass(frozen=True)
class _Probabilities:
    """Forecast probabilities of events in bins, and their observed counts, (threshold, bin)."""

    thresholds: tuple[float, ...]

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Count one sample."""
        rows: dict[str, list[Array]] = {"pixels": [], "forecast": [], "came": []}
        bins = min(len(maps.members) + 1, BINS)
        for threshold in self.thresholds:
            some = maps.with_events(threshold)
            share = some.events(threshold) / len(some.members)
            number = np.rint(share * (bins - 1)).astype(np.int64)
            weight = np.ones(share.shape) if some.weights is None else some.weights
            for name, values in (
                ("pixels", weight),
                ("forecast", weight * share),
                ("came", weight * (some.truth >= threshold)),
            ):
                rows[name].append(np.bincount(number, values, minlength=bins))
            rows["pixels"][-1][0] += some.dry
        return {name: np.stack(row) for name, row in rows.items()}


@dataclass(frozen=True)
class _CrpsByIntensity:
    """Contributions of classes of amounts to the CRPS, (class,).

    Amounts are clipped to a class: their CRPS is the integral of the Brier score over the
    thresholds of the class (https://doi.org/10.1198/jbes.2010.08110), and the classes add up to
    the CRPS. Selecting pixels by their observation instead would reward overforecasting.
    """

    edges: tuple[float, ...]

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        wet, parts = maps.wet, np.zeros(len(self.edges))
        top = np.maximum(wet.members.max(axis=0, initial=0.0), wet.truth)
        for number, low in enumerate(self.edges):
            reach = top > low
            if not reach.any():
                break
            high = self.edges[number + 1] if number + 1 < len(self.edges) else np.inf
            found = pixel_scores(
                np.clip(wet.members[:, reach], low, high), np.clip(wet.truth[reach], low, high)
            )
            weights = 1.0 if wet.weights is None else wet.weights[reach]
            parts[number] = (found.crps * weights).sum()
        return {"crps": parts, "pixels": maps.pixels}


@dataclass(frozen=True)
class _MeanMaps:
    """Sums over samples of the ensemble mean and of the observation, by pixel."""

    by_piece: ClassVar[bool] = False

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        valid = maps.valid
        mean = maps.forecast.mean(axis=0, dtype=np.float64)
        return {
            "generated": np.where(valid, mean, 0.0),
            "observed": np.where(valid, maps.observed, 0.0),
            "samples": valid.astype(np.float64),
        }


FIGURES = ("spectra", "ranks", "reliability", "quantiles", "intensity", "bias")
"""Names of the figures that `accumulate` collects data for."""


@dataclass(frozen=True, eq=False)
class FigureData:
    """Sums by source and figure.

    Attributes
    ----------
    match
        Ensemble and observation.
    thresholds
        Of the events of the reliability diagram, in the units of the data.
    edges
        Lower ends of the classes of amounts.
    found
        Sums by source (`OWN`, then baselines) and figure.
    group
        First piece, piece after the last, and number of samples.
    """

    match: MatchedPair
    thresholds: tuple[float, ...]
    edges: tuple[float, ...]
    found: Mapping[str, Mapping[str, Sums]]
    group: tuple[int, int, int]

    @property
    def baselines(self) -> list[str]:
        """The names of the baselines."""
        return [name for name in self.found if name != OWN]

    def by_piece(self, figure: str, source: str = OWN) -> dict[str, Array]:
        """Return sums by piece, pieces first."""
        return self.found[source][figure].values

    def total(self, figure: str, source: str = OWN) -> dict[str, Array]:
        """Return sums over all samples."""
        return {name: rows.sum(axis=0) for name, rows in self.by_piece(figure, source).items()}

    @cached_property
    def units(self) -> str:
        """Units of amounts in figures: mm h-1, mm d-1 or mm."""
        return display_units(self.match.pair.observed, self.match.pair.sample)

    @cached_property
    def scale(self) -> float:
        """Factor from the units of the data to those of figures."""
        return display_factor(self.match.pair.observed)


def accumulate(
    ds: xr.Dataset,
    ensemble: xr.Dataset,
    *,
    figures: Sequence[str] = FIGURES,
    baselines: Sequence[object] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> FigureData:
    """Add up the data of some figures in one pass over an ensemble.

    Parameters
    ----------
    ds
        The observation, dims (sample, y, x), and the coarse rain condition for baselines.
    ensemble
        Dims (realization, sample, y, x).
    figures
        Some of `FIGURES`.
    baselines
        Names, dicts or instances; by default "bilinear" if the data have a coarse rain condition.
    block_bytes
        Size of a block of samples in memory.

    Raises
    ------
    UnitsError, MismatchError, MissingVariableError, ComponentError, DataError
        As in `xcvae.evaluate`.
    """
    match = pair_up(ds, ensemble)
    observed = match.pair.observed
    wet, event = (build("metric", name).bind(observed).threshold for name in ("ks", "brier"))
    edges = class_edges(observed, match.pair.sample)
    every: dict[str, Statistic] = {
        "spectra": _MemberSpectra(),
        "ranks": RankDeviation().bind(observed),
        "reliability": _Probabilities((wet, event)),
        "quantiles": KS().bind(observed),
        "intensity": _CrpsByIntensity(edges),
        "bias": _MeanMaps(),
    }
    own = {name: every[name] for name in figures}
    # Only these figures show baselines.
    shared = {n: one for n, one in own.items() if n in ("spectra", "quantiles", "intensity")}
    components = _components(match, baselines) if shared else {}
    block_bytes //= 1 + len(components)
    runner = BaselineRunner(match, components, SEED, block_bytes)
    sources = {OWN: ScoredSource(lambda _, loaded: loaded, dict.fromkeys(own), own)}
    for name, load in runner.loaders().items():
        sources[name] = ScoredSource(load, dict.fromkeys(shared), shared)
    groups = group_samples(match)
    found = accumulate_statistics(
        match.pair, sources, groups.pieces, lambda _: None, block_bytes=block_bytes
    )
    return FigureData(match, (wet, event), edges, found, groups.ranges[0])


def _components(match: MatchedPair, baselines: Sequence[object] | None) -> dict[str, object]:
    if baselines is None:
        usable = match.has_condition and coarse_rain(match) is not None
        baselines = ["bilinear"] if usable else []
    return components_by_name("baseline", baselines, ())
