"""A figure of members, one row of maps per method, in one colour scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize

__all__ = ["plot_member_maps"]

LEVELS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
ANCHORS = ("#cfe5f4", "#8cc1e6", "#3f8fd2", "#1c57a5", "#3b2e83", "#8b2a8e", "#d62f6d", "#f77f3c",
           "#fdd835")  # fmt: skip
DRY = "#f3f2ee"
#: Inches.
PANEL, LABEL, GAP, HEAD, FOOT = 1.75, 1.75, 0.08, 0.62, 0.2
COLUMNS = 4


def plot_member_maps(
    place: Path,
    top: Sequence[tuple[str, np.ndarray]],
    rows: Mapping[str, Sequence[np.ndarray]],
    *,
    title: str,
) -> None:
    """Write the figure.

    Parameters
    ----------
    place
        PNG file.
    top
        Titles and maps of the first row: the condition, the observation, ...
    rows
        Members by the label of their method. Maps are (y, x) in mm h-1, rows from north.
    title
        Of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shape = top[0][1].shape
    panel = (PANEL, PANEL * shape[0] / shape[1])
    size = (
        LABEL + COLUMNS * (panel[0] + GAP) + 0.15,
        HEAD + 0.28 + (len(rows) + 1) * (panel[1] + GAP) + 0.28 + FOOT,
    )
    figure = Figure(figsize=size, dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    colours, norm = _rain_colours()

    def show(row: int, column: int, field: np.ndarray, name: str = "") -> None:
        lower = HEAD + 0.28 * (1 + (row > 0)) + (row + 1) * panel[1] + row * GAP
        left = LABEL + column * (panel[0] + GAP)
        box = (left / size[0], 1 - lower / size[1], panel[0] / size[0], panel[1] / size[1])
        axes = figure.add_axes(box)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color="#999999", linewidth=0.6)
        axes.imshow(field, cmap=colours, norm=norm, interpolation="nearest")
        axes.set_title(name, fontsize=9.5, pad=3)

    figure.text(0.012, 1 - 0.3 / size[1], title, fontsize=12, weight="bold", va="center")
    for column, (name, field) in enumerate(top):
        show(0, column, field, name)
    for row, (name, members) in enumerate(rows.items(), start=1):
        for column, field in enumerate(members[:COLUMNS]):
            show(row, column, field, f"member {column + 1}" if row == 1 else "")
        middle = HEAD + 0.56 + (row + 0.5) * panel[1] + row * GAP
        figure.text((LABEL - 0.12) / size[0], 1 - middle / size[1], name, fontsize=9.5, ha="right",
                    va="center", linespacing=1.35)  # fmt: skip
    middle = HEAD + 0.28 + 0.5 * panel[1]
    bar = figure.add_axes((0.85 / size[0], 1 - (middle + 0.46 * panel[1]) / size[1], 0.16 / size[0],
                           0.92 * panel[1] / size[1]))  # fmt: skip
    _label_colours(bar, colours, norm)
    figure.savefig(place)


def _rain_colours() -> tuple[Colormap, Normalize]:
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap

    ramp = LinearSegmentedColormap.from_list("rain", ANCHORS)(np.linspace(0, 1, len(LEVELS) - 1))
    colours = ListedColormap([DRY, *ramp[:-1]]).with_extremes(over=ramp[-1])
    return colours, BoundaryNorm(LEVELS, colours.N)


def _label_colours(axes: Axes, colours: Colormap, norm: Normalize) -> None:
    from matplotlib.colorbar import Colorbar

    scale = Colorbar(axes, cmap=colours, norm=norm, extend="max", spacing="uniform", ticks=LEVELS)
    scale.ax.set_yticklabels([f"{level:g}" for level in LEVELS], fontsize=7.5)
    scale.ax.yaxis.set_ticks_position("left")
    scale.ax.set_title("mm h⁻¹", fontsize=8.5, pad=8)
