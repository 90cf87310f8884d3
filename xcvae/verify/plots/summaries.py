"""All that pictures of an ensemble need, added up in one pass over the data."""

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
from xcvae.metrics.pairs import Array, Maps
from xcvae.metrics.sample import pixel_scores
from xcvae.metrics.spatial import ring_powers
from xcvae.registry import build, registry
from xcvae.verify.accumulate import ScoredSource, stream
from xcvae.verify.baselines.runner import Rivals
from xcvae.verify.grouping import group_samples
from xcvae.verify.pairing import MatchedPair, pair_up
from xcvae.verify.plots.text import class_edges, coarse_rain, display_factor, display_units
from xcvae.verify.resampling import Sums

__all__ = ["OWN", "PICTURES", "FigureData", "portray"]

OWN = "members"
BINS = 11
"""Of forecast probabilities, if there are ten members or more."""
SEED = 0


@dataclass(frozen=True)
class _MemberSpectra:
    """Power by wavenumber of every member and of the observation."""

    by_piece: ClassVar[bool] = False

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample. One mask for all: a hole that one of them has would be structure."""
        valid = maps.valid
        forecast = np.where(valid, maps.forecast, 0.0)
        observed = np.where(valid, maps.observed, 0.0)
        return {"members": ring_powers(forecast), "observed": ring_powers(observed[None])[0]}


@dataclass(frozen=True)
class _Probabilities:
    """Forecast probabilities of events in bins, and how often the events came, (threshold, bin)."""

    thresholds: tuple[float, ...]

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Count one sample."""
        rows: dict[str, list[Array]] = {"pixels": [], "forecast": [], "came": []}
        bins = min(len(maps.members) + 1, BINS)
        for threshold in self.thresholds:
            some = maps.with_events(threshold)
            share = some.events(threshold) / len(some.members)
            place = np.rint(share * (bins - 1)).astype(np.int64)
            weight = np.ones(share.shape) if some.weights is None else some.weights
            for name, values in (
                ("pixels", weight),
                ("forecast", weight * share),
                ("came", weight * (some.truth >= threshold)),
            ):
                rows[name].append(np.bincount(place, values, minlength=bins))
            rows["pixels"][-1][0] += some.dry
        return {name: np.stack(row) for name, row in rows.items()}


@dataclass(frozen=True)
class _CrpsByIntensity:
    """What amounts between two edges contribute to the CRPS, (class,).

    Amounts are cut off at both edges: the CRPS of what is left is the integral of the Brier score
    over the thresholds between them (https://doi.org/10.1198/jbes.2010.08110), and the classes add
    up to the CRPS. Pixels are not chosen by what was observed, which would reward exaggeration.
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


PICTURES = ("spectra", "ranks", "reliability", "quantiles", "intensity", "bias")
"""What can be asked for."""


@dataclass(frozen=True, eq=False)
class FigureData:
    """Sums by source and subject, for the functions that draw.

    Parameters
    ----------
    task
        Ensemble and observation.
    thresholds
        Of the events of the reliability diagram, in the units of the data.
    edges
        Lower ends of the classes of intensity.
    found
        Sums by source (`OWN`, then baselines) and subject.
    group
        First piece, piece after the last, and number of samples.
    """

    task: MatchedPair
    thresholds: tuple[float, ...]
    edges: tuple[float, ...]
    found: Mapping[str, Mapping[str, Sums]]
    group: tuple[int, int, int]

    @property
    def rivals(self) -> list[str]:
        """The names of the baselines."""
        return [name for name in self.found if name != OWN]

    def by_piece(self, subject: str, source: str = OWN) -> dict[str, Array]:
        """Return sums by piece, pieces first."""
        return self.found[source][subject].values

    def total(self, subject: str, source: str = OWN) -> dict[str, Array]:
        """Return sums over all samples."""
        return {name: rows.sum(axis=0) for name, rows in self.by_piece(subject, source).items()}

    @cached_property
    def units(self) -> str:
        """Units that amounts are shown in: mm h-1, mm d-1 or mm."""
        return display_units(self.task.pair.observed, self.task.pair.sample)

    @cached_property
    def scale(self) -> float:
        """What turns amounts in the units of the data into those that are shown."""
        return display_factor(self.task.pair.observed)


def portray(
    ds: xr.Dataset,
    ensemble: xr.Dataset,
    *,
    pictures: Sequence[str] = PICTURES,
    baselines: Sequence[object] | None = None,
) -> FigureData:
    """Go through an ensemble once for some pictures.

    Parameters
    ----------
    ds
        The observation, dims (sample, y, x), and the coarse rain condition for baselines.
    ensemble
        Dims (realization, sample, y, x).
    pictures
        Some of `PICTURES`.
    baselines
        Names, dicts or instances; by default "bilinear" where there is a coarse rain condition.

    Raises
    ------
    UnitsError, MismatchError, MissingVariableError, ComponentError, DataError
        As in `xcvae.evaluate`.
    """
    task = pair_up(ds, ensemble)
    observed = task.pair.observed
    wet, event = (build("metric", name).bind(observed).threshold for name in ("ks", "brier"))
    edges = class_edges(observed, task.pair.sample)
    every: dict[str, Statistic] = {
        "spectra": _MemberSpectra(),
        "ranks": RankDeviation().bind(observed),
        "reliability": _Probabilities((wet, event)),
        "quantiles": KS().bind(observed),
        "intensity": _CrpsByIntensity(edges),
        "bias": _MeanMaps(),
    }
    asked = {name: every[name] for name in pictures}
    shared = {n: one for n, one in asked.items() if n in ("spectra", "quantiles", "intensity")}
    rivals = Rivals(task, _chosen(task, baselines) if shared else {}, SEED)
    sources = {OWN: ScoredSource(lambda _, own: own, dict.fromkeys(asked), asked)}
    for name, load in rivals.loaders().items():
        sources[name] = ScoredSource(load, dict.fromkeys(shared), shared)
    groups = group_samples(task, None)
    found = stream(task.pair, sources, groups.pieces, lambda _: None)
    return FigureData(task, (wet, event), edges, found, groups.places[0])


def _chosen(task: MatchedPair, baselines: Sequence[object] | None) -> dict[str, object]:
    if baselines is None:
        usable = task.has_condition and coarse_rain(task) is not None
        baselines = ["bilinear"] if usable else []
    made = [build("baseline", spec) for spec in baselines]
    return {registry().name_of("baseline", one): one for one in made}
