"""Detectors: pure functions from measured numbers to findings in words.

The name of a detector is that of its finding. Code in backticks in a remedy works as it stands: an
argument of ``xcvae.train``, ``xcvae.sample`` or ``xcvae.evaluate``, or one item of ``losses`` or
``postprocess``.
"""

from __future__ import annotations

import math

from xcvae.fields.units import parse_quantity
from xcvae.verify.diagnosis.finding import (
    SURE,
    Detector,
    Evidence,
    Finding,
    Measurement,
    above,
    below,
    detector,
    duration,
    factor,
    share,
    shrink_by_error,
    signed,
)
from xcvae.verify.diagnosis.statistics import EnsembleStatistics

# Limits: where a warning begins, and where a fault, in the units of the measured quantity.

# Training samples
SAME = (0.0, 0.05)  # share of samples in the training record, by label or as copies, above
CLOSE = (0.65, 0.3)  # distance from the training fields over that between storms there, below
NEAR = (0.6, 0.3)  # distance of draws from the training fields over that of samples, below
COPIES = (0.05, 0.2)  # share of draws that are copies, beyond that of samples, above
# Latent variables
ACTIVE = (0.15, 0.005)  # mean share of active latent channels, below
NATS = (0.02, 0.002)  # and KL per pixel, below: few channels may carry all the information
SWAP_ERROR = (1.3, 1.03)  # error with another sample's latents over error with its own, below
SWAP_CHANGE = (0.10, 0.01)  # change of the reconstruction relative to the mean rain, below
GAP_WET = (0.06, 0.15)  # difference of wet fractions, above
GAP_FACTOR = (1.35, 2.0)  # ratio of masses or of 99th percentiles, either way, above
IDENTICAL = (0.3, 0.25)  # spread over error, below: as good as copies,
ALIKE = 0.3  # where diversity is below this; members that differ more have too little spread only
DIVERSITY = (0.02, 0.004)  # below
UNDER, OVER = (0.85, 0.5), (1.2, 2.0)  # spread over error; two standard errors beyond these
APART = (1.3, 2.0)  # spread over error with little rain over that with much, either way, above
# Amounts and structure
VARIANCE = (0.5, 0.25)  # spatial variance over that observed, below
TEXTURE = (0.5, 0.3)  # squared difference of neighbouring pixels over that observed, below
DRIZZLE = (0.06, 0.15)  # wet fraction beyond that observed, above
DRIZZLE_RATIO = (1.5, 3.0)  # the same as a factor, for climates with little rain, above
NEGLIGIBLE = 0.01  # excess of the wet fraction that is ignored
LIGHT = (0.05, 0.15)  # share of the amount in dry pixels beyond that observed, above
MASS_PRIOR, MASS_POSTERIOR = (0.25, 0.5), (0.15, 0.3)  # |relative bias|, above
TAIL = (0.65, 0.45)  # 99.9th percentile over that observed, below
STRONG = 1.5  # the same, from where a cap lies beyond the observed amounts
CEILING = (0.2, 0.5)  # share of the largest values at one value, beyond that observed, above
SPIKE = 0.02  # share of one amount in the heaviest observed ones, above
PATTERN = (0.25, 0.7)  # strength of a pattern that repeats with the grid, above
BORDER = (math.log(1.25), math.log(1.8))  # |logarithm|; two standard errors beyond these
SCALE = (6.0, 15.0)  # factor between data and record, either way, above
FLICKER, MEMORY = 0.6, 0.15  # correlation in time over that observed, below; if that is above
FLOOR = (0.05, 0.15)  # share of values at a floor of their pixel that is not zero, above

NO_RECORD = "the model file keeps nothing of the training samples; train again to have it checked"
FEW = "fewer than two samples with rain"
NOT_GIVEN = "the training rain was not given (trained_on)"
SPLIT = (
    "Evaluate on samples that training did not see. Split by periods (days, years) or regions, "
    "never at random: neighbours in time are nearly copies."
)
AFTER_NORMALISATION = (
    "Apply thresholds to rain in physical units, after the way back from normalised values: 0.1 "
    "of a z-score is no amount of rain."
)


