"""Parameters are checked against the annotations of the dataclass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from xcvae.errors import ComponentError
from xcvae.registry import Component
from xcvae.registry.components import Range, check_class, checked, parameters_of


@dataclass(frozen=True)
class Sample(Component):
    """A component with one parameter of every sort."""

    size: int = 3
    scale: float = 1.0
    value: str | float = "0.1 mm h-1"
    kind: Literal["low", "high", 2] = "low"
    window: tuple[int, int] = (1, 1)
    levels: tuple[float, ...] = ()
    names: list[str] = field(default_factory=list)
    anything: Any = None
    flag: bool = False
    limit: float | None = None
    weights: dict[str, float] = field(default_factory=dict)
    seconds: Sequence[int] = ()


@dataclass(frozen=True)
class Needy:
    """A dataclass of a third party, without the base class, with a required parameter."""

    threshold: float


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("size", 5, 5),
        ("size", np.int32(5), 5),
        ("scale", 2, 2.0),
        ("scale", np.float32(0.5), 0.5),
        ("value", "1 mm", "1 mm"),
        ("value", 2, 2.0),
        ("kind", "high", "high"),
        ("kind", 2, 2),
        ("window", [3, 5], (3, 5)),
        ("levels", [1, 2.5], (1.0, 2.5)),
        ("names", ["a"], ["a"]),
        ("anything", {1: 2}, {1: 2}),
        ("flag", True, True),
        ("limit", None, None),
        ("limit", 3, 3.0),
        ("weights", {"a": 1}, {"a": 1.0}),
        ("seconds", [1, 2], (1, 2)),
    ],
)
def test_checked_passes_or_converts_fitting_values(name: str, given: object, kept: object) -> None:
    found = checked("loss 'sample'", Sample, {name: given})[name]
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("size", True, "an integer"),
        ("size", 1.5, "an integer"),
        ("size", "3", "an integer"),
        ("scale", False, "a number"),
        ("scale", float("nan"), "a number"),
        ("value", None, "text or a number"),
        ("kind", "middle", "one of 'low', 'high', 2"),
        ("kind", 2.0, "one of 'low', 'high', 2"),
        ("window", [3], "a list of an integer, an integer"),
        ("window", [3, "5"], "a list of an integer, an integer"),
        ("levels", "123", r"a list of \(a number\)"),
        ("levels", [True], r"a list of \(a number\)"),
        ("names", [1], r"a list of \(text\)"),
        ("flag", 1, "true or false"),
        ("limit", "3", "a number or None"),
        ("weights", {"a": "b"}, "dict"),
        ("weights", ["a"], "dict"),
    ],
)
def test_checked_names_the_expected_type(name: str, given: object, words: str) -> None:
    with pytest.raises(
        ComponentError, match=rf"loss 'sample', parameter '{name}': expected {words}"
    ):
        checked("loss 'sample'", Sample, {name: given})


def test_checked_suggests_the_nearest_parameter() -> None:
    with pytest.raises(ComponentError, match=r"unknown parameter 'scael'. Did you mean 'scale'"):
        checked("loss 'sample'", Sample, {"scael": 1.0})


def test_checked_names_a_missing_parameter() -> None:
    with pytest.raises(ComponentError, match="'threshold' is required"):
        checked("metric 'needy'", Needy, {})


def test_checked_explains_numbers_that_are_texts() -> None:
    with pytest.raises(ComponentError, match=r"without quotes\. .* write 1\.0e-3"):
        checked("loss 'sample'", Sample, {"scale": "1e-3"})
    with pytest.raises(ComponentError, match=r"Write the number without quotes\.$"):
        checked("loss 'sample'", Sample, {"scale": "0.5"})


def test_parameters_of_returns_json_types() -> None:
    parameters = Sample(levels=(1.0, 2.0), limit=np.float64(2.5), anything=np.int16(4)).parameters()
    assert json.loads(json.dumps(parameters))["levels"] == [1.0, 2.0]
    assert type(parameters["limit"]) is float
    assert type(parameters["anything"]) is int
    assert parameters_of(Sample(anything=Needy(1.0)))["anything"] == {"threshold": 1.0}
    assert parameters_of(len) == {}


def test_check_class_refuses_an_undecorated_class() -> None:
    class Plain(Component):
        size: int = 3

    with pytest.raises(ComponentError, match="dataclass"):
        check_class("loss 'plain'", Plain)


def test_check_class_refuses_reserved_field_names() -> None:
    @dataclass(frozen=True)
    class Named(Component):
        name: str = "x"

    with pytest.raises(ComponentError, match="parameter 'name'"):
        check_class("loss 'named'", Named)


def test_checked_explains_unresolvable_annotations() -> None:
    @dataclass(frozen=True)
    class Odd(Component):
        size: Unimported = 3  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ComponentError, match="annotation cannot be resolved"):
        checked("loss 'odd'", Odd, {"size": 3})


@dataclass(frozen=True)
class Quantiles(Component):
    """A component whose items have a range."""

    levels: tuple[Annotated[float, Range(0, 1)], ...] = (0.5,)
    pairs: Sequence[Annotated[int, Range(1)]] | None = None


@pytest.mark.parametrize(
    "given",
    [
        {"levels": (0.5, 1.5)},
        {"pairs": [2, 0]},
        {"pairs": [np.int64(0)]},
        {"levels": (np.float32(1.5),)},
    ],
)
def test_items_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ComponentError, match="expected a number"):
        Quantiles(**given)
    assert Quantiles(levels=(0.0, 1.0), pairs=None).levels == (0.0, 1.0)
