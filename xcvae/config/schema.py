"""Schema of a configuration; its keys are the names of the Python API.

Every section is a dataclass. The reader checks keys and types against its fields; ranges are
checked by the part of xcvae that a section configures, so that they are defined once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xcvae.ensemble.request import SampleOptions
from xcvae.errors import ConfigError, whole_number
from xcvae.files import expanded, is_url, local_path
from xcvae.generator.named import relative_to
from xcvae.generator.training.settings import Fit

Part = Literal["train", "validation", "test"]

ENTRY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""Names that entries of a catalog can have; its module is not loaded for this check."""

Selection = dict[str, Any]
"""Coordinate name to a value, a list of values, [start, stop] or {start, stop, step}."""


@dataclass(frozen=True)
class IntakeEntry:
    """An entry of an intake catalog.

    Parameters
    ----------
    catalog, name
        Path of the YAML file, and the entry in it.
    trust
        Open the entry with whatever reader it names, also one that runs code.
    """

    catalog: str
    name: str
    trust: bool = False


@dataclass(frozen=True)
class HeavySection:
    """Keep only samples with heavy rain over a large area, see `xcvae.heavy`.

    Parameters
    ----------
    extent
        Share of pixels at or above the threshold.
    quantile
        Threshold as a quantile of the wet pixels; 0.95 without it and ``threshold``.
    threshold
        Threshold as "10 mm h-1" or a number in the target's units; instead of ``quantile``.
    parts
        Selections that it applies to.
    """

    extent: float = 0.02
    quantile: float | None = None
    threshold: str | float | None = None
    parts: list[Part] = field(default_factory=lambda: ["test"])


@dataclass(frozen=True)
class SourceSection:
    """Files of some of the variables, such as the target or a condition.

    Parameters
    ----------
    path
        A file, a Zarr store, an address such as ``s3://bucket/rain.zarr``, or a pattern such as
        ``data/*.nc``; or a list of them. ``~`` and environment variables are replaced.
    rename
        New names of variables, dims and coordinates, by old name.
    engine, group, storage_options, backend_kwargs
        As of `xarray.open_dataset`; the engine ``kerchunk`` reads references to chunks of files.
        ``backend_kwargs`` are options of the engine, such as ``filter_by_keys`` of cfgrib.
    """

    path: str | list[str]
    rename: dict[str, str] = field(default_factory=dict)
    engine: str | None = None
    group: str | None = None
    storage_options: dict[str, Any] | None = None
    backend_kwargs: dict[str, Any] | None = None


@dataclass(frozen=True)
class DataSection:
    """Source of the data, and the samples for training, validation and test.

    Parameters
    ----------
    tutorial, path, intake, sources
        One of the four: name of a bundled Dataset; a file, a Zarr store, an address or a pattern
        such as ``data/*.nc``; an entry of an intake catalog; several sources, whose variables are
        merged for the samples that all have. Paths are relative to the configuration.
    engine, group, storage_options, backend_kwargs
        How ``path`` is opened, see `SourceSection`.
    rename
        New names of variables, dims and coordinates, by old name.
    train, validation, test
        Samples for training, for its validation, and for ensembles and scores.
    heavy
        Restrict to samples with heavy rain over a large area.
    """

    tutorial: str | None = None
    path: str | list[str] | None = None
    intake: IntakeEntry | None = None
    sources: list[SourceSection] | None = None
    engine: str | None = None
    group: str | None = None
    storage_options: dict[str, Any] | None = None
    backend_kwargs: dict[str, Any] | None = None
    rename: dict[str, str] = field(default_factory=dict)
    train: Selection = field(default_factory=dict)
    validation: Selection | None = None
    test: Selection | None = None
    heavy: HeavySection | None = None

    def __post_init__(self) -> None:
        kinds = ("tutorial", "path", "intake", "sources")
        given = [k for k in kinds if getattr(self, k) is not None]
        if len(given) != 1:
            raise ConfigError.of(
                "source of the data",
                expected="one of tutorial, path, intake and sources",
                got=" and ".join(given) or "none",
                remedy="For example `path: rain.nc` or `tutorial: radklim`.",
            )
        keys = ("engine", "group", "storage_options", "backend_kwargs")
        options = [k for k in keys if getattr(self, k)]
        if options and self.path is None:
            raise ConfigError.of(
                options[0],
                expected=f"no such key next to {given[0]}",
                got=repr(getattr(self, options[0])),
                remedy="It belongs to `path`, or to an entry of `sources`.",
            )
        if self.sources == []:
            raise ConfigError("sources: expected one source at least, got none. Add `- path: ...`.")


