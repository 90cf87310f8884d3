"""Maps of what falls on average: observed, generated, and the difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xcvae.metrics.metric import ratio
from xcvae.verify.plots import style as canvas
from xcvae.verify.plots.member_maps import draw_map, map_axes
from xcvae.verify.plots.summaries import FigureData, portray
from xcvae.verify.plots.text import labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bias", "draw_bias"]


def bias(ds: xr.Dataset, ensemble: xr.Dataset) -> Figure:
    """Draw maps of the mean over samples: observed, of the members, and their difference.

    Parameters
    ----------
    ds : xarray.Dataset
        The observation, dims (sample, y, x).
    ensemble : xarray.Dataset
        Dims (realization, sample, y, x).

    Returns
    -------
    matplotlib.figure.Figure
        Both means in one scale of colours; too wet is blue-green, too dry brown.

    Raises
    ------
    UnitsError
        The values are not physical rain.
    MismatchError
        Samples or grids differ.
    """
    return draw_bias(portray(ds, ensemble, pictures=["bias"]))


def draw_bias(portrait: FigureData) -> Figure:
    """Draw what `bias` does, from sums that are there already."""
    observed, sums = portrait.task.pair.observed, portrait.total("bias")
    seen, made = (
        portrait.scale * ratio(sums[name], sums["samples"]) for name in ("observed", "generated")
    )
    y, x = map_axes(observed)
    high = max(float(np.nanquantile(np.stack([seen, made]), 0.995)), 1e-12)
    apart = made - seen
    most = max(float(np.nanquantile(np.abs(apart), 0.99)), 1e-12)
    tall = 3.6 * min(max(observed.shape[1] / observed.shape[2], 0.5), 1.6) + 1.5
    with canvas.new_figure(canvas.PAGE, tall, "compressed") as figure:
        left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
        means = {"cmap": "viridis_r", "vmin": 0.0, "vmax": high}
        draw_map(left, seen, y, x, **means)
        shown = draw_map(middle, made, y, x, **means)
        differs = draw_map(right, apart, y, x, cmap="BrBG", vmin=-most, vmax=most)
        mean, difference = (labelled(text, portrait.units) for text in ("mean", "difference"))
        figure.colorbar(shown, ax=[left, middle], label=mean, extend="max", pad=0.02)
        figure.colorbar(differs, ax=right, label=difference, extend="both", pad=0.02)
        left.set_title("Observed")
        middle.set_title("Mean of members")
        right.set_title(f"Members \u2212 observed: {_in_words(seen, made)}")
        left.set_ylabel(f"y [{y.units}]")
        for axes in (left, middle, right):
            axes.set_xlabel(f"x [{x.units}]")
        return figure


def _in_words(seen: np.ndarray, made: np.ndarray) -> str:
    total, there = float(np.nansum(made)), float(np.nansum(seen))
    return f"{100 * (total / there - 1):+.1f} %".replace("-", "\u2212") if there > 0 else "no rain"
