"""Sparse weights that bring a field from one grid to another: conservative or bilinear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from xcvae.fields.regridding.cells import Cells, plane_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[np.float64]
Places = NDArray[np.intp]
Method = Literal["conservative", "bilinear"]

#: Pixels of the target whose neighbours are searched for at once.
AT_ONCE = 20_000
#: Newton steps to a place within a cell; the map from positions to places is smooth. A step of
#: less than this share of a cell is the end.
STEPS, CONVERGED = 12, 0.01


@lru_cache(maxsize=4)
def weights(source: Cells, target: Cells, method: Method) -> csr_array:
    """Return weights from the cells of one grid to those of another.

    Parameters
    ----------
    source, target
        Grids. The target extends over less than a hemisphere.
    method
        ``conservative``: means over the area of each target cell, by the overlaps of cells in an
        equal-area plane. ``bilinear``: between the four source centres around each target centre.

    Returns
    -------
    csr_array
        (target cells, source cells), float64; rows sum to one. A row is empty where the source
        does not cover the target, with a cell of slack: there the outermost value is kept.
    """
    rule = _conservative if method == "conservative" else _bilinear
    return rule(source, target)


def _matrix(
    entries: Sequence[tuple[Places, Places, Array]], source: Cells, target: Cells
) -> csr_array:
    """Return a sparse matrix of rows, columns and values; rows that are not empty sum to one."""
    from scipy import sparse

    rows, columns, values = (np.concatenate(each) for each in zip(*entries, strict=True))

    shape = (target.shape[0] * target.shape[1], source.shape[0] * source.shape[1])
    found = sparse.csr_array((values, (rows, columns)), shape=shape)
    found.sum_duplicates()
    total = np.asarray(found.sum(axis=1)).ravel()
    found.data /= np.repeat(np.where(total > 0, total, 1.0), np.diff(found.indptr))
    return found


# --- conservative ------------------------------------------------------------------------------


def _conservative(source: Cells, target: Cells) -> csr_array:
    middle = target.middle
    own, own_numbers = _polygons(source, middle)
    fine, fine_numbers = _polygons(target, middle)
    entries = []
    for i, j in _neighbours(own, fine):
        overlap = _overlap(own[i], fine[j])
        found = overlap > 1e-9 * np.abs(_area(fine[j]))
        entries.append((fine_numbers[j[found]], own_numbers[i[found]], overlap[found]))
    matrix = _matrix(entries, source, target)
    empty = np.flatnonzero(np.diff(matrix.indptr) == 0)
    if not empty.size:
        return matrix
    # The slack of bilinear interpolation at the outer edges.
    known, more = matrix.tocoo(), _bilinear(source, target).tocoo()
    used = np.isin(more.row, empty)
    entries = [
        (known.row, known.col, known.data),
        (more.row[used], more.col[used], more.data[used]),
    ]
    return _matrix(entries, source, target)


def _polygons(cells: Cells, middle: Array) -> tuple[Array, Places]:
    """Return quadrilaterals (n, 4, 2) in a plane, counter-clockwise, and numbers of their cells."""
    corners = plane_of(cells.corners, middle)
    sides = (corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1])
    all_cells = np.stack(sides, axis=2).reshape(-1, 4, 2)
    areas = _area(all_cells)
    all_cells[areas < 0] = all_cells[areas < 0, ::-1]
    valid = np.flatnonzero(np.isfinite(areas) & (areas != 0))
    return all_cells[valid], valid


def _neighbours(own: Array, fine: Array) -> Iterator[tuple[Places, Places]]:
    """Yield pairs of source and target cells that may overlap: their circles do."""
    from scipy.spatial import cKDTree

    def circles(polygons: Array) -> tuple[Array, Array]:
        middles = polygons.mean(axis=1)
        return middles, np.linalg.norm(polygons - middles[:, None], axis=-1).max(axis=1)

    middles, radii = circles(own)
    fine_middles, fine_radii = circles(fine)
    low, high = fine.min(axis=(0, 1)), fine.max(axis=(0, 1))
    near = np.flatnonzero(
        ((middles >= low - radii[:, None]) & (middles <= high + radii[:, None])).all(axis=1)
    )
    if not near.size:
        yield near, near
        return
    tree = cKDTree(middles[near])
    for start in range(0, len(fine), AT_ONCE):
        part = np.arange(start, min(start + AT_ONCE, len(fine)))
        reach = radii[near].max() + fine_radii[part].max()
        found = cKDTree(fine_middles[part]).sparse_distance_matrix(
            tree, reach, output_type="ndarray"
        )
        i, j = near[found["j"]], part[found["i"]]
        close = found["v"] < radii[i] + fine_radii[j]
        yield i[close], j[close]


def _area(polygons: Array) -> Array:
    """Return the signed areas of polygons (n, corners, 2)."""
    x, y = (polygons[..., k] - polygons[:, :1, k] for k in (0, 1))
    following = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    return np.asarray((x * following[1] - following[0] * y).sum(axis=1) / 2)


def _overlap(own: Array, fine: Array) -> Array:
    """Return the areas that quadrilaterals (n, 4, 2) share, pair by pair."""
    areas = np.zeros(len(own))
    apart = (own.max(axis=1) <= fine.min(axis=1)) | (fine.max(axis=1) <= own.min(axis=1))
    rest = np.flatnonzero(~apart.any(axis=1))
    # Most cells of a finer grid lie within one of the other.
    for inner, outer in ((fine, own), (own, fine)):
        within = np.ones(len(rest), bool)
        for side in range(4):
            start, stop = outer[rest, side], outer[rest, (side + 1) % 4]
            within &= (_height(inner[rest], start, stop) >= 0).all(axis=1)
        areas[rest[within]] = _area(inner[rest[within]])
        rest = rest[~within]
    clipped = own[rest]
    for side in range(4):
        clipped = _cut(clipped, fine[rest, side], fine[rest, (side + 1) % 4])
    areas[rest] = np.maximum(_area(clipped), 0.0)
    return areas


def _height(points: Array, start: Array, stop: Array) -> Array:
    """Return on which side of lines points (n, corners, 2) lie: positive to the left."""
    along, offset = (stop - start)[:, None], points - start[:, None]
    return np.asarray(along[..., 0] * offset[..., 1] - along[..., 1] * offset[..., 0])


def _cut(polygons: Array, start: Array, stop: Array) -> Array:
    """Keep the part of polygons to the left of lines (Sutherland and Hodgman 1974).

    Corners beyond those of a polygon repeat its last one, which changes no area.
    """
    height = _height(polygons, start, stop)
    following, next_height = np.roll(polygons, -1, axis=1), np.roll(height, -1, axis=1)
    inside = height >= 0
    crosses = inside != (next_height >= 0)
    gap = np.where(crosses, height - next_height, 1.0)
    crossing = polygons + (height / gap)[..., None] * (following - polygons)
    count, corners = inside.shape
    points = np.stack([polygons, crossing], axis=2).reshape(count, 2 * corners, 2)
    used = np.stack([inside, crosses], axis=2).reshape(count, 2 * corners)
    order = np.argsort(~used, axis=1, kind="stable")[:, : corners + 1]
    number = used.sum(axis=1)
    order = np.where(
        np.arange(corners + 1) < number[:, None],
        order,
        np.take_along_axis(order, np.clip(number - 1, 0, corners)[:, None], axis=1),
    )
    result = np.take_along_axis(points, order[..., None], axis=1)
    result[number < 3] = 0.0
    return np.asarray(result)


# --- bilinear ----------------------------------------------------------------------------------


def _bilinear(source: Cells, target: Cells) -> csr_array:
    middle = target.middle
    nodes, columns = plane_of(source.centres, middle), np.arange(source.shape[1])
    if source.cyclic:
        columns = np.concatenate([columns[-1:], columns, columns[:1]])
    nodes = nodes[:, columns]
    places = plane_of(target.centres, middle).reshape(-1, 2)
    at, error = _positions(nodes, places, repeated=source.cyclic)
    size = np.array(nodes.shape[:2])
    edges = np.clip(at, 0, size - 1)
    known = (np.abs(at - edges) <= 1.0).all(axis=1) & (error < CONVERGED)
    low = np.minimum(edges.astype(np.intp), size - 2)
    part = edges - low
    entries = []
    for down in (0, 1):
        for right in (0, 1):
            j, i = low[:, 0] + down, low[:, 1] + right
            share = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1])
            used = known & (share > 1e-12) & np.isfinite(nodes[j, i, 0])
            cells = (j * source.shape[1] + columns[i])[used]
            entries.append((np.flatnonzero(used), cells, share[used]))
    return _matrix(entries, source, target)


def _positions(nodes: Array, places: Array, *, repeated: bool) -> tuple[Array, Array]:
    """Return fractional rows and columns of places among nodes, and the error in cells.

    Newton's method on the bilinear map from positions to places, from the nearest node on. Places
    up to a cell beyond the outer nodes are extrapolated. With ``repeated``, the columns at both
    ends are those of the other end.
    """
    from scipy.spatial import cKDTree

    at, error = np.full(places.shape, np.inf), np.full(len(places), np.inf)
    flat = nodes.reshape(-1, 2)
    known = np.asarray(np.isfinite(nodes).all(axis=-1))
    if repeated:
        known[:, [0, -1]] = False
    valid = np.flatnonzero(known)
    if not valid.size:
        return at, error
    some = np.flatnonzero(np.isfinite(places).all(axis=1))
    distance, nearest = cKDTree(flat[valid]).query(places[some])
    # The largest outside a grid is a cell beyond its edge.
    near = distance < 3 * _spacing(nodes)
    some, nearest, distance = some[near], valid[nearest[near]], distance[near]
    first = np.stack(np.divmod(nearest, nodes.shape[1]), axis=1).astype(np.float64)
    at[some], error[some] = _newton(nodes, places[some], first)
    # Next to nodes without a place, the nearest one is taken within a cell.
    alone = ~(error[some] < CONVERGED) & (distance < _spacing(nodes))
    at[some[alone]], error[some[alone]] = first[alone], 0.0
    return at, error


def _newton(nodes: Array, places: Array, at: Array) -> tuple[Array, Array]:
    """Improve positions among nodes until their places are those given; the error in cells."""
    highest = np.array(nodes.shape[:2]) - 2
    at, error = at.copy(), np.full(len(places), np.inf)
    left = np.arange(len(places))
    for _ in range(STEPS):
        low = np.clip(np.floor(at[left]), 0, highest).astype(np.intp)
        j, i = low.T
        v, u = (at[left] - low).T[..., None]
        a, b, c, d = nodes[j, i], nodes[j, i + 1], nodes[j + 1, i], nodes[j + 1, i + 1]
        down, right = (1 - u) * (c - a) + u * (d - b), (1 - v) * (b - a) + v * (d - c)
        missing = places[left] - ((1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d))
        with np.errstate(invalid="ignore", divide="ignore"):
            steps = [_cross(missing, right), _cross(down, missing)] / _cross(down, right)
        step = np.where(np.isfinite(steps).all(axis=0), steps, np.inf).T
        error[left] = np.abs(step).max(axis=1)
        going = np.isfinite(error[left]) & (error[left] > 1e-9)
        left, step = left[going], step[going]
        if not left.size:
            break
        at[left] = np.clip(at[left] + np.clip(step, -2.0, 2.0), -2.0, highest + 3.0)
    return at, error


def _cross(one: Array, other: Array) -> Array:
    return np.asarray(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0])


def _spacing(nodes: Array) -> float:
    """Return the median distance of neighbouring nodes."""
    steps = [np.linalg.norm(np.diff(nodes, axis=axis), axis=-1).ravel() for axis in (0, 1)]
    return float(np.nanmedian(np.concatenate(steps)))
