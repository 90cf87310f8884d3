"""Models by name: the registry, its cards, and names in the place of paths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.cli import main
from xcvae.ensemble.sampler import open_model
from xcvae.errors import ConfigError, ModelFileError, XcvaeError
from xcvae.generator.named import FOLDERS, KEYS, name_of, relative_to

CARD = """
title: rain of a corner
purpose: tests
data: RADKLIM, a part
licence: CC BY 4.0
attribution: "Data basis: Deutscher Wetterdienst, values processed"
scores: {CRPS skill: 0.1}
limits: trained for seconds
"""


@pytest.fixture
def named(tiny_model, tmp_path, monkeypatch):
    """A folder with a model named ``tiny-rain`` and its card, listed in the environment."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(tiny_model.path, folder / "tiny-rain.xcvae")
    (folder / "tiny-rain.yaml").write_text(CARD, encoding="utf-8")
    monkeypatch.setenv(FOLDERS, os.pathsep.join([str(folder), str(tmp_path / "missing")]))
    return folder


def test_names_are_those_of_the_package_and_of_listed_folders(named, tiny_model):
    assert "tiny-rain" in xcvae.models.names()
    assert xcvae.models.open("tiny-rain").sha256 == tiny_model.sha256
    assert name_of(named / "tiny-rain.xcvae") == "tiny-rain"
    assert name_of(tiny_model.path) == "tiny.xcvae"


def test_card_describes_the_model(named):
    card = xcvae.models.card("tiny-rain")
    assert card.title == "rain of a corner"
    assert card.scores == {"CRPS skill": 0.1}
    assert card.size == (named / "tiny-rain.xcvae").stat().st_size
    assert not card.bundled
    assert "licence: CC BY 4.0" in str(card)
    (named / "tiny-rain.yaml").unlink()
    assert xcvae.models.card("tiny-rain").title == ""


@pytest.mark.parametrize("name", xcvae.models.names())
def test_bundled_models_have_complete_cards_and_load(name):
    card = xcvae.models.card(name)
    assert all((card.title, card.purpose, card.data, card.licence, card.scores, card.limits))
    assert card.size <= 4_000_000
    assert xcvae.models.open(name).path == card.path


