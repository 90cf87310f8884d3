"""Event scores against `scores`, brute force, and tables with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scores.categorical import ThresholdEventOperator
from scores.spatial import fss_2d

from xcvae import metrics
from xcvae.errors import ComponentError
from xcvae.registry import build

from .conftest import labelled, rain, valid_samples


def table(forecast: xr.DataArray, observed: xr.DataArray, threshold: float) -> object:
    operator = ThresholdEventOperator(default_event_threshold=threshold)
    return operator.make_contingency_manager(forecast, observed).transform()


@pytest.mark.parametrize("threshold", [0.5, 5.0])
def test_csi_and_sedi_are_those_of_scores(
    masked: tuple[xr.DataArray, xr.DataArray], threshold: float
) -> None:
    forecast, observed = masked
    counted = forecast.where(forecast.notnull().all("realization"))
    expected = table(counted, observed, threshold)
    assert metrics.csi(forecast, observed, threshold=threshold).item() == pytest.approx(
        expected.critical_success_index().item()
    )
    assert metrics.sedi(forecast, observed, threshold=threshold).item() == pytest.approx(
        expected.symmetric_extremal_dependence_index().item()
    )


@pytest.mark.parametrize(
    ("generated", "truth", "expected"),
    [
        ([9, 9, 0, 0], [9, 9, 0, 0], 1),
        ([9, 0, 0, 0], [9, 9, 0, 0], 1),
        ([0, 0, 0, 0], [9, 9, 0, 0], 0),
        ([9, 9, 9, 9], [9, 9, 0, 0], 0),
        ([0, 0, 9, 0], [9, 9, 0, 0], -1),
        ([9, 0, 9, 0], [9, 9, 0, 0], 0),
        ([9, 0, 9, 0], [0, 0, 0, 0], np.nan),
    ],
)
def test_sedi_takes_its_limits_at_the_borders(
    generated: list[float], truth: list[float], expected: float
) -> None:
    pair = [labelled(np.array(v, dtype=float).reshape(1, 2, 2)) for v in (generated, truth)]
    assert metrics.sedi(*pair).item() == pytest.approx(expected, nan_ok=True)


def fractions(events: np.ndarray, valid: np.ndarray, window: int) -> np.ndarray:
    """Share of events among the valid pixels around each pixel, by loops."""
    half = window // 2
    out = np.zeros(events.shape)
    for i, j in np.ndindex(events.shape):
        box = np.s_[max(0, i - half) : i + half + 1, max(0, j - half) : j + half + 1]
        out[i, j] = events[box][valid[box]].mean() if valid[box].any() else 0
    return out


def test_fss_is_the_formula(masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    forecast, observed = masked
    distance = worst = 0.0
    for truth, members, valid in valid_samples(forecast, observed):
        p = fractions((members >= 2).mean(axis=0), valid, 5)[valid]
        o = fractions((truth >= 2).astype(float), valid, 5)[valid]
        distance += ((p - o) ** 2).sum()
        worst += (p**2).sum() + (o**2).sum()
    found = metrics.fss(forecast, observed, threshold=2.0, window=5).item()
    assert found == pytest.approx(1 - distance / worst)


def test_fss_of_one_member_and_one_pixel_is_that_of_scores(observed: xr.DataArray) -> None:
    forecast = labelled(rain((6, 13, 11), seed=12))
    expected = fss_2d(
        forecast, observed, event_threshold=2.0, window_size=(1, 1), spatial_dims=("y", "x")
    )
    assert metrics.fss(forecast, observed, threshold=2.0, window=1).item() == pytest.approx(
        expected.item()
    )


def test_fss_of_scores_inside_the_domain() -> None:
    """Where no window is cut by the edge, all pixels outside being dry."""
    inner = rain((2, 3, 20, 21), seed=13)
    forecast, observed = (labelled(np.pad(one, ((0, 0), (4, 4), (4, 4)))) for one in inner)
    padded = [da.pad(y=4, x=4, constant_values=0) for da in (forecast, observed)]
    expected = fss_2d(
        *padded, event_threshold=2.0, window_size=(9, 9), spatial_dims=("y", "x")
    ).item()
    # Ours has windows at the edge too, whose shares are of fewer pixels.
    assert metrics.fss(forecast, observed, threshold=2.0).item() == pytest.approx(
        expected, abs=0.02
    )


def test_event_scores_of_a_perfect_forecast_are_best(observed: xr.DataArray) -> None:
    for name, best in (("fss", 1), ("csi", 1), ("sedi", 1), ("brier", 0)):
        assert build("metric", name)(observed, observed).item() == pytest.approx(best)


@pytest.mark.parametrize("name", ["brier", "csi", "fss", "sedi"])
def test_events_that_fall_everywhere_are_refused(observed: xr.DataArray, name: str) -> None:
    with pytest.raises(ComponentError, match="threshold: expected an amount above 0, got 0"):
        build("metric", {"name": name, "threshold": 0})(observed, observed)


def test_event_scores_without_events_are_nan(observed: xr.DataArray) -> None:
    dry = (observed * 0).assign_attrs(observed.attrs)
    assert np.isnan(metrics.csi(dry, dry).item())
    assert np.isnan(metrics.fss(dry, dry).item())
    assert metrics.brier(dry, dry).item() == 0


@pytest.mark.parametrize(
    ("units", "step", "below", "at"),
    [
        ("mm h-1", "1h", 4.99, 5.0),
        ("mm d-1", "24h", 19.9, 20.0),
        ("mm", "1h", 4.99, 5.0),
        ("mm", "24h", 19.9, 20.0),
        ("mm h-1", "24h", 19.9 / 24, 20.01 / 24),
    ],
)
def test_default_event_threshold_depends_on_units_and_days(
    units: str, step: str, below: float, at: float
) -> None:
    values = np.zeros((2, 2, 2))
    values[:, 0], values[:, 1] = below, at
    event = labelled(values, units, step)
    dry = (event * 0).assign_attrs(event.attrs)
    assert metrics.brier(dry, event).item() == 0.5


@pytest.mark.parametrize(
    ("window", "words"),
    [(0, "a number >= 1"), (-3, "a number >= 1"), (4, "an odd number of pixels, got 4.*use 5")],
)
def test_fss_refuses_windows_without_a_centre(window: int, words: str) -> None:
    with pytest.raises(ComponentError, match=f"FSS, parameter 'window': expected {words}"):
        build("metric", {"name": "fss", "window": window})
