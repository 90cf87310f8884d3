"""Weights of one ladder taken over into another one, by name, shape and the roles of its inputs.

Levels count from the finest one. Input maps and pooled values go by their role: what the other
ladder does not have begins with weights of zero, and changes nothing before the first step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xcvae.generator.network.ladder import Ladder

#: Layers whose inputs are maps, and the one whose inputs are pooled values.
STEMS = ("encode_condition.stem.weight", "encode_target.stem.weight")
CONTEXT = "encode_context.layers.0.weight"
#: Parts of the network by the first word of their weights' names.
PARTS = {
    "encode_condition": "condition encoder",
    "encode_target": "target encoder",
    "encode_context": "context encoder",
    "narrow": "decoder",
    "head": "head",
}


@dataclass(frozen=True)
class Inputs:
    """Roles of the inputs of a ladder.

    Attributes
    ----------
    maps
        Roles of the input maps in their order, the map of ones last.
    pooled
        Number of values of each pooled condition, by role.
    """

    maps: tuple[str, ...]
    pooled: Mapping[str, int]


@dataclass(frozen=True)
class Taken:
    """Report of the weights that a ladder took from another one.

    Attributes
    ----------
    share, used
        Share of its weights that come from the other one, and of the other's that it took.
    parts
        Parts that come from the other one as a whole.
    new
        Parts and inputs that the other one does not have.
    unused
        Inputs of the other one that this one does not have.
    """

    share: float
    used: float
    parts: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, for the model file."""
        found = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()}
        return {**found, "share": round(self.share, 4), "used": round(self.used, 4)}

    def __str__(self) -> str:
        text = f"{self.share:.0%} of the weights"
        text += f"; new: {', '.join(self.new)}" if self.new else ""
        return text + (f"; not used: {', '.join(self.unused)}" if self.unused else "")


@torch.no_grad()
def take_weights(
    source: Ladder, network: Ladder, inputs: tuple[Inputs, Inputs], *, head: bool = True
) -> Taken:
    """Take over all weights that fit, and report them.

    Parameters
    ----------
    source
        Trained ladder.
    network
        Untrained ladder; its weights change in place.
    inputs
        Inputs of the source, and of the network.
    head
        Take the head too. Without it, the head of the network stays as it is.

    Returns
    -------
    Taken
    """
    weights, wanted = source.state_dict(), network.state_dict()
    shift = len(source.latents) - len(network.latents)
    counts: dict[str, list[int]] = {}
    for name, weight in wanted.items():
        part = _part(name)
        count = counts.setdefault(part, [0, 0])
        count[1] += weight.numel()
        known = weights.get(_shifted(name, shift))
        known = None if known is None else known.to(weight.device)
        if known is None or (part == "head" and not head):
            continue
        if name in STEMS:
            taken = _take_maps(known, weight, inputs, source.patch, network.patch)
        elif name == CONTEXT:
            taken = _take_pooled(known, weight, inputs)
        else:
            taken = known.numel() if known.shape == weight.shape else 0
            if taken:
                weight.copy_(known)
        count[0] += taken
    return _report(counts, sum(weight.numel() for weight in weights.values()), inputs)


def _report(
    counts: Mapping[str, Sequence[int]], available: int, inputs: tuple[Inputs, Inputs]
) -> Taken:
    own, new = ([*one.maps, *one.pooled] for one in inputs)
    fresh = [name for name in new if name not in own]
    # A new input map alone does not make its encoder a new part.
    parts = [part for part, count in counts.items() if count[0]]
    taken = sum(part[0] for part in counts.values())
    return Taken(
        taken / sum(part[1] for part in counts.values()),
        taken / available,
        tuple(parts),
        tuple([part for part in counts if part not in parts] + _short(fresh)),
        tuple(_short([name for name in own if name not in new])),
    )


def _short(names: Sequence[str]) -> list[str]:
    """Name the position maps once."""
    return list(dict.fromkeys(re.sub(r"position \d+.*", "position", name) for name in names))


def _part(name: str) -> str:
    first, number = name.split(".")[:2]
    return f"level {int(number) + 1}" if first == "levels" else PARTS.get(first, first)


def _shifted(name: str, shift: int) -> str:
    """Return the name of a level's weights in a ladder with ``shift`` more levels."""
    found = re.fullmatch(r"(levels|narrow)\.(\d+)\.(.+)", name)
    return f"{found[1]}.{int(found[2]) + shift}.{found[3]}" if found else name


def _take_maps(
    known: Tensor, weight: Tensor, inputs: tuple[Inputs, Inputs], patch: int, wanted: int
) -> int:
    """Take the columns of a stem by the roles of its maps; return the number of weights."""
    if patch != wanted or known.shape[0] != weight.shape[0] or known.shape[2:] != weight.shape[2:]:
        return 0
    cells = patch**2
    columns = [dict(zip(one.maps, _columns(cells), strict=False)) for one in inputs]
    if known.shape[1] > cells * len(inputs[0].maps):  # the encoder of the target sees it, last
        for one, found in zip(inputs, columns, strict=True):
            found["target"] = slice(cells * len(one.maps), cells * (len(one.maps) + 1))
    taken = 0
    fresh = torch.zeros_like(weight)
    for role, place in columns[1].items():
        if role in columns[0]:
            fresh[:, place] = known[:, columns[0][role]]
            taken += fresh[:, place].numel()
    for role in columns[0].keys() - columns[1].keys():
        if role == "mask" or role.startswith("known "):
            # Without gaps, a mask is a map of ones.
            fresh[:, columns[1]["ones"]] += known[:, columns[0][role]]
    weight.copy_(fresh)
    return taken


def _columns(cells: int) -> Iterator[slice]:
    start = 0
    while True:
        yield slice(start, start + cells)
        start += cells


def _take_pooled(known: Tensor, weight: Tensor, inputs: tuple[Inputs, Inputs]) -> int:
    """Take the columns of the context encoder by the roles of pooled conditions."""
    if known.shape[0] != weight.shape[0]:
        return 0
    places: list[dict[str, slice]] = []
    for one in inputs:
        start, found = 0, {}
        for role, count in one.pooled.items():
            found[role] = slice(start, start + count)
            start += count
        places.append(found)
    fresh, taken = torch.zeros_like(weight), 0
    for role, place in places[1].items():
        if inputs[0].pooled.get(role) == inputs[1].pooled[role]:
            fresh[:, place] = known[:, places[0][role]]
            taken += fresh[:, place].numel()
    weight.copy_(fresh)
    return taken
