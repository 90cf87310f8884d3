"""Fields from a catalog as torch tensors, for the training of any other network."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.sources import LoaderRequest, LoaderSource, check_alike, source_of, target_of
from xcvae.errors import ConfigError, MissingVariableError, check_flags, nearest, whole_number
from xcvae.fields.cf import names_of
from xcvae.fields.prefetch import ahead, pool_shape
from xcvae.fields.validation import check_dataset
from xcvae.generator.model import Model, load
from xcvae.notebook import Overview


@dataclass(frozen=True)
class Piece:
    """Samples of one block of one source, to be read at once.

    Attributes
    ----------
    source, block
        Numbers of the source and of the block.
    rows
        Positions in the block, in random order, each once.
    """

    source: int
    block: int
    rows: NDArray[np.int64]


def quotas(
    counts: Sequence[int], weights: Sequence[float], samples: int | None = None
) -> list[int]:
    """Return how many samples of each source an epoch takes.

    Parameters
    ----------
    counts
        Samples that each source has.
    weights
        Their shares, in any scale.
    samples
        Samples of an epoch. Default: as many as there can be without any of them twice.

    Raises
    ------
    ConfigError
        An epoch would have no sample of one of the sources.

    Examples
    --------
    >>> quotas([300, 4800], [1.0, 1.0]), quotas([300, 4800], [1.0, 3.0], samples=2000)
    ([300, 300], [500, 1500])
    """
    shares = np.asarray(weights, float) / sum(weights)
    once = samples is None
    if samples is None:
        # 300 at a share of a third are 900, not the 899 that rounding may make of them.
        samples = int(min(n / share for n, share in zip(counts, shares, strict=True)) + 1e-6)
    # Rounded one after the other, the quotas of many sources need not add up.
    edges = np.rint(np.concatenate([[0.0], np.cumsum(shares)]) * samples).astype(int)
    found = [int(n) for n in np.diff(edges)]
    if once:
        found = [min(n, count) for n, count in zip(found, counts, strict=True)]
    if min(found) < 1:
        raise ConfigError.of(
            "weights",
            expected=f"shares that give every source a sample of an epoch of {samples}",
            got=", ".join(f"{share:.3g}" for share in shares),
            remedy="Leave out what weighs so little, or set a larger `samples`.",
        )
    return found


def epoch(
    blocks: Sequence[Sequence[int]], wanted: Sequence[int], rng: np.random.Generator
) -> list[Piece]:
    """Choose the samples of an epoch and the order of the reads.

    Blocks are taken in random order. A source whose quota is below its number of samples gives
    some of its blocks; one with a larger quota starts again, in another order. The reads of the
    sources alternate in proportion, so that every part of the epoch is mixed by weight.

    Parameters
    ----------
    blocks
        For each source, the number of samples in each of its blocks.
    wanted
        Samples of each source, from `quotas`.
    rng
        Generator for the choice and the order.
    """
    positioned: list[tuple[float, Piece]] = []
    for source, (sizes, quota) in enumerate(zip(blocks, wanted, strict=True)):
        taken = 0
        while taken < quota:
            for block in rng.permutation(len(sizes)):
                rows = rng.permutation(sizes[block])[: quota - taken]
                if rows.size == 0:
                    break
                position = (taken + rng.random() * rows.size) / quota
                positioned.append((position, Piece(source, int(block), rows)))
                taken += rows.size
    return [piece for _, piece in sorted(positioned, key=lambda one: one[0])]


Arrays = dict[str, NDArray[np.generic]]

#: Workers of a DataLoader whose iterations are counted.
WORKERS = 1024
#: Name of the real samples among the weights.
REAL = "real"


class Loader(IterableDataset[dict[str, torch.Tensor]]):
    """Batches of real and synthetic fields, one epoch per iteration; made by `xcvae.loader`.

    Iterate over it, or hand it to ``torch.utils.data.DataLoader(loader, batch_size=None,
    num_workers=...)``: every sample of an epoch goes to one worker.

    Attributes
    ----------
    sources
        The entries that are read.
    quotas
        Samples of each source in an epoch.
    target
        Name of the rain variable, a key of every batch.
    units
        Units by variable: of the physical values, also where batches are normalised.
    pool_bytes
        Memory of the samples that are shuffled together, in every worker; None for the default,
        256 MiB. May be set before the iteration.
    """

    def __init__(
        self,
        sources: Sequence[LoaderSource],
        quotas: Sequence[int],
        *,
        request: LoaderRequest,
        batch_size: int | None,
        drop_last: bool,
        threads: int,
        seed: int,
    ) -> None:
        self.sources, self.quotas = tuple(sources), tuple(quotas)
        self.target, self.units = request.target, dict(request.units)
        self._normalised = request.scaling is not None
        self.batch_size, self.drop_last, self.threads = batch_size, drop_last, threads
        self.pool_bytes: int | None = None
        self.seed, self._epoch, self._set = seed, 0, False
        # Iterations by worker. A DataLoader copies the Loader to new workers for every epoch; they
        # share this memory, and so know how many epochs there were.
        self._iterations = torch.zeros(WORKERS, dtype=torch.int64)
        self._iterations.share_memory_()  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        parts = zip(self.quotas, self.sources, strict=True)
        mixed = ", ".join(f"{count} of '{source.name}'" for count, source in parts)
        return f"<xcvae.Loader {self.target}: {sum(self.quotas)} samples per epoch, {mixed}>"

    def _repr_html_(self) -> str:
        others = [f"{name} [{units}]" for name, units in self.units.items() if name != self.target]
        mixed = [
            f"{count} of the {sum(source.sizes)} fields of '{source.name}'"
            for count, source in zip(self.quotas, self.sources, strict=True)
        ]
        size = "single samples" if self.batch_size is None else f"{self.batch_size} samples each"
        return Overview(
            "xcvae.Loader",
            {
                "target": f"{self.target} [{self.units[self.target]}]",
                "conditions": ", ".join(others) or "none",
                "epoch": f"{sum(self.quotas)} samples: {', '.join(mixed)}",
                "batches": f"{len(self)}, {size}",
                "values": "normalised by the model" if self._normalised else "physical",
                "seed": self.seed,
            },
            [
                f'for batch in loader: batch["{self.target}"], batch["synthetic"]',
                "DataLoader(loader, batch_size=None, num_workers=2)   # of torch.utils.data",
            ],
        ).html()

    def __len__(self) -> int:
        """Return the number of batches of an epoch, read in one process.

        Workers of a DataLoader may each end with a batch that is not full.
        """
        full, rest = divmod(sum(self.quotas), self.batch_size or 1)
        return full + (rest > 0 and not self.drop_last)

    @property
    def fields(self) -> Fields:
        """Every field of every source by number, for samplers of torch or a look at one."""
        return Fields(self.sources)

    def shares(self) -> dict[str, dict[str, float]]:
        """Return, by source, the shares of wet and heavy pixels (of some fields of large sources).

        Wet is 0.1 mm h-1 (days: 1 mm d-1) and more, heavy 5 mm h-1 (days: 20 mm d-1).
        """
        return {source.name: source.shares() for source in self.sources}

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch; its samples and their order depend on it and the seed.

        Without this, every iteration is the next epoch, 0, 1, 2, ..., also in the workers of a
        DataLoader.
        """
        self._epoch, self._set = epoch, True

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of an epoch; in a worker of a DataLoader, its share of them."""
        worker = get_worker_info()
        number, workers, past = 0, 1, self._epoch
        if worker is not None:
            number, workers = worker.id, worker.num_workers
        if worker is None or self._set:
            self._epoch += 1
        else:
            past += int(self._iterations[number % WORKERS])
            self._iterations[number % WORKERS] += 1
        address = [self.seed, 0, past]
        order = np.random.default_rng(address)
        pieces = epoch([source.sizes for source in self.sources], self.quotas, order)
        return self._batches(pieces[number::workers], np.random.default_rng([*address, number]))

    def _batches(
        self, pieces: Sequence[Piece], rng: np.random.Generator
    ) -> Iterator[dict[str, torch.Tensor]]:
        size = self.batch_size or 1
        rest: Arrays = {}
        with closing(ahead(self._pools(pieces, size))) as pools:
            for read in pools:
                pool = _joined([rest, read]) if rest else read
                rows = rng.permutation(len(pool["synthetic"]))
                full = len(rows) // size * size
                for start in range(0, full, size):
                    yield self._tensors(pool, rows[start : start + size])
                # Samples that do not fill a batch are mixed with the next pool.
                rest = {name: values[rows[full:]] for name, values in pool.items()}
        if rest and len(rest["synthetic"]) and not self.drop_last:
            yield self._tensors(rest, np.arange(len(rest["synthetic"])))

    def _pools(self, pieces: Sequence[Piece], size: int) -> Generator[Arrays]:
        """Yield the samples that are shuffled together, whose blocks several threads read."""
        largest = max(source.nbytes for source in self.sources)
        block, reads = pool_shape(size, largest, self.pool_bytes)

        def read(piece: Piece) -> Arrays:
            return self.sources[piece.source].load(piece.block, piece.rows)

        with ThreadPoolExecutor(self.threads, thread_name_prefix="xcvae-block") as threads:
            group: list[Piece] = []
            for number, piece in enumerate(pieces):
                group.append(piece)
                full = sum(one.rows.size for one in group) >= block * reads
                if full or number + 1 == len(pieces):
                    yield _joined(list(threads.map(read, group)))
                    group = []

    def _tensors(self, pool: Arrays, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        found = {name: torch.from_numpy(values[rows]) for name, values in pool.items()}
        if self.batch_size is None:
            return {name: tensor[0] for name, tensor in found.items()}
        return found


class Fields(Dataset[dict[str, torch.Tensor]]):
    """Single fields by number, as ``torch.utils.data.DataLoader`` and its samplers take them.

    The fields of the first source come first, member by member, then those of the next.

    Attributes
    ----------
    sources
        The entries that are read.
    """

    def __init__(self, sources: Sequence[LoaderSource]) -> None:
        self.sources = tuple(sources)
        self._ends = np.cumsum([len(source) for source in self.sources])

    def __len__(self) -> int:
        """Return the number of fields of all sources."""
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Read one field and its conditions; nothing but the chunks that hold it is read."""
        position = range(len(self))[number]  # IndexError beyond the end, which ends an iteration
        source = int(np.searchsorted(self._ends, position, side="right"))
        first = int(self._ends[source - 1]) if source else 0
        found = self.sources[source].one(position - first)
        return {name: torch.from_numpy(values[0:1])[0] for name, values in found.items()}


