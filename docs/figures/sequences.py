"""Make the animation of the page on sequences: observed rain and two coherent members.

    python docs/figures/sequences.py docs/figures/sequences.gif [MODEL]

Without a model, one is trained for six minutes on the bundled radar.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import xcvae


def main() -> None:
    """Draw the members and write the animation."""
    parser = argparse.ArgumentParser(description="Make the animation of the page on sequences.")
    parser.add_argument("gif", type=Path, help="output file")
    parser.add_argument("model", type=Path, nargs="?", help="trained model; default: train one")
    arguments = parser.parse_args()
    if arguments.model is None:
        ds = xcvae.tutorial.open_dataset("radklim").load()
        train = ds.isel(time=ds.split.values == 0)
        model = xcvae.train(train, target="pr", conditions=["pr_coarse"], fit={"max_minutes": 6})
    else:
        model = xcvae.load(arguments.model)
    hours = xcvae.tutorial.open_dataset("radklim-sequence").load()
    ens = xcvae.sample(hours, model, members=2, temporal="coherent")
    ens.cvae.plot.animate(hours, path=arguments.gif, members=2, seconds=0.2)


if __name__ == "__main__":
    main()
