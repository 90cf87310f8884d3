from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xcvae.errors import DataError
from xcvae.fields.axes import (
    KM_PER_DEGREE,
    Axis,
    axis_of,
    covers,
    in_frame_of,
    pixel_km,
    share_outside,
    sides_km,
    stretch_weights,
    wrapped,
)

steps = st.lists(st.floats(0.1, 5.0), min_size=2, max_size=20)
flips = st.booleans()


def axis(gaps: list[float], flip: bool) -> np.ndarray:
    centres = np.cumsum(gaps)
    return centres[::-1].copy() if flip else centres


@settings(max_examples=40, deadline=None)
@given(steps, steps, flips, flips)
def test_stretch_weights_sum_to_one_and_are_not_negative(
    source: list[float], target: list[float], flip: bool, turn: bool
) -> None:
    s, t = axis(source, flip), axis(target, turn)
    weights = stretch_weights(s, len(s), t, len(t))
    assert weights.shape == (len(t), len(s))
    assert weights.dtype == np.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(steps, steps, flips, flips, st.floats(-3, 3))
def test_stretch_weights_reproduce_linear_functions_inside(
    source: list[float], target: list[float], flip: bool, turn: bool, slope: float
) -> None:
    s, t = axis(source, flip), axis(target, turn)
    stretched = stretch_weights(s, len(s), t, len(t)) @ (2 + slope * s)
    expected = 2 + slope * np.clip(t, s.min(), s.max())
    np.testing.assert_allclose(stretched, expected, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 40))
def test_stretch_weights_edge_to_edge_are_symmetric(n_source: int, n_target: int) -> None:
    weights = stretch_weights(None, n_source, None, n_target)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)


def test_stretch_weights_without_one_coordinate_are_edge_to_edge() -> None:
    both = stretch_weights(None, 3, None, 6)
    np.testing.assert_array_equal(stretch_weights(np.arange(3.0), 3, None, 6), both)
    np.testing.assert_array_equal(stretch_weights(None, 3, np.arange(6.0), 6), both)


def test_stretch_weights_handle_opposite_directions() -> None:
    up = stretch_weights(np.array([0.0, 1, 2]), 3, np.array([0.5, 1.5]), 2)
    down = stretch_weights(np.array([2.0, 1, 0]), 3, np.array([0.5, 1.5]), 2)
    np.testing.assert_allclose(down, up[:, ::-1])


def test_stretch_weights_of_a_single_cell_are_one() -> None:
    np.testing.assert_array_equal(stretch_weights(np.array([7.0]), 1, np.arange(4.0), 4), 1)


def test_stretch_weights_refuse_coordinates_of_wrong_length() -> None:
    with pytest.raises(DataError, match="3 source and 4 target"):
        stretch_weights(np.arange(2.0), 3, np.arange(4.0), 4)


@pytest.mark.parametrize(
    ("dim", "attrs", "kind"),
    [
        ("lat", {}, "latitude"),
        ("Longitude", {}, "longitude"),
        ("lon_gcm", {}, "longitude"),
        ("rlat", {"units": "degrees"}, "rotated"),
        ("y", {"standard_name": "grid_latitude", "units": "degrees"}, "rotated"),
        ("y", {"units": "degrees_north"}, "latitude"),
        ("y", {"units": "km"}, "length"),
        ("y", {"standard_name": "projection_y_coordinate", "units": "m"}, "length"),
        ("y", {"units": "rad"}, "rad"),
        ("y", {}, "plain"),
    ],
)
def test_axis_of_infers_the_kind(dim: str, attrs: dict[str, str], kind: str) -> None:
    assert axis_of(dim, np.array([2.0, 4.0]), attrs).kind == kind


def test_axis_of_an_index_counts_cells() -> None:
    assert axis_of("y", np.arange(5.0), {}).counted
    assert axis_of("y", None, {}) == Axis("none", None)
    assert axis_of("y", None, {}).counted
    assert not axis_of("y", np.arange(5.0), {"units": "km"}).counted
    assert not axis_of("y", np.arange(5.0) + 1, {}).counted


def test_in_frame_of_an_index_accepts_plain_numbers() -> None:
    index, other = axis_of("y", np.arange(24.0), {}), axis_of("yc", np.arange(2.0), {})
    means = axis_of("yc", np.array([5.5, 17.5]), {})
    np.testing.assert_array_equal(in_frame_of(means, index), [5.5, 17.5])
    assert in_frame_of(other, index) is None
    assert in_frame_of(index, means) is None
    assert in_frame_of(axis_of("lat", np.array([5.5, 17.5]), {}), index) is None


@pytest.mark.parametrize("values", [[0.0, 2, 1], [0.0, 0, 1], [0.0, np.nan, 1]])
def test_axis_of_refuses_unordered_coordinates(values: list[float]) -> None:
    with pytest.raises(DataError, match="y: expected a coordinate that rises or falls"):
        axis_of("y", np.array(values), {})


def test_axis_of_says_how_to_pass_from_360_to_0_degrees() -> None:
    # Sorting would move the west of the domain to its far east.
    with pytest.raises(DataError, match=r"assign_coords\(lon=\(ds\['lon'\] \+ 180\) % 360 - 180\)"):
        axis_of("lon", np.array([359.0, 0.0, 1.0]), {"units": "degrees_east"})


def test_in_frame_of_converts_lengths() -> None:
    km = axis_of("y_coarse", np.array([6.0, 18]), {"units": "km"})
    m = axis_of("y", np.array([500.0, 1500]), {"units": "m"})
    np.testing.assert_allclose(in_frame_of(km, m), [6000, 18000])
    assert m.spacing == pytest.approx(1000)
    assert km.spacing == pytest.approx(12000)


