"""Rain from block means by a cascade of noise that evolves in time, as in STEPS, through pysteps.

The logarithm of rain is a cascade of scales (bands of wavelengths). Every band evolves by an
autoregressive process of order two, with the correlations that the band has in the training record
at a fixed place. The exponential of the sum is scaled to the known block means, as RainFARM does;
scales above the blocks come from the coarse rain. Nothing is advected: the coarse rain, which is
known at every time, has the motion.

STEPS: Bowler et al. 2006 (doi:10.1256/qj.04.100), Seed et al. 2013 (doi:10.1002/wrcr.20536);
pysteps: Pulkkinen et al. 2019 (doi:10.5194/gmd-12-4185-2019).
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cascade", "available", "fit_cascade"]

Array = NDArray[np.float64]

BANDS = 6
#: Rain below this is as dry (mm h-1): the logarithm needs a floor.
FLOOR = 0.05
#: Steps of the process before the first sample, so that the start is forgotten.
SPIN_UP = 24


def available() -> bool:
    """Return True if pysteps is installed."""
    return find_spec("pysteps") is not None


@dataclass(frozen=True)
class Cascade:
    """Statistics of the bands, longest wavelengths first.

    Attributes
    ----------
    spread
        Standard deviation of each band of the logarithm of rain.
    correlation
        Correlation of each band at one and two steps, (band, 2).
    """

    spread: Array
    correlation: Array

    def draw(
        self, coarse: Array, side: int, members: int, *, seed: int, amplitude: float = 1.0
    ) -> Array:
        """Draw members of consecutive samples.

        Parameters
        ----------
        coarse
            Block means of consecutive samples, (time, y, x).
        side
            Pixels along the side of a block.
        members, seed
            Number of members, and of the noise.
        amplitude
            Factor of the logarithm of the weights.

        Returns
        -------
        array (member, time, y, x)
        """
        shape = (coarse.shape[1] * side, coarse.shape[2] * side)
        bands, process = bands_of(shape), [_coefficients(*pair) for pair in self.correlation]
        rng = np.random.default_rng(seed)
        out = np.empty((members, len(coarse), *shape))
        for member in range(members):
            state = np.zeros((BANDS, 2, *shape))
            for step in range(-SPIN_UP, len(coarse)):
                noise = decomposed(rng.standard_normal(shape), bands)
                noise /= noise.std(axis=(1, 2), keepdims=True)
                state = np.stack(
                    [_advance(*one) for one in zip(state, process, noise, strict=True)]
                )
                if step >= 0:
                    total = np.tensordot(self.spread, state[:, 1], axes=1)
                    out[member, step] = _to_block_means(
                        np.exp(amplitude * total), coarse[step], side
                    )
        return out


def fit_cascade(runs: list[Array]) -> Cascade:
    """Measure the bands of rain in runs of consecutive samples, each (time, y, x) in mm h-1."""
    bands = bands_of(runs[0].shape[1:])
    squares, products, count = np.zeros(BANDS), np.zeros((BANDS, 2, 3)), 0
    for run in runs:
        logs = np.log(np.maximum(run, FLOOR))
        maps = np.stack([decomposed(one - one.mean(), bands) for one in logs])
        squares += (maps**2).mean(axis=(2, 3)).sum(axis=0)
        count += len(maps)
        for lag in (1, 2):
            x, y = maps[:-lag], maps[lag:]
            sums = [(one * other).sum(axis=(0, 2, 3)) for one, other in ((x, y), (x, x), (y, y))]
            products[:, lag - 1] += np.stack(sums, axis=-1)
    correlation = products[..., 0] / np.sqrt(products[..., 1] * products[..., 2])
    return Cascade(np.sqrt(squares / count), correlation)


def bands_of(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the bandpass filters of maps of a shape."""
    return dict(_pysteps("cascade.bandpass_filters").filter_gaussian(shape, BANDS))


def decomposed(field: Array, bands: dict[str, Any]) -> Array:
    """Divide a map into its bands, (band, y, x)."""
    found = _pysteps("cascade.decomposition").decomposition_fft(field, bands)
    return np.asarray(found["cascade_levels"])


def _coefficients(first: float, second: float) -> Array:
    """Return the coefficients of a process of variance 1 with correlations at one and two steps."""
    autoregression = _pysteps("timeseries.autoregression")
    second = float(autoregression.adjust_lag2_corrcoef2(first, second))
    return np.asarray(autoregression.estimate_ar_params_yw([first, second]))


def _advance(state: Array, coefficients: Array, noise: Array) -> Array:
    iterate = _pysteps("timeseries.autoregression").iterate_ar_model
    return np.asarray(iterate(state, coefficients, noise))


def _to_block_means(weights: Array, coarse: Array, side: int) -> Array:
    height, width = coarse.shape
    means = weights.reshape(height, side, width, side).mean(axis=(1, 3))
    return np.asarray(weights * (coarse / means).repeat(side, 0).repeat(side, 1))


def _pysteps(name: str) -> Any:
    from importlib import import_module

    with contextlib.redirect_stdout(io.StringIO()):  # it prints where its settings come from
        return import_module(f"pysteps.{name}")
