"""Diagnosis: every detector finds its own fault, also on trained models."""

from __future__ import annotations

import ast
import json
import math
import re
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter

import xcvae
from xcvae.errors import ConfigError, DataError, MismatchError
from xcvae.fields.describe import prepare
from xcvae.generator.model import Model, from_bytes
from xcvae.generator.network.layers import zero_init
from xcvae.generator.sampler import FieldSampler
from xcvae.registry import registry
from xcvae.verify.diagnosis import Diagnosis, diagnose
from xcvae.verify.diagnosis.artefacts import Artefacts
from xcvae.verify.diagnosis.detectors import DETECTORS, detect
from xcvae.verify.diagnosis.finding import (
    EnsembleStatistics,
    Evidence,
    Finding,
    LatentSwap,
    LevelEvidence,
    Neighbours,
)
from xcvae.verify.diagnosis.measure import measure
from xcvae.verify.diagnosis.statistics import (
    Spike,
    TimeStatistics,
    ensemble_statistics,
    error_autocorrelation,
    latent_swap,
    spread_by_amount,
    time_statistics,
)
from xcvae.verify.resampling import estimate

GOOD_STATISTICS = EnsembleStatistics(
    wet_fraction=0.29,
    mass_bias=-0.05,
    p99_ratio=0.97,
    variance_ratio=0.95,
    diversity=0.3,
    spread_skill=0.95,
    correlation=0.7,
    texture_ratio=0.9,
    spread_error=0.02,
    spread_log=1.02,
    spread_log_error=0.03,
    p999_ratio=0.9,
    light_mass=0.02,
    spread_thirds=((1.05, 0.03), (1.0, 0.03), (0.95, 0.03)),
    artefacts=Artefacts(0.05, 4, 1.05, 0.03, 0.98, 0.03),
)
GOOD = Evidence(
    units="mm h-1",
    samples=24,
    members=8,
    seed=0,
    pixels=20592.0,
    levels=tuple(
        LevelEvidence((size, size), kl, 0.8) for size, kl in ((10, 40.0), (20, 200.0), (40, 900.0))
    ),
    swap=LatentSwap(error_own=0.05, error_swapped=0.4, change=1.1),
    prior=GOOD_STATISTICS,
    posterior=replace(GOOD_STATISTICS, diversity=0.02, correlation=0.97),
    wet_fraction=0.30,
    wet_fraction_record=0.31,
    scale=0.8,
    light_mass=0.01,
    wet_threshold=0.1,
    neighbours=Neighbours(0.0, 1.0, 0.0, 0.6, 0.65, 0.97, 0.0, 20),
    time=TimeStatistics(step=300.0, generated=0.45, observed=0.5, pairs=8),
)


#: Names of all findings, in their order.
NAMES = [
    "units", "leakage", "posterior_collapse", "ignored_latent", "mean_collapse",
    "identical_members", "underdispersion", "overdispersion", "spread_by_rain",
    "prior_posterior_gap", "memorisation", "drizzle", "mass_drift", "truncated_tail",
    "capped_data", "checkerboard", "border", "flicker",
]  # fmt: skip


def near(**changes: float) -> Evidence:
    assert GOOD.neighbours is not None
    return replace(GOOD, neighbours=replace(GOOD.neighbours, **changes))


def in_time(**changes: float) -> Evidence:
    assert GOOD.time is not None
    return replace(GOOD, time=replace(GOOD.time, **changes))


def traces(**changes: float) -> Evidence:
    return prior(artefacts=replace(GOOD_STATISTICS.artefacts, **changes))


def prior(**changes: Any) -> Evidence:
    return replace(GOOD, prior=replace(GOOD.prior, **changes))


def posterior(**changes: float) -> Evidence:
    return replace(GOOD, posterior=replace(GOOD.posterior, **changes))


def both(**changes: float) -> Evidence:
    return replace(
        GOOD, prior=replace(GOOD.prior, **changes), posterior=replace(GOOD.posterior, **changes)
    )


def levels(active: float, kl: float) -> Evidence:
    return replace(GOOD, levels=tuple(replace(x, active=active, kl=kl) for x in GOOD.levels))


def swapped(own: float, other: float, change: float) -> Evidence:
    return replace(GOOD, swap=LatentSwap(own, other, change))


def severities(evidence: Evidence) -> dict[str, str]:
    return {finding.name: finding.severity for finding in detect(evidence)}


def of(name: str, diagnosis: Diagnosis) -> Finding:
    return next(finding for finding in diagnosis.findings if finding.name == name)


def test_detectors_find_nothing_in_a_good_model() -> None:
    assert severities(GOOD) == dict.fromkeys(NAMES, "ok")
    assert not any(finding.remedy for finding in detect(GOOD))


def test_draws_copied_as_often_as_the_samples_themselves_are_no_memorisation() -> None:
    """The samples are those of the training, as `leakage` says."""
    found = severities(near(drawn_copies=0.5, copies=0.48))
    assert (found["memorisation"], found["leakage"]) == ("ok", "fault")
    assert severities(near(drawn_copies=0.5, copies=0.2))["memorisation"] == "fault"


