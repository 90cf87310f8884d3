"""Maps of mean rain: observed, generated, and their difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xcvae.metrics.metric import ratio
from xcvae.verify.plots import style
from xcvae.verify.plots.member_maps import draw_map, map_axes
from xcvae.verify.plots.summaries import FigureData
from xcvae.verify.plots.text import labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_bias(data: FigureData) -> Figure:
    """Draw maps of the mean over samples; see `xcvae.verify.plots.Plots.bias`."""
    observed, sums = data.match.pair.observed, data.total("bias")
    seen, made = (
        data.scale * ratio(sums[name], sums["samples"]) for name in ("observed", "generated")
    )
    y, x = map_axes(observed)
    # Colour scales end at high quantiles: single pixels would wash out the rest.
    high = max(float(np.nanquantile(np.stack([seen, made]), 0.995)), 1e-12)
    apart = made - seen
    most = max(float(np.nanquantile(np.abs(apart), 0.99)), 1e-12)
    tall = 3.6 * min(max(observed.shape[1] / observed.shape[2], 0.5), 1.6) + 1.5
    with style.new_figure(style.PAGE, tall, "compressed") as figure:
        left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
        means = {"cmap": "viridis_r", "vmin": 0.0, "vmax": high}
        draw_map(left, seen, y, x, **means)
        shown = draw_map(middle, made, y, x, **means)
        differs = draw_map(right, apart, y, x, cmap="BrBG", vmin=-most, vmax=most)
        mean, difference = (labelled(text, data.units) for text in ("mean", "difference"))
        figure.colorbar(shown, ax=[left, middle], label=mean, extend="max", pad=0.02)
        figure.colorbar(differs, ax=right, label=difference, extend="both", pad=0.02)
        below = f"x [{x.units}]"
        style.label(left, title="Observed", x=below, y=f"y [{y.units}]")
        style.label(middle, title="Mean of members", x=below)
        title = f"Members \u2212 observed: {_relative_difference(seen, made)}"
        style.label(right, title=title, x=below)
        return figure


def _relative_difference(seen: np.ndarray, made: np.ndarray) -> str:
    total, observed = float(np.nansum(made)), float(np.nansum(seen))
    if observed <= 0:
        return "no rain"
    return f"{100 * (total / observed - 1):+.1f} %".replace("-", "\u2212")
