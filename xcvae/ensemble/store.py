"""Ensembles on disk: Zarr v3, written region by region, under its name only when all is there.

While it is written, an ensemble lives in a working folder ``<store>.partial``::

    run.json        what is being written: the identity of the run
    ensemble.zarr   metadata and coordinates first, then one chunk per region
    regions/        one small file per region that is done, with its counts

One task draws and writes one region, which is one chunk. When all regions are done the attributes
get their final values and ``ensemble.zarr`` is renamed to the name of the store.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import xarray as xr

from xcvae.ensemble.identity import differences
from xcvae.ensemble.progress import of_dask
from xcvae.ensemble.regions import Counts, Region, Source, regions_of
from xcvae.errors import OutputExistsError, StoreError, explain

__all__ = ["Resume", "Run", "find", "notes_of", "open_store", "write"]

ZSTD_LEVEL = 1

Resume = bool | Literal["restart"]


@dataclass(frozen=True)
class Run:
    """A store that is to be written, and what it is meant to hold.

    Parameters
    ----------
    path
        Name of the finished store.
    identity
        JSON types; two runs with the same identity write the same values.
    chunks
        Realizations and samples per chunk.
    notes
        JSON types that were found out for this run and are not part of its identity; those of a
        run that was begun are read with :func:`notes_of`.
    """

    path: Path
    identity: Mapping[str, Any]
    chunks: tuple[int, int]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def working(self) -> Path:
        """The folder in which the store is written."""
        return self.path.with_name(self.path.name + ".partial")

    @property
    def array(self) -> Path:
        """The unfinished store."""
        return self.working / "ensemble.zarr"

    @property
    def regions(self) -> Path:
        """The folder of the marker files."""
        return self.working / "regions"

    def to_json(self) -> dict[str, Any]:
        """Return what a run that was begun must have in common with this one."""
        return {**self.identity, "chunks": list(self.chunks)}


def find(run: Run, resume: Resume) -> Literal["finished", "begun", "new"]:
    """Say what is already there under the name of a run.

    Returns
    -------
    str
        ``"finished"``: the same ensemble, to be opened. ``"begun"``: a part of the same ensemble,
        to be continued. ``"new"``: nothing, or with ``resume="restart"`` something to replace.

    Raises
    ------
    OutputExistsError
        Something else is there, or ``resume=False`` and anything is there.
    """
    if resume == "restart":
        return "new"
    for path, content, wanted in (
        (run.path, _identity_of(run.path), dict(run.identity)),
        (run.working, _begun(run).get("run"), run.to_json()),
    ):
        if not path.exists() or (path == run.working and _is_bare(path)):
            continue
        differing = ["no xcvae ensemble"] if content is None else differences(content, wanted)
        if differing or not resume:
            raise OutputExistsError(
                explain(
                    f"store '{path}'",
                    expected="nothing there, or the same ensemble" if resume else "nothing there",
                    got="; ".join(differing) or "the same ensemble, and resume=False",
                    remedy='Choose another name, or replace what is there with resume="restart".',
                )
            )
        return "finished" if path == run.path else "begun"
    return "new"


def _is_bare(working: Path) -> bool:
    """Whether a run was stopped before it said what it is: such a folder holds nothing yet."""
    return working.is_dir() and all(p.name == "run.json.tmp" for p in working.iterdir())


def _begun(run: Run) -> dict[str, Any]:
    return _read_json(run.working / "run.json") or {}


def notes_of(run: Run) -> dict[str, Any]:
    """Return the notes of a run that was begun; empty if there is none."""
    notes = _begun(run).get("notes")
    return notes if isinstance(notes, dict) else {}


def _identity_of(path: Path) -> dict[str, Any] | None:
    """Read the identity out of a finished store; None if it is none of ours."""
    group = _read_json(path / "zarr.json") or {}
    try:
        identity = json.loads(group["attributes"]["xcvae"])["identity"]
    except (KeyError, TypeError, ValueError):
        return None
    return identity if isinstance(identity, dict) else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write in one step: a marker is there as a whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)


def write(
    run: Run,
    template: xr.Dataset,
    variable: str,
    source: Source,
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
        Coordinates and attributes, and ``variable`` as a lazy array of the right shape: its
        values are never computed.
    variable
        Name of the ensemble variable, dims (realization, sample, y, x).
    source
        What draws a region. It travels to the workers of the Dask scheduler in use.
    finish
        Called with the counts of all regions, in their order: returns the final attributes of
        the Dataset.
    resume
        True: go on with regions of the same run. ``"restart"``: replace what is there.
    progress
        Show a bar on a terminal.

    Raises
    ------
    OutputExistsError
        As :func:`find` raises it.
    """
    from dask.base import compute
    from dask.delayed import delayed

    if find(run, resume) == "new":
        shutil.rmtree(run.working, ignore_errors=True)
    if not run.regions.is_dir() or not (run.array / "zarr.json").is_file():
        try:
            _begin(run, template, variable)
        except Exception:
            # Nothing is drawn yet, and what could not be begun cannot be gone on with.
            shutil.rmtree(run.working, ignore_errors=True)
            raise
    regions = list(regions_of(run.chunks, template[variable].shape))
    missing = [region for region in regions if _read_json(_marker(run, region)) is None]
    # traverse=False: Dask would otherwise look for arrays inside the source and compute them.
    shared = delayed(source, pure=False, traverse=False)
    task = delayed(_draw_and_write, pure=False)
    # Dask takes independent tasks by their names: so regions are done in their order.
    name = f"draw-{uuid4().hex}"
    tasks = [
        task(shared, run, variable, region, dask_key_name=f"{name}-{region.number:06d}")
        for region in missing
    ]
    with of_dask(progress, "drawing"):
        compute(*tasks)  # type: ignore[no-untyped-call]
    counts = [_read_json(_marker(run, region)) or {} for region in regions]
    _publish(run, finish(counts))