@pytest.mark.parametrize(
    ("evidence", "name", "severity"),
    [
        (levels(0.0, 0.0), "posterior_collapse", "fault"),
        (levels(0.1, 3.0), "posterior_collapse", "warning"),
        (swapped(0.240, 0.241, 0.002), "ignored_latent", "fault"),
        (swapped(0.20, 0.24, 0.2), "ignored_latent", "warning"),
        (prior(variance_ratio=0.4), "mean_collapse", "warning"),
        (posterior(variance_ratio=0.2), "mean_collapse", "fault"),
        (prior(texture_ratio=0.4), "mean_collapse", "warning"),
        (prior(texture_ratio=0.2), "mean_collapse", "fault"),
        (prior(floor=0.2, floor_share=0.1), "units", "warning"),
        (both(floor=0.2, floor_share=0.8), "units", "fault"),
        (both(wet_fraction=0.38), "drizzle", "warning"),
        (both(wet_fraction=1.0), "drizzle", "fault"),
        (prior(mass_bias=-0.28), "mass_drift", "warning"),
        (posterior(mass_bias=0.2), "mass_drift", "warning"),
        (both(mass_bias=-0.84), "mass_drift", "fault"),
        (prior(p99_ratio=0.65), "prior_posterior_gap", "warning"),
        (prior(p99_ratio=0.3), "prior_posterior_gap", "fault"),
        (prior(wet_fraction=0.20), "prior_posterior_gap", "warning"),
        (prior(diversity=0.002), "identical_members", "fault"),
        (prior(diversity=0.01), "identical_members", "warning"),
        (prior(spread_skill=0.5), "underdispersion", "warning"),
        (prior(spread_skill=0.4), "underdispersion", "fault"),
        (prior(spread_skill=1.4), "overdispersion", "warning"),
        (prior(spread_skill=2.5), "overdispersion", "fault"),
        (prior(spread_log=1.5, spread_skill=1.0), "overdispersion", "warning"),
        (prior(spread_log=0.3), "underdispersion", "fault"),
        (prior(spread_log=0.3, spread_skill=1.3), "underdispersion", "ok"),
        (prior(spread_log=1.5, spread_skill=0.7), "overdispersion", "ok"),
        (prior(spread_thirds=((1.5, 0.05), (1.1, 0.05), (0.9, 0.05))), "spread_by_rain", "warning"),
        (prior(spread_thirds=((2.5, 0.05), (1.0, 0.05), (0.7, 0.05))), "spread_by_rain", "fault"),
        (prior(spread_thirds=((0.6, 0.05), (1.0, 0.05), (1.2, 0.05))), "spread_by_rain", "warning"),
        (prior(spread_thirds=((1.5, 0.2), (1.1, 0.1), (0.9, 0.2))), "spread_by_rain", "ok"),
        (prior(spread_thirds=((1.5, 0.01), (1.1, 0.1), (0.9, 0.3))), "spread_by_rain", "ok"),
        (prior(spread_thirds=((1.5, 0.3), (1.1, 0.1), (0.9, 0.01))), "spread_by_rain", "ok"),
        (replace(GOOD, spike=Spike(53.8, 0.1, 700.0)), "capped_data", "warning"),
        (replace(GOOD, spike=Spike(53.8, 0.01, 700.0)), "capped_data", "ok"),
        (both(light_mass=0.1), "drizzle", "warning"),
        (both(light_mass=0.2, mass_bias=0.1), "drizzle", "fault"),
        (both(mass_bias=-0.12, light_mass=0.05), "mass_drift", "warning"),
        # Rain in pixels that count as dry is as much of what was observed.
        (replace(both(light_mass=0.38), light_mass=0.38), "mass_drift", "ok"),
        (replace(GOOD, light_mass=1.0), "mass_drift", "ok"),
        (prior(p999_ratio=0.6), "truncated_tail", "warning"),
        (posterior(p999_ratio=0.3), "truncated_tail", "fault"),
        (prior(p999_ratio=0.3, tail_rank=0.6, tail_rank_error=0.1), "truncated_tail", "ok"),
        (prior(ceiling_share=0.3), "truncated_tail", "warning"),
        (prior(ceiling_share=0.9), "truncated_tail", "fault"),
        (traces(pattern=0.4, period=2), "checkerboard", "warning"),
        (traces(pattern=0.9, period=12), "checkerboard", "fault"),
        (traces(border_amount=1.6), "border", "warning"),
        (traces(border_texture=0.3), "border", "fault"),
        (in_time(generated=0.1), "flicker", "warning"),
        (near(same_labels=0.02), "leakage", "warning"),
        (near(same_labels=0.5), "leakage", "fault"),
        (near(copies=0.1), "leakage", "fault"),
        (near(observed=0.3), "leakage", "warning"),
        (near(observed=0.1), "leakage", "fault"),
        (near(drawn=0.5), "memorisation", "warning"),
        (near(drawn=0.1), "memorisation", "fault"),
        (near(drawn_copies=0.1), "memorisation", "warning"),
        (near(drawn_copies=0.04, copies=0.0), "memorisation", "ok"),
        (replace(GOOD, scale=24.0), "units", "fault"),
        (replace(GOOD, scale=1 / 24), "units", "fault"),
        (replace(GOOD, scale=1 / 3600), "units", "fault"),
        (replace(GOOD, scale=7.0), "units", "warning"),
    ],
)
def test_detectors_find_a_fault_and_nothing_else(
    evidence: Evidence, name: str, severity: str
) -> None:
    found = severities(evidence)
    assert found.pop(name) == severity
    assert set(found.values()) == {"ok"}


def test_error_of_the_wet_share_is_that_of_its_differences_between_samples() -> None:
    wet = np.random.default_rng(0).random((3, 40)) * 0.5
    maps = (np.arange(100) < 100 * wet[..., None]).reshape(3, 40, 10, 10).astype("float32")
    found = ensemble_statistics(maps[1:], maps[0], units="mm h-1", wet_threshold=0.1)
    differences = maps.mean(axis=(2, 3))[1:].mean(axis=0) - maps.mean(axis=(2, 3))[0]
    assert found.wet_error == pytest.approx(differences.std(ddof=1) / np.sqrt(40), rel=0.2)


def test_low_prior_mass_is_mass_drift_and_gap() -> None:
    found = severities(prior(mass_bias=-0.6))
    assert (found["mass_drift"], found["prior_posterior_gap"]) == ("fault", "fault")


