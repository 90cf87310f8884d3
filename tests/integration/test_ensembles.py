"""Ensembles end to end: spread, single members, dims without attributes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.generator.model import Model
from xcvae.metrics.spatial import Diversity


def diversity(ensemble: xr.Dataset, ds: xr.Dataset, dims: tuple[str, str]) -> float:
    metric = Diversity()
    stats = metric.statistics(ensemble.pr, ds.pr, spatial_dims=dims)
    return float(metric.finish({name: da.values.sum(axis=0) for name, da in stats.items()}))


def test_diversity_grows_with_spread(tiny_model: Model, test_radar: xr.Dataset) -> None:
    reached = [
        diversity(
            xcvae.sample(test_radar, tiny_model, mode="posterior", members=4, spread=spread),
            test_radar,
            ("y", "x"),
        )
        for spread in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert all(np.diff(reached) > 0), reached


@pytest.mark.parametrize("mode", ["prior", "posterior"])
def test_single_lazy_member_equals_the_stored_one(
    mode: str, tiny_model: Model, test_radar: xr.Dataset, tmp_path: Path
) -> None:
    options = {"mode": mode, "members": 5, "seed": 11}
    stored = xcvae.sample(
        test_radar, tiny_model, store=tmp_path / "e.zarr", chunks={"realization": 2, "time": 3},
        progress=False, **options,
    )  # fmt: skip
    where = {"realization": 3, "time": 7}
    alone = xcvae.sample(test_radar, tiny_model, **options).isel(where).pr.compute()
    assert float(alone.max()) > 0
    assert alone.values.tobytes() == stored.pr.isel(where).values.tobytes()


@pytest.fixture(scope="module")
def unnamed(train_radar: xr.Dataset) -> xr.Dataset:
    """Wet radar maps with unconventional dims, and no coordinates but the time."""
    part = train_radar.pr.isel(y=slice(48, 96), x=slice(48, 84))
    wet = np.flatnonzero((part > 0.1).mean(("y", "x")) > 0.3)
    part = part.isel(time=wet[:: len(wet) // 8][:8])
    maps = (("time", "a", "b"), part.values, {"units": "mm h-1"})
    return xr.Dataset({"pr": maps}, coords={"time": part.time.values})


def test_every_verb_accepts_spatial_dims_named_in_training(unnamed: xr.Dataset) -> None:
    model = xcvae.train(
        unnamed, target="pr", coarsen=12, spatial_dims=("a", "b"), progress=False, device="cpu",
        generator={"channels": [24, 24, 16, 12], "latents": [4, 4, 2, 1]},
        fit={"max_steps": 20, "batch_size": 4, "crop": 24, "validations": 1},
    )  # fmt: skip
    options = {"mode": "posterior", "members": 4}
    ends = [
        diversity(xcvae.sample(unnamed, model, spread=s, **options), unnamed, ("a", "b"))
        for s in (0.0, 1.0)
    ]
    ensemble = xcvae.sample(unnamed, model, diversity=sum(ends) / 2, **options)
    assert ensemble.pr.dims == ("realization", "time", "a", "b")
    reached = json.loads(ensemble.attrs["xcvae"])["diversity_reached"]
    assert reached == pytest.approx(sum(ends) / 2, abs=0.006)

    card = xcvae.evaluate(unnamed, ensemble, baselines=["bilinear", "block", "shuffled"])
    named = unnamed.rename(a="y", b="x")
    plain = ensemble.drop_attrs(deep=False).rename(a="y", b="x")
    expected = xcvae.evaluate(named, plain, baselines=["shuffled"], metrics=["crps", "fss"])
    for name in ("crps", "fss"):
        for source in ("xcvae", "shuffled"):
            found = card[name].sel(source=source).item()
            assert found == pytest.approx(expected[name].sel(source=source).item())
    assert card.mae.sel(source="shuffled").item() == pytest.approx(card.mae[0].item())

    assert xcvae.diagnose(unnamed, model, members=2).evidence.samples == 8
    assert len(ensemble.cvae.plot.members(unnamed, members=2).axes) == 5
    assert ensemble.cvae.plot.spectra(unnamed).axes
