"""Events of a computation, and bars of the fields that it writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from xcvae.progress import progress_bar

if TYPE_CHECKING:
    from tqdm.std import tqdm


T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class TaskEnd(Generic[T, R]):
    """Event of an executor: a task has ended.

    Attributes
    ----------
    task
        The task.
    result
        Return value of its function; None if the task was lost.
    error
        Why it was lost: its workers died again and again, or the scheduler did.
    """

    task: T
    result: R | None = None
    error: Exception | None = None


class FieldsBar:
    """Counts fields and bytes; shows the rate, the rest, and the time that it takes."""

    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar
        self._bytes = 0

    def update(self, fields: int, nbytes: int) -> None:
        """Add written fields, and the bytes of their file."""
        self._bytes += nbytes
        self._bar.set_postfix_str(f"{self._bytes / 1e9:.2f} GB written", refresh=False)
        self._bar.update(fields)


@contextmanager
def fields_bar(progress: bool, text: str, *, total: int, done: int = 0) -> Iterator[FieldsBar]:
    """Show the progress of an ensemble that is being written.

    Parameters
    ----------
    progress
        Show it, on a terminal.
    text
        Label of the bar.
    total, done
        Fields in all, and those that were written before.
    """
    with progress_bar(
        progress, desc=text, total=total, initial=done, unit="fields", unit_scale=True, delay=1.0
    ) as bar:
        yield FieldsBar(bar)


def steps(progress: bool, text: str, total: int) -> tqdm[Any]:
    """Return a bar of at most ``total`` steps, to be updated by the caller."""
    return progress_bar(progress, total=total, desc=text, delay=1.0, leave=False)
