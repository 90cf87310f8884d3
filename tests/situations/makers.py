"""Small Datasets as people have them, and the answers that xcvae may give to one.

Every situation is a row of a table: a Dataset, how it is given to xcvae, and the answer. `right`
asserts facts of what xcvae read, `refused` an `XcvaeError` whose message contains the given
patterns (the name of what is wrong, and a remedy), `warned` a warning that does. `either` accepts
any of several answers, where more than one serves the user.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xcvae.errors import XcvaeError
from xcvae.fields.describe import DataSpec, describe, prepare
from xcvae.fields.grids import stretching
from xcvae.fields.validation import check_values

#: A network that trains a step in milliseconds.
SMALLEST = {"channels": [8, 8], "latents": [2, 1], "blocks": 1}
STEP = {"max_steps": 1, "batch_size": 2}

DEGREES = {
    "lat": {"units": "degrees_north", "standard_name": "latitude"},
    "lon": {"units": "degrees_east", "standard_name": "longitude"},
    "rlat": {"units": "degrees", "standard_name": "grid_latitude"},
    "rlon": {"units": "degrees", "standard_name": "grid_longitude"},
    "y": {"units": "m", "standard_name": "projection_y_coordinate"},
    "x": {"units": "m", "standard_name": "projection_x_coordinate"},
}


# --- answers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """Expected answer to a situation.

    Attributes
    ----------
    kind
        ``right``, ``refused`` or ``warned``.
    words
        Patterns that the message must contain, in any case of letters.
    facts
        Properties of what was read, see `facts_of`.
    """

    kind: str
    words: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def check(self, act: Callable[[], Mapping[str, Any]]) -> None:
        """Run a situation, and fail unless the answer is this one."""
        if self.kind == "refused":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # another answer of `either` expects the warning
                with pytest.raises(XcvaeError) as caught:
                    act()
            self._check_words(str(caught.value))
            return
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            facts = act()
        texts = "\n".join(str(one.message) for one in found)
        if self.kind == "warned":
            assert texts, "no warning"
            self._check_words(texts)
        else:
            assert not texts
        for name, wanted in self.facts.items():
            expected = pytest.approx(wanted, rel=1e-5) if isinstance(wanted, float) else wanted
            assert facts[name] == expected, f"{name}: {facts[name]!r} instead of {wanted!r}"

    def _check_words(self, text: str) -> None:
        for word in self.words:
            assert re.search(word, text, re.IGNORECASE), f"{word!r} is not in: {text}"


@dataclass(frozen=True)
class AnyOf:
    """One of several answers."""

    answers: tuple[Answer, ...]

    def check(self, act: Callable[[], Mapping[str, Any]]) -> None:
        """Run a situation once per answer, and fail unless one of them is given."""
        problems: list[str] = []
        for answer in self.answers:
            try:
                answer.check(act)
            except (AssertionError, XcvaeError, pytest.fail.Exception) as error:
                problems.append(f"{answer.kind}: {error}")
            else:
                return
        pytest.fail("\n".join(problems))


def right(**facts: Any) -> Answer:
    """Expect facts, and no warning."""
    return Answer("right", facts=facts)


def refused(*words: str) -> Answer:
    """Expect an error of xcvae with a message that has these patterns."""
    return Answer("refused", words)


def warned(*words: str, **facts: Any) -> Answer:
    """Expect a warning with these patterns, and facts."""
    return Answer("warned", words, facts)


def either(*answers: Answer) -> AnyOf:
    """Expect any of several answers."""
    return AnyOf(answers)


def case(
    name: str,
    make: Callable[[], Any],
    answer: Answer | AnyOf,
    *marks: pytest.MarkDecorator,
    **options: Any,
) -> Any:
    """Return a row of a table: (make, answer, options)."""
    return pytest.param(make, answer, options, id=name, marks=marks)


# --- what xcvae reads --------------------------------------------------------------------------


def admit(ds: xr.Dataset, **options: Any) -> dict[str, Any]:
    """Read a Dataset as `xcvae.train` does before the first step; return the facts."""
    spec = describe(ds, **options)
    ready = prepare(ds, spec, need_target=True)
    check_values(ready, spec)
    return facts_of(spec, ready)


def facts_of(spec: DataSpec, ready: xr.Dataset) -> dict[str, Any]:
    """Return what was read, by name."""
    target = ready[spec.target]
    return {
        "target": spec.target,
        "units": spec.units,
        "dims": (spec.sample, spec.y, spec.x),
        "shape": spec.shape,
        "daily": spec.daily,
        "wet": spec.wet_threshold,
        "drizzle": spec.drizzle_threshold,
        "maximum": float(target.max()),
        "mean": float(target.mean(dtype=np.float64)),
        "valid": float(target.notnull().mean()),
        "order": target.dims,
        "roles": {variable.name: role_of(variable) for variable in spec.variables},
        "rain": {variable.name for variable in spec.variables if variable.precipitation},
        "spec": spec,
        "ready": ready,
    }


def role_of(variable: Any) -> str:
    """Return "static", "regridded", or where a condition is, such as "aligned, pooled"."""
    if variable.role == "static":
        return "static"
    if variable.regrid:
        return "regridded"
    places = {"aligned": variable.aligned, "pooled": variable.pooled}
    return ", ".join(name for name, there in places.items() if there)


def seen(facts: Mapping[str, Any], name: str) -> np.ndarray:
    """Return a condition as the network sees it, on the target's grid: (sample, y, x)."""
    spec, ready = facts["spec"], facts["ready"]
    variable = next(one for one in spec.variables if one.name == name)
    values = ready[name].values
    if variable.dims == (spec.y, spec.x) or variable.regrid:
        return values
    rows, columns = stretching(ready, variable, spec, spec.shape)
    return np.einsum("ij,tjk,lk->til", rows, values, columns)


