"""Networks of a model: one ladder, or several that share the members of an ensemble.

Several networks, which differ by their initial weights and by the batches that they saw, differ
most where the record says least: what one of them cannot know of its own errors becomes spread of
the ensemble (Lakshminarayanan et al. 2017, arXiv:1612.01474).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import overload

from torch import Tensor, nn

from xcvae.generator.network.ladder import Ladder


class Networks(Sequence[Ladder]):
    """Ladders of equal architecture; member ``m`` is drawn by the one of number ``m`` modulo N.

    Parameters
    ----------
    ladders
        At least one.
    """

    def __init__(self, ladders: Iterable[Ladder]) -> None:
        self._ladders = list(ladders)

    def __len__(self) -> int:
        return len(self._ladders)

    @overload
    def __getitem__(self, index: int) -> Ladder: ...
    @overload
    def __getitem__(self, index: slice) -> list[Ladder]: ...
    def __getitem__(self, index: int | slice) -> Ladder | list[Ladder]:
        return self._ladders[index]

    def deal(self, members: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield the number of each network with members to draw, and the places of these.

        The number of a member alone decides on its network, so that it is the same field in any
        chunk, and whatever else is drawn.

        Parameters
        ----------
        members
            Numbers of members, at least 0.
        """
        for number in range(len(self)):
            own = [place for place, m in enumerate(members) if m % len(self) == number]
            if own:
                yield number, own

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights by name; those of the second ladder have ``2.`` before the name."""
        return {
            f"{_prefix(number)}{name}": weight
            for number, ladder in enumerate(self)
            for name, weight in ladder.state_dict().items()
        }

    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Set the weights, in place, to those of a result of `state_dict`."""
        for number, ladder in enumerate(self):
            prefix = _prefix(number)
            ladder.load_state_dict({name: weights[prefix + name] for name in ladder.state_dict()})

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of all ladders."""
        for ladder in self:
            yield from ladder.parameters()

    def train(self, mode: bool = True) -> None:
        """Set all ladders to training, or to drawing."""
        for ladder in self:
            ladder.train(mode)

    def set_temperature(self, temperature: float, finest: float = 1.0) -> None:
        """Set the factor of sigma of latents that follow the prior, in all ladders.

        Parameters
        ----------
        temperature
            The factor.
        finest
            Another factor, of the latents of the finest level.
        """
        for ladder in self:
            above = len(ladder.latents) - 1
            ladder.sigma_factors = (temperature,) * above + (temperature * finest,)


def _prefix(number: int) -> str:
    return f"{number + 1}." if number else ""