def test_drizzle_is_a_factor_in_dry_climates() -> None:
    desert = replace(both(wet_fraction=0.05), wet_fraction=0.01)
    assert severities(desert)["drizzle"] == "fault"
    assert severities(replace(both(wet_fraction=0.015), wet_fraction=0.01))["drizzle"] == "ok"


def test_detectors_ignore_differences_within_errors() -> None:
    for unsure in (
        prior(spread_skill=0.5, spread_error=0.4),
        prior(spread_skill=1.4, spread_error=0.1),
        prior(mass_bias=-0.4, mass_error=0.4),
        prior(wet_fraction=0.20, wet_error=0.04),
        prior(variance_ratio=0.4, variance_error=0.4),
        prior(texture_ratio=0.4, texture_error=0.4),
        traces(border_amount=1.6, border_amount_error=0.3),
    ):
        assert set(severities(unsure).values()) == {"ok"}


def test_flicker_needs_memory_in_the_observation() -> None:
    assert severities(in_time(generated=0.0, observed=0.1))["flicker"] == "ok"
    finding = next(f for f in detect(in_time(generated=0.1)) if f.name == "flicker")
    assert "5 min apart correlates by 0.10" in finding.evidence
    assert "temporal='coherent'" in finding.remedy
    assert (
        "coherent"
        not in next(
            f for f in detect(replace(in_time(generated=0.1), own=False)) if f.name == "flicker"
        ).remedy
    )


def test_flicker_passes_on_timescales_that_were_measured_on_the_data() -> None:
    here = {"source": "these data", "seconds": [3600.0, 0.0]}
    finding = next(
        f for f in detect(replace(in_time(generated=0.1), timescales=here)) if f.name == "flicker"
    )
    assert "timescales=[3600, 0] (measured here: the model has none)" in finding.remedy


def test_time_statistics_tell_frozen_from_independent_members() -> None:
    rng = np.random.default_rng(0)
    times = np.arange(6) * 300_000_000
    observed = rng.gamma(0.5, 2.0, (6, 24, 24))
    frozen = np.repeat(rng.gamma(0.5, 2.0, (2, 1, 24, 24)), 6, axis=1)
    found = time_statistics(frozen, observed, times)
    assert found is not None
    assert (found.step, found.pairs) == (300.0, 5)
    assert found.generated == pytest.approx(1)
    assert abs(found.observed) < 0.1
    assert time_statistics(frozen, observed, np.zeros(6, np.int64)) is None


def test_memory_of_the_levels_is_written_with_intervals() -> None:
    known = {
        "seconds": [3600.0, 0.0], "low": [1800.0, 0.0], "high": [7200.0, 0.0], "step": 300.0
    }  # fmt: skip
    diagnosis = Diagnosis(detect(GOOD), replace(GOOD, timescales=known))
    assert "1 h (30 min to 2 h), none" in " ".join(str(diagnosis).split())
    unknown = replace(GOOD, timescales={"seconds": None, "reason": "no consecutive times"})
    assert "unknown: no consecutive times" in " ".join(str(Diagnosis([], unknown)).split())


def test_mass_drift_reports_amounts_of_wet_pixels() -> None:
    evidence_of = {f.name: f.evidence for f in detect(both(mass_bias=0.0, light_mass=0.1))}
    assert "by +0 % (prior) and +0 % (posterior)" in evidence_of["mass_drift"]
    assert "in pixels with at least 0.1 mm h-1, by -9 % and -9 %" in evidence_of["mass_drift"]


def test_truncated_tail_ignores_a_cap_of_the_observation() -> None:
    # MRMS has a cap at 53.8 mm/h.
    assert severities(replace(both(ceiling_share=0.9), ceiling_share=0.9))["truncated_tail"] == "ok"


@pytest.mark.parametrize(
    ("evidence", "meaning", "clip", "heavy_share"),
    [
        (prior(p999_ratio=0.3), "The heaviest rain is too weak.", False, True),
        (
            prior(ceiling_share=0.9, p999_ratio=5.28, tail_rank=0.1),
            "The heaviest rain is cut off at a cap.", True, False,
        ),
        (
            prior(ceiling_share=0.9, p999_ratio=0.3),
            "The heaviest rain is too weak, and cut off at a cap.", True, True,
        ),
        (GOOD, "The heaviest rain is too weak, or cut off at a cap.", False, False),
    ],
)  # fmt: skip
def test_truncated_tail_names_cap_and_weakness_separately(
    evidence: Evidence, meaning: str, clip: bool, heavy_share: bool
) -> None:
    finding = next(finding for finding in detect(evidence) if finding.name == "truncated_tail")
    assert finding.meaning == meaning
    assert ("post-processor 'clip'" in finding.remedy) is clip
    assert ("heavy_share" in finding.remedy) is heavy_share
    assert finding.evidence.startswith("90 % of the largest values are the same") is clip
    assert f"is {evidence.prior.p999_ratio:.2f} times the observed" in finding.evidence


def test_mean_collapse_ignores_smooth_reconstructions() -> None:
    assert severities(posterior(texture_ratio=0.3))["mean_collapse"] == "ok"


def test_posterior_collapse_ignores_few_informative_channels() -> None:
    # Numbers of a calibrated model that was trained for 20 minutes on MRMS tiles.
    assert severities(levels(0.08, 900.0))["posterior_collapse"] == "ok"


def test_drizzle_ignores_too_few_wet_pixels() -> None:
    assert severities(both(wet_fraction=0.1))["drizzle"] == "ok"


def test_drizzle_ignores_an_excess_within_two_standard_errors() -> None:
    wet = GOOD.wet_fraction + 0.1
    assert severities(both(wet_fraction=wet, wet_error=0.06))["drizzle"] == "ok"
    assert severities(both(wet_fraction=wet, wet_error=0.01))["drizzle"] == "warning"
    assert severities(both(wet_fraction=1.0, wet_error=math.inf))["drizzle"] == "fault"


