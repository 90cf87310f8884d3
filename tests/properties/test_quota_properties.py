"""Properties of epochs: quotas of the sources, and the samples of stratified batches."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xcvae.ensemble.loader import epoch, quotas
from xcvae.errors import ConfigError
from xcvae.fields.prefetch import epochs

sources = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 9) | st.floats(0.1, 9.0)), min_size=1, max_size=4
)
blocks = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=3)


@given(sources, st.none() | st.integers(1, 400))
@example([(14, 3), (3, 2), (10, 5)], None)  # rounding alone would take 4 of 3 samples
def test_quotas_are_the_shares_of_an_epoch(
    drawn: list[tuple[int, float]], samples: int | None
) -> None:
    counts, weights = (list(column) for column in zip(*drawn, strict=True))
    try:
        found = quotas(counts, weights, samples)
    except ConfigError:
        # A share below one sample: no quota of at least one is within rounding of it.
        share = min(np.array(weights) / sum(weights))
        whole = samples or min(n * sum(weights) / w for n, w in drawn)
        assert share * whole < 1.0 + 1e-6
        return
    assert min(found) >= 1
    if samples is None:
        assert all(quota <= count for quota, count in zip(found, counts, strict=True))
    else:
        assert sum(found) == samples
    exact = np.array(weights) / sum(weights) * sum(found)
    assert np.abs(np.array(found) - exact).max() <= 1.5 + 1e-6 * sum(found)


@given(blocks, st.lists(st.integers(1, 80), min_size=3, max_size=3), st.integers(0, 2**32))
def test_epochs_draw_every_sample_as_often_as_any_other(
    sizes: list[list[int]], wanted: list[int], seed: int
) -> None:
    wanted = wanted[: len(sizes)]
    pieces = epoch(sizes, wanted, np.random.default_rng(seed))
    for source, quota in enumerate(wanted):
        drawn = [(p.block, int(row)) for p in pieces if p.source == source for row in p.rows]
        assert len(drawn) == quota
        counted = Counter(drawn)
        whole, rest = divmod(quota, sum(sizes[source]))
        # Passes over the whole source, and a part of one.
        assert max(counted.values()) == whole + (rest > 0)
        assert (min(counted.values()) if len(counted) == sum(sizes[source]) else 0) == whole
        assert all(row < sizes[source][block] for block, row in counted)


@given(st.integers(1, 60), st.integers(1, 12), st.floats(0, 1), st.integers(0, 2**32), st.data())
def test_stratified_batches_have_their_share_of_heavy_samples(
    count: int, size: int, share: float, seed: int, data: st.DataObject
) -> None:
    heavy = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    chosen = round(share * size)
    stream = epochs(count, size, np.random.default_rng(seed), chosen, heavy)
    for rows in islice(stream, 5):
        assert len(rows) == min(size, count)
        assert ((rows >= 0) & (rows < count)).all()
        assert np.isin(rows[:chosen], heavy).all()


@pytest.mark.parametrize("size", [1, 4, 7])
def test_epochs_without_heavy_samples_have_each_sample_once(size: int) -> None:
    none = np.empty(0, np.int64)
    rows = list(islice(epochs(28, size, np.random.default_rng(0), 0, none), 28 // size))
    assert sorted(np.concatenate(rows)) == list(range(28))
