"""The conformance suite of storm components."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr

from xcvae.registry import Kind
from xcvae.testing.data import make_dataset
from xcvae.testing.suite import Suite, demand


class StormSuite(Suite):
    """Checks of a storm component, besides those that every component gets.

    Examples
    --------
    >>> class TestTurn(StormSuite):
    ...     component = "turn"
    >>> TestTurn().test_variables_and_labels_are_kept()
    """

    kind: ClassVar[Kind] = "storm"

    def given_samples(self) -> tuple[xr.Dataset, Any]:
        """Return samples in the form of a model, observed rain included, and the context."""
        from xcvae.ensemble.storms import StormContext
        from xcvae.fields.describe import describe, prepare
        from xcvae.fields.scaling import Scaling

        ds = make_dataset()
        spec = describe(ds, target="pr", conditions=["pr_coarse"])
        prepared = prepare(ds, spec, need_target=True)
        _, record = Scaling.fit(prepared, spec)
        return prepared, StormContext(spec, record)

    def outcome(self, component: Any) -> Any:
        """Return the coarse rain of the changed samples."""
        return self._changed(component, *self.given_samples())["pr_coarse"].values

    def test_variables_and_labels_are_kept(self) -> None:
        """Check that variables, dims, shapes, units and labels are unchanged."""
        ds, context = self.given_samples()
        after = self._changed(self.make(), ds, context)
        for name, da in ds.data_vars.items():
            demand(name in after, f"{self.label} loses '{name}'")
            for what in ("dims", "shape"):
                before, now = getattr(da, what), getattr(after[name], what)
                demand(before == now, f"{self.label} changes the {what} of '{name}' to {now}")
            demand(
                after[name].attrs.get("units") == da.attrs["units"],
                f"{self.label} loses or changes the units of '{name}': pass keep_attrs=True",
            )
        dim = context.spec.sample
        demand(
            after[dim].variable.equals(ds[dim].variable),
            f"{self.label} changes the labels of the samples",
        )

    def test_what_was_done_is_flagged(self) -> None:
        """Check that a coordinate along the samples says what was done."""
        from xcvae.ensemble.storms import FLAG, flags_of

        ds, context = self.given_samples()
        after = self._changed(self.make(), ds, context)
        demand(
            flags_of(after, context.spec.sample),
            f"{self.label} adds no coordinate along '{context.spec.sample}' with the attribute "
            f"'{FLAG}': users must see which samples were changed, and how",
        )

    def test_rain_stays_rain(self) -> None:
        """Check that rain is finite and not below zero."""
        after = self._changed(self.make(), *self.given_samples())
        for name, da in after.data_vars.items():
            values = da.values
            good = np.isfinite(values).all() and (values >= 0).all()
            demand(good, f"{self.label} makes negative, NaN or infinite rain of '{name}'")

    def test_the_block_does_not_matter(self) -> None:
        """Check that a sample does not depend on the others: they are drawn in blocks."""
        ds, context = self.given_samples()
        dim = context.spec.sample
        whole = self._changed(self.make(), ds, context)
        alone = self._changed(self.make(), ds.isel({dim: [3]}), context)
        for name in whole.data_vars:
            same = np.allclose(whole[name].isel({dim: [3]}), alone[name], rtol=1e-5, equal_nan=True)
            demand(same, f"{self.label} makes '{name}' of a sample depend on other samples")

    def test_dask_in_dask_out(self) -> None:
        """Check that lazy samples stay lazy, with the same values."""
        ds, context = self.given_samples()
        lazy = self._changed(self.make(), ds.chunk({context.spec.sample: 2}), context)
        now = self._changed(self.make(), ds, context)
        for name, da in lazy.data_vars.items():
            demand(da.chunks is not None, f"{self.label} computes lazy samples: avoid .values")
            demand(
                self.same(da.values, now[name].values),
                f"{self.label} gives another result for lazy samples",
            )

    def test_its_input_is_not_changed(self) -> None:
        """Check that the samples are unchanged."""
        ds, context = self.given_samples()
        before = ds.copy(deep=True)
        self._changed(self.make(), ds, context)
        demand(ds.identical(before), f"{self.label} changes its input in place")

    def _changed(self, component: Any, ds: xr.Dataset, context: Any) -> xr.Dataset:
        after = component(ds, context)
        found = type(after).__name__
        demand(isinstance(after, xr.Dataset), f"{self.label} must return a Dataset, not {found}")
        changed: xr.Dataset = after
        return changed
