"""One training step to try a loss term on, without a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xcvae.fields.record import Record
from xcvae.fields.scaling import Scaling
from xcvae.fields.spec import describe, prepare
from xcvae.testing.fields import UNITS, make_dataset

if TYPE_CHECKING:
    from xcvae.generator.losses import LossState

__all__ = ["make_loss_state"]

LEVELS = (3.0, 0.5, 0.0)  # nats; the last one has collapsed


def make_loss_state(
    *,
    samples: int = 3,
    size: tuple[int, int] = (36, 48),
    masked: bool = False,
    units: str = UNITS,
    truth: Callable[[Tensor], Tensor] | None = None,
    guess: Callable[[Tensor], Tensor] | None = None,
    under_mask: float = 0.0,
    progress: float = 1.0,
    seed: int = 0,
    term: object = None,
    **more: Any,
) -> LossState:
    """Return what a loss term sees of one training step, made of real radar.

    Reconstruction, KL and prior draws are leaves of the graph: after ``loss(state).backward()``
    their gradients are in ``state.output.grad``, ``state.kl[i].grad`` and
    ``state.prior_draws(2)[i].grad``.

    Parameters
    ----------
    samples, size
        Shape of the batch: (samples, 1, y, x); at most 20 of 36 x 48 pixels.
    masked
        Mask a corner of every sample, and all of the last one where there are several.
    units
        Units of the physical values.
    truth
        Makes the target from the normalised radar; by default it is the radar.
    guess
        Makes reconstruction and draws from the normalised target; by default something near it.
    under_mask
        Added to the normalised values of masked pixels, where nothing may depend on them.
    progress
        Share of the training that is done, 0 to 1.
    seed
        Of reconstruction and draws.
    term
        A loss whose trainable values (its method ``learned``) are to be there.
    **more
        Other attributes of `LossState`, as they are.

    Returns
    -------
    LossState
        The state.

    Examples
    --------
    >>> from xcvae.registry import build
    >>> state = make_loss_state()
    >>> build("loss", "laplace")(state).backward()
    >>> bool(state.output.grad.isfinite().all())
    True
    """
    from xcvae.generator.losses import LossState, learned_of

    scaling, record, radar = _fitted(units)
    top, left = ((have - want) // 2 for have, want in zip(radar.shape[-2:], size, strict=True))
    radar = radar[:samples, :, top : top + size[0], left : left + size[1]]
    mask = _mask(radar, masked)
    hidden = (~mask) * under_mask
    x = torch.where(mask, radar if truth is None else truth(radar), 0.0)
    random = torch.Generator().manual_seed(seed)

    def field() -> Tensor:
        made = _near(x, random) if guess is None else guess(x)
        return (made + hidden).detach().requires_grad_()

    made: dict[str, Any] = {
        "x": x + hidden,
        "output": field(),
        "mask": mask,
        "kl": [torch.full((samples,), nats, requires_grad=True) for nats in LEVELS],
        "step": round(1000 * progress),
        "progress": progress,
        "scaling": scaling,
        "record": record,
        "draw": field,
        "learned": {k: torch.tensor(v, requires_grad=True) for k, v in learned_of(term).items()},
    }
    return LossState(**(made | more))


def _near(x: Tensor, random: torch.Generator) -> Tensor:
    """Make a field like another one: moved, weaker, with noise, also below zero."""
    rows, columns = (int(n) for n in torch.randint(1, 4, (2,), generator=random))
    noise = 0.1 * torch.randn(x.shape, generator=random)
    return 0.8 * x + 0.2 * x.roll((rows, columns), (-2, -1)) + noise - 0.02


def _mask(x: Tensor, masked: bool) -> Tensor:
    mask = torch.ones_like(x, dtype=torch.bool)
    if masked:
        mask[:, :, : x.shape[-2] // 3, : x.shape[-1] // 3] = False
        if len(x) > 1:
            mask[-1] = False
    return mask


@lru_cache(maxsize=4)
def _fitted(units: str) -> tuple[Scaling, Record, Tensor]:
    ds = make_dataset(samples=20, units=units)
    spec = describe(ds, target="pr", conditions=["pr_coarse"])
    prepared = prepare(ds, spec, need_target=True)
    scaling, record = Scaling.fit(prepared, spec)
    return scaling, record, torch.from_numpy(scaling.normalise(prepared.pr))[:, None]