def test_amounts_of_a_single_storm_are_unchecked() -> None:
    """Four times too much rain was reported as right, as one storm has no standard error."""
    alone = both(mass_bias=3.85, mass_error=math.inf, variance_error=math.inf)
    found = severities(alone)
    names = ("mass_drift", "mean_collapse", "prior_posterior_gap")
    assert {found[name] for name in names} == {"unchecked"}


def test_unmeasured_quantities_are_unchecked() -> None:
    nothing = replace(
        both(
            p99_ratio=math.nan,
            p999_ratio=math.nan,
            mass_bias=math.nan,
            spread_skill=math.nan,
            spread_thirds=(),
            artefacts=Artefacts(),
        ),
        scale=math.nan,
        swap=None,
        levels=(),
        neighbours=None,
        time=None,
    )
    found = severities(nothing)
    assert not {"warning", "fault"} & set(found.values())
    assert {name for name, severity in found.items() if severity == "unchecked"} == {
        "units", "leakage", "posterior_collapse", "ignored_latent", "underdispersion",
        "overdispersion", "spread_by_rain", "memorisation", "checkerboard", "border", "flicker",
    }  # fmt: skip
    text = str(Diagnosis(detect(nothing), nothing))
    assert "nan" not in text
    assert "train again to have it checked" in " ".join(text.split())


@pytest.mark.parametrize(
    ("evidence", "name", "parameter"),
    [
        (levels(0.0, 0.0), "posterior_collapse", "beta of the loss 'kl'"),
        (levels(0.0, 0.0), "posterior_collapse", "free_bits"),
        (swapped(0.24, 0.24, 0.0), "ignored_latent", "max_minutes"),
        (both(wet_fraction=1.0), "drizzle", "post-processor 'threshold'"),
        (both(mass_bias=-0.84), "mass_drift", "loss 'mass'"),
        (prior(p99_ratio=0.3), "prior_posterior_gap", "loss 'crps'"),
        (prior(diversity=0.0), "identical_members", "temperature"),
        (replace(GOOD, scale=24.0), "units", "attrs['units']"),
        (both(variance_ratio=0.1), "mean_collapse", "intensity_weighted_mae"),
        (prior(spread_skill=0.3), "underdispersion", "temperature"),
        (prior(spread_skill=3.0), "overdispersion", "loss 'crps'"),
        (prior(ceiling_share=0.9), "truncated_tail", "post-processor 'clip'"),
        (prior(p999_ratio=0.2), "truncated_tail", "heavy_share"),
        (traces(pattern=0.9), "checkerboard", "generator: constrain"),
        (traces(border_amount=5.0), "border", "fit: crop"),
        (near(copies=1.0), "leakage", "Split by periods"),
        (near(drawn=0.0), "memorisation", "fit: max_steps"),
    ],
)
def test_remedies_name_the_parameters(evidence: Evidence, name: str, parameter: str) -> None:
    finding = next(finding for finding in detect(evidence) if finding.name == name)
    assert parameter in finding.remedy


def test_remedies_name_existing_components_only() -> None:
    everything = replace(
        both(
            variance_ratio=0.1,
            wet_fraction=1.0,
            mass_bias=2.0,
            diversity=0.0,
            p99_ratio=5.0,
            p999_ratio=0.1,
            ceiling_share=1.0,
            artefacts=Artefacts(2.0, 2, 5.0, 0.0, 5.0, 0.0),
            spread_skill=0.1,
        ),
        neighbours=replace(near().neighbours, copies=1.0, drawn=0.0),
        levels=levels(0.0, 0.0).levels,
        swap=LatentSwap(0.24, 0.24, 0.0),
        scale=100.0,
    )
    text = " ".join(finding.remedy for finding in detect(everything))
    named = {name for name in text.split("'")[1::2] if name.isidentifier()}
    known = {
        *registry().names("loss"),
        *registry().names("postprocessor"),
        "units",
        "name",
        "value",
    }
    assert {"kl", "laplace", "mass", "threshold"} <= named <= known


def everything_wrong(units: str, wet_threshold: float, **changes: Any) -> list[Finding]:
    """All findings of a model whose every quantity is wrong, in one direction."""
    wrong = {
        "variance_ratio": 0.1,
        "wet_fraction": 1.0,
        "mass_bias": 2.0,
        "diversity": 0.0,
        "p99_ratio": 5.0,
        "p999_ratio": 0.1,
        "ceiling_share": 1.0,
        "artefacts": Artefacts(2.0, 2, 5.0, 0.0, 5.0, 0.0),
        "spread_skill": 0.1,
        "spread_log": 0.1,
        "spread_thirds": ((0.1, 0.0), (1.0, 0.0), (5.0, 0.0)),
    }
    evidence = replace(
        both(**{**wrong, **changes}),
        units=units,
        wet_threshold=wet_threshold,
        posterior=replace(GOOD.posterior, p999_ratio=0.1),
        neighbours=replace(near().neighbours, copies=1.0, drawn=0.0),
        levels=levels(0.0, 0.0).levels,
        swap=LatentSwap(0.24, 0.24, 0.0),
        scale=100.0,
        spike=Spike(500 * wet_threshold, 0.1, 700.0),
    )
    return [finding for finding in detect(evidence) if finding.remedy]


def every_remedy(units: str = "mm h-1", wet_threshold: float = 0.1) -> dict[str, list[str]]:
    """The code of all remedies, by finding."""
    found: dict[str, list[str]] = {}
    for changes in (
        {},
        {"spread_skill": 5.0, "spread_log": 5.0},
        {"p999_ratio": 5.0, "spread_thirds": ((5.0, 0.0), (1.0, 0.0), (0.1, 0.0))},
    ):
        for finding in everything_wrong(units, wet_threshold, **changes):
            code = found.setdefault(finding.name, [])
            code += re.findall(r"`([^`]+)`", finding.remedy)
    assert set(found) == set(NAMES) - {"flicker"}  # its remedy has tests of its own
    return found


