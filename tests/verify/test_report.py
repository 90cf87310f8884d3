"""The report: figures, one HTML page and one JSON file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import xarray as xr

import xcvae
from xcvae.generator.model import Model
from xcvae.verify.criteria import criteria_for, judge
from xcvae.verify.diagnosis import Diagnosis, diagnose
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
    assert page.count("data:image/png;base64,") == len(written) - 3
    assert page.count('<img alt="') == page.count("<img")
    assert 'alt=""' not in page
    for wanted in ("Ensemble prior", "Criteria: 4 of 5 met", "✗ ≤ 3", "3 samples with 2"):
        assert wanted in page
    assert '<td class="number best">0.200<small>0.150 to 0.250</small></td>' in page
    assert "CRPS [mm h⁻¹]<small>a score; lower is better</small>" in page
    assert "✓ within ±0.06 of observed" in page
    for finding in diagnosis.findings:
        assert finding.name in page
    # One file, offline: no script, nothing that a browser would fetch.
    assert not re.search(r"""<script|<link|@import|url\(|(src|href)=["'](?!data:|#)""", page)


def test_report_of_evolving_members_has_a_player_without_a_script(
    tmp_path: Path, tiny_model: Model
) -> None:
    ds = xcvae.tutorial.open_dataset("radklim-sequence").isel(time=slice(3)).load()
    ens = xcvae.sample(ds, tiny_model, members=2, temporal="coherent", timescales=[3600, 600, 0, 0])
    written = save_report(
        tmp_path, ds=ds, model=tiny_model, ensembles={"a": ens.load()}, cards={}, verdicts={},
        diagnosis=None,
    )  # fmt: skip
    page = written["html"].read_text(encoding="utf-8")
    assert page.count("<figure class=player>") == 1
    assert page.count('name="e-a-frame"') == 3
    assert page.count(" checked>") == 1
    assert "data:image/gif;base64," in page
    assert written["a-animation"].read_bytes()[:3] == b"GIF"
    assert not re.search(r"""<script|(src|href)=["'](?!data:|#)""", page)


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
