"""Networks that are trained by recipes, and what they get right, counted and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xcvae.metrics.maps import Array
from xcvae.verify.mixtures import Fields

if TYPE_CHECKING:
    from xcvae.verify.superresolution import Pool, Settings

__all__ = ["COUNTS", "Mix", "Trials"]

#: What is counted per sample and threshold.
COUNTS = ("hits", "misses", "false_alarms", "correct_negatives", "error")

Mix = Sequence[tuple[Fields, float]]
"""What is added to the record, with shares."""


@dataclass(eq=False)
class Trials:
    """Trains and counts, or reads what was counted before.

    Attributes
    ----------
    record, test
        Real rain.
    limits
        Thresholds of events, in the units of the record.
    settings
        Of every network.
    device
        "auto", "cpu" or "cuda".
    keep
        Folder for counts; None keeps nothing.
    """

    record: Fields
    test: Fields
    limits: Array
    settings: Settings
    device: str
    keep: Path | None
    digests: dict[int, str] = field(default_factory=dict)

    def run(
        self,
        mixes: Mapping[str, Mix],
        losses: Sequence[str],
        seeds: int,
        *,
        progress: bool,
    ) -> Array:
        """Return counts: (loss, recipe, seed, sample, level, count)."""
        from tqdm import tqdm

        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
        total = len(losses) * len(mixes) * seeds
        found = []
        with tqdm(total=total, unit="network", disable=None if progress else True) as bar:
            for mix in mixes.values():
                pools = self._pools(mix)
                for loss in losses:
                    for seed in range(seeds):
                        found.append(self._counts(mix, pools, loss, seed))
                        bar.update()
        shape = (len(mixes), len(losses), seeds, *found[0].shape)
        return np.stack(found).reshape(shape).swapaxes(0, 1)

    def _pools(self, mix: Mix) -> list[Pool]:
        from xcvae.verify.superresolution import Pool

        rest = 1.0 - sum(share for _, share in mix)
        return [Pool(f.coarse, f.fine, share) for f, share in ((self.record, rest), *mix)]

    def _counts(self, mix: Mix, pools: list[Pool], loss: str, seed: int) -> Array:
        """Train one network and count; (sample, level, count)."""
        from xcvae.generator.numerics import choose_device
        from xcvae.verify.superresolution import learn, predict

        place = None
        if self.keep is not None:
            place = self.keep / f"{self._identity(mix, loss, seed)}.npy"
            if place.exists():
                return np.asarray(np.load(place))
        network = learn(
            pools,
            factor=self.record.factor,
            loss=loss,
            settings=self.settings,
            seed=seed,
            device=choose_device(self.device),
        )
        rain = self.test.scaling.physical(predict(network, self.test.coarse)).numpy()
        counts = np.stack([_counted(rain, self.test.rain, t) for t in self.limits], axis=1)
        if place is not None:
            partial = place.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, counts)
            partial.replace(place)
        return counts

    def _identity(self, mix: Mix, loss: str, seed: int) -> str:
        """Name what a network's counts depend on."""
        content = {
            "data": [self._digest(f) for f in (self.record, self.test, *(f for f, _ in mix))],
            "shares": [share for _, share in mix],
            "factor": self.record.factor,
            "limits": self.limits.tolist(),
            "settings": asdict(self.settings),
            "loss": loss,
            "seed": seed,
            "device": self.device,
            "xcvae": version("xcvae"),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]

    def _digest(self, fields: Fields) -> str:
        if id(fields) not in self.digests:
            self.digests[id(fields)] = hashlib.sha256(fields.rain.tobytes()).hexdigest()
        return self.digests[id(fields)]


def _counted(rain: Array, truth: Array, limit: float) -> Array:
    """Count events and add up errors above a threshold; (sample, count) in the order of COUNTS."""
    forecast, observed = rain >= limit, truth >= limit
    error = np.abs(np.maximum(rain, limit) - np.maximum(truth, limit))
    parts = (forecast & observed, ~forecast & observed, forecast & ~observed)
    sums = [part.sum(axis=(1, 2), dtype=np.float64) for part in parts]
    sums += [truth[0].size - sum(sums), error.sum(axis=(1, 2), dtype=np.float64)]
    return np.stack(sums, axis=1)
