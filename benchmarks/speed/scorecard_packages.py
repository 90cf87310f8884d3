"""Three scores of one ensemble, by xcvae and by other packages."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from benchmarks.harness.processes import memory, reset_peak_memory
from benchmarks.harness.radar import open_radar, rescaled_rain

__all__ = ["RIVALS", "SIDE", "by_scores", "by_xcvae", "pair", "score_with"]

#: Packages; xskillscore takes its CRPS from properscoring, which is slow without Numba.
RIVALS = ("scores", "xskillscore", "xskillscore without Numba")
SIDE = 128


def fields(count: int, seed: int) -> np.ndarray:
    """Return rainy frames of the bundled radar at random, each rescaled."""
    random = np.random.default_rng(seed)
    rain = open_radar().pr.values[:, :SIDE, :SIDE]
    rain = rain[np.argsort(-rain.mean(axis=(1, 2)))[:200]]
    rain = rain[random.integers(0, len(rain), count)]
    return rescaled_rain(rain, random.lognormal(0.0, 0.1, (count, 1, 1)).astype("float32"))


def pair(members: int, samples: int) -> tuple[xr.DataArray, xr.DataArray]:
    """Return an ensemble and an observation, in memory."""
    values = fields(members * samples, 1).reshape(members, samples, SIDE, SIDE)
    times = np.datetime64("2020-01-01", "ns") + np.arange(samples) * np.timedelta64(1, "h")
    dims, attrs = ("time", "y", "x"), {"units": "mm h-1"}
    forecast = xr.DataArray(values, {"time": times}, ("realization", *dims), "pr", attrs)
    return forecast, xr.DataArray(fields(samples, 2), {"time": times}, dims, "pr", attrs)


def by_xcvae(forecast: xr.DataArray, observed: xr.DataArray) -> dict[str, float]:
    """Score by one scorecard of xcvae, with intervals."""
    from xcvae.verify.scorecard import evaluate

    names = ["crps", "spread_skill", "rank_deviation"]
    options: dict[str, Any] = {"metrics": names, "baselines": [], "progress": False}
    card = evaluate(observed.to_dataset(), forecast.to_dataset(), **options)
    return {name: card[name].item() for name in names}


def by_scores(forecast: xr.DataArray, observed: xr.DataArray) -> dict[str, float]:
    """Score by `scores`, each score by its own function."""
    from scores.continuous import mse
    from scores.probability import crps_for_ensemble, rank_histogram

    crps = crps_for_ensemble(forecast, observed, "realization", method="fair")
    ranks = rank_histogram(forecast, observed, "realization").values
    error = mse(forecast.mean("realization"), observed)
    return _scores(float(crps), _ratio(forecast, float(error)), ranks)


def by_xskillscore(forecast: xr.DataArray, observed: xr.DataArray) -> dict[str, float]:
    """Score by `xskillscore`, each score by its own function; its CRPS is not the fair one."""
    import xskillscore as xs

    crps = xs.crps_ensemble(observed, forecast, member_dim="realization")
    ranks = xs.rank_histogram(
        observed, forecast, dim=["time", "y", "x"], member_dim="realization"
    ).values
    error = xs.mse(forecast.mean("realization"), observed)
    return _scores(float(crps), _ratio(forecast, float(error)), ranks / ranks.sum())


def _ratio(forecast: xr.DataArray, error: float) -> float:
    members = forecast.sizes["realization"]
    variance = float(forecast.var("realization", ddof=1).mean())
    return float(np.sqrt((members + 1) / members * variance / error))


def _scores(crps: float, spread: float, ranks: np.ndarray) -> dict[str, float]:
    deviation = 0.5 * float(np.abs(ranks - 1.0 / ranks.size).sum())
    return {"crps": crps, "spread_skill": spread, "rank_deviation": deviation}


def score_with(package: str, members: int, samples: int, repeats: int) -> dict[str, Any]:
    """Score in this process; return the best time and the peak memory beyond the arrays."""
    if package.endswith("without Numba"):
        sys.modules["numba"] = None  # type: ignore[assignment]
    by: Callable[..., dict[str, float]] = {"xcvae": by_xcvae, "scores": by_scores}.get(
        package, by_xskillscore
    )
    by(*pair(3, 2))  # imports, and what Numba compiles
    forecast, observed = pair(members, samples)
    ctypes.CDLL(None).malloc_trim(0)  # return what imports and the first call have freed
    before = memory("VmRSS")
    reset_peak_memory()
    times, found = [], {}
    for _ in range(repeats):
        start = time.perf_counter()
        found = by(forecast, observed)
        times.append(time.perf_counter() - start)
    return {
        "seconds": min(times),
        "repeats": repeats,
        "peak_MB": (memory("VmHWM") - before) / 1e6,
        "arrays_MB": (forecast.nbytes + observed.nbytes) / 1e6,
        **found,
    }
