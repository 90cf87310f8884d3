"""Quantile mapping of members to the distribution of observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from xcvae.errors import ComponentError, explain
from xcvae.plugins import Component, Context, parse_quantity, physical_units

__all__ = ["QuantileMapping"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QuantileMapping(Component):
    """Give members the distribution of the observations: a fixed, monotone map of amounts.

    The q-quantile of the ensemble becomes the q-quantile of the observations, linear in between
    (Gudmundsson et al. 2012, https://doi.org/10.5194/hess-16-3383-2012). Above the last knot rain
    is multiplied by the ratio at that knot. Zero stays zero, so the mapping cannot add wet pixels;
    drizzle that the observations do not have becomes zero. Create a mapping with `fit`, on samples
    that are not scored afterwards.

    Parameters
    ----------
    generated, observed
        Amounts of the two distributions at the same quantiles, ascending, above zero on the
        generated side.
    units
        Units of both.
    """

    generated: tuple[float, ...]
    observed: tuple[float, ...]
    units: str

    def __post_init__(self) -> None:
        """Refuse knots that do not ascend."""
        problem = _problem(self.generated, self.observed)
        if problem:
            raise ComponentError(
                explain(
                    "quantile_mapping, parameters 'generated' and 'observed'",
                    expected="ascending amounts, as many on both sides",
                    got=problem,
                    remedy="Make the mapping with QuantileMapping.fit(ensemble, observed).",
                )
            )

    @classmethod
    def fit(cls, ensemble: xr.DataArray, observed: xr.DataArray, *, knots: int = 100) -> Self:
        """Fit the mapping to an ensemble and its observations.

        Parameters
        ----------
        ensemble
            Any dims, with ``units``; all members and samples are pooled. NaN is ignored.
        observed
            Any dims, with ``units``. NaN is ignored.
        knots
            Number of quantiles: even steps of -log(1 - q), dense where rain is rare.

        Returns
        -------
        QuantileMapping
            Fitted in the units of the observations.
        """
        units = physical_units(observed)
        factor = _factor(physical_units(ensemble), units)
        generated, truth = factor * _finite(ensemble), _finite(observed)
        fewest = min(generated.size, truth.size)
        if fewest == 0 or not (generated > 0).any():
            raise ComponentError(
                explain(
                    "quantile_mapping",
                    expected="finite pixels on both sides, and some generated rain",
                    got=f"{generated.size} generated, {truth.size} observed",
                    remedy="Fit on samples with rain.",
                )
            )
        levels = -np.expm1(-np.linspace(0.0, np.log(fewest), knots + 1)[1:])
        pair = np.stack([np.quantile(side, levels) for side in (generated, truth)])
        pair = pair[:, pair[0] > 0]
        # One value per knot: of equal generated amounts keep the last.
        last = np.append(np.diff(pair[0]) > 0, True)
        knots_of, amounts = (tuple(map(float, side[last])) for side in pair)
        return cls(generated=knots_of, observed=amounts, units=units)

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        """Return the mapped field; NaN stays NaN.

        Raises
        ------
        UnitsError
            The units of the field do not convert into those of the mapping.
        """
        factor = _factor(self.units, physical_units(field))
        knots = factor * np.array([0.0, *self.generated])
        amounts = factor * np.array([0.0, *self.observed])

        def mapped(values: Array) -> Array:
            new = np.interp(values, knots, amounts)
            new = np.where(values > knots[-1], values * (amounts[-1] / knots[-1]), new)
            # NaN > 0 is False, so that NaN stays NaN.
            return np.where(values > 0, new, values).astype(values.dtype)

        found: xr.DataArray = xr.apply_ufunc(
            mapped, field, dask="parallelized", output_dtypes=[field.dtype], keep_attrs=True
        )
        return found


def _factor(source: str, wanted: str) -> float:
    return parse_quantity(f"1 {source}", units=wanted, what="quantile_mapping, units")


def _finite(field: xr.DataArray) -> Array:
    values: Array = np.asarray(field.values, np.float64)
    return values[np.isfinite(values)]


def _problem(generated: tuple[float, ...], observed: tuple[float, ...]) -> str | None:
    if len(generated) != len(observed) or not generated:
        return f"{len(generated)} and {len(observed)}"
    if generated[0] <= 0 or np.any(np.diff(generated) <= 0):
        return "generated amounts that do not ascend from above zero"
    if observed[0] < 0 or np.any(np.diff(observed) < 0):
        return "observed amounts that descend or are negative"
    return None
