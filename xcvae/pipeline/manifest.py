"""Manifest of an output folder: every product, and the settings and data it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble.store.base import differences
from xcvae.errors import OutputExistsError
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.samples import labels_of
from xcvae.files import is_taken, sha256, write_text


class Manifest:
    """The file ``made-from.json`` of an output folder.

    A run compares its settings with the manifest: products that are current are kept, products of
    other settings are refused, and files that no run has recorded are never replaced.

    Parameters
    ----------
    folder
        Output folder.
    overwrite
        Allow products of other settings to be replaced.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.folder, self.overwrite = folder, overwrite
        self._file = folder / "made-from.json"

    def is_current(self, product: str, inputs: Mapping[str, Any], *paths: Path) -> bool:
        """Tell if all files of a product exist and were made from these inputs."""
        exists = all(path.exists() for path in paths)
        return exists and self._products().get(product) == _as_json(inputs)

    def inputs_of(self, product: str) -> dict[str, Any]:
        """Return the inputs that a run has recorded of a product; empty if none has."""
        found: dict[str, Any] = self._products().get(product, {})
        return found

    def record(self, product: str, inputs: Mapping[str, Any]) -> None:
        """Record the inputs of a product."""
        products = {**self._products(), product: dict(inputs)}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self._file, json.dumps(products, indent=1, sort_keys=True))

    def adopt(self, product: str, inputs: Mapping[str, Any], name: str) -> None:
        """Record an input that earlier versions did not record, if all others are the same."""
        known, wanted = self._products().get(product), _as_json(inputs)
        if known is not None and name not in known and {**known, name: wanted[name]} == wanted:
            self.record(product, inputs)

    def claim(self, product: str, *paths: Path) -> None:
        """Record that files are about to be written, after refusing those that are not ours.

        Raises
        ------
        OutputExistsError
            One of the files exists, and no run has recorded the product.
        """
        if product in self._products():
            return
        self.check_free(product, *paths)
        # Recorded before the first file exists: a killed run finds its own files again.
        self.record(product, {})

    def check_free(self, product: str, *paths: Path) -> None:
        """Refuse files that exist if no run has recorded the product, as `claim` will.

        Raises
        ------
        OutputExistsError
            One of them exists.
        """
        taken = [path for path in paths if is_taken(path)]
        if taken and product not in self._products():
            raise not_recorded(taken[0])

    def check_unchanged(self, product: str, folder: Path) -> None:
        """Refuse to replace a folder that has other files than those that were recorded.

        Raises
        ------
        OutputExistsError
            Files were added to it or removed.
        """
        if self._products().get(product) != {"names": names_below(folder)}:
            raise not_recorded(folder)

    def check_replaceable(self, product: str, inputs: Mapping[str, Any], path: Path) -> None:
        """Refuse to replace a file that was made from other inputs, and name the differences.

        Raises
        ------
        OutputExistsError
            The file was made from other inputs and ``overwrite`` is not set, or no run has
            recorded it.
        """
        if not is_taken(path):
            return
        known = self._products().get(product)
        if known is None:
            raise not_recorded(path)
        if self.overwrite:
            return
        raise OutputExistsError.of(
            str(path),
            expected="a free name, or the product of this configuration",
            got="; ".join(differences(known, _as_json(inputs))),
            remedy="Choose another output folder, undo the change, or replace it with --overwrite.",
        )

    def _products(self) -> dict[str, Any]:
        """Return the recorded products; refuse a file of that name that is no manifest."""
        if not is_taken(self._file):
            return {}
        products = read_json(self._file)
        if not all(isinstance(inputs, dict) for inputs in (products or {"": None}).values()):
            raise not_recorded(self._file)
        return products


def names_below(folder: Path) -> str:
    """Return a hash of the names of all files below a folder."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return digest(names)


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if the file has none, and is not one of ours."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _as_json(inputs: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(inputs)))


def not_recorded(path: Path) -> OutputExistsError:
    """Return the refusal to replace a file of others."""
    return OutputExistsError.of(
        str(path),
        expected="a free name, or a product of an earlier run in this folder",
        got="a file that no run has recorded",
        remedy="Move it elsewhere, or choose another output folder: xcvae only replaces what "
        "it wrote.",
    )


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted keys, without those that are None.

    Examples
    --------
    >>> flat({"seed": 0, "fit": {"max_steps": 9}, "coarsen": None})
    {'seed': 0, 'fit.max_steps': 9}
    """
    flattened: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flattened |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            flattened[f"{prefix}{key}"] = value
    return flattened


def digest(value: object) -> str:
    """Return a short hash of JSON types."""
    return sha256(json.dumps(value, sort_keys=True).encode())[:16]


def fingerprint(ds: xr.Dataset, spec: DataSpec) -> str:
    """Return the number of samples and a hash of the data, as text.

    The hash covers the values of variables in memory; of lazy variables, which would have to be
    read as a whole, it covers labels, names and units.
    """
    total = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode())
    total.update("\n".join(labels_of(ds, spec.sample)).encode())
    for name in sorted(map(str, ds.data_vars)):
        if ds[name].chunks is None:
            total.update(_content(ds[name].values))
    return f"{ds.sizes[spec.sample]} samples, {total.hexdigest()[:16]}"


def fingerprint_of_coordinates(ds: xr.Dataset) -> str:
    """Return a hash of coordinates in memory: copies have them, and scores may be grouped by them.

    A model does not depend on them, and neither does `fingerprint`.
    """
    total = hashlib.sha256()
    for name in sorted(map(str, ds.coords)):
        if ds[name].chunks is None:
            total.update(f"{name} {ds[name].dims}".encode())
            total.update(_content(ds[name].values))
    return total.hexdigest()[:16]


def _content(values: np.ndarray) -> bytes:
    """Return the bytes of an array; of texts and other objects it has the addresses only."""
    if values.dtype.kind in "OT":
        return "\n".join(map(str, values.ravel())).encode()
    return np.ascontiguousarray(values).tobytes()
