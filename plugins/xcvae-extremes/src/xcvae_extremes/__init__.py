"""The tail of rain: a loss, metrics and a post-processor for xcvae, by name.

Nothing heavy is imported here: the components are loaded when they are asked for.
"""

from __future__ import annotations

from xcvae import hookimpl

__all__ = ["XCVAE_API", "xcvae_components"]

XCVAE_API = 1


@hookimpl
def xcvae_components() -> dict[str, dict[str, type | str]]:
    """Name the components of this package."""
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
