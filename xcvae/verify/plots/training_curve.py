"""Curves of a training log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xcvae.errors import DataError
from xcvae.verify.plots import style
from xcvae.verify.plots.text import labelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Logged quantities without a panel, and panels that come last.
CLOCKS, LAST = ("minutes", "seconds", "epoch"), ("learning_rate",)
TITLES = {
    "loss": "Loss",
    "kl": "KL divergence [nats per sample]",
    "elbo": "ELBO [nats per sample]",
    "negative_elbo": "Negative ELBO [nats per sample]",
    "crps": "CRPS of prior draws",
    "mae_tail": "Absolute error in the tail",
    "wet_fraction": "Wet fraction of prior draws",
    "learning_rate": "Learning rate",
}
#: Panels with a mark at the lowest validation score.
LOWER_IS_BETTER = ("loss", "negative_elbo", "crps", "mae_tail")
COLOURS = (style.MEMBER, "#6aa84f", "#8b5fbf", "#c9a227", "#7f7f7f")
MAX_COLUMNS = 4
#: A positive curve that spans more than this factor is drawn on a logarithmic axis.
LOG_SPAN = 30.0


def draw_training_curve(history: xr.Dataset) -> Figure:
    """Draw a training log; see `xcvae.verify.plots.Plots.training_curve`."""
    groups = _groups(history)
    if not groups:
        raise DataError.of(
            "history",
            expected="a log with variables along one dim, such as model.history",
            got=f"variables {', '.join(map(str, history.data_vars)) or 'none'}",
            remedy="Train up to the first validation; its scores are logged then.",
        )
    rows = -(-len(groups) // MAX_COLUMNS)
    columns = -(-len(groups) // rows)
    with style.new_figure(3.6 * columns + 0.4, 2.9 * rows + 0.5) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes, (key, names) in zip(grid.flat, groups.items(), strict=False):
            _panel(axes, history, key, names)
        for axes in grid.flat[len(groups) :]:
            axes.remove()
        for axes in grid.flat[max(len(groups) - columns, 0) : len(groups)]:
            axes.set_xlabel(str(history[next(iter(history.data_vars))].dims[0]))
            axes.tick_params(labelbottom=True)
        return figure


def _groups(history: xr.Dataset) -> dict[str, list[str]]:
    """Return variables by panel: a quantity and its validation, the loss and its terms."""
    groups: dict[str, list[str]] = {}
    for name, values in history.data_vars.items():
        text = str(name)
        if text in CLOCKS or values.ndim != 1 or not np.isfinite(values.values).any():
            continue
        key = text.removeprefix("val_")
        key = "loss" if key.startswith("loss_") else key
        groups.setdefault(key, []).append(text)
    order = [key for key in TITLES if key in groups and key not in LAST]
    order += [key for key in groups if key not in TITLES]
    return {key: sorted(groups[key]) for key in [*order, *(k for k in LAST if k in groups)]}


def _panel(axes: Axes, history: xr.Dataset, key: str, names: list[str]) -> None:
    steps = history[names[0]][history[names[0]].dims[0]].values
    drawn = []
    for number, name in enumerate(names):
        values = np.asarray(history[name].values, float)
        drawn.append(values)
        validated = name.startswith("val_")
        colour = style.BASELINE if validated else COLOURS[number % len(COLOURS)]
        total = name in (key, f"val_{key}")
        marker = "o" if len(values) < 40 else None
        width = 2.0 if total else 1.3
        axes.plot(
            steps, values, color=colour, lw=width, marker=marker, ms=3.5, label=_name(name, key),
            ls="-" if total else "--",
        )  # fmt: skip
        if validated and key in LOWER_IS_BETTER:
            _mark_lowest(axes, steps, values)
        if not total and np.isnan(values[0]) and np.isfinite(values).any():
            _mark_begin(axes, steps[np.isfinite(values)][0], _name(name, key))
    _scale(axes, np.concatenate(drawn))
    units = history[names[-1]].attrs.get("units", "1")
    title = style.wrapped(labelled(TITLES.get(key, key.replace("_", " ")), units), 3.4, size=12)
    rows = 0 if names == [key] else _legend(axes)
    axes.set_title(title, pad=7 + 15 * rows)
    style.label(axes, grid="y")


def _legend(axes: Axes) -> int:
    """Put the legend above the axes, since curves may fill all corners; return its rows."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 4)
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=columns, fontsize=9,
        handlelength=1.4, columnspacing=1.0, handletextpad=0.5, borderaxespad=0.2,
    )  # fmt: skip
    return -(-len(labels) // columns)


def _mark_begin(axes: Axes, step: float, name: str) -> None:
    """Mark the first step of a term of the loss, which explains a jump of the sum."""
    axes.axvline(step, color=style.FAINT, lw=1.0, ls=":", zorder=1)
    # Left of the line, before the sum rises.
    axes.text(
        step, 0.98, f"{name} begins ", transform=axes.get_xaxis_transform(), va="top", ha="right",
        fontsize=9, color=style.FAINT,
    )  # fmt: skip


def _name(name: str, key: str) -> str:
    if name.startswith("val_"):
        return "validation"
    if name != key:
        return name.removeprefix("loss_")
    # The KL is a sum over pixels: crops have fewer than the validated fields.
    return "training (crops)" if name == "kl" else "training"


def _mark_lowest(axes: Axes, steps: np.ndarray, values: np.ndarray) -> None:
    if np.isfinite(values).any():
        best = int(np.nanargmin(values))
        lowest = values[best]
        label = f"lowest: {lowest:,.0f}" if abs(lowest) >= 1000 else f"lowest: {lowest:.3g}"
        axes.plot(steps[best], values[best], "o", ms=9, mfc="none", mec=style.OBSERVED, label=label)


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Scale the axis to the long end of the curves: the first values may be far larger."""
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > LOG_SPAN * low:
        axes.set_yscale("log")
        return
    upper = float(np.quantile(values, 0.9))
    if values.size > 10 and high - low > 5 * (upper - low) > 0:
        axes.set_ylim(low - 0.1 * (upper - low), upper + 0.5 * (upper - low))
