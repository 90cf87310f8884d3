"""Addresses of deviates, and the words of Philox's key and counter that encode them.

| word | content |
|---|---|
| key 0, 1 | hash of seed, mode, label and attempt |
| counter 0 | column |
| counter 1 | row // 4, xor a word of the hash |
| counter 2 | level x 2^16 + channel |
| counter 3 | realization, xor a word of the hash |

A block of Philox gives the deviates of four rows. Two words of the hash are xored into
the counter, so that 128 bits and not only the 64 of the key separate samples.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xcvae.errors import ConfigError

#: Rows that share a block of Philox.
ROWS = 4


@dataclass(frozen=True)
class Address:
    """Address of the noise of one member of one sample.

    Attributes
    ----------
    seed
        Seed of the ensemble; any integer.
    label
        Label of the sample, as text.
    realization
        Number of the member, 0 to 2^32 - 1.
    mode
        ``"prior"`` or ``"posterior"``.
    attempt
        Number of times this member was redrawn.
    time
        Time of the sample in microseconds. Levels with a time axis take their deviates from knots
        around it; all others, and all without a time, from the label.
    """

    seed: int
    label: str
    realization: int
    mode: str
    attempt: int = 0
    time: int | None = None

    def words(self) -> tuple[int, int, int, int]:
        """Return key 0 and 1, the word that is xored with the row block, and counter 3.

        Raises
        ------
        ConfigError
            If the realization does not fit into 32 bits.
        """
        _within("realization", self.realization, 2**32)
        first, second, row, member = _hash(int(self.seed), self.mode, self.label, int(self.attempt))
        return first, second, row, member ^ self.realization


@dataclass(frozen=True)
class Window:
    """A rectangle of one level of the ladder.

    Attributes
    ----------
    level
        Number of the level, coarsest 0.
    shape
        (latents, height, width).
    origin
        Row and column, on the level's map of the whole domain, of the first element.
    """

    level: int
    shape: tuple[int, int, int]
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        _within("level", self.level, 2**16)
        _within("channel", self.shape[0] - 1, 2**16)
        for name, first, size in zip(("row", "column"), self.origin, self.shape[1:], strict=True):
            _within(name, first, 2**32)
            _within(name, first + size - 1, 2**32)

    @property
    def row_blocks(self) -> range:
        """Numbers of the row blocks that the window touches."""
        top, height = self.origin[0], self.shape[1]
        return range(top // ROWS, (top + height - 1) // ROWS + 1)


def address_words(addresses: Sequence[Address]) -> NDArray[np.uint32]:
    """Return `Address.words` of a batch, (addresses, 4)."""
    return np.array([address.words() for address in addresses], np.uint32).reshape(-1, 4)


@functools.lru_cache(maxsize=4096)  # all members of a sample share it
def _hash(seed: int, mode: str, label: str, attempt: int) -> tuple[int, int, int, int]:
    text = f"{seed}\x1f{mode}\x1f{attempt}\x1f{label}".encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    first, second, row, member = (int(word) for word in np.frombuffer(digest, "<u4"))
    return first, second, row, member


def _within(name: str, value: int, limit: int) -> None:
    if not 0 <= value < limit:
        raise ConfigError.of(
            name,
            expected=f"0 to {limit - 1}, as the address of noise has room for",
            got=repr(value),
            remedy=f"Use a {name} in this range.",
        )