@detector("Amounts are not in the units that their attributes state.")
def units(e: Evidence) -> Measurement | str:
    """Compare the order of magnitude with training, and look for normalised thresholds."""
    floor = above(_floor(e), FLOOR)
    if math.isnan(e.scale) and not floor:
        return "the data have no rain, or there is no training record"
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
    return Measurement(max(scale, floor), words, remedy, remedy)


def _floor(e: Evidence) -> float:
    return max(e.prior.floor_share, e.posterior.floor_share)


def _floor_words(e: Evidence) -> str:
    draws = max((e.prior, e.posterior), key=lambda d: d.floor_share)
    return (
        f"{share(draws.floor_share)} of the values are the same smallest one of their pixel, which "
        f"is not dry (median {draws.floor:.2g} {e.units}): a threshold acted on normalised values."
    )


@detector("The model has seen these samples, or near copies of them, in training.")
def leakage(e: Evidence) -> Measurement | str:
    """Look for samples that are in the training record, or nearly."""
    n = e.neighbours
    if n is None:
        return NO_RECORD if e.own else NOT_GIVEN
    if math.isnan(n.same_labels) and math.isnan(n.copies):
        return "the samples have no labels, and too little rain to compare"
    ratio = n.observed / n.usual
    words = []
    if not math.isnan(n.same_labels):
        some = "" if n.labels_known >= 1 else f" (known for {share(n.labels_known)} of them)"
        words.append(
            f"{share(n.same_labels)} of the samples have the label of a training one{some}"
        )
    if not math.isnan(n.copies):
        words.append(f"{share(n.copies)} are copies of a training field")
    if not math.isnan(ratio):
        words.append(
            f"they are {ratio:.2f} times as far from the nearest training field as training "
            "storms are from each other"
        )
    return Measurement(
        max(above(n.same_labels, SAME), above(n.copies, SAME), below(ratio, CLOSE)),
        "; ".join(words) + ".",
        SPLIT,
        SPLIT,
    )


@detector("Prior members repeat fields of the training record.")
def memorisation(e: Evidence) -> Measurement | str:
    """Compare the distances of prior draws and of samples from the training fields."""
    n = e.neighbours
    if n is None:
        return NO_RECORD if e.own else NOT_GIVEN
    if math.isnan(n.drawn):
        return "too few rainy samples outside the training record"
    copies = n.drawn_copies - n.copies
    return Measurement(
        max(below(n.drawn, NEAR), above(copies, COPIES)),
        f"On the scale of an eighth of the domain, they are {n.drawn:.2f} times as far from the "
        f"nearest training field as the samples are; {share(n.drawn_copies)} are copies.",
        "Train on more samples, for fewer steps (fit: max_steps, patience) or with a smaller "
        "generator (preset: small); turn fields in training (fit: flips). Arguments: "
        '`fit={"max_minutes": 10, "patience": 3}`, `generator={"preset": "small"}`.',
        "Train on more samples, for fewer steps or with a smaller network; turn and mirror fields "
        "in training.",
    )


@detector("The latent variables learn nothing from the observed storm.")
def posterior_collapse(e: Evidence) -> Measurement | str:
    """Measure the information in the latents (KL); none means that the posterior is the prior."""
    if not e.levels:
        return "the information in the latent levels is not known"
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
    return Measurement(
        min(below(active, ACTIVE), below(kl / max(e.pixels, 1), NATS)),
        words,
        "Lower beta of the loss 'kl', raise its warmup or give it free_bits (nats per level); "
        "lower scale of the loss 'laplace'; train longer (fit: max_minutes). Items of losses: "
        '`{"name": "kl", "beta": 0.5, "warmup": 0.3, "free_bits": 10}`, '
        '`{"name": "laplace", "scale": 0.04}`.',
        "Give the KL term less weight, a later warm-up or some free nats; give the reconstruction "
        "error more weight; train longer.",
    )


