"""Normal deviates as tensors, computed on the device that uses them."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from xcvae.fields.batches import to_device
from xcvae.generator.noise.address import Address, Window, address_words
from xcvae.generator.noise.philox_numpy import host_maps
from xcvae.generator.noise.philox_torch import tensor_normals
from xcvae.generator.noise.time_axis import TimeAxis

Make = Callable[[Tensor, Window], Tensor]
#: A knot of a member in a window: label, (seed, realization, mode, attempt), window and device.
_Key = tuple[str, tuple[int, int, str, int], tuple[int | str, ...]]


def normal_maps(
    addresses: Sequence[Address],
    windows: Sequence[Window],
    *,
    device: torch.device,
    axes: Sequence[TimeAxis | None] | None = None,
) -> list[Tensor]:
    """Deviates of several windows for a batch of addresses.

    Parameters
    ----------
    addresses
        One per member of the batch.
    windows
        Levels or parts of levels.
    device
        Device that computes the deviates.
    axes
        Time axis of every level of the ladder, coarsest first; None for levels, or a ladder,
        whose deviates depend on the label. With axes, addresses have times.

    Returns
    -------
    list of float32 tensors (len(addresses), *window.shape)
        The values do not depend on the device.
    """
    axis_of = [None if axes is None else axes[window.level] for window in windows]
    labelled = [window for window, axis in zip(windows, axis_of, strict=True) if axis is None]
    by_label = iter(_labelled_maps(addresses, labelled, device))
    return [
        next(by_label) if axis is None else _evolving_map(addresses, window, axis, device)
        for window, axis in zip(windows, axis_of, strict=True)
    ]


def _labelled_maps(
    addresses: Sequence[Address], windows: Sequence[Window], device: torch.device
) -> list[Tensor]:
    """Compute deviates that depend on nothing but the address."""
    if device.type == "cpu":
        # Each address once: draw batches are padded with copies, and all members of a storm share
        # the deviates that rank its latents.
        rows = {address: row for row, address in enumerate(dict.fromkeys(addresses))}
        maps = host_maps(list(rows), windows)
        if len(rows) < len(addresses):
            order = [rows[address] for address in addresses]
            maps = [values[order] for values in maps]
        return [torch.from_numpy(values) for values in maps]
    return maps_of(words_on(device, addresses), windows)


def words_on(device: torch.device, addresses: Sequence[Address]) -> Tensor:
    """Return the words of addresses on a device other than the CPU, int64 (addresses, 4)."""
    return to_device(torch.from_numpy(address_words(addresses).astype("int64")), device)


def maps_of(words: Tensor, windows: Sequence[Window]) -> list[Tensor]:
    """Compute the deviates of addresses from their words, on the device of these."""
    make = (_kernel(words.device) if words.device.type == "cuda" else None) or tensor_normals
    return [make(words, window) for window in windows]


def _evolving_map(
    addresses: Sequence[Address], window: Window, axis: TimeAxis, device: torch.device
) -> Tensor:
    """Sum the deviates of the knots around the time of every address."""
    knots: dict[_Key, int] = {}
    rows, factors = [], []
    # Tuples, not addresses: a batch has hundreds of knots, most of them in the cache.
    place = (window.level, *window.shape, *window.origin, str(device))
    for address in addresses:
        assert address.time is not None
        found = axis.knots(address.time)
        member = (address.seed, address.realization, address.mode, address.attempt)
        rows.append([knots.setdefault((label, member, place), len(knots)) for label, _ in found])
        factors.append([weight for _, weight in found])
    maps = _knot_maps(list(knots), window, device)
    weights = to_device(torch.tensor(factors), device)
    total = torch.zeros(len(addresses), *window.shape, device=device)
    # Knot by knot, and product and sum in calls of their own, which are not fused: the order and
    # the roundings, and with them the bits, are those of any batch on any device.
    for slot in range(weights.shape[1]):
        part = torch.stack([maps[row[slot]] for row in rows])
        total += part.mul_(weights[:, slot, None, None, None])
    return total


def _knot_maps(keys: Sequence[_Key], window: Window, device: torch.device) -> list[Tensor]:
    """Return the deviates of knots, each of the window's shape; neighbouring times share them."""
    found = _cache.get(keys)
    missing = [row for row, maps in enumerate(found) if maps is None]
    if missing:
        unknown = [
            Address(seed, label, realization, mode, attempt)
            for label, (seed, realization, mode, attempt), _ in (keys[row] for row in missing)
        ]
        (made,) = _labelled_maps(unknown, [window], device)
        for row, maps in zip(missing, made, strict=True):
            # A copy: a view would keep the maps of all knots in memory.
            found[row] = maps.clone()
            _cache.put(keys[row], found[row])
    return found


class _KnotCache:
    """The deviates of the knots used last, up to a number of bytes; one per process."""

    def __init__(self, size: int) -> None:
        self.size, self.used = size, 0
        self._maps: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, keys: Sequence[Hashable]) -> list[Any]:
        with self._lock:
            found = [self._maps.get(key) for key in keys]
            for key, maps in zip(keys, found, strict=True):
                if maps is not None:
                    self._maps.move_to_end(key)
            return found

    def put(self, key: Hashable, maps: Tensor) -> None:
        with self._lock:
            if key in self._maps:
                return
            self._maps[key] = maps
            self.used += maps.nbytes
            while self.used > self.size:
                self.used -= self._maps.popitem(last=False)[1].nbytes


_cache = _KnotCache(128 * 2**20)


def backend(device: torch.device) -> Literal["numpy", "triton", "torch"]:
    """Return the implementation for a device; "torch" is slow but works on any."""
    if device.type == "cpu":
        return "numpy"
    return "triton" if device.type == "cuda" and _kernel(device) else "torch"


@functools.cache
def _kernel(device: torch.device) -> Make | None:
    """Return the fused kernel if it compiles here and equals `tensor_normals`, else None."""
    windows = [Window(0, (3, 5, 7)), Window(4, (2, 30, 70), (29, 2**31))]
    words = torch.from_numpy(
        address_words([Address(seed, "", 2**32 - 1, "prior") for seed in range(9)]).astype("int64")
    ).to(device)
    try:
        from xcvae.generator.noise.philox_triton import fused_normals

        same = all(torch.equal(fused_normals(words, w), tensor_normals(words, w)) for w in windows)
    except torch.cuda.OutOfMemoryError:
        raise  # which says nothing about the kernel, and its result is kept
    except Exception:  # noqa: BLE001 - Triton or a C compiler may be missing in many ways
        return None
    return fused_normals if same else None
