"""Curves over all samples: power spectra and the rank histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xcvae.metrics.calibration import RankDeviation
from xcvae.verify.plots import style as canvas
from xcvae.verify.plots.member_maps import map_axes
from xcvae.verify.plots.summaries import FigureData, portray
from xcvae.verify.plots.text import pretty

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_rank_histogram", "draw_spectra", "flat_band", "rank_histogram", "spectra"]


@dataclass(frozen=True)
class _Spectra:
    """Mean power by wavenumber: of the observation, of every member, of baselines by name."""

    wavelength: np.ndarray
    units: str
    observed: np.ndarray
    members: np.ndarray
    baselines: dict[str, np.ndarray]


def spectra(
    ds: xr.Dataset,
    ensemble: xr.Dataset,
    *,
    baselines: Sequence[object] | None = None,
) -> Figure:
    """Draw radially averaged power spectra, averaged over samples.

    Parameters
    ----------
    ds : xarray.Dataset
        The observation, dims (sample, y, x), and the coarse rain condition for baselines.
    ensemble : xarray.Dataset
        Dims (realization, sample, y, x).
    baselines : list, optional
        Names, dicts or instances, such as ``["bilinear"]``, which is the default where there is a
        coarse rain condition. An empty list for none.

    Returns
    -------
    matplotlib.figure.Figure
        Power over wavelength, in km where the grid spacing is known, else in pixels; below it,
        members over observation in decibels.

    Raises
    ------
    UnitsError
        The values are not physical rain.
    MismatchError, MissingVariableError
        Samples or grids differ, or there is no observation.
    ComponentError
        A baseline is unknown.
    """
    return draw_spectra(portray(ds, ensemble, pictures=["spectra"], baselines=baselines))


def draw_spectra(portrait: FigureData) -> Figure:
    """Draw what `spectra` does, from sums that are there already."""
    found = _measure(portrait)
    with canvas.new_figure(*canvas.COLUMN) as figure:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
        _power(top, found, pretty(portrait.units))
        _decibels(below, found)
        return figure


def _measure(portrait: FigureData) -> _Spectra:
    observed = portrait.task.pair.observed
    share = portrait.scale**2 / observed.shape[0]
    sums = portrait.total("spectra")
    spacing, units = _spacing(observed)
    pixels = min(observed.shape[1:]) / np.arange(1, sums["observed"].size + 1)
    rivals = {
        name: share * portrait.total("spectra", name)["members"].mean(axis=0)
        for name in portrait.rivals
    }
    own, seen = share * sums["members"], share * sums["observed"]
    return _Spectra(pixels * spacing, units, seen, own, rivals)


def _spacing(observed: xr.DataArray) -> tuple[float, str]:
    """Width of a pixel and its units; degrees are turned into km at the domain's latitude."""
    y, x = map_axes(observed)
    if y.units == "°N" and x.units == "°E":
        shrink = np.cos(np.deg2rad(float(y.values.mean())))
        return 111.2 * float(np.sqrt(y.spacing * x.spacing * shrink)), "km"
    if y.units == x.units and y.units != "pixel":
        return float(np.sqrt(y.spacing * x.spacing)), y.units
    return 1.0, "pixels"