def wet_frames(ds: xr.Dataset) -> xr.Dataset:
    part = ds.drop_dims(["y_coarse", "x_coarse"]).isel(y=slice(48, 72), x=slice(48, 72))
    return part.isel(time=np.sort(np.argsort(part.pr.mean(("y", "x")).values)[-4:]))


def test_all_training_remedies_run_as_they_stand(train_radar: xr.Dataset) -> None:
    ds = wet_frames(train_radar)
    known = registry().names("loss")
    pasted = set()
    for name, snippets in every_remedy().items():
        losses = {"laplace": {"name": "laplace"}, "kl": {"name": "kl"}}
        options: dict[str, Any] = {"fit": {}, "generator": {}}
        for code in snippets:
            if code.startswith("{"):
                item = ast.literal_eval(code)
                assert item["name"] in known
                losses[item["name"]] = item
            elif code.split("=")[0] in options:
                options |= eval(f"dict({code})")
            else:
                continue
            pasted.add(code)
        if not pasted.intersection(snippets):
            continue
        xcvae.train(
            ds,
            coarsen=12,
            losses=list(losses.values()),
            # The rest of a long training is that of its first steps.
            fit={**options["fit"], "max_steps": 1, "batch_size": 2, "validations": 1},
            generator={**options["generator"], "levels": 1},
            validation=0,
            progress=False,
        )
        assert name != "drizzle"
    assert len(pasted) > 12


@pytest.mark.parametrize(
    ("units", "wet_threshold", "per_hour"),
    [
        ("mm h-1", 0.1, 1.0),
        ("mm/day", 1.0, 24.0),
        ("kg m-2 s-1", 0.1 / 3600, 1 / 3600),
        ("mm", 0.1, 1.0),
        ("m", 1e-4, 1e-3),
    ],
)
def test_all_sampling_remedies_run_as_they_stand(
    train_radar: xr.Dataset, units: str, wet_threshold: float, per_hour: float
) -> None:
    part = wet_frames(train_radar)[["pr"]]
    step = "D" if units == "mm/day" else "h"
    times = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(1, step)
    ds = part.assign(pr=(part.pr * per_hour).assign_attrs(units=units)).assign_coords(time=times)
    fit = {"max_steps": 1, "batch_size": 2, "validations": 1, "crop": 24}
    model = xcvae.train(
        ds, coarsen=12, fit=fit, generator={"levels": 1}, validation=0, progress=False
    )
    assert model.spec.wet_threshold == pytest.approx(wet_threshold)
    options = ("temperature", "postprocess")
    remedies = every_remedy(units, wet_threshold)
    code = {one for all_ in remedies.values() for one in all_ if one.split("=")[0] in options}
    assert len(code) >= 5
    for one in code:
        arguments = eval(f"dict({one})")
        rain = xcvae.sample(ds, model, members=1, progress=False, **arguments).pr.values
        if "threshold" in one:
            # Above the wet threshold, or it would change nothing that counts.
            assert rain[rain > 0].min(initial=np.inf) > wet_threshold
    ens = xcvae.sample(ds, model, members=2, progress=False)
    for name in ("capped_data", "spread_by_rain"):
        (one,) = {one for one in remedies[name] if one.split("=")[0] in ("metrics", "groupby")}
        card = xcvae.evaluate(ds, ens, baselines=[], progress=False, **eval(f"dict({one})"))
        assert np.isfinite(card["p999_ratio_2" if name == "capped_data" else "crps"]).any()
    (threshold,) = {one for one in remedies["drizzle"] if "threshold" in one}
    assert str(eval(f"dict({threshold})")["postprocess"][0]["value"]).endswith(units)


def test_border_reports_the_mode_that_deviates() -> None:
    artefacts = replace(GOOD_STATISTICS.artefacts, border_amount=2.5)
    (found,) = [f for f in detect(posterior(artefacts=artefacts)) if f.name == "border"]
    assert found.severity == "fault"
    assert "posterior members have 2.50 times the observed amount" in found.evidence
    assert "prior ones 1.05" in found.evidence
    (found,) = [f for f in detect(traces(border_amount=2.5)) if f.name == "border"]
    assert "prior members have 2.50 times" in found.evidence


def test_standard_errors_follow_the_memory_of_error_maps() -> None:
    """Frames 5 minutes apart: their mean is as certain as that of few independent ones."""
    rng = np.random.default_rng(11)

    def rain(memory: float) -> np.ndarray:
        fields = gaussian_filter(rng.normal(size=(5, 24, 16, 16)), (0, 0, 2, 2), mode="wrap") * 7
        for i in range(1, 24):
            fields[:, i] = memory * fields[:, i - 1] + np.sqrt(1 - memory**2) * fields[:, i]
        return np.maximum(np.expm1(fields), 0.0)

    for memory, errors in ((0.8, (1.7, 6.0)), (0.0, (1.0, 1.02))):
        covered, alone, factors = [], [], []
        for _ in range(40):
            maps = rain(memory)
            found = ensemble_statistics(maps[1:], maps[0], units="mm h-1", wet_threshold=0.1)
            parts = np.stack([maps[1:].mean(0).sum((1, 2)), maps[0].sum((1, 2))], axis=1)
            bias, plain = estimate(parts, lambda sums: float(np.log(sums[0] / sums[1])))
            covered.append(abs(bias) < 2 * found.mass_error)
            alone.append(abs(bias) < 2 * plain)
            factors.append(found.mass_error / plain)
        assert np.mean(covered) >= 0.9
        assert np.mean(alone) < 0.7 or memory == 0
        assert errors[0] <= np.median(factors) <= errors[1]


