"""Analogs: the rain of the days of a record with the most similar weather maps.

Weather maps are standardised grid point by grid point over the record, joined, and reduced to
their leading principal components; analogs are nearest in Euclidean distance of these (Lorenz
1969, doi:10.1175/1520-0469(1969)26<636:AARBNO>2.0.CO;2; Zorita & von Storch 1999,
doi:10.1175/1520-0442(1999)012<2474:TAMAAS>2.0.CO;2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

__all__ = ["Analogs", "principal_components"]


def principal_components(
    record: xr.Dataset, others: xr.Dataset, predictors: Sequence[str], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Project two sets of maps on the principal components of the first.

    Parameters
    ----------
    record, others
        Datasets with the predictors, the sample dim first.
    predictors
        Names of maps; each grid point is standardised with mean and spread of the record.
    count
        Number of leading components.

    Returns
    -------
    array (record samples, count), array (other samples, count)
        Not rescaled: the first component varies most.
    """
    known, queried = (
        np.concatenate(
            [ds[name].values.reshape(ds[name].shape[0], -1) for name in predictors], axis=1
        ).astype(np.float64)
        for ds in (record, others)
    )
    mean, spread = known.mean(0), known.std(0)
    known, queried = (known - mean) / spread, (queried - mean) / spread
    _, _, patterns = np.linalg.svd(known, full_matrices=False)
    return known @ patterns[:count].T, queried @ patterns[:count].T


class Analogs:
    """A baseline for `xcvae.evaluate`: a fixed number of nearest days of a record.

    Parameters
    ----------
    record
        Dataset with the target and the predictors, sample dim first.
    test
        Dataset with the predictors of the samples to score, with the same labels.
    predictors
        Names of maps.
    members
        Number of analogs.
    components
        Number of principal components.
    """

    def __init__(
        self,
        record: xr.Dataset,
        test: xr.Dataset,
        predictors: Sequence[str],
        *,
        members: int = 16,
        components: int = 12,
    ) -> None:
        self.record, self.test, self.predictors = record, test, list(predictors)
        self.members, self.components = members, components

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Return the analogs of every sample, the nearest first."""
        observed = dataset[dataset.attrs["target"]]
        sample = str(observed.dims[0])
        test = self.test.sel({sample: observed[sample].values})
        known, queried = principal_components(self.record, test, self.predictors, self.components)
        squares = (known**2).sum(1)[None] - 2 * queried @ known.T
        nearest = np.argsort(squares, axis=1, kind="stable")[:, : self.members]
        fields = self.record[observed.name].transpose(*observed.dims)
        return xr.DataArray(
            np.moveaxis(fields.values[nearest], 1, 0),
            dims=("realization", *observed.dims),
            coords=observed.coords,
            name=observed.name,
            attrs={"units": fields.attrs["units"]},
        )
