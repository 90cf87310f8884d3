"""Three scores of one ensemble, by xcvae and by packages that others use, in a process each."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["RIVALS", "fields", "measured", "memory_of", "worker"]

#: What can be asked: xskillscore takes its CRPS from properscoring, which is slow without Numba.
RIVALS = ("scores", "xskillscore", "xskillscore without Numba")
SIDE = 128


def fields(count: int, seed: int) -> np.ndarray:
    """Rain of the bundled radar, multiplied so that it is not a multiple of its resolution."""
    from xcvae.tutorial import open_dataset

    random = np.random.default_rng(seed)
    rain = open_dataset("radklim").pr.values[:, :SIDE, :SIDE]
    rain = rain[np.argsort(-rain.mean(axis=(1, 2)))[:200]]
    rain = rain[random.integers(0, len(rain), count)]
    factor = random.lognormal(0.0, 0.1, (count, 1, 1)).astype("float32")
    return np.where(rain * factor < 0.1, 0.0, rain * factor).astype("float32")


def pair(members: int, samples: int) -> tuple[xr.DataArray, xr.DataArray]:
    """An ensemble of members and what was observed, in memory."""
    values = fields(members * samples, 1).reshape(members, samples, SIDE, SIDE)
    times = np.datetime64("2020-01-01", "ns") + np.arange(samples) * np.timedelta64(1, "h")
    dims, attrs = ("time", "y", "x"), {"units": "mm h-1"}
    forecast = xr.DataArray(values, {"time": times}, ("realization", *dims), "pr", attrs)
    return forecast, xr.DataArray(fields(samples, 2), {"time": times}, dims, "pr", attrs)


def by_xcvae(forecast: xr.DataArray, observed: xr.DataArray) -> dict[str, float]:
    """One scorecard, with intervals."""
    from xcvae.verify.scorecard import evaluate

    names = ["crps", "spread_skill", "rank_deviation"]
    asked: dict[str, Any] = {"metrics": names, "baselines": [], "progress": False}
    card = evaluate(observed.to_dataset(), forecast.to_dataset(), **asked)
    return {name: card[name].item() for name in names}


def by_scores(forecast: xr.DataArray, observed: xr.DataArray) -> dict[str, float]:
    """`scores`, each score by its own function."""
    from scores.continuous import mse
    from scores.probability import crps_for_ensemble, rank_histogram

    crps = crps_for_ensemble(forecast, observed, "realization", method="fair")
    ranks = rank_histogram(forecast, observed, "realization").values
    error = mse(forecast.mean("realization"), observed)
    return _scores(float(crps), _ratio(forecast, float(error)), ranks)


def by_xskillscore(forecast: xr.DataArray, observed: xr.DataArray) -> dict[str, float]:
    """`xskillscore`, each score by its own function; its CRPS is not the fair one."""
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


def worker(name: str, members: int, samples: int, repeats: int) -> None:
    """Score in this process and print time (the best) and peak memory beyond the arrays."""
    if name.endswith("without Numba"):
        sys.modules["numba"] = None  # type: ignore[assignment]
    by: Callable[..., dict[str, float]] = {"xcvae": by_xcvae, "scores": by_scores}.get(
        name, by_xskillscore
    )
    by(*pair(3, 2))  # imports, and what Numba compiles
    forecast, observed = pair(members, samples)
    ctypes.CDLL(None).malloc_trim(0)  # what imports and the first call have freed
    before = memory_of("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # a new high-water mark
    times, found = [], {}
    for _ in range(repeats):
        start = time.perf_counter()
        found = by(forecast, observed)
        times.append(time.perf_counter() - start)
    print(json.dumps({
        "seconds": min(times), "repeats": repeats, "peak_MB": memory_of("VmHWM") - before,
        "arrays_MB": (forecast.nbytes + observed.nbytes) / 1e6, **found,
    }))  # fmt: skip


def measured(script: Path, *arguments: object) -> dict[str, Any] | None:
    """Run a worker of a script in a fresh process; None if a package is not there."""
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_of(key: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most (Linux)."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6