def test_error_autocorrelation_is_that_of_maps_and_of_no_constant_pattern() -> None:
    rng = np.random.default_rng(12)
    maps = rng.normal(size=(40, 20, 20))
    for i in range(1, 40):
        maps[i] = 0.7 * maps[i - 1] + np.sqrt(1 - 0.7**2) * maps[i]
    pattern = rng.normal(size=(20, 20))
    level = np.arange(40.0)[:, None, None]  # an error common to a map
    maps[3], maps[:, :4] = 0.0, np.nan
    for errors in (maps, maps + level, maps + 1.5 * pattern):
        found = error_autocorrelation(errors)
        np.testing.assert_allclose(found[:5], 0.7 ** np.arange(5), atol=0.12)
    assert not error_autocorrelation(rng.normal(size=(40, 20, 20)) + 3 * pattern)[1:].any()


def test_error_autocorrelation_of_two_maps_of_a_continent_takes_no_memory() -> None:
    errors = np.ones((2, 500, 500), np.float32)
    tracemalloc.start()
    try:
        assert error_autocorrelation(errors).tolist() == [1.0, 0.0]
        assert tracemalloc.get_traced_memory()[1] < errors.nbytes / 10
    finally:
        tracemalloc.stop()


def test_spread_by_amount_sorts_samples_by_coarse_rain_not_by_the_observation() -> None:
    """Members are right in all thirds; sorted by the outcome they would not seem so."""
    rng = np.random.default_rng(0)
    means = rng.gamma(2.0, 1.0, 60)
    *members, observed = rng.gamma(1.0, means[:, None, None], (7, 60, 8, 8))
    drawn = np.stack(members)
    thirds = spread_by_amount(drawn, observed, means)
    assert [ratio for ratio, _ in thirds] == pytest.approx([1, 1, 1], abs=0.1)
    assert all(error < 0.1 for _, error in thirds)
    narrow = np.where(means[:, None, None] > np.median(means), 0.5, 1.5) * (drawn - drawn.mean(0))
    thirds = spread_by_amount(drawn.mean(0) + narrow, observed, means)
    assert thirds[0][0] > 1.4
    assert thirds[2][0] < 0.6
    assert spread_by_amount(drawn[:, :11], observed[:11], means[:11]) == ()
    unknown = np.where(np.arange(60) < 12, np.nan, means)
    known = spread_by_amount(drawn[:, 12:], observed[12:], means[12:])
    assert spread_by_amount(drawn, observed, unknown) == known
    masked = np.full_like(drawn, np.nan)
    masked[:, :, 2:] = drawn[:, :, 2:]
    assert len(spread_by_amount(masked, observed, means)) == 3


def test_capped_data_gives_the_amount_of_the_cap_in_words() -> None:
    evidence = replace(GOOD, spike=Spike(53.8, 0.1, 700.0))
    (found,) = [f for f in detect(evidence) if f.name == "capped_data"]
    assert "10 % of the heaviest amounts" in found.evidence
    assert "are 53.8 mm h-1, 700 times as many" in found.evidence
    assert '{"name": "p999_ratio", "cap": "53.8 mm h-1"}' in found.remedy


def test_diverse_members_are_not_called_copies() -> None:
    # Far from the observation, but not alike: too little spread, and no copies.
    found = severities(prior(diversity=0.55, spread_skill=0.2))
    assert (found["identical_members"], found["underdispersion"]) == ("ok", "fault")
    assert severities(prior(diversity=0.1, spread_skill=0.2))["identical_members"] == "fault"


def test_cap_beyond_the_observed_rain_is_not_called_too_weak() -> None:
    evidence = prior(ceiling_share=0.9, p999_ratio=5.0, tail_rank=0.1)
    (found,) = [f for f in detect(evidence) if f.name == "truncated_tail"]
    assert "weak" not in found.meaning
    assert "too strong" in found.remedy
    assert "Raise maximum" not in found.remedy
    weak = posterior(p999_ratio=0.3, tail_rank=0.97)
    (found,) = [f for f in detect(weak) if f.name == "truncated_tail"]
    assert "a posterior member is weaker there" in found.evidence
    assert "97 %" in found.evidence


def test_diagnosis_text_has_verdict_meaning_and_remedy() -> None:
    evidence = both(mass_bias=-0.84)
    diagnosis = Diagnosis(detect(evidence), evidence)
    text = str(diagnosis)
    assert not diagnosis.ok
    assert text.splitlines()[0] == "Diagnosis of 24 samples with 8 members each, seed 0"
    assert text.splitlines()[-1] == "Verdict: 1 fault, 0 warnings."
    assert "mass_drift: The total amount of rain is wrong." in text
    assert "-84 % (prior)" in text
    assert text.count("to change") == 1
    # Checks without a finding are listed by name only.
    assert "nothing found  units, leakage" in text
    assert len(text.splitlines()) < 24
    # For a terminal of 80 columns.
    assert max(map(len, text.splitlines())) < 80


def test_diagnosis_with_warnings_is_ok() -> None:
    evidence = prior(spread_skill=0.5)
    assert Diagnosis(detect(evidence), evidence).ok
    assert str(Diagnosis(detect(GOOD), GOOD)).endswith("Verdict: no faults, no warnings.")


def test_diagnosis_json_is_plain() -> None:
    evidence = replace(both(p99_ratio=math.nan), scale=math.inf)
    content = Diagnosis(detect(evidence), evidence).to_json()
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again["evidence"]["prior"]["p99_ratio"] is None
    assert again["ok"] is False
    assert {f["name"] for f in again["findings"]} == {d.__name__ for d in DETECTORS}


# --- measured on fields with a known answer ------------------------------------------------------


@pytest.fixture
def rain() -> np.ndarray:
    """Half dry, half exponential rain, (sample, y, x)."""
    random = np.random.default_rng(0)
    field = random.exponential(2.0, (3, 16, 12))
    field[random.random(field.shape) < 0.5] = 0.0
    field[:, 0, 0] = np.nan
    return field


