"""Detectors of what is wrong with latents, prior and posterior."""

from __future__ import annotations

import math

from xcvae.verify.evidence import Evidence
from xcvae.verify.finding import SURE, Found, above, below, detector, factor, share, surely

__all__ = [
    "identical_members",
    "ignored_latent",
    "overdispersion",
    "posterior_collapse",
    "prior_posterior_gap",
    "underdispersion",
]

#: Where a warning begins and where a fault, in the units of what is measured.
ACTIVE = (0.15, 0.005)  # mean share of active latent channels, below
NATS = (0.02, 0.002)  # and KL per pixel, below: a few channels may carry all that is needed
SWAP_ERROR = (1.3, 1.03)  # error with another sample's latents over error with the own, below
SWAP_CHANGE = (0.10, 0.01)  # change of the reconstruction relative to the mean rain, below
GAP_WET = (0.06, 0.15)  # difference of wet fractions, above
GAP_FACTOR = (1.35, 2.0)  # ratio of masses or of 99th percentiles, either way, above
COPIES = (0.3, 0.25)  # spread over error, below: as good as copies
DIVERSITY = (0.02, 0.004)  # below
UNDER, OVER = (0.85, 0.5), (1.2, 2.0)  # spread over error; two standard errors beyond these


@detector("The latent variables learn nothing from the observed storm.")
def posterior_collapse(e: Evidence) -> Found | str:
    """The posterior equals the prior: latents learn nothing from the observation."""
    if not e.levels:
        return "nobody says what the latent variables carry"
    kl = sum(level.kl for level in e.levels)
    active = sum(level.active for level in e.levels) / len(e.levels)
    used = [level for level in e.levels if level.active > 0]
    words = f"No level is used: {kl:.3g} nats of information (KL) per sample."
    if used:
        most = max(e.levels, key=lambda level: level.kl)
        words = (
            f"{len(used)} of {len(e.levels)} levels carry information, {share(active)} of their "
            f"channels on average: {kl:.4g} nats (KL) per sample, {kl / max(e.pixels, 1):.3g} per "
            f"pixel, most of it at the level of {most.size[0]} x {most.size[1]}."
        )
    return Found(
        min(below(active, ACTIVE), below(kl / max(e.pixels, 1), NATS)),
        words,
        "Lower beta of the loss 'kl', raise its warmup or give it free_bits (nats per level); "
        "lower scale of the loss 'laplace'; train longer (fit: max_minutes).",
        "Give the KL term less weight, let it rise later or leave some nats of it free; give the "
        "error of the reconstruction more weight; train longer.",
    )


@detector("The decoder does not react to its latent variables.")
def ignored_latent(e: Evidence) -> Found | str:
    """The decoder does not listen to its latents."""
    if e.swap is None:
        return "it takes reconstructions, also with the latents of another sample"
    own, swapped = e.swap.error_own, e.swap.error_swapped
    ratio = swapped / own if own > 0 else (math.inf if swapped > 0 else 1.0)
    return Found(
        max(below(ratio, SWAP_ERROR), below(e.swap.change, SWAP_CHANGE)),
        f"With the latents of another sample a reconstruction changes by "
        f"{share(e.swap.change)} of the mean rain, and its error grows {ratio:.3g} times "
        f"({own:.3g} to {swapped:.3g} {e.units}).",
        "Lower beta of the loss 'kl' and give it free_bits; give the generator more latents; "
        "train longer (fit: max_minutes).",
        "Give the KL term less weight, and the decoder more latent variables and fewer ways around "
        "them; train longer.",
    )


