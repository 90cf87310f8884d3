"""Draw every figure of xcvae for the gallery of the documentation.

    python docs/figures/gallery.py [--output docs/figures/gallery]

Members of the bundled model for test frames of the bundled radar, without training on this radar;
the curve of the training is that of two hundred steps.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import xarray as xr
from PIL import Image

import xcvae

WIDTH = 900  # pixels at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("gallery"))
    options = parser.parse_args()
    options.output.mkdir(exist_ok=True)
    ds = xcvae.tutorial.open_dataset("radklim").load()
    test = ds.isel(time=np.flatnonzero(ds.split.values == 2)[::4])
    ens = drawn(test)
    card = test.cvae.evaluate(ens, baselines=["bilinear", "rainfarm"], progress=False)
    wettest = int(test.pr.mean(["y", "x"]).argmax("time"))
    hours = xcvae.tutorial.open_dataset("radklim-sequence").load()
    coherent = drawn(
        hours, temporal="coherent", timescales=["1h", "40 min", "20 min", "15 min", "8 min", 0]
    )
    log = training_log(ds.isel(time=ds.split.values == 0))
    plots = {
        "members": lambda: ens.isel(time=[wettest]).cvae.plot.members(test, members=4),
        "summary": card.cvae.plot.summary,
        "rank_histogram": lambda: ens.cvae.plot.rank_histogram(test),
        "reliability": lambda: ens.cvae.plot.reliability(test),
        "spectra": lambda: ens.cvae.plot.spectra(test, baselines=["bilinear", "rainfarm"]),
        "quantiles": lambda: ens.cvae.plot.quantiles(test),
        "intensity": lambda: ens.cvae.plot.intensity(test),
        "bias": lambda: ens.cvae.plot.bias(test),
        "strip": lambda: coherent.isel(time=slice(8)).cvae.plot.strip(hours, members=2),
        "hovmoeller": lambda: coherent.cvae.plot.hovmoeller(hours),
        "training_curve": log.cvae.plot.training_curve,
    }
    for name, draw in plots.items():
        file = options.output / f"{name}.png"
        draw().savefig(file, dpi=90, bbox_inches="tight", facecolor="white")
        shrink(file)
        print(f"{file.name}: {file.stat().st_size // 1000} kB")


def drawn(ds: xr.Dataset, **settings: object) -> xr.Dataset:
    """Draw members from means over 12 x 12 pixels alone."""
    coarse = ds[["pr"]].coarsen(y=12, x=12).mean().astype("float32")
    coarse.pr.attrs = ds.pr.attrs
    for dim in ("y", "x"):
        coarse[dim].attrs = ds[dim].attrs
    return xcvae.sample(
        coarse, "rain-radar", factor=12, members=16, progress=False, **settings
    ).load()


def training_log(train: xr.Dataset) -> xr.Dataset:
    with tempfile.TemporaryDirectory() as folder:
        model = xcvae.train(
            train,
            target="pr",
            conditions=["pr_coarse"],
            fit={"max_steps": 200},
            path=Path(folder) / "model.xcvae",
            progress=False,
        )
    return model.history


def shrink(file: Path) -> None:
    """Limit width and colours: figures are small files."""
    with Image.open(file) as image:
        small = image.convert("RGB")
    if small.width > WIDTH:
        small = small.resize((WIDTH, small.height * WIDTH // small.width), Image.Resampling.LANCZOS)
    small.quantize(128).save(file, optimize=True)


if __name__ == "__main__":
    main()