def loader(
    catalog: str | os.PathLike[str],
    name: str | Mapping[str, float],
    *,
    real: xr.Dataset | str | None = None,
    target: str | None = None,
    conditions: Sequence[str] | None = None,
    model: Model | str | os.PathLike[str] | None = None,
    batch_size: int | None = 16,
    samples: int | None = None,
    drop_last: bool = False,
    threads: int = 2,
    seed: int = 0,
    trust: bool = False,
) -> Loader:
    """Stream entries of a catalog as shuffled batches of torch tensors.

    Stores are read in blocks along their chunks; several blocks are shuffled together while
    threads read the next ones. Only these blocks are in memory.

    Parameters
    ----------
    catalog
        An intake catalog (YAML).
    name
        An entry (``"inner/prior64"`` for one of a catalog in the catalog), ensemble or real
        samples; or several with their weights. ``"real"`` stands for the real samples:
        ``{"real": 1, "prior64": 1}`` mixes half and half.
    real
        The samples that the ensembles were drawn for, a Dataset or the name of an entry. An
        ensemble has the target only; its conditions are those of the real sample of its label.
    target
        The rain variable. Default: that of the entry, or of the model.
    conditions
        Other variables in a batch. Default: none; with ``model``, all that it was trained with.
    model
        A model, the path of one, or a name of `xcvae.models`: values come in its normalised space,
        each variable on its own grid, and variables that the model derives (``coarsen``) are
        derived.
        ``model.scaling.physical(x)`` inverts this. Default: physical values.
    batch_size
        None yields single samples, for a DataLoader that makes the batches.
    samples
        Samples of an epoch. Default: as many as the weights allow without any of them twice.
    drop_last
        Leave out a last batch (of each worker) that is not full.
    threads
        Threads that read blocks, in every worker.
    seed
        Seed of the choice and the order.
    trust
        Open entries with whatever reader they name; see `xcvae.catalog.open_entry`.

    Returns
    -------
    Loader
        A ``torch.utils.data.IterableDataset`` that ends after an epoch. A batch is a dict: under
        the names of target and conditions float32 tensors (batch, y, x), or (batch,) for a number
        per sample, NaN where masked; under ``"synthetic"`` bool (batch,), True for members and for
        samples that `xcvae.augment` has flagged.

    Raises
    ------
    ConfigError
        A weight or a size is out of range, or an epoch has no sample of an entry.
    CatalogError
        The catalog or an entry cannot be opened.
    MismatchError
        Entries are on different grids, or on reversed ones, do not fit the model, or lack samples
        of each other.
    MissingVariableError
        A variable is in none of the Datasets.
    """
    if isinstance(catalog, xr.Dataset):
        raise ConfigError.of(
            "catalog",
            expected="the path of an intake catalog",
            got="a Dataset",
            remedy="List its store first: sample(..., store=..., catalog='catalog.yaml'), or "
            "xcvae.catalog.append(catalog, name, store).",
        )
    check_flags(drop_last=drop_last, trust=trust)
    weights = _weights(name)
    batch_size, samples = _count("batch_size", batch_size), _count("samples", samples)
    threads, seed = _count("threads", threads) or 2, _count("seed", seed, least=0) or 0
    if isinstance(real, str):
        real = catalogs.open_entry(catalog, real, trust=trust)
    elif real is not None:
        check_dataset(real)
    listed = {
        entry: real
        if entry == REAL and real is not None
        else catalogs.open_entry(catalog, entry, trust=trust)
        for entry in weights
    }
    request = _request_of(model, target or target_of(next(iter(listed.values()))), conditions)
    sources = [source_of(entry, ds, real, request) for entry, ds in listed.items()]
    check_alike(sources)
    return Loader(
        sources,
        quotas([sum(source.sizes) for source in sources], list(weights.values()), samples),
        request=request,
        batch_size=batch_size,
        drop_last=drop_last,
        threads=threads,
        seed=seed,
    )


