"""The only border between physical and normalised values.

Physical values carry ``units`` and live in xarray. Normalised values are `Normalised` arrays (or,
inside the network, torch tensors) and have no units. Rain x goes through
``log1p(x / eps) / divisor``, with eps the wet threshold in x's own units, so that everything at or
below zero on the normalised side is exactly dry on the physical one. Other variables are
standardised with one mean and one standard deviation each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NewType, Protocol, Self, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import DataError, UnitsError, warn_user
from xcvae.fields.dataspec import DataSpec, VariableSpec
from xcvae.fields.record import Record, largest_of
from xcvae.fields.sample_blocks import block_length, block_slices
from xcvae.fields.units import STEP, default_wet_threshold

#: An array in the model's space. Only this module makes one or turns one back.
Normalised = NewType("Normalised", NDArray[np.float32])

#: Normalised values above this are clipped on the way back (it is 8e3 mm/h for radar rain), so
#: that a network that diverges yields a large number to be found, not an overflow.
CEILING = 5.7

#: Default memory of a block of `blocks_of`.
BLOCK_BYTES = 64 * 2**20


class _Tensor(Protocol):
    def clamp(self, min: float, max: float) -> Self: ...
    def expm1(self) -> Self: ...
    def __mul__(self, other: float) -> Self: ...


T = TypeVar("T", bound=_Tensor)


@dataclass(frozen=True)
class RainScaling:
    """``log1p(x / eps) / divisor``; ``eps`` in ``units``."""

    units: str
    eps: float
    divisor: float = 2.0

    def normalise(self, values: NDArray[Any]) -> Normalised:
        """Convert physical values in ``units`` to the model's space."""
        scaled = np.maximum(values, 0.0)
        # In place: a stream of samples spends as much time on memory as on logarithms.
        scaled /= self.eps
        np.log1p(scaled, out=scaled)
        scaled /= self.divisor
        return Normalised(scaled.astype(np.float32, copy=False))

    def physical(self, normalised: T) -> T:
        """Convert a tensor of the model's space to ``units``; dry pixels are exactly zero."""
        return (normalised.clamp(0.0, CEILING) * self.divisor).expm1() * self.eps


@dataclass(frozen=True)
class StandardScaling:
    """``(x - mean) / std``; both in ``units``."""

    units: str
    mean: float
    std: float

    def normalise(self, values: NDArray[Any]) -> Normalised:
        """Convert physical values in ``units`` to the model's space."""
        scaled = values - self.mean
        scaled /= self.std
        return Normalised(scaled.astype(np.float32, copy=False))


