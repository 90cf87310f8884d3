"""The conformance suite of post-processors."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr

from xcvae.fields.units import factor
from xcvae.registry import Kind
from xcvae.testing.data import OTHER_UNITS, UNITS, make_context, make_dataset, make_ensemble
from xcvae.testing.suite import Suite, demand

TIES = 0.01  # share of the pixels that may fall on the other side of a limit by rounding


class PostprocessorSuite(Suite):
    """Checks of a post-processor, besides those that every component gets.

    Examples
    --------
    >>> class TestThreshold(PostprocessorSuite):
    ...     component = {"name": "threshold", "value": "0.5 mm h-1"}
    >>> TestThreshold().test_units_dims_and_labels_are_kept()
    """

    kind: ClassVar[Kind] = "postprocessor"

    def given_field(self, **options: Any) -> tuple[xr.DataArray, Any]:
        """Return a block of members, and the context; options are those of `make_dataset`."""
        ds = make_dataset(**options)
        return make_ensemble(ds), make_context(ds)

    def outcome(self, component: Any) -> Any:
        """Return the values of a block with missing pixels."""
        return self._values(component(*self.given_field(masked=True)))

    def test_units_dims_and_labels_are_kept(self) -> None:
        """Check that dims, shape, type, name, units and coordinates are unchanged."""
        field, context = self.given_field(masked=True)
        after = self.make()(field, context)
        self._values(after)
        for what in ("dims", "shape", "dtype", "name"):
            before, now = getattr(field, what), getattr(after, what)
            demand(before == now, f"{self.label} changes the {what} from {before} to {now}")
        demand(
            after.attrs.get("units") == field.attrs["units"],
            f"{self.label} loses the units, or changes them from '{field.attrs['units']}' to "
            f"{after.attrs.get('units')!r}: pass keep_attrs=True to xarray",
        )
        for name, coord in field.coords.items():
            demand(
                name in after.coords and after[name].equals(coord),
                f"{self.label} loses or changes the coordinate '{name}'",
            )

    def test_rain_stays_rain(self) -> None:
        """Check that values are finite and not below zero, also for dry maps."""
        field, context = self.given_field()
        for what, block in (("radar", field), ("dry maps", xr.zeros_like(field))):
            values = self._values(self.make()(block, context))
            demand(np.isfinite(values).all(), f"{self.label} makes NaN or infinite of {what}")
            demand((values >= 0).all(), f"{self.label} makes negative rain of {what}")

    def test_the_mask_is_kept(self) -> None:
        """Check that NaN stays NaN, and no other pixel becomes NaN."""
        field, context = self.given_field(masked=True)
        values = self._values(self.make()(field, context))
        demand(
            np.array_equal(np.isnan(values), np.isnan(field.values)),
            f"{self.label} fills masked pixels (NaN), or makes new ones",
        )

    def test_dask_in_dask_out(self) -> None:
        """Check that a lazy field stays lazy, with the same values."""
        field, context = self.given_field(masked=True)
        lazy = field.chunk(realization=1, time=2)
        after = self.make()(lazy, context)
        demand(after.chunks is not None, f"{self.label} computes a lazy field: avoid .values")
        demand(
            self.same(self._values(after), self._values(self.make()(field, context))),
            f"{self.label} gives another result for a lazy field",
        )

    def test_the_block_does_not_matter(self) -> None:
        """Check that a member of a sample does not depend on the rest of its block.

        Ensembles are drawn in blocks whose size depends on the machine.
        """
        field, context = self.given_field(masked=True)
        whole = self.make()(field, context)
        for member, sample in ((0, 0), (2, 4)):
            place = {"realization": [member], "time": [sample]}
            own = type(context)(context.spec, context.mode, context.inputs.isel(time=[sample]))
            alone = self.make()(field.isel(place), own)
            demand(
                np.allclose(alone, whole.isel(place), rtol=1e-5, atol=1e-6, equal_nan=True),
                f"{self.label} makes a member depend on others in its block: compute what it "
                "needs for every realization and sample by itself",
            )

    def test_units_are_minded(self) -> None:
        """Check the same rain in other units, and that units are never guessed."""
        field, context = self.given_field(masked=True)
        plain = self._values(self.make()(field, context))
        if self.same_in_any_units:
            scale = factor(UNITS, OTHER_UNITS, what="rain")
            other = self._values(self.make()(*self.given_field(masked=True, units=OTHER_UNITS)))
            differs = ~np.isclose(other / scale, plain, rtol=1e-4, atol=1e-4, equal_nan=True)
            demand(
                differs.mean() <= TIES,
                f"{self.label} gives other rain in {OTHER_UNITS} than in {UNITS}: read the units "
                "of the field, or set same_in_any_units = False if a parameter is in its units",
            )
        try:
            bare = self.make()(field.drop_attrs(), context)
        except (ValueError, KeyError):
            return
        demand(
            self.same(self._values(bare), plain),
            f"{self.label} makes something else of a field without units: raise UnitsError",
        )

    def test_its_input_is_not_changed(self) -> None:
        """Check that field and context are unchanged."""
        field, context = self.given_field(masked=True)
        before, inputs = field.copy(deep=True), context.inputs.copy(deep=True)
        self.make()(field, context)
        same = field.identical(before) and context.inputs.identical(inputs)
        demand(same, f"{self.label} changes its input in place")

    def _values(self, after: Any) -> Any:
        found = type(after).__name__
        demand(
            isinstance(after, xr.DataArray), f"{self.label} must return a DataArray, not {found}"
        )
        return after.values
