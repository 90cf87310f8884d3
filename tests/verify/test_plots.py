"""Figures show the right numbers, uncut, with units, and open no window."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from xcvae.errors import DataError, MismatchError, MissingVariableError, UnitsError
from xcvae.generator.model import Model
from xcvae.verify.criteria import Criterion, criteria_for, judge
from xcvae.verify.plots import Plots, geography, style
from xcvae.verify.plots.curves import flat_band
from xcvae.verify.plots.member_maps import Axis, RainScale, draw_map
from xcvae.verify.plots.summaries import accumulate
from xcvae.verify.score_text import best_sources, score_names


def members_of(ds: xr.Dataset, factors: list[float]) -> xr.Dataset:
    """An ensemble with the observation times known factors as members."""
    numbers = xr.DataArray(factors, dims="realization", coords={"realization": range(len(factors))})
    field = (ds[["pr"]] * numbers).pr.transpose("realization", "time", "y", "x")
    made = field.assign_attrs(ds.pr.attrs).to_dataset(name="pr")
    return made.assign_attrs(xcvae=json.dumps({"mode": "posterior", "spread": 0.5}))


@pytest.fixture(scope="module")
def ensemble(storms: xr.Dataset) -> xr.Dataset:
    return members_of(storms, [0.5, 1.0, 2.0])


def maps_of(figure: Figure) -> dict[str, np.ndarray]:
    """Values of the maps by title."""
    found = {}
    for axes in figure.axes:
        meshes = [c for c in axes.collections if isinstance(c, QuadMesh)]
        if axes.get_title() and meshes:
            values = meshes[0].get_array()
            found[axes.get_title()] = np.ma.filled(np.ma.asarray(values, float), np.nan)
    return found


def map_axes(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title()]


def texts_of(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if t.get_text() and t.get_visible()]


# --- maps ----------------------------------------------------------------------------------------


def test_members_figure_shows_condition_observation_and_members(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    maps = maps_of(Plots(ensemble).members(storms, sample=1, members=2))
    assert list(maps) == ["Condition (12 km)", "Observed", "Member 0", "Member 1"]
    assert maps["Condition (12 km)"].shape == (13, 11)
    np.testing.assert_allclose(maps["Observed"], storms.pr[1].values)
    np.testing.assert_allclose(maps["Member 0"], 0.5 * storms.pr[1].values)


def test_members_figure_defaults_to_the_wettest_sample(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    figure = Plots(ensemble).members(storms)
    np.testing.assert_allclose(maps_of(figure)["Observed"], storms.pr[2].values)
    assert figure.get_suptitle().startswith("Rain rate, 2018-05-1")
    assert "(posterior, spread 0.50)" in figure.get_suptitle()


def test_members_figure_selects_by_label_and_position(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    label = storms.time.values[4]
    for sample in (label, str(label), 4, -2):
        maps = maps_of(Plots(ensemble).members(storms, sample=sample, members=1))
        np.testing.assert_allclose(maps["Observed"], storms.pr[4].values)
    for sample in (6, "1999-01-01T00:00"):
        with pytest.raises(DataError, match="one of the 6 samples"):
            Plots(ensemble).members(storms, sample=sample)


def test_members_figure_takes_a_selected_member(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    maps = maps_of(Plots(ensemble.isel(realization=2)).members(storms, sample=0, conditions=[]))
    assert list(maps) == ["Observed", "Member 2"]
    np.testing.assert_allclose(maps["Member 2"], 2 * storms.pr[0].values)
    assert list(maps_of(Plots(ensemble.isel(realization=2)).members(sample=0))) == ["Member 2"]


@pytest.mark.parametrize("members", ["2", ["a"], None, [0.5]], ids=repr)
def test_members_figure_refuses_other_numbers(
    storms: xr.Dataset, ensemble: xr.Dataset, members: object
) -> None:
    with pytest.raises(DataError, match=r"at least one of the \d members"):
        Plots(ensemble).members(storms, members=members)


def test_members_figure_refuses_a_field_as_the_data(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    with pytest.raises(DataError, match="got DataArray"):
        Plots(ensemble).members(storms.pr)


def test_members_figure_takes_integers_as_integer_labels(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    numbered = {"time": np.arange(10, 16)}
    figure = Plots(ensemble.assign_coords(numbered)).members(
        storms.assign_coords(numbered), sample=13
    )
    np.testing.assert_allclose(maps_of(figure)["Observed"], storms.pr[3].values)


def test_members_figure_keeps_numbers_of_selected_members(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    maps = maps_of(Plots(ensemble).members(storms, sample=0, members=[2, 0], conditions=[]))
    assert list(maps) == ["Observed", "Member 2", "Member 0"]
    np.testing.assert_allclose(maps["Member 2"], 2 * storms.pr[0].values)
    with pytest.raises(DataError, match="3 members"):
        Plots(ensemble).members(storms, members=[3])


def test_members_figure_without_observation(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    maps = maps_of(Plots(ensemble).members(members=3))
    assert list(maps) == ["Member 0", "Member 1", "Member 2"]


def test_members_figure_has_one_scale_with_units(
    storms: xr.Dataset, ensemble: xr.Dataset, assert_uncut: Callable[[Figure], None]
) -> None:
    figure = Plots(ensemble).members(storms)
    meshes = [c for a in map_axes(figure) for c in a.collections if isinstance(c, QuadMesh)]
    assert len({tuple(mesh.norm.boundaries) for mesh in meshes}) == 1
    assert {mesh.norm.boundaries[1] for mesh in meshes} == {0.1}
    bars = [axes for axes in figure.axes if axes.get_ylabel() == "mm h⁻¹"]
    assert len(bars) == 1
    assert {axes.get_xlabel() for axes in map_axes(figure)} == {"km"}
    assert {axes.get_aspect() for axes in map_axes(figure)} == {1.0}
    assert_uncut(figure)


def test_members_figure_is_equal_in_other_units(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    flux = (ensemble.pr / 3600).assign_attrs(units="kg m-2 s-1").to_dataset(name="pr")
    shown = maps_of(Plots(flux).members(storms, sample=0))
    for title, values in maps_of(Plots(ensemble).members(storms, sample=0)).items():
        np.testing.assert_allclose(shown[title], values, rtol=1e-5)


def test_maps_are_neutral_for_dry_and_grey_for_masked_pixels(storms: xr.Dataset) -> None:
    ds = storms.copy(deep=True)
    ds["pr"][0, :10] = np.nan
    ds["pr"][0, 10:20] = 0.05
    figure = Plots(members_of(ds, [1.0])).members(ds, sample=0, conditions=[])
    figure.canvas.draw()
    mesh = next(c for c in map_axes(figure)[0].collections if isinstance(c, QuadMesh))
    colours = mesh.get_facecolor().reshape(156, 132, 4)
    assert {to_hex(c) for c in colours[:10, 0]} == {style.MASKED}
    assert {to_hex(c) for c in colours[10:20, 0]} == {style.DRY}


def test_members_figure_of_daily_rain_and_pressure(assert_uncut: Callable[[Figure], None]) -> None:
    random = np.random.default_rng(0)
    days = np.arange("2005-01-01", "2005-01-06", dtype="datetime64[D]").astype("datetime64[ns]")
    rain = {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}
    ds = xr.Dataset(
        {
            "pr": (("time", "lat", "lon"), random.exponential(1e-4, (5, 7, 9)), rain),
            "psl": (
                ("time", "y_gcm", "x_gcm"),
                random.normal(1e5, 900, (5, 4, 5)),
                {"units": "Pa"},
            ),
        },
        coords={
            "time": days,
            "lat": ("lat", 60 + 0.1 * np.arange(7.0), {"units": "degrees_north"}),
            "lon": ("lon", 5 + 0.1 * np.arange(9.0), {"units": "degrees_east"}),
        },
    )
    ensemble = ds.pr.expand_dims(realization=[0, 1]).to_dataset()
    figure = Plots(ensemble).members(ds, sample="2005-01-03")
    titles = [axes.get_title() for axes in map_axes(figure)]
    assert titles == ["psl [Pa]", "Observed", "Member 0", "Member 1"]
    assert figure.get_suptitle() == "Pr, 2005-01-03"
    assert "mm d⁻¹" in texts_of(figure)
    np.testing.assert_allclose(maps_of(figure)["Observed"], ds.pr[2] * 86400, rtol=1e-6)
    observed = map_axes(figure)[1]
    assert observed.get_xlabel() == "°E"
    assert observed.get_aspect() == pytest.approx(1 / np.cos(np.deg2rad(60.3)))
    assert_uncut(figure)


@pytest.mark.parametrize("times", [True, False])
def test_members_figure_gives_a_rate_its_own_scale_if_it_is_no_depth(
    storms: xr.Dataset, ensemble: xr.Dataset, times: bool
) -> None:
    """A rate becomes a depth by the step of the samples; without times there is none."""
    depth, rate = {"units": "mm"}, {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}
    ds = storms.assign(
        pr=storms.pr.drop_attrs().assign_attrs(depth),
        pr_coarse=storms.pr_coarse.drop_attrs().assign_attrs(rate),
    )
    made = ensemble.assign(pr=ensemble.pr.drop_attrs().assign_attrs(depth))
    if not times:
        ds, made = ds.drop_vars("time"), made.drop_vars("time")
    maps = maps_of(Plots(made).members(ds, sample=0, members=1))
    condition, observed, _ = maps
    assert condition.startswith("Condition" if times else "pr_coarse [kg")
    assert observed == "Observed"
    step = np.diff(storms.time).min() / np.timedelta64(1, "s") if times else 1.0
    np.testing.assert_allclose(maps[condition], ds.pr_coarse[0].values * step, rtol=1e-6)
    legend = Plots(made).spectra(ds).axes[0].get_legend().get_texts()
    assert ("bilinear" in {text.get_text() for text in legend}) == times


def test_unknown_condition_error_names_the_nearest(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    with pytest.raises(MissingVariableError, match="Did you mean 'pr_coarse'"):
        Plots(ensemble).members(storms, conditions="pr_corse")


def test_figures_work_without_the_condition(test_radar: xr.Dataset, tiny_model: Model) -> None:
    few = test_radar.isel(time=slice(2))
    drawn = few.cvae.sample(tiny_model, mode="prior", members=2).compute()
    maps = maps_of(Plots(drawn).members(few))
    assert list(maps) == ["Condition (12 km)", "Observed", "Member 0", "Member 1"]
    assert list(maps_of(Plots(drawn).members(few[["pr"]]))) == list(maps)[1:]
    legend = Plots(drawn).spectra(few[["pr"]]).axes[0].get_legend().get_texts()
    assert "bilinear" not in {text.get_text() for text in legend}


# --- only physical fields ------------------------------------------------------------------------


@pytest.mark.parametrize("units", ["", "1", "K"])
@pytest.mark.parametrize("picture", ["members", "spectra", "rank_histogram"])
def test_figures_refuse_units_that_are_not_rain(
    storms: xr.Dataset, ensemble: xr.Dataset, picture: str, units: str
) -> None:
    normalised = ensemble.assign(pr=ensemble.pr.assign_attrs(units=units))
    with pytest.raises(UnitsError):
        getattr(Plots(normalised), picture)(storms)
    with pytest.raises(UnitsError):
        getattr(Plots(ensemble), picture)(storms.assign(pr=storms.pr.assign_attrs(units=units)))


def test_members_figure_refuses_negative_values(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    scores = ensemble.assign(pr=(ensemble.pr - 1.0).assign_attrs(ensemble.pr.attrs))
    with pytest.raises(DataError, match="below zero"):
        Plots(scores).members(storms, sample=0)


def test_figures_refuse_samples_without_observation(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    drawn = Plots(ensemble)
    for draw in (drawn.members, drawn.spectra, drawn.rank_histogram):
        with pytest.raises(MismatchError):
            draw(storms.isel(time=slice(3)))


# --- curves --------------------------------------------------------------------------------------


def test_spectra_of_doubled_members_are_shifted_by_6_db(
    storms: xr.Dataset, assert_uncut: Callable[[Figure], None]
) -> None:
    figure = Plots(members_of(storms, [2.0, 2.0])).spectra(storms)
    top, below = figure.axes
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert labels == ["bilinear", "members (mean and range of 2)", "observed"]
    curve = below.get_lines()[-1].get_ydata()
    np.testing.assert_allclose(curve, 10 * np.log10(4.0))
    assert "mean distance 6.0 dB; grey: ±3 dB" in texts_of(figure)
    assert below.get_xlabel() == "wavelength [km]"
    assert top.get_ylabel() == "power [(mm h⁻¹)²]"
    assert_uncut(figure)


def test_spectra_have_wavelengths_in_km_or_pixels(storms: xr.Dataset) -> None:
    def longest(ds: xr.Dataset) -> tuple[float, str]:
        axes = Plots(members_of(ds, [1.0])).spectra(ds, baselines=[]).axes[1]
        return float(max(axes.get_lines()[-1].get_xdata())), axes.get_xlabel()

    fine = storms[["pr"]]
    assert longest(fine) == (pytest.approx(132.0), "wavelength [km]")
    assert longest(fine.drop_vars(["x", "y"])) == (132.0, "wavelength [pixels]")
    in_metres = fine.assign_coords(
        {dim: (dim, 2000 * fine[dim].values, {**fine[dim].attrs, "units": "m"}) for dim in "xy"}
    )
    assert longest(in_metres) == (pytest.approx(264.0), "wavelength [km]")
    degrees = fine.assign_coords(
        y=("y", 60 + 0.01 * np.arange(156), {"units": "degrees_north"}),
        x=("x", 0.02 * np.arange(132), {"units": "degrees_east"}),
    )
    span, label = longest(degrees)
    assert label == "wavelength [km]"
    assert span == pytest.approx(132 * 1.112, rel=0.02)  # both about 1.1 km wide at 60 N


def test_spectra_are_in_mm_per_hour(storms: xr.Dataset) -> None:
    flux = (storms[["pr"]] / 3600).assign(pr=(storms.pr / 3600).assign_attrs(units="kg m-2 s-1"))
    figures = [Plots(members_of(ds, [2.0])).spectra(ds, baselines=[]) for ds in (storms, flux)]
    rates, fluxes = (figure.axes[0].get_lines()[0].get_ydata() for figure in figures)
    np.testing.assert_allclose(fluxes, rates, rtol=1e-4)
    assert figures[1].axes[0].get_ylabel() == "power [(mm h⁻¹)²]"


def test_maps_without_coordinates_start_at_the_top(storms: xr.Dataset) -> None:
    bare = storms[["pr"]].drop_vars(["x", "y"])
    drawn = Plots(members_of(bare, [1.0, 1.0]))
    for figure in (drawn.bias(bare), drawn.members(bare)):
        figure.canvas.draw()
        maps = [a for a in figure.axes if any(isinstance(c, QuadMesh) for c in a.collections)]
        limits = {axes.get_ylim() for axes in maps if axes.get_xlim() == (-0.5, 131.5)}
        assert limits == {(155.5, -0.5)}


def test_figure_data_is_independent_of_block_size(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    figures = ("spectra", "ranks", "quantiles")
    whole = accumulate(storms, ensemble, figures=figures)
    parts = accumulate(storms, ensemble, figures=figures, block_bytes=1)
    # Whole spectra are not resampled: one sum for all pieces.
    assert len(whole.by_piece("spectra")["observed"]) == 1
    for source in ("members", "bilinear"):
        for figure in figures if source == "members" else ("spectra", "quantiles"):
            for name, values in whole.total(figure, source).items():
                np.testing.assert_allclose(parts.total(figure, source)[name], values, rtol=1e-9)


def heights(figure: Figure, count: int) -> list[float]:
    return [bar.get_height() for bar in figure.axes[0].patches[:count]]


def test_rank_histogram_counts_the_central_rank(storms: xr.Dataset) -> None:
    wet = storms.isel(time=[2])  # rain everywhere, so that there are no ties
    figure = Plots(members_of(wet, [0.5, 0.9, 1.1, 2.0])).rank_histogram(wet)
    assert heights(figure, 5) == [0, 0, 1, 0, 0]
    assert "deviation from flat 0.800" in figure.axes[0].get_title(loc="left")


def test_rank_histogram_splits_ties_evenly(
    storms: xr.Dataset, assert_uncut: Callable[[Figure], None]
) -> None:
    dry = storms.assign(pr=(0.0 * storms.pr).assign_attrs(storms.pr.attrs))
    figure = Plots(members_of(dry, [1.0, 1.0, 1.0])).rank_histogram(dry)
    np.testing.assert_allclose(heights(figure, 4), 0.25)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["calibrated", "95 % sampling band"]
    assert_uncut(figure)


def test_flat_band_covers_calibrated_ensembles() -> None:
    random = np.random.default_rng(1)
    inside = []
    for _ in range(200):
        # Each sample has one rank for all of its 50 pixels: pixels are fully dependent.
        ranks = random.integers(0, 5, 80)
        counts = 50.0 * np.eye(5)[ranks]
        deviation = np.abs(counts.sum(axis=0) / counts.sum() - 0.2)
        inside.append(deviation <= flat_band(counts))
    assert 0.92 < np.mean(inside) < 0.98


def test_flat_band_is_wider_for_samples_that_resemble_their_neighbours() -> None:
    """As if they were independent, it covered 28 % of calibrated ensembles of radar frames."""
    random = np.random.default_rng(0)
    inside = []
    for _ in range(60):
        steps = random.normal(size=(5, 200))
        for i in range(1, 200):
            steps[:, i] = 0.9 * steps[:, i - 1] + np.sqrt(1 - 0.9**2) * steps[:, i]
        counts = 50.0 * np.eye(5)[(steps[1:] < steps[0]).sum(axis=0)]
        inside.append(np.abs(counts.mean(axis=0) / 50.0 - 0.2) <= flat_band(counts))
    assert 0.85 < np.mean(inside) < 0.98


def test_spectra_show_every_baseline_of_the_scorecard(storms: xr.Dataset) -> None:
    """A second RainFARM replaced the first one."""
    both = [{"name": "rainfarm", "slope": 1.0}, {"name": "rainfarm", "slope": 3.0}]
    data = accumulate(storms, members_of(storms, [0.5, 2.0]), figures=["spectra"], baselines=both)
    assert list(data.found) == ["members", "rainfarm", "rainfarm_2"]


def test_figures_of_members_alone_keep_pixels_that_a_baseline_lacks(storms: xr.Dataset) -> None:
    ensemble = members_of(storms, [0.5, 2.0])
    lossy = storms.assign(pr_coarse=storms.pr_coarse.where(storms.time == storms.time[0]))
    found = [
        accumulate(lossy, ensemble, figures=figures, baselines=["bilinear"])
        .by_piece("ranks")["ranks"]
        .sum()
        for figures in (["ranks"], ["ranks", "spectra"])
    ]
    assert found[0] == found[1] > 0


@pytest.mark.parametrize("members", [[0, 7], [], [True], "2", 0, [0.5]])
def test_figures_of_sequences_refuse_members_that_do_not_exist(
    storms: xr.Dataset, members: object
) -> None:
    frames = storms.isel(time=slice(3))
    times = np.datetime64("2018-05-16", "ns") + np.arange(3) * np.timedelta64(5, "m")
    frames = frames.assign_coords(time=times)
    ensemble = members_of(frames, [0.5, 2.0])
    for draw in (ensemble.cvae.plot.strip, ensemble.cvae.plot.members):
        with pytest.raises(DataError, match="members: expected at least one of the 2 members"):
            draw(ds=frames, members=members)


# --- training curve ------------------------------------------------------------------------------


@pytest.fixture
def history() -> xr.Dataset:
    step = np.arange(1, 9) * 10
    return xr.Dataset(
        {
            "loss": ("step", np.linspace(4.0, -1.0, 8)),
            "loss_kl": ("step", np.linspace(0.1, 0.3, 8)),
            "kl": ("step", np.geomspace(1.0, 1000.0, 8)),
            "val_kl": ("step", np.geomspace(2.0, 2000.0, 8)),
            "val_crps": ("step", [0.5, 0.4, 0.35, 0.3, 0.25, 0.26, 0.27, 0.28]),
            "minutes": ("step", step / 60),
        },
        coords={"step": step},
    )


def test_training_curve_groups_quantity_and_validation(
    history: xr.Dataset, assert_uncut: Callable[[Figure], None]
) -> None:
    figure = Plots(history).training_curve()
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["Loss", "KL divergence [nats per sample]", "CRPS of prior draws"]
    names = [t.get_text() for t in panels["Loss"].get_legend().get_texts()]
    assert names == ["training", "kl"]
    crps = [t.get_text() for t in panels["CRPS of prior draws"].get_legend().get_texts()]
    assert crps == ["validation", "lowest: 0.25"]
    marked = panels["CRPS of prior draws"].get_lines()[-1]
    assert list(marked.get_xdata()) == [50]
    scales = [axes.get_yscale() for axes in panels.values()]
    assert scales == ["linear", "log", "linear"]
    assert {axes.get_xlabel() for axes in panels.values()} == {"step"}
    assert_uncut(figure)


def test_training_curve_clips_large_first_values(history: xr.Dataset) -> None:
    values = np.concatenate([[5000.0], np.linspace(2.0, -1.0, 29)])
    log = xr.Dataset({"loss": ("step", values)}, coords={"step": np.arange(30)})
    low, high = Plots(log).training_curve().axes[0].get_ylim()
    assert low < -1.0
    assert 2.0 <= high < 10.0


def test_training_curve_marks_the_start_of_late_terms(history: xr.Dataset) -> None:
    late = history.loss_kl.where(history.step > 40)
    texts = texts_of(Plots(history.assign(loss_crps=late)).training_curve())
    assert "crps begins " in texts
    assert "kl begins " not in texts


def test_training_curve_shows_units_of_the_target(tiny_model: Model) -> None:
    assert tiny_model.history.val_crps.attrs == {"units": "mm h-1"}
    assert "units" not in tiny_model.history.val_wet_fraction.attrs
    assert "CRPS of prior draws [mm h⁻¹]" in texts_of(Plots(tiny_model.history).training_curve())


def test_training_curve_refuses_an_empty_log() -> None:
    with pytest.raises(DataError, match=r"model\.history"):
        Plots(xr.Dataset()).training_curve()


# --- scores --------------------------------------------------------------------------------------


def test_summary_shows_scores_intervals_units_and_verdicts(
    card: xr.Dataset, assert_uncut: Callable[[Figure], None]
) -> None:
    figure = Plots(card).summary(criteria_for("prior"), title="prior")
    texts = texts_of(figure)
    for wanted in ("prior", "xcvae", "bilinear", "CRPS", "mm h⁻¹", "0.200", "0.150 to 0.250"):
        assert wanted in texts
    assert texts.count("✓") == 4
    assert texts.count("✗") == 1
    assert {"≥ 0.25", "≤ 3", "within ±0.06 of observed"} <= set(texts)
    assert "\u2013" in texts  # a score that does not exist
    assert "\u22120.000" not in texts
    assert_uncut(figure)


def test_summary_accepts_verdicts_or_none(card: xr.Dataset) -> None:
    verdicts = judge(card, [Criterion("crps", None, 0.1)])
    assert texts_of(Plots(card).summary(verdicts)).count("✗") == 1
    assert "criterion" not in texts_of(Plots(card).summary())


def test_summary_keeps_long_names_in_their_column(
    card: xr.Dataset, assert_uncut: Callable[[Figure], None]
) -> None:
    long = card.assign_coords(source=["xcvae_with_more_members", "bilinear_of_the_coarse"])
    figure = Plots(long).summary(title="prior_of_the_second_run_with_another_seed")
    figure.canvas.draw()
    heads = [text for text in figure.axes[0].texts if text.get_weight() == "bold"][:3]
    boxes = sorted((text.get_window_extent() for text in heads), key=lambda box: box.x0)
    assert all(first.x1 < second.x0 for first, second in pairwise(boxes))
    assert_uncut(figure)


def test_summary_omits_intervals_of_zero_width(card: xr.Dataset) -> None:
    fixed = card[["crps"]].assign(crps_low=card.crps, crps_high=card.crps + 1e-9)
    assert not any(" to " in text for text in texts_of(Plots(fixed).summary()))


def test_summary_writes_small_scores_with_powers_of_ten(card: xr.Dataset) -> None:
    flux = card[["crps"]] / 3600
    assert "5.56e\u221205" in texts_of(Plots(flux).summary())


def test_summary_writes_rounding_as_zero(card: xr.Dataset) -> None:
    """Members that keep the rain of each cell, and baselines that do, have no mass bias."""
    rounding = card[["mass_bias"]].copy(data={"mass_bias": [2e-8, -1e-9]})
    found = texts_of(Plots(rounding).summary())
    assert "0.000" in found
    assert not any("e\u2212" in text for text in found)


def test_best_sources_follow_the_attribute_better(card: xr.Dataset) -> None:
    better = {name: best_sources(card, name) for name in score_names(card)}
    assert better["crps"] == [True, False]
    assert better["spread_skill"] == [True, False]
    assert better["crps_skill"] == [True, False]
    assert better["wet_fraction"] == [True, False]
    assert better["wet_fraction_observed"] == [False, False]
    swapped = card.assign(crps=card.crps.copy(data=[0.3, 0.2]))
    assert best_sources(swapped, "crps") == [False, True]
    # A ratio of one half is as far from one as two; a spread of zero is never best.
    ratio = card.assign(spread_skill=card.spread_skill.copy(data=[1.7, 0.55]))
    assert best_sources(ratio, "spread_skill") == [True, False]
    none = card.assign(spread_skill=card.spread_skill.copy(data=[2.9, 0.0]))
    assert best_sources(none, "spread_skill") == [True, False]
    equal = card.assign(crps=card.crps.copy(data=[0.2, 0.2 + 1e-9]))
    assert best_sources(equal, "crps") == [True, True]
    near = card.assign(crps=card.crps.copy(data=[0.2, 0.2002]))
    assert best_sources(near, "crps") == [True, False]
    bias = card.crps.copy(data=[1e-10, -3e-9]).assign_attrs(units="1", better=0.0)
    assert best_sources(card.assign(mass_bias=bias), "mass_bias") == [False, False]
    bias = bias.copy(data=[1e-10, 0.02])
    assert best_sources(card.assign(mass_bias=bias), "mass_bias") == [True, False]
    unknown = card.assign(crps=card.crps.assign_attrs(better="whatever"))
    assert best_sources(unknown, "crps") == [False, False]


def test_scores_of_posterior_members_are_not_marked_as_best(card: xr.Dataset) -> None:
    assert any(best_sources(card, "crps_skill"))
    record = {"ensemble": {"mode": "posterior", "spread": 0.5}}
    seen = card.assign_attrs(xcvae=json.dumps(record))
    for name in score_names(seen):
        assert not any(best_sources(seen, name))
    texts = [text.get_text() for text in Plots(seen).summary().findobj(Text)]
    assert any("made of the observations" in text for text in texts)
    record["ensemble"]["mode"] = "prior"
    assert any(best_sources(card.assign_attrs(xcvae=json.dumps(record)), "crps_skill"))


def test_summary_draws_a_section_for_each_group(card: xr.Dataset) -> None:
    figure = Plots(card.expand_dims(season=["DJF", "JJA"], region=[1])).summary()
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert [text for text in texts if "season" in text] == [
        "season DJF, region 1", "season JJA, region 1",
    ]  # fmt: skip
    assert texts.count("CRPS") == 2
    with pytest.raises(DataError, match="no scores"):
        Plots(xr.Dataset({"pr": ("x", [1.0])})).summary()


# --- no side effects -----------------------------------------------------------------------------


def test_figures_leave_matplotlib_settings_unchanged(tmp_path: Path) -> None:
    code = f"""
