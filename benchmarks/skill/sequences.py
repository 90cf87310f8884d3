"""Members in time: frames and accumulations of independent, frozen and coherent ensembles.

    python -m benchmarks.skill.sequences [--data STORE] [--model FILE] [--minutes 6] [--output FILE]

The store is a Zarr record of rain (time, y, x) with ``split`` along time, at least hours of
consecutive samples; default: the sequence that comes with xcvae. A model is trained on split 0 of
the record, or of the bundled frames, unless ``--model`` names one. Hours of the last split in which
every sample has rain on 5 % of the pixels, in threes where possible, are drawn three times with the
same members: each time for itself, with the noise of one time for all, and coherent.

Targets: fine lag correlation within .04 of the observed; spread-skill of means within .05 of that
of the frames; CRPS of means no worse than independent and better than frozen (intervals by a
bootstrap over hours, of differences to independent); P99.9 of hourly means within 10 % of the
observed; processor time into a store at most 1.25 times that of independent members.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xcvae
from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.radar import open_radar
from benchmarks.harness.results import machine, write_json
from xcvae.fields.describe import prepare
from xcvae.generator.training.timescales import measure_timescales

#: Seconds after which a frozen ensemble forgets: never, in a record.
NEVER = 1e9
SOURCES = ("independent", "frozen", "coherent")
WET_RATE, WET_SHARE = 0.1, 0.05  # mm h-1, share of the pixels
LAGS = (1, 2, 3, 6)
MEANS = {"15 min": 3, "1 h": 12, "3 h": 36}
RESAMPLES = 400


def open_record(path: Path | None) -> xr.Dataset:
    """Open a record with ``pr``, ``pr_coarse`` (means of 12 x 12 pixels) and ``split``."""
    if path is None:
        return xcvae.tutorial.open_dataset("radklim-sequence").load()
    raw, like = xr.open_zarr(path), open_radar()
    name = next(n for n in ("pr", "pr_hr") if n in raw)
    rain = raw[name].astype("float32").load().assign_attrs(like.pr.attrs)
    coarse = rain.coarsen(y=12, x=12).mean().rename(y="y_coarse", x="x_coarse")
    ds = xr.Dataset({"pr": rain, "pr_coarse": coarse.assign_attrs(like.pr_coarse.attrs)})
    grid = {name: like[name] for name in ("y", "x", "y_coarse", "x_coarse")}
    return ds.assign_coords(split=raw["split"].load(), **grid)


def wet(ds: xr.Dataset) -> np.ndarray:
    """Mark the samples with rain on enough pixels."""
    return ((ds.pr >= WET_RATE).mean(["y", "x"]) >= WET_SHARE).values


def wet_hours(ds: xr.Dataset, count: int) -> xr.Dataset:
    """Return complete wet hours of the last split, in threes first, evenly spaced."""
    part = ds.isel(time=np.flatnonzero(ds.split.values == ds.split.values.max()))
    hours = part.time.values.astype("datetime64[h]")
    good = [h for h in np.unique(hours) if (hours == h).sum() == 12 and wet(part)[hours == h].all()]
    known = set(good)
    threes = [h for h in good if h.astype(int) % 3 == 0 and {h + 1, h + 2} <= known]
    picked = [threes[i] for i in np.unique(np.linspace(0, len(threes) - 1, count // 3).astype(int))]
    chosen = {h + k for h in picked for k in range(3)}
    chosen |= set([h for h in good if h not in chosen][: max(0, count - len(chosen))])
    return part.isel(time=np.isin(hours, sorted(chosen)))


def fine(fields: np.ndarray) -> np.ndarray:
    """Subtract the means of blocks of 12 x 12 pixels."""
    shape = fields.shape
    blocks = fields.reshape(*shape[:-2], shape[-2] // 12, 12, shape[-1] // 12, 12)
    return (blocks - blocks.mean(axis=(-3, -1), keepdims=True)).reshape(shape)


def lag_correlation(fields: np.ndarray, frames: int) -> float:
    """Correlate fine structure at a lag, (..., hour, frame, y, x), within the hours."""
    one, two = fields[..., :-frames, :, :], fields[..., frames:, :, :]
    return float((one * two).sum() / np.sqrt((one**2).sum() * (two**2).sum()))


def crps(members: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the fair CRPS by sample, (member, sample, y, x) against (sample, y, x)."""
    count = len(members)
    ranked = np.sort(members, axis=0)
    weights = (2.0 * np.arange(1, count + 1) - count - 1) / (count * (count - 1))
    pairs = np.tensordot(weights, ranked, axes=1)
    return (np.abs(members - observed).mean(0) - pairs).mean(axis=(-2, -1))


def spread_skill(members: np.ndarray, observed: np.ndarray) -> float:
    """Return spread over the error of the mean, corrected for the number of members."""
    count = len(members)
    error = ((members.mean(0) - observed) ** 2).mean()
    return float(np.sqrt((count + 1) / count * members.var(0, ddof=1).mean() / error))