@pytest.mark.parametrize("content", ["titel: x\n", "- a\n", "title: [\n"])
def test_wrong_cards_are_refused(named, content):
    (named / "tiny-rain.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"card '.*tiny-rain.yaml'"):
        xcvae.models.card("tiny-rain")


def test_unknown_names_get_the_nearest(named):
    for use in (xcvae.models.open, xcvae.models.card, xcvae.load):
        with pytest.raises(ModelFileError, match="Did you mean 'tiny-rain'"):
            use("tiny-rian")


def test_two_files_of_one_name_are_refused(named, monkeypatch, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(named / "tiny-rain.xcvae", tmp_path / "more")
    monkeypatch.setenv(FOLDERS, os.pathsep.join([str(named), str(tmp_path / "more")]))
    with pytest.raises(ConfigError, match=r"'tiny-rain': expected one file of that name"):
        xcvae.models.names()


def test_a_path_wins_only_if_it_is_written_as_one(named, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("tiny-rain", "other"):
        shutil.copy(tiny_model.path, tmp_path / place)
    assert xcvae.load("tiny-rain").path == named / "tiny-rain.xcvae"
    assert xcvae.load("./tiny-rain").path == tmp_path / "tiny-rain"
    assert xcvae.load(Path("tiny-rain")).path == tmp_path / "tiny-rain"
    assert xcvae.load("other").path == tmp_path / "other"  # no model has that name
    assert relative_to(tmp_path, "tiny-rain") == "tiny-rain"
    assert relative_to(tmp_path, "other") == tmp_path / "other"
    assert relative_to(tmp_path, "sub/m.xcvae") == tmp_path / "sub" / "m.xcvae"


def test_names_stand_for_paths_in_every_verb(named, tiny_model, test_radar, tmp_path):
    few = test_radar.isel(time=slice(0, 8, 4))
    wanted = xcvae.sample(few, tiny_model, members=2, progress=False)
    store = tmp_path / "ens.zarr"
    found = xcvae.sample(few, "tiny-rain", members=2, store=store, progress=False)
    xr.testing.assert_equal(found.load(), wanted.load())
    verified = xcvae.verify_store(store, ds=few, model="tiny-rain", progress=False)
    assert verified.ok
    assert verified.redrawn
    assert str(xcvae.diagnose(few, "tiny-rain", members=2))
    assert few.cvae.sample("tiny-rain", members=1).sizes["realization"] == 1
    tuned = xcvae.train(
        few, target="pr", conditions=["pr_coarse"], start="tiny-rain", progress=False, validation=0,
        fit={"max_steps": 1, "batch_size": 2, "crop": 24, "validations": 1},
    )  # fmt: skip
    assert tuned.training["start"]["name"] == "tiny-rain"


def test_open_model_refuses_other_objects():
    with pytest.raises(ConfigError, match=r"a name of xcvae.models.*got 3 \(int\)"):
        open_model(3, "cpu")


def test_command_lists_models_with_their_cards(named, capsys):
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert "tiny-rain: rain of a corner" in listed
    assert "attribution: Data basis: Deutscher Wetterdienst" in listed
    assert main(["models", "tiny-rain"]) == 0
    assert capsys.readouterr().out.partition("\nWhat to type next:")[0] in listed
    assert main(["models", "tiny"]) == 1
    assert "Did you mean 'tiny-rain'" in capsys.readouterr().err


def test_names_need_no_torch():
    code = (
        "import sys, xcvae; from xcvae.cli import main\n"
        "xcvae.models.names(); main(['models'])\n"
        "assert not {'torch', 'intake'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


# Names of variables and dims are roles.


@pytest.fixture
def foreign(test_radar):
    """The same rain as other people name it."""
    few = test_radar.isel(time=slice(0, 8, 4)).drop_vars("split")
    names = {"pr": "precip", "pr_coarse": "gcm_rain", "time": "valid_time", "y": "yc", "x": "xc"}
    found = few.rename(**names, y_coarse="y_gcm", x_coarse="x_gcm")
    found.precip.attrs["long_name"] = "rain of my radar"
    return found


def test_named_models_find_variables_and_dims_by_role(named, tiny_model, test_radar, foreign):
    few = test_radar.isel(time=slice(0, 8, 4))
    wanted = xcvae.sample(few, tiny_model, members=2, progress=False)
    found = xcvae.sample(foreign, "tiny-rain", members=2, progress=False)
    assert found.precip.dims == ("realization", "valid_time", "yc", "xc")
    assert found.precip.attrs["long_name"] == "rain of my radar"
    assert found.precip.attrs["units"] == wanted.pr.attrs["units"]
    assert (found.precip.values == wanted.pr.values).all()
    prior = foreign.drop_vars("precip")
    alone = xcvae.sample(prior, "tiny-rain", members=2, progress=False)
    assert (alone.pr.values == wanted.pr.values).all()
    card = xcvae.evaluate(foreign, found, metrics=["crps_skill"], progress=False)
    assert {"xcvae", "bilinear"} <= set(card.source.values)
    assert xcvae.diagnose(foreign, "tiny-rain", members=2).findings


def test_other_models_are_renamed_on_request(tiny_model, test_radar, foreign, tmp_path):
    with pytest.raises(xcvae.errors.MismatchError, match=r"model.rename_for\(ds\)"):
        xcvae.sample(foreign, tiny_model)
    wanted = xcvae.sample(test_radar.isel(time=slice(0, 8, 4)), tiny_model, members=2)
    by_hand = tiny_model.rename(
        pr="precip", pr_coarse="gcm_rain", time="valid_time", y="yc", x="xc",
        y_coarse="y_gcm", x_coarse="x_gcm",
    )  # fmt: skip
    for model in (by_hand, tiny_model.rename_for(foreign)):
        found = xcvae.sample(foreign, model, members=2)
        assert (found.precip.values == wanted.pr.values).all()
    assert tiny_model.spec.target == "pr"
    assert by_hand.to_bytes() == tiny_model.to_bytes()
    assert tiny_model.rename_for(test_radar) is tiny_model


def test_renamed_models_travel_to_other_processes(tiny_model, foreign):
    import pickle

    model = tiny_model.rename_for(foreign)
    again = pickle.loads(pickle.dumps(model))
    assert (again.spec.target, again.spec.sample) == ("precip", "valid_time")
    assert again.sha256 == model.sha256
    unsaved = xcvae.generator.model.from_bytes(tiny_model.to_bytes()).rename_for(foreign)
    assert pickle.loads(pickle.dumps(unsaved)).spec.target == "precip"


def test_bundled_model_has_a_complete_card_and_a_small_file():
    found = xcvae.models.card("rain-radar")
    assert found.bundled
    assert found.size <= 4_000_000
    assert all(getattr(found, key) for key in KEYS)


def test_bundled_model_divides_coarse_rain_without_training(test_radar):
    """It has never seen this radar: members keep the means, and beat interpolation."""
    coarse = test_radar[["pr_coarse"]].rename(pr_coarse="tp")
    ens = xcvae.sample(coarse, "rain-radar", factor=12, members=4)
    assert ens["tp"].dims == ("realization", "time", "y_coarse", "x_coarse")
    means = ens["tp"].coarsen(y_coarse=12, x_coarse=12).mean()
    np.testing.assert_allclose(means, coarse.tp.broadcast_like(means), rtol=1e-4, atol=1e-4)
    fine = xcvae.sample(test_radar, "rain-radar", members=4)
    card = xcvae.evaluate(test_radar, fine, metrics=["crps_skill"], baselines=["bilinear"])
    assert float(card.crps_skill.sel(source="xcvae")) > 0.25


@pytest.mark.parametrize(("model", "words"), [(5, "model: .*got int"), (Path(), "the folder")])
def test_load_refuses_what_is_not_a_file(model: Any, words: str) -> None:
    with pytest.raises(XcvaeError, match=words):
        xcvae.load(model)
