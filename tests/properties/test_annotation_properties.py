"""Properties of components that are checked against their annotations."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from xcvae.errors import ComponentError
from xcvae.registry import Component
from xcvae.registry.components import Range, construct, parameters_of

LABEL = "loss 'made'"
finite = st.floats(allow_nan=False, allow_infinity=False)
#: Annotation -> values that fit it, as YAML gives them.
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**60), 2**60),
    float: finite,
    str: st.text(),
    bool: st.booleans(),
    Literal["low", "high"]: st.sampled_from(["low", "high"]),
}


def fitting(hint: Any, values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return values.map(lambda value: (hint, value))


scalars = st.one_of(*(fitting(hint, values) for hint, values in SCALARS.items()))
lists = st.sampled_from([int, float, str]).flatmap(
    lambda hint: fitting(tuple[hint, ...], st.lists(SCALARS[hint], max_size=4))
)
options = st.sampled_from([int, float, str]).flatmap(
    lambda hint: fitting(hint | None, st.none() | SCALARS[hint])
)
tables = fitting(dict[str, float], st.dictionaries(st.text(), finite, max_size=3))
pairs = st.one_of(scalars, lists, options, tables)


def component(*hints: Any) -> type:
    fields = [(f"p{number}", hint) for number, hint in enumerate(hints)]
    return dataclasses.make_dataclass("Made", fields, bases=(Component,), frozen=True)


@given(st.lists(pairs, min_size=1, max_size=4))
def test_fitting_parameters_survive_json(chosen: list[tuple[Any, Any]]) -> None:
    cls = component(*(hint for hint, _ in chosen))
    given_ = {f"p{number}": value for number, (_, value) in enumerate(chosen)}
    made = construct(LABEL, cls, given_)
    parameters = parameters_of(made)
    assert construct(LABEL, cls, json.loads(json.dumps(parameters))) == made
    for (hint, value), found in zip(chosen, dataclasses.astuple(made), strict=True):
        assert type(found) is tuple if isinstance(value, list) else found == value
        assert type(found) is not int or hint not in (float, float | None)


@given(st.sampled_from([int, float, str, bool]), st.sampled_from([int, float, str, bool]))
def test_values_of_another_type_are_refused_by_name(wanted: type, other: type) -> None:
    assume(wanted is not other and (wanted, other) != (float, int))  # an integer is a number too
    value = {int: 3, float: 0.5, str: "x", bool: True}[other]
    with pytest.raises(ComponentError, match=f"{LABEL}, parameter 'p0': expected"):
        construct(LABEL, component(wanted), {"p0": value})


bounds = st.integers(-50, 50)


@given(bounds, bounds, st.floats(-200, 200), st.sampled_from([float, float | None, str | float]))
def test_ranges_split_numbers_into_accepted_and_refused(
    one: int, other: int, value: float, hint: Any
) -> None:
    low, high = sorted((one, other))
    allowed = Range(low, high)
    cls = component(Annotated[hint, allowed])
    if low <= value <= high:
        assert construct(LABEL, cls, {"p0": value}).p0 == value
        assert cls(value).p0 == value
    else:
        for make in (lambda: construct(LABEL, cls, {"p0": value}), lambda: cls(value)):
            with pytest.raises(ComponentError, match=rf"'p0': expected a number {allowed}, got"):
                make()


@given(bounds, st.floats(allow_nan=True))
def test_open_bounds_refuse_the_bound_itself(bound: int, value: float) -> None:
    cls = component(Annotated[float, Range(above=bound)])
    for one in (value, float(bound), math.nextafter(bound, -math.inf)):
        if one > bound:
            assert cls(one).p0 == one
        else:
            with pytest.raises(ComponentError, match=f"expected a number above {bound}"):
                cls(one)


@given(st.text() | st.none())
def test_ranges_pass_text_and_none(value: str | None) -> None:
    cls = component(Annotated[str | float | None, Range(above=0)])
    assert construct(LABEL, cls, {"p0": value}).p0 == value
