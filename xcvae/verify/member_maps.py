"""The picture for a talk: condition, observation and members of one sample in one row of maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xcvae.errors import DataError, MissingVariableError, explain, nearest
from xcvae.fields.cf import find_axes, is_rain
from xcvae.fields.units import is_daily, to_units
from xcvae.verify import canvas
from xcvae.verify.physical import REALIZATION, Fields, fields_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["members"]

PANEL_HEIGHT = 2.7
MAX_WIDTH = 17.0


@dataclass(frozen=True)
class _Panel:
    """One map: its title, values (y, x) and axes; ``rain`` ones share the colour scale."""

    title: str
    values: np.ndarray
    y: canvas.Axis
    x: canvas.Axis
    rain: bool
    units: str


def members(
    ds: xr.Dataset | None,
    ensemble: xr.Dataset,
    *,
    sample: Any = None,
    members: int | Sequence[int] = 4,
    conditions: Sequence[str] | str | None = None,
) -> Figure:
    """Draw maps of one sample side by side, all rain in one discrete colour scale.

    Parameters
    ----------
    ds : xarray.Dataset or None
        The observation (dims sample, y, x, with the name it has in the ensemble) and conditions.
        None shows members alone.
    ensemble : xarray.Dataset
        From `xcvae.sample`: dims (realization, sample, y, x).
    sample : label, optional
        Which sample, by label as in ``sel`` (a time may be text). Where the labels are not
        integers an integer is a position. None takes the one with the most rain.
    members : int or list of int
        How many members, or which.
    conditions : list of str, optional
        Gridded variables of `ds` to show. None shows the first coarse rain field, or the first
        gridded variable where there is no such field. An empty list shows none.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnitsError
        The values are not physical rain: units are missing or not those of precipitation.
    MissingVariableError
        A condition is not in `ds`.
    DataError
        There is no such sample or member.
    """
    fields = fields_of(ds, ensemble)
    position = _position(fields, sample)
    panels = [
        *_condition_panels(ds, fields, position, conditions),
        *_rain_panels(fields, position, members),
    ]
    daily = is_daily(fields.forecast.isel({REALIZATION: 0}), fields.sample)
    rain = [panel.values for panel in panels if panel.rain]
    scale = canvas.RainScale.of(rain, panels[-1].units, daily=daily)
    with canvas.style():
        return _draw(panels, scale, _title(ensemble, fields, position))


def _position(fields: Fields, sample: Any) -> int:
    """Find the position of a sample in the ensemble."""
    source = fields.forecast if fields.observed is None else fields.observed
    count = source.sizes[fields.sample]
    if sample is None:
        over = [dim for dim in source.dims if dim != fields.sample]
        return int(np.argmax(np.nan_to_num(source.mean(over).values)))
    labels = source.indexes.get(fields.sample)
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
    first, last = (source[fields.sample].values[i] for i in (0, -1))
    raise DataError(
        explain(
            "sample",
            expected=f"one of the {count} samples, {canvas.label_of(first)} to "
            f"{canvas.label_of(last)}, or a position",
            got=repr(sample),
            remedy=f"ensemble['{fields.sample}'] lists them.",
        )
    )


def _rain_panels(fields: Fields, position: int, members: int | Sequence[int]) -> list[_Panel]:
    size = fields.forecast.sizes[REALIZATION]
    chosen = list(range(min(members, size)) if isinstance(members, int) else members)
    if not chosen or min(chosen) < -size or max(chosen) >= size:
        raise DataError(
            explain(
                "members",
                expected=f"at least one of the {size} members, counted from 0",
                got=members,
                remedy="Give a number of members, or a list of positions.",
            )
        )
    panels = []
    if fields.observed is not None:
        panels.append(_panel("Observed", fields.observed, fields.sample, position))
    for m in chosen:
        member = fields.forecast.isel({REALIZATION: m})
        number = int(fields.forecast[REALIZATION].values[m]) + 1
        panels.append(_panel(f"Member {number}", member, fields.sample, position))
    return panels


def _panel(title: str, field: xr.DataArray, sample: str, position: int) -> _Panel:
    """Read one map; rain is converted to what it is shown in."""
    rain = is_rain(field)
    units = str(field.attrs["units"])
    if rain:
        units = canvas.display_units(field, sample)
    one = field.isel({sample: position}) if sample in field.dims else field
    if rain:
        one = to_units(one, units)
    y, x = find_axes(one)
    one = one.transpose(y, x)
    return _Panel(
        title,
        np.asarray(one.values, float),
        canvas.spatial_axis(one, y, east=False),
        canvas.spatial_axis(one, x, east=True),
        rain,
        units,
    )


def _condition_panels(
    ds: xr.Dataset | None, fields: Fields, position: int, conditions: Sequence[str] | str | None
) -> list[_Panel]:
    if ds is None:
        return []
    names = [conditions] if isinstance(conditions, str) else conditions
    if names is None:
        names = _gridded(ds, fields)[:1]
    for name in names:
        if name not in ds:
            raise MissingVariableError(
                explain(
                    "conditions",
                    expected="variables of the Dataset",
                    got=repr(name),
                    remedy=nearest(name, ds.data_vars),
                )
            )
    panels = []
    for name in names:
        at = fields.source_positions[position]
        panel = _panel("", ds[name].assign_attrs(_with_units(ds[name])), fields.sample, int(at))
        panels.append(_named(panel, name))
    return panels


def _with_units(da: xr.DataArray) -> dict[str, Any]:
    return {**da.attrs, "units": str(da.attrs.get("units", "1"))}


def _named(panel: _Panel, name: str) -> _Panel:
    if not panel.rain:
        title = f"{name} [{canvas.pretty(panel.units)}]" if panel.units != "1" else name
    elif panel.x.units in ("km", "m"):
        title = f"Condition ({panel.x.spacing:.3g} {panel.x.units})"
    else:
        title = f"Condition ({panel.values.shape[0]} × {panel.values.shape[1]})"
    return _Panel(title, panel.values, panel.y, panel.x, panel.rain, panel.units)


def _gridded(ds: xr.Dataset, fields: Fields) -> list[str]:
    """Name the conditions that can be drawn, rain first."""
    found = []
    for name, da in ds.data_vars.items():
        if str(name) == fields.name or fields.sample not in da.dims or da.ndim != 3:
            continue
        try:
            find_axes(da.isel({fields.sample: 0}))
        except DataError:
            continue
        found.append(str(name))
    return sorted(found, key=lambda name: not is_rain(ds[name]))


def _title(ensemble: xr.Dataset, fields: Fields, position: int) -> str:
    da = fields.forecast
    name = str(da.attrs.get("long_name", fields.name))
    where = f", {canvas.label_of(da[fields.sample].values[position])}"
    try:
        how = json.loads(ensemble.attrs.get("xcvae", "{}"))
    except ValueError:
        how = {}
    mode = how.get("mode", "")
    if mode == "posterior" and how.get("spread") is not None:
        mode = f"posterior, spread {how['spread']:.2f}"
    return f"{name[:1].upper()}{name[1:]}{where}" + (f"  ({mode})" if mode else "")


def _draw(panels: list[_Panel], scale: canvas.RainScale, title: str) -> Figure:
    ratios = [_width(panel) for panel in panels]
    height = min(PANEL_HEIGHT, (MAX_WIDTH - 2.0) / sum(ratios))
    figure = canvas.new_figure(
        sum(ratios) * height + 0.28 * len(panels) + 1.6, height + 1.15, layout="compressed"
    )
    row = figure.subplots(1, len(panels), width_ratios=ratios, squeeze=False)[0]
    shown = None
    for place, (axes, panel) in enumerate(zip(row, panels, strict=True)):
        mesh = _map(axes, panel, scale)
        shown = mesh if panel.rain else shown
        alike = place > 0 and _same_grid(panels[place - 1], panel)
        _label(axes, panel, first=not alike)
    bar = figure.colorbar(shown, ax=list(row), shrink=0.95, pad=0.012, aspect=22, fraction=0.05)
    bar.set_ticks([*scale.levels], labels=[f"{level:g}" for level in scale.levels])
    bar.ax.tick_params(labelsize=10, length=0)
    bar.outline.set_linewidth(0.6)
    bar.set_label(canvas.pretty(scale.units), fontsize=12)
    figure.suptitle(title, fontsize=14)
    return figure


def _width(panel: _Panel) -> float:
    """Width of a map whose height is 1."""
    y, x = (np.abs(np.ptp(axis.edges())) for axis in (panel.y, panel.x))
    shrink = np.cos(np.deg2rad(panel.y.values.mean())) if panel.y.units == "°N" else 1.0
    return float(np.clip(shrink * x / y, 0.4, 3.0))


def _same_grid(first: _Panel, second: _Panel) -> bool:
    return all(
        a.units == b.units and np.allclose(a.edges()[[0, -1]], b.edges()[[0, -1]], rtol=1e-3)
        for a, b in ((first.y, second.y), (first.x, second.x))
    )


def _map(axes: Axes, panel: _Panel, scale: canvas.RainScale) -> Any:
    values = np.ma.masked_invalid(panel.values)
    axes.set_facecolor(canvas.MASKED)
    edges = panel.x.edges(), panel.y.edges()
    if panel.rain:
        chart, norm = scale.colours()
        mesh = axes.pcolormesh(*edges, values, cmap=chart, norm=norm, rasterized=True)
    else:
        mesh = axes.pcolormesh(*edges, values, cmap="cividis", rasterized=True)
        bar = axes.figure.colorbar(mesh, ax=axes, orientation="horizontal", pad=0.02, aspect=18)
        bar.ax.tick_params(labelsize=9)
    if panel.y.units == "pixel":
        axes.invert_yaxis()  # rows count from the top, as in the array
    canvas.set_aspect(axes, panel.y)
    return mesh


def _label(axes: Axes, panel: _Panel, *, first: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(panel.title, fontsize=12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    for spine in axes.spines.values():
        spine.set_visible(True)
    axes.tick_params(labelsize=9.5, length=3)
    axes.set_xlabel(panel.x.units, fontsize=10.5, labelpad=2)
    if first:
        axes.set_ylabel(panel.y.units, fontsize=10.5, labelpad=2)
    else:
        axes.tick_params(labelleft=False)
