"""The settings of a training, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from xcvae.errors import ConfigError, nearest
from xcvae.registry.registry import build, describe, registry

if TYPE_CHECKING:  # a configuration is checked without loading torch
    from torch import Tensor

    from xcvae.generator.losses import LossState


#: The negative ELBO.
ELBO: tuple[str, ...] = ("laplace", "kl")

#: Default losses: first the ELBO, which trains the decoder and ties prior and posterior together,
#: then the ELBO and a score of prior draws.
DEFAULT_STAGES: tuple[dict[str, Any], ...] = (
    {"losses": ELBO, "share": 0.6},
    {"losses": (*ELBO, "crps"), "share": 0.4},
)

#: Defaults of a training that starts from another model.
STARTED: dict[str, Any] = {"learning_rate": 1.5e-3, "max_steps": 600}

#: Share of the minutes, and seconds at most, in which the steps alone say how much is done, if
#: both are limited.
SLOW_START, START_SECONDS = 0.1, 20.0

#: Validation scores for `Fit.monitor`; lower is better for all.
MONITORS = ("crps", "negative_elbo", "mae_tail")


@dataclass(frozen=True)
class Fit:
    """Settings of a training, which ends at the first limit reached.

    Attributes
    ----------
    max_steps, max_minutes
        Limits; 5000 steps if neither is given, 600 from a ``start``. Where the minutes end the
        training, the number of threads on a CPU is tuned
        (`xcvae.generator.training.threads`).
    batch_size
        Samples per step.
    crop
        Side of the square crops that are trained on, in pixels; smaller domains are used whole.
    learning_rate
        Peak learning rate of AdamW, 1.5e-3 by default from a ``start``; warm-up over 2 % of the
        training, then a cosine to zero.
    weight_decay, clip_norm
        Weight decay of AdamW; largest norm of the gradient.
    monitor
        Validation score that selects the best weights and stops early: ``"crps"`` (of prior draws),
        ``"negative_elbo"`` or ``"mae_tail"`` (of reconstructions, above the record's 95 %
        quantile of wet pixels).
    patience
        Validations without improvement after which training stops; None never stops early.
    validations
        Number of validations during the training.
    heavy_share
        Share of every batch that is drawn from the heaviest tenth of the training samples; 0
        leaves the climate as it is. Needs data in memory.
    flips
        Flip and transpose crops at random; None does so if all conditions are rain on the target's
        domain.
    stages
        Losses in sequence: a list of ``{"losses": [...], "share": 0.8}``; shares add up to 1.
    resume
        Resume from a checkpoint next to ``path`` if there is one.
    compile
        Compile the network with ``torch.compile`` before the first step, which does not count as
        training time; off by default. Experimental: on a GPU it takes minutes,
        and no training was completed.
    """

    max_steps: int | None = None
    max_minutes: float | None = None
    batch_size: int = 8
    crop: int = 72
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    monitor: str = "crps"
    patience: int | None = None
    validations: int = 8
    heavy_share: float = 0.0
    flips: bool | None = None
    stages: Sequence[Mapping[str, Any]] | None = None
    resume: bool = True
    compile: bool | None = None

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is None and name in ("max_steps", "max_minutes", "patience"):
                continue
            whole = name in _WHOLE
            number = isinstance(value, int) or (isinstance(value, float) and not whole)
            if isinstance(value, bool) or not number or not low <= value <= high:
                raise ConfigError.of(
                    f"fit.{name}",
                    expected=f"{'an integer' if whole else 'a number'} from {low} to {high}",
                    got=repr(value),
                    remedy="Change it, or leave it out for the default.",
                )
        for name in ("resume", "flips", "compile"):
            if getattr(self, name) not in (True, False, None):
                raise ConfigError.of(
                    f"fit.{name}",
                    expected="true or false",
                    got=repr(getattr(self, name)),
                    remedy="Write true or false without quotes, or leave it out.",
                )
        if self.monitor not in MONITORS:
            raise ConfigError(
                f"fit.monitor: unknown score '{self.monitor}'. {nearest(self.monitor, MONITORS)}"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any] | None, *, started: bool = False) -> Fit:
        """Check the caller's keys, and take defaults for the others.

        Parameters
        ----------
        options
            The caller's keys.
        started
            Take the defaults of a training that starts from another model: `STARTED`.

        Raises
        ------
        ConfigError
            For unknown keys, wrong types and values out of range.
        """
        valid = [f.name for f in fields(cls)]
        if options is not None and not isinstance(options, Mapping):
            raise ConfigError.of(
                "fit",
                expected="settings by name, in a dict",
                got=repr(options),
                remedy="For example fit={'max_minutes': 10}.",
            )
        for key in options or {}:
            if key not in valid:
                raise ConfigError(f"fit: unknown key '{key}'. {nearest(key, valid)}")
        given = python_values(dict(options or {}))
        if started:
            given = {"learning_rate": STARTED["learning_rate"], **given}
            if given.get("max_steps") is None and given.get("max_minutes") is None:
                given["max_steps"] = STARTED["max_steps"]
        return cls(**given)

    def check_networks(self, networks: int) -> None:
        """Refuse fewer steps than networks, which take them in turn: some would stay untrained.

        Raises
        ------
        ConfigError
            There are fewer.
        """
        if self.max_steps is not None and self.max_steps < networks:
            raise ConfigError.of(
                "fit.max_steps",
                expected=f"a step at least for each of the {networks} networks, which take turns",
                got=str(self.max_steps),
                remedy="Each network needs as many steps as a model of one.",
            )

    @property
    def step_limit(self) -> float:
        """Largest number of steps; infinite if only the time is limited."""
        if self.max_steps is None:
            return 5000 if self.max_minutes is None else math.inf
        return self.max_steps

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the training that is done, by the limit that is nearer."""
        return min(1.0, max(step / self.step_limit, self._share_of_time(seconds)))

    def is_late(self, step: int, seconds: float) -> bool:
        """Return True if the time, and not the steps, says how much of the training is done."""
        return self._share_of_time(seconds) > step / self.step_limit

    def _share_of_time(self, seconds: float) -> float:
        """Return the share of the minutes that is over.

        Beside a limit of steps it counts from `SLOW_START` on: the first steps are slow, and a
        training that its steps end must not depend on the clock.
        """
        if self.max_minutes is None:
            return 0.0
        whole = 60 * self.max_minutes
        start = 0.0 if self.max_steps is None else min(SLOW_START * whole, START_SECONDS)
        return (seconds - start) / (whole - start)

    def due(self, progress: float) -> int:
        """Count the validations that are due by a point of the training."""
        return math.floor(progress * self.validations + 1e-9)

    def rate(self, progress: float) -> float:
        """Return the learning rate at a point of the training."""
        rise = min(1.0, (progress + 1e-3) / 0.02)
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * progress))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, for the model file."""
        return asdict(self)


def python_values(options: Any) -> Any:
    """Return nested options with Python numbers and lists in the place of those of NumPy.

    Examples
    --------
    >>> python_values({"levels": np.int64(3), "channels": np.array([8, 4])})
    {'levels': 3, 'channels': [8, 4]}
    """
    if isinstance(options, np.generic):
        return options.item()
    if isinstance(options, np.ndarray):
        return options.tolist()
    if isinstance(options, Mapping):
        return {key: python_values(value) for key, value in options.items()}
    if type(options) in (list, tuple):
        return type(options)(map(python_values, options))
    return options


_RANGES = (
    ("max_steps", 1, 10**9),
    ("max_minutes", 1e-6, 1e6),
    ("batch_size", 1, 10**6),
    ("crop", 4, 10**6),
    ("learning_rate", 1e-9, 1.0),
    ("weight_decay", 0.0, 1.0),
    ("clip_norm", 1e-9, 1e9),
    ("patience", 1, 10**6),
    ("validations", 1, 10**4),
    ("heavy_share", 0.0, 1.0),
)
_WHOLE = ("max_steps", "batch_size", "crop", "patience", "validations")


class Term(Protocol):
    """Call signature of a loss component."""

    def __call__(self, state: LossState) -> Tensor: ...


@dataclass(frozen=True)
class Stage:
    """Loss terms by name, and the progress up to which they are used."""

    losses: tuple[tuple[str, Term], ...]
    until: float

    @property
    def reconstructs(self) -> bool:
        """True if a term needs the target's reconstruction or its KL, as all do by default."""
        default = ("posterior", "prior")
        return any("posterior" in getattr(t, "needs", default) for _, t in self.losses)

    def to_json(self) -> dict[str, Any]:
        """Return the losses with parameters, packages and versions, and the end of the stage."""
        return {"losses": [describe("loss", term) for _, term in self.losses], "until": self.until}


