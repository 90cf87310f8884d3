"""Pictures of amounts: quantile against quantile, and which amounts the errors come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xcvae.metrics.distribution import quantile
from xcvae.metrics.metric import ratio
from xcvae.metrics.pairs import Array
from xcvae.verify.plots import style as canvas
from xcvae.verify.plots.summaries import OWN, FigureData, portray
from xcvae.verify.plots.text import labelled
from xcvae.verify.resampling import Finish, interval, memory_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_intensity", "draw_quantiles", "intensity", "quantiles"]

NAMED = (0.9, 0.99, 0.999, 0.9999)
"""Quantiles with a name in the picture."""
ENOUGH = 10
"""Samples that have reached an amount for it to be compared."""
BEHIND = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0}
"""Of names that stand on curves."""
WORST = -1.0
"""Skill below this is marked at the edge."""


def quantiles(
    ds: xr.Dataset, ensemble: xr.Dataset, *, baselines: Sequence[object] | None = None
) -> Figure:
    """Draw quantiles of all generated amounts against those of all observed ones.

    Parameters
    ----------
    ds : xarray.Dataset
        The observation, dims (sample, y, x), and the coarse rain condition for baselines.
    ensemble : xarray.Dataset
        Dims (realization, sample, y, x).
    baselines : list, optional
        As for `xcvae.verify.plots.accessor.spectra`.

    Returns
    -------
    matplotlib.figure.Figure
        Up to the amount that ten samples have reached: beyond, single storms decide. The last
        point says how rare that is at a pixel. The band is a 95 % interval by block bootstrap over
        samples.

    Raises
    ------
    UnitsError
        The values are not physical rain.
    MismatchError
        Samples or grids differ.
    """
    return draw_quantiles(portray(ds, ensemble, pictures=["quantiles"], baselines=baselines))


def draw_quantiles(portrait: FigureData) -> Figure:
    """Draw what `quantiles` does, from sums that are there already."""
    scale = portrait.thresholds[0] * portrait.scale
    rows = portrait.by_piece("quantiles")
    levels = _levels(rows["observed"])
    truth = scale * quantile(rows["observed"].sum(axis=0), levels)
    ends = _band(rows, levels, portrait.group)
    made, low, high = truth * ends.T
    with canvas.new_figure(*canvas.COLUMN) as figure:
        axes = figure.subplots()
        for number, name in enumerate(portrait.rivals):
            other = scale * quantile(portrait.total("quantiles", name)["generated"], levels)
            axes.plot(truth, other, **canvas.baseline_line(number), label=name)
        canvas.band(axes, truth, low, high)
        axes.plot(truth, made, color=canvas.MEMBER, lw=2.0, label=OWN)
        _frame(axes, truth, made, portrait.units)
        _name_levels(axes, levels, truth, made)
        return figure


def _levels(rows: Array) -> Array:
    """Quantile levels from where it rains to what enough samples have reached."""
    share = rows.sum(axis=0) / rows.sum()
    above = np.cumsum(share[::-1])[::-1]  # share of pixels in this bin or beyond
    reached = (np.cumsum(rows[:, ::-1], axis=1)[:, ::-1] > 0).sum(axis=0) >= ENOUGH
    rarest = float(above[1:][reached[1:]].min(initial=0.9 * (1.0 - share[0])))
    rare = np.geomspace(0.9 * (1.0 - share[0]), rarest, 60)
    named = np.array([1.0 - q for q in NAMED if rarest <= 1.0 - q <= rare[0]])
    return 1.0 - np.unique(np.concatenate([rare, named]))[::-1]


def _band(rows: dict[str, Array], levels: Array, group: tuple[int, int, int]) -> Array:
    """Ratio of quantiles with its interval, (level, 3)."""
    # A quantile moves in jumps where amounts are rounded; the total does not.
    amounts = quantile(np.eye(rows["observed"].shape[1]), 0.5)

    def mass(total: Callable[[Array], Array]) -> Array:
        return ratio(*(total(rows[side]) @ amounts for side in ("generated", "observed")))

    def of(q: float) -> Finish:
        return lambda total: ratio(
            *(quantile(total(rows[side]), q) for side in ("generated", "observed"))
        )

    memory = memory_of(mass)
    return np.array([interval(of(q), group, (0.0, np.inf), memory=memory) for q in levels])


def _frame(axes: Axes, truth: Array, made: Array, units: str) -> None:
    both = np.concatenate([truth[truth > 0], made[made > 0]])
    low, high = (0.8 * both.min(), 2.2 * both.max()) if both.size else (0.1, 1.0)
    axes.plot([low, high], [low, high], color=canvas.OBSERVED, lw=1.2, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    canvas.plain_log(axes.xaxis, axes.yaxis)
    axes.set_xlabel(labelled("observed", units))
    axes.set_ylabel(labelled("generated", units))
    axes.grid(which="major")
    axes.legend(loc="upper left")
    axes.set_title("Quantiles of all pixels, dry ones too")


def _name_levels(axes: Axes, levels: Array, truth: Array, made: Array) -> None:
    labels = {
        int(np.argmin(np.abs(levels - q))): f"P{100 * q:g}"
        for q in NAMED
        if np.abs(levels - q).min() < 1e-9
    }
    last = len(levels) - 1
    rare = float(f"{1.0 / (1.0 - levels[last]):.2g}")
    labels[last] = f"once in {rare:,.0f} samples"
    for k, text in labels.items():
        if truth[k] > 0 and made[k] > 0:
            axes.plot(truth[k], made[k], "o", color=canvas.MEMBER, ms=5.5, zorder=4)
            axes.annotate(
                text, (truth[k], made[k]), xytext=(9, -7) if k < last else (-9, 9), fontsize=9.5,
                textcoords="offset points", va="top" if k < last else "bottom",
                ha="left" if k < last else "right", bbox=BEHIND,
            )  # fmt: skip


def intensity(
    ds: xr.Dataset, ensemble: xr.Dataset, *, baselines: Sequence[object] | None = None
) -> Figure:
    """Draw which amounts the CRPS comes from.

    Parameters
    ----------
    ds : xarray.Dataset
        The observation, dims (sample, y, x), and the coarse rain condition for baselines.
    ensemble : xarray.Dataset
        Dims (realization, sample, y, x).
    baselines : list, optional
        As for `xcvae.verify.plots.accessor.spectra`.

    Returns
    -------
    matplotlib.figure.Figure
        The part of the CRPS (fair) from thresholds in each class of amounts; the parts add up to
        it. Below, the skill over the first baseline. Bars are 95 % intervals by block bootstrap.

    Raises
    ------
    UnitsError
        The values are not physical rain.
    MismatchError
        Samples or grids differ.
    """
    return draw_intensity(portray(ds, ensemble, pictures=["intensity"], baselines=baselines))


def draw_intensity(portrait: FigureData) -> Figure:
    """Draw what `intensity` does, from sums that are there already."""
    scale, units = portrait.scale, portrait.units
    edges = [scale * edge for edge in portrait.edges]
    reached = max(int(np.count_nonzero(portrait.total("intensity", source)["crps"])) for source in
                  portrait.found)  # fmt: skip
    place = np.arange(max(reached, 1))
    names = [OWN, *portrait.rivals]
    width = 0.8 / len(names)
    with canvas.new_figure(*canvas.COLUMN) as figure:
        rows = 2 if portrait.rivals else 1
        grid = figure.subplots(rows, 1, sharex=True, squeeze=False,
                               height_ratios=(2, 1)[:rows])[:, 0]  # fmt: skip
        for number, name in enumerate(names):
            ends = scale * np.array([_part(portrait, name, k) for k in place.tolist()])
            total = scale * _crps(portrait, name)
            grid[0].bar(
                place + (number - 0.5 * (len(names) - 1)) * width, ends[:, 0], 0.92 * width,
                yerr=canvas.whiskers(ends),
                color=canvas.baseline_colour(number - 1) if number else canvas.MEMBER,
                error_kw={"lw": 1.1, "ecolor": "#333333"},
                label=canvas.wrapped(f"{name}: {total:.3g} in all", 3.0, size=10),
            )  # fmt: skip
        grid[0].set_ylabel(labelled("part of the CRPS", units))
        grid[0].set_ylim(top=(1.15 + 0.08 * len(names)) * grid[0].get_ylim()[1])
        grid[0].legend(loc="upper right")
        grid[0].set_title("Which amounts the error comes from")
        if portrait.rivals:
            _skill(grid[1], portrait, portrait.rivals[0], place)
        texts = [f"{low:g}\u2013{high:g}" for low, high in pairwise(edges)]
        texts.append(f"> {edges[-1]:g}")
        grid[-1].set_xticks(place, texts[: place.size], fontsize=9.5)
        grid[-1].set_xlabel(labelled("amounts", units))
        return figure


def _part(portrait: FigureData, source: str, k: int) -> tuple[float, float, float]:
    rows = portrait.by_piece("intensity", source)
    return interval(
        lambda total: ratio(total(rows["crps"][:, k]), total(rows["pixels"])),
        portrait.group,
        (0.0, np.inf),
    )


def _crps(portrait: FigureData, source: str) -> float:
    total = portrait.total("intensity", source)
    return float(total["crps"].sum() / max(float(total["pixels"]), 1.0))


def _skill(axes: Axes, portrait: FigureData, rival: str, place: Array) -> None:
    own, other = (portrait.by_piece("intensity", name)["crps"] for name in (OWN, rival))

    def of(k: int) -> Finish:
        return lambda total: 1.0 - ratio(total(own[:, k]), total(other[:, k]))

    limits = (-np.inf, 1.0)
    ends = np.array([interval(of(k), portrait.group, limits) for k in place.tolist()])
    axes.axhline(0, color=canvas.OBSERVED, lw=1.0)
    axes.errorbar(
        place, ends[:, 0], canvas.whiskers(ends), fmt="o", color=canvas.MEMBER, ms=6, capsize=3
    )
    axes.set_ylabel(canvas.wrapped(f"skill over {rival}", 1.3))
    low = max(WORST, float(np.nanmin(ends, initial=-0.1)) - 0.05)
    beyond = place[ends[:, 0] < low]
    if beyond.size:
        axes.plot(beyond, np.full(beyond.size, low), "v", color=canvas.MEMBER, ms=8, clip_on=False)
    axes.set_ylim(low, 1.0)
    axes.grid(axis="y")