def _power(axes: Axes, found: _Spectra, units: str) -> None:
    x = found.wavelength
    low, high = found.members.min(axis=0), found.members.max(axis=0)
    for number, (name, power) in enumerate(found.baselines.items()):
        axes.plot(
            x, power, **canvas.baseline_line(number), label=canvas.wrapped(name, 3.0, size=10)
        )
    canvas.band(axes, x, low, high)
    count = len(found.members)
    label = f"members (mean and range of {count})" if count > 1 else "member"
    axes.plot(x, found.members.mean(axis=0), color=canvas.MEMBER, lw=2.0, label=label, zorder=3)
    axes.plot(x, found.observed, color=canvas.OBSERVED, lw=2.0, label="observed", zorder=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    wet = found.observed[found.observed > 0]
    if wet.size:
        # A smooth baseline falls by ten orders of magnitude: it may leave through the floor.
        axes.set_ylim(0.03 * wet.min(), 3.0 * max(float(wet.max()), float(high.max())))
    axes.set_ylabel(f"power [({units})²]")
    axes.legend(loc="lower left")
    axes.grid(which="major")
    axes.set_title("Power spectra: is there as much structure at every scale?")


def _decibels(axes: Axes, found: _Spectra) -> None:
    floor = 1e-12 * max(float(found.observed.max()), 1e-30)
    ratio = np.maximum(found.members.mean(axis=0), floor) / np.maximum(found.observed, floor)
    decibels = 10 * np.log10(ratio)
    axes.axhspan(-3, 3, color=canvas.SHADE, lw=0)
    axes.axhline(0, color=canvas.OBSERVED, lw=1.2)
    axes.plot(found.wavelength, decibels, color=canvas.MEMBER, lw=2.0)
    limit = float(np.clip(1.2 * np.abs(decibels).max(), 6.0, 30.0))
    axes.set_ylim(-limit, limit)
    axes.set_xlim(found.wavelength.max(), found.wavelength.min())
    canvas.plain_log(axes.xaxis)
    axes.set_ylabel("members /\nobserved [dB]")
    axes.set_xlabel(f"wavelength [{found.units}]")
    axes.grid(which="major")
    mean = float(np.abs(decibels).mean())
    axes.text(
        0.99, 0.05, f"mean distance {mean:.1f} dB; grey: ±3 dB", transform=axes.transAxes,
        ha="right", va="bottom", fontsize=10,
    )  # fmt: skip


def rank_histogram(ds: xr.Dataset, ensemble: xr.Dataset) -> Figure:
    """Draw how often the observation had each rank among the members of its pixel.

    A calibrated ensemble gives a flat histogram. Pixels where the observation equals members, as
    on dry ones, count in equal parts for all ranks they cover.

    Parameters
    ----------
    ds : xarray.Dataset
        The observation, dims (sample, y, x).
    ensemble : xarray.Dataset
        Dims (realization, sample, y, x).

    Returns
    -------
    matplotlib.figure.Figure
        With the flat line and, where there are two samples or more, the band that a calibrated
        ensemble would stay in for 95 % of the ranks. Samples, not pixels, are taken to be
        independent: neighbouring pixels are not.

    Raises
    ------
    UnitsError
        The values are not physical rain.
    MismatchError
        Samples or grids differ.
    """
    return draw_rank_histogram(portray(ds, ensemble, pictures=["ranks"]))


def draw_rank_histogram(portrait: FigureData) -> Figure:
    """Draw what `rank_histogram` does, from sums that are there already."""
    counts = portrait.by_piece("ranks")["ranks"]
    deviation = float(RankDeviation().finish({"ranks": counts.sum(axis=0)}))
    with canvas.new_figure(*canvas.COLUMN) as figure:
        _ranks(figure.subplots(), counts, deviation)
        return figure


def flat_band(counts: np.ndarray) -> np.ndarray:
    """Half width, by rank, of what sampling does to a flat histogram, at 95 %.

    Parameters
    ----------
    counts
        Pixels by (sample, rank). The scatter between samples tells how much they say.
    """
    samples, ranks = counts.shape
    # Deviations of each sample's counts from flat, relative to all counts (a ratio estimator).
    deviations = counts - counts.sum(axis=1, keepdims=True) / ranks
    centred = deviations - deviations.mean(axis=0)
    variance = (centred**2).sum(axis=0) * samples / max(samples - 1, 1)
    return np.asarray(1.96 * np.sqrt(variance) / max(float(counts.sum()), 1.0))


def _ranks(axes: Axes, counts: np.ndarray, deviation: float) -> None:
    ranks = counts.shape[1]
    flat = 1.0 / ranks
    frequency = counts.sum(axis=0) / max(counts.sum(), 1.0)
    place = np.arange(1, ranks + 1)
    axes.bar(place, frequency, width=0.9, color=canvas.MEMBER, alpha=0.85, zorder=2)
    axes.axhline(flat, color=canvas.OBSERVED, lw=1.5, zorder=4, label="calibrated")
    top = max(float(frequency.max()), flat)
    if len(counts) > 1:
        half = flat_band(counts)
        edges = np.concatenate([[0.5], place + 0.5])
        # Drawn over the bars: a bar that ends inside the band is in order.
        axes.stairs(
            flat + half, edges, baseline=np.maximum(flat - half, 0), fill=True, zorder=3,
            color="#555555", alpha=0.28, label="95 % sampling band",
        )  # fmt: skip
        top = max(top, float((flat + half).max()))
    axes.set_ylim(0, 1.35 * top)
    axes.set_xlim(0.4, ranks + 0.6)
    step = max(1, round((ranks - 1) / 8))
    axes.set_xticks([1, *range(1 + step, ranks - step // 2, step), ranks])
    axes.set_xlabel("rank of the observation (1: below all members)")
    axes.set_ylabel("share of pixels")
    axes.legend(loc="upper right", ncols=2)
    axes.set_title(f"Rank histogram: deviation from flat {deviation:.3f}")