def means(values: np.ndarray, frames: int, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average complete windows of consecutive frames along axis -3; also return their times."""
    step = np.timedelta64(5, "m")
    number = (times - times[0].astype("datetime64[D]")) // (step * frames)
    starts = [i for i in range(len(times) - frames + 1)
              if (number[i : i + frames] == number[i]).all()]  # fmt: skip
    found = [values[..., i : i + frames, :, :].mean(axis=-3) for i in starts]
    return np.stack(found, axis=-3), times[starts]


def scores(members: np.ndarray, observed: np.ndarray, times: np.ndarray) -> dict[str, Any]:
    """Score an ensemble, (member, time, y, x), frame by frame and by means over windows."""
    hours = (-1, 12, *observed.shape[1:])
    row: dict[str, Any] = {
        "fine": [lag_correlation(fine(members).reshape(len(members), *hours), k) for k in LAGS]
    }
    for name, frames in {"frame": 1, **MEANS}.items():
        own, starts = means(members, frames, times)
        truth, _ = means(observed, frames, times)
        row[name] = {
            "spread_skill": spread_skill(own, truth),
            "crps": float(crps(own, truth).mean()),
            "crps_by_sample": crps(own, truth).tolist(),
            "p999": float(np.quantile(own, 0.999) / np.quantile(truth, 0.999)),
            "times": [str(t) for t in starts.astype("datetime64[m]")],
        }
    return row


def difference(one: dict[str, Any], other: dict[str, Any], seed: int = 0) -> list[float]:
    """Return the 95 % interval of the mean difference in CRPS, by a bootstrap over hours."""
    values = np.array(one["crps_by_sample"]) - np.array(other["crps_by_sample"])
    hours = np.array(one["times"], "datetime64[h]")
    groups = [values[hours == h] for h in np.unique(hours)]
    rng = np.random.default_rng(seed)
    drawn = [
        np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]).mean()
        for _ in range(RESAMPLES)
    ]
    return np.quantile(drawn, [0.025, 0.975]).round(5).tolist()


def options_of(source: str, levels: int) -> dict[str, Any]:
    """Return the arguments of `xcvae.sample` that make a source."""
    frozen = {"temporal": "coherent", "timescales": [NEVER] * levels}
    return {"independent": {}, "frozen": frozen, "coherent": {"temporal": "coherent"}}[source]


def cost(ds: xr.Dataset, model: Any, members: int, repeats: int) -> list[float]:
    """Return ratios of the processor time into a store, coherent to independent, in turn."""
    seconds: dict[str, list[float]] = {"independent": [], "coherent": []}
    for repeat in range(repeats):
        for source in ("independent", "coherent") if repeat % 2 else ("coherent", "independent"):
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()  # other programs do not count
                xcvae.sample(
                    ds, model, members=members, seed=repeat, store=Path(folder) / "ens.zarr",
                    progress=False, **options_of(source, 0),
                )  # fmt: skip
                seconds[source].append(time.process_time() - start)
    pairs = zip(seconds["coherent"], seconds["independent"], strict=True)
    return [round(a / b, 3) for a, b in pairs]


def model_for(record: xr.Dataset, options: argparse.Namespace) -> Any:
    """Load or train a model; measure timescales if its file has none."""
    training = record.isel(time=np.flatnonzero((record.split.values == 0) & wet(record)))
    if options.model is not None:
        model = xcvae.load(options.model)
    else:
        fit = {"max_minutes": options.minutes, "batch_size": 8, "crop": 96}
        model = xcvae.train(
            open_radar(0), target="pr", conditions=["pr_coarse"], fit=fit, progress=False
        )
    if model.timescales is None:
        prepared = prepare(training, model.spec, need_target=True)
        model.training["timescales"] = measure_timescales(model, prepared).to_json()
    return model


def print_rows(rows: dict[str, dict[str, Any]], observed: dict[str, Any]) -> None:
    """Print a table of all sources."""
    print(f"fine lag correlation observed: {np.round(observed['fine'], 3).tolist()}")
    for name, row in rows.items():
        print(f"{name}: fine {np.round(row['fine'], 3).tolist()}")
        for window in ("frame", *MEANS):
            one = row[window]
            print(
                f"  {window:7} spread-skill {one['spread_skill']:.3f}  CRPS {one['crps']:.4f} "
                f"(minus independent: {one.get('difference', '')})  P99.9 {one['p999']:.3f}"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the ensembles and print the table."""
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--data", type=Path, help="Zarr store of 5-minute rain with split")
    parser.add_argument("--model", type=Path, help="trained model; default: train one")
    parser.add_argument("--minutes", type=float, default=6.0, help="of training")
    parser.add_argument("--hours", type=int, default=12)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spread", type=float, help="draw the posterior at this spread")
    parser.add_argument("--repeats", type=int, default=3, help="of the time into a store; 0: none")
    parser.add_output_file("sequences.json")
    options = parser.parse_args(argv)
    record = open_record(options.data)
    model, test = model_for(record, options), wet_hours(record, options.hours)
    print(
        f"{test.sizes['time'] // 12} hours; timescales {model.training['timescales']['seconds']} s"
    )
    how: dict[str, Any] = {"members": options.members, "seed": options.seed, "progress": False}
    if options.spread is not None:
        how |= {"mode": "posterior", "spread": options.spread}
    observed, times = test.pr.values.astype(np.float64), test.time.values
    rows: dict[str, dict[str, Any]] = {}
    for source in SOURCES:
        ens = xcvae.sample(test, model, **how, **options_of(source, len(model.timescales)))
        rows[source] = scores(ens.pr.values.astype(np.float64), observed, times)
        for window in ("frame", *MEANS):
            one = rows[source][window]
            one["difference"] = difference(one, rows["independent"][window])
    shape = (-1, 12, *observed.shape[1:])
    truth = {"fine": [lag_correlation(fine(observed).reshape(shape), k) for k in LAGS]}
    print_rows(rows, truth)
    ratios = cost(test.isel(time=slice(36)), model, options.members, options.repeats)
    if ratios:
        print(f"time into a store, coherent over independent: {ratios} (target <= 1.25)")
    content = {"machine": machine("cpu"), "observed": truth, "rows": rows, "cost": ratios}
    write_json(options.output, content)


if __name__ == "__main__":
    main()
