"""A loss and a metric for xcvae: copy this folder, rename it, and change the two classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xcvae import hookimpl
from xcvae.plugins import Component, in_range, matched

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

    from xcvae.plugins import LossState

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
class MeanDifference(Component):
    """Mean rain of the members minus the observed mean."""

    def __call__(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Return the difference with units, long_name and better."""
        pair = matched(forecast, observed)
        difference = (pair.forecast - pair.observed).mean()
        about = {"units": pair.units, "long_name": "mean difference", "better": 0.0}
        return difference.assign_attrs(about)


@hookimpl
def xcvae_components() -> dict[str, dict[str, type | str]]:
    """Return the components by kind and name."""
    return {
        "loss": {"square_error": SquareError},
        "metric": {"mean_difference": MeanDifference},
    }
