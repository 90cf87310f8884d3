# ruff: noqa: PLR0917  south, step, rows, west, step, columns

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.sparse import csr_array

from xcvae.fields.grids import stretch_known
from xcvae.fields.regridding.cells import Cells, cells_of, plane_of, vectors
from xcvae.fields.regridding.projections import from_rotated, same_projection, with_parameters
from xcvae.fields.regridding.regrid import _filled
from xcvae.fields.regridding.weights import weights

POLE = {"grid_north_pole_latitude": 39.25, "grid_north_pole_longitude": -162.0}
METHODS = ("bilinear", "conservative")


def regular(south: float, dy: float, ny: int, west: float, dx: float, nx: int) -> Cells:
    """Cells of a grid in degrees."""
    coords = {
        "lat": ("lat", south + dy * np.arange(ny), {"units": "degrees_north"}),
        "lon": ("lon", west + dx * np.arange(nx), {"units": "degrees_east"}),
    }
    found = cells_of(xr.DataArray(np.zeros((ny, nx)), coords, ("lat", "lon")), ("lat", "lon"), {})
    assert isinstance(found, Cells)
    return found


def curvilinear(lat: np.ndarray, lon: np.ndarray) -> Cells:
    """Cells around places in degrees."""
    attrs = ({"units": "degrees_north"}, {"units": "degrees_east"})
    coords = {"lat": (("j", "i"), lat, attrs[0]), "lon": (("j", "i"), lon, attrs[1])}
    found = cells_of(xr.DataArray(np.zeros(lat.shape), coords, ("j", "i")), ("j", "i"), {})
    assert isinstance(found, Cells)
    return found


def smooth(cells: Cells) -> np.ndarray:
    """A function of the place on the sphere."""
    return 250.0 + 30.0 * (cells.centres @ np.array([0.3, 0.5, 0.7]))


def globe(*, curved: bool = False, turned: bool = False) -> Cells:
    if curved:
        grid = np.meshgrid(np.arange(-85.0, 86), np.arange(-180.0, 180, 2), indexing="ij")
        return curvilinear(*grid)
    return regular(89.5, -1, 180, -179.5, 1, 360) if turned else regular(-89.5, 1, 180, 0.5, 1, 360)


TARGETS = {
    "date line": regular(-20, 0.1, 20, 178.9, 0.1, 20),
    "Greenwich": regular(50, 0.1, 20, -1.0, 0.1, 20),
    "south, falling": regular(-60, -0.1, 20, -70, 0.2, 20),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{}, {"turned": True}, {"curved": True}], ids=str)
def test_weights_give_the_value_of_the_place(target, method, options):
    source, fine = globe(**options), TARGETS[target]
    matrix = weights(source, fine, method)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=1e-12)
    found = (matrix @ smooth(source).ravel()).reshape(fine.shape)
    # Means over cells have steps of up to half the change over a cell.
    np.testing.assert_allclose(found, smooth(fine), atol=0.005 if method == "bilinear" else 0.5)
    assert abs(found.mean() - smooth(fine).mean()) < 0.03


def test_bilinear_weights_keep_a_grid_as_it_is():
    grid = regular(50, 0.1, 6, 5, 0.1, 7)
    np.testing.assert_allclose(weights(grid, grid, "bilinear").toarray(), np.eye(42), atol=1e-9)
    np.testing.assert_allclose(weights(grid, grid, "conservative").toarray(), np.eye(42), atol=1e-9)


def test_conservative_weights_keep_the_amount_of_rain():
    rotated = from_rotated(
        *np.meshgrid(np.arange(-2, 2, 0.4), np.arange(-7, -3, 0.4), indexing="ij"), POLE
    )
    source, fine = curvilinear(*rotated), regular(46, 0.07, 110, 5, 0.07, 150)
    matrix = weights(source, fine, "conservative")
    cells = np.zeros(source.shape)
    cells[2:-2, 2:-2] = np.random.default_rng(0).gamma(0.5, 4, (6, 6))  # within the target
    amounts = [
        float((areas(grid) * values).sum())
        for grid, values in ((source, cells), (fine, (matrix @ cells.ravel()).reshape(fine.shape)))
    ]
    assert amounts[1] == pytest.approx(amounts[0], rel=2e-3)


