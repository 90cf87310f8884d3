"""One task: draw a region, write its chunk, record it. And what is said when some came to nothing.

What goes wrong in one region is reported and does not stop the others.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xcvae.ensemble.records import DONE, FAILED
from xcvae.ensemble.regions import Region, Source
from xcvae.ensemble.scheduling import Tasks
from xcvae.ensemble.target import Pen
from xcvae.ensemble.workers import use_threads
from xcvae.errors import explain

__all__ = ["Outcome", "Task", "draw_and_write", "failure", "tasks_of"]

UNTRIED = "untried"
# Trouble of the disk rather than of a region: it will be the same for the next one.
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}
STRIKES = 3
"""Regions in a row that cannot be written for such a reason; then a process draws no more."""
NAMED = 8
"""Failed regions that a message names."""

_strikes: Counter[str] = Counter()


@dataclass(frozen=True)
class Task:
    """A region to be drawn and written.

    Parameters
    ----------
    source
        What draws it.
    pen
        What writes it.
    region
        Which one.
    call
        Names the call of ``write``.
    """

    source: Source
    pen: Pen
    region: Region
    call: str


@dataclass(frozen=True)
class Outcome:
    """What became of a region.

    Parameters
    ----------
    region
        Which one.
    state
        done, failed or untried.
    written
        Bytes of its chunk.
    error
        Why it failed.
    handed
        What the pen left to be done where the run was called.
    """

    region: Region
    state: str
    written: int = 0
    error: str = ""
    handed: Any = None


def tasks_of() -> Tasks[Task, Outcome]:
    """Return what runs such tasks on the scheduler in use."""
    return Tasks(draw_and_write, _lost)


def draw_and_write(task: Task, threads: int | None = None) -> Outcome:
    """Draw one region, write it, and then record that it is there; never raises."""
    if _strikes[task.call] >= STRIKES:
        return Outcome(task.region, UNTRIED)
    try:
        if threads is not None:
            use_threads(threads)
        values, counts = task.source.draw_region(task.region)
    except Exception as error:  # noqa: BLE001  of any kind: the other regions are still drawn
        return _failed(task, error)
    try:
        written, handed = task.pen.put(task.region, values, counts)
    except Exception as error:  # noqa: BLE001  as above
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            _strikes[task.call] += 1
        return _failed(task, error)
    _strikes.pop(task.call, None)
    return Outcome(task.region, DONE, written, handed=handed)


def _failed(task: Task, error: Exception) -> Outcome:
    said = f"{type(error).__name__}: {error}"
    # So that `xcvae verify` can tell later.
    return Outcome(task.region, FAILED, error=said, handed=task.pen.failed(task.region, said))


def _lost(task: Task, error: Exception) -> Outcome:
    return Outcome(task.region, FAILED, error=f"{type(error).__name__}: {error}")


def failure(
    name: Path | str, outcomes: Iterable[Outcome], total: int, describe: Callable[[Region], str]
) -> str:
    """Say which regions came to nothing and why; empty if all are done.

    Parameters
    ----------
    name
        Of the store.
    outcomes
        Of the regions that were missing.
    total
        Number of regions of the ensemble.
    describe
        Says which members and samples a region holds.
    """
    by_number: Sequence[Outcome] = sorted(outcomes, key=lambda one: one.region.number)
    failed = [one for one in by_number if one.state == FAILED]
    untried = [one for one in by_number if one.state == UNTRIED]
    if not failed and not untried:
        return ""
    named = [
        f"\n  region {one.region.number} ({describe(one.region)}): {one.error}"
        for one in failed[:NAMED]
    ]
    more = [f"\n  and {len(failed) - NAMED} more"] if len(failed) > NAMED else []
    left = [f"\n  {len(untried)} not tried after trouble with the disk"] if untried else []
    done = total - len(failed) - len(untried)
    return explain(
        f"store '{name}'",
        expected=f"all {total} regions drawn and written",
        got=f"{done} done, {len(failed)} failed:{''.join(named + more + left)}\n",
        remedy="Nothing is listed as finished, and what is done is kept. Mend the cause and run "
        "the same call again: it draws what is missing.",
    )