@detector("The decoder does not react to its latent variables.")
def ignored_latent(e: Evidence) -> Measurement | str:
    """Compare reconstructions from a sample's own latents and from those of another sample."""
    if e.swap is None:
        return "reconstructions with the latents of another sample are not known"
    own, swapped = e.swap.error_own, e.swap.error_swapped
    ratio = swapped / own if own > 0 else (math.inf if swapped > 0 else 1.0)
    return Measurement(
        max(below(ratio, SWAP_ERROR), below(e.swap.change, SWAP_CHANGE)),
        f"With the latents of another sample a reconstruction changes by "
        f"{share(e.swap.change)} of the mean rain, and its error grows {ratio:.3g} times "
        f"({own:.3g} to {swapped:.3g} {e.units}).",
        "Lower beta of the loss 'kl' and give it free_bits; give the generator more latents "
        '(`generator={"preset": "base"}`); train longer (fit: max_minutes). Item of losses: '
        '`{"name": "kl", "beta": 0.5, "free_bits": 10}`.',
        "Give the KL term less weight, and the decoder more latent variables and fewer paths that "
        "bypass them; train longer.",
    )


@detector(
    "Draws from the conditions alone (prior) differ in kind from draws around an observed storm "
    "(posterior)."
)
def prior_posterior_gap(e: Evidence) -> Measurement | str:
    """Compare wet fraction, mass and 99th percentile of prior and posterior draws."""
    if not all(math.isfinite(d.mass_error) for d in (e.prior, e.posterior)):
        return FEW
    wet = abs(e.prior.wet_fraction - e.posterior.wet_fraction)
    mass = factor(1 + e.prior.mass_bias, 1 + e.posterior.mass_bias)
    p99 = factor(e.prior.p99_ratio, e.posterior.p99_ratio)
    error = math.hypot(e.prior.mass_error, e.posterior.mass_error)
    factors = max(shrink_by_error(mass, error), shrink_by_error(p99, error))
    sure_wet = wet - SURE * math.hypot(e.prior.wet_error, e.posterior.wet_error)
    return Measurement(
        max(above(sure_wet, GAP_WET), above(factors, GAP_FACTOR)),
        f"They differ by {100 * wet:.1f} points in wet fraction, by a factor {mass:.2f} in total "
        f"rain and {p99:.2f} in the 99th percentile.",
        "Raise beta of the loss 'kl' to 1 (less pulls the posterior away from the prior), lower "
        "free_bits, add the loss 'crps' for the prior, or train longer (fit: max_minutes). Items "
        'of losses: `{"name": "kl", "beta": 1.0}`, `{"name": "crps"}`.',
        "Give the KL term its full weight (less pulls the posterior away from the prior), score "
        "draws from the prior in training too, or train longer.",
    )


@detector("Members of a sample are nearly copies of each other.")
def identical_members(e: Evidence) -> Measurement | str:
    """Measure the differences between prior members.

    Members that differ, but less than their mean is wrong, are underdispersed and not identical.
    """
    alike = e.prior.diversity < ALIKE
    return Measurement(
        max(below(e.prior.diversity, DIVERSITY), alike * below(e.prior.spread_skill, IDENTICAL)),
        f"Diversity of prior members {e.prior.diversity:.3f} (0 is copies); their spread is "
        f"{e.prior.spread_skill:.2f} times the error of their mean.",
        "Lower weight of pixel-wise losses (crps, intensity_weighted_mae) against 'laplace' and "
        "'kl'; give 'kl' free_bits; raise temperature when sampling (`temperature=1.2`). Items of "
        'losses: `{"name": "crps", "weight": 0.5}`, `{"name": "kl", "free_bits": 10}`.',
        "Give pixel-wise errors less weight, which reward one best guess, or score several draws "
        "at once (CRPS, energy score); check that every member has its own noise.",
    )


