"""The KL term: per pixel, warmed up, with free bits."""

from __future__ import annotations

import pytest
import torch

from xcvae.errors import ComponentError
from xcvae.registry.registry import build


def test_kl_is_per_pixel_warms_up_and_grants_free_bits(rain, seen):
    full = float(build("loss", {"name": "kl", "beta": 2.0})(seen(rain, rain)))
    assert full == pytest.approx(2 * 3.5 / 80)
    early = build("loss", {"name": "kl", "warmup": 0.5})(seen(rain, rain, progress=0.0))
    assert float(early) == pytest.approx(0.02 / 0.5 * 3.5 / 80)
    free = build("loss", {"name": "kl", "free_bits": 1.0})(seen(rain, rain))
    assert float(free) == pytest.approx(4.0 / 80)  # the small level counts as one nat


@pytest.mark.parametrize(
    ("free_bits", "wanted"), [([5.0, 0.0], 5.5), ([0.0, 5.0], 8.0), ([0.0, 0.0], 3.5)]
)
def test_free_bits_for_each_level_coarsest_first(free_bits, wanted, rain, seen):
    free = build("loss", {"name": "kl", "free_bits": free_bits})(seen(rain, rain))
    assert float(free) == pytest.approx(wanted / 80)


def test_a_level_below_its_free_bits_is_left_zero_row(rain, seen):
    step = seen(rain, rain)
    step.kl = [level.requires_grad_() for level in step.kl]
    build("loss", {"name": "kl", "free_bits": [0.0, 1.0]})(step).backward()
    assert float(step.kl[0].grad.sum()) == pytest.approx(1 / 80)
    assert float(step.kl[1].grad.abs().sum()) == 0


def test_free_bits_must_fit_the_levels(rain, seen):
    term = build("loss", {"name": "kl", "free_bits": [1.0, 1.0, 1.0]})
    with pytest.raises(ComponentError, match="2 levels"):
        term(seen(rain, rain))
    step = seen(rain, rain)
    step.kl = [torch.ones(2)] * 3
    assert float(term(step)) == pytest.approx(3 / 80)
