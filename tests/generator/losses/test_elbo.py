"""Likelihoods against plain NumPy and as distributions; KL per pixel, warm-up and free bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from xcvae.errors import ComponentError
from xcvae.generator import losses
from xcvae.generator.losses import elbo
from xcvae.registry.registry import build


def at(seen, x: float, output: float | torch.Tensor):
    """A step of one pixel: target and reconstruction in normalised space."""
    step = seen(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))
    step.x = torch.as_tensor(x, dtype=torch.float32).reshape(1, 1, 1, -1)
    step.output = torch.as_tensor(output, dtype=torch.float32).expand(step.x.shape)
    step.mask = torch.ones_like(step.x, dtype=torch.bool)
    return step


def censored(x: np.ndarray, out: np.ndarray, scale: float) -> np.ndarray:
    density = np.abs(x - out) / scale + np.log(2 * scale)
    below = np.where(
        out > 0,
        0.5 * np.exp(-np.abs(out) / scale),
        1 - 0.5 * np.exp(-np.abs(out) / scale),
    )
    return np.where(x > 0, density, -np.log(below))


def test_laplace_equals_the_negative_log_likelihood(rain, seen):
    step = seen(rain, rain * 1.3 + 0.05)
    wanted = censored(step.x.numpy(), step.output.numpy(), 0.06).mean()
    assert float(build("loss", "laplace")(step)) == pytest.approx(wanted, rel=1e-4)


def test_laplace_has_no_gradient_at_correct_dry_pixels(seen):
    step = seen(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)))
    step.output = torch.full((1, 1, 4, 4), -2.0, requires_grad=True)
    losses.Laplace()(step).backward()
    assert float(step.output.grad.abs().max()) < 1e-6


def test_laplace_of_dry_pixels_is_continuous_at_zero(seen):
    values = [float(losses.Laplace()(at(seen, 0.0, output))) for output in (-1e-4, 1e-4)]
    assert values[0] == pytest.approx(values[1], abs=0.01)
    assert values[0] == pytest.approx(math.log(2), abs=0.01)


@pytest.mark.parametrize("name", ["laplace", "hurdle"])
@pytest.mark.parametrize("output", [-0.2, -0.01, 0.0, 0.03, 0.5])
def test_likelihood_integrates_to_one(name, output, seen):
    term = build("loss", name)
    dry = math.exp(-float(term(at(seen, 0.0, output))))
    width = 4e-3
    amounts = np.arange(width / 2, 1.6, width)
    wet = sum(math.exp(-float(term(at(seen, float(x), output)))) * width for x in amounts)
    assert dry + wet == pytest.approx(1.0, abs=2e-3)


def test_hurdle_equals_numpy(rain, seen):
    step = seen(rain, rain * 1.3)
    step.output = step.output - 0.05
    term = build("loss", {"name": "hurdle", "scale": 0.1, "occurrence": 0.2})
    x, out = step.x.numpy().astype(float), step.output.numpy().astype(float)
    wet = 1 / (1 + np.exp(-out / 0.2))
    density = np.exp(-np.abs(x - out) / 0.1) / 0.2
    positive = np.where(
        out > 0, 1 - 0.5 * np.exp(-np.abs(out) / 0.1), 0.5 * np.exp(-np.abs(out) / 0.1)
    )
    wanted = -np.log(np.where(x > 0, wet * density / positive, 1 - wet)).mean()
    assert float(term(step)) == pytest.approx(wanted, rel=1e-4)


def test_hurdle_gradient_raises_a_missed_wet_pixel(seen):
    step = at(seen, 0.3, torch.tensor(-0.5, requires_grad=True))
    pull = torch.autograd.grad(losses.Hurdle()(step), step.output)[0]
    assert pull.item() < -1


def test_multiscale_laplace_with_pooling_one_is_laplace(rain, seen):
    mask = rain < 5
    alone = build("loss", {"name": "multiscale_laplace", "poolings": [1]})
    one = float(alone(seen(rain, rain + 0.3, mask)))
    assert one == pytest.approx(float(build("loss", "laplace")(seen(rain, rain + 0.3, mask))))


def test_multiscale_laplace_equals_numpy(rain, seen):
    scales = {1: 0.06, 4: 0.04, 16: 0.02}
    mask = np.ones(rain.shape, bool)
    mask[0, :5, :4] = False
    mask[1] = False
    step = seen(rain, rain * 1.2, mask)
    step.output = step.output - 0.1
    x, out = step.x.numpy()[:, 0].astype(float), step.output.numpy()[:, 0].astype(float)
    wanted = 0.0
    for side, scale in scales.items():
        nats = weights = 0.0
        for i in range(2):
            for top in range(0, 8, side):
                for left in range(0, 10, side):
                    here = (i, slice(top, top + side), slice(left, left + side))
                    valid = mask[here]
                    if not valid.any():
                        continue
                    values = out[here][valid]
                    guess = values if side == 1 else np.maximum(values, 0)
                    share = valid.mean()
                    nats += share * float(censored(x[here][valid].mean(), guess.mean(), scale))
                    weights += share
        wanted += nats / weights
    term = build("loss", {"name": "multiscale_laplace", "scale": list(scales.values())})
    assert float(term(step)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["laplace", "hurdle", "multiscale_laplace"])
def test_learned_scale_starts_at_the_fixed_default(name, rain, seen):
    term = build("loss", {"name": name, "scale": "learned"})
    fixed = build("loss", name)(seen(rain, rain + 0.2))
    assert float(term(seen(rain, rain + 0.2, term=term))) == pytest.approx(float(fixed), rel=1e-5)


def test_learned_scale_is_optimal_at_the_mean_error(seen):
    """The likeliest scale of a Laplace distribution is the mean absolute deviation."""
    rng = np.random.default_rng(5)
    rain = rng.gamma(2, 4, (4, 16, 16)) + 1
    term = losses.Laplace(scale="learned")
    step = seen(rain, rain * np.exp(rng.normal(0, 0.2, rain.shape)), term=term)
    value = step.learned["laplace_log_scale"].requires_grad_()
    optimizer = torch.optim.Adam([value], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        term(step).backward()
        optimizer.step()
    error = (step.x - step.output).abs().mean().item()
    assert value.exp().item() == pytest.approx(error, rel=0.01)
    assert abs(error - elbo.START) > 0.01


def test_learned_scale_has_a_lower_bound(seen):
    rain = np.full((1, 4, 4), 2.0)
    term = losses.Laplace(scale="learned")
    step = seen(rain, rain, term=term, learned={"laplace_log_scale": torch.tensor(-80.0)})
    assert math.isfinite(term(step).item())


def test_kl_is_per_pixel_with_warmup_and_free_bits(rain, seen):
    full = float(build("loss", {"name": "kl", "beta": 2.0})(seen(rain, rain)))
    assert full == pytest.approx(2 * 3.5 / 80)
    early = build("loss", {"name": "kl", "warmup": 0.5})(seen(rain, rain, progress=0.0))
    assert float(early) == pytest.approx(0.02 / 0.5 * 3.5 / 80)
    free = build("loss", {"name": "kl", "free_bits": 1.0})(seen(rain, rain))
    assert float(free) == pytest.approx(4.0 / 80)  # the small level counts as one nat


def test_kl_free_bits_apply_to_the_mean_over_a_batch(rain, seen):
    """A sample above the floor makes up for one below it: a sample of its own has no floor."""
    step = seen(rain, rain)
    step.kl = [torch.tensor([0.0, 4.0]), torch.tensor([0.5, 0.5])]
    free = build("loss", {"name": "kl", "free_bits": 1.0})(step)
    assert float(free) == pytest.approx((2.0 + 1.0) / 80)


@pytest.mark.parametrize(
    ("free_bits", "wanted"), [([5.0, 0.0], 5.5), ([0.0, 5.0], 8.0), ([0.0, 0.0], 3.5)]
)
def test_kl_free_bits_are_per_level_coarsest_first(free_bits, wanted, rain, seen):
    free = build("loss", {"name": "kl", "free_bits": free_bits})(seen(rain, rain))
    assert float(free) == pytest.approx(wanted / 80)


def test_kl_has_no_gradient_below_the_free_bits(rain, seen):
    step = seen(rain, rain)
    step.kl = [level.requires_grad_() for level in step.kl]
    build("loss", {"name": "kl", "free_bits": [0.0, 1.0]})(step).backward()
    assert float(step.kl[0].grad.sum()) == pytest.approx(1 / 80)
    assert float(step.kl[1].grad.abs().sum()) == 0


def test_kl_refuses_free_bits_for_other_levels(rain, seen):
    term = build("loss", {"name": "kl", "free_bits": [1.0, 1.0, 1.0]})
    with pytest.raises(ComponentError, match="2 levels"):
        term(seen(rain, rain))
    step = seen(rain, rain)
    step.kl = [torch.ones(2)] * 3
    assert float(term(step)) == pytest.approx(3 / 80)
