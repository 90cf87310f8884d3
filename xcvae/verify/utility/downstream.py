"""A small super-resolution network of rain, which synthetic storms are to improve.

It represents common downscaling networks, after SRDRN (Wang et al. 2021,
https://doi.org/10.1029/2020WR029308): residual blocks on the coarse grid, then sub-pixel upsampling
(Shi et al. 2016, https://arxiv.org/abs/1609.05158), here added to the stretched condition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from xcvae.errors import ConfigError, nearest

#: Variants: the median, a higher quantile, which prefers too much rain to too little, and several
#: quantiles of one network, after Q-SRDRN (https://arxiv.org/abs/2605.12762).
LOSSES = ("l1", "quantile", "heads")
#: Maps that are predicted at a time.
BATCH = 16


@dataclass(frozen=True)
class Settings:
    """The downstream network and its training, the same for every recipe.

    Attributes
    ----------
    steps, batch_size, learning_rate
        Of Adam; the rate falls to zero along a cosine.
    crop
        Side of the training windows in fine pixels; rounded down to whole coarse pixels.
    channels, blocks
        Feature maps and residual blocks on the coarse grid; half the maps with each step up, not
        below 8.
    quantile
        Level of the loss ``"quantile"``.
    heads
        Levels of the loss ``"heads"``, in rising order.
    """

    steps: int = 1000
    batch_size: int = 6
    learning_rate: float = 4e-3
    crop: int = 72
    channels: int = 16
    blocks: int = 3
    quantile: float = 0.75
    heads: tuple[float, ...] = (0.5, 0.95, 0.99, 0.999)

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> Settings:
        """Check the given settings and add the defaults.

        Raises
        ------
        ConfigError
            A key is unknown, or a value out of range.
        """
        valid = [field.name for field in fields(cls)]
        for key, value in (options or {}).items():
            if key not in valid:
                raise ConfigError(f"network: unknown key '{key}'. {nearest(key, valid)}")
            share = key in ("quantile", "heads")
            values = tuple(value) if key == "heads" else (value,)
            if not all(0 < one < (1 if share else float("inf")) for one in values) or not values:
                raise ConfigError.of(
                    f"network.{key}",
                    expected="a share between 0 and 1" if share else "more than 0",
                    got=repr(value),
                    remedy="Leave it out for the default.",
                )
        given = dict(options or {})
        if "heads" in given:
            given["heads"] = tuple(sorted(map(float, given["heads"])))
        return cls(**given)

    def levels(self, loss: str) -> tuple[float, ...]:
        """Return the quantiles that a network with a loss predicts."""
        return {"l1": (0.5,), "quantile": (self.quantile,), "heads": self.heads}[loss]

    def students(self, loss: str) -> dict[str, float]:
        """Return the predictions of a network that are scored: name, and level of the tail error.

        The single quantile is scored by the absolute error, as a forecast of the amount.

        Examples
        --------
        >>> Settings().students("heads")
        {'heads P50': 0.5, 'heads P95': 0.95, 'heads P99': 0.99, 'heads P99.9': 0.999}
        """
        if loss == "heads":
            return {f"heads P{100 * level:g}": level for level in self.heads}
        return {loss: 0.5}


@dataclass(frozen=True, eq=False)
class Pool:
    """Pairs of fields in the network's space, and their share of training samples.

    Attributes
    ----------
    coarse, fine
        Dims (sample, y, x); a coarse pixel covers a whole number of fine ones.
    share
        Probability that a sample of a batch is from this pool.
    """

    coarse: NDArray[np.float32]
    fine: NDArray[np.float32]
    share: float


def _coarse_convolution(inward: int, outward: int) -> nn.Conv2d:
    # Windows are few coarse pixels wide: zero padding would teach the network the border.
    return nn.Conv2d(inward, outward, 3, padding=1, padding_mode="replicate")


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _coarse_convolution(channels, channels),
            nn.PReLU(),
            _coarse_convolution(channels, channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = self.layers(features)
        return features + added


class SuperResolution(nn.Module):
    """Network from coarse maps (n, 1, Y, X) to fine ones (n, heads, Y * factor, X * factor).

    Parameters
    ----------
    factor
        Fine pixels along a side of a coarse one.
    channels, blocks
        Feature maps, and residual blocks.
    heads
        Number of quantiles.
    """

    def __init__(self, factor: int, channels: int, blocks: int, heads: int = 1) -> None:
        super().__init__()
        self.factor = factor
        self.first = nn.Sequential(_coarse_convolution(1, channels), nn.PReLU())
        self.body = nn.Sequential(*(_Residual(channels) for _ in range(blocks)))
        ups: list[nn.Module] = []
        for prime in _primes(factor):
            # Fewer features on finer maps, where most of the computing time goes.
            fewer = max(min(channels, 8), channels // 2)
            ups += [nn.Conv2d(channels, fewer * prime**2, 3, padding=1)]
            ups += [nn.PixelShuffle(prime), nn.PReLU()]
            channels = fewer
        self.up = nn.Sequential(*ups)
        self.last = nn.Conv2d(channels, heads, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # the first output is nearly the interpolated condition

    def forward(self, coarse: Tensor) -> Tensor:
        """Return fine maps."""
        features = self.first(coarse)
        residual: Tensor = self.last(self.up(features + self.body(features)))
        interpolated = F.interpolate(
            coarse, scale_factor=self.factor, mode="bilinear", align_corners=False
        )
        return interpolated + residual


def train_network(
    pools: Sequence[Pool],
    *,
    factor: int,
    loss: str,
    settings: Settings,
    seed: int,
    device: torch.device,
) -> SuperResolution:
    """Train a network on a mix of pairs.

    Two mixes with the same first pool and seed share the initial weights, windows, orientations,
    and the real samples at each position of a batch before others replace them.

    Parameters
    ----------
    pools
        The real pairs first; they fill the shares that the others leave.
    factor
        Fine pixels along a side of a coarse one.
    loss
        One of `LOSSES`.
    settings
        Settings of network and training.
    seed
        Seed of weights and batches.
    device
        Device to train on.
    """
    heads = len(settings.levels(loss))
    network = initial_network(factor, settings, seed, heads).to(device)
    return fit_network(network, pools, loss, settings, np.random.default_rng(seed))


def initial_network(factor: int, settings: Settings, seed: int, heads: int = 1) -> SuperResolution:
    """Return a network with random weights, without touching torch's global generators."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds GPUs, too
        return SuperResolution(factor, settings.channels, settings.blocks, heads)


