"""Blocks of samples cover every sample once; picks are evenly spaced."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xcvae.fields.sample_blocks import (
    block_slices,
    consecutive,
    evenly_spaced,
    join_chunks,
    slabs,
    some_pixels,
    take_samples,
)

lengths = st.integers(1, 40)


@given(st.integers(0, 200), lengths)
def test_block_slices_cover_every_sample_once(count: int, length: int) -> None:
    blocks = list(block_slices(count, length))
    assert [i for block in blocks for i in range(count)[block]] == list(range(count))
    assert all(block.stop - block.start <= length for block in blocks)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), lengths)
def test_join_chunks_breaks_no_chunk_and_joins_what_fits(chunks: list[int], length: int) -> None:
    blocks = join_chunks(chunks, length)
    edges = [0, *np.cumsum(chunks).tolist()]
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == edges[-1]
    whole = set(pairwise(edges))
    for block in blocks:
        assert {block.start, block.stop} <= set(edges)
        assert block.stop - block.start <= length or (block.start, block.stop) in whole
    for block, after in pairwise(blocks):
        following = edges[edges.index(after.start) + 1]
        assert following - block.start > length


@pytest.mark.parametrize(("values", "sizes"), [(1, [1] * 5), (9, [2, 2, 1]), (10**9, [5])])
def test_slabs_hold_about_so_many_values(values: int, sizes: list[int]) -> None:
    found = list(slabs(xr.DataArray(np.zeros((5, 2, 2))), values))
    assert [slab.shape[0] for _, slab in found] == sizes
    assert [start for start, _ in found] == [0, *np.cumsum(sizes[:-1])]


def test_slabs_of_a_number_are_the_number() -> None:
    [(start, slab)] = slabs(xr.DataArray(3.0))
    assert (start, slab.item()) == (0, 3.0)


@pytest.mark.parametrize(
    ("down", "expected"), [(False, [0, 2, 5, 7]), (True, [0, 2, 4, 7])], ids=["nearest", "down"]
)
def test_evenly_spaced_rounds(down: bool, expected: list[int]) -> None:
    assert evenly_spaced(8, 4, down=down).tolist() == expected


def test_evenly_spaced_has_both_ends_without_repeats() -> None:
    assert evenly_spaced(3, 8).tolist() == [0, 1, 2]
    assert evenly_spaced(1, 8).tolist() == [0]
    assert evenly_spaced(1000, 5).tolist() == [0, 250, 500, 749, 999]


@given(st.integers(0, 300), st.integers(1, 300), st.booleans())
def test_evenly_spaced_picks_have_equal_gaps(count: int, most: int, down: bool) -> None:
    picks = evenly_spaced(count, most, down=down)
    assert len(picks) == min(count, most)
    if len(picks) > 1:
        assert (picks[0], picks[-1]) == (0, count - 1)
        assert np.ptp(np.diff(picks)) <= 1


@pytest.mark.parametrize(
    ("rows", "order", "lazy", "shared"),
    [
        ([1, 2, 3], "C", False, True),
        ([1, 3], "C", False, False),
        ([2, 1], "C", False, False),
        ([1, 2], "F", False, False),
        ([1, 2], "C", True, False),
    ],
)
def test_take_samples_shares_one_variable_where_it_can(rows, order, lazy, shared) -> None:
    values = np.asarray(np.arange(40.0).reshape(5, 4, 2), order=order)
    ds = xr.Dataset({"a": (("t", "y", "x"), values), "b": (("t", "y", "x"), values)})
    ds = ds.chunk(t=2) if lazy else ds
    taken = take_samples(ds, "t", np.asarray(rows), shared="a")
    xr.testing.assert_identical(taken, ds.isel(t=rows))
    assert np.shares_memory(taken.a.values, values) == shared
    assert not np.shares_memory(taken.b.values, values)
    xr.testing.assert_identical(
        take_samples(ds[["b"]], "t", np.asarray(rows), shared="a"), taken[["b"]]
    )


def test_times_that_repeat_have_no_step_of_zero() -> None:
    step, runs = consecutive(np.array([0, 0, 0, 5, 5, 10, 30]))
    assert step == 5
    assert [len(run) for run in runs] == [1, 1, 2, 2, 1]


@pytest.mark.parametrize(("lazy", "most"), [(False, 1000), (True, 96)])
def test_some_pixels_are_those_of_the_middle_of_a_record(lazy: bool, most: int) -> None:
    da = xr.DataArray(np.arange(2000.0)[:, None, None] + np.zeros((5, 33)), dims=("t", "y", "x"))
    found = some_pixels(da.chunk(t=50) if lazy else da, "t")
    assert found.shape == (most, 5 * 17)
    np.testing.assert_array_equal(found[:, 0], 1000 - most // 2 + np.arange(most))
    assert some_pixels(da[:7].transpose("x", "t", "y"), "t")[:, 0].tolist() == list(range(7))
