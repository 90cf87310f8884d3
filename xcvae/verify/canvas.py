"""What all pictures share: rain colours, units as people write them, figures without a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xcvae.errors import MismatchError, UnitsError
from xcvae.fields.units import factor, is_daily

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm, Colormap
    from matplotlib.figure import Figure

    from xcvae.verify.pairing import Task

__all__ = [
    "BASELINE",
    "DRY",
    "MASKED",
    "MEMBER",
    "OBSERVED",
    "Axis",
    "RainScale",
    "amount",
    "class_edges",
    "coarse_rain",
    "display_factor",
    "display_units",
    "label_of",
    "new_figure",
    "plain_log",
    "pretty",
    "set_aspect",
    "spatial_axis",
    "style",
]

#: Colours with a meaning, the same in every picture.
OBSERVED, MEMBER, BASELINE = "#111111", "#1f6fb4", "#d1702a"
DRY, MASKED = "#f3f2ee", "#a8a8a8"

HOURLY_LEVELS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
DAILY_LEVELS = (0.0, 0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0)
HOURLY_CLASSES = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
DAILY_CLASSES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0)
# Light to dark blue for everyday rain, then warm colours that jump to the eye for heavy rain.
ANCHORS = ("#cfe5f4", "#8cc1e6", "#3f8fd2", "#1c57a5", "#3b2e83", "#8b2a8e", "#d62f6d", "#f77f3c",
           "#fdd835")  # fmt: skip

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
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


def coarse_rain(task: Task) -> xr.DataArray | None:
    """Return the coarse rain an ensemble was made from; None where the Dataset has none."""
    try:
        found = task.for_baselines()
    except MismatchError:
        return None  # a picture of the rest is still worth having
    return found[found.attrs["condition"]] if "condition" in found.attrs else None


def class_edges(observed: xr.DataArray, sample: str) -> tuple[float, ...]:
    """Lower ends of classes of intensity, in the units of the data; the first is zero."""
    shown = display_units(observed, sample)
    levels = DAILY_CLASSES if is_daily(observed, sample) else HOURLY_CLASSES
    scale = factor(shown, str(observed.attrs["units"]), what=str(observed.name))
    return tuple(float(f"{level * scale:.12g}") for level in levels)


@contextmanager
def style() -> Iterator[None]:
    """Draw in the look of xcvae, and leave the caller's settings as they were."""
    # Not rcParams itself: reading its backend would choose one, and open the way to a window.
    from matplotlib import style as styles

    with styles.context(["default", STYLE]):
        yield


def new_figure(
    width: float, height: float, *, layout: Literal["constrained", "compressed"] | None
) -> Figure:
    """Make a figure of so many inches that belongs to no window and no pyplot state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = None
    if layout is not None:
        engine = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.05, compress=layout == "compressed")
    figure = Figure(figsize=(width, height), dpi=110, layout=engine)
    FigureCanvasAgg(figure)
    return figure


def pretty(units: str) -> str:
    """Write units the way they are printed.

    Examples
    --------
    >>> pretty("mm h-1"), pretty("kg m-2 s-1"), pretty("1")
    ('mm h⁻¹', 'kg m⁻² s⁻¹', '')
    """
    if units == "1":
        return ""
    words = []
    for word in units.replace("**", "").replace("^", "").split():
        head = word.rstrip("-0123456789")
        words.append(head + word[len(head) :].translate(_SUPERSCRIPTS) if head else word)
    return " ".join(words)


def display_units(field: xr.DataArray, sample: str) -> str:
    """Choose mm h-1, mm d-1 or mm: what rain is shown in, whatever it is stored in.

    Parameters
    ----------
    field
        Rain with the attribute ``units`` and the dim ``sample``.
    sample
        Name of the sample dim.
    """
    units = str(field.attrs["units"])
    try:
        factor(units, "mm", what=str(field.name))
    except UnitsError:
        return "mm d-1" if is_daily(field, sample) else "mm h-1"
    return "mm"


def display_factor(field: xr.DataArray) -> float:
    """Return what turns values in the units of the data into those that are shown."""
    sample = str(field.dims[0])
    return factor(str(field.attrs["units"]), display_units(field, sample), what=str(field.name))


def amount(field: xr.DataArray, value: float) -> str:
    """Write an amount in the units of the data as people do."""
    units = display_units(field, str(field.dims[0]))
    return f"{value * display_factor(field):.4g} {pretty(units)}"


def plain_log(axes: Axes) -> None:
    """Label logarithmic axes with 1, 2, 5, 10 instead of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def label_of(value: object, *, days: bool = False) -> str:
    """Write a sample label for a title: times to the minute, or to the day.

    Examples
    --------
    >>> time = np.datetime64("2018-05-17T14:25")
    >>> label_of(time), label_of(time, days=True)
    ('2018-05-17 14:25', '2018-05-17')
    """
    array = np.asarray(value)
    if array.dtype.kind == "M":
        return str(np.datetime_as_string(array, unit="D" if days else "m")).replace("T", " ")
    item = array.item()
    if hasattr(item, "strftime"):  # calendars of cftime
        return str(item.strftime("%Y-%m-%d" if days else "%Y-%m-%d %H:%M"))
    return str(item)


