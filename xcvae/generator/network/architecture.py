"""The choices that make a ladder: presets, and how the caller's keys change them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from xcvae.errors import ConfigError, nearest
from xcvae.fields.batches import POSITIONS
from xcvae.fields.block_means import whole_blocks
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.scaling import RainScaling
from xcvae.generator.network.constraint import BlockMeans
from xcvae.generator.network.initialization import initialize
from xcvae.generator.network.ladder import Ladder
from xcvae.generator.network.networks import Networks


@dataclass(frozen=True)
class Architecture:
    """Sizes and options of a ladder, coarsest level first.

    Attributes
    ----------
    channels, latents
        Feature and latent channels per level.
    blocks
        Residual blocks per level of the decoder.
    context
        Length of the vector that summarises conditions without a place on the grid.
    patch
        Side of the squares of pixels that the finest level works on as one: its maps, and the
        time they take, shrink by the square of it.
    separable
        Number of the finest levels that have separable blocks, which take a fraction of the time.
    constrain
        Pixels along a side of the blocks whose means members keep; 0 for none. A model of any
        factor has the smallest one here, and that of every batch with the batch.
    checkpointing
        Compute features twice in training instead of storing them, for grids that do not fit into
        memory otherwise.
    networks
        Number of networks of these sizes, among which members are dealt out.
    """

    channels: tuple[int, ...]
    latents: tuple[int, ...]
    blocks: int = 1
    context: int = 64
    patch: int = 1
    separable: int = 0
    constrain: int = 0
    checkpointing: bool = False
    networks: int = 1

    def __post_init__(self) -> None:
        if not self.channels or len(self.channels) != len(self.latents):
            raise _unequal(self.channels, self.latents)
        if min(*self.channels, *self.latents, self.blocks, self.context, self.patch, 1) < 1:
            raise ConfigError.of(
                "generator",
                expected="positive channels, latents, blocks, context and patch",
                got=self.to_json(),
                remedy="A level without latents cannot vary.",
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, for the model file."""
        text = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if self.networks == 1:
            del text["networks"]  # as in files of versions that had one network only
        return text

    @classmethod
    def from_json(cls, text: Mapping[str, Any]) -> Architecture:
        """Make an architecture of the result of `to_json`."""
        numbers = {k: v for k, v in text.items() if k not in ("channels", "latents")}
        return cls(tuple(text["channels"]), tuple(text["latents"]), **numbers)


PRESETS: dict[str, Architecture] = {
    "fast": Architecture((64, 64, 64, 64, 48, 16), (8, 8, 8, 8, 4, 4), patch=2, separable=6),
    "small": Architecture((64, 64, 64, 64, 48, 32), (8, 8, 8, 8, 4, 4), patch=2),
    "base": Architecture((128, 128, 128, 128, 96, 64), (16, 16, 16, 16, 8, 8), 2, patch=2),
    "large": Architecture((192, 192, 192, 192, 160, 96), (16, 16, 16, 16, 8, 8), 3, patch=2),
}

KEYS = (
    "preset", "levels", "channels", "latents", "blocks", "context", "patch", "separable",
    "constrain", "checkpointing", "networks",
)  # fmt: skip

#: Most networks of a model: each of them needs the training time of one.
MOST_NETWORKS = 8


def _unequal(channels: Sequence[int], latents: Sequence[int]) -> ConfigError:
    return ConfigError.of(
        "generator",
        expected="as many `channels` as `latents`, one per level, at least one",
        got=f"{len(channels)} and {len(latents)}",
        remedy="Give both lists, coarsest level first, or `levels`.",
    )