def measured(members: np.ndarray, observed: np.ndarray) -> EnsembleStatistics:
    return ensemble_statistics(members, observed, units="mm h-1", wet_threshold=0.1)


def test_statistics_of_copies_are_perfect_without_diversity(rain: np.ndarray) -> None:
    draws = measured(np.stack([rain, rain]), rain)
    wet = (np.nan_to_num(rain) >= 0.1).sum() / np.isfinite(rain).sum()
    assert draws.wet_fraction == pytest.approx(wet)
    assert draws.mass_bias == pytest.approx(0.0)
    assert draws.p99_ratio == pytest.approx(1.0, rel=0.005)
    assert draws.variance_ratio == pytest.approx(1.0)
    assert draws.diversity == pytest.approx(0.0, abs=1e-9)
    assert draws.correlation == pytest.approx(1.0)


def test_statistics_scale_with_amounts(rain: np.ndarray) -> None:
    draws = measured(np.stack([rain, rain]) * 0.5, rain)
    assert draws.mass_bias == pytest.approx(-0.5)
    assert draws.variance_ratio == pytest.approx(0.25)


def test_statistics_of_flat_means_show_collapse_and_drizzle(rain: np.ndarray) -> None:
    flat = np.where(np.isfinite(rain), np.nanmean(rain, axis=(1, 2), keepdims=True), np.nan)
    draws = measured(np.stack([flat, flat]), rain)
    assert draws.wet_fraction == 1.0
    assert draws.mass_bias == pytest.approx(0.0)
    assert draws.variance_ratio == pytest.approx(0.0, abs=1e-12)
    evidence = replace(GOOD, prior=draws, posterior=draws)
    assert severities(evidence)["mean_collapse"] == "fault"
    assert severities(evidence)["drizzle"] == "fault"


def test_latent_swap_compares_reconstructions(rain: np.ndarray) -> None:
    mean = np.nanmean(rain)
    swap = latent_swap(rain, rain + mean, rain)
    assert swap.error_own == 0.0
    assert swap.error_swapped == pytest.approx(mean)
    assert swap.change == pytest.approx(1.0)


# --- on models -----------------------------------------------------------------------------------


def trained(ds: xr.Dataset, beta: float) -> Model:
    return xcvae.train(
        ds,
        target="pr",
        coarsen=12,
        validation=0,
        losses=["laplace", {"name": "kl", "beta": beta, "warmup": 0.0}],
        generator={"channels": [24, 16, 12], "latents": [4, 4, 2]},
        fit={"max_steps": 120, "batch_size": 8, "crop": 24, "validations": 1},
        progress=False,
    )


@pytest.fixture(scope="module")
def storms(radar: xr.Dataset) -> xr.Dataset:
    """Frames of 48 x 36 km with much rain, one in ten."""
    part = radar.drop_dims(["y_coarse", "x_coarse"]).isel(y=slice(48, 96), x=slice(48, 84))
    wet = (part.pr > 0.1).mean(("y", "x")).values > 0.3
    return part.isel(time=np.flatnonzero(wet)[::2])


@pytest.fixture(scope="module")
def sound(storms: xr.Dataset) -> Model:
    return trained(storms, beta=0.3)


@pytest.fixture(scope="module")
def collapsed(storms: xr.Dataset) -> Model:
    """A model with a posterior equal to its prior."""
    model = trained(storms, beta=1e4)
    for level in model.network.levels:
        zero_init(level.posterior)
    return model


def test_diagnose_finds_a_collapsed_model(storms: xr.Dataset, collapsed: Model) -> None:
    diagnosis = diagnose(storms, collapsed, members=4)
    assert not diagnosis.ok
    assert of("posterior_collapse", diagnosis).severity == "fault"
    assert of("ignored_latent", diagnosis).severity == "fault"
    assert sum(level.kl for level in diagnosis.evidence.levels) < 1.0


def test_diagnose_accepts_a_model_that_uses_its_latents(storms: xr.Dataset, sound: Model) -> None:
    diagnosis = diagnose(storms, sound, members=4)
    assert of("posterior_collapse", diagnosis).severity == "ok"
    assert of("ignored_latent", diagnosis).severity == "ok"
    assert of("units", diagnosis).severity == "ok"
    evidence = diagnosis.evidence
    assert evidence.samples == min(24, storms.sizes["time"])
    assert evidence.swap is not None
    assert evidence.swap.error_swapped > 1.3 * evidence.swap.error_own
    assert evidence.posterior.correlation > evidence.prior.correlation


def flat(value: Any) -> list[float]:
    """Return all numbers of an evidence."""
    if isinstance(value, dict):
        return [number for one in value.values() for number in flat(one)]
    if isinstance(value, tuple | list):
        return [number for one in value for number in flat(one)]
    return [value] if isinstance(value, int | float) else []


