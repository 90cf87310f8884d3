"""State of a training step as loss terms see it, and the means over windows that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xcvae.errors import ComponentError
from xcvae.fields.record import Record, bin_edges
from xcvae.fields.scaling import Scaling

#: Depth below zero, in normalised space, to which a dry pixel of a draw gets a gradient.
REACH = 1.0

Space = Literal["physical", "normalised"]
"""Space in which fields are compared: the target's units, or normalised values, dry at zero."""


@dataclass
class LossState:
    """Tensors of one training step that a loss term may use, computed on first use.

    The reconstruction and its KL are computed if any term of the stage needs them. A term with a
    class attribute ``needs`` without ``"posterior"`` (as in ``needs: ClassVar = ("prior",)``)
    uses neither `output` nor `kl`: they are empty if no other term needs them.

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
        Conversion to physical values, and the distribution of the training rain.
    draw
        Draws one field from the prior for each sample of the batch, normalised.
    draw_many
        Draws the given number of fields in one pass; used instead of ``draw`` if given.
    learned
        Trainable values by name: those of `learned_of` for all terms.
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
        """Return ``count`` prior draws per sample, normalised; drawn once, shared by all terms."""
        lacking = count - len(self._draws)
        if lacking > 0 and self.draw_many is not None:
            self._draws += self.draw_many(lacking)
        while len(self._draws) < count:
            self._draws.append(self.draw())
        return self._draws[:count]

    def members(self, count: int, space: Space) -> Tensor:
        """Return ``count`` prior draws in one tensor, (count, batch, 1, y, x), dry at zero."""
        if (count, space) not in self._members:
            stacked = torch.stack(self.prior_draws(count))
            self._members[count, space] = self._in(space, stacked) + self._reach(space, stacked)
        return self._members[count, space]

    def target(self, space: Space) -> Tensor:
        """Return the target in a space, (batch, 1, y, x)."""
        return self.observed if space == "physical" else self.x

    def reconstruction(self, space: Space) -> Tensor:
        """Return the reconstruction in a space, dry at zero, (batch, 1, y, x)."""
        return self.reconstructed if space == "physical" else self._in(space, self.output)

    def _in(self, space: Space, fields: Tensor) -> Tensor:
        # Normalised values below zero mean dry, as zero does in physical units.
        return self.scaling.physical(fields) if space == "physical" else fields.clamp(min=0)

    def _reach(self, space: Space, fields: Tensor) -> Tensor:
        """Return zeros with the gradient that dry pixels lack, so that too dry draws can improve.

        The gradient ends at ``-REACH``: without a limit, a score would go on pushing pixels that
        are rightly dry.
        """
        below = fields.clamp(-REACH, 0.0)
        target = self.scaling.target
        slope = target.eps * target.divisor if space == "physical" else 1.0
        return slope * (below - below.detach())

    def typical(self, space: Space) -> float:
        """Return the mean of the training record in a space, above zero: the unit of scores."""
        smallest = 1e-6 * self.record.wet_threshold
        if space == "physical":
            return max(self.record.mean, smallest)
        edges = bin_edges(self.record.wet_threshold)
        values = self.scaling.target.normalise(np.sqrt(edges[:-1] * edges[1:]))
        counts = np.asarray(self.record.counts, np.float64)
        return max(float(counts @ values) / max(float(counts.sum()), 1.0), smallest)

    def typical_above(self, threshold: float) -> float:
        """Return the mean over the record of what exceeds a physical threshold, the unit of scores.

        At threshold zero that is the record's mean rain, and never less than a thousandth of it:
        beyond the record it would be zero.
        """
        edges = bin_edges(self.record.wet_threshold)
        amounts, counts = np.sqrt(edges[:-1] * edges[1:]), np.asarray(self.record.counts, float)
        above, total = (float(counts @ np.maximum(amounts - t, 0.0)) for t in (threshold, 0.0))
        # A share, so that the width of the bins cancels.
        return max(above / total if total > 0 else 0.0, 1e-3) * self.typical("physical")

    def parameter(self, name: str) -> Tensor:
        """Return the trainable value of a name.

        Raises
        ------
        ComponentError
            If the training has no value of this name.
        """
        if name not in self.learned:
            raise ComponentError.of(
                f"learned value '{name}'",
                expected="a trainable value of that name in LossState.learned",
                got=sorted(self.learned),
                remedy="Make one for each name of learned_of(term) before the first step.",
            )
        return self.learned[name]

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over valid pixels."""
        return (values * self.mask).sum() / self.mask.sum().clamp(min=1)

    def pixels(self) -> Tensor:
        """Count the valid pixels per sample, at least 1."""
        return self.mask.flatten(1).sum(1, dtype=torch.float32).clamp(min=1)


def learned_of(term: object) -> dict[str, float]:
    """Return the trainable values that a term declares: initial value by name; {} for most.

    Examples
    --------
    >>> from xcvae.generator.losses import KL, Laplace
    >>> learned_of(KL()), list(learned_of(Laplace(scale="learned")))
    ({}, ['laplace_log_scale'])
    """
    learned = getattr(term, "learned", None)
    return {} if learned is None else dict(learned())


def learned_by(terms: Iterable[tuple[str, object]]) -> dict[str, float]:
    """Return the trainable values of all terms of a training: initial value by name.

    Parameters
    ----------
    terms
        Names and terms of all stages. A term that several stages name is one term, whose values
        are trained across them.

    Raises
    ------
    ComponentError
        If two terms declare a value of the same name.

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
                raise ComponentError.of(
                    f"learned value '{name}'",
                    expected="one loss term that declares it",
                    got=f"two, '{owner}' and '{term_name}'",
                    remedy="Prefix the names in learned() with the name of the term, or remove "
                    "one of the two terms.",
                )
            initial.setdefault(name, value)
    return initial


def pool(fields: Tensor, side: int) -> Tensor:
    """Average over square windows of ``side`` pixels, those cut off by an edge included.

    Parameters
    ----------
    fields
        (..., 1, y, x) with at least one leading dim, of any size; also smaller than a window.
    side
        Pixels along each side of a window.
    """
    if side == 1:
        return fields
    flat = fields.flatten(0, -4)
    pooled = F.avg_pool2d(flat, side, ceil_mode=True, count_include_pad=False)
    return pooled.reshape(*fields.shape[:-3], *pooled.shape[1:])


def window_sums(fields: Tensor, side: int | None) -> Tensor:
    """Sum over square windows as in `pool`; ``side`` None is one window for the whole map."""
    if side is None:
        return fields.sum((-2, -1), keepdim=True)
    flat = fields.flatten(0, -4)
    sums = F.avg_pool2d(flat, side, ceil_mode=True, divisor_override=1)
    return sums.reshape(*fields.shape[:-3], *sums.shape[1:])


def check_sides(term: object, sides: Sequence[int]) -> None:
    """Refuse ``poolings`` that are not distinct sides of windows.

    Raises
    ------
    ComponentError
        If the list is empty, a side is below 1, or a side occurs twice.
    """
    if not sides or min(sides) < 1 or len(set(sides)) < len(sides):
        raise ComponentError.of(
            f"{type(term).__name__}, parameter 'poolings'",
            expected="at least one side of a window in pixels, each >= 1 and named once",
            got=repr(sides),
            remedy="Give a list such as [1, 4, 16]; [1] scores single pixels.",
        )
