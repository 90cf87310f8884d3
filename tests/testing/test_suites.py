"""Every check of the conformance suites fails for a component that breaks it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from xcvae.errors import UnitsError
from xcvae.plugins import Component, in_range, matched, parse_quantity, physical_units
from xcvae.testing import BaselineSuite, LossSuite, MetricSuite, PostprocessorSuite
from xcvae.testing.suite import Suite

Call = Callable[..., Any]


# --- sound components, which pass every check, and are then broken one way at a time -------------


@dataclass(frozen=True)
class Square(Component):
    """Squared error of the reconstruction.

    Parameters
    ----------
    weight
        Factor of the term.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        in_range(self, "weight", above=0)

    def __call__(self, state: Any) -> Any:
        return self.weight * state.mean((state.output - state.x) ** 2)


@dataclass(frozen=True)
class Cap(Component):
    """Cap rain at a limit.

    Parameters
    ----------
    limit
        A quantity with units.
    """

    limit: str = "4 mm h-1"

    def __call__(self, field: Any, context: Any) -> Any:
        limit = parse_quantity(self.limit, units=physical_units(field), what="cap")
        return field.clip(max=limit, keep_attrs=True)


@dataclass(frozen=True)
class Bias(Component):
    """Mean of the members minus the observation."""

    factor: float = 1.0

    def __call__(self, forecast: Any, observed: Any) -> Any:
        pair = matched(forecast, observed)
        error = (pair.forecast.mean("realization") - pair.observed).mean()
        attrs = {"units": observed.attrs["units"], "long_name": "bias", "better": 0.0}
        return (self.factor * error).assign_attrs(attrs)


@dataclass(frozen=True)
class Yesterday(Component):
    """The observed fields of other samples, in another order for every member."""

    factor: float = 1.0

    def __call__(self, dataset: Any, members: int, seed: int) -> Any:
        observed = dataset[dataset.attrs["target"]]
        sample = observed.dims[0]
        draw = np.random.default_rng(seed)
        shifts = draw.permutation(np.arange(1, observed.sizes[sample]))[:members]
        moved = [observed.roll({sample: int(s)}, roll_coords=False) for s in shifts]
        found = self.factor * xr.concat(moved, "realization", combine_attrs="override")
        return found.assign_attrs(units=observed.attrs["units"])


SUITES: dict[type, type[Suite]] = {
    Square: LossSuite,
    Cap: PostprocessorSuite,
    Bias: MetricSuite,
    Yesterday: BaselineSuite,
}


def checks_of(suite: type[Suite]) -> list[str]:
    return [name for name in dir(suite) if name.startswith("test_")]


def suite_of(sound: type, component: Any = None, **options: Any) -> Suite:
    own = {"component": sound if component is None else component, **options}
    made: Suite = type("Test", (SUITES[sound],), own)()
    return made


@pytest.mark.parametrize(
    ("sound", "check"),
    [(one, check) for one, suite in SUITES.items() for check in checks_of(suite)],
)
def test_suites_pass_a_sound_component(sound: type, check: str) -> None:
    refused = [{"weight": 0.0}] if sound is Square else []
    getattr(suite_of(sound, refused=refused), check)()


# --- broken components: the sound one they derive from, the check that must stop them -----------

BROKEN: list[tuple[type, str, Any]] = []


def broken(sound: type, *checks: str) -> Callable[[Any], Any]:
    def note(component: Any) -> Any:
        BROKEN.extend((sound, f"test_{check}", component) for check in checks)
        return component

    return note


def variant(sound: type, call: Call, *checks: str) -> None:
    """A sound component with another call."""
    own = {"__call__": lambda _, *given: call(*given), "__doc__": "Broken.", "__module__": __name__}
    cls = dataclass(frozen=True)(type(f"{sound.__name__}{len(BROKEN)}", (sound,), own))
    BROKEN.extend((sound, f"test_{check}", cls) for check in checks)


