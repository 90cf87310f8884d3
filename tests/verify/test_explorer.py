"""The explorer of a report, in a headless browser: pick, slide, compare and play."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xcvae.verify.plots.member_maps import Axis
from xcvae.verify.report import explorer
from xcvae.verify.report.explorer import SIDE, reduced, sets_of, upright
from xcvae.verify.report.write import write_html

from ..support.browser import Browser, browser, missing

#: A name that would run code, if it were not escaped.
NAME = "a</script><script>window.broken = 1</script>"
SLIDER = "[data-map=a] input[type=range]"


@pytest.fixture(scope="module")
def page(storms: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storms that are the observation at spread 0, and a sequence of 3 of 6 times."""
    rain = storms.pr

    def ensemble(*factors: float, **made: object) -> xr.Dataset:
        members = xr.concat([factor * rain for factor in factors], "realization")
        found = members.assign_attrs(rain.attrs).to_dataset()
        return found.assign_attrs(xcvae=json.dumps(made))

    spreads = {0.0: ensemble(1, 1), 0.5: ensemble(2, 3), 1.0: ensemble(5, 9)}
    sequence = ensemble(0.2, 0.4, 0.6, mode="prior", temporal="coherent")
    sets = sets_of(storms, {NAME: sequence}, spreads)
    model = {"target": "pr", "units": "mm h-1", "steps": None, "minutes": None, "sha256": "0"}
    content = {"model": model, "ensembles": {}, "diagnosis": None, "xcvae": "0"}
    file = tmp_path_factory.mktemp("page") / "report.html"
    return write_html(file, content, figures={}, explored=sets)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if reason := missing():
        pytest.skip(f"{reason} to drive a browser with")
    with browser() as found:
        yield found


def shown(chromium: Browser, name: str) -> str:
    """Pixels of a map, when it has been drawn."""
    chromium.wait(
        "return [...document.querySelectorAll('#explorer figure:not([hidden])')]"
        ".every((one) => one.dataset.wanted === one.dataset.shown)"
    )
    return chromium.run(f"return document.querySelector('[data-map={name}] canvas').toDataURL()")


def text(chromium: Browser, selector: str) -> str:
    return chromium.run("return document.querySelector(arguments[0]).textContent", selector)


def test_slider_leads_from_the_storm_to_the_prior_with_the_keyboard(
    chromium: Browser, page: Path
) -> None:
    chromium.open(page)
    assert shown(chromium, "a") != shown(chromium, "observed")
    assert text(chromium, "[data-map=a] figcaption") == "Member 0, spread\u00a00.5"
    chromium.type(SLIDER, "home")
    assert text(chromium, "[data-map=a] output") == "0"
    assert shown(chromium, "a") == shown(chromium, "observed")
    chromium.type(SLIDER, "right", "right")
    assert text(chromium, "[data-map=a] output") == "1"
    assert shown(chromium, "a") == shown(chromium, "b") != shown(chromium, "observed")
    chromium.click("[data-map=b] fieldset label:nth-of-type(2)")
    assert text(chromium, "[data-map=b] figcaption") == "Member 1, spread\u00a01"
    assert shown(chromium, "a") != shown(chromium, "b")
    chromium.type("[data-map=b] fieldset input:checked", "left")
    assert shown(chromium, "a") == shown(chromium, "b")
    assert chromium.errors() == []


def test_sample_is_picked_with_its_condition(
    chromium: Browser, page: Path, storms: xr.Dataset
) -> None:
    chromium.open(page)
    before = shown(chromium, "observed"), shown(chromium, "coarse")
    most = float(storms.pr.mean(("y", "x")).max())
    assert text(chromium, "[data-map=observed] p").startswith(f"mean {most:.3g},")
    chromium.type("[data-part=sample]", "right")
    after = shown(chromium, "observed"), shown(chromium, "coarse")
    assert before[0] != after[0]
    assert before[1] != after[1]
    size = chromium.run("const c = document.querySelector('[data-map=coarse] canvas');"
                        "return [c.height, c.width]")  # fmt: skip
    assert size == list(storms.pr_coarse.shape[1:])


def test_sequence_is_played_and_paused(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    shown(chromium, "a")
    chromium.type("[data-part=set]", "right")
    assert "Members evolve in time" in text(chromium, "[data-part=about]")
    first, start = shown(chromium, "a"), text(chromium, "[data-part=time] output")
    chromium.click("[data-part=play]")
    chromium.wait(f"return document.querySelector('[data-part=time] output').value !== '{start}'")
    chromium.click("[data-part=play]")
    assert text(chromium, "[data-part=play]") == "Play"
    assert shown(chromium, "a") != first
    chromium.type("[data-part=time] input", "home")
    stopped = text(chromium, "[data-part=time] output")
    chromium.type("[data-part=time] input", "right")
    assert text(chromium, "[data-part=time] output") != stopped
    assert chromium.errors() == []


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False)])
def test_page_fits_the_screen_and_follows_the_scheme(
    chromium: Browser, page: Path, width: int, dark: bool
) -> None:
    chromium.open(page, width, dark=dark)
    shown(chromium, "a")
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    colour = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(23, 25, 27)" if dark else "rgb(255, 255, 255)")
    places = chromium.run(
        "return ['a', 'b'].map((one) => document.querySelector(`[data-map=${one}] canvas`)"
        ".getBoundingClientRect()).map((box) => [box.top, box.width])"
    )
    assert places[0] == places[1]  # side by side, also on a telephone
    assert places[0][1] > 150