@detector("Prior members agree more with each other than with the observation: overconfident.")
def underdispersion(e: Evidence) -> Measurement | str:
    """Compare the spread of prior members with the error of their mean: too small."""
    return _dispersion(
        e,
        max(below(ratio, UNDER) for ratio in _spread_ratios(e)) * _consistent(e, -1),
        "Train longer (fit: max_minutes); lower weight of the loss 'crps', which squeezes the "
        'spread (item of losses: `{"name": "crps", "weight": 0.5}`), or start it later (fit: '
        "stages); raise temperature when sampling (`temperature=1.1`).",
        "Draw with more noise, of an amplitude tuned on validation samples; give pixel-wise "
        "errors less weight in training.",
    )


@detector("Prior members differ more from each other than from the observation: underconfident.")
def overdispersion(e: Evidence) -> Measurement | str:
    """Compare the spread of prior members with the error of their mean: too large."""
    return _dispersion(
        e,
        max(above(ratio, OVER) for ratio in _spread_ratios(e)) * _consistent(e, 1),
        "Add the loss 'crps' or raise its weight (item of losses: "
        '`{"name": "crps", "weight": 4.0}`); train longer (fit: max_minutes); lower temperature '
        "when sampling (`temperature=0.9`).",
        "Draw with less noise, of an amplitude tuned on validation samples; use more of the "
        "conditions; score several draws in training (CRPS).",
    )


def _spread_ratios(e: Evidence) -> tuple[float, float]:
    """Return spread over error, of rain and of its logarithm, shrunk towards 1 by their errors."""
    d = e.prior
    return shrink_by_error(d.spread_skill, d.spread_error), shrink_by_error(
        d.spread_log, d.spread_log_error
    )


def _consistent(e: Evidence, side: int) -> bool:
    """Return True if neither rain nor its logarithm errs to the other side (1 above, -1 below).

    Too much spread in heavy rain and too little in light rain is neither of the two findings.
    """
    ratios = _spread_ratios(e)
    return not any(side * (ratio - 1) < 0 for ratio in ratios)


def _dispersion(e: Evidence, level: int, remedy: str, elsewhere: str) -> Measurement | str:
    """Put the spread of prior members into words."""
    d = e.prior
    if not math.isfinite(d.spread_skill * d.spread_error):
        return FEW
    low, high = (d.spread_skill * math.exp(sign * SURE * d.spread_error) for sign in (-1, 1))
    words = (
        f"Their spread is {d.spread_skill:.2f} times the error of their mean ({low:.2f} to "
        f"{high:.2f} with {e.samples} samples), and {d.spread_log:.2f} times where light rain "
        "counts like heavy (logarithms); 1 is right."
    )
    return Measurement(level, words, remedy, elsewhere)


@detector("The spread of prior members fits neither samples with little rain nor those with much.")
def spread_by_rain(e: Evidence) -> Measurement | str:
    """Compare spread over error in the third of the samples with least rain and that with most."""
    thirds = e.prior.spread_thirds
    if len(thirds) < 3 or not all(math.isfinite(ratio * error) for ratio, error in thirds):
        return "no coarse rain, or too few samples with rain for thirds of them"
    (calm, calm_error), (middle, _), (heavy, heavy_error) = thirds
    ratio = calm / heavy if heavy > 0 else math.inf
    apart = factor(shrink_by_error(ratio, math.hypot(calm_error, heavy_error)), 1.0)
    words = (
        "Their spread over the error of their mean, in thirds of the samples from little to much "
        f"coarse rain: {calm:.2f}, {middle:.2f}, {heavy:.2f} (standard errors {share(calm_error)} "
        f"and {share(heavy_error)} of the first and the last); 1 is right in each."
    )
    if ratio > 1:
        meaning = "Prior members differ too much with little rain, compared with much rain."
        remedy = (
            "Score light rain like heavy rain (item of losses: "
            '`{"name": "crps", "space": "normalised"}`); show heavy samples more often '
            '(`fit={"heavy_share": 0.3, "max_minutes": 30}`).'
        )
    else:
        meaning = "Prior members differ too much with much rain, compared with little rain."
        remedy = (
            "Score heavy rain by itself too (item of losses, in place of 'crps': "
            '`{"name": "twcrps"}`); show heavy samples more often '
            '(`fit={"heavy_share": 0.3, "max_minutes": 30}`).'
        )
    remedy += (
        " One temperature cannot correct both. Scores of each third: "
        '`groupby="coarse_rain"` of evaluate.'
    )
    elsewhere = (
        "Let the amplitude of the noise depend on the conditions; give the third that is wrong "
        "more weight in training."
    )
    return Measurement(above(apart, APART), words, remedy, elsewhere, meaning)


