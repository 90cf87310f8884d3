"""Signs of life on a terminal; silence everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm.std import tqdm

__all__ = ["Meter", "meter", "steps"]


class Meter:
    """Counts fields and bytes; shows the rate, what is left to do and how long that takes."""

    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar
        self._bytes = 0

    def update(self, fields: int, written: int) -> None:
        """Add fields that are done, and the bytes of their file."""
        self._bytes += written
        self._bar.set_postfix_str(f"{self._bytes / 1e9:.2f} GB written", refresh=False)
        self._bar.update(fields)


@contextmanager
def meter(progress: bool, text: str, *, total: int, done: int = 0) -> Iterator[Meter]:
    """Show how the writing of an ensemble goes, if it takes over a second.

    Parameters
    ----------
    progress
        Show it, on a terminal.
    text
        What is going on.
    total, done
        Fields in all, and those that were there before.
    """
    from tqdm.auto import tqdm

    # disable=None: quiet where there is no terminal.
    with tqdm(
        desc=text, total=total, initial=done, unit="fields", unit_scale=True, delay=1.0,
        disable=None if progress else True,
    ) as bar:  # fmt: skip
        yield Meter(bar)


def steps(progress: bool, text: str, total: int) -> tqdm[Any]:
    """Return a bar of at most ``total`` steps, to be updated by the caller."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=text, delay=1.0, leave=False, disable=None if progress else True)
