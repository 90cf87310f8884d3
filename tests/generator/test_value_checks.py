"""Invalid values of training data are refused before the first step."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.errors import DataError


def train(ds: xr.Dataset, validation: float | xr.Dataset) -> None:
    fit = {"max_steps": 1, "batch_size": 2, "crop": 24, "validations": 1}
    small = {"channels": [16, 8], "latents": [2, 1]}
    xcvae.train(
        ds,
        target="pr",
        conditions=["pr_coarse"],
        validation=validation,
        fit=fit,
        generator=small,
        progress=False,
    )


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("part", ["training", "validation"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pr", -999.0, "pr: .*negative"),
        ("pr", np.inf, "pr: .*infinite"),
        ("pr_coarse", np.nan, "pr_coarse: .*missing"),
        ("pr_coarse", -2.0, "pr_coarse: .*negative"),
    ],
)
def test_train_refuses_bad_values_in_training_and_validation(
    train_radar, *, lazy, part, name, value, message
):
    good = train_radar.isel(time=slice(0, 12))[["pr", "pr_coarse"]]
    bad = good.isel(time=slice(0, 3)).copy(deep=True)
    bad[name][1, 2, 3] = value
    bad = bad.chunk(time=2) if lazy else bad
    with pytest.raises(DataError, match=message):
        train(*((bad, 0) if part == "training" else (good, bad)))
