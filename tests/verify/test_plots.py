"""Pictures: they show the numbers they claim to show, whole, with units, and open no window."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from xcvae.errors import DataError, MismatchError, MissingVariableError, UnitsError
from xcvae.generator.model import Model
from xcvae.verify.criteria import Criterion, criteria_for, judge
from xcvae.verify.diagnosis.diagnose import Diagnosis, diagnose
from xcvae.verify.plots import accessor as plots
from xcvae.verify.plots import style as canvas
from xcvae.verify.plots.curves import flat_band
from xcvae.verify.report.write import save_report
from xcvae.verify.score_text import best_sources


@pytest.fixture(scope="module")
def storms(radar: xr.Dataset) -> xr.Dataset:
    """Six frames, the third of them with the most rain."""
    part = radar.isel(time=slice(400, 406)).copy(deep=True)
    part["pr"] = part.pr.where(part.pr.notnull(), 0.0)
    part["pr"][2] = part.pr[2] + 3.0
    return part


def members_of(ds: xr.Dataset, factors: list[float]) -> xr.Dataset:
    """An ensemble whose members are the observation, times known factors."""
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


def assert_nothing_is_cut(figure: Figure) -> None:
    figure.canvas.draw()
    drawn, paper = figure.get_tightbbox(), figure.bbox_inches
    assert drawn.x0 >= paper.x0 - 0.01
    assert drawn.y0 >= paper.y0 - 0.01
    assert drawn.x1 <= paper.x1 + 0.01
    assert drawn.y1 <= paper.y1 + 0.01


# --- maps ----------------------------------------------------------------------------------------


def test_members_shows_condition_observation_and_members(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    maps = maps_of(plots.members(storms, ensemble, sample=1, members=2))
    assert list(maps) == ["Condition (12 km)", "Observed", "Member 0", "Member 1"]
    assert maps["Condition (12 km)"].shape == (13, 11)
    np.testing.assert_allclose(maps["Observed"], storms.pr[1].values)
    np.testing.assert_allclose(maps["Member 0"], 0.5 * storms.pr[1].values)


def test_the_sample_with_the_most_rain_is_the_default(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    figure = plots.members(storms, ensemble)
    np.testing.assert_allclose(maps_of(figure)["Observed"], storms.pr[2].values)
    assert figure.get_suptitle().startswith("Rain rate, 2018-05-1")
    assert "(posterior, spread 0.50)" in figure.get_suptitle()


def test_samples_are_chosen_by_label_and_by_position(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    label = storms.time.values[4]
    for sample in (label, str(label), 4, -2):
        maps = maps_of(plots.members(storms, ensemble, sample=sample, members=1))
        np.testing.assert_allclose(maps["Observed"], storms.pr[4].values)
    for sample in (6, "1999-01-01T00:00"):
        with pytest.raises(DataError, match="one of the 6 samples"):
            plots.members(storms, ensemble, sample=sample)


def test_integer_labels_are_labels(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    numbered = {"time": np.arange(10, 16)}
    figure = plots.members(
        storms.assign_coords(numbered), ensemble.assign_coords(numbered), sample=13
    )
    np.testing.assert_allclose(maps_of(figure)["Observed"], storms.pr[3].values)


def test_chosen_members_keep_their_number(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    maps = maps_of(plots.members(storms, ensemble, sample=0, members=[2, 0], conditions=[]))
    assert list(maps) == ["Observed", "Member 2", "Member 0"]
    np.testing.assert_allclose(maps["Member 2"], 2 * storms.pr[0].values)
    with pytest.raises(DataError, match="3 members"):
        plots.members(storms, ensemble, members=[3])


def test_members_alone(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    maps = maps_of(plots.Plots(ensemble).members(members=3))
    assert list(maps) == ["Member 0", "Member 1", "Member 2"]


def test_all_rain_has_one_scale_with_units(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    figure = plots.members(storms, ensemble)
    meshes = [c for a in map_axes(figure) for c in a.collections if isinstance(c, QuadMesh)]
    assert len({tuple(mesh.norm.boundaries) for mesh in meshes}) == 1
    assert {mesh.norm.boundaries[1] for mesh in meshes} == {0.1}
    bars = [axes for axes in figure.axes if axes.get_ylabel() == "mm h⁻¹"]
    assert len(bars) == 1
    assert {axes.get_xlabel() for axes in map_axes(figure)} == {"km"}
    assert {axes.get_aspect() for axes in map_axes(figure)} == {1.0}
    assert_nothing_is_cut(figure)


def test_other_units_show_the_same_picture(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    flux = (ensemble.pr / 3600).assign_attrs(units="kg m-2 s-1").to_dataset(name="pr")
    shown = maps_of(plots.members(storms, flux, sample=0))
    for title, values in maps_of(plots.members(storms, ensemble, sample=0)).items():
        np.testing.assert_allclose(shown[title], values, rtol=1e-5)


def test_dry_is_neutral_and_masked_is_grey(storms: xr.Dataset) -> None:
    ds = storms.copy(deep=True)
    ds["pr"][0, :10] = np.nan
    ds["pr"][0, 10:20] = 0.05
    figure = plots.members(ds, members_of(ds, [1.0]), sample=0, conditions=[])
    figure.canvas.draw()
    mesh = next(c for c in map_axes(figure)[0].collections if isinstance(c, QuadMesh))
    colours = mesh.get_facecolor().reshape(156, 132, 4)
    assert {to_hex(c) for c in colours[:10, 0]} == {canvas.MASKED}
    assert {to_hex(c) for c in colours[10:20, 0]} == {canvas.DRY}


def test_daily_rain_and_pressure_maps() -> None:
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
    figure = plots.members(ds, ensemble, sample="2005-01-03")
    titles = [axes.get_title() for axes in map_axes(figure)]
    assert titles == ["psl [Pa]", "Observed", "Member 0", "Member 1"]
    assert figure.get_suptitle() == "Pr, 2005-01-03"
    assert "mm d⁻¹" in texts_of(figure)
    np.testing.assert_allclose(maps_of(figure)["Observed"], ds.pr[2] * 86400, rtol=1e-6)
    observed = map_axes(figure)[1]
    assert observed.get_xlabel() == "°E"
    assert observed.get_aspect() == pytest.approx(1 / np.cos(np.deg2rad(60.3)))
    assert_nothing_is_cut(figure)


def test_a_rate_beside_a_depth_is_shown_in_its_own_colours(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    depth, rate = {"units": "mm"}, {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}
    ds = storms.assign(
        pr=storms.pr.drop_attrs().assign_attrs(depth),
        pr_coarse=storms.pr_coarse.drop_attrs().assign_attrs(rate),
    )
    made = ensemble.assign(pr=ensemble.pr.drop_attrs().assign_attrs(depth))
    maps = maps_of(plots.members(ds, made, sample=0, members=1))
    condition, observed, _ = maps
    assert condition.startswith("pr_coarse [kg")
    assert observed == "Observed"
    np.testing.assert_allclose(maps[condition], ds.pr_coarse[0].values)
    legend = plots.spectra(ds, made).axes[0].get_legend().get_texts()
    assert "bilinear" not in {text.get_text() for text in legend}


def test_an_unknown_condition_names_the_nearest(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    with pytest.raises(MissingVariableError, match="Did you mean 'pr_coarse'"):
        plots.members(storms, ensemble, conditions="pr_corse")


def test_a_dataset_without_the_condition_still_gives_pictures(
    test_radar: xr.Dataset, tiny_model: Model
) -> None:
    few = test_radar.isel(time=slice(2))
    drawn = few.cvae.sample(tiny_model, mode="prior", members=2).compute()
    maps = maps_of(plots.members(few, drawn))
    assert list(maps) == ["Condition (12 km)", "Observed", "Member 0", "Member 1"]
    assert list(maps_of(plots.members(few[["pr"]], drawn))) == list(maps)[1:]
    legend = plots.spectra(few[["pr"]], drawn).axes[0].get_legend().get_texts()
    assert "bilinear" not in {text.get_text() for text in legend}


# --- only physical fields ------------------------------------------------------------------------


@pytest.mark.parametrize("units", ["", "1", "K"])
@pytest.mark.parametrize("picture", ["members", "spectra", "rank_histogram"])
def test_what_is_not_rain_by_its_units_is_refused(
    storms: xr.Dataset, ensemble: xr.Dataset, picture: str, units: str
) -> None:
    normalised = ensemble.assign(pr=ensemble.pr.assign_attrs(units=units))
    with pytest.raises(UnitsError):
        getattr(plots, picture)(storms, normalised)
    with pytest.raises(UnitsError):
        getattr(plots, picture)(storms.assign(pr=storms.pr.assign_attrs(units=units)), ensemble)


def test_negative_values_are_no_rain(storms: xr.Dataset, ensemble: xr.Dataset) -> None:
    scores = ensemble.assign(pr=(ensemble.pr - 1.0).assign_attrs(ensemble.pr.attrs))
    with pytest.raises(DataError, match="below zero"):
        plots.members(storms, scores, sample=0)


def test_samples_that_are_not_observed_are_refused(
    storms: xr.Dataset, ensemble: xr.Dataset
) -> None:
    for picture in (plots.members, plots.spectra, plots.rank_histogram):
        with pytest.raises(MismatchError):
            picture(storms.isel(time=slice(3)), ensemble)


# --- curves --------------------------------------------------------------------------------------


def test_spectra_of_scaled_members_are_shifted(storms: xr.Dataset) -> None:
    figure = plots.spectra(storms, members_of(storms, [2.0, 2.0]))
    top, below = figure.axes
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert labels == ["bilinear", "members (mean and range of 2)", "observed"]
    curve = below.get_lines()[-1].get_ydata()
    np.testing.assert_allclose(curve, 10 * np.log10(4.0))
    assert "mean distance 6.0 dB; grey: ±3 dB" in texts_of(figure)
    assert below.get_xlabel() == "wavelength [km]"
    assert top.get_ylabel() == "power [(mm h⁻¹)²]"
    assert_nothing_is_cut(figure)


def test_wavelengths_are_in_km_where_the_grid_is_known(storms: xr.Dataset) -> None:
    def longest(ds: xr.Dataset) -> tuple[float, str]:
        axes = plots.spectra(ds, members_of(ds, [1.0]), baselines=[]).axes[1]
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


def test_spectra_are_in_the_units_that_people_read(storms: xr.Dataset) -> None:
    flux = (storms[["pr"]] / 3600).assign(pr=(storms.pr / 3600).assign_attrs(units="kg m-2 s-1"))
    figures = [plots.spectra(ds, members_of(ds, [2.0]), baselines=[]) for ds in (storms, flux)]
    rates, fluxes = (figure.axes[0].get_lines()[0].get_ydata() for figure in figures)
    np.testing.assert_allclose(fluxes, rates, rtol=1e-4)
    assert figures[1].axes[0].get_ylabel() == "power [(mm h⁻¹)²]"


def test_rows_without_coordinates_count_from_the_top_in_every_map(storms: xr.Dataset) -> None:
    bare = storms[["pr"]].drop_vars(["x", "y"])
    for picture in (plots.bias, plots.members):
        figure = picture(bare, members_of(bare, [1.0, 1.0]))
        figure.canvas.draw()
        maps = [a for a in figure.axes if any(isinstance(c, QuadMesh) for c in a.collections)]
        limits = {axes.get_ylim() for axes in maps if axes.get_xlim() == (-0.5, 131.5)}
        assert limits == {(155.5, -0.5)}


def test_blocks_of_samples_do_not_change_spectra_and_ranks(
    storms: xr.Dataset, ensemble: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def curves() -> list[np.ndarray]:
        spectrum = plots.spectra(storms, ensemble).axes[1].get_lines()[-1].get_ydata()
        bars = heights(plots.rank_histogram(storms, ensemble), 4)
        return [np.asarray(spectrum), np.array(bars)]

    whole = curves()
    monkeypatch.setattr("xcvae.verify.accumulate.BLOCK_BYTES", 1)
    for first, second in zip(whole, curves(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-9)


def heights(figure: Figure, count: int) -> list[float]:
    return [bar.get_height() for bar in figure.axes[0].patches[:count]]


def test_rank_histogram_of_members_around_the_truth(storms: xr.Dataset) -> None:
    wet = storms.isel(time=[2])  # rain everywhere, so that there are no ties
    figure = plots.rank_histogram(wet, members_of(wet, [0.5, 0.9, 1.1, 2.0]))
    assert heights(figure, 5) == [0, 0, 1, 0, 0]
    assert "deviation from flat 0.800" in figure.axes[0].get_title(loc="left")


def test_dry_pixels_count_for_all_ranks_alike(storms: xr.Dataset) -> None:
    dry = storms.assign(pr=(0.0 * storms.pr).assign_attrs(storms.pr.attrs))
    figure = plots.rank_histogram(dry, members_of(dry, [1.0, 1.0, 1.0]))
    np.testing.assert_allclose(heights(figure, 4), 0.25)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["calibrated", "95 % sampling band"]
    assert_nothing_is_cut(figure)


def test_the_band_holds_what_calibrated_ensembles_do() -> None:
    random = np.random.default_rng(1)
    inside = []
    for _ in range(200):
        # Each sample has one rank for all of its 50 pixels: they are not independent at all.
        ranks = random.integers(0, 5, 80)
        counts = 50.0 * np.eye(5)[ranks]
        deviation = np.abs(counts.sum(axis=0) / counts.sum() - 0.2)
        inside.append(deviation <= flat_band(counts))
    assert 0.92 < np.mean(inside) < 0.98


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


def test_training_curve_groups_what_belongs_together(history: xr.Dataset) -> None:
    figure = plots.training_curve(history)
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
    assert_nothing_is_cut(figure)


def test_a_wild_start_does_not_hide_the_rest(history: xr.Dataset) -> None:
    values = np.concatenate([[5000.0], np.linspace(2.0, -1.0, 29)])
    log = xr.Dataset({"loss": ("step", values)}, coords={"step": np.arange(30)})
    low, high = plots.training_curve(log).axes[0].get_ylim()
    assert low < -1.0
    assert 2.0 <= high < 10.0


def test_a_term_that_comes_later_is_marked(history: xr.Dataset) -> None:
    late = history.loss_kl.where(history.step > 40)
    texts = texts_of(plots.training_curve(history.assign(loss_crps=late)))
    assert "crps begins " in texts
    assert "kl begins " not in texts


def test_validated_errors_have_the_units_of_the_target(tiny_model: Model) -> None:
    assert tiny_model.history.val_crps.attrs == {"units": "mm h-1"}
    assert "units" not in tiny_model.history.val_wet_fraction.attrs
    assert "CRPS of prior draws [mm h⁻¹]" in texts_of(plots.training_curve(tiny_model.history))


def test_an_empty_log_is_an_error() -> None:
    with pytest.raises(DataError, match=r"model\.history"):
        plots.training_curve(xr.Dataset())


# --- scores --------------------------------------------------------------------------------------


@pytest.fixture
def card() -> xr.Dataset:
    def score(values: list[float], better: object, units: str = "1") -> tuple[str, list, dict]:
        return "source", values, {"units": units, "better": better, "long_name": "a score"}

    return xr.Dataset(
        {
            "crps": score([0.2, 0.3], "lower", "mm h-1"),
            "crps_low": score([0.15, 0.25], "lower", "mm h-1"),
            "crps_high": score([0.25, 0.35], "lower", "mm h-1"),
            "spread_skill": score([0.9, 0.0], 1.0),
            "crps_skill": score([0.33, 0.0], "higher"),
            "spectral_distance": score([4.0, 14.0], "lower", "dB"),
            "wet_fraction": score([0.29, 0.45], "wet_fraction_observed"),
            "wet_fraction_observed": score([0.30, 0.30], "wet_fraction_observed"),
            "mass_bias": score([-1e-12, np.nan], 0.0),
        },
        coords={"source": ["xcvae", "bilinear"]},
    )


def test_summary_shows_scores_intervals_units_and_verdicts(card: xr.Dataset) -> None:
    figure = plots.summary(card, criteria_for("prior"), title="prior")
    texts = texts_of(figure)
    for wanted in ("prior", "xcvae", "bilinear", "CRPS", "mm h⁻¹", "0.200", "0.150 to 0.250"):
        assert wanted in texts
    assert texts.count("✓") == 4
    assert texts.count("✗") == 1
    assert {"≥ 0.25", "≤ 3", "within ±0.06 of observed"} <= set(texts)
    assert "\u2013" in texts  # a score that does not exist
    assert "\u22120.000" not in texts
    assert_nothing_is_cut(figure)


def test_summary_takes_verdicts_and_nothing(card: xr.Dataset) -> None:
    verdicts = judge(card, [Criterion("crps", None, 0.1)])
    assert texts_of(plots.Plots(card).summary(verdicts)).count("✗") == 1
    assert "criterion" not in texts_of(plots.summary(card))


def test_long_names_stay_in_their_column(card: xr.Dataset) -> None:
    long = card.assign_coords(source=["xcvae_with_more_members", "bilinear_of_the_coarse"])
    figure = plots.summary(long, title="prior_of_the_second_run_with_another_seed")
    figure.canvas.draw()
    heads = [text for text in figure.axes[0].texts if text.get_weight() == "bold"][:3]
    boxes = sorted((text.get_window_extent() for text in heads), key=lambda box: box.x0)
    assert all(first.x1 < second.x0 for first, second in pairwise(boxes))
    assert_nothing_is_cut(figure)


def test_an_interval_that_cannot_vary_is_left_out(card: xr.Dataset) -> None:
    fixed = card[["crps"]].assign(crps_low=card.crps, crps_high=card.crps + 1e-9)
    assert not any(" to " in text for text in texts_of(plots.summary(fixed)))


def test_small_scores_are_written_with_powers_of_ten(card: xr.Dataset) -> None:
    flux = card[["crps"]] / 3600
    assert "5.56e\u221205" in texts_of(plots.summary(flux))


def test_the_best_source_is_the_one_that_better_says(card: xr.Dataset) -> None:
    better = {name: best_sources(card, name) for name in plots.score_names(card)}
    assert better["crps"] == [True, False]
    assert better["spread_skill"] == [True, False]
    assert better["crps_skill"] == [True, False]
    assert better["wet_fraction"] == [True, False]
    assert better["wet_fraction_observed"] == [False, False]
    swapped = card.assign(crps=card.crps.copy(data=[0.3, 0.2]))
    assert best_sources(swapped, "crps") == [False, True]
    # A half is as far from one as two; no spread at all is never best.
    ratio = card.assign(spread_skill=card.spread_skill.copy(data=[1.7, 0.55]))
    assert best_sources(ratio, "spread_skill") == [True, False]
    none = card.assign(spread_skill=card.spread_skill.copy(data=[2.9, 0.0]))
    assert best_sources(none, "spread_skill") == [True, False]
    equal = card.assign(crps=card.crps.copy(data=[0.2, 0.2 + 1e-9]))
    assert best_sources(equal, "crps") == [True, True]
    unknown = card.assign(crps=card.crps.assign_attrs(better="whatever"))
    assert best_sources(unknown, "crps") == [False, False]


def test_grouped_cards_are_refused(card: xr.Dataset) -> None:
    with pytest.raises(DataError, match="season"):
        plots.summary(card.expand_dims(season=["DJF", "JJA"]))


# --- no window, no trace -------------------------------------------------------------------------


def test_pictures_leave_the_users_matplotlib_alone(tmp_path: Path) -> None:
    code = f"""
