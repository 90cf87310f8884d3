"""The diversity of a source is that of its members, however few fit into memory at a time."""

from __future__ import annotations

import json

import pytest

from xcvae.ensemble import spread as solving
from xcvae.ensemble.sample import sample
from xcvae.ensemble.spread import MEMBERS
from xcvae.metrics.spatial import diversity


@pytest.mark.parametrize("at_once", [1, 4])
def test_samples_are_drawn_in_blocks_that_fit_into_memory(few, model, at_once, monkeypatch):
    drawn = []

    def spy(field, context):
        drawn.append(field.sizes["time"])
        return field

    asked = {"mode": "posterior", "members": MEMBERS, "diversity": 0.15, "postprocess": [spy]}
    whole = json.loads(sample(few, model, **asked).attrs["xcvae"])
    assert max(drawn) == few.sizes["time"]
    drawn.clear()
    monkeypatch.setattr(solving, "BLOCK_BYTES", at_once * 4 * MEMBERS * 48 * 36)
    ens = sample(few, model, **asked)
    assert max(drawn) == at_once
    told = json.loads(ens.attrs["xcvae"])
    assert told["spread"] == pytest.approx(whole["spread"], abs=1e-6)
    assert told["diversity_reached"] == pytest.approx(float(diversity(ens.pr, few.pr)), abs=1e-9)
