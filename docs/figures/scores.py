"""Print the table of the README: the bundled model beside simple ways to refine coarse rain.

    python docs/figures/scores.py [MODEL] [--members 16]

Every fourth test frame of the bundled radar, 12 km to 1 km, by `xcvae.evaluate`. MODEL is a file or
a name; the bundled model by default, which has seen other radars only.
"""

from __future__ import annotations

import argparse

import numpy as np

import xcvae

METRICS = ("crps", "crps_skill", "spread_skill", "spectral_distance", "mass_bias")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="rain-radar")
    parser.add_argument("--members", type=int, default=16)
    options = parser.parse_args()
    ds = xcvae.tutorial.open_dataset("radklim")
    test = ds.isel(time=np.flatnonzero(ds.split.values == 2)[::4]).load()
    coarse = test[["pr"]].coarsen(y=12, x=12).mean().astype("float32")
    coarse.pr.attrs = test.pr.attrs
    for dim in ("y", "x"):
        coarse[dim].attrs = test[dim].attrs
    drawn = xcvae.sample(coarse, options.model, factor=12, members=options.members, progress=False)
    card = xcvae.evaluate(
        test,
        drawn.load(),
        metrics=list(METRICS),
        baselines=["bilinear", "block", "rainfarm"],
        progress=False,
    )
    print(card.cvae.table("markdown"))


if __name__ == "__main__":
    main()
