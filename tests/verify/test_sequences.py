"""Scores of windows of time and of sequences in the scorecard, and the baselines in time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae import metrics
from xcvae.errors import ConfigError, DataError, EmptySelectionError
from xcvae.verify.pairing import pair_up
from xcvae.verify.scorecard import score_match

COUNT = 30


def rain(seed: int, *shape: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.where(random.random(shape) < 0.5, random.gamma(0.7, 4.0, shape), 0.0)


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    """Two and a half hours at 5 minutes from 0:00, without 0:20."""
    steps = np.delete(np.arange(COUNT + 1), 4)
    times = np.datetime64("2021-06-01", "ns") + steps * np.timedelta64(5, "m")
    pr = xr.DataArray(
        rain(1, COUNT, 12, 16).astype("float32"),
        dims=("time", "y", "x"),
        coords={"time": times},
        attrs={"units": "mm h-1"},
    )
    return pr.to_dataset(name="pr")


@pytest.fixture(scope="module")
def ensemble(ds: xr.Dataset) -> xr.Dataset:
    """Members that resemble the observation, for all times alike."""
    noise = rain(2, 4, 1, 12, 16)
    pr = 0.7 * ds.pr + xr.DataArray(0.3 * noise[:, 0], dims=("realization", "y", "x"))
    pr = pr.transpose("realization", ...).assign_attrs(units="mm h-1")
    return pr.to_dataset(name="pr").assign_coords(realization=np.arange(4))


def hourly(da: xr.DataArray) -> xr.DataArray:
    """Means over the only complete hour, 1:00 to 1:55."""
    part = da.sel(time=slice("2021-06-01T01:00", "2021-06-01T01:55"))
    return part.coarsen(time=12).mean().assign_attrs(units="mm h-1")


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("block_bytes", [1, 2**27])
def test_window_scores_means_over_complete_windows(ds, ensemble, *, lazy, block_bytes):
    own = ensemble.chunk({"time": 5}) if lazy else ensemble
    card = score_match(
        pair_up(ds, own),
        metrics=["crps", {"name": "crps", "window": "1 h"}, {"name": "csi", "window": "15min"}],
        baselines=[],
        block_bytes=block_bytes,
    )
    whole = metrics.crps(ensemble.pr, ds.pr)
    assert card.crps.item(0) == pytest.approx(whole.item(), rel=1e-6)
    expected = metrics.crps(hourly(ensemble.pr), hourly(ds.pr))
    assert card.crps_1h.item(0) == pytest.approx(expected.item(), rel=1e-5)
    assert card.crps_1h.attrs["window"] == "1h"
    assert list(card.data_vars)[::3] == ["crps", "crps_1h", "csi_15min"]
    recorded = json.loads(card.attrs["xcvae"])["metrics"]
    assert [one.get("window") for one in recorded] == [None, "1h", "15min"]


def test_window_adds_up_amounts_and_averages_rates(ds, ensemble):
    amounts = [one.assign(pr=one.pr.assign_attrs(units="mm")) for one in (ds, ensemble)]
    spec = [{"name": "mae", "window": "1h"}]
    rate = xcvae.evaluate(ds, ensemble, metrics=spec, baselines=[]).mae_1h
    amount = xcvae.evaluate(*amounts, metrics=spec, baselines=[]).mae_1h
    assert amount.item(0) == pytest.approx(12 * rate.item(0), rel=1e-5)
    assert amount.attrs["units"] == "mm"


def test_windows_of_integers_are_scored_like_those_of_floats(ds, ensemble):
    for units, spec in (("mm h-1", "15 min"), ("mm", "1 h")):
        rounded = [
            (10 * one[["pr"]]).round().map(lambda da: da.assign_attrs(units=units))  # noqa: B023
            for one in (ds, ensemble)
        ]
        cards = [
            xcvae.evaluate(
                *(one.astype(kind) for one in rounded),
                metrics=[{"name": "mae", "window": spec}],
                baselines=[],
            )
            for kind in ("float64", "int16", "uint16")
        ]
        for card in cards[1:]:
            xr.testing.assert_allclose(card, cards[0])


def test_window_of_numbers_belongs_to_the_metric(ds, ensemble):
    specs = [{"name": "fss", "window": 3}, {"name": "fss", "window": "15 min"}]
    card = xcvae.evaluate(ds, ensemble, metrics=specs, baselines=[])
    assert card.fss.attrs["window"] == 3
    assert card.fss_15min.attrs["window"] == "15min"


def test_baselines_in_time_leave_scores_of_single_times_and_change_those_of_windows(ds, ensemble):
    specs = ["crps", "spread_skill", {"name": "spread_skill", "window": "1h"}, "lag_correlation"]
    card = xcvae.evaluate(ds, ensemble, metrics=specs, baselines=["independent", "frozen"])
    for name in ("crps", "spread_skill"):
        np.testing.assert_allclose(card[name], card[name][0], rtol=1e-6)
    own, independent, frozen = card.spread_skill_1h.values
    assert independent < 0.8 * own
    assert frozen >= own * 0.999
    assert card.lag_correlation.values[1] < card.lag_correlation.values[0] - 0.05


def test_sequences_are_scored_by_groups_and_in_any_blocks(ds, ensemble):
    ds = ds.assign_coords(half=("time", (ds.time.dt.hour.values < 1).astype(int)))
    cards = [
        score_match(
            pair_up(ds, ensemble),
            metrics=["lag_correlation", "crps"],
            baselines=[],
            groupby="half",
            block_bytes=size,
        )
        for size in (1, 2**27)
    ]
    xr.testing.assert_allclose(*cards)
    assert cards[0].lag_correlation.sizes == {"source": 1, "half": 2}
    # A sequence belongs to the group of its first sample.
    assert np.isfinite(cards[0].lag_correlation.values).all()


def test_a_single_sequence_of_full_length_has_no_interval(ds, ensemble):
    spectrum = {"name": "temporal_spectrum", "samples": 20}
    options = {"metrics": [spectrum], "baselines": [], "progress": False}
    card = xcvae.evaluate(ds, ensemble, **options)
    part = {"time": slice(4, 24)}  # the only one without the gap
    first = xcvae.evaluate(ds.isel(part), ensemble.isel(part), **options)
    assert card.temporal_spectrum.item() == first.temporal_spectrum.item()
    assert np.isnan(card.temporal_spectrum_low)


def test_windows_are_grouped_by_arrays_of_all_samples(ds, ensemble):
    half = (ds.time.dt.hour.values < 1).astype(int)
    options = {"metrics": ["crps", {"name": "crps", "window": "15 min"}], "baselines": []}
    card = xcvae.evaluate(ds, ensemble, groupby=half, progress=False, **options)
    assert card.crps_15min.sizes == {"source": 1, "group": 2}
    assert np.isfinite(card.crps_15min).all()


def test_windows_are_grouped_by_their_own_coarse_rain():
    """Of six quarters of an hour, with the driest frame first, each third has two."""
    amounts = np.array([3.0, 1.0, 6.0, 2.0, 5.0, 4.0])
    frames = (amounts[:, None] * [0.0, 1.0, 2.0]).ravel()
    coords = {"time": np.datetime64("2021-06-01", "ns") + np.arange(18) * np.timedelta64(5, "m")}
    fields = rain(1, 18, 12, 16) + 0.1
    fields *= (frames / fields.mean(axis=(1, 2)))[:, None, None]
    pr = xr.DataArray(fields, coords, ("time", "y", "x"), attrs={"units": "mm h-1"})
    pr = pr.assign_coords(y=np.arange(12.0), x=np.arange(16.0))
    coarse = pr.coarsen(y=4, x=4).mean().rename(y="y_coarse", x="x_coarse")
    ds = xr.Dataset({"pr": pr, "pr_coarse": coarse.assign_attrs(pr.attrs)})
    members = pr.expand_dims(realization=2).assign_attrs(pr.attrs)
    ens = xr.Dataset({"pr": members * xr.DataArray([0.5, 0.7], dims="realization")})
    ens["pr"].attrs.update(pr.attrs)
    spec = [{"name": "crps", "window": "15 min"}, {"name": "crps", "window": "30 min"}, "crps"]
    card = xcvae.evaluate(
        ds, ens, metrics=spec, baselines=[], groupby="coarse_rain", progress=False
    )
    rising = np.sort(amounts)
    # The fair CRPS of members of .5 and .7 times the observation is .4 - .1 times it.
    error = np.abs(1 - np.array([0.5, 0.7])).mean() - 0.2 / 2
    expected = error * rising.reshape(3, 2).mean(axis=1)
    np.testing.assert_allclose(card.crps_15min.values[0], expected, rtol=1e-5)
    halves = np.sort(amounts.reshape(3, 2).mean(axis=1))
    np.testing.assert_allclose(card.crps_30min.values[0], error * halves, rtol=1e-5)
    thirds = np.sort(frames).reshape(3, 6).mean(axis=1)
    np.testing.assert_allclose(card.crps.values[0], error * thirds, rtol=1e-5)


@pytest.mark.parametrize(
    ("window", "error", "message"),
    [
        ("7 min", ConfigError, "multiple of the step of the samples, 300 s"),
        ("3 h", EmptySelectionError, "36 consecutive samples in a window of 3h"),
        ("1 km", ValueError, "window: expected a duration"),
        ("-1 h", ConfigError, "window: expected a duration"),
        ("1e400 s", ConfigError, "window: expected a duration"),
        (3600, ConfigError, "window: expected a duration with its unit, got 3600.*'3600 s'"),
    ],
)
def test_wrong_windows_are_refused(ds, ensemble, window, error, message):
    with pytest.raises(error, match=message):
        xcvae.evaluate(ds, ensemble, metrics={"name": "crps", "window": window}, baselines=[])


def test_windows_of_samples_without_times_are_refused(ds, ensemble):
    labels = [f"storm {i:02}" for i in range(COUNT)]
    pair = [one.assign_coords(time=labels) for one in (ds, ensemble)]
    with pytest.raises(ConfigError, match="leave out windows and metrics of sequences"):
        xcvae.evaluate(*pair, metrics={"name": "crps", "window": "1h"}, baselines=[])


def test_strip_diagram_and_animation_take_the_longest_run(ds, ensemble, tmp_path):
    plot = ensemble.cvae.plot
    strip = plot.strip(ds, members=2)
    assert len(strip.axes) == 3 * 6 + 1  # observed and two members, six times, and the scale
    assert [ax.get_title(loc="left") for ax in plot.hovmoeller(ds, members=2).axes[:3]] == [
        "Observed", "Member 0", "Member 1"
    ]  # fmt: skip
    path = plot.animate(ds, path=tmp_path / "members.gif", members=1, every=4)
    with pytest.importorskip("PIL.Image").open(path) as image:
        assert image.n_frames == 7  # 26 samples follow each other from 0:25
    assert path.read_bytes()[:3] == b"GIF"


def test_animation_of_single_samples_is_refused(ds, ensemble, tmp_path):
    lone = ensemble.isel(time=[0])
    with pytest.raises(DataError, match="samples that follow each other"):
        lone.cvae.plot.animate(ds, path=tmp_path / "members.gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lazy", [False, True])
def test_sequences_end_at_maps_without_an_observation(ds, ensemble, *, lazy):
    """One lost frame left no pixel that counts at all times, and no score at all."""
    lost = ds.time[[3, 17]]
    gaps = ds.assign(pr=ds.pr.where(~ds.time.isin(lost)).assign_attrs(ds.pr.attrs))
    without = [data.drop_sel(time=lost.values) for data in (ds, ensemble)]
    own = ensemble.chunk({"time": 5}) if lazy else ensemble
    names = ["lag_correlation", "wet_spell", "temporal_spectrum", "crps"]
    options = {"metrics": names, "baselines": []}
    card = xcvae.evaluate(gaps.chunk() if lazy else gaps, own, **options)
    expected = xcvae.evaluate(*without, **options)
    for name in names:
        assert card[name].item() == pytest.approx(expected[name].item()), name


def test_sequences_keep_the_step_of_all_samples(ds, ensemble):
    """With every second map unobserved, the correlation was that of twice the lag."""
    hidden = ds.isel(time=slice(None, None, 2)).time
    gaps = ds.assign(pr=ds.pr.where(~ds.time.isin(hidden)).assign_attrs(ds.pr.attrs))
    card = xcvae.evaluate(gaps, ensemble, metrics=["lag_correlation", "crps"], baselines=[])
    assert np.isnan(card.lag_correlation.item())
    assert np.isfinite(card.crps.item())


def test_scores_of_sequences_do_not_depend_on_maps_that_a_baseline_lacks(ds, ensemble):
    def lossy(dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        rain = dataset.pr.where(dataset.time != dataset.time[9])
        return rain.expand_dims("realization").assign_attrs(dataset.pr.attrs)

    names = ["lag_correlation", "crps"]
    with pytest.warns(UserWarning, match="'lossy' lacks 3.3 %") as found:
        card = xcvae.evaluate(ds, ensemble, metrics=names, baselines=[lossy])
    assert len(found) == 1
    alone = xcvae.evaluate(ds, ensemble, metrics=names, baselines=[])
    assert card.lag_correlation[0].item() == alone.lag_correlation[0].item()
