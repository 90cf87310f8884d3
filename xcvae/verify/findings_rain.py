"""Detectors of what is wrong with the rain that is drawn."""

from __future__ import annotations

import math

from xcvae.verify.evidence import Draws, Evidence
from xcvae.verify.finding import SURE, Found, above, below, detector, factor, share, signed, surely

__all__ = [
    "border",
    "checkerboard",
    "drizzle",
    "mass_drift",
    "mean_collapse",
    "truncated_tail",
    "units",
]

#: Where a warning begins and where a fault, in the units of what is measured.
VARIANCE = (0.5, 0.25)  # spatial variance over that observed, below
TEXTURE = (0.5, 0.3)  # squared difference of neighbouring pixels over that observed, below
DRIZZLE = (0.06, 0.15)  # wet fraction beyond that observed, above
DRIZZLE_RATIO = (1.5, 3.0)  # the same as a factor, for climates with little rain, above
LITTLE = 0.01  # wet fraction that is not worth a word
LIGHT = (0.05, 0.15)  # share of the amount in dry pixels beyond that observed, above
MASS_PRIOR, MASS_POSTERIOR = (0.25, 0.5), (0.15, 0.3)  # |relative bias|, above
TAIL = (0.65, 0.45)  # 99.9th percentile over that observed, below
CEILING = (0.2, 0.5)  # share of the largest values at one value, beyond that observed, above
PATTERN = (0.25, 0.7)  # strength of what repeats with the grid, above
BORDER = (math.log(1.25), math.log(1.8))  # |logarithm|; two standard errors beyond these
SCALE = (6.0, 15.0)  # factor between data and record, either way, above
FLOOR = (0.05, 0.15)  # share of values at a floor of their pixel that is not zero, above

AFTER_NORMALISATION = (
    "Apply thresholds to rain in physical units, after the way back from normalised values: 0.1 "
    "of a z-score is no amount of rain."
)


@detector("Amounts are not in the units that they are said to be in.")
def units(e: Evidence) -> Found | str:
    """Amounts of another order of magnitude than in training, or normalised where they act."""
    floor = above(_floor(e), FLOOR)
    if math.isnan(e.scale) and not floor:
        return "there is no rain in the data, or no training record"
    apart = factor(e.scale, 1.0)
    more = "larger" if e.scale > 1 else "smaller"
    words = f"Amounts are {apart:.3g} times {more} than those trained on ({e.units})."
    if math.isnan(e.scale):
        words = "There is no training record to compare amounts with."
    remedy = (
        "Check attrs['units'] of the target: a factor of 24 is mm/day against mm/h, 3600 is "
        "kg m-2 s-1 against mm/h, 1000 is m against mm. Normalised values are never an input."
    )
    scale = above(apart, SCALE)
    if floor:
        words += f" {_floor_words(e)}"
        remedy = f"{remedy} {AFTER_NORMALISATION}" if scale else AFTER_NORMALISATION
    return Found(max(scale, floor), words, remedy, remedy)


def _floor(e: Evidence) -> float:
    return max(e.prior.floor_share, e.posterior.floor_share)


def _floor_words(e: Evidence) -> str:
    draws = max((e.prior, e.posterior), key=lambda d: d.floor_share)
    return (
        f"{share(draws.floor_share)} of the values are the same smallest one of their pixel, which "
        f"is not dry (median {draws.floor:.2g} {e.units}): a threshold acted on normalised values."
    )


@detector("Members are too smooth, like the average of many fields that could be.")
def mean_collapse(e: Evidence) -> Found | str:
    """Members are smooth: the average of what could be, painted flat."""
    variance = max(
        below(surely(d.variance_ratio, d.variance_error), VARIANCE) for d in (e.prior, e.posterior)
    )
    # A faithful reconstruction may miss the finest noise; what is drawn from nothing must have it.
    texture = surely(e.prior.texture_ratio, e.prior.texture_error)
    level = max(variance, below(texture, TEXTURE))
    return Found(
        level,
        f"Of the observed variance within a map, prior members have {share(e.prior.variance_ratio)}"
        f", posterior ones {share(e.posterior.variance_ratio)}; of the contrast between "
        f"neighbouring pixels {share(e.prior.texture_ratio)} and "
        f"{share(e.posterior.texture_ratio)}.",
        "A pixel-wise error dominates: lower the weight of intensity_weighted_mae (or its w_min "
        "against tail_boost), lower beta of the loss 'kl', or train longer (fit: max_minutes). "
        "Never drop parts of the conditions in training.",
        "A pixel-wise error rewards the average: give it less weight, or score several draws at "
        "once (CRPS, energy score). Never drop parts of the conditions in training.",
    )


@detector("Too much of the area has a little rain.")
def drizzle(e: Evidence) -> Found | str:
    """Too many wet pixels, or too much rain in pixels that count as dry."""

    def level_of(draws: Draws) -> int:
        excess = draws.wet_fraction - e.wet_fraction
        light = above(draws.light_mass - e.light_mass, LIGHT)
        if excess <= LITTLE:
            return light
        ratio = factor(draws.wet_fraction, e.wet_fraction)
        return max(above(excess, DRIZZLE), above(ratio, DRIZZLE_RATIO), light)

    floor = above(_floor(e), FLOOR) > 0
    wet, light = (
        f"observed {share(here)}, prior {share(prior)}, posterior {share(posterior)}"
        for here, prior, posterior in (
            (e.wet_fraction, e.prior.wet_fraction, e.posterior.wet_fraction),
            (e.light_mass, e.prior.light_mass, e.posterior.light_mass),
        )
    )
    return Found(
        max(level_of(e.prior), level_of(e.posterior)),
        f"Wet pixels before post-processing: {wet}. Rain that falls in pixels below "
        f"{e.wet_threshold:g} {e.units}: {light}." + (f" {_floor_words(e)}" if floor else ""),
        AFTER_NORMALISATION
        if floor
        else "Raise value of the post-processor 'threshold', for example "
        "postprocess=[{'name': 'threshold', 'value': '0.2 mm h-1'}]; train longer "
        "(fit: max_minutes), dry pixels are learned late.",
        AFTER_NORMALISATION
        if floor
        else "Set what is below a threshold to zero, in physical units, and look at the mass; "
        "learn where it rains apart from how much; train longer.",
    )


