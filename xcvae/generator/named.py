"""Models by name: those of the package, and those in the folders that XCVAE_MODELS lists."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from xcvae.errors import ConfigError, ModelFileError, nearest
from xcvae.files import expanded, input_path
from xcvae.notebook import Overview

#: Environment variable with folders of further models, separated as in PATH.
FOLDERS = "XCVAE_MODELS"
#: Ends of the names of a model's file and of its card.
MODEL, CARD = ".xcvae", ".yaml"


@dataclass(frozen=True)
class Card:
    """Description of a model that has a name.

    Attributes
    ----------
    name, path, size
        Name, file, and size of the file in bytes.
    title
        One line.
    purpose
        Data that it was trained for, and uses.
    data, licence, attribution
        Training data, terms of use, and the credit that they require.
    scores
        Measured scores by name.
    limits
        Known limits.
    bundled
        True for a model of the package.
    """

    name: str
    path: Path
    size: int
    title: str = ""
    purpose: str = ""
    data: str = ""
    licence: str = ""
    attribution: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)
    limits: str = ""
    bundled: bool = False

    def __str__(self) -> str:
        title = f"{self.name}: {self.title}" if self.title else self.name
        return "\n".join([title, *(f"  {key}: {text}" for key, text in self._rows.items() if text)])

    def _repr_html_(self) -> str:
        title = f"{self.name}: {self.title}" if self.title else self.name
        return Overview(title, self._rows, [f'model = xcvae.models.open("{self.name}")']).html()

    @property
    def _rows(self) -> dict[str, str]:
        scores = "; ".join(f"{name}: {value}" for name, value in self.scores.items())
        return {
            "trained for": self.purpose,
            "data": self.data,
            "licence": self.licence,
            "attribution": self.attribution,
            "scores": scores,
            "limits": self.limits,
            "file": f"{self.path}, {self.size / 1e6:.1f} MB",
        }


#: Keys of the YAML file of a card.
KEYS = ("title", "purpose", "data", "licence", "attribution", "scores", "limits")


def names() -> list[str]:
    """List the models that have a name.

    Returns
    -------
    list of str
        Their names, sorted: those of the package, and the files ``NAME.xcvae`` in the folders that
        the environment variable ``XCVAE_MODELS`` lists.

    Raises
    ------
    ConfigError
        Two files have the same name.
    """
    return sorted(_files())


def card(name: str) -> Card:
    """Read the card of a model, the file ``NAME.yaml`` next to it.

    Parameters
    ----------
    name
        One of `names`. A model without a card has one with its file only.

    Raises
    ------
    ModelFileError
        No model has that name.
    ConfigError
        The card has unknown keys, or is not YAML.
    """
    path = _files().get(name)
    if path is None:
        raise _unknown(name)
    return Card(
        name,
        path,
        path.stat().st_size,
        bundled=path.parent == _package(),
        **_content(path.with_suffix(CARD)),
    )


def path_of(model: str | os.PathLike[str]) -> Path:
    """Return the file of a model that is given by its name or path.

    Parameters
    ----------
    model
        A name, or a path. A text without a separator and without the ending ``.xcvae`` is a path
        only where no model has that name.

    Raises
    ------
    ModelFileError
        The text is neither the name of a model nor the path of a file.
    ConfigError
        The argument is neither text nor a path.
    """
    if isinstance(model, str) and not _written_as_path(model):
        path = _files().get(model)
        if path is not None:
            return path
        if not Path(model).exists():
            raise _unknown(model)
    return expanded(input_path("model", model)).absolute()


def relative_to(folder: Path, model: str) -> str | Path:
    """Return a model that a file in ``folder`` names: the name, or the path relative to it."""
    path = folder / expanded(model)
    is_path = _written_as_path(model) or (model not in _files() and path.exists())
    return path if is_path else model


def name_of(path: Path | None) -> str:
    """Return the name of a model's file: that of a known model, else of the file."""
    if path is None:
        return "model without a file"
    return path.stem if path in _files().values() else path.name


def has_name(path: Path | None) -> bool:
    """Tell if a file is a model that has a name."""
    return path is not None and path in _files().values()


def _written_as_path(text: str) -> bool:
    return text.endswith(MODEL) or any(mark in text for mark in ("/", "\\", os.sep, "~"))


def _unknown(name: str) -> ModelFileError:
    return ModelFileError.of(
        "model",
        expected="the name of a model or the path of a model file",
        got=f"{name!r}, and nothing at {Path(name).absolute()}",
        remedy=f"{nearest(name, _files())} Or train a model with xcvae.train(..., path=...).",
    )


def _package() -> Path:
    return Path(str(files("xcvae") / "models"))


def _files() -> dict[str, Path]:
    """Return the files of models by name."""
    listed = os.environ.get(FOLDERS, "").split(os.pathsep)
    folders = [_package(), *(Path(folder).expanduser().absolute() for folder in listed if folder)]
    found: dict[str, Path] = {}
    for folder in dict.fromkeys(folders):
        for path in sorted(folder.glob(f"*{MODEL}")):
            if path.stem in found:
                raise ConfigError.of(
                    f"model '{path.stem}'",
                    expected="one file of that name",
                    got=f"{found[path.stem]} and {path}",
                    remedy=f"Rename one of them, or change {FOLDERS}.",
                )
            found[path.stem] = path
    return found


def _content(file: Path) -> dict[str, Any]:
    """Return the content of a card, empty without one."""
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"card '{file}' is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"card '{file}': expected keys and values, got {content!r}.")
    for key in content:
        if key not in KEYS:
            raise ConfigError(f"card '{file}': unknown key '{key}'. {nearest(str(key), KEYS)}")
    return content