@dataclass(frozen=True)
class TrainSection:
    """Arguments of `xcvae.train`, by the same names; ``start`` is relative to the configuration."""

    target: str | None = None
    conditions: list[str] | None = None
    statics: list[str] | None = None
    coarsen: int | dict[str, list[float]] | None = None
    spatial_dims: list[str] | None = None
    missing: str | None = None
    validation: float | None = None
    generator: dict[str, Any] | None = None
    losses: list[Any] | None = None
    fit: dict[str, Any] | None = None
    seed: int = 0
    device: str = "auto"
    start: str | None = None

    def __post_init__(self) -> None:
        Fit.of(self.fit)
        _check_seed(self.seed)
        if self.validation is not None and not 0 <= self.validation < 1:
            raise ConfigError.of(
                "validation",
                expected="a share from 0 to below 1",
                got=self.validation,
                remedy="0.15 holds back 15 % of the training samples.",
            )

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `xcvae.train`, ``validation`` left out."""
        given = {**vars(self)}
        del given["validation"]
        return given


@dataclass(frozen=True, kw_only=True)
class SampleSection(SampleOptions):
    """One ensemble: its name, and arguments of `xcvae.sample` by the same names.

    Attributes
    ----------
    name
        Name of the store and of the catalog entry.
    part
        The samples it is drawn for.
    model
        Model that draws it, by name or path, instead of the one that the section ``train`` makes.
    samples
        Samples of its own, selected from all data, in place of a part.
    postprocess, storms, tile, timescales
        As in `xcvae.sample`, in the types that YAML has.
    """

    name: str
    part: Part = "test"
    samples: Selection | None = None
    model: str | None = None
    postprocess: list[Any] | dict[str, Any] | str | None = None
    storms: list[Any] | dict[str, Any] | str | None = None
    tile: Any = None
    timescales: list[Any] | None = None

    def __post_init__(self) -> None:
        """Check the options, and refuse a name that is a path."""
        super().__post_init__()
        if not ENTRY.fullmatch(self.name):
            raise ConfigError.of(
                "name",
                expected="letters, digits, '_', '-' or '.'",
                got=repr(self.name),
                remedy="It names a store in the output folder and an entry of the catalog.",
            )

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `xcvae.sample`."""
        given = {**vars(self)}
        del given["model"], given["part"], given["samples"]
        return given


@dataclass(frozen=True)
class EvaluateSection:
    """Arguments of `xcvae.evaluate`, by the same names."""

    metrics: list[Any] | None = None
    baselines: list[Any] | None = None
    groupby: str | list[str] | None = None


@dataclass(frozen=True)
class DiagnoseSection:
    """Arguments of `xcvae.diagnose`, by the same names."""

    members: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        remedy = "Diversity is measured between members: use 8 or more."
        whole_number("members", self.members, least=2, remedy=remedy)
        _check_seed(self.seed)


def _check_seed(seed: int) -> None:
    """Refuse what a later step will, after the hours of the earlier ones."""
    whole_number("seed", seed, least=0, remedy="Leave it out for seed 0.")


@dataclass(frozen=True)
class Config:
    """A whole run.

    Parameters
    ----------
    data
        Source of the data.
    output
        Output folder, relative to the configuration.
    train, sample, evaluate, diagnose
        Arguments of the verbs; one section per ensemble.
    criteria
        By ensemble: limits by metric, see `xcvae.verify.criteria`.
    plugins
        Modules with components, registered before anything is read.
    figures
        Formats of the report's figures next to PNG: pdf, svg.
    copy_data
        Copy the real samples to the output folder and list them in the catalog; null does so for
        data below 1 GB.
    folder
        Folder of the configuration; not a key of the file.
    """

    data: DataSection
    output: str
    train: TrainSection = field(default_factory=TrainSection)
    sample: list[SampleSection] = field(default_factory=lambda: [SampleSection(name="prior")])
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    diagnose: DiagnoseSection | None = field(default_factory=DiagnoseSection)
    criteria: dict[str, Any] | None = None
    plugins: list[str] = field(default_factory=list)
    figures: list[Literal["png", "pdf", "svg"]] = field(default_factory=list)
    copy_data: bool | None = None
    folder: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        if self.data.validation is not None and self.train.validation is not None:
            raise ConfigError.of(
                "validation",
                expected="either samples (data.validation) or a share (train.validation)",
                got="both",
                remedy="Remove one of them.",
            )
        if is_url(self.output):
            local_path("output", self.output)  # refuses addresses
        names = [one.name for one in self.sample]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError.of(
                "sample",
                expected="a different name for every ensemble",
                got=f"{', '.join(twice)} more than once",
                remedy="The name is also that of the store: rename one ensemble.",
            )

    @property
    def draws_only(self) -> bool:
        """True if all ensembles have models of their own: the data may be coarse rain alone."""
        return all(section.model is not None for section in self.sample)

    @property
    def start(self) -> str | Path | None:
        """Model to start from: a name, or a path relative to the working directory."""
        given = self.train.start
        return None if given is None else relative_to(self.folder, given)

    @property
    def output_folder(self) -> Path:
        """Output folder, relative to the working directory."""
        return self.folder / expanded(self.output)
