"""Explorer of a report: fields to pick, to slide from storm to prior, to compare and to play."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xcvae.errors import DataError
from xcvae.fields.dataspec import json_attribute
from xcvae.fields.units import converts, is_daily, to_units
from xcvae.metrics.pairs import REALIZATION
from xcvae.verify.pairing import MatchedPair, pair_up
from xcvae.verify.plots.member_maps import Axis, RainScale, map_axes
from xcvae.verify.plots.sequences import longest_run
from xcvae.verify.plots.style import MASKED
from xcvae.verify.plots.text import coarse_rain, display_units, label_of, per_step, pretty

if TYPE_CHECKING:
    from xcvae.generator.model import Model

Axes = tuple[Axis, Axis]

#: Spreads that are drawn for the page, from the storm to the prior.
SPREADS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Members of a set of fields; members and frames of a sequence.
MEMBERS, SEQUENCE_MEMBERS, FRAMES = 4, 3, 24
#: The samples of a set: the wettest, and those that so large a share of the samples exceeds.
RANKS = (0.0, 0.1, 0.3)
#: Pixels along the longer side of a picture: larger maps are shown as means of blocks.
SIDE = 160
#: Pixels that are drawn for the page at most, so that it takes seconds, and pixels of a set that
#: are read: a quarter of a gigabyte in memory.
DRAWN, READ = 1_000_000, 30_000_000
#: Options of an ensemble that the storms redrawn for the page share.
SHARED = ("factor", "postprocess", "temperature", "cap", "tile", "device", "seed")
REDRAWN = "storms, redrawn at each spread"
ABOUT = {
    REDRAWN: "Drawn for this page. Spread 0 reconstructs the observed storm; at 1 the members "
    "follow the conditions alone.",
    "posterior": "Observed storms, redrawn{spread}.",
    "prior": "Drawn from the conditions alone.",
}
EVOLVING = " Members evolve in time: press Play, or drag the time."
MEANS = " Maps show means of {block} x {block} pixels."


@dataclass(frozen=True)
class FieldSet:
    """Fields that are explored together, in the units of figures.

    Attributes
    ----------
    title, about
        Its name in the list of sets, and a sentence about it.
    labels
        Text of the samples.
    members, spreads
        Numbers (or names) of the members, and spreads; a single None where the spread is unknown.
    sequence
        The samples follow each other in time.
    observed
        (sample, y, x), upright: north is the first row.
    fields
        (spread, realization, sample, y, x), upright.
    coarse
        Coarse rain, (sample, y, x) on its own grid, upright; None without.
    ratio, coarse_ratio
        Width of a map over its height.
    units, step, daily
        Units, their text in a legend, and True for the colour scale of days.
    """

    title: str
    about: str
    labels: list[str]
    members: list[int | str]
    spreads: list[float | None]
    sequence: bool
    observed: np.ndarray
    fields: np.ndarray
    coarse: np.ndarray | None
    ratio: float
    coarse_ratio: float
    units: str
    step: str
    daily: bool

    def to_json(self, scale: RainScale) -> dict[str, Any]:
        """Return the set for the script, with a picture for each sample, PNG in base64.

        The maps of a picture lie below each other: the observation, then the members of the first
        spread, those of the second, and so on; ``stats`` has mean and maximum of each.
        """
        maps = self.fields.reshape(-1, *self.observed.shape)
        samples = []
        for i, label in enumerate(self.labels):
            tiles = [self.observed[i], *maps[:, i]]
            entry: dict[str, Any] = {"label": label, "stats": [_stats(tile) for tile in tiles]}
            entry["picture"] = picture(np.concatenate([reduced(tile) for tile in tiles]), scale)
            if self.coarse is not None:
                entry["coarse"] = picture(reduced(self.coarse[i]), scale)
                entry["stats"].append(_stats(self.coarse[i]))
            samples.append(entry)
        return {
            "title": self.title,
            "about": self.about,
            "members": self.members,
            "spreads": self.spreads,
            "sequence": self.sequence,
            "start": int(np.argmax([(entry["stats"][0] or [0.0])[0] for entry in samples])),
            "shape": list(reduced(self.observed[0]).shape),
            "ratio": self.ratio,
            "coarseShape": None if self.coarse is None else list(reduced(self.coarse[0]).shape),
            "coarseRatio": self.coarse_ratio,
            "samples": samples,
        }


def draw_spreads(
    ds: xr.Dataset, model: Model, options: Mapping[str, Any] | None = None
) -> dict[float, xr.Dataset]:
    """Draw members of a few observed storms at each of `SPREADS`.

    Parameters
    ----------
    ds
        Target and conditions of the model.
    model
        Draws them.
    options
        Options of `xcvae.sample` for an ensemble of these data; those in `SHARED` are taken over.

    Returns
    -------
    dict of float to Dataset
        By spread; in memory. Empty without observed rain, or if the domain is too large.
    """
    from xcvae.ensemble.sample import sample

    spec = model.spec
    if spec.target not in ds or set(ds[spec.target].dims) != {spec.sample, spec.y, spec.x}:
        return {}
    field = ds[spec.target]
    most = DRAWN // (len(SPREADS) * field.sizes[spec.y] * field.sizes[spec.x])
    rows = storms_in(field, spec.sample, most)
    if not rows:
        return {}
    members = min(MEMBERS, most // len(rows))
    few = ds.isel({spec.sample: rows}).load()
    shared = {name: (options or {})[name] for name in SHARED if name in (options or {})}
    return {
        spread: sample(
            few, model, **shared, mode="posterior", spread=spread, members=members, progress=False
        ).load()
        for spread in SPREADS
    }


def storms_in(field: xr.DataArray, dim: str, most: int = len(RANKS)) -> list[int]:
    """Return the positions of the wettest sample and of a few less wet ones, in their order."""
    if most < 1:
        return []
    means = np.nan_to_num(field.mean([one for one in field.dims if one != dim]).values)
    order = np.argsort(-means, kind="stable")[: int((means > 0).sum())]
    shares = np.asarray(RANKS[:most])
    ranks = np.maximum(np.arange(shares.size), shares * len(order)).astype(int)
    return sorted(int(row) for row in order[ranks[ranks < len(order)]])


def sets_of(
    ds: xr.Dataset,
    ensembles: Mapping[str, xr.Dataset],
    spreads: Mapping[float, xr.Dataset] | None = None,
) -> list[FieldSet]:
    """Read the sets of a report: storms redrawn at several spreads, and every ensemble.

    Parameters
    ----------
    ds
        Observations and conditions.
    ensembles
        By name.
    spreads
        From `draw_spreads`.
    """
    drawn: dict[float | None, xr.Dataset] = dict((spreads or {}).items())
    found = [_read(REDRAWN, ds, drawn)] if drawn else []
    for name, ensemble in ensembles.items():
        made = json_attribute(ensemble)
        found.append(_read(f"ensemble {name}", ds, {made.get("spread"): ensemble}, made))
    return [one for one in found if one is not None]


def _read(
    title: str,
    ds: xr.Dataset,
    by_spread: Mapping[float | None, xr.Dataset],
    made: Mapping[str, Any] | None = None,
) -> FieldSet | None:
    """Read a set from ensembles of the same samples, by spread; None without rain."""
    matches = [pair_up(ds, ensemble) for ensemble in by_spread.values()]
    match, dim = matches[0], matches[0].pair.sample
    made = made or {}
    pixels = match.pair.observed[{dim: 0}].size
    frames = min(FRAMES, max(2, READ // ((1 + SEQUENCE_MEMBERS) * pixels)))
    rows = _run(match, frames) if made.get("temporal") == "coherent" else []
    sequence = len(rows) > 0
    rows = rows if sequence else storms_in(match.pair.observed, dim)
    if not rows:
        return None
    observed = match.pair.observed.isel({dim: rows}).load()
    units, daily = display_units(match.pair.observed, dim), is_daily(match.pair.observed, dim)
    most = SEQUENCE_MEMBERS if sequence else MEMBERS
    drawn = [
        one.pair.forecast.isel({dim: rows, REALIZATION: slice(most)}).load() for one in matches
    ]
    axes = map_axes(observed)
    coarse = _coarse(match, rows, units)
    return FieldSet(
        title=title,
        about=_about(title, made, observed.shape[1:], sequence=sequence),
        labels=[label_of(one, days=daily) for one in observed[dim].values],
        members=drawn[0][REALIZATION].values.tolist(),
        spreads=list(by_spread),
        sequence=sequence,
        observed=upright(to_units(observed.astype(float), units).values, *axes),
        fields=np.stack(
            [upright(to_units(one.astype(float), units).values, *axes) for one in drawn]
        ),
        coarse=None if coarse is None else coarse[0],
        ratio=_ratio(*axes),
        coarse_ratio=1.0 if coarse is None else coarse[1],
        units=units,
        step=per_step(match.pair.observed, dim, units),
        daily=daily,
    )


def _about(title: str, made: Mapping[str, Any], shape: tuple[int, ...], *, sequence: bool) -> str:
    spread = made.get("spread")
    text = ABOUT.get(title, ABOUT.get(str(made.get("mode")), ""))
    text = text.format(spread="" if spread is None else f" with spread {spread:.2g}")
    block = block_of(shape)
    return f"{text}{EVOLVING if sequence else ''}{MEANS.format(block=block) if block > 1 else ''}"


def _run(match: MatchedPair, frames: int) -> list[int]:
    """Return the positions of consecutive samples with much rain; [] without any."""
    try:
        return [int(row) for row in longest_run(match, frames)]
    except DataError:  # no samples follow each other
        return []


def _coarse(match: MatchedPair, rows: Sequence[int], units: str) -> tuple[np.ndarray, float] | None:
    """Return the coarse rain of some samples and the ratio of its maps; None without."""
    found = coarse_rain(match)
    if found is None or not converts(str(found.attrs.get("units", "")), match.pair.units):
        return None
    dims = match.axes_of(found)
    few = found.isel({match.pair.sample: list(rows)}).transpose(match.pair.sample, *dims).load()
    axes = map_axes(few)
    return upright(to_units(few.astype(float), units).values, *axes), _ratio(*axes)


def upright(values: np.ndarray, y: Axis, x: Axis) -> np.ndarray:
    """Turn maps (..., y, x) so that the first row is north and the first column west."""
    if y.units != "pixel" and y.values.size > 1 and y.values[0] < y.values[-1]:
        values = values[..., ::-1, :]
    if x.units != "pixel" and x.values.size > 1 and x.values[0] > x.values[-1]:
        values = values[..., ::-1]
    return values


def _ratio(y: Axis, x: Axis) -> float:
    # A degree of longitude is shorter at higher latitudes.
    north = np.cos(np.deg2rad(float(y.values.mean()))) if y.units == "°N" else 1.0
    ratio = float(np.ptp(x.edges()) / np.ptp(y.edges())) * max(float(north), 0.05)
    return round(min(max(ratio, 0.2), 5.0), 4)


def block_of(shape: tuple[int, ...]) -> int:
    """Return the side of the blocks whose means are shown of a map: 1 up to `SIDE` pixels."""
    return -(-max(shape) // SIDE)


def reduced(field: np.ndarray) -> np.ndarray:
    """Return means of blocks of a map (y, x) that has more than `SIDE` pixels along a side."""
    block = block_of(field.shape)
    if block == 1:
        return field
    rows, columns = (-(-size // block) for size in field.shape)
    padding = [
        (0, count * block - size) for count, size in zip((rows, columns), field.shape, strict=True)
    ]
    blocks = np.pad(field, padding, constant_values=np.nan).reshape(rows, block, columns, block)
    valid = np.isfinite(blocks)
    counts = valid.sum(axis=(1, 3))
    sums = np.where(valid, blocks, 0.0).sum(axis=(1, 3))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _stats(field: np.ndarray) -> list[float] | None:
    """Return mean and maximum of a map with three digits; None without any value."""
    valid = field[np.isfinite(field)]
    return [float(f"{one:.3g}") for one in (valid.mean(), valid.max())] if valid.size else None


def picture(field: np.ndarray, scale: RainScale) -> str:
    """Return a map (y, x) in the colours of a scale, as PNG in base64."""
    from PIL import Image

    chart, _ = scale.colours()
    classes = np.searchsorted(scale.levels, field, side="right") - 1
    codes = np.where(np.isfinite(field), np.clip(classes, 0, chart.N - 1), chart.N)
    image = Image.frombytes("P", field.shape[::-1], codes.astype(np.uint8).tobytes())
    colours = [chart(i, bytes=True)[:3] for i in range(chart.N)] + [chart.get_bad()[:3] * 255]
    image.putpalette([round(float(part)) for colour in colours for part in colour])
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True, bits=4)
    return base64.b64encode(content.getvalue()).decode("ascii")


def script() -> str:
    """Return the script of the explorer, the only one of a report."""
    return resources.files(__package__).joinpath("explorer.js").read_text(encoding="utf-8")


def policy(*, explored: bool) -> str:
    """Write the tag that keeps a browser from running any other script, and from fetching."""
    run = ""
    if explored:
        digest = base64.b64encode(sha256(script().encode("utf-8")).digest()).decode("ascii")
        run = f" script-src 'sha256-{digest}';"
    return (
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"img-src data:; style-src 'unsafe-inline';{run} base-uri 'none'; form-action 'none'\">"
    )


def section(sets: Sequence[FieldSet]) -> str:
    """Write the explorer with its data and its script; "" without any set."""
    if not sets:
        return ""
    arrays = [part for one in sets for part in (one.observed, one.fields)]
    scale = RainScale.of(arrays, sets[0].units, daily=sets[0].daily)
    masked = any(np.isnan(part).any() for part in arrays)
    content = {
        "units": pretty(sets[0].units),
        "sets": [one.to_json(scale) for one in sets],
    }
    # No text of the data can end the element: "<" is written as an escape of JSON.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<h2 id="explore">Explore</h2><noscript><p>The explorer needs scripts.</p></noscript>'
        f"<div class=explore id=explorer hidden>{_controls()}<div class=maps>"
        f"{_map('coarse', 'Condition')}{_map('observed', 'Observed')}"
        f"{_map('a', 'Member', chosen=True)}{_map('b', 'Member', chosen=True)}</div>"
        f"{_legend(scale, sets[0].step, masked=masked)}</div>"
        f'<script type="application/json" id=explorer-data>{data}</script>'
        f"<script>{script()}</script>"
    )


def _controls() -> str:
    return (
        "<div class=controls><label>Fields <select data-part=set autocomplete=off></select></label>"
        "<label>Sample <select data-part=sample autocomplete=off></select></label>"
        "<label data-part=time hidden><span>Time <output></output></span>"
        "<input type=range min=0 step=1 value=0 autocomplete=off></label>"
        "<button type=button data-part=play hidden>Play</button></div>"
        "<p class=faint data-part=about></p>"
    )


def _map(kind: str, title: str, *, chosen: bool = False) -> str:
    choice = (
        "<fieldset data-part=members><legend>Member</legend></fieldset>"
        "<label data-part=spread>Spread <output></output>"
        "<input type=range min=0 step=1 value=0 autocomplete=off>"
        "<span class=ends><span>storm</span><span>prior</span></span></label>"
    )
    return (
        f"<figure data-map={kind}><figcaption>{title}</figcaption>"
        f'<canvas role=img aria-label="{title}"></canvas>'
        f"<p class=faint data-part=stats></p>{choice if chosen else ''}</figure>"
    )


def _legend(scale: RainScale, step: str, *, masked: bool) -> str:
    """Write the classes of the colour scale, each with its lower end."""
    chart, _ = scale.colours()
    colours = [chart(i, bytes=True)[:3] for i in range(chart.N)]
    texts = ["dry", *(f"{level:g}" for level in scale.levels[1 : chart.N])]
    boxes = [
        f'<li><i style="background:rgb({red},{green},{blue})"></i>{text}</li>'
        for (red, green, blue), text in zip(colours, texts, strict=True)
    ]
    boxes.append(f"<li>{escape(pretty(step))}</li>")
    if masked:
        boxes.append(f'<li><i style="background:{MASKED}"></i>no data</li>')
    return f"<ul class=legend>{''.join(boxes)}</ul>"
