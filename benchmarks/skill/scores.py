"""One way to score members, whoever drew them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xcvae
from references.data import Arena, Split

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
#: Members in the picture.
SHOWN = 4


def scores(split: Split, ensemble: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Score an ensemble with `xcvae.evaluate`.

    Parameters
    ----------
    split
        What was observed.
    ensemble
        Dims (realization, sample, y, x) with units, thresholded.

    Returns
    -------
    dict
        By metric: value, low and high (95 % interval over samples), units. What says nothing of
        a single member is left out.
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


def picture_rows(arena: Arena) -> np.ndarray:
    """Positions of the test samples to show: with much rain, with more, and with little."""
    order = np.argsort(arena.test.fine.mean(dim=(1, 2)).numpy(), kind="stable")
    return order[[int(share * (len(order) - 1)) for share in (0.9, 0.98, 0.5)]]


def keep_fields(place: Path, arena: Arena, ensembles: dict[str, xr.Dataset]) -> None:
    """Write a few members of the samples to show, under the names of the ensembles."""
    rows = picture_rows(arena)
    fields = {}
    for name, ensemble in ensembles.items():
        sample = ensemble[arena.target].dims[1]
        few = ensemble[arena.target].isel({"realization": slice(SHOWN), sample: rows})
        fields[name] = few.values.astype(np.float32)
    np.savez_compressed(place, **fields)
