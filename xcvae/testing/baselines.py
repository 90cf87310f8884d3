"""The conformance suite of baselines."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr

from xcvae.errors import UnitsError
from xcvae.fields.units import factor
from xcvae.registry import Kind
from xcvae.testing.data import OTHER_UNITS, UNITS, make_dataset, make_ensemble
from xcvae.testing.suite import Suite, demand

MEMBERS = 4


class BaselineSuite(Suite):
    """Checks of a baseline, besides those that every component gets.

    Examples
    --------
    >>> class TestBilinear(BaselineSuite):
    ...     component = "bilinear"
    >>> TestBilinear().test_it_is_an_ensemble_of_the_target()
    """

    kind: ClassVar[Kind] = "baseline"

    def given_data(self, **options: Any) -> xr.Dataset:
        """Return the Dataset of a baseline; options are those of `make_dataset`."""
        ds = make_dataset(**options)
        attrs: dict[str, Any] = {"target": "pr", "condition": "pr_coarse", "members": "members"}
        attrs |= {"conditions": ["wind", "pr_coarse"], "record": "pr_record"}
        wind = ds.pr_coarse.mean(("y_coarse", "x_coarse")).drop_attrs() + 5.0
        others = make_dataset(**{**options, "samples": 12}).pr.isel(time=slice(6, None))
        fields = {
            "members": make_ensemble(ds, members=MEMBERS),
            "wind": wind.assign_attrs(units="m s-1"),
            "pr_record": others.rename(time="time_record"),
        }
        return ds.assign(fields).assign_attrs(attrs)

    def draw(
        self, component: Any = None, ds: xr.Dataset | None = None, seed: int = 0
    ) -> xr.DataArray:
        """Call the baseline."""
        component = self.make() if component is None else component
        field = component(self.given_data() if ds is None else ds, MEMBERS, seed)
        found = type(field).__name__
        demand(
            isinstance(field, xr.DataArray), f"{self.label} must return a DataArray, not {found}"
        )
        return field  # type: ignore[no-any-return]

    def outcome(self, component: Any) -> Any:
        """Return the values that the baseline draws."""
        return self.draw(component).values

    def test_it_is_an_ensemble_of_the_target(self) -> None:
        """Check dims (realization, sample, y, x), and labels and sizes of the target."""
        ds = self.given_data()
        field = self.draw(ds=ds)
        dims = ("realization", *ds.pr.dims)
        demand(field.dims == dims, f"{self.label}: expected the dims {dims}, got {field.dims}")
        demand(
            field.shape[1:] == ds.pr.shape and field.shape[0] in (1, MEMBERS),
            f"{self.label}: expected 1 or {MEMBERS} members of {ds.pr.shape}, got {field.shape}",
        )
        for name in ds.pr.dims:
            labels = ds.pr.get_index(name)
            good = name not in ds.coords or (
                name in field.coords and field.get_index(name).equals(labels)
            )
            demand(good, f"{self.label} loses or changes the labels of '{name}'")

    def test_it_is_rain_with_units(self) -> None:
        """Check that units convert into the target's; values are finite and not below zero."""
        field = self.draw()
        units = field.attrs.get("units")
        demand(units, f"{self.label} returns no units")
        try:
            factor(str(units), UNITS, what=self.label)
        except UnitsError as error:
            raise AssertionError(f"{self.label}: {error}") from error
        demand(np.isfinite(field).all(), f"{self.label} makes NaN or infinite values")
        demand((field >= 0).all(), f"{self.label} makes negative rain")

    def test_only_the_seed_decides(self) -> None:
        """Check that equal seeds give equal members, and other seeds others."""
        before = np.random.get_state()  # noqa: NPY002 - nothing may depend on it
        drawn = []
        for state in (1, 99):
            np.random.seed(state)  # noqa: NPY002 - as above
            drawn.append(self.draw(seed=1))
        np.random.set_state(before)  # noqa: NPY002 - as above
        first, again = drawn
        demand(
            self.same(first.values, again.values),
            f"{self.label} uses the global random state: use np.random.default_rng(seed)",
        )
        varies = first.shape[0] > 1 and not np.array_equal(first[0], first[1], equal_nan=True)
        others = (self.draw(seed=seed).values for seed in (2, 3, 4))
        same = [self.same(first.values, other) for other in others]
        if getattr(self.cls, "deterministic", False):
            demand(all(same), f"{self.label} says that it is deterministic, but uses the seed")
            return
        ignored = varies and all(same)
        demand(
            not ignored,
            f"{self.label} draws members but ignores the seed: use it, or set deterministic = True",
        )

    def test_it_does_not_look_at_the_answer(self) -> None:
        """Check that the members of a sample do not depend on its target."""
        ds = self.given_data()
        plain = self.draw(ds=ds)
        other = ds.copy(deep=True)
        other["pr"][{"time": 2}] = 3.0 + 2.0 * ds.pr.isel(time=2)
        peeked = self.draw(ds=other)
        demand(
            np.array_equal(plain.isel(time=2), peeked.isel(time=2), equal_nan=True),
            f"{self.label} uses the observed target of the sample that it is for",
        )

    def test_dask_in_dask_out(self) -> None:
        """Check that a lazy Dataset gives a lazy ensemble with the same values."""
        ds = self.given_data()
        lazy = self.draw(ds=ds.chunk(time=2))
        demand(lazy.chunks is not None, f"{self.label} computes a lazy Dataset: avoid .values")
        demand(
            np.allclose(lazy, self.draw(ds=ds), rtol=1e-6, equal_nan=True),
            f"{self.label} gives another result for a lazy Dataset",
        )

    def test_units_are_minded(self) -> None:
        """Check that the same data in other units give the same rain."""
        if self.same_in_any_units:
            plain, other = self.draw(), self.draw(ds=self.given_data(units=OTHER_UNITS))
            scale = factor(str(other.attrs["units"]), str(plain.attrs["units"]), what=self.label)
            demand(
                np.allclose(other * scale, plain, rtol=1e-4, atol=1e-4, equal_nan=True),
                f"{self.label} gives other rain in {OTHER_UNITS} than in {UNITS}",
            )

    def test_its_input_is_not_changed(self) -> None:
        """Check that the Dataset is unchanged."""
        ds = self.given_data()
        before = ds.copy(deep=True)
        self.draw(ds=ds)
        demand(ds.identical(before), f"{self.label} changes its input in place")
