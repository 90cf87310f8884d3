"""The conformance suite of metrics."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, XcvaeError
from xcvae.fields.units import factor
from xcvae.metrics.metric import Skill, over_of
from xcvae.metrics.temporal import SequenceMetric
from xcvae.registry import Kind
from xcvae.testing.data import OTHER_UNITS, UNITS, make_dataset, make_ensemble
from xcvae.testing.suite import Suite, demand
from xcvae.verify.scorecard import evaluate

HIDDEN = 50.0  # rain under the mask, which must not count
TOLERANCE = 1e-5
AVERAGED = 1e-4  # of float32 fields
IN_A_ROW = 12  # samples that metrics of sequences are given


class MetricSuite(Suite):
    """Checks of a metric, besides those that every component gets.

    Examples
    --------
    >>> class TestMAE(MetricSuite):
    ...     component = "mae"
    >>> TestMAE().test_the_score_says_what_it_is()
    """

    kind: ClassVar[Kind] = "metric"

    def given_fields(self, **options: Any) -> tuple[xr.DataArray, xr.DataArray]:
        """Return a forecast and an observation; options are those of `make_dataset`.

        Metrics of sequences get consecutive samples.
        """
        if isinstance(self.make(), SequenceMetric):
            ds = make_dataset(**{"samples": IN_A_ROW, **options})
            steps = np.arange(ds.sizes["time"]) * np.timedelta64(5, "m")
            ds = ds.assign_coords(time=ds.time.values[0] + steps)
        else:
            ds = make_dataset(**options)
        return make_ensemble(ds, members=5), ds.pr

    def score(self, metric: Any, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Call the metric; a skill is compared with the mean of the members, as a baseline."""
        if not isinstance(metric, Skill):
            score = metric(forecast, observed)
            found = type(score).__name__
            is_array = isinstance(score, xr.DataArray)
            demand(is_array, f"{self.label} must return a DataArray, not {found}")
            return score  # type: ignore[no-any-return]
        baseline = forecast.mean("realization", keep_attrs=True).expand_dims("realization")
        sums = [
            {name: one.values.sum(axis=0) for name, one in metric.statistics(f, observed).items()}
            for f in (forecast, baseline)
        ]
        units = observed.attrs["units"] if metric.units is None else metric.units
        attrs = {"units": units, "long_name": metric.long_name, "better": metric.better}
        return xr.DataArray(metric.finish_against(*sums), attrs=attrs)

    def outcome(self, component: Any) -> Any:
        """Return the score of fields with missing pixels."""
        return self.score(component, *self.given_fields(masked=True)).values

    def test_the_score_says_what_it_is(self) -> None:
        """Check that the score has units, long_name and better."""
        score = self.score(self.make(), *self.given_fields())
        for key in ("units", "long_name"):
            text = score.attrs.get(key)
            good = isinstance(text, str) and text.strip()
            demand(good, f"{self.label}: the score needs the attribute '{key}', got {text!r}")
        better = score.attrs.get("better")
        ideal = isinstance(better, int | float | np.number) and not isinstance(better, bool)
        demand(
            better in ("lower", "higher") or ideal,
            f"{self.label}: the attribute 'better' must be 'lower', 'higher' or the ideal value, "
            f"got {better!r}",
        )

    def test_the_score_is_a_finite_number(self) -> None:
        """Check that the score has finite values, and no dim of members."""
        for masked in (False, True):
            forecast, observed = self.given_fields(masked=masked)
            score = self.score(self.make(), forecast, observed)
            finite = np.isfinite(np.asarray(score.values, dtype=float))
            demand(finite.any(), f"{self.label} gives no finite score (masked: {masked})")
            whole = finite.all() or score.ndim > 0
            demand(whole, f"{self.label} gives {score.values} (masked: {masked})")
            demand(
                set(score.dims) <= set(observed.dims),
                f"{self.label} may keep dims of the observation, got {score.dims}",
            )

    def test_scorecard_equals_the_call(self) -> None:
        """Check that `xcvae.evaluate` gives the score of a call with all samples.

        It averages the scores of samples unless the metric declares ``over = "record"``, or is a
        `Metric`, which adds up sums.
        """
        metric = self.make()
        if isinstance(metric, Skill):
            return
        forecast, observed = self.given_fields()
        direct = self.score(metric, forecast, observed).mean()
        try:
            card = evaluate(
                observed.to_dataset(name="pr"),
                forecast.to_dataset(name="pr"),
                metrics=[metric],
                baselines=[],
                progress=False,
            )
        except ComponentError as error:
            raise AssertionError(f"{self.label}: {error}") from error
        found = float(card[next(iter(card.data_vars))][0])
        demand(
            np.isclose(found, direct, rtol=AVERAGED, equal_nan=True),
            f"{self.label}: a scorecard gives {found}, a call with all samples {float(direct)}: "
            'set over = "record", or derive it from xcvae.plugins.Metric',
        )

    def test_one_sample_is_enough(self) -> None:
        """Check that samples can be scored one by one, as `xcvae.evaluate` does.

        Not sequences, and metrics that declare ``over = "record"`` may need more.
        """
        metric = self.make()
        if isinstance(metric, SequenceMetric) or over_of(self.label, metric) == "record":
            return
        forecast, observed = self.given_fields()
        one = {"time": [1]}
        score = self.score(self.make(), forecast.isel(one), observed.isel(one))
        demand(np.isfinite(score).any(), f"{self.label} cannot score a single sample")

    def test_masked_values_have_no_influence(self) -> None:
        """Check that forecasts do not count where the observation is NaN."""
        forecast, observed = self.given_fields(masked=True)
        plain = self.score(self.make(), forecast.fillna(0.0), observed)
        hidden = self.score(self.make(), forecast.fillna(HIDDEN), observed)
        demand(
            np.allclose(plain, hidden, rtol=TOLERANCE, equal_nan=True),
            f"{self.label} depends on forecasts where the observation is missing",
        )

    def test_units_are_minded(self) -> None:
        """Check that the same rain in other units gets the same score, or one that converts."""
        score = self.score(self.make(), *self.given_fields())
        units = str(score.attrs.get("units"))
        if self.same_in_any_units:
            other = self.score(self.make(), *self.given_fields(units=OTHER_UNITS))
            now = str(other.attrs.get("units"))
            scale = factor(now, units, what=self.label)
            demand(
                np.allclose(other * scale, score, rtol=1e-3, atol=1e-6, equal_nan=True),
                f"{self.label} gives {other.values} '{now}' for rain in {OTHER_UNITS}, but "
                f"{score.values} '{units}' for the same rain in {UNITS}: read the units of the "
                "data, or set same_in_any_units = False if a parameter is in its units",
            )
        forecast, observed = (field.drop_attrs() for field in self.given_fields())
        try:
            bare = self.score(self.make(), forecast, observed)
        except (ValueError, KeyError):
            return
        demand(
            self.same(bare.values, score.values),
            f"{self.label} scores fields without units otherwise: raise UnitsError",
        )

    def test_dask_gives_the_same(self) -> None:
        """Check that lazy fields get the score of fields in memory."""
        forecast, observed = self.given_fields(masked=True)
        lazy = forecast.chunk(realization=2, time=2), observed.chunk(time=3)
        try:
            score = self.score(self.make(), *lazy).compute()
        except XcvaeError as error:
            raise AssertionError(f"{self.label} refuses lazy fields: {error}") from error
        plain = self.score(self.make(), forecast, observed)
        demand(
            np.allclose(score, plain, rtol=TOLERANCE, equal_nan=True),
            f"{self.label} scores lazy fields otherwise: {score.values} instead of {plain.values}",
        )

    def test_its_input_is_not_changed(self) -> None:
        """Check that forecast and observation are unchanged."""
        forecast, observed = self.given_fields(masked=True)
        before = forecast.copy(deep=True), observed.copy(deep=True)
        self.score(self.make(), forecast, observed)
        same = forecast.identical(before[0]) and observed.identical(before[1])
        demand(same, f"{self.label} changes its input in place")
