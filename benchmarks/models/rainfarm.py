"""RainFARM through pysteps: noise with a power-law spectrum, scaled to the known block means.

Rebora et al. 2006 (doi:10.1175/JHM517.1), D'Onofrio et al. 2014 (doi:10.1175/JHM-D-13-096.1);
pysteps: Pulkkinen et al. 2019 (doi:10.5194/gmd-12-4185-2019).
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from benchmarks.harness.record_splits import Split
from benchmarks.models.drawing import fair_crps

__all__ = ["available", "choose", "downscale_split", "workers"]

Map = Callable[..., Any]

#: Slopes of the power spectrum that are tried, None for each field's own, and kernels.
SLOPES = (None, 1.5, 2.0, 2.5, 3.0)
KERNELS = (None, "gaussian")
TRIED, TRIED_MEMBERS = 32, 8


def available() -> bool:
    """Return True if pysteps is installed."""
    return find_spec("pysteps") is not None


@contextlib.contextmanager
def workers(count: int) -> Iterator[Map]:
    """Yield a ``map`` over so many processes; 0 stays in this one."""
    if count == 0:
        yield map
        return
    # Spawned, not forked: this process has threads, and perhaps a GPU.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context)
    try:
        yield functools.partial(pool.map, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def downscale_split(
    split: Split, members: int, *, seed: int, each: Map, how: dict[str, Any]
) -> np.ndarray:
    """Draw members of every sample.

    Parameters
    ----------
    split, members
        The samples, and the number of members of each.
    seed
        Of the noise.
    each
        From `workers`.
    how
        ``alpha`` and ``kernel_type`` of `pysteps.downscaling.rainfarm.downscale`.

    Returns
    -------
    array (realization, sample, y, x)
        In mm h-1.
    """
    fields = split.coarse.double().numpy()
    tasks = [(fields[i], members, split.side, (seed, i), how) for i in range(len(fields))]
    return np.stack(list(each(_sample, tasks)), axis=1)


def choose(split: Split, *, seed: int, each: Map) -> tuple[dict[str, Any], list[Any]]:
    """Choose slope and kernel by the CRPS of validation samples; return all tried ones too."""
    split = split.take(split.spaced(TRIED))
    tried = []
    for alpha, kernel in itertools.product(SLOPES, KERNELS):
        how = {"alpha": alpha, "kernel_type": kernel}
        members = downscale_split(split, TRIED_MEMBERS, seed=seed, each=each, how=how)
        tried.append({**how, "crps": fair_crps(torch.from_numpy(members), split.fine)})
    best = min(tried, key=lambda one: one["crps"])
    return {key: best[key] for key in ("alpha", "kernel_type")}, tried


def _sample(task: tuple[np.ndarray, int, int, tuple[int, int], dict[str, Any]]) -> np.ndarray:
    """Draw all members of one sample."""
    coarse, members, side, (seed, number), how = task
    with contextlib.redirect_stdout(io.StringIO()):  # pysteps prints where its settings come from
        from pysteps.downscaling.rainfarm import downscale
    shape = (members, coarse.shape[0] * side, coarse.shape[1] * side)
    out = np.zeros(shape, np.float32)
    if not coarse.any():
        return out
    for member in range(members):
        # pysteps knows no other source of random numbers.
        np.random.seed((seed * 7_919 + number * 1_009 + member) % 2**32)  # noqa: NPY002
        rain = downscale(coarse, ds_factor=side, **how)
        out[member] = np.nan_to_num(rain, nan=0.0, posinf=0.0)
    return out
