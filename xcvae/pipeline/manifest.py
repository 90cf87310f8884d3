"""What a run has made, and from what: so that it goes on instead of starting again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble.identity import differences, labels_of
from xcvae.errors import OutputExistsError, explain
from xcvae.fields.describe import DataSpec
from xcvae.files import write_text

__all__ = ["Manifest", "digest", "fingerprint", "flat"]


class Manifest:
    """The file ``made-from.json`` in the output folder: settings and data behind each product.

    Parameters
    ----------
    folder
        Where the products are.
    overwrite
        Whether products of other settings may be replaced.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.folder, self.overwrite = folder, overwrite
        self._file = folder / "made-from.json"

    def current(self, product: str, made_from: Mapping[str, Any], *paths: Path) -> bool:
        """Whether a product is there (all of ``paths``) and comes from these settings."""
        there = all(path.exists() for path in paths)
        return there and self._notes().get(product) == json.loads(json.dumps(dict(made_from)))

    def note(self, product: str, made_from: Mapping[str, Any]) -> None:
        """Write down what a product is made from."""
        notes = {**self._notes(), product: dict(made_from)}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self._file, json.dumps(notes, indent=1, sort_keys=True))

    def refuse_others(self, product: str, made_from: Mapping[str, Any], path: Path) -> None:
        """Refuse to replace a file that comes from other settings, and say which.

        Raises
        ------
        OutputExistsError
            It does, and ``overwrite`` is not set.
        """
        if self.overwrite or not path.exists():
            return
        known = self._notes().get(product)
        plain = json.loads(json.dumps(dict(made_from)))
        differing = (
            ["a file of which nothing is known"] if known is None else differences(known, plain)
        )
        raise OutputExistsError(
            explain(
                str(path),
                expected="nothing, or what this configuration makes",
                got="; ".join(differing),
                remedy="Choose another output folder, undo the change, or replace it with "
                "--overwrite.",
            )
        )

    def _notes(self) -> dict[str, Any]:
        try:
            notes = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Write nested settings with dotted keys; what is not set is left out.

    Examples
    --------
    >>> flat({"seed": 0, "fit": {"max_steps": 9}, "coarsen": None})
    {'seed': 0, 'fit.max_steps': 9}
    """
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = value
    return found


def digest(value: object) -> str:
    """Return a short hash of JSON types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(ds: xr.Dataset, spec: DataSpec) -> str:
    """Describe samples so that a change of the data shows: how many, and a hash.

    Values count where they are in memory; of what is streamed, labels, names and units do.
    """
    total = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode())
    total.update("\n".join(labels_of(ds, spec.sample)).encode())
    for name in sorted(map(str, ds.data_vars)):
        if ds[name].chunks is None:
            total.update(np.ascontiguousarray(ds[name].values).tobytes())
    return f"{ds.sizes[spec.sample]} samples, {total.hexdigest()[:16]}"
