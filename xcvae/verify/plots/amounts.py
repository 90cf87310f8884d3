"""Figures by amount: quantile against quantile, and the CRPS by classes of amounts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from xcvae.metrics.distribution import amounts_in, quantile
from xcvae.metrics.metric import ratio
from xcvae.metrics.sample import Array
from xcvae.verify.plots import style
from xcvae.verify.plots.summaries import OWN, FigureData
from xcvae.verify.plots.text import labelled
from xcvae.verify.resampling import Finish, interval, intervals, score_autocorrelation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NAMED = (0.9, 0.99, 0.999, 0.9999)
"""Quantiles that are labelled in the figure."""
ENOUGH = 10
"""Number of samples that have to reach an amount for it to be compared."""
BEHIND = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0}
"""Box behind labels on curves."""
WORST = -1.0
"""Lowest skill on the axis; less is marked at its end."""


def draw_quantiles(data: FigureData) -> Figure:
    """Draw quantile against quantile; see `xcvae.verify.plots.Plots.quantiles`."""
    scale = data.thresholds[0] * data.scale
    rows = data.by_piece("quantiles")
    levels = _levels(rows["observed"])
    truth = scale * quantile(rows["observed"].sum(axis=0), levels)
    ends = _band(rows, levels, data.group)
    made, low, high = truth * ends.T
    with style.new_figure(*style.COLUMN) as figure:
        axes = figure.subplots()
        for number, name in enumerate(data.baselines):
            other = scale * quantile(data.total("quantiles", name)["generated"], levels)
            axes.plot(truth, other, **style.baseline_line(number), label=name)
        style.band(axes, truth, low, high)
        axes.plot(truth, made, color=style.MEMBER, lw=2.0, label=OWN)
        _frame(axes, truth, made, data.units)
        _name_levels(axes, levels, truth, made)
        if not (truth > 0).any():
            style.note(axes, "no rain observed")
        return figure


def _levels(rows: Array) -> Array:
    """Return quantile levels from the wet share to the amount that enough samples reached."""
    share = rows.sum(axis=0) / rows.sum()
    if share[0] == 1.0:
        return np.array(NAMED)
    above = np.cumsum(share[::-1])[::-1]  # share of pixels in this bin or beyond
    reached = (np.cumsum(rows[:, ::-1], axis=1)[:, ::-1] > 0).sum(axis=0) >= ENOUGH
    rarest = float(above[1:][reached[1:]].min(initial=0.9 * (1.0 - share[0])))
    rare = np.geomspace(0.9 * (1.0 - share[0]), rarest, 60)
    named = np.array([1.0 - q for q in NAMED if rarest <= 1.0 - q <= rare[0]])
    return 1.0 - np.unique(np.concatenate([rare, named]))[::-1]


def _band(rows: dict[str, Array], levels: Array, group: tuple[int, int, int]) -> Array:
    """Return the ratio of quantiles with its interval, (level, 3)."""
    # The quantile of rounded amounts jumps; the autocorrelation is taken from the total.
    amounts = amounts_in(np.arange(rows["observed"].shape[1]))

    def mass(total: Callable[[Array], Array]) -> Array:
        return ratio(*(total(rows[side]) @ amounts for side in ("generated", "observed")))

    def ratios(total: Callable[[Array], Array]) -> Array:
        return ratio(*(quantile(total(rows[side]), levels) for side in ("generated", "observed")))

    return intervals(ratios, group, (0.0, np.inf), score_autocorrelation(mass))


def _frame(axes: Axes, truth: Array, made: Array, units: str) -> None:
    both = np.concatenate([truth[truth > 0], made[made > 0]])
    low, high = (0.8 * both.min(), 2.2 * both.max()) if both.size else (0.1, 1.0)
    axes.plot([low, high], [low, high], color=style.OBSERVED, lw=1.2, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    style.plain_log(axes.xaxis, axes.yaxis)
    style.label(
        axes,
        title="Quantiles of all pixels, dry ones too",
        x=labelled("observed", units),
        y=labelled("generated", units),
        grid="both",
        legend="upper left",
    )


def _name_levels(axes: Axes, levels: Array, truth: Array, made: Array) -> None:
    labels = {
        int(np.argmin(np.abs(levels - q))): f"P{100 * q:g}"
        for q in NAMED
        if np.abs(levels - q).min() < 1e-9
    }
    last = len(levels) - 1
    rare = float(f"{1.0 / (1.0 - levels[last]):.2g}")
    labels[last] = f"once in {rare:,.0f} pixels"
    for k, text in labels.items():
        if truth[k] > 0 and made[k] > 0:
            axes.plot(truth[k], made[k], "o", color=style.MEMBER, ms=5.5, zorder=4)
            axes.annotate(
                text, (truth[k], made[k]), xytext=(9, -7) if k < last else (-9, 9), fontsize=9.5,
                textcoords="offset points", va="top" if k < last else "bottom",
                ha="left" if k < last else "right", bbox=BEHIND,
            )  # fmt: skip


def draw_intensity(data: FigureData) -> Figure:
    """Draw the CRPS by classes of amounts; see `xcvae.verify.plots.Plots.intensity`."""
    scale, units = data.scale, data.units
    edges = [scale * edge for edge in data.edges]
    reached = max(int(np.count_nonzero(data.total("intensity", source)["crps"])) for source in
                  data.found)  # fmt: skip
    classes = np.arange(max(reached, 1))
    names = [OWN, *data.baselines]
    width = 0.8 / len(names)
    with style.new_figure(*style.COLUMN) as figure:
        rows = 2 if data.baselines else 1
        grid = figure.subplots(rows, 1, sharex=True, squeeze=False,
                               height_ratios=(2, 1)[:rows])[:, 0]  # fmt: skip
        for number, name in enumerate(names):
            ends = scale * np.array([_part(data, name, k) for k in classes.tolist()])
            total = scale * _crps(data, name)
            grid[0].bar(
                classes + (number - 0.5 * (len(names) - 1)) * width, ends[:, 0], 0.92 * width,
                yerr=style.whiskers(ends),
                color=style.baseline_colour(number - 1) if number else style.MEMBER,
                error_kw={"lw": 1.1, "ecolor": "#333333"},
                label=style.wrapped(f"{name}: {total:.3g} in all", 3.0, size=10),
            )  # fmt: skip
        grid[0].set_ylim(top=(1.15 + 0.08 * len(names)) * grid[0].get_ylim()[1])
        part = labelled("part of the CRPS", units)
        style.label(
            grid[0], title="Which amounts the error comes from", y=part, legend="upper right"
        )
        if data.baselines:
            _skill(grid[1], data, data.baselines[0], classes)
        texts = [f"{low:g}\u2013{high:g}" for low, high in pairwise(edges)]
        texts.append(f"> {edges[-1]:g}")
        grid[-1].set_xticks(classes, texts[: classes.size], fontsize=9.5)
        style.label(grid[-1], x=labelled("amounts", units))
        return figure


def _part(data: FigureData, source: str, k: int) -> tuple[float, float, float]:
    rows = data.by_piece("intensity", source)
    return interval(
        lambda total: ratio(total(rows["crps"][:, k]), total(rows["pixels"])),
        data.group,
        (0.0, np.inf),
    )


def _crps(data: FigureData, source: str) -> float:
    total = data.total("intensity", source)
    return float(total["crps"].sum() / max(float(total["pixels"]), 1.0))


def _skill(axes: Axes, data: FigureData, baseline: str, classes: Array) -> None:
    own, other = (data.by_piece("intensity", name)["crps"] for name in (OWN, baseline))

    def of(k: int) -> Finish:
        return lambda total: 1.0 - ratio(total(own[:, k]), total(other[:, k]))

    limits = (-np.inf, 1.0)
    ends = np.array([interval(of(k), data.group, limits) for k in classes.tolist()])
    axes.axhline(0, color=style.OBSERVED, lw=1.0)
    axes.errorbar(
        classes, ends[:, 0], style.whiskers(ends), fmt="o", color=style.MEMBER, ms=6, capsize=3
    )
    low = max(WORST, float(np.nanmin(ends, initial=-0.1)) - 0.05)
    beyond = classes[ends[:, 0] < low]
    if beyond.size:
        axes.plot(beyond, np.full(beyond.size, low), "v", color=style.MEMBER, ms=8, clip_on=False)
    axes.set_ylim(low, 1.0)
    style.label(axes, y=style.wrapped(f"skill over {baseline}", 1.3), grid="y")
