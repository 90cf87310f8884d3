"""Steps of a run; each is skipped if its product exists and is current."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xcvae.config import Config, Parts, open_parts, open_samples
from xcvae.config.data import IN_MEMORY_BYTES
from xcvae.config.schema import SampleSection
from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.dataset import record_of
from xcvae.ensemble.store import EnsembleStore
from xcvae.ensemble.store.base import lock_folder
from xcvae.ensemble.store.samples import rain_shares, samples_metadata, write_samples
from xcvae.errors import MismatchError, ModelFileError, OutputExistsError, StoreError
from xcvae.fields.dataspec import plain
from xcvae.fields.describe import prepare
from xcvae.files import hidden_sibling, is_taken, remove, write_json, write_text
from xcvae.generator.named import relative_to
from xcvae.pipeline.manifest import (
    Manifest,
    digest,
    fingerprint,
    fingerprint_of_coordinates,
    flat,
    names_below,
    not_recorded,
)
from xcvae.progress import on_terminal
from xcvae.verify.criteria import Criterion, Verdict, criteria_for, judge
from xcvae.verify.score_text import score_table

if TYPE_CHECKING:
    from xcvae.generator.model import Model
    from xcvae.verify.diagnosis import Diagnosis


MADE, COMPLETED, CURRENT = "made", "completed", "unchanged"
EXTENDED = "extended"
PARTS = ("train", "validation", "test")
CATALOG = "catalog.yaml"


@dataclass(frozen=True)
class Scored:
    """A stored ensemble with its scores.

    Attributes
    ----------
    section
        Its section of the configuration.
    ensemble
        Lazy Dataset, reopened from the catalog.
    card
        Its scorecard.
    verdicts
        Its criteria, each passed or failed.
    """

    section: SampleSection
    ensemble: xr.Dataset
    card: xr.Dataset
    verdicts: list[Verdict]


class PipelineState:
    """Data, model and products of one configuration; each step is a method.

    Parameters
    ----------
    config
        The configuration.
    overwrite
        Replace products of another configuration.
    append
        Add new members and samples to finished ensembles.
    progress
        Show progress on a terminal.
    """

    def __init__(
        self, config: Config, *, overwrite: bool, progress: bool, append: bool = False
    ) -> None:
        self.config, self.progress, self.append = config, progress, append
        self._samples: dict[str, xr.Dataset] = {}
        self._scored: dict[str, xr.Dataset] = {}
        self.folder = config.output_folder
        self.manifest = Manifest(self.folder, overwrite=overwrite)
        self.model_file = self.folder / "model.xcvae"
        self.catalog = self.folder / CATALOG
        self.report = self.folder / "report"
        self.outcome: dict[str, str] = {}

    @cached_property
    def parts(self) -> Parts:
        """Selections of the data."""
        return open_parts(self.config)

    def samples_of(self, section: SampleSection) -> xr.Dataset:
        """Return the samples of an ensemble, which are selected and read once."""
        if section.name not in self._samples:
            self._samples[section.name] = self.parts.of(section)
        return self._samples[section.name]

    def scored_of(self, section: SampleSection) -> xr.Dataset:
        """Return the samples of an ensemble with the areas of cells and the groups of scores."""
        if section.name not in self._scored:
            self._scored[section.name] = self.parts.scored(section, self.samples_of(section))
        return self._scored[section.name]

    def store(self, section: SampleSection) -> Path:
        """Return the path of the store of an ensemble."""
        return self.folder / f"{section.name}.zarr"

    def train(self) -> Model:
        """Train the model, continue an interrupted training, or load the finished model.

        Raises
        ------
        OutputExistsError
            A model of other settings or data exists.
        """
        from xcvae.generator.model import load
        from xcvae.generator.training.checkpoint import checkpoint_path
        from xcvae.generator.training.train import train

        inputs = self._inputs_of_model()
        if self.manifest.is_current("model", inputs, self.model_file):
            self.outcome["train"] = CURRENT
            return load(self.model_file)
        checkpoint = checkpoint_path(self.model_file)
        self._make_place(inputs, checkpoint)
        self.outcome["train"] = COMPLETED if checkpoint.exists() else MADE
        # Recorded first: every model file in the folder then has its inputs in the manifest.
        before = self.manifest.inputs_of("model")
        self.manifest.record("model", inputs)
        validation = self.parts.validation
        share = 0.15 if self.config.train.validation is None else self.config.train.validation
        try:
            return train(
                self.parts.train,
                **{**self.config.train.arguments(), "start": self.config.start},
                validation=share if validation is None else validation,
                path=self.model_file,
                # Commands are quiet without a terminal.
                progress=self.progress and on_terminal(),
            )
        except MismatchError:
            # The checkpoint is of other settings: not all of those that differ matter to it.
            if before and checkpoint.exists():
                self.manifest.record("model", before)
                if not self.manifest.is_current("model", inputs):
                    self.manifest.check_replaceable("model", inputs, checkpoint)
            raise

    def _make_place(self, inputs: Mapping[str, Any], checkpoint: Path) -> None:
        """Refuse files of other settings or of others; remove those that `overwrite` replaces."""
        from xcvae.generator.modelfile import format_of
        from xcvae.generator.training.checkpoint import last_weights_path

        current = self.manifest.is_current("model", inputs)
        self.manifest.check_replaceable("model", inputs, self.model_file)
        if not self.manifest.overwrite:
            return
        outdated = [self.model_file, last_weights_path(self.model_file)]
        outdated += [] if current else [checkpoint]
        for path in outdated:
            self.manifest.check_replaceable("model", inputs, path)
            if is_taken(path) and not (format_of(path) or "").startswith("xcvae-"):
                raise not_recorded(path)
        for path in outdated:
            path.unlink(missing_ok=True)

    def _inputs_of_model(self) -> dict[str, Any]:
        """Return the settings and data that determine the model."""
        from xcvae.generator.training.start import Start

        section = asdict(self.config.train)
        del section["device"]
        section["fit"] = {k: v for k, v in (section["fit"] or {}).items() if k != "resume"}
        parts = {
            name: fingerprint(ds, self.parts.spec)
            for name in ("train", "validation")
            if (ds := getattr(self.parts, name)) is not None
        }
        start = Start.of(self.config.start)
        if start is not None:
            # Its content, whatever its name.
            section["start"] = start.identity["sha256"]
        return {**flat(section, "train."), **{f"data.{k}": v for k, v in parts.items()}}

    @cached_property
    def model(self) -> Model:
        """Trained model, for the steps after training.

        Raises
        ------
        ModelFileError
            The file does not exist or is damaged.
        """
        from xcvae.generator.model import load

        if not self.model_file.exists():
            raise ModelFileError.of(
                str(self.model_file),
                expected="a trained model",
                got="none",
                remedy="Run `xcvae train` with this configuration first, or `xcvae run`.",
            )
        return load(self.model_file)

    def model_of(self, section: SampleSection) -> Model:
        """Return the model that draws an ensemble: the one that it names, else the trained one."""
        from xcvae.ensemble.sampler import open_model

        if section.model is None:
            return self.model
        return open_model(relative_to(self.config.folder, section.model), "cpu")

    def data_of(self, section: SampleSection) -> xr.Dataset:
        """Return the data of an ensemble; a model that it names may need other variables."""
        if section.model is None:
            return self.samples_of(section)
        return open_samples(self.config, section)

    def sample(self, section: SampleSection) -> xr.Dataset:
        """Draw an ensemble into its store and list it, or complete an interrupted one."""
        from xcvae.ensemble.sample import sample

        store = self.store(section)
        before = _version(store)
        interrupted = EnsembleStore.of(store).status().partial.exists
        arguments: dict[str, Any] = {
            **section.arguments(),
            "store": store,
            "catalog": self.catalog,
            "progress": self.progress,
            "resume": "append" if self.append else True,
        }
        state = COMPLETED if interrupted else MADE
        if self.append and before is not None:
            state = EXTENDED
        data, model = self.data_of(section), self.model_of(section)
        try:
            # An interrupted replacement by --overwrite is continued too.
            ensemble = sample(data, model, **arguments)
        except OutputExistsError as error:
            if not self.manifest.overwrite:
                more = ", or --append" if 'resume="append"' in str(error) else ""
                raise OutputExistsError(
                    f"{error} On the command line: --overwrite{more}."
                ) from error
            state = MADE
            ensemble = sample(data, model, **{**arguments, "resume": "restart"})
        untouched = before is not None and _version(store) == before
        self.outcome[section.name] = CURRENT if untouched else state
        return ensemble

    def list_data(self) -> None:
        """List the real samples of each part, with their conditions, as copies in the folder.

        Raises
        ------
        OutputExistsError
            A folder of that name has files that no run has recorded.
        """
        for part, ds in self._copied().items():
            self._list_part(part, ds)

    def check_copies(self) -> None:
        """Refuse folders of others in the places of the copies, as `list_data` will."""
        for part in self._copied():
            self.manifest.check_free(f"data {part}", self._copy_of(part))

    def _copy_of(self, part: str) -> Path:
        return self.folder / "data" / f"{part}.zarr"

    def _copied(self) -> dict[str, xr.Dataset]:
        """Return the parts whose samples are copied, with what scores need."""
        if self.config.draws_only:
            return {}  # nothing is trained: these data may be coarse rain alone
        parts = {
            part: ds.assign(self.parts.extras[part].data_vars) if self.parts.extras else ds
            for part in PARTS
            if (ds := getattr(self.parts, part)) is not None
        }
        small = sum(ds.nbytes for ds in parts.values()) <= IN_MEMORY_BYTES
        wanted = self.config.copy_data
        return parts if wanted or (wanted is None and small) else {}

    def _list_part(self, part: str, ds: xr.Dataset) -> None:
        spec, store = self.parts.spec, self._copy_of(part)
        taken = {section.name for section in self.config.sample}
        name = f"data-{part}" if part in taken else part
        product, inputs = f"data {part}", {"data": fingerprint(ds, spec)}
        inputs["coordinates"] = fingerprint_of_coordinates(ds)
        self.manifest.adopt(product, inputs, "coordinates")
        if not self.manifest.is_current(product, inputs, store):
            self.manifest.claim(product, store)
            with lock_folder(store):
                self._copy(product, ds, store)
            self.manifest.record(product, inputs)
        elif self.catalog.exists() and name in catalogs.names(self.catalog):
            return
        opened = xr.open_zarr(store, chunks={})
        extras = self.parts.extras[part].data_vars if self.parts.extras else ()
        fields = opened.drop_vars([name for name in extras if name in opened.data_vars])
        about = samples_metadata(fields, spec.target, spec.sample, split=part)
        about |= rain_shares(opened[spec.target], spec.sample, spec.step)
        catalogs.append(self.catalog, name, store, about)

    def _copy(self, product: str, ds: xr.Dataset, store: Path) -> None:
        """Write a copy of samples in the place of an earlier one, which stays if that fails.

        A killed run can be repeated: what it moved aside is removed under the lock of the store.
        """
        spec, files = self.parts.spec, f"files of {product}"

        def record(new: Path) -> None:
            self.manifest.record(files, {"names": names_below(new)})

        old = hidden_sibling(store, "old") if store.exists() else None
        if old is not None:
            self.manifest.check_unchanged(files, store)
            store.rename(old)
        try:
            if spec.derived is not None:
                prepared = prepare(ds, spec, need_target=True)
                ds = ds.assign({spec.derived: prepared[spec.derived]})
            write_samples(ds, store, spec.sample, when_complete=record)
        except BaseException:
            if old is not None and not store.exists():
                old.rename(store)
                record(store)
            raise
        if old is not None:
            remove(old)

    def reopened(self, section: SampleSection) -> xr.Dataset:
        """Open an ensemble from the catalog, as its users do.

        Raises
        ------
        StoreError
            The ensemble is not in the catalog, or another model drew it.
        """
        got = "none"
        if self.store(section).exists() and self.catalog.exists():
            ensemble = catalogs.open_entry(self.catalog, section.name)
            if record_of(ensemble)["model_sha256"] == self.model_of(section).sha256:
                return ensemble
            got = "an ensemble of another model"
        raise StoreError.of(
            f"ensemble '{section.name}' in {self.catalog}",
            expected="a finished ensemble of this model",
            got=got,
            remedy="Run `xcvae sample` with this configuration first, or `xcvae run`.",
        )

    def changed_storms(self, section: SampleSection) -> list[str]:
        """Return the components that changed the storms of an ensemble: it cannot be scored."""
        from xcvae.verify.pairing import changed_storms

        return changed_storms(record_of(self.reopened(section)))

    def evaluate(self, section: SampleSection) -> Scored:
        """Score an ensemble, add its headline scores to the catalog, and apply its criteria."""
        ensemble = self.reopened(section)
        options = asdict(self.config.evaluate)
        groupby = options.pop("groupby")
        inputs = {
            "ensemble": digest(record_of(ensemble)["identity"]),
            # Prior members do not depend on the observations, their scores do.
            "data": fingerprint(self.scored_of(section), self.parts.spec),
            **flat(options),
        }
        file = self.report / f"{section.name}-scores.json"
        product = f"scores of {section.name}"
        if self.manifest.is_current(product, inputs, file):
            card = _card_from_json(file.read_text(encoding="utf-8"))
        else:
            self.outcome["evaluate"] = MADE
            self.manifest.claim(product, file)
            card = self._scores(section, ensemble, options)
            self.report.mkdir(parents=True, exist_ok=True)
            write_text(file, _card_to_json(card))
            self.manifest.record(product, inputs)
        if groupby:
            self._evaluate_groups(section, ensemble, {**options, "groupby": groupby}, inputs)
        verdicts = judge(card, criteria_of(self.config, section, card))
        catalogs.annotate(self.catalog, section.name, _headline(card, verdicts))
        self.outcome.setdefault("evaluate", CURRENT)
        return Scored(section, ensemble, card, verdicts)

    def _scores(
        self, section: SampleSection, ensemble: xr.Dataset, options: dict[str, Any]
    ) -> xr.Dataset:
        """Score an ensemble; the default baselines know the training samples."""
        from xcvae.verify.pairing import pair_up
        from xcvae.verify.scorecard import default_baselines, evaluate

        observed, baselines = self.scored_of(section), options["baselines"]
        if baselines is None:
            match = pair_up(observed, ensemble)
            baselines = default_baselines(match, match.has_condition, self.parts.train)
        options = {**options, "baselines": baselines, "progress": self.progress}
        return evaluate(observed, ensemble, **options)

    def _evaluate_groups(
        self,
        section: SampleSection,
        ensemble: xr.Dataset,
        options: dict[str, Any],
        inputs: dict[str, Any],
    ) -> None:
        """Score an ensemble by groups, as a table."""
        file = self.report / f"{section.name}-groups.csv"
        product = f"groups of {section.name}"
        wanted = {**inputs, **flat(options)}
        wanted["coordinates"] = fingerprint_of_coordinates(self.scored_of(section))
        self.manifest.adopt(product, wanted, "coordinates")
        if self.manifest.is_current(product, wanted, file):
            return
        self.outcome["evaluate"] = MADE
        self.manifest.claim(product, file)
        card = self._scores(section, ensemble, options)
        self.report.mkdir(parents=True, exist_ok=True)
        write_text(file, score_table(card, style="csv"))
        self.manifest.record(product, wanted)

    def diagnose(self) -> Diagnosis:
        """Diagnose the model on the test samples."""
        from xcvae.verify.diagnosis import diagnose

        text, numbers = self._diagnosis_files()
        self.manifest.claim("diagnosis", text, numbers)
        device = self.model.device.type
        diagnosis = diagnose(
            self.parts["test"], self.model, device=device, **self._diagnose_arguments()
        )
        self.report.mkdir(parents=True, exist_ok=True)
        write_text(text, f"{diagnosis}\n")
        write_json(numbers, diagnosis.to_json(), indent=1)
        self.manifest.record("diagnosis", self.inputs_of_diagnosis())
        self.outcome["diagnose"] = MADE
        return diagnosis

    def inputs_of_diagnosis(self) -> dict[str, Any]:
        """Return the model, data and settings that determine the diagnosis."""
        judged = fingerprint(self.parts["test"], self.parts.spec)
        return {
            "model": self.model.sha256,
            "data.test": judged,
            **flat(self._diagnose_arguments(), "diagnose."),
        }

    def diagnosis_is_current(self) -> bool:
        """Tell if the stored diagnosis belongs to this model and these samples."""
        files = self._diagnosis_files()
        return self.manifest.is_current("diagnosis", self.inputs_of_diagnosis(), *files)

    def stored_diagnosis(self) -> tuple[str, dict[str, Any]]:
        """Return the stored diagnosis as text and as JSON types."""
        text, numbers = self._diagnosis_files()
        content: dict[str, Any] = json.loads(numbers.read_text(encoding="utf-8"))
        return text.read_text(encoding="utf-8").rstrip("\n"), content

    def _diagnose_arguments(self) -> dict[str, Any]:
        section = self.config.diagnose
        return {} if section is None else asdict(section)

    def _diagnosis_files(self) -> tuple[Path, Path]:
        return self.report / "diagnosis.txt", self.report / "diagnosis.json"


def _version(folder: Path) -> tuple[int, int, int] | None:
    """Return what changes when a folder is replaced or written to; None if missing."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    # The number of a folder that was removed may be given to the next one.
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _card_to_json(card: xr.Dataset) -> str:
    return json.dumps(plain(card.to_dict()), indent=1, allow_nan=False)


def _card_from_json(text: str) -> xr.Dataset:
    card = xr.Dataset.from_dict(json.loads(text))
    # JSON has null in the place of NaN.
    return card.assign({n: v.astype(float) for n, v in card.data_vars.items()})


def criteria_of(config: Config, section: SampleSection, card: xr.Dataset) -> list[Criterion]:
    """Return the criteria of an ensemble: the defaults of its mode, and those of the user.

    Defaults whose score is not in the card are left out: without a rain condition, for example,
    no skill over bilinear interpolation is computed.
    """
    given = (config.criteria or {}).get(section.name) or {}
    chosen = criteria_for(section.mode, given)
    return [c for c in chosen if c.name in given or set(c.needed) <= set(map(str, card))]


def _headline(card: xr.Dataset, verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return the scores that the criteria use, for the catalog."""
    names = [n for v in verdicts for n in v.criterion.needed if n in card]
    own = card.sel(source="xcvae")
    return {name: round(float(own[name]), 6) for name in dict.fromkeys(names)}