def stages_of(losses: Sequence[Any] | None, fit: Fit) -> tuple[Stage, ...]:
    """Build the loss terms of a training, in sequence.

    Raises
    ------
    ConfigError
        If both ``losses`` and ``fit.stages`` are given, either is no list, or the shares do not
        add up to 1.
    ComponentError
        For unknown losses and wrong parameters.
    """
    if losses is not None and fit.stages is None:
        return (Stage(_terms(losses), 1.0),)
    if losses is not None:
        raise ConfigError.of(
            "losses",
            expected="either `losses` or `fit.stages`",
            got="both",
            remedy="Name the losses of every stage in `fit.stages`.",
        )
    stages, until = [], 0.0
    for losses_of_stage, share in _stages(DEFAULT_STAGES if fit.stages is None else fit.stages):
        until += share
        stages.append(Stage(_terms(losses_of_stage), until))
    if not stages or abs(until - 1) > 1e-6:
        raise ConfigError.of(
            "fit.stages",
            expected="shares that add up to 1",
            got=f"{until:g}",
            remedy="Change the shares, or leave all of them out for equal ones.",
        )
    return tuple(stages)


def _stages(given: Any) -> Iterator[tuple[Any, float]]:
    """Yield losses and share of each stage, which may come from YAML with any types."""
    if not isinstance(given, list | tuple):
        raise ConfigError.of(
            "fit.stages",
            expected='a list of stages, each {"losses": [...], "share": 0.5}',
            got=repr(given),
            remedy="Write a list, also of one stage.",
        )
    for number, stage in enumerate(given):
        where = f"fit.stages[{number}]"
        if not isinstance(stage, Mapping):
            raise ConfigError.of(
                where,
                expected="a dict with the keys losses and share",
                got=repr(stage),
                remedy='Write {"losses": [...], "share": 0.5}.',
            )
        for key in stage:
            if key not in ("losses", "share"):
                valid = ("losses", "share")
                raise ConfigError(f"{where}: unknown key '{key}'. {nearest(key, valid)}")
        share = stage.get("share", 1 / len(given))
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError.of(
                f"{where}.share",
                expected="a number from 0 to 1, the share of the training",
                got=repr(share),
                remedy="Change it, or leave all shares out for equal ones.",
            )
        yield stage.get("losses", ELBO), float(share)


def _terms(specs: Any) -> tuple[tuple[str, Term], ...]:
    if isinstance(specs, str | Mapping) or not isinstance(specs, Iterable):
        raise ConfigError.of(
            "losses",
            expected="a list of losses, each a name, a dict or an instance",
            got=repr(specs),
            remedy="Write a list, also of one loss: ['laplace'].",
        )
    terms = [cast("Term", build("loss", spec)) for spec in specs]
    named = [(registry().name_of("loss", term), term) for term in terms]
    names = [name for name, _ in named]
    if not names or len(set(names)) < len(names):
        raise ConfigError.of(
            "losses",
            expected="at least one loss, each name once",
            got=names,
            remedy="Name a loss; instead of naming one twice, give it the sum of the weights.",
        )
    return tuple(named)
