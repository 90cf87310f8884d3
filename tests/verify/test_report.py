"""The report: figures, one HTML page and one JSON file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.generator.model import Model
from xcvae.verify.criteria import criteria_for, judge
from xcvae.verify.diagnosis import Diagnosis, diagnose
from xcvae.verify.plots.text import label_of
from xcvae.verify.report.explorer import draw_spreads
from xcvae.verify.report.write import save_report


@pytest.fixture(scope="module")
def diagnosis(test_radar: xr.Dataset, tiny_model: Model) -> Diagnosis:
    return diagnose(test_radar.isel(time=slice(3)), tiny_model, members=2)


def test_report_writes_figures_json_and_html(
    tmp_path: Path, storms: xr.Dataset, card: xr.Dataset, tiny_model: Model, diagnosis: Diagnosis
) -> None:
    fields = [factor * storms.pr for factor in (0.5, 1.0, 2.0)]
    ensemble = xr.concat(fields, "realization").assign_attrs(storms.pr.attrs).to_dataset()
    ensemble.attrs["xcvae"] = json.dumps({"mode": "posterior", "spread": 0.5})
    verdicts = judge(card, criteria_for("prior"))
    folder = tmp_path / "out" / "report"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text("of an earlier run")
    written = save_report(
        folder,
        ds=storms,
        model=tiny_model,
        ensembles={"prior": ensemble},
        cards={"prior": card},
        verdicts={"prior": verdicts},
        diagnosis=diagnosis.to_json(),
    )
    assert set(written) == {
        "report",
        "training",
        "prior-members",
        "prior-spectra",
        "prior-ranks",
        "prior-scores",
        "prior-reliability",
        "prior-quantiles",
        "prior-intensity",
        "prior-bias",
        "html",
    }
    for path in written.values():
        assert path.stat().st_size > 1000
        if path.suffix == ".png":
            assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert {path.name for path in folder.iterdir()} == {path.name for path in written.values()} | {
        "captions.txt"
    }
    content = json.loads(written["report"].read_text(encoding="utf-8"))
    prior = content["ensembles"]["prior"]
    assert prior["made"] == {"mode": "posterior", "spread": 0.5}
    assert prior["scores"]["crps"]["xcvae"] == {"value": 0.2, "low": 0.15, "high": 0.25}
    assert prior["scores"]["mass_bias"]["bilinear"]["value"] is None
    assert prior["criteria"][2] == {
        "name": "spectral_distance",
        "value": 4.0,
        "low": None,
        "high": 3.0,
        "verdict": "miss",
    }
    assert prior["passed"] is False
    assert content["diagnosis"]["ok"] is diagnosis.ok
    assert content["model"]["sha256"] == tiny_model.sha256
    assert all((folder / name).exists() for name in content["files"].values())
    page = written["html"].read_text(encoding="utf-8")
    # Scores are a table that can be read aloud, searched and copied; the others are images.
    assert page.count('src="data:image/png;base64,') == len(written) - 3
    assert page.count('<img alt="') == page.count("<img")
    assert 'alt=""' not in page
    for wanted in ("Ensemble prior", "Criteria: 4 of 5 met", "✗ ≤ 3", "3 samples with 2"):
        assert wanted in page
    assert '<td class="number best">0.200<small>0.150 to 0.250</small></td>' in page
    assert "CRPS [mm h⁻¹]<small>a score; lower is better</small>" in page
    assert "✓ within ±0.06 of observed" in page
    for finding in diagnosis.findings:
        assert finding.name in page
    assert_offline(page)


def assert_offline(page: str) -> None:
    """Nothing that a browser would fetch, and no script but that of the explorer."""
    assert not re.search(r"""<link|@import|url\(|(src|href)=["'](?!data:|#)""", page)
    data, code = re.findall(r"<script[^>]*>", page)
    assert (data, code) == ('<script type="application/json" id=explorer-data>', "<script>")
    script = re.findall(r"(?s)<script>(.*)</script>", page)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "content=\"default-src 'none'; img-src data:; " in page
    assert f" script-src 'sha256-{digest}';" in page


def test_report_of_evolving_members_has_a_sequence_to_play_and_an_animation(
    tmp_path: Path, tiny_model: Model
) -> None:
    ds = xcvae.tutorial.open_dataset("radklim-sequence").isel(time=slice(3)).load()
    ens = xcvae.sample(ds, tiny_model, members=2, temporal="coherent", timescales=[3600, 600, 0, 0])
    written = save_report(
        tmp_path, ds=ds, model=tiny_model, ensembles={"a": ens.load()}, cards={}, verdicts={},
        diagnosis=None,
    )  # fmt: skip
    page = written["html"].read_text(encoding="utf-8")
    assert '<noscript><figure><img alt="Animation" src="data:image/gif;base64,' in page
    assert written["a-animation"].read_bytes()[:3] == b"GIF"
    assert_offline(page)
    (found,) = json.loads(page.split("id=explorer-data>")[1].split("</script>")[0])["sets"]
    assert found["sequence"] is True
    assert [one["label"] for one in found["samples"]] == [label_of(one) for one in ds.time.values]
    assert found["members"] == [0, 1]


def test_spreads_of_the_explorer_lead_from_the_storm_to_the_prior(
    train_radar: xr.Dataset, tiny_model: Model
) -> None:
    ds = train_radar.isel(time=slice(20, 28))
    spreads = draw_spreads(ds, tiny_model, {"seed": 3, "members": 9, "min_mass": 0.5})
    assert list(spreads) == [0.0, 0.25, 0.5, 0.75, 1.0]
    means = ds.pr.mean(("y", "x"))
    errors = []
    for spread, ensemble in spreads.items():
        assert ensemble.pr.shape[:2] == (3, 3)
        assert means.idxmax("time").values in ensemble.time.values
        wanted = ds.sel(time=ensemble.time)
        again = xcvae.sample(
            wanted, tiny_model, mode="posterior", spread=spread, members=3, seed=3, progress=False
        )
        np.testing.assert_array_equal(ensemble.pr.values, again.pr.values)
        errors.append(float(abs(ensemble.pr - wanted.pr).mean()))
    assert errors[0] < errors[2] < errors[4]
    assert draw_spreads(ds.drop_vars("pr"), tiny_model) == {}


def save_cards(folder: Path, ds: xr.Dataset, model: Model, **cards: xr.Dataset) -> dict[str, Path]:
    """Write a report of scorecards alone."""
    return save_report(
        folder, ds=ds, model=model, ensembles={}, cards=cards, verdicts={}, diagnosis=None
    )


def by_season(card: xr.Dataset, first: str) -> xr.Dataset:
    """A scorecard with two groups; the scores of the second are doubled."""
    return xr.concat([card, 2 * card], dim=xr.Variable("season", [first, "JJA"]))


def test_report_escapes_names(
    tmp_path: Path, storms: xr.Dataset, card: xr.Dataset, tiny_model: Model
) -> None:
    written = save_cards(tmp_path, storms, tiny_model, **{"a<b>&": by_season(card, "<DJF>")})
    page = written["html"].read_text(encoding="utf-8")
    assert "Ensemble a&lt;b&gt;&amp;" in page
    assert "<h4>&lt;DJF&gt;</h4>" in page
    first, second = page.split("<h4>JJA</h4>")
    assert '<td class="number">0.200<small>' in first
    assert '<td class="number">0.400<small>' in second
    assert "Diagnosis" not in page


def test_report_of_a_grouped_card_has_json_without_figure(
    tmp_path: Path, storms: xr.Dataset, card: xr.Dataset, tiny_model: Model
) -> None:
    written = save_cards(tmp_path, storms, tiny_model, prior=by_season(card, "DJF"))
    assert set(written) == {"report", "training", "html"}
    content = json.loads(written["report"].read_text(encoding="utf-8"))
    crps = content["ensembles"]["prior"]["scores"]["crps"]
    assert crps["groups"] == {"season": ["DJF", "JJA"]}
    assert crps["xcvae"]["value"] == pytest.approx([0.2, 0.4])
    assert content["diagnosis"] is None
