"""The data that a configuration names, and the samples in it to train on and to judge."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from xcvae.config.schema import Config, DataSection, HeavySection, Part, Selection
from xcvae.config.selecting import select
from xcvae.errors import (
    ConfigError,
    EmptySelectionError,
    MissingVariableError,
    explain,
    nearest,
)
from xcvae.fields.cf import find_layout, find_target
from xcvae.fields.selection import heavy
from xcvae.fields.spec import DataSpec, describe

__all__ = ["Parts", "open_parts"]

#: Data that is smaller than this is read into memory once; what is larger is streamed.
IN_MEMORY = 1_000_000_000


@dataclass(frozen=True)
class Parts:
    """The selections of a configuration.

    Parameters
    ----------
    train, validation, test
        Samples to train on, to steer the training by, and to draw and judge; None where the
        configuration selects none.
    spec
        What is what in them.
    """

    train: xr.Dataset
    validation: xr.Dataset | None
    test: xr.Dataset | None
    spec: DataSpec

    def __getitem__(self, part: Part) -> xr.Dataset:
        """Return a part, or say that there is none."""
        ds: xr.Dataset | None = getattr(self, part)
        if ds is None:
            raise ConfigError(
                explain(
                    f"data.{part}",
                    expected="a selection of samples",
                    got="none",
                    remedy=f"Add one to the configuration, such as `{part}: {{split: 2}}` or "
                    f"`{part}: {{time: [2009-01-01, 2010-12-31]}}`; `{part}: {{}}` takes all.",
                )
            )
        return ds


def open_parts(config: Config) -> Parts:
    """Open the data of a configuration and select its parts.

    Parameters
    ----------
    config
        The configuration.

    Returns
    -------
    Parts
        In memory where the variables in use are small, else backed by Dask.

    Raises
    ------
    ConfigError
        The source cannot be opened, or a selection cannot be understood.
    EmptySelectionError
        A selection leaves no samples.
    MissingVariableError, UnitsError, DataError
        The data is not what the section ``train`` says; see `xcvae.train`.
    """
    section, asked = config.data, config.train
    ds = _renamed(_opened(section, config.folder), section.rename)
    dims = asked.spatial_dims
    target = find_target(ds, asked.target)
    sample = find_layout(ds[target], spatial_dims=dims).sample
    wanted: dict[str, Selection | None] = {
        "train": section.train,
        "validation": section.validation,
        "test": section.test,
    }
    chosen = {
        part: select(ds, selection, sample, f"data.{part}")
        for part, selection in wanted.items()
        if selection is not None
    }
    spec = describe(
        chosen["train"],
        target=target,
        conditions=asked.conditions,
        statics=asked.statics,
        coarsen=asked.coarsen,
        spatial_dims=dims,
    )
    names = [target, *(v.name for v in spec.variables if v.name != spec.derived)]
    ready = {part: _in_memory(one[names]) for part, one in chosen.items()}
    if section.heavy is not None:
        for part in section.heavy.parts:
            if part in ready:
                ready[part] = _heavy(ready[part], section.heavy, spec, part)
    return Parts(ready["train"], ready.get("validation"), ready.get("test"), spec)


def _opened(section: DataSection, folder: Path) -> xr.Dataset:
    if section.tutorial is not None:
        from xcvae.tutorial import open_dataset

        return open_dataset(section.tutorial)
    if section.intake is not None:
        from xcvae.ensemble.catalog import open_entry

        return open_entry(folder / section.intake.catalog, section.intake.name)
    assert section.path is not None
    return _from_path(section.path, folder)


def _from_path(path: str, folder: Path) -> xr.Dataset:
    pattern = str(folder / path)
    found = sorted(glob.glob(pattern, recursive=True)) or [pattern]  # noqa: PTH207
    if not Path(found[0]).exists():
        raise ConfigError(
            explain(
                "data.path",
                expected="a file, a Zarr store or a pattern with matches",
                got=f"{pattern}, where there is nothing",
                remedy="Paths are relative to the folder of the configuration.",
            )
        )
    parts: list[xr.Dataset]
    try:
        if Path(found[0]).is_dir():
            parts = [xr.open_zarr(one, consolidated=False) for one in found]
        else:
            parts = [xr.open_dataset(one, chunks={}) for one in found]
        if len(parts) == 1:
            return parts[0]
        joined = xr.combine_by_coords(parts, combine_attrs="drop_conflicts", data_vars="minimal")
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            explain(
                "data.path",
                expected="data that xarray can open and join along their coordinates",
                got=f"{pattern}: {type(error).__name__}: {error}",
                remedy="Try it with xarray.open_mfdataset. NetCDF-4 files need one more package: "
                "pip install 'xcvae[netcdf]'.",
            )
        ) from error
    assert isinstance(joined, xr.Dataset)  # of Datasets, not of arrays
    return joined


def _renamed(ds: xr.Dataset, names: Mapping[str, str]) -> xr.Dataset:
    known = {str(name) for name in (*ds.variables, *ds.dims)}
    for old in names:
        if old not in known:
            raise MissingVariableError(
                explain(
                    "data.rename",
                    expected="names in the data",
                    got=repr(old),
                    remedy=nearest(old, known),
                )
            )
    try:
        renamed: xr.Dataset = ds.rename(names)
    except ValueError as error:
        raise ConfigError(f"data.rename: {error}") from error
    return renamed


def _in_memory(ds: xr.Dataset) -> xr.Dataset:
    return ds.load() if ds.nbytes <= IN_MEMORY else ds


def _heavy(ds: xr.Dataset, section: HeavySection, spec: DataSpec, part: str) -> xr.Dataset:
    days = heavy(
        ds,
        target=spec.target,
        threshold=section.threshold,
        quantile=section.quantile,
        extent=section.extent,
        spatial_dims=(spec.y, spec.x),
    )
    if not bool(days.any()):
        raise EmptySelectionError(
            explain(
                "data.heavy",
                expected=f"samples of data.{part} with heavy rain over {section.extent:.0%} of "
                "the pixels",
                got="none",
                remedy="Lower extent or threshold.",
            )
        )
    chosen: xr.Dataset = ds.isel({spec.sample: np.flatnonzero(days.values)})
    return chosen
