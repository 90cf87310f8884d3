"""The whole job from a YAML file: end to end, interrupted, run again, changed, step by step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import intake
import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae import config, pipeline
from xcvae.cli import main
from xcvae.ensemble import catalog
from xcvae.errors import StoreError
from xcvae.files import locked
from xcvae.pipeline import steps
from xcvae.pipeline.manifest import Manifest
from xcvae.registry import registry

CONFIG = """
data:
  path: rain.zarr
  train: {split: 0}
  validation: {split: 1}
  test: {split: 2}
output: out
train:
  target: pr
  coarsen: 12
  generator: {channels: [16, 16, 8], latents: [4, 2, 1]}
  fit: {max_steps: 20, batch_size: 4, crop: 24, validations: 2}
sample:
  - {name: posterior, mode: posterior, spread: 0.5, members: 2}
  - {name: prior, members: 3, chunks: {time: 2}, postprocess: [halve]}
evaluate: {metrics: [crps, mass_bias, ks], baselines: [bilinear]}
diagnose: {members: 2}
criteria: {prior: {ks: [null, 0.9], mass_bias: null}}
plugins: [halving]
"""
PLUGIN = """
from dataclasses import dataclass
import xcvae

@dataclass(frozen=True)
class Halve:
    def __call__(self, field, context):
        return (field / 2).assign_attrs(field.attrs)

@xcvae.hookimpl
def xcvae_components():
    return {"postprocessor": {"halve": Halve}}
"""


@pytest.fixture(scope="module")
def rain() -> xr.Dataset:
    """48 x 36 km of the bundled radar, a few wet frames of each split."""
    ds = xcvae.tutorial.open_dataset("radklim")[["pr"]].isel(y=slice(48, 96), x=slice(48, 84))
    wet = ((ds.pr > 0.1).mean(("y", "x")) > 0.3).values
    few = [np.flatnonzero(wet & (ds.split.values == s))[::4][:12] for s in range(3)]
    return ds.isel(time=np.concatenate(few)).load().drop_encoding()


@pytest.fixture
def folder(tmp_path: Path, rain: xr.Dataset) -> Iterator[Path]:
    rain.to_zarr(tmp_path / "rain.zarr", consolidated=False)
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "halving.py").write_text(PLUGIN, encoding="utf-8")
    path = list(sys.path)
    yield tmp_path
    # The plugin is known to the process; other tests must not see it.
    sys.path[:] = path
    sys.modules.pop("halving", None)
    registry.cache_clear()


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "config.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def double(folder: Path, rain: xr.Dataset) -> None:
    """Replace the data of a run by twice as much rain."""
    doubled = rain.assign(pr=rain.pr.copy(data=2 * rain.pr.values))
    doubled.to_zarr(folder / "rain.zarr", mode="w", consolidated=False)


def times(folder: Path) -> dict[str, int]:
    """When every product was last written; the catalog and its lock change with its notes."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and "catalog" not in path.name
    }