def _begin(run: Run, template: xr.Dataset, variable: str) -> None:
    """Make the working folder: metadata and coordinates, no chunk of the variable."""
    from zarr.codecs import ZstdCodec

    run.working.mkdir(parents=True, exist_ok=True)
    _write_json(run.working / "run.json", {"run": run.to_json(), "notes": dict(run.notes)})
    chunks = (*run.chunks, *template[variable].shape[2:])
    encoding = {variable: {"chunks": chunks, "compressors": (ZstdCodec(level=ZSTD_LEVEL),)}}
    with warnings.catch_warnings():
        # Text labels: the type is stable in practice, its place in the Zarr v3 standard is not.
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        warnings.filterwarnings("ignore", category=_unstable())
        template.to_zarr(
            run.array, mode="w", compute=False, consolidated=False, zarr_format=3,
            encoding=encoding,
        )  # fmt: skip
    run.regions.mkdir(exist_ok=True)


def _unstable() -> type[Warning]:
    from zarr import errors

    found = getattr(errors, "UnstableSpecificationWarning", FutureWarning)
    return found if isinstance(found, type) and issubclass(found, Warning) else FutureWarning


def _marker(run: Run, region: Region) -> Path:
    return run.regions / f"{region.number:06d}.json"


def _draw_and_write(source: Source, run: Run, variable: str, region: Region) -> None:
    """Draw one region and write it: the chunk first, then the marker that says it is there."""
    import zarr

    values, counts = source.draw_region(region)
    # Dry chunks are written too: a chunk that is not there means one that is not done.
    array = zarr.open_array(run.array / variable, mode="r+", config={"write_empty_chunks": True})
    array[slice(*region.realizations), slice(*region.samples)] = values
    _write_json(_marker(run, region), counts)


def _publish(run: Run, attributes: Mapping[str, Any]) -> None:
    """Give the store its final attributes and its name, and tidy up."""
    import zarr

    zarr.open_group(run.array, mode="r+").attrs.update(dict(attributes))
    if run.path.is_dir():
        shutil.rmtree(run.path)
    else:
        run.path.unlink(missing_ok=True)
    run.array.replace(run.path)
    shutil.rmtree(run.working)


def open_store(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a finished ensemble lazily, chunked as it is stored.

    Raises
    ------
    StoreError
        There is no such store, it is still being written, or it is no ensemble of xcvae.
    """
    path = Path(path)
    if _identity_of(path) is None:
        begun = path.with_name(path.name + ".partial").is_dir()
        raise StoreError(
            explain(
                f"store '{path}'",
                expected="a finished ensemble of xcvae",
                got="an unfinished one" if begun else "no such ensemble",
                remedy="Run the same sampling again: it goes on where it stopped."
                if begun
                else "Check the path.",
            )
        )
    opened: xr.Dataset = xr.open_zarr(path, consolidated=False, chunks={})
    # Coordinates are small and needed for every selection: only the members stay lazy.
    return opened.assign_coords({name: coord.compute() for name, coord in opened.coords.items()})
