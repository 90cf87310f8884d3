"""Draw the figure of the README: a coarse field, the observation and four members.

    python docs/figures/members.py [MODEL] [--output docs/figures/members.png]

The frame is from the test days of the bundled radar, on which neither bundled model nor figure was
tuned: the one with the largest mean rain. MODEL is a file or a name; the bundled model by default,
which has seen other radars only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

import xcvae
from xcvae.verify.plots.member_maps import RainScale

MEMBERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="rain-radar")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("members.png"))
    options = parser.parse_args()
    ds = xcvae.tutorial.open_dataset("radklim").load()
    test = ds.isel(time=ds.split.values == 2)
    frame = test.isel(time=[int(test.pr.mean(["y", "x"]).argmax("time"))])
    members = xcvae.sample(frame, options.model, members=MEMBERS, progress=False).pr.values[:, 0]
    panels = [("coarse, 12 km", frame.pr_coarse.values[0]), ("observed, 1 km", frame.pr.values[0])]
    panels += [(f"member {number}", field) for number, field in enumerate(members)]
    colors, norm = RainScale.of([field for _, field in panels], "mm h-1", daily=False).colours()
    # Two rows: on the screen of a phone, six maps side by side are too small to see a storm.
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 6.2), layout="constrained")
    for axis, (title, field) in zip(axes.flat, panels, strict=True):
        image = axis.imshow(field, cmap=colors, norm=norm, origin="upper", interpolation="none")
        axis.set_title(title, fontsize=12)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(
        image, ax=axes, label="rain rate (mm h$^{-1}$)", location="bottom", aspect=40, pad=0.02
    )
    figure.savefig(options.output, dpi=150)


if __name__ == "__main__":
    main()
