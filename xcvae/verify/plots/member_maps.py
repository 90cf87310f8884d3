"""Maps: condition, observation, members and their statistics of a sample, and the mean bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xcvae.errors import DataError, MissingVariableError, nearest
from xcvae.fields.axes import KM_PER_DEGREE
from xcvae.fields.cf import is_rain
from xcvae.fields.regridding.projections import mapping_name
from xcvae.fields.units import converts, is_daily, to_units
from xcvae.fields.validation import check_dataset
from xcvae.metrics.metric import ratio, threshold_in
from xcvae.metrics.pairs import REALIZATION
from xcvae.metrics.sample import Array
from xcvae.verify.pairing import MatchedPair, pair_up
from xcvae.verify.plots import style
from xcvae.verify.plots.geography import coastlines, draw_coastlines, draw_scale_bar
from xcvae.verify.plots.summaries import FigureData
from xcvae.verify.plots.text import (
    amount,
    chosen_members,
    coarse_rain,
    display_units,
    label_of,
    labelled,
    per_step,
    pretty,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import BoundaryNorm, Colormap
    from matplotlib.figure import Figure


HOURLY_LEVELS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
DAILY_LEVELS = (0.0, 0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0)
# From light blue over violet to dark red, in equal steps of lightness (CIE L* 87 to 12): the order
# of the amounts is seen by the colour-blind and in grey print too, and no class looks like another.
ANCHORS = ("#bddfef", "#97cceb", "#74b8e8", "#58a2e3", "#458bdc", "#716bc2", "#8c479b", "#922269",
           "#81023e", "#620622", "#410b13")  # fmt: skip


@dataclass(frozen=True)
class RainScale:
    """One discrete colour scale for all maps of a figure.

    Colours stand for absolute amounts, so that figures can be compared.

    Attributes
    ----------
    units
        Units of the levels and of the maps.
    levels
        Edges of the classes; the first class is dry.
    beyond
        True if values exceed the last edge.
    """

    units: str
    levels: tuple[float, ...]
    beyond: bool

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], units: str, *, daily: bool) -> RainScale:
        """Choose levels up to the largest value, in ``units``; at least four classes."""
        every = DAILY_LEVELS if daily else HOURLY_LEVELS
        highest = max((float(np.nanmax(a, initial=0.0)) for a in arrays), default=0.0)
        needed = int(np.searchsorted(every, highest)) + 1
        levels = every[: min(max(needed, 5), len(every))]
        return cls(units, levels, highest > levels[-1])

    def colours(self) -> tuple[Colormap, BoundaryNorm]:
        """Return the colour map and the norm for matplotlib."""
        from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap

        # Colours stand for absolute amounts: those of higher classes stay unused.
        every = DAILY_LEVELS if self.levels[2] == DAILY_LEVELS[2] else HOURLY_LEVELS
        ramp = LinearSegmentedColormap.from_list("rain", ANCHORS)(np.linspace(0, 1, len(every) - 1))
        classes = len(self.levels) - 1 + self.beyond
        chart = ListedColormap([style.DRY, *(tuple(c) for c in ramp[: classes - 1])], name="rain")
        extend: Literal["max", "neither"] = "max" if self.beyond else "neither"
        return chart.with_extremes(bad=style.MASKED), BoundaryNorm(
            self.levels, classes, extend=extend
        )


@dataclass(frozen=True)
class Axis:
    """Cell centres of one map axis, in the units of the figure.

    Attributes
    ----------
    values
        Centres, in ``units``.
    units
        "km", "°E", "°N", or "pixel" without a coordinate; else the units of the coordinate.
    """

    values: np.ndarray
    units: str

    @property
    def spacing(self) -> float:
        """Mean distance of neighbouring centres; 1 for a single one."""
        return float(np.abs(np.diff(self.values)).mean()) if self.values.size > 1 else 1.0

    def edges(self) -> np.ndarray:
        """Return the cell edges, one more than centres."""
        half = 0.5 * np.diff(self.values) if self.values.size > 1 else np.array([0.5])
        first, last = self.values[:1] - half[:1], self.values[-1:] + half[-1:]
        return np.concatenate([first, self.values[:-1] + half[: self.values.size - 1], last])


def map_axes(field: xr.DataArray) -> tuple[Axis, Axis]:
    """Read the axes of maps, dims (..., y, x).

    Metres become km, degrees get a letter, and without coordinates the axes count pixels.
    """
    y, x = map(str, field.dims[-2:])
    return _axis(field, y, east=False), _axis(field, x, east=True)


def _axis(field: xr.DataArray, dim: str, *, east: bool) -> Axis:
    size = field.sizes[dim]
    if dim not in field.coords or field[dim].dtype.kind not in "fiu":
        return Axis(np.arange(size, dtype=float), "pixel")
    values = np.asarray(field[dim].values, float)
    attrs = field[dim].attrs
    units = str(attrs.get("units", ""))
    name = f"{attrs.get('standard_name', '')} {dim}".lower()
    if units.startswith("degree") or (not units and ("lat" in name or "lon" in name)):
        # Coordinates of a rotated pole are degrees, but neither east nor north.
        rotated = "grid_" in name or "rlat" in name or "rlon" in name or units == "degrees"
        return Axis(values, "°" if rotated else "°E" if east else "°N")
    if units in ("m", "metre", "meter", "metres", "meters"):
        return Axis(values / 1000.0, "km")
    return Axis(values, units or "pixel")


def _thinned(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average blocks of a map with more pixels than a figure has; return it with its edges."""
    step = -(-max(values.shape) // MOST)
    if step == 1:
        return values, rows, columns
    valid = np.isfinite(values)
    maps = [np.where(valid, values, 0.0), valid.astype(np.float64)]
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], step)
        maps = [np.add.reduceat(one, starts, axis=axis) for one in maps]
    total, count = maps
    means = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    thin_rows, thin_columns = (np.append(e[:-1:step], e[-1]) for e in (rows, columns))
    return means, thin_rows, thin_columns


