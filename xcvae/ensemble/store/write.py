"""Ensembles on disk: written region by region, under their name only when all is there.

One task draws and writes one region, which is one chunk. Where it lies, and how it is hidden until
all regions are done, is up to the target: a folder, or a repository.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import xarray as xr

from xcvae.ensemble.execution.scheduler import Tasks
from xcvae.ensemble.execution.threads import use_threads
from xcvae.ensemble.identity import differences, labels_of
from xcvae.ensemble.progress import meter
from xcvae.ensemble.store.base import (
    DONE,
    FAILED,
    EnsembleStore,
    Region,
    RegionSource,
    RegionStats,
    RegionWriter,
    Run,
    StoreStatus,
    regions_of,
)
from xcvae.ensemble.store.local import LocalStore
from xcvae.ensemble.store.locations import icechunk_path, local_path
from xcvae.errors import ConfigError, OutputExistsError, StoreError, explain

if TYPE_CHECKING:
    from xcvae.ensemble.store.icechunk import Repository

__all__ = [
    "Outcome",
    "Resume",
    "State",
    "Task",
    "draw_and_write",
    "failure",
    "find",
    "is_settled",
    "notes_of",
    "open_store",
    "open_target",
    "target_of",
    "tasks_of",
    "write",
]


Resume = bool | Literal["restart", "repair"]
State = Literal["finished", "begun", "new", "damaged"]


def is_settled(run: Run, resume: Resume) -> bool:
    """Whether the same ensemble is there, finished, and nothing else is to be done or tidied.

    It can be said without the lock, so that any number of processes open a store at a time.
    """
    there = run.target.finished().identity
    if resume is not True or there is None or differences(there, run.identity):
        return False
    return run.target.is_clean()


def find(run: Run, resume: Resume) -> State:
    """Say what is already there under the name of a run.

    Returns
    -------
    str
        ``"finished"``: the same ensemble, to be opened. ``"begun"``: a part of the same ensemble,
        to be continued. ``"new"``: nothing, or with ``resume="restart"`` something to replace.
        ``"damaged"``: with ``resume="repair"``, the same ensemble, of which files have changed.

    Raises
    ------
    OutputExistsError
        Something else is there, or ``resume=False`` and anything is there; with
        ``resume="restart"``, something that xcvae did not write.
    """
    partial = run.target.partial()
    told = partial.told
    if resume and told.get("replaces") and not differences(told["run"], run.to_json()):
        # The one to be replaced keeps its name until the last step.
        return "begun"
    if resume == "restart":
        run.target.check_replaceable()
        return "new"
    there = run.target.finished()
    if resume == "repair" and there.there:
        return _repairable(run, there, partial)
    for held, content, wanted in (
        (there, there.identity, dict(run.identity)),
        (partial, told.get("run"), run.to_json()),
    ):
        if not held.there:
            continue
        differing = ["no xcvae ensemble"] if content is None else differences(content, wanted)
        if differing or not resume:
            raise _taken(held, differing, resume)
        return "finished" if held is there else "begun"
    return "new"


def _repairable(run: Run, there: StoreStatus, partial: StoreStatus) -> State:
    told = there.told
    if there.records is None or not told:
        raise _taken(there, ["no xcvae ensemble"], resume=True)
    # More than its identity: what is drawn again must have the last digits of the rest.
    differing = differences(told["run"], run.to_json())
    if differing:
        raise _taken(there, differing, resume=True)
    count = told.get("regions", len(there.records.entries()))
    if len(there.records.intact()) == count and not there.records.changed():
        return "finished"
    if partial.there:
        raise _taken(partial, ["a replacement with other settings"], resume=True)
    return "damaged"


def _taken(held: StoreStatus, differing: list[str], resume: Resume) -> OutputExistsError:
    remedy = "Choose another name"
    if held.told:  # only ensembles can be replaced
        remedy += ', or replace the ensemble with resume="restart"'
    return OutputExistsError(
        explain(
            f"store '{held.name}'",
            expected="nothing there, or the same ensemble" if resume else "nothing there",
            got="; ".join(differing) or "the same ensemble, and resume=False",
            remedy=f"{remedy}.",
        )
    )


def notes_of(run: Run, state: State) -> dict[str, Any]:
    """Return the notes of a run that was begun or is to be repaired; empty for a new one."""
    held = {"begun": run.target.partial, "damaged": run.target.finished}.get(state)
    notes = held().told.get("notes") if held else None
    return notes if isinstance(notes, dict) else {}


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

    source: RegionSource
    pen: RegionWriter
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


def target_of(store: str | os.PathLike[str] | Repository) -> EnsembleStore:
    """Return where an ensemble of this name is written to, or read from.

    Raises
    ------
    ConfigError
        It is no path of a local folder and no Icechunk repository, or icechunk is not installed.
    """
    path = icechunk_path(store)
    if path is None and type(store).__module__.partition(".")[0] != "icechunk":
        return LocalStore(local_path("store", store))  # type: ignore[arg-type]
    try:
        from xcvae.ensemble.store.icechunk import IcechunkStore
    except ModuleNotFoundError as error:
        if error.name != "icechunk":
            raise
        raise ConfigError(
            explain(
                "store",
                expected="icechunk to be installed, for an Icechunk repository",
                got=str(error),
                remedy='pip install "xcvae[icechunk]", or give the path of a Zarr store.',
            )
        ) from error
    return IcechunkStore(store if path is None else path)  # type: ignore[arg-type]


def write(
    run: Run,
    template: xr.Dataset,
    source_of: Callable[[Region], RegionSource],
    *,
    finish: Callable[[list[RegionStats]], Mapping[str, Any]],
    resume: Resume = True,
    progress: bool = True,
) -> None:
    """Write an ensemble, or what is missing of one that was begun.

    Parameters
    ----------
    run
        Where to, and what.
    template
        Coordinates and attributes, and the variable of the run as an array of the right shape,
        dims (realization, sample, y, x): its values do not matter.
    source_of
        Returns what draws a region. It travels to a worker of the Dask scheduler in use.
    finish
        Called with the counts of all regions, in their order: returns the final attributes of
        the Dataset.
    resume
        True: go on with regions of the same run. ``"restart"``: replace what is there.
        ``"repair"``: draw again what has changed in a finished store.
    progress
        Show a bar on a terminal.

    Raises
    ------
    OutputExistsError
        As :func:`find` raises it.
    StoreError
        Some regions came to nothing; all others are done. Or the store cannot be written to.
    """
    state, target = find(run, resume), run.target
    regions = list(regions_of(run.chunks, template[run.variable].shape))
    if state == "new":
        said = {
            "run": run.to_json(),
            "notes": dict(run.notes),
            "replaces": resume == "restart",
            "shape": list(template[run.variable].shape),
            "regions": len(regions),
        }
        writer = target.begin(run, template, said)
    else:
        writer = target.reopen(run, template, damaged=state == "damaged")
    there = writer.records.intact()
    missing = [region for region in regions if region.number not in there]
    if missing:
        writer.keep(there)
    call, troubles = uuid4().hex, list[Outcome]()
    # One by one: what they hold need not be in memory at the same time.
    # Sample by sample: what is cut out of the data for one region serves the next.
    missing.sort(key=lambda region: region.samples)
    tasks = (Task(source_of(region), writer.pen(), region, call) for region in missing)
    total = sum(region.fields for region in regions)
    done = total - sum(region.fields for region in missing)
    with meter(progress, "drawing", total=total, done=done) as counter, writer:

        def seen(outcome: Outcome) -> None:
            counter.update(outcome.region.fields if outcome.written else 0, outcome.written)
            writer.take(outcome.handed)
            if outcome.state != DONE:
                troubles.append(replace(outcome, handed=None))

        tasks_of().run(tasks, seen)
    problem = failure(target.name, troubles, len(regions), _describing(template[run.variable]))
    if problem:
        raise StoreError(problem)
    entries = writer.records.entries()
    writer.publish(finish([entries[region.number]["counts"] for region in regions]))


def _describing(variable: xr.DataArray) -> Callable[[Region], str]:
    """Return what puts the members and samples of a region into words."""
    sample = str(variable.dims[1])
    labels = labels_of(variable, sample)

    def describe(region: Region) -> str:
        first, last = region.realizations[0], region.realizations[1] - 1
        members = f"realization {first}" + (f" to {last}" if last > first else "")
        start, end = labels[region.samples[0]], labels[region.samples[1] - 1]
        return f"{members}, {sample} {start}" + (f" to {end}" if end != start else "")

    return describe


def open_store(
    store: str | os.PathLike[str] | Repository, *, incomplete: bool = False
) -> xr.Dataset:
    """Open a finished ensemble lazily, chunked as it is stored.

    Parameters
    ----------
    store
        Path of a Zarr store, ``"icechunk:PATH"``, or an Icechunk repository.
    incomplete
        Open one that is still being written too; what is not there yet is NaN.

    Raises
    ------
    StoreError
        There is no such store, it is still being written, or it is no ensemble of xcvae.
    """
    return open_target(target_of(store), incomplete=incomplete)


def open_target(target: EnsembleStore, *, incomplete: bool = False) -> xr.Dataset:
    """Open what was written to a target; see :func:`open_store`."""
    held = target.finished()
    if held.identity is None:
        partial = target.partial()
        unfinished = bool(partial.told)
        if not (incomplete and unfinished):
            raise StoreError(
                explain(
                    f"store '{target.name}'",
                    expected="a finished ensemble of xcvae",
                    got="an unfinished one" if unfinished else "no such ensemble",
                    remedy="Run the same sampling again: it goes on where it stopped."
                    if unfinished
                    else "Check the path.",
                )
            )
        held = partial
    opened: xr.Dataset = xr.open_zarr(held.source, consolidated=False, chunks={})
    # Coordinates are small and needed for every selection: only the members stay lazy.
    return opened.assign_coords({name: coord.compute() for name, coord in opened.coords.items()})