@detector("Members are too smooth, like the average of many possible fields.")
def mean_collapse(e: Evidence) -> Measurement | str:
    """Compare the variance and the texture of members with the observation."""
    if not all(math.isfinite(d.variance_error) for d in (e.prior, e.posterior)):
        return FEW
    variance = max(
        below(shrink_by_error(d.variance_ratio, d.variance_error), VARIANCE)
        for d in (e.prior, e.posterior)
    )
    # A faithful reconstruction may miss the finest noise; draws from the prior must have it.
    texture = shrink_by_error(e.prior.texture_ratio, e.prior.texture_error)
    level = max(variance, below(texture, TEXTURE))
    return Measurement(
        level,
        f"Of the observed variance within a map, prior members have {share(e.prior.variance_ratio)}"
        f", posterior ones {share(e.posterior.variance_ratio)}; of the contrast between "
        f"neighbouring pixels {share(e.prior.texture_ratio)} and "
        f"{share(e.posterior.texture_ratio)}.",
        "A pixel-wise error dominates: lower the weight of intensity_weighted_mae (or its w_min "
        "against tail_boost), lower beta of the loss 'kl', or train longer (fit: max_minutes). "
        "Never drop parts of the conditions in training. Items of losses: "
        '`{"name": "intensity_weighted_mae", "weight": 0.1}`, `{"name": "kl", "beta": 0.5}`.',
        "A pixel-wise error rewards the average: give it less weight, or score several draws at "
        "once (CRPS, energy score). Never drop parts of the conditions in training.",
    )


@detector("Too much of the area has a little rain.")
def drizzle(e: Evidence) -> Measurement | str:
    """Compare wet fractions, and the share of the amount in pixels that count as dry."""

    def level_of(statistics: EnsembleStatistics) -> int:
        # A single sample has no error, and is judged as it is: 100 % wet maps are wet for sure.
        error = statistics.wet_error if math.isfinite(statistics.wet_error) else 0.0
        excess = statistics.wet_fraction - SURE * error - e.wet_fraction
        light = above(statistics.light_mass - e.light_mass, LIGHT)
        if excess <= NEGLIGIBLE:
            return light
        ratio = factor(e.wet_fraction + excess, e.wet_fraction)
        return max(above(excess, DRIZZLE), above(ratio, DRIZZLE_RATIO), light)

    floor = above(_floor(e), FLOOR) > 0
    wet, light = (
        f"observed {share(observed)}, prior {share(prior)}, posterior {share(posterior)}"
        for observed, prior, posterior in (
            (e.wet_fraction, e.prior.wet_fraction, e.posterior.wet_fraction),
            (e.light_mass, e.prior.light_mass, e.posterior.light_mass),
        )
    )
    return Measurement(
        max(level_of(e.prior), level_of(e.posterior)),
        f"Wet pixels before post-processing: {wet}. Rain that falls in pixels below "
        f"{e.wet_threshold:g} {e.units}: {light}." + (f" {_floor_words(e)}" if floor else ""),
        AFTER_NORMALISATION
        if floor
        else "Raise value of the post-processor 'threshold', "
        f'`postprocess=[{{"name": "threshold", "value": {_quantity(2 * e.wet_threshold, e)}}}]`; '
        "train longer (fit: max_minutes), because dry pixels are learned late.",
        AFTER_NORMALISATION
        if floor
        else "Set rain below a threshold to zero, in physical units, and check the mass; model "
        "occurrence and amount separately; train longer.",
    )


