"""Curves over all samples: power spectra, rank histogram and reliability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xcvae.fields.axes import KM_PER_DEGREE
from xcvae.metrics.calibration import RankDeviation
from xcvae.metrics.metric import ratio
from xcvae.metrics.sample import Array
from xcvae.verify.plots import style
from xcvae.verify.plots.member_maps import map_axes
from xcvae.verify.plots.summaries import FigureData
from xcvae.verify.plots.text import amount, pretty
from xcvae.verify.resampling import dependence_factor, fit_autocorrelation, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BETTER = "#eef3ee"


def draw_reliability(data: FigureData) -> Figure:
    """Draw the reliability diagram; see `xcvae.verify.plots.Plots.reliability`."""
    with style.new_figure(8.6, 6.0) as figure:
        grid = figure.subplots(2, 2, sharex=True, height_ratios=(3.6, 1), squeeze=False)
        for number, threshold in enumerate(data.thresholds):
            rows = {
                name: values[:, number] for name, values in data.by_piece("reliability").items()
            }
            _diagram(grid[0][number], rows, data.group)
            _sharpness(grid[1][number], rows["pixels"].sum(axis=0))
            limit = amount(data.match.pair.observed, threshold)
            grid[0][number].set_title(f"Rain ≥ {limit}", pad=22)
        for axes, text in zip(grid[:, 0], ("observed frequency", "share of pixels"), strict=True):
            style.label(axes, y=text)
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
        return figure


def brier_parts(pixels: Array, forecast: Array, came: Array) -> tuple[float, float, float]:
    """Split the Brier score of forecasts in bins into reliability, resolution and uncertainty.

    See https://doi.org/10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2.

    Parameters
    ----------
    pixels, forecast, came
        By bin: number of pixels, sum of probabilities, number of events.

    Examples
    --------
    >>> brier_parts(np.array([2.0, 2.0]), np.array([0.0, 2.0]), np.array([0.0, 2.0]))
    (0.0, 0.25, 0.25)
    """
    total = pixels.sum()
    some = pixels > 0
    climate = came.sum() / total
    often = came[some] / pixels[some]
    apart = (forecast[some] / pixels[some] - often) ** 2
    reliable = float(pixels[some] @ apart / total)
    resolved = float(pixels[some] @ (often - climate) ** 2 / total)
    return reliable, resolved, float(climate * (1 - climate))


def _diagram(axes: Axes, rows: dict[str, Array], group: tuple[int, int, int]) -> None:
    pixels, forecast, came = (rows[name].sum(axis=0) for name in ("pixels", "forecast", "came"))
    climate = float(came.sum() / pixels.sum())
    used = np.flatnonzero(pixels > 0)
    ends = np.array([_frequency(rows, k, group) for k in used.tolist()])
    x, y = forecast[used] / pixels[used], ends[:, 0]
    # Between these lines a forecast adds to the Brier skill.
    for ends_at, edge in (((0.0, climate), 0.0), ((climate, 1.0), 1.0)):
        half = [0.5 * (end + climate) for end in ends_at]
        axes.fill_between(ends_at, half, edge, color=BETTER, lw=0,
                          label="better than climate" if edge else None)  # fmt: skip
    axes.plot([0, 1], [0, 1], color=style.OBSERVED, lw=1.2, zorder=2)
    axes.axhline(climate, color=style.FAINT, lw=1.0, ls=":", zorder=1, label="climate")
    axes.errorbar(
        x, y, style.whiskers(ends), fmt="o-", color=style.MEMBER, lw=1.8, ms=5, elinewidth=1.3,
        capsize=2.5, zorder=3, clip_on=False, label="members",
    )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    reliable, resolved, uncertain = brier_parts(pixels, forecast, came)
    text = f"reliability {reliable:.2g}, resolution {resolved:.2g}, uncertainty {uncertain:.2g}"
    axes.text(
        0, 1.025, text, transform=axes.transAxes, va="bottom", fontsize=9.5, color=style.FAINT
    )


def _frequency(
    rows: dict[str, Array], k: int, group: tuple[int, int, int]
) -> tuple[float, float, float]:
    """Return the frequency of the event in one bin, with its interval."""
    return interval(
        lambda total: ratio(total(rows["came"][:, k]), total(rows["pixels"][:, k])),
        group,
        (0.0, 1.0),
    )


def _sharpness(axes: Axes, pixels: Array) -> None:
    """Draw the share of pixels by forecast probability."""
    centres = np.linspace(0, 1, pixels.size)
    axes.bar(
        centres, pixels / pixels.sum(), width=0.75 / pixels.size, color=style.MEMBER, alpha=0.85
    )
    axes.set_yscale("log")
    rarest = float(pixels[pixels > 0].min() / pixels.sum())
    axes.set_ylim(0.8 * 10.0 ** np.floor(np.log10(rarest)), 1)
    style.label(axes, x="forecast probability")


@dataclass(frozen=True)
class _Spectra:
    """Mean power by wavenumber.

    Attributes
    ----------
    wavelength, units
        Of each wavenumber.
    observed, members
        Power of the observation, and of every member (realization, wavenumber).
    baselines
        Power by name.
    """

    wavelength: np.ndarray
    units: str
    observed: np.ndarray
    members: np.ndarray
    baselines: dict[str, np.ndarray]


def draw_spectra(data: FigureData) -> Figure:
    """Draw power spectra; see `xcvae.verify.plots.Plots.spectra`."""
    found = _measure(data)
    with style.new_figure(*style.COLUMN) as figure:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
        if not (found.observed.any() or found.members.any()):
            one_row = found.observed.size == 0
            style.note(top, "a single row of pixels has no spectrum" if one_row else "no rain")
            return figure
        _power(top, found, pretty(data.units))
        _decibels(below, found)
        return figure


def _measure(data: FigureData) -> _Spectra:
    observed = data.match.pair.observed
    share = data.scale**2 / observed.shape[0]
    sums = data.total("spectra")
    spacing, units = _spacing(observed)
    pixels = min(observed.shape[1:]) / np.arange(1, sums["observed"].size + 1)
    baselines = {
        name: share * data.total("spectra", name)["members"].mean(axis=0) for name in data.baselines
    }
    own, seen = share * sums["members"], share * sums["observed"]
    return _Spectra(pixels * spacing, units, seen, own, baselines)


def _spacing(observed: xr.DataArray) -> tuple[float, str]:
    """Return the width of a pixel and its units; degrees become km at the domain's latitude."""
    y, x = map_axes(observed)
    if y.units == "°N" and x.units == "°E":
        shrink = np.cos(np.deg2rad(float(y.values.mean())))
        return KM_PER_DEGREE * float(np.sqrt(y.spacing * x.spacing * shrink)), "km"
    if y.units == x.units and y.units != "pixel":
        return float(np.sqrt(y.spacing * x.spacing)), y.units
    return 1.0, "pixels"