def shares(step: float, count: int, own: float, n: int, start: float) -> np.ndarray:
    """Return the shares of intervals of a step, from start on, in others that begin at 0."""
    first, second = start + step * np.arange(count)[:, None], own * np.arange(n)
    overlap = np.minimum(first + step, second + own) - np.maximum(first, second)
    return np.maximum(overlap, 0.0) / step


@pytest.mark.parametrize(("step", "start"), [(0.01, 0.005), (0.025, 0.0), (0.003, 0.0007)])
@pytest.mark.parametrize("falling", ["", "source", "target"])
def test_conservative_weights_are_the_overlaps_of_cells(step, start, falling):
    """Near the equator, where cells are squares; their order must not matter."""
    side = 0.01
    source = regular(side / 2, side, 12, 5 + side / 2, side, 12)
    count = int((12 * side - start) // step)
    fine = regular(start + step / 2, step, count, 5 + start + step / 2, step, count)
    one = shares(step, count, side, 12, start)
    expected = np.einsum("yj,xi->yxji", one, one)
    if falling == "source":
        source = regular(side * 11.5, -side, 12, 5 + side / 2, side, 12)
        expected = expected[:, :, ::-1]
    if falling == "target":
        fine = regular(
            start + step * (count - 0.5), -step, count, 5 + start + step / 2, step, count
        )
        expected = expected[::-1]
    found = weights(source, fine, "conservative").toarray()
    np.testing.assert_allclose(found, expected.reshape(count**2, 144), atol=2e-4)


def areas(cells: Cells) -> np.ndarray:
    """Areas of cells in km2, by the shoelace formula in an equal-area plane."""
    corners = plane_of(cells.corners, cells.middle)
    a, b, c, d = corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]
    first, second = c - a, d - b
    return np.abs(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]) / 2


@pytest.mark.parametrize("method", METHODS)
def test_pixels_beyond_the_source_have_no_weights(method):
    source, fine = regular(50, 0.5, 6, 5, 0.5, 6), regular(48.1, 0.25, 12, 5, 0.25, 10)
    covered = np.diff(weights(source, fine, method).indptr).reshape(fine.shape) > 0
    # A cell beyond the outermost centres is the slack that aligned conditions have too.
    wanted = 48.1 + 0.25 * np.arange(12) >= 49.5
    np.testing.assert_array_equal(covered.all(axis=1), wanted)
    np.testing.assert_array_equal(covered.any(axis=1), wanted)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("missing", [np.nan, -999.0, 1e20])
def test_places_that_are_missing_are_gaps_of_a_grid(method, missing):
    lat, lon = np.meshgrid(np.arange(44, 50, 0.2), np.arange(4, 10, 0.2), indexing="ij")
    lat[:4, :4] = missing
    source, fine = curvilinear(lat, lon), regular(45.5, 0.1, 10, 5.5, 0.1, 10)
    matrix = weights(source, fine, method)
    values = np.nan_to_num(smooth(source)).ravel()
    np.testing.assert_allclose((matrix @ values).reshape(fine.shape), smooth(fine), atol=0.2)


@pytest.mark.parametrize("missing", [np.nan, -999.0, 1e20])
def test_pixels_next_to_a_gap_take_the_nearest_place_within_a_cell(missing):
    lat, lon = np.meshgrid(np.arange(44, 50, 0.2), np.arange(4, 10, 0.2), indexing="ij")
    source = curvilinear(np.where((lat < 46) & (lon < 6), missing, lat), lon)
    fine = regular(45.46, 0.2, 6, 5.46, 0.2, 6)  # the first three rows and columns are in the gap
    matrix = weights(source, fine, "bilinear")
    covered = (np.diff(matrix.indptr) > 0).reshape(fine.shape)
    wanted = np.ones((6, 6), bool)
    wanted[:2, :2] = False  # more than a cell from any place
    np.testing.assert_array_equal(covered, wanted)
    values = np.nan_to_num(smooth(source)).ravel()
    found = (matrix @ values).reshape(fine.shape)
    np.testing.assert_allclose(found[wanted], smooth(fine)[wanted], atol=0.15)