def _quantity(value: float, e: Evidence, digits: int = 3) -> str:
    """Write an amount as the parameter of a component: with units, or bare if they do not parse.

    In the units of the data: a depth per step does not convert to a rate, and 0.2 mm h-1 is above
    the wet threshold of hours, but far above that of days.
    """
    text = f"{value:.{digits}g} {e.units}"
    try:
        read = parse_quantity(text, units=e.units, what="threshold")
    except ValueError:
        read = math.nan
    return f'"{text}"' if math.isclose(read, value, rel_tol=0.01) else f"{value:.{digits}g}"


@detector("The total amount of rain is wrong.")
def mass_drift(e: Evidence) -> Measurement | str:
    """Compare total amounts, and those in wet pixels, of members and observation alike."""
    if not all(math.isfinite(d.mass_error) for d in (e.prior, e.posterior)):
        return FEW
    wet = [_bias_of_wet_pixels(d, e) for d in (e.prior, e.posterior)]
    drawn = (e.prior.mass_bias, e.posterior.mass_bias)
    level = max(
        above(max(abs(shrink_by_error(1 + bias, d.mass_error) - 1) for bias in biases), limits)
        for d, biases, limits in (
            (e.prior, (drawn[0], wet[0]), MASS_PRIOR),
            (e.posterior, (drawn[1], wet[1]), MASS_POSTERIOR),
        )
    )
    return Measurement(
        level,
        f"It differs from the observed by {signed(drawn[0])} (prior) and {signed(drawn[1])} "
        f"(posterior); in pixels with at least {e.wet_threshold:g} {e.units}, by {signed(wet[0])} "
        f"and {signed(wet[1])}.",
        "Add the loss 'mass' or raise its weight (posterior); for the prior add the loss 'crps', "
        "or train longer (fit: max_minutes); if the condition is rain on a coarser grid, keep its "
        "amounts (generator: constrain); check that the training data have the same climate. "
        'Items of losses: `{"name": "mass", "weight": 0.2}`, `{"name": "crps"}`.',
        "Give the total amount a term in the loss, or scale members to known amounts (a coarse "
        "condition, a climatology); check that the training data have the same climate.",
    )


def _bias_of_wet_pixels(drawn: EnsembleStatistics, e: Evidence) -> float:
    """Return the relative bias of the amount in wet pixels; of all pixels if none was observed."""
    observed = 1 - e.light_mass
    if observed <= 0:
        return drawn.mass_bias
    return (1 + drawn.mass_bias) * (1 - drawn.light_mass) / observed - 1


@detector("The heaviest rain is too weak, or cut off at a cap.")
def truncated_tail(e: Evidence) -> Measurement | str:
    """Compare the largest values with the observation, and look for a cap."""
    # All samples together give the size of the deficit, ranks within samples its significance:
    # one heavy storm among the observations is no deficit.
    weak = max(
        below(d.p999_ratio, TAIL) * (d.tail_rank - 0.5 > SURE * d.tail_rank_error)
        for d in (e.prior, e.posterior)
    )
    ceiling = max(e.prior.ceiling_share, e.posterior.ceiling_share)
    cap = above(ceiling - e.ceiling_share, CEILING)
    weakest = min((e.prior, "prior"), (e.posterior, "posterior"), key=lambda d: d[0].p999_ratio)
    rank, kind = weakest[0].tail_rank, weakest[1]
    words = (
        f"The 99.9th percentile of prior members is {e.prior.p999_ratio:.2f} times the observed, "
        f"that of posterior ones {e.posterior.p999_ratio:.2f} times; a {kind} "
        f"member is weaker there than what was observed with it in {share(rank)} of "
        "the cases (50 % is right)."
    )
    if cap:
        words = (
            f"{share(ceiling)} of the largest values are the same, as if a cap cut them off "
            f"({share(e.ceiling_share)} in the observation). {words}"
        )
    capped = max((e.prior, e.posterior), key=lambda d: d.ceiling_share)
    strong = cap > 0 and capped.p999_ratio > STRONG
    meaning, remedy, elsewhere = _tail_advice(weak=weak > 0, cap=cap > 0, strong=strong)
    return Measurement(max(weak, cap), words.replace("nan", "unknown"), remedy, elsewhere, meaning)


