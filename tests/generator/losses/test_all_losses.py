"""Properties of every loss: finite, blind to masked pixels, without synchronisation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from xcvae.errors import ComponentError
from xcvae.fields.record import Record
from xcvae.registry.registry import build, registry

# With their defaults, and with the options that select other branches.
TERMS = [
    *registry().names("loss"),
    {"name": "laplace", "scale": "learned"},
    {"name": "hurdle", "scale": "learned", "occurrence": "learned"},
    {"name": "multiscale_laplace", "scale": "learned"},
    {"name": "multiscale_laplace", "poolings": [2, 64], "scale": [0.05, 0.02]},
    {"name": "kl", "free_bits": [1.0, 0.0]},
    {"name": "crps", "space": "normalised", "draws": 3},
    {"name": "energy_score", "patch": 3},
    {"name": "energy_score", "patch": 64, "space": "normalised", "draws": 3},
    {"name": "spectral", "of": "reconstruction"},
    {"name": "spectral", "space": "normalised", "draws": 1},
    {"name": "quantile", "below": 0.0},
]
every_term = pytest.mark.parametrize("spec", TERMS, ids=str)


def checked(loss: torch.Tensor, step, drawn: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradients of a loss for outputs, draws and learned values; all are finite."""
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    wanted = [step.output, *drawn, *step.learned.values()]
    if not loss.requires_grad:  # KL, which is a constant here
        return []
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    gradients = [g for g in found if g is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    return gradients


@every_term
def test_loss_is_finite_and_ignores_masked_pixels(spec, rain, seen):
    term = build("loss", spec)
    mask = np.ones(rain.shape, bool)
    mask[:, :, :3] = False
    other = rain.copy()
    other[:, :, :3] += 50
    record = Record.of([rain], units="mm h-1", wet_threshold=0.1)
    values = []
    for guess in (rain + 1, np.where(mask, rain + 1, 80.0)):
        for truth in (rain, other):
            draws = [guess, guess * 2, guess * 3]
            step = seen(truth, guess, mask, draws, learns=True, term=term, record=record)
            loss = term(step)
            for gradient in checked(loss, step, step._draws):
                if gradient.ndim:
                    assert float(gradient[..., :3].abs().max()) == 0
                    assert float(gradient.abs().max()) > 0
            values.append(loss.item())
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


@every_term
@pytest.mark.parametrize("case", ["dry", "dry truth", "one masked", "all masked", "dry record"])
def test_loss_is_finite_for_dry_and_masked_batches(spec, case, rain, seen):
    term = build("loss", spec)
    truth = np.zeros_like(rain) if case.startswith("dry") else rain
    guess = rain if case == "dry truth" else np.zeros_like(rain)
    mask = np.ones(rain.shape, bool)
    mask[:1] &= case != "one masked"
    mask &= case != "all masked"
    of = truth if case == "dry record" else rain
    record = Record.of([of], units="mm h-1", wet_threshold=0.1)
    # Outputs below zero are dry, too; those of a diverged network are far off on either side.
    for shift in (0.0, -0.7, -30.0, 30.0):
        step = seen(truth, guess, mask, [guess] * 3, learns=True, term=term, record=record)
        step.output = (step.output.detach() + shift).requires_grad_()
        step._draws = [(d.detach() + shift).requires_grad_() for d in step.prior_draws(3)]
        checked(term(step), step, step._draws)


@every_term
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 9), (3, 7, 5), (1, 17, 33), (5, 16, 16)])
def test_loss_accepts_any_batch_and_crop(spec, shape, seen):
    term = build("loss", spec)
    maps = np.random.default_rng(2).gamma(0.4, 3, (5, *shape))
    step = seen(maps[0], maps[1], None, list(maps[2:]), learns=True, term=term)
    checked(term(step), step, step._draws)


@every_term
def test_loss_does_not_depend_on_autocast(spec, rain, seen):
    term = build("loss", spec)
    plain = term(seen(rain, rain + 1, None, [rain + 2, rain * 2, rain], term=term))
    with torch.autocast("cpu", torch.bfloat16):
        cast = term(seen(rain, rain + 1, None, [rain + 2, rain * 2, rain], term=term))
    assert cast.dtype == plain.dtype == torch.float32
    assert float(cast) == pytest.approx(float(plain), rel=1e-6)


@every_term
def test_loss_does_not_synchronise_with_the_device(spec, rain, seen):
    """Tensors without values stand for a GPU that has not computed them yet."""
    term = build("loss", spec)
    step = seen(rain, rain, None, [rain] * 3, term=term)
    meta = dataclasses.replace(
        step,
        **{name: getattr(step, name).to("meta") for name in ("x", "output", "mask")},
        kl=[level.to("meta") for level in step.kl],
        learned={name: value.to("meta") for name, value in step.learned.items()},
        _draws=[draw.to("meta") for draw in step.prior_draws(3)],
        _members={},
    )
    assert term(meta).device.type == "meta"


def test_meta_tensors_raise_when_a_value_is_read(rain, seen):
    step = seen(rain, rain)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(step.output.to("meta").sum() > 0)


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("laplace", "scale", 0.0),
        ("laplace", "scale", "leraned"),
        ("multiscale_laplace", "scale", [0.1, 0.1]),
        ("multiscale_laplace", "scale", [0.1, 0.1, 0.0]),
        ("multiscale_laplace", "poolings", []),
        ("hurdle", "scale", 0.0),
        ("hurdle", "occurrence", -1.0),
        ("kl", "beta", -1.0),
        ("kl", "warmup", 1.5),
        ("kl", "free_bits", -1.0),
        ("kl", "free_bits", [1.0, -1.0]),
        ("kl", "free_bits", []),
        ("intensity_weighted_mae", "w_min", 3.0),
        ("intensity_weighted_mae", "tail_quantile", 2.0),
        ("quantile", "level", 1.1),
        ("quantile", "tail_quantile", -0.1),
        ("quantile", "below", 2.0),
        ("crps", "draws", 1),
        ("crps", "space", "log"),
        ("crps", "poolings", [0]),
        ("crps", "poolings", [4, 4]),
        ("energy_score", "draws", 1),
        ("energy_score", "patch", 0),
        ("energy_score", "alpha", 2.0),
        ("spectral", "draws", 0),
        ("spectral", "of", "posterior"),
        ("spectral", "floor", 0.0),
    ],
)
def test_loss_refuses_parameters_out_of_range(name, parameter, value):
    with pytest.raises(ComponentError, match=parameter):
        build("loss", {"name": name, parameter: value})


@pytest.mark.parametrize("name", registry().names("loss"))
def test_a_negative_weight_is_refused(name: str) -> None:
    """With -1 a training maximised the CRPS without a word."""
    parameter = "beta" if name == "kl" else "weight"
    with pytest.raises(ComponentError, match=rf"'{name}'.*{parameter}.*got -1"):
        registry().build("loss", {"name": name, parameter: -1.0})
