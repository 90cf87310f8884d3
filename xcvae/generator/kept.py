"""What a model file holds of its training: the mask, what recognises its samples, the log."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from xcvae.fields.thumbnails import Thumbnails

__all__ = ["kept_of", "log_of", "tensors_of"]

VALID, MAPS, LABELS, SAMPLES = "valid", "thumbnails.maps", "thumbnails.labels", "thumbnails.samples"
#: Logged errors in the units of the target.
PHYSICAL = ("val_crps", "val_mae_tail")


def tensors_of(valid: NDArray[np.bool_] | None, thumbnails: Thumbnails | None) -> dict[str, Tensor]:
    """Named tensors for the file."""
    arrays: dict[str, NDArray[np.generic]] = {}
    if valid is not None:
        arrays[VALID] = valid
    if thumbnails is not None:
        arrays[MAPS], arrays[LABELS] = thumbnails.maps, thumbnails.labels
        arrays[SAMPLES] = np.array(thumbnails.samples)
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def kept_of(tensors: dict[str, Tensor]) -> tuple[NDArray[np.bool_] | None, Thumbnails | None]:
    """Take what `tensors_of` made out of a file's tensors; None for what is not there."""
    found = {k: tensors.pop(k, None) for k in (VALID, MAPS, LABELS, SAMPLES)}
    valid, maps, labels, samples = found.values()
    thumbnails = None
    if maps is not None and labels is not None and samples is not None:
        thumbnails = Thumbnails(maps.numpy(), labels.numpy(), int(samples))
    return None if valid is None else valid.numpy().astype(np.bool_), thumbnails


def log_of(training: dict[str, Any], units: str) -> xr.Dataset:
    """The log of a training: one variable per logged quantity along ``step``.

    Parameters
    ----------
    training
        The record in the model's file.
    units
        Of the target, for errors that are validated in physical values.
    """
    rows = training.get("history", [])
    columns = sorted({key for row in rows for key in row} - {"step"})
    steps = [row["step"] for row in rows]
    attrs = {name: {"units": units} for name in PHYSICAL}
    return xr.Dataset(
        {c: ("step", [row.get(c, np.nan) for row in rows], attrs.get(c)) for c in columns},
        coords={"step": steps},
    )