@detector(
    "Draws from the conditions alone (prior) are of another kind than draws around an observed "
    "storm (posterior)."
)
def prior_posterior_gap(e: Evidence) -> Found | str:
    """The prior draws from elsewhere than where the decoder was trained."""
    wet = abs(e.prior.wet_fraction - e.posterior.wet_fraction)
    mass = factor(1 + e.prior.mass_bias, 1 + e.posterior.mass_bias)
    p99 = factor(e.prior.p99_ratio, e.posterior.p99_ratio)
    error = math.hypot(e.prior.mass_error, e.posterior.mass_error)
    factors = max(surely(mass, error), surely(p99, error))
    return Found(
        max(above(wet, GAP_WET), above(factors, GAP_FACTOR)),
        f"They differ by {100 * wet:.1f} points in wet fraction, by a factor {mass:.2f} in total "
        f"rain and {p99:.2f} in the 99th percentile.",
        "Raise beta of the loss 'kl' to 1 (less pulls the posterior away from the prior), lower "
        "free_bits, add the loss 'crps' for the prior, or train longer (fit: max_minutes).",
        "Give the KL term its full weight (less pulls the posterior away from the prior), score "
        "draws from the prior in training too, or train longer.",
    )


@detector("Members of a sample are all but copies of each other.")
def identical_members(e: Evidence) -> Found | str:
    """Prior members are copies of each other."""
    return Found(
        max(below(e.prior.diversity, DIVERSITY), below(e.prior.spread_skill, COPIES)),
        f"Diversity of prior members {e.prior.diversity:.3f} (0 is copies); their spread is "
        f"{e.prior.spread_skill:.2f} times the error of their mean.",
        "Lower weight of pixel-wise losses (crps, intensity_weighted_mae) against 'laplace' and "
        "'kl'; give 'kl' free_bits; raise temperature when sampling.",
        "Give pixel-wise errors less weight, which reward one best guess, or score several draws "
        "at once (CRPS, energy score); look whether every member has noise of its own.",
    )


@detector("Prior members agree more with each other than with what happens: too sure.")
def underdispersion(e: Evidence) -> Found | str:
    """Members agree more with each other than with the observation."""
    return _dispersion(
        e,
        max(below(ratio, UNDER) for ratio in _sure_spreads(e)) * _agreed(e, -1),
        "Train longer (fit: max_minutes); lower weight of the loss 'crps', which squeezes the "
        "spread, or start it later (fit: stages); raise temperature when sampling.",
        "Draw with more noise, with an amount that is chosen on held-back samples; give pixel-wise "
        "errors less weight in training.",
    )


@detector("Prior members are further from each other than from what happens: too unsure.")
def overdispersion(e: Evidence) -> Found | str:
    """Members are further from each other than from the observation."""
    return _dispersion(
        e,
        max(above(ratio, OVER) for ratio in _sure_spreads(e)) * _agreed(e, 1),
        "Add the loss 'crps' or raise its weight; train longer (fit: max_minutes); lower "
        "temperature when sampling.",
        "Draw with less noise, with an amount that is chosen on held-back samples; use more of "
        "what the conditions say; score several draws in training (CRPS).",
    )


def _sure_spreads(e: Evidence) -> tuple[float, float]:
    """Spread over error, of rain and of its logarithm, moved towards 1 by what is not sure."""
    d = e.prior
    return surely(d.spread_skill, d.spread_error), surely(d.spread_log, d.spread_log_error)


def _agreed(e: Evidence, side: int) -> bool:
    """Whether neither rain nor its logarithm surely errs to the other side (1 above, -1 below).

    Too much spread in heavy rain and too little in light rain is neither of both findings.
    """
    ratios = _sure_spreads(e)
    return not any(side * (ratio - 1) < 0 for ratio in ratios)


def _dispersion(e: Evidence, level: int, remedy: str, elsewhere: str) -> Found | str:
    d = e.prior
    if not math.isfinite(d.spread_skill * d.spread_error):
        return "it takes at least two samples with rain"
    low, high = (d.spread_skill * math.exp(sign * SURE * d.spread_error) for sign in (-1, 1))
    words = (
        f"Their spread is {d.spread_skill:.2f} times the error of their mean ({low:.2f} to "
        f"{high:.2f} with {e.samples} samples), and {d.spread_log:.2f} times where light rain "
        "counts like heavy (logarithms); 1 is right."
    )
    return Found(level, words, remedy, elsewhere)
