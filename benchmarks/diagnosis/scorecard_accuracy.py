"""Scores and intervals of `xcvae.evaluate` for ensembles whose true scores are known.

    python -m benchmarks.diagnosis.scorecard_accuracy [coverage] [perfect] [--output FILE]

coverage: share of 95 % intervals that contain the true score, for samples that depend on the one
before and for independent ones. perfect: members from the distribution of the observation, from 2
to 64 of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.results import report
from xcvae.verify.scorecard import evaluate

ABOVE = 60.0
"""Amounts lie around it, so that the normal distribution never meets zero."""


def dataset(values: np.ndarray) -> xr.Dataset:
    """Label rain (realization, time, y, x) or (time, y, x)."""
    dims = ("realization", "time", "y", "x")[-values.ndim :]
    times = np.datetime64("2020-01-01", "ns") + np.arange(values.shape[-3]) * np.timedelta64(1, "D")
    attrs = {"units": "mm d-1"}
    return xr.Dataset({"pr": (dims, values, attrs)}, coords={"time": times})


def autoregressive(
    random: np.random.Generator, shape: tuple[int, ...], memory: float
) -> np.ndarray:
    """Draw a first-order autoregressive series of variance one, along the first axis."""
    series = random.normal(size=shape)
    for i in range(1, shape[0]):
        series[i] = memory * series[i - 1] + np.sqrt(1 - memory**2) * series[i]
    return series


def coverage(
    *, samples: int, memory: float, repeats: int, members: int = 5, side: int = 4, seed: int = 0
) -> dict[str, Any]:
    """Return the share of 95 % intervals that contain the true score, in percent by name.

    Observation and members are drawn from one normal distribution of a day. Its width w varies from
    day to day (log-normal, 0.4); width and deviations of the observation depend on the day before.
    The CRPS is w / sqrt(pi), and the members are calibrated. The interpolated condition is the mean
    of the distribution, whose error is w sqrt(2 / pi), so that the skill over it is 1 - sqrt(1/2).
    Half of the days are above the mean, which gives a Brier score of (1 + 1 / members) / 4.
    """
    expected = {
        "crps": np.exp(0.08) / np.sqrt(np.pi),
        "crps_skill": 1.0 - np.sqrt(0.5),
        "spread_skill": 1.0,
        "mass_bias": 0.0,
        "brier": (1.0 + 1.0 / members) / 4.0,
    }
    metrics = [*list(expected)[:-1], {"name": "brier", "threshold": ABOVE}]
    hits: dict[str, list[bool]] = {name: [] for name in expected}
    flat = np.full((samples, 2, 2), ABOVE)
    for number in range(repeats):
        random = np.random.default_rng([samples, int(100 * memory), number, seed])
        width = np.exp(0.4 * autoregressive(random, (samples, 1, 1), memory))
        truth = ABOVE + width * autoregressive(random, (samples, side, side), memory)
        ensemble = ABOVE + width * random.normal(size=(members, samples, side, side))
        ds = dataset(truth)
        ds["pr_coarse"] = (("time", "y_coarse", "x_coarse"), flat, ds.pr.attrs)
        card = evaluate(ds, dataset(ensemble), metrics=metrics, baselines=[], progress=False)
        for name, value in expected.items():
            low, high = (card[f"{name}_{end}"].item() for end in ("low", "high"))
            hits[name].append(low <= value <= high)
    shares = {name: round(100 * float(np.mean(found)), 1) for name, found in hits.items()}
    return {"samples": samples, "memory": memory, "repeats": repeats, **shares}


def perfect(members: int, *, samples: int = 32, side: int = 96) -> dict[str, float]:
    """Return spread-skill and rank deviation of members from the distribution of the observation.

    Amounts are gamma variates, with no two equal, times an intensity that differs between samples.
    """
    random = np.random.default_rng(members)
    intensity = random.lognormal(0.0, 0.3, (samples, 1, 1))
    truth = dataset(intensity * random.gamma(2.0, 2.0, (samples, side, side)))
    ensemble = dataset(intensity * random.gamma(2.0, 2.0, (members, samples, side, side)))
    names = ["spread_skill", "rank_deviation"]
    card = evaluate(truth, ensemble, metrics=names, baselines=[], progress=False)
    limits = rank_band(members, samples * side * side)
    return {"members": members, **{name: card[name].item() for name in names}, **limits}


def rank_band(members: int, pixels: int) -> dict[str, float]:
    """Return quantiles of the rank deviation of a flat histogram of independent pixels."""
    random = np.random.default_rng(0)
    flat = np.full(members + 1, 1.0 / (members + 1))
    counts = random.multinomial(pixels, flat, 4000)
    deviations = 0.5 * np.abs(counts / pixels - flat).sum(axis=1)
    ends = np.quantile(deviations, [0.025, 0.975, 0.9995])
    return dict(zip(("band_low", "band_high", "band_99.95"), ends.tolist(), strict=True))


def coverage_part(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Count intervals that contain the truth, for every case."""
    rows = []
    for samples, memory in options.cases:
        row = coverage(
            samples=int(samples),
            memory=memory,
            repeats=options.coverage_repeats,
            seed=options.coverage_seed,
        )
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return rows


def perfect_part(_: argparse.Namespace) -> dict[str, Any]:
    """Score calibrated ensembles of 2 to 64 members."""
    rows = [perfect(members) for members in range(2, 65)]
    spread = [row["spread_skill"] for row in rows]
    inside = sum(row["band_low"] <= row["rank_deviation"] <= row["band_high"] for row in rows)
    beyond = sum(row["rank_deviation"] > row["band_99.95"] for row in rows)
    print(f"M = 2 to 64: spread-skill {min(spread):.4f} to {max(spread):.4f}")
    print(f"rank deviation: in its 95 % band {inside} of {len(rows)}, above 99.95 % {beyond}")
    summary = {"spread_skill": [min(spread), max(spread)], "inside_95": inside, "beyond": beyond}
    return {**summary, "rows": rows}


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "coverage": coverage_part,
    "perfect": perfect_part,
}


def case(text: str) -> tuple[float, float]:
    """Read "150,0.5": samples, and the correlation of one with the one before."""
    samples, memory = text.split(",")
    return float(samples), float(memory)


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_parts(PARTS)
    parser.add_argument("--coverage-repeats", type=int, default=500)
    parser.add_argument("--coverage-seed", type=int, default=0, help="of the synthetic ensembles")
    cases = [(60.0, 0.0), (150.0, 0.0), (150.0, 0.5), (150.0, 0.8), (600.0, 0.8)]
    parser.add_argument("--cases", type=case, nargs="+", default=cases, help="coverage: 150,0.5")
    parser.add_output_file()
    options = parser.parse_args(argv)
    found = {part: PARTS[part](options) for part in options.parts or PARTS}
    report("scorecard_accuracy", [], vars(options), output=options.output, **found)


if __name__ == "__main__":
    main()
