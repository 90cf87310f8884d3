"""Noise as a function of its address."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xcvae.errors import ConfigError
from xcvae.generator.noise import Address, Window, normal_maps, normals

HERE = Address(seed=3, label="2018-05-17T12:00:00", realization=5, mode="prior")
CPU = torch.device("cpu")


def test_normals_do_not_depend_on_other_addresses():
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
def test_normals_change_with_every_part_of_the_address(change):
    a, b = normals([HERE], 0, (1, 40, 40)), normals([replace(HERE, **change)], 0, (1, 40, 40))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1


@given(
    size=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    origin=st.tuples(st.integers(0, 23), st.integers(0, 23)),
)
@settings(max_examples=60, deadline=None)
def test_normals_of_a_window_equal_those_of_the_domain(size, origin):
    whole = normals([HERE], 1, (2, 46, 46))
    tile = normals([HERE], 1, (2, *size), origin=origin)
    (top, left), (height, width) = origin, size
    np.testing.assert_array_equal(tile, whole[..., top : top + height, left : left + width])


def test_normals_of_fewer_channels_are_the_first_ones():
    np.testing.assert_array_equal(
        normals([HERE], 1, (5, 6, 7))[:, :2], normals([HERE], 1, (2, 6, 7))
    )


def test_normals_do_not_depend_on_the_block_size():
    """300 x 300 blocks of four rows are computed in several parts."""
    whole = normals([HERE, replace(HERE, seed=4)], 0, (1, 1200, 300))
    row = normals([HERE, replace(HERE, seed=4)], 0, (1, 1, 300), origin=(1101, 0))
    np.testing.assert_array_equal(whole[:, :, 1101:1102], row)


def test_normals_accept_32_bit_positions_and_realizations():
    last = replace(HERE, realization=2**32 - 1)
    corner = normals([last], 2**16 - 1, (1, 2, 2), origin=(2**32 - 2, 2**32 - 2))
    assert np.isfinite(corner).all()
    assert np.unique(corner).size == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: normals([replace(HERE, realization=2**32)], 0, (1, 2, 2)),
        lambda: normals([replace(HERE, realization=-1)], 0, (1, 2, 2)),
        lambda: Window(2**16, (1, 2, 2)),
        lambda: Window(0, (2**16 + 1, 2, 2)),
        lambda: Window(0, (1, 2, 2), (-1, 0)),
        lambda: Window(0, (1, 2, 2), (0, 2**32 - 1)),
    ],
)
def test_address_refuses_numbers_out_of_range(make):
    with pytest.raises(ConfigError, match="address of noise has room"):
        make()


def test_normal_maps_of_several_windows_equal_single_ones():
    addresses = [HERE, replace(HERE, realization=0), HERE]  # one of them twice
    windows = [Window(0, (3, 2, 2)), Window(1, (2, 5, 4), (3, 1))]
    maps = normal_maps(addresses, windows, device=CPU)
    for window, values in zip(windows, maps, strict=True):
        expected = normals(addresses, window.level, window.shape, origin=window.origin)
        np.testing.assert_array_equal(values.numpy(), expected)
    assert normal_maps(addresses, [], device=CPU) == []


def test_normals_accept_numpy_seeds():
    plain, other = normals([HERE], 0, (1, 3, 3)), replace(HERE, seed=np.int64(3))
    np.testing.assert_array_equal(plain, normals([other], 0, (1, 3, 3)))


def test_normal_maps_keep_their_bits():
    """A change of these bits changes the members of every seed."""
    windows = [Window(0, (2, 5, 5)), Window(5, (1, 37, 29), (1001, 2**20))]
    addresses = [HERE, Address(-1, "Ä", 2**31, "posterior", 2)]
    maps = normal_maps(addresses, windows, device=CPU)
    content = b"".join(values.numpy().astype("<f4").tobytes() for values in maps)
    assert hashlib.sha256(content).hexdigest()[:16] == "68aef5bed1f4c50c"