def draw_map(axes: Axes, values: np.ndarray, y: Axis, x: Axis, **options: Any) -> QuadMesh:
    """Draw one map, dims (y, x), with masked pixels in grey and equal distances in x and y.

    Of maps with more pixels than a figure, the means of blocks are drawn.

    Parameters
    ----------
    axes
        Axes to draw on.
    values
        NaN for masked pixels.
    y, x
        From `map_axes`.
    options
        Options of matplotlib's ``pcolormesh``, such as ``cmap``.
    """
    axes.set_facecolor(style.MASKED)
    edges = y.edges()
    shown, *corners = _thinned(values, edges, x.edges())
    mesh = axes.pcolormesh(*corners[::-1], np.ma.masked_invalid(shown), rasterized=True, **options)
    if y.units == "pixel":
        axes.set_ylim(edges[-1], edges[0])  # rows count from the top, as in the array
    # A degree of longitude is shorter at higher latitudes.
    north = np.cos(np.deg2rad(float(y.values.mean()))) if y.units == "°N" else 1.0
    axes.set_aspect(1.0 / max(float(north), 0.05))
    return mesh


#: Pixels along the longer side of a map that is drawn as it is.
MOST = 2000
#: Inches: a row of maps is at most as wide as a slide, so that text keeps its size on it.
MAX_HEIGHT, MAX_WIDTH = 3.4, 13.3
GAP, MARGIN = 0.12, 1.7


@dataclass(frozen=True)
class _Panel:
    """One map.

    Attributes
    ----------
    title, values, y, x, units
        Title, values (y, x), axes and units.
    rain
        True for the common colour scale of rain.
    share
        True for a share from 0 to 1, with a scale of its own.
    coast
        Coastlines, (point, 2), in the units of the axes.
    """

    title: str
    values: np.ndarray
    y: Axis
    x: Axis
    rain: bool
    units: str
    share: bool = False
    coast: Sequence[Array] = ()


