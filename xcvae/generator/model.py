"""A trained generator: everything that is needed to draw fields, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from xcvae.fields.batches import Batch, Batches
from xcvae.fields.record import Record
from xcvae.fields.scaling import Scaling
from xcvae.fields.spec import DataSpec
from xcvae.generator.architecture import Architecture
from xcvae.generator.ladder import Drawn, Ladder, level_sizes
from xcvae.generator.noise import Address, normals
from xcvae.generator.numerics import autocast, choose_device, placed

__all__ = ["LevelReport", "Mode", "Model", "freed_levels"]

Mode = Literal["prior", "posterior"]

#: Fields per pass through the network. Always this many, padded if need be, so that a field does
#: not depend on how many were drawn with it (convolution kernels change with the batch size).
PASS = 8


@dataclass(frozen=True)
class LevelReport:
    """What one level of the ladder carries.

    Attributes
    ----------
    size
        Height and width of the level's map.
    kl
        KL(q || p) in nats per sample.
    active
        Share of latent channels whose KL is above 0.01 nats per pixel of the level.
    """

    size: tuple[int, int]
    kl: float
    active: float


def freed_levels(spread: float, levels: int) -> list[float]:
    """How far each level, coarsest first, is freed from the posterior towards the prior.

    The finest level starts first; each level is freed over two of the ``levels + 1`` equal parts
    of the dial, so that two neighbours move at any time and diversity grows without steps.

    Examples
    --------
    >>> freed_levels(0.5, 3)
    [0.0, 0.5, 1.0]
    """
    turn = spread * (levels + 1)
    return [min(1.0, max(0.0, (turn - (levels - 1 - level)) / 2)) for level in range(levels)]


class Model:
    """A conditional VAE of rain fields, made by `xcvae.train` or read by `xcvae.load`.

    Attributes
    ----------
    spec
        The variables, units and grids it was trained on.
    scaling
        The border between physical and normalised values.
    record
        Distribution of the training rain, physical.
    architecture
        Levels, channels and latents.
    training
        How it was trained: losses, fit, seed, versions, what validation found.
    sha256
        Fingerprint of the file content.
    path
        The file, or None if it was not saved.
    """

    def __init__(
        self,
        network: Ladder,
        *,
        spec: DataSpec,
        scaling: Scaling,
        record: Record,
        architecture: Architecture,
        training: dict[str, Any],
        valid: NDArray[np.bool_] | None = None,
        sha256: str = "",
        path: Path | None = None,
    ) -> None:
        self.network = network.eval()
        self.spec, self.scaling, self.record = spec, scaling, record
        self.architecture, self.training = architecture, training
        self.valid, self.sha256, self.path = valid, sha256, path
        self.device = torch.device("cpu")

    def __repr__(self) -> str:
        weights = sum(p.numel() for p in self.network.parameters())
        names = ", ".join(v.name for v in self.spec.variables) or "no conditions"
        return (
            f"<xcvae.Model {self.spec.target} [{self.spec.units}] given {names}: "
            f"{len(self.architecture.latents)} levels, {weights / 1e6:.1f} M weights, "
            f"sha256 {self.sha256[:12]}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        from xcvae.generator import modelfile  # the file format knows the model

        if self.path is not None:
            return modelfile.load_once, (str(self.path), self.sha256)
        return modelfile.from_bytes, (modelfile.to_bytes(self),)

    @property
    def history(self) -> xr.Dataset:
        """The training log: one variable per logged quantity along ``step``."""
        rows = self.training.get("history", [])
        columns = sorted({key for row in rows for key in row} - {"step"})
        steps = [row["step"] for row in rows]
        return xr.Dataset(
            {c: ("step", [row.get(c, np.nan) for row in rows]) for c in columns},
            coords={"step": steps},
        )

    def save(self, path: str | Path) -> Model:
        """Write the model to a new file and remember it.

        Raises
        ------
        OutputExistsError
            If the file is there already.
        """
        from xcvae.generator import modelfile  # the file format knows the model

        return modelfile.save(self, path)

    def to(self, device: str) -> Model:
        """Move the network to a device: ``"auto"``, ``"cpu"`` or ``"cuda"``."""
        self.device = choose_device(device)
        placed(self.network, self.device)
        return self

    def batches(self, prepared: xr.Dataset) -> Batches:
        """Samples of a Dataset from `xcvae.fields.spec.prepare` as this model's tensors."""
        masked = self.record.masked
        # A target tells its own mask; the stored one serves data that has none.
        valid = None if self.spec.target in prepared else self.valid
        return Batches(prepared, self.spec, self.scaling, masked=masked, valid=valid)

    def draw(
        self,
        batch: Batch,
        *,
        seed: int,
        labels: Sequence[str],
        realizations: Sequence[int],
        mode: Mode,
        spread: float = 1.0,
        temperature: float = 1.0,
        attempt: int = 0,
    ) -> NDArray[np.float32]:
        """Draw members of every sample of a batch.

        Parameters
        ----------
        batch
            From `batches`.
        seed, labels, realizations, attempt
            Address of the noise: labels name the samples, realizations the members.
        mode
            ``"posterior"`` starts from the target in ``batch``, ``"prior"`` does not see it.
        spread
            Posterior only: 0 reconstructs the target, 1 is the prior.
        temperature
            Scales the spread of every latent.

        Returns
        -------
        array (realization, sample, y, x)
            Physical, in ``spec.units``, at least 0; NaN where masked.
        """
        pairs = [(m, s) for m in range(len(realizations)) for s in range(len(labels))]
        freed = freed_levels(spread, len(self.architecture.latents))
        shape = (len(realizations), len(labels), *batch.c.shape[-2:])
        out = np.empty((len(pairs), *shape[2:]), np.float32)
        for start in range(0, len(pairs), PASS):
            part = pairs[start : start + PASS]
            filled = part + [part[-1]] * (PASS - len(part))
            addresses = [
                Address(seed, labels[s], int(realizations[m]), mode, attempt) for m, s in filled
            ]
            drawn = self._forward(
                batch.take([s for _, s in filled]),
                addresses,
                freed=freed if mode == "posterior" else None,
                temperature=temperature,
            )
            out[start : start + len(part)] = self._physical(drawn)[: len(part)]
        fields = out.reshape(shape)
        fields[:, ~batch.mask[:, 0].cpu().numpy()] = np.nan
        return fields

    def reconstruct(
        self, batch: Batch, latents_of: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Decode the posterior mean of every sample, or that of another sample of the batch.

        Parameters
        ----------
        batch
            With the target.
        latents_of
            For each sample, whose latents it gets; a permutation shuffles z.

        Returns
        -------
        array (sample, y, x)
            Physical; NaN where masked.
        """
        own = batch.to(self.device)
        silent = self._silence(own)
        with torch.inference_mode(), autocast(self.device):
            z = self.network(own.c, own.pooled, silent, x=own.x).posterior
            order = torch.as_tensor(list(latents_of or range(len(batch))), device=self.device)
            fixed = [q.mu[order] for q in z]
            output = self.network.decode(own.c, own.pooled, fixed)
        fields = self.scaling.physical(output.float()).cpu().numpy()[:, 0]
        return np.where(batch.mask[:, 0].cpu().numpy(), fields, np.nan).astype(np.float32)

    def levels(self, batch: Batch) -> list[LevelReport]:
        """What every level of the ladder carries for the samples of a batch with the target."""
        own = batch.to(self.device)
        with torch.inference_mode(), autocast(self.device):
            drawn: Drawn = self.network(own.c, own.pooled, self._silence(own), x=own.x)
        reports = []
        for q, p in zip(drawn.posterior, drawn.prior, strict=True):
            kl = q.kl_map(p).float()
            per_channel = kl.mean(dim=(0, 2, 3))
            reports.append(
                LevelReport(
                    size=(kl.shape[-2], kl.shape[-1]),
                    kl=float(kl.sum(dim=(1, 2, 3)).mean()),
                    active=float((per_channel > 0.01).float().mean()),
                )
            )
        return reports

    def _shapes(self, batch: Batch) -> list[tuple[int, int, int]]:
        latents = self.architecture.latents
        sizes = level_sizes((batch.c.shape[-2], batch.c.shape[-1]), len(latents))
        return [(z, h, w) for z, (h, w) in zip(latents, sizes, strict=True)]

    def _silence(self, batch: Batch) -> list[Tensor]:
        return [torch.zeros(len(batch), *s, device=self.device) for s in self._shapes(batch)]

    def _forward(
        self,
        batch: Batch,
        addresses: Sequence[Address],
        *,
        freed: list[float] | None,
        temperature: float,
    ) -> Tensor:
        own = batch.packed().to(self.device)
        noise = [
            torch.from_numpy(normals(addresses, level, shape)).to(self.device)
            for level, shape in enumerate(self._shapes(batch))
        ]
        x = own.x if freed is not None else None
        with torch.inference_mode(), autocast(self.device):
            drawn: Drawn = self.network(
                own.c,
                own.pooled,
                noise,
                x=x,
                freed=freed,
                temperature=temperature,
            )
        return drawn.output.float()

    def _physical(self, output: Tensor) -> NDArray[np.float32]:
        fields: NDArray[np.float32] = self.scaling.physical(output).cpu().numpy()[:, 0]
        return fields