def fit_network(
    network: SuperResolution,
    pools: Sequence[Pool],
    loss: str,
    settings: Settings,
    rng: np.random.Generator,
) -> SuperResolution:
    """Train a network in place, on its device, with batches drawn by ``rng``."""
    device = next(network.parameters()).device
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    level = torch.tensor(settings.levels(loss), device=device)[:, None, None]
    for _ in range(settings.steps):
        coarse, fine = (torch.from_numpy(a).to(device) for a in draw_batch(pools, settings, rng))
        error = fine - network(coarse)
        value = torch.maximum(level * error, (level - 1.0) * error).mean()  # pinball loss
        optimiser.zero_grad()
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def predict(network: SuperResolution, coarse: NDArray[np.float32]) -> Tensor:
    """Return fine maps of coarse ones, (head, sample, y, x), in the network's space, on the CPU.

    Quantiles are sorted pixel by pixel, so that they do not cross.
    """
    device = next(network.parameters()).device
    maps = torch.from_numpy(coarse)[:, None]
    parts = [maps[start : start + BATCH] for start in range(0, len(maps), BATCH)]
    found = torch.cat([network(part.to(device)).cpu() for part in parts])
    return found.sort(dim=1).values.movedim(1, 0)


def _primes(number: int) -> list[int]:
    """Return the prime factors, the largest first: upsampling is cheapest on small maps."""
    found = []
    for prime in range(2, number + 1):
        while number % prime == 0:
            found.append(prime)
            number //= prime
    return found[::-1]


def draw_batch(
    pools: Sequence[Pool], settings: Settings, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw coarse and fine windows (sample, 1, y, x), in one of eight orientations each."""
    size = settings.batch_size
    _, height, width = pools[0].coarse.shape
    factor = pools[0].fine.shape[1] // height
    side = min(max(1, settings.crop // factor), height, width)
    # The same numbers are drawn for every mix, so that mixes differ in their fields only.
    drawn = rng.random((5, size))
    tops = (drawn[0] * (height - side + 1)).astype(int)
    lefts = (drawn[1] * (width - side + 1)).astype(int)
    edges = np.cumsum([pool.share for pool in pools[1:]])
    chosen = np.searchsorted(edges, drawn[2], side="right") + 1
    chosen[chosen == len(pools)] = 0
    coarse: list[NDArray[np.float32]] = []
    fine: list[NDArray[np.float32]] = []
    for i in range(size):
        pool = pools[chosen[i]]
        row = int(drawn[3, i] * len(pool.fine))
        top, left = int(tops[i]), int(lefts[i])
        orientation = int(drawn[4, i] * 8)
        for values, scale, batch in ((pool.coarse, 1, coarse), (pool.fine, factor, fine)):
            window = values[
                row, top * scale : (top + side) * scale, left * scale : (left + side) * scale
            ]
            batch.append(_oriented(window, orientation))
    return np.stack(coarse)[:, None], np.stack(fine)[:, None]


def _oriented(window: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Return a square in one of its eight orientations."""
    if orientation & 1:
        window = window[::-1]
    if orientation & 2:
        window = window[:, ::-1]
    return window.T if orientation & 4 else window
