"""Spells and sums over days of independent, frozen and coherent ensembles.

    python -m benchmarks.skill.daily_sequences --data STORE --model FILE [--members 16]
                                               [--seed 0] [--output FILE]

The store is that of `benchmarks.skill.balearic` and the model one that it trained. The days of the
last split are drawn three times with the same members: each day for itself, with the noise of one
day for all, and coherent. The table has the correlation of fine structure from day to day, the
length of wet spells over the observed, and scores of days and of means over five days, with 95 %
intervals: of scores by `xcvae.evaluate`, of differences in CRPS by a bootstrap over five-day
windows in blocks of six.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xcvae
from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.results import machine, write_json
from benchmarks.skill.balearic import FIELDS, splits_of
from benchmarks.skill.sequences import RESAMPLES, SOURCES, crps, options_of

WINDOW, BLOCK = 5, 6
METRICS: list[Any] = [
    "lag_correlation",
    "wet_spell",
    "spread_skill",
    "crps",
    {"name": "spread_skill", "window": f"{WINDOW} d"},
    {"name": "crps", "window": f"{WINDOW} d"},
]


def by_window(members: np.ndarray, observed: np.ndarray, days: int) -> np.ndarray:
    """Return the CRPS of means over windows of days; pixels without observations do not count."""
    count, known = observed.shape[0] // days, np.isfinite(observed).all(axis=0)

    def means(values: np.ndarray) -> np.ndarray:
        cut = values[..., : count * days, :, :][..., known]
        return np.asarray(cut.reshape(*cut.shape[:-2], count, days, -1).mean(axis=-2))

    return crps(means(members)[..., None], means(observed)[..., None])


def interval_of(differences: np.ndarray, block: int) -> list[float]:
    """Return the 95 % interval of a mean, by a bootstrap over blocks of consecutive values."""
    parts = np.array_split(differences, max(1, len(differences) // block))
    rng = np.random.default_rng(0)
    rows = rng.integers(len(parts), size=(RESAMPLES, len(parts)))
    drawn = [np.concatenate([parts[i] for i in row]).mean() for row in rows]
    return np.quantile(drawn, [0.025, 0.975]).round(4).tolist()


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the ensembles and print the table."""
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--data", required=True, help="Zarr store with pr, weather maps and split")
    parser.add_argument("--model", type=Path, required=True, help="trained model")
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fields", nargs="+", default=list(FIELDS))
    parser.add_output_file()
    options = parser.parse_args(argv)
    record = xr.open_zarr(options.data, consolidated=False)[["pr", *options.fields]]
    test, model = splits_of(record)[2], xcvae.load(options.model)
    measured = model.training["timescales"]
    print(f"{test.sizes['time']} days; timescales {np.round(np.array(model.timescales) / 3600)} h")
    observed = test["pr"].transpose("time", "y", "x").values.astype(np.float64)
    rows: dict[str, Any] = {}
    losses: dict[str, dict[int, np.ndarray]] = {}
    for source in SOURCES:
        given = options_of(source, len(model.timescales))
        ens = xcvae.sample(
            test, model, members=options.members, seed=options.seed, progress=False, **given
        ).load()
        card = xcvae.evaluate(test, ens, metrics=METRICS, baselines=[], progress=False)
        rows[source] = {str(name): float(card[name].values[0]) for name in card.data_vars}
        members = ens["pr"].transpose("realization", "time", "y", "x").values.astype(np.float64)
        losses[source] = {days: by_window(members, observed, days) for days in (1, WINDOW)}
        for days, own in losses[source].items():
            gap = own - losses["independent"][days]
            block = BLOCK * WINDOW // days
            rows[source][f"crps_{days}d_difference"] = [float(gap.mean()), *interval_of(gap, block)]
        rows[source]["observed_lag"] = card["lag_correlation"].attrs.get("better")
        print(source, {key: np.round(value, 4) for key, value in rows[source].items()
                       if not isinstance(value, str)})  # fmt: skip
    if options.output is not None:
        content = {"machine": machine("cpu"), "timescales": measured, "rows": rows}
        write_json(options.output, content)


if __name__ == "__main__":
    main()
