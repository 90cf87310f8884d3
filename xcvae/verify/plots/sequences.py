"""Figures of consecutive samples: strip of maps, Hovmoeller diagram, and animation."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xcvae.errors import DataError
from xcvae.fields.sample_blocks import consecutive
from xcvae.fields.samples import times_of
from xcvae.fields.units import is_daily, to_units
from xcvae.files import atomic_path, local_path
from xcvae.metrics.metric import ratio
from xcvae.metrics.pairs import REALIZATION
from xcvae.verify.pairing import MatchedPair, pair_up
from xcvae.verify.plots import style
from xcvae.verify.plots.member_maps import Axis, RainScale, draw_map, map_axes
from xcvae.verify.plots.text import chosen_members, display_units, label_of, pretty

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

#: Frames of an animation or a diagram at most, and maps in a strip.
FRAMES, MAPS = 48, 6
#: Inches of the height of a map, and pixels per inch of an animation.
MAP, DPI = 1.9, 72


@dataclass(frozen=True)
class FrameSequence:
    """Consecutive samples in memory, in the units of figures.

    Attributes
    ----------
    fields
        Values by title, (time, y, x): the observation, if there is one, then members.
    labels
        Text of the times.
    y, x
        Axes of the maps.
    scale
        Colour scale of all maps.
    """

    fields: dict[str, np.ndarray]
    labels: list[str]
    y: Axis
    x: Axis
    scale: RainScale

    @property
    def ratio(self) -> float:
        """Width of a map over its height."""
        return float(np.ptp(self.x.edges()) / np.ptp(self.y.edges()))


def sequence_of(
    ds: xr.Dataset | None,
    ensemble: xr.Dataset,
    *,
    members: int | Sequence[int] = 3,
    most: int = FRAMES,
    every: int = 1,
) -> FrameSequence:
    """Read the longest run of consecutive samples: at most ``most``, those with the most rain.

    Raises
    ------
    ConfigError
        The labels of the samples are no times.
    DataError
        No samples follow each other.
    """
    match = pair_up(ensemble.isel({REALIZATION: 0}, drop=True) if ds is None else ds, ensemble)
    rows = longest_run(match, most * every)[::every]
    sample, units = match.pair.sample, display_units(match.pair.observed, match.pair.sample)
    chosen = chosen_members(members, match.pair.forecast.sizes[REALIZATION])
    some = match.pair.forecast.isel({sample: rows, REALIZATION: chosen}).load()
    fields = {
        f"Member {int(one[REALIZATION])}": to_units(one, units).values for one in some.astype(float)
    }
    observed = match.pair.observed.isel({sample: rows}).load()
    if ds is not None:
        fields = {"Observed": to_units(observed.astype(float), units).values, **fields}
    daily = is_daily(match.pair.observed, sample)
    labels = [label_of(one, days=daily) for one in observed[sample].values]
    scale = RainScale.of(list(fields.values()), units, daily=daily)
    return FrameSequence(fields, labels, *map_axes(observed), scale)


def longest_run(match: MatchedPair, most: int) -> np.ndarray:
    """Return the positions of the longest run, cut to where it has the most rain."""
    otherwise = ", to draw samples as a sequence"
    times = np.array(times_of(match.pair.observed, match.pair.sample, otherwise=otherwise))
    run = max(consecutive(times)[1], key=len)
    if len(run) < 2:
        raise DataError.of(
            "sequence",
            expected="samples that follow each other in time",
            got=f"{len(times)} samples, none next to another",
            remedy="Draw the ensemble for consecutive samples.",
        )
    if len(run) <= most:
        return np.asarray(run)
    observed = match.pair.observed
    rain = np.nan_to_num(observed.mean(observed.dims[1:]).values)[run]
    sums = np.convolve(rain, np.ones(most), mode="valid")
    first = int(np.argmax(sums))
    return np.asarray(run[first : first + most])


def draw_strip(
    ds: xr.Dataset | None, ensemble: xr.Dataset, *, members: int | Sequence[int], every: int
) -> Figure:
    """Draw maps of consecutive samples; see `xcvae.verify.plots.Plots.strip`."""
    found = sequence_of(ds, ensemble, members=members, most=MAPS, every=every)
    columns, rows = len(found.labels), len(found.fields)
    width = columns * (MAP * found.ratio + 0.1) + 1.6
    with style.new_figure(width, rows * (MAP + 0.1) + 0.6, "compressed") as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        chart, norm = found.scale.colours()
        shown: Any = None
        for row, (title, maps) in enumerate(found.fields.items()):
            for column, axes in enumerate(grid[row]):
                shown = draw_map(axes, maps[column], found.y, found.x, cmap=chart, norm=norm)
                axes.set(xticks=[], yticks=[])
                if row == 0:
                    axes.set_title(found.labels[column].replace(" ", "\n"), fontsize=10)
            grid[row][0].set_ylabel(title, fontsize=11)
        _bar(figure, shown, list(grid.flat), found.scale)
        return figure


def draw_hovmoeller(
    ds: xr.Dataset | None, ensemble: xr.Dataset, *, members: int | Sequence[int]
) -> Figure:
    """Draw time against x; see `xcvae.verify.plots.Plots.hovmoeller`."""
    found = sequence_of(ds, ensemble, members=members, most=10 * FRAMES)
    count, steps = len(found.fields), np.arange(len(found.labels) + 1)
    means = {
        title: ratio(np.nansum(maps, axis=1), np.isfinite(maps).sum(axis=1))
        for title, maps in found.fields.items()
    }
    scale = RainScale.of(list(means.values()), found.scale.units, daily=found.scale.levels[2] == 1)
    with style.new_figure(2.6 * count + 1.6, 4.6, "compressed") as figure:
        row = figure.subplots(1, count, sharey=True, squeeze=False)[0]
        chart, norm = scale.colours()
        shown: Any = None
        for axes, (title, values) in zip(row, means.items(), strict=True):
            shown = axes.pcolormesh(
                found.x.edges(), steps, np.ma.masked_invalid(values), cmap=chart, norm=norm,
                rasterized=True,
            )  # fmt: skip
            axes.set(title=title, xlabel=f"x [{found.x.units}]")
        ticks = np.unique(np.linspace(0, len(found.labels) - 1, 7).astype(int))
        row[0].set_yticks(ticks + 0.5, [found.labels[i] for i in ticks])
        row[0].set_ylim(steps[-1], 0)
        _bar(figure, shown, list(row), scale)
        figure.suptitle(f"Means along y, {pretty(scale.units)}", fontsize=12)
        return figure


def _bar(figure: Figure, shown: Any, axes: list[Any], scale: RainScale) -> None:
    bar = figure.colorbar(shown, ax=axes, shrink=0.95, pad=0.012, aspect=28, fraction=0.04)
    bar.set_ticks([*scale.levels], labels=[f"{level:g}" for level in scale.levels])
    bar.ax.tick_params(labelsize=9, length=0)
    bar.set_label(pretty(scale.units), fontsize=10)


def frames_of(found: FrameSequence) -> Iterator[Image]:
    """Yield the frames of an animation: the observation and the members side by side."""
    from PIL import Image

    count = len(found.fields)
    width = count * (MAP * found.ratio + 0.1) + 0.9
    with style.new_figure(width, MAP + 0.7, "compressed") as figure:
        row = figure.subplots(1, count, squeeze=False)[0]
        chart, norm = found.scale.colours()
        meshes = []
        for axes, (title, maps) in zip(row, found.fields.items(), strict=True):
            meshes.append(draw_map(axes, maps[0], found.y, found.x, cmap=chart, norm=norm))
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=10)
        _bar(figure, meshes[0], list(row), found.scale)
        head = figure.suptitle(found.labels[0], fontsize=11)
        for step, label in enumerate(found.labels):
            head.set_text(label)
            for mesh, maps in zip(meshes, found.fields.values(), strict=True):
                mesh.set_array(np.ma.masked_invalid(maps[step]))
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=DPI)
            if step == 0:
                figure.set_layout_engine("none")  # the places of the first frame are kept
            picture = Image.open(content).convert("RGB")
            yield picture.quantize(64, dither=Image.Dither.NONE)


def write_animation(
    ds: xr.Dataset | None,
    ensemble: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    members: int | Sequence[int],
    every: int,
    seconds: float,
) -> Path:
    """Write a GIF; see `xcvae.verify.plots.Plots.animate`."""
    target = local_path("path", path)
    assert target is not None
    found = sequence_of(ds, ensemble, members=members, every=every)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_frames(list(frames_of(found)), target, seconds=seconds)
    return target


def save_frames(frames: Sequence[Image], path: Path, *, seconds: float) -> None:
    """Write frames as a GIF that repeats; an earlier file is replaced."""
    first, *rest = frames
    with atomic_path(path) as temporary:
        first.save(
            temporary, format="GIF", save_all=True, append_images=rest,
            duration=round(1000 * seconds), loop=0, optimize=True,
        )  # fmt: skip
