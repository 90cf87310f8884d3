"""What a diagnosis rests on: numbers measured on a model and some of the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.ensemble.identity import labels_of
from xcvae.errors import ConfigError, explain
from xcvae.fields.checks import check_rain
from xcvae.fields.dataspec import plain
from xcvae.fields.spec import DataSpec, prepare
from xcvae.metrics.calibration import spread_skill
from xcvae.metrics.distribution import mass_bias, p99_ratio, wet_fraction
from xcvae.metrics.spatial import diversity, spatial_correlation

if TYPE_CHECKING:
    from xcvae.generator.model import Model

__all__ = ["Draws", "Evidence", "LevelEvidence", "Swap", "draws_of", "measure", "swap_of"]

#: Samples that are looked at, and pixels drawn at most: a GB of float32 and its copies.
SAMPLES, PIXELS = 24, 60_000_000
POSTERIOR_MEMBERS = 4


@dataclass(frozen=True)
class LevelEvidence:
    """One level of the ladder, coarsest first.

    Attributes
    ----------
    size
        Height and width of its map.
    kl
        KL(q || p) in nats per sample.
    active
        Share of its latent channels with more than 0.01 nats per pixel.
    """

    size: tuple[int, int]
    kl: float
    active: float


@dataclass(frozen=True)
class Swap:
    """What happens to reconstructions that get the latents of another sample.

    Attributes
    ----------
    error_own, error_swapped
        Mean absolute error with the sample's own latents and with another's, in the target's
        units.
    change
        Mean absolute difference of both reconstructions, as a share of the mean observed rain.
    """

    error_own: float
    error_swapped: float
    change: float


@dataclass(frozen=True)
class Draws:
    """Members against the observation.

    Attributes
    ----------
    wet_fraction
        Share of wet pixels.
    mass_bias
        Relative bias of the total amount.
    p99_ratio
        Ratio of the 99th percentiles; NaN if the observed one is zero.
    variance_ratio
        Spatial variance of members over that of the observation.
    diversity
        1 - mean pairwise cosine similarity between members.
    spread_skill
        Spread over error of the ensemble mean.
    correlation
        Spatial correlation of members with the observation.
    """

    wet_fraction: float
    mass_bias: float
    p99_ratio: float
    variance_ratio: float
    diversity: float
    spread_skill: float
    correlation: float


@dataclass(frozen=True)
class Evidence:
    """All that the detectors see.

    Attributes
    ----------
    units
        Of the target.
    samples, members, seed
        How many samples were looked at, prior members of each, and the seed of the noise.
    pixels
        Valid pixels per sample.
    levels
        Coarsest first.
    swap
        None with a single sample.
    prior, posterior
        Draws from the conditions alone, and at spread 0 around the observed storm.
    wet_fraction
        Observed share of wet pixels.
    wet_fraction_record
        That of the training record.
    scale
        How the data compare with the training record, as a factor: the median of the ratios of
        mean, 99th percentile and maximum; NaN for data without rain.
    """

    units: str
    samples: int
    members: int
    seed: int
    pixels: float
    levels: tuple[LevelEvidence, ...]
    swap: Swap | None
    prior: Draws
    posterior: Draws
    wet_fraction: float
    wet_fraction_record: float
    scale: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; what is not finite becomes None."""
        content: dict[str, Any] = plain(asdict(self))
        return content


