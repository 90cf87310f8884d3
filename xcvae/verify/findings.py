"""The detectors: pure functions from measured numbers to findings in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from xcvae.verify.evidence import Draws, Evidence

__all__ = ["DETECTORS", "Finding", "Severity", "detect"]

Severity = Literal["ok", "warning", "fault"]

#: Where a warning begins and where a fault, in the units of what is measured.
ACTIVE = (0.15, 0.005)  # mean share of active latent channels, below
NATS = (0.02, 0.002)  # and KL per pixel, below: a few channels may carry all that is needed
SWAP_ERROR = (1.3, 1.03)  # error with another sample's latents over error with the own, below
SWAP_CHANGE = (0.10, 0.01)  # change of the reconstruction relative to the mean rain, below
VARIANCE = (0.5, 0.25)  # spatial variance over that observed, below
TEXTURE = (0.5, 0.3)  # squared difference of neighbouring pixels over that observed, below
DRIZZLE = (0.06, 0.15)  # wet fraction beyond that observed, above
DRIZZLE_RATIO = (1.5, 3.0)  # the same as a factor, for climates with little rain, above
LITTLE = 0.01  # wet fraction that is not worth a word
MASS_PRIOR, MASS_POSTERIOR = (0.25, 0.5), (0.15, 0.3)  # |relative bias|, above
GAP_WET = (0.06, 0.15)  # difference of wet fractions, above
GAP_FACTOR = (1.35, 2.0)  # ratio of masses or of 99th percentiles, either way, above
SPREAD = (0.6, 0.25)  # spread over error, below
DIVERSITY = (0.02, 0.004)  # below
SCALE = (6.0, 15.0)  # factor between data and record, either way, above
FLOOR = (0.05, 0.15)  # share of values at a floor of their pixel that is not zero, above


@dataclass(frozen=True)
class Finding:
    """One thing that was looked into.

    Attributes
    ----------
    name
        Of the fault that was looked for.
    severity
        "ok", "warning" or "fault".
    evidence
        What was measured, in words.
    remedy
        What to change, by the name of the parameter; empty if nothing needs to be.
    """

    name: str
    severity: Severity
    evidence: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain JSON types."""
        return asdict(self)


def _below(value: float, limits: tuple[float, float]) -> int:
    """0, 1 or 2 for ok, warning and fault; what could not be measured is no finding."""
    return (value < limits[0]) + (value < limits[1])


def _above(value: float, limits: tuple[float, float]) -> int:
    return (value > limits[0]) + (value > limits[1])


def _finding(name: str, level: int, evidence: str, remedy: str) -> Finding:
    severity: tuple[Severity, ...] = ("ok", "warning", "fault")
    return Finding(name, severity[level], evidence, remedy if level else "")


def _factor(first: float, second: float) -> float:
    """How far two positive numbers are apart, as a factor >= 1; infinite if only one is zero."""
    if math.isnan(first) or math.isnan(second) or first == second:
        return 1.0
    low, high = sorted((max(first, 0.0), max(second, 0.0)))
    return high / low if low > 0 else math.inf


def units(e: Evidence) -> Finding:
    """Amounts of another order of magnitude than in training, or normalised where they act."""
    apart = _factor(e.scale, 1.0)
    more = "larger" if e.scale > 1 else "smaller"
    words = (
        f"Amounts are {apart:.3g} times {more} than those the model was trained on ({e.units})."
        if not math.isnan(e.scale)
        else "The data have no rain, or there is no training record, so that their units cannot "
        "be checked."
    )
    remedy = (
        "Check attrs['units'] of the target: a factor of 24 is mm/day against mm/h, 3600 is "
        "kg m-2 s-1 against mm/h, 1000 is m against mm. Normalised values are never an input."
    )
    scale, floor = _above(apart, SCALE), _above(_floor(e), FLOOR)
    if floor:
        words += f" {_floor_words(e)}"
        remedy = f"{remedy} {AFTER_NORMALISATION}" if scale else AFTER_NORMALISATION
    return _finding("units", max(scale, floor), words, remedy)


