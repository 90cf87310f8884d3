"""The options of ``sample``: one declaration for signature, configuration, store and attributes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields

import pytest

import xcvae
from xcvae.config.schema import SampleSection
from xcvae.ensemble.request import SampleOptions, SampleRequest, recorded

REQUESTS = [
    SampleRequest(),
    SampleRequest(mode="posterior", members=3, seed=5),
    SampleRequest(mode="posterior", spread=0.25, temperature=0.9),
    SampleRequest(mode="posterior", diversity=0.2),
    SampleRequest(members=range(16, 66)),
    SampleRequest(storms=[{"name": "turn", "degrees": 180}], cap="none"),
    SampleRequest(temporal="coherent", timescales=["2 h", "30min", 0]),
    SampleRequest(min_mass=0.5, tile={"y": 16}, postprocess=[]),
]


def test_request_has_every_option_of_sample_with_the_same_default():
    parameters = dict(list(inspect.signature(xcvae.sample).parameters.items())[2:])
    assert {one.name: one.default for one in fields(SampleRequest)} == {
        name: one.default for name, one in parameters.items()
    }


def test_configuration_has_every_shared_option_with_the_same_default():
    section = {one.name: one.default for one in fields(SampleSection)}
    shared = {one.name: one.default for one in fields(SampleOptions)}
    assert shared.items() <= section.items()
    assert section.keys() - shared.keys() == {"model", "name", "part", "samples"}


@pytest.mark.parametrize("request_", REQUESTS)
def test_request_is_rebuilt_from_its_identity(request_):
    again = SampleRequest.from_identity(request_.identity())
    assert again.identity() == request_.identity()


def test_request_of_an_older_store_has_defaults_for_options_that_it_lacks():
    identity = SampleRequest(seed=3).identity()
    del identity["tile"]
    assert SampleRequest.from_identity(identity) == SampleRequest(seed=3)


def test_identity_has_the_keys_of_the_ledger_in_their_order():
    assert list(SampleRequest(chunks={"time": 2}, device="cpu").identity()) == [
        "seed", "mode", "spread", "diversity", "temperature", "members", "postprocess", "min_mass",
        "tile",
    ]  # fmt: skip


def test_attributes_repeat_the_identity_without_the_tile():
    request = REQUESTS[-1]
    assert request.identity().keys() - request.attributes().keys() == {"tile"}
    assert request.attributes().items() <= request.identity().items()


@pytest.mark.parametrize(("given", "spread"), [({}, 0.5), ({"diversity": 0.2}, None)])
def test_identity_records_the_spread_that_is_drawn_with(given, spread):
    assert SampleRequest().identity()["spread"] == 1.0
    assert SampleRequest(mode="posterior", **given).identity()["spread"] == spread


def test_section_of_a_configuration_reads_timescales_as_durations():
    section = SampleSection(name="a", temporal="coherent", timescales=["1h", 90, 0])
    assert section.arguments()["timescales"] == [3600.0, 90.0, 0.0]


@dataclass(frozen=True, kw_only=True)
class Extended(SampleRequest):
    """The options of a later version."""

    jitter: float = recorded(0.0, added_later=True)


def test_option_added_later_is_recorded_only_where_it_differs_from_its_default():
    assert Extended().identity() == SampleRequest().identity()
    changed = Extended(jitter=0.5)
    assert changed.identity() == {**SampleRequest().identity(), "jitter": 0.5}
    assert changed.attributes()["jitter"] == 0.5
    assert Extended.from_identity(changed.identity()) == changed
    assert Extended.from_identity(SampleRequest().identity()) == Extended()
