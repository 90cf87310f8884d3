"""The built-in components, named by import string so that listing them imports nothing."""

from __future__ import annotations

from xcvae.registry.hookspecs import hookimpl

LOSSES: dict[str, type | str] = {
    "laplace": "xcvae.generator.losses.elbo:Laplace",
    "multiscale_laplace": "xcvae.generator.losses.elbo:MultiscaleLaplace",
    "hurdle": "xcvae.generator.losses.elbo:Hurdle",
    "kl": "xcvae.generator.losses.elbo:KL",
    "intensity_weighted_mae": "xcvae.generator.losses.pointwise:IntensityWeightedMAE",
    "quantile": "xcvae.generator.losses.pointwise:Quantile",
    "gradient": "xcvae.generator.losses.pointwise:Gradient",
    "mass": "xcvae.generator.losses.pointwise:Mass",
    "crps": "xcvae.generator.losses.scores:CRPS",
    "twcrps": "xcvae.generator.losses.scores:TwCRPS",
    "crps_of_maxima": "xcvae.generator.losses.scores:CRPSOfMaxima",
    "energy_score": "xcvae.generator.losses.scores:EnergyScore",
    "spectral": "xcvae.generator.losses.spectral:Spectral",
}
POSTPROCESSORS: dict[str, type | str] = {
    "threshold": "xcvae.ensemble.postprocess:Threshold",
    "clip": "xcvae.ensemble.postprocess:Clip",
    "round": "xcvae.ensemble.postprocess:Round",
}
STORMS: dict[str, type | str] = {
    "amplify": "xcvae.ensemble.storms:Amplify",
    "turn": "xcvae.ensemble.storms:Turn",
    "mirror": "xcvae.ensemble.storms:Mirror",
    "shift": "xcvae.ensemble.storms:Shift",
    "borrow": "xcvae.ensemble.storms:Borrow",
}
METRICS: dict[str, type | str] = {
    "crps": "xcvae.metrics.ensemble:CRPS",
    "crps_skill": "xcvae.metrics.ensemble:CRPSSkill",
    "twcrps": "xcvae.metrics.ensemble:TwCRPS",
    "energy_score": "xcvae.metrics.ensemble:EnergyScore",
    "mae": "xcvae.metrics.ensemble:MAE",
    "spread_skill": "xcvae.metrics.calibration:SpreadSkill",
    "rank_deviation": "xcvae.metrics.calibration:RankDeviation",
    "spectral_distance": "xcvae.metrics.spatial:SpectralDistance",
    "spatial_correlation": "xcvae.metrics.spatial:SpatialCorrelation",
    "diversity": "xcvae.metrics.spatial:Diversity",
    "wet_fraction": "xcvae.metrics.distribution:WetFraction",
    "wet_fraction_observed": "xcvae.metrics.distribution:WetFractionObserved",
    "mass_bias": "xcvae.metrics.distribution:MassBias",
    "ks": "xcvae.metrics.distribution:KS",
    "p99_ratio": "xcvae.metrics.distribution:P99Ratio",
    "p999_ratio": "xcvae.metrics.distribution:P999Ratio",
    "lag_correlation": "xcvae.metrics.temporal:LagCorrelation",
    "wet_spell": "xcvae.metrics.temporal:WetSpell",
    "dry_spell": "xcvae.metrics.temporal:DrySpell",
    "temporal_spectrum": "xcvae.metrics.temporal:TemporalSpectrum",
    "fss": "xcvae.metrics.events:FSS",
    "brier": "xcvae.metrics.events:Brier",
    "csi": "xcvae.metrics.events:CSI",
    "sedi": "xcvae.metrics.events:SEDI",
}
BASELINES: dict[str, type | str] = {
    "bilinear": "xcvae.verify.baselines.interpolation:Bilinear",
    "block": "xcvae.verify.baselines.interpolation:Block",
    "shuffled": "xcvae.verify.baselines.interpolation:Shuffled",
    "independent": "xcvae.verify.baselines.temporal:Independent",
    "frozen": "xcvae.verify.baselines.temporal:Frozen",
    "climatology": "xcvae.verify.baselines.climatology:Climatology",
    "rainfarm": "xcvae.verify.baselines.rainfarm:RainFARM",
}


@hookimpl
def xcvae_components() -> dict[str, dict[str, type | str]]:
    """Return the components of xcvae itself, by kind and name."""
    return {
        "loss": dict(LOSSES),
        "postprocessor": dict(POSTPROCESSORS),
        "storm": dict(STORMS),
        "metric": dict(METRICS),
        "baseline": dict(BASELINES),
    }
