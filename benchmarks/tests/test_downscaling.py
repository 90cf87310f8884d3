"""The benchmark of downscaling: one table of all methods, over several calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from benchmarks.harness.processes import ROOT
from benchmarks.skill import downscaling

BRIEF = {"channels": [8, 8, 8, 8], "blocks": [1, 1, 1, 1], "steps": 3, "batch_size": 2}
BRIEF |= {"crop": 36, "validation": 2, "draw_batch": 4, "tune": 2}
GENERATOR = {"channels": [16, 8, 8], "latents": [2, 1, 1]}
FIT = {"max_steps": 3, "batch_size": 2, "crop": 24, "validations": 1}


def call(record: Path, folder: Path, methods: str, *more: str) -> int:
    return downscaling.main(
        [
            *("--data", str(record), "--coarsen", "12"),
            *("--output", str(folder), "--methods", methods, "--small", "--minutes", "1e-4"),
            *("--members", "3", "--tiles", "4", "--workers", "0", "--edm", json.dumps(BRIEF)),
            *("--generator", json.dumps(GENERATOR), "--fit", json.dumps(FIT), *more),
        ]
    )


# After two steps of training, diversity rises in a jump.
@pytest.mark.filterwarnings("ignore:diversity")
def test_methods_of_several_calls_share_a_table(
    tmp_path: Path, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(record, tmp_path, "bilinear,edm") == 0
    assert call(record, tmp_path, "bilinear,xcvae") == 0
    printed = capsys.readouterr().out
    assert "bilinear: done already" in printed
    assert "times as fast as edm" in printed
    assert (tmp_path / "members.png").stat().st_size > 10_000
    assert not list(tmp_path.glob("*.zarr"))
    assert not list(tmp_path.glob("*.npy"))

    found = json.loads((tmp_path / "skill.json").read_text())
    assert list(found["methods"]) == ["bilinear", "xcvae", "edm"]
    prior = found["methods"]["xcvae"]["rows"]["xcvae prior"]
    edm = found["methods"]["edm"]["rows"]["edm"]
    frames = xr.open_zarr(record, consolidated=False)
    test = frames.pr.isel(time=frames.split.values == 2)
    test = test.isel(time=np.linspace(0, test.sizes["time"] - 1, 4).astype(int)).values
    for row in (prior, edm):
        assert row["wet_fraction_observed"]["value"] == pytest.approx((test >= 0.1).mean())
        assert row["crps"]["units"] == "mm h-1"
    assert len(found["methods"]["edm"]["tried"]) >= 2

    bilinear = found["methods"]["bilinear"]["rows"]["bilinear"]["crps"]["value"]
    blocks = test.reshape(4, 4, 12, 3, 12).mean(axis=(2, 4))
    fine = nn.functional.interpolate(
        torch.from_numpy(blocks)[:, None], size=test.shape[1:], mode="bilinear"
    )
    fine = np.where(fine[:, 0] < 0.1, 0.0, fine[:, 0])
    assert bilinear == pytest.approx(np.abs(fine - test).mean(), rel=1e-4)
    skill = found["crps_skill_over"]["bilinear"]["xcvae prior"]
    assert skill == pytest.approx(1 - prior["crps"]["value"] / bilinear)

    with pytest.raises(SystemExit, match="holds results"):
        call(record, tmp_path, "bilinear", "--tiles", "3")


def test_call_that_runs_out_of_time_exits_with_75(tmp_path: Path, record: Path) -> None:
    # In a process of its own, which is interrupted at any place.
    command = [sys.executable, "-m", "benchmarks.skill.downscaling", "--data", str(record)]
    command += ["--small", "--coarsen", "12", "--methods", "flat", "--stop-after", "1.5"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 75, done.stderr
    assert "run the same command again" in done.stdout
    assert not (tmp_path / "flat.json").exists()


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_minutes_must_be_more_than_0(
    tmp_path: Path, minutes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        downscaling.main(
            ["--output", str(tmp_path / "out"), "--methods", "bilinear", "--minutes", minutes]
        )
    assert error.value.code == 2
    assert "--minutes: more than 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