for sound in SUITES:

    @broken(sound, "it_has_a_doc_line")
    @dataclass(frozen=True)
    class Undocumented(sound):  # type: ignore[valid-type,misc]
        pass

    @broken(sound, "it_is_callable")
    @dataclass(frozen=True)
    class Mute(Component):
        """Cannot be called."""

    @broken(sound, "parameters_round_trip_through_yaml")
    @dataclass(frozen=True)
    class Drifting(sound):  # type: ignore[valid-type,misc]
        """Changes its own parameter in its constructor."""

        count: int = 0

        def __post_init__(self) -> None:
            object.__setattr__(self, "count", self.count + 1)

    @broken(sound, "it_survives_pickling")
    @dataclass(frozen=True)
    class Stuck(sound):  # type: ignore[valid-type,misc]
        """Cannot be pickled."""

        def __reduce__(self) -> Any:
            raise TypeError("cannot pickle this")

    @broken(sound, "it_is_deterministic")
    @dataclass(frozen=True)
    class Moody(sound):  # type: ignore[valid-type,misc]
        """Returns another result at every call."""

        def __call__(self, *given: Any) -> Any:
            return super().__call__(*given) * random.random()


del sound


@pytest.mark.parametrize("sound", SUITES)
def test_suite_finds_accepted_values_out_of_range(sound: type) -> None:
    with pytest.raises(AssertionError, match="out of range"):
        suite_of(sound, refused=[{}]).test_values_out_of_range_are_refused()
    accepting = suite_of(sound)
    accepting.make = lambda **_: None  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="unknown parameter"):
        accepting.test_parameters_it_does_not_know_are_refused()
    with pytest.raises(AssertionError, match=r"object\(\) for"):
        accepting.test_wrong_types_are_refused()


# Losses.
variant(Square, lambda state: (state.output - state.x) ** 2, "it_gives_one_finite_number")
variant(Square, lambda state: state.mean(state.output) / 0, "it_gives_one_finite_number")
variant(
    Square, lambda state: state.mean((state.x - state.output.detach()) ** 2),
    "gradients_arrive",
)  # fmt: skip
variant(
    Square, lambda state: state.mean((state.output - state.x) ** 2).sqrt(),
    "gradients_are_finite_at_the_edges",
)  # fmt: skip
variant(
    Square, lambda state: state.mean(state.output[..., :20, 30:] - state.x[..., :20, 30:]),
    "any_window_will_do",
)  # fmt: skip
variant(
    Square, lambda state: ((state.output - state.x) ** 2).mean(),
    "masked_values_have_no_influence",
)  # fmt: skip
variant(
    Square, lambda state: state.mean(torch.log(state.observed.clamp(max=1e-3) - 5e-4)
    * 0 + (state.output - state.x) ** 2), "it_works_in_other_units",
)  # fmt: skip


def _overwrites(state: Any) -> Any:
    error = state.mean((state.output - state.x) ** 2)
    state.x.mul_(state.mask * 0.5)
    return error


variant(Square, _overwrites, "its_input_is_not_changed")


def test_suite_finds_missing_gradients() -> None:
    with pytest.raises(AssertionError, match="no gradients arrive at 'kl'"):
        suite_of(Square, learns_from=("reconstruction", "kl")).test_gradients_arrive()  # type: ignore[attr-defined]


# Post-processors.
variant(Cap, lambda field, _: field.values, "units_dims_and_labels_are_kept")
variant(
    Cap, lambda field, _: field.drop_attrs(), "units_dims_and_labels_are_kept"
)  # fmt: skip
variant(
    Cap, lambda field, _: field.transpose("time", ...), "units_dims_and_labels_are_kept"
)  # fmt: skip
variant(
    Cap, lambda field, _: field.astype(float), "units_dims_and_labels_are_kept"
)  # fmt: skip
variant(
    Cap, lambda field, _: field.drop_vars("time"), "units_dims_and_labels_are_kept"
)  # fmt: skip
variant(Cap, lambda field, _: (field - 1).assign_attrs(field.attrs), "rain_stays_rain")
variant(Cap, lambda field, _: field / field.max(), "rain_stays_rain")
variant(Cap, lambda field, _: field.fillna(0.0), "the_mask_is_kept")
variant(
    Cap, lambda field, _: field.copy(data=field.values), "dask_in_dask_out"
)  # fmt: skip
variant(
    Cap, lambda field, _: field * field.mean() if field.chunks else field * 1.0,
    "dask_in_dask_out",
)  # fmt: skip
variant(
    Cap, lambda field, _: field.where(field < 0.8 * field.max(), 0.0),
    "the_block_does_not_matter",
)  # fmt: skip
variant(Cap, lambda field, _: field.where(field > 1.0, 0.0), "units_are_minded")
variant(
    Cap, lambda field, _: field * (1.0 if "units" in field.attrs else 2.0),
    "units_are_minded",
)  # fmt: skip


