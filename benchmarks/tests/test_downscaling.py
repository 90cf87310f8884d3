"""The skill bench: one table for all methods, over as many calls as it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BRIEF = {"channels": [8, 8, 8, 8], "blocks": [1, 1, 1, 1], "steps": 3, "batch_size": 2}
BRIEF |= {"crop": 36, "validation": 2, "draw_batch": 4, "tune": 2}
LADDER = {"channels": [16, 8, 8], "latents": [2, 1, 1]}
FIT = {"max_steps": 3, "batch_size": 2, "crop": 24, "validations": 1}


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def reference(request: pytest.FixtureRequest) -> ModuleType:
    return import_module(f"references.{request.param}")


def call(record: Path, folder: Path, methods: str, *more: str) -> int:
    code: int = import_module("skill").main(
        [
            *("--data", str(record), "--coarsen", "12"),
            *("--output", str(folder), "--methods", methods, "--small", "--minutes", "1e-4"),
            *("--members", "3", "--tiles", "4", "--workers", "0", "--edm", json.dumps(BRIEF)),
            *("--generator", json.dumps(LADDER), "--fit", json.dumps(FIT), *more),
        ]
    )
    return code


def test_methods_of_several_calls_share_a_table(
    tmp_path: Path, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(record, tmp_path, "bilinear,edm") == 0
    assert call(record, tmp_path, "bilinear,xcvae") == 0
    told = capsys.readouterr().out
    assert "bilinear: done already" in told
    assert "times as fast as edm" in told
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


def test_a_call_that_runs_out_of_time_says_so(tmp_path: Path, record: Path) -> None:
    # In a process of its own: it is interrupted wherever it is.
    command = [sys.executable, str(BENCHMARKS / "skill.py"), "--data", str(record), "--small"]
    command += ["--coarsen", "12", "--methods", "flat", "--stop-after", "1.5"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 75, done.stderr
    assert "run the same command again" in done.stdout
    assert not (tmp_path / "flat.json").exists()


class Line:
    """Learns a straight line."""

    averages = (7.0,)
    validations = 4
    rate = 5e-2
    device = torch.device("cpu")

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(1, 1)
        self.steps = 0

    def loss(self) -> Tensor:
        self.steps += 1
        x = torch.randn(32, 1)
        return ((self.network(x) - 3 * x) ** 2).mean()

    def judge(self) -> float:
        return float((self.network.weight.detach() - 3).abs())


@pytest.mark.parametrize("reference", ["learning"], indirect=True)
def test_a_training_goes_on_where_it_stopped(reference: ModuleType, tmp_path: Path) -> None:
    clock = import_module("references.clock")
    options = {
        "minutes": 0.01,
        "place": tmp_path / "line.checkpoint",
        "identity": {},
        "tell": "line",
    }
    over = clock.Deadline(None)
    over.end = 0.0
    first, second = Line(), Line()
    with pytest.raises(clock.OutOfTime):
        reference.learn(first, deadline=over, **options)
    assert first.steps == 1
    log = reference.learn(second, deadline=clock.Deadline(None), **options)
    assert log.step == second.steps + 1
    assert 0.6 <= log.seconds < 2
    assert second.judge() == pytest.approx(log.best)
    assert log.best < 0.1
    third = Line()
    assert reference.learn(third, deadline=over, **options).step == log.step
    assert third.steps == 0
    with pytest.raises(SystemExit, match="another training"):
        reference.learn(third, deadline=over, **{**options, "minutes": 1})


@pytest.mark.parametrize("reference", ["drawing"], indirect=True)
def test_drawing_goes_on_to_the_same_members(
    reference: ModuleType, tmp_path: Path, test_radar: xr.Dataset
) -> None:
    clock, data = import_module("references.clock"), import_module("references.data")
    split = data.Split(test_radar[["pr"]], "pr", 12).take([0, 1, 2])

    def draw(rows: np.ndarray, random: torch.Generator) -> Tensor:
        noise = torch.rand(len(rows), *split.size, generator=random)
        return split.fine[rows] + noise

    options = {"batch": 2, "device": torch.device("cpu"), "seed": 1}
    whole = reference.drawn(draw, split, 3, deadline=clock.Deadline(None), **options)
    over = clock.Deadline(None)
    over.end = 0.0
    place = tmp_path / "members.npy"
    for _ in range(4):
        with pytest.raises(clock.OutOfTime):
            reference.drawn(draw, split, 3, deadline=over, place=place, **options)
    again = reference.drawn(draw, split, 3, deadline=over, place=place, **options)
    np.testing.assert_array_equal(again, whole)
    assert (whole >= split.fine.numpy()).all()
    assert (whole[0] != whole[1]).any()


@pytest.mark.parametrize("reference", ["edm"], indirect=True)
def test_the_sampler_gives_back_a_known_distribution(
    reference: ModuleType, radar: xr.Dataset
) -> None:
    data = import_module("references.data")
    arena = data.Arena.open(None, target=None, side=None, tiles=2)
    settings = reference.Settings.of({**BRIEF, "steps": 100}, small=True)
    model = reference.EDM(arena, settings, torch.device("cpu"), seed=0)

    def silent(maps: Tensor, level: Tensor) -> Tensor:
        # With an output of zero, EDM's preconditioning is the exact denoiser of N(0, 0.5 ** 2).
        return torch.zeros_like(maps[:, :1])

    known = torch.full((2, 2, 40, 40), 3.0)
    noise = torch.randn(2, 1, 40, 40)
    rain = model.sampled(silent, known, noise, reference.Tuned())
    residual = (data.to_log(rain) - 3.0) / model.scale
    assert float(residual.std()) == pytest.approx(0.5 * float(noise.std()), rel=0.02)
    assert np.corrcoef(residual.flatten(), noise.flatten())[0, 1] > 0.999


@pytest.mark.parametrize("reference", ["edm"], indirect=True)
def test_finished_members_keep_block_means_and_the_gap(reference: ModuleType) -> None:
    rain = torch.rand(3, 2, 24, 24) * 5
    coarse = torch.tensor([0.0, 1.0, 2.0, 4.0]).reshape(1, 2, 2).repeat(2, 1, 1)
    means = import_module("references.data").block_means
    scaled = reference.brought_to(rain, coarse)
    torch.testing.assert_close(means(scaled, 12), coarse.expand(3, 2, 2, 2))
    values = torch.tensor([0.01, 0.05, 0.09, 0.3])
    found = reference.without_gap(values, 0.05)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.1, 0.1, 0.3]))


@pytest.mark.parametrize("reference", ["rainfarm"], indirect=True)
def test_rainfarm_keeps_block_means(reference: ModuleType, test_radar: xr.Dataset) -> None:
    pytest.importorskip("pysteps")
    data = import_module("references.data")
    split = data.Split(test_radar[["pr"]], "pr", 12).take([0, 1])
    how = {"alpha": 2.0, "kernel_type": None}
    members = reference.downscaled(split, 2, seed=0, each=map, how=how)
    means = data.block_means(torch.from_numpy(members), 12)
    torch.testing.assert_close(means, split.coarse.expand(2, -1, -1, -1), rtol=1e-3, atol=1e-3)
    assert (members[0] != members[1]).any()


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_no_minutes_are_an_error(
    tmp_path: Path, minutes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        import_module("skill").main(
            ["--output", str(tmp_path / "out"), "--methods", "bilinear", "--minutes", minutes]
        )
    assert error.value.code == 2
    assert "--minutes: more than 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
