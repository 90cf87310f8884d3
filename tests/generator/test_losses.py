"""Loss terms against plain numpy, and what they must and must not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from xcvae.errors import ComponentError, UnitsError
from xcvae.fields.record import Record
from xcvae.fields.scaling import RainScaling, Scaling
from xcvae.generator import losses
from xcvae.generator.losses import LossState
from xcvae.registry.registry import build, registry

SCALING = Scaling(RainScaling("mm h-1", 0.1), {})


def state(
    rain: np.ndarray, reconstruction: np.ndarray, mask=None, draws=(), *, progress=1.0, learns=False
):
    """Physical maps (batch, y, x) as a loss sees them."""
    x, output = (
        torch.from_numpy(SCALING.target.normalise(v)[:, None]).requires_grad_(grad)
        for v, grad in ((rain, False), (reconstruction, learns))
    )
    members = iter([torch.from_numpy(SCALING.target.normalise(d)[:, None]) for d in draws])
    valid = (
        torch.ones_like(x, dtype=torch.bool) if mask is None else torch.from_numpy(mask)[:, None]
    )
    kl = [torch.full((len(rain),), 3.0), torch.full((len(rain),), 0.5)]
    record = Record.of([rain], units="mm h-1", wet_threshold=0.1)
    return LossState(
        x=torch.where(valid, x, 0.0),
        output=output,
        mask=valid,
        kl=kl,
        step=0,
        progress=progress,
        scaling=SCALING,
        record=record,
        draw=lambda: next(members),
    )


@pytest.fixture
def rain() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.where(rng.random((2, 8, 10)) < 0.4, 0, rng.gamma(0.5, 4, (2, 8, 10)))


@pytest.mark.parametrize("name", registry().names("loss"))
def test_every_loss_is_finite_has_gradients_and_ignores_masked_pixels(name, rain):
    mask = np.ones(rain.shape, bool)
    mask[:, :, :3] = False
    other = rain.copy()
    other[:, :, :3] += 50
    values = []
    for guess in (rain + 1, np.where(mask, rain + 1, 80.0)):
        for truth in (rain, other):
            seen = state(np.where(mask, truth, 0), guess, mask, [rain, rain * 2], learns=True)
            loss = build("loss", name)(seen)
            assert loss.ndim == 0
            assert torch.isfinite(loss)
            if loss.requires_grad:
                loss.backward()
                assert torch.isfinite(seen.output.grad).all()
                assert float(seen.output.grad[..., :3].abs().max()) == 0
            values.append(loss.item())
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_laplace_is_the_negative_log_likelihood(rain):
    guess = rain * 1.3 + 0.05
    x, out = (SCALING.target.normalise(v) for v in (rain, guess))
    scale = 0.06
    density = np.abs(x - out) / scale + np.log(2 * scale)
    below = np.where(out > 0, 0.5 * np.exp(-out / scale), 1 - 0.5 * np.exp(out / scale))
    wanted = np.where(x > 0, density, -np.log(below)).mean()
    assert float(build("loss", "laplace")(state(rain, guess))) == pytest.approx(wanted, rel=1e-4)


def test_laplace_asks_of_a_dry_pixel_only_that_it_is_dry():
    seen = state(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)))
    seen.output = torch.full((1, 1, 4, 4), -2.0, requires_grad=True)
    losses.Laplace()(seen).backward()
    assert float(seen.output.grad.abs().max()) < 1e-6


def test_kl_is_per_pixel_warms_up_and_grants_free_bits(rain):
    full = float(build("loss", {"name": "kl", "beta": 2.0})(state(rain, rain)))
    assert full == pytest.approx(2 * 3.5 / 80)
    early = build("loss", {"name": "kl", "warmup": 0.5})(state(rain, rain, progress=0.0))
    assert float(early) == pytest.approx(0.02 / 0.5 * 3.5 / 80)
    free = build("loss", {"name": "kl", "free_bits": 1.0})(state(rain, rain))
    assert float(free) == pytest.approx(4.0 / 80)  # the small level counts as one nat


def test_intensity_weighted_mae_against_numpy(rain):
    guess = rain + 2
    term = build("loss", {"name": "intensity_weighted_mae", "scale": 5.0, "w_min": 0.2})
    seen = state(rain, guess)
    tail = seen.record.quantile(0.95, wet=True)
    weights = np.minimum(0.2 + rain / 5.0, 2.0) * np.where(rain > tail, 1.5, 1.0)
    assert (rain > tail).any()
    assert float(term(seen)) == pytest.approx(float((weights * 2).mean()), rel=1e-3)


def test_intensity_scale_has_units(rain):
    seen = state(rain, rain + 1)
    per_hour = build("loss", {"name": "intensity_weighted_mae", "scale": "5 mm h-1"})(seen)
    per_day = build("loss", {"name": "intensity_weighted_mae", "scale": "120 mm/day"})(seen)
    assert float(per_hour) == pytest.approx(float(per_day), rel=1e-5)
    with pytest.raises(UnitsError, match="K"):
        build("loss", {"name": "intensity_weighted_mae", "scale": "5 K"})(seen)


def test_gradient_and_mass_against_numpy(rain):
    guess = rain * 1.5
    error = guess - rain
    steps = np.abs(np.diff(error, axis=1)).mean() + np.abs(np.diff(error, axis=2)).mean()
    gradient = build("loss", {"name": "gradient", "weight": 1.0})(state(rain, guess))
    assert float(gradient) == pytest.approx(float(steps), rel=1e-4)
    mass = build("loss", {"name": "mass", "weight": 1.0})(state(rain, guess))
    wanted = np.abs(error.mean(axis=(1, 2))).mean()
    assert float(mass) == pytest.approx(float(wanted), rel=1e-4)


def test_crps_prefers_calibrated_draws():
    """Among draws of several spreads, the scoring rule finds the spread of the truth."""
    rng = np.random.default_rng(1)
    truth = rng.gamma(2, 2, (64, 16, 16))
    scores = []
    for width in (0.01, 1.0, 3.0):
        draws = [np.maximum(4 + width * (rng.gamma(2, 2, truth.shape) - 4), 0) for _ in range(2)]
        term = build("loss", {"name": "crps", "poolings": [1]})
        scores.append(float(term(state(truth, truth, draws=draws))))
    assert scores[1] == min(scores)


def test_prior_draws_are_made_once_and_shared(rain):
    made = []
    seen = state(rain, rain)
    seen.draw = lambda: made.append(1) or seen.x
    seen.prior_draws(2)
    seen.prior_draws(3)
    assert len(made) == 3


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("laplace", "scale", 0.0),
        ("kl", "beta", -1.0),
        ("kl", "warmup", 1.5),
        ("intensity_weighted_mae", "w_min", 3.0),
        ("intensity_weighted_mae", "tail_quantile", 2.0),
        ("crps", "draws", 1),
    ],
)
def test_parameters_out_of_range_are_named(name, parameter, value):
    with pytest.raises(ComponentError, match=parameter):
        build("loss", {"name": name, parameter: value})


def test_dry_likelihood_is_continuous_at_zero():
    laplace = losses.Laplace()
    values = []
    for output in (-1e-4, 1e-4):
        seen = state(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)))
        seen.output = torch.full((1, 1, 2, 2), output)
        values.append(float(laplace(seen)))
    assert values[0] == pytest.approx(values[1], abs=0.01)
    assert values[0] == pytest.approx(math.log(2), abs=0.01)
