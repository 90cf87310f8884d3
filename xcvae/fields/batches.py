"""Samples of a Dataset as tensors for the network, from memory or streamed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from xcvae.errors import ConfigError, MismatchError, warn_user
from xcvae.fields.axes import stretch, stretch_weights
from xcvae.fields.block_means import conserved_condition, repeated
from xcvae.fields.dataspec import DataSpec, VariableSpec
from xcvae.fields.grids import axis_in, grid_size, moved, stretch_known, stretching
from xcvae.fields.prefetch import epochs, streamed
from xcvae.fields.scaling import Scaling
from xcvae.fields.units import to_units

#: Bytes of a tensor up to which it goes to a GPU through pinned memory, which torch does not free.
PINNED_BYTES = 2**28


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; to a GPU while that computes, and the host goes on."""
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.nbytes > PINNED_BYTES:
        return tensor.to(device)
    return _pinned(tensor).to(device, non_blocking=True)


def _pinned(tensor: Tensor) -> Tensor:
    """Copy a tensor to memory that a GPU reads itself; torch keeps it until it was read."""
    return torch.empty_like(tensor, pin_memory=True).copy_(tensor)


@dataclass(frozen=True)
class Batch:
    """Samples as tensors in the normalised space of the model.

    Attributes
    ----------
    c
        Aligned conditions, statics, masks of those with gaps, then mask of the target and
        position maps where the model has them; (batch, channels, y, x).
    pooled
        Values of pooled conditions, (batch, values), each followed by its mask if it has gaps;
        or None.
    x
        Target, (batch, 1, y, x), zero where masked, or None.
    mask
        True where the target is (or would be) valid, (batch, 1, y, x).
    side
        Pixels along a side of the blocks whose means are conserved; 0 for those of the model.
    """

    c: Tensor
    pooled: Tensor | None
    x: Tensor | None
    mask: Tensor
    side: int = 0

    def __len__(self) -> int:
        return len(self.c)

    def _changed(
        self, maps: Callable[[Tensor], Tensor], others: Callable[[Tensor], Tensor] | None = None
    ) -> Batch:
        """Change all maps, and with ``others`` the pooled values."""
        pooled = self.pooled if others is None or self.pooled is None else others(self.pooled)
        x = None if self.x is None else maps(self.x)
        return replace(self, c=maps(self.c), pooled=pooled, x=x, mask=maps(self.mask))

    def crop(self, top: int, left: int, height: int, width: int) -> Batch:
        """Cut the same window out of all maps."""
        return self._changed(lambda maps: maps[..., top : top + height, left : left + width])

    def turned(self, *, rows: bool, columns: bool, transpose: bool) -> Batch:
        """Flip and transpose all maps alike."""
        dims = [dim for dim, flip in ((-2, rows), (-1, columns)) if flip]

        def turn(maps: Tensor) -> Tensor:
            maps = maps.flip(dims) if dims else maps
            return maps.transpose(-1, -2) if transpose else maps

        return self._changed(turn)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Pick samples, in the order given."""
        index = to_device(torch.as_tensor(np.asarray(rows)), self.c.device)

        def pick(tensor: Tensor) -> Tensor:
            return tensor[index]

        return self._changed(pick, pick)

    @staticmethod
    def gather(parts: Sequence[Batch], places: Sequence[tuple[int, int]]) -> Batch:
        """Pick samples out of batches in memory: number of the batch, number in it."""

        def picked(tensors: Sequence[Tensor]) -> Tensor:
            # NumPy copies each sample once; torch would make a tensor of each first.
            arrays = [t.numpy() for t in tensors]
            return torch.from_numpy(np.stack([arrays[n][row] for n, row in places]))

        return Batch._combined(parts, picked)

    @staticmethod
    def joined(parts: Sequence[Batch]) -> Batch:
        """Join batches of the same kind."""
        return parts[0] if len(parts) == 1 else Batch._combined(parts, torch.cat)

    @staticmethod
    def _combined(parts: Sequence[Batch], combine: Callable[[list[Tensor]], Tensor]) -> Batch:
        pooled = [p.pooled for p in parts if p.pooled is not None]
        x = [p.x for p in parts if p.x is not None]
        return replace(
            parts[0],
            c=combine([p.c for p in parts]),
            pooled=combine(pooled) if pooled else None,
            x=combine(x) if x else None,
            mask=combine([p.mask for p in parts]),
        )

    def packed(self) -> Batch:
        """Copy the maps into the memory layout of convolutions: channels last, without gaps."""

        def pack(maps: Tensor) -> Tensor:
            # Always a copy: the strides of a single channel are ambiguous, and compiled code is
            # specialised on strides.
            return maps.clone(memory_format=torch.channels_last)

        x = None if self.x is None else pack(self.x)
        return replace(self, c=pack(self.c), x=x, mask=self.mask.contiguous())

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""

        def move(tensor: Tensor) -> Tensor:
            return to_device(tensor, device)

        return self._changed(move, move)


Maps = NDArray[np.float32]


#: Datasets whose tensors need less than this are stored in memory as tensors.
KEEP_BYTES = 3_000_000_000
#: Number of maps of `position_maps`.
POSITIONS = 14
ALL = slice(None)


class Batches:
    """Samples of a prepared Dataset as tensors.

    Parameters
    ----------
    prepared
        From `xcvae.fields.describe.prepare`; in memory or lazy. Lazy data is read block by block.
    spec, scaling
        Of the model.
    masked
        The model has a mask channel.
    valid
        Where the target is valid, (y, x), for data without the target; None means everywhere.
    blocks
        Side of the blocks whose means the model conserves; their map is the last channel. 0: none.

    Raises
    ------
    MismatchError
        The target is missing, and ``valid`` is of another domain.
    """

    def __init__(
        self,
        prepared: xr.Dataset,
        spec: DataSpec,
        scaling: Scaling,
        *,
        masked: bool = False,
        valid: NDArray[np.bool_] | None = None,
        blocks: int = 0,
    ) -> None:
        self.prepared, self.spec, self.scaling, self.masked = prepared, spec, scaling, masked
        self.size = grid_size(prepared, spec)
        if valid is not None and (valid.shape != self.size or _elsewhere(prepared, spec)):
            raise MismatchError.of(
                "grid",
                expected=f"the model's masked domain of {valid.shape} (y, x)",
                got=f"another one of {self.size}",
                remedy="Keep the target in the Dataset, so that its NaN define the mask.",
            )
        self._valid = valid
        self._positions = position_maps(*self.size) if spec.located else None
        # At a random scale, the conditions are made of the target: see `rescaled`.
        self._given = () if spec.random_scale else spec.variables
        self._weights = {v.name: self._stretch(v) for v in self._given if v.aligned}
        self.conserves = blocks > 0
        whole = self.conserves and not spec.random_scale
        self._blocks = conserved_condition(prepared, spec, self.size, blocks) if whole else None
        self._side = blocks if whole and spec.scales is not None else 0
        self._stored: Batch | None = None

    def __len__(self) -> int:
        return int(self.prepared.sizes[self.spec.sample])

    @property
    def nbytes(self) -> int:
        """Memory that all samples take as tensors."""
        aligned = sum(v.aligned + (v.aligned and v.gaps) for v in self.spec.variables)
        maps = aligned + self.masked + (POSITIONS if self.spec.located else 0) + 2
        return 4 * len(self) * maps * self.size[0] * self.size[1]

    @property
    def pixels(self) -> int:
        """Pixels of a sample."""
        return self.size[0] * self.size[1]

    @property
    def lazy(self) -> bool:
        """True if any variable is backed by Dask."""
        return any(v.chunks is not None for v in self.prepared.variables.values())

    def load(self, indices: Sequence[int] | slice | NDArray[np.int64]) -> Batch:
        """Read samples by position."""
        if self._stored is not None:
            return self._stored.take(np.arange(len(self))[indices])
        part = self.prepared.isel({self.spec.sample: indices}).load()
        x, mask = self._target(part)
        # Only NumPy in this thread: an operation of torch would start threads of its own here,
        # and the threads that train would wait for them at every step.
        maps = [self._map(part, v) for v in self._given if v.aligned]
        aligned = [v for v in self._given if v.aligned]
        for number, variable in enumerate(aligned):
            if variable.gaps:
                maps[number], known = filled(maps[number])
                maps.append(known)
        if self.masked:
            maps.append(mask.astype(np.float32))
        if self._positions is not None:
            maps.append(np.broadcast_to(self._positions, (len(mask), *self._positions.shape)))
        if self._blocks is not None:
            coarse = to_units(part[self._blocks.name].astype(np.float32), self.spec.units)
            normal = self.scaling.normalise(coarse)
            maps.append(repeated(normal, self.size)[:, None])
        none = np.empty((len(mask), 0, *self.size), np.float32)
        single = len(maps) == 1 and maps[0].flags.writeable  # needs no copy
        c = maps[0] if single else np.concatenate([none, *maps], axis=1)
        return Batch(
            torch.from_numpy(c),
            self._pooled(part),
            None if x is None else torch.from_numpy(x),
            torch.from_numpy(mask),
            self._side,
        )

    def views(self) -> Sequence[Batches | ScaledView]:
        """Return the samples at scales that are spread over the ranges; themselves without."""
        scales = self.spec.scales
        if scales is None or not scales.open:
            return [self]
        return [ScaledView(self, *pair) for pair in scales.spread_pairs(self.size)]

    def keep(self) -> None:
        """Store all samples as tensors, if the Dataset is in memory and small."""
        if not self.lazy and self.nbytes < KEEP_BYTES:
            self._stored = self.load(slice(None))

    def move(self, device: torch.device) -> None:
        """Move the stored samples to a device, if they fit into half of its free memory."""
        fits = device.type == "cuda" and self.nbytes < torch.cuda.mem_get_info(device)[0] / 2
        if self._stored is not None and fits:
            self._stored = self._stored.to(device)

    def shuffled(
        self,
        size: int,
        rng: np.random.Generator,
        heavy_share: float = 0.0,
        part: slice = ALL,
        past: int = 0,
        *,
        pool_bytes: int | None = None,
    ) -> Generator[Batch]:
        """Yield batches of ``size`` in random order, without end.

        Data in memory is shuffled as a whole. Lazy data is read in contiguous blocks, several of
        which are shuffled together while a thread reads the next ones.

        Parameters
        ----------
        size, rng
            Samples per batch, and the order.
        heavy_share
            Share of every batch that comes from the heaviest tenth of the samples.
        part
            Rows of every batch that are yielded.
        past
            Number of batches to skip: the stream goes on behind them, and does not read them.
        pool_bytes
            Memory of the lazy samples that are shuffled together; see `xcvae.fields.prefetch`.

        Raises
        ------
        ConfigError
            ``heavy_share`` is requested for lazy data.
        """
        if self.lazy and heavy_share:
            raise ConfigError.of(
                "fit.heavy_share",
                expected="data in memory",
                got="lazy data, which is read in blocks",
                remedy="Load the Dataset, or select heavy samples with xcvae.heavy.",
            )
        if self.lazy:
            yield from streamed(
                self.load,
                Batch.gather,
                count=len(self),
                size=size,
                sample_bytes=self.nbytes // len(self),
                rng=rng,
                part=part,
                past=past,
                pool_bytes=pool_bytes,
            )
            return
        chosen = round(heavy_share * size)
        heavy = self._heaviest() if chosen else np.empty(0, np.int64)
        for rows in islice(epochs(len(self), size, rng, chosen, heavy), past, None):
            yield self.load(rows[part])

    def _heaviest(self) -> NDArray[np.int64]:
        """Return positions of the tenth of the samples with the most rain, at least one."""
        target = self.prepared[self.spec.target]
        amounts = target.mean([self.spec.y, self.spec.x]).fillna(-1.0).values
        return np.argsort(amounts)[-max(1, len(self) // 10) :]

    def _stretch(self, variable: VariableSpec) -> tuple[Maps, Maps] | None:
        if not variable.stretched:
            return None
        return stretching(self.prepared, variable, self.spec, self.size)

    def _target(self, part: xr.Dataset) -> tuple[Maps | None, NDArray[np.bool_]]:
        count = part.sizes[self.spec.sample]
        if self.spec.target not in part:
            valid = np.ones(self.size, bool) if self._valid is None else self._valid
            return None, np.broadcast_to(valid, (count, 1, *self.size)).copy()
        field = part[self.spec.target]
        mask = np.isfinite(field.values)[:, None]
        x = self.scaling.normalise(field)[:, None]
        np.copyto(x, 0.0, where=~mask)
        return x, mask

    def _map(self, part: xr.Dataset, variable: VariableSpec) -> Maps:
        field = part[variable.name]
        weights = self._weights[variable.name]
        if weights is not None:
            rows, columns = weights
            values = np.asarray(field.values, np.float32)
            values = (stretch_known if variable.gaps else stretch)(values, rows, columns)
            # Stretched in physical units, so that the mass between block centres is conserved.
            field = xr.DataArray(values, dims=(self.spec.sample, "y", "x"), attrs=field.attrs)
        maps: Maps = self.scaling.normalise(field, variable.name)
        if not variable.sampled:
            maps = np.broadcast_to(maps, (part.sizes[self.spec.sample], *maps.shape))
        return maps[:, None]

    def _pooled(self, part: xr.Dataset) -> Tensor | None:
        flat: list[Maps] = []
        for variable in self._given:
            if variable.pooled:
                values = self.scaling.normalise(part[variable.name], variable.name)
                maps: Maps = values.reshape(len(values), -1)
                flat += filled(maps) if variable.gaps else [maps]
        scales = self.spec.scales
        if scales is not None and scales.fixed is not None:
            numbers = np.asarray(scales.numbers(scales.fixed), np.float32)
            flat.append(np.broadcast_to(numbers, (part.sizes[self.spec.sample], len(numbers))))
        return torch.from_numpy(np.concatenate(flat, axis=1)) if flat else None


def filled(values: Maps) -> tuple[Maps, Maps]:
    """Fill gaps of normalised values; the second result is 1 where values are known, else 0.

    They are filled with zero: rain with dry, all else with the mean of the training data.
    """
    known = np.isfinite(values)
    return np.where(known, values, np.float32(0.0)), known.astype(np.float32)


@dataclass(frozen=True)
class ScaledView:
    """Samples of a training at random scales, at one factor and pixel size.

    Attributes
    ----------
    source
        The samples, with the target alone.
    factor, multiple
        Factor of the block means, and pixels of the record along a side of a pixel.
    """

    source: Batches
    factor: int
    multiple: int

    def __len__(self) -> int:
        return len(self.source)

    @property
    def pixels(self) -> int:
        """Pixels of a sample."""
        return self.source.pixels // self.multiple**2

    def views(self) -> Sequence[Batches | ScaledView]:
        """Return the samples at this scale alone."""
        return [self]

    def load(self, indices: Sequence[int] | slice | NDArray[np.int64]) -> Batch:
        """Read samples by position."""
        source = self.source
        batch = source.load(indices)
        return rescaled(
            batch,
            source.spec,
            source.scaling,
            self.factor,
            self.multiple,
            conserves=source.conserves,
        )


def rescaled(
    batch: Batch,
    spec: DataSpec,
    scaling: Scaling,
    factor: int,
    multiple: int,
    *,
    conserves: bool,
    offset: tuple[int, int] = (0, 0),
    corner: tuple[int, int] = (0, 0),
) -> Batch:
    """Coarsen a batch of targets, and derive its condition by block means.

    Parameters
    ----------
    batch
        With the target alone, without missing pixels.
    spec, scaling
        Of the model; ``spec.scales`` gives the numbers for the network.
    factor
        Pixels along a side of a block, of the pixels that result.
    multiple
        Pixels of the batch along a side of a pixel that results.
    conserves
        The model conserves block means: their map is the last channel.
    offset, corner
        Pixels of the batch, and then pixels that result, left out at the low edges: where the
        first pixel and the first block begin.

    Returns
    -------
    Batch
        Of whole blocks.
    """
    assert batch.x is not None
    assert spec.scales is not None
    rain = scaling.physical(batch.x)
    if multiple > 1:
        rain = F.avg_pool2d(rain[..., offset[0] :, offset[1] :], multiple)
    rain = rain[..., corner[0] :, corner[1] :]
    rows, columns = rain.shape[-2] // factor, rain.shape[-1] // factor
    rain = rain[..., : rows * factor, : columns * factor]
    means = F.avg_pool2d(rain, factor)
    down, across = (
        to_device(torch.from_numpy(stretch_weights(None, n, None, n * factor)), rain.device)
        for n in (rows, columns)
    )
    maps = [rain, down @ means @ across.T]
    if conserves:
        maps.append(means.repeat_interleave(factor, -2).repeat_interleave(factor, -1))
    normal = _normalised(torch.cat(maps, dim=1), scaling)
    numbers = to_device(torch.tensor(spec.scales.numbers(factor, multiple)), rain.device)
    return Batch(
        c=normal[:, 1:],
        pooled=numbers.expand(len(batch), -1),
        x=normal[:, :1],
        mask=torch.ones_like(rain, dtype=torch.bool),
        side=factor,
    )


def _normalised(rain: Tensor, scaling: Scaling) -> Tensor:
    """Normalise physical rain on the device of the batch, as `RainScaling.normalise` does."""
    return torch.log1p(rain / scaling.target.eps) / scaling.target.divisor


def position_maps(height: int, width: int) -> Maps:
    """Return maps of the position of pixels: y, x in [-1, 1], and waves of three lengths."""
    y = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width)[None].expand(height, width)
    maps = [y, x]
    for octave in range(3):
        for axis in (y, x):
            angle = torch.pi * 2**octave * axis
            maps += [torch.sin(angle), torch.cos(angle)]
    return torch.stack(maps).numpy()


def unmask_unobserved(
    prepared: xr.Dataset, spec: DataSpec, valid: NDArray[np.bool_] | None
) -> xr.Dataset:
    """Return samples for the prior, those without any observation with the mask of the training.

    A target that is NaN throughout a sample is not a mask but a missing observation (a day to
    come). Zeros take its place; they say where a network draws, and are no observation. Where the
    condition is derived from the target, nothing is known of the sample: it stays masked.

    Parameters
    ----------
    prepared
        From `xcvae.fields.describe.prepare`; lazy targets stay lazy.
    spec
        Description of the data.
    valid
        Where the target was valid in the training, (y, x); None means everywhere.
    """
    target = prepared.get(spec.target)
    if target is None or target.dtype.kind != "f" or spec.coarsen is not None:
        return prepared
    observed = target.notnull().any((spec.y, spec.x))
    if observed.variable._in_memory and bool(observed.all()):
        return prepared
    if valid is None:
        valid = np.ones(grid_size(prepared, spec), bool)
    elif valid.shape != grid_size(prepared, spec) or _elsewhere(prepared, spec):
        return prepared  # the mask of another domain
    zero = np.where(valid, 0, np.nan).astype(target.dtype)
    filled = target.where(observed, xr.DataArray(zero, dims=(spec.y, spec.x)))
    return prepared.assign({spec.target: filled.transpose(*target.dims)})


def warn_of_unobserved(prepared: xr.Dataset, spec: DataSpec) -> None:
    """Warn of samples in memory whose condition would be derived from a missing observation."""
    target = prepared.get(spec.target)
    if spec.coarsen is None or target is None or not target.variable._in_memory:
        return
    missing = int(target.isnull().all((spec.y, spec.x)).sum())
    if missing:
        warn_user(
            f"{spec.target}: no observation in {missing} samples, from which {spec.derived!r} "
            "would be derived; their members are NaN. Draw them with a Dataset that has "
            f"{spec.derived!r}, and not {spec.target!r}.",
        )


def _elsewhere(prepared: xr.Dataset, spec: DataSpec) -> bool:
    return any(moved(axis_in(prepared, dim), spec.axis(dim)) for dim in (spec.y, spec.x))
