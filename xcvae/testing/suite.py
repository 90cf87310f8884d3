"""The checks of every component: documentation, parameters, pickling, determinism."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_type_hints

import cloudpickle
import numpy as np
import yaml

from xcvae.errors import ComponentError
from xcvae.registry import Kind, registry
from xcvae.registry.components import check_class, construct, parameters_of
from xcvae.registry.signatures import doc_of

UNKNOWN = "no_such_parameter"


def demand(condition: object, message: str) -> None:
    """Fail a check with a message: pytest does not rewrite ``assert`` in this module."""
    if not condition:
        raise AssertionError(message)


class Suite(ABC):
    """Checks of a component; the suites of the kinds add theirs.

    Attributes
    ----------
    component
        The tested component: a class, a registered name, or ``{"name": ..., parameters}``.
    parameters
        Parameters for the test; those without a default must be given.
    refused
        Parameters that are out of range, each of which must be refused by itself.
    same_in_any_units
        True if the parameters mean the same in any units of the data; False if one is a bare
        number in the units of the data. Losses are tested in units of their own.
    """

    kind: ClassVar[Kind]
    component: ClassVar[Any]
    parameters: ClassVar[Mapping[str, Any]] = {}
    refused: ClassVar[Sequence[Mapping[str, Any]]] = ()
    same_in_any_units: ClassVar[bool] = True

    @property
    def cls(self) -> type:
        """The tested class."""
        if isinstance(self.component, Mapping):
            return registry().resolve(self.kind, self.component["name"])
        if isinstance(self.component, str):
            return registry().resolve(self.kind, self.component)
        return check_class(self.label, self.component)

    @property
    def label(self) -> str:
        """The component in messages."""
        one = self.component
        name = one["name"] if isinstance(one, Mapping) else getattr(one, "__name__", one)
        return f"{self.kind} '{name}'"

    def given(self) -> dict[str, Any]:
        """Return the parameters that the suite tests with."""
        own = dict(self.component) if isinstance(self.component, Mapping) else {}
        own.pop("name", None)
        return own | dict(self.parameters)

    def make(self, **changes: Any) -> Any:
        """Make the component as the registry does, with its parameters checked."""
        return construct(self.label, self.cls, self.given() | changes)

    @abstractmethod
    def outcome(self, component: Any) -> Any:
        """Return the result of the component for the standard input of the suite, as an array."""

    def same(self, first: Any, second: Any) -> bool:
        """Return True if two outcomes are equal to the last bit."""
        return np.array_equal(first, second, equal_nan=True)

    def test_it_has_a_doc_line(self) -> None:
        """Check the docstring of the class: `xcvae plugins` shows its first line."""
        written = doc_of(self.cls)
        demand(written, f"{self.label} has no docstring: its first line is what users see of it")

    def test_it_is_callable(self) -> None:
        """Check that instances can be called."""
        demand(callable(self.make()), f"{self.label} has no __call__")

    def test_parameters_round_trip_through_yaml(self) -> None:
        """Check that parameters survive YAML and make the same component again."""
        before = self.make()
        text = yaml.safe_dump(parameters_of(before))
        after = construct(self.label, self.cls, yaml.safe_load(text) or {})
        demand(
            parameters_of(after) == parameters_of(before),
            f"{self.label}: parameters changed on the way through YAML, from "
            f"{parameters_of(before)} to {parameters_of(after)}",
        )
        demand(
            self.same(self.outcome(before), self.outcome(after)),
            f"{self.label}: made again from its parameters, it gives another result",
        )

    def test_parameters_it_does_not_know_are_refused(self) -> None:
        """Check that the error for an unknown parameter names it."""
        message = self._refusal({UNKNOWN: 1}, "the unknown parameter")
        demand(UNKNOWN in message, f"{self.label}: {message!r} does not name the parameter")

    def test_wrong_types_are_refused(self) -> None:
        """Check that every parameter with a definite type refuses another type."""
        hints = get_type_hints(self.cls)
        for name in self._names():
            if hints[name] not in (Any, object):
                message = self._refusal({name: object()}, f"an object() for '{name}'")
                demand(name in message, f"{self.label}: {message!r} does not name '{name}'")

    def test_values_out_of_range_are_refused(self) -> None:
        """Check that NaN and the parameters in `refused` are errors."""
        hints = get_type_hints(self.cls)
        numbers = [{name: math.nan} for name in self._names() if hints[name] is float]
        for wrong in (*numbers, *self.refused):
            self._refusal(wrong, f"parameters out of range, {dict(wrong)},")

    def test_it_survives_pickling(self) -> None:
        """Check that a pickled component, as sent to a Dask worker, is the same."""
        before = self.make()
        try:
            after = cloudpickle.loads(cloudpickle.dumps(before))
        except Exception as error:
            raise AssertionError(f"{self.label} cannot be pickled: {error!r}") from error
        demand(
            self.same(self.outcome(before), self.outcome(after)),
            f"{self.label}: after pickling it gives another result",
        )

    def test_it_is_deterministic(self) -> None:
        """Check that two calls give the same result and leave the parameters unchanged."""
        component = self.make()
        before = parameters_of(component)
        first, second = self.outcome(component), self.outcome(component)
        demand(self.same(first, second), f"{self.label}: two calls give two results")
        demand(
            self.same(first, self.outcome(self.make())), f"{self.label}: a second one gives another"
        )
        demand(parameters_of(component) == before, f"{self.label}: a call changes its parameters")

    def _names(self) -> list[str]:
        return [f.name for f in dataclasses.fields(self.cls) if f.init]

    def _refusal(self, changes: Mapping[str, Any], what: str) -> str:
        """Return the message with which parameters are refused."""
        try:
            self.make(**changes)
        except ComponentError as error:
            return str(error)
        raise AssertionError(f"{self.label} accepts {what} instead of raising ComponentError")