def _overwritten(field: Any, _: Any) -> Any:
    field.values[field.values < 1.0] = 0.0
    return field


variant(Cap, _overwritten, "its_input_is_not_changed")


# Metrics.
def _attributed(value: Any, observed: Any, **attrs: Any) -> Any:
    about = {"units": observed.attrs.get("units", "1"), "long_name": "bias", "better": 0.0}
    return xr.DataArray(value).assign_attrs({**about, **attrs})


variant(Bias, lambda f, o: (f - o).mean(keep_attrs=False), "the_score_says_what_it_is")
variant(
    Bias, lambda f, o: _attributed((f - o).mean(), o, better="low"),
    "the_score_says_what_it_is",
)  # fmt: skip
variant(Bias, lambda f, o: float((f - o).mean()), "the_score_says_what_it_is")
variant(
    Bias, lambda f, o: _attributed((f - o).mean(skipna=False), o),
    "the_score_is_a_finite_number",
)  # fmt: skip
variant(
    Bias, lambda f, o: _attributed((f - o).mean(["time", "y", "x"]), o),
    "the_score_is_a_finite_number",
)  # fmt: skip
variant(
    Bias, lambda f, o: _attributed((f.mean("realization") - o).std("time", ddof=1).mean(), o),
    "one_sample_is_enough",
)  # fmt: skip
variant(
    Bias, lambda f, o: _attributed(f.max("time").mean() - o.max("time").mean(), o),
    "scorecard_equals_the_call",
)  # fmt: skip
variant(
    Bias, lambda f, o: _attributed(((f - o) ** 2).mean() ** 0.5, o), "scorecard_equals_the_call"
)  # fmt: skip
variant(
    Bias, lambda f, o: _attributed(f.mean() - o.mean(), o), "masked_values_have_no_influence"
)  # fmt: skip
variant(
    Bias, lambda f, o: _attributed((f > 1.0).mean(), o, units="1"), "units_are_minded"
)  # fmt: skip
variant(
    Bias, lambda f, o: _attributed((f - o).mean(), o, units="mm h-1"), "units_are_minded"
)  # fmt: skip
variant(
    Bias, lambda f, o: _attributed((f - o).mean() * len(o.attrs), o), "units_are_minded"
)  # fmt: skip
variant(
    Bias, lambda f, o: _attributed((f - o).mean() * (2 if o.chunks else 1), o),
    "dask_gives_the_same",
)  # fmt: skip


def _filled(forecast: Any, observed: Any) -> Any:
    observed.values[np.isnan(observed.values)] = 0.0
    return _attributed((forecast - observed).mean(), observed)


variant(Bias, _filled, "its_input_is_not_changed")


def test_suite_accepts_a_metric_of_the_whole_record() -> None:
    @dataclass(frozen=True)
    class Largest(Bias):
        """Difference of the largest rain of each pixel."""

        over = "record"

        def __call__(self, forecast: Any, observed: Any) -> Any:
            pair = matched(forecast, observed)
            pair.observed.std("time").mean()  # one sample has none
            members = pair.forecast.where(pair.observed.notnull())
            return _attributed((members.max("time") - pair.observed.max("time")).mean(), observed)

    suite = suite_of(Bias, Largest)
    for check in checks_of(MetricSuite):
        getattr(suite, check)()


