"""Writing of an ensemble: compare a store with the request, then draw the missing regions.

One task draws and writes one region, which is one chunk. The store decides where the chunk lies
and how it is hidden until all regions are complete.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import xarray as xr

from xcvae.ensemble.execution.scheduler import Executor
from xcvae.ensemble.progress import TaskEnd, fields_bar
from xcvae.ensemble.store.base import (
    DONE,
    FAILED,
    EnsembleSpec,
    EnsembleStore,
    Entry,
    Region,
    RegionSource,
    RegionStats,
    RegionWriter,
    StoredEnsemble,
    StoreStatus,
    StoreWriter,
    differences,
    regions_of,
)
from xcvae.errors import OutputExistsError, StoreError, explain
from xcvae.fields.cf import check_name
from xcvae.fields.samples import labels_of

Resume = bool | Literal["restart", "repair", "append"]
Step = Literal["open", "continue", "begin", "repair"]


def is_settled(store: EnsembleStore, spec: EnsembleSpec, resume: Resume) -> bool:
    """Tell if a store holds the ensemble, finished, and there is nothing to do or to remove.

    No lock is needed, so that any number of processes open a store at a time.
    """
    status = store.status()
    found = status.complete.identity
    if resume is not True or found is None or differences(found, spec.identity):
        return False
    return status.is_clean


def next_step(store: EnsembleStore, spec: EnsembleSpec, resume: Resume) -> Step:
    """Compare a store with the requested ensemble, and return what has to be done.

    Returns
    -------
    str
        ``"open"``: the store holds the ensemble. ``"continue"``: it holds a part of it.
        ``"begin"``: it is empty, or its content is replaced with ``resume="restart"``, extended
        with ``resume="append"``.
        ``"repair"``: with ``resume="repair"``, it holds the ensemble, and files have changed.

    Raises
    ------
    OutputExistsError
        It holds something else, or ``resume=False`` and it holds anything; with
        ``resume="restart"``, or ``"repair"`` and changed files, it holds something that xcvae did
        not write.
    """
    status = store.status()
    complete, partial = status.complete, status.partial
    unfinished = partial.metadata
    # A replacement comes first: the ensemble that it replaces keeps its name until the last step.
    replaced = resume and unfinished.get("replaces")
    if replaced and not differences(unfinished["run"], spec.to_json()):
        return "continue"
    if resume == "restart":
        store.check_replaceable()
        return "begin"
    if resume == "repair" and complete.exists:
        step = _repair_step(status, spec)
        if step == "repair":
            store.check_replaceable()  # as the last step will: it is renamed until then
        return step
    if resume == "append" and complete.exists:
        if partial.exists:
            raise _name_taken(
                partial, differences(unfinished.get("run", {}), spec.to_json()), resume
            )
        return "begin"
    if complete.exists:
        _check_same(complete, complete.identity, spec.identity, resume)
        return "open"
    if partial.exists:
        _check_same(partial, unfinished.get("run"), spec.to_json(), resume)
        return "continue"
    return "begin"


def _check_same(
    found: StoredEnsemble, content: Any, requested: Mapping[str, Any], resume: Resume
) -> None:
    differing = ["no xcvae ensemble"] if content is None else differences(content, requested)
    if differing or not resume:
        raise _name_taken(found, differing, resume)


def _repair_step(status: StoreStatus, spec: EnsembleSpec) -> Step:
    complete, metadata = status.complete, status.complete.metadata
    # More than its identity: regions that are drawn again must have the last digits of the rest.
    _check_same(complete, metadata.get("run"), spec.to_json(), resume=True)
    ledger = complete.ledger
    assert ledger is not None  # it has metadata
    count = metadata.get("regions", len(ledger.entries()))
    if len(ledger.intact()) == count and not ledger.changed():
        return "open"
    if status.partial.exists:
        raise _name_taken(status.partial, ["a replacement with other settings"], resume=True)
    return "repair"


def _name_taken(found: StoredEnsemble, differing: list[str], resume: Resume) -> OutputExistsError:
    remedy = "Choose another name"
    if found.metadata:  # only ensembles can be replaced
        remedy += ', or replace the ensemble with resume="restart"'
    keys = {text.partition(" (")[0] for text in differing}
    longer = bool(keys) and keys <= {"members", "data"}
    if found.metadata and found.identity is None:  # nothing can be appended to it yet
        remedy += ", or finish it by the call that was interrupted"
        remedy += ', and then use resume="append"' if longer else ""
    elif longer:
        remedy += ', or use resume="append", which adds new members and samples to it and opens '
        remedy += "what it has of them"
    return OutputExistsError.of(
        f"store '{found.name}'",
        expected="nothing there, or the same ensemble" if resume else "nothing there",
        got="; ".join(differing) or "the same ensemble, and resume=False",
        remedy=f"{remedy}.",
    )


def notes_of(store: EnsembleStore, step: Step) -> dict[str, Any]:
    """Return the notes of an ensemble that is continued or repaired; empty for a new one."""
    status = store.status()
    found = {"continue": status.partial, "repair": status.complete}.get(step)
    notes = found.metadata.get("notes") if found else None
    return notes if isinstance(notes, dict) else {}


@dataclass(frozen=True)
class Base:
    """The finished part of an ensemble that is extended.

    Attributes
    ----------
    entries
        Regions that both have, by their number in the new ensemble.
    calls
        The calls that made the ensemble, first to last, in JSON types.
    """

    entries: Mapping[int, Entry]
    calls: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """A region that is to be drawn and written.

    Attributes
    ----------
    source, writer
        Draw the region and write it.
    region
        The region.
    call
        Identifies the call of :func:`write`.
    """

    source: RegionSource
    writer: RegionWriter
    region: Region
    call: str


UNTRIED = "untried"
# Trouble with the disk rather than with a region: the next region will have it too.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}
DISK_ERRORS_IN_A_ROW = 3
"""Regions in a row that may fail because of the disk; after them, a process draws no more."""
LISTED_FAILURES = 8
"""Failed regions that a message lists."""

_disk_errors: Counter[str] = Counter()


@dataclass(frozen=True)
class Outcome:
    """Result of a task.

    Attributes
    ----------
    region, state
        The region, and ``"done"``, ``"failed"`` or ``"untried"``.
    nbytes
        Bytes of its chunk.
    error
        Why it failed.
    receipt
        Argument for :meth:`StoreWriter.collect`.
    """

    region: Region
    state: str
    nbytes: int = 0
    error: str = ""
    receipt: Any = None


def draw_and_write(task: Task, threads: int | None = None) -> Outcome:
    """Draw one region, write it, and then record that it is complete; never raises."""
    from xcvae.generator.sharing import threads_here

    if _disk_errors[task.call] >= DISK_ERRORS_IN_A_ROW:
        return Outcome(task.region, UNTRIED)
    try:
        with threads_here(threads):
            values, stats = task.source.draw_region(task.region)
    except Exception as error:  # noqa: BLE001  of any kind: the other regions are still drawn
        return _failed(task, error)
    try:
        nbytes, receipt = task.writer.write(task.region, values, stats)
    except Exception as error:  # noqa: BLE001  as above
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            _disk_errors[task.call] += 1
        return _failed(task, error)
    _disk_errors.pop(task.call, None)
    return Outcome(task.region, DONE, nbytes, receipt=receipt)


def _failed(task: Task, error: Exception) -> Outcome:
    text = f"{type(error).__name__}: {error}"
    receipt = task.writer.record_failure(task.region, text)  # for `xcvae verify`
    return Outcome(task.region, FAILED, error=text, receipt=receipt)


def write(
    store: EnsembleStore,
    spec: EnsembleSpec,
    template: xr.Dataset,
    source_of: Callable[[Region], RegionSource],
    *,
    finish: Callable[[list[RegionStats]], Mapping[str, Any]],
    resume: Resume = True,
    progress: bool = True,
    base: Base | None = None,
) -> None:
    """Write an ensemble, or what is missing of an unfinished one.

    Parameters
    ----------
    store
        The store, locked by the caller.
    spec
        The ensemble.
    template
        Coordinates and attributes, and the variable as an array of the right shape, dims
        (realization, sample, y, x): its values do not matter.
    source_of
        Returns the source of a region, which is sent to a worker of the Dask scheduler in use.
    finish
        Takes the statistics of all regions, in their order; returns the final attributes of the
        Dataset.
    resume
        True: continue an unfinished ensemble with the same identity. ``"restart"``: replace what
        is stored. ``"repair"``: draw the regions again whose files have changed.
    progress
        Show a bar on a terminal.
    base
        With ``resume="append"``: what it has in common with the ensemble that it extends.

    Raises
    ------
    OutputExistsError
        As :func:`next_step` raises it.
    StoreError
        Some regions could not be drawn or written; all others are complete. Or the store cannot
        be written to.
    """
    for name in template.variables:
        check_name(str(name), what=f"variable {str(name)!r} of the ensemble")
    shape = template[spec.variable].shape
    regions = list(regions_of(spec.chunks, shape))
    writer = _writer(store, spec, template, resume, base)
    complete = writer.ledger.intact()
    missing = [region for region in regions if region.number not in complete]
    if missing:
        writer.prune(complete)
    failures = _write_regions(writer, missing, source_of, regions, progress)
    if failures:
        describe = _describing(template[spec.variable])
        raise StoreError(failure_message(store.name, failures, len(regions), describe))
    entries = writer.ledger.entries()
    writer.finalize(finish([entries[region.number]["counts"] for region in regions]))


def _writer(
    store: EnsembleStore,
    spec: EnsembleSpec,
    template: xr.Dataset,
    resume: Resume,
    base: Base | None,
) -> StoreWriter:
    """Begin the ensemble in its store, or take it up again."""
    step = next_step(store, spec, resume)
    if step != "begin":
        return store.reopen(spec, template, damaged=step == "repair")
    shape = template[spec.variable].shape
    metadata = {
        "run": spec.to_json(),
        "notes": dict(spec.notes),
        "replaces": resume in ("restart", "append"),
        "shape": list(shape),
        "regions": sum(1 for _ in regions_of(spec.chunks, shape)),
    }
    if base is None:
        return store.begin(spec, template, metadata)
    return store.begin(spec, template, {**metadata, "calls": list(base.calls)}, base.entries)


def _write_regions(
    writer: StoreWriter,
    missing: Sequence[Region],
    source_of: Callable[[Region], RegionSource],
    regions: Sequence[Region],
    progress: bool,
) -> list[Outcome]:
    """Draw and write the missing regions; return the outcomes of those that are still missing."""
    call, failures = uuid4().hex, list[Outcome]()
    # Sample by sample: the input data that are selected for one region serve the next.
    ordered = sorted(missing, key=lambda region: region.samples)
    # A generator: the sources of all regions need not be in memory at the same time.
    tasks = (Task(source_of(region), writer.region_writer(), region, call) for region in ordered)
    total = sum(region.fields for region in regions)
    done = total - sum(region.fields for region in missing)
    with fields_bar(progress, "drawing", total=total, done=done) as bar, writer:

        def on_task_end(event: TaskEnd[Task, Outcome]) -> None:
            outcome = event.result
            if outcome is None:
                error = f"{type(event.error).__name__}: {event.error}"
                outcome = Outcome(event.task.region, FAILED, error=error)
            bar.update(outcome.region.fields if outcome.nbytes else 0, outcome.nbytes)
            writer.collect(outcome.receipt)
            if outcome.state != DONE:
                failures.append(replace(outcome, receipt=None))

        Executor[Task, Outcome](draw_and_write).run(tasks, on_task_end)
    return failures


def failure_message(
    name: Path | str, outcomes: Iterable[Outcome], total: int, describe: Callable[[Region], str]
) -> str:
    """Return the message about regions that could not be drawn or written.

    Parameters
    ----------
    name
        Name of the store.
    outcomes
        Outcomes of these regions.
    total
        Number of regions of the ensemble.
    describe
        Returns members and samples of a region, in words.
    """
    by_number = sorted(outcomes, key=lambda outcome: outcome.region.number)
    failed = [one for one in by_number if one.state == FAILED]
    untried = sum(one.state == UNTRIED for one in by_number)
    lines = [
        f"\n  region {one.region.number} ({describe(one.region)}): {one.error}"
        for one in failed[:LISTED_FAILURES]
    ]
    if len(failed) > LISTED_FAILURES:
        lines.append(f"\n  and {len(failed) - LISTED_FAILURES} more")
    if untried:
        lines.append(f"\n  {untried} not tried after trouble with the disk")
    done = total - len(failed) - untried
    return explain(
        f"store '{name}'",
        expected=f"all {total} regions drawn and written",
        got=f"{done} done, {len(failed)} failed:{''.join(lines)}\n",
        remedy="Completed regions are kept and the store stays unfinished. Fix the cause and "
        "repeat the call: only missing regions are drawn.",
    )


def _describing(variable: xr.DataArray) -> Callable[[Region], str]:
    """Return a function that puts the members and samples of a region into words."""
    sample = str(variable.dims[1])
    labels = labels_of(variable, sample)
    numbers = variable.realization.values if "realization" in variable.coords else None

    def describe(region: Region) -> str:
        first, last = region.realizations[0], region.realizations[1] - 1
        if numbers is not None:
            first, last = int(numbers[first]), int(numbers[last])
        members = f"realization {first}" + (f" to {last}" if last > first else "")
        start, end = labels[region.samples[0]], labels[region.samples[1] - 1]
        return f"{members}, {sample} {start}" + (f" to {end}" if end != start else "")

    return describe