def _power(axes: Axes, found: _Spectra, units: str) -> None:
    x = found.wavelength
    low, high = found.members.min(axis=0), found.members.max(axis=0)
    for number, (name, power) in enumerate(found.baselines.items()):
        axes.plot(x, power, **style.baseline_line(number), label=style.wrapped(name, 3.0, size=10))
    style.band(axes, x, low, high)
    count = len(found.members)
    label = f"members (mean and range of {count})" if count > 1 else "member"
    axes.plot(x, found.members.mean(axis=0), color=style.MEMBER, lw=2.0, label=label, zorder=3)
    axes.plot(x, found.observed, color=style.OBSERVED, lw=2.0, label="observed", zorder=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    wet = found.observed[found.observed > 0]
    if wet.size:
        # The power of a smooth baseline falls by ten orders of magnitude: cut it off.
        axes.set_ylim(0.03 * wet.min(), 3.0 * max(float(wet.max()), float(high.max())))
    title = "Power spectra: is there as much structure at every scale?"
    style.label(axes, title=title, y=f"power [({units})²]", grid="both", legend="lower left")


def _decibels(axes: Axes, found: _Spectra) -> None:
    floor = 1e-12 * max(float(found.observed.max()), 1e-30)
    ratio = np.maximum(found.members.mean(axis=0), floor) / np.maximum(found.observed, floor)
    decibels = 10 * np.log10(ratio)
    axes.axhspan(-3, 3, color=style.SHADE, lw=0)
    axes.axhline(0, color=style.OBSERVED, lw=1.2)
    axes.plot(found.wavelength, decibels, color=style.MEMBER, lw=2.0)
    limit = float(np.clip(1.2 * np.abs(decibels).max(), 6.0, 30.0))
    axes.set_ylim(-limit, limit)
    axes.set_xlim(found.wavelength.max(), found.wavelength.min())
    style.plain_log(axes.xaxis)
    style.label(axes, x=f"wavelength [{found.units}]", y="members /\nobserved [dB]", grid="both")
    mean = float(np.abs(decibels).mean())
    axes.text(
        0.99, 0.05, f"mean distance {mean:.1f} dB; grey: ±3 dB", transform=axes.transAxes,
        ha="right", va="bottom", fontsize=10,
    )  # fmt: skip


def draw_rank_histogram(data: FigureData) -> Figure:
    """Draw the rank histogram; see `xcvae.verify.plots.Plots.rank_histogram`."""
    counts = data.by_piece("ranks")["ranks"]
    deviation = float(RankDeviation().finish({"ranks": counts.sum(axis=0)}))
    with style.new_figure(*style.COLUMN) as figure:
        _ranks(figure.subplots(), counts, deviation)
        return figure


def flat_band(counts: np.ndarray) -> np.ndarray:
    """Return by rank the half width of the 95 % sampling band of a flat histogram.

    Parameters
    ----------
    counts
        Pixels by (sample, rank), in the order of time. The band follows from the scatter between
        samples, and from how alike neighbouring ones are.
    """
    samples, ranks = counts.shape
    # Deviations of each sample's counts from flat, relative to all counts (a ratio estimator).
    deviations = counts - counts.sum(axis=1, keepdims=True) / ranks
    centred = deviations - deviations.mean(axis=0)
    variance = (centred**2).sum(axis=0) * samples / max(samples - 1, 1)
    alike = [
        dependence_factor(fit_autocorrelation(series), np.arange(samples)) for series in centred.T
    ]
    return np.asarray(1.96 * np.array(alike) * np.sqrt(variance) / max(float(counts.sum()), 1.0))


def _ranks(axes: Axes, counts: np.ndarray, deviation: float) -> None:
    ranks = counts.shape[1]
    flat = 1.0 / ranks
    frequency = counts.sum(axis=0) / max(counts.sum(), 1.0)
    rank = np.arange(1, ranks + 1)
    axes.bar(rank, frequency, width=0.9, color=style.MEMBER, alpha=0.85, zorder=2)
    axes.axhline(flat, color=style.OBSERVED, lw=1.5, zorder=4, label="calibrated")
    top = max(float(frequency.max()), flat)
    if len(counts) > 1:
        half = flat_band(counts)
        edges = np.concatenate([[0.5], rank + 0.5])
        # Above the bars: a bar that ends inside the band does not differ from flat.
        axes.stairs(
            flat + half, edges, baseline=np.maximum(flat - half, 0), fill=True, zorder=3,
            color="#555555", alpha=0.28, label="95 % sampling band",
        )  # fmt: skip
        top = max(top, float((flat + half).max()))
    axes.set_ylim(0, 1.35 * top)
    axes.set_xlim(0.4, ranks + 0.6)
    step = max(1, round((ranks - 1) / 8))
    axes.set_xticks([1, *range(1 + step, ranks - step // 2, step), ranks])
    style.label(
        axes,
        title=f"Rank histogram: deviation from flat {deviation:.3f}",
        x="rank of the observation (1: below all members)",
        y="share of pixels",
        legend="upper right",
        columns=2,
    )