def _tail_advice(*, weak: bool, cap: bool, strong: bool) -> tuple[str, str, str]:
    """Return meaning and remedies of a weak tail, of one that ends at a cap, or of both.

    A cap can lie far beyond the observed amounts: then a higher one makes strong rain stronger.
    """
    meaning, remedies, elsewhere = "", [], []
    if strong:
        meaning = "The heaviest rain is cut off at a cap."
        remedies = [
            "The cap lies beyond the observed amounts: the rain below it is too strong. Train "
            "longer (fit: max_minutes), with the loss 'crps' (item of losses: "
            '`{"name": "crps", "weight": 4.0}`); lower temperature when sampling '
            "(`temperature=0.9`). The post-processor 'clip' hides it, and a higher maximum adds "
            "to it."
        ]
        elsewhere = ["Look for a bound of the network's output that draws run into; train longer."]
    elif cap:
        meaning = "The heaviest rain is cut off at a cap."
        remedies = [
            "Raise maximum of the post-processor 'clip', or leave it out (`postprocess=None`)."
        ]
        elsewhere = ["Look for a cap in the processing."]
    if weak:
        meaning = "The heaviest rain is too weak" + (", and cut off at a cap." if cap else ".")
        remedies.append(
            'Show heavy samples more often (`fit={"heavy_share": 0.3, "max_minutes": 30}`); lower '
            "the weight of pixel-wise losses; add the loss 'quantile' (item of losses: "
            '`{"name": "quantile"}`); train longer (fit: max_minutes).'
        )
        elsewhere.append(
            "Show heavy samples more often in training; give pixel-wise errors less weight and "
            "the tail more; check whether a transformation of the amounts flattens it."
        )
    return meaning, " ".join(remedies), " ".join(elsewhere)


@detector("The observed rain is cut off at a cap of its product, so scores of the tail mislead.")
def capped_data(e: Evidence) -> Measurement | str:
    """Look for an amount that occurs implausibly often among the heaviest ones."""
    if e.spike is None:
        return Measurement(0, "No amount stands out among the heaviest ones.", "", "")
    amount = f"{e.spike.amount:.4g} {e.units}"
    given = _quantity(e.spike.amount, e, digits=6)
    return Measurement(
        int(e.spike.share > SPIKE),
        f"{share(e.spike.share)} of the heaviest amounts (one in a hundred wet ones) are "
        f"{amount}, {e.spike.times:.0f} times as many as of the amounts next to it. What fell "
        "there was as much or more.",
        "Score the tail with and without the amounts at the cap (argument of evaluate: "
        f'`metrics=["p999_ratio", {{"name": "p999_ratio", "cap": {given}}}]`; twcrps has the same '
        "parameter). Data without the cap would be better.",
        "Leave out amounts at and above the cap, of members and observation alike, where the tail "
        "is scored.",
    )


