"""Ensembles whose scores are known: whether scorecard and intervals say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from xcvae.verify.scorecard import evaluate

__all__ = ["coverage", "perfect", "rank_band"]

ABOVE = 60.0
"""Amounts lie around it, so that the normal distribution never meets zero."""


def dataset(values: np.ndarray) -> xr.Dataset:
    """Name dims (realization, time, y, x) or (time, y, x)."""
    dims = ("realization", "time", "y", "x")[-values.ndim :]
    times = np.datetime64("2020-01-01", "ns") + np.arange(values.shape[-3]) * np.timedelta64(1, "D")
    attrs = {"units": "mm d-1"}
    return xr.Dataset({"pr": (dims, values, attrs)}, coords={"time": times})


def remembering(random: np.random.Generator, shape: tuple[int, ...], memory: float) -> np.ndarray:
    """First-order autoregressive series of variance one, along the first axis."""
    series = random.normal(size=shape)
    for i in range(1, shape[0]):
        series[i] = memory * series[i - 1] + np.sqrt(1 - memory**2) * series[i]
    return series


def coverage(
    *, samples: int, memory: float, repeats: int, members: int = 5, side: int = 4, seed: int = 0
) -> dict[str, Any]:
    """Share of 95 % intervals that hold the true score, in percent by name.

    Observation and members are drawn from one normal distribution of a day. Its width w varies from
    day to day (log-normal, 0.4); width and deviations of the observation remember the day before.
    The CRPS is w / sqrt(pi), and the members are calibrated. The stretched condition is the mean
    of the distribution, whose error is w sqrt(2 / pi), so that the skill over it is 1 - sqrt(1/2).
    Above the mean are half of the days, which gives a Brier score of (1 + 1 / members) / 4.
    """
    expected = {
        "crps": np.exp(0.08) / np.sqrt(np.pi),
        "crps_skill": 1.0 - np.sqrt(0.5),
        "spread_skill": 1.0,
        "mass_bias": 0.0,
        "brier": (1.0 + 1.0 / members) / 4.0,
    }
    asked = [*list(expected)[:-1], {"name": "brier", "threshold": ABOVE}]
    hits: dict[str, list[bool]] = {name: [] for name in expected}
    flat = np.full((samples, 2, 2), ABOVE)
    for number in range(repeats):
        random = np.random.default_rng([samples, int(100 * memory), number, seed])
        width = np.exp(0.4 * remembering(random, (samples, 1, 1), memory))
        truth = ABOVE + width * remembering(random, (samples, side, side), memory)
        ensemble = ABOVE + width * random.normal(size=(members, samples, side, side))
        ds = dataset(truth)
        ds["pr_coarse"] = (("time", "y_coarse", "x_coarse"), flat, ds.pr.attrs)
        card = evaluate(ds, dataset(ensemble), metrics=asked, baselines=[], progress=False)
        for name, value in expected.items():
            low, high = (card[f"{name}_{end}"].item() for end in ("low", "high"))
            hits[name].append(low <= value <= high)
    shares = {name: round(100 * float(np.mean(found)), 1) for name, found in hits.items()}
    return {"samples": samples, "memory": memory, "repeats": repeats, **shares}


def perfect(members: int, *, samples: int = 32, side: int = 96) -> dict[str, float]:
    """Spread-skill and rank deviation of members from the distribution of the observation.

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
    """What the rank deviation of a flat histogram of independent pixels stays under."""
    random = np.random.default_rng(0)
    flat = np.full(members + 1, 1.0 / (members + 1))
    counts = random.multinomial(pixels, flat, 4000)
    deviations = 0.5 * np.abs(counts / pixels - flat).sum(axis=1)
    ends = np.quantile(deviations, [0.025, 0.975, 0.9995])
    return dict(zip(("band_low", "band_high", "band_99.95"), ends.tolist(), strict=True))
