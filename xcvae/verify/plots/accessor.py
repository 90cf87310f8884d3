"""All figures by name, as methods of ``ens.cvae.plot``, ``card.cvae.plot`` and ``log.cvae.plot``.

Every method takes physical fields only and returns a matplotlib figure outside pyplot: display it
in a notebook, or save it with ``figure.savefig("maps.png", bbox_inches="tight")``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xcvae.verify.criteria import Criterion, Verdict
from xcvae.verify.plots.amounts import draw_intensity, draw_quantiles
from xcvae.verify.plots.curves import draw_rank_histogram, draw_reliability, draw_spectra
from xcvae.verify.plots.member_maps import draw_bias, draw_members
from xcvae.verify.plots.score_table import draw_summary
from xcvae.verify.plots.sequences import draw_hovmoeller, draw_strip, write_animation
from xcvae.verify.plots.summaries import FigureData, accumulate
from xcvae.verify.plots.training_curve import draw_training_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Figures that one pass over an ensemble can draw together: by the statistic that they need.
ENSEMBLE_FIGURES: dict[str, Callable[[FigureData], Figure]] = {
    "ranks": draw_rank_histogram,
    "reliability": draw_reliability,
    "spectra": draw_spectra,
    "quantiles": draw_quantiles,
    "intensity": draw_intensity,
    "bias": draw_bias,
}


@dataclass(frozen=True)
class Plots:
    """Figures of one Dataset: an ensemble, a scorecard or a training log.

    Those of an ensemble compare it with the observations `ds`, matched by sample label. They raise
    UnitsError for values that are not physical rain, MismatchError if samples or grids differ,
    MissingVariableError without the observation and ComponentError for an unknown baseline.

    Attributes
    ----------
    ds
        The Dataset behind ``.cvae.plot``.
    """

    ds: xr.Dataset

    def members(
        self,
        ds: xr.Dataset | None = None,
        *,
        sample: Any = None,
        members: int | Sequence[int] = 4,
        conditions: Sequence[str] | str | None = None,
        ncols: int | None = None,
        mean: bool = False,
        quantile: float | Sequence[float] | None = None,
        exceedance: str | float | None = None,
        title: str | None = None,
    ) -> Figure:
        """Draw maps of one sample in a row or a grid, all rain in one discrete colour scale.

        Coastlines are drawn where the data have latitudes and longitudes or a known projection
        and cartopy (``pip install 'xcvae[maps]'``) has them on this computer; else a scale bar.

        Parameters
        ----------
        ds
            Observation (dims sample, y, x, under the name it has in the ensemble) and conditions;
            or the coarse rain whose cells were divided into the pixels of the ensemble. None draws
            members alone.
        sample
            Label of the sample, as in ``sel`` (a time may be text). If the labels are not integers,
            an integer is a position. None takes the sample with the most rain.
        members
            Number of members, or their positions.
        conditions
            Gridded variables of `ds` to draw. None draws the first coarse rain field, or else the
            first gridded variable; an empty list draws none.
        ncols
            Maps in a row. None draws up to eight in one row, and more in a grid.
        mean
            Draw the mean of all members of the ensemble too.
        quantile
            Draw one or more quantiles of all members, such as 0.9 or ``[0.1, 0.9]``.
        exceedance
            Draw the share of members at or above an amount: ``"5 mm h-1"``, or a number in the
            units of the data.
        title
            Title of the figure; "" for none. None names variable, sample and mode.

        Raises
        ------
        UnitsError
            The values are not physical rain: units are missing or not those of precipitation.
        MissingVariableError
            A condition is not in `ds`.
        DataError
            The sample or a member does not exist.
        """
        return draw_members(
            ds,
            self.ds,
            sample=sample,
            members=members,
            conditions=conditions,
            ncols=ncols,
            mean=mean,
            quantile=quantile,
            exceedance=exceedance,
            title=title,
        )

    def spectra(self, ds: xr.Dataset, *, baselines: Sequence[object] | None = None) -> Figure:
        """Draw radially averaged power spectra, averaged over samples.

        Power over wavelength, in km if the grid spacing is known, else in pixels; below it, members
        over observation in decibels.

        Parameters
        ----------
        ds
            The observation, dims (sample, y, x), and the coarse rain condition for baselines.
        baselines
            Names, dicts or instances; by default ``["bilinear"]`` if the data have a coarse rain
            condition. An empty list for none.
        """
        return self._draw("spectra", ds, baselines)

    def rank_histogram(self, ds: xr.Dataset) -> Figure:
        """Draw the histogram of the ranks of the observation among the members of its pixel.

        A calibrated ensemble gives a flat histogram. Pixels where the observation equals members,
        such as dry ones, count in equal parts for all ranks that they cover. With two samples or
        more, a band marks the range of 95 % of the ranks of a calibrated ensemble. It takes samples
        as independent, not pixels: neighbouring pixels are not.

        Parameters
        ----------
        ds
            The observation, dims (sample, y, x).
        """
        return self._draw("ranks", ds)

    def reliability(self, ds: xr.Dataset) -> Figure:
        """Draw the observed frequency of rain over its forecast probability (share of members).

        For two events: wet (0.1 mm h-1, of days 1 mm d-1) and heavy (5 mm h-1, of days 20 mm d-1).
        Bars are 95 % intervals by block bootstrap over samples; below, the share of forecasts with
        each probability. In the shaded area a forecast is better than the climate of the sample.

        Parameters
        ----------
        ds
            The observation, dims (sample, y, x).
        """
        return self._draw("reliability", ds)

    def quantiles(self, ds: xr.Dataset, *, baselines: Sequence[object] | None = None) -> Figure:
        """Draw quantiles of all generated amounts over those of all observed ones.

        Up to the amount that ten samples have reached, because single storms decide beyond it; the
        last point is labelled with its return period at a pixel. The band is a 95 % interval by
        block bootstrap over samples.

        Parameters
        ----------
        ds, baselines
            As for `spectra`.
        """
        return self._draw("quantiles", ds, baselines)

    def intensity(self, ds: xr.Dataset, *, baselines: Sequence[object] | None = None) -> Figure:
        """Draw the contributions of classes of amounts to the CRPS (fair).

        The parts from the thresholds within each class add up to the CRPS. Below, the skill over
        the first baseline. Bars are 95 % intervals by block bootstrap over samples.

        Parameters
        ----------
        ds, baselines
            As for `spectra`.
        """
        return self._draw("intensity", ds, baselines)

    def bias(self, ds: xr.Dataset) -> Figure:
        """Draw maps of the mean over samples: of observation, of members, and their difference.

        Both means have one colour scale; too wet is blue-green, too dry brown.

        Parameters
        ----------
        ds
            The observation, dims (sample, y, x).
        """
        return self._draw("bias", ds)

    def strip(
        self,
        ds: xr.Dataset | None = None,
        *,
        members: int | Sequence[int] = 3,
        every: int = 1,
    ) -> Figure:
        """Draw maps of consecutive samples: the observation above, members below.

        Of the longest run of samples, the part with the most rain.

        Parameters
        ----------
        ds
            The observation, dims (sample, y, x); None draws members alone.
        members
            Number of members, or their positions.
        every
            Draw every so many samples of the run.

        Raises
        ------
        ConfigError
            The labels of the samples are no times.
        DataError
            No samples follow each other in time.
        """
        return draw_strip(ds, self.ds, members=members, every=every)

    def hovmoeller(
        self, ds: xr.Dataset | None = None, *, members: int | Sequence[int] = 3
    ) -> Figure:
        """Draw time against x, means along y: what moves draws lines, what flickers does not.

        Parameters
        ----------
        ds, members
            As for `strip`.

        Raises
        ------
        ConfigError, DataError
            As for `strip`.
        """
        return draw_hovmoeller(ds, self.ds, members=members)

    def animate(
        self,
        ds: xr.Dataset | None = None,
        *,
        path: str | os.PathLike[str],
        members: int | Sequence[int] = 3,
        every: int = 1,
        seconds: float = 0.25,
    ) -> Path:
        """Write an animation of consecutive samples: the observation, and members beside it.

        Parameters
        ----------
        ds, members, every
            As for `strip`; at most 48 frames.
        path
            GIF file; an earlier one is replaced.
        seconds
            Time that a frame is shown.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        ConfigError, DataError
            As for `strip`.
        """
        return write_animation(ds, self.ds, path, members=members, every=every, seconds=seconds)

    def summary(
        self, criteria: Sequence[Criterion | Verdict] | None = None, *, title: str = ""
    ) -> Figure:
        """Draw a scorecard as a table, with the best source of every score highlighted.

        With groups there is a section for each.

        Parameters
        ----------
        criteria
            Ranges for xcvae, for a column of verdicts; see `xcvae.verify.criteria.criteria_for`.
        title
            Heading of the column of names.

        Raises
        ------
        DataError
            The card has no scores.
        """
        return draw_summary(self.ds, criteria, title=title)

    def training_curve(self) -> Figure:
        """Draw a training log (`Model.history`), each quantity in a panel, with its validation.

        Variables have one dim, such as ``step``; ``val_*`` are validation scores, and ``loss_*``
        terms of the loss.

        Raises
        ------
        DataError
            The log has nothing to draw.
        """
        return draw_training_curve(self.ds)

    def _draw(
        self, figure: str, ds: xr.Dataset, baselines: Sequence[object] | None = None
    ) -> Figure:
        data = accumulate(ds, self.ds, figures=[figure], baselines=baselines)
        return ENSEMBLE_FIGURES[figure](data)
