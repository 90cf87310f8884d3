"""The reliability diagram: observed frequencies of an event over its forecast probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xcvae.metrics.metric import ratio
from xcvae.metrics.sample import Array
from xcvae.verify.plots import style
from xcvae.verify.plots.summaries import FigureData
from xcvae.verify.plots.text import amount
from xcvae.verify.resampling import interval

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
