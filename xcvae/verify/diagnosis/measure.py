"""Evidence for a diagnosis: from a model and data, or from the fields of any generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import ConfigError, explain
from xcvae.fields.describe import DataSpec, prepare
from xcvae.fields.record import Record, Thumbnails
from xcvae.fields.samples import label_codes, labels_of
from xcvae.fields.units import default_wet_threshold, factor, to_units
from xcvae.fields.validation import check_rain
from xcvae.metrics.pairs import Pair, matched
from xcvae.verify.diagnosis.evidence import Evidence, LevelEvidence
from xcvae.verify.diagnosis.memorization import neighbours_of
from xcvae.verify.diagnosis.statistics import ceiling_of, draws_of, light_mass, swap_of

if TYPE_CHECKING:
    from xcvae.generator.model import Model

__all__ = ["gather", "measure"]

#: Samples that are looked at, and pixels drawn at most: a GB of float32 and its copies.
SAMPLES, PIXELS = 24, 60_000_000
POSTERIOR_MEMBERS = 4


def measure(ds: xr.Dataset, model: Model, *, members: int, seed: int) -> Evidence:
    """Draw from a model and compare with observations.

    Parameters
    ----------
    ds, model, members, seed
        As in `xcvae.diagnose`.

    Raises
    ------
    ConfigError, MismatchError, DataError
        As there.
    """
    _check_members(members)
    spec = model.spec
    prepared = prepare(ds, spec, need_target=True)
    positions = _positions(prepared, spec, members)
    subset = prepared.isel({spec.sample: positions}).load()
    check_rain(subset[spec.target])
    observed = np.asarray(subset[spec.target].values)
    batch = model.batches(subset).load(slice(None))
    labels = labels_of(subset, spec.sample)
    prior = model.draw(batch, seed=seed, labels=labels, realizations=range(members), mode="prior")
    posterior = model.draw(
        batch,
        seed=seed,
        labels=labels,
        realizations=range(min(members, POSTERIOR_MEMBERS)),
        mode="posterior",
        spread=0.0,
    )
    swap = None
    if len(positions) > 1:
        # Half the subset apart: the storm of another day, not the next frame of the same one.
        order = np.roll(np.arange(len(positions)), len(positions) // 2)
        own, swapped = (model.reconstruct(batch, latents_of=o) for o in (None, order.tolist()))
        swap = swap_of(own, swapped, observed)
    near = None
    if model.thumbnails is not None:
        codes = label_codes(prepared, spec.sample)
        near = neighbours_of(prior, observed, codes, model.thumbnails, spec.wet_threshold)
    return Evidence(
        samples=len(positions),
        members=members,
        seed=seed,
        levels=tuple(LevelEvidence(r.size, r.kl, r.active) for r in model.levels(batch)),
        swap=swap,
        prior=draws_of(prior, observed, units=spec.units, wet_threshold=spec.wet_threshold),
        posterior=draws_of(posterior, observed, units=spec.units, wet_threshold=spec.wet_threshold),
        neighbours=near,
        **_of_data(observed, spec.units, spec.wet_threshold, model.record),
    )


def _of_data(
    observed: NDArray[Any],
    units: str,
    wet_threshold: float,
    record: Record | None,
    convert: float = 1.0,
) -> dict[str, Any]:
    """What is told by the observation, and by what was trained on."""
    return {
        "units": units,
        "pixels": float(np.isfinite(observed).sum() / len(observed)),
        "wet_threshold": wet_threshold,
        "wet_fraction": _share(observed, wet_threshold),
        "wet_fraction_record": float("nan") if record is None else record.wet_fraction,
        "light_mass": light_mass(observed, wet_threshold),
        "ceiling_share": ceiling_of(observed, wet_threshold),
        "scale": float("nan") if record is None else _scale(observed, record, convert),
    }


def gather(
    observed: xr.DataArray,
    *,
    prior: xr.DataArray,
    posterior: xr.DataArray,
    reconstructed: xr.DataArray | None = None,
    swapped: xr.DataArray | None = None,
    levels: Sequence[LevelEvidence] = (),
    trained_on: Record | xr.DataArray | None = None,
    seed: int = 0,
) -> Evidence:
    """Make the same evidence from the fields of any generator, for `judge`.

    Parameters
    ----------
    observed
        Physical rain with units, dims (sample, y, x). All samples are used.
    prior, posterior
        Members from the conditions alone, and members around the observed storm as close as the
        generator gets; physical, dims (realization, sample, y, x), at least 2 prior members. Not
        post-processed, to see what the generator does.
    reconstructed, swapped
        What is decoded from the latents of each observation, and from those of another one under
        the conditions of the first; dims (sample, y, x). Without both nothing is said on whether
        latents are used.
    levels
        What every latent level carries; without it nothing is said on posterior collapse.
    trained_on
        The training rain, or its record. With the record alone nothing is said on memorisation and
        leaks, and without either the order of magnitude is not checked.
    seed
        Of the noise, for the report.

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
    pairs = {name: _physical(name, field, observed) for name, field in fields.items()}
    pair = pairs["prior"]
    _check_members(len(pair.forecast))
    truth = np.asarray(pair.observed.values)
    threshold = default_wet_threshold(pair.observed, pair.sample)
    drawn = {name: np.asarray(p.forecast.values) for name, p in pairs.items()}
    scores = {
        name: draws_of(drawn[name], truth, units=pair.units, wet_threshold=threshold)
        for name in ("prior", "posterior")
    }
    swap = None
    if "swapped" in drawn:
        swap = swap_of(drawn["reconstructed"][0], drawn["swapped"][0], truth)
    record, trained, convert = _trained(trained_on, pair, threshold)
    near = None
    if trained is not None:
        codes = label_codes(observed, pair.sample)
        near = neighbours_of(drawn["prior"], truth, codes, trained, threshold)
    return Evidence(
        samples=len(truth),
        members=len(drawn["prior"]),
        seed=seed,
        levels=tuple(levels),
        swap=swap,
        prior=scores["prior"],
        posterior=scores["posterior"],
        neighbours=near,
        own=False,
        **_of_data(truth, pair.units, threshold, record, convert),
    )