def test_in_frame_of_shifts_longitudes_by_360_degrees() -> None:
    east = axis_of("lon", np.array([275.0, 280.0, 285.0]), {})
    west = axis_of("lon", np.array([-82.0, -81.0]), {})
    np.testing.assert_allclose(in_frame_of(east, west), [-85, -80, -75])


def test_in_frame_of_another_kind_is_none() -> None:
    lat = axis_of("lat", np.array([30.0, 31]), {})
    y = axis_of("y", np.array([30.0, 31]), {"units": "km"})
    assert in_frame_of(lat, y) is None
    assert in_frame_of(axis_of("y", None, {}), y) is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ([6.0, 18.0], True),  # cells edge to edge with the target, 0 to 24
        ([18.0, 6.0], True),
        ([9.0, 21.0], True),  # three short at one end: within half a cell
        ([13.0, 25.0], False),
        ([6.0, 10.0], False),
        ([12.0], True),  # the extent of one cell is not known
    ],
)
def test_covers_has_half_a_cell_of_slack(source: list[float], expected: bool) -> None:
    assert covers(np.array(source), np.arange(24) + 0.5) is expected


def test_share_outside_counts_cells_not_rows() -> None:
    target = np.arange(24) + 0.5
    inside, wide = np.array([6.0, 18.0]), np.array([-6.0, 6.0, 18.0, 30.0])
    assert share_outside([inside, inside], [target, target]) == 0
    assert share_outside([wide, wide], [target, target]) == pytest.approx(0.75)


@pytest.mark.parametrize(
    "values",
    [[0.0, 12, 21], [0.0, 12, 24, 33], [0.0, 12, 24, 48, 60]],
    ids=["partial block", "partial block of several", "gap"],
)
def test_spacing_is_that_of_whole_neighbours(values: list[float]) -> None:
    assert axis_of("y", np.array(values), {"units": "m"}).spacing == 12


def test_pixels_have_one_size_wherever_it_is_asked() -> None:
    """Rotated degrees shrink along x with the rotated latitude, as all others do."""
    rlat = axis_of("rlat", np.array([59.5, 60.0, 60.5]), {})
    rlon = axis_of("rlon", np.array([10.0, 11.0, 12.0]), {})
    assert pixel_km(rlat, rlon) == pytest.approx(KM_PER_DEGREE / 2)
    assert sides_km(rlat, rlon) == pytest.approx((KM_PER_DEGREE / 2, KM_PER_DEGREE / 2))
    assert pixel_km(rlat, axis_of("x", np.array([0.0, 1.0]), {})) is None


@pytest.mark.parametrize(
    ("dim", "units", "kind"),
    [
        ("lat", "km", "length"),
        ("lon", "m", "length"),
        ("lat", "", "latitude"),
        ("lat", "degrees", "latitude"),
        ("rlon", "degrees", "rotated"),
        ("lat", "1", "latitude"),
        ("y", "degrees", "degrees"),
    ],
)
def test_units_say_more_than_names(dim: str, units: str, kind: str) -> None:
    """Kilometres under the name of a latitude were degrees: pixels of 111 km."""
    assert axis_of(dim, np.array([1.0, 2.0]), {"units": units}).kind == kind


def test_spacing_of_a_single_cell_is_nan() -> None:
    assert np.isnan(axis_of("y", np.array([3.0]), {"units": "km"}).spacing)


@pytest.mark.parametrize("units", ["m", "km"])
def test_pixels_of_lengths_have_their_size_in_km(units: str) -> None:
    scale = {"m": 1000.0, "km": 1.0}[units]
    y = axis_of("y", scale * np.array([0.0, 2.0, 4.0]), {"units": units})
    x = axis_of("x", scale * np.array([0.0, 8.0, 16.0]), {"units": units})
    assert sides_km(y, x) == pytest.approx((2.0, 8.0))
    assert pixel_km(y, x) == pytest.approx(4.0)


CIRCLE = np.arange(0.0, 360.0, 10.0)


@pytest.mark.parametrize(
    ("source", "target", "values"),
    [
        (CIRCLE, np.arange(-12.0, 14.0), np.arange(-170.0, 190.0, 10.0)),
        (CIRCLE[::-1], np.arange(-12.0, 14.0), np.arange(180.0, -180.0, -10.0)),
        (np.append(CIRCLE, 360.0), np.arange(-12.0, 14.0), np.arange(-180.0, 190.0, 10.0)),
        (CIRCLE - 180.0, np.arange(170.0, 191.0), np.arange(0.0, 360.0, 10.0)),
        (CIRCLE[::6], np.arange(-66.0, 67.0), np.arange(-120.0, 240.0, 60.0)),
    ],
    ids=["rising", "falling", "cyclic point", "from -180", "few"],
)
def test_a_whole_circle_of_longitudes_is_turned_to_the_target(
    source: np.ndarray, target: np.ndarray, values: np.ndarray
) -> None:
    axes = (axis_of("lon", v, {"units": "degrees_east"}) for v in (source, target))
    found, order = wrapped(*axes)
    np.testing.assert_allclose(found, values)
    np.testing.assert_allclose(source[order] % 360, values % 360)


def test_longitudes_that_cover_the_target_or_no_circle_keep_their_order() -> None:
    target = axis_of("lon", np.arange(10.0, 20.0), {"units": "degrees_east"})
    for source in (CIRCLE, CIRCLE[:20]):
        found, order = wrapped(axis_of("lon", source, {"units": "degrees_east"}), target)
        assert order is None
        np.testing.assert_array_equal(found, source)