import sys, matplotlib
matplotlib.rcParams["font.size"] = 23
import numpy as np, xarray as xr
from xcvae.verify.plots import Plots
assert "matplotlib.pyplot" not in sys.modules
log = xr.Dataset({{"loss": ("step", np.arange(3.0))}}, coords={{"step": range(3)}})
figure = Plots(log).training_curve()
figure.savefig({str(tmp_path / "a.png")!r})
assert "matplotlib.pyplot" not in sys.modules, "pyplot was loaded"
assert matplotlib.rcParams["font.size"] == 23, "settings were changed"
assert matplotlib.rcParams._get("backend") is matplotlib.rcsetup._auto_backend_sentinel
assert figure.axes[0].yaxis.get_ticklabels()[0].get_fontsize() < 20
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={"PATH": "/bin"})
    assert (tmp_path / "a.png").stat().st_size > 5000


# --- colours of rain ------------------------------------------------------------------------------

#: Machado, Oliveira and Fernandes 2009 (doi:10.1109/TVCG.2009.113), severity 1; linear RGB.
DEUTERANOPIA = np.array([
    [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
])  # fmt: skip
PROTANOPIA = np.array([
    [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
])  # fmt: skip
GREY = np.tile([0.2126, 0.7152, 0.0722], (3, 1))


def lab(colours: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """CIE L*a*b* of sRGB colours, as seen through a linear transformation of linear RGB."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    if seen is not None:
        linear = np.clip(linear @ seen.T, 0.0, 1.0)
    xyz = linear @ np.array([
        [0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505],
    ]).T / [0.95047, 1.0, 1.08883]  # fmt: skip
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("daily", [False, True])
def test_rain_colours_are_monotone_in_lightness_and_safe(daily: bool) -> None:
    scale = RainScale.of([np.array([1000.0])], "mm h-1", daily=daily)
    chart, norm = scale.colours()
    amounts = [*(0.5 * (a + b) for a, b in pairwise(scale.levels)), 1000.0]
    colours = np.asarray(chart(norm(amounts)))[:, :3]
    assert len(np.unique(colours, axis=0)) == len(amounts)
    lightness = lab(colours)[:, 0]
    assert (np.diff(lightness) < -5).all()
    for seen in (None, DEUTERANOPIA, PROTANOPIA, GREY):
        points = lab(colours, seen)
        apart = np.linalg.norm(points[:, None] - points[None], axis=2)
        apart[np.diag_indices(len(apart))] = np.inf
        # 2.3 is just noticeable for large fields side by side.
        assert apart.min() > 5, seen


def many(storms: xr.Dataset, members: int) -> xr.Dataset:
    drawn = [storms.pr.roll(x=i).assign_attrs(storms.pr.attrs) for i in range(members)]
    fields = xr.concat(drawn, "realization").assign_coords(realization=np.arange(members))
    return fields.to_dataset(name="pr")


def axes_of_maps(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title() and axes.findobj(QuadMesh)]


def test_members_figure_wraps_many_members_into_a_grid(
    storms: xr.Dataset, assert_uncut: Callable[[Figure], None]
) -> None:
    ens = many(storms, 20)
    figure = Plots(ens).members(storms, members=20, title="Own title")
    assert_uncut(figure)
    maps = axes_of_maps(figure)
    assert len(maps) == 22
    assert figure.get_figwidth() < 14
    rows = {round(axes.get_position().y0, 2) for axes in maps}
    assert 3 <= len(rows) <= 5
    assert figure.get_suptitle() == "Own title"
    widths = [axes.get_position().width * figure.get_figwidth() for axes in maps]
    assert min(widths) > 1.0  # inches
    figure = Plots(ens).members(storms, members=4, ncols=2)
    figure.canvas.draw()
    assert len({round(axes.get_position().x0, 2) for axes in axes_of_maps(figure)}) == 2
    with pytest.raises(DataError, match="ncols"):
        Plots(ens).members(storms, ncols=0)


def test_members_figure_shows_mean_quantile_and_exceedance(storms: xr.Dataset) -> None:
    ens = many(storms, 5)
    options = {"mean": True, "quantile": [0.2, 0.8], "exceedance": "2 mm h-1"}
    figure = Plots(ens).members(storms, sample=2, members=1, conditions=[], **options)
    maps = {axes.get_title().replace("\n", " "): axes for axes in axes_of_maps(figure)}
    share = "Share of members \u2265 2 mm h\u207b\u00b9"
    assert list(maps)[-4:] == ["Mean", "Quantile 20 %", "Quantile 80 %", share]
    fields = ens.pr.isel(time=2)

    def shown(name: str) -> np.ndarray:
        (mesh,) = maps[name].findobj(QuadMesh)
        return np.asarray(mesh.get_array()).reshape(fields.shape[1:])

    np.testing.assert_allclose(shown("Mean"), fields.mean("realization"), rtol=1e-5)
    np.testing.assert_allclose(
        shown("Quantile 80 %"), fields.quantile(0.8, "realization"), rtol=1e-5
    )
    np.testing.assert_allclose(shown(share), (fields >= 2).mean("realization"), rtol=1e-6)


def test_members_figure_labels_depths_with_their_step(storms: xr.Dataset) -> None:
    for step, words in (("D", "mm d\u207b\u00b9"), ("h", "mm h\u207b\u00b9")):
        times = np.datetime64("2020-01-01", "ns") + np.arange(6) * np.timedelta64(1, step)
        ds = storms[["pr"]].assign_coords(time=times)
        ds["pr"].attrs["units"] = "mm"
        figure = Plots(many(ds, 2)).members(ds, members=1)
        assert words in [axes.get_ylabel() for axes in figure.axes]


def test_maps_without_coastlines_have_a_scale_bar(storms: xr.Dataset) -> None:
    figure = Plots(many(storms, 2)).members(storms, members=1)
    (bar,) = [text.get_text() for text in figure.findobj(Text) if text.get_text().endswith(" km")]
    assert bar == "20 km"  # of 132


def coasts(figure: Figure) -> list[LineCollection]:
    return [one for axes in axes_of_maps(figure) for one in axes.findobj(LineCollection)]


def test_coastlines_of_cartopy_are_drawn_in_degrees_and_projections(
    storms: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cartopy = pytest.importorskip("cartopy")
    shapefile = pytest.importorskip("shapefile")
    folder = tmp_path / "shapefiles" / "natural_earth" / "physical"
    folder.mkdir(parents=True)
    with shapefile.Writer(str(folder / "ne_10m_coastline")) as writer:
        writer.field("name", "C")
        writer.line([[[10.0, 50.0], [10.5, 50.4], [11.0, 51.0]]])
        writer.record("coast")
    monkeypatch.setitem(cartopy.config, "data_dir", str(tmp_path))
    geography._on_disk.cache_clear()
    size = {"y": 12, "x": 10}
    ds = storms[["pr"]].isel(**{dim: slice(n) for dim, n in size.items()}).drop_vars(["y", "x"])
    degrees = ds.assign_coords(
        y=("y", 50 + 0.1 * np.arange(12), {"units": "degrees_north"}),
        x=("x", 10 + 0.1 * np.arange(10), {"units": "degrees_east"}),
    )
    figure = Plots(many(degrees, 1)).members(degrees, members=1)
    assert len(coasts(figure)) == 2
    assert not [t for t in figure.findobj(Text) if t.get_text().endswith(" km")]
    # The same place in metres of UTM zone 32.
    from pyproj import CRS

    attrs = {"crs_wkt": CRS.from_epsg(32632).to_wkt(), "grid_mapping_name": "transverse_mercator"}
    metres = ds.assign_coords(
        y=("y", 5.54e6 + 1e4 * np.arange(12), {"units": "m", "axis": "Y"}),
        x=("x", 5.7e5 + 1e4 * np.arange(10), {"units": "m", "axis": "X"}),
        crs=((), 0, attrs),
    )
    metres["pr"].attrs["grid_mapping"] = "crs: x y"
    figure = Plots(many(metres, 1)).members(metres, members=1)
    lines = coasts(figure)
    assert len(lines) == 2
    (first, *_) = lines[0].get_segments()
    assert first[0] == pytest.approx([571.67, 5539.1], abs=1.0)  # km
    geography._on_disk.cache_clear()


def test_large_maps_are_drawn_as_means_of_blocks() -> None:
    values = np.arange(3 * 4001.0).reshape(3, 4001)
    values[0, :9] = np.nan
    y, x = (Axis(np.arange(float(n)), "km") for n in values.shape)
    mesh = draw_map(Figure().subplots(), values, y, x)
    shown, edges = mesh.get_array(), mesh.get_coordinates()
    assert shown is not None
    assert shown.shape == (1, 1334)
    assert shown[0, 1] == pytest.approx(values[1:, 3:6].mean())
    assert shown[0, -1] == pytest.approx(values[:, 3999:].mean())
    np.testing.assert_array_equal(edges[0, [0, 1, -1], 0], [-0.5, 2.5, 4000.5])
    small = draw_map(Figure().subplots(), values[:, :2000], y, Axis(x.values[:2000], "km"))
    assert small.get_array().shape == (3, 2000)
