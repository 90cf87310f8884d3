"""Calibration of a trained model on held-back samples: temperature and dial.

The temperature makes the spread of prior draws match their error, and another one of the finest
level that of draws whose coarser levels follow the storm. The dial maps a spread to a position
between posterior and prior such that diversity is proportional to spread. Levels carry very
different amounts of information, so a dial that releases them at a constant rate would have no
effect over most of its range.

Both are shrunk by their own uncertainty, the temperature towards 1 and the dial towards that of the
model that the training started from: three held-back frames gave a temperature of 1.23, which was
noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xcvae.fields.batches import Batches, ScaledView
from xcvae.generator.dial import equal_diversity_steps
from xcvae.generator.model import FINEST, Model
from xcvae.generator.training.validation import pick_samples

#: Positions between posterior and prior, and the samples and members drawn at each; a model of more
#: networks draws one member of each of them, here and below.
POSITIONS, SAMPLES, MEMBERS = 21, 6, 4
#: Samples at every scale of a model of any factor, and their pixels at most.
SAMPLES_OF_SCALE, PIXELS_OF_SCALE = 24, 400_000
#: Range of the temperature: a model that needs more has a fault that no factor corrects.
TEMPERATURES = (0.8, 1.25)
#: Pixels, limits of samples, and members for the temperature. Rain has few heavy pixels: with 37
#: maps of 128 x 128 the ratio of one model varied between .89 and .94 from choice to choice.
TEMPERATURE_PIXELS, TEMPERATURE_SAMPLES, TEMPERATURE_MEMBERS = 2_400_000, (4, 256), 6
#: Power of the temperature that spread grows with: of that of all levels in prior draws, and of
#: that of the finest in draws whose other levels follow the storm. Measured on two radars; most of
#: an error of the first is made up for by the second measurement of prior draws.
POWER, POWER_OF_FINEST = 0.9, 0.75
#: Share of the logarithm of the temperature that is taken where a model is for other data than its
#: own: American radar asked for 1.24, German radar for 1 or less at the same weights.
TRANSFERRED = 0.25
#: Samples that are drawn at a time.
BATCH = 32
#: Standard deviation, from model to model, of the log of the temperature, and of the shares of a
#: dial around those of its start.
TEMPERATURE_PRIOR, DIAL_PRIOR = 0.1, 0.05
#: Contiguous blocks of samples whose differences give the error of a measurement: neighbours in
#: time resemble each other.
ERROR_BLOCKS = 8


def calibrate(
    model: Model, batches: Batches, start: Sequence[Sequence[float]] | None = None
) -> None:
    """Measure temperature and dial of a model on held-back samples, and set them in the model.

    Parameters
    ----------
    model
        Model without a calibration.
    batches
        Held-back samples.
    start
        Dial of the model that the training started from; None without one.
    """
    found = measure_temperatures(model, batches)
    if model.spec.random_scale:
        found = {name: round(value**TRANSFERRED, 4) for name, value in found.items()}
    model.training |= found
    model.networks.set_temperature(*found.values())
    if model.spec.random_scale:
        model.training["temperature_by_scale"] = slopes_of_temperature(model, batches)
        model.training["dial_by_factor"] = dials_by_factor(model, batches)
    model.training["dial"] = calibrate_spread(model, batches, start)


def measure_temperatures(model: Model, batches: Batches) -> dict[str, float]:
    """Find the factors of the latents' sigma for a spread-skill ratio of 1.

    First one of all levels, for prior draws. Then one of the finest level, for draws whose other
    levels follow the storm: given these, members that differ too much have too much fine
    structure, which prior draws do not tell from too little of the coarse one. Last the first one
    again.

    Parameters
    ----------
    model
        Model without a calibration. Its factors change.
    batches
        Held-back samples.

    Returns
    -------
    dict
        ``temperature`` of all levels, and `FINEST`, the ratio of that of the finest to it; both
        shrunk towards 1 by their standard errors.
    """
    found = {"temperature": 1.0, FINEST: 1.0}
    levels = len(model.architecture.latents)
    model.networks.set_temperature(1.0)
    temperature, error = missing_temperature(_spread_and_errors(model, batches), POWER)
    if not np.isfinite(error):
        return found
    if levels > 1:
        model.networks.set_temperature(temperature)
        sums = _spread_and_errors(model, batches, spread=1 / levels)
        found[FINEST] = shrunk_temperature(*missing_temperature(sums, POWER_OF_FINEST))
        model.networks.set_temperature(temperature, found[FINEST])
        rest, error = missing_temperature(_spread_and_errors(model, batches), POWER)
        temperature = float(np.clip(temperature * rest, *TEMPERATURES))
    found["temperature"] = shrunk_temperature(temperature, error)
    return found


def missing_temperature(sums: NDArray[np.float64], power: float) -> tuple[float, float]:
    """Return the factor of the temperature for a spread-skill ratio of 1.

    Parameters
    ----------
    sums
        Of variance, times (M + 1) / M for M members, and squared error of blocks of samples,
        (block, 2).
    power
        Of the temperature that the ratio grows with.

    Returns
    -------
    factor, error
        The factor, and the standard error of its logarithm; infinite for three blocks or fewer,
        and for members without spread.

    Examples
    --------
    >>> sums = np.array([[7.0, 8.0], [7.0, 9.0], [7.0, 8.0], [7.0, 9.0]])  # spread-skill .907
    >>> factor, error = missing_temperature(sums, 0.9)
    >>> round(factor, 3), round(error, 3)
    (1.114, 0.033)
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # members without rain have no spread
        left_out = [np.log(_ratio(np.delete(sums, n, axis=0))) for n in range(len(sums))]
        factor = float(np.exp(-np.log(_ratio(sums)) / power))
    error = jackknife_error(left_out) / power
    if not np.isfinite(factor) or not np.isfinite(error):
        return 1.0, float("inf")
    return float(np.clip(factor, *TEMPERATURES)), error


