"""Start of a training from another model: its weights and its scaling."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import xarray as xr

from xcvae.errors import ConfigError, UnitsError, warn_user
from xcvae.fields.block_means import check_block_means, whole_blocks
from xcvae.fields.cf import curvilinear_km
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.grids import moved, pixel_size
from xcvae.fields.scaling import RainScaling, Scaling, StandardScaling
from xcvae.fields.units import RATE, affine, exponents_of, factor
from xcvae.files import sha256
from xcvae.generator.dial import dial_at
from xcvae.generator.model import Model, load
from xcvae.generator.named import name_of
from xcvae.generator.network.architecture import Architecture, input_names, pooled_size
from xcvae.generator.network.ladder import Ladder
from xcvae.generator.network.networks import Networks
from xcvae.generator.network.transfer import Inputs, Taken, take_weights

#: Largest ratio of pixel sizes, or of the pixels per condition cell, to those of the start.
FAR = 2.0
#: Share of its weights below which a start is hardly one.
FEW = 0.5


@dataclass(frozen=True)
class Start:
    """A model that a training starts from.

    Attributes
    ----------
    model
        The model.
    name
        Its name, or that of its file.
    """

    model: Model
    name: str

    @classmethod
    def of(cls, start: Model | str | os.PathLike[str] | None) -> Start | None:
        """Open the start that the caller names; None for none.

        Raises
        ------
        ConfigError
            The argument is neither a model, nor a path, nor a name.
        ModelFileError
            The file does not exist, is not a model, or is damaged.
        """
        if start is None:
            return None
        model = load(start) if isinstance(start, str | os.PathLike) else start
        if not isinstance(model, Model):
            raise ConfigError.of(
                "start",
                expected="a Model, the path of a model file, or a name of xcvae.models",
                got=f"{start!r} ({type(start).__name__})",
                remedy="Leave it out to train from nothing.",
            )
        return cls(model, name_of(model.path))

    @property
    def identity(self) -> dict[str, Any]:
        """Name and SHA-256 of the model, and those of its own start."""
        found = {"name": self.name, "sha256": self.model.sha256 or sha256(self.model.to_bytes())}
        own = self.model.training.get("start")
        return found if own is None else {**found, "start": _lineage(own)}

    def dial_of(self, architecture: Architecture, spec: DataSpec) -> list[list[float]] | None:
        """Return the calibrated dial of the start for an architecture of as many levels.

        That of a start of any factor is the one for the factor of the data.
        """
        known = self.model.training
        if len(architecture.latents) != len(self.model.architecture.latents):
            return None
        if spec.scales is None or "dial_by_factor" not in known:
            return known.get("dial")
        return dial_at(known, spec.scales.fixed)

    def adapted(self, spec: DataSpec, ds: xr.Dataset) -> DataSpec:
        """Return the description of the data as the start needs it, after `check`.

        The network of a start of any factor is given the factor and the pixel size of the data.
        """
        side = pixel_size(spec) or curvilinear_km(ds[spec.target], spec.y, spec.x)
        self.check(spec, side)
        scales = self.model.spec.scales
        if scales is None or spec.scales is not None:
            return spec
        try:
            factor = whole_blocks(spec)
        except ConfigError:
            factor = round(_ratio(spec) or scales.factor[0])
        side = side or scales.pixel[0]
        return replace(spec, scales=replace(scales, spacing=side, fixed=factor))

    def fitting(
        self,
        architecture: Architecture,
        generator: Mapping[str, Any] | None,
        spec: DataSpec,
        parts: Iterable[xr.Dataset | None],
    ) -> Architecture:
        """Return the architecture without an inherited constraint if the data cannot fulfil it.

        Parameters
        ----------
        architecture, generator
            Architecture, and the caller's keys: a constraint that the caller wants stays.
        spec, parts
            Description of the data, and the samples for training and validation.
        """
        if not architecture.constrain or "constrain" in (generator or {}):
            return architecture
        try:
            for part in parts:
                if part is not None:
                    check_block_means(part, spec)
        except ConfigError:
            return replace(architecture, constrain=0)
        return architecture

    def check(self, spec: DataSpec, side: float | None) -> None:
        """Warn of data that are far from those of the start: pixel size, factor, conditions.

        ``side`` is that of a pixel of the data, in km; None if it is unknown.
        """
        known, scales = self.model.spec, self.model.spec.scales
        ranges = [_around(pixel_size(known)), _around(_ratio(known))]
        if scales is not None and scales.open:
            ranges = [scales.pixel, scales.factor]
        found = [side, None if spec.random_scale else _ratio(spec)]
        words = ["pixels of {} km", "{} pixels per cell of the rain condition"]
        for text, trained, here in zip(words, ranges, found, strict=True):
            if trained and here and not 0.99 * trained[0] <= here <= 1.01 * trained[1]:
                usual = f"{trained[0]:.3g} to {trained[1]:.3g}"
                self._warn(
                    f"it serves {text.format(usual)}, these data have {here:.3g}: its patterns "
                    "are of another scale. Train longer than by default, and compare with a "
                    "training without a start"
                )
        if (known.rain_condition is None) != (spec.rain_condition is None):
            self._warn(
                "either the start or these data, not both, have a rain condition that members are "
                "added to: the head of the network is not taken"
            )

    def scaling(self, fitted: Scaling, spec: DataSpec) -> Scaling:
        """Return the scaling of the start where it applies, in the units of the data.

        Weights mean what they mean for normalised values: the rain of a start keeps its scaling
        although the data have another wet threshold, and so does a variable of the same role.
        Rain that cannot be converted, and new variables, keep the scaling fitted to the data.

        Parameters
        ----------
        fitted
            Scaling fitted to the data.
        spec
            Of the data.
        """
        known = self.model.scaling
        target = self._rain(known.target, fitted.target, spec)
        matched = self._matched(spec)
        variables = {
            v.name: self._one(known.variables[matched[v.name]], fitted.variables[v.name], spec)
            if v.name in matched
            else fitted.variables[v.name]
            for v in spec.variables
        }
        return Scaling(target, variables)

    def _one(
        self,
        known: RainScaling | StandardScaling,
        fitted: RainScaling | StandardScaling,
        spec: DataSpec,
    ) -> RainScaling | StandardScaling:
        if isinstance(known, RainScaling) and isinstance(fitted, RainScaling):
            return self._rain(known, fitted, spec)
        if isinstance(known, StandardScaling) and isinstance(fitted, StandardScaling):
            try:
                scale, offset = affine(known.units, fitted.units, "start")
            except UnitsError:
                return fitted
            return StandardScaling(fitted.units, scale * known.mean + offset, scale * known.std)
        return fitted

    def _rain(self, known: RainScaling, fitted: RainScaling, spec: DataSpec) -> RainScaling:
        scale = converting(
            known.units, fitted.units, (self.model.spec.step_seconds, spec.step_seconds)
        )
        if scale is None:
            self._warn(
                f"its rain in '{known.units}' does not convert into '{fitted.units}': the scaling "
                "of the data is taken, and weights mean something else than in the start"
            )
            return fitted
        return replace(known, units=fitted.units, eps=known.eps * scale)

    def _matched(self, spec: DataSpec) -> dict[str, str]:
        """Return the variable of the start by that of the data: first rain, then equal names."""
        pairs = {}
        rain = [s.rain_condition for s in (spec, self.model.spec)]
        if rain[0] is not None and rain[1] is not None:
            pairs[rain[0].name] = rain[1].name
        known = {(v.role, v.name) for v in self.model.spec.variables if v is not rain[1]}
        for v in spec.variables:
            if (v.role, v.name) in known and v.name not in pairs:
                pairs[v.name] = v.name
        return pairs

    def initialize(self, networks: Networks, spec: DataSpec, *, masked: bool) -> Taken:
        """Take weights from the start, and return a report.

        Parameters
        ----------
        networks
            Untrained networks for the data; their weights change in place. Those of a start with
            fewer networks are taken more than once, of one with more the first ones.
        spec
            Of the data.
        masked
            The network has a mask.

        Raises
        ------
        ConfigError
            No weights fit.
        """
        known, same = self.model, _same_domain(self.model.spec, spec)
        inputs = (
            _inputs(known.spec, known.network, masked=known.record.masked, here=same),
            _inputs(spec, networks[0], masked=masked, here=True),
        )
        head = (known.network.base is None) == (networks[0].base is None)
        reports = [
            take_weights(known.networks[n % len(known.networks)], one, inputs, head=head)
            for n, one in enumerate(networks)
        ]
        taken = reports[0]
        if taken.share == 0:
            raise ConfigError.of(
                "start",
                expected="a model with weights that fit the network",
                got=f"{self.name}, whose layers all have other shapes",
                remedy="Leave `generator` out, which takes the architecture of the start, or "
                "leave `start` out.",
            )
        if taken.used < FEW:
            self._warn(
                f"only {taken.used:.0%} of its weights fit the network. Leave `generator` out to "
                "take its architecture"
            )
        left = len(known.networks) - len(networks)
        if left > 0:
            used = taken.used * len(networks) / len(known.networks)
            unused = (*taken.unused, f"{left} of its {len(known.networks)} networks")
            taken = replace(taken, used=used, unused=unused)
        return taken

    def _warn(self, text: str) -> None:
        warn_user(f"start '{self.name}': {text}.")


def converting(
    source: str, wanted: str, steps: tuple[float | None, float | None] = (None, None)
) -> float | None:
    """Return the factor from one unit of rain to another; None if they do not convert.

    A depth is the rate times the step, in seconds, of its samples.

    Examples
    --------
    >>> converting("mm h-1", "mm/day"), converting("mm h-1", "mm", (300.0, 3600.0))
    (24.0, 1.0)
    >>> converting("mm", "mm h-1") is None
    True
    """
    try:
        return round(factor(source, wanted, what="start"), 12)
    except UnitsError:
        rates = [_as_rate(unit, step) for unit, step in zip((source, wanted), steps, strict=True)]
    return None if rates[0] is None or rates[1] is None else round(rates[0] / rates[1], 12)


def _as_rate(units: str, step: float | None) -> float | None:
    """Return the rate in mm h-1 of one unit of rain that falls within a step."""
    if exponents_of(units) == RATE:
        return factor(units, "mm h-1", what="start")
    return factor(units, "mm", what="start") * 3600 / step if step else None


def _around(size: float | None) -> tuple[float, float] | None:
    """Return the range of sizes that are not far from one."""
    return None if size is None else (size / FAR, size * FAR)


def _ratio(spec: DataSpec) -> float | None:
    """Return the pixels along a side of a cell of the rain condition; None without one."""
    variable = spec.rain_condition
    if variable is None or not variable.shape:
        return None
    return math.sqrt(math.prod(spec.shape) / math.prod(variable.shape))


def _inputs(spec: DataSpec, network: Ladder, *, masked: bool, here: bool) -> Inputs:
    """Name the inputs of a network; positions count only on the same domain (``here``)."""
    maps = input_names(spec, masked=masked, constrained=network.constraint is not None)
    maps = [name if here else re.sub(r"^position", "position elsewhere", name) for name in maps]
    pooled = {
        f"{v.role} '{v.name}'": math.prod(v.shape) * (1 + v.gaps)
        for v in spec.variables
        if v.pooled
    }
    if spec.scales is not None:
        pooled["scale"] = pooled_size(spec) - sum(pooled.values())
    return Inputs(tuple(maps), pooled)


def _same_domain(one: DataSpec, other: DataSpec) -> bool:
    """Return True if two target grids are the same, so that positions mean the same."""
    pairs = [(one.axis(a), other.axis(b)) for a, b in ((one.y, other.y), (one.x, other.x))]
    return one.shape == other.shape and not any(moved(b, a) for a, b in pairs)


def _lineage(start: Mapping[str, Any]) -> dict[str, Any]:
    """Return name and SHA-256 of a start and of its own start, without the report."""
    found = {key: start[key] for key in ("name", "sha256")}
    return {**found, "start": _lineage(start["start"])} if "start" in start else found
