"""Skill of one model at many factors and pixel sizes, without training on the data.

    python -m benchmarks.skill.zero_shot MODEL [MODEL ...] [--tiles STORE] [--count 64]
                                         [--members 16] [--output FILE]

Cases: the radar that comes with xcvae (test frames, every fourth, factor 12), and with ``--tiles``
radar tiles (as in `benchmarks.models.train_rain_radar`; split 2, those that hardly overlap) at
factors 4, 8 and 16, and at factor 8 with pixels of 2 and 4 km. The condition of every case is the
coarse rain alone. Members are scored against the fine rain by `xcvae.evaluate`, beside bilinear
interpolation and block means; ``block_error`` is the largest difference between a member's mean
over a cell and the cell, as a share of the cell or of 0.1 mm h-1.

A model of one factor is drawn at its factor only, for a comparison on the same tiles.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

import xcvae
from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.results import write_json
from benchmarks.models.train_rain_radar import open_tiles

METRICS = (
    "crps", "crps_skill", "spread_skill", "rank_deviation", "spectral_distance", "mass_bias",
    "wet_fraction", "wet_fraction_observed", "p99_ratio", "p999_ratio",
)  # fmt: skip
#: Factors at pixels of one pixel of the tiles, and coarser pixels at factor 8 (4 for 4 km).
FACTORS, PIXELS = (4, 8, 16), ((2, 8), (4, 8))


def coarsened(ds: xr.Dataset, side: int) -> xr.Dataset:
    """Return means over blocks of pixels, with the attributes of the rain and the coordinates."""
    means = ds.coarsen(y=side, x=side).mean()
    means["pr"].attrs = ds["pr"].attrs
    for dim in ("y", "x"):
        means[dim].attrs = ds[dim].attrs
    return means.astype(np.float32)


def cases(tiles: str | None, count: int) -> Iterator[tuple[str, xr.Dataset, int]]:
    """Yield name, fine rain and factor of every case."""
    radar = xcvae.tutorial.open_dataset("radklim")
    radar = radar[["pr"]].isel(time=np.flatnonzero(radar["split"].values == 2)[::4]).load()
    yield "radar, factor 12", radar, 12
    if tiles is None:
        return
    store = xr.open_zarr(tiles)
    alone = store["disjoint"].values[store["split"].values == 2] == 1
    rain = open_tiles(tiles, 2).isel(sample=np.flatnonzero(alone))
    rain = rain.isel(sample=np.unique(np.linspace(0, rain.sizes["sample"] - 1, count).astype(int)))
    for factor in FACTORS:
        yield f"tiles, 1 km, factor {factor}", rain, factor
    for side, factor in PIXELS:
        yield f"tiles, {side} km, factor {factor}", coarsened(rain, side), factor


def score(model: xcvae.Model, fine: xr.Dataset, factor: int, members: int) -> dict[str, float]:
    """Draw from the coarse rain alone, and score against the fine rain."""
    coarse = coarsened(fine, factor)
    if model.spec.scales is None:
        given = coarse.rename(
            {"pr": f"{model.spec.target}_coarse", "y": "y_coarse", "x": "x_coarse"}
        )
        given = given.drop_vars(["y_coarse", "x_coarse"]).assign_coords(y=fine["y"], x=fine["x"])
        ensemble = xcvae.sample(given, model, members=members, postprocess=[]).load()
    else:
        ensemble = xcvae.sample(coarse, model, factor=factor, members=members).load()
    card = xcvae.evaluate(fine, ensemble, metrics=list(METRICS), baselines=["bilinear", "block"])
    own = {name: float(card[name].sel(source="xcvae")) for name in METRICS}
    for baseline in ("bilinear", "block"):
        own[f"crps {baseline}"] = float(card["crps"].sel(source=baseline))
    means = ensemble["pr"].coarsen(y=factor, x=factor).mean().values
    wanted = coarse["pr"].values
    own["block_error"] = float((abs(means - wanted) / np.maximum(wanted, 0.1)).max())
    return own


def main(argv: Sequence[str] | None = None) -> int:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="model files")
    parser.add_argument("--tiles", metavar="STORE", help="Zarr store of radar tiles")
    parser.add_argument("--count", type=int, default=64, help="tiles, evenly spaced")
    parser.add_argument("--members", type=int, default=16)
    parser.add_output_file("zero_shot.json")
    options = parser.parse_args(argv)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, fine, factor in cases(options.tiles, options.count):
        for path in options.models:
            model = xcvae.load(path)
            fixed = model.spec.scales is None
            if fixed and (model.spec.coarsen != factor or not name.startswith("tiles, 1 km")):
                continue
            row = score(model, fine, factor, options.members)
            found.setdefault(str(path), {})[name] = row
            text = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"{path.name}, {name}: {text}", flush=True)
            write_json(options.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
