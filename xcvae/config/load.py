"""Reader of YAML configurations into the sections of `xcvae.config.schema`."""

from __future__ import annotations

import dataclasses
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml

from xcvae.config.schema import Config
from xcvae.errors import ConfigError, nearest
from xcvae.registry.components import SEE_PLUGINS, checked

T = TypeVar("T")


def load(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Config:
    """Read the configuration of a run.

    Parameters
    ----------
    path
        A YAML file.
    overrides
        Values by dotted key, such as ``{"train.fit.max_minutes": 1.0}``; they take precedence
        over those of the file.

    Raises
    ------
    ConfigError
        The file cannot be read or is not valid YAML, or a key is unknown, has the wrong type or is
        out of range. The message names the key.
    """
    file = Path(path)
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError.of(
            f"configuration '{file}'",
            expected="a YAML file",
            got=error.strerror or type(error).__name__,
            remedy="Check the path; docs/config.yaml is an example.",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration '{file}' is not valid YAML: {error}") from error
    for key, value in (overrides or {}).items():
        content = _replaced(content, key.split("."), value)
    try:
        return parse(content, folder=file.parent)
    except ConfigError as error:
        raise type(error)(f"{file}: {error}") from error


def parse(content: object, *, folder: str | os.PathLike[str] = ".") -> Config:
    """Check the content of a configuration.

    Parameters
    ----------
    content
        Sections by name, as YAML reads them.
    folder
        Folder that relative paths refer to.

    Raises
    ------
    ConfigError
        As for :func:`load`.
    """
    if isinstance(content, Mapping) and "folder" in content:
        raise ConfigError(f"unknown key 'folder'. {nearest('folder', _keys(Config))}")
    config = _section(Config, content, "")
    return dataclasses.replace(config, folder=Path(folder))


def _section(cls: type[T], content: object, path: str) -> T:
    """Build a section from a mapping, nested sections first."""
    where = path or "configuration"
    if not isinstance(content, Mapping):
        raise ConfigError.of(
            where,
            expected=f"keys and values; keys: {', '.join(_keys(cls))}",
            got=repr(content),
            remedy="Write `key: value` lines, indented alike.",
        )
    valid = _keys(cls)
    for key in content:
        if key not in valid:
            raise ConfigError(f"{_at(path)}unknown key '{key}'. {nearest(str(key), valid)}")
    hints = typing.get_type_hints(cls)
    values = {
        key: _nested(hints[key], value, f"{path}.{key}" if path else str(key))
        for key, value in content.items()
    }
    _complete(cls, values, where)
    try:
        return cls(**checked(where, cls, values))
    except ConfigError as error:
        # Not the subclass for components: it is the configuration that is wrong.
        text = str(error).replace(SEE_PLUGINS, "Compare it with docs/config.yaml.")
        raise ConfigError(_located(text, path, where, valid)) from error


def _located(text: str, path: str, where: str, keys: list[str]) -> str:
    """Return a message with its place in the file: ``fit: ...`` in train is ``train.fit: ...``."""
    if text.startswith(where):
        return text
    if re.split(r"\W", text, maxsplit=1)[0] in keys:
        return f"{path}.{text}" if path else text
    return f"{where}: {text}"


def _nested(hint: Any, value: object, path: str) -> object:
    """Turn mappings into sections if the annotation is one."""
    if value is None and type(None) in _options(hint):
        return None
    for option in _options(hint):
        if dataclasses.is_dataclass(option) and isinstance(option, type):
            # YAML reads a section with comments only as null.
            return _section(option, {} if value is None else value, path)
        item = get_args(option)[0] if get_origin(option) is list else None
        if dataclasses.is_dataclass(item) and isinstance(item, type):
            if not isinstance(value, list):
                raise ConfigError.of(
                    path,
                    expected="a list",
                    got=repr(value),
                    remedy=f"Start each entry with `- `; keys: {', '.join(_keys(item))}.",
                )
            return [_section(item, one, f"{path}[{i}]") for i, one in enumerate(value)]
    return value


def _options(hint: Any) -> tuple[Any, ...]:
    union = get_origin(hint) in (Union, types.UnionType)
    return get_args(hint) if union else (hint,)


def _keys(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(typing.cast("Any", cls)) if f.name != "folder"]


def _complete(cls: type, values: Mapping[str, object], where: str) -> None:
    for field in dataclasses.fields(typing.cast("Any", cls)):
        optional = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if not optional and field.name not in values:
            raise ConfigError(f"{where}: the key '{field.name}' is required and missing.")


def _at(path: str) -> str:
    return f"{path}: " if path else ""


def _replaced(content: object, keys: list[str], value: object) -> dict[str, Any]:
    """Return a copy of nested mappings with one value replaced."""
    copy = dict(content) if isinstance(content, Mapping) else {}
    if len(keys) > 1:
        copy[keys[0]] = _replaced(copy.get(keys[0]), keys[1:], value)
    else:
        copy[keys[0]] = value
    return copy


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, dates, 12:30 and 007 are text, and duplicate keys errors."""


_INTEGER = re.compile(r"[-+]?(0|[1-9][\d_]*|0b[01_]+|0o[0-7_]+|0x[\da-fA-F_]+)$")
_REAL = re.compile(
    r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$|[-+]?\d+[eE][-+]?\d+$|"
    r"[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
# In YAML 1.1, which PyYAML reads, 12:30 is 750 and 010 is 8.
_OWN = {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "int", "float")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in _OWN]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _REAL, list("-+.0123456789"))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if isinstance(key, list | dict):
            raise yaml.YAMLError(
                f"line {line}: {key} is no key. Templates, {{{{ DATA }}}}, are not filled in; "
                "paths may have environment variables: $DATA/rain.nc"
            )
        if key in mapping:
            raise yaml.YAMLError(f"line {line}: duplicate key '{key}'")
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
