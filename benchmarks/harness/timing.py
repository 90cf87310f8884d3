"""Fields per second of bare drawing: noise and network, on the device, nothing copied."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["rate"]


def rate(
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
        Waited for before and after.
    seconds, most
        Time for a size, after a first batch that warms up, and most batches of it; at least one
        is timed.
    """
    best: dict[str, Any] = {"value": 0.0}
    for size in sizes:
        try:
            draw(size)
            _wait(device)
            times = _times(draw, size, device, seconds, most)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        value = size / statistics.median(times)
        if value > best["value"]:
            best = {"value": value, "batch": size, "repeats": len(times)}
    return best


def _times(
    draw: Callable[[int], object], size: int, device: torch.device, seconds: float, most: int
) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < most and (not times or time.perf_counter() < end):
        start = time.perf_counter()
        draw(size)
        _wait(device)
        times.append(time.perf_counter() - start)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
