"""How an ensemble is cut into regions: one region is one task is one chunk of the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np

from xcvae.errors import ConfigError, explain

__all__ = ["Counts", "Region", "Source", "plan_chunks", "regions_of"]

CHUNK_BYTES = 8_000_000

Counts = dict[str, Any]


@dataclass(frozen=True)
class Region:
    """One chunk: which realizations and which samples, by position."""

    number: int
    realizations: tuple[int, int]
    samples: tuple[int, int]

    @property
    def fields(self) -> int:
        """Number of maps."""
        return (self.realizations[1] - self.realizations[0]) * (self.samples[1] - self.samples[0])


class Source(Protocol):
    """What can draw the values of a region, and says what it counted on the way (JSON types)."""

    def draw_region(self, region: Region) -> tuple[np.ndarray, Counts]:
        """Return float32 (realization, sample, y, x) and the counts of this region."""
        ...


def plan_chunks(
    chunks: Mapping[str, int] | None, *, sizes: Sequence[int], sample: str
) -> tuple[int, int]:
    """Choose realizations and samples per chunk: all members of as many samples as make 8 MB.

    Parameters
    ----------
    chunks
        Sizes to use for ``realization`` and the sample dimension instead.
    sizes
        Number of realizations, samples, rows and columns.
    sample
        Name of the sample dimension.

    Raises
    ------
    ConfigError
        A chunk size is not an integer >= 1, or of a dimension that is never cut.
    """
    members, samples, ny, nx = sizes
    fields = max(1, CHUNK_BYTES // (4 * ny * nx))
    planned = {"realization": min(members, fields)}
    planned[sample] = min(samples, max(1, fields // planned["realization"]))
    for dim, size in ({} if chunks is None else chunks).items():
        planned[dim] = _checked(dim, size, sample)
    return min(planned["realization"], members), min(planned[sample], samples)


def _checked(dim: str, size: object, sample: str) -> int:
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    chunk = int(size) if whole else 0  # type: ignore[call-overload]
    if dim in ("realization", sample) and chunk >= 1:
        return chunk
    raise ConfigError(
        explain(
            f"chunks['{dim}']",
            expected=f"an integer >= 1 for 'realization' or '{sample}'",
            got=repr(size),
            remedy="Maps are never cut: leave their dimensions out.",
        )
    )


def regions_of(chunks: tuple[int, int], shape: Sequence[int]) -> Iterator[Region]:
    """Go through the regions of an ensemble of this shape, samples within realizations."""
    starts = product(range(0, shape[0], chunks[0]), range(0, shape[1], chunks[1]))
    for number, (r, s) in enumerate(starts):
        yield Region(
            number,
            realizations=(r, min(r + chunks[0], shape[0])),
            samples=(s, min(s + chunks[1], shape[1])),
        )
