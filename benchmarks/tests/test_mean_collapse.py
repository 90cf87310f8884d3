"""The faults of the legacy cVAE: the diagnosis names each, after a short training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from benchmarks.diagnosis import mean_collapse
from benchmarks.models import legacy_cvae
from xcvae.verify.diagnosis import Diagnosis, judge


@pytest.fixture(scope="module")
def window(radar: xr.Dataset) -> xr.Dataset:
    """Wet frames on 36 x 36 km."""
    part = radar[["pr"]].isel(y=slice(48, 84), x=slice(48, 84))
    wet = (part.pr > 0.1).mean(("y", "x")).values > 0.25
    return part.isel(time=wet)


@pytest.fixture(scope="module")
def storms(window: xr.Dataset) -> xr.Dataset:
    return window.isel(time=slice(None, None, 8))


def trained(window: xr.Dataset, name: str, steps: int) -> Any:
    return legacy_cvae.train(
        window,
        legacy_cvae.VARIANTS[name],
        target="pr",
        coarsen=12,
        minutes=10,
        max_steps=steps,
    )


@pytest.fixture(scope="module")
def healthy(window: xr.Dataset) -> Any:
    return trained(window, "healthy", 160)


def severities(diagnosis: Diagnosis) -> dict[str, str]:
    return {finding.name: finding.severity for finding in diagnosis.findings}


def test_every_switch_has_a_variant_of_its_own() -> None:
    alone = {name: asdict(v) for name, v in legacy_cvae.VARIANTS.items() if len(name) == 1}
    assert {name: sum(switches.values()) for name, switches in alone.items()} == dict.fromkeys(
        "abcd", 1
    )
    assert not any(asdict(legacy_cvae.VARIANTS["healthy"]).values())
    assert all(asdict(legacy_cvae.VARIANTS["abcd"]).values())
    assert set(mean_collapse.EXPECTED) == set(legacy_cvae.VARIANTS) - {"healthy"}


def test_healthy_variant_uses_its_latents(storms: xr.Dataset, healthy: Any) -> None:
    diagnosis = judge(healthy.evidence(storms, members=4))
    names = severities(diagnosis)
    for name in ("units", "posterior_collapse", "ignored_latent"):
        assert names[name] == "ok", diagnosis
    assert "normalised" not in str(diagnosis)
    assert diagnosis.evidence.posterior.correlation > diagnosis.evidence.prior.correlation + 0.2


def test_threshold_on_z_scores_is_named(storms: xr.Dataset, healthy: Any) -> None:
    # The same weights: only the threshold acts in the wrong place.
    before = healthy.network.diseases
    healthy.network.diseases = legacy_cvae.VARIANTS["a"]
    try:
        diagnosis = judge(healthy.evidence(storms, members=4))
    finally:
        healthy.network.diseases = before
    assert mean_collapse.unnamed("a", diagnosis) == []
    assert severities(diagnosis)["units"] == "fault"
    assert severities(diagnosis)["drizzle"] == "fault"
    assert "a threshold acted on normalised values" in str(diagnosis).replace("\n", " ").replace(
        "  ", ""
    )
    assert diagnosis.evidence.prior.wet_fraction > 0.9


@pytest.mark.parametrize("name", ["c", "bc", "d", "abcd"])
def test_disease_is_named(window: xr.Dataset, storms: xr.Dataset, name: str) -> None:
    diagnosis = judge(trained(window, name, 50).evidence(storms, members=4))
    assert not diagnosis.ok
    assert mean_collapse.unnamed(name, diagnosis) == [], diagnosis
    # Each of them makes the decoder ignore its latents, and all members equal.
    assert severities(diagnosis)["ignored_latent"] == "fault"
    assert severities(diagnosis)["identical_members"] == "fault"


def test_dropout_acts_on_the_condition_in_training_only() -> None:
    seen = []
    network = legacy_cvae.Network((4, 3), 12, legacy_cvae.VARIANTS["b"])
    network.base.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    coarse = torch.ones(64, 1, 4, 3)
    for training in (True, False):
        network.train(training)(coarse, torch.zeros)
    assert 0.4 < float((seen[0] == 0).float().mean()) < 0.6
    assert torch.equal(seen[1], coarse)
    assert np.isclose(float(seen[0].max()), 2.0)


def test_benchmark_prints_a_table_and_writes_results_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--output", str(tmp_path), "--steps", "2", "--only", "a", "--samples", "2"]
    mean_collapse.main([*call, "--members", "2", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "P99" in printed
    assert "Diagnosis of 2 samples" in printed
    content = json.loads((tmp_path / "mean_collapse.json").read_text())
    scores = content["models"]["a"]["scores"]["prior"]
    assert scores["wet_fraction"] > scores["wet_fraction_observed"] + 0.3
    assert {f["name"] for f in content["models"]["a"]["diagnosis"]["findings"]} >= {"units"}
    assert (tmp_path / "members.png").stat().st_size > 10_000
