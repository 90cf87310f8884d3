"""Proper scores of prior draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from xcvae.generator.losses.state import LossState, Space, check_sides, pool, window_sums
from xcvae.registry.components import Component, Range


class _PooledScore(Component):
    """Base of the scores of windows at several poolings."""

    needs: ClassVar[tuple[str, ...]] = ("prior",)

    if TYPE_CHECKING:  # parameters of the subclasses, in the order of their documentation
        draws: int
        poolings: tuple[int, ...]
        alpha: float
        weight: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sides(self, self.poolings)

    def _score(self, members: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
        """Return the almost-fair score for the distance of a term, the mean over the poolings.

        Parameters
        ----------
        members, truth
            Zero where masked, (draw, batch, 1, y, x) and (batch, 1, y, x).
        mask
            1 where valid, 0 elsewhere; as `truth`.
        """
        draws = self.draws
        scores = []
        for side in self.poolings:
            share = pool(mask, side)[None]
            pooled, observed = (self._over_windows(one, side) for one in (members, truth))
            skill = self._distance(pooled - observed, share).sum() / draws
            # Draws whose numbers differ by k, for all k, are all pairs, each once.
            pairs = [self._distance(pooled[k:] - pooled[:-k], share).sum() for k in range(1, draws)]
            spread = torch.stack(pairs).sum() * (2 / (draws * (draws - 1)))
            score = skill - 0.5 * (1 - (1 - self.alpha) / draws) * spread
            scores.append(score / share.sum().clamp(min=1e-9))
        return torch.stack(scores).mean()

    def _over_windows(self, fields: Tensor, side: int) -> Tensor:
        """Return what is scored of each window: its mean."""
        return pool(fields, side)

    def _distance(self, differences: Tensor, share: Tensor) -> Tensor:
        """Return the distance of two means over a window, times its valid share.

        Parameters
        ----------
        differences
            Of masked means over windows, (n, batch, 1, y, x).
        share
            Valid share of the windows, (1, batch, 1, y, x).
        """
        return differences.abs()


class _ScoreInSpace(_PooledScore):
    """Base of the scores of all amounts, in either space."""

    if TYPE_CHECKING:
        space: Space

    def __call__(self, state: LossState) -> Tensor:
        """Return the score as a share of the record's mean."""
        mask = state.mask.to(state.x.dtype)
        members = state.members(self.draws, self.space) * mask
        score = self._score(members, state.target(self.space) * mask, mask)
        return self.weight * (score / state.typical(self.space))


@dataclass(frozen=True)
class CRPS(_ScoreInSpace):
    """Almost-fair CRPS of prior draws at several poolings, as a share of the record's mean rain.

    Trains the draws without an observation, which users of an ensemble get
    (Lang et al. 2024, arXiv:2412.15832). The ELBO alone leaves the prior with too little rain;
    this term alone loses spread and fine scales: use it beside the ELBO, late.

    Parameters
    ----------
    draws
        Prior draws per step, at least 2.
    poolings
        Sides of the square windows that are averaged before scoring; a window counts by its
        share of valid pixels.
    alpha
        1 is the fair score; slightly less keeps the draws from drifting apart; 0 is the score of
        the draws for a whole distribution, which rewards too little spread.
    space
        "physical" scores amounts, "normalised" scores them as the network sees them, where light
        rain counts more; each as a share of the record's mean there.
    weight
        Factor of the term.
    """

    draws: Annotated[int, Range(2)] = 2
    poolings: tuple[int, ...] = (1, 4, 16)
    alpha: Annotated[float, Range(0, 1)] = 0.95
    space: Space = "physical"
    weight: Annotated[float, Range(0)] = 2.0