import sys, matplotlib
matplotlib.rcParams["font.size"] = 23
import numpy as np, xarray as xr
from xcvae.verify.plots import accessor as plots
assert "matplotlib.pyplot" not in sys.modules
log = xr.Dataset({{"loss": ("step", np.arange(3.0))}}, coords={{"step": range(3)}})
figure = plots.training_curve(log)
figure.savefig({str(tmp_path / "a.png")!r})
assert "matplotlib.pyplot" not in sys.modules, "pyplot was loaded"
assert matplotlib.rcParams["font.size"] == 23, "settings were changed"
assert matplotlib.rcParams._get("backend") is matplotlib.rcsetup._auto_backend_sentinel
assert figure.axes[0].yaxis.get_ticklabels()[0].get_fontsize() < 20
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={"PATH": "/bin"})
    assert (tmp_path / "a.png").stat().st_size > 5000


# --- report --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diagnosis(test_radar: xr.Dataset, tiny_model: Model) -> Diagnosis:
    return diagnose(test_radar.isel(time=slice(3)), tiny_model, members=2)


def test_report_writes_pictures_and_json(
    tmp_path: Path,
    storms: xr.Dataset,
    card: xr.Dataset,
    tiny_model: Model,
    diagnosis: Diagnosis,
) -> None:
    ensemble = members_of(storms, [0.5, 1.0, 2.0])
    verdicts = judge(card, criteria_for("prior"))
    folder = tmp_path / "out" / "report"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text("of an earlier run")
    written = save_report(
        folder,
        ds=storms,
        model=tiny_model,
        ensembles={"prior": ensemble},
        cards={"prior": card},
        verdicts={"prior": verdicts},
        diagnosis=diagnosis.to_json(),
    )
    assert set(written) == {
        "report",
        "training",
        "prior-members",
        "prior-spectra",
        "prior-ranks",
        "prior-scores",
        "prior-reliability",
        "prior-quantiles",
        "prior-intensity",
        "prior-bias",
        "html",
    }
    for path in written.values():
        assert path.stat().st_size > 1000
        if path.suffix == ".png":
            assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert {path.name for path in folder.iterdir()} == {path.name for path in written.values()}
    content = json.loads(written["report"].read_text(encoding="utf-8"))
    prior = content["ensembles"]["prior"]
    assert prior["made"] == {"mode": "posterior", "spread": 0.5}
    assert prior["scores"]["crps"]["xcvae"] == {"value": 0.2, "low": 0.15, "high": 0.25}
    assert prior["scores"]["mass_bias"]["bilinear"]["value"] is None
    assert prior["criteria"][2] == {
        "name": "spectral_distance",
        "value": 4.0,
        "low": None,
        "high": 3.0,
        "verdict": "miss",
    }
    assert prior["passed"] is False
    assert content["diagnosis"]["ok"] is diagnosis.ok
    assert content["model"]["sha256"] == tiny_model.sha256
    assert all((folder / name).exists() for name in content["files"].values())
    page = written["html"].read_text(encoding="utf-8")
    # Scores are a table that can be read aloud, searched and copied; the others are pictures.
    assert page.count("data:image/png;base64,") == len(written) - 3
    assert page.count('<img alt="') == page.count("<img")
    assert 'alt=""' not in page
    for wanted in ("Ensemble prior", "Criteria: 4 of 5 met", "✗ ≤ 3", "3 samples with 2"):
        assert wanted in page
    assert '<td class="number best">0.200<small>0.150 to 0.250</small></td>' in page
    assert "CRPS [mm h⁻¹]<small>a score; lower is better</small>" in page
    assert "✓ within ±0.06 of observed" in page
    for finding in diagnosis.findings:
        assert finding.name in page
    # One file, offline: no script, nothing that a browser would fetch.
    assert not re.search(r"""<script|<link|@import|url\(|(src|href)=["'](?!data:|#)""", page)