AFTER_NORMALISATION = (
    "Apply thresholds to rain in physical units, after the way back from normalised values: 0.1 "
    "of a z-score is no amount of rain."
)


def _floor(e: Evidence) -> float:
    return max(e.prior.floor_share, e.posterior.floor_share)


def _floor_words(e: Evidence) -> str:
    draws = max((e.prior, e.posterior), key=lambda d: d.floor_share)
    return (
        f"{draws.floor_share:.0%} of the values are the same smallest one of their pixel, which "
        f"is not dry (median {draws.floor:.2g} {e.units}): a threshold acted on normalised values."
    )


def posterior_collapse(e: Evidence) -> Finding:
    """The posterior equals the prior: latents learn nothing from the observation."""
    name = "posterior_collapse"
    if not e.levels:
        return Finding(name, "ok", "Not looked into: nobody says what the latents carry.")
    kl = sum(level.kl for level in e.levels)
    active = sum(level.active for level in e.levels) / len(e.levels)
    used = [level for level in e.levels if level.active > 0]
    words = f"No level of the ladder is used: KL {kl:.3g} nats per sample."
    if used:
        most = max(e.levels, key=lambda level: level.kl)
        words = (
            f"{len(used)} of {len(e.levels)} levels are used, {active:.0%} of the latent channels "
            f"on average; KL {kl:.4g} nats per sample ({kl / max(e.pixels, 1):.3g} per pixel), "
            f"most of it at the level of {most.size[0]} x {most.size[1]}."
        )
    return _finding(
        name,
        min(_below(active, ACTIVE), _below(kl / max(e.pixels, 1), NATS)),
        words,
        "Lower beta of the loss 'kl', raise its warmup or give it free_bits (nats per level); "
        "lower scale of the loss 'laplace'; train longer (fit: max_minutes).",
    )


def ignored_latent(e: Evidence) -> Finding:
    """The decoder does not listen to its latents."""
    name = "ignored_latent"
    if e.swap is None:
        return Finding(
            name,
            "ok",
            "Not looked into: there are no reconstructions with the latents of another sample, "
            "or only one sample.",
        )
    own, swapped = e.swap.error_own, e.swap.error_swapped
    ratio = swapped / own if own > 0 else (math.inf if swapped > 0 else 1.0)
    level = max(_below(ratio, SWAP_ERROR), _below(e.swap.change, SWAP_CHANGE))
    return _finding(
        name,
        level,
        f"With the latents of another sample a reconstruction changes by {e.swap.change:.0%} of "
        f"the mean rain, and its error grows {ratio:.3g} times ({own:.3g} to {swapped:.3g} "
        f"{e.units}).",
        "Lower beta of the loss 'kl' and give it free_bits; give the generator more latents; "
        "train longer (fit: max_minutes).",
    )


def mean_collapse(e: Evidence) -> Finding:
    """Members are smooth: the average of what could be, painted flat."""
    variance = max(_below(d.variance_ratio, VARIANCE) for d in (e.prior, e.posterior))
    # A faithful reconstruction may miss the finest noise; what is drawn from nothing must have it.
    level = max(variance, _below(e.prior.texture_ratio, TEXTURE))
    return _finding(
        "mean_collapse",
        level,
        f"Members have {e.prior.variance_ratio:.2f} (prior) and "
        f"{e.posterior.variance_ratio:.2f} (posterior) times the spatial variance of the "
        f"observation, {e.prior.texture_ratio:.2f} and {e.posterior.texture_ratio:.2f} times its "
        f"variance between neighbouring pixels; 99th percentile {e.prior.p99_ratio:.2f} and "
        f"{e.posterior.p99_ratio:.2f} times.",
        "A pixel-wise error dominates: lower the weight of intensity_weighted_mae (or its w_min "
        "against tail_boost), lower beta of the loss 'kl', or train longer (fit: max_minutes). "
        "Never drop parts of the conditions in training.",
    )


