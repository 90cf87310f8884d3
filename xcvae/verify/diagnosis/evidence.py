"""What a diagnosis rests on: numbers measured on a model and some of the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from xcvae.fields.dataspec import plain
from xcvae.verify.diagnosis.memorization import Neighbours
from xcvae.verify.diagnosis.statistics import Draws, LatentSwap

__all__ = ["Draws", "Evidence", "LatentSwap", "LevelEvidence", "Neighbours"]


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
        Coarsest first; empty if nobody knows.
    swap
        None with a single sample, or if nobody knows.
    prior, posterior
        Draws from the conditions alone, and at spread 0 around the observed storm.
    wet_fraction
        Observed share of wet pixels.
    wet_fraction_record
        That of the training record; NaN if there is none.
    light_mass
        Observed share of the amount in pixels below the wet threshold.
    wet_threshold
        In ``units``.
    ceiling_share
        Share of the largest observed values that are one and the same.
    neighbours
        How near data and draws are to the training fields; None if nobody knows those.
    scale
        How the data compare with the training record, as a factor: the median of the ratios of
        mean, 99th percentile and maximum; NaN for data without rain, or if there is no record.
    own
        Whether a model of xcvae drew the members: remedies then name its settings.
    """

    units: str
    samples: int
    members: int
    seed: int
    pixels: float
    levels: tuple[LevelEvidence, ...]
    swap: LatentSwap | None
    prior: Draws
    posterior: Draws
    wet_fraction: float
    wet_fraction_record: float
    scale: float
    light_mass: float = 0.0
    wet_threshold: float = float("nan")
    ceiling_share: float = 0.0
    neighbours: Neighbours | None = None
    own: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; what is not finite becomes None."""
        content: dict[str, Any] = plain(asdict(self))
        return content
