"""Memory of a draw: how much there is, how much a map takes, and the tiles that fit."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from dask.utils import parse_bytes

from xcvae.errors import ConfigError, warn_user
from xcvae.generator.network.architecture import Architecture
from xcvae.generator.network.ladder import Ladder
from xcvae.generator.splitting import SEAM_BYTES

#: Environment variable with the memory that draws may take, such as "6 GB".
LIMIT = "XCVAE_MEMORY"
#: Bytes of the members of a draw batch at the seam of tiles, and as many of the features of tiles
#: that are stored for several members: they grow with the domain, so that they need a limit. And
#: the share that each may have of a limit that is given.
STORED_BYTES, STORED_SHARE = 2**28, 1 / 8
#: Float32 maps of the finest level that a draw has in memory at a time. Measured: 9 to 13 (prior,
#: posterior; all presets), half to two thirds of that in bfloat16.
MAPS = 13
#: Maps of the finest level that the features of all windows take at most: conditions and target,
#: with the levels above and the overlaps of the windows.
STORED_MAPS = 4
#: Bytes per pixel of the domain for everything else: conditions, noise, members and their copies.
PIXEL_BYTES = 64
#: Share of these estimates that every draw takes: those in bfloat16 half of the maps, those in
#: tiles 24 bytes per pixel and more.
LEAST_MAPS, LEAST_PIXEL = 1 / 2, 1 / 4
#: Bytes per pixel of each further field of a draw: itself, and a copy for post-processors.
FIELD_BYTES = 8
#: Sides of tiles, the fastest first. Larger maps leave the caches of a CPU, and in smaller tiles
#: the halos weigh more; up to this side, a domain in one piece is as fast.
SIDES = (1024, 512, 256)
#: Share of the free memory that draws may take.
SHARE = 0.5
#: Bytes to assume where the system does not tell.
UNKNOWN = 4 * 2**30


def memory_limit() -> int | None:
    """Return the bytes that the environment variable XCVAE_MEMORY allows; None without it.

    Raises
    ------
    ConfigError
        The variable is not an amount of memory.
    """
    wanted = os.environ.get(LIMIT)
    if wanted is None:
        return None
    try:
        found = int(parse_bytes(wanted))
    except ValueError:
        found = 0
    if found < 1:
        raise ConfigError.of(
            f"environment variable {LIMIT}",
            expected="an amount of memory",
            got=repr(wanted),
            remedy="Give '6 GB' or '500 MB', or unset it for half of the free memory.",
        )
    return found


def draw_memory(device: torch.device) -> float:
    """Return the bytes that draws may take: those of XCVAE_MEMORY, else half of the free memory."""
    limit = memory_limit()
    return SHARE * available_memory(device) if limit is None else limit


def stored_bytes() -> int:
    """Return the limit of states of members, and of features of tiles, that a draw stores."""
    limit = memory_limit()
    return STORED_BYTES if limit is None else min(STORED_BYTES, int(STORED_SHARE * limit))


def available_memory(device: torch.device) -> int:
    """Return the bytes that this process can still allocate on a device.

    On a CPU those of the machine, or of the control group (container, batch job) if they are fewer.
    On a GPU also what torch keeps of memory that it has used.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
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
    """Return the bytes that the limit of the control group leaves; infinity without a limit.

    Pages of files that were read count as used there, and are given back when memory is needed,
    those that were read twice ("active"), too.
    """
    for limit, usage, statistics, prefix in (
        ("memory.max", "memory.current", "memory.stat", ""),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_",
        ),
    ):
        try:
            left = int((folder / limit).read_text()) - int((folder / usage).read_text())
        except (OSError, ValueError):  # another version of control groups, or "max"
            continue
        with suppress(OSError, ValueError):
            rows = dict(line.split() for line in (folder / statistics).read_text().splitlines())
            left += sum(int(rows.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
        return left
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


def check_room(
    size: tuple[int, int],
    architecture: Architecture,
    device: torch.device,
    *,
    tiled: bool,
    elsewhere: bool = False,
) -> None:
    """Warn of a map that may not fit into memory, and refuse one that cannot.

    A system without memory kills processes, and says nothing.

    Parameters
    ----------
    size
        Rows and columns of the map.
    architecture, device
        Architecture of the model, and its device.
    tiled
        Drawn in tiles.
    elsewhere
        Other machines draw, whose memory is not known here: nothing is refused.

    Raises
    ------
    ConfigError
        The draw takes more than the free memory, or than XCVAE_MEMORY allows, even by the lowest
        estimate.
    """
    free, pixels = memory_limit() or available_memory(device), PIXEL_BYTES * math.prod(size)
    least = LEAST_PIXEL * pixels if tiled else LEAST_MAPS * draw_bytes(size, architecture)
    about = f"{size[0]} by {size[1]} pixels"
    if least > free and not elsewhere:
        raise ConfigError.of(
            f"a map of {about}",
            expected=f"a draw that fits into the free memory, {free / 1e9:.2g} GB",
            got=f"at least {least / 1e9:.2g} GB " + ("in tiles" if tiled else "in one piece"),
            remedy=(
                "Draw parts of the domain, or coarser ones."
                if LEAST_PIXEL * pixels > free
                else "Draw it in tiles: tile='auto'."
            )
            + f" If there is more memory, such as swap, set {LIMIT} to it.",
        )
    needed = draw_bytes(size, architecture)
    if not tiled and needed > free:
        warn_user(
            f"a map of {about} in one piece takes about {needed / 1e9:.2g} GB of memory, and "
            f"there are {free / 1e9:.2g} GB. Draw it in tiles: tile='auto'.",
        )


def draws_at_once(size: tuple[int, int], fields: int, network: Ladder, *, most: int) -> int:
    """Return the number of draw batches that there is memory for at a time on a CPU.

    Parameters
    ----------
    size
        Rows and columns of the maps, drawn in one piece.
    fields
        Fields of a batch.
    network
        The ladder.
    most
        Largest number of batches.
    """
    each = fields * _maps_bytes(size, network.patch, network.head.in_channels)
    return max(1, min(most, int(draw_memory(torch.device("cpu")) // each)))


def _network_bytes(size: tuple[int, int], architecture: Architecture) -> int:
    return _maps_bytes(size, architecture.patch, architecture.channels[-1])


def _maps_bytes(size: tuple[int, int], patch: int, channels: int) -> int:
    cells = math.prod(-(-length // patch) for length in size)
    return MAPS * 4 * cells * channels


def choose_tile(
    domain: Mapping[str, int],
    architecture: Architecture,
    *,
    memory: float,
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
    memory
        Bytes that draws may take, such as those of `draw_memory`.
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
    >>> choose_tile({"y": 300, "x": 400}, small, memory=4e9)
    >>> choose_tile({"y": 3500, "x": 7000}, small, memory=8e9, threads=2)
    {'y': 1024, 'x': 1024}
    """
    rows, columns = domain.values()
    fits = draws * draw_bytes((rows, columns), architecture) <= memory
    if fits and rows * columns <= SIDES[0] ** 2:
        return None
    fixed = 2 * stored_bytes() + PIXEL_BYTES * rows * columns
    for side in SIDES:
        # Windows are wider than tiles, by a quarter of the area or more.
        window = _network_bytes((side * 9 // 8, side * 9 // 8), architecture)
        if fixed + threads * window <= memory:
            break
    if side >= max(rows, columns):
        return None
    return {dim: min(side, length) for dim, length in domain.items()}


def tiled_draws(
    size: tuple[int, int],
    tile: tuple[int, int],
    architecture: Architecture,
    *,
    memory: float,
    most: int,
    fields: int = 1,
) -> int:
    """Return the number of draws in tiles that there is memory for at a time, at least one.

    Parameters
    ----------
    size, tile
        Rows and columns of the maps, and of the tiles.
    architecture
        Architecture of the model.
    memory
        Bytes that draws may take, such as those of `draw_memory`.
    most
        Largest number of draws.
    fields
        Fields of a draw: they stay in memory until the last one is drawn.

    Examples
    --------
    >>> small = Architecture((64, 64, 48, 32), (8, 8, 4, 4), patch=2)
    >>> tiled_draws((1024, 1024), (256, 256), small, memory=4e9, most=4)
    4
    >>> tiled_draws((1024, 1024), (256, 256), small, memory=4e9, most=4, fields=100)
    3
    >>> tiled_draws((3500, 7000), (1024, 1024), small, memory=4e9, most=4)
    1
    """
    finest = _network_bytes(size, architecture) // MAPS
    # Features of windows and states of members; maps of the whole domain at the seam; one window.
    stored = 2 * min(stored_bytes(), STORED_MAPS * finest)
    seam = MAPS * min(SEAM_BYTES, finest // 4)
    window = _network_bytes((tile[0] * 9 // 8, tile[1] * 9 // 8), architecture)
    pixels = math.prod(size)
    each = stored + seam + window + PIXEL_BYTES * pixels + (fields - 1) * FIELD_BYTES * pixels
    return max(1, min(most, int(memory // each)))


def needed_tile(
    size: tuple[int, int], architecture: Architecture, device: torch.device, *, draws: int
) -> tuple[int, int] | None:
    """Return a tile if maps do not fit into memory in one piece, and None if they do.

    Parameters
    ----------
    size
        Rows and columns of the maps.
    architecture, device
        Architecture of the model, and its device.
    draws
        Maps that go through the network together.
    """
    memory = draw_memory(device)
    if draws * draw_bytes(size, architecture) <= memory:
        return None
    domain = dict(zip(("y", "x"), size, strict=True))
    threads = torch.get_num_threads()
    tile = choose_tile(domain, architecture, memory=memory, draws=draws, threads=threads)
    return None if tile is None else (tile["y"], tile["x"])
