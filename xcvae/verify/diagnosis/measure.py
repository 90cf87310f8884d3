"""Measure the evidence of a diagnosis: on a model and data, or on fields of any generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.ensemble.execution.threads import torch_threads
from xcvae.errors import ConfigError, MismatchError, whole_number
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.describe import prepare
from xcvae.fields.record import Record, Thumbnails
from xcvae.fields.sample_blocks import consecutive, evenly_spaced, segments
from xcvae.fields.samples import label_codes, labels_of, times_of
from xcvae.fields.units import default_wet_threshold, factor, to_units
from xcvae.fields.validation import check_rain
from xcvae.generator.training.timescales import measure_timescales
from xcvae.metrics.pairs import Pair, matched
from xcvae.verify.diagnosis.finding import Evidence, LevelEvidence
from xcvae.verify.diagnosis.memorization import neighbours_of
from xcvae.verify.diagnosis.statistics import (
    LatentSwap,
    Spike,
    TimeStatistics,
    ceiling_of,
    ensemble_statistics,
    latent_swap,
    light_mass,
    spike_of,
    spike_of_record,
    time_statistics,
)

if TYPE_CHECKING:
    from xcvae.fields.batches import Batch
    from xcvae.generator.model import Model


#: Largest number of samples and of drawn pixels: a GB of float32 with its copies.
SAMPLES, PIXELS = 24, 60_000_000
POSTERIOR_MEMBERS = 4
#: Samples that are drawn to compare consecutive ones, and how many of them in a row.
IN_TIME, IN_A_ROW = 12, 3


def measure(ds: xr.Dataset, model: Model, *, members: int, seed: int) -> Evidence:
    """Draw from a model and compare with observations; see `xcvae.diagnose`."""
    ds, model = model.for_data(ds, None, observed=True)
    spec = model.spec
    prepared = prepare(ds, spec, need_target=True)
    positions = _positions(prepared, spec, members)
    subset = prepared.isel({spec.sample: positions}).load()
    check_rain(subset[spec.target])
    observed = np.asarray(subset[spec.target].values)
    batch = model.batches(subset).load(slice(None))
    tile = _tile(model, batch)
    draw = partial(_draw, model, subset, batch, seed=seed, tile=tile)
    prior = draw(realizations=range(members), mode="prior")
    few = range(min(members, POSTERIOR_MEMBERS))
    posterior = draw(realizations=few, mode="posterior", spread=0.0)
    levels = tuple(LevelEvidence(r.size, r.kl, r.active) for r in model.levels(batch, tile=tile))
    swap = _exchanged_latents(model, batch, observed, tile)
    del batch, draw  # the statistics of large maps need the memory
    trained = None
    if model.thumbnails is not None:
        trained = label_codes(prepared, spec.sample), model.thumbnails
    return _evidence(
        observed,
        {"prior": prior, "posterior": posterior},
        units=spec.units,
        wet_threshold=spec.wet_threshold,
        record=model.record,
        trained=trained,
        seed=seed,
        levels=levels,
        swap=swap,
        coarse=_coarse_rain(subset, spec),
        time=_in_time(prepared, model, seed=seed, tile=tile),
        timescales=_timescales(prepared, model, tile),
    )


def _tile(model: Model, batch: Batch) -> tuple[int, int] | None:
    """Return the tile of the network for maps that do not fit into memory in one piece."""
    from xcvae.generator.memory import needed_tile

    size = (batch.c.shape[-2], batch.c.shape[-1])
    return needed_tile(size, model.architecture, model.device, draws=len(batch))


def _draw(
    model: Model,
    subset: xr.Dataset,
    batch: Batch,
    *,
    realizations: range,
    mode: Literal["prior", "posterior"],
    seed: int,
    tile: tuple[int, int] | None,
    spread: float = 1.0,
) -> NDArray[np.float32]:
    """Draw members, in tiles on all threads of torch."""
    return model.draw(
        batch,
        seed=seed,
        labels=labels_of(subset, model.spec.sample),
        realizations=realizations,
        mode=mode,
        spread=spread,
        tile=tile,
        limits=model.limits(subset),
        threads=torch_threads(),
    )


def _coarse_rain(subset: xr.Dataset, spec: DataSpec) -> NDArray[np.float64] | None:
    """Return the mean coarse rain of each sample; None without any."""
    variable = spec.coarse_rain
    if variable is None:
        return None
    return np.asarray(subset[variable.name].mean(variable.dims).values, np.float64)


def _in_time(
    prepared: xr.Dataset, model: Model, *, seed: int, tile: tuple[int, int] | None
) -> TimeStatistics | None:
    """Draw members of a few runs of consecutive samples, each time by itself."""
    sample = model.spec.sample
    times = _times(prepared, sample)
    _, runs = consecutive(times)
    pieces = [piece for piece in segments(runs, IN_A_ROW) if len(piece) > 1]
    if not pieces:
        return None
    samples = min(IN_TIME, PIXELS // (POSTERIOR_MEMBERS * _pixels(prepared, model.spec)))
    picked = evenly_spaced(len(pieces), max(1, samples // IN_A_ROW))
    rows = np.concatenate([pieces[i] for i in picked])
    subset = prepared.isel({sample: rows}).load()
    batch, few = model.batches(subset).load(slice(None)), range(POSTERIOR_MEMBERS)
    members = _draw(model, subset, batch, realizations=few, mode="prior", seed=seed, tile=tile)
    return time_statistics(members, np.asarray(subset[model.spec.target].values), times[rows])


def _times(ds: xr.Dataset | xr.DataArray, sample: str) -> NDArray[np.int64]:
    """Return the times of samples; all the same where labels are no times."""
    try:
        return np.array(times_of(ds, sample), np.int64)
    except ConfigError:
        return np.zeros(ds.sizes[sample], np.int64)


def _timescales(prepared: xr.Dataset, model: Model, tile: tuple[int, int] | None) -> dict[str, Any]:
    """Return the timescales of a model; of an older file, measured on the data."""
    stored: dict[str, Any] = model.training.get("timescales", {})
    if stored.get("seconds") is not None:
        return stored | {"source": "training"}
    return measure_timescales(model, prepared, tile=tile).to_json() | {"source": "these data"}


def _exchanged_latents(
    model: Model, batch: Batch, observed: NDArray[Any], tile: tuple[int, int] | None
) -> LatentSwap | None:
    """Reconstruct every sample from its own latents and from those of another one."""
    count = len(observed)
    if count < 2:
        return None
    # Exchange with the sample half the subset away: another storm, not the next frame.
    order = np.roll(np.arange(count), count // 2)
    own, swapped = (
        model.reconstruct(batch, latents_of=o, tile=tile) for o in (None, order.tolist())
    )
    return latent_swap(own, swapped, observed)


def gather(
    observed: xr.DataArray,
    *,
    prior: xr.DataArray,
    posterior: xr.DataArray,
    reconstructed: xr.DataArray | None = None,
    swapped: xr.DataArray | None = None,
    levels: Sequence[LevelEvidence] = (),
    trained_on: Record | xr.DataArray | None = None,
    coarse: xr.DataArray | None = None,
    seed: int = 0,
) -> Evidence:
    """Measure the same evidence on the fields of any generator, for `judge`.

    Parameters
    ----------
    observed
        Physical rain with units, dims (sample, y, x). All samples are used, in the order of their
        times if these are all different.
    prior, posterior
        Members from the conditions alone, and members as close to the observed storm as the
        generator can draw; physical, dims (realization, sample, y, x), at least 2 prior members.
        Without post-processing, which would hide faults.
    reconstructed, swapped
        Fields decoded from the latents of each observation, and from those of another one under
        the conditions of the first; dims (sample, y, x). Without both, ignored latents are not
        checked.
    levels
        Information in every latent level; without it posterior collapse is not checked.
    trained_on
        The training rain, or its record. The record alone does not allow to check memorisation and
        leakage; without either the order of magnitude is not checked.
    coarse
        Coarse rain that was known before the draw, dims (sample, ...) like ``observed``; without
        it, spread in thirds of the samples is not checked.
    seed
        Seed of the noise, for the report.

    Returns
    -------
    Evidence

    Raises
    ------
    ConfigError
        Too few prior members.
    UnitsError
        Units are missing or not those of precipitation.
    MismatchError
        Dims, sizes or labels differ.
    DataError
        Negative or infinite rain, normalised values for example.
    """
    fields = {"prior": prior, "posterior": posterior}
    if reconstructed is not None and swapped is not None:
        fields |= {"reconstructed": reconstructed, "swapped": swapped}
    pairs = {name: _in_order(_physical(name, field, observed)) for name, field in fields.items()}
    pair = pairs["prior"]
    check_numbers(len(pair.forecast), seed)
    truth = np.asarray(pair.observed.values)
    threshold = default_wet_threshold(pair.observed, pair.sample)
    drawn = {name: np.asarray(p.forecast.values) for name, p in pairs.items()}
    swap = None
    if "swapped" in drawn:
        swap = latent_swap(drawn["reconstructed"][0], drawn["swapped"][0], truth)
    record, thumbnails, convert = _trained(trained_on, pair, threshold)
    trained = None
    if thumbnails is not None:
        trained = label_codes(pair.observed, pair.sample), thumbnails
    return _evidence(
        truth,
        drawn,
        units=pair.units,
        wet_threshold=threshold,
        record=record,
        convert=convert,
        trained=trained,
        seed=seed,
        levels=tuple(levels),
        swap=swap,
        time=time_statistics(drawn["prior"], truth, _times(pair.observed, pair.sample)),
        own=False,
        coarse=_known_amounts(coarse, pair),
    )


def _known_amounts(coarse: xr.DataArray | None, pair: Pair) -> NDArray[np.float64] | None:
    """Return the mean coarse rain of each sample, in the order of the pair; None without any."""
    if coarse is None:
        return None
    if pair.sample in coarse.indexes and pair.sample in pair.observed.indexes:
        coarse = coarse.reindex({pair.sample: pair.observed[pair.sample]})
    found = coarse.mean([dim for dim in coarse.dims if dim != pair.sample])
    if found.shape != pair.observed.shape[:1]:
        raise MismatchError.of(
            "coarse",
            expected=f"dims ({pair.sample}, ...), {pair.observed.shape[0]} samples",
            got=f"dims ({', '.join(map(str, coarse.dims))}), shape {coarse.shape}",
            remedy="Give the coarse rain that the members were drawn from.",
        )
    return np.asarray(found.values, np.float64)


def _where_observed(fields: NDArray[Any], observed: NDArray[Any]) -> NDArray[Any]:
    """Return members with gaps where nothing was observed: there is nothing to compare."""
    seen = np.isfinite(observed)
    return fields if seen.all() else np.where(seen, fields, np.float32(np.nan))


def _evidence(
    observed: NDArray[Any],
    drawn: Mapping[str, NDArray[Any]],
    *,
    units: str,
    wet_threshold: float,
    record: Record | None,
    trained: tuple[NDArray[np.int64], Thumbnails] | None,
    convert: float = 1.0,
    coarse: NDArray[np.float64] | None = None,
    **known: Any,
) -> Evidence:
    """Compare prior and posterior members, and the observation with the training record."""
    members = _where_observed(drawn["prior"], observed)
    prior, posterior = (
        ensemble_statistics(
            members if name == "prior" else _where_observed(drawn[name], observed),
            observed,
            units=units,
            wet_threshold=wet_threshold,
            coarse=coarse,
        )
        for name in ("prior", "posterior")
    )
    near = None
    if trained is not None:
        near = neighbours_of(members, observed, *trained, wet_threshold)
    return Evidence(
        units=units,
        samples=len(observed),
        members=len(members),
        pixels=float(np.isfinite(observed).sum() / len(observed)),
        wet_threshold=wet_threshold,
        wet_fraction=_share(observed, wet_threshold),
        wet_fraction_record=float("nan") if record is None else record.wet_fraction,
        light_mass=light_mass(observed, wet_threshold),
        ceiling_share=ceiling_of(observed, wet_threshold),
        spike=_spike(observed, wet_threshold, record, convert),
        scale=float("nan") if record is None else _scale(observed, record, convert),
        neighbours=near,
        prior=prior,
        posterior=posterior,
        **known,
    )


def _physical(name: str, field: xr.DataArray, observed: xr.DataArray) -> Pair:
    """Pair a field with the observation, and check the values of both."""
    pair = matched(field, observed)
    for what, values in ((name, pair.forecast), ("observed", pair.observed)):
        check_rain(values.rename(what))
    return pair


def _in_order(pair: Pair) -> Pair:
    """Sort samples by their times: standard errors depend on how alike those in a row are.

    Times that occur twice are those of several records, one after the other.
    """
    times = _times(pair.observed, pair.sample)
    rising = bool((np.diff(times) > 0).all())
    if rising or len(np.unique(times)) < len(times):
        return pair
    rows = {pair.sample: np.argsort(times)}
    return replace(pair, forecast=pair.forecast.isel(rows), observed=pair.observed.isel(rows))


def _trained(
    trained_on: Record | xr.DataArray | None, pair: Pair, threshold: float
) -> tuple[Record | None, Thumbnails | None, float]:
    """Return record and thumbnails of the training rain, and the factor to the pair's units."""
    if isinstance(trained_on, xr.DataArray):
        rain = to_units(trained_on, pair.units)
        check_rain(rain)
        blocks = [np.asarray(rain.values)]
        record = Record.of(blocks, units=pair.units, wet_threshold=threshold)
        return record, Thumbnails.of_field(rain, pair.sample, threshold), 1.0
    if trained_on is None:
        return None, None, 1.0
    return trained_on, None, factor(trained_on.units, pair.units, what="trained_on")


