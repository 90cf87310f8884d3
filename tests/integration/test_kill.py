"""Runs that are killed end like runs that are not: real SIGKILL, real processes.

``XCVAE_KILLS=50`` kills 50 times in each place in place of the few that fit into a test suite;
`python -m benchmarks.robustness.kill` is the same by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from xcvae.generator.model import Model

ROOT = Path(__file__).parents[2]
FEW = {
    "threads": 3, "restart": 3, "append": 3, "files": 6, "cluster": 1, "worker": 1,
    "icechunk": 5, "icechunk-restart": 2, "icechunk-append": 2, "icechunk-cluster": 1,
}  # fmt: skip


@pytest.mark.parametrize("where", FEW)
def test_a_killed_run_is_completed_by_the_same_call_bit_by_bit(
    where: str, tiny_model: Model, test_radar: xr.Dataset, tmp_path: Path
) -> None:
    if where.endswith(("cluster", "worker")):
        pytest.importorskip("distributed")
    if where.startswith("icechunk"):
        pytest.importorskip("icechunk")
    data = test_radar.drop_encoding().isel(time=slice(0, 6))
    data.to_zarr(tmp_path / "data.zarr", consolidated=False)
    kills = int(os.environ.get("XCVAE_KILLS", FEW[where]))
    arguments = [str(tiny_model.path), str(tmp_path / "data.zarr"), "--kills", str(kills)]
    output = tmp_path / "kill.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.robustness.kill", *arguments,
         "--where", where, "--output", str(output)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text(encoding="utf-8"))[where]
    assert found["wrong"] == 0
    assert found["killed"] >= min(kills, found["tried"]) > 0
