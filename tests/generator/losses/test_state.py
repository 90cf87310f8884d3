"""The state of a training step: prior draws, spaces, learned values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xcvae.errors import ComponentError
from xcvae.generator.losses import KL, Hurdle, Laplace, MultiscaleLaplace, learned_by, learned_of


def test_prior_draws_are_drawn_once_and_shared(rain, seen):
    made = []
    step = seen(rain, rain)
    step.draw = lambda: made.append(1) or step.x
    step.prior_draws(2)
    step.prior_draws(3)
    assert len(made) == 3


def test_prior_draws_use_draw_many(rain, seen):
    requested = []
    step = seen(rain, rain)
    step.draw_many = lambda count: requested.append(count) or [step.x + i for i in range(count)]
    assert len(step.prior_draws(2)) == 2
    assert len(step.prior_draws(5)) == 5
    assert len(step.prior_draws(3)) == 3
    assert requested == [2, 3]


def test_members_are_stacked_once_and_nonnegative(rain, seen):
    step = seen(rain, rain, draws=[rain, rain * 2])
    step._draws = [draw - 0.5 for draw in step.prior_draws(2)]
    for space in ("physical", "normalised"):
        members = step.members(2, space)
        assert members.shape == (2, 2, 1, 8, 10)
        assert float(members.min()) == 0
        assert step.members(2, space) is members
    torch.testing.assert_close(
        step.scaling.physical(step.members(2, "normalised")), step.members(2, "physical")
    )


@pytest.mark.parametrize(("space", "slope"), [("physical", 0.1 * 2.0), ("normalised", 1.0)])
def test_dry_pixels_of_members_have_the_gradient_of_a_pixel_at_zero_down_to_a_reach(
    rain, seen, space, slope
):
    """eps * divisor is the slope of the amount at zero; beyond -1 a pixel is rightly dry."""
    values = [-1.5, -1.0 - 1e-4, -0.9, -0.01, 0.3]
    draw = torch.tensor(values).reshape(1, 1, 1, 5).requires_grad_()
    step = seen(rain[:1, :1, :5], rain[:1, :1, :5])
    step._draws = [draw]
    members = step.members(1, space)
    assert members[..., :4].abs().max() == 0
    members.sum().backward()
    at_zero = torch.zeros(1, requires_grad=True)
    step.scaling.physical(at_zero).backward()
    rising = 0.1 * 2.0 * float(np.exp(2.0 * 0.3)) if space == "physical" else 1.0
    torch.testing.assert_close(
        draw.grad.ravel(), torch.tensor([0.0, 0.0, slope, slope, rising]), rtol=1e-5, atol=0
    )
    assert space == "normalised" or slope == pytest.approx(float(at_zero.grad))


def test_typical_above_is_the_mean_of_what_exceeds_a_threshold(seen):
    rain = np.random.default_rng(0).gamma(0.5, 4.0, (4, 64, 64))
    step = seen(rain, rain)
    for threshold in (0.0, 5.0, 12.0):
        expected = np.maximum(rain - threshold, 0.0).mean()
        assert step.typical_above(threshold) == pytest.approx(expected, rel=0.02)
    assert step.typical_above(1e6) == pytest.approx(1e-3 * rain.mean(), rel=0.02)


def test_typical_equals_the_record_mean_in_each_space(seen):
    rain = np.random.default_rng(3).gamma(0.5, 4, (4, 64, 64)) * (np.arange(64) % 3 > 0)
    step = seen(rain, rain)
    assert step.typical("physical") == pytest.approx(rain.mean())
    assert step.typical("normalised") == pytest.approx(float(step.x.mean()), rel=1e-2)


def test_learned_of_lists_the_trainable_values_of_a_term():
    assert learned_of(Laplace()) == learned_of(lambda _: 0.0) == {}
    assert list(learned_of(Hurdle(scale="learned", occurrence="learned"))) == [
        "hurdle_log_scale",
        "hurdle_log_occurrence",
    ]
    assert list(learned_of(MultiscaleLaplace(poolings=(1, 8), scale="learned"))) == [
        "multiscale_laplace_log_scale_1",
        "multiscale_laplace_log_scale_8",
    ]
    # They become names of parameters of a torch module.
    torch.nn.ParameterDict(
        {name: torch.tensor(v) for name, v in learned_of(Laplace(scale="learned")).items()}
    )


def test_learned_by_merges_stages_by_name():
    stages = [[("laplace", Laplace(scale="learned")), ("kl", KL())]] * 2
    hurdle = ("hurdle", Hurdle(scale="learned"))
    found = learned_by(pair for stage in [*stages, [hurdle]] for pair in stage)
    assert found == learned_of(stages[0][0][1]) | learned_of(hurdle[1])
    assert list(found) == ["laplace_log_scale", "hurdle_log_scale"]


def test_learned_by_refuses_a_name_used_by_two_terms():
    class Mine:
        def learned(self):
            return {"laplace_log_scale": 1.0}

    with pytest.raises(ComponentError, match=r"'laplace_log_scale'.*two, 'laplace' and 'mine'"):
        learned_by([("laplace", Laplace(scale="learned")), ("kl", KL()), ("mine", Mine())])


def test_parameter_refuses_unknown_names(rain, seen):
    with pytest.raises(ComponentError, match="laplace_log_scale"):
        Laplace(scale="learned")(seen(rain, rain))
