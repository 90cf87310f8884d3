"""Seconds of calls: one call, several sides in turn, and fields per second of drawing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["fields_per_second", "interleaved_seconds", "processor_clock", "seconds_of"]

Clock = Callable[[], float]


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def processor_clock(device: torch.device) -> Clock:
    """Return the clock of the processor, or on a GPU, whose work it cannot see, of the wall."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def seconds_of(
    call: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter
) -> float:
    """Time a call, including the work that it leaves to the device."""
    synchronize(device)
    start = clock()
    call()
    synchronize(device)
    return clock() - start


def interleaved_seconds(
    sides: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int,
    seconds: float = 0.0,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Time several sides in turn, so that all meet the same machine.

    Parameters
    ----------
    sides
        What to call, by name. The first of a round is the last of the next one, because caches
        that are warm favour the later side.
    device
        Synchronized before and after each call.
    rounds, seconds
        At least so many rounds, and at least for so long.
    warm_up
        Rounds before these that are not counted.

    Returns
    -------
    dict
        Seconds of every call, by name.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up):
        for name in sorted(sides, reverse=bool(turn % 2)):
            sides[name]()
    stop, turn = time.perf_counter() + seconds, warm_up
    while turn < warm_up + rounds or time.perf_counter() < stop:
        for name in sorted(sides, reverse=bool(turn % 2)):
            found[name].append(seconds_of(sides[name], device))
        turn += 1
    return found


def fields_per_second(
    draw: Callable[[int], object],
    sizes: Sequence[int],
    device: torch.device,
    *,
    seconds: float = 4.0,
    most: int = 15,
) -> dict[str, Any]:
    """Time batches of several sizes; the best median counts.

    Parameters
    ----------
    draw
        Draws so many fields and leaves them on the device.
    sizes
        Batch sizes to try.
    device
        Synchronized before and after each batch.
    seconds, most
        Time for a size, after a first batch that warms up, and most batches of it; at least one
        is timed.
    """
    import torch

    best: dict[str, Any] = {"value": 0.0}
    for size in sizes:
        times: list[float] = []
        try:
            draw(size)
            end = time.perf_counter() + seconds
            while len(times) < most and (not times or time.perf_counter() < end):
                times.append(seconds_of(lambda size=size: draw(size), device))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        value = size / statistics.median(times)
        if value > best["value"]:
            best = {"value": value, "batch": size, "repeats": len(times)}
    return best
