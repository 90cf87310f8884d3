"""Recipes of training data: a real record, and additions to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.ensemble.augment import Select, augment, rows_in
from xcvae.errors import ConfigError, DataError, MismatchError
from xcvae.fields.cf import find_layout, find_target
from xcvae.fields.samples import heavy
from xcvae.fields.scaling import RainScaling
from xcvae.fields.units import default_wet_threshold, to_units, units_of

#: Name of the reference recipe: the record alone.
RECORD = "record"


@dataclass(frozen=True, eq=False)
class Extra:
    """Fields that a recipe adds to the record.

    Each is paired with its own block means, as the record is.

    Attributes
    ----------
    fields
        Fine rain with ``units``, dims (sample, y, x) as in the record.
    share
        Probability that a sample of a batch is one of them, above 0.
    """

    fields: xr.DataArray
    share: float


Recipes = Mapping[str, Sequence[Extra]]
"""Additions to the record, by the name of the recipe."""


def recipes(
    train: xr.Dataset,
    *,
    posterior: xr.Dataset | None = None,
    prior: xr.Dataset | None = None,
    storms: Mapping[str, xr.Dataset | Sequence[xr.Dataset]] | None = None,
    select: Select = None,
    share: float = 0.25,
    target: str | None = None,
) -> dict[str, list[Extra]]:
    """Return the recipes of the augmentation test.

    ``duplicated``: the record, its heavy samples (`xcvae.heavy`) more often. ``posterior`` and
    ``prior``: the record and storms of that ensemble. ``both``: half of each. Further recipes have
    the names of ``storms``. ``scaled``: real samples times the factors of the amplified storms,
    which is the cheapest way to heavier rain, and has to be beaten. Every recipe has the same share
    of additions, so that all train on equally many.

    Parameters
    ----------
    train
        The real record: the same samples that the generator was trained on, never more.
    posterior, prior
        Ensembles from `xcvae.sample`, drawn for samples of ``train``.
    storms
        Further ensembles by the name of their recipe, one or several each: amplified, moved or
        borrowed storms (``storms`` of `xcvae.sample`).
    select
        Samples of ``train`` to take storms of, as for `xcvae.augment`. Default: all samples of the
        ensembles.
    share
        Share of additions in training, between 0 and 1.
    target
        Name of the rain in ``train``.

    Returns
    -------
    dict of str to list of Extra
        For `xcvae.verify.utility.compare`.

    Raises
    ------
    ConfigError
        ``share`` is out of range.
    MismatchError
        An ensemble has samples that are not in ``train``: storms of test days would be leakage.
    EmptySelectionError
        No sample is selected.
    """
    if not 0 < share < 1:
        raise _wrong_share(share, "0.25 makes every fourth sample an addition.")
    target = find_target(train, target)
    chosen = heavy(train, target=target)
    found = {}
    if chosen.any():
        real = train[target].isel({chosen.dims[0]: np.flatnonzero(chosen.values)})
        found["duplicated"] = [Extra(real, share)]
    plain = {}
    for name, ensemble in (("posterior", posterior), ("prior", prior)):
        if ensemble is not None:
            plain[name] = _members(train[[target]], ensemble, select)
            found[name] = [Extra(plain[name], share)]
    if len(plain) == 2:
        found["both"] = [Extra(fields, share / 2) for fields in plain.values()]
    amplified = []
    for name, drawn in (storms or {}).items():
        listed = [drawn] if isinstance(drawn, xr.Dataset) else list(drawn)
        fields = [_members(train[[target]], one, select) for one in listed]
        found[name] = [Extra(one, share / len(fields)) for one in fields]
        amplified += [one for one in listed if "amplified" in one.coords]
    scaled = _scaled(train[target], amplified)
    if scaled:
        found["scaled"] = [Extra(one, share / len(scaled)) for one in scaled]
    return found


def heaviest(ds: xr.Dataset, share: float = 0.1, *, target: str | None = None) -> xr.DataArray:
    """Find the heaviest samples, by the 99th percentile of their pixels.

    For records that lack heavy storms: train on ``ds.isel(time=~heaviest(ds))``, and test on the
    heaviest samples of others.

    Parameters
    ----------
    ds
        Has the target.
    share
        Share of the samples, between 0 and 1; at least one is found.
    target
        Name of the rain.

    Returns
    -------
    xarray.DataArray
        True for the heaviest samples.
    """
    if not 0 < share < 1:
        raise _wrong_share(share, "0.1 is the heaviest tenth.")
    field = ds[find_target(ds, target)]
    layout = find_layout(field)
    rain = field.transpose(layout.sample, ...).values
    amounts = np.nanquantile(rain.reshape(len(rain), -1), 0.99, axis=1)
    found = np.zeros(len(rain), bool)
    found[np.argsort(amounts, kind="stable")[-max(1, round(share * len(rain))) :]] = True
    return xr.DataArray(found, dims=layout.sample, name="heaviest")


def _members(real: xr.Dataset, ensemble: xr.Dataset, select: Select) -> xr.DataArray:
    """Return the members of the selected samples as samples of their own."""
    (target,) = map(str, real.data_vars)
    # Of borrowed storms only the labels are needed.
    labels = ensemble.drop_vars(target)
    mixed = augment(real, ensemble, select=select, borrowed=labels)
    rows = np.flatnonzero(mixed["synthetic"].values)
    return mixed[target].isel({mixed["synthetic"].dims[0]: rows})


def _scaled(real: xr.DataArray, amplified: Sequence[xr.Dataset]) -> list[xr.DataArray]:
    """Return real samples times the factors of amplified storms; equal ones once."""
    found = {}
    for ensemble in amplified:
        factors = ensemble["amplified"]
        sample = str(factors.dims[0])
        rows = rows_in(real.to_dataset(name="real"), factors, sample)
        part = real.isel({sample: rows})
        key = rows.tobytes() + factors.values.tobytes()
        found[key] = (part * factors.variable).astype(real.dtype).assign_attrs(real.attrs)
    return list(found.values())


def _wrong_share(share: float, remedy: str) -> ConfigError:
    return ConfigError.of(
        "share", expected="a share between 0 and 1", got=repr(share), remedy=remedy
    )


@dataclass(frozen=True, eq=False)
class Fields:
    """Validated rain as arrays: of a record, of additions, or of test samples.

    Attributes
    ----------
    rain
        Fine, (sample, y, x), in ``units``.
    factor
        Fine pixels along a side of a coarse one.
    scaling
        Scaling to the network's space.
    order
        Positions of the samples in the order of time.
    """

    rain: NDArray[np.float32]
    factor: int
    scaling: RainScaling
    order: NDArray[np.int64]

    @classmethod
    def of(
        cls, field: xr.DataArray, *, factor: int, what: str, like: Fields | None = None
    ) -> Fields:
        """Read rain from a labelled array.

        Parameters
        ----------
        field
            Dims (sample, y, x) in any order, with ``units``.
        factor
            Fine pixels along a side of a coarse one.
        what
            Name in messages.
        like
            The record, for its units and scaling.

        Raises
        ------
        DataError
            Values are missing.
        MismatchError
            The grid does not divide into coarse pixels.
        UnitsError
            Units are missing, or not those of precipitation.
        """
        layout = find_layout(field)
        field = field.transpose(layout.sample, layout.y, layout.x)
        if like is None:
            scaling = RainScaling(units_of(field), default_wet_threshold(field, layout.sample))
        else:
            scaling = like.scaling
            field = to_units(field, scaling.units)
        rain = np.ascontiguousarray(field.values, dtype=np.float32)
        if not np.isfinite(rain).all():
            raise DataError.of(
                what,
                expected="rain without gaps, since the network reads whole maps",
                got=f"{np.count_nonzero(~np.isfinite(rain))} values missing",
                remedy="Select an area without gaps.",
            )
        if factor < 2 or any(n % factor for n in rain.shape[1:]):
            raise MismatchError.of(
                "coarsen",
                expected=f"a whole number from 2 that divides the {rain.shape[1:]} pixels of "
                f"the {what}",
                got=repr(factor),
                remedy="Crop the fields, or choose another factor.",
            )
        times: Any = field[layout.sample].values
        ordered = np.issubdtype(np.asarray(times).dtype, np.datetime64)
        order = np.argsort(times, kind="stable") if ordered else np.arange(len(rain))
        return cls(rain, factor, scaling, order)

    @cached_property
    def fine(self) -> NDArray[np.float32]:
        """Rain in the network's space, (sample, y, x)."""
        return self.scaling.normalise(self.rain)

    @cached_property
    def coarse(self) -> NDArray[np.float32]:
        """Block means of the rain, in the network's space, (sample, y, x)."""
        n, height, width = self.rain.shape
        blocks = self.rain.reshape(
            n, height // self.factor, self.factor, width // self.factor, self.factor
        )
        return self.scaling.normalise(blocks.mean(axis=(2, 4), dtype=np.float64))

    @property
    def hashes(self) -> list[bytes]:
        """SHA-256 of every sample with rain, to find equal samples."""
        return [hashlib.sha256(one.tobytes()).digest() for one in self.rain if one.any()]


def check_apart(pools: Mapping[str, Fields], test: Fields) -> None:
    """Raise an error if a test field is also a training field.

    Raises
    ------
    MismatchError
        A field is in both sets.
    """
    tested = set(test.hashes)
    for name, pool in pools.items():
        shared = sum(one in tested for one in pool.hashes)
        if shared:
            raise MismatchError.of(
                name,
                expected="no field of the test samples",
                got=f"{shared} of them",
                remedy="Split the record by time before training.",
            )
