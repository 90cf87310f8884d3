"""Evidence of a diagnosis: numbers measured on a model and some of the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from xcvae.fields.dataspec import plain
from xcvae.verify.diagnosis.memorization import Neighbours
from xcvae.verify.diagnosis.statistics import EnsembleStatistics, LatentSwap


@dataclass(frozen=True)
class LevelEvidence:
    """Information in one latent level of the ladder.

    A level without information has collapsed to the prior.

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
class Evidence:
    """All numbers that the detectors use, measured by `measure` or `gather`.

    None, NaN or an empty tuple stand for quantities that were not measured.

    Attributes
    ----------
    units
        Units of the target, and of all amounts here.
    samples, members, seed
        Number of samples read, number of prior members of each, and the seed of the noise.
    pixels
        Valid pixels per sample.
    levels
        Latent levels, coarsest first; empty if not known.
    swap
        Reconstructions with exchanged latents; None with a single sample, or if not known.
    prior, posterior
        Draws from the conditions alone, and at spread 0 around the observed storm.
    wet_fraction
        Observed share of wet pixels.
    wet_fraction_record
        Share of wet pixels in the training record; NaN without one.
    light_mass
        Observed share of the amount in pixels below the wet threshold.
    wet_threshold
        Amount from which a pixel is wet, in ``units``.
    ceiling_share
        Share of the largest observed values that are the same value.
    neighbours
        Distances of data and draws from the training fields; None if these are not known.
    scale
        Amounts of the data over those of the training record: the median of the ratios of mean,
        99th percentile and maximum; NaN without rain or without a record.
    own
        True if a model of xcvae drew the members: remedies then name its settings.
    """

    units: str
    samples: int
    members: int
    seed: int
    pixels: float
    levels: tuple[LevelEvidence, ...]
    swap: LatentSwap | None
    prior: EnsembleStatistics
    posterior: EnsembleStatistics
    wet_fraction: float
    wet_fraction_record: float
    scale: float
    light_mass: float = 0.0
    wet_threshold: float = float("nan")
    ceiling_share: float = 0.0
    neighbours: Neighbours | None = None
    own: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; values that are not finite become None."""
        content: dict[str, Any] = plain(asdict(self))
        return content
