"""Which samples are scored together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from xcvae.errors import DataError, EmptySelectionError, MissingVariableError, explain, nearest
from xcvae.metrics.maps import Array
from xcvae.verify.intervals import Pieces, pieces_of
from xcvae.verify.pairing import Task

__all__ = ["Groups", "group_samples"]


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of samples.

    Parameters
    ----------
    pieces
        The pieces of the samples, group by group.
    name, values
        The coordinate of the groups; None if all samples are one group.
    """

    pieces: Pieces
    name: str | None = None
    values: Array | None = None


def group_samples(task: Task, groupby: str | xr.DataArray | None) -> Groups:
    """Group the samples by the values of a coordinate; missing values are in no group.

    Raises
    ------
    MissingVariableError
        There is no coordinate of that name.
    DataError
        It is not one value per sample.
    EmptySelectionError
        All its values are missing.
    """
    sample, count = task.pair.sample, task.pair.observed.shape[0]
    if groupby is None:
        return Groups(pieces_of(np.zeros(count, dtype=int)))
    values = _values(task, groupby)
    if values.dims != (sample,) or values.size != count:
        raise DataError(
            explain(
                "groupby",
                expected=f"a coordinate along '{sample}' with {count} values",
                got=f"dims ({', '.join(map(str, values.dims))}), {values.size} values",
                remedy="Give one value for each sample.",
            )
        )
    present = ~values.isnull().values
    if not present.any():
        raise EmptySelectionError("groupby: all values are missing, no sample is left.")
    names, numbers = np.unique(values.values[present], return_inverse=True)
    if names.dtype.kind == "U":
        names = names.astype(object)  # Zarr has no stable format for text of fixed length
    groups = np.full(count, -1)
    groups[present] = numbers
    return Groups(pieces_of(groups), "group" if values.name is None else str(values.name), names)


def _values(task: Task, groupby: str | xr.DataArray) -> xr.DataArray:
    if isinstance(groupby, xr.DataArray):
        sample = task.pair.sample
        if sample in groupby.indexes and sample in task.pair.observed.indexes:
            return groupby.reindex({sample: task.pair.observed[sample]})
        return groupby
    try:
        return task.ds[groupby]
    except KeyError as error:
        raise MissingVariableError(
            explain(
                "groupby",
                expected="a coordinate or variable of the Dataset",
                got=f"'{groupby}'",
                remedy=nearest(groupby, task.ds.variables),
            )
        ) from error
