"""Check of a configuration and its data without training."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xcvae import plugins
from xcvae.config import Config, Parts
from xcvae.config.schema import SampleSection
from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.postprocess import Context, PostprocessPipeline
from xcvae.ensemble.store import EnsembleStore
from xcvae.ensemble.store.base import plan_chunks
from xcvae.ensemble.storms import StormPipeline
from xcvae.errors import ConfigError, nearest
from xcvae.fields.block_means import of_one_factor, warn_of_amounts
from xcvae.fields.dataspec import DataSpec, VariableSpec
from xcvae.fields.describe import prepare
from xcvae.fields.samples import times_of
from xcvae.fields.units import STEP
from xcvae.fields.validation import check_rain, check_values
from xcvae.files import check_writable, is_taken
from xcvae.generator.named import relative_to
from xcvae.generator.training.settings import Fit, stages_of
from xcvae.pipeline.manifest import not_recorded
from xcvae.pipeline.steps import PipelineState
from xcvae.registry import registry
from xcvae.verify.criteria import check_scores, criteria_for
from xcvae.verify.grouping import COARSE_RAIN, check_dims, coordinate_of, no_coarse_rain
from xcvae.verify.plots.text import label_of
from xcvae.verify.scorecard import DEFAULT_METRICS, metrics_by_name
from xcvae.verify.sequences import check_windows

if TYPE_CHECKING:
    from xcvae.generator.network.architecture import Architecture


def register_plugins(config: Config) -> None:
    """Import and register the plugin modules, also those beside the configuration file.

    Raises
    ------
    ComponentError
        A module cannot be imported, or registers a name that is in use.
    """
    folder = config.folder.absolute()
    if config.plugins and str(folder) not in sys.path:
        sys.path.append(str(folder))
    for module in config.plugins:
        plugins.register(module)
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is not None and Path(file).is_relative_to(folder):
            # A configuration from elsewhere may bring code along: its user sees that it ran.
            sys.stderr.write(f"plugin '{module}' runs the code of {file}\n")


def check_before(steps: PipelineState) -> None:
    """Refuse what is wrong in any step of a whole run before its training.

    Raises
    ------
    XcvaeError
        One of its subclasses, as a later step would raise it.
    """
    config = steps.config
    check_place(config)
    _check_outputs(steps)
    register_plugins(config)
    _check_components(config)
    for section in config.sample:
        _check_section(section, steps.samples_of(section), steps.parts.spec)
        _check_scores_of(section, steps.scored_of(section), steps.parts, config)
    _check_drawing(config, steps.parts)
    if config.diagnose is not None:
        steps.parts["test"]  # refuses a configuration without any
    steps.check_copies()


def check_place(config: Config) -> None:
    """Refuse an output folder that cannot be written to."""
    check_writable("output", config.output_folder.absolute() / "model.xcvae")


def _check_outputs(steps: PipelineState) -> None:
    """Refuse other files in the places of catalog, scores and report, before hours are spent.

    Raises
    ------
    OutputExistsError
        A file that no run has recorded has the name of a product.
    CatalogError
        The catalog cannot be read.
    """
    config = steps.config
    products: dict[str, tuple[str, ...]] = {}
    products["report"] = ("report.html", "report.json", "captions.txt", "training.png")
    if config.diagnose is not None:
        products["diagnosis"] = ("diagnosis.txt", "diagnosis.json")
    for section in config.sample:
        products[f"scores of {section.name}"] = (f"{section.name}-scores.json",)
        if config.evaluate.groupby:
            products[f"groups of {section.name}"] = (f"{section.name}-groups.csv",)
    for product, names in products.items():
        steps.manifest.check_free(product, *(steps.report / name for name in names))
    for section in config.sample:
        store = steps.store(section)
        found = EnsembleStore.of(store).status().complete
        if found.exists and found.identity is None and found.ledger is None:
            raise not_recorded(store)
    if is_taken(steps.catalog):
        catalogs.names(steps.catalog)


def check(config: Config) -> str:
    """Validate a configuration and its data.

    Parameters
    ----------
    config
        From `xcvae.config.load`.

    Returns
    -------
    str
        Description of the run: data, grids, parts, ensembles and output folder.

    Raises
    ------
    XcvaeError
        One of its subclasses, as :func:`xcvae.pipeline.run` would raise it.
    """
    steps = PipelineState(config, overwrite=False, progress=False)
    check_before(steps)
    parts = steps.parts
    chosen: dict[str, xr.Dataset | None] = {
        "train": parts.train, "validation": parts.validation, "test": parts.test
    }  # fmt: skip
    for section in config.sample:
        # An ensemble may have the name of a part.
        place = section.part if section.samples is None else f"samples of {section.name}"
        chosen[place] = steps.samples_of(section)
    for part, ds in chosen.items():
        if ds is not None:
            _check_values(prepare(ds, parts.spec, need_target=True), parts.spec, part)
    _check_network(config, parts)
    return _words(config, parts)


def _check_values(ready: xr.Dataset, spec: DataSpec, part: str) -> None:
    """Check the values of a part; of that for training also what is doubtful."""
    if part == "train":
        check_values(ready, spec)
        warn_of_amounts(ready, spec)
        return
    rain = ready[spec.target]
    if spec.step_seconds is not None:
        rain = rain.assign_attrs({STEP: spec.step_seconds})
    check_rain(rain, sample=spec.sample)
    made = [name for name in (spec.target, spec.derived) if name in ready]
    check_values(ready.drop_vars(made), spec)


def _check_components(config: Config) -> None:
    """Build every named component, so that a wrong name or parameter shows before training.

    Raises
    ------
    ComponentError, ConfigError
        An unknown name, or a parameter that is wrong.
    """
    stages_of(config.train.losses, Fit.of(config.train.fit))
    scores = metrics_by_name(config.evaluate.metrics, DEFAULT_METRICS)[0]
    for baseline in config.evaluate.baselines or ():
        registry().build("baseline", baseline)
    names = [section.name for section in config.sample]
    for name in config.criteria or {}:
        if name not in names:
            raise ConfigError(f"criteria: unknown ensemble '{name}'. {nearest(name, names)}")
    for section in config.sample:
        given = (config.criteria or {}).get(section.name) or {}
        chosen = criteria_for(section.mode, given)
        if section.storms is None:
            check_scores([one for one in chosen if one.name in given], scores)


def _check_section(section: SampleSection, samples: xr.Dataset, spec: DataSpec) -> None:
    """Check the options of an ensemble, post-processors on the form of its first sample.

    Raises
    ------
    XcvaeError
        One of its subclasses, as drawing would raise it.
    """
    first = prepare(samples.isel({spec.sample: [0]}), spec, need_target=True)
    context = Context(spec, section.mode, first.drop_vars(spec.target))
    PostprocessPipeline.build(section.postprocess, spec).dry_run(context, spec.shape)
    StormPipeline.build(section.storms)
    sizes = (len(section.numbers), samples.sizes[spec.sample], *spec.shape)
    plan_chunks(section.chunks, sizes=sizes, sample=spec.sample)
    if section.model is None:
        section.cap_in(spec.units)
    if section.temporal == "coherent":
        times_of(samples, spec.sample, otherwise=", or draw with temporal='independent'")


def _check_scores_of(
    section: SampleSection, samples: xr.Dataset, parts: Parts, config: Config
) -> None:
    """Check windows and groups of the scores of an ensemble: times, names, a value for each sample.

    Raises
    ------
    XcvaeError
        As `xcvae.evaluate` would raise it.
    """
    spec, groupby = parts.spec, config.evaluate.groupby
    if section.storms is None:
        check_windows(samples, spec.sample, metrics_by_name(config.evaluate.metrics)[1].values())
    observed = samples[spec.target].transpose(spec.sample, ...)
    for name in [groupby] if isinstance(groupby, str) else groupby or ():
        if name != COARSE_RAIN or name in samples.variables:
            check_dims(coordinate_of(samples, name), observed)
        elif spec.coarse_rain is None:
            raise no_coarse_rain()


def _check_drawing(config: Config, parts: Parts) -> None:
    """Check devices, models, factors and the like of ensembles, which are drawn after training.

    Raises
    ------
    XcvaeError
        One of its subclasses, as drawing would raise it.
    """
    from xcvae.ensemble.sampler import open_model
    from xcvae.generator.device import choose_device
    from xcvae.generator.splitting import tile_size

    domain = dict(zip((parts.spec.y, parts.spec.x), parts.spec.shape, strict=True))
    for section in config.sample:
        choose_device(section.device)
        if section.model is not None:
            open_model(relative_to(config.folder, section.model), "cpu")
            continue
        if section.factor is not None and parts.spec.scales is None and config.start is None:
            raise of_one_factor(section.factor)
        architecture = _architecture(config, parts)
        section.check_levels(len(architecture.latents))
        if isinstance(section.tile, Mapping):
            tile_size(section.tile, domain, architecture)


def _check_network(config: Config, parts: Parts) -> None:
    from xcvae.generator.device import choose_device

    networks = _architecture(config, parts).networks
    Fit.of(config.train.fit, started=config.start is not None).check_networks(networks)
    choose_device(config.train.device)


def _architecture(config: Config, parts: Parts) -> Architecture:
    """Return the architecture of the network that will be trained."""
    from xcvae.generator.network.architecture import resolve
    from xcvae.generator.training.start import Start

    start = Start.of(config.start)
    if start is None:
        return resolve(config.train.generator, parts.spec)
    spec = start.adapted(parts.spec, parts.train)
    return resolve(config.train.generator, spec, start.model.architecture)


def _words(config: Config, parts: Parts) -> str:
    spec = parts.spec
    lines = [f"target      {spec.target} [{spec.units}], {spec.shape[0]} x {spec.shape[1]}"]
    for variable in spec.variables:
        size = " x ".join(map(str, variable.shape)) or "one value per sample"
        lines.append(
            f"{variable.role:<11} {variable.name} [{variable.units}], {size}, "
            f"{reason_of(variable, spec)}{', gaps filled and masked' if variable.gaps else ''}"
        )
    for name in ("train", "validation", "test"):
        ds: xr.Dataset | None = getattr(parts, name)
        if ds is not None:
            labels = ds[spec.sample].values
            ends = f"{label_of(labels[0])} to {label_of(labels[-1])}"
            lines.append(f"{name:<11} {len(labels)} samples, {ends}")
    if config.start is not None:
        lines.append(f"start       {config.start}")
    for section in config.sample:
        count = parts.of(section).sizes[spec.sample]
        kind = section.part if section.samples is None else "own"
        lines.append(
            f"ensemble    {section.name}: {section.mode}, {len(section.numbers)} members of "
            f"{count} {kind} samples"
        )
    lines.append(f"output      {config.output_folder}")
    held_back = _shared(parts, parts.validation)
    if held_back:
        lines.append(f"note: {held_back} validation samples are trained on; leave them out of one")
    shared = _shared(parts, parts.test)
    if shared:
        lines.append(f"note: {shared} test samples are trained on; their scores flatter the model")
    return "\n".join([*lines, "configuration and data are fine"])


def reason_of(variable: VariableSpec, spec: DataSpec) -> str:
    """Return how the network sees a condition, and why, in words."""
    if not variable.dims:
        return "pooled: a number per sample, known everywhere"
    if variable.name == spec.derived:
        return f"aligned: means of {spec.coarsen} x {spec.coarsen} pixels of the target"
    if variable.dims == (spec.y, spec.x):
        return "aligned: on the target's grid"
    if variable.regrid:
        how = "means over pixels" if variable.regrid == "conservative" else "interpolation"
        return f"regridded ({variable.regrid} {how}), as {variable.reason}"
    if variable.pooled and not variable.aligned:
        return f"pooled: {variable.reason}"
    counted = [dim for dim in variable.dims if spec.axis(dim).counted]
    where = "by its coordinates"
    if counted:
        where = f"edge to edge, as {' and '.join(counted)} have no coordinates"
    wide = " and pooled: most of it is outside the target" if variable.pooled else ""
    return f"aligned {where}{wide}"


def _shared(parts: Parts, other: xr.Dataset | None) -> int:
    sample = parts.spec.sample
    if other is None or sample not in other.coords:
        return 0  # positions do not identify samples
    return int(np.isin(other[sample].values, parts.train[sample].values).sum())