def test_the_report_shows_names_as_text(
    tmp_path: Path, storms: xr.Dataset, card: xr.Dataset, tiny_model: Model
) -> None:
    grouped = xr.concat([card, 2 * card], dim=xr.Variable("season", ["<DJF>", "JJA"]))
    written = save_report(
        tmp_path,
        ds=storms,
        model=tiny_model,
        ensembles={},
        cards={"a<b>&": grouped},
        verdicts={},
        diagnosis=None,
    )
    page = written["html"].read_text(encoding="utf-8")
    assert "Ensemble a&lt;b&gt;&amp;" in page
    assert "<h4>&lt;DJF&gt;</h4>" in page
    first, second = page.split("<h4>JJA</h4>")
    assert '<td class="number">0.200<small>' in first
    assert '<td class="number">0.400<small>' in second
    assert "Diagnosis" not in page


def test_a_grouped_card_is_in_the_json_without_a_picture(
    tmp_path: Path, storms: xr.Dataset, card: xr.Dataset, tiny_model: Model
) -> None:
    grouped = xr.concat([card, 2 * card], dim=xr.Variable("season", ["DJF", "JJA"]))
    written = save_report(
        tmp_path,
        ds=storms,
        model=tiny_model,
        ensembles={},
        cards={"prior": grouped},
        verdicts={},
        diagnosis=None,
    )
    assert set(written) == {"report", "training", "html"}
    content = json.loads(written["report"].read_text(encoding="utf-8"))
    crps = content["ensembles"]["prior"]["scores"]["crps"]
    assert crps["groups"] == {"season": ["DJF", "JJA"]}
    assert crps["xcvae"]["value"] == pytest.approx([0.2, 0.4])
    assert content["diagnosis"] is None
