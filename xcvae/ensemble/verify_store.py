"""Verification of stores and folders: files against checksums, regions against a new draw."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.progress import steps
from xcvae.ensemble.request import SampleRequest
from xcvae.ensemble.sampler import EnsembleSampler, open_model, parts_of
from xcvae.ensemble.spread import resolve_spread
from xcvae.ensemble.store.base import DONE, EnsembleStore, Ledger, Region, differences, regions_of
from xcvae.ensemble.store.local import FileLedger
from xcvae.errors import ConfigError, MismatchError, StoreError, XcvaeError, check_flags
from xcvae.fields.samples import label_keys

if TYPE_CHECKING:
    from xcvae.ensemble.store.icechunk import Repository
    from xcvae.generator.model import Model


NAMED = 8


@dataclass(frozen=True)
class Verification:
    """Result of the verification of a store.

    Attributes
    ----------
    store
        The store, or its unfinished form.
    finished
        True if it has its final name and attributes.
    regions
        Number of regions of the ensemble.
    missing
        Regions that are not written, each with its recorded error, if any.
    damaged
        Regions whose file has changed since it was written, each with the difference.
    changed
        Files of metadata and coordinates that have changed, each with the difference.
    redrawn
        Regions that were drawn again.
    different
        Regions whose new draw differs from the stored values, and by how much.
    """

    store: Path | str
    finished: bool
    regions: int
    missing: Mapping[int, str]
    damaged: Mapping[int, str]
    changed: Mapping[str, str] = field(default_factory=dict)
    redrawn: tuple[int, ...] = ()
    different: Mapping[int, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if the store is finished, and nothing is missing, changed or different."""
        return self.finished and not (
            self.missing or self.damaged or self.changed or self.different
        )

    def __str__(self) -> str:
        intact = self.regions - len(self.missing) - len(self.damaged)
        lines = [
            f"{self.store}: {'finished' if self.finished else 'not finished'}, "
            f"{intact} of {self.regions} regions as they were written"
        ]
        for title, found in (("missing", self.missing), ("damaged", self.damaged)):
            lines += _listed(f"{title}: region", found)
        lines += _listed("damaged: file", self.changed)
        if self.redrawn:
            equal = len(self.redrawn) - len(self.different)
            numbers = ", ".join(map(str, self.redrawn))
            lines.append(f"drawn again: {len(self.redrawn)} ({numbers}), {equal} equal bit by bit")
            lines += _listed("different: region", self.different)
        return "\n".join([*lines, *self._remedy()])

    def _remedy(self) -> list[str]:
        if not self.finished:
            return ["The same call of sample again draws what is missing."]
        if self.missing or self.damaged or self.changed:
            return ['The same call of sample with resume="repair" writes what is damaged again.']
        return []


def _listed(title: str, found: Mapping[Any, str]) -> list[str]:
    some = list(found.items())[:NAMED]
    lines = [f"  {title} {name}" + (f" ({text})" if text else "") for name, text in some]
    return lines + ([f"  {title}: {len(found) - NAMED} more"] if len(found) > NAMED else [])


