"""A compact cVAE with the faults of the scripts that xcvae replaces, each with its own switch.

It is an example of what goes wrong, not for use. With every switch off it is a small
healthy relative of xcvae's generator: rain as ``log1p`` and z-scores per pixel, latent maps on
every scale with a learned conditional prior, a Laplace likelihood that is censored at dry, training
on crops, and a threshold in physical units. Each switch replaces a part of that:

``z_threshold``
    The threshold of 0.1 acts on z-scores: what is below becomes 0, the mean of its pixel, instead
    of acting on rain in physical units.
``dropout``
    In training half of the coarse values are dropped, the others doubled; nothing otherwise.
``weights``
    The scripts' loss instead of the evidence lower bound: the absolute error of rain, weighted by
    intensity with ``w_min`` 1.0 and ``tail_boost`` 3.0, which is no likelihood, as a mean over
    pixels, beside a KL in nats per sample, times 0.01.
``flat``
    One latent vector of 128 numbers, the prior N(0, I) for every condition, a fully connected
    decoder of [z, coarse], whole fields instead of crops (which that decoder needs), and the same
    KL; instead of latent maps with a prior of their own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from xcvae.fields.record import Record
from xcvae.verify.diagnosis import Evidence, LevelEvidence, gather

THRESHOLD = 0.1  # of z-scores if ill, else in the units of the rain
DROPOUT = 0.5
W_MIN, W_MAX, TAIL_BOOST, SCALE = 1.0, 2.0, 3.0, 10.0
Z, BETA = 128, 0.01
LAPLACE = 0.05  # scale of the healthy likelihood, in log1p of the rain
CEILING = 6.0  # of log1p of the rain: 400 mm/h
BATCH = 8
WINDOW = 6  # coarse cells of a training crop; a fully connected decoder needs the whole field


@dataclass(frozen=True)
class Diseases:
    """Faults of a model; see the module."""

    z_threshold: bool = False
    dropout: bool = False
    weights: bool = False
    flat: bool = False


VARIANTS = {
    "healthy": Diseases(),
    "a": Diseases(z_threshold=True),
    "b": Diseases(dropout=True),
    "c": Diseases(weights=True),
    "bc": Diseases(dropout=True, weights=True),
    "d": Diseases(flat=True),
    "abcd": Diseases(True, True, True, True),
}


@dataclass(frozen=True)
class Gauss:
    """A diagonal normal distribution."""

    mean: Tensor
    log_sigma: Tensor

    @classmethod
    def of(cls, heads: Tensor, base: Gauss | None = None) -> Gauss:
        """Read two heads, relative to another distribution."""
        mean, log_sigma = heads.chunk(2, 1)
        if base is not None:
            mean, log_sigma = mean + base.mean, log_sigma + base.log_sigma
        return cls(mean, log_sigma.clamp(-6.0, 3.0))

    def draw(self, noise: Tensor) -> Tensor:
        """Turn standard normal noise into a draw."""
        return self.mean + noise * self.log_sigma.exp()

    def kl(self, other: Gauss) -> Tensor:
        """Return KL(self || other) per number, in nats."""
        ratio = 2 * (self.log_sigma - other.log_sigma)
        distance = ((self.mean - other.mean) / other.log_sigma.exp()) ** 2
        return 0.5 * (ratio.exp() + distance - 1 - ratio)


def _zeroed(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class MapLatent(nn.Module):
    """A latent map; the prior is learned from what is above, the posterior is relative to it."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.p = _zeroed(nn.Conv2d(features, 2 * channels, 1))
        self.q = _zeroed(nn.Conv2d(2 * features, 2 * channels, 1))
        self.into = nn.Conv2d(channels, features, 1)

    def shape(self, h: Tensor) -> tuple[int, ...]:
        """Return the shape of its noise."""
        return (len(h), self.channels, *h.shape[-2:])

    def prior(self, h: Tensor) -> Gauss:
        """Return the prior given the features."""
        return Gauss.of(self.p(h))

    def posterior(self, h: Tensor, e: Tensor) -> Gauss:
        """Return the posterior given the encoded observation."""
        return Gauss.of(self.q(torch.cat([h, e], 1)), self.prior(h))

    def enter(self, h: Tensor, z: Tensor) -> Tensor:
        """Add a latent map to the features."""
        return h + self.into(z)


