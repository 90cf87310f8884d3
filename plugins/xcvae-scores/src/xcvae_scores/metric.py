"""The one class of this package: a function of scores as a metric of xcvae."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, make_dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import xarray as xr

from xcvae.plugins import Component, in_range

if TYPE_CHECKING:
    from xcvae.plugins import Pair

__all__ = ["MEMBERS", "Better", "Entry", "Parameter", "ScoresMetric", "metric_class"]

MEMBERS = "realization"
"""The member dimension of every ensemble of xcvae."""

Better = str | float
"""Direction of a score: "lower", "higher" or the ideal value."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a metric.

    Attributes
    ----------
    name, annotation, default
        Of the field of the metric; None as default makes the parameter required.
    text
        Description in the docstring of the metric.
    argument
        Keyword argument that receives the value; by default the name.
    quantity
        Convert the value ("5 mm h-1") to a number in the units of the data.
    low, high, above
        Range of a number, as in `xcvae.plugins.in_range`.
    """

    name: str
    annotation: Any
    default: Any = None
    text: str = ""
    argument: str | None = None
    quantity: bool = False
    low: float = float("-inf")
    high: float = float("inf")
    above: float | None = None


@dataclass(frozen=True)
class Entry:
    """Declaration of one metric.

    Attributes
    ----------
    function
        Import path of the function, without ``scores``.
    inputs
        Passes a matched pair to the function, one of `xcvae_scores.inputs`. It receives the
        function, the pair and the parameters as keyword arguments, and returns a scalar.
    long_name
        Quantity that the score measures; a parameter ``score_name`` replaces it.
    better
        Direction of the score; a mapping from ``score_name`` where there is this parameter.
    units
        Of the score; None stands for those of the data.
    parameters
        Fields of the metric, in this order.
    note
        Further lines of the docstring.
    name
        Name of the metric after ``scores_``; by default that of the function.
    over
        "sample" for means over pixels: a scorecard averages the scores of samples. "record" for
        roots, ratios and correlations: a scorecard calls the function once, with all samples.
    """

    function: str
    inputs: Callable[..., xr.DataArray]
    long_name: str
    better: Better | Mapping[str, Better]
    units: str | None = "1"
    parameters: tuple[Parameter, ...] = ()
    note: str = ""
    name: str = ""
    over: Literal["sample", "record"] = "sample"

    def __post_init__(self) -> None:
        """Name the metric after its function, by default."""
        object.__setattr__(self, "name", self.name or self.function.rpartition(".")[2])

    @property
    def docstring(self) -> str:
        """Docstring of the metric: its quantity, its function, its parameters."""
        summary = self.long_name[0].upper() + self.long_name[1:]
        parts = [f"{summary}: scores.{self.function}.", self.note]
        if self.parameters:
            lines = [f"{one.name}\n    {one.text}" for one in self.parameters]
            parts.append("\n".join(["Parameters", "----------", *lines]))
        return "\n\n".join(part for part in parts if part)


@dataclass(frozen=True)
class ScoresMetric(Component):
    """A function of the package scores, applied to an ensemble and its observation.

    The result is lazy where the input is. `xcvae.evaluate` averages the scores of samples where the
    entry declares it, which equals the score of all samples together; it calls the other functions
    once, with all samples.

    Attributes
    ----------
    entry
        Declaration of the metric.
    """

    entry: ClassVar[Entry]

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        for one in self.entry.parameters:
            in_range(self, one.name, one.low, one.high, above=one.above)

    @property
    def over(self) -> Literal["sample", "record"]:
        """Samples of one call in a scorecard: "sample" or "record"."""
        return self.entry.over

    @property
    def units(self) -> str | None:
        """Units of the score; None stands for those of the data."""
        return self.entry.units

    @property
    def long_name(self) -> str:
        """Quantity that the score measures."""
        text = str(self.parameters().get("score_name", self.entry.long_name))
        return f"{text.replace('_', ' ')} (scores)"

    @property
    def better(self) -> Better:
        """Direction of the score: "lower", "higher" or the ideal value."""
        better = self.entry.better
        return better[self.parameters()["score_name"]] if isinstance(better, Mapping) else better

    def __call__(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Return the score with units, long_name and better.

        Parameters
        ----------
        forecast
            Dims (realization, sample, y, x), with ``units``.
        observed
            Dims (sample, y, x), with ``units``.

        Raises
        ------
        UnitsError, MismatchError
            The fields have no physical units, or do not match each other.
        """
        from xcvae.plugins import Pair, matched

        pair = matched(forecast, observed)
        valid = pair.observed.notnull() & pair.forecast.notnull().all(MEMBERS)
        members = pair.forecast.where(valid)
        if members.chunks:
            # scores compares members with each other, so they must lie in one chunk.
            members = members.chunk({MEMBERS: -1})
        pair = Pair(members, pair.observed.where(valid))
        score = self.entry.inputs(self._function(), pair, **self._arguments(pair))
        attrs = {
            "units": pair.units if self.units is None else self.units,
            "long_name": self.long_name,
            "better": self.better,
        }
        return score.drop_vars(list(score.coords)).drop_attrs().assign_attrs(attrs)

    def _function(self) -> Any:
        import scores.spatial  # which scores itself does not import

        return attrgetter(self.entry.function)(scores)

    def _arguments(self, pair: Pair) -> dict[str, Any]:
        from xcvae.plugins import threshold_in

        values = {one: getattr(self, one.name) for one in self.entry.parameters}
        return {
            one.argument or one.name: threshold_in(pair.observed, value) if one.quantity else value
            for one, value in values.items()
        }


def metric_class(entry: Entry, module: str) -> type[ScoresMetric]:
    """Return the metric that an entry declares.

    Parameters
    ----------
    entry
        The declaration.
    module
        Module that has the class as an attribute of its name, where pickle finds it.
    """
    fields = [
        (one.name, one.annotation, field(default=MISSING if one.default is None else one.default))
        for one in entry.parameters
    ]
    namespace = {"entry": entry, "__doc__": entry.docstring, "__module__": module}
    return make_dataclass(
        entry.name, fields, bases=(ScoresMetric,), namespace=namespace, frozen=True
    )