# Baselines.
def test_suite_accepts_a_deterministic_baseline_that_says_so() -> None:
    @dataclass(frozen=True)
    class Quantiles(Yesterday):
        """The record at fixed times: members differ, and no seed changes them."""

        deterministic = True

        def __call__(self, dataset: Any, members: int, seed: int) -> Any:
            record = dataset[dataset.attrs["record"]].mean("time_record")
            assert dataset.attrs["conditions"]
            shares = xr.DataArray(np.arange(members) + 1.0, dims="realization") / members
            observed = dataset[dataset.attrs["target"]]
            drawn = (shares * record * xr.ones_like(observed)).transpose("realization", ...)
            return drawn.where(drawn.notnull(), 0.0).assign_attrs(units=observed.attrs["units"])

    suite_of(Yesterday, Quantiles).test_only_the_seed_decides()  # type: ignore[attr-defined]
    suite_of(Yesterday, Quantiles).test_dask_in_dask_out()  # type: ignore[attr-defined]

    @dataclass(frozen=True)
    class Silent(Quantiles):
        """Does not say it."""

        deterministic = False

    with pytest.raises(AssertionError, match="set deterministic = True"):
        suite_of(Yesterday, Silent).test_only_the_seed_decides()  # type: ignore[attr-defined]


def _shuffled(ds: Any, members: int, seed: int) -> Any:
    return Yesterday()(ds, members, seed)


variant(
    Yesterday, lambda ds, members, seed: _shuffled(ds, members, seed).transpose("time", ...),
    "it_is_an_ensemble_of_the_target",
)  # fmt: skip
variant(
    Yesterday, lambda ds, members, seed: _shuffled(ds, members - 2, seed),
    "it_is_an_ensemble_of_the_target",
)  # fmt: skip
variant(
    Yesterday,
    lambda ds, members, seed: _shuffled(ds, members, seed).assign_coords(time=range(6)),
    "it_is_an_ensemble_of_the_target",
)
variant(
    Yesterday, lambda ds, members, seed: _shuffled(ds, members, seed).values,
    "it_is_an_ensemble_of_the_target",
)  # fmt: skip
variant(
    Yesterday, lambda ds, members, seed: _shuffled(ds, members, seed).drop_attrs(),
    "it_is_rain_with_units",
)  # fmt: skip
variant(
    Yesterday,
    lambda ds, members, seed: _shuffled(ds, members, seed).assign_attrs(units="K"),
    "it_is_rain_with_units",
)
variant(
    Yesterday, lambda ds, members, seed: -_shuffled(ds, members, seed) - 1,
    "it_is_rain_with_units",
)  # fmt: skip
variant(
    Yesterday, lambda ds, members, _: _shuffled(ds, members, 0), "only_the_seed_decides"
)  # fmt: skip
variant(
    Yesterday,
    lambda ds, members, _: _shuffled(ds, members, np.random.randint(1000)),  # noqa: NPY002
    "only_the_seed_decides",
)
variant(
    Yesterday,
    lambda ds, *_: ds.pr.expand_dims("realization"),
    "it_does_not_look_at_the_answer",
)
variant(
    Yesterday, lambda ds, members, seed: _shuffled(ds.compute(), members, seed),
    "dask_in_dask_out",
)  # fmt: skip
variant(
    Yesterday,
    lambda ds, members, seed: _shuffled(ds, members, seed).clip(max=2.0, keep_attrs=True),
    "units_are_minded",
)


def _dried(ds: Any, members: int, seed: int) -> Any:
    ds["pr"] = ds.pr * 0.5
    return _shuffled(ds.assign(pr=ds.pr.assign_attrs(units="mm h-1")), members, seed)


variant(Yesterday, _dried, "its_input_is_not_changed")


TRIED_ABOVE = {
    "test_parameters_it_does_not_know_are_refused",
    "test_values_out_of_range_are_refused",
    "test_wrong_types_are_refused",
}


@pytest.mark.parametrize("sound", SUITES)
def test_every_check_has_a_broken_component(sound: type) -> None:
    tried = {check for of, check, _ in BROKEN if of is sound}
    assert set(checks_of(SUITES[sound])) == tried | TRIED_ABOVE


@pytest.mark.parametrize(("sound", "check", "component"), BROKEN)
def test_check_stops_a_broken_component(sound: type, check: str, component: Any) -> None:
    with pytest.raises((AssertionError, UnitsError, RuntimeError)):
        getattr(suite_of(sound, component), check)()
