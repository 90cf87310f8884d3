"""Check the figures of `xcvae demo` with plain numpy, from its files.

    python -m benchmarks.diagnosis.check_demo DEMO_FOLDER [--dial]

Reads the Zarr stores through xarray, without xcvae, computes the scores of the success table again
from their definitions, and prints them beside those of the demo's own report. ``--dial``
also draws posterior ensembles over the dial (this part uses xcvae) and scores them the same way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.harness.arguments import BenchmarkParser

WET = 0.1  # mm h-1


def spectrum(fields: np.ndarray) -> np.ndarray:
    """Return power by radial wavenumber (cycles per shorter side), averaged over fields."""
    ny, nx = fields.shape[-2:]
    short = min(ny, nx)
    power = sum(np.abs(np.fft.fft2(f)) ** 2 for f in fields) / len(fields)
    ky, kx = np.fft.fftfreq(ny) * short, np.fft.fftfreq(nx) * short
    ring = np.rint(np.hypot(ky[:, None], kx[None])).astype(int)
    sums, counts = np.bincount(ring.ravel(), power.ravel()), np.bincount(ring.ravel())
    return (sums / counts)[1 : short // 2 + 1]


def scores(members: np.ndarray, observed: np.ndarray, bilinear: np.ndarray) -> dict[str, float]:
    """Score members (m, n, y, x) by the definitions; observed and bilinear are (n, y, x)."""
    m, n = members.shape[:2]
    flat, truth = members.reshape(m, n, -1), observed.reshape(n, -1)
    ordered = np.sort(members, axis=0)
    ranks = 2 * np.arange(m) - m + 1
    pairs = np.tensordot(ranks, ordered, axes=(0, 0)).mean() / (m * (m - 1) / 2)
    crps = np.abs(members - observed).mean() - pairs / 2
    norms = np.linalg.norm(flat, axis=-1)
    cosine = np.einsum("ank,bnk->nab", flat, flat) / np.einsum("an,bn->nab", norms, norms)
    off = ~np.eye(m, dtype=bool)
    correlation = [
        np.corrcoef(flat[a, i], truth[i])[0, 1] if flat[a, i].any() else 0.0
        for a in range(m)
        for i in range(n)
    ]
    # Multiples of 0.12 that come from different roundings are the same number to four decimals.
    members, observed = members.round(4), observed.round(4)
    wet_a, wet_b = np.sort(members[members >= WET]), np.sort(observed[observed >= WET])
    grid = np.unique(np.concatenate([wet_a, wet_b]))
    ks = np.abs(
        np.searchsorted(wet_a, grid, side="right") / len(wet_a)
        - np.searchsorted(wet_b, grid, side="right") / len(wet_b)
    ).max()
    ratio = spectrum(members.reshape(m * n, *observed.shape[1:])) / spectrum(observed)
    variance = members.var(axis=0, ddof=1).mean()
    error = ((members.mean(axis=0) - observed) ** 2).mean()
    return {
        "spatial_correlation": float(np.mean(correlation)),
        "diversity": float(1 - cosine[:, off].mean()),
        "wet_fraction": float((members >= WET).mean()),
        "wet_fraction_observed": float((observed >= WET).mean()),
        "mass_bias": float(members.mean() / observed.mean() - 1),
        "ks": float(ks),
        "p99_ratio": float(np.quantile(members, 0.99) / np.quantile(observed, 0.99)),
        "crps": float(crps),
        "crps_skill": float(1 - crps / np.abs(bilinear - observed).mean()),
        "spread_skill": float(np.sqrt((m + 1) / m * variance / error)),
        "spectral_distance": float(np.abs(10 * np.log10(ratio)).mean()),
    }


def interpolated(coarse: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Interpolate block means bilinearly, edge to edge, constant beyond the outer centres."""
    for axis, size in ((1, shape[0]), (2, shape[1])):
        count = coarse.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
        low = np.minimum(place.astype(int), count - 2)
        share = np.expand_dims(place - low, tuple(i for i in range(3) if i != axis))
        coarse = (1 - share) * coarse.take(low, axis) + share * coarse.take(low + 1, axis)
    return coarse


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dial", action="store_true")
    arguments = parser.parse_args(argv)
    here = Path(__file__).resolve().parents[2]
    record = xr.open_zarr(here / "xcvae/tutorial/data/radklim.zarr", consolidated=False).load()
    test = record.isel(time=record.split.values == 2)
    observed = test.pr.values.astype("f8")
    bilinear = interpolated(test.pr_coarse.values.astype("f8"), observed.shape[1:])
    report = json.loads((arguments.folder / "report" / "report.json").read_text())
    for mode in ("posterior", "prior"):
        ensemble = xr.open_zarr(arguments.folder / f"{mode}.zarr", consolidated=False).load()
        members = ensemble.pr.values.astype("f8")
        reported = report["ensembles"][mode]["scores"]
        computed = scores(members, observed, bilinear)
        print(f"\n{mode}, {members.shape[0]} members of {members.shape[1]} frames")
        print(f"{'score':22}{'numpy':>9}{'report':>9}")
        for name, value in computed.items():
            print(f"{name:22}{value:9.4f}{reported[name]['xcvae']['value']:9.4f}")
    if arguments.dial:
        dial(arguments.folder, test, observed, bilinear)


def dial(folder: Path, test: xr.Dataset, observed: np.ndarray, bilinear: np.ndarray) -> None:
    import xcvae

    few = slice(None, None, 2)
    print(f"\ndial, 6 members of every second frame, threshold only\n{'spread':>7}", end="")
    names = ("spatial_correlation", "diversity", "wet_fraction", "mass_bias", "ks", "p99_ratio")
    print("".join(f"{name:>21}" for name in names))
    for spread in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawn = xcvae.sample(
            test.isel(time=few),
            folder / "model.xcvae",
            mode="posterior",
            members=6,
            spread=spread,
            progress=False,
        )
        computed = scores(drawn.pr.values.astype("f8"), observed[few], bilinear[few])
        print(f"{spread:7.2f}" + "".join(f"{computed[name]:21.4f}" for name in names))


if __name__ == "__main__":
    main()
