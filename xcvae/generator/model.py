"""The trained model: everything that is needed to draw fields, and its file."""

from __future__ import annotations

import copy
import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import ModelFileError, UnitsError
from xcvae.fields.batches import Batch, Batches
from xcvae.fields.block_means import at_scale, of_one_factor
from xcvae.fields.dataspec import DataSpec, Scales
from xcvae.fields.record import Record, Thumbnails
from xcvae.fields.scaling import Scaling
from xcvae.fields.units import factor as unit_factor
from xcvae.fields.units import rain_factor
from xcvae.files import check_writable, expanded, write_bytes
from xcvae.files import sha256 as sha256_of
from xcvae.generator import modelfile
from xcvae.generator.device import Placement, choose_device, placed
from xcvae.generator.dial import dial_at, position_at
from xcvae.generator.modelfile import extra_tensors, take_extra_tensors, training_log
from xcvae.generator.named import has_name, path_of
from xcvae.generator.network.architecture import Architecture, build_networks
from xcvae.generator.network.ladder import Ladder
from xcvae.generator.network.networks import Networks
from xcvae.generator.noise import Address, TimeAxis
from xcvae.generator.replays import ModelReplays
from xcvae.generator.roles import described_as, names_in, renamed
from xcvae.generator.sampler import FieldSampler, LevelReport, release_shares
from xcvae.generator.sharing import SharedEncoding
from xcvae.generator.splitting import SEAM_BYTES
from xcvae.notebook import Overview
from xcvae.registry import warn_of_missing

#: Prefix of the weights' names in the file.
NETWORK = "network."

#: Key of the metadata with the ratio of the temperature of the finest level to that of the others.
FINEST = "temperature_ratio_finest"

#: Largest ratio of the temperature at a scale to that of all scales.
MOST_BY_SCALE = 1.25

