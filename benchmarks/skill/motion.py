"""Memory of latents at a fixed place, and along the motion of the rain.

    python -m benchmarks.skill.motion --data STORE --model FILE [--hours 9] [--output FILE]

The store is that of `benchmarks.skill.sequences`, the model one that was trained on such radar. For
every level, the deviations (posterior means in units of the prior) of consecutive samples are
correlated at a fixed place, and after the earlier ones were moved by the displacement of the rain:
the peak of the cross-correlation of fine rain, which a draw does not know, or of the coarse rain,
which it does; each pair for itself, or the median over seven pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2
from scipy.ndimage import shift

import xcvae
from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.results import machine, write_json
from benchmarks.skill.sequences import open_record, wet_hours
from xcvae.fields.describe import prepare
from xcvae.fields.sample_blocks import block_slices, consecutive
from xcvae.fields.samples import times_of

Array = NDArray[np.float64]

#: Largest displacement between two samples, in pixels and in coarse cells.
REACH, CELLS = 10, 2
MEDIAN = 7


def displacement(before: Array, after: Array, reach: int) -> Array:
    """Return how far a map has moved, (y, x), to a part of a cell, within a reach of cells."""
    maps = [np.log1p(one) for one in (before, after)]
    shape = [2 * size for size in before.shape]
    first, second = (rfft2(one - one.mean(), shape) for one in maps)
    products = irfft2(np.conj(first) * second, shape)
    window = np.roll(products, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    row, column = np.unravel_index(window.argmax(), window.shape)
    found = []
    for at, line in ((int(row), window[:, column]), (int(column), window[row])):
        part = 0.0
        if 0 < at < 2 * reach:  # the top of a parabola through three values
            left, top, right = line[at - 1 : at + 2]
            part = 0.5 * (left - right) / (left - 2 * top + right)
        found.append(at - reach + part)
    return np.array(found)


def smoothed(moves: Array) -> Array:
    """Return the median displacement of the pairs around each pair."""
    half = MEDIAN // 2
    return np.array(
        [np.median(moves[max(0, i - half) : i + half + 1], axis=0) for i in range(len(moves))]
    )


def moved_correlation(maps: Array, first: Sequence[int], moves: Array) -> float:
    """Correlate deviations (sample, channel, y, x) with those before, after these were moved."""
    products, powers = 0.0, [0.0, 0.0]
    for i, move in zip(first, moves, strict=True):
        before = shift(maps[i], (0, *move), order=3, cval=np.nan) if move.any() else maps[i]
        known = np.isfinite(before)
        pair = before[known], maps[i + 1][known]
        products += float(pair[0] @ pair[1])
        powers = [power + float(one @ one) for power, one in zip(powers, pair, strict=True)]
    return float(products / np.sqrt(powers[0] * powers[1]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--data", type=Path, help="Zarr store of a record; default: bundled")
    parser.add_argument("--model", type=Path, required=True, help="a model of such radar")
    parser.add_argument("--hours", type=int, default=9, help="wet hours; default: %(default)s")
    parser.add_output_file()
    options: argparse.Namespace = parser.parse_args(argv)
    model, hours = xcvae.load(options.model), wet_hours(open_record(options.data), options.hours)
    batches = model.batches(prepare(hours, model.spec, need_target=True))
    parts = [
        model.deviations(batches.load(np.arange(len(hours.time))[block]))
        for block in block_slices(len(hours.time), 12)
    ]
    levels = [np.concatenate(maps).astype(np.float64) for maps in zip(*parts, strict=True)]

    _, runs = consecutive(np.array(times_of(hours, "time"), np.int64))
    first = [int(i) for run in runs for i in run[:-1]]
    fine, coarse = hours.pr.values.astype(float), hours.pr_coarse.values.astype(float)
    side = fine.shape[1] // coarse.shape[1]
    known = np.array([displacement(fine[i], fine[i + 1], REACH) for i in first])
    guessed = side * np.array([displacement(coarse[i], coarse[i + 1], CELLS) for i in first])
    ways = {
        "fixed": 0 * known, "fine": known, "fine, median": smoothed(known),
        "coarse": guessed, "coarse, median": smoothed(guessed),
    }  # fmt: skip
    print(f"{'level':10}" + "".join(f"{name:>16}" for name in ways))
    table = {}
    for maps in levels:
        name, pixels = f"{maps.shape[-2]} x {maps.shape[-1]}", fine.shape[1] / maps.shape[-2]
        table[name] = {way: moved_correlation(maps, first, m / pixels) for way, m in ways.items()}
        print(f"{name:10}" + "".join(f"{value:16.3f}" for value in table[name].values()))
    if options.output is not None:
        write_json(options.output, {"machine": machine(), "correlation": table})


if __name__ == "__main__":
    main()
