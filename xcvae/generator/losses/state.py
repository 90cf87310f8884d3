"""What a loss term sees of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from xcvae.errors import ComponentError, explain
from xcvae.fields.record import Record, bin_edges
from xcvae.fields.scaling import Scaling

__all__ = ["LossState", "Space", "learned_by", "learned_of"]

#: How far below zero, in normalised space, a dry pixel of a draw still feels a score.
REACH = 1.0

Space = Literal["physical", "normalised"]
"""Where fields are compared: in the target's units, or as the network sees them, dry at zero."""


@dataclass
class LossState:
    """What a loss term can see of one training step. Nothing is computed before it is asked for.

    The reconstruction and its KL are made if any term of the stage needs them. A term that says
    otherwise, by a class attribute ``needs`` without ``"posterior"`` (as in
    ``needs: ClassVar = ("prior",)``), does not look at `output` and `kl`: where no other term
    needs them either, they are empty.

    Attributes
    ----------
    x, output
        Target and reconstruction in the model's normalised space, (batch, 1, y, x); the target is
        zero where it is masked.
    mask
        True where the target is valid; same shape.
    kl
        KL(q || p) per level in nats per sample, coarsest first; each (batch,).
    step, progress
        Number of the step, and the share of the training that is done, 0 to 1.
    scaling, record
        The border to physical values, and the record of the training data.
    draw
        Draws one field from the prior for each sample of the batch, normalised.
    draw_many
        Draws as many as it is asked for in one pass; used instead of ``draw`` where it is given.
    learned
        Trainable values by name, the ones that the terms ask for with `learned_of`.
    """

    x: Tensor
    output: Tensor
    mask: Tensor
    kl: list[Tensor]
    step: int
    progress: float
    scaling: Scaling
    record: Record
    draw: Callable[[], Tensor]
    draw_many: Callable[[int], list[Tensor]] | None = None
    learned: Mapping[str, Tensor] = field(default_factory=dict)
    _draws: list[Tensor] = field(default_factory=list)
    _members: dict[tuple[int, Space], Tensor] = field(default_factory=dict)

    @cached_property
    def observed(self) -> Tensor:
        """The target in physical units."""
        return self.scaling.physical(self.x)

    @cached_property
    def reconstructed(self) -> Tensor:
        """The reconstruction in physical units."""
        return self.scaling.physical(self.output)

    def prior_draws(self, count: int) -> list[Tensor]:
        """``count`` prior draws per sample, normalised; drawn once and shared by all terms."""
        lacking = count - len(self._draws)
        if lacking > 0 and self.draw_many is not None:
            self._draws += self.draw_many(lacking)
        while len(self._draws) < count:
            self._draws.append(self.draw())
        return self._draws[:count]

    def members(self, count: int, space: Space) -> Tensor:
        """``count`` prior draws in one tensor, (count, batch, 1, y, x), dry at zero."""
        if (count, space) not in self._members:
            stacked = torch.stack(self.prior_draws(count))
            self._members[count, space] = self._in(space, stacked) + self._reach(space, stacked)
        return self._members[count, space]

    def target(self, space: Space) -> Tensor:
        """The target in a space, (batch, 1, y, x)."""
        return self.observed if space == "physical" else self.x

    def reconstruction(self, space: Space) -> Tensor:
        """The reconstruction in a space, dry at zero, (batch, 1, y, x)."""
        return self.reconstructed if space == "physical" else self._in(space, self.output)

    def _in(self, space: Space, fields: Tensor) -> Tensor:
        # On the normalised side all that is below zero means dry, as it does on the physical one.
        return self.scaling.physical(fields) if space == "physical" else fields.clamp(min=0)

    def _reach(self, space: Space, fields: Tensor) -> Tensor:
        """Nothing, with the gradient that dry pixels lack: a draw can be told that it is too dry.

        It ends some way below zero, or pixels that are rightly dry would be driven on and on.
        """
        below = fields.clamp(-REACH, 0.0)
        target = self.scaling.target
        slope = target.eps * target.divisor if space == "physical" else 1.0
        return slope * (below - below.detach())

    def typical(self, space: Space) -> float:
        """Mean of the training record in a space, never zero: what makes scores comparable."""
        smallest = 1e-6 * self.record.wet_threshold
        if space == "physical":
            return max(self.record.mean, smallest)
        edges = bin_edges(self.record.wet_threshold)
        values = self.scaling.target.normalise(np.sqrt(edges[:-1] * edges[1:]))
        counts = np.asarray(self.record.counts, np.float64)
        return max(float(counts @ values) / max(float(counts.sum()), 1.0), smallest)

    def parameter(self, name: str) -> Tensor:
        """The trainable value of a name.

        Raises
        ------
        ComponentError
            If the training keeps no such value.
        """
        if name not in self.learned:
            raise ComponentError(
                explain(
                    f"learned value '{name}'",
                    expected="a trainable value of that name in LossState.learned",
                    got=sorted(self.learned),
                    remedy="Make one for each name of learned_of(term) before the first step.",
                )
            )
        return self.learned[name]

    def mean(self, values: Tensor) -> Tensor:
        """Mean over valid pixels."""
        return (values * self.mask).sum() / self.mask.sum().clamp(min=1)

    def pixels(self) -> Tensor:
        """Valid pixels per sample, at least 1."""
        return self.mask.flatten(1).sum(1, dtype=torch.float32).clamp(min=1)


def learned_of(term: object) -> dict[str, float]:
    """Trainable values that a term asks for: initial value by name; {} for most.

    Examples
    --------
    >>> from xcvae.generator.losses import KL, Laplace
    >>> learned_of(KL()), list(learned_of(Laplace(scale="learned")))
    ({}, ['laplace_log_scale'])
    """
    learned = getattr(term, "learned", None)
    return {} if learned is None else dict(learned())


def learned_by(terms: Iterable[tuple[str, object]]) -> dict[str, float]:
    """Trainable values of all terms of a training: initial value by name.

    Parameters
    ----------
    terms
        Names and terms of all stages. A term that is named in several stages is one: it goes on
        with what it has learned.

    Raises
    ------
    ComponentError
        Two terms ask for a value of the same name: they would pull at one number.

    Examples
    --------
    >>> from xcvae.generator.losses import KL, Laplace
    >>> list(learned_by([("laplace", Laplace(scale="learned")), ("kl", KL())]))
    ['laplace_log_scale']
    """
    initial: dict[str, float] = {}
    owners: dict[str, str] = {}
    for term_name, term in terms:
        for name, value in learned_of(term).items():
            owner = owners.setdefault(name, term_name)
            if owner != term_name:
                raise ComponentError(
                    explain(
                        f"learned value '{name}'",
                        expected="one loss term that asks for it",
                        got=f"two, '{owner}' and '{term_name}'",
                        remedy="Begin the names in learned() with the name of the term, or leave "
                        "one of the two out.",
                    )
                )
            initial.setdefault(name, value)
    return initial
