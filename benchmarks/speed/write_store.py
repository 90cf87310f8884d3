"""Speed of writing an ensemble beside raw Zarr, and the effect of codecs.

    python -m benchmarks.speed.write_store [--gigabytes 1.0] [--output FILE]

Without a model: regions of rain from the bundled radar, in new combinations, go through the store
(template, tasks, checksums, ledger) and, in the same run and with the same threads, straight into
`zarr.Array.__setitem__`; with icechunk installed, also through the store into a repository on the
same disk. The table of codecs is written the raw way. MB are of float32 values.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.radar import open_radar, rescaled_rain
from benchmarks.harness.results import Row, report
from xcvae.ensemble.store import EnsembleStore
from xcvae.ensemble.store.base import EnsembleSpec, Region, plan_chunks, regions_of
from xcvae.ensemble.store.write import write

MEMBERS, SIDE = 16, 128
BARE = {"write_empty_chunks": True}


@dataclass(frozen=True)
class Rain:
    """A source of regions: fields from a pool in memory."""

    pool: np.ndarray

    def draw_region(self, region: Region) -> tuple[np.ndarray, dict[str, Any]]:
        """Take fields from a place in the pool that depends on the region."""
        start = (region.number * 37) % (len(self.pool) - region.fields)
        part = self.pool[start : start + region.fields]
        members = region.realizations[1] - region.realizations[0]
        return part.reshape(members, -1, SIDE, SIDE), {}


def fields() -> np.ndarray:
    """Return radar without drizzle, rescaled, three times: as it is and flipped in two ways."""
    rain = open_radar().pr.values[:, :SIDE, :SIDE]
    factor = np.random.default_rng(0).lognormal(0.0, 0.1, rain.shape).astype("float32")
    rain = rescaled_rain(rain, factor)
    return np.concatenate([rain, rain[:, ::-1], rain[:, :, ::-1]])


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Round the mantissa to so many bits; zeros and NaN stay."""
    raw = np.ascontiguousarray(values).view("uint32")
    half = np.uint32((1 << (22 - bits)) - 1) + ((raw >> np.uint32(23 - bits)) & np.uint32(1))
    mask = np.uint32(0xFFFFFFFF ^ ((1 << (23 - bits)) - 1))
    return ((raw + half) & mask).view("float32")


