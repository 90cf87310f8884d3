"""Scores of an ensemble, and a few of its members for the figure, the same for all methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xcvae
from benchmarks.harness.record_splits import RecordSplits, Split

__all__ = ["METRICS", "keep_fields", "picture_rows", "scores"]

METRICS = (
    "crps",
    "spread_skill",
    "rank_deviation",
    "spectral_distance",
    "wet_fraction",
    "wet_fraction_observed",
    "mass_bias",
    "p99_ratio",
    "p999_ratio",
    "spatial_correlation",
    "diversity",
)
#: Members in the figure.
SHOWN = 4


def scores(split: Split, ensemble: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Score an ensemble with `xcvae.evaluate`.

    Parameters
    ----------
    split
        Observed rain.
    ensemble
        Dims (realization, sample, y, x) with units, thresholded.

    Returns
    -------
    dict
        By metric: value, low and high (95 % interval over samples), units. For a single member
        without ``rank_deviation``.
    """
    card = xcvae.evaluate(split.ds, ensemble, metrics=METRICS, baselines=[], progress=False)
    alone = ensemble.sizes["realization"] == 1
    found = {}
    for name in METRICS:
        if alone and name == "rank_deviation":
            continue
        ends = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
        numbers = {key: float(card[variable].values[0]) for key, variable in ends.items()}
        found[name] = {**numbers, "units": card[name].attrs["units"]}
    return found


def picture_rows(splits: RecordSplits) -> np.ndarray:
    """Return positions of the test samples to show: much rain, more, and little."""
    order = np.argsort(splits.test.fine.mean(dim=(1, 2)).numpy(), kind="stable")
    return order[[int(share * (len(order) - 1)) for share in (0.9, 0.98, 0.5)]]


def keep_fields(place: Path, splits: RecordSplits, ensembles: dict[str, xr.Dataset]) -> None:
    """Write a few members of the samples to show, under the names of the ensembles."""
    rows = picture_rows(splits)
    fields = {}
    for name, ensemble in ensembles.items():
        sample = ensemble[splits.target].dims[1]
        few = ensemble[splits.target].isel({"realization": slice(SHOWN), sample: rows})
        fields[name] = few.values.astype(np.float32)
    np.savez_compressed(place, **fields)