#: Key of the metadata with the type of the weights in the file, if it is not float32.
STORED = "stored"

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
    networks
        The trained networks, which share the members; one by default.
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
    names
        Names of variables and dims that `rename` gave, in their order; the file has the old ones.
    origin
        The model of any factor that this one is, on another grid; None for all other models.
    replays
        Recordings of draws on a GPU, which models of other names share.
    """

    def __init__(
        self,
        networks: Networks,
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
        placement: Placement | None = None,
    ) -> None:
        self._placement = Placement() if placement is None else placement
        # One memory layout for all models: kernels for other layouts round differently.
        self.networks = Networks(placed(one.eval(), self.device) for one in networks)
        self.spec, self.scaling, self.record = spec, scaling, record
        self.architecture, self.training = architecture, training
        self.networks.set_temperature(
            float(training.get("temperature", 1.0)), float(training.get(FINEST, 1.0))
        )
        self.valid, self.thumbnails = valid, thumbnails
        self.sha256, self.path = sha256, path
        self.names: tuple[dict[str, str], ...] = ()
        self._in_file = spec, scaling
        self.origin: Model | None = None
        self.replays = ModelReplays()
        self._at: dict[str, Model] = {}
        # Capped where the block means are kept: a cap afterwards would lose rain.
        highest = math.log1p(self._limit / scaling.target.eps) / scaling.target.divisor
        for one in self.networks:
            if one.constraint is not None and one.constraint.ceiling == math.inf:
                one.constraint = replace(one.constraint, ceiling=highest)

    def __repr__(self) -> str:
        names = ", ".join(v.name for v in self.spec.variables) or "no conditions"
        title = f"{self.spec.target} [{self.spec.units}] given {names}: {self._size}"
        return f"<xcvae.Model {title}, sha256 {self.sha256[:12]}>"

    @property
    def _size(self) -> str:
        weights = sum(p.numel() for p in self.network.parameters()) / 1e6
        size = f"{len(self.architecture.latents)} levels, {weights:.1f} M weights"
        if len(self.networks) > 1:
            size = f"{len(self.networks)} networks of {size}"
        if "start" in self.training:
            start = self.training["start"]
            size += f", {start['share']:.0%} of them from {start['name']}"
        return size

    def _repr_html_(self) -> str:
        return overview_of(self).html()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is not None:
            return _at_once, (self.origin, self.spec)
        # By path if there is a file: a worker reads it once for all tasks that carry the model.
        if self.path is not None and self.path.is_file():
            found: Any = (load_once, (str(self.path), self.sha256, str(self.device)))
        else:
            found = (from_bytes, (self.to_bytes(),))
        return (_renamed, (*found, self.names)) if self.names else found

    @property
    def device(self) -> torch.device:
        """Where the weights are; models that share them move together."""
        return self._placement.device

    @property
    def network(self) -> Ladder:
        """The first of the networks, and the only one of most models."""
        return self.networks[0]

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
        weights = self.networks.state_dict()
        if self.training.get(STORED) == "float16":
            weights = {k: v.half() for k, v in weights.items()}
        tensors = {f"{NETWORK}{k}": v for k, v in weights.items()}
        tensors |= extra_tensors(self.valid, self.thumbnails)
        spec, scaling = self._in_file
        header = {
            "spec": spec.to_json(),
            "scaling": scaling.to_json(),
            "record": self.record.to_json(),
            "architecture": self.architecture.to_json(),
            "training": self.training,
        }
        return modelfile.pack(header, tensors)

    def halved(self) -> Model:
        """Return a copy with weights in half precision in its file, which is half as large.

        They are computed with in single precision, as those of any model.
        """
        training = {**self.training, STORED: "float16"}
        model = from_bytes(self.to_bytes())
        halves = {k: v.half() for k, v in model.networks.state_dict().items()}
        model.networks.load_state_dict(halves)
        model.training = training
        model.sha256 = sha256_of(model.to_bytes())
        return model

    def to(self, device: str) -> Model:
        """Move the network to a device: ``"auto"``, ``"cpu"`` or ``"cuda"``."""
        chosen = choose_device(device)
        if chosen != self.device:
            self._placement.move(self.networks, chosen)
            self.replays.drop()
        return self

    def rename(self, names: Mapping[str, str] | None = None, **others: str) -> Model:
        """Return the model under other names of variables and dims, for data that have them.

        The network and the file are the same; members have the new names.

        Parameters
        ----------
        names, others
            New names by old name, such as ``model.rename(pr="precip", y="lat", x="lon")``. The
            condition that ``coarsen`` derives is named after the target.

        Raises
        ------
        ConfigError
            An old name is unknown, or a new one is used twice.
        """
        given = {**(names or {}), **others}
        spec = renamed(self.spec, given)
        pairs = zip(self.spec.variables, spec.variables, strict=True)
        # The network is shared: a copy of the object, not one that is read from the file.
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other.spec, other.names, other._at = spec, (*self.names, given), {}
        other.scaling = self.scaling.renamed({old.name: new.name for old, new in pairs})
        return other

    def rename_for(self, ds: xr.Dataset) -> Model:
        """Return the model under the names that a Dataset has for its variables and dims.

        Target, rain condition and dims are found by their roles: the rain on the finest grid,
        coarser rain, and CF attributes or conventional names of dims. Members have the attributes
        of the target in the Dataset.

        Parameters
        ----------
        ds
            Target or conditions under any names.
        """
        names = names_in(ds, self.spec)
        if not names:
            return self
        other = self.rename(names)
        other.spec = described_as(other.spec, ds)
        return other

    def at(self, spec: DataSpec) -> Model:
        """Return a model of any factor for one factor, grid and unit; it shares the weights.

        Parameters
        ----------
        spec
            From `xcvae.fields.block_means.at_scale`.

        Raises
        ------
        UnitsError
            The units of the rain do not convert into those of the model.
        """
        ratio = rain_factor(self.spec.units, spec.units, spec.step_seconds)
        target = replace(self.scaling.target, units=spec.units, eps=self.scaling.target.eps * ratio)
        assert spec.scales is not None
        side = spec.scales.fixed if self.architecture.constrain else 0
        # The weights are shared, the factor of sigma is not.
        model = Model(
            Networks(copy.copy(one) for one in self.networks),
            spec=spec,
            scaling=Scaling(target, {variable.name: target for variable in spec.variables}),
            record=self.record.converted(spec.units, ratio),
            architecture=replace(self.architecture, constrain=side or 0),
            training={
                **self.training,
                "temperature": self._temperature_at(spec.scales),
                "dial": dial_at(self.training, spec.scales.fixed),
            },
            thumbnails=self.thumbnails,
            sha256=self.sha256,
            path=self.path,
            placement=self._placement,
        )
        model.origin = self
        return model

    def _temperature_at(self, scales: Scales) -> float:
        """Return the calibrated temperature for the scale of a Dataset."""
        temperature = float(self.training.get("temperature", 1.0))
        known = self.training.get("temperature_by_scale")
        if known is None or scales.fixed is None:
            return temperature
        away = np.subtract(scales.numbers(scales.fixed), known["at"])
        local = temperature * math.exp(float(np.dot(known["slope"], away)))
        return round(min(max(local, temperature / MOST_BY_SCALE), temperature * MOST_BY_SCALE), 4)

    def for_data(
        self, ds: xr.Dataset, factor: int | None, *, observed: bool
    ) -> tuple[xr.Dataset, Model]:
        """Fit a model of any factor to a Dataset with rain; any other model stays as it is.

        A model of `xcvae.models` takes the names that the Dataset has: see `rename_for`.

        Parameters
        ----------
        ds
            Coarse rain, observed rain, or both.
        factor
            Pixels along a side of a coarse cell; None where the Dataset or the model gives it.
        observed
            The only rain of the Dataset is the observation.

        Raises
        ------
        ConfigError
            A factor is given for a model that has one, or none where it is needed.
        """
        scales = self.spec.scales
        if scales is not None and scales.open:
            ds, spec = at_scale(ds, scales, factor, observed=observed)
            return ds, self.at(spec)
        if factor is not None:
            raise of_one_factor(factor)
        return ds, self.rename_for(ds) if has_name(self.path) else self

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
        threads: int = 1,
        seam: int = SEAM_BYTES,
        shared: SharedEncoding | None = None,
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
            Rows and columns of the tiles that the domain is drawn in; the
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
        threads
            Tiles that are drawn at a time on a CPU.
        seam
            Bytes that decide on the seam of tiles, and so on last digits; see `split_domain`.
        shared
            Encoding of the sample, which other draws of the same single sample in the same mode
            and tiles share; None to encode for this draw alone.

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
            released = release_shares(
                position_at(self.training, spread), len(self.architecture.latents)
            )
        options: Any = {"tile": tile, "axes": axes, "limits": limits, "threads": threads}
        options |= {"released": released, "temperature": temperature, "shared": shared}
        if len(self.networks) == 1:
            return self._sampler(0, seam).draw(batch, addresses, **options)
        fields = np.empty((len(addresses), len(batch), *batch.c.shape[-2:]), np.float32)
        for number, own in self.networks.deal(realizations):
            members = [addresses[place] for place in own]
            fields[own] = self._sampler(number, seam).draw(batch, members, **options)
        return fields

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
                # The largest known cell: conditions may have gaps.
                largest_here = np.fmax.reduce(values.reshape(len(excess), -1), axis=1)
                excess = np.fmax(excess, largest_here / known)
        excess[excess < 1.0 + ROUNDING] = 1.0
        return MAX_RECORDS * self.record.maximum * excess

    def _heaviest_in(self, units: str) -> float:
        """Return the heaviest pixel of the record in other units; 0 if they do not convert."""
        try:
            return self.record.maximum * unit_factor(self.spec.units, units, what=self.spec.target)
        except UnitsError:
            return 0.0

    def observed(self, batch: Batch) -> NDArray[np.float32]:
        """Return the target of a batch, physical, NaN where masked; (sample, y, x)."""
        return self._sampler().observed(batch)

    def reconstruct(
        self,
        batch: Batch,
        latents_of: Sequence[int] | None = None,
        *,
        tile: tuple[int, int] | None = None,
    ) -> NDArray[np.float32]:
        """Decode the posterior mean of every sample, or that of another sample of the batch.

        By the first network of a model of several; so are `deviations` and `levels`.

        Parameters
        ----------
        batch
            With the target.
        latents_of
            For each sample, the sample whose latents are decoded; a permutation shuffles z.
        tile
            Rows and columns of the tiles that maps go through the network in; None for one piece.

        Returns
        -------
        array (sample, y, x)
            Physical; NaN where masked.
        """
        order = range(len(batch)) if latents_of is None else latents_of
        return self._sampler().reconstruct(batch, order, tile=tile)

    def deviations(
        self, batch: Batch, *, tile: tuple[int, int] | None = None
    ) -> list[NDArray[np.float32]]:
        """Return the posterior means in units of the prior, coarsest level first.

        They estimate the noise that the observed storms were drawn with; each has the dims
        (sample, latent, y, x). Maps too large for the memory are divided into tiles.
        """
        return self._sampler().deviations(batch, tile=tile)

    def levels(self, batch: Batch, *, tile: tuple[int, int] | None = None) -> list[LevelReport]:
        """Measure the information in every level for the samples of a batch with the target."""
        return self._sampler().levels(batch, tile=tile)

    def _sampler(self, number: int = 0, seam: int = SEAM_BYTES) -> FieldSampler:
        """Return the sampler of a network."""
        replays = self.replays.of(self.networks, self._placement)
        return FieldSampler(
            self.networks[number],
            self.scaling,
            self.device,
            self._limit,
            replays[number] if replays else None,
            seam,
        )

    @property
    def _limit(self) -> float:
        """Largest value of a pixel, physical."""
        return MAX_RECORDS * self.record.maximum


def overview_of(model: Model) -> Overview:
    """Return what a model draws, from what it was trained, and how to draw with it."""
    spec, record, training = model.spec, model.record, model.training
    conditions = [
        f"{v.name} [{v.units}] ({' x '.join(map(str, v.shape)) or 'one value per sample'})"
        for v in spec.variables
    ]
    minutes = training.get("minutes")
    trained = f"{training.get('steps')} steps" + (f", {minutes:.1f} minutes" if minutes else "")
    opened = spec.random_scale
    pixels = "grids of any size" if opened else f"{spec.shape[0]} x {spec.shape[1]} pixels"
    options = "factor=8, members=16" if opened else 'mode="prior", members=16'
    maps: list[NDArray[Any]] = []
    if model.thumbnails is not None and len(model.thumbnails.maps):
        maps = model.thumbnails.wettest(spec.shape)
    axis = spec.coordinates.get(spec.y)
    rising = axis is not None and len(axis) > 1 and axis[0] < axis[-1]
    return Overview(
        "xcvae.Model",
        {
            "target": f"{spec.target} [{spec.units}], {pixels}",
            "conditions": ", ".join(conditions) or "none",
            "network": model._size,
            "training": trained,
            "record": f"{record.samples} samples, {record.wet_fraction:.1%} wet pixels, mean "
            f"{record.mean:.3g}, maximum {record.maximum:.3g} {record.units}",
            "file": model.path or "not saved: model.save(path)",
            "sha256": model.sha256[:12],
        },
        [f"ens = ds.cvae.sample(model, {options})", "rep = ds.cvae.diagnose(model); print(rep)"],
        [one[::-1] for one in maps] if rising else maps,
        "Training samples, as means over a few cells",
    )


def _renamed(
    make: Callable[..., Model], arguments: tuple[Any, ...], names: Sequence[Mapping[str, str]]
) -> Model:
    """Make a model, and rename it: how a renamed one travels to another process."""
    model = make(*arguments)
    for some in names:
        model = model.rename(some)
    return model


def _at_once(origin: Model, spec: DataSpec) -> Model:
    """Return a model of any factor for a factor and grid: one object for all tasks of a process."""
    key = json.dumps(spec.to_json(), sort_keys=True)
    found = origin._at.get(key) or origin.at(spec)
    origin._at = {key: found}  # tasks of another factor may replace it at any time
    return found


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
    networks = build_networks(architecture, spec, scaling.target, masked=record.masked)
    weights = {k.removeprefix(NETWORK): v for k, v in tensors.items()}
    modelfile.check_shapes(networks.state_dict(), weights, name)
    networks.load_state_dict(weights)
    return Model(
        networks,
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


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model file.

    Parameters
    ----------
    path
        A path, or a name of `xcvae.models`.

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
    model = _read(path_of(path))
    stages = model.training.get("losses", [])
    warn_of_missing("loss", [loss for stage in stages for loss in stage["losses"]], str(path))
    return model


def _read(target: Path) -> Model:
    if not target.is_file():
        raise ModelFileError.of(
            "model",
            expected="a model file",
            got=f"{'the folder' if target.is_dir() else 'nothing at'} {target}",
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
    model = _read(Path(path))
    if model.sha256 != sha256:
        raise ModelFileError.of(
            path,
            expected=f"the model with sha256 {sha256[:12]}",
            got=f"one with {model.sha256[:12]}",
            remedy="The file was replaced while it was in use: load the model again.",
        )
    return model
