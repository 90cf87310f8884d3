"""List components with their parameters, without importing the modules that they need.

A built-in is named by an import string, and importing its module could load torch. So its
parameters are read from the source instead: from the annotated fields of its dataclass.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.machinery
import importlib.util
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from xcvae.registry.components import Entry, Kind, Range, ranges_of
from xcvae.registry.registry import registry


@dataclasses.dataclass(frozen=True)
class Row:
    """One component in the listing.

    Attributes
    ----------
    kind, name, package, version
        As in `Entry`.
    parameters
        Default by parameter, as source text; None where a value must be given.
    summary
        First line of its docstring.
    ranges
        Allowed values by parameter, such as ">= 1"; only of parameters that have a range.
    """

    kind: Kind
    name: str
    package: str
    version: str | None
    parameters: dict[str, str | None]
    summary: str
    ranges: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Signature:
    """Default and range by parameter, and the docstring of a class."""

    parameters: dict[str, str | None]
    ranges: dict[str, str]
    doc: str


def listing() -> list[Row]:
    """Describe all components by kind and name, without importing them.

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
    try:
        if isinstance(entry.target, str):
            module, _, name = entry.target.partition(":")
            found = _from_source(module, name)
        else:
            found = _from_class(entry.target)
    except Exception as error:  # noqa: BLE001 - third-party code; the other rows must go on
        found = _Signature({}, {}, f"(cannot be read: {type(error).__name__}: {error})")
    summary = found.doc.strip().partition("\n")[0]
    return Row(
        entry.kind,
        entry.name,
        entry.package,
        entry.version,
        found.parameters,
        summary,
        found.ranges,
    )


def _from_class(cls: type) -> _Signature:
    parameters: dict[str, str | None] = {}
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if not field.init:
            continue
        if field.default_factory is not dataclasses.MISSING:
            parameters[field.name] = repr(field.default_factory())
        elif field.default is not dataclasses.MISSING:
            parameters[field.name] = repr(field.default)
        else:
            parameters[field.name] = None
    ranges = {name: str(one) for name, one in ranges_of(cls).items()} if parameters else {}
    return _Signature(parameters, ranges, doc_of(cls))


def doc_of(cls: type) -> str:
    """Return the docstring written for a class itself, "" without one."""
    text = str(vars(cls).get("__doc__") or "").strip()
    # A dataclass without a docstring gets its signature for one, on one line.
    return "" if re.fullmatch(rf"{cls.__name__}\(.*\)", text) else text


def _from_source(
    module: str, name: str, below: frozenset[tuple[str, str]] = frozenset()
) -> _Signature:
    """Read the fields and the docstring of a class, the fields of its bases first.

    ``below`` are the classes that are read already and derive from this one: a class can have its
    own name for its base, as `class CRPS(CRPS)` has after an import.
    """
    home, found = _find(module, name)
    if found is None:
        missing = _file(module) is None
        text = f"({module} cannot be found)" if missing else f"({module} has no class {name})"
        return _Signature({}, {}, text)
    if (home, found.name) in below:
        return _Signature({}, {}, "")
    below |= {(home, found.name)}
    parameters: dict[str, str | None] = {}
    ranges: dict[str, str] = {}
    for base in found.bases:
        if isinstance(base, ast.Name):
            place = (home, base.id)
            if place in below:
                place = _imports(home).get(base.id, place)
            above = _from_source(*place, below)
            parameters, ranges = parameters | above.parameters, ranges | above.ranges
    for field, default, allowed in _fields(found):
        parameters[field] = default
        ranges.pop(field, None)
        if allowed is not None:
            ranges[field] = allowed
    return _Signature(parameters, ranges, ast.get_docstring(found) or "")


def _find(module: str, name: str) -> tuple[str, ast.ClassDef | None]:
    """Find the module that defines a class, following imports from module to module."""
    seen: set[tuple[str, str]] = set()
    while (module, name) not in seen:
        seen.add((module, name))
        found = _classes(module).get(name)
        if found is not None:
            return module, found
        module, name = _imports(module).get(name, (module, name))
    return module, None


def _fields(cls: ast.ClassDef) -> Iterator[tuple[str, str | None, str | None]]:
    """Find the fields of a class: name, default and range as text."""
    for node in (one for one in cls.body if isinstance(one, ast.AnnAssign)):
        kind = ast.unparse(node.annotation)
        default = None if node.value is None else ast.unparse(node.value)
        hidden = "ClassVar" in kind or "KW_ONLY" in kind or "init=False" in (default or "")
        if isinstance(node.target, ast.Name) and not hidden:
            yield node.target.id, default, _range(node.annotation)


def _range(annotation: ast.expr) -> str | None:
    """Return the range in an annotation as text, None without one."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == Range.__name__:
            try:
                low_high = [ast.literal_eval(one) for one in node.args]
                named = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
            except ValueError:  # a bound that has a name
                return ast.unparse(node)
            return str(Range(*low_high, **named))
    return None


def _classes(module: str) -> dict[str, ast.ClassDef]:
    """Return the classes of a module by name."""
    return {node.name: node for node in _tree(module).body if isinstance(node, ast.ClassDef)}


def _imports(module: str) -> dict[str, tuple[str, str]]:
    """Return the names that a module imports from others, with the module and name there."""
    found: dict[str, tuple[str, str]] = {}
    for node in _nodes(_tree(module).body):
        origin = _absolute(node, module)
        found |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
    return found


def _nodes(body: list[ast.stmt]) -> Iterator[ast.ImportFrom]:
    for node in body:
        if isinstance(node, ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If):  # names that are imported lazily stand under TYPE_CHECKING
            yield from _nodes(node.body)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    inside = module.split(".")
    if not (_file(module) or "").endswith("__init__.py"):
        inside.pop()
    return ".".join([*inside[: len(inside) + 1 - node.level], *filter(None, [node.module])])


def _file(module: str) -> str | None:
    """Return the source file of a module, None without one."""
    top, *inside = module.split(".")
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    # The usual way to find a submodule imports its package, and with it perhaps torch.
    for i, _ in enumerate(inside, start=2):
        path = None if found is None else found.submodule_search_locations
        if path is None:
            return None
        found = importlib.machinery.PathFinder.find_spec(".".join(module.split(".")[:i]), path)
    origin = None if found is None else found.origin
    return origin if origin is not None and origin.endswith(".py") else None


@lru_cache(maxsize=64)
def _tree(module: str) -> ast.Module:
    """Return the parsed source of a module; empty if it has no source file."""
    file = _file(module)
    if file is None:
        return ast.Module(body=[], type_ignores=[])
    # As bytes, so that a declared encoding counts.
    return ast.parse(Path(file).read_bytes())
