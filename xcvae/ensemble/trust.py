"""Refusal of catalog entries that would run code: a catalog is data, from wherever it comes.

Intake imports whatever class an entry names, and evaluates templates in its arguments. These checks
look at the text of a catalog before intake builds anything of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from xcvae.errors import CatalogError

_CLASSES = "intake.readers."
#: Readers of arrays, the one that `append` writes first, and the reader of linked catalogs.
READERS = frozenset(
    f"{_CLASSES}readers:{name}"
    for name in ("XArrayDatasetReader", "XArrayPatternReader", "DaskZarr", "NumpyZarr")
)
#: Chain of a reader and of methods of its Dataset; only methods that compute are accepted.
PIPELINE, _METHOD = f"{_CLASSES}convert:Pipeline", f"{{func({_CLASSES}transform:Method)}}"
METHODS = frozenset({"astype", "drop_vars", "isel", "rename"})
CATALOG_READER = f"{_CLASSES}readers:YAMLCatalogReader"
DATATYPES = frozenset(
    f"{_CLASSES}datatypes:{name}"
    for name in ("Zarr", "HDF5", "NetCDF3", "GRIB2", "OpenDAP", "YAMLFile")
)
# Parameters and descriptions that intake builds as soon as it reads a catalog.
_PARAMETERS = re.compile(rf"{re.escape(_CLASSES)}user_parameters:\w*UserParameter")
_DESCRIPTIONS = re.compile(rf"{re.escape(_CLASSES)}entry:(Data|Reader)Description")
_TEMPLATE = re.compile(r"\b(func|import|pickle64)\s*\(")
_REFERENCE = re.compile(r"data[(]([^)]+)[)]")
# Kerchunk references may contain templates that fsspec renders with Jinja.
_RENDERED = re.compile(r"\breference:|^kerchunk$")


def check_classes(content: object, catalog: str) -> None:
    """Refuse a catalog with classes that intake would import to read it.

    Parameters
    ----------
    content
        The catalog as YAML reads it; anything but a mapping is left to intake to refuse.
    catalog
        Its name in messages.

    Raises
    ------
    CatalogError
        A parameter or a description names a class that is not one of intake's own.
    """
    sections = content if isinstance(content, Mapping) else {}
    for section in ("entries", "data", "user_parameters"):
        for name, described in _items(sections.get(section)):
            accepted = _PARAMETERS if section == "user_parameters" else _DESCRIPTIONS
            _check_class(described, accepted, f"'{name}' of {catalog}")
            if isinstance(described, Mapping):
                for key, parameter in _items(described.get("user_parameters")):
                    _check_class(parameter, _PARAMETERS, f"'{name}.{key}' of {catalog}")


def check_entry(content: Mapping[str, Any], name: str, catalog: str) -> None:
    """Refuse an entry that does more than read arrays or another catalog.

    Parameters
    ----------
    content
        The whole catalog as a mapping: an entry refers to its data, and to other entries.
    name
        Alias or token of the entry.
    catalog
        Name of the catalog in messages.

    Raises
    ------
    CatalogError
        The entry, or what it refers to, has a reader or a type of data that is not accepted, or
        an argument that intake would evaluate.
    """
    subject = f"entry '{name}' of {catalog}"
    _check_arguments({"user_parameters": content["user_parameters"]}, subject)
    left, seen = [name], set[str]()
    while left:
        token = left.pop()
        token = content["aliases"].get(token, token)
        if token in seen:
            continue
        seen.add(token)
        for section, key, accepted in (
            ("entries", "reader", READERS | {PIPELINE, CATALOG_READER}),
            ("data", "datatype", DATATYPES),
        ):
            if token in content[section]:
                described = content[section][token]
                if described[key] not in accepted:
                    raise _refusal(subject, str(described[key]))
                _check_arguments(described, subject)
                left += [found for text in _texts(described) for found in _REFERENCE.findall(text)]


def _check_class(described: object, accepted: re.Pattern[str], subject: str) -> None:
    cls = described.get("cls") if isinstance(described, Mapping) else None
    if cls is not None and not accepted.fullmatch(str(cls)):
        raise _refusal(subject, str(cls))


def _check_arguments(described: Mapping[str, Any], subject: str) -> None:
    parameters = [
        {key: value for key, value in parameter.items() if key != "description"}
        if isinstance(parameter, Mapping)
        else parameter
        for _, parameter in _items(described.get("user_parameters"))
    ]
    for text in _texts([described.get("kwargs"), parameters]):
        if text != _METHOD and (_TEMPLATE.search(text) or _RENDERED.search(text)):
            raise _refusal(subject, text)
    for method in _methods(described.get("kwargs")):
        if method not in METHODS:
            raise _refusal(subject, f"a call of the method {method!r}")


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in nested mappings and lists, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _texts(inner)


def _methods(value: object) -> Iterator[object]:
    """Yield the names of the methods that a pipeline calls."""
    if isinstance(value, Mapping):
        if "method_name" in value:
            yield value["method_name"]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _methods(inner)


def _items(section: object) -> Iterator[tuple[str, object]]:
    if isinstance(section, Mapping):
        yield from ((str(name), value) for name, value in section.items())


def _refusal(subject: str, got: str) -> CatalogError:
    return CatalogError.of(
        subject,
        expected="a reader of arrays, such as XArrayDatasetReader of Zarr, without code",
        got=got if len(got) < 200 else f"{got[:200]}...",
        remedy="This may run code on your computer. If you know who wrote the catalog and want "
        "that, set trust=True (`trust: true` in a configuration).",
    )