# --- Datasets ----------------------------------------------------------------------------------


def times(n: int = 6, freq: str = "D") -> pd.DatetimeIndex:
    """Return n times from 2001-01-01 on."""
    return pd.date_range("2001-01-01", periods=n, freq=freq).as_unit("ns")


def axis(name: str, start: float, step: float, n: int, kind: str = "") -> xr.DataArray:
    """Return a coordinate with the CF attributes of its kind, by default that of its name."""
    values = start + step * np.arange(n)
    return xr.DataArray(
        values, dims=name, name=name, attrs=DEGREES[kind or name.split("_", maxsplit=1)[0]]
    )


def rain(
    *,
    dims: Sequence[str] = ("time", "y", "x"),
    shape: Sequence[int] = (6, 12, 12),
    coords: Mapping[str, Any] | None = None,
    name: str = "pr",
    units: str = "mm/day",
    size: float = 4.0,
    seed: int = 0,
    **attrs: Any,
) -> xr.DataArray:
    """Return rain of gamma distribution, daily unless ``coords`` say otherwise.

    ``size`` is the scale of the values, in ``units``. Coordinates of dims give the shape.
    """
    given = {"time": times(6), **(coords or {})}
    lengths = [len(given[d]) if d in given else n for d, n in zip(dims, shape, strict=True)]
    values = np.random.default_rng(seed).gamma(0.5, size, lengths).astype(np.float32)
    known = {key: value for key, value in given.items() if key in dims or key in (coords or {})}
    return xr.DataArray(values, known, dims, name, {"units": units, **attrs})


def predictor(
    *coords: xr.DataArray,
    name: str = "t",
    units: str = "K",
    samples: Any = None,
    **attrs: Any,
) -> xr.DataArray:
    """Return a field that is linear along its axes, 250 + 0.5 y + 0.25 x, the same at all times."""
    y, x = coords
    time = times(6) if samples is None else samples
    plane = (250.0 + 0.5 * y + 0.25 * x).transpose(y.name, x.name)
    plane = plane.assign_coords({y.name: y, x.name: x})
    return plane.expand_dims(time=time).rename(name).assign_attrs({"units": units, **attrs})


def together(target: xr.DataArray, *others: xr.DataArray) -> xr.Dataset:
    """Return a Dataset of named fields; without others, with a number per sample."""
    fields = [target, *others]
    if not others:
        sample = next(d for d in target.dims if d not in target.dims[-2:])
        number = np.linspace(270.0, 280.0, target.sizes[sample])
        fields.append(xr.DataArray(number, dims=sample, name="t", attrs={"units": "K"}))
    return xr.Dataset({str(one.name): one for one in fields})
