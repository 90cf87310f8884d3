"""The diseases of the old scripts, caught early: the diagnosis calls each by its name."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xcvae.verify.diagnosis import Diagnosis, judge

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
old_scripts = importlib.import_module("references.old_scripts")
mean_collapse = importlib.import_module("mean_collapse")


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
    return old_scripts.train(
        window,
        old_scripts.VARIANTS[name],
        target="pr",
        coarsen=12,
        minutes=10,
        max_steps=steps,
    )


@pytest.fixture(scope="module")
def healthy(window: xr.Dataset) -> Any:
    return trained(window, "healthy", 160)


def said(diagnosis: Diagnosis) -> dict[str, str]:
    return {finding.name: finding.severity for finding in diagnosis.findings}


def test_every_switch_has_a_variant_of_its_own() -> None:
    alone = {name: asdict(v) for name, v in old_scripts.VARIANTS.items() if len(name) == 1}
    assert {name: sum(switches.values()) for name, switches in alone.items()} == dict.fromkeys(
        "abcd", 1
    )
    assert not any(asdict(old_scripts.VARIANTS["healthy"]).values())
    assert all(asdict(old_scripts.VARIANTS["abcd"]).values())
    assert set(mean_collapse.EXPECTED) == set(old_scripts.VARIANTS) - {"healthy"}


def test_the_healthy_one_uses_its_latents(storms: xr.Dataset, healthy: Any) -> None:
    diagnosis = judge(healthy.evidence(storms, members=4))
    names = said(diagnosis)
    for name in ("units", "posterior_collapse", "ignored_latent"):
        assert names[name] == "ok", diagnosis
    assert "normalised" not in str(diagnosis)
    assert diagnosis.evidence.posterior.correlation > diagnosis.evidence.prior.correlation + 0.2


def test_a_threshold_on_z_scores_is_named(storms: xr.Dataset, healthy: Any) -> None:
    # The same weights: nothing is wrong with them but where the threshold acts.
    before = healthy.network.diseases
    healthy.network.diseases = old_scripts.VARIANTS["a"]
    try:
        diagnosis = judge(healthy.evidence(storms, members=4))
    finally:
        healthy.network.diseases = before
    assert mean_collapse.unnamed("a", diagnosis) == []
    assert said(diagnosis)["units"] == "fault"
    assert said(diagnosis)["drizzle"] == "fault"
    assert "a threshold acted on normalised values" in str(diagnosis).replace("\n", " ").replace(
        "  ", ""
    )
    assert diagnosis.evidence.prior.wet_fraction > 0.9


@pytest.mark.parametrize("name", ["c", "bc", "d", "abcd"])
def test_a_disease_is_named(window: xr.Dataset, storms: xr.Dataset, name: str) -> None:
    diagnosis = judge(trained(window, name, 50).evidence(storms, members=4))
    assert not diagnosis.ok
    assert mean_collapse.unnamed(name, diagnosis) == [], diagnosis
    # Every one of them keeps its latents from meaning anything, and draws the same map again.
    assert said(diagnosis)["ignored_latent"] == "fault"
    assert said(diagnosis)["identical_members"] == "fault"


def test_dropout_acts_on_the_condition_in_training_only(window: xr.Dataset) -> None:
    torch = importlib.import_module("torch")
    seen = []
    network = old_scripts.Network((4, 3), 12, old_scripts.VARIANTS["b"])
    network.base.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    coarse = torch.ones(64, 1, 4, 3)
    for training in (True, False):
        network.train(training)(coarse, torch.zeros)
    assert 0.4 < float((seen[0] == 0).float().mean()) < 0.6
    assert torch.equal(seen[1], coarse)
    assert np.isclose(float(seen[0].max()), 2.0)


def test_it_prints_a_table_and_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["x", "--output", str(tmp_path), "--steps", "2", "--only", "a", "--samples", "2"]
    monkeypatch.setattr(sys, "argv", [*call, "--members", "2", "--device", "cpu"])
    mean_collapse.main()
    printed = capsys.readouterr().out
    assert "P99" in printed
    assert "Diagnosis of 2 samples" in printed
    content = json.loads((tmp_path / "mean_collapse.json").read_text())
    scores = content["models"]["a"]["scores"]["prior"]
    assert scores["wet_fraction"] > scores["wet_fraction_observed"] + 0.3
    assert {f["name"] for f in content["models"]["a"]["diagnosis"]["findings"]} >= {"units"}
    assert (tmp_path / "members.png").stat().st_size > 10_000