def test_page_runs_no_script_but_its_own(chromium: Browser, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for extra in ("<script>window.broken = 1</script>", "<img src=x onerror='window.broken = 1'>"):
        text = text.replace("</main>", f"{extra}</main>")
    changed = page.with_name("changed.html")
    changed.write_text(text, encoding="utf-8")
    chromium.open(changed)
    shown(chromium, "a")
    assert chromium.run("return window.broken === undefined")
    assert any("Content Security Policy" in one for one in chromium.errors())


@pytest.mark.parametrize(
    ("units", "y", "x", "first"),
    [("°N", [40, 50], [5, 6, 7], 3), ("km", [9, 1], [7, 6, 5], 2), ("pixel", [0, 1], [0, 1, 2], 0)],
)
def test_maps_are_upright(units: str, y: list[float], x: list[float], first: int) -> None:
    axes = Axis(np.array(y, float), units), Axis(np.array(x, float), units)
    found = upright(np.arange(6).reshape(2, 3), *axes)
    assert found[0, 0] == first


def test_reduced_maps_are_means_of_blocks_without_missing_pixels() -> None:
    field = np.arange(2.0 * (2 * SIDE - 1)).reshape(2, -1)
    field[0, 0] = np.nan
    small = reduced(field)
    assert small.shape == (1, SIDE)
    assert small[0, 0] == np.nanmean(field[:, :2])
    assert small[0, -1] == field[:, -1].mean()
    assert np.isnan(reduced(np.full((2, 2 * SIDE), np.nan))).all()
    assert reduced(small) is small


def test_masked_maps_and_named_members_are_written(
    chromium: Browser, storms: xr.Dataset, tmp_path: Path
) -> None:
    rain = storms.pr.copy()
    rain[{"time": slice(1, None)}] = np.nan
    members = xr.concat([rain, rain.where(False)], "realization").assign_attrs(rain.attrs)
    made = json.dumps({"mode": "prior", "temporal": "coherent"})
    members = (
        members.assign_coords(realization=["r1", "<r2>"]).to_dataset().assign_attrs(xcvae=made)
    )
    sets = sets_of(storms, {"Überlänge " + "x" * 60: members})
    model = {"target": "pr", "units": "mm h-1", "steps": None, "minutes": None, "sha256": "0"}
    one = {"made": None, "scores": None, "criteria": [], "passed": True}
    names = {"a b": one, "a-b": one, "y" * 80: one}
    content = {"model": model, "ensembles": names, "diagnosis": None, "xcvae": "0"}
    page = write_html(tmp_path / "report.html", content, figures={}, explored=sets)
    chromium.open(page, 390)
    shown(chromium, "a")
    assert text(chromium, "[data-map=b] figcaption") == "Member <r2>"
    assert text(chromium, "[data-map=b] p") == "no data"
    assert chromium.run("return document.documentElement.scrollWidth") <= 390
    assert chromium.run("return document.querySelectorAll('h2[id^=e-a]').length") == 2
    assert (
        chromium.run("return new Set([...document.querySelectorAll('h2')].map(h => h.id)).size")
        == 4
    )
    assert chromium.errors() == []


def test_sequences_of_large_maps_have_fewer_frames(
    storms: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = json.dumps({"mode": "prior", "temporal": "coherent"})
    members = xr.concat([storms.pr], "realization").assign_attrs(storms.pr.attrs)
    ensemble = members.to_dataset().assign_attrs(xcvae=made)
    whole = len(sets_of(storms, {"one": ensemble})[0].labels)
    monkeypatch.setattr(explorer, "READ", 4 * 2 * storms.pr[0].size)
    assert len(sets_of(storms, {"one": ensemble})[0].labels) == 2 < whole


@pytest.mark.parametrize("damaged", ["{", "[1]", "null"])
def test_ensembles_with_a_damaged_attribute_are_shown(storms: xr.Dataset, damaged: str) -> None:
    members = xr.concat([storms.pr], "realization").assign_attrs(storms.pr.attrs)
    ensemble = members.to_dataset().assign_attrs(xcvae=damaged)
    assert len(sets_of(storms, {"one": ensemble})) == 1