def test_diagnose_draws_large_maps_in_tiles(
    storms: xr.Dataset, sound: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory does not suffice for one piece, with the same numbers."""
    monkeypatch.setenv("XCVAE_PRECISION", "float32")
    cells = {d: [k % storms.sizes[d] for k in range(276)] for d in ("y", "x")}
    large = storms.isel(time=[0, 9], **cells).drop_vars(list(cells))
    tiles, found = set(), []
    network = FieldSampler._domain

    def seen(self: Any, batch: Any, tile: Any, **how: Any) -> Any:
        tiles.add(tile)
        return network(self, batch, tile, **how)

    monkeypatch.setattr(FieldSampler, "_domain", seen)
    for memory, tile in (("40 GB", None), ("20 MB", (256, 256))):
        tiles.clear()
        monkeypatch.setenv("XCVAE_MEMORY", memory)
        found.append(flat(asdict(diagnose(large, sound, members=2).evidence)))
        assert tiles == {tile}
    assert len(found[0]) > 50
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-6, nan_ok=True)


def test_diagnose_finds_wrong_units(storms: xr.Dataset, sound: Model) -> None:
    lying = storms.assign(pr=(24 * storms.pr).assign_attrs(storms.pr.attrs))
    assert of("units", diagnose(lying, sound, members=2)).severity == "fault"
    honest = storms.assign(pr=(24 * storms.pr).assign_attrs(units="mm d-1"))
    diagnosis = diagnose(honest, sound, members=2)
    assert of("units", diagnosis).severity == "ok"
    assert diagnosis.evidence.units == "mm h-1"


def test_diagnose_finds_training_samples(storms: xr.Dataset, sound: Model) -> None:
    seen = of("leakage", diagnose(storms, sound, members=2))
    assert seen.severity == "fault"
    assert "100 % of the samples have the label of a training one" in seen.evidence
    assert "100 % are copies of a training field" in seen.evidence
    # Copies are found without their labels, too.
    renamed = storms.assign_coords(time=storms.time + np.timedelta64(3650, "D"))
    assert of("leakage", diagnose(renamed, sound, members=2)).severity == "fault"


def test_diagnose_without_thumbnails_leaves_leakage_unchecked(
    storms: xr.Dataset, sound: Model
) -> None:
    old = from_bytes(sound.to_bytes())
    old.thumbnails = None
    old = from_bytes(old.to_bytes())
    diagnosis = diagnose(storms, old, members=2)
    for name in ("leakage", "memorisation"):
        assert of(name, diagnosis).severity == "unchecked"
        assert "keeps nothing of the training samples" in of(name, diagnosis).evidence


def test_measure_depends_on_the_seed_only(storms: xr.Dataset, sound: Model) -> None:
    few = storms.isel(time=slice(4))
    first, again, other = (measure(few, sound, members=2, seed=seed) for seed in (1, 1, 2))
    assert first.to_json() == again.to_json()
    assert first.prior != other.prior
    assert first.levels == other.levels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 1}, "members: expected an integer >= 2, got 1"),
        ({"members": 8.0}, "members: expected an integer >= 2, got 8.0"),
        ({"members": "8"}, "members: expected an integer >= 2, got '8'"),
        ({"seed": 1.5}, "seed: expected an integer >= 0, got 1.5"),
        ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
        ({"seed": "a"}, "seed: expected an integer >= 0, got 'a'"),
        ({"device": "tpu"}, "device: expected 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ({"model": None}, "model: expected a Model, the path of a model file, or a name"),
    ],
)
def test_diagnose_refuses_wrong_arguments(
    storms: xr.Dataset, sound: Model, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        diagnose(storms, **{"model": sound, **arguments})  # type: ignore[arg-type]


def test_diagnose_caps_members_as_sample_does(
    storms: xr.Dataset, sound: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coarse rain beyond the record has a higher cap, which is no fault of the model."""
    heavy = storms.isel(time=slice(4)) * 3
    for name, field in storms.data_vars.items():
        heavy[name].attrs.update(field.attrs)
    heavy.coords.update(storms.isel(time=slice(4)).coords)
    capped = []
    draw = type(sound).draw

    def spy(self, batch, **options):
        capped.append(options.get("limits"))
        return draw(self, batch, **options)

    monkeypatch.setattr(type(sound), "draw", spy)
    diagnose(heavy, sound, members=2)
    expected = sound.limits(prepare(heavy, sound.spec, need_target=True))
    assert (expected > 2 * sound.record.maximum).any()
    np.testing.assert_array_equal(capped[0], expected)


def test_diagnose_of_lazy_data_is_equal(storms: xr.Dataset, sound: Model) -> None:
    few = storms.isel(time=slice(6))
    lazy = diagnose(few.chunk(time=2), sound, members=2)
    assert lazy.to_json() == diagnose(few, sound, members=2).to_json()


def test_diagnose_accepts_one_sample(storms: xr.Dataset, sound: Model) -> None:
    diagnosis = diagnose(storms.isel(time=[0]), sound, members=2)
    assert diagnosis.evidence.swap is None
    assert of("ignored_latent", diagnosis).severity == "unchecked"
    assert of("underdispersion", diagnosis).severity == "unchecked"


def test_diagnose_accepts_a_model_file(storms: xr.Dataset, tmp_path: Path, sound: Model) -> None:
    few = storms.isel(time=slice(2))
    sound.save(tmp_path / "model.xcvae")
    from_file = diagnose(few, str(tmp_path / "model.xcvae"), members=2)
    assert from_file.to_json() == diagnose(few, sound, members=2).to_json()


def test_diagnose_refuses_one_member(storms: xr.Dataset, sound: Model) -> None:
    for members in (1, 2.5, "8", None):
        with pytest.raises(
            ConfigError, match=f"members: expected an integer >= 2, got {members!r}"
        ):
            diagnose(storms, sound, members=members)


def test_diagnose_refuses_other_grids_and_negative_rain(storms: xr.Dataset, sound: Model) -> None:
    with pytest.raises(MismatchError):
        diagnose(storms.isel(y=slice(None, None, 2)), sound)
    negative = storms.assign(pr=(storms.pr - 1.0).assign_attrs(storms.pr.attrs))
    with pytest.raises(DataError, match="negative"):
        diagnose(negative, sound)


def test_exchanged_latents_are_compared_where_something_was_observed() -> None:
    rng = np.random.default_rng(0)
    observed, own, swapped = rng.gamma(1.0, 1.0, (3, 4, 8, 8))
    gaps = np.where(np.arange(8) < 4, observed, np.nan)
    calm = [np.where(np.arange(8) < 4, one, 0.0) for one in (own, swapped)]
    part = [one[..., :4] for one in (own, swapped, observed)]
    found, expected = latent_swap(*calm, gaps), latent_swap(*part)
    assert asdict(found) == pytest.approx(asdict(expected))