def test_second_run_keeps_every_product(
    folder: Path, rain: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(folder / "config.yaml")]
    assert main(arguments) == 0
    message = capsys.readouterr()
    assert message.err.splitlines() == [f"plugin 'halving' runs the code of {folder}/halving.py"]
    assert "train made, posterior made, prior made, evaluate made, diagnose made" in message.out
    out = folder / "out"
    for following in ("report/report.html in a browser", f"xcvae info {out}", "xcvae verify"):
        assert following in message.out.partition("What to type next:")[2]

    # What is handed over opens without xcvae's help, in physical units.
    entry = intake.open_catalog(str(out / "catalog.yaml"))["prior"]
    opened = entry.read()
    test = rain.isel(time=rain.split.values == 2)
    assert dict(opened.pr.sizes) == {"realization": 3, **test.pr.sizes}
    assert opened.pr.attrs["units"] == "mm h-1"
    assert float(opened.pr.min()) >= 0

    # The scores are those of the API, on what was stored.
    card = test.cvae.evaluate(opened, metrics=["ks"], baselines=[], progress=False)
    scores = entry.metadata["scores"]
    assert scores == {"ks": pytest.approx(float(card.ks.sel(source="xcvae")), abs=1e-5)}

    # Verdicts: the configuration's own, and those defaults whose scores were asked for.
    summary = json.loads((out / "report" / "summary.json").read_text(encoding="utf-8"))
    names = {n: [c["name"] for c in found] for n, found in summary["criteria"].items()}
    assert names == {"posterior": ["mass_bias", "ks"], "prior": ["ks"]}
    assert summary["criteria"]["prior"][0]["high"] == 0.9
    assert summary["seconds"] > 0
    assert 1e8 < summary["peak_memory_bytes"] < 4e9
    report = json.loads((out / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["diagnosis"] is not None
    for picture in report["files"].values():
        assert (out / "report" / picture).stat().st_size > 10_000

    # Storms of the run were redrawn at several spreads, for the explorer.
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert '"spreads":[0.0,0.25,0.5,0.75,1.0]' in page

    before = times(out)
    assert main(arguments) == 0
    again = capsys.readouterr().out
    assert "train unchanged, posterior unchanged, prior unchanged" in again
    assert "evaluate unchanged, diagnose unchanged" in again
    assert times(out) == before
    # The same verdicts and the same words of the diagnosis.
    assert again.partition("\n\ntrain ")[0] == message.out.partition("\n\ntrain ")[0]

    # Scoring alone leaves the report as it is, with the diagnosis of the model.
    capsys.readouterr()
    assert main(["evaluate", str(folder / "config.yaml")]) == 0
    assert times(out) == before
    scores = capsys.readouterr().out.partition("scores of 'prior':\n")[2].splitlines()
    assert scores[0].split() == ["score", "xcvae", "bilinear"]
    crps = report["ensembles"]["prior"]["scores"]["crps"]["xcvae"]["value"]
    assert scores[1].split()[:4] == ["CRPS", "[mm", "h-1]", f"{crps:.3f}"]

    # The report can be had again, with all that is in it.
    page = out / "report" / "report.html"
    whole = page.read_text(encoding="utf-8")
    page.unlink()
    assert main(["report", str(folder / "config.yaml")]) == 0
    drawn = page.read_text(encoding="utf-8")
    for wanted in ("Ensemble posterior", "Ensemble prior", "Verdict: "):
        assert wanted in drawn
    assert drawn.count("<img") == whole.count("<img") > 10
    assert times(out)["model.xcvae"] == before["model.xcvae"]


def test_changed_configuration_is_refused_without_overwrite(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "config.yaml")
    assert main(["train", path]) == main(["sample", path]) == 0
    capsys.readouterr()
    model = xcvae.load(folder / "out" / "model.xcvae").sha256
    edit(folder, "max_steps: 20", "max_steps: 21")
    assert main(["run", path]) == 1
    message = capsys.readouterr().err
    assert "train.fit.max_steps (stored: 20, requested: 21)" in message
    assert "--overwrite" in message
    assert xcvae.load(folder / "out" / "model.xcvae").sha256 == model

    edit(folder, "members: 3", "members: 4")
    assert main(["sample", path]) == 1
    assert "members (stored: 3, requested: 4)" in capsys.readouterr().err

    assert main(["train", path, "--overwrite"]) == main(["sample", path, "--overwrite"]) == 0
    assert "posterior made, prior made" in capsys.readouterr().out
    new = xcvae.load(folder / "out" / "model.xcvae")
    assert new.training["steps"] == 21
    opened = catalog.open_entry(folder / "out" / "catalog.yaml", "prior")
    assert json.loads(opened.attrs["xcvae"])["model_sha256"] == new.sha256
    assert opened.sizes["realization"] == 4


@pytest.mark.parametrize(
    "name",
    [
        "model.xcvae",
        "prior.zarr",
        "catalog.yaml",
        "report/prior-scores.json",
        "report/diagnosis.txt",
        "report/report.html",
    ],
)
def test_overwrite_keeps_files_that_no_run_has_written(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = folder / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("years of work", encoding="utf-8")
    assert main(["run", str(folder / "config.yaml"), "--overwrite"]) == 1
    assert str(file) in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "years of work"
    early = not (folder / "out" / "model.xcvae").exists()
    assert early or name in {"prior.zarr", "model.xcvae"}


def test_evaluate_refuses_ensembles_of_another_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "config.yaml")
    assert main(["train", path]) == main(["sample", path]) == 0
    edit(folder, "max_steps: 20", "max_steps: 21")
    assert main(["train", path, "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["evaluate", path]) == 1
    assert "got an ensemble of another model" in capsys.readouterr().err


def test_changed_data_under_the_same_name_are_refused(
    folder: Path, rain: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "config.yaml")
    assert main(["train", path]) == 0
    double(folder, rain)
    capsys.readouterr()
    assert main(["train", path]) == 1
    assert "data.train (stored: '12 samples" in capsys.readouterr().err


def test_single_steps_require_earlier_ones_and_follow_changes(
    folder: Path, rain: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "config.yaml")
    assert main(["sample", path]) == 1
    assert "Run `xcvae train`" in capsys.readouterr().err
    assert main(["train", path]) == 0
    assert main(["evaluate", path]) == 1
    assert "Run `xcvae sample`" in capsys.readouterr().err
    assert main(["sample", path]) == 0
    assert main(["diagnose", path]) == 0
    assert "Verdict: " in capsys.readouterr().out
    assert main(["evaluate", path]) == 0
    assert "criteria met" in capsys.readouterr().out
    # Scores are cheap: they follow the configuration without being asked.
    edit(folder, "[crps, mass_bias, ks]", "[crps, ks]")
    assert main(["evaluate", path]) == 0
    message = capsys.readouterr().out
    assert "evaluate made" in message
    assert "mass_bias" not in message
    assert main(["evaluate", path]) == 0
    assert "evaluate unchanged" in capsys.readouterr().out
    double(folder, rain)  # so do they follow the observations
    assert main(["evaluate", path]) == 0
    assert "evaluate made" in capsys.readouterr().out


def test_message_names_append_only_where_it_helps(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "config.yaml")
    assert main(["train", path]) == 0
    assert main(["sample", path]) == 0
    edit(folder, "members: 3,", "members: 4,")
    assert main(["sample", path]) == 1
    assert capsys.readouterr().err.endswith("On the command line: --overwrite, or --append.\n")
    edit(folder, "members: 4,", "members: 4, seed: 5,")
    assert main(["sample", path]) == 1
    assert capsys.readouterr().err.endswith("On the command line: --overwrite.\n")


def test_second_run_in_a_folder_is_refused_and_files_of_killed_ones_are_removed(
    folder: Path,
) -> None:
    """The second one replaced the model of the first, of which the ensembles were then drawn."""
    out, settings = folder / "out", config.load(folder / "config.yaml")
    (out / "report").mkdir(parents=True)
    stale = [out / f"README.txt.{'0a' * 16}.tmp", out / "report" / f"a.png.{'0b' * 16}.tmp"]
    others = [out / "mine.tmp", out / f"catalog.yaml.{'0c' * 16}.tmp"]
    for file in stale + others:
        file.touch()
    refused = StoreError("busy")
    with locked(out / "run", timeout=0, busy=refused):
        for step in (pipeline.run, lambda *a, **k: pipeline.run_step(*a, "train", **k)):
            with pytest.raises(StoreError, match="no other run in this folder"):
                step(settings, progress=False)
        assert all(file.exists() for file in stale)
    assert not (out / "model.xcvae").exists()
    pipeline.run_step(settings, "train", progress=False)
    assert (out / "model.xcvae").exists()
    assert [file.exists() for file in stale + others] == [False, False, True, True]
    assert not list(out.rglob("*.lock"))


def test_step_that_fails_leaves_no_empty_folder(folder: Path) -> None:
    with pytest.raises(xcvae.errors.XcvaeError, match="model"):
        pipeline.run_step(config.load(folder / "config.yaml"), "diagnose", progress=False)
    assert not (folder / "out").exists()


def test_killed_training_is_continued(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    edit(folder, "max_steps: 20", "max_steps: 200")
    edit(folder, "validations: 2", "validations: 50")
    checkpoint = folder / "out" / "model.xcvae.checkpoint"
    running = subprocess.Popen(
        [sys.executable, "-m", "xcvae", "train", str(folder / "config.yaml")],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while not checkpoint.exists() and time.monotonic() < deadline:
            assert running.poll() is None
            time.sleep(0.01)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert checkpoint.exists()
    assert not (folder / "out" / "model.xcvae").exists()
    stopped, same = (tmp_path_factory.mktemp(name) for name in ("stopped", "same"))
    for copy in (stopped, same):
        shutil.copytree(folder, copy, dirs_exist_ok=True)
    summary = pipeline.run_step(config.load(folder / "config.yaml"), "train", progress=False)
    assert summary.steps == {"train": "completed"}
    model = xcvae.load(folder / "out" / "model.xcvae")
    assert model.training["steps"] == 200
    assert not checkpoint.exists()
    # Settings that do not change the model, and defaults that are spelled out, are no others.
    edit(same, "max_steps: 200", "max_steps: 200, compile: false, max_minutes: null")
    summary = pipeline.run_step(config.load(same / "config.yaml"), "train", progress=False)
    assert summary.steps == {"train": "completed"}
    # Other settings are refused, with their names, until --overwrite gives the checkpoint up.
    edit(stopped, "max_steps: 200", "max_steps: 3")
    edit(stopped, "validations: 50", "validations: 1")
    changed = config.load(stopped / "config.yaml")
    for _ in range(2):
        with pytest.raises(xcvae.errors.OutputExistsError, match=r"max_steps \(stored: 200"):
            pipeline.run_step(changed, "train", progress=False)
    pipeline.run_step(changed, "train", overwrite=True, progress=False)
    assert xcvae.load(stopped / "out" / "model.xcvae").training["steps"] == 3


def test_start_of_a_configuration_is_a_file_next_to_it_or_a_name(
    folder: Path, rain: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    train = rain.isel(time=rain.split.values == 0)
    fit = {"max_steps": 1, "batch_size": 2, "crop": 24, "validations": 1}
    sizes = {"channels": [16, 16, 8], "latents": [4, 2, 1]}
    known = xcvae.train(
        train, target="pr", coarsen=12, generator=sizes, fit=fit, path=folder / "known.xcvae"
    )
    edit(folder, "  generator: {channels: [16, 16, 8], latents: [4, 2, 1]}", "  start: known.xcvae")
    edit(folder, "max_steps: 20", "max_steps: 2")
    file = folder / "config.yaml"
    assert main(["run", str(file), "--check"]) == 0
    assert "start       " in capsys.readouterr().out
    assert main(["train", str(file)]) == 0
    made = xcvae.load(folder / "out" / "model.xcvae").training["start"]
    assert (made["name"], made["sha256"], made["share"]) == ("known.xcvae", known.sha256, 1.0)
    assert main(["train", str(file)]) == 0
    assert "train unchanged" in capsys.readouterr().out
    other = xcvae.train(train, target="pr", coarsen=12, generator=sizes, fit=fit, seed=1)
    (folder / "known.xcvae").write_bytes(other.to_bytes())
    assert main(["train", str(file)]) == 1  # another start under the same name
    assert "train.start" in capsys.readouterr().err or "start" in capsys.readouterr().err
    edit(folder, "start: known.xcvae", "start: rain-rader")
    assert main(["run", str(file), "--check"]) == 1
    assert "name of a model or the path" in capsys.readouterr().err


def test_report_covers_ensembles_of_several_parts(folder: Path) -> None:
    edit(folder, "spread: 0.5, members: 2", "spread: 0.5, members: 2, part: train")
    summary = pipeline.run(config.load(folder / "config.yaml"), progress=False)
    assert set(summary.verdicts) == {"posterior", "prior"}
    opened = catalog.open_entry(folder / "out" / "catalog.yaml", "posterior")
    assert set(opened.split.values.tolist()) == {0}


def test_changed_storms_are_drawn_and_listed_but_not_scored(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder, "[halve]", "[halve], storms: [{name: amplify, factor: 1.5}]")
    assert main(["run", str(folder / "config.yaml")]) == 0
    text = capsys.readouterr().out
    assert "'prior' is not scored: its storms (amplify) were never observed" in text
    assert "scores" not in catalog.metadata_of(folder / "out" / "catalog.yaml", "prior")
    assert main(["info", str(folder / "out" / "prior.zarr")]) == 0
    assert "amplify factor 1.5" in capsys.readouterr().out


def test_ensembles_have_their_own_samples_and_grow_with_the_configuration(
    folder: Path, rain: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    last = str(rain.time.values[-4])
    count = [int((rain.split.values == part).sum()) for part in (1, 2)]
    edit(folder, "spread: 0.5, members: 2", f"spread: 0.5, members: 2, samples: {{time: '{last}'}}")
    edit(folder, "members: 3, chunks", "members: 3, samples: {split: [1]}, chunks")
    path = str(folder / "config.yaml")
    assert main(["train", path]) == 0
    assert main(["run", path, "--check"]) == 0
    assert f"3 members of {count[0]} own samples" in capsys.readouterr().out
    assert main(["sample", path]) == 0
    message = capsys.readouterr().out
    assert "posterior.zarr" in message
    assert "model.xcvae" not in message  # only what this step writes
    stores = [xcvae.open_store(folder / "out" / f"{name}.zarr") for name in ("posterior", "prior")]
    assert [one.sizes["time"] for one in stores] == [1, count[0]]
    before = stores[1].load()

    edit(folder, "members: 3, samples: {split: [1]}", "members: 4, samples: {split: [1, 2]}")
    assert main(["sample", path]) == 1
    assert "--append" in capsys.readouterr().err
    assert main(["sample", path, "--append"]) == 0
    assert "prior extended" in capsys.readouterr().out
    grown = catalog.open_entry(folder / "out" / "catalog.yaml", "prior")
    assert grown.pr.shape[:2] == (4, sum(count))
    np.testing.assert_array_equal(grown.pr.values[:3, : count[0]], before.pr.values)
    store, model = folder / "out" / "prior.zarr", folder / "out" / "model.xcvae"
    assert main(["verify", str(store), "--model", str(model), "--data", path]) == 0
    assert "equal bit by bit" in capsys.readouterr().out


def test_folder_with_the_number_of_a_removed_one_is_another(tmp_path: Path) -> None:
    """File systems give numbers again: a replaced store was reported as unchanged."""
    store = tmp_path / "e.zarr"
    store.mkdir()
    before = steps._version(store)
    assert steps._version(store) == before
    store.rmdir()
    time.sleep(0.05)  # the clock of file systems ticks every few milliseconds
    store.mkdir()
    assert steps._version(store) != before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[crps, mass_bias, ks]", "[crps, {name: crps, window: 2D}]", "window: .*'2D'.*2 days"),
        (
            "[crps, mass_bias, ks]",
            "[ks, mass_bias, {name: crps, window: 7 min}]",
            "multiple of the step",
        ),
        ("postprocess: [halve]", "postprocess: [{name: threshold, value: 1 K}]", "threshold.*1 K"),
        ("ks: [null, 0.9]", "sk: [null, 0.9]", "sk"),
        ("ks: [null, 0.9]", "csi_1h: [null, 0.9]", "criteria: expected the score 'csi_1h'"),
        (
            "{metrics: [crps, mass_bias, ks], baselines: [bilinear]}\ndiagnose: {members: 2}\n"
            "criteria: {prior: {ks: ",
            "{metrics: null}\ndiagnose: {members: 2}\ncriteria: {prior: {lag_correlation: ",
            "criteria: expected the score 'lag_correlation'",
        ),
        ("chunks: {time: 2}", "chunks: {tim: 2}", r"chunks\['tim'\]"),
        ("members: 3,", "members: 3, cap: 30 K,", "cap"),
        ("members: 3,", "members: 3, device: gpu,", "device: expected 'auto', 'cpu' or 'cuda'"),
        ("members: 3,", "members: 3, model: nothing,", "the name of a model or the path"),
        ("members: 3,", "members: 3, factor: 8,", "a model of one factor"),
        (
            "members: 3,",
            "members: 3, temporal: coherent, timescales: [1h],",
            "durations, one per level",
        ),
        ("members: 3,", "members: 3, tile: {north: 64},", "tile.*dims of the maps"),
        ("{members: 2}", "{members: 2, seed: -1}", "diagnose.seed: expected an integer >= 0"),
        ("[bilinear]}", "[bilinear], groupby: time.saeson}", "Did you mean 'time.season'"),
        ("[bilinear]}", "[bilinear], groupby: [pr]}", "groupby: expected 12 values along 'time'"),
    ],
)
def test_mistakes_of_later_steps_are_refused_before_the_training(
    folder: Path, old: str, new: str, words: str
) -> None:
    edit(folder, old, new)
    settings = folder / "config.yaml"
    for refused in (pipeline.check, partial(pipeline.run, progress=False)):
        with pytest.raises(xcvae.errors.XcvaeError, match=words):
            refused(config.load(settings))
    assert not list((folder / "out").glob("*"))


def test_check_refuses_folders_of_others_in_the_places_of_copies(folder: Path) -> None:
    (folder / "out" / "data" / "train.zarr").mkdir(parents=True)
    with pytest.raises(xcvae.errors.OutputExistsError, match="no run has recorded"):
        pipeline.check(config.load(folder / "config.yaml"))


def test_check_reads_the_training_data_if_an_ensemble_has_the_name_of_a_part(
    folder: Path, rain: xr.Dataset
) -> None:
    first = int(np.flatnonzero(rain.split == 0)[0])
    bad = rain.copy(deep=True)
    bad["pr"][first, 0, 0] = -5.0
    shutil.rmtree(folder / "rain.zarr")
    bad.to_zarr(folder / "rain.zarr", consolidated=False)
    edit(folder, "{name: prior, ", "{name: train, samples: {split: 2}, ")
    edit(folder, "criteria: {prior: {ks: [null, 0.9], mass_bias: null}}\n", "")
    for refused in (pipeline.check, partial(pipeline.run, progress=False)):
        with pytest.raises(xcvae.errors.DataError, match="rain of zero"):
            refused(config.load(folder / "config.yaml"))


def test_samples_without_labels_are_not_taken_for_each_other(
    folder: Path, rain: xr.Dataset
) -> None:
    bare = rain.drop_vars("time")
    bare.to_zarr(folder / "rain.zarr", mode="w", consolidated=False)
    assert "trained on" not in pipeline.check(config.load(folder / "config.yaml"))


class KilledError(BaseException):
    """Nothing catches it, as SIGKILL."""


@pytest.mark.parametrize("replaced", [False, True])
def test_copies_of_data_are_completed_wherever_a_run_was_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, replaced: bool
) -> None:
    """Files that a killed run had written were refused as those that no run has recorded."""
    settings = config.load(folder / "config.yaml")
    whole = steps.PipelineState(settings, overwrite=False, progress=False)
    whole.list_data()
    copy, killed = folder / "out" / "data" / "train.zarr", 0
    expected = xr.open_zarr(copy).load()
    for last in range(20):
        shutil.rmtree(folder / "out" / "data")
        whole.manifest = Manifest(folder / "out")
        (folder / "out" / "made-from.json").unlink()
        if replaced:
            whole.list_data()
            whole.manifest.record("data train", {"data": "other"})
        with monkeypatch.context() as patched:
            left = [last]
            for owner, name in ((Path, "rename"), (Manifest, "record"), (steps, "remove")):
                patched.setattr(owner, name, killed_before(getattr(owner, name), left))
            try:
                whole.list_data()
            except KilledError:
                killed += 1
        whole.list_data()
        xr.testing.assert_identical(xr.open_zarr(copy).load(), expected)
        assert not list(copy.parent.glob(".*"))
        if left[0] >= 0:
            break
    assert killed > 3


def test_a_copy_of_data_stays_if_the_new_one_cannot_be_written(folder: Path) -> None:
    """It was removed first, and the catalog listed what was no longer there."""
    settings = config.load(folder / "config.yaml")
    state = steps.PipelineState(settings, overwrite=False, progress=False)
    state.list_data()
    copy = folder / "out" / "data" / "train.zarr"
    expected = xr.open_zarr(copy).load()
    state.manifest.record("data train", {"data": "other"})
    ds = state.parts.train.assign_coords(
        none=("time", np.array([object()] * expected.sizes["time"]))
    )
    with pytest.raises(xcvae.errors.DataError, match="none"):
        state._copy("data train", ds, copy)
    xr.testing.assert_identical(xr.open_zarr(copy).load(), expected)
    assert not list(copy.parent.glob(".train.zarr.old*"))
    state.list_data()


def killed_before(function: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """Let a number of calls of several functions pass; then all of them do nothing but raise."""

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("name", ["prior.zarr", "data/test.zarr"])
def test_folders_of_others_are_refused_before_the_training(folder: Path, name: str) -> None:
    mine = folder / "out" / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    with pytest.raises(xcvae.errors.OutputExistsError, match="no run has recorded"):
        pipeline.run(config.load(folder / "config.yaml"), progress=False)
    assert [path for path in (folder / "out").rglob("*") if path.is_file()] == [mine]


AREAS = """
data:
  path: "rain*.nc"
  rename: {cell_area: surface}
  train: {time: {stop: 2001-06-08}}
  test: {time: {start: 2001-06-09}}
output: out
train:
  target: pr
  conditions: [psl]
  validation: 0
  generator: {channels: [8, 8], latents: [2, 1]}
  fit: {max_steps: 2, batch_size: 2, crop: 16, validations: 1}
sample:
  - {name: prior, members: 2}
evaluate: {metrics: [mae], groupby: [region, half]}
"""


def test_scores_of_a_run_are_those_of_evaluate_by_areas_and_groups(tmp_path: Path) -> None:
    folder = tmp_path / "run [1]"  # no pattern, unlike the name of the data
    folder.mkdir()
    rain = np.random.default_rng(0).gamma(0.5, 2, (12, 16, 16)).astype("float32")
    attrs = {"standard_name": "lwe_precipitation_rate", "cell_measures": "area: cell_area"}
    ds = xr.Dataset(
        {
            "pr": (("time", "y", "x"), rain, {"units": "mm h-1", **attrs}),
            "cell_area": (("y", "x"), np.arange(256.0).reshape(16, 16) ** 2, {"units": "m2"}),
            "region": (("y", "x"), np.arange(256).reshape(16, 16) // 128),
            "half": ("time", np.arange(12) % 2),
            "psl": ("time", np.arange(12) + 1000.0, {"units": "hPa"}),
        },
        {"time": np.arange("2001-06-01", "2001-06-13", dtype="datetime64[D]").astype("M8[ns]")},
    )
    for number, part in enumerate((ds.isel(time=slice(8)), ds.isel(time=slice(8, 12)))):
        part.to_netcdf(folder / f"rain{number}.nc")
    assert main(["init", str(folder), "--output", str(tmp_path / "proposed.yaml")]) == 0
    proposed = (tmp_path / "proposed.yaml").read_text(encoding="utf-8")
    assert "cell_area: areas of cells" in proposed
    assert "statics:" not in proposed
    wrong = AREAS.replace("[region, half]", "coarse_rain")
    (folder / "config.yaml").write_text(wrong, encoding="utf-8")
    with pytest.raises(xcvae.errors.MissingVariableError, match="coarse rain in the Dataset"):
        pipeline.run(config.load(folder / "config.yaml"), progress=False)
    (folder / "config.yaml").write_text(AREAS, encoding="utf-8")
    loaded = config.load(folder / "config.yaml")
    first, again = (steps.PipelineState(loaded, overwrite=False, progress=False) for _ in range(2))
    (section,) = loaded.sample
    first.train()
    ensemble = first.sample(section)
    card = first.evaluate(section).card
    options = {"metrics": ["mae"], "baselines": [], "progress": False}
    expected = xcvae.evaluate(ds.isel(time=slice(8, 12)), ensemble, **options)
    assert card.mae[0].item() == pytest.approx(expected.mae.item(), rel=1e-6)
    # The copy in the catalog has all that the scores of the run were computed from.
    first.list_data()
    entry = intake.open_catalog(first.catalog)["test"]
    assert list(entry.metadata["conditions"]) == ["psl"]
    copy = entry.read()
    groups = ["region", "half"]
    own = xcvae.evaluate(copy, ensemble, groupby=groups, **options)
    of_data = xcvae.evaluate(ds.isel(time=slice(8, 12)), ensemble, groupby=groups, **options)
    xr.testing.assert_equal(own.drop_attrs(), of_data.drop_attrs())
    table = folder / "out" / "report" / "prior-groups.csv"
    text, written = table.read_text(encoding="utf-8"), table.stat().st_mtime_ns
    assert text.startswith("score,units,region,half,xcvae,xcvae_low,xcvae_high,climatology")
    assert len(text.splitlines()) == 5
    again.evaluate(section)
    assert again.outcome == {"evaluate": "unchanged"}
    # Runs of earlier versions did not record the coordinates: nothing is made again.
    manifest, metadata = folder / "out" / "made-from.json", folder / "out/data/test.zarr/zarr.json"
    current, copied = json.loads(manifest.read_text(encoding="utf-8")), metadata.stat().st_mtime_ns
    earlier = {
        product: {key: value for key, value in inputs.items() if key != "coordinates"}
        for product, inputs in current.items()
    }
    assert earlier != current
    manifest.write_text(json.dumps(earlier), encoding="utf-8")
    again.list_data()
    again.evaluate(section)
    assert again.outcome == {"evaluate": "unchanged"}
    assert metadata.stat().st_mtime_ns == copied
    assert json.loads(manifest.read_text(encoding="utf-8")) == current
    assert table.stat().st_mtime_ns == written
    assert f"xcvae verify '{folder / 'out'}'" in pipeline.info(str(folder / "out"))


def test_run_scores_groups_again_if_their_coordinate_has_changed(tmp_path: Path) -> None:
    rain = np.random.default_rng(0).gamma(0.5, 2, (12, 16, 16)).astype("float32")
    ds = xr.Dataset(
        {
            "pr": (("time", "y", "x"), rain, {"units": "mm h-1"}),
            "psl": ("time", np.arange(12) + 1000.0, {"units": "hPa"}),
        },
        {"time": np.arange("2001-06-01", "2001-06-13", dtype="datetime64[D]").astype("M8[ns]")},
    )
    text = AREAS.replace("  rename: {cell_area: surface}\n", "").replace("[region, half]", "front")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    tables, copies = [], []
    for number, front in enumerate((["cold", "warm"] * 6, ["warm", "cold"] * 6)):
        (tmp_path / "rain0.nc").unlink(missing_ok=True)
        ds.assign_coords(front=("time", front)).to_netcdf(tmp_path / f"rain{number}.nc")
        loaded = config.load(tmp_path / "config.yaml")
        state = steps.PipelineState(loaded, overwrite=False, progress=False)
        (section,) = loaded.sample
        state.train()
        state.sample(section)
        state.list_data()
        state.evaluate(section)
        table = tmp_path / "out" / "report" / "prior-groups.csv"
        tables.append(table.read_text(encoding="utf-8").splitlines())
        copies.append(xr.open_zarr(tmp_path / "out/data/test.zarr").front.values.tolist())
    assert state.outcome == {"train": "unchanged", "prior": "unchanged", "evaluate": "made"}
    swapped = [tables[1][0], *(line.split(",", 3)[3] for line in tables[1][:0:-1])]
    assert swapped == [tables[0][0], *(line.split(",", 3)[3] for line in tables[0][1:])]
    assert copies == [["cold", "warm"] * 2, ["warm", "cold"] * 2]


def test_unknown_step_is_refused(folder: Path) -> None:
    with pytest.raises(xcvae.errors.ConfigError, match="Did you mean 'train'"):
        pipeline.run_step(config.load(folder / "config.yaml"), "trian")


def test_demo_runs_from_the_configuration_in_its_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder, "output: out", "output: .")
    edit(folder, "diagnose: {members: 2}", "diagnose: null")
    assert main(["demo", "--output", str(folder)]) == 0
    last = capsys.readouterr().out
    assert "criteria met" in last
    assert "Diagnosis" not in last
    assert f"Written to {folder}:" in last
    assert "What to type next:" in last
    assert "GB memory at most" in last


DEPTHS = """
data:
  path: rain.nc
  train: {time: {stop: "2001-06-01T10:00"}}
  test: {time: {start: "2001-06-01T10:30"}}
output: out
train:
  coarsen: 4
  validation: 0
  generator: {channels: [8, 8], latents: [2, 1]}
  fit: {max_steps: 2, batch_size: 2, crop: 16, validations: 1}
sample:
  - {name: prior, members: 2}
evaluate: {metrics: [wet_fraction], baselines: []}
diagnose: null
"""


def test_depths_of_a_run_last_as_long_as_their_bounds(tmp_path: Path) -> None:
    rain = np.random.default_rng(0).gamma(0.5, 0.02, (24, 16, 16)).astype("float32")
    start = np.arange(24) * np.timedelta64(30, "m") + np.datetime64("2001-06-01T00", "ns")
    bounds = np.stack([start, start + np.timedelta64(5, "m")], axis=-1)
    ds = xr.Dataset(
        {"tp": (("time", "y", "x"), rain, {"units": "mm"}), "edges": (("time", "nv"), bounds)},
        {"time": ("time", start, {"bounds": "edges"})},
    )
    ds["time"].encoding["units"] = "seconds since 1970-01-01"
    ds.to_netcdf(tmp_path / "rain.nc")
    (tmp_path / "config.yaml").write_text(DEPTHS, encoding="utf-8")
    loaded = config.load(tmp_path / "config.yaml")
    pipeline.check(loaded)
    pipeline.run(loaded, progress=False)
    entries = intake.open_catalog(tmp_path / "out" / "catalog.yaml")
    ensemble, copy = entries["prior"].read(), entries["test"].read()
    assert list(entries["test"].metadata["conditions"]) == ["tp_coarse"]
    np.testing.assert_array_equal(copy.edges, ds.edges[-len(copy.time) :])
    assert json.loads(ensemble.attrs["xcvae"])["spec"]["step_seconds"] == 300.0
    wet = float((copy.tp >= 0.1 / 12).mean())
    assert entries["test"].metadata["wet_share"] == pytest.approx(wet, abs=1e-5)
    card = xcvae.evaluate(copy, ensemble, metrics=["wet_fraction"], baselines=[], progress=False)
    assert card.wet_fraction.attrs["better"] == pytest.approx(wet)
    alone = xcvae.evaluate(copy, ensemble.drop_attrs(deep=False), metrics=["wet_fraction"],
                           baselines=[], progress=False)  # fmt: skip
    assert alone.wet_fraction.attrs["better"] == pytest.approx(wet)
    batches = xcvae.loader(tmp_path / "out" / "catalog.yaml", {"test": 1, "prior": 1}, real="test")
    for name, share in batches.shares().items():
        assert share["wet_share"] == entries[name].metadata["wet_share"]