def write_speed(folder: Path, action: Callable[[Path], None], megabytes: float) -> dict[str, float]:
    """Time an action that fills a folder; return MB/s, MB per CPU second, and values per byte."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.sync()
    start, used = time.perf_counter(), time.process_time()
    action(folder)
    rate = megabytes / (time.perf_counter() - start)
    used = time.process_time() - used
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    cpu = round(megabytes / used, 1)
    return {"MB/s": round(rate, 1), "MB/CPU s": cpu, "ratio": round(1e6 * megabytes / size, 2)}


class WriteBenchmark:
    """One ensemble, written in several ways."""

    def __init__(self, gigabytes: float, threads: int) -> None:
        self.source, self.threads = Rain(fields()), threads
        samples = max(1, round(gigabytes * 1e9 / (4 * MEMBERS * SIDE * SIDE)))
        self.shape = (MEMBERS, samples, SIDE, SIDE)
        self.chunks = plan_chunks(None, sizes=self.shape, sample="time")
        self.regions = list(regions_of(self.chunks, self.shape))
        self.megabytes = 4 * np.prod(self.shape) / 1e6

    def repository(self, folder: Path) -> None:
        """Write through the store of xcvae into an Icechunk repository."""
        self.through_store(folder, f"icechunk:{folder / 'e.icechunk'}")

    def through_store(self, folder: Path, store: str | None = None) -> None:
        """Write through the store of xcvae."""
        import dask

        lazy = da.zeros(self.shape, chunks=(*self.chunks, SIDE, SIDE), dtype="float32")
        template = xr.Dataset({"pr": (("realization", "time", "y", "x"), lazy)})
        opened, spec = (
            EnsembleStore.of(store or folder / "e.zarr"),
            EnsembleSpec("pr", {}, self.chunks),
        )
        options = {"finish": lambda _: {}, "progress": False}
        with dask.config.set(scheduler="threads", num_workers=self.threads):
            write(opened, spec, template, lambda _: self.source, **options)

    def raw(
        self,
        codec: Any,
        *,
        inner: tuple[int, int] | None = None,
        change: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> Callable[[Path], None]:
        """Return a write straight into Zarr: a thread writes a chunk, or a shard of chunks."""

        def action(folder: Path) -> None:
            whole = (*self.chunks, SIDE, SIDE)
            array = zarr.create_array(
                folder / "raw.zarr", shape=self.shape, dtype="float32", compressors=codec,
                chunks=whole if inner is None else (*inner, SIDE, SIDE),
                shards=None if inner is None else whole, fill_value=np.nan, config=BARE,
            )  # fmt: skip

            def put(region: Region) -> None:
                values, _ = self.source.draw_region(region)
                array[slice(*region.realizations), slice(*region.samples)] = change(values)

            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(put, self.regions))

        return action


def variants(benchmark: WriteBenchmark) -> dict[str, Callable[[Path], None]]:
    """Return the codecs and layouts of the table; the store uses the first."""
    zstd = {level: ZstdCodec(level=level) for level in (1, 3, 9)}
    shuffled = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=4)
    rounded = partial(round_mantissa, bits=7)
    return {
        "zstd 1": benchmark.raw(zstd[1]),
        "zstd 3": benchmark.raw(zstd[3]),
        "zstd 9": benchmark.raw(zstd[9]),
        "blosc zstd 1": benchmark.raw(shuffled),
        "7 bits, zstd 1": benchmark.raw(zstd[1], change=rounded),
        "7 bits, blosc zstd 1": benchmark.raw(shuffled, change=rounded),
        "zstd 1, shards of fields": benchmark.raw(zstd[1], inner=(1, 1)),
        "zstd 1, shards of samples": benchmark.raw(zstd[1], inner=(MEMBERS, 1)),
    }


def median(found: Iterable[dict[str, float]], key: str) -> float:
    return float(np.median([one[key] for one in found]))


def measure(
    benchmark: WriteBenchmark, repeats: int, parent: Path | None
) -> tuple[list[list[dict[str, float]]], dict[str, dict[str, float]]]:
    """Time the stores, in turn, and all variants once."""
    megabytes = benchmark.megabytes
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name) / "bench"
        stores = [benchmark.through_store, benchmark.raw(ZstdCodec(level=1))]
        stores += [benchmark.repository] if find_spec("icechunk") else []
        turns = [[write_speed(folder, one, megabytes) for one in stores] for _ in range(repeats)]
        table = {
            name: write_speed(folder, one, megabytes) for name, one in variants(benchmark).items()
        }
    return turns, table


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3, help="of all stores, in turn")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_output_file()
    options = parser.parse_args(argv)
    benchmark = WriteBenchmark(options.gigabytes, options.threads)
    print(f"{benchmark.shape}: {len(benchmark.regions)} regions, {options.threads} threads")
    turns, table = measure(benchmark, options.repeats, options.folder)
    store, raw, *ice = (median(found, "MB/s") for found in zip(*turns, strict=True))
    store_cpu, _, *ice_cpu = (median(found, "MB/CPU s") for found in zip(*turns, strict=True))
    overhead = 1e3 * benchmark.megabytes * (1 / store - 1 / raw) / len(benchmark.regions)
    rows = [Row.rate("store", store, raw, unit="MB/s", against="raw Zarr", target=0.9)]
    for name, unit, found, base in (
        ("icechunk", "MB/s", ice, store),
        ("icechunk, CPU", "MB/CPU s", ice_cpu, store_cpu),
    ):
        rows += [Row.rate(name, rate, base, unit=unit, against="store") for rate in found]
    for name, row in table.items():
        rows.append(Row.rate(name, row["MB/s"], raw, unit="MB/s", against="raw Zarr, zstd 1"))
        print(f"{name:28}{row['ratio']:8.2f} bytes of values per byte on disk")
    details = {"pairs": turns, "overhead_ms_per_region": overhead, "codecs": table}
    report("write", rows, vars(options), output=options.output, **details)


if __name__ == "__main__":
    main()
