"""All detectors: pure functions from measured numbers to findings in words."""

from __future__ import annotations

from xcvae.verify.evidence import Evidence
from xcvae.verify.finding import Detector, Finding
from xcvae.verify.findings_latents import (
    identical_members,
    ignored_latent,
    overdispersion,
    posterior_collapse,
    prior_posterior_gap,
    underdispersion,
)
from xcvae.verify.findings_rain import (
    border,
    checkerboard,
    drizzle,
    mass_drift,
    mean_collapse,
    truncated_tail,
    units,
)
from xcvae.verify.findings_record import leakage, memorisation

__all__ = ["DETECTORS", "detect"]

#: What would make the others meaningless comes first.
DETECTORS: tuple[Detector, ...] = (
    units,
    leakage,
    posterior_collapse,
    ignored_latent,
    mean_collapse,
    identical_members,
    underdispersion,
    overdispersion,
    prior_posterior_gap,
    memorisation,
    drizzle,
    mass_drift,
    truncated_tail,
    checkerboard,
    border,
)


def detect(evidence: Evidence) -> list[Finding]:
    """Run every detector."""
    return [detector(evidence) for detector in DETECTORS]
