"""The trained model: everything that is needed to draw fields, and its file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import ModelFileError, UnitsError
from xcvae.fields.batches import Batch, Batches
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.record import Record, Thumbnails
from xcvae.fields.scaling import Scaling
from xcvae.fields.units import factor
from xcvae.files import check_writable, expanded, write_bytes
from xcvae.files import sha256 as sha256_of
from xcvae.generator import modelfile
from xcvae.generator.device import choose_device, placed
from xcvae.generator.modelfile import extra_tensors, take_extra_tensors, training_log
from xcvae.generator.network.architecture import Architecture, build_network
from xcvae.generator.network.ladder import Ladder
from xcvae.generator.noise import Address, TimeAxis
from xcvae.generator.sampler import FieldSampler, LevelReport, release_shares
from xcvae.registry import warn_of_missing

#: Prefix of the weights' names in the file.
NETWORK = "network."

#: Limit of a pixel, in maxima of the record: one latent in millions gave 89 m a day without it.
#: For conditions beyond the record it grows in proportion.
MAX_RECORDS = 2.0
#: Excess over the record that may be the rounding of a file.
ROUNDING = 1e-5

Mode = Literal["prior", "posterior"]


class Model:
    """A conditional VAE of rain fields, made by `xcvae.train` or read by `xcvae.load`.

    Attributes
    ----------
    spec
        Variables, units and grids of the training data.
    scaling
        Conversion between physical and normalised values.
    record
        Distribution of the training rain, physical.
    architecture
        Levels, channels and latents.
    training
        Metadata of the training: losses, fit, seed, versions, validation scores.
    valid
        Pixels where the target was ever valid, (y, x); None without a mask.
    thumbnails
        Small copies of the training samples, to recognise them; None in older files.
    sha256
        SHA-256 of the file content.
    path
        The file, or None if the model was not saved.
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
        thumbnails: Thumbnails | None = None,
        sha256: str = "",
        path: Path | None = None,
    ) -> None:
        # One memory layout for all models: kernels for other layouts round differently.
        self.network = placed(network.eval(), torch.device("cpu"))
        self.spec, self.scaling, self.record = spec, scaling, record
        self.architecture, self.training = architecture, training
        self.network.sigma_factor = float(training.get("temperature", 1.0))
        self.valid, self.thumbnails = valid, thumbnails
        self.sha256, self.path = sha256, path
        self.device = torch.device("cpu")

    def __repr__(self) -> str:
        weights = sum(p.numel() for p in self.network.parameters()) / 1e6
        names = ", ".join(v.name for v in self.spec.variables) or "no conditions"
        size = f"{len(self.architecture.latents)} levels, {weights:.1f} M weights"
        title = f"{self.spec.target} [{self.spec.units}] given {names}: {size}"
        return f"<xcvae.Model {title}, sha256 {self.sha256[:12]}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # By path if there is a file: a worker reads it once for all tasks that carry the model.
        if self.path is not None and self.path.is_file():
            return load_once, (str(self.path), self.sha256, str(self.device))
        return from_bytes, (self.to_bytes(),)

    @property
    def history(self) -> xr.Dataset:
        """The training log: one variable per logged quantity along ``step``."""
        return training_log(self.training, self.spec.units)

    @property
    def timescales(self) -> tuple[float, ...] | None:
        """Seconds after which each level has forgotten, coarsest first; 0 at once, None unknown."""
        found = self.training.get("timescales", {}).get("seconds")
        return None if found is None else tuple(float(one) for one in found)

    def save(self, path: str | Path) -> Model:
        """Write the model to a new file, which becomes its `path`.

        Raises
        ------
        OutputExistsError
            If the file exists already.
        """
        target = expanded(path).absolute()
        check_writable("path", target)
        modelfile.refuse_existing(target)
        content = self.to_bytes()
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, content, sync=True)
        self.path, self.sha256 = target, sha256_of(content)
        return self

    def to_bytes(self) -> bytes:
        """Return the content of the model's file."""
        tensors = {f"{NETWORK}{k}": v for k, v in self.network.state_dict().items()}
        tensors |= extra_tensors(self.valid, self.thumbnails)
        header = {
            "spec": self.spec.to_json(),
            "scaling": self.scaling.to_json(),
            "record": self.record.to_json(),
            "architecture": self.architecture.to_json(),
            "training": self.training,
        }
        return modelfile.pack(header, tensors)

    def to(self, device: str) -> Model:
        """Move the network to a device: ``"auto"``, ``"cpu"`` or ``"cuda"``."""
        self.device = choose_device(device)
        placed(self.network, self.device)
        return self

    def batches(self, prepared: xr.Dataset) -> Batches:
        """Return samples of a prepared Dataset (`xcvae.fields.describe.prepare`) as tensors."""
        masked, blocks = self.record.masked, self.architecture.constrain
        # A target has its own mask; the stored one is for data without a target.
        valid = None if self.spec.target in prepared else self.valid
        return Batches(prepared, self.spec, self.scaling, masked=masked, valid=valid, blocks=blocks)

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
        tile: tuple[int, int] | None = None,
        times: Sequence[int] | None = None,
        timescales: Sequence[float] | None = None,
        limits: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Draw members of every sample of a batch.

        Parameters
        ----------
        batch
            From `batches`.
        seed, labels, realizations, attempt
            Address of the noise: labels name the samples, realizations number the members, and
            ``attempt`` counts how often a member was redrawn.
        mode
            ``"posterior"`` starts from the target in ``batch``, ``"prior"`` does not see it.
        spread
            Posterior only: 0 reconstructs the target, 1 is the prior; in between diversity grows
            in proportion, on the samples of the calibration.
        temperature
            Factor of the spread of every latent; 1 is the calibrated spread.
        tile
            Rows and columns of the tiles that the domain is drawn in, one after the other; the
            result differs from a draw in one piece by rounding. None draws in one piece.
        times
            Times of the samples in microseconds, for members that evolve in time; None for
            members whose noise depends on the labels alone.
        timescales
            With times: seconds after which each level, coarsest first, has forgotten (0: at
            once).
        limits
            Largest rain of a pixel, one for each sample, such as those of `limits`. Default: twice
            the maximum of the record.

        Returns
        -------
        array (realization, sample, y, x)
            Physical, in ``spec.units``, at least 0; NaN where masked.
        """
        moments: Sequence[int | None] = [None] * len(labels) if times is None else times
        addresses = [
            [
                Address(seed, label, int(m), mode, attempt, time)
                for label, time in zip(labels, moments, strict=True)
            ]
            for m in realizations
        ]
        axes = None if times is None else [TimeAxis.of(one) for one in timescales or ()]
        released = None
        if mode == "posterior":
            released = release_shares(self._position(spread), len(self.architecture.latents))
        return self._sampler().draw(
            batch,
            addresses,
            released=released,
            temperature=temperature,
            tile=tile,
            axes=axes,
            limits=limits,
        )

    def limits(self, prepared: xr.Dataset) -> NDArray[np.float64]:
        """Return the largest rain that a pixel of each sample may have, in ``spec.units``.

        Twice the maximum of the record; where a coarse rain condition is heavier than any of the
        record, more in the same proportion. Models of older versions do not know the largest
        condition of their record, and compare with its heaviest pixel.

        Parameters
        ----------
        prepared
            Samples in memory, from `xcvae.fields.describe.prepare`.
        """
        spec = self.spec
        excess = np.ones(prepared.sizes[spec.sample])
        for variable in spec.variables:
            rain = variable.precipitation and variable.role == "condition"
            if not rain or variable.name not in prepared:
                continue
            largest = self.record.conditions.get(variable.name, ())
            known = largest[0] if largest else self._heaviest_in(variable.units)
            if known > 0:
                values = np.asarray(prepared[variable.name].values, np.float64)
                excess = np.maximum(excess, values.reshape(len(excess), -1).max(axis=1) / known)
        excess[excess < 1.0 + ROUNDING] = 1.0
        return MAX_RECORDS * self.record.maximum * excess

    def _heaviest_in(self, units: str) -> float:
        """Return the heaviest pixel of the record in other units; 0 if they do not convert."""
        try:
            return self.record.maximum * factor(self.spec.units, units, what=self.spec.target)
        except UnitsError:
            return 0.0

    def observed(self, batch: Batch) -> NDArray[np.float32]:
        """Return the target of a batch, physical, NaN where masked; (sample, y, x)."""
        return self._sampler().observed(batch)

    def reconstruct(
        self, batch: Batch, latents_of: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Decode the posterior mean of every sample, or that of another sample of the batch.

        Parameters
        ----------
        batch
            With the target.
        latents_of
            For each sample, the sample whose latents are decoded; a permutation shuffles z.

        Returns
        -------
        array (sample, y, x)
            Physical; NaN where masked.
        """
        order = range(len(batch)) if latents_of is None else latents_of
        return self._sampler().reconstruct(batch, order)

    def deviations(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Return the posterior means in units of the prior, coarsest level first.

        They estimate the noise that the observed storms were drawn with; each has the dims
        (sample, latent, y, x).
        """
        return self._sampler().deviations(batch)

    def levels(self, batch: Batch) -> list[LevelReport]:
        """Measure the information in every level for the samples of a batch with the target."""
        return self._sampler().levels(batch)

    def _position(self, spread: float) -> float:
        """Map a spread to a position between posterior and prior, by the calibrated dial."""
        dial = np.asarray(self.training.get("dial", [[0.0, 0.0], [1.0, 1.0]]))
        return float(np.interp(spread, dial[:, 0], dial[:, 1]))

    def _sampler(self) -> FieldSampler:
        limit = MAX_RECORDS * self.record.maximum
        return FieldSampler(self.network, self.scaling, self.device, limit)


def from_bytes(content: bytes, path: Path | None = None) -> Model:
    """Make a model from the content of a file.

    Raises
    ------
    ModelFileError
        If the content is not that of an xcvae model, or it is damaged.
    """
    name = str(path or "model")
    header, tensors = modelfile.unpack(content, name)
    spec = DataSpec.from_json(header["spec"])
    record = Record.from_json(header["record"])
    architecture = Architecture.from_json(header["architecture"])
    valid, thumbnails = take_extra_tensors(tensors)
    scaling = Scaling.from_json(header["scaling"])
    network = build_network(architecture, spec, scaling.target, masked=record.masked)
    weights = {k.removeprefix(NETWORK): v for k, v in tensors.items()}
    modelfile.check_shapes(network.state_dict(), weights, name)
    network.load_state_dict(weights)
    return Model(
        network,
        spec=spec,
        scaling=scaling,
        record=record,
        architecture=architecture,
        training=header["training"],
        valid=valid,
        thumbnails=thumbnails,
        sha256=sha256_of(content),
        path=path,
    )


def load(path: str | Path) -> Model:
    """Read a model file.

    Raises
    ------
    ModelFileError
        If the file does not exist, is not an xcvae model, or is damaged.

    Warns
    -----
    MissingPluginWarning
        If a training loss comes from a package that is not installed: the model draws without
        it, but cannot be trained again.
    """
    model = _read(path)
    stages = model.training.get("losses", [])
    warn_of_missing("loss", [loss for stage in stages for loss in stage["losses"]], str(path))
    return model


def _read(path: str | Path) -> Model:
    target = Path(path).absolute()
    if not target.is_file():
        raise ModelFileError.of(
            "model",
            expected="a model file",
            got=f"nothing at {target}",
            remedy="Check the path, or train a model with xcvae.train(..., path=...).",
        )
    return from_bytes(target.read_bytes(), target)


@functools.lru_cache(maxsize=4)
def load_once(path: str, sha256: str, device: str = "cpu") -> Model:  # noqa: ARG001  a cache key
    """Read a model once per process and device; workers get models by path and SHA-256.

    The caller moves the model to the device: one object per kind of device.

    Raises
    ------
    ModelFileError
        If the file has changed since.
    """
    model = _read(path)
    if model.sha256 != sha256:
        raise ModelFileError.of(
            path,
            expected=f"the model with sha256 {sha256[:12]}",
            got=f"one with {model.sha256[:12]}",
            remedy="The file was replaced while it was in use: load the model again.",
        )
    return model
