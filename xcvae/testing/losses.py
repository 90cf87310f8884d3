"""The conformance suite of loss terms, and the state of a training step for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from xcvae.fields.describe import describe, prepare
from xcvae.fields.record import Record
from xcvae.fields.scaling import Scaling
from xcvae.registry import Kind
from xcvae.testing.data import UNITS, make_dataset
from xcvae.testing.suite import Suite, demand

if TYPE_CHECKING:
    from xcvae.generator.losses import LossState


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
    """Return the state of one training step for a loss term, made of real radar.

    Reconstruction, KL and prior draws are leaves of the graph: after ``loss(state).backward()``
    their gradients are in ``state.output.grad``, ``state.kl[i].grad`` and
    ``state.prior_draws(2)[i].grad``.

    Parameters
    ----------
    samples, size
        Shape of the batch: (samples, 1, y, x); at most 20 of 36 x 48 pixels.
    masked
        Mask a corner of every sample, and all of the last one of several.
    units
        Units of the physical values.
    truth
        Function that makes the target from the normalised radar; by default the radar itself.
    guess
        Function that makes reconstruction and draws from the normalised target; by default fields
        near it.
    under_mask
        Added to the normalised values of masked pixels, on which nothing may depend.
    progress
        Completed share of the training, 0 to 1.
    seed
        Seed of reconstruction and draws.
    term
        A loss whose trainable values (its method ``learned``) the state has.
    **more
        Other attributes of `LossState`, passed on unchanged.

    Returns
    -------
    LossState

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
    """Return a field like another one: shifted, weaker, with noise, also below zero."""
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


Learner = Literal["reconstruction", "kl", "draws", "learned"]

TOLERANCE = 1e-5


class LossSuite(Suite):
    """Checks of a loss term, besides those that every component gets.

    Attributes
    ----------
    component, parameters, refused
        As in every suite.
    learns_from
        Tensors that must receive gradients. By default at least one of them must.

    Examples
    --------
    >>> class TestLaplace(LossSuite):
    ...     component = "laplace"
    ...     learns_from = ("reconstruction",)
    >>> TestLaplace().test_gradients_arrive()
    """

    kind: ClassVar[Kind] = "loss"
    learns_from: ClassVar[Sequence[Learner]] = ()

    def state(self, **options: Any) -> Any:
        """Return the state of a step; see `make_loss_state`."""
        return make_loss_state(**({"term": self.make()} | options))

    def outcome(self, component: Any) -> Any:
        """Return value and gradients as one vector."""
        state = self.state(masked=True)
        value, gradients = self._learn(component, state)
        parts = [value, *(g for kind in gradients.values() for g in kind)]
        return torch.cat([part.detach().flatten() for part in parts]).numpy()

    def test_it_gives_one_finite_number(self) -> None:
        """Check that the value is a finite tensor without dimensions, at any progress."""
        for progress in (0.0, 0.5, 1.0):
            value = self.make()(self.state(progress=progress))
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value)
            scalar = isinstance(value, Tensor) and value.ndim == 0
            demand(scalar, f"{self.label} must return a tensor without dimensions, got {found}")
            demand(value.isfinite(), f"{self.label} gives {value.item()} at progress {progress}")

    def test_gradients_arrive(self) -> None:
        """Check that gradients are finite, and not zero for the tensors in `learns_from`."""
        gradients = self._learn(self.make(), self.state())[1]
        self._all_finite(gradients, "radar")
        moved = {kind for kind, found in gradients.items() if any(bool(g.any()) for g in found)}
        demand(moved, f"{self.label} has no gradients: the network cannot learn from it")
        for kind in self.learns_from:
            demand(kind in moved, f"{self.label}: no gradients arrive at '{kind}'")

    def test_gradients_are_finite_at_the_edges(self) -> None:
        """Check that dry maps, perfect reconstructions and large values give no NaN."""
        cases: dict[str, dict[str, Any]] = {
            "dry maps": {"truth": torch.zeros_like, "guess": torch.zeros_like},
            "a dry target": {"truth": torch.zeros_like},
            "a dry reconstruction": {"guess": torch.zeros_like},
            "a perfect reconstruction": {"guess": torch.clone},
            "a reconstruction far off": {"guess": lambda x: 20 - x},
        }
        for what, options in cases.items():
            value, gradients = self._learn(self.make(), self.state(**options))
            demand(value.isfinite(), f"{self.label} gives {value.item()} for {what}")
            self._all_finite(gradients, what)

    def test_any_window_will_do(self) -> None:
        """Check one sample, odd sizes and small windows."""
        for samples, size in ((1, (36, 48)), (2, (35, 23)), (1, (16, 16))):
            what = f"{samples} sample(s) of {size[0]} x {size[1]}"
            value, gradients = self._learn(self.make(), self.state(samples=samples, size=size))
            demand(value.isfinite(), f"{self.label} gives {value.item()} for {what}")
            self._all_finite(gradients, what)

    def test_masked_values_have_no_influence(self) -> None:
        """Check that masked pixels change neither value nor gradients, and get none."""
        plain, pushed = self.state(masked=True), self.state(masked=True, under_mask=2.5)
        first, before = self._learn(self.make(), plain)
        second, after = self._learn(self.make(), pushed)
        demand(
            torch.isclose(first, second, rtol=TOLERANCE, atol=TOLERANCE),
            f"{self.label} depends on values under the mask: {first.item()} became {second.item()}",
        )
        self._all_finite(before, "masked maps")
        for kind in ("reconstruction", "draws"):
            for one, other in zip(before[kind], after[kind], strict=True):
                hidden = one[~plain.mask]
                demand(not hidden.any(), f"{self.label}: masked pixels of '{kind}' get gradients")
                demand(
                    torch.allclose(one, other, rtol=1e-3, atol=1e-5 * one.abs().max().item()),
                    f"{self.label}: gradients of '{kind}' depend on values under the mask",
                )

    def test_it_works_in_other_units(self) -> None:
        """Check that records in mm/day and kg m-2 s-1 give finite values."""
        for units in ("mm/day", "kg m-2 s-1"):
            value, gradients = self._learn(self.make(), self.state(units=units))
            demand(value.isfinite(), f"{self.label} gives {value.item()} for rain in {units}")
            self._all_finite(gradients, f"rain in {units}")

    def test_its_input_is_not_changed(self) -> None:
        """Check that target, reconstruction, mask, KL and draws are unchanged."""
        state = self.state(masked=True)
        tensors = [state.x, state.output, state.mask, *state.kl, *state.prior_draws(2)]
        before = [one.detach().clone() for one in tensors]
        self.make()(state)
        for one, copy in zip(tensors, before, strict=True):
            demand(torch.equal(one, copy), f"{self.label} changes its input in place")

    def _learn(self, component: Any, state: Any) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Call the term and its backward pass; missing gradients are zero."""
        value = component(state)
        if isinstance(value, Tensor) and value.requires_grad:
            value.sum().backward()  # type: ignore[no-untyped-call]
        leaves = {
            "reconstruction": [state.output],
            "kl": list(state.kl),
            "draws": list(state.prior_draws(4)),
            "learned": list(state.learned.values()),
        }
        gradients = {
            kind: [torch.zeros_like(t) if t.grad is None else t.grad for t in found]
            for kind, found in leaves.items()
        }
        return value, gradients

    def _all_finite(self, gradients: dict[str, list[Tensor]], what: str) -> None:
        for kind, found in gradients.items():
            finite = all(bool(g.isfinite().all()) for g in found)
            demand(finite, f"{self.label}: gradients of '{kind}' are not finite for {what}")
