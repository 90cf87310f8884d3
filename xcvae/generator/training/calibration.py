"""Calibration of a trained model on held-back samples: temperature and dial.

The temperature makes the spread of prior draws match their error. The dial maps a spread to a
position between posterior and prior such that diversity is proportional to spread. Levels carry
very different amounts of information, so a dial that releases them at a constant rate would have
no effect over most of its range.

Both are shrunk by their own uncertainty, the temperature towards 1 and the dial towards that of the
model that the training started from: three held-back frames gave a temperature of 1.23, which was
noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xcvae.fields.batches import Batches, ScaledView
from xcvae.generator.model import Model
from xcvae.generator.training.validation import pick_samples

#: Positions between posterior and prior, and the samples and members drawn at each.
POSITIONS, SAMPLES, MEMBERS = 21, 6, 4
#: Smallest step of the dial, as a share of its range: smaller ones are sampling noise.
RESOLUTION = 1e-3
#: Range of the temperature: a model that needs more has a fault that no factor corrects.
TEMPERATURES = (0.8, 1.25)
#: Pixels, limits of samples, and members for the temperature. Rain has few heavy pixels: with 37
#: maps of 128 x 128 the ratio of one model varied between .89 and .94 from choice to choice.
TEMPERATURE_PIXELS, TEMPERATURE_SAMPLES, TEMPERATURE_MEMBERS = 2_400_000, (4, 256), 6
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
    measured, error = measure_temperature(model, batches)
    model.training["temperature"] = shrunk_temperature(measured, error)
    if model.spec.random_scale:
        model.training["temperature"] = round(model.training["temperature"] ** TRANSFERRED, 4)
    model.networks.set_sigma_factor(model.training["temperature"])
    if model.spec.random_scale:
        model.training["temperature_by_scale"] = slopes_of_temperature(model, batches)
    model.training["dial"] = calibrate_spread(model, batches, start)


def measure_temperature(model: Model, batches: Batches) -> tuple[float, float]:
    """Find the factor of the latents' sigma for a spread-skill ratio of 1 of prior draws.

    Parameters
    ----------
    model
        Model without a calibrated temperature.
    batches
        Held-back samples.

    Returns
    -------
    temperature, error
        The factor, and the standard error of its logarithm; infinite for three samples or fewer.
    """
    sums = _spread_and_errors(model, batches, 1.0)
    first = _ratio(sums)
    if not np.isfinite(first) or first <= 0:
        return 1.0, np.inf
    # Spread grows a little less than the temperature; a second measurement gives the slope.
    guess = float(np.clip(1 / first, *TEMPERATURES))
    second = _ratio(_spread_and_errors(model, batches, guess))
    with np.errstate(divide="ignore"):  # members without rain have no spread
        left_out = [np.log(_ratio(np.delete(sums, n, axis=0))) for n in range(len(sums))]
    return match_temperature((1.0, first), (guess, second)), jackknife_error(left_out)


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
    ratios = np.array([spread_skill_ratio(model, view, 1.0) for view in views])
    usable = np.isfinite(ratios) & (ratios > 0)
    if usable.sum() <= 3:  # a plane through so few is noise
        return {"at": [0.0, 0.0], "slope": [0.0, 0.0]}
    centre = numbers[usable].mean(axis=0)
    missing = -np.log(ratios[usable])
    slope = np.linalg.lstsq(numbers[usable] - centre, missing - missing.mean(), rcond=None)[0]
    return {"at": centre.round(4).tolist(), "slope": slope.round(4).tolist()}


def match_temperature(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return where the line through two pairs (temperature, ratio) has a ratio of 1.

    Examples
    --------
    >>> match_temperature((1.0, 0.9), (1.1, 0.98))
    1.125
    >>> match_temperature((1.0, 0.5), (1.25, 0.6))
    1.25
    >>> match_temperature((1.0, 1.0), (1.0, 1.0))
    1.0
    """
    slope = (second[1] - first[1]) / (second[0] - first[0]) if second[0] != first[0] else 1.0
    if not slope > 0:  # NaN, or the temperature has no effect
        return 1.0
    return round(float(np.clip(first[0] + (1 - first[1]) / slope, *TEMPERATURES)), 4)


def spread_skill_ratio(model: Model, batches: Batches | ScaledView, temperature: float) -> float:
    """Compute the spread-skill ratio of prior draws for held-back samples.

    As `xcvae.metrics.spread_skill`: pooled variance over pooled squared error, times (M + 1) / M
    for the sampling error of the mean of M members.
    """
    return _ratio(_spread_and_errors(model, batches, temperature))


def _spread_and_errors(
    model: Model, batches: Batches | ScaledView, temperature: float
) -> NDArray[np.float64]:
    """Return the sums of variance and squared error of blocks of held-back samples, (block, 2)."""
    views = batches.views()
    pixels = TEMPERATURE_PIXELS // len(views)
    sums = [_sums_of(model, view, temperature, pixels) for view in views]
    blocks = min(ERROR_BLOCKS, *(len(one) for one in sums))
    parts = [[part.sum(axis=0) for part in np.array_split(one, blocks)] for one in sums]
    return np.asarray(np.sum(parts, axis=0))


def _sums_of(
    model: Model, batches: Batches | ScaledView, temperature: float, pixels: int
) -> NDArray[np.float64]:
    """Return the sums of variance and squared error of each sample, (sample, 2)."""
    picks = pick_samples(batches, model.record, pixels, TEMPERATURE_SAMPLES)
    parts = []
    for start in range(0, len(picks), BATCH):
        some = picks[start : start + BATCH]
        batch = batches.load(some)
        members = model.draw(
            batch,
            seed=0,
            labels=[f"dial {pick}" for pick in some],
            realizations=range(TEMPERATURE_MEMBERS),
            mode="prior",
            temperature=temperature,
        )
        parts.append(_spread_and_error(members, model.observed(batch)))
    return np.concatenate(parts)


def _ratio(sums: NDArray[np.float64]) -> float:
    variance, error = np.sum(sums, axis=0)
    count = TEMPERATURE_MEMBERS
    return float(np.sqrt((count + 1) / count * variance / error)) if error > 0 else float("nan")


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


def _diversities(
    model: Model, batches: Batches | ScaledView, positions: Sequence[float]
) -> NDArray[np.float64]:
    """Measure the diversity of members at positions between both modes, (position, sample)."""
    picks = pick_samples(batches, model.record, 0, (SAMPLES, SAMPLES))
    batch, labels = batches.load(picks), [f"dial {pick}" for pick in picks]
    draws = (
        model.draw(
            batch,
            seed=0,
            labels=labels,
            realizations=range(MEMBERS),
            mode="posterior",
            spread=position,
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


def equal_diversity_steps(
    positions: Sequence[float], diversity: Sequence[float]
) -> list[list[float]]:
    """Return pairs (spread, position) that make diversity proportional to spread.

    Examples
    --------
    >>> equal_diversity_steps([0, 0.25, 0.5, 0.75, 1], [0.0, 0.1, 0.3, 0.4, 0.4])
    [[0.0, 0.0], [0.25, 0.25], [0.75, 0.5], [1.0, 1.0]]
    """
    rising = np.maximum.accumulate(np.asarray(diversity, float))
    whole = rising[-1] - rising[0]
    points = [[0.0, 0.0]]
    if whole > 0:
        shares = (rising - rising[0]) / whole
        for share, position in zip(shares[1:-1].tolist(), positions[1:-1], strict=True):
            if points[-1][0] + RESOLUTION < share < 1 - RESOLUTION:
                points.append([round(share, 6), float(position)])
    return [*points, [1.0, 1.0]]


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
