"""Training in several processes: the losses of one process, and resuming after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import xcvae
from xcvae.errors import ConfigError
from xcvae.generator.training.distributed import ProcessGroup

#: Trains in one process or as one of several; with "dies", rank 1 kills itself at step 5.
SCRIPT = """
import json, os, signal, sys
from dataclasses import dataclass
from pathlib import Path
import torch
import xcvae
from xcvae.plugins import Component

# In float32, as in bfloat16 the rounding of kernels depends on the batch size.
os.environ["XCVAE_PRECISION"] = "float32"
torch.set_num_threads(1)
folder, dies = Path(sys.argv[1]), sys.argv[2] == "dies"

@dataclass(frozen=True)
class Killer(Component):
    def __call__(self, state):
        if dies and state.step == 5 and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.0 * state.output.sum()

ds = xcvae.tutorial.open_dataset("radklim").isel(time=slice(0, 40, 2)).load()
model = xcvae.train(
    ds, target="pr", conditions=["pr_coarse"], validation=0.2, device="cpu",
    generator={"levels": 2, "channels": [8, 8], "latents": [2, 1]},
    losses=["laplace", "kl", "crps", Killer()],
    fit={"max_steps": 8, "batch_size": 4, "crop": 24, "validations": 8},
    path=folder / "model.xcvae", progress=False,
)
result = {"history": model.training["history"], "sha256": model.sha256}
(folder / f"result-{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(result))
"""
TOGETHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def train(folder: Path, *, together: bool, dies: bool = False) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, *(TOGETHER if together else []), str(script), str(folder)]
    root = str(Path(xcvae.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "dies" if dies else "lives"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def result_of(folder: Path, rank: str) -> Any:
    return json.loads((folder / f"result-{rank}.json").read_text())


def curve(history: list[dict[str, float]], key: str) -> np.ndarray:
    return np.array([row[key] for row in history])


def test_two_processes_train_as_one_and_resume_after_a_kill(tmp_path: Path) -> None:
    alone, whole, killed = tmp_path / "alone", tmp_path / "whole", tmp_path / "killed"
    assert train(alone, together=False).returncode == 0
    done = train(whole, together=True)
    assert done.returncode == 0, done.stderr
    one, two = result_of(alone, "alone")["history"], result_of(whole, "0")["history"]
    assert len(one) == len(two) == 8
    for key in ("loss", "loss_laplace", "loss_kl", "loss_crps", "val_crps", "val_negative_elbo"):
        np.testing.assert_allclose(curve(two, key), curve(one, key), rtol=1e-4, err_msg=key)
    # All processes return the one model that is in the file.
    assert result_of(whole, "0") == result_of(whole, "1")
    assert xcvae.load(whole / "model.xcvae").sha256 == result_of(whole, "0")["sha256"]

    assert train(killed, together=True, dies=True).returncode != 0
    assert not (killed / "model.xcvae").exists()
    assert (killed / "model.xcvae.checkpoint").exists()
    done = train(killed, together=True)
    assert done.returncode == 0, done.stderr
    again = result_of(killed, "0")["history"]
    assert [row["step"] for row in again] == list(range(1, 9))
    # The training resumes from the checkpoint of step 5, in the middle of an epoch.
    np.testing.assert_array_equal(curve(again, "loss"), curve(two, "loss"))


def test_part_refuses_unequal_shares() -> None:
    assert ProcessGroup().part(3, 1) == slice(0, 3)
    with pytest.raises(ConfigError, match="a multiple of 2"):
        ProcessGroup(0, 2).part(3, 100)
    with pytest.raises(ConfigError, match="at most 3"):
        ProcessGroup(0, 2).part(4, 3)


def test_parts_and_rows_cover_the_batch_once() -> None:
    three = [ProcessGroup(rank, 3) for rank in range(3)]
    assert [row for r in three for row in range(6)[r.part(6, 9)]] == list(range(6))
    rows = torch.stack([r.rows(2, 2) for r in three])
    # Each process finds its samples in each of the two draws for the six samples.
    assert rows.tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_device_is_one_gpu_per_process_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert ProcessGroup().device(gpu) == gpu
    assert ProcessGroup(3, 4).device(cpu) == cpu
    assert current == []
    assert ProcessGroup(3, 4).device(gpu) == torch.device("cuda", 1)
    assert current == [torch.device("cuda", 1)]
