"""An ensemble as a Dataset: coordinates, and attributes that say how it was made."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from xarray.indexes import PandasMultiIndex

from xcvae.ensemble.postprocess import ChangeStats
from xcvae.ensemble.sampler import EnsembleSampler
from xcvae.ensemble.store.base import RegionStats
from xcvae.ensemble.store.samples import origin_of, rain_shares, samples_metadata
from xcvae.errors import DataError, MismatchError, XcvaeError
from xcvae.fields.cf import check_name, check_values, find_layout, find_target
from xcvae.fields.dataspec import DataSpec, json_attribute, plain
from xcvae.fields.sample_blocks import evenly_spaced
from xcvae.fields.samples import label_codes
from xcvae.fields.units import BOUNDS, HEAVY, with_duration
from xcvae.registry.discovery import version_of

# Attributes of the way that values are written, and of the range of those that were observed.
PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
# Labels of training samples that an ensemble's attributes hold, at most.
CODES = 2048
# The origin of the data that an ensemble derives from, and its terms of use, travel with it.
INHERITED = ("institution", "source", "license", "attribution", "references", "comment")


def to_dataset(sampler: EnsembleSampler, ds: xr.Dataset) -> xr.Dataset:
    """Return the ensemble as a lazy Dataset: members are drawn when they are computed.

    Parameters
    ----------
    sampler
        Draws the members.
    ds
        The data it draws for. The ensemble takes over every coordinate that fits.

    Returns
    -------
    xarray.Dataset
        One variable with the name and attributes of the target, dims (realization, sample, y, x).
    """
    import dask.array as da

    # A random name: to make one from the content, Dask would read all of the data.
    values = da.from_array(  # type: ignore[no-untyped-call]
        sampler,
        chunks=(*sampler.chunks, *sampler.size),
        name=False,
        meta=np.empty((0, 0, 0, 0), "float32"),
    )
    return _assemble(sampler, ds, values, attributes_of(sampler, ds, None))


def template_of(
    sampler: EnsembleSampler, ds: xr.Dataset, identity: Mapping[str, Any]
) -> xr.Dataset:
    """Return the Dataset that :func:`to_dataset` returns, all NaN and without memory for it.

    Raises
    ------
    DataError
        A coordinate has values that no store can hold.
    """
    nothing = np.broadcast_to(np.float32(np.nan), sampler.shape)
    found = _assemble(sampler, ds, nothing, attributes_of(sampler, ds, None, identity))
    for name, coord in found.coords.items():
        check_values(coord.variable, str(name))
    return found


def attributes_of(
    sampler: EnsembleSampler,
    ds: xr.Dataset,
    stats: Sequence[RegionStats] | None,
    identity: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the attributes ``history`` and ``xcvae`` of an ensemble.

    Parameters
    ----------
    sampler
        Draws the members.
    ds
        The data it draws for, with their history.
    stats
        Statistics of all regions; None while they are not drawn.
    identity
        Of the sampler, for an ensemble in a store.
    before
        Content of the attribute ``xcvae`` of the ensemble that the samples are appended to.
    """
    results: dict[str, dict[str, Any]] = {
        "spread": {"spread": sampler.spread},
        "diversity": {
            "diversity": sampler.request.diversity,
            "diversity_reached": None if sampler.solution is None else sampler.solution.diversity,
        },
        "postprocess": {"postprocess": sampler.pipeline.describe(_removed(sampler, stats))},
        "storms": {"storms": sampler.storms.describe()},
    }
    if sampler.request.min_mass is not None:
        rejected = None if stats is None else sum(one["rejected"] for one in stats)
        results["min_mass"] = {"min_mass": sampler.request.min_mass, "rejected": rejected}
    content: dict[str, Any] = {"version": version_of("xcvae"), "model_sha256": sampler.model.sha256}
    if "start" in sampler.model.training:
        content["start"] = {k: sampler.model.training["start"][k] for k in ("name", "sha256")}
    for name, value in sampler.request.attributes().items():
        content.update(results.get(name, {name: value}))
    if isinstance(sampler.request.tile, Mapping):
        content["tile"] = dict(sampler.request.tile)
    if sampler.seam:
        content["seam"] = sampler.seam
    trained = _training_samples(sampler, (before or {}).get("training_samples"))
    if trained:
        content["training_samples"] = trained
    content[HEAVY] = float(f"{sampler.model.record.quantile(0.99):.6g}")
    content["identity"] = identity
    content["spec"] = sampler.model.spec.to_json()
    return {"history": _history(sampler, ds), "xcvae": json.dumps(content)}


