"""Real rain for tests of components: a part of the bundled radar record."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xcvae import tutorial
from xcvae.fields.describe import describe, prepare
from xcvae.fields.units import factor

if TYPE_CHECKING:
    from xcvae.ensemble.postprocess import Context


UNITS, OTHER_UNITS = "mm h-1", "mm/day"
STEP = 7  # of frames: neighbours five minutes apart are nearly copies


def make_dataset(*, samples: int = 6, masked: bool = False, units: str = UNITS) -> xr.Dataset:
    """Return wet radar frames of 36 x 48 km with their coarse condition.

    Parameters
    ----------
    samples
        Number of frames, at most 20.
    masked
        Mask part of the target (NaN): a corner of every frame, as sea or a border does.
    units
        Units of both variables.

    Returns
    -------
    Dataset
        ``pr`` with dims (time, y, x), 36 x 48, and ``pr_coarse`` with dims
        (time, y_coarse, x_coarse), 3 x 4; in memory.

    Examples
    --------
    >>> dict(make_dataset(samples=2).pr.sizes)
    {'time': 2, 'y': 36, 'x': 48}
    """
    ds = _frames().isel(time=slice(samples)).copy(deep=True)
    for name, field in ds.items():
        ds[name] = (field * factor(UNITS, units, what=str(name))).astype("float32")
        ds[name].attrs = {**field.attrs, "units": units}
    if masked:
        corner = xr.zeros_like(ds.pr, dtype=bool)
        corner[:, :10, :14] = True
        ds["pr"] = ds.pr.where(~corner)
    return ds


def make_ensemble(ds: xr.Dataset, *, members: int = 3, seed: int = 0) -> xr.DataArray:
    """Return plausible members for the frames of `make_dataset`, without any model.

    Parameters
    ----------
    ds
        From `make_dataset`; NaN in its ``pr`` is NaN in every member.
    members
        Number of realizations.
    seed
        Seed of the members.

    Returns
    -------
    DataArray
        Dims (realization, time, y, x), float32, units of ``ds.pr``.
    """
    random = np.random.default_rng(seed)
    observed = ds.pr.fillna(0.0).values
    fields = []
    for _ in range(members):
        rows, columns = random.integers(1, 9, 2)
        moved = np.roll(observed, (rows, columns), (-2, -1))
        other = observed[random.permutation(len(observed))]
        fields.append(0.7 * moved + 0.3 * other * random.gamma(2.0, 0.5, observed.shape))
    values = np.stack(fields).astype("float32")
    ensemble = xr.DataArray(
        values,
        dims=("realization", *ds.pr.dims),
        coords={**ds.pr.coords, "realization": np.arange(members)},
        name=ds.pr.name,
        attrs=ds.pr.attrs,
    )
    return ensemble.where(ds.pr.notnull())


def make_context(ds: xr.Dataset, *, mode: str = "prior") -> Context:
    """Return the context of a post-processor, for the frames of `make_dataset`.

    Parameters
    ----------
    ds
        From `make_dataset`.
    mode
        "prior" or "posterior".
    """
    from xcvae.ensemble.postprocess import Context

    spec = describe(ds, target="pr", conditions=["pr_coarse"])
    return Context(spec, mode, prepare(ds, spec, need_target=False))


@lru_cache(maxsize=1)
def _frames() -> xr.Dataset:
    ds = tutorial.open_dataset("radklim")[["pr", "pr_coarse"]]
    ds = ds.isel(
        y=slice(48, 84), x=slice(36, 84), y_coarse=slice(4, 7), x_coarse=slice(3, 7)
    ).load()
    wet = np.flatnonzero((ds.pr > 0.1).mean(("y", "x")) > 0.3)
    frames = ds.isel(time=wet[::STEP][:20]).drop_vars("split", errors="ignore")
    return frames.drop_attrs(deep=False)
