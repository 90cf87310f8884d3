"""Philox: its integers against known answers, and its deviates as independent normals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from xcvae.generator.noise import Address, normals
from xcvae.generator.noise.philox_numpy import _radius, deviates, philox

HERE = Address(seed=0, label="storm", realization=0, mode="prior")
SIDE = 1024
#: Standard errors that a correct generator leaves in one of 30,000 tests.
SIGMAS = 4.2


@pytest.fixture(scope="module")
def field():
    return normals([HERE], 3, (1, SIDE, SIDE))[0, 0]


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Random123 1.14.0, tests/kat_vectors, philox4x32 with 10 rounds
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
@pytest.mark.parametrize("offset", [0, 0x12345678])
def test_philox_equals_random123(counter, key, words, offset):
    even, odd = philox(
        np.array(counter[0::2], np.uint32).reshape(2, 1, 1),
        np.array(counter[1::2], np.uint32).reshape(2, 1, 1) ^ np.uint32(offset),
        offset=np.full((2, 1, 1), offset, np.uint32),
        key=np.array(key, np.uint32).reshape(2, 1, 1),
    )
    assert [even[0, 0, 0], odd[0, 0, 0], even[1, 0, 0], odd[1, 0, 0]] == words


def test_philox_of_many_blocks_equals_single_ones():
    """The order of words does not depend on the number of blocks computed together."""
    random = np.random.default_rng(1)
    x, y, offset, key = (
        random.integers(0, 2**32, shape, np.uint32)
        for shape in ((2, 1, 50), (2, 1, 50), (2, 3, 1), (2, 3, 1))
    )
    even, odd = philox(x, y, offset=offset, key=key)
    for row, column in ((0, 0), (1, 30), (2, 49)):
        one = philox(
            x[..., column : column + 1],
            y[..., column : column + 1],
            offset=offset[:, row : row + 1],
            key=key[:, row : row + 1],
        )
        np.testing.assert_array_equal(even[:, row, column], one[0].ravel())
        np.testing.assert_array_equal(odd[:, row, column], one[1].ravel())


def test_deviates_equal_box_muller_in_float64():
    """To float32 rounding, against the textbook formula in float64."""
    random = np.random.default_rng(2)
    arrays = [
        random.integers(0, 2**32, shape, np.uint32)
        for shape in ((2, 1, 100_000), (2, 1, 100_000), (2, 1, 1), (2, 1, 1))
    ]
    x, y, offset, key = arrays
    even, odd = philox(x, y, offset=offset, key=key)
    # Near 1, u has the 24 bits of a float32, which changes only deviates near 0.
    u = (even.astype(np.float32) + np.float32(0.5)).astype(float) / 2**32
    radius = np.sqrt(-2 * np.log(u))
    angle = np.pi / 2 * (odd << np.uint32(1)).view(np.int32) / 2**31
    sign = np.where(odd >> np.uint32(31), -1, 1)
    expected = np.concatenate([sign * radius * np.cos(angle), radius * np.sin(angle)])
    made = deviates(x, y, offset=offset, key=key)
    assert (np.abs(made - expected) <= 4e-7 * np.concatenate([radius, radius])).all()


def test_radius_is_finite_for_extreme_words():
    radius = _radius(np.array([0, 1, 2, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], np.uint32))
    assert np.isfinite(radius).all()
    assert (np.diff(radius) <= 0).all()
    assert radius[0] == pytest.approx(np.sqrt(2 * 33 * np.log(2)), rel=1e-6)
    assert radius[-1] == 0


def test_normals_have_the_moments_of_a_normal(field):
    n = field.size
    values = field.astype(float).ravel()
    # Variances of the means of x, x^2, x^3, x^4 of normal deviates.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((values**power).mean() - mean) < SIGMAS * np.sqrt(variance / n), power


def test_normals_pass_kolmogorov_smirnov(field):
    assert stats.kstest(field.ravel(), "norm").pvalue > 1e-3
    # Each of a block's four rows by itself.
    for row in range(4):
        assert stats.kstest(field[row::4].ravel(), "norm").pvalue > 1e-3


def test_normals_have_normal_tails():
    many = normals([replace(HERE, realization=m) for m in range(8)], 0, (1, SIDE, SIDE))
    for limit in (3.0, 4.0, 4.5):
        expected = 2 * stats.norm.sf(limit) * many.size
        assert abs((np.abs(many) > limit).sum() - expected) < SIGMAS * np.sqrt(expected), limit
    assert np.abs(many).max() > 5


def neighbours(field):
    """Yield pairs of arrays whose addresses are neighbours in one part."""
    for step in range(1, 9):
        yield f"rows, {step} apart", field[step:], field[:-step]
        yield f"columns, {step} apart", field[:, step:], field[:, :-step]
    yield "diagonal", field[1:, 1:], field[:-1, :-1]
    channels = normals([HERE], 3, (2, SIDE, SIDE))[0]
    yield "channels", channels[0], channels[1]
    yield "levels", field, normals([HERE], 4, (1, SIDE, SIDE))[0, 0]
    for change in (
        {"realization": 1},
        {"attempt": 1},
        {"seed": 1},
        {"label": "storn"},
        {"mode": "posterior"},
    ):
        yield str(change), field, normals([replace(HERE, **change)], 3, (1, SIDE, SIDE))[0, 0]


def test_normals_of_neighbouring_addresses_are_uncorrelated(field):
    """Neither the values nor their magnitudes correlate."""
    for name, a, b in neighbours(field):
        for power in (1, 2):
            correlation = np.corrcoef(a.ravel() ** power, b.ravel() ** power)[0, 1]
            assert abs(correlation) < SIGMAS / np.sqrt(a.size), (name, power)


def test_normals_have_a_flat_spectrum(field):
    power = np.abs(np.fft.fft2(field)) ** 2 / field.size
    bands = power.reshape(16, SIDE // 16, 16, SIDE // 16).mean(axis=(1, 3))
    assert np.abs(bands - 1).max() < SIGMAS * np.sqrt(2) / (SIDE // 16)


def test_normals_never_repeat_a_block():
    """128 bits of four deviates differ between all addresses: members, seeds, levels, places."""
    addresses = [
        Address(seed, label, member, mode, attempt)
        for seed in (0, 1, -1)
        for label in ("2018-05-17", "2018-05-18")
        for member in range(4)
        for mode in ("prior", "posterior")
        for attempt in (0, 1)
    ]
    blocks = []
    for level in range(4):
        values = normals(addresses, level, (4, 16, 60))
        rows = values.reshape(-1, 4, 60).swapaxes(1, 2).reshape(-1, 4)
        blocks.append(np.ascontiguousarray(rows).view("V16").ravel())
    found = np.concatenate(blocks)
    assert np.unique(found).size == found.size == len(addresses) * 4 * 4 * 4 * 60
