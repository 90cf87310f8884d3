"""Standard normal deviates with an address.

A deviate is a function of (seed, sample label, realization, mode, attempt, level, position) alone,
through the counter-based generator Philox (Salmon et al. 2011, doi:10.1145/2063384.2063405), so
the same storm gets the same member whatever the batch, the order or the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Address", "normals"]


@dataclass(frozen=True)
class Address:
    """Where the noise of one member of one sample lives.

    Attributes
    ----------
    seed
        The seed of the ensemble; any integer.
    label
        The label of the sample, as text.
    realization
        Number of the member, >= 0.
    mode
        ``"prior"`` or ``"posterior"``.
    attempt
        0, or how often this member was redrawn.
    """

    seed: int
    label: str
    realization: int
    mode: str
    attempt: int = 0

    def key(self) -> int:
        """The 128-bit Philox key of everything but realization, attempt and level."""
        text = f"{self.seed}\x1f{self.mode}\x1f{self.label}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def normals(
    addresses: Sequence[Address], level: int, shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Deviates of one level for a batch of addresses.

    Parameters
    ----------
    addresses
        One per member of the batch.
    level
        Number of the level, coarsest 0.
    shape
        (latents, height, width) of the level.

    Returns
    -------
    array of shape (len(addresses), *shape)

    Examples
    --------
    >>> a, b = Address(0, "2018-05-17", 0, "prior"), Address(0, "2018-05-17", 1, "prior")
    >>> both, alone = normals([a, b], 0, (1, 2, 2)), normals([b], 0, (1, 2, 2))
    >>> bool((both[1] == alone[0]).all()), bool((both[0] == both[1]).any())
    (True, False)
    """
    out = np.empty((len(addresses), *shape), np.float32)
    for row, address in zip(out, addresses, strict=True):
        # The counter's lowest word advances as deviates are drawn; the others are the address.
        counter = np.array([0, level, address.realization, address.attempt], np.uint64)
        stream = np.random.Generator(np.random.Philox(key=address.key(), counter=counter))
        stream.standard_normal(out=row, dtype=np.float32)
    return out
