"""The steps of a run. Each is skipped when its product is there and current."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xcvae.config import Config, Parts, open_parts
from xcvae.config.schema import SampleSection
from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.dataset import record_of
from xcvae.errors import ModelFileError, OutputExistsError, StoreError, explain
from xcvae.fields.dataspec import plain
from xcvae.files import write_json, write_text
from xcvae.pipeline.manifest import Manifest, digest, fingerprint, flat
from xcvae.verify.criteria import DERIVED, Criterion, Verdict, criteria_for, judge

if TYPE_CHECKING:
    from xcvae.generator.model import Model
    from xcvae.verify.diagnosis.diagnose import Diagnosis

__all__ = ["MADE", "THERE", "PipelineState", "Scored", "criteria_of"]

MADE, COMPLETED, THERE = "made", "completed", "there already"


@dataclass(frozen=True)
class Scored:
    """An ensemble and what became of it.

    Attributes
    ----------
    section
        How it was asked for.
    ensemble
        Reopened from the catalog, lazy.
    card
        Its scores.
    verdicts
        The criteria, and whether they are met.
    """

    section: SampleSection
    ensemble: xr.Dataset
    card: xr.Dataset
    verdicts: list[Verdict]


class PipelineState:
    """The steps of one configuration; each method does one, and says what became of it.

    Parameters
    ----------
    config
        The configuration.
    overwrite
        Replace what another configuration made.
    progress
        Show progress, on a terminal.
    """

    def __init__(self, config: Config, *, overwrite: bool, progress: bool) -> None:
        self.config, self.progress = config, progress
        self.folder = config.output_folder
        self.products = Manifest(self.folder, overwrite=overwrite)
        self.model_file = self.folder / "model.xcvae"
        self.catalog = self.folder / "catalog.yaml"
        self.report = self.folder / "report"
        self.outcome: dict[str, str] = {}

    @cached_property
    def parts(self) -> Parts:
        """The data."""
        return open_parts(self.config)

    def store(self, section: SampleSection) -> Path:
        """Where an ensemble is written."""
        return self.folder / f"{section.name}.zarr"

    def train(self) -> Model:
        """Train the model, go on with it, or open it.

        Raises
        ------
        OutputExistsError
            A model is there that other settings or data made.
        """
        from xcvae.generator.model import load
        from xcvae.generator.training.checkpoint import checkpoint_path, last_weights_path
        from xcvae.generator.training.train import train

        made_from = self._behind_model()
        if self.products.current("model", made_from, self.model_file):
            self.outcome["train"] = THERE
            return load(self.model_file)
        self.products.refuse_others("model", made_from, self.model_file)
        unfinished = checkpoint_path(self.model_file)
        if self.products.overwrite:
            same = self.products.current("model", made_from, unfinished)
            made = (self.model_file, last_weights_path(self.model_file))
            for path in (*made, *(() if same else (unfinished,))):
                path.unlink(missing_ok=True)
        self.outcome["train"] = COMPLETED if unfinished.exists() else MADE
        # Noted before, so that a model which is there is always one that is known.
        self.products.note("model", made_from)
        validation = self.parts.validation
        share = self.config.train.validation
        return train(
            self.parts.train,
            **self.config.train.arguments(),
            validation=validation if validation is not None else 0.15 if share is None else share,
            path=self.model_file,
            progress=self.progress,
        )

    def _behind_model(self) -> dict[str, Any]:
        """Return the settings and data that decide on the model."""
        section = asdict(self.config.train)
        del section["device"]
        section["fit"] = {k: v for k, v in (section["fit"] or {}).items() if k != "resume"}
        parts = {
            name: fingerprint(ds, self.parts.spec)
            for name in ("train", "validation")
            if (ds := getattr(self.parts, name)) is not None
        }
        return {**flat(section, "train."), **{f"data.{k}": v for k, v in parts.items()}}

    @cached_property
    def model(self) -> Model:
        """The model, for the steps after training.

        Raises
        ------
        ModelFileError
            There is none, or it is damaged.
        """
        from xcvae.generator.model import load

        if not self.model_file.exists():
            raise ModelFileError(
                explain(
                    str(self.model_file),
                    expected="a trained model",
                    got="none",
                    remedy="Run `xcvae train` with this configuration first, or `xcvae run`.",
                )
            )
        return load(self.model_file)

    def sample(self, section: SampleSection) -> xr.Dataset:
        """Draw an ensemble into its store and list it, or complete an unfinished one."""
        from xcvae.ensemble.sample import sample
        from xcvae.ensemble.store.write import target_of

        store = self.store(section)
        before = _inode(store)
        state = COMPLETED if target_of(store).partial().there else MADE
        draw = partial(
            sample,
            self.parts[section.part],
            self.model,
            **section.arguments(),
            store=store,
            catalog=self.catalog,
            progress=self.progress,
        )
        try:
            # Also continues a replacement that an earlier --overwrite started.
            ensemble = draw()
        except OutputExistsError as error:
            if not self.products.overwrite:
                raise OutputExistsError(f"{error} On the command line: --overwrite.") from error
            state = MADE
            ensemble = draw(resume="restart")
        untouched = before is not None and _inode(store) == before
        self.outcome[section.name] = THERE if untouched else state
        return ensemble

    def reopened(self, section: SampleSection) -> xr.Dataset:
        """Open an ensemble as the people downstream do: from the catalog.

        Raises
        ------
        StoreError
            It is not there, or it was drawn with another model.
        """
        got = "none"
        if self.store(section).exists() and self.catalog.exists():
            ensemble = catalogs.open_entry(self.catalog, section.name)
            if record_of(ensemble)["model_sha256"] == self.model.sha256:
                return ensemble
            got = "one that another model drew"
        raise StoreError(
            explain(
                f"ensemble '{section.name}' in {self.catalog}",
                expected="a finished ensemble of this model",
                got=got,
                remedy="Run `xcvae sample` with this configuration first, or `xcvae run`.",
            )
        )

    def evaluate(self, section: SampleSection) -> Scored:
        """Score an ensemble, put its headline scores into the catalog, and judge it."""
        from xcvae.verify.scorecard import evaluate

        ensemble = self.reopened(section)
        asked = asdict(self.config.evaluate)
        made_from = {"ensemble": digest(record_of(ensemble)["identity"]), **flat(asked)}
        file = self.report / f"{section.name}-scores.json"
        product = f"scores of {section.name}"
        if self.products.current(product, made_from, file):
            card = _card_from_json(file.read_text(encoding="utf-8"))
        else:
            self.outcome["evaluate"] = MADE
            observed = self.parts[section.part]
            card = evaluate(observed, ensemble, **asked, progress=self.progress)
            self.report.mkdir(parents=True, exist_ok=True)
            write_text(file, _card_to_json(card))
            self.products.note(product, made_from)
        verdicts = judge(card, criteria_of(self.config, section, card))
        catalogs.annotate(self.catalog, section.name, _headline(card, verdicts))
        self.outcome.setdefault("evaluate", THERE)
        return Scored(section, ensemble, card, verdicts)

    def diagnose(self) -> Diagnosis:
        """Diagnose the model on the test samples."""
        from xcvae.verify.diagnosis.diagnose import diagnose

        found = diagnose(self.parts["test"], self.model, **self._diagnose_arguments())
        text, numbers = self._diagnosis_files()
        self.report.mkdir(parents=True, exist_ok=True)
        write_text(text, f"{found}\n")
        write_json(numbers, found.to_json(), indent=1)
        self.products.note("diagnosis", self.inputs_of_diagnosis())
        self.outcome["diagnose"] = MADE
        return found

    def inputs_of_diagnosis(self) -> dict[str, Any]:
        """Return what decides on the diagnosis."""
        judged = fingerprint(self.parts["test"], self.parts.spec)
        return {
            "model": self.model.sha256,
            "data.test": judged,
            **flat(self._diagnose_arguments(), "diagnose."),
        }

    def diagnosis_is_current(self) -> bool:
        """Whether the diagnosis that is there is that of this model and these samples."""
        files = self._diagnosis_files()
        return self.products.current("diagnosis", self.inputs_of_diagnosis(), *files)

    def known_diagnosis(self) -> tuple[str, dict[str, Any]]:
        """Return the diagnosis that is there, in words and as JSON."""
        text, numbers = self._diagnosis_files()
        content: dict[str, Any] = json.loads(numbers.read_text(encoding="utf-8"))
        return text.read_text(encoding="utf-8").rstrip("\n"), content

    def _diagnose_arguments(self) -> dict[str, Any]:
        section = self.config.diagnose
        return {} if section is None else asdict(section)

    def _diagnosis_files(self) -> tuple[Path, Path]:
        return self.report / "diagnosis.txt", self.report / "diagnosis.json"


def _inode(folder: Path) -> tuple[int, int] | None:
    """Return device and inode of a folder, which its replacement does not have; None if missing."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _card_to_json(card: xr.Dataset) -> str:
    return json.dumps(plain(card.to_dict()), indent=1, allow_nan=False)


def _card_from_json(text: str) -> xr.Dataset:
    card = xr.Dataset.from_dict(json.loads(text))
    # What is not finite is null in JSON.
    return card.assign({n: v.astype(float) for n, v in card.data_vars.items()})


def criteria_of(config: Config, section: SampleSection, card: xr.Dataset) -> list[Criterion]:
    """Return the criteria of an ensemble: its mode's and the user's.

    A default that needs a score which the card does not have is left out: there is no skill over
    bilinear interpolation where no condition is rain.
    """
    own = (config.criteria or {}).get(section.name) or {}
    chosen = criteria_for(section.mode, own)
    return [c for c in chosen if c.name in own or set(_needed(c)) <= set(map(str, card))]


def _needed(criterion: Criterion) -> Sequence[str]:
    if criterion.name in DERIVED:
        return (criterion.metric, f"{criterion.metric}_observed")
    return (criterion.metric,)


def _headline(card: xr.Dataset, verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return what the catalog tells about an ensemble: the scores that it is judged by."""
    names = [n for v in verdicts for n in _needed(v.criterion) if n in card]
    own = card.sel(source="xcvae")
    return {name: round(float(own[name]), 6) for name in dict.fromkeys(names)}