@detector("Members have a pattern that repeats with the grid.")
def checkerboard(e: Evidence) -> Measurement | str:
    """Compare the strongest pattern of a fixed period with that of the observation."""
    draws = max((e.prior, e.posterior), key=lambda d: d.artefacts.pattern)
    trace = draws.artefacts
    if trace.period == 0:
        return "too few samples with rain for a repeating pattern, or maps too small for one"
    return Measurement(
        above(trace.pattern, PATTERN),
        f"The strongest repeats every {trace.period} pixels; its contrast is "
        f"{share(trace.pattern)} of the usual one between neighbouring pixels, beyond what the "
        "observation has.",
        "If the period is that of the coarse cells (coarsen), leave generator: constrain out or "
        "train longer (fit: max_minutes); if it is generator: patch, lower that; if it is another "
        "power of two, train longer.",
        "If the period is that of coarse cells, blocks are corrected one by one: smooth across "
        "their edges. If it is a power of two, upsample by interpolation instead of transposed "
        "convolutions, or train longer.",
    )


@detector("Rain at the border of the domain differs from that inside.")
def border(e: Evidence) -> Measurement | str:
    """Compare amounts and roughness at the border with those inside."""
    found = [
        (above(abs(math.log(value)) - SURE * error, BORDER), abs(math.log(value)), kind, trace)
        for kind, trace in (("prior", e.prior.artefacts), ("posterior", e.posterior.artefacts))
        for value, error in (
            (trace.border_amount, trace.border_amount_error),
            (trace.border_texture, trace.border_texture_error),
        )
        if math.isfinite(value * error)
    ]
    if not found:
        return "too few samples with rain at the border, or a mask along it"
    level, _, kind, t = max(found, key=lambda one: one[:2])
    other, o = ("posterior", e.posterior) if kind == "prior" else ("prior", e.prior)
    return Measurement(
        level,
        f"Against the pixels further inside, {kind} members have {t.border_amount:.2f} times the "
        f"observed amount there, and {t.border_texture:.2f} times its roughness (standard errors "
        f"{share(t.border_amount_error)} and {share(t.border_texture_error)}); {other} ones "
        f"{o.artefacts.border_amount:.2f} and {o.artefacts.border_texture:.2f} times.".replace(
            "nan", "unknown"
        ),
        'Train on larger crops (fit: crop, `fit={"crop": 144, "max_minutes": 30}`), so that '
        "fewer pixels are near an edge, or on whole fields; draw a domain that is wider than "
        "needed, and cut the border off.",
        "Draw a domain that is wider than needed, and cut the border off; pad with the surrounding "
        "values instead of zeros.",
    )


@detector("Members of consecutive times have nothing in common: sequences flicker.")
def flicker(e: Evidence) -> Measurement | str:
    """Compare the correlation of fine structure in time with the observed one."""
    t = e.time
    if t is None:
        return "no samples follow each other in time, or they have no fine structure"
    step = duration(t.step)
    words = (
        f"Fine structure of samples {step} apart correlates by {t.generated:.2f} in members that "
        f"are drawn for each time by itself, by {t.observed:.2f} as observed ({t.pairs} pairs)."
    )
    remedy = "For sequences, and for sums over times, draw with temporal='coherent'"
    if e.timescales.get("source") == "these data" and e.timescales.get("seconds"):
        given = ", ".join(f"{seconds:.0f}" for seconds in e.timescales["seconds"])
        remedy += f", timescales=[{given}] (measured here: the model has none)"
    level = int(t.observed >= MEMORY and t.generated < FLICKER * t.observed)
    return Measurement(
        level,
        words,
        f"{remedy}. Scores of single times are not affected.",
        "Draw members with noise that is correlated in time. Scores of single times are not "
        "affected.",
    )


#: Findings that would make the others meaningless come first.
DETECTORS: tuple[Detector, ...] = (
    units,
    leakage,
    posterior_collapse,
    ignored_latent,
    mean_collapse,
    identical_members,
    underdispersion,
    overdispersion,
    spread_by_rain,
    prior_posterior_gap,
    memorisation,
    drizzle,
    mass_drift,
    truncated_tail,
    capped_data,
    checkerboard,
    border,
    flicker,
)


def detect(evidence: Evidence) -> list[Finding]:
    """Run all detectors."""
    return [detector(evidence) for detector in DETECTORS]