class FlatLatent(nn.Module):
    """A latent vector with the prior N(0, I), and a fully connected layer from [z, coarse]."""

    def __init__(self, features: int, grid: tuple[int, int]) -> None:
        super().__init__()
        cells = grid[0] * grid[1]
        self.q = nn.Linear(features * cells, 2 * Z)
        self.into = nn.Linear(Z + cells, features * cells)
        self.base = (features, *grid)

    def shape(self, h: Tensor) -> tuple[int, ...]:
        """Return the shape of its noise."""
        return (len(h), Z)

    def prior(self, h: Tensor) -> Gauss:
        """Return the prior given the features."""
        zero = h.new_zeros(len(h), Z)
        return Gauss(zero, zero)

    def posterior(self, h: Tensor, e: Tensor) -> Gauss:
        """Return the posterior given the encoded observation."""
        return Gauss.of(self.q(e.flatten(1)))

    def enter(self, c: Tensor, z: Tensor) -> Tensor:
        """Decode [z, coarse]; here ``c`` is the coarse field itself."""
        return self.into(torch.cat([z, c.flatten(1)], 1)).view(len(c), *self.base)


class Block(nn.Module):
    """Two convolutions beside a straight path."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(features, features, 3, padding=1)
        self.second = _zeroed(nn.Conv2d(features, features, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        """Add what the convolutions find."""
        return h + self.second(F.silu(self.first(F.silu(h))))


def factors(coarsen: int) -> list[int]:
    """Return prime factors in falling order: the steps from the coarse to the fine grid."""
    found, rest, divisor = [], coarsen, 2
    while rest > 1:
        while rest % divisor == 0:
            found.append(divisor)
            rest //= divisor
        divisor += 1
    return found[::-1]


@dataclass(frozen=True)
class ForwardPass:
    """Result of a forward pass."""

    scores: Tensor  # z-scores, (batch, 1, y, x)
    latents: list[Tensor]
    kl: list[Tensor]  # per latent number


class Network(nn.Module):
    """Encoder of convolutions, and a decoder from the coarse grid with transposed ones."""

    def __init__(self, grid: tuple[int, int], coarsen: int, diseases: Diseases) -> None:
        super().__init__()
        self.diseases = diseases
        steps = factors(coarsen)
        widths = [max(8, 64 >> i) for i in range(len(steps) + 1)]
        pairs = list(zip(widths[:-1], widths[1:], steps, strict=True))
        self.read = nn.Conv2d(2, widths[-1], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(b, a, s + 2, s, 1) for a, b, s in reversed(pairs))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, s, s) for a, b, s in pairs)
        self.blocks = nn.ModuleList(Block(width) for width in widths)
        self.base = nn.Conv2d(1, widths[0], 3, padding=1)
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)
        maps = [max(1, 16 >> (2 * i)) for i in range(len(widths))]
        self.latents = nn.ModuleList(
            [FlatLatent(widths[0], grid)]
            if diseases.flat
            else [MapLatent(*pair) for pair in zip(widths, maps, strict=True)]
        )

    def encode(self, x: Tensor, c: Tensor) -> list[Tensor]:
        """Return features of observation and condition on every scale, coarsest first."""
        stretched = F.interpolate(c, size=x.shape[-2:], mode="bilinear")
        found = [self.read(torch.cat([x, stretched], 1))]
        for layer in self.down:
            found.append(layer(F.silu(found[-1])))
        return found[::-1]

    def forward(
        self,
        c: Tensor,
        noise: Callable[[tuple[int, ...]], Tensor],
        x: Tensor | None = None,
        given: Sequence[Tensor] | None = None,
    ) -> ForwardPass:
        """Decode latents: those ``given``, else of the posterior given x, else of the prior."""
        if self.training and self.diseases.dropout:
            c = F.dropout(c, DROPOUT)
        encoded = None if x is None else self.encode(x, c)
        flat = self.diseases.flat
        h = c if flat else self.base(c)
        latents: list[Tensor] = []
        kl: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if i:
                h = self.up[i - 1](F.silu(h))
            if i < len(self.latents):
                latent = self.latents[i]
                p = latent.prior(h)
                q = p if encoded is None else latent.posterior(h, encoded[i])
                latents.append(q.draw(noise(latent.shape(h))) if given is None else given[i])
                kl.append(q.kl(p))
                h = latent.enter(h, latents[-1])
            h = block(h)
        return ForwardPass(self.head(F.silu(h)), latents, kl)


@dataclass(frozen=True)
class Scaling:
    """``log1p``, then z-scores per pixel; and one mean and deviation for the coarse field."""

    mean: Tensor
    std: Tensor
    coarse: tuple[float, float]

    @classmethod
    def fit(cls, rain: Tensor, coarse: Tensor) -> Scaling:
        """Fit on training rain and its block means."""
        log, low = rain.log1p(), coarse.log1p()
        return cls(log.mean(0), log.std(0).clamp(min=0.02), (float(low.mean()), float(low.std())))

    def cropped(self, pixels: tuple[slice, ...]) -> Scaling:
        """Return the scaling of a part of the field."""
        return Scaling(self.mean[..., *pixels], self.std[..., *pixels], self.coarse)

    def scores(self, rain: Tensor) -> Tensor:
        """Scale rain to z-scores."""
        return (rain.log1p() - self.mean) / self.std

    def condition(self, coarse: Tensor) -> Tensor:
        """Scale block means to the input of the network."""
        return (coarse.log1p() - self.coarse[0]) / self.coarse[1]

    def log(self, scores: Tensor) -> Tensor:
        """Return log1p of the rain, below zero where it is dry."""
        return scores * self.std + self.mean


@dataclass
class LegacyCVAE:
    """A trained model.

    Attributes
    ----------
    network, scaling
        The trained network, and the scaling of its input and output.
    target, coarsen
        Name of the rain, and the side of the blocks whose means are the condition.
    record
        Statistics of the training rain.
    steps
        Steps of the training.
    """

    network: Network
    scaling: Scaling
    target: str
    coarsen: int
    record: Record
    steps: int

    def save(self, path: Path) -> None:
        """Write a file for `load`."""
        about = {
            "diseases": asdict(self.network.diseases),
            "coarse": self.scaling.coarse,
            "target": self.target,
            "coarsen": self.coarsen,
            "record": self.record.to_json(),
            "steps": self.steps,
        }
        weights = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        maps = {"mean": self.scaling.mean, "std": self.scaling.std}
        tensors = {k: v.contiguous() for k, v in {**weights, **maps}.items()}
        save_file(tensors, path, {"about": json.dumps(about)})

    def ensemble(self, ds: xr.Dataset, *, mode: str, members: int, seed: int = 0) -> xr.Dataset:
        """Draw members of every sample: physical rain, (realization, sample, y, x)."""
        rain, coarse = self._read(ds)
        return self._labelled(self._draw(rain, coarse, mode, members, seed), ds)

    def evidence(self, ds: xr.Dataset, *, members: int = 8, seed: int = 0) -> Evidence:
        """Gather the input of `xcvae.verify.diagnosis.judge`."""
        rain, coarse = self._read(ds)
        mode = {"prior": members, "posterior": min(members, 4)}
        drawn = {
            m: self._labelled(self._draw(rain, coarse, m, count, seed), ds)
            for m, count in mode.items()
        }
        order = np.roll(np.arange(len(rain)), len(rain) // 2)
        own, swapped = (self._reconstruct(rain, coarse, o) for o in (None, order))
        return gather(
            ds[self.target],
            prior=drawn["prior"][self.target],
            posterior=drawn["posterior"][self.target],
            reconstructed=self._labelled(own[None], ds)[self.target][0],
            swapped=self._labelled(swapped[None], ds)[self.target][0],
            levels=self._levels(rain, coarse),
            trained_on=self.record,
            seed=seed,
        )

    def _read(self, ds: xr.Dataset) -> tuple[Tensor, Tensor]:
        rain = torch.from_numpy(ds[self.target].values.astype("f4"))[:, None]
        rain = rain.to(self.scaling.mean.device)
        return rain, F.avg_pool2d(rain, self.coarsen)

    def _labelled(self, values: np.ndarray, ds: xr.Dataset) -> xr.Dataset:
        like = ds[self.target]
        members = xr.DataArray(
            values,
            dims=("realization", *like.dims),
            coords={**like.coords, "realization": np.arange(len(values))},
            attrs=like.attrs,
        )
        return members.to_dataset(name=self.target)

    @torch.inference_mode()
    def _draw(self, rain: Tensor, coarse: Tensor, mode: str, members: int, seed: int) -> np.ndarray:
        random = torch.Generator(rain.device).manual_seed(seed)

        def noise(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=random, device=rain.device)

        out = np.empty((members, len(rain), *rain.shape[-2:]), np.float32)
        x, c = self.scaling.scores(rain), self.scaling.condition(coarse)
        for member in range(members):
            for part in torch.arange(len(rain), device=rain.device).split(BATCH):
                seen = x[part] if mode == "posterior" else None
                found = self.network(c[part], noise, seen).scores
                out[member, part.cpu().numpy()] = self._physical(found)
        return out

    @torch.inference_mode()
    def _reconstruct(
        self, rain: Tensor, coarse: Tensor, latents_of: np.ndarray | None
    ) -> np.ndarray:
        x, c = self.scaling.scores(rain), self.scaling.condition(coarse)
        found = self.network(c, rain.new_zeros, x)
        if latents_of is not None:
            # Decode like a posterior draw, with the latents of another observation.
            order = torch.as_tensor(latents_of, device=rain.device)
            found = self.network(c, rain.new_zeros, x, [z[order] for z in found.latents])
        return self._physical(found.scores)

    @torch.inference_mode()
    def _levels(self, rain: Tensor, coarse: Tensor) -> list[LevelEvidence]:
        x, c = self.scaling.scores(rain), self.scaling.condition(coarse)
        levels = []
        for kl in self.network(c, rain.new_zeros, x).kl:
            maps = kl if kl.ndim == 4 else kl[..., None, None]
            levels.append(
                LevelEvidence(
                    size=(maps.shape[-2], maps.shape[-1]),
                    kl=float(maps.sum((1, 2, 3)).mean()),
                    active=float((maps.mean((0, 2, 3)) > 0.01).float().mean()),
                )
            )
        return levels

    def _physical(self, scores: Tensor) -> np.ndarray:
        if self.network.diseases.z_threshold:
            scores = torch.where(scores < THRESHOLD, 0.0, scores)
        rain = self.scaling.log(scores).clamp(0.0, CEILING).expm1()
        if not self.network.diseases.z_threshold:
            rain = torch.where(rain < THRESHOLD, 0.0, rain)
        return rain[:, 0].cpu().numpy()


def load(path: Path, device: str = "cpu") -> LegacyCVAE:
    """Read a file of `LegacyCVAE.save`."""
    with safe_open(path, "pt", device) as file:
        about = json.loads(file.metadata()["about"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no dict
    mean, std = tensors.pop("mean"), tensors.pop("std")
    coarsen, record = about["coarsen"], Record.from_json(about["record"])
    grid = (mean.shape[-2] // coarsen, mean.shape[-1] // coarsen)
    network = Network(grid, coarsen, Diseases(**about["diseases"])).to(device)
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items()})
    scaling = Scaling(mean, std, tuple(about["coarse"]))
    return LegacyCVAE(network.eval(), scaling, about["target"], coarsen, record, about["steps"])


def train(
    ds: xr.Dataset,
    diseases: Diseases,
    *,
    target: str,
    coarsen: int,
    minutes: float = 1.0,
    max_steps: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> LegacyCVAE:
    """Train until the time is over or the steps are done.

    Parameters
    ----------
    ds
        Complete rain fields in mm h-1 or mm/day, dims (sample, y, x), in memory.
    diseases
        Faults of the model.
    target, coarsen
        Name of the rain; the condition is its mean over blocks this wide.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    rain = torch.from_numpy(ds[target].values.astype("f4"))[:, None].to(device)
    coarse = F.avg_pool2d(rain, coarsen)
    scaling = Scaling.fit(rain, coarse)
    network = Network((coarse.shape[-2], coarse.shape[-1]), coarsen, diseases).to(device)
    record = Record.of(
        [ds[target].values], units=ds[target].attrs["units"], wet_threshold=THRESHOLD
    )
    tail = record.quantile(0.95, wet=True)

    def loss(progress: float) -> Tensor:
        rows = torch.from_numpy(random.integers(0, len(rain), BATCH)).to(device)
        cells = _window(coarse.shape[-2:], random, whole=diseases.flat)
        pixels = tuple(slice(s.start * coarsen, s.stop * coarsen) for s in cells)
        here = scaling.cropped(pixels)
        truth = rain[rows][..., *pixels]
        x, c = here.scores(truth), here.condition(coarse[rows][..., *cells])
        found = network(c, lambda shape: torch.randn(shape, device=device), x)
        error = _error(here.log(found.scores), truth, diseases, tail)
        return error + min(1.0, (progress + 0.02) / 0.1) * _kl(found, diseases, truth[0].numel())

    step = _optimise(network, loss, minutes=minutes, max_steps=max_steps)
    return LegacyCVAE(network.eval(), scaling, target, coarsen, record, step)


