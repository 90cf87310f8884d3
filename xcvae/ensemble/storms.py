"""Storms beyond the record: conditions that are amplified, moved or borrowed before sampling.

A storm component takes the samples of a model (dims, units and names of its data), and returns them
changed, with coordinates along the samples that say what was done. It treats each sample by itself,
so that ensembles do not depend on blocks. A :class:`StormPipeline` applies several in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NoReturn, Protocol

import numpy as np
import xarray as xr

from xcvae.ensemble.postprocess import check_like
from xcvae.errors import ComponentError, MismatchError
from xcvae.fields.cf import find_axes, is_rain
from xcvae.fields.dataspec import DataSpec, VariableSpec
from xcvae.fields.record import Record
from xcvae.fields.units import exponents_of, parse_quantity, per
from xcvae.registry import Component, Range, as_given, build, call, describe

#: Attribute of the coordinates that say what was done to a sample; its value is the component.
FLAG = "storm"


@dataclass(frozen=True)
class StormContext:
    """Information for storm components besides the samples.

    Attributes
    ----------
    spec
        Description of the data in the model.
    record
        Distribution of the rain that the model was trained on; None where it is not known.
    mode
        ``"prior"`` or ``"posterior"``.
    """

    spec: DataSpec
    record: Record | None = None
    mode: str = "prior"


class Storm(Protocol):
    """Signature of every storm component."""

    def __call__(self, ds: xr.Dataset, context: StormContext) -> xr.Dataset:
        """Return the samples changed: same variables, dims, shapes, units and labels."""
        ...


@dataclass(frozen=True)
class Amplify(Component):
    """Multiply the rain of a sample, coarse and observed, by a factor.

    Parameters
    ----------
    factor
        The factor; below 1 for a weaker storm.
    level
        In place of ``factor``: the largest coarse rain of each sample is raised to this amount, a
        quantity with units (``"40 mm h-1"``) or a number in the units of the condition. Samples
        that have more stay as they are.
    period
        In place of ``factor``: as ``level``, up to the amount that the coarse rain exceeds once in
        so many lengths of the record, by a generalized Pareto fit to the record of the model.
    most
        Largest factor that ``level`` and ``period`` may give: drizzle makes no storm.
    """

    factor: Annotated[float | None, Range(above=0)] = None
    level: str | float | None = None
    period: Annotated[float | None, Range(above=0)] = None
    most: Annotated[float, Range(1)] = 3.0

    def __post_init__(self) -> None:
        """Check that there is one measure."""
        super().__post_init__()
        given = [n for n in ("factor", "level", "period") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ComponentError.of(
                "storm 'amplify'",
                expected="one of factor, level and period",
                got=" and ".join(given) or "none of them",
                remedy="Give {'name': 'amplify', 'factor': 1.5}.",
            )

    def __call__(self, ds: xr.Dataset, context: StormContext) -> xr.Dataset:
        """Return the samples with more rain, and the factors as coordinate ``amplified``.

        Raises
        ------
        MismatchError
            The model has no coarse rain that could be amplified.
        ConfigError, UnitsError
            The level is no amount, or the record of the model too short for a period.
        """
        if not any(_is_coarse_rain(variable) for variable in context.spec.variables):
            _refuse(
                "amplify", "a model with coarse rain as a condition", "none of its conditions is",
                "It has no input that a heavier storm would change. Turn, mirror or borrow storms.",
            )  # fmt: skip
        sample = context.spec.sample
        factors = ds.coords.get("amplified")
        if factors is None:
            factors = xr.DataArray(self._factors(ds, context), dims=sample)
        found = ds.copy(deep=False)
        for name in _rain_of(ds, context.spec):
            rain = ds[name]
            # Whole numbers of a file become floats; float32 stays float32.
            kind = np.result_type(rain.dtype, np.float32)
            scaled = (rain * factors.astype(kind).variable).transpose(*rain.dims)
            found[name] = rain.copy(data=scaled.data)
        return _flagged(found, sample, "amplify", amplified=(factors.values, "factor of the rain"))

    def _factors(self, ds: xr.Dataset, context: StormContext) -> np.ndarray:
        sample, count = context.spec.sample, ds.sizes[context.spec.sample]
        if self.factor is not None:
            return np.full(count, self.factor)
        variable = next(v for v in context.spec.variables if _is_coarse_rain(v))
        if self.level is not None:
            what = "storm 'amplify', parameter 'level'"
            level = parse_quantity(self.level, units=variable.units, what=what)
        else:
            assert self.period is not None
            assert context.record is not None
            level = context.record.return_level(variable.name, self.period)
        rain = ds[variable.name]
        largest = rain.max([dim for dim in rain.dims if dim != sample]).values
        factors: np.ndarray = np.clip(level / np.maximum(largest, 1e-9), 1.0, self.most)
        return factors


@dataclass(frozen=True)
class Turn(Component):
    """Turn the maps of a sample, counterclockwise.

    Parameters
    ----------
    degrees
        90, 180 or 270; only 180 keeps a domain that is not square.
    """

    degrees: int = 180

    def __post_init__(self) -> None:
        """Check the angle."""
        super().__post_init__()
        if self.degrees not in (90, 180, 270):
            raise ComponentError.of(
                "storm 'turn', parameter 'degrees'", expected="90, 180 or 270",
                got=repr(self.degrees), remedy="Other angles would mix pixels.",
            )  # fmt: skip

    def __call__(self, ds: xr.Dataset, context: StormContext) -> xr.Dataset:
        """Return the samples turned, and the angle as coordinate ``turned``.

        Raises
        ------
        MismatchError
            A condition is tied to its place or direction, or the domain is not square.
        """
        _check_movable(ds, context.spec, "turn", directions=True)
        found, quarters = ds.copy(deep=False), self.degrees // 90
        # On a map whose rows run upwards, indices turn the other way round.
        quarters = quarters if _runs_down(ds, context.spec) else -quarters
        for name, (y, x) in _maps_of(ds, context.spec).items():
            if quarters % 2 and ds.sizes[y] != ds.sizes[x]:
                _refuse(
                    "turn", "a square domain", f"{ds.sizes[y]} x {ds.sizes[x]} of '{name}'",
                    "Cut it to a square, or turn by 180 degrees.",
                )  # fmt: skip
            found[name] = _changed(ds[name], (y, x), lambda a: _turned(a, quarters))
        angles = np.full(ds.sizes[context.spec.sample], self.degrees, "int32")
        flag = (angles, "turned by", "degree")
        return _flagged(found, context.spec.sample, "turn", turned=flag)


@dataclass(frozen=True)
class Mirror(Component):
    """Mirror the maps of a sample.

    Parameters
    ----------
    along
        The axis whose direction is reversed: ``"x"`` or ``"y"``.
    """

    along: str = "x"

    def __post_init__(self) -> None:
        """Check the axis."""
        super().__post_init__()
        if self.along not in ("x", "y"):
            raise ComponentError.of(
                "storm 'mirror', parameter 'along'", expected="'x' or 'y'", got=repr(self.along),
                remedy="'x' exchanges west and east, 'y' south and north.",
            )  # fmt: skip

    def __call__(self, ds: xr.Dataset, context: StormContext) -> xr.Dataset:
        """Return the samples mirrored, and a coordinate ``mirrored_x`` or ``mirrored_y``.

        Raises
        ------
        MismatchError
            A condition is tied to its place or direction.
        """
        _check_movable(ds, context.spec, "mirror", directions=True)
        found, axis = ds.copy(deep=False), ("y", "x").index(self.along)
        for name, dims in _maps_of(ds, context.spec).items():
            back = {dims[axis]: slice(None, None, -1)}
            found[name] = ds[name].copy(data=ds[name].variable.isel(back).data)
        flag = (np.ones(ds.sizes[context.spec.sample], bool), f"reversed along {self.along}")
        return _flagged(found, context.spec.sample, "mirror", **{f"mirrored_{self.along}": flag})


@dataclass(frozen=True)
class Shift(Component):
    """Shift the maps of a sample by whole cells of the coarse rain.

    Parameters
    ----------
    y, x
        Cells towards higher indices; negative towards lower ones.
    fill
        Rain that enters the domain: ``"mirror"`` continues the storm by its mirror image,
        ``"dry"`` leaves a gap, which ends the storm along a line.
    """

    y: int = 0
    x: int = 0
    fill: str = "mirror"

    def __post_init__(self) -> None:
        """Check the fill."""
        super().__post_init__()
        if self.fill not in ("mirror", "dry"):
            raise ComponentError.of(
                "storm 'shift', parameter 'fill'", expected="'mirror' or 'dry'",
                got=repr(self.fill), remedy="'mirror' is the default.",
            )  # fmt: skip

    def __call__(self, ds: xr.Dataset, context: StormContext) -> xr.Dataset:
        """Return the samples shifted, and the cells as coordinates ``shifted_y``, ``shifted_x``.

        Raises
        ------
        MismatchError
            A condition is tied to its place, or the shift is as wide as the domain.
        """
        spec = context.spec
        _check_movable(ds, spec, "shift", directions=False)
        coarse = [v.shape for v in spec.variables if _is_coarse_rain(v)]
        cells = min(coarse, default=spec.shape)
        found = ds.copy(deep=False)
        for name, dims in _maps_of(ds, spec).items():
            own = next((v.shape for v in spec.variables if v.name == name), spec.shape)
            # Pixels of this variable to a cell, as in training.
            sides = [-(-n // count) for n, count in zip(own, cells, strict=True)]
            steps = [self.y * sides[0], self.x * sides[1]]
            if any(abs(n) >= ds.sizes[d] for n, d in zip(steps, dims, strict=True)):
                _refuse(
                    "shift", "fewer cells than the domain has", f"{self.y} and {self.x}",
                    "Shift by less.",
                )  # fmt: skip
            found[name] = _changed(ds[name], dims, lambda a, s=steps: _shifted(a, s, self.fill))
        count = ds.sizes[spec.sample]
        flags = {
            f"shifted_{axis}": (np.full(count, getattr(self, axis), "int32"), f"cells along {axis}")
            for axis in ("y", "x")
        }
        return _flagged(found, spec.sample, "shift", **flags)


@dataclass(frozen=True)
class Borrow(Component):
    """Say that the samples are not those of the record, but borrowed from another source.

    Parameters
    ----------
    source
        Name of the other record or model run, for the attributes of the ensemble.
    """

    source: str

    def __call__(self, ds: xr.Dataset, context: StormContext) -> xr.Dataset:
        """Return the samples with a coordinate ``borrowed``.

        Raises
        ------
        MismatchError
            The posterior is requested: a borrowed storm has no observation.
        """
        if context.mode == "posterior":
            _refuse(
                "borrow", "mode='prior'", "mode='posterior'",
                "Borrowed conditions have no observed storm that could be redrawn.",
            )  # fmt: skip
        flag = (np.ones(ds.sizes[context.spec.sample], bool), f"conditions from {self.source}")
        return _flagged(ds, context.spec.sample, "borrow", borrowed=flag)


@dataclass(frozen=True)
class StormPipeline:
    """Storm components, applied to samples one after the other.

    Attributes
    ----------
    steps
        The components in their order.
    """

    steps: tuple[Storm, ...] = ()

    @classmethod
    def build(cls, storms: object) -> StormPipeline:
        """Build the components of a request: None, one, or a sequence of them.

        Raises
        ------
        ComponentError
            A component or one of its parameters is unknown or wrong, or a name is given twice.
        """
        if storms is None:
            return cls()
        listed = storms if isinstance(storms, list | tuple) else [storms]
        steps = tuple(build("storm", one) for one in listed)
        names = [str(describe("storm", one)["name"]) for one in steps]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ComponentError.of(
                "storms", expected="each component once", got=f"{', '.join(twice)} more than once",
                remedy="Multiply the factors, or add up the shifts, in one component.",
            )  # fmt: skip
        return cls(steps)

    def apply(self, ds: xr.Dataset, context: StormContext) -> xr.Dataset:
        """Apply the components to samples in the form of the model.

        Raises
        ------
        MismatchError
            What is requested cannot be right for these conditions.
        ComponentError
            A component failed, or returned other variables, shapes or labels.
        """
        for one in self.steps:
            ds = check_like("storm", one, ds, call("storm", one, ds, context), _signature)
        return ds

    def inputs(self, prepared: xr.Dataset, ds: xr.Dataset, context: StormContext) -> xr.Dataset:
        """Apply the components to the prepared samples of a Dataset, before members are drawn.

        Raises
        ------
        MismatchError
            As `apply`; or the model has a mask and storms are to be moved; or a coordinate that
            says what was done is in the Dataset already.
        ComponentError
            As `apply`.
        """
        if not self.steps:
            return prepared
        moving = [one for one in self.steps if isinstance(one, Turn | Mirror | Shift)]
        if moving and context.record is not None and context.record.masked:
            _refuse(
                str(describe("storm", moving[0])["name"]), "a model without a mask",
                "one that knows where pixels are missing: sea and coverage stay where they are",
                "Amplify or borrow storms instead.",
            )  # fmt: skip
        sample = context.spec.sample
        own = [
            name
            for name, coord in prepared.coords.items()
            if set(coord.dims) <= {sample} and name not in prepared.xindexes
        ]
        # Flags of the data, as those of an augmented Dataset, are of other storms.
        changed = self.apply(prepared.drop_vars(own), context)
        taken = [name for name in flags_of(changed, sample) if name in ds.variables]
        if taken:
            raise MismatchError.of(
                "storms",
                expected=f"data without '{taken[0]}', the coordinate that says what was done",
                got="data that have it",
                remedy=f"Drop or rename it: ds.drop_vars({taken}).",
            )
        return changed

    def describe(self) -> list[dict[str, Any]]:
        """Describe each component: name, parameters and package."""
        return [describe("storm", one) for one in self.steps]


@dataclass(frozen=True)
class DrawnStorms:
    """Storms of an ensemble, as its attributes and coordinates describe them.

    Attributes
    ----------
    pipeline
        The components.
    flags
        Coordinates along the samples of the ensemble that say what was done.
    context
        Information for the components.
    """

    pipeline: StormPipeline
    flags: Mapping[str, xr.Variable] = field(default_factory=dict)
    context: StormContext | None = None

    @classmethod
    def of(cls, ensemble: xr.Dataset, record: Mapping[str, Any]) -> DrawnStorms:
        """Read them from an ensemble and the content of its attribute ``xcvae``."""
        plain = as_given(record.get("storms") or [])
        spec = DataSpec.from_json(record["spec"])
        flags = {n: c.variable for n, c in flags_of(ensemble, spec.sample).items()}
        return cls(StormPipeline.build(plain), flags, StormContext(spec))

    def __bool__(self) -> bool:
        """Return True if the conditions were changed."""
        return bool(self.pipeline.steps)

    def applied(self, samples: xr.Dataset, columns: np.ndarray) -> xr.Dataset:
        """Change samples as the conditions of the ensemble were, and flag them.

        Parameters
        ----------
        samples
            Samples with the names and dims of the model.
        columns
            Their positions in the ensemble.

        Raises
        ------
        MismatchError
            A variable beyond those of the model has rows and columns, which would not be moved.
        """
        if not self:
            return samples
        assert self.context is not None
        at = {self.context.spec.sample: columns}
        given = {name: flag.isel(at) for name, flag in self.flags.items()}
        return self.pipeline.apply(samples.assign_coords(given), self.context)

    @property
    def sample(self) -> str:
        """Name of the sample dim."""
        return "" if self.context is None else self.context.spec.sample

    @property
    def borrowed(self) -> bool:
        """True if the conditions are not those of the record."""
        return any(isinstance(one, Borrow) for one in self.pipeline.steps)


def flags_of(ds: xr.Dataset, sample: str) -> dict[str, xr.DataArray]:
    """Return the coordinates that say what was done to each sample, by name."""
    return {
        str(name): coord
        for name, coord in ds.coords.items()
        if coord.dims == (sample,) and FLAG in coord.attrs
    }


def _is_coarse_rain(variable: VariableSpec) -> bool:
    return variable.precipitation and variable.role == "condition" and variable.sampled


def _rain_of(ds: xr.Dataset, spec: DataSpec) -> list[str]:
    """Return the names of all rain of the samples, observed and coarse."""
    known = {variable.name: variable for variable in spec.variables}
    found = []
    for name, da in ds.data_vars.items():
        if spec.sample not in da.dims:
            continue
        rain = known[str(name)].precipitation if name in known else is_rain(da)
        if name == spec.target or rain:
            found.append(str(name))
    return found


def _maps_of(ds: xr.Dataset, spec: DataSpec) -> dict[str, tuple[str, str]]:
    """Return the (y, x) dims of the target and of every aligned condition among the samples."""
    found = {spec.target: (spec.y, spec.x)} if spec.target in ds else {}
    for variable in spec.variables:
        if variable.name in ds and variable.shape:
            own = variable.dims
            if not set(own) <= set(ds[variable.name].dims):
                # A coarse field beside the one that the model derives has dims of its own.
                own = find_axes(ds[variable.name], sample=spec.sample)
            found[variable.name] = (own[0], own[1])
    return found


def _check_movable(ds: xr.Dataset, spec: DataSpec, what: str, *, directions: bool) -> None:
    """Refuse to move samples whose conditions are tied to a place, or to a direction."""
    for variable in spec.variables:
        if variable.role == "static":
            reason = f"the static '{variable.name}' is a map of this place"
        elif variable.pooled and variable.shape:
            reason = f"'{variable.name}' is a map of another area and ties the model to its place"
        elif variable.regrid:
            reason = f"'{variable.name}' lies on another grid, from which it is regridded"
        elif variable.gaps and variable.shape:
            reason = f"the gaps of '{variable.name}' are a map of this place"
        elif directions and not variable.precipitation and _is_velocity(variable.units):
            reason = f"'{variable.name}' in {variable.units} may be a component of the wind"
        elif any(n % count for n, count in zip(spec.shape, variable.shape, strict=False)):
            reason = f"cells of '{variable.name}' do not cover whole numbers of pixels"
        else:
            continue
        _refuse(what, "conditions that can be moved", reason, "Amplify or borrow storms instead.")
    dims = {spec.y, spec.x, *(dim for pair in _maps_of(ds, spec).values() for dim in pair)}
    named = {spec.target, *(variable.name for variable in spec.variables)}
    others = [str(n) for n, da in ds.data_vars.items() if n not in named and dims & set(da.dims)]
    if others:
        _refuse(
            what, "maps of the model only, which move with the storm", ", ".join(others),
            f"Drop them first: ds.drop_vars({others}).",
        )  # fmt: skip
    target = ds.get(spec.target)
    if target is not None and target.chunks is None and bool(target.isnull().any()):
        _refuse(
            what, "rain without a mask", "missing pixels, a map of this place",
            "Cut the domain to an area without gaps.",
        )  # fmt: skip


def _is_velocity(units: str) -> bool:
    """Return True for units of wind; evaporation per day or hour has no direction."""
    same = exponents_of(units) == exponents_of("m s-1")
    return same and not per(units, "day") and not per(units, "hour")


def _changed(da: xr.DataArray, dims: Sequence[str], change: Any) -> xr.DataArray:
    """Change the maps of a variable, whatever the order of its dims; lazy if it is."""
    moved = xr.apply_ufunc(
        change, da.variable, input_core_dims=[list(dims)], output_core_dims=[list(dims)],
        dask="parallelized", output_dtypes=[da.dtype],
        dask_gufunc_kwargs={"allow_rechunk": True},
    ).transpose(*da.dims)  # fmt: skip
    return da.copy(data=moved.data)


def _turned(maps: np.ndarray, quarters: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(maps, quarters, axes=(-2, -1)))


def _shifted(maps: np.ndarray, steps: Sequence[int], fill: str) -> np.ndarray:
    for axis, step in zip((-2, -1), steps, strict=True):
        width = [(0, 0)] * maps.ndim
        width[axis] = (max(step, 0), max(-step, 0))
        size = maps.shape[axis]
        padded = np.pad(maps, width, mode="symmetric" if fill == "mirror" else "constant")
        maps = np.take(padded, np.arange(size) + max(-step, 0), axis=axis)
    return maps


def _runs_down(ds: xr.Dataset, spec: DataSpec) -> bool:
    """Return True if rows run downwards on a map with columns to the right, as of an image."""
    down = True
    for dim, usual in ((spec.y, -1.0), (spec.x, 1.0)):
        if dim in ds.coords and ds.sizes[dim] > 1 and ds[dim].dtype.kind in "iuf":
            span = float(ds[dim].values[-1]) - float(ds[dim].values[0])
            down = down == (span * usual > 0)
    return down


def _flagged(ds: xr.Dataset, sample: str, component: str, **flags: tuple[Any, ...]) -> xr.Dataset:
    """Add coordinates along the samples: values, long name and units by name."""
    return ds.assign_coords(
        {
            name: (
                sample,
                values,
                {"long_name": text, "units": units[0] if units else "1", FLAG: component},
            )
            for name, (values, text, *units) in flags.items()
        }
    )


def _signature(ds: xr.Dataset) -> str:
    return ", ".join(
        f"{name} {dict(da.sizes)} {da.attrs.get('units')!r}"
        for name, da in sorted(ds.data_vars.items(), key=lambda pair: str(pair[0]))
    )


def _refuse(what: str, expected: str, got: str, remedy: str) -> NoReturn:
    raise MismatchError.of(f"storm '{what}'", expected=expected, got=got, remedy=remedy)
