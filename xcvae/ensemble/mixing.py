"""Which samples of several sources an epoch takes, in which order: shares, blocks and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xcvae.errors import ConfigError, explain

__all__ = ["Piece", "epoch", "quotas"]


@dataclass(frozen=True)
class Piece:
    """Samples of one block of one source, to be read at once.

    Attributes
    ----------
    source, block
        Their numbers.
    rows
        Positions in the block, in random order, each once.
    """

    source: int
    block: int
    rows: NDArray[np.int64]


def quotas(
    counts: Sequence[int], weights: Sequence[float], samples: int | None = None
) -> list[int]:
    """Return how many samples of each source an epoch takes.

    Parameters
    ----------
    counts
        Samples that each source has.
    weights
        Their shares, in any scale.
    samples
        Samples of an epoch. Default: as many as there can be without any of them twice.

    Raises
    ------
    ConfigError
        An epoch would have no sample of one of the sources.

    Examples
    --------
    >>> quotas([300, 4800], [1.0, 1.0]), quotas([300, 4800], [1.0, 3.0], samples=2000)
    ([300, 300], [500, 1500])
    """
    shares = np.asarray(weights, float) / sum(weights)
    once = samples is None
    if samples is None:
        # 300 at a share of a third are 900, not the 899 that rounding may make of them.
        samples = int(min(n / share for n, share in zip(counts, shares, strict=True)) + 1e-6)
    # Rounded one after the other, the quotas of many sources need not add up.
    edges = np.rint(np.concatenate([[0.0], np.cumsum(shares)]) * samples).astype(int)
    found = [int(n) for n in np.diff(edges)]
    if once:
        found = [min(n, count) for n, count in zip(found, counts, strict=True)]
    if min(found) < 1:
        raise ConfigError(
            explain(
                "weights",
                expected=f"shares that give every source a sample of an epoch of {samples}",
                got=", ".join(f"{share:.3g}" for share in shares),
                remedy="Leave out what weighs so little, or set a larger `samples`.",
            )
        )
    return found


def epoch(
    blocks: Sequence[Sequence[int]], wanted: Sequence[int], rng: np.random.Generator
) -> list[Piece]:
    """Choose the samples of an epoch and put the reads in order.

    Blocks are taken in random order. A source that is asked for fewer samples than it has gives
    some of its blocks; one that is asked for more starts over, in another order. The reads of the
    sources alternate in proportion, so that every stretch of the epoch is mixed by weight.

    Parameters
    ----------
    blocks
        For each source, the number of samples in each of its blocks.
    wanted
        From `quotas`.
    rng
        Of the choice and the order.
    """
    placed: list[tuple[float, Piece]] = []
    for source, (sizes, quota) in enumerate(zip(blocks, wanted, strict=True)):
        taken = 0
        while taken < quota:
            for block in rng.permutation(len(sizes)):
                rows = rng.permutation(sizes[block])[: quota - taken]
                if rows.size == 0:
                    break
                place = (taken + rng.random() * rows.size) / quota
                placed.append((place, Piece(source, int(block), rows)))
                taken += rows.size
    return [piece for _, piece in sorted(placed, key=lambda one: one[0])]
