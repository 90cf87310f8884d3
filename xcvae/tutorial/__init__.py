"""Real radar data of the package, for examples without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xcvae.errors import ConfigError, nearest

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["names", "open_dataset"]

_DATA = Path(__file__).parent / "data"


def names() -> list[str]:
    """List the bundled Datasets.

    Returns
    -------
    list of str
        Their names, sorted.

    Examples
    --------
    >>> names()
    ['radklim', 'radklim-sequence']
    """
    return sorted(path.stem for path in _DATA.glob("*.zarr"))


def open_dataset(name: str = "radklim") -> xr.Dataset:
    """Open a bundled Dataset; values are read when they are first used.

    ``"radklim"`` is a subset of the German radar climatology RADKLIM-YW: wet frames of 10 to
    20 May 2018 on 156 x 132 km. ``"radklim-sequence"`` has every 5-minute frame of three wet hours
    of one of its test days, 17 May 2018, 0 to 3 UTC, in the same form.

    Parameters
    ----------
    name
        One of `names`.

    Returns
    -------
    xarray.Dataset
        ``pr`` with dims (time, y, x) and ``pr_coarse`` with dims (time, y_coarse, x_coarse), its
        means over blocks of 12 x 12 pixels, both in mm h-1 as float32. The coordinate ``split``
        along time marks training (0, 10 to 15 May), validation (1, 16 May) and test days
        (2, 17 to 20 May; the sequence). Not backed by Dask: use ``.chunk()`` for that.

    Raises
    ------
    ConfigError
        No bundled Dataset has that name.

    Notes
    -----
    Data basis: Deutscher Wetterdienst, values processed. The source is the example file of
    pycomlink 0.6.0, whose location is not real.

    References
    ----------
    Winterrath et al. (2018), RADKLIM version 2017.002: reprocessed quasi gauge-adjusted radar
    data, 5-minute precipitation sums (YW). https://doi.org/10.5676/DWD/RADKLIM_YW_V2017.002

    Examples
    --------
    >>> ds = open_dataset("radklim")
    >>> dict(ds.pr.sizes), ds.pr.units
    ({'time': 490, 'y': 156, 'x': 132}, 'mm h-1')
    """
    import numpy as np
    import xarray as xr

    if name not in names():
        raise ConfigError.of(
            "name", expected="a bundled Dataset", got=repr(name), remedy=nearest(name, names())
        )
    ds = xr.open_zarr(_DATA / f"{name}.zarr", chunks=None, consolidated=False, decode_cf=False)
    for variable in ds.data_vars.values():
        if "scale_factor" in variable.attrs:
            # The precision of this number decides that of the decoded values, and JSON, where it
            # comes from, only has doubles.
            variable.attrs["scale_factor"] = np.float32(variable.attrs["scale_factor"])
    return xr.decode_cf(ds)
