"""What components there are and what they take, without importing what they need.

A built-in is named by an import string, and importing its module could load torch. So its
parameters are read from the source instead: the annotated fields of a dataclass are there.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from xcvae.registry.components import Kind
from xcvae.registry.entries import Entry
from xcvae.registry.registry import registry

__all__ = ["Row", "listing"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One component, as a person wants to read about it.

    Parameters
    ----------
    kind, name
        What it is and how it is called.
    package, version
        Whose it is; the version is None for a local plugin.
    parameters
        Default by parameter, as source text; None where a value must be given.
    summary
        First line of its docstring.
    """

    kind: Kind
    name: str
    package: str
    version: str | None
    parameters: dict[str, str | None]
    summary: str


def listing() -> list[Row]:
    """Describe all components by kind and name; nothing is imported for it.

    Returns
    -------
    list of Row

    Examples
    --------
    >>> next(row.parameters for row in listing() if row.name == "laplace")
    {'scale': '0.06', 'weight': '1.0'}
    """
    return [_row(entry) for entry in registry().entries()]


def _row(entry: Entry) -> Row:
    if isinstance(entry.target, str):
        parameters, text = _from_source(*entry.target.split(":"))
    else:
        parameters, text = _from_class(entry.target)
    summary = text.strip().partition("\n")[0]
    return Row(entry.kind, entry.name, entry.package, entry.version, parameters, summary)


def _from_class(cls: type) -> tuple[dict[str, str | None], str]:
    parameters: dict[str, str | None] = {}
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.default_factory is not dataclasses.MISSING:
            parameters[field.name] = repr(field.default_factory())
        elif field.default is not dataclasses.MISSING:
            parameters[field.name] = repr(field.default)
        else:
            parameters[field.name] = None
    return parameters, cls.__doc__ or ""


def _from_source(module: str, name: str) -> tuple[dict[str, str | None], str]:
    """Read the fields and the docstring of a class, the fields of its bases first."""
    found = _classes(module).get(name)
    if found is None:
        return {}, f"({module} has no class {name})"
    parameters: dict[str, str | None] = {}
    for base in found.bases:
        if isinstance(base, ast.Name):
            parameters |= _from_source(_imports(module).get(base.id, module), base.id)[0]
    parameters |= dict(_fields(found))
    return parameters, ast.get_docstring(found) or ""


def _fields(cls: ast.ClassDef) -> Iterator[tuple[str, str | None]]:
    for node in (one for one in cls.body if isinstance(one, ast.AnnAssign)):
        if isinstance(node.target, ast.Name) and "ClassVar" not in ast.unparse(node.annotation):
            yield node.target.id, None if node.value is None else ast.unparse(node.value)


def _classes(module: str) -> dict[str, ast.ClassDef]:
    """Return the classes of a module by name."""
    return {node.name: node for node in _tree(module).body if isinstance(node, ast.ClassDef)}


def _imports(module: str) -> dict[str, str]:
    """Return where the names come from that a module imports from others."""
    return {
        alias.asname or alias.name: node.module
        for node in _tree(module).body
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    }


@lru_cache(maxsize=64)
def _tree(module: str) -> ast.Module:
    """Return the source of a module, parsed; empty if it is not to be had."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return ast.Module(body=[], type_ignores=[])
    return ast.parse(Path(found.origin).read_text(encoding="utf-8"))
