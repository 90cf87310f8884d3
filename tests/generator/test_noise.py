"""Noise is a function of its address."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from xcvae.generator.noise import Address, normals

HERE = Address(seed=3, label="2018-05-17T12:00:00", realization=5, mode="prior")


def test_same_address_same_noise_in_any_company():
    others = [replace(HERE, realization=m) for m in range(4)]
    alone = normals([HERE], 2, (3, 8, 9))
    among = normals([*others, HERE], 2, (3, 8, 9))
    np.testing.assert_array_equal(alone[0], among[-1])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"seed": 3 + 2**32},
        {"label": "2018-05-17T12:05:00"},
        {"realization": 6},
        {"mode": "posterior"},
        {"attempt": 1},
    ],
)
def test_any_part_of_the_address_changes_the_noise(change):
    a, b = normals([HERE], 0, (1, 40, 40)), normals([replace(HERE, **change)], 0, (1, 40, 40))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1


def test_levels_are_independent():
    a, b = normals([HERE], 0, (1, 40, 40)), normals([HERE], 1, (1, 40, 40))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1


def test_noise_is_standard_normal():
    values = normals([replace(HERE, realization=m) for m in range(20)], 0, (1, 100, 100))
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((np.abs(values) > 1.96).mean() - 0.05) < 0.005


def test_pinned():
    """Another hash means that every seed gives other members: never by accident."""
    content = normals([HERE], 1, (2, 16, 16)).tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "055788a95e6e585f"
