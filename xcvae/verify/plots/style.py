"""The common style of figures: colours with a meaning, fonts, axes, and figures outside pyplot."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xcvae.metrics.sample import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


#: Colours with the same meaning in every figure.
OBSERVED, MEMBER = "#111111", "#1f6fb4"
#: Baselines, in their order; the first is also the colour of validation curves.
BASELINE, *_ = BASELINES = ("#d1702a", "#7d3f12", "#e8b06a")
DRY, MASKED = "#f3f2ee", "#a8a8a8"
FAINT, SHADE = "#666666", "#eeeeee"
#: Inches: size of a figure in a row of two, and width of a single one, for text of equal size.
COLUMN, PAGE = (6.4, 5.4), 12.0

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
}


@contextmanager
def new_figure(
    width: float, height: float, layout: Literal["constrained", "compressed"] | None = "constrained"
) -> Iterator[Figure]:
    """Create a figure in the style of xcvae, without changing the caller's settings.

    Parameters
    ----------
    width, height
        In inches.
    layout
        Layout engine of matplotlib; None for none.

    Yields
    ------
    matplotlib.figure.Figure
        Without a window, and unknown to pyplot.
    """
    # Not rcParams itself: reading its backend would select one, possibly with windows.
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with style.context(["default", STYLE]):
        engine = None
        if layout is not None:
            compress = layout == "compressed"
            engine = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.05, compress=compress)
        figure = Figure(figsize=(width, height), dpi=110, layout=engine)
        FigureCanvasAgg(figure)
        yield figure


def baseline_line(number: int) -> dict[str, Any]:
    """Return the line style of a baseline's curve."""
    dashes = ("--", ":", "-.")[number % 3]
    return {"color": baseline_colour(number), "ls": dashes, "lw": 1.8, "zorder": 2}


def baseline_colour(number: int) -> str:
    """Return the colour of a baseline, counted from 0: a brown."""
    return BASELINES[number % len(BASELINES)]


def band(axes: Axes, x: Array, low: Array, high: Array) -> None:
    """Fill the range or the interval around a curve of members."""
    axes.fill_between(x, low, high, color=MEMBER, alpha=0.24, lw=0)


def whiskers(ends: Array) -> Array:
    """Return the lengths of error bars, down and up, from rows of (value, low, high)."""
    lengths: Array = np.nan_to_num(np.abs(ends[:, 1:].T - ends[:, 0]))
    return lengths


def note(axes: Axes, text: str) -> None:
    """Write in the middle of axes what they do not show, and why."""
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT, zorder=5
    )


def label(
    axes: Axes,
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    grid: Literal["y", "both"] | None = None,
    legend: Literal["lower left", "upper left", "upper right"] | None = None,
    columns: int = 1,
) -> None:
    """Add title, axis labels, grid and legend to axes, those that are given.

    Parameters
    ----------
    axes
        To label.
    title, x, y
        Title and axis labels; see `xcvae.verify.plots.text.labelled` for units.
    grid
        The axis with grid lines.
    legend, columns
        Location and number of columns of the legend.
    """
    if title:
        axes.set_title(title)
    if x:
        axes.set_xlabel(x)
    if y:
        axes.set_ylabel(y)
    if grid is not None:
        axes.grid(which="major", axis=grid)
    if legend is not None:
        axes.legend(loc=legend, ncols=columns)


def plain_log(*several: Axis) -> None:
    """Label logarithmic axes with 1, 2, 5, 10 instead of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in several:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def few_ticks(*several: Axis, most: int) -> None:
    """Label axes with at most so many round numbers."""
    from matplotlib.ticker import MaxNLocator

    for axis in several:
        axis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 5, 10]))


def wrapped(text: str, inches: float, *, size: float = 11.0) -> str:
    """Break a text into lines of at most so many inches.

    Examples
    --------
    >>> wrapped("a_long_name_of_something", 1.0).splitlines()
    ['a_long_name', '_of_somethi', 'ng']
    """
    # A letter is 0.58 of its size wide on average.
    return textwrap.fill(text, max(int(inches * 72 / (0.58 * size)), 4), break_on_hyphens=False)
