"""Memory of a draw: how much there is, how much a map takes, and the tiles that fit."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from xcvae.generator.network.architecture import Architecture

#: Bytes of the members of a draw batch at the seam of tiles, and of the features of tiles that are
#: stored for several members: they grow with the domain, so that they need a limit.
STATE_BYTES, FEATURE_BYTES = 2**28, 2**28
#: Float32 maps of the finest level that a draw has in memory at a time. Measured: 9 to 13 (prior,
#: posterior; all presets), half to two thirds of that in bfloat16.
MAPS = 13
#: Bytes per pixel of the domain for everything else: conditions, noise, members and their copies.
PIXEL_BYTES = 64
#: Sides of tiles, the fastest first. Larger maps leave the caches of a CPU, and in smaller tiles
#: the halos weigh more; up to this side, a domain in one piece is as fast.
SIDES = (1024, 512, 256)
#: Share of the memory that a draw may take.
SHARE = 0.5
#: Bytes to assume where the system does not tell.
UNKNOWN = 4 * 2**30


def available_memory(device: torch.device) -> int:
    """Return the bytes that this process can still allocate on a device.

    On a CPU those of the machine, or of the control group (container, batch job) if they are fewer.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(_machine(Path("/proc/meminfo")), _control_group(Path("/sys/fs/cgroup"))))


def _machine(meminfo: Path) -> int:
    if meminfo.exists():
        rows = (line.split() for line in meminfo.read_text().splitlines())
        kilobytes = {row[0]: int(row[1]) for row in rows}
        return 1024 * kilobytes.get("MemAvailable:", kilobytes["MemTotal:"])
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return UNKNOWN


def _control_group(folder: Path) -> float:
    """Return the bytes that the limit of the control group leaves; infinity without a limit."""
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return int((folder / limit).read_text()) - int((folder / usage).read_text())
        except (OSError, ValueError):  # another version of control groups, or "max"
            continue
    return math.inf


def draw_bytes(size: tuple[int, int], architecture: Architecture) -> int:
    """Estimate the memory of a draw in one piece.

    Parameters
    ----------
    size
        Rows and columns of the map.
    architecture
        Architecture of the model.
    """
    return _network_bytes(size, architecture) + PIXEL_BYTES * math.prod(size)


def _network_bytes(size: tuple[int, int], architecture: Architecture) -> int:
    cells = math.prod(-(-length // architecture.patch) for length in size)
    return MAPS * 4 * cells * architecture.channels[-1]


def choose_tile(
    domain: Mapping[str, int],
    architecture: Architecture,
    *,
    available: float,
    draws: int = 1,
    threads: int = 1,
) -> dict[str, int] | None:
    """Choose the tile in which a domain is drawn fastest within the memory.

    Parameters
    ----------
    domain
        Size of the maps by dim, y first.
    architecture
        Architecture of the model.
    available
        Bytes of memory; half of them are used.
    draws
        Maps that are drawn at a time in one piece.
    threads
        Tiles that are drawn at a time.

    Returns
    -------
    dict or None
        Pixels by dim; None to draw in one piece.

    Examples
    --------
    >>> small = Architecture((64, 64, 48, 32), (8, 8, 4, 4), patch=2)
    >>> choose_tile({"y": 300, "x": 400}, small, available=8e9)
    >>> choose_tile({"y": 3500, "x": 7000}, small, available=16e9, threads=2)
    {'y': 1024, 'x': 1024}
    """
    rows, columns = domain.values()
    budget = SHARE * available
    fits = draws * draw_bytes((rows, columns), architecture) <= budget
    if fits and rows * columns <= SIDES[0] ** 2:
        return None
    fixed = STATE_BYTES + FEATURE_BYTES + PIXEL_BYTES * rows * columns
    for side in SIDES:
        # Windows are wider than tiles, by a quarter of the area or more.
        window = _network_bytes((side * 9 // 8, side * 9 // 8), architecture)
        if fixed + threads * window <= budget:
            break
    if side >= max(rows, columns):
        return None
    return {dim: min(side, length) for dim, length in domain.items()}