def _weights(name: str | Mapping[str, float]) -> dict[str, float]:
    if isinstance(name, str):
        return {name: 1.0}
    given: object = name
    weights = dict(given) if isinstance(given, Mapping) else {}
    if not weights or not all(_is_weight(one) for one in weights.values()):
        expected = "an entry, or entries with weights above 0 in a dict"
        remedy = "Leave out entries without weight: {'real': 1, 'prior64': 3}."
        raise ConfigError.of("name", expected=expected, got=repr(name), remedy=remedy)
    return weights


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(0 < value < math.inf)


def _count(key: str, value: object, *, least: int = 1) -> int | None:
    remedy = f"Give {key} as an int, or leave it out."
    return None if value is None else whole_number(key, value, least=least, remedy=remedy)


def _request_of(
    model: Model | str | os.PathLike[str] | None, target: str, conditions: Sequence[str] | None
) -> LoaderRequest:
    """Return the variables that are read of each entry, and their units."""
    if model is None:
        return LoaderRequest(target, _names(conditions or (), target))
    known = model if isinstance(model, Model) else load(model)
    units = {known.spec.target: known.spec.units}
    units |= {variable.name: variable.units for variable in known.spec.variables}
    target = known.spec.target
    of_model = tuple(variable.name for variable in known.spec.variables)
    named = of_model if conditions is None else _names(conditions, target)
    for condition in named:
        if condition not in units:
            expected, remedy = (
                "variables that the model was trained with",
                nearest(condition, units),
            )
            raise MissingVariableError.of(
                "conditions", expected=expected, got=repr(condition), remedy=remedy
            )
    return LoaderRequest(target, named, known.spec, known.scaling, units)


def _names(conditions: object, target: str) -> tuple[str, ...]:
    """Return names of conditions, or of one; refuse anything else, and the target."""
    names = tuple(names_of("conditions", conditions))
    if target in names:
        raise ConfigError.of(
            "conditions",
            expected=f"names of other variables than the target '{target}'",
            got=repr(conditions),
            remedy=f"The target is in every batch: batch[{target!r}].",
        )
    return names


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