def drizzle(e: Evidence) -> Finding:
    """Too many wet pixels."""

    def level_of(draws: Draws) -> int:
        excess = draws.wet_fraction - e.wet_fraction
        if excess <= LITTLE:
            return 0
        ratio = _factor(draws.wet_fraction, e.wet_fraction)
        return max(_above(excess, DRIZZLE), _above(ratio, DRIZZLE_RATIO))

    floor = _above(_floor(e), FLOOR) > 0
    record = e.wet_fraction_record
    return _finding(
        "drizzle",
        max(level_of(e.prior), level_of(e.posterior)),
        f"Wet fraction before post-processing: observed {e.wet_fraction:.3f}, prior "
        f"{e.prior.wet_fraction:.3f}, posterior {e.posterior.wet_fraction:.3f}"
        + ("." if math.isnan(record) else f" (training record {record:.3f}).")
        + (f" {_floor_words(e)}" if floor else ""),
        AFTER_NORMALISATION
        if floor
        else "Raise value of the post-processor 'threshold', for example "
        "postprocess=[{'name': 'threshold', 'value': '0.2 mm h-1'}]; train longer "
        "(fit: max_minutes), dry pixels are learned late.",
    )


def mass_drift(e: Evidence) -> Finding:
    """More or less rain in total than observed."""
    level = max(
        _above(abs(e.prior.mass_bias), MASS_PRIOR),
        _above(abs(e.posterior.mass_bias), MASS_POSTERIOR),
    )
    return _finding(
        "mass_drift",
        level,
        f"Total rain differs from the observed by {e.prior.mass_bias:+.0%} (prior) and "
        f"{e.posterior.mass_bias:+.0%} (posterior).",
        "Add the loss 'mass' or raise its weight (posterior); for the prior add the loss 'crps', "
        "or train longer (fit: max_minutes); check that the training data have the same climate.",
    )


def prior_posterior_gap(e: Evidence) -> Finding:
    """The prior draws from elsewhere than where the decoder was trained."""
    wet = abs(e.prior.wet_fraction - e.posterior.wet_fraction)
    mass = _factor(1 + e.prior.mass_bias, 1 + e.posterior.mass_bias)
    p99 = _factor(e.prior.p99_ratio, e.posterior.p99_ratio)
    return _finding(
        "prior_posterior_gap",
        max(_above(wet, GAP_WET), _above(mass, GAP_FACTOR), _above(p99, GAP_FACTOR)),
        f"Prior and posterior draws differ by {wet:.3f} in wet fraction, by a factor "
        f"{mass:.2f} in mass and {p99:.2f} in the 99th percentile.",
        "Raise beta of the loss 'kl' to 1 (less pulls the posterior away from the prior), lower "
        "free_bits, add the loss 'crps' for the prior, or train longer (fit: max_minutes).",
    )


def identical_members(e: Evidence) -> Finding:
    """Prior members are copies of each other, far surer than they are right."""
    level = max(_below(e.prior.diversity, DIVERSITY), _below(e.prior.spread_skill, SPREAD))
    return _finding(
        "identical_members",
        level,
        f"Diversity of prior members {e.prior.diversity:.3f}; their spread is "
        f"{e.prior.spread_skill:.2f} times the error of their mean (1 is calibrated).",
        "Lower weight of pixel-wise losses (crps, intensity_weighted_mae) against 'laplace' and "
        "'kl'; give 'kl' free_bits; raise temperature when sampling.",
    )


DETECTORS: tuple[Callable[[Evidence], Finding], ...] = (
    units,
    posterior_collapse,
    ignored_latent,
    mean_collapse,
    drizzle,
    mass_drift,
    prior_posterior_gap,
    identical_members,
)


def detect(evidence: Evidence) -> list[Finding]:
    """Run every detector."""
    return [detector(evidence) for detector in DETECTORS]
