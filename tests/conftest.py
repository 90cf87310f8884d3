"""Real radar and a real, small, briefly trained model, shared by the tests of all rooms."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

import xcvae

if TYPE_CHECKING:
    from xcvae.generator.model import Model

#: Files whose tests measure time, start clusters or kill processes: nothing may run beside them.
SERIAL = {
    "test_architecture.py",
    "test_distributed.py",
    "test_import.py",
    "test_kill.py",
    "test_scheduling.py",
    "test_threads.py",
}

#: A ladder that trains in seconds.
TINY = {"channels": [24, 24, 24, 16], "latents": [4, 4, 2, 2], "blocks": 1}
QUICK = {"max_steps": 160, "batch_size": 8, "crop": 48, "validations": 2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as serial: with several workers, they are run after the others."""
    for item in items:
        if item.path.name in SERIAL:
            item.add_marker(pytest.mark.serial)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    if find_spec("torch") is not None:  # .ci/run tests rooms without torch, too
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def radar() -> xr.Dataset:
    """The bundled record, in memory."""
    return xcvae.tutorial.open_dataset("radklim").load()


@pytest.fixture(scope="session")
def train_radar(radar: xr.Dataset) -> xr.Dataset:
    return radar.isel(time=radar.split.values == 0)


@pytest.fixture(scope="session")
def test_radar(radar: xr.Dataset) -> xr.Dataset:
    """Ten frames of the test days, spread over them."""
    return radar.isel(time=radar.split.values == 2).isel(time=slice(None, None, 10))


@pytest.fixture(scope="session")
def tiny_model(train_radar: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Trained for seconds: it draws rain, if not good rain."""
    return xcvae.train(
        train_radar,
        target="pr",
        conditions=["pr_coarse"],
        generator=TINY,
        fit=QUICK,
        path=tmp_path_factory.mktemp("model") / "tiny.xcvae",
        progress=False,
    )


@pytest.fixture(scope="session")
def any_factor_model(train_radar: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Hardly trained: block means are right from the first step."""
    wet = train_radar.pr.mean(("y", "x")).argsort().values[-6:]
    return xcvae.train(
        train_radar[["pr"]].isel(time=np.sort(wet), y=slice(48), x=slice(48)),
        target="pr",
        coarsen={"factor": [2, 8], "pixel": [1, 2]},
        generator={"channels": [8, 8], "latents": [2, 2], "constrain": True},
        fit={"max_steps": 4, "batch_size": 2, "crop": 16, "validations": 1},
        path=tmp_path_factory.mktemp("any") / "any.xcvae",
        progress=False,
    )
