"""One component of each kind for xcvae: copy this folder, rename it, and change the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xcvae import hookimpl
from xcvae.plugins import Component, in_range, matched, parse_quantity, physical_units

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

    from xcvae.plugins import Context, LossState, StormContext

XCVAE_API = 1


@dataclass(frozen=True)
class SquareError(Component):
    """Mean squared error of the reconstruction, in the model's normalised space."""

    weight: float = 0.1

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        in_range(self, "weight", 0)

    def __call__(self, state: LossState) -> Tensor:
        """Return the loss, a scalar."""
        return self.weight * state.mean((state.output - state.x) ** 2)


@dataclass(frozen=True)
class SoftCap(Component):
    """Rain beyond a limit, pressed towards it: half of what is beyond remains."""

    limit: str | float = "100 mm h-1"

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        """Return the field, dims and units unchanged."""
        limit = parse_quantity(self.limit, units=physical_units(field), what="limit")
        return field.where(~(field > limit), 0.5 * (field + limit)).astype(field.dtype)


@dataclass(frozen=True)
class MeanDifference(Component):
    """Mean rain of the members minus the observed mean.

    A scorecard averages the scores of samples. A score that needs all of them at once, such as a
    return level, declares ``over = "record"``.
    """

    over = "sample"

    def __call__(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Return the difference with units, long_name and better."""
        pair = matched(forecast, observed)
        difference = (pair.forecast - pair.observed).mean()
        about = {"units": pair.units, "long_name": "mean difference", "better": 0.0}
        return difference.assign_attrs(about)


@dataclass(frozen=True)
class RecordMean(Component):
    """The mean of the record at every pixel: one member, whatever the seed."""

    deterministic = True

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Return dims (realization, sample, y, x), lazy where the data are.

        ``dataset.attrs`` names the target, its coarse ``condition``, all ``conditions``, and the
        ``record``: rain of other samples, if the evaluated Dataset has any.
        """
        observed = dataset[dataset.attrs["target"]]
        record = dataset[dataset.attrs["record"]]
        mean = record.mean(record.dims[0]).fillna(0.0)
        field: xr.DataArray = (mean * observed.notnull() + 0.0 * mean).expand_dims(realization=1)
        dims = ("realization", *observed.dims)
        return field.transpose(*dims).assign_attrs(units=record.attrs["units"])


@dataclass(frozen=True)
class Steepen(Component):
    """Coarse rain raised to a power, with the mean of each map: heavy cells get the rain of others.

    For prior members: the observed rain stays as it is.
    """

    power: float = 1.5

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        in_range(self, "power", above=0)

    def __call__(self, ds: xr.Dataset, context: StormContext) -> xr.Dataset:
        """Return the samples, and a coordinate along them that says what was done."""
        found, sample = ds.copy(deep=False), context.spec.sample
        for variable in context.spec.variables:
            if variable.precipitation and variable.name in ds:
                rain = ds[variable.name]
                maps = [dim for dim in rain.dims if dim != sample]
                steeper = rain**self.power
                steeper = steeper * (rain.mean(maps) / steeper.mean(maps)).fillna(0.0)
                changed = steeper.transpose(*rain.dims).astype(rain.dtype)
                found[variable.name] = changed.assign_attrs(rain.attrs)
        about = {"long_name": "power of the coarse rain", "units": "1", "storm": "steepen"}
        return found.assign_coords(steepened=(sample, [self.power] * ds.sizes[sample], about))


@hookimpl
def xcvae_components() -> dict[str, dict[str, type | str]]:
    """Return the components by kind and name."""
    return {
        "loss": {"square_error": SquareError},
        "postprocessor": {"soft_cap": SoftCap},
        "metric": {"mean_difference": MeanDifference},
        "baseline": {"record_mean": RecordMean},
        "storm": {"steepen": Steepen},
    }