def _physical(name: str, field: xr.DataArray, observed: xr.DataArray) -> Pair:
    """Pair a field with the observation, and look at the values of both."""
    pair = matched(field, observed)
    for what, values in ((name, pair.forecast), ("observed", pair.observed)):
        check_rain(values.rename(what))
    return pair


def _trained(
    trained_on: Record | xr.DataArray | None, pair: Pair, threshold: float
) -> tuple[Record | None, Thumbnails | None, float]:
    """Record and thumbnails of the training rain, and the factor from its units to the pair's."""
    if isinstance(trained_on, xr.DataArray):
        rain = to_units(trained_on, pair.units)
        check_rain(rain)
        blocks = [np.asarray(rain.values)]
        record = Record.of(blocks, units=pair.units, wet_threshold=threshold)
        return record, Thumbnails.of_field(rain, pair.sample, threshold), 1.0
    if trained_on is None:
        return None, None, 1.0
    return trained_on, None, factor(trained_on.units, pair.units, what="trained_on")


def _check_members(members: int) -> None:
    if members < 2:
        raise ConfigError(
            explain(
                "members",
                expected="an integer >= 2",
                got=repr(members),
                remedy="Whether members differ takes two.",
            )
        )


def _positions(prepared: xr.Dataset, spec: DataSpec, members: int) -> list[int]:
    count, pixels = (
        prepared.sizes[spec.sample],
        prepared.sizes[spec.y] * prepared.sizes[spec.x],
    )
    most = max(2, min(SAMPLES, PIXELS // (members * pixels)))
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def _share(observed: NDArray[Any], wet_threshold: float) -> float:
    valid = observed[np.isfinite(observed)]
    return float((valid >= wet_threshold).mean()) if valid.size else float("nan")


def _scale(observed: NDArray[Any], record: Record, convert: float = 1.0) -> float:
    """Compare the order of magnitude of data and training record.

    Three statistics, of which the middle one counts: a dry week moves the mean, one storm the
    maximum. ``convert`` takes the record's units to those of the data.
    """
    valid = observed[np.isfinite(observed)]
    here = (float(valid.mean()), float(np.quantile(valid, 0.99)), float(valid.max()))
    there = (record.mean, record.quantile(0.99), record.maximum)
    ratios = [a / (b * convert) for a, b in zip(here, there, strict=True) if a > 0 and b > 0]
    return float(np.median(ratios)) if ratios else float("nan")