def draw_members(
    ds: xr.Dataset | None,
    ensemble: xr.Dataset,
    *,
    sample: Any = None,
    members: int | Sequence[int] = 4,
    conditions: Sequence[str] | str | None = None,
    ncols: int | None = None,
    mean: bool = False,
    quantile: float | Sequence[float] | None = None,
    exceedance: str | float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw maps of one sample in a grid; see `xcvae.verify.plots.Plots.members`."""
    if ds is not None:
        check_dataset(ds)
    if REALIZATION not in ensemble.dims:  # a selected member
        ensemble = ensemble.expand_dims(REALIZATION)
    divided = None if ds is None else _divided(ds, ensemble)
    # An ensemble alone is checked and named like one with an observation: its first member.
    first = ensemble.isel({REALIZATION: 0}, drop=True)
    match = pair_up(first if ds is None or divided is not None else ds, ensemble)
    position = _position(match, sample)
    panels = _rain_panels(match, position, members)
    if divided is not None:
        coarse = _panel("", divided, match, position)
        panels = [_named(coarse, str(divided.name)), *panels]
    elif ds is not None:
        observed = _panel("Observed", match.pair.observed, match, position)
        panels = [*_condition_panels(match, position, conditions), observed, *panels]
    panels += _statistics(match, position, mean=mean, quantile=quantile, exceedance=exceedance)
    daily = is_daily(match.pair.observed, match.pair.sample)
    rain = [panel.values for panel in panels if panel.rain]
    units = next(panel.units for panel in panels if panel.rain)
    scale = RainScale.of(rain, units, daily=daily)
    about = _title(match, position, days=daily) if title is None else title
    step = per_step(match.pair.observed, match.pair.sample, units)
    return _draw(panels, scale, about, ncols=ncols, label=step)


def _divided(ds: xr.Dataset, ensemble: xr.Dataset) -> xr.DataArray | None:
    """Return the coarse rain whose cells were divided into the pixels of an ensemble, if any.

    It has the name and the dims of the members, and a whole number of their pixels to a cell.
    """
    for name in ensemble.data_vars.keys() & ds.data_vars.keys():
        coarse, members = ds[name], ensemble[name]
        if REALIZATION not in members.dims or set(coarse.dims) != {*members.dims} - {REALIZATION}:
            continue
        sizes = [(members.sizes[dim], coarse.sizes[dim]) for dim in members.dims[-2:]]
        if any(fine == few or fine % few for fine, few in sizes):
            continue
        sample = next(str(dim) for dim in coarse.dims if dim not in members.dims[-2:])
        if ensemble.indexes[sample].isin(ds.indexes[sample]).all():
            return coarse.sel({sample: ensemble[sample].values})
    return None


def _position(match: MatchedPair, sample: Any) -> int:
    """Find the position of a sample in the ensemble."""
    source, dim = match.pair.observed, match.pair.sample
    count = source.sizes[dim]
    if sample is None:
        return int(np.argmax(np.nan_to_num(source.mean(source.dims[1:]).values)))
    labels = source.indexes.get(dim)
    whole = isinstance(sample, int | np.integer) and not isinstance(sample, bool)
    if whole and (labels is None or labels.dtype.kind not in "iu"):
        if -count <= int(sample) < count:
            return int(sample) % count
    elif labels is not None:
        try:
            found = np.atleast_1d(np.arange(count)[labels.get_loc(sample)])
        except (KeyError, TypeError, ValueError):
            found = np.array([], int)
        if found.size:
            return int(found[0])
    first, last = (label_of(source[dim].values[i]) for i in (0, -1))
    raise DataError.of(
        "sample",
        expected=f"one of the {count} samples, {first} to {last}, or a position",
        got=repr(sample),
        remedy=f"Choose one of ensemble['{dim}'].",
    )


def _rain_panels(match: MatchedPair, position: int, members: int | Sequence[int]) -> list[_Panel]:
    forecast = match.pair.forecast
    return [
        _panel(
            f"Member {int(forecast[REALIZATION].values[m])}",
            forecast.isel({REALIZATION: m}),
            match,
            position,
        )
        for m in chosen_members(members, forecast.sizes[REALIZATION])
    ]


def _panel(title: str, field: xr.DataArray, match: MatchedPair, position: int) -> _Panel:
    """Read one map; rain is converted to the units of figures."""
    sample = match.pair.sample
    units = str(field.attrs.get("units", "1"))
    # A depth cannot share the colour scale of a rate: it is drawn like any other condition.
    rain = field.name == match.pair.observed.name or (
        is_rain(field) and converts(units, match.pair.units)
    )
    y, x = match.axes_of(field)
    one = field.isel({sample: position} if sample in field.dims else {}).transpose(y, x).load()
    if rain:
        units = display_units(match.pair.observed, sample)
        one = to_units(one, units)
    if rain and float(one.min()) < 0:
        raise DataError.of(
            str(field.name),
            expected="rain, which is never below zero",
            got=f"{float(one.min()):.3g} {units}",
            remedy="Figures take physical values: undo any normalisation first.",
        )
    values, axes = np.asarray(one.values, float), map_axes(one)
    return _Panel(title, values, *axes, rain, units, coast=_coast(one, match, axes))


def _coast(field: xr.DataArray, match: MatchedPair, axes: tuple[Axis, Axis]) -> list[Array]:
    """Return coastlines for maps with latitudes and longitudes, or in a known projection."""
    name = mapping_name(field)
    reference = match.ds[name] if name in match.ds.variables else None
    named = reference is not None and reference.attrs.get("grid_mapping_name") != (
        "latitude_longitude"
    )
    if [axis.units for axis in axes] != ["°N", "°E"] and not named:
        return []
    lines = coastlines(field, reference if named else None)
    return [line / 1000.0 for line in lines] if named and axes[1].units == "km" else lines


def _statistics(
    match: MatchedPair,
    position: int,
    *,
    mean: bool,
    quantile: float | Sequence[float] | None,
    exceedance: str | float | None,
) -> list[_Panel]:
    """Return maps of mean, quantiles and exceedance of all members of a sample."""
    forecast = match.pair.forecast.isel({match.pair.sample: position}).load()
    found = []
    if mean:
        found.append(_panel("Mean", _like(forecast.mean(REALIZATION), forecast), match, position))
    levels = [] if quantile is None else np.atleast_1d(np.asarray(quantile, float)).tolist()
    for level in levels:
        if not 0 <= level <= 1:
            raise DataError.of(
                "quantile", expected="a share from 0 to 1", got=level, remedy="0.9 is 90 %."
            )
        field = forecast.quantile(level, REALIZATION).drop_vars("quantile")
        found.append(_panel(f"Quantile {100 * level:g} %", _like(field, forecast), match, position))
    if exceedance is not None:
        limit = threshold_in(match.pair.observed, exceedance)
        share = (forecast >= limit).mean(REALIZATION).where(forecast.notnull().all(REALIZATION))
        panel = _panel("", _like(share, forecast).rename("share"), match, position)
        text = f"Share of members ≥ {amount(match.pair.observed, limit)}"
        found.append(replace(panel, title=text, rain=False, units="1", share=True))
    return found


def _like(field: xr.DataArray, forecast: xr.DataArray) -> xr.DataArray:
    return field.rename(forecast.name).assign_attrs(forecast.attrs)


def _condition_panels(
    match: MatchedPair, position: int, conditions: Sequence[str] | str | None
) -> list[_Panel]:
    source, names = match.ds, [conditions] if isinstance(conditions, str) else conditions
    if names is None:
        coarse = coarse_rain(match)  # also one that `coarsen` derives
        if coarse is None:
            names = _gridded(match)[:1]
        else:
            source, names = coarse.to_dataset(), [str(coarse.name)]
    for name in names:
        if name not in source:
            raise MissingVariableError.of(
                "conditions",
                expected="variables of the Dataset",
                got=repr(name),
                remedy=nearest(name, source.data_vars),
            )
    return [_named(_panel("", source[name], match, position), name) for name in names]


def _named(panel: _Panel, name: str) -> _Panel:
    if not panel.rain:
        title = labelled(name, panel.units)
    elif panel.x.units == "km":
        title = f"Condition ({panel.x.spacing:.3g} km)"
    else:
        title = f"Condition ({panel.values.shape[0]} x {panel.values.shape[1]})"
    return replace(panel, title=title)


def _gridded(match: MatchedPair) -> list[str]:
    """Return the names of the conditions that are maps."""
    found = []
    for name, da in match.ds.data_vars.items():
        if name == match.pair.observed.name or match.pair.sample not in da.dims or da.ndim != 3:
            continue
        try:
            match.axes_of(da)
        except DataError:
            continue
        found.append(str(name))
    return found


def _title(match: MatchedPair, position: int, *, days: bool) -> str:
    da = match.pair.observed
    name = str(da.attrs.get("long_name", da.name))
    label = label_of(da[match.pair.sample].values[position], days=days)
    mode = str(match.record.get("mode", ""))
    if mode == "posterior" and match.record.get("spread") is not None:
        mode = f"posterior, spread {match.record['spread']:.2f}"
    return f"{name[:1].upper()}{name[1:]}, {label}" + (f"  ({mode})" if mode else "")


def _draw(
    panels: list[_Panel], scale: RainScale, title: str, *, ncols: int | None, label: str
) -> Figure:
    columns = _columns(panels, ncols)
    rows = -(-len(panels) // columns)
    # The maps of a column share its width.
    ratios = [max(_width(panel) for panel in panels[column::columns]) for column in range(columns)]
    between = GAP * columns + MARGIN
    height = min(MAX_HEIGHT, (MAX_WIDTH - between) / sum(ratios))
    width = sum(ratios) * height + between
    size = 12 if rows == 1 else 10.5
    heads = [
        style.wrapped(panel.title, ratios[i % columns] * height, size=size)
        for i, panel in enumerate(panels)
    ]
    lines = max(head.count("\n") for head in heads)
    title = style.wrapped(title, width, size=14)
    others = any(not panel.rain for panel in panels)
    tall = rows * (height + 0.35 + 0.2 * lines) + 0.5 * others + 0.2 * title.count("\n") + 0.8
    with style.new_figure(width, tall, "compressed") as figure:
        grid = figure.subplots(rows, columns, width_ratios=ratios, squeeze=False)
        shown: Any = None
        for number, axes in enumerate(grid.ravel()):
            if number >= len(panels):
                axes.set_axis_off()
                continue
            panel = panels[number]
            mesh = _map(axes, panel, scale)
            shown = mesh if panel.rain else shown
            axes.set_title(heads[number], loc="center", fontsize=size)
            alike = number % columns > 0 and _same_rows(panels[number - 1], panel)
            below = number + columns < len(panels) and _same_columns(panels, number, columns)
            _label(axes, panel, first=not alike, last=not below)
            _place(axes, panel, first=number == 0)
        _rain_bar(shown, grid.ravel().tolist(), scale, label, shrink=0.95 if rows == 1 else 0.6)
        if title:
            figure.suptitle(title, fontsize=14)
        return figure


def _rain_bar(shown: Any, maps: list[Axes], scale: RainScale, label: str, *, shrink: float) -> None:
    """Draw the colour bar of all maps of rain."""
    figure = maps[0].figure
    bar = figure.colorbar(shown, ax=maps, shrink=shrink, pad=0.012, aspect=22, fraction=0.05)
    bar.set_ticks([*scale.levels], labels=[f"{level:g}" for level in scale.levels])
    bar.ax.tick_params(labelsize=10, length=0)
    bar.outline.set_linewidth(0.6)
    bar.set_label(pretty(label), fontsize=12)


#: Maps in a row at most, unless ``ncols`` says otherwise, and the width of a grid over its height.
ROW, SHAPE = 8, 1.6


def _columns(panels: list[_Panel], ncols: int | None) -> int:
    """Return the number of columns: a row of few maps, else a grid of the shape of a slide."""
    count = len(panels)
    if ncols is not None:
        if type(ncols) is not int or ncols < 1:
            remedy = "Leave it out for a grid that fits a slide."
            raise DataError.of("ncols", expected="an integer >= 1", got=repr(ncols), remedy=remedy)
        return min(ncols, count)
    if count <= ROW:
        return count
    ratio = float(np.median([_width(panel) for panel in panels]))
    most = int(np.clip(np.ceil(np.sqrt(count * SHAPE / ratio)), 2, count))
    rows = -(-count // most)
    return -(-count // rows)  # so that the last row is as full as it can be


def _same_columns(panels: list[_Panel], number: int, columns: int) -> bool:
    """Return True if the map below has the same x axis."""
    here, other = panels[number].x, panels[number + columns].x
    a, b = here.edges()[[0, -1]], other.edges()[[0, -1]]
    return here.units == other.units and np.allclose(a, b, rtol=1e-3)


def _place(axes: Axes, panel: _Panel, *, first: bool) -> None:
    """Show where a map is: coastlines if they are known, else a scale bar on the first map."""
    if panel.coast:
        draw_coastlines(axes, list(panel.coast))
    elif first and panel.x.units == "km":
        draw_scale_bar(axes, 1.0)
    elif first and panel.x.units == "°E":
        north = float(np.cos(np.deg2rad(panel.y.values.mean())))
        draw_scale_bar(axes, KM_PER_DEGREE * max(north, 0.05))


def _width(panel: _Panel) -> float:
    """Return the width of a map of height 1."""
    y, x = (np.abs(np.ptp(axis.edges())) for axis in (panel.y, panel.x))
    shrink = np.cos(np.deg2rad(panel.y.values.mean())) if panel.y.units == "°N" else 1.0
    return float(np.clip(shrink * x / y, 0.4, 3.0))


def _same_rows(first: _Panel, second: _Panel) -> bool:
    a, b = (panel.y.edges()[[0, -1]] for panel in (first, second))
    return first.y.units == second.y.units and np.allclose(a, b, rtol=1e-3)


def _map(axes: Axes, panel: _Panel, scale: RainScale) -> Any:
    if panel.rain:
        chart, norm = scale.colours()
        return draw_map(axes, panel.values, panel.y, panel.x, cmap=chart, norm=norm)
    limits = {"cmap": "Greys", "vmin": 0.0, "vmax": 1.0} if panel.share else {"cmap": "cividis"}
    mesh = draw_map(axes, panel.values, panel.y, panel.x, **limits)
    bar = axes.figure.colorbar(mesh, ax=axes, orientation="horizontal", pad=0.02, aspect=18)
    style.few_ticks(bar.ax.xaxis, most=3)
    bar.ax.tick_params(labelsize=9)
    return mesh


def _label(axes: Axes, panel: _Panel, *, first: bool, last: bool = True) -> None:
    style.few_ticks(axes.xaxis, axes.yaxis, most=4)
    for spine in axes.spines.values():
        spine.set_visible(True)
    axes.tick_params(labelsize=9.5, length=3)
    if last:
        axes.set_xlabel(panel.x.units, fontsize=10.5, labelpad=2)
    else:
        axes.tick_params(labelbottom=False)
    if first:
        axes.set_ylabel(panel.y.units, fontsize=10.5, labelpad=2)
    else:
        axes.tick_params(labelleft=False)


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