def _training_samples(sampler: EnsembleSampler, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return number and label codes of the samples that the model was trained on; {} for none.

    A scorecard of them says how well a model remembers. Codes, because samples may be selected.
    ``before`` is the same of the samples that others are appended to.
    """
    same, count = np.empty(0, np.int64), 0
    if sampler.model.thumbnails is not None:
        codes = label_codes(sampler.prepared, sampler.model.spec.sample)
        same = codes[np.isin(codes, sampler.model.thumbnails.labels)]
        count = same.size
    if before is not None:
        same = np.concatenate([np.asarray(before["codes"], same.dtype), same])
        count += before["count"]
    if not same.size:
        return {}
    stored = same[evenly_spaced(same.size, CODES)]
    return {"count": int(count), "codes": [int(code) for code in stored]}


def _removed(
    sampler: EnsembleSampler, stats: Sequence[RegionStats] | None
) -> list[ChangeStats] | None:
    """Add up, over all regions, the changes by each post-processor."""
    if stats is None:
        return None
    return [
        sum((ChangeStats(**one["removed"][i]) for one in stats), start=ChangeStats())
        for i in range(len(sampler.pipeline.steps))
    ]


def _history(sampler: EnsembleSampler, ds: xr.Dataset) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    request = sampler.request
    line = (
        f"{now}: xcvae {version_of('xcvae')} drew {_members(len(request.numbers))} "
        f"({request.mode}, spread {sampler.spread:g}, seed {request.seed}) with model "
        f"{sampler.model.sha256[:12]}"
    )
    if sampler.storms.steps:
        names = ", ".join(str(one["name"]) for one in sampler.storms.describe())
        line += f", conditions changed by {names}"
    return f"{ds.attrs.get('history', '')}\n{line}".lstrip("\n")


def _members(count: int) -> str:
    return "1 member" if count == 1 else f"{count} members"


def _assemble(
    sampler: EnsembleSampler, ds: xr.Dataset, values: Any, provenance: Mapping[str, str]
) -> xr.Dataset:
    """Put together values (realization, sample, y, x), coordinates and attributes."""
    spec = sampler.model.spec
    dims = ("realization", spec.sample, spec.y, spec.x)
    sizes = dict(zip(dims, sampler.shape, strict=True))
    number = xr.Variable(
        "realization",
        np.array(sampler.request.numbers, dtype="int32"),
        {"standard_name": "realization", "long_name": "member of the ensemble", "units": "1"},
    )
    attrs = {**without_observed(spec.attrs), "units": spec.units}
    mapping = _grid_mapping(ds, spec)
    if mapping:
        attrs["grid_mapping"] = mapping
    coords = {
        **_reference_systems(ds, mapping),
        **_coordinates(ds, sampler.prepared, sizes),
        "realization": number,
    }
    inherited = {key: v for key, v in _writable(ds.attrs).items() if key in INHERITED}
    title = f"{spec.target}: ensemble drawn by xcvae ({sampler.request.mode})"
    stacked = _stacked_coordinates(ds, spec.sample)
    ensemble = xr.Dataset(
        {spec.target: xr.Variable(dims, values, _without_dangling(attrs, coords))},
        coords={name: coord for name, coord in coords.items() if name not in stacked},
        attrs={"Conventions": "CF-1.11", "title": title, **inherited, **provenance},
    )
    return ensemble.assign_coords(stacked) if stacked else ensemble


def _stacked_coordinates(ds: xr.Dataset, sample: str) -> Mapping[Hashable, xr.DataArray]:
    """Return the coordinates of stacked samples with their index; empty for others.

    From variables without the index, xarray before 2025.4 makes labels that are tuples.
    """
    if not isinstance(ds.xindexes.get(sample), PandasMultiIndex):
        return {}
    return xr.Coordinates.from_pandas_multiindex(ds.indexes[sample], sample)


def check_storable(ds: xr.Dataset, sample: str) -> None:
    """Check that the labels and names of an ensemble of these data can be written.

    Raises
    ------
    DataError
        The samples are stacked from several dimensions, labels or other coordinates are objects
        (periods, times of a zone), or a coordinate has a name that would be a path in a Zarr store.
    """
    for name in ds.coords:
        check_name(str(name), what=f"coordinate {name!r}")
    if isinstance(ds.xindexes.get(sample), PandasMultiIndex):
        names = ds.indexes[sample].names
        raise DataError.of(
            f"store, dimension '{sample}'",
            expected="samples with one label each: Zarr cannot store stacked ones",
            got=f"samples stacked from {', '.join(map(str, names))}",
            remedy=f"Give them positions instead, ds.reset_index({sample!r}), before sampling.",
        )
    for name, coord in ds.coords.items():
        if name == sample or set(coord.dims) <= {sample}:
            check_values(coord.variable, str(name))


def _coordinates(
    ds: xr.Dataset, prepared: xr.Dataset, sizes: Mapping[str, int]
) -> dict[str, xr.Variable]:
    """Return, in memory, the coordinates whose dimensions are those of the ensemble."""
    found: dict[str, xr.Variable] = {}
    for origin in (prepared, ds):
        for name, coord in origin.coords.items():
            if all(sizes.get(str(dim)) == size for dim, size in coord.sizes.items()):
                found[str(name)] = coord.variable.compute()
    bounds = _bounds(ds, found, sizes)
    for name, variable in found.items():
        # An encoding belongs to the file that the coordinate was read from.
        clean = variable.drop_encoding()
        found[name] = clean.copy(deep=False)
        attrs = _writable(variable.attrs)
        if _is_time(variable):  # xarray writes units and calendar itself
            attrs = {k: v for k, v in attrs.items() if k not in ("units", "calendar")}
        if name in bounds:
            attrs["bounds"] = bounds[name][0]
        found[name].attrs = _without_dangling(attrs, {**found, **dict(bounds.values())})
    return {**found, **dict(bounds.values())}


def _bounds(
    ds: xr.Dataset, coords: Mapping[str, xr.Variable], sizes: Mapping[str, int]
) -> dict[str, tuple[str, xr.Variable]]:
    """Return name and values of the bounds of each coordinate that has them (CF, section 7.1).

    A depth lasts as long as the bounds of its time, also in an ensemble. Bounds have no attributes
    of their own, but the units of times that are numbers: a store decodes both.
    """
    found = {}
    for name, coord in coords.items():
        link = str(coord.attrs.get("bounds", coord.encoding.get("bounds", "")))
        if link not in ds.variables:
            continue
        values = ds[link].variable
        vertices = [dim for dim in values.dims if dim not in coord.dims]
        if values.dims[:-1] == coord.dims and len(vertices) == 1 and vertices[0] not in sizes:
            keys = ("units", "calendar") if values.dtype.kind in "iuf" else ()
            attrs = {key: coord.attrs[key] for key in keys if key in coord.attrs}
            found[name] = link, xr.Variable(values.dims, values.values, attrs)
    return found


def _writable(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes without those of packing; what a store cannot hold becomes JSON types."""
    return {
        key: value if _is_plain(value) else plain(value)
        for key, value in attrs.items()
        if key not in PACKING
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biufU"
    return isinstance(value, str | int | float)


def _is_time(variable: xr.Variable) -> bool:
    first = variable.values.flat[0] if variable.dtype == object and variable.size else None
    return variable.dtype.kind in "mM" or hasattr(first, "isoformat")


def without_observed(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Drop attributes that bound or encode the observed values: members may lie beyond."""
    return {key: value for key, value in attrs.items() if key not in PACKING + BOUNDS}


def _grid_mapping(ds: xr.Dataset, spec: DataSpec) -> str:
    """Return the attribute ``grid_mapping`` of the target; xarray may move it to the encoding."""
    own = ds[spec.target] if spec.target in ds.variables else xr.DataArray()
    places = (own.attrs, own.encoding, spec.attrs)
    return next((str(p["grid_mapping"]) for p in places if p.get("grid_mapping")), "")


def _reference_systems(ds: xr.Dataset, mapping: str) -> dict[str, xr.Variable]:
    """Return the variables that a ``grid_mapping`` names: their attributes, and a number."""
    found = {}
    for name in _linked(mapping):
        # Without a dimension; what the value is has no meaning (CF conventions, section 5.6).
        if name in ds.variables and ds[name].ndim == 0:
            found[name] = xr.Variable((), np.int32(0), _writable(ds[name].attrs))
    return found


def _linked(text: object) -> list[str]:
    """Return the variables that a link names.

    Examples
    --------
    >>> _linked("crs"), _linked("crs: x y wgs84: lat lon")
    (['crs'], ['crs', 'wgs84'])
    """
    words = str(text).split()
    return [word.rstrip(":") for word in words if ":" in word] or words


def _without_dangling(attrs: Mapping[str, Any], coords: Mapping[str, Any]) -> dict[str, Any]:
    """Drop attributes that name a variable which is not in the ensemble."""
    links = ("bounds", "climatology", "grid_mapping", "ancillary_variables")
    return {
        key: value
        for key, value in attrs.items()
        if key not in links or all(name in coords for name in _linked(value))
    }


def record_of(ensemble: xr.Dataset) -> dict[str, Any]:
    """Return the content of the attribute ``xcvae`` of an ensemble: how it was made.

    Raises
    ------
    MismatchError
        The Dataset has no such attribute: it is not an ensemble of xcvae.
    """
    content = json_attribute(ensemble)
    if "spec" not in content:
        raise MismatchError.of(
            "ensemble",
            expected="a Dataset made by xcvae.sample, with its attribute 'xcvae'",
            got=f"a Dataset with the attributes {sorted(map(str, ensemble.attrs)) or 'none'}",
            remedy="Keep the attributes: xr.set_options(keep_attrs=True), or open the store.",
        )
    return content


def catalog_metadata(ensemble: xr.Dataset) -> dict[str, Any]:
    """Return the metadata of a catalog entry, as JSON types; no member is read."""
    content = record_of(ensemble)
    spec = DataSpec.from_json(content.pop("spec"))
    identity = content.pop("identity")
    if "training_samples" in content:
        content["training_samples"] = content["training_samples"]["count"]
    field = ensemble[spec.target]
    return {
        **content,
        "title": str(ensemble.attrs.get("title", "")),
        "variable": spec.target,
        "units": spec.units,
        "dims": [str(dim) for dim in field.dims],
        "sizes": {str(dim): int(size) for dim, size in field.sizes.items()},
        "data": (identity or {}).get("data"),
        **origin_of(ensemble, spec.sample),
    }


def described(ds: xr.Dataset) -> dict[str, Any]:
    """Return all metadata of a catalog entry: an ensemble, or samples with rain."""
    if "xcvae" in ds.attrs:
        spec = DataSpec.from_json(record_of(ds)["spec"])
        return {**catalog_metadata(ds), **rain_shares(ds[spec.target], spec.sample, spec.step)}
    try:
        target = find_target(ds, None)
        sample = find_layout(ds[target]).sample
    except XcvaeError:  # not rain, or several variables that could be
        return {"title": str(ds.attrs.get("title", ""))}
    shares = rain_shares(with_duration(ds, ds[target], sample), sample)
    return {**samples_metadata(ds, target, sample), **shares}