def check_numbers(members: object, seed: object) -> None:
    """Check the number of members, and the seed.

    Raises
    ------
    ConfigError
        Fewer than two members, or no integers.
    """
    remedy = "At least two members are needed to estimate spread."
    whole_number("members", members, least=2, remedy=remedy)
    whole_number("seed", seed, least=0, remedy="Leave it out for seed 0.")


def _positions(prepared: xr.Dataset, spec: DataSpec, members: int) -> list[int]:
    most = max(2, min(SAMPLES, PIXELS // (members * _pixels(prepared, spec))))
    return [int(i) for i in evenly_spaced(prepared.sizes[spec.sample], most)]


def _pixels(prepared: xr.Dataset, spec: DataSpec) -> int:
    return int(prepared.sizes[spec.y] * prepared.sizes[spec.x])


def _share(observed: NDArray[Any], wet_threshold: float) -> float:
    valid = observed[np.isfinite(observed)]
    return float((valid >= wet_threshold).mean()) if valid.size else float("nan")


def _spike(
    observed: NDArray[Any], wet_threshold: float, record: Record | None, convert: float
) -> Spike | None:
    """Look for a spike in the data, or else in the training record, of which data are a part."""
    found = spike_of(observed, wet_threshold)
    if found is None and record is not None:
        found = spike_of_record(record)
        return found and replace(found, amount=found.amount * convert)
    return found


def _scale(observed: NDArray[Any], record: Record, convert: float = 1.0) -> float:
    """Return the ratio of amounts in the data to those in the training record.

    The median of three ratios is robust: a dry week changes the mean, one storm the maximum.
    ``convert`` is the factor from the record's units to those of the data.
    """
    valid = observed[np.isfinite(observed)]
    data = (float(valid.mean()), float(np.quantile(valid, 0.99)), float(valid.max()))
    trained = (record.mean, record.quantile(0.99), record.maximum)
    ratios = [a / (b * convert) for a, b in zip(data, trained, strict=True) if a > 0 and b > 0]
    return float(np.median(ratios)) if ratios else float("nan")
