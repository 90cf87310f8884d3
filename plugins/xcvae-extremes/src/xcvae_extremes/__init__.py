"""The tail of rain: a loss, metrics and a post-processor for xcvae.

Only names are registered here: the modules of the components are imported on first use.
"""

from __future__ import annotations

from xcvae import hookimpl

__all__ = ["XCVAE_API", "xcvae_components"]

XCVAE_API = 1


@hookimpl
def xcvae_components() -> dict[str, dict[str, type | str]]:
    """Return the components by kind and name."""
    return {
        "loss": {"pinball": "xcvae_extremes.losses:Pinball"},
        "metric": {
            "tw_crps": "xcvae_extremes.scores:ThresholdWeightedCRPS",
            "csi_quantile": "xcvae_extremes.events:QuantileCSI",
            "sedi_quantile": "xcvae_extremes.events:QuantileSEDI",
            "return_level_ratio": "xcvae_extremes.levels:ReturnLevelRatio",
        },
        "postprocessor": {"quantile_mapping": "xcvae_extremes.mapping:QuantileMapping"},
    }