def resolve(
    generator: Mapping[str, Any] | None, spec: DataSpec, start: Architecture | None = None
) -> Architecture:
    """Turn the caller's ``generator`` into an architecture for the fields of ``spec``.

    Parameters
    ----------
    generator
        The caller's keys. ``levels`` keeps that many of the finest levels. Without it, levels of a
        preset whose map would be smaller than 2x2 are left out.
    spec
        Of the data.
    start
        Architecture of the model that a training starts from, which takes the place of the default
        preset with all of its levels.

    Raises
    ------
    ConfigError
        For unknown keys or presets, and for values that do not fit together.
    """
    options = _options(generator or {})
    for key in options:
        if key not in KEYS:
            raise ConfigError(f"generator: unknown key '{key}'. {nearest(key, KEYS)}")
    name = options.get("preset", "small")
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"generator.preset: unknown preset '{name}'. {nearest(name, PRESETS)}")
    preset = PRESETS[name]
    if start is not None and "preset" not in options:
        preset = start
        if not {"channels", "latents"} & options.keys():
            options.setdefault("levels", len(start.channels))
        options.setdefault("constrain", _can_constrain(start, spec))
        options.setdefault("checkpointing", start.checkpointing)
    patch = _number("patch", options.get("patch", preset.patch))
    channels = tuple(_numbers("channels", options.get("channels", preset.channels)))
    latents = tuple(_numbers("latents", options.get("latents", preset.latents)))
    if "latents" in options and len(latents) > len(channels):
        raise _unequal(channels, latents)
    height, width = spec.shape
    levels = _levels(options, len(channels), (-(-height // patch), -(-width // patch)))
    return replace(
        preset,
        channels=channels[-levels:],
        latents=latents[-levels:],
        blocks=_number("blocks", options.get("blocks", preset.blocks)),
        context=_number("context", options.get("context", preset.context)),
        patch=patch,
        separable=_number("separable", options.get("separable", preset.separable), least=0),
        constrain=_block_side(options.get("constrain", False), spec),
        checkpointing=_switch("checkpointing", options.get("checkpointing", False)),
        networks=_number("networks", options.get("networks", preset.networks), most=MOST_NETWORKS),
    )


def _options(given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError.of(
            "generator",
            expected="a dict of options",
            got=repr(given),
            remedy="For example {'preset': 'small', 'constrain': True}.",
        )
    return dict(given)


def build_networks(
    architecture: Architecture, spec: DataSpec, scaling: RainScaling, *, masked: bool
) -> Networks:
    """Make the untrained networks of a model, which differ by their initial weights."""
    count = range(architecture.networks)
    return Networks(build_network(architecture, spec, scaling, masked=masked) for _ in count)


def build_network(
    architecture: Architecture, spec: DataSpec, scaling: RainScaling, *, masked: bool
) -> Ladder:
    """Make an untrained ladder for a Dataset described by ``spec``; ``scaling`` of the target."""
    side = architecture.constrain
    names = input_names(spec, masked=masked, constrained=side > 0)
    ladder = Ladder(
        conditions=len(names) - 1,  # the ladder adds the map of ones
        pooled=pooled_size(spec),
        channels=architecture.channels,
        latents=architecture.latents,
        blocks=architecture.blocks,
        separable=architecture.separable,
        context=architecture.context,
        base=base_channel(spec),
        patch=architecture.patch,
        constraint=BlockMeans(scaling, side) if side else None,
        checkpointing=architecture.checkpointing,
    )
    initialize(ladder)
    return ladder


def _block_side(constrain: object, spec: DataSpec) -> int:
    """Return the side, in pixels, of the blocks whose means are kept; 0 for no constraint."""
    return whole_blocks(spec) if _switch("constrain", constrain) else 0


def _can_constrain(start: Architecture, spec: DataSpec) -> bool:
    """Return True if a start keeps block means, and the data have cells of whole blocks."""
    try:
        return start.constrain > 0 and whole_blocks(spec) > 0
    except ConfigError:
        return False


def _switch(key: str, value: object) -> bool:
    if value not in (True, False):
        raise ConfigError.of(
            f"generator.{key}",
            expected="true or false",
            got=repr(value),
            remedy="Write true or false without quotes (True or False in Python).",
        )
    return bool(value)


def base_channel(spec: DataSpec) -> int | None:
    """Return the channel of the aligned rain condition that the output is added to."""
    aligned = [v for v in spec.variables if v.aligned]
    return None if spec.rain_condition is None else aligned.index(spec.rain_condition)


def _levels(options: Mapping[str, Any], available: int, size: tuple[int, int]) -> int:
    if "levels" in options:
        levels = _number("levels", options["levels"])
        if levels > available:
            raise ConfigError.of(
                "generator.levels",
                expected=f"at most {available}, the levels of `channels`",
                got=levels,
                remedy="Give `channels` and `latents` for that many levels.",
            )
        return levels
    levels = 1
    while levels < available and min(size) > 2**levels:
        levels += 1
    return levels


def _number(key: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    highest = math.inf if most is None else most
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= highest:
        raise ConfigError.of(
            f"generator.{key}",
            expected=f"an integer >= {least}" if most is None else f"{least} to {most}",
            got=repr(value),
            remedy=f"Give a whole number, or leave `{key}` out to take that of the preset.",
        )
    return value


def _numbers(key: str, values: object) -> list[int]:
    if not isinstance(values, list | tuple):
        raise ConfigError.of(
            f"generator.{key}",
            expected="a list of integers, one per level, coarsest first",
            got=repr(values),
            remedy="For example [64, 48, 32].",
        )
    return [_number(key, v) for v in values]


def input_names(spec: DataSpec, *, masked: bool, constrained: bool) -> list[str]:
    """Return the roles of the network's input maps in their order, the map of ones last.

    The rain that the output is added to is ``rain`` whatever its name; other conditions and
    statics go by role and name.
    """
    base = base_channel(spec)
    aligned = [v for v in spec.variables if v.aligned]
    names = ["rain" if n == base else f"{v.role} '{v.name}'" for n, v in enumerate(aligned)]
    names += [f"known '{v.name}'" for v in aligned if v.gaps]
    names += ["mask"] * masked
    names += [f"position {n}" for n in range(POSITIONS if spec.located else 0)]
    return [*names, *["block means"] * constrained, "ones"]


def pooled_size(spec: DataSpec) -> int:
    """Count the values per sample in `Batch.pooled`; 0 for none."""
    numbers = 0 if spec.scales is None else len(spec.scales.numbers(spec.scales.factor[0]))
    values = sum(math.prod(v.shape) * (1 + v.gaps) for v in spec.variables if v.pooled)
    return values + numbers
