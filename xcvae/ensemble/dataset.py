"""An ensemble as a Dataset: coordinates, attributes and the record of its making."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from xarray.indexes import PandasMultiIndex

from xcvae.ensemble.postprocess import ChangeStats, describe_chain
from xcvae.ensemble.sampler import EnsembleSampler
from xcvae.ensemble.spread import Dial
from xcvae.ensemble.store.base import RegionStats
from xcvae.errors import DataError, MismatchError, explain
from xcvae.fields.describe import DataSpec
from xcvae.registry.discovery import version_of

__all__ = ["Provenance", "assemble", "catalog_metadata", "check_storable", "record_of"]

# Who made the data that an ensemble derives from, and under what terms: this must travel with it.
KEPT_ATTRIBUTES = ("institution", "source", "license", "attribution", "references", "comment")


@dataclass(frozen=True)
class Provenance:
    """How an ensemble was made, as its attributes tell it.

    Parameters
    ----------
    source
        What draws it.
    diversity
        The diversity asked for, if any.
    dial
        The spread found for it, if any.
    identity
        What makes it the same ensemble as another one; None for one that is not stored.
    history
        The history of the data.
    """

    source: EnsembleSampler
    diversity: float | None
    dial: Dial | None
    identity: Mapping[str, Any] | None
    history: str

    def attributes(self, counts: Sequence[RegionStats] | None) -> dict[str, str]:
        """Return ``history`` and ``xcvae``; without counts, what was removed is not known."""
        how = self.source.settings
        removed = None
        if counts is not None:
            removed = [
                sum((ChangeStats(**one["removed"][i]) for one in counts), start=ChangeStats())
                for i in range(len(self.source.chain))
            ]
        content: dict[str, Any] = {
            "version": version_of("xcvae"),
            "model_sha256": self.source.model.sha256,
            "seed": how.seed,
            "mode": how.mode,
            "spread": how.spread,
            "diversity": self.diversity,
            "diversity_reached": None if self.dial is None else self.dial.diversity,
            "temperature": how.temperature,
            "members": self.source.members,
            "postprocess": describe_chain(self.source.chain, removed),
            "min_mass": how.min_mass,
        }
        if how.min_mass is not None:
            content["rejected"] = None if counts is None else sum(c["rejected"] for c in counts)
        content["identity"] = self.identity
        content["spec"] = self.source.model.spec.to_json()
        return {"history": self._history(), "xcvae": json.dumps(content)}

    def _history(self) -> str:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        how = self.source.settings
        line = (
            f"{now}: xcvae {version_of('xcvae')} drew {self.source.members} members "
            f"({how.mode}, spread {how.spread:g}, seed {how.seed}) with model "
            f"{self.source.model.sha256[:12]}"
        )
        return f"{self.history}\n{line}".lstrip("\n")


def assemble(ds: xr.Dataset, values: Any, record: Provenance) -> xr.Dataset:
    """Put an ensemble together.

    Parameters
    ----------
    ds
        The data it was drawn for: every coordinate that fits is taken over.
    values
        Lazy array (realization, sample, y, x).
    record
        How it is made.

    Returns
    -------
    xarray.Dataset
        One variable with the name and attributes of the target, dims (realization, sample, y, x).
    """
    source = record.source
    spec = source.model.spec
    dims = ("realization", spec.sample, spec.y, spec.x)
    sizes = dict(zip(dims, source.shape, strict=True))
    number = xr.Variable(
        "realization",
        np.arange(source.members, dtype="int32"),
        {"standard_name": "realization", "long_name": "member of the ensemble", "units": "1"},
    )
    coords = {**_coordinates(ds, source.prepared, sizes), "realization": number}
    attrs = {**spec.attrs, "units": spec.units}
    kept = {key: ds.attrs[key] for key in KEPT_ATTRIBUTES if key in ds.attrs}
    title = f"{spec.target}: ensemble drawn by xcvae ({source.settings.mode})"
    return xr.Dataset(
        {spec.target: xr.Variable(dims, values, _without_dangling(attrs, coords))},
        coords=coords,
        attrs={"Conventions": "CF-1.11", "title": title, **kept, **record.attributes(None)},
    )


def check_storable(ds: xr.Dataset, sample: str) -> None:
    """Make sure that the labels of an ensemble of these data can be written.

    Raises
    ------
    DataError
        The samples are stacked from several dimensions.
    """
    if isinstance(ds.xindexes.get(sample), PandasMultiIndex):
        names = ds.indexes[sample].names
        raise DataError(
            explain(
                f"store, dimension '{sample}'",
                expected="samples with one label each, for Zarr has no way to write stacked ones",
                got=f"samples stacked from {', '.join(map(str, names))}",
                remedy=f"Give them positions instead, ds.reset_index({sample!r}), before sampling.",
            )
        )


def _coordinates(
    ds: xr.Dataset, prepared: xr.Dataset, sizes: Mapping[str, int]
) -> dict[str, xr.Variable]:
    """Return, in memory, the coordinates whose dimensions are those of the ensemble."""
    found: dict[str, xr.Variable] = {}
    for origin in (prepared, ds):
        for name, coord in origin.coords.items():
            if all(sizes.get(str(dim)) == size for dim, size in coord.sizes.items()):
                found[str(name)] = coord.variable.compute()
    for name, variable in found.items():
        # Encodings are of the file it came from, and would clash with ours.
        clean = variable.drop_encoding()
        found[name] = clean.copy(deep=False)
        found[name].attrs = _without_dangling(variable.attrs, found)
    return found


def _without_dangling(attrs: Mapping[str, Any], coords: Mapping[str, Any]) -> dict[str, Any]:
    """Drop attributes that name a variable which is not in the ensemble."""
    links = ("bounds", "climatology", "grid_mapping", "ancillary_variables")
    return {key: v for key, v in attrs.items() if key not in links or v in coords}


def record_of(ensemble: xr.Dataset) -> dict[str, Any]:
    """Return how an ensemble was made, from its attribute ``xcvae``.

    Raises
    ------
    MismatchError
        The Dataset has no such attribute: it is no ensemble of xcvae.
    """
    try:
        content = json.loads(ensemble.attrs["xcvae"])
    except (KeyError, TypeError, ValueError):
        content = None
    if not isinstance(content, dict) or "spec" not in content:
        raise MismatchError(
            explain(
                "ensemble",
                expected="a Dataset made by xcvae.sample, with its attribute 'xcvae'",
                got=f"a Dataset with the attributes {sorted(map(str, ensemble.attrs)) or 'none'}",
                remedy="Keep the attributes: xr.set_options(keep_attrs=True), or open the store.",
            )
        )
    return content


def catalog_metadata(ensemble: xr.Dataset) -> dict[str, Any]:
    """Return what the catalog says about an ensemble: JSON types, without the data spec."""
    content = record_of(ensemble)
    spec = DataSpec.from_json(content.pop("spec"))
    identity = content.pop("identity")
    field = ensemble[spec.target]
    return {
        **content,
        "title": str(ensemble.attrs.get("title", "")),
        "variable": spec.target,
        "units": spec.units,
        "dims": [str(dim) for dim in field.dims],
        "sizes": {str(dim): int(size) for dim, size in field.sizes.items()},
        "data": (identity or {}).get("data"),
    }
