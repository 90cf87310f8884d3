"""The description of its training Dataset that a model stores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import xarray as xr

from xcvae.fields.axes import Axis, axis_of
from xcvae.fields.units import rain_converts


def plain(value: object) -> Any:
    """Turn an attribute into JSON types; values without a JSON type become None or text."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


#: Attributes that older files do not have, with their values there.
ADDED: dict[str, Any] = {
    "step_seconds": None,
    "missing": None,
    "scales": None,
    "mapping": {},
    "regrid": None,
    "side": None,
    "gaps": False,
    "reason": "",
}


def json_attribute(ds: xr.Dataset, name: str = "xcvae") -> dict[str, Any]:
    """Return the JSON object in an attribute of a Dataset; empty without one."""
    try:
        content = json.loads(ds.attrs.get(name, "{}"))
    except (TypeError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class VariableSpec:
    """A condition or a static.

    Attributes
    ----------
    name, units
        As in the training Dataset; other units are converted to these.
    dims
        The (y, x) dims of its own grid; () for a scalar per sample.
    shape
        Its size along ``dims``.
    role
        Statics are on the target's grid.
    aligned
        Stretched onto the target's grid and seen pixel by pixel.
    pooled
        Encoded as a whole and known everywhere.
    precipitation
        Rain; it is scaled like the target.
    sampled
        Has the sample dim.
    regrid
        How it is brought to the target's grid, where it lies on one that is not comparable:
        ``conservative`` or ``bilinear``. None: it is stretched along its axes, or pooled.
    side
        Side of its cells in km, if it is regridded.
    gaps
        Values may be missing: they are filled, and a mask tells the network where.
    reason
        Why it is regridded or pooled; empty in older files.
    """

    name: str
    units: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    role: Literal["condition", "static"]
    aligned: bool
    pooled: bool
    precipitation: bool
    sampled: bool
    regrid: Literal["conservative", "bilinear"] | None = None
    side: float | None = None
    gaps: bool = False
    reason: str = ""

    @property
    def stretched(self) -> bool:
        """True for an aligned condition that is interpolated along the axes of its own grid."""
        return self.aligned and self.role == "condition" and self.regrid is None


#: Side of a pixel, in km, at which the number for the network is zero; and likewise for factors.
MIDDLE_PIXEL, MIDDLE_FACTOR = 2.0, 2.0**2.5
#: Octaves that make a difference of 1 in these numbers.
OCTAVES = 1.5


@dataclass(frozen=True)
class Scales:
    """Factors and pixel sizes of a model that serves any of them.

    The network takes two numbers per sample: the factor of the block means and the side of a
    pixel, both as logarithms.

    Attributes
    ----------
    factor
        Smallest and largest factor in training: pixels along a side of a block.
    pixel
        Smallest and largest side of a pixel in training, in km.
    spacing
        Side of a pixel of the grid that is described, in km: the geometric mean of both axes.
    fixed
        Factor of the Dataset that is described; None where it is drawn at random, in training.
    """

    factor: tuple[int, int]
    pixel: tuple[float, float]
    spacing: float
    fixed: int | None = None

    @property
    def open(self) -> bool:
        """True if factor and pixel size are drawn at random from the ranges."""
        return self.fixed is None

    def multiples(self) -> tuple[int, int]:
        """Return the numbers of pixels of the record that the smallest and largest pixel have."""
        low, high = (max(1, round(side / self.spacing)) for side in self.pixel)
        return low, high

    def numbers(self, factor: int, multiple: int = 1) -> tuple[float, float]:
        """Return what the network is given for a factor and a pixel of ``multiple`` pixels.

        Outside the ranges of the training it is given their ends.
        """
        factor = min(max(factor, self.factor[0]), self.factor[1])
        pixel = min(max(multiple * self.spacing, self.pixel[0]), self.pixel[1])
        return (
            math.log2(factor / MIDDLE_FACTOR) / OCTAVES,
            math.log2(pixel / MIDDLE_PIXEL) / OCTAVES,
        )

    def pairs(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """Return all pairs (factor, multiple) that leave two blocks along each side of a grid."""
        low, high = self.multiples()
        return [
            (factor, multiple)
            for multiple in range(low, high + 1)
            for factor in range(self.factor[0], self.factor[1] + 1)
            if min(shape) // multiple >= 2 * factor
        ]

    def spread_pairs(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """Return few of the `pairs`, spread over both ranges, for validation."""
        factors, multiples = (
            set(np.geomspace(*ends, count).round().astype(int).tolist())
            for ends, count in ((self.factor, 4), (self.multiples(), 3))
        )
        return [p for p in self.pairs(shape) if p[0] in factors and p[1] in multiples]


@dataclass(frozen=True)
class DataSpec:
    """Names, units, grids and thresholds of the training Dataset.

    Attributes
    ----------
    target, units
        The rain variable, and the units of it and of the members.
    attrs
        Attributes of the target, as JSON types.
    sample, y, x
        Names of the target's dims.
    shape
        Size of the training grid along (y, x).
    coordinates
        1-D coordinates of the grids of target and conditions, by dim; None without.
    coordinate_attrs
        Their attributes, by dim.
    variables
        Conditions in the order given, the derived one last; then statics.
    coarsen
        Block size of the condition that is derived from the target.
    wet_threshold, drizzle_threshold
        Defaults for this data, in ``units``.
    daily
        Samples are days, not hours or minutes.
    step_seconds
        Shortest step between samples with rain; None without times, and in older files.
    missing
        What is done about gaps in conditions and statics: ``"mask"``, or None to refuse them.
    mapping
        Attributes of the target's grid mapping, if a condition is regridded.
    scales
        Factors and pixel sizes of a model that serves any of them; None for all other models.
    """

    target: str
    units: str
    attrs: dict[str, Any]
    sample: str
    y: str
    x: str
    shape: tuple[int, int]
    coordinates: dict[str, list[float] | None]
    variables: tuple[VariableSpec, ...]
    coarsen: int | None
    wet_threshold: float
    drizzle_threshold: float
    daily: bool
    coordinate_attrs: dict[str, dict[str, Any]] = field(default_factory=dict)
    step_seconds: float | None = None
    missing: Literal["mask"] | None = None
    mapping: dict[str, Any] = field(default_factory=dict)
    scales: Scales | None = None

    @property
    def step(self) -> float:
        """The step in seconds, for thresholds of any selection of the record's samples.

        An older file has none: an hour or a day has the thresholds that it was trained with.
        """
        return self.step_seconds or (86400.0 if self.daily else 3600.0)

    @property
    def located(self) -> bool:
        """True if the model is tied to its domain: a condition is a map of another area."""
        return any(variable.pooled and variable.shape for variable in self.variables)

    @property
    def random_scale(self) -> bool:
        """True if the condition is derived anew for every batch, at a random factor."""
        return self.scales is not None and self.scales.open

    @property
    def derived(self) -> str | None:
        """Name of the condition that ``coarsen`` makes, None without."""
        derives = self.coarsen is not None or self.random_scale
        return f"{self.target}_coarse" if derives else None

    @property
    def rain_conditions(self) -> tuple[VariableSpec, ...]:
        """The conditions that are rain over the domain of the target."""
        return tuple(
            v for v in self.variables if v.aligned and v.precipitation and v.role == "condition"
        )

    @property
    def rain_condition(self) -> VariableSpec | None:
        """The first rain condition, which members are added to; None without one."""
        return next(iter(self.rain_conditions), None)

    @property
    def coarse_rain(self) -> VariableSpec | None:
        """The finest rain condition of the samples, which members and baselines are compared by.

        One that converts to the units of the target has precedence: a rate can be compared with
        a depth only if the step of the samples is known.
        """
        return max(
            (v for v in self.rain_conditions if v.sampled),
            key=lambda v: (
                rain_converts(v.units, self.units, self.step_seconds),
                math.prod(v.shape),
            ),
            default=None,
        )

    @property
    def grid_coords(self) -> dict[str, xr.DataArray]:
        """Coordinates of the training grid along y and x, as far as it has any."""
        return {
            dim: xr.DataArray(values, dims=dim, name=dim, attrs=self.coordinate_attrs.get(dim, {}))
            for dim in (self.y, self.x)
            if (values := self.coordinates.get(dim)) is not None
        }

    def axis(self, dim: str) -> Axis:
        """Return the training grid's axis along a dim."""
        values = self.coordinates.get(dim)
        array = None if values is None else np.array(values)
        return axis_of(dim, array, self.coordinate_attrs.get(dim, {}))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, for the model file."""
        content: dict[str, Any] = plain(asdict(self))
        # As in older files, whose records stay the same.
        for part in (content, *content["variables"]):
            for key, idle in ADDED.items():
                if key in part and part[key] == idle:
                    del part[key]
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> DataSpec:
        """Restore from the result of `to_json`."""
        height, width = content["shape"]
        variables = tuple(
            VariableSpec(**{**item, "dims": tuple(item["dims"]), "shape": tuple(item["shape"])})
            for item in content["variables"]
        )
        own: dict[str, Any] = {"shape": (height, width), "variables": variables}
        if content.get("scales") is not None:
            scales = content["scales"]
            low, high = scales["factor"]
            least, most = scales["pixel"]
            own["scales"] = Scales(**{**scales, "factor": (low, high), "pixel": (least, most)})
        return cls(**{**content, **own})