def test_cells_at_the_poles_end_there():
    grid = regular(-90, 1, 181, 0, 1, 360)
    assert grid.corners[[0, -1], :, 2] == pytest.approx(np.array([[-1.0], [1.0]]) * np.ones(361))
    latitudes = np.rad2deg(np.arcsin(grid.corners[:, 0, 2]))
    np.testing.assert_allclose(np.diff(latitudes), [0.5, *[1] * 179, 0.5], atol=1e-5)


def test_rotated_longitudes_may_count_from_another_meridian():
    y, x = np.meshgrid(np.arange(-5.0, 6), np.arange(-9.0, 10), indexing="ij")
    moved = from_rotated(y, x + 20.0, {**POLE, "north_pole_grid_longitude": 20.0})
    np.testing.assert_allclose(moved, from_rotated(y, x, POLE), atol=1e-9)


def test_a_part_of_a_circle_is_not_cyclic():
    assert regular(-10, 1, 20, 0, 2, 180).cyclic
    assert not regular(-10, 1, 20, 0, 2, 178).cyclic


def test_side_and_extent_of_a_grid():
    grid = regular(0, 0.1, 10, 5, 0.1, 10)
    assert grid.side == pytest.approx(11.12, rel=0.01)
    assert grid.extent == pytest.approx(0.64, abs=0.02)
    assert globe().cyclic
    assert not grid.cyclic
    np.testing.assert_allclose(
        plane_of(vectors(np.array([0.45]), np.array([5.45])), grid.middle), 0, atol=1e-2
    )


def test_one_standard_parallel_is_two_equal_ones():
    cone = {"grid_mapping_name": "lambert_conformal_conic", "standard_parallel": 60.0}
    assert same_projection(cone, {**cone, "standard_parallel": [60.0, 60.0]})
    assert same_projection(
        {**cone, "standard_parallel": [30.0, 60.0]}, {**cone, "standard_parallel": [60.0, 30.0]}
    )
    assert not same_projection(cone, {**cone, "standard_parallel": [30.0, 60.0]})


def test_origin_of_a_polar_projection_in_wkt_is_no_latitude_of_the_projection():
    """GDAL writes the standard parallel there; the origin of CF is the pole."""
    text = (
        'PROJCS["x",GEOGCS["y"],PROJECTION["{}"],PARAMETER["latitude_of_origin",70],'
        'PARAMETER["central_meridian",-45],PARAMETER["false_easting",0]]'
    )
    polar = with_parameters({"crs_wkt": text.format("Polar_Stereographic")})
    assert polar["straight_vertical_longitude_from_pole"] == -45
    assert "latitude_of_projection_origin" not in polar
    other = with_parameters({"crs_wkt": text.format("Lambert_Azimuthal_Equal_Area")})
    assert other["latitude_of_projection_origin"] == 70
    assert other["longitude_of_projection_origin"] == -45


def test_a_pixel_is_known_from_half_of_it_on():
    matrix = csr_array(np.array([[0.4, 0.6, 0.0], [0.6, 0.4, 0.0], [0.25, 0.5, 0.25]]))
    found = _filled(np.array([2.0, np.nan, 6.0]), matrix)
    np.testing.assert_allclose(found, [np.nan, 2.0, 4.0])
    rows, columns = np.array([[0.5, 0.5]], np.float32), np.array([[0.8, 0.2]], np.float32)
    maps = np.array([[[1.0, 9.0], [np.nan, np.nan]], [[1.0, np.nan], [np.nan, 9.0]]])
    maps = np.concatenate([maps, [[[np.nan, 7.0], [np.nan, 7.0]]]])
    stretched = stretch_known(maps, rows, columns)
    np.testing.assert_allclose(stretched.ravel(), [2.6, 2.6, np.nan], rtol=1e-6)