def measure(ds: xr.Dataset, model: Model, *, members: int, seed: int) -> Evidence:
    """Draw from a model and compare with observations.

    Parameters
    ----------
    ds
        Target and conditions as in training, dims (sample, y, x). At most 24 samples, spread over
        all of them, are read.
    model
        The model.
    members
        Prior members per sample, at least 2.
    seed
        Of the noise.

    Raises
    ------
    ConfigError
        Too few members.
    MismatchError
        The data do not belong to the model.
    DataError
        Negative or infinite rain.
    """
    if members < 2:
        raise ConfigError(
            explain(
                "members",
                expected="an integer >= 2",
                got=repr(members),
                remedy="Whether members differ takes two.",
            )
        )
    spec = model.spec
    prepared = prepare(ds, spec, need_target=True)
    positions = _positions(prepared, spec, members)
    subset = prepared.isel({spec.sample: positions}).load()
    check_rain(subset[spec.target])
    observed = np.asarray(subset[spec.target].values)
    batch = model.batches(subset).load(slice(None))
    labels = labels_of(subset, spec.sample)
    prior = model.draw(batch, seed=seed, labels=labels, realizations=range(members), mode="prior")
    posterior = model.draw(
        batch,
        seed=seed,
        labels=labels,
        realizations=range(min(members, POSTERIOR_MEMBERS)),
        mode="posterior",
        spread=0.0,
    )
    swap = None
    if len(positions) > 1:
        # Half the subset apart: the storm of another day, not the next frame of the same one.
        order = np.roll(np.arange(len(positions)), len(positions) // 2)
        own, swapped = (model.reconstruct(batch, latents_of=o) for o in (None, order.tolist()))
        swap = swap_of(own, swapped, observed)
    return Evidence(
        units=spec.units,
        samples=len(positions),
        members=members,
        seed=seed,
        pixels=float(np.isfinite(observed).sum() / len(observed)),
        levels=tuple(LevelEvidence(r.size, r.kl, r.active) for r in model.levels(batch)),
        swap=swap,
        prior=draws_of(prior, observed, units=spec.units, wet_threshold=spec.wet_threshold),
        posterior=draws_of(posterior, observed, units=spec.units, wet_threshold=spec.wet_threshold),
        wet_fraction=_share(observed, spec.wet_threshold),
        wet_fraction_record=model.record.wet_fraction,
        scale=_scale(observed, model),
    )


def _positions(prepared: xr.Dataset, spec: DataSpec, members: int) -> list[int]:
    count, pixels = (
        prepared.sizes[spec.sample],
        prepared.sizes[spec.y] * prepared.sizes[spec.x],
    )
    most = max(2, min(SAMPLES, PIXELS // (members * pixels)))
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def swap_of(own: NDArray[Any], swapped: NDArray[Any], observed: NDArray[Any]) -> Swap:
    """Compare reconstructions with own and with other latents; arrays (sample, y, x)."""
    mean = float(np.nanmean(observed))
    return Swap(
        error_own=float(np.nanmean(np.abs(own - observed))),
        error_swapped=float(np.nanmean(np.abs(swapped - observed))),
        change=float(np.nanmean(np.abs(own - swapped))) / mean if mean > 0 else float("nan"),
    )


def draws_of(
    members: NDArray[Any], observed: NDArray[Any], *, units: str, wet_threshold: float
) -> Draws:
    """Score members (realization, sample, y, x) against (sample, y, x), both physical."""
    dims = ("realization", "sample", "y", "x")
    forecast = xr.DataArray(members, dims=dims, attrs={"units": units})
    truth = xr.DataArray(observed, dims=dims[1:], attrs={"units": units})
    spatial = (dims[2], dims[3])
    scatter = float(truth.var(spatial).sum())
    pattern = float(forecast.var(spatial).sum()) / len(members)
    return Draws(
        wet_fraction=float(wet_fraction(forecast, truth, threshold=wet_threshold)),
        mass_bias=float(mass_bias(forecast, truth)),
        p99_ratio=float(p99_ratio(forecast, truth)),
        variance_ratio=pattern / scatter if scatter > 0 else float("nan"),
        diversity=float(diversity(forecast, truth)),
        spread_skill=float(spread_skill(forecast, truth)),
        correlation=float(spatial_correlation(forecast, truth)),
    )


def _share(observed: NDArray[Any], wet_threshold: float) -> float:
    valid = observed[np.isfinite(observed)]
    return float((valid >= wet_threshold).mean()) if valid.size else float("nan")


def _scale(observed: NDArray[Any], model: Model) -> float:
    """Compare the order of magnitude of data and training record.

    Three statistics, of which the middle one counts: a dry week moves the mean, one storm the
    maximum.
    """
    record = model.record
    valid = observed[np.isfinite(observed)]
    here = (float(valid.mean()), float(np.quantile(valid, 0.99)), float(valid.max()))
    there = (record.mean, record.quantile(0.99), record.maximum)
    ratios = [a / b for a, b in zip(here, there, strict=True) if a > 0 and b > 0]
    return float(np.median(ratios)) if ratios else float("nan")
