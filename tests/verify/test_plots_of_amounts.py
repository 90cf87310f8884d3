"""Reliability, quantiles, CRPS by amounts and bias maps show the right numbers."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from xcvae import metrics
from xcvae.errors import MismatchError, UnitsError
from xcvae.metrics.distribution import quantile
from xcvae.verify.plots import Plots
from xcvae.verify.plots.curves import brier_parts
from xcvae.verify.plots.summaries import OWN, accumulate

SAMPLES, MEMBERS = 24, 10


@pytest.fixture(scope="module")
def perfect() -> tuple[xr.Dataset, xr.Dataset]:
    """Members and observation of the same distribution, around a common signal."""
    random = np.random.default_rng(0)
    signal = random.gamma(0.5, 3.0, (SAMPLES, 20, 24))
    drawn = signal * random.gamma(1.0, 1.0, (MEMBERS + 1, SAMPLES, 20, 24))
    drawn = np.where(drawn < 0.3, 0.0, drawn).astype("float32")
    time = np.datetime64("2020-01-01", "ns") + np.arange(SAMPLES) * np.timedelta64(1, "h")
    pr = xr.DataArray(
        drawn, {"time": time}, ("realization", "time", "y", "x"), "pr", {"units": "mm h-1"}
    )
    coarse = pr[0].coarsen(y=4, x=4).mean().rename(y="y_coarse", x="x_coarse")
    ds = pr[0].to_dataset().assign(pr_coarse=coarse.assign_attrs(units="mm h-1"))
    return ds, pr[1:].assign_coords(realization=np.arange(MEMBERS)).to_dataset()


def test_reliability_curve_equals_observed_frequencies(
    perfect: tuple[xr.Dataset, xr.Dataset], assert_uncut: Callable[[Figure], None]
) -> None:
    figure = Plots(perfect[1]).reliability(perfect[0])
    wet = figure.axes[0]
    curve = next(line for line in wet.get_lines() if line.get_marker() == "o")
    forecast, came = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    np.testing.assert_allclose(forecast, np.arange(11) / 10, atol=1e-12)
    # The share of ten members is a probability with a sampling error.
    shares = (perfect[1].pr >= 0.1).mean("realization").values.ravel()
    events = (perfect[0].pr >= 0.1).values.ravel()
    expected = [events[np.isclose(shares, k / 10)].mean() for k in range(11)]
    np.testing.assert_allclose(came, expected)
    titles = [axes.get_title(loc="left") for axes in figure.axes[:2]]
    assert titles == ["Rain ≥ 0.1 mm h⁻¹", "Rain ≥ 5 mm h⁻¹"]
    assert_uncut(figure)


def test_brier_parts_add_up_to_the_brier_score(perfect: tuple[xr.Dataset, xr.Dataset]) -> None:
    data = accumulate(*perfect, figures=["reliability"])
    total = data.total("reliability")
    for number, threshold in enumerate(data.thresholds):
        parts = brier_parts(*(total[key][number] for key in ("pixels", "forecast", "came")))
        reliable, resolved, uncertain = parts
        expected = metrics.brier(perfect[1].pr, perfect[0].pr, threshold=threshold).item()
        assert reliable - resolved + uncertain == pytest.approx(expected)
        assert total["pixels"][number].sum() == perfect[0].pr.size


def test_quantile_figure_of_doubled_rain_is_a_parallel(
    perfect: tuple[xr.Dataset, xr.Dataset], assert_uncut: Callable[[Figure], None]
) -> None:
    ds = perfect[0]
    double = (2 * ds.pr).expand_dims(realization=3).assign_attrs(units="mm h-1").to_dataset()
    figure = Plots(double).quantiles(ds, baselines=[])
    axes = figure.axes[0]
    line = next(one for one in axes.get_lines() if one.get_label() == "members")
    made, seen = np.asarray(line.get_ydata()), np.asarray(line.get_xdata())
    np.testing.assert_allclose(made, 2 * seen, rtol=0.01)
    # Up to the amount that ten samples have reached.
    tops = np.sort(ds.pr.max(["y", "x"]).values)
    assert seen[-1] == pytest.approx(tops[-10], rel=0.03)
    texts = [text.get_text() for text in axes.texts]
    assert "P99" in texts
    reached = float((ds.pr.values >= seen[-1]).mean())
    number = re.fullmatch(r"once in ([\d,]+) pixels", texts[-1])
    assert number is not None
    assert float(number[1].replace(",", "")) == pytest.approx(1 / reached, rel=0.1)
    assert_uncut(figure)


@pytest.mark.filterwarnings("error")
def test_figures_say_that_nothing_rained_and_that_a_row_has_no_spectrum(
    perfect: tuple[xr.Dataset, xr.Dataset],
) -> None:
    def noted(ds: xr.Dataset, members: xr.Dataset, figure: str) -> set[str]:
        axes = getattr(Plots(members), figure)(ds, baselines=[]).axes
        return {text.get_text() for one in axes for text in one.texts}

    ds, members = perfect
    attrs = {"units": "mm h-1"}
    dry = ds.assign(pr=(0 * ds.pr).assign_attrs(attrs))
    none = members.assign(pr=(0 * members.pr).assign_attrs(attrs))
    assert "no rain observed" in noted(dry, members, "quantiles")
    assert "no rain" in noted(dry, none, "spectra")
    row = noted(ds[["pr"]].isel(y=[0]), members.isel(y=[0]), "spectra")
    assert "a single row of pixels has no spectrum" in row
    coast = ds[["pr"]].assign(pr=ds.pr.where(ds.pr.x > 3).assign_attrs(attrs))
    assert Plots(members).hovmoeller(coast)  # columns without data, without a warning


def test_quantiles_of_counts_equal_numpy() -> None:
    values = np.random.default_rng(1).gamma(0.7, 3.0, 20_000)
    bins = np.clip(np.floor(np.log(values / 0.1) / 0.004).astype(int) + 2402, 1, 5401)
    counts = np.bincount(bins, minlength=5402).astype(float)
    levels = np.array([0.1, 0.5, 0.99])
    np.testing.assert_allclose(
        0.1 * quantile(counts, levels), np.quantile(values, levels), rtol=0.01
    )
    both = quantile(np.stack([counts, 2 * counts]), levels)
    assert both.shape == (2, 3)
    np.testing.assert_allclose(both[0], both[1])


def test_intensity_classes_add_up_to_the_crps(
    perfect: tuple[xr.Dataset, xr.Dataset], assert_uncut: Callable[[Figure], None]
) -> None:
    ds, ensemble = perfect
    data = accumulate(ds, ensemble, figures=["intensity"])
    assert data.baselines == ["bilinear"]
    total = data.total("intensity")
    expected = metrics.crps(ensemble.pr, ds.pr).item()
    assert (total["crps"].sum() / total["pixels"]).item() == pytest.approx(expected, rel=1e-5)
    # The first class is the CRPS of amounts that are cut off at its upper end.
    edge = data.edges[1]
    cut = [da.clip(max=edge).assign_attrs(units="mm h-1") for da in (ensemble.pr, ds.pr)]
    first = (total["crps"][0] / total["pixels"]).item()
    assert first == pytest.approx(metrics.crps(*cut).item(), rel=1e-5)
    figure = Plots(ensemble).intensity(ds)
    heights = [bar.get_height() for bar in figure.axes[0].containers[1]]
    assert heights[0] == pytest.approx(first)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[0] == f"members: {expected:.3g} in all"
    assert_uncut(figure)


def test_bias_maps_equal_differences_of_means(
    perfect: tuple[xr.Dataset, xr.Dataset], assert_uncut: Callable[[Figure], None]
) -> None:
    ds, ensemble = perfect
    ds = ds.assign(pr=ds.pr.copy(data=np.where(np.arange(24) == 3, np.nan, ds.pr.values)))
    wetter = ensemble.assign(pr=(1.5 * ensemble.pr).assign_attrs(ensemble.pr.attrs))
    figure = Plots(wetter).bias(ds)
    maps = [
        np.ma.filled(np.ma.asarray(c.get_array(), float), np.nan)
        for axes in figure.axes[:3]
        for c in axes.collections
        if isinstance(c, QuadMesh)
    ]
    seen, made = ds.pr.mean("time").values, wetter.pr.mean(["realization", "time"]).values
    made = np.where(np.isnan(seen), np.nan, made)
    for found, expected in zip(maps, (seen, made, made - seen), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    more = 100 * (np.nansum(made) / np.nansum(seen) - 1)
    assert figure.axes[2].get_title(loc="left").endswith(f"{more:+.1f} %")
    assert_uncut(figure)


def test_figure_data_of_one_pass_equals_single_figures(
    perfect: tuple[xr.Dataset, xr.Dataset],
) -> None:
    whole = accumulate(*perfect)
    for name in ("spectra", "ranks", "quantiles"):
        one = accumulate(*perfect, figures=[name])
        for key, values in one.by_piece(name, OWN).items():
            np.testing.assert_array_equal(values, whole.by_piece(name, OWN)[key])


@pytest.mark.parametrize("figure", ["reliability", "quantiles", "intensity", "bias"])
def test_figures_refuse_other_units_and_samples(
    perfect: tuple[xr.Dataset, xr.Dataset], figure: str
) -> None:
    ds, ensemble = perfect
    with pytest.raises(UnitsError):
        getattr(Plots(ensemble.assign(pr=ensemble.pr.drop_attrs())), figure)(ds)
    with pytest.raises(MismatchError):
        getattr(Plots(ensemble), figure)(ds.isel(time=slice(3)))
