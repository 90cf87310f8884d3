"""Ensembles with one disease each, made from healthy ones, for the detectors of `xcvae.diagnose`.

A healthy ensemble is synthetic here: observation and members are draws of one random field whose
large scales the condition determines. So the members are calibrated by construction, and the effect
of a disease is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from xcvae.verify.diagnosis import Evidence, LevelEvidence, gather

Array = NDArray[np.float64]

#: Evidence of the levels of a healthy model; that of a collapsed one is made from it.
LEVELS = (LevelEvidence((8, 8), 60.0, 0.8), LevelEvidence((32, 32), 900.0, 0.5))


@dataclass(frozen=True)
class Case:
    """Fields of a generator, physical: members (realization, sample, y, x), others without.

    ``coarse`` is the rain that the conditions tell, of any grid.
    """

    observed: Array
    prior: Array
    posterior: Array
    reconstructed: Array
    swapped: Array
    trained: Array
    days: Array
    coarse: Array
    levels: tuple[LevelEvidence, ...] = LEVELS
    units: str = "mm h-1"

    def evidence(self) -> Evidence:
        """Gather the input of `judge`."""
        return gather(
            self._labelled(self.observed, self.days),
            prior=self._labelled(self.prior, self.days),
            posterior=self._labelled(self.posterior, self.days),
            reconstructed=self._labelled(self.reconstructed, self.days),
            swapped=self._labelled(self.swapped, self.days),
            levels=self.levels,
            trained_on=self._labelled(self.trained, np.arange(len(self.trained))),
            coarse=self._labelled(self.coarse, self.days),
        )

    def _labelled(self, values: Array, days: Array) -> xr.DataArray:
        dims = ("realization", "time", "y", "x")[-values.ndim :]
        start = np.datetime64("2001-01-01", "s")
        times = start + np.asarray(days * 86400).astype("timedelta64[s]")
        return xr.DataArray(
            values, dims=dims, name="pr", coords={"time": times}, attrs={"units": self.units}
        )


def _noise(random: np.random.Generator, shape: tuple[int, ...], slope: float) -> Array:
    """Draw Gaussian fields with a power-law spectrum, of variance 1."""
    white = np.fft.rfft2(random.standard_normal(shape))
    wave = np.hypot(np.fft.fftfreq(shape[-2])[:, None], np.fft.rfftfreq(shape[-1]))
    wave[0, 0] = np.inf
    fields = np.fft.irfft2(white * wave ** (-slope / 2), s=shape[-2:])
    return np.asarray(fields / fields.std(axis=(-2, -1), keepdims=True))


def calibrated_case(
    *,
    seed: int,
    samples: int = 16,
    members: int = 8,
    size: tuple[int, int] = (64, 64),
    dry: float = 0.0,
    amount: float = 1.0,
    known: float = 0.7,
    sure: float = 1.0,
    slope: float = 2.6,
    trained: int = 120,
    units: str = "mm h-1",
    varied: float = 0.0,
    tilt: float = 0.0,
    memory: float = 0.0,
    coherence: float | None = None,
    cap: float = 1.0,
    step: float = 0.0,
) -> Case:
    """Make a healthy ensemble.

    Parameters
    ----------
    seed, samples, members, size
        Of the random fields, and how many.
    dry
        Threshold of rain, in standard deviations of the field: with 0 half of it is wet.
    amount
        Scale of the rain.
    known
        Share of the variance that the condition explains.
    sure
        That share in the members, relative to the truth: above 1 they are underdispersed, below 1
        overdispersed, while single members look the same.
    slope
        Of the spectrum.
    trained
        Training fields.
    varied
        Samples have from little to much rain: the last one so much more of the field, in standard
        deviations, than the mean, the first one less.
    tilt
        Logarithm of ``sure`` in the sample with most rain; in that with least it is the opposite.
    memory, coherence
        Correlation of consecutive samples, as observed and in members; the same by default.
    cap
        Quantile of the observed rain at which the product cuts it off.
    step
        Observed amounts are multiples of it, as those of packed files are.
    """
    random = np.random.default_rng(seed)
    grades = np.linspace(-1, 1, samples)[:, None, None]
    sures = sure * np.exp(tilt * grades)
    share = known * np.where(sures > 1, np.minimum(sures, 0.97 / known), sures)
    coherence = memory if coherence is None else coherence

    def rain(field: Array) -> Array:
        level = np.linspace(-varied, varied, field.shape[-3])[:, None, None]
        wet = np.expm1(1.2 * np.maximum(field + level - dry, 0.0)) * amount
        return np.where(wet < 0.1 * amount, 0.0, wet)

    def parts(count: int, *lead: int, memory: float = 0.0) -> Array:
        fields = _noise(random, (*lead, count, *size), slope)
        for i in range(1, count if memory else 0):
            fresh = np.sqrt(1 - memory**2) * fields[..., i, :, :]
            fields[..., i, :, :] = memory * fields[..., i - 1, :, :] + fresh
        return fields

    base = parts(samples, memory=memory)
    truth = np.sqrt(known) * base + np.sqrt(1 - known) * parts(samples, memory=memory)
    # Underdispersed: members agree on more than the condition explains, and that part is wrong.
    agreed = np.sqrt(np.minimum(known, share)) * base
    if (share > known).any():
        wrong = parts(samples, memory=memory)
        agreed = agreed + np.sqrt(np.maximum(share - known, 0.0)) * wrong
    prior = agreed + np.sqrt(1 - share) * parts(samples, members, memory=coherence)
    near = min(members, 4)
    posterior = np.sqrt(0.99) * truth + np.sqrt(0.01) * parts(samples, near)
    swapped = np.sqrt(known) * base + np.sqrt(1 - known) * parts(samples)
    reconstructed = rain(np.sqrt(0.99) * truth + np.sqrt(0.01) * parts(samples))
    most = np.quantile(rain(truth), cap)

    def product(field: Array) -> Array:
        seen = rain(field).clip(max=most if cap < 1 else None)
        return step * np.round(seen / step) if step else seen

    return Case(
        observed=product(truth),
        prior=rain(prior),
        posterior=rain(posterior),
        reconstructed=reconstructed,
        swapped=rain(swapped),
        trained=product(parts(trained)),
        days=1000.0 + np.arange(samples),
        coarse=rain(np.sqrt(known) * base),
        units=units,
    )


Change = Callable[[Case, float, np.random.Generator], Case]


def _members(case: Case, change: Callable[[Array], Array]) -> Case:
    """Change prior and posterior members alike."""
    return replace(case, prior=change(case.prior), posterior=change(case.posterior))


def _collapsed(case: Case, kl: float, _: np.random.Generator) -> Case:
    levels = tuple(replace(level, kl=level.kl * kl, active=0.0) for level in case.levels)
    return replace(case, levels=levels)


def _ignored_latents(case: Case, change: float, _: np.random.Generator) -> Case:
    own = case.reconstructed
    return replace(case, swapped=own + change * (case.swapped - own))


def _smooth(case: Case, width: float, _: np.random.Generator) -> Case:
    return _members(case, lambda x: gaussian_filter(x, (0, 0, width, width)))


def _averaged(case: Case, share: float, _: np.random.Generator) -> Case:
    """Move members towards a flat map of their mean."""
    return _members(case, lambda x: x + share * (x.mean((2, 3), keepdims=True) - x))


def _copies(case: Case, noise: float, random: np.random.Generator) -> Case:
    first = case.prior[:1]
    return replace(case, prior=first * random.uniform(1 - noise, 1 + noise, case.prior.shape))


def _drizzle(case: Case, most: float, random: np.random.Generator) -> Case:
    scale = case.observed.mean()
    return _members(case, lambda x: x + most * scale * random.random(x.shape))


def _scaled(case: Case, by: float, _: np.random.Generator) -> Case:
    return _members(case, lambda x: by * x)


def _gap(case: Case, by: float, _: np.random.Generator) -> Case:
    return replace(case, prior=by * case.prior)


def _capped(case: Case, quantile: float, _: np.random.Generator) -> Case:
    top = np.quantile(case.observed, quantile)
    return _members(case, lambda x: x.clip(max=top))


def _bent(case: Case, power: float, _: np.random.Generator) -> Case:
    """Compress rain above its 95th percentile."""
    knee = np.quantile(case.observed, 0.95)
    return _members(
        case, lambda x: np.where(x > knee, knee * (np.maximum(x, knee) / knee) ** power, x)
    )


def _checkered(case: Case, contrast: float, _: np.random.Generator) -> Case:
    colour = np.indices(case.observed.shape[-2:]).sum(axis=0) % 2
    return _members(case, lambda x: x * (1 + contrast * (2 * colour - 1)))


def _striped(case: Case, contrast: float, _: np.random.Generator) -> Case:
    lines = np.arange(case.observed.shape[-1]) % 4 == 0
    return _members(case, lambda x: x * (1 + contrast * lines))


def _blocks(case: Case, share: float, _: np.random.Generator) -> Case:
    def change(x: Array) -> Array:
        height, width = x.shape[-2:]
        means = x.reshape(*x.shape[:2], height // 8, 8, width // 8, 8).mean((3, 5))
        return (1 - share) * x + share * np.kron(means, np.ones((8, 8)))

    return _members(case, change)


def _border(case: Case, by: float, _: np.random.Generator) -> Case:
    edge = np.ones(case.observed.shape[-2:])
    edge[2:-2, 2:-2] = 0
    return _members(case, lambda x: x * (1 + (by - 1) * edge))


def _other_units(case: Case, by: float, _: np.random.Generator) -> Case:
    return replace(case, trained=case.trained / by)


def _threshold_of_scores(case: Case, limit: float, _: np.random.Generator) -> Case:
    log = np.log1p(case.trained)
    mean, std = log.mean(axis=0), log.std(axis=0)

    def change(x: Array) -> Array:
        scores = (np.log1p(x) - mean) / std
        return np.expm1(np.where(scores < limit, 0.0, scores) * std + mean)

    return _members(case, change)


def _remembered(case: Case, noise: float, random: np.random.Generator) -> Case:
    """Replace prior members by training fields with a little noise."""
    chosen = random.integers(0, len(case.trained), case.prior.shape[:2])
    drawn = case.trained[chosen]
    return replace(case, prior=drawn * random.uniform(1 - noise, 1 + noise, drawn.shape))


def _leaked(case: Case, share: float, _: np.random.Generator) -> Case:
    """Add test samples to the training record, under the same label."""
    count = max(1, round(share * len(case.observed)))
    trained, days = case.trained.copy(), case.days.copy()
    trained[:count] = case.observed[:count]
    days[:count] = np.arange(count)
    return replace(case, trained=trained, days=days)


def _neighbours(case: Case, change: float, random: np.random.Generator) -> Case:
    """Add a field close to each test sample to the training record, under another label."""
    trained = case.trained.copy()
    step = _noise(random, case.observed.shape, 2.6)
    trained[: len(case.observed)] = np.maximum(case.observed * np.exp(change * step), 0.0)
    return replace(case, trained=trained)


@dataclass(frozen=True)
class Disease:
    """A change that makes a healthy ensemble ill, in strengths from mild to strong.

    Attributes
    ----------
    name
        Of the disease, for the table.
    finding
        Names of findings, of which the diagnosis must raise one.
    strengths
        Of the change.
    change
        Makes the ill ensemble.
    """

    name: str
    finding: tuple[str, ...]
    strengths: tuple[float, ...]
    change: Change


DISEASES = (
    Disease("posterior collapse", ("posterior_collapse",), (1e-3, 0.0), _collapsed),
    Disease("deaf decoder", ("ignored_latent",), (0.05, 0.0), _ignored_latents),
    Disease("smoothed", ("mean_collapse",), (1.5, 4.0), _smooth),
    Disease("towards the mean", ("mean_collapse",), (0.4, 0.8), _averaged),
    Disease("copies of one member", ("identical_members",), (0.05, 0.0), _copies),
    Disease("drizzle", ("drizzle",), (0.3, 1.0), _drizzle),
    Disease("mass", ("mass_drift",), (0.6, 1.6), _scaled),
    Disease("weak prior", ("prior_posterior_gap",), (0.6, 0.3), _gap),
    Disease("capped", ("truncated_tail",), (0.99, 0.95), _capped),
    Disease("compressed tail", ("truncated_tail",), (0.6, 0.3), _bent),
    Disease("checkerboard", ("checkerboard",), (0.1, 0.3), _checkered),
    Disease("stripes of 4", ("checkerboard",), (0.15, 0.5), _striped),
    Disease("coarse cells", ("checkerboard",), (0.5, 0.9), _blocks),
    Disease("border", ("border",), (2.5, 0.3), _border),
    Disease("units", ("units",), (24.0, 1 / 24), _other_units),
    Disease("threshold on z-scores", ("units",), (0.1, 0.5), _threshold_of_scores),
    Disease("training fields drawn", ("memorisation",), (0.3, 0.0), _remembered),
    Disease("trained on the test", ("leakage",), (0.1, 1.0), _leaked),
    Disease("random split", ("leakage",), (0.5, 0.2), _neighbours),
)
#: Diseases of the spread: arguments of `calibrated_case` with which it is not calibrated.
SPREADS: dict[str, tuple[dict[str, float], ...]] = {
    "underdispersion": ({"sure": 1.25}, {"sure": 1.38}),
    "overdispersion": ({"known": 0.8, "sure": 0.6}, {"known": 0.95, "sure": 0.5}),
}
#: Other diseases that are arguments of `calibrated_case`: of samples that follow each other,
#: of members that are too wide with little rain and too narrow with much, and of the observations.
ARRANGED: dict[str, tuple[dict[str, float], ...]] = {
    "flicker": (
        {"known": 0.2, "memory": 0.8, "coherence": 0.4},
        {"known": 0.4, "memory": 0.8, "coherence": 0.0},
    ),
    "spread_by_rain": (
        {"samples": 24, "varied": 0.8, "tilt": 0.4},
        {"samples": 24, "varied": 0.8, "tilt": -0.6},
    ),
    "capped_data": ({"cap": 0.999}, {"cap": 0.98}),
}
HEALTHY: dict[str, dict[str, object]] = {
    "perfect": {},
    "perfect, 2 members": {"members": 2},
    "perfect, 32 members": {"members": 32},
    "perfect, 4 samples": {"samples": 4},
    "perfect, dry": {"dry": 2.0, "samples": 24},
    "perfect, nearly no rain": {"dry": 3.2, "samples": 24},
    "perfect, daily amounts": {"amount": 12.0, "units": "mm d-1"},
    "perfect, odd size": {"size": (53, 35)},
    "perfect, little is known": {"known": 0.2},
    "perfect, rough": {"slope": 2.0},
    "perfect, smooth": {"slope": 3.4},
    "perfect, coherent in time": {"memory": 0.8},
    "perfect, little to much rain": {"samples": 24, "varied": 0.8},
    "perfect, amounts in steps": {"step": 0.1},
}