@dataclass(frozen=True)
class TwCRPS(_PooledScore):
    """CRPS of prior draws, mixed late in the training with its threshold-weighted form: the tail.

    The tail is scored by the CRPS of ``max(x, t)`` in place of every amount ``x`` of draws and
    target, for thresholds ``t`` at quantiles of the record (Allen et al. 2023,
    https://doi.org/10.1137/22M1532184), each as a share of the record's mean rain above it, so
    that rare amounts count like frequent ones. Alone it would neglect the body of the
    distribution, and draws below a threshold would learn nothing; hence the mixture. Use it in
    place of `CRPS`; with ``share`` or all ``quantiles`` at zero it is the same.

    Parameters
    ----------
    draws
        Prior draws per step, at least 2.
    poolings
        Sides of the square windows over which amounts, or amounts above a threshold, are averaged
        before scoring.
    alpha
        1 is the fair score; slightly less keeps the draws from drifting apart.
    quantiles
        Quantiles of all pixels of the record, dry ones too, that are the thresholds.
    share
        Share of the tail in the score at the end of the training.
    start
        Share of the training after which the tail comes in; its share rises from there linearly.
    weight
        Factor of the term.
    """

    draws: Annotated[int, Range(2)] = 2
    poolings: tuple[int, ...] = (1, 4, 16)
    alpha: Annotated[float, Range(0, 1)] = 0.95
    quantiles: tuple[Annotated[float, Range(0, 0.9999)], ...] = (0.9, 0.99)
    share: Annotated[float, Range(0, 1)] = 0.5
    start: Annotated[float, Range(0, 1)] = 0.5
    weight: Annotated[float, Range(0)] = 2.0

    def __call__(self, state: LossState) -> Tensor:
        """Return the mixture of scores, each as a share of the record's mean amounts."""
        mask = state.mask.to(state.x.dtype)
        members, truth = state.members(self.draws, "physical") * mask, state.observed * mask
        body = self._score(members, truth, mask) / state.typical("physical")
        share = self.share_at(state.progress)
        if share == 0 or not self.quantiles:
            return self.weight * body
        tails = []
        for threshold in map(state.record.quantile, self.quantiles):
            drawn, observed = (x.clamp(min=threshold) - threshold for x in (members, truth))
            tails.append(self._score(drawn, observed, mask) / state.typical_above(threshold))
        return self.weight * ((1 - share) * body + share * torch.stack(tails).mean())

    def share_at(self, progress: float) -> float:
        """Return the share of the tail in the score, after a share of the training.

        Examples
        --------
        >>> [TwCRPS(share=0.5, start=0.5).share_at(progress) for progress in (0.5, 0.75, 1.0)]
        [0.0, 0.25, 0.5]
        """
        if progress <= self.start:
            return 0.0
        return self.share * (progress - self.start) / (1 - self.start)


@dataclass(frozen=True)
class EnergyScore(_ScoreInSpace):
    """Almost-fair energy score of prior draws at several poolings, by the record's mean rain.

    The CRPS of whole maps: the distance between two of them is the norm of their difference over
    all pixels of a window, so that the score also depends on the pattern (Gneiting & Raftery
    2007, doi:10.1198/016214506000001437; almost fair as in Lang et al. 2024, arXiv:2412.15832).
    Norms are divided by the root of the number of valid pixels; with windows of one pixel it is
    `CRPS`.

    Parameters
    ----------
    draws
        Prior draws per step, at least 2.
    poolings
        Sides of the square windows that are averaged before scoring.
    patch
        Side of the square windows, in pooled pixels, that a norm is taken over; None takes one
        norm over the whole map of a sample.
    alpha
        1 is the fair score; slightly less keeps the draws from drifting apart.
    space
        "physical" or "normalised", as in `CRPS`.
    weight
        Factor of the term.
    """

    draws: Annotated[int, Range(2)] = 2
    poolings: tuple[int, ...] = (1, 4, 16)
    patch: Annotated[int | None, Range(1)] = None
    alpha: Annotated[float, Range(0, 1)] = 0.95
    space: Space = "physical"
    weight: Annotated[float, Range(0)] = 1.0

    def _distance(self, differences: Tensor, share: Tensor) -> Tensor:
        """Root mean square over each patch, times its number of valid pixels."""
        # A difference of masked sums is share times that of the means, hence one share less.
        squares = window_sums(differences.square() / share.clamp(min=1e-9), self.patch)
        product = squares * window_sums(share, self.patch)
        # The root has no gradient at zero, the distance of two dry draws.
        apart = product > 0
        return torch.where(apart, product, 1.0).sqrt() * apart


@dataclass(frozen=True)
class CRPSOfMaxima(_ScoreInSpace):
    """Almost-fair CRPS of the largest rain in windows of prior draws, by the record's mean rain.

    Scores of means say little about how rain is concentrated within a window: members may keep
    the mean of a cell and have twice its largest pixel. Use it beside `CRPS`.

    Parameters
    ----------
    draws
        Prior draws per step, at least 2; those of `CRPS` if the number is the same.
    poolings
        Sides of the square windows whose largest pixel is scored, with 0 for masked ones; a window
        counts by its share of valid pixels.
    alpha
        1 is the fair score; slightly less keeps the draws from drifting apart.
    space
        "physical" or "normalised", as in `CRPS`.
    weight
        Factor of the term.
    """

    draws: Annotated[int, Range(2)] = 2
    poolings: tuple[int, ...] = (4, 12)
    alpha: Annotated[float, Range(0, 1)] = 0.95
    space: Space = "physical"
    weight: Annotated[float, Range(0)] = 0.3

    def _over_windows(self, fields: Tensor, side: int) -> Tensor:
        """Return the largest pixel of each window."""
        flat = fields.flatten(0, -4)
        pooled = F.max_pool2d(flat, side, ceil_mode=True)
        return pooled.reshape(*fields.shape[:-3], *pooled.shape[1:])

    def _distance(self, differences: Tensor, share: Tensor) -> Tensor:
        """Return the distance of two largest pixels, times the valid share of their window."""
        return differences.abs() * share
