"""Ensembles on disk: Zarr v3, written region by region, under its name only when all is there.

While it is written, an ensemble is called ``<store>.partial``: a Zarr store whose metadata and
coordinates are complete, whose chunks are not, and whose ledger says which of them are done. One
task draws and writes one region, which is one chunk in one file. When all regions are done the
attributes get their final values, and the folder its final name.

Every change of state is one rename, so that a process may be killed anywhere.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr

from xcvae.ensemble.chunks import encoding_of
from xcvae.ensemble.identity import labels_of
from xcvae.ensemble.ledger import Ledger
from xcvae.ensemble.progress import meter
from xcvae.ensemble.regions import Counts, Region, Source, regions_of
from xcvae.ensemble.runs import Resume, Run, find, identity_of, remove
from xcvae.ensemble.writing import Outcome, Task, failure, tasks_of
from xcvae.errors import StoreError, explain

__all__ = ["open_store", "write"]


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
        Some regions came to nothing; all others are done. Or the store cannot be begun.
    """
    state = find(run, resume)
    if state == "new":
        _begin(run, template, replaces=resume == "restart")
    else:
        _reopen(run, template, damaged=state == "damaged")
    regions = list(regions_of(run.chunks, template[run.variable].shape))
    there = run.ledger.intact()
    missing = [region for region in regions if region.number not in there]
    if missing:
        run.ledger.reopen(there)
    token, call = run.ledger.run()["token"], uuid4().hex
    # One by one: what they hold need not be in memory at the same time.
    # Sample by sample: what is cut out of the data for one region serves the next.
    missing.sort(key=lambda region: region.samples)
    array = run.ledger.array
    tasks = (Task(source_of(region), array, run.chunks, token, region, call) for region in missing)
    total = sum(region.fields for region in regions)
    done = total - sum(region.fields for region in missing)
    with meter(progress, "drawing", total=total, done=done) as counter:

        def seen(outcome: Outcome) -> None:
            counter.update(outcome.region.fields if outcome.written else 0, outcome.written)

        outcomes = tasks_of().run(tasks, seen)
    problem = failure(run.path, outcomes, len(regions), _describing(template[run.variable]))
    if problem:
        raise StoreError(problem)
    entries = run.ledger.entries()
    _publish(run, finish([entries[region.number]["counts"] for region in regions]))


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


def _begin(run: Run, template: xr.Dataset, *, replaces: bool) -> None:
    """Make metadata, coordinates and ledger, no chunk; all of it appears in one step."""
    new = run.aside("new")
    shape = template[run.variable].shape
    said = {
        "run": run.to_json(),
        "notes": dict(run.notes),
        "replaces": replaces,
        "shape": list(shape),
        "regions": sum(1 for _ in regions_of(run.chunks, shape)),
    }
    try:
        _write_template(run, template, new)
        Ledger(new / run.variable).start(said)
        old = _set_aside(run.working, run)
        new.rename(run.working)
        remove(old)
    except OSError as error:
        raise _unwritable(run, error, "Nothing was drawn yet: choose another place.") from error
    finally:
        remove(new)


def _reopen(run: Run, template: xr.Dataset, *, damaged: bool) -> None:
    """Make ready what was begun, or is to be repaired: its metadata are what they were."""
    new = run.aside("new")
    try:
        if damaged:
            run.path.rename(run.working)
        run.clear_temporary()
        if run.ledger.changed():
            _write_template(run, template, new)
            for path in sorted(path for path in new.rglob("*") if path.is_file()):
                place = run.working / path.relative_to(new)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
            run.ledger.note_template()
    except OSError as error:
        raise _unwritable(run, error, "Mend the cause and run the same call again.") from error
    finally:
        remove(new)


def _write_template(run: Run, template: xr.Dataset, path: Path) -> None:
    shape = (*run.chunks, *template[run.variable].shape[2:])
    with warnings.catch_warnings():
        # Text labels: the type is stable in practice, its place in the Zarr v3 standard is not.
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        warnings.filterwarnings("ignore", category=_unstable())
        _in_one_piece(template, run.variable).to_zarr(
            path, mode="w", compute=False, consolidated=False, zarr_format=3,
            encoding={run.variable: encoding_of(shape)},
        )  # fmt: skip


def _in_one_piece(template: xr.Dataset, variable: str) -> xr.Dataset:
    """Make the values of a variable one lazy block: nothing grows with the number of chunks."""
    import dask.array as da

    shape = template[variable].shape
    values = da.full(shape, np.nan, dtype="float32", chunks=shape)  # type: ignore[no-untyped-call]
    return template.assign({variable: template[variable].variable.copy(data=values)})


def _unstable() -> type[Warning]:
    from zarr import errors

    found = getattr(errors, "UnstableSpecificationWarning", FutureWarning)
    return found if isinstance(found, type) and issubclass(found, Warning) else FutureWarning


def _publish(run: Run, attributes: Mapping[str, Any]) -> None:
    """Give the store its final attributes and its name, and tidy up."""
    import zarr

    try:
        zarr.open_group(run.working, mode="r+").attrs.update(dict(attributes))
        run.ledger.note_template()
        run.ledger.seal()
        _to_disk()
        old = _set_aside(run.path, run)
        run.working.rename(run.path)
    except OSError as error:
        raise _unwritable(
            run, error, "All regions are done: mend the cause, and the same call finishes it."
        ) from error
    remove(old)


def _to_disk() -> None:
    """Wait for the disk, once: a store that has its name survives a loss of power."""
    if hasattr(os, "sync"):
        os.sync()


def _unwritable(run: Run, error: OSError, remedy: str) -> StoreError:
    return StoreError(
        explain(
            f"store '{run.path}'",
            expected="a place that can be written to",
            got=f"{type(error).__name__}: {error}",
            remedy=remedy,
        )
    )


def _set_aside(path: Path, run: Run) -> Path:
    """Take what is there out of the way in one step; the caller deletes it in the end."""
    old = run.aside("old")
    if path.exists() or path.is_symlink():
        path.rename(old)
    return old


def open_store(path: str | os.PathLike[str], *, incomplete: bool = False) -> xr.Dataset:
    """Open a finished ensemble lazily, chunked as it is stored.

    Parameters
    ----------
    path
        Name of the store.
    incomplete
        Open one that is still being written too; what is not there yet is NaN.

    Raises
    ------
    StoreError
        There is no such store, it is still being written, or it is no ensemble of xcvae.
    """
    path = Path(path)
    begun = path if path.name.endswith(".partial") else path.with_name(path.name + ".partial")
    if identity_of(path) is None:
        unfinished = Ledger.within(begun) is not None
        if not (incomplete and unfinished):
            raise StoreError(
                explain(
                    f"store '{path}'",
                    expected="a finished ensemble of xcvae",
                    got="an unfinished one" if unfinished else "no such ensemble",
                    remedy="Run the same sampling again: it goes on where it stopped."
                    if unfinished
                    else "Check the path.",
                )
            )
        path = begun
    opened: xr.Dataset = xr.open_zarr(path, consolidated=False, chunks={})
    # Coordinates are small and needed for every selection: only the members stay lazy.
    return opened.assign_coords({name: coord.compute() for name, coord in opened.coords.items()})
