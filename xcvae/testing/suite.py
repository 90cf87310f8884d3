"""What every component must be, whatever its kind: documented, checked, and safe to send about."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_type_hints

import cloudpickle
import yaml

from xcvae.errors import ComponentError
from xcvae.registry import Kind, registry
from xcvae.registry.components import check_class, construct, parameters_of
from xcvae.registry.signatures import doc_of

__all__ = ["Suite", "demand"]

UNKNOWN = "no_such_parameter"


def demand(condition: object, message: str) -> None:
    """Fail a check; as plain ``assert`` says nothing in a module that pytest does not rewrite."""
    if not condition:
        raise AssertionError(message)


class Suite(ABC):
    """Checks of a component; the suites of the kinds add theirs.

    Attributes
    ----------
    component : type, str or dict
        What is tested: a class, a registered name, or ``{"name": ..., parameters}``.
    parameters : dict
        Parameters to test it with; those that have no default must be given.
    refused : list of dict
        Parameters that are out of range, each to be refused by itself.
    """

    kind: ClassVar[Kind]
    component: ClassVar[Any]
    parameters: ClassVar[Mapping[str, Any]] = {}
    refused: ClassVar[Sequence[Mapping[str, Any]]] = ()

    # --- what the checks are made of -----------------------------------------------------------

    @property
    def cls(self) -> type:
        """The class that is tested."""
        if isinstance(self.component, Mapping):
            return registry().resolve(self.kind, self.component["name"])
        if isinstance(self.component, str):
            return registry().resolve(self.kind, self.component)
        return check_class(self.label, self.component)

    @property
    def label(self) -> str:
        """How messages call the component."""
        one = self.component
        name = one["name"] if isinstance(one, Mapping) else getattr(one, "__name__", one)
        return f"{self.kind} '{name}'"

    def given(self) -> dict[str, Any]:
        """Return the parameters that the suite tests with."""
        own = dict(self.component) if isinstance(self.component, Mapping) else {}
        own.pop("name", None)
        return own | dict(self.parameters)

    def make(self, **changes: Any) -> Any:
        """Make the component as the registry does, its parameters checked."""
        return construct(self.label, self.cls, self.given() | changes)

    @abstractmethod
    def outcome(self, component: Any) -> Any:
        """Return what the component gives for the suite's standard input, as an array."""

    @abstractmethod
    def same(self, first: Any, second: Any) -> bool:
        """Whether two outcomes are equal to the last bit."""

    # --- the checks ----------------------------------------------------------------------------

    def test_it_has_a_doc_line(self) -> None:
        """The class has a docstring of its own: `xcvae plugins` shows its first line."""
        written = doc_of(self.cls)
        demand(written, f"{self.label} has no docstring: its first line is what users see of it")

    def test_it_is_callable(self) -> None:
        """Instances can be called."""
        demand(callable(self.make()), f"{self.label} has no __call__")

    def test_parameters_round_trip_through_yaml(self) -> None:
        """Parameters survive YAML, and make the same component again."""
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
        """An unknown parameter is an error that names it."""
        message = self._refusal({UNKNOWN: 1}, "the unknown parameter")
        demand(UNKNOWN in message, f"{self.label}: {message!r} does not name the parameter")

    def test_wrong_types_are_refused(self) -> None:
        """A value of the wrong type is an error, for every parameter with a definite type."""
        hints = get_type_hints(self.cls)
        for name in self._names():
            if hints[name] not in (Any, object):
                message = self._refusal({name: object()}, f"an object() for '{name}'")
                demand(name in message, f"{self.label}: {message!r} does not name '{name}'")

    def test_values_out_of_range_are_refused(self) -> None:
        """NaN, and what `refused` lists, are errors."""
        hints = get_type_hints(self.cls)
        numbers = [{name: math.nan} for name in self._names() if hints[name] is float]
        for wrong in (*numbers, *self.refused):
            self._refusal(wrong, f"parameters out of range, {dict(wrong)},")

    def test_it_survives_pickling(self) -> None:
        """A Dask worker gets the same component that was sent."""
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
        """Two calls with the same input give the same, and leave the parameters alone."""
        component = self.make()
        before = parameters_of(component)
        first, second = self.outcome(component), self.outcome(component)
        demand(self.same(first, second), f"{self.label}: two calls give two results")
        demand(
            self.same(first, self.outcome(self.make())), f"{self.label}: a second one gives another"
        )
        demand(parameters_of(component) == before, f"{self.label}: a call changes its parameters")

    # --- parts ---------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [f.name for f in dataclasses.fields(self.cls) if f.init]

    def _refusal(self, changes: Mapping[str, Any], what: str) -> str:
        """Return the message with which parameters are refused."""
        try:
            self.make(**changes)
        except ComponentError as error:
            return str(error)
        raise AssertionError(f"{self.label} accepts {what} instead of raising ComponentError")