@dataclass(frozen=True)
class RainScale:
    """One discrete colour scale for all maps of a picture.

    Attributes
    ----------
    units
        Of the levels.
    levels
        Edges of the classes; the first class is dry.
    beyond
        Whether values exceed the last edge.
    """

    units: str
    levels: tuple[float, ...]
    beyond: bool

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], units: str, *, daily: bool) -> RainScale:
        """Choose levels for values in ``units``: as many as there is rain for, at least four."""
        every = DAILY_LEVELS if daily else HOURLY_LEVELS
        highest = max((float(np.nanmax(a, initial=0.0)) for a in arrays), default=0.0)
        needed = int(np.searchsorted(every, highest)) + 1
        levels = every[: min(max(needed, 5), len(every))]
        return cls(units, levels, highest > levels[-1])

    def colours(self) -> tuple[Colormap, BoundaryNorm]:
        """Return the colour map and the norm for matplotlib."""
        from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap

        # Colours stand for absolute amounts: those of the classes above are kept back.
        every = DAILY_LEVELS if self.levels[2] == DAILY_LEVELS[2] else HOURLY_LEVELS
        ramp = LinearSegmentedColormap.from_list("rain", ANCHORS)(np.linspace(0, 1, len(every) - 1))
        classes = len(self.levels) - 1 + self.beyond
        chart = ListedColormap([DRY, *(tuple(c) for c in ramp[: classes - 1])], name="rain")
        extend: Literal["max", "neither"] = "max" if self.beyond else "neither"
        return chart.with_extremes(bad=MASKED), BoundaryNorm(self.levels, classes, extend=extend)


@dataclass(frozen=True)
class Axis:
    """Cell centres of one map axis, as they are drawn.

    Attributes
    ----------
    values
        Centres, in ``units``.
    units
        "km", "°E", "°N", or "pixel" where nothing is known; else the units of the coordinate.
    """

    values: np.ndarray
    units: str

    @property
    def spacing(self) -> float:
        """Distance of neighbouring centres; 1 for a single one."""
        return float(np.abs(np.diff(self.values)).mean()) if self.values.size > 1 else 1.0

    def edges(self) -> np.ndarray:
        """Return the cell edges, one more than centres."""
        half = 0.5 * np.diff(self.values) if self.values.size > 1 else np.array([0.5])
        first, last = self.values[:1] - half[:1], self.values[-1:] + half[-1:]
        return np.concatenate([first, self.values[:-1] + half[: self.values.size - 1], last])


def spatial_axis(field: xr.DataArray, dim: str, *, east: bool) -> Axis:
    """Read a map axis: metres become km, degrees get their letter, no coordinate means pixels."""
    size = field.sizes[dim]
    if dim not in field.coords or field[dim].dtype.kind not in "fiu":
        return Axis(np.arange(size, dtype=float), "pixel")
    values = np.asarray(field[dim].values, float)
    attrs = field[dim].attrs
    units = str(attrs.get("units", ""))
    name = f"{attrs.get('standard_name', '')} {dim}".lower()
    if units.startswith("degree") or (not units and ("lat" in name or "lon" in name)):
        # A rotated pole has degrees, too, but no east and no north.
        rotated = "grid_" in name or "rlat" in name or "rlon" in name or units == "degrees"
        return Axis(values, "°" if rotated else "°E" if east else "°N")
    if units in ("m", "metre", "meter", "metres", "meters"):
        return Axis(values / 1000.0, "km")
    return Axis(values, units or "pixel")


def set_aspect(axes: Axes, y: Axis) -> None:
    """Show distances alike in both directions; degrees of longitude shrink with latitude."""
    if y.units == "°N":
        axes.set_aspect(1.0 / max(np.cos(np.deg2rad(float(y.values.mean()))), 0.05))
    else:
        axes.set_aspect("equal")
