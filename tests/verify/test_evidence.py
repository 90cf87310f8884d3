"""Evidence from ensembles of any origin: requirements and findings."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import ConfigError, DataError, MismatchError, UnitsError
from xcvae.fields.dataspec import plain
from xcvae.fields.record import Record
from xcvae.verify.diagnosis import Evidence, LevelEvidence, gather, judge
from xcvae.verify.diagnosis.detectors import detect
from xcvae.verify.diagnosis.statistics import (
    Spike,
    ceiling_of,
    ensemble_statistics,
    error_autocorrelation,
    floor_of,
    light_mass,
    spike_of,
    spike_of_record,
    time_statistics,
)

RANDOM = np.random.default_rng(0)
SHAPE = (6, 24, 18)


def storms(count: int) -> np.ndarray:
    """Smooth random showers on half of the area, (count, y, x)."""
    noise = RANDOM.normal(size=(count, *SHAPE[1:]))
    for axis in (1, 2):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-2, 3)) / math.sqrt(5)
    return np.where(noise > 0, np.expm1(noise.clip(min=0)), 0.0)


def labelled(values: np.ndarray, units: str = "mm h-1") -> xr.DataArray:
    dims = ("realization", "time", "y", "x")[-values.ndim :]
    return xr.DataArray(values, dims=dims, name="pr", attrs={"units": units})


@pytest.fixture
def observed() -> xr.DataArray:
    return labelled(storms(SHAPE[0]))


@pytest.fixture
def members(observed: xr.DataArray) -> xr.DataArray:
    """The same storms at other places: as much rain and roughness, all different."""
    rain = observed.values
    return labelled(np.stack([rain[:, ::-1], rain[..., ::-1], np.roll(rain, 9, 1), rain[::-1]]))


def near(observed: xr.DataArray) -> xr.DataArray:
    """Members that nearly equal the observation."""
    return labelled(np.stack([observed.values * factor for factor in (0.97, 1.03)]))


def severities(evidence: Evidence) -> dict[str, str]:
    return {finding.name: finding.severity for finding in judge(evidence).findings}


def test_gather_measures_any_ensemble_alike(observed: xr.DataArray, members: xr.DataArray) -> None:
    evidence = gather(
        observed,
        prior=members,
        posterior=near(observed),
        reconstructed=observed,
        swapped=observed.roll(time=3),
        levels=[LevelEvidence((6, 5), 30.0, 0.9)],
        trained_on=labelled(storms(20)),
    )
    expected = ensemble_statistics(
        members.values, observed.values, units="mm h-1", wet_threshold=0.1
    )
    assert plain(asdict(evidence.prior)) == plain(asdict(expected))
    assert (evidence.samples, evidence.members, evidence.pixels) == (6, 4, 24 * 18)
    assert evidence.swap is not None
    assert evidence.swap.error_own == 0.0
    assert {name: s for name, s in severities(evidence).items() if s in ("warning", "fault")} == {}


def test_gather_takes_samples_in_the_order_of_their_times() -> None:
    """Samples in a row are alike: shuffled, their errors would seem to be independent."""
    rng = np.random.default_rng(3)
    maps = rng.normal(size=(5, 16, 24, 18))
    for i in range(1, 16):
        maps[:, i] = 0.9 * maps[:, i - 1] + np.sqrt(1 - 0.9**2) * maps[:, i]
    rain = labelled(np.exp(maps)).assign_coords(time=np.arange("2001-01", "2002-05", dtype="M8[M]"))
    order = rng.permutation(16)
    records = np.roll(np.arange(16), 8)
    same, twice = np.arange(16), np.tile(rain.time[:8], 2)
    found = []
    for rows, ds in ((same, rain), (order, rain), (records, rain.assign_coords(time=twice))):
        truth, members = ds[0, rows], ds[1:, rows]
        found.append(gather(truth, prior=members, posterior=near(truth)).prior)
    assert plain(asdict(found[1])) == plain(asdict(found[0]))
    # Times that occur twice are those of two records, whose samples stay in a row.
    assert found[2].mass_error > 0.5 * found[0].mass_error


def test_gather_leaves_unknowns_unchecked(observed: xr.DataArray, members: xr.DataArray) -> None:
    diagnosis = judge(gather(observed, prior=members, posterior=near(observed)))
    reasons = {finding.name: finding.evidence for finding in diagnosis.findings}
    assert diagnosis.ok
    unchecked = {f.name for f in diagnosis.findings if f.severity == "unchecked"}
    assert unchecked >= {"posterior_collapse", "ignored_latent", "units", "leakage", "memorisation"}
    assert "no training record" in reasons["units"]
    assert "nan" not in str(diagnosis)


def test_gather_converts_units_and_finds_wrong_ones(
    observed: xr.DataArray, members: xr.DataArray
) -> None:
    daily = labelled(24 * members.values, "mm d-1")
    evidence = gather(
        observed,
        prior=daily,
        posterior=near(observed),
        trained_on=labelled(24 * storms(9), "mm d-1"),
    )
    assert evidence.prior.mass_bias == pytest.approx(
        float(members.mean() / observed.mean()) - 1, rel=1e-6
    )
    assert evidence.scale == pytest.approx(1.0, abs=0.3)
    record = Record.of([storms(9) / 24], units="mm h-1", wet_threshold=0.1)
    lying = gather(observed, prior=members, posterior=near(observed), trained_on=record)
    assert lying.scale == pytest.approx(24, rel=0.3)
    assert severities(lying)["units"] == "fault"


def test_units_and_drizzle_name_a_normalised_threshold(
    observed: xr.DataArray, members: xr.DataArray
) -> None:
    log = np.log1p(np.concatenate([observed.values, *members.values]))
    mean, std = log.mean(axis=0), log.std(axis=0)

    def cut(field: xr.DataArray) -> xr.DataArray:
        scores = (np.log1p(field.values) - mean) / std
        return labelled(np.expm1(np.where(scores < 0.1, 0.0, scores) * std + mean))

    evidence = gather(observed, prior=cut(members), posterior=cut(near(observed)))
    findings = {finding.name: finding for finding in judge(evidence).findings}
    assert evidence.prior.floor_share > 0.3
    for name in ("units", "drizzle"):
        assert findings[name].severity == "fault"
        assert "a threshold acted on normalised values" in findings[name].evidence
        assert "physical units" in findings[name].remedy


def test_drizzle_without_floor_is_not_a_unit_fault(
    observed: xr.DataArray, members: xr.DataArray
) -> None:
    wet = labelled(members.values + RANDOM.uniform(0.1, 0.4, members.shape))
    findings = {f.name: f for f in judge(gather(observed, prior=wet, posterior=wet)).findings}
    assert findings["drizzle"].severity == "fault"
    assert findings["units"].severity == "unchecked"
    assert "below a threshold to zero" in findings["drizzle"].remedy


def test_remedies_for_other_generators_omit_settings_of_xcvae(
    observed: xr.DataArray, members: xr.DataArray
) -> None:
    wild = gather(
        observed,
        prior=labelled(np.roll(members.values, 5, axis=-1) * 30 + 0.3),
        posterior=labelled(np.minimum(near(observed).values, 0.5)),
        levels=[LevelEvidence((6, 4), 0.0, 0.0)],
        reconstructed=observed,
        swapped=observed,
    )
    ill = {f.name: f for f in detect(wild) if f.severity in ("warning", "fault")}
    assert {"posterior_collapse", "ignored_latent", "drizzle", "mass_drift"} <= set(ill)
    assert all(finding.remedy for finding in ill.values())
    # For a model of xcvae the same evidence gives other remedies, with its parameters.
    own = {f.name: f for f in detect(replace(wild, own=True))}
    settings = ("fit:", "generator:", "post-processor", "the loss '", "max_minutes", "preset")
    for name, finding in ill.items():
        assert not any(word in finding.remedy for word in settings), finding.remedy
        if name not in ("units", "leakage", "drizzle"):  # here a floor, which is ill everywhere
            assert own[name].remedy != finding.remedy
    unchecked = {f.name: f.evidence for f in detect(wild) if f.severity == "unchecked"}
    assert "train again" not in unchecked["leakage"]
    assert "trained_on" in unchecked["leakage"]


def test_light_mass_is_below_the_wet_threshold() -> None:
    rain = np.array([0.05, 0.1, 0.85, np.nan])
    assert light_mass(rain, 0.1) == pytest.approx(0.05)
    assert light_mass(rain, 0.05) == 0.0
    assert light_mass(np.zeros(3), 0.1) == 0.0


def test_floor_of_counts_values_at_the_floor() -> None:
    members = np.array([0.0, 1.0, 0.2, 5.0, 0.0]).reshape(5, 1, 1, 1)
    assert floor_of(members) == (0.0, 0.0)
    assert floor_of(np.maximum(members, 0.3)) == (pytest.approx(0.3), pytest.approx(0.5))
    assert floor_of(np.full((3, 1, 2, 2), np.nan)) == (0.0, 0.0)
    assert floor_of(members[:1] + 1.0) == (0.0, 0.0)


def test_gather_refuses_normalised_values(observed: xr.DataArray, members: xr.DataArray) -> None:
    scores = labelled((members.values - members.values.mean()) / members.values.std())
    with pytest.raises(DataError, match=r"prior.*negative"):
        gather(observed, prior=scores, posterior=near(observed))
    with pytest.raises(UnitsError, match="units"):
        gather(observed, prior=labelled(scores.values, "1"), posterior=near(observed))


def test_gather_refuses_other_grids_and_single_members(
    observed: xr.DataArray, members: xr.DataArray
) -> None:
    with pytest.raises(MismatchError):
        gather(observed, prior=members.isel(x=slice(3)), posterior=near(observed))
    with pytest.raises(ConfigError, match="members: expected an integer >= 2, got 1"):
        gather(observed, prior=members.isel(realization=[0]), posterior=near(observed))


def test_spike_of_finds_a_cap_inside_the_range_and_no_quantisation() -> None:
    rain = RANDOM.exponential(8.0, 60_000)
    for step in (0.12, 0.01, 1.0, 5.0):  # radar, packed, gauges
        assert spike_of(np.round(rain / step) * step, 0.1) is None
    assert spike_of(rain.astype("float32"), 0.1) is None
    # Like MRMS: half of what is above the cap is at it, the other half goes on to twice as much.
    capped = np.where((rain > 40) & (RANDOM.random(rain.shape) < 0.5), 40.0, rain).astype("float32")
    found = spike_of(capped, 0.1)
    assert found is not None
    assert found.amount == 40.0
    assert 0.2 < found.share < 0.5
    assert spike_of(np.minimum(rain, 40.0), 0.1).amount == 40.0
    assert spike_of(capped[:4000], 0.1) is None  # too few to say


def test_spike_of_the_record_is_found_where_the_samples_have_none(
    observed: xr.DataArray, members: xr.DataArray
) -> None:
    rain = RANDOM.exponential(2.0, (60, 24, 18))
    capped = np.minimum(rain, 8.0)
    plain_one, record = (Record.of([x], units="mm h-1", wet_threshold=0.1) for x in (rain, capped))
    assert spike_of_record(plain_one) is None

    def spike(factor: float, units: str) -> Spike | None:
        field, drawn = (labelled(factor * da.values, units) for da in (observed, members))
        return gather(field, prior=drawn, posterior=drawn, trained_on=record).spike

    hourly, daily = spike(1, "mm h-1"), spike(24, "mm/day")
    assert hourly is not None
    assert daily is not None
    assert 7.7 <= hourly.amount <= 8.0
    assert daily.amount == pytest.approx(24 * hourly.amount)


def test_gather_compares_members_where_something_was_observed(
    observed: xr.DataArray, members: xr.DataArray
) -> None:
    """Calm members of the part that was not observed looked like a collapse to the mean."""
    shape = np.where(np.arange(SHAPE[2]) < 6, 1.0, 0.02)
    seen = observed.where(shape == 1)
    drawn, close = members * shape, near(observed) * shape
    pair = [drawn.assign_attrs(members.attrs), close.assign_attrs(members.attrs)]
    found = gather(seen, prior=pair[0], posterior=pair[1])
    masked = gather(seen, prior=pair[0].where(shape == 1), posterior=pair[1].where(shape == 1))
    assert plain(asdict(found.prior)) == plain(asdict(masked.prior))
    assert plain(asdict(found.posterior)) == plain(asdict(masked.posterior))
    assert np.isfinite(pair[0]).all()


def test_gather_sorts_samples_by_coarse_rain_if_it_is_known() -> None:
    """Sorted by their own rain, members of climatology had too little spread where they are dry."""
    rng = np.random.default_rng(0)
    means = rng.gamma(2.0, 1.0, 60)
    truth, *drawn = (labelled(one) for one in rng.gamma(1.0, means[:, None, None], (5, 60, 8, 8)))
    rain = xr.concat(drawn, "realization")
    order = rng.permutation(60)
    coarse = labelled(means[:, None, None] * np.ones((60, 2, 2)))
    times = np.datetime64("2001-01-01", "ns") + np.arange(60) * np.timedelta64(1, "D")
    found = [
        gather(truth, prior=rain, posterior=rain),
        gather(truth, prior=rain, posterior=rain, coarse=coarse),
        gather(
            truth.assign_coords(time=times),
            prior=rain.assign_coords(time=times),
            posterior=rain.assign_coords(time=times),
            coarse=coarse.assign_coords(time=times).isel(time=order),
        ),
    ]
    assert [len(one.prior.spread_thirds) for one in found] == [0, 3, 3]
    assert found[2].prior.spread_thirds == pytest.approx(np.array(found[1].prior.spread_thirds))
    assert severities(found[0])["spread_by_rain"] == "unchecked"
    with pytest.raises(MismatchError, match="coarse: expected dims"):
        gather(truth, prior=rain, posterior=rain, coarse=coarse[:9])


def test_ensemble_statistics_are_their_formulas() -> None:
    random = np.random.default_rng(3)
    rain = np.where(random.random((5, 13, 9, 11)) < 0.5, random.gamma(0.6, 4.0, (5, 13, 9, 11)), 0)
    rain[:, :, :3, :4] = np.nan
    rain[:, 2, :, :6] = np.nan
    observed, members = rain[0], 1.3 * rain[1:]
    coarse = np.nanmean(observed, axis=(1, 2)) + random.normal(size=13)
    coarse[4] = np.nan
    found = ensemble_statistics(members, observed, units="mm h-1", wet_threshold=0.1, coarse=coarse)

    def spread(x: np.ndarray, y: np.ndarray) -> float:
        variance = np.nansum(x.var(axis=0, ddof=1))
        return float(np.sqrt(1.25 * variance / np.nansum((x.mean(axis=0) - y) ** 2)))

    def texture(maps: np.ndarray) -> float:
        return float(sum(np.nansum(np.diff(maps, axis=axis) ** 2) for axis in (-1, -2)))

    variance = [np.nanvar(maps, axis=(-2, -1)).sum() for maps in (members, observed)]
    logs = [np.log1p(maps / 0.1) for maps in (members, observed)]
    assert found.spread_skill == pytest.approx(spread(members, observed))
    assert found.spread_log == pytest.approx(spread(*logs))
    assert found.variance_ratio == pytest.approx(variance[0] / 4 / variance[1])
    assert found.texture_ratio == pytest.approx(texture(members) / 4 / texture(observed))
    assert found.light_mass == pytest.approx(np.nansum(members[members < 0.1]) / np.nansum(members))
    seen = np.nanquantile(observed, 0.999, axis=(1, 2))
    drawn = np.nanquantile(members, 0.999, axis=(2, 3))
    assert found.tail_rank == pytest.approx((drawn < seen).mean())
    order = [row for row in np.argsort(coarse) if row != 4]
    thirds = [spread(members[:, rows], observed[rows]) for rows in np.array_split(order, 3)]
    assert [ratio for ratio, _ in found.spread_thirds] == pytest.approx(thirds)


def test_autocorrelation_of_errors_leaves_out_what_is_common() -> None:
    """Neither an offset of a map, however it lasts, nor a pattern of all maps is memory."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(40, 16, 16))
    offsets = np.cumsum(random.normal(size=40))[:, None, None]
    pattern = random.normal(size=(16, 16))
    for maps in (noise + 9 * offsets, noise + pattern):
        assert abs(error_autocorrelation(maps)[1:]).max() < 0.05
    evolving = noise[1:] + noise[:-1]
    assert error_autocorrelation(evolving + 9 * offsets[1:])[1] == pytest.approx(0.5, abs=0.05)
    evolving[::3] = 0.0  # maps without an error have no pattern that could be compared
    assert error_autocorrelation(evolving)[1] == pytest.approx(0.5, abs=0.1)


def test_values_up_to_a_thousandth_below_the_largest_are_at_the_ceiling() -> None:
    rain = np.random.default_rng(0).exponential(5.0, 100_000)
    capped = np.where(rain > 20, 20 * (1 - 9e-4 * np.random.default_rng(1).random(100_000)), rain)
    assert ceiling_of(capped, 0.1) == 1.0
    assert ceiling_of(np.where(rain > 20, 20 - 0.02 * rain, rain), 0.1) < 0.5


def test_few_amounts_show_no_spike() -> None:
    """The most frequent of three amounts has too few next to it to be compared with."""
    assert spike_of(np.repeat([1.0, 2.9, 3.0], [20_000, 10, 390]), 0.1) is None


def test_pairs_in_time_are_those_of_the_runs() -> None:
    rain = np.random.default_rng(0).exponential(5.0, (3, 9, 24, 24))
    minutes = np.array([0, 5, 10, 15, 60, 65, 70, 200, 205])
    found = time_statistics(rain[1:], rain[0], minutes * 60_000_000)
    assert found is not None
    assert (found.step, found.pairs) == (300.0, 3 + 2 + 1)
