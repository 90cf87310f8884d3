"""Scores of ensembles of rain fields, as functions on labelled arrays and as components.

Every function takes ``(forecast, observed)`` with dims (realization, sample, y, x) and
(sample, y, x), both with ``units`` of precipitation; a pixel counts where the observation and all
members are finite.
"""

from xcvae.metrics.calibration import rank_deviation, rank_histogram, spread_skill
from xcvae.metrics.distribution import (
    ks,
    mass_bias,
    p99_ratio,
    p999_ratio,
    wet_fraction,
    wet_fraction_observed,
)
from xcvae.metrics.ensemble import crps, crps_skill, energy_score, mae, twcrps
from xcvae.metrics.events import brier, csi, fss, sedi
from xcvae.metrics.metric import Metric, Statistic
from xcvae.metrics.spatial import diversity, radial_spectrum, spatial_correlation, spectral_distance

__all__ = [
    "Metric",
    "Statistic",
    "brier",
    "crps",
    "crps_skill",
    "csi",
    "diversity",
    "energy_score",
    "fss",
    "ks",
    "mae",
    "mass_bias",
    "p99_ratio",
    "p999_ratio",
    "radial_spectrum",
    "rank_deviation",
    "rank_histogram",
    "sedi",
    "spatial_correlation",
    "spectral_distance",
    "spread_skill",
    "twcrps",
    "wet_fraction",
    "wet_fraction_observed",
]
