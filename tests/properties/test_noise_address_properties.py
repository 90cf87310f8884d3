"""Properties of the noise: a deviate depends on its address and on nothing else."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xcvae.generator.noise import Address, Window, normal_maps, normals

CPU = torch.device("cpu")
ADDRESSES = st.builds(
    Address,
    seed=st.integers(-(2**70), 2**70),
    label=st.text(max_size=20),
    realization=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["prior", "posterior"]),
    attempt=st.integers(0, 60),
)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))
    origin = tuple(
        draw(st.integers(0, 30) | st.integers(2**32 - 30, 2**32 - size)) for size in shape[1:]
    )
    return Window(draw(st.integers(0, 7)), shape, origin)


def deviates(address: Address, window: Window) -> np.ndarray:
    """Deviates of one address."""
    return normals([address], window.level, window.shape, origin=window.origin)[0]


@given(batch=st.lists(ADDRESSES, min_size=1, max_size=5), window=windows(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_deviates_do_not_depend_on_the_batch_or_its_order(batch, window, data):
    together = normal_maps(batch, [window], device=CPU)[0]
    order = data.draw(st.permutations(range(len(batch))))
    shuffled = normal_maps([batch[i] for i in order], [window], device=CPU)[0]
    assert torch.equal(together[list(order)], shuffled)
    for address, expected in zip(batch, together, strict=True):
        assert np.array_equal(deviates(address, window), expected.numpy())


@given(address=ADDRESSES, window=windows(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_part_of_a_window_has_the_deviates_of_the_whole(address, window, data):
    whole = deviates(address, window)
    channels, height, width = window.shape
    top = data.draw(st.integers(0, height - 1))
    left = data.draw(st.integers(0, width - 1))
    bottom = data.draw(st.integers(top + 1, height))
    right = data.draw(st.integers(left + 1, width))
    count = data.draw(st.integers(1, channels))
    origin = (window.origin[0] + top, window.origin[1] + left)
    part = deviates(address, Window(window.level, (count, bottom - top, right - left), origin))
    assert np.array_equal(part, whole[:count, top:bottom, left:right])


@given(one=ADDRESSES, other=ADDRESSES)
@settings(max_examples=100, deadline=None)
def test_different_addresses_have_different_deviates(one, other):
    window = Window(2, (2, 6, 6))
    assert np.array_equal(deviates(one, window), deviates(other, window)) == (one == other)


@given(address=ADDRESSES, window=windows())
@settings(max_examples=100, deadline=None)
def test_deviates_are_finite(address, window):
    values = deviates(address, window)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
