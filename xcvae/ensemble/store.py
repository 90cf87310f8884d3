"""Ensembles on disk: written region by region, under their name only when all is there.

One task draws and writes one region, which is one chunk. Where it lies, and how it is hidden until
all regions are done, is up to the target: a folder, or a repository.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import xarray as xr

from xcvae.ensemble.arguments import icechunk_path, local_path
from xcvae.ensemble.folder import Folder
from xcvae.ensemble.identity import labels_of
from xcvae.ensemble.progress import meter
from xcvae.ensemble.records import DONE
from xcvae.ensemble.regions import Counts, Region, Source, regions_of
from xcvae.ensemble.runs import Resume, find
from xcvae.ensemble.target import Run, Target
from xcvae.ensemble.writing import Outcome, Task, failure, tasks_of
from xcvae.errors import ConfigError, StoreError, explain

if TYPE_CHECKING:
    from xcvae.ensemble.icechunks import Repository

__all__ = ["open_store", "open_target", "target_of", "write"]


def target_of(store: str | os.PathLike[str] | Repository) -> Target:
    """Return where an ensemble of this name is written to, or read from.

    Raises
    ------
    ConfigError
        It is no path of a local folder and no Icechunk repository, or icechunk is not installed.
    """
    path = icechunk_path(store)
    if path is None and type(store).__module__.partition(".")[0] != "icechunk":
        return Folder(local_path("store", store))  # type: ignore[arg-type]
    try:
        from xcvae.ensemble.versioned import Versioned
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
    return Versioned(store if path is None else path)  # type: ignore[arg-type]


def write(
    run: Run,
    template: xr.Dataset,
    source_of: Callable[[Region], Source],
    *,
    finish: Callable[[list[Counts]], Mapping[str, Any]],
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


def open_target(target: Target, *, incomplete: bool = False) -> xr.Dataset:
    """Open what was written to a target; see :func:`open_store`."""
    held = target.finished()
    if held.identity is None:
        begun = target.begun()
        unfinished = bool(begun.told)
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
        held = begun
    opened: xr.Dataset = xr.open_zarr(held.source, consolidated=False, chunks={})
    # Coordinates are small and needed for every selection: only the members stay lazy.
    return opened.assign_coords({name: coord.compute() for name, coord in opened.coords.items()})
