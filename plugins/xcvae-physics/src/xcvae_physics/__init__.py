"""Mass, wet area, edges and spectra: post-processors and a loss for xcvae.

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
        "loss": {"spectral_slope": "xcvae_physics.spectrum:SpectralSlope"},
        "postprocessor": {
            "mass_threshold": "xcvae_physics.mass:MassThreshold",
            "wet_area": "xcvae_physics.area:WetArea",
            "sharp_edge": "xcvae_physics.edges:SharpEdge",
        },
    }