@dataclass(frozen=True)
class Scaling:
    """The fitted scalings of a model: one for the target, one for each other variable."""

    target: RainScaling
    variables: dict[str, RainScaling | StandardScaling]

    @classmethod
    def fit(
        cls, prepared: xr.Dataset, spec: DataSpec, budget: int = BLOCK_BYTES
    ) -> tuple[Scaling, Record]:
        """Fit on a Dataset from `xcvae.fields.describe.prepare`, in blocks of ``budget`` bytes.

        Returns
        -------
        Scaling, Record
            The scaling, and the record of the target that the same pass collects.

        Raises
        ------
        DataError
            A condition is constant or has missing values.
        """
        target = RainScaling(spec.units, spec.wet_threshold)
        empty = 0

        def rain() -> Iterator[NDArray[Any]]:
            nonlocal empty
            for block in blocks_of(prepared[[spec.target]], spec, budget):
                values = np.asarray(block[spec.target].values)
                empty += int((~np.isfinite(values).any(axis=(1, 2))).sum())
                yield values

        record = Record.of(rain(), units=spec.units, wet_threshold=spec.wet_threshold)
        if empty and prepared[spec.target].chunks is not None:
            # Of data in memory, they were found before.
            _warn_of_empty(spec, empty, record.samples)
        variables: dict[str, RainScaling | StandardScaling] = {}
        conditions = {}
        for v in spec.variables:
            if spec.random_scale:
                # The derived condition exists in batches only.
                variables[v.name] = target
                continue
            variables[v.name], maxima = _fit(prepared, v, spec, budget)
            if v.precipitation and v.role == "condition":
                conditions[v.name] = largest_of(maxima)
        return cls(target, variables), replace(record, conditions=conditions)

    def normalise(self, field: xr.DataArray, name: str | None = None) -> Normalised:
        """Normalise a physical field; ``name`` None means the target.

        Raises
        ------
        UnitsError
            The units of the field are not those of the scaling.
        """
        scaling = self.target if name is None else self.variables[name]
        found = field.attrs.get("units")
        if found != scaling.units:
            raise UnitsError.of(
                str(name or field.name),
                expected=f"units '{scaling.units}'",
                got=repr(found),
                remedy=f"Convert the field first: to_units(field, {scaling.units!r}).",
            )
        return scaling.normalise(np.asarray(field.values))

    def physical(self, normalised: T) -> T:
        """Convert a normalised tensor of the target to the target's units."""
        return self.target.physical(normalised)

    def renamed(self, names: Mapping[str, str]) -> Scaling:
        """Return the same scalings under other names of variables, by old name."""
        return Scaling(self.target, {names.get(n, n): one for n, one in self.variables.items()})

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, for the model file."""
        return {
            "target": asdict(self.target),
            "variables": {
                name: {"kind": type(s).__name__, **asdict(s)} for name, s in self.variables.items()
            },
        }

    @classmethod
    def from_json(cls, text: dict[str, Any]) -> Scaling:
        """Restore from the result of `to_json`."""
        kinds = {"RainScaling": RainScaling, "StandardScaling": StandardScaling}
        variables = {
            name: kinds[s["kind"]](**{k: v for k, v in s.items() if k != "kind"})
            for name, s in text["variables"].items()
        }
        return cls(RainScaling(**text["target"]), variables)


def _warn_of_empty(spec: DataSpec, empty: int, samples: int) -> None:
    warn_user(
        f"{spec.target}: {empty} of {samples} samples have no valid pixel, as after an outer "
        "merge; nothing is learned from them. Drop them: "
        f"ds.dropna({spec.sample!r}, how='all', subset=[{spec.target!r}]).",
    )


def blocks_of(
    prepared: xr.Dataset, spec: DataSpec, budget: int = BLOCK_BYTES
) -> Iterator[xr.Dataset]:
    """Cut a prepared Dataset into blocks of samples, so that lazy data is never loaded whole.

    A block takes up to ``budget`` bytes as the float64 that statistics are made of, and at least
    a sample.
    """
    count = prepared.sizes[spec.sample]
    sampled = (da for da in prepared.data_vars.values() if spec.sample in da.dims)
    sample_bytes = 8 * sum(da.size for da in sampled) // count
    for block in block_slices(count, block_length(sample_bytes, budget)):
        yield prepared.isel({spec.sample: block})


def _fit(
    prepared: xr.Dataset, variable: VariableSpec, spec: DataSpec, budget: int
) -> tuple[RainScaling | StandardScaling, NDArray[np.float64]]:
    """Fit the scaling of a variable, and return the largest value of each sample with it."""
    field = prepared[variable.name]
    units = str(variable.units)
    (count, mean, spread), maxima = _moments(field, variable, spec, budget)
    if count < field.size and not variable.gaps:
        raise DataError.of(
            variable.name,
            expected="a condition or static without missing values",
            got=f"{field.size - count} NaN or infinite of {field.size}",
            remedy="Train with missing='mask', or fill them (ds.fillna, interpolate_na), or drop "
            "those samples.",
        )
    if variable.precipitation:
        field = field.assign_attrs({STEP: spec.step})
        return RainScaling(units, default_wet_threshold(field, spec.sample)), maxima
    if spread <= 0:
        raise DataError.of(
            variable.name,
            expected="values that vary",
            got=f"the constant {mean:g} {units}",
            remedy="Leave it out: a constant has no information for the model.",
        )
    return StandardScaling(units, mean, spread), maxima


def _moments(
    field: xr.DataArray, variable: VariableSpec, spec: DataSpec, budget: int
) -> tuple[tuple[int, float, float], NDArray[np.float64]]:
    """Return number, mean and standard deviation of finite values (Chan et al. 1979), and maxima.

    The maxima are those of the samples; of a static there is one.
    """
    count, mean, squares = 0, 0.0, 0.0
    maxima = []
    ds = field.to_dataset(name=variable.name)
    blocks = blocks_of(ds, spec, budget) if variable.sampled else [ds]
    for block in blocks:
        values = np.asarray(block[variable.name].values, np.float64)
        rows = values.reshape(len(values) if variable.sampled else 1, -1)
        maxima.append(rows.max(axis=1, initial=0.0, where=np.isfinite(rows)))
        values = values[np.isfinite(values)]
        if values.size:
            # The variance within the block, and that between its mean and the mean so far.
            delta = values.mean() - mean
            total = count + values.size
            squares += values.var() * values.size + delta**2 * count * values.size / total
            mean += delta * values.size / total
            count = total
    return (count, float(mean), float(np.sqrt(squares / max(count, 1)))), np.concatenate(maxima)
