"""Every sample once, sources in proportion, and all of it told by a seed."""

from __future__ import annotations

import numpy as np
import pytest

from xcvae.ensemble.loader import epoch, quotas
from xcvae.errors import ConfigError

BLOCKS = [[64] * 4 + [44], [64] * 75]
COUNTS = [300, 4800]


def drawn(wanted, seed=0):
    return epoch(BLOCKS, wanted, np.random.default_rng(seed))


def taken(pieces, source):
    return [(p.block, int(row)) for p in pieces if p.source == source for row in p.rows]


def test_epoch_without_weights_has_every_sample_once():
    pieces = drawn(COUNTS)
    for source, count in enumerate(COUNTS):
        assert len(taken(pieces, source)) == len(set(taken(pieces, source))) == count


def test_quotas_are_shares_without_repetition():
    assert quotas(COUNTS, [1, 1]) == [300, 300]
    assert quotas(COUNTS, [3, 1]) == [300, 100]
    assert quotas([100, 300], [1, 2]) == [100, 200]
    pieces = drawn([300, 100])
    assert len(set(taken(pieces, 0))) == 300
    assert len(set(taken(pieces, 1))) == 100


def test_quotas_are_at_most_counts():
    rng = np.random.default_rng(0)
    for _ in range(300):
        counts = rng.integers(1, 50, 3).tolist()
        weights = (rng.random(3) + 0.5).tolist()
        try:
            found = quotas(counts, weights)
        except ConfigError:
            continue
        assert all(0 < n <= count for n, count in zip(found, counts, strict=True))
        got, wanted = np.array(found) / sum(found), np.array(weights) / sum(weights)
        np.testing.assert_allclose(got, wanted, atol=1.1 / sum(found) + 1e-9)


def test_epoch_repeats_source_with_quota_above_count():
    pieces = drawn([700, 700])
    rows = taken(pieces, 0)
    assert len(rows) == 700
    counted = np.unique([f"{b} {r}" for b, r in rows], return_counts=True)[1]
    assert counted.size == 300
    assert set(counted.tolist()) == {2, 3}


def test_every_quarter_of_epoch_is_mixed_in_proportion():
    pieces = drawn([900, 2700])
    flags = np.concatenate([np.full(p.rows.size, p.source) for p in pieces])
    shares = [part.mean() for part in np.array_split(flags, 4)]
    np.testing.assert_allclose(shares, 0.75, atol=0.06)


def test_epoch_shuffles_blocks_and_rows():
    pieces = [p for p in drawn(COUNTS) if p.source == 1]
    assert [p.block for p in pieces] != sorted(p.block for p in pieces)
    assert all(sorted(p.rows) != p.rows.tolist() for p in pieces)


def test_epoch_depends_on_seed():
    def pieces_of(seed):
        return [(p.source, p.block, p.rows.tolist()) for p in drawn([300, 300], seed)]

    assert pieces_of(1) == pieces_of(1)
    assert pieces_of(1) != pieces_of(2)


def test_quotas_refuse_weight_without_samples():
    with pytest.raises(ConfigError, match="every source a sample of an epoch of 10"):
        quotas(COUNTS, [1, 1000], samples=10)