def verify_store(
    store: str | os.PathLike[str] | Repository,
    *,
    ds: xr.Dataset | None = None,
    model: Model | str | os.PathLike[str] | None = None,
    sample: int = 4,
    postprocess: object = None,
    seed: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Verification:
    """Check a store against its ledger and, with model and data, against a new draw.

    Parameters
    ----------
    store
        A finished store, or one that is still being written: the path of a Zarr store,
        ``"icechunk:PATH"``, or an Icechunk repository.
    ds, model
        Data and model that it was drawn with: some regions are drawn again and compared bit by
        bit. Samples of ``ds`` that are not in the store do not matter.
    sample
        Number of regions to draw again, chosen at random among the intact ones.
    postprocess
        The post-processors, if they are not registered under the names in the store.
    seed
        Of that choice; None for another one every time.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...; another device than that of the store draws
        values that differ in their last digits.
    progress
        Show a bar on a terminal.

    Returns
    -------
    Verification

    Raises
    ------
    StoreError
        The store does not exist, or has no ledger.
    ConfigError
        One of ``ds`` and ``model`` is missing, or ``sample`` is below 1.
    MismatchError
        Model or data are not those of the store: the message names the keys that differ.
    """
    if (ds is None) != (model is None) or sample < 1:
        raise ConfigError.of(
            "verify",
            expected="both model and data, or neither, and sample >= 1",
            got=f"model {'given' if model is not None else 'missing'}, "
            f"data {'given' if ds is not None else 'missing'}, sample={sample}",
            remedy="Without them only the checksums are recomputed.",
        )
    check_flags(progress=progress)
    target = EnsembleStore.of(store)
    name, ledger, finished = _found(target)
    regions = _regions(ledger)
    entries = ledger.entries()
    done = {n: e for n, e in entries.items() if e.get("state") == DONE and n in regions}
    missing = {n: entries.get(n, {}).get("error", "") for n in regions if n not in done}
    damaged = ledger.damaged(done.values())
    found = Verification(name, finished, len(regions), missing, damaged, ledger.changed())
    if ds is None or found.changed:
        return found
    ensemble = target.open(incomplete=True)
    intact = sorted(done.keys() - damaged.keys())
    rng = np.random.default_rng(seed)
    chosen = tuple(sorted(rng.choice(intact, min(sample, len(intact)), replace=False).tolist()))
    sampler = _sampler_of(ensemble, ledger, ds, open_model(model, device), postprocess)
    different = {}
    with steps(progress, "drawing again", len(chosen)) as bar:
        for number in chosen:
            region = regions[number]
            values, _ = sampler.subset(region).draw_region(region)
            different[number] = _compared(ensemble, region, values, ledger, sampler)
            bar.update()
    return replace(found, redrawn=chosen, different={n: t for n, t in different.items() if t})


def _found(store: EnsembleStore) -> tuple[Path | str, Ledger, bool]:
    """Return the name of a store, its ledger, and True if it is finished."""
    status = store.status()
    for found in (status.complete, status.partial):
        if found.ledger is not None and found.metadata:
            finished = found is status.complete and found.ledger.sealed
            return found.name, found.ledger, finished
    raise StoreError.of(
        f"store '{store.name}'",
        expected="a store with a ledger",
        got="one without" if status.complete.exists else "no store of that name",
        remedy="Check the path; only stores that xcvae.sample(..., store=) wrote have a ledger.",
    )


def _regions(ledger: Ledger) -> dict[int, Region]:
    metadata = ledger.metadata()
    chunks = metadata["run"]["chunks"]
    return {one.number: one for one in regions_of((chunks[0], chunks[1]), metadata["shape"])}


def _sampler_of(
    ensemble: xr.Dataset, ledger: Ledger, ds: xr.Dataset, model: Model, postprocess: object
) -> EnsembleSampler:
    """Rebuild the sampler of a store; refuse another model and other data."""
    stored, notes = ledger.metadata()["run"], ledger.metadata()["notes"]
    others = {} if postprocess is None else {"postprocess": postprocess}
    request = SampleRequest.from_identity(stored, **others)
    ds, model = model.for_data(ds, request.factor, observed=request.mode == "posterior")
    sampler = EnsembleSampler.prepare(_chosen(ds, ensemble, model), model, request)
    sampler = replace(sampler, seam=stored.get("seam", 0))
    identity = sampler.identity(parts_of(stored))
    differing = differences({key: stored.get(key) for key in identity}, identity)
    if differing:
        raise MismatchError.of(
            "verify",
            expected="the model and the data of the store",
            got="; ".join(differing),
            remedy="Give the model and the data that the store was drawn with.",
        )
    sampler.request.check_room(sampler.model, sampler.size)
    if request.diversity is None:
        return sampler
    return resolve_spread(sampler, request.diversity, notes, progress=False)


def _chosen(ds: xr.Dataset, ensemble: xr.Dataset, model: Model) -> xr.Dataset:
    """Select the samples of the store from a Dataset that may have more."""
    dim = model.spec.sample
    # A store returns some times in another form than they were given.
    wanted = [str(key) for key in label_keys(ensemble, dim)]
    known = [str(key) for key in label_keys(ds, dim)] if dim in ds.dims else []
    position = {label: i for i, label in enumerate(known)}
    lacking = [label for label in wanted if label not in position]
    if lacking:
        raise MismatchError.of(
            f"data, dimension '{dim}'",
            expected=f"the {len(wanted)} samples of the store",
            got=f"data without {len(lacking)} of them, such as {lacking[0]}",
            remedy="Give the data that the store was drawn for.",
        )
    return ds.isel({dim: [position[label] for label in wanted]})


def _compared(
    ensemble: xr.Dataset,
    region: Region,
    drawn: np.ndarray,
    ledger: Ledger,
    sampler: EnsembleSampler,
) -> str:
    stored = ensemble[ledger.variable][slice(*region.realizations), slice(*region.samples)].values
    if stored.tobytes() == drawn.tobytes():
        return ""
    largest = float(np.nanmax(np.abs(stored.astype("float64") - drawn), initial=0.0))
    share = float((~((stored == drawn) | (np.isnan(stored) & np.isnan(drawn)))).mean())
    stored_with = ledger.metadata()["run"]
    environment: dict[str, Any] = sampler.environment()
    known = {key: stored_with[key] for key in environment if key in stored_with}
    others = differences(known, environment)
    text = f"{share:.2%} of the pixels differ, by up to {largest:.3g}"
    return f"{text}; drawn again with another {'; '.join(others)}" if others else text


@dataclass(frozen=True)
class FolderVerification:
    """Result of the verification of a folder.

    Attributes
    ----------
    folder
        The folder.
    lines
        What was checked, one line or more for each item.
    problems
        Items that are damaged, unfinished or missing, in a few words each.
    """

    folder: Path
    lines: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if there is no problem."""
        return not self.problems

    def __str__(self) -> str:
        count = len(self.problems)
        verdict = "no problem found" if self.ok else f"{count} problem{'s' if count > 1 else ''}"
        return "\n".join(
            [*self.lines, f"{self.folder}: {verdict}", *map("  {}".format, self.problems)]
        )


def verify_folder(folder: str | os.PathLike[str]) -> FolderVerification:
    """Check everything in a folder: models, stores, samples and catalogs.

    Model files and stores are compared with their checksums, samples are read, the entries of
    catalogs are opened, and ensembles are compared with the model next to them.

    Parameters
    ----------
    folder
        Output folder of a run, or another folder with products of xcvae.

    Raises
    ------
    StoreError
        The folder has none of these.
    """
    root = Path(folder)
    models = sorted(root.glob("*.xcvae"))
    stores = sorted(path for path in (*root.glob("*/"), *root.glob("data/*/")) if _kind(path))
    listed = sorted(path for path in root.glob("*.y*ml") if catalogs.is_catalog(path))
    if not (models or stores or listed):
        raise StoreError.of(
            f"folder '{root}'",
            expected="models, stores or catalogs of xcvae",
            got="none",
            remedy="Give the output folder of a run, or a store.",
        )
    lines: list[str] = []
    problems: list[str] = []
    known = dict(_verified_model(path, lines, problems) for path in models)
    # A damaged model may be the one that drew an ensemble.
    comparable = set() if "" in known.values() else set(known.values())
    for path in stores:
        _verify_item(path, comparable, lines, problems)
    for path in listed:
        _verify_catalog(path, lines, problems)
    return FolderVerification(root, tuple(lines), tuple(problems))


def is_store(path: str | os.PathLike[str]) -> bool:
    """Tell if a folder is an ensemble, finished or not, or another Zarr store."""
    partial = Path(f"{os.fspath(path)}.partial")
    return _kind(Path(path)) in ("ensemble", "samples") or _kind(partial) == "ensemble"


def _kind(path: Path) -> str:
    """Return the kind of a folder: an ensemble, a repository, samples; empty for others."""
    if path.name.startswith(".") or not path.is_dir():
        return ""
    if FileLedger.within(path) is not None:
        return "ensemble"
    if (path / "snapshots").is_dir():
        return "repository"
    return "samples" if (path / "zarr.json").is_file() else ""


def _verified_model(path: Path, lines: list[str], problems: list[str]) -> tuple[Path, str]:
    from xcvae.generator.model import load

    try:
        sha256 = load(path).sha256
    except XcvaeError as error:
        problems.append(f"{path}: {error}")
        return path, ""
    lines.append(f"{path}: model as it was written, sha256 {sha256[:12]}")
    return path, sha256


def _verify_item(path: Path, models: set[str], lines: list[str], problems: list[str]) -> None:
    """Check an ensemble or samples; note an ensemble of a model that is not in the folder."""
    try:
        if _kind(path) == "samples":
            with xr.open_zarr(path, chunks={}, consolidated=False) as ds:
                for variable in ds.variables.values():
                    variable.isnull().any().compute()
            lines.append(f"{path}: samples, all values readable")
            return
        name = f"icechunk:{path}" if _kind(path) == "repository" else path
        found = verify_store(name, progress=False)
        lines.append(str(found))
        if not found.ok:
            problems.append(f"{path}: not as it was written")
        sha256 = _found(EnsembleStore.of(name))[1].metadata()["run"].get("model_sha256")
        if models and sha256 not in models:
            problems.append(f"{path}: drawn with model {str(sha256)[:12]}, which is not here")
    except Exception as error:  # noqa: BLE001  of any kind: it is damaged, and the rest is checked
        problems.append(f"{path}: {error}")


def _verify_catalog(path: Path, lines: list[str], problems: list[str]) -> None:
    """Open each entry of a catalog."""
    names = catalogs.names(path)
    before = len(problems)
    for name in names:
        try:
            if not catalogs.lists_catalog(path, name):
                catalogs.open_entry(path, name).close()
        except XcvaeError as error:
            problems.append(f"{error}")
    opened = len(names) - (len(problems) - before)
    lines.append(f"{path}: catalog, {opened} of {len(names)} entries can be opened")
