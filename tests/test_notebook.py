"""Overviews of objects in notebooks: what they are, sizes, units, a picture, the next call."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import xcvae
from xcvae.errors import DataError
from xcvae.generator.model import Model
from xcvae.notebook import MAPS, Overview, small_maps


class Balance(HTMLParser):
    """Open elements; those that have no end are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "img":
            self.elements.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements.pop() == tag


def checked(html: str) -> str:
    """HTML that is balanced, and fetches and runs nothing."""
    parser = Balance()
    parser.feed(html)
    assert parser.elements == []
    assert not re.search(r"""<script|<link|(src|href)=["'](?!data:)""", html)
    return html


def pictures(html: str) -> list[np.ndarray]:
    """Colours of the maps in HTML, (y, x, 3) each."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    files = (io.BytesIO(base64.b64decode(one)) for one in found)
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def test_model_shows_data_sizes_maps_and_the_next_call(tiny_model: Model) -> None:
    html = checked(tiny_model._repr_html_())
    for wanted in ("pr [mm h-1], 156 x 132 pixels", "pr_coarse [mm h-1] (13 x 11)", "160 steps",
                   "ens = ds.cvae.sample(model, mode=", tiny_model.sha256[:12]):  # fmt: skip
        assert wanted in html
    maps = pictures(html)
    assert [one.shape for one in maps] == [(8, 8, 3)] * MAPS
    stored = tiny_model.thumbnails.maps.astype(float)
    wettest = stored[np.nanmean(stored, axis=1).argmax()].reshape(8, 8)
    darkness = 765.0 - maps[0].sum(axis=2)
    assert np.corrcoef(darkness.ravel(), wettest.ravel())[0, 1] > 0.9
    # North is the first row of a picture, also of data whose rows go from south to north.
    spec, other = tiny_model.spec, tiny_model.rename({})
    other.spec = replace(spec, coordinates={**spec.coordinates, "y": spec.coordinates["y"][::-1]})
    np.testing.assert_array_equal(pictures(other._repr_html_())[0], maps[0][::-1])


def test_model_of_any_factor_names_the_factor(any_factor_model: Model) -> None:
    html = checked(any_factor_model._repr_html_())
    assert "grids of any size" in html
    assert "ens = ds.cvae.sample(model, factor=8, members=16)" in html


def test_card_of_a_bundled_model_shows_how_to_open_it() -> None:
    html = checked(xcvae.models.card("rain-radar")._repr_html_())
    assert "limits" in html
    assert "model = xcvae.models.open(&quot;rain-radar&quot;)" in html


def test_diagnosis_is_short_as_text_and_whole_in_a_notebook(
    test_radar: xr.Dataset, tiny_model: Model
) -> None:
    found = xcvae.diagnose(test_radar.isel(time=slice(2)), tiny_model, members=2)
    assert repr(found).startswith("<xcvae.Diagnosis of 2 samples: ")
    assert len(repr(found)) < 400
    html = checked(found._repr_html_())
    for finding in found.findings:
        assert finding.name in html
    assert "print(rep)" in html


def test_accessor_of_data_names_target_and_conditions(radar: xr.Dataset) -> None:
    text = str(radar.cvae)
    assert "pr [mm h-1] (time 490, y 156, x 132)" in text
    assert "pr_coarse [mm h-1] (time 490, y_coarse 13, x_coarse 11)" in text
    assert 'model = ds.cvae.train(target="pr", path="model.xcvae")' in text
    maps = pictures(checked(radar.cvae._repr_html_()))
    assert len(maps) == MAPS
    assert all(80 <= max(one.shape) < 160 for one in maps)
    assert "coarsen=8" in str(radar[["pr"]].cvae)
    text = str(radar[["pr_coarse"]].rename(pr_coarse="z").drop_attrs().cvae)
    assert "not found" in text
    assert 'ds.cvae.train(target="..."' in text


def test_accessor_of_an_ensemble_draws_nothing(test_radar: xr.Dataset, tiny_model: Model) -> None:
    ds = test_radar.isel(time=slice(2))
    lazy = xcvae.sample(ds, tiny_model, members=2, seed=7)
    html = checked(lazy.cvae._repr_html_())
    assert lazy.pr.chunks is not None
    assert "drawn or read on access" in html
    assert "mode prior" in html
    assert "seed 7" in html
    assert pictures(html) == []
    one = repr(lazy.isel(time=0).cvae)
    assert str(lazy.time.values[0])[:19] in one
    for changed in (
        lazy.isel(time=slice(0)),
        lazy.isel(realization=slice(0)),
        lazy.rename(pr="rain"),
        lazy.rename(time="hour"),
        lazy.drop_vars("pr"),
        lazy.assign_attrs(xcvae="{"),
    ):
        assert repr(changed.cvae).startswith("Data")
    html = checked(lazy.load().cvae._repr_html_())
    assert len(pictures(html)) == 2
    assert "ds.cvae.evaluate(ens)" in html
    card = xcvae.evaluate(ds, lazy, metrics=["mae"], baselines=["bilinear"], progress=False)
    html = checked(card.cvae._repr_html_())
    assert "Scorecard" in html
    assert card.cvae.table().splitlines()[0] in html
    assert "Training log" in str(tiny_model.history.cvae)


def test_accessor_of_data_without_pixels_or_with_numbers_as_names(radar: xr.Dataset) -> None:
    few = radar.isel(time=slice(2)).load()
    checked(few.isel(x=[]).cvae._repr_html_())
    numbered = few.assign({1: ("time", np.zeros(2), {"units": "K"})})
    for ds in (numbered, numbered[[1]]):
        assert "1 [K] (time 2)" in checked(ds.cvae._repr_html_())
    with pytest.raises(DataError, match=r"variable 1: expected a text.*rename"):
        xcvae.train(numbered, target="pr", fit={"max_steps": 1}, progress=False)


def test_overview_escapes_text_and_leaves_out_empty_facts() -> None:
    one = Overview("<b>", {"a": "<i>", "none": None, "empty": ""}, ["x < 1"])
    html = checked(one.html())
    assert "&lt;b&gt;" in html
    assert "&lt;i&gt;" in html
    assert "x &lt; 1" in html
    assert "empty" not in html
    assert str(one).splitlines() == [
        "<b>",
        "  a            <i>",
        "  what to type next",
        "    x < 1",
    ]


def test_small_maps_show_masked_and_dry_pixels() -> None:
    (colours,) = pictures(small_maps([np.array([[np.nan, 0.0, 1.0]])], "a map"))
    assert ["#" + bytes(one).hex() for one in colours[0]] == ["#a8a8a8", "#f3f2ee", "#410b13"]
    assert small_maps([], "") == ""
    assert pictures(small_maps([np.zeros((2, 2))], "dry"))[0].min() > 200