def jackknife_error(left_out: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the standard error of a number from its values with one block left out each.

    Few blocks do not show their own variance: the error is that of Student's distribution,
    infinite for three blocks or fewer.

    Examples
    --------
    >>> round(jackknife_error([0.0, 0.1, 0.0, 0.1, 0.0, 0.1]), 3)
    0.144
    >>> jackknife_error([0.0, 0.1, 0.2])
    inf
    """
    count = len(left_out)
    if count <= 3 or not np.isfinite(left_out).all():
        return float("inf")
    return float(np.sqrt((count - 1) * np.var(left_out) * (count - 1) / (count - 3)))


def shrunk_temperature(measured: float, error: float) -> float:
    """Shrink a measured temperature towards 1, the more the larger its error.

    Examples
    --------
    >>> shrunk_temperature(1.2, 0.0), shrunk_temperature(1.2, 0.1), shrunk_temperature(1.2, np.inf)
    (1.2, 1.0954, 1.0)
    """
    weight = TEMPERATURE_PRIOR**2 / (TEMPERATURE_PRIOR**2 + error**2)
    return round(float(measured**weight), 4)


def slopes_of_temperature(model: Model, batches: Batches) -> dict[str, list[float]]:
    """Measure how the temperature depends on factor and pixel size, in the numbers of the network.

    A plane is fitted to the logarithms of what is missing for a spread-skill ratio of 1 at each of
    the scales of the validation.

    Parameters
    ----------
    model
        Model of any factor, with the temperature for all scales together.
    batches
        Held-back samples.

    Returns
    -------
    dict
        ``at``: numbers of factor and pixel where the temperature is that of all scales;
        ``slope``: change of its logarithm by one of each number.
    """
    scales = model.spec.scales
    assert scales is not None
    views = [view for view in batches.views() if isinstance(view, ScaledView)]
    numbers = np.array([scales.numbers(view.factor, view.multiple) for view in views])
    ratios = np.array([spread_skill_ratio(model, view) for view in views])
    usable = np.isfinite(ratios) & (ratios > 0)
    if usable.sum() <= 3:  # a plane through so few is noise
        return {"at": [0.0, 0.0], "slope": [0.0, 0.0]}
    centre = numbers[usable].mean(axis=0)
    missing = -np.log(ratios[usable])
    slope = np.linalg.lstsq(numbers[usable] - centre, missing - missing.mean(), rcond=None)[0]
    return {"at": centre.round(4).tolist(), "slope": slope.round(4).tolist()}


def spread_skill_ratio(
    model: Model, batches: Batches | ScaledView, spread: float | None = None
) -> float:
    """Compute the spread-skill ratio of draws for held-back samples.

    Of draws from the prior, or from the posterior at a spread.

    As `xcvae.metrics.spread_skill`: pooled variance over pooled squared error, times (M + 1) / M
    for the sampling error of the mean of M members.
    """
    return _ratio(_spread_and_errors(model, batches, spread))


def _spread_and_errors(
    model: Model, batches: Batches | ScaledView, spread: float | None = None
) -> NDArray[np.float64]:
    """Return the sums of `_sums_of` of blocks of held-back samples, (block, 2).

    Of draws from the prior, or from the posterior at a spread.
    """
    views = batches.views()
    pixels = TEMPERATURE_PIXELS // len(views)
    sums = [_sums_of(model, view, spread, pixels) for view in views]
    blocks = min(ERROR_BLOCKS, *(len(one) for one in sums))
    parts = [[part.sum(axis=0) for part in np.array_split(one, blocks)] for one in sums]
    return np.asarray(np.sum(parts, axis=0))


def _sums_of(
    model: Model, batches: Batches | ScaledView, spread: float | None, pixels: int
) -> NDArray[np.float64]:
    """Return the sums of variance, times (M + 1) / M, and squared error of samples, (sample, 2)."""
    picks = pick_samples(batches, model.record, pixels, TEMPERATURE_SAMPLES)
    count = max(TEMPERATURE_MEMBERS, len(model.networks))
    parts = []
    for start in range(0, len(picks), BATCH):
        some = picks[start : start + BATCH]
        batch = batches.load(some)
        members = model.draw(
            batch,
            seed=0,
            labels=[f"dial {pick}" for pick in some],
            realizations=range(count),
            mode="prior" if spread is None else "posterior",
            spread=1.0 if spread is None else spread,
            threads=torch.get_num_threads(),
        )
        parts.append(_spread_and_error(members, model.observed(batch)))
    return np.concatenate(parts) * [(count + 1) / count, 1.0]


def _ratio(sums: NDArray[np.float64]) -> float:
    variance, error = np.sum(sums, axis=0)
    return float(np.sqrt(variance / error)) if error > 0 else float("nan")


def calibrate_spread(
    model: Model, batches: Batches, start: Sequence[Sequence[float]] | None = None
) -> list[list[float]]:
    """Measure the dial of a model: pairs (spread, position), both rising from 0 to 1.

    Parameters
    ----------
    model
        Model without a calibrated dial: its spread is the position.
    batches
        Held-back samples.
    start
        Dial to shrink the measured one to; None for none.
    """
    positions = np.linspace(0, 1, POSITIONS)
    measured = [_diversities(model, view, positions.tolist()) for view in batches.views()]
    diversity = np.mean(measured, axis=0)
    if start is None:
        return equal_diversity_steps(positions.tolist(), diversity.mean(axis=1).tolist())
    return equal_diversity_steps(positions.tolist(), shrunk_shares(positions, diversity, start))


def dials_by_factor(model: Model, batches: Batches) -> list[Any]:
    """Measure the dial of a model of any factor at each of the factors of the validation.

    Within small cells members differ by the finest level alone, within large ones by coarser
    levels, too: positions of equal diversity differ by a factor of two.

    Parameters
    ----------
    model
        Model without a calibrated dial.
    batches
        Held-back samples.

    Returns
    -------
    list
        Pairs of a factor and its dial, by rising factor.
    """
    # Close together where the finest level is released.
    positions = np.square(np.linspace(0, 1, POSITIONS))
    shares: dict[int, list[NDArray[np.float64]]] = {}
    for view in batches.views():
        if isinstance(view, ScaledView):
            pixels = min(PIXELS_OF_SCALE, SAMPLES_OF_SCALE * view.pixels)
            measured = _diversities(model, view, positions.tolist(), pixels)
            shares.setdefault(view.factor, []).append(_shares(measured))
    return [
        [factor, equal_diversity_steps(positions.tolist(), np.mean(found, axis=0).tolist())]
        for factor, found in sorted(shares.items())
        if np.isfinite(found).all()
    ]


def _diversities(
    model: Model,
    batches: Batches | ScaledView,
    positions: Sequence[float],
    pixels: int = 0,
) -> NDArray[np.float64]:
    """Measure the diversity of members at positions between both modes, (position, sample)."""
    picks = pick_samples(batches, model.record, pixels, (SAMPLES, SAMPLES))
    batch, labels = batches.load(picks), [f"dial {pick}" for pick in picks]
    draws = (
        model.draw(
            batch,
            seed=0,
            labels=labels,
            realizations=range(max(MEMBERS, len(model.networks))),
            mode="posterior",
            spread=position,
            threads=torch.get_num_threads(),
        )
        for position in positions
    )
    return np.array([_diversity(members) for members in draws])


def shrunk_shares(
    positions: NDArray[np.float64],
    diversity: NDArray[np.float64],
    start: Sequence[Sequence[float]],
) -> list[float]:
    """Shrink the shares of the diversity at positions towards the dial of a start.

    Parameters
    ----------
    positions
        From 0 to 1.
    diversity
        Measured there for each sample, (position, sample).
    start
        Pairs (spread, position).

    Examples
    --------
    >>> places, dial = np.array([0.0, 0.5, 1.0]), [[0.0, 0.0], [0.3, 0.5], [1.0, 1.0]]
    >>> shrunk_shares(places, np.array([[0.0], [0.2], [0.4]]), dial)  # of one sample
    [0.0, 0.3, 1.0]
    >>> shrunk_shares(places, np.array([[0.0] * 6, [0.2] * 6, [0.4] * 6]), dial)  # all alike
    [0.0, 0.5, 1.0]
    """
    known = np.interp(positions, *np.asarray(start, float).T[::-1])
    whole, samples = _shares(diversity), diversity.shape[1]
    if not np.isfinite(whole).all():  # dry samples
        return [float(share) for share in known]
    left_out = [_shares(np.delete(diversity, n, axis=1)) for n in range(samples) if samples > 1]
    errors = [jackknife_error([shares[n] for shares in left_out]) for n in range(len(positions))]
    weight = DIAL_PRIOR**2 / (DIAL_PRIOR**2 + np.square(errors))
    return [float(share) for share in known + weight * (whole - known)]


def _shares(diversity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the diversity of all samples as shares of its rise from the first to the last."""
    rising = np.maximum.accumulate(diversity.mean(axis=1))
    whole = rising[-1] - rising[0]
    return np.asarray((rising - rising[0]) / whole if whole > 0 else np.full(len(rising), np.nan))


def _spread_and_error(
    members: NDArray[np.float32], observed: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Sum variance and squared error over valid pixels: (sample, 2).

    Members have the dims (realization, sample, y, x).
    """
    variance = members.var(axis=0, ddof=1, dtype=np.float64)
    error = (members.mean(axis=0, dtype=np.float64) - observed) ** 2
    valid = np.isfinite(variance) & np.isfinite(error)
    sums = [np.where(valid, each, 0.0).sum(axis=(1, 2)) for each in (variance, error)]
    return np.stack(sums, axis=1)


def _diversity(fields: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute 1 - mean cosine similarity of members per sample, of (realization, sample, y, x)."""
    flat = np.nan_to_num(fields).reshape(*fields.shape[:2], -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=-1, keepdims=True)
    unit = flat / np.where(norms > 0, norms, 1.0)
    count = len(flat)
    cosine = np.einsum("msk,nsk->smn", unit, unit)
    pairs = cosine.sum(axis=(1, 2)) - np.einsum("smm->s", cosine)
    return np.asarray(1 - pairs / (count * (count - 1)))
