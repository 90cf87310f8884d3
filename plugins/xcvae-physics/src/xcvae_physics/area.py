"""A threshold per map that leaves a given wet area."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, explain
from xcvae.plugins import (
    Component,
    Context,
    in_range,
    labels_of,
    threshold_in,
    wet_threshold_in,
)
from xcvae_physics.fields import Array, apply_to_maps, coordinate_of

__all__ = ["WetArea"]


@dataclass(frozen=True)
class WetArea(Component):
    """Set all but the wettest pixels of every map to zero, up to a given wet fraction.

    Each map has its own threshold, below which pixels are set to zero. No rain is added: a member
    with a smaller wet area is unchanged. The wet area of all members of a sample has the same
    upper bound, so do not use it where the spread of the wet area matters. The wet fraction is one
    number for all samples (a climatology) or one for each sample; `of` computes either from
    observations.

    Parameters
    ----------
    fraction
        Share of valid pixels that may be wet; or the name of a condition without a grid that
        holds this share for each sample.
    samples
        Labels of samples and their wet fractions, instead of ``fraction``. Times are written to
        the second, "2001-01-31T12:00:00". A sample that is not listed is an error.
    """

    fraction: float | str | None = None
    samples: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuse shares outside 0 to 1, and both or none of the parameters."""
        in_range(self, "fraction", 0, 1)
        shares = [share for _, share in self.samples]
        if (self.fraction is None) == (not shares):
            expected = "a share or the name of a condition, or samples in its place"
            raise ComponentError(_wrong(expected, "both" if shares else "none"))
        if any(not 0 <= share <= 1 for share in shares):
            raise ComponentError(_wrong("shares from 0 to 1", f"{min(shares)} to {max(shares)}"))

    @classmethod
    def of(
        cls,
        observed: xr.DataArray,
        *,
        wet: str | float | None = None,
        per_sample: bool = True,
    ) -> Self:
        """Compute the wet fractions of observations.

        Parameters
        ----------
        observed
            Dims (sample, y, x), with ``units``, and labels along sample. NaN is ignored.
        wet
            Amount from which a pixel is wet; by default 0.1 mm h-1, for daily data 1 mm d-1.
        per_sample
            Return one fraction for each sample, by its label, instead of one for all.
        """
        limit = wet_threshold_in(observed, None) if wet is None else threshold_in(observed, wet)
        valid = observed.notnull()
        sample, *space = observed.dims
        wet_pixels = (observed >= limit).where(valid)
        overall = float(wet_pixels.mean())
        if not per_sample:
            return cls(fraction=overall)
        # A map without valid pixels has no share; any value will do, since it stays NaN.
        shares = wet_pixels.mean(space).fillna(overall).values
        labels = _labels(observed[sample] if sample in observed.coords else None, str(sample))
        return cls(samples=tuple(zip(labels, map(float, shares), strict=True)))

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        """Return the field with the driest pixels of every map set to zero; NaN stays NaN.

        Raises
        ------
        ComponentError
            A sample has no wet fraction, or the condition does not exist.
        """
        shares = xr.DataArray(self._shares(field, context), dims=str(field.dims[1]))
        return apply_to_maps(_keep_wettest, field, shares)

    def _shares(self, field: xr.DataArray, context: Context) -> Array:
        """Return the wet fraction of every sample of the block."""
        if isinstance(self.fraction, str):
            return _condition(self.fraction, context)
        if self.fraction is not None:
            return np.full(field.shape[1], self.fraction)
        known = dict(self.samples)
        labels = _labels(coordinate_of(str(field.dims[1]), field, context), str(field.dims[1]))
        for label in labels:
            if label not in known:
                listed = ", ".join(f"'{one}'" for one in list(known)[:3])
                got = f"{len(known)} samples: {listed}" + ", ..." * (len(known) > 3)
                raise ComponentError(_wrong(f"a wet fraction for sample '{label}'", got))
        return np.array([known[label] for label in labels])


def _condition(name: str, context: Context) -> Array:
    """Return the shares in a condition."""
    values = context.inputs.get(name)
    if values is None or values.ndim != 1:
        raise ComponentError(_wrong("the name of a condition without a grid", f"'{name}'"))
    shares = np.asarray(values.values, np.float64)
    if np.isnan(shares).any():
        raise ComponentError(_wrong(f"a share for every sample in '{name}'", "NaN"))
    return np.clip(shares, 0, 1)


def _labels(labelled: xr.DataArray | None, sample: str) -> list[str]:
    """Return the canonical labels of samples; ComponentError without a coordinate."""
    if labelled is None:
        raise ComponentError(_wrong(f"labels along '{sample}' for its samples", "no coordinate"))
    return labels_of(labelled, sample)


def _keep_wettest(maps: Array, shares: Array) -> Array:
    shares = np.broadcast_to(shares, maps.shape[:-2]).ravel()
    flat = maps.reshape(shares.size, -1)
    thresholded = [_wettest(one, share) for one, share in zip(flat, shares, strict=True)]
    return np.array(thresholded).reshape(maps.shape)


def _wettest(pixels: Array, share: float) -> Array:
    """Keep the wettest pixels of one map; equal values are kept or dropped together."""
    valid = pixels[np.isfinite(pixels)]
    count = round(share * valid.size)
    if count == 0:
        return np.zeros_like(pixels)
    limit = np.partition(valid, valid.size - count)[valid.size - count]
    return np.where(pixels < limit, 0.0, pixels)


def _wrong(expected: str, got: str) -> str:
    return explain(
        "wet_area, parameters 'fraction' and 'samples'",
        expected=expected,
        got=got,
        remedy="Give a share such as 0.2, or create the component with WetArea.of(observed).",
    )