@detector("The total amount of rain is wrong.")
def mass_drift(e: Evidence) -> Found | str:
    """More or less rain in total than observed, before or after the usual threshold."""
    kept = [(1 + d.mass_bias) * (1 - d.light_mass) - 1 for d in (e.prior, e.posterior)]
    drawn = (e.prior.mass_bias, e.posterior.mass_bias)
    level = max(
        above(max(abs(surely(1 + bias, d.mass_error) - 1) for bias in biases), limits)
        for d, biases, limits in (
            (e.prior, (drawn[0], kept[0]), MASS_PRIOR),
            (e.posterior, (drawn[1], kept[1]), MASS_POSTERIOR),
        )
    )
    return Found(
        level,
        f"It differs from the observed by {signed(drawn[0])} (prior) and {signed(drawn[1])} "
        f"(posterior); after a threshold of {e.wet_threshold:g} {e.units} by {signed(kept[0])} and "
        f"{signed(kept[1])}.",
        "Add the loss 'mass' or raise its weight (posterior); for the prior add the loss 'crps', "
        "or train longer (fit: max_minutes); if the condition is rain on a coarser grid, keep its "
        "amounts (generator: constrain); check that the training data have the same climate.",
        "Give the total amount a term in training, or scale members to amounts that are known (a "
        "coarse condition, a climatology); check that the training data have the same climate.",
    )


@detector("The heaviest rain is too weak.")
def truncated_tail(e: Evidence) -> Found | str:
    """The largest values are too small, or all the same."""
    # How much is missing is told by all samples together, whether it is by each with its members.
    low = max(
        below(d.p999_ratio, TAIL) * (d.tail_rank - 0.5 > SURE * d.tail_rank_error)
        for d in (e.prior, e.posterior)
    )
    capped = max(e.prior.ceiling_share, e.posterior.ceiling_share)
    cap = above(capped - e.ceiling_share, CEILING)
    words = (
        f"The 99.9th percentile of prior members is {e.prior.p999_ratio:.2f} times the observed, "
        f"that of posterior ones {e.posterior.p999_ratio:.2f} times; a prior "
        f"member is weaker there than what was observed with it in {share(e.prior.tail_rank)} of "
        "the cases (50 % is right)."
    )
    if cap:
        words += f" {share(capped)} of the largest values are the same: something caps them."
    return Found(
        max(low, cap),
        words.replace("nan", "unknown"),
        ("Raise maximum of the post-processor 'clip', or leave it out. " if cap else "")
        + "Show heavy samples more often (fit: heavy_share); lower the weight of pixel-wise "
        "losses; add the loss 'quantile'; train longer (fit: max_minutes).",
        ("Look for a cap in the processing. " if cap else "")
        + "Show heavy samples more often in training; give pixel-wise errors less weight and the "
        "tail more; look whether a transformation of the amounts flattens it.",
    )


@detector("A pattern repeats with the pixels, as no rain does.")
def checkerboard(e: Evidence) -> Found | str:
    """A pattern that repeats with the grid."""
    draws = max((e.prior, e.posterior), key=lambda d: d.artefacts.pattern)
    trace = draws.artefacts
    if trace.period == 0:
        return "the maps are too small for it"
    return Found(
        above(trace.pattern, PATTERN),
        f"The strongest repeats every {trace.period} pixels; its contrast is "
        f"{share(trace.pattern)} of the usual one between neighbouring pixels, beyond what the "
        "observation has.",
        "Where the period is that of the coarse cells (coarsen), leave generator: constrain out or "
        "train longer (fit: max_minutes); where it is generator: patch, lower that; where it is a "
        "power of two otherwise, train longer.",
        "Where the period is that of coarse cells, blocks are corrected one by one: smooth across "
        "their edges. Where it is a power of two, upsample by interpolation instead of transposed "
        "convolutions, or train longer.",
    )


@detector("Rain at the border of the domain is not like that inside.")
def border(e: Evidence) -> Found | str:
    """Odd values at the border of the domain."""
    traces = [e.prior.artefacts, e.posterior.artefacts]
    pairs = [(t.border_amount, t.border_amount_error) for t in traces]
    pairs += [(t.border_texture, t.border_texture_error) for t in traces]
    pairs = [pair for pair in pairs if math.isfinite(pair[0] * pair[1])]
    if not pairs:
        return "there is too little rain at the border, or no border"
    level = max(above(abs(math.log(v)) - SURE * error, BORDER) for v, error in pairs)
    p = e.prior.artefacts
    return Found(
        level,
        f"Against the pixels further inside, prior members have {p.border_amount:.2f} times the "
        f"observed amount there, and {p.border_texture:.2f} times its roughness (standard errors "
        f"{share(p.border_amount_error)} and {share(p.border_texture_error)}).",
        "Train on larger crops (fit: crop), so that fewer pixels are near an edge, or on whole "
        "fields; draw a domain that is wider than needed, and cut the border off.",
        "Draw a domain that is wider than needed, and cut the border off; pad with what is around "
        "instead of zeros.",
    )
