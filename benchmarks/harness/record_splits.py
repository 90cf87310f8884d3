"""One rain record in three splits, as Datasets and as tensors, the same for all methods."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

__all__ = [
    "WET",
    "RecordSplits",
    "Split",
    "block_means",
    "from_log",
    "stretch_bilinear",
    "thresholded",
    "to_log",
]

#: mm h-1. Rain below becomes 0 in the members of every method.
WET = 0.1
UNITS = ("mm h-1", "mm/h", "mm hr-1", "mm h**-1")
#: Blocks per side of the bundled record's own condition.
TUTORIAL_BLOCK, DEFAULT_BLOCK = 12, 8


def to_log(rain: Tensor) -> Tensor:
    """Scale rain in mm h-1 to the space of the networks, as xcvae does."""
    return torch.log1p(rain.clamp(min=0.0) / WET) / 2


def from_log(values: Tensor) -> Tensor:
    """Invert `to_log`; everything below zero is dry."""
    return torch.expm1(2 * values.clamp(0.0, 5.7)) * WET


def thresholded(rain: np.ndarray) -> np.ndarray:
    """Set rain below 0.1 mm h-1 to zero, in place."""
    rain[rain < np.float32(WET)] = 0.0
    return rain


def block_means(fine: Tensor, side: int) -> Tensor:
    """Average over blocks of pixels, (..., y, x) to (..., y / side, x / side)."""
    *lead, height, width = fine.shape
    means = F.avg_pool2d(fine.reshape(-1, 1, height, width), side)
    return means.reshape(*lead, height // side, width // side)


def stretch_bilinear(coarse: Tensor, side: int) -> Tensor:
    """Interpolate bilinearly, edge to edge, (n, y, x) to (n, y * side, x * side)."""
    fine = F.interpolate(coarse[:, None], scale_factor=side, mode="bilinear", align_corners=False)
    return fine[:, 0]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of the record.

    Attributes
    ----------
    ds
        The target alone, dims (sample, y, x), float32 in memory, with units.
    target
        Name of the target.
    side
        Pixels along a side of the blocks whose means are the condition.
    """

    ds: xr.Dataset
    target: str
    side: int

    def __len__(self) -> int:
        return int(self.fine.shape[0])

    @cached_property
    def fine(self) -> Tensor:
        """Observed rain, (sample, y, x) in mm h-1."""
        return torch.from_numpy(np.ascontiguousarray(self.ds[self.target].values))

    @cached_property
    def coarse(self) -> Tensor:
        """The condition: block means, (sample, y_coarse, x_coarse) in mm h-1."""
        return block_means(self.fine.double(), self.side).float()

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.fine.shape[1]), int(self.fine.shape[2])

    def spaced(self, count: int) -> np.ndarray:
        """Return positions of so many samples, evenly spaced."""
        return np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))

    def take(self, rows: Sequence[int] | np.ndarray) -> Split:
        """Pick samples."""
        sample = self.ds[self.target].dims[0]
        return Split(self.ds.isel({sample: np.asarray(rows)}), self.target, self.side)

    def ensemble(self, members: np.ndarray) -> xr.Dataset:
        """Label members (realization, sample, y, x) in mm h-1 for `xcvae.evaluate`."""
        field = self.ds[self.target]
        coords = {dim: field[dim] for dim in field.dims if dim in field.coords}
        ensemble = xr.DataArray(
            members,
            dims=("realization", *field.dims),
            coords={"realization": np.arange(len(members)), **coords},
            attrs={"units": field.attrs["units"]},
        )
        return ensemble.to_dataset(name=self.target)


@dataclass(frozen=True, eq=False)
class RecordSplits:
    """The training, validation and test samples of a record.

    Attributes
    ----------
    name
        Of the record.
    target
        Name of the rain.
    side
        Pixels along a side of the blocks whose means are the condition.
    train, validation, test
        The splits.
    """

    name: str
    target: str
    side: int
    train: Split
    validation: Split
    test: Split

    @classmethod
    def open(
        cls, path: Path | None, *, target: str | None, side: int | None, tiles: int | None
    ) -> RecordSplits:
        """Read a record with a ``split`` of 0 (train), 1 (validation) and 2 (test).

        Parameters
        ----------
        path
            Zarr store or NetCDF file; None for the radar that comes with xcvae.
        target
            Name of the rain; by default ``pr_hr`` or ``pr``, the first that exists.
        side
            Pixels along a side of a block; by default 12 for the bundled radar, else 8.
        tiles
            Test samples to use, evenly spaced; None for all.
        """
        ds = _opened(path)
        target = target or next((n for n in ("pr_hr", "pr") if n in ds), None)
        if target not in ds:
            raise SystemExit(f"no variable '{target}' in {path}: it has {', '.join(ds)}")
        if "split" not in ds.variables:
            raise SystemExit(f"{path}: no variable 'split' (0 train, 1 validation, 2 test)")
        side = side or (TUTORIAL_BLOCK if path is None else DEFAULT_BLOCK)
        kinds = np.asarray(ds["split"].values)
        parts = [_split(ds, target, side, np.flatnonzero(kinds == kind)) for kind in range(3)]
        for kind, part in enumerate(parts):
            if len(part) == 0:
                raise SystemExit(f"{path}: no sample has split == {kind}")
        if tiles is not None:
            parts[2] = parts[2].take(parts[2].spaced(tiles))
        return cls("tutorial" if path is None else path.name, target, side, *parts)

    def identity(self) -> dict[str, Any]:
        """Return, as JSON types, what all results of one table must share."""
        observed = self.test.fine.numpy().tobytes()
        return {
            "data": self.name,
            "target": self.target,
            "coarsen": self.side,
            "samples": [len(self.train), len(self.validation), len(self.test)],
            "test_sha256": hashlib.sha256(observed).hexdigest()[:16],
        }


def _opened(path: Path | None) -> xr.Dataset:
    import xcvae

    if path is None:
        return xcvae.tutorial.open_dataset()
    if not path.exists():
        raise SystemExit(
            f"--data: expected a Zarr store or NetCDF file, got {path}, which does not exist"
        )
    if path.is_dir():
        return xr.open_zarr(path, consolidated=False)
    return xr.open_dataset(path, chunks={})


def _split(ds: xr.Dataset, target: str, side: int, rows: np.ndarray) -> Split:
    sample = ds["split"].dims[0]
    field = ds[target].isel({sample: rows})
    if field.attrs.get("units") not in UNITS:
        raise SystemExit(f"{target}: units {field.attrs.get('units')!r}, expected mm h-1")
    if field.ndim != 3 or field.dims[0] != sample:
        raise SystemExit(f"{target}: dims {field.dims}, expected ({sample}, y, x)")
    if field.shape[1] % side or field.shape[2] % side:
        raise SystemExit(f"{target}: {field.shape[1:]} pixels do not divide into {side} x {side}")
    attrs = field.attrs
    field = field.reset_coords(drop=True).astype("float32").load().assign_attrs(attrs)
    if not np.isfinite(field.values).all():
        raise SystemExit(
            f"{target}: expected complete fields, got missing values: the rival models have no mask"
        )
    return Split(field.to_dataset(name=target), target, side)
