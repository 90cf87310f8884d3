"""The rival models: training over several calls, drawing, diffusion and RainFARM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from benchmarks.harness.deadline import Deadline, OutOfTime
from benchmarks.harness.record_splits import RecordSplits, Split, block_means, to_log
from benchmarks.models.diffusion import EDM, Settings, Tuned, close_dry_gap, match_block_means
from benchmarks.models.drawing import draw_members
from benchmarks.models.rainfarm import downscale_split
from benchmarks.models.steps_cascade import fit_cascade
from benchmarks.models.training import train

SMALL = {"channels": [8, 8, 8, 8], "blocks": [1, 1, 1, 1], "batch_size": 2}
SMALL |= {"crop": 36, "validation": 2, "draw_batch": 4, "tune": 2}


class Line:
    """A model of a straight line."""

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

    def validate(self) -> float:
        return float((self.network.weight.detach() - 3).abs())


def test_training_continues_from_its_checkpoint(tmp_path: Path) -> None:
    options = {
        "minutes": 0.01,
        "place": tmp_path / "line.checkpoint",
        "identity": {},
        "label": "line",
    }
    over = Deadline(None)
    over.end = 0.0
    first, second = Line(), Line()
    with pytest.raises(OutOfTime):
        train(first, deadline=over, **options)
    assert first.steps == 1
    log = train(second, deadline=Deadline(None), **options)
    assert log.step == second.steps + 1
    assert 0.6 <= log.seconds < 2
    assert second.validate() == pytest.approx(log.best)
    assert log.best < 0.1
    third = Line()
    assert train(third, deadline=over, **options).step == log.step
    assert third.steps == 0
    with pytest.raises(SystemExit, match="another training"):
        train(third, deadline=over, **{**options, "minutes": 1})


def test_interrupted_drawing_continues_to_the_same_members(
    tmp_path: Path, test_radar: xr.Dataset
) -> None:
    split = Split(test_radar[["pr"]], "pr", 12).take([0, 1, 2])

    def draw(rows: np.ndarray, random: torch.Generator) -> Tensor:
        noise = torch.rand(len(rows), *split.size, generator=random)
        return split.fine[rows] + noise

    options = {"batch": 2, "device": torch.device("cpu"), "seed": 1}
    whole = draw_members(draw, split, 3, deadline=Deadline(None), **options)
    over = Deadline(None)
    over.end = 0.0
    place = tmp_path / "members.npy"
    for _ in range(4):
        with pytest.raises(OutOfTime):
            draw_members(draw, split, 3, deadline=over, place=place, **options)
    again = draw_members(draw, split, 3, deadline=over, place=place, **options)
    np.testing.assert_array_equal(again, whole)
    assert (whole >= split.fine.numpy()).all()
    assert (whole[0] != whole[1]).any()


def test_diffusion_samples_a_known_distribution() -> None:
    splits = RecordSplits.open(None, target=None, side=None, tiles=2)
    settings = Settings.of({**SMALL, "steps": 100}, small=True)
    model = EDM(splits, settings, torch.device("cpu"), seed=0)

    def zero(maps: Tensor, level: Tensor) -> Tensor:
        # With an output of zero, EDM's preconditioning is the exact denoiser of N(0, 0.5 ** 2).
        return torch.zeros_like(maps[:, :1])

    known = torch.full((2, 2, 40, 40), 3.0)
    noise = torch.randn(2, 1, 40, 40)
    rain = model.sampled(zero, known, noise, Tuned())
    residual = (to_log(rain) - 3.0) / model.scale
    assert float(residual.std()) == pytest.approx(0.5 * float(noise.std()), rel=0.02)
    assert np.corrcoef(residual.flatten(), noise.flatten())[0, 1] > 0.999


def test_postprocessed_diffusion_keeps_block_means_and_closes_the_gap() -> None:
    rain = torch.rand(3, 2, 24, 24) * 5
    coarse = torch.tensor([0.0, 1.0, 2.0, 4.0]).reshape(1, 2, 2).repeat(2, 1, 1)
    scaled = match_block_means(rain, coarse)
    torch.testing.assert_close(block_means(scaled, 12), coarse.expand(3, 2, 2, 2))
    values = torch.tensor([0.01, 0.05, 0.09, 0.3])
    found = close_dry_gap(values, 0.05)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.1, 0.1, 0.3]))


def test_rainfarm_keeps_block_means(test_radar: xr.Dataset) -> None:
    pytest.importorskip("pysteps")
    split = Split(test_radar[["pr"]], "pr", 12).take([0, 1])
    how = {"alpha": 2.0, "kernel_type": None}
    members = downscale_split(split, 2, seed=0, each=map, how=how)
    means = block_means(torch.from_numpy(members), 12)
    torch.testing.assert_close(means, split.coarse.expand(2, -1, -1, -1), rtol=1e-3, atol=1e-3)
    assert (members[0] != members[1]).any()


def test_cascade_keeps_block_means_and_evolves() -> None:
    pytest.importorskip("pysteps")
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.gamma(0.5, 2.0, (3, 48, 48)), 3, axis=0)  # each rests for three steps
    cascade = fit_cascade([frames])
    assert (cascade.correlation[:, 0] > cascade.correlation[:, 1]).all()
    coarse = np.full((3, 4, 4), 2.0)
    members = cascade.draw(coarse, 12, 2, seed=1)
    means = members.reshape(2, 3, 4, 12, 4, 12).mean(axis=(3, 5))
    np.testing.assert_allclose(means, 2.0)
    near, far = (
        np.corrcoef(members[0, 0].ravel(), members[0, step].ravel())[0, 1] for step in (1, 2)
    )
    assert near > far