def _optimise(
    network: Network, loss: Callable[[float], Tensor], *, minutes: float, max_steps: int | None
) -> int:
    """Take steps until the time is over or so many are done; return their number."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1.5e-3)
    start, step, progress = time.perf_counter(), 0, 0.0
    while progress < 1:
        value = loss(progress)
        for group in optimiser.param_groups:
            group["lr"] = (
                1.5e-3 * min(1.0, (step + 1) / 30) * (1 + math.cos(math.pi * progress)) / 2
            )
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        spent = (time.perf_counter() - start) / (60 * minutes)
        progress = spent if max_steps is None else max(spent, step / max_steps)
    return step


def _window(
    size: Sequence[int], random: np.random.Generator, *, whole: bool
) -> tuple[slice, slice]:
    """Choose the coarse cells of a training crop."""
    starts = [0 if whole else random.integers(0, max(0, n - WINDOW) + 1) for n in size]
    y, x = (slice(a, n if whole else min(n, a + WINDOW)) for a, n in zip(starts, size, strict=True))
    return y, x


def _error(log: Tensor, rain: Tensor, diseases: Diseases, tail: float) -> Tensor:
    """Return the error of a reconstruction, a mean over pixels."""
    if diseases.weights:
        weight = (W_MIN + rain / SCALE).clamp(max=W_MAX)
        weight = torch.where(rain > tail, TAIL_BOOST * weight, weight)
        return (weight * (log.clamp(0.0, CEILING).expm1() - rain).abs()).mean()
    wet = (rain.log1p() - log).abs() / LAPLACE + math.log(2 * LAPLACE)
    above = log / LAPLACE
    # -log P(value <= 0), stable on either side of zero.
    below = -torch.log1p(-0.5 * torch.exp(above.clamp(max=0)))
    dry = torch.where(above > 0, above + math.log(2), below)
    return torch.where(rain > 0, wet, dry).mean()


def _kl(found: ForwardPass, diseases: Diseases, pixels: int) -> Tensor:
    nats = torch.stack([kl.flatten(1).sum(1).mean() for kl in found.kl]).sum()
    return BETA * nats if diseases.flat or diseases.weights else nats / pixels
